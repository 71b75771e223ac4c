"""Own the contract between the proxy and its watchers: one verb and one frozen record per session event.

Knows neither logs nor metrics. Invariant: a record holds fingerprints, kinds, reasons and numbers, never a
session id, a body or a header's value.

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

import msgspec

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


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every record says: which session, in which request."""

    session: str = ""
    """Fingerprint of the session; empty when there is none."""
    request_id: str = ""
    """Correlation id of the client's request that led here; empty when none did."""


class SessionOpened(Record, frozen=True, kw_only=True, gc=False):
    """A client's `initialize` was answered with a session id of the proxy."""

    upstream: str = ""
    protocol_version: str = ""


class SessionRebuilt(Record, frozen=True, kw_only=True, gc=False):
    """A lost upstream session was replaced; the client's goes on."""

    upstream: str = ""
    generation: int = 0
    """Number of the new binding; the first is 1."""
    waited_seconds: float = 0.0
    """From noticing the loss to the new session."""


class SessionParked(Record, frozen=True, kw_only=True, gc=False):
    """The upstream side of an idle session was ended; the client's stays."""

    upstream: str = ""
    idle_seconds: float = 0.0


class SessionClosed(Record, frozen=True, kw_only=True, gc=False):
    """A session is gone for good: deleted, expired, or the proxy stops."""

    reason: str


class StreamOpened(Record, frozen=True, kw_only=True, gc=False):
    """A client began to read a stream that it had not read before."""

    stream: str
    """`standalone` or `call`."""


class StreamResumed(Record, frozen=True, kw_only=True, gc=False):
    """A client came back to a stream and was given what it had missed."""

    stream: str
    replayed: int
    """Entries sent from the log before the stream went live."""


class GapTold(Record, frozen=True, kw_only=True, gc=False):
    """A client was told that entries of its stream are no longer there."""

    stream: str
    reason: str


class CallEndedUnknown(Record, frozen=True, kw_only=True, gc=False):
    """A call was answered with the error that says its outcome is unknown."""

    reason: str


class UpstreamLost(Record, frozen=True, kw_only=True, gc=False):
    """An upstream stopped answering, or no longer knows a session (then `session` is set)."""

    upstream: str = ""
    reason: str


class UpstreamRecovered(Record, frozen=True, kw_only=True, gc=False):
    """An upstream that was lost answers again."""

    upstream: str = ""
    waited_seconds: float = 0.0


class RebuildFailed(Record, frozen=True, kw_only=True, gc=False):
    """A lost upstream session could not be replaced; the client's is kept and tried again."""

    upstream: str = ""
    reason: str


class ResyncTold(Record, frozen=True, kw_only=True, gc=False):
    """A client was told, after a rebuild, to read its lists and resources again."""

    count: int
    """Notifications that say so."""


class ReaderCut(Record, frozen=True, kw_only=True, gc=False):
    """A client's connection was ended because it read too slowly, was dead, or was taken over."""

    stream: str
    reason: str


class NotificationDropped(Record, frozen=True, kw_only=True, gc=False):
    """A client's notification was accepted and could not be delivered."""

    reason: str


class AnswerDropped(Record, frozen=True, kw_only=True, gc=False):
    """A client's answer to a server request was accepted and has no one to go to."""

    reason: str = "late"


class RequestRejected(Record, frozen=True, kw_only=True, gc=False):
    """A request was refused by the proxy itself."""

    reason: str
    status: int = 0
    """HTTP status of the refusal; 0 when the connection was ended without one."""


class Drained(Record, frozen=True, kw_only=True, gc=False):
    """The proxy ended its streams before it stops."""

    streams: int = 0
    aborted: int = 0
    """Those of them still open when the bound was reached."""
    waited_seconds: float = 0.0


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
