"""A proxy to operate that is none: canned views behind the operator's contract, and a real admin API before them.

Owns no rules of the product: what a fake answers is what the test put there. Fulfils `proxy.control.base.Control`.
"""

import asyncio
import copy
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from proxy.admin.server import AdminServer
from proxy.clock import SystemClock
from proxy.config import Admin
from proxy.control.base import ControlError
from proxy.control.views import (
    AddUpstream,
    Difference,
    JobCounts,
    JobView,
    LegView,
    Readiness,
    ReloadView,
    RouteView,
    SessionDetail,
    SessionFilter,
    SessionPage,
    SessionView,
    Status,
    SwapRequest,
    UpstreamView,
)
from proxy.observe.feed import EventFeed

TOKEN = "correct-horse-battery-staple"
DEADLINE_SECONDS = 10.0


def session_view(number: int, **changed: Any) -> SessionView:
    """Return one session of a list."""
    fields: dict[str, Any] = {
        "id": f"sess{number:02d}…",
        "fingerprint": f"{number:010x}",
        "route": "main",
        "upstream": "a",
        "state": "bound",
        "generation": 1,
        "protocol_version": "2025-11-25",
        "client": f"client-{number} 1.0",
        "age_seconds": 3700.0,
        "idle_seconds": 5.0,
        "calls": number,
        "streams": 1,
        "is_pinned": False,
        "is_moving": False,
    }
    return SessionView(**{**fields, **changed})


def session_detail(number: int, **changed: Any) -> SessionDetail:
    """Return one session looked at closely."""
    view = session_view(number, **changed)
    running = {
        "request_id": "7", "method": "tools/call", "upstream": "a", "generation": 1, "silent_seconds": 2.5,
        "state": "sent",
    }  # fmt: skip
    return SessionDetail(
        **{name: getattr(view, name) for name in view.__struct_fields__},
        legs=[LegView(upstream="a", generation=1, state="bound", calls=1, upstream_id="up1234…")],
        running=[running],
        subscriptions=2,
        log_level="info",
        tasks=0,
        buffered_bytes=2048,
    )


def upstream_view(name: str, **changed: Any) -> UpstreamView:
    """Return one member of a pool."""
    fields: dict[str, Any] = {
        "name": name,
        "key": name,
        "route": "main",
        "url": f"http://127.0.0.1:3001/{name}",
        "state": "active",
        "health": "healthy",
        "reason": "",
        "since_seconds": 60.0,
        "weight": 1,
        "labels": {"version": "1"},
        "sessions": 3,
        "calls": 1,
        "queued": 0,
    }
    return UpstreamView(**{**fields, **changed})


def job_view(state: str = "done", **changed: Any) -> JobView:
    """Return one job; counts are given by their names."""
    counts = {name: changed.pop(name) for name in list(changed) if name in JobCounts.__struct_fields__}
    is_over = state in ("done", "failed", "cancelled", "rolled_back")
    fields: dict[str, Any] = {
        "id": "7",
        "kind": "swap",
        "state": state,
        "old": "a",
        "new": "b",
        "percent": 100,
        "counts": JobCounts(**counts),
        "differences": [],
        "problem": "",
        "started_seconds": 2.0,
        "took_seconds": 2.0 if is_over else None,
    }
    return JobView(**{**fields, **changed})


DIFFERENCE = Difference(field="serverInfo.version", old="1.0", new="1.1", is_loss=False)


class FakeControl:
    """Answers with what it holds, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        """What the next call that changes something raises."""
        self.ready = Readiness(is_ready=True, reasons=[])
        self.sessions_held = [session_view(number) for number in range(1, 4)]
        self.upstreams_held = [upstream_view("a"), upstream_view("b", sessions=0, calls=0)]
        self.course: deque[JobView] = deque([job_view()])
        """The job each look finds, one after the other; the last one stays."""
        self.looked_at: Callable[[], None] = lambda: None
        """Called whenever a job is looked at."""
        self.reloaded = ReloadView(is_applied=True, problem="", added=["b"], removed=[], changed=[], needs_restart=[])
        self.config: dict[str, Any] = {
            "listen": {"address": "127.0.0.1:8080", "allow_anonymous": False, "allowed_hosts": []},
            "admin": {"token": "***", "events": 1000},
            "routes": [
                {"name": "main", "path": "/mcp", "upstreams": [{"name": "a", "url": "http://127.0.0.1:3001/mcp"}]}
            ],
        }

    def _change(self, *asked: Any) -> None:
        self.asked.append(asked)
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _job(self) -> JobView:
        return self.course.popleft() if len(self.course) > 1 else self.course[0]

    def status(self) -> Status:
        """Return the canned status."""
        return Status(
            version="0.1.0",
            is_compiled=True,
            pid=4711,
            uptime_seconds=90_061.0,
            is_draining=False,
            sessions=3,
            bound_sessions=3,
            calls=2,
            streams=3,
            buffered_bytes=3 * 2**20,
            routes=self.routes(),
            jobs=[job for job in self.course if job.took_seconds is None][:1],
            counters={"sessions_opened_total": 3},
        )

    def readiness(self) -> Readiness:
        """Return what the test has set."""
        return self.ready

    def sessions(self, chosen: SessionFilter, after: str, limit: int) -> SessionPage:
        """Page over what is held; the filter is only remembered."""
        self.asked.append(("sessions", chosen, after, limit))
        first = int(after or 0)
        page = self.sessions_held[first : first + limit]
        rest = first + len(page) < len(self.sessions_held)
        return SessionPage(sessions=page, total=len(self.sessions_held), next=str(first + len(page)) if rest else "")

    def session(self, session: str) -> SessionDetail:
        """Return a detail for ids that begin as those held."""
        if not session.startswith("sess"):
            raise ControlError("not_found", "no such session")
        if session == "sess":
            raise ControlError("ambiguous", "3 sessions begin so")
        return session_detail(int(session[4:6]))

    def close_session(self, session: str) -> None:
        """Remember it."""
        self.session(session)
        self._change("close_session", session)

    def move_session(self, session: str, upstream: str) -> JobView:
        """Remember it."""
        self.session(session)
        self._change("move_session", session, upstream)
        return self._job()

    def refresh_session(self, session: str) -> JobView:
        """Remember it."""
        self.session(session)
        self._change("refresh_session", session)
        return self._job()

    def interrupt_session(self, session: str) -> int:
        """Remember it."""
        self.session(session)
        self._change("interrupt_session", session)
        return 2

    def pin_session(self, session: str, *, is_pinned: bool) -> None:
        """Remember it."""
        self.session(session)
        self._change("pin_session", session, is_pinned)

    def upstreams(self, route: str) -> list[UpstreamView]:
        """Return those of a route."""
        if route not in ("", "main"):
            raise ControlError("not_found", f"no route {route}")
        return self.upstreams_held

    def upstream(self, name: str) -> UpstreamView:
        """Return one of those held."""
        for upstream in self.upstreams_held:
            if name in (upstream.name, upstream.url):
                return upstream
        raise ControlError("not_found", "no such upstream")

    def add_upstream(self, wanted: AddUpstream) -> UpstreamView:
        """Remember it."""
        self._change("add_upstream", wanted)
        return upstream_view(wanted.name or "c", url=wanted.url, sessions=0, calls=0)

    def drain_upstream(self, name: str, timeout_seconds: float | None) -> JobView:
        """Remember it."""
        self.upstream(name)
        self._change("drain_upstream", name, timeout_seconds)
        return self._job()

    def undrain_upstream(self, name: str) -> UpstreamView:
        """Remember it."""
        self._change("undrain_upstream", name)
        return self.upstream(name)

    def remove_upstream(self, name: str, *, is_forced: bool) -> UpstreamView:
        """Remember it."""
        self._change("remove_upstream", name, is_forced)
        return self.upstream(name)

    def swap_upstream(self, wanted: SwapRequest) -> JobView:
        """Remember it."""
        self.upstream(wanted.old)
        self._change("swap_upstream", wanted)
        return self._job()

    def jobs(self) -> list[JobView]:
        """Return the present one."""
        return [self.course[0]]

    def job(self, job: str) -> JobView:
        """Go one step on."""
        if job != "7":
            raise ControlError("not_found", f"no job {job[:20]}")
        self.looked_at()
        return self._job()

    def cancel_job(self, job: str) -> JobView:
        """Remember it."""
        self._change("cancel_job", job)
        return self._job()

    def rollback_job(self, job: str) -> JobView:
        """Remember it."""
        self._change("rollback_job", job)
        return self._job()

    def routes(self) -> list[RouteView]:
        """Return one route with all upstreams."""
        return [
            RouteView(
                name="main", path="/mcp", host="", policy="least_sessions", sessions=3, is_panicking=False,
                upstreams=self.upstreams_held,
            )
        ]  # fmt: skip

    def effective_config(self) -> dict[str, Any]:
        """Return the canned one."""
        return copy.deepcopy(self.config)

    def reload(self) -> ReloadView:
        """Remember it."""
        self._change("reload")
        return self.reloaded

    def upgrade(self) -> int:
        """Remember it."""
        self._change("upgrade")
        return 4712


def new_feed(limit: int = 100) -> EventFeed:
    """Return a feed whose clock stands still."""
    return EventFeed(limit, "f00d", lambda: 1_700_000_000.25)


class ThreadedAdmin:
    """A real admin API on a loopback port, served by a thread of its own: commands block while they ask."""

    def __init__(self, token: str = "") -> None:
        self.control = FakeControl()
        self.feed = new_feed()
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="admin")
        self._sock = socket.socket()
        self._server: AdminServer

    def __enter__(self) -> Self:
        self._sock.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self._thread.start()
        self._wait_for(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait_for(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_SECONDS)
        self._loop.close()
        self._sock.close()

    async def _start(self) -> None:
        clock = SystemClock(asyncio.get_running_loop())
        self._server = AdminServer(self.control, self.feed, Admin(token=self._token), clock)
        await self._server.start(self._sock)

    def _wait_for(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_SECONDS)

    def do(self, work: Callable[[], None]) -> None:
        """Do something in the server's thread, and wait until it is done."""

        async def done() -> None:
            work()

        self._wait_for(done())
