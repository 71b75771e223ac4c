"""A POST that no session of the proxy carries: modern requests, legacy ones without an id, bodies we cannot read.

Owns one exchange, forwarded unchanged. A stream is decoded only to notice a missing end; whole frames go out as their
own bytes. Knows no log: nothing here can be resumed. Invariant: what the client gets is a prefix of what the upstream
sent, cut at a frame boundary, and then at most one error of the proxy's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.core import faults, jsonrpc, sse
from proxy.core import headers as h
from proxy.core.boundary import WholeFrames
from proxy.core.edge import Sink
from proxy.core.exchange import GATEWAY_STATUSES
from proxy.core.head import Head
from proxy.core.headers import Body, Headers
from proxy.core.ids import Generation, RequestId, SessionId
from proxy.core.jsonrpc import Kind
from proxy.relay import replies
from proxy.relay.attempt import RETRY_AFTER_SECONDS
from proxy.relay.patience import Patience
from proxy.upstream.base import Exchange, Loss

if TYPE_CHECKING:
    from proxy.relay.context import Context
    from proxy.relay.rebuild import Refusal
    from proxy.relay.session import SessionRelay
    from proxy.upstream.gate import Gate
    from proxy.upstream.member import Member


class Passthrough:
    """One POST under way. Fulfils `upstream.base.Receiver`, `core.edge.Watcher` and `wheel.Beating`."""

    __slots__ = (
        "_answer_headers", "_body", "_buffer", "_cancels", "_carried_id", "_correlation_id", "_ctx", "_decoder",
        "_exchange", "_gate", "_generation", "_head", "_ids", "_is_over", "_is_quiet", "_member", "_method",
        "_patience", "_rebuilt", "_relay", "_room", "_session_id", "_sink", "_size", "_slot", "_status",
        "_tried", "_unanswered", "_whole",
    )  # fmt: skip

    def __init__(
        self,
        ctx: Context,
        ids: tuple[RequestId, ...],
        head: Head,
        body: bytes,
        sink: Sink,
        *,
        method: str | None = None,
        is_modern: bool = False,
        relay: SessionRelay | None = None,
    ) -> None:
        self._ctx = ctx
        self._ids = ids
        self._unanswered = set(ids)
        self._head = head
        self._correlation_id = ctx.correlate(head)
        self._body = body
        self._sink: Sink | None = sink
        self._method = method
        self._cancels = is_modern
        """Whether the client's disconnect is a cancel: in 2026-07-28 it is, before it is not."""
        self._relay = relay
        """The session a body we cannot read belongs to, if any: it is sent in that one's upstream session."""
        self._generation = Generation(0)
        self._carried_id = False
        self._rebuilt = False
        wait = ctx.upstream.discover_wait_seconds if method == "server/discover" else ctx.upstream.rebuild_wait_seconds
        self._patience = Patience(ctx.clock, wait, self._waited)
        self._member: Member | None = None
        self._tried: tuple[Member, ...] = ()
        """Members that could not be reached, in this round."""
        self._gate: Gate | None = None
        """What it waits for, where the member has no room."""
        self._room: Gate | None = None
        """Where it has room."""
        self._is_over = False
        self._exchange: Exchange | None = None
        self._status = 0
        self._answer_headers: Headers = []
        self._session_id: SessionId | None = None
        """Ours, where the upstream's answer carried its own."""
        self._buffer: list[bytes] = []
        self._size = 0
        self._decoder: sse.Decoder | None = None
        self._whole = WholeFrames()
        self._is_quiet = False
        self._slot = -1

    def begin(self) -> None:
        """Send it."""
        if self._sink is not None:
            self._sink.watch(self)
        self._ctx.passing.add(self)
        if self._relay is not None:
            self._relay.binder.demand(self)
        else:
            self.send()

    # -- the binding, for a body of a session

    @property
    def headers(self) -> Headers:
        """The client's headers as they go upstream."""
        return self._ctx.forward(self._head)

    def queued(self) -> None:
        """Start the bounded wait for the upstream; later waits share its end."""
        self._patience.begin()

    def send(self) -> None:
        """Send it."""
        member = (
            self._relay.leg.member if self._relay is not None else self._ctx.pool.place(self._key, is_session=False)
        )
        if member is None:
            self._waited()
        else:
            self._send_to(member)

    def _send_to(self, member: Member) -> None:
        if self._is_over:
            return
        self._patience.end()
        self._member = member
        gate = member.gate
        # What asks for nothing, and a subscription, which lasts, take no room from calls.
        if not self._ids or self._relay is not None or self._method == "subscriptions/listen":
            self._send_now(member)
        elif gate.running >= gate.limit or gate.is_busy:
            self._gate = gate
            gate.wait(self)
        else:
            gate.running += 1
            self._room = gate
            self._send_now(member)

    def _send_now(self, member: Member) -> None:
        upstream_id = None
        if self._relay is not None:
            binding = self._relay.session.binding
            self._generation = binding.generation
            upstream_id = binding.upstream_id
            self._carried_id = upstream_id is not None
        self._buffer = []
        self._size = 0
        request = self._ctx.request(self._head, self._body, self._correlation_id, upstream_id)
        self._exchange = member.edge.send(request, self)

    # -- room on the member. Fulfils `upstream.gate.Waiter`.

    @property
    def can_enter(self) -> bool:
        """Tell that no session holds it back."""
        return True

    def admitted(self) -> None:
        """Send it: there is room now."""
        self._room, self._gate = self._gate, None
        if self._member is not None:
            self._send_now(self._member)

    def turned_away(self, reason: str) -> None:
        """Tell the client that there is no room."""
        self._gate = None
        self._fail(reason, retry_after_seconds=RETRY_AFTER_SECONDS)

    def sent_elsewhere(self) -> None:
        """Choose again: the member takes nothing any more."""
        self._gate = None
        self._send_anew()

    def _leave(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.leave()

    @property
    def member(self) -> Member | None:
        """Where it is under way."""
        return self._member

    @property
    def _key(self) -> str:
        return self._ctx.placing_key(self._head.headers)

    def _send_anew(self) -> None:
        self._tried = ()
        self.send()

    def refuse(self, refusal: Refusal) -> None:
        """End the wait: no upstream session can be had."""
        self._fail(refusal.reason, **refusal.data)

    def _again(self, reason: str) -> None:
        if self._relay is not None and not self._is_over:
            self._rebuilt = True
            self._relay.binder.lose_for(self, self._generation, reason)

    def _probed(self, is_lost: bool, body: bytes) -> None:
        if is_lost:
            self._again("bad")
        else:
            self._relay_answer(body)

    # -- the client's side

    def sink_closed(self) -> None:
        """The client is gone."""
        self._sink = None
        if self._cancels or not self._exchange:
            self._abort_upstream()
            self._over()
        else:
            self._exchange.resume()
            # A drain does not wait for what nobody waits for, and a server that says nothing is not heard for ever.
            self._ctx.passing.discard(self)
            self._ctx.clock.call_later(self._ctx.upstream.silence_seconds, self.abandon)

    def sink_drained(self) -> None:
        """The client reads again, so we do."""
        if self._exchange is not None:
            self._exchange.resume()

    def beat(self) -> None:
        """Keep a quiet stream alive."""
        if self._is_quiet and self._sink is not None and not self._sink.congested:
            self._sink.write(sse.HEARTBEAT)
        self._is_quiet = True

    # -- the upstream's side

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins: a stream at once, anything else when it is whole."""
        if self._member is not None:
            if status in GATEWAY_STATUSES:
                self._member.failed()
            else:
                self._member.answered()
        self._status = status
        self._answer_headers = h.forward_response(headers)
        if self._relay is not None and h.names_session(headers):
            self._session_id = self._relay.session.id
        if status == 200 and h.body_of(headers) is Body.STREAM:
            self._decoder = sse.Decoder(self._ctx.upstream.max_message_bytes)
            self._slot = self._ctx.heartbeats.add(self)
            if self._sink is not None:
                self._sink.start(status, self._answer_headers, self._session_id)

    def on_data(self, data: bytes) -> None:
        """A piece of it."""
        if self._decoder is None:
            self._buffer.append(data)
            self._size += len(data)
            if self._size > self._ctx.upstream.max_message_bytes:
                self._abort_upstream()
                self._fail("answer_too_large")
            return
        try:
            for frame in self._decoder.feed(data):
                self._note_answer(frame)
        except sse.FrameTooLarge:
            self._abort_upstream()
            self._fail("answer_too_large")
            return
        whole = self._whole.take(data, is_at_boundary=self._decoder.is_at_boundary)
        if whole:
            self._forward(whole)

    def _forward(self, whole_frames: bytes) -> None:
        if self._sink is not None:
            self._is_quiet = False
            self._sink.write(whole_frames)
            if self._sink.congested and self._exchange is not None:
                self._exchange.pause()

    def _note_answer(self, frame: sse.Frame) -> None:
        if not frame.data or not self._unanswered:
            return
        envelope = jsonrpc.classify(frame.data)
        if envelope.kind is Kind.RESPONSE and envelope.id is not None:
            self._unanswered.discard(envelope.id)
        elif envelope.kind is Kind.BATCH:
            answered = (member.id for member, _ in jsonrpc.split_batch(frame.data) if member.kind is Kind.RESPONSE)
            self._unanswered.difference_update(request_id for request_id in answered if request_id is not None)

    def on_end(self, proven: bool) -> None:
        """The answer is over."""
        self._exchange = None
        if self._decoder is not None:
            # A subscription has no answer to wait for: only a cut one is reported.
            is_open_ended = self._method == "subscriptions/listen" and proven
            if self._unanswered and not is_open_ended:
                self._fail("stream_broken")
            else:
                self._finish()
            return
        body = b"".join(self._buffer)
        relay = self._relay
        carried_id = self._carried_id and not self._rebuilt
        if not proven and body and jsonrpc.classify(body).kind is Kind.OPAQUE and self._status < 300:
            self._fail("connection_broken")
        elif carried_id and self._status == 404:
            self._again("gone")
        elif relay is not None and carried_id and self._status == 400:
            relay.leg.probe.confirm(self._generation, lambda is_lost: self._probed(is_lost, body))
        else:
            self._relay_answer(body)

    def _relay_answer(self, body: bytes) -> None:
        sink, self._sink = self._sink, None
        self._over()
        if sink is not None:
            sink.answer(self._status, self._answer_headers, body, self._session_id)

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The answer will not be whole."""
        self._exchange = None
        self._leave()
        member = self._member
        if loss is not Loss.BROKEN and member is not None:
            member.refused(detail)
            self._tried = (*self._tried, member)
            if self._relay is not None and loss is Loss.REFUSED:
                self._relay.binder.lose_for(self, self._generation, "refused")
                return
            other = self._ctx.pool.place(self._key, self._tried, is_session=False) if self._relay is None else None
            if other is not None:
                self._send_to(other)
            else:
                self._patience.until_reachable(member.recovery, self._send_anew)
        elif self._decoder is not None:
            if self._ids and not self._unanswered:
                self._finish()
            else:
                self._fail("stream_broken")
        else:
            self._fail("connection_broken")

    def _waited(self) -> None:
        if self._exchange is None:
            # 200 with an error would turn some dual-era clients into old ones for their life.
            self._fail("discover_unreachable" if self._method == "server/discover" else "unreachable")

    def _fail(self, reason: str, **data: Any) -> None:
        if self._is_over:
            return
        sink, self._sink = self._sink, None
        streams = self._decoder is not None
        unanswered = tuple(request_id for request_id in self._ids if request_id in self._unanswered)
        self._over()
        if sink is None:
            return
        if streams:
            for request_id in unanswered:
                sink.write(b"event: message\ndata: " + faults.body(reason, request_id, **data) + b"\n\n")
            sink.finish()
        elif self._ids:
            replies.report_all(sink, reason, unanswered, is_batch=self._body.lstrip()[:1] == b"[", **data)
        else:
            # Notifications and responses have no id an error could carry; 202 would claim a delivery.
            replies.report(sink, reason)

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        self._over()
        if sink is not None:
            sink.finish()

    def evade(self, member: Member) -> None:
        """Stay: it may be running there, and nobody but its client knows what it does."""

    def abandon(self) -> None:
        """End it: the proxy shuts down, or its client has gone long ago."""
        self._abort_upstream()
        self._fail("shutdown")

    def _abort_upstream(self) -> None:
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    def _over(self) -> None:
        self._is_over = True
        self._ctx.passing.discard(self)
        if self._relay is not None:
            self._relay.binder.leave(self)
        if self._sink is not None:
            self._sink.watch(None)
        self._patience.end()
        self._leave()
        if self._gate is not None:
            self._gate.leave_queue(self)
            self._gate = None
        if self._slot >= 0:
            self._ctx.heartbeats.discard(self, self._slot)
            self._slot = -1
