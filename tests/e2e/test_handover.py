"""A listening socket that somebody else holds: proxies come and go behind it, and no connection is refused.

The test is the holder, as systemd or a master process would be: it binds, hands its socket to one proxy after another,
and never accepts from it while a proxy could.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from support.processes import Process
from support.proxy_process import READY, START_TIMEOUT_SECONDS, ProxyProcess
from support.raw import RawConnection, RawSession
from support.scripted import Scripted, script
from support.waiting import until

pytestmark = pytest.mark.e2e

SSE, END = ["sse"], ["end"]
LOOPS = pytest.mark.parametrize("uvloop", ["true", "false"], ids=["uvloop", "asyncio"])
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}
CLIENTS = 20


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Start one scripted server."""
    with Scripted() as server:
        yield server


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """Bind a socket, let connections queue on it, and hold it through the test."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as sock:
        yield sock


def url_of(sock: socket.socket) -> str:
    """Return the endpoint behind a socket."""
    return f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"


def text(response: Any) -> str:
    """Return the mark a scripted result echoes."""
    return str(response["result"]["content"][0]["text"])


async def queue(stack: AsyncExitStack, url: str) -> list[RawConnection]:
    """Connect and ask, whether anybody accepts or not."""
    connections = [await stack.enter_async_context(RawConnection(url)) for _ in range(CLIENTS)]
    for connection in connections:
        await RawSession(url, None).send(connection, "POST", INITIALIZE)
    return connections


async def answers(connections: list[RawConnection]) -> list[int]:
    """Return the statuses of what queued connections are answered."""
    return [(await connection.answer()).status for connection in connections]


async def ended(proxy: ProxyProcess) -> int:
    """End a proxy as a service manager does; return its exit code."""
    proxy.process.signal(signal.SIGTERM)
    return await asyncio.to_thread(proxy.process.wait_exit, 15.0)


@LOOPS
async def test_no_connection_is_refused_between_two_proxies(
    upstream: Scripted, held: socket.socket, uvloop: str
) -> None:
    """What connects before, between and after two proxies waits in the kernel's queue and is served by the next."""
    url, settings = url_of(held), {"SERVER__UVLOOP": uvloop}
    async with AsyncExitStack() as stack:
        early = await queue(stack, url)
        with ProxyProcess(upstream.url, settings, held) as first:
            # The ready line names where clients really connect.
            assert first.url == url
            assert await answers(early) == [200] * CLIENTS

            session = await RawSession.open(url)

            assert text(await session.call(script("first"))) == "first"
            assert await ended(first) == 0

        between = await queue(stack, url)
        with ProxyProcess(upstream.url, settings, held) as second:
            assert await answers(between) == [200] * CLIENTS

            session = await RawSession.open(url)

            assert text(await session.call(script("second"))) == "second"
            assert await ended(second) == 0

        # Nothing a proxy did to its copy closed the holder's: it can still accept by itself.
        await queue(stack, url)
        for _ in range(CLIENTS):
            held.accept()[0].close()


@LOOPS
async def test_one_proxy_drains_while_the_next_serves(upstream: Scripted, held: socket.socket, uvloop: str) -> None:
    """The running call of the first ends with its result; who connects meanwhile waits for the second, or has it."""
    url, settings, mark = url_of(held), {"SERVER__UVLOOP": uvloop}, f"drained on {uvloop}"
    async with AsyncExitStack() as stack:
        first = stack.enter_context(ProxyProcess(upstream.url, settings, held))
        session = await RawSession.open(url)
        listening = await stack.enter_async_context(RawConnection(url))
        running = await stack.enter_async_context(RawConnection(url))
        await session.listen(listening)
        call = session.call_body(script(mark, SSE, ["progress", 1], ["wait", mark], ["result"], END))
        await session.send(running, "POST", call)
        await until(lambda: len(upstream.executed(mark)) == 1, "the call runs")
        first.process.signal(signal.SIGTERM)

        # Its streams end behind its listening socket.
        assert (await listening.stream()).is_clean

        meanwhile = await queue(stack, url)
        stack.enter_context(ProxyProcess(upstream.url, settings, held))

        assert await answers(meanwhile) == [200] * CLIENTS
        assert first.process.returncode is None

        await upstream.control("open", gate=mark)
        await running.read_head()

        assert text((await running.stream()).messages[-1].json) == mark
        assert await asyncio.to_thread(first.process.wait_exit, 15.0) == 0


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="mcp")
os.execv(sys.executable, [sys.executable, "-m", "proxy", *sys.argv[2:]])
"""
"""Becomes the proxy as systemd starts it: the same process, its socket as descriptor 3."""


async def test_systemd_starts_it_with_its_socket(upstream: Scripted, held: socket.socket) -> None:
    """No flag says so: who connected before it ran is served, where the unit listens."""
    command = [sys.executable, "-c", ACTIVATE, str(held.fileno()), "--upstream", upstream.url]
    async with AsyncExitStack() as stack:
        early = await queue(stack, url_of(held))
        with Process("proxy", command, descriptors=[held.fileno()]) as process:
            line = process.wait_line("listening on ", START_TIMEOUT_SECONDS)
            found = READY.search(line)

            assert found
            assert found[1] == url_of(held)
            assert await answers(early) == [200] * CLIENTS
            assert process.stop() == 0

        late = await queue(stack, url_of(held))
        for _ in late:
            held.accept()[0].close()


async def test_a_socket_that_is_bound_only_is_made_to_listen(upstream: Scripted) -> None:
    """Whoever hands it over need not know how many connections may queue."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with ProxyProcess(upstream.url, sock=sock) as proxy:
            assert proxy.url == url_of(sock)
            assert (await RawSession.open(proxy.url)).id


async def test_a_socket_on_every_interface_is_not_served_unasked(upstream: Scripted) -> None:
    """Nothing is accepted from it: one line says what is wrong, and the exit code is 2."""
    with socket.create_server(("0.0.0.0", 0)) as sock:
        command = [sys.executable, "-m", "proxy", "--upstream", upstream.url, "--listen", f"fd:{sock.fileno()}"]
        with Process("proxy", command, descriptors=[sock.fileno()]) as process:
            code = await asyncio.to_thread(process.wait_exit, START_TIMEOUT_SECONDS)
            (line,) = process.lines
        place = f"listen.address: descriptor {sock.fileno()}: listening on 0.0.0.0 lets other machines in"

    assert code == 2
    assert line.startswith(f"mcp-session-proxy: error: {place}")


async def test_host_is_judged_by_the_address_of_the_socket(upstream: Scripted, held: socket.socket) -> None:
    """On loopback a page must not reach it under a name of its own, wherever the socket came from."""
    with ProxyProcess(upstream.url, {"LISTEN__ALLOW_ANONYMOUS": "true"}, held) as proxy:
        async with RawConnection(proxy.url) as connection:
            evil = await RawSession(proxy.url, None).exchange(
                connection, "POST", INITIALIZE, [("Host", "evil.example")]
            )

        assert evil.status == 403
