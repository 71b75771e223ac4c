"""The upstream's cursor of one call: when there is a next attempt, after which wait, and what it asks for."""

import json

import pytest
from support.fakes import make_context
from support.scenes import progress

from proxy.core import sse
from proxy.core.ids import call_stream
from proxy.relay.resumption import LONGEST_RETRY_SECONDS, Resumption
from proxy.store.memory import MemoryLog


def _delay(resumption: Resumption, *, is_clean: bool = False, attempts: int = 3) -> float | None:
    return resumption.next_delay(is_clean=is_clean, attempts=attempts, shortest=0.1)


def test_without_an_id_there_is_nothing_to_ask_with():
    """No cursor, no attempt, no request."""
    resumption = Resumption()
    resumption.note(sse.Frame(b"x"))

    assert not resumption.is_possible
    assert _delay(resumption) is None
    assert resumption.request([]) is None


def test_the_latest_id_is_asked_with():
    """A GET on a fresh connection, with the headers it was given."""
    resumption = Resumption()
    for event_id in (b"e1", b"e2"):
        resumption.note(sse.Frame(b"x", event_id))
    request = resumption.request([("Authorization", "Bearer x")])

    assert request is not None
    assert (request.method, request.body, request.fresh) == ("GET", b"", True)
    assert request.headers == [("Authorization", "Bearer x"), ("Last-Event-ID", "e2")]


@pytest.mark.parametrize("event_id", ["é".encode(), b"x" * 4097])
def test_an_id_that_fits_no_header_is_no_cursor(event_id: bytes):
    """It takes the older one's place, for that would ask for too much."""
    resumption = Resumption()
    resumption.note(sse.Frame(b"x", b"e1"))
    resumption.note(sse.Frame(b"x", event_id))

    assert not resumption.is_possible


def test_the_waits_after_cuts_grow_and_end():
    """As many attempts as configured, each later than the one before."""
    resumption = Resumption()
    resumption.note(sse.Frame(b"x", b"e1"))
    delays = [_delay(resumption) for _ in range(4)]

    assert delays[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert delays[3] is None


def test_an_id_counts_the_attempts_anew():
    """Whoever brings something may be asked again."""
    resumption = Resumption()
    for _ in range(10):
        resumption.note(sse.Frame(b"", b"e1"))

        assert _delay(resumption, attempts=1) == pytest.approx(0.1)
    assert _delay(resumption, attempts=1) is None


@pytest.mark.parametrize(("retry", "seconds"), [(None, 1.0), (2500, 2.5), (10**12, LONGEST_RETRY_SECONDS)])
def test_a_clean_end_is_met_again_after_its_retry(retry: int | None, seconds: float):
    """A second where none was named, and never longer than a client can be left without a word."""
    resumption = Resumption()
    resumption.note(sse.Frame(b"", b"e1", retry=retry))

    assert _delay(resumption, is_clean=True) == seconds


def test_repeated_progress_is_stale():
    """A value that is not above the last delivered one of its token is a repeat (semantics 13)."""
    ctx = make_context()
    log = MemoryLog("a" * 12, ctx.budget)  # type: ignore[arg-type]
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
