"""The processes of a benchmark: started pinned, ended by their own id, read by the kernel's accounting.

Owns placement on CPUs, CPU time and resident memory of a process tree; knows neither MCP nor nginx. What is
measured has one CPU alone; the stub and the load share another, or have one each where there are three. CPU
time per call then holds on a busy machine too; calls/s is the wall of one CPU where that side is the slower.
"""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

FILES: Final = 16384
"""Descriptors a proxy needs: two per stream for 5,000 streams, and room."""
SPARE_FILES: Final = 256
"""Descriptors of a proxy that are no stream: its listener, its log, the load's other connections."""
STOP_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 0.03
"""Wait between the last answer and a reading: a process that still runs is charged at the next tick."""


class BenchError(Exception):
    """The benchmark cannot be run here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which CPU runs what."""

    measured: int
    stub: int
    load: int

    @classmethod
    def choose(cls) -> "Placement":
        """Take the first three CPUs this process may use; on two, the stub and the load share one."""
        cpus = sorted(os.sched_getaffinity(0))
        return cls(cpus[0], cpus[min(1, len(cpus) - 1)], cpus[min(2, len(cpus) - 1)])


def raise_file_limit(wanted: int = FILES) -> None:
    """Allow this process and its children `wanted` descriptors, or as many as there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return
        wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit() -> int:
    """Say how many descriptors a process started here may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return FILES if soft == resource.RLIM_INFINITY else soft


def clamped(wanted: int, what: str) -> int:
    """Limit a number of open streams to what a proxy's descriptors allow, two for each; say so where it bites."""
    most = (file_limit() - SPARE_FILES) // 2
    if wanted <= most:
        return wanted
    needed, allowed = wanted * 2 + SPARE_FILES, file_limit()
    print(f"{what}: {wanted:,} need {needed:,} open files and {allowed:,} are allowed: lowered to {most:,}", flush=True)
    return most


def start(
    command: Sequence[str], cpu: int, log: TextIO, *, cwd: Path | None = None, piped: bool = False
) -> subprocess.Popen[str]:
    """Start a command on one CPU; its output goes to `log`, standard output to a pipe if asked."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MCP_SESSION_PROXY__")}
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})  # inherited from the first instruction, so that no thread escapes it
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else log,
            stderr=log,
            text=True,
        )
    finally:
        os.sched_setaffinity(0, own)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process with SIGTERM, then SIGKILL with all its children."""
    if process.poll() is None:
        pids = tree(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold blanks: the parent's id is the second field behind it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def cpu_ns(pids: Sequence[int]) -> int:
    """Read the CPU time, user and kernel, that the threads of the processes have used.

    From schedstat, which counts nanoseconds; the utime and stime of /proc/PID/stat count in ticks of 10 ms.
    """
    total = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that just ended
                total += int(path.read_text().split()[0])
    return total


def rss_bytes(pids: Sequence[int]) -> int:
    """Read the resident memory of the processes from smaps_rollup, which is exact (VmRSS lags)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


@dataclass(frozen=True, slots=True)
class Socket:
    """One TCP socket of this machine as the kernel lists it: its ports, its state, the bytes in its two queues."""

    port: int
    peer_port: int
    state: int
    queued: int


TIME_WAIT: Final = 6
LISTEN: Final = 10


def sockets(port: int) -> list[Socket]:
    """Return the live sockets with `port` on either end, its listener left out."""
    wanted = f":{port:04X} "
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        if wanted in line:
            _, own, peer, state, queues = line.split()[:5]
            ports = [int(each.rpartition(":")[2], 16) for each in (own, peer)]
            if int(state, 16) not in {TIME_WAIT, LISTEN}:
                found.append(Socket(*ports, int(state, 16), sum(int(each, 16) for each in queues.split(":"))))
    return found


class ProcessMeter:
    """Wall time, CPU time and memory of one process tree around the measured part of a workload."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.started_at = 0.0
        self.cpu_before = 0

    def start(self) -> None:
        """Begin the measured part."""
        time.sleep(SETTLE_SECONDS)
        self.cpu_before = cpu_ns(tree(self.root))
        self.started_at = time.perf_counter()

    def stop(self) -> None:
        """End it: wall time at once, CPU time when the target has come to rest."""
        self.seconds = time.perf_counter() - self.started_at
        time.sleep(SETTLE_SECONDS)
        self.cpu_seconds = (cpu_ns(tree(self.root)) - self.cpu_before) / 1e9

    def rss_bytes(self) -> int:
        """Read the resident memory once the target has come to rest."""
        time.sleep(SETTLE_SECONDS)
        return rss_bytes(tree(self.root))
