"""The contract between those who operate the proxy and what they operate. Types only.

Every method is called on the event loop and returns at once; what takes time is a job, to be looked at again.
"""

from typing import Any, Protocol

from proxy.control.views import (
    AddUpstream,
    JobView,
    Readiness,
    ReloadView,
    RouteView,
    SessionDetail,
    SessionFilter,
    SessionPage,
    Status,
    SwapRequest,
    UpstreamView,
)
from proxy.errors import ProxyError


class ControlError(ProxyError):
    """What was asked cannot be done."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        """`not_found`, `ambiguous`, `invalid` or `conflict`."""


class Control(Protocol):
    """All an operator can do. A *session* is named by its id, at least 6 first characters of it, or its fingerprint.

    Raises:
        ControlError: by every method, when there is no such thing or it cannot be done.
    """

    def status(self) -> Status:
        """Return the process at a glance."""

    def readiness(self) -> Readiness:
        """Tell whether the process should be given traffic."""

    def sessions(self, chosen: SessionFilter, after: str, limit: int) -> SessionPage:
        """List sessions, oldest first; *after* is what the page before said, *limit* 1 to 1000."""

    def session(self, session: str) -> SessionDetail:
        """Look at one session."""

    def close_session(self, session: str) -> None:
        """End a session; its client has to start again."""

    def move_session(self, session: str, upstream: str) -> JobView:
        """Give a session a binding on another member of its route."""

    def refresh_session(self, session: str) -> JobView:
        """Give a session a new upstream session where it is."""

    def interrupt_session(self, session: str) -> int:
        """Cancel a session's running calls; returns how many."""

    def pin_session(self, session: str, *, is_pinned: bool) -> None:
        """Keep a session where it is, whatever is drained; or let it go again."""

    def upstreams(self, route: str) -> list[UpstreamView]:
        """List the members of a route; of all of them for the empty name."""

    def upstream(self, name: str) -> UpstreamView:
        """Look at one member."""

    def add_upstream(self, wanted: AddUpstream) -> UpstreamView:
        """Add a member to a route's pool."""

    def drain_upstream(self, name: str, timeout_seconds: float | None) -> JobView:
        """Move the sessions of a member to the others of its pool, and give it no new ones."""

    def undrain_upstream(self, name: str) -> UpstreamView:
        """Let a drained member have sessions again."""

    def remove_upstream(self, name: str, *, is_forced: bool) -> UpstreamView:
        """Take a member out for good; one that still has sessions only by force, which loses them there."""

    def swap_upstream(self, wanted: SwapRequest) -> JobView:
        """Put one upstream in the place of another: compare, add, move, drain, remove."""

    def jobs(self) -> list[JobView]:
        """List the jobs, the newest first; finished ones are remembered for a while."""

    def job(self, job: str) -> JobView:
        """Look at one job."""

    def cancel_job(self, job: str) -> JobView:
        """Stop a job where it is: what has moved has moved."""

    def rollback_job(self, job: str) -> JobView:
        """Take a swap back: what has moved is moved again."""

    def routes(self) -> list[RouteView]:
        """List the routes."""

    def effective_config(self) -> dict[str, Any]:
        """Return the configuration in force, secrets masked."""

    def reload(self) -> ReloadView:
        """Read the configuration anew and apply its route table."""

    def upgrade(self) -> int:
        """Start a new process that takes the listening sockets over; returns its pid."""
