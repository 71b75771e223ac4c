"""The stub MCP server of the failover benchmark: it says who it is, and can hold calls until it is killed.

Owns three tools and the count of how often each call was run; parsing, sessions and streams are `upstream.py`'s. Every
answer and every event names the server, so that the load sees which one has served it. A stream begins with an event:
the first byte that a session is given by the server it lies on now.
Control, beside that of `upstream.py`: `POST /say` (one event on every open stream), `POST /hold` (calls of `look` and
`change` are not answered from now on) and `GET /marks` (how often the call of each mark was run).
"""

import argparse
import asyncio
import gc
import json
import os
import signal
from collections import Counter
from typing import Final

import msgspec

from upstream import REVISION, Connection, Server, answer, chunk, response

LOOK: Final = "look"
"""A tool that only reads, and says so."""
CHANGE: Final = "change"
"""A tool that says nothing of itself: nobody may run it twice."""
QUICK: Final = "quick"
"""A tool that takes a few milliseconds whatever else holds."""

INITIALIZED: Final = (
    b'{"protocolVersion":"%b","capabilities":{"tools":{"listChanged":true},"logging":{}},'
    b'"serverInfo":{"name":"bench-failover","version":"%b"}}'
)
TOOLS: Final = json.dumps(
    {
        "tools": [
            {"name": LOOK, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
            {"name": CHANGE, "inputSchema": {"type": "object"}},
            {"name": QUICK, "inputSchema": {"type": "object"}},
        ]
    }
).encode()


class Arguments(msgspec.Struct):
    """What a tool is given."""

    mark: int = -1


class Params(msgspec.Struct):
    """What a request is routed by."""

    name: str = ""
    arguments: Arguments = msgspec.field(default_factory=Arguments)


class Message(msgspec.Struct):
    """The envelope of a JSON-RPC message; a notification has no id."""

    method: str = ""
    id: msgspec.Raw = msgspec.Raw(b"")
    params: Params = msgspec.field(default_factory=Params)


decode: Final = msgspec.json.Decoder(Message).decode


def call_body(request_id: int, tool: str, mark: int) -> bytes:
    """Build a call of one of the tools; *mark* is its own in the whole run."""
    return (
        b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%b","arguments":{"mark":%d},'
        b'"_meta":{"progressToken":%d}}}' % (request_id, tool.encode(), mark, request_id)
    )


def result(name: bytes, mark: int) -> bytes:
    """Build what a tool answers."""
    return b'{"content":[{"type":"text","text":"%b ran %d"}]}' % (name, mark)


def event(name: bytes, number: int) -> bytes:
    """Build the `number`-th event of a standalone stream; 0 is the one it begins with."""
    return (
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","logger":"bench",'
        b'"data":{"from":"%b","number":%d}}}' % (name, number)
    )


class Named(Server):
    """The state all connections share, and the server's name."""

    def __init__(self, name: str, think_seconds: float) -> None:
        super().__init__()
        self.name = name.encode()
        self.think_seconds = think_seconds
        self.is_holding = False
        self.held = 0
        self.listed = 0
        self.said = 0
        self.marks: Counter[int] = Counter()

    def say(self) -> None:
        """Send one event on every open stream."""
        self.said += 1
        block = self.block(self.said)
        for stream in self.streams.values():
            stream.transport.write(block)

    def block(self, number: int) -> bytes:
        """Build an event as it is sent."""
        return chunk(b"event: message\nid: s-%d\ndata: %b\n\n" % (number, event(self.name, number)))

    def status(self) -> dict[str, int]:
        """Count what is open, held and asked for."""
        return super().status() | {"held": self.held, "listed": self.listed, "said": self.said}


class NamedConnection(Connection):
    """One client connection of a server with a name."""

    server: Named

    def __init__(self, server: Named) -> None:
        super().__init__(server)
        self.server = server

    def control(self, method: bytes, path: bytes, query: bytes) -> None:
        """Answer the benchmark itself."""
        server = self.server
        if (method, path) == (b"GET", b"/marks"):
            self.transport.write(answer(b"200 OK", msgspec.json.encode(server.marks)))
        elif (method, path) == (b"POST", b"/say"):
            server.say()
            self.transport.write(answer(b"202 Accepted"))
        elif (method, path) == (b"POST", b"/hold"):
            server.is_holding = True
            self.transport.write(answer(b"202 Accepted"))
        else:
            super().control(method, path, query)

    def post(self, session: bytes | None, body: bytes) -> None:
        """Answer one JSON-RPC message."""
        message = decode(body)
        server = self.server
        method, request_id = message.method, bytes(message.id)
        if method == "initialize":
            minted = b"%b-%d" % (server.name, next(server.numbers))
            server.sessions.add(minted)
            made = response(request_id, INITIALIZED % (REVISION.encode(), server.name))
            self.transport.write(answer(b"200 OK", made, b"Mcp-Session-Id: %b\r\n" % minted))
        elif session not in server.sessions or session is None:
            self.transport.write(answer(b"404 Not Found" if session else b"400 Bad Request"))
        elif not request_id or not method:
            self.transport.write(answer(b"202 Accepted"))
        elif method == "tools/list":
            server.listed += 1
            self.transport.write(answer(b"200 OK", response(request_id, TOOLS)))
        elif method == "tools/call":
            self.run_tool(message.params.name, request_id, message.params.arguments.mark)
        else:
            self.transport.write(answer(b"200 OK", response(request_id, b"{}")))

    def run_tool(self, tool: str, request_id: bytes, mark: int) -> None:
        """Run a tool: count it, and answer at once, in a while or never."""
        server = self.server
        server.calls += 1
        server.marks[mark] += 1
        ready = answer(b"200 OK", response(request_id, result(server.name, mark)))
        if tool != QUICK and server.is_holding:
            server.held += 1
            self.busy = True
        elif tool != QUICK or not server.think_seconds:
            self.transport.write(ready)
        else:
            self.busy = True
            asyncio.get_running_loop().call_later(server.think_seconds, self.finish, ready)

    def finish(self, ready: bytes) -> None:
        """Send an answer that took a while; the connection serves on."""
        if self.transport.is_closing():
            return
        self.transport.write(ready)
        self.busy = False
        if self.pending:
            self.data_received(b"")

    def open_stream(self, session: bytes, last_event_id: bytes | None) -> None:
        """Hold this connection as the session's standalone stream, which begins with an event."""
        super().open_stream(session, last_event_id)
        self.transport.write(self.server.block(0))


async def serve(name: str, think_seconds: float) -> None:
    """Serve until SIGTERM or SIGINT; print one line with the address first."""
    server = Named(name, think_seconds)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: NamedConnection(server), "127.0.0.1", 0, backlog=4096)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp", flush=True)
    gc.freeze()
    await stop.wait()
    listener.close()
    os._exit(0)  # a thousand open streams need no farewell


def main() -> None:
    """Run the stub."""
    parser = argparse.ArgumentParser(description="A stub MCP server that says who it is.")
    parser.add_argument("--name", default="a")
    parser.add_argument("--think", type=float, default=0.0, help="seconds that the tool `quick` takes")
    options = parser.parse_args()
    try:
        import uvloop as engine
    except ImportError:
        asyncio.run(serve(options.name, options.think))
    else:
        engine.run(serve(options.name, options.think))


if __name__ == "__main__":
    main()
