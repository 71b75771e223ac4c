"""From samples to one table: medians of rounds, ratios to the baseline of the same round, figures to reach.

Pure functions over samples; knows no process and no socket. A ratio is taken inside a round, where both sides
saw the same machine, and only then is the median taken; its spread is the least and the greatest ratio of any
round.
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


@dataclass(frozen=True, slots=True)
class Workload:
    """How a workload is named, and what the product is to reach in it (None: nothing yet)."""

    key: str
    title: str
    cpu_ratio: float | None = None
    kib_per_session: float | None = None


WORKLOADS: Final = (
    Workload("json", "JSON call", cpu_ratio=12.0),
    Workload("sse", "SSE call, 5 events", cpu_ratio=8.0),
    Workload("churn", "session, 4 requests"),
    Workload("big_json", "1 MiB JSON answer"),
    Workload("big_event", "1 MiB event"),
    Workload("fan_out", "event on {streams:,} streams", kib_per_session=32.0),
    Workload("sessions", "{sessions:,} sessions opened", kib_per_session=12.0),
)


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
class Row:
    """One contender in one workload, over all rounds."""

    workload: str
    contender: str
    rounds: int
    rate: float
    cpu_us: float
    busy: float
    rate_ratio: Spread | None
    cpu_ratio: Spread | None
    kib_per_session: Spread | None
    goal: str
    reached: bool | None


def summarise(samples: Sequence[Sample]) -> list[Row]:
    """Reduce samples to one row per workload and contender, in the order of WORKLOADS, the baseline first."""
    rows = []
    names = list(dict.fromkeys([BASELINE, *[sample.contender for sample in samples]]))
    for workload in WORKLOADS:
        of_workload = [sample for sample in samples if sample.workload == workload.key]
        base = {sample.round: sample for sample in of_workload if sample.contender == BASELINE}
        for name in names:
            mine = [sample for sample in of_workload if sample.contender == name]
            if mine:
                rows.append(row(workload, name, mine, base if name != BASELINE else {}))
    return rows


def row(workload: Workload, name: str, samples: Sequence[Sample], base: dict[int, Sample]) -> Row:
    """Reduce one contender's samples of one workload."""
    pairs = [(sample, base[sample.round]) for sample in samples if sample.round in base]
    cpu_ratio = Spread.of([mine.cpu_us / its.cpu_us for mine, its in pairs])
    memory = Spread.of([s.bytes_per_session / 1024 for s in samples if s.bytes_per_session is not None])
    goals: list[tuple[str, bool]] = []
    if name == PRODUCT and workload.cpu_ratio is not None and cpu_ratio is not None:
        goals.append((f"CPU <= {workload.cpu_ratio:g}x", cpu_ratio.median <= workload.cpu_ratio))
    if name == PRODUCT and workload.kib_per_session is not None and memory is not None:
        goals.append((f"<= {workload.kib_per_session:g} KiB", memory.median <= workload.kib_per_session))
    return Row(
        workload=workload.key,
        contender=name,
        rounds=len(samples),
        rate=median(sample.rate for sample in samples),
        cpu_us=median(sample.cpu_us for sample in samples),
        busy=median(sample.busy for sample in samples),
        rate_ratio=Spread.of([mine.rate / its.rate for mine, its in pairs]),
        cpu_ratio=cpu_ratio,
        kib_per_session=memory,
        goal=", ".join(text for text, _ in goals),
        reached=all(met for _, met in goals) if goals else None,
    )


def text(spread: Spread | None) -> str:
    """Render a spread; nothing where there is none."""
    return "" if spread is None else str(spread)


def table(rows: Sequence[Row], sizes: dict[str, int]) -> str:
    """Render the rows as one table of fixed width."""
    titles = {workload.key: workload.title.format(**sizes) for workload in WORKLOADS}
    head = (
        f"{'per':<24} {'in front':<10} {'rate/s':>9} {'x nginx':>17} {'CPU us':>9} {'x nginx':>20} "
        f"{'busy':>5} {'KiB/session':>18}  to reach"
    )
    lines = [head, "-" * 132]
    last = ""
    for item in rows:
        title = titles[item.workload] if item.workload != last else ""
        last = item.workload
        verdict = "" if item.reached is None else f"{item.goal}: {'met' if item.reached else 'MISSED'}"
        line = (
            f"{title:<24} {item.contender:<10} {item.rate:>9,.0f} {text(item.rate_ratio):>17} "
            f"{item.cpu_us:>9,.1f} {text(item.cpu_ratio):>20} {item.busy:>5.0%} "
            f"{text(item.kib_per_session):>18}  {verdict}"
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def as_json(samples: Sequence[Sample], rows: Sequence[Row]) -> dict[str, Any]:
    """Return samples and rows as plain data."""
    return {"rows": [asdict(item) for item in rows], "samples": [asdict(sample) for sample in samples]}
