"""The routes as they are served: which registry and which pool a request's path and host lead to.

Owns the table and its changes. Knows no HTTP library and no session. Invariants: what is new goes to at most one route,
the one that names its host before the one that takes any; a live session is answered also where its route was before;
a table is changed between two requests, never within one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config import Route
    from proxy.core.session import CloseReason
    from proxy.registry import Reachable, Registry

Location = tuple[str, str]
"""A host, or the empty one for any, and a path."""
MAX_FORMER_LOCATIONS = 16
"""Earlier locations of a route whose sessions are still answered there: two spellings for each of the last changes."""


class Endpoint:
    """What a location leads to."""

    __slots__ = ("_others", "host", "is_open", "registry")

    def __init__(self, registry: Registry, host: str, others: tuple[Registry, ...], *, is_open: bool) -> None:
        self.registry = registry
        """Where what is new goes."""
        self.host = host
        self.is_open = is_open
        """Whether anything new is taken here at all."""
        self._others = others
        """Routes that were here before: their live sessions still come here."""

    def find(self, session_id: str) -> Reachable | None:
        """Return who answers for the session a client names."""
        found = self.registry.find(session_id)
        if found is None:
            for other in self._others:
                found = other.find(session_id)
                if found is not None:
                    break
        return found


class Served:
    """One route at work."""

    __slots__ = ("_former", "config", "is_retiring", "registry", "retirements")

    def __init__(self, config: Route, registry: Registry) -> None:
        self.config = config
        self.registry = registry
        self.is_retiring = False
        """Whether it has left the table: it serves the sessions it has, and takes no others."""
        self.retirements = 0
        """How often it has: tells a retirement from the one before."""
        self._former: tuple[Location, ...] = ()

    @property
    def locations(self) -> tuple[Location, ...]:
        """Where it is."""
        return tuple((self.config.host, path) for path in sorted(paths_of(self.config.path)))

    @property
    def former_locations(self) -> tuple[Location, ...]:
        """Where it was while sessions of it were opened that still live, the latest first."""
        if not len(self.registry):
            self._former = ()
        return self._former

    def change(self, config: Route) -> None:
        """Be found elsewhere, or choose otherwise."""
        before = self.locations
        self.config = config
        self.leave(before)
        self.registry.ctx.pool.set_policy(config.policy)

    def rename(self, name: str) -> None:
        """Go by another name, with its sessions."""
        ctx = self.registry.ctx
        self.config = replace(self.config, name=name)
        ctx.route = ctx.pool.route = name
        for relay in self.registry.relays:
            relay.session.route = name

    def leave(self, locations: Iterable[Location]) -> None:
        """Take nothing new at *locations* from now on; its sessions may still come there."""
        former = dict.fromkeys((*locations, *self.former_locations))
        self._former = tuple(location for location in former if location not in self.locations)[:MAX_FORMER_LOCATIONS]


def paths_of(path: str) -> frozenset[str]:
    """Return the spellings of a path that mean the same endpoint: with a slash at its end and without."""
    bare = path.rstrip("/")
    return frozenset({path, bare + "/", bare or "/"})


class RouteTable:
    """All routes of the process."""

    def __init__(self, configs: Iterable[Route], make_registry: Callable[[Route], Registry]) -> None:
        self._make_registry = make_registry
        self.routes: tuple[Served, ...] = ()
        """In the order of the configuration, retiring ones included."""
        self.version = 0
        """Rises with every change: what was found out under another one does not hold any more."""
        self._endpoints: dict[Location, Endpoint] = {}
        for config in configs:
            self.add(config)

    def find(self, path: str, host: str) -> Endpoint | None:
        """Return what a path and a `Host` name without port, in lower case, lead to."""
        return self._endpoints.get((host, path)) or self._endpoints.get(("", path))

    @property
    def known_paths(self) -> str:
        """The endpoints there are, for whoever asked for another."""
        return ", ".join(sorted({served.config.path for served in self.routes if not served.is_retiring}))

    def add(self, config: Route) -> Served:
        """Serve one more route."""
        served = Served(config, self._make_registry(config))
        self._make_room(served)
        self.routes = (*self.routes, served)
        self._index()
        return served

    def change(self, served: Served, config: Route) -> None:
        """Serve a route under another path, host or policy; its pool is changed member by member."""
        served.change(config)
        self._make_room(served)
        self._index()

    def retire(self, served: Served) -> int:
        """Take no session for it any more; returns the number of this retirement."""
        served.is_retiring = True
        served.retirements += 1
        self._index()
        return served.retirements

    def take_back(self, served: Served, config: Route) -> None:
        """Take sessions for it again."""
        served.is_retiring = False
        self.change(served, config)

    def drop(self, served: Served, reason: CloseReason) -> None:
        """End what is left of a retired route's sessions, and forget it; its pool is the caller's to close."""
        for relay in tuple(served.registry.relays):
            relay.close(reason)
        served.registry.close()
        self.routes = tuple(other for other in self.routes if other is not served)
        self._index()

    @property
    def sessions(self) -> int:
        """Count the sessions of all routes, those included that are being opened."""
        return sum(len(served.registry) + served.registry.ctx.openings for served in self.routes)

    def _make_room(self, newcomer: Served) -> None:
        """Let those leave who took any host, where one of them has a route of its own now."""
        host = newcomer.config.host
        for other in self.routes:
            if host and other is not newcomer and not other.config.host:
                other.leave((host, path) for _, path in other.locations if (host, path) in newcomer.locations)

    def _index(self) -> None:
        self.version += 1
        open_at: dict[Location, Served] = {}
        known_at: dict[Location, list[Served]] = {}
        for served in self.routes:
            for location in (*served.locations, *served.former_locations):
                known_at.setdefault(location, []).append(served)
            if not served.is_retiring:
                open_at.update(dict.fromkeys(served.locations, served))
        self._endpoints = {}
        for location, known in known_at.items():
            host, path = location
            # A host that has no route of its own any more is one of any.
            taking = open_at.get(location) or open_at.get(("", path))
            first = taking or known[-1]
            others = tuple(other.registry for other in known if other is not first)
            self._endpoints[location] = Endpoint(first.registry, host, others, is_open=taking is not None)
