"""Whole proxies in this process, one for each way to serve HTTP, and a client that plays a case of the corpus.

Each front has an upstream of its own with the same script, so that what two fronts do to the same bytes can be laid
side by side. Knows nothing of how a front reads HTTP. What is different in every run (ids, ports, the date) is told
by a name instead.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from unittest.mock import patch

import proxy.app
from proxy.app import App
from proxy.config import Config, Listen, Upstream
from proxy.core import headers as h
from proxy.core.edge import Request, Sink
from proxy.core.headers import Headers
from proxy.downstream.listener import Listener
from proxy.upstream.base import Edge, Exchange, Receiver, UpstreamRequest
from support.http_corpus import (
    ACCEPT,
    ANSWERS,
    AWAIT,
    CURSOR_MARK,
    HOST_MARK,
    INITIALIZE,
    JSON,
    MAX_BODY_BYTES,
    OTHER,
    OTHER_MARK,
    PING,
    SESSION,
    SESSION_MARK,
    Case,
    answer_bytes,
    head,
    length,
    post,
)
from support.raw_server import Peer, RawServer, Received, chunk, ok, turns
from support.waiting import until

KINDS = ("wire", "aiohttp") if "http" in Listen.__dataclass_fields__ else ("aiohttp",)
"""The ways to serve HTTP; the last one is the measure."""

DEADLINE_SECONDS = 5.0
"""For one thing to be read; a case that needs it has failed."""
PATIENCE_SECONDS = 0.1
"""What the fronts of late cases grant a head or a body."""

PROBE = post(PING, usual=("Accept: */*", "Content-Type: application/json", OTHER), first="POST /mcp?probe HTTP/1.1")
_LARGE = "x" * 2**20
_SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_STANDALONE = (
    b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"standalone"}}\n\n'
)
_VARIABLE = {"date", "x-request-id"}
_CHANCE = (
    (re.compile(rb"[0-9a-z]{12}-(s|c\d+)-(\d+)"), rb"EVENT-\1-\2"),
    (re.compile(rb"retry: \d+"), b"retry: *"),
    (re.compile(rb"mcp-session-proxy-[0-9a-f]{8}-[0-9a-f]+"), b"OWN-ID"),
)
"""What is drawn by lot."""


class ScriptedUpstream:
    """An MCP server that answers by what it is asked and numbers its sessions."""

    def __init__(self) -> None:
        self._sessions = 0
        self.server = RawServer(self._serve)

    async def _serve(self, peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            await self._answer(peer, received)

    async def _answer(self, peer: Peer, received: Received) -> None:
        if received.method == "GET":
            await peer.send(_SSE_HEAD, chunk(b"id: 1\n" + _STANDALONE))
        elif received.method == "DELETE":
            await peer.send(ok(b""))
        else:
            await self._post(peer, received.body)

    async def _post(self, peer: Peer, body: bytes) -> None:
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            await peer.send(ok(_error(None, -32700), status="400 Bad Request"))
            return
        if isinstance(message, list):
            answers = [_result(each["id"], each) for each in message if isinstance(each, dict) and "id" in each]
            await peer.send(ok(b"[" + b",".join(answers) + b"]"))
        elif not isinstance(message, dict) or "id" not in message or "method" not in message:
            await peer.send(ok(b"", status="202 Accepted"))
        elif message["method"] == "initialize":
            self._sessions += 1
            await peer.send(ok(_initialized(message), f"Mcp-Session-Id: up-{self._sessions}"))
        else:
            await self._call(peer, message)

    async def _call(self, peer: Peer, message: dict[str, Any]) -> None:
        params = message.get("params")
        tool = str(params.get("name")) if isinstance(params, dict) else ""
        if tool.startswith("slow"):
            # The client's next segments come first.
            await turns(400)
        if "stream" in tool:
            await self._stream(peer, tool, _result(message["id"], _LARGE if "large" in tool else message))
        elif tool.startswith("answer:"):
            await peer.send(answer_bytes(tool.removeprefix("answer:")))
            if "Connection: close" in ANSWERS[tool.removeprefix("answer:")][1]:
                peer.close()
        elif tool == "unknown":
            await peer.send(ok(_error(message["id"], -32602)))
        elif tool == "large":
            await peer.send(ok(_result(message["id"], _LARGE)))
        elif tool != "wait":
            await peer.send(ok(_result(message["id"], message), "X-Upstream: 1"))

    async def _stream(self, peer: Peer, tool: str, result: bytes) -> None:
        start = _SSE_HEAD
        if "headers" in tool:
            start = start.replace(b"\r\n\r\n", b"\r\nX-A: 1\r\nCache-Control: max-age=1\r\nX-A: 2\r\n\r\n")
        told = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"one"}}'
        frame = b"data: %b\n\n" % result
        await peer.send(start, chunk(b"data: %b\n\n" % told))
        if "cut" in tool:
            await peer.send(chunk(frame[:20]))
            peer.reset()
        else:
            await peer.send(chunk(frame), chunk(b""))


def _result(request_id: object, echoed: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": {"echo": echoed}}).encode()


def _error(request_id: object, code: int) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": "no"}}).encode()


def _initialized(message: dict[str, Any]) -> bytes:
    result = {
        "protocolVersion": message.get("params", {}).get("protocolVersion", "2025-11-25"),
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "scripted", "version": "1"},
    }
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


@dataclass
class Told:
    """One answer as a client sees it."""

    first_line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    is_whole: bool = True

    @property
    def status(self) -> int:
        """The status."""
        return int(self.first_line.split(b" ")[1])


@dataclass
class Course:
    """What came of a case, as far as anybody can see."""

    answers: list[Told] = field(default_factory=list)
    end: str = ""
    """What the connection came to: `kept`, `closed`, `silent`, or `left` by the client."""
    handed: list[tuple[str, str, Headers, bytes]] = field(default_factory=list)
    """What reached the session side."""
    sent: list[tuple[str, Headers, bytes]] = field(default_factory=list)
    """What reached the upstream, in no order."""

    @property
    def seen(self) -> list[str]:
        """What the client has seen, a line each."""
        lines = []
        for told in self.answers:
            lines += [
                f"answer: {told.first_line!r}",
                *(f"answer:   {name!r}: {value!r}" for name, value in told.headers),
            ]
            lines.append(f"answer:   {'' if told.is_whole else 'cut, '}{told.body!r}")
        return [*lines, f"then: {self.end}"]

    @property
    def passed(self) -> list[str]:
        """What has passed behind the edge, a line each."""
        lines = []
        for where, requests in (("handed", self.handed), ("sent", [(sent[0], "", *sent[1:]) for sent in self.sent])):
            for method, path, headers, body in requests:
                lines += [f"{where}: {method} {path}", *(f"{where}:   {name}: {value}" for name, value in headers)]
                lines.append(f"{where}:   {body!r}")
        return lines


class _NotingListener:
    """A listener that notes what it is handed, and has the defects that a request asks for."""

    def __init__(self, handed: list[Request], *arguments: Any) -> None:
        self._listener = Listener(*arguments)
        self._handed = handed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def handle(self, request: Request, sink: Sink) -> None:
        """Note, then do the same."""
        self._handed.append(request)
        defect = h.get(request.headers, "X-Defect")
        if defect is None:
            self._listener.handle(request, sink)
            return
        if "behind the head" in defect:
            sink.start(200, [("Content-Type", "text/plain")])
            sink.write(b"begun")
        if "abort" in defect:
            sink.abort()
            return
        if "behind the answer" in defect:
            sink.answer(200, [("Content-Type", "text/plain")], b"whole")
        raise RuntimeError("a defect on purpose")


class _CountingEdge:
    """An edge that counts what is sent."""

    def __init__(self, edge: Edge, front: "Front") -> None:
        self._edge = edge
        self._front = front

    def __getattr__(self, name: str) -> Any:
        return getattr(self._edge, name)

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Count, then do the same."""
        self._front.count_sent()
        return self._edge.send(request, receiver)


class Front:
    """One proxy before one scripted upstream."""

    def __init__(self, kind: str, **listen: Any) -> None:
        self.kind = kind
        chosen = {"http": kind} if "http" in Listen.__dataclass_fields__ else {}
        self._listen = {"address": "127.0.0.1:0", "max_body_bytes": MAX_BODY_BYTES, **chosen, **listen}
        self.upstream = ScriptedUpstream()
        self.handed: list[Request] = []
        self.names: dict[bytes, bytes] = {}
        """What a run alone knows, and what it is called."""
        self._sent = 0

    def count_sent(self) -> None:
        """One more request went to the upstream."""
        self._sent += 1

    async def __aenter__(self) -> Self:
        await self.upstream.server.__aenter__()
        config = Config(listen=Listen(**self._listen), upstream=Upstream(url=self.upstream.server.url))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        # Every request passes here on its way to the sessions, whoever read it.
        with patch.object(proxy.app, "Listener", functools.partial(_NotingListener, self.handed)):
            self.app = App(config)
        (self._registry,) = self.app.registries
        member = self._registry.ctx.pool.members[0]
        member.edge = _CountingEdge(member.edge, self)
        await self.app.start(self._socket)
        self.names[b"127.0.0.1:%d" % self.upstream.server.port] = b"UPSTREAM"
        self.names[b"127.0.0.1:%d" % self.port] = b"HOST"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.app.server.close(0)
        await self.app.end_operation()
        self.app.heartbeats.close()
        self.app.checks.close()
        await self._registry.ctx.pool.close()
        await self.upstream.server.__aexit__()
        self._socket.close()

    async def open_session(self, name: bytes) -> str:
        """Shake hands; return the session id, which is called *name* from now on."""
        async with Client(self) as client:
            lines = (ACCEPT, JSON, length(INITIALIZE))
            await client.send(head("POST /mcp HTTP/1.1", *lines, host="Host: localhost") + INITIALIZE)
            told = await client.read(is_named=False)
        assert told is not None
        session_id = dict(told.headers)[h.SESSION_ID.encode()]
        self.names[session_id] = name
        return session_id.decode()

    async def settled(self) -> None:
        """Wait until everything that was sent upstream has arrived there."""
        await turns()
        await until(lambda: len(self.upstream.server.requests) >= self._sent, "what was sent upstream")
        for received in self.upstream.server.requests:
            # Whatever the client's framing was: the proxy's own is plain.
            lengths = [str(len(received.body))] if received.method == "POST" else []
            assert received.get("Content-Length") == lengths, received
            assert received.get("Transfer-Encoding") == [], received

    def named(self, data: bytes) -> bytes:
        """Call by its name what is different in every run."""
        for value, name in self.names.items():
            data = data.replace(value, name)
        for pattern, name in _CHANCE:
            data = pattern.sub(name, data)
        return data

    def _named_text(self, text: str) -> str:
        return self.named(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def named_value(self, name: bytes, value: bytes) -> bytes:
        """Call the value of a header by its name where it is different in every run."""
        return b"*" if name.decode("latin-1").lower() in _VARIABLE else self.named(value)

    def _named_headers(self, headers: Headers) -> Headers:
        # Without the letter case of names: aiohttp writes those it knows in its own.
        pairs = [(name.lower(), value) for name, value in headers]
        return [(name, "*" if name in _VARIABLE else self._named_text(value)) for name, value in pairs]

    def mark(self) -> tuple[int, int]:
        """Return where the records stand."""
        return len(self.handed), len(self.upstream.server.requests)

    def since(self, mark: tuple[int, int], course: Course) -> Course:
        """Write down what has arrived since."""
        for request in self.handed[mark[0] :]:
            # The length is the body's own: a head that repeats is handed in with that of its first request.
            pairs = [pair for pair in request.headers if pair[0].lower() != "content-length"]
            path, headers = self._named_text(request.head.path), self._named_headers(pairs)
            course.handed.append((request.head.method, path, headers, self.named(request.body)))
        for received in self.upstream.server.requests[mark[1] :]:
            body = self.named(received.body)
            course.sent.append((received.method, self._named_headers(received.headers), body))
        # They come on connections of their own, in any order.
        course.sent.sort()
        return course


class Client:
    """One connection to a front."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._front.port, limit=2**24)
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        await turns()

    async def send(self, *pieces: bytes) -> None:
        """Send, each piece in a segment of its own."""
        for piece in pieces:
            try:
                self._writer.write(piece)
                await self._writer.drain()
            except ConnectionError:
                return
            await turns()

    def half_close(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def read(self, *, is_head: bool = False, stop: bytes = b"", is_named: bool = True) -> Told | None:
        """Read one answer, interim ones too; None at the end of the connection.

        Raises:
            TimeoutError: neither came.
        """
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                text = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                left = error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
                return Told(left, [], is_whole=False) if left else None
            first, *lines = text[:-4].split(b"\r\n")
            pairs = [line.split(b": ", 1) for line in lines]
            told = Told(first, [(pair[0], pair[1] if len(pair) > 1 else b"") for pair in pairs])
            if not is_head and told.status >= 200 and told.status not in (204, 304):
                try:
                    await self._body(told, stop)
                except (asyncio.IncompleteReadError, ConnectionError):
                    told.is_whole = False
        if is_named:
            told.body = self._front.named(told.body)
            for name, value in told.headers:
                if name == h.SESSION_ID.encode():
                    self._front.names.setdefault(value, b"NEW")
            told.headers = [(name, self._front.named_value(name, value)) for name, value in told.headers]
        return told

    async def _body(self, told: Told, stop: bytes) -> None:
        headers = {name.lower(): value for name, value in told.headers}
        if headers.get(b"transfer-encoding") == b"chunked":
            while not stop or stop not in told.body:
                size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
                told.body += (await self._reader.readexactly(size + 2))[:-2]
                if not size:
                    return
        elif b"content-length" in headers:
            size = int(headers[b"content-length"])
            told.body = await self._reader.readexactly(size)
        else:
            while data := await self._reader.read(65_536):
                told.body += data
                if stop and stop in told.body:
                    return

    async def rest(self, timeout_seconds: float = DEADLINE_SECONDS) -> str:
        """Tell how the connection ends: `closed`, or `silent` when nothing comes in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                left = await self._reader.read(65_536)
                return f"more: {left!r}" if left else "closed"
        except TimeoutError:
            return "silent"
        except ConnectionError:
            return "closed"


@dataclass
class Player:
    """Plays one case on one connection."""

    front: Front
    client: Client
    case: Case
    fill: Callable[[bytes], bytes]
    course: Course = field(default_factory=Course)
    _finals: int = 0

    async def play(self) -> Course:
        """Do what the case says and write down what comes."""
        mark = self.front.mark()
        for piece in self.case.pieces:
            if piece is AWAIT:
                await self._read()
            else:
                data = self.fill(piece)
                cuts = range(len(data)) if self.case.is_bytewise else ()
                await self.client.send(*([data[at : at + 1] for at in cuts] or [data]))
        while self._finals < self.case.answers and not self.course.end:
            await self._read()
        if not self.course.end:
            await self._end()
        await self.front.settled()
        return self.front.since(mark, self.course)

    async def _read(self) -> None:
        if self.course.end:
            return
        try:
            told = await self.client.read(is_head=self.case.is_head, stop=self.case.until)
        except TimeoutError:
            self.course.end = "silent"
            return
        if told is None:
            self.course.end = "closed"
        else:
            self.course.answers.append(told)
            self._finals += not told.is_whole or told.status >= 200
            if self.case.until and self.case.until in told.body:
                self.course.end = "left"

    async def _end(self) -> None:
        if self.case.then == "reset":
            self.course.end = "left"
            return
        if self.case.then == "probe":
            await self.client.send(self.fill(PROBE))
        elif self.case.then == "half-close":
            self.client.half_close()
        self.case = dataclasses.replace(self.case, is_head=False)
        while not self.course.end:
            await self._read()
            if self.case.then == "probe" and self.course.answers[-1:] and b'"ping"' in self.course.answers[-1].body:
                self.course.end = self.course.end or "kept"


async def play(front: Front, case: Case, *, is_kept: bool) -> Course:
    """Play a case on a connection of its own, fresh or after a usual call."""
    session = await front.open_session(b"SESSION")
    other = await front.open_session(b"OTHER")
    known = {HOST_MARK: f"127.0.0.1:{front.port}", SESSION_MARK: session, OTHER_MARK: other}
    assert all(len(mark) == len(value) for mark, value in known.items()), "the lengths of the corpus do not fit"
    if any(CURSOR_MARK.encode() in (piece or b"") for piece in case.pieces):
        known[CURSOR_MARK] = await _cursor(front, session)

    def fill(piece: bytes) -> bytes:
        for mark, value in known.items():
            piece = piece.replace(mark.encode(), value.encode())
        return piece

    await front.settled()
    async with Client(front) as client:
        if is_kept:
            await client.send(fill(PROBE))
            told = await client.read()
            assert [told.status for told in (told,) if told] == [200]
        return await Player(front, client, case, fill).play()


async def _cursor(front: Front, session: str) -> str:
    """Open the standalone stream, return the id it begins with, and leave."""
    lines = ("Accept: text/event-stream", SESSION.replace(SESSION_MARK, session))
    async with Client(front) as client:
        await client.send(head("GET /mcp HTTP/1.1", *lines, host="Host: localhost"))
        told = await client.read(stop=b"standalone", is_named=False)
    assert told is not None
    match = re.search(rb"id: (\S+)", told.body)
    assert match is not None
    return match[1].decode()
