"""Everything that can happen to logs in memory and their readers, mixed, against lists that forget nothing."""

from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.core import sse
from proxy.core.cursor import event_id, parse
from proxy.core.ids import STANDALONE, Epoch, Offset, SessionId, call_stream
from proxy.core.replay import Stream, StreamState
from proxy.relay.feed import Feed
from proxy.store import memory
from proxy.store.base import Passage
from proxy.store.memory import ENTRY_OVERHEAD, Budget, MemoryLog
from proxy.wheel import Wheel
from support.fakes import FakeClock, FakeSink, make_config


def offsets(stream: Stream) -> list[int]:
    """Return what is retained."""
    return [entry.offset for entry in stream.entries or ()]


class Model:
    """One stream as a list that forgets nothing."""

    def __init__(self, log: MemoryLog, stream: Stream) -> None:
        self.log = log
        self.stream = stream
        self.wires: dict[int, bytes] = {}
        """Every entry ever appended, as its bytes must be, by offset."""
        self.given: list[Offset] = [stream.floor]
        """Every position a client of it can have."""
        self.passage: Passage | None = None
        """The frame under way."""
        self.text = b""
        """What of it was passed on or gathered."""
        self.texts: list[bytes] = []
        """All that ever was under way and came to nothing."""

    def after(self, offset: int) -> list[bytes]:
        """Return what follows *offset* in the whole history."""
        return [wire for at, wire in self.wires.items() if at > offset]

    def retained(self) -> set[int]:
        """Return what the product still has."""
        return set(offsets(self.stream))


class Reader:
    """One client of one stream."""

    def __init__(self, model: Model, sink: FakeSink, position: Offset) -> None:
        self.model = model
        self.sink = sink
        self.start = position
        self.reasons: list[str] = []
        self.was_congested = False

    def detached(self, feed: Feed, reason: str) -> None:
        """Hold the reason against what is so: this is called at the very end of the feed."""
        self.reasons.append(reason)
        stream = self.model.stream
        if reason == "slow":
            assert self.was_congested or self.sink.room is not None
        elif reason == "overrun":
            assert feed.position < stream.floor
        elif reason == "" and stream.reader is None:
            assert stream.terminal is not None, "only a complete stream ends by itself"
            assert feed.position >= max(self.model.wires)
        assert self.sink.finished == (reason == "")
        assert self.sink.aborted == (reason in ("slow", "overrun", "broken_off"))


class LogModel(RuleBasedStateMachine):
    """Two logs in one budget, small enough that every bound is met, with feeds that read them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.config = make_config(
            events_per_stream=6, bytes_per_stream=500, bytes_per_session=800, bytes_total=3500,
            completed_seconds=20.0, slow_reader_events=4, slow_reader_bytes=400,
        )  # fmt: skip
        self.budget = Budget(self.config.replay, self.clock.now)
        self.wheel = Wheel(self.clock, 16.0)
        self.models: list[Model] = []
        self.readers: list[Reader] = []
        self.gathering = patch.object(memory, "GATHERED_BYTES", 16)
        self.gathering.start()

    def teardown(self) -> None:
        """Undo what every log shares."""
        self.gathering.stop()

    @initialize()
    def begin(self) -> None:
        """Open the logs."""
        self.logs = [MemoryLog(Epoch(letter * 12), self.budget) for letter in "ab"]
        self.next_stream = [1, 1]
        for log in self.logs:
            self.models.append(Model(log, log.open(STANDALONE, ())))

    @precondition(lambda self: len(self.live()) < 4)
    @rule(which=st.integers(0, 1))
    def open_stream(self, which: int) -> None:
        """A call gets a stream."""
        number = self.next_stream[which]
        self.next_stream[which] += 1
        log = self.logs[which]
        self.models.append(Model(log, log.open(call_stream(number), (number,))))

    def live(self) -> list[Model]:
        """Return the streams that take entries: where a frame is under way, nothing else is appended."""
        return [m for m in self.models if m.stream.state is StreamState.LIVE and m.passage is None]

    @rule(
        data=st.data(),
        sizes=st.lists(st.sampled_from([0, 1, 30, 60, 100, 200, 600]), min_size=1, max_size=4),
    )
    def append(self, data: st.DataObject, sizes: list[int]) -> None:
        """Frames come; more often where somebody reads."""
        live = self.live()
        model = data.draw(st.sampled_from(live + [model for model in live if model.stream.reader] * 3))
        for size in sizes:
            self.append_one(model, size, terminal=False)

    def append_one(self, model: Model, size: int, *, terminal: bool) -> None:
        """Append a frame and hold the log against its caps."""
        log, stream = model.log, model.stream
        text = b"%d." % log.top + b"x" * size
        expected = sse.encode(event_id(log.epoch, stream.id, Offset(log.top + 1)), b"message", text)
        model.wires[log.top + 1] = expected

        offset = log.append(stream, b"message", text, None, terminal=terminal)

        assert model.wires.get(offset) == expected
        self.hold_bounds(model)

    def hold_bounds(self, model: Model) -> None:
        """Hold a log that has grown against its caps."""
        log, stream, limits = model.log, model.stream, self.budget.limits
        assert len(offsets(stream)) <= limits.events_per_stream
        assert stream.size <= limits.bytes_per_stream
        assert log.size <= limits.bytes_per_session
        assert self.budget.used + self.budget.held <= limits.bytes_total

    # -- frames that are passed on before their end is there

    def passing(self) -> list[Model]:
        """Return the streams on which a frame is under way."""
        return [model for model in self.models if model.passage is not None]

    @precondition(lambda self: any(model.stream.id != STANDALONE for model in self.live()))
    @rule(data=st.data(), event=st.sampled_from([b"", b"message"]))
    def begin_frame(self, data: st.DataObject, event: bytes) -> None:
        """A large response begins; more often where somebody reads."""
        calls = [model for model in self.live() if model.stream.id != STANDALONE]
        model = data.draw(st.sampled_from(calls + [model for model in calls if model.stream.reader] * 3))
        model.passage = model.log.begin(model.stream, event)
        model.passage.add(b"*")
        model.text = sse.head(event) + b"*"

    @precondition(lambda self: self.passing())
    @rule(data=st.data(), sizes=st.lists(st.sampled_from([1, 3, 20, 90, 300, 1200]), min_size=1, max_size=4))
    def go_on(self, data: st.DataObject, sizes: list[int]) -> None:
        """More of it comes."""
        model = data.draw(st.sampled_from(self.passing()))
        assert model.passage is not None
        for size in sizes:
            part = b"%d" % (size % 10) * size
            model.text += part
            model.passage.add(part)

    @precondition(lambda self: self.passing())
    @rule(data=st.data(), lines=st.sampled_from([b"", b"\ndata: more"]), is_terminal=st.booleans())
    def end_frame(self, data: st.DataObject, lines: bytes, is_terminal: bool) -> None:
        """It comes to its end and is an entry, whoever reads by then."""
        model = data.draw(st.sampled_from(self.passing()))
        log, stream, passage = model.log, model.stream, model.passage
        assert passage is not None
        offset = Offset(log.top + 1)
        model.wires[offset] = model.text + sse.closing(lines, event_id(log.epoch, stream.id, offset).encode())
        model.passage = None

        assert passage.complete(lines, None, terminal=is_terminal) == offset
        self.hold_bounds(model)

    @precondition(lambda self: self.passing())
    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        """It breaks off."""
        model = data.draw(st.sampled_from(self.passing()))
        assert model.passage is not None
        model.texts.append(model.text)
        passage, model.passage = model.passage, None
        top = model.log.top
        passage.drop()

        assert model.log.top == top

    @rule(data=st.data(), has_priming=st.booleans())
    def attach(self, data: st.DataObject, has_priming: bool) -> None:
        """A client comes, with any id that any client of the stream was given, or from the beginning."""
        model = data.draw(st.sampled_from([m for m in self.models if m.log.find(m.stream.id) is m.stream]))
        stream = model.stream
        position = data.draw(st.sampled_from(model.given))
        lost = {offset for offset in model.wires if offset > position} - model.retained()

        assert stream.has_gap(position) == bool(lost)
        if lost or (stream.terminal is not None and position >= stream.terminal):
            # Told in another way: the gap, or that the stream is finished.
            return
        reader = Reader(model, FakeSink(), position)
        feed = Feed(
            model.log, stream, reader.sink, position=position, config=self.config.stream,
            heartbeats=self.wheel, on_detach=reader.detached,
        )  # fmt: skip
        reader.sink.room = data.draw(st.none() | st.integers(1, 800))
        others = [other for other in self.reading() if other.model is model]
        is_half_sent = [self.unfinished(other) != b"" for other in others]
        self.readers.append(reader)
        feed.begin([], SessionId("ours"), has_priming=has_priming, jitter=0.0)

        assert [other.reasons for other in others] == [["broken_off" if is_half else ""] for is_half in is_half_sent]
        assert len(others) <= 1, "a stream has one reader"

    def reading(self) -> list[Reader]:
        """Return the clients that are connected."""
        return [reader for reader in self.readers if not reader.sink.is_over]

    @precondition(lambda self: len(self.reading()) > 1)
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        """A client goes away."""
        reader = data.draw(st.sampled_from(self.reading()))
        reader.sink.go_away()

        assert reader.reasons == ["disconnected"]
        assert reader.model.stream.reader is None
        assert reader.model.stream.aborted

    @precondition(lambda self: self.reading())
    @rule(data=st.data())
    def congest(self, data: st.DataObject) -> None:
        """A client stops reading."""
        reader = data.draw(st.sampled_from(self.reading()))
        reader.was_congested = True
        reader.sink.congest()

    @precondition(lambda self: any(reader.sink.congested for reader in self.reading()))
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        """A client reads again."""
        data.draw(st.sampled_from([reader for reader in self.reading() if reader.sink.congested])).sink.drain()

    @precondition(lambda self: self.reading())
    @rule(
        data=st.data(), size=st.sampled_from([1, 60, 100]), count=st.integers(1, 6), goal=st.sampled_from([0, 100, 900])
    )
    def stall(self, data: st.DataObject, size: int, count: int, goal: int) -> None:
        """A client rests while its stream goes on and perhaps has to pay, then it reads again."""
        reader = data.draw(st.sampled_from(self.reading()))
        model = reader.model
        if model not in self.live():
            return
        reader.was_congested = True
        reader.sink.congest()
        for _ in range(count):
            self.append_one(model, size, terminal=False)
        model.log.shrink(goal)
        reader.sink.drain()

    @precondition(lambda self: any(model.stream.id != STANDALONE for model in self.live()))
    @rule(data=st.data(), size=st.sampled_from([1, 100, 600]))
    def end(self, data: st.DataObject, size: int) -> None:
        """A call is answered; more often one that somebody reads."""
        calls = [model for model in self.live() if model.stream.id != STANDALONE]
        model = data.draw(st.sampled_from(calls + [model for model in calls if model.stream.reader] * 3))
        self.append_one(model, size, terminal=True)

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        """A stream is forgotten before its time; only complete ones are, as in the product."""
        complete = [model for model in self.models if model.stream.state is StreamState.COMPLETE]
        if complete:
            model = data.draw(st.sampled_from(complete))
            model.log.evict(model.stream)

            assert model.log.tombstone(model.stream.id).last >= max(model.wires)

    @rule(data=st.data(), goal=st.sampled_from([0, 100, 300]))
    def shrink(self, data: st.DataObject, goal: int) -> None:
        """A session has to pay."""
        log = data.draw(st.sampled_from(self.logs))
        log.shrink(goal)

        assert log.size <= goal

    @rule(seconds=st.sampled_from([1.0, 16.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        """Heartbeats are sent, completed streams expire."""
        self.clock.advance(seconds)
        self.budget.expire()

    @invariant()
    def sizes_add_up(self) -> None:
        """Entries make up the streams, the streams the logs, the logs and the overhead the budget."""
        if not self.models:
            return
        for model in self.models:
            assert model.stream.size == sum(len(b"".join(entry.parts)) for entry in model.stream.entries or ())
        for log in self.logs:
            assert log.size == sum(model.stream.size for model in self.models if model.log is log)
        entries = sum(len(offsets(model.stream)) for model in self.models)
        assert self.budget.used == sum(log.size for log in self.logs) + entries * ENTRY_OVERHEAD
        under_way = sum(len(model.text) for model in self.passing())
        assert 0 <= self.budget.held <= under_way
        assert self.budget.used + self.budget.held <= self.budget.limits.bytes_total

    @invariant()
    def readers_see_their_stream(self) -> None:
        """Each has an unbroken beginning of what follows its cursor, byte for byte, and nothing else."""
        for reader in self.readers:
            model, sink = reader.model, reader.sink
            expected = model.after(reader.start)
            sent, count = self.entries_of(reader)
            assert sent.startswith(b"".join(expected[:count]))
            half = self.unfinished(reader)
            if sink.is_over:
                texts = [*expected[count : count + 1], *model.texts, model.text]
                assert not half or (not sink.finished and any(text.startswith(half) for text in texts))
            else:
                assert model.text.startswith(half) if model.passage is not None else not half
            assert sink.is_over or sink.congested or count == len(expected), "a reader that keeps up has all"
            assert len(reader.reasons) == sink.is_over, "the end is told once"

    def entries_of(self, reader: Reader) -> tuple[bytes, int]:
        """Return what was sent to a client behind the opening, and how many entries that is."""
        writes = reader.sink.writes[1:]
        for at, write in enumerate(writes):
            if write == sse.HEARTBEAT:
                assert at == 0 or writes[at - 1].endswith((b"\n\n", sse.HEARTBEAT)), "a heartbeat inside a frame"
        sent = b"".join(write for write in writes if write != sse.HEARTBEAT)
        left, count = len(sent), 0
        for wire in reader.model.after(reader.start):
            left -= len(wire)
            if left < 0:
                break
            count += 1
        return sent, count

    def unfinished(self, reader: Reader) -> bytes:
        """Return what a client has of a frame whose end it was not sent."""
        sent, count = self.entries_of(reader)
        return sent[len(b"".join(reader.model.after(reader.start)[:count])) :]

    @invariant()
    def ids_are_unique(self) -> None:
        """No id of a log names two frames, priming frames among them; the proxy reads them all back."""
        frames: dict[str, bytes | None] = {}
        for reader in self.readers:
            for frame in reader.sink.frames:
                text = frame.id.decode()
                cursor = parse(text)
                assert cursor is not None
                assert (cursor.epoch, cursor.stream) == (reader.model.log.epoch, reader.model.stream.id)
                assert frames.setdefault(text, frame.data) == frame.data
                if frame.data:
                    assert cursor.offset in reader.model.wires
                else:
                    assert cursor.offset not in reader.model.wires
                if cursor.offset not in reader.model.given:
                    reader.model.given.append(cursor.offset)


TestLog = LogModel.TestCase
TestLog.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
