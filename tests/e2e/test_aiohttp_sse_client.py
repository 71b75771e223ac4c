"""An unmodified aiohttp-sse-client EventSource held on the standalone stream of a proxied session.

What it can follow (a stream that ends cleanly, an upstream that is killed and restarted behind an
untouched connection) is shown to lose and double nothing; what it cannot follow (its own connection
cut) is shown too, so that nobody promises it. analysis/existing-sse-clients.md has the whole picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp_sse_client.client import READY_STATE_OPEN, EventSource, MessageEvent

from support.tcp_relay import TcpRelay

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "tests" / "servers" / "stub_server.py"
STUB_READY = re.compile(r"ready (\d+)")
PROXY_READY = re.compile(r"listening on http://127\.0\.0\.1:(\d+)/mcp")
DEADLINE_SECONDS = 15.0
CLOSE_AFTER_ABORT_SECONDS = 0.3
SHORT_WAITS = {
    "MCP_SESSION_PROXY__STREAM__RETRY_SECONDS": "0.1",
    "MCP_SESSION_PROXY__STREAM__CLOSE_AFTER_ABORT_SECONDS": str(CLOSE_AFTER_ABORT_SECONDS),
    "MCP_SESSION_PROXY__UPSTREAM__RECONNECT_MIN_SECONDS": "0.05",
    "MCP_SESSION_PROXY__UPSTREAM__RECONNECT_MAX_SECONDS": "0.2",
}
UNPRIMED, PRIMED = "2025-06-18", "2025-11-25"
"""The last revision whose streams open without a priming event, and the first with one."""


async def holds(condition: Callable[[], bool | Awaitable[bool]], within_seconds: float) -> bool:
    """Look at `condition` every 10 ms; say whether it came to hold in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_seconds):
            while True:
                answer = condition()
                if answer if isinstance(answer, bool) else await answer:
                    return True
                await asyncio.sleep(0.01)
    return False


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait until `condition` holds, and fail the test with `what` if it does not."""
    if not await holds(condition, DEADLINE_SECONDS):
        pytest.fail(f"not within {DEADLINE_SECONDS:g} s: {what}")


@dataclass
class Running:
    """A child process that has said it is ready, and its port."""

    process: asyncio.subprocess.Process
    port: int
    reader: asyncio.Task[None]

    async def kill(self) -> None:
        """Send SIGKILL and wait until the process and its pipe are gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self.reader


async def start(ready: re.Pattern[str], *arguments: str) -> Running:
    """Start a Python process from the repository root and wait for the line that names its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**os.environ, **SHORT_WAITS, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said: list[str] = []
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said.append(line.decode(errors="replace"))
            if not port.done() and (match := ready.search(said[-1])):
                port.set_result(int(match[1]))
        if not port.done():
            port.set_exception(RuntimeError("".join(said) or "ended without a word"))

    running = Running(process, 0, asyncio.create_task(read()))
    try:
        running.port = await asyncio.wait_for(port, DEADLINE_SECONDS)
    except BaseException:
        await running.kill()
        raise
    return running


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class World:
    """A stub upstream, the proxy in front of it, and the HTTP client the test speaks with."""

    http: aiohttp.ClientSession
    upstream: Running
    proxy: Running = field(init=False)

    @property
    def url(self) -> str:
        """The proxy's MCP endpoint."""
        return f"http://127.0.0.1:{self.proxy.port}/mcp"

    async def open_session(self, version: str) -> dict[str, str]:
        """Do the handshake through the proxy; return the headers that name the session."""
        params = {
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": {"name": "event-source", "version": "0"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        both = {"Accept": "application/json, text/event-stream"}
        async with self.http.post(self.url, json=message, headers=both) as answer:
            assert answer.status == 200, await answer.text()
            named = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"], "MCP-Protocol-Version": version}
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        async with self.http.post(self.url, json=note, headers=both | named) as answer:
            assert answer.status == 202, await answer.text()
        return named

    async def state(self) -> dict[str, int]:
        """Return the upstream's own account of itself."""
        async with self.http.get(f"http://127.0.0.1:{self.upstream.port}/control/state") as answer:
            return dict(await answer.json())

    async def heard_upstream(self) -> None:
        """Wait until the upstream holds the one standalone stream of the session."""

        async def heard() -> bool:
            return (await self.state())["streams"] == 1

        await until(heard, "the upstream's standalone stream")

    async def emit(self, text: str) -> None:
        """Have the upstream send `text` on its one open stream."""
        url = f"http://127.0.0.1:{self.upstream.port}/control/emit"
        async with self.http.post(url, params={"text": text}) as answer:
            assert await answer.json() == {"streams": 1}

    async def stop_upstream(self) -> None:
        """SIGKILL the upstream that runs now, which need not be the first one."""
        await self.upstream.kill()

    async def restart_upstream(self) -> None:
        """SIGKILL the upstream and start it again on its port, with nothing remembered."""
        await self.stop_upstream()
        self.upstream = await start(STUB_READY, str(STUB), "--port", str(self.upstream.port))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Start the stub upstream and the proxy, each as a process; end both."""
    async with contextlib.AsyncExitStack() as ending:
        http = await ending.enter_async_context(aiohttp.ClientSession())
        running = World(http, await start(STUB_READY, str(STUB)))
        ending.push_async_callback(running.stop_upstream)
        url = f"http://127.0.0.1:{running.upstream.port}/mcp"
        listen = f"127.0.0.1:{free_port()}"
        running.proxy = await start(PROXY_READY, "-m", "proxy", "--upstream", url, "--listen", listen)
        ending.push_async_callback(running.proxy.kill)
        yield running


@dataclass
class Held:
    """An EventSource in use: what it was given and what it said of its connection."""

    source: EventSource
    events: list[MessageEvent] = field(default_factory=list)
    opened: int = 0
    interrupted: int = 0
    reading: asyncio.Task[None] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, url: str, headers: dict[str, str]) -> AsyncIterator[Self]:
        """Connect an EventSource of its own HTTP session and read it until the block ends."""
        held: Held

        def opened() -> None:
            held.opened += 1

        def interrupted() -> None:
            held.interrupted += 1

        async with aiohttp.ClientSession() as http:
            source = EventSource(
                url,
                session=http,
                headers=headers,
                reconnection_time=timedelta(seconds=0.05),
                on_open=opened,
                on_error=interrupted,
            )
            held = cls(source)
            async with source:
                held.read()
                try:
                    yield held
                finally:
                    if held.reading is not None:
                        held.reading.cancel()
                        await asyncio.gather(held.reading, return_exceptions=True)

    def read(self) -> None:
        """Read on in a task of its own."""
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.source:
            self.events.append(event)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The JSON-RPC messages so far; a priming event, which it takes for an empty one, is none."""
        return [json.loads(event.data) for event in self.events if event.data]

    @property
    def texts(self) -> list[str]:
        """The data of every log message so far."""
        return [m["params"]["data"] for m in self.messages if m["method"] == "notifications/message"]

    def has(self, *texts: str) -> Callable[[], bool]:
        """Return a condition: exactly these, in this order."""
        return lambda: self.texts == list(texts)


@pytest.mark.parametrize("version", [UNPRIMED, PRIMED])
async def test_a_stream_ended_by_a_take_over_is_followed_without_loss(world: World, version: str) -> None:
    """A second GET ends the first cleanly; the EventSource comes back with its cursor and misses nothing."""
    named = await world.open_session(version)
    headers = {**named}
    async with Held.on(world.url, headers) as held:
        await world.heard_upstream()
        await world.emit("before")
        await until(held.has("before"), "the event before the take-over")

        async with world.http.get(world.url, headers={**named, "Accept": "text/event-stream"}) as second:
            assert second.status == 200
            await world.emit("while away")
            await until(held.has("before", "while away"), "the event sent while another had the stream")
            # Coming back takes the stream over in turn, so the other reader is ended cleanly as well.
            async with asyncio.timeout(DEADLINE_SECONDS):
                await second.content.read()

        await world.emit("after")
        await until(held.has("before", "while away", "after"), "the event after the take-over")

    ids = [event.last_event_id for event in held.events if event.data]

    assert (held.opened, held.interrupted) == (2, 1)
    assert len(set(ids)) == 3
    # It writes its cursor into the caller's own headers, which here tells what it came back with.
    assert headers["Last-Event-Id"] == ids[0]
    assert (await world.state())["initialized"] == 1


async def test_a_session_without_priming_gives_it_no_empty_message(world: World) -> None:
    """It hands an event with empty data to its user, so a session too old for priming gets none."""
    async with Held.on(world.url, await world.open_session(UNPRIMED)) as held:
        await world.heard_upstream()
        await world.emit("first")
        await until(held.has("first"), "the first event")

    assert [bool(event.data) for event in held.events] == [True]


async def test_the_clean_end_after_an_aborted_reader_is_followed_without_loss(world: World) -> None:
    """The stream that follows an aborted one is ended cleanly once, and the EventSource reads on."""
    named = await world.open_session(PRIMED)
    async with TcpRelay(world.proxy.port) as relay:
        url = f"http://127.0.0.1:{relay.port}/mcp"
        async with world.http.get(url, headers={**named, "Accept": "text/event-stream"}) as aborted:
            assert aborted.status == 200
            await world.heard_upstream()
            relay.cut()
            with pytest.raises(aiohttp.ClientPayloadError):
                await aborted.content.read()

    async with Held.on(world.url, {**named}) as held:
        await world.emit("before")
        await until(lambda: held.interrupted == 1, "the clean end of the stream after the aborted one")
        await world.emit("between")
        await until(lambda: held.opened == 2, "the EventSource's return")
        await world.emit("after")
        await until(held.has("before", "between", "after"), "the events before, at and after the end")

        again = await holds(lambda: held.interrupted > 1, within_seconds=2 * CLOSE_AFTER_ABORT_SECONDS)

    assert not again
    assert (held.opened, held.interrupted) == (2, 1)


@pytest.mark.parametrize("version", [UNPRIMED, PRIMED])
async def test_an_upstream_restart_does_not_touch_its_connection(world: World, version: str) -> None:
    """SIGKILL and restart of the upstream are unseen but for the resync; the new upstream's events arrive."""
    async with Held.on(world.url, await world.open_session(version)) as held:
        await world.heard_upstream()
        await world.emit("before")
        await until(held.has("before"), "the event of the first upstream")

        await world.restart_upstream()
        await world.heard_upstream()
        await world.emit("after")
        await until(held.has("before", "after"), "the event of the restarted upstream")
        methods = [message["method"] for message in held.messages]
        state = held.source.ready_state

    assert (held.opened, held.interrupted, state) == (1, 0, READY_STATE_OPEN)
    assert methods.count("notifications/tools/list_changed") == 1
    assert len(methods) == 3
    assert (await world.state())["initialized"] == 1


async def test_an_abrupt_cut_of_its_connection_is_not_retried_by_it(world: World) -> None:
    """A cut raises ClientPayloadError and is not retried; a caller who reconnects gets what was missed."""
    named = await world.open_session(UNPRIMED)
    async with (
        TcpRelay(world.proxy.port) as relay,
        Held.on(f"http://127.0.0.1:{relay.port}/mcp", {**named}) as held,
    ):
        await world.heard_upstream()
        await world.emit("before")
        await until(held.has("before"), "the event before the cut")

        relay.cut()
        assert held.reading is not None
        with pytest.raises(aiohttp.ClientPayloadError):
            await asyncio.wait_for(held.reading, DEADLINE_SECONDS)

        assert (held.opened, held.interrupted, relay.accepted) == (1, 0, 1)

        await world.emit("while away")
        await held.source.connect()
        held.read()
        await until(held.has("before", "while away"), "the event missed during the cut")

    assert len({event.last_event_id for event in held.events}) == len(held.events)
