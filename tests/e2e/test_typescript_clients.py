"""Official TypeScript clients through the proxy, in front of official servers that are killed under them.

Both SDK lines keep one session before the Python SDK's server (which answers a lost session with 404) and
before server-everything (400). A client that was told an error over SSE must also fall silent: the 1.x line
would otherwise ask for more of that stream for ever.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from support import node
from support.clients import Client, Event, OpError, text_of
from support.everything import EverythingServer
from support.proxy_process import SHORT_WAITS, ProxyProcess
from support.servers import PythonServer
from support.tcp_relay import TcpRelay

pytestmark = [pytest.mark.e2e, pytest.mark.sdk]

OUTCOME_UNKNOWN = -32050
TOLD_WITHIN_SECONDS = 5.0
"""How soon a lost call must be told, with the waits of SHORT_WAITS; the server is still down then."""
SILENT_SECONDS = 5 * float(SHORT_WAITS["STREAM__RETRY_SECONDS"])
"""Long enough for several resume attempts of a client that loops."""


@dataclass(frozen=True)
class Kind:
    """What one server calls the tools that these tests need."""

    make: Callable[[], Any]
    uri: str
    echo: tuple[str, dict[str, Any]]
    counting: Callable[[int, float], tuple[str, dict[str, Any]]]
    """The tool that reports progress 1 to n, so many seconds apart."""
    touching: tuple[str, dict[str, Any]]
    """The tool that has the subscribed resource told as updated, once at once."""


KINDS = {
    "python": Kind(
        make=lambda: PythonServer("python-2", event_store=True, retry_ms=200),
        uri="test://one",
        echo=("echo", {"text": "heard"}),
        counting=lambda n, pause: ("count", {"n": n, "delay": pause}),
        touching=("touch_resource", {"uri": "test://one"}),
    ),
    "everything": Kind(
        make=EverythingServer,
        uri="demo://resource/dynamic/text/1",
        echo=("echo", {"message": "heard"}),
        counting=lambda n, pause: (
            "trigger-long-running-operation",
            {"duration": n * pause, "steps": n},
        ),
        # On for the session, and again every five seconds: further updates are no doubles.
        touching=("toggle-subscriber-updates", {}),
    ),
}


@dataclass(frozen=True)
class Bed:
    """One server behind one proxy, shared by the tests of a module."""

    kind: Kind
    server: Any
    url: str


def beds(*kinds: str) -> pytest.MarkDecorator:
    """Parametrize over servers; pytest then runs the tests of one server together."""
    return pytest.mark.parametrize("bed", kinds, indirect=True, scope="module")


every_bed = beds("python", "everything")
legacy_clients = pytest.mark.parametrize(("line", "mode"), [("ts1", "legacy"), ("ts2", "legacy")])
modern_clients = pytest.mark.parametrize(("line", "mode"), [("ts2", "modern")])


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """Start one server and one proxy in front of it."""
    kind = KINDS[request.param]
    # What server-everything says of its tools would have the lost call repeated; that is test_failover.py's.
    with kind.make() as server, ProxyProcess(server.url, {"RETRY__UNSAFE_TOOLS": "*"}) as proxy:
        yield Bed(kind, server, proxy.url)


@asynccontextmanager
async def session(line: str, mode: str, bed: Bed, url: str | None = None) -> AsyncIterator[Client]:
    """Open one client's session, and wait until its standalone stream is there if it has one."""
    if not bed.server.is_running:  # a test that failed left it down
        bed.server.start()
    async with Client(f"client {line}", node.ensure().client(line)) as client:
        opened = await client.do("open", url=url or bed.url, mode=mode)
        if opened["session"] is not None:
            await client.wait(lambda event: event["event"] == "http" and event["method"] == "GET")
        yield client
        await client.do("close")


async def call(client: Client, tool: tuple[str, dict[str, Any]]) -> str:
    """Call a tool given as name and arguments, and return the text it answered."""
    return await client.call(tool[0], **tool[1])


def is_update(bed: Bed) -> Callable[[Event], bool]:
    """Make the test for an event that tells of the subscribed resource."""
    return lambda event: (
        event.get("method") == "notifications/resources/updated" and event["params"]["uri"] == bed.kind.uri
    )


def assert_one_session(client: Client) -> None:
    """Hold what the client saw on its wire against "nothing happened"."""
    posts = [event for event in client.events if event["event"] == "http" and event["method"] == "POST"]

    assert len(client.http("initialize")) == 1
    assert len(client.session_ids()) == 1
    assert [event for event in posts if event["status"] not in (200, 202)] == []


def faults(client: Client) -> list[Event]:
    """List what the SDK reported as faults of its transport."""
    return [event for event in client.events if event["event"] == "fault"]


async def lose_a_call(client: Client, bed: Bed) -> OpError:
    """Kill the server while it runs a call of the client, and return what the client is told meanwhile."""
    tool, args = bed.kind.counting(400, 0.05)
    lost = await client.send("call", tool=tool, args=args)
    await client.wait(lambda event: event["event"] == "progress" and event["id"] == lost)
    bed.server.kill()
    try:
        with pytest.raises(OpError) as told:
            await client.result(lost, TOLD_WITHIN_SECONDS)
    finally:
        bed.server.start()
    return told.value


@every_bed
@legacy_clients
async def test_a_call_and_a_subscription_work_through_the_proxy(bed: Bed, line: str, mode: str) -> None:
    """Progress arrives in order and once, the result after it, an update on the standalone stream."""
    async with session(line, mode, bed) as client:
        tool, args = bed.kind.counting(5, 0.05)
        counted = await client.send("call", tool=tool, args=args)
        await client.result(counted)
        await client.do("subscribe", uri=bed.kind.uri)
        await call(client, bed.kind.touching)
        await client.wait(is_update(bed))

        assert client.progress(counted) == [1, 2, 3, 4, 5]
        assert_one_session(client)
        assert faults(client) == []


@every_bed
@legacy_clients
async def test_a_session_outlives_a_server_killed_while_idle(bed: Bed, line: str, mode: str) -> None:
    """The next call is answered in the same session, and the subscription is live again."""
    async with session(line, mode, bed) as client:
        await client.do("subscribe", uri=bed.kind.uri)
        bed.server.restart()

        assert "heard" in await call(client, bed.kind.echo)
        # The resync is told once after the rebuild; only then is an update the server's own.
        await client.wait(is_update(bed))
        mark = client.mark()
        await call(client, bed.kind.touching)
        await client.wait(is_update(bed), after=mark)
        assert_one_session(client)
        assert faults(client) == []


@every_bed
@legacy_clients
async def test_a_call_waits_for_a_server_that_comes_back(bed: Bed, line: str, mode: str) -> None:
    """A call made while the server is down is one slow call."""
    async with session(line, mode, bed) as client:
        bed.server.kill()
        tool, args = bed.kind.echo
        asked = await client.send("call", tool=tool, args=args)
        bed.server.start()

        assert "heard" in text_of(await client.result(asked))
        assert_one_session(client)


@every_bed
@legacy_clients
async def test_a_call_whose_server_is_killed_is_told_as_unknown(bed: Bed, line: str, mode: str) -> None:
    """The lost call ends in "outcome unknown" while the server is down, and the next call is answered."""
    async with session(line, mode, bed) as client:
        told = await lose_a_call(client, bed)

        assert told.code == OUTCOME_UNKNOWN
        assert told.data["origin"] == "mcp-session-proxy"
        assert told.data["outcome"] == "unknown"
        assert "heard" in await call(client, bed.kind.echo)
        assert_one_session(client)


@beds("python")
@legacy_clients
async def test_a_client_falls_silent_after_an_error_over_sse(bed: Bed, line: str, mode: str) -> None:
    """A stream that ended with an error is asked for at most once more, and that is answered 405."""
    async with session(line, mode, bed) as client:
        await lose_a_call(client, bed)
        # Nothing tells that a client will not ask again: only a call in whose time it would have.
        await call(client, bed.kind.counting(10, SILENT_SECONDS / 10))
        resumed = [event for event in client.http(method="GET") if event["last_event_id"]]

        assert [event["status"] for event in resumed] in ([], [405])
        assert len(client.http(method="GET")) == 1 + len(resumed)
        assert faults(client) == []


@every_bed
@legacy_clients
async def test_a_cut_connection_loses_and_doubles_nothing(bed: Bed, line: str, mode: str) -> None:
    """A client whose connection breaks during a call gets every progress and the result exactly once."""
    async with (
        TcpRelay(int(bed.url.split(":")[2].split("/")[0])) as relay,
        session(line, mode, bed, f"http://127.0.0.1:{relay.port}/mcp") as client,
    ):
        await client.do("subscribe", uri=bed.kind.uri)
        tool, args = bed.kind.counting(20, 0.05)
        counted = await client.send("call", tool=tool, args=args)
        await client.wait(lambda event: event["event"] == "progress" and event["progress"] == 3)
        relay.cut()
        await client.result(counted)
        mark = client.mark()
        await call(client, bed.kind.touching)
        await client.wait(is_update(bed), after=mark)

        assert client.progress(counted) == list(range(1, 21))
        assert_one_session(client)


@beds("python")
@legacy_clients
async def test_server_requests_reach_the_client_after_a_restart(bed: Bed, line: str, mode: str) -> None:
    """The rebuilt session can ask the client, on the call's stream and on the standalone one."""
    async with session(line, mode, bed) as client:
        bed.server.restart()

        assert await client.call("elicit", message="m") == "accept yes"
        assert await client.call("sample_standalone", prompt="p") == "sampled"
        assert_one_session(client)


@beds("python")
@modern_clients
async def test_a_modern_client_outlives_a_server_killed_while_idle(bed: Bed, line: str, mode: str) -> None:
    """A modern subscription is told that it ended, a call waits the outage out, no session is made."""
    async with session(line, mode, bed) as client:
        await client.do("subscribe", uri=bed.kind.uri)
        await call(client, bed.kind.touching)
        await client.wait(is_update(bed))
        bed.server.kill()
        ended = await client.wait(lambda event: event["event"] == "subscription_ended", TOLD_WITHIN_SECONDS)
        tool, args = bed.kind.echo
        asked = await client.send("call", tool=tool, args=args)
        bed.server.start()

        assert ended["reason"] == "lost"
        assert "heard" in text_of(await client.result(asked))
        assert client.http("initialize") == []
        assert client.session_ids() == set()


@beds("python")
@modern_clients
async def test_a_modern_call_whose_server_is_killed_ends_in_an_error(bed: Bed, line: str, mode: str) -> None:
    """Without the proxy this client waits for its own timeout; with it the lost call is told at once."""
    async with session(line, mode, bed) as client:
        told = await lose_a_call(client, bed)

        assert told.code == OUTCOME_UNKNOWN
        assert told.data["outcome"] == "unknown"
        assert "heard" in await call(client, bed.kind.echo)


@pytest.mark.parametrize(("bed", "handshakes"), [("python", 0), ("everything", 1)], indirect=["bed"], scope="module")
async def test_an_auto_client_finds_the_era_of_the_server(bed: Bed, handshakes: int) -> None:
    """The probe and its answer pass unchanged, so the client speaks as it would without the proxy."""
    async with session("ts2", "auto", bed) as client:
        probed = client.http("server/discover")

        assert len(probed) == 1
        assert probed[0]["got_session"] is None
        assert len(client.http("initialize")) == handshakes
