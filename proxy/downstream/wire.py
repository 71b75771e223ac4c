"""The downstream edge at protocol level, in front of the library's.

Owns the listening socket, the connections that are served at protocol level, and what they share: deadlines, the date.
The library's server (`server.py`) stands behind it for every connection that is handed over. Invariant: which of the
two served a request cannot be told from outside.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import cast

from proxy.clock import Clock
from proxy.config import Listen
from proxy.downstream.connection import Connection
from proxy.downstream.heads import Heads, date_line
from proxy.downstream.leaving import Leaving
from proxy.downstream.server import Handle, HttpServer
from proxy.upstream.sockets import watch_peer
from proxy.wheel import Queue

IDLE_SECONDS = 3_630.0
"""How long an answered connection is kept, as by the library: one that is closed just as a client sends its POST
kills some clients, so the client or its network is to be first."""
ERAS = 16
"""Looks at idle connections in that time."""


class WireServer(Leaving):
    """Serves one listening socket. Fulfils `connection.Server`."""

    def __init__(self, handle: Handle, config: Listen, peer_timeout_seconds: float, clock: Clock) -> None:
        self.handle = handle
        self.max_body_bytes = config.max_body_bytes
        self.due = Queue(clock, config.head_timeout_seconds)
        self.heads = Heads()
        self.era = 0
        self.is_closing = False
        self._config = config
        self._peer_timeout = peer_timeout_seconds
        self._behind = HttpServer(handle, config, peer_timeout_seconds)
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._emptied: asyncio.Event | None = None
        self._clock = clock
        self._now = clock.now
        self._date = b""
        self._date_ends = 0.0

    async def start(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        if sock.family != socket.AF_UNIX:
            # Accepted sockets have the options of the one that listens: a call per process, not per connection.
            watch_peer(sock, self._peer_timeout)
        self._clock.call_later(IDLE_SECONDS / ERAS, self._turn)
        self._server = await self._loop.create_server(
            lambda: cast("asyncio.Protocol", Connection(self)), sock=sock, backlog=self._config.backlog
        )

    def part(self) -> None:
        """As `Leaving`, whichever of the two serves a connection."""
        super().part()
        self._behind.part()

    @contextlib.contextmanager
    def closing_behind(self) -> Iterator[None]:
        """As `Leaving`, whichever of the two serves a connection."""
        with super().closing_behind(), self._behind.closing_behind():
            yield

    async def close(self, timeout_seconds: float) -> None:
        """End the connections: idle ones now, others once their answers are written, within the bound."""
        self.stop_accepting()
        self.is_closing = True
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.close()
        if self._connections:
            self._emptied = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_seconds)
        for connection in tuple(self._connections):
            connection.cut()
        if self._emptied is not None:
            await self._emptied.wait()
        await self._behind.close(timeout_seconds)
        self.due.close()

    def _turn(self) -> None:
        """Close what has been idle for long: looked at rarely, so that a request costs no timer."""
        if self.is_closing:
            return
        self.era += 1
        for connection in tuple(self._connections):
            if connection.is_idle and self.era - connection.era > ERAS:
                connection.close()
        self._clock.call_later(IDLE_SECONDS / ERAS, self._turn)

    # -- for connections

    def opened(self, connection: Connection) -> None:
        """Hold a new connection."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Let a connection go."""
        self._connections.discard(connection)
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, is_followed: bool) -> None:
        """Let the library serve a connection, from the bytes it has not been answered for."""
        self._behind.adopt(transport, data, is_followed=is_followed)

    def failed(self, error: Exception) -> None:
        """Report a defect of our own to the loop's handler, which logs it."""
        self._loop.call_exception_handler({"message": "request failed", "exception": error})

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back in the loop's next turn."""
        self._loop.call_soon(callback)

    def date(self) -> bytes:
        """Return the `Date` line, at most a second old."""
        now = self._now()
        if now >= self._date_ends:
            self._date = date_line()
            self._date_ends = now + 1.0
        return self._date
