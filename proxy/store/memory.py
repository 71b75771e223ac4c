"""The log in memory: a ring per stream, bounded by count, bytes and age; it survives nothing.

Owns the accounting of all buffered bytes of the process. Knows nothing of clients or upstreams. Invariant: the sum
of the streams' sizes is the log's size; the logs' sizes and the entries' overhead add up to the budget's.
"""

from collections import OrderedDict
from collections.abc import Callable

from cachetools import FIFOCache

from proxy.config import Replay
from proxy.core import sse
from proxy.core.cursor import event_id_start
from proxy.core.ids import Epoch, Offset, RequestId, StreamId
from proxy.core.recognition import TAIL_BYTES
from proxy.core.replay import Entry, Reader, Stream, StreamState, Tombstone
from proxy.core.sse import LARGE_BYTES, encode_at

GATHERED_BYTES = 4_096
"""Smaller parts of a large frame are gathered, so that a drip of bytes does not cost an object each."""
TOMBSTONES = 1_024
"""Evicted call streams whose request ids one session remembers: beyond it a very late resume gets 405."""


ENTRY_OVERHEAD = 256
"""Bytes an entry and its share of a stream cost beside their text; charged to the process's cap, so that many small
entries cannot outgrow it."""


class Budget:
    """All buffered bytes of the process and the completed streams in the order of their completion."""

    def __init__(self, limits: Replay, now: Callable[[], float]) -> None:
        self.limits = limits
        self.now = now
        self.used = 0
        """Bytes of all logs."""
        self.held = 0
        """Bytes of the requests under way, which are kept to be sent again."""
        self.logs: set[MemoryLog] = set()
        self._completed: OrderedDict[Stream, tuple[MemoryLog, float]] = OrderedDict()

    def has_room(self, size: int) -> bool:
        """Tell whether *size* more bytes of requests under way fit the process's cap."""
        return self.held + size <= self.limits.bytes_total

    def hold(self, size: int) -> None:
        """Count a request's body while its call runs; logs make room for it."""
        self.held += size
        if self.used + self.held > self.limits.bytes_total:
            self.reclaim()

    def release(self, size: int) -> None:
        """Stop counting a body."""
        self.held -= size

    def completed(self, log: "MemoryLog", stream: Stream) -> None:
        """Start the stream's last period: it stays readable for `completed_seconds`."""
        self._completed[stream] = (log, self.now() + self.limits.completed_seconds)

    def forget(self, stream: Stream) -> None:
        """Stop tracking a stream that is gone."""
        self._completed.pop(stream, None)

    def expire(self) -> None:
        """Evict the completed streams whose time is over."""
        now = self.now()
        while self._completed:
            stream, (log, deadline) = next(iter(self._completed.items()))
            if deadline > now:
                return
            log.evict(stream)

    def reclaim(self) -> None:
        """Come back under the process's cap: completed streams first, oldest first, then the largest log pays."""
        cap = self.limits.bytes_total - self.held
        while self.used > cap and self._completed:
            stream, (log, _) = next(iter(self._completed.items()))
            log.evict(stream)
        while self.used > cap:
            largest = max(self.logs, key=lambda log: log.size)
            if not largest.size:
                return
            # Half of it, so that the search over all logs is paid once for many appends.
            largest.shrink(largest.size // 2)


class MemoryLog:
    """One session's log in memory; commits at once. Fulfils `store.base.StreamLog`."""

    __slots__ = ("_budget", "_streams", "_tombstones", "committed", "epoch", "limits", "size", "top")

    def __init__(self, epoch: Epoch, budget: Budget) -> None:
        self.epoch = epoch
        self.top = Offset(0)
        self.committed = Offset(0)
        self.size = 0
        self._budget = budget
        self.limits = budget.limits
        self._streams: dict[StreamId, Stream] = {}
        self._tombstones: FIFOCache[StreamId, Tombstone] | None = None
        budget.logs.add(self)

    def open(self, stream_id: StreamId, request_ids: tuple[RequestId, ...]) -> Stream:
        """Begin a stream. Its floor is the present top."""
        stream = Stream(stream_id, self.top, request_ids)
        stream.id_line = event_id_start(self.epoch, stream_id)
        self._streams[stream_id] = stream
        return stream

    def find(self, stream_id: StreamId) -> Stream | None:
        """Return the stream unless it was evicted or never was."""
        return self._streams.get(stream_id)

    def mark(self, stream: Stream | None) -> Offset:
        """Use up an offset without an entry."""
        self.top = self.committed = Offset(self.top + 1)
        if stream is not None:
            stream.last = self.top
        return self.top

    def append(
        self, stream: Stream, event: bytes, data: bytes, upstream_id: bytes | None, terminal: bool = False
    ) -> Offset:
        """Log one frame, wake the reader, bound the window."""
        # Every event of every stream comes through here, so what `add` and `bound` do is done without a call.
        offset: Offset = self.top + 1  # type: ignore[assignment]
        if len(data) <= LARGE_BYTES:
            wire = encode_at(stream.id_line, offset, event, data)
            size = len(wire)
            entry = Entry(offset, wire, upstream_id)
        else:
            wire, *rest = sse.encode_parts(b"%b%d" % (stream.id_line, offset), event, data)
            entry = Entry(offset, wire, upstream_id, tuple(rest))
            size = entry.size
        self.top = self.committed = offset
        entries = stream.entries
        if entries is None:
            entries = stream.entries = []
        entries.append(entry)
        before = stream.last
        stream.last = offset
        stream.size = stream_size = stream.size + size
        self.size = log_size = self.size + size
        budget, limits = self._budget, self.limits
        budget.used = used = budget.used + size + ENTRY_OVERHEAD
        if terminal:
            self._completed(stream, offset)
        # The reader first, the bounds after: an entry larger than the window still goes to who is listening.
        reader = stream.reader
        if reader is not None:
            reader.take(entry, before)
        if (
            stream_size > limits.bytes_per_stream
            or len(entries) > limits.events_per_stream
            or log_size > limits.bytes_per_session
            or used + budget.held > limits.bytes_total
        ):
            self.bound(stream)
        return offset

    def begin(self, stream: Stream, event: bytes) -> "Passage":
        """Begin to pass on a frame before its end is there."""
        return Passage(self, self._budget, stream, sse.head(event))

    # -- for passages

    def add(self, stream: Stream, entry: Entry, *, terminal: bool) -> None:
        """Take the newest entry."""
        self.top = self.committed = entry.offset
        stream.append(entry)
        size = entry.size
        self.size += size
        self._budget.used += size + ENTRY_OVERHEAD
        if terminal:
            self._completed(stream, entry.offset)

    def skip(self, stream: Stream, offset: Offset, *, terminal: bool) -> None:
        """Take note of an entry that is too large to be retained."""
        self.top = self.committed = offset
        self._release(stream.size, len(stream.entries or ()))
        stream.skip(offset)
        if terminal:
            self._completed(stream, offset)

    def _completed(self, stream: Stream, offset: Offset) -> None:
        stream.terminal = offset
        stream.state = StreamState.COMPLETE
        self._budget.completed(self, stream)

    def tombstone(self, stream_id: StreamId) -> Tombstone | None:
        """Return what is remembered of an evicted call stream."""
        return self._tombstones.get(stream_id) if self._tombstones is not None else None

    def evict(self, stream: Stream) -> None:
        """Forget the stream's entries, leaving a tombstone of its request ids."""
        if self._streams.pop(stream.id, None) is None:
            return
        self._release(stream.size, len(stream.entries or ()))
        stream.state = StreamState.EVICTED
        stream.entries = None
        stream.size = 0
        stream.floor = stream.last
        self._budget.forget(stream)
        if stream.request_ids:
            if self._tombstones is None:
                self._tombstones = FIFOCache(TOMBSTONES)
            self._tombstones[stream.id] = Tombstone(stream.request_ids, stream.last)

    def close(self) -> None:
        """Forget everything; the session is over."""
        for stream in tuple(self._streams.values()):
            self.evict(stream)
        self._budget.logs.discard(self)

    def shrink(self, target: int) -> None:
        """Drop the session's oldest entries, whatever their stream, until at most *target* bytes remain."""
        while self.size > target:
            oldest = self._oldest()
            if oldest is None:
                return
            self._release(oldest.drop_oldest(), 1)
            if not oldest.entries and oldest.state is StreamState.COMPLETE:
                # There is nothing left to read: its tombstone says as much, and the next search does not pass it.
                self.evict(oldest)

    def _oldest(self) -> Stream | None:
        """Return the stream with the session's oldest entry: offsets count through the session."""
        oldest: Stream | None = None
        first = self.top + 1
        for stream in self._streams.values():
            # They stand in the order in which they began, and a session may hold thousands of completed ones.
            if stream.start >= first:
                break
            if stream.entries and stream.entries[0].offset < first:
                oldest, first = stream, stream.entries[0].offset
        return oldest

    def bound(self, stream: Stream) -> None:
        """Come back under the limits after *stream* has grown."""
        limits, budget = self.limits, self._budget
        # Asked for anew each time: the first drop puts another object in its place.
        while (entries := stream.entries) and (
            len(entries) > limits.events_per_stream or stream.size > limits.bytes_per_stream
        ):
            self._release(stream.drop_oldest(), 1)
        if self.size > limits.bytes_per_session:
            self.shrink(limits.bytes_per_session)
        if budget.used + budget.held > limits.bytes_total:
            budget.reclaim()

    def _release(self, size: int, entries: int) -> None:
        self.size -= size
        self._budget.used -= size + entries * ENTRY_OVERHEAD


class Passage:
    """One frame that is passed on before its end is there. Fulfils `store.base.Passage`.

    Its parts count in the budget as a body under way does, and at its end as an entry.
    """

    __slots__ = ("_budget", "_gathered", "_head", "_log", "_parts", "_reader", "_size", "_stream", "_tail")

    def __init__(self, log: MemoryLog, budget: Budget, stream: Stream, head: bytes) -> None:
        self._log = log
        self._budget = budget
        self._stream = stream
        self._head = head
        self._parts: list[bytes] | None = []
        """None once the frame is too large to be retained, and at its end."""
        self._gathered = bytearray()
        self._size = 0
        """Bytes of the parts, without what is gathered."""
        self._tail = b""
        reader = stream.reader
        self._reader: Reader | None = reader if reader is not None and reader.enter(head) else None

    @property
    def data(self) -> list[bytes]:
        """The data so far in parts; where it is not whole any more, its last bytes."""
        return [*([self._tail] if self._parts is None else self._parts), bytes(self._gathered)]

    @property
    def is_whole(self) -> bool:
        """Tell whether the data is retained."""
        return self._parts is not None

    def add(self, part: bytes) -> None:
        """Pass on more of the data line."""
        if len(part) < GATHERED_BYTES:
            self._gathered += part
            if len(self._gathered) < GATHERED_BYTES:
                return
            part = b""
        self._flush()
        if part:
            self._put(part)

    def complete(self, lines: bytes, upstream_id: bytes | None, *, terminal: bool) -> Offset:
        """Log the frame and pass on its end."""
        self._flush()
        log, stream, parts, reader = self._log, self._stream, self._parts, self._present
        offset = Offset(log.top + 1)
        closing = sse.closing(lines, b"%b%d" % (stream.id_line, offset))
        self._forget()
        if parts is not None:
            entry = Entry(offset, self._head, upstream_id, (*parts, closing))
            log.add(stream, entry, terminal=terminal)
        else:
            log.skip(stream, offset, terminal=terminal)
        if reader is not None:
            reader.passed(closing, offset)
        elif stream.reader is not None:
            stream.reader.wake()
        log.bound(stream)
        return offset

    def drop(self) -> None:
        """Forget it and cut the connection of who has a part of it."""
        reader = self._present
        self._forget()
        if reader is not None:
            reader.broken_off()

    @property
    def _present(self) -> Reader | None:
        """Who was given the beginning, if it still reads."""
        return self._reader if self._reader is self._stream.reader else None

    def _flush(self) -> None:
        if self._gathered:
            part = bytes(self._gathered)
            self._gathered.clear()
            self._put(part)

    def _put(self, part: bytes) -> None:
        size = len(part)
        self._size += size
        # Enough of the end: a small part stays gathered until a large one, or the end, comes behind it.
        self._tail = part[-TAIL_BYTES:]
        if self._parts is not None:
            if self._size > self._log.limits.bytes_per_stream or not self._budget.has_room(size):
                self._size -= size
                self._forget_parts()
            else:
                self._parts.append(part)
                self._budget.hold(size)
        reader = self._present
        if reader is not None:
            reader.pass_on(part)

    def _forget(self) -> None:
        self._reader = None
        self._gathered.clear()
        self._forget_parts()

    def _forget_parts(self) -> None:
        if self._parts is not None:
            self._budget.release(self._size)
            self._parts = None
