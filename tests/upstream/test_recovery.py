"""Waiting for an upstream: one attempt for all who wait, its back-off, and the pace of letting them go."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.observe.hooks import NOOP, UpstreamLost, UpstreamRecovered
from proxy.upstream.recovery import Recovery, Ticket
from support.fakes import FakeClock, FakeEdge, RecordingObserver, make_config


class World:
    """A recovery with everything around it, and who was let go."""

    def __init__(self, observer=None, **settings) -> None:
        self.clock = FakeClock()
        self.clock.jitter_value = 0.5
        """Half of the spread: delays are what the configuration says."""
        self.edge = FakeEdge(self.clock)
        self.observer = RecordingObserver() if observer is None else observer
        self.config = make_config(**settings).upstream
        self.recovery = Recovery(self.edge, self.config, self.clock, self.observer)
        self.gone: list[str] = []

    def wait(self, name: str, *, live: bool = False) -> Ticket:
        """Wait for the upstream."""
        return self.recovery.wait(lambda: self.gone.append(name), live=live)

    def pace(self, name: str) -> Ticket:
        """Take a turn."""
        return self.recovery.pace(lambda: self.gone.append(name))

    def next_delay(self) -> float:
        """Return how long it is until the next attempt, and make it."""
        before, attempts = self.clock.now(), self.edge.reach_count
        while self.edge.reach_count == attempts:
            self.clock.advance(0.01)
        return round(self.clock.now() - before, 1)


def test_one_attempt_serves_all_who_wait() -> None:
    """However many wait, one question is asked, and not before a delay: the refusal is fresh."""
    world = World()
    for name in "abc":
        world.wait(name, live=True)

    assert (world.edge.reach_count, world.clock.pending()) == (0, 1)

    world.clock.advance(0.1)

    assert (world.edge.reach_count, world.clock.pending()) == (1, 0)
    assert world.gone == []

    world.edge.reached()
    world.clock.advance()

    assert world.gone == ["a", "b", "c"]
    assert world.clock.pending() == 0


def test_live_requests_go_one_in_a_turn() -> None:
    """Other clients' calls come between them; one that has given up meanwhile takes no turn."""
    world = World()
    tickets = [world.wait(name, live=True) for name in "abcd"]
    world.clock.advance(0.1)
    world.edge.reached()

    assert world.gone == ["a"]

    tickets[1].cancel()
    world.recovery.release()

    assert world.gone == ["a"]

    world.clock.advance()

    assert world.gone == ["a", "c", "d"]
    assert (world.recovery.is_busy, world.clock.pending()) == (False, 0)


def test_delays_grow_to_the_longest() -> None:
    """Each failed attempt waits longer, up to the configured bound."""
    world = World(reconnect_min_seconds=1.0, reconnect_max_seconds=4.0)
    world.wait("a")
    delays = []
    for _ in range(6):
        delays.append(world.next_delay())
        world.edge.reached(False)

    assert delays == [1.0, 1.6, 2.6, 4.0, 4.0, 4.0]
    assert world.gone == []


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 0.8), (0.5, 1.0), (0.99, 1.2)])
def test_delays_are_spread(jitter: float, delay: float) -> None:
    """A quarter less to a quarter more, so that several proxies do not knock in step."""
    world = World(reconnect_min_seconds=1.0, reconnect_max_seconds=5.0)
    world.clock.jitter_value = jitter
    world.wait("a")

    assert world.next_delay() == delay


def test_reaching_alone_does_not_shorten_the_delays() -> None:
    """Who accepts connections may still answer 503: only an answer sets the back-off back."""
    world = World(reconnect_min_seconds=1.0, reconnect_max_seconds=5.0)
    world.wait("a")
    world.next_delay()
    world.edge.reached()
    world.wait("a")

    assert world.next_delay() == 1.6

    world.edge.reached()
    world.recovery.alive()
    world.wait("a")

    assert world.next_delay() == 1.0


def test_live_requests_go_before_the_rest() -> None:
    """All live waiters without a pause, then the others one by one at the configured pace."""
    world = World(rebuilds_per_second=10.0)
    for name in ("b1", "b2", "b3"):
        world.wait(name)
    world.wait("l1", live=True)
    world.wait("l2", live=True)
    world.clock.advance(0.1)
    world.edge.reached()

    assert world.gone == ["l1"]

    world.clock.advance()
    assert sorted(world.gone) == ["b1", "l1", "l2"]

    world.clock.advance(0.09)
    assert len(world.gone) == 3

    world.clock.advance(0.01)
    assert world.gone[3:] == ["b2"]

    world.clock.advance(1.0)
    assert world.gone[3:] == ["b2", "b3"]
    assert world.clock.pending() == 0


def test_pacing_needs_no_attempt() -> None:
    """Rebuilds that nobody refused are only spread; the first goes in the next turn."""
    world = World(rebuilds_per_second=10.0)
    world.pace("b1")
    world.pace("b2")

    assert world.gone == []

    world.clock.advance()
    assert world.gone == ["b1"]

    world.clock.advance(0.1)
    assert world.gone == ["b1", "b2"]
    assert world.edge.reach_count == 0


def test_waiters_join_the_queue_of_those_that_are_paced() -> None:
    """There is one pace: who was refused goes after who stood there already."""
    world = World(rebuilds_per_second=1.0)
    world.wait("w1")
    world.pace("b1")
    world.pace("b2")
    world.clock.advance(0.1)
    world.edge.reached()
    gone_at = []
    for _ in range(3):
        gone_at.append(list(world.gone))
        world.clock.advance(1.0)

    assert gone_at == [["b1"], ["b1", "b2"], ["b1", "b2", "w1"]]


@pytest.mark.parametrize("live", [False, True])
def test_who_waits_again_belongs_to_the_next_attempt(live: bool) -> None:
    """Refused at once when it was let go, it is not let go again before the upstream was asked again."""
    world = World()

    def ready() -> None:
        world.gone.append("l1")
        world.recovery.wait(ready, live=live)

    world.recovery.wait(ready, live=live)
    for times in (1, 2, 3):
        world.next_delay()
        world.edge.reached()
        world.clock.advance()

        assert world.gone == ["l1"] * times


def test_an_upstream_that_refuses_all_it_accepts_is_asked_with_back_off() -> None:
    """Sessions refused one after another while they are let go do not keep each other knocking."""
    world = World(rebuilds_per_second=100.0, reconnect_min_seconds=1.0, reconnect_max_seconds=5.0)
    world.edge.reachable = True
    attempts = []

    def rebuild(number: int) -> None:
        attempts.append(number)
        # The upstream accepts the connection and answers 503, a moment later.
        world.clock.call_later(0.001, lambda: world.recovery.wait(lambda: rebuild(number), live=False))

    for number in range(3):
        world.recovery.wait(lambda number=number: rebuild(number), live=False)
    world.clock.advance(20.0)

    assert world.edge.reach_count <= 6
    assert len(attempts) <= 3 * world.edge.reach_count, "each of them once per attempt"
    assert set(attempts) == {0, 1, 2}


def test_a_live_refusal_while_others_are_let_go_waits_its_delay() -> None:
    """Letting others go is no reason to ask at once for a request that was refused just now."""
    world = World(rebuilds_per_second=100.0, reconnect_min_seconds=1.0, reconnect_max_seconds=5.0)
    for name in ("b1", "b2", "b3"):
        world.pace(name)
    world.wait("l1", live=True)
    world.clock.advance(0.9)

    assert world.gone == ["b1", "b2", "b3"]

    world.clock.advance(0.1)
    world.edge.reached()

    assert world.gone == ["b1", "b2", "b3", "l1"]


@pytest.mark.parametrize("live", [False, True])
def test_a_place_can_be_given_up(live: bool) -> None:
    """Who gave up is not called, costs no turn, and its ticket holds nothing any more."""
    world = World(rebuilds_per_second=1.0)
    tickets = [world.wait(name, live=live) for name in "abc"]
    tickets[0].cancel()
    world.clock.advance(0.1)
    world.edge.reached()
    if not live:
        tickets[1].cancel()
    world.clock.advance()

    assert world.gone == (["b", "c"] if live else ["c"])
    assert [ticket.ready for ticket in tickets] == [None, None, None]

    world.clock.advance(1.0)
    assert world.clock.pending() == 0


def test_a_ticket_is_good_once() -> None:
    """Called a second time, or after it was given up, it does nothing."""
    gone = []
    ticket = Ticket(lambda: gone.append(1), is_live=True)
    ticket.call()
    ticket.call()
    given_up = Ticket(lambda: gone.append(2), is_live=True)
    given_up.cancel()
    given_up.call()

    assert gone == [1]


@pytest.mark.parametrize("live", [False, True])
def test_one_that_fails_stops_none_of_the_others(live: bool) -> None:
    """An error of one session is the event loop's to log; the others of the queue are let go all the same."""
    world = World(rebuilds_per_second=1.0)
    world.edge.reachable = True

    def fail() -> None:
        raise ValueError("one session's")

    world.recovery.wait(fail, live=live)
    world.wait("b", live=live)
    with pytest.raises(ValueError, match="one session's"):
        world.clock.advance(0.1)
    world.clock.advance(2.0)

    assert world.gone == ["b"]


def test_tickets_given_up_do_not_gather() -> None:
    """An outage in which every request gives up in its time holds as many tickets as still wait."""
    world = World()
    world.wait("stays", live=True)
    for _ in range(1000):
        world.wait("goes", live=True).cancel()

    assert len(world.recovery._waiting) <= 64

    world.clock.advance(0.1)
    world.edge.reached()

    assert world.gone == ["stays"]


def test_an_outage_is_told_once_at_each_end() -> None:
    """However many refusals and answers there are, the observer hears of one loss and one return."""
    world = World(name="files")
    world.recovery.alive()
    world.recovery.lost()
    world.clock.advance(2.5)
    world.recovery.lost()
    world.recovery.alive()
    world.recovery.alive()

    assert world.observer.told == [
        ("upstream_lost", UpstreamLost(upstream="files", reason="unreachable")),
        ("upstream_recovered", UpstreamRecovered(upstream="files", waited_seconds=2.5)),
    ]


def test_without_an_observer_nothing_is_told() -> None:
    """An outage begins and ends when nobody watches, too."""
    world = World(observer=NOOP)
    world.recovery.lost()
    world.recovery.alive()

    assert world.recovery._down_since is None


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_closed_recovery_lets_nobody_go(is_asked: bool) -> None:
    """Neither a timer nor an answer that comes late wakes anyone, and nothing is asked any more."""
    world = World()
    world.wait("l1", live=True)
    world.wait("b1")
    if is_asked:
        world.clock.advance(0.1)
    asked = world.edge.reach_count
    world.recovery.close()
    world.clock.advance(60.0)
    if is_asked:
        world.edge.reached()
    world.clock.advance(60.0)

    assert world.gone == []
    assert world.edge.reach_count == asked == is_asked
    assert world.clock.pending() == 0


def test_a_close_ends_the_pacing() -> None:
    """Who was not let go yet is forgotten."""
    world = World()
    world.pace("b1")
    world.pace("b2")
    world.clock.advance()
    world.recovery.close()
    world.clock.advance(60.0)

    assert world.gone == ["b1"]


# -- a member of a pool


def test_each_attempt_is_told_before_anybody_is_let_go() -> None:
    """Whoever judges the upstream's health has the last word on where they go."""
    world = World()
    world.recovery._attempted = lambda reached: world.gone.append(f"reached: {reached}")
    world.wait("a", live=True)
    world.next_delay()
    world.edge.reached(False)
    world.next_delay()
    world.edge.reached()

    assert world.gone == ["reached: False", "reached: True", "a"]


def test_an_error_of_who_is_told_stops_nothing() -> None:
    """The loop goes on, and the waiters go when they may."""
    world = World()

    def fail(reached: bool) -> None:
        raise ValueError(str(reached))

    world.recovery._attempted = fail
    world.wait("a", live=True)
    for reached in (False, True):
        world.next_delay()
        with pytest.raises(ValueError, match=str(reached)):
            world.edge.reached(reached)

    assert world.gone == ["a"]
    assert world.clock.pending() == 0


def test_nobody_is_asked_for_nobody() -> None:
    """When all have given up, the next attempt is the last until somebody waits again."""
    world = World()
    world.wait("a").cancel()
    world.next_delay()
    world.edge.reached(False)

    assert world.clock.pending() == 0

    world.wait("b", live=True)
    world.next_delay()
    world.edge.reached()

    assert world.gone == ["b"]


@pytest.mark.parametrize(
    ("most", "at_once", "later"),
    [(None, ["l1", "l2"], ["b1", "b2"]), (1, ["l1"], []), (3, ["l1", "l2"], ["b1"]), (0, [], [])],
)
def test_waiters_can_be_released(most: int | None, at_once: list[str], later: list[str]) -> None:
    """The live ones first and at once, the others in their turn; those beyond the number wait on."""
    world = World(rebuilds_per_second=10.0)
    world.wait("b1")
    world.wait("gone", live=True).cancel()
    world.wait("l1", live=True)
    world.wait("b2")
    world.wait("l2", live=True)

    assert world.recovery.release(most) == len(at_once) + len(later)
    assert world.gone == at_once[:1]

    world.clock.advance(0.0999)
    asked = world.edge.reach_count
    world.clock.advance(1.0)

    assert sorted(world.gone) == sorted(at_once + later)
    assert (asked, world.edge.reach_count) == (0, 0 if most is None else 1)
    if most is not None:
        world.edge.reached()
        world.clock.advance(1.0)
        assert sorted(world.gone) == ["b1", "b2", "l1", "l2"]


def test_released_while_it_is_asked() -> None:
    """The answer that comes then finds nobody, ends the loop and does no harm."""
    world = World()
    world.wait("a", live=True)
    world.clock.advance(0.1)
    world.recovery.release()
    world.edge.reached(False)

    assert world.gone == ["a"]
    assert (len(world.edge.reaches), world.clock.pending()) == (0, 0)


def test_it_can_be_watched_although_nobody_waits() -> None:
    """Asked until it is there, once; who waits here is let go then, too."""
    world = World()
    told: list[bool] = []
    world.recovery._attempted = told.append
    world.recovery.watch()
    world.recovery.watch()
    world.next_delay()
    world.edge.reached(False)
    world.next_delay()
    world.wait("a", live=True)
    world.edge.reached()

    assert (told, world.gone) == ([False, True], ["a"])
    assert world.clock.pending() == 0

    world.wait("b", live=True)
    world.recovery.release()
    assert world.clock.pending() == 0, "the watch is over"


@pytest.mark.parametrize("is_awaited", [False, True])
def test_a_watch_can_be_ended(is_awaited: bool) -> None:
    """Then it is asked only as long as somebody waits."""
    world = World()
    world.recovery.watch()
    if is_awaited:
        world.wait("a", live=True)
    world.recovery.release(0)
    world.recovery.unwatch()

    assert world.clock.pending() == is_awaited


def test_a_release_does_not_end_a_watch() -> None:
    """Those who wait elsewhere still want to know."""
    world = World()
    world.wait("a", live=True)
    world.recovery.watch()
    world.recovery.release()
    world.next_delay()

    assert (world.gone, len(world.edge.reaches)) == (["a"], 1)


def test_one_that_is_passed_by_is_not_asked() -> None:
    """While others can be had, who comes to wait here goes after the usual delay, which grows, and chooses again."""
    world = World(reconnect_min_seconds=1.0, reconnect_max_seconds=2.0)
    world.recovery.bypass(True)
    gone_at = []
    for _ in range(3):
        world.wait("a", live=True)
        world.wait("b")
        began, before = world.clock.now(), len(world.gone)
        while len(world.gone) == before:
            world.clock.advance(0.1)
        gone_at.append(round(world.clock.now() - began, 1))
        world.clock.advance(0.1)

    assert gone_at == [1.0, 1.6, 2.0]
    assert world.gone == ["a", "b"] * 3
    assert world.edge.reach_count == 0

    world.recovery.bypass(False)
    world.wait("c", live=True)
    world.next_delay()
    assert world.edge.reach_count == 1


def test_it_is_busy_while_anybody_waits() -> None:
    """In either queue; a place that was given up does not count."""
    world = World(rebuilds_per_second=10.0)
    waiting = world.wait("a")
    paced = world.pace("b")

    assert world.recovery.is_busy
    waiting.cancel()
    assert world.recovery.is_busy
    paced.cancel()
    assert not world.recovery.is_busy


def test_it_is_down_from_a_refusal_to_an_answer() -> None:
    """A connection alone is no answer."""
    world = World()

    assert not world.recovery.is_down
    world.recovery.lost()
    world.wait("a", live=True)
    world.next_delay()
    world.edge.reached()
    assert world.recovery.is_down
    world.recovery.alive()
    assert not world.recovery.is_down


class RecoveryModel(RuleBasedStateMachine):
    """Waiters that come, give up, are let go and come again, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(rebuilds_per_second=10.0, reconnect_min_seconds=1.0)
        self.tickets: list[Ticket] = []
        self.gave_up = 0

    @rule(live=st.booleans())
    def wait(self, live: bool) -> None:
        """Somebody was refused."""
        self.tickets.append(self.world.wait("any", live=live))

    @rule()
    def pace(self) -> None:
        """Somebody wants a rebuild."""
        self.tickets.append(self.world.pace("any"))

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Somebody's time is over."""
        held = [ticket for ticket in self.tickets if ticket.ready is not None]
        if held:
            data.draw(st.sampled_from(held)).cancel()
            self.gave_up += 1

    @rule(most=st.sampled_from([None, 0, 1, 5]))
    def release(self, most: int | None) -> None:
        """Another upstream is there."""
        self.world.recovery.release(most)

    @rule(is_bypassed=st.booleans())
    def bypass(self, is_bypassed: bool) -> None:
        """Others are there, or none any more."""
        self.world.recovery.bypass(is_bypassed)

    @rule(is_watched=st.booleans())
    def watch(self, is_watched: bool) -> None:
        """All are out, or one is back."""
        if is_watched:
            self.world.recovery.watch()
        else:
            self.world.recovery.unwatch()

    @rule(seconds=st.sampled_from([0.05, 0.5, 10.0]))
    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.world.clock.advance(seconds)

    @rule(outcome=st.booleans())
    def answer(self, outcome: bool) -> None:
        """The upstream is there, or is not."""
        if self.world.edge.reaches:
            self.world.edge.reached(outcome)

    @invariant()
    def everybody_is_called_once_or_waits(self) -> None:
        """Nobody is forgotten and nobody is called twice."""
        waiting = sum(ticket.ready is not None for ticket in self.tickets)

        assert len(self.tickets) == waiting + len(self.world.gone) + self.gave_up

    @invariant()
    def something_is_under_way_for_who_waits(self) -> None:
        """One attempt or its timer, and one timer of each queue, at most; none only while nobody waits."""
        attempts, timers = len(self.world.edge.reaches), self.world.clock.pending()

        assert attempts <= 1
        assert attempts + timers <= 3
        assert attempts + timers or all(ticket.ready is None for ticket in self.tickets)

    def teardown(self) -> None:
        """Once the upstream is there, everybody goes."""
        self.world.recovery.bypass(False)
        self.world.edge.reachable = True
        self.answer(outcome=True)
        self.world.clock.advance(100.0)

        assert all(ticket.ready is None for ticket in self.tickets)
        assert self.world.clock.pending() == 0


TestRecovery = RecoveryModel.TestCase
TestRecovery.settings = settings(max_examples=60, deadline=None)


def test_whoever_waits_for_one_that_is_gone_for_good_looks_again() -> None:
    """A member that was removed never comes back, but another one may be there by then."""
    clock = FakeClock()
    recovery = Recovery(FakeEdge(clock), make_config().upstream, clock, NOOP)
    recovery.close()
    told: list[str] = []
    recovery.wait(lambda: told.append("again"), live=True)
    given_up = recovery.wait(lambda: told.append("never"), live=False)
    given_up.cancel()
    clock.advance(1.0)

    assert told == ["again"]
