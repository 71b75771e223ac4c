"""Commands on sessions."""

import json
from collections import deque

import pytest

from proxy.control.views import SessionFilter
from support.operators import job_view, session_view


def test_sessions_are_listed_in_columns(operate) -> None:
    """One line per session, shortened ids, marks beside the state."""
    operate.control.sessions_held[1] = session_view(2, is_pinned=True, is_moving=True)
    ended = operate("sessions", "ls")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "ID       FINGERPRINT  ROUTE  UPSTREAM  STATE                CLIENT        CALLS  STREAMS  AGE    IDLE\n"
        "sess01…  0000000001   main   a         bound                client-1 1.0      1        1  1h 1m  5.0s\n"
        "sess02…  0000000002   main   a         bound,pinned,moving  client-2 1.0      2        1  1h 1m  5.0s\n"
        "sess03…  0000000003   main   a         bound                client-3 1.0      3        1  1h 1m  5.0s\n"
    )


def test_a_list_is_one_document_for_a_program(operate) -> None:
    """It has the form of the API's page."""
    ended = operate("sessions", "ls", "--json")
    document = json.loads(ended.out)

    assert (ended.code, ended.err) == (0, "")
    assert (len(document["sessions"]), document["total"], document["next"]) == (3, 3, "")


def test_a_cut_list_says_so(operate) -> None:
    """Who asked for two of three is told that there are more; a program reads it from the document."""
    ended = operate("sessions", "ls", "--limit", "2")
    document = json.loads(operate("sessions", "ls", "--limit", "2", "--json").out)

    assert ended.out.count("\n") == 3
    assert ended.err == "2 of 3 shown; all of them with --limit 0\n"
    assert (len(document["sessions"]), document["next"]) == (2, "2")


def test_all_pages_are_read_for_who_wants_all(operate) -> None:
    """More sessions than one answer holds come page by page, each once."""
    operate.control.sessions_held = [session_view(number) for number in range(2500)]
    document = json.loads(operate("sessions", "ls", "--limit", "0", "--json").out)
    some = json.loads(operate("sessions", "ls", "--limit", "1500", "--json").out)

    assert [each["calls"] for each in document["sessions"]] == list(range(2500))
    assert len(some["sessions"]) == 1500
    assert [asked[2:] for asked in operate.control.asked] == [
        ("", 1000), ("1000", 1000), ("2000", 1000), ("", 1000), ("1000", 500),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ((), SessionFilter()),
        (("--pinned",), SessionFilter(is_pinned=True)),
        (("--no-pinned",), SessionFilter(is_pinned=False)),
        (
            ("--route", "r", "--upstream", "u", "--state", "lost", "--client", "c"),
            SessionFilter(route="r", upstream="u", state="lost", client="c"),
        ),
    ],
)
def test_a_list_is_filtered(operate, words: tuple[str, ...], chosen: SessionFilter) -> None:
    """Each option becomes its part of the filter."""
    operate("sessions", "ls", *words)

    assert operate.control.asked[0][1] == chosen


def test_a_clients_name_plays_no_tricks(operate) -> None:
    """What a client calls itself cannot clear an operator's screen."""
    operate.control.sessions_held = [session_view(1, client="\x1b[2J\nroot")]
    ended = operate("sessions", "ls")

    assert "\x1b" not in ended.out
    assert ended.out.count("\n") == 2


def test_a_session_is_shown_with_its_bindings_and_calls(operate) -> None:
    """All that there is to see of one."""
    ended = operate("sessions", "show", "sess02")

    assert ended.code == 0
    assert "fingerprint    0000000002\n" in ended.out
    assert "buffered       2.0 KiB\n" in ended.out
    assert "BINDING  GENERATION  STATE  CALLS  UPSTREAM ID\na                 1  bound      1  up1234…\n" in ended.out
    assert "CALL  METHOD      UPSTREAM  GENERATION  STATE  SILENT\n7     tools/call  a" in ended.out


@pytest.mark.parametrize(
    ("words", "asked", "out"),
    [
        (("close", "sess01"), ("close_session", "sess01"), "closed\n"),
        (("interrupt", "sess01"), ("interrupt_session", "sess01"), "2 calls cancelled\n"),
        (("pin", "sess01"), ("pin_session", "sess01", True), "sess01… is pinned to a\n"),
        (("unpin", "sess01"), ("pin_session", "sess01", False), "sess01… may be moved\n"),
    ],
)
def test_changes_are_asked_for_and_told(operate, words: tuple[str, ...], asked: tuple[object, ...], out: str) -> None:
    """Each command does its one thing and says what it did."""
    ended = operate("sessions", *words)

    assert (ended.code, ended.out, ended.err) == (0, out, "")
    assert operate.control.asked == [asked]


@pytest.mark.parametrize("verb", ["show", "close", "interrupt", "pin", "unpin"])
def test_every_answer_has_a_form_for_programs(operate, verb: str) -> None:
    """With JSON each command writes one document."""
    ended = operate("sessions", verb, "sess01", "--json")

    assert (ended.code, ended.err) == (0, "")
    assert isinstance(json.loads(ended.out), dict)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("move", "sess01", "b"), ("move_session", "sess01", "b")),
        (("move", "sess01"), ("move_session", "sess01", "")),
        (("move", "sess01", "--json", "b"), ("move_session", "sess01", "b")),
        (("refresh", "sess01"), ("refresh_session", "sess01")),
    ],
)
def test_a_move_is_followed(operate, words: tuple[str, ...], asked: tuple[object, ...]) -> None:
    """What takes time is a job that is watched to its end."""
    operate.control.course = deque([job_view("moving", kind="move"), job_view(kind="move", total=1, moved=1)])
    ended = operate("sessions", *words)

    assert ended.code == 0
    assert "sessions  1: 1 moved\n" in ended.out or "--json" in words
    assert operate.control.asked == [asked]


@pytest.mark.parametrize("verb", ["show", "close", "move", "refresh", "interrupt", "pin", "unpin"])
def test_no_such_session_is_4(operate, verb: str) -> None:
    """A script can tell a session that ended from a proxy that failed."""
    ended = operate("sessions", verb, "other")

    assert (ended.code, ended.out, ended.err) == (4, "", "mcp-session-proxy: error: no such session\n")


def test_an_ambiguous_id_is_refused(operate) -> None:
    """Nothing is done to any of several sessions."""
    assert operate("sessions", "close", "sess").code == 1
    assert operate.control.asked == []


@pytest.mark.parametrize("words", [("ls", "--limit", "-1"), ("ls", "--limit", "x"), ("show",), ("show", "a", "b")])
def test_wrong_usage_is_2(operate, words: tuple[str, ...]) -> None:
    """What is no command line is told in one line, and asks for nothing."""
    ended = operate("sessions", *words)

    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert operate.control.asked == []
