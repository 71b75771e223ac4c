"""Requests of 2026-07-28 on the wire: no session, nothing changed on the way, and no silence where a stream breaks.

The upstream is a real process on raw TCP that tells what arrived and when its connections ended.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.proxy_process import ProxyProcess
from support.raw import ACCEPT_BOTH, Head, Pairs, RawConnection, RawSession
from support.scripted import JSON_HEAD, SSE_HEAD, Scripted, script
from support.waiting import until

pytestmark = pytest.mark.e2e

SSE, END, RST, HANG = ["sse"], ["end"], ["rst"], ["hang"]
MODERN = "2026-07-28"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Start one scripted server."""
    with Scripted() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(upstream: Scripted) -> Iterator[ProxyProcess]:
    """Start one proxy in front of it."""
    with ProxyProcess(upstream.url) as process:
        yield process


def text(response: Any) -> str:
    """Return the mark a scripted result echoes."""
    return str(response["result"]["content"][0]["text"])


async def modern(url: str, mark: str, *steps: Any, extra: Pairs = ()) -> tuple[Head, Any]:
    """Send one modern call; return its head and its JSON body or event stream."""
    session = RawSession(url, None)
    own = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "script"), *extra]
    async with RawConnection(url) as connection:
        await session.send(connection, "POST", session.call_body(script(mark, *steps)), own)
        head = await connection.read_head()
        if head.get("Content-Type") == "text/event-stream":
            return head, await connection.stream()
        return head, json.loads(await connection.read_body())


async def test_a_modern_call_passes_without_a_session(proxy: ProxyProcess, upstream: Scripted) -> None:
    """No id is minted or sent on, no event id is promised, unknown parameter headers arrive."""
    extra = [("Mcp-Param-Region", "x"), ("Mcp-Session-Id", "stray"), ("Last-Event-ID", "1")]
    plain_head, plain = await modern(proxy.url, "modern", extra=extra)
    head, stream = await modern(proxy.url, "modern stream", SSE, ["progress", 1], ["result"], END)
    arrived = next(each for each in await upstream.requests(rpc="tools/call") if '"modern"' in each["body"])

    assert (text(plain), text(stream.messages[-1].json)) == ("modern", "modern stream")
    assert plain_head.get("Mcp-Session-Id") is head.get("Mcp-Session-Id") is None
    assert [frame.id for frame in stream.frames] == [None, None]
    assert (arrived["session"], arrived["cursor"], arrived["headers"]["mcp-param-region"]) == (None, None, "x")


async def test_a_modern_stream_that_breaks_off_ends_with_an_error(proxy: ProxyProcess) -> None:
    """Whole frames, then the error; nothing of the frame that was cut, and no silence."""
    for cut in ([["chunk", 'data: {"par'], RST], [END]):
        _, stream = await modern(proxy.url, "cut", SSE, ["progress", 1], *cut)

        assert stream.is_clean
        assert [frame.json.get("method") for frame in stream.messages] == ["notifications/progress", None]
        assert stream.messages[1].json["error"]["data"]["outcome"] == "unknown"


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_a_modern_refusal_passes_unchanged(proxy: ProxyProcess, status: int) -> None:
    """A modern 404 is an unknown method, not a lost session; nothing is rebuilt or re-worded."""
    body = '{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"m"}}'
    head, answer = await modern(proxy.url, "refused", ["head", status, JSON_HEAD, f"length={len(body)}"], ["raw", body])

    assert (head.status, answer) == (status, json.loads(body))


@pytest.mark.parametrize("steps", [[SSE, ["progress", 1], HANG], [HANG]], ids=["in the stream", "before the head"])
async def test_a_modern_disconnect_cancels_upstream(proxy: ProxyProcess, upstream: Scripted, steps: Any) -> None:
    """Closing the response stream IS the cancel: the upstream sees its connection end."""
    session = RawSession(proxy.url, None)

    async def connections() -> int:
        return int((await upstream.control("state"))["connections"])

    before = len(upstream.executed("dropped"))
    async with RawConnection(proxy.url) as connection:
        own = [("MCP-Protocol-Version", MODERN), ("Accept", ACCEPT_BOTH)]
        await session.send(connection, "POST", session.call_body(script("dropped", *steps)), own)
        await until(lambda: len(upstream.executed("dropped")) > before, "the call runs")
        if steps[0] == SSE:
            await connection.read_head()
        running = await connections()
        connection.cut(reset=False)

        async def is_ended() -> bool:
            return await connections() < running

        await until(is_ended, "the upstream's connection ended")


async def test_a_modern_call_waits_for_a_server_that_comes_back(proxy: ProxyProcess, upstream: Scripted) -> None:
    """A refused connection provably ran nothing: it is waited out, then answered."""
    upstream.kill()
    waiting = asyncio.create_task(modern(proxy.url, "patient"))
    try:
        await asyncio.sleep(0)  # the request goes out while nobody listens
        head, _ = await modern(proxy.url, "impatient", extra=[("Origin", "null")])
    finally:
        upstream.start()
    _, answer = await waiting

    assert head.status == 403
    assert text(answer) == "patient"


async def test_an_event_stream_is_not_given_to_a_modern_get(proxy: ProxyProcess) -> None:
    """The modern transport has no GET."""
    async with RawConnection(proxy.url) as connection:
        await connection.request("GET", [("MCP-Protocol-Version", MODERN), ("Accept", SSE_HEAD["Content-Type"])])

        assert (await connection.answer()).status == 405
