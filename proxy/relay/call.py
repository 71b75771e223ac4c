"""One client POST that holds requests, from its arrival to its terminal entry.

Owns the attempts at the upstream and what the client is told of each request id. Lives on when the client's
connection drops. Knows no HTTP library and no rule: what an outcome means is `core.exchange`'s table. Invariant:
every request id gets exactly one answer, or the client is told why there is none.

Longer than the guide: both sides of one call share its state at every step, and on this path an object less is a
microsecond. What stands apart is apart: waiting (`patience`), resuming (`resumption`), large responses (`cutting`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.core import exchange, faults, jsonrpc, sse
from proxy.core import headers as h
from proxy.core.cut import CuttingDecoder, Ending, Part
from proxy.core.edge import Sink
from proxy.core.exchange import Action, CallState, Outcome
from proxy.core.head import Head
from proxy.core.headers import Body, Headers
from proxy.core.ids import Generation, RequestId
from proxy.core.jsonrpc import Envelope, Kind
from proxy.core.session import BindingState
from proxy.relay import replies
from proxy.relay.cutting import Cutting, begin
from proxy.relay.patience import Patience
from proxy.relay.remembering import REMEMBERED, remember
from proxy.relay.resumption import Resumption
from proxy.upstream.base import Exchange, Loss

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.core.ids import Offset
    from proxy.core.replay import Stream
    from proxy.relay.rebuild import Refusal
    from proxy.relay.session import SessionRelay

CANCEL_SECONDS = 5.0
"""How long a cancelled call may still be answered."""
HELD_FROM = 65_536  # a plain answer larger than this counts in the budget while it comes
_OUTCOMES = {Loss.REFUSED: Outcome.REFUSED, Loss.NOT_SENT: Outcome.NOT_SENT, Loss.BROKEN: Outcome.BROKEN}
# A member costs ten times a global, and a call asks for a dozen.
_WAITING, _SENT, _DONE = CallState.WAITING, CallState.SENT, CallState.DONE
_STREAMING, _RESUMING, _BOUND = CallState.STREAMING, CallState.RESUMING, BindingState.BOUND
_NOTIFICATION, _RESPONSE, _PLAIN = Kind.NOTIFICATION, Kind.RESPONSE, Body.PLAIN
_SENDS_AGAIN = frozenset({Action.RETRY, Action.REBUILD, Action.WAIT})
_AWAITING = frozenset({_SENT, _STREAMING, _RESUMING})


class Call:
    """One POST under way. Fulfils `upstream.base.Receiver` and `core.edge.Watcher`."""

    __slots__ = (
        "_answer_headers", "_asked", "_body", "_buffer", "_can_stream", "_cancelling", "_carried_id", "_cutting",
        "_decoder", "_exchange", "_head", "_held", "_ids", "_is_batch", "_method", "_patience", "_pause", "_rebuilt",
        "_relay", "_resumptions", "_sink", "_size", "_start", "_status", "_stream", "correlation_id", "generation",
        "is_cancelled", "last_bytes", "state", "unanswered",
    )  # fmt: skip

    def __init__(
        self,
        relay: SessionRelay,
        ids: tuple[RequestId, ...],
        method: str | None,
        body: bytes,
        head: Head,
        correlation_id: str,
        sink: Sink,
        *,
        asked: bytes | None = None,
    ) -> None:
        self._relay = relay
        self._ids = ids
        self.unanswered = dict.fromkeys(ids)
        self._is_batch = method is None
        self._method = method
        self._body = body
        self._asked = body if asked is None else asked
        """The client's POST; what goes upstream is another where a late answer was taken out of a batch."""
        self._head = head
        self.correlation_id = correlation_id
        self._sink: Sink | None = sink
        self.state = _WAITING
        self.generation = Generation(0)
        self._can_stream = False
        self._carried_id = False
        self._rebuilt = False
        self.is_cancelled = False
        self.last_bytes = 0.0
        self._exchange: Exchange | None = None
        self._status = 0
        self._answer_headers: Headers = []
        self._buffer: list[bytes] | None = None
        self._size = 0
        self._held = 0
        self._decoder: CuttingDecoder | None = None
        self._cutting: Cutting | None = None
        self._resumptions: Resumption | None = None
        self._stream: Stream | None = None
        self._start: Offset | None = None
        self._patience: Patience | None = None
        self._pause: Timer | None = None
        self._cancelling: Timer | None = None

    # -- the client's side

    def begin(self, *, can_stream: bool) -> None:
        """Send the call, or wait for the binding; *can_stream* allows an event stream of our own (semantics 19)."""
        relay = self._relay
        relay.ctx.budget.hold(len(self._body))
        self._can_stream = can_stream
        for request_id in self._ids:
            relay.calls[request_id] = self
        if self._sink is not None:
            self._sink.watch(self)
        if can_stream:
            relay.ctx.upgrades.add(self)
        if relay.session.binding.state is _BOUND:
            self.send()
        else:
            relay.binder.demand(self)

    @property
    def headers(self) -> Headers:
        """The client's headers as they go upstream; a rebuild for this call uses their credentials."""
        return self._relay.ctx.forward(self._head)

    @property
    def _resumption(self) -> Resumption:  # made late: most calls are answered by no stream
        if self._resumptions is None:
            self._resumptions = Resumption()
        return self._resumptions

    def owns(self, stream: Stream) -> bool:
        """Tell whether *stream* is this call's."""
        return self._stream is stream

    @property
    def awaits_bytes(self) -> bool:
        """Tell whether the upstream is expected to send something."""
        return self._exchange is not None and self.state in _AWAITING

    def runs_in(self, generation: Generation) -> bool:
        """Tell whether the call may be running in that upstream session: one that waits or was refused does not."""
        return self.generation == generation and self.state not in (_WAITING, CallState.PROBING)

    def is_same(self, body: bytes) -> bool:
        """Tell whether a POST with an id in flight is the same request again (semantics 21)."""
        return body == self._asked

    def take_over(self, sink: Sink) -> None:
        """Answer through *sink* from now on: the client has sent the same request again."""
        if self._stream is not None and self._start is not None:
            self._relay.readers.resume_call(self._stream, self._start, sink)
            return
        previous, self._sink = self._sink, sink
        sink.watch(self)
        if previous is not None:
            previous.watch(None)
            # Harmless to every client line, and the one answer that promises nothing.
            replies.accepted(previous)
        elif self._can_stream:
            # The first client took its deadline along when it went.
            self._relay.ctx.upgrades.add(self)

    def sink_closed(self) -> None:
        """The client is gone; a disconnect is not a cancel, the exchange goes on."""
        self._sink = None
        self._relay.ctx.upgrades.discard(self)

    def sink_drained(self) -> None:
        """Nothing waits for room before the stream has begun."""

    def due(self) -> None:
        """Give the client a stream, as the answer takes long; or cut an answered call's, which takes long to end."""
        if self.state is _DONE:
            self._cut_upstream()
        else:
            self._open_stream([])

    def _open_stream(self, headers: Headers) -> None:
        if self._stream is not None:
            return
        self._relay.ctx.upgrades.discard(self)
        stream = self._stream = self._relay.open_stream(self._ids)
        self._start = stream.floor
        sink, self._sink = self._sink, None
        if sink is not None:
            self._relay.readers.attach(stream, sink, stream.floor, headers)

    # -- the binding

    def queued(self) -> None:
        """Start the bounded wait for the upstream; later waits of the same call share its end."""
        self.state = _WAITING
        self._have_patience().begin()

    def _have_patience(self) -> Patience:  # made late: most calls never wait
        if self._patience is None:
            ctx = self._relay.ctx
            self._patience = Patience(
                ctx.clock, ctx.recovery, ctx.upstream.rebuild_wait_seconds, lambda: self.fail("unreachable")
            )
        return self._patience

    def send(self) -> None:
        """Send the request in the present upstream session."""
        if self.state is _DONE:
            return
        if self._patience is not None:
            self._patience.end()
        relay = self._relay
        binding = relay.session.binding
        self.generation = binding.generation
        self.state = _SENT
        self._carried_id = binding.upstream_id is not None
        ctx = relay.ctx
        self.last_bytes = ctx.clock.now()
        request = ctx.request(self._head, self._body, self.correlation_id, binding.upstream_id)
        self._exchange = ctx.edge.send(request, self)

    def refuse(self, refusal: Refusal) -> None:
        """End the wait: no upstream session can be had for this call."""
        if refusal.status is not None and self._sink is not None:
            # The upstream's own 401 or 403, to the request whose credentials it refused.
            sink, self._sink = self._sink, None
            self._done()
            sink.watch(None)
            self._relay.answer(sink, refusal.status, refusal.headers, refusal.body)
            return
        self.fail(refusal.reason, **refusal.data)

    # -- the upstream's side

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins."""
        self._status = status
        kind = h.body_of(headers) if 200 <= status < 300 else _PLAIN
        if self.state is _RESUMING:
            if kind is _PLAIN:
                self._cut_upstream()
                self._resume_refused(status)
                return
            self._resumption.is_resumed = True
        elif kind is _PLAIN:
            self._answer_headers = headers
            self._buffer = []
            return
        if kind is Body.UNREADABLE:
            self._cut_upstream()
            self.fail("answer_unusable")
            return
        self.state = _STREAMING
        self.last_bytes = self._relay.ctx.clock.now()
        self._decoder = CuttingDecoder(self._relay.ctx.upstream.max_message_bytes)
        self._relay.accepted(self.headers)
        self._open_stream(h.forward_response(headers))

    def on_data(self, data: bytes) -> None:
        """A piece of the answer."""
        self.last_bytes = self._relay.ctx.clock.now()
        if self._decoder is not None:
            try:
                frames = self._decoder.feed(data)
            except sse.FrameTooLarge:
                self._cut_upstream()
                self.fail("answer_too_large")
                return
            for frame in frames:
                if self.state is _DONE:
                    return
                if type(frame) is sse.Frame:
                    self._frame(frame)
                else:
                    self._in_parts(frame)
        elif self._buffer is not None:
            self._buffer.append(data)
            self._size += len(data)
            if self._size > HELD_FROM or self._size > self._relay.ctx.upstream.max_message_bytes:
                self._hold_answer()

    def _hold_answer(self) -> None:
        ctx = self._relay.ctx
        more = self._size - self._held
        if self._size > ctx.upstream.max_message_bytes or not ctx.budget.has_room(more):
            self._cut_upstream()
            self.fail("answer_too_large")
        else:
            self._held = self._size
            ctx.budget.hold(more)

    def _forget_answer(self) -> None:
        self._buffer = None
        self._size = 0
        if self._held:
            self._relay.ctx.budget.release(self._held)
            self._held = 0

    def on_end(self, proven: bool) -> None:
        """The answer is over."""
        self._exchange = None
        if self.state is _DONE:
            self._relay.ctx.lingers.discard(self)
        elif self._decoder is not None:
            self._stream_ended(is_clean=proven and self._decoder.is_at_boundary)
        elif self._buffer is not None:
            body = b"".join(self._buffer)
            self._buffer = None
            if self._held:
                self._forget_answer()
            # A body delimited by the close alone may be cut: only whole JSON proves it whole.
            if proven and self._status < 300:
                # ANSWERED, which is relayed whatever else holds: the tables are asked about everything else.
                self._relay_answer(body)
            elif proven or not body or self._status >= 300 or jsonrpc.classify(body).kind is not Kind.OPAQUE:
                self._answered(body)
            else:
                self._decide(Outcome.BROKEN, b"")

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The answer will not be whole."""
        self._exchange = None
        self._forget_answer()
        if self.state is _DONE:
            self._relay.ctx.lingers.discard(self)
        elif self.state is _STREAMING:
            self._stream_ended(is_clean=False)
        elif self.state is _RESUMING:
            if loss is Loss.REFUSED:
                self._relay.binder.refused(self.generation)
                self.fail("stream_broken")
            else:
                self._resume_later(is_clean=False)
        else:
            if loss is not Loss.BROKEN:
                self._relay.ctx.recovery.lost()
            self._decide(_OUTCOMES[loss], b"")

    def _answered(self, body: bytes) -> None:
        status = self._status
        has_jsonrpc_body = status >= 500 and jsonrpc.classify(body).kind is _RESPONSE
        self._decide(
            exchange.classify_status(status, carried_id=self._carried_id, has_jsonrpc_body=has_jsonrpc_body),
            body,
        )

    def _decide(self, outcome: Outcome, body: bytes) -> None:
        relay = self._relay
        stale = self.generation != relay.session.binding.generation
        action = exchange.decide(outcome, stale=stale, rebuilt=self._rebuilt)
        if action is Action.RELAY:
            self._relay_answer(body)
        elif self.is_cancelled and action in _SENDS_AGAIN:
            # Its cancel went to the session that refused it, so nothing would stop it in the next one.
            if action is Action.REBUILD:
                relay.binder.lose(self.generation, outcome.name.lower())
            self.fail("cancelled_unsent")
        elif action is Action.RETRY or action is Action.REBUILD:
            if outcome is not Outcome.REFUSED:
                self._rebuilt = True
            relay.binder.lose_for(self, self.generation, outcome.name.lower())
        elif action is Action.WAIT:
            self.state = _WAITING
            self._have_patience().until_reachable(lambda: relay.binder.demand(self))
        elif action is Action.PROBE:
            self.state = CallState.PROBING
            relay.probe.confirm(self.generation, lambda is_lost: self._probed(is_lost, body))
        elif action is Action.UNUSABLE:
            self.fail("redirected", http_status=self._status, location=h.get(self._answer_headers, "Location"))
        elif outcome is Outcome.UNAVAILABLE:
            self.fail("gateway_error", http_status=self._status)
        else:
            self.fail("connection_broken")

    def _probed(self, is_lost: bool, body: bytes) -> None:
        if self.state is not CallState.PROBING:
            return
        if is_lost:
            self._decide(Outcome.GONE, body)
        else:
            self._relay_answer(body)

    def _relay_answer(self, body: bytes) -> None:
        status = self._status
        if status < 300:
            headers = self._relay.ctx.forward(self._head)
            if self._relay.credentials is not headers:
                self._relay.accepted(headers)
            if self._method in REMEMBERED and not jsonrpc.classify(body).is_error:
                remember(self._relay, self._method, self._body, self.correlation_id)
        if self._stream is None and status < 300 and (status in (202, 204) or not body):
            # It says nothing of the request, and the client would wait for an answer for ever.
            self.fail("answer_unusable", http_status=status)
        elif self._stream is None:
            sink, self._sink = self._sink, None
            self._done()
            if sink is not None:
                self._relay.answer(sink, status, self._answer_headers, body)
        elif status < 300:
            envelope = jsonrpc.classify(body)
            if envelope.kind is _RESPONSE and envelope.id in self.unanswered:
                self._respond(envelope, b"message", body, None)
            else:
                self.fail("answer_unusable", http_status=status)
        else:
            # The event stream has begun, so the status can only be told inside it (semantics 19).
            reason = "http_error" if status >= 500 else "http_status"
            self.fail(reason, http_status=status, body=body[:2048].decode("utf-8", "replace"))

    # -- frames

    def _frame(self, frame: sse.Frame) -> None:
        resumption = self._resumptions or self._resumption
        if frame.id is not None or frame.retry is not None:
            resumption.note(frame)
        data, stream = frame.data, self._stream
        if not data or stream is None:
            return
        if resumption.is_resumed and stream.holds(frame):
            return
        envelope = jsonrpc.classify(data)
        kind = envelope.kind
        if kind is _NOTIFICATION:
            if resumption.is_resumed and resumption.is_stale(stream, data):
                return
        elif kind is _RESPONSE:
            if envelope.id in self.unanswered:
                self._respond(envelope, frame.event, data, frame.id)
                return
            # Answered before, when the first answer stands; or of another call, which one server's event store
            # mixes into a resumed stream. A response without an id can only be about this stream.
            if envelope.id is not None:
                return
        elif kind is Kind.REQUEST:
            data = self._relay.admit(envelope, data, self.generation)
            if resumption.is_resumed and stream.holds(sse.Frame(data, frame.id, frame.event)):
                return
        elif kind is Kind.BATCH:
            for member, _ in jsonrpc.split_batch(data):
                if member.kind is _RESPONSE and member.id is not None:
                    self.unanswered.pop(member.id, None)
            data = self._relay.admit_batch(data, self.generation)
        self._relay.log.append(stream, frame.event, data, frame.id, terminal=not self.unanswered)
        if not self.unanswered:
            self._done()

    def _respond(self, envelope: Envelope, event: bytes, data: bytes, upstream_id: bytes | None) -> None:
        if self._stream is None or envelope.id is None:
            return
        del self.unanswered[envelope.id]
        if self._method in REMEMBERED and not envelope.is_error:
            remember(self._relay, self._method, self._body, self.correlation_id)
        self._relay.log.append(self._stream, event, data, upstream_id, terminal=not self.unanswered)
        if not self.unanswered:
            self._done()

    def _in_parts(self, item: sse.Frame) -> None:
        """Take a piece of a large frame; a response goes to the client before its end is there (semantics 28)."""
        under_way, stream = self._cutting, self._stream
        if under_way is not None and isinstance(item, Part):
            under_way.add(item.data or b"")
        elif under_way is not None and isinstance(item, Ending):
            self._cutting = None
            whole = under_way.end(item, self.unanswered)
            if whole is not None:
                self._frame(whole)
            elif under_way.is_lost:
                self.fail_silent("answer_too_large")
            else:
                self._resumption.note(item)
                if not self.unanswered:
                    self._done()
        # A client without an event id could not come back if this broke off.
        elif stream is not None and stream.delivered != self._start and self._method not in REMEMBERED:
            log, is_resumed = self._relay.log, self._resumption.is_resumed
            self._cutting = begin(self._decoder, item, log, stream, self.unanswered, is_resumed=is_resumed)

    def _break_off(self) -> None:
        self._decoder = None
        if self._cutting is not None:
            self._cutting.drop()
            self._cutting = None

    def _stream_ended(self, *, is_clean: bool) -> None:
        self._break_off()
        if self.is_cancelled:
            self.fail("cancelled")
        else:
            self._resume_later(is_clean=is_clean)

    def _resume_later(self, *, is_clean: bool) -> None:
        ctx = self._relay.ctx
        delay = self._resumption.next_delay(
            is_clean=is_clean, attempts=ctx.upstream.resume_attempts, shortest=ctx.upstream.reconnect_min_seconds
        )
        if delay is None or not self._relay.binder.is_bound(self.generation):
            self.fail("stream_broken")
            return
        self.state = _RESUMING
        self._pause = ctx.clock.call_later(delay, self._resume)

    def _resume(self) -> None:
        self._pause = None
        relay = self._relay
        if self.state is not _RESUMING:
            return
        request = self._resumption.request(relay.own_headers(is_get=True))
        if request is None:
            self.fail("stream_broken")
        elif not relay.binder.is_bound(self.generation):
            self.fail("upstream_session_lost")
        else:
            self.last_bytes = relay.ctx.clock.now()
            self._exchange = relay.ctx.edge.send(request, self)

    def ask_again(self) -> None:
        """Resume once more a resumed stream that has been silent for long although the upstream lives.

        One server's event store replays what it has and never sends what comes later on a resumed stream.
        """
        resumption = self._resumption
        if self.state is _STREAMING and resumption.is_resumed and resumption.is_possible:
            self._cut_upstream()
            self.state = _RESUMING
            self._resume()

    def _resume_refused(self, status: int) -> None:
        if status == 404:
            self._relay.binder.lose(self.generation, "gone")
            self.fail("upstream_session_lost")
        elif status >= 500 or status == 409:
            # 409: the server still holds the broken connection for the reader.
            self._resume_later(is_clean=False)
        else:
            self.fail("stream_broken", http_status=status)

    # -- ends

    def cancel(self) -> bool:
        """Note the client's cancel; True when the upstream must be told as well."""
        self.is_cancelled = True
        if self.state is _WAITING:
            self.fail("cancelled_unsent")
            return False
        # Many servers neither answer a cancelled call nor end its stream, and its id must become free (semantics 4).
        self._cancelling = self._relay.ctx.clock.call_later(CANCEL_SECONDS, lambda: self.fail_silent("cancelled"))
        return True

    def fail(self, reason: str, **data: Any) -> None:
        """Answer every open request id with a row of the fault table."""
        if self.state is _DONE:
            return
        self._relay.told(reason, self.correlation_id)
        ids = tuple(self.unanswered)
        stream = self._stream
        if stream is not None:
            for position, request_id in enumerate(ids, start=1):
                body = faults.body(reason, request_id, **data)
                self._relay.log.append(stream, b"message", body, None, terminal=position == len(ids))
        sink, self._sink = self._sink, None
        self.unanswered.clear()
        self._done()
        if sink is not None:
            sink.watch(None)
            replies.report_all(sink, reason, ids, is_batch=self._is_batch, **data)

    def fail_silent(self, reason: str) -> None:
        """End a call whose upstream is given up: cut what is open towards it, then tell the client."""
        self._cut_upstream()
        self.fail(reason)

    def _cut_upstream(self) -> None:
        self._break_off()
        self._forget_answer()
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    def _done(self) -> None:
        self.state = _DONE
        relay = self._relay
        ctx = relay.ctx
        if self._can_stream:
            ctx.upgrades.discard(self)
        if self._patience is not None:
            self._patience.end()
            relay.binder.leave(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._cancelling is not None:
            self._cancelling.cancel()
            self._cancelling = None
        if self._exchange is not None:
            ctx.lingers.add(self)
        ctx.budget.release(len(self._body))
        relay.finished(self._ids)
        stream = self._stream
        if stream is not None and stream.delivered == self._start and stream.reader is None:
            # Nobody was ever given an event id of this stream, so nobody can ask for it (semantics 3).
            relay.log.evict(stream)
