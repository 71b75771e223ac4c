"""The heads of an upstream's answers that were read before: a server repeats them, but for length and session id.

Owns what is remembered, in bounds, and how a head is recognised. Knows no connection. Invariant: only a head that
llhttp read, that came in one piece, and whose body's end is plain from it (one Content-Length, or chunked and nothing
else) is remembered; equal bytes then mean the same.
"""

import re

from proxy.core.headers import Block, Headers, body_of, forward_response

MAX_HEADS = 512
"""Remembered at once, forgotten all together: heads with a date are new every second."""
MAX_HEAD_BYTES = 8_000
"""Longer ones are not remembered."""
BODILESS = frozenset({204, 304})
"""Answers that have no body whatever their headers say (RFC 9110, 6.4.1); llhttp knows them too."""
_LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_LENGTH_SIZE = len(_LENGTHS[0])
_MAX_DIGITS = 15
_SESSION_IDS = (b"\r\nMcp-Session-Id: ", b"\r\nmcp-session-id: ")
_SESSION_ID_SIZE = len(_SESSION_IDS[0])
# No byte that two parsers could read differently, or that one of them would take off.
_VALUE = re.compile(rb"[!-~]{1,256}").fullmatch


class KnownHead:
    """One head as llhttp read it."""

    __slots__ = ("headers", "is_counted", "is_persistent", "is_usual", "status")

    def __init__(self, status: int, headers: Block, *, is_counted: bool, is_persistent: bool) -> None:
        self.status = status
        self.headers = headers
        self.is_counted = is_counted
        """Whether the body has a Content-Length, which differs from answer to answer; else it is chunked."""
        self.is_persistent = is_persistent
        self.is_usual = is_counted and 200 <= status < 300
        """Whether it is one of a success whose body has a length."""

    def of(self, name: str, session_id: str) -> "KnownHead":
        """Return the same head with another session id in the first header that is spelled *name*."""
        headers = Block(self.headers)
        at = next(place for place, pair in enumerate(headers) if pair[0] == name)
        headers[at] = (name, session_id)
        headers.is_of_session = True
        # The same whatever the session id is, so it is worked out for the first of them only.
        headers.body = body_of(self.headers)
        forward_response(self.headers)
        headers.onward = self.headers.onward
        return KnownHead(self.status, headers, is_counted=self.is_counted, is_persistent=self.is_persistent)


Found = tuple[KnownHead | None, bytes, int, int]
"""The head if it is known, what to learn it by, where the body begins, and its length."""


class KnownHeads:
    """The heads of one upstream's answers."""

    __slots__ = ("_behind", "_heads", "_size", "_until", "last")

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        self.last: KnownHead | None = None
        """The one that was found last, and as a rule comes next."""
        self._until = b""
        """That head as far as its length."""
        self._behind = b""
        """The rest of it; empty where it has no length."""
        self._size = 0
        """Of both together."""

    def whole(self, data: bytes) -> int:
        """Tell where the body begins, if *data* is one answer with the head `last` and a body that is all there; or 0.

        Nearly every answer is one read. The head that it would have then is written and compared, which takes half as
        long as to read what it says.
        """
        size = len(data) - self._size
        length = size - (2 if size < 102 else 3 if size < 1003 else 4 if size < 10004 else 5)
        if length <= 0:
            return 0
        head = b"%b%d%b" % (self._until, length, self._behind)
        # With the wrong number of digits the sizes do not add up.
        return len(head) if len(head) + length == len(data) and data.startswith(head) else 0

    def find(self, data: bytes) -> Found | None:
        """Look for the head that *data* begins with; None where it is not one to remember."""
        last = self.last
        if last is not None and data.startswith(self._until):
            if not last.is_counted:
                return last, b"", self._size, 0
            at = len(self._until)
            stop = data.find(b"\r\n", at, at + _MAX_DIGITS + 2)
            # Not found, it would be an end before the beginning, which compiled code refuses to cut out.
            digits = data[at:stop] if stop >= 0 else b""
            if digits.isdigit() and data.startswith(self._behind, stop):
                return last, b"", stop + len(self._behind), int(digits)
        end = data.find(b"\r\n\r\n") + 4
        # llhttp forgives line ends in front of an answer: an empty line there is not the head's end.
        if not 4 <= end <= MAX_HEAD_BYTES or not data.startswith(b"HTTP/1."):
            return None
        at = data.find(_LENGTHS[0], 0, end)
        if at < 0:
            at = data.find(_LENGTHS[1], 0, end)
            if at < 0:
                return self._look_up(data[:end], b"", end, 0)
        at += _LENGTH_SIZE
        stop = data.find(b"\r\n", at)
        digits = data[at:stop]
        if not digits.isdigit() or len(digits) > _MAX_DIGITS:
            return None
        return self._look_up(data[:at], data[stop:end], end, int(digits))

    def _look_up(self, until: bytes, behind: bytes, end: int, length: int) -> Found | None:
        key = until + behind
        for name in _SESSION_IDS:
            at = key.find(name)
            if at >= 0:
                # New for every session: the head is known without it.
                at += _SESSION_ID_SIZE
                stop = key.find(b"\r\n", at)
                session_id = key[at:stop]
                if not _VALUE(session_id):
                    return None
                key = key[:at] + key[stop:]
                head = self._heads.get(key)
                if head is not None:
                    head = head.of(name[2:-2].decode("ascii"), session_id.decode("ascii"))
                return head, key, end, length
        head = self._heads.get(key)
        if head is not None:
            self.last, self._until, self._behind = head, until, behind
            self._size = len(key)
        return head, key, end, length

    def learn(self, key: bytes, status: int, headers: Headers, is_persistent: bool) -> Headers:
        """Remember what llhttp read, if the body's end is plain; return the headers to hand on."""
        lengths = codings = 0
        is_chunked = False
        for name, value in headers:
            if name[0] in "cCtTuU":
                lower = name.lower()
                lengths += lower == "content-length"
                codings += lower == "transfer-encoding"
                is_chunked = is_chunked or (lower == "transfer-encoding" and value.lower() == "chunked")
                if lower == "upgrade":
                    return headers
        # A length in a spelling that `find` does not know would be taken for none.
        is_counted = lengths == 1 and not codings and any(name + b"\r\n" in key for name in _LENGTHS)
        if status < 200 or status in BODILESS or not (is_counted or (is_chunked and codings == 1 and not lengths)):
            return headers
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        block = Block(headers)
        self._heads[key] = KnownHead(status, block, is_counted=is_counted, is_persistent=is_persistent)
        return block
