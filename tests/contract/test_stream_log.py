"""The contract of a session's log, for every store that fulfils it."""

from collections.abc import Callable

import pytest

from proxy.core import sse
from proxy.core.cursor import Cursor, parse
from proxy.core.ids import STANDALONE, Epoch, Offset, call_stream
from proxy.core.replay import Entry, StreamState
from proxy.store.base import StreamLog
from proxy.store.memory import Budget, MemoryLog
from support.fakes import FakeClock, make_config

EPOCH = Epoch("0123456789ab")
C1, C2 = call_stream(1), call_stream(2)


def memory_log() -> StreamLog:
    """Return a log in memory with room for everything."""
    return MemoryLog(EPOCH, Budget(make_config().replay, FakeClock().now))


@pytest.fixture(params=[memory_log])
def log(request: pytest.FixtureRequest) -> StreamLog:
    """Return one store's empty log."""
    make: Callable[[], StreamLog] = request.param
    return make()


class Tail:
    """A reader that takes what is committed whenever it is woken, as a feed does."""

    def __init__(self, log: StreamLog, stream_id: str) -> None:
        self.log = log
        self.stream = log.find(stream_id)
        self.position = self.stream.delivered
        self.got: list[bytes] = []
        self.calls: list[str] = []

    def take(self, entry: Entry, before: Offset) -> None:
        """Take what is new, which is that."""
        assert (self.stream.last, self.log.committed) == (entry.offset, entry.offset)
        assert before < entry.offset
        self.wake()

    def wake(self) -> None:
        """Take what is new."""
        self.calls.append("wake")
        for entry in self.stream.after(self.position, self.log.committed):
            self.got.append(entry.wire)
            self.position = entry.offset

    def replaced(self) -> None:
        """Note it."""
        self.calls.append("replaced")


def add(log: StreamLog, stream, data: bytes = b"{}", **more) -> Offset:
    """Append a message."""
    return log.append(stream, b"message", data, None, **more)


def test_a_new_log_is_empty(log: StreamLog) -> None:
    """It has an epoch, nothing committed, and no stream until one is opened."""
    assert log.epoch == EPOCH
    assert (log.top, log.committed) == (0, 0)
    assert log.find(STANDALONE) is None
    assert log.tombstone(C1) is None


def test_offsets_rise_across_all_streams(log: StreamLog) -> None:
    """Two streams and marks interleave one count, and no offset is used twice."""
    standalone, call = log.open(STANDALONE, ()), log.open(C1, (1,))

    used = [add(log, standalone), add(log, call), log.mark(standalone), log.mark(None), add(log, call)]

    assert used == [1, 2, 3, 4, 5]
    assert log.top == log.committed == 5
    assert [entry.offset for entry in standalone.entries] == [1]
    assert [entry.offset for entry in call.entries] == [2, 5]


def test_a_stream_begins_at_the_present_top(log: StreamLog) -> None:
    """Its floor is what was there before: nothing of that is missing from it."""
    add(log, log.open(STANDALONE, ()))

    call = log.open(C1, (1,))

    assert call.floor == 1
    assert log.find(C1) is call
    assert not call.has_gap(Offset(1))


def test_an_entry_is_the_bytes_that_go_out(log: StreamLog) -> None:
    """The wire form carries the event id of its own offset, the event and the data, as sent every time."""
    call = log.open(C1, (1,))

    offset = log.append(call, b"message", b'{"a":1}', b"u-9")

    (entry,) = call.after(Offset(0), log.committed)
    (frame,) = sse.Decoder(1 << 20).feed(entry.wire)
    assert parse(frame.id.decode()) == Cursor(EPOCH, C1, offset)
    assert (frame.event, frame.data) == (b"message", b'{"a":1}')
    assert entry.upstream_id == b"u-9"


def test_a_mark_names_an_offset_that_no_entry_has(log: StreamLog) -> None:
    """A cursor from a mark is contiguous: what follows it is what was appended later."""
    call = log.open(C1, (1,))
    add(log, call, b"1")
    marked = log.mark(call)
    later = add(log, call, b"2")

    assert call.last == later
    assert [entry.offset for entry in call.after(marked, log.committed)] == [later]


def test_a_reader_is_woken_after_the_commit(log: StreamLog) -> None:
    """When it is called, what was appended can be read already."""
    call = log.open(C1, (1,))
    tail = call.reader = Tail(log, C1)

    add(log, call, b"1")
    add(log, call, b"2")

    assert tail.calls == ["wake", "wake"]
    assert tail.got == [entry.wire for entry in call.entries]


def test_a_reader_hears_of_its_own_stream_alone(log: StreamLog) -> None:
    """What is appended to another stream wakes nobody here."""
    one, other = log.open(C1, (1,)), log.open(C2, (2,))
    tail = one.reader = Tail(log, C1)

    add(log, other)

    assert tail.calls == []
    assert one.after(Offset(0), log.committed) == []


def test_an_append_from_inside_a_wake_is_not_lost(log: StreamLog) -> None:
    """While a tail is splicing, the log may grow: it sees every entry once and in order."""
    call = log.open(C1, (1,))

    class Nested(Tail):
        def wake(self) -> None:
            first = not self.got
            super().wake()
            if first:
                add(self.log, self.stream, b"nested")

    tail = call.reader = Nested(log, C1)

    add(log, call, b"outer")

    assert tail.got == [entry.wire for entry in call.entries]
    assert [wire.count(b"nested") for wire in tail.got] == [0, 1]


def test_a_terminal_entry_completes_its_stream(log: StreamLog) -> None:
    """The state follows the entry, before the reader is woken by it."""
    call = log.open(C1, (1,))
    states = []
    tail = Tail(log, C1)
    tail.wake = lambda: states.append((call.state, call.terminal))
    call.reader = tail
    add(log, call)

    offset = add(log, call, terminal=True)

    assert states == [(StreamState.LIVE, None), (StreamState.COMPLETE, offset)]
    assert call.terminal_entry.offset == offset


def test_an_evicted_call_leaves_its_tombstone(log: StreamLog) -> None:
    """The entries are gone, the request ids stay, with the offset past which nothing was missed."""
    call = log.open(C1, (1, "1"))
    last = add(log, call, terminal=True)
    add(log, log.open(STANDALONE, ()))

    log.evict(call)

    buried = log.tombstone(C1)
    assert (buried.request_ids, buried.last) == ((1, "1"), last)
    assert log.find(C1) is None
    assert call.state is StreamState.EVICTED
    assert call.has_gap(Offset(last - 1))
    assert not call.has_gap(last)


def test_eviction_happens_once(log: StreamLog) -> None:
    """A second eviction of the same stream changes nothing."""
    call = log.open(C1, (1,))
    add(log, call, terminal=True)
    log.evict(call)
    before = log.tombstone(C1)

    log.evict(call)

    assert log.tombstone(C1) is before


def test_a_stream_without_requests_leaves_no_tombstone(log: StreamLog) -> None:
    """Nothing of the standalone stream is owed to anyone once it is forgotten."""
    standalone = log.open(STANDALONE, ())
    add(log, standalone)

    log.evict(standalone)

    assert log.find(STANDALONE) is None
    assert log.tombstone(STANDALONE) is None


def test_a_closed_log_holds_nothing(log: StreamLog) -> None:
    """All streams are gone at the end of the session."""
    for stream_id, ids in ((STANDALONE, ()), (C1, (1,)), (C2, (2,))):
        add(log, log.open(stream_id, ids))

    log.close()

    assert [log.find(stream_id) for stream_id in (STANDALONE, C1, C2)] == [None, None, None]
