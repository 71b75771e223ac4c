"""How a server of this process makes way for another process's that accepts from the same socket.

Owns what ends a connection at an answer instead of between two. Knows no session. Invariants: the shared socket is
never shut down, only this copy of it closed; every connection that was accepted is served.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from proxy.core.edge import Request, Sink, Watcher
from proxy.core.headers import Headers
from proxy.core.ids import SessionId

_CLOSE = ("Connection", "close")


class Leaving:
    """What a server has for it. Whoever inherits gives the attributes their values."""

    handle: Callable[[Request, Sink], None]
    """Takes the requests."""
    is_closing: bool
    """Whether an answer that is finished now is the last on its connection."""
    _loop: asyncio.AbstractEventLoop
    _server: asyncio.Server | None

    def stop_accepting(self) -> None:
        """Close this copy of the listening socket; connections stay, and its other holders go on accepting."""
        if self._server is not None:
            self._server.close()

    async def release(self) -> None:
        """As `stop_accepting`, without losing a connection that was just accepted.

        What asyncio's loop accepts becomes a connection in the turn after; when its server is closed by then, it is
        dropped in silence. So nothing is accepted for a turn before.
        """
        if self._server is not None:
            for sock in self._server.sockets:
                self._loop.remove_reader(sock.fileno())
            await asyncio.sleep(0)
        self.stop_accepting()

    def part(self) -> None:
        """From the next request on, end connections whose clients need nothing of this process any more.

        Those of requests that belong to no session, which any process can serve, and of a session's DELETE. No others:
        the next request of their session would reach a process that does not know it.
        """
        handle = self.handle

        def parted(request: Request, sink: Sink) -> None:
            head = request.head
            handle(request, _Last(sink) if head.is_modern or head.method == "DELETE" else sink)

        self.handle = parted

    @contextlib.contextmanager
    def closing_behind(self) -> Iterator[None]:
        """Let an answer that is finished inside take its connection along."""
        was_closing, self.is_closing = self.is_closing, True
        try:
            yield
        finally:
            self.is_closing = was_closing


class _Last:
    """The last answer on its connection. Fulfils `core.edge.Sink`."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @property
    def congested(self) -> bool:
        """Tell whether the client does not keep up."""
        return self._sink.congested

    def watch(self, watcher: Watcher | None) -> None:
        """Name the one watcher."""
        self._sink.watch(watcher)

    def answer(self, status: int, headers: Headers, body: bytes, session_id: SessionId | None = None) -> None:
        """Send one whole answer."""
        self._sink.answer(status, [*headers, _CLOSE], body, session_id)

    def start(self, status: int, headers: Headers, session_id: SessionId | None = None) -> None:
        """Begin the answer."""
        self._sink.start(status, [*headers, _CLOSE], session_id)

    def write(self, data: bytes) -> None:
        """Send body bytes."""
        self._sink.write(data)

    def offer(self, data: bytes) -> bool:
        """Send body bytes unless the client does not keep up."""
        return self._sink.offer(data)

    def finish(self) -> None:
        """End the body as complete."""
        self._sink.finish()

    def abort(self) -> None:
        """Cut the connection."""
        self._sink.abort()
