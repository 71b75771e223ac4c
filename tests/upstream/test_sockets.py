"""The socket options that make a silent peer's death visible, read back from the kernel."""

import socket

import pytest

from proxy.upstream.sockets import (
    KEEPALIVE_IDLE_SECONDS,
    KEEPALIVE_INTERVAL_SECONDS,
    KEEPALIVE_PROBES,
    OUTGOING_PEER_TIMEOUT_SECONDS,
    connect_socket,
    watch_peer,
)

OPTIONAL = ("TCP_KEEPIDLE", "TCP_USER_TIMEOUT")


def option(sock: socket.socket, name: str) -> int:
    """Read an option of TCP."""
    return sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


@pytest.mark.skipif(not all(hasattr(socket, name) for name in OPTIONAL), reason="the platform has none of them")
def test_the_kernel_probes_and_gives_up() -> None:
    """Probes after 30 s of silence, and unacknowledged bytes are given up after the given time, in milliseconds."""
    with socket.socket() as sock:
        watch_peer(sock, 1.5)

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert option(sock, "TCP_KEEPIDLE") == KEEPALIVE_IDLE_SECONDS
        assert option(sock, "TCP_KEEPINTVL") == KEEPALIVE_INTERVAL_SECONDS
        assert option(sock, "TCP_KEEPCNT") == KEEPALIVE_PROBES
        assert option(sock, "TCP_USER_TIMEOUT") == 1500


@pytest.mark.parametrize("missing", OPTIONAL)
def test_a_platform_without_an_option_uses_the_others(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep-alive itself is everywhere."""
    present = [name for name in OPTIONAL if name != missing and hasattr(socket, name)]
    with socket.socket() as sock:
        before = option(sock, missing) if hasattr(socket, missing) else None
        monkeypatch.delattr(socket, missing, raising=False)
        watch_peer(sock, 1.5)
        monkeypatch.undo()

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert before is None or option(sock, missing) == before
        for name in present:
            assert option(sock, name) in (1500, KEEPALIVE_IDLE_SECONDS)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_outgoing_socket_is_watched_and_never_blocks(family: socket.AddressFamily) -> None:
    """It is of the family that the address has, and is given up when an idle one would be."""
    address = (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("host", 1))
    with connect_socket(address) as sock:
        assert sock.family is family
        assert sock.getblocking() is False
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert option(sock, "TCP_USER_TIMEOUT") == OUTGOING_PEER_TIMEOUT_SECONDS * 1000
