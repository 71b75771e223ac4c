"""The scripted server (tests/servers/scripted_server.py) as the upstream of a test.

Same verbs as `support.servers.PythonServer`: start, kill, restart on the same port, pause, resume, executed;
and `control` for what its control path offers. It runs on the interpreter of the tests.
"""

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from support.processes import Process
from support.raw import RawConnection

SERVER = Path(__file__).resolve().parents[1] / "servers" / "scripted_server.py"
START_TIMEOUT_SECONDS = 15.0


class Scripted:
    """One scripted server, on a port that it keeps through restarts."""

    def __init__(self, *flags: str) -> None:
        self.port = 0
        self._directory = tempfile.TemporaryDirectory(prefix="mcp-scripted-")
        self._record = Path(self._directory.name) / "executed"
        self._flags = flags
        self.process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.stop()
        self._directory.cleanup()

    @property
    def url(self) -> str:
        """The MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        """Start the server, on the port it had before if it had one."""
        assert self.process is None
        command = [sys.executable, str(SERVER), "--port", str(self.port), "--record", str(self._record)]
        self.process = Process("scripted server", [*command, *self._flags])
        line = self.process.wait_line("ready ", START_TIMEOUT_SECONDS)
        self.port = int(line.split()[1])

    def kill(self) -> None:
        """End the server with SIGKILL: no goodbye, every session lost."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()

    def restart(self) -> None:
        """Kill the server and start it again on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze the server: its connections stay open and silent."""
        assert self.process is not None
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server run on."""
        assert self.process is not None
        self.process.signal(signal.SIGCONT)

    def executed(self, mark: str | None = None) -> list[dict[str, Any]]:
        """List the tool calls that ran, in order, through all restarts."""
        if not self._record.exists():
            return []
        calls = [json.loads(line) for line in self._record.read_text().splitlines()]
        return [call for call in calls if mark in (None, call["mark"])]

    async def control(self, verb: str, **body: Any) -> Any:
        """Use the control path."""
        async with RawConnection(f"http://127.0.0.1:{self.port}/control/{verb}") as connection:
            await connection.request("POST", [], json.dumps(body).encode())
            return (await connection.answer()).json

    async def queue(self, key: str, *steps: list[Any]) -> None:
        """Script the next request of one kind: GET, DELETE, or a JSON-RPC method."""
        await self.control("queue", key=key, steps=list(steps))

    async def requests(self, method: str | None = None, rpc: str | None = None) -> list[dict[str, Any]]:
        """List what arrived."""
        seen = (await self.control("state"))["requests"]
        return [each for each in seen if method in (None, each["method"]) and rpc in (None, each["rpc"])]


Steps = list[list[Any]]
JSON_HEAD = {"Content-Type": "application/json"}
SSE_HEAD = {"Content-Type": "text/event-stream"}
UNASKED = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nEVIL"
"""A whole answer that nobody asked for."""


def script(mark: str, *steps: list[Any], **more: Any) -> dict[str, Any]:
    """Compose the arguments of a scripted call."""
    return {"mark": mark, "steps": list(steps), **more}


def notification(data: Any) -> str:
    """Compose the frame of a log message, for `control("emit")` and `chunk`."""
    params = {"level": "info", "data": data}
    message = {"jsonrpc": "2.0", "method": "notifications/message", "params": params}
    return f"data: {json.dumps(message)}\n\n"
