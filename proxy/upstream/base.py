"""What crosses the upstream edge: a request out, an answer in pieces back. Types only.

No library's type passes here (semantics 26). Every call to a receiver comes from the event loop, never from inside
`send`; after `on_end`, `on_lost` or `abort` no call comes any more. An edge never sends a request twice by itself,
follows no redirect, keeps no cookie and decodes no content encoding.
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.headers import REQUEST_ID, Headers


class Loss(Enum):
    """How an exchange ended without a whole answer."""

    REFUSED = "refused"
    """Nobody listens there: not sent, and the sessions of whoever did are gone (semantics 11)."""
    NOT_SENT = "not_sent"
    """No connection for any other reason (time-out, no route, our own limits): provably not sent, nothing more."""
    BROKEN = "broken"
    """The connection broke; bytes of the request may have been read."""


@mypyc_attr(native_class=False)
class UpstreamRequest(msgspec.Struct, gc=False):
    """One request to the upstream."""

    method: str
    headers: Headers
    body: bytes
    fresh: bool = False
    """On a connection of its own: for what must not meet a keep-alive race and for streams that last."""
    correlation_id: str = ""
    """Sent as X-Request-Id behind *headers*, which stay the same for many requests; "" where they have one."""
    path: str = ""
    """In the place of the path of the upstream's URL; "": that one."""

    @property
    def all_headers(self) -> Headers:
        """The headers with the correlation id."""
        return [*self.headers, (REQUEST_ID, self.correlation_id)] if self.correlation_id else self.headers


class Receiver(Protocol):
    """Who gets the answer.

    Who has a verb `on_whole(status, headers, body)` as well may be given a successful answer that came whole by that
    one, in the place of the three others: the exchange is over then.
    """

    def on_head(self, status: int, headers: Headers) -> None:
        """The status and the headers are there."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body, as it came."""

    def on_end(self, proven: bool) -> None:
        """The body ended; *proven* when its framing says it is whole, not when the peer merely closed."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """There is no more to come and the answer is not whole."""


class Exchange(Protocol):
    """One request under way."""

    def abort(self) -> None:
        """Cut it; the receiver hears nothing any more."""

    def pause(self) -> None:
        """Stop reading the body."""

    def resume(self) -> None:
        """Go on reading."""


class Edge(Protocol):
    """One upstream as seen from the relay."""

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Begin an exchange."""

    def reach(self, done: Callable[[bool], None]) -> None:
        """Find out whether a connection can be made, without a request."""

    async def close(self) -> None:
        """Cut everything and free the connections.

        Whoever waits for an answer is told that it is lost; a request that comes later is refused.
        """
