"""Drains, swaps, moves and refreshes: their states, their accounting, and what is so when they are over."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.control.compare import Verdict
from proxy.control.job import TICK_SECONDS, Job
from proxy.control.phases import FINAL, JobState
from proxy.core import identity
from proxy.errors import IllegalTransition
from proxy.relay.move import MoveOutcome
from proxy.upstream.member import MemberState
from support.moving import FakeRelay, Scene, assert_exact

S = JobState
O = MoveOutcome  # noqa: E741 - the letter of the word


def swap(scene: Scene, new: str = "", **order: Any) -> Job:
    """Make a swap off *a* to a member that comes with it, or to one that is there."""
    config = scene.member("a").config
    admit: Callable[[], Any] | None = None if new else lambda: scene.pool.add(config)
    order.setdefault("shown_new", "" if new else "http://new.test/mcp")
    return scene.job("swap", "a", new, admit=admit, removes=True, **order)


def begun(scene: Scene, **order: Any) -> Job:
    """Return a swap off *a* whose comparison found nothing."""
    job = swap(scene, **order)
    job.begin_comparing()
    job.compared(Verdict([]))
    return job


def tick(scene: Scene, seconds: float = TICK_SECONDS) -> None:
    """Let a job look."""
    scene.clock.advance(seconds)


# -- drain


def test_a_drain_moves_everybody_and_keeps_the_member() -> None:
    """No new session goes there, each old one goes elsewhere, and at the end the member is empty and draining."""
    scene = Scene()
    scene.open("a", 3)
    job = scene.job()
    job.begin()
    assert scene.member("a").state is MemberState.DRAINING
    assert job.state is S.MOVING
    scene.end_moves()

    assert scene.states == ["moving", "finishing", "done"]
    assert (job.counts().total, job.counts().moved) == (3, 3)
    assert scene.ended == [job.id]
    assert len(scene.on("b")) == 3
    assert scene.member("a").state is MemberState.DRAINING


def test_a_job_that_is_over_keeps_no_session() -> None:
    """Its numbers are looked at for a long time, and a closed session's log must not stay in memory for that."""
    scene = Scene()
    scene.open("a", 3)
    job = scene.job()
    job.begin()
    scene.end_moves()

    assert (job.counts().total, job.counts().moved) == (3, 3)
    assert len(job._tally) == 0
    assert not any(relay in job._forward for relay in scene.on("b"))


def test_a_member_without_sessions_is_drained_at_once() -> None:
    """There is nothing to wait for."""
    scene = Scene()
    job = scene.job()
    job.begin()

    assert job.state is S.DONE
    assert job.view().took_seconds == 0.0


def test_a_drain_spreads_sessions_as_the_pool_does() -> None:
    """Where they go is the policy's choice, each time."""
    scene = Scene("a", "b", "c")
    scene.open("a", 6)
    scene.job().begin()
    scene.end_moves()

    assert (len(scene.on("b")), len(scene.on("c"))) == (3, 3)


def test_a_drain_waits_for_running_calls() -> None:
    """The older binding of a moved session lives on until its calls have ended, and they are counted."""
    scene = Scene()
    relay, other = scene.open("a", 2)
    relay.begin_call()
    other.begin_call()
    job = scene.job()
    job.begin()
    scene.end_moves()
    assert job.state is S.FINISHING
    assert job.counts().calls_running == 2
    relay.end_calls()
    tick(scene)
    assert job.state is S.FINISHING
    other.end_calls(is_unknown=True)
    tick(scene)

    assert job.state is S.DONE
    counts = job.counts()
    assert (counts.calls_finished, counts.calls_unknown, counts.calls_running) == (1, 1, 0)


def test_the_accounting_ends_with_the_job() -> None:
    """What happens on the member later is not the job's."""
    scene = Scene()
    job = scene.job()
    job.begin()
    scene.member("a").finished += 5
    scene.clock.advance(10)

    assert job.counts().calls_finished == 0
    assert (job.view().started_seconds, job.view().took_seconds) == (10.0, 0.0)


def test_requests_without_a_session_are_waited_for_in_bounds() -> None:
    """What passes through the old member has until the deadline."""
    scene = Scene()
    scene.pass_through("a")
    job = scene.job(drain_seconds=3.0)
    job.begin()
    tick(scene)
    assert job.state is S.FINISHING
    scene.clock.advance(3.0)

    assert job.state is S.DONE


def test_sessions_that_come_late_are_moved_too() -> None:
    """One that was being opened there when the drain began is found and moved."""
    scene = Scene()
    scene.open("a")[0].begin_call()
    job = scene.job()
    job.begin()
    scene.end_moves()
    (late,) = scene.open("a")
    tick(scene)
    assert scene.moving == [late]
    late.end_move()
    scene.relays[0].end_calls()
    tick(scene)

    assert job.state is S.DONE
    assert job.counts().moved == 2


@pytest.mark.parametrize(
    ("outcome", "where"), [(O.MOVED, "moved"), (O.REBUILT, "rebuilt"), (O.IDLE, "idle"), (O.FAILED, "failed")]
)
def test_each_session_is_counted_by_its_report(outcome: MoveOutcome, where: str) -> None:
    """The report of a move decides under what a session is counted."""
    scene = Scene()
    scene.open()
    job = scene.job()
    job.begin()
    scene.end_moves(outcome, "version_mismatch")

    assert getattr(job.counts(), where) == 1
    assert_exact(job)


def test_sessions_that_no_other_member_hosts_stay() -> None:
    """A drain that leaves sessions behind has failed, and says how many and why."""
    scene = Scene()
    good, bad = scene.open("a", 2)
    job = scene.job()
    job.begin()
    bad.end_move(O.FAILED, "version_mismatch")
    good.end_move()

    assert job.state is S.FAILED
    assert job.problem == "1 of 2 sessions stay on a: version_mismatch (1)"
    assert scene.member("a").state is MemberState.DRAINING


def test_a_pinned_session_stays_and_the_drain_ends() -> None:
    """An operator's pin is stronger than an operator's drain, and is told."""
    scene = Scene()
    pinned, other = scene.open("a", 2)
    pinned.is_pinned = True
    job = scene.job(removes=True)
    job.begin()
    other.end_move()

    assert job.state is S.DONE
    assert job.problem == "1 pinned sessions stay on a"
    assert job.counts().pinned == 1
    assert scene.leaving == [scene.member("a")]


def test_a_task_holds_a_drain_until_its_time_is_over() -> None:
    """Until then the session stays with its task; then it goes without."""
    scene = Scene()
    (relay,) = scene.open()
    relay.session.has_tasks = True
    job = scene.job(drain_seconds=5.0)
    job.begin()
    scene.clock.advance(4.9)
    assert (job.state, job.counts().pinned) == (S.MOVING, 1)
    scene.clock.advance(0.2)
    scene.end_moves()

    assert (job.state, relay.forced) == (S.DONE, 1)


def test_what_leaves_for_good_is_removed_when_it_is_empty() -> None:
    """A drain that is the first half of a removal ends with it."""
    scene = Scene()
    scene.open()
    job = scene.job(removes=True)
    job.begin()
    scene.end_moves()

    assert job.state is S.DONE
    assert scene.pool.find("a") is None


# -- swap


def test_a_swap_changes_nothing_before_it_has_compared() -> None:
    """While the upstreams are asked the old one takes sessions and the new one is not there."""
    scene = Scene()
    scene.open()
    job = swap(scene)
    job.begin_comparing()

    assert job.state is S.COMPARING
    assert len(scene.pool.members) == 2
    assert scene.member("a").state is MemberState.ACTIVE
    assert scene.moving == []
    assert job.view().new == "http://new.test/mcp"


def test_a_swap_that_will_not_do_ends_where_it_began() -> None:
    """It says why and what differs; nothing has changed."""
    scene = Scene()
    scene.open()
    job = swap(scene)
    job.begin_comparing()
    job.compared(Verdict([identity.Difference("protocolVersion", "1", "2", is_loss=True)], "it speaks another version"))

    assert (job.state, job.problem) == (S.FAILED, "it speaks another version")
    assert [difference.field for difference in job.view().differences] == ["protocolVersion"]
    assert len(scene.pool.members) == 2
    assert scene.member("a").state is MemberState.ACTIVE
    assert scene.ended == [job.id]


def test_a_swap_puts_the_new_one_in_the_place_of_the_old() -> None:
    """Add, move, drain, remove: at the end the old one is gone and everybody is on the new one."""
    scene = Scene()
    scene.open("a", 5)
    scene.open("b", 2)
    job = begun(scene)
    scene.end_moves()

    assert scene.states == ["comparing", "moving", "finishing", "done"]
    assert (len(scene.on("a~2")), len(scene.on("b"))) == (5, 2)
    assert scene.pool.find("a") is job.new
    assert [member.key for member in scene.pool.members] == ["b", "a~2"]


def test_a_verdict_that_comes_too_late_changes_nothing() -> None:
    """A swap that was cancelled while it compared is over."""
    scene = Scene()
    job = swap(scene)
    job.begin_comparing()
    job.cancel()
    job.compared(Verdict([]))

    assert job.state is S.CANCELLED
    assert len(scene.pool.members) == 2
    assert scene.member("a").state is MemberState.ACTIVE


def test_a_swap_to_a_member_that_is_there_adds_nobody() -> None:
    """And what the member had already is its own."""
    scene = Scene()
    scene.open("a", 2)
    scene.open("b", 2)
    job = begun(scene, new="b")
    assert job.view().new == "b"
    scene.end_moves()

    assert job.state is S.DONE
    assert [member.key for member in scene.pool.members] == ["b"]
    assert len(scene.on("b")) == 4
    assert job.counts().total == 2


def test_a_swap_that_moves_nobody_is_taken_back() -> None:
    """When no session could be moved the old one goes on as if nothing had been, and the new one is gone."""
    scene = Scene()
    scene.open("a", 3)
    job = begun(scene)
    scene.end_moves(O.FAILED, "rebuild_refused")

    assert job.state is S.ROLLED_BACK
    assert job.problem == "no session could be moved: rebuild_refused (3)"
    assert [member.key for member in scene.pool.members] == ["a", "b"]
    assert scene.member("a").state is MemberState.ACTIVE
    assert job.counts().failed == 3


def test_a_swap_that_leaves_some_behind_has_failed() -> None:
    """The old one stays, draining, until they are gone."""
    scene = Scene()
    good, bad = scene.open("a", 2)
    job = begun(scene)
    good.end_move()
    bad.end_move(O.FAILED, "version_mismatch")

    assert job.state is S.FAILED
    assert scene.leaving == [job.old]
    assert job.old.state is MemberState.DRAINING


# -- canary


def test_a_canary_moves_its_share_and_holds() -> None:
    """Of the sessions so many of a hundred move, rounded up, and of those to come the same."""
    scene = Scene("a")
    scene.open("a", 25)
    job = begun(scene, percent=10)
    assert scene.pool.share_of(scene.member("a~2")) == 10
    scene.end_moves()

    assert (job.state, job.counts().total, job.counts().moved) == (S.HOLDING, 3, 3)
    assert scene.member("a").state is MemberState.ACTIVE
    chosen = [scene.pool.place() for _ in range(100)]
    assert sum(member is job.new for member in chosen) == 10


def test_a_canary_grows_until_it_is_everything() -> None:
    """A larger share moves as many more; all of it drains the old one."""
    scene = Scene("a")
    scene.open("a", 10)
    job = begun(scene, percent=10)
    scene.end_moves()
    job.extend(50)
    scene.end_moves()
    assert (job.state, job.counts().moved) == (S.HOLDING, 5)
    assert scene.pool.share_of(job.old) == 50
    job.extend(100)
    scene.end_moves()

    assert (job.state, job.counts().moved, job.counts().total) == (S.DONE, 10, 10)
    assert scene.pool.share_of(job.new) is None
    assert [member.key for member in scene.pool.members] == ["a~2"]


def test_a_canary_chooses_nobody_who_would_lose_by_it() -> None:
    """Pinned sessions and those with a task are not in its share."""
    scene = Scene()
    pinned, busy, free = scene.open("a", 3)
    pinned.is_pinned = busy.session.has_tasks = True
    begun(scene, percent=99)
    assert scene.moving == [free]


def test_a_canary_takes_no_task_from_anybody() -> None:
    """A task that began meanwhile keeps its session where it is, however long it takes."""
    scene = Scene("a", concurrency=1)
    relays = scene.open("a", 4)
    job = begun(scene, percent=50, drain_seconds=1.0)
    for relay in relays:
        relay.session.has_tasks = relay.moving is None
    scene.moving[0].end_move()
    tick(scene, 5.0)

    assert job.state is S.HOLDING
    assert (job.counts().moved, job.counts().pinned) == (1, 1)
    assert [relay.forced for relay in relays] == [0, 0, 0, 0]


def test_a_canary_without_sessions_holds_at_once() -> None:
    """Those to come are shared all the same."""
    scene = Scene()
    job = begun(scene, percent=10)

    assert (job.state, job.counts().total) == (S.HOLDING, 0)


# -- taken back


def test_a_swap_is_taken_back_on_request() -> None:
    """What has moved moves back, what was opened on the new one too, and the new one is gone."""
    scene = Scene("a")
    scene.open("a", 4)
    job = begun(scene, percent=50)
    scene.end_moves()
    scene.open("a~2")
    job.take_back()
    assert job.state is S.ROLLING_BACK
    assert scene.member("a").state is MemberState.ACTIVE
    scene.end_moves()

    assert job.state is S.ROLLED_BACK
    assert [member.key for member in scene.pool.members] == ["a"]
    assert len(scene.on("a")) == 5
    assert (job.counts().total, job.counts().moved, job.counts().remaining) == (3, 0, 3)


def test_moves_under_way_are_taken_back_when_they_end() -> None:
    """Who was on the way when all was taken back is not left behind."""
    scene = Scene("a", concurrency=2)
    relays = scene.open("a", 4)
    job = begun(scene)
    relays[0].end_move()
    assert scene.moving == relays[1:3]
    job.take_back()
    scene.end_moves()

    assert job.state is S.ROLLED_BACK
    assert len(scene.on("a")) == 4
    assert relays[3].begun == 0
    assert_exact(job)


def test_what_a_member_had_before_the_swap_it_keeps() -> None:
    """Back from a member that was there go only those that the job has brought."""
    scene = Scene()
    scene.open("a", 2)
    own = scene.open("b", 2)
    job = begun(scene, new="b", drain_seconds=100.0)
    scene.on("a")[0].end_move()
    job.take_back()
    scene.end_moves()

    assert job.state is S.ROLLED_BACK
    assert scene.on("b") == own
    assert scene.member("b").state is MemberState.ACTIVE


def test_a_way_back_that_is_barred_is_told() -> None:
    """Sessions that cannot go back stay on the new one, which goes on."""
    scene = Scene("a")
    bad, good = scene.open("a", 2)
    bad.begin_call()
    job = begun(scene)
    scene.end_moves()
    assert job.state is S.FINISHING
    job.take_back("enough")
    bad.end_move(O.FAILED, "unreachable")
    good.end_move()
    tick(scene)

    assert job.state is S.FAILED
    assert job.problem == "enough; 1 sessions stay on a~2, which could not be moved back"
    assert job.new is not None
    assert job.new.state is MemberState.ACTIVE
    assert (job.counts().moved, job.counts().remaining) == (1, 1)


def test_a_pin_on_the_new_one_bars_the_way_back() -> None:
    """An operator's pin holds in every direction."""
    scene = Scene("a")
    pinned, _ = scene.open("a", 2)
    job = begun(scene, percent=99)
    scene.end_moves()
    pinned.is_pinned = True
    job.take_back()
    scene.end_moves()

    assert (job.state, pinned.leg.member) == (S.FAILED, job.new)


def test_who_comes_and_goes_on_the_way_back_is_not_left_out() -> None:
    """A session that was opened on the new one a moment ago goes back too; one that stayed and ended bars nothing."""
    scene = Scene("a")
    pinned, last = scene.open("a", 2)
    job = begun(scene, percent=99)
    scene.end_moves()
    pinned.is_pinned = True
    job.take_back()
    assert scene.moving == [last]
    pinned.close()
    (late,) = scene.open("a~2")
    last.end_move()
    assert job.state is S.ROLLING_BACK
    late.end_move()

    assert job.state is S.ROLLED_BACK
    assert scene.on("a") == [last, late]
    assert (job.counts().closed, job.counts().remaining) == (1, 2)


def test_a_canary_that_was_taken_back_shares_nothing() -> None:
    """Also where the other member stays."""
    scene = Scene()
    scene.open("a", 2)
    job = begun(scene, new="b", percent=50)
    scene.end_moves()
    assert scene.pool.share_of(job.old) == 50
    job.take_back()

    assert scene.pool.share_of(job.old) is None


def test_calls_on_the_new_one_end_before_it_goes() -> None:
    """The way back leaves older bindings too, and they are waited for."""
    scene = Scene("a")
    (relay,) = scene.open("a")
    job = begun(scene, percent=99)
    scene.end_moves()
    relay.begin_call()
    job.take_back()
    scene.end_moves()
    tick(scene)
    assert job.state is S.ROLLING_BACK
    relay.end_calls()
    tick(scene)

    assert job.state is S.ROLLED_BACK


def test_who_ends_on_the_way_back_is_counted_as_closed() -> None:
    """A session that its client ends meanwhile is nowhere."""
    scene = Scene("a")
    relay, _ = scene.open("a", 2)
    job = begun(scene, percent=99)
    scene.end_moves()
    job.take_back()
    relay.close()
    scene.end_moves()

    assert job.state is S.ROLLED_BACK
    assert (job.counts().closed, job.counts().remaining) == (1, 1)


def test_too_many_failed_moves_take_a_swap_back() -> None:
    """From a share of failures on, counted over enough of them, the swap undoes itself."""
    scene = Scene("a", rollback_error_rate=0.5, rollback_min_calls=4, concurrency=1)
    scene.open("a", 6)
    job = begun(scene)
    for outcome in (O.MOVED, O.FAILED, O.FAILED):
        scene.moving[0].end_move(outcome, "rebuild_refused")
    assert job.state is S.MOVING
    scene.moving[0].end_move()

    assert job.state is S.ROLLING_BACK
    assert job.problem == "2 of 4 moves and calls went wrong on the new upstream"
    scene.end_moves()
    assert job.state is S.ROLLED_BACK
    assert len(scene.on("a")) == 6


@pytest.mark.parametrize(("rate", "unknown", "is_back"), [(0.2, 4, True), (0.2, 3, False), (0.0, 20, False)])
def test_calls_on_the_new_one_count_as_well(rate: float, unknown: int, is_back: bool) -> None:
    """A canary that holds is taken back when calls on it end unknown; at a rate of 0 nothing is."""
    scene = Scene("a", rollback_error_rate=rate, rollback_min_calls=20)
    scene.open("a", 2)
    job = begun(scene, percent=50)
    scene.end_moves()
    assert job.new is not None
    # One move went well.
    job.new.finished += 19 - unknown
    tick(scene)
    assert job.state is S.HOLDING
    job.new.unknown += unknown
    tick(scene)

    assert (job.state is not S.HOLDING) == is_back


def test_failures_on_a_member_before_the_swap_are_not_its_own() -> None:
    """What a member that was there has done before says nothing of the swap."""
    scene = Scene(rollback_min_calls=1)
    scene.open("a", 2)
    scene.member("b").unknown = 1000
    job = begun(scene, new="b")
    scene.end_moves()

    assert job.state is S.DONE


# -- one session


def test_a_move_is_about_one_session() -> None:
    """Others on the member stay, the member goes on, and it says when the older binding is done."""
    scene = Scene()
    relay, other = scene.open("a", 2)
    relay.begin_call()
    job = scene.job("move", "a", "b", relay=relay)
    job.begin()
    scene.end_moves()
    assert (job.state, job.counts().calls_running) == (S.FINISHING, 1)
    relay.end_calls()
    tick(scene)

    assert job.state is S.DONE
    assert scene.member("a").state is MemberState.ACTIVE
    assert (scene.on("a"), scene.on("b")) == ([other], [relay])
    assert not job.is_exclusive


def test_a_refresh_leaves_a_session_where_it_is() -> None:
    """It is moved to the member it is on."""
    scene = Scene()
    (relay,) = scene.open()
    job = scene.job("refresh", "a", "a", relay=relay)
    job.begin()
    scene.end_moves()

    assert (job.state, job.counts().moved, scene.on("a")) == (S.DONE, 1, [relay])


def test_a_move_that_failed_says_so() -> None:
    """The session is where it was, and the reason is told."""
    scene = Scene()
    (relay,) = scene.open()
    job = scene.job("move", "a", "b", relay=relay)
    job.begin()
    scene.end_moves(O.FAILED, "version_mismatch")

    assert (job.state, job.problem) == (S.FAILED, "1 of 1 sessions stay on a: version_mismatch (1)")


# -- cancelled


def test_a_cancelled_drain_stays_where_it_is() -> None:
    """Moves under way end, nothing more begins, and the member takes sessions again."""
    scene = Scene(concurrency=1)
    relays = scene.open("a", 3)
    job = scene.job()
    job.begin()
    relays[0].end_move()
    assert scene.moving == [relays[1]]
    job.cancel()
    scene.end_moves()
    scene.clock.advance(60)

    assert job.state is S.CANCELLED
    assert (job.counts().moved, job.counts().remaining) == (2, 1)
    assert scene.member("a").state is MemberState.ACTIVE
    assert scene.on("a") == [relays[2]]


def test_a_cancelled_rollback_leaves_both() -> None:
    """Neither member is drained, and the new one stays."""
    scene = Scene("a", concurrency=1)
    scene.open("a", 4)
    job = begun(scene, percent=50)
    scene.end_moves()
    job.take_back()
    job.cancel()
    scene.end_moves()

    assert job.state is S.CANCELLED
    assert [member.state for member in scene.pool.members] == [MemberState.ACTIVE] * 2
    assert scene.pool.share_of(job.old) is None


def test_what_is_over_is_not_changed() -> None:
    """Neither cancel nor rollback nor a larger share moves a job that has ended."""
    scene = Scene()
    job = begun(scene)
    assert job.state is S.DONE
    for change in (job.cancel, job.take_back, lambda: job.extend(100)):
        with pytest.raises(IllegalTransition):
            change()

    assert scene.states == ["comparing", "moving", "finishing", "done"]
    assert scene.clock.pending() == scene.clock.pending()


def test_nothing_is_taken_back_while_it_is_compared() -> None:
    """There is nothing yet to take back."""
    job = swap(Scene())
    job.begin_comparing()

    with pytest.raises(IllegalTransition, match="taken back in state comparing"):
        job.take_back()


def test_a_job_that_is_over_keeps_no_timer() -> None:
    """After its end nothing of it runs."""
    scene = Scene()
    relay = scene.open()[0]
    relay.begin_call()
    job = scene.job()
    before = scene.clock.pending()
    job.begin()
    scene.end_moves()
    assert scene.clock.pending() == before + 1
    relay.end_calls()
    tick(scene, 1.0)

    assert job.is_over
    assert scene.clock.pending() == before


def test_nobody_is_told_when_nobody_watches() -> None:
    """No record is made for an observer that does not look."""
    scene = Scene()
    scene.observer.is_active = False
    scene.job().begin()

    assert scene.states == []


# -- everything mixed


class Jobs(RuleBasedStateMachine):
    """A swap or a drain among sessions that open, close, call, are pinned and fail over as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None
        self.is_held = False

    @initialize(
        number=st.integers(0, 6),
        kind=st.sampled_from(["drain", "swap", "swap to b", "canary"]),
        concurrency=st.integers(1, 3),
        rate=st.sampled_from([0.0, 0.3]),
    )
    def begin(self, number: int, kind: str, concurrency: int, rate: float) -> None:
        """Begin a job on a route with sessions."""
        self.scene = Scene("a", "b", concurrency=concurrency, rollback_error_rate=rate, rollback_min_calls=4)
        self.scene.open("a", number)
        self.scene.open("b", 2)
        self.others = set(self.scene.on("b"))
        if kind == "drain":
            self.job = self.scene.job(drain_seconds=2.0)
            self.job.begin()
        else:
            percent = 40 if kind == "canary" else 100
            self.job = begun(self.scene, new="b" if kind == "swap to b" else "", percent=percent, drain_seconds=2.0)

    def some(self, data: Any) -> FakeRelay | None:
        """Choose a session."""
        return data.draw(st.sampled_from(self.scene.relays)) if self.scene.relays else None

    @rule()
    def open(self) -> None:
        """A client comes."""
        member = self.scene.pool.place()
        if member is not None:
            self.others.update(self.scene.open(member))

    @precondition(lambda self: not self.job.is_over)
    @rule(data=st.data())
    def open_late(self, data: Any) -> None:
        """A client comes that was on its way while the member still took sessions."""
        self.others.update(self.scene.open(data.draw(st.sampled_from(self.scene.pool.members))))

    @rule(data=st.data())
    def close(self, data: Any) -> None:
        """A client goes."""
        relay = self.some(data)
        if relay is not None:
            relay.close()

    @rule(data=st.data())
    def call(self, data: Any) -> None:
        """A call begins, or all end."""
        relay = self.some(data)
        if relay is not None:
            if data.draw(st.booleans()):
                relay.begin_call()
            else:
                relay.end_calls(is_unknown=data.draw(st.booleans()))

    @rule(data=st.data(), is_pinned=st.booleans())
    def pin(self, data: Any, is_pinned: bool) -> None:
        """An operator pins a session, or lets it go."""
        relay = self.some(data)
        if relay is not None:
            relay.is_pinned = is_pinned

    @rule(data=st.data(), has_tasks=st.booleans())
    def task(self, data: Any, has_tasks: bool) -> None:
        """A task begins or ends."""
        relay = self.some(data)
        if relay is not None:
            relay.session.has_tasks = has_tasks

    @rule(data=st.data())
    def fail_over(self, data: Any) -> None:
        """A session loses its binding and finds its own way."""
        relay = self.some(data)
        if relay is not None and relay.moving is None:
            relay.end_calls(is_unknown=True)
            active = [member for member in self.scene.pool.members if member.state is MemberState.ACTIVE]
            relay.place(data.draw(st.sampled_from(active)))

    @precondition(lambda self: self.scene.moving)
    @rule(data=st.data(), outcome=st.sampled_from([O.MOVED, O.MOVED, O.REBUILT, O.IDLE, O.FAILED]))
    def end_move(self, data: Any, outcome: MoveOutcome) -> None:
        """A move ends."""
        data.draw(st.sampled_from(self.scene.moving)).end_move(outcome, "rebuild_refused")

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.scene.clock.advance(seconds)

    @precondition(lambda self: self.job.state is S.HOLDING)
    @rule(percent=st.sampled_from([60, 100]))
    def extend(self, percent: int) -> None:
        """The canary grows."""
        assert self.job is not None
        if percent > self.job.percent:
            self.job.extend(percent)

    @precondition(lambda self: self.job.order.kind == "swap" and self.job.state in (S.MOVING, S.HOLDING, S.FINISHING))
    @rule()
    def take_back(self) -> None:
        """The operator has enough of it."""
        assert self.job is not None
        self.job.take_back()

    @precondition(lambda self: not self.job.is_over)
    @rule(is_meant=st.sampled_from([False, False, False, True]))
    def cancel(self, is_meant: bool) -> None:
        """The operator stops it, now and then."""
        assert self.job is not None
        if is_meant:
            self.job.cancel()

    @invariant()
    def is_exact(self) -> None:
        """Every session stands in one place, and no more move than may."""
        if self.job is None:
            return
        assert_exact(self.job)
        assert len(self.scene.moving) == self.scene.slots.taken <= self.scene.slots.limit
        for member in self.scene.pool.members:
            assert member.sessions == sum(relay.leg.member is member for relay in self.scene.relays)
        if self.job.is_over and not self.is_held:
            # Once, at the end: what clients do later is not the job's.
            self.is_held = True
            self.hold(self.job)

    def teardown(self) -> None:
        """Hold that the job comes to its end, and what is so then."""
        job = self.job
        if job is None:
            return
        for _ in range(100):
            self.scene.end_moves()
            for relay in self.scene.relays:
                relay.end_calls()
            self.scene.clock.advance(1.0)
            if job.is_over:
                break
            if job.state is S.HOLDING:
                job.extend(100)
        assert job.state in FINAL, job.state
        self.is_exact()
        assert self.scene.ended == [job.id]
        assert self.scene.states[-1] == job.state.value
        assert self.scene.moving == []
        assert self.is_held

    def hold(self, job: Job) -> None:
        """Hold what the final state promises."""
        counts, scene = job.counts(), self.scene
        on_old = [relay for relay in scene.relays if relay.leg.member is job.old]
        if job.state is S.DONE:
            assert (counts.failed, counts.remaining) == (0, 0)
            assert len(on_old) == counts.pinned
            assert all(relay.is_pinned for relay in on_old)
            if job.order.removes and not on_old:
                assert job.old.state is MemberState.REMOVED
        elif job.state is S.ROLLED_BACK:
            assert job.old.state is MemberState.ACTIVE
            if job.has_added_new:
                assert job.new is not None
                assert job.new.state is MemberState.REMOVED or job.new in scene.leaving
                assert all(relay.leg.member is not job.new for relay in scene.relays)
        elif job.state is S.CANCELLED:
            assert job.old.state is MemberState.ACTIVE
        elif job.state is S.FAILED:
            assert job.problem


TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
