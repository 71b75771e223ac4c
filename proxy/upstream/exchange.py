"""What stands on both sides of a connection to the upstream: the exchange that it serves, and the edge that it tells.

Owns an exchange's end: it has one. Knows no framing. Invariant: after its end or its abort a receiver hears nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.upstream.answers import KnownHeads
    from proxy.upstream.base import Loss, Receiver
    from proxy.upstream.connection import Connection


class Connections(Protocol):
    """Whom a connection tells, and what the connections of one upstream share."""

    heads: KnownHeads

    def opened(self, connection: Connection) -> None:
        """It is there."""

    def rest(self, connection: Connection) -> None:
        """Its answer is whole and it can take another request."""

    def closed(self, connection: Connection) -> None:
        """It is gone."""

    def report(self, context: dict[str, object]) -> None:
        """A receiver raised."""


class WireExchange:
    """One request under way. Fulfils `upstream.base.Exchange`."""

    __slots__ = ("connection", "is_over", "is_paused", "receiver")

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.connection: Connection | None = None
        self.is_over = False
        self.is_paused = False

    def abort(self) -> None:
        """Cut it; the receiver hears nothing any more."""
        self.is_over = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.drop()

    def pause(self) -> None:
        """Stop reading the body."""
        if not self.is_paused and self.connection is not None:
            self.is_paused = True
            self.connection.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self.is_paused and self.connection is not None:
            self.is_paused = False
            self.connection.resume()

    def lost(self, loss: Loss, detail: str) -> None:
        """End without a whole answer."""
        if not self.is_over:
            self.is_over = True
            self.connection = None
            self.receiver.on_lost(loss, detail)
