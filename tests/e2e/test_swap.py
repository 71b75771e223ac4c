"""What clients see while an operator takes their upstream away: nothing, and what the operator is told of it.

The first part is the row "swap under load" of the table in `test_failover`: every official client, real servers, the
command line. The second part is what is refused: an upstream that cannot take the sessions gets none.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.bad_upstreams import BAD, ELSEWHERE, OTHER_VERSION
from support.pool import LINES, PLAIN, REPEATABLE, Player, Scene, route
from support.processes import free_port
from support.proxy_process import Operated, ProxyProcess
from support.raw import RawConnection, RawSession
from support.scripted import Scripted, script
from support.servers import PythonServer
from support.waiting import until

pytestmark = pytest.mark.e2e

ASKED = LINES[1:]
"""Clients that take further messages while they are asked something; mcp 1.30 takes none until it has answered."""
every_line = pytest.mark.parametrize("line", LINES)


class SwapScene(Scene):
    """The sessions of all clients are swapped from a to b, which the proxy has not heard of before."""

    swapped: Operated
    listed: Operated

    async def acts(self) -> None:
        """Swap while calls run and others come all the time."""
        await self.open()
        await self.run_calls(lists_tools=True)
        await self.each(self._be_asked)
        load = asyncio.create_task(self.each(self._load))
        swapping = asyncio.create_task(self.proxy.operate("upstreams", "swap", "a", self.b.url, "--json"))
        await self.each(lambda player: until(lambda: self._is_served_by_b(player), "b serves it", 15.0))
        await self.each(lambda player: player.call("meanwhile"))
        await self.each(lambda player: player.hear("meanwhile"))
        await self.each(self._answer)
        self.still_running = not swapping.done() and self.gate.exists()
        self.open_gate()
        await self.each(lambda player: player.end(PLAIN, *REPEATABLE))
        self.swapped = await swapping
        await load
        self.listed = await self.proxy.operate("upstreams", "ls", "--json")
        await self.each(lambda player: player.call("next"))
        await self.each(lambda player: player.hear("after"))

    async def _be_asked(self, player: Player) -> None:
        """Have the server ask the client, which does not answer yet."""
        if player.line not in ASKED:
            return
        await player.client.do("hold", on=True)
        await player.begin("asked", "elicit", message="what?")
        await player.client.wait(lambda event: event["event"] == "request")

    async def _answer(self, player: Player) -> None:
        if player.line in ASKED:
            await player.client.do("answer")
            await player.end("asked")

    def _is_served_by_b(self, player: Player) -> bool:
        return any(told.pid in self.pids["b"] for told in player.told.values())

    async def _load(self, player: Player) -> None:
        """Call and call again, a few times more once the other one serves."""
        after = 0
        for number in range(500):
            await player.call(f"load {number}")
            after += self._is_served_by_b(player)
            if after > 5:
                return


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwapScene]:
    """Play the swap once."""
    with PythonServer("python-2", event_store=True, retry_ms=200) as a, PythonServer("python-1.30") as b:
        scene = SwapScene("swap", a, b, tmp_path_factory.mktemp("swap"), is_pool=False)
        asyncio.run(scene.play(SwapScene.acts, {}))
        yield scene


@pytest.mark.sdk
@every_line
def test_running_calls_finish_on_the_old_upstream(scene: SwapScene, line: str) -> None:
    """Whatever they promise, they are answered by the one they run on, once, though the session has left it."""
    player = scene.player(line)

    assert scene.still_running
    for tool in (PLAIN, *REPEATABLE):
        assert player.ending(tool).pid in scene.pids["a"]
        assert scene.runs_of(player, tool) == 1


@pytest.mark.sdk
@pytest.mark.parametrize("line", ASKED)
def test_an_answer_finds_the_old_upstream(scene: SwapScene, line: str) -> None:
    """What that one has asked the client before the swap is answered there after it."""
    player = scene.player(line)

    assert player.ending("asked").text == "accept yes"


@pytest.mark.sdk
@every_line
def test_the_next_calls_are_answered_by_the_new_upstream(scene: SwapScene, line: str) -> None:
    """No call of the load fails or runs twice, and from one call on all are answered by b, in the same session."""
    player = scene.player(line)
    load = [name for name in player.told if name.startswith("load")]
    served_by = ["a" if player.ending(name).pid in scene.pids["a"] else "b" for name in load]

    assert [player.ending(name).error for name in load] == [None] * len(load)
    assert {scene.runs_of(player, name) for name in load} == {1}
    assert served_by == sorted(served_by)
    assert player.ending("meanwhile").pid in scene.pids["b"]
    assert player.ending("next").pid in scene.pids["b"]
    assert player.handshakes == 1
    assert len(player.client.session_ids()) == 1
    assert player.refused == []


@pytest.mark.sdk
@every_line
def test_the_standalone_stream_lives_throughout(scene: SwapScene, line: str) -> None:
    """One stream, never opened again, brought what b said while calls still ran on a, and afterwards."""
    player = scene.player(line)

    assert player.has_heard("before", "meanwhile", "after")
    assert len(player.standalone) == 1


@pytest.mark.sdk
def test_the_operator_gets_exact_numbers(scene: SwapScene) -> None:
    """Sessions moved, calls finished on the old one; at the end there is the new one alone, with all sessions."""
    job = scene.swapped.documents[-1]
    on_a = [call for call in scene.a.executed() if call["args"].get("mark")]
    left = scene.listed.documents[-1]["upstreams"]

    assert scene.swapped.code == 0
    assert job["state"] == "done"
    assert (job["counts"]["total"], job["counts"]["moved"]) == (len(LINES), len(LINES))
    assert job["counts"]["calls_unknown"] == job["counts"]["calls_running"] == job["counts"]["remaining"] == 0
    assert len(LINES) * 3 <= job["counts"]["calls_finished"] <= len(on_a)
    assert [(each["url"], each["sessions"], each["health"]) for each in left] == [(scene.b.url, len(LINES), "healthy")]


# --- what is refused

SAID = {
    "error": "the licence ran out",
    "http error": "HTTP 418",
    "version": OTHER_VERSION,
    "no body": "no body",
    "html": "text/html",
    "redirect": ELSEWHERE,
    "endless body": "more than",
    "endless stream": "more than",
}
"""What the operator must read of each."""


class Stage:
    """One scripted server behind a proxy, and a session on it."""

    def __init__(self, a: Scripted, proxy: ProxyProcess, session: RawSession) -> None:
        self.a = a
        self.proxy = proxy
        self.session = session

    async def call(self, mark: str) -> str:
        """Make a call and return what it was answered with."""
        return str((await self.session.call(script(mark)))["result"]["content"][0]["text"])

    @property
    def homes(self) -> set[str]:
        """The upstream sessions in which calls have run on a."""
        return {call["session"] for call in self.a.executed()}

    async def urls(self) -> list[str]:
        """Ask the proxy for its upstreams."""
        async with RawConnection(f"{self.proxy.admin_url}/upstreams") as connection:
            await connection.request("GET")
            return [each["url"] for each in (await connection.answer()).json["upstreams"]]

    async def refused(self, *words: str) -> str:
        """Ask for what must not be done, see that nothing was, and return what was said about it."""
        operated = await self.proxy.operate(*words)
        assert await self.call("after") == "after"

        assert operated.code in (1, 4), operated
        assert await self.urls() == [self.a.url]
        assert len(self.homes) == 1
        return operated.err


@asynccontextmanager
async def staged(directory: Path, **settings: str) -> AsyncIterator[Stage]:
    """Set the stage."""
    with Scripted() as a:
        config = directory / "config.toml"
        config.write_text(route({"a": a.url}))
        with ProxyProcess(config, settings) as proxy:
            yield Stage(a, proxy, await RawSession.open(proxy.url))


async def test_an_upstream_that_answers_badly_is_refused(tmp_path: Path) -> None:
    """The command says which upstream and why; the session stays in the upstream session it has."""
    async with staged(tmp_path) as stage:
        await stage.call("before")
        for kind, bad in BAD.items():
            async with bad.server() as server:
                said = await stage.refused("upstreams", "swap", "a", server.url)

            assert server.url in said, kind
            assert SAID[kind] in said, kind


async def test_an_upstream_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nobody listens, nobody answers, or there is none of that name: each is said as it is."""
    async with staged(tmp_path, UPSTREAM__PING_TIMEOUT_SECONDS="0.5") as stage:
        await stage.call("before")
        nobody = f"http://127.0.0.1:{free_port()}/mcp"
        unreachable = await stage.refused("upstreams", "swap", "a", nobody)
        with Scripted() as silent:
            silent.pause()
            unanswered = await stage.refused("upstreams", "swap", "a", silent.url)
            silent.resume()
            unknown = await stage.refused("upstreams", "swap", "zzz", silent.url)

    assert nobody in unreachable
    assert "cannot be reached" in unreachable
    assert silent.url in unanswered
    assert "did not answer initialize" in unanswered
    assert "zzz" in unknown


async def test_a_strict_swap_shows_what_differs(tmp_path: Path) -> None:
    """Another server is refused by name of what is another; without --strict the same one is taken, and that shown."""
    async with staged(tmp_path) as stage:
        await stage.call("before")
        with PythonServer("python-2") as other:
            said = await stage.refused("upstreams", "swap", "a", other.url, "--strict")
            taken = await stage.proxy.operate("upstreams", "swap", "a", other.url)

    assert "serverInfo.name" in said
    assert taken.code == 0
    assert "python-test-server" in taken.out


async def test_a_canary_is_taken_back(tmp_path: Path) -> None:
    """Half of the sessions go over and the swap holds; taken back, all are on the old one, and each was answered."""
    async with staged(tmp_path) as stage:
        sessions = [stage.session, *[await RawSession.open(stage.proxy.url) for _ in range(3)]]
        with Scripted() as b:
            held = await stage.proxy.operate("upstreams", "swap", "a", b.url, "--percent", "50", "--json")
            shared = [await each.call(script("shared")) for each in sessions]
            on_both = len(stage.a.executed("shared")), len(b.executed("shared"))
            back = await stage.proxy.operate("jobs", "rollback", held.documents[-1]["id"], "--json")
            at_home = [await each.call(script("at home")) for each in sessions]
            on_a = len(stage.a.executed("at home"))
            urls = await stage.urls()

        assert held.documents[-1]["state"] == "holding"
        assert on_both == (2, 2)
        assert back.documents[-1]["state"] == "rolled_back"
        assert on_a == 4
        assert all("result" in answer for answer in (*shared, *at_home))
        assert urls == [stage.a.url]


async def test_a_call_that_outlasts_the_drain_is_told(tmp_path: Path) -> None:
    """When the time is over it ends as unknown, was run once, and the session is on the new one."""
    async with staged(tmp_path) as stage:
        running = asyncio.create_task(stage.session.call(script("long", ["wait", "for ever"])))
        await until(lambda: len(stage.a.executed("long")) == 1, "it runs")
        with Scripted() as b:
            swapped = await stage.proxy.operate("upstreams", "swap", "a", b.url, "--drain-timeout", "0.3", "--json")
            told = await running
            await stage.call("next")
            counts = swapped.documents[-1]["counts"]

            assert (len(stage.a.executed("long")), len(b.executed("long")), len(b.executed("next"))) == (1, 0, 1)
            assert told["error"]["data"]["reason"] == "drained"
            assert told["error"]["data"]["outcome"] == "unknown"
            assert (counts["moved"], counts["calls_unknown"], counts["calls_finished"]) == (1, 1, 0)


async def test_a_pinned_session_stays(tmp_path: Path) -> None:
    """The swap moves the others, says who stayed, and leaves the old upstream to the one that is pinned."""
    async with staged(tmp_path) as stage:
        other = await RawSession.open(stage.proxy.url)
        listed = await stage.proxy.operate("sessions", "ls", "--json")
        oldest = listed.documents[-1]["sessions"][0]["fingerprint"]
        pinned = await stage.proxy.operate("sessions", "pin", oldest)
        with Scripted() as b:
            swapped = await stage.proxy.operate("upstreams", "swap", "a", b.url, "--json")
            await stage.call("stays")
            await other.call(script("goes"))
            counts = swapped.documents[-1]["counts"]

            assert pinned.code == 0, pinned
            assert (len(stage.a.executed("stays")), len(b.executed("goes"))) == (1, 1)
            assert (counts["moved"], counts["pinned"]) == (1, 1)
