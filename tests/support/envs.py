"""Virtual environments for the official SDKs, one per line of releases.

Owns `.envs/<name>/`, built from the lock `tests/envs/<name>.txt`. Uses the standard library alone, so that
it runs before anything is installed; must not know what the environments are for. An environment counts
only with a stamp that equals the hash of its lock and of the interpreter: the stamp is written last, so a
half-built one is built anew.
"""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "tests" / "envs"
ENVS = ROOT / ".envs"
BUILD_TIMEOUT_SECONDS = 600.0


class EnvError(RuntimeError):
    """An environment that cannot be built; the message names it and holds the tail of the tool's output."""


def names() -> list[str]:
    """List the environments that have a lock."""
    return sorted(lock.stem for lock in LOCKS.glob("*.txt"))


def ensure(name: str) -> Path:
    """Return the interpreter of `name`, building its environment first where it is missing or stale.

    Raises:
        EnvError: there is no such lock, or the build failed.
    """
    lock = LOCKS / f"{name}.txt"
    if not lock.is_file():
        raise EnvError(f"{name}: no lock file, known are {', '.join(names())}")
    home = ENVS / name
    interpreter = home / "bin" / "python"
    stamp = home / "stamp"
    wanted = _fingerprint(lock)
    if _is_current(stamp, wanted):
        return interpreter
    ENVS.mkdir(exist_ok=True)
    with _exclusive(ENVS / f"{name}.lock"):
        if not _is_current(stamp, wanted):  # another process may have built it while this one waited
            shutil.rmtree(home, ignore_errors=True)
            _run(name, sys.executable, "-m", "venv", str(home))
            _run(name, str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                 "--requirement", str(lock))  # fmt: skip
            stamp.write_text(wanted)
    return interpreter


def _is_current(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted


def _fingerprint(lock: Path) -> str:
    # The interpreter is part of it: a venv is a set of links to the one it was made with.
    made_of = lock.read_bytes() + sys.version.encode() + sys.base_prefix.encode() + str(ENVS).encode()
    return hashlib.sha256(made_of).hexdigest()


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # released by the close, and by the kernel when the process dies
        yield


def _run(name: str, *command: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise EnvError(f"{name}: {' '.join(command)} took longer than {BUILD_TIMEOUT_SECONDS:.0f} s") from late
    if done.returncode != 0:
        raise EnvError(f"{name}: {' '.join(command)} failed with {done.returncode}\n{done.stdout[-4000:]}")


def main() -> int:
    """Build the environments named on the command line, or all; print one line for each."""
    parser = argparse.ArgumentParser(description="Build the environments of the official SDKs.")
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(names())}; all when none is given")
    wanted = parser.parse_args().name or names()
    failed = False
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        builds = {name: pool.submit(ensure, name) for name in wanted}
    for name, build in builds.items():
        try:
            print(f"{name}: {build.result()}")
        except EnvError as error:
            print(error, file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
