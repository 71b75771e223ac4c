"""The SSE codec: frames do not depend on chunks, lose nothing they say, and are read back as written."""

import re
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core import sse
from proxy.core.sse import Decoder, Frame, FrameTooLarge

LARGE = 1 << 20
TOKENS = [
    b"data",
    b"data: ",
    b"data:x",
    b"id",
    b"id: ",
    b"event: ",
    b"retry: ",
    b"12",
    b":",
    b": c",
    b" ",
    b"x",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xef",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"id: 1\nevent: e\ndata: d\n\n",
    b"event: e\r\nid: 1\r\ndata: d\r\n\r\n",
]
WIRES = st.lists(st.sampled_from(TOKENS), max_size=25).map(b"".join)


def model(wire):
    """Decode a whole stream by the letter of the standard, line by line."""
    lines = re.split(rb"\r\n|\r|\n", wire.removeprefix(b"\xef\xbb\xbf"))
    frames, data, fields = [], [], {}
    for line in lines[:-1]:
        if not line:
            frame = Frame(b"\n".join(data) if data else None, fields.get(b"id"), fields.get(b"event", b""))
            frame.retry = fields.get(b"retry")
            if frame != Frame():
                frames.append(frame)
            data, fields = [], {}
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"retry" and re.fullmatch(rb"[0-9]{1,15}", value):
            fields[name] = int(value)
        elif name == b"event" or (name == b"id" and b"\0" not in value):
            fields[name] = value
    return frames


def cut(wire, sizes):
    """Cut a stream into chunks of these sizes, the last one taking what remains."""
    chunks, at = [], 0
    for size in sizes:
        chunks.append(wire[at : at + size])
        at += size
    return [*chunks, wire[at:]]


def decode(chunks, limit=LARGE):
    """Decode chunks; return the frames and whether the limit was exceeded (an extra call will tell)."""
    decoder = Decoder(limit)
    frames = []
    try:
        for chunk in [*chunks, b""]:
            frames += decoder.feed(chunk)
    except FrameTooLarge:
        return frames, True
    return frames, False


@settings(max_examples=300)
@given(WIRES, st.lists(st.integers(0, 6), max_size=40))
def test_frames_do_not_depend_on_chunks(wire, sizes):
    """Whole, byte by byte or cut anywhere, a stream gives the frames that the standard's own steps give."""
    expected = model(wire)

    assert decode([wire]) == (expected, False)
    assert decode([bytes([byte]) for byte in wire]) == (expected, False)
    assert decode(cut(wire, sizes)) == (expected, False)


@settings(max_examples=300)
@given(WIRES, st.lists(st.integers(0, 6), max_size=40), st.integers(0, 12), st.integers(0, 8), st.integers(0, 8))
def test_large_frames_are_read_as_small_ones(wire, sizes, limit, small, large):
    """Frames, limit and boundary are the same wherever a frame begins to be handled as a large one."""
    expected = model(wire)
    bounded = decode([wire], limit)
    boundary = Decoder(LARGE)
    boundary.feed(wire)

    with patch.multiple(sse, _SMALL_FRAME_BYTES=small, LARGE_BYTES=large):
        for chunks in ([wire], [bytes([byte]) for byte in wire], cut(wire, sizes)):
            assert decode(chunks) == (expected, False)
            assert decode(chunks, limit) == bounded
            decoder = Decoder(LARGE)
            for chunk in chunks:
                decoder.feed(chunk)
            assert decoder.is_at_boundary == boundary.is_at_boundary


@settings(max_examples=300)
@given(st.lists(st.sampled_from([b"", *TOKENS]), max_size=12), st.sampled_from([5, 21, 24, LARGE]))
def test_a_chunk_that_is_one_frame_is_read_at_once_or_left_alone(chunks, limit):
    """Whichever way each chunk goes, the frames, the boundaries and the limit are the same."""
    quick, plain = Decoder(limit), Decoder(limit)
    for chunk in chunks:
        frame = quick.whole(chunk)
        if frame is not None:
            assert plain.feed(chunk) == [frame]
        else:
            results = []
            for decoder in (quick, plain):
                try:
                    results.append(decoder.feed(chunk))
                except FrameTooLarge:
                    results.append(None)
            assert results[0] == results[1]
        assert quick.is_at_boundary == plain.is_at_boundary


@pytest.mark.parametrize("chunk", [b"data: x\n\n", b"event: e\nid: 1\ndata: x\n\n", b"id: 1\ndata:\n\n"])
def test_the_first_chunk_is_read_at_once_as_well(chunk):
    """And so is every other; a stream that may begin with a byte order mark is not."""
    decoder = Decoder(LARGE)

    assert decoder.whole(chunk) == decoder.whole(chunk) == Decoder(LARGE).feed(chunk)[0]
    assert decoder.whole(b"\xef" + chunk) is None
    assert Decoder(LARGE).whole(b"\xef\xbb\xbf" + chunk) is None


@settings(max_examples=200)
@given(WIRES, st.lists(st.integers(0, 6), max_size=40), st.integers(0, 12))
def test_the_limit_does_not_depend_on_chunks(wire, sizes, limit):
    """The same frames are delivered before the same frame is found too large, however the bytes arrive."""
    expected = decode([wire], limit)

    assert decode([bytes([byte]) for byte in wire], limit) == expected
    assert decode(cut(wire, sizes), limit) == expected


@settings(max_examples=200)
@given(WIRES, st.lists(st.integers(0, 6), max_size=40))
def test_the_boundary_does_not_depend_on_chunks(wire, sizes):
    """Whether a stream may end here depends on its bytes alone, and at a boundary nothing is pending."""
    whole, parts = Decoder(LARGE), Decoder(LARGE)
    whole.feed(wire)
    for chunk in cut(wire, sizes):
        parts.feed(chunk)

    assert parts.is_at_boundary == whole.is_at_boundary
    if whole.is_at_boundary:
        assert whole.feed(b"\n\n") == []
        assert whole.feed(b"data: x\n\n") == [Frame(b"x")]


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_a_cut_at_any_place_changes_nothing(line_end):
    """Two cuts anywhere, with an empty chunk or none between, give the frames of the whole."""
    lines = [
        b"\xef\xbb\xbfdata: a",
        b": c",
        b"data:b",
        b"",
        b"",
        b": c",
        b"id: 1",
        b":",
        b"event: e",
        b"data",
        b"",
        b":",
    ]
    wire = line_end.join(lines) + line_end
    expected = (model(wire), False)
    for first in range(len(wire) + 1):
        for second in range(first, len(wire) + 1):
            assert decode([wire[:first], wire[first:second], wire[second:]]) == expected


@pytest.mark.parametrize(
    ("wire", "frame"),
    [
        (b"id: 7\n\n", Frame(id=b"7")),
        (b"id\n\n", Frame(id=b"")),
        (b"data:\n\n", Frame(b"")),
        (b"data\n\n", Frame(b"")),
        (b"data\ndata\n\n", Frame(b"\n")),
        (b"data:  x \n\n", Frame(b" x ")),
        (b"data:a:b\n\n", Frame(b"a:b")),
        (b"retry: 3000\n\n", Frame(retry=3000)),
        (b"retry: 3000\nid: 1\ndata:\n\n", Frame(b"", b"1", retry=3000)),
        (b"retry: 3e3\ndata: x\n\n", Frame(b"x")),
        (b"retry: -1\ndata: x\n\n", Frame(b"x")),
        ("retry: ٣\ndata: x\n\n".encode(), Frame(b"x")),
        (b"retry: " + b"9" * 5000 + b"\ndata: x\n\n", Frame(b"x")),
        (b"id: a\nid: b\ndata: x\n\n", Frame(b"x", b"b")),
        (b"id: a\nid: b\0\ndata: x\n\n", Frame(b"x", b"a")),
        (b"id: a\0\ndata: x\n\n", Frame(b"x")),
        (b"id: \xff\xfe\ndata: x\n\n", Frame(b"x", b"\xff\xfe")),
        (b"event: e\n\n", Frame(event=b"e")),
        (b"data: x\nevent: e\nid: 1\n\n", Frame(b"x", b"1", b"e")),
        (b"id: 1\nevent: e\nid: 2\ndata: x\n\n", Frame(b"x", b"2", b"e")),
        (b"id: 1\nevent: e\nid:\ndata: x\n\n", Frame(b"x", b"", b"e")),
        (b"data: x\nid: 1\ndata: y\n\n", Frame(b"x\ny", b"1")),
        (b": a\ndata: x\n: b\nfoo: bar\nDATA: z\n\n", Frame(b"x")),
        (b"\n\n\r\rdata: x\n\n", Frame(b"x")),
        (b"\xef\xbb\xbfdata: x\n\n", Frame(b"x")),
    ],
)
def test_single_blocks(wire, frame):
    """Each shape a block can have gives the frame it means."""
    assert Decoder(LARGE).feed(wire) == [frame]


@pytest.mark.parametrize(
    "wire", [b": ping\n\n", b":\n\n", b"foo: bar\n\n", b"event:\n\n", b"id: \0\n\n", b"retry: x\n\n"]
)
def test_blocks_that_say_nothing_are_no_frames(wire):
    """Comments and fields that are unknown, empty or ignored are no frame and belong to no later one."""
    assert Decoder(LARGE).feed(wire + b"data: x\n\n") == [Frame(b"x")]


def test_only_the_first_byte_order_mark_is_stripped():
    """A second mark, or one inside the stream, is a part of a field name and makes the field unknown."""
    assert Decoder(LARGE).feed(b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\ndata: y\n\n") == [Frame(b"y")]
    assert Decoder(LARGE).feed(b"data: x\n\n\xef\xbb\xbfdata: y\n\n") == [Frame(b"x")]


@pytest.mark.parametrize(
    ("wire", "is_at_boundary"),
    [
        (b"", True),
        (b"data: x\n\n", True),
        (b"data: x\r\r", True),
        (b"data: x\n\n\n", True),
        (b": c\n", True),
        (b"data: x\n\n: c\n", True),
        (b"\xef\xbb\xbf", True),
        (b"\xef\xbb", False),
        (b": c", False),
        (b"data: x\n", False),
        (b"data: x\n: c\n", False),
        (b"retry: 1\n", False),
        (b"d", False),
    ],
)
def test_boundaries(wire, is_at_boundary):
    """A stream is whole between blocks and after complete comments, and not within a line or a block."""
    decoder = Decoder(LARGE)
    decoder.feed(wire)

    assert decoder.is_at_boundary is is_at_boundary


def test_a_frame_at_the_limit_passes():
    """The limit counts the block without its blank line; comments are not counted."""
    block = b"data: " + b"x" * 94
    for wire in (
        block + b"\n\n",
        b": " + b"c" * 200 + b"\n" + block + b"\r\n: c\r\n\r\n",
        b"\n" + block + b"\n\n",
    ):
        assert decode([wire], 100) == ([Frame(b"x" * 94)], False)
        assert decode([bytes([byte]) for byte in wire], 100) == ([Frame(b"x" * 94)], False)


@pytest.mark.parametrize("head", [b"data: ", b"foo: "])
def test_one_byte_above_the_limit_is_too_much(head):
    """The limit is exact, for a frame that arrives whole as for one that arrives byte by byte."""
    wire = head.ljust(101, b"x") + b"\n\n"

    assert decode([wire], 100) == ([], True)
    assert decode([bytes([byte]) for byte in wire], 100) == ([], True)


@pytest.mark.parametrize("head", [b"data: ", b"foo: "])
def test_a_frame_above_the_limit_ends_decoding(head):
    """The frames before it are returned, then every call fails, and the stream is not at a boundary."""
    decoder = Decoder(100)

    assert decoder.feed(b"data: ok\n\n" + head + b"x" * 200 + b"\n\ndata: later\n\n") == [Frame(b"ok")]
    for _ in range(2):
        with pytest.raises(FrameTooLarge, match="100 bytes"):
            decoder.feed(b"data: more\n\n")
    assert not decoder.is_at_boundary


@pytest.mark.parametrize("chunk", [1000, 40_000, 90_000, LARGE])
@pytest.mark.parametrize("size", [3000, 100_000])
def test_the_limit_is_exact_for_large_frames(size, chunk):
    """At the limit a large frame passes and one byte above it does not, whatever chunks it comes in."""
    wire = b"data: " + b"x" * (size - 6) + b"\n\n"
    chunks = cut(wire, [chunk] * (len(wire) // chunk))

    assert decode(chunks, size) == ([Frame(b"x" * (size - 6))], False)
    assert decode(chunks, size - 1) == ([], True)


def test_a_frame_that_grows_above_the_limit_is_not_awaited():
    """The error comes as soon as the limit is passed, not with the end of the frame."""
    decoder = Decoder(100)
    decoder.feed(b"data: " + b"x" * 94)

    with pytest.raises(FrameTooLarge):
        decoder.feed(b"xx")


def test_comments_of_an_idle_stream_leave_nothing_behind():
    """Heartbeats without blank lines neither gather nor count, also while a block is open."""
    decoder = Decoder(20)
    decoder.feed(sse.opening_lines(5))
    for _ in range(100):
        assert decoder.feed(sse.HEARTBEAT) == []

    assert decoder.feed(b"data: x\n\n") == [Frame(b"x", retry=5)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [2000, 2100, 65_000, 70_000, 300_000])
@pytest.mark.parametrize("chunk", [1000, 65_536, LARGE])
def test_frames_of_every_size_are_whole(size, chunk, line_end):
    """A frame between others keeps its data, whether it comes at once or in chunks."""
    data = bytes(range(32, 127)) * (size // 95)
    wire = line_end.join([b"id: 1", b"event: e", b"data: " + data, b"", b"data: x", b"", b""])
    wire = b"data: a\n\n" + wire
    chunks = cut(wire, [chunk] * (len(wire) // chunk))

    assert decode(chunks) == ([Frame(b"a"), Frame(data, b"1", b"e"), Frame(b"x")], False)


@pytest.mark.parametrize("chunk", [1000, 65_536, LARGE])
@pytest.mark.parametrize("lines", [b"data: y\n", b"id: 2\n", b"event: f\nretry: 5\n", b": c\ndata\n"])
def test_lines_behind_a_large_one_count(lines, chunk):
    """A large data line is read with what stands behind it in the same block."""
    wire = b"id: 1\nevent: e\ndata: " + b"x" * 100_000 + b"\n" + lines + b"\n"

    assert decode(cut(wire, [chunk] * (len(wire) // chunk))) == (model(wire), False)


def test_a_space_at_the_edge_of_a_chunk_is_no_data():
    """The space behind the colon is taken off also where a large frame was cut in front of it."""
    data = b"x" * 100_000
    for head in (b"data:", b"data: "):
        assert decode([head, b" " + data, b"\n\n"]) == ([Frame(b" " * (head == b"data: ") + data)], False)


def test_comments_in_a_large_frame_are_taken_out():
    """Comments between large lines neither reach the data nor count."""
    line = b"data: " + b"x" * 100_000 + b"\n"
    wire = b": a\n" + line + b": " + b"c" * 100_000 + b"\n" + line + b":\n\n"

    for size in (LARGE, 50_000, 120_000):
        assert decode(cut(wire, [size] * (len(wire) // size)), 200_013) == (
            [Frame(b"x" * 100_000 + b"\n" + b"x" * 100_000)],
            False,
        )


def test_a_large_frame_in_pieces_is_whole():
    """Large and small pieces in turn are put together in order."""
    data = bytes(range(32, 127)) * 4000
    wire = b"id: 1\r\ndata: " + data + b"\r\n\r\n"
    sizes = [1, 2, 3, 5000, 1, 70000, 2, 2, 9000, 4096, 4095, 100000, *[1] * 5000]

    assert decode(cut(wire, sizes)) == ([Frame(data, b"1")], False)


BLOBS = st.lists(st.sampled_from([b"x", b" ", b":", b"\xff", b"\0", b"\n", b"\r", b"\r\n"])).map(b"".join)
EVENTS = st.sampled_from([b"", b"message", b"e e", b" e"])


@given(BLOBS, EVENTS, st.text("abc123-", min_size=1))
def test_what_is_encoded_is_read_back(data, event, event_id):
    """A frame comes back with its id, event and data; line ends inside the data come back as LF."""
    wire = sse.encode(event_id, event, data)
    lines = re.sub(rb"\r\n|\r", b"\n", data)

    assert Decoder(LARGE).feed(wire) == [Frame(lines, event_id.encode(), event)]
    assert sse.encode(event_id.encode(), event, data) == wire
    assert b"\r" not in wire


@settings(max_examples=50)
@given(BLOBS, EVENTS, st.text("abc123-", min_size=1), st.integers(0, 8))
@pytest.mark.interpreted
def test_parts_are_the_encoded_frame(data, event, event_id, large):
    """What is written in parts is together what is written whole."""
    with patch.object(sse, "LARGE_BYTES", large):
        parts = sse.encode_parts(event_id, event, data)

    assert b"".join(parts) == sse.encode(event_id, event, data)


@given(BLOBS, EVENTS, st.integers(0, 10**9))
def test_a_frame_is_the_same_by_its_offset(data, event, offset):
    """An event id whose parts are given apart makes the same frame."""
    assert sse.encode_at(b"e-s-", offset, event, data) == sse.encode(f"e-s-{offset}", event, data)


def test_the_id_of_a_frame_may_stand_last():
    """Head, data, further lines and closing are one frame, with or without an event."""
    for event in (b"", b"message"):
        wire = sse.head(event) + b"{" + sse.closing(b"\ndata: }", b"e-s-7")

        assert Decoder(LARGE).feed(wire) == [Frame(b"{\n}", b"e-s-7", event)]
    assert sse.closing(b"", b"e-s-7") == b"\nid: e-s-7\n\n"


def test_large_data_is_not_copied_to_be_written():
    """Large data without line ends is a part itself; a small frame is one part."""
    data = b"x" * 100_000

    assert any(part is data for part in sse.encode_parts("1", b"", data))
    assert sse.encode_parts("1", b"", b"x") == (b"id: 1\ndata: x\n\n",)


def test_the_form_of_an_encoded_frame():
    """Id, event and data stand in this order, and no event line where there is no event."""
    assert sse.encode("1", b"message", b"{}") == b"id: 1\nevent: message\ndata: {}\n\n"
    assert sse.encode("1", b"", b"a\r\nb\rc\n") == b"id: 1\ndata: a\ndata: b\ndata: c\ndata: \n\n"


def test_a_priming_frame_has_an_id_and_empty_data():
    """The first frame of a stream makes it resumable and sets the wait before a reconnection."""
    assert sse.priming_frame("e-s-0", 3000) == b"retry: 3000\nid: e-s-0\ndata:\n\n"
    assert Decoder(LARGE).feed(sse.priming_frame("e-s-0", 3000)) == [Frame(b"", b"e-s-0", retry=3000)]


def test_opening_and_heartbeat_dispatch_nothing():
    """What older clients get outside frames has no blank line, and joins the next frame as its hint."""
    wire = sse.opening_lines(250) + sse.HEARTBEAT

    assert wire == b": open\nretry: 250\n: keep-alive\n"
    assert b"\n\n" not in wire
    assert Decoder(LARGE).feed(wire + sse.encode("1", b"", b"x")) == [Frame(b"x", b"1", retry=250)]
