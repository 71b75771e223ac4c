"""The block of `performance.md` that holds a run of the benchmark; written only on demand, never checked."""

from typing import Any

from tools import source

NAME = "figures"


def table(result: dict[str, Any]) -> str:
    """Write the rows of a result as `make bench` saves it."""
    rows = [
        [
            row["workload"],
            row["contender"],
            f"{row['rate']:,.0f}",
            _ratio(row["rate_ratio"]),
            f"{row['cpu_us']:,.1f}",
            _ratio(row["cpu_ratio"]),
            _ratio(row["kib_per_session"]),
            _verdict(row),
        ]
        for row in result["rows"]
    ]
    head = ["workload", "in front", "per second", "ratio", "CPU µs per unit", "ratio", "KiB per session", "to reach"]
    return "\n".join([_machine(result), "", source.table(head, rows)])


def _ratio(spread: dict[str, float] | None) -> str:
    if spread is None:
        return source.NOTHING
    return f"{spread['median']:.2f} ({spread['least']:.2f} to {spread['greatest']:.2f})"


def _verdict(row: dict[str, Any]) -> str:
    if row["reached"] is None:
        return source.NOTHING
    return f"{row['goal']}: {'met' if row['reached'] else 'missed'}"


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, kernel {machine['kernel']}; {versions}; "
        f"options {', '.join(f'{key} {value}' for key, value in result['options'].items())}."
    )
