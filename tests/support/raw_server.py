"""An HTTP upstream that writes exact bytes, in this process, and a bench that holds an edge against it.

Knows HTTP as far as reading a request goes; what it answers is what a script says, right or wrong. The bench holds the
contract of `proxy/upstream/base.py`: who breaks it in any scenario fails the test, whatever the test itself looks at.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from proxy.config import Upstream
from proxy.core.headers import Headers
from proxy.upstream.base import Edge, Exchange, Loss, UpstreamRequest
from support.raw import RESET_ON_CLOSE
from support.waiting import until

DEADLINE_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 0.5
KEEPALIVE_SECONDS = 60.0
"""Longer than any deadline here: what ends sooner ends for another reason."""
TURNS = 4
"""Turns of the loop in which everything that is due on loopback happens: the kernel delivers at once."""


@dataclass
class Received:
    """One request as it arrived."""

    connection: int
    method: str
    target: str
    headers: Headers
    body: bytes

    def get(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Peer:
    """The server's end of one connection."""

    def __init__(self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = server.connections
        self._server = server
        self.reader = reader
        self.writer = writer

    async def request(self) -> Received | None:
        """Read one request whole; None when the client ends the connection instead."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].decode("utf-8", "surrogateescape").split("\r\n")
            pairs = [tuple(line.split(": ", 1)) for line in lines]
            received = Received(self.number, *first.split(" ")[:2], pairs, b"")  # type: ignore[arg-type]
            if lengths := received.get("Content-Length"):
                received.body = await self.reader.readexactly(int(lengths[0]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self._server.requests.append(received)
        return received

    async def send(self, *pieces: bytes) -> None:
        """Write pieces, each in a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await turns()

    def close(self) -> None:
        """End with FIN."""
        self.writer.close()

    def reset(self) -> None:
        """End with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Read on until the client has ended the connection."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """Listens on loopback; every connection is played by the script."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.connections = 0
        """How many were accepted."""
        self.open: set[Peer] = set()
        """Those that the client has not ended."""
        self.requests: list[Received] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20, backlog=512, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await turns()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/mcp"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = Peer(self, reader, writer)
        self.open.add(peer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(peer)
            await peer.gone()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(peer)
            self._tasks.discard(task)
            writer.transport.abort()


def answering(*answers: bytes) -> Script:
    """Return a script that answers request after request, on whatever connection it comes."""
    left = list(answers)

    async def script(peer: Peer) -> None:
        while left and await peer.request() is not None:
            await peer.send(left.pop(0))

    return script


def playing(*pieces: bytes, end: str = "stay") -> Script:
    """Return a script that answers the first request in pieces and then stays, closes (FIN) or resets (RST)."""

    async def script(peer: Peer) -> None:
        if await peer.request() is not None:
            await peer.send(*pieces)
            if end != "stay":
                {"close": peer.close, "reset": peer.reset}[end]()

    return script


def ok(body: bytes = b"{}", *lines: str, status: str = "200 OK") -> bytes:
    """Write a whole answer with its length."""
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """Write one chunk; an empty one is the last."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunked(*parts: bytes) -> bytes:
    """Write a whole answer in chunks."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(chunk(part) for part in (*parts, b""))


@dataclass
class Heard:
    """What a receiver was told, and whether it should have been. Fulfils `upstream.base.Receiver`."""

    on_head_do: Callable[[], None] | None = None
    on_data_do: Callable[[], None] | None = None
    on_end_do: Callable[[], None] | None = None
    status: int | None = None
    headers: Headers = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    proven: bool | None = None
    loss: Loss | None = None
    detail: str = ""
    is_sending: bool = False
    """Inside `send`, where nothing may be told."""
    is_aborted: bool = False
    violations: list[str] = field(default_factory=list)
    _end: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Tell whether the end was told."""
        return self.proven is not None or self.loss is not None

    @property
    def body(self) -> bytes:
        """All of the body so far."""
        return b"".join(self.pieces)

    @property
    def outcome(self) -> tuple[int | None, bytes, bool | Loss | None]:
        """Status, body and end in one."""
        return self.status, self.body, self.proven if self.loss is None else self.loss

    def get(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def _told(self, verb: str, *, has_head: bool | None) -> None:
        for fault, is_fault in (
            ("after the end", self.is_over),
            ("after abort", self.is_aborted),
            ("inside send", self.is_sending),
            ("head missing or doubled", has_head is not None and has_head != (self.status is not None)),
        ):
            if is_fault:
                self.violations.append(f"{verb} {fault}")

    def on_head(self, status: int, headers: Headers) -> None:
        """Note it."""
        self._told("on_head", has_head=False)
        self.status, self.headers = status, headers
        if self.on_head_do is not None:
            self.on_head_do()

    def on_data(self, data: bytes) -> None:
        """Note it."""
        self._told("on_data", has_head=True)
        if not data:
            self.violations.append("on_data without data")
        self.pieces.append(data)
        if self.on_data_do is not None:
            self.on_data_do()

    def on_end(self, proven: bool) -> None:
        """Note it."""
        self._told("on_end", has_head=True)
        self.proven = proven
        self._end.set()
        if self.on_end_do is not None:
            self.on_end_do()

    def on_lost(self, loss: Loss, detail: str) -> None:
        """Note it."""
        self._told("on_lost", has_head=None)
        self.loss, self.detail = loss, detail
        self._end.set()

    async def over(self) -> "Heard":
        """Wait for the end."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._end.wait()
        return self


class Bench:
    """One edge in front of one server. What is told against the contract fails at the end."""

    def __init__(
        self,
        make: Callable[[Upstream], Edge],
        script: Script,
        *,
        is_tls: bool = False,
        host: str = "",
        tls: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> None:
        self._make = make
        self._settings = {
            "connect_timeout_seconds": CONNECT_TIMEOUT_SECONDS,
            "keepalive_seconds": KEEPALIVE_SECONDS,
            **settings,
        }
        self._is_tls = is_tls
        self._host = host
        self.server = RawServer(script, tls)
        self._heard: list[Heard] = []
        self.defects: list[dict[str, Any]] = []
        """What the loop's exception handler was given; a test that means it to be takes it out."""

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.defects.append(context))
        await self.server.__aenter__()
        # `is_tls` alone: the edge is told so, and the server knows nothing of it.
        url = self.server.url.replace("http:", "https:") if self._is_tls else self.server.url
        if self._host:
            url = url.replace("127.0.0.1", self._host)
        self.edge = self._make(Upstream(**{"url": url, **self._settings}))
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.edge.close()
        await turns()
        try:
            # The server sees every connection end: nothing of the edge stays open behind `close`.
            await until(lambda: not self.server.open, "the end of the edge's connections")
        finally:
            await self.server.__aexit__()
        assert [heard.violations for heard in self._heard if heard.violations] == []
        if kind is None:
            assert self.defects == []
            assert asyncio.all_tasks() == {asyncio.current_task()}

    def send(
        self,
        heard: Heard | None = None,
        *,
        method: str = "POST",
        body: bytes = b"{}",
        headers: Headers | None = None,
        fresh: bool = False,
    ) -> tuple[Heard, Exchange]:
        """Begin an exchange."""
        heard = Heard() if heard is None else heard
        self._heard.append(heard)
        heard.is_sending = True
        exchange = self.edge.send(UpstreamRequest(method, headers or [], body, fresh), heard)
        heard.is_sending = False
        return heard, exchange

    def abort(self, heard: Heard, exchange: Exchange) -> None:
        """Cut an exchange, from outside or from inside of what its receiver is told."""
        exchange.abort()
        heard.is_aborted = True

    async def ask(self, **request: Any) -> Heard:
        """Make an exchange and wait for its end."""
        heard, _ = self.send(**request)
        return await heard.over()

    async def reach(self) -> bool:
        """Ask whether a connection can be made."""
        told: list[bool] = []
        self.edge.reach(told.append)
        assert told == [], "told from inside reach"
        await until(lambda: bool(told), "the outcome of reach")
        assert len(told) == 1
        return told[0]


async def turns(count: int = TURNS) -> None:
    """Let the loop turn, so that what is due happens."""
    for _ in range(count):
        await asyncio.sleep(0)


def unused_port() -> int:
    """Return a loopback port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
