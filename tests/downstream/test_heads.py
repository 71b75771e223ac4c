"""Request heads that are read here: which, what they mean, what is remembered of them; and the heads of answers."""

import re
from email.utils import parsedate_to_datetime
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.headers import Block, Headers
from proxy.core.ids import SessionId
from proxy.downstream import heads as module
from proxy.downstream.heads import (
    MAX_HEAD_BYTES,
    MAX_HEADS,
    Heads,
    Reading,
    Rendered,
    date_line,
    may_become_usual,
    rendered,
)

POST_LINE = b"POST /mcp HTTP/1.1\r\n"
DATE = b"Date: now\r\n"


def post(*lines: bytes, length: bytes = b"Content-Length: 5") -> bytes:
    """Write the head of a POST, as far as the line end before the empty line."""
    return POST_LINE + b"".join(line + b"\r\n" for line in (b"Host: h", length, *lines) if line)


def get(*lines: bytes, method: bytes = b"GET") -> bytes:
    """Write the head of a request without a body."""
    return method + b" /mcp HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in (b"Host: h", *lines))


def meaning(reading: Reading | None) -> Any:
    """Return all that a reading says: its head has any length of those that it may have."""
    if reading is None:
        return None
    head = reading.head
    pairs = [(name, "" if name.lower() == "content-length" else value) for name, value in head.headers]
    named = (head.session_id, head.last_event_id, head.version, head.is_modern, head.request_id, head.accepts_sse)
    return (head.method, head.path, *named, pairs, reading.length, reading.until, reading.behind)


# -- what is usual


def test_a_usual_head_is_read_whole() -> None:
    """Method, target, headers in their order and case, without the blanks around a value; and the body's length."""
    reading = Heads().read(
        b"POST /mcp?a=%2f HTTP/1.1\r\nhOST: h\r\nX-A:1\r\nX-B: \t two words \t\r\nX-C:\r\nContent-Length: 12\r\n"
        b"mcp-session-id: s\r\nMCP-Protocol-Version: 2025-06-18\r\nAccept: text/event-stream\r\n"
    )

    assert reading is not None

    head = reading.head

    assert (head.method, head.path, reading.length) == ("POST", "/mcp?a=%2f", 12)
    assert head.headers == [
        ("hOST", "h"),
        ("X-A", "1"),
        ("X-B", "two words"),
        ("X-C", ""),
        ("Content-Length", "12"),
        ("mcp-session-id", "s"),
        ("MCP-Protocol-Version", "2025-06-18"),
        ("Accept", "text/event-stream"),
    ]
    assert (head.session_id, head.version, head.is_modern, head.request_id) == ("s", "2025-06-18", False, None)
    assert head.accepts_sse


@pytest.mark.parametrize(
    "text",
    [
        get(),
        get(method=b"DELETE"),
        post(b"Connection: keep-alive"),
        post(b"connection: Keep-Alive"),
        post(length=b"content-length: 9999999999"),
        get(*(b"X-%d: 1" % number for number in range(63))),
        get(b"X: " + b"a" * (MAX_HEAD_BYTES - len(get(b"X: ")))),
        get(b"X!#$%&'*+.^_`|~: \x20\x7e\x09"),
    ],
    ids=["GET", "DELETE", "kept", "kept, in capitals", "long body", "most fields", "longest", "odd tokens"],
)
def test_what_is_usual_is_read(text: bytes) -> None:
    """At the bounds too."""
    assert Heads().read(text) is not None


UNUSUAL = {
    "HTTP/1.0": POST_LINE.replace(b"1.1", b"1.0") + post().removeprefix(POST_LINE),
    "HTTP/2.0": POST_LINE.replace(b"1.1", b"2.0") + post().removeprefix(POST_LINE),
    "another protocol": POST_LINE.replace(b"HTTP", b"ICAP") + post().removeprefix(POST_LINE),
    "PUT": post().replace(b"POST", b"PUT"),
    "HEAD": get(method=b"HEAD"),
    "OPTIONS": get(method=b"OPTIONS"),
    "CONNECT": get(method=b"CONNECT"),
    "method in small letters": get(method=b"get"),
    "absolute target": get().replace(b" /mcp", b" http://h/mcp"),
    "asterisk": get().replace(b" /mcp", b" *"),
    "no target": get().replace(b" /mcp", b""),
    "two blanks": get().replace(b" /mcp", b"  /mcp"),
    "blank in the target": get().replace(b" /mcp", b" /m cp"),
    "bytes beyond ASCII in the target": get().replace(b" /mcp", b" /\xc3\xa9"),
    "control character in the target": get().replace(b" /mcp", b" /\x7f"),
    "empty line in front": b"\r\n" + get(),
    "no fields": b"GET /mcp HTTP/1.1\r\n",
    "no Host": get().replace(b"Host: h\r\n", b"X: h\r\n"),
    "bare line feed": get(b"X: a\nY: b"),
    "bare carriage return": get(b"X: a\rY: b"),
    "folded": get(b"X: a", b" b"),
    "blank in front of the colon": get(b"X : a"),
    "no colon": get(b"X"),
    "no name": get(b": a"),
    "control character": get(b"X: \x01"),
    "NUL": get(b"X: \0"),
    "DEL": get(b"X: \x7f"),
    "bytes beyond ASCII": get(b"X: \xc3\xa9"),
    "name beyond ASCII": get(b"\xc3\xa9: x"),
    "a name twice": get(b"X: a", b"x: a"),
    "two hosts": get(b"HOST: h"),
    "two sessions": get(b"Mcp-Session-Id: a", b"mcp-session-id: b"),
    "two lengths": post(b"content-length: 5"),
    "two lengths, spelled alike": post(b"Content-Length: 5"),
    "too many fields": get(*(b"X-%d: 1" % number for number in range(64))),
    "too long": get(b"X: " + b"a" * (MAX_HEAD_BYTES - len(get(b"X: ")) + 1)),
    "close": post(b"Connection: close"),
    "upgrade": get(b"Connection: Upgrade"),
    "connection options": post(b"Connection: keep-alive, x"),
    "GET with a length": get(b"Content-Length: 5"),
    "DELETE with a length": get(b"Content-Length: 5", method=b"DELETE"),
    "no length": post(length=b""),
    "length 0": post(length=b"Content-Length: 0"),
    "length with a zero in front": post(length=b"Content-Length: 05"),
    "length with a sign": post(length=b"Content-Length: +5"),
    "hexadecimal length": post(length=b"Content-Length: 0x5"),
    "list of lengths": post(length=b"Content-Length: 5,5"),
    "empty length": post(length=b"Content-Length: "),
    "blanks around a length": post(length=b"Content-Length:  5 "),
    "enormous length": post(length=b"Content-Length: 10000000000"),
    "length in another spelling": post(length=b"CONTENT-LENGTH: 5"),
    "length without its blank": post(length=b"Content-Length:5"),
    **{
        f"{name.decode()} header": post(name + b": x")
        for name in (
            b"Content-Encoding",
            b"EXPECT",
            b"HTTP2-Settings",
            b"Proxy-Connection",
            b"te",
            b"Trailer",
            b"transfer-encoding",
            b"Upgrade",
        )
    },
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_odd_is_left_to_the_library(text: bytes) -> None:
    """Each oddity by name; however often it comes, and whatever usual head came before."""
    heads = Heads()
    for _ in range(3):
        assert heads.read(text) is None

    for usual in (post(), post(length=b"content-length: 7"), get(), get(method=b"DELETE")):
        assert heads.read(usual) is not None

    assert heads.read(text) is None


# -- what is remembered


def test_the_sessions_of_one_client_software_share_what_was_found_out() -> None:
    """A head that differs in the session id and the body's length alone is the same, but for those two."""
    heads = Heads()
    first = heads.read(post(b"Mcp-Session-Id: a", b"X: 1"))
    second = heads.read(post(b"Mcp-Session-Id: b", b"X: 1", length=b"Content-Length: 77"))
    other = heads.read(post(b"Mcp-Session-Id: b", b"X: 2"))

    assert first is not None
    assert second is not None
    assert other is not None
    assert second.head.findings is first.head.findings
    assert (second.head.session_id, second.length) == ("b", 77)
    assert (first.head.session_id, first.length) == ("a", 5)
    assert ("Mcp-Session-Id", "b") in second.head.headers
    assert ("Mcp-Session-Id", "a") in first.head.headers
    assert other.head.findings is not first.head.findings


def test_a_head_without_a_session_is_not_one_with_a_session() -> None:
    """Whichever came first."""
    with_id, without = get(b"Mcp-Session-Id: a"), get()
    for texts in ((with_id, without), (without, with_id)):
        heads = Heads()
        found = [heads.read(text) for text in texts + texts]

        assert [reading.head.session_id for reading in found if reading] == [
            "a" if text is with_id else None for text in texts + texts
        ]


@pytest.mark.parametrize("value", [b"", b"a b", b"a\t", b" a", b"a" * 257, b"\xc3\xa9"])
@pytest.mark.parametrize("name", [b"Mcp-Session-Id: ", b"Last-Event-ID: "])
def test_a_value_that_no_proxy_gives_is_not_put_in_anothers_place(name: bytes, value: bytes) -> None:
    """It is read in full, and means what it means to whoever has seen no other head."""
    heads = Heads()
    heads.read(get(name + b"a"))
    text = get(name + value)

    assert meaning(heads.read(text)) == meaning(Heads().read(text))


def test_clients_that_come_back_share_what_was_found_out() -> None:
    """The head of a GET differs in its cursor too, with a session and without."""
    for lines in ([b"Mcp-Session-Id: a"], []):
        heads = Heads()
        first = heads.read(get(*lines, b"Last-Event-ID: e.1.1"))
        second = heads.read(get(*lines, b"Last-Event-ID: e.1.2"))

        assert first is not None
        assert second is not None
        assert second.head.findings is first.head.findings
        assert (first.head.last_event_id, second.head.last_event_id) == ("e.1.1", "e.1.2")
        assert ("Last-Event-ID", "e.1.2") in second.head.headers


@pytest.mark.parametrize("method", [b"POST", b"DELETE"])
def test_a_cursor_is_one_of_a_stream_alone(method: bytes) -> None:
    """Anywhere else it is a header like others."""
    heads = Heads()
    for cursor in (b"1", b"2"):
        line = b"Last-Event-ID: " + cursor
        reading = heads.read(post(line) if method == b"POST" else get(line, method=method))

        assert reading is not None
        assert reading.head.last_event_id is None
        assert ("Last-Event-ID", cursor.decode()) in reading.head.headers


def test_heads_that_never_come_again_are_not_remembered() -> None:
    """With a client's own correlation id every head is a new one."""
    heads = Heads()
    first, second = heads.read(get(b"X-Request-Id: 1")), heads.read(get(b"X-Request-Id: 1"))

    assert first is not None
    assert second is not None
    assert second.head is not first.head


def test_what_is_remembered_is_bounded() -> None:
    """Beyond the bound all is forgotten, and learnt anew."""
    heads = Heads()
    readings = [heads.read(get(b"X: %d" % number)) for number in range(MAX_HEADS + 1)]
    last, first = heads.read(get(b"X: %d" % MAX_HEADS)), heads.read(get(b"X: 0"))

    assert last is not None
    assert first is not None
    assert len(heads._known) == 2
    assert readings[-1] is not None
    assert readings[0] is not None
    assert last.head is readings[-1].head
    assert first.head is not readings[0].head


SESSION_NAMES = st.sampled_from([b"Mcp-Session-Id: ", b"mcp-session-id: ", b"MCP-SESSION-ID: ", b"mcp-session-id:"])
SESSION_IDS = st.from_regex(re.compile(rb"[!-~]{1,8}"), fullmatch=True)
LENGTHS = st.integers(1, 10**10 - 1) | st.integers(1, 99)
FIELDS = st.lists(
    st.sampled_from(
        [
            b"Accept: application/json, text/event-stream",
            b"accept-encoding: gzip",
            b"User-Agent: x/1 (a; b)",
            b"MCP-Protocol-Version: 2025-06-18",
            b"MCP-Protocol-Version: 2026-07-28",
            b"X-Request-Id: 7",
            b"Connection: keep-alive",
            b"Authorization: Bearer a:b",
            b"X-A:",
            b"X-B: \t",
        ]
    ),
    max_size=5,
    unique_by=lambda line: line.partition(b":")[0].lower(),
)


@st.composite
def usual_pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw two usual heads that differ in the session id, the cursor and the length alone."""
    method = draw(st.sampled_from([b"POST", b"GET", b"DELETE"]))
    lines = [[line, line] for line in (b"Host: h", *draw(FIELDS))]
    if method == b"POST":
        name = draw(st.sampled_from([b"Content-Length: ", b"content-length: "]))
        lines.append([name + b"%d" % draw(LENGTHS), name + b"%d" % draw(LENGTHS)])
    if draw(st.booleans()):
        name = draw(SESSION_NAMES)
        lines.append([name + draw(SESSION_IDS), name + draw(SESSION_IDS)])
    if draw(st.booleans()):
        name = draw(st.sampled_from([b"Last-Event-ID: ", b"last-event-id: ", b"LAST-EVENT-ID: "]))
        lines.append([name + draw(SESSION_IDS), name + draw(SESSION_IDS)])
    begin = method + b" /" + draw(st.sampled_from([b"", b"mcp", b"mcp?a=b"])) + b" HTTP/1.1\r\n"
    one, other = (
        begin + b"".join(line + b"\r\n" for line in way) for way in zip(*draw(st.permutations(lines)), strict=True)
    )
    return one, other


@given(usual_pairs())
def test_a_head_that_is_recognised_means_what_it_says(texts: tuple[bytes, bytes]) -> None:
    """A recognised head says the same as one that is read in full by somebody who has seen no other."""
    heads = Heads()
    for text in (texts[0], texts[1], texts[0], texts[1]):
        found = meaning(heads.read(text))

        assert found is not None
        assert found == meaning(Heads().read(text))


PIECES = st.sampled_from(
    [
        b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"0", b"7", b",", b"a", b"A", b"\0", b"\xff", b"-",
        b"\r\nContent-Length: ", b"\r\ncontent-length: 3", b"\r\nContent-Length:", b"\r\nCONTENT-LENGTH: 9",
        b"\r\nMcp-Session-Id: ", b"\r\nmcp-session-id: b", b"\r\nTransfer-Encoding: chunked", b"\r\nX-Request-Id: 1",
        b"\r\n Content-Length: 4", b" HTTP/1.0",
    ]
)  # fmt: skip


ODD_LENGTHS = st.sampled_from(
    [b"", b"\r\nContent-Length: ", b"\r\ncontent-length:", b"\r\nCONTENT-LENGTH: 6", b"\r\nContent-Length:6"]
)


@st.composite
def odd_heads(draw: st.DrawFn, texts: st.SearchStrategy[tuple[bytes, bytes]] | None = None) -> bytes:
    """Draw a head of which something was changed anywhere; whatever it is, it ends with a line end."""
    text = draw(st.sampled_from(draw(usual_pairs() if texts is None else texts)))
    if draw(st.booleans()):
        odd = draw(ODD_LENGTHS)
        text = re.sub(rb"(?i)\r\ncontent-length: [0-9]+", lambda _: odd, text)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(PIECES) + text[at + draw(st.integers(0, 3)) :]
    return text.removesuffix(b"\n").removesuffix(b"\r").replace(b"\r\n\r\n", b"\r\n") + b"\r\n"


@st.composite
def odd_families(draw: st.DrawFn) -> list[bytes]:
    """Draw heads that are all changes of the same one."""
    pair = draw(usual_pairs())
    return draw(st.lists(st.sampled_from(pair) | odd_heads(st.just(pair)), min_size=2, max_size=6))


@given(odd_families())
def test_what_came_before_changes_the_meaning_of_no_head(texts: list[bytes]) -> None:
    """Whatever heads were read before, usual and odd: the next is read as if it were the first."""
    heads = Heads()
    for text in texts + texts:
        assert meaning(heads.read(text)) == meaning(Heads().read(text))


class Parsed:
    """A head as llhttp reads it."""

    def __init__(self, text: bytes) -> None:
        self.pairs: list[tuple[str, str]] = []
        self.target = b""
        self.is_whole = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(text)
        self.method = parser.get_method().decode()
        self.keeps = parser.should_keep_alive()
        self.upgrades = parser.should_upgrade()

    def on_url(self, url: bytes) -> None:
        """Keep it."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep it."""
        self.pairs.append((name.decode(), value.decode()))

    def on_headers_complete(self) -> None:
        """Note it."""
        self.is_whole = True


@given(usual_pairs().map(lambda pair: pair[0]) | odd_heads())
def test_what_is_read_here_means_the_same_to_another_parser(text: bytes) -> None:
    """Every head that is not left to the library says the same to llhttp, the framing too."""
    reading = Heads().read(text)
    if reading is None:
        return
    parsed = Parsed(text + b"\r\n")

    assert parsed.is_whole
    assert parsed.keeps
    assert not parsed.upgrades
    assert (reading.head.method, reading.head.path.encode()) == (parsed.method, parsed.target)
    assert reading.head.headers == [(name, value.rstrip(" \t")) for name, value in parsed.pairs]

    fields = {name.lower(): value for name, value in parsed.pairs}

    assert "transfer-encoding" not in fields
    assert reading.length == int(fields.get("content-length", "0"))


# -- what has only begun


@given(usual_pairs())
def test_a_usual_head_may_come_in_pieces(texts: tuple[bytes, bytes]) -> None:
    """Behind its request line every beginning of a usual head is awaited; one before its end is the library's."""
    whole = texts[0] + b"\r\n"
    for end in range(len(whole)):
        assert may_become_usual(whole[:end]) == (b"\r\n" in whole[:end])


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"P",
        b"POST /mcp HTTP/1.1",
        b"POST /mcp HTTP/1.0\r\n",
        b"\r\nPOST /mcp HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        POST_LINE + b"\n",
        POST_LINE + b" ",
        POST_LINE + b":",
        POST_LINE + b"Host: h\r\n folded",
        POST_LINE + b"Host: h\r\nX: \xff",
        POST_LINE + b"Host: h\r\nX Y",
        POST_LINE + b"Host: h\r\nX\r",
        POST_LINE + b"Host: h\r\nX\r\n",
        POST_LINE + b"Host: h\r\nX\n",
        POST_LINE + b"Host: h\n",
        POST_LINE + b"Host: h\r\n\n",
        POST_LINE + b"Host: h\r\r",
        POST_LINE + b"X: " + b"a" * MAX_HEAD_BYTES,
    ],
)
def test_what_will_not_become_usual_is_not_awaited(begun: bytes) -> None:
    """Whoever sends no HTTP has its answer now, not when the time for a head is over."""
    assert not may_become_usual(begun)


@given(odd_heads(), st.integers(0))
def test_what_is_awaited_can_become_usual(text: bytes, place: int) -> None:
    """There are bytes with which it is a head in which every line is right."""
    begun = text[: place % (len(text) + 1)]
    # Of a blank line behind the request line the library has to see the end too.
    if may_become_usual(begun) and not begun.endswith(b"HTTP/1.1\r\n\r"):
        endings = (b"\n", b"\r\n", b":\r\n", b"a:\r\n")

        assert any(module._WHOLE(re.sub(rb"\r\n\r\n\Z", b"\r\n", begun + ending)) for ending in endings)


# -- the heads of answers


def lines(head: bytes) -> list[bytes]:
    """Return the lines of a head."""
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def test_a_whole_answer_says_its_length_its_date_and_its_server() -> None:
    """Behind what it was given, in its order and case."""
    head = Rendered(404, [("X-a", "1"), ("Content-Type", "text/plain"), ("x-A", "é")]).framed(7, DATE, None)

    assert lines(head) == [
        b"HTTP/1.1 404 Not Found",
        b"X-a: 1",
        b"Content-Type: text/plain",
        b"x-A: \xc3\xa9",
        b"Server: mcp-session-proxy",
        b"Content-Length: 7",
        b"Date: now",
    ]


def test_an_answer_in_pieces_has_no_length() -> None:
    """It is chunked, and says date and server too."""
    head = Rendered(200, [("Content-Type", "text/event-stream")]).chunked(DATE, None)

    assert lines(head) == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/event-stream",
        b"Server: mcp-session-proxy",
        b"Transfer-Encoding: chunked",
        b"Date: now",
    ]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_what_the_upstream_says_of_itself_stays(is_chunked: bool) -> None:
    """Date, server and type are not said twice, in whatever letter case they come."""
    known = Rendered(200, [("dATE", "then"), ("sERVER", "origin"), ("cONTENT-type", "a/b")])
    head = known.chunked(DATE, None) if is_chunked else known.framed(3, DATE, None)

    assert lines(head)[1:4] == [b"dATE: then", b"sERVER: origin", b"cONTENT-type: a/b"]
    assert len(lines(head)) == 5


def test_a_body_of_which_nobody_said_what_it_is_is_bytes() -> None:
    """Only where there is one."""
    untyped = b"Content-Type: application/octet-stream"
    known = Rendered(200, [])

    assert untyped in lines(known.framed(1, DATE, None))
    assert untyped in lines(known.chunked(DATE, None))
    assert untyped not in lines(known.framed(0, DATE, None))
    assert b"Content-Length: 0" in lines(known.framed(0, DATE, None))


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_has_no_length(status: int) -> None:
    """Whatever length it is given (RFC 9110, 8.6)."""
    for length in (0, 5):
        head = Rendered(status, [("ETag", "1")]).framed(length, DATE, SessionId("s"))

        assert lines(head)[1:] == [
            b"ETag: 1",
            b"Mcp-Session-Id: s",
            b"Server: mcp-session-proxy",
            b"Date: now",
        ]


def test_a_status_without_a_name_is_written() -> None:
    """The blank behind it stays (RFC 9112, 4)."""
    assert lines(Rendered(299, []).framed(0, DATE, None))[0] == b"HTTP/1.1 299 "


def test_the_session_id_follows_the_other_headers() -> None:
    """It differs where they do not, and is kept in none of them."""
    known = Rendered(200, [("Content-Type", "a/b")])

    assert lines(known.framed(1, DATE, SessionId("one")))[1:3] == [b"Content-Type: a/b", b"Mcp-Session-Id: one"]
    assert lines(known.chunked(DATE, SessionId("two")))[1:3] == [b"Content-Type: a/b", b"Mcp-Session-Id: two"]
    assert not any(line.startswith(b"Mcp-Session-Id") for line in lines(known.framed(1, DATE, None)))


def test_an_answer_may_be_the_last_one() -> None:
    """A connection is closed behind an answer that says so."""
    assert Rendered(413, [("CONNECTION", "close")]).closes
    assert not Rendered(200, [("Connection", "keep-alive")]).closes
    assert not Rendered(200, []).closes


def test_a_block_is_rendered_once() -> None:
    """With another status anew; headers that are no block every time."""
    block = Block([("X-A", "1")])
    first = rendered(200, block)

    assert rendered(200, block) is first

    other = rendered(404, block)

    assert other.framed(0, DATE, None).startswith(b"HTTP/1.1 404 ")
    assert rendered(404, block) is other
    assert rendered(200, block).framed(0, DATE, None) == first.framed(0, DATE, None)

    headers: Headers = [("X-A", "1")]

    assert rendered(200, headers) is not rendered(200, headers)


@pytest.mark.parametrize("make", [list, Block])
@pytest.mark.parametrize("pair", [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\rb"), ("X", "a\0"), ("X: 1\r\nY", "a")])
def test_no_value_says_more_than_one_line(make: Any, pair: tuple[str, str]) -> None:
    """It is refused; written, it would be a header that nobody gave."""
    for _ in range(2):
        with pytest.raises(ValueError, match="line end"):
            rendered(200, make([("A", "b"), pair]))


def test_the_date_is_one_of_http() -> None:
    """In GMT, to the second (RFC 9110, 5.6.7)."""
    line = date_line().decode()

    assert re.fullmatch(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", line)
    assert parsedate_to_datetime(line.removeprefix("Date: ").rstrip()).tzinfo is not None
