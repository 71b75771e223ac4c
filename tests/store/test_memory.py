"""The log in memory: its bounds and its accounting; `test_memory_model` mixes everything that can happen."""

from proxy.core import sse
from proxy.core.cursor import event_id
from proxy.core.ids import STANDALONE, Epoch, Offset, SessionId, call_stream
from proxy.core.recognition import TAIL_BYTES
from proxy.core.replay import Entry, Stream, StreamState
from proxy.relay.feed import Feed
from proxy.store.memory import ENTRY_OVERHEAD, TOMBSTONES, Budget, MemoryLog
from proxy.wheel import Wheel
from support.fakes import FakeClock, FakeSink, make_config

EPOCH = Epoch("0123456789ab")


def make_budget(clock: FakeClock | None = None, **limits: object) -> Budget:
    """Return a budget with these limits and a clock that stands still by default."""
    return Budget(make_config(**limits).replay, (clock or FakeClock()).now)


def add(log: MemoryLog, stream: Stream, size: int = 10, *, terminal: bool = False) -> int:
    """Append a message of *size* bytes; returns the bytes of its wire form."""
    before = log.size
    log.append(stream, b"", b"x" * size, None, terminal=terminal)
    return log.size - before


def offsets(stream: Stream) -> list[int]:
    """Return what is retained."""
    return [entry.offset for entry in stream.entries or ()]


# -- bounds


def test_a_stream_keeps_so_many_events() -> None:
    """The oldest goes when there are more, and a cursor below it has a gap."""
    log = MemoryLog(EPOCH, make_budget(events_per_stream=2))
    stream = log.open(STANDALONE, ())
    for _ in range(3):
        add(log, stream)

    assert offsets(stream) == [2, 3]
    assert stream.floor == 1


def test_a_stream_keeps_so_many_bytes() -> None:
    """Bytes are those of the wire form; as many of the oldest go as it takes."""
    log = MemoryLog(EPOCH, make_budget())
    stream = log.open(STANDALONE, ())
    size = add(log, stream)
    log = MemoryLog(EPOCH, make_budget(bytes_per_stream=3 * size))
    stream = log.open(STANDALONE, ())
    for _ in range(3):
        add(log, stream)

    assert offsets(stream) == [1, 2, 3]

    add(log, stream, 10 + size)

    assert offsets(stream) == [3, 4]


def test_an_entry_beyond_the_window_reaches_who_is_listening() -> None:
    """It is not retained, and told as a gap later; the live reader has it before the bound falls."""
    log = MemoryLog(EPOCH, make_budget(bytes_per_stream=100))
    stream = log.open(STANDALONE, ())
    sink, cuts = FakeSink(), []
    wheel = Wheel(FakeClock(), 15.0)
    Feed(
        log, stream, sink, position=Offset(0), config=make_config().stream, heartbeats=wheel,
        on_detach=lambda _, reason: cuts.append(reason),
    ).begin([], SessionId("ours"), has_priming=False, jitter=0.0)  # fmt: skip

    log.append(stream, b"", b"x" * 200, None)

    assert [frame.data for frame in sink.frames] == [b"x" * 200]
    assert cuts == []
    assert offsets(stream) == []
    assert (log.size, stream.floor) == (0, 1)


def test_a_session_pays_with_its_oldest_entries() -> None:
    """Whatever their stream: the entries with the smallest offsets go first."""
    budget = make_budget()
    log = MemoryLog(EPOCH, budget)
    size = add(log, log.open(STANDALONE, ()))
    log = MemoryLog(EPOCH, make_budget(bytes_per_session=3 * size))
    one, other = log.open(call_stream(1), (1,)), log.open(call_stream(2), (2,))
    for stream in (one, other, other, one):
        add(log, stream, 9)

    assert (offsets(one), offsets(other)) == ([4], [2, 3])


def test_shrinking_ends_when_nothing_is_left() -> None:
    """A target that cannot be met is no loop."""
    log = MemoryLog(EPOCH, make_budget())
    stream = log.open(STANDALONE, ())
    add(log, stream)

    log.shrink(-1)

    assert (log.size, offsets(stream)) == (0, [])


def test_the_process_pays_with_completed_streams_first() -> None:
    """Oldest completion first; a live stream keeps what it has while that is enough."""
    size = len(sse.encode(event_id(EPOCH, call_stream(1), Offset(1)), b"", b"x" * 10)) + ENTRY_OVERHEAD
    budget = make_budget(bytes_total=3 * size)
    log, other = MemoryLog(EPOCH, budget), MemoryLog(EPOCH, budget)
    live = other.open(call_stream(1), (1,))
    first, second = log.open(call_stream(1), (1,)), log.open(call_stream(2), (2,))
    add(other, live)
    add(log, second, terminal=True)
    add(log, first, terminal=True)

    add(other, live)

    assert second.state is StreamState.EVICTED
    assert log.tombstone(call_stream(2)) is not None
    assert first.state is StreamState.COMPLETE
    assert offsets(live) == [1, 2]
    assert budget.used == 3 * size


def test_the_process_pays_with_the_largest_log_then() -> None:
    """Without completed streams the largest log loses half: the search is not paid at every append."""
    budget = make_budget(bytes_total=10 * (ENTRY_OVERHEAD + 50))
    small, large = MemoryLog(EPOCH, budget), MemoryLog(EPOCH, budget)
    one, many = small.open(STANDALONE, ()), large.open(STANDALONE, ())
    add(small, one)
    while large.top == len(offsets(many)):
        add(large, many)

    assert offsets(one) == [1]
    assert len(offsets(many)) == large.top // 2 - 1, "at most half of its bytes: of ten entries with longer ids, four"
    assert budget.used <= budget.limits.bytes_total


def test_entries_without_text_cannot_outgrow_the_process() -> None:
    """Each entry is charged what it costs beside its bytes."""
    budget = make_budget(bytes_total=10 * ENTRY_OVERHEAD)
    log = MemoryLog(EPOCH, budget)
    stream = log.open(STANDALONE, ())
    for _ in range(100):
        log.append(stream, b"", b"", None)

    assert 0 < len(offsets(stream)) < 10


def test_a_cap_below_one_entry_keeps_nothing() -> None:
    """The search ends when nothing is left to drop."""
    budget = make_budget(bytes_total=1)
    log = MemoryLog(EPOCH, budget)
    stream = log.open(STANDALONE, ())
    add(log, stream)

    assert offsets(stream) == []
    assert (log.size, budget.used) == (0, 0)


def test_a_cap_that_nothing_can_meet_is_no_loop() -> None:
    """Where no log has anything to give, reclaiming gives up."""
    budget = make_budget(bytes_total=1)
    MemoryLog(EPOCH, budget)
    budget.used = 2

    budget.reclaim()

    assert budget.used == 2


def test_tombstones_are_bounded() -> None:
    """One session remembers so many evicted calls; the oldest is forgotten first."""
    log = MemoryLog(EPOCH, make_budget())
    for number in range(TOMBSTONES + 1):
        log.evict(log.open(call_stream(number), (number,)))

    assert log.tombstone(call_stream(0)) is None
    assert log.tombstone(call_stream(1)) is not None
    assert log.tombstone(call_stream(TOMBSTONES)) is not None


def test_an_offset_is_used_up_without_an_entry() -> None:
    """It costs nothing, moves the stream it is for, and no stream where it is for none."""
    budget = make_budget()
    log = MemoryLog(EPOCH, budget)
    stream = log.open(STANDALONE, ())

    assert (log.mark(stream), log.mark(None)) == (1, 2)
    assert (stream.last, log.committed) == (1, 2)
    assert (log.size, budget.used) == (0, 0)


def test_an_eviction_is_charged_once() -> None:
    """A second eviction gives back nothing more."""
    budget = make_budget()
    log = MemoryLog(EPOCH, budget)
    stream, other = log.open(call_stream(1), (1,)), log.open(call_stream(2), (2,))
    add(log, stream, terminal=True)
    kept = add(log, other)
    log.evict(stream)
    log.evict(stream)

    assert (log.size, budget.used) == (kept, kept + ENTRY_OVERHEAD)


# -- age


def test_a_completed_stream_is_kept_for_its_time() -> None:
    """It goes with its deadline, those completed later stay, and live ones have none."""
    clock = FakeClock()
    budget = make_budget(clock, completed_seconds=60.0)
    log = MemoryLog(EPOCH, budget)
    early, late, live = (log.open(call_stream(number), (number,)) for number in (1, 2, 3))
    add(log, early, terminal=True)
    add(log, live)
    clock.advance(30.0)
    add(log, late, terminal=True)

    clock.advance(29.9)
    budget.expire()
    assert early.state is StreamState.COMPLETE

    clock.advance(0.1)
    budget.expire()

    assert (early.state, late.state, live.state) == (
        StreamState.EVICTED,
        StreamState.COMPLETE,
        StreamState.LIVE,
    )

    clock.advance(30.0)
    budget.expire()
    budget.expire()

    assert (late.state, live.state) == (StreamState.EVICTED, StreamState.LIVE)


def test_an_evicted_stream_is_not_tracked_any_more() -> None:
    """What was evicted otherwise does not expire a second time."""
    clock = FakeClock()
    budget = make_budget(clock, completed_seconds=60.0)
    log = MemoryLog(EPOCH, budget)
    stream = log.open(call_stream(1), (1,))
    add(log, stream, terminal=True)
    log.evict(stream)
    again = log.open(call_stream(1), (1,))
    clock.advance(60.0)
    budget.expire()

    assert log.find(call_stream(1)) is again


def test_a_closed_log_gives_everything_back() -> None:
    """Its bytes, its place among the logs and its completed streams are gone from the budget."""
    clock = FakeClock()
    budget = make_budget(clock)
    log, other = MemoryLog(EPOCH, budget), MemoryLog(EPOCH, budget)
    kept = add(other, other.open(STANDALONE, ()))
    add(log, log.open(STANDALONE, ()))
    add(log, log.open(call_stream(1), (1,)), terminal=True)

    log.close()

    assert budget.used == kept + ENTRY_OVERHEAD
    assert budget.logs == {other}
    assert not budget._completed


# -- frames that are passed on before their end is there


class Tail:
    """A reader that notes what it is told, and takes or refuses what is under way."""

    def __init__(self, stream: Stream, *, takes: bool = True) -> None:
        self.got: list[bytes] = []
        self.calls: list[str] = []
        self.takes = takes
        stream.reader = self

    def take(self, entry: Entry, before: Offset) -> None:
        """Note it."""
        self.calls.append("wake")

    def wake(self) -> None:
        """Note it."""
        self.calls.append("wake")

    def replaced(self) -> None:
        """Note it."""
        self.calls.append("replaced")

    def enter(self, head: bytes) -> bool:
        """Take the beginning, or refuse it."""
        if self.takes:
            self.got.append(head)
        return self.takes

    def pass_on(self, part: bytes) -> None:
        """Take more."""
        self.got.append(part)

    def passed(self, closing: bytes, offset: Offset) -> None:
        """Take the end."""
        self.got.append(closing)
        self.calls.append(f"passed {offset}")

    def broken_off(self) -> None:
        """Note it."""
        self.calls.append("broken_off")


def test_a_frame_in_parts_becomes_an_entry_of_the_same_bytes() -> None:
    """The live parts are the entry's, uncopied; its offset is assigned at its end, and it says what it would whole."""
    log = MemoryLog(EPOCH, make_budget())
    call, other = log.open(call_stream(1), (1,)), log.open(STANDALONE, ())
    tail = Tail(call)
    passage = log.begin(call, b"message")
    parts = [b"x" * 5_000, b"y" * 6_000]
    for part in parts:
        passage.add(part)
    add(log, other)
    offset = passage.complete(b"\ndata: z", b"u-1", terminal=True)
    (entry,) = call.entries

    assert (offset, log.top, log.committed, call.last, call.terminal) == (2, 2, 2, 2, 2)
    assert call.state is StreamState.COMPLETE
    assert (entry.offset, entry.upstream_id, entry.size) == (2, b"u-1", len(b"".join(entry.parts)))
    assert entry.frame == sse.Frame(b"".join(parts) + b"\nz", event_id(EPOCH, call.id, Offset(2)).encode(), b"message")
    assert list(entry.parts) == tail.got
    assert [entry.parts[1] is parts[0], entry.parts[2] is parts[1]] == [True, True]
    assert tail.calls == ["passed 2"]


def test_small_parts_are_gathered() -> None:
    """A drip of bytes costs no object each, in order with large parts, and none of them is missing at the end."""
    log = MemoryLog(EPOCH, make_budget())
    stream = log.open(call_stream(1), (1,))
    tail = Tail(stream)
    passage = log.begin(stream, b"")
    text = b"".join(b"%04d" % number for number in range(5_000))
    for start in range(0, 8_192, 4):
        passage.add(text[start : start + 4])
    passage.add(text[8_192:8_200])

    assert b"".join(passage.data) == text[:8_200]

    passage.add(text[8_200:-8])
    passage.add(text[-8:])
    passage.complete(b"", None, terminal=False)

    assert [len(part) for part in tail.got[1:-1]] == [4_096, 4_096, 8, len(text) - 8_208, 8]
    assert stream.entries[0].frame.data == text


def test_a_frame_under_way_counts_in_the_budget() -> None:
    """As a body under way while it comes, as an entry when it is one, and not at all when it is dropped."""
    budget = make_budget()
    log = MemoryLog(EPOCH, budget)
    stream = log.open(call_stream(1), (1,))
    first, second = log.begin(stream, b""), log.begin(log.open(call_stream(2), (2,)), b"")
    first.add(b"x" * 5_000)
    second.add(b"y" * 7_000)

    assert (budget.held, budget.used) == (12_000, 0)

    first.complete(b"", None, terminal=False)
    second.drop()
    second.drop()

    assert (budget.held, budget.used) == (0, stream.size + ENTRY_OVERHEAD)
    assert log.size == stream.size == stream.entries[0].size


def test_a_frame_larger_than_the_window_is_passed_on_and_not_retained() -> None:
    """Its bytes are let go of on the way, its end stays known; the floor moves past it as if it had been dropped."""
    budget = make_budget(bytes_per_stream=20_000)
    log = MemoryLog(EPOCH, budget)
    stream = log.open(call_stream(1), (1,))
    add(log, stream)
    tail = Tail(stream)
    passage = log.begin(stream, b"")
    for letter in (b"a", b"b", b"c"):
        passage.add(letter * 9_000)

    assert not passage.is_whole
    assert budget.held == 0
    assert b"".join(passage.data) == b"c" * TAIL_BYTES

    passage.add(b"tail")

    assert b"".join(passage.data) == b"c" * TAIL_BYTES + b"tail"

    offset = passage.complete(b"", None, terminal=True)

    assert b"".join(tail.got[1:-1]) == b"a" * 9_000 + b"b" * 9_000 + b"c" * 9_000 + b"tail"
    assert (stream.entries, stream.size, stream.floor, stream.last, stream.terminal) == (None, 0, 2, 2, offset)
    assert (log.size, budget.used, budget.held) == (0, 0, 0)
    assert stream.terminal_entry is None


def test_the_window_holds_for_frames_in_parts() -> None:
    """As many of the oldest go as it takes, when one of them becomes an entry."""
    log = MemoryLog(EPOCH, make_budget(events_per_stream=2))
    stream = log.open(call_stream(1), (1,))
    for _ in range(3):
        passage = log.begin(stream, b"")
        passage.add(b"x" * 5_000)
        passage.complete(b"", None, terminal=False)

    assert offsets(stream) == [2, 3]


def test_the_tail_is_whole_across_small_parts() -> None:
    """What is let go of leaves as many last bytes as recognition looks at, whatever the parts were."""
    log = MemoryLog(EPOCH, make_budget(bytes_per_stream=6_000))
    stream = log.open(call_stream(1), (1,))
    text = b"".join(b"%05d" % number for number in range(1_240))
    for size in (1, 7, 100, 5_000, 5_999):
        passage = log.begin(stream, b"")
        for start in range(0, len(text), size):
            passage.add(text[start : start + size])
        passage.complete(b"", None, terminal=False)
        assert not stream.entries

        passage = log.begin(stream, b"")
        for start in range(0, len(text), size):
            passage.add(text[start : start + size])
        passage.add(b"z" * 6_000)
        assert b"".join(passage.data)[-TAIL_BYTES:] == b"z" * TAIL_BYTES
        assert len(b"".join(passage.data)) == TAIL_BYTES
        passage.drop()


def test_a_frame_without_room_is_not_retained() -> None:
    """Where requests and frames under way fill the process's cap, the frame goes on without its bytes being kept."""
    budget = make_budget(bytes_total=16_384, bytes_per_session=16_384, bytes_per_stream=16_384)
    log = MemoryLog(EPOCH, budget)
    stream = log.open(call_stream(1), (1,))
    tail = Tail(stream)
    budget.hold(10_000)
    passage = log.begin(stream, b"")
    passage.add(b"x" * 6_000)

    assert passage.is_whole

    passage.add(b"y" * 5_000)

    assert not passage.is_whole
    assert budget.held == 10_000
    assert len(tail.got) == 3


def test_a_reader_that_does_not_enter_is_woken_at_the_end() -> None:
    """It gets no part; the entry is there when it is woken."""
    log = MemoryLog(EPOCH, make_budget())
    stream = log.open(call_stream(1), (1,))
    tail = Tail(stream, takes=False)
    passage = log.begin(stream, b"")
    passage.add(b"x" * 5_000)
    passage.complete(b"", None, terminal=True)

    assert (tail.got, tail.calls) == ([], ["wake"])


def test_a_reader_that_came_later_is_given_no_part() -> None:
    """Only who has the beginning gets the rest; who took its place is woken at the end, and is not cut by a drop."""
    log = MemoryLog(EPOCH, make_budget())
    stream = log.open(call_stream(1), (1,))
    for is_dropped in (False, True):
        first = Tail(stream)
        passage = log.begin(stream, b"")
        passage.add(b"x" * 5_000)
        second = Tail(stream)
        passage.add(b"y" * 5_000)
        passage.drop() if is_dropped else passage.complete(b"", None, terminal=False)

        assert (len(first.got), first.calls) == (2, [])
        assert (second.got, second.calls) == ([], [] if is_dropped else ["wake"])


def test_a_dropped_frame_leaves_nothing() -> None:
    """No entry, no offset and no bytes; who had a part of it is told to cut."""
    budget = make_budget()
    log = MemoryLog(EPOCH, budget)
    stream = log.open(call_stream(1), (1,))
    tail = Tail(stream)
    passage = log.begin(stream, b"")
    passage.add(b"x" * 5_000)
    passage.drop()
    passage.drop()

    assert tail.calls == ["broken_off"]
    assert (log.top, stream.last, stream.entries, log.size, budget.used, budget.held) == (0, 0, None, 0, 0, 0)


def test_large_data_is_kept_without_a_copy() -> None:
    """A whole frame with large data is an entry in parts, of the same bytes as in one piece."""
    log = MemoryLog(EPOCH, make_budget())
    stream = log.open(call_stream(1), (1,))
    data = b"x" * 100_000
    log.append(stream, b"message", data, None)
    (entry,) = stream.entries

    assert any(part is data for part in entry.parts)
    assert b"".join(entry.parts) == sse.encode(event_id(EPOCH, stream.id, Offset(1)), b"message", data)
    assert entry.size == stream.size == log.size == len(b"".join(entry.parts))
