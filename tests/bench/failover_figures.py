"""From what clients were given to figures: blackouts, calls lost and doubled, latencies, sessions per upstream.

Pure functions; knows no process and no socket. Instants are seconds of one clock. A percentile is the nearest rank, so
that it is a value that was measured. Which figure is to be reached is one line of GOALS.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from failover_load import Heard, Told

OLD: Final = "a"
NEW: Final = "b"
UNKNOWN: Final = "unknown"
"""What the proxy says of a call that may have run and must not be sent again."""
EXPECTED: Final = ((OLD, 0), (OLD, 1), (NEW, 0), (NEW, 1))
"""The events of a stream: one of each upstream when it opens, one more of each before and after the change."""
BIN_SECONDS: Final = 0.05
"""Width of a bin of the timeline."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest rank: the least value that `percent` of a hundred values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread_ms(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum in milliseconds; nothing without values."""
    if not seconds:
        return {}
    return {f"{name}_p{percent}_ms": percentile(seconds, percent) * 1000 for percent in (50, 99)} | {
        f"{name}_max_ms": max(seconds) * 1000
    }


# -- what must not happen


def events_missed(heard: Iterable[Sequence[Heard]]) -> dict[str, float]:
    """Count the events of standalone streams that did not come, and those that came again."""
    lost = doubled = 0
    for one in heard:
        came = Counter((event.upstream, event.number) for event in one)
        lost += sum(not came[expected] for expected in EXPECTED)
        doubled += sum(number - 1 for number in came.values())
    return {"events_lost": lost, "events_doubled": doubled}


def calls_missed(
    calls: Iterable[Told], right: Sequence[str], ran: Sequence[Mapping[int, int]], *, may_repeat: bool = False
) -> dict[str, float]:
    """Count calls that have no end (lost), a second one or a second run (doubled), or a wrong one (failed).

    Args:
        calls: their ends.
        right: outcomes that are right: names of upstreams, or `unknown`.
        ran: how often each mark was run, by upstream.
        may_repeat: whether each upstream may have run them once; else they may have run once in all.
    """
    lost = doubled = failed = 0
    for call in calls:
        lost += call.answers == 0
        failed += call.answers > 0 and call.outcome not in right
        runs = [each.get(call.mark, 0) for each in ran]
        doubled += max(0, call.answers - 1, (max(runs) if may_repeat else sum(runs)) - 1)
    return {"lost": lost, "doubled": doubled, "failed": failed}


# -- the CPU


class Cpu(NamedTuple):
    """What a process had used of its CPU at an instant, in seconds."""

    at: float
    ran: float
    waited: float
    """While it could have run and others did."""


def used(name: str, seen: Sequence[Cpu], start: float, end: float) -> dict[str, float]:
    """Return how long a process ran and how long it waited for its CPU between two instants, in milliseconds."""
    first = max((one for one in seen if one.at <= start), default=seen[0])
    last = min((one for one in seen if one.at >= end), default=seen[-1])
    return {
        f"{name}_cpu_ms": (last.ran - first.ran) * 1000,
        f"{name}_waited_ms": (last.waited - first.waited) * 1000,
    }


# -- blackout


def blackouts(heard: Iterable[Sequence[Heard]]) -> list[float]:
    """Return, for each stream, the seconds from the last byte of the old upstream to the first of the new one."""
    return [first_of(one, NEW) - last_of(one, OLD) for one in heard]


def first_of(heard: Sequence[Heard], upstream: str) -> float:
    """Return when an upstream's first event came; ValueError when none did."""
    return min(event.at for event in heard if event.upstream == upstream)


def last_of(heard: Sequence[Heard], upstream: str) -> float:
    """Return when an upstream's last event came; ValueError when none did."""
    return max(event.at for event in heard if event.upstream == upstream)


@dataclass(frozen=True, slots=True)
class Failover:
    """What one failover has shown."""

    killed_at: float
    ejected_at: float
    heard: Sequence[Sequence[Heard]]
    """Of each stream; those with a call in flight come first."""
    held: Sequence[Told]
    """The calls in flight, in the order of their streams."""
    is_safe: bool
    """Whether they may be sent again."""
    steady: Sequence[Told]
    ran: Sequence[Mapping[int, int]]
    """How often each mark was run, by upstream."""
    cpu: Sequence[Cpu]

    def figures(self) -> dict[str, float]:
        """Return every figure."""
        others = self.heard[len(self.held) :]
        found: dict[str, float] = {"detection_ms": (self.ejected_at - self.killed_at) * 1000}
        if self.is_safe:
            waits = [call.at - last_of(one, OLD) for call, one in zip(self.held, self.heard, strict=False)]
            found |= spread_ms("blackout", waits)
            found |= spread_ms("beyond", [call.at - self.ejected_at for call in self.held])
            found |= used("beyond", self.cpu, self.ejected_at, max(call.at for call in self.held))
        else:
            found |= spread_ms("told", [call.at - self.killed_at for call in self.held])
            others = self.heard
        found |= spread_ms("others", blackouts(others))
        found |= calls_missed(self.held, [NEW if self.is_safe else UNKNOWN], self.ran, may_repeat=self.is_safe)
        found |= events_missed(self.heard)
        ended_at = max(first_of(one, NEW) for one in self.heard)
        return found | steady_figures(self.steady, self.killed_at, ended_at, self.ran)


def steady_figures(
    calls: Sequence[Told], started_at: float, ended_at: float, ran: Sequence[Mapping[int, int]]
) -> dict[str, float]:
    """Return how the calls at the steady rate fared before, during and after a change."""
    missed = calls_missed(calls, [OLD, NEW], ran)
    found: dict[str, float] = {"steady_calls": len(calls), "steady_failed": missed["lost"] + missed["failed"]}
    found["steady_doubled"] = missed["doubled"]
    parts = {
        "before": [call for call in calls if call.began_at < started_at],
        "during": [call for call in calls if started_at <= call.began_at <= ended_at],
        "after": [call for call in calls if call.began_at > ended_at],
    }
    for name, part in parts.items():
        found |= spread_ms(name, [call.at - call.began_at for call in part])
    return found


@dataclass(frozen=True, slots=True)
class Swap:
    """What one swap has shown."""

    asked_at: float
    done_at: float
    moved_at: Sequence[float]
    """When each session was moved."""
    sessions: int
    heard: Sequence[Sequence[Heard]]
    steady: Sequence[Told]
    ran: Sequence[Mapping[int, int]]
    counts: Mapping[str, int]
    """The job's own accounting."""
    cpu: Sequence[Cpu]

    def figures(self) -> dict[str, float]:
        """Return every figure."""
        found: dict[str, float] = {"duration_s": self.done_at - self.asked_at, "moved": self.counts["moved"]}
        found["moving_s"] = (max(self.moved_at) if self.moved_at else self.done_at) - self.asked_at
        found["not_moved"] = self.sessions - self.counts["moved"]
        found |= used("swap", self.cpu, self.asked_at, self.done_at)
        found |= events_missed(self.heard)
        return found | steady_figures(self.steady, self.asked_at, self.done_at, self.ran)


# -- over time


def places(records: Iterable[Mapping[str, Any]], offset: float) -> list[tuple[float, dict[str, int]]]:
    """Follow sessions through the proxy's log: after each change, how many lie on each upstream.

    A session that has lost its upstream session and has no other yet lies nowhere, which is the empty name.

    Args:
        records: lines of the log, with `at` in Unix time.
        offset: what to add to that.
    """
    lies: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    steps = []
    for record in records:
        session, name = record.get("session", ""), record["event"]
        if not session:
            continue
        if name in ("session_opened", "session_rebuilt", "session_failed_over", "session_moved"):
            place = record["upstream"]
        elif name == "upstream_lost":
            place = ""
        else:
            continue
        before = lies.get(session)
        if before != place:
            if before is not None:
                numbers[before] -= 1
            numbers[place] += 1
            lies[session] = place
            steps.append((record["at"] + offset, dict(numbers)))
    return steps


def sampled(
    steps: Sequence[tuple[float, Mapping[str, int]]], start: float, end: float, zero: float
) -> list[dict[str, float]]:
    """Read the numbers of `places` at the end of each bin; seconds count from `zero`."""
    rows, at = [], 0
    current: Mapping[str, int] = {}
    for number in range(1, math.ceil((end - start) / BIN_SECONDS) + 1):
        instant = start + number * BIN_SECONDS
        while at < len(steps) and steps[at][0] <= instant:
            current = steps[at][1]
            at += 1
        row = {"at": round(instant - zero, 3), "nowhere": float(current.get("", 0))}
        rows.append(row | {name: float(current.get(name, 0)) for name in (OLD, NEW)})
    return rows


def latencies(calls: Iterable[Told], zero: float) -> list[dict[str, float]]:
    """Gather calls by when they began; median and maximum of each bin in milliseconds, seconds count from `zero`."""
    bins: dict[int, list[float]] = {}
    for call in calls:
        bins.setdefault(math.floor((call.began_at - zero) / BIN_SECONDS), []).append((call.at - call.began_at) * 1000)
    return [
        {"at": round((number + 0.5) * BIN_SECONDS, 3), "p50": percentile(values, 50), "max": max(values)}
        for number, values in sorted(bins.items())
    ]


# -- over rounds


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to be reached, and whether in every round or in the median."""

    scenario: str
    measure: str
    at_most: float
    every_round: bool = False


FAILOVERS: Final = ("failover", "failover_unsafe", "failover_tuned")
SWAPS: Final = ("swap", "swap_quiet")
NEVER: Final = ("lost", "doubled", "failed", "steady_failed", "steady_doubled", "events_lost", "events_doubled")
"""What must not happen once."""
GOALS: Final = (
    Goal("failover", "beyond_p99_ms", 150.0),
    *(Goal(scenario, measure, 0, every_round=True) for scenario in FAILOVERS for measure in NEVER),
    *(Goal(scenario, "duration_s", 2.0) for scenario in SWAPS),
    *(Goal(scenario, measure, 0, every_round=True) for scenario in SWAPS for measure in ("not_moved", *NEVER[3:])),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One scenario in one round."""

    scenario: str
    round: int
    figures: Mapping[str, float]
    timeline: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one scenario over its rounds, and what became of its goal."""

    scenario: str
    measure: str
    median: float
    least: float
    greatest: float
    at_most: float | None
    is_met: bool | None


def summarise(samples: Sequence[Sample]) -> list[Row]:
    """Reduce samples to one row for each figure of each scenario, in the order in which they were taken."""
    goals = {(goal.scenario, goal.measure): goal for goal in GOALS}
    rows = []
    for scenario in dict.fromkeys(sample.scenario for sample in samples):
        mine = [sample.figures for sample in samples if sample.scenario == scenario]
        for measure in dict.fromkeys(name for figures in mine for name in figures):
            values = [figures[measure] for figures in mine if measure in figures]
            goal = goals.get((scenario, measure))
            middle, least, most = median(values), min(values), max(values)
            met = None if goal is None else (most if goal.every_round else middle) <= goal.at_most
            rows.append(Row(scenario, measure, middle, least, most, None if goal is None else goal.at_most, met))
    return rows


def broken(rows: Iterable[Row]) -> list[str]:
    """Name what happened although it must not: a failure of the run, unlike a figure that was missed."""
    return [
        f"{row.scenario}: {row.measure} is {row.greatest:g}"
        for row in rows
        if row.measure in (*NEVER, "not_moved") and row.is_met is False
    ]


def as_json(samples: Sequence[Sample], rows: Sequence[Row]) -> dict[str, Any]:
    """Return samples and rows as plain data."""
    return {"rows": [asdict(row) for row in rows], "samples": [asdict(sample) for sample in samples]}
