"""Tell from its first bytes that a message is a response, and from its last ones that it was (semantics 28).

For messages that are passed on before their end is there. Owns what is certain and what is only likely; must not know
of frames. Invariants: what is unsure is refused, nothing raises, and the work is bounded however large the message is.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.ids import RequestId
from proxy.core.jsonrpc import Envelope, Kind

SHOWN_BYTES: Final = 1024
"""How much of the beginning is looked at. Servers write id and result among the first members."""
TAIL_BYTES: Final = 256
"""How much of the end is looked at: room for an id, where servers write it last."""

_SPACE: Final = rb"[ \t\n\r]*+"
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR: Final = rb"(?:" + _STRING + rb"|-?+[0-9][0-9.eE+-]*+|true|false|null)"
_MEMBER: Final = _SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE
_opening: Final = re.compile(_SPACE + rb"\{").match
_name: Final = re.compile(_MEMBER, re.DOTALL).match
_scalar: Final = re.compile(rb"(" + _SCALAR + rb")" + _SPACE + rb"(?=[,}])", re.DOTALL).match
_next: Final = re.compile(_SPACE + rb",").match
# A quote that begins no whole string is a token too: what stands behind it is not to be taken for structure.
_tokens: Final = re.compile(_STRING + rb'|["{}\[\]]', re.DOTALL).finditer
_scalar_members: Final = re.compile(_SPACE + rb"," + _MEMBER + rb"(" + _SCALAR + rb")", re.DOTALL).finditer
# The end of an object, scalar members, the end of the message. Aligned although it is searched for from anywhere: begun
# inside a string it would meet an odd number of quotes. At the top level, because no bracket stands between the two.
_trailer: Final = re.compile(
    rb"\}((?:" + _SPACE + rb"," + _MEMBER + _SCALAR + rb")*+)" + _SPACE + rb"\}" + _SPACE + rb"\Z", re.DOTALL
).search
_OPENING: Final = (b"{", b"[")
_ID: Final = b'"id"'
_METHOD: Final = b'"method"'
_RESULT: Final = b'"result"'
_ERROR: Final = b'"error"'
_ROUTING: Final = frozenset({_ID, _METHOD, _RESULT, _ERROR})
_decode_id: Final = msgspec.json.Decoder(int | float | str).decode


@mypyc_attr(native_class=False)
class ResponseBeginning(msgspec.Struct, frozen=True, gc=False):
    """What the beginning of a message tells: its result or error is an object that goes on beyond what was shown."""

    id: RequestId | None
    """None when it is not named yet: one official SDK writes the result first and the id last."""
    is_error: bool


def begins_response(text: bytes) -> ResponseBeginning | None:
    """Tell whether a message that begins with *text* is a response; None when it is none or that is unsure.

    Certain is: whatever valid JSON *text* becomes, `classify` tells a response with this id and this `is_error`, unless
    a further top-level member contradicts: another `id`, a `method`, an `error`. `ends_response` looks for such. Where
    the id is None it is likely and no more: the message is a response if it names an id and no method later on.
    """
    text = text[:SHOWN_BYTES]
    opening = _opening(text)
    at = -1 if opening is None else opening.end()
    request_id: RequestId | None = None
    is_error = False
    while at >= 0:
        name = _name(text, at)
        # An escape in a name could spell any of the names below.
        if name is None or b"\\" in name[1] or name[1] == _METHOD:
            return None
        key, at = name[1], name.end()
        stop = _value_end(text, at)
        if stop < 0:
            # In MCP both are objects; the end of anything else could not be told by its last byte.
            if key not in (_RESULT, _ERROR) or text[at : at + 1] != b"{":
                return None
            return ResponseBeginning(request_id, is_error or key == _ERROR)
        if key == _ID:
            request_id = _as_id(text[at:stop])
            if request_id is None:
                return None
        elif key == _ERROR:
            is_error = text[at:stop] != b"null"
        following = _next(text, stop)
        at = -1 if following is None else following.end()
    return None


def ends_response(beginning: ResponseBeginning, parts: Sequence[bytes]) -> Envelope | None:
    """Tell the envelope of a whole message, given in parts, that began as *beginning*; None when its end is unclear.

    On None `classify` must be asked. Not proven is what lies between the bytes that were looked at: that it is JSON,
    and that no contradicting member stands there, hidden by a further member whose value is an object: a long one, or
    any where it is an `id` that contradicts.
    """
    tail = _last_bytes(parts)
    # Also where they do not stand at the top level: to ask for the whole is no error, only dear.
    if _METHOD in tail or _ERROR in tail:
        return None
    trailer = _trailer(tail)
    if trailer is None:
        return None
    request_id = beginning.id
    for member in _scalar_members(trailer[1]):
        if b"\\" in member[1]:
            return None
        if member[1] not in _ROUTING:
            continue
        if member[1] != _ID or request_id is not None:
            return None
        request_id = _as_id(member[2])
        if request_id is None:
            return None
    if request_id is None:
        return None
    return Envelope(Kind.RESPONSE, request_id, None, beginning.is_error)


def _as_id(value: bytes) -> RequestId | None:
    try:
        request_id = _decode_id(value)
    except ValueError:
        return None
    # float stands among the types to be recognised: left out, the decoder would read 1.0 as the integer 1.
    return None if isinstance(request_id, float) else request_id


def _value_end(text: bytes, start: int) -> int:
    """Return where the value at *start* ends; -1 when its end is not there."""
    if text[start : start + 1] not in _OPENING:
        scalar = _scalar(text, start)
        return -1 if scalar is None else scalar.end(1)
    depth = 0
    for token in _tokens(text, start):
        mark = token[0]
        if mark == b'"':
            return -1
        if len(mark) == 1:
            depth += 1 if mark in _OPENING else -1
            if not depth:
                return token.end()
    return -1


def _last_bytes(parts: Sequence[bytes]) -> bytes:
    tail = b""
    for part in reversed(parts):
        tail = part[-(TAIL_BYTES - len(tail)) :] + tail
        if len(tail) == TAIL_BYTES:
            break
    return tail
