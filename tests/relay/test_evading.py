"""A session leaves a member that is out, and does not stay on one that was removed while it was on its way there."""

from proxy.relay.evading import evade, settle
from support.scenes import PoolScene


def test_a_session_in_use_is_moved_and_reports_when_it_is_over() -> None:
    """It has a call there that runs on; new requests go to the other member."""
    scene = PoolScene()
    scene.streaming(1)
    scene.eject("a")
    told: list[str] = []
    evade(scene.relay, lambda: told.append("done"))
    scene.at("b").reachable = True
    scene.serve("b")

    assert scene.relay.leg.member.name == "b"


def test_a_session_leaves_a_member_that_was_removed_although_it_is_pinned() -> None:
    """There is nothing to stay for."""
    scene = PoolScene()
    scene.relay.is_pinned = True
    scene.streaming(1)
    scene.ctx.pool.remove(scene.member("a"))
    scene.serve("b")

    assert scene.relay.leg.member.name == "b"


def test_nobody_settles_on_a_member_that_was_removed_on_the_way() -> None:
    """A session that is well where it is stays; one on a removed member leaves."""
    scene = PoolScene()
    settle(scene.relay)

    assert scene.relay.leg.member.name == "a"

    scene.streaming(1)
    scene.ctx.pool.remove(scene.member("a"))
    settle(scene.relay)
    scene.serve("b")

    assert scene.relay.leg.member.name == "b"


def test_a_move_towards_a_member_that_is_removed_ends() -> None:
    """The session stays where it is."""
    scene = PoolScene()
    results = scene.move()
    scene.ctx.pool.remove(scene.member("b"))

    assert [result.reason for result in results] == ["unreachable"]
    assert scene.relay.leg.member.name == "a"
