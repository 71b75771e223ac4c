"""The composition root: builds every part from the configuration and owns its lifetime.

The only module that names concrete parts. Invariant: what is started here is ended here, in the reverse order, within
the bounds of the configuration.
"""

import asyncio
import contextlib
import dataclasses
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from proxy import __version__
from proxy.admin.server import AdminServer
from proxy.clock import Clock, SystemClock, wall
from proxy.config import Config, Listen, Route, Upstream
from proxy.control.base import ControlError
from proxy.control.control import Controller
from proxy.control.watch import Watch, mark_of
from proxy.core.idmap import IdMap
from proxy.downstream.listener import Listener
from proxy.downstream.server import Handle, HttpServer
from proxy.downstream.sockets import bind, listening_socket
from proxy.downstream.wire import WireServer
from proxy.errors import ConfigError, ProxyError
from proxy.handover import ADMIN, LISTEN, Departure, Inherited, Upgrade, notify
from proxy.observe.feed import EventFeed
from proxy.observe.hooks import Fingerprint, Observers
from proxy.observe.logs import LogObserver, configure
from proxy.observe.metrics import Counters
from proxy.registry import Registry
from proxy.relay.context import Context
from proxy.routes import RouteTable
from proxy.store.memory import Budget
from proxy.upstream.base import Edge
from proxy.upstream.http import HttpEdge
from proxy.upstream.pool import Keys, Pool
from proxy.upstream.wire import WireEdge
from proxy.wheel import Wheel

FAREWELL_SECONDS = 1.0
"""How long the end waits for the upstream to hear the DELETEs."""

GC_THRESHOLD = 20_000
"""Allocations between collections of the youngest objects."""

EDGES: Mapping[str, Callable[[Upstream], Edge]] = {"wire": WireEdge, "aiohttp": HttpEdge}


class Source:
    """Where the configuration comes from, to be read again."""

    def __init__(self, load: Callable[[], Config], path: Path | None = None) -> None:
        self.load = load
        """Reads it anew; raises ConfigError where it cannot be used."""
        self.path = path
        """The file that may change; None where there is none."""


def _no_upgrade() -> int:
    raise ProxyError("this process cannot start another one in its place")


def make_edge(config: Upstream) -> Edge:
    """Return the edge towards one upstream."""
    return EDGES[config.http](config)


Server = WireServer | HttpServer
SERVERS: Mapping[str, Callable[[Handle, Listen, float, Clock], Server]] = {
    "wire": WireServer,
    "aiohttp": lambda handle, config, peer_timeout, _: HttpServer(handle, config, peer_timeout),
}


class App:
    """One proxy: a listening socket in front of an upstream. Make it inside a running event loop."""

    def __init__(self, config: Config, source: Source | None = None) -> None:
        self.config = config
        self.source = source or Source(lambda: config)
        self.clock = SystemClock(asyncio.get_running_loop())
        self.counters = Counters()
        self.feed = EventFeed(config.admin.events, os.urandom(4).hex(), wall)
        self.observer = Observers(LogObserver(config.log.level, self.clock.now), self.counters, self.feed)
        self.budget = Budget(config.replay, self.clock.now)
        self.heartbeats = Wheel(self.clock, config.stream.heartbeat_seconds)
        self.checks = Wheel(self.clock, check_period_seconds(config))
        self.ids = IdMap()
        self.fingerprint = Fingerprint(os.urandom(32))
        self.keys = Keys()
        self.routes = RouteTable(config.routes, self._registry)
        self.counters.gauge("sessions", lambda: sum(len(registry) for registry in self.registries))
        self.counters.gauge("bound_sessions", lambda: len(self.ids))
        self.counters.gauge("buffered_bytes", lambda: self.budget.used + self.budget.held)
        self.listener = Listener(self.routes, config.listen, self.observer)
        serve = SERVERS[config.listen.http]
        self.server: Server = serve(self.listener.handle, config.listen, config.stream.peer_timeout_seconds, self.clock)
        self.start_upgrade: Callable[[], int] = _no_upgrade
        self.control = Controller(
            config=config,
            loaded=self.source.load(),
            load=self.source.load,
            routes=self.routes,
            make_edge=make_edge,
            clock=self.clock,
            observer=self.observer,
            counters=self.counters.snapshot,
            upgrade=self._upgrade,
        )
        self.admin = AdminServer(self.control, self.feed, config.admin, self.clock)
        path = self.source.path
        self.watch = Watch(self.clock, lambda: mark_of(path), self.control.reload) if path is not None else None

    def _registry(self, route: Route) -> Registry:
        """Make what one route needs of its own."""
        config = self.config
        pool = Pool(
            route.name,
            route.policy,
            route.upstreams,
            make_edge,
            self.clock,
            self.observer,
            config.health,
            self.keys,
        )
        context = Context(
            clock=self.clock,
            pool=pool,
            budget=self.budget,
            heartbeats=self.heartbeats,
            checks=self.checks,
            ids=self.ids,
            observer=self.observer,
            fingerprint=self.fingerprint,
            upstream=config.upstream,
            session=config.session,
            stream=config.stream,
            retry=config.retry,
            swap=config.swap,
            trust_forwarded=False,
            route=route.name,
        )
        return Registry(context, lambda: self.routes.sessions)

    @property
    def registries(self) -> list[Registry]:
        """Those of all routes."""
        return [served.registry for served in self.routes.routes]

    def _upgrade(self) -> int:
        try:
            return self.start_upgrade()
        except ProxyError as error:
            raise ControlError("conflict", str(error)) from error

    async def start(self, sock: socket.socket, admin: socket.socket | None = None) -> None:
        """Serve clients on a bound socket, and operators on another one."""
        await self.server.start(sock)
        if admin is not None:
            await self.admin.start(admin)
        if self.watch is not None and self.config.server.watch_config:
            self.watch.begin()

    async def end_operation(self) -> None:
        """Take no operator's word any more: the process is about to end."""
        if self.watch is not None:
            self.watch.close()
        await self.admin.close()
        await self.control.close()

    async def drain(self, hurry: asyncio.Event) -> None:
        """End: no new connections, streams closed at frame boundaries, calls given `drain_seconds` to finish."""
        await self.server.release()
        registries = self.registries
        for registry in registries:
            registry.begin_drain()
        deadline = self.clock.now() + self.config.server.drain_seconds
        while _any_running(registries) and self.clock.now() < deadline and not hurry.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), 0.05)
        for registry in registries:
            registry.end()
        deadline = self.clock.now() + FAREWELL_SECONDS
        # Polled: an Event would be set for every DELETE of a process's life, for this one wait.
        while _any_farewell(registries) and self.clock.now() < deadline and not hurry.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self.end_operation()
        await self.server.close(FAREWELL_SECONDS)
        self.heartbeats.close()
        self.checks.close()
        for registry in registries:
            await registry.ctx.pool.close()


def _any_running(registries: list[Registry]) -> bool:
    return any(registry.has_running_calls for registry in registries)


def _any_farewell(registries: list[Registry]) -> bool:
    return any(registry.ctx.farewells for registry in registries)


def check_period_seconds(config: Config) -> float:
    """Return how often a session is looked at: a third of the shortest time that matters, at most 5 seconds."""
    limits = [
        config.upstream.silence_seconds,
        config.session.upstream_idle_seconds,
        config.session.idle_seconds,
    ]
    if config.session.lifetime_seconds:
        limits.append(config.session.lifetime_seconds)
    return min(5.0, min(limits) / 3)


async def serve(
    config: Config, sock: socket.socket, inherited: Inherited, admin: socket.socket | None, source: Source
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short.

    SIGUSR2 starts a new process in the place of this one, which goes once the new one serves. *inherited* is what this
    process was handed when it is such a new one.
    """
    loop = asyncio.get_running_loop()
    app = App(config, source)
    passed = {LISTEN: sock} if admin is None else {LISTEN: sock, ADMIN: admin}
    upgrade = Upgrade(app.clock, app.observer, config.server.upgrade_ready_seconds, passed)
    app.start_upgrade = upgrade.start
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    loop.add_signal_handler(signal.SIGUSR2, upgrade.signalled)
    loop.add_signal_handler(signal.SIGHUP, app.control.reload)
    await app.start(sock, admin)
    announce(config, sock, admin)
    if inherited:
        inherited.announce()
    else:
        notify(os.environ, "READY=1")
    # What lives until the end need not be visited by every collection of garbage.
    gc.collect()
    gc.freeze()
    # A call makes hundreds of objects and hardly any cycle: the default of 700 collects several times per call.
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    await first_of(stop, upgrade.taken)
    upgrade.cancel()
    if upgrade.taken.is_set():
        await leave(app, stop)
    else:
        notify(os.environ, "STOPPING=1")
    await app.drain(hurry)


def announce(config: Config, sock: socket.socket, admin: socket.socket | None) -> None:
    """Say where clients and operators connect: a line for each route, and one for the admin API."""
    for route in config.routes:
        urls = ", ".join(upstream.url for upstream in route.upstreams)
        place = f"http://{_shown(sock)}{route.path}" + (f" (host {route.host})" if route.host else "")
        _say(f"mcp-session-proxy {__version__} listening on {place} -> {urls}")
    if admin is not None:
        _say(f"mcp-session-proxy admin API on http://{_shown(admin)}")


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - whoever starts the proxy reads it, at any log level


def admin_socket(config: Config, inherited: Inherited) -> socket.socket | None:
    """Return the socket of the admin API; None where it is off.

    The default address may be taken by another proxy: then this one goes on without, and says so.

    Raises:
        ConfigError: an address that somebody chose cannot be had.
    """
    address = config.admin.address
    if not address:
        return None
    sock = inherited.socket(ADMIN, address)
    if sock is not None:
        return sock
    try:
        return bind(Listen(address=address))
    except ConfigError as error:
        if "admin.address" in config.given:
            raise ConfigError(error.problem, key="admin.address") from error
        _say(f"mcp-session-proxy admin API off: {error.problem}")
        return None


async def leave(app: App, stop: asyncio.Event) -> None:
    """Make way for the process that took over: accept nothing, and let clients go within the window or until *stop*."""
    await app.server.release()
    await app.end_operation()
    app.server.part()
    departure = Departure(
        app.clock,
        app.config.server.upgrade_drain_seconds,
        relays=lambda: (relay for registry in app.registries for relay in registry.relays),
        has_running_calls=lambda: any(registry.has_running_calls for registry in app.registries),
        closing_behind=app.server.closing_behind,
    )
    await first_of(stop, departure.over)
    departure.close()


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


def run(config: Config, load: Callable[[], Config] | None = None, path: Path | None = None) -> int:
    """Run the proxy until it is told to stop; returns the exit code.

    Args:
        config: What to run.
        load: Reads the configuration anew, for a reload; None: it stays what it is.
        path: The file it came from, to be watched.

    Raises:
        ConfigError: there is no socket that may be listened on.
    """
    configure(config.log.level, config.log.format)
    inherited = Inherited.take(os.environ)
    sock, listen = listening_socket(inherited.listen(config.listen), os.environ)
    # What judges `Host` and `Origin` goes by the address of the socket that is served.
    config = dataclasses.replace(config, listen=listen)
    factory = None
    if config.server.uvloop:
        with contextlib.suppress(ImportError):
            import uvloop  # noqa: PLC0415 - optional, and not on every platform

            factory = uvloop.new_event_loop
    admin = admin_socket(config, inherited)
    source = Source(load or (lambda: config), path)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(config, sock, inherited, admin, source))
    return 0
