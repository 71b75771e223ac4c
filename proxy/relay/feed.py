"""The only writer of a session's SSE bodies: it tails one stream from a position into one sink.

Owns its position and the bounds of a slow reader. Knows no upstream. First delivery, replay and going live again are
the same code: what lies after the position is sent, then the log's next call sends the next. Invariants: entries go
out once each, in order, without a hole; where that is impossible the connection is cut. Nothing else goes out between
the parts of a large frame that is sent before its end is there.
"""

from collections.abc import Callable

from proxy.config import Stream as StreamConfig
from proxy.core import sse
from proxy.core.cursor import event_id
from proxy.core.edge import Sink
from proxy.core.headers import Headers
from proxy.core.ids import Offset, SessionId
from proxy.core.replay import Entry, Stream
from proxy.store.base import StreamLog
from proxy.wheel import Wheel

BATCH_BYTES = 262_144
"""Replayed at one go before the sink is asked again whether it keeps up."""


class Feed:
    """One reader of one stream. Fulfils `Reader`, `Watcher` and `Beating`."""

    __slots__ = (
        "_config",
        "_heartbeats",
        "_is_half_sent",
        "_is_quiet",
        "_lag_bytes",
        "_lag_events",
        "_log",
        "_on_detach",
        "_sink",
        "_slot",
        "position",
        "replayed",
        "stream",
    )

    def __init__(
        self,
        log: StreamLog,
        stream: Stream,
        sink: Sink,
        position: Offset,
        config: StreamConfig,
        heartbeats: Wheel,
        on_detach: Callable[["Feed", str], None],
    ) -> None:
        self.stream = stream
        self.position = position
        self._log = log
        self._sink = sink
        self._config = config
        self._heartbeats = heartbeats
        self._on_detach: Callable[[Feed, str], None] | None = on_detach
        """Called once with the reason: "" for an end on purpose, else why the connection was cut."""
        self._is_half_sent = False
        """Whether the client has the beginning of a frame whose end the log does not have yet."""
        self._is_quiet = False
        self._lag_events = 0
        self._lag_bytes = 0
        self._slot = -1
        self.replayed = 0
        """Entries that were waiting when it began."""

    def begin(self, headers: Headers, session_id: SessionId, has_priming: bool, jitter: float) -> None:
        """Take the stream over, open the response and send what lies after the position.

        Args:
            headers: the response's headers.
            session_id: goes with them.
            has_priming: whether to hand out an id at once when nothing is there to carry one (semantics 5).
            jitter: a number in [0, 1) that spreads the reconnects of many clients.
        """
        stream = self.stream
        previous, stream.reader = stream.reader, self
        if previous is not None:
            previous.replaced()
        stream.aborted = False
        sink = self._sink
        sink.watch(self)
        sink.start(200, headers, session_id)
        missed = stream.after(self.position, self._log.committed)
        self.replayed = len(missed)
        # Up to a quarter more, so that a storm of clients comes back spread out; never less than configured.
        retry_ms = int(self._config.retry_seconds * 1000 * (1 + jitter / 4))
        if has_priming and not missed:
            self.position = self._log.mark(stream)
            sink.write(sse.priming_frame(event_id(self._log.epoch, stream.id, self.position), retry_ms))
        else:
            sink.write(sse.opening_lines(retry_ms))
        stream.delivered = self.position
        self._slot = self._heartbeats.add(self)
        if missed or stream.terminal is not None:
            self.wake()

    def take(self, entry: Entry, before: Offset) -> None:
        """Send the entry that was appended, where it is all that is new; else as `wake`."""
        if self.position < before or self._on_detach is None or not self._sink.offer(entry.wire):
            self.wake()
            return
        stream = self.stream
        self.position = stream.delivered = entry.offset
        self._is_quiet = False
        for part in entry.rest:
            self._sink.write(part)
        if stream.terminal is not None:
            self.finish()

    def wake(self) -> None:
        """Send what is new, unless the client does not keep up."""
        if self._on_detach is None:
            return
        sink = self._sink
        if sink.congested:
            self._fall_behind()
            return
        stream = self.stream
        position = self.position
        if position < stream.floor:
            self._cut("overrun")
            return
        missed = stream.after(position, self._log.committed)
        if missed:
            self._replay(missed)
        if stream.terminal is not None and self.position >= stream.terminal:
            self.finish()

    def _replay(self, missed: list[Entry]) -> None:
        batch: list[bytes] = []
        upto = self.position
        size = 0
        for entry in missed:
            size += entry.size
            if entry.rest:
                self._flush(batch, upto)
                self._write_entry(entry)
            else:
                batch.append(entry.wire)
            upto = entry.offset
            if size >= BATCH_BYTES:
                size = 0
                self._flush(batch, upto)
                if self._sink.congested:
                    return
        self._flush(batch, upto)

    def _flush(self, batch: list[bytes], upto: Offset) -> None:
        if batch:
            self._write(b"".join(batch), upto)
            batch.clear()

    def _write_entry(self, entry: Entry) -> None:
        self._write(entry.wire, entry.offset)
        for part in entry.rest:
            self._sink.write(part)

    def _write(self, data: bytes, upto: Offset) -> None:
        self.position = upto
        self.stream.delivered = upto
        self._is_quiet = False
        self._sink.write(data)

    def _fall_behind(self) -> None:
        # Below the window's bounds, so that a reader that is cut finds what it missed when it comes back.
        entries = self.stream.entries
        self._lag_events += 1
        self._lag_bytes += entries[-1].size if entries else 0
        if self._lag_events > self._config.slow_reader_events or self._lag_bytes > self._config.slow_reader_bytes:
            self._cut("slow")

    # -- a frame that is sent before its end is there

    def enter(self, head: bytes) -> bool:
        """Send the beginning of a frame; False while the client has something else to read first."""
        entries = self.stream.entries
        newest = entries[-1].offset if entries else self.stream.floor
        if self._on_detach is None or self._sink.congested or self.position < max(newest, self.stream.floor):
            return False
        self._is_half_sent = True
        self._sink.write(head)
        return True

    def pass_on(self, part: bytes) -> None:
        """Send more of the frame.

        Whether the client keeps up is not asked: within one frame it never is, and what waits in the sink are the bytes
        that the log holds. Its lag is judged from the next entry on.
        """
        self._sink.write(part)

    def passed(self, closing: bytes, offset: Offset) -> None:
        """Send the end of the frame, which is an entry now."""
        self._is_half_sent = False
        self._write(closing, offset)
        if self.stream.terminal is not None and offset >= self.stream.terminal:
            self.finish()

    def broken_off(self) -> None:
        """Cut the connection: the end will not come."""
        self._cut("broken_off")

    # -- ends

    def sink_drained(self) -> None:
        """The client reads again."""
        self._lag_events = 0
        self._lag_bytes = 0
        self.wake()

    def sink_closed(self) -> None:
        """The client is gone."""
        self._detach("disconnected")

    def replaced(self) -> None:
        """Another reader has the stream now."""
        self.finish()

    def finish(self) -> None:
        """End the response on purpose, at this frame boundary, with a proper last chunk (semantics 10)."""
        if self._is_half_sent:
            # There is no boundary: a proper end would make half a frame look whole.
            self.broken_off()
        elif self._on_detach is not None:
            self._sink.finish()
            self._detach("")

    def beat(self) -> None:
        """Send a heartbeat if nothing was sent for a period."""
        if self._is_half_sent:
            return
        if self._is_quiet and not self._sink.congested:
            self._sink.write(sse.HEARTBEAT)
        self._is_quiet = True

    def _cut(self, reason: str) -> None:
        self._sink.abort()
        self._detach(reason)

    def _detach(self, reason: str) -> None:
        on_detach, self._on_detach = self._on_detach, None
        if on_detach is None:
            return
        self._is_half_sent = False
        self._heartbeats.discard(self, self._slot)
        self._sink.watch(None)
        if self.stream.reader is self:
            self.stream.reader = None
            self.stream.aborted = bool(reason)
        on_detach(self, reason)
