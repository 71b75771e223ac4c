"""A TCP relay that breaks connections on demand, to stand between a client and a server under test.

It runs in the test's own event loop and knows nothing of HTTP. Its port stays the same for its whole
life, so a client that was refused finds it again. Verbs: `cut`, `refuse` / `accept`, `pause` / `resume`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Self

CHUNK_BYTES = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: the close sends RST, and unsent bytes are dropped."""


class TcpRelay:
    """Forward bytes between clients of `port` and one target, until told to stop."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.port = 0
        """Where clients connect; known once the relay is entered."""
        self.accepted = 0
        """Connections accepted since the start; refused ones do not count."""
        self.bytes_to_client = 0
        self.bytes_to_target = 0
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.refuse()
        links = list(self._links)
        self.cut()
        await asyncio.gather(*links, return_exceptions=True)

    @property
    def connections(self) -> int:
        """Connections open through the relay right now."""
        return len(self._links)

    def cut(self, *, reset: bool = True) -> None:
        """Break every open connection on both sides, with RST or else FIN; new ones are served.

        Bytes read but not yet forwarded are lost: a cut may fall anywhere in a message.
        """
        for task, writers in self._links.items():
            _break(writers, reset=reset)
            task.cancel()

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Listen again on the same port; does nothing while listening."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def pause(self) -> None:
        """Forward nothing in either direction: to both sides the other is silent, not gone.

        Connections are still accepted, and an end of stream waits as bytes do.
        """
        self._flowing.clear()

    def resume(self) -> None:
        """Forward what waited, then go on."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection both ways until both ends are done or it is cut."""
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task] = [writer]
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            writers.append(target_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, target_writer, to_client=False))
                pumps.create_task(self._pump(target_reader, writer, to_client=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            # One side broke off: the other must see a break too, never a clean end.
            _break(writers, reset=True)
        finally:
            del self._links[task]
            for each in writers:
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_client: bool) -> None:
        """Copy one direction, and its end of stream."""
        while data := await reader.read(CHUNK_BYTES):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
            if to_client:
                self.bytes_to_client += len(data)
            else:
                self.bytes_to_target += len(data)
        await self._flowing.wait()
        if writer.can_write_eof():
            writer.write_eof()


def _break(writers: list[asyncio.StreamWriter], *, reset: bool) -> None:
    """Drop connections without flushing; what is already closing is left alone."""
    for writer in writers:
        if writer.transport.is_closing():
            continue
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
