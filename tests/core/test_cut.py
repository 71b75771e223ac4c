"""Frames in parts: together they are the frame that comes whole without, however the stream was cut into chunks."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core import cut as c
from proxy.core import sse
from proxy.core.cut import Beginning, CuttingDecoder, Ending, Part
from proxy.core.sse import Decoder, Frame, FrameTooLarge

LARGE = 1 << 20
TOKENS = [
    b"data",
    b"data: ",
    b"data:x",
    b"data: abc",
    b"data: abcdefghijklmn",
    b"opqrstuvw",
    b"id: 1",
    b"id: 2\n",
    b"\nid: 3",
    b"event: e",
    b"event: f\n",
    b"\nevent: g",
    b"\nevent",
    b"retry: 12",
    b"\n: c",
    b":",
    b" ",
    b"\0",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"id: 1\nevent: e\ndata: d",
]
WIRES = st.lists(st.sampled_from(TOKENS), max_size=25).map(b"".join)
SIZES = st.lists(st.integers(0, 12), max_size=40)


def chunks_of(wire, sizes):
    """Cut a stream into chunks of these sizes, the last one taking what remains; an empty one asks for a late error."""
    chunks, at = [], 0
    for size in sizes:
        chunks.append(wire[at : at + size])
        at += size
    return [*chunks, wire[at:], b""]


def whole(chunks, limit):
    """Decode without cutting; return the frames and whether the limit was exceeded."""
    decoder, frames = Decoder(limit), []
    try:
        for chunk in chunks:
            frames += decoder.feed(chunk)
    except FrameTooLarge:
        return frames, True
    return frames, False


def on_the_wire(beginning, parts, ending):
    """Put the parts of a frame together as a client gets them, and decode them there."""
    text = b"".join([sse.head(beginning.event), *parts, sse.closing(c.lines_behind(beginning, ending), b"x")])
    [frame] = Decoder(LARGE).feed(text)
    assert frame.id == b"x"
    return Frame(frame.data, ending.id, frame.event, ending.retry)


def through(chunks, limit, cut_bytes, choices):
    """Decode with cutting, taking the offers that *choices* name; return what `whole` returns."""
    decoder = CuttingDecoder(limit, cut_bytes)
    frames, parts, beginning = [], [], None
    choices = iter(choices)
    try:
        for chunk in chunks:
            items = decoder.feed(chunk)
            for place, item in enumerate(items):
                if type(item) is Beginning:
                    assert place == len(items) - 1
                    if next(choices, True):
                        beginning, parts = item, decoder.cut()
                        assert all(parts)
                        assert b"".join(parts).startswith(item.data)
                elif type(item) is Part:
                    assert place == 0
                    assert item == Part(item.data)
                    assert item.data
                    parts.append(item.data)
                elif type(item) is Ending:
                    frames.append(on_the_wire(beginning, parts, item))
                    beginning = None
                else:
                    assert type(item) is Frame
                    assert beginning is None
                    frames.append(item)
    except FrameTooLarge:
        return frames, True
    return frames, False


@settings(max_examples=500)
@given(WIRES, SIZES, st.integers(0, 20), st.lists(st.booleans(), max_size=6))
def test_parts_are_the_whole_frame(wire, sizes, cut_bytes, choices):
    """Cut through or not, each frame says what it says without cutting."""
    chunks = chunks_of(wire, sizes)
    expected = whole([wire], LARGE)

    assert through(chunks, LARGE, cut_bytes, choices) == expected
    assert through([bytes([byte]) for byte in wire], LARGE, cut_bytes, choices) == expected


@settings(max_examples=500)
@given(WIRES, SIZES, st.integers(0, 20), st.lists(st.booleans(), max_size=6), st.integers(0, 30))
def test_the_limit_holds_over_the_whole_frame(wire, sizes, cut_bytes, choices, limit):
    """A frame that is too large is so with what is gone already, and what came before it is returned."""
    chunks = chunks_of(wire, sizes)
    expected = whole([wire, b""], limit)

    assert through(chunks, limit, cut_bytes, choices) == expected
    assert through([*(bytes([byte]) for byte in wire), b""], limit, cut_bytes, choices) == expected


@settings(max_examples=200)
@given(WIRES, SIZES, st.integers(0, 20))
def test_the_boundary_is_where_it_is_without_cutting(wire, sizes, cut_bytes):
    """A stream that ends inside a frame that is cut through is not whole."""
    plain, cutting = Decoder(LARGE), CuttingDecoder(LARGE, cut_bytes)
    plain.feed(wire)
    for chunk in chunks_of(wire, sizes):
        items = cutting.feed(chunk)
        if items and type(items[-1]) is Beginning:
            cutting.cut()

    assert cutting.is_at_boundary == plain.is_at_boundary


@pytest.mark.parametrize("size", [7, 1000, 65_536, 256_000, 400_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_large_frame_comes_in_parts(size, line_end):
    """A megabyte between small frames is offered once, and from then on whatever is there goes out."""
    data = bytes(range(32, 127)) * 11_000
    lines = [b"data: a", b"", b"event: e", b"id: 7", b"data: " + data, b"", b"data: b", b"", b""]
    wire = line_end.join(lines)
    decoder = CuttingDecoder(LARGE * 2, 300_000)
    items, parts, gone, start = [], [], 0, wire.index(data)
    for at in range(0, len(wire), size):
        for item in decoder.feed(wire[at : at + size]):
            more = decoder.cut() if type(item) is Beginning else [item.data] if type(item) is Part else []
            if type(item) is not Part:
                items.append(item)
            parts += more
            gone += sum(map(len, more))
        fed = min(at + size, len(wire)) - start
        if fed > 300_000:
            assert gone == min(fed, len(data))

    first, beginning, ending, last = items
    assert (first, last) == (Frame(b"a"), Frame(b"b"))
    assert beginning == Beginning(beginning.data, b"7", b"e")
    assert data.startswith(beginning.data)
    assert 4000 < len(beginning.data) < c.SHOWN_BYTES
    assert ending == Ending(b"", b"7", b"e")
    assert b"".join(parts) == data


def offered(*chunks, cut_bytes=10, limit=1000):
    """Feed chunks; return the decoder and the last list of items."""
    decoder = CuttingDecoder(limit, cut_bytes)
    items = []
    for chunk in chunks:
        items = decoder.feed(chunk)
    return decoder, items


@pytest.mark.parametrize(
    "chunks",
    [
        (b"data: 12345678901",),
        (b"data", b": 12345678901"),
        (b"data: ", b"12345678901"),
        (b"id: 1\ndata: 12345",),
        (b"event: e\nid: 1\ndata: 1",),
        (b": comment\ndata: 12345",),
        (b"data: x\n\nid: 1\r\ndata: 12",),
    ],
)
def test_what_is_offered(chunks):
    """Any frame above the mark whose head is common and whose one data line goes on is offered."""
    _, items = offered(*chunks)

    assert type(items[-1]) is Beginning


@pytest.mark.parametrize(
    "chunks",
    [
        (b"data: 1234",),
        (b"data: 1234\n\n",),
        (b"data: 123456789012345\n\n",),
        (b"data: 123456789012345\n",),
        (b"data: 1\ndata: 123456789012345",),
        (b"retry: 1\ndata: 123456789012345",),
        (b"id: 123456789012345\ndata:",),
        (b"id: 123456789012345\0\ndata: x",),
        (b"foo: 123456789012345",),
        (b": 123456789012345",),
        (b"event: " + b"e" * 5000 + b"\ndata: x",),
        (b"event: e\ndata: " + b"x" * 5000, b"\nid: 2"),
    ],
)
def test_what_is_not_offered(chunks):
    """Small frames, whole ones and those of another form come whole."""
    size = sum(map(len, chunks))
    _, items = offered(*chunks, cut_bytes=10 if size < 5000 else size - 1, limit=LARGE)

    assert not any(type(item) is Beginning for item in items)


def test_an_offer_that_is_not_taken_is_made_once():
    """Whoever does not cut gets the frame whole, and the next large frame is offered again."""
    decoder, items = offered(b"data: 1234", b"56789012")

    assert type(items[-1]) is Beginning
    assert decoder.feed(b"3456") == []
    with pytest.raises(AssertionError):
        decoder.cut()
    assert decoder.feed(b"\n\n") == [Frame(b"1234567890123456")]
    assert [type(item) for item in decoder.feed(b"data: 1\n\ndata: 12345678901")] == [Frame, Beginning]


def test_lines_behind_the_data():
    """A further data line goes out as text, a later event counts, an id and a retry are told and not sent."""
    decoder, [beginning] = offered(b"id: 1\nevent: e\ndata: 1234567890")
    parts = decoder.cut()
    [part, ending] = decoder.feed(b"xyz\nid: 2\ndata: more\n: comment\nevent: f\nretry: 5\ndata\n\n")

    assert parts == [b"1234567890"]
    assert part == Part(b"xyz")
    assert ending == Ending(b"\nmore\n", b"2", b"f", 5)
    assert c.lines_behind(beginning, ending) == b"\ndata: more\ndata: \nevent: f"


def test_an_event_that_is_taken_back():
    """An empty event line behind the data makes the frame one without an event."""
    decoder, [beginning] = offered(b"event: e\ndata: 1234567890")
    parts = decoder.cut()
    [ending] = decoder.feed(b"\nevent:\n\n")

    assert on_the_wire(beginning, parts, ending) == Frame(b"1234567890")


def test_a_frame_that_grows_too_large_while_it_goes_out():
    """The limit is met in the middle of a frame, and the decoder takes nothing more."""
    decoder, _ = offered(b"data: 1234567890", limit=100)
    decoder.cut()

    assert decoder.feed(b"x" * 84) == [Part(b"x" * 84)]
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"xx")
    assert not decoder.is_at_boundary
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\n\n")


@pytest.mark.parametrize("tail", [b"", b"\nid: 12", b"\ndata: abc", b"\nretry: 5\n: comment"])
def test_the_limit_counts_what_is_gone_and_what_follows(tail):
    """Data that went out and lines behind it are one frame for the limit; the next frame counts anew."""
    frame = b"data: " + b"x" * 60 + tail.removesuffix(b"\n: comment")
    following = b"data: " + b"y" * (len(frame) - 12) + b"\ndata\n\n"

    fitting, _ = offered(frame[:20], limit=len(frame))
    fitting.cut()
    tight, _ = offered(frame[:20], limit=len(frame) - 1)
    tight.cut()

    assert fitting.feed(frame[20:66]) == tight.feed(frame[20:66]) == [Part(b"x" * 46)]
    assert [type(item) for item in fitting.feed(tail + b"\n\n" + following)] == [Ending, Frame]
    with pytest.raises(FrameTooLarge):
        tight.feed(tail + b"\n\n" + following)


def test_a_head_that_fills_its_piece_leaves_no_empty_part():
    """Where the data begins with a piece of its own, that piece is the first part."""
    data = b"x" * 5000
    decoder, _ = offered(b"id: 1\ndata: ", data, limit=LARGE, cut_bytes=4000)

    assert decoder.cut() == [data]


def test_chunks_are_passed_on_without_a_copy():
    """A chunk inside the data line is the part itself, and so is every piece that waited, but for the first."""
    pieces = [b"data: " + b"x" * 5000, b"y" * 5000, b"z" * 5000]
    decoder, _ = offered(*pieces, cut_bytes=12_000, limit=LARGE)
    parts = decoder.cut()
    chunk = b"c" * 5000
    [part] = decoder.feed(chunk)

    assert [parts[1] is pieces[1], parts[2] is pieces[2], part.data is chunk] == [True, True, True]


@pytest.mark.interpreted
def test_small_frames_are_not_looked_at():
    """Nothing is asked of frames below the mark."""
    with patch.object(CuttingDecoder, "_grown", side_effect=AssertionError):
        assert CuttingDecoder(LARGE).feed(b"data: " + b"x" * 200_000 + b"\n\n") == [Frame(b"x" * 200_000)]
