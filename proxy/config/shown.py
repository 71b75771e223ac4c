"""Own how a configuration is shown and compared: as nested tables under the names of `config.toml`.

Knows neither where values came from nor who asks. Invariant: what it returns holds no secret, only that there is one.
"""

from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

from proxy.config import routes
from proxy.config.rules import MASK, Rule
from proxy.config.sections import Config, Route


def effective(config: Config) -> dict[str, Any]:
    """Return what is in force, as TOML would hold it: strings, numbers, booleans, lists and tables.

    Routes are always there, each upstream with all that it may have of its own. Where somebody wrote them, the keys
    they stand in for (`listen.path`, `upstream.url`, `upstream.name`) are left out: they have no effect. Secrets that
    are set read `***`.
    """
    idle = routes.REPLACED if routes.KEY in config.given else ()
    tables: dict[str, Any] = {}
    for section, field, value in _settings(config):
        if f"{section}.{field.name}" not in idle:
            tables.setdefault(section, {})[field.name] = _plain(value, field.metadata["rule"])
    tables[routes.KEY] = [_route(route) for route in config.routes]
    return tables


def differences(old: Config, new: Config) -> list[str]:
    """Return the dotted keys outside of routes whose values differ, in the order of `config.toml`.

    What routes are made of is left out: `listen.path`, and of `[upstream]` what each upstream may have of its own. The
    rest of `[upstream]` is in: it holds for all.
    """
    after = {(section, field.name): value for section, field, value in _settings(new)}
    return [
        f"{section}.{field.name}"
        for section, field, value in _settings(old)
        if not field.metadata["rule"].own
        and f"{section}.{field.name}" not in routes.REPLACED
        and after[section, field.name] != value
    ]


def _settings(config: Config) -> Iterator[tuple[str, Field[Any], Any]]:
    for section in fields(config):
        table = getattr(config, section.name)
        if is_dataclass(table):
            for field in fields(table):
                yield section.name, field, getattr(table, field.name)


def _route(route: Route) -> dict[str, Any]:
    shown = {name: _plain(getattr(route, name), field.metadata["rule"]) for name, field in routes.OF_ROUTE.items()}
    shown[routes.POOL] = [
        {name: _plain(getattr(upstream, name), field.metadata["rule"]) for name, field in routes.OF_UPSTREAM.items()}
        for upstream in route.upstreams
    ]
    return shown


def _plain(value: Any, rule: Rule) -> Any:
    if rule.pairs is not None:
        return {name: MASK if rule.secret else text for name, text in value}
    if rule.secret:
        return MASK if value else ""
    return list(value) if isinstance(value, tuple) else value
