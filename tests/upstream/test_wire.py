"""The pool of the wire edge and what it writes: which connection is used, when an idle one ends, exact bytes."""

import asyncio
from typing import Any
from unittest.mock import patch

import pytest

from proxy.config import Upstream
from proxy.core.headers import Block
from proxy.upstream.base import Loss, UpstreamRequest
from proxy.upstream.connection import Connection
from proxy.upstream.wire import WireEdge
from support.raw_server import Bench, Heard, Peer, answering, ok, playing, turns
from support.waiting import until


async def bytes_of(request: UpstreamRequest, **settings: Any) -> bytes:
    """Return what is written for a request."""
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        got.append(await peer.reader.readuntil(b"\r\n\r\n"))
        got.append(await peer.reader.readexactly(len(request.body)))
        await peer.send(ok())

    async with Bench(WireEdge, script, **settings) as b:
        heard = Heard()
        b.edge.send(request, heard)
        await heard.over()
        return b"".join(got).replace(f":{b.server.port}".encode(), b":PORT")


async def test_a_request_is_written_as_it_was_given() -> None:
    """Host first, then the given headers in their order and case, then the framing; nothing else."""
    request = UpstreamRequest("POST", [("X-b", "1"), ("x-A", "2")], b"{}")

    assert await bytes_of(request) == (
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-b: 1\r\nx-A: 2\r\nContent-Length: 2\r\n\r\n{}"
    )


async def test_a_fresh_request_without_a_body_has_no_length() -> None:
    """A GET says that its connection will not be kept, and announces no body."""
    assert await bytes_of(UpstreamRequest("GET", [], b"", fresh=True)) == (
        b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nConnection: close\r\n\r\n"
    )


async def test_a_path_takes_the_place_of_the_url_s() -> None:
    """Everything else of the request stays as it is."""
    assert await bytes_of(UpstreamRequest("GET", [("X-a", "1")], b"", fresh=True, path="/healthz")) == (
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-a: 1\r\nConnection: close\r\n\r\n"
    )


async def test_own_headers_are_written_behind_a_client_s() -> None:
    """Those of the same name are the upstream's own, whatever their case; the others stay in their order."""
    request = UpstreamRequest("POST", [("x-api-key", "client's"), ("X-a", "1"), ("X-API-KEY", "other")], b"{}")
    own = (("X-Api-Key", "secret"), ("X-b", "2"))

    assert await bytes_of(request, headers=own) == (
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-a: 1\r\nX-Api-Key: secret\r\nX-b: 2\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize(("own", "seen"), [((), b"one"), ((("x-request-id", "two"),), b"two")])
async def test_a_request_has_one_correlation_id(own: tuple[tuple[str, str], ...], seen: bytes) -> None:
    """The proxy's, or what was configured in its place."""
    written = await bytes_of(UpstreamRequest("POST", [], b"", correlation_id="one"), headers=own)

    assert written.lower().count(b"x-request-id: ") == 1
    assert b": " + seen + b"\r\n" in written


async def test_a_small_body_stands_behind_its_head() -> None:
    """In one piece, which is the same bytes whichever way they were written."""
    edge = WireEdge(Upstream())
    for request in (
        UpstreamRequest("POST", Block([("X-a", "1")]), b"{}", correlation_id="one"),
        UpstreamRequest("POST", [("X-a", "1")], b"{}"),
        UpstreamRequest("POST", [], b"{}", correlation_id="one", fresh=True),
        UpstreamRequest("POST", [], b"{}", correlation_id="one", path="/other"),
    ):
        assert edge._head(request, b"{}") == edge._head(request, b"") + b"{}"
    assert edge._head(request, b"").startswith(b"POST /other HTTP/1.1\r\n")
    assert edge._head(request, b"").endswith(b"\r\nX-Request-Id: one\r\nContent-Length: 2\r\n\r\n")
    await edge.close()


@pytest.mark.parametrize(
    ("asked", "is_watched"),
    [
        (UpstreamRequest("POST", [], b"{}"), True),
        (UpstreamRequest("GET", [], b"", fresh=True), True),
        (UpstreamRequest("POST", [], b"{}", fresh=True), True),
        (UpstreamRequest("DELETE", [], b"", fresh=True), False),
    ],
)
@pytest.mark.interpreted
async def test_the_kernel_watches_what_lasts(asked: UpstreamRequest, is_watched: bool) -> None:
    """Every connection but that of a DELETE, whose answer nobody awaits for longer than seconds."""
    with patch.object(Connection, "watch") as watch:
        await bytes_of(asked)

    assert watch.called == is_watched


async def test_own_headers_go_to_no_other_upstream() -> None:
    """A block is rendered once for each upstream that it goes to, and never with another one's headers."""
    headers = Block([("X-a", "1")])
    edges = [WireEdge(Upstream(headers=own)) for own in ((("X-Key", "one"),), (("X-Key", "two"),), ())]
    request = UpstreamRequest("POST", headers, b"")
    for edge, own in [*zip(edges, (b"one", b"two", b""), strict=True)] * 2:
        first = edge._head(request, b"")

        assert first.count(b"X-Key: ") == bool(own)
        assert own in first
        rendered = headers.rendered
        assert edge._head(request, b"") == first
        assert headers.rendered is rendered, "once"
    for edge in edges:
        await edge.close()


async def test_bytes_that_are_not_utf_8_go_through() -> None:
    """A header of a client arrives as it was sent, whatever its encoding."""
    request = UpstreamRequest("POST", [("X-latin", b"\xe9".decode("utf-8", "surrogateescape"))], b"")

    assert b"\r\nX-latin: \xe9\r\n" in await bytes_of(request)


@pytest.mark.parametrize(
    ("url", "host", "port", "start"),
    [
        ("http://a.example", "a.example", 80, "/ HTTP/1.1\r\nHost: a.example\r\n"),
        ("https://a.example/x?y=1", "a.example", 443, "/x HTTP/1.1\r\nHost: a.example\r\n"),
        ("http://[::1]:90/mcp", "::1", 90, "/mcp HTTP/1.1\r\nHost: [::1]:90\r\n"),
    ],
)
async def test_the_address_is_read_from_the_url(url: str, host: str, port: int, start: str) -> None:
    """Default ports, an empty path and IPv6 are what the URL means; TLS only where it says so."""
    edge = WireEdge(Upstream(url=url))

    assert (edge._host, edge._port, edge._target) == (host, port, start.encode())
    assert (edge._ssl is not None) == url.startswith("https")

    await edge.close()


async def test_the_connection_used_last_is_used_next() -> None:
    """The others grow old and end, each after its own time."""
    gates = [asyncio.Event(), asyncio.Event()]

    async def script(peer: Peer) -> None:
        mine = peer.number - 1
        while await peer.request() is not None:
            await gates[mine].wait()
            await peer.send(ok(b"%d" % mine))

    async with Bench(WireEdge, script, keepalive_seconds=0.2) as b:
        loop = asyncio.get_running_loop()
        first, _ = b.send()
        await until(lambda: len(b.server.requests) == 1, "the first request")
        second, _ = b.send()
        await until(lambda: len(b.server.requests) == 2, "the second request")
        began = loop.time()
        gates[0].set()
        await first.over()
        await until(lambda: loop.time() > began + 0.08, "some of the time that a connection is kept")
        gates[1].set()
        await second.over()

        assert (await b.ask()).body == b"1"

        await until(lambda: len(b.server.open) == 1, "the end of the older one")

        assert [peer.number for peer in b.server.open] == [2]

        await until(lambda: not b.server.open, "the end of the younger one")


async def test_a_connection_that_is_closing_is_passed_over() -> None:
    """The pool looks again at what it kept, and goes on to the next."""
    async with Bench(WireEdge, answering(ok(), ok())) as b:
        await b.ask()
        (kept,) = b.edge._idle
        kept.drop()

        assert (await b.ask()).proven is True
        assert b.server.connections == 2


@pytest.mark.interpreted
async def test_a_connection_that_ends_as_it_begins_is_not_sent() -> None:
    """It broke before a byte was written: provably not sent, and no refusal."""
    async with Bench(WireEdge, answering(ok())) as b:
        connect = b.edge._connect

        async def cut_at_once() -> Connection:
            connection = await connect()
            connection.drop()
            return connection

        b.edge._connect = cut_at_once

        assert (await b.ask()).outcome == (None, b"", Loss.NOT_SENT)
        assert b.server.requests == []


@pytest.mark.interpreted
async def test_an_exchange_cut_while_connecting_ends_the_connection() -> None:
    """The connection is made for nobody and does not stay."""
    async with Bench(WireEdge, answering(ok())) as b:
        connect, gate = b.edge._connect, asyncio.Event()

        async def late() -> Connection:
            connection = await connect()
            await gate.wait()
            return connection

        b.edge._connect = late
        heard, exchange = b.send()
        await until(lambda: b.server.connections == 1, "the connection")
        b.abort(heard, exchange)
        gate.set()
        await until(lambda: not b.server.open, "the end of the connection")

        assert b.server.requests == []


async def test_nothing_of_an_ended_exchange_is_held() -> None:
    """After the answer the edge knows neither task nor open connection beyond the one it keeps."""
    async with Bench(WireEdge, answering(ok(), ok())) as b:
        await b.ask()
        await b.ask(fresh=True)
        await turns()

        assert not b.edge._tasks
        assert len(b.edge._open) == len(b.edge._idle) == 1


async def test_a_connection_that_ends_in_the_pool_leaves_it() -> None:
    """The pool does not grow by what the server closes."""
    async with Bench(WireEdge, playing(ok(), end="close")) as b:
        await b.ask()
        await until(lambda: not b.edge._open, "the end of the connection")

        assert not b.edge._idle


async def test_no_more_connections_rest_than_may_be() -> None:
    """Beyond that the oldest ends; the others are used on."""
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            await gate.wait()
            await peer.send(ok())

    async with Bench(WireEdge, script, max_connections=2) as b:
        heard = [b.send()[0] for _ in range(5)]
        await until(lambda: len(b.server.requests) == 5, "every request")
        gate.set()
        for each in heard:
            await each.over()
        await until(lambda: len(b.server.open) == 2, "the end of the others")

        assert len(b.edge._idle) == len(b.edge._open) == 2
        assert (await b.ask()).proven is True
        assert b.server.connections == 5
