"""Server-sent events as bytes: an incremental decoder to `Frame`, and the writers of what this proxy sends.

Follows the event stream grammar of the HTML standard with two differences: frames without data are returned
too (their ids and retry hints matter to a proxy), and an id belongs only to the frame that carries it. Must
not know what data means. Invariant: the frames do not depend on how the bytes were cut into chunks.
"""

import re
from typing import Final, NoReturn

import msgspec

HEARTBEAT: Final = b": keep-alive\n"
"""A comment line, legal wherever a line may begin. No blank line: older clients take one for an event."""

_BOM: Final = b"\xef\xbb\xbf"
_LF: Final = 0x0A
_SPACE: Final = 0x20
_BLANK_LINE: Final = b"\n\n"
# What servers really write: data last and on one line, id and event in either order. One match costs half
# of what splitting the block into lines does.
_COMMON: Final = re.compile(
    rb"(?:id: ?+([^\n\0]*+)\n)?(?:event: ?+([^\n]*+)\n)?(?:id: ?+([^\n\0]*+)\n)?data: ?+([^\n]*+)\n\n"
).match
_BARE_CR: Final = re.compile(rb"\r(?!\n)").search
_COMMENT: Final = re.compile(rb"\n:[^\n]*+")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_SMALL_PIECE_BYTES: Final = 4096
# Far above any wait that makes sense, far below the length that int() refuses.
_MAX_RETRY_DIGITS: Final = 15


class FrameTooLarge(ValueError):  # noqa: N818
    """One frame exceeds the limit; the decoder takes nothing more."""


class Frame(msgspec.Struct, gc=False):
    """One block of the stream as it was on the wire."""

    data: bytes | None = None
    """The data lines joined with LF; None without a data field, empty with an empty one."""
    id: bytes | None = None
    """Opaque bytes; None without an id field, or with one that holds NUL (the standard: ignore the field)."""
    event: bytes = b""
    retry: int | None = None
    """Milliseconds."""


class Decoder:
    """Turns chunks of an event stream into frames."""

    __slots__ = (
        "_after_cr",
        "_bom",
        "_in_comment",
        "_irregular",
        "_last",
        "_max",
        "_overflown",
        "_pieces",
        "_size",
    )

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        self._overflown = False
        self._bom: bytes | None = b""
        """What may be the beginning of a byte order mark; None once the first bytes have told."""
        self._after_cr = False
        """The last byte was a CR and counted as a line end: an LF that follows belongs to it."""
        self._in_comment = False
        self._irregular = True
        """Any of the four above has something to do with the next chunk."""
        self._pieces: list[bytes | bytearray] = []
        """The block under way, with LF line ends; never begins with an empty line."""
        self._size = 0
        self._last = _LF
        """The last byte of the block under way, LF when there is none: tells whether a line begins here."""

    @property
    def is_at_boundary(self) -> bool:
        """Whether a stream that ended here would be whole: no block, line or comment is half told."""
        return not (self._pieces or self._in_comment or self._bom or self._overflown)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes and return the frames they complete.

        Raises:
            FrameTooLarge: A frame exceeds the limit. Frames that the same chunk completed before it are
                returned first, and the error comes with the next call.
        """
        if self._irregular or b"\r" in chunk:
            chunk = self._normalise(chunk)
        frames: list[Frame] = []
        start, end = 0, len(chunk)
        longest = self._max + len(_BLANK_LINE)
        try:
            if self._pieces and end:
                start = self._complete(chunk, frames)
            while start < end:
                match = _COMMON(chunk, start)
                if match is not None:
                    stop = match.end()
                    if stop - start > longest:
                        self._overflow()
                    first_id, event, second_id, data = match.groups()
                    frames.append(Frame(data, first_id if second_id is None else second_id, event or b""))
                else:
                    blank = chunk.find(_BLANK_LINE, start)
                    if blank < 0:
                        self._keep(chunk[start:])
                        break
                    stop = blank + len(_BLANK_LINE)
                    self._finish(chunk[start:blank], frames)
                start = stop
        except FrameTooLarge:
            if not frames:
                raise
        return frames

    def _normalise(self, chunk: bytes) -> bytes:
        """Make all line ends LF, and take off what belongs to the beginning or to a comment."""
        if self._overflown:
            self._overflow()
        if self._bom is not None:
            chunk = self._bom + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._bom = chunk
                return b""
            self._bom = None
            chunk = chunk.removeprefix(_BOM)
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            if _BARE_CR(chunk):
                chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            else:
                # The usual case where CR occurs; with the search, a third of what replacing pairs costs.
                chunk = chunk.replace(b"\r", b"")
        if self._in_comment:
            _, line_end, rest = chunk.partition(b"\n")
            self._in_comment = not line_end
            chunk = rest
        self._irregular = self._after_cr or self._in_comment
        return chunk

    def _complete(self, chunk: bytes, frames: list[Frame]) -> int:
        """Finish the block under way if its end is here; return how much of the chunk was used."""
        if self._last == _LF and chunk[0] == _LF:
            # The blank line was split: its first LF is the last of what was kept.
            blank, stop = 0, 1
        else:
            blank = chunk.find(_BLANK_LINE)
            stop = blank + len(_BLANK_LINE)
            if blank < 0:
                self._keep(chunk)
                return len(chunk)
        self._pieces.append(chunk[:blank])
        block = b"".join(self._pieces)
        self._forget()
        self._finish(block, frames)
        return stop

    def _finish(self, block: bytes, frames: list[Frame]) -> None:
        if len(block) > self._max and self._net_size(block) > self._max:
            self._overflow()
        frame = _parse(block)
        if frame is not None:
            frames.append(frame)

    @staticmethod
    def _net_size(block: bytes) -> int:
        # Neither comments nor a line end at the edges count, whichever chunks they came in.
        return len(_COMMENT.sub(b"", b"\n" + block).strip(b"\n"))

    def _keep(self, piece: bytes) -> None:
        """Add to the block under way.

        Comment lines are taken out, so that a stream idle but for heartbeats keeps nothing. Small pieces are
        gathered, so that a drip of bytes does not cost an object each.
        """
        pieces = self._pieces
        if not pieces:
            piece = piece.removeprefix(b"\n")
        # Each comment goes with the LF before it and leaves its own; where a line begins here, one is lent.
        lent = b"\n" if self._last == _LF else b""
        if (lent and piece.startswith(b":")) or _COMMENT.search(piece):
            piece = lent + piece
            self._in_comment = piece.startswith(b"\n:", piece.rfind(b"\n"))
            self._irregular = self._irregular or self._in_comment
            piece = _COMMENT.sub(b"", piece) + (b"\n" if self._in_comment else b"")
            piece = piece[len(lent) :]
        if not piece:
            return
        last = pieces[-1] if pieces else b""
        if isinstance(last, bytearray) and len(last) < _SMALL_PIECE_BYTES:
            last += piece
        else:
            pieces.append(bytearray(piece) if len(piece) < _SMALL_PIECE_BYTES else piece)
        self._size += len(piece)
        self._last = piece[-1]
        # The LF that ends the last line is no part of the frame.
        if self._size > self._max + 1:
            self._overflow()

    def _forget(self) -> None:
        self._pieces.clear()
        self._size = 0
        self._last = _LF

    def _overflow(self) -> NoReturn:
        self._forget()
        self._overflown = self._irregular = True
        raise FrameTooLarge(f"a frame exceeds {self._max} bytes")


def _parse(block: bytes) -> Frame | None:
    """Read the lines of any block; None when none of them says anything. Each value is copied once."""
    data: list[bytes] = []
    frame_id: bytes | None = None
    event = b""
    retry: int | None = None
    start, end = 0, len(block)
    while start < end:
        line_end = block.find(b"\n", start)
        if line_end < 0:
            line_end = end
        colon = block.find(b":", start, line_end)
        if colon < 0:
            colon = line_end
        name = block[start:colon]
        first = colon + 1
        if first < line_end and block[first] == _SPACE:
            first += 1
        if name == b"data":
            data.append(block[first:line_end])
        elif name == b"id":
            value = block[first:line_end]
            if b"\0" not in value:
                frame_id = value
        elif name == b"event":
            event = block[first:line_end]
        elif name == b"retry":
            value = block[first:line_end]
            if value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                retry = int(value)
        start = line_end + 1
    if not data and frame_id is None and retry is None and not event:
        return None
    # A join of a single bytes object returns that object.
    return Frame(b"\n".join(data) if data else None, frame_id, event, retry)


def encode(event_id: str | bytes, event: bytes, data: bytes) -> bytes:
    """Write one frame.

    A reader gets `data` back byte for byte where its line ends are LF; CR and CRLF are line ends of the
    format itself and come back as LF.
    """
    if isinstance(event_id, str):
        event_id = event_id.encode()
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_LINE_END.split(data))
    if event:
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id, event, data)
    return b"id: %b\ndata: %b\n\n" % (event_id, data)


def priming_frame(event_id: str, retry_ms: int) -> bytes:
    """Write what a stream opens with: "an event ID and an empty data field" (2025-11-25), and `retry`."""
    return b"retry: %d\nid: %b\ndata:\n\n" % (retry_ms, event_id.encode())


def opening_lines(retry_ms: int) -> bytes:
    """Write what a stream opens with for sessions before 2025-11-25.

    No blank line follows, because older client libraries dispatch an empty event at one and fail on its
    empty data: the hint becomes a part of the first real frame.
    """
    return b": open\nretry: %d\n" % retry_ms
