"""Read the settings: defaults < file < environment < flags, then the rules between settings.

An unknown key, a wrong type, a value out of range and a combination that cannot work are errors that name the
key and its source. Invariant: a `Config` that `load` or `loads` returned is valid as a whole.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from proxy.config import routes
from proxy.config.address import shown
from proxy.config.rules import Rule, checked, name_problem, parsed
from proxy.config.sections import Admin, Config, Listen, Route

# One judgement for both: an address that counted as loopback here and not there would lose its check of Host.
from proxy.core.headers import is_loopback
from proxy.errors import ConfigError

ENV_PREFIX = "MCP_SESSION_PROXY__"
"""Two underscores: for a service so named, Kubernetes gives every pod `MCP_SESSION_PROXY_PORT` and more."""


class _Setting(NamedTuple):
    """One key of the configuration."""

    section: str
    name: str
    default: Any
    rule: Rule

    @property
    def env(self) -> str:
        return f"{ENV_PREFIX}{self.section}__{self.name}".upper()


class _Given(NamedTuple):
    """A value somebody set, of the right type and in range."""

    key: str
    value: Any
    source: str


_SECTIONS: dict[str, Any] = {section.name: section.type for section in fields(Config) if is_dataclass(section.type)}
SETTINGS: dict[str, _Setting] = {
    f"{section}.{f.name}": _Setting(section, f.name, f.default, f.metadata["rule"])
    for section, cls in _SECTIONS.items()
    for f in fields(cls)
}
"""Every setting by its dotted key."""

_POOL_KEY = "upstream.url"
"""The one setting whose flag may be given several times: its values are then a pool."""


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    """Read the file (none: defaults), then `environ`, then `overrides` by dotted key, which the flags give.

    Raises:
        ConfigError: a source cannot be read, or what it says is not usable.

    """
    given = [] if path is None else list(_from_toml(_read(path), str(path)))
    given += _from_environ(environ)
    given += _from_overrides(overrides)
    return _build(given)


def loads(text: str, source: str = "config.toml") -> Config:
    """Read a configuration from TOML text alone.

    Raises:
        ConfigError: the text is not TOML, or what it says is not usable.

    """
    return _build(_from_toml(text, source))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # some editors put a mark first, which TOML does not know
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", source=str(path)) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError("expected UTF-8 text, got other bytes", key=f"line {line}", source=str(path)) from error


def _from_toml(text: str, source: str) -> Iterator[_Given]:
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        raise _syntax_error(str(error), text, source) from error
    for section, table in tables.items():
        if section == routes.KEY:
            yield _Given(routes.KEY, routes.read(table, source), source)
            continue
        if section not in _SECTIONS:
            raise _unknown(section, source)
        if not isinstance(table, dict):
            raise ConfigError(f"expected a table [{section}], got {shown(table)}", key=section, source=source)
        for name, value in table.items():
            yield _checked(f"{section}.{name}", value, source)


def _syntax_error(message: str, text: str, source: str) -> ConfigError:
    """Put the place before tomllib's message, which has it last, or has only `end of document`."""
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:
        return ConfigError(f"not valid TOML: {message}", source=source)
    line, column = place.groups()
    if line is None:
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    problem = f"not valid TOML: {message[: place.start()]}"
    return ConfigError(problem, key=f"line {line}, column {column}", source=source)


def _from_environ(environ: Mapping[str, str]) -> Iterator[_Given]:
    keys = {setting.env: key for key, setting in SETTINGS.items()}
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        if name not in keys:
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            if re.match(rf"{routes.KEY}\b", key):
                raise ConfigError("routes are set in the file alone", key=key, source=name)
            raise _unknown(key, name, {key: env for env, key in keys.items()})
        setting = SETTINGS[keys[name]]
        yield _checked(keys[name], parsed(setting.default, setting.rule, text), name)


def _from_overrides(overrides: Mapping[str, object]) -> Iterator[_Given]:
    for key, value in overrides.items():
        flag = SETTINGS[key].rule.flag if key in SETTINGS else ""
        source = flag or "command line"
        if key == _POOL_KEY and isinstance(value, list) and value:
            urls = tuple(_checked(key, item, source).value for item in value)
            yield _Given(key, urls[0] if len(urls) == 1 else urls, source)
        else:
            yield _checked(key, value, source)


def _checked(key: str, value: object, source: str) -> _Given:
    """Hold `value` against the type and the rule of its setting."""
    if key not in SETTINGS:
        raise _unknown(key, source)
    setting = SETTINGS[key]
    return _Given(key, checked(value, setting.default, setting.rule, key, source), source)


def _unknown(key: str, source: str, names: Mapping[str, str] | None = None) -> ConfigError:
    """Refuse a key, suggesting the nearest: close in spelling, or of that name in another table.

    `names` gives the spelling of the source, where it is not the dotted key itself.
    """
    last = key.rpartition(".")[2]
    elsewhere = [known for known, setting in SETTINGS.items() if setting.name == last]
    close = difflib.get_close_matches(key, [*_SECTIONS, routes.KEY, *SETTINGS], n=1, cutoff=0.7)
    nearest = next(iter([*elsewhere, *close]), "")
    hint = f"; did you mean {(names or {}).get(nearest, nearest)}?" if nearest else ""
    return ConfigError(f"unknown {'key' if '.' in key else 'table or key'}{hint}", key=key, source=source)


def _build(given: Iterable[_Given]) -> Config:
    """Lay the values over the defaults, later ones over earlier ones, and validate the whole."""
    by_key = {item.key: item for item in given}
    sources = {key: item.source for key, item in by_key.items()}
    tables = by_key.pop(routes.KEY, None)
    pool: tuple[str, ...] = ()
    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for item in by_key.values():
        setting, value = SETTINGS[item.key], item.value
        if item.key == _POOL_KEY and isinstance(value, tuple):
            pool, value = value, value[0]
        values[setting.section][setting.name] = value
    config = Config(**{section: cls(**values[section]) for section, cls in _SECTIONS.items()}, given=frozenset(sources))
    _validate(config, sources)
    if tables is not None:
        return replace(config, routes=routes.build(tables.value, config.upstream))
    return replace(config, routes=_route_of(config, pool, sources)) if pool else config


def _route_of(config: Config, urls: Iterable[str], sources: Mapping[str, str]) -> tuple[Route, ...]:
    """Make the one route of a pool that the command line gave: `default`, `default-2`, and so on."""
    first = config.upstream
    upstreams = [first]
    for number, url in enumerate([*urls][1:], 2):
        upstreams.append(replace(first, name=f"{first.name}-{number}", url=url))
    problem = name_problem(upstreams[-1].name)
    if problem:
        raise ConfigError(problem, key="upstream.name", source=sources["upstream.name"])
    return (replace(config.routes[0], upstreams=tuple(upstreams)),)


_ASCENDING = (
    (
        "stream.slow_reader_events",
        "<",
        "replay.events_per_stream",
        "what a cut reader missed can be replayed",
    ),
    ("stream.slow_reader_bytes", "<", "replay.bytes_per_stream", "what a cut reader missed can be replayed"),
    ("replay.bytes_per_stream", "<=", "replay.bytes_per_session", "a session can hold one full stream"),
    ("replay.bytes_per_session", "<=", "replay.bytes_total", "the process can hold one full session"),
    ("session.upstream_idle_seconds", "<=", "session.idle_seconds", "the upstream side ends first"),
    ("upstream.reconnect_min_seconds", "<=", "upstream.reconnect_max_seconds", "delays can grow"),
    ("upstream.ping_timeout_seconds", "<=", "upstream.silence_seconds", "one ping ends before the next"),
    ("health.timeout_seconds", "<=", "health.interval_seconds", "one probe ends before the next"),
    ("health.backoff_min_seconds", "<=", "health.backoff_max_seconds", "waits can grow"),
    (
        "stream.heartbeat_seconds",
        "<",
        "stream.peer_timeout_seconds",
        "a quiet live client is not taken for dead",
    ),
)
"""Pairs of settings whose order is a rule, and what it is for."""


def _validate(config: Config, sources: Mapping[str, str]) -> None:
    """Hold the rules between settings; the error names the one that somebody set."""
    for low, relation, high, purpose in _ASCENDING:
        small, large = _value(config, low), _value(config, high)
        if small < large or (relation == "<=" and small == large):
            continue
        key = low if low in sources else high
        words = "below" if relation == "<" else "at most"
        problem = f"expected {low} ({small}) {words} {high} ({large}), so that {purpose}"
        raise ConfigError(problem, key=key, source=sources[key])
    routes.check_limits(config.upstream, _names_given("upstream", sources), sources)
    for section, address in ((config.listen, "listen.address"), (config.admin, "admin.address")):
        exposed = exposure_problem(section)
        if exposed:
            raise ConfigError(exposed, key=address, source=sources[address])
    _validate_ports(config, sources)
    _validate_tools(config, sources)
    if routes.KEY in sources:
        _validate_alone(sources)


def _names_given(section: str, sources: Mapping[str, str]) -> dict[str, str]:
    return {key.partition(".")[2]: key for key in sources if key.partition(".")[0] == section}


def _validate_ports(config: Config, sources: Mapping[str, str]) -> None:
    """Keep the two listeners apart. The admin API's default gives way by itself: who listens there need not know it."""
    admin, listen = config.admin, config.listen
    if "admin.address" not in sources or (admin.descriptor, admin.port) != (listen.descriptor, listen.port):
        return
    if admin.port or admin.descriptor is not None:
        problem = f"expected another port than that of listen.address ({listen.address}), got {shown(admin.address)}"
        raise ConfigError(problem, key="admin.address", source=sources["admin.address"])


def _validate_tools(config: Config, sources: Mapping[str, str]) -> None:
    both = [tool for tool in config.retry.safe_tools if tool in config.retry.unsafe_tools]
    if both:
        problem = f"expected each tool in one of retry.safe_tools and retry.unsafe_tools, got {shown(both[0])} in both"
        raise ConfigError(problem, key="retry.safe_tools", source=sources["retry.safe_tools"])


def _validate_alone(sources: Mapping[str, str]) -> None:
    """Refuse what routes say for themselves: whoever set it as well expects an effect that it would not have."""
    for key in routes.REPLACED:
        if key in sources:
            own = key.rpartition(".")[2]
            table = "[[routes]]" if key == "listen.path" else "[[routes.upstreams]]"
            problem = f"expected none beside the routes of {sources[routes.KEY]}: each {table} has its own {own}"
            raise ConfigError(problem, key=key, source=sources[key])


def exposure_problem(section: Listen | Admin) -> str:
    """Judge whether who can connect is allowed to: asked here, and again of a socket that came from outside."""
    if isinstance(section, Admin):
        if not section.address or section.token or is_loopback(section.host):
            return ""
        return (
            f"listening on {section.host} lets other machines administer the proxy: set admin.token to what they "
            "must bring, or listen on 127.0.0.1"
        )
    if is_loopback(section.host) or section.allow_anonymous:
        return ""
    return (
        f"listening on {section.host} lets other machines in and nobody is authenticated: set "
        "listen.allow_anonymous = true (--allow-anonymous) to allow that, or listen on 127.0.0.1"
    )


def _value(config: Config, key: str) -> Any:
    setting = SETTINGS[key]
    return getattr(getattr(config, setting.section), setting.name)
