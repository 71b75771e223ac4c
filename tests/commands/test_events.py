"""The command that shows the event feed."""

import json
from collections.abc import Callable

import pytest

from proxy.commands import events
from proxy.commands.client import AdminClient, Event
from proxy.commands.console import Console
from proxy.commands.outcome import NOT_FOUND, UNREACHABLE, CommandError
from proxy.observe.hooks import SessionClosed, SessionMoved

Feed = Callable[[AdminClient, str, bool], list[Event]]


def tell(operate, *records: object) -> None:
    """Have something happen in the proxy."""
    for record in records:
        verb = "session_moved" if isinstance(record, SessionMoved) else "session_closed"
        operate.admin.do(lambda verb=verb, record=record: getattr(operate.admin.feed, verb)(record))


def test_what_is_kept_is_a_line_each(operate) -> None:
    """When, what, and what it says; seconds are short."""
    moved = SessionMoved(session="0123456789", upstream="b", previous="a", generation=2, waited_seconds=0.123456)
    tell(operate, moved, SessionClosed(reason="expired"))
    ended = operate("events", "--no-follow")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "2023-11-14T22:13:20.250Z  session_moved           "
        "session=0123456789 upstream=b previous=a generation=2 waited_seconds=0.123\n"
        "2023-11-14T22:13:20.250Z  session_closed          reason=expired\n"
    )


def test_a_program_gets_a_document_per_event(operate) -> None:
    """Each line is JSON and has the id by which to go on."""
    tell(operate, SessionClosed(reason="expired"), SessionClosed(reason="deleted"))
    first = operate("events", "--no-follow", "--json").out.splitlines()
    rest = operate("events", "--no-follow", "--json", "--since", json.loads(first[0])["id"]).out.splitlines()

    assert [json.loads(line)["reason"] for line in first] == ["expired", "deleted"]
    assert rest == first[1:]


def test_missing_events_are_told(operate) -> None:
    """Whoever comes back too late, or to another process, sees that something is missing."""
    tell(operate, *[SessionClosed(reason="deleted")] * 103)
    late = operate("events", "--no-follow", "--since", "f00d-1").out.splitlines()
    foreign = operate("events", "--no-follow", "--since", "beef-1").out.splitlines()

    assert late[0] == "-- 2 events are missing (trimmed)"
    assert foreign[0] == "-- some events are missing (unknown_cursor)"
    assert (len(late), len(foreign)) == (101, 101)


class Scripted:
    """Stands in the place of the feed: each connection brings what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *connections: list[Event] | BaseException) -> None:
        self.asked: list[str] = []
        left = list(connections)

        def brought(_: AdminClient, since: str, *, follow: bool):
            self.asked.append(since)
            now = left.pop(0)
            if isinstance(now, BaseException):
                raise now
            yield from now

        monkeypatch.setattr(AdminClient, "events", brought)


def event(number: int) -> Event:
    """Return one event."""
    return Event(f"x-{number}", {"event": f"e{number}"})


LOST = CommandError("gone", UNREACHABLE)


def test_a_proxy_that_restarts_is_waited_for(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader goes on behind the last event it saw, whether the stream ended or broke."""
    place = Event("x-2", {})
    feed = Scripted(monkeypatch, [event(1)], LOST, LOST, [place], [event(3)], KeyboardInterrupt())
    ended = operate("events")

    assert ended.code == 130
    assert [line.split()[0] for line in ended.out.splitlines()] == ["e1", "e3"]
    assert feed.asked == ["", "x-1", "x-1", "x-1", "x-2", "x-3"]
    assert ended.err == 3 * "the proxy ended the stream; trying again\n"
    assert set(operate.pauses) == {1.0}


def test_a_proxy_that_does_not_come_back_is_given_up(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many tries the command ends with 3."""
    Scripted(monkeypatch, [event(1)], *[LOST] * events.ATTEMPTS)
    ended = operate("events")

    assert (ended.code, len(operate.pauses)) == (3, events.ATTEMPTS)


def test_a_break_in_the_stream_is_an_interruption(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that broke after it had begun is as one that ended."""

    def broken(_: AdminClient, since: str, *, follow: bool):
        if since == "x-1":
            raise KeyboardInterrupt
        yield event(1)
        raise CommandError("gone", UNREACHABLE)

    monkeypatch.setattr(AdminClient, "events", broken)

    assert operate("events").code == 130


def test_without_following_a_break_is_a_failure(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is not whole does not pass for one."""

    def broken(_: AdminClient, since: str, *, follow: bool):
        yield event(1)
        raise CommandError("gone", UNREACHABLE)

    monkeypatch.setattr(AdminClient, "events", broken)

    assert operate("events", "--no-follow").code == 3


@pytest.mark.parametrize(("error", "code"), [(LOST, 3), (CommandError("no", NOT_FOUND), 4)])
def test_the_first_try_tells_at_once(operate, monkeypatch: pytest.MonkeyPatch, error: CommandError, code: int) -> None:
    """Where no proxy is there is nothing to wait for."""
    Scripted(monkeypatch, error)

    assert operate("events").code == code
    assert operate.pauses == []


def test_a_refusal_is_not_tried_again(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that came back and says no is believed."""
    Scripted(monkeypatch, [event(1)], CommandError("no", 2))

    assert operate("events").code == 2
    assert operate.pauses == [1.0]


def test_following_shows_events_as_they_come(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real stream is read event by event, not at its end."""
    written: list[str] = []

    def write(console: Console, text: str) -> None:
        written.append(text)
        if len(written) == 2:
            raise KeyboardInterrupt
        tell(operate, SessionClosed(reason="second"))

    tell(operate, SessionClosed(reason="first"))
    monkeypatch.setattr(Console, "write", write)

    assert operate("events", "--since", "0").code == 130
    assert ["first" in written[0], "second" in written[1]] == [True, True]
