"""The composition root: the periods, a whole proxy in this process, and the order in which it ends."""

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from proxy.app import App, Source, check_period_seconds, run, serve
from proxy.config import Config
from proxy.downstream.sockets import bind
from proxy.errors import ConfigError
from proxy.handover import Inherited
from proxy.upstream.http import HttpEdge
from proxy.upstream.wire import WireEdge
from support.fakes import initialize_answer, make_config
from support.raw import RawConnection, RawSession
from support.raw_server import Peer, RawServer, Received, chunk, ok, turns, unused_port
from support.waiting import until

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Upstream:
    """A server that keeps sessions: quick answers, but a call named `slow` waits for its gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.server = RawServer(self._serve)

    def count(self, method: str, rpc: str = "") -> int:
        """Count the requests of a kind."""
        return sum(each.method == method and rpc.encode() in each.body for each in self.server.requests)

    async def _serve(self, peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            await self._answer(peer, received)

    async def _answer(self, peer: Peer, received: Received) -> None:
        message = json.loads(received.body) if received.body else {}
        if received.method == "GET":
            await peer.send(STREAM_HEAD, chunk(b'data: {"jsonrpc":"2.0","method":"x"}\n\n'))
        elif received.method == "DELETE" or "id" not in message:
            await peer.send(ok(b"", status="202 Accepted"))
        elif message["method"] == "initialize":
            version = message["params"]["protocolVersion"]
            await peer.send(ok(initialize_answer(version, request_id=message["id"]), "Mcp-Session-Id: up-1"))
        else:
            if message["method"] == "slow":
                await self.gate.wait()
            await peer.send(ok(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode()))


class Proxy:
    """An app on loopback, and its end."""

    def __init__(self, app: App, url: str) -> None:
        self.app = app
        self.url = url
        self.hurry = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None

    def drain(self) -> asyncio.Task[None]:
        """Begin to end, once."""
        if self._drain is None:
            self._drain = asyncio.create_task(self.app.drain(self.hurry))
        return self._drain


@asynccontextmanager
async def proxying(**settings: Any) -> AsyncIterator[tuple[Proxy, Upstream]]:
    """Run a proxy before an upstream, and end it however far the test got."""
    upstream = Upstream()
    async with upstream.server as server:
        edge = settings.pop("http", "wire")
        config = make_config(**{"url": server.url, "address": "127.0.0.1:0", **settings})
        config = replace(config, upstream=replace(config.upstream, http=edge))
        with bind(config.listen) as sock:
            app = App(config)
            await app.start(sock)
            proxy = Proxy(app, f"http://127.0.0.1:{sock.getsockname()[1]}/mcp")
            try:
                yield proxy, upstream
            finally:
                proxy.hurry.set()
                await proxy.drain()
                await turns(20)


# -- periods


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 5.0),
        ({"silence_seconds": 3.0}, 1.0),
        ({"upstream_idle_seconds": 6.0}, 2.0),
        ({"idle_seconds": 1.5}, 0.5),
        ({"lifetime_seconds": 9.0}, 3.0),
        ({"lifetime_seconds": 0.0}, 5.0),
        ({"lifetime_seconds": 9.0, "silence_seconds": 0.3}, 0.1),
    ],
)
def test_sessions_are_looked_at_as_often_as_their_shortest_time_needs(settings: dict[str, Any], seconds: float) -> None:
    """A third of it, so that none is late by more than that; 0 means no lifetime, not an endless hurry."""
    assert check_period_seconds(make_config(**settings)) == pytest.approx(seconds)


# -- a whole proxy


@pytest.mark.parametrize(("http", "edge"), [("wire", WireEdge), ("aiohttp", HttpEdge)])
async def test_the_configured_edge_speaks_to_the_upstream(http: str, edge: type) -> None:
    """Either serves a session from beginning to end."""
    async with proxying(http=http) as (proxy, upstream):
        assert type(proxy.app.registries[0].ctx.pool.members[0].edge) is edge

        session = await RawSession.open(proxy.url)
        answer = await session.post(session.call_body({}))

        assert answer.json["result"] == {}
        assert session.id != "up-1"
        assert [each.get("Mcp-Session-Id") for each in upstream.server.requests] == [[], ["up-1"], ["up-1"]]
        assert len(proxy.app.registries[0]) == 1

        await session.delete()

        assert len(proxy.app.registries[0]) == 0


async def test_a_socket_of_somebody_elses_is_served() -> None:
    """Who starts the app decides where it listens, whatever the configuration names."""
    upstream = Upstream()
    async with upstream.server as server:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            app = App(make_config(url=server.url, address=f"127.0.0.1:{unused_port()}"))
            await app.start(sock)
            session = await RawSession.open(f"http://127.0.0.1:{sock.getsockname()[1]}/mcp")

            assert session.id

            await app.drain(asyncio.Event())
            await turns(20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many connections may queue")
@pytest.mark.parametrize("before", [None, 3], ids=["bound", "listening"])
async def test_the_configured_backlog_holds_on_a_socket_from_outside(before: int | None) -> None:
    """One that listens already keeps nobody's smaller queue: the setting means the same wherever a socket came from."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if before is not None:
            sock.listen(before)
        app = App(make_config(backlog=9))
        await app.start(sock)

        # Of a listening socket `tcpi_sacked` (at 28) is the bound of its queue.
        assert struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 28) == (9,)

        await app.drain(asyncio.Event())
        await turns(20)


# -- the end


async def test_the_end_takes_no_more_and_cuts_nothing_that_runs() -> None:
    """New connections are refused, the standalone stream ends cleanly at once, the running call is answered."""
    async with proxying() as (proxy, upstream):
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as listening, RawConnection(proxy.url) as calling:
            await session.listen(listening)
            await listening.message()
            await session.send(calling, "POST", {"jsonrpc": "2.0", "id": 1, "method": "slow"})
            await until(lambda: upstream.count("POST", "slow") == 1, "the call")
            ending = proxy.drain()

            assert (await listening.stream()).is_clean

            with pytest.raises(ConnectionRefusedError):
                async with RawConnection(proxy.url):
                    pass

            assert not ending.done()
            assert upstream.count("DELETE") == 0

            upstream.gate.set()

            assert (await calling.answer()).json["result"] == {}

            await ending

        # The upstream's session is ended last, and told so.
        assert upstream.server.requests[-1].method == "DELETE"
        assert upstream.server.requests[-1].get("Mcp-Session-Id") == ["up-1"]
        await until(lambda: not upstream.server.open, "the end of the connections")


async def test_an_opened_session_is_refused_while_ending() -> None:
    """On a connection that is there already, `initialize` is told that this proxy is going."""
    async with proxying() as (proxy, upstream):
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as calling, RawConnection(proxy.url) as late:
            await session.send(calling, "POST", {"jsonrpc": "2.0", "id": 1, "method": "slow"})
            await until(lambda: upstream.count("POST", "slow") == 1, "the call")
            proxy.drain()
            await until(lambda: proxy.app.registries[0].is_draining, "the beginning of the end")
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "r", "version": "1"}}
            body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
            answer = await RawSession(proxy.url, None).exchange(late, "POST", body)

            assert answer.status == 503
            assert upstream.count("POST", '"initialize"') == 1

            upstream.gate.set()
            await calling.answer()


async def test_a_call_that_does_not_end_is_told_at_the_bound() -> None:
    """After `drain_seconds` its client learns that the outcome is unknown, in a whole answer."""
    async with proxying(drain_seconds=0.2, upgrade_after_seconds=0.05) as (proxy, upstream):
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as calling:
            await session.send(calling, "POST", {"jsonrpc": "2.0", "id": 1, "method": "slow"})
            await until(lambda: upstream.count("POST", "slow") == 1, "the call")
            ending = proxy.drain()
            await calling.read_head()
            stream = await calling.stream()

            assert stream.is_clean
            assert stream.messages[-1].json["error"]["data"]["outcome"] == "unknown"

            await ending


async def test_a_second_signal_cuts_the_wait_short() -> None:
    """Neither a running call nor an unanswered DELETE is waited for."""
    async with proxying(drain_seconds=60.0) as (proxy, upstream):
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as calling:
            await session.send(calling, "POST", {"jsonrpc": "2.0", "id": 1, "method": "slow"})
            await until(lambda: upstream.count("POST", "slow") == 1, "the call")
            ending = proxy.drain()
            await until(lambda: proxy.app.registries[0].is_draining, "the beginning of the end")
            proxy.hurry.set()
            async with asyncio.timeout(5):
                await ending


async def test_nothing_runs_on_behind_the_end() -> None:
    """No task, no timer of the edge, no connection in either direction."""
    async with proxying() as (proxy, upstream):
        session = await RawSession.open(proxy.url)
        await session.post(session.call_body({}))
        await proxy.drain()
        await until(lambda: not upstream.server.open, "the end of the connections")
        others = {task for task in asyncio.all_tasks() if "RawServer" not in repr(task)} - {asyncio.current_task()}

        assert others == set()


# -- the process


async def test_serving_ends_with_a_signal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says where clients connect, and SIGTERM ends it."""
    import gc

    monkeypatch.setattr(gc, "freeze", lambda: None)
    thresholds = gc.get_threshold()
    config = make_config(address="[::1]:0", url="http://127.0.0.1:9/mcp")
    try:
        with bind(config.listen) as sock:
            serving = asyncio.create_task(serve(config, sock, Inherited({}), None, Source(lambda: config)))
            said = ""

            def has_said() -> bool:
                nonlocal said
                said += capfd.readouterr().err
                return "listening on" in said

            await until(has_said, "the line")
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                await serving
    finally:
        gc.set_threshold(*thresholds)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)

    assert f"listening on http://[::1]:{sock_port(said)}/mcp -> http://127.0.0.1:9/mcp\n" in said


def sock_port(line: str) -> str:
    """Return the port that the line names."""
    return line.partition("[::1]:")[2].partition("/")[0]


def test_run_goes_by_the_address_of_the_socket_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts and origins are judged by where the socket is bound, and systemd's variables leave the environment."""
    served: list[tuple[Config, int]] = []

    async def stand_in(config: Config, sock: socket.socket, *_: object) -> None:
        served.append((config, sock.fileno()))
        sock.close()

    monkeypatch.setattr("proxy.app.serve", stand_in)
    monkeypatch.setattr("proxy.app.configure", lambda *_: None)
    monkeypatch.setenv("LISTEN_PID", "1")
    with socket.create_server(("0.0.0.0", 0)) as outside:
        number = os.dup(outside.fileno())
        config = make_config(address=f"fd:{number}", allow_anonymous=True)

        assert run(config) == 0

        ((given, descriptor),) = served

        assert descriptor == number
        assert given.listen.address == f"0.0.0.0:{outside.getsockname()[1]}"
        assert "LISTEN_PID" not in os.environ


@pytest.mark.parametrize("uvloop", [True, False])
def test_run_serves_on_the_loop_that_is_configured(uvloop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is bound before the loop begins, and the exit code is 0."""
    served: list[tuple[Config, str, int]] = []

    async def stand_in(config: Config, sock: socket.socket, *_: object) -> None:
        served.append((config, type(asyncio.get_running_loop()).__module__, sock.getsockname()[1]))
        sock.close()

    monkeypatch.setattr("proxy.app.serve", stand_in)
    monkeypatch.setattr("proxy.app.configure", lambda *_: None)
    config = make_config(address="127.0.0.1:0", uvloop=uvloop)

    assert run(config) == 0

    ((given, loop, port),) = served

    assert given == config
    assert port > 0
    with suppress(ImportError):
        import uvloop as library

        assert (loop.startswith(library.__name__)) == uvloop


def test_run_does_without_uvloop_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a gain, not a need."""
    loops: list[str] = []

    async def stand_in(config: Config, sock: socket.socket, *_: object) -> None:
        loops.append(type(asyncio.get_running_loop()).__module__)
        sock.close()

    monkeypatch.setattr("proxy.app.serve", stand_in)
    monkeypatch.setattr("proxy.app.configure", lambda *_: None)
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)

    assert run(make_config(address="127.0.0.1:0", uvloop=True)) == 0
    assert loops[0].startswith("asyncio")


def test_run_says_that_it_cannot_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any loop begins."""
    monkeypatch.setattr("proxy.app.configure", lambda *_: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = make_config(address=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ConfigError):
            run(config)
