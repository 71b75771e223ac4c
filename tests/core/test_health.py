"""The breaker of one upstream: its table, its counts, its back-off and its trials."""

from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.core.health import HEALTH, Count, Health, HealthState, Limits, Row, Signal

CLOSED, OPEN, HALF_OPEN = HealthState
S = Signal
LIMITS = Limits(
    fall=3,
    rise=2,
    errors=5,
    eject_after_seconds=1.0,
    backoff_min_seconds=1.0,
    backoff_max_seconds=8.0,
    trials=1,
    trial_seconds=2.0,
)


class Told:
    """A breaker and the instant at which it is told what happens."""

    def __init__(self, **limits: object) -> None:
        self.now = 100.0
        self.health = Health(
            Limits(**{**{name: getattr(LIMITS, name) for name in Limits.__struct_fields__}, **limits}), self.now
        )

    def tell(self, *signals: Signal, times: int = 1, after: float = 0.0) -> HealthState:
        """Let time pass and tell it the signals, several times over; return the state after."""
        self.now += after
        for signal in signals * times:
            self.health.receive(signal, self.now)
        return self.health.state

    def eject(self) -> None:
        """Eject it at once."""
        self.tell(S.REFUSED, times=3)
        assert self.tell(S.DUE, after=1.0) is OPEN


def test_every_pair_has_a_row() -> None:
    """Nothing that can be learnt is unexpected in any state."""
    assert set(HEALTH) == set(product(HealthState, Signal))


@pytest.mark.parametrize(("state", "signal"), list(HEALTH))
def test_a_row_moves_only_where_it_may(state: HealthState, signal: Signal) -> None:
    """CLOSED leads to OPEN alone, and from there every way leads over what shows that it is back."""
    ways = {
        CLOSED: {S.REFUSED: OPEN, S.TIMED_OUT: OPEN, S.FAILED: OPEN, S.PROBE_FAILED: OPEN, S.DUE: OPEN},
        OPEN: {S.SERVED: CLOSED, S.PROBE_OK: CLOSED, S.REACHED: HALF_OPEN, S.DUE: HALF_OPEN},
        HALF_OPEN: {
            **dict.fromkeys((S.ANSWERED, S.SERVED, S.PROBE_OK), CLOSED),
            **dict.fromkeys((S.REFUSED, S.TIMED_OUT, S.FAILED, S.PROBE_FAILED), OPEN),
        },
    }

    assert HEALTH[state, signal].state is ways[state].get(signal, state)


@pytest.mark.parametrize(("signal", "times"), [(S.REFUSED, 3), (S.TIMED_OUT, 3), (S.FAILED, 5), (S.PROBE_FAILED, 3)])
def test_so_many_failures_in_a_row_eject(signal: Signal, times: int) -> None:
    """One less leaves it in use however long it lasts; with the last one it is out if the first is old enough."""
    told = Told()

    assert told.tell(signal, times=times - 1) is CLOSED
    assert told.tell(S.DUE, after=60.0) is CLOSED
    assert told.tell(signal) is OPEN


@pytest.mark.parametrize("signal", [S.REFUSED, S.TIMED_OUT, S.FAILED, S.PROBE_FAILED])
def test_many_failures_at_once_eject_nobody_yet(signal: Signal) -> None:
    """A restart in place looks like that: only after a while it is out, and time alone says so."""
    told = Told()

    assert told.tell(signal, times=100) is CLOSED
    assert told.health.due_at() == 101.0
    assert told.tell(S.DUE, after=0.99) is CLOSED
    assert told.tell(S.DUE, after=0.01) is OPEN


@pytest.mark.parametrize(
    ("failure", "times", "relief", "is_over"),
    [
        (S.REFUSED, 2, S.ANSWERED, True),
        (S.REFUSED, 2, S.SERVED, True),
        (S.REFUSED, 2, S.PROBE_OK, True),
        (S.REFUSED, 2, S.REACHED, False),
        (S.TIMED_OUT, 2, S.ANSWERED, True),
        (S.TIMED_OUT, 2, S.PROBE_OK, True),
        (S.FAILED, 4, S.ANSWERED, True),
        (S.FAILED, 4, S.PROBE_OK, False),
        (S.PROBE_FAILED, 2, S.ANSWERED, False),
        (S.PROBE_FAILED, 2, S.PROBE_OK, True),
    ],
)
def test_what_ends_a_row_of_failures(failure: Signal, times: int, relief: Signal, is_over: bool) -> None:
    """An answer ends what clients see, a probe what only it sees; a mere connection ends nothing."""
    told = Told()
    told.tell(failure, times=times)
    told.tell(relief, after=5.0)

    assert told.tell(failure) is (CLOSED if is_over else OPEN)


def test_refusals_and_silence_count_together() -> None:
    """Whether it refuses or says nothing: nobody is served there."""
    told = Told()
    told.tell(S.REFUSED, S.TIMED_OUT)

    assert told.tell(S.REFUSED, after=2.0) is OPEN


def test_errors_and_silence_count_apart() -> None:
    """Two of one kind and four of the other are not enough of either."""
    told = Told()

    assert told.tell(*[S.FAILED] * 4, *[S.REFUSED] * 2) is CLOSED
    assert told.tell(S.DUE, after=60.0) is CLOSED


def test_the_age_is_that_of_the_row() -> None:
    """What was over before the row began makes it no older."""
    told = Told()
    told.tell(S.REFUSED)
    told.tell(S.ANSWERED)

    assert told.tell(S.REFUSED, times=3, after=50.0) is CLOSED
    assert told.health.due_at() == 151.0


def test_probes_readmit_after_so_many_in_a_row() -> None:
    """A failure between them begins the row anew."""
    told = Told()
    told.eject()

    assert told.tell(S.PROBE_OK, after=2.0) is OPEN
    told.tell(S.PROBE_FAILED)
    assert told.tell(S.PROBE_OK) is OPEN
    told.tell(S.REFUSED)
    assert told.tell(S.PROBE_OK) is OPEN
    assert told.tell(S.PROBE_OK) is CLOSED


def test_probes_readmit_nobody_before_the_back_off_is_over() -> None:
    """One that answers probes and fails clients would come and go at the pace of the probes."""
    told = Told()
    told.eject()

    assert told.tell(S.PROBE_OK, times=5, after=0.9) is OPEN
    assert told.tell(S.PROBE_OK, after=0.1) is CLOSED


@pytest.mark.parametrize("signal", [S.ANSWERED, S.TRIED])
def test_an_ejected_one_stays_out_whatever_was_under_way(signal: Signal) -> None:
    """A server that stops finishes its calls, which is no sign that it takes others."""
    told = Told()
    told.eject()

    assert told.tell(signal, times=10, after=100.0) is OPEN


def test_one_that_serves_as_a_last_resort_is_back_at_once() -> None:
    """Sessions go there anyway, so an answer is as good a sign as there is."""
    told = Told()
    told.eject()

    assert told.tell(S.SERVED) is CLOSED


def test_it_is_half_open_when_the_back_off_is_over() -> None:
    """Not before; and then one session may try it, whose answer readmits it."""
    told = Told()
    told.eject()

    assert told.health.due_at() == told.now + 1.0
    assert told.tell(S.DUE, after=0.9) is OPEN
    assert told.tell(S.DUE, after=0.1) is HALF_OPEN
    assert told.health.free_trials(told.now) == 1
    assert told.tell(S.ANSWERED) is HALF_OPEN, "nobody has tried it: the answer was under way before"

    told.tell(S.TRIED)

    assert told.health.free_trials(told.now) == 0
    assert told.tell(S.ANSWERED) is CLOSED


def test_one_that_can_be_reached_again_is_half_open() -> None:
    """Whoever waited for it tries it, without waiting for the back-off."""
    told = Told()
    told.eject()

    assert told.tell(S.REACHED) is HALF_OPEN


@pytest.mark.parametrize("signal", [S.REFUSED, S.TIMED_OUT, S.FAILED, S.PROBE_FAILED])
def test_a_failed_trial_ejects_at_once(signal: Signal) -> None:
    """Half open, one failure is enough, and the back-off doubles up to the longest."""
    told = Told()
    told.eject()
    waits = []
    for _ in range(5):
        waits.append(told.health.retry_at - told.now)
        told.tell(S.DUE, after=waits[-1])
        told.tell(S.TRIED)
        assert told.tell(signal) is OPEN

    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_trial_without_a_word_makes_room_for_the_next() -> None:
    """Its session may have gone for reasons of its own; late, its answer still counts."""
    told = Told(trials=2)
    told.eject()
    told.tell(S.REACHED)
    told.tell(S.TRIED)
    told.tell(S.TRIED, after=0.5)

    assert told.health.free_trials(told.now) == 0
    assert told.health.due_at() == told.now + 1.5

    assert told.tell(S.DUE, after=1.5) is HALF_OPEN
    assert told.health.free_trials(told.now) == 1
    assert told.health.due_at() == told.now + 0.5

    assert told.tell(S.DUE, after=0.5) is HALF_OPEN
    assert told.health.due_at() is None
    assert told.tell(S.ANSWERED) is CLOSED


def test_soon_ejected_again_it_stays_away_twice_as_long() -> None:
    """Only after it was well for the longest back-off the next one is short again."""
    told = Told()
    told.eject()
    told.tell(S.SERVED)
    told.eject()

    assert told.health.retry_at - told.now == 2.0

    told.tell(S.SERVED)
    told.now += 8.0
    told.eject()

    assert told.health.retry_at - told.now == 1.0


def test_nothing_is_left_of_what_was_counted_before() -> None:
    """Back in use it needs as many failures as ever."""
    told = Told()
    told.eject()
    told.tell(S.SERVED)

    assert not told.health.is_failing
    assert told.tell(S.REFUSED, times=2, after=30.0) is CLOSED


@pytest.mark.parametrize(
    ("signal", "times", "reason"),
    [
        (S.REFUSED, 3, "unreachable"),
        (S.TIMED_OUT, 3, "silent"),
        (S.FAILED, 5, "errors"),
        (S.PROBE_FAILED, 3, "probe_failed"),
    ],
)
def test_it_says_why_and_since_when(signal: Signal, times: int, reason: str) -> None:
    """A reason from the first failure until it is well; the instant is that of the last change of state."""
    told = Told()

    assert (told.health.reason, told.health.since) == ("", 100.0)

    told.tell(signal)
    assert (told.health.reason, told.health.since) == (reason, 100.0)

    told.tell(S.PROBE_OK, S.ANSWERED)
    assert told.health.reason == ""

    told.tell(signal, times=times)
    told.tell(S.DUE, after=1.0)
    assert (told.health.reason, told.health.since) == (reason, 101.0)

    told.tell(S.SERVED, after=3.0)
    assert (told.health.reason, told.health.since) == ("", 104.0)


def test_it_is_failing_while_an_answer_would_change_anything() -> None:
    """From the first failure that clients saw to the answer, and all the time it is out; probes do not count."""
    told = Told()

    assert not told.health.is_failing
    told.tell(S.PROBE_FAILED)
    assert not told.health.is_failing
    told.tell(S.FAILED)
    assert told.health.is_failing
    told.tell(S.ANSWERED)
    assert not told.health.is_failing
    told.eject()
    assert told.health.is_failing
    told.tell(S.REACHED)
    assert told.health.is_failing


def test_a_row_may_wait_for_nothing() -> None:
    """A row without a count moves at once."""
    assert Row(OPEN).when == ()


class HealthModel(RuleBasedStateMachine):
    """Any signals at any time, against the bare history of what was told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.health = Health(LIMITS, self.now)
        self.history: list[tuple[Signal, float]] = []
        """Since the last change of state."""
        self.left_at: dict[HealthState, float] = {}

    @rule(signal=st.sampled_from(Signal), seconds=st.sampled_from([0.0, 0.3, 1.0, 3.0, 20.0]))
    def tell(self, signal: Signal, seconds: float) -> None:
        """Something is learnt."""
        self.now += seconds
        before = self.health.state
        retry_at = self.health.retry_at
        self.history.append((signal, self.now))

        assert self.health.receive(signal, self.now) is before
        if self.health.state is not before:
            self.check(before, self.health.state, signal, retry_at)
            self.history = []

    def check(self, before: HealthState, after: HealthState, signal: Signal, retry_at: float) -> None:
        """Hold a change of state against the history."""
        if (before, after) == (CLOSED, OPEN):
            assert any(
                self.is_row(failures, enders, need)
                for failures, enders, need in (
                    ({S.REFUSED, S.TIMED_OUT}, {S.ANSWERED, S.SERVED, S.PROBE_OK}, LIMITS.fall),
                    ({S.FAILED}, {S.ANSWERED, S.SERVED}, LIMITS.errors),
                    ({S.PROBE_FAILED}, {S.PROBE_OK}, LIMITS.fall),
                )
            )
        elif after is OPEN:
            assert signal in {S.REFUSED, S.TIMED_OUT, S.FAILED, S.PROBE_FAILED}
        elif after is HALF_OPEN:
            assert before is OPEN
            assert signal is S.REACHED or self.now >= retry_at
        elif signal is S.PROBE_OK:
            failures = {S.REFUSED, S.TIMED_OUT, S.FAILED, S.PROBE_FAILED}
            assert sum(told is S.PROBE_OK for told, _ in self.since_last(failures)) >= LIMITS.rise
            assert self.now >= retry_at
        elif signal is S.ANSWERED:
            assert before is HALF_OPEN
            assert any(told is S.TRIED for told, _ in self.history)
        else:
            assert signal is S.SERVED

    def since_last(self, enders: set[Signal]) -> list[tuple[Signal, float]]:
        """Return the history after the last of *enders*."""
        last = max((index for index, (told, _) in enumerate(self.history) if told in enders), default=-1)
        return self.history[last + 1 :]

    def is_row(self, failures: set[Signal], enders: set[Signal], need: int) -> bool:
        """Tell whether the history ends with enough failures, the first of them old enough."""
        row = [at for told, at in self.since_last(enders) if told in failures]
        return len(row) >= need and self.now >= row[0] + LIMITS.eject_after_seconds

    @invariant()
    def trials_are_bounded(self) -> None:
        """Only half open, and no more than so many at once."""
        recent = [at for told, at in self.history if told is S.TRIED and at + LIMITS.trial_seconds > self.now]
        room = max(0, LIMITS.trials - len(recent))

        assert self.health.free_trials(self.now) == (room if self.health.state is HALF_OPEN else 0)

    @invariant()
    def the_back_off_has_its_bounds(self) -> None:
        """While it is out, its back-off is between the shortest and the longest."""
        if self.health.state is OPEN:
            backoff = self.health.retry_at - self.health.since

            assert LIMITS.backoff_min_seconds <= round(backoff, 9) <= LIMITS.backoff_max_seconds

    @invariant()
    def time_that_was_announced_is_news(self) -> None:
        """What is due brings a change of state, or makes room for a trial, when its instant comes."""
        due_at = self.health.due_at()
        assert due_at is None or self.health.state is not CLOSED or self.health.failures >= LIMITS.fall

    @invariant()
    def counts_are_of_one_state(self) -> None:
        """Failures are counted while it is in use, successes while it is not."""
        if self.health.state is not CLOSED:
            assert self.health.failures == 0
        assert self.health._numbers[Count.SUCCESSES] <= sum(told is S.PROBE_OK for told, _ in self.history)


TestHealth = HealthModel.TestCase
TestHealth.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
