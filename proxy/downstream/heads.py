"""What of HTTP the downstream edge reads and writes itself: the usual request head, and the head of an answer.

Owns the judgement of what is usual. Must not know connections. Invariant: a head that is read here means the same to
every HTTP parser; whatever is odd in any way (framing, duplicates, folding, upgrades, bytes beyond ASCII) is left to
the library, which answers as if it had read the connection from its first byte.
"""

import re
import sys
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from proxy.core.head import Head
from proxy.core.headers import SESSION_ID, Block, Headers, render
from proxy.core.ids import SessionId

PRODUCT: Final = "mcp-session-proxy"
"""What answers name as their server where the upstream named none."""

MAX_HEAD_BYTES: Final = 8_000
"""Below the library's limit for a single line: what is longer is the library's to refuse."""
_MAX_FIELDS: Final = 64

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_START: Final = rb"(POST|GET|DELETE) (/[!-~]*+) HTTP/1\.1\r\n"
_FIELDS: Final = rb"(?:" + _TOKEN + rb":[\t -~]*+\r\n)++"
_WHOLE: Final = re.compile(_START + rb"(" + _FIELDS + rb")").fullmatch
# What may still become a usual head; anything else must have its answer now, not when its end has come.
_BEGUN: Final = re.compile(_START + rb"(?:" + _FIELDS + rb")?+(?:" + _TOKEN + rb"(?::[\t -~]*+\r?+)?+|\r)?+").fullmatch
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[\t ]*+([\t -~]*+)\r\n").findall
_LENGTH: Final = re.compile(rb"[1-9][0-9]{0,9}").fullmatch
_VALUE: Final = re.compile(rb"[!-~]{1,256}").fullmatch
# As clients write them; a head with another spelling is read in full every time, and one whose Content-Length has
# another is the library's.
_LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_SESSION_IDS: Final = (b"\r\nMcp-Session-Id: ", b"\r\nmcp-session-id: ")
_CURSORS: Final = (b"\r\nLast-Event-ID: ", b"\r\nlast-event-id: ")
MAX_HEADS: Final = 512
"""Remembered at once, forgotten all together."""
# Each of them changes what the bytes mean that follow the head, or asks for an answer before the answer.
_UNUSUAL: Final = frozenset(
    {
        "content-encoding",
        "expect",
        "http2-settings",
        "proxy-connection",
        "sec-websocket-key1",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
CHUNK: Final = b"%x\r\n%b\r\n"
"""A piece of an answer: its size and itself (RFC 9112, 7.1)."""
COPIED_BYTES: Final = 65_536
"""Below this a body is copied behind its head, which is cheaper than a list of buffers for the kernel."""
BODILESS: Final = frozenset({204, 304})
"""Answers without a body, and so without its length (RFC 9110, 8.6)."""
_SESSION: Final = SESSION_ID.encode("ascii") + b": %b\r\n"
# What the library calls a body of which nobody said what it is.
_UNTYPED: Final = b"Content-Type: application/octet-stream\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}


class Reading:
    """A usual head, and how to recognise it when it comes again with a body of another length."""

    __slots__ = ("behind", "head", "length", "size", "until")

    def __init__(self, head: Head, length: int, until: bytes, behind: bytes) -> None:
        self.head = head
        self.length = length
        """Of the body; 0 for a request that has none."""
        self.until = until
        """The head as far as its Content-Length's value; empty for a request without one."""
        self.behind = behind
        """The rest of it, with the empty line."""
        self.size = len(until) + len(behind)


class Heads:
    """The heads that one server's clients send, recognised but for their session id and the length of their body."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, text: bytes) -> Reading | None:
        """Read a head, from its first byte to the line end before the empty line; None for one that is not usual."""
        if len(text) > MAX_HEAD_BYTES:
            return None
        key, digits, at = _without(text, _LENGTHS)
        until, behind = (text[:at], text[at + len(digits) :] + b"\r\n") if digits else (b"", b"")
        key, session_id, _ = _without(key, _SESSION_IDS)
        cursor = b""
        if text.startswith(b"GET"):
            key, cursor, _ = _without(key, _CURSORS)
        known = self._known.get(key)
        # Only with a good length, where there is one: without one the key is that of a head whose body has no end.
        if known is not None and (_LENGTH(digits) is not None) == (known.method == "POST"):
            has_session, has_cursor = known.session_id is not None, known.last_event_id is not None
            if not has_session and not has_cursor:
                return Reading(known, int(digits or b"0"), until, behind)
            if (not has_session or _VALUE(session_id)) and (not has_cursor or _VALUE(cursor)):
                again = known.of(session_id.decode("ascii") or None, cursor.decode("ascii") or None)
                return Reading(again, int(digits or b"0"), until, behind)
        head = _parse(text)
        if head is None or (head.method == "POST" and not _LENGTH(digits)):
            return None
        # A client's own correlation id is new every time: nothing would be recognised.
        if head.request_id is None:
            if len(self._known) >= MAX_HEADS:
                self._known.clear()
            self._known[key] = head
        return Reading(head, int(digits or b"0"), until, behind)


def _without(text: bytes, names: tuple[bytes, ...]) -> tuple[bytes, bytes, int]:
    """Return a head without the value of the first of *names* that it has, that value, and where it stood."""
    for name in names:
        at = text.find(name)
        if at >= 0:
            at += len(name)
            stop = text.find(b"\r\n", at)
            return text[:at] + text[stop:], text[at:stop], at
    return text, b"", 0


def _parse(text: bytes) -> Head | None:
    match = _WHOLE(text)
    if match is None:
        return None
    method = match[1].decode("ascii")
    # Interned: the sessions of many clients keep the same names and values.
    intern = sys.intern
    pairs: Headers = [
        (intern(name.decode("ascii")), intern(value.decode("ascii").rstrip(" \t"))) for name, value in _FIELD(match[3])
    ]
    fields = {name.lower(): value for name, value in pairs}
    if len(fields) != len(pairs) or len(pairs) > _MAX_FIELDS or "host" not in fields:
        return None
    if not _UNUSUAL.isdisjoint(fields) or fields.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    if ("content-length" in fields) != (method == "POST"):
        return None
    return Head(method, match[2].decode("ascii"), pairs)


def may_become_usual(text: bytes) -> bool:
    """Tell whether the beginning of a head has nothing unusual in it so far."""
    return len(text) <= MAX_HEAD_BYTES and _BEGUN(text) is not None


class Rendered:
    """The head of an answer but for what differs from one to the next: session id, framing, date."""

    __slots__ = ("begin", "behind", "closes", "counted", "has_date", "has_type", "is_typed", "status")

    def __init__(self, status: int, headers: Headers) -> None:
        names = {name.lower(): value for name, value in headers}
        self.status = status
        line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode("ascii")
        self.begin = line + render(headers)
        self.behind = b"" if "server" in names else f"Server: {PRODUCT}\r\n".encode("ascii")
        self.has_date = "date" in names
        self.has_type = "content-type" in names
        self.closes = names.get("connection") == "close"
        self.is_typed = self.has_type and status not in BODILESS
        self.counted = b"%b%bContent-Length: " % (self.begin, self.behind)
        """What stands in front of the length of an answer of no session."""

    def framed(self, length: int, date: bytes, session_id: SessionId | None, body: bytes = b"") -> bytes:
        """Write the head of an answer whose body has *length* bytes, and behind it what of the body is given."""
        if self.has_date:
            date = b""
        if session_id is None and self.is_typed:
            return b"%b%d\r\n%b\r\n%b" % (self.counted, length, date, body)
        begin = self.begin if session_id is None else self.begin + _SESSION % session_id.encode("ascii")
        if self.status in BODILESS:
            return b"%b%b%b\r\n" % (begin, self.behind, date)
        if length and not self.has_type:
            date = _UNTYPED + date
        return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (begin, self.behind, length, date, body)

    def chunked(self, date: bytes, session_id: SessionId | None) -> bytes:
        """Write the head of an answer in pieces."""
        begin = self.begin if session_id is None else self.begin + _SESSION % session_id.encode("ascii")
        if self.has_date:
            date = b""
        if not self.has_type:
            date = _UNTYPED + date
        return b"%b%bTransfer-Encoding: chunked\r\n%b\r\n" % (begin, self.behind, date)


def rendered(status: int, headers: Headers) -> Rendered:
    """Render a head; one of a block, which comes again and again, only once.

    Raises:
        ValueError: a header value holds a line end or NUL.
    """
    if type(headers) is not Block:
        return Rendered(status, headers)
    known = headers.rendered
    if type(known) is Rendered and known.status == status:
        return known
    headers.rendered = fresh = Rendered(status, headers)
    return fresh


def date_line() -> bytes:
    """Return the `Date` of this second (RFC 9110, 6.6.1)."""
    return f"Date: {formatdate(usegmt=True)}\r\n".encode("ascii")
