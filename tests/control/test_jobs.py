"""The jobs of the process: who is part of which, what is remembered, and what leaves at last."""

import asyncio
from typing import Any

import pytest

from proxy.control.base import ControlError
from proxy.control.job import Job
from proxy.control.jobs import LOOK_SECONDS, REMEMBERED, Jobs
from proxy.control.orders import Order
from proxy.upstream.member import MemberState
from support.fakes import FakeEdge, initialize_answer
from support.moving import Scene


class Desk:
    """A scene, and the jobs on it."""

    def __init__(self, *upstreams: str, **swap: Any) -> None:
        self.scene = Scene(*upstreams, **swap)
        self.edges: list[FakeEdge] = []
        self.jobs = Jobs(self.scene.clock, self.scene.observer, lambda: self.scene.swap, self.make_edge)

    def make_edge(self, _: Any) -> Any:
        """Make an edge for a comparison."""
        self.edges.append(FakeEdge(self.scene.clock))
        return self.edges[-1]

    def order(self, kind: str = "drain", old: str = "a", new: str = "", **more: Any) -> Order:
        """Return what to do."""
        scene = self.scene
        return Order(kind, scene.registry, scene.member(old), scene.member(new) if new else None, **more)

    def swap(self, new: str = "", **more: Any) -> Job:
        """Begin a swap off *a*."""
        scene = self.scene
        config = scene.member(new or "a").config
        admit = None if new else lambda: scene.pool.add(config)
        order = self.order("swap", "a", new, admit=admit, removes=True, **more)
        return self.jobs.start_compared(order, config, 10.0, is_strict=False, with_tools=False)

    def agree(self) -> None:
        """Let every server answer who it is, all the same."""
        members = [member.edge for member in self.scene.pool.members]
        for edge in (*members, *self.edges):
            assert isinstance(edge, FakeEdge)
            for attempt in edge.find(rpc="initialize"):
                attempt.json(200, initialize_answer(request_id=attempt.message["id"]))
        self.scene.clock.advance()


def refused(change: Any, *given: Any) -> str:
    """Return why a change is refused as a conflict."""
    with pytest.raises(ControlError) as error:
        change(*given)
    assert error.value.code == "conflict"
    return str(error.value)


def test_jobs_are_named_by_kind_and_number() -> None:
    """The newest is listed first, and each is found by its name."""
    desk = Desk("a", "b", "c")
    first = desk.jobs.start(desk.order())
    second = desk.jobs.start(desk.order(old="b"))

    assert (first.id, second.id) == ("drain-1", "drain-2")
    assert desk.jobs.all() == [second, first]
    assert desk.jobs.find("drain-1") is first
    with pytest.raises(ControlError, match="there is no job drain-3") as error:
        desk.jobs.find("drain-3")
    assert error.value.code == "not_found"


def test_a_member_is_part_of_one_job() -> None:
    """Neither where sessions go nor where they leave takes part in another drain or swap."""
    desk = Desk("a", "b", "c")
    desk.scene.open("a")
    job = desk.swap("b")
    words = "part of swap-1 (comparing): wait for its end, or cancel it"
    assert refused(desk.jobs.start, desk.order()) == f"a is {words}"
    assert refused(desk.jobs.start, desk.order(old="b")) == f"b is {words}"
    assert refused(desk.jobs.start, desk.order("swap", "c", "b")) == f"b is {words}"
    assert desk.jobs.running() == [job]
    desk.agree()
    desk.scene.end_moves()

    assert desk.jobs.running() == []
    assert desk.jobs.of(desk.scene.member("b")) is None
    desk.jobs.start(desk.order(old="b"))


def test_a_refused_job_leaves_nothing() -> None:
    """It is not listed, and no server was asked."""
    desk = Desk()
    desk.scene.open("a")
    desk.jobs.start(desk.order())
    refused(desk.swap)

    assert len(desk.jobs.all()) == 1
    assert desk.edges == []


def test_sessions_are_moved_beside_all_jobs() -> None:
    """A move or refresh is about one session, and members do not matter."""
    desk = Desk()
    relay, other = desk.scene.open("a", 2)
    desk.jobs.start(desk.order())
    desk.jobs.start(desk.order("move", "a", "b", relay=other))
    desk.scene.end_moves()
    desk.scene.clock.advance(1.0)

    assert [job.state.value for job in desk.jobs.all()] == ["done", "done"]
    assert desk.scene.on("b") == [relay, other]
    assert (relay.begun, other.begun) == (1, 1)


def test_as_many_moves_run_as_are_configured_when_a_job_begins() -> None:
    """All jobs together."""
    desk = Desk("a", "b", "c", concurrency=2)
    desk.scene.open("a", 3)
    desk.scene.open("b", 3)
    desk.jobs.start(desk.order())
    desk.jobs.start(desk.order(old="b"))

    assert len(desk.scene.moving) == 2


def test_old_jobs_are_forgotten() -> None:
    """So many that are over are remembered; one that runs never is forgotten."""
    desk = Desk("a", "b", "c")
    desk.scene.open("a")
    running = desk.jobs.start(desk.order())
    for _ in range(REMEMBERED + 10):
        desk.jobs.start(desk.order(old="b"))
        desk.scene.pool.undrain(desk.scene.member("b"))

    assert len(desk.jobs.all()) == REMEMBERED + 2, "those, the last one, and the one that runs"
    assert desk.jobs.find(running.id) is running


# -- comparisons


async def test_the_edge_of_a_comparison_is_closed() -> None:
    """Whatever came of it; the pool makes its own."""
    desk = Desk()
    desk.swap()
    desk.agree()
    await asyncio.sleep(0)

    assert [edge.is_closed for edge in desk.edges] == [True]
    assert desk.scene.member("a~2").edge is not desk.edges[0]


async def test_a_cancelled_comparison_is_cut() -> None:
    """Nobody is asked any longer, and nothing has changed."""
    desk = Desk()
    job = desk.swap()
    desk.jobs.cancel(job)
    desk.scene.clock.advance()
    await asyncio.sleep(0)

    assert desk.edges[0].is_closed
    assert desk.edges[0].open == []
    assert len(desk.scene.pool.members) == 2


async def test_the_edge_of_a_member_is_not_closed() -> None:
    """A swap to a member that is there asks it over its own edge."""
    desk = Desk()
    desk.swap("b")
    desk.agree()
    await asyncio.sleep(0)

    assert desk.edges == []
    edge = desk.scene.member("b").edge
    assert isinstance(edge, FakeEdge)
    assert not edge.is_closed


# -- what an operator changes


async def test_a_canary_is_found_and_extended() -> None:
    """By its two members, with a larger share, when it holds."""
    desk = Desk("a")
    desk.scene.open("a", 4)
    job = desk.swap(percent=50)
    desk.agree()
    assert job.new is not None
    assert desk.jobs.holding(job.old, job.new) is job
    assert refused(desk.jobs.extend, job, 100) == "swap-1 is moving: it is extended when it holds"
    desk.scene.end_moves()
    assert refused(desk.jobs.extend, job, 50) == "swap-1 has 50 % already: a smaller share is a rollback"
    desk.jobs.extend(job, 100)
    desk.scene.end_moves()
    assert job.state.value == "done"
    assert desk.jobs.holding(job.old, job.new) is None
    assert refused(desk.jobs.cancel, job) == "swap-1 is done: it cannot be cancelled any more"
    assert refused(desk.jobs.take_back, job) == "swap-1 is done: it cannot be taken back now"


async def test_only_a_swap_is_taken_back() -> None:
    """A drain is undone by taking the member in again."""
    desk = Desk("a", "b")
    desk.scene.open("a", 2)
    drain = desk.jobs.start(desk.order())
    assert refused(desk.jobs.take_back, drain) == "drain-1: only a swap can be taken back"
    assert desk.jobs.holding(drain.old, desk.scene.member("b")) is None
    desk.jobs.cancel(drain)
    swap = desk.swap("b")
    assert refused(desk.jobs.take_back, swap) == "swap-2 is comparing: it cannot be taken back now"
    desk.agree()
    desk.jobs.take_back(swap)
    desk.scene.end_moves()

    assert swap.state.value == "rolled_back"


# -- who leaves


async def test_a_member_leaves_when_its_last_session_has_gone() -> None:
    """A pinned session keeps a swapped member in being, and nothing longer than that."""
    desk = Desk()
    (relay,) = desk.scene.open("a")
    relay.is_pinned = True
    job = desk.swap("b")
    desk.agree()
    assert job.state.value == "done"
    desk.scene.clock.advance(3 * LOOK_SECONDS)
    assert job.old.state is MemberState.DRAINING
    relay.close()
    desk.scene.clock.advance(LOOK_SECONDS)

    assert job.old.state is MemberState.REMOVED
    before = desk.scene.clock.pending()
    desk.scene.clock.advance(LOOK_SECONDS)
    assert desk.scene.clock.pending() == before, "nobody looks any longer"


@pytest.mark.parametrize("how", ["kept", "taken in", "drained again"])
async def test_a_member_that_is_wanted_again_stays(how: str) -> None:
    """Who takes it in again has the last word."""
    desk = Desk()
    (relay,) = desk.scene.open("a")
    relay.is_pinned = True
    job = desk.swap("b")
    desk.agree()
    if how == "kept":
        desk.jobs.keep(job.old)
    elif how == "taken in":
        desk.scene.pool.undrain(job.old)
    else:
        desk.jobs.start(desk.order())
    relay.close()
    desk.scene.clock.advance(2 * LOOK_SECONDS)

    assert job.old.state is (MemberState.ACTIVE if how == "taken in" else MemberState.DRAINING)


async def test_an_empty_member_leaves_at_once() -> None:
    """There is nobody to wait for."""
    desk = Desk()
    job = desk.swap("b")
    desk.agree()

    assert job.old.state is MemberState.REMOVED


async def test_at_the_end_everything_stops() -> None:
    """Jobs are cancelled, comparisons cut, and their edges closed."""
    desk = Desk("a", "b", "c")
    desk.scene.open("b")
    desk.swap()
    desk.jobs.start(desk.order(old="b"))
    ending = asyncio.ensure_future(desk.jobs.close())
    await asyncio.sleep(0)
    desk.scene.clock.advance()
    await ending
    await asyncio.sleep(0)

    assert {job.state.value for job in desk.jobs.all()} == {"cancelled"}
    assert desk.edges[0].is_closed
