"""Socket options that make a silent peer's death visible.

Owns the numbers for keep-alive and unacknowledged data, on both sides of the proxy. Without them a peer that
vanished without FIN or RST stays "connected" for ever: aiohttp's client sockets have keep-alive off.
"""

import socket
from typing import Any

KEEPALIVE_IDLE_SECONDS = 30
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_PROBES = 3
OUTGOING_PEER_TIMEOUT_SECONDS = KEEPALIVE_IDLE_SECONDS + KEEPALIVE_INTERVAL_SECONDS * KEEPALIVE_PROBES
"""As long as the probes of an idle connection take."""


def watch_peer(sock: socket.socket, timeout_seconds: float) -> None:
    """Let the kernel end the connection when the peer acknowledges nothing for *timeout_seconds*."""
    # What uvloop shows of a socket makes a real one for every option: made once here, and let go unclosed.
    own = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Written but unacknowledged data (a heartbeat, a call) is given up after this, in milliseconds (RFC 5482).
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_seconds * 1000))
    finally:
        own.detach()


def connect_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket for an outgoing connection; called by aiohttp with an `getaddrinfo` row."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    watch_peer(sock, OUTGOING_PEER_TIMEOUT_SECONDS)
    return sock
