"""Own the contract between the proxy and its watchers: one verb per event, each with its record of `records`.

Knows neither logs nor metrics. Invariant: what an observer does or fails to do changes nothing for the caller.

The contract:

- Verbs are called synchronously, on the event loop, from shell modules only, right after the fact they tell.
- A verb must not block, await, or call back into the proxy, and should not raise. `Observers` catches an
  error and counts it; the caller never sees one.
- No record is built when nobody watches: callers write `if observer.is_active: observer.verb(Record(...))`.
- A record may be kept and shared; it never changes. A healthy session's calls and frames call no verb.
- Reasons are constants of the proxy's code in snake_case, never text from a peer: they become labels.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.observe.records import (
    AnswerDropped,
    CallEndedUnknown,
    CallRepeated,
    ConfigReloaded,
    Drained,
    GapTold,
    JobChanged,
    MoveFailed,
    NotificationDropped,
    PoolPanicked,
    ReaderCut,
    RebuildFailed,
    Record,
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

__all__ = [
    "NOOP",
    "VERBS",
    "AnswerDropped",
    "CallEndedUnknown",
    "CallRepeated",
    "ConfigReloaded",
    "Drained",
    "Fingerprint",
    "Funnel",
    "GapTold",
    "JobChanged",
    "MoveFailed",
    "NotificationDropped",
    "Observer",
    "Observers",
    "PoolPanicked",
    "ReaderCut",
    "RebuildFailed",
    "Record",
    "ReloadRefused",
    "RequestRejected",
    "ResyncTold",
    "SessionClosed",
    "SessionFailedOver",
    "SessionMoved",
    "SessionOpened",
    "SessionParked",
    "SessionRebuilt",
    "StreamOpened",
    "StreamResumed",
    "UpgradeFinished",
    "UpgradeStarted",
    "UpstreamAdded",
    "UpstreamDraining",
    "UpstreamEjected",
    "UpstreamLost",
    "UpstreamReadmitted",
    "UpstreamRecovered",
    "UpstreamRemoved",
    "said",
]

_DIGEST_BYTES = 5
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{2 * _DIGEST_BYTES}}}").fullmatch
"""40 bits: 10 digits a person can compare; of 100,000 sessions, two share one with a chance of 1 in 220."""
_KEY_BYTES = 32


class Fingerprint:
    """Names a session in logs without naming its id; comparable within one process, whose key it takes."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} random bytes, got {len(key)}")
        self._key = key

    def __call__(self, session_id: str) -> str:
        """Return 10 hex digits for an id, and an empty string for none."""
        if not session_id:
            return ""
        # Keyed: without the key, nobody who holds the log can test guesses or ids seen elsewhere against it.
        data = session_id.encode(errors="surrogateescape")
        return hashlib.blake2b(data, key=self._key, digest_size=_DIGEST_BYTES).hexdigest()

    @staticmethod
    def is_fingerprint(text: str) -> bool:
        """Tell whether `text` has the form of a fingerprint."""
        return _FINGERPRINT(text) is not None


def said(record: Record) -> dict[str, Any]:
    """Return what a record says, for who publishes it: empty texts are left out."""
    fields = {name: value for name, value in msgspec.structs.asdict(record).items() if value != ""}
    # The last line of defence: a caller that forgot to take the fingerprint must not publish a live id.
    if record.session and not Fingerprint.is_fingerprint(record.session):
        fields["session"] = "not-a-fingerprint"
    return fields


class Observer:
    """Watches the proxy; every verb does nothing until a subclass says what."""

    is_active: bool = True
    """Whether records need to be built for it."""

    def session_opened(self, record: SessionOpened) -> None:
        """Take note of a new session."""

    def session_rebuilt(self, record: SessionRebuilt) -> None:
        """Take note of a replaced upstream session."""

    def session_parked(self, record: SessionParked) -> None:
        """Take note of an ended upstream side."""

    def session_closed(self, record: SessionClosed) -> None:
        """Take note of the end of a session."""

    def stream_opened(self, record: StreamOpened) -> None:
        """Take note of a new stream."""

    def stream_resumed(self, record: StreamResumed) -> None:
        """Take note of a client that came back."""

    def gap_told(self, record: GapTold) -> None:
        """Take note of a told hole."""

    def call_ended_unknown(self, record: CallEndedUnknown) -> None:
        """Take note of an unknown outcome."""

    def upstream_lost(self, record: UpstreamLost) -> None:
        """Take note of a lost upstream or upstream session."""

    def upstream_recovered(self, record: UpstreamRecovered) -> None:
        """Take note of an upstream that is back."""

    def rebuild_failed(self, record: RebuildFailed) -> None:
        """Take note of a rebuild that did not succeed."""

    def resync_told(self, record: ResyncTold) -> None:
        """Take note of a told resync."""

    def reader_cut(self, record: ReaderCut) -> None:
        """Take note of a client cut off."""

    def notification_dropped(self, record: NotificationDropped) -> None:
        """Take note of an undelivered notification."""

    def answer_dropped(self, record: AnswerDropped) -> None:
        """Take note of an undelivered answer."""

    def request_rejected(self, record: RequestRejected) -> None:
        """Take note of a refusal."""

    def drained(self, record: Drained) -> None:
        """Take note of the end of the drain."""

    def upstream_ejected(self, record: UpstreamEjected) -> None:
        """Take note of a member that is given nothing new."""

    def upstream_readmitted(self, record: UpstreamReadmitted) -> None:
        """Take note of a member that is well again."""

    def pool_panicked(self, record: PoolPanicked) -> None:
        """Take note of a route whose ejections are ignored."""

    def upstream_added(self, record: UpstreamAdded) -> None:
        """Take note of a new member."""

    def upstream_draining(self, record: UpstreamDraining) -> None:
        """Take note of a member that is taken out."""

    def upstream_removed(self, record: UpstreamRemoved) -> None:
        """Take note of a member that is gone."""

    def session_moved(self, record: SessionMoved) -> None:
        """Take note of a planned move."""

    def session_failed_over(self, record: SessionFailedOver) -> None:
        """Take note of a session rebuilt on another member."""

    def move_failed(self, record: MoveFailed) -> None:
        """Take note of a move that did not succeed."""

    def call_repeated(self, record: CallRepeated) -> None:
        """Take note of a call sent again."""

    def job_changed(self, record: JobChanged) -> None:
        """Take note of how a job goes."""

    def config_reloaded(self, record: ConfigReloaded) -> None:
        """Take note of a new configuration."""

    def reload_refused(self, record: ReloadRefused) -> None:
        """Take note of a configuration that was not taken."""

    def upgrade_started(self, record: UpgradeStarted) -> None:
        """Take note of a new process."""

    def upgrade_finished(self, record: UpgradeFinished) -> None:
        """Take note of how its start ended."""


class _Noop(Observer):
    is_active = False


NOOP: Observer = _Noop()
"""Watches nothing; no record is built for it."""

VERBS: tuple[str, ...] = tuple(name for name, value in vars(Observer).items() if callable(value))
"""Every verb, in the order of a session's life."""


class Funnel(Observer):
    """Leads every verb into the one method `observed`, for observers that treat all alike."""

    def observed(self, verb: str, record: Record) -> None:
        """Take note of `verb`, whose record this is."""
        raise NotImplementedError


def _lead(verb: str) -> Callable[[Funnel, Record], None]:
    def led(self: Funnel, record: Record) -> None:
        self.observed(verb, record)

    led.__name__ = verb
    led.__doc__ = f"Lead `{verb}` into `observed`."
    return led


for _verb in VERBS:
    setattr(Funnel, _verb, _lead(_verb))


class Observers(Funnel):
    """Tells several observers, each in turn, whatever another one of them does.

    `on_failure` learns of the first error of each observer, not of every one: a full disk would flood it.
    """

    def __init__(
        self, *observers: Observer, on_failure: Callable[[Observer, str, Exception], None] | None = None
    ) -> None:
        self._observers = tuple(observer for observer in observers if observer.is_active)
        self._on_failure = on_failure
        self.is_active = bool(self._observers)
        self.failures: Counter[str] = Counter()
        """Errors caught so far, by the failing observer's class."""

    def observed(self, verb: str, record: Record) -> None:
        """Pass `record` on; an observer's error stops neither the others nor the caller."""
        for observer in self._observers:
            try:
                getattr(observer, verb)(record)
            except Exception as error:  # an observer is no reason to lose a session
                self._failed(observer, verb, error)

    def _failed(self, observer: Observer, verb: str, error: Exception) -> None:
        name = type(observer).__name__
        self.failures[name] += 1
        if self.failures[name] == 1 and self._on_failure is not None:
            self._on_failure(observer, verb, error)
