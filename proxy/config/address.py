"""Own the text of addresses, URLs, hosts and origins as a person writes them: parse, or say what is wrong.

Knows neither settings nor sockets, and resolves no names. A `*_problem` function returns what was expected
and what was given, empty when nothing is wrong. Invariant: no such text shows a password or a query.
"""

import ipaddress
import json
import re
from urllib.parse import urlsplit

_SHOWN_CHARACTERS = 80
_DESCRIPTOR = re.compile(r"fd:([0-9]{1,9})")


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
