"""Random answers for the upstream connection: told as they are framed or not at all, and never to another exchange."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import model
from fuzz.grammar import CUTS, Built, answers, segments, spoiled
from fuzz.harness import Upstream
from fuzz.laws import assert_constant, assert_lawful
from proxy.upstream.base import Loss

SLOW_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Make what connections share."""
    made = Upstream()
    yield made
    made.close()


@st.composite
def conversations(draw: st.DrawFn) -> list[Built]:
    """Write some answers, often with the same head again and a body of another length."""
    several = draw(st.lists(answers(), min_size=1, max_size=3))
    if draw(st.booleans()):
        several += several * draw(st.integers(1, 2))
    return several


@settings(max_examples=200, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(built=conversations(), places=st.lists(CUTS, min_size=1, max_size=4), is_new=st.booleans())
def test_answers_that_are_right_are_told_whole(
    upstream: Upstream, built: list[Built], places: list[list[int]], is_new: bool
) -> None:
    """Status, headers and body of each, in whatever segments, whether or not its head was seen before."""
    if is_new:
        upstream.forget()
    pieces = [segments(each.data, places[number % len(places)]) for number, each in enumerate(built)]
    for each, told in zip(built, upstream.play(*pieces), strict=True):
        assert (told.status, told.body, told.end) == (each.status, each.body, each.framing != "close")
        assert_lawful(told, each.data)


SPOILED = answers().flatmap(lambda built: spoiled(built.data))


@settings(max_examples=400, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(right=conversations(), data=SPOILED, places=CUTS, reset=st.booleans(), is_new=st.booleans())
def test_answers_that_are_spoiled_are_told_as_framed_or_not_at_all(
    upstream: Upstream, right: list[Built], data: bytes, places: list[int], reset: bool, is_new: bool
) -> None:
    """Behind right ones on their connection: nothing raises, every exchange ends once, and nothing is made up."""
    if is_new:
        upstream.forget()
    before = [segments(each.data, places) for each in right if each.framing != "close"]
    told = upstream.play(*before, segments(data, places), reset=reset)[-1]

    assert_lawful(told, data, reset=reset)


@settings(max_examples=400, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(right=answers(), data=SPOILED, places=CUTS)
def test_what_was_learnt_and_where_it_is_cut_changes_nothing(
    upstream: Upstream, right: Built, data: bytes, places: list[int]
) -> None:
    """A connection that knows the heads, on segments, tells what a new one tells of the whole."""
    assert_constant(upstream, data, segments(data, places), before=right.data)


@settings(max_examples=200, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(built=answers(), behind=answers() | st.binary(min_size=1, max_size=20), places=CUTS)
def test_what_is_behind_an_answer_is_nobodys(
    upstream: Upstream, built: Built, behind: Built | bytes, places: list[int]
) -> None:
    """Another answer or junk, in its segment or later, ends the connection and reaches no exchange."""
    extra = behind if isinstance(behind, bytes) else behind.data
    if built.framing == "close" or not extra.strip(b"\r\n"):
        return
    own = [b"HTTP/1.1 200 OK\r\n", b"Content-Length: 3\r\n\r\nown"]
    told, following = upstream.play(segments(built.data + extra, places), own)

    assert not told.is_kept
    assert told.end in (True, Loss.BROKEN)
    assert told.end is not True or told.body == built.body
    assert (following.status, following.body, following.end) == (200, b"own", True)


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(data=SPOILED, places=CUTS, at=st.integers(1, 4))
def test_an_exchange_that_is_cut_hears_nothing_more(
    upstream: Upstream, data: bytes, places: list[int], at: int
) -> None:
    """Whatever comes behind, and its connection is never used again."""
    (told,) = upstream.play(segments(data, places), abort_at=at)

    assert not told.is_kept


def test_the_model_reads_what_the_grammar_writes() -> None:
    """The measure itself: what is right is whole, and each hostile form of it is a doubt."""
    right = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"

    assert (model.answer(right).end, model.answer(right).messages[-1].body) == ("whole", b"abc")
    assert model.answer(right + b"x").rest == b"x"
    assert model.answer(right[:-1]).end == "more"

    for before, after in (
        (b"Length: 3", b"Length: -3"),
        (b"Length: 3", b"Length: 3\r\nContent-Length: 4"),
        (b"Length: 3", b"Length: 3\r\nTransfer-Encoding: chunked"),
        (b"OK\r\n", b"OK\n"),
        (b"Content-Length: 3", b"Content-Length : 3"),
        (b"200 OK", b"099 OK"),
    ):
        assert model.answer(right.replace(before, after)).end == "doubt", after


@pytest.mark.long
@settings(max_examples=4_000, deadline=None, suppress_health_check=SLOW_CHECKS)
@given(right=conversations(), data=SPOILED, places=CUTS, reset=st.booleans())
def test_many_answers_that_are_spoiled_are_told_as_framed_or_not_at_all(
    upstream: Upstream, right: list[Built], data: bytes, places: list[int], reset: bool
) -> None:
    """The same, more often, to connections that have seen many heads."""
    before = [segments(each.data, places) for each in right if each.framing != "close"]
    told = upstream.play(*before, segments(data, places), reset=reset)[-1]

    assert_lawful(told, data, reset=reset)
