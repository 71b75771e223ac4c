"""A position in one stream of one session's log, and the event id text that carries it through a client.

The text is `<epoch>-<stream>-<offset>`, at most 64 visible ASCII characters. Whether the epoch belongs to a
session and whether the offset is still retained are the log's questions, not this module's. Every text that
`parse` accepts is exactly the one `event_id` writes for that cursor, so two spellings of one position
cannot exist.
"""

import re
from typing import Final

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.ids import Epoch, EventId, Offset, StreamId

MAX_EVENT_ID_LENGTH: Final = 64

# [0-9] and not \d: \d takes digits of every script, which int() would read as well.
_EVENT_ID: Final = re.compile(r"([0-9a-z]{12})-(s|c(?:0|[1-9][0-9]*))-(0|[1-9][0-9]*)")


MAX_UPSTREAM_CURSOR_BYTES = 4_096
"""An upstream event id beyond this is not sent back: servers refuse header lines near 8 KiB."""
_UPSTREAM_CURSOR = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


@mypyc_attr(native_class=False)
class Cursor(msgspec.Struct, frozen=True):
    """The last entry a client has seen of one stream."""

    epoch: Epoch
    stream: StreamId
    offset: Offset


def parse(text: str) -> Cursor | None:
    """Read an event id that a client sent back; None when this proxy cannot have written it."""
    if len(text) > MAX_EVENT_ID_LENGTH:
        return None
    match = _EVENT_ID.fullmatch(text)
    if match is None:
        return None
    epoch, stream, offset = match.groups()
    return Cursor(Epoch(epoch), StreamId(stream), Offset(int(offset)))


def event_id(epoch: Epoch, stream: StreamId, offset: Offset) -> EventId:
    """Write the event id of the entry at `offset` of `stream`."""
    return EventId(f"{epoch}-{stream}-{offset}")


def event_id_start(epoch: Epoch, stream: StreamId) -> bytes:
    """Write what the event ids of one stream have in common; the offset follows in decimal digits."""
    return f"{epoch}-{stream}-".encode("ascii")


def upstream_cursor(frame_id: bytes) -> str | None:
    """Return an upstream's event id as a header value, or None when it is none.

    An empty id means "no cursor any more" (WHATWG). Blanks at its ends are stripped by HTTP and other bytes refused by
    servers, so such an id could not come back as it was.
    """
    if len(frame_id) > MAX_UPSTREAM_CURSOR_BYTES or _UPSTREAM_CURSOR.fullmatch(frame_id) is None:
        return None
    return frame_id.decode("ascii")
