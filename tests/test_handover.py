"""The handover: what a new process finds, how the old one waits for its word, and how it lets its clients go."""

import asyncio
import os
import select
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import handover
from proxy.config import Listen
from proxy.errors import ConfigError, ProxyError
from proxy.handover import (
    ADMIN,
    FRESH_SECONDS,
    HOLD,
    LISTEN,
    SPREAD,
    TICK_SECONDS,
    VARIABLE,
    Departure,
    Inherited,
    Upgrade,
    command_line,
    notify,
)
from proxy.observe.hooks import Funnel, Record, UpgradeFinished, UpgradeStarted
from support.fakes import FakeClock
from support.waiting import until

# -- what a new process finds


def identity(number: int) -> tuple[int, int] | None:
    """Return what is behind a descriptor; None for one that is closed."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def handed(**sockets: socket.socket) -> Iterator[tuple[dict[str, str], int]]:
    """Give an environment that names copies of sockets and the end of a pipe, and the pipe's other end."""
    reader, writer = os.pipe()
    numbers = {**{name: os.dup(sock.fileno()) for name, sock in sockets.items()}, "ready": writer}
    opened = {number: identity(number) for number in numbers.values()}
    for number in opened:
        os.set_inheritable(number, True)
    try:
        yield {VARIABLE: ",".join(f"{name}={number}" for name, number in numbers.items()), "HOME": "/"}, reader
    finally:
        os.close(reader)
        for number, was in opened.items():
            # Only what the test has not closed: the number may be another's by now.
            if identity(number) == was:
                os.close(number)


def test_a_process_that_somebody_else_started_inherits_nothing() -> None:
    """Its settings stay as they are, it has nobody to tell, and every socket has to be bound."""
    inherited = Inherited.take({"HOME": "/"})
    listen = Listen()

    assert not inherited
    assert inherited.listen(listen) is listen
    assert inherited.socket(ADMIN, "127.0.0.1:9901") is None

    inherited.announce()


def test_the_variable_speaks_of_one_process_alone() -> None:
    """It leaves the environment, and no child inherits what it names."""
    with socket.create_server(("127.0.0.1", 0)) as sock, handed(listen=sock) as (environ, _):
        numbers = [int(part.split("=")[1]) for part in environ[VARIABLE].split(",")]
        inherited = Inherited.take(environ)

        assert inherited
        assert environ == {"HOME": "/"}
        assert [os.get_inheritable(number) for number in numbers] == [False, False]


@pytest.mark.parametrize("text", ["", "listen", "listen=", "listen=x", "listen=5,", "listen=-5", "LISTEN=5", "a=1;b=2"])
def test_a_variable_that_no_old_process_wrote_is_refused(text: str) -> None:
    """The line names it; nothing is guessed."""
    with pytest.raises(ConfigError) as caught:
        Inherited.take({VARIABLE: text})

    assert caught.value.source == VARIABLE


def test_descriptors_that_are_not_there_are_refused() -> None:
    """The variable was passed on by something that closed them."""
    with pytest.raises(ConfigError, match="listen=999999"):
        Inherited.take({VARIABLE: "listen=999999"})


def test_the_inherited_socket_takes_the_place_of_the_address() -> None:
    """Whatever the configuration says, and nothing else of it changes."""
    with socket.create_server(("127.0.0.1", 0)) as sock, handed(listen=sock) as (environ, _):
        number = environ[VARIABLE].partition("=")[2].partition(",")[0]
        listen = Inherited.take(environ).listen(Listen(address="127.0.0.1:1", path="/other"))

        assert listen == Listen(address=f"fd:{number}", path="/other")


@pytest.mark.parametrize("port", ["the same", "any"])
def test_a_further_socket_is_had_once(port: str) -> None:
    """When it is bound where the configuration says."""
    with socket.create_server(("127.0.0.1", 0)) as sock, handed(admin=sock) as (environ, _):
        bound = sock.getsockname()[1]
        inherited = Inherited.take(environ)
        wanted = f"127.0.0.1:{bound if port == 'the same' else 0}"
        with inherited.socket(ADMIN, wanted) or pytest.fail("none") as taken:
            assert taken.getsockname() == sock.getsockname()

        assert inherited.socket(ADMIN, wanted) is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{other}", "127.0.0.2:{port}", "[::1]:{port}", "no-such-host.invalid:{port}", "nonsense"]
)
def test_a_further_socket_that_is_bound_elsewhere_is_closed(address: str) -> None:
    """Another configuration judged who may connect there."""
    with socket.create_server(("127.0.0.1", 0)) as sock, handed(admin=sock) as (environ, _):
        port = sock.getsockname()[1]
        number = int(environ[VARIABLE].partition("=")[2].partition(",")[0])

        assert Inherited.take(environ).socket(ADMIN, address.format(port=port, other=port % 65535 + 1)) is None
        with pytest.raises(OSError):
            os.fstat(number)


def test_a_new_process_says_once_that_it_serves() -> None:
    """One word, and the end of the pipe."""
    with handed() as (environ, reader):
        inherited = Inherited.take(environ)
        inherited.announce()
        inherited.announce()

        assert os.read(reader, 100) == b"ready\n"
        assert os.read(reader, 100) == b""


def test_a_new_process_outlives_the_old_one() -> None:
    """When nobody is left to be told, it serves all the same."""
    reader, writer = os.pipe()
    inherited = Inherited.take({VARIABLE: f"ready={writer}"})
    os.close(reader)
    inherited.announce()
    with pytest.raises(OSError):
        os.fstat(writer)


# -- the old process, until the new one serves

CHILD = f"""
import os, socket, sys
given = dict(part.split("=") for part in os.environ["{VARIABLE}"].split(","))
listening = socket.socket(fileno=int(given["listen"]))
"""
SERVES = (
    CHILD
    + """
os.write(int(given["ready"]), b"ready\\n")
os.close(int(given["ready"]))
connection, _ = listening.accept()
connection.sendall(os.environ["HANDED_ON"].encode())
connection.recv(1)
"""
)
HANGS = CHILD + "sys.stdin = open(os.environ['FIFO'])"
FAILS = "raise SystemExit(3)"


class Noted(Funnel):
    """An observer that keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def observed(self, verb: str, record: Record) -> None:
        """Keep it."""
        self.records.append(record)


class Old:
    """A process that is to be replaced by a small program."""

    def __init__(self, program: str, sock: socket.socket) -> None:
        self.clock = FakeClock()
        self.noted = Noted()
        self.sock = sock
        self.upgrade = Upgrade(self.clock, self.noted, 30.0, {LISTEN: sock}, [sys.executable, "-c", program])
        self.children: list[Any] = []

    def start(self) -> int:
        """Begin an upgrade."""
        pid = self.upgrade.start()
        self.children.append(self.upgrade._child)
        return pid

    async def finished(self) -> UpgradeFinished:
        """Wait for the end of the last upgrade."""

        def is_finished() -> bool:
            return isinstance(self.noted.records[-1], UpgradeFinished)

        await until(is_finished, "the end of the upgrade")
        record = self.noted.records[-1]
        assert isinstance(record, UpgradeFinished)
        return record

    def end(self) -> None:
        """End what was started."""
        self.upgrade.cancel()
        for child in self.children:
            child.kill()
            child.wait()


@contextmanager
def replacing(program: str) -> Iterator[Old]:
    """Give a process that is to be replaced, and end what it starts."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        old = Old(program, sock)
        try:
            yield old
        finally:
            old.end()


def descriptors() -> set[str]:
    """List the open files of this process."""
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def fifo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a file of which nobody writes anything: who reads it hangs."""
    with tempfile.TemporaryDirectory(prefix="mcp-handover-") as directory:
        os.mkfifo(Path(directory) / "fifo")
        monkeypatch.setenv("FIFO", f"{directory}/fifo")
        yield


async def test_a_new_process_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the socket and the environment; its word sets the event, and the manager is told of it."""
    monkeypatch.setenv("HANDED_ON", "kept")
    told: list[str] = []
    monkeypatch.setattr(handover, "notify", lambda _, state: told.append(state))
    with replacing(SERVES) as old:
        before = descriptors()
        pid = old.start()
        async with asyncio.timeout(10):
            await old.upgrade.taken.wait()

        assert old.noted.records == [UpgradeStarted(pid=pid), UpgradeFinished(is_done=True, reason="")]
        assert told == [f"MAINPID={pid}\nREADY=1"]
        assert VARIABLE not in os.environ
        assert descriptors() == before

        # It lives for as long as it has a client.
        with socket.create_connection(old.sock.getsockname(), timeout=10) as client:
            assert client.recv(100) == b"kept"

            # Its time was bounded until it served, and no longer.
            old.clock.advance(1000.0)

            assert old.clock.pending() == 0
            assert old.children[0].poll() is None

            with pytest.raises(ProxyError, match=f"process {pid} has taken over already"):
                old.upgrade.start()

            old.upgrade.cancel()

            assert old.children[0].poll() is None


async def test_a_new_process_that_dies_changes_nothing() -> None:
    """Its end is told with its reason, nothing is left of it, and another upgrade can begin."""
    with replacing(FAILS) as old:
        before = descriptors()
        for _ in range(2):
            old.start()

            assert await old.finished() == UpgradeFinished(is_done=False, reason="exited")
            assert not old.upgrade.taken.is_set()
            assert descriptors() == before

            await reaped(old)


async def reaped(old: Old) -> None:
    """Wait until the last child has been waited for."""

    def is_reaped() -> bool:
        old.clock.advance(handover.REAP_SECONDS)
        return old.children[-1].returncode is not None

    await until(is_reaped, "the child is waited for")
    assert old.clock.pending() == 0


@pytest.mark.usefixtures("fifo")
async def test_a_new_process_that_says_nothing_in_time_is_killed() -> None:
    """Not before, and by its own pid."""
    with replacing(HANGS) as old:
        old.start()
        old.clock.advance(29.9)

        assert len(old.noted.records) == 1

        old.clock.advance(0.1)

        assert await old.finished() == UpgradeFinished(is_done=False, reason="not_ready")

        await reaped(old)

        assert old.children[0].returncode == -9


@pytest.mark.usefixtures("fifo")
async def test_a_stop_ends_a_new_process_that_does_not_serve() -> None:
    """It would otherwise come up when nobody is meant to serve; without one there is nothing to end."""
    with replacing(HANGS) as old:
        old.upgrade.cancel()
        old.start()
        old.upgrade.cancel()

        assert await old.finished() == UpgradeFinished(is_done=False, reason="stopping")

        await reaped(old)

        assert old.children[0].returncode == -9


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stop", "time"])
async def test_a_word_that_comes_last_counts(is_stopped: bool) -> None:
    """A process that serves already has clients: it is not killed because its word was not read yet."""
    with replacing(SERVES) as old:
        old.start()
        # Until its word is there to be read; the loop does not turn meanwhile.
        select.select([old.upgrade._pipe], [], [], 10.0)
        if is_stopped:
            old.upgrade.cancel()
        else:
            old.clock.advance(30.0)

        assert old.upgrade.taken.is_set()
        assert old.noted.records[-1] == UpgradeFinished(is_done=True, reason="")
        assert old.children[0].poll() is None


@pytest.mark.usefixtures("fifo")
async def test_one_upgrade_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """The second is refused by name of the first; a signal has nobody to refuse to, so a line says it."""
    with replacing(HANGS) as old:
        pid = old.start()
        problem = f"no other upgrade can begin: process {pid} is starting already"
        with pytest.raises(ProxyError, match=problem):
            old.upgrade.start()
        old.upgrade.signalled()

        assert capsys.readouterr().err == f"mcp-session-proxy: error: {problem}\n"
        assert old.noted.records == [UpgradeStarted(pid=pid)]


async def test_a_program_that_cannot_be_started_is_told() -> None:
    """By name; nothing stays open, and another upgrade can begin."""
    with replacing(FAILS) as old:
        before = descriptors()
        old.upgrade._command = ["/no/such/python"]
        for _ in range(2):
            with pytest.raises(ProxyError, match="cannot be started: /no/such/python: No such file"):
                old.upgrade.start()

        assert old.noted.records == [UpgradeFinished(is_done=False, reason="not_started")] * 2
        assert descriptors() == before
        assert old.clock.pending() == 0


def test_it_is_started_as_this_process_was() -> None:
    """The same interpreter, options and arguments."""
    assert command_line() == [sys.executable, *sys.orig_argv[1:]]


# -- the old process, once the new one serves

WINDOW = 100.0


class Reading:
    """A session with or without a stream. Fulfils `handover.Held` and `handover.Readers`."""

    def __init__(self, house: "Leaving", has_standalone: bool = True) -> None:
        self.readers = self
        self.has_standalone = has_standalone
        self.ended_at: list[float] = []
        self._house = house

    def finish(self, *, only_standalone: bool = False) -> int:
        """Note the end."""
        assert only_standalone
        assert self._house.is_closing_behind
        self.has_standalone = False
        self.ended_at.append(self._house.clock.now() - self._house.began)
        return 1


class Leaving:
    """A process that leaves, as far as its sessions."""

    def __init__(self, streams: int, window: float = WINDOW, jitter: float = 0.0) -> None:
        self.clock = FakeClock()
        self.clock.jitter_value = jitter
        self.began = self.clock.now()
        self.sessions = [Reading(self) for _ in range(streams)]
        self.is_calling = False
        self.is_closing_behind = False
        self.departure = Departure(
            self.clock, window, lambda: self.sessions, lambda: self.is_calling, self._closing_behind
        )

    @contextmanager
    def _closing_behind(self) -> Iterator[None]:
        self.is_closing_behind = True
        yield
        self.is_closing_behind = False

    @property
    def is_over(self) -> bool:
        """Tell whether it may end."""
        return self.departure.over.is_set()

    @property
    def ends(self) -> list[float]:
        """When streams were ended, in seconds of the window."""
        return [at for session in self.sessions for at in session.ended_at]


async def test_streams_are_kept_for_the_first_half() -> None:
    """Whoever reads one meets a process that does not know it, so it is not sent there early."""
    leaving = Leaving(streams=50)
    leaving.clock.advance(WINDOW * HOLD - 0.01)

    assert leaving.ends == []
    assert not leaving.is_over

    leaving.clock.advance(WINDOW * (SPREAD - HOLD) + 0.01)

    assert len(leaving.ends) == 50
    assert not leaving.is_over

    leaving.clock.advance(WINDOW * (1 - SPREAD) - 0.01)

    assert not leaving.is_over

    leaving.clock.advance(0.01)

    assert leaving.is_over
    assert leaving.clock.pending() == 0


@settings(deadline=None)
@given(
    streams=st.integers(0, 400),
    window=st.floats(1.0, 300.0),
    jitter=st.floats(0.0, 0.99),
)
def test_streams_are_ended_one_after_another(streams: int, window: float, jitter: float) -> None:
    """Each once, none before its time or after it, and in no part of the time many more than in another."""

    async def leave() -> Leaving:
        leaving = Leaving(streams, window, jitter)
        leaving.clock.advance(window)
        return leaving

    leaving = asyncio.run(leave())
    ends = leaving.ends
    tick = TICK_SECONDS * 1.5
    begin, span = window * HOLD, window * (SPREAD - HOLD)
    parts = [0] * 10
    for at in ends:
        parts[min(9, int((at - begin) / span * 10))] += 1

    assert len(ends) == streams
    assert all(begin <= at <= begin + span + 1e-6 for at in ends)
    # What is due in a tick may fall into the next part.
    assert max(parts) <= streams / 10 + streams * tick / span + 2


async def test_a_stream_that_opens_in_the_window_is_ended_too() -> None:
    """A client may come back on another connection that it still has."""
    leaving = Leaving(streams=1)
    leaving.clock.advance(WINDOW * SPREAD)
    leaving.sessions[0].has_standalone = True
    leaving.clock.advance(TICK_SECONDS * 2)

    assert len(leaving.ends) == 2


async def test_a_session_without_a_stream_is_served_to_the_end() -> None:
    """It holds the process, and nothing is done to it."""
    leaving = Leaving(streams=1)
    leaving.sessions[0].has_standalone = False
    leaving.clock.advance(WINDOW - 0.01)

    assert leaving.ends == []
    assert not leaving.is_over


async def test_a_process_that_nobody_needs_goes_early() -> None:
    """Not while a call runs, and not before the connections that it accepted last have had time for a request."""
    leaving = Leaving(streams=0)
    leaving.clock.advance(FRESH_SECONDS - 0.01)

    assert not leaving.is_over

    leaving.is_calling = True
    leaving.clock.advance(10.0)

    assert not leaving.is_over

    leaving.is_calling = False
    leaving.clock.advance(TICK_SECONDS * 1.5)

    assert leaving.is_over


async def test_without_a_window_it_goes_at_once() -> None:
    """The rest is the drain's, as for SIGTERM."""
    leaving = Leaving(streams=3, window=0.0)

    assert leaving.is_over
    assert leaving.ends == []


async def test_a_departure_can_be_cut_short() -> None:
    """No timer of it is left."""
    leaving = Leaving(streams=3)
    leaving.clock.advance(60.0)
    leaving.departure.close()
    ended = len(leaving.ends)
    leaving.clock.advance(WINDOW)

    assert leaving.is_over
    assert len(leaving.ends) == ended < 3
    assert leaving.clock.pending() == 0


# -- the service manager


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_systemd_is_told(is_abstract: bool, tmp_path: Path) -> None:
    """In one datagram, to the socket it names."""
    name = f"@mcp-handover-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0") if is_abstract else name)
        manager.settimeout(5.0)
        notify({"NOTIFY_SOCKET": name}, "MAINPID=7\nREADY=1")

        assert manager.recv(100) == b"MAINPID=7\nREADY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1", "/no/such/socket", "@nobody", "/" + "x" * 200])
def test_a_manager_that_cannot_be_told_changes_nothing(address: str | None) -> None:
    """The proxy runs without one."""
    notify({} if address is None else {"NOTIFY_SOCKET": address}, "READY=1")
