"""Ids: what is minted is legal, distinct for distinct entropy, and nothing else passes for a session id."""

import base64
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import ids


def test_stream_names_tell_their_kind():
    """A call stream is named after its number, and only the standalone stream is not a call stream."""
    assert ids.call_stream(0) == "c0"
    assert ids.call_stream(12) == "c12"
    assert ids.is_call_stream(ids.call_stream(12))
    assert not ids.is_call_stream(ids.STANDALONE)


@given(st.binary(min_size=24, max_size=24))
def test_a_session_id_keeps_all_its_entropy(entropy):
    """A minted session id is 32 legal characters of which all but a leading dash spell the 24 bytes."""
    session_id = ids.mint_session_id(entropy)

    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{31}", session_id)
    assert session_id == re.sub("^-", "_", base64.urlsafe_b64encode(entropy).decode())
    assert ids.is_legal_session_id(session_id)


def test_no_session_id_begins_with_a_dash():
    """A command line would take it for an option; only that first letter changes."""
    assert ids.mint_session_id(bytes([0xF8]) + bytes(23)) == "_" + "A" * 31


@pytest.mark.parametrize("length", [0, 23, 25])
def test_a_session_id_takes_exactly_24_bytes(length):
    """Entropy of another length is refused instead of giving a weaker or a padded id."""
    with pytest.raises(ValueError, match="24 bytes"):
        ids.mint_session_id(bytes(length))


@given(st.binary(min_size=12, max_size=12))
def test_an_epoch_is_twelve_characters_of_base_36(entropy):
    """A minted epoch has the fixed length and alphabet that a cursor relies on."""
    assert re.fullmatch(r"[0-9a-z]{12}", ids.mint_epoch(entropy))


def test_epochs_of_different_entropy_differ():
    """Every byte of the entropy counts, the first as much as the last, and no character comes up much more often."""
    epochs = {ids.mint_epoch(bytes(12 * [0])[:at] + b"\x01" + bytes(12 * [0])[at + 1 :]) for at in range(12)}
    spelled = Counter("".join(ids.mint_epoch(bytes([byte] * 12)) for byte in range(256)))

    assert len(epochs) == 12
    assert (len(spelled), min(spelled.values()), max(spelled.values())) == (36, 7 * 12, 8 * 12)


@pytest.mark.parametrize("length", [0, 11, 13])
def test_an_epoch_takes_exactly_12_bytes(length):
    """Entropy of another length is refused instead of giving a weaker or a longer tag."""
    with pytest.raises(ValueError, match="12 bytes"):
        ids.mint_epoch(bytes(length))


@pytest.mark.parametrize("text", ["!", "~", "a" * 256, "1f-~!x", "0"])
def test_visible_ascii_is_a_legal_session_id(text):
    """The whole range 0x21-0x7E is legal up to 256 characters."""
    assert ids.is_legal_session_id(text)


@pytest.mark.parametrize("text", ["", " ", "a b", "a\n", "\x7f", "é", "a" * 257, "\x20a", "a\r\nb"])
def test_anything_else_is_no_session_id(text):
    """Blank, control and other characters are refused, a trailing line end too."""
    assert not ids.is_legal_session_id(text)
