"""A whole proxy without sockets and clients, for those who operate it: routes, pools, sessions, and a controller.

Time, edges and observers are fakes; everything between them is what runs in the product. What closes connections does
so in tasks, so that tests of it are coroutines.
"""

from typing import Any

from proxy.config import Config, Route, Upstream, loads
from proxy.control.control import Controller
from proxy.core.idmap import IdMap
from proxy.observe.hooks import Fingerprint
from proxy.registry import Registry
from proxy.relay.context import Context
from proxy.relay.session import SessionRelay
from proxy.routes import RouteTable, Served
from proxy.store.memory import Budget
from proxy.upstream.base import Edge
from proxy.upstream.member import Member
from proxy.upstream.pool import Keys, Pool
from proxy.wheel import Wheel
from support.fakes import FakeClock, FakeEdge, RecordingObserver, initialize_answer, open_session

TWO = """
[health]
probe = "none"
[[routes]]
name = "main"
path = "/mcp"
[[routes.upstreams]]
name = "a"
url = "http://a.test/mcp"
[[routes.upstreams]]
name = "b"
url = "http://b.test/mcp"
"""
"""One route with two upstreams."""

OTHER = """
[[routes]]
name = "other"
path = "/other"
[[routes.upstreams]]
name = "c"
url = "http://c.test/mcp"
"""
"""A second route, to be put behind the first."""


def leads_to(routes: RouteTable, path: str, host: str = "") -> Served | None:
    """Return the route that takes what is new at a place."""
    endpoint = routes.find(path, host)
    if endpoint is None or not endpoint.is_open:
        return None
    return next(served for served in routes.routes if served.registry is endpoint.registry)


class Operated:
    """A proxy, and what it was told to do."""

    def __init__(self, text: str = TWO) -> None:
        self.text = text
        """What the configuration file says."""
        self.clock = FakeClock()
        self.observer = RecordingObserver()
        self.edges: list[tuple[Upstream, FakeEdge]] = []
        self.ids = IdMap()
        self.keys = Keys()
        self.config: Config = loads(text)
        self.budget = Budget(self.config.replay, self.clock.now)
        self.heartbeats = Wheel(self.clock, 15.0)
        self.checks = Wheel(self.clock, 5.0)
        self.routes = RouteTable(self.config.routes, self._registry)
        self.upgrades = 0
        self.control = Controller(
            config=self.config,
            load=lambda: loads(self.text, "config.toml"),
            routes=self.routes,
            make_edge=self.make_edge,
            clock=self.clock,
            observer=self.observer,
            counters=lambda: {"sessions": 2.0, "seconds_total": 1.9},
            upgrade=self.upgrade,
        )

    def make_edge(self, config: Upstream) -> Edge:
        """Make an edge, and remember it."""
        edge = FakeEdge(self.clock)
        self.edges.append((config, edge))
        return edge

    def upgrade(self) -> int:
        """Count."""
        self.upgrades += 1
        return 4711

    def _registry(self, route: Route) -> Registry:
        config = self.config
        pool = Pool(
            route.name, route.policy, route.upstreams, self.make_edge, self.clock, self.observer, config.health,
            self.keys,
        )  # fmt: skip
        context = Context(
            clock=self.clock,
            pool=pool,
            budget=self.budget,
            heartbeats=self.heartbeats,
            checks=self.checks,
            ids=self.ids,
            observer=self.observer,
            fingerprint=Fingerprint(bytes(32)),
            upstream=config.upstream,
            session=config.session,
            stream=config.stream,
            retry=config.retry,
            swap=config.swap,
            trust_forwarded=False,
            route=route.name,
        )
        return Registry(context)

    # -- what there is

    def served(self, route: str = "main") -> Served:
        """Return a route."""
        return next(served for served in self.routes.routes if served.config.name == route)

    def leads_to(self, path: str, host: str = "") -> Served | None:
        """Return the route that takes what is new at a place."""
        return leads_to(self.routes, path, host)

    def pool(self, route: str = "main") -> Pool:
        """Return the pool of a route."""
        return self.served(route).registry.ctx.pool

    def member(self, key: str) -> Member:
        """Return a member by its key."""
        return next(
            each for served in self.routes.routes for each in served.registry.ctx.pool.members if each.key == key
        )

    def keys_of(self, route: str = "main") -> list[str]:
        """Return the keys of a route's members and the states of those that are not active."""
        return [
            member.key if member.state.value == "active" else f"{member.key} {member.state.value}"
            for member in self.pool(route).members
        ]

    def edge(self, key: str) -> FakeEdge:
        """Return the edge of a member."""
        edge = self.member(key).edge
        assert isinstance(edge, FakeEdge)
        return edge

    def open(self, key: str = "a", number: int = 1, **how: Any) -> list[SessionRelay]:
        """Open sessions on a member."""
        member = self.member(key)
        registry = next(each.registry for each in self.routes.routes if member in each.registry.ctx.pool.members)
        opened = []
        for _ in range(number):
            self.clock.advance(0.001)
            how.setdefault("upstream_id", None)
            opened.append(open_session(registry, member=member, **how))
        return opened

    def serve(self, key: str) -> None:
        """Answer what moves ask of a member, until it is asked no more."""
        edge = self.edge(key)
        while True:
            self.clock.advance()
            before = len(edge.open)
            edge.serve_rebuild(None)
            self.clock.advance()
            if len(edge.open) == before or not edge.open:
                return

    def answer_comparison(self, url: str, *, is_ok: bool = True, **promises: bool) -> None:
        """Answer who asks a server by that URL who it is."""
        for config, edge in self.edges:
            for attempt in edge.find(rpc="initialize") if config.url == url else ():
                if is_ok:
                    attempt.json(200, initialize_answer(request_id=attempt.message["id"], **promises))
                else:
                    attempt.answer(500)
