"""The table of a job's states."""

from itertools import product

import pytest

from proxy.control.phases import FINAL, JOB, JobEvent, JobState, after
from proxy.errors import IllegalTransition

S, E = JobState, JobEvent
PAIRS = list(product(JobState, JobEvent))


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_a_job_moves_by_its_table_or_not_at_all(state: JobState, event: JobEvent) -> None:
    """A pair with a row gives its state; without one it raises."""
    if (state, event) in JOB:
        assert after(state, event) is JOB[state, event]
        return
    with pytest.raises(IllegalTransition, match=f"{event.value} in state {state.value}"):
        after(state, event)


def test_nothing_leaves_a_final_state() -> None:
    """What is over stays over, and everything else can be cancelled."""
    assert {state for state, _ in JOB} == set(JobState) - FINAL
    assert {state for state, event in JOB if event is E.CANCELLED} == set(JobState) - FINAL
    assert set(JOB.values()) >= FINAL


def test_every_state_can_be_reached_and_left() -> None:
    """From its two beginnings a job comes everywhere, and from everywhere to an end."""
    reached = {S.COMPARING}
    while more := {to for (state, _), to in JOB.items() if state in reached} - reached:
        reached |= more
    ending = set(FINAL)
    while more := {state for (state, _), to in JOB.items() if to in ending} - ending:
        ending |= more

    assert reached == ending == set(JobState)


def test_nothing_is_taken_back_that_has_not_begun() -> None:
    """While upstreams are compared there is nothing to take back, and a rollback is not taken back itself."""
    assert {state for state, event in JOB if event is E.TAKEN_BACK} == {S.MOVING, S.HOLDING, S.FINISHING}
