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
from proxy.core.ids import Generation, RequestId, call_stream
from proxy.core.jsonrpc import Envelope, Kind
from proxy.core.replay import Stream
from proxy.core.session import (
    BindingEvent,
    BindingState,
    CloseReason,
    Command,
    Rest,
    Session,
    SessionEvent,
    SessionState,
    rest,
)
from proxy.observe import hooks
from proxy.relay import replies, silence
from proxy.relay.binder import Binder
from proxy.relay.call import Call
from proxy.relay.context import Context
from proxy.relay.inbox import sort
from proxy.relay.leg import Leg
from proxy.relay.move import Move, MoveOutcome, MoveResult
from proxy.relay.note import Note
from proxy.relay.readers import Readers
from proxy.relay.standalone import LinkState
from proxy.store.base import StreamLog
from proxy.upstream.member import Member


class SessionRelay:
    """Drives one session. Fulfils `wheel.Beating`."""

    __slots__ = (
        "_on_closed",
        "_slot",
        "binder",
        "calls",
        "credentials",
        "ctx",
        "fingerprint",
        "is_pinned",
        "last_active",
        "leg",
        "log",
        "moving",
        "notes",
        "older",
        "opened_at",
        "readers",
        "session",
        "wants_standalone",
    )

    def __init__(
        self,
        ctx: Context,
        session: Session,
        member: Member,
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
        self.leg = Leg(self, member, session.binding)
        """Where new requests go."""
        self.older: tuple[Leg, ...] = ()
        """Where calls still run that began before the session was moved, oldest first."""
        self.moving: Move | None = None
        self.is_pinned = False
        """Whether an operator keeps the session where it is."""
        member.sessions += 1
        self._on_closed = on_closed
        self._slot = ctx.checks.add(self)

    # -- where it lies

    def rehome(self, member: Member) -> None:
        """Let the present binding be made at another member from now on: nothing of it is left at the old one."""
        previous = self.leg
        previous.member.sessions -= 1
        member.sessions += 1
        self.session.binding.upstream = member.key
        self.leg = Leg(self, member, self.session.binding)
        previous.close()
        self._call_back(previous)

    def leg_of(self, generation: Generation) -> Leg | None:
        """Return the leg whose upstream session of *generation* is there, or is being made."""
        if self.leg.is_bound(generation) or self.binder.building == generation:
            return self.leg
        moving = self.moving
        if moving is not None and moving.generation == generation:
            return moving.leg
        return next((leg for leg in self.older if leg.is_bound(generation)), None)

    def move(
        self,
        member: Member,
        done: Callable[[MoveResult], None],
        *,
        is_forced: bool = False,
        drain_seconds: float | None = None,
    ) -> None:
        """Give the session an upstream session on *member* in the place of its present one; *done* is told how it went.

        Args:
            member: where to; the present one makes a new upstream session there.
            done: called once, perhaps before this returns.
            is_forced: move it although it is pinned or a task of it runs, which is lost then.
            drain_seconds: how long calls may go on in the old one; None: as configured.
        """
        if self.session.state is SessionState.CLOSED:
            done(MoveResult(MoveOutcome.CLOSED))
        elif (self.is_pinned or self.session.has_tasks) and not is_forced:
            done(MoveResult(MoveOutcome.PINNED))
        elif self.moving is not None:
            done(MoveResult(MoveOutcome.FAILED, "moving"))
        else:
            limit = self.ctx.swap.drain_timeout_seconds if drain_seconds is None else drain_seconds
            self.moving = Move(self, member, done, limit)
            self.moving.begin()

    def switch(self, leg: Leg, generation: Generation, drain_seconds: float) -> None:
        """Let *leg* take the place of the present one, which stays while calls run in it."""
        session, previous = self.session, self.leg
        self.binder.apply(BindingEvent.REPLACED)
        session.replace(leg.binding)
        leg.binding.receive(BindingEvent.ADOPTED, generation)
        self.leg = leg
        previous.member.sessions -= 1
        leg.member.sessions += 1
        self.binder.note_bound()
        if previous.binding.state is BindingState.DRAINING:
            self.older = (*self.older, previous)
            self._retire_finished()
            if previous in self.older:
                previous.ends_at = self.ctx.clock.call_later(drain_seconds, lambda: self._drained(previous))
        else:
            previous.close()
        if self.wants_standalone:
            leg.link.open(generation, leg.binding.upstream_id)
        self.readers.tell_resync()
        self._call_back(previous)
        self.binder.send_waiting()

    def _call_back(self, leg: Leg) -> None:
        # Those that wait for room on a member that is no longer the session's go to where it lies now.
        for call in dict.fromkeys(self.calls.values()):
            call.leave_queue(leg.member.gate)

    def _retire_finished(self) -> None:
        generations = {call.generation for call in self.calls.values() if call.state is not CallState.WAITING}
        for leg in self.older:
            if leg.binding.generation not in generations:
                self._retire(leg, BindingEvent.FINISHED)

    def _drained(self, leg: Leg) -> None:
        """End what still runs in an older binding: its time to finish is over."""
        if leg in self.older:
            running = [call for call in dict.fromkeys(self.calls.values()) if call.runs_in(leg.binding.generation)]
            self._retire(leg, BindingEvent.FINISHED)
            for call in running:
                call.give_up("drained")

    def lose_older(self, leg: Leg, reason: str) -> None:
        """Note that the upstream session of an older binding is gone."""
        if self.ctx.observer.is_active:
            lost = hooks.UpstreamLost(session=self.fingerprint, upstream=leg.member.name, reason=reason)
            self.ctx.observer.upstream_lost(lost)
        self._retire(leg, BindingEvent.LOSS)

    def _retire(self, leg: Leg, event: BindingEvent) -> None:
        self.older = tuple(other for other in self.older if other is not leg)
        if leg.ends_at is not None:
            leg.ends_at.cancel()
        for command in leg.binding.receive(event):
            if command is Command.CLOSE_STANDALONE:
                leg.close()
            elif command is Command.CLOSE_SERVER_REQUESTS:
                self.session.close_server_requests(leg.binding.generation)
            elif command is Command.END_UPSTREAM:
                leg.end()
        self.session.drop(leg.binding)

    def open_stream(self, ids: tuple[RequestId, ...]) -> Stream:
        """Begin the stream of one call."""
        number = self.session.next_stream
        self.session.next_stream = number + 1
        return self.log.open(call_stream(number), ids)

    # -- the client's requests

    def post(self, envelope: Envelope, request: Request, sink: Sink) -> None:
        """Take a POST of this session."""
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

    def answer(self, sink: Sink, status: int, headers: Headers, body: bytes) -> None:
        """Send an upstream's answer: with the proxy's session id in the place of the upstream's, if that gave one."""
        if type(headers) is h.Block and headers.onward is not None and headers.is_of_session is False:
            sink.answer(status, headers.onward, body)
            return
        sink.answer(status, h.forward_response(headers), body, self.session.id if h.names_session(headers) else None)

    @property
    def version_header(self) -> str | None:
        """The negotiated version, where its revision has a header for it."""
        return self.session.handshake.version if self.session.revision.has_version_header else None

    # -- frames of the upstream

    def admit(self, envelope: Envelope, data: bytes, generation: Generation) -> bytes:
        """Record a server request of *generation*; its id changes only where two generations could meet."""
        if envelope.id is None:
            return data
        token = jsonrpc.progress_token_of(data)
        shown = self.session.server_requests.admit(envelope.id, generation, token)
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
        leg = self.leg
        if leg.has_link and leg.link.state is LinkState.PARKED and leg.is_bound(leg.link.generation):
            leg.link.offer(headers)

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
                silence.check(self, now)
            case Rest.PARK:
                # A task runs in the upstream session, and ends with it.
                if self.session.binding.state is not BindingState.UNBOUND and not self.session.has_tasks:
                    self.park()
            case Rest.EXPIRE:
                self.close(CloseReason.EXPIRED)
            case Rest.END:
                self.close(CloseReason.LIFETIME)

    # -- ends

    def finished(self, ids: tuple[RequestId, ...]) -> None:
        """Free the ids of a call that is over."""
        for request_id in ids:
            self.calls.pop(request_id, None)
        self.last_active = self.ctx.clock.now()
        if self.older:
            self._retire_finished()

    def interrupt(self) -> int:
        """Cancel the running calls, as their client could; returns how many there were."""
        running = self._waiting_first()
        for call in running:
            call.interrupt()
        return len(running)

    def _waiting_first(self) -> list[Call]:
        # The end of one that runs would let in one that waits for its room.
        return sorted(dict.fromkeys(self.calls.values()), key=lambda call: call.state is not CallState.WAITING)

    @property
    def placing_key(self) -> str:
        """By what `consistent_hash` knows its client."""
        return self.ctx.placing_key(self.credentials)

    def park(self) -> None:
        """End the upstream's side of an idle session; the client's stays (semantics 20)."""
        was_bound = self.session.binding.state is BindingState.BOUND
        self.binder.apply(BindingEvent.IDLE)
        if was_bound and self.ctx.observer.is_active:
            self.ctx.observer.session_parked(
                hooks.SessionParked(
                    session=self.fingerprint,
                    upstream=self.leg.member.name,
                    idle_seconds=self.ctx.clock.now() - self.last_active,
                )
            )

    def close(self, reason: CloseReason) -> None:
        """End the session: every call gets its end, every stream ends cleanly, the upstream is told."""
        if self.session.state is SessionState.CLOSED:
            return
        fault = "shutdown" if reason is CloseReason.SHUTDOWN else "session_closed"
        self.session.receive(SessionEvent.CLOSED)
        for call in self._waiting_first():
            call.fail_silent("closed_unsent" if call.state is CallState.WAITING else fault)
        for note in tuple(self.notes):
            note.abandon("session_closed")
        if self.moving is not None:
            self.moving.stop(MoveResult(MoveOutcome.CLOSED))
        for leg in self.older:
            self._retire(leg, BindingEvent.CLOSED)
        self.binder.apply(BindingEvent.CLOSED)
        self.leg.close()
        self.leg.member.sessions -= 1
        self.readers.finish()
        self.log.close()
        self.ctx.checks.discard(self, self._slot)
        if self.ctx.observer.is_active:
            self.ctx.observer.session_closed(hooks.SessionClosed(session=self.fingerprint, reason=reason.value))
        self._on_closed(self)

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
