"""What is measured: nginx as the baseline, haproxy and Envoy beside it, the proxy, and whatever else is named.

Owns how each contender is found, configured and started; knows no workload and no figure. A contender that
cannot be had is an error, never a gap in the table. One more is one more entry of CONTENDERS: a name and a
function that returns its command line.
"""

import asyncio
import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from load import connected, opened, run
from processes import SPARE_FILES, BenchError, Placement, file_limit, start, stop
from wire import LoadError, Target

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
BUILD: Final = ROOT / "build"
SOURCES: Final = BUILD / "bench" / "sources"
"""A copy of the product's sources."""
READY_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy under measurement: `command(port, upstream_port, directory)` is how it is started.

    One that `remembers` keeps its upstream streams while clients are away, and replays from its own log.
    """

    name: str
    version: str
    command: Callable[[int, int, Path], list[str]]
    remembers: bool = False
    cwd: Path = ROOT


@dataclass(frozen=True, slots=True)
class Running:
    """A started contender."""

    name: str
    pid: int
    target: Target
    remembers: bool = False


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unpack(name: str) -> None:
    """Fetch Debian's package, with what it needs and is not here, and unpack it: nothing is installed or started."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise BenchError(f"{name} is not installed and there is no {tool} to fetch it with: install {name}")
    directory = BUILD / name
    directory.mkdir(parents=True, exist_ok=True)
    print(f"{name} is not installed: fetching Debian's package into {directory}", flush=True)

    def step(*words: str) -> str:
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{shlex.join(words)} failed: {done.stderr.strip()}; install {name}")
        return done.stdout

    if os.geteuid() == 0:
        with contextlib.suppress(BenchError):  # offline, what is cached may do
            step("apt-get", "update", "-q")
    plan = step("apt-get", "install", "--simulate", "--no-install-recommends", name)
    step("apt-get", "download", "-q", *[line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")])
    for package in directory.glob("*.deb"):
        step("dpkg-deb", "-x", str(package), str(directory))


def found(name: str, flag: str, *, packed: bool = True) -> tuple[list[str], str]:
    """Return the command and version of a program; BenchError where it is missing and cannot be fetched."""
    fetched = BUILD / name
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", str(fetched / "usr/sbin")]
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None and packed:
        unpack(name)
        path = shutil.which(name, path=places[-1])
    if path is None:
        raise BenchError(f"{name} is not installed: `make bench` does it, or leave it out with --without {name}")
    command = [path]
    libraries = [str(each) for each in fetched.glob("usr/lib/*-linux-*")]
    if path.startswith(str(fetched)) and libraries:
        command = ["env", f"LD_LIBRARY_PATH={os.pathsep.join(libraries)}", path]
    done = subprocess.run([*command, flag], capture_output=True, text=True, check=False)
    version = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    if done.returncode or version is None:
        raise BenchError(f"{path} does not run ({done.stderr.strip()}): install {name}")
    return command, version[0]


def configured(template: str, directory: Path, values: dict[str, object]) -> str:
    """Write a configuration from its template beside this file; return its path."""
    text = (HERE / template).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    configuration = directory / template.removesuffix(".in")
    configuration.write_text(text, encoding="utf-8")
    return str(configuration)


def nginx() -> Contender:
    """Describe the baseline."""
    program, version = found("nginx", "-v")

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        values = {
            # Left out, a master that runs as root has a worker that cannot write to a private directory.
            "USER": "user root;" if os.geteuid() == 0 else "",
            "DIR": directory,
            "FILES": file_limit(),
            "CONNECTIONS": file_limit() - 64,
            "PORT": port,
            "UPSTREAM_PORT": upstream_port,
        }
        return [*program, "-e", "stderr", "-c", configured("nginx.conf.in", directory, values)]

    return Contender("nginx", version, command)


def haproxy() -> Contender:
    """Describe haproxy, one thread."""
    program, version = found("haproxy", "-v")

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        # A connection here is a client's: the server's half of the descriptors is reckoned on top.
        values = {"CONNECTIONS": (file_limit() - SPARE_FILES) // 2, "PORT": port, "UPSTREAM_PORT": upstream_port}
        return [*program, "-db", "-f", configured("haproxy.cfg.in", directory, values)]

    return Contender("haproxy", version, command)


def envoy() -> Contender:
    """Describe Envoy, one worker."""
    program, version = found("envoy", "--version", packed=False)

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        file = configured("envoy.yaml.in", directory, {"PORT": port, "UPSTREAM_PORT": upstream_port})
        quiet = ["--disable-hot-restart", "--log-level", "error"]
        return [*program, "--concurrency", "1", *quiet, "-c", file]

    return Contender("envoy", version, command)


def session_proxy() -> Contender:
    """Describe the product, with its defaults."""

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        flags = {
            "--upstream": f"http://127.0.0.1:{upstream_port}/mcp",
            "--listen": f"127.0.0.1:{port}",
            "--log-level": "warning",
        }
        return [sys.executable, "-m", "proxy", *[word for flag in flags.items() for word in flag]]

    return Contender("proxy", f"Python {sys.version.split()[0]}", command, remembers=True)


def interpreted() -> Contender:
    """Describe the product without what is compiled of it: its sources, where nothing else stands beside them."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    for path in (ROOT / "proxy").rglob("*.py"):
        copy = SOURCES / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return dataclasses.replace(session_proxy(), cwd=SOURCES)


CONTENDERS: Final = {"nginx": nginx, "haproxy": haproxy, "envoy": envoy, "proxy": session_proxy}


def other(text: str, remembering: Sequence[str] = ()) -> Contender:
    """Describe any other proxy by NAME=COMMAND, with {port} and {upstream_port} to be filled in."""
    name, _, line = text.partition("=")
    if not name or not line:
        raise BenchError(f"NAME=COMMAND expected, not {text!r}")

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        return [word.format(port=port, upstream_port=upstream_port) for word in shlex.split(line)]

    return Contender(name, "", command, remembers=name in remembering)


@contextlib.contextmanager
def stub(placement: Placement, log: TextIO) -> Iterator[int]:
    """Run the stub upstream; yield its port."""
    command = [sys.executable, str(HERE / "upstream.py")]
    process = start(command, placement.stub, log, piped=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"the stub upstream did not start, see {log.name}")
        yield int(line.rpartition(":")[2].split("/")[0])
    finally:
        stop(process)


@contextlib.contextmanager
def running(contender: Contender, upstream_port: int, placement: Placement, log: TextIO) -> Iterator[Running]:
    """Run a contender in front of the stub; it has answered a handshake when this yields."""
    port = free_port()
    directory = BUILD / "bench" / contender.name
    directory.mkdir(parents=True, exist_ok=True)
    process = start(contender.command(port, upstream_port, directory), placement.measured, log, cwd=contender.cwd)
    target = Target("127.0.0.1", port, upstream_port)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not asyncio.run(is_ready(target)):
            if process.poll() is not None:
                raise BenchError(f"{contender.name} ended with {process.returncode}, see {log.name}")
            if time.monotonic() > deadline:
                raise BenchError(f"{contender.name} is not ready after {READY_SECONDS:.0f} s, see {log.name}")
            time.sleep(0.02)
        yield Running(contender.name, process.pid, target, contender.remembers)
    finally:
        stop(process)


async def is_ready(target: Target) -> bool:
    """Say whether a target accepts connections; LoadError when its first handshake is wrong."""
    try:
        async with connected(target.host, target.port, 1) as connections:
            await run(connections, [opened(target)])
    except ConnectionRefusedError:
        return False
    except LoadError as error:
        raise BenchError(f"the first handshake failed: {error}") from error
    return True
