"""The edges without sockets and without waiting: transports in memory, a loop whose time is what it is told.

`Downstream` plays byte strings to a server's protocol and notes what its handler gets and what it writes; `Upstream`
does the same to a connection of the upstream edge. Which class is under test is a parameter. Each holds at once what
must hold of every input, and gives what was seen for what the caller knows of its input.
"""

import asyncio
import itertools
import logging
import random
import selectors
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuzz import model
from proxy.app import SERVERS
from proxy.clock import SystemClock
from proxy.config import Listen
from proxy.core.edge import Request, Sink
from proxy.upstream.answers import KnownHeads
from proxy.upstream.base import Loss
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import WireExchange
from support.raw_server import Heard

MAX_BODY_BYTES = 2048
HEAD_TIMEOUT_SECONDS = 30.0
PATIENCE_SECONDS = 120.0
"""Longer than every deadline of a server but that of an idle connection."""
PAUSED_TURNS = 30
"""Turns of the loop for a server to read on before the client gives up sending."""


class Stuck(Exception):  # noqa: N818
    """Nothing is left that could happen, and the case is not at its end."""


class _Selector(selectors.DefaultSelector):
    """Never waits: where nothing is ready, time moves on to the next timer."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        """Move the time on instead of waiting."""
        events = super().select(0)
        if not events:
            if timeout is None:
                raise Stuck
            self.loop.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that jumps from timer to timer. It makes no sockets: a server's protocol factory is kept instead."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.factory: Callable[[], asyncio.Protocol] | None = None
        self.defects: list[dict[str, Any]] = []
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self.set_exception_handler(lambda _, context: self.defects.append(context))

    def time(self) -> float:
        """Return the time that has been jumped to."""
        return self.now

    async def create_server(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        """Keep the factory."""
        self.factory = protocol_factory
        return _NoServer()


class _NoServer:
    def close(self) -> None:
        """Nothing was opened."""


class MemoryTransport(asyncio.Transport):
    """A connection whose other end is the test. Keeps to what asyncio promises of its own transports."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self.protocol: Any = None
        self.written: list[bytes] = []
        self.is_paused = False
        self.is_ending = False
        self.is_lost = False

    # -- what a protocol does

    def write(self, data: Any) -> None:
        """Take bytes; after the end they go nowhere."""
        assert isinstance(data, bytes | bytearray | memoryview), type(data)
        if not self.is_ending:
            self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """Take bytes."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """End; told in the next turn."""
        if not self.is_ending:
            self.is_ending = True
            self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        """End."""
        self.close()

    def is_closing(self) -> bool:
        """Tell whether the end has begun."""
        return self.is_ending

    def pause_reading(self) -> None:
        """Stop reading."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Go on reading."""
        self.is_paused = False

    def is_reading(self) -> bool:
        """Tell whether bytes are taken."""
        return not (self.is_paused or self.is_ending)

    def get_write_buffer_size(self) -> int:
        """Everything has left."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing ever waits."""

    def can_write_eof(self) -> bool:
        """As of a socket."""
        return True

    def write_eof(self) -> None:
        """Nobody here half-closes."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the one that is told."""
        return self.protocol

    # -- what the other end does

    def feed(self, data: bytes) -> bool:
        """Let bytes arrive; tell whether they were taken."""
        if not self.is_reading():
            return False
        self.protocol.data_received(data)
        return True

    def end(self) -> None:
        """Let the end of the other side's bytes arrive."""
        if not self.is_ending and not self.protocol.eof_received():
            self.close()

    def lose(self, error: Exception | None) -> None:
        """Let the connection be lost, once."""
        self.is_ending = True
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(error)


# -- downstream


HABITS = ("now", "turn", "later", "pieces", "stream", "late stream")
"""How a handler answers."""
FAULTS = ("silent", "abort", "abort behind the head", "raise")
"""How one does not."""


@dataclass
class Asked:
    """One request that reached the handler. Fulfils `core.edge.Watcher`."""

    number: int
    request: Request
    habit: str
    sink: Sink
    body: bytes
    """What it is answered with."""
    is_over: bool = False
    closed: int = 0

    def sink_closed(self) -> None:
        """Once, and not behind the end."""
        assert not self.is_over, "told of a client's end behind the answer's"
        self.closed += 1
        assert self.closed == 1, "told twice"

    def sink_drained(self) -> None:
        """Never: nothing waits here."""
        raise AssertionError("drained without having been congested")


@dataclass
class Course:
    """What came of a case."""

    asked: list[Asked]
    written: bytes
    answers: model.Reading
    is_closed: bool
    """The server ended the connection, before the client did."""
    sent: bytes
    """What the client could send."""


class Downstream:
    """One server of a kind, for any number of connections."""

    def __init__(self, kind: str, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.kind = kind
        self.loop = VirtualLoop()
        self._asked: list[Asked] = []
        self._habits: itertools.cycle[str] = itertools.cycle(["now"])
        self._max_body_bytes = max_body_bytes
        self._complaints: list[str] = []
        logging.getLogger("aiohttp.server").addFilter(self._complain)
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        config = Listen(max_body_bytes=self._max_body_bytes, head_timeout_seconds=HEAD_TIMEOUT_SECONDS)
        server = SERVERS[self.kind](self._handle, config, 45.0, SystemClock(self.loop))
        with socket.socket(socket.AF_UNIX) as sock:
            await server.start(sock)
        assert self.loop.factory is not None

    def close(self) -> None:
        """End."""
        logging.getLogger("aiohttp.server").removeFilter(self._complain)
        asyncio.set_event_loop(None)
        self.loop.close()

    def _complain(self, record: logging.LogRecord) -> bool:
        """Keep what the library logs to ourselves: a traceback for whatever is no HTTP."""
        self._complaints.append(record.getMessage())
        return False

    def play(
        self, pieces: Sequence[bytes], *, habits: Sequence[str] = ("now",), ending: str = "stay", turns: int = 1
    ) -> Course:
        """Send pieces, with *turns* of the loop behind each, and end by `stay`, `close` or `reset`."""
        self._asked = []
        self._habits = itertools.cycle(habits)
        self.loop.defects.clear()
        self._complaints.clear()
        return self.loop.run_until_complete(self._play(pieces, ending, turns))

    async def _play(self, pieces: Sequence[bytes], ending: str, turns: int) -> Course:
        assert self.loop.factory is not None
        transport = MemoryTransport(self.loop)
        transport.protocol = self.loop.factory()
        transport.protocol.connection_made(transport)
        sent = []
        for piece in pieces:
            for _ in range(PAUSED_TURNS):
                if transport.is_reading():
                    break
                await asyncio.sleep(0)
            if not transport.feed(piece):
                break
            sent.append(piece)
            for _ in range(turns):
                await asyncio.sleep(0)
        if ending == "stay":
            await asyncio.sleep(PATIENCE_SECONDS)
        elif ending == "close":
            transport.end()
        is_closed = transport.is_ending
        if ending == "reset" or not is_closed:
            transport.lose(ConnectionResetError("reset"))
        await self._settle()
        assert transport.is_lost
        written = b"".join(transport.written)
        methods = [asked.request.head.method for asked in self._asked]
        course = Course(self._asked, written, model.answers(written, methods), is_closed, b"".join(sent))
        self._check(course, ending)
        return course

    async def _settle(self) -> None:
        """Let everything come to its end; what does not is a leak."""
        for _ in range(20):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set(), f"tasks that outlive their connection: {left}"

    def _handle(self, request: Request, sink: Sink) -> None:
        number = len(self._asked)
        habit = next(self._habits)
        if request.head.method == "HEAD" and "stream" in habit:
            # No handler of the product does that: a HEAD has one answer, 405, which is whole.
            habit = "later"
        asked = Asked(number, request, habit, sink, b"<%d:%d>" % (number, len(request.body)))
        self._asked.append(asked)
        sink.watch(asked)
        match asked.habit:
            case "now":
                self._answer(asked)
            case "turn":
                self.loop.call_soon(self._answer, asked)
            case "later":
                self.loop.call_later(1.0, self._answer, asked)
            case "pieces":
                self._begin(asked)
                self._finish(asked)
            case "stream":
                self._begin(asked)
                self.loop.call_soon(self._finish, asked)
            case "late stream":
                self.loop.call_later(1.0, self._begin, asked)
                self.loop.call_later(2.0, self._finish, asked)
            case "abort":
                asked.is_over = True
                sink.abort()
            case "abort behind the head":
                self._begin(asked)
                asked.is_over = True
                sink.abort()
            case "raise":
                asked.is_over = True
                raise RuntimeError("a defect on purpose")

    @staticmethod
    def _answer(asked: Asked) -> None:
        asked.is_over = True
        asked.sink.answer(200, [("Content-Type", "text/plain")], asked.body)

    @staticmethod
    def _begin(asked: Asked) -> None:
        asked.sink.start(200, [("Content-Type", "text/plain")])
        asked.sink.write(asked.body[:2])

    @staticmethod
    def _finish(asked: Asked) -> None:
        asked.sink.write(asked.body[2:])
        asked.is_over = True
        asked.sink.finish()

    # -- what must hold of every input

    def _check(self, course: Course, ending: str) -> None:
        is_raising = any(asked.habit == "raise" for asked in course.asked)
        if not is_raising:
            assert self.loop.defects == [], self.loop.defects
            assert not any("Unhandled" in line for line in self._complaints), self._complaints
        answers = [message for message in course.answers.messages if message.status >= 200]
        assert course.answers.end != "doubt", course.written
        own = [message for message in answers if message.status == 200]
        # At most one for each request, in their order, and behind them at most one of the server's own, which is its
        # last word.
        for asked, message in zip(course.asked, own, strict=False):
            expected = asked.body if asked.request.head.method != "HEAD" else b""
            if message.is_close_delimited:
                # A defect of the edge, told in tests/downstream: an old client that would keep the connection gets
                # its next answer behind a body that only the end of the connection ends.
                assert message.body.startswith(expected) or ending != "stay", (asked, message)
                return
            assert message.body == expected, (asked, message)
        assert len(own) <= len(course.asked)
        refusals = answers[len(own) :]
        assert all(message.status in (400, 408, 413, 500) for message in refusals), refusals
        assert len(refusals) <= 1
        assert not refusals or ending != "stay" or course.is_closed, "a refusal that does not end the connection"
        self._check_requests(course, ending, is_refused=bool(refusals))

    def _check_requests(self, course: Course, ending: str, *, is_refused: bool) -> None:
        """Hold what the handler got against what the model reads in the same bytes."""
        reading = model.requests(course.sent)
        for asked, message in itertools.zip_longest(course.asked, reading.messages):
            if asked is None:
                break
            head, body = asked.request.head, asked.request.body
            assert message is not None, f"a request that is none: {head.method} {head.path} {body!r} in {course.sent!r}"
            assert (head.method.encode(), head.path.encode("utf-8", "surrogateescape")) == (
                message.method,
                message.target,
            )
            codings = message.get(b"content-encoding")
            if not any(coding.lower() in (b"gzip", b"deflate", b"br", b"zstd") for coding in codings):
                assert body == message.body, "another body than was framed"
                assert _pairs(asked.request) == _without_length(message.headers), "other headers than were sent"
            if b"upgrade" in b",".join(message.get(b"connection")).lower():
                # A defect of the edge, told in tests/downstream: what is behind an upgrade in its segment is lost.
                return
        if ending == "stay" and not course.is_closed and not any(asked.habit in FAULTS for asked in course.asked):
            # It is still open: then it is idle, and every request was answered.
            assert reading.end == "whole" or self._is_unbounded(reading), "a connection that waits for ever"
            assert len(course.asked) == len(reading.messages)
            assert len(course.answers.messages) >= len(course.asked)

    @staticmethod
    def _is_unbounded(reading: model.Reading) -> bool:
        """Tell whether a head has begun behind a request: a defect of the edge, told in tests/downstream."""
        return reading.end == "more" and bool(reading.messages) and b"\r\n\r\n" not in reading.rest


def _pairs(request: Request) -> model.Pairs:
    pairs = [(name, value) for name, value in request.headers if name.lower() != "content-length"]
    return [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in pairs]


def _without_length(pairs: model.Pairs) -> model.Pairs:
    return [pair for pair in pairs if pair[0] != b"content-length"]


# -- upstream


class _Pool:
    """Notes what connections tell. Fulfils `upstream.connection.Pool`."""

    def __init__(self, heads: KnownHeads) -> None:
        self.heads = heads
        self.told: list[str] = []
        self.defects: list[Any] = []

    def opened(self, connection: Connection) -> None:
        """Note it."""

    def rest(self, connection: Connection) -> None:
        """Note it."""
        self.told.append("rest")

    def closed(self, connection: Connection) -> None:
        """Note it."""

    def report(self, context: dict[str, object]) -> None:
        """Note it."""
        self.defects.append(context)


@dataclass
class Told:
    """What came of an exchange."""

    status: int | None
    headers: list[tuple[str, str]]
    body: bytes
    end: bool | Loss
    is_kept: bool
    """The connection may be used again."""
    rest: list[bytes] = field(default_factory=list)
    """Segments that were not sent any more."""


class Upstream:
    """Connections of the upstream edge, which share what they learn."""

    def __init__(self, make: Callable[[Any], Any] = Connection) -> None:
        self._make = make
        self._heads = KnownHeads()
        self._loop = VirtualLoop()

    def close(self) -> None:
        """End."""
        self._loop.close()

    def forget(self) -> None:
        """Forget all heads."""
        self._heads = KnownHeads()

    def play(self, *answers: Sequence[bytes], reset: bool = False, abort_at: int | None = None) -> list[Told]:
        """Make an exchange for each answer, on one connection as long as it may be kept; behind the last it ends.

        *abort_at*: the piece at which the last receiver cuts its exchange.
        """
        told: list[Told] = []
        connection = transport = pool = None
        for number, pieces in enumerate(answers):
            if connection is None or not told[-1].is_kept:
                pool = _Pool(self._heads)
                transport = MemoryTransport(self._loop)
                connection = transport.protocol = self._make(pool)
                connection.connection_made(transport)
            is_last = number == len(answers) - 1
            told.append(self._exchange(connection, transport, pool, pieces, reset=reset, is_last=is_last, cut=abort_at))
        return told

    @staticmethod
    def _exchange(
        connection: Any,
        transport: Any,
        pool: Any,
        pieces: Sequence[bytes],
        *,
        reset: bool,
        is_last: bool,
        cut: int | None,
    ) -> Told:
        heard = Heard()
        pool.told.clear()
        assert connection.is_usable
        exchange = WireExchange(heard)
        connection.begin(exchange, b"POST / HTTP/1.1\r\n\r\n", b"", keep=True)
        left = list(pieces)
        while left and not transport.is_ending and not heard.is_over:
            transport.feed(left.pop(0))
            if is_last and cut is not None and len(pieces) - len(left) == cut:
                exchange.abort()
                heard.is_aborted = True
        is_kept = pool.told == ["rest"] and not transport.is_ending
        if left and is_kept:
            # Nobody asked for what comes now: the connection ends, and nobody hears of it.
            transport.feed(left[0])
            assert transport.is_ending
            is_kept = False
        if not is_kept or is_last:
            if not transport.is_ending:
                transport.end()
            transport.lose(ConnectionResetError("reset") if reset else None)
            is_kept = False
        assert heard.violations == [], heard.violations
        assert pool.defects == []
        assert heard.is_over or heard.is_aborted, "an exchange without an end"
        end = heard.proven if heard.loss is None else heard.loss
        return Told(heard.status, heard.headers, heard.body, end, is_kept, left)  # type: ignore[arg-type]


def cut(data: bytes, seed: int, most: int = 8) -> list[bytes]:
    """Cut into segments; the same seed cuts alike."""
    dice = random.Random(seed)
    places = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(most))) if data else []
    return [piece for piece in (data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])) if piece]
