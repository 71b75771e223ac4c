"""The two scenarios of the failover benchmark: an upstream is killed, an upstream is swapped for another.

Owns their order of events, which is held by what upstreams, streams and the admin API show, never by waiting. Knows no
figure: a run returns what was seen.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from failover_figures import NEW, OLD, Failover, Sample, Swap, latencies, places, sampled
from failover_load import Listener, Opened, Told, all_have, listening, open_sessions, steady_calls, told, until
from failover_processes import AdminClient, CpuWatch, Proxy, Stub, StubControl, admin_of, proxy, stub
from failover_upstream import LOOK
from load import connected
from processes import Placement
from wire import Connection, LoadError, Target

JOB_POLL_SECONDS: Final = 0.05
LONGEST_SECONDS: Final = 30.0
"""After this a failover or a swap counts as failed."""
HELD_MARKS: Final = 1_000_000
"""Marks of the calls in flight begin here, those of the steady ones at 1."""
FINAL_STATES: Final = frozenset({"done", "failed", "cancelled", "rolled_back"})


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    sessions: int
    held: int
    others: int
    """Sessions beside those, over which the steady calls go."""
    rate: float
    think_seconds: float = 0.005
    """What a steady call takes on its upstream: long enough that some run there at any time."""
    settled_seconds: float = 1.5
    """How long the steady calls run before and after a change."""


class Scene:
    """What both scenarios share: the clock, the sizes, where processes run and write."""

    def __init__(self, sizes: Sizes, placement: Placement, directory: Path, settings: Mapping[str, Any]) -> None:
        self.sizes = sizes
        self.placement = placement
        self.directory = directory
        self.settings = settings
        # The log tells Unix time; both run on the same machine, and a run is too short for them to drift apart.
        self.offset = time.perf_counter() - time.time()

    @contextlib.contextmanager
    def stub(self, name: str) -> Iterator[Stub]:
        """Run an upstream."""
        with (
            (self.directory / f"{name}.log").open("w", encoding="utf-8") as log,
            stub(name, self.placement, log, self.sizes.think_seconds) as one,
        ):
            yield one

    def proxy(self, *stubs: Stub) -> contextlib.AbstractContextManager[Proxy]:
        """Run the proxy over these."""
        return proxy({each.name: each.url for each in stubs}, self.placement, self.settings, self.directory)

    def timeline(
        self, records: list[dict[str, Any]], steady: list[Told], held: list[Told], zero: float
    ) -> dict[str, Any]:
        """Return what the picture shows."""
        start, end = min(call.began_at for call in steady), max(call.at for call in steady)
        return {
            "places": sampled(places(records, self.offset), start, end, zero),
            "latencies": latencies(steady, zero),
            "held": [{"at": call.at - zero, "ms": (call.at - zero) * 1000} for call in held],
        }


@contextlib.asynccontextmanager
async def control_of(one: Stub) -> AsyncIterator[StubControl]:
    """Open a connection to a stub's own endpoint."""
    async with connected("127.0.0.1", one.port, 1) as connections:
        yield StubControl(connections)


async def lying_on(target: Target, upstream: str, count: int, others: int) -> tuple[list[bytes], list[bytes]]:
    """Open sessions until `count` lie on one upstream and `others` elsewhere; the pool decides which."""
    found: list[Opened] = []
    while True:
        here = [one.session for one in found if one.upstream == upstream]
        elsewhere = [one.session for one in found if one.upstream != upstream]
        if len(here) >= count and len(elsewhere) >= others:
            return here[:count], elsewhere[:others]
        if len(found) > 4 * (count + others):
            raise LoadError(f"only {len(here)} of {len(found)} sessions lie on {upstream}")
        found += await open_sessions(target, max(32, 2 * max(count - len(here), others - len(elsewhere))))


def hold(target: Target, connections: list[Connection], sessions: list[bytes], tool: str) -> "asyncio.Future[Any]":
    """Make one call in each session."""
    calls = [
        connection.run(told(target, session, HELD_MARKS + number, tool))
        for number, (connection, session) in enumerate(zip(connections, sessions, strict=True))
    ]
    return asyncio.gather(*calls)


def ejected_at(one: Proxy, offset: float) -> float:
    """Read from the proxy's log when the killed upstream was ejected."""
    for record in one.records():
        if record["event"] == "upstream_ejected":
            return float(record["at"]) + offset
    raise LoadError("the log does not say that the upstream was ejected")


async def run_failover(scene: Scene, number: int, scenario: str, tool: str) -> Sample:
    """Kill the upstream of many sessions, some of which have a call in flight, while others call another one."""
    sizes = scene.sizes
    with scene.stub(OLD) as old, scene.stub(NEW) as new, scene.proxy(old, new) as one:
        target = one.target
        sessions, others = await lying_on(target, OLD, sizes.sessions, sizes.others)
        async with (
            control_of(old) as old_control,
            control_of(new) as new_control,
            listening(target, sessions) as listeners,
            steady_calls(target, others, sizes.rate, 1) as steady,
            connected(target.host, target.port, sizes.held) as connections,
        ):
            await all_have(listeners, OLD, 0)
            await old_control.post(b"/hold")
            held = hold(target, connections, sessions[: sizes.held], tool)

            async def are_held() -> bool:
                status = await old_control.status()
                # The proxy has asked what kind of tools they are: as real calls, these have run for a while.
                return status["held"] == sizes.held and status["listed"] > 0

            await until(are_held, "not every call is in flight, or the proxy has not asked for the tools")
            await asyncio.sleep(sizes.settled_seconds)
            await old_control.post(b"/say")
            await all_have(listeners, OLD, 1)
            old_marks = await old_control.marks()
            killed_at = time.perf_counter()
            with CpuWatch(one.pid) as cpu:
                os.kill(old.pid, signal.SIGKILL)
                ends = await asyncio.wait_for(held, LONGEST_SECONDS)
            await all_have(listeners, NEW, 0, LONGEST_SECONDS)
            await new_control.post(b"/say")
            await all_have(listeners, NEW, 1)
            await asyncio.sleep(sizes.settled_seconds)
        # The streams were aborted and the steady calls are answered; the stub still knows what it ran.
        async with control_of(new) as new_control:
            new_marks = await new_control.marks()
        seen = Failover(
            killed_at=killed_at,
            ejected_at=ejected_at(one, scene.offset),
            heard=[listener.heard for listener in ordered(listeners, sessions)],
            held=ends,
            is_safe=tool == LOOK,
            steady=steady.ended,
            ran=(old_marks, new_marks),
            cpu=cpu.seen,
        )
        timeline = scene.timeline(one.records(), steady.ended, ends, killed_at)
    return Sample(scenario, number, seen.figures(), timeline)


def ordered(listeners: list[Listener], sessions: list[bytes]) -> list[Listener]:
    """Return the listeners in the order of their sessions."""
    by_session = {listener.session: listener for listener in listeners}
    return [by_session[session] for session in sessions]


async def run_swap(scene: Scene, number: int, scenario: str, *, with_streams: bool) -> Sample:
    """Swap the upstream of many idle sessions, while further ones call at a steady rate."""
    sizes = scene.sizes
    with scene.stub(OLD) as old, scene.stub(NEW) as new, scene.proxy(old) as one:
        target = one.target
        found = [each.session for each in await open_sessions(target, sizes.sessions + sizes.others)]
        sessions, others = found[: sizes.sessions], found[sizes.sessions :]
        async with (
            control_of(old) as old_control,
            control_of(new) as new_control,
            admin_of(one) as admin,
            listening(target, sessions if with_streams else []) as listeners,
            steady_calls(target, others, sizes.rate, 1) as steady,
        ):
            await all_have(listeners, OLD, 0)
            await old_control.post(b"/say")
            await all_have(listeners, OLD, 1)
            await asyncio.sleep(sizes.settled_seconds)
            asked_at = time.perf_counter()
            with CpuWatch(one.pid) as cpu:
                job = await swapped(admin, old, new)
                done_at = time.perf_counter()
            await all_have(listeners, NEW, 0)
            await new_control.post(b"/say")
            await all_have(listeners, NEW, 1)
            await asyncio.sleep(sizes.settled_seconds)
        async with control_of(old) as old_control, control_of(new) as new_control:
            ran = (await old_control.marks(), await new_control.marks())
        records = one.records()
        moved_at = [each["at"] + scene.offset for each in records if each["event"] == "session_moved"]
        seen = Swap(
            asked_at=asked_at,
            done_at=done_at,
            moved_at=moved_at,
            sessions=len(found),
            heard=[listener.heard for listener in listeners],
            steady=steady.ended,
            ran=ran,
            counts=job["counts"],
            cpu=cpu.seen,
        )
        timeline = scene.timeline(records, steady.ended, [], asked_at)
    return Sample(scenario, number, seen.figures(), timeline | {"job": job})


async def swapped(admin: AdminClient, old: Stub, new: Stub) -> dict[str, Any]:
    """Have one upstream put in the place of another; return the job when it is over."""
    job: dict[str, Any] = await admin.ask("POST", "/swaps", {"old": old.name, "new": new.url, "name": new.name}, 202)
    deadline = time.perf_counter() + LONGEST_SECONDS
    while job["state"] not in FINAL_STATES:
        if time.perf_counter() > deadline:
            raise LoadError(f"the swap is not done: {job}")
        await asyncio.sleep(JOB_POLL_SECONDS)
        job = await admin.ask("GET", f"/jobs/{job['id']}")
    if job["state"] != "done":
        raise LoadError(f"the swap ended otherwise: {job}")
    return job
