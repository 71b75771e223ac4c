"""All an operator can do, whoever asks: the admin API, a signal, a changed file.

Owns what is refused before anything begins, and nothing else: looking is `inspection`'s, moving is `jobs`', a new
configuration is `reload`'s. Knows no HTTP. Invariant: what is refused has changed nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy import config as configuration
from proxy.control import inspection
from proxy.control.base import Control, ControlError
from proxy.control.jobs import Jobs
from proxy.control.newcomers import free_name, upstream_of
from proxy.control.orders import DRAIN, MOVE, REFRESH, SWAP, Order
from proxy.control.reload import Reloading
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
from proxy.core.session import CloseReason
from proxy.errors import ProxyError
from proxy.upstream.member import MemberState

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.config import Config, Upstream
    from proxy.control.job import Job
    from proxy.observe.hooks import Observer
    from proxy.relay.session import SessionRelay
    from proxy.routes import RouteTable, Served
    from proxy.upstream.base import Edge
    from proxy.upstream.member import Member


class Controller(Control):
    """Operates the proxy."""

    def __init__(
        self,
        *,
        config: Config,
        loaded: Config | None = None,
        load: Callable[[], Config],
        routes: RouteTable,
        make_edge: Callable[[Upstream], Edge],
        clock: Clock,
        observer: Observer,
        counters: Callable[[], Mapping[str, float]],
        upgrade: Callable[[], int],
    ) -> None:
        """Take the parts.

        Args:
            config: What is in force.
            loaded: The same as it was read, where something in it was worked out since.
            load: Reads the configuration anew; raises ConfigError where it cannot be used.
            routes: What is served.
            make_edge: Makes a connection to an upstream that is compared before it is added.
            clock: Time.
            observer: Who is told.
            counters: Returns every counter by its name.
            upgrade: Starts a new process in the place of this one and returns its pid.
        """
        self._routes = routes
        self._clock = clock
        self._counters = counters
        self._upgrade = upgrade
        self._began_at = clock.now()
        self._jobs = Jobs(clock, observer, lambda: self.config.swap, make_edge)
        self._reloading = Reloading(config, loaded or config, load, routes, self._jobs, clock, observer)

    @property
    def config(self) -> Config:
        """The configuration in force, as it was read or reloaded."""
        return self._reloading.config

    async def close(self) -> None:
        """Stop the jobs; what was asked for and is not done stays undone."""
        await self._jobs.close()
        await self._reloading.close()

    # -- at a glance

    def status(self) -> Status:
        """Return the process at a glance."""
        counters = self._counters()
        served = self._routes.routes
        now = self._clock.now()
        routes = [inspection.route_view(each, now) for each in served]
        relays = [relay for each in served for relay in each.registry.relays]
        # All routes share these, and there is always one.
        ids, budget = served[0].registry.ctx.ids, served[0].registry.ctx.budget
        return Status(
            version=__version__,
            is_compiled=inspection.IS_COMPILED,
            pid=os.getpid(),
            uptime_seconds=now - self._began_at,
            is_draining=self._is_draining,
            sessions=len(relays),
            bound_sessions=len(ids),
            calls=sum(member.calls for route in routes for member in route.upstreams),
            streams=sum(len(relay.readers) for relay in relays),
            buffered_bytes=budget.used + budget.held,
            routes=routes,
            jobs=[job.view() for job in self._jobs.running()],
            counters={name: int(value) for name, value in counters.items()},
        )

    def readiness(self) -> Readiness:
        """Tell whether the process should be given traffic: it takes sessions, and a server for some is well."""
        if self._is_draining:
            return Readiness(is_ready=False, reasons=["the process is going"])
        served = [each for each in self._routes.routes if not each.is_retiring]
        dark = [each for each in served if not any(member.is_available for member in each.registry.ctx.pool.members)]
        reasons = [f"route {each.config.name}: no upstream is well" for each in dark]
        return Readiness(is_ready=len(dark) < len(served), reasons=reasons)

    @property
    def _is_draining(self) -> bool:
        return any(each.registry.is_draining for each in self._routes.routes)

    # -- sessions

    def sessions(self, chosen: SessionFilter, after: str, limit: int) -> SessionPage:
        """List sessions, oldest first."""
        return inspection.page(self._routes, chosen, after, limit, self._clock.now())

    def session(self, session: str) -> SessionDetail:
        """Look at one session."""
        return inspection.session_detail(self._routes, session, self._clock.now())

    def close_session(self, session: str) -> None:
        """End a session; its client has to start again."""
        self._session(session).close(CloseReason.OPERATOR)

    def move_session(self, session: str, upstream: str) -> JobView:
        """Give a session a binding on another member of its route; on one that the pool chooses for the empty name."""
        relay = self._session(session)
        here = relay.leg.member
        served = inspection.serving(self._routes, relay)
        if upstream:
            _, there = inspection.find_member(self._routes, upstream, served.config.name)
            _insist_active(there)
        else:
            chosen = served.registry.ctx.pool.place(relay.placing_key, (here,))
            if chosen is None:
                raise ControlError("conflict", f"there is no upstream besides {here.key} in route {served.config.name}")
            there = chosen
        if there is here:
            raise ControlError("conflict", f"the session is on {here.key} already: a refresh makes it anew there")
        return self._move(MOVE, served, relay, there)

    def refresh_session(self, session: str) -> JobView:
        """Give a session a new upstream session where it is."""
        relay = self._session(session)
        return self._move(REFRESH, inspection.serving(self._routes, relay), relay, relay.leg.member)

    def _move(self, kind: str, served: Served, relay: SessionRelay, there: Member) -> JobView:
        if relay.is_pinned:
            raise ControlError("conflict", "the session is pinned: unpin it first")
        if relay.moving is not None:
            raise ControlError("conflict", "the session is being moved")
        seconds = self.config.swap.drain_timeout_seconds
        order = Order(kind, served.registry, relay.leg.member, there, relay=relay, drain_seconds=seconds)
        return self._jobs.start(order).view()

    def interrupt_session(self, session: str) -> int:
        """Cancel a session's running calls; returns how many."""
        return self._session(session).interrupt()

    def pin_session(self, session: str, *, is_pinned: bool) -> None:
        """Keep a session where it is, or let it go again."""
        self._session(session).is_pinned = is_pinned

    def _session(self, wanted: str) -> SessionRelay:
        return inspection.find_session(self._routes, wanted)

    # -- upstreams

    def upstreams(self, route: str) -> list[UpstreamView]:
        """List the members of a route; of all of them for the empty name."""
        served = [inspection.find_route(self._routes, route)] if route else self._routes.routes
        return inspection.upstream_views(served, self._clock.now())

    def upstream(self, name: str) -> UpstreamView:
        """Look at one member."""
        return self._view(*inspection.find_member(self._routes, name))

    def add_upstream(self, wanted: AddUpstream) -> UpstreamView:
        """Add a member to a route's pool."""
        served = self._open_route(wanted.route)
        taken = self._names()
        if wanted.name in taken:
            raise ControlError("conflict", f"there is an upstream {wanted.name} already")
        given = {"weight": wanted.weight, "labels": wanted.labels, "headers": wanted.headers, "ca_file": wanted.ca_file}
        left_out = {"weight": 1, "labels": {}, "headers": {}, "ca_file": ""}
        # What is left out is as the configuration says for all.
        values = {name: value for name, value in given.items() if value != left_out[name]}
        values |= {"name": wanted.name or free_name(served.config.name, taken), "url": wanted.url}
        return self._view(served, served.registry.ctx.pool.add(upstream_of(self.config.upstream, values)))

    def drain_upstream(self, name: str, timeout_seconds: float | None) -> JobView:
        """Move the sessions of a member to the others of its pool, and give it no new ones."""
        served, member = inspection.find_member(self._routes, name)
        self._insist_on_others(served, member)
        order = Order(DRAIN, served.registry, member, drain_seconds=self._drain_seconds(timeout_seconds))
        return self._jobs.start(order).view()

    def undrain_upstream(self, name: str) -> UpstreamView:
        """Let a drained member have sessions again; a drain under way ends."""
        served, member = inspection.find_member(self._routes, name)
        job = self._jobs.of(member)
        if job is not None and job.order.kind == DRAIN:
            self._jobs.cancel(job)
        else:
            self._jobs.refuse_busy(member)
            if member.state is MemberState.ACTIVE:
                raise ControlError("conflict", f"{member.key} takes sessions already")
        self._jobs.keep(member)
        served.registry.ctx.pool.undrain(member)
        return self._view(served, member)

    def remove_upstream(self, name: str, *, is_forced: bool) -> UpstreamView:
        """Take a member out for good; one that still has sessions only by force, which loses them there."""
        served, member = inspection.find_member(self._routes, name)
        self._jobs.refuse_busy(member)
        self._insist_on_others(served, member)
        if member.sessions and not is_forced:
            raise ControlError("conflict", f"{member.key} has {member.sessions} sessions: drain it first, or use force")
        self._jobs.keep(member)
        # First, so that who loses a session there looks elsewhere.
        served.registry.ctx.pool.remove(member)
        for relay in tuple(served.registry.relays):
            for leg in (*relay.older, relay.leg):
                if leg.member is member and leg.is_bound(leg.binding.generation):
                    # It may be alive, and would keep the upstream session for ever if nobody told it.
                    leg.end_upstream(leg.binding.upstream_id)
                    leg.give_up(leg.binding.generation, "upstream_session_lost")
        return self._view(served, member)

    def _insist_on_others(self, served: Served, member: Member) -> None:
        pool, route = served.registry.ctx.pool, served.config.name
        if not pool.has_place((member,)):
            raise ControlError("conflict", f"{member.key} is the only upstream of route {route}: add another one first")
        others = [each for each in pool.members if each is not member]
        if not any(each.is_available for each in others):
            out = ", ".join(f"{each.key} ({each.health.reason or each.state.value})" for each in others)
            raise ControlError("conflict", f"no other upstream of route {route} is well: {out}")

    def _names(self) -> set[str]:
        return {member.name for each in self._routes.routes for member in each.registry.ctx.pool.members}

    def _open_route(self, name: str) -> Served:
        served = inspection.find_route(self._routes, name)
        if served.is_retiring:
            raise ControlError("conflict", f"route {served.config.name} is being removed")
        return served

    def _view(self, served: Served, member: Member) -> UpstreamView:
        return inspection.upstream_view(served, member, self._clock.now())

    def _drain_seconds(self, given: float | None) -> float:
        return self.config.swap.drain_timeout_seconds if given is None else given

    # -- swaps

    def swap_upstream(self, wanted: SwapRequest) -> JobView:
        """Put one upstream in the place of another: compare, add, move, drain, remove.

        A canary that holds goes on when the same swap is asked for with a larger share.
        """
        served, old = inspection.find_member(self._routes, wanted.old, wanted.route)
        self._open_route(served.config.name)
        new = self._other(served, old, wanted.new)
        if new is not None:
            holding = self._jobs.holding(old, new)
            if holding is not None:
                self._jobs.extend(holding, wanted.percent)
                return holding.view()
            _insist_active(new)
        if wanted.percent < 100:
            _insist_active(old)
        swap = self.config.swap
        config = new.config if new is not None else self._newcomer(old, wanted)
        pool = served.registry.ctx.pool
        order = Order(
            SWAP,
            served.registry,
            old,
            new,
            admit=None if new is not None else lambda: pool.add(config),
            percent=wanted.percent,
            drain_seconds=self._drain_seconds(wanted.drain_timeout_seconds),
            removes=True,
            shown_new="" if new is not None else config.url,
        )
        job = self._jobs.start_compared(
            order,
            config,
            self.config.upstream.ping_timeout_seconds,
            is_strict=swap.strict if wanted.strict is None else wanted.strict,
            with_tools=swap.compare_tools if wanted.compare_tools is None else wanted.compare_tools,
        )
        return job.view()

    def _other(self, served: Served, old: Member, wanted: str) -> Member | None:
        """Return the member that is to take the place of *old*; None where it is yet to be added."""
        if old.config.url == wanted or wanted in (old.key, old.name):
            raise ControlError("conflict", f"{wanted} is {old.key} itself")
        try:
            return inspection.find_member(self._routes, wanted, served.config.name)[1]
        except ControlError as error:
            if error.code != "not_found" or "://" not in wanted:
                raise
            return None

    def _newcomer(self, old: Member, wanted: SwapRequest) -> Upstream:
        """Return the configuration of who takes the place: that of *old*, at another address."""
        name = wanted.name or old.name
        if name != old.name and name in self._names():
            raise ControlError("conflict", f"there is an upstream {name} already")
        return upstream_of(old.config, {"name": name, "url": wanted.new})

    # -- jobs

    def jobs(self) -> list[JobView]:
        """List the jobs, the newest first."""
        return [job.view() for job in self._jobs.all()]

    def job(self, job: str) -> JobView:
        """Look at one job."""
        return self._jobs.find(job).view()

    def cancel_job(self, job: str) -> JobView:
        """Stop a job where it is."""
        return self._changed(job, self._jobs.cancel)

    def rollback_job(self, job: str) -> JobView:
        """Take a swap back."""
        return self._changed(job, self._jobs.take_back)

    def _changed(self, job_id: str, change: Callable[[Job], None]) -> JobView:
        job = self._jobs.find(job_id)
        change(job)
        return job.view()

    # -- the configuration and the process

    def routes(self) -> list[RouteView]:
        """List the routes."""
        return [inspection.route_view(served, self._clock.now()) for served in self._routes.routes]

    def effective_config(self) -> dict[str, Any]:
        """Return the configuration in force with the routes as they are now, secrets masked."""
        routes = tuple(
            replace(
                served.config,
                upstreams=tuple(
                    member.config for member in served.registry.ctx.pool.members if member.state is MemberState.ACTIVE
                ),
            )
            for served in self._routes.routes
            if not served.is_retiring
        )
        return configuration.effective(replace(self.config, routes=routes))

    def reload(self) -> ReloadView:
        """Read the configuration anew and apply its route table."""
        return self._reloading.reload()

    def upgrade(self) -> int:
        """Start a new process that takes the listening sockets over; returns its pid."""
        try:
            return self._upgrade()
        except ProxyError as error:
            raise ControlError("conflict", str(error)) from error


def _insist_active(member: Member) -> None:
    if member.state is not MemberState.ACTIVE:
        raise ControlError("conflict", f"{member.key} is being drained")
