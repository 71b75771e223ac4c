"""The names of things: session, stream, offset, epoch, generation, and the alphabets of their texts.

Minting takes entropy as an argument, because nothing in core may draw randomness. The NewTypes keep a proxy
id and an upstream id from being swapped silently: the type checker refuses the one where the other is
wanted.
"""

import binascii
import re
from typing import Final, NewType, TypeAlias

SessionId = NewType("SessionId", str)
"""The id this proxy minted; the only one a client ever sees."""
UpstreamSessionId = NewType("UpstreamSessionId", str)
"""The id the upstream gave; opaque, and never shown to a client."""
StreamId = NewType("StreamId", str)
"""`s` for the standalone stream, `c<number>` for the stream of one POST."""
Offset = NewType("Offset", int)
"""Position in a session's log; counts through the whole session, so streams interleave it."""
Epoch = NewType("Epoch", str)
"""The incarnation of a session's log; changes only when history was lost."""
Generation = NewType("Generation", int)
"""Counts the bindings of a session to upstream sessions; never part of an event id."""
EventId = NewType("EventId", str)
"""The text a client echoes in `Last-Event-ID`; `cursor` reads and writes it."""
RequestId: TypeAlias = int | str
"""A JSON-RPC request id. `1` and `"1"` are different ids."""

STANDALONE: Final = StreamId("s")

SESSION_ENTROPY_BYTES: Final = 24
EPOCH_ENTROPY_BYTES: Final = 12

# The first four are a seventh more likely, which costs a hundredth of a bit; arithmetic takes ten times as long.
_BASE36: Final = bytes(b"0123456789abcdefghijklmnopqrstuvwxyz"[byte % 36] for byte in range(256))
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_LEGAL_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,256}")


def call_stream(number: int) -> StreamId:
    """Name the stream of the session's `number`-th streamed POST."""
    return StreamId(f"c{number}")


def is_call_stream(stream: StreamId) -> bool:
    """Tell a call stream from the standalone stream."""
    return stream != STANDALONE


def mint_session_id(entropy: bytes) -> SessionId:
    """Spell 24 random bytes (192 bits) as 32 characters of base64url.

    The transport asks for an id that is globally unique, cryptographically secure and within 0x21-0x7E; 24
    bytes need no padding, so that no `=` has to be cut off.
    """
    if len(entropy) != SESSION_ENTROPY_BYTES:
        raise ValueError(f"a session id takes {SESSION_ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    text = binascii.b2a_base64(entropy, newline=False).translate(_URL_SAFE).decode("ascii")
    # A command line takes what begins with a dash for an option.
    return SessionId(f"_{text[1:]}" if text[0] == "-" else text)


def mint_epoch(entropy: bytes) -> Epoch:
    """Spell 12 random bytes as 12 characters of [0-9a-z] (62 bits)."""
    if len(entropy) != EPOCH_ENTROPY_BYTES:
        raise ValueError(f"an epoch takes {EPOCH_ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    return Epoch(entropy.translate(_BASE36).decode("ascii"))


def is_legal_session_id(text: str) -> bool:
    """Tell whether `text` can be a session id: visible ASCII (transport spec), up to 256 of it (ours)."""
    return _LEGAL_SESSION_ID.fullmatch(text) is not None
