"""One client POST that holds requests, from its arrival to its terminal entry.

Owns what the client is told of each request id, and what the end of an attempt calls for; the attempts themselves are
`attempt`'s. Lives on when the client's connection drops. Knows no HTTP library and no rule: what an outcome means is
`core.exchange`'s table. Invariant: every request id gets exactly one answer, or the client is told why there is none.

Longer than the guide: both sides of one call share its state at every step, and on this path an object less is a
microsecond. What stands apart is apart: waiting (`patience`), resuming (`resumption`), large responses (`cutting`),
repetitions (`repeating`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.core import exchange, faults, jsonrpc, sse
from proxy.core import headers as h
from proxy.core.cut import Ending, Part
from proxy.core.edge import Sink
from proxy.core.exchange import Action, CallState, Outcome
from proxy.core.head import Head
from proxy.core.headers import Body, Headers
from proxy.core.ids import Generation, RequestId
from proxy.core.jsonrpc import Envelope, Kind
from proxy.core.retry import CALL_TOOL, Safety
from proxy.core.session import BindingState
from proxy.relay import replies
from proxy.relay.attempt import AWAITING, Attempt
from proxy.relay.cutting import begin
from proxy.relay.remembering import LASTING, REMEMBERED, TASK, remember, told
from proxy.relay.repeating import Repeating, judge, observe

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.core.ids import Offset
    from proxy.core.replay import Stream
    from proxy.relay.leg import Leg
    from proxy.relay.rebuild import Refusal
    from proxy.relay.session import SessionRelay

CANCEL_SECONDS = 5.0
"""How long a cancelled call may still be answered."""
# A member costs ten times a global, and a call asks for a dozen.
_WAITING, _SENT, _DONE = CallState.WAITING, CallState.SENT, CallState.DONE
_STREAMING, _RESUMING, _BOUND = CallState.STREAMING, CallState.RESUMING, BindingState.BOUND
_NOTIFICATION, _RESPONSE, _PLAIN = Kind.NOTIFICATION, Kind.RESPONSE, Body.PLAIN
_SENDS_AGAIN = frozenset({Action.RETRY, Action.REBUILD, Action.WAIT})


class Call(Attempt):
    """One POST under way. Fulfils `core.edge.Watcher` and `wheel.Due`."""

    __slots__ = (
        "_asked", "_can_stream", "_cancelling", "_ids", "_rebuilt", "_sink", "_start",
        "_stream", "unanswered",
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
        self._method = method
        self._body = body
        self._asked = asked
        """The client's POST, where what goes upstream is another: a late answer was taken out of a batch."""
        self._head = head
        self.correlation_id = correlation_id
        self._sink: Sink | None = sink
        self.state = _WAITING
        self.generation = Generation(0)
        self._can_stream = False
        self._carried_id = False
        self._rebuilt = False
        self._leg = None
        self._gate = None
        self._repeating = None
        # Not `in`: asked for bytes in bytes, Python 3.11 raises and drops a TypeError first.
        self._remembered = body.find(TASK) >= 0 if method == CALL_TOOL else method in REMEMBERED
        self.is_cancelled = False
        self.last_bytes = 0.0
        self._exchange = None
        self._status = 0
        self._answer_headers = []
        self._buffer = None
        self._size = 0
        self._held = 0
        self._decoder = None
        self._cutting = None
        self._resumptions = None
        self._stream: Stream | None = None
        self._start: Offset | None = None
        self._patience = None
        self._pause = None
        self._cancelling: Timer | None = None

    # -- the client's side

    def begin(self, can_stream: bool) -> None:
        """Send the call, or wait for the binding; *can_stream* allows an event stream of our own (semantics 19)."""
        relay = self._relay
        ctx = relay.ctx
        ctx.budget.hold(len(self._body))
        self._can_stream = can_stream
        for request_id in self._ids:
            relay.calls[request_id] = self
        if self._sink is not None:
            self._sink.watch(self)
        if can_stream:
            ctx.upgrades.add(self)
        if relay.leg.binding.state is _BOUND:
            self._enter()
        else:
            relay.binder.demand(self)

    @property
    def method(self) -> str | None:
        """What is asked; None of a batch."""
        return self._method

    def owns(self, stream: Stream) -> bool:
        """Tell whether *stream* is this call's."""
        return self._stream is stream

    def is_same(self, body: bytes) -> bool:
        """Tell whether a POST with an id in flight is the same request again (semantics 21)."""
        return body == (self._body if self._asked is None else self._asked)

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
        relay = self._relay
        if self._can_stream:
            self._can_stream = False
            relay.ctx.upgrades.discard(self)
        stream = self._stream = relay.open_stream(self._ids)
        start = self._start = stream.floor
        sink = self._sink
        if sink is not None:
            self._sink = None
            relay.readers.attach(stream, sink, start, headers)

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

    def _decide(self, outcome: Outcome, body: bytes) -> None:
        relay = self._relay
        # One that lives on beside the present one has its own word.
        stale = self._leg is None or not self._leg.is_bound(self.generation)
        action = exchange.decide(outcome, stale=stale, rebuilt=self._rebuilt)
        if action is Action.RELAY:
            self._relay_answer(body)
        elif self.is_cancelled and action in _SENDS_AGAIN:
            # Its cancel went to the session that refused it, so nothing would stop it in the next one.
            if action is Action.REBUILD and self._leg is not None:
                self._leg.lose(self.generation, outcome.name.lower())
            self.fail("cancelled_unsent")
        elif action is Action.RETRY or action is Action.REBUILD:
            if outcome is not Outcome.REFUSED:
                self._rebuilt = True
            leg = self._leg
            if leg is not None and not leg.is_present:
                leg.lose(self.generation, outcome.name.lower())
            relay.binder.lose_for(self, self.generation, outcome.name.lower())
        elif action is Action.WAIT:
            self._wait_out()
        elif action is Action.PROBE and self._leg is not None:
            self.state = CallState.PROBING
            self._leg.probe.confirm(self.generation, lambda is_lost: self._probed(is_lost, body))
        elif action is Action.UNUSABLE:
            self.fail("redirected", http_status=self._status, location=h.get(self._answer_headers, "Location"))
        elif outcome is Outcome.UNAVAILABLE:
            self._interrupted("gateway_error", http_status=self._status)
        else:
            self._interrupted("connection_broken")

    # -- an attempt that may have run

    def give_up(self, reason: str, **data: Any) -> None:
        """End an attempt whose upstream is given up: it may have run."""
        self._cut_upstream()
        self._interrupted(reason, **data)

    def _interrupted(self, reason: str, *, can_ask: bool = True, **data: Any) -> None:
        """Send it again where that is harmless; else tell that its outcome is unknown."""
        relay, leg = self._relay, self._leg or self._relay.leg
        if self.state is _DONE:
            return
        if self.is_cancelled or len(self.unanswered) < len(self._ids):
            self.fail(reason, **data)
            return
        repeating = self._repeating = self._repeating or Repeating(leg.member)
        repeating.interrupted(leg.member, reason, data)
        judged = judge(relay, leg.member, self._body)
        is_there = leg.is_bound(self.generation)
        if judged is Safety.UNKNOWN and can_ask and relay.ctx.policy.asks and is_there:
            self.state = CallState.ASKING
            relay.ctx.inquiries.ask(leg, lambda: self._annotated(reason, data))
            return
        if not repeating.may_go_on(judged, relay.ctx.policy.attempts):
            self.fail(reason, **data)
        elif self._method is None and is_there:
            # It cannot get other ids, so it is not sent twice into one upstream session: a ping tells if that lives.
            self.state = CallState.ASKING
            leg.probe.confirm(self.generation, lambda is_lost: self._confirmed(leg, reason, data, is_lost=is_lost))
        else:
            self._repeat(repeating, leg)

    def _annotated(self, reason: str, data: dict[str, Any]) -> None:
        if self.state is CallState.ASKING:
            self._interrupted(reason, can_ask=False, **data)

    def _confirmed(self, leg: Leg, reason: str, data: dict[str, Any], *, is_lost: bool) -> None:
        if self.state is not CallState.ASKING:
            return
        if is_lost:
            leg.lose(self.generation, "upstream_session_lost")
            self._interrupted(reason, can_ask=False, **data)
        else:
            self.fail(reason, **data)

    def _repeat(self, repeating: Repeating, leg: Leg) -> None:
        repeating.count()
        observe(self._relay.ctx, self._relay.fingerprint, self.correlation_id, repeating.reason, leg.member)
        self._break_off()
        self._forget_answer()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._resumptions is not None:
            self._resumptions.start_over()
        if repeating.is_hasty:
            self._wait_out()
        else:
            self._leave()
            self.state = _WAITING
            self._have_patience().begin()
            self._relay.binder.demand(self)

    def interrupt(self) -> None:
        """Cancel it, as its client could."""
        leg = self._leg
        if leg is not None and self.state in AWAITING and leg.is_bound(self.generation):
            for request_id in self.unanswered:
                leg.tell_cancelled(self._known_as(request_id))
        self.fail_silent("cancelled_unsent" if self.state is _WAITING else "cancelled")

    def _known_as(self, request_id: RequestId) -> RequestId:
        """Return the id a request bears upstream."""
        repeating = self._repeating
        return request_id if repeating is None or repeating.alias is None else repeating.alias

    def cancel_body(self, body: bytes, request_id: RequestId) -> bytes:
        """Return the client's cancel as the upstream understands it."""
        known_as = self._known_as(request_id)
        return body if known_as == request_id else jsonrpc.replace_cancelled_id(body, known_as)

    def _probed(self, is_lost: bool, body: bytes) -> None:
        if self.state is not CallState.PROBING:
            return
        if is_lost:
            self._decide(Outcome.GONE, body)
        else:
            self._relay_answer(body)

    def _relay_answer(self, body: bytes) -> None:
        status = self._status
        if self._repeating is not None and self._repeating.alias is not None:
            body = self._under_own_id(jsonrpc.classify(body), body)
        if status < 300:
            relay = self._relay
            if relay.credentials is not self._head.findings.forwarded:
                relay.accepted(self.headers)
            if self._leg is not None and self._leg.member.is_ailing:
                self._leg.member.answered()
            if self._remembered and not jsonrpc.classify(body).is_error:
                self._remember(body)
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

    def _under_own_id(self, envelope: Envelope, body: bytes) -> bytes:
        """Return the answer to a repeated request under the id that the client knows."""
        return jsonrpc.replace_id(body, self._ids[0]) if envelope.id == self._known_as(self._ids[0]) else body

    def _remember(self, answer: bytes) -> None:
        if self._leg is not None:
            remember(self._leg, self.generation, self._method, self._body, answer, self.correlation_id)

    # -- frames

    def _frame(self, frame: sse.Frame) -> None:
        resumption = self._resumptions
        if resumption is None:
            resumption = self._resumption
        if frame.retry is not None:
            resumption.note(frame)
        elif frame.id is not None:
            # As `note`, for nearly every frame.
            resumption.last_id = frame.id
            resumption.attempts = 0
        data, stream = frame.data, self._stream
        if not data or stream is None:
            return
        if resumption.is_resumed and stream.holds(frame):
            return
        envelope = jsonrpc.classify(data)
        kind = envelope.kind
        if kind is _NOTIFICATION:
            if envelope.method in LASTING and self._leg is not None:
                told(self._leg, envelope.method, data)
            if resumption.may_repeat and resumption.is_stale(stream, data):
                return
        elif kind is _RESPONSE:
            if self._repeating is not None and envelope.id == self._repeating.alias is not None:
                data = self._under_own_id(envelope, data)
                envelope = jsonrpc.classify(data)
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
        self._relay.log.append(stream, frame.event, data, frame.id, not self.unanswered)
        if not self.unanswered:
            self._done()

    def _respond(self, envelope: Envelope, event: bytes, data: bytes, upstream_id: bytes | None) -> None:
        if self._stream is None or envelope.id is None:
            return
        del self.unanswered[envelope.id]
        if self._remembered and not envelope.is_error:
            self._remember(data)
        self._relay.log.append(self._stream, event, data, upstream_id, not self.unanswered)
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
        elif (
            stream is not None
            and stream.delivered != self._start
            and not self._remembered
            and (self._repeating is None or self._repeating.alias is None)
        ):
            log, is_resumed = self._relay.log, self._resumption.is_resumed
            self._cutting = begin(self._decoder, item, log, stream, self.unanswered, is_resumed=is_resumed)

    # -- ends

    def cancel(self) -> bool:
        """Note the client's cancel; True when the upstream must be told as well."""
        self.is_cancelled = True
        if self.state is _WAITING or self.state is CallState.ASKING:
            self.fail("cancelled_unsent")
            return False
        # Many servers neither answer a cancelled call nor end its stream, and its id must become free (semantics 4).
        self._cancelling = self._relay.ctx.clock.call_later(CANCEL_SECONDS, lambda: self.fail_silent("cancelled"))
        return True

    def fail(self, reason: str, **data: Any) -> None:
        """Answer every open request id with a row of the fault table."""
        if self.state is _DONE:
            return
        if self._repeating is not None:
            reason, data = self._repeating.outcome(reason, data)
        if faults.FAULTS[reason].outcome == "unknown":
            if self._leg is not None:
                self._leg.member.unknown += 1
                self._leg.member.finished -= 1
            elif self._repeating is not None:
                self._repeating.member.unknown += 1
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
            replies.report_all(sink, reason, ids, is_batch=self._method is None, **data)

    def fail_silent(self, reason: str) -> None:
        """End a call whose upstream is given up: cut what is open towards it, then tell the client."""
        self._cut_upstream()
        self.fail(reason)

    def _done(self) -> None:
        self.state = _DONE
        relay = self._relay
        ctx = relay.ctx
        if self._can_stream:
            ctx.upgrades.discard(self)
        if self._patience is not None:
            self._patience.end()
            # Each holds the other: a body would wait for the collector.
            self._patience = None
            relay.binder.leave(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._cancelling is not None:
            self._cancelling.cancel()
            self._cancelling = None
        if self._exchange is not None:
            ctx.lingers.add(self)
        if self._gate is not None:
            self._gate.leave_queue(self)
            self._gate = None
        leg = self._leg
        if leg is not None:
            self._leg = None
            leg.running -= 1
            leg.member.finished += 1
            leg.member.gate.leave()
        ctx.budget.held -= len(self._body)
        relay.finished(self._ids)
        stream = self._stream
        if stream is not None and stream.delivered == self._start and stream.reader is None:
            # Nobody was ever given an event id of this stream, so nobody can ask for it (semantics 3).
            relay.log.evict(stream)
