"""One client connection on a transport that the test plays: requests in, answers out, nothing in a wrong place."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.edge import Request, Sink
from proxy.core.headers import Block
from proxy.core.ids import SessionId
from proxy.downstream.connection import EARLY_BYTES, Connection
from proxy.downstream.heads import COPIED_BYTES, Heads
from proxy.downstream.sink import BURST_BYTES
from proxy.wheel import Queue
from support.asked import Asked
from support.fakes import FakeClock

TIMEOUT = 16.0
MAX_BODY = 1000
TEXT = [("Content-Type", "text/plain")]
STREAM = Block([("Content-Type", "text/event-stream")])


def post(body: bytes = b"", *lines: bytes, length: int | None = None) -> bytes:
    """Write a POST as one client software does: every head the same but for the length."""
    length = len(body) if length is None else length
    fields = (b"Host: h", b"Content-Length: %d" % length, b"Accept: */*", *lines)
    return b"POST /mcp HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in fields) + b"\r\n" + body


GET = b"GET /mcp HTTP/1.1\r\nHost: h\r\n\r\n"


LENGTHS = [1, 2, *range(8, 13), *range(97, 104), *range(997, 1005), *range(9_997, 10_006), 100_000]
"""Where a number gets another digit."""


class FakeTransport(asyncio.Transport):
    """Takes what is written, and ends when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.pieces: list[bytes] = []
        self.is_cut = False
        self.is_closed = False
        self.is_paused = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        """Record."""
        assert not self.is_closing(), "written behind the end"
        self.pieces.append(data)
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        """Record."""
        for data in list_of_data:
            self.write(data)

    def abort(self) -> None:
        """Record the cut; the loop tells it later."""
        self.is_cut = True

    def close(self) -> None:
        """Record the close; the loop tells it later."""
        self.is_closed = True

    def is_closing(self) -> bool:
        """Tell whether it was ended."""
        return self.is_cut or self.is_closed

    def pause_reading(self) -> None:
        """Record."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Record."""
        self.is_paused = False

    def set_protocol(self, protocol: Any) -> None:
        """Record."""
        self.protocol = protocol

    def get_protocol(self) -> Any:
        """Return what was set."""
        return self.protocol


class Library(asyncio.Protocol):
    """Whoever a connection is handed to."""

    is_paused = False

    def pause_writing(self) -> None:
        """Note it."""
        self.is_paused = True


class Line:
    """A connection between a client and a handler, both played by the test. Fulfils `connection.Server`."""

    kind = "new heads"
    """Whether a head was read before: never, on another connection, or on this one."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.max_body_bytes = MAX_BODY
        self.due = Queue(self.clock, TIMEOUT)
        self.era = 0
        self.heads = Heads()
        self.is_closing = False
        self.asked: list[Asked] = []
        self.do: Callable[[Request, Sink], None] | None = None
        self.held: set[Connection] = set()
        self.handed: list[tuple[bytes, bool]] = []
        self.library = Library()
        self.failures: list[Exception] = []
        self.callbacks: list[Callable[[], None]] = []
        if self.kind == "known heads":
            self.heads.read(post(length=7)[:-2])
            self.heads.read(GET[:-2])
        self.transport = FakeTransport()
        self.connection = Connection(self)
        self.connection.connection_made(self.transport)
        if self.kind == "repeated head":
            self.feed(post(b"before"))
            self.asked.pop().sink.answer(202, [], b"")
            self.transport.written = b""
            self.transport.pieces.clear()

    # -- what a connection needs

    def handle(self, request: Request, sink: Sink) -> None:
        """Keep a request."""
        self.asked.append(Asked(request, sink))
        if self.do is not None:
            self.do(request, sink)

    def date(self) -> bytes:
        """Return a date."""
        return b"Date: now\r\n"

    def soon(self, callback: Callable[[], None]) -> None:
        """Keep it for `turn`."""
        self.callbacks.append(callback)

    def opened(self, connection: Connection) -> None:
        """Note it."""
        self.held.add(connection)

    def closed(self, connection: Connection) -> None:
        """Note it."""
        self.held.discard(connection)

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, is_followed: bool) -> None:
        """Note it."""
        assert transport is self.transport
        assert not self.transport.is_paused
        transport.set_protocol(self.library)
        self.handed.append((data, is_followed))

    def failed(self, error: Exception) -> None:
        """Note it."""
        self.failures.append(error)

    # -- what the test does

    def feed(self, *pieces: bytes) -> "Line":
        """Let bytes arrive, as long as they are this connection's."""
        for piece in pieces:
            if self.transport.protocol is None and not self.transport.is_closing():
                self.connection.data_received(piece)
        return self

    def turn(self) -> None:
        """Run what is to run at the end of this turn of the loop."""
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def lose(self) -> None:
        """Let the connection end."""
        self.connection.connection_lost(None)

    @property
    def last(self) -> Asked:
        """The request that came last."""
        return self.asked[-1]

    @property
    def answers(self) -> list["Answer"]:
        """What the client has got."""
        return Client(self.transport.written).answers


class Answer:
    """One answer as a client reads it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_whole = False


class Client:
    """Reads answers."""

    def __init__(self, data: bytes) -> None:
        self.answers: list[Answer] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Begin one."""
        self.answers.append(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep it."""
        self.answers[-1].headers[name.decode()] = value.decode()

    def on_headers_complete(self) -> None:
        """Keep the status."""
        self.answers[-1].status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Keep it."""
        self.answers[-1].body += body

    def on_message_complete(self) -> None:
        """Note it."""
        self.answers[-1].is_whole = True


@pytest.fixture(autouse=True, params=["new heads", "known heads", "repeated head"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every test against heads read for the first time, read for others, and read on this connection."""
    monkeypatch.setattr(Line, "kind", request.param)


def bytewise(data: bytes) -> list[bytes]:
    """Cut into single bytes."""
    return [data[at : at + 1] for at in range(len(data))]


def echo(request: Request, sink: Sink) -> None:
    """Answer at once, with the body."""
    sink.answer(200, TEXT, request.body)


# -- requests


def test_a_request_is_handed_on_whole_and_answered() -> None:
    """Head and body in one piece: one call, one write."""
    line = Line().feed(post(b"hello"))
    request = line.last.request

    assert (request.head.method, request.head.path, request.body) == ("POST", "/mcp", b"hello")

    line.last.sink.answer(200, TEXT, b"world", SessionId("s"))

    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nMcp-Session-Id: s\r\nServer: mcp-session-proxy\r\n"

    assert line.transport.pieces == [head + b"Content-Length: 5\r\nDate: now\r\n\r\nworld"]
    assert not line.transport.is_closing()
    assert line.held == {line.connection}


def test_requests_follow_each_other() -> None:
    """With bodies of other lengths, without one, and back; each answered in its turn."""
    line = Line()
    line.do = echo
    for body in (b"1", b"a longer body", b"2", b"", b"3", b"x" * MAX_BODY, b""):
        line.feed(post(body) if body else GET)

        assert line.last.request.head.method == ("POST" if body else "GET")
        assert line.answers[-1].body == body
        assert line.answers[-1].is_whole

    assert len(line.asked) == len(line.answers) == 7
    assert line.handed == []


def test_a_repeated_head_is_the_same_object() -> None:
    """What was found out about it is not found out again."""
    line = Line()
    line.do = echo
    one, other = b"Mcp-Session-Id: one", b"Mcp-Session-Id: other"
    line.feed(post(b"1", one), post(b"22", one), post(b"22", other), post(b"22", other))
    first, second, third, fourth = (asked.request.head for asked in line.asked)

    assert first is second
    assert second is not third
    assert third is fourth


@pytest.mark.parametrize("size", [1, 12, MAX_BODY])
def test_a_request_may_come_in_any_pieces(size: int) -> None:
    """The body at least: a request line in pieces is the library's."""
    data = post(b"b" * size)
    start = data.find(b"\r\n") + 2
    ways: list[list[bytes]] = [[data[:at], data[at:]] for at in range(start, len(data))]
    for pieces in [*ways, [data[:start], *bytewise(data[start:])]]:
        line = Line().feed(*pieces)

        assert [asked.request.body for asked in line.asked] == [b"b" * size]
        assert line.handed == []


def test_nothing_is_handled_before_its_end() -> None:
    """Neither a head nor a body that has only begun."""
    data = post(b"hello")
    line = Line()
    for at in range(data.find(b"\r\n") + 2, len(data) - 1):
        line = Line().feed(data[:at], data[at : at + 1])

        assert line.asked == line.handed == []
        assert not line.transport.pieces

    line.feed(data[-1:])

    assert len(line.asked) == 1


# -- time


def test_a_head_that_does_not_come_ends_the_connection() -> None:
    """From the first byte of it on, however it dribbles; the first one from the beginning."""
    line = Line()
    line.feed(post(b"x")[:-9], b"x", b"y")
    line.clock.advance(TIMEOUT / 2)
    line.feed(b"z")
    line.clock.advance(TIMEOUT / 2 - 0.01)

    assert not line.transport.is_closing()

    line.clock.advance(0.01 + TIMEOUT / 16)

    assert line.transport.is_closed
    assert not line.transport.pieces
    assert line.asked == []

    fresh = Line()
    fresh.clock.advance(TIMEOUT * 17 / 16)

    assert fresh.transport.is_closed == (Line.kind != "repeated head")


def test_a_body_that_does_not_come_is_told_so() -> None:
    """408 and the end, without a handler; what comes of it later is no request."""
    line = Line().feed(post(b"hel", length=5))
    line.clock.advance(TIMEOUT - 0.01)

    assert not line.transport.is_closing()

    line.clock.advance(0.01 + TIMEOUT / 16)
    answer = line.answers[0]

    assert (answer.status, answer.headers["Connection"], answer.is_whole) == (408, "close", True)
    assert b"body_timeout" in answer.body
    assert line.transport.is_closed
    assert line.asked == []
    assert len(line.due) == 0


def test_who_is_answered_or_asks_in_time_is_not_short_of_it() -> None:
    """Neither an idle connection, nor a handler that takes long, nor a request behind a slow one."""
    line = Line()
    for _ in range(3):
        line.feed(post(b"hello")[:-1])
        line.clock.advance(TIMEOUT * 0.9)
        line.feed(b"o")
        line.clock.advance(TIMEOUT * 5)
        echo(line.last.request, line.last.sink)
        line.clock.advance(TIMEOUT * 5)

    assert len(line.answers) == 3
    assert not line.transport.is_closing()


def test_whoever_is_gone_is_not_awaited() -> None:
    """Lost, handed over or closed: its deadline goes with it."""
    for end in (
        lambda line: line.lose(),
        lambda line: line.feed(b"\0\r\n\r\n"),
        lambda line: line.connection.close(),
    ):
        line = Line().feed(post(b"x")[:-3])

        assert len(line.due) == 1

        end(line)

        assert len(line.due) == 0


def test_the_time_of_the_last_answer_is_kept() -> None:
    """In the server's eras: an idle connection is known by it."""
    line = Line().feed(post(b"1"))
    line.era = 7

    assert not line.connection.is_idle

    line.last.sink.answer(200, TEXT, b"1")

    assert line.connection.era == 7
    assert line.connection.is_idle

    line.feed(post(b"22")[:-1])

    assert not line.connection.is_idle


# -- what is the library's


@pytest.mark.parametrize(
    "data",
    [
        post(b"x", b"Connection: close"),
        post(b"x", b"Transfer-Encoding: chunked"),
        post(b"x").replace(b"1.1", b"1.0"),
        post(b""),
        post(b"x").replace(b"Content-Length", b"CONTENT-LENGTH"),
        post(length=MAX_BODY + 1),
        post(b"x" * (MAX_BODY + 1)),
        GET.replace(b"GET", b"PUT"),
        b"\x16\x03\x01\x02\x00\x01",
        b"P",
        b"POST /mcp HTTP/1.1\r\nHost: h\r\n folded",
    ],
)
def test_what_is_odd_is_handed_over(data: bytes) -> None:
    """With all its bytes and for ever; nobody here holds the connection any more."""
    line = Line().feed(data)

    assert line.handed == [(data, False)]
    assert line.asked == []
    assert line.held == set()
    assert not line.transport.is_closing()
    assert not line.library.is_paused


def test_what_turns_out_odd_is_handed_over_with_all_that_came() -> None:
    """The pieces before it too."""
    data = post(b"x", b"Upgrade: x")
    start, head = data.find(b"\r\n") + 2, data.find(b"\r\n\r\n") + 4
    for at in range(start, len(data)):
        line = Line().feed(data[:start], data[start:at], data[at:])

        assert line.handed == [(data[:at] if at >= head else data, False)]

    line = Line().feed(data[:start], b"X", b" y")

    assert line.handed == [(data[:start] + b"X y", False)]


def test_requests_in_one_piece_are_handed_over_together() -> None:
    """What stands behind the first decides whether that is answered."""
    data = post(b"1") + post(b"2")
    line = Line().feed(data)

    assert line.handed == [(data, True)]
    assert line.asked == []


def test_a_known_length_that_is_none_is_not_taken_for_one() -> None:
    """The head that came last is recognised with a plain length only."""
    for odd in (b"", b"0", b"05", b"+5", b" 5", b"5 ", b"0x5", b"5,5", b"\xb25", b"10000000000", b"5\n", b"5\r"):
        data = post(b"hello").replace(b": 5", b": " + odd)
        line = Line()
        line.do = echo
        line.feed(post(b"before"), data)

        assert [asked.request.body for asked in line.asked] == [b"before"]
        assert line.handed == [(data, False)]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_byte_more_or_less_is_not_taken_for_another_length(length: int) -> None:
    """Where the number of digits changes as well: a length that is worked out of a read's size could be off by one."""
    data = post(b"b" * length)
    line = Line()
    line.max_body_bytes = length + 10
    line.do = echo
    line.feed(post(b"before"), data[:-1])

    assert [asked.request.body for asked in line.asked] == [b"before"]

    line.feed(data[-1:], data, data + b"P")

    assert [asked.request.body for asked in line.asked] == [b"before", b"b" * length, b"b" * length]
    assert line.handed == [(data + b"P", True)]


# -- bytes that come too early


def test_what_comes_too_early_waits_for_the_answer() -> None:
    """And is the library's then, with every byte of it; the answer is written first."""
    for pieces in ([post(b"1"), post(b"2")], [post(b"1")[:-1], b"1" + post(b"2")], [post(b"1"), *bytewise(post(b"2"))]):
        line = Line().feed(*pieces)

        assert len(line.asked) == 1
        assert line.last.request.body == b"1"
        assert line.handed == []

        line.last.sink.answer(200, TEXT, b"one")

        assert [data for data, _ in line.handed] == [post(b"2")]
        assert line.answers[0].body == b"one"
        assert line.held == set()


def test_what_comes_behind_a_body_is_not_lost_when_the_answer_comes_at_once() -> None:
    """The answer is given from inside of the call that took the body's end."""
    line = Line()
    line.do = echo
    line.feed(post(b"hello")[:-2], b"lo" + post(b"2"))

    assert line.answers[0].body == b"hello"
    assert [data for data, _ in line.handed] == [post(b"2")]


def test_a_client_that_sends_on_is_not_read_for_ever() -> None:
    """Beyond a bound it waits; afterwards the library reads."""
    line = Line().feed(post(b"1"), bytes(EARLY_BYTES))

    assert not line.transport.is_paused

    line.feed(b"x")

    assert line.transport.is_paused

    line.last.sink.answer(200, TEXT, b"one")

    assert [data for data, _ in line.handed] == [bytes(EARLY_BYTES) + b"x"]
    assert not line.transport.is_paused


def test_a_client_that_does_not_read_is_handed_over_as_such() -> None:
    """The transport does not say it a second time: the library would write on without end."""
    line = Line().feed(post(b"1"), post(b"2"))
    line.connection.pause_writing()
    line.last.sink.answer(200, TEXT, b"one")

    assert line.handed
    assert line.library.is_paused


# -- answers


def test_a_large_body_is_not_copied() -> None:
    """A small one is: one write is cheaper than two buffers."""
    line = Line()
    for size in (COPIED_BYTES - 1, COPIED_BYTES):
        body = b"x" * size
        line.transport.pieces.clear()
        line.feed(post(b"1"))
        line.last.sink.answer(200, TEXT, body)

        assert line.answers[-1].body == body
        assert any(piece is body for piece in line.transport.pieces) == (size == COPIED_BYTES)

        line.transport.pieces.clear()
        line.feed(post(b"1"))
        line.last.sink.start(200, STREAM)
        line.turn()
        line.last.sink.write(body)
        line.last.sink.finish()

        assert line.answers[-1].body == body
        assert any(piece is body for piece in line.transport.pieces) == (size == COPIED_BYTES)


def test_an_answer_that_is_over_in_one_turn_has_its_length() -> None:
    """Whatever pieces it was given in; nothing of it is written twice."""
    line = Line().feed(post(b"1"))
    sink = line.last.sink
    sink.start(200, STREAM, SessionId("s"))
    sink.write(b"a")
    sink.write(b"b")

    assert not line.transport.pieces

    sink.finish()
    line.turn()

    assert len(line.transport.pieces) == 1
    assert line.answers[0].headers["Content-Length"] == "2"
    assert line.answers[0].headers["Mcp-Session-Id"] == "s"
    assert line.answers[0].body == b"ab"


def test_an_answer_in_pieces_leaves_turn_by_turn() -> None:
    """Its head with what is there at the end of the turn, each piece behind it at once, its end for itself."""
    line = Line().feed(GET)
    sink = line.last.sink
    sink.start(200, STREAM, SessionId("s"))
    sink.write(b"a")
    sink.write(b"b")
    line.turn()

    assert len(line.transport.pieces) == 1
    assert line.answers[0].body == b"ab"
    assert line.answers[0].headers["Mcp-Session-Id"] == "s"
    assert not line.answers[0].is_whole

    sink.write(b"c" * 17)

    assert line.transport.pieces[1:] == [b"11\r\n" + b"c" * 17 + b"\r\n"]

    sink.finish()

    assert line.answers[0].is_whole
    assert not line.transport.is_closing()

    line.feed(post(b"next"))

    assert line.last.request.body == b"next"


@pytest.mark.parametrize("size", [1, 16, COPIED_BYTES - 1, COPIED_BYTES])
def test_a_piece_that_is_offered_leaves_as_one_that_is_written(size: int) -> None:
    """Byte by byte, and a large one uncopied."""
    piece, ways = bytes(size), []
    for verb in ("write", "offer"):
        line = Line().feed(post(b"1"))
        line.last.sink.start(200, [])
        line.turn()
        line.transport.written = b""
        getattr(line.last.sink, verb)(piece)
        ways.append(line.transport.written)

        assert any(sent is piece for sent in line.transport.pieces) == (size == COPIED_BYTES)
    assert ways[0] == ways[1] == b"%x\r\n%b\r\n" % (size, piece)


def test_a_stream_may_begin_without_a_byte() -> None:
    """The client sees that it is open."""
    line = Line().feed(GET)
    line.last.sink.start(200, STREAM)
    line.turn()

    assert (line.answers[0].status, line.answers[0].body, line.answers[0].is_whole) == (200, b"", False)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_none(status: int) -> None:
    """Whatever it is given: the next answer would begin in the middle of it."""
    line = Line().feed(post(b"1"))
    line.last.sink.answer(status, [], b"body")

    assert line.transport.written.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in line.transport.written


def test_an_answer_that_says_close_is_the_last() -> None:
    """The connection ends behind it, whatever the client has sent on."""
    line = Line().feed(post(b"1"), post(b"2"))
    line.last.sink.answer(413, [*TEXT, ("Connection", "close")], b"no")

    assert line.transport.is_closed
    assert line.handed == []
    assert line.answers[0].body == b"no"


def test_a_closing_server_takes_no_further_request() -> None:
    """The answer under way is the last one; until it has left the server holds the connection."""
    line = Line().feed(post(b"1"), post(b"2"))
    line.is_closing = True
    line.last.sink.answer(200, TEXT, b"one")

    assert line.transport.is_closed
    assert line.handed == []
    assert line.held == {line.connection}

    line.lose()

    assert line.held == set()


def test_an_aborted_answer_cuts_the_connection() -> None:
    """Before its head and behind it; nobody is told of an end that he made."""
    for has_head in (False, True):
        line = Line().feed(post(b"1"))
        asked = line.last
        asked.sink.start(200, STREAM)
        asked.sink.write(b"a")
        if has_head:
            line.turn()
        asked.sink.abort()
        line.turn()
        line.lose()

        assert line.transport.is_cut
        assert bool(line.transport.pieces) == has_head
        assert not any(answer.is_whole for answer in line.answers)
        assert asked.closed == 0


# -- the client's side


def test_a_client_that_goes_is_told_once() -> None:
    """To who watches its answer, as long as that is not over; what is said then goes nowhere."""
    for begin in (lambda sink: None, lambda sink: sink.start(200, STREAM)):
        line = Line().feed(post(b"1"))
        asked = line.last
        begin(asked.sink)
        line.lose()
        line.turn()
        written = line.transport.written
        asked.sink.write(b"x")
        asked.sink.finish()
        asked.sink.answer(200, TEXT, b"late")
        asked.sink.abort()

        assert asked.closed == 1
        assert not asked.sink.congested
        assert line.transport.written == written
        assert not line.transport.is_closing()
        assert line.held == set()


def test_the_end_of_the_clients_bytes_is_its_end() -> None:
    """The transport closes by itself."""
    assert Line().connection.eof_received() is False


def test_a_cut_connection_tells_its_watcher() -> None:
    """Cut by the server, not by the answer."""
    line = Line().feed(post(b"1"))
    line.connection.cut()
    line.lose()

    assert line.transport.is_cut
    assert line.last.closed == 1

    line.connection.cut()


def test_a_client_that_does_not_read_congests_its_answer() -> None:
    """Until it reads; then who asked is told, and who did not ask is not."""
    line = Line().feed(GET)
    asked = line.last
    asked.sink.start(200, STREAM)
    line.turn()

    assert not asked.sink.congested

    line.connection.pause_writing()
    line.connection.resume_writing()

    assert asked.drained == 0

    line.connection.pause_writing()

    assert asked.sink.congested

    line.connection.resume_writing()

    assert asked.drained == 1
    assert not asked.sink.congested


def test_a_client_that_did_not_read_its_last_answer_congests_the_next() -> None:
    """It is the connection that is full."""
    line = Line().feed(post(b"1"))
    line.connection.pause_writing()
    line.last.sink.answer(200, TEXT, b"1")
    line.feed(post(b"2"))

    assert line.last.sink.congested

    line.connection.resume_writing()

    assert [asked.drained for asked in line.asked] == [0, 1]


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_burst_congests_before_anything_could_be_written(is_taken: bool) -> None:
    """What gathers in one turn is bounded; the first write shows whether the client takes it."""
    line = Line().feed(GET)
    asked = line.last
    asked.sink.start(200, STREAM)
    asked.sink.write(b"x" * (BURST_BYTES - 1))

    assert not asked.sink.congested

    asked.sink.write(b"x")

    assert asked.sink.congested

    if not is_taken:
        line.connection.pause_writing()
    line.turn()

    assert asked.drained == int(is_taken)
    assert asked.sink.congested == (not is_taken)

    line.connection.resume_writing()

    assert asked.drained == 1


# -- defects of our own


def test_a_handler_that_raises_is_answered_and_reported() -> None:
    """500 and the end of the connection; where its answer has begun, a cut; where it is over, nothing."""
    error = RuntimeError("defect")

    def fail(*verbs: Callable[[Sink], None]) -> Line:
        def handle(request: Request, sink: Sink) -> None:
            for verb in verbs:
                verb(sink)
            raise error

        line = Line()
        line.do = handle
        line.feed(post(b"1"))
        line.turn()

        assert line.failures == [error]

        return line

    line = fail()

    assert line.answers[0].status == 500
    assert line.answers[0].headers["Connection"] == "close"
    assert line.transport.is_closed

    line = fail(lambda sink: sink.start(200, STREAM), lambda sink: sink.write(b"x"))

    assert line.transport.is_cut
    assert not line.transport.pieces

    line = fail(lambda sink: sink.answer(200, TEXT, b"done"))

    assert [answer.body for answer in line.answers] == [b"done"]
    assert not line.transport.is_closing()

    line = fail(lambda sink: sink.start(200, STREAM), lambda sink: sink.write(b"x"), lambda sink: sink.finish())

    assert [answer.body for answer in line.answers] == [b"x"]
    assert not line.transport.is_closing()


# -- properties

VERBS = ["answer", "start", "write", "finish", "abort", "congested"]


def say(sink: Sink, verb: str, tag: bytes) -> None:
    """Tell a sink one thing, marked as its own."""
    if verb == "answer":
        sink.answer(200, [("X-Of", tag.decode())], tag)
    elif verb == "start":
        sink.start(200, [("X-Of", tag.decode())])
    elif verb == "write":
        sink.write(tag)
    elif verb == "congested":
        _ = sink.congested
    else:
        getattr(sink, verb)()


class Talk:
    """A present request, how far its answer has come, and those before it."""

    def __init__(self) -> None:
        self.line = Line()
        self.state = ""

    def step(self, verb: str, whom: int) -> None:
        """Do one thing that may happen: to the present answer what the contract allows, to old ones anything."""
        line = self.line
        if verb in VERBS and line.asked:
            number = whom % len(line.asked)
            tag = b"<%d>" % number
            if number < len(line.asked) - 1 or not self.state:
                say(line.asked[number].sink, verb, tag)
            elif verb in {"asked": ("answer", "start", "abort"), "started": ("write", "finish", "abort")}[self.state]:
                say(line.asked[number].sink, verb, tag)
                self.state = {"start": "started", "write": "started"}.get(verb, "")
        elif verb == "ask" and not self.state:
            before = len(line.asked)
            line.feed(post(b"%d" % whom))
            self.state = "asked" if len(line.asked) > before else ""
        elif verb == "early" and self.state:
            line.feed(post(b"early"))
        elif verb == "turn":
            line.turn()
        elif verb == "pause" and not line.connection.is_paused:
            line.connection.pause_writing()
        elif verb == "resume" and line.connection.is_paused:
            line.connection.resume_writing()


STEPS = st.tuples(st.sampled_from([*VERBS, "ask", "ask", "turn", "early", "pause", "resume"]), st.integers(0, 5))


@given(st.lists(STEPS, max_size=40), st.booleans())
def test_no_answer_holds_a_word_of_another(steps: list[tuple[str, int]], is_lost: bool) -> None:
    """Whatever a sink is told once its answer is over, and whenever: it goes nowhere, and never into a later answer."""
    talk = Talk()
    for verb, whom in steps:
        talk.step(verb, whom)
    line = talk.line
    if is_lost:
        line.lose()
        talk.state = ""
        written = line.transport.written
        for number, asked in enumerate(line.asked):
            for verb in VERBS:
                say(asked.sink, verb, b"<%d>" % number)
        line.turn()

        assert line.transport.written == written

    for number, answer in enumerate(line.answers):
        tag = b"<%d>" % number

        assert answer.headers["X-Of"].encode() == tag
        assert answer.body.replace(tag, b"") == b""
        assert answer.is_whole or number == len(line.asked) - 1

    assert sum(asked.closed for asked in line.asked) <= int(is_lost)


@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5),
    st.lists(st.integers(0), max_size=6),
    st.booleans(),
)
def test_any_segments_of_requests_say_the_same(bodies: list[bytes], places: list[int], at_once: bool) -> None:
    """Every request is handled once, here or by the library, and no byte of them is lost or seen twice."""
    line = Line()
    data = b"".join(post(body) for body in bodies)
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    if at_once:
        line.do = echo
    fed = 0
    for begin, end in itertools.pairwise(marks):
        if not line.handed:
            line.feed(data[begin:end])
            fed = end
    if not at_once and line.asked and not line.handed:
        echo(line.asked[0].request, line.asked[0].sink)
    seen = [asked.request.body for asked in line.asked]

    assert seen == bodies[: len(seen)]
    assert [answer.body for answer in line.answers] == seen
    assert all(answer.is_whole for answer in line.answers)

    served = b"".join(post(body) for body in seen)
    rest = data[len(served) : fed]

    assert [handed for handed, _ in line.handed] in ([rest], [])
    assert line.handed or not rest
