"""Server-sent events as bytes: an incremental decoder to `Frame`, and the writers of what this proxy sends.

Follows the event stream grammar of the HTML standard with two differences: frames without data are returned
too (their ids and retry hints matter to a proxy), and an id belongs only to the frame that carries it. Must
not know what data means. Invariant: the frames do not depend on how the bytes were cut into chunks.
"""

import re
from typing import Final, NoReturn

import msgspec
from mypy_extensions import mypyc_attr

HEARTBEAT: Final = b": keep-alive\n"
"""A comment line, legal wherever a line may begin. No blank line: older clients take one for an event."""

_BOM: Final = b"\xef\xbb\xbf"
_BOM_BEGINNINGS: Final = (b"", _BOM[:1])
# As numbers: asked for a byte that is written as bytes, Python 3.11 raises and drops a TypeError first.
_LF: Final = 0x0A
_CR: Final = 0x0D
_SPACE: Final = 0x20
_BLANK_LINE: Final = b"\n\n"
# What servers really write: data last and on one line, id and event in either order. One match costs half
# of what splitting the block into lines does.
_HEAD: Final = rb"(?:id: ?+([^\n\0]*+)\n)?(?:event: ?+([^\n]*+)\n)?(?:id: ?+([^\n\0]*+)\n)?data: ?+"
_FRAME: Final = re.compile(_HEAD + rb"([^\n]*+)\n\n")
_COMMON: Final = _FRAME.match
_WHOLE: Final = _FRAME.fullmatch
match_head: Final = re.compile(_HEAD).match
"""Matches a block in the common form up to where its data begins; `id_and_event` reads the match."""
_BARE_CR: Final = re.compile(rb"\r(?!\n)").search
_COMMENT: Final = re.compile(rb"\n:[^\n]*+")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
# Up to here one match of the whole frame is the cheapest; beyond it, looking for the line's end is.
_SMALL_FRAME_BYTES: Final = 2048
_SMALL_PIECE_BYTES: Final = 4096
# From here on a copy that is spared is worth more than the look whether it can be.
LARGE_BYTES: Final = 65_536
"""Larger data is not copied to be written."""
# Far above any wait that makes sense, far below the length that int() refuses.
_MAX_RETRY_DIGITS: Final = 15


class FrameTooLarge(ValueError):  # noqa: N818
    """One frame exceeds the limit; the decoder takes nothing more."""


@mypyc_attr(native_class=False)
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
        "_gone",
        "_in_comment",
        "_irregular",
        "_last",
        "_mark",
        "_max",
        "_overflown",
        "_pieces",
        "_size",
        "_small",
    )

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        self._small = min(max_frame_bytes, _SMALL_FRAME_BYTES)
        """The size of the largest chunk that is read as one frame at once."""
        # One more, because the LF that ends the last line is no part of the frame.
        self._mark = max_frame_bytes + 1
        """The size of a block under way that calls for `_grown`."""
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
        """The size of the block under way, with what is gone."""
        self._gone = 0
        """Bytes of the block under way that were handed out before its end (`core.cut`)."""
        self._last = _LF
        """The last byte of the block under way, LF when there is none: tells whether a line begins here."""

    @property
    def is_at_boundary(self) -> bool:
        """Whether a stream that ended here would be whole: no block, line or comment is half told."""
        return not (self._pieces or self._in_comment or self._bom or self._overflown)

    def whole(self, chunk: bytes) -> Frame | None:
        """Read the next bytes if they are one frame of the common form and nothing else, as nearly always; else None.

        Then they are `feed`'s.
        """
        if self._irregular and self._bom == b"" and chunk[:1] not in _BOM_BEGINNINGS:
            # The first bytes, and no byte order mark.
            self._bom = None
            self._irregular = False
        if len(chunk) > self._small or self._irregular or self._pieces or _CR in chunk:
            return None
        match = _WHOLE(chunk)
        if match is None:
            return None
        first_id, event, second_id, data = match.groups()
        return Frame(data, first_id if second_id is None else second_id, event or b"")

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes and return the frames they complete.

        Raises:
            FrameTooLarge: A frame exceeds the limit. Frames that the same chunk completed before it are
                returned first, and the error comes with the next call.
        """
        if self._irregular or _CR in chunk:
            chunk = self._normalise(chunk)
        frames: list[Frame] = []
        start, end = 0, len(chunk)
        longest = self._max + len(_BLANK_LINE)
        try:
            if self._pieces and end:
                start = self._complete(chunk, frames)
            while start < end:
                match = _COMMON(chunk, start, start + _SMALL_FRAME_BYTES)
                if match is not None:
                    stop = match.end()
                    if stop - start > longest:
                        self._overflow()
                    first_id, event, second_id, data = match.groups()
                    frames.append(Frame(data, first_id if second_id is None else second_id, event or b""))
                else:
                    stop = self._take(chunk, start, frames)
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
        if _CR in chunk:
            self._after_cr = chunk.endswith(b"\r")
            is_small = len(chunk) <= _SMALL_FRAME_BYTES
            if _BARE_CR(chunk) if is_small else _BARE_CR(chunk, chunk.find(b"\r"), chunk.rfind(b"\r") + 2):
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

    def _take(self, chunk: bytes, start: int, frames: list[Frame]) -> int:
        """Take a block that is large or not in the common form; return where the next one begins."""
        line_end = start
        if len(chunk) - start > _SMALL_FRAME_BYTES:
            head = match_head(chunk, start)
            # A search for one byte takes an eightieth of one for two, and a large line has its first LF at its end.
            line_end = chunk.find(b"\n", start if head is None else head.end())
            if head is not None and line_end >= 0 and chunk.startswith(_BLANK_LINE, line_end):
                if line_end - start > self._max:
                    self._overflow()
                frames.append(Frame(chunk[head.end() : line_end], *id_and_event(head)))
                return line_end + len(_BLANK_LINE)
        blank = chunk.find(_BLANK_LINE, line_end) if line_end >= 0 else -1
        if blank < 0:
            self._keep(chunk[start:], frames)
            return len(chunk)
        self._finish(chunk[start:blank], frames)
        return blank + len(_BLANK_LINE)

    def _complete(self, chunk: bytes, frames: list[Frame]) -> int:
        """Finish the block under way if its end is here; return how much of the chunk was used."""
        if self._last == _LF and chunk[0] == _LF:
            # The blank line was split: its first LF is the last of what was kept.
            blank, stop = 0, 1
        else:
            line_end = chunk.find(b"\n") if len(chunk) > _SMALL_FRAME_BYTES else 0
            blank = chunk.find(_BLANK_LINE, line_end) if line_end >= 0 else -1
            stop = blank + len(_BLANK_LINE)
            if blank < 0:
                self._keep(chunk, frames)
                return len(chunk)
        self._pieces.append(chunk[:blank])
        self._size += blank
        frame = self._join_line() if self._size - self._gone > LARGE_BYTES else None
        if frame is not None:
            frames.append(frame)
        else:
            self._finish(b"".join(self._pieces), frames)
        self._forget()
        return stop

    def _join_line(self) -> Frame | None:
        """Read the block under way if it is in the common form; its data is copied once, where `_finish` does twice."""
        first, *others = self._pieces
        head = match_head(first)
        if head is None:
            return None
        start = head.end()
        # The space behind the colon may be in the next piece.
        if start == len(first) or first.find(b"\n", start) >= 0 or any(_LF in piece for piece in others):
            return None
        if self._size > self._max:
            self._overflow()
        return Frame(b"".join((memoryview(first)[start:], *others)), *id_and_event(head))

    def _finish(self, block: bytes, frames: list[Frame]) -> None:
        if self._gone + len(block) > self._max and self._gone + self._net_size(block) > self._max:
            self._overflow()
        frame = _parse(block)
        if frame is not None:
            frames.append(frame)

    @staticmethod
    def _net_size(block: bytes) -> int:
        # Neither comments nor a line end at the edges count, whichever chunks they came in.
        return len(_COMMENT.sub(b"", b"\n" + block).strip(b"\n"))

    def _keep(self, piece: bytes, frames: list[Frame]) -> None:
        """Add to the block under way.

        Comment lines are taken out, so that a stream idle but for heartbeats keeps nothing. Small pieces are
        gathered, so that a drip of bytes does not cost an object each.
        """
        pieces = self._pieces
        if not pieces:
            piece = piece.removeprefix(b"\n")
        # Each comment goes with the LF before it and leaves its own; where a line begins here, one is lent.
        lent = b"\n" if self._last == _LF else b""
        last_line = piece.rfind(b"\n")
        if (lent and piece.startswith(b":")) or (last_line >= 0 and _COMMENT.search(piece, 0, last_line + 2)):
            piece = lent + piece
            self._in_comment = piece.startswith(b"\n:", piece.rfind(b"\n"))
            self._irregular = self._irregular or self._in_comment
            piece = _COMMENT.sub(b"", piece) + (b"\n" if self._in_comment else b"")
            piece = piece[len(lent) :]
        if not piece:
            return
        last = pieces[-1] if pieces else b""
        if len(piece) >= _SMALL_PIECE_BYTES:
            pieces.append(piece)
        elif isinstance(last, bytearray) and len(last) < _SMALL_PIECE_BYTES:
            last += piece
        else:
            pieces.append(bytearray(piece))
        self._size += len(piece)
        self._last = piece[-1]
        if self._size > self._mark:
            self._grown(frames)

    def _grown(self, _frames: list[Frame]) -> None:
        """Judge a block under way that has passed the mark."""
        self._overflow()

    def _forget(self) -> None:
        self._pieces.clear()
        self._size = 0
        self._gone = 0
        self._last = _LF

    def _overflow(self) -> NoReturn:
        self._forget()
        self._overflown = self._irregular = True
        raise FrameTooLarge(f"a frame exceeds {self._max} bytes")


def id_and_event(head: re.Match[bytes]) -> tuple[bytes | None, bytes]:
    """Read what `match_head` has matched; of two ids the second counts."""
    first_id, event, second_id = head.groups()
    return first_id if second_id is None else second_id, event or b""


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
        first = min(colon + 1, line_end)  # without a colon the value is empty
        if first < line_end and block[first] == _SPACE:
            first += 1
        if name == b"data":
            data.append(block[first:line_end])
        elif name == b"id":
            value = block[first:line_end]
            if 0 not in value:
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

    A reader gets `data` back byte for byte, but CR and CRLF as LF: they are line ends of the format itself.
    """
    if isinstance(event_id, str):
        event_id = event_id.encode()
    data = _data_lines(data)
    if event:
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id, event, data)
    return b"id: %b\ndata: %b\n\n" % (event_id, data)


def encode_at(start: bytes, offset: int, event: bytes, data: bytes) -> bytes:
    """Write one frame whose event id is *start* and the digits of *offset*: `encode`, in one step where that can be."""
    if event and _LF not in data and _CR not in data:
        return b"id: %b%d\nevent: %b\ndata: %b\n\n" % (start, offset, event, data)
    return encode(b"%b%d" % (start, offset), event, data)


def encode_parts(event_id: str | bytes, event: bytes, data: bytes) -> tuple[bytes, ...]:
    """Write one frame as parts that together are `encode`'s bytes, without a copy of large data."""
    if len(data) <= LARGE_BYTES:
        return (encode(event_id, event, data),)
    if isinstance(event_id, str):
        event_id = event_id.encode()
    return b"id: %b\n%b" % (event_id, head(event)), _data_lines(data), _BLANK_LINE


def head(event: bytes) -> bytes:
    """Write what stands in front of a frame's data where the id follows behind it."""
    return b"event: %b\ndata: " % event if event else b"data: "


def closing(lines: bytes, event_id: bytes) -> bytes:
    """Write what ends a frame that began with `head`: further lines, each with an LF in front, and the id."""
    return b"%b\nid: %b\n\n" % (lines, event_id)


def _data_lines(data: bytes) -> bytes:
    if _LF in data or _CR in data:
        return b"\ndata: ".join(_LINE_END.split(data))
    return data


def priming_frame(event_id: str, retry_ms: int) -> bytes:
    """Write what a stream opens with: "an event ID and an empty data field" (2025-11-25), and `retry`."""
    return b"retry: %d\nid: %b\ndata:\n\n" % (retry_ms, event_id.encode())


def opening_lines(retry_ms: int) -> bytes:
    """Write what a stream opens with for sessions before 2025-11-25.

    No blank line follows, because older client libraries dispatch an empty event at one and fail on its
    empty data: the hint becomes a part of the first real frame.
    """
    return b": open\nretry: %d\n" % retry_ms
