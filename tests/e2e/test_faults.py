"""Everything an upstream can do wrong to one answer, by a real process on raw TCP, and what the client must get.

Held everywhere: one answer for each request id, never a half frame, a call that may have run is never sent
again, and the next call is served.
"""

import asyncio
import base64
import random
from collections.abc import Iterator
from typing import Any

import pytest

from support.proxy_process import ProxyProcess
from support.raw import Cut, RawConnection, RawSession
from support.scripted import JSON_HEAD, SSE_HEAD, UNASKED, Scripted, notification, script
from support.waiting import until

pytestmark = pytest.mark.e2e

RESULT = "$RESULT"
MEBIBYTE = 2**20
SSE, END, FIN, RST, HANG = ["sse"], ["end"], ["fin"], ["rst"], ["hang"]
SETTINGS = {
    "UPSTREAM__MAX_MESSAGE_BYTES": str(4 * MEBIBYTE),
    "UPSTREAM__SILENCE_SECONDS": "1",
    "UPSTREAM__PING_TIMEOUT_SECONDS": "0.4",
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Start one scripted server."""
    with Scripted() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(upstream: Scripted) -> Iterator[ProxyProcess]:
    """Start one proxy in front of it."""
    with ProxyProcess(upstream.url, SETTINGS) as process:
        yield process


def text(response: Any) -> str:
    """Return the mark a scripted result echoes."""
    return str(response["result"]["content"][0]["text"])


def raw(status: int, body: str, **headers: str) -> list[list[Any]]:
    """Script a whole answer."""
    return [["head", status, {**JSON_HEAD, **headers}, f"length={len(body)}"], ["raw", body]]


WHOLE = {
    "json": [["json"]],
    "json after the upgrade": [["sleep", 0.5], ["json"]],
    "json delimited by the close": [["head", 200, JSON_HEAD, "close"], ["raw", RESULT], FIN],
    "stream": [SSE, ["progress", 1], ["result"], END],
    "stream that is never ended": [SSE, ["result"], HANG],
    "stream delimited by the close": [["head", 200, SSE_HEAD, "close"], ["chunk", f"data: {RESULT}\n\n"], FIN],
    "stream cut behind the result": [SSE, ["result"], RST],
    "chunk cut behind the result's frame": [SSE, ["raw", f"fff\r\ndata: {RESULT}\n\n"], FIN],
    "CRLF": [SSE, ["chunk", f"event: message\r\ndata: {RESULT}\r\n\r\n"], END],
    "CR": [SSE, ["chunk", f"event: message\rdata: {RESULT}\r\r"], END],
    "CRLF split": [SSE, ["chunk", f"data: {RESULT}\r"], ["chunk", "\n\r"], ["chunk", "\n"], END],
    "BOM split": [SSE, ["base64", "77s="], ["base64", "vw=="], ["chunk", f"data: {RESULT}\n\n"], END],
    "a mebibyte before it": [SSE, ["big", MEBIBYTE], ["result"], END],
    "ten thousand comments before it": [SSE, *[["chunk", ":\n" * 1000]] * 10, ["result"], END],
    "ids, empty data, unknown fields": [SSE, ["chunk", "id: 1\ndata:\n\nid\n\nnope: 1\n\ndata\n\n"], ["result"], END],
    "a byte at a time": [SSE, *[["chunk", byte] for byte in "event: message\n"], ["result"], END],
    "100 and 103 before it": [["raw", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n"], ["json"]],
    "a second answer behind it": [["json"], ["raw", UNASKED], HANG],
    "the same id twice, once doubled": [SSE, ["progress", 1, "x"], ["progress", 1, "x"], ["result", "x"], END],
}  # fmt: skip

BROKEN = {
    "RST before the head": ([RST], "connection_broken"),
    "FIN before the head": ([FIN], "connection_broken"),
    "half a head": ([["raw", "HTTP/1.1 200 OK\r\nContent-"], FIN], "connection_broken"),
    "no HTTP": ([["raw", "SSH-2.0-x\r\n"], FIN], "connection_broken"),
    "Content-Length too long": ([["head", 200, JSON_HEAD, "length=5000"], ["raw", RESULT], FIN],
                                "connection_broken"),
    "Content-Length twice": ([["raw", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"], FIN],
                             "connection_broken"),
    "half a JSON delimited by the close": ([["head", 200, JSON_HEAD, "close"], ["raw", '{"jsonrpc":"2.0","id":$ID,"re'],
                                            FIN], "connection_broken"),
    "FIN in a frame": ([SSE, ["progress", 1], ["chunk", 'data: {"jsonrpc":'], FIN], "stream_broken"),
    "FIN behind the data line": ([SSE, ["chunk", f"data: {RESULT}\n"], FIN], "stream_broken"),
    "last chunk behind the data line": ([SSE, ["chunk", f"data: {RESULT}\n"], END], "stream_broken"),
    "close behind the data line": ([["head", 200, SSE_HEAD, "close"], ["chunk", f"data: {RESULT}\n"], FIN],
                                   "stream_broken"),
    "RST in the stream": ([SSE, ["progress", 1], RST], "stream_broken"),
    "no result": ([SSE, ["progress", 1], END], "stream_broken"),
    "bad chunk size": ([SSE, ["raw", f"zz\r\ndata: {RESULT}\n\n\r\n"], HANG], "stream_broken"),
    "bad chunk end": ([SSE, ["raw", "5\r\ndata:xx\r\n"], HANG], "stream_broken"),
    "gzip stream": ([["head", 200, {**SSE_HEAD, "Content-Encoding": "gzip"}, "chunked"], ["chunk", "x"], HANG],
                    "answer_unusable"),
    "frame above the limit": ([SSE, ["big", 5 * MEBIBYTE], ["result"], END], "answer_too_large"),
    "endless frame": ([SSE, ["chunk", "data: "], ["endless", "x" * 65536]], "answer_too_large"),
    "endless body": ([["head", 200, JSON_HEAD, "close"], ["endless", "x" * 65536]], "answer_too_large"),
    "502": (raw(502, "bad gateway"), "gateway_error"),
    "503": (raw(503, "{}"), "gateway_error"),
    "504": (raw(504, ""), "gateway_error"),
    "307": (raw(307, "", Location="http://127.0.0.1:9/x"), "redirected"),
}  # fmt: skip

REFUSED = {400: {}, 401: {"WWW-Authenticate": "Bearer x"}, 403: {}, 409: {}, 429: {"Retry-After": "7"}, 500: {}}


@pytest.mark.parametrize("shape", WHOLE)
async def test_a_whole_answer_in_an_odd_shape_arrives(upstream: Scripted, proxy: ProxyProcess, shape: str) -> None:
    """Odd but complete framing costs nothing: the result arrives, and so does that of the next call."""
    session = await RawSession.open(proxy.url)

    assert text(await session.call(script(shape, *WHOLE[shape]))) == shape
    assert text(await session.call(script(f"after {shape}"))) == f"after {shape}"
    assert len(upstream.executed(shape)) == 1


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_answer_is_told_once_and_the_call_is_not_repeated(
    upstream: Scripted, proxy: ProxyProcess, fault: str
) -> None:
    """The client gets one marked error with its own id, the upstream ran the call once, the session lives."""
    session = await RawSession.open(proxy.url)
    steps, reason = BROKEN[fault]
    response = await session.call(script(fault, *steps), request_id="mine")

    assert response["id"] == "mine"
    assert response["error"]["data"]["origin"] == "mcp-session-proxy"
    assert response["error"]["data"]["reason"] == reason
    assert len(upstream.executed(fault)) == 1
    assert text(await session.call(script("after"))) == "after"


@pytest.mark.parametrize("status", REFUSED)
async def test_the_upstreams_own_refusal_passes_unchanged(proxy: ProxyProcess, status: int) -> None:
    """A 4xx or 500 inside a live session is the upstream's word: status, body and its headers stay."""
    session = await RawSession.open(proxy.url)
    body = '{"said":"upstream"}'
    answer = await session.post(session.call_body(script("refused", *raw(status, body, **REFUSED[status]))))

    assert (answer.status, answer.body.decode()) == (status, body)
    for name, value in REFUSED[status].items():
        assert answer.head.get(name) == value


async def test_an_unasked_answer_on_a_kept_connection_reaches_nobody(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Bytes behind an answer, at once or later, spoil that connection and no request."""
    session = await RawSession.open(proxy.url)
    for number in range(3):
        gate = f"sent {number}"
        await session.call(script("spoil", ["json"], ["wait", gate], ["raw", UNASKED], HANG))
        await upstream.control("open", gate=gate)

        assert text(await session.call(script(gate))) == gate


async def test_no_partial_frame_is_forwarded(proxy: ProxyProcess) -> None:
    """What was whole before the cut arrives, then the error: nothing of the broken frame."""
    session = await RawSession.open(proxy.url)
    body = session.call_body(script("m", SSE, ["progress", 1], ["chunk", 'data: {"half'], RST))
    async with RawConnection(proxy.url) as connection:
        await session.send(connection, "POST", body)
        await connection.read_head()
        stream = await connection.stream()

    assert stream.is_clean
    assert [frame.json.get("method", "error") for frame in stream.messages] == ["notifications/progress", "error"]


# --- the upstream's own resumption


async def test_a_cut_call_is_resumed_with_the_upstreams_cursor(proxy: ProxyProcess, upstream: Scripted) -> None:
    """What the upstream replays from the start is dropped, the rest follows; the client's stream never breaks."""
    session = await RawSession.open(proxy.url)
    first = [["progress", 1, "re:1"], ["progress", 2, "re:2"]]
    replay = [SSE, *first, ["progress", 3, "re:3"], ["result", "re:4"], HANG]
    body = session.call_body(script("resumed", SSE, *first, RST, resume={"key": "re", "scripts": [replay]}))
    async with RawConnection(proxy.url) as connection:
        await session.send(connection, "POST", body)
        await connection.read_head()
        stream = await connection.stream()
    cursors = [request["cursor"] for request in await upstream.requests("GET") if request["cursor"]]

    assert stream.is_clean
    assert [frame.json.get("params", {}).get("progress") for frame in stream.messages] == [1, 2, 3, None]
    assert cursors[-1] == "re:2"
    assert len(upstream.executed("resumed")) == 1


@pytest.mark.parametrize("status", [204, 307, 400, 401, 404, 405, 409, 429, 500])
async def test_a_refused_resume_tells_that_the_outcome_is_unknown(proxy: ProxyProcess, status: int) -> None:
    """Whatever the upstream answers its own cursor with, the call ends, and the session lives on."""
    session = await RawSession.open(proxy.url)
    key = f"no{status}"
    refusal = [["head", status, JSON_HEAD, "none" if status == 204 else "length=0"], FIN]
    steps = [SSE, ["progress", 1, f"{key}:1"], RST]
    response = await session.call(script(key, *steps, resume={"key": key, "scripts": [refusal] * 9}))

    assert response["error"]["data"]["outcome"] == "unknown"
    assert text(await session.call(script("after"))) == "after"


async def test_hostile_upstream_ids_become_the_proxys_own(proxy: ProxyProcess) -> None:
    """Ids of an upstream, however odd, reach the client as ids of the proxy, and never split a frame."""
    session = await RawSession.open(proxy.url)
    ids = ["x" * 9000, "a b", "\x7f", "é", "-" * 3, "id: 7"]
    steps = [SSE, *[["event", {"id": each, "text": '{"jsonrpc":"2.0","method":"n"}'}] for each in ids]]
    nul = base64.b64encode(b'id: \0\xff\ndata: {"jsonrpc":"2.0","method":"n"}\n\n').decode()
    async with RawConnection(proxy.url) as connection:
        await session.send(connection, "POST", session.call_body(script("i", *steps, ["base64", nul], ["result"], END)))
        await connection.read_head()
        stream = await connection.stream()
    epochs = {str(frame.id).split("-")[0] for frame in stream.frames}
    offsets = [int(str(frame.id).split("-")[2]) for frame in stream.frames]

    assert len(stream.messages) == len(ids) + 2
    assert len(epochs) == 1
    assert offsets == sorted(set(offsets))


# --- silence


@pytest.mark.parametrize("kind", ["no head", "stream", "resume"])
async def test_a_frozen_upstream_is_told_within_the_silence_budget(kind: str) -> None:
    """A stopped process answers no ping: the call ends as unknown; thawed, it serves the same session."""
    steps = {
        "no head": [HANG],
        "stream": [SSE, ["progress", 1], HANG],
        "resume": [SSE, ["progress", 1, "z:1"], ["wait", "cut"], RST],
    }[kind]
    with Scripted() as upstream, ProxyProcess(upstream.url, SETTINGS) as proxy:
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as connection:
            body = session.call_body(script(kind, *steps, resume={"key": "z", "scripts": [[HANG]] * 3}))
            await session.send(connection, "POST", body)
            await until(lambda: len(upstream.executed(kind)) == 1, "the call runs")
            if kind == "resume":
                await upstream.control("open", gate="cut")

                async def resumes() -> bool:
                    return any(request["cursor"] == "z:1" for request in await upstream.requests("GET"))

                await until(resumes, "the resume waits for its head")
            upstream.pause()
            head = await connection.read_head()
            told = (await connection.stream()).messages[-1].json
        upstream.resume()

        assert head.status == 200
        assert told["error"]["data"]["reason"] == "upstream_silent"
        assert text(await session.call(script("after"))) == "after"


async def test_a_slow_but_living_upstream_is_not_given_up(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Silence is not death: while pings are answered the call may take its time."""
    session = await RawSession.open(proxy.url)
    before = len(await upstream.requests(rpc="ping"))

    assert text(await session.call(script("slow", SSE, ["sleep", 2.5], ["result"], END))) == "slow"
    assert len(await upstream.requests(rpc="ping")) > before


# --- clients that come and go


async def test_every_interleaving_of_append_and_resume_is_contiguous(proxy: ProxyProcess) -> None:
    """A client that cuts and resumes at random gets each event once and in order, under any timing."""
    count = 100
    for turn in range(12):
        dice = random.Random(turn)
        session = await RawSession.open(proxy.url)
        steps: list[list[Any]] = [SSE]
        for number in range(count):
            steps.append(["chunk", notification(number)])
            if number % 7 == turn % 7:
                steps.append(["sleep", 0.0005 * (turn % 4)])
        got: list[Any] = []
        last = ""
        connection = RawConnection(proxy.url)
        async with connection:
            await session.send(connection, "POST", session.call_body(script("race", *steps, ["result"], END)))
            await connection.read_head()
            last = await read_some(connection, got, last, dice.randrange(12))
            connection.cut(reset=dice.random() < 0.5)
        while "result" not in got[-1:]:
            async with RawConnection(proxy.url) as connection:
                assert (await session.listen(connection, last)).status == 200, turn
                last = await read_some(connection, got, last, dice.randrange(1, 12))
                connection.cut(reset=dice.random() < 0.5)

        assert got == [*range(count), "result"], turn


async def read_some(connection: RawConnection, got: list[Any], last: str, wanted: int) -> str:
    """Read up to so many messages, at least one id; return the last id."""
    taken = 0
    while taken < wanted or not last:
        try:
            frame = await connection.frame()
        except Cut:
            break
        if frame is None:
            break
        last = frame.id or last
        if frame.data:
            taken += 1
            got.append("result" if "result" in frame.json else frame.json["params"]["data"])
    return last


async def test_a_slow_json_answer_survives_a_cut(proxy: ProxyProcess, upstream: Scripted) -> None:
    """The proxy opens the stream itself; cut after its priming event, the client gets the answer by its id."""
    session = await RawSession.open(proxy.url)
    async with RawConnection(proxy.url) as connection:
        await session.send(connection, "POST", session.call_body(script("up", ["wait", "up"], ["json"])))
        await connection.read_head()
        primed = await connection.frame()
        connection.cut()
    await upstream.control("open", gate="up")
    assert primed is not None
    async with RawConnection(proxy.url) as connection:
        head = await session.listen(connection, primed.id)
        stream = await connection.stream()

    assert head.status == 200
    assert [text(frame.json) for frame in stream.messages] == ["up"]
    assert len(upstream.executed("up")) == 1
    async with RawConnection(proxy.url) as connection:
        assert (await session.listen(connection, stream.messages[-1].id)).status == 405


async def test_a_thousand_sessions_share_nothing(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Markers in bodies, credentials and cookies stay with their session, on shared upstream connections."""
    gate = asyncio.Semaphore(50)
    shapes: list[list[list[Any]]] = [[], [SSE, ["progress", 1], ["result"], END], [["json"]]]

    async def one(number: int) -> None:
        mark = f"isolated-{number}"
        own = [("Authorization", f"Bearer {mark}")]
        async with gate:
            session = await RawSession.open(proxy.url, extra=[*own, ("Cookie", mark)])
            shape = [["json", 200, {"Set-Cookie": mark}]] if number % 3 == 2 else shapes[number % 3]
            assert text(await session.call(script(mark, *shape), extra=own)) == mark
            assert (await session.delete(own)).status == 200

    await asyncio.gather(*[one(number) for number in range(1000)])
    calls = [each for each in await upstream.requests(rpc="tools/call") if '"isolated-' in each["body"]]

    assert len(calls) == 1000
    for call in calls:
        assert f'"{call["headers"]["authorization"].removeprefix("Bearer ")}"' in call["body"]
        assert "cookie" not in call["headers"]


async def test_an_answer_to_a_lost_sessions_request_goes_nowhere(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Both generations ask with id 1: the later one is shown another, and each answer finds its own or nobody."""
    session = await RawSession.open(proxy.url)
    async with RawConnection(proxy.url) as reader:
        await session.listen(reader)
        assert await reader.frame()
        sample = 'data: {"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}\n\n'
        await upstream.control("emit", raw=sample)
        first = (await reader.message()).json
        upstream.restart()
        assert text(await session.call(script("rebuilt"))) == "rebuilt"
        resync = [(await reader.message()).json["method"] for _ in range(2)]
        await upstream.control("emit", raw=sample)
        second = (await reader.message()).json
        for shown, mark in ((first["id"], "late"), (second["id"], "fresh")):
            answer = await session.post({"jsonrpc": "2.0", "id": shown, "result": {"mark": mark}})
            assert answer.status == 202
    arrived = [request["body"] for request in await upstream.requests("POST") if '"mark": ' in request["body"]]

    assert sorted(resync) == ["notifications/resources/list_changed", "notifications/tools/list_changed"]
    assert first["id"] == 1
    assert second["id"] != 1
    assert [body for body in arrived if "late" in body] == []
    assert [body for body in arrived if '"fresh"' in body and '"id": 1' in body] != []
