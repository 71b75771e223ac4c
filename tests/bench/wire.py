"""The client's half of HTTP/1.1 for the load: keep-alive connections that run scripts.

Owns requests, answers and their framing (Content-Length, chunked); knows neither MCP messages nor figures. A
script is a generator that yields requests and is sent replies: no task and no future per call, so that the
load costs less than what it measures. Invariant: every answer is complete, framed and asked for, or the
script ends with LoadError.
"""

import asyncio
import functools
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeVar, cast

from upstream import REVISION

T = TypeVar("T")


class LoadError(Exception):
    """The target answered wrongly, too little, too late or not at all."""


class Reply(NamedTuple):
    """One complete answer; its head is looked into with `header`."""

    status: int
    head: bytes
    body: bytes


class Framing(NamedTuple):
    """What an answer's head says; `length` is None for a chunked body."""

    head: bytes
    status: int
    length: int | None


Script = Generator[bytes, Reply, T]


@dataclass(frozen=True, slots=True)
class Target:
    """One MCP endpoint under load, and the stub behind it."""

    host: str
    port: int
    upstream_port: int
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        common = (
            f"Host: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nUser-Agent: bench\r\n"
        )
        object.__setattr__(self, "head", common.encode())

    def post(self, body: bytes, session: bytes = b"") -> bytes:
        """Build a POST; a known session carries its id and the protocol version."""
        return b"%b%d\r\n\r\n%b" % (self.post_start(session), len(body), body)

    def post_start(self, session: bytes = b"") -> bytes:
        """Build the head of a POST up to the value of its Content-Length."""
        return b"POST /mcp HTTP/1.1\r\n%b%bContent-Length: " % (self.head, self.of(session) if session else b"")

    def bare(self, method: bytes, session: bytes) -> bytes:
        """Build a request without a body."""
        return b"%b /mcp HTTP/1.1\r\n%b%b\r\n" % (method, self.head, self.of(session))

    @staticmethod
    def of(session: bytes) -> bytes:
        """Build the two headers every request of a session carries."""
        return b"Mcp-Session-Id: %b\r\nMCP-Protocol-Version: %b\r\n" % (session, REVISION.encode())


def refuse(what: str, reply: Reply) -> NoReturn:
    """Raise for an answer that is not the expected one."""
    raise LoadError(f"{what}: {reply.status}, {len(reply.body)} bytes: {reply.body[:300]!r}")


class ChunkedBody:
    """An incremental decoder of chunked bodies."""

    def __init__(self) -> None:
        self.carry = b""
        self.left = 0
        self.after_data = False
        self.trailer = False
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Decode what `data` holds; bytes behind the body stay in `carry`."""
        data = self.carry + data if self.carry else data
        at, size, out = 0, len(data), []
        while at < size:
            if self.left:
                taken = data[at : at + self.left]
                out.append(taken)
                at += len(taken)
                self.left -= len(taken)
                continue
            if self.after_data:
                if size - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise LoadError("a chunk does not end where its size says")
                at += 2
                self.after_data = False
            line = data.find(b"\r\n", at)
            if line < 0:
                break
            if self.trailer:
                self.done = line == at
                at = line + 2
                if self.done:
                    break
                continue
            length = chunk_size(data[at:line])
            at = line + 2
            end = at + length
            if length and data[end : end + 2] == b"\r\n":  # whole, as nearly every chunk
                out.append(data[at:end])
                at = end + 2
                continue
            self.left = length
            self.after_data = length > 0
            self.trailer = not length
        self.carry = data[at:]
        return out[0] if len(out) == 1 else b"".join(out)


class Connection(asyncio.Protocol):
    """One keep-alive connection that runs scripts, one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.script: Script[object] | None = None
        self.outcome: asyncio.Future[object] | None = None
        self.pending = b""
        self.framing: Framing | None = None
        self.need = 0
        self.parts: list[bytes] = []
        self.chunks: ChunkedBody | None = None
        self.lost: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the script that waits for an answer."""
        self.lost = f"connection closed: {exc!r}"
        self.fail(LoadError(self.lost))

    def run(self, script: Script[T]) -> "asyncio.Future[T]":
        """Run a script; the future carries what it returns or the LoadError that ended it."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.script = script
        self.outcome = outcome  # type: ignore[assignment]
        if self.lost:
            self.fail(LoadError(self.lost))
        else:
            self.advance(None)
        return outcome

    def advance(self, reply: Reply | None) -> None:
        """Send the script its reply and the wire its next request."""
        assert self.script is not None
        try:
            request = self.script.send(reply)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            if self.outcome is not None and not self.outcome.done():
                self.outcome.set_result(end.value)
            self.script = self.outcome = None
        except (LoadError, ValueError) as error:
            self.fail(error)
        else:
            self.transport.write(request)

    def fail(self, error: Exception) -> None:
        """End the running script with `error`."""
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_exception(error)
        self.script = self.outcome = None

    def data_received(self, data: bytes) -> None:
        """Collect one answer."""
        try:
            reply = self.feed(data)
        except (LoadError, ValueError) as error:
            self.fail(error if isinstance(error, LoadError) else LoadError(f"malformed answer: {error}"))
            self.transport.abort()
            return
        if reply is None:
            return
        if self.script is None:
            self.lost = "an answer nobody asked for"
            self.transport.abort()
            return
        self.advance(reply)

    def feed(self, data: bytes) -> Reply | None:
        """Take bytes of an answer; return it when it is complete."""
        if self.framing is None:
            data = self.pending + data if self.pending else data
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self.pending = data
                return None
            self.pending = b""
            self.framing = framing = framing_of(data[:end])
            data = data[end:]
            if framing.length is None:
                self.chunks = ChunkedBody()
            elif len(data) == framing.length:  # whole, as nearly every small answer
                self.framing = None
                return Reply(framing.status, framing.head, data)
            else:
                self.need = framing.length
        if self.chunks is not None:
            self.parts.append(self.chunks.feed(data))
            if not self.chunks.done:
                return None
            extra = bool(self.chunks.carry)
            self.chunks = None
        else:
            self.parts.append(data)
            self.need -= len(data)
            if self.need > 0:
                return None
            extra = self.need < 0
        if extra:
            raise LoadError("bytes behind the answer")
        reply = Reply(self.framing.status, self.framing.head, b"".join(self.parts))
        self.framing = None
        self.parts = []
        return reply


# Heads repeat, as long as the second in their Date does.
@functools.lru_cache(maxsize=256)
def framing_of(head: bytes) -> Framing:
    """Read an answer's status and the framing of its body."""
    lower = head.lower()
    status = int(head[9:12])
    if b"\r\ntransfer-encoding: chunked\r\n" in lower:
        return Framing(head, status, None)
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        return Framing(head, status, int(lower[at + 17 : lower.find(b"\r\n", at + 17)]))
    if status in {202, 204}:
        return Framing(head, status, 0)
    raise LoadError(f"an answer that only the end of the connection delimits: {head!r}")


@functools.lru_cache(maxsize=1024)
def chunk_size(line: bytes) -> int:
    """Read the size in a chunk's first line."""
    return int(line.partition(b";")[0], 16)


def header(head: bytes, name: bytes) -> bytes:
    """Return a header's value; LoadError when it is missing."""
    at = head.lower().find(b"\r\n%b:" % name)
    if at < 0:
        raise LoadError(f"no {name.decode()} in {head!r}")
    return head[at + 3 + len(name) : head.find(b"\r\n", at + 2)].strip()
