"""What must hold of every input, for the random tests and for the coverage-guided fuzzer.

The laws of the downstream edge are in the harness itself, which holds them in every case it plays.
"""

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from fuzz import model
from fuzz.harness import Course, Told, Upstream
from proxy.core import jsonrpc, sse
from proxy.core.jsonrpc import Kind
from proxy.upstream.base import Loss

# -- answers


def pairs(told: Told) -> model.Pairs:
    """Return the headers that were told, without what does not matter here.

    A head that was seen before is told with the length it had then, and blanks behind a value are not taken off.
    """
    named = [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in told.headers]
    return [(name, value.strip(b" \t")) for name, value in named if name != b"content-length"]


def assert_lawful(told: Told, data: bytes, *, reset: bool = False) -> None:
    """Hold what an exchange was told against what the model reads in the same bytes."""
    reading = model.answer(data)
    if told.end is Loss.BROKEN:
        return
    assert reading.end == "whole", f"{told} of {data!r}"
    message = reading.messages[-1]
    assert (told.status, told.body) == (message.status, message.body), data
    assert pairs(told) == [pair for pair in message.headers if pair[0] != b"content-length"], data
    # A body that only the end of the connection ends is never proven, and a reset does not end it.
    assert told.end is (not message.is_close_delimited)
    assert not (reset and message.is_close_delimited)
    # Bytes behind an answer cost the connection; it is their only effect.
    assert not (told.is_kept and (reading.rest or message.is_close_delimited))


def assert_constant(upstream: Upstream, data: bytes, pieces: Sequence[bytes], before: bytes) -> None:
    """Hold that neither what was learnt nor the segments change what an exchange is told."""
    whole = [data] if data else []
    upstream.forget()
    (cold,) = upstream.play(whole)
    upstream.forget()
    _, known = upstream.play([before], whole)
    (again,) = upstream.play(whole)
    (cut,) = upstream.play(pieces)
    upstream.forget()
    (fresh,) = upstream.play(pieces)
    has_more = model.answer(data).rest
    for told in (known, again, cut, fresh):
        if has_more and Loss.BROKEN in (told.end, cold.end):
            # What stands behind an answer may condemn it, if it comes with it.
            continue
        assert told.end is cold.end
        if told.end is not Loss.BROKEN:
            assert (told.status, pairs(told), told.body) == (cold.status, pairs(cold), cold.body)


# -- requests


def assert_alike(courses: Sequence[Course]) -> None:
    """Hold that every edge handed over the same requests and wrote the same answers.

    Where the last head has no end, an edge may refuse it before the others do; and an idle connection may end.
    """
    reading = model.requests(courses[0].sent)
    is_cut = bool(reading.rest) and b"\r\n\r\n" not in reading.rest
    told = []
    for course in courses:
        # A refusal shows a part of what was refused, as much as came with it.
        answers = [(each.status, each.body if each.status == 200 else b"") for each in course.answers.messages]
        told.append(
            (
                [(each.request.head.method, each.request.head.path, each.request.body) for each in course.asked],
                [answer for answer in answers if answer[0] != 400] if is_cut else answers,
                is_cut or course.is_closed or not any(status != 200 for status, _ in answers),
            )
        )

    assert told[1:] == told[:-1], told


# -- the stream codec and the envelope


LONGEST_FRAME = 64


def decoded(pieces: Sequence[bytes]) -> tuple[list[sse.Frame], bool, bool]:
    """Return the frames, whether one was too large, and whether the end is at a boundary."""
    decoder = sse.Decoder(LONGEST_FRAME)
    frames: list[sse.Frame] = []
    try:
        for piece in [*pieces, b""]:
            frames += decoder.feed(piece)
    except sse.FrameTooLarge:
        return frames, True, False
    return frames, False, decoder.is_at_boundary


def assert_frames_do_not_depend_on_segments(data: bytes, pieces: Sequence[bytes]) -> None:
    """Hold that frames are the same however they come, and are read back as they are written."""
    frames, is_too_large, is_at_boundary = decoded([data])

    assert decoded(pieces) == (frames, is_too_large, is_at_boundary)

    for frame in frames:
        assert frame.id is None or b"\0" not in frame.id
        if frame.data is not None:
            written = sse.encode(frame.id or b"1", frame.event, frame.data)
            (again,) = sse.Decoder(10 * LONGEST_FRAME).feed(written)

            assert (again.data, again.event) == (frame.data, frame.event)


def assert_envelope_is_true(body: bytes, dice: random.Random) -> None:
    """Hold that an envelope says what the whole body says, and that a value is replaced alone."""
    envelope = jsonrpc.classify(body)
    for reader in (
        jsonrpc.cancelled_id,
        jsonrpc.progress_of,
        jsonrpc.progress_token_of,
        jsonrpc.meta_protocol_version,
        jsonrpc.resource_uri,
        jsonrpc.log_level,
        jsonrpc.initialize_params,
        jsonrpc.initialize_result,
    ):
        reader(body)
    members = jsonrpc.split_batch(body)

    assert bool(members) is (envelope.kind is Kind.BATCH)

    if envelope.kind not in (Kind.REQUEST, Kind.NOTIFICATION, Kind.RESPONSE):
        assert envelope.id is None
        return
    try:
        message: Any = msgspec.json.decode(body)
    except ValueError:
        # Only the envelope is read: what is no text elsewhere is the upstream's to judge.
        return

    assert message.get("method") == envelope.method
    assert envelope.kind is Kind.NOTIFICATION or message.get("id") == envelope.id

    new_id = dice.choice((7, "seven", -1, '"\\'))
    if "id" in message:
        message["id"] = new_id

    assert msgspec.json.decode(jsonrpc.replace_id(body, new_id)) == message
