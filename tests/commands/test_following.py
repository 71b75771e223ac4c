"""How a job is followed: its progress, its end, and the ways out."""

import json
import sys
from collections import deque

import pytest

from proxy.commands.console import Console
from proxy.control.base import ControlError
from proxy.control.views import JobCounts
from support.operators import DIFFERENCE, job_view

SWAP = ("upstreams", "swap", "a", "http://127.0.0.1:3002/mcp")
COURSE = [
    job_view("comparing"),
    job_view("moving", total=1000, remaining=1000),
    job_view("moving", total=1000, moved=590, rebuilt=10, remaining=400, calls_running=3),
    job_view("moving", total=1000, moved=590, rebuilt=10, remaining=400, calls_running=3, started_seconds=3.0),
    job_view("finishing", total=1000, moved=980, rebuilt=10, idle=4, closed=6, calls_running=1, calls_finished=2),
    job_view(
        "done", total=1000, moved=980, rebuilt=10, idle=4, closed=6, calls_finished=3, calls_unknown=1,
        took_seconds=2.04, differences=[DIFFERENCE],
    ),
]  # fmt: skip


def test_a_swap_is_followed_to_its_end(operate) -> None:
    """Without a terminal each change is a line; the end is an exact account."""
    operate.control.course = deque(COURSE)
    ended = operate(*SWAP)

    assert ended.code == 0
    assert ended.err == (
        "comparing 0/0: 0 moved, 0 rebuilt; calls: 0 running, 0 finished\n"
        "moving 0/1000: 0 moved, 0 rebuilt; calls: 0 running, 0 finished\n"
        "moving 600/1000: 590 moved, 10 rebuilt; calls: 3 running, 0 finished\n"
        "finishing 1000/1000: 980 moved, 10 rebuilt, 4 idle, 6 closed; calls: 1 running, 2 finished\n"
        "done 1000/1000: 980 moved, 10 rebuilt, 4 idle, 6 closed; calls: 0 running, 3 finished, 1 unknown\n"
    )
    assert ended.out == (
        "job 7: done, took 2.0s\n"
        "swap      a -> b\n"
        "sessions  1000: 980 moved, 10 rebuilt, 4 idle, 6 closed\n"
        "calls     3 finished, 1 unknown, 0 running\n"
        "1 difference between the servers:\n"
        "FIELD               OLD  NEW\n"
        "serverInfo.version  1.0  1.1\n"
    )


def test_every_count_is_named() -> None:
    """No session and no call is accounted for under a name that nobody is shown."""
    from proxy.commands import following

    job = {**job_dict(), "counts": dict.fromkeys(JobCounts.__struct_fields__, 7)}
    text = following.job_text(job)

    assert all(name.removeprefix("calls_") in text for name in JobCounts.__struct_fields__ if name != "total")


def job_dict() -> dict[str, object]:
    """Return a job as the proxy answers it."""
    import msgspec

    return msgspec.to_builtins(job_view("done"))


def test_looks_grow_rarer(operate) -> None:
    """A short job is seen at once, a long one is asked for once a second."""
    operate.control.course = deque([*[job_view("moving", moved=number) for number in range(7)], job_view()])
    operate(*SWAP)

    assert operate.pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_program_gets_a_line_per_change(operate) -> None:
    """With JSON each line is the whole job, the last one its end, and the time alone is no change."""
    operate.control.course = deque(COURSE)
    ended = operate(*SWAP, "--json")
    jobs = [json.loads(line) for line in ended.out.splitlines()]

    assert (ended.code, ended.err) == (0, "")
    assert [job["state"] for job in jobs] == ["comparing", "moving", "moving", "finishing", "done"]
    assert jobs[-1]["counts"]["moved"] == 980


def test_on_a_terminal_there_is_a_bar(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn over itself, and the account stands below it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    operate.control.course = deque(COURSE)
    ended = operate(*SWAP)

    assert ended.err.count("\r") == 6
    assert "\r[##############..........] moving 600/1000" in ended.err
    assert ended.err.endswith("\n")
    assert set(operate.pauses) == {0.2}


@pytest.mark.parametrize("state", ["failed", "cancelled", "rolled_back"])
def test_what_did_not_happen_is_told_by_the_exit_code(operate, state: str) -> None:
    """A swap that failed or was taken back ends with 1 and says why."""
    operate.control.course = deque([job_view("moving"), job_view(state, problem="errors: 30 of 100 calls")])
    ended = operate(*SWAP)

    assert ended.code == 1
    assert f"job 7 {state.replace('_', ' ')}: errors: 30 of 100 calls\n" in ended.err
    assert "problem   errors: 30 of 100 calls\n" in ended.out


def test_a_canary_that_holds_is_an_end(operate) -> None:
    """It waits for the operator: the command says what there is to say and does not wait with it."""
    operate.control.course = deque([job_view("moving", percent=10), job_view("holding", percent=10, moved=3)])
    ended = operate(*SWAP, "--percent", "10")

    assert ended.code == 0
    assert "share     10 %\n" in ended.out
    assert "jobs rollback 7" in ended.out


@pytest.mark.parametrize("flag", ["--detach", "--no-wait"])
def test_who_does_not_wait_is_told_how_to_follow(operate, flag: str) -> None:
    """The command ends at once, with the job under way."""
    operate.control.course = deque([job_view("moving")])
    ended = operate(*SWAP, flag)

    assert (ended.code, ended.err, operate.pauses) == (0, "", [])
    assert ended.out == (
        f"job 7 runs; follow it with: mcp-session-proxy jobs show 7 --follow --admin {operate.admin.url}\n"
    )


def test_ctrl_c_leaves_the_job_running(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the watching alone, with the code that shells give, and says how to go on."""

    def interrupted(console: Console, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Console, "pause", interrupted)
    operate.control.course = deque([job_view("moving")])
    ended = operate(*SWAP)

    assert ended.code == 130
    assert "job 7 goes on; follow it with: mcp-session-proxy jobs show 7 --follow" in ended.err
    assert [asked[0] for asked in operate.control.asked] == ["swap_upstream"]


def test_a_proxy_that_stops_answering_is_told_with_the_job(operate) -> None:
    """Who followed a job hears that it may go on."""

    def gone() -> None:
        raise ControlError("not_found", "no job 7")

    operate.control.course = deque([job_view("moving")])
    operate.control.looked_at = gone
    ended = operate(*SWAP)

    assert ended.code == 4
    assert ended.err.endswith("mcp-session-proxy: error: no job 7; job 7 may go on\n")
