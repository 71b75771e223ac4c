"""The wheel that a user installs: what is in it, and that it runs where there is no checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import native

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(240)
def test_a_wheel_holds_what_was_compiled(tmp_path: Path) -> None:
    """Each module with its source, under a tag that says for which interpreter; what it runs is the compiled one."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(native.ROOT)], check=True, timeout=200)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(place)

    made = {path.relative_to(native.ROOT).as_posix() for path in native.compiled()}
    assert made
    assert made <= names
    assert "proxy/app.py" in names
    assert "none-any" not in wheel.name
    asked = "import proxy.relay.call as it; print(it.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", asked], cwd=place, check=True, capture_output=True, text=True, timeout=60
    )
    assert Path(printed.stdout.strip()).is_relative_to(place)
    assert not printed.stdout.strip().endswith(".py")
