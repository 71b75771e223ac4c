"""One connection on a transport that the test plays: framing, bounds, and what a pool is told."""

import asyncio
import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.headers import Headers
from proxy.upstream import connection as module
from proxy.upstream.answers import KnownHeads
from proxy.upstream.base import Loss
from proxy.upstream.connection import MAX_HEAD_BYTES, Connection
from proxy.upstream.exchange import WireExchange
from proxy.upstream.sockets import OUTGOING_PEER_TIMEOUT_SECONDS
from support.raw_server import Heard, chunk, chunked, ok

HEAD = b"HTTP/1.1 200 OK\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Takes what is written, and closes when it is told to."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        super().__init__({"socket": sock})
        self.written: list[bytes] = []
        self.is_cut = False
        self.is_paused = False
        self.buffered = 0
        """Bytes that the peer has not taken yet."""

    def write(self, data: Any) -> None:
        """Record."""
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """Record."""
        self.written.extend(list_of_data)

    def abort(self) -> None:
        """Record the cut; the loop tells it later."""
        self.is_cut = True

    def is_closing(self) -> bool:
        """Tell whether it was cut."""
        return self.is_cut

    def get_write_buffer_size(self) -> int:
        """Tell what the test has set."""
        return self.buffered

    def pause_reading(self) -> None:
        """Record."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Record."""
        self.is_paused = False


class Line:
    """A connection between a pool and a server, both played by the test. Fulfils `exchange.Connections`."""

    are_heads_known = False
    """Whether every answer is one whose head was read before."""

    def __init__(self, sock: socket.socket | None = None, heads: KnownHeads | None = None) -> None:
        self.heads = KnownHeads() if heads is None else heads
        self.is_shadow = heads is not None
        self.told: list[str] = []
        self.defects: list[BaseException] = []
        self.heard = Heard()
        self.transport = FakeTransport(sock)
        self.connection = Connection(self)
        self.connection.connection_made(self.transport)
        self.exchange = WireExchange(self.heard)

    def opened(self, connection: Connection) -> None:
        """Note it."""
        self.told.append("opened")

    def rest(self, connection: Connection) -> None:
        """Note it."""
        self.told.append("rest")

    def closed(self, connection: Connection) -> None:
        """Note it."""
        self.told.append("closed")

    def report(self, context: dict[str, object]) -> None:
        """Note it."""
        assert isinstance(context["exception"], BaseException)
        self.defects.append(context["exception"])

    def begin(self, head: bytes = b"POST /\r\n\r\n", body: bytes = b"", *, keep: bool = True) -> "Line":
        """Write a request, with a new receiver."""
        self.heard = Heard()
        self.exchange = WireExchange(self.heard)
        self.connection.begin(self.exchange, head, body, keep=keep)
        return self

    def feed(self, *pieces: bytes) -> "Line":
        """Let bytes arrive, as long as the connection is not cut."""
        if self.are_heads_known and not self.is_shadow:
            Line(heads=self.heads).begin().feed(b"".join(pieces))
        for piece in pieces:
            if not self.transport.is_cut:
                self.connection.data_received(piece)
        return self

    def lose(self, error: Exception | None = None) -> "Line":
        """Let the connection end."""
        if error is None and not self.transport.is_cut:
            assert self.connection.eof_received() is False
        self.connection.connection_lost(error)
        return self

    @property
    def outcome(self) -> Any:
        """What the receiver has heard, which must have been lawful."""
        assert self.heard.violations == []
        return self.heard.outcome


@pytest.fixture(autouse=True, params=["new heads", "known heads"])
def are_heads_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every test against answers that llhttp reads and against those whose heads it has read before."""
    monkeypatch.setattr(Line, "are_heads_known", request.param == "known heads")


def bytewise(data: bytes) -> list[bytes]:
    """Cut into single bytes."""
    return [data[at : at + 1] for at in range(len(data))]


# -- the course of an exchange


def test_a_connection_rests_before_the_end_is_told() -> None:
    """Whoever sends from inside `on_end` finds it in the pool."""
    line = Line().begin()
    line.heard.on_end_do = lambda: line.told.append("end")
    line.feed(ok(b"abc"))

    assert line.outcome == (200, b"abc", True)
    assert line.told == ["opened", "rest", "end"]
    assert not line.transport.is_cut


def test_a_large_request_leaves_uncopied() -> None:
    """A small one has its body behind its head already."""
    large = bytes(65_536)
    line = Line().begin(b"head body").feed(ok()).begin(b"head ", large)

    assert line.transport.written == [b"head body", b"head ", large]
    assert line.transport.written[2] is large


class Taking(Heard):
    """A receiver that can take a whole answer in one step."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line
        self.taken: list[object] = []

    def on_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Note it, and that the connection rests already."""
        self.taken.append((status, body, self.line.told[-1], self.line.exchange.is_over))


@pytest.mark.parametrize(
    ("pieces", "is_taken"),
    [
        ((ok(b"whole and plain"),), True),
        ((ok(b"in two pieces")[:-1], b"s"), False),
        ((ok(b"with something behind") + b"X",), False),
        ((ok(b""),), False),
        ((ok(b"no success").replace(b"200 OK", b"500 No", 1),), False),
        ((ok(b"x" * 65_536),), False),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"in chunks") + chunk(b""),), False),
    ],
)
def test_a_whole_answer_is_told_in_one_step_to_who_can_take_it(pieces: tuple[bytes, ...], is_taken: bool) -> None:
    """Where its head was read before: then its exchange is over and its connection rests. All others hear the verbs."""
    line = Line()
    for _ in range(3):
        line.heard = heard = Taking(line)
        line.exchange = WireExchange(heard)
        line.connection.begin(line.exchange, b"GET /", b"", keep=True)
        line.feed(*pieces)
        if line.transport.is_cut:
            break

    if is_taken:
        assert heard.taken == [(200, b"whole and plain", "rest", True)]
        assert heard.outcome != (200, b"whole and plain", True)
    else:
        assert heard.taken == []
        assert heard.violations == []
        assert heard.status


def test_the_next_answer_begins_anew() -> None:
    """Status, headers and framing of one answer do not show in the next."""
    line = Line().begin().feed(HEAD + b"X-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"abc") + chunk(b""))
    line.begin().feed(b"HTTP/1.1 500 No\r\n\r\n", b"xyz").lose()

    assert line.heard.headers == []
    assert line.outcome == (500, b"xyz", False)


def test_what_keeps_a_connection_is_asked_of_the_final_head() -> None:
    """Without `keep`, or where the server closes, the connection is cut with the answer."""
    for line in (Line().begin(keep=False).feed(ok()), Line().begin().feed(ok(b"{}", "Connection: close"))):
        assert line.outcome == (200, b"{}", True)
        assert line.transport.is_cut
        assert line.told == ["opened"]


def test_an_answer_ahead_of_its_request_costs_the_connection() -> None:
    """What is left of the request would precede the next one: it is whole, but nothing may follow."""
    line = Line().begin(body=bytes(2**20))
    line.transport.buffered = 1000
    line.feed(ok(b"too large", status="413 Too Large"))

    assert line.outcome == (413, b"too large", True)
    assert line.transport.is_cut
    assert not line.connection.is_usable


def test_a_connection_without_transport_is_not_usable() -> None:
    """Before it is made and after it is lost."""
    line = Line()

    assert line.connection.is_usable

    line.lose()

    assert not line.connection.is_usable
    assert not Connection(line).is_usable


def test_what_is_left_of_a_handshake_does_not_keep_the_first_request_back() -> None:
    """Over TLS a loop may still have its own last words to write: open is enough for a first request."""
    line = Line()
    line.transport.buffered = 80

    assert line.connection.is_open
    assert not line.connection.is_usable

    line.connection.drop()

    assert not line.connection.is_open
    assert not Connection(line).is_open


def test_verbs_on_a_lost_connection_do_nothing() -> None:
    """A timer or a receiver may be late."""
    line = Line().begin().feed(HEAD + b"\r\n").lose()
    line.connection.pause()
    line.connection.resume()
    line.connection.drop()
    line.exchange.pause()
    line.exchange.resume()
    line.exchange.abort()
    line.exchange.lost(Loss.BROKEN, "late")

    assert line.outcome == (200, b"", False)
    assert not line.transport.is_paused


def test_pausing_is_counted_once() -> None:
    """Two pauses need one resume; a resume without pause does nothing."""
    line = Line().begin().feed(HEAD + b"Content-Length: 9\r\n\r\nabc")
    line.exchange.resume()
    line.exchange.pause()
    line.exchange.pause()

    assert line.transport.is_paused

    line.exchange.resume()

    assert not line.transport.is_paused


def test_an_answer_that_ends_while_paused_leaves_a_reading_connection() -> None:
    """A connection in the pool that does not read would never notice its end."""
    line = Line().begin()
    line.heard.on_data_do = line.exchange.pause
    line.feed(ok(b"abc"))

    assert line.outcome == (200, b"abc", True)
    assert line.told == ["opened", "rest"]
    assert not line.transport.is_paused


# -- bytes that nobody asked for


@pytest.mark.parametrize("behind", [b"X", ok(), b"\r\n\r\nX", bytes(1), CONTINUE, ok(b"a" * 70_000)])
def test_bytes_behind_an_answer_end_the_connection(behind: bytes) -> None:
    """Whatever stands in the segment of the answer's end, the connection does not rest."""
    line = Line().begin().feed(chunked(b"abc") + behind)

    assert line.outcome[1] == b"abc"
    assert line.transport.is_cut
    assert line.told == ["opened"]


@pytest.mark.parametrize("data", [b"X", ok(), b"\r\n"])
def test_bytes_on_an_idle_connection_end_it(data: bytes) -> None:
    """They are not even parsed."""
    line = Line().begin().feed(ok())
    before = line.outcome
    line.feed(data)

    assert line.transport.is_cut
    assert line.outcome == before


def test_a_second_answer_is_nobodys() -> None:
    """Head and body of an answer behind the answer are not told to anybody."""
    line = Line().begin().feed(ok(b"abc") + ok(b"EVIL", status="500 Evil") + b"HTT").lose()

    assert line.outcome == (200, b"abc", True)


def test_trailers_are_not_headers() -> None:
    """Nobody here has a use for them; they neither grow the head nor frame anything."""
    line = Line().begin().feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"abc"))
    line.feed(b"0\r\nX-A: 1\r\nETag: 2\r\n\r\n")

    assert line.outcome == (200, b"abc", True)
    assert line.heard.headers == [("Transfer-Encoding", "chunked")]


def test_is_ready_asks_the_kernel() -> None:
    """Bytes and the end count, before the loop has read them."""
    for disturb in (lambda sock: sock.send(b"X"), lambda sock: sock.close()):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            line = Line(ours)

            assert line.connection.is_ready

            disturb(theirs)

            assert not line.connection.is_ready


def test_the_kernel_watches_the_peer() -> None:
    """A server that vanished without a word ends the connection in a bounded time."""
    with socket.socket(socket.AF_INET) as sock:
        line = Line(sock)

        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

        line.connection.watch()

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert milliseconds == OUTGOING_PEER_TIMEOUT_SECONDS * 1000


# -- bounds


LAST = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"abc")


@pytest.mark.parametrize(
    ("begin", "endless", "part"),
    [
        (HEAD, b"X-A: 1\r\n" * 1000, "head"),
        (HEAD + b"X-A: ", b"a" * 8000, "head"),
        (b"", CONTINUE * 300, "head"),
        (LAST + b"0\r\n", b"X-A: 1\r\n" * 1000, "trailer"),
        (LAST + b"0\r\nX-A: ", b"a" * 8000, "trailer"),
        (LAST + b"3;", b"a" * 8000, "trailer"),
    ],
    ids=["header lines", "header", "announcements", "trailer lines", "trailer", "chunk extension"],
)
def test_nothing_beside_the_body_is_without_end(begin: bytes, endless: bytes, part: str) -> None:
    """Whatever a server sends that is no body, it does not grow the proxy beyond the bound."""
    line = Line().begin()
    if begin:
        line.feed(begin)
    fed = 0
    while not line.transport.is_cut:
        line.feed(endless)
        fed += len(endless)

        assert fed <= MAX_HEAD_BYTES + len(endless)

    assert line.outcome == ((None, b"") if part == "head" else (200, b"abc")) + (Loss.BROKEN,)
    assert line.heard.detail == f"the {part} is too long"


def test_the_bound_is_one_of_each_answer() -> None:
    """Many short heads on one connection are not one long one."""
    line = Line()
    head = HEAD + b"X-A: " + b"a" * (MAX_HEAD_BYTES // 2) + b"\r\nContent-Length: 0\r\n\r\n"
    for _ in range(4):
        line.begin().feed(head)

        assert line.outcome == (200, b"", True)


def test_the_bound_is_not_one_of_the_body() -> None:
    """Bytes of a body are not counted, whole or in chunks, however small."""
    line = Line().begin().feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    line.feed(*[chunk(b"a") * 1000] * (MAX_HEAD_BYTES // 5000), chunk(b""))

    assert line.outcome[2] is True

    line = Line().begin().feed(HEAD + b"Content-Length: %d\r\n\r\n" % (2 * MAX_HEAD_BYTES))
    line.feed(*[bytes(65_536)] * (2 * MAX_HEAD_BYTES // 65_536))

    assert line.outcome == (200, bytes(2 * MAX_HEAD_BYTES), True)


@pytest.mark.parametrize("framing", ["chunks", "length", "close"])
def test_one_read_may_be_larger_than_the_bound(framing: str) -> None:
    """Over TLS all that was held back comes at once: a body in it is no head, and only one such read is without one."""
    body = bytes(2 * MAX_HEAD_BYTES)
    head = {
        "chunks": b"Transfer-Encoding: chunked\r\n\r\n",
        "length": b"Content-Length: %d\r\n\r\n" % len(body),
        "close": b"\r\n",
    }[framing]
    framed = b"".join(chunk(body[at : at + 9999]) for at in range(0, len(body), 9999)) + chunk(b"")
    whole = HEAD + head + (framed if framing == "chunks" else body)
    line = Line().begin().feed(whole)

    assert line.heard.body == body
    assert line.heard.loss is None

    line = Line().begin().feed(HEAD + head, whole.removeprefix(HEAD + head))

    assert line.heard.body == body
    assert line.heard.loss is None

    line = Line().begin().feed(HEAD, b"X-A: " + bytes(b"a" * len(body)), b"a" * len(body))

    assert line.heard.loss is Loss.BROKEN


# -- receivers


@pytest.mark.parametrize("where", ["on_head", "on_data"])
def test_a_receiver_that_raises_is_reported_and_loses_its_answer(where: str) -> None:
    """The parser would hide it, and a silent exchange would wait for ever."""
    error = RuntimeError("defect")

    def fail() -> None:
        raise error

    line = Line().begin()
    setattr(line.heard, f"{where}_do", fail)
    line.feed(ok(b"abc"))

    assert line.defects == [error]
    assert line.heard.loss is Loss.BROKEN
    assert line.heard.detail == "receiver failed"
    assert line.transport.is_cut


def test_an_upstreams_fault_is_not_reported_as_ours() -> None:
    """A status below 100 ends the exchange, and nobody looks for a defect."""
    line = Line().begin().feed(b"HTTP/1.1 007 Bond\r\nContent-Length: 3\r\n\r\nabc")

    assert line.outcome == (None, b"", Loss.BROKEN)
    assert line.defects == []
    assert line.transport.is_cut


@pytest.mark.parametrize("where", ["on_head", "on_data", "on_end"])
def test_a_receiver_may_cut_from_inside(where: str) -> None:
    """Nothing more is told of what the parser holds already, and no connection that was cut rests."""
    line = Line().begin()

    def cut() -> None:
        line.exchange.abort()
        line.heard.is_aborted = True

    setattr(line.heard, f"{where}_do", cut)
    line.feed(chunked(b"abc", b"def") + b"JUNK").lose()

    assert line.outcome[1] == {"on_head": b"", "on_data": b"abc"}.get(where, b"abcdef")
    assert line.told == ["opened", "closed"]


def test_a_cut_exchange_that_fails_is_silent() -> None:
    """What is cut from inside and then turns out unreadable is told neither way."""
    line = Line().begin()
    line.heard.on_head_do = line.exchange.abort
    line.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n").lose()

    assert line.outcome == (200, b"", None)
    assert line.defects == []


@pytest.mark.parametrize(
    ("data", "error", "expected"),
    [
        (b"", None, (None, b"", Loss.BROKEN)),
        (HEAD, None, (None, b"", Loss.BROKEN)),
        (CONTINUE, None, (None, b"", Loss.BROKEN)),
        (CONTINUE + HEAD, None, (None, b"", Loss.BROKEN)),
        (CONTINUE + HEAD + b"\r\n", None, (200, b"", False)),
        (HEAD + b"\r\nabc", None, (200, b"abc", False)),
        (HEAD + b"\r\nabc", ConnectionResetError("reset"), (200, b"abc", Loss.BROKEN)),
        (HEAD + b"Content-Length: 4\r\n\r\nabc", None, (200, b"abc", Loss.BROKEN)),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", None, (200, b"abc", Loss.BROKEN)),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc", None, (200, b"abc", Loss.BROKEN)),
    ],
)
def test_the_end_of_the_connection_ends_the_exchange(data: bytes, error: Exception | None, expected: Any) -> None:
    """Only where the close alone delimits the body is it an end, and then an unproven one."""
    for pieces in ([data], bytewise(data)):
        line = Line().begin().feed(*pieces).lose(error)

        assert line.outcome == expected
        assert line.told == ["opened", "closed"]


# -- properties


@contextmanager
def small_heads(limit: int) -> Iterator[None]:
    """Bound heads so that what hypothesis makes reaches the bound."""
    before, module.MAX_HEAD_BYTES = MAX_HEAD_BYTES, limit
    try:
        yield
    finally:
        module.MAX_HEAD_BYTES = before


bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes, str]:
    """Draw a valid answer: its bytes, its body, and what delimits that."""
    parts = draw(bodies)
    framing = draw(st.sampled_from(["length", "chunks", "close"]))
    fields = draw(st.lists(st.sampled_from([b"X-A: 1", b"cache-control: no-cache", b"T: x", b"C:"]), max_size=3))
    body = b"".join(parts)
    if framing == "length":
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunks":
        fields.append(b"Transfer-Encoding: chunked")
    head = b"".join(field + b"\r\n" for field in [HEAD[:-2], *fields])
    tail = b"".join(chunk(part) for part in [*parts, b""]) if framing == "chunks" else body
    announced = draw(st.sampled_from([b"", CONTINUE, CONTINUE + b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"]))
    return announced + head + b"\r\n" + tail, body, framing


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at any places."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


@given(answers(), st.lists(st.integers(min_value=0), max_size=8))
def test_any_segments_of_a_valid_answer_say_the_same(answer: tuple[bytes, bytes, str], places: list[int]) -> None:
    """Head, body and end do not depend on how the bytes came."""
    data, body, framing = answer
    whole = Line().begin().feed(data).lose()
    line = Line().begin().feed(*cut_at(data, places)).lose()

    assert line.outcome == whole.outcome == (200, body, framing != "close")
    assert line.heard.headers == whole.heard.headers
    assert line.told == whole.told == ["opened", *(["rest"] if framing != "close" else []), "closed"]


tokens = st.sampled_from(
    [
        HEAD, CONTINUE, b"HTTP/1.1 ", b"204 No\r\n", b"HTTP/1.1 101 Up\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"\r\n", b"\r\n\r\n", b"\n", b"Content-Length: 3\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n", b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"X: ", b" folded\r\n",
        b"HTTP/1.1 000 x\r\n\r\n",
        ok(), chunked(b"a"), b"\0", b"\xff",
    ]
)  # fmt: skip


@given(st.lists(tokens | st.binary(max_size=30), max_size=12), st.booleans(), st.sampled_from(["", "head", "data"]))
def test_no_bytes_raise_and_every_exchange_ends_once(pieces: list[bytes], reset: bool, failing: str) -> None:
    """Whatever a server sends, an exchange ends exactly once, by the end of its connection at the latest."""

    def fail() -> None:
        raise RuntimeError("defect")

    line = Line().begin()
    if failing:
        setattr(line.heard, f"on_{failing}_do", fail)
    with small_heads(200):
        line.feed(*pieces)
        line.lose(ConnectionResetError("reset") if reset else None)

    assert line.heard.is_over
    assert line.heard.violations == []
    assert len(line.defects) <= 1
    assert line.told[0] == "opened"
    assert line.told[-1] == "closed"
    if "rest" in line.told:
        assert line.heard.proven is True


@given(st.lists(st.sampled_from([ok(b"1"), ok(b"22"), chunked(b"333"), b"junk", ok(b"4") + b"x"]), max_size=6))
def test_an_exchange_hears_its_own_answer_or_none(answers_sent: list[bytes]) -> None:
    """On one connection the n-th exchange gets the n-th answer; behind junk there is no further one."""
    line = Line()
    for data in answers_sent:
        if not line.connection.is_usable:
            break
        line.begin().feed(data)
        own = {ok(b"1"): b"1", ok(b"22"): b"22", chunked(b"333"): b"333"}

        assert line.heard.body == own.get(data, line.heard.body)
        assert line.transport.is_cut == (data not in own)
