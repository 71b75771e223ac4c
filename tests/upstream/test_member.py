"""One upstream at run time: what is seen of it reaches its breaker, its reconnect loop and its gate."""

from typing import Any

import pytest

from proxy.config import Health, Upstream
from proxy.core.health import HealthState
from proxy.observe.hooks import UpstreamLost, UpstreamRecovered
from proxy.upstream.member import PLACING_SECONDS, Member, MemberState, limits
from support.fakes import FakeClock, FakeEdge, RecordingObserver

CLOSED, OPEN, HALF_OPEN = HealthState
HEALTH = Health(fall=3, errors=5, rise=2, eject_after_seconds=1.0, backoff_min_seconds=1.0, timeout_seconds=2.0)


class Watched:
    """A member of a pool of several, and what it said of its health."""

    def __init__(self, *, alone: bool = False, **settings: Any) -> None:
        self.clock = FakeClock()
        self.edge = FakeEdge(self.clock)
        self.observer = RecordingObserver()
        self.member = Member(
            Upstream(name="files", **settings), "files~2", self.edge, self.clock, self.observer, HEALTH
        )
        self.changes: list[tuple[HealthState, HealthState]] = []
        self.member.changed = self.changed
        if not alone:
            self.member.take_role(is_alone=False, is_last_resort=False, is_probed=False)

    def changed(self, member: Member, before: HealthState) -> None:
        """Note a change of state."""
        assert member is self.member
        if before is not member.health.state:
            self.changes.append((before, member.health.state))

    def eject(self) -> None:
        """Let it refuse for long enough."""
        for _ in range(3):
            self.member.refused("refused")
        self.clock.advance(1.0)
        assert self.member.health.state is OPEN
        self.changes.clear()


def test_it_has_what_one_upstream_has() -> None:
    """Its name and key, and parts made of its own configuration."""
    member = Watched(max_calls=7).member

    assert (member.name, member.key, member.config.max_calls, member.gate.limit) == ("files", "files~2", 7, 7)
    assert (member.state, member.sessions, member.tools) == (MemberState.ACTIVE, 0, None)
    assert (member.is_available, member.is_ailing, member.can_be_tried) == (True, False, False)


def test_its_breaker_is_as_configured() -> None:
    """Each of the limits is the setting of that meaning."""
    health = Health(
        fall=11,
        rise=12,
        errors=13,
        eject_after_seconds=14.0,
        backoff_min_seconds=15.0,
        backoff_max_seconds=16.0,
        half_open_trials=17,
        timeout_seconds=18.0,
    )
    taken = limits(health)

    assert [getattr(taken, name) for name in taken.__struct_fields__] == [11, 12, 13, 14.0, 15.0, 16.0, 17, 18.0]


@pytest.mark.parametrize(("seen", "times"), [("refused", 3), ("timed_out", 3), ("failed", 5)])
def test_failures_eject_it_after_a_while(seen: str, times: int) -> None:
    """So many in a row, and time alone does the rest, on one timer."""
    watched = Watched()
    for _ in range(times):
        getattr(watched.member, seen)()

    assert (watched.changes, watched.clock.pending()) == ([], 1)

    watched.clock.advance(0.99)
    assert watched.changes == []
    watched.clock.advance(0.01)
    assert watched.changes == [(CLOSED, OPEN)]
    assert not watched.member.is_available


def test_an_answer_in_between_keeps_it() -> None:
    """What was counted is over, and its timer with it."""
    watched = Watched()
    for _ in range(3):
        watched.member.refused()
    watched.member.answered()
    watched.clock.advance(60.0)

    assert (watched.changes, watched.member.is_ailing) == ([], False)


@pytest.mark.parametrize("seen", ["refused", "timed_out", "failed"])
def test_answers_are_news_only_after_a_failure(seen: str) -> None:
    """From the first failure to the next answer, and not before or after."""
    watched = Watched()
    member = watched.member

    assert not member.is_ailing
    getattr(member, seen)()
    assert (member.is_ailing, member.condition) == (True, "failing")
    member.answered()
    assert (member.is_ailing, member.condition) == (False, "healthy")


def test_a_failed_probe_is_no_news_of_calls() -> None:
    """Answers are not asked for because of it: they would change nothing."""
    watched = Watched()
    watched.member.probed(False)

    assert (watched.member.is_ailing, watched.member.condition) == (False, "failing")


def test_a_refusal_begins_an_outage_and_an_answer_ends_it() -> None:
    """As the observer has always been told."""
    watched = Watched()
    watched.member.refused()
    watched.clock.advance(0.5)
    watched.member.answered()

    assert watched.observer.told == [
        ("upstream_lost", UpstreamLost(upstream="files", reason="unreachable")),
        ("upstream_recovered", UpstreamRecovered(upstream="files", waited_seconds=0.5)),
    ]


def test_an_answered_probe_ends_an_outage_too() -> None:
    """It is a request that was answered; nobody else may have one for long."""
    watched = Watched()
    watched.member.refused()
    watched.member.probed(True)

    assert watched.observer.verbs == ["upstream_lost", "upstream_recovered"]
    assert not watched.member.is_ailing


def test_a_probe_ends_no_outage_while_it_is_out() -> None:
    """One success is not enough to be back."""
    watched = Watched()
    watched.eject()
    watched.member.probed(True)

    assert watched.observer.verbs == ["upstream_lost"]

    watched.clock.advance(1.0)
    watched.member.probed(True)
    watched.member.probed(True)
    assert watched.observer.verbs == ["upstream_lost", "upstream_recovered"]


def test_failed_attempts_of_the_reconnect_loop_count() -> None:
    """One session that waits is enough to notice that it is gone."""
    watched = Watched()
    watched.edge.reachable = False
    watched.member.refused()
    watched.member.recovery.wait(lambda: None, live=True)
    watched.clock.advance(1.5)

    assert watched.changes == [(CLOSED, OPEN)]
    assert watched.member.health.reason == "unreachable"


@pytest.mark.parametrize(
    ("is_last_resort", "is_probed", "after"),
    [(False, False, HALF_OPEN), (True, False, HALF_OPEN), (True, True, HALF_OPEN), (False, True, OPEN)],
)
def test_a_connection_makes_it_half_open(is_last_resort: bool, is_probed: bool, after: HealthState) -> None:
    """But not where probes readmit it and others are there: a connection is less than a probe."""
    watched = Watched()
    watched.eject()
    watched.member.take_role(is_alone=False, is_last_resort=is_last_resort, is_probed=is_probed)
    watched.member.recovery.wait(lambda: None, live=True)
    while not watched.edge.reaches:
        watched.clock.advance(0.01)
    watched.edge.reached()

    assert watched.member.health.state is after


@pytest.mark.parametrize(("is_last_resort", "after"), [(True, CLOSED), (False, OPEN)])
def test_an_answer_brings_a_last_resort_back(is_last_resort: bool, after: HealthState) -> None:
    """Of any other it may be a late one."""
    watched = Watched()
    watched.eject()
    watched.member.take_role(is_alone=False, is_last_resort=is_last_resort, is_probed=False)
    watched.member.answered()

    assert watched.member.health.state is after


def test_time_lets_it_be_tried() -> None:
    """After the back-off it is half open: one may try, and its answer brings it back."""
    watched = Watched()
    watched.eject()

    assert (watched.member.condition, watched.member.can_be_tried) == ("ejected", False)

    watched.clock.advance(1.0)

    assert watched.changes == [(OPEN, HALF_OPEN)]
    assert (watched.member.condition, watched.member.can_be_tried) == ("half_open", True)
    assert not watched.member.is_available

    watched.member.tried()
    assert not watched.member.can_be_tried

    watched.member.answered()
    assert watched.member.is_available


def test_a_trial_that_is_not_heard_of_makes_room() -> None:
    """After the time a probe would have; the pool is told so that it can let the next one go."""
    watched = Watched()
    watched.eject()
    watched.clock.advance(1.0)
    watched.member.tried()
    watched.clock.advance(1.99)

    assert not watched.member.can_be_tried
    watched.clock.advance(0.01)
    assert watched.member.can_be_tried
    assert watched.clock.pending() == 0


def test_with_probes_time_alone_brings_nothing() -> None:
    """Sessions are not sent to try what a probe will find out."""
    watched = Watched()
    watched.member.take_role(is_alone=False, is_last_resort=False, is_probed=True)
    watched.eject()
    watched.clock.advance(600.0)

    assert (watched.member.health.state, watched.clock.pending()) == (OPEN, 0)

    watched.member.take_role(is_alone=False, is_last_resort=False, is_probed=False)
    watched.clock.advance()

    assert watched.member.health.state is HALF_OPEN


def test_alone_it_needs_no_timer() -> None:
    """There is nobody to go to, so nothing depends on when."""
    watched = Watched(alone=True)
    for _ in range(100):
        watched.member.refused()

    assert watched.clock.pending() == 0

    watched.clock.advance(1.0)
    watched.member.take_role(is_alone=False, is_last_resort=False, is_probed=False)
    watched.clock.advance()

    assert watched.changes == [(CLOSED, OPEN)], "with others beside it, what was counted counts"


@pytest.mark.parametrize("state", [MemberState.DRAINING, MemberState.REMOVED])
def test_only_an_active_one_gets_sessions(state: MemberState) -> None:
    """However well it is, and half open neither."""
    watched = Watched()
    watched.member.state = state

    assert not watched.member.is_available

    watched.member.state = MemberState.ACTIVE
    watched.eject()
    watched.clock.advance(1.0)
    watched.member.state = state

    assert not watched.member.can_be_tried


def test_sessions_on_their_way_count() -> None:
    """Until they have come, or did not come in a while: else all that open at once go to the same place."""
    watched = Watched()
    member = watched.member
    member.sessions = 5
    member.place()
    member.place()

    assert (member.load, member.sessions) == (7, 5)

    member.sessions += 1
    assert (member.load, member.sessions) == (7, 6)

    member.sessions -= 1
    assert (member.load, member.sessions) == (6, 5)

    watched.clock.advance(PLACING_SECONDS)
    assert member.load == 5

    member.sessions += 1
    assert member.load == 6


def test_its_limits_can_change() -> None:
    """Weight and labels are looked up in its configuration, the limits hold at once."""
    member = Watched().member
    member.reconfigure(Upstream(name="files", weight=9, max_calls=3))

    assert (member.config.weight, member.gate.limit) == (9, 3)


async def test_at_its_end_nothing_is_left() -> None:
    """Its edge is closed, nobody is let go any more, and no timer runs."""
    watched = Watched()
    gone: list[str] = []
    for _ in range(3):
        watched.member.refused()
    watched.member.recovery.wait(lambda: gone.append("a"), live=True)
    await watched.member.close()
    watched.clock.advance(60.0)

    assert watched.edge.is_closed
    assert (gone, watched.changes, watched.clock.pending()) == ([], [], 0)
