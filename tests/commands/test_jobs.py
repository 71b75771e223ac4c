"""Commands on jobs."""

import json
from collections import deque

import pytest

from support.operators import job_view


def test_jobs_are_listed(operate) -> None:
    """One line per job, with how far it is and why it ended so."""
    operate.control.course = deque([job_view("rolled_back", total=9, moved=4, problem="errors")])
    ended = operate("jobs", "ls")
    first, second = ended.out.splitlines()

    assert ended.code == 0
    assert first.split() == [
        "ID", "KIND", "STATE", "OLD", "NEW", "SESSIONS", "MOVED", "REMAINING", "BEGAN", "TOOK", "PROBLEM",
    ]  # fmt: skip
    assert second.split() == [
        "7", "swap", "rolled", "back", "a", "b", "9", "4", "0", "2.0s", "ago", "2.0s", "errors",
    ]  # fmt: skip
    assert json.loads(operate("jobs", "ls", "--json").out)["jobs"][0]["id"] == "7"


def test_a_job_is_shown_as_it_is(operate) -> None:
    """A look does not wait, and is no judgement: a job that failed is shown with 0."""
    operate.control.course = deque([job_view("moving", total=2, remaining=2)])
    running = operate("jobs", "show", "7")
    operate.control.course = deque([job_view("failed", problem="x")])
    failed = operate("jobs", "show", "7")

    assert (running.code, failed.code, operate.pauses) == (0, 0, [])
    assert "sessions  2: 0 moved, 2 remaining\n" in running.out
    assert running.out.startswith("job 7: moving, began 2.0s ago\n")


def test_a_job_is_followed_from_elsewhere(operate) -> None:
    """Whoever was interrupted goes on, and the end is judged."""
    operate.control.course = deque([job_view("moving"), job_view("failed", problem="x")])

    assert operate("jobs", "show", "7", "--follow").code == 1


@pytest.mark.parametrize(
    ("verb", "asked", "state", "code"),
    [
        ("cancel", "cancel_job", "cancelled", 0),
        ("cancel", "cancel_job", "done", 1),
        ("rollback", "rollback_job", "rolled_back", 0),
        ("rollback", "rollback_job", "failed", 1),
    ],
)
def test_a_change_succeeds_when_the_job_ends_as_asked(operate, verb: str, asked: str, state: str, code: int) -> None:
    """A swap that was done before it could be cancelled was not cancelled."""
    operate.control.course = deque([job_view("rolling_back"), job_view(state)])
    ended = operate("jobs", verb, "7")

    assert ended.code == code
    assert operate.control.asked == [(asked, "7")]


def test_no_such_job_is_4(operate) -> None:
    """It may have been forgotten."""
    assert operate("jobs", "show", "8").code == 4
