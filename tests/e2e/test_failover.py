"""What clients see when upstreams die, hang or are away: every official client, real servers and a real proxy.

Each scene is played once, with a client of each line in it; the tests are the cells of the table "what clients must
see". Servers are killed and stopped by their own pid. What ran is read from the servers' records, what a client sent
from its wire.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.bad_upstreams import BAD, ELSEWHERE, OTHER_VERSION
from support.clients import Client
from support.pool import LINES, PLAIN, REPEATABLE, Player, Scene, Tap, Told, client_of, route
from support.proxy_process import ProxyProcess
from support.raw import RawConnection, RawSession
from support.scripted import Scripted, script
from support.servers import PythonServer
from support.waiting import until

pytestmark = pytest.mark.e2e

OUTCOME_UNKNOWN, UNAVAILABLE = -32050, -32051
FAST = {"HEALTH__INTERVAL_SECONDS": "1", "HEALTH__TIMEOUT_SECONDS": "1", "HEALTH__EJECT_AFTER_SECONDS": "0.3"}
IMPATIENT = {"UPSTREAM__SILENCE_SECONDS": "1", "UPSTREAM__PING_TIMEOUT_SECONDS": "0.5"}


async def restarted(scene: Scene) -> None:
    """The server dies and comes back at its address."""
    scene.a.kill()
    await scene.each(lambda player: player.end(PLAIN))  # told while nobody is there yet
    scene.open_gate()
    await scene.start(scene.a)


async def gone(scene: Scene) -> None:
    """The server dies for good; another one is in the pool."""
    scene.a.kill()
    scene.open_gate()
    await scene.each(lambda player: player.end(PLAIN))


async def hangs(scene: Scene) -> None:
    """The server is stopped: its connections stay open and silent."""
    scene.a.pause()
    scene.open_gate()
    await scene.each(lambda player: player.end(PLAIN, *REPEATABLE))
    await scene.each(lambda player: player.call("while it hangs"))
    scene.a.resume()
    async with RawConnection(scene.a.url) as connection:
        # Answered behind all that was written to the server while it stood still.
        await connection.request("POST", [], b"{}")
        await connection.answer()


async def all_down(scene: Scene) -> None:
    """All servers die, and one comes back while calls still wait for it."""
    scene.a.kill()
    scene.b.kill()
    await scene.each(lambda player: player.end(PLAIN))
    await scene.each(lambda player: player.start("waits", PLAIN))
    scene.open_gate()
    await scene.start(scene.b)
    await scene.each(lambda player: player.end("waits"))


async def all_gone(scene: Scene) -> None:
    """All servers die, and one comes back after everybody's patience is over."""
    scene.a.kill()
    scene.b.kill()
    await scene.each(lambda player: player.end(PLAIN, *REPEATABLE))
    await scene.each(lambda player: player.call("too early"))
    beats = {player.line: player.tap.heartbeats for player in scene.players}
    await scene.each(lambda player: until(lambda: player.tap.heartbeats >= beats[player.line] + 2, "heartbeats"))
    scene.open_gate()
    await scene.start(scene.a)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    acts: Callable[[Scene], Awaitable[None]]
    by: str
    """Who answers afterwards."""
    lists_tools: bool = True
    """Whether the clients ask for the tools; where not, the proxy has to learn their annotations by itself."""
    repeated: bool = True
    """Whether what may be repeated is answered."""
    waiting: tuple[str, ...] = ()
    """Further calls that are answered."""
    early: tuple[str, ...] = ()
    """Calls made while nobody is there for longer than calls wait."""
    settings: dict[str, str] = field(default_factory=dict)


ROWS = {
    "restarted": Row(restarted, "a", settings={"HEALTH__EJECT_AFTER_SECONDS": "60"}),
    "gone": Row(gone, "b", lists_tools=False, settings=FAST),
    "hangs": Row(hangs, "b", waiting=("while it hangs",), settings={**IMPATIENT, **FAST}),
    "all down": Row(all_down, "b", waiting=("waits",), settings={"UPSTREAM__REBUILD_WAIT_SECONDS": "20", **FAST}),
    "all gone": Row(
        all_gone,
        "a",
        repeated=False,
        early=("too early",),
        settings={"UPSTREAM__REBUILD_WAIT_SECONDS": "1", "STREAM__HEARTBEAT_SECONDS": "0.3", **FAST},
    ),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PythonServer, PythonServer]]:
    """Start two servers: the one the sessions begin on, and another."""
    with PythonServer("python-2", event_store=True, retry_ms=200) as a, PythonServer("python-2") as b:
        yield a, b


@pytest.fixture(scope="module", params=ROWS)
def scene(
    request: pytest.FixtureRequest,
    servers: tuple[PythonServer, PythonServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Scene:
    """Play the scene of one row."""
    row = ROWS[request.param]
    scene = Scene(request.param.replace(" ", "-"), *servers, tmp_path_factory.mktemp("scene"))

    async def acts(scene: Scene) -> None:
        await scene.open()
        await scene.run_calls(lists_tools=row.lists_tools)
        await row.acts(scene)
        await scene.each(lambda player: player.end(*(tool for tool in REPEATABLE if tool not in player.told)))
        await scene.each(lambda player: player.call("next"))
        await scene.each(lambda player: player.resync())
        await scene.each(lambda player: player.hear("after"))

    try:
        asyncio.run(scene.play(acts, row.settings))
    finally:
        if servers[0].is_running:
            servers[0].resume()
    return scene


@pytest.fixture
def row(request: pytest.FixtureRequest, scene: Scene) -> Row:
    """Return the row that is played."""
    return ROWS[scene.name.replace("-", " ")]


every_line = pytest.mark.parametrize("line", LINES)


@pytest.mark.sdk
@every_line
def test_the_call_that_was_running(scene: Scene, row: Row, line: str) -> None:
    """A plain call is told as "outcome unknown" and never sent twice; one that may be repeated is answered."""
    player = scene.player(line)

    assert player.ending(PLAIN).code == OUTCOME_UNKNOWN
    assert player.ending(PLAIN).error.data["outcome"] == "unknown"
    assert scene.runs_of(player, PLAIN) == 1
    for tool in REPEATABLE:
        if row.repeated:
            assert player.ending(tool).pid in scene.pids[row.by]
        else:
            assert player.ending(tool).code == OUTCOME_UNKNOWN


@pytest.mark.sdk
@every_line
def test_the_next_call(scene: Scene, row: Row, line: str) -> None:
    """It is answered in the same session: one handshake on the wire, one id, no status that ends a client."""
    player = scene.player(line)
    for name in row.early:
        assert player.ending(name).code == UNAVAILABLE
        assert player.ending(name).error.data["outcome"] == "not_run"
        assert scene.runs_of(player, name) == 0
    for name in row.waiting:
        assert player.ending(name).pid in scene.pids[row.by]
        assert scene.runs_of(player, name) == 1

    assert player.ending("next").pid in scene.pids[row.by]
    assert scene.runs_of(player, "next") == 1
    assert player.handshakes == 1
    assert len(player.client.session_ids()) == 1
    assert player.refused == []


@pytest.mark.sdk
@every_line
def test_the_standalone_stream(scene: Scene, row: Row, line: str) -> None:
    """It stays open, says that updates may have been missed, and brings those of the subscription again."""
    player = scene.player(line)

    assert player.has_heard("before", "resync", "after")
    assert len(player.standalone) == 1


@pytest.mark.sdk
@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_modern_clients_find_the_other_upstream(
    servers: tuple[PythonServer, PythonServer], tmp_path: Path, how: str
) -> None:
    """Without a session there is none to lose: the running call is told, the next one answered by the other server."""
    a, b = servers
    for server in servers:
        if not server.is_running:
            server.start()
    gate = tmp_path / "gate"
    gate.touch()
    config = tmp_path / "config.toml"
    config.write_text(route({"a": a.url, "b": b.url}))

    async def live(client: Client, url: str) -> tuple[Told, Told]:
        await client.do("open", url=url, mode="modern")
        player = Player(client.name, client, Tap(0), "modern")
        await player.start("running", PLAIN, gate)
        await until(lambda: any(call["args"].get("mark") == player.mark("running") for call in a.executed()), "it runs")
        await barrier.wait()
        if how == "pause":
            a.pause()
        elif a.is_running:
            a.kill()
        await player.end("running")
        await player.call("next")
        assert client.http("initialize") == []
        return player.ending("running"), player.ending("next")

    barrier = asyncio.Barrier(2)
    with ProxyProcess(config, {**IMPATIENT, **FAST}) as proxy:
        async with client_of("python-2") as python, client_of("ts2") as typescript:
            try:
                ends = await asyncio.gather(live(python, proxy.url), live(typescript, proxy.url))
            finally:
                if how == "pause":
                    a.resume()

    assert [(running.code, following.pid) for running, following in ends] == [(OUTCOME_UNKNOWN, b.pid)] * 2


# --- the other member cannot take the session

SHORT = {
    "HEALTH__PROBE": "tcp",
    "HEALTH__INTERVAL_SECONDS": "0.5",
    "HEALTH__TIMEOUT_SECONDS": "0.5",
    "HEALTH__EJECT_AFTER_SECONDS": "0.1",
    "HEALTH__BACKOFF_MIN_SECONDS": "0.1",
    "HEALTH__BACKOFF_MAX_SECONDS": "0.5",
    "UPSTREAM__PING_TIMEOUT_SECONDS": "0.7",
    "UPSTREAM__REBUILD_WAIT_SECONDS": "4",
}
"""A member that accepts connections counts as well: what it is shows when a session is to be made there."""


@dataclass(frozen=True)
class Stranded:
    """What a session saw whose upstream was away while the other member could not take it."""

    told: Any
    after: Any
    runs: dict[str, int]


@pytest.fixture(scope="module")
def stranded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stranded]:
    """Let sessions on routes of one proxy lose the server they share; each route has another bad member."""
    return asyncio.run(strand(tmp_path_factory.mktemp("stranded") / "config.toml"))


async def strand(config: Path) -> dict[str, Stranded]:
    """Kill the server, call, start it again, call."""
    async with AsyncExitStack() as stack:
        bad = {kind: (await stack.enter_async_context(BAD[kind].server())).url for kind in BAD}
        a, silent = stack.enter_context(Scripted()), stack.enter_context(Scripted())
        silent.pause()
        stack.callback(silent.resume)
        bad["silence"] = silent.url
        sides = {kind: kind.replace(" ", "-") for kind in bad}
        text = "".join(route({f"a-{side}": a.url, f"b-{side}": bad[kind]}, f"/{side}") for kind, side in sides.items())
        config.write_text(text)  # noqa: ASYNC240 - nothing else runs yet
        proxy = await asyncio.to_thread(stack.enter_context, ProxyProcess(config, SHORT))
        base = proxy.url.rpartition("/")[0]
        sessions = {kind: await RawSession.open(f"{base}/{side}") for kind, side in sides.items()}

        async def call_all(what: str) -> list[Any]:
            calls = [session.call(script(f"{kind} {what}")) for kind, session in sessions.items()]
            return await asyncio.gather(*calls, return_exceptions=True)

        await asyncio.to_thread(a.kill)
        told = await call_all("lost")
        await asyncio.to_thread(a.start)
        after = await call_all("after")
        return {
            kind: Stranded(*answers, {what: len(a.executed(f"{kind} {what}")) for what in ("lost", "after")})
            for kind, *answers in zip(sessions, told, after, strict=True)
        }


WHY = {
    "error": "the licence ran out",
    "http error": "418",
    "version": OTHER_VERSION,
    "no body": "no body",
    "html": "text/html",
    "redirect": ELSEWHERE,
    "endless body": "no body that could be read",
    "endless stream": "no body that could be read",
    "silence": "upstream_silent",
}


@pytest.mark.parametrize("kind", WHY)
def test_a_member_that_answers_badly_gets_no_session(stranded: dict[str, Stranded], kind: str) -> None:
    """The call does not run, and the session is kept: its own upstream answers it once that is back."""
    seen = stranded[kind]

    assert seen.told["error"]["code"] == UNAVAILABLE
    assert seen.told["error"]["data"]["outcome"] == "not_run"
    assert "result" in seen.after
    assert seen.runs == {"lost": 0, "after": 1}


@pytest.mark.parametrize("kind", WHY)
def test_the_error_says_which_member_refused_and_why(stranded: dict[str, Stranded], kind: str) -> None:
    """Whoever reads it need not look for the one that is to be mended."""
    refused = {each["upstream"]: each for each in stranded[kind].told["error"]["data"]["refused"]}

    assert WHY[kind] in json.dumps(refused["b-" + kind.replace(" ", "-")])
