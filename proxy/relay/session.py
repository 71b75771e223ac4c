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
from proxy.relay.note import Note
from proxy.relay.passthrough import Passthrough
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
        "unavailable_reason",
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
        ctx = self.ctx
        self.touch()
        headers, correlation_id = ctx.upstream_headers(request.headers)
        kind = envelope.kind
        if kind is Kind.REQUEST and envelope.id is not None:
            if self._is_admitted((envelope.id,), request, sink):
                call = Call(self, (envelope.id,), envelope.method, request.body, headers, correlation_id, sink)
                call.begin(can_stream=h.accepts_sse(request.headers))
        elif kind is Kind.NOTIFICATION:
            self._notification(envelope, request, headers, correlation_id, sink)
        elif kind is Kind.RESPONSE:
            self._response(envelope, request, headers, correlation_id, sink)
        elif kind is Kind.BATCH and self.session.revision.has_batches:
            self._batch(request, headers, correlation_id, sink)
        else:
            # Not ours to judge: the upstream says what is wrong with it.
            Passthrough(ctx, (), headers, request.body, sink, relay=self).begin()

    def _batch(self, request: Request, headers: Headers, correlation_id: str, sink: Sink) -> None:
        members = jsonrpc.split_batch(request.body)
        requests = (member.id for member, _ in members if member.kind is Kind.REQUEST and member.id is not None)
        ids = tuple(dict.fromkeys(requests))
        if ids and not self._is_admitted(ids, request, sink, is_batch=True):
            return
        # Answers to server requests take the way of single ones: to the session that asked, or nowhere.
        kept: list[bytes] = []
        only_in: Generation | None = None
        for member, text in members:
            answered = self._answered(member, text) if member.kind is Kind.RESPONSE else (None, text)
            if answered is None:
                self._drop_answer(correlation_id)
                continue
            only_in = answered[0] if answered[0] is not None else only_in
            kept.append(answered[1])
        is_changed = kept != [text for _, text in members]
        body = b"[" + b",".join(kept) + b"]" if is_changed else request.body
        if ids:
            Call(self, ids, None, body, headers, correlation_id, sink).begin(can_stream=False)
        elif kept:
            self._deliver(body, headers, correlation_id, sink, only_in)
        else:
            replies.accepted(sink)

    def _is_admitted(self, ids: tuple[RequestId, ...], request: Request, sink: Sink, *, is_batch: bool = False) -> bool:
        for request_id in ids:
            running = self.calls.get(request_id)
            if running is None:
                continue
            if running.is_same(request.body):
                running.take_over(sink)
            else:
                replies.report_all(sink, "id_in_use", ids, is_batch=is_batch)
            return False
        limit = self.ctx.session.max_calls
        if len(self.calls) + len(ids) > limit:
            replies.report_all(sink, "too_many_calls", ids, is_batch=is_batch, limit=limit)
            return False
        return True

    def _notification(
        self, envelope: Envelope, request: Request, headers: Headers, correlation_id: str, sink: Sink
    ) -> None:
        only_in: Generation | None = None
        if envelope.method == "notifications/initialized":
            # Part of the handshake, which every rebuild repeats by itself.
            self.session.initialized = True
            only_in = self.session.binding.generation
        elif envelope.method == "notifications/cancelled":
            cancelled_id = jsonrpc.cancelled_id(request.body)
            call = self.calls.get(cancelled_id) if cancelled_id is not None else None
            if call is None or call.is_cancelled:
                # Forwarded once; a second one, or one for a finished call, has nothing to cancel.
                self.dropped("nothing_to_cancel", correlation_id)
                replies.accepted(sink)
                return
            if not call.cancel():
                replies.accepted(sink)
                return
            only_in = call.generation
        self._deliver(request.body, headers, correlation_id, sink, only_in)

    def _response(
        self, envelope: Envelope, request: Request, headers: Headers, correlation_id: str, sink: Sink
    ) -> None:
        answered = self._answered(envelope, request.body)
        if answered is None:
            self._drop_answer(correlation_id)
            replies.accepted(sink)
        else:
            only_in, body = answered
            self._deliver(body, headers, correlation_id, sink, only_in)

    def _answered(self, envelope: Envelope, body: bytes) -> tuple[Generation | None, bytes] | None:
        """Return where a client's response belongs and its body with the upstream's id; None when that is lost."""
        if envelope.id is None:
            return None, body
        owner = self.session.server_requests.answer(envelope.id)
        if owner is None:
            # Every request of a later binding went through `admit`, so this answers one of a lost session.
            return (None, body) if self.session.binding.generation <= 1 else None
        generation, upstream_id = owner
        if not self.binder.is_usable(generation):
            return None
        return generation, body if upstream_id == envelope.id else jsonrpc.replace_id(body, upstream_id)

    def _drop_answer(self, correlation_id: str) -> None:
        if self.ctx.observer.is_active:
            self.ctx.observer.answer_dropped(hooks.AnswerDropped(session=self.fingerprint, request_id=correlation_id))

    def _deliver(
        self, body: bytes, headers: Headers, correlation_id: str, sink: Sink, only_in: Generation | None
    ) -> None:
        """Take responsibility for a notification or response, within the bound of calls."""
        if len(self.notes) >= self.ctx.session.max_calls:
            self.dropped("too_many_notifications", correlation_id)
            replies.accepted(sink)
        else:
            Note(self, body, headers, correlation_id, sink, only_in).begin()

    # -- headers

    def stream_headers(self, upstream: Headers) -> Headers:
        """Return the head of an event stream of this session."""
        return replies.stream_headers(upstream, self.session.id)

    def answer_headers(self, headers: Headers) -> Headers:
        """Return an upstream's answer headers as the client gets them: its id replaced by ours where it gave one."""
        mapped = h.forward_response(headers)
        if h.get(headers, h.SESSION_ID) is not None:
            mapped.append((h.SESSION_ID, self.session.id))
        return mapped

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
        self.touch()

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
