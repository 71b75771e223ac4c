"""Waiting for one upstream to come back: one reconnect loop, however many sessions wait.

Owns the back-off and the pace at which waiting sessions are let go. Knows no session, no request and no other upstream.
Invariants: while anybody waits for the upstream exactly one attempt or one timer is pending; whoever waits again after
being let go belongs to the next attempt.
"""

from collections import deque
from collections.abc import Callable

from proxy.clock import Clock, Timer
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
    """Lets waiters go once a connection to the upstream can be made, or once they need not wait for it."""

    def __init__(
        self,
        edge: Edge,
        config: Upstream,
        clock: Clock,
        observer: Observer,
        attempted: Callable[[bool], None] | None = None,
    ) -> None:
        self._edge = edge
        self._config = config
        self._clock = clock
        self._observer = observer
        self._attempted = attempted
        """Told how each attempt went, before anybody is let go."""
        self._waiting: list[Ticket] = []
        self._paced: deque[Ticket] = deque()
        self._going: deque[Ticket] = deque()
        """Live ones that need not wait any more."""
        self._is_going = False
        self._attempt = 0
        self._is_trying = False
        self._is_watched = False
        self._is_bypassed = False
        self._timer: Timer | None = None
        self._is_pacing = False
        self._is_closed = False
        self._down_since: float | None = None

    @property
    def is_down(self) -> bool:
        """Tell whether it refused a connection and has answered nothing since."""
        return self._down_since is not None

    @property
    def is_busy(self) -> bool:
        """Tell whether anybody waits to be let go."""
        return any(ticket.ready is not None for ticket in (*self._waiting, *self._paced, *self._going))

    # -- queues

    def wait(self, ready: Callable[[], None], *, live: bool) -> Ticket:
        """Call *ready* when the upstream answers connections; *live* waiters, with a request, go unpaced."""
        ticket = Ticket(ready, is_live=live)
        if self._is_closed:
            # It never comes back: whoever waits looks again whether there is another one now.
            self._clock.call_later(self._config.reconnect_max_seconds, ticket.call)
            return ticket
        # Whoever gave up leaves an empty ticket: without this an outage would gather one per request.
        if len(self._waiting) % 64 == 0:
            self._waiting = [kept for kept in self._waiting if kept.ready is not None]
        self._waiting.append(ticket)
        self._start_trying()
        return ticket

    def pace(self, ready: Callable[[], None]) -> Ticket:
        """Call *ready* in its turn, without asking the upstream: for work that no client waits for."""
        if self.is_down:
            # It would only be refused, and lose its place in the queue by it.
            return self.wait(ready, live=False)
        ticket = Ticket(ready, is_live=False)
        self._paced.append(ticket)
        self._start_pacing()
        return ticket

    def watch(self) -> None:
        """Try until a connection can be made, though nobody may wait here: waiters elsewhere want to know."""
        self._is_watched = True
        self._start_trying()

    def unwatch(self) -> None:
        """Try no longer than somebody waits."""
        self._is_watched = False
        if not any(ticket.ready is not None for ticket in self._waiting):
            self._stop_trying()

    def release(self, most: int | None = None) -> int:
        """Let the waiters go, or *most* of them, live ones first: they choose again where to go.

        The live ones go at once, one in a turn of the loop, the others at their pace. Returns how many went.
        """
        waiting = [ticket for ticket in self._waiting if ticket.ready is not None]
        waiting.sort(key=lambda ticket: not ticket.is_live)
        count = len(waiting) if most is None else min(most, len(waiting))
        going, self._waiting = waiting[:count], waiting[count:]
        if not self._waiting and not self._is_watched:
            self._stop_trying()
        self._let_go(going)
        return count

    def bypass(self, is_bypassed: bool) -> None:
        """Ask no longer, or again: while others can be had, who waits goes after the usual delay and chooses again."""
        self._is_bypassed = is_bypassed

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
        self._going.clear()

    # -- the loop

    def _delay(self) -> float:
        config = self._config
        base = min(config.reconnect_max_seconds, config.reconnect_min_seconds * _GROWTH**self._attempt)
        # Full steps would let several proxies knock in step.
        return base * (0.75 + 0.5 * self._clock.jitter())

    def _start_trying(self) -> None:
        if not self._is_trying:
            self._is_trying = True
            # Not at once: the refusal that brought the caller here is fresh.
            self._timer = self._clock.call_later(self._delay(), self._try)

    def _stop_trying(self) -> None:
        # An attempt under way goes on, and its outcome ends the loop.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._is_trying = False

    def _try(self) -> None:
        self._timer = None
        if self._is_closed:
            return
        if self._is_bypassed:
            self._is_trying = False
            self._attempt = min(self._attempt + 1, _MOST_ATTEMPTS)
            self.release()
        else:
            self._edge.reach(self._tried)

    def _tried(self, reached: bool) -> None:
        if self._is_closed:
            return
        # Counted on success too: who accepts connections may still answer 503, and `alive` sets it back.
        self._attempt = min(self._attempt + 1, _MOST_ATTEMPTS)
        try:
            if self._attempted is not None:
                # Whoever is told may let the waiters go elsewhere.
                self._attempted(reached)
        finally:
            self._is_trying = False
            if reached:
                self._is_watched = False
                waiting, self._waiting = self._waiting, []
                self._let_go(waiting)
            elif self._is_watched or any(ticket.ready is not None for ticket in self._waiting):
                self._start_trying()

    def _let_go(self, tickets: list[Ticket]) -> None:
        self._paced.extend(ticket for ticket in tickets if not ticket.is_live)
        self._start_pacing()
        self._going.extend(ticket for ticket in tickets if ticket.is_live)
        if self._going and not self._is_going:
            self._go()

    def _go(self) -> None:
        """Let a live one go; one in a turn of the loop, so that other clients' calls do not wait behind them all."""
        self._is_going = False
        while self._going and not self._is_going:
            ticket = self._going.popleft()
            if ticket.ready is not None:
                if self._going:
                    self._is_going = True
                    self._clock.call_later(0.0, self._go)
                ticket.call()

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
