"""Requests that one reader frames so and another otherwise: none of them is taken for a request, by any edge.

Whoever stands before this proxy may read a byte sequence otherwise than it does. So what could be read in two ways has
to be refused whole, with its connection, and what is behind it with it.
"""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from support.http_corpus import (
    ACCEPT,
    AWAIT,
    CALL,
    CASES,
    CHUNKED,
    EVIL,
    EVIL_CALL,
    HOST_MARK,
    HOSTILE_CASES,
    JSON,
    LAST_CHUNK,
    MAX_BODY_BYTES,
    OTHER,
    OTHER_MARK,
    REPEATED,
    SESSION,
    SESSION_MARK,
    SMUGGLED,
    USUAL,
    Case,
    call,
    chunk,
    framed,
    get,
    head,
    length,
    post,
)
from support.http_fronts import KINDS, PATIENCE_SECONDS, Client, Course, Front, play
from support.raw_server import turns

UNAMBIGUOUS = {
    "coding: identity, then chunked": [b"", EVIL_CALL],
    "coding: gzip, then chunked": [b"", EVIL_CALL],
    "coding: with a comma in front": [b"", EVIL_CALL],
    "coding: with an underscore in the name": [b"0\r\n\r\n", EVIL_CALL],
    "chunks: extension of 70,000 bytes": [b"abc"],
    "chunks: trailer that is a session": [b"abc"],
    "trailers, a call without a session behind them": [CALL, CALL],
    "trailers, a call behind them in a segment of its own": [CALL, CALL],
    "length on a GET": [b"12345"],
    "length on a GET that is a request": [
        SMUGGLED.replace(HOST_MARK.encode(), b"HOST").replace(OTHER_MARK.encode(), b"OTHER")
    ],
}
"""Cases that look hostile and can be read in one way only, and the bodies of the requests they are."""

both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The library logs a traceback for whatever is no HTTP."""
    logger = logging.getLogger("aiohttp.server")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


def bodies(course: Course) -> list[bytes]:
    """Return the bodies that reached the sessions, without the probe's."""
    return [body for _, path, _, body in course.handed if path != "/mcp?probe"]


def hostile() -> list[object]:
    """Name the hostile cases that can be read in two ways."""
    return [pytest.param(case, id=case.name) for case in HOSTILE_CASES if case.name not in UNAMBIGUOUS]


# -- framing


@pytest.mark.parametrize("is_kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("case", hostile())
@both
async def test_what_can_be_read_in_two_ways_is_no_request(kind: str, case: Case, is_kept: bool) -> None:
    """400 and the end of the connection; nothing of it and nothing behind it reaches a session."""
    async with Front(kind) as front:
        course = await play(front, case, is_kept=is_kept)

    assert [told.status for told in course.answers] == [400]
    assert course.end == "closed"
    assert (course.handed, course.sent) == ([], [])


@pytest.mark.parametrize("name", UNAMBIGUOUS)
@both
async def test_what_can_be_read_in_one_way_is_read_in_that(kind: str, name: str) -> None:
    """What only looks odd has the body that its framing says, and what is behind it is a request of its own."""
    case = next(case for case in CASES if case.name == name)
    async with Front(kind) as front:
        course = await play(front, case, is_kept=False)

    # Behind chunks the connection ends, because the library's parser would take a trailer for the next head's.
    got = bodies(course)
    assert got
    assert got == UNAMBIGUOUS[name][: len(got)]


@pytest.mark.xfail(reason="aiohttp hands on a body whose transfer coding it has not undone")
@both
async def test_a_coding_that_is_not_undone_is_refused(kind: str) -> None:
    """What is compressed for the way must not be taken for the body itself (RFC 9112, 6.1: 501)."""
    case = Case("gzip in transfer", (framed(chunk(b"no plain text") + LAST_CHUNK, "Transfer-Encoding: gzip, chunked"),))
    async with Front(kind) as front:
        course = await play(front, case, is_kept=False)

    assert bodies(course) == []


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/2.0", ""])
@both
async def test_a_version_with_another_framing_is_refused(kind: str, version: str) -> None:
    """A request of HTTP/0.9 is its first line alone, and one of HTTP/2 has no lines at all."""
    case = Case("version", (post(first=f"POST /mcp {version}".rstrip()),))
    async with Front(kind) as front:
        course = await play(front, case, is_kept=False)

    assert bodies(course) == []


# -- trailers


TRAILERS = {
    "session": OTHER,
    "credentials": "Authorization: Bearer evil",
    "version": "MCP-Protocol-Version: 2026-07-28",
    "encoding": "Content-Encoding: gzip",
}


@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "later"])
@pytest.mark.parametrize("line", TRAILERS.values(), ids=TRAILERS)
@both
async def test_trailers_are_no_headers_of_anybody(kind: str, line: str, together: bool) -> None:
    """Neither of the request they belong to nor of the next one, which may be another client's behind a balancer."""
    first = framed(chunk(CALL) + b"0\r\nX-Late: 1\r\n" + line.encode() + b"\r\n\r\n", CHUNKED)
    second = post(CALL, usual=(ACCEPT, JSON))
    async with Front(kind) as front:
        case = Case("trailer", (first + second,) if together else (first, AWAIT, second), answers=2)
        course = await play(front, case, is_kept=False)
    lines = [USUAL, (ACCEPT, JSON)]
    own = [["host", *(line.partition(":")[0].lower() for line in each)] for each in lines]
    own[0].append("transfer-encoding")

    # An edge may also refuse such a request, or end the connection behind it.
    assert [told.status for told in course.answers] in ([200, 200, 200], [200], [400])
    for (_, path, headers, _), expected in zip(course.handed, own, strict=False):
        assert path == "/mcp"
        assert [name for name, _ in headers] == expected


# -- upgrades


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "x"])
@both
async def test_bytes_behind_an_upgrade_are_no_less_than_others(kind: str, protocol: str) -> None:
    """An upgrade that is not made changes no framing: what follows is read on, wherever its segments end."""
    first = post(CALL, "Connection: Upgrade", f"Upgrade: {protocol}")
    second = framed(b"a body, and then" + SMUGGLED, length(b"a body, and then" + SMUGGLED))
    data = first + second
    async with Front(kind) as front:
        pieces = (data[: -len(SMUGGLED)], AWAIT, SMUGGLED)
        course = await play(front, Case("upgrade", pieces, then="half-close"), is_kept=False)

    assert EVIL_CALL not in bodies(course)


# -- what is behind a request that was refused


LIMIT = MAX_BODY_BYTES + 1
FILL = b" " * LIMIT
REFUSED = {
    "length": (framed(FILL[: -len(SMUGGLED)], f"Content-Length: {LIMIT}"), SMUGGLED),
    "length, a call behind it": (framed(FILL, f"Content-Length: {LIMIT}"), SMUGGLED),
    "length that is far": (framed(b"", "Content-Length: 1000000"), SMUGGLED * 3),
    "length, and expect": (framed(b"", "Content-Length: 1000000", "Expect: 100-continue"), SMUGGLED),
    "chunks": (framed(chunk(FILL), CHUNKED), chunk(SMUGGLED) + LAST_CHUNK),
    "chunks, a call behind them": (framed(chunk(FILL), CHUNKED), LAST_CHUNK + SMUGGLED),
    "chunk that is far": (framed(b"fffff\r\n" + FILL, CHUNKED), SMUGGLED),
}
"""Bodies beyond the limit, and what comes behind what makes them so."""


@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "behind the answer"])
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
@both
async def test_what_is_behind_too_large_a_body_is_no_request(
    kind: str, data: tuple[bytes, bytes], is_late: bool
) -> None:
    """413 ends the connection: neither the rest of the body nor what follows it is read as a request."""
    first, later = data
    pieces = (first, AWAIT, later) if is_late else (first + later,)
    async with Front(kind) as front:
        course = await play(front, Case("too large", pieces, then="half-close"), is_kept=False)

    assert [told.status for told in course.answers] == [413]
    assert course.end == "closed"
    assert course.handed == []


@both
async def test_what_comes_behind_its_time_is_no_request(kind: str) -> None:
    """408 ends the connection: a body that comes late is no request, whatever it looks like."""
    pieces = (framed(b"", length(SMUGGLED)), AWAIT, SMUGGLED + SMUGGLED)
    async with Front(kind, head_timeout_seconds=PATIENCE_SECONDS) as front:
        course = await play(front, Case("too late", pieces, then="half-close"), is_kept=False)

    assert [told.status for told in course.answers] == [408]
    assert course.handed == []


# -- cuts


async def known(front: Front) -> dict[str, bytes]:
    """Open two sessions and return what takes the place of the corpus' marks."""
    first, second = await front.open_session(b"SESSION"), await front.open_session(b"OTHER")
    return {SESSION_MARK: first.encode(), OTHER_MARK: second.encode()}


def fill(data: bytes, marks: dict[str, bytes]) -> bytes:
    """Put the sessions of a front into the bytes of a case."""
    for mark, value in {HOST_MARK: b"localhost:54321", **marks}.items():
        data = data.replace(mark.encode(), value)
    return data


@pytest.mark.parametrize("is_repeated", [False, True], ids=["first", "repeated"])
@both
async def test_a_request_is_the_same_wherever_it_is_cut(kind: str, is_repeated: bool) -> None:
    """Segments have no meaning: one request, with its headers and its body, whatever arrives together."""
    async with Front(kind) as front:
        data = fill(REPEATED, await known(front))
        for at in range(1, len(data)):
            async with Client(front) as client:
                if is_repeated:
                    await client.send(data)
                    await client.read()
                front.handed.clear()
                await client.send(data[:at], data[at:])
                told = await client.read()

            assert told is not None, at
            assert told.status == 200, at
            assert [request.body for request in front.handed] == [CALL], at
            assert len(front.handed[0].headers) == data.count(b": ") - data.count(b'": '), at


SPELLINGS = {
    "usual": "Content-Length: {}",
    "in lower case": "content-length: {}",
    "in mixed case": "ConTent-length: {}",
    "in upper case": "CONTENT-LENGTH: {}",
    "without a blank": "Content-Length:{}",
    "with a tab": "Content-Length:\t{}",
    "with two blanks": "Content-Length:  {}",
    "with a blank behind": "Content-Length: {} ",
    "with a zero": "Content-Length: 0{}",
    "behind one that looks like it": "X-Content-Length: 0\r\nContent-Length:{}",
    "behind a value that looks like it": "X-A: Content-Length: 0\r\nContent-Length:{}",
}


@pytest.mark.parametrize("is_kept", [False, True], ids=["connections", "connection"])
@pytest.mark.parametrize("where", ["whole", "behind the head", "in the body", "in the head"])
@pytest.mark.parametrize("line", SPELLINGS.values(), ids=SPELLINGS)
@both
async def test_a_head_that_repeats_means_the_same_each_time(kind: str, line: str, where: str, is_kept: bool) -> None:
    """However a client writes the length and cuts its requests: every body whole, and none of them a request."""
    async with Front(kind) as front:
        marks = await known(front)
        front.handed.clear()
        first = head("POST /mcp HTTP/1.1", ACCEPT, line.format(len(SMUGGLED)), JSON, SESSION)
        data = fill(first + SMUGGLED, marks)
        at = {"whole": 0, "behind the head": len(first), "in the body": len(first) + 9, "in the head": 60}[where]
        pieces = [piece for piece in (data[:at], data[at:]) if piece]
        for _ in range(1 if is_kept else 4):
            async with Client(front) as client:
                for _ in range(4 if is_kept else 1):
                    await client.send(*pieces)

                    assert await client.read() is not None

        assert [request.body for request in front.handed] == [fill(SMUGGLED, marks)] * 4


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@both
async def test_a_request_that_is_cut_off_is_nobodys(kind: str, framing: str, end: str) -> None:
    """Wherever the client ends, and however: no session hears of a request that is not whole, nor the upstream."""
    async with Front(kind) as front:
        whole = post(CALL) if framing == "length" else framed(chunk(CALL[:50]) + chunk(CALL[50:]) + LAST_CHUNK, CHUNKED)
        data = fill(whole, await known(front))
        mark = front.mark()
        for at in range(len(data)):
            async with Client(front) as client:
                await client.send(data[:at])
                if end == "close":
                    client.half_close()
                    await client.rest()
        await front.settled()

        assert front.mark() == mark


@both
async def test_bytes_of_one_client_never_reach_another(kind: str) -> None:
    """Requests that come in turns, byte by byte, on connections of their own are two requests."""
    async with Front(kind) as front:
        marks = await known(front)
        ours = fill(post(call("ours")), marks)
        theirs = fill(post(call("theirs"), usual=(ACCEPT, JSON, OTHER)), marks)
        front.handed.clear()
        async with Client(front) as one, Client(front) as two:
            for at in range(max(len(ours), len(theirs))):
                await one.send(ours[at : at + 1])
                await two.send(theirs[at : at + 1])
            answers = [await client.read() for client in (one, two)]
        handed = {request.body: request.head.session_id for request in front.handed}

    assert [b"ours" in told.body for told in answers if told] == [True, False]
    assert handed == {
        call("ours"): marks[SESSION_MARK].decode(),
        call("theirs"): marks[OTHER_MARK].decode(),
    }


# -- many requests on one connection


@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "in turn"])
@both
async def test_a_request_goes_to_its_own_session(kind: str, together: bool) -> None:
    """Requests of two sessions on one connection, as behind a balancer, keep id and credentials apart."""
    async with Front(kind) as front:
        marks = await known(front)
        lines = ("Authorization: Bearer one", "Authorization: Bearer two")
        one = fill(post(call("one"), lines[0]), marks)
        two = fill(post(call("two"), lines[1], usual=(ACCEPT, JSON, OTHER)), marks)
        none = fill(post(call("none"), usual=(ACCEPT, JSON)), marks)
        sequence = [one, two, none, two, two, one, none]
        before = len(front.upstream.server.requests)
        async with Client(front) as client:
            if together:
                await client.send(b"".join(sequence))
            told = []
            for data in sequence:
                if not together:
                    await client.send(data)
                told.append(await client.read())
        await front.settled()
        sent = front.upstream.server.requests[before:]

    expected = {
        one: (call("one"), ["up-1"], ["Bearer one"]),
        two: (call("two"), ["up-2"], ["Bearer two"]),
        none: (call("none"), [], []),
    }

    assert [each.status for each in told if each] == [200] * len(sequence)
    assert sorted((each.body, each.get("Mcp-Session-Id"), each.get("Authorization")) for each in sent) == sorted(
        expected[data] for data in sequence
    )


@both
async def test_a_body_that_is_a_request_stays_a_body(kind: str) -> None:
    """Bytes of a body are never read as a head, here or upstream, where connections are shared."""
    async with Front(kind) as front:
        marks = await known(front)
        evil = fill(SMUGGLED, marks)
        data = fill(head("POST /mcp HTTP/1.1", *USUAL, length(evil)), marks) + evil
        victim = fill(post(PLAIN), marks)
        before = len(front.upstream.server.requests)
        async with Client(front) as attacker, Client(front) as other:
            for _ in range(3):
                await attacker.send(data)
                await attacker.read()
                await other.send(victim)
                told = await other.read()

                assert told is not None
                assert EVIL not in told.body

        await front.settled()
        sent = [each for each in front.upstream.server.requests[before:] if b'"method":"ping"' not in each.body]

    assert [each.body for each in sent] == [evil, PLAIN] * 3


PLAIN = call("plain")


@both
async def test_a_call_that_its_client_left_does_not_answer_another(kind: str) -> None:
    """The upstream's answer to a client that is gone is nobody's, although connections to it are shared."""
    async with Front(kind) as front:
        marks = await known(front)
        for number in range(5):
            async with Client(front) as client:
                await client.send(fill(post(call("slow", f"slow {number}")), marks))
            async with Client(front) as client:
                await client.send(fill(post(call("plain", number)), marks))
                told = await client.read()

            assert told is not None
            assert b"slow" not in told.body
            assert b"plain" in told.body


@both
async def test_a_body_that_the_close_ends_is_followed_by_the_close(kind: str) -> None:
    """An old client that would keep its connection is told where a stream ends, and no answer comes behind it."""
    async with Front(kind) as front:
        data = fill(post(call("stream"), "Connection: keep-alive", first="POST /mcp HTTP/1.0"), await known(front))
        async with Client(front) as client:
            await client.send(data + data)
            async with asyncio.timeout(1):
                told = await client.read()

        assert told is not None
        assert told.body.count(b"HTTP/1.0") == 0


@both
async def test_a_stream_is_not_cut_into_by_what_its_client_sends(kind: str) -> None:
    """Bytes behind a GET whose answer has no end wait; they neither end it nor are answered inside it."""
    async with Front(kind) as front:
        marks = await known(front)
        async with Client(front) as client:
            await client.send(fill(get(), marks), fill(post(call("inside")), marks))
            told = await client.read(stop=b"standalone")
            await turns(20)

            assert told is not None
            assert b"inside" not in told.body
            assert b"HTTP/1.1" not in told.body
            assert [request.head.method for request in front.handed[2:]] == ["GET"]
