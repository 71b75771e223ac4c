"""Child processes of a test: started with a deadline, ended by their own pid, always reaped.

Knows nothing of MCP. A process that a test leaves behind is killed when the test run ends. What a child
printed is kept (its last lines), so that a failure can show it.
"""

import atexit
import os
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Self

KEPT_LINES = 400
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")

_running: "weakref.WeakSet[Process]" = weakref.WeakSet()


class ProcessError(RuntimeError):
    """A child that did not start, did not say what was awaited, or died; the message has its last output."""


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child: this one's, less HTTP proxies that would catch loopback."""
    kept = {key: value for key, value in os.environ.items() if key.lower() not in PROXY_VARIABLES}
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}


class Process:
    """One child process with its output read in the background."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._heard = threading.Condition()
        self._at_end = False
        self._child = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(environment),
            pass_fds=descriptors,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()
        _running.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """How the child ended (negative: by that signal), or None while it runs."""
        return self._child.poll()

    def wait_line(self, text: str, timeout_seconds: float) -> str:
        """Return the first line that contains `text`.

        Raises:
            ProcessError: the line did not come in time, or the child ended without it.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._heard:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                if self._at_end:
                    raise ProcessError(self.describe(f"ended without saying {text!r}"))
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ProcessError(self.describe(f"did not say {text!r} within {timeout_seconds:g} s"))
                self._heard.wait(left)

    def wait_exit(self, timeout_seconds: float) -> int:
        """Wait for the child to end by itself and return its exit code.

        Raises:
            ProcessError: it still runs.
        """
        try:
            code = self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise ProcessError(self.describe(f"still runs after {timeout_seconds:g} s")) from None
        self._finish()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this child alone."""
        self._child.send_signal(number)  # a no-op once the child is reaped: its pid may be another's by then

    def kill(self) -> None:
        """End the child with SIGKILL and reap it."""
        self._child.kill()
        self._child.wait()
        self._finish()

    def stop(self, timeout_seconds: float = 5.0) -> int:
        """End the child with SIGTERM, or with SIGKILL when it does not obey in time; return its exit code."""
        self._child.terminate()
        self.signal(signal.SIGCONT)  # one that is stopped would keep the first signal waiting
        try:
            self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._finish()
        return int(self._child.returncode)

    def describe(self, what: str) -> str:
        """Say what happened to this child, with the end of its output."""
        tail = "\n".join(list(self.lines)[-40:])
        return f"{self.name} (pid {self.pid}, exit code {self.returncode}) {what}\n{tail}"

    def _finish(self) -> None:
        self._reader.join(5.0)
        _running.discard(self)

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as output:
            for line in output:
                with self._heard:
                    self.lines.append(line.rstrip("\n"))
                    self._heard.notify_all()
        with self._heard:
            self._at_end = True
            self._heard.notify_all()


@atexit.register
def _kill_leftovers() -> None:
    for process in list(_running):
        process.kill()
