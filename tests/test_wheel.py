"""The shared timers: everybody once a period, or once after a delay; one timer for all, and none for nobody."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wheel import Queue, Wheel
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


# -- after a delay

DELAY = 16.0
STEP = DELAY / 16


class Waiting:
    """Remembers when it was called. Fulfils `wheel.Due`."""

    def __init__(self, clock: FakeClock, queue: Queue, do: Callable[[], None] = lambda: None) -> None:
        self.clock = clock
        self.queue = queue
        self.do = do
        self.calls: list[float] = []

    def due(self) -> None:
        """The delay is over."""
        assert self not in self.queue
        self.calls.append(self.clock.now())
        self.do()


def waiting(count: int = 1) -> tuple[FakeClock, Queue, list[Waiting]]:
    """Make a queue that somebody may join."""
    clock = FakeClock(0.0)
    queue = Queue(clock, DELAY)
    return clock, queue, [Waiting(clock, queue) for _ in range(count)]


ACTS = st.tuples(st.sampled_from(["join", "leave", "again"]), st.integers(0, 4), st.floats(0.0, 20.0))


@given(st.lists(ACTS, max_size=30))
def test_whoever_stays_is_called_once_and_in_time(acts: list[tuple[str, int, float]]) -> None:
    """Never before its delay, at most a step later, in the order of joining; whoever left is not called."""
    clock, queue, members = waiting(5)
    joined: dict[int, float] = {}
    expected: list[tuple[int, float]] = []
    seen: list[tuple[int, float]] = []
    for number, member in enumerate(members):
        member.do = lambda number=number: seen.append((number, clock.now()))  # type: ignore[misc]

    def settle(now: float) -> None:
        for number, began in tuple(joined.items()):
            if members[number] not in queue:
                assert began + DELAY <= now
                assert len(seen) > len(expected)
                expected.append((number, began + DELAY))
                del joined[number]

    for verb, number, pause in acts:
        member = members[number]
        if verb != "join" and number in joined:
            queue.discard(member)
            del joined[number]
        if verb != "leave" and member not in queue:
            queue.add(member)
            joined[number] = clock.now()
        assert len(queue) == len(joined)
        clock.advance(pause)
        settle(clock.now())
    clock.advance(DELAY + STEP)
    settle(clock.now())

    assert len(queue) == 0
    assert [number for number, _ in seen] == [number for number, _ in expected]
    assert all(due <= at <= due + STEP + 1e-9 for (_, due), (_, at) in zip(expected, seen, strict=True))


def test_the_first_is_called_on_time() -> None:
    """Where nobody else waits there is no step to wait for."""
    clock, queue, (member,) = waiting()
    queue.add(member)
    clock.advance(DELAY - 0.001)

    assert member.calls == []

    clock.advance(0.001)

    assert member.calls == [DELAY]
    assert len(queue) == 0


@pytest.mark.interpreted
def test_one_timer_serves_all_who_wait() -> None:
    """However many join and leave, one call is pending, and it is not made more often than once a step."""
    clock, queue, members = waiting(1000)
    turns = 0
    before = queue._turn

    def count() -> None:
        nonlocal turns
        turns += 1
        before()

    queue._turn = count  # type: ignore[method-assign]
    for member in members:
        queue.add(member)
        clock.advance(0.1)

        assert clock.pending() == 1

    assert turns <= 1000 * 0.1 / STEP + 1


def test_an_empty_queue_stands_still() -> None:
    """After its last turn no timer runs, and the next to join starts it again."""
    clock, queue, (one, other) = waiting(2)
    queue.add(one)
    queue.discard(one)
    queue.discard(one)
    clock.advance(DELAY)

    assert clock.pending() == 0
    assert one.calls == []

    queue.add(other)
    clock.advance(DELAY)

    assert other.calls == [2 * DELAY]
    assert clock.pending() == 0


def test_joining_again_begins_the_delay_anew() -> None:
    """After leaving, and from inside of the call."""
    clock, queue, (left, called) = waiting(2)
    queue.add(left)
    clock.advance(DELAY / 2)
    queue.discard(left)
    queue.add(left)
    clock.advance(DELAY - STEP)

    assert left.calls == []

    clock.advance(2 * STEP)

    assert len(left.calls) == 1

    called.do = lambda: queue.add(called)
    queue.add(called)
    clock.advance(3 * (DELAY + STEP))

    assert len(called.calls) == 3
    assert all(later - sooner >= DELAY for sooner, later in zip(called.calls, called.calls[1:], strict=False))


def test_members_may_end_each_other() -> None:
    """Of those that are due in the same turn, who was ended by one before is not called, nor who joined anew."""
    clock, queue, (first, ended, renewed, last) = waiting(4)

    def act() -> None:
        queue.discard(ended)
        queue.discard(renewed)
        queue.add(renewed)

    first.do = act
    for member in (first, ended, renewed, last):
        queue.add(member)
    clock.advance(DELAY)

    assert [member.calls for member in (first, ended, renewed, last)] == [[DELAY], [], [], [DELAY]]
    assert renewed in queue
    assert ended not in queue

    clock.advance(DELAY + STEP)

    assert renewed.calls == [2 * DELAY]


def test_a_member_that_raises_keeps_nobody_from_its_call() -> None:
    """Neither those of its turn nor those of later ones; the first failure is told."""
    clock, queue, (failing, other, later) = waiting(3)

    def fail() -> None:
        raise RuntimeError("defect")

    failing.do = fail
    queue.add(failing)
    queue.add(other)
    clock.advance(STEP)
    queue.add(later)
    with pytest.raises(RuntimeError, match="defect"):
        clock.advance(DELAY)

    assert len(other.calls) == 1

    clock.advance(DELAY)

    assert len(later.calls) == 1
    assert len(failing.calls) == 1


def test_a_closed_queue_calls_nobody() -> None:
    """Also where it is closed by one of those that are due."""
    clock, queue, (first, second) = waiting(2)
    queue.add(first)
    queue.close()
    clock.advance(2 * DELAY)

    assert first.calls == []
    assert len(queue) == 0
    assert clock.pending() == 0

    # Who joins a closed one is not called either.
    queue.add(first)
    clock.advance(2 * DELAY)

    assert first.calls == []

    clock, queue, (first, second) = waiting(2)
    first.do = queue.close
    queue.add(first)
    queue.add(second)
    clock.advance(2 * DELAY)

    assert (len(first.calls), len(second.calls)) == (1, 0)
