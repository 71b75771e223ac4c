"""The routes as they are served: which registry and which pool a request's path and host lead to.

Owns the table and its changes. Knows no HTTP library and no session. Invariants: a request finds at most one route, the
one that names its host before the one that takes any; a table is changed between two requests, never within one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config import Route
    from proxy.core.session import CloseReason
    from proxy.registry import Registry


class Served:
    """One route at work."""

    __slots__ = ("config", "is_retiring", "paths", "registry", "retirements")

    def __init__(self, config: Route, registry: Registry) -> None:
        self.config = config
        self.registry = registry
        self.is_retiring = False
        """Whether it has left the table: it serves the sessions it has, and takes no others."""
        self.retirements = 0
        """How often it has: tells a retirement from the one before."""
        self.paths = paths_of(config.path)


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
        self._by_path: dict[tuple[str, str], Served] = {}
        for config in configs:
            self.add(config)

    def find(self, path: str, host: str) -> Served | None:
        """Return the route of a path and a `Host` name without port, in lower case."""
        return self._by_path.get((host, path)) or self._by_path.get(("", path))

    @property
    def known_paths(self) -> str:
        """The endpoints there are, for whoever asked for another."""
        return ", ".join(sorted({served.config.path for served in self.routes if not served.is_retiring}))

    def add(self, config: Route) -> Served:
        """Serve one more route."""
        served = Served(config, self._make_registry(config))
        self.routes = (*self.routes, served)
        self._index()
        return served

    def change(self, served: Served, config: Route) -> None:
        """Serve a route under another path, host or policy; its pool is changed member by member."""
        served.config = config
        served.paths = paths_of(config.path)
        served.registry.ctx.pool.set_policy(config.policy)
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

    def _index(self) -> None:
        self.version += 1
        # A retiring route gives way to another one that has its path now; its sessions are then found nowhere else.
        ordered = sorted(self.routes, key=lambda served: not served.is_retiring)
        self._by_path = {(served.config.host, path): served for served in ordered for path in served.paths}
