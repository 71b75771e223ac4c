"""Read of a JSON-RPC body what routing needs, and change single values in it; payloads are never modelled.

One envelope decode tells kind, id and method. Where a value must change (ids that two generations could
confuse, the protocol version of a rebuilt session) it is spliced at its byte span, and every other byte
stays. Must not know of sessions or HTTP. Readers answer None for what is absent or of the wrong type;
nothing here raises.
"""

import enum
import re
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.core.ids import RequestId


class Kind(enum.Enum):
    """What a body is, as far as its envelope tells."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"
    BATCH = "batch"
    """A non-empty array; `split_batch` tells its members."""
    OPAQUE = "opaque"
    """Not JSON, not JSON-RPC, or an id that is neither an integer nor a string."""


class Envelope(Struct, frozen=True, gc=False):
    """The routing part of one message."""

    kind: Kind
    id: RequestId | None
    """None for notifications, and for an error response that could not name its request."""
    method: str | None
    is_error: bool
    """A response that carries an error."""


class _Head(Struct, gc=False):
    # float stands here to be recognised: left out, the decoder would read 1.0 as the integer 1.
    id: int | float | str | UnsetType | None = UNSET
    method: str | None = None
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


MAX_BATCH_BYTES: Final = 1_048_576
MAX_BATCH_MEMBERS: Final = 1_000
# ValueError covers the decoder's own errors and text that is not UTF-8; too deep a nesting is the other.
_UNREADABLE: Final = (ValueError, RecursionError)
_REQUEST: Final = Kind.REQUEST
_NOTIFICATION: Final = Kind.NOTIFICATION
_RESPONSE: Final = Kind.RESPONSE
_OPAQUE: Final = Envelope(Kind.OPAQUE, None, None, is_error=False)
_BATCH: Final = Envelope(Kind.BATCH, None, None, is_error=False)
_NULL: Final = b"null"

_decode_head: Final = msgspec.json.Decoder(_Head).decode
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.Encoder().encode


def classify(body: bytes) -> Envelope:
    """Decode the envelope of one body."""
    try:
        head = _decode_head(body)
    except _UNREADABLE:
        return _BATCH if _members(body) else _OPAQUE
    request_id = head.id
    method = head.method
    if method is not None:
        if request_id is UNSET:
            return Envelope(_NOTIFICATION, None, method, False)
        # "Unlike base JSON-RPC, the ID MUST NOT be null" (basic protocol, requests)
        if request_id is None or type(request_id) is float:
            return _OPAQUE
        return Envelope(_REQUEST, request_id, method, False)  # type: ignore[arg-type]
    if type(request_id) is float:
        return _OPAQUE
    error = head.error
    # Some servers write both members, the unused one as null.
    is_error = error is not UNSET and bytes(error) != _NULL
    if request_id is UNSET:
        # Since 2025-11-25 the id of an error response is optional.
        return Envelope(_RESPONSE, None, None, True) if is_error else _OPAQUE
    if not is_error and head.result is UNSET:
        return _OPAQUE
    return Envelope(_RESPONSE, request_id, None, is_error)  # type: ignore[arg-type]


def split_batch(body: bytes) -> list[tuple[Envelope, bytes]]:
    """Take a batch apart into its members and their bytes; empty when the body is no array."""
    return [(classify(member), member) for member in map(bytes, _members(body))]


def _members(body: bytes) -> list[Raw]:
    # Anybody may send an array of millions: beyond a sane size it is opaque, and the upstream's to judge.
    if len(body) > MAX_BATCH_BYTES:
        return []
    try:
        members = _decode_array(body)
    except _UNREADABLE:
        return []
    return members if len(members) <= MAX_BATCH_MEMBERS else []


def error_body(request_id: RequestId | None, code: int, message: str, data: dict[str, Any]) -> bytes:
    """Write an error response."""
    error = {"code": code, "message": message, "data": data}
    return _encode({"jsonrpc": "2.0", "id": request_id, "error": error})


def request_body(request_id: RequestId, method: str, params: dict[str, Any] | None) -> bytes:
    """Write a request."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        body["params"] = params
    return _encode(body)


def notification_body(method: str, params: dict[str, Any] | None) -> bytes:
    """Write a notification."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        body["params"] = params
    return _encode(body)


class _Params(Struct, gc=False, rename="camel"):
    request_id: int | float | str | None = None


class _Cancelled(Struct, gc=False):
    params: _Params | None = None


class _ProgressParams(Struct, gc=False, rename="camel"):
    progress_token: int | float | str
    progress: float


class _Progress(Struct, gc=False):
    method: str
    params: _ProgressParams


class _Meta(Struct, gc=False, rename={"token": "progressToken", "version": "io.modelcontextprotocol/protocolVersion"}):
    # Any, because a wrong type in the one must not hide the other.
    token: Any = None
    version: Any = None


class _MetaParams(Struct, gc=False, rename={"meta": "_meta"}):
    meta: _Meta | None = None


class _WithMeta(Struct, gc=False):
    params: _MetaParams | None = None


class _TextParams(Struct, gc=False, rename="camel"):
    uri: Any = None
    level: Any = None
    protocol_version: Any = None


class _WithText(Struct, gc=False):
    params: _TextParams | None = None


class InitializeParams(Struct):
    """What a client proposed."""

    protocol_version: str | None


class InitializeResult(Struct):
    """What a server promised; the rest of its answer is the client's affair."""

    protocol_version: str
    tools_list_changed: bool
    prompts_list_changed: bool
    resources_list_changed: bool
    resources_subscribe: bool
    logging: bool
    server_name: str
    server_version: str


class _ResultFields(Struct, gc=False, rename="camel"):
    protocol_version: str
    capabilities: Any = None
    server_info: Any = None


class _WithResult(Struct, gc=False):
    result: _ResultFields


_decode_cancelled: Final = msgspec.json.Decoder(_Cancelled).decode
_decode_progress: Final = msgspec.json.Decoder(_Progress).decode
_decode_with_meta: Final = msgspec.json.Decoder(_WithMeta).decode
_decode_with_text: Final = msgspec.json.Decoder(_WithText).decode
_decode_with_result: Final = msgspec.json.Decoder(_WithResult).decode


def _as_id(value: object) -> RequestId | None:
    return value if type(value) is str or type(value) is int else None


def _as_text(value: object) -> str | None:
    return value if type(value) is str else None


def cancelled_id(body: bytes) -> RequestId | None:
    """Read which request a `notifications/cancelled` means (params.requestId)."""
    try:
        params = _decode_cancelled(body).params
    except _UNREADABLE:
        return None
    return None if params is None else _as_id(params.request_id)


def progress_of(body: bytes) -> tuple[RequestId, float] | None:
    """Read token and value of a `notifications/progress`; None for every other message."""
    try:
        message = _decode_progress(body)
    except _UNREADABLE:
        return None
    token = message.params.progress_token
    if message.method != "notifications/progress" or type(token) is float:
        return None
    return token, message.params.progress  # type: ignore[return-value]


def _meta(body: bytes) -> _Meta | None:
    # No look for the name before the decode: finding that it is absent takes as long as the decode.
    try:
        params = _decode_with_meta(body).params
    except _UNREADABLE:
        return None
    return None if params is None else params.meta


def progress_token_of(body: bytes) -> RequestId | None:
    """Read the token a request wants its progress under (params._meta.progressToken)."""
    meta = _meta(body)
    return None if meta is None else _as_id(meta.token)


def meta_protocol_version(body: bytes) -> str | None:
    """Read the version a modern request names in its own metadata."""
    meta = _meta(body)
    return None if meta is None else _as_text(meta.version)


def _text_params(body: bytes) -> _TextParams | None:
    try:
        return _decode_with_text(body).params
    except _UNREADABLE:
        return None


def resource_uri(body: bytes) -> str | None:
    """Read params.uri of a resource request or of `notifications/resources/updated`."""
    params = _text_params(body)
    return None if params is None else _as_text(params.uri)


def log_level(body: bytes) -> str | None:
    """Read params.level of `logging/setLevel`."""
    params = _text_params(body)
    return None if params is None else _as_text(params.level)


def initialize_params(body: bytes) -> InitializeParams:
    """Read what an `initialize` request proposes."""
    params = _text_params(body)
    return InitializeParams(None if params is None else _as_text(params.protocol_version))


def initialize_result(body: bytes) -> InitializeResult | None:
    """Read the promises of the answer to `initialize`; None when it is no result with a protocol version."""
    try:
        result = _decode_with_result(body).result
    except _UNREADABLE:
        return None
    capabilities = _as_object(result.capabilities)
    resources = _as_object(capabilities.get("resources"))
    server = _as_object(result.server_info)
    return InitializeResult(
        protocol_version=result.protocol_version,
        tools_list_changed=_as_object(capabilities.get("tools")).get("listChanged") is True,
        prompts_list_changed=_as_object(capabilities.get("prompts")).get("listChanged") is True,
        resources_list_changed=resources.get("listChanged") is True,
        resources_subscribe=resources.get("subscribe") is True,
        logging=isinstance(capabilities.get("logging"), dict),
        server_name=_as_text(server.get("name")) or "",
        server_version=_as_text(server.get("version")) or "",
    )


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def replace_id(body: bytes, new_id: RequestId) -> bytes:
    """Put another id in the place of the top-level one; a body without an id is returned as it is."""
    return _splice(body, ("id",), new_id)


def replace_cancelled_id(body: bytes, new_id: RequestId) -> bytes:
    """Put another id in the place of params.requestId; a body without one is returned as it is."""
    return _splice(body, ("params", "requestId"), new_id)


def replace_protocol_version(body: bytes, version: str) -> bytes:
    """Put another version in the place of params.protocolVersion; the same object when it is that already."""
    if initialize_params(body).protocol_version == version:
        return body
    return _splice(body, ("params", "protocolVersion"), version)


def _splice(body: bytes, path: tuple[str, ...], value: RequestId) -> bytes:
    start, end = 0, len(body)
    for name in path:
        span = _member_span(body, start, end, name)
        if span is None:
            return body
        start, end = span
    return b"".join((body[:start], _encode(value), body[end:]))


# The patterns below take what is valid JSON; they check nothing, because the decoder has read the object
# before. Possessive quantifiers (*+) keep each of them linear.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NEXT_NAME: Final = re.compile(
    rb"[ \t\n\r]*+[{,][ \t\n\r]*+(" + _STRING + rb")[ \t\n\r]*+:[ \t\n\r]*+", re.DOTALL
).match
_SCALAR: Final = re.compile(_STRING + rb"|[^\s,}]++", re.DOTALL).match
_OPENING: Final = (b"{", b"[")
_CLOSING: Final = (b"}", b"]")
_NESTING: Final = re.compile(_STRING + rb"|[{\[\]}]", re.DOTALL).finditer


def _member_span(body: bytes, start: int, end: int, name: str) -> tuple[int, int] | None:
    """Find where the value of `name` begins and ends; of equal names the last counts, as in parsers."""
    try:
        members = _decode_members(body[start:end])
    except _UNREADABLE:
        return None
    found = None
    while (match := _NEXT_NAME(body, start)) is not None:
        key = _decode_text(match[1])
        start = match.end()
        if body[start] in b"{[":
            # The decoder knows the length of the last value of each name; walking over the tokens of a
            # large one takes fifty times as long. No JSON object or array is the beginning of another.
            # Compared as a view: copied out, a large value would be copied for every repetition of its name.
            value = members[key]
            stop = start + len(value) if body.startswith(value, start) else _nested_end(body, start)
        else:
            scalar = _SCALAR(body, start)
            assert scalar is not None
            stop = scalar.end()
        if key == name:
            found = (start, stop)
        start = stop
    return found


def _nested_end(body: bytes, start: int) -> int:
    depth = 0
    tokens = _NESTING(body, start)
    while True:
        token = next(tokens)
        mark = token[0]
        depth += (mark in _OPENING) - (mark in _CLOSING)
        if depth == 0:
            return token.end()
