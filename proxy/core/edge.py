"""What crosses the downstream edge: a whole request in, a sink to answer through.

Owns the two types that the HTTP server side and the session side share. No library's type passes here, so the
server may be aiohttp or a protocol of our own and nothing behind it notices (semantics 26).
"""

from typing import Protocol

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.head import Head
from proxy.core.headers import Headers
from proxy.core.ids import SessionId


@mypyc_attr(native_class=False)
class Request(msgspec.Struct, gc=False):
    """One HTTP request, read whole."""

    head: Head
    body: bytes

    @property
    def headers(self) -> Headers:
        """The headers of its head."""
        return self.head.headers


class Watcher(Protocol):
    """Who is told what happens to a sink. Calls come from the event loop, never from inside a sink's own verbs."""

    def sink_closed(self) -> None:
        """The client is gone and nothing written from now on arrives; told once, and not after finish or abort."""

    def sink_drained(self) -> None:
        """The sink was congested and takes bytes again."""


class Sink(Protocol):
    """The answer to one request. Verbs never block and never raise; after the client has gone they do nothing."""

    @property
    def congested(self) -> bool:
        """Tell whether more than a high-water mark of bytes waits for the client to read."""

    def watch(self, watcher: Watcher | None) -> None:
        """Name the one watcher; the last one named counts."""

    def answer(self, status: int, headers: Headers, body: bytes, session_id: SessionId | None = None) -> None:
        """Send one whole answer; nothing was started before.

        Args:
            status: of HTTP.
            headers: without framing; the same block for as many answers as possible.
            body: the whole of it.
            session_id: sent as a header behind the others, apart from them because it differs where they do not.
        """

    def start(self, status: int, headers: Headers, session_id: SessionId | None = None) -> None:
        """Begin an answer in pieces. One that is finished in the same turn goes out whole, with its length."""

    def write(self, data: bytes) -> None:
        """Send body bytes."""

    def offer(self, data: bytes) -> bool:
        """Send body bytes unless the sink is congested; tell whether they were sent, or went nowhere."""

    def finish(self) -> None:
        """End the body as complete."""

    def abort(self) -> None:
        """Cut the connection without a last chunk: what was sent is not to be taken for complete."""
