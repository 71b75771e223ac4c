"""Moves under way: how many at once, and each reported once."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.mover import AT_ONCE, Mover, Slots
from proxy.relay.move import MoveOutcome, MoveResult
from support.moving import FakeRelay, Scene


class Told:
    """What a mover told."""

    def __init__(self, scene: Scene, slots: Slots) -> None:
        self.results: list[tuple[FakeRelay, MoveResult]] = []
        self.answer: MoveResult | None = None
        self.mover: Any = Mover(
            scene.clock, slots, lambda _: self.answer or scene.member("b"), lambda *told: self.results.append(told), 5.0
        )

    @property
    def outcomes(self) -> Counter[str]:
        """How often each outcome was told."""
        return Counter(result.outcome.value for _, result in self.results)


def test_no_more_moves_are_under_way_than_there_are_slots() -> None:
    """The next begins when one ends, in the order in which they came."""
    scene = Scene(concurrency=2)
    told = Told(scene, scene.slots)
    relays = scene.open("a", 5)

    told.mover.add(relays)
    assert scene.moving == relays[:2]
    assert told.mover.under_way == 2
    relays[1].end_move()

    assert scene.moving == [relays[0], relays[2]]
    assert scene.end_moves() == 4
    assert [relay for relay, _ in told.results] == [relays[1], relays[0], *relays[2:]]
    assert told.mover.is_idle
    assert scene.slots.taken == 0


def test_movers_share_their_slots() -> None:
    """Two jobs together move no more than one could, and take turns."""
    scene = Scene("a", "b", concurrency=2)
    first, second = Told(scene, scene.slots), Told(scene, scene.slots)
    mine, others = scene.open("a", 4), scene.open("a", 4)

    first.mover.add(mine)
    second.mover.add(others)
    assert scene.moving == [mine[0], others[0]]
    others[0].end_move()
    assert scene.moving == [mine[0], mine[1]], "it has waited for longest"
    mine[0].end_move()
    assert scene.moving == [mine[1], others[1]]
    scene.end_moves()

    assert scene.most_moving == 2
    assert (len(first.results), len(second.results)) == (4, 4)


def test_who_needs_no_slot_any_more_does_not_keep_it_from_others() -> None:
    """A mover that was stopped while it waited passes its turn on."""
    scene = Scene(concurrency=1)
    first, second, third = (Told(scene, scene.slots) for _ in range(3))
    relays = scene.open("a", 4)
    first.mover.add(relays[:1])
    second.mover.add(relays[1:3])
    third.mover.add(relays[3:])

    assert second.mover.stop() == relays[1:3]
    relays[0].end_move()

    assert scene.moving == [relays[3]]
    scene.end_moves()
    assert second.results == []
    assert second.mover.is_idle


def test_one_move_begins_in_a_turn_of_the_loop() -> None:
    """Clients' calls have their turns in between, however many slots there are."""
    scene = Scene(concurrency=10)
    told = Told(scene, scene.slots)
    relays = scene.open("a", 5)

    told.mover.add(relays)
    assert scene.under_way == relays[:1]
    assert scene.moving == relays


def test_moves_that_end_at_once_leave_the_loop_its_turn() -> None:
    """A hundred thousand idle sessions do not hold everything up: so many, then the others' turn."""
    scene = Scene()
    told = Told(scene, scene.slots)
    relays = scene.open("a", AT_ONCE + 10)
    for relay in relays:
        relay.is_idle = True

    told.mover.add(relays)
    assert told.outcomes == {"idle": AT_ONCE}
    scene.clock.advance()

    assert told.outcomes == {"idle": AT_ONCE + 10}
    assert told.mover.is_idle


def test_a_session_that_needs_no_move_is_told_without_one() -> None:
    """Where there is nothing to do the answer is told as a report."""
    scene = Scene()
    told = Told(scene, scene.slots)
    told.answer = MoveResult(MoveOutcome.REBUILT)
    (relay,) = scene.open()

    told.mover.add([relay])

    assert told.outcomes == {"rebuilt": 1}
    assert relay.begun == 0
    assert scene.slots.taken == 0


def test_who_is_under_way_is_not_moved_twice() -> None:
    """Added again while it waits or moves, a session is still moved once."""
    scene = Scene(concurrency=1)
    told = Told(scene, scene.slots)
    relays = scene.open("a", 2)

    told.mover.add(relays)
    told.mover.add(relays)

    assert all(relay in told.mover for relay in relays)
    assert scene.end_moves() == 2
    assert not any(relay in told.mover for relay in relays)


def test_a_report_that_raises_frees_its_slot() -> None:
    """What fails in one session's accounting does not stop the others."""
    scene = Scene(concurrency=1)
    failing: Any = Mover(scene.clock, scene.slots, lambda _: scene.member("b"), lambda *_: 1 / 0, 5.0)
    relays = scene.open("a", 2)
    failing.add(relays)

    for relay in relays:
        try:
            relay.end_move()
        except ZeroDivisionError:
            continue

    assert scene.slots.taken == 0
    assert failing.is_idle


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.booleans()), max_size=60), st.integers(1, 4))
def test_every_session_is_reported_once(steps: list[tuple[int, int, bool]], limit: int) -> None:
    """Whoever adds what when, and in whatever order moves end: all are reported, none twice, never too many at once."""
    scene = Scene("a", "b", concurrency=limit)
    movers = [Told(scene, scene.slots) for _ in range(3)]
    added: Counter[int] = Counter()
    for which, number, is_idle in steps:
        if number < 5:
            relays = scene.open("a", number)
            for relay in relays:
                relay.is_idle = is_idle
            movers[which].mover.add(relays)
            added[which] += number
        elif scene.moving:
            scene.moving[number % len(scene.moving)].end_move()

        assert len(scene.moving) == scene.slots.taken <= limit
        assert scene.most_moving <= limit
    scene.end_moves()

    assert all(len(told.results) == added[which] for which, told in enumerate(movers))
    assert all(len({relay for relay, _ in told.results}) == len(told.results) for told in movers)
    assert scene.slots.taken == 0
