"""Which headers cross the proxy, and the rules on `Accept`, `Origin` and `Host`.

Headers are pairs in wire order with their letter case kept; every look-up ignores the case of names. Must
not know of sessions or of the HTTP library. Nothing here raises: a header that cannot be read counts as one
that does not match.
"""

import contextlib
import ipaddress
import re
from collections.abc import Collection, Iterable
from enum import Enum
from functools import lru_cache
from typing import Final, TypeAlias

from mypy_extensions import mypyc_attr

Headers: TypeAlias = list[tuple[str, str]]


class Body(Enum):
    """What an answer's head says of its body."""

    PLAIN = "plain"
    STREAM = "stream"
    """Server-sent events."""
    UNREADABLE = "unreadable"
    """Server-sent events in a content coding."""


@mypyc_attr(native_class=False)
class Block(list[tuple[str, str]]):
    """Headers that many messages share: made once, never changed, with room for what is worked out of them.

    A list like any other to whoever only reads it. Clients and servers repeat their heads byte for byte, so the
    edges hand the same block in and get the same block out, and nothing about it is found out twice.
    """

    __slots__ = ("body", "is_of_session", "onward", "own", "rendered", "streamed")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(pairs)
        self.rendered: object = None
        """What the one edge that sends it has made of it."""
        self.onward: Block | None = None
        """What of an answer goes on to the client, once chosen."""
        self.streamed: Block | None = None
        """The same as the head of an event stream of the proxy's own, once made."""
        self.own: dict[tuple[str | None, bool], Block] | None = None
        """What goes with the proxy's own requests, by protocol version and whether it is a GET, once chosen."""
        self.is_of_session: bool | None = None
        """Whether it carries a session id, once asked."""
        self.body: Body | None = None
        """What kind of body it announces, once asked."""

    def of_session(self, session_id: str) -> "Block":
        """Return the same with a session id behind: all else is written once for all sessions."""
        block = Block([*self, (SESSION_ID, session_id)])
        known = self.rendered
        if known is None:
            # What cannot be written is refused by the edge, when it is to be sent.
            with contextlib.suppress(ValueError):
                known = self.rendered = render(self)
        if type(known) is bytes:
            block.rendered = b"%b%b: %b\r\n" % (known, SESSION_ID.encode(), session_id.encode())
        return block


SESSION_ID: Final = "Mcp-Session-Id"
PROTOCOL_VERSION: Final = "MCP-Protocol-Version"
LAST_EVENT_ID: Final = "Last-Event-ID"
METHOD: Final = "Mcp-Method"
NAME: Final = "Mcp-Name"
REQUEST_ID: Final = "X-Request-Id"
"""Not of the protocol: it follows one request through everybody's logs."""

SINGLE_VALUE: Final = (SESSION_ID, PROTOCOL_VERSION, LAST_EVENT_ID, "Content-Type", "Origin", "Host")
"""Headers that mean one thing or nothing: between two different values there is no right choice."""
_SINGLE_VALUE: Final = frozenset(name.lower() for name in SINGLE_VALUE)

# RFC 9110, 7.6.1, and what older HTTP listed beside it.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Written anew on each side: framing belongs to the connection, session ids and cursors to the side that
# minted them, and the codings to whoever has to read the bytes.
_REQUEST_OWN: Final = _HOP_BY_HOP | {
    "accept-encoding",
    "content-length",
    "expect",
    "host",
    "last-event-id",
    "mcp-session-id",
}
# Date and Server stay: they are the origin's, and the listener adds its own only where they are missing.
_RESPONSE_OWN: Final = _HOP_BY_HOP | {"content-length", "mcp-session-id"}
_FORWARDED: Final = frozenset({"forwarded", "x-real-ip"})
_FORWARDED_PREFIX: Final = "x-forwarded-"
_LINE_END: Final = re.compile(r"[\r\n\0]").search
_LINE_ENDS: Final = re.compile(r"[\r\n\0]+[ \t]*").sub
_PLAIN_CONNECTION: Final = frozenset({"keep-alive", "close"})


def get(headers: Headers, name: str) -> str | None:
    """Return the first value of `name`."""
    wanted = name.lower()
    length = len(wanted)
    for key, value in headers:
        # The length tells most names apart at a third of the price of lower().
        if len(key) == length and key.lower() == wanted:
            return value
    return None


def render(headers: Headers) -> bytes:
    """Return the field lines, each with its line end (RFC 9112, 5).

    Raises:
        ValueError: a name or value holds a line end or NUL, and would say more than one thing.
    """
    # Headers were decoded this way; surrogates stand for bytes that are not UTF-8.
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("utf-8", "surrogateescape")
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        raise ValueError("a header value holds a line end or NUL")
    return lines


def get_all(headers: Headers, name: str) -> list[str]:
    """Return all values of `name` in wire order."""
    wanted = name.lower()
    return [value for key, value in headers if key.lower() == wanted]


def duplicated_headers(headers: Headers, names: Collection[str] = SINGLE_VALUE) -> list[str]:
    """Tell which of `names` occur more than once with different values, in the order of `names`."""
    wanted = _SINGLE_VALUE if names is SINGLE_VALUE else {name.lower() for name in names}
    seen: dict[str, str] = {}
    duplicated = set()
    for key, value in headers:
        name = key.lower()
        if name in wanted and seen.setdefault(name, value) != value:
            duplicated.add(name)
    return [name for name in names if name.lower() in duplicated] if duplicated else []


def forward_request(headers: Headers, *, trust_forwarded: bool = False) -> Headers:
    """Choose what of a client's request goes upstream.

    `X-Forwarded-*` and its kin are dropped unless trusted: a client could otherwise claim any origin.
    """
    kept = []
    connection = None
    for header in headers:
        name = header[0].lower()
        if name in _REQUEST_OWN:
            if name == "connection":
                connection = _options(connection, header[1])
        elif trust_forwarded or (name[:12] != _FORWARDED_PREFIX and name not in _FORWARDED):
            kept.append(header)
    return _without(kept, connection)


def forward_response(headers: Headers) -> Headers:
    """Choose what of an upstream's response goes to the client."""
    if type(headers) is not Block:
        return _forward_response(headers)
    if headers.onward is None:
        headers.onward = Block(_forward_response(headers))
    return headers.onward


def names_session(headers: Headers) -> bool:
    """Tell whether a head carries a session id."""
    if type(headers) is not Block:
        return get(headers, SESSION_ID) is not None
    if headers.is_of_session is None:
        headers.is_of_session = get(headers, SESSION_ID) is not None
    return headers.is_of_session


def _forward_response(headers: Headers) -> Headers:
    kept = []
    connection = None
    for header in headers:
        name = header[0].lower()
        if name not in _RESPONSE_OWN:
            # A folded value may reach us with its line ends: "one or more SP" in their place (RFC 9112, 5.2). As it
            # is, it could not be sent on, and its client would wait for ever.
            kept.append(header if _LINE_END(header[1]) is None else (header[0], _LINE_ENDS(" ", header[1])))
        elif name == "connection":
            connection = _options(connection, header[1])
    return _without(kept, connection)


def _options(before: set[str] | None, value: str) -> set[str] | None:
    """Collect the names that `Connection` declares to be about this connection only."""
    text = value.lower()
    if text in _PLAIN_CONNECTION:
        return before
    return (before or set()) | {option.strip(" \t") for option in text.split(",")}


def _without(headers: Headers, names: set[str] | None) -> Headers:
    # "Intermediaries MUST parse a received Connection header field ... and remove any header or trailer
    # field(s) from the message with the same name as the connection-option" (RFC 9110, 7.6.1)
    return headers if names is None else [header for header in headers if header[0].lower() not in names]


_SDK_ACCEPTS: Final = frozenset({"application/json, text/event-stream", "text/event-stream", "*/*"})
_EVENT_STREAM_RANGES: Final = ("*/*", "text/*", "text/event-stream")


def accepts_sse(headers: Headers) -> bool:
    """Tell whether the client takes an event stream; the most specific range decides, q=0 refuses."""
    best, wanted = -1, False
    for name, accept in headers:
        if len(name) != len("accept") or name.lower() != "accept":
            continue
        if accept in _SDK_ACCEPTS:
            return True
        for media_range in accept.lower().split(","):
            wide, *parameters = (part.strip(" \t") for part in media_range.split(";"))
            if wide in _EVENT_STREAM_RANGES and _EVENT_STREAM_RANGES.index(wide) > best:
                best = _EVENT_STREAM_RANGES.index(wide)
                wanted = not any(_is_refusal(parameter) for parameter in parameters)
    return wanted


def _is_refusal(parameter: str) -> bool:
    return parameter.startswith("q=") and parameter[2:].strip("0") in {"", "."}


def body_of(headers: Headers) -> Body:
    """Tell what kind of body an answer's head announces."""
    if type(headers) is not Block:
        return _body_of(headers)
    if headers.body is None:
        headers.body = _body_of(headers)
    return headers.body


def _body_of(headers: Headers) -> Body:
    if not is_sse(get(headers, "Content-Type")):
        return Body.PLAIN
    return Body.UNREADABLE if is_encoded(headers) else Body.STREAM


def is_encoded(headers: Headers) -> bool:
    """Tell whether a body is in a content coding: the proxy asks for none and reads none."""
    return (get(headers, "Content-Encoding") or "identity") != "identity"


def is_json(content_type: str | None) -> bool:
    """Tell whether a Content-Type is JSON."""
    return content_type is not None and _media_type(content_type) == "application/json"


def is_sse(content_type: str | None) -> bool:
    """Tell whether a Content-Type is an event stream."""
    return content_type is not None and _media_type(content_type) == "text/event-stream"


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip(" \t").lower()


_LOOPBACK: Final = r"(?:localhost|127(?:\.(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}|\[::1\])"
_LOOPBACK_HOST: Final = re.compile(_LOOPBACK + r"(?::[0-9]*)?", re.IGNORECASE | re.ASCII)
_LOOPBACK_ORIGIN: Final = re.compile(r"https?://" + _LOOPBACK + r"(?::[0-9]*)?", re.IGNORECASE | re.ASCII)
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(?::[0-9]*)?", re.ASCII)
_WEB_ORIGIN: Final = re.compile(r"https?://(.+)")


@lru_cache(maxsize=16)
def is_loopback(listen_host: str) -> bool:
    """Tell whether a listening address, brackets allowed, is reachable from this machine alone.

    Of names only `localhost` counts: what another resolves to can change after the check. Remembered,
    because it is asked on every request and always about the same address.
    """
    bare = listen_host.removeprefix("[").removesuffix("]")
    if bare.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    # Before Python 3.13 a mapped address (::ffff:127.0.0.1) does not answer for the one inside.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def host_name(host: str | None) -> str:
    """Return the name in a `Host` header, without port and in lower case; "" where it is missing."""
    if host is None:
        return ""
    name = host.lower()
    # A bracketed IPv6 address holds colons of its own (RFC 3986, 3.2.2).
    return name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]


def host_allowed(host: str | None, listen_host: str, allowed: Collection[str]) -> bool:
    """Check the `Host` header: a page must not reach a loopback server under a name of its own (rebinding).

    Args:
        host: The header, None when it is missing.
        listen_host: The address the proxy listens on, without port.
        allowed: Configured hosts, each as `name` (any port) or `name:port`.
    """
    if is_loopback(listen_host):
        if host is None:
            return False
        return _LOOPBACK_HOST.fullmatch(host) is not None or _is_listed(host, allowed)
    return not allowed or (host is not None and _is_listed(host, allowed))


def origin_allowed(origin: str | None, listen_host: str, allowed: Collection[str], host: str | None) -> bool:
    """Check the `Origin` header: "servers MUST validate the Origin header on all incoming connections".

    Args:
        origin: The header; None is fine, only browsers send it.
        listen_host: The address the proxy listens on, without port.
        allowed: Configured origins, each as `scheme://name:port`, `name` or `name:port`.
        host: The request's `Host`; off the loopback interface its own pages may ask.
    """
    if origin is None:
        return True
    text = origin.lower()
    if any(text == entry.lower() for entry in allowed):
        return True
    web = _WEB_ORIGIN.fullmatch(text)
    if web is None:
        return False
    if _is_listed(web[1], allowed):
        return True
    if is_loopback(listen_host):
        return _LOOPBACK_ORIGIN.fullmatch(text) is not None
    name = _host_name(web[1])
    return name is not None and host is not None and name == _host_name(host.lower())


def _host_name(authority: str) -> str | None:
    match = _HOST.fullmatch(authority)
    return None if match is None else match[1]


def _is_listed(authority: str, allowed: Collection[str]) -> bool:
    if not allowed:
        return False
    text = authority.lower()
    entries = {entry.lower() for entry in allowed}
    return text in entries or _host_name(text) in entries
