"""Show one session of a real client outliving its connection and three servers.

    make demo

Runs in an environment of the official Python SDK, whose client it is; the server is server.py from here,
the proxy a process of its own. What the client saw stands on the left, what happened behind the proxy on the
right. Ends with 1 when a step did not come out as it says, and takes every process along by its own pid.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPDeprecationWarning, MCPError
from mcp.client import IncomingMessage
from mcp.client.streamable_http import streamable_http_client

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the wire that can be cut and the processes are those of the tests

from support.processes import Process, free_port  # noqa: E402 - findable only now
from support.tcp_relay import TcpRelay  # noqa: E402

NOTES = "notes://all"
STEP_SECONDS = 15.0
"""Deadline of whatever a step waits for; each takes a few seconds."""
AT_ONCE_SECONDS = 2.0
"""How soon a lost call must be told. The server is still down then, so nothing can have waited for it."""
SETTINGS = {
    "STREAM__RETRY_SECONDS": "0.5",
    "UPSTREAM__RECONNECT_MAX_SECONDS": "0.5",
    "LOG__FORMAT": "json",
}
"""Shorter waits than the defaults, so that the demo takes seconds, and a log to read by program."""
LEFT = 60


class Screen:
    """Two columns on one clock, and the checks that decide the exit code."""

    def __init__(self) -> None:
        self.failed = 0
        self._began = time.monotonic()

    def step(self, title: str) -> None:
        """Begin a step."""
        print(f"\n{title}", flush=True)

    def left(self, text: str) -> None:
        """Show what the client saw."""
        print(f"{self._now()} {text}", flush=True)

    def right(self, text: str) -> None:
        """Show what happened behind the proxy."""
        print(f"{self._now()} {'':{LEFT}}| {text}", flush=True)

    def check(self, claim: str, *, holds: bool) -> None:
        """Show a claim with its verdict."""
        self.failed += not holds
        print(f"       {'ok    ' if holds else 'FAILED'} {claim}", flush=True)

    def _now(self) -> str:
        return f"{time.monotonic() - self._began:5.1f}s"


class Wire:
    """What the client sent and got, noted by hooks of its HTTP client."""

    def __init__(self) -> None:
        self.initializes = 0
        self.sessions: set[str] = set()
        """Session ids seen, in requests and answers."""
        self.resumes = 0
        self.refusals: list[int] = []
        """Statuses of POSTs that were not accepted."""

    def client(self) -> httpx2.AsyncClient:
        """Make an HTTP client with the time limits that the SDK's own has."""
        hooks: dict[str, list[Any]] = {"request": [self._sent], "response": [self._got]}
        return httpx2.AsyncClient(timeout=httpx2.Timeout(30, read=300), event_hooks=hooks, trust_env=False)

    async def _sent(self, request: httpx2.Request) -> None:
        self.initializes += b'"method":"initialize"' in request.content
        self.resumes += "last-event-id" in request.headers
        self._note_session(request.headers)

    async def _got(self, response: httpx2.Response) -> None:
        self._note_session(response.headers)
        if response.request.method == "POST" and response.status_code not in (200, 202):
            self.refusals.append(response.status_code)

    def _note_session(self, headers: httpx2.Headers) -> None:
        if "mcp-session-id" in headers:
            self.sessions.add(headers["mcp-session-id"])


class Backstage:
    """The server and the proxy: processes, and the lines of the proxy's log."""

    def __init__(self, screen: Screen, python: str) -> None:
        self.screen = screen
        self.events: list[dict[str, Any]] = []
        """The session events of the proxy, from its log."""
        self.pids: list[int] = []
        """Every server there was."""
        self.proxy_port = free_port()
        self._server_port = free_port()
        self._python = python
        self._server: Process | None = None
        self._proxy: Process | None = None

    async def start_server(self) -> None:
        """Start the server, on the same port each time."""
        command = [sys.executable, str(ROOT / "examples" / "server.py"), "--port", str(self._server_port)]
        self._server = Process("server", command)
        self.pids.append(self._server.pid)
        self.screen.right(f"server started, process {self._server.pid}")
        await asyncio.to_thread(self._server.wait_line, "example server", STEP_SECONDS)

    def kill_server(self) -> None:
        """End the server with SIGKILL."""
        assert self._server is not None
        self._server.kill()
        self.screen.right(f"server killed (SIGKILL), process {self._server.pid}")

    async def start_proxy(self) -> None:
        """Start the proxy in front of the server."""
        listen, upstream = f"127.0.0.1:{self.proxy_port}", f"http://127.0.0.1:{self._server_port}/mcp"
        command = [self._python, "-m", "proxy", "--upstream", upstream, "--listen", listen]
        settings = {f"MCP_SESSION_PROXY__{key}": value for key, value in SETTINGS.items()}
        self._proxy = Process("proxy", command, settings)
        await asyncio.to_thread(self._proxy.wait_line, "listening on", STEP_SECONDS)
        self.screen.right(f"proxy started, process {self._proxy.pid}, listening on {listen}")

    async def tell(self) -> None:
        """Show the proxy's session events as they come, for as long as it runs."""
        assert self._proxy is not None
        shown = 0
        while True:
            lines = list(self._proxy.lines)  # never more than the process keeps: the demo is short
            for line in lines[shown:]:
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                    self.screen.right(_told(self.events[-1]))
            shown = len(lines)
            await asyncio.sleep(0.005)

    def stop(self) -> None:
        """End the proxy, which says goodbye to the server, then the server."""
        for process in (self._proxy, self._server):
            if process is not None:
                process.stop()


def _told(event: dict[str, Any]) -> str:
    hidden = {"timestamp", "level", "event", "request_id", "upstream", "protocol_version"}
    rest = " ".join(f"{name}={value}" for name, value in event.items() if name not in hidden)
    return f"{event['event']} {rest}"


class Visit:
    """One session of the client, seen from the client's side."""

    def __init__(self, screen: Screen, wire: Wire) -> None:
        self.screen = screen
        self.wire = wire
        self.steps: list[str] = []
        """Progress messages of the call that runs, or ran last."""
        self.updates = 0
        """Times that the client was told that the notes changed."""
        self.notes = 0
        """Notes that it added."""
        self.client: Client

    async def on_progress(self, _progress: float, _total: float | None, message: str | None) -> None:
        """Note a step of the running call."""
        self.steps.append(str(message))
        self.screen.left(f"progress {message}")

    async def on_message(self, message: IncomingMessage) -> None:
        """Note that the subscribed resource changed."""
        if getattr(message, "method", "") == "notifications/resources/updated":
            self.updates += 1
            self.screen.left("told: the notes were updated")

    async def count(self, n: int) -> str:
        """Run the long call: half a second per step, each reported."""
        self.steps.clear()
        self.screen.left(f"calls count to {n}")
        return await self._call("count", {"n": n})

    async def add_note(self, text: str) -> str:
        """Run a short call that changes the subscribed resource."""
        self.screen.left(f"calls add_note {text!r}")
        result = await self._call("add_note", {"text": text})
        self.notes += 1
        return result

    async def _call(self, tool: str, arguments: dict[str, Any]) -> str:
        result = await self.client.call_tool(tool, arguments, progress_callback=self.on_progress)
        text: str = result.content[0].text
        self.screen.left(f"result: {text}")
        return text


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a fact that shows in what was noted."""
    try:
        async with asyncio.timeout(STEP_SECONDS):
            while not condition():  # noqa: ASYNC110 - it is noted in several places, none of which is an event
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"{what} did not come within {STEP_SECONDS:g} s") from None


async def cut_the_connection(visit: Visit, relay: TcpRelay) -> None:
    """Break every connection of the client while a call runs."""
    visit.screen.step("1. The client's connection breaks during a call")
    resumes = visit.wire.resumes
    call = asyncio.create_task(visit.count(6))
    await until(lambda: len(visit.steps) == 2, "the second step of the call")
    visit.screen.left(f"-- {relay.connections} connection(s) cut --")
    relay.cut()
    result = await asyncio.wait_for(call, STEP_SECONDS)
    visit.screen.check("the client came back for what it missed", holds=visit.wire.resumes > resumes)
    visit.screen.check("every step arrived once, in order", holds=visit.steps == [f"{n} of 6" for n in range(1, 7)])
    visit.screen.check("the result arrived", holds=result.startswith("counted to 6"))


async def kill_while_idle(visit: Visit, behind: Backstage) -> None:
    """Replace the server between two calls, with a subscription in force."""
    visit.screen.step("2. The server is killed while nothing runs, and another is started")
    told = visit.updates
    behind.kill_server()
    call = asyncio.create_task(visit.count(1))
    await behind.start_server()
    result = await asyncio.wait_for(call, STEP_SECONDS)
    visit.screen.check("the call was answered, by the new server", holds=str(behind.pids[-1]) in result)
    # Updates may have been lost in the outage: the proxy tells of the notes once by itself.
    await until(lambda: visit.updates == told + 1, "the resync")
    await visit.add_note("to whoever is there")
    await until(lambda: visit.updates > told + 1, "the update of the notes")
    visit.screen.check("the subscription is live again", holds=visit.updates == told + 2)


async def kill_in_a_call(visit: Visit, behind: Backstage) -> None:
    """Kill the server under a call, whose outcome nobody can know then."""
    visit.screen.step("3. The server is killed during a call")
    call = asyncio.create_task(visit.count(20))
    await until(lambda: len(visit.steps) == 2, "the second step of the call")
    behind.kill_server()
    killed_at = time.monotonic()
    error: MCPError | None = None
    try:
        await asyncio.wait_for(call, STEP_SECONDS)
    except MCPError as told:
        error = told
        visit.screen.left(f"error {error.code}: {error.message}")
    waited = time.monotonic() - killed_at
    outcome = error.data.get("outcome") if error is not None and isinstance(error.data, dict) else None
    visit.screen.check('the call was told: outcome "unknown"', holds=outcome == "unknown")
    visit.screen.check(f"at once, after {waited:.2f} s, with no server there", holds=waited < AT_ONCE_SECONDS)
    await behind.start_server()
    result = await asyncio.wait_for(visit.add_note("and on"), STEP_SECONDS)
    visit.screen.check("the next call was answered", holds=str(behind.pids[-1]) in result)


def _events(behind: Backstage, verb: str) -> int:
    return sum(event["event"] == verb for event in behind.events)


async def sum_up(visit: Visit, behind: Backstage) -> None:
    """Hold the whole visit against what was promised."""
    screen, wire = visit.screen, visit.wire
    rebuilds = len(behind.pids) - 1
    await until(lambda: _events(behind, "session_rebuilt") == rebuilds, "the record of the last rebuild")
    await until(lambda: visit.updates >= visit.notes + rebuilds, "the last update of the notes")
    screen.step(f"In all: {len(behind.pids)} servers, one session")
    names = {event["session"] for event in behind.events if "session" in event}
    screen.check(f"initialize was sent {wire.initializes} time(s)", holds=wire.initializes == 1)
    screen.check(f"the client saw {len(wire.sessions)} session id(s)", holds=len(wire.sessions) == 1)
    screen.check(f"the proxy ran {len(names)} session(s)", holds=len(names) == 1)
    screen.check(
        f"{visit.notes} changes of the notes and {rebuilds} outages were told {visit.updates} time(s)",
        holds=visit.updates == visit.notes + rebuilds,
    )
    screen.check(f"{len(wire.refusals)} request(s) of the client were refused", holds=not wire.refusals)


async def play(screen: Screen, behind: Backstage) -> None:
    """Start everything and go through the steps."""
    columns = f"       {'what the client saw':{LEFT}}| what happened behind the proxy"
    print(columns)
    await behind.start_server()
    await behind.start_proxy()
    teller = asyncio.create_task(behind.tell())
    wire = Wire()
    visit = Visit(screen, wire)
    async with TcpRelay(behind.proxy_port) as relay, wire.client() as http:
        transport = streamable_http_client(f"http://127.0.0.1:{relay.port}/mcp", http_client=http)
        # "legacy" is the protocol with sessions, which is what the proxy keeps alive.
        async with Client(transport, mode="legacy", message_handler=visit.on_message) as visit.client:
            screen.left(f"connected, protocol {visit.client.protocol_version}")
            await visit.client.list_tools()  # as hosts do; else the SDK does it after the first call
            await visit.client.subscribe_resource(NOTES)
            screen.left("subscribed to the notes")
            await cut_the_connection(visit, relay)
            await kill_while_idle(visit, behind)
            await kill_in_a_call(visit, behind)
            await sum_up(visit, behind)
    teller.cancel()


def main() -> int:
    """Run the demo; return 0 when every check holds."""
    parser = argparse.ArgumentParser(description="Show one session outliving its servers.")
    parser.add_argument("--python", required=True, help="the interpreter that has the proxy installed")
    screen = Screen()
    behind = Backstage(screen, parser.parse_args().python)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # Subscriptions are deprecated in the protocol of 2026-07-28; this is a client of the one before.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    try:
        asyncio.run(play(screen, behind))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        screen.check(f"{type(error).__name__}: {error}", holds=False)
    finally:
        behind.stop()
    print(f"\n{'This is not what should have happened.' if screen.failed else 'All of it held.'}")
    return 1 if screen.failed else 0


if __name__ == "__main__":
    sys.exit(main())
