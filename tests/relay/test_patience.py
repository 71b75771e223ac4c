"""A bounded wait: one end for all waits of a request, and nothing held after it."""

from support.fakes import FakeClock, FakeEdge, make_context

from proxy.relay.context import Context
from proxy.relay.patience import Patience


def _patience(told: list[str], seconds: float = 10.0) -> tuple[Patience, FakeClock, FakeEdge, Context]:
    ctx = make_context()
    patience = Patience(ctx.clock, ctx.recovery, seconds, lambda: told.append("exhausted"))
    return patience, ctx.clock, ctx.edge, ctx  # type: ignore[return-value]


def test_it_runs_out_once():
    """After its seconds, and not before."""
    told: list[str] = []
    patience, clock, _, _ = _patience(told)
    patience.begin()
    clock.advance(9.9)

    assert told == []

    clock.advance(100.0)

    assert told == ["exhausted"]
    assert clock.pending() == 0


def test_all_waits_share_one_end():
    """A second wait has what the first one left."""
    told: list[str] = []
    patience, clock, _, _ = _patience(told)
    patience.begin()
    clock.advance(6.0)
    patience.end()
    clock.advance(3.0)
    patience.begin()
    clock.advance(0.9)

    assert told == []

    clock.advance(0.2)

    assert told == ["exhausted"]


def test_a_wait_begun_too_late_is_over_at_once():
    """But never from inside the call."""
    told: list[str] = []
    patience, clock, _, _ = _patience(told)
    patience.begin()
    patience.end()
    clock.advance(20.0)
    patience.begin()

    assert told == []

    clock.advance(0.0)

    assert told == ["exhausted"]


def test_beginning_twice_is_one_wait():
    """One timer, one end."""
    told: list[str] = []
    patience, clock, _, _ = _patience(told)
    patience.begin()
    patience.begin()

    assert clock.pending() == 1

    clock.advance(10.0)

    assert told == ["exhausted"]


def test_the_upstreams_return_is_told():
    """`ready` is called when connections can be made, while the patience lasts."""
    told: list[str] = []
    patience, clock, edge, _ = _patience(told)
    edge.reachable = True
    patience.until_reachable(lambda: told.append("ready"))
    clock.advance(1.0)

    assert told == ["ready"]


def test_after_the_end_nobody_is_called():
    """Neither the end of the wait nor the upstream's return reaches whoever has stopped waiting."""
    told: list[str] = []
    patience, clock, edge, _ = _patience(told)
    patience.until_reachable(lambda: told.append("ready"))
    patience.end()
    edge.reachable = True
    clock.advance(60.0)

    assert told == []


def test_running_out_gives_the_place_in_the_queue_up():
    """Who was told that it is over is not called when the upstream returns."""
    told: list[str] = []
    patience, clock, edge, _ = _patience(told)
    edge.reachable = False
    patience.until_reachable(lambda: told.append("ready"))
    clock.advance(11.0)
    edge.reachable = True
    clock.advance(60.0)

    assert told == ["exhausted"]
