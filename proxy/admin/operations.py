"""Own the table of what the admin API offers: method, path, what is asked, what is done, what is answered.

Knows no HTTP library. Invariant: the table is all there is; the server routes by it and the description is made of it,
so that neither can say what the other does not do. Only the event feed and the description itself stand beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec

from proxy.control.base import Control
from proxy.control.views import (
    AddUpstream,
    JobView,
    Readiness,
    ReloadView,
    Replacement,
    RouteView,
    Seconds,
    SessionDetail,
    SessionFilter,
    SessionPage,
    Status,
    SwapRequest,
    UpstreamView,
)

_FILTER = "only those; empty: any"


class SessionQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which sessions to list."""

    route: Annotated[str, msgspec.Meta(description=_FILTER)] = ""
    upstream: Annotated[str, msgspec.Meta(description=_FILTER)] = ""
    state: Annotated[str, msgspec.Meta(description="bound, binding, lost or unbound; empty: any")] = ""
    client: Annotated[str, msgspec.Meta(description="part of the client's name; empty: any")] = ""
    pinned: Annotated[bool | None, msgspec.Meta(description="only the pinned ones, or only the others")] = None
    after: Annotated[str, msgspec.Meta(description="`next` of the page before")] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="sessions on a page")] = 100


class RouteQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whose upstreams to list."""

    route: Annotated[str, msgspec.Meta(description="name of a route; empty: all")] = ""


class RemovalQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to remove an upstream."""

    force: Annotated[bool, msgspec.Meta(description="also one that still has sessions: they lose it")] = False


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing."""


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object."""


class Destination(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where to move a session."""

    upstream: Annotated[str, msgspec.Meta(description="name of a member; empty: the proxy chooses")] = ""


class Drain(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to drain an upstream."""

    timeout_seconds: Annotated[
        Seconds | None, msgspec.Meta(description="for running calls to end; none: as configured")
    ] = None


class Liveness(msgspec.Struct, kw_only=True):
    """The process runs and answers."""

    is_alive: bool


class Interrupted(msgspec.Struct, kw_only=True):
    """What an interrupt did."""

    calls: Annotated[int, msgspec.Meta(description="calls that were cancelled")]


class Successor(msgspec.Struct, kw_only=True):
    """The process that takes over."""

    pid: int


class Upstreams(msgspec.Struct, kw_only=True):
    """The members of one route or of all."""

    upstreams: list[UpstreamView]


class Jobs(msgspec.Struct, kw_only=True):
    """Jobs, the newest first."""

    jobs: list[JobView]


class Routes(msgspec.Struct, kw_only=True):
    """Every route."""

    routes: list[RouteView]


class Asked(NamedTuple):
    """One request, read and valid."""

    path: Mapping[str, str]
    query: Any
    body: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked."""

    method: str
    path: str
    """With its parameters in braces."""
    name: str
    summary: str
    run: Callable[[Control, Asked], Any]
    answer: Any
    """Type of the answer; None when it has no body."""
    status: int = 200
    """Of an answer that says yes."""
    query: type = NoQuery
    body: type | None = None
    """Type of the request's body; None when it takes none. A body left out counts as an empty object."""
    is_open: bool = False
    """Whether it needs no token."""

    @property
    def is_change(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET"

    def status_of(self, answer: Any) -> int:
        """Return the status of one answer."""
        return 503 if isinstance(answer, Readiness) and not answer.is_ready else self.status


def _sessions(control: Control, asked: Asked) -> SessionPage:
    query: SessionQuery = asked.query
    chosen = SessionFilter(
        route=query.route, upstream=query.upstream, state=query.state, client=query.client, is_pinned=query.pinned
    )
    return control.sessions(chosen, query.after, query.limit)


def _pin(control: Control, asked: Asked, *, is_pinned: bool) -> SessionDetail:
    control.pin_session(asked.path["id"], is_pinned=is_pinned)
    return control.session(asked.path["id"])


def _swap_one(control: Control, asked: Asked) -> JobView:
    return control.swap_upstream(SwapRequest(old=asked.path["name"], **msgspec.structs.asdict(asked.body)))


_O = Operation

OPERATIONS: tuple[Operation, ...] = (
    _O(
        "GET", "/livez", "isAlive", "Tell whether the process runs", lambda *_: Liveness(is_alive=True), Liveness,
        is_open=True,
    ),
    _O(
        "GET", "/readyz", "isReady", "Tell whether the process should be given traffic (503: why not)",
        lambda c, _: c.readiness(), Readiness, is_open=True,
    ),
    _O("GET", "/status", "getStatus", "The process at a glance", lambda c, _: c.status(), Status),
    _O("GET", "/sessions", "listSessions", "List sessions, oldest first", _sessions, SessionPage, query=SessionQuery),
    _O(
        "GET", "/sessions/{id}", "getSession", "Look at one session", lambda c, a: c.session(a.path["id"]),
        SessionDetail,
    ),
    _O(
        "DELETE", "/sessions/{id}", "closeSession", "End a session; its client has to start again",
        lambda c, a: c.close_session(a.path["id"]), None, status=204,
    ),
    _O(
        "POST", "/sessions/{id}/move", "moveSession", "Give a session a binding on another upstream",
        lambda c, a: c.move_session(a.path["id"], a.body.upstream), JobView, status=202, body=Destination,
    ),
    _O(
        "POST", "/sessions/{id}/refresh", "refreshSession", "Give a session a new upstream session where it is",
        lambda c, a: c.refresh_session(a.path["id"]), JobView, status=202, body=Nothing,
    ),
    _O(
        "POST", "/sessions/{id}/interrupt", "interruptSession", "Cancel a session's running calls",
        lambda c, a: Interrupted(calls=c.interrupt_session(a.path["id"])), Interrupted, body=Nothing,
    ),
    _O(
        "POST", "/sessions/{id}/pin", "pinSession", "Keep a session where it is, whatever is drained",
        lambda c, a: _pin(c, a, is_pinned=True), SessionDetail, body=Nothing,
    ),
    _O(
        "POST", "/sessions/{id}/unpin", "unpinSession", "Let a pinned session be moved again",
        lambda c, a: _pin(c, a, is_pinned=False), SessionDetail, body=Nothing,
    ),
    _O(
        "GET", "/upstreams", "listUpstreams", "List the upstreams",
        lambda c, a: Upstreams(upstreams=c.upstreams(a.query.route)), Upstreams, query=RouteQuery,
    ),
    _O(
        "POST", "/upstreams", "addUpstream", "Add an upstream to a route's pool",
        lambda c, a: c.add_upstream(a.body), UpstreamView, status=201, body=AddUpstream,
    ),
    _O(
        "GET", "/upstreams/{name}", "getUpstream", "Look at one upstream",
        lambda c, a: c.upstream(a.path["name"]), UpstreamView,
    ),
    _O(
        "DELETE", "/upstreams/{name}", "removeUpstream", "Take an upstream out for good",
        lambda c, a: c.remove_upstream(a.path["name"], is_forced=a.query.force), UpstreamView, query=RemovalQuery,
    ),
    _O(
        "POST", "/upstreams/{name}/drain", "drainUpstream", "Move its sessions to the others of its pool",
        lambda c, a: c.drain_upstream(a.path["name"], a.body.timeout_seconds), JobView, status=202, body=Drain,
    ),
    _O(
        "POST", "/upstreams/{name}/undrain", "undrainUpstream", "Let a drained upstream have sessions again",
        lambda c, a: c.undrain_upstream(a.path["name"]), UpstreamView, body=Nothing,
    ),
    _O(
        "POST", "/upstreams/{name}/swap", "swapUpstream", "Put another upstream in its place",
        _swap_one, JobView, status=202, body=Replacement,
    ),
    _O(
        "POST", "/swaps", "swap", "Put one upstream, by name or URL, in the place of another",
        lambda c, a: c.swap_upstream(a.body), JobView, status=202, body=SwapRequest,
    ),
    _O("GET", "/jobs", "listJobs", "List the jobs, the newest first", lambda c, _: Jobs(jobs=c.jobs()), Jobs),
    _O("GET", "/jobs/{id}", "getJob", "Look at one job", lambda c, a: c.job(a.path["id"]), JobView),
    _O(
        "DELETE", "/jobs/{id}", "cancelJob", "Stop a job where it is",
        lambda c, a: c.cancel_job(a.path["id"]), JobView,
    ),
    _O(
        "POST", "/jobs/{id}/rollback", "rollbackJob", "Take a swap back",
        lambda c, a: c.rollback_job(a.path["id"]), JobView, status=202, body=Nothing,
    ),
    _O("GET", "/routes", "listRoutes", "List the routes", lambda c, _: Routes(routes=c.routes()), Routes),
    _O(
        "GET", "/config", "getConfig", "The configuration in force, secrets masked",
        lambda c, _: c.effective_config(), dict[str, Any],
    ),
    _O(
        "POST", "/reload", "reload", "Read the configuration anew and apply its route table",
        lambda c, _: c.reload(), ReloadView, body=Nothing,
    ),
    _O(
        "POST", "/upgrade", "upgrade", "Start a new process that takes the listening sockets over",
        lambda c, _: Successor(pid=c.upgrade()), Successor, status=202, body=Nothing,
    ),
)  # fmt: skip
"""Everything, but `/events` and `/openapi.json`."""
