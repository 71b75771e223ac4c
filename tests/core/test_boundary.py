"""Whole frames: what is given out ends at a boundary, whatever the pieces, and nothing is changed, lost or doubled."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.core import sse
from proxy.core.boundary import WholeFrames

FRAMES = st.lists(st.sampled_from([b"data: one", b"id: 1\ndata: two", b": comment", b"data: a\rdata: b"]), min_size=1)
ENDS = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])


@given(FRAMES, ENDS, st.data())
def test_the_pieces_do_not_matter(frames: list[bytes], end: bytes, data: st.DataObject) -> None:
    """Everything comes out in its order, each time up to the end of a frame and no further."""
    stream = b"".join(frame + end for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, whole = sse.Decoder(1 << 20), WholeFrames()
    given_out = b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        piece = stream[start:stop]
        if piece:
            decoder.feed(piece)
            given_out += whole.take(piece, is_at_boundary=decoder.is_at_boundary)
            assert stream.startswith(given_out)
            fresh = sse.Decoder(1 << 20)
            fresh.feed(given_out)
            assert fresh.is_at_boundary

    assert given_out == stream


def test_a_frame_under_way_is_held_back() -> None:
    """Its beginning comes with its end."""
    whole = WholeFrames()

    assert whole.take(b"data: one\n\ndata: tw", is_at_boundary=False) == b"data: one\n\n"
    assert whole.take(b"o\n", is_at_boundary=False) == b""
    assert whole.take(b"\n", is_at_boundary=True) == b"data: two\n\n"
