"""A reader of one stream: what it is opened with, what it is sent, and every way in which it ends."""

import pytest

from proxy.core import sse
from proxy.core.cursor import Cursor, parse
from proxy.core.ids import Epoch, Offset, SessionId, call_stream
from proxy.relay.feed import BATCH_BYTES, Feed
from proxy.store.base import Passage
from proxy.store.memory import Budget, MemoryLog
from proxy.wheel import Wheel
from support.fakes import FakeClock, FakeSink, make_config

EPOCH = Epoch("0123456789ab")
HEAD = [("Content-Type", "text/event-stream")]


class World:
    """One stream of one log, and the feeds that read it."""

    def __init__(self, **settings) -> None:
        config = make_config(**settings)
        self.clock = FakeClock()
        self.config = config.stream
        self.log = MemoryLog(EPOCH, Budget(config.replay, self.clock.now))
        self.stream = self.log.open(call_stream(1), (1,))
        self.wheel = Wheel(self.clock, self.config.heartbeat_seconds)
        self.detached: list[tuple[Feed, str]] = []

    def attach(
        self, position: int = 0, *, has_priming: bool = False, jitter: float = 0.0, sink: FakeSink | None = None
    ) -> tuple[Feed, FakeSink]:
        """Begin to read from *position*."""
        sink = FakeSink() if sink is None else sink
        feed = Feed(
            self.log,
            self.stream,
            sink,
            position=Offset(position),
            config=self.config,
            heartbeats=self.wheel,
            on_detach=lambda feed, reason: self.detached.append((feed, reason)),
        )
        feed.begin(HEAD, SessionId("ours"), has_priming=has_priming, jitter=jitter)
        return feed, sink

    def append(self, *texts: str, terminal: bool = False) -> None:
        """Log a frame for each text; the last of them may be terminal."""
        for left, text in zip(reversed(range(len(texts))), texts, strict=True):
            self.log.append(self.stream, b"message", text.encode(), None, terminal=terminal and not left)


def texts(sink: FakeSink) -> list[str]:
    """Return the data of the frames that have any."""
    return [frame.data.decode() for frame in sink.frames if frame.data]


# -- the opening


def test_a_stream_without_priming_opens_with_a_comment_and_the_retry_hint() -> None:
    """Older clients get no frame that they could take for an event, and the headers at once."""
    _, sink = World(retry_seconds=3.0).attach()

    assert (sink.status, sink.headers) == (200, [*HEAD, ("Mcp-Session-Id", "ours")])
    assert sink.body == b": open\nretry: 3000\n"
    assert sink.frames == []


def test_a_priming_frame_carries_an_id_of_the_log() -> None:
    """A newer client has a cursor before anything happens, and what follows it is what is appended later."""
    world = World()
    feed, sink = world.attach(has_priming=True)
    (frame,) = sink.frames

    assert (frame.data, frame.retry) == (b"", 3000)
    assert parse(sink.last_id) == Cursor(EPOCH, call_stream(1), Offset(1))
    assert feed.position == world.stream.delivered == world.log.top == 1

    world.append("a")
    again = world.attach(1)[1]

    assert texts(again) == ["a"]


def test_no_priming_frame_where_something_carries_an_id() -> None:
    """Entries that wait are sent with their own ids, so no offset is used up."""
    world = World()
    world.append("a")
    _, sink = world.attach(has_priming=True)

    assert [frame.data for frame in sink.frames] == [b"a"]
    assert world.log.top == 1


@pytest.mark.parametrize(("jitter", "retry_ms"), [(0.0, 2000), (0.5, 2250), (0.999, 2499)])
def test_reconnects_are_spread_but_never_early(jitter: float, retry_ms: int) -> None:
    """The hint is up to a quarter more than configured."""
    _, sink = World(retry_seconds=2.0).attach(jitter=jitter, has_priming=True)

    assert sink.frames[0].retry == retry_ms


# -- what is sent


def test_live_entries_go_out_as_they_come() -> None:
    """One write for each, the bytes of the log."""
    world = World()
    feed, sink = world.attach()
    world.append("a", "b")

    assert sink.writes[1:] == [entry.wire for entry in world.stream.entries]
    assert feed.position == world.stream.delivered == 2
    assert feed.replayed == 0


def test_a_replay_is_the_live_bytes_again() -> None:
    """What a client missed comes in one write, byte for byte what others got live, then it goes on live."""
    world = World()
    _, live = world.attach()
    world.append("a", "b", "c")
    feed, replayed = world.attach(1)
    world.append("d")

    assert feed.replayed == 2
    assert len(replayed.writes) == 3
    assert b"".join(live.writes[2:]) + world.stream.entries[-1].wire == b"".join(replayed.writes[1:])
    assert texts(replayed) == ["b", "c", "d"]


def test_a_long_replay_asks_whether_the_client_keeps_up() -> None:
    """It stops after a batch when the sink is full, and goes on where it stopped when it drains."""
    world = World()
    size = BATCH_BYTES // 4 - 20
    world.append(*(f"{number}" + "x" * size for number in range(9)))
    sink = FakeSink()
    sink.room = size
    feed, _ = world.attach(sink=sink)

    assert [text[0] for text in texts(sink)] == ["0", "1", "2", "3"]
    assert feed.position == 4

    sink.drain()

    assert [text[0] for text in texts(sink)] == ["0", "1", "2", "3", "4", "5", "6", "7", "8"]
    assert len(sink.writes) == 1 + 3
    assert not sink.is_over


def test_a_replay_that_ends_with_a_batch_writes_nothing_more() -> None:
    """No empty write, which would end a chunked body."""
    world = World()
    world.append(*("x" * (BATCH_BYTES // 4 - 20) for _ in range(8)))
    _, sink = world.attach()

    assert len(sink.writes) == 1 + 2


def test_a_replay_sends_large_entries_in_their_parts() -> None:
    """Small ones stay together, large ones are not copied, the order holds; after a batch the sink is asked."""
    world = World()
    world.append("a", "b", "x" * BATCH_BYTES, "c", "y" * 100_000, "z" * 100_000, "d")
    sink = FakeSink()
    sink.room = BATCH_BYTES
    feed, _ = world.attach(sink=sink)

    assert [text[0] for text in texts(sink)] == ["a", "b", "x"]
    assert feed.position == world.stream.delivered == 3

    sink.drain()

    assert [text[0] for text in texts(sink)] == ["a", "b", "x", "c", "y", "z", "d"]
    assert len(sink.writes) == 1 + 1 + 3 + 1 + 3 + 3 + 1
    assert any(write is part for write in sink.writes for part in world.stream.entries[2].rest)


def test_a_large_entry_goes_out_live_in_its_parts() -> None:
    """Each part is a write of the log's own bytes."""
    world = World()
    feed, sink = world.attach()
    world.append("x" * 100_000)

    assert sink.writes[1:] == list(world.stream.entries[0].parts)
    assert all(one is other for one, other in zip(sink.writes[1:], world.stream.entries[0].parts, strict=True))
    assert feed.position == 1


# -- a stream's end


@pytest.mark.parametrize("is_late", [False, True])
def test_a_complete_stream_ends_cleanly(is_late: bool) -> None:
    """After its terminal entry, live or replayed, the response has its proper end, on purpose."""
    world = World()
    if is_late:
        world.append("a", "b", terminal=True)
    feed, sink = world.attach()
    if not is_late:
        world.append("a", "b", terminal=True)

    assert texts(sink) == ["a", "b"]
    assert sink.finished
    assert world.detached == [(feed, "")]
    assert world.stream.reader is None
    assert not world.stream.aborted


def test_a_full_client_gets_the_end_when_it_reads_again() -> None:
    """The terminal entry waits with the rest; the response is not ended before it is sent."""
    world = World()
    _, sink = world.attach()
    sink.congest()
    world.append("a")
    world.append("b", terminal=True)

    assert not sink.is_over

    sink.drain()

    assert texts(sink) == ["a", "b"]
    assert sink.finished


def test_a_feed_ends_on_purpose_once() -> None:
    """A second end does nothing, nor does anything else afterwards."""
    world = World()
    feed, sink = world.attach()
    feed.finish()
    feed.finish()
    feed.wake()
    feed.sink_closed()
    world.append("a")
    world.clock.advance(100.0)

    assert sink.finished
    assert texts(sink) == []
    assert world.detached == [(feed, "")]
    assert sink.watcher is None
    assert world.clock.pending() == 0


# -- one reader


def test_a_later_reader_takes_the_stream_over() -> None:
    """The former one ends cleanly and hears nothing more; its end leaves the new one alone."""
    world = World()
    first, old = world.attach()
    world.append("a")
    second, new = world.attach(1)
    world.append("b")

    assert old.finished
    assert texts(old) == ["a"]
    assert texts(new) == ["b"]
    assert world.detached == [(first, "")]
    assert world.stream.reader is second
    assert not world.stream.aborted


def test_a_reader_goes_on_where_the_last_one_was() -> None:
    """The stream remembers the last offset written, also when a reader begins further back."""
    world = World()
    world.attach()
    world.append("a", "b", "c")

    assert world.stream.delivered == 3

    sink = FakeSink()
    sink.congest()
    world.attach(1, sink=sink)

    assert world.stream.delivered == 1


# -- clients that are gone or slow


def test_a_client_that_went_away_is_noted() -> None:
    """The stream is free, the next reader is told that the last one was cut off, and a clean begin clears it."""
    world = World()
    feed, sink = world.attach()
    sink.go_away()
    world.append("a")

    assert world.detached == [(feed, "disconnected")]
    assert world.stream.reader is None
    assert world.stream.aborted

    world.attach()

    assert not world.stream.aborted


@pytest.mark.parametrize(
    "settings", [{"slow_reader_events": 3}, {"slow_reader_bytes": 200}], ids=["by events", "by bytes"]
)
def test_a_slow_reader_is_cut(settings: dict[str, int]) -> None:
    """Beyond the bound of events or bytes its connection is aborted; nothing of it was buffered."""
    world = World(**settings)
    feed, sink = world.attach()
    sink.congest()
    world.append(*["x" * 20] * 3)

    assert not sink.is_over

    world.append("x" * 20)

    assert sink.aborted
    assert texts(sink) == []
    assert world.detached == [(feed, "slow")]
    assert world.stream.aborted


def test_a_reader_that_catches_up_starts_anew() -> None:
    """Its lag is counted from when it last kept up."""
    world = World(slow_reader_events=2, slow_reader_bytes=200)
    _, sink = world.attach()
    for _ in range(4):
        sink.congest()
        world.append("a", "b")
        sink.drain()

    assert not sink.is_over
    assert texts(sink) == ["a", "b"] * 4


def test_a_reader_the_window_ran_away_from_is_cut() -> None:
    """What it misses is gone, so going on would hide a hole: it comes back and is told."""
    world = World(events_per_stream=2)
    feed, sink = world.attach()
    sink.congest()
    world.append("a", "b", "c")
    sink.drain()

    assert sink.aborted
    assert texts(sink) == []
    assert world.detached == [(feed, "overrun")]


def test_a_congested_reader_of_an_emptied_window_counts_its_events() -> None:
    """Entries beyond the window leave no bytes to count, and still count as events."""
    world = World(slow_reader_events=2, bytes_per_stream=1)
    _, sink = world.attach()
    sink.congest()
    world.log.mark(world.stream)
    feed = world.stream.reader
    feed.wake()
    feed.wake()

    assert not sink.is_over

    feed.wake()

    assert sink.aborted


# -- heartbeats


def test_a_quiet_stream_beats() -> None:
    """After a period without anything a comment goes out, and one per period from then on."""
    world = World(heartbeat_seconds=16.0)
    _, sink = world.attach()
    world.clock.advance(31.0)
    assert sink.writes[1:] == []

    world.clock.advance(1.0)
    assert sink.writes[1:] == [sse.HEARTBEAT]

    world.clock.advance(32.0)
    assert sink.writes[1:] == [sse.HEARTBEAT] * 3
    assert sink.frames == []


def test_a_stream_in_use_does_not_beat() -> None:
    """What was sent within the period is sign of life enough; heartbeats never break a frame."""
    world = World(heartbeat_seconds=16.0)
    _, sink = world.attach()
    for number in range(4):
        world.clock.advance(12.0)
        world.append(str(number))

    assert sse.HEARTBEAT not in sink.writes

    world.clock.advance(32.0)
    world.append("end")

    assert sse.HEARTBEAT in sink.writes
    assert texts(sink) == ["0", "1", "2", "3", "end"]


def test_a_full_client_gets_no_heartbeat() -> None:
    """It has bytes to read already."""
    world = World(heartbeat_seconds=16.0)
    _, sink = world.attach()
    sink.congest()
    world.clock.advance(64.0)

    assert len(sink.writes) == 1


# -- a frame that is sent before its end is there


def half_sent(**settings: object) -> tuple[World, Feed, FakeSink, Passage]:
    """Return a reader that has one entry and the beginning of a large frame."""
    world = World(**settings)
    feed, sink = world.attach()
    world.append("a")
    passage = world.log.begin(world.stream, b"message")
    passage.add(b"x" * 10_000)
    return world, feed, sink, passage


def test_the_parts_of_a_large_frame_go_out_as_they_come() -> None:
    """The client has them before the end is there; the entry is the same bytes, and the next one follows."""
    world, feed, sink, passage = half_sent()

    assert sink.body.endswith(b"event: message\ndata: " + b"x" * 10_000)
    assert feed.position == world.stream.delivered == 1

    passage.complete(b"", None, terminal=False)
    world.append("b")

    assert [frame.data for frame in sink.frames] == [b"a", b"x" * 10_000, b"b"]
    assert [parse(text).offset for text in sink.ids] == [1, 2, 3]
    assert feed.position == world.stream.delivered == 3
    assert sink.body.endswith(b"".join(part for entry in list(world.stream.entries)[1:] for part in entry.parts))


def test_a_terminal_frame_in_parts_ends_the_response() -> None:
    """Behind its end comes the proper end of the body."""
    world, feed, sink, passage = half_sent()
    passage.complete(b"", None, terminal=True)

    assert [frame.data for frame in sink.frames] == [b"a", b"x" * 10_000]
    assert sink.finished
    assert world.detached == [(feed, "")]


def test_nothing_comes_between_the_parts() -> None:
    """No heartbeat and no waking puts anything into the middle of a frame; afterwards heartbeats go on."""
    world, feed, sink, passage = half_sent()
    before = sink.body
    world.clock.advance(world.config.heartbeat_seconds * 5)
    feed.wake()
    sink.drain()

    assert sink.body == before

    passage.complete(b"", None, terminal=False)
    world.clock.advance(world.config.heartbeat_seconds * 3)

    assert sink.body.endswith(b"\n\n" + sse.HEARTBEAT * sink.body.count(sse.HEARTBEAT))
    assert sink.body.count(sse.HEARTBEAT) >= 2


@pytest.mark.parametrize("end", ["finish", "replaced", "drop"])
def test_half_a_frame_is_never_ended_as_if_it_were_whole(end: str) -> None:
    """An end on purpose, another reader or a broken upstream cut the connection in the middle of a frame."""
    world, feed, sink, passage = half_sent()
    if end == "finish":
        feed.finish()
    elif end == "drop":
        passage.drop()
    else:
        world.attach(1)

    assert sink.aborted
    assert not sink.finished
    assert world.detached == [(feed, "broken_off")]
    assert sink.watcher is None

    feed.finish()

    assert len(world.detached) == 1


def test_who_comes_in_the_middle_gets_the_entry_whole() -> None:
    """The former reader is cut, the new one waits and then has the frame from its beginning, as has one without."""
    world, _, former, passage = half_sent()
    _, second = world.attach(1, has_priming=True)
    passage.add(b"y" * 10_000)

    assert former.aborted
    assert [frame.data for frame in second.frames] == [b""]

    passage.complete(b"", None, terminal=True)

    assert [frame.data for frame in second.frames] == [b"", b"x" * 10_000 + b"y" * 10_000]
    assert [parse(text).offset for text in second.ids] == [2, 3]
    assert second.finished


def test_a_client_that_goes_away_in_the_middle_finds_the_entry() -> None:
    """Nothing is written to it any more, and with its last id it gets the frame whole."""
    world, feed, sink, passage = half_sent()
    sink.go_away()
    passage.add(b"y" * 10_000)
    passage.complete(b"", None, terminal=True)
    _, again = world.attach(1)

    assert world.detached[0] == (feed, "disconnected")
    assert [frame.data for frame in again.frames] == [b"x" * 10_000 + b"y" * 10_000]
    assert again.finished


def test_a_reader_that_has_something_else_to_read_first_gets_the_entry_whole() -> None:
    """A full client is given no beginning; when it reads again, all comes in order."""
    world = World()
    _, sink = world.attach()
    sink.congest()
    world.append("a")
    passage = world.log.begin(world.stream, b"message")
    passage.add(b"x" * 10_000)
    sink.is_congested = False
    passage.add(b"y" * 10_000)

    assert texts(sink) == []

    sink.drain()
    passage.complete(b"", None, terminal=True)

    assert [text[0] for text in texts(sink)] == ["a", "x"]
    assert sink.finished


def test_a_full_reader_is_given_no_beginning() -> None:
    """Also where it missed nothing: a frame waits for room, as others do."""
    world = World()
    _, sink = world.attach()
    sink.congest()
    passage = world.log.begin(world.stream, b"message")
    passage.add(b"x" * 10_000)
    sink.drain()
    passage.add(b"y" * 10_000)

    assert len(sink.writes) == 1

    passage.complete(b"", None, terminal=True)

    assert [frame.data for frame in sink.frames] == [b"x" * 10_000 + b"y" * 10_000]
    assert sink.finished


def test_a_reader_that_missed_an_entry_is_given_no_beginning() -> None:
    """Congested before and free now, it has not caught up yet: the frame comes behind what it missed."""
    world = World()
    _, sink = world.attach()
    sink.congest()
    world.append("a")
    sink.is_congested = False
    passage = world.log.begin(world.stream, b"message")
    passage.add(b"x" * 10_000)
    passage.complete(b"", None, terminal=True)

    assert [text[0] for text in texts(sink)] == ["a", "x"]
    assert sink.finished


def test_a_reader_that_fills_up_in_the_middle_gets_the_rest() -> None:
    """One frame goes on whatever its size, as it does whole: its lag is judged from the next entry on."""
    world, _, sink, passage = half_sent(slow_reader_bytes=20_000, slow_reader_events=2)
    sink.congest()
    for _ in range(5):
        passage.add(b"y" * 10_000)
    passage.complete(b"", None, terminal=False)

    assert len(texts(sink)[1]) == 60_000
    assert not sink.is_over

    world.append("b", "c", "d")

    assert sink.aborted
    assert world.detached[0][1] == "slow"


def test_a_frame_larger_than_the_window_reaches_who_has_its_beginning() -> None:
    """It is not retained, and told as a gap to whoever comes later; the one who reads goes on."""
    world, feed, sink, passage = half_sent(bytes_per_stream=30_000, slow_reader_bytes=20_000)
    passage.add(b"y" * 40_000)
    passage.complete(b"", None, terminal=False)
    world.append("b")

    assert [text[:1] for text in texts(sink)] == ["a", "x", "b"]
    assert len(texts(sink)[1]) == 50_000
    assert feed.position == 3
    assert world.stream.has_gap(Offset(1))
    assert not world.stream.has_gap(Offset(2))
