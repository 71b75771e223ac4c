"""What a client's `Last-Event-ID` is answered with (semantics 8 and 9).

Owns the one decision; the shell carries it out. Knows no time and no connection.
"""

from enum import Enum

from proxy.core.cursor import Cursor
from proxy.core.ids import STANDALONE, Epoch, Offset
from proxy.core.replay import Stream


class Resume(Enum):
    """The answers to a resume."""

    CONTINUE = "continue"
    """What follows the cursor, then live."""
    FINISHED = "finished"
    """405: everything was delivered. An empty 200 would make one SDK line ask again for ever."""
    RESULT_ONLY = "result only"
    """A gap, but the terminal entry is retained: it alone."""
    UNKNOWN = "unknown"
    """A gap that cannot be closed: the outcome is unknown, told with the true request ids."""
    RESYNC = "resync"
    """A gap on the standalone stream: a fresh id, the resync, then live."""
    FORGED = "forged"
    """400: this session never issued such an id."""
    FORGOTTEN = "forgotten"
    """405: an id this session issued, of a stream whose request ids are no longer remembered."""


def decide(
    cursor: Cursor,
    *,
    epoch: Epoch,
    top: Offset,
    next_stream: int,
    stream: Stream | None,
    buried: Offset | None,
) -> Resume:
    """Return the answer to a well-formed *cursor*.

    Args:
        cursor: what the client sent.
        epoch: the session log's.
        top: the newest offset the log has assigned.
        next_stream: the number the next call stream would get.
        stream: the cursor's stream while it is retained.
        buried: the last offset of an evicted stream whose request ids are still remembered.
    """
    is_standalone = cursor.stream == STANDALONE
    if cursor.epoch != epoch:
        # Another session's id, or one from before history was lost. For the standalone stream a resync heals both
        # (one SSE client library sends session A's cursor with session B's first request); a foreign call is none
        # of this session's.
        return Resume.RESYNC if is_standalone else Resume.FORGED
    if cursor.offset > top or not (is_standalone or 1 <= int(cursor.stream[1:]) < next_stream):
        return Resume.FORGED
    if stream is None:
        if is_standalone:
            return Resume.RESYNC
        if buried is None:
            return Resume.FORGOTTEN
        return Resume.FINISHED if cursor.offset >= buried else Resume.UNKNOWN
    if stream.terminal is not None and cursor.offset >= stream.terminal:
        return Resume.FINISHED
    if not stream.has_gap(cursor.offset):
        return Resume.CONTINUE
    if is_standalone:
        return Resume.RESYNC
    return Resume.RESULT_ONLY if stream.terminal_entry is not None else Resume.UNKNOWN
