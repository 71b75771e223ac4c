"""The stored handshake again: a new upstream session for a session whose old one is gone.

Owns the order of the steps: `initialize`, `notifications/initialized`, the standalone stream, the log level, the
resource subscriptions. The stream comes before the subscriptions, because a server without an event store drops what
it sends while no stream is open. Knows no waiting request and
chooses no place: it asks its owner where the next attempt is made, and reports built, failed or denied to it, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core import headers as h
from proxy.core import jsonrpc, sse
from proxy.core.headers import Body, Headers
from proxy.core.ids import RequestId, UpstreamSessionId, is_legal_session_id
from proxy.core.jsonrpc import Kind
from proxy.relay.standalone import HEAD_WAIT_SECONDS
from proxy.upstream.base import Exchange, Loss, UpstreamRequest

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.leg import Leg
    from proxy.upstream.member import Member
    from proxy.upstream.recovery import Ticket


ANSWER_BYTES = 1_048_576
"""A plain answer to a step that is longer is no answer: a handshake's is a few hundred bytes."""


@mypyc_attr(native_class=False)
class Refusal(msgspec.Struct):
    """Why no upstream session can be had."""

    reason: str
    """A row of the fault table."""
    data: dict[str, Any] = {}
    status: int | None = None
    """The upstream's own status where it is to be relayed (401, 403), with its headers and body."""
    headers: Headers = []
    body: bytes = b""
    credentials: Headers = []
    """What was refused, where credentials were."""


class Owner(Protocol):
    """Whoever wants the upstream session: the session's binder, or a move."""

    def leg_for(self, rebuild: Rebuild) -> Leg:
        """Return where the next attempt is made."""

    def built(self, rebuild: Rebuild) -> None:
        """Take it: the upstream session is there, and what the client was promised is restored in it."""

    def failed(self, refusal: Refusal) -> None:
        """Learn that the upstream's answer to the handshake cannot host the session."""

    def denied(self, refusal: Refusal) -> None:
        """Learn that the upstream wants other credentials."""

    def unavailable(self, rebuild: Rebuild, *, is_hung: bool) -> None:
        """Say what follows an attempt that found nobody, or, *is_hung*, somebody who says nothing."""


@mypyc_attr(native_class=False)
class _Step(msgspec.Struct):
    body: bytes
    request_id: RequestId | None
    done: Callable[[int, bytes | None], None]


class Rebuild:
    """One attempt to bind a session anew, however often it must be tried. Fulfils `upstream.base.Receiver`."""

    __slots__ = (
        "_buffer",
        "_credentials",
        "_deadline",
        "_decoder",
        "_exchange",
        "_has_restarted",
        "_head",
        "_head_wait",
        "_is_live",
        "_leg",
        "_level",
        "_message",
        "_owner",
        "_queue",
        "_relay",
        "_size",
        "_status",
        "_step",
        "_stopped",
        "_subscribed",
        "_ticket",
        "came_from",
        "generation",
        "refusals",
        "started_at",
        "tried",
        "upstream_id",
    )

    def __init__(self, leg: Leg, owner: Owner, credentials: Headers, *, is_live: bool) -> None:
        relay = leg.relay
        self._leg = leg
        self._relay = relay
        self._owner = owner
        self._credentials = credentials
        self._is_live = is_live
        self.came_from = leg.member
        """Where the session lay when this began."""
        self.tried: tuple[Member, ...] = ()
        """Members that would not host the session, since it last had to wait."""
        self.refusals: dict[str, dict[str, Any]] = {}
        """What each said last, by its name."""
        self.generation = relay.session.next_generation()
        self.started_at = relay.ctx.clock.now()
        self.upstream_id: UpstreamSessionId | None = None
        self._stopped = False
        self._has_restarted = False
        self._ticket: Ticket | None = None
        self._head_wait: Timer | None = None
        self._exchange: Exchange | None = None
        self._deadline: Timer | None = None
        self._step: _Step | None = None
        self._queue: list[_Step] = []
        self._level: str | None = None
        self._subscribed: dict[str, None] = {}
        """What was restored in the upstream session that is being made."""
        self._status = 0
        self._head: Headers = []
        self._decoder: sse.Decoder | None = None
        self._buffer: list[bytes] = []
        self._size = 0
        self._message: bytes | None = None

    def start(self) -> None:
        """Begin: at once for a live request, in the paced queue otherwise."""
        if self._is_live:
            self._initialize()
        else:
            self._ticket = self._leg.member.recovery.pace(self._initialize)

    def promote(self, credentials: Headers) -> None:
        """A live request waits now: leave the paced queue, and try with its credentials."""
        if self._is_live:
            return
        self._is_live = True
        self._credentials = credentials
        ticket, self._ticket = self._ticket, None
        if ticket is not None and ticket.ready is not None:
            ticket.cancel()
            self._initialize()

    def stop(self) -> None:
        """Forget it; nothing is reported any more."""
        self._stopped = True
        if self._ticket is not None:
            self._ticket.cancel()
        self._end_exchange()
        self._abandon()

    def try_again(self) -> None:
        """Wait until the member, or another one, can be reached, and begin anew there."""
        self._ticket = self._leg.member.recovery.wait(self._retry, live=self._is_live)

    def _retry(self) -> None:
        # Who would not host the session before the wait may be another version now.
        self.tried = ()
        self._initialize()

    def begin_again(self) -> None:
        """Begin anew at once, where the owner says now."""
        self._initialize()

    # -- steps

    def _initialize(self) -> None:
        self._ticket = None
        if self._stopped:
            return
        self._leg = self._owner.leg_for(self)
        self._level, self._subscribed = None, {}
        handshake = self._relay.session.handshake
        body = jsonrpc.replace_protocol_version(handshake.body, handshake.version)
        self.upstream_id = None
        self._send(_Step(body, handshake.request_id, self._initialized), version=None)

    def _initialized(self, status: int, message: bytes | None) -> None:
        handshake = self._relay.session.handshake
        if status in (401, 403):
            self._owner.denied(
                Refusal("http_status", {"http_status": status}, status, self._head, message or b"", self._credentials)
            )
            return
        if status >= 500:
            self._leg.member.failed()
            self._wait()
            return
        result = jsonrpc.initialize_result(message) if message is not None and status < 300 else None
        if result is None:
            data: dict[str, Any] = {"http_status": status}
            if message:
                data["upstream_error"] = message[:2048].decode("utf-8", "replace")
                data["content_type"] = (h.get(self._head, "Content-Type") or "")[:128]
            elif status < 300:
                data["upstream_error"] = "no body that could be read"
            location = h.get(self._head, "Location") if 300 <= status < 400 else None
            if location is not None:
                data["location"] = location
            self._owner.failed(Refusal("rebuild_refused", data))
            return
        assigned = h.get(self._head, h.SESSION_ID)
        self.upstream_id = UpstreamSessionId(assigned) if assigned and is_legal_session_id(assigned) else None
        if result.protocol_version != handshake.version:
            self._abandon()
            self._owner.failed(
                Refusal("version_mismatch", {"negotiated": handshake.version, "offered": result.protocol_version})
            )
            return
        self._leg.member.answered()
        note = jsonrpc.notification_body("notifications/initialized", None)
        self._send(_Step(note, None, self._noted))

    def _noted(self, status: int, message: bytes | None) -> None:
        if status >= 300:
            self._abandon()
            self._owner.failed(Refusal("rebuild_refused", {"http_status": status}))
            return
        self._queue = self._missing()
        if not self._relay.wants_standalone:
            self._next()
            return
        # A timer of its own: the head may come long after the steps that follow have begun.
        self._head_wait = self._relay.ctx.clock.call_later(HEAD_WAIT_SECONDS, self._listening)
        self._leg.link.open(self.generation, self.upstream_id, self._listening)

    def _listening(self) -> None:
        if self._stopped or self._head_wait is None:
            return
        self._head_wait.cancel()
        self._head_wait = None
        self._next()

    def _missing(self) -> list[_Step]:
        """Return what the upstream session lacks; asked again at the end, as a move's client goes on meanwhile."""
        session, ctx = self._relay.session, self._relay.ctx
        steps: list[_Step] = []
        wanted: list[tuple[str, dict[str, Any]]] = []
        if session.log_level is not None and session.log_level != self._level:
            wanted.append(("logging/setLevel", {"level": session.log_level}))
        subscribed = dict.fromkeys(session.subscriptions or ())
        wanted.extend(("resources/subscribe", {"uri": uri}) for uri in subscribed if uri not in self._subscribed)
        wanted.extend(("resources/unsubscribe", {"uri": uri}) for uri in self._subscribed if uri not in subscribed)
        self._level, self._subscribed = session.log_level, subscribed
        for method, params in wanted:
            request_id = f"mcp-session-proxy-{ctx.correlation_id()}"
            steps.append(_Step(jsonrpc.request_body(request_id, method, params), request_id, self._restored))
        return steps

    def _restored(self, status: int, message: bytes | None) -> None:
        if (status == 404 or status >= 500) and not self._has_restarted:
            # Perhaps the upstream went away again; a server that always answers so must not be asked for ever.
            self._has_restarted = True
            self._wait()
            return
        if message is None or status >= 300 or jsonrpc.classify(message).is_error:
            # A resource that is gone stays gone; the resync that follows says "updated", and a read tells.
            self._relay.reject("not_restored")
        self._next()

    def _next(self) -> None:
        if not self._queue:
            self._queue = self._missing()
        if self._queue:
            self._send(self._queue.pop(0))
        else:
            self._owner.built(self)

    def _abandon(self) -> None:
        """End the upstream session of an attempt that came to nothing."""
        upstream_id, self.upstream_id = self.upstream_id, None
        self._relay.session.close_server_requests(self.generation)
        self._leg.end_upstream(upstream_id)

    def _wait(self, *, is_hung: bool = False) -> None:
        if self._stopped:
            # By what followed from the member's health: nothing is reported any more.
            return
        self._leg.close_link()
        self._abandon()
        self._owner.unavailable(self, is_hung=is_hung)

    # -- one exchange

    def _send(self, step: _Step, *, version: str | None = "") -> None:
        relay = self._relay
        self._step = step
        self._status = 0
        self._buffer = []
        self._size = 0
        self._message = None
        self._decoder = None
        negotiated = relay.session.handshake.version
        headers = relay.ctx.own_headers(
            self._credentials, version=negotiated if version == "" else version, upstream_id=self.upstream_id
        )
        self._deadline = relay.ctx.clock.call_later(relay.ctx.upstream.ping_timeout_seconds, self._timed_out)
        self._exchange = self._leg.member.edge.send(UpstreamRequest("POST", headers, step.body), self)

    def on_head(self, status: int, headers: Headers) -> None:
        """A step's answer begins."""
        self._status = status
        self._head = headers
        if status < 300 and h.body_of(headers) is not Body.PLAIN:
            self._decoder = sse.Decoder(self._relay.ctx.upstream.max_message_bytes)

    def on_data(self, data: bytes) -> None:
        """A piece of it."""
        if self._decoder is None:
            self._size += len(data)
            if self._size > ANSWER_BYTES:
                self._end_exchange()
                self._finish(self._status, None)
            else:
                self._buffer.append(data)
            return
        try:
            frames = self._decoder.feed(data)
        except sse.FrameTooLarge:
            self._end_exchange()
            self._finish(self._status, None)
            return
        step = self._step
        for frame in frames:
            if not frame.data or step is None:
                continue
            envelope = jsonrpc.classify(frame.data)
            if envelope.kind is Kind.RESPONSE and envelope.id == step.request_id:
                self._end_exchange()
                self._finish(self._status, frame.data)
                return

    def on_end(self, proven: bool) -> None:
        """The answer is over."""
        self._exchange = None
        self._finish(self._status, None if self._decoder is not None else b"".join(self._buffer))

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The answer will not be whole: the server is not there yet, or left again."""
        self._exchange = None
        self._end_exchange()
        if self._stopped:
            return
        if loss is not Loss.BROKEN:
            self._leg.member.refused(detail)
        elif not self._status:
            self._leg.member.failed()
        self._wait()

    def _timed_out(self) -> None:
        # A stopped process still accepts connections; the next attempt has its own back-off.
        self._deadline = None
        self._end_exchange()
        self._leg.member.timed_out()
        self._wait(is_hung=True)

    def _finish(self, status: int, message: bytes | None) -> None:
        self._end_exchange()
        step, self._step = self._step, None
        if not self._stopped and step is not None:
            step.done(status, message)

    def _end_exchange(self) -> None:
        for timer in (self._deadline, self._head_wait):
            if timer is not None:
                timer.cancel()
        self._deadline = self._head_wait = None
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None
