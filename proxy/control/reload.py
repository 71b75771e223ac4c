"""A new configuration, applied to what runs.

Owns the configuration in force, and what follows from each difference: upstreams that come are added, those that go are
drained first, routes that go serve their sessions for a while. Knows neither files nor how sessions are moved.
Invariants: a configuration that cannot be used changes nothing; applying one that says the same changes nothing; what
an operator has changed stays until the file says something else about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy import config as configuration
from proxy.config import Config, Route, Upstream
from proxy.config.routes import OF_UPSTREAM
from proxy.control.orders import DRAIN, Order
from proxy.control.views import ReloadView
from proxy.core.session import CloseReason
from proxy.core.table import Change, Pattern, Place, Table, renamed, steps
from proxy.errors import ConfigError
from proxy.observe import hooks
from proxy.upstream.member import MemberState
from proxy.upstream.pool import REMOVAL_SECONDS
from proxy.upstream.tls import client_context

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.control.jobs import Jobs
    from proxy.core.table import Step
    from proxy.observe.hooks import Observer
    from proxy.routes import RouteTable, Served
    from proxy.upstream.member import Member
    from proxy.upstream.pool import Pool

IN_PLACE = (
    "weight",
    "labels",
    "max_connections",
    "max_calls",
    "max_session_calls",
    "queue_limit",
    "queue_timeout_seconds",
)
"""What a running upstream takes on. With any other difference it is another upstream: the sessions move."""
_IDENTITY = tuple(name for name in OF_UPSTREAM if name != "name" and name not in IN_PLACE)
_LIVE = "swap."
"""What is asked for when it is needed, and so counts at once."""


class Reloading:
    """The configuration in force, and its changes."""

    def __init__(
        self,
        config: Config,
        loaded: Config,
        load: Callable[[], Config],
        routes: RouteTable,
        jobs: Jobs,
        clock: Clock,
        observer: Observer,
    ) -> None:
        """Prepare to reload.

        Args:
            config: What is in force.
            loaded: The same as it was read, before anything in it was worked out (an inherited socket's address).
            load: Reads it anew; raises ConfigError where it cannot be used.
            routes: What is served.
            jobs: Who moves sessions.
            clock: Time.
            observer: Who is told.
        """
        self.config = config
        self._loaded = loaded
        self._load = load
        self._routes = routes
        self._jobs = jobs
        self._clock = clock
        self._observer = observer
        self._closing: set[asyncio.Task[None]] = set()

    def reload(self) -> ReloadView:
        """Read the configuration, and apply it if it can be used."""
        try:
            read = self._load()
            new = tuple(self._as_running(route) for route in read.routes)
            names = renamed(table_of(self.config.routes), table_of(new))
            before = tuple(replace(route, name=names.get(route.name, route.name)) for route in self.config.routes)
            changes = steps(table_of(before), table_of(new))
            _check_files(changes, {route.name: route for route in new})
        except ConfigError as error:
            if self._observer.is_active:
                self._observer.reload_refused(hooks.ReloadRefused(reason="invalid"))
            return ReloadView(is_applied=False, problem=str(error), added=[], removed=[], changed=[], needs_restart=[])
        needs_restart = [key for key in configuration.differences(self._loaded, read) if not key.startswith(_LIVE)]
        old = {route.name: route for route in before}
        # Before the steps: what they start asks for the settings of its time.
        self.config = self._in_force(read, new)
        view = ReloadView(is_applied=True, problem="", added=[], removed=[], changed=[], needs_restart=needs_restart)
        told = {"added": 0, "removed": 0, "changed": 0}
        by_name = {route.name: route for route in new}
        for served, name in [(self._served(name), other) for name, other in names.items()]:
            if served is not None:
                view.changed.append(f"route {served.config.name}, now {name}")
                served.rename(name)
        for step in changes:
            self._take(step, by_name)
            self._note(step, old, by_name, view, told)
        if self._observer.is_active:
            self._observer.config_reloaded(
                hooks.ConfigReloaded(added=told["added"], removed=told["removed"], changed=told["changed"])
            )
        return view

    def _as_running(self, route: Route) -> Route:
        """Return a route with what holds for all upstreams as it is: that counts after a restart."""
        own = [{name: getattr(upstream, name) for name in OF_UPSTREAM} for upstream in route.upstreams]
        return replace(route, upstreams=tuple(replace(self.config.upstream, **values) for values in own))

    def _in_force(self, read: Config, new: tuple[Route, ...]) -> Config:
        running = self.config
        base = {name: getattr(read.upstream, name) for name in OF_UPSTREAM}
        return replace(
            running,
            listen=replace(running.listen, path=read.listen.path),
            upstream=replace(running.upstream, **base),
            swap=read.swap,
            routes=new,
            given=read.given,
        )

    @staticmethod
    def _note(step: Step, old: dict[str, Route], new: dict[str, Route], view: ReloadView, told: dict[str, int]) -> None:
        match step.change:
            case Change.ROUTE_ADDED:
                view.added.append(f"route {step.route}")
                told["added"] += len(new[step.route].upstreams)
            case Change.ROUTE_REMOVED:
                view.removed.append(f"route {step.route}")
                told["removed"] += len(old[step.route].upstreams)
            case Change.ROUTE_CHANGED:
                view.changed.append(f"route {step.route}")
            case Change.ADDED:
                view.added.append(step.upstream)
                told["added"] += 1
            case Change.REMOVED:
                view.removed.append(step.upstream)
                told["removed"] += 1
            case Change.ADJUSTED | Change.REPLACED:
                view.changed.append(step.upstream)
                told["changed"] += 1

    # -- steps

    def _take(self, step: Step, new: dict[str, Route]) -> None:
        if step.change is Change.ROUTE_ADDED:
            self._open(new[step.route])
            return
        served = self._served(step.route)
        if served is None:
            return
        match step.change:
            case Change.ROUTE_REMOVED:
                number = self._routes.retire(served)
                self._clock.call_later(self.config.swap.drain_timeout_seconds, lambda: self._drop(served, number))
            case Change.ROUTE_CHANGED:
                self._routes.change(served, new[step.route])
            case Change.REMOVED:
                self._keep_somebody(served, step.upstream, new[step.route])
                for member in _called(served, step.upstream):
                    self._let_go(served, member)
            case _:
                wanted = next(each for each in new[step.route].upstreams if each.name == step.upstream)
                self._bring(served, wanted, is_new=step.change is not Change.ADJUSTED)

    def _open(self, route: Route) -> None:
        """Serve a route; one of that name that is about to go stays, with its sessions: a mistake was put right."""
        served = next(
            (each for each in self._routes.routes if each.is_retiring and each.config.name == route.name), None
        )
        if served is None:
            self._routes.add(route)
            return
        self._routes.take_back(served, route)
        for wanted in route.upstreams:
            self._bring(served, wanted, is_new=True)
        names = {wanted.name for wanted in route.upstreams}
        for member in served.registry.ctx.pool.members:
            if member.name not in names:
                self._let_go(served, member)

    def _served(self, name: str) -> Served | None:
        return next(
            (served for served in self._routes.routes if served.config.name == name and not served.is_retiring), None
        )

    def _bring(self, served: Served, wanted: Upstream, *, is_new: bool) -> None:
        """Let a route have an upstream as it is wanted, whatever of its name is there already."""
        there = _called(served, wanted.name)
        present = [member for member in there if member.state is MemberState.ACTIVE]
        fitting = [member for member in present if identity_of(member.config) == identity_of(wanted)]
        for member in fitting:
            member.reconfigure(replace(member.config, **{name: getattr(wanted, name) for name in IN_PLACE}))
        if not is_new:
            return
        if not fitting:
            served.registry.ctx.pool.add(wanted)
        for member in there:
            if member not in fitting:
                self._let_go(served, member)

    def _keep_somebody(self, served: Served, leaving: str, route: Route) -> None:
        """Bring back what an operator took out, where else nobody would be left."""
        pool = served.registry.ctx.pool
        if not any(each.name != leaving and each.state is MemberState.ACTIVE for each in pool.members):
            for upstream in route.upstreams:
                pool.add(upstream)

    def _let_go(self, served: Served, member: Member) -> None:
        job = self._jobs.of(member)
        if job is not None:
            if job.order.kind == DRAIN and job.order.removes:
                return
            # The file has the last word, and what has moved has moved.
            self._jobs.cancel(job)
        seconds = self.config.swap.drain_timeout_seconds
        self._jobs.start(Order(DRAIN, served.registry, member, drain_seconds=seconds, removes=True))

    def _drop(self, served: Served, number: int) -> None:
        """End what is left of a route, unless it came back since this retirement of it."""
        if not served.is_retiring or served.retirements != number:
            return
        pool = served.registry.ctx.pool
        for member in pool.members:
            job = self._jobs.of(member)
            if job is not None:
                self._jobs.cancel(job)
        self._routes.drop(served, CloseReason.ROUTE_REMOVED)
        # The DELETEs of its sessions are on their way.
        self._clock.call_later(REMOVAL_SECONDS, lambda: self._close(pool))

    def _close(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(pool.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Wait for what is being closed."""
        await asyncio.gather(*self._closing, return_exceptions=True)


def _called(served: Served, name: str) -> list[Member]:
    return [member for member in served.registry.ctx.pool.members if member.name == name]


def identity_of(upstream: Upstream) -> tuple[Any, ...]:
    """Return what makes an upstream this one."""
    return tuple(getattr(upstream, name) for name in _IDENTITY)


def table_of(routes: tuple[Route, ...]) -> Table:
    """Return routes as `core.table` compares them."""
    return {
        route.name: Pattern(
            (route.host, route.path),
            route.policy,
            {
                upstream.name: Place(identity_of(upstream), tuple(getattr(upstream, name) for name in IN_PLACE))
                for upstream in route.upstreams
            },
        )
        for route in routes
    }


def _check_files(changes: list[Step], new: dict[str, Route]) -> None:
    """Read the certificates of whoever comes, before anything is changed."""
    for step in changes:
        if step.change in (Change.ROUTE_ADDED, Change.ADDED, Change.REPLACED):
            for upstream in new[step.route].upstreams:
                if step.upstream in ("", upstream.name) and upstream.ca_file:
                    client_context(upstream)
