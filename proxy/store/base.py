"""The contract of a session's log. Types only.

Whoever reads an upstream appends; whoever serves a client tails; these need not be the same process.
"""

from typing import Protocol

from proxy.core.ids import Epoch, Offset, RequestId, StreamId
from proxy.core.replay import Stream, Tombstone


class Passage(Protocol):
    """One frame that goes to its stream's reader before its end is there, and then becomes an entry (semantics 28).

    Its id stands behind its data and is assigned at the end: a client never holds the id of a frame that it has not got
    whole, and live and replayed bytes are the same. Nothing else is appended to the stream meanwhile.
    """

    @property
    def data(self) -> list[bytes]:
        """The data so far in parts; where it is not whole any more, its last bytes (`core.recognition.TAIL_BYTES`)."""

    @property
    def is_whole(self) -> bool:
        """Tell whether the data is retained; what is too large for the log is not."""

    def add(self, part: bytes) -> None:
        """Pass on more of the data line."""

    def complete(self, lines: bytes, upstream_id: bytes | None, *, terminal: bool) -> Offset:
        """Log the frame, whose data line *lines* follow, and pass on its end once that is committed.

        A frame that is not whole any more is an entry that was dropped at once: the floor moves past it.
        """

    def drop(self) -> None:
        """Forget it and cut the connection of who has a part of it. Harmless after the end."""


class StreamLog(Protocol):
    """One session's log: its streams, one offset counter, one epoch.

    `append` is a plain call: it assigns the next offset at once. `committed` follows, at once in memory, later in a
    durable store; a reader sends nothing above it (semantics 2). Readers are woken after `committed` moved.
    Offsets rise by append order across all streams and are never used twice within an epoch.
    """

    epoch: Epoch
    top: Offset
    committed: Offset

    def open(self, stream_id: StreamId, request_ids: tuple[RequestId, ...]) -> Stream:
        """Begin a stream. Its floor is the present top."""

    def find(self, stream_id: StreamId) -> Stream | None:
        """Return the stream unless it was evicted or never was."""

    def mark(self, stream: Stream | None) -> Offset:
        """Use up an offset without an entry, for a frame that is not logged: its id is then unique too."""

    def append(
        self, stream: Stream, event: bytes, data: bytes, upstream_id: bytes | None, terminal: bool = False
    ) -> Offset:
        """Log one frame, bound the window, wake the reader. A terminal entry completes the stream."""

    def begin(self, stream: Stream, event: bytes) -> Passage:
        """Begin to pass on a frame before its end is there."""

    def tombstone(self, stream_id: StreamId) -> Tombstone | None:
        """Return what is remembered of an evicted call stream, for a bounded number of them."""

    def evict(self, stream: Stream) -> None:
        """Forget the stream's entries, leaving a tombstone."""

    def close(self) -> None:
        """Forget everything; the session is over."""
