"""The shared timer: everybody once a period, one timer for all, and none for nobody."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.wheel import Wheel
from support.fakes import FakeClock

PERIOD = 16.0


class Member:
    """Remembers when it was looked at."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.joined_at = clock.now()
        self.beats: list[float] = []

    def beat(self) -> None:
        """A period is over."""
        self.beats.append(self.clock.now() - self.joined_at)


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=8))
def test_every_member_is_called_once_a_period(pauses: list[float]) -> None:
    """First after one period, give or take a sixteenth, then every period, whenever it joined."""
    clock = FakeClock()
    wheel = Wheel(clock, PERIOD)
    members = []
    for pause in pauses:
        clock.advance(pause)
        members.append(Member(clock))
        wheel.add(members[-1])
    clock.advance(5 * PERIOD)

    for member in members:
        first, *later = member.beats
        assert PERIOD * 15 / 16 - 1e-6 <= first <= PERIOD + 1e-6
        assert len(later) >= 3
        assert all(abs(beat - first - number * PERIOD) < 1e-6 for number, beat in enumerate(later, start=1))


def test_one_timer_serves_all() -> None:
    """However many joined, one call is pending."""
    clock = FakeClock()
    wheel = Wheel(clock, PERIOD)
    for _ in range(100):
        wheel.add(Member(clock))
        clock.advance(0.1)

    assert clock.pending() == 1


def test_an_empty_wheel_stands_still() -> None:
    """After the last one left no timer runs, and the next to join starts it again."""
    clock = FakeClock()
    wheel = Wheel(clock, PERIOD)
    one = Member(clock)
    wheel.discard(one, wheel.add(one))
    clock.advance(PERIOD)

    assert clock.pending() == 0
    assert one.beats == []

    other = Member(clock)
    wheel.add(other)
    clock.advance(PERIOD)

    assert other.beats == [PERIOD]


def test_who_leaves_is_not_called() -> None:
    """Leaving by the slot that joining gave; leaving twice is harmless."""
    clock = FakeClock()
    wheel = Wheel(clock, PERIOD)
    stays, leaves = Member(clock), Member(clock)
    wheel.add(stays)
    slot = wheel.add(leaves)
    clock.advance(PERIOD)
    wheel.discard(leaves, slot)
    wheel.discard(leaves, slot)
    clock.advance(PERIOD)

    assert len(stays.beats) == 2
    assert len(leaves.beats) == 1


def test_a_member_may_leave_from_inside_its_call() -> None:
    """The others of its slot are still called."""
    clock = FakeClock()
    wheel = Wheel(clock, PERIOD)

    class Leaving(Member):
        def beat(self) -> None:
            super().beat()
            wheel.discard(self, slot)

    members = [Leaving(clock), Leaving(clock), Leaving(clock)]
    slot = {wheel.add(member) for member in members}.pop()
    clock.advance(3 * PERIOD)

    assert [len(member.beats) for member in members] == [1, 1, 1]
    assert clock.pending() == 0


def test_a_closed_wheel_calls_nobody() -> None:
    """Neither who joined before nor who joins after, and its timer ends."""
    clock = FakeClock()
    wheel = Wheel(clock, PERIOD)
    before, after = Member(clock), Member(clock)
    wheel.add(before)
    wheel.close()
    wheel.add(after)
    clock.advance(PERIOD)
    wheel.add(after)
    clock.advance(PERIOD)

    assert before.beats == after.beats == []
    assert clock.pending() == 0
