"""The contract of `proxy/upstream/base.py`, for every edge that fulfils it, against a server that writes exact bytes.

Where the edges differ lawfully, `DIFFERENCES` says in what. Besides what a test asserts, its bench holds that nothing
is told inside `send`, after the end or after `abort`, and that `close` leaves neither task nor connection.
"""

import asyncio
import functools
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from proxy.upstream.base import Loss
from proxy.upstream.http import HttpEdge
from proxy.upstream.wire import WireEdge
from support.raw_server import (
    DEADLINE_SECONDS,
    Bench,
    Heard,
    Peer,
    answering,
    chunk,
    chunked,
    ok,
    playing,
    turns,
    unused_port,
)
from support.waiting import until

EDGES = {"wire": WireEdge, "wire on uvloop": WireEdge, "aiohttp": HttpEdge}
ON_ASYNCIO = ("wire", "aiohttp")

DIFFERENCES = {
    # Both are lawful: the close alone ends such a body, and its reset is a close too. `False` says no more than that.
    "reset of a body that only a close would end": {"wire": Loss.BROKEN, "aiohttp": False},
    # aiohttp gives a segment to its parser before it tells anything: what stood before a fault in it is not heard.
    "what came in one segment with a fault": {"wire": "told", "aiohttp": "not told"},
    # A user agent may repair these (RFC 9112, 2.2 and 5.2); whoever reads them otherwise sits behind the upstream.
    "line ends and blanks that a reader may repair": {"wire": (Loss.BROKEN,), "aiohttp": (Loss.BROKEN, True, False)},
    # Its framing is whole, which is what aiohttp looks at.
    "connection of an answer without a status": {"wire": "ended", "aiohttp": "kept"},
    # aiohttp does not see what its parser holds back; the next request has a parser of its own.
    "connection with a part of an answer that nobody asked for": {"wire": "ended", "aiohttp": "kept"},
}

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MIB = 2**20

Test = Callable[..., Awaitable[None]]


def everywhere(test: Test, kinds: tuple[str, ...] = tuple(EDGES)) -> Callable[..., None]:
    """Run a test for every edge on its loop, within a deadline."""

    @pytest.mark.parametrize("kind", kinds)
    @functools.wraps(test)
    def run(kind: str, **more: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await test(kind, **more)

        factory = None
        if "uvloop" in kind:
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run


on_asyncio = functools.partial(everywhere, kinds=ON_ASYNCIO)
"""Run a test for every edge on asyncio's loop: it reaches into what uvloop does by itself."""


def bench(kind: str, script: Callable[[Peer], Awaitable[None]], **settings: Any) -> Bench:
    """Put an edge in front of a server."""
    return Bench(EDGES[kind], script, **settings)


def differs(situation: str, kind: str) -> Any:
    """Return what an edge does where they differ."""
    return DIFFERENCES[situation][kind.split(" ", maxsplit=1)[0]]


# -- whole answers


WHOLE = {
    "length": (ok(b'{"a":1}'), 200, b'{"a":1}'),
    "empty": (ok(b"", status="202 Accepted"), 202, b""),
    "chunks": (chunked(b"data: 1\n\n", b"data: 2\n\n"), 200, b"data: 1\n\ndata: 2\n\n"),
    "chunk extension": (CHUNKED + b"3;x=y\r\nabc\r\n0;z\r\n\r\n", 200, b"abc"),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Late: 1\r\nETag: x\r\n\r\n", 200, b"abc"),
    "continue first": (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"abc"), 200, b"abc"),
    "hints first": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + ok(b"abc"), 200, b"abc"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b""),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
    "no reason": (b"HTTP/1.1 404\r\nContent-Length: 3\r\n\r\nabc", 404, b"abc"),
    "redirect": (ok(b"", "Location: /elsewhere", status="307 Temporary Redirect"), 307, b""),
    "compressed": (ok(b"\x1f\x8b\x08\x00", "Content-Encoding: gzip"), 200, b"\x1f\x8b\x08\x00"),
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
@everywhere
async def test_a_whole_answer_is_told_once_and_as_it_came(kind: str, answer: tuple[bytes, int, bytes]):
    """Head, body and a proven end; nothing is decoded, followed or sent again, and the connection is kept."""
    script, status, body = answer
    async with bench(kind, answering(script, ok(b"next"))) as b:
        heard = await b.ask()

        assert heard.outcome == (status, body, True)
        assert len(b.server.requests) == 1

        assert (await b.ask()).outcome == (200, b"next", True)
        assert b.server.connections == 1


@everywhere
async def test_an_answer_may_be_cut_into_segments_anywhere(kind: str):
    """What is told does not depend on where the network cuts head, chunk sizes, chunks and last chunk."""
    whole = chunked(b"data: 1\n\n", b"x" * 17)
    scripts = [(whole[:at], whole[at:]) for at in range(1, len(whole))]
    scripts.append(tuple(whole[at : at + 1] for at in range(len(whole))))
    left = list(scripts)

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(*left.pop(0))

    async with bench(kind, script) as b:
        for pieces in scripts:
            heard = await b.ask()

            assert heard.outcome == (200, b"data: 1\n\n" + b"x" * 17, True), pieces

        assert b.server.connections == 1


@everywhere
async def test_headers_arrive_as_they_were_written(kind: str):
    """Order, letter case, repetition and bytes beyond ASCII survive in both directions."""
    head = b"HTTP/1.1 200 OK\r\nX-b: 1\r\nx-A: 2\r\nX-b: 3\r\nX-u: \xc3\xa9\r\nContent-Length: 0\r\n\r\n"
    sent = [("X-b", "1"), ("x-A", "2"), ("X-b", "3"), ("X-u", "é")]
    async with bench(kind, answering(head)) as b:
        heard = await b.ask(headers=sent)

        assert heard.headers == [*sent, ("Content-Length", "0")]

        got = b.server.requests[0]

        assert [pair for pair in got.headers if pair[0].lower().startswith("x-")] == sent
        assert (got.method, got.target, got.body) == ("POST", "/mcp", b"{}")
        assert got.get("Host") == [f"127.0.0.1:{b.server.port}"]
        assert got.get("Content-Length") == ["2"]


@everywhere
async def test_nothing_is_added_that_was_not_asked_for(kind: str):
    """No User-Agent, no Accept and no cookie of an earlier answer goes upstream by itself."""
    # By name: jars take no cookies from addresses.
    async with bench(kind, answering(ok(b"{}", "Set-Cookie: a=1; Path=/"), ok()), host="localhost") as b:
        await b.ask()
        await b.ask()
        names = {name.lower() for name, _ in b.server.requests[1].headers}

        assert names <= {"host", "content-length", "connection"}


@everywhere
async def test_a_request_without_a_body_has_no_framing_that_misleads(kind: str):
    """A GET has no body; an empty POST says so."""
    async with bench(kind, answering(ok())) as b:
        await b.ask(method="GET", body=b"", fresh=True)

        assert b.server.requests[0].get("Content-Length") in ([], ["0"])
        assert b.server.requests[0].get("Transfer-Encoding") == []


@everywhere
async def test_an_empty_post_says_that_it_is_empty(kind: str):
    """A server need not wait for a body."""
    async with bench(kind, answering(ok())) as b:
        await b.ask(method="POST", body=b"")

        assert b.server.requests[0].get("Content-Length") == ["0"]


@everywhere
async def test_large_bodies_pass_in_both_directions(kind: str):
    """8 MiB arrive whole, whatever the buffers hold."""
    large = bytes(range(256)) * (8 * MIB // 256)
    async with bench(kind, answering(ok(large), chunked(large, large))) as b:
        heard = await b.ask(body=large)

        assert b.server.requests[0].body == large
        assert heard.outcome == (200, large, True)
        assert (await b.ask()).body == large * 2


# -- answers that are not whole


BROKEN = {
    "before the head": ((), 0),
    "in the head": ((HEAD + b"Content-Le",), 0),
    "after an announcement": ((b"HTTP/1.1 100 Continue\r\n\r\n",), 0),
    "in the body": ((HEAD + b"Content-Length: 5\r\n\r\n", b"abc"), 3),
    "before the body": ((HEAD + b"Content-Length: 5\r\n\r\n",), 0),
    "in a chunk": ((CHUNKED, b"5\r\nabc"), 3),
    "in a chunk size": ((CHUNKED, chunk(b"abc") + b"1"), 3),
    "behind a chunk size": ((CHUNKED, chunk(b"abc") + b"5\r\n"), 3),
    "before the last chunk": ((CHUNKED, chunk(b"abc")), 3),
    "in the last chunk": ((CHUNKED, chunk(b"abc") + b"0\r\n"), 3),
}


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("cut", BROKEN.values(), ids=BROKEN)
@everywhere
async def test_an_answer_that_is_cut_is_never_whole(kind: str, end: str, cut: tuple[tuple[bytes, ...], int]):
    """Wherever FIN or RST comes, the end is `BROKEN`, told once, after what had come; nothing is sent again."""
    pieces, length = cut
    async with bench(kind, playing(*pieces, end=end)) as b:
        heard = await b.ask()

        assert heard.loss is Loss.BROKEN
        assert heard.body == b"abc"[:length]
        assert heard.detail
        assert len(b.server.requests) == 1
        assert b.server.connections == 1


@everywhere
async def test_a_body_that_only_ends_with_the_connection_is_not_proven(kind: str):
    """Without length and chunks the close may be a cut, and is told as such."""
    async with bench(kind, playing(HEAD + b"\r\n", b"abc", end="close")) as b:
        assert (await b.ask()).outcome == (200, b"abc", False)


@everywhere
async def test_a_reset_does_not_prove_a_body_either(kind: str):
    """What only a close could end is not whole when the connection breaks."""
    async with bench(kind, playing(HEAD + b"\r\n", b"abc", end="reset")) as b:
        expected = differs("reset of a body that only a close would end", kind)

        assert (await b.ask()).outcome == (200, b"abc", expected)


TWICE = chunk(b"abc") + chunk(b"")

FAULTY = {
    "length as trailer": CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 99\r\n\r\n",
    "coding that nobody asked for": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\nabc",
    "letters as chunk size": CHUNKED + chunk(b"abc") + b"zz\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    "line feed alone behind a chunk size": CHUNKED + b"3\nabc\n0\n\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "a list of lengths": HEAD + b"Content-Length: 3, 5\r\n\r\nabcde",
    "negative length": HEAD + b"Content-Length: -3\r\n\r\nabc",
    "signed length": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "length, then chunks": HEAD
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunk(b"abc")
    + chunk(b""),
    "chunks, then length": HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
    + chunk(b"abc")
    + chunk(b""),
    "carriage return alone": HEAD + b"X-A: a\rb\r\nContent-Length: 3\r\n\r\nabc",
    "NUL in a value": HEAD + b"X-A: a\0b\r\nContent-Length: 3\r\n\r\nabc",
    "header without a name": HEAD + b": x\r\nContent-Length: 3\r\n\r\nabc",
    "another protocol": b"SSH-2.0-server\r\n",
    "another version": b"HTTP/2 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "no version": b"200 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 99 What\r\nContent-Length: 3\r\n\r\nabc",
    "status below 100": b"HTTP/1.1 099 What\r\nContent-Length: 3\r\n\r\nabc",
    "status 0": b"HTTP/1.1 000 What\r\nContent-Length: 3\r\n\r\nabc",
    "switch to another protocol": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
}


REPAIRABLE = {
    "line feeds alone": b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
    "folded header": HEAD + b"X-A: a\r\n b\r\nContent-Length: 3\r\n\r\nabc",
    "blank before the colon": HEAD + b"Content-Length : 3\r\n\r\nabc",
}


@pytest.mark.parametrize("answer", FAULTY.values(), ids=FAULTY)
@everywhere
async def test_an_answer_that_says_two_things_is_none(kind: str, answer: bytes):
    """What another reader could frame otherwise ends as `BROKEN`, and its connection is not used again."""
    end = "close" if b"gzip" in answer else "stay"
    async with bench(kind, playing(answer, end=end)) as b:
        heard = await b.ask()

        assert heard.loss is Loss.BROKEN
        assert heard.status in (None, 200)
        assert b"abc".startswith(heard.body)
        assert len(b.server.requests) == 1

        if b"HTTP/1.1 0" not in answer or differs("connection of an answer without a status", kind) == "ended":
            await until(lambda: not b.server.open, "the end of the connection")


@pytest.mark.parametrize("answer", REPAIRABLE.values(), ids=REPAIRABLE)
@everywhere
async def test_an_answer_that_can_be_repaired_is_repaired_or_none(kind: str, answer: bytes):
    """Of a sloppy head comes the one body it can have, or `BROKEN`."""
    async with bench(kind, playing(answer)) as b:
        heard = await b.ask()

        assert heard.outcome[2] in differs("line ends and blanks that a reader may repair", kind)
        assert heard.body == (b"" if heard.loss else b"abc")


@everywhere
async def test_what_came_before_a_fault_may_be_lost_with_its_segment(kind: str):
    """The one promise is the order: head, then body, then the loss; a segment with a fault may be lost whole."""
    async with bench(kind, playing(CHUNKED + chunk(b"abc") + b"zz\r\n")) as b:
        heard = await b.ask()
        expected = differs("what came in one segment with a fault", kind)

        assert (heard.status, heard.body) == ((200, b"abc") if expected == "told" else (None, b""))


@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "later"])
@pytest.mark.parametrize(
    "behind", [b"EXTRA", ok(b"EVIL"), b"\0", b"HTTP/1.1 200"], ids=["junk", "answer", "nul", "part"]
)
@everywhere
async def test_bytes_behind_an_answer_never_reach_the_next_exchange(kind: str, together: bool, behind: bytes):
    """A body longer than its length says, or an answer nobody asked for, costs the connection and nothing else."""
    first = ok(b"abc")
    left = [(first + behind,) if together else (first, behind), (ok(b"good"),)]

    async def script(peer: Peer) -> None:
        while left and await peer.request() is not None:
            await peer.send(*left.pop(0))

    async with bench(kind, script) as b:
        heard = await b.ask()
        # What stands behind may condemn the answer it came with; it never becomes another one.
        assert heard.outcome in ((200, b"abc", True), (200, b"abc", Loss.BROKEN), (None, b"", Loss.BROKEN))

        await turns()

        assert (await b.ask()).outcome == (200, b"good", True)

        if (
            behind != b"HTTP/1.1 200"
            or differs("connection with a part of an answer that nobody asked for", kind) == "ended"
        ):
            assert b.server.connections == 2


@pytest.mark.parametrize("how", ["bytes", "close"])
@everywhere
async def test_what_the_loop_has_not_read_yet_counts_as_well(kind: str, how: str):
    """A kept connection is asked of the kernel just before it is used: the race is as short as it can be."""
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        while await peer.request() is not None:
            await peer.send(ok(b"%d" % peer.number))

    async with bench(kind, script) as b:
        await b.ask()
        await turns()
        descriptor = peers[0].writer.get_extra_info("socket").fileno()
        if how == "bytes":
            os.write(descriptor, ok(b"EVIL"))
        else:
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                sock.shutdown(socket.SHUT_WR)

        assert (await b.ask()).outcome == (200, b"2", True)


# -- connections


@pytest.mark.parametrize("how", ["server closes", "HTTP/1.0", "fresh"])
@everywhere
async def test_a_connection_is_kept_only_where_both_sides_say_so(kind: str, how: str):
    """`Connection: close`, an old server and a fresh request end it with the answer."""
    answer = ok(b"{}", "Connection: close") if how == "server closes" else ok()
    if how == "HTTP/1.0":
        answer = answer.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with bench(kind, answering(answer, ok())) as b:
        assert (await b.ask(fresh=how == "fresh")).proven is True

        await until(lambda: not b.server.open, "the end of the connection")

        assert (await b.ask()).proven is True
        assert b.server.connections == 2


@everywhere
async def test_a_fresh_request_has_a_connection_of_its_own(kind: str):
    """A kept connection is not used for it, and it says that it will not keep its own."""
    async with bench(kind, answering(ok(), ok())) as b:
        await b.ask()
        await b.ask(fresh=True)

        assert [request.connection for request in b.server.requests] == [1, 2]
        assert b.server.requests[1].get("Connection") == ["close"]


@pytest.mark.parametrize("end", ["close", "reset"])
@everywhere
async def test_an_idle_connection_that_the_server_ends_is_not_used(kind: str, end: str):
    """The next call has a new connection and works."""
    async with bench(kind, playing(ok(b"1"), end=end)) as b:
        await b.ask()
        await until(lambda: not b.server.open, "the end of the connection")

        assert (await b.ask()).outcome == (200, b"1", True)
        assert b.server.connections == 2


@pytest.mark.parametrize("end", ["close", "reset"])
@everywhere
async def test_a_post_on_a_dying_connection_is_not_sent_again(kind: str, end: str):
    """The server read it and ended the kept connection: the outcome is unknown, and one is what it counts."""
    answers = [ok()]

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            if not answers:
                peer.close() if end == "close" else peer.reset()
                return
            await peer.send(answers.pop())

    async with bench(kind, script) as b:
        await b.ask()

        assert (await b.ask(body=b"[1]")).loss is Loss.BROKEN

        await turns(20)

        assert [request.body for request in b.server.requests] == [b"{}", b"[1]"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@everywhere
async def test_a_fresh_request_is_not_sent_again(kind: str, method: str):
    """Whatever the method promises, who repeats a request is not the edge."""
    async with bench(kind, playing(end="reset")) as b:
        assert (await b.ask(method=method, fresh=True)).loss is Loss.BROKEN

        await turns(20)

        assert len(b.server.requests) == 1


@everywhere
async def test_exchanges_at_once_have_a_connection_each(kind: str):
    """No answer waits for another one; afterwards all are kept."""
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            await gate.wait()
            await peer.send(ok(received.body))

    async with bench(kind, script) as b:
        asked = [b.send(body=b"%d" % number)[0] for number in range(120)]
        await until(lambda: len(b.server.requests) == 120, "all requests at once")
        gate.set()
        for number, heard in enumerate(asked):
            assert (await heard.over()).body == b"%d" % number

        assert b.server.connections == 120

        await b.ask()

        assert b.server.connections == 120


@everywhere
async def test_an_idle_connection_is_kept_for_a_short_time_only(kind: str):
    """A kept connection that nobody uses ends by itself after `keepalive_seconds`."""
    async with bench(kind, answering(ok(), ok()), keepalive_seconds=0.1) as b:
        await b.ask()

        assert len(b.server.open) == 1

        await until(lambda: not b.server.open, "the end of the idle connection")


@everywhere
async def test_without_a_keepalive_time_no_connection_is_kept(kind: str):
    """0 means none, not even for who sends from inside `on_end`."""
    async with bench(kind, answering(ok(), ok()), keepalive_seconds=0.0) as b:
        second = Heard()
        b.send(Heard(on_end_do=lambda: b.send(second)))
        await second.over()

        assert b.server.connections == 2

        await until(lambda: not b.server.open, "the end of the connections")


# -- no connection


@everywhere
async def test_a_refused_connection_is_told_as_such(kind: str):
    """Nobody listens: the sessions of whoever did are gone."""
    async with bench(kind, answering(), url=f"http://127.0.0.1:{unused_port()}/mcp") as b:
        for fresh in (False, True):
            heard = await b.ask(fresh=fresh)

            assert heard.outcome == (None, b"", Loss.REFUSED)
            assert heard.detail

        assert await b.reach() is False


@everywhere
async def test_a_server_that_does_not_speak_tls_is_not_sent(kind: str):
    """A handshake that fails is no refusal, and the request was not part of it."""

    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.close()

    async with bench(kind, script, is_tls=True) as b:
        assert (await b.ask()).outcome == (None, b"", Loss.NOT_SENT)


@contextmanager
def black_hole() -> Iterator[int]:
    """Listen with a full queue: the kernel answers no further SYN."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
            yield sock.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.skipif(sys.platform != "linux", reason="how a full queue behaves is the kernel's")
@everywhere
async def test_a_connection_that_is_not_made_in_time_is_not_sent(kind: str):
    """Silence of the network is no refusal, and provably nothing was read."""
    with black_hole() as port:
        async with bench(kind, answering(), url=f"http://127.0.0.1:{port}/mcp", connect_timeout_seconds=0.2) as b:
            assert (await b.ask()).outcome == (None, b"", Loss.NOT_SENT)
            assert await b.reach() is False


@on_asyncio
async def test_a_name_that_has_no_address_is_not_sent(kind: str, monkeypatch: pytest.MonkeyPatch):
    """A failing look-up says nothing about the server's sessions."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with bench(kind, answering(), url="http://upstream.invalid:80/mcp") as b:
        monkeypatch.setattr(socket, "getaddrinfo", fail)

        assert (await b.ask()).outcome == (None, b"", Loss.NOT_SENT)
        assert await b.reach() is False


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"], ids=["CRLF", "LF", "CR", "NUL"])
@pytest.mark.parametrize("where", ["value", "name"])
@everywhere
async def test_a_header_that_would_be_two_is_not_written(kind: str, value: str, where: str):
    """Not a byte of such a request leaves, and the edge goes on."""
    pair = ("X-A", value) if where == "value" else (value, "1")
    async with bench(kind, answering(ok())) as b:
        assert (await b.ask(headers=[pair])).outcome == (None, b"", Loss.NOT_SENT)
        assert b.server.requests == []
        assert (await b.ask()).proven is True


@everywhere
async def test_reach_tells_that_a_connection_can_be_made(kind: str):
    """True without a request, and its connection does not stay."""
    async with bench(kind, answering()) as b:
        assert await b.reach() is True

        await until(lambda: b.server.connections == 1 and not b.server.open, "the end of the connection")

        assert b.server.requests == []


# -- abort, pause, close


@everywhere
async def test_an_exchange_can_be_cut_before_its_connection_is_there(kind: str):
    """Nothing is written and nothing is told."""
    async with bench(kind, answering(ok())) as b:
        heard, exchange = b.send()
        b.abort(heard, exchange)
        await turns(20)

        assert b.server.requests == []
        assert not heard.is_over
        assert not b.server.open


@pytest.mark.parametrize("when", ["before the head", "in the body"])
@everywhere
async def test_a_cut_exchange_is_silent_and_ends_its_connection(kind: str, when: str):
    """The server sees the end at once; what it still sends is not heard, and no later exchange gets it."""
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await peer.request()
            await peer.send(ok(b"next"))
            return
        await peer.request()
        if when == "in the body":
            await peer.send(CHUNKED + chunk(b"abc"))
        arrived.set()
        await peer.gone()
        ended.set()

    async with bench(kind, script) as b:
        heard, exchange = b.send()
        await arrived.wait()
        await until(lambda: heard.body == (b"abc" if when == "in the body" else b""), "what was sent")
        b.abort(heard, exchange)
        exchange.abort()
        await ended.wait()

        assert not heard.is_over
        assert (await b.ask()).body == b"next"


@pytest.mark.parametrize("where", ["on_head", "on_data", "on_end"])
@everywhere
async def test_an_exchange_can_be_cut_from_inside_what_it_tells(kind: str, where: str):
    """Nothing more is told, although everything has arrived."""
    heard = Heard()
    async with bench(kind, answering(ok(b"abc"), ok(b"next"))) as b:
        setattr(heard, f"{where}_do", lambda: b.abort(heard, exchange))
        _, exchange = b.send(heard)
        await until(lambda: heard.is_aborted, "the call that cuts")
        await turns(20)

        assert (heard.status, heard.body) == (200, b"" if where == "on_head" else b"abc")
        assert heard.proven is (True if where == "on_end" else None)
        assert (await b.ask()).body == b"next"


@everywhere
async def test_the_end_of_one_exchange_may_begin_the_next(kind: str):
    """A receiver sends from inside `on_end`; the same connection serves it where it is kept."""
    async with bench(kind, answering(ok(b"1"), ok(b"2"))) as b:
        second = Heard()
        heard, _ = b.send(Heard(on_end_do=lambda: b.send(second)))
        await second.over()

        assert (heard.body, second.body) == (b"1", b"2")


@everywhere
async def test_a_paused_body_stays_with_the_server(kind: str):
    """What is not read fills the kernel's buffers and then holds the server; resumed, all of it comes."""
    total, sent = 48 * MIB, 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % total)
        while sent < total:
            peer.writer.write(bytes(MIB // 4))
            sent += MIB // 4
            await peer.writer.drain()

    async with bench(kind, script) as b:
        heard = Heard()
        size = 0

        def pause() -> None:
            nonlocal size
            size += len(heard.pieces.pop())
            if size < MIB:
                exchange.pause()

        heard.on_data_do = pause
        _, exchange = b.send(heard)
        await until(lambda: size > 0, "the first piece")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        held = size

        assert sent < total
        assert held < MIB

        while size < MIB:
            exchange.resume()
            exchange.resume()
            await turns()
        await heard.over()

        assert (size, heard.proven) == (total, True)


@everywhere
async def test_a_paused_exchange_can_be_cut(kind: str):
    """Nobody has to resume what is cut."""
    async with bench(kind, playing(CHUNKED, chunk(b"abc"), chunk(b"def"))) as b:
        heard = Heard()
        heard.on_data_do = lambda: exchange.pause()  # noqa: PLW0108 - there is no exchange yet
        _, exchange = b.send(heard)
        await until(lambda: heard.body != b"", "the first piece")
        b.abort(heard, exchange)
        exchange.resume()
        await until(lambda: not b.server.open, "the end of the connection")

        assert not heard.is_over


@everywhere
async def test_close_ends_everything_and_tells_who_waits(kind: str):
    """An exchange that outlived its edge unheard would wait for ever; one that comes later is refused."""
    async with bench(kind, answering(ok(), CHUNKED)) as b:
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

        late, _ = b.send()
        await until(lambda: late.is_over, "the refusal")

        assert late.loss is Loss.REFUSED


@pytest.mark.parametrize("where", ["on_head", "on_data"])
@everywhere
async def test_a_receiver_that_raises_is_reported_and_loses_its_answer(kind: str, where: str):
    """Our own defect is neither hidden nor taken for the upstream's, and others go on."""

    def fail() -> None:
        raise ValueError("defect")

    async with bench(kind, answering(ok(b"abc"), ok(b"next"))) as b:
        heard = Heard()
        setattr(heard, f"{where}_do", fail)
        b.send(heard)
        await heard.over()

        assert heard.loss is Loss.BROKEN
        assert [repr(context["exception"]) for context in b.defects] == ["ValueError('defect')"]

        b.defects.clear()

        assert (await b.ask()).body == b"next"
