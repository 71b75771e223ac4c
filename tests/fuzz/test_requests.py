"""Random requests for every downstream edge: answered, refused or awaited in a bounded time, and never misread."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import model
from fuzz.grammar import CUTS, Built, requests, segments, spoiled
from fuzz.harness import FAULTS, HABITS, Downstream
from fuzz.laws import assert_alike
from support.http_fronts import KINDS

ENDINGS = ("stay", "stay", "close", "reset")
SLOW_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]

both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Downstream]]:
    """Make one server of every kind; its connections share nothing."""
    made = {kind: Downstream(kind) for kind in KINDS}
    yield made
    for server in made.values():
        server.close()


@st.composite
def conversations(draw: st.DrawFn) -> list[Built]:
    """Write some requests, often with the same head again."""
    several = draw(st.lists(requests(), min_size=1, max_size=3))
    if draw(st.booleans()):
        several += several[-1:] * draw(st.integers(1, 2))
    return several


def play_right(server: Downstream, built: list[Built], places: list[int], habits: list[str], turns: int) -> None:
    """Play requests that are right: each is handed over with its body, and answered."""
    data = b"".join(each.data for each in built)
    course = server.play(segments(data, places), habits=habits, turns=turns)
    # A connection ends behind the first request in chunks, as the library's parser would go on with its trailers.
    ends = [number for number, each in enumerate(built, 1) if "chunks" in each.framing]
    served = built[: ends[0]] if ends else built

    assert [(asked.request.head.method, asked.request.body) for asked in course.asked] == [
        (each.method, each.body) for each in served
    ]
    assert [message.status for message in course.answers.messages] == [200] * len(served)
    assert course.is_closed or not ends


RIGHT = (conversations(), CUTS, st.lists(st.sampled_from(HABITS), min_size=1, max_size=3), st.integers(0, 3))
SPOILED = (
    conversations().flatmap(lambda several: spoiled(b"".join(each.data for each in several))),
    CUTS,
    st.lists(st.sampled_from((*HABITS, *HABITS, *FAULTS)), min_size=1, max_size=3),
    st.sampled_from(ENDINGS),
    st.integers(0, 3),
)


@both
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(case=st.tuples(*RIGHT))
def test_requests_that_are_right_are_all_answered(
    servers: dict[str, Downstream], kind: str, case: tuple[list[Built], list[int], list[str], int]
) -> None:
    """Whatever the segments and however the handler answers: in their order, and each with its own body."""
    play_right(servers[kind], *case)


@both
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(case=st.tuples(*SPOILED))
def test_requests_that_are_spoiled_harm_nobody(
    servers: dict[str, Downstream], kind: str, case: tuple[bytes, list[int], list[str], str, int]
) -> None:
    """No exception, no hang, at most one answer each, and what is handed over is what every reader frames."""
    data, places, habits, ending, turns = case
    servers[kind].play(segments(data, places), habits=habits, ending=ending, turns=turns)


@settings(max_examples=200, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(case=st.tuples(*SPOILED))
def test_spoiled_requests_are_read_alike(
    servers: dict[str, Downstream], case: tuple[bytes, list[int], list[str], str, int]
) -> None:
    """Every edge hands over the same requests and writes the same answers, however the bytes were cut."""
    data, places, _, _, turns = case
    assert_alike([server.play(segments(data, places), turns=turns) for server in servers.values()])


def test_the_model_reads_what_the_grammar_writes() -> None:
    """The measure itself: what is right is whole, and each hostile form of it is a doubt."""
    right = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    reading = model.requests(right * 2)

    assert ([message.body for message in reading.messages], reading.end) == ([b"abc", b"abc"], "whole")

    for before, after in (
        (b"Length: 3", b"Length: +3"),
        (b"Length: 3", b"Length: 3\r\nContent-Length: 3"),
        (b"Length: 3", b"Length: 3\r\nTransfer-Encoding: chunked"),
        (b"Host: a\r\n", b"Host: a\n"),
        (b"Host: a", b"Host : a"),
        (b"Host: a", b"Host: a\r\n b"),
        (b"Host: a", b"Host: a\rb"),
    ):
        assert model.requests(right.replace(before, after)).messages == [], after

    assert model.requests(right[:-1]).end == "more"


@pytest.mark.long
@both
@settings(max_examples=3_000, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(case=st.tuples(*SPOILED))
def test_many_requests_that_are_spoiled_harm_nobody(
    servers: dict[str, Downstream], kind: str, case: tuple[bytes, list[int], list[str], str, int]
) -> None:
    """The same, more often."""
    data, places, habits, ending, turns = case
    servers[kind].play(segments(data, places), habits=habits, ending=ending, turns=turns)
