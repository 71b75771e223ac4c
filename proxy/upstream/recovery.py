"""Waiting for one upstream to come back: one reconnect loop, however many sessions wait.

Owns the back-off and the pace at which waiting sessions are let go. Knows no session and no request. Invariants: while
anybody waits for the upstream exactly one attempt or one timer is pending; whoever waits again after being let go
belongs to the next attempt.
"""

from collections import deque
from collections.abc import Callable

from proxy.clock import Clock, run_all
from proxy.config import Upstream
from proxy.observe.hooks import Observer, UpstreamLost, UpstreamRecovered
from proxy.upstream.base import Edge

_GROWTH = 1.6
_MOST_ATTEMPTS = 20
"""Where counting stops: the delay is at its longest long before."""


class Ticket:
    """One place in a queue."""

    __slots__ = ("is_live", "ready")

    def __init__(self, ready: Callable[[], None], *, is_live: bool) -> None:
        self.ready: Callable[[], None] | None = ready
        self.is_live = is_live

    def cancel(self) -> None:
        """Give the place up; what it held can be freed."""
        self.ready = None

    def call(self) -> None:
        """Let the holder go, if anybody still holds the place."""
        ready, self.ready = self.ready, None
        if ready is not None:
            ready()


class Recovery:
    """Lets waiters go once a connection to the upstream can be made."""

    def __init__(self, edge: Edge, config: Upstream, clock: Clock, observer: Observer) -> None:
        self._edge = edge
        self._config = config
        self._clock = clock
        self._observer = observer
        self._waiting: list[Ticket] = []
        self._paced: deque[Ticket] = deque()
        self._attempt = 0
        self._is_trying = False
        self._is_pacing = False
        self._is_closed = False
        self._down_since: float | None = None

    # -- queues

    def wait(self, ready: Callable[[], None], *, live: bool) -> Ticket:
        """Call *ready* when the upstream answers connections; *live* waiters, with a request, go unpaced."""
        ticket = Ticket(ready, is_live=live)
        # Whoever gave up leaves an empty ticket: without this an outage would gather one per request.
        if len(self._waiting) % 64 == 0:
            self._waiting = [kept for kept in self._waiting if kept.ready is not None]
        self._waiting.append(ticket)
        if not self._is_trying:
            self._is_trying = True
            # Not at once: the refusal that brought the caller here is fresh.
            self._clock.call_later(self._delay(), self._try)
        return ticket

    def pace(self, ready: Callable[[], None]) -> Ticket:
        """Call *ready* in its turn, without asking the upstream: for work that no client waits for."""
        ticket = Ticket(ready, is_live=False)
        self._paced.append(ticket)
        self._start_pacing()
        return ticket

    # -- what is known of the upstream

    def lost(self) -> None:
        """Note that the upstream refused a connection."""
        if self._down_since is None:
            self._down_since = self._clock.now()
            if self._observer.is_active:
                self._observer.upstream_lost(UpstreamLost(upstream=self._config.name, reason="unreachable"))

    def alive(self) -> None:
        """Note that the upstream answered a request: the next outage starts with short waits again."""
        self._attempt = 0
        if self._down_since is not None:
            waited = self._clock.now() - self._down_since
            self._down_since = None
            if self._observer.is_active:
                self._observer.upstream_recovered(UpstreamRecovered(upstream=self._config.name, waited_seconds=waited))

    def close(self) -> None:
        """Forget the waiters."""
        self._is_closed = True
        self._waiting.clear()
        self._paced.clear()

    # -- the loop

    def _delay(self) -> float:
        config = self._config
        base = min(config.reconnect_max_seconds, config.reconnect_min_seconds * _GROWTH**self._attempt)
        # Full steps would let several proxies knock in step.
        return base * (0.75 + 0.5 * self._clock.jitter())

    def _try(self) -> None:
        if not self._is_closed:
            self._edge.reach(self._tried)

    def _tried(self, reached: bool) -> None:
        if self._is_closed:
            return
        # Counted on success too: who accepts connections may still answer 503, and `alive` sets it back.
        self._attempt = min(self._attempt + 1, _MOST_ATTEMPTS)
        if not reached:
            self._clock.call_later(self._delay(), self._try)
            return
        self._is_trying = False
        waiting, self._waiting = self._waiting, []
        self._paced.extend(ticket for ticket in waiting if not ticket.is_live)
        self._start_pacing()
        run_all(ticket.call for ticket in waiting if ticket.is_live)

    def _start_pacing(self) -> None:
        if self._paced and not self._is_pacing:
            self._is_pacing = True
            self._clock.call_later(0.0, self._pace)

    def _pace(self) -> None:
        while self._paced:
            ticket = self._paced.popleft()
            if ticket.ready is not None:
                self._clock.call_later(1.0 / self._config.rebuilds_per_second, self._pace)
                ticket.call()
                return
        self._is_pacing = False
