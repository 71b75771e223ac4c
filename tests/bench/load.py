"""The load: closed loops of MCP clients that check every answer, so that a broken proxy cannot look fast.

Owns the workloads and what counts as a right answer; knows no proxy, starts no process and computes no
figure. Each workload opens its own connections and sessions, warms up, and reads the meter around the
measured part only. A wrong status, id, byte, order or number of events, or a closed connection, raises
LoadError.
"""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol, TypeVar

from wire import Connection, LoadError, Reply, Script, Target, header, refuse

from upstream import BIG_RESULT, PROGRESS_EVENTS, RESULT, REVISION, SERVER, progress, response, response_start

T = TypeVar("T")

CONNECTIONS: Final = 32
BIG_CONNECTIONS: Final = 4
BIG_JSON_TAIL: Final = BIG_RESULT + b"}"
LAST_LINES_BYTES: Final = 100
"""Room for what stands behind an event's data: its id, where it comes last, and the blank line."""
GRACE_SECONDS: Final = 20.0
"""How long answers may take after the last request of a loop before the run counts as failed."""

INITIALIZE: Final = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": REVISION,
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        },
    }
).encode()
INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


class Meter(Protocol):
    """What is read around the measured part of a workload."""

    def start(self) -> None:
        """Begin the measured part."""

    def stop(self) -> None:
        """End it."""

    def rss_bytes(self) -> int:
        """Read the resident memory of the target's processes."""


@contextlib.asynccontextmanager
async def connected(host: str, port: int, count: int) -> AsyncIterator[list[Connection]]:
    """Open `count` connections and abort them at the end."""
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    try:
        for _ in range(count):
            connections.append((await loop.create_connection(Connection, host, port))[1])
        yield connections
    finally:
        for connection in connections:
            connection.lost = "done"
            connection.transport.abort()
        await asyncio.sleep(0)  # a loop that is closed first would leave them open


async def run(connections: list[Connection], scripts: Sequence[Script[T]], seconds: float = 0.0) -> list[T]:
    """Run one script per connection; return what they return, or raise the first LoadError."""
    pairs = zip(connections, scripts, strict=True)
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            return await asyncio.gather(*[connection.run(script) for connection, script in pairs])
    except TimeoutError:
        raise LoadError(f"answers are missing {GRACE_SECONDS:.0f} s after the end of the load") from None


class Control:
    """The stub's own endpoint, beside the MCP one."""

    def __init__(self, connections: list[Connection]) -> None:
        self.connections = connections

    async def status(self) -> dict[str, int]:
        """Ask what is open and what was emitted."""
        status: dict[str, int] = json.loads(await self.ask(b"GET", b"/status", 200))
        return status

    async def post(self, target: bytes) -> None:
        """Have something done."""
        await self.ask(b"POST", target, 202)

    async def ask(self, method: bytes, target: bytes, status: int) -> bytes:
        """Send one request; return the body of its answer."""
        request = b"%b %b HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n" % (method, target)
        return (await run(self.connections, [asked(request, status)]))[0]


def asked(request: bytes, status: int) -> Script[bytes]:
    """Send one request; return the body of its answer."""
    reply = yield request
    if reply.status != status:
        refuse("control request", reply)
    return reply.body


CALL: Final = (
    b'{"jsonrpc":"2.0","id":%%d,"method":"tools/call","params":{"name":"%b",'
    b'"arguments":{"text":"what a client would ask for, in a few words"},"_meta":{"progressToken":%%d}}}'
)
RIGHT_RESULT: Final = b'{"jsonrpc":"2.0","id":%d,"result":' + RESULT + b"}"


def call(request_id: int, tool: bytes) -> bytes:
    """Build a tool call; its progress token is its id."""
    return CALL % tool % (request_id, request_id)


def opened(target: Target) -> Script[bytes]:
    """Open a session; return the id the target gave it."""
    reply = yield target.post(INITIALIZE)
    if reply.status != 200 or reply.body != response(b"0", SERVER):
        refuse("initialize", reply)
    session = header(reply.head, b"mcp-session-id")
    reply = yield target.post(INITIALIZED, session)
    if reply.status != 202:
        refuse("notifications/initialized", reply)
    return session


def deleted(target: Target, session: bytes) -> Script[None]:
    """Close a session."""
    reply = yield target.bare(b"DELETE", session)
    if reply.status not in {200, 204}:
        refuse("DELETE", reply)


def is_big(body: bytes, at: int, end: int, number: int) -> bool:
    """Say whether a body is the 1 MiB response from `at` to `end`, comparing in place: copies would be the wall."""
    start = response_start(b"%d" % number)
    is_long = end == at + len(start) + len(BIG_JSON_TAIL)
    return is_long and body.startswith(start, at) and body.endswith(BIG_JSON_TAIL, 0, end)


def is_result(reply: Reply, number: int) -> bool:
    """Say whether the plain JSON answer to call `number` is right to the byte."""
    return reply.status == 200 and reply.body == RIGHT_RESULT % number


def is_big_result(reply: Reply, number: int) -> bool:
    """Say whether the 1 MiB answer to call `number` is right to the byte."""
    return reply.status == 200 and is_big(reply.body, 0, len(reply.body), number)


def payloads(body: bytes) -> list[bytes]:
    """Return the data of the events in a complete SSE body; priming events and comments carry none."""
    if not body.endswith(b"\n\n"):
        raise LoadError(f"an SSE body that ends inside a frame: {body[-200:]!r}")
    found = [part[: part.find(b"\n")] for part in (b"\n" + body).split(b"\ndata: ")[1:]]
    return [data for data in found if data]


RIGHT_STREAM: Final = [progress(b"%d", step) for step in range(1, PROGRESS_EVENTS + 1)] + [RIGHT_RESULT]


def is_stream(reply: Reply, number: int) -> bool:
    """Say whether call `number` got every progress event once, in order, and then its result."""
    return reply.status == 200 and payloads(reply.body) == [right % number for right in RIGHT_STREAM]


def is_big_event(reply: Reply, number: int) -> bool:
    """Say whether call `number` got its 1 MiB event, whole."""
    body = reply.body
    at = body.find(b"\ndata: {") + 7
    end = body.find(b"\n", len(body) - LAST_LINES_BYTES)
    return reply.status == 200 and at > 6 and body.endswith(b"\n\n") and is_big(body, at, end, number)


def calls(
    target: Target, tool: bytes, is_right: Callable[[Reply, int], bool], session: bytes, deadline: float
) -> Script[int]:
    """Call one tool until `deadline`; return how often."""
    number = 0
    start = target.post_start(session)
    body = CALL % tool
    while not number or time.perf_counter() < deadline:
        number += 1
        request = body % (number, number)
        reply = yield b"%b%d\r\n\r\n%b" % (start, len(request), request)
        if not is_right(reply, number):
            refuse(f"call {number} of {tool.decode()}", reply)
    return number


def churn(target: Target, deadline: float) -> Script[int]:
    """Open a session, call once, close it, until `deadline`; return how many sessions."""
    count = 0
    while not count or time.perf_counter() < deadline:
        session = yield from opened(target)
        yield from calls(target, b"json", is_result, session, 0.0)
        yield from deleted(target, session)
        count += 1
    return count


TOOLS: Final[dict[str, tuple[int, Callable[[Reply, int], bool]]]] = {
    "json": (CONNECTIONS, is_result),
    "sse": (CONNECTIONS, is_stream),
    "big_json": (BIG_CONNECTIONS, is_big_result),
    "big_event": (BIG_CONNECTIONS, is_big_event),
}


async def run_calls(target: Target, meter: Meter, tool: str, seconds: float) -> int:
    """Call one tool in a closed loop on each connection; return how many calls were answered."""
    count, is_right = TOOLS[tool]
    script = functools.partial(calls, target, tool.encode(), is_right)
    async with connected(target.host, target.port, count) as connections:
        sessions = await run(connections, [opened(target) for _ in connections])
        await run(connections, [script(session, 0.0) for session in sessions])
        meter.start()
        deadline = time.perf_counter() + seconds
        counts = await run(connections, [script(session, deadline) for session in sessions], seconds)
        meter.stop()
        await run(connections, [deleted(target, session) for session in sessions])
    return sum(counts)


async def run_churn(target: Target, meter: Meter, seconds: float) -> int:
    """Open and close sessions in a closed loop on each connection; return how many."""
    async with connected(target.host, target.port, CONNECTIONS) as connections:
        await run(connections, [churn(target, 0.0) for _ in connections])
        meter.start()
        deadline = time.perf_counter() + seconds
        counts = await run(connections, [churn(target, deadline) for _ in connections], seconds)
        meter.stop()
    return sum(counts)


def opened_many(target: Target, count: int) -> Script[list[bytes]]:
    """Open `count` sessions one after the other."""
    sessions = []
    for _ in range(count):
        sessions.append((yield from opened(target)))
    return sessions


async def open_sessions(target: Target, connections: list[Connection], count: int) -> list[bytes]:
    """Open `count` sessions over the connections."""
    share, rest = divmod(count, len(connections))
    scripts = [opened_many(target, share + (number < rest)) for number in range(len(connections))]
    return [session for sessions in await run(connections, scripts, 60.0) for session in sessions]


async def run_sessions(target: Target, meter: Meter, count: int) -> float:
    """Open `count` sessions without a stream; return the resident bytes each of them added."""
    async with connected(target.host, target.port, CONNECTIONS) as connections:
        await run(connections, [churn(target, 0.0) for _ in connections])
        before = meter.rss_bytes()
        meter.start()
        await open_sessions(target, connections, count)
        meter.stop()
        return (meter.rss_bytes() - before) / count
