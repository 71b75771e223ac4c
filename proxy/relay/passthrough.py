"""A POST that is forwarded unchanged: whatever the proxy does not answer for.

Owns one exchange and its answer. A stream is decoded only to notice a missing end; whole frames go out as their own
bytes. Knows no log: nothing here can be resumed; and no place: where it is sent, and what follows when that fails, is
`sessionless`'s and `unread`'s. Invariant: what the client gets is a prefix of what the upstream sent, cut at a frame
boundary, and then at most one error of the proxy's own.
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
from proxy.core.ids import RequestId, SessionId, UpstreamSessionId
from proxy.core.jsonrpc import Kind
from proxy.relay import replies
from proxy.relay.patience import Patience
from proxy.upstream.base import Exchange, Loss

if TYPE_CHECKING:
    from proxy.relay.context import Context
    from proxy.upstream.member import Member


class Passthrough:
    """One POST under way. Fulfils `upstream.base.Receiver`, `core.edge.Watcher` and `wheel.Beating`."""

    __slots__ = (
        "_answer_headers", "_body", "_buffer", "_correlation_id", "_ctx", "_decoder", "_exchange", "_head", "_ids",
        "_is_over", "_is_quiet", "_member", "_patience", "_session_id", "_sink", "_size", "_slot", "_status",
        "_unanswered", "_whole",
    )  # fmt: skip

    def __init__(
        self,
        ctx: Context,
        ids: tuple[RequestId, ...],
        head: Head,
        body: bytes,
        sink: Sink,
        wait_seconds: float,
    ) -> None:
        self._ctx = ctx
        self._ids = ids
        self._unanswered = set(ids)
        self._head = head
        self._correlation_id = ctx.correlate(head)
        self._body = body
        self._sink: Sink | None = sink
        self._patience = Patience(ctx.clock, wait_seconds, self._waited)
        self._member: Member | None = None
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

    # -- what the heir says

    def send(self) -> None:
        """Send it where it belongs."""
        raise NotImplementedError

    def _lost(self, loss: Loss, detail: str) -> bool:
        """Deal with an attempt that brought nothing the client has seen; False where it is to be told."""
        raise NotImplementedError

    def _answered(self, body: bytes) -> None:
        """Deal with a whole answer that is no stream."""
        raise NotImplementedError

    # -- the exchange

    def begin(self) -> None:
        """Send it, as soon as that can be."""
        if self._sink is not None:
            self._sink.watch(self)
        self._ctx.passing.add(self)
        self.send()

    @property
    def headers(self) -> Headers:
        """The client's headers as they go upstream."""
        return self._ctx.forward(self._head)

    @property
    def member(self) -> Member | None:
        """Where it is under way."""
        return self._member

    def _send_in(self, member: Member, upstream_id: UpstreamSessionId | None = None) -> None:
        self._member = member
        self._status = 0
        self._buffer = []
        self._size = 0
        request = self._ctx.request(self._head, self._body, self._correlation_id, upstream_id)
        self._exchange = member.edge.send(request, self)

    # -- the client's side

    def sink_closed(self) -> None:
        """The client is gone."""
        self._sink = None
        if self._exchange is None:
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
            if self._unanswered and not (proven and self._may_end_unanswered):
                self._fail("stream_broken")
            else:
                self._finish()
            return
        body = b"".join(self._buffer)
        if not proven and body and jsonrpc.classify(body).kind is Kind.OPAQUE and self._status < 300:
            self._fail("connection_broken")
        else:
            self._answered(body)

    @property
    def _may_end_unanswered(self) -> bool:
        """Tell whether its stream may end cleanly without an answer."""
        return False

    def _relay_answer(self, body: bytes) -> None:
        sink, self._sink = self._sink, None
        self._over()
        if sink is not None:
            sink.answer(self._status, self._answer_headers, body, self._session_id)

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The answer will not be whole."""
        self._exchange = None
        if self._decoder is not None:
            if self._ids and not self._unanswered:
                self._finish()
            else:
                self._fail("stream_broken")
        elif not self._lost(loss, detail):
            self._fail("connection_broken")

    def _waited(self) -> None:
        if self._exchange is None:
            self._fail("unreachable")

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
        """Stay: it may be running there."""

    def reconsider(self, member: Member) -> None:
        """Stay: it may be running where it is."""

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
        if self._sink is not None:
            self._sink.watch(None)
        self._patience.end()
        if self._slot >= 0:
            self._ctx.heartbeats.discard(self, self._slot)
            self._slot = -1
