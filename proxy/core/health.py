"""Whether one upstream can be relied on: a circuit breaker with hysteresis, as a table.

Owns the counts of what went well and ill, the back-off, and the trials of a breaker that is half open. Knows no pool,
no probe and no clock: instants are arguments. Laws: every change of state is a row of `HEALTH`, which has a row for
every pair; one failure alone ejects nobody, and neither do many within `eject_after_seconds`, as a restart in place
looks like that; whoever was ejected again soon after it came back stays away twice as long.
"""

from collections.abc import Mapping
from enum import Enum

import msgspec
from mypy_extensions import mypyc_attr


class HealthState(Enum):
    """CLOSED: in use; OPEN: ejected; HALF_OPEN: ejected, but some sessions may try it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Signal(Enum):
    """What can be learnt about an upstream."""

    ANSWERED = "answered"
    """A request was answered by it, with whatever but a gateway's error."""
    SERVED = "served"
    """The same, of one that is used whatever its state, as nobody better is there."""
    REFUSED = "refused"
    """A connection was refused or not had."""
    TIMED_OUT = "timed_out"
    """It took a request and said nothing in time."""
    FAILED = "failed"
    """It answered 5xx."""
    PROBE_OK = "probe_ok"
    PROBE_FAILED = "probe_failed"
    REACHED = "reached"
    """A connection was made after some were refused, without a request."""
    TRIED = "tried"
    """A session was sent there."""
    DUE = "due"
    """Time has passed; see `Health.due_at`."""


class Count(Enum):
    """What is counted in a row, and when it is enough to change the state."""

    SILENCE = "silence"
    """Connections refused and requests not answered; an answer ends the row."""
    ERRORS = "errors"
    """Answers of 5xx; any other answer ends the row. A probe does not: clients see these, and it does not."""
    PROBES = "probes"
    """Probes that failed; only one that succeeds ends the row."""
    SUCCESSES = "successes"
    """Probes that succeeded while it is ejected; enough only when the back-off is over, too."""
    BACKOFF = "backoff"
    """Counts nothing: enough when the back-off is over."""
    TRIALS = "trials"
    """Sessions that try it; one is enough."""


@mypyc_attr(native_class=False)
class Row(msgspec.Struct, frozen=True):
    """One transition."""

    state: HealthState
    """The state after it, if `when` is fulfilled."""
    when: Count | tuple[Count, ...] = ()
    """Any of these must be enough, otherwise the state stays; none: at once."""
    adds: Count | None = None
    clears: tuple[Count, ...] = ()


_H, _S, _C = HealthState, Signal, Count
_FAILURES = (_C.SILENCE, _C.ERRORS, _C.PROBES)

HEALTH: Mapping[tuple[HealthState, Signal], Row] = {
    (_H.CLOSED, _S.ANSWERED): Row(_H.CLOSED, clears=(_C.SILENCE, _C.ERRORS)),
    (_H.CLOSED, _S.SERVED): Row(_H.CLOSED, clears=(_C.SILENCE, _C.ERRORS)),
    (_H.CLOSED, _S.REFUSED): Row(_H.OPEN, _C.SILENCE, adds=_C.SILENCE),
    (_H.CLOSED, _S.TIMED_OUT): Row(_H.OPEN, _C.SILENCE, adds=_C.SILENCE),
    (_H.CLOSED, _S.FAILED): Row(_H.OPEN, _C.ERRORS, adds=_C.ERRORS),
    (_H.CLOSED, _S.PROBE_OK): Row(_H.CLOSED, clears=(_C.SILENCE, _C.PROBES)),
    (_H.CLOSED, _S.PROBE_FAILED): Row(_H.OPEN, _C.PROBES, adds=_C.PROBES),
    # Who accepts connections may still answer nothing.
    (_H.CLOSED, _S.REACHED): Row(_H.CLOSED),
    (_H.CLOSED, _S.TRIED): Row(_H.CLOSED),
    (_H.CLOSED, _S.DUE): Row(_H.OPEN, _FAILURES),
    # An answer that was under way says nothing of the next: a server that stops finishes its calls.
    (_H.OPEN, _S.ANSWERED): Row(_H.OPEN),
    (_H.OPEN, _S.SERVED): Row(_H.CLOSED),
    (_H.OPEN, _S.REFUSED): Row(_H.OPEN, clears=(_C.SUCCESSES,)),
    (_H.OPEN, _S.TIMED_OUT): Row(_H.OPEN, clears=(_C.SUCCESSES,)),
    (_H.OPEN, _S.FAILED): Row(_H.OPEN, clears=(_C.SUCCESSES,)),
    (_H.OPEN, _S.PROBE_OK): Row(_H.CLOSED, _C.SUCCESSES, adds=_C.SUCCESSES),
    (_H.OPEN, _S.PROBE_FAILED): Row(_H.OPEN, clears=(_C.SUCCESSES,)),
    (_H.OPEN, _S.REACHED): Row(_H.HALF_OPEN),
    (_H.OPEN, _S.TRIED): Row(_H.OPEN),
    (_H.OPEN, _S.DUE): Row(_H.HALF_OPEN, _C.BACKOFF),
    (_H.HALF_OPEN, _S.ANSWERED): Row(_H.CLOSED, _C.TRIALS),
    (_H.HALF_OPEN, _S.SERVED): Row(_H.CLOSED),
    (_H.HALF_OPEN, _S.REFUSED): Row(_H.OPEN),
    (_H.HALF_OPEN, _S.TIMED_OUT): Row(_H.OPEN),
    (_H.HALF_OPEN, _S.FAILED): Row(_H.OPEN),
    (_H.HALF_OPEN, _S.PROBE_OK): Row(_H.CLOSED, _C.SUCCESSES, adds=_C.SUCCESSES),
    (_H.HALF_OPEN, _S.PROBE_FAILED): Row(_H.OPEN),
    (_H.HALF_OPEN, _S.REACHED): Row(_H.HALF_OPEN),
    (_H.HALF_OPEN, _S.TRIED): Row(_H.HALF_OPEN, adds=_C.TRIALS),
    (_H.HALF_OPEN, _S.DUE): Row(_H.HALF_OPEN),
}

REASONS: Mapping[Signal, str] = {
    Signal.REFUSED: "unreachable",
    Signal.TIMED_OUT: "silent",
    Signal.FAILED: "errors",
    Signal.PROBE_FAILED: "probe_failed",
}
"""Why one is not well, by the last signal that said so."""


@mypyc_attr(native_class=False)
class Limits(msgspec.Struct, frozen=True):
    """How much is enough."""

    fall: int
    """Refusals and silences in a row, or failed probes in a row, from 1."""
    rise: int
    """Probes that succeed in a row, from 1."""
    errors: int
    """Answers of 5xx in a row, from 1."""
    eject_after_seconds: float
    """Age of the first failure of such a row, seconds, from 0."""
    backoff_min_seconds: float
    backoff_max_seconds: float
    """Longest back-off, and how long it must have been well for the next one to be short again, seconds."""
    trials: int
    """Sessions that may try it at once while it is half open, from 1."""
    trial_seconds: float
    """How long one without a word keeps the next from trying, seconds."""


class Health:
    """The breaker of one upstream."""

    __slots__ = (
        "_backoff",
        "_limits",
        "_needs",
        "_numbers",
        "_since",
        "_trials",
        "_well_since",
        "reason",
        "retry_at",
        "since",
        "state",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._needs = {
            Count.SILENCE: limits.fall,
            Count.ERRORS: limits.errors,
            Count.PROBES: limits.fall,
            Count.SUCCESSES: limits.rise,
            Count.TRIALS: 1,
        }
        self._numbers = dict.fromkeys(self._needs, 0)
        self._since: dict[Count, float] = {}
        self._trials: list[float] = []
        self._backoff = 0.0
        self._well_since: float | None = None
        self.state = HealthState.CLOSED
        self.since = now
        """Instant of the last change of state."""
        self.reason = ""
        """Why it is not well; empty when it is."""
        self.retry_at = now
        """Instant until which it stays ejected, if it is."""

    @property
    def is_failing(self) -> bool:
        """Tell whether an answer would change anything: it is ejected, or failures of requests are counted."""
        numbers = self._numbers
        return self.state is not HealthState.CLOSED or bool(numbers[Count.SILENCE] or numbers[Count.ERRORS])

    @property
    def failures(self) -> int:
        """Count the failures in a row, of the kind that has most."""
        return max(self._numbers[count] for count in _FAILURES)

    def free_trials(self, now: float) -> int:
        """Return how many sessions may try it now; 0 unless it is half open."""
        if self.state is not HealthState.HALF_OPEN:
            return 0
        return max(0, self._limits.trials - sum(until > now for until in self._trials))

    def receive(self, signal: Signal, now: float) -> HealthState:
        """Move by the table; return the state before."""
        before = self.state
        row = HEALTH[before, signal]
        self._trials = [until for until in self._trials if until > now]
        for count in row.clears:
            self._numbers[count] = 0
        if row.adds is not None:
            self._numbers[row.adds] += 1
            if self._numbers[row.adds] == 1:
                self._since[row.adds] = now
            if row.adds is Count.TRIALS:
                self._trials.append(now + self._limits.trial_seconds)
        if signal in REASONS:
            self.reason = REASONS[signal]
        elif before is HealthState.CLOSED and not self.failures:
            self.reason = ""
        if row.state is not before and self._is_fulfilled(row.when, now):
            self._enter(row.state, now)
        return before

    def due_at(self) -> float | None:
        """Return the instant at which `Signal.DUE` may change something; None: only another signal can."""
        if self.state is HealthState.OPEN:
            return self.retry_at
        if self.state is HealthState.HALF_OPEN:
            return self._trials[0] if self._trials else None
        full = [self._since[count] for count in _FAILURES if self._numbers[count] >= self._needs[count]]
        return min(full) + self._limits.eject_after_seconds if full else None

    def _is_fulfilled(self, when: Count | tuple[Count, ...], now: float) -> bool:
        if isinstance(when, Count):
            return self._is_enough(when, now)
        return not when or any(self._is_enough(count, now) for count in when)

    def _is_enough(self, count: Count, now: float) -> bool:
        if count is Count.BACKOFF:
            return now >= self.retry_at
        if self._numbers[count] < self._needs[count]:
            return False
        if count is Count.SUCCESSES:
            return now >= self.retry_at
        return count is Count.TRIALS or now >= self._since[count] + self._limits.eject_after_seconds

    def _enter(self, state: HealthState, now: float) -> None:
        limits = self._limits
        if state is HealthState.OPEN:
            # Not back to the shortest before it was well for the longest: it would be tried as often as it fails.
            is_again = self.state is HealthState.HALF_OPEN or (
                self._well_since is not None and now - self._well_since < limits.backoff_max_seconds
            )
            longer = self._backoff * 2 if is_again else 0.0
            self._backoff = min(limits.backoff_max_seconds, max(limits.backoff_min_seconds, longer))
            self.retry_at = now + self._backoff
        elif state is HealthState.CLOSED:
            self._well_since = now
            self.reason = ""
        for count in self._numbers:
            self._numbers[count] = 0
        self._trials.clear()
        self.state = state
        self.since = now
