"""A new proxy takes the place of a running one: nobody is refused, and whoever the old one serves is served to an end.

Old and new are real processes; the new one is nobody's child here, so it is watched and ended through its own pidfd.
What a process says of an upgrade is read from the log that both write to.
"""

import asyncio
import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.processes import Process
from support.proxy_process import READY, SHORT_WAITS, START_TIMEOUT_SECONDS, ProxyProcess
from support.raw import RawConnection, RawSession
from support.scripted import Scripted, script
from support.waiting import until

pytestmark = pytest.mark.e2e

SSE, END = ["sse"], ["end"]
LOOPS = pytest.mark.parametrize("uvloop", ["true", "false"], ids=["uvloop", "asyncio"])
EDGES = pytest.mark.parametrize("edge", ["wire", "aiohttp"])
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}
VISITORS = 6
VISITS_AFTER = 60
WINDOW = {"SERVER__UPGRADE_DRAIN_SECONDS": "1"}
LONG_WINDOW = {"SERVER__UPGRADE_DRAIN_SECONDS": "60"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Start one scripted server."""
    with Scripted() as server:
        yield server


class Heir:
    """A process that a proxy started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    @property
    def is_running(self) -> bool:
        """Tell whether it runs; one that nobody waits for does not."""
        return not select.select([self._descriptor], [], [], 0)[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process."""
        if self.is_running:
            signal.pidfd_send_signal(self._descriptor, number)

    def end(self) -> None:
        """End it whatever it does."""
        self.signal(signal.SIGTERM)
        if not select.select([self._descriptor], [], [], 5.0)[0]:
            self.signal(signal.SIGKILL)
        os.close(self._descriptor)


class Lineage:
    """A proxy and those that took its place."""

    def __init__(self, first: Process) -> None:
        self.first = first
        self.heirs: list[Heir] = []
        self.present: Process | Heir = first
        """The one that serves."""

    def told(self, event: str) -> list[dict[str, Any]]:
        """List what the log says of one kind of event."""
        with self.first._heard:
            lines = list(self.first.lines)
        read = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in read if each["event"] == event]

    async def begin(self) -> Heir:
        """Ask for an upgrade, and return the process that it starts."""
        known = {heir.pid for heir in self.heirs}

        def started() -> list[int]:
            return [each["pid"] for each in self.told("upgrade_started") if each["pid"] not in known]

        self.present.signal(signal.SIGUSR2)
        await until(lambda: bool(started()), "the start of a new process")
        heir = Heir(started()[0])
        self.heirs.append(heir)
        return heir

    async def upgrade(self) -> Heir:
        """Let a new process take over."""
        heir = await self.begin()
        await self.finished(is_done=True)
        self.present = heir
        return heir

    async def finished(self, *, is_done: bool) -> dict[str, Any]:
        """Wait for the end of the last upgrade that was begun, and return what is said of it."""
        await until(
            lambda: len(self.told("upgrade_finished")) >= len(self.heirs), "the end of it", START_TIMEOUT_SECONDS
        )
        told = self.told("upgrade_finished")[-1]
        assert told["is_done"] is is_done, self.first.describe(str(told))
        return told

    async def first_ended(self) -> int:
        """Wait for the end of the first process; it has nobody's to wait for."""
        return await asyncio.to_thread(self.first._child.wait, 15.0)

    def end(self) -> None:
        """End them all, the youngest first: an older one that is asked may start another one no more."""
        for heir in reversed(self.heirs):
            heir.end()


@contextmanager
def running(process: Process) -> Iterator[Lineage]:
    """Give a proxy with its heirs, and end those."""
    lineage = Lineage(process)
    try:
        yield lineage
    finally:
        lineage.end()


@contextmanager
def proxying(
    upstream: Scripted, settings: Mapping[str, str], sock: socket.socket | None = None
) -> Iterator[tuple[str, Lineage]]:
    """Run a proxy; give where its clients connect, and its lineage."""
    with ProxyProcess(upstream.url, settings, sock) as proxy, running(proxy.process) as lineage:
        yield proxy.url, lineage


@contextmanager
def configured(upstream: Scripted, **settings: str) -> Iterator[tuple[str, Lineage, Path]]:
    """Run a proxy that reads a file, and give that file too."""
    with tempfile.TemporaryDirectory(prefix="mcp-upgrade-") as directory:
        path = Path(directory) / "config.toml"
        path.write_text(f'[listen]\naddress = "127.0.0.1:0"\n[upstream]\nurl = "{upstream.url}"\n')
        given = {**SHORT_WAITS, **WINDOW, "SERVER__WATCH_CONFIG": "false", **settings}
        environment = {f"MCP_SESSION_PROXY__{key}": value for key, value in given.items()}
        command = [sys.executable, "-m", "proxy", "--config", str(path)]
        with Process("proxy", command, environment) as process, running(process) as lineage:
            yield url_in(process.wait_line("listening on ", START_TIMEOUT_SECONDS)), lineage, path


def url_in(line: str) -> str:
    """Return the endpoint that a ready line names."""
    found = READY.search(line)
    assert found, line
    return found[1]


def text(response: Any) -> str:
    """Return the mark a scripted result echoes."""
    return str(response["result"]["content"][0]["text"])


async def enter(connection: RawConnection, url: str) -> RawSession:
    """Open a session on one connection."""
    session = RawSession(url, None)
    answer = await session.exchange(connection, "POST", INITIALIZE)
    assert answer.status == 200, answer
    session.id = answer.head.get("Mcp-Session-Id")
    accepted = await session.exchange(connection, "POST", {"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert accepted.status == 202, accepted
    return session


async def call(session: RawSession, connection: RawConnection, mark: str) -> str:
    """Call on one connection; return the mark of the answer."""
    answer = await session.exchange(connection, "POST", session.call_body(script(mark)))
    assert answer.status == 200, answer
    return text(answer.json)


async def visit(url: str) -> None:
    """Connect, open a session, call, end it."""
    async with RawConnection(url) as connection:
        session = await enter(connection, url)
        assert await call(session, connection, "visit") == "visit"
        assert (await session.exchange(connection, "DELETE")).status == 200


# --- it takes over


@LOOPS
@EDGES
async def test_no_connection_is_refused_while_one_takes_over(upstream: Scripted, uvloop: str, edge: str) -> None:
    """Under a steady stream of new connections every one is answered, by the old process or by the new one."""
    settings = {**WINDOW, "SERVER__UVLOOP": uvloop, "LISTEN__HTTP": edge}
    with proxying(upstream, settings) as (url, lineage):
        visits, failures = 0, []
        is_over = asyncio.Event()

        async def visitor() -> None:
            nonlocal visits
            while not is_over.is_set():
                try:
                    await visit(url)
                except Exception as error:
                    failures.append(repr(error))
                else:
                    visits += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(VISITORS):
                group.create_task(visitor())
            try:
                await until(lambda: visits >= VISITORS, "the first visits")
                heir = await lineage.upgrade()
                code = await lineage.first_ended()
                before = visits
                await until(lambda: visits >= before + VISITS_AFTER or bool(failures), "more visits")
            finally:
                is_over.set()

        assert failures == []
        assert code == 0
        assert heir.is_running
        # Each request on a connection of its own: they all find the session in the one process that is left.
        assert text(await (await RawSession.open(url)).call(script("new"))) == "new"


async def test_a_session_of_the_old_process_lives_on_its_connections(upstream: Scripted) -> None:
    """What is connected stays served to the end of the window; a new connection finds a process that knows it not."""
    with proxying(upstream, LONG_WINDOW) as (url, lineage):
        async with RawConnection(url) as kept:
            session = await enter(kept, url)
            await lineage.upgrade()

            assert await call(session, kept, "kept") == "kept"
            assert (await session.post(session.call_body(script("elsewhere")))).status == 404
            assert await call(session, kept, "again") == "again"

            other = await RawSession.open(url)

            assert text(await other.call(script("new"))) == "new"

            # Nothing is left that needs the old one: it goes long before the end of its window.
            await session.exchange(kept, "DELETE")

            assert await lineage.first_ended() == 0


async def test_a_call_that_runs_is_answered(upstream: Scripted) -> None:
    """The old process gives it the window, on its own connection."""
    mark = "through the upgrade"
    with proxying(upstream, LONG_WINDOW) as (url, lineage):
        session = await RawSession.open(url)
        async with RawConnection(url) as connection:
            body = session.call_body(script(mark, SSE, ["progress", 1], ["wait", mark], ["result"], END))
            await session.send(connection, "POST", body)
            await until(lambda: len(upstream.executed(mark)) == 1, "the call runs")
            await lineage.upgrade()
            await upstream.control("open", gate=mark)
            await connection.read_head()
            stream = await connection.stream()

        assert stream.is_clean
        assert text(stream.messages[-1].json) == mark
        assert len(upstream.executed(mark)) == 1


@EDGES
async def test_an_open_stream_ends_cleanly_and_with_its_connection(upstream: Scripted, edge: str) -> None:
    """At a frame boundary, so that its client comes back; on another connection, so that it meets the new process."""
    with proxying(upstream, {**WINDOW, "LISTEN__HTTP": edge}) as (url, lineage):
        async with RawConnection(url) as kept, RawConnection(url) as listening:
            session = await enter(kept, url)
            await session.listen(listening)
            await listening.frame()
            await lineage.upgrade()

            assert (await listening.stream()).is_clean
            assert await listening.ended()
            assert await lineage.first_ended() == 0


async def test_a_connection_without_a_session_moves_at_its_next_answer(upstream: Scripted) -> None:
    """Who needs nothing of the old process is told to connect again, in an answer and not between two."""
    with proxying(upstream, LONG_WINDOW) as (url, lineage):
        async with RawConnection(url) as connection:
            session = RawSession(url, None)
            modern = [("MCP-Protocol-Version", "2026-07-28")]
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            before = await session.exchange(connection, "POST", ping, modern)
            await lineage.upgrade()
            after = await session.exchange(connection, "POST", ping, modern)
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                # It says first that it has been replaced, and then makes way.
                while after.head.get("Connection") is None:
                    after = await session.exchange(connection, "POST", ping, modern)

            assert before.head.get("Connection") is None
            assert after.head.get("Connection") == "close"
            assert after.status == before.status
            assert await connection.ended()


async def test_it_can_be_done_again_and_again(upstream: Scripted) -> None:
    """The new process hands over what it was handed, also while the old one still drains."""
    with proxying(upstream, LONG_WINDOW) as (url, lineage):
        async with RawConnection(url) as first, RawConnection(url) as second:
            one = await enter(first, url)
            await lineage.upgrade()
            async with RawConnection(url) as third:
                two = await enter(third, url)
                heir = await lineage.upgrade()

                assert await call(one, first, "one") == "one"
                assert await call(two, third, "two") == "two"
                assert heir.is_running
                assert (await RawSession.open(url)).id
                assert lineage.first.returncode is None
                # A connection that was there before both has no session: it may still open one.
                assert (await enter(second, url)).id


async def test_sigterm_cuts_the_window_short(upstream: Scripted) -> None:
    """The replaced process then ends as it does without an upgrade, and takes nothing of the new one along."""
    with proxying(upstream, LONG_WINDOW) as (url, lineage):
        async with RawConnection(url) as listening:
            session = await RawSession.open(url)
            await session.listen(listening)
            await listening.frame()
            heir = await lineage.upgrade()
            lineage.first.signal(signal.SIGTERM)

            assert (await listening.stream()).is_clean
            assert await lineage.first_ended() == 0
            assert heir.is_running
            assert (await RawSession.open(url)).id


# --- it does not


async def test_a_new_process_that_cannot_start_changes_nothing(upstream: Scripted) -> None:
    """With a broken file the old one goes on, sessions and all, says why, and can be upgraded later."""
    with configured(upstream) as (url, lineage, path):
        good = path.read_text()
        session = await RawSession.open(url)
        path.write_text("[listen\n")
        broken = await lineage.begin()

        assert (await lineage.finished(is_done=False))["reason"] == "exited"
        assert not broken.is_running
        assert any(line.startswith("mcp-session-proxy: error: ") and str(path) in line for line in lineage.first.lines)
        assert text(await session.call(script("still there"))) == "still there"

        path.write_text(good)
        heir = await lineage.upgrade()

        assert heir.is_running
        assert text(await (await RawSession.open(url)).call(script("new"))) == "new"


def blocked(path: Path) -> None:
    """Make a file of which nobody ever writes anything: who reads it hangs."""
    path.unlink()
    os.mkfifo(path)


async def test_a_new_process_that_says_nothing_is_ended(upstream: Scripted) -> None:
    """After its time it is killed, and the old one goes on."""
    with configured(upstream, SERVER__UPGRADE_READY_SECONDS="0.5") as (url, lineage, path):
        session = await RawSession.open(url)
        blocked(path)
        stuck = await lineage.begin()

        assert (await lineage.finished(is_done=False))["reason"] == "not_ready"

        await until(lambda: not stuck.is_running, "the end of the new process")

        assert text(await session.call(script("still there"))) == "still there"


async def test_one_at_a_time(upstream: Scripted) -> None:
    """A second request for an upgrade is refused in a line that names the process that is starting."""
    with configured(upstream) as (_, lineage, path):
        blocked(path)
        heir = await lineage.begin()
        lineage.first.signal(signal.SIGUSR2)
        line = await asyncio.to_thread(lineage.first.wait_line, "no other upgrade can begin", START_TIMEOUT_SECONDS)

        assert line.endswith(f"process {heir.pid} is starting already")
        assert len(lineage.told("upgrade_started")) == 1


async def test_a_stop_ends_a_new_process_that_does_not_serve_yet(upstream: Scripted) -> None:
    """Nobody is left behind that would come up after the service was stopped."""
    with configured(upstream) as (_, lineage, path):
        blocked(path)
        heir = await lineage.begin()
        lineage.first.signal(signal.SIGTERM)

        assert await lineage.first_ended() == 0
        assert not heir.is_running


# --- with a service manager

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="mcp")
os.execv(sys.executable, [sys.executable, "-m", "proxy", *sys.argv[2:]])
"""
"""Becomes the proxy as systemd starts it: the same process, its socket as descriptor 3."""


async def serves_anew(lineage: Lineage, url: str) -> None:
    """Upgrade, wait for the end of the first process, and see that the socket is served."""
    await lineage.upgrade()

    assert await lineage.first_ended() == 0
    assert text(await (await RawSession.open(url)).call(script("new"))) == "new"


async def test_a_socket_from_systemd_is_handed_on(upstream: Scripted) -> None:
    """The variables that named it were for the first process; the second one has it all the same."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        command = [sys.executable, "-c", ACTIVATE, str(held.fileno()), "--upstream", upstream.url]
        environment = {f"MCP_SESSION_PROXY__{key}": value for key, value in WINDOW.items()}
        with Process("proxy", command, environment, [held.fileno()]) as process, running(process) as lineage:
            url = url_in(process.wait_line("listening on ", START_TIMEOUT_SECONDS))
            await serves_anew(lineage, url)


async def test_a_socket_that_was_given_by_number_is_handed_on(upstream: Scripted) -> None:
    """`fd:N` of the command line names a descriptor of the first process; the new one takes what it was handed."""
    with (
        socket.create_server(("127.0.0.1", 0)) as held,
        proxying(upstream, WINDOW, held) as (url, lineage),
    ):
        await serves_anew(lineage, url)


async def test_systemd_is_told_who_serves(upstream: Scripted) -> None:
    """That it is ready, which process is the service from now on, and that it stops; nothing by the one that left."""
    with (
        tempfile.TemporaryDirectory(prefix="mcp-notify-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{directory}/notify")
        manager.settimeout(START_TIMEOUT_SECONDS)
        command = [sys.executable, "-m", "proxy", "--upstream", upstream.url, "--listen", "127.0.0.1:0"]
        environment = {"NOTIFY_SOCKET": f"{directory}/notify", "MCP_SESSION_PROXY__SERVER__UPGRADE_DRAIN_SECONDS": "1"}
        with Process("proxy", command, environment) as process, running(process) as lineage:

            def said() -> Awaitable[bytes]:
                return asyncio.to_thread(manager.recv, 1000)

            assert await said() == b"READY=1"

            heir = await lineage.upgrade()

            assert await said() == f"MAINPID={heir.pid}\nREADY=1".encode()
            assert await lineage.first_ended() == 0

            heir.signal(signal.SIGTERM)

            assert await said() == b"STOPPING=1"
