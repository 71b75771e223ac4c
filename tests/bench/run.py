"""Run the benchmark: nginx, its like and the proxy in turn, interleaved rounds over one stub upstream, one table.

Owns the order of rounds, the failures and the report; workloads, processes and arithmetic are its
neighbours'. Ends with 1 when a workload failed, lost or doubled something, with 2 when it cannot run here; a
missed figure is only printed. The order of contenders turns with every round, so that a drift of the machine falls
on all of them alike.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from contenders import BUILD, CONTENDERS, Contender, Running, other, running, stub
from fan import run_fan_out
from figures import BASELINE, PRODUCT, WORKLOADS, Sample, as_json, judge, summarise, table
from load import TOOLS, run_calls, run_churn, run_sessions
from processes import FILES, SPARE_FILES, BenchError, Placement, ProcessMeter, clamped, raise_file_limit
from storm import run_storm
from wire import LoadError

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

T = TypeVar("T")


class Taken(NamedTuple):
    """What one run of a workload counted."""

    units: int
    bytes_per_session: float | None = None
    lost: int | None = None
    doubled: int | None = None


Measure = Callable[[Running, ProcessMeter], Coroutine[Any, Any, Taken]]

FRESH = {"fan_out", "fan_out_5k", "storm", "sessions"}
"""Workloads that need a new process each time: memory freed before would hide what a session takes."""

SIZES = ("streams", "more_streams", "clients", "sessions")
QUIET_LOAD = 0.5
"""The load average above which a run is not taken for an undisturbed one."""


def measures(options: argparse.Namespace) -> dict[str, Measure]:
    """Bind each workload to its size."""

    def calls(tool: str) -> Measure:
        async def measure(one: Running, meter: ProcessMeter) -> Taken:
            return Taken(await run_calls(one.target, meter, tool, options.seconds))

        return measure

    def fan_out(streams: int) -> Measure:
        async def measure(one: Running, meter: ProcessMeter) -> Taken:
            return Taken(*await run_fan_out(one.target, meter, streams, options.seconds))

        return measure

    async def churn(one: Running, meter: ProcessMeter) -> Taken:
        return Taken(await run_churn(one.target, meter, options.seconds))

    async def storm(one: Running, meter: ProcessMeter) -> Taken:
        outcome = await run_storm(one.target, meter, options.clients, remembers=one.remembers)
        return Taken(outcome.events, None, outcome.lost, outcome.doubled)

    async def sessions(one: Running, meter: ProcessMeter) -> Taken:
        return Taken(options.sessions, await run_sessions(one.target, meter, options.sessions))

    return {tool: calls(tool) for tool in TOOLS} | {
        "churn": churn,
        "fan_out": fan_out(options.streams),
        "fan_out_5k": fan_out(options.more_streams),
        "storm": storm,
        "sessions": sessions,
    }


def stands_in(name: str, workload: str) -> bool:
    """Say whether a contender takes part in a workload; one that was added takes part in all."""
    beside = next(each.beside for each in WORKLOADS if each.key == workload)
    return name in {BASELINE, PRODUCT, *beside} or name not in CONTENDERS


def chosen(options: argparse.Namespace) -> list[Contender]:
    """Find every contender the wanted workloads need; BenchError for one that cannot be had."""
    names = [name for name in CONTENDERS if any(stands_in(name, workload) for workload in options.only)]
    found = [CONTENDERS[name]() for name in names if name not in options.without]
    return found + [other(text, options.remembers) for text in options.add]


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
                taken = runner.run(self.measures[workload](one, meter))
        except (LoadError, OSError) as error:
            self.fail(workload, number, one, str(error))
            return
        sample = Sample(workload, one.name, number, taken.units, meter.seconds, meter.cpu_seconds, *taken[1:])
        self.samples.append(sample)
        notes = "" if sample.kib_per_session is None else f"{sample.kib_per_session:.1f} KiB"
        if sample.lost is not None:
            notes = f"{sample.seconds:.2f} s"
        print(
            f"  {workload:<10} {one.name:<10} {sample.rate:>9,.0f}/s {sample.cpu_us:>9.1f} us  {notes}",
            flush=True,
        )
        if sample.lost or sample.doubled:
            self.fail(workload, number, one, f"{sample.lost} events lost, {sample.doubled} doubled")

    def fail(self, workload: str, number: int, one: Running, why: str) -> None:
        """Keep a failure and say it."""
        self.failures.append(f"{workload}, {one.name}, round {number + 1}: {why}")
        print(f"\n  FAILED {self.failures[-1]}", flush=True)

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
                    wanted_here = [one for one in self.contenders if any(stands_in(one.name, key) for key in steady)]
                    started = [stack.enter_context(self.started(one, upstream_port)) for one in wanted_here]
                    for number in range(self.options.rounds):
                        print(f"round {number + 1} of {self.options.rounds}", flush=True)
                        for workload in steady:
                            for one in turned([each for each in started if stands_in(each.name, workload)], number):
                                self.measure(workload, number, one)
            for workload in [key for key in wanted if key in FRESH]:
                for number in range(self.options.fresh_rounds):
                    print(f"{workload}, round {number + 1} of {self.options.fresh_rounds}", flush=True)
                    fronts = [each for each in self.contenders if stands_in(each.name, workload)]
                    for contender in turned(fronts, number):
                        with self.started(contender, upstream_port) as one:
                            self.measure(workload, number, one)


def turned(items: list[T], number: int) -> list[T]:
    """Rotate a list by `number` places."""
    number %= max(1, len(items))
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
    parser = argparse.ArgumentParser(prog="tests/bench/run.py", description="Measure the proxy beside nginx.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small and short, figures mean little")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of the closed loops")
    parser.add_argument("--fresh-rounds", type=int, default=3, help="rounds of what needs a new process each time")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--streams", type=int, default=1000, help="open streams in fan_out")
    parser.add_argument("--more-streams", type=int, default=5000, help="open streams in fan_out_5k")
    parser.add_argument("--clients", type=int, default=4000, help="clients in the storm")
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
    parser.add_argument(
        "--remembers", nargs="+", default=[], metavar="NAME", help="added ones that replay from a log of their own"
    )
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", help="where the figures are written")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.fresh_rounds, options.seconds = 1, 1, 0.5
        for name, most in zip(SIZES, (200, 400, 200, 500), strict=True):
            setattr(options, name, min(getattr(options, name), most))
    options.command = shlex.join([parser.prog, *arguments])
    return options


def report(bench: Bench, before: dict[str, Any]) -> None:
    """Write the figures as JSON and print the table."""
    options = bench.options
    rows, verdicts = summarise(bench.samples), judge(bench.samples)
    keys = ("rounds", "fresh_rounds", "seconds", *SIZES)
    plain = {
        "command": options.command,
        "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": before,
        "load_average_after": os.getloadavg(),
        "versions": {contender.name: contender.version for contender in bench.contenders},
        "options": {key: getattr(options, key) for key in keys},
        "failures": bench.failures,
        **as_json(bench.samples, rows, verdicts),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    fronts = ", ".join(f"{contender.name} ({contender.version})" for contender in bench.contenders)
    print(f"\n{options.command}\n{before['cpu']}, {before['cpus']} CPUs, Linux {before['kernel']}; {fronts}")
    print("Medians of rounds, ratios inside a round (least-greatest). CPU: user and kernel, all processes.")
    print("Busy: share of its CPU; well below 100% the load was the wall, and the CPU column compares.\n")
    print(table(rows, verdicts, {name: getattr(options, name) for name in SIZES}))
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
        raise_file_limit(max(FILES, 2 * max(options.more_streams, options.clients) + SPARE_FILES))
        for name in SIZES[:3]:
            setattr(options, name, clamped(getattr(options, name), f"--{name.replace('_', '-')}"))
        contenders = chosen(options)
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
