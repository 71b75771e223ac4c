"""The answer to a cursor against a model that remembers everything the session ever logged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.cursor import Cursor
from proxy.core.ids import STANDALONE, Epoch, Offset, StreamId, call_stream
from proxy.core.replay import Entry, Stream
from proxy.core.resume import Resume, decide

EPOCH = Epoch("0123456789ab")
OTHER = Epoch("ba9876543210")


class History:
    """A session's log that forgets nothing, beside the streams as the product keeps them."""

    def __init__(self) -> None:
        self.top = 0
        self.next_stream = 1
        self.streams: dict[StreamId, Stream] = {}
        self.logged: dict[StreamId, list[int]] = {}
        self.retained: dict[StreamId, list[int]] = {}
        self.started: dict[StreamId, int] = {}
        self.complete: dict[StreamId, int] = {}
        self.buried: dict[StreamId, Offset] = {}

    def open(self, stream_id: StreamId) -> None:
        """Begin a stream."""
        self.streams[stream_id] = Stream(stream_id, Offset(self.top), ())
        self.logged[stream_id], self.retained[stream_id] = [], []
        self.started[stream_id] = self.top

    def append(self, stream_id: StreamId, *, terminal: bool) -> None:
        """Log one entry, unless the stream is over."""
        if stream_id not in self.streams or stream_id in self.complete:
            return
        self.top += 1
        self.streams[stream_id].append(Entry(Offset(self.top), b"id: x\ndata: \n\n", None))
        self.logged[stream_id].append(self.top)
        self.retained[stream_id].append(self.top)
        if terminal and stream_id != STANDALONE:
            self.complete[stream_id] = self.top
            self.streams[stream_id].terminal = Offset(self.top)

    def drop(self, stream_id: StreamId) -> None:
        """Let the window move on."""
        if self.retained.get(stream_id):
            self.streams[stream_id].drop_oldest()
            self.retained[stream_id].pop(0)

    def evict(self, stream_id: StreamId, *, is_remembered: bool) -> None:
        """Forget a complete stream, with or without its tombstone."""
        if stream_id in self.complete and stream_id in self.streams:
            stream = self.streams.pop(stream_id)
            self.retained[stream_id] = []
            if is_remembered:
                self.buried[stream_id] = stream.last

    def expected(self, cursor: Cursor) -> Resume:
        """Say what the client has to be told, from what was ever logged."""
        stream_id, offset = cursor.stream, cursor.offset
        is_call = stream_id != STANDALONE
        if cursor.epoch != EPOCH:
            return Resume.FORGED if is_call else Resume.RESYNC
        if offset > self.top or (is_call and stream_id not in self.logged):
            return Resume.FORGED
        if stream_id not in self.logged:
            return Resume.RESYNC
        if stream_id not in self.streams and stream_id not in self.buried:
            return Resume.FORGOTTEN
        if stream_id in self.complete and offset >= self.complete[stream_id]:
            return Resume.FINISHED
        missed = [number for number in self.logged[stream_id] if number > offset]
        if offset >= self.started[stream_id] and set(missed) <= set(self.retained[stream_id]):
            return Resume.CONTINUE
        if not is_call:
            return Resume.RESYNC
        if stream_id in self.complete and self.complete[stream_id] in self.retained[stream_id]:
            return Resume.RESULT_ONLY
        return Resume.UNKNOWN

    def decided(self, cursor: Cursor) -> Resume:
        """Ask the product."""
        return decide(
            cursor,
            epoch=EPOCH,
            top=Offset(self.top),
            next_stream=self.next_stream,
            stream=self.streams.get(cursor.stream),
            buried=self.buried.get(cursor.stream),
        )


STREAM_IDS = st.sampled_from([STANDALONE, *map(call_stream, range(4))])
STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "append", "append", "end", "drop", "evict", "bury"]), STREAM_IDS),
    max_size=30,
)


@given(STEPS)
def test_every_cursor_gets_the_answer_that_history_asks_for(steps: list[tuple[str, StreamId]]) -> None:
    """Whatever was logged, dropped and evicted, each of all cursors near it is answered as the model says."""
    history = History()
    for step, stream_id in steps:
        if step == "open":
            if stream_id == STANDALONE and STANDALONE not in history.logged:
                history.open(STANDALONE)
            elif stream_id != STANDALONE and history.next_stream < 4:
                history.open(call_stream(history.next_stream))
                history.next_stream += 1
        elif step in ("append", "end"):
            history.append(stream_id, terminal=step == "end")
        elif step == "drop":
            history.drop(stream_id)
        else:
            history.evict(stream_id, is_remembered=step == "bury")

    for epoch in (EPOCH, OTHER):
        for stream_id in (STANDALONE, *map(call_stream, range(5))):
            for offset in range(history.top + 3):
                cursor = Cursor(epoch, stream_id, Offset(offset))

                assert history.decided(cursor) is history.expected(cursor), cursor


def ended(*, kept: int) -> History:
    """Return a session whose first call ended at offset 3, of whose entries the last *kept* are retained."""
    history = History()
    history.open(call_stream(1))
    history.next_stream = 2
    for number in range(3):
        history.append(call_stream(1), terminal=number == 2)
    for _ in range(3 - kept):
        history.drop(call_stream(1))
    return history


@pytest.mark.parametrize(
    ("kept", "offset", "answer"),
    [
        (3, 0, Resume.CONTINUE),
        (3, 2, Resume.CONTINUE),
        (3, 3, Resume.FINISHED),
        (1, 0, Resume.RESULT_ONLY),
        (1, 2, Resume.CONTINUE),
        (0, 0, Resume.UNKNOWN),
        (0, 3, Resume.FINISHED),
        (3, 4, Resume.FORGED),
    ],
)
def test_a_finished_call(kept: int, offset: int, answer: Resume) -> None:
    """What a client of a finished call is told depends on what it has and what is left."""
    assert ended(kept=kept).decided(Cursor(EPOCH, call_stream(1), Offset(offset))) is answer


def test_a_buried_call_tells_finished_from_unknown() -> None:
    """The tombstone's last offset parts who has everything from who has not."""
    history = ended(kept=3)
    history.evict(call_stream(1), is_remembered=True)

    assert history.decided(Cursor(EPOCH, call_stream(1), Offset(3))) is Resume.FINISHED
    assert history.decided(Cursor(EPOCH, call_stream(1), Offset(2))) is Resume.UNKNOWN


@pytest.mark.parametrize(("offset", "answer"), [(0, Resume.RESYNC), (1, Resume.CONTINUE), (2, Resume.CONTINUE)])
def test_a_gap_on_the_standalone_stream_is_told_by_a_resync(offset: int, answer: Resume) -> None:
    """Below its window a cursor gets the resync, inside it what follows; the stream is never finished."""
    history = History()
    history.open(STANDALONE)
    history.append(STANDALONE, terminal=False)
    history.append(STANDALONE, terminal=False)
    history.drop(STANDALONE)

    assert history.decided(Cursor(EPOCH, STANDALONE, Offset(offset))) is answer


def test_a_call_beyond_the_tombstones_is_forgotten() -> None:
    """An id this session did issue is not called forged, though nothing is known of it any more."""
    history = ended(kept=3)
    history.evict(call_stream(1), is_remembered=False)

    assert history.decided(Cursor(EPOCH, call_stream(1), Offset(2))) is Resume.FORGOTTEN


def test_a_standalone_stream_that_is_not_there_is_told_anew() -> None:
    """A cursor of a standalone stream that nothing is kept of heals by a resync."""
    assert ended(kept=3).decided(Cursor(EPOCH, STANDALONE, Offset(2))) is Resume.RESYNC


@pytest.mark.parametrize("number", [0, 2])
def test_a_stream_that_never_was_is_forged(number: int) -> None:
    """Streams are numbered from 1, and the next number has not been given out."""
    assert ended(kept=3).decided(Cursor(EPOCH, call_stream(number), Offset(1))) is Resume.FORGED


def test_another_sessions_cursor_heals_on_the_standalone_stream() -> None:
    """A resync makes up for a foreign cursor there; a foreign call is nobody's here."""
    history = ended(kept=3)

    assert history.decided(Cursor(OTHER, STANDALONE, Offset(99))) is Resume.RESYNC
    assert history.decided(Cursor(OTHER, call_stream(1), Offset(1))) is Resume.FORGED
