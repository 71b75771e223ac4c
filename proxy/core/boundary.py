"""Event streams passed on unchanged, whole frames at a time.

Owns the bytes behind the last frame boundary: they are held back, so that an error of the proxy's own never lands
inside a frame. Knows no frame's content. Invariant: what was given out is a prefix of what was taken in, cut at a
boundary.
"""

import re

# Two line ends, whichever; atomic, because CR LF is one (WHATWG, event stream grammar).
_BOUNDARY = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")


class WholeFrames:
    """Holds back what is not whole yet."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail: list[bytes] = []

    def take(self, data: bytes, *, is_at_boundary: bool) -> bytes:
        """Return what may be passed on now, perhaps nothing; *is_at_boundary*: *data* ends with a frame's end."""
        tail = self._tail
        if not is_at_boundary:
            # From a little before this piece, as a boundary may be split; never the whole tail again.
            joint = (tail[-1][-3:] if tail else b"") + data
            cut = max((found.end() for found in _BOUNDARY.finditer(joint)), default=0) - (len(joint) - len(data))
            if cut <= 0:
                tail.append(data)
                return b""
            tail.append(data[:cut])
            self._tail = [data[cut:]] if data[cut:] else []
        else:
            tail.append(data)
            self._tail = []
        return b"".join(tail)
