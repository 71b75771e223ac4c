"""A bounded wait for the upstream: one end for all waits of a request, and nothing held behind it."""

import pytest

from proxy.relay.patience import Patience
from support.fakes import edge_of, make_context


class Waiter:
    """Somebody with ten seconds of patience."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.ctx = make_context()
        self.clock, self.edge = self.ctx.clock, edge_of(self.ctx)
        self.quiet = self.clock.pending()
        self.recovery = self.ctx.pool.members[0].recovery
        self.told: list[str] = []
        self.patience = Patience(self.clock, seconds, lambda: self.told.append("over"))

    def ready(self) -> None:
        """Note it."""
        self.told.append("ready")

    def recover(self) -> None:
        """Let the next attempt to reach the upstream succeed."""
        self.clock.advance(5.0)
        self.edge.reached()
        self.clock.advance()


def test_a_wait_ends_after_its_time() -> None:
    """At the instant, not before; told once."""
    waiter = Waiter()
    waiter.patience.begin()
    waiter.clock.advance(9.999)

    assert waiter.told == []

    waiter.clock.advance(0.001)
    waiter.clock.advance(100.0)

    assert waiter.told == ["over"]
    assert waiter.clock.pending() == waiter.quiet


def test_going_on_to_wait_does_not_move_the_end() -> None:
    """All waits of one request share the end that the first one set."""
    waiter = Waiter()
    waiter.patience.begin()
    waiter.clock.advance(6.0)
    waiter.patience.begin()
    waiter.patience.until_reachable(waiter.recovery, waiter.ready)
    waiter.clock.advance(4.0)

    assert waiter.told == ["over"]


def test_a_wait_after_a_pause_has_what_is_left() -> None:
    """The time runs on between two waits."""
    waiter = Waiter()
    waiter.patience.begin()
    waiter.clock.advance(6.0)
    waiter.patience.end()
    waiter.clock.advance(1.0)
    waiter.patience.begin()
    waiter.clock.advance(2.999)

    assert waiter.told == []

    waiter.clock.advance(0.001)

    assert waiter.told == ["over"]


def test_a_wait_that_begins_behind_the_end_is_over_in_the_next_turn() -> None:
    """Never from inside `begin`, and never with a time that lies in the past."""
    waiter = Waiter()
    waiter.patience.begin()
    waiter.patience.end()
    waiter.clock.advance(11.0)
    waiter.patience.begin()

    assert waiter.told == []

    waiter.clock.advance()

    assert waiter.told == ["over"]


def test_no_patience_is_over_in_the_next_turn() -> None:
    """0 seconds are legal: do not wait."""
    waiter = Waiter(0.0)
    waiter.patience.until_reachable(waiter.recovery, waiter.ready)

    assert waiter.told == []

    waiter.clock.advance()

    assert waiter.told == ["over"]


def test_whoever_waits_goes_on_when_the_upstream_answers() -> None:
    """A live waiter goes with the attempt that succeeds; its time still runs until it says that it is done."""
    waiter = Waiter()
    waiter.patience.until_reachable(waiter.recovery, waiter.ready)
    waiter.clock.advance(5.0)
    waiter.edge.reached()

    assert waiter.told == ["ready"]

    waiter.patience.end()
    waiter.clock.advance(100.0)

    assert waiter.told == ["ready"]


def test_a_second_outage_is_waited_for_within_the_same_time() -> None:
    """Reached and lost again: the end is the first one's."""
    waiter = Waiter()
    waiter.patience.until_reachable(waiter.recovery, waiter.ready)
    waiter.recover()
    waiter.patience.until_reachable(waiter.recovery, waiter.ready)
    waiter.clock.advance(5.0)

    assert waiter.told == ["ready", "over"]


@pytest.mark.parametrize("how", ["end", "over"])
def test_behind_the_end_nothing_is_held(how: str) -> None:
    """The queue of an outage lets go of the request, and nobody is called any more."""
    waiter = Waiter()
    waiter.patience.until_reachable(waiter.recovery, waiter.ready)
    (ticket,) = waiter.recovery._waiting
    if how == "end":
        waiter.patience.end()
        waiter.patience.end()
    else:
        waiter.clock.advance(10.0)

    assert ticket.ready is None

    waiter.recover()
    waiter.clock.advance(100.0)

    assert waiter.told == ([] if how == "end" else ["over"])


def test_an_end_without_a_wait_is_harmless() -> None:
    """Whoever ends need not know whether it ever waited."""
    waiter = Waiter()
    waiter.patience.end()

    assert waiter.clock.pending() == waiter.quiet
