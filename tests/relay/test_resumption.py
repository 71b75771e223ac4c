"""How a broken upstream stream is asked for again: with which cursor, after what wait, how often."""

import json

import pytest

from proxy.core import sse
from proxy.core.ids import Epoch, call_stream
from proxy.relay.resumption import DEFAULT_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Resumption
from proxy.store.memory import MemoryLog
from support.fakes import make_context
from support.scenes import progress


def frame(text: bytes) -> sse.Frame:
    """Read one frame as the upstream writes it."""
    (read,) = sse.Decoder(1000).feed(text + b"\n\n")
    return read


def resumption(*frames: bytes) -> Resumption:
    """Return one that has seen frames."""
    made = Resumption()
    for text in frames:
        made.note(frame(text))
    return made


def delay(made: Resumption, *, is_clean: bool = True, attempts: int = 3, shortest: float = 0.1) -> float | None:
    """Ask for the next attempt."""
    return made.next_delay(is_clean=is_clean, attempts=attempts, shortest=shortest)


def test_without_a_cursor_there_is_nothing_to_ask() -> None:
    """Neither before the first frame nor for frames without an id."""
    for made in (resumption(), resumption(b"data: 1", b"retry: 5")):
        assert not made.is_possible
        assert delay(made) is None
        assert made.request([]) is None


def test_the_last_id_is_what_is_asked_with() -> None:
    """A GET on a connection of its own, with the caller's headers and the cursor behind them."""
    made = resumption(b"id: a\ndata: 1", b"data: 2", b"id: b-7\ndata:")
    request = made.request([("Authorization", "x")])

    assert made.is_possible
    assert request is not None
    assert (request.method, request.body, request.fresh) == ("GET", b"", True)
    assert request.headers == [("Authorization", "x"), ("Last-Event-ID", "b-7")]


@pytest.mark.parametrize("bad", [b"id:\ndata: 1", b"id: \xc3\xa9\ndata: 1", b"id: " + b"a" * 5000 + b"\ndata: 1"])
def test_an_id_that_cannot_come_back_is_no_cursor(bad: bytes) -> None:
    """Also where a usable one came before: the older one would repeat what has been seen since."""
    made = Resumption()
    made.note(frame(b"id: a\ndata: 1"))
    (read,) = sse.Decoder(10_000).feed(bad + b"\n\n")
    made.note(read)

    assert not made.is_possible
    assert delay(made) is None


def test_a_clean_end_waits_as_long_as_the_upstream_says() -> None:
    """`retry` is in milliseconds; without one a second is waited."""
    assert delay(resumption(b"id: a\ndata: 1")) == DEFAULT_RETRY_SECONDS
    assert delay(resumption(b"retry: 250\nid: a\ndata: 1")) == 0.25
    assert delay(resumption(b"retry: 250", b"id: a\ndata: 1", b"retry: 0")) == 0.0


def test_no_upstream_sends_a_call_to_sleep() -> None:
    """A `retry` of a day is cut to what a client lives through."""
    assert delay(resumption(b"id: a\nretry: 86400000\ndata: 1")) == LONGEST_RETRY_SECONDS


def test_a_cut_is_tried_again_soon_and_then_less_soon() -> None:
    """The first attempt after the shortest delay, each further one that much later, whatever `retry` says."""
    made = resumption(b"retry: 5000\nid: a\ndata: 1")

    assert [delay(made, is_clean=False) for _ in range(4)] == pytest.approx([0.1, 0.2, 0.3, None])


def test_attempts_that_bring_nothing_come_to_an_end() -> None:
    """Clean ends and cuts count alike; none are left at 0."""
    made = resumption(b"id: a\ndata: 1")

    assert delay(made, attempts=2) is not None
    assert delay(made, attempts=2, is_clean=False) is not None
    assert delay(made, attempts=2) is None
    assert delay(made, attempts=2, is_clean=False) is None
    assert delay(resumption(b"id: a\ndata: 1"), attempts=0) is None


def test_an_id_is_progress() -> None:
    """Attempts count anew, and so do their delays; frames without an id change nothing."""
    made = resumption(b"id: a\ndata: 1")
    delay(made, is_clean=False)
    delay(made, is_clean=False)
    made.note(frame(b"data: 2"))

    assert delay(made, is_clean=False) == pytest.approx(0.3)

    made.note(frame(b"id: b\ndata: 3"))

    assert delay(made, is_clean=False) == pytest.approx(0.1)


def test_a_stream_is_a_first_one_until_somebody_says_otherwise() -> None:
    """Whether frames may repeat is set by who resumes."""
    assert not Resumption().is_resumed


def test_repeated_progress_is_stale():
    """A value that is not above the last delivered one of its token is a repeat (semantics 13)."""
    ctx = make_context()
    log = MemoryLog(Epoch("a" * 12), ctx.budget)
    stream = log.open(call_stream(1), (1,))
    for value, token in ((1, "a"), (3, "a"), (2, "b")):
        log.append(stream, b"message", json.dumps(progress(value, token)).encode(), None)
    resumption = Resumption()
    verdicts = [
        resumption.is_stale(stream, json.dumps(progress(value, token)).encode())
        for value, token in ((2, "a"), (3, "a"), (3, "b"), (4, "a"), (4, "a"), (1, "c"))
    ]

    assert verdicts == [True, True, False, False, True, False]
    assert not resumption.is_stale(stream, b'{"jsonrpc":"2.0","method":"notifications/message"}')


def test_a_request_that_is_sent_again_starts_over() -> None:
    """Nothing of the first stream's cursor, wait and tries is left; what may be told twice is looked for."""
    made = resumption(b"id: e1\nretry: 9000\ndata: x")
    for _ in range(3):
        delay(made)
    made.resumed()

    assert made.may_repeat

    made.start_over()

    assert not made.is_possible
    assert not made.is_resumed
    assert made.may_repeat

    made.note(frame(b"id: f1\ndata: x"))

    assert [delay(made) for _ in range(4)] == [DEFAULT_RETRY_SECONDS] * 3 + [None]


def test_a_first_stream_repeats_nothing() -> None:
    """Only a resumed stream, or that of a request sent again, may tell what was told."""
    assert not Resumption().may_repeat
