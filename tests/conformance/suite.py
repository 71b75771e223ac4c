"""Runs the official conformance suite against a URL and reads what each of its scenarios found.

One process runs a whole suite and leaves one `checks.json` per scenario; nothing here knows the proxy. A
scenario is judged by its checks, each with an id and a status: it can fail in one and still pass in another.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.node import NodeBed
from support.processes import Process

LISTED = Path(__file__).with_name("scenarios.txt")
RUN_TIMEOUT_SECONDS = 100.0
TIMESTAMP = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z$")
SEVERITY = ("INFO", "SUCCESS", "SKIPPED", "WARNING", "FAILURE")
"""From good to bad. SKIPPED is worse than SUCCESS: what was tried must not become impossible to try."""
BAD = ("SKIPPED", "WARNING", "FAILURE")

Checks = dict[str, tuple[str, str]]
"""Check id to its worst status in the scenario and the message that came with it."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One way of running one release of the suite."""

    name: str
    package: str
    """The package's name in tests/envs/node/package.json."""
    selection: Sequence[str]


SUITES = (
    Suite("released", "@modelcontextprotocol/conformance", ("--suite", "all")),
    # The released suite knows no 2026-07-28; the next one runs each era in that era's own wire format.
    Suite("2025-11-25", "conformance-next", ("--requirements", "2025-11-25")),
    Suite("2026-07-28", "conformance-next", ("--requirements", "2026-07-28")),
)


def listed() -> list[tuple[str, str]]:
    """List suite and scenario of every line in scenarios.txt, leaving out comments."""
    lines = (line.split("#")[0].split() for line in LISTED.read_text().splitlines())
    return [(words[0], words[1]) for words in lines if words]


def run(bed: NodeBed, suite: Suite, url: str) -> dict[str, Checks]:
    """Run a suite against `url` and return the checks of each scenario by its name."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        command = [*bed.conformance(suite.package), "server", "--url", url, *suite.selection, "-o", directory]
        with Process(f"conformance {suite.name}", command) as process:
            process.wait_exit(RUN_TIMEOUT_SECONDS)  # its exit code says what the checks say, but of all at once
        return {
            TIMESTAMP.sub("", found.parent.name.removeprefix("server-")): read(found)
            for found in Path(directory).glob("*/checks.json")
        }


def read(found: Path) -> Checks:
    """Read one scenario's checks; of several with one id the worst counts."""
    checks: Checks = {}
    for check in json.loads(found.read_text()):
        now = (str(check["status"]), str(check.get("errorMessage") or ""))
        before = checks.get(check["id"], ("INFO", ""))
        if SEVERITY.index(now[0]) >= SEVERITY.index(before[0]):
            checks[check["id"]] = now
    return checks


def failures(checks: Checks) -> list[str]:
    """List the checks that failed, one line each."""
    return [f"{name}: {message}" for name, (status, message) in checks.items() if status == "FAILURE"]


def regressions(direct: Checks, through: Checks) -> list[str]:
    """List the checks that are worse through the proxy than without it, one line each.

    A check that is missing counts where it succeeded directly: scenarios stop at what they cannot do.
    """
    worse = [
        f"{name}: {status} through the proxy, {direct.get(name, ('absent', ''))[0]} without: {message}"
        for name, (status, message) in through.items()
        if status in BAD and SEVERITY.index(status) > SEVERITY.index(direct.get(name, ("INFO", ""))[0])
    ]
    missing = [name for name, (status, _) in direct.items() if status == "SUCCESS" and name not in through]
    return worse + [f"{name}: never came to be checked through the proxy" for name in missing]
