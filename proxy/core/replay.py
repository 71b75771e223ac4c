"""The replay window of one stream: entries in order, bounded from behind.

Owns which entries are retained and where contiguity ends; knows nothing of readers' sockets or of time. Invariant: a
cursor at or above `floor` misses nothing that is retained after it; one below has a gap. Offsets count through the
whole session, so those of one stream rise but are not dense.
"""

from collections import deque
from enum import Enum
from typing import Protocol

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core import sse
from proxy.core.ids import Offset, RequestId, StreamId


class StreamState(Enum):
    """LIVE takes entries, COMPLETE has its terminal entry, EVICTED is forgotten but for its tombstone."""

    LIVE = "live"
    COMPLETE = "complete"
    EVICTED = "evicted"


@mypyc_attr(native_class=False)
class Entry(msgspec.Struct, gc=False):
    """One record of the log: the very bytes that go to the client, first time and every time."""

    offset: Offset
    wire: bytes
    """All of it, or the beginning of a large one."""
    upstream_id: bytes | None
    """The upstream's event id of this frame, opaque; None if it gave none."""
    rest: tuple[bytes, ...] = ()
    """What follows in a large one: never joined, so that a large message is held and sent without a copy."""

    @property
    def size(self) -> int:
        """Of all of it, in bytes. Not kept: with its number it is 48 of the 450 bytes of a small entry."""
        return len(self.wire) + sum(map(len, self.rest))

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The bytes in the pieces in which they are kept."""
        return (self.wire, *self.rest)

    @property
    def frame(self) -> sse.Frame:
        """What the bytes say, with the id that this proxy has given."""
        (frame,) = sse.Decoder(self.size).feed(b"".join(self.parts))
        return frame


@mypyc_attr(native_class=False)
class Tombstone(msgspec.Struct, gc=False):
    """What outlives an evicted call stream."""

    request_ids: tuple[RequestId, ...]
    last: Offset
    """A cursor at or past it missed nothing."""


class Reader(Protocol):
    """Whoever tails a stream; the log calls it, it has no task of its own."""

    def take(self, entry: Entry, before: Offset) -> None:
        """An entry was appended and committed, behind *before*, which was the stream's last."""

    def wake(self) -> None:
        """Entries were committed or the stream is complete: send what is new."""

    def replaced(self) -> None:
        """Another reader has taken the stream over: end, cleanly where a frame ends."""

    # -- a frame that is passed on before its end is there (semantics 28)

    def enter(self, head: bytes) -> bool:
        """Send the beginning of a frame, whose id comes last; False to be given the entry whole, once it is one."""

    def pass_on(self, part: bytes) -> None:
        """Send more of it."""

    def passed(self, closing: bytes, offset: Offset) -> None:
        """Send the end of it, which is an entry now."""

    def broken_off(self) -> None:
        """Cut the connection: the end will not come."""


class Stream:
    """One stream's retained window and its reader."""

    __slots__ = (
        "aborted",
        "delivered",
        "entries",
        "floor",
        "id",
        "id_line",
        "last",
        "reader",
        "request_ids",
        "size",
        "start",
        "state",
        "terminal",
    )

    def __init__(self, stream_id: StreamId, start: Offset, request_ids: tuple[RequestId, ...]) -> None:
        self.id = stream_id
        self.id_line = b""
        """What the id line of an entry begins with: everything but its offset, written once by the log."""
        self.request_ids = request_ids
        self.state = StreamState.LIVE
        self.start = start
        """The session's top when the stream began: every entry of it is newer."""
        self.floor = start
        """The newest offset dropped; at first the session's top when the stream began."""
        self.last = start
        self.terminal: Offset | None = None
        self.delivered = start
        """The last offset written to a reader: where a reader without a cursor goes on (semantics 7)."""
        self.entries: list[Entry] | deque[Entry] | None = None
        """Made on first use, as most streams of most sessions hold nothing; a deque, whose least size is 760 bytes,
        once the oldest has to go."""
        self.size = 0
        self.reader: Reader | None = None
        self.aborted = False
        """Whether the last reader's connection ended without a clean end."""

    def append(self, entry: Entry) -> None:
        """Retain *entry*, the newest."""
        if self.entries is None:
            self.entries = []
        self.entries.append(entry)
        self.last = entry.offset
        self.size += entry.size

    def drop_oldest(self) -> int:
        """Forget the oldest entry and return its bytes; raises the floor. 0 when nothing is retained."""
        entries = self.entries
        if not entries:
            return 0
        if isinstance(entries, list):
            entries = self.entries = deque(entries)
        entry = entries.popleft()
        self.floor = entry.offset
        size = entry.size if entry.rest else len(entry.wire)
        self.size -= size
        return size

    def skip(self, offset: Offset) -> None:
        """Take note of an entry that is too large to be retained: as if it were appended and all were dropped."""
        self.entries = None
        self.size = 0
        self.floor = self.last = offset

    def after(self, offset: Offset, committed: Offset) -> list[Entry]:
        """Return what follows *offset* up to *committed*, oldest first; the caller has checked `has_gap`."""
        if offset >= self.last or not self.entries:
            return []
        newer: list[Entry] = []
        # From the end: a live reader misses one entry, however long the window is.
        for entry in reversed(self.entries):
            if entry.offset <= offset:
                break
            if entry.offset <= committed:
                newer.append(entry)
        newer.reverse()
        return newer

    def has_gap(self, offset: Offset) -> bool:
        """Tell whether something after *offset* was dropped."""
        return offset < self.floor

    @property
    def terminal_entry(self) -> Entry | None:
        """The entry that ended the stream, while it is retained."""
        if self.terminal is None or not self.entries:
            return None
        newest = self.entries[-1]
        return newest if newest.offset == self.terminal else None

    def holds(self, frame: sse.Frame) -> bool:
        """Tell whether a frame with this upstream id and payload is retained, so that a repeat can be dropped."""
        if frame.id is None or frame.data is None:
            return False
        # The id first: it tells most of them apart, and reading a large entry is dear.
        same_id = (entry.frame for entry in reversed(self.entries or ()) if entry.upstream_id == frame.id)
        return any((found.event, found.data) == (frame.event, frame.data) for found in same_id)
