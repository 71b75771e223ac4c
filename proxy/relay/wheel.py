"""Many things to look at once in a period, on one timer.

Owns the timer that heartbeats of streams and checks of sessions share, instead of one each. Knows nothing of what it
calls. Invariant: whoever joined is called once a period, first after one, give or take a sixteenth of it.
"""

from typing import Protocol

from proxy.clock import Clock, run_all

_SLOTS = 16


class Beating(Protocol):
    """Whoever is looked at once in a period."""

    def beat(self) -> None:
        """A period is over."""


class Wheel:
    """Calls its members once a period, spread over sixteen slots."""

    def __init__(self, clock: Clock, period_seconds: float) -> None:
        self._clock = clock
        self._step = period_seconds / _SLOTS
        self._slots: list[set[Beating]] = [set() for _ in range(_SLOTS)]
        self._at = 0
        self._is_running = False
        self._is_closed = False

    def add(self, beating: Beating) -> int:
        """Join; returns the slot to leave by."""
        slot = self._at
        self._slots[slot].add(beating)
        if not self._is_running and not self._is_closed:
            self._is_running = True
            self._clock.call_later(self._step, self._turn)
        return slot

    def discard(self, beating: Beating, slot: int) -> None:
        """Leave."""
        self._slots[slot].discard(beating)

    def close(self) -> None:
        """Stop the wheel."""
        self._is_closed = True

    def _turn(self) -> None:
        self._is_running = False
        if self._is_closed:
            return
        self._at = (self._at + 1) % _SLOTS
        members = tuple(self._slots[self._at])
        # First the next turn: a member that raises must not stop the wheel, nor keep the others from their beat.
        if any(self._slots):
            self._is_running = True
            self._clock.call_later(self._step, self._turn)
        run_all(beating.beat for beating in members)
