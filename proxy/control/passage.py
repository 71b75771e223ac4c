"""The way of sessions off one member, in one direction, with all that may hold them up.

Owns who had a turn and how it went, who is asked again and when, and whose older bindings are still in use. Knows
neither what for nor the states of the job. Invariants: a session is asked again only for a reason that passes (another
move of it, a pin, a task); once it is late, no task holds anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from proxy.control.mover import Mover, Slots
from proxy.control.tally import AFTER_MOVE, Standing
from proxy.core.session import SessionState
from proxy.relay.move import MoveOutcome, MoveResult

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

BUSY = "moving"
"""Reason of a move that was refused because another one of that session is under way."""


class Passage:
    """Moves sessions off one member."""

    def __init__(
        self,
        clock: Clock,
        slots: Slots,
        source: Member,
        choose: Callable[[SessionRelay], Member | None],
        told: Callable[[SessionRelay, Standing], None],
        drain_seconds: float,
        *,
        tries_others: bool = False,
    ) -> None:
        """Prepare to move.

        Args:
            clock: Time.
            slots: Bounds how many moves are under way.
            source: The member they leave.
            choose: Says where a session goes; None: nowhere.
            told: Learns where each session stands, whenever that changes.
            drain_seconds: How long calls may go on in an older binding.
            tries_others: Whether a session that was not taken is chosen for anew; `tried` says who would not.
        """
        self._source = source
        self._choose = choose
        self._told = told
        self._tries_others = tries_others
        self._mover = Mover(clock, slots, self._aim, self._report, drain_seconds)
        self._aimed: dict[SessionRelay, Member] = {}
        self._again: list[SessionRelay] = []
        """Those that are asked again at the next look."""
        self._is_looking = False
        self._is_stopped = False
        self.tried: dict[SessionRelay, list[Member]] = {}
        """Who would not host a session."""
        self.pinned: set[SessionRelay] = set()
        self.failed: set[SessionRelay] = set()
        self.trailing: set[SessionRelay] = set()
        """Those that have an older binding on the source."""
        self.failures: Counter[str] = Counter()
        """Moves that failed, by reason: several of one session, where it was tried in several places."""

    def __contains__(self, relay: SessionRelay) -> bool:
        """Tell whether a session waits for its turn, has it, or had it and had to stay."""
        return relay in self._mover or relay in self.pinned or relay in self.failed or relay in self._again

    @property
    def is_idle(self) -> bool:
        """Tell whether every session had its turn."""
        return self._mover.is_idle and not self._again and not self._is_looking

    @property
    def waits_for_tasks(self) -> bool:
        """Tell whether sessions will have another turn, once their tasks are over or it is late."""
        return not all(relay.is_pinned for relay in self.pinned)

    @property
    def is_still(self) -> bool:
        """Tell whether nothing more happens, and no older binding is left on the source."""
        return self.is_idle and not self.trailing and not self.waits_for_tasks

    @property
    def staying(self) -> int:
        """Count those who had their turn and stay."""
        return len(self.pinned) + len(self.failed)

    def clear(self) -> None:
        """Forget the sessions; why moves failed stays known."""
        self.tried.clear()
        self._aimed.clear()
        for kept in (self.pinned, self.failed, self.trailing):
            kept.clear()

    def add(self, relays: Iterable[SessionRelay]) -> None:
        """Move these, too."""
        self._mover.add(relays)

    def stop(self) -> None:
        """Begin nothing more; moves under way are still told."""
        self._is_stopped = True
        self._mover.stop()
        self._again.clear()

    def look(self, *, is_late: bool) -> None:
        """Look for what nobody tells: whose pin or task is gone, who has ended, whose older binding has.

        Whoever looks asks what follows behind it: from inside nothing seems finished.

        Args:
            is_late: Whether sessions are moved although a task of theirs runs, which is lost then.
        """
        # Until all have been added again it is not idle, whoever is told in between.
        self._is_looking = True
        try:
            self._look(is_late=is_late)
        finally:
            self._is_looking = False

    def forget_gone(self) -> None:
        """Tell who had to stay and is there no longer: ended since, or rebuilt elsewhere."""
        for stayed in (self.pinned, self.failed):
            for relay in tuple(stayed):
                is_closed = relay.session.state is SessionState.CLOSED
                if is_closed or relay.leg.member is not self._source:
                    stayed.discard(relay)
                    self._told(relay, Standing.CLOSED if is_closed else Standing.REBUILT)

    def _look(self, *, is_late: bool) -> None:
        self.trailing = {relay for relay in self.trailing if self._trails(relay)}
        self.forget_gone()
        if self._is_stopped:
            return
        again, self._again = self._again, []
        freed = [relay for relay in self.pinned if not relay.is_pinned and (is_late or not relay.session.has_tasks)]
        for relay in freed:
            self.pinned.discard(relay)
            self._told(relay, Standing.REMAINING)
        self._mover.add(again)
        self._mover.add(freed, is_forced=is_late)

    def _trails(self, relay: SessionRelay) -> bool:
        return any(leg.member is self._source for leg in relay.older)

    def _aim(self, relay: SessionRelay) -> Member | MoveResult:
        if relay.session.state is SessionState.CLOSED:
            return MoveResult(MoveOutcome.CLOSED)
        if relay.leg.member is not self._source:
            # It has lost its binding there, and found its own way.
            return MoveResult(MoveOutcome.REBUILT)
        member = self._choose(relay)
        if member is None:
            return MoveResult(MoveOutcome.FAILED, "unreachable")
        self._aimed[relay] = member
        return member

    def _report(self, relay: SessionRelay, result: MoveResult) -> None:
        aimed = self._aimed.pop(relay, None)
        if result.outcome is MoveOutcome.FAILED:
            if result.reason == BUSY:
                self._again.append(relay)
                return
            if aimed is not None or relay not in self.tried:
                self.failures[result.reason] += 1
            if aimed is not None and self._tries_others and not self._is_stopped:
                # At most as often as there are members: who was tried is not chosen again.
                self.tried.setdefault(relay, []).append(aimed)
                self._mover.add([relay])
                return
            self.failed.add(relay)
        elif result.outcome is MoveOutcome.PINNED:
            self.pinned.add(relay)
        elif self._trails(relay):
            self.trailing.add(relay)
        self._told(relay, AFTER_MOVE[result.outcome])
