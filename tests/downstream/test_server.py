"""The server side of HTTP over real sockets: what a client sees of what a sink is told, and the other way round."""

import asyncio
import gzip
import logging
import socket
from typing import Any, Self

import pytest

from proxy.app import SERVERS, Server
from proxy.clock import SystemClock
from proxy.config import Listen
from proxy.core.edge import Request, Sink
from proxy.downstream.server import BURST_BYTES, HIGH_WATER_BYTES
from proxy.upstream.sockets import KEEPALIVE_IDLE_SECONDS
from support.asked import Asked
from support.raw import Cut, RawConnection
from support.raw_server import turns
from support.waiting import until

TEXT = ("Content-Type", "text/plain")
STREAM = [("Content-Type", "text/event-stream")]
MIB = 2**20


class House:
    """A server whose handler is the test: it finds the requests in `asked`, or names what to `do` with each."""

    kind = "wire"

    def __init__(self, *, peer_timeout_seconds: float = 5.0, **listen: Any) -> None:
        self.asked: list[Asked] = []
        self.do: Any = None
        self.peer_timeout_seconds = peer_timeout_seconds
        self.config = Listen(**{"head_timeout_seconds": 5.0, "max_body_bytes": 1000, **listen})

    async def __aenter__(self) -> Self:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        clock = SystemClock(asyncio.get_running_loop())
        self.server: Server = SERVERS[self.kind](self._handle, self.config, self.peer_timeout_seconds, clock)
        await self.server.start(self.sock)
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}/mcp"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close(0.1)
        self.sock.close()
        await turns()

    def _handle(self, request: Request, sink: Sink) -> None:
        self.asked.append(Asked(request, sink))
        if self.do is not None:
            self.do(request, sink)

    async def nth(self, number: int) -> Asked:
        """Wait for a request, counted from 1."""
        await until(lambda: len(self.asked) >= number, f"request {number}")
        return self.asked[number - 1]


@pytest.fixture(autouse=True, params=["wire", "aiohttp"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every test against both edges: which of them serves a client cannot be told from outside."""
    monkeypatch.setattr(House, "kind", request.param)


def echo(request: Request, sink: Sink) -> None:
    """Answer at once, with the body."""
    sink.answer(200, [TEXT], request.body)


def transport_of(sink: Any) -> Any:
    """Return the transport behind a sink of either edge."""
    return sink._connection.transport if hasattr(sink, "_connection") else sink._request.transport


def waiting_of(sink: Any) -> int:
    """Return how many bytes wait behind what the kernel took."""
    return transport_of(sink).get_write_buffer_size() if hasattr(sink, "_connection") else sink._size


async def rest_of(client: RawConnection, *, has_head: bool) -> bytes:
    """Read an answer to its end."""
    if not has_head:
        await client.read_head()
    return await client.read_body()


# -- requests


async def test_a_request_arrives_whole_and_as_it_was_sent() -> None:
    """Method, target, headers in their order and case, and body cross the edge untouched."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = echo
        await client.send(
            b"POST /mcp?a=%2f HTTP/1.1\r\nHost: h\r\nX-b: 1\r\nx-A: \xc3\xa9\r\nX-b: 2\r\nContent-Length: 2\r\n\r\nhi"
        )

        assert (await client.answer()).body == b"hi"

        got = house.asked[0].request

        assert (got.head.method, got.head.path, got.body) == ("POST", "/mcp?a=%2f", b"hi")
        assert got.headers == [("Host", "h"), ("X-b", "1"), ("x-A", "é"), ("X-b", "2"), ("Content-Length", "2")]


async def test_a_body_may_come_in_any_pieces() -> None:
    """Chunks are put together, and the handler is called once, with all of it."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = echo
        head = client.head("POST", [("Transfer-Encoding", "chunked")], b"")
        for piece in (head[:20], head[20:] + b"1\r", b"\na\r\n2\r\nbc", b"\r\n0\r\n\r\n"):
            await client.send(piece)
            await turns()

        assert (await client.answer()).body == b"abc"
        assert len(house.asked) == 1


async def test_a_compressed_body_is_handed_on_plain() -> None:
    """What was decoded does not say that it is encoded: the upstream could not read it."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = echo
        body = gzip.compress(b"plain")
        await client.request("POST", [("Content-Encoding", "GZIP"), ("X-A", "1")], body)

        assert (await client.answer()).body == b"plain"
        assert "content-encoding" not in {name.lower() for name, _ in house.asked[0].request.headers}

        await client.request("POST", [("Content-Encoding", "unheard-of")], b"as it is")

        assert (await client.answer()).body == b"as it is"
        assert ("Content-Encoding", "unheard-of") in house.asked[1].request.headers


async def test_a_body_that_cannot_be_decoded_is_the_clients_fault() -> None:
    """400, the connection ends, and no handler sees it."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("POST", [("Content-Encoding", "gzip")], b"no gzip")
        got = await client.answer()

        assert got.status == 400
        assert await client.ended()
        assert house.asked == []


async def test_a_bomb_is_measured_when_it_has_gone_off() -> None:
    """The bound is one of the decoded body."""
    async with House(max_body_bytes=1000) as house, RawConnection(house.url) as client:
        await client.request("POST", [("Content-Encoding", "gzip")], gzip.compress(bytes(100_000)))

        assert (await client.answer()).status == 413
        assert house.asked == []


async def test_requests_in_a_row_are_answered_in_order() -> None:
    """Pipelined requests are handled one after the other, whatever came with them in one segment."""
    async with House() as house, RawConnection(house.url) as client:
        await client.send(b"".join(client.head("POST", [], b"%d" % number) for number in range(5)))
        for number in range(5):
            asked = await house.nth(number + 1)
            await turns()

            assert len(house.asked) == number + 1

            echo(asked.request, asked.sink)

            assert (await client.answer()).body == b"%d" % number


@pytest.mark.parametrize(
    ("headers", "version", "is_kept"),
    [
        ([], "1.1", True),
        ([("Connection", "close")], "1.1", False),
        ([], "1.0", False),
        ([("Connection", "keep-alive")], "1.0", True),
    ],
)
async def test_a_connection_is_kept_as_the_client_says(
    headers: list[tuple[str, str]], version: str, is_kept: bool
) -> None:
    """Kept by default in HTTP/1.1 and not before."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = echo
        for number in range(2 if is_kept else 1):
            await client.send(client.head("POST", headers, b"%d" % number, version))

            assert (await client.answer()).body == b"%d" % number

        assert is_kept or await client.ended()


# -- bounds on what a client sends


async def test_a_head_that_does_not_come_ends_the_connection() -> None:
    """The first one is due from the beginning, without a byte; a later one once it has begun."""
    async with House(head_timeout_seconds=0.1) as house:
        house.do = echo
        for begun in (b"", b"POST /mcp HTT"):
            async with RawConnection(house.url) as client:
                await client.send(begun)

                assert await client.ended()

        async with RawConnection(house.url) as client:
            await client.request("POST", [], b"1")
            await client.answer()
            await client.send(b"POST /mcp HTT")

            assert await client.ended()


async def test_an_idle_connection_is_not_short_of_time() -> None:
    """A client that waits between requests is no slow head: its POST would race with the end of the connection."""
    async with House(head_timeout_seconds=0.1) as house, RawConnection(house.url) as client:
        house.do = echo
        await client.request("POST", [], b"1")
        await client.answer()

        assert not await client.ended(0.3)

        await client.request("POST", [], b"2")

        assert (await client.answer()).body == b"2"


async def test_a_handler_that_takes_long_is_not_a_slow_head() -> None:
    """Once the head is whole, its time is over."""
    async with House(head_timeout_seconds=0.1) as house, RawConnection(house.url) as client:
        await client.request("POST", [], b"1")
        asked = await house.nth(1)

        assert not await client.ended(0.3)

        echo(asked.request, asked.sink)

        assert (await client.answer()).body == b"1"


async def test_a_body_that_does_not_come_is_told_408() -> None:
    """In a bounded time, without a handler; what is left of it is not taken for a request."""
    async with House(head_timeout_seconds=0.1) as house, RawConnection(house.url) as client:
        await client.send(client.head("POST", [("Content-Length", "10")]) + b"abc")
        got = await client.answer()

        assert got.status == 408
        assert got.json["error"]["data"]["reason"] == "body_timeout"
        assert got.head.get("Connection") == "close"
        assert house.asked == []


async def test_a_body_at_the_limit_is_taken() -> None:
    """The limit is the largest size, not the smallest refused one."""
    async with House(max_body_bytes=1000) as house, RawConnection(house.url) as client:
        house.do = echo
        await client.request("POST", [], bytes(1000))

        assert (await client.answer()).body == bytes(1000)


@pytest.mark.parametrize("how", ["announced", "announced and there", "chunked"])
async def test_a_body_beyond_the_limit_is_told_413(how: str) -> None:
    """An announcement suffices; chunks are counted; no handler sees it."""
    async with House(max_body_bytes=1000) as house, RawConnection(house.url) as client:
        if how == "announced":
            await client.send(client.head("POST", [("Content-Length", "1001")]))
        elif how == "chunked":
            head = client.head("POST", [("Transfer-Encoding", "chunked")])
            await client.send(head + b"3e8\r\n" + bytes(1000) + b"\r\n1\r\n")
            await turns()
            await client.send(b"a\r\n")
        else:
            await client.request("POST", [], bytes(1001))
        got = await client.answer()

        assert got.status == 413
        assert got.json["error"]["data"]["reason"] == "body_too_large"
        assert got.json["error"]["data"]["limit"] == 1000
        assert got.head.get("Connection") == "close"
        assert house.asked == []


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    """`Expect: 100-continue` is answered when the body is wanted."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = echo
        await client.send(client.head("POST", [("Expect", "100-Continue"), ("Content-Length", "2")]))

        assert (await client.read_head()).status == 100

        await client.send(b"hi")

        assert (await client.answer()).body == b"hi"


async def test_a_client_that_asks_and_sends_is_not_told_to_go_on() -> None:
    """The body is there already."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = echo
        await client.request("POST", [("Expect", "100-continue")], b"hi")

        assert (await client.answer()).status == 200


async def test_a_client_that_asks_with_too_much_is_told_no() -> None:
    """413 instead of 100: nothing of it has to be sent."""
    async with House(max_body_bytes=1000) as house, RawConnection(house.url) as client:
        await client.send(client.head("POST", [("Expect", "100-continue"), ("Content-Length", "1001")]))

        assert (await client.read_head()).status == 413


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: x\r\n folded: 1\r\n\r\n",
    ],
    ids=["TLS", "length and chunks", "two lengths", "chunk size", "long line", "folded"],
)
async def test_what_is_no_http_gets_400_and_the_end(data: bytes) -> None:
    """No handler sees it, and the answer does not name a library."""
    async with House() as house, RawConnection(house.url) as client:
        await client.send(data)
        got = await client.answer()

        assert got.status == 400
        assert got.head.get("Server") == "mcp-session-proxy"
        assert await client.ended()
        assert house.asked == []


# -- answers


async def test_a_whole_answer_has_its_length() -> None:
    """Head, body and end of one turn go out as one message that says its length and its server."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = lambda _, sink: sink.answer(404, [TEXT, ("X-A", "1"), ("X-A", "2")], b"gone")
        await client.request("POST", [], b"1")
        got = await client.answer()

        assert (got.status, got.body) == (404, b"gone")
        assert got.head.get("Content-Length") == "4"
        assert got.head.get("Transfer-Encoding") is None
        assert got.head.get("Server") == "mcp-session-proxy"
        assert [value for name, value in got.head.headers if name == "X-A"] == ["1", "2"]


async def test_an_empty_answer_says_so() -> None:
    """A 202 has no body and no content type that it was not given."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = lambda _, sink: sink.answer(202, [], b"")
        await client.request("POST", [], b"1")
        got = await client.answer()

        assert (got.status, got.body, got.head.get("Content-Length")) == (202, b"", "0")
        assert got.head.get("Content-Type") in (None, "application/octet-stream")


async def test_a_server_that_the_upstream_names_stays() -> None:
    """An answer that was relayed says whose it is."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = lambda _, sink: sink.answer(200, [("Server", "upstream/1")], b"")
        await client.request("POST", [], b"1")

        assert (await client.answer()).head.get("Server") == "upstream/1"


async def test_an_answer_may_come_later() -> None:
    """Until it starts, nothing is sent; finished in one turn it is whole all the same."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("POST", [], b"1")
        asked = await house.nth(1)
        await turns()
        asked.sink.answer(200, [TEXT], b"late")

        assert (await client.answer()).head.get("Content-Length") == "4"


async def test_a_stream_goes_out_as_it_is_written() -> None:
    """Head at once, every turn's bytes in a chunk, and a last chunk at the end; the connection is kept."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("GET")
        sink = (await house.nth(1)).sink
        sink.start(200, STREAM)
        head = await client.read_head()

        assert head.get("Transfer-Encoding") == "chunked"
        assert head.get("Content-Type") == "text/event-stream"

        for number in range(3):
            sink.write(b"data: %d\n\n" % number)

            assert (await client.message()).data == str(number)

        sink.write(b"data: 3\n\n")
        sink.write(b"data: 4\n\n")
        sink.finish()

        assert await client.read_body() == b"data: 3\n\ndata: 4\n\n"

        house.do = echo
        await client.request("POST", [], b"next")

        assert (await client.answer()).body == b"next"
        assert house.asked[0].closed == 0


async def test_a_stream_towards_an_old_client_ends_with_the_connection() -> None:
    """HTTP/1.0 knows no chunks."""
    async with House() as house, RawConnection(house.url) as client:
        await client.send(client.head("GET", version="1.0"))
        sink = (await house.nth(1)).sink
        sink.start(200, STREAM)
        head = await client.read_head()
        sink.write(b"data: 1\n\n")
        await turns()
        sink.finish()

        assert head.get("Transfer-Encoding") is None
        assert await client.read_body() == b"data: 1\n\n"


@pytest.mark.parametrize("when", ["before the head", "behind the head", "in the body", "as it is written"])
async def test_an_abort_leaves_no_last_chunk(when: str, caplog: pytest.LogCaptureFixture) -> None:
    """What was sent is not to be taken for complete; the watcher is not told what it did itself, nor is the log."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("GET")
        asked = await house.nth(1)
        if when != "before the head":
            asked.sink.start(200, STREAM)
        if when == "in the body":
            asked.sink.write(b"data: 1\n\n")
            await client.read_head()
            await client.frame()
        elif when == "behind the head":
            await client.read_head()
        elif when == "as it is written":
            asked.sink.write(b"data: 1\n\n")
        asked.sink.abort()
        if when == "before the head":
            assert await client.ended()
        else:
            with pytest.raises(Cut):
                await rest_of(client, has_head=when != "as it is written")
        await turns()

        assert asked.closed == 0
        assert caplog.records == []


async def test_an_abort_ends_a_write_that_the_client_does_not_take() -> None:
    """A reader that stands still cannot hold what was cut."""
    async with House() as house, RawConnection(house.url, receive_buffer_bytes=4096) as client:
        await client.request("GET")
        asked = await house.nth(1)
        asked.sink.start(200, STREAM)
        await fill(asked)
        asked.sink.abort()
        with pytest.raises((Cut, ConnectionError)):
            await rest_of(client, has_head=False)

        assert (asked.closed, asked.drained) == (0, 0)


# -- clients that go away


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("when", ["before the answer", "in the stream"])
async def test_a_client_that_goes_is_told_once(when: str, reset: bool) -> None:
    """Also while nothing is sent; whatever is written afterwards is harmless."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("GET")
        asked = await house.nth(1)
        if when == "in the stream":
            asked.sink.start(200, STREAM)
            asked.sink.write(b"data: 1\n\n")
            await client.read_head()
            await client.frame()
        client.cut(reset=reset)
        await until(lambda: asked.closed > 0, "the news")
        asked.sink.start(200, STREAM)
        asked.sink.write(bytes(4 * MIB))

        assert not asked.sink.congested

        asked.sink.finish()
        asked.sink.abort()
        await turns()

        assert (asked.closed, asked.drained) == (1, 0)


async def test_a_client_that_goes_in_its_own_body_was_never_there() -> None:
    """A request that did not arrive whole is nobody's."""
    async with House() as house, RawConnection(house.url) as client:
        await client.send(client.head("POST", [("Content-Length", "10")]) + b"abc")
        await turns()
        client.cut()
        await turns(20)

        assert house.asked == []


async def test_a_client_that_goes_behind_its_answer_is_not_told() -> None:
    """The sink was finished, so nobody waits for news of it."""
    async with House() as house, RawConnection(house.url) as client:
        house.do = echo
        await client.request("POST", [], b"1")
        await client.answer()
        client.cut()
        await turns(20)

        assert house.asked[0].closed == 0


async def test_only_the_last_watcher_is_told() -> None:
    """A sink that changes hands has one watcher at a time, or none."""
    async with House() as house:
        for has_next in (True, False):
            async with RawConnection(house.url) as client:
                await client.request("GET")
                first = await house.nth(len(house.asked) + 1)
                second = Asked(first.request, first.sink)
                if not has_next:
                    first.sink.watch(None)
                client.cut()
                if has_next:
                    await until(lambda second=second: second.closed == 1, "the news")
                await turns(20)

                assert (first.closed, second.closed) == (0, int(has_next))


async def test_the_kernel_watches_the_client() -> None:
    """A client that vanished without a word is noticed within `peer_timeout_seconds`."""
    async with House(peer_timeout_seconds=7.0) as house, RawConnection(house.url) as client:
        await client.request("GET")
        asked = await house.nth(1)
        transport = transport_of(asked.sink)
        sock = transport.get_extra_info("socket")

        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_SECONDS
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


# -- clients that read slowly


async def fill(asked: Asked) -> int:
    """Write, a bit in every turn, until the sink says that it is enough; return the bytes."""
    written = 0
    async with asyncio.timeout(10):
        while not asked.sink.congested:
            asked.sink.write(bytes(32_768))
            written += 32_768
            await turns(1)
    return written


async def test_a_reader_that_does_not_read_congests_its_sink_and_drains_it_once_it_reads() -> None:
    """What waits is bounded by the high-water mark beside the kernel's buffers; the watcher is told when it is gone."""
    async with House() as house, RawConnection(house.url, receive_buffer_bytes=4096) as client:
        await client.request("GET")
        asked = await house.nth(1)
        asked.sink.start(200, STREAM)
        written = await fill(asked)
        waiting = waiting_of(asked.sink)

        assert HIGH_WATER_BYTES <= waiting < HIGH_WATER_BYTES + 2 * 32_768 + BURST_BYTES
        assert asked.drained == 0

        await client.read_head()
        got = 0
        while asked.drained == 0:
            got += len(await client._read_some())

        assert asked.drained == 1
        assert not asked.sink.congested

        asked.sink.finish()
        got += len(await client.read_body())

        assert got == written
        assert asked.closed == 0


async def test_a_reader_that_keeps_up_is_never_told_of_draining() -> None:
    """Who was not told to stop is not told to go on."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("GET")
        asked = await house.nth(1)
        asked.sink.start(200, STREAM)
        await client.read_head()
        for _ in range(100):
            asked.sink.write(bytes(1000))

            assert not asked.sink.congested

            await client._read_some()
        asked.sink.finish()
        await client.read_body()

        assert asked.drained == 0


async def test_a_burst_of_one_turn_is_no_slowness() -> None:
    """Before the first write could show whether the client reads, a whole replay may gather; there is an end to it."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("GET")
        asked = await house.nth(1)
        asked.sink.start(200, STREAM)
        asked.sink.write(bytes(BURST_BYTES - 1))

        assert not asked.sink.congested

        asked.sink.write(b"a")

        assert asked.sink.congested

        asked.sink.finish()
        await client.read_head()

        assert len(await client.read_body()) == BURST_BYTES


async def test_a_client_that_goes_while_it_is_waited_for_is_told() -> None:
    """A write that hangs ends with the connection."""
    async with House() as house, RawConnection(house.url, receive_buffer_bytes=4096) as client:
        await client.request("GET")
        asked = await house.nth(1)
        asked.sink.start(200, STREAM)
        await fill(asked)
        client.cut()
        await until(lambda: asked.closed == 1, "the news")

        assert not asked.sink.congested
        assert asked.drained == 0


# -- defects of our own, and the end


async def test_a_handler_that_raises_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    """500, the connection ends, the defect is logged, others go on; the answer names no library."""

    def fail(request: Request, sink: Sink) -> None:
        raise RuntimeError("defect")

    async with House() as house, RawConnection(house.url) as client:
        house.do = fail
        with caplog.at_level(logging.ERROR):
            await client.request("POST", [], b"1")
            got = await client.answer()

        assert got.status == 500
        assert got.head.get("Server") == "mcp-session-proxy"
        assert b"defect" not in got.body
        assert await client.ended()
        assert "RuntimeError: defect" in caplog.text

        house.do = echo
        async with RawConnection(house.url) as other:
            await other.request("POST", [], b"2")

            assert (await other.answer()).body == b"2"


async def test_stopping_to_accept_leaves_connections_alone() -> None:
    """New ones are refused; a request under way is answered."""
    async with House() as house, RawConnection(house.url) as client:
        await client.request("POST", [], b"1")
        asked = await house.nth(1)
        house.server.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            async with RawConnection(house.url):
                pass
        echo(asked.request, asked.sink)

        assert (await client.answer()).body == b"1"


async def test_the_end_closes_idle_connections_at_once_and_others_in_time() -> None:
    """An answer under way is written out; one that never ends is cut at the bound."""
    async with House() as house:
        async with (
            RawConnection(house.url) as idle,
            RawConnection(house.url) as busy,
            RawConnection(house.url) as stuck,
        ):
            await busy.request("POST", [], b"1")
            asked = await house.nth(1)
            await stuck.request("GET")
            hanging = await house.nth(2)
            hanging.sink.start(200, STREAM)
            await stuck.read_head()
            closing = asyncio.create_task(house.server.close(0.3))

            assert await idle.ended()

            echo(asked.request, asked.sink)

            assert (await busy.answer()).body == b"1"

            await closing
            with pytest.raises(Cut):
                await stuck.read_body()

        assert hanging.closed == 1


async def test_a_server_that_never_started_can_be_closed() -> None:
    """The end does not depend on how far the beginning got."""
    server = SERVERS[House.kind](echo, Listen(), 5.0, SystemClock(asyncio.get_running_loop()))
    await server.close(0.1)
