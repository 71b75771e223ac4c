"""The observer contract: verbs, records, the fan-out, and fingerprints."""

import re
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe import hooks
from proxy.observe.hooks import (
    NOOP,
    VERBS,
    Drained,
    Fingerprint,
    Funnel,
    GapTold,
    Observer,
    Observers,
    Record,
    SessionClosed,
    StreamResumed,
)

KEY = bytes(range(32))


class Recorder(Funnel):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Record]] = []

    def observed(self, verb: str, record: Record) -> None:
        """Remember."""
        self.told.append((verb, record))


class Broken(Observer):
    """Fails at two verbs."""

    def gap_told(self, record: GapTold) -> None:
        """Fail."""
        raise OSError("no space left")

    def drained(self, record: Drained) -> None:
        """Fail too."""
        raise ValueError("again")


def record_of(verb: str) -> type[Record]:
    """Return the record type that `verb` takes."""
    return get_type_hints(getattr(Observer, verb))["record"]


def test_every_verb_has_its_own_record() -> None:
    """Verbs and records pair up, and each record is named after its verb."""
    records = {record_of(verb) for verb in VERBS}
    named = {verb: "".join(word.title() for word in verb.split("_")) for verb in VERBS}

    assert {verb: record_of(verb).__name__ for verb in VERBS} == named
    assert records == set(Record.__subclasses__())


def test_every_session_event_has_a_verb() -> None:
    """What the proxy promises to tell is what there is to call."""
    assert set(VERBS) == {
        "session_opened", "session_rebuilt", "session_parked", "session_closed",
        "stream_opened", "stream_resumed", "gap_told", "call_ended_unknown",
        "upstream_lost", "upstream_recovered", "rebuild_failed", "resync_told",
        "reader_cut", "notification_dropped", "answer_dropped", "request_rejected", "drained",
        "upstream_ejected", "upstream_readmitted", "pool_panicked", "upstream_added", "upstream_draining",
        "upstream_removed", "session_moved", "session_failed_over", "move_failed", "call_repeated", "job_changed",
        "config_reloaded", "reload_refused", "upgrade_started", "upgrade_finished",
    }  # fmt: skip


def test_noop_asks_for_no_records() -> None:
    """Nobody watching is visible to the caller, and harmless to call all the same."""
    NOOP.session_closed(SessionClosed(reason="expired"))

    assert NOOP.is_active is False
    assert Observer().is_active is True


def test_observers_is_active_only_with_someone_active() -> None:
    """A fan-out to nobody needs no records either."""
    assert Observers().is_active is False
    assert Observers(NOOP).is_active is False
    assert Observers(NOOP, Recorder()).is_active is True


@pytest.mark.parametrize("verb", VERBS)
def test_observers_tell_everyone_each_verb(verb: str) -> None:
    """Every verb reaches every observer, once, with the record it was called with."""
    first, second = Recorder(), Recorder()
    record = Record(session="0123456789")

    getattr(Observers(first, second), verb)(record)

    assert first.told == [(verb, record)]
    assert second.told == [(verb, record)]
    assert first.told[0][1] is record


def test_a_failing_observer_is_counted_and_reported_once() -> None:
    """A failing observer harms neither the caller nor the next one; its first error is told, all count."""
    after = Recorder()
    reported: list[tuple[str, str, str]] = []
    observers = Observers(
        Broken(),
        after,
        on_failure=lambda observer, verb, error: reported.append((type(observer).__name__, verb, str(error))),
    )

    observers.gap_told(GapTold(stream="call", reason="trimmed"))
    observers.drained(Drained(streams=1))
    observers.stream_resumed(StreamResumed(stream="call", replayed=3))

    assert [verb for verb, _ in after.told] == ["gap_told", "drained", "stream_resumed"]
    assert observers.failures == {"Broken": 2}
    assert reported == [("Broken", "gap_told", "no space left")]


def test_a_failing_observer_needs_no_reporter() -> None:
    """Without anyone to report to, the error is only counted."""
    observers = Observers(Broken())

    observers.gap_told(GapTold(stream="call", reason="trimmed"))

    assert observers.failures == {"Broken": 1}


def test_observers_do_not_swallow_the_end_of_the_process() -> None:
    """Ctrl-C inside an observer still ends the program."""

    class Interrupted(Observer):
        def drained(self, record: Drained) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers(Interrupted()).drained(Drained(streams=0))


def test_funnel_wants_an_implementation() -> None:
    """A funnel without `observed` fails at its first verb instead of losing records in silence."""
    with pytest.raises(NotImplementedError):
        Funnel().drained(Drained(streams=0))


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_fingerprint_is_short_stable_and_not_the_id(session_id: str) -> None:
    """A fingerprint is ten hex digits, the same for the same id and key, another under another key."""
    fingerprint = Fingerprint(KEY)(session_id)

    assert re.fullmatch(r"[0-9a-f]{10}", fingerprint)
    assert Fingerprint.is_fingerprint(fingerprint)
    assert fingerprint == Fingerprint(KEY)(session_id)
    assert fingerprint != Fingerprint(bytes(32))(session_id)
    assert fingerprint != session_id


def test_fingerprints_tell_sessions_apart() -> None:
    """A thousand ids have a thousand fingerprints."""
    fingerprint = Fingerprint(KEY)

    assert len({fingerprint(f"session-{n}") for n in range(1000)}) == 1000


def test_no_session_has_no_fingerprint() -> None:
    """An empty id stays empty, and is not taken for a fingerprint."""
    assert Fingerprint(KEY)("") == ""
    assert not Fingerprint.is_fingerprint("")
    assert not Fingerprint.is_fingerprint("0123456789ABCDEF")
    assert not Fingerprint.is_fingerprint("012345678g")


def test_fingerprint_takes_any_header_text() -> None:
    """Bytes that are no text, as a header may hold, do not fail."""
    assert Fingerprint.is_fingerprint(Fingerprint(KEY)("a\udcff"))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_fingerprint_wants_a_whole_key(size: int) -> None:
    """A key of another length is a mistake of the caller."""
    with pytest.raises(ValueError, match="32 random bytes"):
        Fingerprint(bytes(size))


def test_hooks_load_no_logging_library() -> None:
    """What only observes is not made to load structlog."""
    assert not hasattr(hooks, "structlog")
