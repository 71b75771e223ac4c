"""Counters: every verb counts, labels stay bounded, nothing of a session is a label."""

from collections.abc import Callable

import pytest

from proxy.observe.hooks import (
    VERBS,
    AnswerDropped,
    CallEndedUnknown,
    CallRepeated,
    ConfigReloaded,
    Drained,
    GapTold,
    JobChanged,
    MoveFailed,
    NotificationDropped,
    Observer,
    PoolPanicked,
    ReaderCut,
    RebuildFailed,
    ReloadRefused,
    RequestRejected,
    ResyncTold,
    SessionClosed,
    SessionFailedOver,
    SessionMoved,
    SessionOpened,
    SessionParked,
    SessionRebuilt,
    StreamOpened,
    StreamResumed,
    UpgradeFinished,
    UpgradeStarted,
    UpstreamAdded,
    UpstreamDraining,
    UpstreamEjected,
    UpstreamLost,
    UpstreamReadmitted,
    UpstreamRecovered,
    UpstreamRemoved,
)
from proxy.observe.metrics import METRICS, MOST_SERIES, PREFIX, Counters

CASES: list[tuple[str, Callable[[Observer], None], dict[str, float]]] = [
    (
        "session_opened",
        lambda o: o.session_opened(SessionOpened(upstream="a")),
        {'sessions_opened_total{upstream="a"}': 1},
    ),
    (
        "session_rebuilt",
        lambda o: o.session_rebuilt(SessionRebuilt(upstream="a", generation=7, waited_seconds=1.5)),
        {'sessions_rebuilt_total{upstream="a"}': 1, 'rebuild_seconds_total{upstream="a"}': 1.5},
    ),
    (
        "session_parked",
        lambda o: o.session_parked(SessionParked(upstream="a")),
        {'sessions_parked_total{upstream="a"}': 1},
    ),
    (
        "session_closed",
        lambda o: o.session_closed(SessionClosed(reason="expired")),
        {'sessions_closed_total{reason="expired"}': 1},
    ),
    (
        "stream_opened",
        lambda o: o.stream_opened(StreamOpened(stream="call")),
        {'streams_opened_total{stream="call"}': 1},
    ),
    (
        "stream_resumed",
        lambda o: o.stream_resumed(StreamResumed(stream="call", replayed=4)),
        {'streams_resumed_total{stream="call"}': 1, 'entries_replayed_total{stream="call"}': 4},
    ),
    (
        "gap_told",
        lambda o: o.gap_told(GapTold(stream="standalone", reason="trimmed")),
        {'gaps_told_total{stream="standalone",reason="trimmed"}': 1},
    ),
    (
        "call_ended_unknown",
        lambda o: o.call_ended_unknown(CallEndedUnknown(reason="reset")),
        {'calls_ended_unknown_total{reason="reset"}': 1},
    ),
    (
        "upstream_lost",
        lambda o: o.upstream_lost(UpstreamLost(upstream="a", reason="refused")),
        {'upstreams_lost_total{upstream="a",reason="refused"}': 1},
    ),
    (
        "upstream_recovered",
        lambda o: o.upstream_recovered(UpstreamRecovered(upstream="a", waited_seconds=2.0)),
        {'upstreams_recovered_total{upstream="a"}': 1, 'upstream_outage_seconds_total{upstream="a"}': 2},
    ),
    (
        "rebuild_failed",
        lambda o: o.rebuild_failed(RebuildFailed(upstream="a", reason="version")),
        {'rebuilds_failed_total{upstream="a",reason="version"}': 1},
    ),
    (
        "resync_told",
        lambda o: o.resync_told(ResyncTold(count=3)),
        {"resyncs_told_total": 1, "resync_notifications_total": 3},
    ),
    (
        "reader_cut",
        lambda o: o.reader_cut(ReaderCut(stream="call", reason="slow")),
        {'readers_cut_total{stream="call",reason="slow"}': 1},
    ),
    (
        "notification_dropped",
        lambda o: o.notification_dropped(NotificationDropped(reason="unavailable")),
        {'notifications_dropped_total{reason="unavailable"}': 1},
    ),
    (
        "answer_dropped",
        lambda o: o.answer_dropped(AnswerDropped()),
        {'answers_dropped_total{reason="late"}': 1},
    ),
    (
        "request_rejected",
        lambda o: o.request_rejected(RequestRejected(reason="origin", status=403)),
        {'requests_rejected_total{reason="origin",status="403"}': 1},
    ),
    (
        "drained",
        lambda o: o.drained(Drained(streams=5, aborted=2)),
        {"drains_total": 1, "drain_streams_aborted_total": 2},
    ),
    (
        "upstream_ejected",
        lambda o: o.upstream_ejected(UpstreamEjected(upstream="a", reason="refused")),
        {'upstreams_ejected_total{upstream="a",reason="refused"}': 1},
    ),
    (
        "upstream_readmitted",
        lambda o: o.upstream_readmitted(UpstreamReadmitted(upstream="a", waited_seconds=2.5)),
        {'upstreams_readmitted_total{upstream="a"}': 1, 'upstream_ejected_seconds_total{upstream="a"}': 2.5},
    ),
    (
        "pool_panicked",
        lambda o: o.pool_panicked(PoolPanicked(route="main", available=1, members=4)),
        {'pools_panicked_total{route="main"}': 1},
    ),
    (
        "upstream_added",
        lambda o: o.upstream_added(UpstreamAdded(upstream="a", route="main")),
        {'upstreams_added_total{route="main"}': 1},
    ),
    (
        "upstream_draining",
        lambda o: o.upstream_draining(UpstreamDraining(upstream="a")),
        {'upstream_drains_total{upstream="a"}': 1},
    ),
    (
        "upstream_removed",
        lambda o: o.upstream_removed(UpstreamRemoved(upstream="a")),
        {'upstreams_removed_total{upstream="a"}': 1},
    ),
    (
        "session_moved",
        lambda o: o.session_moved(SessionMoved(upstream="b", previous="a", generation=2, waited_seconds=0.5)),
        {'sessions_moved_total{upstream="b"}': 1, 'move_seconds_total{upstream="b"}': 0.5},
    ),
    (
        "session_failed_over",
        lambda o: o.session_failed_over(
            SessionFailedOver(upstream="b", previous="a", generation=2, waited_seconds=0.25)
        ),
        {'sessions_failed_over_total{upstream="b"}': 1, 'failover_seconds_total{upstream="b"}': 0.25},
    ),
    (
        "move_failed",
        lambda o: o.move_failed(MoveFailed(upstream="b", reason="version")),
        {'moves_failed_total{upstream="b",reason="version"}': 1},
    ),
    (
        "call_repeated",
        lambda o: o.call_repeated(CallRepeated(upstream="b", reason="read_only")),
        {'calls_repeated_total{upstream="b",reason="read_only"}': 1},
    ),
    (
        "job_changed",
        lambda o: o.job_changed(JobChanged(job="7", kind="swap", state="moving", upstream="a")),
        {'job_changes_total{kind="swap",state="moving"}': 1},
    ),
    (
        "config_reloaded",
        lambda o: o.config_reloaded(ConfigReloaded(added=1, removed=2, changed=3)),
        {
            "config_reloads_total": 1,
            "config_upstreams_added_total": 1,
            "config_upstreams_removed_total": 2,
            "config_upstreams_changed_total": 3,
        },
    ),
    (
        "reload_refused",
        lambda o: o.reload_refused(ReloadRefused(reason="invalid")),
        {'reloads_refused_total{reason="invalid"}': 1},
    ),
    ("upgrade_started", lambda o: o.upgrade_started(UpgradeStarted(pid=7)), {"upgrades_started_total": 1}),
    (
        "upgrade_finished",
        lambda o: o.upgrade_finished(UpgradeFinished(is_done=False, reason="not_ready")),
        {'upgrades_finished_total{is_done="false",reason="not_ready"}': 1},
    ),
]


def changed(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return what differs, without the prefix."""
    return {
        name.removeprefix(PREFIX): value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0)
    }


@pytest.mark.parametrize(("verb", "tell", "expected"), CASES, ids=[verb for verb, *_ in CASES])
def test_every_verb_counts(verb: str, tell: Callable[[Observer], None], expected: dict[str, float]) -> None:
    """One record moves the counters of its verb by what it says, twice by twice that, and no others."""
    counters = Counters()
    start = counters.snapshot()

    tell(counters)
    once = changed(start, counters.snapshot())
    tell(counters)
    twice = changed(start, counters.snapshot())

    assert once == expected
    assert twice == {name: 2 * value for name, value in expected.items()}


def test_no_verb_goes_uncounted() -> None:
    """The table of counters and the cases above cover every verb; names are unique and follow one form."""
    names = [metric.name for metrics in METRICS.values() for metric in metrics]

    assert set(METRICS) == set(VERBS) == {verb for verb, *_ in CASES}
    assert len(names) == len(set(names))
    assert all(name.endswith("_total") and name == name.lower() for name in names)
    assert all(metric.help for metrics in METRICS.values() for metric in metrics)


def test_a_session_is_never_a_label() -> None:
    """Neither fingerprints nor correlation ids split a counter."""
    counters = Counters()

    for n in range(3):
        counters.session_closed(SessionClosed(session=f"{n:010x}", request_id=f"r{n}", reason="deleted"))

    labels = {label for metrics in METRICS.values() for metric in metrics for label in metric.labels}

    assert labels <= {"upstream", "reason", "stream", "status", "route", "kind", "state", "is_done"}
    assert counters.snapshot()[PREFIX + 'sessions_closed_total{reason="deleted"}'] == 3


def test_counters_without_labels_are_there_from_the_start() -> None:
    """An exporter sees zero before the first event."""
    assert Counters().snapshot() == {
        PREFIX + name: 0
        for name in (
            "resyncs_told_total",
            "resync_notifications_total",
            "drains_total",
            "drain_streams_aborted_total",
            "config_reloads_total",
            "config_upstreams_added_total",
            "config_upstreams_removed_total",
            "config_upstreams_changed_total",
            "upgrades_started_total",
        )
    }


def test_label_sets_are_bounded() -> None:
    """Reasons without end cannot grow the counters without end, and nothing goes uncounted."""
    counters = Counters()

    for n in range(3 * MOST_SERIES):
        counters.session_closed(SessionClosed(reason=f"r{n}"))
    counters.session_closed(SessionClosed(reason="r0"))
    values = counters.snapshot()
    closed = {name: value for name, value in values.items() if "sessions_closed" in name}

    assert len(closed) == MOST_SERIES
    assert sum(closed.values()) == 3 * MOST_SERIES + 1
    assert closed[PREFIX + 'sessions_closed_total{reason="r0"}'] == 2
    assert closed[PREFIX + 'sessions_closed_total{reason="other"}'] == 2 * MOST_SERIES + 1


def test_label_values_are_escaped() -> None:
    """A value cannot end its quotes or its line."""
    counters = Counters()

    counters.session_closed(SessionClosed(reason='a"b\\c\nd'))

    assert PREFIX + r'sessions_closed_total{reason="a\"b\\c\nd"}' in counters.snapshot()


def test_gauges_are_read_at_each_snapshot() -> None:
    """A gauge says what is true when it is asked; a counter's name is not to be had."""
    counters, sessions = Counters(), [1, 2]
    counters.gauge("sessions", lambda: len(sessions))

    first = counters.snapshot()[PREFIX + "sessions"]
    sessions.append(3)
    second = counters.snapshot()[PREFIX + "sessions"]

    assert (first, second) == (2.0, 3.0)
    with pytest.raises(ValueError, match="is a counter"):
        counters.gauge("drains_total", lambda: 0)


def test_snapshots_are_copies() -> None:
    """Changing a snapshot changes no counter."""
    counters = Counters()

    counters.snapshot().clear()

    assert PREFIX + "drains_total" in counters.snapshot()
