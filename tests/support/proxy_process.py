"""The product as a child process: on a free loopback port, or on a socket it is given, before one upstream.

Waits are shortened by configuration, as a user could do it, never by patching. Knows the command line and
the line that says it is ready, and nothing of what the product does.
"""

import re
import socket
import sys
from collections.abc import Mapping
from typing import Self

from support.processes import Process

START_TIMEOUT_SECONDS = 15.0
READY = re.compile(r"listening on (http://127\.0\.0\.1:\d+/\S+)")
SHORT_WAITS: Mapping[str, str] = {
    "STREAM__RETRY_SECONDS": "0.2",
    "STREAM__UPGRADE_AFTER_SECONDS": "0.3",
    "STREAM__CLOSE_AFTER_ABORT_SECONDS": "0.3",
    "UPSTREAM__RECONNECT_MIN_SECONDS": "0.05",
    "UPSTREAM__RECONNECT_MAX_SECONDS": "0.3",
}
"""Settings by table and key; a test that is about one of them gives its own."""


class ProxyProcess:
    """One proxy in front of `upstream_url`; `with` starts and ends it."""

    def __init__(
        self, upstream_url: str, settings: Mapping[str, str] | None = None, sock: socket.socket | None = None
    ) -> None:
        self.url = ""
        """The MCP endpoint for clients; known once the proxy is entered."""
        self._descriptors = [] if sock is None else [sock.fileno()]
        listen = "127.0.0.1:0" if sock is None else f"fd:{sock.fileno()}"
        self._command = [sys.executable, "-m", "proxy", "--upstream", upstream_url, "--listen", listen]
        merged = {**SHORT_WAITS, **(settings or {})}
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

    def __exit__(self, *_: object) -> None:
        self.process.stop()
