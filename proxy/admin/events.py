"""Own one reader of the event feed: server-sent events, resumed where it left, heartbeats, told gaps.

Knows the feed and the HTTP library, no operations. Invariant: a reader holds no events of its own; it is given what the
feed still keeps behind its place, so a slow one misses some and is told how many, and one that takes nothing is cut.
"""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from proxy.clock import Clock
from proxy.observe.feed import FROM_THE_START, EventFeed, Place

HEARTBEAT_SECONDS = 15.0
"""Pause between heartbeats: well inside the 60 seconds after which balancers cut a quiet connection."""
STALLED_SECONDS = 30.0
"""How long a write may wait for its reader."""
RETRY_MILLISECONDS = 1000
BATCH = 100
"""Events in one write."""
MOST_READERS = 64
"""Readers at once; a page that reconnects without end must not take the process's descriptors."""


class EventStreams:
    """Serves the readers of one feed."""

    def __init__(self, feed: EventFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._is_closing = False
        self._readers: set[_Reader] = set()

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another reader."""
        return len(self._readers) >= MOST_READERS

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._readers)

    async def serve(
        self, request: web.Request, cursor: str, headers: dict[str, str], *, follow: bool
    ) -> web.StreamResponse:
        """Write events until the reader goes, `close` is called, or what is kept is written and *follow* is not asked.

        Args:
            request: of the reader.
            cursor: where it goes on; empty: with what comes, or where it does not follow, with all that is kept.
            headers: of the answer.
            follow: whether it stays.
        """
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        reader = _Reader(self._feed, self._clock, request, response)
        self._readers.add(reader)
        self._feed.watch(reader.wake)
        try:
            await response.prepare(request)
            await reader.begin(self._feed.place(cursor if cursor or follow else FROM_THE_START))
            await reader.catch_up()
            while follow and not self._is_closing:
                await reader.wait()
                await reader.catch_up()
            await response.write_eof()
        except ConnectionError:
            pass  # it went: nobody is left to be told
        finally:
            self._feed.unwatch(reader.wake)
            self._readers.discard(reader)
        return response

    def close(self) -> None:
        """End all streams at the next event boundary."""
        self._is_closing = True
        for reader in self._readers:
            reader.wake()


class _Reader:
    """One connection."""

    def __init__(self, feed: EventFeed, clock: Clock, request: web.Request, response: web.StreamResponse) -> None:
        self._feed = feed
        self._clock = clock
        self._request = request
        self._response = response
        self._after = 0
        self._is_due = False
        self._woken: asyncio.Future[None] | None = None

    async def begin(self, place: Place) -> None:
        """Tell the reader where it is, so that it can come back before its first event."""
        self._after = place.after
        frames = b"retry: %d\n\n" % RETRY_MILLISECONDS
        if not place.is_known:
            frames += self._gap(None, "unknown_cursor")
        else:
            frames += f"id: {self._feed.cursor(place.after)}\n\n".encode()
        await self._write(frames)

    async def catch_up(self) -> None:
        """Write all that is kept behind the reader's place."""
        while True:
            self._is_due = False
            missed, events = self._feed.read(self._after, BATCH)
            frames = b""
            if missed:
                self._after += missed
                frames = self._gap(missed, "trimmed")
            for event in events:
                self._after = event.number
                frames += _frame(self._feed.cursor(event.number), event.verb, self._feed.body(event))
            if not frames:
                return
            await self._write(frames)

    async def wait(self) -> None:
        """Return when there is something to do; writes heartbeats meanwhile."""
        while not self._is_due:
            self._woken = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(HEARTBEAT_SECONDS, self._release)
            try:
                await self._woken
            finally:
                timer.cancel()
                self._woken = None
            if not self._is_due:
                await self._write(b": heartbeat\n\n")

    def wake(self) -> None:
        """There is something to do."""
        self._is_due = True
        self._release()

    def _release(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _gap(self, missed: int | None, reason: str) -> bytes:
        cursor = self._feed.cursor(self._after)
        return _frame(cursor, "gap", {"id": cursor, "event": "gap", "missed": missed, "reason": reason})

    async def _write(self, frames: bytes) -> None:
        timer = self._clock.call_later(STALLED_SECONDS, self._cut)
        try:
            await self._response.write(frames)
        finally:
            timer.cancel()

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def _frame(cursor: str, name: str, data: dict[str, Any]) -> bytes:
    return f"id: {cursor}\nevent: {name}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"
