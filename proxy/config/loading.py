"""Read the settings: defaults < file < environment < flags, then the rules between settings.

An unknown key, a wrong type, a value out of range and a combination that cannot work are errors that name the
key and its source. Invariant: a `Config` that `load` or `loads` returned is valid as a whole.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from proxy.config.address import shown
from proxy.config.sections import Config, Listen, Rule

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


_SECTIONS: dict[str, Any] = {section.name: section.type for section in fields(Config)}
SETTINGS: dict[str, _Setting] = {
    f"{section}.{f.name}": _Setting(section, f.name, f.default, f.metadata["rule"])
    for section, cls in _SECTIONS.items()
    for f in fields(cls)
}
"""Every setting by its dotted key."""

_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a list of strings",
}
_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


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
            raise _unknown(key, name, {key: env for env, key in keys.items()})
        yield _checked(keys[name], _parsed(type(SETTINGS[keys[name]].default), text), name)


def _parsed(kind: type, text: str) -> object:
    """Read an environment variable as `kind`; text that is not one stays text, which `_checked` refuses."""
    if kind is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        return _WORDS.get(text.strip().lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def _from_overrides(overrides: Mapping[str, object]) -> Iterator[_Given]:
    for key, value in overrides.items():
        flag = SETTINGS[key].rule.flag if key in SETTINGS else ""
        yield _checked(key, value, flag or "command line")


def _checked(key: str, value: object, source: str) -> _Given:
    """Hold `value` against the type and the rule of its setting."""
    if key not in SETTINGS:
        raise _unknown(key, source)
    setting = SETTINGS[key]
    kind = type(setting.default)
    if kind is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)  # a longer integer would overflow; it stays one and is refused
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if type(value) is not kind:  # exact: a bool is an int to isinstance
        raise ConfigError(f"expected {_KINDS[kind]}, got {shown(value)}", key=key, source=source)
    problem = _problem(value, setting.rule)
    if problem:
        raise ConfigError(problem, key=key, source=source)
    return _Given(key, value, source)


def _problem(value: object, rule: Rule) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Written so that nan, which compares false with everything, is out of every range.
        if rule.least <= value <= rule.most and not (rule.positive and value == 0):
            return ""
        bounds = "above 0 and at most" if rule.positive else f"from {rule.least} to"
        return f"expected a number {bounds} {rule.most:.15g}, got {shown(value)}"
    texts = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
    return next(filter(None, map(rule.check, texts)), "") if rule.check else ""


def _unknown(key: str, source: str, names: Mapping[str, str] | None = None) -> ConfigError:
    """Refuse a key, suggesting the nearest: close in spelling, or of that name in another table.

    `names` gives the spelling of the source, where it is not the dotted key itself.
    """
    last = key.rpartition(".")[2]
    elsewhere = [known for known, setting in SETTINGS.items() if setting.name == last]
    close = difflib.get_close_matches(key, [*_SECTIONS, *SETTINGS], n=1, cutoff=0.7)
    nearest = next(iter([*elsewhere, *close]), "")
    hint = f"; did you mean {(names or {}).get(nearest, nearest)}?" if nearest else ""
    return ConfigError(f"unknown {'key' if '.' in key else 'table or key'}{hint}", key=key, source=source)


def _build(given: Iterable[_Given]) -> Config:
    """Lay the values over the defaults, later ones over earlier ones, and validate the whole."""
    by_key = {item.key: item for item in given}
    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for item in by_key.values():
        setting = SETTINGS[item.key]
        values[setting.section][setting.name] = item.value
    config = Config(**{section: cls(**values[section]) for section, cls in _SECTIONS.items()})
    _validate(config, {key: item.source for key, item in by_key.items()})
    return config


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
    exposed = exposure_problem(config.listen)
    if exposed:
        raise ConfigError(exposed, key="listen.address", source=sources["listen.address"])


def exposure_problem(listen: Listen) -> str:
    """Judge whether who can connect is allowed to: asked here, and again of a socket that came from outside."""
    if is_loopback(listen.host) or listen.allow_anonymous:
        return ""
    return (
        f"listening on {listen.host} lets other machines in and nobody is authenticated: set "
        "listen.allow_anonymous = true (--allow-anonymous) to allow that, or listen on 127.0.0.1"
    )


def _value(config: Config, key: str) -> Any:
    setting = SETTINGS[key]
    return getattr(getattr(config, setting.section), setting.name)
