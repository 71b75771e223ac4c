"""The clients of the failover benchmark: streams that stay open, calls that are held, calls at a steady rate.

Owns what each client was given, by whom and when; computes no figure and starts no process. A client that is given
something it cannot have been promised (a wrong status, another's answer, an event out of order, the end of its stream)
raises LoadError; what is missing or comes twice is counted by `failover_figures.py`. Instants are those of
`time.perf_counter`.
"""

import asyncio
import contextlib
import functools
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, cast

from failover_upstream import INITIALIZED, QUICK, call_body, event
from load import CONNECTIONS, GRACE_SECONDS, INITIALIZE, connected, payloads, run
from load import INITIALIZED as NOTE
from wire import ChunkedBody, Connection, LoadError, Reply, Script, Target, header, refuse

from upstream import REVISION, response

OPENING_STREAMS: Final = 64
"""Streams opened at once; far below the listen backlog, so that no SYN is retried."""
POLL_SECONDS: Final = 0.01
"""Pause between two looks at a condition; what is measured is noted when it arrives."""
STEADY_CONNECTIONS: Final = 256
"""Of the calls at a steady rate: enough that none waits for another, unless calls take half a second."""
EVENT: Final = re.compile(rb'"data":\{"from":"(\w+)","number":(\d+)\}')
OWN: Final = (b"/list_changed", b"notifications/resources/updated")
"""Methods by which the proxy tells its client to look again after its upstream session has changed."""


class Opened(NamedTuple):
    """A session, and the upstream that has answered its handshake."""

    session: bytes
    upstream: str


def opened(target: Target) -> Script[Opened]:
    """Open a session."""
    reply = yield target.post(INITIALIZE)
    named = re.search(rb'"version":"(\w+)"\}\}', reply.body)
    name = named[1] if named else b""
    if reply.status != 200 or reply.body != response(b"0", INITIALIZED % (REVISION.encode(), name)):
        refuse("initialize", reply)
    session = header(reply.head, b"mcp-session-id")
    reply = yield target.post(NOTE, session)
    if reply.status != 202:
        refuse("notifications/initialized", reply)
    return Opened(session, name.decode())


def opened_many(target: Target, count: int) -> Script[list[Opened]]:
    """Open `count` sessions one after the other."""
    found = []
    for _ in range(count):
        found.append((yield from opened(target)))
    return found


async def open_sessions(target: Target, count: int) -> list[Opened]:
    """Open `count` sessions over several connections."""
    async with connected(target.host, target.port, CONNECTIONS) as connections:
        share, rest = divmod(count, len(connections))
        scripts = [opened_many(target, share + (number < rest)) for number in range(len(connections))]
        return [one for many in await run(connections, scripts, 60.0) for one in many]


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = GRACE_SECONDS) -> None:
    """Look again and again until a condition holds; LoadError with `what` when it does not come to hold."""
    deadline = time.perf_counter() + seconds
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if time.perf_counter() > deadline:
            raise LoadError(what)
        await asyncio.sleep(POLL_SECONDS)


# -- streams


class Heard(NamedTuple):
    """One event of a standalone stream."""

    at: float
    upstream: str
    number: int


class Listener(asyncio.Protocol):
    """One session's standalone stream, open from the first to the last moment."""

    transport: asyncio.Transport

    def __init__(self, session: bytes, request: bytes) -> None:
        self.session = session
        self.request = request
        self.head = b""
        self.body = ChunkedBody()
        self.rest = b""
        self.is_open = False
        self.is_ended = False
        self.heard: list[Heard] = []
        self.resyncs = 0
        self.failure = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note an end that the benchmark did not cause."""
        if not self.is_ended:
            self.failure = self.failure or f"a standalone stream was closed: {exc!r}"

    def data_received(self, data: bytes) -> None:
        """Take the head, then events."""
        at = time.perf_counter()
        if not self.is_open:
            self.head += data
            end = self.head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            data = self.head[end:]
            lower = self.head[:end].lower()
            if lower[9:12] != b"200" or b"\r\ntransfer-encoding: chunked\r\n" not in lower:
                self.failure = f"no standalone stream: {self.head[:300]!r}"
                return
            self.is_open = True
        try:
            *frames, self.rest = (self.rest + self.body.feed(data)).split(b"\n\n")
            for frame in frames:
                self.take(at, frame)
        except (LoadError, ValueError) as error:
            self.failure = self.failure or f"standalone stream: {error}"

    def take(self, at: float, frame: bytes) -> None:
        """Note an event by whom it is from; primings and comments carry none."""
        start = frame.find(b"data: ") + 6
        data = frame[start:].split(b"\n", 1)[0] if start >= 6 else b""
        if not data:
            return
        match = EVENT.search(data)
        if match is not None and data == event(match[1], int(match[2])):
            self.heard.append(Heard(at, match[1].decode(), int(match[2])))
        elif match is None and any(method in data for method in OWN):
            self.resyncs += 1
        else:
            raise LoadError(f"{frame!r} was delivered")

    def has(self, upstream: str, number: int) -> bool:
        """Tell whether that event has arrived."""
        return any(one.upstream == upstream and one.number == number for one in self.heard)


@contextlib.asynccontextmanager
async def listening(target: Target, sessions: Sequence[bytes]) -> AsyncIterator[list[Listener]]:
    """Open the standalone stream of each session; abort them at the end."""
    loop = asyncio.get_running_loop()
    listeners: list[Listener] = []

    async def open_one(session: bytes) -> None:
        request = target.bare(b"GET", session)
        _, listener = await loop.create_connection(lambda: Listener(session, request), target.host, target.port)
        listeners.append(listener)
        await until(lambda: listener.is_open or bool(listener.failure), "a standalone stream is not opened")

    try:
        for at in range(0, len(sessions), OPENING_STREAMS):
            await asyncio.gather(*[open_one(session) for session in sessions[at : at + OPENING_STREAMS]])
        check(listeners)
        yield listeners
    finally:
        for listener in listeners:
            listener.is_ended = True
            listener.transport.abort()
        await asyncio.sleep(0)  # a loop that is closed first would leave them open


def check(listeners: Sequence[Listener]) -> None:
    """Raise the first failure of any stream."""
    for listener in listeners:
        if listener.failure:
            raise LoadError(listener.failure)


async def all_have(listeners: Sequence[Listener], upstream: str, number: int, seconds: float = GRACE_SECONDS) -> None:
    """Wait until every stream was given that event; LoadError for a stream that ends, and when it takes too long."""
    missing = list(listeners)

    def are_complete() -> bool:
        check(missing)
        missing[:] = [listener for listener in missing if not listener.has(upstream, number)]
        return not missing

    await until(are_complete, f"streams were not given event {number} of {upstream}", seconds)


# -- calls


class Told(NamedTuple):
    """How one call ended."""

    mark: int
    began_at: float
    at: float
    outcome: str
    """Name of the upstream that ran it; else what the error says: unknown, not_run; "failed" for anything else."""
    answers: int
    """Messages that answer it: one, unless something is wrong."""
    detail: str = ""


def told(target: Target, session: bytes, mark: int, tool: str, began_at: float = 0.0) -> Script[Told]:
    """Make one call and read its end; its id is its mark, and it counts from `began_at`, or from now."""
    began_at = began_at or time.perf_counter()
    reply = yield target.post(call_body(mark, tool, mark), session)
    at = time.perf_counter()
    messages = [json.loads(text) for text in texts(reply)] if reply.status == 200 else []
    answers = [message for message in messages if message.get("id") == mark]
    outcome, detail = outcome_of(answers[0], mark) if answers else ("failed", f"{reply.status}: {reply.body[:200]!r}")
    return Told(mark, began_at, at, outcome, len(answers), detail)


def texts(reply: Reply) -> list[bytes]:
    """Return the messages of an answer, whether it came as JSON or as a stream."""
    return payloads(reply.body) if b"text/event-stream" in reply.head.lower() else [reply.body]


def outcome_of(message: dict[str, Any], mark: int) -> tuple[str, str]:
    """Say who ran a call or what its error says; (outcome, detail)."""
    if "error" in message:
        data = message["error"].get("data") or {}
        return str(data.get("outcome", "failed")), str(data.get("reason", message["error"]))
    text = str(message["result"]["content"][0]["text"])
    name, _, number = text.partition(" ran ")
    return (name, "") if number == str(mark) else ("failed", f"another call's answer: {text}")


class Steady:
    """Calls at a steady rate over a set of sessions: each begins when it is due, whatever became of those before."""

    def __init__(self, target: Target, sessions: Sequence[bytes], rate: float, first_mark: int) -> None:
        self.target = target
        self.sessions = sessions
        self.rate = rate
        self.first_mark = first_mark
        self.ended: list[Told] = []
        self.begun = 0
        self.is_stopped = False
        self._idle: deque[Connection] = deque()
        self._due: deque[tuple[int, float]] = deque()
        self._running: set[asyncio.Future[Told]] = set()

    async def run(self) -> None:
        """Call until `stop`, then wait for the answers that are missing."""
        async with connected(self.target.host, self.target.port, STEADY_CONNECTIONS) as connections:
            self._idle.extend(connections)
            began_at = time.perf_counter()
            while not self.is_stopped:
                due_at = began_at + self.begun / self.rate
                wait = due_at - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                    continue
                self._due.append((self.begun, due_at))
                self.begun += 1
                self._begin()
            await until(lambda: len(self.ended) == self.begun, "calls at the steady rate have no answer")

    def stop(self) -> None:
        """Begin no further call."""
        self.is_stopped = True

    def _begin(self) -> None:
        while self._due and self._idle:
            number, due_at = self._due.popleft()
            connection = self._idle.popleft()
            session = self.sessions[number % len(self.sessions)]
            # From the instant it was due: a call that had to wait for a connection has waited.
            future = connection.run(told(self.target, session, self.first_mark + number, QUICK, due_at))
            self._running.add(future)
            future.add_done_callback(functools.partial(self._end, connection, number, due_at))

    def _end(self, connection: Connection, number: int, due_at: float, future: asyncio.Future[Told]) -> None:
        self._running.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.ended.append(future.result())
            self._idle.append(connection)
        else:
            at = time.perf_counter()
            self.ended.append(Told(self.first_mark + number, due_at, at, "failed", 0, str(error)))
        self._begin()


@contextlib.asynccontextmanager
async def steady_calls(
    target: Target, sessions: Sequence[bytes], rate: float, first_mark: int
) -> AsyncIterator[Steady]:
    """Call at a steady rate until the end of the block; what is under way then is waited for."""
    steady = Steady(target, sessions, rate, first_mark)
    task = asyncio.get_running_loop().create_task(steady.run())
    try:
        yield steady
        steady.stop()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
