"""Routes and their pools: what is read, what is filled in, what is refused, and that nothing clashes."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.config import Config, Upstream, loads
from proxy.config.routes import KEY, OF_UPSTREAM, build, read
from proxy.errors import ConfigError

UP = "[[routes.upstreams]]\nurl = 'http://a/'\n"
ONE = f"[[routes]]\n{UP}"


def names(config: Config) -> list[tuple[str, list[str]]]:
    """Return each route's name with those of its pool."""
    return [(route.name, [upstream.name for upstream in route.upstreams]) for route in config.routes]


VALID: list[tuple[str, Callable[[Config], Any], Any]] = [
    (ONE, names, [("mcp", ["mcp-1"])]),
    (ONE, lambda c: (c.routes[0].path, c.routes[0].host, c.routes[0].policy), ("/mcp", "", "least_sessions")),
    (ONE + UP, names, [("mcp", ["mcp-1", "mcp-2"])]),
    (f"[[routes]]\nname = 'x'\n{UP}name = 'b'\n{UP}", names, [("x", ["b", "x-2"])]),
    (f"[[routes]]\npath = '/github/mcp'\n{UP}", names, [("github-mcp", ["github-mcp-1"])]),
    (f"[[routes]]\npath = '/'\n{UP}", names, [("root", ["root-1"])]),
    (f"[[routes]]\npath = '/~!'\n{UP}", names, [("root", ["root-1"])]),
    (f"[[routes]]\npath = '/-A.b_C//d/'\n{UP}", names, [("a-b_c-d", ["a-b_c-d-1"])]),
    (f"[[routes]]\npath = '/{'x' * 62}'\n{UP}", names, [("x" * 62, ["x" * 62 + "-1"])]),
    (f"[[routes]]\npath = '/{'x' * 70}'\n{UP}name = 'a'", names, [("x" * 64, ["a"])]),
    (f"{ONE}[[routes]]\npath = '/b'\n{UP}", names, [("mcp", ["mcp-1"]), ("b", ["b-1"])]),
    (
        f"{ONE}[[routes]]\nname = 'other'\nhost = 'A.Example'\n{UP}",
        lambda c: [(route.host, route.path) for route in c.routes],
        [("", "/mcp"), ("a.example", "/mcp")],
    ),
    (f"[[routes]]\nhost = '[::1]'\npolicy = 'consistent_hash'\n{UP}", lambda c: c.routes[0].policy, "consistent_hash"),
    (f"{ONE}weight = 1000", lambda c: c.routes[0].upstreams[0].weight, 1000),
    (f"{ONE}labels = {{ version = '1' }}", lambda c: c.routes[0].upstreams[0].labels, (("version", "1"),)),
    (f"{ONE}headers = {{ X-Key = 'k' }}", lambda c: c.routes[0].upstreams[0].headers, (("X-Key", "k"),)),
    # laid over [upstream]
    (f"[upstream]\nweight = 3\n{ONE}{UP}weight = 4", lambda c: [u.weight for u in c.routes[0].upstreams], [3, 4]),
    (
        f"[upstream]\nlabels = {{ a = '1' }}\n{ONE}{UP}labels = {{ b = '2' }}",
        lambda c: [u.labels for u in c.routes[0].upstreams],
        [(("a", "1"),), (("b", "2"),)],
    ),
    (f"{ONE}\n[upstream]\nsilence_seconds = 20", lambda c: c.routes[0].upstreams[0].silence_seconds, 20.0),
    # a bound for all is none that one upstream's smaller size makes wrong
    (f"[upstream]\nmax_session_calls = 99\n{ONE}max_calls = 5", lambda c: c.routes[0].upstreams[0].max_calls, 5),
]

INVALID: list[tuple[str, str, str]] = [
    # shape
    ("routes = []", "routes", "expected at least one [[routes]]"),
    ("routes = 3", "routes", "expected tables [[routes]], got 3"),
    ("routes = [1]", "routes", "expected tables [[routes]], got a list"),
    ("[routes]\npath = '/a'", "routes", "expected tables [[routes]], got one table"),
    ("[[routes]]", "routes[0].upstreams", "expected at least one [[routes.upstreams]] below this [[routes]]"),
    ("[[routes]]\nupstreams = []", "routes[0].upstreams", "expected at least one"),
    ("[[routes]]\nupstreams = 'http://a/'", "routes[0].upstreams", "expected tables [[routes.upstreams]], got"),
    (
        "[[routes]]\n[routes.upstreams]\nurl = 'x'",
        "routes[0].upstreams",
        "expected tables [[routes.upstreams]], got one",
    ),
    (f"{ONE}[[routes]]\npath = '/b'", "routes[1].upstreams", "expected at least one"),
    ("[[routes]]\n[[routes.upstreams]]", "routes[0].upstreams[0].url", "expected the URL of the server's endpoint"),
    # unknown
    (f"{ONE}{UP}ulr = 'http://b/'", "routes[0].upstreams[1].ulr", "unknown key; did you mean url?"),
    (f"{ONE}qqq = 1", "routes[0].upstreams[0].qqq", "unknown key"),
    (
        f"{ONE}silence_seconds = 1",
        "routes[0].upstreams[0].silence_seconds",
        "unknown key; did you mean silence_seconds in [upstream], where it holds for all?",
    ),
    (f"[[routes]]\npolcy = 'x'\n{UP}", "routes[0].polcy", "unknown key; did you mean policy?"),
    (f"[[routes]]\nupstream = 'x'\n{UP}", "routes[0].upstream", "unknown key; did you mean upstreams?"),
    ("[[routes]]\nurl = 'x'", "routes[0].url", "unknown key; did you mean url in [[routes.upstreams]]?"),
    (f"[[route]]\n{UP.replace('routes', 'route')}", "route", "unknown table or key; did you mean routes?"),
    # values
    (f"[[routes]]\npath = 'mcp'\n{UP}", "routes[0].path", "expected a path such as /mcp"),
    (f"[[routes]]\nname = 'A b'\n{UP}", "routes[0].name", "expected up to 64 of a-z"),
    (f"[[routes]]\nname = ''\n{UP}", "routes[0].name", "expected up to 64 of a-z"),
    (f"[[routes]]\nhost = 'a:80'\n{UP}", "routes[0].host", "expected a host name or an IP address without port"),
    (f"[[routes]]\nhost = 'http://a'\n{UP}", "routes[0].host", "expected a host name or an IP address without port"),
    (f"[[routes]]\nhost = '::1'\n{UP}", "routes[0].host", "expected a host name or an IP address without port"),
    (
        f"[[routes]]\npolicy = 'random'\n{UP}",
        "routes[0].policy",
        "expected one of least_sessions, round_robin, weighted",
    ),
    (f"[[routes]]\npath = 3\n{UP}", "routes[0].path", "expected a string, got 3"),
    (
        "[[routes]]\n[[routes.upstreams]]\nurl = 'x'",
        "routes[0].upstreams[0].url",
        "expected an http:// or https:// URL",
    ),
    (f"{ONE}weight = 0", "routes[0].upstreams[0].weight", "expected a number from 1 to 1000, got 0"),
    (f"{ONE}weight = true", "routes[0].upstreams[0].weight", "expected an integer, got true"),
    (f"{ONE}http = 'h3'", "routes[0].upstreams[0].http", "expected one of wire, aiohttp"),
    (f"{ONE}labels = {{ version = 1 }}", "routes[0].upstreams[0].labels.version", "expected a string, got 1"),
    (f"{ONE}headers = {{ 'X Y' = '1' }}", "routes[0].upstreams[0].headers.X Y", 'expected a header name, got "X Y"'),
    (f"{ONE}headers = {{ Host = 'a' }}", "routes[0].upstreams[0].headers.Host", "expected another header"),
    (f"{ONE}headers = 'a'", "routes[0].upstreams[0].headers", "expected a table of strings, got ***"),
    # clashes
    (f"{ONE}{ONE}", "routes[1].name", 'expected a name of its own, got "mcp", which is routes[0].name already'),
    (
        f"[[routes]]\nname = 'a'\n{UP}[[routes]]\nname = 'b'\n{UP}",
        "routes[1].path",
        'expected a path (or host) of its own, got "/mcp", which is routes[0].path already',
    ),
    (
        f"[[routes]]\nname = 'a'\nhost = 'X.example'\n{UP}[[routes]]\nname = 'b'\nhost = 'x.Example'\n{UP}",
        "routes[1].path",
        'got "x.example/mcp", which is routes[0].path already',
    ),
    (
        f"{ONE}name = 'x'\n{UP}name = 'x'",
        "routes[0].upstreams[1].name",
        'got "x", which is routes[0].upstreams[0].name',
    ),
    (
        f"{ONE}name = 'x'\n[[routes]]\npath = '/b'\n{UP}name = 'x'",
        "routes[1].upstreams[0].name",
        'expected a name of its own, got "x", which is routes[0].upstreams[0].name already',
    ),
    (f"{ONE}name = 'mcp-2'\n{UP}", "routes[0].upstreams[1].name", 'got "mcp-2", which is routes[0].upstreams[0].name'),
    (f"[[routes]]\nname = '{'x' * 63}'\n{UP}", "routes[0].upstreams[0].name", "expected up to 64 of a-z"),
    # limits
    (
        f"{ONE}max_calls = 5\nmax_session_calls = 6",
        "routes[0].upstreams[0].max_session_calls",
        "expected at most max_calls (5), for a session has no more than all have, got 6",
    ),
    (
        f"[upstream]\nmax_connections = 9\n{ONE}max_calls = 10",
        "routes[0].upstreams[0].max_calls",
        "expected at most max_connections (9), for each call takes a connection, got 10",
    ),
]


@pytest.mark.parametrize(("text", "look", "expected"), VALID, ids=[text[:60] for text, *_ in VALID])
def test_valid_routes_are_read(text: str, look: Callable[[Config], Any], expected: Any) -> None:
    """What is written is taken, what is left out is filled in."""
    assert look(loads(text)) == expected


@pytest.mark.parametrize(("text", "key", "problem"), INVALID, ids=[text[:60] for text, *_ in INVALID])
def test_invalid_routes_are_one_line(text: str, key: str, problem: str) -> None:
    """What is wrong is told with the path to it and what was expected."""
    with pytest.raises(ConfigError) as caught:
        loads(text, "some/config.toml")

    assert (caught.value.source, caught.value.key) == ("some/config.toml", key)
    assert problem in caught.value.problem
    assert len(str(caught.value)) < 300


def test_every_key_of_its_own_can_be_set() -> None:
    """An upstream of a route takes each of them, and only there is the value another one."""
    entry = {
        "name": "x",
        "url": "https://b/",
        "weight": 2,
        "labels": {"a": "b"},
        "headers": {"X-Key": "k"},
        "ca_file": "/a.pem",
        "http": "aiohttp",
        "connect_timeout_seconds": 1,
        "keepalive_seconds": 0,
        "max_connections": 9,
        "max_calls": 8,
        "max_session_calls": 7,
        "queue_limit": 6,
        "queue_timeout_seconds": 5,
    }
    base = Upstream(silence_seconds=12.0)

    tables = read([{"upstreams": [entry, {"url": "http://c/"}]}], "s")
    first, second = build(tables, base)[0].upstreams

    assert list(entry) == list(OF_UPSTREAM)
    assert [name for name in entry if getattr(first, name) == getattr(second, name)] == []
    assert (first.silence_seconds, second.silence_seconds) == (12.0, 12.0)


def test_values_of_a_misplaced_table_are_not_shown() -> None:
    """Headers in a table where an array was expected stay out of the message."""
    for text in ("[routes]\nheaders = { K = 'hunter2' }", "routes = [['hunter2']]"):
        with pytest.raises(ConfigError) as caught:
            loads(text)
        assert "hunter2" not in str(caught.value)


_PATHS = st.sampled_from(["/", "/a", "/A", "/a/b", "/a-b", "/b.c"])
_NAMES = st.sampled_from(["a", "b", "a-1", "a-2", "a-b", "root"])
_ENTRY = st.fixed_dictionaries({"url": st.just("http://a/")}, optional={"name": _NAMES, "weight": st.integers(1, 5)})
_ROUTE = st.fixed_dictionaries(
    {"upstreams": st.lists(_ENTRY, min_size=1, max_size=3)},
    optional={"name": _NAMES, "path": _PATHS, "host": st.sampled_from(["", "a", "A", "b"])},
)


@given(st.lists(_ROUTE, min_size=1, max_size=3))
def test_nothing_clashes_and_nothing_is_lost(tables: list[dict[str, Any]]) -> None:
    """Whatever is accepted has its routes and upstreams in their order, each told from all others."""
    try:
        routes = build(read(tables, "s"), Upstream())
    except ConfigError as error:
        assert error.key.startswith(KEY)  # noqa: PT017 - the other way out is below
        return
    upstreams = [upstream for route in routes for upstream in route.upstreams]

    assert len({route.name for route in routes}) == len(routes) == len(tables)
    assert len({(route.host, route.path) for route in routes}) == len(routes)
    assert len({upstream.name for upstream in upstreams}) == len(upstreams)
    assert [len(route.upstreams) for route in routes] == [len(table["upstreams"]) for table in tables]
    assert all(table.get("name", route.name) == route.name for table, route in zip(tables, routes, strict=True))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "path", "upstreams", "url", "labels", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_whatever_stands_there_is_read_or_refused(value: object) -> None:
    """No shape of data gets past the reader as anything but routes or a `ConfigError`."""
    try:
        tables = read(value, "s")
    except ConfigError as error:
        assert error.key.startswith(KEY)  # noqa: PT017 - the other way out is below
        return

    assert all(table.pool for table in tables)


@given(st.text("abAB/._~!$&'()*+,;=:@-", max_size=80).map(lambda text: f"/{text}"))
def test_every_path_makes_a_name(path: str) -> None:
    """A route without a name has a usable one, whatever its path, as long as its upstreams' fit too."""
    assume(not {".", ".."} & set(path.split("/")))
    try:
        (route,) = build(read([{"path": path, "upstreams": [{"url": "http://a/", "name": "x"}]}], "s"), Upstream())
    except ConfigError as error:
        pytest.fail(str(error))

    assert 0 < len(route.name) <= 64
    assert set(route.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
