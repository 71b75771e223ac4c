"""What the edge over aiohttp asks of aiohttp: the switches and hooks that hold its contract, and its translations."""

import asyncio

import aiohttp
import pytest

from proxy.upstream.base import Loss, UpstreamRequest
from proxy.upstream.http import HttpEdge, _is_quiet
from support.raw_server import Bench, Heard, Peer, answering, ok, playing, turns
from support.waiting import until


async def test_no_request_is_repeated_even_where_aiohttp_would() -> None:
    """A kept connection that dies under a GET is lost, not tried again on another."""
    answers = [ok()]

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            if not answers:
                peer.reset()
                return
            await peer.send(answers.pop())

    async with Bench(HttpEdge, script) as b:
        await b.ask(method="GET", body=b"")

        assert (await b.ask(method="GET", body=b"")).loss is Loss.BROKEN

        await turns(20)

        assert len(b.server.requests) == 2


async def test_hundreds_of_streams_are_open_at_once() -> None:
    """Aiohttp's own limit of 100 would let the next one wait without a word."""
    streaming = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with Bench(HttpEdge, playing(streaming)) as b:
        heard = [b.send(fresh=True)[0] for _ in range(130)]
        await until(lambda: all(each.status == 200 for each in heard), "every head")

        assert len(b.server.open) == 130


async def test_no_more_connections_rest_than_may_be() -> None:
    """Beyond that they end with their answer; the others are used on."""
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            await gate.wait()
            await peer.send(ok())

    async with Bench(HttpEdge, script, max_connections=2) as b:
        heard = [b.send()[0] for _ in range(5)]
        await until(lambda: len(b.server.requests) == 5, "every request")
        gate.set()
        for each in heard:
            await each.over()
        await until(lambda: len(b.server.open) == 2, "the end of the others")

        assert (await b.ask()).proven is True
        assert b.server.connections == 5


async def test_own_headers_take_the_place_of_a_client_s() -> None:
    """Those of the same name, whatever their case, are the upstream's own, the correlation id too."""
    own = (("X-Api-Key", "secret"), ("x-request-id", "mine"))
    async with Bench(HttpEdge, answering(ok()), headers=own) as b:
        heard = Heard()
        headers = [("x-api-key", "client's"), ("X-a", "1"), ("X-API-KEY", "other")]
        b.edge.send(UpstreamRequest("POST", headers, b"{}", correlation_id="one"), heard)
        await heard.over()
        (received,) = b.server.requests

        assert [received.get(name) for name in ("x-api-key", "x-a", "x-request-id")] == [["secret"], ["1"], ["mine"]]


async def test_a_path_takes_the_place_of_the_url_s() -> None:
    """As it is, without another look at it."""
    async with Bench(HttpEdge, answering(ok())) as b:
        heard = Heard()
        b.edge.send(UpstreamRequest("GET", [], b"", path="/a;b/healthz"), heard)
        await heard.over()

        assert [received.target for received in b.server.requests] == ["/a;b/healthz"]


async def test_nothing_is_left_of_an_ended_exchange() -> None:
    """Tasks leave with their exchange."""
    async with Bench(HttpEdge, answering(ok(), ok())) as b:
        await b.ask()
        await b.ask(fresh=True)
        await b.reach()
        await turns()

        assert not b.edge._tasks


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (aiohttp.ClientConnectorError(None, ConnectionRefusedError()), Loss.REFUSED),  # type: ignore[arg-type]
        (aiohttp.ClientConnectorError(None, ConnectionResetError()), Loss.REFUSED),  # type: ignore[arg-type]
        (aiohttp.ClientConnectorError(None, OSError("no route")), Loss.NOT_SENT),  # type: ignore[arg-type]
        (aiohttp.ConnectionTimeoutError(), Loss.NOT_SENT),
        (aiohttp.ClientConnectionResetError("closing"), Loss.NOT_SENT),
        (aiohttp.ServerDisconnectedError(), Loss.BROKEN),
        (aiohttp.ClientOSError("reset"), Loss.BROKEN),
        (aiohttp.ClientPayloadError("cut"), Loss.BROKEN),
        (TimeoutError(), Loss.BROKEN),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates"), Loss.BROKEN),
        (RuntimeError("anything else"), Loss.BROKEN),
    ],
)
async def test_every_error_of_aiohttp_is_told_as_a_loss(
    error: Exception, loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What provably wrote nothing says so; everything else may have been read, and none is silent."""
    async with Bench(HttpEdge, answering()) as b:

        async def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(b.edge._kept, "request", fail)
        # Some of these errors cannot say what they are without a connection's key.
        monkeypatch.setattr(aiohttp.ClientConnectorError, "__str__", lambda _: "no connection")

        assert (await b.ask()).outcome == (None, b"", loss)


@pytest.mark.parametrize("where", ["on_end", "on_lost"])
async def test_a_receiver_that_raises_at_the_end_is_told_nothing_more(where: str) -> None:
    """The end is told once, and the defect is reported."""

    def fail() -> None:
        raise ValueError("defect")

    async with Bench(HttpEdge, answering(ok()) if where == "on_end" else playing(end="close")) as b:
        heard = Heard(on_end_do=fail)
        if where == "on_lost":
            told = heard.on_lost

            def lost(loss: Loss, detail: str) -> None:
                told(loss, detail)
                fail()

            heard.on_lost = lost  # type: ignore[method-assign]
        b.send(heard)
        await heard.over()
        await turns(20)
        if where == "on_end":
            assert [repr(context["exception"]) for context in b.defects] == ["ValueError('defect')"]
        else:
            import gc

            gc.collect()
            assert [context["message"] for context in b.defects] == ["Task exception was never retrieved"]
        b.defects.clear()


async def test_a_connection_without_socket_is_not_quiet() -> None:
    """One that is gone already is not used."""
    protocol = aiohttp.client_proto.ResponseHandler(asyncio.get_running_loop())

    assert not _is_quiet(protocol)
