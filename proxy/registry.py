"""The sessions alive in this process: found by id, opened, drained.

Owns the map from id to running session and its bound. Knows neither HTTP library nor upstream. A look-up is a plain
hit or miss; a store of other processes' sessions would add an awaitable miss here and nowhere else (semantics 2).
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from proxy.core.edge import Request, Sink
from proxy.core.headers import Headers
from proxy.core.ids import (
    EPOCH_ENTROPY_BYTES,
    SESSION_ENTROPY_BYTES,
    SessionId,
    UpstreamSessionId,
    mint_epoch,
    mint_session_id,
)
from proxy.core.jsonrpc import Envelope
from proxy.core.revision import for_session
from proxy.core.session import BindingEvent, CloseReason, Handshake, Session, SessionEvent
from proxy.observe import hooks
from proxy.relay.context import Context
from proxy.relay.evading import evade, settle
from proxy.relay.move import MoveOutcome, MoveResult
from proxy.relay.session import SessionRelay
from proxy.store.memory import MemoryLog
from proxy.upstream.member import Member, MemberState

SWEEP_SECONDS = 1.0


class Reachable(Protocol):
    """Whoever answers a session's requests: the session itself, or another process that holds it.

    Today every session is local. What a listener may ask of one is said here, so that a peer can take its place.
    """

    def post(self, envelope: Envelope, request: Request, sink: Sink) -> None:
        """Take a POST."""

    def listen(self, request: Request, sink: Sink) -> None:
        """Take a GET."""

    def delete(self, request: Request, sink: Sink) -> None:
        """Take the DELETE."""


class Registry:
    """All sessions of one route."""

    def __init__(self, ctx: Context, population: Callable[[], int] | None = None) -> None:
        self.ctx = ctx
        self._population = population or (lambda: len(self) + ctx.openings)
        """How many sessions the process has and is about to have: the bound holds for all routes together."""
        self.is_draining = False
        self._is_closed = False
        self._sessions: dict[SessionId, SessionRelay] = {}
        self._drain_started = 0.0
        self._drained_streams = 0
        self._evading: deque[SessionRelay] = deque()
        """Sessions that are to leave an ejected member, those with running calls first."""
        self._moves = 0
        self._is_choosing = False
        ctx.pool.on_ejected.append(self._ejected)
        ctx.pool.on_removed.append(self._ejected)
        ctx.pool.on_readmitted.append(self._readmitted)
        self._sweep()

    def __len__(self) -> int:
        """Count the sessions."""
        return len(self._sessions)

    @property
    def is_full(self) -> bool:
        """Tell whether another session would exceed the bound; old ones are never ended for a new one."""
        return self._population() >= self.ctx.session.max_sessions

    @property
    def relays(self) -> Iterable[SessionRelay]:
        """The sessions, oldest first."""
        return self._sessions.values()

    def find(self, session_id: str) -> Reachable | None:
        """Return who answers for the session a client names."""
        return self._sessions.get(SessionId(session_id))

    def open(
        self,
        handshake: Handshake,
        upstream_id: UpstreamSessionId | None,
        headers: Headers,
        correlation_id: str,
        member: Member,
    ) -> SessionRelay:
        """Make a session of an answered handshake."""
        ctx = self.ctx
        session = Session(
            mint_session_id(ctx.clock.entropy(SESSION_ENTROPY_BYTES)),
            ctx.route,
            member.key,
            handshake,
            for_session(handshake.version),
        )
        session.receive(SessionEvent.ANSWERED)
        session.binding.upstream_id = upstream_id
        log = MemoryLog(mint_epoch(ctx.clock.entropy(EPOCH_ENTROPY_BYTES)), ctx.budget)
        relay = SessionRelay(ctx, session, member, log, headers, self._forget)
        relay.binder.apply(BindingEvent.ADOPTED)
        relay.binder.note_bound()
        self._sessions[session.id] = relay
        if member.state is MemberState.REMOVED:
            # Not from inside: the client's answer is not written yet.
            ctx.clock.call_later(0.0, lambda: settle(relay))
        if ctx.observer.is_active:
            ctx.observer.session_opened(
                hooks.SessionOpened(
                    session=relay.fingerprint,
                    request_id=correlation_id,
                    upstream=member.name,
                    protocol_version=handshake.version,
                )
            )
        return relay

    def _forget(self, relay: SessionRelay) -> None:
        self._sessions.pop(relay.session.id, None)
        self.ctx.ids.unbind(relay.session.id)

    # -- an upstream that is out

    def _ejected(self, member: Member) -> None:
        """Let the sessions of an ejected member go on elsewhere; calls that run there have their own deadlines."""
        for passing in tuple(self.ctx.passing):
            passing.evade(member)
        for relay in tuple(self._sessions.values()):
            if relay.moving is not None and relay.moving.leg.member is member:
                relay.moving.stop(MoveResult(MoveOutcome.FAILED, "unreachable"))
        leaving = [relay for relay in self._sessions.values() if relay.leg.member is member]
        leaving.sort(key=lambda relay: not relay.calls)
        self._evading.extend(leaving)
        self._evade()

    def _readmitted(self, member: Member) -> None:
        """Let what waits for a member that is out, and may be sent again, ask the one that is back."""
        for passing in tuple(self.ctx.passing):
            passing.reconsider(member)

    def _evade(self) -> None:
        # Who has nothing to move says so at once: without this mark the calls would nest as deep as there are sessions.
        if self._is_choosing:
            return
        self._is_choosing = True
        while self._evading and self._moves < self.ctx.swap.concurrency:
            relay, under_way = self._evading.popleft(), self._moves
            if not relay.leg.member.is_available:
                self._moves += 1
                evade(relay, self._evaded)
            if self._moves > under_way:
                # One in a turn of the loop, so that clients' calls do not wait behind them all.
                self.ctx.clock.call_later(0.0, self._evade_more)
                return
        self._is_choosing = False

    def _evade_more(self) -> None:
        self._is_choosing = False
        self._evade()

    def _evaded(self) -> None:
        self._moves -= 1
        self._evade()

    def close(self) -> None:
        """Sweep no more: the route is gone, and its sessions with it."""
        self._is_closed = True

    def _sweep(self) -> None:
        if self._is_closed:
            return
        self.ctx.budget.expire()
        self.ctx.clock.call_later(SWEEP_SECONDS, self._sweep)

    # -- the end

    def begin_drain(self) -> None:
        """Take no new session, and end the streams that no running call needs."""
        self.is_draining = True
        self._drain_started = self.ctx.clock.now()
        for relay in tuple(self._sessions.values()):
            self._drained_streams += relay.readers.finish(only_standalone=True)

    @property
    def has_running_calls(self) -> bool:
        """Tell whether ending now would cut a call."""
        return bool(self.ctx.passing) or any(relay.calls for relay in self._sessions.values())

    def end(self) -> None:
        """End every session; calls that still run are told so."""
        # By call, not by request id: a batch is one.
        aborted = sum(len(set(relay.calls.values())) for relay in self._sessions.values()) + len(self.ctx.passing)
        for passing in tuple(self.ctx.passing):
            passing.abandon()
        for relay in tuple(self._sessions.values()):
            relay.close(CloseReason.SHUTDOWN)
        if self.ctx.observer.is_active:
            waited = self.ctx.clock.now() - self._drain_started
            self.ctx.observer.drained(
                hooks.Drained(streams=self._drained_streams, aborted=aborted, waited_seconds=waited)
            )
