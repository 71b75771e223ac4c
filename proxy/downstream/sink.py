"""The answer to one request on a connection at protocol level.

Owns how far the answer has come, and what of it has not left yet. Framing is its connection's, but for small pieces.
Invariant: once its answer is over or its client gone, whatever it is told goes nowhere, and never into a later answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.downstream.heads import CHUNK, COPIED_BYTES

if TYPE_CHECKING:
    from proxy.core.edge import Watcher
    from proxy.core.headers import Headers
    from proxy.core.ids import SessionId
    from proxy.downstream.connection import Connection

BURST_BYTES = 1_048_576
"""Bytes that may gather in one turn of the loop, before the first write could show whether the client takes them."""


class WireSink:
    """The answer to one request. Fulfils `core.edge.Sink`."""

    __slots__ = ("_connection", "_headers", "_parts", "_session_id", "_size", "_status", "_was_congested", "_watcher")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        """None once the answer is over or the client gone: whatever comes then goes nowhere."""
        self._watcher: Watcher | None = None
        self._status = 0
        self._parts: list[bytes] | None = None
        """What was written before the head left; None before an answer is started, and after its head has left."""
        self._size = 0
        self._was_congested = False

    # Set with `start` only, and so not by an answer that is whole.
    _headers: Headers
    _session_id: SessionId | None

    @property
    def congested(self) -> bool:
        """Tell whether the client does not keep up."""
        connection = self._connection
        if connection is not None and (connection.is_paused or self._size >= BURST_BYTES):
            self._was_congested = True
            return True
        return False

    def watch(self, watcher: Watcher | None) -> None:
        """Name the one watcher."""
        self._watcher = watcher

    def answer(self, status: int, headers: Headers, body: bytes, session_id: SessionId | None = None) -> None:
        """Send one whole answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.answer(status, headers, body, session_id)

    def start(self, status: int, headers: Headers, session_id: SessionId | None = None) -> None:
        """Begin an answer in pieces; its head leaves with the first pieces, at the end of this turn."""
        if self._connection is not None:
            self._status = status
            self._headers = headers
            self._session_id = session_id
            self._parts = []
            self._connection.soon(self._open)

    def write(self, data: bytes) -> None:
        """Send body bytes."""
        if self._parts is not None:
            self._parts.append(data)
            self._size += len(data)
        elif self._connection is not None:
            self._connection.write(data)

    def offer(self, data: bytes) -> bool:
        """Send body bytes unless the client does not keep up: `congested` and `write` in one step."""
        connection = self._connection
        if connection is not None:
            if connection.is_paused or self._size >= BURST_BYTES:
                self._was_congested = True
                return False
            parts, transport = self._parts, connection.transport
            if parts is not None:
                parts.append(data)
                self._size += len(data)
            elif transport is not None and len(data) < COPIED_BYTES:
                # As `Connection.write`: every event comes this way, and a call is a thirtieth of what one takes.
                transport.write(CHUNK % (len(data), data))
            else:
                connection.write(data)
        return True

    def finish(self) -> None:
        """End the body as complete."""
        connection, self._connection = self._connection, None
        parts, self._parts = self._parts, None
        if connection is None:
            return
        if parts is not None:
            connection.answer(self._status, self._headers, b"".join(parts), self._session_id)
        else:
            connection.end()

    def abort(self) -> None:
        """Cut the connection without a last chunk."""
        connection, self._connection = self._connection, None
        self._parts = None
        if connection is not None:
            connection.abort()

    def _open(self) -> None:
        parts, self._parts = self._parts, None
        if self._connection is None or parts is None:
            return
        self._connection.open(self._status, self._headers, self._session_id, b"".join(parts))
        self._headers = []
        self._size = 0
        if self._was_congested and not self._connection.is_paused:
            self.drained()

    def fail(self) -> None:
        """End an answer whose handler raised."""
        if self._status:
            self.abort()
        else:
            # The library's own words, so that it cannot be told which of the two served a request.
            text = b"500 Internal Server Error\n\nServer got itself in trouble"
            self.answer(500, [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")], text)

    def drained(self) -> None:
        """The client reads again."""
        if self._was_congested:
            self._was_congested = False
            if self._watcher is not None:
                self._watcher.sink_drained()

    def client_gone(self) -> None:
        """The connection is lost."""
        self._connection = None
        self._parts = None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.sink_closed()
