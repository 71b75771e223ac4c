"""The rules that conftest.py adds to pytest, tried on small suites of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SETTINGS = "[pytest]\nmarkers =\n    e2e\n    long\n    conformance\n"


def run(directory: Path, suite: str, *, ci: str = "", conftest: str = "") -> str:
    """Run a suite under the rules, and return what pytest said."""
    (directory / "conftest.py").write_text(conftest or CONFTEST.read_text())
    (directory / "pytest.ini").write_text(SETTINGS)
    (directory / "test_suite.py").write_text(f"import pytest\n\n\n{suite}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"],
        cwd=directory,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize(
    "suite",
    [
        'def test_one():\n    pytest.skip("no time")\n',
        '@pytest.mark.skipif(True, reason="no time")\ndef test_one():\n    pass\n',
        'pytest.skip("no time", allow_module_level=True)\n',
        'pytest.importorskip("no_such_module", reason="no time")\n',
    ],
    ids=["call", "mark", "module", "import"],
)
def test_ci_fails_what_would_be_skipped(tmp_path: Path, suite: str) -> None:
    """A skip is an error in CI, which names the reason, and a skip elsewhere."""
    alone = run(tmp_path, suite)
    in_ci = run(tmp_path, suite, ci="true")

    assert "1 skipped" in alone
    assert "skipped, which CI does not allow" in in_ci
    assert "no time" in in_ci
    assert "1 skipped" not in in_ci


def test_ci_leaves_an_expected_failure_alone(tmp_path: Path) -> None:
    """What is known to fail is run, and is no skip."""
    said = run(tmp_path, "@pytest.mark.xfail\ndef test_one():\n    assert 0\n", ci="true")

    assert "1 xfailed" in said


def test_a_part_over_its_deadline_is_named_and_the_others_run(tmp_path: Path) -> None:
    """The rest of a slow part fails with the name of the part; what follows is run."""
    marked = "".join(
        f"{mark}def test_{name}():\n    pass\n\n\n"
        for name, mark in (("long", "@pytest.mark.long\n"), ("first", ""), ("second", ""))
    )
    said = run(tmp_path, marked, conftest=re.sub('"unit": [0-9.]+', '"unit": 0.0', CONFTEST.read_text()))

    assert "test_first PASSED" in said
    assert "not run: part unit is over its deadline" in said
    assert "test_long PASSED" in said
    assert said.index("test_second") < said.index("test_long PASSED")
