"""One upstream of a pool at run time: its edge, its health, its reconnect loop and its gate, under one name.

Owns how what is seen of an upstream becomes signals of its breaker, and the one timer of that. Knows no session and no
other member; whom it tells of changes is the pool. Invariant: an answer costs one look at `is_ailing` while all is
well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from proxy.core.health import Health, HealthState, Limits, Signal
from proxy.upstream.gate import Gate
from proxy.upstream.recovery import Recovery

if TYPE_CHECKING:
    from proxy import config
    from proxy.clock import Clock, Timer
    from proxy.core.retry import Tools
    from proxy.observe.hooks import Observer
    from proxy.upstream.base import Edge

PLACING_SECONDS = 5.0
"""How long a session that was placed counts although it is not there yet."""


class MemberState(Enum):
    """ACTIVE: gets sessions; DRAINING: gets none and loses those it has; REMOVED: of the pool no longer."""

    ACTIVE = "active"
    DRAINING = "draining"
    REMOVED = "removed"


class Member:
    """One upstream."""

    __slots__ = (
        "_clock",
        "_placed",
        "_sessions",
        "_timer",
        "changed",
        "config",
        "edge",
        "finished",
        "gate",
        "health",
        "is_ailing",
        "is_alone",
        "is_curious",
        "is_last_resort",
        "is_probed",
        "key",
        "name",
        "recovery",
        "state",
        "tools",
        "unknown",
    )

    def __init__(
        self,
        config: config.Upstream,
        key: str,
        edge: Edge,
        clock: Clock,
        observer: Observer,
        health: config.Health,
    ) -> None:
        self.name = config.name
        self.key = key
        """Unique for the life of the process: the name, or another where one of that name was there before."""
        self.config = config
        self.edge = edge
        self.recovery = Recovery(edge, config, clock, observer, self._attempted)
        self.gate = Gate(config, clock)
        self.health = Health(limits(health), clock.now())
        self.state = MemberState.ACTIVE
        self.tools: Tools | None = None
        """What it has said of its tools; None until it has."""
        self.is_curious = True
        """Whether a call of a tool that runs for long should lead to a question: nothing is known, nothing asked."""
        self.finished = 0
        """Calls that ended here with an answer, whatever it said."""
        self.unknown = 0
        """Calls that ended here with "outcome unknown"."""
        self.is_ailing = False
        """Whether an answer would be news: then whoever sees one calls `answered`."""
        self.is_alone = True
        """Whether there is no other: then time alone changes nothing."""
        self.is_last_resort = True
        """Whether it is used whatever its health: there is no other, or too few are well."""
        self.is_probed = False
        """Whether probes readmit it; sessions need not try it then."""
        self.changed: Callable[[Member, HealthState], None] | None = None
        """Told after each change of its health, with the state before."""
        self._clock = clock
        self._sessions = 0
        self._placed: deque[float] = deque()
        self._timer: Timer | None = None

    # -- what is seen of it

    def refused(self, detail: str = "") -> None:
        """Note that a connection was refused or not had."""
        self.recovery.lost()
        self._signal(Signal.REFUSED)

    def timed_out(self) -> None:
        """Note that it took a request or a ping and said nothing in time."""
        self._signal(Signal.TIMED_OUT)

    def failed(self) -> None:
        """Note that it answered 5xx."""
        self._signal(Signal.FAILED)

    def answered(self) -> None:
        """Note that it answered a request: failures of its requests are no longer in a row."""
        self.recovery.alive()
        if self.is_ailing:
            self._signal(Signal.SERVED if self.is_last_resort else Signal.ANSWERED)

    def probed(self, is_well: bool) -> None:
        """Note the outcome of a probe."""
        self._signal(Signal.PROBE_OK if is_well else Signal.PROBE_FAILED)
        if is_well and self.health.state is HealthState.CLOSED:
            self.recovery.alive()

    def tried(self) -> None:
        """Note that a session was sent there although it is ejected."""
        self._signal(Signal.TRIED)

    # -- what is known of it

    @property
    def is_available(self) -> bool:
        """Whether it gets sessions like any other."""
        return self.state is MemberState.ACTIVE and self.health.state is HealthState.CLOSED

    @property
    def can_be_tried(self) -> bool:
        """Whether it is ejected and one more session may try it now."""
        return self.state is MemberState.ACTIVE and self.health.free_trials(self._clock.now()) > 0

    @property
    def condition(self) -> str:
        """Its health in a word: healthy, failing, ejected, half_open."""
        if self.health.state is HealthState.CLOSED:
            return "failing" if self.health.failures else "healthy"
        return "ejected" if self.health.state is HealthState.OPEN else "half_open"

    # -- its sessions

    @property
    def sessions(self) -> int:
        """Live sessions whose present binding belongs here."""
        return self._sessions

    @sessions.setter
    def sessions(self, number: int) -> None:
        if number > self._sessions and self._placed:
            # One of those that were on their way has come.
            self._placed.popleft()
        self._sessions = number

    @property
    def load(self) -> int:
        """Its sessions, and those that were placed here and are on their way."""
        if self._placed:
            earliest = self._clock.now() - PLACING_SECONDS
            while self._placed and self._placed[0] <= earliest:
                self._placed.popleft()
        return self._sessions + len(self._placed)

    def place(self) -> None:
        """Count a session that is on its way here: else all that open at once would go to the same place."""
        self._placed.append(self._clock.now())

    # -- its tools

    def learn(self, tools: Tools) -> None:
        """Note what it says of its tools."""
        self.tools = tools
        self.is_curious = False

    def doubt_tools(self) -> None:
        """Want to know anew: it may be another version now. Calls that run were begun under the old word."""
        self.is_curious = True

    def forget_tools(self) -> None:
        """Take nothing of it for granted any more: it has said that its tools changed."""
        self.tools = None
        self.is_curious = True

    # -- life

    def reconfigure(self, config: config.Upstream) -> None:
        """Take another weight, other labels and other limits of calls; nothing else may differ."""
        self.config = config
        self.gate.configure(config)

    def take_role(self, *, is_alone: bool, is_last_resort: bool, is_probed: bool) -> None:
        """Learn what it is in its pool."""
        self.is_last_resort = is_last_resort
        if (is_alone, is_probed) != (self.is_alone, self.is_probed):
            self.is_alone = is_alone
            self.is_probed = is_probed
            self.rearm()

    def rearm(self) -> None:
        """Look again when time alone will change its health."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_alone or self.state is MemberState.REMOVED:
            return
        if self.is_probed and self.health.state is HealthState.OPEN:
            # The probes say when it is back.
            return
        due_at = self.health.due_at()
        if due_at is not None:
            self._timer = self._clock.call_later(max(0.0, due_at - self._clock.now()), self._due)

    def stop(self) -> None:
        """Forget who waits; the edge is closed by `close`."""
        self.changed = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.recovery.close()
        self.gate.close()

    async def close(self) -> None:
        """Stop, and cut its connections."""
        self.stop()
        await self.edge.close()

    def _attempted(self, reached: bool) -> None:
        if not reached:
            self._signal(Signal.REFUSED)
        elif self.is_last_resort or not self.is_probed:
            self._signal(Signal.REACHED)

    def _due(self) -> None:
        self._timer = None
        self._signal(Signal.DUE)

    def _signal(self, signal: Signal) -> None:
        before = self.health.receive(signal, self._clock.now())
        self.is_ailing = self.health.is_failing
        self.rearm()
        if self.changed is not None:
            self.changed(self, before)


def limits(health: config.Health) -> Limits:
    """Return the limits of a breaker as configured."""
    return Limits(
        fall=health.fall,
        rise=health.rise,
        errors=health.errors,
        eject_after_seconds=health.eject_after_seconds,
        backoff_min_seconds=health.backoff_min_seconds,
        backoff_max_seconds=health.backoff_max_seconds,
        trials=health.half_open_trials,
        trial_seconds=health.timeout_seconds,
    )
