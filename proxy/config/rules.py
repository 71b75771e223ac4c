"""Own what one value may be: the rule of a setting, how a value is held against it, how text becomes one.

Knows neither which settings there are nor where values come from: key and source are told, for the message.
Invariant: what `checked` returns has the type of the default and fits the rule; no message shows a secret.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy.config.address import shown
from proxy.errors import ConfigError

MASK = "***"
"""Stands for a secret, however long."""

_LONGEST_SECONDS = 10 * 365 * 86400.0
_MOST_BYTES = 2**40

_T = TypeVar("_T")
_Check = Callable[[str], str]
"""Takes the text, returns what is wrong with it; empty when nothing is."""
_PairCheck = Callable[[str, str], str]
"""The same for a name with its value."""

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


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting must satisfy beyond its type, and the flag that sets it."""

    least: float = 0
    most: float = math.inf
    positive: bool = False
    check: _Check | None = None
    pairs: _PairCheck | None = None
    """Set where the value is a table of strings, kept as pairs: judges one name with its value."""
    flag: str = ""
    own: bool = False
    """Whether each upstream of a route may have a value of its own."""
    secret: bool = False
    """Whether no message and no listing may show the value."""


def setting(default: _T, **rule: Any) -> _T:
    """Declare a setting; `rule` are the fields of its `Rule`."""
    return field(default=default, metadata={"rule": Rule(**rule)}, repr=not rule.get("secret"))


def seconds(default: float, *, zero: bool = False, own: bool = False) -> float:
    """Declare a time, above 0 or from 0."""
    return setting(default, positive=not zero, most=_LONGEST_SECONDS, own=own)


def count(default: int, *, least: int = 1, most: int = 10_000_000, own: bool = False) -> int:
    """Declare a number of things."""
    return setting(default, least=least, most=most, own=own)


def size(default: int) -> int:
    """Declare a number of bytes, from 1."""
    return setting(default, least=1, most=_MOST_BYTES)


def share(default: float) -> float:
    """Declare a part of a whole, 0 to 1."""
    return setting(default, least=0, most=1)


def name_problem(text: str) -> str:
    """Judge the name of an upstream or a route: it stands in logs, counters, paths and commands."""
    fits = re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", text)
    return "" if fits else f"expected up to 64 of a-z, 0-9, - and _, a letter or digit first, got {shown(text)}"


def one_of(*choices: str) -> _Check:
    """Make the judgement of a setting with few values."""
    return lambda text: "" if text in choices else f"expected one of {', '.join(choices)}, got {shown(text)}"


def parsed(default: object, rule: Rule, text: str) -> object:
    """Read the text of an environment variable; what cannot be read stays text, which `checked` refuses."""
    kind = type(default)
    if kind is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return _table_of(parts, text) if rule.pairs else parts
    if kind is bool:
        return _WORDS.get(text.strip().lower(), text)
    try:
        return kind(text)  # type: ignore[call-arg]
    except ValueError:
        return text


def _table_of(parts: list[str], text: str) -> object:
    """Read `name=value` parts. A name given twice stays text: one of its values would be dropped in silence."""
    table = {name.rstrip(): value.lstrip() for name, equals, value in (part.partition("=") for part in parts) if equals}
    return table if len(table) == len(parts) else text


def checked(value: object, default: object, rule: Rule, key: str, source: str) -> Any:
    """Return `value` as the setting keeps it.

    Raises:
        ConfigError: it has another type than the default, or the rule refuses it.

    """
    if rule.pairs is not None:
        return _checked_table(value, rule, key, source)
    kind = type(default)
    if kind is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)  # a longer integer would overflow; it stays one and is refused
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if type(value) is not kind:  # exact: a bool is an int to isinstance
        raise ConfigError(f"expected {_KINDS[kind]}, got {_given(value, rule)}", key=key, source=source)
    problem = _problem(value, rule)
    if problem:
        raise ConfigError(problem, key=key, source=source)
    return value


def _checked_table(value: object, rule: Rule, key: str, source: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ConfigError(f"expected a table of strings, got {_given(value, rule)}", key=key, source=source)
    assert rule.pairs is not None
    names: set[str] = set()
    for name, text in value.items():
        at = f"{key}.{name}"
        if not isinstance(text, str):
            raise ConfigError(f"expected a string, got {_given(text, rule)}", key=at, source=source)
        problem = rule.pairs(name, text)
        if not problem and name.lower() in names:
            problem = "expected each name once, in whatever letter case"
        if problem:
            raise ConfigError(problem, key=at, source=source)
        names.add(name.lower())
    return tuple(value.items())


def _given(value: object, rule: Rule) -> str:
    return MASK if rule.secret else shown(value)


def _problem(value: object, rule: Rule) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Written so that nan, which compares false with everything, is out of every range.
        if rule.least <= value <= rule.most and not (rule.positive and value == 0):
            return ""
        bounds = "above 0 and at most" if rule.positive else f"from {rule.least} to"
        return f"expected a number {bounds} {rule.most:.15g}, got {shown(value)}"
    texts = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
    return next(filter(None, map(rule.check, texts)), "") if rule.check else ""
