"""Heads of answers that are recognised: which, what they mean, and that nothing else is taken for one of them."""

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.headers import Block, forward_response, get, names_session
from proxy.upstream.answers import MAX_HEAD_BYTES, MAX_HEADS, KnownHeads
from proxy.upstream.connection import Connection, WireExchange
from support.raw_server import Heard, chunk, chunked, ok

OK = b"HTTP/1.1 200 OK\r\n"


class Transport(asyncio.Transport):
    """Takes everything and sends nothing."""

    is_cut = False

    def write(self, data: Any) -> None:
        """Take it."""

    def get_write_buffer_size(self) -> int:
        """Tell that nothing waits."""
        return 0

    def abort(self) -> None:
        """Note it."""
        self.is_cut = True

    def is_closing(self) -> bool:
        """Tell it."""
        return self.is_cut


class Answered:
    """One answer on a connection of its own. Fulfils `exchange.Connections`."""

    def __init__(self, heads: KnownHeads, *pieces: bytes) -> None:
        self.heads = heads
        self.rests = 0
        self.defects: list[object] = []
        self.heard = Heard()
        self.transport = Transport()
        connection = Connection(self)
        connection.connection_made(self.transport)
        connection.begin(WireExchange(self.heard), b"POST / HTTP/1.1\r\n\r\n", b"", keep=True)
        for piece in pieces:
            if not self.transport.is_cut:
                connection.data_received(piece)
        self.is_kept = not self.transport.is_cut
        connection.connection_lost(None)

    def opened(self, connection: Connection) -> None:
        """Take it."""

    def rest(self, connection: Connection) -> None:
        """Count."""
        self.rests += 1

    def closed(self, connection: Connection) -> None:
        """Take it."""

    def report(self, context: dict[str, object]) -> None:
        """Note it."""
        self.defects.append(context)

    @property
    def meaning(self) -> Any:
        """All that a receiver and a pool were told: a head has any length of those that it may have."""
        assert self.heard.violations == []
        assert self.defects == []
        pairs = [(name, "" if name.lower() == "content-length" else value) for name, value in self.heard.headers]
        return self.heard.outcome, pairs, self.is_kept, self.rests


def assert_alike(heads: KnownHeads, *pieces: bytes) -> None:
    """Let an answer come to who has read others and to who has not."""
    warmed, fresh = Answered(heads, *pieces), Answered(KnownHeads(), *pieces)
    if warmed.meaning != fresh.meaning:
        # What llhttp makes of bytes behind a whole answer depends on whether they came with its last ones: it forgives
        # a line end, and tells no end of the answer where they are no HTTP. Whoever counts lets none of them pass.
        data = b"".join(pieces)
        slow = Answered(KnownHeads(), *(data[at : at + 1] for at in range(len(data))))

        assert not warmed.is_kept
        assert warmed.meaning[:2] == slow.meaning[:2]
        assert warmed.heard.proven is True
        assert warmed.heard.body == fresh.heard.body


def is_known(heads: KnownHeads, data: bytes) -> bool:
    """Tell whether an answer's head is recognised."""
    found = heads.find(data)
    return found is not None and found[0] is not None


# -- finding


def test_a_head_is_told_apart_from_its_length() -> None:
    """Two answers with the same head but for the length have the same key; what is behind the head is not in it."""
    heads = KnownHeads()
    keys = set()
    for name in (b"Content-Length", b"content-length"):
        for digits, value in ((b"0", 0), (b"5", 5), (b"007", 7), (b"9" * 15, 10**15 - 1)):
            head = OK + name + b": " + digits + b"\r\nX: 1\r\n\r\n"
            found = heads.find(head + b"Content-Length: 9\r\n\r\n")

            assert found is not None

            known, key, start, length = found

            assert (known, start, length) == (None, len(head), value)

            keys.add(key)

    assert len(keys) == 2
    assert heads.find(OK + b"X: 1\r\n\r\nabc") == (None, OK + b"X: 1\r\n\r\n", len(OK) + 8, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        OK,
        OK + b"Content-Length: 5\r\n",
        *(OK + b"Content-Length: %b\r\n\r\n" % odd for odd in (b"", b" 5", b"5 ", b"+5", b"-5", b"0x5", b"5,5")),
        OK + b"Content-Length: 1000000000000000\r\n\r\n",
        b"\r\n\r\n",
        b"\r\n" + ok(),
        b"ICY 200 OK\r\n\r\n",
        OK + b"X: " + b"a" * (MAX_HEAD_BYTES - len(OK) - 6) + b"\r\n\r\n",
    ],
)
def test_what_is_not_plainly_a_head_is_not_looked_for(data: bytes) -> None:
    """Its end, its length or its beginning is missing or odd, or it is too long: llhttp reads it."""
    assert KnownHeads().find(data) is None


# -- learning


LONGEST = OK + b"Content-Length: 3\r\nX: " + b"a" * (MAX_HEAD_BYTES - len(OK) - 26) + b"\r\n\r\n"
assert len(LONGEST) == MAX_HEAD_BYTES


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Content-Length: 3\r\n\r\n",
        OK + b"content-length: 3\r\nX-A: 1\r\nX-A: 2\r\n\r\n",
        OK + b"Content-Length: 3\r\nConnection: close\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Type: text/event-stream\r\nTE: x\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"tRANSFER-eNCODING: Chunked\r\n\r\n",
        LONGEST,
    ],
)
def test_a_head_is_remembered(head: bytes) -> None:
    """One that came in one piece, and that says plainly where its body ends; then it means what llhttp read."""
    heads = KnownHeads()
    body = b"3\r\nabc\r\n0\r\n\r\n" if b"hunked" in head else b"abc"
    first = Answered(heads, head + body)

    assert is_known(heads, head)

    for pieces in ([head + body], [head, body], [head, *(body[at : at + 1] for at in range(len(body)))]):
        again = Answered(heads, *pieces)

        assert again.heard.body == b"abc"
        assert again.meaning == first.meaning == Answered(KnownHeads(), *pieces).meaning
        assert isinstance(again.heard.headers, Block)
        assert again.heard.headers is first.heard.headers


NOT_REMEMBERED = {
    "no body": b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
    "announcement": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\n",
    "announcement with a length": b"HTTP/1.1 103 Hints\r\nContent-Length: 0\r\n\r\n"
    + OK
    + b"Content-Length: 3\r\n\r\n",
    "until the close": OK + b"X: 1\r\n\r\n",
    "coded": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "coded in two lines": OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
    "coded, until the close": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "length and chunks": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "two lengths": OK + b"Content-Length: 3\r\ncontent-length: 3\r\n\r\n",
    "upgrade": OK + b"Content-Length: 3\r\nUpgrade: h2c\r\n\r\n",
    "switched": b"HTTP/1.1 101 Switching\r\nContent-Length: 3\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "length in another spelling": OK + b"CONTENT-LENGTH: 3\r\n\r\n",
    "length without its blank": OK + b"Content-Length:3\r\n\r\n",
    "length with a tab": OK + b"Content-Length:\t3\r\n\r\n",
    "length with blanks": OK + b"Content-Length:  3 \r\n\r\n",
    "line ends in front": b"\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\n",
    "line end in front": b"\r\n" + OK + b"Content-Length: 3\r\n\r\n",
    "no status": b"HTTP/1.1 099 Odd\r\nContent-Length: 3\r\n\r\n",
    "no HTTP": OK + b"Content-Length: 3\r\nX\r\n\r\n",
    "too long": LONGEST.replace(b"X: ", b"X: a"),
}


@pytest.mark.parametrize("head", NOT_REMEMBERED.values(), ids=NOT_REMEMBERED)
def test_a_head_is_not_remembered(head: bytes) -> None:
    """Whatever is odd about its framing is read by llhttp every time, in whatever pieces the answer comes."""
    heads = KnownHeads()
    body = b"3\r\nabc\r\n0\r\n\r\n" if b"hunked" in head else b"abc"
    for pieces in ([head + body], [head, body], [head[:-1], head[-1:] + body], [head + body]):
        assert Answered(heads, *pieces).meaning == Answered(KnownHeads(), *pieces).meaning
        assert not heads._heads


@pytest.mark.parametrize("more", ["Content-Length", "Transfer-Encoding"])
@pytest.mark.parametrize("first", ["Content-Length", "Transfer-Encoding"])
def test_what_llhttp_would_refuse_is_not_remembered_either(first: str, more: str) -> None:
    """Two lines about the body's end are one too many, whoever lets them pass."""
    heads = KnownHeads()
    values = {"Content-Length": "3", "Transfer-Encoding": "chunked"}
    headers = [(first, values[first]), (more, values[more])]
    head = OK + b"".join(f"{name}: {value}\r\n".encode() for name, value in headers) + b"\r\n"
    found = heads.find(head)

    assert found is not None
    assert heads.learn(found[1], 200, headers, is_persistent=True) is headers
    assert not is_known(heads, head)


def test_a_head_in_two_pieces_is_not_remembered() -> None:
    """Which bytes llhttp made it of is not known any more."""
    heads = KnownHeads()
    data = ok(b"abc")
    for at in range(1, len(data) - 6):
        Answered(heads, data[:at], data[at:])

        assert not is_known(heads, data)

    Answered(heads, data)

    assert is_known(heads, data)


def test_bytes_behind_a_recognised_answer_cost_the_connection() -> None:
    """As they do behind any other."""
    for data in (ok(b"abc") + b"X", chunked(b"abc") + b"X", ok(b"") + ok(b"")):
        heads = KnownHeads()
        for answer in (ok(b"abc"), chunked(b"abc"), data, data):
            answered = Answered(heads, answer)

            assert answered.meaning == Answered(KnownHeads(), answer).meaning
            assert answered.is_kept == (answer is not data)


@pytest.mark.parametrize(
    "length", [1, 2, *range(8, 13), *range(97, 104), *range(997, 1005), *range(9_997, 10_006), 100_000]
)
def test_a_byte_more_or_less_is_not_taken_for_another_length(length: int) -> None:
    """Where the number of digits changes as well: a length that is worked out of a read's size could be off by one."""
    heads = KnownHeads()
    data = ok(b"b" * length)
    Answered(heads, ok(b"first"))
    Answered(heads, ok(b"second"))

    for pieces in ((data[:-1], data[-1:]), (data,)):
        answered = Answered(heads, *pieces)

        assert answered.meaning == Answered(KnownHeads(), *pieces).meaning
        assert answered.heard.body == b"b" * length
    answered = Answered(heads, data + b"H")

    assert answered.heard.body == b"b" * length
    assert not answered.is_kept


def test_what_is_remembered_is_bounded() -> None:
    """Beyond the bound all is forgotten, and learnt anew."""
    heads = KnownHeads()
    for number in range(MAX_HEADS + 1):
        assert Answered(heads, ok(b"{}", f"X: {number}")).heard.body == b"{}"
        assert len(heads._heads) <= MAX_HEADS

    assert is_known(heads, ok(b"", f"X: {MAX_HEADS}"))
    assert not is_known(heads, ok(b"", "X: 0"))


# -- session ids


@pytest.mark.parametrize("name", ["Mcp-Session-Id", "mcp-session-id"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_head_is_known_whatever_its_session_id(name: str, is_chunked: bool) -> None:
    """Each answer has its own id, in its own place; all else about the head is worked out once."""
    heads = KnownHeads()

    def answer(session_id: str) -> bytes:
        data = chunked(b"abc") if is_chunked else ok(b"abc")
        return data.replace(b"OK\r\n", f"OK\r\nX: 1\r\n{name}: {session_id}\r\n".encode(), 1)

    first, *others = (Answered(heads, answer(session_id)) for session_id in ("s-1", "s-22", "s-1", "other"))

    assert len(heads._heads) == 1
    for session_id, answered in zip(("s-22", "s-1", "other"), others, strict=True):
        assert answered.meaning == Answered(KnownHeads(), answer(session_id)).meaning
        assert answered.heard.headers[:2] == [("X", "1"), (name, session_id)]
        assert forward_response(answered.heard.headers) is forward_response(first.heard.headers)
        assert names_session(answered.heard.headers)
    assert get(first.heard.headers, name) == "s-1"


@pytest.mark.parametrize("value", [b"", b" s-1", b"s-1 ", b"s 1", b"s\t1", b"\xff", b"s" * 257])
def test_an_odd_session_id_is_read_every_time(value: bytes) -> None:
    """As one that two parsers could read differently."""
    heads = KnownHeads()
    for _ in range(2):
        data = ok(b"abc").replace(b"OK\r\n", b"OK\r\nMcp-Session-Id: %b\r\n" % value)

        assert heads.find(data) is None
        assert Answered(heads, data).meaning == Answered(KnownHeads(), data).meaning
    assert not heads._heads


@pytest.mark.parametrize("names", [("mcp-session-id", "Mcp-Session-Id"), ("Mcp-Session-Id", "mcp-session-id")])
def test_of_two_session_ids_each_stays_where_it_was(names: tuple[str, str]) -> None:
    """Which of them counts is not decided here."""
    heads = KnownHeads()
    for values in (("1", "2"), ("3", "2"), ("1", "4")):
        lines = [f"{name}: {value}" for name, value in zip(names, values, strict=True)]

        assert Answered(heads, ok(b"", *lines)).heard.headers[-2:] == list(zip(names, values, strict=True))


# -- the property that all this is about


FIELDS = st.lists(
    st.sampled_from(
        [
            b"X: 1",
            b"Connection: close",
            b"connection: keep-alive",
            b"Content-Type: a/b",
            b"T: ",
            b"U: u",
            b"Mcp-Session-Id: s-1",
            b"Mcp-Session-Id: s-22",
            b"Mcp-Session-Id: ",
            b"Mcp-Session-Id: a b",
            b"Mcp-Session-Id: a\t",
            b"mcp-session-id: s-3",
            b"MCP-SESSION-ID: s-4",
        ]
    ),
    max_size=3,
)
FRAMINGS = [
    b"Content-Length: 3",
    b"Content-Length: 12",
    b"content-length: 0",
    b"CONTENT-LENGTH: 3",
    b"Content-Length:3",
    b"Content-Length: ",
    b"Content-Length: 3 ",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: gzip, chunked",
    b"Content-Length: 3\r\nContent-Length: 3",
    b"Content-Length: 3\r\nTransfer-Encoding: chunked",
    b"Upgrade: x",
    b"X: y",
]
STATUSES = st.sampled_from([b"200 OK", b"404 No", b"204 No", b"304 No", b"100 Go on", b"101 Up", b"099 Odd"])
BODIES = [
    b"",
    b"abc",
    b"abcdefghijkl",
    chunk(b"abc") + chunk(b""),
    chunk(b"abc"),
    b"0\r\n\r\n",
    ok(b"abc"),
    b"\r\n\r\n",
]
PIECES = st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b":", b"0", b"3", b"a", b"\0", b"\xff", b";"])


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """Draw the pieces of an answer, usual, odd or broken anywhere."""
    lines = [*draw(FIELDS), draw(st.sampled_from(FRAMINGS))]
    begin = draw(st.sampled_from([b"", b"", b"", b"\r\n", b"\r\n\r\n"])) + b"HTTP/1.1 "
    head = begin + b"".join(line + b"\r\n" for line in (draw(STATUSES), *lines, b""))
    data = head + draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(PIECES) + data[at + draw(st.integers(0, 2)) :]
    at = draw(st.just(data.find(b"\r\n\r\n") + 4) | st.integers(0, len(data)))
    return [piece for piece in (data[:at], data[at:]) if piece]


@given(st.lists(answers(), min_size=1, max_size=5))
def test_what_came_before_changes_the_meaning_of_no_answer(sent: list[list[bytes]]) -> None:
    """Whatever answers were read before, usual and odd: the next is read as if it were the first."""
    heads = KnownHeads()
    for pieces in sent + sent:
        assert_alike(heads, *pieces)


@given(answers(), answers(), st.sampled_from([b"Content-Length", b"content-length"]), st.integers(0, 12))
def test_an_answer_is_that_of_its_own_length(
    before: list[bytes], behind: list[bytes], name: bytes, length: int
) -> None:
    """A head with the length of another time, in whatever pieces: the body is as long as this one says."""
    heads = KnownHeads()
    for pieces in (before, behind):
        for size in (3, length):
            data = re.sub(rb"(?i)content-length: [0-9]+", b"%b: %d" % (name, size), b"".join(pieces), count=1)

            assert_alike(heads, data)
