"""Upgrades of the proxy itself: a new process of the same command line takes the listening sockets over.

Owns the start of the new process and its watch, what is handed to it, and how the process that it replaces lets go of
its clients. Knows neither sessions nor HTTP: what leaves is given as plain verbs. Invariants: at any instant at least
one process accepts from the shared sockets; a new process that does not serve in time is ended, and nothing has
changed for anybody; nobody but it is ever signalled.

Sessions live in the process that opened them and are not carried over yet. Those of the old process are served on the
connections that it holds, to the end of the window; a new connection reaches the new process, which answers 404.
decisions/0017 says what that means for clients, and why the window goes as it does.
"""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from proxy.clock import Clock, Timer
from proxy.config import Listen, parse_address
from proxy.errors import ConfigError, ProxyError
from proxy.observe.hooks import Observer, UpgradeFinished, UpgradeStarted

VARIABLE = "MCP_SESSION_PROXY_TAKEOVER"
"""Tells a new process which descriptors are what: `listen=5,admin=6,ready=8`. systemd's variables could not: they name
the process they are for, whose id nobody knows before it runs."""
LISTEN, ADMIN, _READY = "listen", "admin", "ready"
_WORD = b"ready\n"

REAP_SECONDS = 0.05
"""Between looks at a process that was killed."""
TICK_SECONDS = 0.1
"""Between looks at what a replaced process still serves, give or take half."""
FRESH_SECONDS = 2.0
"""A replaced process stays at least this long: connections it accepted last may not have brought a request yet."""
HOLD = 0.5
"""Share of the window in which no stream is ended."""
SPREAD = 0.9
"""Share of the window by which the last one is: its client is on its way before the end."""


# -- the new process


class Inherited:
    """What the process before this one handed over; empty for one that was started by somebody else."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self._descriptors = dict(descriptors)
        for number in self._descriptors.values():
            # Whatever this process may start is no heir.
            os.set_inheritable(number, False)

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> "Inherited":
        """Read what was handed over; the variable leaves *environ*, because it speaks of this process alone.

        Raises:
            ConfigError: the variable is not what an old process writes, or names descriptors that are not there.
        """
        text = environ.pop(VARIABLE, None)
        if text is None:
            return cls({})
        if not re.fullmatch(r"[a-z]+=[0-9]{1,9}(,[a-z]+=[0-9]{1,9})*", text):
            raise ConfigError(f"expected what a process that is upgraded sets, got {text!r}", source=VARIABLE)
        pairs = (part.split("=") for part in text.split(","))
        try:
            return cls({name: int(number) for name, number in pairs})
        except OSError as error:
            raise ConfigError(f"{text}: {error.strerror}", source=VARIABLE) from error

    def __bool__(self) -> bool:
        """Tell whether this process takes another one's place."""
        return bool(self._descriptors)

    def listen(self, listen: Listen) -> Listen:
        """Return the settings with the inherited socket in the place of the address.

        It counts whatever the configuration says: to move to another address takes a start, not an upgrade.
        """
        number = self._descriptors.get(LISTEN)
        return listen if number is None else replace(listen, address=f"fd:{number}")

    def socket(self, name: str, address: str) -> socket.socket | None:
        """Return an inherited socket that is bound to *address*; None where there is none, and one has to be bound.

        A socket bound elsewhere is closed: who may connect there was judged by another configuration.
        """
        number = self._descriptors.pop(name, None)
        if number is None:
            return None
        sock = socket.socket(fileno=number)
        if _is_bound(sock, address):
            return sock
        sock.close()
        return None

    def announce(self) -> None:
        """Tell the process before that this one accepts connections: once, and it lets go."""
        number = self._descriptors.pop(_READY, None)
        if number is None:
            return
        # It may be gone by now: then nobody needs to be told, and this process serves alone.
        with contextlib.suppress(OSError):
            os.write(number, _WORD)
        os.close(number)


def _is_bound(sock: socket.socket, address: str) -> bool:
    try:
        host, port = parse_address(address)
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        bound = sock.getsockname()
    except (OSError, ValueError):
        return False
    family, _, _, _, wanted = rows[0]
    return sock.family == family and bound[0] == wanted[0] and port in (0, bound[1])


# -- the old process, until the new one serves


def command_line() -> list[str]:
    """Return how this process was started: the same interpreter with the same arguments."""
    return [sys.executable, *sys.orig_argv[1:]]


class Upgrade:
    """Starts a new process and waits for its word. Make it inside a running event loop."""

    def __init__(
        self,
        clock: Clock,
        observer: Observer,
        ready_seconds: float,
        sockets: Mapping[str, socket.socket],
        command: Sequence[str] = (),
    ) -> None:
        """Prepare.

        Args:
            clock: for the bound.
            observer: is told of the beginning and of the end.
            ready_seconds: bound of the time the new process may take until it serves.
            sockets: what is handed over, by `LISTEN` and `ADMIN`; looked at when an upgrade begins.
            command: what to run; none: this process's own command line.
        """
        self.taken = asyncio.Event()
        """Set once a new process serves: this one is to leave."""
        self._clock = clock
        self._observer = observer
        self._ready_seconds = ready_seconds
        self._sockets = sockets
        self._command = list(command) or command_line()
        self._loop = asyncio.get_running_loop()
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._timer: Timer | None = None

    def start(self) -> int:
        """Start a new process; returns its pid. Its word, or its end, comes later.

        Raises:
            ProxyError: an upgrade is under way, is done, or the process cannot be started.
        """
        if self._child is not None:
            state = "has taken over already" if self.taken.is_set() else "is starting already"
            raise ProxyError(f"no other upgrade can begin: process {self._child.pid} {state}")
        try:
            self._child = self._spawn()
        except OSError as error:
            self._tell("not_started")
            problem = f"the new process cannot be started: {self._command[0]}: {error.strerror or error}"
            raise ProxyError(problem) from error
        self._loop.add_reader(self._pipe, self._heard)
        self._timer = self._clock.call_later(self._ready_seconds, lambda: self._give_up("not_ready"))
        if self._observer.is_active:
            self._observer.upgrade_started(UpgradeStarted(pid=self._child.pid))
        return self._child.pid

    def _spawn(self) -> "subprocess.Popen[bytes]":
        """Start the process with its sockets and one end of a pipe; the other one is kept to read its word from."""
        given = {name: sock.fileno() for name, sock in self._sockets.items()}
        pipe, given[_READY] = os.pipe()
        told = ",".join(f"{name}={number}" for name, number in given.items())
        try:
            # Blocks until the new program is loaded, which is milliseconds: it borrows this one's memory till then.
            child = subprocess.Popen(  # noqa: S603 - this process's own command line
                self._command, env={**os.environ, VARIABLE: told}, pass_fds=tuple(given.values())
            )
        except OSError:
            os.close(pipe)
            raise
        finally:
            # The new process has the only copy: when it is gone, whatever the reason, the pipe ends.
            os.close(given[_READY])
        os.set_blocking(pipe, False)
        self._pipe = pipe
        return child

    def signalled(self) -> None:
        """Start a new process for a signal, which has nobody to report to: what is wrong goes to stderr."""
        try:
            self.start()
        except ProxyError as error:
            print(f"mcp-session-proxy: error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - as said

    def cancel(self) -> None:
        """End a new process that does not serve yet, because this one is about to stop."""
        if self._timer is not None:
            self._give_up("stopping")

    def _give_up(self, reason: str) -> None:
        # Its word may have come in this very turn: then it has clients, and must not be killed.
        self._heard()
        if self._timer is not None:
            self._failed(reason)

    def _heard(self) -> None:
        try:
            word = os.read(self._pipe, 64)
        except BlockingIOError:
            return
        if word != _WORD:
            self._failed("exited")
            return
        assert self._child is not None
        self._settle()
        notify(os.environ, f"MAINPID={self._child.pid}\nREADY=1")
        self._tell("")
        self.taken.set()

    def _failed(self, reason: str) -> None:
        child, self._child = self._child, None
        assert child is not None
        self._settle()
        # By its own id, which is nobody else's before it is waited for.
        child.kill()
        self._reap(child)
        self._tell(reason)

    def _settle(self) -> None:
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reap(self, child: "subprocess.Popen[bytes]") -> None:
        if child.poll() is None:
            self._clock.call_later(REAP_SECONDS, lambda: self._reap(child))

    def _tell(self, reason: str) -> None:
        if self._observer.is_active:
            self._observer.upgrade_finished(UpgradeFinished(is_done=not reason, reason=reason))


# -- the old process, once the new one serves


class Readers(Protocol):
    """The clients that read one session."""

    @property
    def has_standalone(self) -> bool:
        """Tell whether a client reads the standalone stream."""

    def finish(self, *, only_standalone: bool = False) -> int:
        """End the responses cleanly, at a frame boundary."""


class Held(Protocol):
    """One session of the process that leaves."""

    @property
    def readers(self) -> Readers:
        """Its clients."""


class Departure:
    """Lets the clients of a replaced process go, within a window.

    Connections are kept, because they are the only way to the sessions of this process. Streams are ended in the second
    half, one after another, and each takes its connection along: whoever comes back meets the new process.
    """

    def __init__(
        self,
        clock: Clock,
        window_seconds: float,
        relays: Callable[[], Iterable[Held]],
        has_running_calls: Callable[[], bool],
        closing_behind: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Begin.

        Args:
            clock: for the window, and for what spreads the streams' ends over it.
            window_seconds: how long this process may stay.
            relays: gives the sessions that it still has.
            has_running_calls: tells whether a call runs, in a session or without one.
            closing_behind: gives a context in which the end of an answer is the end of its connection.
        """
        self.over = asyncio.Event()
        """Set once the window is over, or nothing is served any more."""
        self._clock = clock
        self._relays = relays
        self._has_running_calls = has_running_calls
        self._closing_behind = closing_behind
        began = clock.now()
        self._least = began + min(FRESH_SECONDS, window_seconds)
        self._hold = began + window_seconds * HOLD
        self._spread = began + window_seconds * SPREAD
        self._end = began + window_seconds
        self._timer: Timer | None = None
        self._looked = self._hold
        """When streams were last ended."""
        # Carried from tick to tick, so that few streams are spread as evenly as many.
        self._owed = clock.jitter()
        self._tick()

    def close(self) -> None:
        """Leave the rest to whoever ends the process."""
        if self._timer is not None:
            self._timer.cancel()
        self.over.set()

    def _tick(self) -> None:
        now = self._clock.now()
        relays = list(self._relays())
        is_deserted = not relays and not self._has_running_calls()
        if now >= self._end or (is_deserted and now >= self._least):
            self.close()
            return
        if now >= self._hold:
            self._let_go([relay for relay in relays if relay.readers.has_standalone], now)
        pause = TICK_SECONDS * (0.5 + self._clock.jitter())
        bound = self._spread if now < self._spread else self._end
        self._timer = self._clock.call_later(min(pause, bound - now), self._tick)

    def _let_go(self, streaming: Sequence[Held], now: float) -> None:
        """End as many streams as are due for all to be ended evenly in the time that is left."""
        due = len(streaming)
        if now < self._spread:
            self._owed += due * (now - self._looked) / (self._spread - self._looked)
            due = int(self._owed)
            self._owed -= due
        self._looked = now
        with self._closing_behind():
            for relay in streaming[:due]:
                relay.readers.finish(only_standalone=True)


# -- the service manager


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell systemd what became of the service (sd_notify(3)); where nobody asked to be told, do nothing.

    Args:
        environ: holds the socket's address in `NOTIFY_SOCKET`; `@` begins an abstract one.
        state: lines such as `READY=1`.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # What it is told changes nothing here, and neither does a manager that does not listen.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), address)
