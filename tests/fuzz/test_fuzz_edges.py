"""The coverage-guided fuzzer: its seeds hold in every run, and a bounded number of new inputs in the long one."""

import importlib.util
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fuzz.laws import assert_envelope_is_true
from fuzz.targets import TARGETS, Target

HERE = Path(__file__).resolve().parent
RUNS = 20_000
HARD_STOP_SECONDS = 25
SEEDS = sorted((HERE / "corpus").glob("*/*"))


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    """Make every target once."""
    with ExitStack() as stack:
        yield {name: make(stack) for name, make in TARGETS.items()}


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: f"{path.parent.name}: {path.name}")
def test_every_seed_holds(targets: dict[str, Target], seed: Path) -> None:
    """What the fuzzer begins with is lawful in every segmentation it is given here."""
    targets[seed.parent.name](seed.read_bytes())


def test_every_target_has_seeds() -> None:
    """From nothing a fuzzer finds nothing in a bounded time."""
    assert {path.parent.name for path in SEEDS} == set(TARGETS)


def test_a_broken_law_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer's verdict is the law's: a reader that errs makes a crash."""
    monkeypatch.setattr("proxy.core.jsonrpc.replace_id", lambda body, new_id: body)
    with pytest.raises(AssertionError):
        assert_envelope_is_true(b'{"id":1,"method":"ping"}', random.Random(0))


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_law(name: str, tmp_path: Path) -> None:
    """Guided by coverage, from the seeds on; an input that breaks one is shown with what it broke."""
    options = [f"-runs={RUNS}", f"-max_total_time={HARD_STOP_SECONDS}", "-timeout=10", f"-artifact_prefix={tmp_path}/"]
    (tmp_path / "found").mkdir()
    command = [sys.executable, str(HERE / "fuzz_edges.py"), name, str(tmp_path / "found"), *options]
    done = subprocess.run(command, capture_output=True, timeout=2 * HARD_STOP_SECONDS + 30, check=False, cwd=tmp_path)
    crashes = [path.read_bytes() for path in tmp_path.glob("*-*") if path.is_file()]
    log = done.stderr.decode(errors="replace").splitlines()

    assert (done.returncode, crashes) == (0, []), "\n".join(log[-60:])
