"""Own the arrays `[[routes]]` and `[[routes.upstreams]]`: read them, fill in what is left out, refuse what clashes.

Knows neither files nor the environment: it is given decoded TOML. An upstream of a route is `[upstream]` with its own
keys laid over it. Invariant: in what `build` returns no two routes share a name or an endpoint, and no two upstreams
of the process a name.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, fields, replace
from typing import Any, NamedTuple

from proxy.config.address import shown
from proxy.config.rules import Rule, checked, name_problem
from proxy.config.sections import Route, Upstream
from proxy.errors import ConfigError

KEY = "routes"
POOL = "upstreams"

OF_ROUTE: dict[str, Field[Any]] = {f.name: f for f in fields(Route) if f.name != POOL}
"""What may stand in `[[routes]]`, beside the pool."""
OF_UPSTREAM: dict[str, Field[Any]] = {f.name: f for f in fields(Upstream) if f.metadata["rule"].own}
"""What may stand in `[[routes.upstreams]]`."""
REPLACED = ("upstream.url", "upstream.name", "listen.path")
"""What each route says for itself: beside `[[routes]]` these would have no effect."""

_SHARED = {f.name for f in fields(Upstream)} - set(OF_UPSTREAM)


class Table(NamedTuple):
    """One table of an array: what was set in it, each value checked by itself."""

    key: str
    """`routes[0]`, `routes[0].upstreams[1]`."""
    source: str
    values: dict[str, Any]
    pool: tuple["Table", ...] = ()


def read(value: object, source: str) -> tuple[Table, ...]:
    """Check what stands under `routes`, table by table.

    Raises:
        ConfigError: names the key (`routes[0].upstreams[1].url`) and what is wrong.

    """
    tables = _tables(value, KEY, f"[[{KEY}]]", source)
    if not tables:
        raise ConfigError("expected at least one [[routes]], or none of this key", key=KEY, source=source)
    return tuple(_read_route(table, key, source) for key, table in tables)


def _tables(value: object, key: str, header: str, source: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(f"expected tables {header}, got {_outline(value)}", key=key, source=source)
    return [(f"{key}[{index}]", table) for index, table in enumerate(value)]


def _outline(value: object) -> str:
    """Show what is there without the values of tables: headers may be among them."""
    return "one table" if isinstance(value, dict) else "a list" if isinstance(value, list) else shown(value)


def _read_route(table: Mapping[str, Any], key: str, source: str) -> Table:
    values = {}
    for name, value in table.items():
        if name == POOL:
            continue
        if name not in OF_ROUTE:
            raise _unknown(name, f"{key}.{name}", [*OF_ROUTE, POOL], _of_an_upstream, source)
        values[name] = _checked(OF_ROUTE[name], value, f"{key}.{name}", source)
    pool = tuple(
        _read_upstream(entry, at, source)
        for at, entry in _tables(table.get(POOL, []), f"{key}.{POOL}", "[[routes.upstreams]]", source)
    )
    if not pool:
        problem = "expected at least one [[routes.upstreams]] below this [[routes]]"
        raise ConfigError(problem, key=f"{key}.{POOL}", source=source)
    return Table(key, source, values, pool)


def _read_upstream(table: Mapping[str, Any], key: str, source: str) -> Table:
    values = {}
    for name, value in table.items():
        if name not in OF_UPSTREAM:
            raise _unknown(name, f"{key}.{name}", OF_UPSTREAM, _of_all_upstreams, source)
        values[name] = _checked(OF_UPSTREAM[name], value, f"{key}.{name}", source)
    if "url" not in values:
        raise ConfigError("expected the URL of the server's endpoint, got none", key=f"{key}.url", source=source)
    return Table(key, source, values)


def _checked(field: Field[Any], value: object, key: str, source: str) -> Any:
    rule: Rule = field.metadata["rule"]
    return checked(value, field.default, rule, key, source)


def _of_an_upstream(name: str) -> str:
    return f"{name} in [[routes.upstreams]]" if name in OF_UPSTREAM else ""


def _of_all_upstreams(name: str) -> str:
    return f"{name} in [upstream], where it holds for all" if name in _SHARED else ""


def _unknown(name: str, key: str, known: Collection[str], elsewhere: Any, source: str) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=1)
    nearest = elsewhere(name) or next(iter(close), "")
    hint = f"; did you mean {nearest}?" if nearest else ""
    return ConfigError(f"unknown key{hint}", key=key, source=source)


def build(tables: Iterable[Table], base: Upstream) -> tuple[Route, ...]:
    """Make the routes: names where there are none, upstreams as `base` with their own keys.

    Raises:
        ConfigError: a name or an endpoint is taken, or limits cannot be reached.

    """
    routes: list[Route] = []
    names: dict[str, str] = {}
    endpoints: dict[tuple[str, str], str] = {}
    members: dict[str, str] = {}
    for table in tables:
        bare = Route(**table.values)
        route = replace(bare, name=table.values.get("name") or _name_of(bare.path), host=bare.host.lower())
        _claim(names, route.name, f"{table.key}.name", "a name", table)
        _claim(endpoints, (route.host, route.path), f"{table.key}.path", "a path (or host)", table)
        routes.append(replace(route, upstreams=_pool(table, route.name, base, members)))
    return tuple(routes)


def _pool(table: Table, route: str, base: Upstream, members: dict[str, str]) -> tuple[Upstream, ...]:
    pool = []
    for number, entry in enumerate(table.pool, 1):
        upstream = replace(base, **{"name": f"{route}-{number}", **entry.values})
        problem = name_problem(upstream.name)  # what is made of a long name may be too long
        if problem:
            raise ConfigError(problem, key=f"{entry.key}.name", source=entry.source)
        _claim(members, upstream.name, f"{entry.key}.name", "a name", entry)
        check_limits(upstream, {name: f"{entry.key}.{name}" for name in entry.values}, entry.source)
        pool.append(upstream)
    return tuple(pool)


def _name_of(path: str) -> str:
    """Make a name of a path: `/github/mcp` is `github-mcp`, `/` is `root`."""
    return re.sub(r"[^a-z0-9_]+", "-", path.lower()).strip("-_")[:64] or "root"


def _claim(taken: dict[Any, str], what: Any, key: str, kind: str, table: Table) -> None:
    if what in taken:
        given = shown(what if isinstance(what, str) else "".join(what))
        problem = f"expected {kind} of its own, got {given}, which is {taken[what]} already"
        raise ConfigError(problem, key=key, source=table.source)
    taken[what] = key


_WITHIN = (
    ("max_session_calls", "max_calls", "a session has no more than all have"),
    ("max_calls", "max_connections", "each call takes a connection"),
)


def check_limits(upstream: Upstream, keys: Mapping[str, str], source: str | Mapping[str, str]) -> None:
    """Refuse a limit that somebody set and that another one keeps from being reached.

    Args:
        upstream: As it will be.
        keys: The dotted key of each name that was set where these limits are judged.
        source: Where they were set, or that by dotted key.

    Raises:
        ConfigError: names the limit that was set.

    """
    for low, high, reason in _WITHIN:
        small, large = getattr(upstream, low), getattr(upstream, high)
        if low in keys and small > large:
            key = keys[low]
            where = source if isinstance(source, str) else source[key]
            raise ConfigError(f"expected at most {high} ({large}), for {reason}, got {small}", key=key, source=where)
