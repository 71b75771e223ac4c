"""What is measured: nginx as the baseline, the proxy, and whatever else can stand in front of the stub.

Owns how each contender is found, configured and started; knows no workload and no figure. One more (Envoy,
haproxy) is one more entry: a name and a function that returns its command line.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from load import connected, opened, run
from processes import FILES, BenchError, Placement, start, stop
from wire import LoadError, Target

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
BUILD: Final = ROOT / "build"
READY_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy under measurement: `command(port, upstream_port, directory)` is how it is started."""

    name: str
    version: str
    command: Callable[[int, int, Path], list[str]]


@dataclass(frozen=True, slots=True)
class Running:
    """A started contender."""

    name: str
    pid: int
    target: Target


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unpack_nginx(directory: Path) -> Path:
    """Fetch Debian's package and unpack it below `directory`: nothing is installed, no service starts."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise BenchError(f"nginx is not installed and there is no {tool} to fetch it with: install nginx")
    directory.mkdir(parents=True, exist_ok=True)
    print("nginx is not installed: fetching Debian's package into", directory, flush=True)
    steps = [["apt-get", "download", "-q", "nginx"]]
    if os.geteuid() == 0:
        steps.insert(0, ["apt-get", "update", "-q"])
    for step in steps:
        done = subprocess.run(step, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode and step is steps[-1]:
            raise BenchError(f"{shlex.join(step)} failed: {done.stderr.strip()}; install nginx")
    package = max(directory.glob("nginx_*.deb"), key=lambda path: path.stat().st_mtime)
    subprocess.run(["dpkg-deb", "-x", str(package), str(directory)], check=True)
    return directory / "usr/sbin/nginx"


def find_nginx() -> tuple[str, str]:
    """Return the path and version of nginx; BenchError where there is none and none can be fetched."""
    fetched = BUILD / "nginx"
    path = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:{fetched / 'usr/sbin'}")
    if path is None:
        path = str(unpack_nginx(fetched))
    done = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{path} does not run ({done.stderr.strip()}): install nginx")
    return path, done.stderr.strip().rpartition("/")[2]


def nginx() -> Contender:
    """Describe the baseline."""
    path, version = find_nginx()

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        text = (HERE / "nginx.conf.in").read_text()
        values = {
            # Left out, a master that runs as root has a worker that cannot write to a private directory.
            "USER": "user root;" if os.geteuid() == 0 else "",
            "DIR": str(directory),
            "FILES": str(FILES),
            "CONNECTIONS": str(FILES - 64),
            "PORT": str(port),
            "UPSTREAM_PORT": str(upstream_port),
        }
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        configuration = directory / "nginx.conf"
        configuration.write_text(text)
        return [path, "-e", "stderr", "-c", str(configuration)]

    return Contender("nginx", version, command)


def session_proxy() -> Contender:
    """Describe the product, with its defaults."""

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        flags = {
            "--upstream": f"http://127.0.0.1:{upstream_port}/mcp",
            "--listen": f"127.0.0.1:{port}",
            "--log-level": "warning",
        }
        return [sys.executable, "-m", "proxy", *[word for flag in flags.items() for word in flag]]

    return Contender("proxy", f"Python {sys.version.split()[0]}", command)


def other(text: str) -> Contender:
    """Describe any other proxy by NAME=COMMAND, with {port} and {upstream_port} to be filled in."""
    name, _, line = text.partition("=")
    if not name or not line:
        raise BenchError(f"NAME=COMMAND expected, not {text!r}")

    def command(port: int, upstream_port: int, directory: Path) -> list[str]:
        return [word.format(port=port, upstream_port=upstream_port) for word in shlex.split(line)]

    return Contender(name, "", command)


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
    process = start(contender.command(port, upstream_port, directory), placement.measured, log, cwd=ROOT)
    target = Target("127.0.0.1", port, upstream_port)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not asyncio.run(is_ready(target)):
            if process.poll() is not None:
                raise BenchError(f"{contender.name} ended with {process.returncode}, see {log.name}")
            if time.monotonic() > deadline:
                raise BenchError(f"{contender.name} is not ready after {READY_SECONDS:.0f} s, see {log.name}")
            time.sleep(0.02)
        yield Running(contender.name, process.pid, target)
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
