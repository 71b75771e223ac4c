"""A stub MCP server that costs next to nothing, so that a benchmark measures what stands in front of it.

Owns a strict little HTTP/1.1 parser, four canned tools and an event store; knows no proxy. Sessions are checked
(404 for an unknown one), so a proxy that maps ids wrongly is seen. Events of a call leave in one loop turn each,
as from a real server: written at once they would reach the proxy as a single read. So do events that are replayed.
The store is for sessions whose client called the tool `keep`: their events carry the id of that call, so that one
which reaches another client is seen, and a GET with Last-Event-ID is given what came after.
Control, beside the MCP endpoint: `GET /status`, `POST /emit?n=K&rate=R` (K events on every open stream),
`POST /emit_kept?n=K` (K events for every session that keeps them, open or not) and `POST /forget` (all sessions).
"""

import argparse
import asyncio
import functools
import gc
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import parse_qs

import msgspec

REVISION: Final = "2025-11-25"
BIG_BYTES: Final = 1 << 20
PROGRESS_EVENTS: Final = 3
MAX_HEAD_BYTES: Final = 32768

RESULT: Final = b'{"content":[{"type":"text","text":"' + b"the quick brown fox jumps over the lazy dog " * 3 + b'"}]}'
BIG_RESULT: Final = b'{"content":[{"type":"text","text":"' + b"x" * BIG_BYTES + b'"}]}'
SERVER: Final = (
    b'{"protocolVersion":"%b","capabilities":{"tools":{"listChanged":true},"logging":{}},'
    b'"serverInfo":{"name":"bench-upstream","version":"1"}}' % REVISION.encode()
)
SSE_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK: Final = b"0\r\n\r\n"
RESULT_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    b'{"jsonrpc":"2.0","id":%b,"result":' + RESULT + b"}"
)
RESULT_BYTES: Final = len(b'{"jsonrpc":"2.0","id":,"result":}') + len(RESULT)
CORRELATIONS: Final = (b"\r\nX-Request-Id: ", b"\r\nx-request-id: ")
# A name with white space around it or before its colon would be read differently by another parser: refused.
HEADER: Final = re.compile(rb"\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*(?=\r\n)")


class Meta(msgspec.Struct):
    """The `_meta` member of a call."""

    token: msgspec.Raw = msgspec.field(name="progressToken", default=msgspec.Raw(b"0"))


class Params(msgspec.Struct):
    """What a tool call is routed by."""

    name: str = ""
    meta: Meta | None = msgspec.field(name="_meta", default=None)


class Message(msgspec.Struct):
    """The envelope of a JSON-RPC message; a notification has no id."""

    method: str = ""
    id: msgspec.Raw = msgspec.Raw(b"")
    params: Params | None = None


decode: Final = msgspec.json.Decoder(Message).decode


class BadRequestError(Exception):
    """The bytes are not a request this stub accepts."""


def chunk(data: bytes) -> bytes:
    """Frame `data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(status: bytes, body: bytes = b"", extra: bytes = b"") -> bytes:
    """Build a complete response with a Content-Length."""
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, extra, len(body)) + body


def response_start(request_id: bytes) -> bytes:
    """Build a JSON-RPC response up to its result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":' % request_id


def response(request_id: bytes, result: bytes) -> bytes:
    """Build a JSON-RPC response."""
    return b"%b%b}" % (response_start(request_id), result)


def progress(token: bytes, step: int) -> bytes:
    """Build the `step`-th progress notification of a call."""
    return (
        b'{"jsonrpc":"2.0","method":"notifications/progress",'
        b'"params":{"progressToken":%b,"progress":%d,"total":%d}}' % (token, step, PROGRESS_EVENTS)
    )


def broadcast(number: int) -> bytes:
    """Build the `number`-th message of the standalone stream (about 190 bytes)."""
    return (
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","logger":"bench",'
        b'"data":{"number":%d,"text":"a line of log such as a tool would write while it works on"}}}' % number
    )


def event_chunk(number: int, start: bytes, end: bytes) -> tuple[int, bytes]:
    """Build an event of a call as one chunk, to be filled in: (its size without them, name of the stream, an id)."""
    head = b"event: message\nid: c%%d-%d\ndata: %b" % (number, start)
    return len(head) - 2 + len(end) + 2, b"%%x\r\n%b%%b%b\n\n\r\n" % (head, end)


PROGRESS: Final = [event_chunk(step, *progress(b"\0", step).split(b"\0")) for step in range(PROGRESS_EVENTS, 0, -1)]
"""The progress events of a call, the last one first."""
LAST_EVENT_BYTES, LAST_EVENT = event_chunk(PROGRESS_EVENTS + 1, *response(b"\0", RESULT).split(b"\0"))
LAST_EVENT += LAST_CHUNK


def kept_message(mark: bytes, number: int) -> bytes:
    """Build the `number`-th message for the session whose client named itself `mark`."""
    return (
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","logger":"bench",'
        b'"data":{"client":%b,"number":%d,"text":"a line of log that waits for a client to come back"}}}'
        % (mark, number)
    )


class Kept:
    """The event store of one session: its client's mark, and every event since the first, ready to be sent."""

    __slots__ = ("blocks", "mark")

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.blocks: list[bytes] = []

    def add(self) -> bytes:
        """Keep the next event; return it as it is sent."""
        number = len(self.blocks) + 1
        self.blocks.append(chunk(b"event: message\nid: k-%d\ndata: %b\n\n" % (number, kept_message(self.mark, number))))
        return self.blocks[-1]

    def number_of(self, event_id: bytes) -> int:
        """Return the number of an event by its id; BadRequestError for an id that was never given."""
        name, _, number = event_id.partition(b"-")
        if name != b"k" or not number.isdigit() or int(number) > len(self.blocks):
            raise BadRequestError("unknown Last-Event-ID")
        return int(number)


class Server:
    """The state all connections share: sessions, their standalone streams, counters."""

    def __init__(self) -> None:
        self.sessions: set[bytes] = set()
        self.streams: dict[bytes, Connection] = {}
        self.kept: dict[bytes, Kept] = {}
        self.calls = 0
        self.emitted = 0
        self.numbers = itertools.count(1)
        self.emitting: set[asyncio.Task[None]] = set()

    async def emit(self, rounds: int, rate: float) -> None:
        """Send `rounds` messages on every open stream, `rate` rounds per second (0: one per loop turn)."""
        for _ in range(rounds):
            self.emitted += 1
            message = broadcast(self.emitted)
            block = chunk(b"event: message\nid: s-%d\ndata: %b\n\n" % (self.emitted, message))
            for stream in self.streams.values():
                stream.transport.write(block)
            await asyncio.sleep(1 / rate if rate else 0)

    async def emit_kept(self, rounds: int) -> None:
        """Add `rounds` events to each session's store, one per loop turn; send them where the stream is open."""
        for _ in range(rounds):
            for session, kept in self.kept.items():
                block = kept.add()
                stream = self.streams.get(session)
                if stream is not None:
                    stream.transport.write(block)
            await asyncio.sleep(0)

    def status(self) -> dict[str, int]:
        """Count what is open and what is still to leave."""
        return {
            "sessions": len(self.sessions),
            "streams": len(self.streams),
            "calls": self.calls,
            "emitted": self.emitted,
            "emitting": len(self.emitting),
            "unsent": sum(stream.transport.get_write_buffer_size() for stream in self.streams.values()),
        }


@dataclass(frozen=True, slots=True)
class Head:
    """What a request is routed and cut by; `length` is None for a chunked body."""

    method: bytes
    path: bytes
    query: bytes
    session: bytes | None
    last_event_id: bytes | None
    length: int | None
    hot: bool


class Connection(asyncio.Protocol):
    """One client connection: requests are answered in their order, one at a time."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pending = b""
        self.busy = False
        self.session: bytes | None = None
        self.rest: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the standalone stream this connection carried."""
        if self.session is not None and self.server.streams.get(self.session) is self:
            del self.server.streams[self.session]

    def data_received(self, data: bytes) -> None:
        """Answer every complete request; keep the rest."""
        self.pending = self.pending + data if self.pending else data
        try:
            while self.pending and not self.busy and self.serve():
                pass
        except (BadRequestError, msgspec.DecodeError, ValueError) as error:
            self.transport.write(answer(b"400 Bad Request", str(error).encode(), b"Connection: close\r\n"))
            self.transport.close()

    def serve(self) -> bool:
        """Answer the first request of `pending`; False when it is not complete yet."""
        data = self.pending
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise BadRequestError("head too large")
            return False
        head = parse_head(without_correlation(data[: end + 2]))
        end += 4
        if head.length is not None:
            stop = end + head.length
            if len(data) < stop:
                return False
            body, self.pending = data[end:stop], data[stop:]
        else:
            cut = chunked_body(data, end)
            if cut is None:
                return False
            body, self.pending = cut[0], data[cut[1] :]
        if head.hot:
            self.post(head.session, body)
        else:
            self.route(head, body)
        return True

    def route(self, head: Head, body: bytes) -> None:
        """Hand one request to what answers it."""
        method, session = head.method, head.session
        write = self.transport.write
        if head.path != b"/mcp":
            self.control(method, head.path, head.query)
        elif method == b"POST":
            self.post(session, body)
        elif session not in self.server.sessions or session is None:
            write(answer(b"404 Not Found" if session else b"400 Bad Request"))
        elif method == b"GET":
            self.open_stream(session, head.last_event_id)
        elif method == b"DELETE":
            self.server.sessions.discard(session)
            self.server.kept.pop(session, None)
            stream = self.server.streams.pop(session, None)
            if stream is not None:
                stream.end_stream()
            write(answer(b"200 OK"))
        else:
            write(answer(b"405 Method Not Allowed"))

    def control(self, method: bytes, path: bytes, query: bytes) -> None:
        """Answer the benchmark itself."""
        server = self.server
        work: Coroutine[None, None, None] | None = None
        options = parse_qs(query.decode())
        rounds = int(options.get("n", ["1"])[0])
        if (method, path) == (b"GET", b"/status"):
            self.transport.write(answer(b"200 OK", json.dumps(server.status()).encode()))
            return
        if (method, path) == (b"POST", b"/emit"):
            work = server.emit(rounds, float(options.get("rate", ["0"])[0]))
        elif (method, path) == (b"POST", b"/emit_kept"):
            work = server.emit_kept(rounds)
        elif (method, path) == (b"POST", b"/forget"):
            server.sessions.clear()
            server.kept.clear()
        else:
            self.transport.write(answer(b"404 Not Found"))
            return
        if work is not None:
            task = asyncio.get_running_loop().create_task(work)
            server.emitting.add(task)
            task.add_done_callback(server.emitting.discard)
        self.transport.write(answer(b"202 Accepted"))

    def post(self, session: bytes | None, body: bytes) -> None:
        """Answer one JSON-RPC message."""
        message = decode(body)
        server = self.server
        if message.method == "initialize":
            minted = b"bench-upstream-%d" % next(server.numbers)
            server.sessions.add(minted)
            header = b"Mcp-Session-Id: %b\r\n" % minted
            self.transport.write(answer(b"200 OK", response(bytes(message.id), SERVER), header))
        elif session not in server.sessions or session is None:
            self.transport.write(answer(b"404 Not Found" if session else b"400 Bad Request"))
        elif not message.id or not message.method:
            self.transport.write(answer(b"202 Accepted"))
        elif message.method == "tools/call" and message.params is not None and message.params.name in TOOLS:
            server.calls += 1
            meta = message.params.meta
            TOOLS[message.params.name](self, bytes(message.id), b"0" if meta is None else bytes(meta.token))
        elif message.method == "tools/call" and message.params is not None and message.params.name == "keep":
            server.kept[session] = Kept(bytes(message.id))
            self.tool_json(bytes(message.id), b"0")
        else:
            self.transport.write(answer(b"200 OK", response(bytes(message.id), b"{}")))

    def tool_json(self, request_id: bytes, token: bytes) -> None:
        """Answer at once, as plain JSON."""
        self.transport.write(RESULT_ANSWER % (RESULT_BYTES + len(request_id), request_id))

    def tool_big_json(self, request_id: bytes, token: bytes) -> None:
        """Answer with a 1 MiB body."""
        prefix = response_start(request_id)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            len(prefix) + len(BIG_RESULT) + 1,
            prefix,
        )
        self.transport.writelines([head, BIG_RESULT, b"}"])  # a megabyte is not copied to be joined

    def tool_sse(self, request_id: bytes, token: bytes) -> None:
        """Answer with a priming event, progress, the result."""
        name = next(self.server.numbers)
        self.busy = True
        self.rest = [LAST_EVENT % (LAST_EVENT_BYTES + len(b"%d" % name) + len(request_id), name, request_id)]
        self.rest += [event % (size + len(b"%d" % name) + len(token), name, token) for size, event in PROGRESS]
        self.transport.write(SSE_HEAD + chunk(b"id: c%d-0\ndata: \n\n" % name))
        asyncio.get_running_loop().call_soon(self.send_rest)

    def tool_big_event(self, request_id: bytes, token: bytes) -> None:
        """Answer with a priming event and a 1 MiB event."""
        name = next(self.server.numbers)
        start = b"event: message\nid: c%d-1\ndata: %b" % (name, response_start(request_id))
        size = len(start) + len(BIG_RESULT) + 3
        self.transport.write(SSE_HEAD + chunk(b"id: c%d-0\ndata: \n\n" % name))
        self.transport.writelines([b"%x\r\n%b" % (size, start), BIG_RESULT, b"}\n\n\r\n" + LAST_CHUNK])

    def send_rest(self) -> None:
        """Send the next event of a call, each in its own loop turn; after the last one the connection serves on."""
        if self.transport.is_closing():
            return
        self.transport.write(self.rest.pop())
        if self.rest:
            asyncio.get_running_loop().call_soon(self.send_rest)
            return
        self.busy = False
        if self.pending:
            self.data_received(b"")

    def open_stream(self, session: bytes, last_event_id: bytes | None) -> None:
        """Hold this connection as the session's standalone stream; an older one ends cleanly.

        A new stream is primed with an id; one that is resumed begins with what was missed.
        """
        kept = self.server.kept.get(session)
        resumed = kept is not None and last_event_id is not None
        after = kept.number_of(last_event_id) if kept is not None and last_event_id is not None else 0
        former = self.server.streams.pop(session, None)
        if former is not None:
            former.end_stream()
        self.busy = True
        self.session = session
        if kept is None:
            self.transport.write(SSE_HEAD + chunk(b"id: s-0\ndata: \n\n"))
        elif not resumed:
            self.transport.write(SSE_HEAD + chunk(b"id: k-%d\ndata: \n\n" % len(kept.blocks)))
        else:
            self.transport.write(SSE_HEAD)
            self.replay(session, kept, after)
            return
        self.server.streams[session] = self

    def replay(self, session: bytes, kept: Kept, after: int) -> None:
        """Send what is kept after an event, one event per loop turn; then the stream is live."""
        if self.transport.is_closing() or session not in self.server.kept:
            return
        if after == len(kept.blocks):
            self.server.streams[session] = self
            return
        self.transport.write(kept.blocks[after])
        asyncio.get_running_loop().call_soon(self.replay, session, kept, after + 1)

    def end_stream(self) -> None:
        """End the standalone stream with a proper last chunk; the connection serves on."""
        self.transport.write(LAST_CHUNK)
        self.busy = False
        self.session = None
        if self.pending:
            self.data_received(b"")


TOOLS: Final[dict[str, Callable[[Connection, bytes, bytes], None]]] = {
    "json": Connection.tool_json,
    "sse": Connection.tool_sse,
    "big_json": Connection.tool_big_json,
    "big_event": Connection.tool_big_event,
}


def without_correlation(head: bytes) -> bytes:
    """Return a head without its X-Request-Id: nothing here depends on it, and it is new in every request."""
    for name in CORRELATIONS:
        at = head.find(name)
        if at >= 0:
            return head[:at] + head[head.find(b"\r\n", at + 2) :]
    return head


# A closed loop repeats its heads; to parse them again would be half of what a call costs here, and only behind those
# who add an id of their own: they would be measured by what this stub does about it.
@functools.lru_cache(maxsize=4096)
def parse_head(head: bytes) -> Head:
    """Parse a head up to its last line's CRLF."""
    first = head.find(b"\r\n")
    line = head[:first].split(b" ")
    if len(line) != 3 or line[2] != b"HTTP/1.1":
        raise BadRequestError("malformed request line")
    pairs = HEADER.findall(head, first)
    if len(pairs) != head.count(b"\r\n") - 1:
        raise BadRequestError("malformed header")
    headers = {name.lower(): value for name, value in pairs}
    if len(headers) != len(pairs):
        names = [name.lower() for name, _ in pairs]
        if any(names.count(name) > 1 for name in (b"content-length", b"transfer-encoding", b"mcp-session-id")):
            raise BadRequestError("duplicate header")
    coding = headers.get(b"transfer-encoding")
    length: bytes | None = headers.get(b"content-length", b"0")
    assert length is not None
    if not length.isdigit():
        raise BadRequestError("malformed Content-Length")
    if coding is not None and (b"content-length" in headers or coding.lower() != b"chunked"):
        raise BadRequestError("ambiguous framing")
    path, _, query = line[1].partition(b"?")
    return Head(
        method=line[0],
        path=path,
        query=query,
        session=headers.get(b"mcp-session-id"),
        last_event_id=headers.get(b"last-event-id"),
        length=int(length) if coding is None else None,
        hot=line[0] == b"POST" and path == b"/mcp",
    )


def chunked_body(data: bytes, start: int) -> tuple[bytes, int] | None:
    """Cut a request's chunked body: (body, offset behind it), or None while it is not complete."""
    parts = []
    while True:
        line = data.find(b"\r\n", start)
        if line < 0:
            return None
        size = int(data[start:line].partition(b";")[0], 16)
        start = line + 2
        if len(data) < start + size + 2:
            return None
        if data[start + size : start + size + 2] != b"\r\n":  # also refuses trailers: nobody here sends any
            raise BadRequestError("malformed chunk")
        parts.append(data[start : start + size])
        start += size + 2
        if not size:
            return b"".join(parts), start


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT; print one line with the address first."""
    server = Server()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", port, backlog=4096)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp", flush=True)
    gc.freeze()
    await stop.wait()
    listener.close()
    os._exit(0)  # thousands of open streams need no farewell


def main() -> None:
    """Run the stub."""
    parser = argparse.ArgumentParser(description="A stub MCP server for benchmarks.")
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    try:
        import uvloop as engine
    except ImportError:
        asyncio.run(serve(port))
    else:
        engine.run(serve(port))


if __name__ == "__main__":
    main()
