"""What the connections of one socket share: their deadlines, their eras, the date, the end, and the library behind."""

import asyncio
import logging
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.config import Listen
from proxy.core.edge import Request, Sink
from proxy.downstream import wire as module
from proxy.downstream.connection import Connection
from proxy.downstream.wire import ERAS, IDLE_SECONDS, WireServer
from support.fakes import FakeClock
from support.raw_server import turns
from support.waiting import until

POST = b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
TEXT = [("Content-Type", "text/plain")]
ERA = IDLE_SECONDS / ERAS


class FakeTransport(asyncio.Transport):
    """Takes what is written; when it has ended, its protocol hears of it in the loop's next turn, or when told."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.is_stuck = False
        """Whether the client reads nothing, so that a close does not come to its end."""
        self.is_closed = False
        self.is_cut = False
        self.is_lost = False

    def write(self, data: Any) -> None:
        """Record."""
        self.written += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        """Record."""
        self.written += b"".join(list_of_data)

    def close(self) -> None:
        """End once everything has left."""
        self.is_closed = True
        if not self.is_stuck:
            self._lose()

    def abort(self) -> None:
        """End now."""
        self.is_cut = True
        self._lose()

    def _lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            asyncio.get_running_loop().call_soon(lambda: self.protocol.connection_lost(None))

    def is_closing(self) -> bool:
        """Tell whether it was ended."""
        return self.is_closed or self.is_cut

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Know nothing."""
        return default

    def pause_reading(self) -> None:
        """Take it."""

    def resume_reading(self) -> None:
        """Take it."""

    def set_protocol(self, protocol: Any) -> None:
        """Take another."""
        self.protocol = protocol

    def get_protocol(self) -> Any:
        """Return the present one."""
        return self.protocol


class FakeLoop:
    """Makes no socket, and leaves the rest to the running loop."""

    def __init__(self) -> None:
        self.reported: list[dict[str, Any]] = []
        self.is_accepting = False
        self.make: Any = None

    async def create_server(self, make: Any, *, sock: Any, backlog: int) -> Any:
        """Keep what makes a connection."""
        self.make = make
        self.is_accepting = True
        return self

    def close(self) -> None:
        """Accept no more."""
        self.is_accepting = False

    def call_soon(self, callback: Any) -> None:
        """Call in the next turn."""
        asyncio.get_running_loop().call_soon(callback)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note it."""
        self.reported.append(context)


class House:
    """A server without a socket, whose handler and clients are the test."""

    def __init__(self, **listen: Any) -> None:
        self.clock = FakeClock()
        self.asked: list[Sink] = []
        self.error: Exception | None = None
        config = Listen(**{"head_timeout_seconds": 16.0, "max_body_bytes": 1000, **listen})
        self.server = WireServer(self._handle, config, 5.0, self.clock)
        self.loop = FakeLoop()
        self.server._loop = self.loop  # type: ignore[assignment]

    async def open(self) -> "House":
        """Start."""
        sock: Any = SimpleNamespace(family=socket.AF_UNIX)
        await self.server.start(sock)
        return self

    def _handle(self, request: Request, sink: Sink) -> None:
        self.asked.append(sink)
        if self.error is not None:
            raise self.error

    def client(self, data: bytes = b"") -> FakeTransport:
        """Accept a connection on which some bytes arrive."""
        connection: Connection = self.loop.make()
        transport = FakeTransport(connection)
        connection.connection_made(transport)
        if data:
            connection.data_received(data)
        return transport

    def idle(self) -> FakeTransport:
        """Accept a connection on which a request is answered."""
        transport = self.client(POST)
        self.asked.pop().answer(200, TEXT, b"1")
        return transport


async def test_an_idle_connection_is_kept_for_its_time() -> None:
    """Not a moment less, whenever it was last used, and not much more."""
    house = await House().open()
    for pause in (0.0, 0.5, ERA - 0.001, ERA, 1.5 * ERA):
        house.clock.advance(pause)
        transport = house.idle()
        house.clock.advance(IDLE_SECONDS)

        assert not transport.is_closed

        house.clock.advance(ERA)

        assert transport.is_closed


async def test_a_request_begins_an_idle_connections_time_anew() -> None:
    """Its answer does; while it is under way its time stands still, however long that takes."""
    house = await House().open()
    transport = house.idle()
    house.clock.advance(IDLE_SECONDS / 2)
    transport.protocol.data_received(POST)
    house.clock.advance(2 * IDLE_SECONDS)

    assert not transport.is_closed

    house.asked[0].answer(200, TEXT, b"2")
    house.clock.advance(IDLE_SECONDS)

    assert not transport.is_closed

    house.clock.advance(ERA)

    assert transport.is_closed


async def test_a_new_connection_has_its_own_time() -> None:
    """It does not count as one that has been idle since the server began."""
    house = await House(head_timeout_seconds=3600.0).open()
    house.clock.advance(20 * ERA)
    transport = house.client()
    house.clock.advance(ERA)

    assert not transport.is_closed


async def test_the_deadlines_of_all_are_one_timer() -> None:
    """A head that does not come ends its connection alone."""
    house = await House(head_timeout_seconds=16.0).open()
    before = house.clock.pending()
    slow = [house.client(POST[:-7]) for _ in range(5)]
    idle = house.idle()

    assert house.clock.pending() == before + 1

    house.clock.advance(15.99)

    assert not any(transport.is_closed for transport in slow)

    house.clock.advance(1.01)

    assert all(transport.is_closed for transport in slow)
    assert not idle.is_closed


async def test_the_date_is_at_most_a_second_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """And made once a second."""
    made: list[float] = []
    house = House()

    def date_line() -> bytes:
        made.append(house.clock.now())
        return b"Date: %f\r\n" % made[-1]

    monkeypatch.setattr(module, "date_line", date_line)
    for _ in range(100):
        house.clock.advance(0.125)
        age = house.clock.now() - float(house.server.date().split()[1])

        assert 0 <= age < 1

    assert len(made) <= 14


async def test_a_defect_is_reported_to_the_loop() -> None:
    """Which logs it; the client is told 500."""
    house = await House().open()
    house.error = RuntimeError("defect")
    transport = house.client(POST)

    assert [context["exception"] for context in house.loop.reported] == [house.error]
    assert transport.written.startswith(b"HTTP/1.1 500 ")


# -- the library behind


@pytest.fixture(name="_quiet")
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library logs a traceback for whatever is no HTTP."""
    monkeypatch.setattr(logging.getLogger("aiohttp.server"), "disabled", True)


async def test_what_is_handed_over_reaches_the_library() -> None:
    """With every byte; its requests come to the same handler, and this server holds the connection no more."""
    house = await House().open()
    data = POST.replace(b"Host: h", b"Host: h\r\nConnection: close")
    transport = house.client(data[:40])
    transport.protocol.data_received(data[40:])
    await until(lambda: bool(house.asked), "the request")
    house.asked[0].answer(200, TEXT, b"from the library")
    await until(lambda: transport.is_closed, "the end of the connection")

    assert transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert transport.written.endswith(b"\r\n\r\nfrom the library")
    assert not isinstance(transport.protocol, Connection)

    await house.server.close(0.01)


async def test_the_library_knows_that_a_client_does_not_read() -> None:
    """It would write on without end; and it is told by the transport when the client reads again."""
    house = await House().open()
    transport = house.client(POST)
    transport.protocol.data_received(POST)
    transport.protocol.pause_writing()
    house.asked.pop().answer(200, TEXT, b"1")

    assert not isinstance(transport.protocol, Connection)
    assert transport.protocol.writing_paused

    transport.protocol.resume_writing()

    assert not transport.protocol.writing_paused

    await house.server.close(0.01)


async def test_the_library_knows_that_a_client_sent_on() -> None:
    """Behind the first request there may be a head that has only begun."""
    house = await House().open()

    assert house.client(POST + POST[:20]).protocol.is_followed
    assert not house.client(POST.replace(b"1.1", b"1.0")).protocol.is_followed

    await house.server.close(0.01)


async def test_the_library_ends_with_the_server() -> None:
    """What was handed over is bounded as well."""
    house = await House().open()
    transport = house.client(POST.replace(b"1.1", b"1.0"))
    await until(lambda: bool(house.asked), "the request")
    await house.server.close(0.01)
    await until(transport.is_closing, "the end of the connection")


@pytest.mark.usefixtures("_quiet")
async def test_what_is_no_http_is_answered_by_the_library() -> None:
    """400, in its words."""
    house = await House().open()
    transport = house.client(b"\x16\x03\x01\x02\x00\r\n\r\n")
    await until(lambda: bool(transport.written), "an answer")

    assert transport.written.startswith(b"HTTP/1.0 400 ") or transport.written.startswith(b"HTTP/1.1 400 ")

    await house.server.close(0.01)


# -- the end


async def test_idle_connections_end_with_the_server() -> None:
    """At once: those that were answered, and those that have not said anything yet."""
    house = await House().open()
    transports = [house.idle(), house.client(), house.client(POST[:40])]
    await house.server.close(1000.0)

    assert all(transport.is_closed and not transport.is_cut for transport in transports)
    assert not house.loop.is_accepting
    assert len(house.server.due) == 0


async def test_a_server_without_connections_ends_at_once() -> None:
    """Nobody is waited for."""
    house = await House().open()
    await house.server.close(1000.0)

    assert not house.loop.is_accepting


async def test_an_answer_under_way_is_waited_for() -> None:
    """The connection ends behind it, and the server when the last one has."""
    house = await House().open()
    idle, busy, other = house.idle(), house.client(POST), house.client(POST)
    closing = asyncio.ensure_future(house.server.close(1000.0))
    await turns()

    assert idle.is_closed
    assert not busy.is_closing()

    house.asked[0].answer(200, TEXT, b"late")
    await turns()

    assert busy.written.endswith(b"late")
    assert busy.is_closed
    assert not closing.done()

    house.asked[1].answer(200, TEXT, b"last")
    await closing

    assert not busy.is_cut
    assert not other.is_cut


async def test_an_answer_that_has_not_left_is_waited_for() -> None:
    """A client that reads slowly gets what was written, as long as there is time."""
    house = await House().open()
    busy = house.client(POST)
    busy.is_stuck = True
    closing = asyncio.ensure_future(house.server.close(1000.0))
    await turns()
    house.asked[0].answer(200, TEXT, b"late")
    await turns()

    assert busy.is_closed
    assert not closing.done()

    busy._lose()
    await closing

    assert not busy.is_cut


@pytest.mark.parametrize("is_answered", [False, True])
async def test_what_does_not_end_in_time_is_cut(is_answered: bool) -> None:
    """An answer that does not come, and a client that does not read one; whoever watches is told."""
    house = await House().open()
    stuck = house.client(POST)
    stuck.is_stuck = True
    told: list[str] = []
    watcher: Any = SimpleNamespace(sink_closed=lambda: told.append("closed"), sink_drained=lambda: None)
    house.asked[0].watch(watcher)
    closing = asyncio.ensure_future(house.server.close(0.01))
    await turns()
    if is_answered:
        house.asked[0].answer(200, TEXT, b"late")
    await closing

    assert stuck.is_cut
    assert not house.server._connections
    assert told == ([] if is_answered else ["closed"])


async def test_nothing_goes_on_behind_the_end() -> None:
    """The look at idle connections is the last."""
    house = await House().open()
    await house.server.close(0.01)
    house.clock.advance(IDLE_SECONDS)

    assert house.clock.pending() == 0
