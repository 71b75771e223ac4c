"""What an operator is shown and may ask, as plain data: the admin API and the command line speak in these.

Owns the shapes only. Knows no session, no HTTP. Invariant: no credential and no whole session id stands in any of them,
but the id of one session that was asked for by its full id.
"""

from typing import Annotated, Any

import msgspec

Weight = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=10 * 365 * 86400.0)]


class SessionView(msgspec.Struct, kw_only=True):
    """One session in a list."""

    id: str
    """Shortened: its first characters and an ellipsis; whole where it was asked for by the whole id."""
    fingerprint: str
    """As it stands in logs and events."""
    route: str
    upstream: str
    state: str
    """Of the binding: bound, binding, lost, unbound."""
    generation: int
    protocol_version: str
    client: str
    """Name and version the client gave in its handshake."""
    age_seconds: float
    idle_seconds: float
    calls: int
    streams: int
    """Client connections that read an event stream."""
    is_pinned: bool
    is_moving: bool


class LegView(msgspec.Struct, kw_only=True):
    """One binding of a session."""

    upstream: str
    generation: int
    state: str
    calls: int
    upstream_id: str
    """Shortened."""


class SessionDetail(SessionView, kw_only=True):
    """One session, looked at closely."""

    legs: list[LegView]
    """Oldest first, the present one last."""
    running: list[dict[str, Any]]
    """Its calls: request_id, method, upstream, generation, silent_seconds (without a byte; null while it is not sent),
    state."""
    subscriptions: int
    log_level: str
    tasks: int
    """Tasks that run and pin it (2025-11-25)."""
    buffered_bytes: int


class SessionFilter(msgspec.Struct, kw_only=True):
    """Which sessions a list holds; empty: any."""

    route: str = ""
    upstream: str = ""
    state: str = ""
    client: str = ""
    """Part of the client's name."""
    is_pinned: bool | None = None


class SessionPage(msgspec.Struct, kw_only=True):
    """A part of a list."""

    sessions: list[SessionView]
    total: int
    """How many the filter holds in all."""
    next: str
    """What to ask with for the next part; empty at the end."""


class UpstreamView(msgspec.Struct, kw_only=True):
    """One member of a pool."""

    name: str
    key: str
    """Unique for the life of the process; another than the name where one of that name was there before."""
    route: str
    url: str
    state: str
    """active, draining, removed."""
    health: str
    """healthy, failing, ejected, half_open."""
    reason: str
    """Why it is not healthy; empty when it is."""
    since_seconds: float
    """How long its health has been what it is."""
    weight: int
    labels: dict[str, str]
    sessions: int
    calls: int
    queued: int
    share_percent: int | None = None
    """Its share of new sessions while a canary runs."""


# What is asked must not hold a word nobody knows: a swap with a mistyped `percent` would move everybody.
class AddUpstream(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A member to add."""

    url: str
    route: str = ""
    """Empty where there is one route only."""
    name: str = ""
    weight: Weight = 1
    labels: dict[str, str] = {}
    headers: dict[str, str] = {}
    ca_file: str = ""


class RouteView(msgspec.Struct, kw_only=True):
    """One route."""

    name: str
    path: str
    host: str
    policy: str
    sessions: int
    is_panicking: bool
    """So few members are well that ejections are ignored."""
    upstreams: list[UpstreamView]


class Difference(msgspec.Struct, kw_only=True):
    """One thing in which two servers' handshakes differ."""

    field: str
    """Dotted: serverInfo.version, capabilities.tools.listChanged, tools.NAME."""
    old: str
    new: str
    is_loss: bool
    """Whether the new one offers less than the old one did."""


class Replacement(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What comes in the place of an upstream, and how."""

    new: str
    """URL, or the name of a member that is there already."""
    route: str = ""
    percent: Percent = 100
    """Canary: this share of the sessions, of the old ones and of those to come; 1 to 100."""
    strict: bool | None = None
    """Refuse when the new one differs in anything that is compared, or nothing can be; None: as configured."""
    compare_tools: bool | None = None
    drain_timeout_seconds: Seconds | None = None
    name: str = ""
    """Name of the new member."""


class SwapRequest(Replacement, kw_only=True, forbid_unknown_fields=True):
    """Put one upstream in the place of another."""

    old: str
    """Name or URL."""


class JobCounts(msgspec.Struct, kw_only=True):
    """Exact accounting of a drain or swap: total = moved + rebuilt + idle + closed + failed + pinned + remaining."""

    total: int = 0
    moved: int = 0
    """Got a second binding first, then their requests."""
    rebuilt: int = 0
    """Lost the old one meanwhile and were rebuilt."""
    idle: int = 0
    """Had no upstream session; their next request makes one elsewhere."""
    closed: int = 0
    """Ended by their client meanwhile."""
    failed: int = 0
    """Stayed, because the new one would not host them."""
    pinned: int = 0
    """Stayed, because they are pinned."""
    remaining: int = 0
    calls_finished: int = 0
    """Calls that ran on the old one and ended there with an answer."""
    calls_unknown: int = 0
    """Calls that ended with "outcome unknown"."""
    calls_running: int = 0
    """Calls that still run on the old one."""


class JobView(msgspec.Struct, kw_only=True):
    """A drain, swap or move under way, or how it ended."""

    id: str
    kind: str
    """drain, swap, move, refresh."""
    state: str
    """comparing, moving, finishing, holding, done, failed, cancelled, rolling_back, rolled_back."""
    old: str
    new: str
    percent: int
    counts: JobCounts
    differences: list[Difference]
    problem: str
    """Why it failed or was rolled back; empty otherwise."""
    started_seconds: float
    """How long ago it began."""
    took_seconds: float | None
    """How long it took; None while it runs."""


class ReloadView(msgspec.Struct, kw_only=True):
    """What a new configuration changed."""

    is_applied: bool
    problem: str
    """Why nothing was changed; empty when it was applied."""
    added: list[str]
    removed: list[str]
    changed: list[str]
    needs_restart: list[str]
    """Keys that differ from what runs and only count after a restart."""


class Status(msgspec.Struct, kw_only=True):
    """The process at a glance."""

    version: str
    is_compiled: bool
    """Whether what a call passes through is compiled; its sources take up to 1.7 times the CPU."""
    pid: int
    uptime_seconds: float
    is_draining: bool
    sessions: int
    bound_sessions: int
    calls: int
    streams: int
    buffered_bytes: int
    routes: list[RouteView]
    jobs: list[JobView]
    """Those under way."""
    counters: dict[str, int]


class Readiness(msgspec.Struct, kw_only=True):
    """Whether the process should be given traffic."""

    is_ready: bool
    reasons: list[str]
