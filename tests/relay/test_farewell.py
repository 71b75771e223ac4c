"""The DELETE to the upstream: said once, forgotten in time, whatever comes of it."""

from collections.abc import Callable

import pytest

from proxy.relay.farewell import PATIENCE_SECONDS, Farewell
from proxy.upstream.base import Loss, UpstreamRequest
from proxy.wheel import Queue
from support.fakes import Attempt, FakeClock, FakeEdge


class World:
    """One farewell under way."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.edge = FakeEdge(self.clock)
        self.owner = Queue(self.clock, PATIENCE_SECONDS)
        self.request = UpstreamRequest("DELETE", [("Mcp-Session-Id", "up-1")], b"", fresh=True)
        Farewell(self.edge, self.owner).begin(self.request)


def test_it_is_held_while_it_is_under_way() -> None:
    """Its owner counts it, so that a drain can wait for it, and the request goes out as it was given."""
    world = World()

    assert len(world.owner) == 1
    assert [attempt.request for attempt in world.edge.attempts] == [world.request]


@pytest.mark.parametrize(
    "end",
    [
        lambda attempt: attempt.answer(200, [], b"bye"),
        lambda attempt: attempt.answer(404),
        lambda attempt: attempt.answer(405),
        lambda attempt: attempt.lost(Loss.REFUSED),
        lambda attempt: attempt.lost(Loss.NOT_SENT),
        lambda attempt: attempt.lost(Loss.BROKEN),
    ],
    ids=["heard", "unknown", "method refused", "refused", "not sent", "broken"],
)
def test_nothing_depends_on_the_answer(end: Callable[[Attempt], None]) -> None:
    """However it ends, it is forgotten, and nothing is sent again."""
    world = World()

    end(world.edge.last)

    assert not world.owner
    assert len(world.edge.attempts) == 1


def test_it_is_not_waited_for_beyond_patience() -> None:
    """An upstream that never answers is cut after a bounded time."""
    world = World()
    world.edge.last.head(200)
    world.clock.advance(PATIENCE_SECONDS - 0.1)

    assert world.edge.last.is_open
    assert world.owner

    world.clock.advance(0.1)

    assert world.edge.last.is_aborted
    assert not world.owner
