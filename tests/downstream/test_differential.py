"""Which path served a request cannot be seen: every case of the corpus through every edge, laid side by side.

Compared is all that anybody sees: the answers with their headers in order, whether the connection goes on, what the
sessions were handed, and what reached the upstream. `DIFFERENCES` says where the edges differ lawfully.
"""

import asyncio
import logging
from collections.abc import Iterator

import pytest
import uvloop

from support.http_corpus import CASES, HOST_MARK, LATE_CASES, PING, Case, post
from support.http_fronts import KINDS, PATIENCE_SECONDS, Client, Course, Front, play

MEASURE = KINDS[-1]
"""The edge that the others are held against."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

DIFFERENCES = {
    # aiohttp writes text, and leaves out what is none; the byte that came is the better answer.
    "answer: value in Latin-1": "a header's bytes beyond UTF-8",
    "modern answer: value in Latin-1": "a header's bytes beyond UTF-8",
    # Fields of different names have no order (RFC 9110, 5.3).
    "defect of our own": "order of headers",
    # aiohttp shows a part of what it could not read, as much as came in one segment.
    "call cut in its body, then no HTTP": "words of a refusal",
    # Both are an end without an answer to rely on; whatever the handler said before it failed may be gone or not.
    "defect of our own behind the head": "answers and end",
    "defect of our own behind the answer": "answers and end",
}
"""Cases that the edges take differently, and in what."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The library logs a traceback for whatever is no HTTP."""
    logger = logging.getLogger("aiohttp.server")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


def comparable(course: Course, case: Case) -> list[str]:
    """Return what of a course is compared."""
    difference = DIFFERENCES.get(case.name)
    if difference == "answers and end":
        return course.passed[: course.passed.index(f"handed:   {course.handed[0][3]!r}")]
    lines = [*course.seen, *course.passed]
    if difference == "words of a refusal":
        return [*(f"{told.first_line!r}" for told in course.answers), course.end, *course.passed]
    if difference == "order of headers":
        return sorted(lines)
    if difference == "a header's bytes beyond UTF-8":
        return [line.replace("\\xe9", "") for line in lines]
    return lines


def assert_alike(case: Case, loop: str, *, is_kept: bool, patience_seconds: float = 30.0) -> None:
    """Play a case through every edge and compare."""

    async def courses() -> dict[str, Course]:
        found = {}
        for kind in KINDS:
            async with Front(kind, head_timeout_seconds=patience_seconds) as front:
                if is_kept:
                    # What a server has learnt of one connection must not matter to the next.
                    await play(front, case, is_kept=False)
                found[kind] = await play(front, case, is_kept=is_kept)
        return found

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        found = runner.run(courses())
    measure = found.pop(MEASURE)

    assert measure.end != "silent", "the case itself does not say what ends it"

    for kind, course in found.items():
        assert comparable(course, case) == comparable(measure, case), f"{kind} and {MEASURE} differ"

        if case.name in DIFFERENCES:
            assert [*course.seen, *course.passed] != [*measure.seen, *measure.passed], "no difference any more"


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
def test_a_request_on_a_fresh_connection_is_answered_alike(case: Case) -> None:
    """The first request of a connection."""
    assert_alike(case, "uvloop", is_kept=False)


@every_case
def test_a_request_on_a_kept_connection_is_answered_alike(case: Case) -> None:
    """A request behind a usual one, to a server that has seen it before."""
    assert_alike(case, "asyncio", is_kept=True)


@pytest.mark.long
@every_case
def test_a_request_on_the_other_loop_is_answered_alike(case: Case) -> None:
    """The same on the loop that the quick tests leave out for each."""
    assert_alike(case, "asyncio", is_kept=False)
    assert_alike(case, "uvloop", is_kept=True)


@pytest.mark.parametrize("case", LATE_CASES, ids=lambda case: case.name)
def test_a_client_that_stops_is_given_up_alike(case: Case) -> None:
    """A head or a body that does not come, of a client that stays."""
    assert_alike(case, "asyncio", is_kept=False, patience_seconds=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.xfail(reason="no timer behind a request")] if kind == "aiohttp" else [])
        for kind in KINDS
    ],
)
async def test_a_head_that_begins_behind_a_call_is_due(kind: str) -> None:
    """Also where its first bytes came in the segment of the call before it."""
    async with Front(kind, head_timeout_seconds=PATIENCE_SECONDS) as front, Client(front) as client:
        await client.send(post(PING, usual=()).replace(HOST_MARK.encode(), b"localhost:54321") + b"POST /mc")

        assert await client.read() is not None
        assert await client.rest(10 * PATIENCE_SECONDS) == "closed"
