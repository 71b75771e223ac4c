"""Run the failover benchmark: kill the upstream of a thousand sessions, swap it for another, tell what clients saw.

Owns the order of runs, the failures and the report; scenarios, processes and arithmetic are its neighbours'. Ends with
1 when a run failed or a call or an event was lost, doubled or wrong, with 2 when it cannot run here; a missed figure is
only printed. The proxy runs with its defaults but where a scenario says otherwise.
"""

import argparse
import asyncio
import gc
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

from contenders import BUILD, ROOT
from failover_figures import Sample, as_json, broken, summarise
from failover_report import PICTURE, markdown, picture, placed, table
from failover_runs import Scene, Sizes, run_failover, run_swap
from failover_upstream import CHANGE, LOOK
from processes import BenchError, Placement, raise_file_limit
from run import QUIET_LOAD, machine, new_event_loop
from wire import LoadError

DIRECTORY: Final = BUILD / "bench" / "failover"
"""Where configuration and logs of the last run are."""
DOCUMENT: Final = ROOT / "analysis" / "failover.md"


class Scenario(NamedTuple):
    """One kind of run."""

    title: str
    settings: dict[str, Any]
    """What differs from the defaults."""


SCENARIOS: Final = {
    "failover": Scenario("failover, reading calls in flight", {}),
    "failover_unsafe": Scenario("failover, other calls in flight", {}),
    "failover_tuned": Scenario(
        "failover, ejected at once and paced wider",
        {"health.eject_after_seconds": 0.0, "upstream.rebuilds_per_second": 1000.0},
    ),
    "swap": Scenario("swap, each session with a stream", {}),
    "swap_quiet": Scenario("swap, sessions without a stream", {}),
}


def measure(scenario: str, scene: Scene, number: int) -> Coroutine[Any, Any, Sample]:
    """Begin one run."""
    if scenario.startswith("swap"):
        return run_swap(scene, number, scenario, with_streams=scenario == "swap")
    return run_failover(scene, number, scenario, CHANGE if scenario == "failover_unsafe" else LOOK)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tests/bench/failover.py", description="Measure failovers and swaps.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small, figures mean little")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each scenario")
    parser.add_argument("--sessions", type=int, default=1000, help="sessions on the upstream that goes")
    parser.add_argument("--held", type=int, default=100, help="calls in flight there")
    parser.add_argument("--others", type=int, default=100, help="further sessions, with the steady calls")
    parser.add_argument("--rate", type=float, default=500.0, help="steady calls per second")
    keys = list(SCENARIOS)
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, help="scenarios to run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the proxy in every scenario"
    )
    parser.add_argument("--json", type=Path, default=BUILD / "bench-failover.json", help="where figures are written")
    parser.add_argument("--document", action="store_true", help=f"put the figures into {DOCUMENT.name}, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.sessions, options.held, options.others, options.rate = 1, 60, 10, 20, 100.0
    options.held = min(options.held, options.sessions)
    options.settings = dict(setting(each) for each in options.set)
    options.command = shlex.join([parser.prog, *[word for word in arguments if word != "--document"]])
    return options


def setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value that is no number, true or false is a text."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


class Bench:
    """One run of the benchmark: what was measured, what failed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sizes = Sizes(options.sessions, options.held, options.others, options.rate)
        self.placement = Placement.choose()
        self.samples: list[Sample] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Run all rounds of all scenarios asked for, one after the other."""
        for number in range(self.options.rounds):
            for scenario in self.options.only:
                settings = SCENARIOS[scenario].settings | self.options.settings
                scene = Scene(self.sizes, self.placement, DIRECTORY, settings)
                began_at = time.monotonic()
                gc.collect()
                try:
                    with asyncio.Runner(loop_factory=new_event_loop) as runner:
                        sample = runner.run(measure(scenario, scene, number))
                except (LoadError, OSError, TimeoutError) as error:
                    self.failures.append(f"{scenario}, round {number + 1}: {error!r}")
                    print(f"\n  FAILED {self.failures[-1]}", flush=True)
                    continue
                self.samples.append(sample)
                print(f"  round {number + 1}, {scenario}: {time.monotonic() - began_at:.1f} s", flush=True)

    def result(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return everything as it is written to JSON."""
        options = self.options
        rows = summarise(self.samples)
        self.failures += broken(rows)
        settings = {name: one.settings | options.settings for name, one in SCENARIOS.items() if name in options.only}
        return {
            "command": options.command,
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": before,
            "load_average_after": os.getloadavg(),
            "versions": {"Python": sys.version.split()[0]},
            "options": {key: getattr(options, key) for key in ("rounds", "sessions", "held", "others", "rate")},
            "scenarios": {name: SCENARIOS[name].title for name in options.only},
            "settings": settings,
            "failures": self.failures,
            **as_json(self.samples, rows),
        }


def report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the figures as JSON, print the table, put both and the picture into the document if asked."""
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    options.json.with_suffix(".svg").write_text(picture(result), encoding="utf-8")
    before = result["machine"]
    print(f"\n{options.command}\n{before['cpu']}, {before['cpus']} CPUs, Linux {before['kernel']}")
    print("Medians of rounds, with the least and the greatest. Percentiles are of one round's sessions or calls.\n")
    print(table(result))
    if before["load_average"][0] > QUIET_LOAD:
        print(f"\nThe machine was busy before (load average {before['load_average'][0]:.1f}).")
    if options.document:
        DOCUMENT.write_text(placed(DOCUMENT.read_text(encoding="utf-8"), markdown(result)), encoding="utf-8")
        (DOCUMENT.parent / PICTURE).write_text(picture(result), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run the benchmark; return the exit code."""
    options = parse(arguments)
    # Both end in KeyboardInterrupt, also inside a running loop, so that whatever was started is ended too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    began = time.monotonic()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    try:
        raise_file_limit()
        bench = Bench(options)
        before = machine(bench.placement)
        os.sched_setaffinity(0, {bench.placement.load})
        gc.disable()  # between the runs, not in them
        bench.run()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    result = bench.result(before)
    report(options, result)
    print(f"\n{time.monotonic() - began:.0f} s; written to {options.json}")
    for failure in bench.failures:
        print(f"FAILED {failure}")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
