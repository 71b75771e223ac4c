"""Who a server says it is, and in what two of them differ.

Owns the reading of handshakes and `tools/list` answers for that one purpose, in bounds: a server may answer
anything. Knows neither sessions nor how the answers were had. Invariant: a server does not differ from itself, and
what one of two offers beyond the other is a loss in exactly one direction.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from proxy.core.jsonrpc import InitializeResult

MAX_CAPABILITIES: Final = 500
"""Paths read of one answer: what a server may announce is not bounded."""
MAX_DEPTH: Final = 8
"""Levels read of its capabilities; what lies deeper counts as one value."""
ABSENT: Final = "absent"
PRESENT: Final = "present"
_SHOWN_CHARACTERS: Final = 80
_UNREADABLE: Final = (ValueError, RecursionError)
_REFUSING: Final = frozenset({ABSENT, "null", "false"})
"""Values of what is not offered. An empty object offers: `"logging": {}`."""


class Tool(msgspec.Struct, frozen=True):
    """One tool as it was listed. Texts are JSON in one order of names, so that equal ones are equal."""

    schema: str = ""
    properties: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    hints: str = ""
    """Its annotations but the title, which is for people."""
    is_repeatable: bool = False
    """Whether `readOnlyHint` or `idempotentHint` is true."""


class Identity(msgspec.Struct, frozen=True):
    """What one server said of itself."""

    name: str
    version: str
    """Of the server itself."""
    protocol_version: str
    """The one it negotiates; of a server without sessions all it supports."""
    capabilities: Mapping[str, str]
    """JSON by dotted path; of an object `present`, what is in it has paths of its own."""
    tools: Mapping[str, Tool] | None = None
    """By name; None where they were not asked for."""
    is_partial: bool = False
    """Whether only what stands here is known, and what does not may have been offered as well."""


class Difference(msgspec.Struct, frozen=True):
    """One thing in which two servers differ."""

    field: str
    """Dotted: serverInfo.version, capabilities.tools.listChanged, tools.NAME."""
    old: str
    new: str
    is_loss: bool
    """Whether the new one offers less than the old one did."""


class ToolPage(msgspec.Struct, frozen=True):
    """One answer to `tools/list`."""

    tools: Mapping[str, Tool]
    next_cursor: str | None


class _Result(msgspec.Struct, rename="camel"):
    protocol_version: str = ""
    supported_versions: list[str] = []
    capabilities: Any = None
    server_info: Any = None


class _Answer(msgspec.Struct):
    result: _Result


class _ListedTool(msgspec.Struct, rename="camel"):
    name: str
    input_schema: Any = None
    annotations: Any = None


class _ToolList(msgspec.Struct, rename="camel"):
    tools: list[_ListedTool]
    next_cursor: str | None = None


class _ToolAnswer(msgspec.Struct):
    result: _ToolList


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode
_decode_tools: Final = msgspec.json.Decoder(_ToolAnswer).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def read(body: bytes) -> Identity | None:
    """Read an answer to `initialize` or `server/discover`; None when it is no result with a protocol version."""
    try:
        result = _decode_answer(body).result
        version = result.protocol_version or ", ".join(sorted(result.supported_versions))
        capabilities: dict[str, str] = {}
        _flatten("", _object(result.capabilities), capabilities, MAX_DEPTH)
    except _UNREADABLE:
        return None
    server = _object(result.server_info)
    name, release = (value if isinstance(value, str) else "" for value in (server.get("name"), server.get("version")))
    return Identity(name, release, version, capabilities) if version else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flatten(prefix: str, values: dict[str, Any], into: dict[str, str], depth: int) -> None:
    # In the order of names: where the bound cuts, it cuts both of two equal servers alike.
    for name in sorted(values):
        if len(into) >= MAX_CAPABILITIES:
            return
        value = values[name]
        if isinstance(value, dict) and depth > 1:
            into[prefix + name] = PRESENT
            _flatten(f"{prefix}{name}.", value, into, depth - 1)
        else:
            into[prefix + name] = _text(value)


def _text(value: Any) -> str:
    return _encode(value).decode()


def promised(result: InitializeResult) -> Identity:
    """Return what a client was promised, which is all that is known of a server that cannot be asked any more."""
    capabilities: dict[str, str] = {}
    for path, is_promised in (
        ("tools.listChanged", result.tools_list_changed),
        ("prompts.listChanged", result.prompts_list_changed),
        ("resources.listChanged", result.resources_list_changed),
        ("resources.subscribe", result.resources_subscribe),
    ):
        if is_promised:
            capabilities[path.partition(".")[0]] = PRESENT
            capabilities[path] = "true"
    if result.logging:
        capabilities["logging"] = PRESENT
    return Identity(result.server_name, result.server_version, result.protocol_version, capabilities, is_partial=True)


def read_tools(body: bytes) -> ToolPage | None:
    """Read an answer to `tools/list`; None when it is no such answer."""
    try:
        result = _decode_tools(body).result
        return ToolPage({tool.name: _tool(tool) for tool in result.tools}, result.next_cursor)
    except _UNREADABLE:
        return None


def _tool(listed: _ListedTool) -> Tool:
    schema = _object(listed.input_schema)
    hints = {name: value for name, value in _object(listed.annotations).items() if name != "title"}
    return Tool(
        _text(listed.input_schema),
        frozenset(_object(schema.get("properties"))),
        _names(schema.get("required")),
        _text(hints),
        is_repeatable=hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True,
    )


def _names(value: Any) -> frozenset[str]:
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else frozenset()


def differences(old: Identity, new: Identity) -> list[Difference]:
    """Compare two servers, in the order of the fields' names; tools where they are known of both.

    Instructions are left out: they are for a model to read, and another wording says nothing of what is offered.
    """
    found = [
        Difference(field, before, after, is_loss)
        for field, before, after, is_loss in (
            ("serverInfo.name", old.name, new.name, False),
            ("serverInfo.version", old.version, new.version, False),
            # A session keeps the version that it negotiated: a newer one cannot host it any more than an older one.
            ("protocolVersion", old.protocol_version, new.protocol_version, True),
        )
        if before != after
    ]
    paths = old.capabilities.keys() | (set() if old.is_partial else new.capabilities.keys())
    for path in sorted(paths):
        before, after = old.capabilities.get(path, ABSENT), new.capabilities.get(path, ABSENT)
        if before != after:
            is_loss = before not in _REFUSING and after in _REFUSING
            found.append(Difference(f"capabilities.{path}", _shown(before), _shown(after), is_loss))
    if old.tools is not None and new.tools is not None:
        for name in sorted(old.tools.keys() | new.tools.keys()):
            found += _tool_differences(f"tools.{name}", old.tools.get(name), new.tools.get(name))
    return found


def _tool_differences(field: str, old: Tool | None, new: Tool | None) -> list[Difference]:
    if old is None or new is None:
        before, after = (ABSENT if tool is None else PRESENT for tool in (old, new))
        return [Difference(field, before, after, is_loss=new is None)]
    found = []
    if old.schema != new.schema:
        # What fitted the old schema is plainly refused by the new one, as far as names tell.
        is_loss = not (new.required <= old.required and old.properties <= new.properties)
        found.append(Difference(f"{field}.inputSchema", _shown(old.schema), _shown(new.schema), is_loss))
    if old.hints != new.hints:
        # A call that may be sent again is worth more than one that may not.
        is_loss = old.is_repeatable and not new.is_repeatable
        found.append(Difference(f"{field}.annotations", _shown(old.hints), _shown(new.hints), is_loss))
    return found


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
