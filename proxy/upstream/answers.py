"""The heads of an upstream's answers that were read before: a server repeats them byte for byte, but for the length.

Owns what is remembered, in bounds, and how a head is recognised. Knows no connection. Invariant: only a head that
llhttp read, that came in one piece, and whose body's end is plain from it (one Content-Length, or chunked and nothing
else) is remembered; equal bytes then mean the same.
"""

from proxy.core.headers import Block, Headers

MAX_HEADS = 512
"""Remembered at once, forgotten all together: heads with a date are new every second, with a session id for each."""
MAX_HEAD_BYTES = 8_000
"""Longer ones are not remembered."""
BODILESS = frozenset({204, 304})
"""Answers that have no body whatever their headers say (RFC 9110, 6.4.1); llhttp knows them too."""
_LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_LENGTH_SIZE = len(_LENGTHS[0])


class KnownHead:
    """One head as llhttp read it."""

    __slots__ = ("headers", "is_counted", "is_persistent", "status")

    def __init__(self, status: int, headers: Block, *, is_counted: bool, is_persistent: bool) -> None:
        self.status = status
        self.headers = headers
        self.is_counted = is_counted
        """Whether the body has a Content-Length, which differs from answer to answer; else it is chunked."""
        self.is_persistent = is_persistent


Found = tuple[KnownHead | None, bytes, int, int]
"""The head if it is known, what to learn it by, where the body begins, and its length."""


class KnownHeads:
    """The heads of one upstream's answers."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> Found | None:
        """Look for the head that *data* begins with; None where it is not one to remember."""
        end = data.find(b"\r\n\r\n") + 4
        # llhttp forgives line ends in front of an answer: an empty line there is not the head's end.
        if not 4 <= end <= MAX_HEAD_BYTES or not data.startswith(b"HTTP/1."):
            return None
        at = data.find(_LENGTHS[0], 0, end)
        if at < 0:
            at = data.find(_LENGTHS[1], 0, end)
            if at < 0:
                key = data[:end]
                return self._heads.get(key), key, end, 0
        at += _LENGTH_SIZE
        stop = data.find(b"\r\n", at)
        digits = data[at:stop]
        if not digits.isdigit() or len(digits) > 15:
            return None
        key = data[:at] + data[stop:end]
        return self._heads.get(key), key, end, int(digits)

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
