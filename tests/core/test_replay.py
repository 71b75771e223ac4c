"""The window of one stream against a plain list: contiguity, order, sizes, repeats that are recognised."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import sse
from proxy.core.ids import STANDALONE, Offset, call_stream
from proxy.core.replay import Entry, Stream

OPERATIONS = st.lists(st.integers(1, 3) | st.sampled_from(["drop", "skip"]), max_size=40)
"""A number appends an entry so many offsets later, as other streams use offsets too."""


def entry(offset: int, data: bytes = b"{}", upstream_id: bytes | None = None, event: bytes = b"message") -> Entry:
    """Return an entry as the log writes it."""
    wire = sse.encode(f"e-s-{offset}", event, data)
    return Entry(Offset(offset), wire, upstream_id)


def large(offset: int, data: bytes, upstream_id: bytes | None = None, event: bytes = b"message") -> Entry:
    """Return an entry that was passed on in parts: its id stands behind its data."""
    half = len(data) // 2
    rest = (data[:half], data[half:], sse.closing(b"", b"e-s-%d" % offset))
    parts = (sse.head(event), *rest)
    return Entry(Offset(offset), parts[0], upstream_id, rest)


def filled(*offsets: int, start: int = 0) -> Stream:
    """Return a stream that holds these offsets."""
    stream = Stream(STANDALONE, Offset(start), ())
    for offset in offsets:
        stream.append(entry(offset))
    return stream


def offsets(entries: list[Entry]) -> list[int]:
    """Return where the entries are."""
    return [found.offset for found in entries]


@given(st.integers(0, 5), OPERATIONS, st.integers(0, 150), st.integers(0, 150))
def test_a_window_is_the_end_of_the_list(start: int, operations: list[int | str], cursor: int, committed: int) -> None:
    """After any appends and drops a cursor has exactly what follows it, or a gap where something is lost."""
    stream = Stream(call_stream(1), Offset(start), (1,))
    history: list[Entry] = []
    dropped = 0
    for operation in operations:
        if isinstance(operation, int):
            history.append(entry((history[-1].offset if history else start) + operation))
            stream.append(history[-1])
        elif operation == "skip":
            history.append(entry((history[-1].offset if history else start) + 2))
            stream.skip(history[-1].offset)
            dropped = len(history)
        else:
            size = stream.drop_oldest()
            assert size == (len(history[dropped].wire) if dropped < len(history) else 0)
            dropped = min(dropped + 1, len(history))
    kept = history[dropped:]

    assert list(stream.entries or ()) == kept
    assert stream.size == sum(len(found.wire) for found in kept)
    assert stream.last == (history[-1].offset if history else start)
    assert stream.has_gap(Offset(cursor)) == (
        cursor < start or any(found.offset > cursor for found in history[:dropped])
    )
    if not stream.has_gap(Offset(cursor)):
        assert stream.after(Offset(cursor), Offset(committed)) == [
            found for found in history if cursor < found.offset <= committed
        ]


def test_a_stream_without_entries_costs_no_ring() -> None:
    """A new stream has nothing after any cursor and drops nothing."""
    stream = Stream(STANDALONE, Offset(7), ())

    assert stream.entries is None
    assert stream.after(Offset(0), Offset(99)) == []
    assert stream.drop_oldest() == 0
    assert stream.floor == stream.last == stream.delivered == 7


def test_a_window_is_a_list_until_it_drops() -> None:
    """A list is smaller while it is short, a deque quicker where the oldest has to go; neither is seen from outside."""
    stream = filled(1, 2, 3)

    assert isinstance(stream.entries, list)

    stream.drop_oldest()

    assert isinstance(stream.entries, deque)
    assert offsets(stream.after(Offset(0), Offset(3))) == [2, 3]


def test_a_stream_dropped_to_nothing_still_tells_its_gap() -> None:
    """Who has seen the last entry misses nothing; who has not, does, though nothing is retained."""
    stream = filled(3)
    stream.drop_oldest()

    assert stream.after(Offset(2), Offset(3)) == []
    assert stream.has_gap(Offset(2))
    assert not stream.has_gap(Offset(3))


def test_what_is_not_committed_is_not_sent() -> None:
    """A reader gets nothing above the committed offset, and the rest later."""
    stream = filled(1, 2, 3)

    assert offsets(stream.after(Offset(0), Offset(2))) == [1, 2]
    assert offsets(stream.after(Offset(2), Offset(3))) == [3]


def test_an_offset_without_an_entry_is_a_cursor_like_others() -> None:
    """A cursor between two entries, as a priming frame hands out, has what follows it."""
    stream = filled(1, 5)

    assert offsets(stream.after(Offset(3), Offset(5))) == [5]


@pytest.mark.parametrize(
    ("terminal", "held", "found"), [(None, (1, 2), None), (2, (1, 2), 2), (2, (), None), (2, (1,), None)]
)
def test_the_terminal_entry_is_found_while_it_is_retained(
    terminal: int | None, held: tuple[int, ...], found: int | None
) -> None:
    """A live stream has none, an empty one neither, and no other entry is taken for it."""
    stream = filled(*held)
    stream.terminal = Offset(terminal) if terminal is not None else None

    ended_by = stream.terminal_entry

    assert (ended_by.offset if ended_by is not None else None) == found


def test_an_entry_tells_its_frame() -> None:
    """What it says is read from its bytes, whether it is in one piece or in parts, with its id first or last."""
    one, other = entry(1, b'{"a":1}'), large(2, b'{"a":1}')

    assert one.frame == sse.Frame(b'{"a":1}', b"e-s-1", b"message")
    assert other.frame == sse.Frame(b'{"a":1}', b"e-s-2", b"message")
    assert (one.parts, one.size) == ((one.wire,), len(one.wire))
    assert (b"".join(other.parts), other.size) == (b'event: message\ndata: {"a":1}\nid: e-s-2\n\n', 40)


def test_a_large_entry_counts_whole() -> None:
    """All parts of an entry make up the stream's size, and leave it together."""
    stream = filled(1)
    before = stream.size
    stream.append(large(2, b"x" * 1000))

    assert stream.size == before + stream.entries[-1].size
    assert stream.entries[-1].size == len(b"".join(stream.entries[-1].parts)) > 1000

    stream.drop_oldest()

    assert stream.drop_oldest() > 1000
    assert stream.size == 0


@pytest.mark.parametrize(
    ("frame", "is_held"),
    [
        (sse.Frame(b"one", b"u-1", b"message"), True),
        (sse.Frame(b"two\nlines", b"u-2", b""), True),
        (sse.Frame(b"one", b"u-2", b"message"), False),
        (sse.Frame(b"two", b"u-1", b"message"), False),
        (sse.Frame(b"one", b"u-1", b"other"), False),
        (sse.Frame(b"one", None, b"message"), False),
        (sse.Frame(None, b"u-1", b"message"), False),
        (sse.Frame(b"three", b"u-3", b"message"), False),
        (sse.Frame(b"four", b"u-4", b"message"), True),
        (sse.Frame(b"four", b"u-4", b"other"), False),
    ],
)
def test_a_frame_is_a_repeat_by_id_and_payload(frame: sse.Frame, is_held: bool) -> None:
    """Only the same upstream id with the same payload is the same frame: servers reuse ids."""
    stream = Stream(STANDALONE, Offset(0), ())
    stream.append(entry(1, b"one", b"u-1"))
    stream.append(entry(2, b"two\nlines", b"u-2", event=b""))
    stream.append(entry(3, b"three"))
    stream.append(large(4, b"four", b"u-4"))

    assert stream.holds(frame) is is_held


def test_an_empty_window_holds_no_repeat() -> None:
    """Nothing was sent, so nothing is sent twice."""
    assert not filled().holds(sse.Frame(b"one", b"u-1"))
