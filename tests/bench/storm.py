"""The reconnect storm: every client is cut, misses events, and comes back at once with the id it was last given.

Owns the clients of the storm and the count of what was lost and doubled; knows no proxy and computes no figure.
The order is held by what the kernel and the stub show, never by waiting: events are emitted when whoever stands in
front has seen every client go, clients come back when all that was emitted has been read.
While the clock runs, bytes are only collected, on blocking sockets under one epoll: no task, no transport. Each
byte is checked afterwards. An altered, foreign or disordered event raises LoadError; a missing or repeated one is
counted.
"""

import asyncio
import re
import select
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from load import CONNECTIONS, GRACE_SECONDS, Control, Meter, call, connected, is_result, open_sessions, run
from processes import sockets
from wire import ChunkedBody, LoadError, Script, Target, refuse

from upstream import kept_message

MISSED: Final = 10
"""Events each client misses."""
BACKLOG: Final = 4096
"""What every contender listens with; the kernel's own limit may be lower."""
READ_BYTES: Final = 65536
POLL_SECONDS: Final = 0.02
NUMBER: Final = re.compile(rb'"number":(\d+),')
LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a storm came to."""

    events: int
    lost: int
    doubled: int


class Client:
    """One client: its connection, what it was given on it, and what it was given before."""

    __slots__ = ("last_id", "mark", "numbers", "raw", "request", "socket")

    socket: socket.socket

    def __init__(self, target: Target, session: bytes, mark: int) -> None:
        self.mark = b"%d" % mark
        self.request = target.bare(b"GET", session)
        self.last_id = b""
        self.raw = b""
        self.numbers: list[int] = []

    def connect(self, target: Target) -> None:
        """Ask for the stream, from the last id on."""
        self.raw = b""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.connect((target.host, target.port))
        resumed = b"Last-Event-ID: %b\r\n\r\n" % self.last_id if self.last_id else b"\r\n"
        self.socket.sendall(self.request[:-2] + resumed)

    def take(self) -> bool:
        """Check what this connection has brought, and keep it; say whether its stream has ended cleanly."""
        head, _, rest = self.raw.partition(b"\r\n\r\n")
        lower = head.lower() + b"\r\n"
        if lower[9:12] != b"200" or b"\r\ntransfer-encoding: chunked\r\n" not in lower:
            raise LoadError(f"no standalone stream: {self.raw[:300]!r}")
        body = ChunkedBody()
        try:
            for frame in body.feed(rest).split(b"\n\n")[:-1]:
                self.take_frame(frame)
        except ValueError as error:
            raise LoadError(f"client {self.mark.decode()}: {error}") from error
        self.raw = b""
        return body.done

    def take_frame(self, frame: bytes) -> None:
        """Check one event; keep its id and its number."""
        fields = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line and line[:1] != b":")
        self.last_id = fields.get(b"id", self.last_id)
        data = fields.get(b"data")
        if not data:
            return
        match = NUMBER.search(data)
        number = int(match[1]) if match else 0
        if data != kept_message(self.mark, number):
            raise LoadError(f"client {self.mark.decode()} was given {frame!r}")
        if self.numbers and number < max(self.numbers) and number not in self.numbers:
            raise LoadError(f"client {self.mark.decode()} was given event {number} after {self.numbers[-1]}")
        self.numbers.append(number)


class Herd:
    """All clients, under one epoll."""

    def __init__(self, target: Target, clients: Sequence[Client]) -> None:
        self.target = target
        self.clients = clients
        self.window = min(BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text()))
        self.poll = select.epoll()
        self.by_fd: dict[int, Client] = {}

    def connect(self, client: Client) -> None:
        """Connect one client."""
        client.connect(self.target)
        fd = client.socket.fileno()
        self.by_fd[fd] = client
        self.poll.register(fd, select.EPOLLIN)

    def disconnect(self, client: Client) -> None:
        """Close one client's connection."""
        del self.by_fd[client.socket.fileno()]
        client.socket.close()  # leaves the epoll, too

    def come(self, number: int) -> bool:
        """Connect all clients at once; read until each was given event `number`, or only its stream (0)."""
        arriving = iter(self.clients)
        return self.read(number, lambda: next(arriving, None))

    def read(self, number: int, arriving: Callable[[], Client | None] = lambda: None) -> bool:
        """Read until each client was given event `number`; False when some were not in time.

        Connects are paced by nothing but the backlog: one too many would wait a second for the kernel's next try.
        """
        token = b'"number":%d,' % number if number else b"\n\n"
        open_ones = {id(client) for client in self.clients}
        unanswered = 0
        deadline = time.perf_counter() + GRACE_SECONDS
        more = True
        while open_ones:
            while more and unanswered < self.window:
                client = arriving()
                if client is None:
                    more = False
                else:
                    self.connect(client)
                    unanswered += 1
            ready = self.poll.poll(max(0.0, deadline - time.perf_counter()), READ_BYTES)
            if not ready:
                return False
            for fd, _ in ready:
                client = self.by_fd[fd]
                data = client.socket.recv(READ_BYTES)
                unanswered -= not client.raw
                client.raw += data
                if token in client.raw:
                    open_ones.discard(id(client))
                if not data or data.endswith(LAST_CHUNK):
                    self.renew(client)
                    unanswered += 1
        return True

    def renew(self, client: Client) -> None:
        """Come back after a stream that was ended cleanly, as a proxy may; LoadError after any other end."""
        if not client.take():
            raise LoadError("a standalone stream was closed")
        self.disconnect(client)
        self.connect(client)

    def cut(self) -> None:
        """Take what was given so far, then close every connection."""
        for client in list(self.by_fd.values()):
            client.take()
            self.disconnect(client)

    def close(self) -> None:
        """Close everything, whatever it holds."""
        for client in self.by_fd.values():
            client.socket.close()
        self.by_fd.clear()
        self.poll.close()


@contextmanager
def herd_of(target: Target, sessions: Sequence[bytes]) -> Iterator[Herd]:
    """Give the clients of the sessions, each marked by its place among them."""
    herd = Herd(target, [Client(target, session, mark) for mark, session in enumerate(sessions)])
    try:
        yield herd
    finally:
        herd.close()


def marked(target: Target, sessions: Sequence[tuple[int, bytes]]) -> Script[None]:
    """Have the stub keep the events of each session, under its client's mark."""
    for mark, session in sessions:
        reply = yield target.post(call(mark, b"keep"), session)
        if not is_result(reply, mark):
            refuse("keep", reply)


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look again and again until a condition holds; LoadError with `what` when it does not come to hold."""
    deadline = time.perf_counter() + GRACE_SECONDS
    while not await condition():
        if time.perf_counter() > deadline:
            raise LoadError(what)
        await asyncio.sleep(POLL_SECONDS)


async def run_storm(target: Target, meter: Meter, count: int, *, remembers: bool) -> Outcome:
    """Cut `count` clients, let them miss events, and take the time until each has everything.

    Whoever stands in front and `remembers` keeps its upstream streams and replays; for the others the stub does.
    """
    async with connected(target.host, target.upstream_port, 1) as connections:
        control = Control(connections)
        own = connections[0].transport.get_extra_info("sockname")[1]

        async def all_open() -> bool:
            return (await control.status())["streams"] == count

        async def none_open() -> bool:
            # The kernel keeps the socket of whoever stands in front until that has seen its client go.
            gone = not any(each.port == target.port for each in sockets(target.port))
            return gone and (remembers or (await control.status())["streams"] == 0)

        async def all_read() -> bool:
            status = await control.status()
            # The answer just given waits for its acknowledgement, which comes late: not what is looked for.
            rest = [each for each in sockets(target.upstream_port) if own not in {each.port, each.peer_port}]
            return not (status["emitting"] or status["unsent"] or any(each.queued for each in rest))

        await control.post(b"/forget")
        with herd_of(target, await keeping_sessions(target, count)) as herd:
            if not herd.come(0):
                raise LoadError("not every standalone stream was opened")
            await until(all_open, "not every standalone stream reached the upstream")
            await control.post(b"/emit_kept?n=1")
            if not herd.read(1):
                raise LoadError("the event before the storm did not reach everyone")
            herd.cut()
            await until(none_open, "whoever stands in front has not seen that its clients are gone")
            await control.post(b"/emit_kept?n=%d" % MISSED)
            await until(all_read, "what was emitted was not read")
            meter.start()
            herd.come(1 + MISSED)
            meter.stop()
            # A stream is ordered: what comes twice is there before one more event is.
            await control.post(b"/emit_kept?n=1")
            herd.read(MISSED + 2)
            herd.cut()
            return counted([client.numbers for client in herd.clients])


async def keeping_sessions(target: Target, count: int) -> list[bytes]:
    """Open sessions whose events the stub keeps; the connections used for it are closed."""
    async with connected(target.host, target.port, CONNECTIONS) as connections:
        sessions = await open_sessions(target, connections, count)
        numbered = list(enumerate(sessions))
        shares = [numbered[at :: len(connections)] for at in range(len(connections))]
        await run(connections, [marked(target, share) for share in shares], GRACE_SECONDS)
    return sessions


def counted(numbers: Sequence[Sequence[int]]) -> Outcome:
    """Count what is missing and what came more than once, of every event from the first to the one behind the storm."""
    lost = sum(MISSED + 2 - len(set(each)) for each in numbers)
    doubled = sum(len(each) - len(set(each)) for each in numbers)
    return Outcome(len(numbers) * MISSED, lost, doubled)
