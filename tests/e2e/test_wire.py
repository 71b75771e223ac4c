"""What a client can do on the wire: HTTP's odd corners, hostile values, batches and cancels.

Every request gets one answer that means something to a client, a bound ends what never becomes a request, and
nothing that one client sends touches another.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.proxy_process import ProxyProcess
from support.raw import Answer, Head, Pairs, RawConnection, RawSession, Stream
from support.scripted import Scripted, script
from support.waiting import until

pytestmark = pytest.mark.e2e

SSE, END, RST = ["sse"], ["end"], ["rst"]
HEAD_TIMEOUT_SECONDS = 1.0
MAX_BODY_BYTES = 65_536


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Start one scripted server."""
    with Scripted() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(upstream: Scripted) -> Iterator[ProxyProcess]:
    """Start one proxy in front of it."""
    settings = {
        "LISTEN__HEAD_TIMEOUT_SECONDS": str(HEAD_TIMEOUT_SECONDS),
        "LISTEN__MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    with ProxyProcess(upstream.url, settings) as process:
        yield process


@pytest.fixture
async def session(proxy: ProxyProcess) -> RawSession:
    """Open one session."""
    return await RawSession.open(proxy.url)


async def exchange(session: RawSession, data: bytes) -> Answer:
    """Send exact bytes and read one answer."""
    async with RawConnection(session.url) as connection:
        await connection.send(data)
        return await connection.answer()


def compose(session: RawSession, method: str, extra: Pairs = (), body: bytes | None = None, **more: str) -> bytes:
    """Compose a request of a session without sending it."""
    return RawConnection(session.url).head(method, session.headers(extra, is_get=method == "GET"), body, **more)


def call(session: RawSession, mark: str) -> bytes:
    """Compose the body of a plain call."""
    return json.dumps(session.call_body(script(mark))).encode()


def text(response: Any) -> str:
    """Return the mark a scripted result echoes."""
    return str(response["result"]["content"][0]["text"])


# --- requests in odd shapes


async def test_a_client_that_expects_100_is_told_to_continue(session: RawSession) -> None:
    """The body comes only after the interim answer, as RFC 9110 (10.1.1) lets a client do it."""
    body = call(session, "expected")
    async with RawConnection(session.url) as connection:
        extra = [("Expect", "100-continue"), ("Content-Length", str(len(body)))]
        await connection.send(compose(session, "POST", extra))
        assert (await connection.read_head()).status == 100
        await connection.send(body)

        assert text((await connection.answer()).json) == "expected"


async def test_a_chunked_request_body_is_read(session: RawSession) -> None:
    """A body without a length is a body."""
    body = call(session, "chunked")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"

    answer = await exchange(session, compose(session, "POST", [("Transfer-Encoding", "chunked")], chunks))

    assert text(answer.json) == "chunked"


async def test_http_1_0_gets_answers_without_chunks(session: RawSession) -> None:
    """An old client gets plain answers and event streams delimited by the close."""
    plain = await exchange(session, compose(session, "POST", (), call(session, "old"), version="1.0"))
    body = json.dumps(session.call_body(script("old", SSE, ["progress", 1], ["sleep", 0.05], ["result"], END))).encode()
    async with RawConnection(session.url) as connection:
        await connection.send(compose(session, "POST", (), body, version="1.0"))
        head = await connection.read_head()
        stream = await connection.stream()

    assert text(plain.json) == "old"
    assert head.get("Transfer-Encoding") is None
    assert len(stream.messages) == 2


async def test_pipelined_requests_are_answered_in_order(session: RawSession) -> None:
    """Three requests in one packet, the first of them slow."""
    slow = json.dumps(session.call_body(script("slow", ["sleep", 0.1], ["json"]))).encode()
    bodies = [slow, call(session, "second"), call(session, "third")]
    async with RawConnection(session.url) as connection:
        await connection.send(b"".join(compose(session, "POST", (), body) for body in bodies))
        marks = [text((await connection.answer()).json) for _ in bodies]

    assert marks == ["slow", "second", "third"]


async def test_an_absolute_target_is_accepted(session: RawSession) -> None:
    """A server MUST accept the absolute form in requests (RFC 9112, 3.2.2)."""
    data = compose(session, "POST", (), call(session, "absolute"))
    origin = session.url.removesuffix("/mcp").encode()

    assert (await exchange(session, data.replace(b"POST /", b"POST " + origin + b"/", 1))).status == 200


@pytest.mark.parametrize("name", ["mcp-session-id", "MCP-SESSION-ID", "mCp-SeSsIoN-Id"])
async def test_the_session_header_is_found_in_any_letter_case(session: RawSession, name: str) -> None:
    """Header names have no case; their values do."""
    others = [pair for pair in session.headers() if pair[0] != "Mcp-Session-Id"]
    data = RawConnection(session.url).head("POST", [*others, (name, str(session.id))], call(session, name))

    assert text((await exchange(session, data)).json) == name


@pytest.mark.parametrize("change", ["swapcase", "comma", "cut", "empty"])
async def test_an_id_that_is_not_exactly_a_sessions_is_unknown(session: RawSession, change: str) -> None:
    """Near misses and the empty id get the 404 of any unknown session."""
    own = str(session.id)
    wrong = {"swapcase": own.swapcase(), "comma": f"{own}, {own}", "cut": own[:-1], "empty": ""}[change]
    answer = await session.post(session.call_body(script("wrong")), [("Mcp-Session-Id", wrong)])

    assert answer.status == 404


@pytest.mark.parametrize("name", ["Mcp-Session-Id", "MCP-Protocol-Version", "Content-Type", "Origin", "Host"])
async def test_a_header_that_says_two_things_is_refused(session: RawSession, name: str) -> None:
    """Between two values of a header that means one thing there is no right choice: 400, and nothing ran."""
    known = {"Origin": "http://127.0.0.1", "Host": f"127.0.0.1:{RawConnection(session.url).port}"}
    first = known.get(name) or dict(session.headers())[name]
    extra = [(name, first), (name, "other")]

    assert (await exchange(session, compose(session, "POST", extra, call(session, "twice")))).status == 400


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Host", "evil.example", 403),
        ("Host", "127.0.0.1.evil.example", 403),
        ("Host", "localhost", 200),
        ("Origin", "http://evil.example", 403),
        ("Origin", "null", 403),
        ("Origin", "http://localhost.evil.example", 403),
        ("Origin", "http://localhost:5173", 200),
    ],
)
async def test_a_page_of_another_origin_is_kept_out(session: RawSession, name: str, value: str, status: int) -> None:
    """A loopback listener takes loopback names only, against rebinding and pages that guess the port."""
    answer = await exchange(session, compose(session, "POST", [(name, value)], call(session, "origin")))

    assert answer.status == status


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_not_allowed(session: RawSession, method: str) -> None:
    """405 with what is allowed."""
    answer = await exchange(session, compose(session, method))

    assert answer.status == 405
    assert answer.head.get("Allow") == "GET, POST, DELETE"


# --- what never becomes a request


@pytest.mark.parametrize("start", ["first", "second"])
async def test_a_head_that_never_ends_is_cut(session: RawSession, start: str) -> None:
    """Half a head holds a connection for the head's time only, also behind a served request."""
    async with RawConnection(session.url) as connection:
        if start == "second":
            await connection.send(compose(session, "POST", (), call(session, "first")))
            assert (await connection.answer()).status == 200
        await connection.send(b"POST /mcp HTTP/1.1\r\nHost: 127")

        assert await connection.ended(HEAD_TIMEOUT_SECONDS * 4)


async def test_a_body_that_never_comes_is_refused(session: RawSession) -> None:
    """408 and the end of the connection; other clients are served meanwhile."""
    async with RawConnection(session.url) as connection:
        await connection.send(compose(session, "POST", [("Content-Length", "50")], b"{"))
        assert text(await session.call(script("meanwhile"))) == "meanwhile"
        answer = await connection.answer()

    assert answer.status == 408
    assert answer.head.get("Connection") == "close"


async def test_a_body_above_the_limit_is_refused_at_once(session: RawSession) -> None:
    """Its announced length is enough: nothing of it is awaited."""
    answer = await exchange(session, compose(session, "POST", [("Content-Length", str(MAX_BODY_BYTES + 1))], b"{"))

    assert answer.status == 413


@pytest.mark.parametrize(
    "data",
    [
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: a\r\n b\r\n\r\n",
        b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
        b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["length and chunks", "two lengths", "bad chunk", "folded", "NUL", "20,000 headers", "TLS"],
)
async def test_a_request_that_is_not_http_is_refused(session: RawSession, data: bytes) -> None:
    """400, and no request can be smuggled behind it."""
    async with RawConnection(session.url) as connection:
        await connection.send(data)

        assert (await connection.answer()).status == 400
        assert await connection.ended()


# --- cursors


async def finished_stream(session: RawSession) -> Stream:
    """Make a call that is answered by a stream, and read all of it."""
    async with RawConnection(session.url) as connection:
        await session.send(connection, "POST", session.call_body(script("s", SSE, ["progress", 1], ["result"], END)))
        await connection.read_head()
        return await connection.stream()


async def resume(session: RawSession, cursor: str) -> Head:
    """Ask for what follows a cursor."""
    async with RawConnection(session.url) as connection:
        return await session.listen(connection, cursor)


async def test_a_forged_cursor_is_refused(session: RawSession) -> None:
    """What this session never issued gets 400, quickly, whatever it looks like, and never a 404."""
    epoch, stream, offset = str((await finished_stream(session)).frames[0].id).split("-")
    good = f"{epoch}-{stream}-{offset}"
    forged = [
        "x", "x" * 4000, "%00", "../..", "-" * 30, "\xff\xfe", f"{good}, {good}", good.upper(), f"{good}-1",
        f"{epoch}-{stream}-0{offset}", f"{epoch}-{stream}-99999", f"{epoch}-{stream}-{'9' * 40}",
        f"{epoch}-c99-1", f"{epoch}-s-99999", f"{'a' * 12}-{stream}-{offset}",
    ]  # fmt: skip

    assert {cursor: (await resume(session, cursor)).status for cursor in forged} == dict.fromkeys(forged, 400)


async def test_a_cursor_at_the_end_of_a_call_is_answered_405(session: RawSession) -> None:
    """There is nothing more, and asking again would bring nothing: the one answer that ends every client's loop."""
    last = (await finished_stream(session)).frames[-1].id

    assert (await resume(session, str(last))).status == 405


async def test_another_sessions_cursor_shows_nothing_of_it(session: RawSession, proxy: ProxyProcess) -> None:
    """A foreign call cursor is refused; a foreign standalone one gets a fresh id and the resync, no more."""
    stream = await finished_stream(session)
    epoch = str(stream.frames[0].id).split("-")[0]
    other = await RawSession.open(proxy.url)
    refused = await resume(other, str(stream.frames[0].id))
    async with RawConnection(proxy.url) as connection:
        head = await other.listen(connection, f"{epoch}-s-1")
        frames = [await connection.frame() for _ in range(3)]

    assert (refused.status, head.status) == (400, 200)
    assert [frame.json["method"] for frame in frames[1:] if frame] == [
        "notifications/tools/list_changed",
        "notifications/resources/list_changed",
    ]
    assert {str(frame.id).split("-")[0] for frame in frames if frame}.isdisjoint({epoch})


# --- JSON-RPC


async def test_a_number_and_its_text_are_two_ids(session: RawSession, upstream: Scripted) -> None:
    """1 and "1" run side by side; a second 1 with another body is refused and does not run."""
    async with RawConnection(session.url) as one, RawConnection(session.url) as other:
        for connection, request_id in ((one, 1), (other, "1")):
            body = session.call_body(script(f"id {request_id!r}", ["wait", "ids"], ["json"]), request_id=request_id)
            await session.send(connection, "POST", body)
        await until(lambda: len(upstream.executed("id 1")) == len(upstream.executed("id '1'")) == 1, "both run")
        refused = await session.call(script("in use"), request_id=1)
        await upstream.control("open", gate="ids")
        answers = [(await connection.answer()).json for connection in (one, other)]

    assert refused["error"]["data"]["reason"] == "id_in_use"
    assert [(answer["id"], text(answer)) for answer in answers] == [(1, "id 1"), ("1", "id '1'")]
    assert upstream.executed("in use") == []


async def test_a_batch_is_answered_member_by_member(proxy: ProxyProcess, upstream: Scripted) -> None:
    """On 2025-03-26: whole when the upstream answers; cut, each unanswered member gets its error; rebuilt when lost."""
    session = await RawSession.open(proxy.url, "2025-03-26")
    whole = await session.post([session.call_body(script("b1")), session.call_body(script("b2"))])
    first = session.call_body(script("b3", SSE, ["result"], RST))
    async with RawConnection(proxy.url) as connection:
        await session.send(connection, "POST", [first, session.call_body(script("b4"), request_id="four")])
        await connection.read_head()
        cut = await connection.stream()
    await upstream.control("forget")
    rebuilt = await session.post([session.call_body(script("b5"))])

    assert [text(member) for member in whole.json] == ["b1", "b2"]
    assert cut.is_clean
    assert text(cut.messages[0].json) == "b3"
    assert cut.messages[1].json["id"] == "four"
    assert cut.messages[1].json["error"]["data"]["outcome"] == "unknown"
    assert [text(member) for member in rebuilt.json] == ["b5"]


async def test_a_cancel_is_forwarded_once(session: RawSession, upstream: Scripted) -> None:
    """A second cancel and one for an unknown id get their 202 and go nowhere; the call gets its terminal entry."""
    body = session.call_body(script("cancelled", SSE, ["progress", 1], ["wait", "cancel"], END))
    async with RawConnection(session.url) as connection:
        await session.send(connection, "POST", body)
        await connection.read_head()
        await connection.message()
        for request_id in (body["id"], body["id"], str(body["id"])):
            params = {"requestId": request_id}
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            assert (await session.post(note)).status == 202
        await upstream.control("open", gate="cancel")
        stream = await connection.stream()

    assert stream.is_clean
    assert [frame.json["id"] for frame in stream.messages] == [body["id"]]
    assert len(await upstream.requests(rpc="notifications/cancelled")) == 1
