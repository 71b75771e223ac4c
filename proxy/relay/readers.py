"""The clients that read one session: its standalone stream and the resumes of any stream.

Owns who reads which stream, and how a discontinuity is told. The verdict on a cursor is `core.resume`'s. Invariant: a
stream has at most one reader, and whoever comes later has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.core import faults, jsonrpc, sse
from proxy.core.cursor import Cursor, event_id, parse
from proxy.core.edge import Request, Sink
from proxy.core.headers import Headers
from proxy.core.ids import STANDALONE, Offset, RequestId
from proxy.core.jsonrpc import Kind
from proxy.core.replay import Stream
from proxy.core.resume import Resume, decide
from proxy.core.session import BindingEvent, BindingState, SessionState, may_read
from proxy.observe import hooks
from proxy.relay import replies
from proxy.relay.feed import Feed
from proxy.relay.standalone import HEAD_WAIT_SECONDS, LinkState

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.session import SessionRelay


class Readers:
    """One session's readers."""

    __slots__ = ("_feeds", "_relay", "_standalone")

    def __init__(self, relay: SessionRelay) -> None:
        self._relay = relay
        # Nearly always one or none, for which a list is smaller than a set, and as quick.
        self._feeds: list[Feed] = []
        self._standalone: Stream | None = None

    def __bool__(self) -> bool:
        """Tell whether any client reads."""
        return bool(self._feeds)

    def __len__(self) -> int:
        """Count the client connections that read."""
        return len(self._feeds)

    @property
    def standalone(self) -> Stream:
        """The log of the standalone stream."""
        if self._standalone is None:
            self._standalone = self._relay.log.open(STANDALONE, ())
        return self._standalone

    @property
    def has_standalone(self) -> bool:
        """Tell whether a client reads the standalone stream."""
        return self._standalone is not None and self._standalone.reader is not None

    # -- a client's GET

    def listen(self, request: Request, sink: Sink) -> None:
        """Take a GET: the standalone stream, or a resume of any stream."""
        text = request.head.last_event_id
        if not text:
            # WHATWG: an empty last event id is sent as no header; one sent empty means the same.
            self._listen_standalone(request, sink, None)
            return
        cursor = parse(text)
        relay = self._relay
        if cursor is None or not may_read(relay.session, None):
            replies.report(sink, "bad_cursor")
            return
        stream = relay.log.find(cursor.stream)
        tombstone = relay.log.tombstone(cursor.stream) if stream is None else None
        verdict = decide(
            cursor,
            epoch=relay.log.epoch,
            top=relay.log.top,
            next_stream=relay.session.next_stream,
            stream=stream,
            buried=tombstone.last if tombstone is not None else None,
        )
        if verdict is Resume.FORGED:
            replies.report(sink, "bad_cursor")
        elif verdict is Resume.FINISHED:
            replies.report(sink, "finished")
        elif verdict is Resume.FORGOTTEN:
            replies.report(sink, "forgotten")
        elif cursor.stream == STANDALONE:
            self._listen_standalone(request, sink, _Position(cursor.offset, verdict is Resume.RESYNC))
        elif verdict is Resume.CONTINUE and stream is not None:
            self._observe_resumed(self.attach(stream, sink, cursor.offset, []))
        elif stream is not None:
            self._tell_gap(stream, sink)
        elif tombstone is not None:
            self._observe_gap("call", "forgotten")
            self._tell_unknown(cursor, tombstone.request_ids, sink)

    def resume_call(self, stream: Stream, position: Offset, sink: Sink) -> None:
        """Attach a client that sent a running call's request again."""
        # Nobody has sent a cursor, so nothing before what is retained was promised.
        self.attach(stream, sink, max(position, stream.floor), [])

    def _tell_gap(self, stream: Stream, sink: Sink) -> None:
        """Answer a hole in a call stream with its result where that is retained, else with one error (semantics 9)."""
        relay = self._relay
        self._observe_gap("call", "window")
        for request_id in stream.request_ids:
            running = relay.calls.get(request_id)
            if running is not None and running.owns(stream):
                # The error becomes the call's terminal entry, so that nothing later contradicts it.
                running.fail_silent("gap")
        entry = stream.terminal_entry
        if entry is not None and len(stream.request_ids) > 1:
            self._tell_batch(stream, sink)
        elif entry is not None:
            sink.start(200, replies.stream_headers(), relay.session.id)
            for part in entry.parts:
                sink.write(part)
            sink.finish()
        else:
            self._tell_unknown(Cursor(relay.log.epoch, stream.id, stream.last), stream.request_ids, sink)

    def _tell_batch(self, stream: Stream, sink: Sink) -> None:
        """Answer each request of a batch: with its response where that is retained, else with an error."""
        relay = self._relay
        unanswered = dict.fromkeys(stream.request_ids)
        sink.start(200, replies.stream_headers(), relay.session.id)
        for entry in stream.after(stream.floor, relay.log.committed):
            for request_id in _answered(entry.frame.data or b""):
                unanswered.pop(request_id, None)
            for part in entry.parts:
                sink.write(part)
        for request_id in unanswered:
            told = event_id(relay.log.epoch, stream.id, relay.log.mark(None))
            sink.write(sse.encode(told, b"message", faults.body("gap", request_id)))
        sink.finish()

    def _tell_unknown(self, cursor: Cursor, request_ids: tuple[RequestId, ...], sink: Sink) -> None:
        relay = self._relay
        sink.start(200, replies.stream_headers(), relay.session.id)
        for request_id in request_ids:
            # Past the stream's end, so that a client that asks again with it gets 405 and stops.
            told = event_id(relay.log.epoch, cursor.stream, relay.log.mark(None))
            sink.write(sse.encode(told, b"message", faults.body("gap", request_id)))
        sink.finish()

    # -- the standalone stream

    def _listen_standalone(self, request: Request, sink: Sink, position: _Position | None) -> None:
        """Open the client's standalone stream once the upstream's word on it is known, or after a second."""
        relay = self._relay
        relay.wants_standalone = True
        opening = _Opening(self, sink, position)
        binding = relay.session.binding
        link = relay.leg.link
        if binding.state is BindingState.BOUND:
            if link.state is LinkState.PARKED:
                relay.credentials = relay.ctx.forward(request.head)
            link.open(binding.generation, binding.upstream_id, opening.proceed)
        else:
            relay.credentials = relay.ctx.forward(request.head)
            relay.binder.apply(BindingEvent.NEEDED)
        opening.wait(relay.ctx.clock.call_later)

    def opened(self, sink: Sink, asked: _Position | None) -> None:
        """Attach the client whose GET was held back, or relay the upstream's refusal."""
        relay = self._relay
        if relay.session.state is SessionState.CLOSED:
            replies.report(sink, "unknown_session")
            return
        link = relay.leg.link
        refused = link.refused
        if refused is not None and link.state in (LinkState.REFUSED, LinkState.PARKED):
            relay.answer(sink, refused.status, refused.headers, refused.body)
            return
        stream = self.standalone
        was_aborted = stream.aborted
        position = stream.delivered if asked is None else asked.offset
        has_gap = stream.has_gap(position) or (asked is not None and asked.is_gap)
        if has_gap:
            position = relay.log.top
        is_resume = asked is not None and not has_gap
        feed = self.attach(stream, sink, position, [])
        if is_resume:
            self._observe_resumed(feed)
        elif has_gap:
            self._observe_gap("standalone", "window")
            self.tell_resync()
        elif relay.ctx.observer.is_active:
            relay.ctx.observer.stream_opened(hooks.StreamOpened(session=relay.fingerprint, stream="standalone"))
        if was_aborted:
            # One client line gives its stream up after two aborts without a clean end between (semantics 10).
            relay.ctx.clock.call_later(relay.ctx.stream.close_after_abort_seconds, feed.finish)

    def tell_resync(self) -> None:
        """Tell the standalone stream that state may have changed unseen (semantics 14)."""
        relay = self._relay
        told = relay.session.resync()
        for method, params in told:
            relay.log.append(self.standalone, b"message", jsonrpc.notification_body(method, params), None)
        if told and relay.ctx.observer.is_active:
            relay.ctx.observer.resync_told(hooks.ResyncTold(session=relay.fingerprint, count=len(told)))

    # -- feeds

    def attach(self, stream: Stream, sink: Sink, position: Offset, headers: Headers) -> Feed:
        """Make *sink* the stream's one reader, from *position* on."""
        relay = self._relay
        ctx = relay.ctx
        feed = Feed(relay.log, stream, sink, position, ctx.stream, ctx.heartbeats, self._detached)
        self._feeds.append(feed)
        feed.begin(
            replies.stream_headers(headers),
            relay.session.id,
            # Also for who comes with a cursor: some clients keep it per connection, and lose it when a resumed
            # stream is cut before its first id.
            relay.session.revision.has_priming,
            ctx.clock.jitter(),
        )
        return feed

    def _detached(self, feed: Feed, reason: str) -> None:
        relay = self._relay
        self._feeds.remove(feed)
        relay.touch()
        if reason in ("slow", "overrun") and relay.ctx.observer.is_active:
            relay.ctx.observer.reader_cut(
                hooks.ReaderCut(session=relay.fingerprint, stream=_kind(feed.stream), reason=reason)
            )

    def finish(self, *, only_standalone: bool = False) -> int:
        """End the readers' responses cleanly; returns how many."""
        chosen = [feed for feed in self._feeds if not only_standalone or feed.stream.id == STANDALONE]
        for feed in chosen:
            feed.finish()
        return len(chosen)

    def _observe_resumed(self, feed: Feed) -> None:
        relay = self._relay
        if relay.ctx.observer.is_active:
            relay.ctx.observer.stream_resumed(
                hooks.StreamResumed(session=relay.fingerprint, stream=_kind(feed.stream), replayed=feed.replayed)
            )

    def _observe_gap(self, kind: str, reason: str) -> None:
        relay = self._relay
        if relay.ctx.observer.is_active:
            relay.ctx.observer.gap_told(hooks.GapTold(session=relay.fingerprint, stream=kind, reason=reason))


def _answered(data: bytes) -> list[RequestId]:
    members = jsonrpc.split_batch(data) or [(jsonrpc.classify(data), data)]
    return [member.id for member, _ in members if member.kind is Kind.RESPONSE and member.id is not None]


def _kind(stream: Stream) -> str:
    return "standalone" if stream.id == STANDALONE else "call"


class _Position:
    """Where a client with a cursor goes on."""

    __slots__ = ("is_gap", "offset")

    def __init__(self, offset: Offset, is_gap: bool) -> None:
        self.offset = offset
        self.is_gap = is_gap


class _Opening:
    """A client's GET that waits for the upstream's word; proceeds once. Fulfils `core.edge.Watcher`."""

    __slots__ = ("_is_over", "_position", "_readers", "_sink", "_timer")

    def __init__(self, readers: Readers, sink: Sink, position: _Position | None) -> None:
        self._readers = readers
        self._sink = sink
        self._position = position
        self._timer: Timer | None = None
        self._is_over = False
        sink.watch(self)

    def wait(self, call_later: Callable[[float, Callable[[], None]], Timer]) -> None:
        """Proceed after a second at the latest."""
        if not self._is_over:
            self._timer = call_later(HEAD_WAIT_SECONDS, self.proceed)

    def proceed(self) -> None:
        """Open the client's stream."""
        if not self._is_over:
            self._end()
            self._readers.opened(self._sink, self._position)

    def sink_closed(self) -> None:
        """The client is gone already."""
        self._end()

    def sink_drained(self) -> None:
        """Nothing waits for room."""

    def _end(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
