"""What the fuzzers build from: requests and answers that are right, and how to spoil them.

Knows how HTTP is written, and nothing of who reads it. Every strategy gives bytes whose framing is known from how they
were made; what `spoiled` makes of them is known by the model alone.
"""

import itertools
from dataclasses import dataclass

from hypothesis import strategies as st

NAMES = ("X-A", "x-a", "Accept", "Content-Type", "Mcp-Session-Id", "Cookie", "Content-Lengthy", "X-Transfer-Encoding")
VALUES = (
    "",
    "1",
    "a b",
    "application/json, text/event-stream",
    "\xe9",
    "a\tb",
    "Content-Length: 3",
    ":",
    "0\\r\\n",
    "x" * 300,
)

TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"\r\n\r\n",
    b"\n\n",
    b"0\r\n\r\n",
    b"5\r\n",
    b"3\r\nabc\r\n",
    b"3;x\r\nabc\r\n",
    b"-1",
    b"+",
    b"0x",
    b"18446744073709551616",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length:5\r\n",
    b"Content-Length : 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: b\r\n",
    b" folded\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nX",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\xff",
    b"abc",
)
"""What is put in somewhere."""


@dataclass(frozen=True)
class Built:
    """A message and what it is."""

    data: bytes
    body: bytes
    framing: str
    method: str = ""
    status: int = 0


_SINGLE = ("content-type",)
"""What aiohttp refuses to see twice."""
_LINES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)),
    max_size=4,
    unique_by=lambda line: line[0].lower() if line[0].lower() in _SINGLE else line,
).map(tuple)
_BODIES = st.sampled_from(
    (b"", b"a", b"abc", b"{}", b"\r\n\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 200)
) | st.binary(max_size=40)


def _chunks(body: bytes, sizes: list[int], *, is_odd: bool) -> bytes:
    parts = []
    at = 0
    for size in sizes:
        if body[at : at + size]:
            parts.append(body[at : at + size])
            at += size
    if body[at:]:
        parts.append(body[at:])
    written = [b"%x%b\r\n%b\r\n" % (len(part), b";x=y" if is_odd else b"", part) for part in parts]
    return b"".join(written) + (b"00\r\n\r\n" if is_odd else b"0\r\n\r\n")


def _lines(first: str, lines: tuple[tuple[str, str], ...]) -> bytes:
    text = "".join([f"{first}\r\n", *(f"{name}: {value}\r\n" for name, value in lines)])
    return text.encode("latin-1") + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> Built:
    """Write one request that every reader frames alike."""
    method = draw(st.sampled_from(("POST", "POST", "POST", "GET", "DELETE", "HEAD", "OPTIONS", "PUT")))
    target = draw(st.sampled_from(("/mcp", "/mcp?a=%20", "/", "http://a/mcp")))
    lines = (("Host", "a"), *draw(_LINES))
    framing = draw(st.sampled_from(("length", "length", "chunks", "odd chunks", "none")))
    body = draw(_BODIES) if framing != "none" else b""
    if framing == "length":
        at = draw(st.integers(0, len(lines)))
        name = draw(st.sampled_from(("Content-Length", "content-length")))
        lines = (*lines[:at], (name, str(len(body))), *lines[at:])
        return Built(_lines(f"{method} {target} HTTP/1.1", lines) + body, body, framing, method)
    if framing == "none":
        return Built(_lines(f"{method} {target} HTTP/1.1", lines), body, framing, method)
    lines = (*lines, ("Transfer-Encoding", "chunked"))
    data = _chunks(body, draw(st.lists(st.integers(1, 50), max_size=3)), is_odd=framing == "odd chunks")
    return Built(_lines(f"{method} {target} HTTP/1.1", lines) + data, body, framing, method)


@st.composite
def answers(draw: st.DrawFn) -> Built:
    """Write one final answer that every reader frames alike, perhaps behind announcements."""
    status = draw(st.sampled_from((200, 200, 200, 202, 204, 304, 400, 404, 500)))
    lines = draw(_LINES)
    before = draw(
        st.sampled_from((b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: <x>\r\n\r\n"))
    )
    framing = draw(st.sampled_from(("length", "length", "chunks", "odd chunks", "close")))
    body = draw(_BODIES)
    first = f"HTTP/1.1 {status} Any"
    if status in (204, 304):
        return Built(before + _lines(first, lines), b"", "none", status=status)
    if framing == "length":
        at = draw(st.integers(0, len(lines)))
        line = draw(st.sampled_from(("Content-Length", "content-length")))
        lines = (*lines[:at], (line, str(len(body))), *lines[at:])
        return Built(before + _lines(first, lines) + body, body, framing, status=status)
    if framing == "close":
        return Built(before + _lines(first, lines) + body, body, framing, status=status)
    lines = (*lines, ("Transfer-Encoding", "chunked"))
    data = _chunks(body, draw(st.lists(st.integers(1, 50), max_size=3)), is_odd=framing == "odd chunks")
    return Built(before + _lines(first, lines) + data, body, framing, status=status)


_SPOILS = st.lists(
    st.tuples(
        st.sampled_from(("insert", "insert", "replace", "delete", "repeat", "truncate", "line feeds")),
        st.integers(0, 2**16),
        st.integers(1, 12),
        st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Change bytes at a few places."""
    for how, where, size, token in draw(_SPOILS):
        at = where % (len(data) + 1)
        if how == "insert":
            data = data[:at] + token + data[at:]
        elif how == "replace":
            data = data[:at] + token + data[at + len(token) :]
        elif how == "delete":
            data = data[:at] + data[at + size :]
        elif how == "repeat":
            data = data[:at] + data[at : at + size * 4] + data[at:]
        elif how == "truncate":
            data = data[:at]
        else:
            data = data.replace(b"\r\n", b"\n", size)
    return data


CUTS = st.lists(st.integers(0, 2**16), max_size=6)


def segments(data: bytes, places: list[int]) -> list[bytes]:
    """Cut into segments at these places."""
    inside = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(inside)]
