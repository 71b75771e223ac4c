"""A decoder that gives a large frame away in parts before its end is there (semantics 28).

Owns when a frame is offered and what its parts are. Must not know what data means: whether to take the offer is the
caller's judgement. Invariant: what stands in front (`sse.head`), the parts, what follows them (`lines_behind`) and
`sse.closing` decode to the frame that a plain `Decoder` would have returned whole, wherever the chunks were cut.

The items that `feed` returns for a frame that is cut through: `Beginning`, always the last of its list; after `cut()`
any number of `Part`; one `Ending`. Whole frames come before the one and after the other, never between.
"""

from typing import Final

from proxy.core import sse
from proxy.core.sse import Decoder, Frame

CUT_BYTES = 262_144
"""Larger frames are offered (semantics 28)."""
SHOWN_BYTES: Final = 4096
"""How much of the block an offer shows."""


class Beginning(Frame, gc=False):
    """A frame has grown large and its one data line goes on: it can be cut through.

    `data` is the beginning of the data, at most `SHOWN_BYTES`; `retry` is never set. Whoever does not want it does
    nothing: the frame comes whole.
    """


class Part(Frame, gc=False):
    """More of the data line; never empty, without a line end, to be passed on as it is. Nothing but `data` is set."""


class Ending(Frame, gc=False):
    """The frame that was cut through is complete.

    `id`, `event` and `retry` are those of the whole frame, whatever was told at its beginning. `data` is what follows
    the data line that was given away: empty, or further lines with an LF in front of each.
    """


class CuttingDecoder(Decoder):
    """A decoder that offers large frames in parts; the others cost what they cost without it."""

    __slots__ = ("_cut_bytes", "_data_start", "_is_cut", "_is_passing")

    def __init__(self, max_frame_bytes: int, cut_bytes: int | None = None) -> None:
        Decoder.__init__(self, max_frame_bytes)
        self._cut_bytes = min(CUT_BYTES if cut_bytes is None else cut_bytes, max_frame_bytes)
        self._mark = self._cut_bytes
        self._data_start = 0
        """Where the data begins in the block under way, if that is offered."""
        self._is_cut = False
        self._is_passing = False
        """The data line goes on, and what comes goes out."""

    def cut(self) -> list[bytes]:
        """Take the offer: return the data that is there as parts; the rest comes from `feed`.

        Only between a `feed` whose list ends with a `Beginning` and the next one.
        """
        assert self._data_start
        head = b""
        parts: list[bytes] = []
        missing = self._data_start
        for piece in self._pieces:
            head += piece[:missing]
            part = bytes(piece[missing:])
            missing = self._data_start - len(head)
            if part:
                parts.append(part)
        # What is left is the same block with an empty data line, so that all that may follow is read as ever.
        self._pieces = [bytearray(head)]
        self._gone = self._size - len(head)
        self._is_cut = self._is_passing = True
        return parts

    def _complete(self, chunk: bytes, frames: list[Frame]) -> int:
        if not self._is_cut:
            self._data_start = 0
            return super()._complete(chunk, frames)
        used = 0
        if self._is_passing:
            used = self._pass(chunk, frames)
            if self._is_passing:
                return used
            chunk = chunk[used:]
        count = len(frames)
        used += super()._complete(chunk, frames)
        if len(frames) > count:
            frame = frames[count]
            frames[count] = Ending(frame.data, frame.id, frame.event, frame.retry)
        return used

    def _pass(self, chunk: bytes, frames: list[Frame]) -> int:
        """Give away what belongs to the data line; return how much that was."""
        line_end = chunk.find(b"\n")
        self._is_passing = line_end < 0
        part = chunk if line_end < 0 else chunk[:line_end]
        self._gone += len(part)
        self._size += len(part)
        if self._size > self._mark:
            self._overflow()
        if part:
            frames.append(Part(part))
        return len(part)

    def _grown(self, frames: list[Frame]) -> None:
        # Asked once; from now on the mark is the limit.
        self._mark = self._max + 1
        if self._size > self._mark:
            self._overflow()
        shown = bytearray()
        for piece in self._pieces:
            shown += piece[: SHOWN_BYTES - len(shown)]
            if len(shown) == SHOWN_BYTES:
                break
        head = sse.match_head(bytes(shown))
        # Without a byte of data it is not known whether a space behind the colon is still to come.
        if head is None or head.end() == len(shown) or self._has_line_end(head.end()):
            return
        self._data_start = head.end()
        frames.append(Beginning(bytes(shown[head.end() :]), *sse.id_and_event(head)))

    def _has_line_end(self, start: int) -> bool:
        for piece in self._pieces:
            if piece.find(b"\n", start) >= 0:
                return True
            start = max(0, start - len(piece))
        return False

    def _forget(self) -> None:
        super()._forget()
        self._mark = self._cut_bytes
        self._data_start = 0
        self._is_cut = self._is_passing = False


def lines_behind(beginning: Beginning, ending: Ending) -> bytes:
    """Write the lines that follow the data line of a frame whose head was written for *beginning*."""
    lines = (ending.data or b"").replace(b"\n", b"\ndata: ")
    # A later event line counts, and an empty one means that there is no event.
    if ending.event != beginning.event:
        lines += b"\nevent: " + ending.event
    return lines
