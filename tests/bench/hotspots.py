"""Where the CPU goes: the proxy under one load, sampled by py-spy, as shares and microseconds per unit.

Owns the sampling and its two tables; knows no workload from inside. A sample belongs to the innermost function of the
product on its stack, so what a library or the kernel does for it counts for it; without one it is the event loop's.
The microseconds are shares of the CPU per unit of a run that nobody sampled, just before. The process is not stopped
for a sample: it would nearly always stop on its way out of a system call, and a poll of one microsecond would be
charged with ten. What is sampled are the sources, as compiled functions are not on a stack of Python's. A stack that
changed while it was read is thrown away instead, about one in ten. A process that waits for its CPU looks like one
that runs, in the loop that has just been woken: that is taken out, by the CPU time.
"""

import argparse
import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from contenders import BUILD, ROOT, SOURCES, Running, interpreted, running, stub
from load import TOOLS, run_calls, run_churn
from processes import BenchError, Placement, ProcessMeter, raise_file_limit, start, stop
from run import new_event_loop
from wire import LoadError

PARTS: Final = (
    ("sorting", ("proxy/downstream/listener.py", "proxy/core/recognition.py", "proxy/registry.py")),
    ("downstream", ("proxy/downstream/",)),
    ("relay", ("proxy/relay/",)),
    ("core", ("proxy/core/",)),
    ("store", ("proxy/store/",)),
    ("upstream", ("proxy/upstream/",)),
    ("observe", ("proxy/observe/",)),
    ("rest of the product", ("proxy/",)),
)
"""Which part of the product a file belongs to: the first one that matches."""
STARTERS: Final = {"proxy/__main__.py", "proxy/cli.py", "proxy/app.py"}
"""Files on every stack: they run the loop, so that alone they say nothing."""
NOBODY: Final = "uvloop, kernel"
"""What runs with no function of the product on the stack: the event loop, its polls, its reads."""
FRAME: Final = re.compile(r"(?P<name>.+) \((?P<path>[^():]+)(?::\d+)?\)")
LOOP: Final = "the event loop: its polls, reads and writes"
BUSY: Final = 0.15
"""Samples in which the proxy waited for its CPU, to those in which it ran, above which that is said."""
RAW: Final = BUILD / "bench" / "profile.raw"


def innermost(stack: str) -> tuple[str, str]:
    """Return the part and the function a stack is charged to: its last frame inside the product."""
    for frame in reversed(stack.split(";")):
        match = FRAME.fullmatch(frame)
        if match is not None and f"{SOURCES}/proxy/" in match["path"]:
            path = match["path"].removeprefix(f"{SOURCES}/")
            if path in STARTERS:
                break
            part = next(name for name, starts in PARTS if path.startswith(starts))
            return part, f"{match['name']} ({path})"
    return NOBODY, LOOP


def charged(lines: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Add up py-spy's raw lines: samples by part, samples by function."""
    parts: Counter[str] = Counter({name: 0 for name, _ in PARTS} | {NOBODY: 0})
    functions: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip("\n").rpartition(" ")
        part, function = innermost(stack)
        parts[part] += int(count)
        functions[function] += int(count)
    return parts, functions


def table(title: str, counts: Iterable[tuple[str, int]], total: int, cpu_us: float) -> str:
    """Render one table: samples as shares and as microseconds per unit."""
    lines = [f"{title:<72} {'share':>7} {'us':>8}", "-" * 89]
    lines += [f"{name:<72} {count / total:>7.1%} {count / total * cpu_us:>8.2f}" for name, count in counts]
    return "\n".join(lines)


def loaded(one: Running, workload: str, seconds: float) -> tuple[int, ProcessMeter]:
    """Run one load; return what it counted and what was read around it."""
    meter = ProcessMeter(one.pid)
    gc.collect()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        if workload == "churn":
            return runner.run(run_churn(one.target, meter, seconds)), meter
        return runner.run(run_calls(one.target, meter, workload, seconds)), meter


def sampled(one: Running, options: argparse.Namespace, cpu: int) -> tuple[list[str], int]:
    """Sample the proxy while the load runs; return py-spy's raw lines, and in how many samples it had to wait."""
    RAW.unlink(missing_ok=True)
    command = [str(Path(sys.executable).parent / "py-spy"), "record", "--format", "raw", "--function", "--nonblocking"]
    command += ["--full-filenames", "--rate", str(options.rate), "--duration", "3600"]
    command += ["--pid", str(one.pid), "--output", str(RAW)]
    with RAW.with_suffix(".log").open("w+", encoding="utf-8") as log:
        spy = start(command, cpu, log)
        try:
            _, meter = loaded(one, options.workload, options.seconds)
        finally:
            spy.send_signal(signal.SIGINT)  # ends the recording, and writes it
            try:
                spy.wait(10)
            except subprocess.TimeoutExpired:
                stop(spy)
        log.seek(0)
        said = log.read()
    if not RAW.exists():
        raise BenchError(f"py-spy did not sample: {said.strip()}")
    taken = re.search(r"Samples: (\d+) Errors: (\d+)", said)
    runnable = int(taken[1]) + int(taken[2]) if taken is not None else 0
    return RAW.read_text(encoding="utf-8").splitlines(), max(0, runnable - round(meter.cpu_seconds * options.rate))


def main(arguments: list[str]) -> int:
    """Run the profile; return the exit code."""
    parser = argparse.ArgumentParser(description="Show where the proxy's CPU goes.")
    parser.add_argument("--workload", choices=[*TOOLS, "churn"], default="json", help="the load")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each of the two runs")
    parser.add_argument("--rate", type=int, default=400, help="samples per second")
    parser.add_argument("--top", type=int, default=15, help="functions to name")
    options = parser.parse_args(arguments)
    (BUILD / "bench").mkdir(parents=True, exist_ok=True)
    placement = Placement.choose()
    try:
        raise_file_limit()
        with (BUILD / "bench" / "output.log").open("w", encoding="utf-8") as log, stub(placement, log) as upstream_port:
            os.sched_setaffinity(0, {placement.load})
            with running(interpreted(), upstream_port, placement, log) as one:
                gc.disable()
                count, meter = loaded(one, options.workload, options.seconds)
                lines, waited = sampled(one, options, placement.load)
    except (BenchError, LoadError, OSError) as error:
        print(f"profile: {error}", file=sys.stderr)
        return 2
    parts, functions = charged(lines)
    for counts, name in ((parts, NOBODY), (functions, LOOP)):
        counts[name] = max(0, counts[name] - waited)
    total = parts.total()
    if not total:
        print("profile: the proxy was never seen running", file=sys.stderr)
        return 2
    cpu_us = meter.cpu_seconds / count * 1e6
    print(f"{options.workload}: {cpu_us:.1f} us of CPU per unit, {count / meter.seconds:,.0f}/s, {total:,} samples\n")
    if waited > total * BUSY:
        print(f"Other processes ran beside it: {waited:,} more samples, in which the proxy waited, were taken from the")
        print("event loop. On a quiet machine the shares are better.\n")
    print(table("part", [*parts.most_common(), ("together", total)], total, cpu_us), "\n")
    print(table("function, with what it calls outside the product", functions.most_common(options.top), total, cpu_us))
    print(f"\nstacks: {RAW.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
