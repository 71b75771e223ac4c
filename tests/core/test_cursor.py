"""Cursors: every id that was written is read back, and nothing that was not written is read at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.cursor import MAX_EVENT_ID_LENGTH, Cursor, event_id, parse
from proxy.core.ids import STANDALONE, call_stream

EPOCHS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=12)
NUMBERS = st.integers(min_value=0, max_value=2**63)
STREAMS = st.just(STANDALONE) | NUMBERS.map(call_stream)
EPOCH = "0123456789ab"


@given(EPOCHS, STREAMS, NUMBERS)
def test_an_event_id_is_read_back(epoch, stream, offset):
    """Writing and reading give the same cursor, in at most 64 visible ASCII characters."""
    text = event_id(epoch, stream, offset)

    assert parse(text) == Cursor(epoch, stream, offset)
    assert len(text) <= MAX_EVENT_ID_LENGTH
    assert text.isascii()
    assert text.isprintable()


@given(EPOCHS, STREAMS, NUMBERS, st.data())
def test_a_changed_event_id_is_refused_or_names_another_position(epoch, stream, offset, data):
    """One character changed, added or removed never yields the same cursor a second time."""
    text = event_id(epoch, stream, offset)
    at = data.draw(st.integers(0, len(text)))
    mid = data.draw(st.text(max_size=2))
    changed = text[:at] + mid + text[at + data.draw(st.integers(0, 1)) :]

    cursor = parse(changed)

    assert (changed == text) == (cursor == Cursor(epoch, stream, offset))
    if cursor is not None:
        assert event_id(cursor.epoch, cursor.stream, cursor.offset) == changed


@given(st.text() | st.text("0123456789abcs-", max_size=30))
def test_reading_never_fails(text):
    """Whatever a client sends gives a cursor or None."""
    cursor = parse(text)

    assert cursor is None or event_id(cursor.epoch, cursor.stream, cursor.offset) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{EPOCH}-s",
        f"{EPOCH}-s-",
        f"{EPOCH}-s-01",
        f"{EPOCH}-s--1",
        f"{EPOCH}-s-+1",
        f"{EPOCH}-s-1 ",
        f"{EPOCH}-s-1\n",
        f" {EPOCH}-s-1",
        f"{EPOCH}-s-1_0",
        f"{EPOCH}-s-1.0",
        f"{EPOCH}-s-\u0661",
        f"{EPOCH}-c-1",
        f"{EPOCH}-c01-1",
        f"{EPOCH}-c1-1-1",
        f"{EPOCH}-s1-1",
        f"{EPOCH}-x-1",
        f"{EPOCH}-C1-1",
        f"{EPOCH[:-1]}-s-1",
        f"{EPOCH}c-s-1",
        f"{EPOCH.upper()}-s-1",
        f"{EPOCH}-s-{'1' * 50}",
    ],
)
def test_malformed_event_ids_are_refused(text):
    """Wrong lengths, alphabets, stream kinds, signs and leading zeros are nobody's event id."""
    assert parse(text) is None


def test_the_longest_event_id_is_64_characters():
    """The limit itself is still accepted."""
    text = f"{EPOCH}-s-{'1' * 49}"

    assert len(text) == 64
    assert parse(text) is not None
