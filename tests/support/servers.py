"""Official servers as the upstream of a test: start, kill, restart on the same port, freeze and thaw.

Knows how tests/servers/*.py are called, and nothing of the product. `executed` reads what the server really
ran, which is how a test proves that a call ran at most once.
"""

import json
import signal
import tempfile
from pathlib import Path
from typing import Any, Self

from support import envs
from support.processes import Process

SERVER = envs.ROOT / "tests" / "servers" / "python_server.py"
START_TIMEOUT_SECONDS = 20.0


class PythonServer:
    """The server of one SDK line, on a port that it keeps through restarts."""

    def __init__(
        self,
        line: str,
        *,
        event_store: bool = False,
        json_answers: bool = False,
        stateless: bool = False,
        retry_ms: int | None = None,
    ) -> None:
        self.name = f"server {line}"
        self.port = 0
        self._interpreter = envs.ensure(line)
        self._directory = tempfile.TemporaryDirectory(prefix="mcp-server-")
        self._counter = Path(self._directory.name) / "executed"
        self._methods = Path(self._directory.name) / "methods"
        self._flags = ["--counter-file", str(self._counter), "--method-file", str(self._methods)]
        for flag, is_set in (
            ("--event-store", event_store),
            ("--json", json_answers),
            ("--stateless", stateless),
        ):
            self._flags += [flag] * is_set
        if retry_ms is not None:
            self._flags += ["--retry-ms", str(retry_ms)]
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._directory.cleanup()

    @property
    def url(self) -> str:
        """The MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def pid(self) -> int:
        """The process that serves now."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server was started and neither killed nor stopped since."""
        return self._process is not None

    def start(self) -> None:
        """Start the server, on the port it had before if it had one."""
        assert self._process is None
        command = [str(self._interpreter), str(SERVER), "--port", str(self.port), *self._flags]
        self._process = Process(self.name, command)
        try:
            line = self._process.wait_line("ready ", START_TIMEOUT_SECONDS)
        except BaseException:
            self.kill()
            raise
        self.port = int(line.split()[1])

    def kill(self) -> None:
        """End the server with SIGKILL: no goodbye, every session lost."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def stop(self) -> None:
        """End the server with SIGTERM."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def restart(self) -> None:
        """Kill the server and start it again on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze the server: its connections stay open and silent."""
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server run on."""
        assert self._process is not None
        self._process.signal(signal.SIGCONT)

    def executed(self, tool: str | None = None) -> list[dict[str, Any]]:
        """List the tool calls that were executed, in order, through all restarts."""
        if not self._counter.exists():
            return []
        calls = [json.loads(line) for line in self._counter.read_text().splitlines()]
        return [call for call in calls if tool in (None, call["tool"])]

    def asked(self, method: str) -> int:
        """Count the JSON-RPC messages of one method that arrived, through all restarts."""
        return self._methods.read_text().splitlines().count(method) if self._methods.exists() else 0
