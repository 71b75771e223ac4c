"""An `initialize`: forwarded without an id, and if the upstream accepts it, a session of the proxy's own.

Owns one exchange and the waiting for a server that is not there yet. Knows no registry: whoever may hold sessions is
asked through a callable. Invariant: the client gets an id exactly when the upstream's answer is a handshake result,
and that answer reaches it unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.core import headers as h
from proxy.core import jsonrpc, sse
from proxy.core.edge import Sink
from proxy.core.exchange import GATEWAY_STATUSES
from proxy.core.head import Head
from proxy.core.headers import Body, Headers
from proxy.core.ids import RequestId, UpstreamSessionId, is_legal_session_id
from proxy.core.jsonrpc import InitializeResult, Kind
from proxy.core.session import Handshake
from proxy.relay import replies
from proxy.relay.patience import Patience
from proxy.relay.pulse import Silence
from proxy.upstream.base import Exchange, Loss

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.context import Context
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

OpenSession = Callable[[Handshake, "UpstreamSessionId | None", Headers, str, "Member"], "SessionRelay"]


class Opening:
    """One `initialize` under way. Fulfils `upstream.base.Receiver` and `core.edge.Watcher`."""

    __slots__ = (
        "_answer_headers",
        "_body",
        "_buffer",
        "_correlation_id",
        "_ctx",
        "_deadline",
        "_decoder",
        "_exchange",
        "_head",
        "_is_over",
        "_member",
        "_open_session",
        "_patience",
        "_pending",
        "_request_id",
        "_silence",
        "_sink",
        "_size",
        "_status",
        "_tried",
    )

    def __init__(
        self,
        ctx: Context,
        request_id: RequestId,
        head: Head,
        body: bytes,
        sink: Sink,
        open_session: OpenSession,
    ) -> None:
        self._ctx = ctx
        self._request_id = request_id
        self._head = head
        self._correlation_id = ctx.correlate(head)
        self._body = body
        self._sink: Sink | None = sink
        self._open_session = open_session
        self._exchange: Exchange | None = None
        self._status = 0
        self._answer_headers: Headers = []
        self._buffer: list[bytes] = []
        self._size = 0
        self._decoder: sse.Decoder | None = None
        self._pending: list[sse.Frame] = []
        """Frames ahead of the result: until it is there nobody knows whether this is a session."""
        self._patience = Patience(ctx.clock, ctx.upstream.rebuild_wait_seconds, self._waited)
        self._member: Member | None = None
        self._deadline: Timer | None = None
        """Ends the wait for a member's word where another one could be asked."""
        self._tried: tuple[Member, ...] = ()
        """Members that could not be reached, in this round."""
        self._silence = Silence(ctx, head, self._given_up)
        self._is_over = False

    def begin(self) -> None:
        """Send it."""
        if self._sink is not None:
            self._sink.watch(self)
        self._ctx.passing.add(self)
        # Counted from here: several at once must not pass the bound together.
        self._ctx.openings += 1
        self._send()

    def _send(self) -> None:
        member = self._ctx.pool.place(self._key)
        if member is None:
            self._fail("unreachable")
        else:
            self._send_to(member)

    def _send_to(self, member: Member) -> None:
        if self._is_over:
            return
        self._patience.end()
        self._member = member
        request = self._ctx.request(self._head, self._body, self._correlation_id)
        self._exchange = member.edge.send(request, self)
        self._silence.begin(member)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._ctx.pool.has_place((*self._tried, member)):
            # Another one can be asked, so this one is not waited for without a bound.
            seconds = self._ctx.upstream.ping_timeout_seconds
            self._deadline = self._ctx.clock.call_later(seconds, lambda: self._silent(member))
        elif self._tried and not member.is_available:
            # The last of them, and out already: nobody tells when it goes.
            self._patience.begin()

    def _silent(self, member: Member) -> None:
        if self._member is member and self._exchange is not None and not self._status:
            member.timed_out()
            self.evade(member)

    @property
    def member(self) -> Member | None:
        """Where it is under way."""
        return self._member

    @property
    def _key(self) -> str:
        return self._ctx.placing_key(self._head.headers)

    def _send_anew(self) -> None:
        self._tried = ()
        self._send()

    def sink_closed(self) -> None:
        """The client is gone; an upstream session that nobody will use is ended when its id is known."""
        self._sink = None
        # Nobody waits for it, so a drain does not either; and an upstream that never answers is not heard for ever.
        self._ctx.passing.discard(self)
        if self._exchange is None:
            self._over()
        else:
            self._ctx.clock.call_later(self._ctx.upstream.silence_seconds, self._over)

    def sink_drained(self) -> None:
        """Nothing waits for room."""

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins."""
        member = self._member
        if member is not None:
            if status not in GATEWAY_STATUSES:
                member.answered()
            else:
                member.failed()
                # That may have ejected it, and led elsewhere already.
                if self._member is not member or self._try_another(member):
                    return
        self._status = status
        self._silence.heard()
        self._answer_headers = headers
        if h.is_encoded(headers):
            self._fail("answer_unusable")
        elif status == 200 and h.body_of(headers) is Body.STREAM:
            self._decoder = sse.Decoder(self._ctx.upstream.max_message_bytes)

    def on_data(self, data: bytes) -> None:
        """A piece of it; bounded, an endless body is no handshake."""
        self._silence.heard()
        self._size += len(data)
        if self._size > self._ctx.upstream.max_message_bytes:
            self._fail("answer_too_large")
            return
        if self._decoder is None:
            self._buffer.append(data)
            return
        try:
            frames = self._decoder.feed(data)
        except sse.FrameTooLarge:
            self._fail("answer_too_large")
            return
        for frame in frames:
            self._pending.append(frame)
            if frame.data:
                envelope = jsonrpc.classify(frame.data)
                if envelope.kind is Kind.RESPONSE and envelope.id == self._request_id:
                    self._answered_by_stream(frame.data)
                    return

    def on_end(self, proven: bool) -> None:
        """The answer is over."""
        self._exchange = None
        if self._is_over:
            return
        if self._decoder is not None:
            self._fail("stream_broken")
            return
        body = b"".join(self._buffer)
        result = jsonrpc.initialize_result(body) if 200 <= self._status < 300 else None
        if 300 <= self._status < 400:
            self._fail("redirected", http_status=self._status, location=h.get(self._answer_headers, "Location"))
            return
        if result is None and not proven and self._status < 300:
            self._fail("connection_broken")
            return
        headers = h.forward_response(self._answer_headers)
        relay = self._adopt(result) if result is not None else None
        sink, self._sink = self._sink, None
        self._over()
        if sink is None:
            return
        sink.answer(self._status, headers, body, relay.session.id if relay is not None else None)

    def _answered_by_stream(self, data: bytes) -> None:
        result = jsonrpc.initialize_result(data)
        relay = self._adopt(result) if result is not None else None
        sink, self._sink = self._sink, None
        self._over()
        if sink is None:
            return
        headers = h.forward_response(self._answer_headers)
        if relay is None:
            sink.start(200, replies.stream_headers(headers))
            for frame in self._pending:
                if frame.data:
                    sink.write(b"event: message\n" + sse.encode(b"", b"", frame.data).partition(b"\n")[2])
            sink.finish()
            return
        stream = relay.open_stream((self._request_id,))
        relay.readers.attach(stream, sink, stream.floor, headers)
        messages = [frame for frame in self._pending if frame.data]
        for frame in messages:
            relay.log.append(stream, frame.event, frame.data or b"", frame.id, terminal=frame is messages[-1])

    def _adopt(self, result: InitializeResult) -> SessionRelay | None:
        member = self._member
        if member is None:
            return None
        assigned = h.get(self._answer_headers, h.SESSION_ID)
        upstream_id = UpstreamSessionId(assigned) if assigned and is_legal_session_id(assigned) else None
        if self._sink is None:
            if upstream_id is not None:
                self._ctx.end_upstream(member, self._ctx.forward(self._head), upstream_id)
            return None
        handshake = Handshake(self._body, self._request_id, result.protocol_version, result)
        return self._open_session(handshake, upstream_id, self._ctx.forward(self._head), self._correlation_id, member)

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The answer will not be whole."""
        self._exchange = None
        self._silence.end()
        if self._is_over:
            return
        member = self._member
        is_broken = loss is Loss.BROKEN
        if is_broken and (member is None or self._status):
            self._fail("connection_broken")
            return
        if member is None:
            self._over()
            return
        if is_broken:
            # A dead server behind something that accepts connections for it looks like this.
            member.failed()
        else:
            member.refused(detail)
        self._tried = (*self._tried, member)
        other = self._ctx.pool.place(self._key, self._tried)
        if other is not None:
            # An `initialize` may be sent twice: an upstream session that nobody uses ends by itself.
            self._send_to(other)
        elif is_broken:
            self._fail("connection_broken")
        else:
            self._patience.until_reachable(member.recovery, self._send_anew)

    def _waited(self) -> None:
        if self._exchange is None:
            self._fail("unreachable")
        elif not self._status:
            self._fail("upstream_silent")

    def _fail(self, reason: str, **data: object) -> None:
        if self._is_over:
            return
        sink, self._sink = self._sink, None
        self._over()
        if sink is not None:
            sink.watch(None)
            replies.report(sink, reason, self._request_id, **data)

    def evade(self, member: Member) -> None:
        """Ask another member: this one is out, and has not answered.

        An `initialize` may be sent twice: it makes an upstream session, and the one that nobody uses ends by itself.
        """
        if self._member is member and not self._status and not self._try_another(member):
            # All were asked. Who is back in time is asked again; if nobody is, the client is told.
            self._patience.begin()

    def reconsider(self, member: Member) -> None:
        """Ask *member*, which is back: the one that was asked is out, and has not answered."""
        asked = self._member
        if asked is not None and asked is not member and not asked.is_available and not self._status:
            self._tried = ()
            self._try_another(asked)

    def _given_up(self, member: Member) -> None:
        # Its ejection may have led elsewhere already.
        if self._member is member and (self._status or not self._try_another(member)):
            self._fail("upstream_silent")

    def _try_another(self, member: Member) -> bool:
        exchange = self._exchange
        if exchange is None or self._sink is None:
            # Nothing is under way, or nobody would use what another one made.
            return False
        self._tried = (*self._tried, member)
        other = self._ctx.pool.place(self._key, self._tried)
        if other is None:
            return False
        exchange.abort()
        self._send_to(other)
        return True

    def abandon(self) -> None:
        """End it: the proxy shuts down."""
        self._fail("shutdown")

    def _over(self) -> None:
        if not self._is_over:
            self._ctx.openings -= 1
        self._is_over = True
        self._ctx.passing.discard(self)
        self._silence.end()
        self._patience.end()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None
