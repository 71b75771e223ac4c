"""A small MCP server on the official Python SDK, the same on both lines of releases (1.x and 2.x).

Run by a test from the environment of one line; prints `ready <port>` once it listens on 127.0.0.1. Its
tools make visible what a proxy could get wrong: what was executed (--counter-file), what a session
remembered (whoami, level, subscriptions), on which stream a message travels. Nothing here may depend on the
product.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.lowlevel import NotificationOptions
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyUrl, BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

try:  # 2.x
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
    from mcp_types import SamplingMessage, SetLevelRequestParams, SubscribeRequestParams, TextContent, ToolAnnotations

    IS_V2 = True
except ImportError:  # 1.x
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.server import StreamableHTTPASGIApp
    from mcp.types import SamplingMessage, TextContent, ToolAnnotations

    IS_V2 = False

STATIC_URIS = ("test://one", "test://two")
GATE_PAUSE_SECONDS = 0.02


@dataclass
class Remembered:
    """What the server keeps for one session, in memory only: gone after a restart."""

    calls: int = 0
    level: str | None = None
    subscriptions: dict[str, Any] = field(default_factory=dict)
    """Resource URI to the SDK's session object that updates go out through."""


class Answer(BaseModel):
    """The form that the tool `elicit` asks the client to fill in."""

    answer: str


class SessionEvents(EventStore):
    """Every event of one session, in memory.

    Both SDK lines name a stream by its request id alone: a store shared by two sessions would hand one
    the events of the other.
    """

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        """Keep one message; its position is its id."""
        self._events.append((stream_id, message))
        return str(len(self._events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        """Send what followed on the same stream; an id that was never given replays nothing."""
        try:
            position = int(last_event_id)
            stream_id = self._events[position][0]
        except (ValueError, IndexError):
            return None
        for at in range(position + 1, len(self._events)):
            stream, message = self._events[at]
            if stream == stream_id and message is not None:  # None is a priming event: an id, no data
                await send_callback(EventMessage(message, str(at)))
        return stream_id


class SessionManager(StreamableHTTPSessionManager):
    """The SDK's manager, but every session it opens reads a store of its own."""

    resumable = False

    @property
    def event_store(self) -> EventStore | None:
        """Make a store for the session that is being opened (the SDK reads this once per session)."""
        return SessionEvents() if self.resumable else None

    @event_store.setter
    def event_store(self, _: Any) -> None:
        """Ignore the value that the base class assigns in its initialiser."""


def session_key(ctx: Any) -> str:
    """Return the session id of a request, or "" where there is none (stateless, modern)."""
    request = ctx.request_context.request if hasattr(ctx, "request_context") else ctx.request
    return request.headers.get("mcp-session-id", "") if request is not None else ""


def build(counter: Path | None) -> MCPServer:
    """Make the server with its tools, resources, subscriptions and log level."""
    server: Any = MCPServer("python-test-server")
    sessions: defaultdict[str, Remembered] = defaultdict(Remembered)

    def executed(tool: str, **args: Any) -> None:
        if counter is not None:
            with counter.open("a") as lines:  # one short write in append mode: a kill leaves whole lines
                lines.write(json.dumps({"tool": tool, "args": args, "pid": os.getpid()}) + "\n")

    add_tools(server, sessions, executed)
    add_held_tools(server, executed)
    add_callbacks(server, executed)
    for uri in STATIC_URIS:
        server.resource(uri)(content_of(uri))
    if IS_V2:
        add_state_v2(server, sessions)
    else:
        add_state_v1(server, sessions)
    return server


def content_of(uri: str) -> Any:
    """Make the function that reads one resource."""

    def read() -> str:
        return f"content of {uri}"

    return read


def add_tools(server: Any, sessions: defaultdict[str, Remembered], executed: Any) -> None:
    """Add the tools that only answer, or notify while they run."""

    @server.tool()
    async def echo(text: str) -> str:
        executed("echo", text=text)
        return text

    @server.tool()
    async def add(a: int, b: int) -> int:
        executed("add", a=a, b=b)
        return a + b

    @server.tool()
    async def count(n: int, ctx: Context, delay: float = 0.0, mark: str = "") -> str:
        executed("count", n=n, mark=mark)
        for step in range(1, n + 1):
            await ctx.report_progress(step, n, f"step {step}")
            await asyncio.sleep(delay)
        return f"counted to {n}"

    @server.tool()
    async def slow(seconds: float, mark: str = "") -> str:
        executed("slow", seconds=seconds, mark=mark)
        await asyncio.sleep(seconds)
        return f"slept {seconds}"

    @server.tool()
    async def big(size: int) -> str:
        executed("big", size=size)
        return "x" * size

    @server.tool()
    async def fail(text: str) -> str:
        executed("fail", text=text)
        raise ValueError(text)

    @server.tool()
    async def whoami(ctx: Context) -> str:
        executed("whoami")
        mine = sessions[session_key(ctx)]
        mine.calls += 1
        return json.dumps({"calls": mine.calls, "pid": os.getpid(), "subscriptions": sorted(mine.subscriptions)})

    @server.tool()
    async def level(ctx: Context) -> str:
        executed("level")
        return str(sessions[session_key(ctx)].level)

    @server.tool()
    async def touch_resource(uri: str, ctx: Context) -> str:
        executed("touch_resource", uri=uri)
        listeners = [each.subscriptions[uri] for each in sessions.values() if uri in each.subscriptions]
        for session in listeners:
            with suppress(Exception):  # a session that its client abandoned; the others still hear
                await session.send_resource_updated(AnyUrl(uri))
        if IS_V2:
            await ctx.notify_resource_updated(uri)  # the modern clients' listen streams
        return str(len(listeners))


def add_held_tools(server: Any, executed: Any) -> None:
    """Add three tools that run until a file is gone, so that a test says when, and differ in what they promise."""

    async def run(tool: str, mark: str, gate: str) -> str:
        executed(tool, mark=mark)
        while gate and os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - a file has no event, and is looked up at once
            await asyncio.sleep(GATE_PAUSE_SECONDS)
        return json.dumps({"mark": mark, "pid": os.getpid()})

    @server.tool()
    async def act(mark: str, gate: str = "") -> str:
        return await run("act", mark, gate)

    @server.tool(annotations=ToolAnnotations(readOnlyHint=True))
    async def look(mark: str, gate: str = "") -> str:
        return await run("look", mark, gate)

    @server.tool(annotations=ToolAnnotations(idempotentHint=True))
    async def put(mark: str, gate: str = "") -> str:
        return await run("put", mark, gate)


def add_callbacks(server: Any, executed: Any) -> None:
    """Add the tools that send something to the client of their own accord."""

    @server.tool()
    async def log(message: str, ctx: Context, standalone: bool = False) -> str:
        executed("log", message=message)
        related = None if standalone else ctx.request_id
        await ctx.session.send_log_message(level="info", data=message, related_request_id=related)
        return "logged"

    @server.tool()
    async def change_tools(ctx: Context) -> str:
        executed("change_tools")
        await ctx.session.send_tool_list_changed()
        return "told"

    @server.tool()
    async def elicit(message: str, ctx: Context) -> str:
        executed("elicit", message=message)
        result = await ctx.elicit(message, Answer)
        return result.action if result.action != "accept" else f"accept {result.data.answer}"

    @server.tool()
    async def sample(prompt: str, ctx: Context) -> str:
        executed("sample", prompt=prompt)
        asked = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        # Without a related request the question goes out on the standalone stream.
        result = await ctx.session.create_message(messages=[asked], max_tokens=10, related_request_id=ctx.request_id)
        return str(result.content.text)

    @server.tool()
    async def sample_standalone(prompt: str, ctx: Context) -> str:
        executed("sample_standalone", prompt=prompt)
        asked = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        result = await ctx.session.create_message(messages=[asked], max_tokens=10)
        return str(result.content.text)


def add_state_v1(server: Any, sessions: defaultdict[str, Remembered]) -> None:
    """Serve subscriptions and log level on the 1.x SDK, whose low-level server takes decorated functions."""
    low = server._mcp_server

    @low.subscribe_resource()
    async def subscribe(uri: AnyUrl) -> None:
        sessions[session_key(low.request_context)].subscriptions[str(uri)] = low.request_context.session

    @low.unsubscribe_resource()
    async def unsubscribe(uri: AnyUrl) -> None:
        sessions[session_key(low.request_context)].subscriptions.pop(str(uri), None)

    @low.set_logging_level()
    async def set_level(level: str) -> None:
        sessions[session_key(low.request_context)].level = level

    derive = low.get_capabilities

    def capabilities(_: Any, experimental: Any) -> Any:
        derived = derive(NotificationOptions(tools_changed=True, resources_changed=True), experimental)
        derived.resources.subscribe = True  # 1.x always says no, whatever is registered
        return derived

    low.get_capabilities = capabilities


def add_state_v2(server: Any, sessions: defaultdict[str, Remembered]) -> None:
    """Serve subscriptions and log level on the 2.x SDK, whose low-level server takes handlers by method."""
    low = server._lowlevel_server

    async def subscribe(ctx: Any, params: Any) -> dict[str, Any]:
        sessions[session_key(ctx)].subscriptions[str(params.uri)] = ctx.session
        return {}

    async def unsubscribe(ctx: Any, params: Any) -> dict[str, Any]:
        sessions[session_key(ctx)].subscriptions.pop(str(params.uri), None)
        return {}

    async def set_level(ctx: Any, params: Any) -> dict[str, Any]:
        sessions[session_key(ctx)].level = params.level
        return {}

    low.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    low.add_request_handler("resources/unsubscribe", SubscribeRequestParams, unsubscribe)
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    derive = low.get_capabilities

    def capabilities(_: Any = None, *args: Any, **named: Any) -> Any:
        return derive(NotificationOptions(tools_changed=True, resources_changed=True), *args, **named)

    low.get_capabilities = capabilities


class Noting:
    """An ASGI application around another, which notes the method of every JSON-RPC message that arrives."""

    def __init__(self, inner: Any, notes: Path) -> None:
        self._inner = inner
        self._notes = notes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, reading along."""
        body = b""

        async def read_along() -> Any:
            nonlocal body
            message = await receive()
            if message["type"] == "http.request":
                body += message.get("body", b"")
                if body and not message.get("more_body"):
                    self._note(body)
            return message

        await self._inner(scope, read_along, send)

    def _note(self, body: bytes) -> None:
        with suppress(ValueError, AttributeError):  # no JSON, or a batch
            method = json.loads(body).get("method")
            with self._notes.open("a") as lines:
                lines.write(f"{method}\n")


class AnnouncingServer(uvicorn.Server):
    """Uvicorn, saying on stdout when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announce the port after the sockets are served."""
        await super().startup(sockets)
        assert sockets is not None
        print(f"ready {sockets[0].getsockname()[1]}", flush=True)


def listen(port: int) -> socket.socket:
    """Bind 127.0.0.1.

    The protocol is named because asyncio switches Nagle's algorithm off only on sockets that name it:
    without, every streamed answer is 40 ms late.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(2048)
    return listening


def main() -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--event-store", action="store_true", help="keep events, so that streams can be resumed")
    parser.add_argument("--retry-ms", type=int, help="the retry hint of priming events; needs --event-store")
    parser.add_argument("--json", action="store_true", help="answer with JSON bodies instead of streams")
    parser.add_argument("--stateless", action="store_true", help="issue no session ids")
    parser.add_argument("--counter-file", type=Path, help="append one JSON line per executed tool call")
    parser.add_argument("--method-file", type=Path, help="append one line per JSON-RPC message: its method")
    parser.add_argument("--log-level", default="warning")
    args = parser.parse_args()
    server = build(args.counter_file)
    manager = SessionManager(
        app=server._lowlevel_server if IS_V2 else server._mcp_server,
        json_response=args.json,
        stateless=args.stateless,
        retry_interval=args.retry_ms,
        # What the SDK's own `run` does on loopback: another Host or Origin is refused.
        security_settings=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=["127.0.0.1:*", "localhost:*"],
            allowed_origins=["http://127.0.0.1:*", "http://localhost:*"],
        ),
    )
    manager.resumable = args.event_store
    routes = [Route("/mcp", endpoint=StreamableHTTPASGIApp(manager))]
    app: Any = Starlette(routes=routes, lifespan=lambda _: manager.run())
    if args.method_file is not None:
        app = Noting(app, args.method_file)
    config = uvicorn.Config(app, log_level=args.log_level, timeout_graceful_shutdown=1)
    AnnouncingServer(config).run(sockets=[listen(args.port)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
