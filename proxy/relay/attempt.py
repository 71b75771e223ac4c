"""One client POST at an upstream: the room it needs there, the attempts, the bytes of its answer, its resumption.

Owns what belongs to the upstream's side of a call. What an end of an attempt means, and what the client is told, is
`call`'s, which is this class's one heir. Invariant: it holds room on a member exactly while an attempt of it may run
there.

Longer than the guide, and no object of its own: both sides of a call share their state at every step, and an object
more for each call is a microsecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.core import exchange, jsonrpc, sse
from proxy.core import headers as h
from proxy.core.cut import CuttingDecoder
from proxy.core.exchange import CallState, Outcome
from proxy.core.head import Head
from proxy.core.headers import Body, Headers
from proxy.core.ids import Generation
from proxy.core.jsonrpc import Kind
from proxy.core.retry import CALL_TOOL
from proxy.core.session import BindingState
from proxy.relay.cutting import Cutting
from proxy.relay.patience import Patience
from proxy.relay.repeating import Repeating
from proxy.relay.resumption import Resumption
from proxy.relay.tasks import is_lost
from proxy.upstream.base import Exchange, Loss

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.leg import Leg
    from proxy.relay.rebuild import Refusal
    from proxy.relay.session import SessionRelay
    from proxy.upstream.gate import Gate

HELD_FROM = 65_536  # a plain answer larger than this counts in the budget while it comes
RETRY_AFTER_SECONDS = 1.0
"""The hint to a client that was turned away."""
_OUTCOMES = {Loss.REFUSED: Outcome.REFUSED, Loss.NOT_SENT: Outcome.NOT_SENT, Loss.BROKEN: Outcome.BROKEN}
# A member costs ten times a global, and a call asks for a dozen.
_WAITING, _SENT, _DONE = CallState.WAITING, CallState.SENT, CallState.DONE
_STREAMING, _RESUMING, _BOUND = CallState.STREAMING, CallState.RESUMING, BindingState.BOUND
_PLAIN = Body.PLAIN
AWAITING = frozenset({_SENT, _STREAMING, _RESUMING})


class Attempt:
    """The upstream's side of a call. Fulfils `upstream.base.Receiver`, `upstream.gate.Waiter` and `binder.Waiter`."""

    __slots__ = (
        "_answer_headers", "_body", "_buffer", "_carried_id", "_cutting", "_decoder", "_exchange", "_gate", "_head",
        "_held", "_leg", "_method", "_patience", "_pause", "_relay", "_remembered", "_repeating", "_resumptions",
        "_size", "_status", "correlation_id", "generation", "is_cancelled", "last_bytes", "state",
    )  # fmt: skip

    # Made by the heir, in one `__init__`.
    _relay: SessionRelay
    _method: str | None
    _body: bytes
    _head: Head
    _carried_id: bool
    _leg: Leg | None
    """Where it has room; None while it waits."""
    _gate: Gate | None
    """What it waits for, where the member has no room."""
    _remembered: bool
    """Whether its success says something that lasts."""
    _repeating: Repeating | None
    _exchange: Exchange | None
    _status: int
    _answer_headers: Headers
    _buffer: list[bytes] | None
    _size: int
    _held: int
    """Bytes of the answer that count in the budget."""
    _decoder: CuttingDecoder | None
    _cutting: Cutting | None
    _resumptions: Resumption | None
    _patience: Patience | None
    _pause: Timer | None
    correlation_id: str
    generation: Generation
    is_cancelled: bool
    last_bytes: float
    state: CallState

    # -- what the heir says

    def due(self) -> None:
        """Act on a deadline: `wheel.Due`."""
        raise NotImplementedError

    @property
    def headers(self) -> Headers:
        """The client's headers as they go upstream; a rebuild for this call uses their credentials."""
        return self._relay.ctx.forward(self._head)

    def refuse(self, refusal: Refusal) -> None:
        """End the wait: no upstream session can be had for this call."""
        raise NotImplementedError

    def fail(self, reason: str, **data: Any) -> None:
        """Answer every open request id with a row of the fault table."""
        raise NotImplementedError

    def _interrupted(self, reason: str, **data: Any) -> None:
        """Decide about an attempt that may have run and brought no answer."""
        raise NotImplementedError

    def _decide(self, outcome: Outcome, body: bytes) -> None:
        """Do what an attempt's end calls for."""
        raise NotImplementedError

    def _relay_answer(self, body: bytes) -> None:
        """Give the client the upstream's own answer."""
        raise NotImplementedError

    def _open_stream(self, headers: Headers) -> None:
        """Answer the client with an event stream from now on."""
        raise NotImplementedError

    def _frame(self, frame: sse.Frame) -> None:
        """Take a whole frame."""
        raise NotImplementedError

    def _in_parts(self, item: sse.Frame) -> None:
        """Take a piece of a large frame."""
        raise NotImplementedError

    # -- where it stands

    @property
    def _resumption(self) -> Resumption:  # made late: most calls are answered by no stream
        if self._resumptions is None:
            self._resumptions = Resumption()
        return self._resumptions

    @property
    def awaits_bytes(self) -> bool:
        """Tell whether the upstream is expected to send something."""
        return self._exchange is not None and self.state in AWAITING

    def runs_in(self, generation: Generation) -> bool:
        """Tell whether the call may be running in that upstream session: one that waits or was refused does not."""
        return self.generation == generation and self.state not in (_WAITING, CallState.PROBING)

    # -- room on the member

    def queued(self) -> None:
        """Start the bounded wait for the upstream; later waits of the same call share its end."""
        self._leave()
        self.state = _WAITING
        self._have_patience().begin()

    def _have_patience(self) -> Patience:  # made late: most calls never wait
        if self._patience is None:
            ctx = self._relay.ctx
            self._patience = Patience(ctx.clock, ctx.upstream.rebuild_wait_seconds, self._waited)
        return self._patience

    def _waited(self) -> None:
        self.fail("unreachable", **self._relay.binder.told())

    def send(self) -> None:
        """Send the request in the present upstream session, as soon as the member has room for it."""
        if self.state is _DONE:
            return
        if self._patience is not None:
            self._patience.end()
        if self._leg is not None:
            self._leave()
        self._enter()

    def _enter(self) -> None:
        leg = self._relay.leg
        gate = leg.member.gate
        if gate.running >= gate.limit or gate.is_busy or leg.running >= gate.session_limit:
            self.state = _WAITING
            self._gate = gate
            gate.wait(self)
        else:
            gate.running += 1
            self._send_in(leg)

    def _send_in(self, leg: Leg) -> None:
        relay = self._relay
        if self._remembered and relay.session.tasks and is_lost(relay, self._method, self._body):
            # Its upstream session went since it arrived, and this one may know another task by that name.
            leg.member.gate.leave()
            self.fail("task_lost")
            return
        leg.running += 1
        self._leg = leg
        binding = leg.binding
        body = self._body
        if self._repeating is not None:
            # Inside the same upstream session the first attempt may still run under the client's id (semantics 13).
            again = self.generation == binding.generation
            body = self._repeating.request_body(
                body, f"mcp-session-proxy-{relay.ctx.correlation_id()}" if again else None
            )
        self.generation = binding.generation
        self.state = _SENT
        self._status = 0
        self._carried_id = binding.upstream_id is not None
        ctx = relay.ctx
        self.last_bytes = ctx.clock.now()
        request = ctx.request(self._head, body, self.correlation_id, binding.upstream_id)
        self._exchange = leg.member.edge.send(request, self)
        if leg.member.is_curious and self._method == CALL_TOOL and ctx.policy.asks:
            ctx.inquiries.note_call(leg)

    def _leave(self) -> None:
        """Give the room on the member free."""
        leg, self._leg = self._leg, None
        if leg is not None:
            leg.running -= 1
            leg.member.gate.leave()

    @property
    def can_enter(self) -> bool:
        """Tell whether the session may run another call there."""
        leg = self._relay.leg
        return leg.running < leg.member.gate.session_limit

    def admitted(self) -> None:
        """Send it: there is room now."""
        gate, self._gate = self._gate, None
        leg = self._relay.leg
        if leg.member.gate is gate and leg.binding.state is _BOUND:
            self._send_in(leg)
        else:
            # The session was lost, or moved, meanwhile.
            if gate is not None:
                gate.leave()
            self._relay.binder.demand(self)

    def turned_away(self, reason: str) -> None:
        """Tell the client that there is no room."""
        self._gate = None
        self.fail(reason, retry_after_seconds=RETRY_AFTER_SECONDS)

    def sent_elsewhere(self) -> None:
        """Try the session's present place: the member takes no calls any more."""
        self._gate = None
        self._relay.binder.demand(self)

    def leave_queue(self, gate: Gate) -> None:
        """Wait no longer for room behind *gate*, if it does: the session lies elsewhere now."""
        if self._gate is gate:
            gate.leave_queue(self)
            self.sent_elsewhere()

    def _wait_out(self) -> None:
        """Send it again when the member, or another one, can be reached."""
        relay, leg = self._relay, self._leg or self._relay.leg
        self._leave()
        self.state = _WAITING
        self._have_patience().until_reachable(leg.member.recovery, lambda: relay.binder.demand(self))

    # -- its answer

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins."""
        self._status = status
        kind = h.body_of(headers) if 200 <= status < 300 else _PLAIN
        if self.state is _RESUMING:
            if kind is _PLAIN:
                self._cut_upstream()
                self._resume_refused(status)
                return
            self._resumption.resumed()
        elif kind is _PLAIN:
            self._answer_headers = headers
            self._buffer = []
            return
        if kind is Body.UNREADABLE:
            self._cut_upstream()
            self.fail("answer_unusable")
            return
        self.state = _STREAMING
        if self._leg is not None and self._leg.member.is_ailing:
            self._leg.member.answered()
        relay = self._relay
        ctx = relay.ctx
        self.last_bytes = ctx.clock.now()
        self._decoder = CuttingDecoder(ctx.upstream.max_message_bytes)
        # What was sent of the head, which is the same block as long as the client repeats it.
        if relay.credentials is not self._head.findings.forwarded:
            relay.accepted(self.headers)
        self._open_stream(h.forward_response(headers))

    def on_data(self, data: bytes) -> None:
        """A piece of the answer."""
        self.last_bytes = self._relay.ctx.clock.now()
        decoder = self._decoder
        if decoder is not None:
            frame = decoder.whole(data)
            if frame is not None and self.state is not _DONE:
                self._frame(frame)
                return
            try:
                frames = decoder.feed(data)
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

    def on_whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer of no great size: the same in one step."""
        limit = self._relay.ctx.upstream.max_message_bytes
        kind = headers.body if type(headers) is h.Block else None
        if self.state is _SENT and (kind or h.body_of(headers)) is _PLAIN and len(body) <= limit:
            self._exchange = None
            self._status = status
            self._answer_headers = headers
            self._relay_answer(body)
            return
        self.on_head(status, headers)
        if self._exchange is not None:
            self.on_data(body)
        if self._exchange is not None:
            self.on_end(True)

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
                if self._leg is not None:
                    self._leg.refused(self.generation)
                self._interrupted("stream_broken")
            else:
                self._resume_later(is_clean=False)
        else:
            if self._leg is not None:
                if loss is not Loss.BROKEN:
                    self._leg.member.refused(detail)
                elif not self._status:
                    # A dead server behind something that accepts connections for it looks like this.
                    self._leg.member.failed()
            self._decide(_OUTCOMES[loss], b"")

    def _answered(self, body: bytes) -> None:
        status = self._status
        has_jsonrpc_body = status >= 500 and jsonrpc.classify(body).kind is Kind.RESPONSE
        if status >= 500 and not has_jsonrpc_body and self._leg is not None:
            self._leg.member.failed()
        self._decide(
            exchange.classify_status(status, carried_id=self._carried_id, has_jsonrpc_body=has_jsonrpc_body),
            body,
        )

    def _break_off(self) -> None:
        self._decoder = None
        if self._cutting is not None:
            self._cutting.drop()
            self._cutting = None

    def _cut_upstream(self) -> None:
        self._break_off()
        self._forget_answer()
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    # -- resuming

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
        if delay is None or self._leg is None or not self._leg.is_bound(self.generation):
            self._interrupted("stream_broken")
            return
        self.state = _RESUMING
        self._pause = ctx.clock.call_later(delay, self._resume)

    def _resume(self) -> None:
        self._pause = None
        leg = self._leg
        if self.state is not _RESUMING or leg is None:
            return
        request = self._resumption.request(leg.own_headers(is_get=True))
        if request is None:
            self._interrupted("stream_broken")
        elif not leg.is_bound(self.generation):
            self._interrupted("upstream_session_lost")
        else:
            self.last_bytes = self._relay.ctx.clock.now()
            self._exchange = leg.member.edge.send(request, self)

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
            if self._leg is not None:
                self._leg.lose(self.generation, "gone")
            self._interrupted("upstream_session_lost")
        elif status >= 500 or status == 409:
            # 409: the server still holds the broken connection for the reader.
            self._resume_later(is_clean=False)
        else:
            self._interrupted("stream_broken", http_status=status)
