"""Many things on one timer: `Wheel` for what is looked at once in a period, `Queue` for what is due after a delay.

Owns the timers that heartbeats, checks and deadlines share, instead of one each. Knows nothing of what it calls.
Invariants: whoever joined a wheel is called once a period, first after one, give or take a sixteenth of it; whoever
joined a queue and has not left it is called once, never before its delay and at most a sixteenth of it later.
"""

import math
from functools import partial
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


class Due(Protocol):
    """Whoever waits in a queue."""

    def due(self) -> None:
        """Its delay is over; it has left the queue."""


class Queue:
    """Calls its members once, the same delay after each of them joined.

    For what is nearly always over before its delay: to join and to leave is a dictionary's entry, where a timer of
    the event loop is an object, a place in a heap and a cancellation.
    """

    def __init__(self, clock: Clock, delay_seconds: float) -> None:
        self._clock = clock
        self._delay = delay_seconds
        self._step = delay_seconds / _SLOTS
        # In the order of joining, which is the order of the deadlines, as the delay is the same for all.
        self._deadlines: dict[Due, float] = {}
        self._is_running = False
        self._is_closed = False
        self._now = clock.now

    def add(self, member: Due) -> None:
        """Join; a member that is in already must leave first, to start anew."""
        self._deadlines[member] = self._now() + self._delay
        if not self._is_running and not self._is_closed:
            self._is_running = True
            self._clock.call_later(self._delay, self._turn)

    def discard(self, member: Due) -> None:
        """Leave."""
        self._deadlines.pop(member, None)

    def __contains__(self, member: Due) -> bool:
        """Tell whether it waits."""
        return member in self._deadlines

    def __len__(self) -> int:
        """Count the members."""
        return len(self._deadlines)

    def close(self) -> None:
        """Forget the members; nobody is called any more."""
        self._is_closed = True
        self._deadlines.clear()

    def _turn(self) -> None:
        self._is_running = False
        now = self._now()
        over: list[Due] = []
        for member, deadline in self._deadlines.items():
            if deadline > now:
                self._is_running = True
                # Not sooner than a step: members that leave and join all the time must not make a turn each.
                self._clock.call_later(max(self._step, deadline - now), self._turn)
                break
            over.append(member)
        run_all(partial(self._call, member, now) for member in over)

    def _call(self, member: Due, now: float) -> None:
        # Asked again: the one before may have ended it, or made it join anew.
        if self._deadlines.get(member, math.inf) <= now:
            del self._deadlines[member]
            member.due()
