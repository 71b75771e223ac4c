"""The load on standalone streams: many open at once, every message delivered on each, once and in order.

Owns the reader of a stream and the closed loop of rounds (one message on every stream); knows no proxy and
computes no figure. A lost, doubled or altered message, or a stream that ends, raises LoadError.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator
from typing import Final, cast

from load import CONNECTIONS, GRACE_SECONDS, Control, Meter, churn, connected, open_sessions, run
from wire import ChunkedBody, LoadError, Target

from upstream import broadcast

EMIT_WINDOW: Final = 2
"""Rounds of events under way at once: enough to keep a proxy busy, too few to be delivered in blocks."""
OPENING_STREAMS: Final = 64
"""Streams opened at once; far below the listen backlog, so that no SYN is retried."""


class Fan:
    """What many streams share: the numbered messages, the count of delivered ones, the first failure."""

    def __init__(self) -> None:
        self.delivered = 0
        self.wanted = 0
        self.reached = asyncio.Event()
        self.failure: LoadError | None = None
        self.message = functools.lru_cache(maxsize=64)(broadcast)

    def fail(self, error: LoadError) -> None:
        """Keep the first failure and wake who waits."""
        self.failure = self.failure or error
        self.reached.set()

    async def until(self, wanted: int) -> None:
        """Wait until `wanted` events were delivered; LoadError when one is lost, doubled or wrong."""
        self.wanted = wanted
        while self.delivered < wanted and self.failure is None:
            self.reached.clear()
            try:
                await asyncio.wait_for(self.reached.wait(), GRACE_SECONDS)
            except TimeoutError:
                raise LoadError(f"{wanted - self.delivered} of {wanted} events are missing") from None
        if self.failure is not None:
            raise self.failure


class Stream(asyncio.Protocol):
    """One standalone stream: every message once, in order."""

    transport: asyncio.Transport

    def __init__(self, fan: Fan, request: bytes, first: int) -> None:
        self.fan = fan
        self.request = request
        self.next = first
        self.head = b""
        self.body = ChunkedBody()
        self.rest = b""
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report an end that the benchmark did not cause."""
        if not self.ended:
            self.fail(LoadError(f"a standalone stream was closed: {exc!r}"))

    def fail(self, error: LoadError) -> None:
        """Tell whoever waits."""
        self.ended = True
        self.fan.fail(error)
        if not self.open.done():
            self.open.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Take the head, then events."""
        if not self.open.done():
            self.head += data
            end = self.head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            data = self.head[end:]
            lower = self.head[:end].lower()
            if lower[9:12] != b"200" or b"\r\ntransfer-encoding: chunked\r\n" not in lower:
                self.fail(LoadError(f"no standalone stream: {self.head[:300]!r}"))
                return
            self.open.set_result(None)
        try:
            self.take(self.body.feed(data))
        except (LoadError, ValueError) as error:
            self.fail(LoadError(f"standalone stream: {error}"))

    def take(self, data: bytes) -> None:
        """Check and count the complete frames."""
        *frames, self.rest = (self.rest + data).split(b"\n\n")
        fan = self.fan
        for frame in frames:
            at = frame.find(b"data: ")
            if at < 0 or at + 6 == len(frame):
                continue
            if frame[at + 6 :].split(b"\n", 1)[0] != fan.message(self.next):
                raise LoadError(f"message {self.next} expected, {frame!r} delivered")
            self.next += 1
            fan.delivered += 1
        if self.body.done:
            raise LoadError("ended")
        if fan.delivered >= fan.wanted:
            fan.reached.set()


@contextlib.asynccontextmanager
async def opened_streams(target: Target, fan: Fan, sessions: list[bytes], first: int) -> AsyncIterator[None]:
    """Open the standalone stream of each session; abort them at the end."""
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []

    async def open_one(session: bytes) -> None:
        request = target.bare(b"GET", session)
        streams.append((await loop.create_connection(lambda: Stream(fan, request, first), target.host, target.port))[1])
        await asyncio.wait_for(streams[-1].open, GRACE_SECONDS)

    try:
        for at in range(0, len(sessions), OPENING_STREAMS):
            await asyncio.gather(*[open_one(session) for session in sessions[at : at + OPENING_STREAMS]])
        yield
    finally:
        for stream in streams:
            stream.ended = True
            stream.transport.abort()
        await asyncio.sleep(0)  # a loop that is closed first would leave them open


async def run_fan_out(target: Target, meter: Meter, count: int, seconds: float) -> tuple[int, float]:
    """Send messages on `count` open streams; return (events delivered, resident bytes per idle session)."""
    fan = Fan()
    async with (
        connected(target.host, target.port, CONNECTIONS) as connections,
        connected(target.host, target.upstream_port, 1) as beside,
    ):
        control = Control(beside)
        first = (await control.status())["emitted"] + 1
        await run(connections, [churn(target, 0.0) for _ in connections])
        before = meter.rss_bytes()
        sessions = await open_sessions(target, connections, count)
        async with opened_streams(target, fan, sessions, first):
            deadline = time.perf_counter() + GRACE_SECONDS
            while (await control.status())["streams"] < count:
                if time.perf_counter() > deadline:
                    raise LoadError("not every standalone stream reached the upstream")
                await asyncio.sleep(0.05)
            each = (meter.rss_bytes() - before) / count
            rounds = 0
            meter.start()
            deadline = time.perf_counter() + seconds
            while not rounds or time.perf_counter() < deadline:
                rounds += 1
                await control.post(b"/emit?n=1")
                await fan.until((rounds - EMIT_WINDOW + 1) * count)
            await fan.until(rounds * count)
            meter.stop()
        return fan.delivered, each
