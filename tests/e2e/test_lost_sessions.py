"""Upstream sessions that are lost, shared, never issued or hard to listen to; the client's session stays one.

Held by a real process on raw TCP: how often the upstream was asked to do what, and what the client saw of it.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from support.proxy_process import ProxyProcess
from support.raw import RawConnection, RawSession
from support.scripted import JSON_HEAD, Scripted, script
from support.waiting import until

pytestmark = pytest.mark.e2e

SSE, END, RST, FIN, HANG = ["sse"], ["end"], ["rst"], ["fin"], ["hang"]
RESYNC = ["notifications/tools/list_changed", "notifications/resources/list_changed"]
"""What the scripted server promises to tell, and no subscription."""


@pytest.fixture
def upstream(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    """Start one scripted server; a parameter is its flags."""
    with Scripted(*getattr(request, "param", ())) as server:
        yield server


@pytest.fixture
def proxy(upstream: Scripted) -> Iterator[ProxyProcess]:
    """Start one proxy in front of it."""
    with ProxyProcess(upstream.url, {"SESSION__MAX_SESSIONS": "2", "SESSION__MAX_CALLS": "20"}) as process:
        yield process


def text(response: Any) -> str:
    """Return the mark a scripted result echoes."""
    return str(response["result"]["content"][0]["text"])


def request(request_id: str, method: str, **params: Any) -> dict[str, Any]:
    """Compose a request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


async def methods(reader: RawConnection, count: int) -> list[str]:
    """Read the methods of the next messages."""
    return [(await reader.message()).json["method"] for _ in range(count)]


@pytest.mark.parametrize("status", [404, 400])
async def test_a_lost_session_is_rebuilt_once_for_all_who_wait(
    upstream: Scripted, proxy: ProxyProcess, status: int
) -> None:
    """Twenty calls at once: one handshake, each call runs once, level and subscription restored, resync told once."""
    await upstream.control("set", lost_status=status)
    session = await RawSession.open(proxy.url)
    await session.post(request("s", "resources/subscribe", uri="test://one"))
    await session.post(request("l", "logging/setLevel", level="debug"))
    async with RawConnection(proxy.url) as reader:
        await session.listen(reader)
        await reader.frame()
        await upstream.control("forget")
        marks = [f"call {number}" for number in range(20)]
        answers = await asyncio.gather(*[session.call(script(mark)) for mark in marks])
        resync = await methods(reader, 3)
        await session.call(script("last"))
        with pytest.raises(TimeoutError):
            await reader.message(0.2)
    asked = [each["rpc"] for each in await upstream.requests("POST")]

    assert [text(answer) for answer in answers] == marks
    assert sorted(each["mark"] for each in upstream.executed()) == sorted([*marks, "last"])
    assert asked.count("initialize") == 2
    assert asked.count("resources/subscribe") == asked.count("logging/setLevel") == 2
    assert sorted(resync) == sorted([*RESYNC, "notifications/resources/updated"])


@pytest.mark.parametrize("upstream", [("--fixed-session", "same")], indirect=True, ids=["one id for all"])
async def test_sessions_of_one_upstream_id_stay_two(upstream: Scripted, proxy: ProxyProcess) -> None:
    """An upstream that gives every client the same id: the proxy's ids differ, and each client is served."""
    first, second = await RawSession.open(proxy.url), await RawSession.open(proxy.url)

    assert first.id != second.id
    assert [text(await each.call(script("served"))) for each in (first, second)] == ["served", "served"]


async def test_an_upstream_without_session_ids_is_served_alike(upstream: Scripted, proxy: ProxyProcess) -> None:
    """The client has the proxy's id all the same; there is no id to send on and nothing to end upstream."""
    await upstream.control("set", issue_session=False)
    session = await RawSession.open(proxy.url)
    answer = text(await session.call(script("served")))
    await session.delete()
    seen = await upstream.requests()

    assert session.id is not None
    assert answer == "served"
    assert {each["session"] for each in seen} == {None}
    assert [each for each in seen if each["method"] == "DELETE"] == []


async def test_a_batch_on_a_later_revision_does_not_read_as_a_lost_session(
    upstream: Scripted, proxy: ProxyProcess
) -> None:
    """What is relayed unwatched meets the loss too: 404 is for a session that is gone, and this one lives."""
    session = await RawSession.open(proxy.url, "2025-06-18")
    await upstream.control("forget")
    answer = await session.post([session.call_body(script("in a batch"))])

    assert answer.status != 404
    assert text(await session.call(script("after"))) == "after"


async def test_a_kept_connection_that_the_server_closed_is_not_used(upstream: Scripted, proxy: ProxyProcess) -> None:
    """The end that follows an answer spoils the connection, not the next call."""
    session = await RawSession.open(proxy.url)

    async def is_closed() -> bool:
        return (await upstream.control("state"))["connections"] == 1  # the one that asks

    for number in range(5):
        mark = f"closed {number}"

        assert text(await session.call(script(mark, ["json"], FIN))) == mark
        assert len(upstream.executed(mark)) == 1
        await until(is_closed, "the server has closed it")


async def test_an_endless_head_is_cut(upstream: Scripted, proxy: ProxyProcess) -> None:
    """Headers without end are no answer: the call is told, memory is not given to them."""
    session = await RawSession.open(proxy.url)
    for start, more in (
        ("HTTP/1.1 200 OK\r\nX: ", "h" * 4096),
        ("HTTP/1.1 200 OK\r\n", "X: y\r\n" * 1000),
        ("", "HTTP/1.1 100 Continue\r\n\r\n" * 200),
    ):
        response = await session.call(script("endless", ["raw", start], ["endless", more]))

        assert response["error"]["data"]["reason"] == "connection_broken"


# --- the standalone stream


def numbered(*numbers: int) -> list[list[Any]]:
    """Script frames whose id and method tell their number."""
    return [["event", {"id": f"st:{n}", "text": f'{{"jsonrpc":"2.0","method":"m{n}"}}'}] for n in numbers]


async def test_a_broken_standalone_stream_is_resumed_unseen(upstream: Scripted, proxy: ProxyProcess) -> None:
    """By the upstream's own cursor, through refusals; repeats and half frames are dropped, the client sees nothing."""
    session = await RawSession.open(proxy.url)
    await upstream.queue("GET", SSE, *numbered(1, 2), ["wait", "first"], RST)
    await upstream.queue("GET", SSE, *numbered(1, 2, 3), ["chunk", 'data: {"half'], ["wait", "second"], FIN)
    await upstream.queue("GET", ["head", 503, {}, "length=0"])
    await upstream.queue("GET", ["head", 409, {}, "length=0"])
    await upstream.queue("GET", SSE, *numbered(4), HANG)
    async with RawConnection(proxy.url) as reader:
        await session.listen(reader)
        seen = await methods(reader, 2)
        await upstream.control("open", gate="first")
        seen += await methods(reader, 1)
        await upstream.control("open", gate="second")
        seen += await methods(reader, 1)
    cursors = [each["cursor"] for each in await upstream.requests("GET")]

    assert seen == ["m1", "m2", "m3", "m4"]
    assert cursors == [None, "st:2", "st:3", "st:3", "st:3"]


async def test_a_hole_in_the_standalone_stream_is_told(upstream: Scripted, proxy: ProxyProcess) -> None:
    """Without a cursor what was sent meanwhile is lost: the resync says so on the same connection."""
    session = await RawSession.open(proxy.url)
    async with RawConnection(proxy.url) as reader:
        await session.listen(reader)
        await reader.frame()
        await upstream.control("cut")

        assert sorted(await methods(reader, 2)) == sorted(RESYNC)


@pytest.mark.parametrize("status", [401, 405])
async def test_the_upstreams_refusal_of_a_standalone_stream_is_relayed(
    upstream: Scripted, proxy: ProxyProcess, status: int
) -> None:
    """405 is normal and 401 is for the client; neither is an error of the session."""
    await upstream.queue("GET", ["head", status, JSON_HEAD, "length=2"], ["raw", "{}"])
    session = await RawSession.open(proxy.url)
    async with RawConnection(proxy.url) as reader:
        head = await session.listen(reader)

    assert head.status == status
    assert text(await session.call(script("served"))) == "served"


async def test_a_reader_that_is_cut_while_idle_is_noticed(upstream: Scripted, proxy: ProxyProcess) -> None:
    """RST and FIN are seen without a write: the next reader is the only one, and nothing is lost between them."""
    session = await RawSession.open(proxy.url)
    cursor = None
    for number, is_reset in enumerate((True, False)):
        async with RawConnection(proxy.url) as reader:
            await session.listen(reader, cursor)
            frame = await reader.frame()
            assert frame is not None
            cursor = frame.id
            reader.cut(reset=is_reset)
        raw = f'data: {{"jsonrpc":"2.0","method":"missed {number}"}}\n\n'
        assert (await upstream.control("emit", raw=raw))["streams"] == 1
        async with RawConnection(proxy.url) as reader:
            await session.listen(reader, cursor)
            message = await reader.message()
            cursor = message.id

            assert message.json["method"] == f"missed {number}"


# --- bounds and gaps


async def test_the_caps_on_sessions_and_calls_refuse_what_is_new(upstream: Scripted, proxy: ProxyProcess) -> None:
    """One more than may be gets its error without running; what is there goes on, and room is used again."""
    first, second = await RawSession.open(proxy.url), await RawSession.open(proxy.url)
    third = RawSession(proxy.url, None)
    body = request("i", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})
    refused = await third.post(body)
    waiting = [asyncio.create_task(first.call(script("w", ["wait", "w"], ["json"]))) for _ in range(20)]
    await until(lambda: len(upstream.executed("w")) == 20, "all calls run")
    too_many = await first.call(script("too many"))
    await upstream.control("open", gate="w")
    answers = await asyncio.gather(*waiting)
    await second.delete()

    assert refused.json["error"]["data"]["reason"] == "too_many_sessions"
    assert too_many["error"]["data"]["reason"] == "too_many_calls"
    assert upstream.executed("too many") == []
    assert [text(answer) for answer in answers] == ["w"] * 20
    assert (await third.post(body)).status == 200


@pytest.mark.parametrize("ends", [True, False], ids=["finished", "running"])
async def test_a_gap_in_a_call_is_told_with_its_own_id(upstream: Scripted, ends: bool) -> None:
    """Below the window: the result where it is kept, else one "outcome unknown"; asked again, 405."""
    settings = {"REPLAY__EVENTS_PER_STREAM": "20", "STREAM__SLOW_READER_EVENTS": "10"}
    burst = [["event", {"text": '{"jsonrpc":"2.0","method":"n"}'}]] * 60
    last = ["result"] if ends else ["event", {"text": '{"jsonrpc":"2.0","method":"last"}'}]
    with ProxyProcess(upstream.url, settings) as proxy:
        session = await RawSession.open(proxy.url)
        steps = [["progress", 1], ["wait", "go"], *burst, last, ["open", "written"], ["wait", "end"]]
        body = session.call_body(script("gap", SSE, *steps))
        async with RawConnection(proxy.url) as caller:
            await session.send(caller, "POST", body)
            await caller.read_head()
            primed = await caller.frame()
            await caller.message()
        await upstream.control("open", gate="go")
        # Answered behind the burst, so that the proxy has read all of that.
        await session.call(script("after", ["wait", "written"], ["json"]))
        assert primed is not None
        stream = await gap_of(session, str(primed.id))
        async with RawConnection(proxy.url) as again:
            asked_again = await session.listen(again, stream[-1].id)

        assert [frame.json["id"] for frame in stream] == [body["id"]]
        assert ("result" in stream[0].json) is ends
        assert asked_again.status == 405


async def gap_of(session: RawSession, cursor: str) -> list[Any]:
    """Resume until the window has passed the cursor; a resume before that gets what is still there."""
    while True:
        async with RawConnection(session.url) as reader:
            assert (await session.listen(reader, cursor)).status == 200
            first = await reader.message()
            if first.json.get("method") is None:
                return [first, *(await reader.stream()).messages]
