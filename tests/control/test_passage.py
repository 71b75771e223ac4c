"""The way of sessions off one member, and what holds them up."""

from collections import Counter
from typing import Any

import pytest

from proxy.control.passage import Passage
from proxy.control.tally import Standing
from proxy.relay.move import MoveOutcome
from support.moving import FakeRelay, Scene

F = Standing


class Way:
    """A passage off *a*, and what it told."""

    def __init__(self, *upstreams: str, **options: Any) -> None:
        self.scene = Scene(*upstreams)
        self.told: list[tuple[FakeRelay, Standing]] = []
        self.passage: Any = Passage(
            self.scene.clock, self.scene.slots, self.scene.member("a"), self.choose,
            lambda *told: self.told.append(told), 5.0, **options,
        )  # fmt: skip

    def choose(self, relay: Any) -> Any:
        """Choose the first other member that was not tried."""
        tried = self.passage.tried.get(relay, [])
        others = [each for each in self.scene.pool.members if each.key != "a" and each not in tried]
        return others[0] if others else None

    @property
    def standings(self) -> list[Standing]:
        """What was told, in order."""
        return [standing for _, standing in self.told]


def test_a_session_that_was_moved_is_told_and_gone() -> None:
    """Nothing of it is left but what still runs in its older binding."""
    way = Way()
    (relay,) = way.scene.open()
    relay.begin_call()
    way.passage.add([relay])
    assert relay in way.passage
    relay.end_move()

    assert way.standings == [F.MOVED]
    assert relay not in way.passage
    assert way.passage.is_idle
    assert not way.passage.is_still
    relay.end_calls()
    way.passage.look(is_late=False)
    assert way.passage.is_still


def test_a_session_that_found_its_own_way_needs_no_move() -> None:
    """While it waited its member was lost, and it was rebuilt elsewhere."""
    way = Way()
    (relay,) = way.scene.open()
    relay.place(way.scene.member("b"))

    way.passage.add([relay])

    assert way.standings == [F.REBUILT]
    assert relay.begun == 0


def test_a_session_that_was_closed_is_not_moved() -> None:
    """Who ended while it waited is told as closed."""
    way = Way()
    (relay,) = way.scene.open()
    relay.close()

    way.passage.add([relay])

    assert way.standings == [F.CLOSED]


def test_a_session_that_is_moved_by_somebody_else_has_its_turn_later() -> None:
    """Two moves at once are none: it is asked again when the other one is over."""
    way = Way()
    (relay,) = way.scene.open()
    relay.move(way.scene.member("b"), lambda _: None)
    way.passage.add([relay])
    assert way.standings == []
    assert relay in way.passage
    assert not way.passage.is_idle
    relay.end_move(MoveOutcome.FAILED)

    way.passage.look(is_late=False)
    relay.end_move()

    assert way.standings == [F.MOVED]
    assert way.passage.failures == Counter()


def test_a_pinned_session_stays_until_it_is_let_go() -> None:
    """Neither time nor anything else moves it; its operator does."""
    way = Way()
    (relay,) = way.scene.open()
    relay.is_pinned = True
    way.passage.add([relay])
    way.passage.look(is_late=True)
    assert way.standings == [F.PINNED]
    assert way.passage.is_still, "nothing more will happen"
    assert way.passage.staying == 1

    relay.is_pinned = False
    way.passage.look(is_late=False)
    relay.end_move()

    assert way.standings == [F.PINNED, F.REMAINING, F.MOVED]
    assert way.passage.staying == 0


def test_a_task_holds_its_session_until_it_ends() -> None:
    """As long as there is time, a session with a task waits for its end."""
    way = Way()
    (relay,) = way.scene.open()
    relay.session.has_tasks = True
    way.passage.add([relay])
    way.passage.look(is_late=False)
    assert way.standings == [F.PINNED]
    assert way.passage.is_idle
    assert way.passage.waits_for_tasks
    assert not way.passage.is_still

    relay.session.has_tasks = False
    way.passage.look(is_late=False)
    relay.end_move()

    assert relay.forced == 0
    assert way.standings == [F.PINNED, F.REMAINING, F.MOVED]


def test_once_it_is_late_no_task_holds_anybody() -> None:
    """A task that takes too long is taken away; one that a pinned session runs is not."""
    way = Way()
    relay, pinned = way.scene.open("a", 2)
    relay.session.has_tasks = pinned.session.has_tasks = pinned.is_pinned = True
    way.passage.add([relay, pinned])

    way.passage.look(is_late=True)
    relay.end_move()

    assert (relay.forced, pinned.forced) == (1, 0)
    assert way.passage.pinned == {pinned}


def test_a_session_that_was_refused_stays() -> None:
    """Its reason is counted, and it is not asked again."""
    way = Way()
    (relay,) = way.scene.open()
    way.passage.add([relay])
    relay.end_move(MoveOutcome.FAILED, "version_mismatch")
    way.passage.look(is_late=True)

    assert way.standings == [F.FAILED]
    assert way.passage.failures == {"version_mismatch": 1}
    assert relay in way.passage
    assert way.passage.is_still


def test_a_session_that_may_go_anywhere_is_tried_everywhere_once() -> None:
    """A member that would not host it is not the last; when none is left it stays, for the reason it was given."""
    way = Way("a", "b", "c", tries_others=True)
    relay, lucky = way.scene.open("a", 2)
    way.passage.add([relay, lucky])
    relay.end_move(MoveOutcome.FAILED, "version_mismatch")
    lucky.end_move(MoveOutcome.FAILED, "rebuild_refused")
    lucky.end_move()
    relay.end_move(MoveOutcome.FAILED, "version_mismatch")

    assert sorted(way.told, key=lambda told: told[0].fingerprint) == [(relay, F.FAILED), (lucky, F.MOVED)]
    assert lucky.leg.member.key == "c"
    assert way.passage.failures == {"version_mismatch": 2, "rebuild_refused": 1}


def test_with_nobody_to_go_to_a_session_stays() -> None:
    """Where there is no other member the reason says that none can be reached."""
    way = Way("a", "b", tries_others=True)
    (relay,) = way.scene.open()
    way.scene.pool.remove(way.scene.member("b"))

    way.passage.add([relay])

    assert way.standings == [F.FAILED]
    assert way.passage.failures == {"unreachable": 1}


@pytest.mark.parametrize("reason", ["pinned", "failed"])
@pytest.mark.parametrize(("how", "standing"), [("close", F.CLOSED), ("fail over", F.REBUILT)])
def test_who_stayed_and_is_gone_is_told(reason: str, how: str, standing: Standing) -> None:
    """It ended, or was rebuilt elsewhere: either way it is on the old member no longer."""
    way = Way()
    (relay,) = way.scene.open()
    relay.is_pinned = reason == "pinned"
    way.passage.add([relay])
    if relay.moving:
        relay.end_move(MoveOutcome.FAILED, "version_mismatch")
    if how == "close":
        relay.close()
    else:
        relay.place(way.scene.member("b"))

    way.passage.look(is_late=False)

    assert way.standings[1:] == [standing]
    assert way.passage.staying == 0


def test_nothing_seems_finished_while_it_looks() -> None:
    """Who is told of a session that has another turn does not find everything done before that turn."""
    way = Way()
    (relay,) = way.scene.open()
    relay.session.has_tasks = True
    way.passage.add([relay])
    relay.session.has_tasks = False
    stills: list[bool] = []
    way.passage._told = lambda *_: stills.append(way.passage.is_still)

    way.passage.look(is_late=False)

    assert stills == [False]
    assert relay.moving


def test_after_a_stop_nothing_begins() -> None:
    """Moves under way are told; who waits, is pinned or was busy has no other turn."""
    way = Way("a", "b", "c", tries_others=True)
    relays = way.scene.open("a", 8)
    relays[0].is_pinned = True
    relays[1].move(way.scene.member("b"), lambda _: None)
    way.passage.add(relays)
    assert len(way.scene.moving) == 5

    way.passage.stop()
    relays[0].is_pinned = False
    way.passage.look(is_late=True)
    for relay in way.scene.moving:
        relay.end_move(MoveOutcome.FAILED, "rebuild_refused")
    way.passage.look(is_late=True)

    assert way.scene.moving == []
    assert way.passage.is_idle
    assert Counter(way.standings) == {F.PINNED: 1, F.FAILED: 4}
