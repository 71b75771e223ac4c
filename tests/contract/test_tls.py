"""TLS to an upstream, for every edge on every loop, against a server with real certificates of a private authority.

Whatever is wrong with a certificate or a handshake, the request was provably not sent, in plain text least of all, and
the detail says why. What passes the handshake is the contract of `test_edge.py` over again where TLS has a say in it:
bodies, ends without a goodbye, kept connections, streams.
"""

import asyncio
import functools
import json
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from proxy.app import App
from proxy.config import Upstream
from proxy.downstream.sockets import bind
from proxy.upstream.base import Loss, UpstreamRequest
from proxy.upstream.http import HttpEdge
from proxy.upstream.wire import WireEdge
from support.fakes import initialize_answer, make_config
from support.raw import RawConnection, RawSession
from support.raw_server import DEADLINE_SECONDS, Bench, Heard, Peer, RawServer, answering, chunk, ok, playing, turns
from support.tls import ADDRESS, HOST, Certificates
from support.waiting import until

EDGES = {"wire": WireEdge, "aiohttp": HttpEdge}
KINDS = ("wire", "wire on uvloop", "aiohttp", "aiohttp on uvloop")
"""The loops have a TLS of their own each, with differences between them."""

HEAD = b"HTTP/1.1 200 OK\r\n"
STREAM = HEAD + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SECRET = b'{"secret": "words"}'
CLIENT_HELLO = b"\x16\x03"

Test = Callable[..., Awaitable[None]]
Script = Callable[[Peer], Awaitable[None]]


def everywhere(test: Test) -> Callable[..., None]:
    """Run a test for every edge on every loop, within a deadline."""

    @pytest.mark.parametrize("kind", KINDS)
    @functools.wraps(test)
    def run(kind: str, **more: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await test(kind, **more)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop if "uvloop" in kind else None) as runner:
            runner.run(bounded())

    return run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make the private authority once; keys cost time."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def certificates(authority: Certificates) -> Iterator[Certificates]:
    """Give the authority, with nothing asked of it yet."""
    authority.asked.clear()
    return authority


def edge_of(kind: str) -> Any:
    """Return the class of an edge."""
    return EDGES[kind.split(" ", maxsplit=1)[0]]


def bench(kind: str, script: Script, certificates: Certificates, **settings: Any) -> Bench:
    """Put an edge that trusts the authority in front of a server with a good certificate."""
    defaults = {
        "tls": certificates.server(),
        "host": HOST,
        "ca_file": str(certificates.trusted),
        # Handshakes cost CPU, which a busy machine has not at once.
        "connect_timeout_seconds": DEADLINE_SECONDS,
    }
    return Bench(edge_of(kind), script, **{**defaults, **settings})


def cut(peer: Peer) -> None:
    """End the connection as a network does: FIN below TLS, without a goodbye in it."""
    with socket.socket(fileno=os.dup(peer.writer.get_extra_info("socket").fileno())) as sock:
        sock.shutdown(socket.SHUT_WR)


# -- who is trusted


@everywhere
async def test_a_certificate_of_the_named_authority_is_trusted(kind: str, certificates: Certificates) -> None:
    """The server is asked for by its name (SNI), and told the name with the port (Host)."""
    async with bench(kind, answering(ok(b"abc")), certificates) as b:
        assert (await b.ask(body=SECRET)).outcome == (200, b"abc", True)

        (got,) = b.server.requests

        assert (got.method, got.target, got.body) == ("POST", "/mcp", SECRET)
        assert got.get("Host") == [f"{HOST}:{b.server.port}"]
        assert certificates.asked == [HOST]

        assert await b.reach() is True


@everywhere
async def test_a_server_may_be_named_by_its_address(kind: str, certificates: Certificates) -> None:
    """The certificate must have it; SNI knows no addresses."""
    async with bench(kind, answering(ok(b"abc")), certificates, host=ADDRESS) as b:
        assert (await b.ask()).proven is True
        assert certificates.asked == [None]


@everywhere
async def test_the_systems_authorities_are_trusted_without_a_file(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can be named in the environment, as for any other program."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.trusted))
    async with bench(kind, answering(ok(b"abc")), certificates, ca_file="") as b:
        assert (await b.ask()).proven is True


@everywhere
async def test_the_named_authorities_take_the_place_of_the_systems(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names one trusts nobody else."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.trusted))
    async with bench(kind, answering(ok(b"abc")), certificates, ca_file=str(certificates.strange)) as b:
        assert (await b.ask()).loss is Loss.NOT_SENT


@everywhere
async def test_http_1_1_is_what_is_offered(kind: str, certificates: Certificates) -> None:
    """A server that would rather speak HTTP/2 is not left to guess."""
    spoken: list[str | None] = []

    async def script(peer: Peer) -> None:
        spoken.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await peer.request()
        await peer.send(ok())

    async with bench(kind, script, certificates) as b:
        await b.ask()

        assert spoken == ["http/1.1"]


# -- who is not


UNTRUSTED: dict[str, tuple[Callable[[Certificates], ssl.SSLContext], str, str]] = {
    "another host": (lambda c: c.server("other.example"), HOST, "certificate is not valid for 'localhost'"),
    "a host above": (lambda c: c.server("*.localhost"), HOST, "certificate is not valid for 'localhost'"),
    "another address": (lambda c: c.server(HOST), ADDRESS, "certificate is not valid for '127.0.0.1'"),
    "unknown authority": (Certificates.stranger, HOST, "unable to get local issuer certificate"),
    "signed by itself": (Certificates.own, HOST, "self-signed certificate"),
    "expired": (Certificates.expired, HOST, "certificate has expired"),
    "not valid yet": (Certificates.early, HOST, "certificate is not yet valid"),
}


@pytest.mark.parametrize(("server", "host", "reason"), UNTRUSTED.values(), ids=UNTRUSTED)
@everywhere
async def test_a_server_that_cannot_prove_itself_gets_nothing(
    kind: str, certificates: Certificates, server: Any, host: str, reason: str
) -> None:
    """Not sent, kept or fresh, with the reason; and whoever asks whether it is there is told no."""
    async with bench(kind, answering(ok()), certificates, tls=server(certificates), host=host) as b:
        for fresh in (False, True):
            heard = await b.ask(body=SECRET, fresh=fresh)

            assert heard.outcome == (None, b"", Loss.NOT_SENT)
            assert reason in heard.detail

        assert await b.reach() is False
        assert b.server.requests == []


async def answers_in_plain_text(peer: Peer) -> bytes:
    """Refuse what is no request, as an HTTP server does."""
    got = await peer.reader.read(65_536)
    await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    peer.close()
    return got


async def ends(peer: Peer) -> bytes:
    """Close in the middle of the handshake."""
    got = await peer.reader.read(65_536)
    peer.close()
    return got


async def resets(peer: Peer) -> bytes:
    """Reset in the middle of the handshake."""
    got = await peer.reader.read(65_536)
    peer.reset()
    return got


async def is_silent(peer: Peer) -> bytes:
    """Take what comes, and never answer."""
    return await peer.reader.read(65_536)


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (answers_in_plain_text, "ssl"),
        (ends, "the tls handshake was broken off"),
        (resets, "the tls handshake was broken off"),
        (is_silent, "no connection within 0.3 seconds"),
    ],
)
@everywhere
async def test_a_handshake_that_comes_to_nothing_is_not_sent(
    kind: str, certificates: Certificates, server: Callable[[Peer], Awaitable[bytes]], reason: str
) -> None:
    """No refusal either, as somebody listens; it ends in time, and not a byte of the request is on the wire."""
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        got.append(await server(peer))
        got.append(await peer.reader.read())

    patience = 0.3 if server is is_silent else DEADLINE_SECONDS
    async with bench(kind, script, certificates, tls=None, is_tls=True, connect_timeout_seconds=patience) as b:
        heard = await b.ask(body=SECRET, headers=[("Authorization", "Bearer words")])

        assert heard.outcome == (None, b"", Loss.NOT_SENT)
        assert reason in heard.detail.lower()
        assert await b.reach() is False

        await until(lambda: not b.server.open, "the end of the connections")

        assert got[0].startswith(CLIENT_HELLO)
        for words in (b"words", b"POST", b"/mcp"):
            assert words not in b"".join(got)


@everywhere
async def test_a_server_that_wants_a_certificate_of_ours_leaves_the_outcome_open(
    kind: str, certificates: Certificates
) -> None:
    """In TLS 1.3 it says so behind the handshake, when the request may be there already."""
    context = certificates.server()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(certificates.trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    async with bench(kind, answering(ok()), certificates, tls=context) as b:
        heard = await b.ask()

        assert heard.outcome == (None, b"", Loss.BROKEN)
        assert b.server.requests == []


# -- bodies and their ends


FRAMINGS = {
    "length": HEAD + b"Content-Length: 9\r\n\r\nabc",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "close": HEAD + b"\r\nabc",
}


@pytest.mark.parametrize("how", ["goodbye", "FIN", "RST"])
@pytest.mark.parametrize("framing", FRAMINGS)
@everywhere
async def test_no_end_of_the_connection_proves_a_body_whole(
    kind: str, certificates: Certificates, framing: str, how: str
) -> None:
    """With TLS's goodbye (close_notify) or without: it is broken, or unproven where only a close could end it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(FRAMINGS[framing])
        # What a reset overtakes is lost: the client has it first.
        await until(lambda: heard.body == b"abc", "what was sent")
        {"goodbye": peer.close, "FIN": lambda: cut(peer), "RST": peer.reset}[how]()

    async with bench(kind, script, certificates) as b:
        heard = Heard()
        b.send(heard)
        await heard.over()

        assert (heard.status, heard.body) == (200, b"abc")
        assert heard.loss is Loss.BROKEN or (framing == "close" and heard.proven is False)


@everywhere
async def test_a_connection_that_ends_before_its_answer_is_broken(kind: str, certificates: Certificates) -> None:
    """The request was written: it may have run."""

    async def script(peer: Peer) -> None:
        await peer.request()
        cut(peer)

    async with bench(kind, script, certificates) as b:
        assert (await b.ask()).outcome == (None, b"", Loss.BROKEN)


@everywhere
async def test_large_bodies_cross_whole(kind: str, certificates: Certificates) -> None:
    """More than the records, the buffers and the kernel hold, in both directions, twice on one connection."""
    sent, answered = os.urandom(2**21 + 7), os.urandom(2**22 + 3)
    async with bench(kind, answering(ok(answered), ok(answered)), certificates) as b:
        for _ in range(2):
            heard = await b.ask(body=sent)

            assert heard.proven is True
            assert heard.body == answered
            assert b.server.requests[-1].body == sent

        assert b.server.connections == 1


@everywhere
async def test_what_was_held_back_survives_the_servers_goodbye(kind: str, certificates: Certificates) -> None:
    """A client that reads slowly gets the rest, though the server is done and gone."""
    parts = 40
    said = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + chunk(b"first"))
        await until(lambda: heard.body == b"first", "the first piece")
        # The kernels hold it all: what is closed behind it overtakes nothing.
        peer.writer.transport.set_write_buffer_limits(0)
        peer.writer.write(chunk(b"x" * 10_000) * parts + chunk(b""))
        await peer.writer.drain()
        peer.close()
        said.set()

    async with bench(kind, script, certificates) as b:
        heard = Heard(on_data_do=lambda: exchange.pause() if len(heard.pieces) == 1 else None)
        _, exchange = b.send(heard, fresh=True)
        await said.wait()
        await turns(50)

        assert not heard.is_over

        exchange.resume()
        await heard.over()

        assert (len(heard.body), heard.proven) == (5 + 10_000 * parts, True)


# -- connections


@everywhere
async def test_a_connection_is_kept_with_its_handshake(kind: str, certificates: Certificates) -> None:
    """The next request needs none; a fresh one has its own."""
    async with bench(kind, answering(ok(b"1"), ok(b"2"), ok(b"3")), certificates) as b:
        assert [(await b.ask()).body for _ in range(3)] == [b"1", b"2", b"3"]
        assert len(certificates.asked) == 1

    async with bench(kind, answering(ok(b"1"), ok(b"2")), certificates) as b:
        await b.ask()
        await b.ask(fresh=True)

        assert [request.connection for request in b.server.requests] == [1, 2]


@pytest.mark.parametrize("how", ["goodbye", "FIN", "a record"])
@everywhere
async def test_a_kept_connection_on_which_anything_came_is_not_used(
    kind: str, certificates: Certificates, how: str
) -> None:
    """An end or an answer that nobody asked for costs the connection and no request, read by the loop or not."""
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        while await peer.request() is not None:
            await peer.send(ok(b"%d" % peer.number))

    async with bench(kind, script, certificates) as b:
        for number in (1, 2):
            assert (await b.ask()).outcome == (200, b"%d" % number, True)

            await turns(20)
            {"goodbye": peers[-1].close, "FIN": lambda: cut(peers[-1]), "a record": lambda: unasked(peers[-1])}[how]()
            if number == 1:
                await turns(20)

        assert (await b.ask()).outcome == (200, b"3", True)


def unasked(peer: Peer) -> None:
    """Send an answer to nobody."""
    peer.writer.write(ok(b"EVIL"))


@everywhere
async def test_close_ends_what_is_open_at_once(kind: str, certificates: Certificates) -> None:
    """Neither a stream, a kept connection nor a handshake under way waits for a goodbye of the server."""
    async with bench(kind, answering(ok(), STREAM), certificates) as b:
        await b.ask()
        stream, _ = b.send(fresh=True)
        await until(lambda: stream.status == 200, "the head")
        beginning, _ = b.send(fresh=True)
        told: list[bool] = []
        b.edge.reach(told.append)
        await b.edge.close()
        await until(lambda: not b.server.open, "the end of every connection")

        assert stream.loss is Loss.BROKEN
        assert beginning.loss in (Loss.NOT_SENT, Loss.BROKEN)
        assert told == []


@everywhere
async def test_a_cut_stream_ends_its_connection(kind: str, certificates: Certificates) -> None:
    """The server learns at once that nobody reads any more, and the receiver hears nothing."""
    async with bench(kind, playing(STREAM, chunk(b"abc")), certificates) as b:
        heard, exchange = b.send(fresh=True)
        await until(lambda: heard.body == b"abc", "the first piece")
        b.abort(heard, exchange)
        await until(lambda: not b.server.open, "the end of the connection")

        assert not heard.is_over


class Stopping:
    """A server that answers once at most and then takes no part in TLS any more, in a thread of its own."""

    def __init__(self, context: ssl.SSLContext, answer: bytes) -> None:
        self._context = context
        self._answer = answer
        self._listening = socket.create_server((ADDRESS, 0))
        self._listening.settimeout(DEADLINE_SECONDS / 2)
        self.url = f"https://{ADDRESS}:{self._listening.getsockname()[1]}/mcp"
        self.is_asked = False

    def serve(self) -> None:
        """Return when TCP's own end has come.

        Raises:
            TimeoutError: it did not.
        """
        with self._listening:
            connection, _ = self._listening.accept()
        connection.settimeout(DEADLINE_SECONDS / 2)
        with suppress(ConnectionError, ssl.SSLEOFError), self._context.wrap_socket(connection, server_side=True) as tls:
            self.is_asked = bool(tls.recv(65_536))
            tls.sendall(self._answer)
            with socket.socket(fileno=tls.detach()) as raw:
                raw.settimeout(DEADLINE_SECONDS / 2)
                while raw.recv(65_536):
                    pass


@pytest.mark.parametrize("what", ["reach", "abort before the head", "abort", "close"])
@everywhere
async def test_no_goodbye_of_the_server_is_waited_for(kind: str, certificates: Certificates, what: str) -> None:
    """One that has stopped in its tracks would never say it, and its connections would pile up."""
    server = Stopping(certificates.server(), b"" if what == "abort before the head" else STREAM)
    ended = asyncio.create_task(asyncio.to_thread(server.serve))
    edge = edge_of(kind)(Upstream(url=server.url, ca_file=str(certificates.trusted)))
    if what == "reach":
        reached: list[bool] = []
        edge.reach(reached.append)
        await until(lambda: reached == [True], "the connection")
    else:
        heard = Heard()
        exchange = edge.send(UpstreamRequest("GET", [], b"", fresh=True), heard)
        await until(lambda: server.is_asked and (heard.status == 200 or "before" in what), "the request or its head")
        if what != "close":
            exchange.abort()
    if what == "close":
        await edge.close()
    await ended
    await edge.close()


# -- streams


@everywhere
async def test_events_arrive_one_by_one(kind: str, certificates: Certificates) -> None:
    """Each is told before the next is sent: no record waits for another."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        await until(lambda: heard.status == 200, "the head")
        for number in range(5):
            await peer.send(chunk(b"data: %d\n\n" % number))
            await until(lambda end=b"data: %d\n\n" % number: heard.body.endswith(end), "the event")
        await peer.send(chunk(b""))

    async with bench(kind, script, certificates) as b:
        heard = Heard()
        b.send(heard, method="GET", body=b"", fresh=True)
        await heard.over()

        assert heard.outcome == (200, b"".join(b"data: %d\n\n" % number for number in range(5)), True)


class Resumable:
    """A server with sessions whose calls break off behind their first event and go on by its id."""

    async def serve(self, peer: Peer) -> None:
        """Answer request after request."""
        while (received := await peer.request()) is not None:
            message = json.loads(received.body) if received.body else {}
            cursor = received.get("Last-Event-ID")
            if received.method == "GET" and not cursor:
                await peer.send(ok(b"", status="405 Method Not Allowed"))
            elif received.method == "GET":
                result = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"resumed": cursor[0]}})
                await peer.send(STREAM, chunk(f"id: c:2\ndata: {result}\n\n".encode()), chunk(b""))
            elif received.method == "DELETE" or "id" not in message:
                await peer.send(ok(b"", status="202 Accepted"))
            elif message["method"] == "initialize":
                version = message["params"]["protocolVersion"]
                await peer.send(ok(initialize_answer(version, request_id=message["id"]), "Mcp-Session-Id: up-1"))
            else:
                await peer.send(STREAM, chunk(b'id: c:1\ndata: {"jsonrpc":"2.0","method":"x"}\n\n'))
                cut(peer)
                return


@everywhere
async def test_a_session_lives_and_its_call_is_resumed(kind: str, certificates: Certificates) -> None:
    """The whole proxy before such a server: a call cut without a goodbye comes to its result by its cursor."""
    async with RawServer(Resumable().serve, certificates.server()) as server:
        config = make_config(url=server.url, ca_file=str(certificates.trusted), address=f"{ADDRESS}:0")
        config = replace(config, upstream=replace(config.upstream, http=kind.split(" ", maxsplit=1)[0]))
        with bind(config.listen) as sock:
            app = App(config)
            await app.start(sock)
            try:
                session = await RawSession.open(f"http://{ADDRESS}:{sock.getsockname()[1]}/mcp")
                async with RawConnection(session.url) as connection:
                    await session.send(connection, "POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/call"})
                    await connection.read_head()
                    stream = await connection.stream()

                assert stream.is_clean
                assert stream.messages[-1].json == {"jsonrpc": "2.0", "id": 1, "result": {"resumed": "c:1"}}

                (resumed,) = [each for each in server.requests if each.get("Last-Event-ID")]

                assert resumed.get("Mcp-Session-Id") == ["up-1"]
            finally:
                hurry = asyncio.Event()
                hurry.set()
                await app.drain(hurry)
                await turns(20)
