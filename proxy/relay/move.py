"""A session's way to another upstream session while its present one still serves: built first, then switched to.

Owns the second leg until the switch, and the report of how it went. Knows no reason for it (a drain, a swap, an
operator's word: `control`). Invariants: until the new upstream session is ready nothing of the session changes, so a
move that fails has changed nothing; at the switch new requests go to the new one, and what runs in the old one stays
there until it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.ids import Generation
from proxy.core.session import Binding, BindingState, SessionState
from proxy.observe import hooks
from proxy.relay.leg import Leg
from proxy.relay.rebuild import Rebuild, Refusal

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

ATTEMPTS = 3
"""Times the new upstream session is tried before the session stays where it is."""


class MoveOutcome(Enum):
    """How a move went."""

    MOVED = "moved"
    """The new upstream session was ready before the old one was let go."""
    REBUILT = "rebuilt"
    """The old one was lost meanwhile; the new one took its place."""
    IDLE = "idle"
    """There was no upstream session to replace: the next request makes one at the new place."""
    PINNED = "pinned"
    """The session must stay: an operator or a running task holds it."""
    CLOSED = "closed"
    """The session ended meanwhile."""
    FAILED = "failed"
    """The new upstream does not host this session, which stays where it is."""


@mypyc_attr(native_class=False)
class MoveResult(msgspec.Struct, frozen=True):
    """The report of a move."""

    outcome: MoveOutcome
    reason: str = ""
    """A row of the fault table, where it failed."""
    data: dict[str, Any] = {}


class Move:
    """One move under way. Fulfils `rebuild.Owner`."""

    __slots__ = (
        "_deadline", "_done", "_drain_seconds", "_failures", "_previous", "_rebuild", "_relay", "_started_at", "leg",
    )  # fmt: skip

    def __init__(
        self, relay: SessionRelay, member: Member, done: Callable[[MoveResult], None], drain_seconds: float
    ) -> None:
        self._relay = relay
        self._done = done
        self._drain_seconds = drain_seconds
        self._failures = 0
        self._deadline: Timer | None = None
        self._previous = relay.leg.member
        self._started_at = relay.ctx.clock.now()
        self.leg = Leg(relay, member, Binding(member.key))
        self._rebuild: Rebuild | None = None

    @property
    def generation(self) -> Generation:
        """The number the new upstream session will have."""
        return self._rebuild.generation if self._rebuild is not None else Generation(0)

    def begin(self) -> None:
        """Replace what there is, or note the new place where there is nothing."""
        state = self._relay.session.binding.state
        if state in (BindingState.UNBOUND, BindingState.LOST):
            self._relay.rehome(self.leg.member)
            self._report(MoveResult(MoveOutcome.IDLE))
            self._relay.binder.wake()
            return
        # Paced by who asked for the move, and not in the queue of an outage: nothing has failed.
        self._rebuild = Rebuild(self.leg, self, self._relay.credentials, is_live=True)
        self._rebuild.start()

    def stop(self, result: MoveResult) -> None:
        """Give it up: the session stays where it is, or is over. Harmless when it has ended."""
        if self._relay.moving is not self:
            return
        rebuild, self._rebuild = self._rebuild, None
        self._forget_deadline()
        if rebuild is not None:
            rebuild.stop()
            self._relay.session.return_generation(rebuild.generation)
        self.leg.close()
        self._report(result)
        self._relay.binder.resume()

    # -- what the rebuild asks and reports

    def leg_for(self, rebuild: Rebuild) -> Leg:
        """Return the one place this move leads to."""
        return self.leg

    def built(self, rebuild: Rebuild) -> None:
        """Switch."""
        self._rebuild = None
        self._forget_deadline()
        relay = self._relay
        was_bound = relay.session.binding.state is BindingState.BOUND
        self.leg.binding.upstream_id = rebuild.upstream_id
        relay.switch(self.leg, rebuild.generation, self._drain_seconds)
        if relay.ctx.observer.is_active:
            relay.ctx.observer.session_moved(
                hooks.SessionMoved(
                    session=relay.fingerprint,
                    upstream=self.leg.member.key,
                    previous=self._previous.key,
                    generation=rebuild.generation,
                    waited_seconds=relay.ctx.clock.now() - self._started_at,
                )
            )
        self._report(MoveResult(MoveOutcome.MOVED if was_bound else MoveOutcome.REBUILT))

    def failed(self, refusal: Refusal) -> None:
        """Stay: what came back cannot host the session."""
        self.stop(MoveResult(MoveOutcome.FAILED, refusal.reason, refusal.data))

    def denied(self, refusal: Refusal) -> None:
        """Stay: the new upstream wants other credentials."""
        self.stop(MoveResult(MoveOutcome.FAILED, refusal.reason, refusal.data))

    def unavailable(self, rebuild: Rebuild, *, is_hung: bool) -> None:
        """Try again in a while, a bounded number of times."""
        if self._relay.moving is not self:
            # What was just found out has ejected the member, and the move with it.
            return
        self._failures += 1
        # Where the old one is lost clients wait, and for them any member of the pool will do.
        is_lost = self._relay.session.binding.state is not BindingState.BOUND
        if is_lost or self._failures >= ATTEMPTS or not self.leg.member.is_available:
            self.stop(MoveResult(MoveOutcome.FAILED, "unreachable"))
        else:
            if self._deadline is None:
                # Its queue may let nobody go: that of the only member, which is not there.
                wait = self._relay.ctx.upstream.rebuild_wait_seconds
                self._deadline = self._relay.ctx.clock.call_later(wait, self._waited)
            rebuild.try_again()

    def _waited(self) -> None:
        self.stop(MoveResult(MoveOutcome.FAILED, "unreachable"))

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _report(self, result: MoveResult) -> None:
        relay = self._relay
        if relay.moving is self:
            relay.moving = None
        if relay.session.state is SessionState.CLOSED and result.outcome is MoveOutcome.FAILED:
            result = MoveResult(MoveOutcome.CLOSED)
        if result.outcome is MoveOutcome.FAILED and relay.ctx.observer.is_active:
            relay.ctx.observer.move_failed(
                hooks.MoveFailed(session=relay.fingerprint, upstream=self.leg.member.key, reason=result.reason)
            )
        self._done(result)
