"""A server that makes way: its socket goes on in other hands, and its connections end at an answer and nowhere else."""

import asyncio
import contextlib
import socket
from typing import Any, Self

import pytest

from proxy.app import SERVERS, Server
from proxy.clock import SystemClock
from proxy.config import Listen
from proxy.core.edge import Request, Sink
from support.asked import Asked
from support.raw import RawConnection
from support.raw_server import turns
from support.waiting import until

TEXT = ("Content-Type", "text/plain")
STREAM = [("Content-Type", "text/event-stream")]
MODERN = [("MCP-Protocol-Version", "2026-07-28")]
SESSION = [("Mcp-Session-Id", "s-1"), ("MCP-Protocol-Version", "2025-11-25")]
ODD = [("Connection", "TE, keep-alive")]
"""What makes the library serve a connection of either edge."""


class House:
    """A server on a socket that somebody else holds too."""

    kind = "wire"

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Self:
        self.held = socket.create_server(("127.0.0.1", 0))
        self.held.settimeout(5.0)
        self.sock = self.held.dup()
        clock = SystemClock(asyncio.get_running_loop())
        config = Listen(head_timeout_seconds=5.0, max_body_bytes=1000)
        self.server: Server = SERVERS[self.kind](self._handle, config, 5.0, clock)
        await self.server.start(self.sock)
        self.url = f"http://127.0.0.1:{self.held.getsockname()[1]}/mcp"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close(0.1)
        self.sock.close()
        self.held.close()
        await turns()

    def _handle(self, request: Request, sink: Sink) -> None:
        self.asked.append(Asked(request, sink))

    async def asks(self, client: RawConnection, method: str, headers: Any = ()) -> Sink:
        """Send a request and return the sink it is to be answered through."""
        number = len(self.asked)
        await client.request(method, headers, b"1" if method == "POST" else None)
        await until(lambda: len(self.asked) > number, "the request")
        return self.asked[number].sink


@pytest.fixture(autouse=True, params=["wire", "aiohttp"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every test against both edges."""
    monkeypatch.setattr(House, "kind", request.param)


heads = pytest.mark.parametrize("odd", [[], ODD], ids=["usual", "unusual"])


@pytest.mark.parametrize("verb", ["stop_accepting", "close"])
async def test_the_socket_goes_on_in_other_hands(verb: str) -> None:
    """Only this copy is closed: what connects then waits for its other holder, whatever ended the server."""
    async with House() as house:
        if verb == "close":
            await house.server.close(0.1)
        else:
            house.server.stop_accepting()
        await turns()
        async with RawConnection(house.url) as client:
            await client.send(b"hello")
            accepted, _ = await asyncio.to_thread(house.held.accept)
            with accepted:
                assert accepted.recv(5) == b"hello"


@pytest.mark.parametrize("turns_before", range(4))
async def test_what_was_just_accepted_is_served(turns_before: int) -> None:
    """However the turns of the loop fall, a connection is served here or waits for the other holder."""
    async with House() as house:
        clients = [socket.create_connection(house.held.getsockname()) for _ in range(5)]
        for _ in range(turns_before):
            await asyncio.sleep(0)
        await house.server.release()
        for client in clients:
            client.sendall(b"GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns(20)
        waiting = queued(house.held)
        for client in clients:
            client.close()

        assert len(house.asked) + waiting == len(clients)


def queued(sock: socket.socket) -> int:
    """Count the connections that wait on a socket, and end them."""
    sock.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()
            count += 1
    return count


async def test_release_stops_to_accept_and_leaves_connections_alone() -> None:
    """As `stop_accepting` does; to do it twice changes nothing."""
    async with House() as house, RawConnection(house.url) as client:
        sink = await house.asks(client, "POST")
        house.held.close()
        await house.server.release()
        await house.server.release()
        await turns()
        with pytest.raises(ConnectionRefusedError):
            async with RawConnection(house.url):
                pass
        sink.answer(200, [TEXT], b"1")

        assert (await client.answer()).body == b"1"


# -- connections that need nothing of this process


@heads
@pytest.mark.parametrize(("method", "headers"), [("POST", MODERN), ("DELETE", SESSION)], ids=["modern", "delete"])
async def test_who_needs_nothing_is_told_to_connect_again(method: str, headers: Any, odd: Any) -> None:
    """A connection that carries no session, or no longer, ends with its next answer, which says so."""
    async with House() as house, RawConnection(house.url) as client:
        (await house.asks(client, "POST", [*MODERN, *odd])).answer(200, [TEXT], b"1")
        before = await client.answer()
        house.server.part()
        (await house.asks(client, method, [*headers, *odd])).answer(200, [TEXT], b"22")
        after = await client.answer()

        assert before.head.get("Connection") in (None, "keep-alive")
        assert after.head.get("Connection") == "close"
        assert after.body == b"22"
        assert await client.ended()


@heads
async def test_who_has_a_session_keeps_its_connection(odd: Any) -> None:
    """It is the only way to the session; and a connection without one may be about to open it."""
    async with House() as house, RawConnection(house.url) as client:
        house.server.part()
        for headers in (SESSION, [], SESSION):
            (await house.asks(client, "POST", [*headers, *odd])).answer(200, [TEXT], b"1")

            assert (await client.answer()).head.get("Connection") in (None, "keep-alive")


async def test_a_stream_can_be_the_last_answer_too() -> None:
    """Its head says so, its verbs reach the client, and what happens to the client reaches its watcher."""
    async with House() as house, RawConnection(house.url) as client:
        house.server.part()
        sink = await house.asks(client, "POST", MODERN)
        told: list[str] = []

        class Watching:
            def sink_closed(self) -> None:
                told.append("closed")

            def sink_drained(self) -> None:
                told.append("drained")

        sink.watch(Watching())
        sink.start(200, STREAM)
        sink.write(b"data: 1\n\n")

        assert (await client.read_head()).get("Connection") == "close"
        assert (await client.frame()) is not None
        assert not sink.congested

        client.cut()
        await until(lambda: told == ["closed"], "the end of the client")

        async with RawConnection(house.url) as other:
            cut = await house.asks(other, "POST", MODERN)
            cut.start(200, STREAM)
            cut.write(b"data: 1\n\n")
            await other.read_head()
            cut.abort()

            assert not (await other.stream()).is_clean

        async with RawConnection(house.url) as another:
            ending = await house.asks(another, "POST", MODERN)
            ending.start(200, STREAM)
            ending.write(b"data: 1\n\n")
            ending.finish()
            await another.read_head()

            assert (await another.stream()).is_clean


# -- connections that end behind a stream


@heads
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "just begun"])
async def test_a_stream_takes_its_connection_along(is_open: bool, odd: Any) -> None:
    """It ends as HTTP demands, then the connection does; a stream that ends by itself later leaves its own open."""
    async with House() as house, RawConnection(house.url) as client, RawConnection(house.url) as other:
        sink = await house.asks(client, "GET", odd)
        later = await house.asks(other, "GET", odd)
        for each in (sink, later):
            each.start(200, STREAM)
            each.write(b"data: 1\n\n")
        if is_open:
            await client.read_head()
        with house.server.closing_behind():
            sink.finish()
        later.finish()
        if not is_open:
            await client.read_head()

        assert (await client.stream()).is_clean
        assert await client.ended()

        await other.read_head()

        assert (await other.stream()).is_clean

        (await house.asks(other, "POST", odd)).answer(200, [TEXT], b"1")

        assert (await other.answer()).body == b"1"


async def test_a_server_that_ends_goes_on_to_end() -> None:
    """What closes behind a stream for a moment does not take back that everything closes."""
    async with House() as house:
        await house.server.close(0.1)
        before = house.server.is_closing
        with house.server.closing_behind():
            assert house.server.is_closing

        assert house.server.is_closing is before
