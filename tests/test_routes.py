"""The table of routes: which registry a request's path and host lead to, and what a change does to those under way."""

from dataclasses import replace

import pytest

from proxy.config import Config, Route
from proxy.core import headers as h
from proxy.core.edge import Request
from proxy.core.head import Head
from proxy.core.session import CloseReason
from proxy.downstream.listener import Listener
from proxy.registry import Registry
from proxy.routes import MAX_FORMER_LOCATIONS, RouteTable, Served, paths_of
from support.fakes import (
    ACCEPT_BOTH,
    JSON_TYPE,
    FakeEdge,
    FakeSink,
    Pairs,
    RecordingObserver,
    edge_of,
    initialize_answer,
    initialize_body,
    make_context,
    notification_body,
    request_body,
)
from support.operated import leads_to
from support.scenes import reason

GITHUB = Route(name="github", path="/github/mcp")
FILES = Route(name="files", path="/files/mcp")
HOSTED = Route(name="hosted", path="/files/mcp", host="files.localhost")


class Routes:
    """A listener over several routes, each with fakes of its own."""

    def __init__(self, *configs: Route, allowed_hosts: tuple[str, ...] = ()) -> None:
        self.observer = RecordingObserver()
        self.table = RouteTable(configs, self._make)
        listen = replace(Config().listen, allowed_hosts=allowed_hosts)
        self.listener = Listener(self.table, listen, self.observer)

    def _make(self, config: Route) -> Registry:
        ctx = make_context(upstreams=(config.name,), observer=self.observer)
        # The fakes of each route draw the same ids otherwise.
        for _ in config.name:
            ctx.clock.entropy(1)
        return Registry(ctx)

    def served(self, name: str) -> Served:
        """Return a route of that name, the latest."""
        return [served for served in self.table.routes if served.config.name == name][-1]

    def leads_to(self, path: str, host: str = "") -> Served | None:
        """Return the route that takes what is new there."""
        return leads_to(self.table, path, host)

    def edge(self, name: str) -> FakeEdge:
        """Return the upstream of a route."""
        return edge_of(self.served(name).registry.ctx)

    def head(self, method: str, path: str, *, host: str = "localhost:8080", headers: Pairs = ()) -> Head:
        """Write a head as a client does."""
        return Head(method, path, [("Host", host), ACCEPT_BOTH, JSON_TYPE, *headers])

    def send(self, head: Head, body: bytes = b"") -> FakeSink:
        """Send a request."""
        sink = FakeSink()
        self.listener.handle(Request(head, body), sink)
        return sink

    def post(self, path: str, body: bytes, session_id: str | None = None, **fields: str) -> FakeSink:
        """Send a POST."""
        own = [(h.SESSION_ID, session_id)] if session_id is not None else []
        return self.send(self.head("POST", path, headers=own, **fields), body)

    def opened(self, name: str, path: str = "", **fields: str) -> str:
        """Open a session on a route."""
        sink = self.post(path or self.served(name).config.path, initialize_body(), **fields)
        self.edge(name).last.json(200, initialize_answer(), [(h.SESSION_ID, "up-1")])
        session_id = sink.header(h.SESSION_ID)
        assert session_id is not None
        return session_id


# -- finding one


@pytest.mark.parametrize(
    ("path", "spellings"),
    [("/mcp", {"/mcp", "/mcp/"}), ("/mcp/", {"/mcp", "/mcp/"}), ("/", {"/"}), ("/a/b", {"/a/b", "/a/b/"})],
)
def test_a_path_means_the_same_with_a_slash_at_its_end(path: str, spellings: set[str]):
    """However it is configured, both spellings find it, and no other."""
    table = RouteTable([Route(path=path)], lambda _: Registry(make_context()))

    assert paths_of(path) == spellings
    assert {each for each in (*spellings, "/x", "/mcp/x", "//", "") if table.find(each, "h")} == spellings


def test_each_path_has_its_own_route():
    """Nothing of one is seen by the other's upstream."""
    routes = Routes(GITHUB, FILES)
    for name, path in (("github", "/github/mcp"), ("files", "/files/mcp/")):
        routes.post(path, request_body("tools/list", name))

        assert [attempt.message["id"] for attempt in routes.edge(name).attempts] == [name]


def test_a_route_that_names_the_host_comes_before_one_that_takes_any():
    """In whichever order they are configured; other hosts get the one that takes any."""
    for configs in ((FILES, HOSTED), (HOSTED, FILES)):
        table = RouteTable(configs, lambda _: Registry(make_context()))
        registries = {served.registry: served.config.name for served in table.routes}
        found = [table.find("/files/mcp", host) for host in ("files.localhost", "localhost", "")]

        assert [registries[endpoint.registry] for endpoint in found if endpoint] == ["hosted", "files", "files"]


def test_a_route_with_a_host_is_nobody_elses():
    """Without one that takes any, other hosts find nothing."""
    table = RouteTable([HOSTED], lambda _: Registry(make_context()))

    assert table.find("/files/mcp", "localhost") is None


def test_the_host_of_a_route_is_accepted_on_it_without_being_allowed_elsewhere():
    """A route's own name is a name of this proxy, for that route; in any letter case, with any port."""
    hosted = replace(HOSTED, host="files.example")
    routes = Routes(GITHUB, hosted)
    accepted = routes.post("/files/mcp", request_body("ping", 1), host="Files.Example:8443")
    elsewhere = routes.post("/github/mcp", request_body("ping", 2), host="files.example")

    assert accepted.status is None
    assert len(routes.edge("hosted").open) == 1
    assert (elsewhere.status, reason(elsewhere)) == (403, "bad_host")


def test_an_unknown_path_names_those_there_are():
    """A typing error is seen at once."""
    routes = Routes(GITHUB, FILES)
    sink = routes.post("/mcp", request_body("ping", 1))

    assert (sink.status, reason(sink)) == (404, "no_such_path")
    assert sink.json()["error"]["data"]["path"] == "/files/mcp, /github/mcp"


# -- sessions


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_session_never_crosses_routes(method: str):
    """Its id is unknown on another route, whose upstream hears nothing; on its own it lives on."""
    routes = Routes(GITHUB, FILES)
    session_id = routes.opened("github")
    body = request_body("tools/list", 1) if method == "POST" else b""
    head = routes.head(method, "/files/mcp", headers=[(h.SESSION_ID, session_id)])
    sink = routes.send(head, body)

    assert (sink.status, reason(sink)) == (404, "unknown_session")
    assert routes.edge("files").attempts == []

    routes.post("/github/mcp", request_body("tools/list", 2), session_id)

    assert routes.edge("github").last.upstream_id == "up-1"


def test_a_session_belongs_to_its_host_too():
    """The same path under another name is another route."""
    routes = Routes(FILES, HOSTED)
    session_id = routes.opened("hosted", host="files.localhost")
    sink = routes.post("/files/mcp", request_body("ping", 1), session_id)

    assert (sink.status, reason(sink)) == (404, "unknown_session")


def test_equal_ids_on_two_routes_are_two_sessions():
    """Upstreams of two routes may hand out the same id: each session's calls go to its own."""
    routes = Routes(GITHUB, FILES)
    ids = {name: routes.opened(name) for name in ("github", "files")}
    for name, session_id in ids.items():
        sink = routes.post(f"/{name}/mcp", request_body("tools/list", name), session_id)
        routes.edge(name).last.json()

        assert sink.json()["id"] == name
    assert len(set(ids.values())) == 2


def test_the_sessions_of_all_routes_are_counted_with_those_that_are_opened():
    """The bound of the process counts them together."""
    routes = Routes(GITHUB, FILES)
    routes.opened("github")
    routes.post("/files/mcp", initialize_body())

    assert routes.table.sessions == 2


# -- changes


def test_a_verdict_of_an_older_table_does_not_hold():
    """A connection sends the same head again: after a change its route is looked up anew."""
    routes = Routes(GITHUB)
    head = routes.head("POST", "/files/mcp")
    before = routes.send(head, request_body("ping", 1))
    routes.table.add(FILES)
    after = routes.send(head, request_body("ping", 2))

    assert (before.status, after.status) == (404, None)
    assert [attempt.message["id"] for attempt in routes.edge("files").attempts] == [2]


def test_every_change_makes_another_version():
    """What was found out under one table is never taken for true under the next."""
    routes = Routes(GITHUB)
    versions = [routes.table.version]
    served = routes.table.add(FILES)
    versions.append(routes.table.version)
    routes.table.change(served, replace(FILES, path="/f"))
    versions.append(routes.table.version)
    routes.table.retire(served)
    versions.append(routes.table.version)
    routes.table.drop(served, CloseReason.ROUTE_REMOVED)
    versions.append(routes.table.version)

    assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    "changes", [{"path": "/gh"}, {"host": "gh.localhost"}, {"path": "/gh", "host": "gh.localhost"}]
)
def test_a_changed_route_keeps_its_sessions(changes: dict[str, str]):
    """They are answered at the new place and where their clients know them; what is new goes to the new one alone."""
    routes = Routes(GITHUB)
    session_id = routes.opened("github")
    routes.table.change(routes.served("github"), replace(GITHUB, policy="weighted", **changes))
    path, host = changes.get("path", "/github/mcp"), changes.get("host", "localhost")
    for number, (at, name) in enumerate([(path, host), ("/github/mcp", "localhost")]):
        assert routes.post(at, request_body("tools/list", number), session_id, host=name).status is None
        assert routes.edge("github").last.message["id"] == number

    assert reason(routes.post("/github/mcp", initialize_body())) == "no_such_path"
    assert reason(routes.post("/github/mcp", request_body("tools/list", 2))) == "no_such_path"
    assert routes.leads_to(path, host) is routes.served("github")
    assert routes.served("github").registry.ctx.pool.policy == "weighted"


def test_an_earlier_place_is_forgotten_with_the_last_session():
    """Nobody knows it any more; the next change of the table notices."""
    routes = Routes(GITHUB, FILES)
    session_id = routes.opened("github")
    routes.table.change(routes.served("github"), replace(GITHUB, path="/gh"))
    routes.send(routes.head("DELETE", "/github/mcp", headers=[(h.SESSION_ID, session_id)]))
    routes.table.retire(routes.served("files"))

    assert routes.table.find("/github/mcp", "") is None
    assert routes.table.find("/gh", "") is not None


def test_earlier_places_are_bounded():
    """A route that is changed again and again keeps the latest; and one it comes back to is no earlier one."""
    routes = Routes(GITHUB)
    session_id = routes.opened("github")
    paths = ["/github/mcp", *(f"/p{number}" for number in range(MAX_FORMER_LOCATIONS)), "/github/mcp"]
    for path in paths:
        routes.table.change(routes.served("github"), replace(GITHUB, path=path))
    answers = {path: routes.post(path, request_body("ping", path), session_id).status is None for path in paths}

    assert [path for path, is_answered in answers.items() if is_answered] == [
        "/github/mcp",
        *paths[-1 - MAX_FORMER_LOCATIONS // 2 : -1],
    ]
    assert routes.leads_to("/github/mcp") is routes.served("github")


def test_two_routes_that_change_places_answer_their_sessions_at_both():
    """Each session's calls go to its own upstream, and what is new goes where the table says now."""
    routes = Routes(GITHUB, FILES)
    ids = {name: routes.opened(name) for name in ("github", "files")}
    routes.table.change(routes.served("github"), replace(GITHUB, path="/files/mcp"))
    routes.table.change(routes.served("files"), replace(FILES, path="/github/mcp"))
    for number, (name, session_id) in enumerate(ids.items()):
        for path in ("/github/mcp", "/files/mcp"):
            routes.post(path, request_body("ping", f"{number}{path}"), session_id)

            assert routes.edge(name).last.message["id"] == f"{number}{path}"
    assert routes.leads_to("/github/mcp") is routes.served("files")
    assert routes.leads_to("/files/mcp") is routes.served("github")


@pytest.mark.parametrize("how", ["changed", "retired"])
def test_a_host_whose_route_goes_is_one_of_any(how: str):
    """The route that takes any host takes what is new there; the sessions of the one that goes stay its."""
    routes = Routes(FILES, HOSTED)
    session_id = routes.opened("hosted", host="files.localhost")
    if how == "changed":
        routes.table.change(routes.served("hosted"), replace(HOSTED, host="other.localhost"))
    else:
        routes.table.retire(routes.served("hosted"))
    sink = routes.post("/files/mcp", request_body("ping", 1), session_id, host="files.localhost")

    assert sink.status is None
    assert routes.edge("hosted").last.message["id"] == 1
    assert routes.leads_to("/files/mcp", "files.localhost") is routes.served("files")

    routes.post("/files/mcp", initialize_body(), host="files.localhost")

    assert routes.edge("files").last.rpc == "initialize"


def test_a_host_that_gets_a_route_of_its_own_keeps_the_sessions_it_had():
    """They were opened on the route that takes any host; those of other routes are unknown there as before."""
    routes = Routes(FILES, GITHUB, allowed_hosts=("files.localhost",))
    session_id = routes.opened("files", host="files.localhost")
    other = routes.opened("github")
    routes.table.add(HOSTED)
    sink = routes.post("/files/mcp", request_body("ping", 1), session_id, host="files.localhost")

    assert sink.status is None
    assert routes.edge("files").last.message["id"] == 1
    assert (
        reason(routes.post("/files/mcp", request_body("ping", 2), other, host="files.localhost")) == "unknown_session"
    )
    assert routes.leads_to("/files/mcp", "files.localhost") is routes.served("hosted")


def test_a_retiring_route_serves_the_sessions_it_has_and_takes_no_others():
    """Calls, streams and DELETE go on; a new `initialize`, and what needs no session, find no such path."""
    routes = Routes(GITHUB, FILES)
    session_id = routes.opened("github")
    routes.table.retire(routes.served("github"))
    call = routes.post("/github/mcp", request_body("tools/list", 1), session_id)
    routes.edge("github").last.json()
    refused = routes.post("/github/mcp", initialize_body())
    note = routes.post("/github/mcp", notification_body("notifications/roots/list_changed"), session_id)
    routes.edge("github").last.answer(202)

    assert call.json()["id"] == 1
    sessionless = routes.post("/github/mcp", request_body("tools/list", 2))

    assert (refused.status, reason(refused)) == (404, "no_such_path")
    assert (sessionless.status, reason(sessionless)) == (404, "no_such_path")
    assert note.status == 202
    assert routes.table.known_paths == "/files/mcp"

    deleted = routes.send(routes.head("DELETE", "/github/mcp", headers=[(h.SESSION_ID, session_id)]))

    assert deleted.status == 200
    assert routes.table.sessions == 0


def test_a_new_route_takes_the_path_of_a_retiring_one():
    """What is new is the new one's, also when the old one is retired after it came; the old one's sessions stay its."""
    for comes_first in (False, True):
        routes = Routes(GITHUB)
        old = routes.served("github")
        session_id = routes.opened("github")
        first = routes.edge("github")
        if not comes_first:
            routes.table.retire(old)
        new = routes.table.add(replace(GITHUB, name="other"))
        if comes_first:
            routes.table.retire(old)

        routes.post("/github/mcp", request_body("ping", 1), session_id)

        assert first.last.message["id"] == 1
        assert routes.leads_to("/github/mcp") is new
        assert set(routes.table.routes) == {old, new}


def test_a_route_that_is_changed_takes_the_path_of_a_retiring_one():
    """In whichever order they came."""
    routes = Routes(FILES, GITHUB)
    routes.table.retire(routes.served("github"))
    routes.table.change(routes.served("files"), replace(FILES, path="/github/mcp"))

    assert routes.leads_to("/github/mcp") is routes.served("files")


def test_a_dropped_route_ends_its_sessions():
    """Their streams and calls get their ends, their upstream sessions their DELETE, and the path leads nowhere."""
    routes = Routes(GITHUB, FILES)
    session_id = routes.opened("github")
    kept = routes.opened("files")
    running = routes.post("/github/mcp", request_body("tools/list", 1), session_id)
    served, edge = routes.served("github"), routes.edge("github")
    routes.table.retire(served)
    routes.table.drop(served, CloseReason.ROUTE_REMOVED)

    assert reason(running) == "session_closed"
    assert edge.one(method="DELETE").upstream_id == "up-1"
    assert [record.reason for record in routes.observer.of("session_closed")] == ["route_removed"]
    assert reason(routes.post("/github/mcp", request_body("ping", 2), session_id)) == "no_such_path"
    assert [each.config.name for each in routes.table.routes] == ["files"]

    routes.post("/files/mcp", request_body("ping", 3), kept)

    assert routes.edge("files").last.message["id"] == 3
