"""Sessions that are to be moved, a bounded number of them at once.

Owns the queue, and who is under way. Knows neither why they move nor where to nor what a report means: it asks and
tells whoever made it.
Invariants: of all movers together no more moves are under way than there are slots; each session that was added is
reported once, unless it was taken out before its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from proxy.relay.move import MoveResult

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

AT_ONCE = 200
"""Moves begun before the event loop gets its turn: those of idle sessions end at once, however many there are."""


class Slots:
    """How many moves may be under way at once, whoever they are for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """From 1; may change at any time."""
        self.taken = 0
        self._waiting: dict[Callable[[], None], None] = {}

    def take(self, waiter: Callable[[], None]) -> bool:
        """Take one; where there is none, *waiter* is called once one may be free."""
        if self.taken >= self.limit:
            self._waiting[waiter] = None
            return False
        self.taken += 1
        return True

    def give(self) -> None:
        """Give one back; who waits tries again, in the order of waiting."""
        self.taken -= 1
        # One who is called may need it no longer: then the next is.
        while self._waiting and self.taken < self.limit:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            waiter()


class Mover:
    """Moves sessions for one job, in one direction."""

    def __init__(
        self,
        clock: Clock,
        slots: Slots,
        choose: Callable[[SessionRelay], Member | MoveResult],
        report: Callable[[SessionRelay, MoveResult], None],
        drain_seconds: float,
    ) -> None:
        self._clock = clock
        self._slots = slots
        self._choose = choose
        self._report = report
        self._drain_seconds = drain_seconds
        self._queue: dict[SessionRelay, bool] = {}
        self._under_way: set[SessionRelay] = set()
        self._is_pumping = False
        self._is_turn_due = False
        self._pump = self._begin_moves
        """One object, by which the slots know it again."""

    def __contains__(self, relay: SessionRelay) -> bool:
        """Tell whether a session waits for its turn or is under way."""
        return relay in self._queue or relay in self._under_way

    @property
    def is_idle(self) -> bool:
        """Tell whether nobody waits and nobody is under way."""
        return not self._queue and not self._under_way

    @property
    def under_way(self) -> int:
        """Count the moves under way."""
        return len(self._under_way)

    def add(self, relays: Iterable[SessionRelay], *, is_forced: bool = False) -> None:
        """Move these, too; *is_forced*: although a task of theirs runs."""
        for relay in relays:
            if relay not in self._under_way:
                self._queue[relay] = is_forced
        self._begin_moves()

    def stop(self) -> list[SessionRelay]:
        """Begin no further move, and return who waited for theirs; those under way report as they end."""
        waiting, self._queue = list(self._queue), {}
        return waiting

    def _begin_moves(self) -> None:
        # Moves may end from inside `move`, and free the slot that another mover waits for, which frees ours.
        if self._is_pumping or self._is_turn_due:
            return
        self._is_pumping = True
        try:
            for _ in range(AT_ONCE):
                if not self._queue or not self._slots.take(self._pump):
                    return
                relay = next(iter(self._queue))
                self._begin(relay, is_forced=self._queue.pop(relay))
                if relay in self._under_way:
                    # One in a turn of the loop: as many as there are slots would take a step each in every turn, and
                    # clients' calls would wait behind them all.
                    break
            if self._queue and not self._is_turn_due:
                self._is_turn_due = True
                self._clock.call_later(0.0, self._turn)
        finally:
            self._is_pumping = False

    def _turn(self) -> None:
        self._is_turn_due = False
        self._begin_moves()

    def _begin(self, relay: SessionRelay, *, is_forced: bool) -> None:
        self._under_way.add(relay)
        done = partial(self._done, relay)
        chosen = self._choose(relay)
        if isinstance(chosen, MoveResult):
            done(chosen)
        else:
            relay.move(chosen, done, is_forced=is_forced, drain_seconds=self._drain_seconds)

    def _done(self, relay: SessionRelay, result: MoveResult) -> None:
        self._under_way.discard(relay)
        try:
            self._report(relay, result)
        finally:
            self._slots.give()
            self._begin_moves()
