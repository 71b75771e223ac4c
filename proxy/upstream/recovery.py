"""Waiting for one upstream to come back: one reconnect loop, however many sessions wait.

Owns the back-off and the pace at which waiting sessions are let go. Knows no session and no request. Invariant: while
anybody waits exactly one attempt or one timer is pending.
"""

from collections import deque
from collections.abc import Callable

from proxy.clock import Clock, Timer
from proxy.config import Upstream
from proxy.observe.hooks import Observer, UpstreamLost, UpstreamRecovered
from proxy.upstream.base import Edge

_GROWTH = 1.6


class Recovery:
    """Lets waiters go once a connection to the upstream can be made."""

    def __init__(self, edge: Edge, config: Upstream, clock: Clock, observer: Observer) -> None:
        self._edge = edge
        self._config = config
        self._clock = clock
        self._observer = observer
        self._live: deque[Callable[[], None]] = deque()
        self._background: deque[Callable[[], None]] = deque()
        self._attempt = 0
        self._running = False
        self._down_since: float | None = None
        self._releasing: Timer | None = None
        self._closed = False

    def wait(self, ready: Callable[[], None], *, live: bool) -> None:
        """Call *ready* when the upstream answers connections; *live* waiters, with a request, go first."""
        (self._live if live else self._background).append(ready)
        if not self._running and self._releasing is None:
            self._running = True
            # Not at once: the refusal that brought the caller here is fresh.
            self._clock.call_later(self._delay(), self._try)

    def pace(self, ready: Callable[[], None], *, live: bool) -> None:
        """Call *ready* in its turn, without waiting for the upstream: for rebuilds that nobody refused yet."""
        if live:
            ready()
            return
        self._background.append(ready)
        if not self._running and self._releasing is None:
            self._release()

    def lost(self) -> None:
        """Note that the upstream refused a connection."""
        if self._down_since is None:
            self._down_since = self._clock.now()
            if self._observer.is_active:
                self._observer.upstream_lost(UpstreamLost(upstream=self._config.name, reason="refused"))

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
        self._closed = True
        self._live.clear()
        self._background.clear()

    def _delay(self) -> float:
        config = self._config
        base = min(config.reconnect_max_seconds, config.reconnect_min_seconds * _GROWTH**self._attempt)
        # Full steps would let several proxies knock in step.
        return base * (0.75 + 0.5 * self._clock.jitter())

    def _try(self) -> None:
        if self._closed:
            return
        self._edge.reach(self._tried)

    def _tried(self, reached: bool) -> None:
        if self._closed:
            return
        # Counted on success too: who accepts connections may still answer 503, and `alive` sets it back.
        self._attempt = min(self._attempt + 1, 20)
        if reached:
            self._running = False
            self._release()
        else:
            self._clock.call_later(self._delay(), self._try)

    def _release(self) -> None:
        self._releasing = None
        # A waiter that waits again meanwhile belongs to the next attempt.
        live, self._live = self._live, deque()
        for ready in live:
            ready()
        if self._background:
            self._background.popleft()()
            if self._background:
                self._releasing = self._clock.call_later(1.0 / self._config.rebuilds_per_second, self._release)
