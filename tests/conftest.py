"""What holds for every test: the order of the parts, the deadline of each, and that CI skips nothing.

Knows the tests by where they are and how they are marked. Invariant: a part that is slow or stuck is named,
and the others still run; together with the time limit of each test nothing runs without bound.
"""

import os
import time
from collections import Counter
from collections.abc import Generator

import pytest

import native

IS_COMPILED = any(native.compiled())
"""Whether what runs is compiled, or the sources themselves."""

IS_STRICT = os.environ.get("CI", "").lower() in {"true", "1"}
"""Whether a skipped test is an error: in CI nobody reads the reasons."""

DEADLINES = {"unit": 360.0, "contract": 60.0, "e2e": 540.0, "conformance": 120.0, "long": 400.0}
"""Seconds for each part, in the order in which they run: what fails soonest comes first."""

spent: Counter[str] = Counter()
"""Seconds that each part took so far."""
ran: Counter[str] = Counter()


def part_of(item: pytest.Item) -> str:
    """Tell which part a test belongs to."""
    if item.get_closest_marker("long"):
        return "long"
    if item.get_closest_marker("conformance"):
        return "conformance"
    if item.get_closest_marker("e2e"):
        return "e2e"
    return "contract" if "contract" in item.path.parts else "unit"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test what was compiled of other sources: Python would take it all the same."""
    if IS_COMPILED and not native.is_current():
        raise pytest.UsageError("what is compiled is of other sources: run native.py, or native.py --remove")


def pytest_report_header() -> str:
    """Say what is tested."""
    return f"proxy: {'compiled' if IS_COMPILED else 'interpreted'}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the parts in order, and leave the order inside each as it is: it groups by shared fixtures."""
    order = list(DEADLINES)
    items.sort(key=lambda item: order.index(part_of(item)))
    if IS_COMPILED:
        # They are run on the sources; to count them as skipped would say that they are run nowhere.
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("interpreted")])
        items[:] = [item for item in items if not item.get_closest_marker("interpreted")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Count the time of a test, its fixtures included, for its part."""
    began = time.monotonic()
    try:
        return (yield)
    finally:
        spent[part_of(item)] += time.monotonic() - began
        ran[part_of(item)] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run nothing more of a part that is over its deadline."""
    part = part_of(item)
    if spent[part] > DEADLINES[part]:
        pytest.fail(f"not run: part {part} is over its deadline of {DEADLINES[part]:g} s", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one where nobody would notice; an expected failure stays one."""
    report = yield
    if IS_STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped module into a failed one, likewise."""
    report = yield
    if IS_STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each part took."""
    terminalreporter.section("parts")
    for part, seconds in DEADLINES.items():
        if ran[part]:
            took = f"{ran[part]:5} tests {spent[part]:7.1f} s of {seconds:g}"
            terminalreporter.write_line(f"{part:12}{took}")
