"""Run the benchmark: nginx and the proxy in turn, interleaved rounds over one stub upstream, one table.

Owns the order of rounds, the failures and the report; workloads, processes and arithmetic are its
neighbours'. Ends with 1 when a workload failed or lost something, with 2 when it cannot run here; a missed
figure is only printed. The order of contenders turns with every round, so that a drift of the machine falls
on all of them alike.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, TypeVar

from contenders import BUILD, Contender, Running, nginx, other, running, session_proxy, stub
from fan import run_fan_out
from figures import WORKLOADS, Sample, as_json, summarise, table
from load import TOOLS, run_calls, run_churn, run_sessions
from processes import BenchError, Placement, ProcessMeter, raise_file_limit
from wire import LoadError

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

T = TypeVar("T")
Measure = Callable[[Running, ProcessMeter], Coroutine[Any, Any, tuple[int, float | None]]]

FRESH = {"fan_out", "sessions"}
"""Workloads that need a new process each time: memory freed before would hide what a session takes."""

QUIET_LOAD = 0.5
"""The load average above which a run is not taken for an undisturbed one."""


def measures(options: argparse.Namespace) -> dict[str, Measure]:
    """Bind each workload to its size: a run returns (units counted, resident bytes per session or None)."""

    def calls(tool: str) -> Measure:
        async def measure(one: Running, meter: ProcessMeter) -> tuple[int, float | None]:
            return await run_calls(one.target, meter, tool, options.seconds), None

        return measure

    async def churn(one: Running, meter: ProcessMeter) -> tuple[int, float | None]:
        return await run_churn(one.target, meter, options.seconds), None

    async def fan_out(one: Running, meter: ProcessMeter) -> tuple[int, float | None]:
        return await run_fan_out(one.target, meter, options.streams, options.seconds)

    async def sessions(one: Running, meter: ProcessMeter) -> tuple[int, float | None]:
        return options.sessions, await run_sessions(one.target, meter, options.sessions)

    return {tool: calls(tool) for tool in TOOLS} | {"churn": churn, "fan_out": fan_out, "sessions": sessions}


class Bench:
    """One run of the benchmark: what was measured, what failed."""

    def __init__(self, options: argparse.Namespace, contenders: list[Contender], log: TextIO) -> None:
        self.options = options
        self.contenders = contenders
        self.log = log
        self.placement = Placement.choose()
        self.measures = measures(options)
        self.samples: list[Sample] = []
        self.failures: list[str] = []

    def measure(self, workload: str, number: int, one: Running) -> None:
        """Run one workload against one contender; keep its sample or its failure."""
        meter = ProcessMeter(one.pid)
        gc.collect()
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                count, each = runner.run(self.measures[workload](one, meter))
        except (LoadError, OSError) as error:
            self.failures.append(f"{workload}, {one.name}, round {number + 1}: {error}")
            print(f"\n  FAILED {self.failures[-1]}", flush=True)
            return
        sample = Sample(workload, one.name, number, count, meter.seconds, meter.cpu_seconds, each)
        self.samples.append(sample)
        memory = "" if each is None else f"{each / 1024:.1f} KiB"
        print(
            f"  {workload:<10} {one.name:<10} {sample.rate:>9,.0f}/s {sample.cpu_us:>9.1f} us  {memory}",
            flush=True,
        )

    @contextlib.contextmanager
    def started(self, contender: Contender, upstream_port: int) -> Iterator[Running]:
        """Run a contender, with what it prints in the log."""
        self.log.write(f"--- {contender.name}\n")
        self.log.flush()
        with running(contender, upstream_port, self.placement, self.log) as one:
            yield one

    def run(self) -> None:
        """Run all rounds of all workloads asked for."""
        wanted = [workload.key for workload in WORKLOADS if workload.key in self.options.only]
        steady = [key for key in wanted if key not in FRESH]
        with stub(self.placement, self.log) as upstream_port:
            if steady:
                with contextlib.ExitStack() as stack:
                    started = [stack.enter_context(self.started(c, upstream_port)) for c in self.contenders]
                    for number in range(self.options.rounds):
                        print(f"round {number + 1} of {self.options.rounds}", flush=True)
                        for workload in steady:
                            for one in turned(started, number):
                                self.measure(workload, number, one)
            for workload in [key for key in wanted if key in FRESH]:
                for number in range(self.options.fresh_rounds):
                    print(f"{workload}, round {number + 1} of {self.options.fresh_rounds}", flush=True)
                    for contender in turned(self.contenders, number):
                        with self.started(contender, upstream_port) as one:
                            self.measure(workload, number, one)


def turned(items: list[T], number: int) -> list[T]:
    """Rotate a list by `number` places."""
    number %= len(items)
    return items[number:] + items[:number]


def machine(placement: Placement) -> dict[str, Any]:
    """Describe where the figures come from."""
    model = "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "placement": asdict(placement),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    keys = [workload.key for workload in WORKLOADS]
    parser = argparse.ArgumentParser(description="Measure the proxy beside nginx.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small and short, figures mean little")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of the closed loops")
    parser.add_argument("--fresh-rounds", type=int, default=3, help="rounds of what needs a new process each time")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--streams", type=int, default=1000, help="open streams in fan_out")
    parser.add_argument("--sessions", type=int, default=5000, help="sessions without a stream")
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, help="workloads to run")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="leave a contender out")
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more, with {port} and {upstream_port}",
    )
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", help="where the figures are written")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.fresh_rounds, options.seconds = 1, 1, 0.5
        options.streams, options.sessions = min(options.streams, 200), min(options.sessions, 500)
    return options


def report(bench: Bench, before: dict[str, Any]) -> None:
    """Write the figures as JSON and print the table."""
    options = bench.options
    rows = summarise(bench.samples)
    keys = ("rounds", "fresh_rounds", "seconds", "streams", "sessions")
    plain = {
        "machine": before,
        "load_average_after": os.getloadavg(),
        "versions": {contender.name: contender.version for contender in bench.contenders},
        "options": {key: getattr(options, key) for key in keys},
        "failures": bench.failures,
        **as_json(bench.samples, rows),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    fronts = ", ".join(f"{contender.name} ({contender.version})" for contender in bench.contenders)
    print(f"\n{before['cpu']}, {before['cpus']} CPUs, Linux {before['kernel']}; {fronts}")
    print("Medians of rounds, ratios inside a round (least-greatest). CPU: user and kernel, all processes.")
    print("Busy: share of its CPU; well below 100% the load was the wall, and the CPU column compares.\n")
    print(table(rows, {"streams": options.streams, "sessions": options.sessions}))
    load = before["load_average"][0]
    if load > QUIET_LOAD:
        print(f"\nThe machine was busy before (load average {load:.1f}). Where the load gets less of its CPU,")
        print("nginx wakes for each call alone and takes more CPU for it: the ratios come out too low.")


def main(arguments: list[str]) -> int:
    """Run the benchmark; return the exit code."""
    options = parse(arguments)
    # Both end in KeyboardInterrupt, also inside a running loop, so that whatever was started is ended too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    began = time.monotonic()
    (BUILD / "bench").mkdir(parents=True, exist_ok=True)
    try:
        raise_file_limit()
        contenders = [nginx(), session_proxy(), *[other(text) for text in options.add]]
        contenders = [contender for contender in contenders if contender.name not in options.without]
        with (BUILD / "bench" / "output.log").open("w", encoding="utf-8") as log:
            bench = Bench(options, contenders, log)
            before = machine(bench.placement)
            os.sched_setaffinity(0, {bench.placement.load})
            gc.disable()  # between the measurements, not in them
            bench.run()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    report(bench, before)
    print(f"\n{time.monotonic() - began:.0f} s; written to {options.json}")
    for failure in bench.failures:
        print(f"FAILED {failure}")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
