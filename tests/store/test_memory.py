"""The log in memory: its bounds and its accounting; `test_memory_model` mixes everything that can happen."""

from proxy.core import sse
from proxy.core.cursor import event_id
from proxy.core.ids import STANDALONE, Epoch, Offset, SessionId, call_stream
from proxy.core.replay import Stream, StreamState
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
