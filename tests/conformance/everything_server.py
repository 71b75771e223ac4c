"""The server that the official conformance suite expects, on the official Python SDK (2.x).

Owns the resources, the event store and the listening socket; tools and prompts are in `everything_tools`.
Runs in the environment of SDK 2.x and must not import the proxy: the same process is asked directly and
through it.
Prints `ready <port>` when it listens.
"""

import argparse
import json
import secrets
import socket
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
import uvicorn
from everything_tools import BUS, INVALID_PARAMS, PIXEL_PNG, PROMPTS, TOOLS, Json, Tool, form
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from pydantic import BaseModel

# The suite exercises logging and sampling, which the SDK marks as deprecated from 2026-07-28 on.
warnings.simplefilter("ignore", MCPDeprecationWarning)


class RingStore(EventStore):
    """Keep every event of the run; ids are per event and opaque, streams are told apart by object."""

    def __init__(self) -> None:
        self._events: list[tuple[str, str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        """Append one event and return its id."""
        event_id = f"{len(self._events)}-{secrets.token_hex(4)}"
        self._events.append((event_id, stream_id, message))
        return event_id

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what followed `last_event_id` on its own stream."""
        at = next((i for i, event in enumerate(self._events) if event[0] == last_event_id), None)
        if at is None:
            return None
        stream = self._events[at][1]
        for event_id, owner, message in self._events[at + 1 :]:
            if owner == stream and message is not None:
                await send_callback(EventMessage(message, event_id))
        return stream


def typed(model: type[BaseModel], handler: Tool) -> Callable[[Any, Any], Awaitable[BaseModel]]:
    """Give a handler's dictionary as `model`, which fills in what the newer revision requires of a result."""

    async def call(ctx: Any, params: Any) -> BaseModel:
        result = await handler(ctx, params)
        asks = result.get("resultType") == "input_required"
        return (types.InputRequiredResult if asks else model).model_validate(result)

    return call


async def list_tools(ctx: Any, params: Any) -> Json:
    """List the tools."""
    return {
        "tools": [
            {"name": name, "description": f"Conformance: {name}", "inputSchema": schema}
            for name, (schema, _) in TOOLS.items()
        ]
    }


async def call_tool(ctx: Any, params: Any) -> Json:
    """Run one tool."""
    if params.name not in TOOLS:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
    return await TOOLS[params.name][1](ctx, params.arguments or {})


async def list_prompts(ctx: Any, params: Any) -> Json:
    """List the prompts."""
    return {
        "prompts": [
            {
                "name": name,
                "description": f"Conformance: {name}",
                "arguments": [{"name": argument, "description": argument, "required": True} for argument in arguments],
            }
            for name, (arguments, _) in PROMPTS.items()
        ]
    }


async def get_prompt(ctx: Any, params: Any) -> Json:
    """Give one prompt; one of them asks for input first (2026-07-28)."""
    if params.name not in PROMPTS:
        raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name}")
    if params.name.startswith("test_input_required") and not (ctx.params or {}).get("inputResponses"):
        asked = {"user_context": form("What context should the prompt use?", "context")}
        return {"resultType": "input_required", "inputRequests": asked}
    return PROMPTS[params.name][1](params.arguments or {})


async def list_resources(ctx: Any, params: Any) -> Json:
    """List the direct resources."""
    kinds = {"static-text": "text/plain", "static-binary": "image/png", "watched-resource": "text/plain"}
    return {
        "resources": [
            {"uri": f"test://{name}", "name": name, "description": f"Conformance: {name}", "mimeType": mime}
            for name, mime in kinds.items()
        ]
    }


async def list_templates(ctx: Any, params: Any) -> Json:
    """List the one resource template."""
    return {
        "resourceTemplates": [
            {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
        ]
    }


async def read_resource(ctx: Any, params: Any) -> Json:
    """Read a direct resource or the template."""
    uri = str(params.uri)
    if uri == "test://static-binary":
        body = {"mimeType": "image/png", "blob": PIXEL_PNG}
    elif uri.startswith("test://template/"):
        ident = uri.split("/")[3]
        content = {"id": ident, "templateTest": True, "data": f"Data for ID: {ident}"}
        body = {"mimeType": "application/json", "text": json.dumps(content)}
    elif uri in {"test://static-text", "test://watched-resource"}:
        body = {"mimeType": "text/plain", "text": "This is the content of the static text resource."}
    else:
        raise MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})
    return {"contents": [{"uri": uri, **body}]}


async def complete(ctx: Any, params: Any) -> Json:
    """Complete an argument with nothing."""
    return {"completion": {"values": [], "total": 0, "hasMore": False}}


async def accept(ctx: Any, params: Any) -> Json:
    """Accept a log level or a subscription; nothing here ever changes."""
    return {}


class EverythingServer(Server[Any]):
    """Promise `listChanged`, which the constructor has no argument for, and an identity."""

    def create_initialization_options(self, *args: Any, **kwargs: Any) -> Any:
        """Promise every list's changes."""
        return super().create_initialization_options(NotificationOptions(True, True, True), **kwargs)


def main() -> None:
    """Serve on a loopback port until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    server = EverythingServer(
        "conformance-everything",
        version="1.0",
        on_list_tools=typed(types.ListToolsResult, list_tools),
        on_call_tool=typed(types.CallToolResult, call_tool),
        on_list_prompts=typed(types.ListPromptsResult, list_prompts),
        on_get_prompt=typed(types.GetPromptResult, get_prompt),
        on_list_resources=typed(types.ListResourcesResult, list_resources),
        on_list_resource_templates=typed(types.ListResourceTemplatesResult, list_templates),
        on_read_resource=typed(types.ReadResourceResult, read_resource),
        on_subscribe_resource=typed(types.EmptyResult, accept),
        on_unsubscribe_resource=typed(types.EmptyResult, accept),
        on_subscriptions_listen=ListenHandler(BUS),
        on_completion=typed(types.CompleteResult, complete),
        on_set_logging_level=typed(types.EmptyResult, accept),
    )
    app = server.streamable_http_app(event_store=RingStore(), retry_interval=100)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", arguments.port))
        listener.listen(128)
        sys.stdout.write(f"ready {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
