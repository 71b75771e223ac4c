"""A scripted MCP server as a process of its own: sessions, standalone streams, a control path.

It keeps everything in memory, so a restart forgets every session and answers its id with 404. Its
streams carry no event ids and nothing is replayed: what is emitted while no stream is open is lost.
It prints "ready PORT" once it accepts connections.

    POST /control/emit?text=T   sends notifications/message with data T on every open standalone stream
    GET  /control/state         {"pid", "initialized", "sessions", "streams"}
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
from typing import Any

from aiohttp import web

SESSION_HEADER = "Mcp-Session-Id"
VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
CAPABILITIES = {"logging": {}, "tools": {"listChanged": True}}
ECHO_TOOL = {
    "name": "echo",
    "description": "Answers with the text it was given.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
}


class StubServer:
    """The sessions of one process and the standalone streams open on them."""

    def __init__(self) -> None:
        self.initialized = 0
        """`initialize` requests answered since the start."""
        self.sessions: set[str] = set()
        self.streams: dict[web.StreamResponse, tuple[str, asyncio.Event]] = {}
        """Each open standalone stream, its session and the event that ends it."""

    def app(self) -> web.Application:
        """Build the application with the MCP endpoint and the control paths."""
        app = web.Application()
        app.router.add_post("/mcp", self.post)
        app.router.add_get("/mcp", self.listen, allow_head=False)
        app.router.add_delete("/mcp", self.delete)
        app.router.add_post("/control/emit", self.emit)
        app.router.add_get("/control/state", self.state)
        return app

    def refusal(self, request: web.Request) -> web.Response | None:
        """Answer a request without a live session; None lets it pass."""
        session = request.headers.get(SESSION_HEADER)
        if session is None:
            return failure(400, None, -32600, "Bad Request: Missing session ID")
        if session not in self.sessions:
            return failure(404, None, -32600, "Session not found")
        return None

    async def post(self, request: web.Request) -> web.Response:
        """Answer one JSON-RPC message with plain JSON, or with 202 when it asks for nothing."""
        message = await request.json()
        if message.get("method") == "initialize":
            return self.initialize(message)
        if (refused := self.refusal(request)) is not None:
            return refused
        if "id" not in message or "method" not in message:
            return web.Response(status=202)
        match message["method"]:
            case "ping" | "logging/setLevel":
                return result(message["id"], {})
            case "tools/list":
                return result(message["id"], {"tools": [ECHO_TOOL]})
            case "tools/call":
                text = message["params"].get("arguments", {}).get("text", "")
                return result(message["id"], {"content": [{"type": "text", "text": text}]})
            case method:
                return failure(200, message["id"], -32601, f"Method not found: {method}")

    def initialize(self, message: dict[str, Any]) -> web.Response:
        """Open a session at the asked version, or at the newest one known here."""
        asked = message["params"]["protocolVersion"]
        session = secrets.token_hex(16)
        self.sessions.add(session)
        self.initialized += 1
        answer = result(
            message["id"],
            {
                "protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
                "capabilities": CAPABILITIES,
                "serverInfo": {"name": "stub", "version": "1"},
            },
        )
        answer.headers[SESSION_HEADER] = session
        return answer

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Hold a standalone stream until its session is deleted or its reader goes."""
        if (refused := self.refusal(request)) is not None:
            return refused
        session = request.headers[SESSION_HEADER]
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", SESSION_HEADER: session})
        await stream.prepare(request)
        await stream.write(b": open\n\n")
        closed = asyncio.Event()
        self.streams[stream] = (session, closed)
        try:
            await closed.wait()
        finally:
            self.streams.pop(stream, None)
        return stream

    async def delete(self, request: web.Request) -> web.Response:
        """Forget the session and end its streams with a proper last chunk."""
        if (refused := self.refusal(request)) is not None:
            return refused
        gone = request.headers[SESSION_HEADER]
        self.sessions.discard(gone)
        for session, closed in self.streams.values():
            if session == gone:
                closed.set()
        return web.Response()

    async def emit(self, request: web.Request) -> web.Response:
        """Send one log message on every open standalone stream and say on how many."""
        params = {"level": "info", "logger": "stub", "data": request.query["text"]}
        body = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
        frame = f"event: message\ndata: {body}\n\n".encode()
        told = 0
        for stream, (_, closed) in list(self.streams.items()):
            try:
                await stream.write(frame)
            except ConnectionError:
                closed.set()
            else:
                told += 1
        return web.json_response({"streams": told})

    async def state(self, request: web.Request) -> web.Response:
        """Say how many sessions and streams are alive, and how many handshakes there were."""
        return web.json_response(
            {
                "pid": os.getpid(),
                "initialized": self.initialized,
                "sessions": len(self.sessions),
                "streams": len(self.streams),
            }
        )


def result(request_id: int | str, value: dict[str, Any]) -> web.Response:
    """Wrap a result in its JSON-RPC response."""
    return web.json_response({"jsonrpc": "2.0", "id": request_id, "result": value})


def failure(status: int, request_id: int | str | None, code: int, message: str) -> web.Response:
    """Wrap an error in its JSON-RPC response, with the given HTTP status."""
    error = {"code": code, "message": message}
    return web.json_response({"jsonrpc": "2.0", "id": request_id, "error": error}, status=status)


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process ends; port 0 takes a free one."""
    # A reader that goes must take its handler along, or `streams` counts the dead.
    runner = web.AppRunner(StubServer().app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"ready {runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
