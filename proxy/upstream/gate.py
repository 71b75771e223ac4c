"""How many calls one upstream gets at once, and the queue of those that wait for room.

Owns the count of running calls, the queue and its bounds. Knows no call: it speaks to a `Waiter`. Invariants: no more
than `limit` calls run; who waits is told exactly one of admitted, turned away, sent elsewhere, unless it leaves; of
those whose session has room the first come goes first; nobody waits while it could go.
"""

from typing import Protocol

from proxy.clock import Clock, run_all
from proxy.config import Upstream
from proxy.wheel import Queue

QUEUE_FULL = "queue_full"
QUEUE_TIMEOUT = "queue_timeout"


class Waiter(Protocol):
    """A call that waits for room."""

    @property
    def can_enter(self) -> bool:
        """Whether its session has room for it here; while not, others pass it."""

    def admitted(self) -> None:
        """It may go, and is counted in `Gate.running`; its session's count is its own business."""

    def turned_away(self, reason: str) -> None:
        """It may not: `QUEUE_FULL` or `QUEUE_TIMEOUT`."""

    def sent_elsewhere(self) -> None:
        """Its upstream takes nothing more; it has left the queue and chooses again."""


class Gate:
    """Admission to one upstream."""

    __slots__ = (
        "_clock", "_deadlines", "_is_admitting", "_queue_limit", "_waiting",
        "is_busy", "limit", "running", "session_limit",
    )  # fmt: skip

    def __init__(self, config: Upstream, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[Waiter, _Place] = {}
        self._is_admitting = False
        self.running = 0
        """Calls that run: raised by whoever enters without waiting, lowered by `leave`."""
        self.is_busy = False
        """Whether anybody waits: then nobody enters past the queue."""
        self._set_limits(config)

    def __len__(self) -> int:
        """Count those who wait."""
        return len(self._waiting)

    def configure(self, config: Upstream) -> None:
        """Take other limits; who waits already keeps the time it was given."""
        self._set_limits(config)
        self._admit()

    def wait(self, waiter: Waiter) -> None:
        """Wait for room.

        From inside this call *waiter* is told that it is admitted where there is room (only others' sessions have
        none), and that it is turned away where the queue is full.
        """
        # First those before it: a session may have moved since, and have room.
        self._admit()
        # From inside an admission it waits behind those who are admitted next.
        if not self._is_admitting and self.running < self.limit and waiter.can_enter:
            self.running += 1
            waiter.admitted()
            return
        if len(self._waiting) >= self._queue_limit:
            waiter.turned_away(QUEUE_FULL)
            return
        place = _Place(self, waiter, self._deadlines)
        self._waiting[waiter] = place
        self._deadlines.add(place)
        self.is_busy = True

    def leave(self) -> None:
        """End a running call, and let in who waits."""
        self.running -= 1
        if self.is_busy:
            self._admit()

    def leave_queue(self, waiter: Waiter) -> None:
        """Wait no longer; harmless for one that does not."""
        place = self._waiting.pop(waiter, None)
        if place is not None:
            place.deadlines.discard(place)
            self.is_busy = bool(self._waiting)

    def release_all(self) -> None:
        """Send everybody who waits elsewhere."""
        waiting, self._waiting = self._waiting, {}
        self.is_busy = False
        for place in waiting.values():
            place.deadlines.discard(place)
        run_all(waiter.sent_elsewhere for waiter in waiting)

    def close(self) -> None:
        """Forget who waits."""
        for waiter in tuple(self._waiting):
            self.leave_queue(waiter)

    def _set_limits(self, config: Upstream) -> None:
        self.limit = min(config.max_calls, config.max_connections)
        """Calls at once."""
        self.session_limit = config.max_session_calls
        """Calls at once of one session."""
        self._queue_limit = config.queue_limit
        self._deadlines = Queue(self._clock, config.queue_timeout_seconds)

    def _admit(self) -> None:
        if self._is_admitting:
            # Who is admitted may end at once, and so may each after it: one call inside the other for all of a long
            # queue would use up the stack.
            return
        self._is_admitting = True
        try:
            # From the front each time: who is admitted may end at once, or begin another call, before it returns.
            while self._waiting and self.running < self.limit:
                waiter = next((waiter for waiter in self._waiting if waiter.can_enter), None)
                if waiter is None:
                    return
                self.leave_queue(waiter)
                self.running += 1
                waiter.admitted()
        finally:
            self._is_admitting = False


class _Place:
    """One place in the queue. Fulfils `wheel.Due`."""

    __slots__ = ("_gate", "_waiter", "deadlines")

    def __init__(self, gate: Gate, waiter: Waiter, deadlines: Queue) -> None:
        self._gate = gate
        self._waiter = waiter
        self.deadlines = deadlines

    def due(self) -> None:
        """Its time is over."""
        self._gate.leave_queue(self._waiter)
        self._waiter.turned_away(QUEUE_TIMEOUT)
