"""Whether one upstream can take another one's place."""

from typing import Any

import pytest

from proxy.control.compare import NEWEST, Comparison, Promise, Verdict, judge, promise_of
from proxy.control.interview import Answer
from proxy.core import headers as h
from proxy.core import identity
from support.fakes import FakeClock, FakeEdge, initialize_answer, initialize_result, make_context, open_session

OLD, NEW = "http://old.test/mcp", "http://new.test/mcp"
PROMISE = Promise("2025-11-25", initialize_result(tools=True))


def said(version: str = "2025-11-25", **promises: bool) -> Answer:
    """Return what a server said of itself."""
    return Answer(identity.read(initialize_answer(version, **promises)))


def compared(old: Answer, new: Answer, promise: Promise | None = PROMISE, *, is_strict: bool = False) -> Verdict:
    """Judge two answers."""
    return judge(OLD, old, NEW, new, promise, is_strict=is_strict)


def fields(verdict: Verdict) -> list[str]:
    """Return what differs."""
    return [difference.field for difference in verdict.differences]


DOWN = Answer(None, "cannot be reached")


def test_equal_servers_fit() -> None:
    """Nothing differs, even strictly."""
    assert compared(said(tools=True), said(tools=True), is_strict=True) == Verdict([])


def test_differences_are_shown_and_refuse_only_strictly() -> None:
    """A server that offers something else may take the place, unless its operator wants the same."""
    old, new = said(tools=True), said(prompts=True)

    loose, strict = compared(old, new), compared(old, new, is_strict=True)

    assert loose.problem == ""
    assert loose.differences == strict.differences
    assert strict.problem == f"{NEW} differs from {OLD}: " + ", ".join(fields(strict))
    assert "capabilities.tools" in fields(strict)


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_server_that_does_not_answer_never_fits(is_strict: bool) -> None:
    """The problem says which one and what it did."""
    verdict = compared(said(), Answer(None, "answered initialize with no body"), is_strict=is_strict)

    assert verdict == Verdict([], f"{NEW} answered initialize with no body")


@pytest.mark.parametrize("old", [said("2025-06-18"), said("2025-11-25"), DOWN])
def test_a_server_of_another_version_hosts_no_session(old: Answer) -> None:
    """What the sessions negotiated decides, whatever the old server says now."""
    verdict = compared(old, said("2025-06-18"))

    assert verdict.problem == f"{NEW} speaks protocol version 2025-06-18, and the sessions negotiated 2025-11-25"


def test_where_nobody_is_every_version_fits() -> None:
    """Without sessions there is nothing to carry over."""
    verdict = compared(said("2025-06-18"), said("2025-11-25"), None)

    assert (verdict.problem, fields(verdict)) == ("", ["protocolVersion"])


def test_an_old_server_that_is_down_is_compared_by_its_promise() -> None:
    """What a session there was promised is known; strictly that is not enough."""
    loose, strict = (compared(DOWN, said(), is_strict=is_strict) for is_strict in (False, True))

    assert (loose.problem, fields(loose)) == ("", ["capabilities.tools", "capabilities.tools.listChanged"])
    assert strict.problem == f"{OLD} cannot be reached, so that nothing can be compared"


def test_where_nothing_is_known_nothing_differs() -> None:
    """An old server that is down, and nobody there."""
    assert compared(DOWN, said(), None) == Verdict([])


def test_a_server_that_wants_credentials_is_left_to_each_session() -> None:
    """The proxy has none of its own: each move brings its session's; strictly it is not known to fit."""
    new = Answer(None, "wants credentials (HTTP 401)", wants_credentials=True)

    assert compared(said(), new) == Verdict([])
    assert compared(said(), new, is_strict=True).problem == (
        f"{NEW} wants credentials (HTTP 401), so that nothing can be compared"
    )


def test_most_sessions_say_what_is_promised() -> None:
    """Of several versions the one that most negotiated, and of it the latest promise."""
    ctx = make_context()
    relays = [
        open_session(ctx, version="2025-06-18", tools=True),
        open_session(ctx, version="2025-11-25"),
        open_session(ctx, version="2025-11-25", logging=True),
    ]

    assert promise_of([]) is None
    found = promise_of(relays)
    assert found is not None
    assert (found.version, found.promised.logging) == ("2025-11-25", True)


class Both:
    """Two servers that are asked."""

    def __init__(self, promise: Promise | None = None, *, with_tools: bool = False) -> None:
        self.clock = FakeClock()
        self.old, self.new = FakeEdge(self.clock), FakeEdge(self.clock)
        self.verdicts: list[Verdict] = []
        self.released = 0
        self.comparison = Comparison(
            self.clock, 10.0, (OLD, self.old), (NEW, self.new), promise, self.verdicts.append, self.release,
            is_strict=False, with_tools=with_tools,
        )  # fmt: skip
        self.comparison.begin()

    def release(self) -> None:
        """Note that the new one's edge may be closed."""
        self.released += 1

    @staticmethod
    def answer(edge: FakeEdge, **promises: bool) -> None:
        """Answer `initialize`."""
        attempt = edge.one(rpc="initialize")
        body: Any = initialize_answer(request_id=attempt.message["id"], **promises)
        attempt.json(200, body, [(h.SESSION_ID, "theirs")])


def test_both_are_asked_at_once_and_both_sessions_ended() -> None:
    """The verdict comes with the second answer; the new one's edge is free once its session is over."""
    both = Both()
    both.answer(both.new, tools=True)
    assert both.verdicts == []
    both.answer(both.old)

    assert fields(both.verdicts[0]) == ["capabilities.tools", "capabilities.tools.listChanged"]
    assert both.released == 0
    for edge in (both.old, both.new):
        delete = edge.one(method="DELETE")
        assert delete.upstream_id == "theirs"
        delete.answer(200)
    assert both.released == 1


@pytest.mark.parametrize(("promise", "offered"), [(None, NEWEST), (Promise("2025-06-18", PROMISE.promised),) * 2])
def test_the_sessions_version_is_offered(promise: Promise | None, offered: Any) -> None:
    """And the newest one with sessions where there are none."""
    both = Both(promise)

    wanted = offered if isinstance(offered, str) else offered.version
    assert both.new.last.message["params"]["protocolVersion"] == wanted


def test_a_comparison_that_is_stopped_says_nothing() -> None:
    """What was asked is cut, and the edge is free."""
    both = Both()
    both.comparison.stop()
    both.clock.advance(20)

    assert both.verdicts == []
    assert both.released == 1
    assert both.old.open == both.new.open == []
