"""The event feed: bounded, numbered without holes, and honest about what it no longer has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.feed import FROM_THE_START, EventFeed
from proxy.observe.hooks import VERBS, Record, SessionClosed, UpstreamEjected


def feed_of(events: int, limit: int = 3, name: str = "f00d") -> EventFeed:
    """Return a feed that was told a number of events."""
    feed = EventFeed(limit, name, lambda: 1_700_000_000.25)
    for number in range(1, events + 1):
        feed.session_closed(SessionClosed(reason=f"r{number}"))
    return feed


def reasons(feed: EventFeed, after: int, most: int = 100) -> tuple[int, list[str]]:
    """Return what a read says, by the reasons of the records."""
    missed, events = feed.read(after, most)
    return missed, [event.record.reason for event in events]  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_an_event(verb: str) -> None:
    """Whatever is told is kept under its name."""
    feed = feed_of(0)
    getattr(feed, verb)(Record(session="0123456789"))
    _, (event,) = feed.read(0, 10)

    assert (event.number, event.verb, event.record) == (1, verb, Record(session="0123456789"))


def test_an_event_is_shown_with_its_cursor_its_time_and_what_it_says() -> None:
    """A body has id, time and event first, and no empty fields."""
    feed = feed_of(0)
    feed.upstream_ejected(UpstreamEjected(upstream="a", reason="refused"))
    _, (event,) = feed.read(0, 10)

    assert feed.body(event) == {
        "id": "f00d-1",
        "time": "2023-11-14T22:13:20.250Z",
        "event": "upstream_ejected",
        "upstream": "a",
        "reason": "refused",
    }


def test_a_session_id_is_never_shown() -> None:
    """A record that by mistake holds an id instead of a fingerprint does not publish it."""
    feed = feed_of(0)
    feed.session_closed(SessionClosed(session="c2Vzc2lvbi1pZA", reason="deleted"))
    _, (event,) = feed.read(0, 10)

    assert feed.body(event)["session"] == "not-a-fingerprint"


@given(limit=st.integers(1, 8), told=st.integers(0, 30), after=st.integers(0, 30), most=st.integers(1, 10))
def test_a_read_is_exact(limit: int, told: int, after: int, most: int) -> None:
    """What was missed and what is given follow each other without a hole, whatever the place of the reader."""
    feed = feed_of(told, limit)
    after = min(after, told)
    missed, events = feed.read(after, most)
    numbers = [event.number for event in events]

    assert missed == max(0, told - limit - after)
    assert numbers == list(range(after + missed + 1, min(told, after + missed + most) + 1))


def test_only_the_last_events_are_kept() -> None:
    """The limit holds, and numbers go on."""
    feed = feed_of(5, limit=3)

    assert feed.latest == 5
    assert reasons(feed, 0) == (2, ["r3", "r4", "r5"])
    assert reasons(feed, 2) == (0, ["r3", "r4", "r5"])
    assert reasons(feed, 3, most=1) == (0, ["r4"])
    assert reasons(feed, 5) == (0, [])


@pytest.mark.parametrize(
    ("cursor", "after", "is_known"),
    [
        ("", 5, True),
        (FROM_THE_START, 2, True),
        ("f00d-4", 4, True),
        ("f00d-0", 0, True),
        ("f00d-5", 5, True),
        ("f00d-6", 2, False),
        ("beef-4", 2, False),
        ("f00d-x", 2, False),
        ("f00d-٤", 2, False),
        ("f00d-" + "4" * 5000, 2, False),
        ("4", 2, False),
        ("-4", 2, False),
    ],
)
def test_a_cursor_has_a_place(cursor: str, after: int, is_known: bool) -> None:
    """A cursor of this feed goes on behind its event, a foreign one before all that is kept, and says so."""
    assert feed_of(5, limit=3).place(cursor) == (after, is_known)


def test_a_cursor_leads_back_to_its_event() -> None:
    """What a reader was given as id is where it goes on."""
    feed = feed_of(5)

    assert feed.place(feed.cursor(4)) == (4, True)


def test_watchers_are_called_for_each_event_until_they_leave() -> None:
    """Who waits is woken, also one who leaves while it is called."""
    feed, woken = feed_of(0), []

    def once() -> None:
        woken.append("once")
        feed.unwatch(once)

    def always() -> None:
        woken.append("always")

    feed.watch(once)
    feed.watch(always)
    feed.session_closed(SessionClosed(reason="expired"))
    feed.session_closed(SessionClosed(reason="expired"))
    feed.unwatch(always)
    feed.unwatch(always)
    feed.session_closed(SessionClosed(reason="expired"))

    assert woken == ["once", "always", "always"]
