"""An MCP server on raw TCP, as a process of its own, whose answers are written byte by byte as a test says.

A script is a list of steps `[verb, value...]`, run on the connection of one request. It comes with a call of
the tool "script" (arguments.steps), or is queued under a key by the control path; without one the server
answers as a plain server would. Executed calls are appended to a file, which no restart forgets. Nothing here
is kind: a step may break any rule of HTTP. It prints "ready PORT" once it accepts connections.

Verbs: sleep S; wait NAME (until the control path, or another script, opens that gate); open NAME; head STATUS
{headers} FRAMING (chunked, length=N, close, none); raw TEXT; chunk TEXT; base64 TEXT; event {id, data, text, event,
retry}; progress N; result; json [STATUS] [{headers}] (the whole plain answer); big N; endless TEXT; end; fin; rst;
hang.
In texts $ID is the request's id and $RESULT its result. Arguments besides steps: mark, which the result
echoes; resume {key, scripts}: the scripts of the GETs whose Last-Event-ID begins with `key:`, in their order.

Control, POST with a JSON body: /control/queue {key, steps} (key: GET, DELETE or a JSON-RPC method), /control/open
{gate}, /control/emit {raw, session?}, /control/forget {}, /control/set {name: value}, /control/state {}.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import secrets
import socket
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CAPABILITIES = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "logging": {},
}
Headers = dict[str, str]


class Hangup(Exception):  # noqa: N818
    """The connection is not to be used any more."""


class Connection:
    """One connection and how its present answer is framed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.is_chunked = False
        self.closes = False

    async def read_request(self) -> tuple[str, str, Headers, bytes] | None:
        """Read one request; None at the end of the connection."""
        try:
            text = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = text[:-4].decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return method, target, headers, body

    def head(self, status: int, headers: Headers, framing: str) -> None:
        """Write the head of an answer."""
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        self.is_chunked = framing == "chunked"
        if self.is_chunked:
            lines.append("Transfer-Encoding: chunked")
        elif framing.startswith("length="):
            lines.append(f"Content-Length: {framing.removeprefix('length=')}")
        elif framing == "close":
            lines.append("Connection: close")
            self.closes = True
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole answer."""
        self.head(status, headers, f"length={len(body)}")
        self.writer.write(body)

    async def body(self, data: bytes) -> None:
        """Write body bytes in the framing of the head."""
        if self.is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Break the connection with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()


class ScriptedServer:
    """Sessions, scripts and counters of one process."""

    def __init__(self, record: Path, fixed_session: str | None) -> None:
        self.record = record
        self.fixed_session = fixed_session
        self.sessions: set[str] = set()
        self.queued: defaultdict[str, list[Any]] = defaultdict(list)
        self.resumes: dict[str, list[Any]] = {}
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.streams: dict[Connection, str | None] = {}
        self.requests: list[dict[str, Any]] = []
        """What arrived: method, rpc, session, cursor and headers."""
        self.settings: dict[str, Any] = {"lost_status": 404, "issue_session": True}
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection in turn."""
        connection = Connection(reader, writer)
        self.connections += 1
        try:
            while (request := await connection.read_request()) is not None:
                method, target, headers, body = request
                if target.startswith("/control/"):
                    self.control(connection, target, json.loads(body or b"{}"))
                else:
                    await self.mcp(connection, method, headers, body)
                await writer.drain()
                if connection.closes:
                    return
        except (Hangup, ConnectionError):
            pass
        finally:
            self.connections -= 1
            self.streams.pop(connection, None)
            with contextlib.suppress(Exception):
                writer.close()

    # --- control

    def control(self, connection: Connection, target: str, body: dict[str, Any]) -> None:
        """Do what the test asks."""
        answer: dict[str, Any] = {}
        match target.rpartition("/")[2]:
            case "queue":
                self.queued[body["key"]].append(body["steps"])
            case "open":
                self.gates[body["gate"]].set()
            case "emit":
                told = [held for held, session in self.streams.items() if body.get("session") in (None, session)]
                for held in told:
                    data = body["raw"].encode()
                    held.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                answer["streams"] = len(told)
            case "cut":
                for held in list(self.streams):
                    held.reset()
            case "forget":
                self.sessions.clear()
            case "set":
                self.settings.update(body)
            case "state":
                answer = {
                    "sessions": sorted(self.sessions),
                    "streams": len(self.streams),
                    "requests": self.requests,
                    "connections": self.connections,
                }
        connection.whole(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    # --- MCP

    async def mcp(self, connection: Connection, method: str, headers: Headers, body: bytes) -> None:
        """Answer one request at the MCP endpoint."""
        message = json.loads(body) if body else {}
        messages = message if isinstance(message, list) else [message]
        rpc = messages[0].get("method")
        session = headers.get("mcp-session-id")
        cursor = headers.get("last-event-id")
        self.requests.append(
            {"method": method, "rpc": rpc, "id": messages[0].get("id"), "session": session, "cursor": cursor,
             "headers": headers, "body": body.decode("latin-1")[:2000]}
        )  # fmt: skip
        queued = self.queued.get(rpc if method == "POST" else method)
        if queued:
            await self.run(connection, queued.pop(0), message)
            return
        if rpc != "initialize" and session is not None and session not in self.sessions:
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no such session"}}
            connection.whole(
                self.settings["lost_status"], {"Content-Type": "application/json"}, json.dumps(error).encode()
            )
        elif method == "GET":
            await self.listen(connection, session, cursor)
        elif method == "DELETE":
            self.sessions.discard(session or "")
            connection.whole(200, {}, b"")
        elif rpc == "initialize":
            self.initialize(connection, message)
        else:
            await self.post(connection, message, session)

    def initialize(self, connection: Connection, message: dict[str, Any]) -> None:
        """Shake hands at the asked version."""
        headers = {"Content-Type": "application/json"}
        if self.settings["issue_session"]:
            session = self.fixed_session or secrets.token_hex(8)
            self.sessions.add(session)
            headers["Mcp-Session-Id"] = session
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": CAPABILITIES,
            "serverInfo": {"name": "scripted", "version": "1"},
        }
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        connection.whole(200, headers, json.dumps(answer).encode())

    async def listen(self, connection: Connection, session: str | None, cursor: str | None) -> None:
        """Run the resume script of a cursor, or hold a standalone stream until it is cut."""
        scripts = self.resumes.get((cursor or "").partition(":")[0])
        if scripts:
            message, steps = scripts.pop(0)
            await self.run(connection, steps, message)
            return
        connection.head(200, {"Content-Type": "text/event-stream"}, "chunked")
        await connection.writer.drain()
        self.streams[connection] = session
        await connection.reader.read(1)
        raise Hangup

    async def post(self, connection: Connection, message: Any, session: str | None) -> None:
        """Answer a message, or every member of a batch."""
        messages = message if isinstance(message, list) else [message]
        for each in messages:
            if each.get("method") == "tools/call":
                arguments = each["params"].get("arguments", {})
                line = {"id": each["id"], "mark": arguments.get("mark"), "session": session}
                with self.record.open("a") as record:
                    record.write(json.dumps(line) + "\n")
        asked = [each for each in messages if "id" in each and "method" in each]
        if not asked:
            connection.whole(202, {}, b"")
            return
        arguments = asked[0].get("params", {}).get("arguments", {})
        if "resume" in arguments:
            scripts = [(asked[0], steps) for steps in arguments["resume"]["scripts"]]
            self.resumes[arguments["resume"]["key"]] = scripts
        if arguments.get("steps"):
            await self.run(connection, arguments["steps"], asked[0])
            return
        answers = [json.loads(response(each)) for each in asked]
        whole = answers if isinstance(message, list) else answers[0]
        connection.whole(200, {"Content-Type": "application/json"}, json.dumps(whole).encode())

    # --- scripts

    async def run(self, connection: Connection, steps: list[Any], message: Any) -> None:
        """Run one script."""
        result = response(message) if isinstance(message, dict) else ""
        request_id = json.dumps(message.get("id")) if isinstance(message, dict) else "null"

        def filled(text: str) -> bytes:
            return text.replace("$RESULT", result).replace("$ID", request_id).encode()

        for verb, *values in steps:
            match verb:
                case "sleep":
                    await asyncio.sleep(values[0])
                case "wait":
                    await self.gates[values[0]].wait()
                case "open":
                    self.gates[values[0]].set()
                case "head":
                    status, headers, framing = values
                    connection.head(status, headers, framing)
                case "sse":
                    connection.head(200, {"Content-Type": "text/event-stream"}, "chunked")
                case "raw":
                    connection.writer.write(filled(values[0]))
                case "base64":
                    await connection.body(base64.b64decode(values[0]))
                case "chunk":
                    await connection.body(filled(values[0]))
                case "event":
                    await connection.body(filled(event_text(values[0])))
                case "progress":
                    params = {"progressToken": "t", "progress": values[0]}
                    data = json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
                    event_id = {"id": values[1]} if len(values) > 1 else {}
                    await connection.body(event_text({"text": data, **event_id}).encode())
                case "result":
                    event_id = {"id": values[0]} if values else {}
                    await connection.body(filled(event_text({"text": "$RESULT", **event_id})))
                case "json":
                    status, headers = values or (200, {})
                    connection.whole(status, {"Content-Type": "application/json", **headers}, result.encode())
                case "big":
                    data = json.dumps({"jsonrpc": "2.0", "method": "notifications/message",
                                       "params": {"level": "info", "data": "x" * values[0]}})  # fmt: skip
                    await connection.body(event_text({"text": data}).encode())
                case "endless":
                    while True:
                        await connection.body(values[0].encode())
                case "end":
                    if connection.is_chunked:
                        connection.writer.write(b"0\r\n\r\n")
                case "fin":
                    await connection.writer.drain()
                    raise Hangup
                case "rst":
                    await connection.writer.drain()
                    connection.reset()
                    raise Hangup
                case "hang":
                    await connection.reader.read(1)
                    raise Hangup
                case _:
                    raise ValueError(verb)
            await connection.writer.drain()


def response(message: dict[str, Any]) -> str:
    """Compose the result of a request: the mark it came with, or nothing."""
    arguments = (message.get("params") or {}).get("arguments") or {}
    result: dict[str, Any] = {}
    if message.get("method") == "tools/call":
        result = {"content": [{"type": "text", "text": str(arguments.get("mark", "done"))}]}
    return json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result})


def event_text(fields: dict[str, Any]) -> str:
    """Compose one frame; `data` is written as JSON, `text` as it stands."""
    lines = [f"{name}: {fields[name]}" for name in ("retry", "id", "event") if name in fields]
    if "data" in fields:
        lines.append(f"data: {json.dumps(fields['data'])}")
    elif "text" in fields:
        lines += [f"data: {line}" for line in fields["text"].split("\n")]
    return "\n".join(lines) + "\n\n"


async def main() -> None:
    """Serve on 127.0.0.1 until the process ends; port 0 takes a free one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--fixed-session")
    arguments = parser.parse_args()
    scripted = ScriptedServer(arguments.record, arguments.fixed_session)
    # Not asyncio.create_server's own socket: without the protocol number asyncio leaves Nagle on.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", arguments.port))
    server = await asyncio.start_server(scripted.serve, sock=sock, limit=64 * 2**20, backlog=4096)
    print(f"ready {sock.getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
