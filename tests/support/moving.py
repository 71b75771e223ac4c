"""Stand-ins for sessions that are moved: jobs run on real members and pools, and on relays that do as the test says.

`FakeRelay` holds the contract of `SessionRelay.move`: it answers at once what that may answer at once, and everything
else when the test says so.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from proxy.config import Swap
from proxy.control.job import Job
from proxy.control.mover import Slots
from proxy.control.orders import Order, Work
from proxy.core.session import BindingState, SessionState
from proxy.relay.move import MoveOutcome, MoveResult
from proxy.upstream.member import Member, MemberState
from support.fakes import FakeClock, RecordingObserver, make_context, make_handshake

_HANDSHAKE = make_handshake()


class FakeRelay:
    """One session, as far as jobs look at it."""

    def __init__(self, scene: "Scene", member: Member, name: str) -> None:
        self.scene = scene
        self.fingerprint = name
        self.placing_key = ""
        self.leg = SimpleNamespace(member=member, running=0)
        self.older: tuple[Any, ...] = ()
        self.is_pinned = False
        self.is_idle = False
        """Whether there is nothing to replace."""
        self.session = SimpleNamespace(
            state=SessionState.OPEN, has_tasks=False, principal=None, handshake=_HANDSHAKE,
            binding=SimpleNamespace(state=BindingState.BOUND),
        )  # fmt: skip
        self.moving: tuple[Member, Callable[[MoveResult], None]] | None = None
        self.forced = 0
        """Moves that took a task from it."""
        self.begun = 0
        member.sessions += 1

    # -- what jobs call

    def move(
        self,
        member: Member,
        done: Callable[[MoveResult], None],
        *,
        is_forced: bool = False,
        drain_seconds: float | None = None,
    ) -> None:
        """Answer at once, or note the move."""
        if self.session.state is SessionState.CLOSED:
            done(MoveResult(MoveOutcome.CLOSED))
        elif (self.is_pinned or self.session.has_tasks) and not is_forced:
            done(MoveResult(MoveOutcome.PINNED))
        elif self.moving is not None:
            done(MoveResult(MoveOutcome.FAILED, "moving"))
        else:
            assert not self.is_pinned, "what an operator has pinned is never forced"
            self.begun += 1
            self.forced += self.session.has_tasks
            self.moving = member, done
            self.scene.most_moving = max(self.scene.most_moving, len(self.scene.under_way))
            if self.is_idle:
                self.end_move(MoveOutcome.IDLE)

    # -- what the test does

    def end_move(self, outcome: MoveOutcome = MoveOutcome.MOVED, reason: str = "") -> None:
        """Report how the move under way went, and be where it says."""
        if self.moving is None:
            self.scene.clock.advance()
        assert self.moving is not None, "it is not being moved"
        (member, done), self.moving = self.moving, None
        if outcome in (MoveOutcome.MOVED, MoveOutcome.REBUILT, MoveOutcome.IDLE):
            self.session.has_tasks = False
            if self.leg.running and outcome is MoveOutcome.MOVED:
                self.older = (*self.older, self.leg)
            self.place(member)
        done(MoveResult(outcome, reason))

    def place(self, member: Member) -> None:
        """Be somewhere else from now on."""
        self.leg.member.sessions -= 1
        member.sessions += 1
        self.leg = SimpleNamespace(member=member, running=0)

    def begin_call(self) -> None:
        """Let a call run where it is."""
        self.leg.running += 1
        self.leg.member.gate.running += 1

    def end_calls(self, *, is_unknown: bool = False) -> None:
        """End the calls of all its bindings."""
        for leg in (*self.older, self.leg):
            leg.member.gate.running -= leg.running
            if is_unknown:
                leg.member.unknown += leg.running
            else:
                leg.member.finished += leg.running
            leg.running = 0
        self.older = ()

    def close(self) -> None:
        """End."""
        if self.session.state is not SessionState.CLOSED:
            self.end_calls(is_unknown=True)
            self.session.state = SessionState.CLOSED
            self.leg.member.sessions -= 1
            self.scene.relays.remove(self)
            if self.moving is not None:
                self.end_move_closed()

    def end_move_closed(self) -> None:
        """Report that the session ended while it was moved."""
        assert self.moving is not None
        (_, done), self.moving = self.moving, None
        done(MoveResult(MoveOutcome.CLOSED))


class _Passing:
    """A request without a session."""

    def __init__(self, member: Member) -> None:
        self.member = member


class Scene:
    """One route with members *a*, *b* and so on, and a job."""

    def __init__(self, *upstreams: str, concurrency: int = 4, **swap: Any) -> None:
        self.observer = RecordingObserver()
        self.ctx = make_context(observer=self.observer, upstreams=upstreams or ("a", "b"), probe="none")
        assert isinstance(self.ctx.clock, FakeClock)
        self.clock = self.ctx.clock
        self.pool = self.ctx.pool
        self.relays: list[FakeRelay] = []
        self.registry: Any = SimpleNamespace(relays=self.relays, ctx=self.ctx)
        self.slots = Slots(concurrency)
        self.swap = Swap(concurrency=concurrency, **swap)
        self.ended: list[str] = []
        self.leaving: list[Member] = []
        self.work = Work(
            self.clock, self.observer, self.slots, lambda: self.swap, self._empty, lambda job: self.ended.append(job.id)
        )
        self.most_moving = 0

    def _empty(self, _: Any, member: Member) -> None:
        assert member.state is MemberState.DRAINING, "who leaves has been drained"
        if member.sessions:
            self.leaving.append(member)
        else:
            self.pool.remove(member)
            # Its connections are closed later, by a task, for which there must be a loop.
            self.pool._leaving.pop(member).cancel()

    def member(self, name: str) -> Member:
        """Return a member that is in the pool."""
        found = self.pool.find(name)
        assert found is not None, f"no member {name}"
        return found

    def open(self, where: str | Member = "a", number: int = 1) -> list[FakeRelay]:
        """Open sessions."""
        member = where if isinstance(where, Member) else self.member(where)
        opened = [FakeRelay(self, member, f"{len(self.relays) + at:04}") for at in range(number)]
        self.relays += opened
        return opened

    def pass_through(self, where: str = "a") -> Any:
        """Begin a request without a session, and return it."""
        passing = _Passing(self.member(where))
        self.ctx.passing.add(passing)  # type: ignore[arg-type]
        return passing

    @property
    def under_way(self) -> list[FakeRelay]:
        """The sessions that are being moved now."""
        return [relay for relay in self.relays if relay.moving is not None]

    @property
    def moving(self) -> list[FakeRelay]:
        """The sessions that are being moved once the loop has had its turns: one move begins in each."""
        self.clock.advance()
        return self.under_way

    def on(self, name: str) -> list[FakeRelay]:
        """The sessions on a member."""
        return [relay for relay in self.relays if relay.leg.member.key == name]

    def job(self, kind: str = "drain", old: str = "a", new: str = "", **order: Any) -> Job:
        """Make a job that nobody has begun."""
        there = self.member(new) if new else None
        return Job("job-1", Order(kind, self.registry, self.member(old), there, **order), self.work)

    def end_moves(self, outcome: MoveOutcome = MoveOutcome.MOVED, reason: str = "") -> int:
        """End all moves, those too that begin meanwhile; returns how many there were."""
        number = 0
        while self.moving:
            self.moving[0].end_move(outcome, reason)
            number += 1
            assert number < 10_000, "moves without end"
        return number

    @property
    def states(self) -> list[str]:
        """What was told of the job."""
        return [record.state for record in self.observer.of("job_changed")]


def assert_exact(job: Job) -> None:
    """Hold the sum of an accounting."""
    counts = job.counts()
    parts = counts.moved + counts.rebuilt + counts.idle + counts.closed + counts.failed + counts.pinned
    assert counts.total == parts + counts.remaining, counts
