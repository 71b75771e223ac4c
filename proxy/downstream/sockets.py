"""Where the listening socket comes from: bound here, inherited as a descriptor, or handed over by systemd.

Owns the choice, and the judgement of a socket that somebody else made. Knows nothing of what is served on it.
Invariants: what leaves here is a bound IPv4 or IPv6 stream socket that no child inherits, and whoever can reach it is
allowed to; a socket from outside is never shut down, because its other holders go on accepting from the same queue.
"""

import contextlib
import errno
import os
import re
import socket
from collections.abc import MutableMapping
from dataclasses import replace

from proxy.config import Listen, exposure_problem
from proxy.errors import ConfigError

FIRST_ACTIVATED = 3
"""The first descriptor that systemd hands over (SD_LISTEN_FDS_START)."""
ACTIVATION = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")
_EXPECTED = "expected a bound IPv4 or IPv6 stream socket"


def listening_socket(listen: Listen, environ: MutableMapping[str, str]) -> tuple[socket.socket, Listen]:
    """Return the socket to serve, and the settings with the address it is really bound to.

    `fd:N` names one; else a socket that systemd hands over takes the place of the address. systemd's variables leave
    `environ` in any case: they speak of this process alone.

    Raises:
        ConfigError: there is no such socket, it cannot be served, or it lets in whom nobody allowed.
    """
    activated = _activated(environ)
    if listen.descriptor is not None:
        return _take(listen.descriptor, listen, source="")
    if not activated:
        return bind(listen), listen
    if len(activated) > 1:
        raise ConfigError(
            f"expected one socket from systemd, got {len(activated)} ({', '.join(activated.values())}): give this "
            'service a socket unit with one ListenStream, or choose with listen.address = "fd:N"',
            key="listen.address",
            source="LISTEN_FDS",
        )
    (number,) = activated
    return _take(number, listen, source="LISTEN_FDS")


def bind(listen: Listen) -> socket.socket:
    """Return a socket bound to the configured address.

    Raises:
        ConfigError: the address cannot be had.
    """
    sock: socket.socket | None = None
    try:
        rows = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = rows[0]
        # With its protocol: asyncio turns Nagle's delay off only on a socket that says it is TCP.
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        problem = f"cannot listen on {listen.address}: {error.strerror or error}"
        raise ConfigError(problem, key="listen.address") from error
    return sock


def _activated(environ: MutableMapping[str, str]) -> dict[int, str]:
    """Take systemd's variables out of the environment; return the descriptors that are for us, with their names.

    The protocol is sd_listen_fds(3)'s. Variables for another process were inherited from one that forgot to unset them.
    """
    pid, _, count, names = (environ.pop(name, "") for name in ACTIVATION)
    if pid != str(os.getpid()):
        return {}
    if not re.fullmatch(r"[0-9]{1,4}", count):
        problem = f"expected the number of sockets that systemd hands over, got {count!r}"
        raise ConfigError(problem, key="listen.address", source="LISTEN_FDS")
    numbers = range(FIRST_ACTIVATED, FIRST_ACTIVATED + int(count))
    for number in numbers:
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
    named = names.split(":")
    return {
        number: f"fd:{number}{f' {named[at]}' if at < len(named) and named[at] else ''}"
        for at, number in enumerate(numbers)
    }


def _take(number: int, listen: Listen, source: str) -> tuple[socket.socket, Listen]:
    """Return the socket behind a descriptor, and the settings with its address in the place of the configured one."""
    taken = listen
    try:
        # It asks the kernel for family, type and protocol: what the object says of itself is what the socket is.
        sock = socket.socket(fileno=number)
    except OSError as error:
        got = {errno.EBADF: "no open descriptor", errno.ENOTSOCK: "something else"}.get(error.errno or 0, str(error))
        problem = f"{_EXPECTED}, got {got}"
    else:
        problem = _problem(sock)
        if not problem:
            taken = replace(listen, address=_address(sock))
            problem = exposure_problem(taken)
        if not problem:
            sock.set_inheritable(False)
            return sock, taken
        # Not closed: a number given by mistake may be stderr's, and this very problem is about to be told there.
        sock.detach()
    raise ConfigError(f"descriptor {number}: {problem}", key="listen.address", source=source)


def _problem(sock: socket.socket) -> str:
    """Say why a socket cannot be listened on; empty when it can."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        got = f"family {getattr(sock.family, 'name', sock.family)}"
    elif sock.type != socket.SOCK_STREAM:
        got = f"type {getattr(sock.type, 'name', sock.type)}"
    elif _is_connected(sock):
        got = "one that is connected (in a socket unit: Accept=no)"
    elif not sock.getsockname()[1]:
        # To listen on it would choose a port, on every interface.
        got = "one that is not bound"
    else:
        return ""
    return f"{_EXPECTED}, got {got}"


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _address(sock: socket.socket) -> str:
    """Write the address a socket is bound to as the configuration has it."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"
