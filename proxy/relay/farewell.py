"""A DELETE to the upstream: said once, in a bounded time, and nothing depends on the answer.

Owns one exchange. Knows no session: it is used when there is none any more.
"""

from __future__ import annotations

from proxy.clock import Clock, Timer
from proxy.core.headers import Headers
from proxy.upstream.base import Edge, Exchange, Loss, UpstreamRequest

PATIENCE_SECONDS = 5.0


class Farewell:
    """One DELETE under way. Fulfils `upstream.base.Receiver`."""

    __slots__ = ("_clock", "_edge", "_exchange", "_owner", "_timer")

    def __init__(self, edge: Edge, clock: Clock, owner: set[Farewell]) -> None:
        self._edge = edge
        self._clock = clock
        self._owner = owner
        self._exchange: Exchange | None = None
        self._timer: Timer | None = None

    def begin(self, request: UpstreamRequest) -> None:
        """Say it."""
        self._owner.add(self)
        self._timer = self._clock.call_later(PATIENCE_SECONDS, self._give_up)
        self._exchange = self._edge.send(request, self)

    def on_head(self, status: int, headers: Headers) -> None:
        """Nothing depends on it."""

    def on_data(self, data: bytes) -> None:
        """Nothing depends on it."""

    def on_end(self, proven: bool) -> None:
        """It was heard."""
        self._over()

    def on_lost(self, loss: Loss, detail: str) -> None:
        """It was not heard; an upstream ends its idle sessions itself."""
        self._over()

    def _give_up(self) -> None:
        if self._exchange is not None:
            self._exchange.abort()
        self._over()

    def _over(self) -> None:
        self._exchange = None
        if self._timer is not None:
            self._timer.cancel()
        self._owner.discard(self)
