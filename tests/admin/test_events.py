"""The event feed over a real socket: resumed, bounded, honest about holes, and quiet but alive."""

import asyncio
import socket
from typing import Any, Self

import pytest

from proxy.admin import events
from proxy.admin.events import HEARTBEAT_SECONDS, STALLED_SECONDS
from proxy.admin.server import AdminServer
from proxy.config import Admin
from proxy.observe.hooks import SessionClosed
from support.fakes import FakeClock
from support.operators import FakeControl, new_feed
from support.raw import Frame, RawConnection
from support.waiting import until

SMALL_BUFFER = 4096
"""Of both ends of a connection: so few bytes fit between them that a reader who does not read is noticed."""


class House:
    """An admin API and its feed."""

    def __init__(self, kept: int = 100) -> None:
        self.feed = new_feed(kept)
        self.clock = FakeClock()

    async def __aenter__(self) -> Self:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        self.sock.bind(("127.0.0.1", 0))
        self.server = AdminServer(FakeControl(), self.feed, Admin(), self.clock)
        await self.server.start(self.sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close()
        self.sock.close()

    def tell(self, number: int = 1, reason: str = "deleted") -> None:
        """Have something happen."""
        for _ in range(number):
            self.feed.session_closed(SessionClosed(reason=reason))

    def connection(self, query: str = "", **options: Any) -> RawConnection:
        """Return a connection that asks for events."""
        connection = RawConnection(f"http://127.0.0.1:{self.sock.getsockname()[1]}/events", **options)
        connection.path += query
        return connection

    async def readers(self, number: int) -> None:
        """Wait until so many read."""
        await until(lambda: self.server.event_readers == number, f"{number} readers")


async def begin(connection: RawConnection, cursor: str = "") -> Frame:
    """Ask for the feed and return the first frame that says something but the pause."""
    await connection.request("GET", [("Last-Event-ID", cursor)] if cursor else [])
    head = await connection.read_head()
    assert (head.status, head.get("Content-Type")) == (200, "text/event-stream")
    assert (await connection.frame()) == Frame(retry=events.RETRY_MILLISECONDS)
    frame = await connection.frame()
    assert frame is not None
    return frame


async def test_a_reader_is_told_what_happens_from_now_on() -> None:
    """Events come with their ids; what was before is not told to who did not ask for it."""
    async with House() as house, house.connection() as connection:
        house.tell(2)
        place = await begin(connection)
        house.tell(reason="expired")
        frame = await connection.message()

        assert place == Frame(id="f00d-2")
        assert (frame.id, frame.event) == ("f00d-3", "session_closed")
        assert frame.json == {
            "id": "f00d-3",
            "time": "2023-11-14T22:13:20.250Z",
            "event": "session_closed",
            "reason": "expired",
        }


async def test_a_reader_comes_back_and_misses_nothing() -> None:
    """The id of the last event leads to the one behind it; the header goes over the query."""
    async with House() as house:
        house.tell(5)
        async with house.connection("?since=f00d-1") as connection:
            place = await begin(connection, "f00d-3")
            found = [(await connection.message()).id for _ in range(2)]

        assert (place, found) == (Frame(id="f00d-3"), ["f00d-4", "f00d-5"])


async def test_a_hole_is_told_with_its_size() -> None:
    """Who comes back too late hears how many events it missed, and goes on behind them."""
    async with House(kept=3) as house:
        house.tell(10)
        async with house.connection("?since=f00d-2&follow=false") as connection:
            await begin(connection)
            stream = await connection.stream()

    assert stream.is_clean
    assert stream.messages[0].json == {"id": "f00d-7", "event": "gap", "missed": 5, "reason": "trimmed"}
    assert [frame.id for frame in stream.messages] == ["f00d-7", "f00d-8", "f00d-9", "f00d-10"]


async def test_a_cursor_of_another_process_is_a_hole_of_unknown_size() -> None:
    """After a restart numbers begin anew: who comes back is told so, and gets all that is kept."""
    async with House() as house:
        house.tell(2)
        async with house.connection() as connection:
            gap = await begin(connection, "beef-1")
            found = [(await connection.message()).id for _ in range(2)]

    assert (gap.event, gap.json["missed"], gap.json["reason"]) == ("gap", None, "unknown_cursor")
    assert found == ["f00d-1", "f00d-2"]


@pytest.mark.parametrize("query", ["?follow=false", "?follow=false&since=0"])
async def test_who_does_not_follow_gets_what_is_kept(query: str) -> None:
    """The answer ends behind the last event, without a gap for what nobody asked for."""
    async with House(kept=2) as house:
        house.tell(5)
        async with house.connection(query) as connection:
            await begin(connection)
            stream = await connection.stream()

    assert stream.is_clean
    assert [frame.id for frame in stream.messages] == ["f00d-4", "f00d-5"]


async def test_more_than_one_batch_is_told_in_order() -> None:
    """Many events at once arrive all, in their order."""
    many = 2 * events.BATCH + 1
    async with House(kept=many) as house:
        house.tell(many)
        async with house.connection("?follow=false") as connection:
            await begin(connection)
            stream = await connection.stream()

    assert [frame.id for frame in stream.messages] == [f"f00d-{number}" for number in range(1, many + 1)]


async def test_a_quiet_feed_beats() -> None:
    """Heartbeats are comments: they keep the connection and are no events."""
    async with House() as house, house.connection() as connection:
        await begin(connection)
        for _ in range(2):
            await until(lambda: house.clock.pending() == 1, "the pause before a heartbeat")
            house.clock.advance(HEARTBEAT_SECONDS)
        await until(lambda: house.clock.pending() == 1, "the pause before a heartbeat")
        house.tell()
        await connection.message()

        assert connection.comments == 2


async def test_a_slow_reader_misses_events_and_holds_none() -> None:
    """What it did not take in time is told as a gap; every event is either told or counted."""
    kept, told = 50, 4000
    async with House(kept) as house, house.connection(receive_buffer_bytes=SMALL_BUFFER) as connection:
        await begin(connection)
        for _ in range(told // kept):
            house.tell(kept)
            await asyncio.sleep(0)
        seen = missed = 0
        while seen + missed < told:
            frame = await connection.message()
            if frame.event == "gap":
                missed += frame.json["missed"]
            else:
                seen += 1
            assert frame.id == f"f00d-{seen + missed}"

        assert missed > 0


async def test_a_reader_that_takes_nothing_is_cut() -> None:
    """A dead reader does not hold its connection for ever."""
    async with House(5000) as house, house.connection(receive_buffer_bytes=SMALL_BUFFER) as connection:
        await begin(connection)
        house.tell(5000)
        await until(lambda: _stalled(house), "a write that waits")
        house.clock.advance(STALLED_SECONDS)
        await house.readers(0)

        assert not (await connection.stream()).is_clean


async def _stalled(house: House) -> bool:
    """Tell whether the only pending timer is one that was there some turns ago: nothing moves."""
    before = house.clock._sequence.__reduce__()
    for _ in range(20):
        await asyncio.sleep(0)
    return house.clock._sequence.__reduce__() == before and house.clock.pending() == 1


async def test_a_reader_that_goes_is_forgotten() -> None:
    """Nothing is kept for who left, noticed without an event."""
    async with House() as house:
        async with house.connection() as connection:
            await begin(connection)
            await house.readers(1)
        await house.readers(0)

        assert house.feed._watchers == {}


async def test_readers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than there may be is told to come later."""
    monkeypatch.setattr(events, "MOST_READERS", 1)
    async with House() as house, house.connection() as first, house.connection() as second:
        await begin(first)
        await second.request("GET")
        answer = await second.answer()

        assert (answer.status, answer.json["error"]["code"]) == (503, "busy")


async def test_the_end_of_the_process_ends_the_stream_cleanly() -> None:
    """A reader sees an end, not a break, and has all that happened before it."""
    async with House() as house, house.connection() as connection:
        await begin(connection)
        # In one turn of the loop: the reader finds the event and the end at once.
        house.tell()
        house.server._streams.close()
        stream = await connection.stream()

        assert stream.is_clean
        assert [frame.id for frame in stream.messages] == ["f00d-1"]


@pytest.mark.parametrize("query", ["?follow=maybe", "?sinse=1", "?since=1&since=2"])
async def test_a_mistyped_query_is_refused(query: str) -> None:
    """A reader that asks for what there is not hears so, and does not wait for nothing."""
    async with House() as house, house.connection(query) as connection:
        await connection.request("GET")
        answer = await connection.answer()

        assert (answer.status, answer.json["error"]["code"]) == (400, "invalid")
