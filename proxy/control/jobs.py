"""The jobs of the process: begun, looked up, remembered for a while.

Owns who is part of which, the comparisons under way, and members that leave once they are empty. Knows no step of a
job. Invariants: no member is part of two drains or swaps at once; a member that was to go is gone as soon as no session
is on it; an edge that was made for a comparison is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from proxy.control.base import ControlError
from proxy.control.compare import Comparison, promise_of
from proxy.control.job import Job
from proxy.control.mover import Slots
from proxy.control.orders import SWAP, Ending, Order, Work
from proxy.errors import IllegalTransition
from proxy.upstream.member import MemberState

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.config import Swap, Upstream
    from proxy.observe.hooks import Observer
    from proxy.registry import Registry
    from proxy.upstream.base import Edge
    from proxy.upstream.member import Member

REMEMBERED = 100
"""Jobs that are over and can still be looked at."""
LOOK_SECONDS = 1.0
"""How often members that are to leave are looked at."""


class Jobs:
    """All of them."""

    def __init__(
        self,
        clock: Clock,
        observer: Observer,
        settings: Callable[[], Swap],
        make_edge: Callable[[Upstream], Edge],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._make_edge = make_edge
        self._slots = Slots(1)
        """As many as are configured when a job begins."""
        self._work = Work(clock, observer, self._slots, settings, self.empty, self._ended)
        self._jobs: dict[str, Job] = {}
        self._numbers = count(1)
        self._comparisons: dict[str, Comparison] = {}
        self._leaving: dict[Member, Registry] = {}
        self._is_looking = False
        self._closing: set[asyncio.Task[None]] = set()

    # -- begun

    def start(self, order: Order) -> Job:
        """Begin to move at once.

        Raises:
            ControlError: a member is part of another job.
        """
        job = self._make(order)
        job.begin()
        return job

    def start_compared(
        self, order: Order, new: Upstream, timeout_seconds: float, *, is_strict: bool, with_tools: bool
    ) -> Job:
        """Compare first, and begin to move if nothing speaks against it.

        Args:
            order: What to do then.
            new: The new member's configuration; of one that is there already, its own.
            timeout_seconds: For each server's answers.
            is_strict: Whether any difference speaks against it.
            with_tools: Whether tools are compared.

        Raises:
            ControlError: a member is part of another job.
            ConfigError: there can be no connection to the new upstream as it is configured.
        """
        self._refuse_twice(order)
        edge = order.new.edge if order.new is not None else self._make_edge(new)
        own = edge if order.new is None else None
        job = self._make(order)
        here = (relay for relay in order.registry.relays if relay.leg.member is order.old)
        comparison = self._comparisons[job.id] = Comparison(
            self._clock, timeout_seconds, (order.old.config.url, order.old.edge), (new.url, edge), promise_of(here),
            job.compared, lambda: self._close(own), is_strict=is_strict, with_tools=with_tools,
        )  # fmt: skip
        job.begin_comparing()
        comparison.begin()
        return job

    def _make(self, order: Order) -> Job:
        self._refuse_twice(order)
        self._slots.limit = self._settings().concurrency
        if order.relay is None:
            self._leaving.pop(order.old, None)
        job = Job(f"{order.kind}-{next(self._numbers)}", order, self._work)
        self._jobs[job.id] = job
        over = [old.id for old in self._jobs.values() if old.is_over]
        for job_id in over[: max(0, len(over) - REMEMBERED)]:
            del self._jobs[job_id]
        return job

    def _refuse_twice(self, order: Order) -> None:
        if order.relay is not None:
            return
        for member in (order.old, order.new):
            if member is not None:
                self.refuse_busy(member)

    # -- looked up

    def all(self) -> list[Job]:
        """Return the jobs, the newest first."""
        return list(reversed(self._jobs.values()))

    def running(self) -> list[Job]:
        """Return those that are not over, the newest first."""
        return [job for job in self.all() if not job.is_over]

    def find(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            ControlError: there is none of that id, or it is forgotten.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise ControlError("not_found", f"there is no job {job_id}")
        return job

    def of(self, member: Member) -> Job | None:
        """Return the drain or swap that a member is part of."""
        for job in self.running():
            if job.is_exclusive and member in (job.old, job.new):
                return job
        return None

    def refuse_busy(self, member: Member) -> None:
        """Insist that a member is part of no drain or swap.

        Raises:
            ControlError: it is.
        """
        job = self.of(member)
        if job is not None:
            problem = f"{member.key} is part of {job.id} ({job.state.value}): wait for its end, or cancel it"
            raise ControlError("conflict", problem)

    def holding(self, old: Member, new: Member) -> Job | None:
        """Return the swap between two members that can be extended or taken back."""
        job = self.of(old)
        return job if job is not None and job.order.kind == SWAP and job.old is old and job.new is new else None

    # -- changed

    def extend(self, job: Job, percent: int) -> None:
        """Give a canary a larger share.

        Raises:
            ControlError: it does not hold, or the share is not larger.
        """
        if percent <= job.percent:
            raise ControlError("conflict", f"{job.id} has {job.percent} % already: a smaller share is a rollback")
        self._attempt(job, lambda: job.extend(percent), "is extended when it holds")

    def cancel(self, job: Job) -> None:
        """Stop a job where it is.

        Raises:
            ControlError: it is over.
        """
        self._attempt(job, job.cancel, "cannot be cancelled any more")

    def take_back(self, job: Job) -> None:
        """Take a swap back.

        Raises:
            ControlError: it is no swap, it is over, or it has moved nothing yet.
        """
        if job.order.kind != SWAP:
            raise ControlError("conflict", f"{job.id}: only a swap can be taken back")
        self._attempt(job, job.take_back, "cannot be taken back now")

    def _attempt(self, job: Job, change: Callable[[], None], problem: str) -> None:
        try:
            change()
        except IllegalTransition:
            raise ControlError("conflict", f"{job.id} is {job.state.value}: it {problem}") from None

    # -- members that leave

    def empty(self, registry: Registry, member: Member) -> None:
        """Remove a member as soon as no session is on it, which may be now."""
        if member.sessions == 0:
            registry.ctx.pool.remove(member)
            return
        self._leaving[member] = registry
        if not self._is_looking:
            self._is_looking = True
            self._clock.call_later(LOOK_SECONDS, self._look)

    def keep(self, member: Member) -> None:
        """Let a member that was to leave stay."""
        self._leaving.pop(member, None)

    def _look(self) -> None:
        for member, registry in tuple(self._leaving.items()):
            if member.state is not MemberState.DRAINING:
                # Taken in again, or removed by somebody.
                del self._leaving[member]
            elif member.sessions == 0:
                del self._leaving[member]
                registry.ctx.pool.remove(member)
        self._is_looking = bool(self._leaving)
        if self._is_looking:
            self._clock.call_later(LOOK_SECONDS, self._look)

    # -- ends

    def _ended(self, job: Ending) -> None:
        comparison = self._comparisons.pop(job.id, None)
        if comparison is not None:
            comparison.stop()

    def _close(self, edge: Edge | None) -> None:
        if edge is not None:
            task = asyncio.get_running_loop().create_task(edge.close())
            # The loop holds tasks weakly; one that nobody holds is collected in the middle of its work.
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Stop everything; nothing is told any more."""
        for job in self.running():
            job.cancel()
        self._leaving.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)
