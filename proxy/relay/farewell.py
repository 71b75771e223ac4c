"""A DELETE to the upstream: said once, in a bounded time, and nothing depends on the answer.

Owns one exchange. Knows no session: it is used when there is none any more.
"""

from __future__ import annotations

from proxy.core.headers import Headers
from proxy.upstream.base import Edge, Exchange, Loss, UpstreamRequest
from proxy.wheel import Queue

PATIENCE_SECONDS = 5.0


class Farewell:
    """One DELETE under way. Fulfils `upstream.base.Receiver` and `wheel.Due`."""

    __slots__ = ("_edge", "_exchange", "_under_way")

    def __init__(self, edge: Edge, under_way: Queue) -> None:
        self._edge = edge
        self._under_way = under_way
        self._exchange: Exchange | None = None

    def begin(self, request: UpstreamRequest) -> None:
        """Say it."""
        self._under_way.add(self)
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

    def due(self) -> None:
        """Give up: nobody is heard for ever."""
        if self._exchange is not None:
            self._exchange.abort()
        self._over()

    def _over(self) -> None:
        self._exchange = None
        self._under_way.discard(self)
