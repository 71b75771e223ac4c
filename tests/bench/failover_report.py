"""What the failover benchmark shows people: the table of its figures, as text and as Markdown, and the picture.

Pure functions of a result as it is written to JSON; knows no process. Which figures are shown, and in which words, is
SHOWN.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

BEGIN: Final = "<!-- measured: failover -->\n"
END: Final = "<!-- end: failover -->"
PICTURE: Final = "figures/failover.svg"
NOTHING: Final = "-"
"""What stands where nothing was to be reached."""


class Figure(NamedTuple):
    """One line of the table: some measures of a scenario side by side."""

    title: str
    measures: tuple[str, ...]
    unit: str


def percentiles(title: str, name: str) -> Figure:
    """Return the line of a distribution."""
    return Figure(title, (f"{name}_p50_ms", f"{name}_p99_ms"), "ms, p50 and p99")


CALLS: Final = (
    percentiles("steady calls before", "before"),
    percentiles("steady calls during", "during"),
    percentiles("steady calls after", "after"),
    Figure("steady calls: made, failed, run twice", ("steady_calls", "steady_failed", "steady_doubled"), ""),
    Figure("events of streams: lost, doubled", ("events_lost", "events_doubled"), ""),
)
SHOWN: Final = (
    Figure("from SIGKILL to ejection", ("detection_ms",), "ms"),
    percentiles("calls in flight: blackout", "blackout"),
    percentiles("calls in flight: beyond detection", "beyond"),
    Figure("of that the proxy ran, waited for its CPU", ("beyond_cpu_ms", "beyond_waited_ms"), "ms"),
    percentiles('calls in flight: "outcome unknown" told after', "told"),
    percentiles("other sessions: blackout of their stream", "others"),
    Figure("the last session is back after", ("others_max_ms",), "ms"),
    Figure("calls in flight: lost, doubled, wrong end", ("lost", "doubled", "failed"), ""),
    Figure("duration", ("duration_s",), "s"),
    Figure("of it until the last session was moved", ("moving_s",), "s"),
    Figure("of that the proxy ran, waited for its CPU", ("swap_cpu_ms", "swap_waited_ms"), "ms"),
    Figure("sessions: moved, not moved", ("moved", "not_moved"), ""),
    *CALLS,
)
"""In the order of the table; a scenario has those of them that it measures."""

Result = Mapping[str, Any]


def lines(result: Result) -> Iterator[tuple[str, str, str, str]]:
    """Give the cells of the table: scenario, figure, value, what was to be reached."""
    for scenario, title in result["scenarios"].items():
        rows = {row["measure"]: row for row in result["rows"] if row["scenario"] == scenario}
        shown = [(figure, [rows[each] for each in figure.measures if each in rows]) for figure in SHOWN]
        for place, (figure, present) in enumerate(item for item in shown if item[1]):
            value = f"{', '.join(text_of(row) for row in present)} {figure.unit}".rstrip()
            yield "" if place else title, figure.title, value, verdict_of(present)


def text_of(row: Mapping[str, Any]) -> str:
    """Render a figure: the median of its rounds, with the least and the greatest where they differ."""
    middle, least, most = (number(row[key]) for key in ("median", "least", "greatest"))
    return middle if least == most else f"{middle} ({least} to {most})"


def number(value: float) -> str:
    """Render a number with three figures, whole ones whole."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def verdict_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what was to be reached, and whether it was; a dash where nothing was."""
    judged = [row for row in rows if row["at_most"] is not None]
    if not judged:
        return NOTHING
    bounds = {row["at_most"] for row in judged}
    if bounds == {0}:
        return "0: " + ("met" if all(row["is_met"] for row in judged) else "MISSED")
    return "; ".join(
        f"{'p99 ' if 'p99' in row['measure'] else ''}<= {row['at_most']:g}: {'met' if row['is_met'] else 'MISSED'}"
        for row in judged
    )


def table(result: Result) -> str:
    """Render the table with a fixed width."""
    rendered = [f"{'':<34} {'figure':<46} {'median (least to greatest of rounds)':<56} to reach", "-" * 150]
    for title, figure, value, verdict in lines(result):
        rendered.append(f"{title:<34} {figure:<46} {value:<56} {verdict}".rstrip())
    return "\n".join(rendered)


def markdown(result: Result) -> str:
    """Render what stands in the document: where it was measured, the picture, the table."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    options = ", ".join(f"{key} {value}" for key, value in result["options"].items())
    where = (
        f"{result['finished']}, `{result['command']}`: {machine['cpu']}, {machine['cpus']} CPUs, kernel "
        f"{machine['kernel']}, load average {machine['load_average'][0]:.1f} before; {versions}; options {options}."
    )
    rows = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines(result)]
    head = ["| run | figure | median (least to greatest of rounds) | to reach |", "|---|---|---|---|"]
    return "\n\n".join(
        [where, f"![Sessions per upstream and latency of calls over time]({PICTURE})", "\n".join(head + rows)]
    )


def placed(document: str, block: str) -> str:
    """Return a document with its measured block written anew; ValueError where it has none."""
    before, found, rest = document.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError("the document has no block for measured figures")
    return f"{before}{BEGIN}{block}\n{END}{after}"


# -- the picture

WIDTH: Final = 880
PANEL_WIDTH: Final = 360
HIGH: Final = 130
TOP: Final = 62
GAP: Final = 46
LEFTS: Final = (58, 496)
STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .head { font-weight: 600 } .soft { fill: #656d76 }
.axis { stroke: #8c959f; stroke-width: 1; fill: none } .grid { stroke: #d0d7de; stroke-width: 0.5 }
path.a, path.b, path.nowhere, path.p50, path.max { fill: none; stroke-width: 1.8 }
path.a { stroke: #c69026 } path.b { stroke: #0969da } path.nowhere { stroke: #cf222e; stroke-dasharray: 4 3 }
path.p50 { stroke: #0969da } path.max { stroke: #8c959f; stroke-width: 1 } circle { fill: #cf222e }
.mark { stroke: #57ab5a; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9198a1 } .grid { stroke: #3d444d } path.b, path.p50 { stroke: #4493f8 }
path.nowhere { stroke: #f85149 } circle { fill: #f85149 } }"""
LEGEND: Final = (
    ("a", "on a"),
    ("b", "on b"),
    ("nowhere", "without an upstream"),
)
LATENCY_LEGEND: Final = (("p50", "steady calls, median"), ("max", "slowest"))


def picture(result: Result) -> str:
    """Draw a failover and a swap side by side: sessions per upstream above, latency of calls below."""
    columns = [
        ("failover", "SIGKILL of upstream a, seconds since"),
        ("swap", "swap of a for b, seconds since it was asked for"),
    ]
    parts: list[str] = []
    for left, (scenario, title) in zip(LEFTS, columns, strict=True):
        found = [sample for sample in result["samples"] if sample["scenario"] == scenario]
        if found:
            parts += column(left, title, found[0])
    high = TOP + 2 * HIGH + GAP + 44
    size = f'viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<style>{STYLE}\n</style>", *parts, "</svg>", ""])


class Scale(NamedTuple):
    """From a value to a place, linear or by its logarithm."""

    least: float
    most: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value, at an end of the axis for one beyond it."""
        value = min(self.most, max(self.least, value))
        share = (
            math.log(value / self.least) / math.log(self.most / self.least)
            if self.is_log
            else (value - self.least) / (self.most - self.least)
        )
        return self.start + share * (self.end - self.start)


def column(left: int, title: str, sample: Mapping[str, Any]) -> list[str]:
    """Draw both panels of one run."""
    timeline, figures = sample["timeline"], sample["figures"]
    rows = timeline["places"]
    x = Scale(rows[0]["at"], rows[-1]["at"], left, left + PANEL_WIDTH)
    most = max(row[name] for row in rows for name in ("a", "b", "nowhere"))
    parts = [words(left, 18, title, "head")]
    marks = (
        {"ejected": figures["detection_ms"] / 1000} if "detection_ms" in figures else {"done": figures["duration_s"]}
    )
    parts += legend(left, 38, LEGEND)
    parts += sessions(x, Scale(0, nice(most), TOP + HIGH, TOP), rows)
    below = TOP + HIGH + GAP
    parts += legend(left, below - 12, LATENCY_LEGEND, has_dots=bool(timeline["held"]))
    worst = max([row["max"] for row in timeline["latencies"]] + [each["ms"] for each in timeline["held"]])
    y = Scale(1, 10 ** math.ceil(math.log10(worst)), below + HIGH, below, is_log=True)
    parts += calls(x, y, timeline)
    for top in (TOP, below):
        for name, at in marks.items():
            parts.append(f'<path class="mark" d="M{x(at):.1f} {top}v{HIGH}"/>')
            if top == TOP:
                parts.append(words(x(at) + 4, top + 12, name, "soft"))
    return parts


def nice(value: float) -> float:
    """Return a round number that is not smaller."""
    step = 10.0 ** math.floor(math.log10(max(1.0, value))) / 2
    return math.ceil(value / step) * step


def sessions(x: Scale, y: Scale, rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Draw how many sessions lie on each upstream."""
    parts = frame(x, y, [0, y.most / 2, y.most], "sessions")
    for name, _ in LEGEND:
        steps = [f"{'L' if at else 'M'}{x(row['at']):.1f} {y(row[name]):.1f}" for at, row in enumerate(rows)]
        parts.append(f'<path class="{name}" d="{"".join(steps)}"/>')
    return parts


def calls(x: Scale, y: Scale, timeline: Mapping[str, Any]) -> list[str]:
    """Draw how long calls took, by when they began; those in flight by when they ended."""
    decades = [10**power for power in range(round(math.log10(y.most)) + 1)]
    parts = frame(x, y, decades, "ms")
    for name in ("max", "p50"):
        rows = timeline["latencies"]
        steps = [f"{'L' if at else 'M'}{x(row['at']):.1f} {y(row[name]):.1f}" for at, row in enumerate(rows)]
        parts.append(f'<path class="{name}" d="{"".join(steps)}"/>')
    parts += [f'<circle cx="{x(one["at"]):.1f}" cy="{y(one["ms"]):.1f}" r="1.6"/>' for one in timeline["held"]]
    return parts


def frame(x: Scale, y: Scale, ticks: Sequence[float], unit: str) -> list[str]:
    """Draw the axes of one panel."""
    parts = []
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{x.start:.1f} {y(tick):.1f}H{x.end:.1f}"/>')
        parts.append(words(x.start - 6, y(tick) + 4, f"{tick:,.0f}", "soft", "end"))
    parts.append(words(x.start - 6, y.end - 10, unit, "soft", "end"))
    step = 1 if x.most - x.least < 12 else 2
    for second in range(math.ceil(x.least), math.floor(x.most) + 1, step):
        parts.append(words(x(second), y.start + 16, str(second), "soft", "middle"))
    parts.append(f'<path class="axis" d="M{x.start:.1f} {y.end:.1f}V{y.start:.1f}H{x.end:.1f}"/>')
    return parts


def legend(left: float, y: float, entries: Sequence[tuple[str, str]], *, has_dots: bool = False) -> Iterator[str]:
    """Draw what the lines mean."""
    at = left
    for name, title in entries:
        yield f'<path class="{name}" d="M{at:.0f} {y - 4:.0f}h18"/>{words(at + 23, y, title)}'
        at += 40 + 6.6 * len(title)
    if has_dots:
        yield f'<circle cx="{at + 4:.0f}" cy="{y - 4:.0f}" r="3"/>{words(at + 12, y, "in flight at SIGKILL")}'


def words(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """Draw a text."""
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
