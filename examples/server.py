"""A small MCP server to try the proxy with: one streaming tool, one resource that changes.

    python examples/server.py --port 3001

It needs the official Python SDK (`pip install "mcp>=2"`), and nothing of the proxy.
"""

import argparse
import asyncio
import os
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

NOTES = "notes://all"

server = MCPServer(
    "example",
    instructions="Count to see progress; add a note to see a resource change.",
    log_level="WARNING",
)
notes: list[str] = []
subscribers: dict[str, Any] = {}
"""The session object of every session that watches the notes, by session id."""


@server.tool()
async def count(n: int, ctx: Context, delay: float = 0.5) -> str:
    """Count to n, reporting each step as it is made."""
    for step in range(1, n + 1):
        await asyncio.sleep(delay)
        await ctx.report_progress(step, n, f"{step} of {n}")
    return f"counted to {n} in process {os.getpid()}"


@server.tool()
async def add_note(text: str, ctx: Context) -> str:
    """Add a note and tell every subscriber of the notes."""
    notes.append(text)
    for session in subscribers.values():
        await session.send_resource_updated(NOTES)
    await ctx.notify_resource_updated(NOTES)  # clients of 2026-07-28 listen on a stream of their own
    return f"{len(notes)} note(s) in process {os.getpid()}"


@server.resource(NOTES)
def all_notes() -> str:
    """Read the notes, one per line."""
    return "\n".join(notes)


async def subscribe(ctx: Any, _: SubscribeRequestParams) -> EmptyResult:
    """Remember who watches; the SDK leaves this to the server."""
    subscribers[ctx.request.headers["mcp-session-id"]] = ctx.session
    return EmptyResult()


async def unsubscribe(ctx: Any, _: UnsubscribeRequestParams) -> EmptyResult:
    """Forget who watched."""
    subscribers.pop(ctx.request.headers["mcp-session-id"], None)
    return EmptyResult()


low_level = server._lowlevel_server  # the high-level server has no decorator for subscriptions
low_level.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
low_level.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=3001)
    port = parser.parse_args().port
    print(f"example server: http://127.0.0.1:{port}/mcp", flush=True)
    server.run("streamable-http", host="127.0.0.1", port=port)
