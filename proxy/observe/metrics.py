"""Own the counters of session events: their names, labels and values, ready for an exporter.

Knows no exporter and no HTTP. Invariant: labels are kinds, reasons and upstream names, never anything of a
session; a counter has at most `MOST_SERIES` label sets, whatever the reasons are. For the event loop only.
"""

from collections.abc import Callable
from typing import NamedTuple

from proxy.observe.hooks import Funnel, Record

PREFIX = "mcp_session_proxy_"
MOST_SERIES = 64
"""Far above what the code's reasons make; what is beyond should not be a label and counts as `other`."""


class Metric(NamedTuple):
    """One counter: what it counts and how it is split."""

    name: str
    """Without the prefix."""
    help: str
    labels: tuple[str, ...] = ()
    """Fields of the record that become labels."""
    amount: str = ""
    """Field of the record that is added; empty: each record counts one."""


METRICS: dict[str, tuple[Metric, ...]] = {
    "session_opened": (Metric("sessions_opened_total", "Sessions opened.", ("upstream",)),),
    "session_rebuilt": (
        Metric("sessions_rebuilt_total", "Upstream sessions replaced.", ("upstream",)),
        Metric("rebuild_seconds_total", "Time rebuilds took.", ("upstream",), "waited_seconds"),
    ),
    "session_parked": (Metric("sessions_parked_total", "Idle upstream sessions ended.", ("upstream",)),),
    "session_closed": (Metric("sessions_closed_total", "Sessions closed.", ("reason",)),),
    "stream_opened": (Metric("streams_opened_total", "Streams opened by clients.", ("stream",)),),
    "stream_resumed": (
        Metric("streams_resumed_total", "Streams clients came back to.", ("stream",)),
        Metric("entries_replayed_total", "Entries sent again from the log.", ("stream",), "replayed"),
    ),
    "gap_told": (Metric("gaps_told_total", "Gaps told to clients.", ("stream", "reason")),),
    "call_ended_unknown": (
        Metric("calls_ended_unknown_total", "Calls answered with an unknown outcome.", ("reason",)),
    ),
    "upstream_lost": (Metric("upstreams_lost_total", "Losses of an upstream or its session.", ("upstream", "reason")),),
    "upstream_recovered": (
        Metric("upstreams_recovered_total", "Upstreams that came back.", ("upstream",)),
        Metric("upstream_outage_seconds_total", "Time upstreams were away.", ("upstream",), "waited_seconds"),
    ),
    "rebuild_failed": (Metric("rebuilds_failed_total", "Rebuilds that did not succeed.", ("upstream", "reason")),),
    "resync_told": (
        Metric("resyncs_told_total", "Resyncs told after a rebuild."),
        Metric("resync_notifications_total", "Notifications those took.", (), "count"),
    ),
    "reader_cut": (Metric("readers_cut_total", "Client connections ended.", ("stream", "reason")),),
    "notification_dropped": (
        Metric("notifications_dropped_total", "Client notifications not delivered.", ("reason",)),
    ),
    "answer_dropped": (Metric("answers_dropped_total", "Client answers not delivered.", ("reason",)),),
    "request_rejected": (Metric("requests_rejected_total", "Requests refused.", ("reason", "status")),),
    "drained": (
        Metric("drains_total", "Drains ended."),
        Metric("drain_streams_aborted_total", "Streams a drain could not end cleanly.", (), "aborted"),
    ),
    "upstream_ejected": (Metric("upstreams_ejected_total", "Ejections of a member.", ("upstream", "reason")),),
    "upstream_readmitted": (
        Metric("upstreams_readmitted_total", "Members that were taken back.", ("upstream",)),
        Metric("upstream_ejected_seconds_total", "Time members were ejected.", ("upstream",), "waited_seconds"),
    ),
    "pool_panicked": (Metric("pools_panicked_total", "Times a route began to ignore ejections.", ("route",)),),
    "upstream_added": (Metric("upstreams_added_total", "Members added.", ("route",)),),
    "upstream_draining": (Metric("upstream_drains_total", "Times a member was taken out.", ("upstream",)),),
    "upstream_removed": (Metric("upstreams_removed_total", "Members removed.", ("upstream",)),),
    "session_moved": (
        Metric("sessions_moved_total", "Sessions moved as planned, by where they went.", ("upstream",)),
        Metric("move_seconds_total", "Time planned moves took.", ("upstream",), "waited_seconds"),
    ),
    "session_failed_over": (
        Metric("sessions_failed_over_total", "Sessions rebuilt on another member.", ("upstream",)),
        Metric("failover_seconds_total", "Time from a loss to the session elsewhere.", ("upstream",), "waited_seconds"),
    ),
    "move_failed": (Metric("moves_failed_total", "Sessions that could not be moved.", ("upstream", "reason")),),
    "call_repeated": (Metric("calls_repeated_total", "Calls sent again.", ("upstream", "reason")),),
    "job_changed": (Metric("job_changes_total", "States that jobs came to.", ("kind", "state")),),
    "config_reloaded": (
        Metric("config_reloads_total", "New configurations applied."),
        Metric("config_upstreams_added_total", "Members those added.", (), "added"),
        Metric("config_upstreams_removed_total", "Members those removed.", (), "removed"),
        Metric("config_upstreams_changed_total", "Members those changed.", (), "changed"),
    ),
    "reload_refused": (Metric("reloads_refused_total", "New configurations not usable.", ("reason",)),),
    "upgrade_started": (Metric("upgrades_started_total", "New processes started to take over."),),
    "upgrade_finished": (Metric("upgrades_finished_total", "How those ended.", ("is_done", "reason")),),
}
"""The counters of every verb."""


class Counters(Funnel):
    """Counts what it observes, and reads gauges when it is asked."""

    def __init__(self) -> None:
        self._series: dict[Metric, dict[tuple[str, ...], float]] = {
            metric: {} if metric.labels else {(): 0.0} for metrics in METRICS.values() for metric in metrics
        }
        # Found by the verb, as to find a series by its metric is to hash four texts.
        self._counted = {verb: [(metric, self._series[metric]) for metric in METRICS[verb]] for verb in METRICS}
        self._gauges: dict[str, Callable[[], float]] = {}

    def observed(self, verb: str, record: Record) -> None:
        """Add `record` to the counters of `verb`."""
        for metric, series in self._counted[verb]:
            labels = tuple([_label(getattr(record, label)) for label in metric.labels])
            if labels not in series and len(series) >= MOST_SERIES - 1:
                labels = ("other",) * len(labels)
            amount = float(getattr(record, metric.amount)) if metric.amount else 1.0
            series[labels] = series.get(labels, 0.0) + amount

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Report `read()` under `name` (without the prefix) in every snapshot; a later gauge replaces it."""
        if name in {metric.name for metric in self._series}:
            raise ValueError(f"{name} is a counter")
        self._gauges[name] = read

    def snapshot(self) -> dict[str, float]:
        """Return every value by name and labels, as in `mcp_session_proxy_readers_cut_total{stream="call"}`.

        A counter without labels is there from the start, one with labels once it has counted.
        """
        values = {
            _sample(metric, labels): value
            for metric, series in self._series.items()
            for labels, value in series.items()
        }
        values.update({PREFIX + name: float(read()) for name, read in self._gauges.items()})
        return values


def _sample(metric: Metric, labels: tuple[str, ...]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(metric.labels, labels, strict=True))
    return f"{PREFIX}{metric.name}{{{pairs}}}" if pairs else PREFIX + metric.name


def _label(value: object) -> str:
    if type(value) is str:
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(value: str) -> str:
    """Escape a label value as the Prometheus text format asks."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
