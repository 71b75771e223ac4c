"""From samples to one table: medians of rounds, ratios to the baseline of the same round, figures to reach.

Pure functions over samples; knows no process and no socket. A ratio is taken inside a round, where both sides
saw the same machine, and only then is the median taken; its spread is the least and the greatest ratio of any
round. Which figure is to be reached, and beside whom, is one line of GOALS.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

BASELINE: Final = "nginx"
PRODUCT: Final = "proxy"


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender in one workload in one round."""

    workload: str
    contender: str
    round: int
    count: int
    seconds: float
    cpu_seconds: float
    bytes_per_session: float | None = None
    lost: int | None = None
    doubled: int | None = None

    @property
    def rate(self) -> float:
        """Units per second of wall time."""
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time per unit."""
        return self.cpu_seconds / self.count * 1e6

    @property
    def busy(self) -> float:
        """Share of one CPU used; well below 1 where the load or the stub was the wall, not the contender."""
        return self.cpu_seconds / self.seconds

    @property
    def kib_per_session(self) -> float | None:
        """Resident KiB that one session added."""
        return None if self.bytes_per_session is None else self.bytes_per_session / 1024


@dataclass(frozen=True, slots=True)
class Workload:
    """How a workload is named, and who stands `beside` the baseline and the product in it."""

    key: str
    title: str
    beside: tuple[str, ...] = ()


OTHERS: Final = ("haproxy", "envoy")
"""In the closed loops of one request each; in the others they would take minutes and show little."""

WORKLOADS: Final = (
    Workload("json", "JSON call", OTHERS),
    Workload("sse", "SSE call, 5 events", OTHERS),
    Workload("churn", "session, 4 requests"),
    Workload("big_json", "1 MiB JSON answer", OTHERS),
    Workload("big_event", "1 MiB event", OTHERS),
    Workload("fan_out", "event on {streams:,} streams"),
    Workload("fan_out_5k", "event on {more_streams:,} streams"),
    Workload("storm", "missed event, {clients:,} back"),
    Workload("sessions", "{sessions:,} sessions opened"),
)


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure the product is to reach: a measure of its samples, as a ratio to a baseline or (None) as it is."""

    workload: str
    measure: str
    baseline: str | None
    at_least: float | None = None
    at_most: float | None = None
    every_round: bool = False


GOALS: Final = (
    Goal("json", "rate", "nginx", at_least=0.50),
    Goal("json", "cpu_us", "nginx", at_most=2.0),
    Goal("sse", "rate", "nginx", at_least=0.65),
    Goal("sse", "cpu_us", "nginx", at_most=1.8),
    Goal("churn", "rate", "nginx", at_least=0.45),
    Goal("big_json", "rate", "haproxy", at_least=0.80),
    Goal("big_event", "rate", "haproxy", at_least=0.35),
    Goal("fan_out", "rate", "nginx", at_least=0.80),
    Goal("fan_out", "kib_per_session", None, at_most=8.0),
    Goal("fan_out_5k", "rate", "nginx", at_least=0.80),
    Goal("storm", "seconds", "nginx", at_most=0.8),
    Goal("storm", "lost", None, at_most=0, every_round=True),
    Goal("storm", "doubled", None, at_most=0, every_round=True),
    Goal("sessions", "kib_per_session", None, at_most=12.0),
)
BASELINES: Final = {goal.workload: goal.baseline for goal in GOALS if goal.baseline is not None}
LABELS: Final = {"rate": "rate", "cpu_us": "CPU", "seconds": "time", "kib_per_session": "KiB"}


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest value."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Summarise values; None without any."""
        return cls(median(values), min(values), max(values)) if values else None

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.greatest:.2f})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a goal; `met` is None where it was not measured."""

    goal: Goal
    value: Spread | None
    met: bool | None

    @property
    def text(self) -> str:
        """The goal and whether it was met, in a few words."""
        goal = self.goal
        sign, bound = ("<=", goal.at_most) if goal.at_least is None else (">=", goal.at_least)
        beside = {None: "", BASELINE: "x"}.get(goal.baseline, f"x {goal.baseline}")
        end = "not measured" if self.met is None else "met" if self.met else "MISSED"
        return f"{LABELS.get(goal.measure, goal.measure)} {sign} {bound:g}{beside}: {end}"


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one workload, over all rounds; its ratios are to the workload's baseline."""

    workload: str
    contender: str
    baseline: str
    rounds: int
    rate: float
    seconds: float
    cpu_us: float
    busy: float
    rate_ratio: Spread | None
    cpu_ratio: Spread | None
    time_ratio: Spread | None
    kib_per_session: Spread | None
    lost: int | None
    doubled: int | None


def summarise(samples: Sequence[Sample]) -> list[Row]:
    """Reduce samples to one row per workload and contender, in the order of WORKLOADS, the baseline first."""
    rows = []
    names = list(dict.fromkeys([BASELINE, *[sample.contender for sample in samples]]))
    for workload in WORKLOADS:
        of_workload = [sample for sample in samples if sample.workload == workload.key]
        for name in names:
            mine = [sample for sample in of_workload if sample.contender == name]
            if mine:
                rows.append(row(workload.key, name, mine, of_workload))
    return rows


def values(samples: Sequence[Sample], name: str, measure: str, baseline: str | None) -> list[float]:
    """Return a contender's measure of each round, divided by the baseline's of the same round where there is one."""
    mine = {sample.round: getattr(sample, measure) for sample in samples if sample.contender == name}
    mine = {number: value for number, value in mine.items() if value is not None}
    if baseline is None:
        return list(mine.values())
    base = {sample.round: getattr(sample, measure) for sample in samples if sample.contender == baseline}
    return [value / base[number] for number, value in mine.items() if number in base]


def row(workload: str, name: str, mine: Sequence[Sample], of_workload: Sequence[Sample]) -> Row:
    """Reduce one contender's samples of one workload."""
    baseline = BASELINES.get(workload, BASELINE)

    def ratio(measure: str) -> Spread | None:
        return None if name == baseline else Spread.of(values(of_workload, name, measure, baseline))

    def total(counts: list[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    return Row(
        workload=workload,
        contender=name,
        baseline=baseline,
        rounds=len(mine),
        rate=median(sample.rate for sample in mine),
        seconds=median(sample.seconds for sample in mine),
        cpu_us=median(sample.cpu_us for sample in mine),
        busy=median(sample.busy for sample in mine),
        rate_ratio=ratio("rate"),
        cpu_ratio=ratio("cpu_us"),
        time_ratio=ratio("seconds"),
        kib_per_session=Spread.of(values(mine, name, "kib_per_session", None)),
        lost=total([sample.lost for sample in mine]),
        doubled=total([sample.doubled for sample in mine]),
    )


def judge(samples: Sequence[Sample]) -> list[Verdict]:
    """Hold the product's samples against GOALS, as far as its workload was run."""
    verdicts = []
    for goal in GOALS:
        of_workload = [sample for sample in samples if sample.workload == goal.workload]
        if not any(sample.contender == PRODUCT for sample in of_workload):
            continue
        value = Spread.of(values(of_workload, PRODUCT, goal.measure, goal.baseline))
        met = None
        if value is not None and goal.at_most is not None:
            met = (value.greatest if goal.every_round else value.median) <= goal.at_most
        elif value is not None and goal.at_least is not None:
            met = (value.least if goal.every_round else value.median) >= goal.at_least
        verdicts.append(Verdict(goal, value, met))
    return verdicts


def text(spread: Spread | None) -> str:
    """Render a spread; nothing where there is none."""
    return "" if spread is None else str(spread)


def table(rows: Sequence[Row], verdicts: Sequence[Verdict], sizes: dict[str, int]) -> str:
    """Render the rows as one table of fixed width."""
    titles = {workload.key: workload.title.format(**sizes) for workload in WORKLOADS}
    head = (
        f"{'per':<26} {'in front':<10} {'rate/s':>9} {'x baseline':>17} {'CPU us':>9} {'x baseline':>20} "
        f"{'busy':>5} {'KiB/session':>19}  to reach"
    )
    lines = [head, "-" * 150]
    last = ""
    for item in rows:
        title = titles[item.workload] if item.workload != last else ""
        last = item.workload
        notes = []
        if item.lost is not None:
            beside = "" if item.time_ratio is None else f" = {item.time_ratio.median:.2f}x"
            notes = [f"{item.seconds:.2f} s{beside}, {item.lost} lost, {item.doubled} doubled"]
        if item.contender == PRODUCT:
            notes += [verdict.text for verdict in verdicts if verdict.goal.workload == item.workload]
        ratio = "baseline" if item.contender == item.baseline else text(item.rate_ratio)
        line = (
            f"{title:<26} {item.contender:<10} {item.rate:>9,.0f} {ratio:>17} "
            f"{item.cpu_us:>9,.1f} {text(item.cpu_ratio):>20} {item.busy:>5.0%} "
            f"{text(item.kib_per_session):>19}  {', '.join(notes)}"
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def as_json(samples: Sequence[Sample], rows: Sequence[Row], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return samples, rows and verdicts as plain data."""
    return {
        "goals": [asdict(item) | {"text": item.text} for item in verdicts],
        "rows": [asdict(item) for item in rows],
        "samples": [asdict(sample) for sample in samples],
    }
