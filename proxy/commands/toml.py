"""Own how a configuration is written as TOML: nested tables as `proxy.config.effective` returns them.

Knows no setting. Invariant: what is written reads back (tomllib) as what was given.
"""

import json
from collections.abc import Mapping
from typing import Any

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def written(tables: Mapping[str, Any]) -> str:
    """Return TOML text: values first, then tables, then arrays of tables, in the order given."""
    return "\n".join(_blocks(tables, ""))


def _blocks(table: Mapping[str, Any], path: str) -> list[str]:
    """Return one block per header; tables further down are written inline, arrays of tables are not."""
    blocks = []
    for name, value in table.items():
        at = f"{path}.{_key(name)}" if path else _key(name)
        if isinstance(value, Mapping) and not path:
            blocks += [f"[{at}]\n{_lines(value)}", *_blocks(value, at)]
        elif _is_array_of_tables(value):
            for each in value:
                blocks += [f"[[{at}]]\n{_lines(each)}", *_blocks(each, at)]
        elif not path:
            blocks.insert(0, f"{_key(name)} = {_value(value)}\n")
    return blocks


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(
        f"{_key(name)} = {_value(value)}\n" for name, value in table.items() if not _is_array_of_tables(value)
    )


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, bool | str):
        # A basic string knows the escapes of JSON, and besides wants DEL escaped (TOML 1.0, String).
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _key(name: str) -> str:
    return name if name and _BARE.issuperset(name) else _value(name)
