"""The socket that is listened on: the one that is made here, and which of those from outside are taken."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Listen
from proxy.downstream.sockets import bind, listening_socket
from proxy.errors import ConfigError

EXPECTED = "expected a bound IPv4 or IPv6 stream socket, got "


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Hold every socket that is made, and close what nobody closed."""
    sockets: list[socket.socket] = []

    class Recorded(socket.socket):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            sockets.append(self)

    monkeypatch.setattr(socket, "socket", Recorded)
    yield sockets
    for sock in sockets:
        sock.close()


def bound(host: str = "127.0.0.1", *, backlog: int | None = 5) -> socket.socket:
    """Make a socket as another process would, listening unless *backlog* is None."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    if backlog is not None:
        sock.listen(backlog)
    return sock


def given(sock: socket.socket) -> int:
    """Return a descriptor of a socket as a child inherits it."""
    number = os.dup(sock.fileno())
    os.set_inheritable(number, True)
    return number


def is_open(number: int) -> bool:
    """Tell whether a descriptor is open."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def refused(address: str, environ: dict[str, str] | None = None, **settings: Any) -> ConfigError:
    """Return the error with which a socket is refused."""
    with pytest.raises(ConfigError) as raised:
        listening_socket(Listen(address=address, **settings), {} if environ is None else environ)
    return raised.value


# -- made here


def test_the_socket_is_the_one_that_was_asked_for() -> None:
    """Bound and not yet listening; port 0 lets the system choose."""
    with bind(Listen(address="127.0.0.1:0")) as sock:
        host, port = sock.getsockname()

        assert host == "127.0.0.1"
        assert port > 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_ipv6_is_listened_on_where_it_is_asked_for() -> None:
    """The address decides the family."""
    with bind(Listen(address="[::1]:0")) as sock:
        assert sock.family == socket.AF_INET6


def test_an_address_that_is_taken_is_an_error_of_the_configuration(made: list[socket.socket]) -> None:
    """It names the key and the address, and says why."""
    with bound() as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        error = refused(address)

    assert error.key == "listen.address"
    assert f"cannot listen on {address}: Address already in use" in str(error)


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), OSError("odd")])
def test_an_address_that_cannot_be_looked_up_is_one_too(failure: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system has to say about it is said."""

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    assert (failure.strerror or "odd") in str(refused("nowhere.invalid:80"))


def test_an_address_of_another_machine_leaves_no_socket_behind(made: list[socket.socket]) -> None:
    """A failed bind is told, and what was opened for it is closed."""
    assert "cannot listen on 192.0.2.1:80: " in str(refused("192.0.2.1:80"))
    assert [sock for sock in made if sock.fileno() >= 0] == []


def test_without_a_socket_from_outside_one_is_made() -> None:
    """The settings stay what they are."""
    listen = Listen(address="127.0.0.1:0")
    sock, served = listening_socket(listen, {})
    with sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        assert served is listen


# -- inherited


@pytest.mark.parametrize("backlog", [5, None], ids=["listening", "bound"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_inherited_socket_is_taken_with_its_true_address(host: str, backlog: int | None) -> None:
    """The very socket, listening or not yet; the settings name where it is bound, and are otherwise untouched."""
    with bound(host, backlog=backlog) as outside:
        number = given(outside)
        sock, served = listening_socket(Listen(address=f"fd:{number}", path="/x"), {})
        with sock:
            assert sock.fileno() == number
            assert sock.getsockname() == outside.getsockname()
            # Without it asyncio leaves Nagle's delay on.
            assert sock.proto == socket.IPPROTO_TCP
            assert (served.host, served.port, served.path) == (host, outside.getsockname()[1], "/x")
            assert served.descriptor is None


def test_no_child_inherits_the_socket() -> None:
    """What it was inherited for is done."""
    with bound() as outside:
        sock, _ = listening_socket(Listen(address=f"fd:{given(outside)}"), {})
        with sock:
            assert not sock.get_inheritable()


def test_a_socket_that_lets_other_machines_in_is_refused() -> None:
    """The rule is held against the true address: the configured one says nothing about it."""
    with bound("0.0.0.0") as outside:
        number = given(outside)
        error = refused(f"fd:{number}")

        assert error.key == "listen.address"
        assert f"descriptor {number}: listening on 0.0.0.0 lets other machines in" in str(error)
        assert "--allow-anonymous" in str(error)

        sock, served = listening_socket(Listen(address=f"fd:{number}", allow_anonymous=True), {})
        with sock:
            assert served.host == "0.0.0.0"


def test_every_interface_of_ipv6_is_other_machines_too() -> None:
    """`::` is no loopback."""
    with bound("::") as outside:
        assert "listening on :: lets other machines in" in str(refused(f"fd:{given(outside)}"))


def unbound() -> socket.socket:
    """Make a socket without an address."""
    return socket.socket()


def datagrams() -> socket.socket:
    """Make a bound socket for datagrams."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def connected() -> socket.socket:
    """Make a socket with a peer, as a socket unit with Accept=yes hands it over."""
    with bound() as listening, socket.create_connection(listening.getsockname()):
        return listening.accept()[0]


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (unbound, "one that is not bound"),
        (datagrams, "type SOCK_DGRAM"),
        (connected, "one that is connected (in a socket unit: Accept=no)"),
        (lambda: socket.socket(socket.AF_UNIX), "family AF_UNIX"),
    ],
    ids=["unbound", "datagrams", "connected", "unix"],
)
def test_a_socket_that_cannot_be_served_is_refused(make: Any, got: str) -> None:
    """It says what was expected and what was found, and leaves the descriptor as it was."""
    with make() as outside:
        number = given(outside)
        error = refused(f"fd:{number}")

        assert (error.key, error.problem) == ("listen.address", f"descriptor {number}: {EXPECTED}{got}")
        # It may have been stderr's, by mistake: then nobody would read the error.
        assert is_open(number)

        os.close(number)


def test_a_descriptor_that_is_not_there_is_refused() -> None:
    """Nobody handed it over."""
    with bound() as outside:
        number = given(outside)
    os.close(number)

    assert refused(f"fd:{number}").problem == f"descriptor {number}: {EXPECTED}no open descriptor"


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    """A file is not listened on."""
    with (tmp_path / "file").open("w") as file:
        problem = refused(f"fd:{file.fileno()}").problem

    assert problem.endswith(f"{EXPECTED}something else")


# -- from systemd


def environment(count: object = 1, **more: str) -> dict[str, str]:
    """Write the variables for this process, among others."""
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "HOME": "/", **more}


TAKER = """
import os, subprocess, sys
from proxy.config import Listen
from proxy.downstream.sockets import listening_socket
from proxy.errors import ConfigError

os.environ["LISTEN_PID"] = sys.argv[2].format(own=os.getpid(), parent=os.getppid())
for number, descriptor in enumerate(sys.argv[4:]):
    os.dup2(int(descriptor), 90 + number)
for number, _ in enumerate(sys.argv[4:]):
    os.dup2(90 + number, 3 + number)
try:
    sock, listen = listening_socket(Listen(address=sys.argv[3]), os.environ)
except ConfigError as error:
    sys.exit(str(error))
left = sorted(name for name in os.environ if name.startswith("LISTEN_"))
inherited = [number for number in range(3, 3 + len(sys.argv[4:])) if os.get_inheritable(number)]
print(sock.fileno(), sock.getsockname()[1], listen.address, left, inherited)
"""
"""Stands in the place of the product as systemd starts it: its sockets are the descriptors from 3 on."""


def activated(
    *sockets: socket.socket, address: str = "127.0.0.1:0", pid: str = "{own}", count: int | None = None, names: str = ""
) -> subprocess.CompletedProcess[str]:
    """Start a process that is handed sockets as systemd does it."""
    numbers = [sock.fileno() for sock in sockets]
    environ = {"LISTEN_FDS": str(len(sockets) if count is None else count), "LISTEN_FDNAMES": names}
    return subprocess.run(
        [sys.executable, "-c", TAKER, "", pid, address, *map(str, numbers)],
        env={**os.environ, **environ, "LISTEN_PIDFDID": "7"},
        pass_fds=numbers,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_socket_from_systemd_takes_the_place_of_the_address() -> None:
    """It is found by itself; no variable and no inheritable descriptor is left for children."""
    with bound() as outside:
        port = outside.getsockname()[1]
        done = activated(outside, names="web")

    assert (done.stdout, done.stderr) == (f"3 {port} 127.0.0.1:{port} [] []\n", "")


def test_variables_for_another_process_are_no_sockets() -> None:
    """Who starts the proxy may have been activated itself: its sockets are not ours, and children get none of it."""
    with bound() as outside:
        done = activated(outside, pid="{parent}")
        fileno, port, address, rest = done.stdout.split(" ", 3)

        assert done.stderr == ""
        assert fileno != "3"
        assert int(port) != outside.getsockname()[1]
        assert address == "127.0.0.1:0"
        assert rest.startswith("[]")


def test_no_sockets_from_systemd_means_the_configured_address() -> None:
    """A service without a socket unit is told of 0 sockets at most."""
    done = activated(count=0)

    assert done.stderr == ""
    assert " 127.0.0.1:0 [] []" in done.stdout


def test_more_than_one_socket_from_systemd_is_refused() -> None:
    """Which of them is meant is not guessed; the error lists them by their names."""
    with bound() as one, bound() as other:
        done = activated(one, other, names="web:admin")

    assert done.returncode == 1
    assert "LISTEN_FDS: listen.address: expected one socket from systemd, got 2 (fd:3 web, fd:4 admin)" in done.stderr
    assert 'listen.address = "fd:N"' in done.stderr


def test_one_of_several_can_be_chosen() -> None:
    """`fd:N` says which; the others are not inherited by children either."""
    with bound() as one, bound() as other:
        port = other.getsockname()[1]
        done = activated(one, other, address="fd:4")

    assert (done.stdout, done.stderr) == (f"4 {port} 127.0.0.1:{port} [] []\n", "")


def test_a_socket_from_systemd_is_held_to_the_rules() -> None:
    """A unit's ListenStream=8080 lets every machine in, and needs the permission for it."""
    with bound("0.0.0.0") as outside:
        done = activated(outside)

    assert done.returncode == 1
    assert "LISTEN_FDS: listen.address: descriptor 3: listening on 0.0.0.0 lets other machines in" in done.stderr


@pytest.mark.parametrize("count", ["", "two", "-1", "1.5", "99999"])
def test_a_count_that_is_none_is_refused(count: str) -> None:
    """Something is meant to be handed over, and nobody can say what."""
    environ = environment(count)
    error = refused("127.0.0.1:0", environ)

    assert (error.source, error.key) == ("LISTEN_FDS", "listen.address")
    assert repr(count) in error.problem
    assert environ == {"HOME": "/"}
