"""Official Python clients through the proxy, in front of official Python servers that are killed under them.

Every pair of lines keeps one session through it: what the client sees is one `initialize`, one session id, no
status that would end it. What really ran is read from the server's own record, not from the client.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import pytest

from support.clients import Client, Event, OpError, text_of
from support.proxy_process import ProxyProcess
from support.servers import PythonServer
from support.tcp_relay import TcpRelay

pytestmark = [pytest.mark.e2e, pytest.mark.sdk]

URI = "test://one"
OUTCOME_UNKNOWN = -32050
DEADLINE_SECONDS = 15.0
TOLD_WITHIN_SECONDS = 5.0
"""How soon a lost call must be told, with the waits of SHORT_WAITS; the server is still down then."""

LEGACY = [("python-1.30", "legacy"), ("python-2", "legacy")]
MODERN = [("python-2", "modern")]
STORES = {"events": {"event_store": True, "retry_ms": 200}, "plain": {}, "json": {"json_answers": True}}


@dataclass(frozen=True)
class Bed:
    """One server behind one proxy, shared by the tests of a module."""

    server: PythonServer
    url: str
    reports_progress: bool
    """A server that answers with JSON bodies has no stream to report progress on."""


def beds(lines: list[str], kinds: list[str]) -> pytest.MarkDecorator:
    """Parametrize over servers; pytest then runs the tests of one server together."""
    cells = [pytest.param((line, kind), id=f"{line}-{kind}") for line in lines for kind in kinds]
    return pytest.mark.parametrize("bed", cells, indirect=True, scope="module")


every_bed = beds(["python-1.30", "python-2"], list(STORES))
modern_beds = beds(["python-2"], ["plain", "json"])
legacy_clients = pytest.mark.parametrize(("line", "mode"), LEGACY)
modern_clients = pytest.mark.parametrize(("line", "mode"), MODERN)


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """Start one server and one proxy in front of it."""
    line, kind = request.param
    with PythonServer(line, **STORES[kind]) as server, ProxyProcess(server.url) as proxy:
        yield Bed(server, proxy.url, reports_progress=kind != "json")


@asynccontextmanager
async def session(line: str, mode: str, bed: Bed, url: str | None = None) -> AsyncIterator[Client]:
    """Open one client's session and list its tools, which the SDKs otherwise do after their first call."""
    if not bed.server.is_running:  # a test that failed left it down
        bed.server.start()
    async with Client.python(line) as client:
        await client.do("open", url=url or bed.url, mode=mode)
        await client.do("list_tools")
        yield client
        await client.do("close")


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a fact that has no event of its own (a line in the server's record)."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():  # noqa: ASYNC110 - a file has no event to wait for
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{what} did not come about in {DEADLINE_SECONDS:g} s")


def ran(bed: Bed, mark: str) -> int:
    """Count the executions of the call that carries this mark."""
    return sum(call["args"].get("mark") == mark for call in bed.server.executed())


def is_update(event: Event) -> bool:
    """Say whether an event tells of the subscribed resource."""
    return event.get("method") == "notifications/resources/updated" and event["params"]["uri"] == URI


def updates(client: Client, after: int = 0) -> int:
    """Count the updates of the subscribed resource from position `after` on."""
    return sum(is_update(event) for event in client.events[after:])


def assert_one_session(client: Client) -> None:
    """Hold what the client saw on its wire against "nothing happened"."""
    refused = [event for event in client.events if event["event"] == "http" and event["method"] == "POST"]

    assert len(client.http("initialize")) == 1
    assert len(client.session_ids()) == 1
    assert [event for event in refused if event["status"] not in (200, 202)] == []
    assert [event for event in client.events if event["event"] in ("dead", "fault")] == []


async def assert_subscription_is_live(client: Client, resyncs: int, after: int) -> None:
    """Hold that each touch is told exactly once, on top of `resyncs` updates told since position `after`."""
    await until(lambda: updates(client, after) == resyncs, f"{resyncs} resynced update(s)")
    for touch in (1, 2):
        await client.call("touch_resource", uri=URI)
        await until(lambda told=resyncs + touch: updates(client, after) >= told, f"update after touch {touch}")
    await client.call("echo", text="a round trip for whatever came twice")

    assert updates(client, after) == resyncs + 2


async def lose_a_call(client: Client, bed: Bed) -> OpError:
    """Kill the server while it runs a call of the client, and return what the client is told meanwhile."""
    mark = uuid4().hex
    lost = await client.send("call", tool="count", args={"n": 400, "delay": 0.05, "mark": mark})
    await until(lambda: ran(bed, mark) == 1, "the execution of the call")
    if bed.reports_progress:
        await client.wait(lambda event: event["event"] == "progress" and event["id"] == lost)
    bed.server.kill()
    try:
        with pytest.raises(OpError) as told:
            await client.result(lost, TOLD_WITHIN_SECONDS)
    finally:
        bed.server.start()
    await client.call("echo", text="the next call is answered")

    assert ran(bed, mark) == 1
    return told.value


@every_bed
@legacy_clients
async def test_a_session_outlives_servers_that_are_killed_while_idle(bed: Bed, line: str, mode: str) -> None:
    """Two servers die under one session: each next call is answered, the subscription is live again."""
    async with session(line, mode, bed) as client:
        await client.do("subscribe", uri=URI)
        counted = await client.send("call", tool="count", args={"n": 3})
        assert text_of(await client.result(counted)) == "counted to 3"
        assert client.progress(counted) == ([1, 2, 3] if bed.reports_progress else [])
        await assert_subscription_is_live(client, resyncs=0, after=client.mark())

        mark = client.mark()
        bed.server.restart()
        known = json.loads(await client.call("whoami"))
        assert known["calls"] == 1  # the new server never saw this session before
        assert known["subscriptions"] == [URI]
        await assert_subscription_is_live(client, resyncs=1, after=mark)

        bed.server.kill()
        added = await client.send("call", tool="add", args={"a": 1, "b": 2})  # waits for the server to come back
        before = len(bed.server.executed("add"))
        bed.server.start()
        assert text_of(await client.result(added)) == "3"
        assert len(bed.server.executed("add")) == before + 1
        assert_one_session(client)


@every_bed
@legacy_clients
async def test_a_call_whose_server_is_killed_is_told_as_unknown(bed: Bed, line: str, mode: str) -> None:
    """The lost call ends in the error "outcome unknown" at once, ran once, and the next call is answered."""
    async with session(line, mode, bed) as client:
        told = await lose_a_call(client, bed)

        assert told.code == OUTCOME_UNKNOWN
        assert told.data["origin"] == "mcp-session-proxy"
        assert told.data["outcome"] == "unknown"
        assert_one_session(client)


@every_bed
@legacy_clients
async def test_a_cut_connection_loses_and_doubles_nothing(bed: Bed, line: str, mode: str) -> None:
    """A client whose connection breaks during a call gets every progress and the result exactly once."""
    mark = uuid4().hex
    async with TcpRelay(int(bed.url.split(":")[2].split("/")[0])) as relay:
        url = f"http://127.0.0.1:{relay.port}/mcp"
        async with session(line, mode, bed, url) as client:
            start = client.mark()
            call = await client.send("call", tool="count", args={"n": 20, "delay": 0.05, "mark": mark})
            if bed.reports_progress:
                await client.wait(lambda event: event["event"] == "progress" and event["progress"] == 3)
            else:
                await client.wait(lambda event: event.get("rpc") == "tools/call", after=start)
                await client.do("ping")  # by its answer the first frame of the call has been read
            relay.cut()

            assert text_of(await client.result(call)) == "counted to 20"
            assert client.progress(call) == (list(range(1, 21)) if bed.reports_progress else [])
            assert ran(bed, mark) == 1
            assert_one_session(client)


@every_bed
@legacy_clients
async def test_the_log_level_and_server_requests_survive_a_restart(bed: Bed, line: str, mode: str) -> None:
    """The level is restored in the new upstream session, and the server's questions reach the client."""
    async with session(line, mode, bed) as client:
        await client.do("set_level", level="warning")
        bed.server.restart()

        assert await client.call("level") == "warning"
        assert await client.call("sample_standalone", prompt="p") == "sampled"
        if bed.reports_progress:  # a JSON answer leaves no stream that a question could travel on
            assert await client.call("elicit", message="m") == "accept yes"
        assert_one_session(client)


@modern_beds
@modern_clients
async def test_a_modern_client_outlives_a_server_killed_while_idle(bed: Bed, line: str, mode: str) -> None:
    """A modern subscription is told that it ended, and opens again; calls wait the outage out."""
    async with session(line, mode, bed) as client:
        await client.do("subscribe", uri=URI)
        await client.call("touch_resource", uri=URI)
        await client.updated(URI)
        bed.server.kill()
        ended = await client.wait(lambda event: event["event"] == "subscription_ended", TOLD_WITHIN_SECONDS)
        assert ended["reason"] == "lost"

        added = await client.send("call", tool="add", args={"a": 1, "b": 2})
        bed.server.start()
        assert text_of(await client.result(added)) == "3"
        await client.do("subscribe", uri=URI)
        mark = client.mark()
        await client.call("touch_resource", uri=URI)
        await client.updated(URI, after=mark)
        assert client.http("initialize") == []
        assert client.session_ids() == set()


@modern_beds
@modern_clients
async def test_a_modern_call_whose_server_is_killed_ends_in_an_error(bed: Bed, line: str, mode: str) -> None:
    """The lost modern call is told at once and never sent twice; the next call is answered."""
    async with session(line, mode, bed) as client:
        told = await lose_a_call(client, bed)

        assert told.code == OUTCOME_UNKNOWN
        assert told.data["outcome"] == "unknown"


@beds(["python-2"], ["plain"])
@pytest.mark.parametrize(("line", "mode"), [("python-2", "auto")])
async def test_an_auto_client_finds_the_modern_era_behind_the_proxy(bed: Bed, line: str, mode: str) -> None:
    """`server/discover` passes unchanged: a client that tries it first stays modern."""
    async with session(line, mode, bed) as client:
        assert len(client.http("server/discover")) == 1
        assert client.http("initialize") == []


@beds(["python-1.30"], ["plain"])
@pytest.mark.parametrize(("line", "mode"), [("python-2", "auto")])
async def test_an_auto_client_falls_back_in_front_of_an_older_server(bed: Bed, line: str, mode: str) -> None:
    """The older server's refusal of `server/discover` passes on, without the session id it carries."""
    async with session(line, mode, bed) as client:
        probe = client.http("server/discover")[0]

        assert probe["status"] == 400
        assert probe["got_session"] is None
        assert len(client.http("initialize")) == 1
        assert len(client.session_ids()) == 1
