"""The product as a child process: on a free loopback port, or on a socket it is given, before one upstream or a file's.

Waits are shortened by configuration, as a user could do it, never by patching. Knows the command line and
the line that says it is ready, and nothing of what the product does.
"""

import asyncio
import json
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support.processes import Process, clean_environment

START_TIMEOUT_SECONDS = 15.0
OPERATION_SECONDS = 20.0
ADMIN = re.compile(r"admin API on (http://127\.0\.0\.1:\d+)")
READY = re.compile(r"listening on (http://127\.0\.0\.1:\d+/\S+)")
SHORT_WAITS: Mapping[str, str] = {
    "STREAM__RETRY_SECONDS": "0.2",
    "STREAM__UPGRADE_AFTER_SECONDS": "0.3",
    "STREAM__CLOSE_AFTER_ABORT_SECONDS": "0.3",
    "UPSTREAM__RECONNECT_MIN_SECONDS": "0.05",
    "UPSTREAM__RECONNECT_MAX_SECONDS": "0.3",
}
"""Settings by table and key; a test that is about one of them gives its own."""


@dataclass(frozen=True)
class Operated:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """What it wrote with --json."""
        return [json.loads(line) for line in self.out.splitlines()]


class ProxyProcess:
    """One proxy in front of an upstream's URL, or of what a configuration file says; `with` starts and ends it."""

    def __init__(
        self,
        upstream: str | Path,
        settings: Mapping[str, str] | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self.url = ""
        """The MCP endpoint for clients; known once the proxy is entered."""
        self._descriptors = [] if sock is None else [sock.fileno()]
        listen = "127.0.0.1:0" if sock is None else f"fd:{sock.fileno()}"
        before = ["--config", str(upstream)] if isinstance(upstream, Path) else ["--upstream", upstream]
        self._command = [sys.executable, "-m", "proxy", *before, "--listen", listen]
        # Not the default address: a proxy that somebody runs here may have it.
        merged = {"ADMIN__ADDRESS": "127.0.0.1:0", **SHORT_WAITS, **(settings or {})}
        self._environment = {f"MCP_SESSION_PROXY__{key}": value for key, value in merged.items()}

    def __enter__(self) -> Self:
        self.process = Process("proxy", self._command, self._environment, self._descriptors)
        try:
            line = self.process.wait_line("listening on ", START_TIMEOUT_SECONDS)
        except BaseException:
            self.process.kill()
            raise
        found = READY.search(line)
        assert found, line
        self.url = found[1]
        return self

    @property
    def admin_url(self) -> str:
        """Where operators connect."""
        found = ADMIN.search(self.process.wait_line("admin API on ", START_TIMEOUT_SECONDS))
        assert found
        return found[1]

    async def operate(self, *words: str, timeout_seconds: float = OPERATION_SECONDS) -> Operated:
        """Run a command on this proxy to its end.

        Raises:
            TimeoutError: it did not end in time.
        """
        command = [sys.executable, "-m", "proxy", *words, "--admin", self.admin_url]
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=clean_environment())
        try:
            async with asyncio.timeout(timeout_seconds):
                out, err = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        return Operated(child.returncode or 0, out.decode(), err.decode())

    def __exit__(self, *_: object) -> None:
        self.process.stop()
