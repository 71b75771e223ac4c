"""A raw HTTP/1.1 client: exact bytes out, and every detail of what comes back, with deadlines.

It owns one TCP connection, or a session's worth of single-use ones (`RawSession`). It repairs nothing: a
missing last chunk, a cut inside a frame or a doubled header is told as it was. Knows the frame grammar of
event streams as far as the product writes it (LF line ends), and nothing else of the product.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

DEADLINE_SECONDS = 10.0
LIMIT_BYTES = 64 * 2**20
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
ACCEPT_BOTH = "application/json, text/event-stream"
VERSION = "2025-11-25"

Pairs = Sequence[tuple[str, str]]


class Cut(Exception):  # noqa: N818
    """The connection ended before the message did."""


@dataclass
class Head:
    """Status line and headers of one answer."""

    status: int
    version: str
    headers: list[tuple[str, str]]

    def get(self, name: str) -> str | None:
        """Return the only value of a header; a doubled one is a failure of the test."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, (name, found)
        return found[0] if found else None


@dataclass
class Frame:
    """One block of an event stream."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: int | None = None

    @property
    def json(self) -> Any:
        """The data as JSON."""
        assert self.data is not None
        return json.loads(self.data)


@dataclass
class Answer:
    """One whole answer."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.head.status

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Stream:
    """What an event stream brought until its end."""

    frames: list[Frame] = field(default_factory=list)
    is_clean: bool = False
    """Whether the body ended as HTTP demands."""

    @property
    def messages(self) -> list[Frame]:
        """The frames with data."""
        return [frame for frame in self.frames if frame.data]


class RawConnection:
    """One TCP connection to a server."""

    def __init__(self, url: str, *, receive_buffer_bytes: int | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path
        self._receive_buffer_bytes = receive_buffer_bytes
        self._chunk_left: int | None = None
        self._is_chunked = False
        self._length_left: int | None = None
        self._is_over = False
        self._text = b""
        self.comments = 0
        """Comment lines seen on the event stream."""

    async def __aenter__(self) -> Self:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if self._receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        except BaseException:
            sock.close()
            raise
        limit = self._receive_buffer_bytes or LIMIT_BYTES
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    # --- out

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        self.writer.write(data)
        await self.writer.drain()

    def head(self, method: str, headers: Pairs = (), body: bytes | None = None, version: str = "1.1") -> bytes:
        """Compose a request; Host and Content-Length are added unless they are given."""
        names = {name.lower() for name, _ in headers}
        lines = [f"{method} {self.path} HTTP/{version}"]
        if "host" not in names:
            lines.append(f"Host: {self.host}:{self.port}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")

    async def request(self, method: str, headers: Pairs = (), body: bytes | None = None) -> None:
        """Send one request."""
        await self.send(self.head(method, headers, body))

    def cut(self, *, reset: bool = True) -> None:
        """Break the connection, with RST or else FIN."""
        if reset:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.writer.transport.abort()
        else:
            self.writer.close()

    # --- in

    async def read_head(self, timeout_seconds: float = DEADLINE_SECONDS) -> Head:
        """Read status line and headers.

        Raises:
            Cut: the connection ended instead.
            TimeoutError: nothing came in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                text = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut(repr(error)) from error
        first, *lines = text[:-4].decode("latin-1").split("\r\n")
        version, status, *_ = first.split(" ")
        pairs = []
        for line in lines:
            name, _, value = line.partition(":")
            pairs.append((name, value.strip()))
        head = Head(int(status), version, pairs)
        length = head.get("Content-Length")
        self._is_chunked = head.get("Transfer-Encoding") == "chunked"
        self._chunk_left = None
        self._length_left = int(length) if length is not None else None
        # 1xx, 204 and 304 have no body whatever their headers say (RFC 9110, 6.4.1).
        self._is_over = head.status < 200 or head.status in (204, 304) or self._length_left == 0
        self._text = b""
        return head

    async def _read_some(self) -> bytes:
        """Read a piece of the body; empty at its proper end."""
        if self._is_over:
            return b""
        try:
            if self._is_chunked:
                return await self._read_chunk_part()
            if self._length_left is not None:
                data = await self.reader.read(min(65_536, self._length_left))
                if not data:
                    raise Cut(f"{self._length_left} bytes missing")
                self._length_left -= len(data)
                self._is_over = self._length_left == 0
                return data
            data = await self.reader.read(65_536)
            self._is_over = not data
            return data
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut(repr(error)) from error

    async def _read_chunk_part(self) -> bytes:
        if self._chunk_left is None:
            size = await self.reader.readuntil(b"\r\n")
            self._chunk_left = int(size.split(b";")[0], 16)
            if self._chunk_left == 0:
                await self.reader.readexactly(2)
                self._is_over = True
                return b""
        data = await self.reader.read(min(65_536, self._chunk_left))
        if not data:
            raise Cut("inside a chunk")
        self._chunk_left -= len(data)
        if self._chunk_left == 0:
            await self.reader.readexactly(2)
            self._chunk_left = None
        return data

    async def read_body(self, timeout_seconds: float = DEADLINE_SECONDS) -> bytes:
        """Read the body to its proper end."""
        pieces = []
        async with asyncio.timeout(timeout_seconds):
            while data := await self._read_some():
                pieces.append(data)
        return b"".join(pieces)

    async def answer(self, timeout_seconds: float = DEADLINE_SECONDS) -> Answer:
        """Read one whole answer."""
        head = await self.read_head(timeout_seconds)
        return Answer(head, await self.read_body(timeout_seconds))

    async def frame(self, timeout_seconds: float = DEADLINE_SECONDS) -> Frame | None:
        """Read the next frame that says anything; None at the proper end of the stream.

        Raises:
            Cut: the connection ended inside the body, or the body inside a frame.
            TimeoutError: no frame came in time.
        """
        async with asyncio.timeout(timeout_seconds):
            while True:
                block, mark, rest = self._text.partition(b"\n\n")
                if mark:
                    self._text = rest
                    frame = self._parse(block.decode())
                    if frame != Frame():
                        return frame
                    continue
                data = await self._read_some()
                if not data:
                    # Opening lines and heartbeats are whole without a blank line; a field is not.
                    left = self._parse(self._text.decode())
                    if left.id or left.data or left.event:
                        raise Cut(f"inside a frame: {self._text[:200]!r}")
                    return None
                self._text += data

    def _parse(self, block: str) -> Frame:
        frame = Frame()
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "":
                self.comments += bool(line)
            elif name == "data":
                frame.data = value if frame.data is None else f"{frame.data}\n{value}"
            elif name == "id":
                frame.id = value
            elif name == "event":
                frame.event = value
            elif name == "retry":
                frame.retry = int(value)
        return frame

    async def message(self, timeout_seconds: float = DEADLINE_SECONDS) -> Frame:
        """Read the next frame with data."""
        while True:
            frame = await self.frame(timeout_seconds)
            if frame is None:
                raise Cut("the stream ended")
            if frame.data:
                return frame

    async def stream(self, timeout_seconds: float = DEADLINE_SECONDS) -> Stream:
        """Read an event stream to its end, whatever kind of end that is."""
        stream = Stream()
        async with asyncio.timeout(timeout_seconds):
            try:
                while (frame := await self.frame(timeout_seconds)) is not None:
                    stream.frames.append(frame)
            except Cut:
                return stream
        stream.is_clean = True
        return stream

    async def ended(self, timeout_seconds: float = DEADLINE_SECONDS) -> bool:
        """Wait for the server to close the connection; False when it sends something or does not in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@dataclass
class RawSession:
    """One MCP session; every request goes out on a connection of its own."""

    url: str
    id: str | None
    version: str = VERSION
    next_id: int = 1

    @classmethod
    async def open(cls, url: str, version: str = VERSION, extra: Pairs = ()) -> Self:
        """Shake hands."""
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        session = cls(url, None, version)
        async with RawConnection(url) as connection:
            answer = await session.exchange(connection, "POST", body, extra)
            assert answer.status == 200, answer
            session.id = answer.head.get("Mcp-Session-Id")
        accepted = await session.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, extra)
        assert accepted.status == 202, accepted
        return session

    def headers(self, extra: Pairs = (), *, is_get: bool = False) -> list[tuple[str, str]]:
        """Return the headers of a request of this session; what *extra* names replaces them."""
        own = {"Accept": "text/event-stream" if is_get else ACCEPT_BOTH}
        if not is_get:
            own["Content-Type"] = "application/json"
        if self.id is not None:
            own["Mcp-Session-Id"] = self.id
            own["MCP-Protocol-Version"] = self.version
        given = {name.lower() for name, _ in extra}
        return [pair for pair in own.items() if pair[0].lower() not in given] + list(extra)

    async def exchange(self, connection: RawConnection, method: str, body: Any = None, extra: Pairs = ()) -> Answer:
        """Send one request on a connection and read the whole answer."""
        await self.send(connection, method, body, extra)
        return await connection.answer()

    async def send(self, connection: RawConnection, method: str, body: Any = None, extra: Pairs = ()) -> None:
        """Send one request on a connection."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        await connection.request(method, self.headers(extra, is_get=method == "GET"), data)

    async def post(self, body: Any, extra: Pairs = ()) -> Answer:
        """POST a message and read the whole answer."""
        async with RawConnection(self.url) as connection:
            return await self.exchange(connection, "POST", body, extra)

    async def delete(self, extra: Pairs = ()) -> Answer:
        """End the session."""
        async with RawConnection(self.url) as connection:
            return await self.exchange(connection, "DELETE", None, extra)

    def call_body(self, arguments: Mapping[str, Any], tool: str = "script", request_id: Any = None) -> dict[str, Any]:
        """Compose a tool call with a fresh id, or the given one."""
        if request_id is None:
            request_id, self.next_id = self.next_id, self.next_id + 1
        params = {"name": tool, "arguments": dict(arguments)}
        return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}

    async def call(self, arguments: Mapping[str, Any], request_id: Any = None, extra: Pairs = ()) -> Any:
        """Call the scripted tool and return the JSON-RPC response, whichever way it came."""
        body = self.call_body(arguments, request_id=request_id)
        async with RawConnection(self.url) as connection:
            await self.send(connection, "POST", body, extra)
            head = await connection.read_head()
            if head.get("Content-Type") != "text/event-stream":
                return json.loads(await connection.read_body())
            stream = await connection.stream()
            assert stream.is_clean, stream
            return stream.messages[-1].json

    async def listen(self, connection: RawConnection, cursor: str | None = None, extra: Pairs = ()) -> Head:
        """Open the standalone stream, or resume at a cursor, and read the head."""
        more = [*extra] if cursor is None else [*extra, ("Last-Event-ID", cursor)]
        await self.send(connection, "GET", None, more)
        return await connection.read_head()
