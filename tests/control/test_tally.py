"""The accounting of a job."""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proxy.control.tally import AFTER_MOVE, GONE_OVER, STAYING, Standing, Tally
from proxy.control.views import JobCounts
from proxy.relay.move import MoveOutcome


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(Standing))))
def test_each_session_stands_in_one_place(puts: list[tuple[int, Standing]]) -> None:
    """However often sessions change places, the numbers are those of a plain map, and add up at every step."""
    tally: Tally[int] = Tally()
    model: dict[int, Standing] = {}
    for key, standing in puts:
        tally.put(key, standing)
        model[key] = standing

        numbers = Counter(model.values())
        counts = msgspec.structs.asdict(tally.counts(7, 8, 9))
        assert counts == {
            **{each.value: numbers[each] for each in Standing},
            "total": len(model),
            "calls_finished": 7,
            "calls_unknown": 8,
            "calls_running": 9,
        }
        assert len(tally) == sum(tally.number(each) for each in Standing)
    assert all(tally.of(key) is model.get(key) for key in range(10))
    for standing in Standing:
        assert set(tally.standing_in(standing)) == {key for key, there in model.items() if there is standing}


def test_nobody_is_counted_before_having_come() -> None:
    """An empty tally has nobody, and knows nobody."""
    tally: Tally[str] = Tally()

    assert not tally
    assert "a" not in tally
    assert tally.standing_in(*Standing) == []
    assert tally.counts(0, 0, 0) == JobCounts()


def test_every_report_of_a_move_has_its_place() -> None:
    """A session that was reported does not remain, and either is elsewhere, stays, or is closed."""
    assert set(AFTER_MOVE) == set(MoveOutcome)
    assert set(AFTER_MOVE.values()) == GONE_OVER | STAYING | {Standing.CLOSED}
