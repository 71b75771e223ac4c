"""Answers that one reader frames so and another otherwise: no byte of one answer ever reaches another request.

For every upstream edge, over real sockets. What an edge tells of each such answer is the contract's (tests/contract);
here the next exchanges are looked at, and an edge that has seen the same head before. A server stands behind it that
numbers what it answers, so that a body in the wrong place is seen by its number.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import uvloop

from proxy.upstream.base import Loss
from proxy.upstream.http import HttpEdge
from proxy.upstream.wire import WireEdge
from support.raw_server import DEADLINE_SECONDS, Bench, Heard, Peer, Script, chunk, ok, turns
from support.waiting import until

EDGES = {"wire": WireEdge, "wire on uvloop": WireEdge, "aiohttp": HttpEdge}

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVIL = ok(b"EVIL")
MIB = 2**20
SETTLING_TURNS = 200
"""Turns of the loop in which a server here has written all of its pieces."""

Test = Callable[..., Awaitable[None]]


def everywhere(test: Test) -> Callable[..., None]:
    """Run a test for every edge on its loop, within a deadline."""

    @pytest.mark.parametrize("kind", list(EDGES))
    @functools.wraps(test)
    def run(kind: str, **more: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await test(kind, **more)

        factory = uvloop.new_event_loop if "uvloop" in kind else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run


def once(*pieces: bytes, after: int = 0) -> Script:
    """Return a script that answers with the request's own body, but one request with these pieces and then in earnest.

    *after*: how many requests are answered in earnest before. A request that comes behind the pieces on their own
    connection is answered in earnest too, as a server does that does not know of its fault.
    """
    left = [*[None] * after, pieces]

    async def script(peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            answer = left.pop(0) if left else None
            await peer.send(*(answer or (ok(received.body),)))

    return script


async def ask(b: Bench, body: bytes, **request: Any) -> Heard:
    """Make an exchange and let everything come that the server writes to it.

    One whose answer does not come to an end is cut then, as by a caller who lost patience. What comes only when the
    next request has been written no client can tell from its answer: that race is not what is tested here.
    """
    heard, exchange = b.send(body=body, **request)
    await turns(SETTLING_TURNS)
    if not heard.is_over:
        b.abort(heard, exchange)
    return heard


async def assert_own(b: Bench, numbers: Iterable[int] = range(3)) -> None:
    """Ask some more, one after the other and then at once: each hears its own answer, whole."""
    for number in numbers:
        assert (await b.ask(body=b"%d" % number)).outcome == (200, b"%d" % number, True)
        await turns()
    asked = [b.send(body=b"at once %d" % number)[0] for number in numbers]
    for number, heard in enumerate(asked):
        assert (await heard.over()).outcome == (200, b"at once %d" % number, True)


TE = b"Transfer-Encoding: chunked\r\n"
HOSTILE: dict[str, tuple[bytes, ...]] = {
    "CL+TE": (HEAD + b"Content-Length: 4\r\n" + TE + b"\r\n0\r\n\r\n" + EVIL,),
    "CL+TE, in segments": (HEAD + b"Content-Length: 4\r\n" + TE + b"\r\n", b"0\r\n\r\n", EVIL),
    "TE+CL": (HEAD + TE + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + EVIL,),
    "TE+CL, in segments": (HEAD + TE + b"Content-Length: 5\r\n\r\n", b"0\r\n\r\n", EVIL),
    "TE+TE": (HEAD + TE + TE + b"\r\n0\r\n\r\n" + EVIL,),
    "TE: chunked, identity": (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + EVIL,),
    "TE: identity": (HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nabcd", EVIL),
    "TE: xchunked": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + EVIL,),
    "TE: vertical tab": (HEAD + b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "TE with a blank before the colon": (
        HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        EVIL,
    ),
    "duplicate CL, unequal": (HEAD + b"Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc", EVIL),
    "duplicate CL, unequal the other way": (HEAD + b"Content-Length: 0\r\nContent-Length: 3\r\n\r\n", EVIL),
    "duplicate CL, equal": (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "CL as a list": (HEAD + b"Content-Length: 3, 0\r\n\r\nabc" + EVIL,),
    "CL with a sign": (HEAD + b"Content-Length: +3\r\n\r\nabc" + EVIL,),
    "CL below zero": (HEAD + b"Content-Length: -1\r\n\r\n" + EVIL,),
    "CL in hexadecimal": (HEAD + b"Content-Length: 0x3\r\n\r\nabc" + EVIL,),
    "CL of nothing said": (HEAD + b"Content-Length:\r\n\r\n" + EVIL,),
    "CL beyond 64 bits": (HEAD + b"Content-Length: 18446744073709551619\r\n\r\nabc" + EVIL,),
    "CL in another script": (HEAD + b"Content-Length: \xd9\xa3\r\n\r\nabc" + EVIL,),
    "CL too small": (HEAD + b"Content-Length: 3\r\n\r\nabc" + EVIL,),
    "CL too small, in segments": (HEAD + b"Content-Length: 3\r\n\r\n", b"ab", b"c" + EVIL),
    "CL too large": (HEAD + b"Content-Length: 300\r\n\r\nabc", EVIL),
    "bad chunk size": (CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n" + EVIL,),
    "bad chunk size behind a chunk": (CHUNKED + chunk(b"abc"), b"-1\r\n\r\n0\r\n\r\n" + EVIL),
    "chunk size with a blank": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", EVIL),
    "chunk size with 0x": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", EVIL),
    "chunk size beyond 64 bits": (CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n" + EVIL,),
    "chunk size beyond 32 bits": (CHUNKED + b"100000003\r\nabc\r\n0\r\n\r\n", EVIL),
    "chunk size of nothing": (CHUNKED + b"\r\n" + EVIL,),
    "chunk that is too long": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n" + EVIL,),
    "chunk that is too short": (CHUNKED + b"5\r\nabc\r\n0\r\n\r\n" + EVIL,),
    "chunk without a line end": (CHUNKED + b"3\r\nabc0\r\n\r\n" + EVIL,),
    "truncated chunk": (CHUNKED + b"64\r\nabc", EVIL),
    "truncated chunks": (CHUNKED + chunk(b"abc"), EVIL),
    "truncated last chunk": (CHUNKED + chunk(b"abc") + b"0\r\n", EVIL),
    "chunk with line feeds alone": (CHUNKED + b"3\nabc\n0\n\n" + EVIL,),
    "chunk with a line feed at the end": (CHUNKED + b"3\r\nabc\r\n0\r\n\n" + EVIL,),
    "chunk extension with a line feed": (CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n" + EVIL,),
    "chunks, then more": (CHUNKED + chunk(b"abc") + chunk(b"") + EVIL,),
    "chunks, then more in segments": (CHUNKED + chunk(b"abc"), chunk(b"") + EVIL[:20], EVIL[20:]),
    "last chunk twice": (CHUNKED + chunk(b"abc") + chunk(b"") + chunk(b""),),
    "obs-fold": (HEAD + b"X: a\r\n Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "obs-fold of a length": (HEAD + b"Content-Length:\r\n 3\r\n\r\nabc" + EVIL,),
    "obs-fold of a coding": (HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + EVIL,),
    "bare LF": (HEAD.replace(b"\r", b"") + b"Content-Length: 3\n\nabc" + EVIL,),
    "bare LF in front of the body": (HEAD + b"Content-Length: 3\r\n\nabc" + EVIL,),
    "bare LF in a value": (HEAD + b"X: a\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "bare CR in a value": (HEAD + b"X: a\rContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "NUL in a name": (HEAD + b"Content-Length\0: 0\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nEVIL",),
    "204 with chunks": (b"HTTP/1.1 204 No Content\r\n" + TE + b"\r\n4\r\nEVIL\r\n0\r\n\r\n",),
    "204 with an answer": (b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL,),
    "204 with an answer, later": (b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(EVIL), EVIL),
    "304 with an answer": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(EVIL), EVIL),
    "205 with a body": (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "HEAD-like": (HEAD + b"Content-Length: %d\r\n\r\n" % len(EVIL), EVIL),
    "100 in front": (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"abc") + EVIL,),
    "100 in front, with a length": (b"HTTP/1.1 100 Continue\r\nContent-Length: 4\r\n\r\nEVIL" + ok(b"abc"),),
    "100 in front, with chunks": (b"HTTP/1.1 100 Continue\r\n" + TE + b"\r\n4\r\nEVIL\r\n0\r\n\r\n" + ok(b"abc"),),
    "103 in front, with an answer for a body": (
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL + ok(b"abc"),
    ),
    "100 behind": (ok(b"abc") + b"HTTP/1.1 100 Continue\r\n\r\n", EVIL),
    "100 behind, later": (ok(b"abc"), b"HTTP/1.1 100 Continue\r\n\r\n" + EVIL),
    "101": (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + EVIL,),
    "200 with an upgrade": (HEAD + b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nabc" + EVIL,),
    "no length": (HEAD + b"\r\nabc" + EVIL,),
    "HTTP/1.0 without a length": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nabc", EVIL),
    "HTTP/1.0 with chunks": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + TE + b"\r\n0\r\n\r\n", EVIL),
    "HTTP/0.9": (b"abc\r\n\r\n", EVIL),
    "line ends in front": (b"\r\n\r\n" + ok(b"abc") + b"\r\n\r\n" + EVIL,),
    "connection: close, then more": (ok(b"abc", "Connection: close") + EVIL,),
    "two answers": (ok(b"abc") + EVIL,),
    "two answers, later": (ok(b"abc"), EVIL),
    "an answer and a half": (ok(b"abc") + EVIL[:-2],),
    "an answer and a half, later": (ok(b"abc"), EVIL[:-2]),
    "an answer in many segments, then more": (*[ok(b"abc")[at : at + 7] for at in range(0, len(ok(b"abc")), 7)], EVIL),
}
"""What a server writes as the answer to one request; nowhere in it may another request find its answer."""
LAWFUL = ("HEAD-like", "103 in front, with an answer for a body")
"""Where `EVIL` is the answer, whatever the server meant: the body that a head announces, the answer behind a hint."""


@pytest.mark.parametrize("name", HOSTILE)
@everywhere
async def test_no_byte_of_an_answer_reaches_another_request(kind: str, name: str) -> None:
    """Whatever becomes of the answer itself, the next exchanges hear their own, and nothing is sent twice."""
    async with Bench(EDGES[kind], once(*HOSTILE[name], after=1)) as b:
        assert (await b.ask(body=b"first")).body == b"first"

        heard = await ask(b, b"attacked")

        assert b"EVIL" not in heard.body or heard.proven is not True or name in LAWFUL

        await assert_own(b)

        assert [each.body for each in b.server.requests].count(b"attacked") == 1


@pytest.mark.parametrize("pieces", HOSTILE.values(), ids=HOSTILE)
@everywhere
async def test_an_answer_that_came_before_is_no_safer(kind: str, pieces: tuple[bytes, ...]) -> None:
    """The same once more, to an edge that knows the head by now: what it has learnt changes nothing."""
    told = []
    async with Bench(EDGES[kind], lambda peer: scripts[0](peer)) as b:  # noqa: PLW0108 - it changes
        for _ in range(3):
            scripts = [once(*pieces)]
            heard = await ask(b, b"attacked", fresh=True)
            told.append(heard.outcome)
            await assert_own(b, range(1))

    assert told[1:] == told[:1] * 2


@pytest.mark.parametrize("line", [b"Content-Length: 4", b"Transfer-Encoding: chunked"], ids=["length", "chunks"])
@everywhere
async def test_an_announcement_has_no_body(kind: str, line: bytes) -> None:
    """Whatever its fields say (RFC 9110, 15.2): nothing of it is told, and least of all before the head."""
    body = b"4\r\nEVIL\r\n0\r\n\r\n" if b"hunked" in line else b"EVIL"
    announcement = b"HTTP/1.1 199 Any\r\n" + line + b"\r\n\r\n" + body
    async with Bench(EDGES[kind], once(announcement + ok(b"abc"))) as b:
        heard = await ask(b, b"attacked")

        assert heard.body in (b"", b"abc")

        await assert_own(b)


# -- heads that repeat


SPELLINGS = {
    "usual": b"Content-Length: 3",
    "in lower case": b"content-length: 3",
    "in mixed case": b"Content-length: 3",
    "in upper case": b"CONTENT-LENGTH: 3",
    "without a blank": b"Content-Length:3",
    "with a tab": b"Content-Length:\t3",
    "with two blanks": b"Content-Length:  3",
    "with a blank behind": b"Content-Length: 3 ",
    "with zeros": b"Content-Length: 003",
    "behind another header": b"X-A: 1\r\nContent-Length: 3\r\nX-B: 2",
    "behind a header that looks like it": b"X-Content-Length: 9\r\nContent-Length: 3",
    "behind a value that looks like it": b"X-A: Content-Length: 9\r\nContent-Length:3",
    "in chunks": b"Transfer-Encoding: chunked",
    "in chunks, in lower case": b"transfer-encoding:chunked",
}


@pytest.mark.parametrize("where", ["whole", "behind the head", "in the body", "in the head", "before the last byte"])
@pytest.mark.parametrize("line", SPELLINGS.values(), ids=SPELLINGS)
@everywhere
async def test_a_head_that_repeats_means_the_same_each_time(kind: str, line: bytes, where: str) -> None:
    """However a server writes the length and cuts its answers, every exchange hears the whole of its own."""

    async def script(peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            body = chunk(received.body) + chunk(b"") if b"hunked" in line else received.body
            answer = HEAD + line + b"\r\n\r\n" + body
            end = len(answer) - len(body)
            at = {"behind the head": end, "in the body": end + 1, "in the head": end - 7, "whole": 0}.get(where, -1)
            await peer.send(*filter(None, (answer[:at], answer[at:])))

    async with Bench(EDGES[kind], script) as b:
        for number in range(100, 105):
            assert (await b.ask(body=b"%d" % number)).outcome == (200, b"%d" % number, True)

        assert b.server.connections == 1


@everywhere
async def test_line_ends_in_front_of_an_answer_are_no_head(kind: str) -> None:
    """What a server writes too much in front is remembered for no answer: behind it stands another head each time."""
    chunks = b"\r\n\r\n" + CHUNKED + chunk(b"abc") + chunk(b"")
    counted = b"\r\n\r\n" + ok(b"no", status="404 Not Found")
    async with Bench(EDGES[kind], lambda peer: once(*pieces)(peer)) as b:  # noqa: PLW0108 - they change
        pieces = (chunks,)

        assert (await ask(b, b"0", fresh=True)).outcome == (200, b"abc", True)

        pieces = (counted,)

        assert (await ask(b, b"1", fresh=True)).outcome == (404, b"no", True)


@everywhere
async def test_a_head_that_repeats_with_another_length_has_that_length(kind: str) -> None:
    """Longer, shorter and empty bodies behind the same head, in one segment and in two, and a lie among them."""
    sizes = [3, 300, 0, 70_000, 1, 0, 30]

    async def script(peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            answer = ok(b"x" * int(received.body))
            at = answer.index(b"\r\n\r\n") + 4
            if len(b.server.requests) % 2:
                await peer.send(answer)
            else:
                await peer.send(*filter(None, (answer[:at], answer[at:])))

    async with Bench(EDGES[kind], script) as b:
        for size in sizes * 2:
            heard = await b.ask(body=b"%d" % size)

            assert (len(heard.body), heard.proven) == (size, True)

        assert b.server.connections == 1


@everywhere
async def test_trailers_are_no_headers_of_the_next_answer(kind: str) -> None:
    """What stands behind a body belongs to it, or to nobody."""
    with_trailer = CHUNKED + chunk(b"abc") + b"0\r\nX-Evil: 1\r\nMcp-Session-Id: evil\r\n\r\n"
    async with Bench(EDGES[kind], once(with_trailer)) as b:
        assert (await b.ask(body=b"0")).outcome == (200, b"abc", True)

        heard = await b.ask(body=b"1")

        assert heard.outcome == (200, b"1", True)
        assert heard.headers == [("Content-Type", "application/json"), ("Content-Length", "1")]
        assert b.server.connections == 1


@everywhere
async def test_blanks_around_a_value_are_no_part_of_it(kind: str) -> None:
    """A session id, say, is the same to every reader (RFC 9110, 5.5)."""
    async with Bench(EDGES[kind], once(ok(b"abc", "X-A:  \t 1 2 \t "))) as b:
        assert (await b.ask(body=b"0")).get("X-A") == ["1 2"]


# -- early ends


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("is_known", [False, True], ids=["new head", "known head"])
@everywhere
async def test_an_early_close_is_nobody_elses(kind: str, is_known: bool, end: str) -> None:
    """Wherever an answer is cut, it is not whole, and the exchanges behind it are not touched."""
    whole = HEAD + b"Content-Length: 6\r\n\r\nabcdef"
    plain = CHUNKED + chunk(b"abc") + chunk(b"def") + chunk(b"")
    cuts = [(answer, at) for answer in (whole, plain) for at in range(15, len(answer), 4)]
    left: list[tuple[bytes, int]] = [(whole, len(whole)), (plain, len(plain))] if is_known else []

    async def script(peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            if received.body != b"attacked":
                await peer.send(ok(received.body))
                continue
            answer, at = left.pop(0)
            await peer.send(answer[:at])
            if at < len(answer):
                peer.close() if end == "close" else peer.reset()
                return

    async with Bench(EDGES[kind], script) as b:
        for _ in tuple(left):
            assert (await b.ask(body=b"attacked")).proven is True

        for cut in cuts:
            left.append(cut)
            heard = await b.ask(body=b"attacked")

            assert heard.loss is Loss.BROKEN, cut
            assert b"abcdef".startswith(heard.body)
            assert (await b.ask(body=b"own")).outcome == (200, b"own", True), cut


@everywhere
async def test_an_answer_before_its_request_is_not_the_next_ones(kind: str) -> None:
    """A server that speaks first is heard by one exchange at most; its true answer is then nobody's."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.send(EVIL)
        while (received := await peer.request()) is not None:
            await peer.send(ok(received.body))

    async with Bench(EDGES[kind], script) as b:
        heard = await ask(b, b"first")

        assert heard.outcome in ((200, b"EVIL", True), (None, b"", Loss.BROKEN), (None, b"", Loss.NOT_SENT))

        await assert_own(b)


@everywhere
async def test_an_answer_before_the_end_of_its_request_ends_the_connection(kind: str) -> None:
    """What is left of a large request is never read as the next request: the connection is not used again."""
    gate = asyncio.Event()
    read: list[bytes] = []

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            while (received := await peer.request()) is not None:
                await peer.send(ok(received.body))
            return
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(ok(b"too large", status="413 Too Large"))
        await gate.wait()
        while data := await peer.reader.read(65_536):
            read.append(data)

    async with Bench(EDGES[kind], script) as b:
        heard, _ = b.send(body=b"x" * (16 * MIB))
        await until(lambda: heard.is_over, "the early answer")

        assert heard.outcome in ((413, b"too large", True), (413, b"too large", Loss.BROKEN))

        await assert_own(b)
        gate.set()
        await until(lambda: len(b.server.open) < b.server.connections, "the end of the connection")

        assert not any(b"POST" in data for data in read)


@everywhere
async def test_what_is_cut_in_its_request_is_followed_by_nothing(kind: str) -> None:
    """An exchange that is aborted while its body leaves ends the connection in the middle of that body."""
    gate = asyncio.Event()
    read: list[bytes] = []

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            while (received := await peer.request()) is not None:
                await peer.send(ok(received.body))
            return
        await peer.reader.readuntil(b"\r\n\r\n")
        await gate.wait()
        while data := await peer.reader.read(65_536):
            read.append(data)

    async with Bench(EDGES[kind], script) as b:
        heard, exchange = b.send(body=b"x" * (16 * MIB))
        await until(lambda: b.server.connections == 1, "the connection")
        await turns(20)
        b.abort(heard, exchange)
        gate.set()
        await assert_own(b)
        await until(lambda: len(b.server.open) < b.server.connections, "the end of the connection")

        assert sum(map(len, read)) < 16 * MIB
        assert not any(b"POST" in data for data in read)
