"""Own what watchers are told: one frozen record per kind of event.

Knows neither logs nor metrics. Invariant: a record holds fingerprints, names of upstreams and routes, kinds, reasons
and numbers, never a session id, a body or a header's value. Reasons are constants of the proxy's code in snake_case.
"""

import msgspec


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


class UpstreamEjected(Record, frozen=True, kw_only=True, gc=False):
    """A member failed so often that it is given nothing new."""

    upstream: str
    reason: str


class UpstreamReadmitted(Record, frozen=True, kw_only=True, gc=False):
    """An ejected member is well again."""

    upstream: str
    waited_seconds: float = 0.0
    """Since it was ejected."""


class PoolPanicked(Record, frozen=True, kw_only=True, gc=False):
    """So few members of a route are well that ejections are ignored."""

    route: str
    available: int = 0
    members: int = 0


class UpstreamAdded(Record, frozen=True, kw_only=True, gc=False):
    """A member joined a pool."""

    upstream: str
    route: str = ""


class UpstreamDraining(Record, frozen=True, kw_only=True, gc=False):
    """A member is given no new sessions; those it has move away."""

    upstream: str


class UpstreamRemoved(Record, frozen=True, kw_only=True, gc=False):
    """A member left its pool for good."""

    upstream: str


class SessionMoved(Record, frozen=True, kw_only=True, gc=False):
    """A session got a second binding on another member, as planned, and uses that now."""

    upstream: str = ""
    previous: str = ""
    """The member it was on."""
    generation: int = 0
    """Number of the new binding."""
    waited_seconds: float = 0.0
    """From the order to the switch."""


class SessionFailedOver(Record, frozen=True, kw_only=True, gc=False):
    """A session whose member is gone was rebuilt on another one."""

    upstream: str = ""
    previous: str = ""
    """The member it was on."""
    generation: int = 0
    """Number of the new binding."""
    waited_seconds: float = 0.0
    """From noticing the loss to the new session."""


class MoveFailed(Record, frozen=True, kw_only=True, gc=False):
    """A session could not be moved and stays where it is."""

    upstream: str = ""
    """The member that would not host it."""
    reason: str


class CallRepeated(Record, frozen=True, kw_only=True, gc=False):
    """A call that may have run was sent again, because that does no harm."""

    upstream: str = ""
    reason: str


class JobChanged(Record, frozen=True, kw_only=True, gc=False):
    """A drain, swap or move began, went on or ended."""

    job: str
    kind: str
    state: str
    upstream: str = ""
    """The member it is about."""


class ConfigReloaded(Record, frozen=True, kw_only=True, gc=False):
    """A new configuration was applied; the numbers count members."""

    added: int = 0
    removed: int = 0
    changed: int = 0


class ReloadRefused(Record, frozen=True, kw_only=True, gc=False):
    """A new configuration was not usable; the one in force stays."""

    reason: str


class UpgradeStarted(Record, frozen=True, kw_only=True, gc=False):
    """A new process was started to take the listening sockets over."""

    pid: int


class UpgradeFinished(Record, frozen=True, kw_only=True, gc=False):
    """The new process took over, or did not and this one goes on."""

    is_done: bool
    reason: str = ""
    """Why it did not; empty when it did."""
