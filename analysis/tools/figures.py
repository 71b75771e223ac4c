"""The block of `performance.md` that holds a run of the benchmark, and its picture; only on demand, never checked."""

from collections.abc import Iterator
from html import escape
from typing import Any

from tools import source

NAME = "figures"
PICTURE = "figures/performance.svg"
RATIOS = {"rate": "rate_ratio", "cpu_us": "cpu_ratio", "seconds": "time_ratio"}
MEASURES = {"rate": "per second", "cpu_us": "CPU per unit", "seconds": "time"}
LEFT, PLOT, BAR, WIDTH = 210, 410, 15, 870
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .head { font-weight: 600 } .soft { fill: #656d76 }
.line { stroke: #8c959f; stroke-width: 1 } .goal { stroke: #cf222e; stroke-width: 2 } .missed { fill: #cf222e }
.proxy { fill: #0969da } .nginx { fill: #57ab5a } .haproxy { fill: #9a7fd1 } .envoy { fill: #c69026 }
.other { fill: #8c959f }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9198a1 } .goal { stroke: #f85149 } .missed { fill: #f85149 }
.proxy { fill: #4493f8 } }"""


def table(result: dict[str, Any]) -> str:
    """Write the rows of a result as `make bench` saves it, below its picture."""
    rows = [
        [
            row["workload"],
            row["contender"],
            f"{row['rate']:,.0f}",
            _ratio(row, "rate_ratio"),
            f"{row['cpu_us']:,.1f}",
            _ratio(row, "cpu_ratio"),
            _spread(row["kib_per_session"]),
            "; ".join(_notes(row, result["goals"])) or source.NOTHING,
        ]
        for row in result["rows"]
    ]
    head = ["workload", "in front", "per second", "ratio", "CPU µs per unit", "ratio", "KiB per session", "to reach"]
    picture = f"![What was measured as ratios to the baseline, with the bounds to reach]({PICTURE})"
    return "\n\n".join([_machine(result), picture, source.table(head, rows)])


def _spread(spread: dict[str, float] | None) -> str:
    if spread is None:
        return source.NOTHING
    return f"{spread['median']:.2f} ({spread['least']:.2f} to {spread['greatest']:.2f})"


def _ratio(row: dict[str, Any], name: str) -> str:
    return "baseline" if row["contender"] == row["baseline"] else _spread(row[name])


def _notes(row: dict[str, Any], goals: list[dict[str, Any]]) -> Iterator[str]:
    if row["lost"] is not None:
        yield f"{row['seconds']:.2f} s, {row['lost']} lost, {row['doubled']} doubled"
    if row["contender"] == "proxy":
        yield from (each["text"] for each in goals if each["goal"]["workload"] == row["workload"])


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}".strip() for name, version in result["versions"].items())
    return (
        f"{result['finished']}, `{result['command']}`: {machine['cpu']}, {machine['cpus']} CPUs, kernel "
        f"{machine['kernel']}; {versions}; "
        f"options {', '.join(f'{key} {value}' for key, value in result['options'].items())}."
    )


def picture(result: dict[str, Any]) -> str:
    """Draw every ratio that has a bound, of each contender: what should be high above, what should be low below."""
    ratios = [each for each in result["goals"] if each["goal"]["baseline"] is not None]
    panels = [
        ("More is better", [each for each in ratios if each["goal"]["at_least"] is not None]),
        ("Less is better", [each for each in ratios if each["goal"]["at_most"] is not None]),
    ]
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    parts, y = list(_legend(names)), 34
    for title, goals in panels:
        drawn, y = _panel(title, goals, result["rows"], y)
        parts += drawn
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
    return "\n".join([head, f"<style>{STYLE}\n</style>", *parts, "</svg>", ""])


def _legend(names: list[str]) -> Iterator[str]:
    for place, name in enumerate(names):
        yield f'<rect class="{_colour(name)}" x="{LEFT + place * 90}" y="6" width="12" height="12"/>'
        yield _text(LEFT + place * 90 + 17, 16, name)
    x = LEFT + len(names) * 90
    yield f'<path class="goal" d="M{x + 4} 4v16"/>{_text(x + 12, 16, "to reach")}'


def _panel(title: str, goals: list[dict[str, Any]], rows: list[dict[str, Any]], y: int) -> tuple[list[str], int]:
    """Draw one panel with an axis of its own from `y` on; return it and where it ends."""
    groups = [(each, list(_bars(each["goal"], rows))) for each in goals]
    shown = [value for _, bars in groups for _, value in bars] + [_bound(each) for each in goals] + [1.0]
    scale = PLOT / max(shown)
    parts = [_text(8, y + 14, title, "head"), _text(LEFT, y + 14, "as a ratio to the baseline (the line at 1)", "soft")]
    top = y = y + 24
    for each, bars in groups:
        goal = each["goal"]
        label = f"{goal['workload']}, {MEASURES[goal['measure']]} ({goal['baseline']})"
        parts.append(_text(LEFT - 10, y + len(bars) * BAR / 2 + 4, label, "", "end"))
        for place, (name, value) in enumerate(bars):
            at, long = y + place * BAR, value * scale
            verdict = f", {each['text'].partition(' ')[2]}" if name == "proxy" else ""
            kind = "missed" if name == "proxy" and not each["met"] else ""
            parts.append(f'<rect class="{_colour(name)}" x="{LEFT}" y="{at}" width="{long:.1f}" height="{BAR - 3}"/>')
            parts.append(_text(LEFT + PLOT + 12, at + 10, f"{value:.2f}{verdict}", kind))
        x, high = LEFT + _bound(each) * scale, max(1, len(bars)) * BAR
        parts.append(f'<path class="goal" d="M{x:.1f} {y - 3}v{high + 3}"/>')
        y += high + 12
    parts.append(f'<path class="line" d="M{LEFT} {top - 4}V{y - 6}M{LEFT + scale:.1f} {top - 4}V{y - 6}"/>')
    return parts, y + 14


def _bars(goal: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    for row in rows:
        if row["workload"] == goal["workload"] and row[RATIOS[goal["measure"]]] is not None:
            yield row["contender"], row[RATIOS[goal["measure"]]]["median"]


def _bound(each: dict[str, Any]) -> float:
    goal = each["goal"]
    bound: float = goal["at_most"] if goal["at_least"] is None else goal["at_least"]
    return bound


def _colour(name: str) -> str:
    return name if name in {"proxy", "nginx", "haproxy", "envoy"} else "other"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(words)}</text>'
