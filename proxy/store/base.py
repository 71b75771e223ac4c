"""The contract of a session's log. Types only.

Whoever reads an upstream appends; whoever serves a client tails; these need not be the same process.
"""

from typing import Protocol

from proxy.core.ids import Epoch, Offset, RequestId, StreamId
from proxy.core.replay import Stream, Tombstone


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
        self, stream: Stream, event: bytes, data: bytes, upstream_id: bytes | None, *, terminal: bool = False
    ) -> Offset:
        """Log one frame, bound the window, wake the reader. A terminal entry completes the stream."""

    def tombstone(self, stream_id: StreamId) -> Tombstone | None:
        """Return what is remembered of an evicted call stream, for a bounded number of them."""

    def evict(self, stream: Stream) -> None:
        """Forget the stream's entries, leaving a tombstone."""

    def close(self) -> None:
        """Forget everything; the session is over."""
