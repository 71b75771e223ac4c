"""Two real servers behind one real proxy, one real client of every line before it, and what each of them saw.

Owns how a scene is set, and the steps that every scene is made of. Each client speaks through a relay that keeps
what passed, so that "no second initialize on the wire" is read from the wire. Knows the product's command line and
configuration file, and nothing of what it does. A client whose step failed takes no further part, and its failure is
kept for the tests that ask about that client: the others go on.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from support import node
from support.clients import Client, Event, OpError, text_of
from support.proxy_process import ProxyProcess
from support.servers import PythonServer
from support.tcp_relay import TcpRelay
from support.waiting import until

LINES = ("python-1.30", "python-2", "ts1", "ts2")
"""The official clients, all of the era with sessions."""
PLAIN, REPEATABLE = "act", ("look", "put")
"""The tool that promises nothing, and those that say `readOnlyHint` and `idempotentHint`."""
DEADLINE_SECONDS = 20.0
INITIALIZE = re.compile(rb'"method":\s*"initialize"')
HEARTBEAT = b"\n: keep-alive\n"


def client_of(line: str) -> Client:
    """Make a client of one line."""
    if line.startswith("python"):
        return Client.python(line)
    return Client(f"client {line}", node.ensure().client(line))


def route(upstreams: Mapping[str, str], path: str = "/mcp") -> str:
    """Write one route of a configuration file: these upstreams, of which the first gets every session."""
    lines = ["[[routes]]", f'path = "{path}"', 'policy = "weighted"']
    for name, url in upstreams.items():
        weight = 1000 if name == next(iter(upstreams)) else 1
        lines += ["[[routes.upstreams]]", f'name = "{name}"', f'url = "{url}"', f"weight = {weight}"]
    return "\n".join(lines) + "\n"


class _Kept:
    """A reader that keeps what was read through it."""

    def __init__(self, reader: asyncio.StreamReader, kept: bytearray) -> None:
        self._reader = reader
        self._kept = kept

    async def read(self, most: int) -> bytes:
        """Read as the reader does."""
        data = await self._reader.read(most)
        self._kept += data
        return data


class Tap(TcpRelay):
    """A relay that keeps the bytes of each connection and direction."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._from_client: list[bytearray] = []
        self._to_client: list[bytearray] = []

    async def _pump(self, reader: Any, writer: asyncio.StreamWriter, *, to_client: bool) -> None:
        kept = bytearray()
        (self._to_client if to_client else self._from_client).append(kept)
        await super()._pump(_Kept(reader, kept), writer, to_client=to_client)  # type: ignore[arg-type]

    @property
    def handshakes(self) -> int:
        """How many `initialize` requests the client sent."""
        return sum(len(INITIALIZE.findall(kept)) for kept in self._from_client)

    @property
    def heartbeats(self) -> int:
        """How many heartbeats came for the client."""
        return sum(kept.count(HEARTBEAT) for kept in self._to_client)


@dataclass
class Told:
    """How one call ended for its client."""

    text: str | None = None
    error: OpError | None = None

    @property
    def pid(self) -> int | None:
        """Which server process answered; None when it was an error, or a tool that does not say."""
        if self.text is None or not self.text.startswith("{"):
            return None
        return int(json.loads(self.text)["pid"])

    @property
    def code(self) -> int | None:
        """The JSON-RPC error code; None when it was answered."""
        return self.error.code if self.error is not None else None


@dataclass
class Player:
    """One client in a scene."""

    line: str
    client: Client
    tap: Tap
    scene: str
    told: dict[str, Told] = field(default_factory=dict)
    """How its calls ended; a test asks `ending`."""
    heard: list[str] = field(default_factory=list)
    """What came on its standalone stream; a test asks `has_heard`."""
    at: int = 0
    """Where its events stood when the calls ran, before anything happened."""
    handshakes: int = 0
    """`initialize` requests on its wire, in the whole scene."""
    failure: Exception | None = None
    _running: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The resource this client has subscribed."""
        return f"test://{self.scene}/{self.line}"

    def mark(self, what: str) -> str:
        """Name one call for the servers' records."""
        return f"{self.scene} {self.line} {what}"

    async def start(self, what: str, tool: str, gate: Path | None = None) -> None:
        """Begin a call, which runs until the gate is gone."""
        await self.begin(what, tool, mark=self.mark(what), gate=str(gate or ""))

    async def begin(self, what: str, tool: str, **args: Any) -> None:
        """Begin a call of any tool."""
        self._running[what] = await self.client.send("call", tool=tool, args=args)

    async def end(self, *names: str) -> None:
        """Wait until calls have ended, however they did."""
        for name in names:
            try:
                value = await self.client.result(self._running[name], DEADLINE_SECONDS)
            except OpError as error:
                self.told[name] = Told(error=error)
            else:
                self.told[name] = Told(text_of(value))

    async def call(self, what: str, tool: str = PLAIN) -> None:
        """Make one call and wait for its end."""
        await self.start(what, tool)
        await self.end(what)

    async def hear(self, text: str) -> None:
        """Have the server say something on the standalone stream, and something of the resource; wait for both."""
        client, mark = self.client, self.client.mark()
        await client.call("log", message=text, standalone=True)
        await client.wait(lambda event: _is_log(event, text), DEADLINE_SECONDS, mark)
        await client.call("touch_resource", uri=self.uri)
        await client.updated(self.uri, mark, DEADLINE_SECONDS)
        self.heard.append(text)

    async def resync(self) -> None:
        """Wait until the client is told that it may have missed updates."""
        await self.client.updated(self.uri, self.at, DEADLINE_SECONDS)
        self.heard.append("resync")

    # -- what the tests ask

    def ending(self, name: str) -> Told:
        """Return how a call ended.

        Raises:
            Exception: what ended this client's part in the scene before that.
        """
        if name not in self.told:
            raise self.failure or KeyError(name)
        return self.told[name]

    def has_heard(self, *texts: str) -> bool:
        """Tell whether its standalone stream brought all that.

        Raises:
            Exception: what ended this client's part in the scene before that.
        """
        is_heard = set(texts) <= set(self.heard)
        if not is_heard and self.failure is not None:
            raise self.failure
        return is_heard

    @property
    def standalone(self) -> list[Event]:
        """The GETs that were answered with a stream."""
        return [event for event in self.client.http(method="GET") if event["status"] == 200]

    @property
    def refused(self) -> list[Event]:
        """The POSTs that were answered with another status than a call in a living session is."""
        posts = [event for event in self.client.events if event["event"] == "http" and event["method"] == "POST"]
        return [event for event in posts if event["status"] not in (200, 202)]


class Scene:
    """Servers a and b, or a alone, behind one proxy, with a client of every line whose session lies on a."""

    def __init__(self, name: str, a: PythonServer, b: PythonServer, directory: Path, *, is_pool: bool = True) -> None:
        self.name = name
        self._upstreams = "ab" if is_pool else "a"
        self.a = a
        self.b = b
        self.players: list[Player] = []
        self.pids: dict[str, set[int]] = {"a": set(), "b": set()}
        """Every process that each server was, in this scene."""
        self.config = directory / f"{name}.toml"
        self.gate = directory / f"{name}.gate"
        self.said: list[str] = []
        """What the proxy logged."""
        self._asked = 0

    def player(self, line: str) -> Player:
        """Return the client of a line."""
        # Shown by pytest with a test that fails.
        print(*self.said, sep="\n")
        return next(player for player in self.players if player.line == line)

    def runs_of(self, player: Player, what: str) -> int:
        """Count how often a call was executed, by whichever server."""
        mark = player.mark(what)
        return sum(call["args"].get("mark") == mark for call in (*self.a.executed(), *self.b.executed()))

    async def play(self, acts: Callable[[Self], Awaitable[None]], settings: Mapping[str, str]) -> None:
        """Start the proxy and the clients, let the calls run that the scene is about, and play the acts."""
        for server in (self.a, self.b):
            if not server.is_running:
                await self.start(server)
        self._note_pids()
        self._asked = self.a.asked("tools/list")
        urls = {"a": self.a.url, "b": self.b.url}
        self.config.write_text(route({name: urls[name] for name in self._upstreams}))
        self.gate.touch()
        async with AsyncExitStack() as stack:
            proxy = stack.enter_context(ProxyProcess(self.config, settings))
            self.proxy = proxy
            await asyncio.gather(*(self._enter(stack, line, urlsplit(proxy.url).port or 0) for line in LINES))
            await acts(self)
            await self.each(lambda player: player.client.do("close"))
            for player in self.players:
                player.handshakes = player.tap.handshakes
            self.said = list(proxy.process.lines)

    async def _enter(self, stack: AsyncExitStack, line: str, port: int) -> None:
        tap = await stack.enter_async_context(Tap(port))
        client = await stack.enter_async_context(client_of(line))
        self.players.append(Player(line, client, tap, self.name))

    def _note_pids(self) -> None:
        for name, server in (("a", self.a), ("b", self.b)):
            if server.is_running:
                self.pids[name].add(server.pid)

    async def start(self, server: PythonServer) -> None:
        """Start a server, while the relays go on."""
        await asyncio.to_thread(server.start)
        self._note_pids()

    async def each(self, step: Callable[[Player], Awaitable[Any]]) -> None:
        """Let all clients that are still in play do a step at the same time."""
        await asyncio.gather(*(self._do(player, step) for player in self.players if player.failure is None))

    async def _do(self, player: Player, step: Callable[[Player], Awaitable[Any]]) -> None:
        try:
            await step(player)
        except Exception as error:
            player.failure = error

    # -- the acts that all scenes share

    async def open(self) -> None:
        """Open the sessions, with subscription and standalone stream, and prove that both are live."""

        async def act(player: Player) -> None:
            await player.client.do("open", url=f"http://127.0.0.1:{player.tap.port}/mcp")
            await player.client.wait(lambda event: event["event"] == "http" and event["method"] == "GET")
            await player.client.do("subscribe", uri=player.uri)
            await player.hear("before")

        await self.each(act)

    async def run_calls(self, *, lists_tools: bool) -> None:
        """Let each client have one call of every tool running on a, which has said what kinds they are.

        Args:
            lists_tools: the clients ask for the tools; where they do not, the proxy does, of its own accord.
        """

        async def act(player: Player) -> None:
            if lists_tools:
                await player.client.do("list_tools")
            for tool in (PLAIN, *REPEATABLE):
                await player.start(tool, tool, self.gate)
            marks = {player.mark(tool) for tool in (PLAIN, *REPEATABLE)}
            await until(lambda: marks <= {call["args"].get("mark") for call in self.a.executed()}, "the calls run")
            await until(lambda: self.a.asked("tools/list") > self._asked, "the tools are asked for")
            await player.client.do("ping")  # answered by the same thread, after the list
            player.at = player.client.mark()

        await self.each(act)

    def open_gate(self) -> None:
        """Let the calls that run, and those that will, come to their end."""
        self.gate.unlink()


def _is_log(event: Event, text: str) -> bool:
    return event.get("method") == "notifications/message" and event["params"]["data"] == text
