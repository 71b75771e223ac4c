"""A bounded wait for the upstream, the same for everything that may have to wait for it.

Owns the end of the wait, its timer and the place in the queue of an outage. Knows nothing of what waits. Invariant:
all waits of one request share one end, and after `end` nothing of it is held anywhere.
"""

from collections.abc import Callable

from proxy.clock import Clock, Timer
from proxy.upstream.recovery import Recovery, Ticket


class Patience:
    """One request's patience."""

    __slots__ = ("_clock", "_exhausted", "_seconds", "_ticket", "_timer", "_until")

    def __init__(self, clock: Clock, seconds: float, exhausted: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._exhausted: Callable[[], None] = exhausted
        self._until: float | None = None
        self._timer: Timer | None = None
        self._ticket: Ticket | None = None

    def begin(self) -> None:
        """Start to wait, or go on: the first wait set the end."""
        now = self._clock.now()
        if self._until is None:
            self._until = now + self._seconds
        if self._timer is None:
            self._timer = self._clock.call_later(max(0.0, self._until - now), self._over)

    def until_reachable(self, recovery: Recovery, ready: Callable[[], None]) -> None:
        """Wait, and call *ready* when the upstream answers connections or another one is to be chosen."""
        self.begin()
        self._ticket = recovery.wait(ready, live=True)

    def end(self) -> None:
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticket is not None:
            # The queue of an outage would keep the request and its body.
            self._ticket.cancel()
            self._ticket = None

    def _over(self) -> None:
        self.end()
        self._exhausted()
