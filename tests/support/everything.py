"""The reference server of the protocol's authors, server-everything, as the upstream of a test.

Same verbs as `support.servers.PythonServer`: start, kill, restart on the same port. It answers a lost session
with 400, and its event store repeats events across streams; nothing here evens that out.
"""

from typing import Self

from support import node
from support.processes import Process

START_TIMEOUT_SECONDS = 20.0


class EverythingServer:
    """One server-everything on a loopback port that it keeps through restarts."""

    def __init__(self) -> None:
        self.port = 0
        self._command = node.ensure().server_everything()
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # its answer to SIGINT waits for sessions, and it has none for SIGTERM

    @property
    def url(self) -> str:
        """The MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def is_running(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def start(self) -> None:
        """Start the server, on the port it had before if it had one."""
        assert self._process is None
        self._process = Process("server-everything", self._command, {"PORT": str(self.port)})
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

    def restart(self) -> None:
        """Kill the server and start it again on the same port."""
        self.kill()
        self.start()
