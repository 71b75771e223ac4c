"""One live session: what its client sends is sorted here and handed to who deals with it.

Owns the parts of a session that runs (calls, notes, readers, binding) and their ends. Holds no rule of the protocol:
those are in `core`. Invariant: after `close` nothing of the session is reachable and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core import headers as h
from proxy.core import jsonrpc
from proxy.core.edge import Request, Sink
from proxy.core.exchange import CallState
from proxy.core.faults import FAULTS
from proxy.core.headers import Headers
from proxy.core.ids import Generation, RequestId, UpstreamSessionId, call_stream
from proxy.core.jsonrpc import Envelope, Kind
from proxy.core.replay import Stream
from proxy.core.session import (
    BindingEvent,
    BindingState,
    CloseReason,
    Rest,
    Session,
    SessionEvent,
    SessionState,
    rest,
)
from proxy.observe import hooks
from proxy.relay import replies
from proxy.relay.binder import Binder
from proxy.relay.call import Call
from proxy.relay.context import Context
from proxy.relay.inbox import sort
from proxy.relay.note import Note
from proxy.relay.probe import Probe
from proxy.relay.readers import Readers
from proxy.relay.standalone import LinkState, Standalone
from proxy.store.base import StreamLog

_LISTENING = frozenset({LinkState.OPENING, LinkState.OPEN})


class SessionRelay:
    """Drives one session. Fulfils `wheel.Beating`."""

    __slots__ = (
        "_link",
        "_on_closed",
        "_probe",
        "_slot",
        "binder",
        "calls",
        "credentials",
        "ctx",
        "fingerprint",
        "last_active",
        "log",
        "notes",
        "opened_at",
        "readers",
        "session",
        "wants_standalone",
    )

    def __init__(
        self,
        ctx: Context,
        session: Session,
        log: StreamLog,
        credentials: Headers,
        on_closed: Callable[[SessionRelay], None],
    ) -> None:
        self.ctx = ctx
        self.session = session
        self.log = log
        self.credentials = credentials
        """The headers of the latest request the upstream accepted, in memory only (semantics 12)."""
        self.fingerprint = ctx.fingerprint(session.id)
        self.opened_at = self.last_active = ctx.clock.now()
        self.wants_standalone = False
        """Whether the client ever opened its standalone stream."""
        self.calls: dict[RequestId, Call] = {}
        self.notes: set[Note] = set()
        self.readers = Readers(self)
        self.binder = Binder(self)
        self._link: Standalone | None = None
        self._probe: Probe | None = None
        self._on_closed = on_closed
        self._slot = ctx.checks.add(self)

    # -- parts made on first use: an idle session without a stream needs none of them

    @property
    def link(self) -> Standalone:
        """The upstream's side of the standalone stream."""
        if self._link is None:
            self._link = Standalone(self)
        return self._link

    def close_link(self) -> None:
        """Cut the upstream's side of the standalone stream, if there is one."""
        if self._link is not None:
            self._link.close()

    @property
    def probe(self) -> Probe:
        """The session's ping."""
        if self._probe is None:
            self._probe = Probe(self)
        return self._probe

    def open_stream(self, ids: tuple[RequestId, ...]) -> Stream:
        """Begin the stream of one call."""
        number = self.session.next_stream
        self.session.next_stream = number + 1
        return self.log.open(call_stream(number), ids)

    # -- the client's requests

    def post(self, envelope: Envelope, request: Request, sink: Sink) -> None:
        """Take a POST of this session."""
        self.last_active = self.ctx.clock.now()
        sort(self, envelope, request, sink)

    def listen(self, request: Request, sink: Sink) -> None:
        """Take a GET of this session: its standalone stream, or a resume of any stream."""
        self.readers.listen(request, sink)

    def delete(self, request: Request, sink: Sink) -> None:
        """Take the DELETE of this session."""
        # The live request's credentials, so that the upstream lets itself be told.
        self.credentials = self.ctx.forward(request.head)
        self.close(CloseReason.DELETED)
        replies.deleted(sink)

    # -- headers

    def answer(self, sink: Sink, status: int, headers: Headers, body: bytes) -> None:
        """Send an upstream's answer: with the proxy's session id in the place of the upstream's, if that gave one."""
        sink.answer(status, h.forward_response(headers), body, self.session.id if h.names_session(headers) else None)

    @property
    def version_header(self) -> str | None:
        """The negotiated version, where its revision has a header for it."""
        return self.session.handshake.version if self.session.revision.has_version_header else None

    def own_headers(self, *, is_get: bool = False, upstream_id: UpstreamSessionId | None = None) -> Headers:
        """Return the headers of a request of the proxy's own, in the present upstream session by default."""
        return self.ctx.own_headers(
            self.credentials,
            version=self.version_header,
            upstream_id=upstream_id if upstream_id is not None else self.session.binding.upstream_id,
            is_get=is_get,
        )

    # -- frames of the upstream

    def admit(self, envelope: Envelope, data: bytes, generation: Generation) -> bytes:
        """Record a server request of *generation*; its id changes only where two generations could meet."""
        if envelope.id is None:
            return data
        shown = self.session.server_requests.admit(envelope.id, generation)
        return data if shown == envelope.id else jsonrpc.replace_id(data, shown)

    def admit_batch(self, data: bytes, generation: Generation) -> bytes:
        """Record the server requests of a batch; the batch itself is written anew only when an id changed."""
        members = jsonrpc.split_batch(data)
        admitted = [
            self.admit(member, text, generation) if member.kind is Kind.REQUEST else text for member, text in members
        ]
        return data if admitted == [text for _, text in members] else b"[" + b",".join(admitted) + b"]"

    # -- time

    def touch(self) -> None:
        """Note activity."""
        self.last_active = self.ctx.clock.now()

    @property
    def is_active(self) -> bool:
        """Tell whether a call runs or a client reads; a dead peer's stream is ended by its connection."""
        return bool(self.calls or self.readers)

    def accepted(self, headers: Headers) -> None:
        """Note that the upstream accepted a request with these headers."""
        self.credentials = headers
        link = self._link
        if link is not None and link.state is LinkState.PARKED and self.binder.is_bound(link.generation):
            link.offer(headers)

    def beat(self) -> None:
        """Look after silence and idleness; called once in a while by the wheel of checks."""
        now = self.ctx.clock.now()
        if self.is_active:
            self.last_active = now
        config = self.ctx.session
        match rest(
            idle=now - self.last_active,
            lived=now - self.opened_at,
            upstream_idle_limit=config.upstream_idle_seconds,
            idle_limit=config.idle_seconds,
            lifetime=config.lifetime_seconds,
        ):
            case Rest.AWAKE:
                self.check_silence(now)
            case Rest.PARK:
                if self.session.binding.state is not BindingState.UNBOUND:
                    self.park()
            case Rest.EXPIRE:
                self.close(CloseReason.EXPIRED)
            case Rest.END:
                self.close(CloseReason.LIFETIME)

    def heard(self, generation: Generation) -> None:
        """Forgive the silence so far: the upstream answered a ping."""
        now = self.ctx.clock.now()
        latest = now - self.ctx.upstream.silence_seconds
        for call in set(self.calls.values()):
            if call.generation == generation:
                if call.last_bytes <= latest:
                    call.ask_again()
                call.last_bytes = now
        if self._link is not None:
            self._link.last_bytes = now

    def check_silence(self, now: float) -> None:
        """Ask the upstream for a sign of life where one of the session's exchanges has been silent for long."""
        binding = self.session.binding
        latest = now - self.ctx.upstream.silence_seconds
        for call in set(self.calls.values()):
            if call.awaits_bytes and call.last_bytes <= latest and not self.binder.is_bound(call.generation):
                # No ping can speak for an upstream session that is known to be lost.
                call.fail_silent("upstream_session_lost")
        if binding.state is not BindingState.BOUND:
            return
        link = self._link
        is_silent = any(
            call.generation == binding.generation and call.awaits_bytes and call.last_bytes <= latest
            for call in self.calls.values()
        ) or (link is not None and link.state in _LISTENING and bool(self.readers) and link.last_bytes <= latest)
        if is_silent and binding.state is BindingState.BOUND:
            self.probe.check_silence(binding.generation)

    # -- ends

    def finished(self, ids: tuple[RequestId, ...]) -> None:
        """Free the ids of a call that is over."""
        for request_id in ids:
            self.calls.pop(request_id, None)
        self.last_active = self.ctx.clock.now()

    def park(self) -> None:
        """End the upstream's side of an idle session; the client's stays (semantics 20)."""
        was_bound = self.session.binding.state is BindingState.BOUND
        self.binder.apply(BindingEvent.IDLE)
        if was_bound and self.ctx.observer.is_active:
            self.ctx.observer.session_parked(
                hooks.SessionParked(
                    session=self.fingerprint,
                    upstream=self.ctx.upstream.name,
                    idle_seconds=self.ctx.clock.now() - self.last_active,
                )
            )

    def close(self, reason: CloseReason) -> None:
        """End the session: every call gets its end, every stream ends cleanly, the upstream is told."""
        if self.session.state is SessionState.CLOSED:
            return
        fault = "shutdown" if reason is CloseReason.SHUTDOWN else "session_closed"
        self.session.receive(SessionEvent.CLOSED)
        for call in set(self.calls.values()):
            call.fail_silent("closed_unsent" if call.state is CallState.WAITING else fault)
        for note in tuple(self.notes):
            note.abandon("session_closed")
        self.binder.apply(BindingEvent.CLOSED)
        if self._probe is not None:
            self._probe.close()
        self.readers.finish()
        self.log.close()
        self.ctx.checks.discard(self, self._slot)
        if self.ctx.observer.is_active:
            self.ctx.observer.session_closed(hooks.SessionClosed(session=self.fingerprint, reason=reason.value))
        self._on_closed(self)

    # -- what observers are told

    def told(self, reason: str, correlation_id: str) -> None:
        """Note that a call ended with a row of the fault table."""
        if self.ctx.observer.is_active and FAULTS[reason].outcome == "unknown":
            self.ctx.observer.call_ended_unknown(
                hooks.CallEndedUnknown(session=self.fingerprint, request_id=correlation_id, reason=reason)
            )

    def dropped(self, reason: str, correlation_id: str) -> None:
        """Record that a notification or response goes nowhere."""
        if self.ctx.observer.is_active:
            self.ctx.observer.notification_dropped(
                hooks.NotificationDropped(session=self.fingerprint, request_id=correlation_id, reason=reason)
            )

    def reject(self, reason: str, correlation_id: str = "") -> None:
        """Record that something could not be done for this session."""
        if self.ctx.observer.is_active:
            self.ctx.observer.request_rejected(
                hooks.RequestRejected(session=self.fingerprint, request_id=correlation_id, reason=reason)
            )
