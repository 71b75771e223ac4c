"""Own the text of addresses, URLs, hosts, origins and headers as people write them: parse, or say what is wrong.

Knows neither settings nor sockets, and resolves no names. A `*_problem` function returns what was expected
and what was given, empty when nothing is wrong. Invariant: no such text shows a password, a query, a token or the
value of a header.
"""

import ipaddress
import json
import re
from urllib.parse import urlsplit

_SHOWN_CHARACTERS = 80
_DESCRIPTOR = re.compile(r"fd:([0-9]{1,9})")
_NOT_SETTABLE = frozenset(
    {
        # Of the connection (RFC 9110, 7.6.1): they would change how the message is framed, or not arrive.
        *("connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect"),
        # Written by the proxy for each message: a fixed value would be another session's, or another body's.
        *("accept", "accept-encoding", "content-encoding", "content-type", "host", "last-event-id"),
        *("mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id"),
    }
)


def shown(value: object) -> str:
    """Return `value` as a person would write it in TOML, shortened; for messages."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def parse_address(text: str) -> tuple[str, int]:
    """Split `host:port` or `[ipv6]:port`; port 0 lets the system choose.

    Raises:
        ValueError: says what is expected and what was given.

    """
    match = re.fullmatch(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^\[\]:]+)):(?P<port>[0-9]{1,5})", text)
    if match is None:
        raise ValueError(f"expected host:port, an IPv6 host in brackets ([::1]:8080), got {shown(text)}")
    host, port = match["v6"] or match["name"], int(match["port"])
    if not (_is_ipv6(host) if match["v6"] else _is_name_or_ipv4(host)):
        raise ValueError(f"expected a host name or an IP address before the port, got {shown(host)}")
    if port > 65535:
        raise ValueError(f"expected a port from 0 to 65535, got {port}")
    return host, port


def parse_descriptor(text: str) -> int | None:
    """Return N of `fd:N`, None for an address; a host called `fd` is written `fd.` to be told from it."""
    match = _DESCRIPTOR.fullmatch(text)
    return None if match is None else int(match[1])


def listen_problem(text: str) -> str:
    """Judge what to listen on: an address, or an inherited descriptor."""
    if text.startswith("fd:"):
        fits = _DESCRIPTOR.fullmatch(text)
        return "" if fits else f"expected fd:N with the number of an inherited descriptor, got {shown(text)}"
    return address_problem(text)


def address_problem(text: str) -> str:
    """Judge a host with a port."""
    try:
        parse_address(text)
    except ValueError as error:
        return str(error)
    return ""


def path_problem(text: str) -> str:
    """Judge the path of an endpoint.

    It is compared byte by byte, and clients resolve dot segments: an escape or `..` would never match.
    """
    fits = re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*", text) and not {".", ".."} & set(text.split("/"))
    return "" if fits else f"expected a path such as /mcp, no query, escapes or dot segments, got {shown(text)}"


def url_problem(text: str) -> str:
    """Judge the URL of an upstream endpoint."""
    given = shown(_without_secrets(text))
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return f"expected an http:// or https:// URL, got {given}"
    if "@" in parts.netloc:
        return f"expected a URL without user and password (let clients send a header instead), got {given}"
    if parts.scheme not in {"http", "https"} or not host:
        return f"expected an http:// or https:// URL with a host, got {given}"
    if "?" in text or "#" in text:
        return f"expected a URL without query and fragment, got {given}"
    # Spaces, controls and other letters would end up in a request line; urlsplit drops some in silence.
    if re.fullmatch(r"[!-~]+", text) is None or not (_is_ipv6(host) or _is_name_or_ipv4(host)):
        return f"expected a URL of visible ASCII characters (xn-- host names, %-escapes), got {given}"
    if port == 0:
        return f"expected a URL with a port from 1 to 65535, got {given}"
    return ""


def host_problem(text: str) -> str:
    """Judge a value accepted in `Host`: a name or an address (IPv6 in brackets), with or without port."""
    if not (address_problem(text) and address_problem(f"{text}:80")):
        return ""
    return f"expected hosts as in a Host header (name or name:port), got {shown(text)}"


def host_name_problem(text: str) -> str:
    """Judge the name of a host, or its address (IPv6 in brackets), without port; "" stands for any."""
    if not text or not address_problem(f"{text}:80"):
        return ""
    return f"expected a host name or an IP address without port, got {shown(text)}"


def header_problem(name: str, value: str) -> str:
    """Judge a header that is sent with every request to an upstream; the value is never shown."""
    if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is None:  # a token (RFC 9110, 5.6.2)
        return f"expected a header name, got {shown(name)}"
    if name.lower() in _NOT_SETTABLE:
        return "expected another header: the proxy writes this one for each message, or it is of the connection"
    # No CR, LF and NUL, which would start another header (RFC 9110, 5.5), no blanks at the ends, which get lost.
    fits = re.fullmatch(r"(?:[!-~](?:[ \t!-~]*[!-~])?)?", value)
    return "" if fits else "expected a header value of visible ASCII characters, blanks only between them"


def label_problem(name: str, value: str) -> str:
    """Judge a label: shown on one line of a table, beside others."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}", name) is None:
        return f"expected a label of up to 64 letters, digits and . _ / -, got {shown(name)}"
    fits = len(value) <= 256 and value.isprintable()
    return "" if fits else f"expected up to 256 printable characters, got {shown(value)}"


def token_problem(text: str) -> str:
    """Judge a bearer token, which is never shown; "" stands for none."""
    fits = re.fullmatch(r"[A-Za-z0-9._~+/-]*=*", text)  # as a client can send it (RFC 6750, 2.1)
    return "" if fits else "expected a token of letters, digits and - . _ ~ + /, perhaps = at its end"


def tool_problem(text: str) -> str:
    """Judge the name of a tool, in which `*` may stand for any text."""
    fits = 0 < len(text) <= 256 and text.isprintable()
    return "" if fits else f"expected the name of a tool, or a part of it with *, got {shown(text)}"


def origin_problem(text: str) -> str:
    """Judge a value accepted in `Origin`: a scheme (editors have their own), a host, perhaps a port."""
    scheme, _, host = text.partition("://")
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) and not host_problem(host):
        return ""
    return f"expected origins as scheme://host or scheme://host:port, got {shown(text)}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_name_or_ipv4(host: str) -> bool:
    """Refuse `127.1` and `0` too: the system reads them as addresses, `is_loopback` would not."""
    if re.fullmatch(r"[0-9.]+", host) is None:
        return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", host) is not None
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _without_secrets(url: str) -> str:
    """Cut what may hold credentials: query, fragment and all before the last `@`."""
    plain = re.split(r"[?#]", url, maxsplit=1)
    before, at, after = plain[0].rpartition("@")
    return ("***@" if before else at) + after + ("?***" if len(plain) > 1 else "")
