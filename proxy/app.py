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

from proxy import __version__
from proxy.clock import Clock, SystemClock
from proxy.config import Config, Listen, Upstream
from proxy.core.idmap import IdMap
from proxy.downstream.listener import Listener
from proxy.downstream.server import Handle, HttpServer
from proxy.downstream.sockets import listening_socket
from proxy.downstream.wire import WireServer
from proxy.observe.hooks import Fingerprint, Observers
from proxy.observe.logs import LogObserver, configure
from proxy.observe.metrics import Counters
from proxy.registry import Registry
from proxy.relay.context import Context
from proxy.store.memory import Budget
from proxy.upstream.base import Edge
from proxy.upstream.http import HttpEdge
from proxy.upstream.recovery import Recovery
from proxy.upstream.wire import WireEdge
from proxy.wheel import Wheel

FAREWELL_SECONDS = 1.0
"""How long the end waits for the upstream to hear the DELETEs."""

GC_THRESHOLD = 20_000
"""Allocations between collections of the youngest objects."""

EDGES: Mapping[str, Callable[[Upstream], Edge]] = {"wire": WireEdge, "aiohttp": HttpEdge}

Server = WireServer | HttpServer
SERVERS: Mapping[str, Callable[[Handle, Listen, float, Clock], Server]] = {
    "wire": WireServer,
    "aiohttp": lambda handle, config, peer_timeout, _: HttpServer(handle, config, peer_timeout),
}


class App:
    """One proxy: a listening socket in front of an upstream. Make it inside a running event loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = SystemClock(asyncio.get_running_loop())
        self.counters = Counters()
        self.observer = Observers(LogObserver(config.log.level), self.counters)
        self.edge: Edge = EDGES[config.upstream.http](config.upstream)
        self.recovery = Recovery(self.edge, config.upstream, self.clock, self.observer)
        self.budget = Budget(config.replay, self.clock.now)
        self.context = Context(
            clock=self.clock,
            edge=self.edge,
            recovery=self.recovery,
            budget=self.budget,
            heartbeats=Wheel(self.clock, config.stream.heartbeat_seconds),
            checks=Wheel(self.clock, check_period_seconds(config)),
            ids=IdMap(),
            observer=self.observer,
            fingerprint=Fingerprint(os.urandom(32)),
            upstream=config.upstream,
            session=config.session,
            stream=config.stream,
            trust_forwarded=False,
            route=config.listen.path,
        )
        self.registry = Registry(self.context)
        self.counters.gauge("sessions", lambda: len(self.registry))
        self.counters.gauge("bound_sessions", lambda: len(self.context.ids))
        self.counters.gauge("buffered_bytes", lambda: self.budget.used + self.budget.held)
        self.listener = Listener(self.registry, config.listen)
        serve = SERVERS[config.listen.http]
        self.server: Server = serve(self.listener.handle, config.listen, config.stream.peer_timeout_seconds, self.clock)

    async def start(self, sock: socket.socket) -> None:
        """Serve clients on a bound socket."""
        await self.server.start(sock)

    async def drain(self, hurry: asyncio.Event) -> None:
        """End: no new connections, streams closed at frame boundaries, calls given `drain_seconds` to finish."""
        self.server.stop_accepting()
        self.registry.begin_drain()
        deadline = self.clock.now() + self.config.server.drain_seconds
        while self.registry.has_running_calls and self.clock.now() < deadline and not hurry.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), 0.05)
        self.registry.end()
        deadline = self.clock.now() + FAREWELL_SECONDS
        # Polled: an Event would be set for every DELETE of a process's life, for this one wait.
        while self.context.farewells and self.clock.now() < deadline and not hurry.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self.server.close(FAREWELL_SECONDS)
        self.recovery.close()
        self.context.heartbeats.close()
        self.context.checks.close()
        await self.edge.close()


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


async def serve(config: Config, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short."""
    loop = asyncio.get_running_loop()
    app = App(config)
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    await app.start(sock)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(  # noqa: T201 - the one line that says where clients connect
        f"mcp-session-proxy {__version__} listening on http://{shown}:{port}{config.listen.path}"
        f" -> {config.upstream.url}",
        file=sys.stderr,
        flush=True,
    )
    # What lives until the end need not be visited by every collection of garbage.
    gc.collect()
    gc.freeze()
    # A call makes hundreds of objects and hardly any cycle: the default of 700 collects several times per call.
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    await stop.wait()
    await app.drain(hurry)


def run(config: Config) -> int:
    """Run the proxy until it is told to stop; returns the exit code.

    Raises:
        ConfigError: there is no socket that may be listened on.
    """
    configure(config.log.level, config.log.format)
    sock, listen = listening_socket(config.listen, os.environ)
    # What judges `Host` and `Origin` goes by the address of the socket that is served.
    config = dataclasses.replace(config, listen=listen)
    factory = None
    if config.server.uvloop:
        with contextlib.suppress(ImportError):
            import uvloop  # noqa: PLC0415 - optional, and not on every platform

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(config, sock))
    return 0
