"""A small MCP client to try the proxy with: one session, a call with progress, a resource watched.

    python examples/client.py http://127.0.0.1:8080/mcp

Restart the server while it runs: the session goes on. It needs the official Python SDK
(`pip install "mcp>=2"`), and nothing of the proxy.
"""

import asyncio
import itertools
import sys
import warnings
from contextlib import suppress

from mcp import Client, MCPDeprecationWarning, MCPError
from mcp.client import IncomingMessage

NOTES = "notes://all"


async def on_progress(_progress: float, _total: float | None, message: str | None) -> None:
    """Show one step of a running call."""
    print(f"  progress {message}", flush=True)


async def on_message(message: IncomingMessage) -> None:
    """Show what the server tells of its own accord."""
    told = getattr(message, "method", message)
    if told != "notifications/progress":
        print(f"  told     {told}", flush=True)


async def main(url: str) -> None:
    """Hold one session for as long as the process runs."""
    # "legacy" is the protocol with sessions, which is what the proxy keeps alive.
    async with Client(url, mode="legacy", message_handler=on_message) as client:
        await client.subscribe_resource(NOTES)
        print(f"connected to {client.server_info.name}, protocol {client.protocol_version}")
        for round_number in itertools.count(1):
            try:
                result = await client.call_tool("count", {"n": 3}, progress_callback=on_progress)
                print(f"{round_number}: {result.content[0].text}", flush=True)
                result = await client.call_tool("add_note", {"text": f"round {round_number}"})
                print(f"{round_number}: {result.content[0].text}", flush=True)
            except MCPError as error:
                print(f"{round_number}: error {error.code}: {error.message}", flush=True)
            await asyncio.sleep(1)


if __name__ == "__main__":
    # Subscriptions are deprecated in the protocol of 2026-07-28; this is a client of the one before.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/mcp"))
