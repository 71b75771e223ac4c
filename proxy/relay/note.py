"""One client POST that holds notifications or responses only.

Owns its delivery: the client gets 202 because the proxy takes responsibility, and the message is delivered later or
its drop is recorded (semantics 23). Invariant: never a 5xx to the client; 4xx only when the upstream itself, in a
live session, said so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core import headers as h
from proxy.core.edge import Sink
from proxy.core.exchange import Outcome, classify_status
from proxy.core.head import Head
from proxy.core.headers import Body, Headers
from proxy.core.ids import Generation
from proxy.relay import replies
from proxy.relay.patience import Patience
from proxy.upstream.base import Exchange, Loss

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.leg import Leg
    from proxy.relay.rebuild import Refusal
    from proxy.relay.session import SessionRelay

ATTEMPTS = 4
"""Deliveries tried against a gateway that answers 5xx, before the drop is recorded."""


class Note:
    """One POST under way. Fulfils `upstream.base.Receiver` and `core.edge.Watcher`."""

    __slots__ = (
        "_answer_headers",
        "_attempts",
        "_body",
        "_buffer",
        "_carried_id",
        "_correlation_id",
        "_courtesy",
        "_exchange",
        "_head",
        "_is_done",
        "_leg",
        "_may_repeat",
        "_only_in",
        "_patience",
        "_pause",
        "_rebuilt",
        "_relay",
        "_sink",
        "_status",
        "generation",
    )

    def __init__(
        self,
        relay: SessionRelay,
        body: bytes,
        head: Head,
        correlation_id: str,
        sink: Sink,
        only_in: Generation | None,
        *,
        may_repeat: bool,
    ) -> None:
        self._relay = relay
        self._body = body
        self._head = head
        self._correlation_id = correlation_id
        self._sink: Sink | None = sink
        self._only_in = only_in
        """The generation this message belongs to, None when any upstream session may have it."""
        self._may_repeat = may_repeat
        """Whether delivering it twice is harmless: a notification, but never the answer to a server request."""
        self.generation = Generation(0)
        self._leg: Leg = relay.leg
        self._carried_id = False
        self._rebuilt = False
        self._attempts = 0
        self._is_done = False
        self._exchange: Exchange | None = None
        self._status = 0
        self._answer_headers: Headers = []
        self._buffer: list[bytes] = []
        self._courtesy: Timer | None = None
        """Ends the time that the message waits for the upstream's word, once its client does not any more."""
        self._pause: Timer | None = None
        self._patience: Patience | None = None

    @property
    def headers(self) -> Headers:
        """The client's headers as they go upstream."""
        return self._relay.ctx.forward(self._head)

    def begin(self) -> None:
        """Send it, or wait for the binding; the client waits a bounded time for the upstream's own answer."""
        ctx = self._relay.ctx
        self._relay.notes.add(self)
        if self._sink is not None:
            self._sink.watch(self)
            # Answered by the upstream where that is quick: an answer ahead of delivery would let the client's next
            # request overtake this message.
            ctx.upgrades.add(self)
        self._resend()

    def sink_closed(self) -> None:
        """The client is gone; the message is delivered all the same."""
        self._sink = None

    def sink_drained(self) -> None:
        """Nothing waits for room."""

    def queued(self) -> None:
        """Start the bounded wait for the upstream; later waits of the same message share its end."""
        self._have_patience().begin()

    def _have_patience(self) -> Patience:
        if self._patience is None:
            ctx = self._relay.ctx
            self._patience = Patience(ctx.clock, ctx.upstream.rebuild_wait_seconds, self._waited)
        return self._patience

    def _waited(self) -> None:
        self._relay.binder.leave(self)
        self._drop("unreachable")

    def send(self) -> None:
        """Send it in the present upstream session, if it belongs there."""
        if self._is_done:
            return
        if self._patience is not None:
            self._patience.end()
        leg = self._relay.leg
        if self._only_in is not None and self._only_in != leg.binding.generation:
            self._drop("upstream_session_lost")
        else:
            self._send_in(leg)

    def _send_in(self, leg: Leg) -> None:
        binding = leg.binding
        self._leg = leg
        self.generation = binding.generation
        self._carried_id = binding.upstream_id is not None
        self._buffer = []
        ctx = self._relay.ctx
        request = ctx.request(self._head, self._body, self._correlation_id, binding.upstream_id)
        self._exchange = leg.member.edge.send(request, self)

    def refuse(self, refusal: Refusal) -> None:
        """End the wait: no upstream session can be had."""
        self._drop(refusal.reason)

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins."""
        self._status = status
        self._answer_headers = headers
        if h.body_of(headers) is not Body.PLAIN:
            # Nothing is asked, so nothing that streams can be an answer.
            self._exchange_done()
            self._accept()
            self._finish()

    def on_data(self, data: bytes) -> None:
        """A piece of the answer; bounded, as only refusals have one worth relaying."""
        if len(self._buffer) < 64:
            self._buffer.append(data)

    def on_end(self, proven: bool) -> None:
        """The answer is over."""
        self._exchange = None
        relay = self._relay
        outcome = classify_status(self._status, carried_id=self._carried_id, has_jsonrpc_body=False)
        if outcome is Outcome.ANSWERED:
            relay.accepted(self.headers)
            self._answer()
        elif outcome in (Outcome.GONE, Outcome.BAD) and self._rebuilt:
            self._answer()
        elif outcome is Outcome.GONE:
            self._again("gone")
        elif outcome is Outcome.BAD:
            self._leg.probe.confirm(self.generation, self._probed)
        elif outcome is Outcome.UNAVAILABLE and self._may_repeat:
            self._retry(f"http_{self._status}")
        elif self._status >= 500:
            # It may have been taken; a second delivery is no remedy, and a 5xx would end some clients.
            self._drop(f"http_{self._status}")
        elif outcome is Outcome.REDIRECTED:
            self._drop("redirected")
        else:
            self._answer()

    def _probed(self, is_lost: bool) -> None:
        if self._is_done:
            return
        if is_lost:
            self._again("bad")
        else:
            self._answer()

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The answer will not be whole."""
        self._exchange = None
        if loss is Loss.BROKEN:
            # It may have been delivered, and delivering twice is no better than saying so.
            self._drop("connection_broken")
            return
        member = self._leg.member
        member.refused(detail)
        if loss is Loss.REFUSED:
            self._again("refused")
        else:
            self._have_patience().until_reachable(member.recovery, self._resend)

    def _again(self, reason: str) -> None:
        self._rebuilt = True
        if self._leg.is_present:
            self._relay.binder.lose_for(self, self.generation, reason)
        else:
            self._leg.lose(self.generation, reason)
            self._resend()

    def _retry(self, reason: str) -> None:
        self._attempts += 1
        self._accept()
        if self._attempts >= ATTEMPTS:
            self._drop(reason)
            return
        ctx = self._relay.ctx
        delay = ctx.upstream.reconnect_min_seconds * 2**self._attempts
        self._pause = ctx.clock.call_later(delay, self._resend)

    def _resend(self) -> None:
        self._pause = None
        leg = self._relay.leg_of(self._only_in) if self._only_in is not None else None
        if leg is None or leg.is_present:
            self._relay.binder.demand(self)
        elif leg.is_bound(leg.binding.generation):
            # What belongs to a call that still runs where the session lay before goes there.
            self._send_in(leg)
        else:
            # Asked by what a move is making: it is sent with the switch.
            self._relay.binder.await_switch(self)

    def _answer(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.watch(None)
            # "202 Accepted with no body", and one SDK line goes on after nothing else.
            status, body = (202, b"") if self._status < 300 else (self._status, b"".join(self._buffer))
            self._relay.answer(sink, status, self._answer_headers, body)
        elif self._status >= 300:
            # The client has its 202 already, so nobody else will learn of the refusal.
            self._relay.dropped("refused", self._correlation_id)
        self._finish()

    def due(self) -> None:
        """Answer 202 ahead of the upstream; one that never answers must not keep the message for ever either."""
        self._accept()
        ctx = self._relay.ctx
        patience = ctx.upstream.rebuild_wait_seconds + ctx.upstream.silence_seconds
        self._courtesy = ctx.clock.call_later(patience, lambda: self.abandon("upstream_silent"))

    def _accept(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.watch(None)
            replies.accepted(sink)

    def _drop(self, reason: str) -> None:
        if self._is_done:
            return
        self._relay.dropped(reason, self._correlation_id)
        self._accept()
        self._finish()

    def abandon(self, reason: str) -> None:
        """Record the drop: the session is over."""
        self._exchange_done()
        self._drop(reason)

    def _exchange_done(self) -> None:
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    def _finish(self) -> None:
        self._is_done = True
        self._relay.ctx.upgrades.discard(self)
        self._relay.binder.leave(self)
        for held in (self._courtesy, self._pause):
            if held is not None:
                held.cancel()
        self._courtesy = self._pause = None
        if self._patience is not None:
            self._patience.end()
        self._relay.notes.discard(self)
