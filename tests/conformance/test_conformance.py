"""The official conformance suite, scenario by scenario, with and without the proxy in between.

The Python SDK's server is asked directly and through the proxy, in one run each per suite; a scenario that
passes without the proxy and does worse through it fails here. The server passes every one listed by itself.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import suite

from support import envs, node
from support.processes import Process
from support.proxy_process import ProxyProcess

pytestmark = [pytest.mark.e2e, pytest.mark.conformance, pytest.mark.timeout(300)]

SERVER = Path(__file__).with_name("everything_server.py")
START_TIMEOUT_SECONDS = 20.0

Run = tuple[dict[str, suite.Checks], dict[str, suite.Checks]]


@pytest.fixture(scope="module")
def bed() -> node.NodeBed:
    """Give the Node side of the test bed."""
    return node.ensure()


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    """Start the server and a proxy before it; give the URL of each."""
    with Process("everything server", [str(envs.ensure("python-2")), str(SERVER)]) as server:
        port = server.wait_line("ready ", START_TIMEOUT_SECONDS).split()[1]
        direct = f"http://127.0.0.1:{port}/mcp"
        with ProxyProcess(direct) as proxy:
            yield direct, proxy.url


@pytest.fixture(scope="module")
def ran(bed: node.NodeBed, urls: tuple[str, str]) -> Callable[[str], Run]:
    """Give a function that runs a suite both ways, side by side, the first time it is asked for it."""
    done: dict[str, Run] = {}

    def both(name: str) -> Run:
        if name not in done:
            chosen = next(each for each in suite.SUITES if each.name == name)
            with ThreadPoolExecutor() as pool:
                direct, through = pool.map(lambda url: suite.run(bed, chosen, url), urls)
            done[name] = direct, through
        return done[name]

    return both


@pytest.mark.parametrize(("name", "scenario"), suite.listed())
def test_a_scenario_does_no_worse_through_the_proxy(ran: Callable[[str], Run], name: str, scenario: str) -> None:
    """What the server passes by itself it passes behind the proxy."""
    direct, through = ran(name)

    assert suite.failures(direct[scenario]) == []
    assert suite.regressions(direct[scenario], through[scenario]) == []


@pytest.mark.parametrize("name", [each.name for each in suite.SUITES])
def test_every_scenario_of_the_suite_is_listed(ran: Callable[[str], Run], name: str) -> None:
    """A scenario that a newer suite brings cannot go unnoticed."""
    direct, _ = ran(name)
    listed = {scenario for suite_name, scenario in suite.listed() if suite_name == name}
    # Tasks are an extension that the server does not implement: there is nothing to compare.
    expected = {scenario for scenario in direct if not scenario.startswith("tasks-")}

    assert listed == expected


@pytest.mark.parametrize(
    ("direct", "through", "is_worse"),
    [
        ("SUCCESS", "SUCCESS", False),
        ("SUCCESS", "INFO", False),
        ("SUCCESS", "WARNING", True),
        ("SUCCESS", "FAILURE", True),
        ("SUCCESS", "SKIPPED", True),
        ("SUCCESS", None, True),
        ("WARNING", "WARNING", False),
        ("WARNING", "FAILURE", True),
        ("WARNING", None, False),
        (None, "FAILURE", True),
        (None, "SUCCESS", False),
    ],
)
def test_a_regression_is_told_from_a_difference(direct: str | None, through: str | None, is_worse: bool) -> None:
    """A check that is worse, or not reached any more, is a regression; one that is better or new is not."""
    before = {} if direct is None else {"check": (direct, "")}
    after = {} if through is None else {"check": (through, "")}

    assert bool(suite.regressions(before, after)) is is_worse
