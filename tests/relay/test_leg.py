"""One binding of a session at work: where it lies, what it loses, what it says on the proxy's own account."""

import pytest

from proxy.core.ids import Generation, UpstreamSessionId
from proxy.core.session import Binding, BindingState, CloseReason
from proxy.relay.leg import Leg
from support.fakes import initialize_answer, open_session
from support.scenes import PoolScene, Scene, break_off, progress, reason


def test_a_leg_makes_its_parts_when_they_are_needed():
    """An idle session without a stream has neither a link nor a ping."""
    scene = Scene()
    leg = scene.relay.leg

    assert not leg.has_link
    assert leg.link is leg.link
    assert leg.has_link
    assert leg.probe is leg.probe


def test_a_leg_is_the_present_one_until_another_takes_its_place():
    """Bound or draining it is still there; what is over is neither."""
    scene = PoolScene()
    scene.call(1)
    old = scene.relay.leg

    assert old.is_present
    assert old.is_bound(Generation(1))
    assert not old.is_bound(Generation(2))

    scene.moved()
    new = scene.relay.leg

    assert (old.is_present, new.is_present) == (False, True)
    assert old.is_bound(Generation(1))
    assert new.is_bound(Generation(2))

    scene.at("a").one(rpc="tools/call").json()

    assert not old.is_bound(Generation(1))


def test_a_leg_is_found_by_its_generation():
    """The present one, the draining ones, the one that is being made; nothing else."""
    scene = PoolScene(upstreams=("a", "b", "c"))
    scene.call(1)
    old = scene.relay.leg
    scene.moved("b")
    scene.move("c")
    relay = scene.relay

    assert [relay.leg_of(Generation(number)) for number in range(5)] == [
        None, old, relay.leg, relay.moving.leg, None,
    ]  # fmt: skip


def test_a_leg_that_is_being_rebuilt_is_found_by_the_number_to_be():
    """What its new upstream session asks ahead of the switch belongs to it."""
    scene = Scene()
    scene.call(1)
    scene.lose_session(scene.edge.last)

    assert scene.relay.leg_of(Generation(2)) is scene.relay.leg
    assert scene.relay.leg_of(Generation(1)) is None


def test_the_loss_of_a_leg_that_drains_leaves_the_present_one_alone():
    """Its running calls end as they end; it is not told goodbye, and an observer hears of it."""
    scene = PoolScene()
    scene.call(1)
    old = scene.relay.leg
    scene.moved()
    old.lose(Generation(1), "gone")

    assert scene.relay.older == ()
    assert scene.relay.session.bindings == (scene.relay.leg.binding,)
    assert scene.relay.session.binding.state is BindingState.BOUND
    assert scene.at("a").find(method="DELETE", is_open=False) == []
    assert [(record.upstream, record.reason) for record in scene.observer.of("upstream_lost")] == [("a", "gone")]


def test_late_news_of_a_leg_that_is_over_is_ignored():
    """It was retired already: nothing happens twice."""
    scene = PoolScene()
    scene.call(1)
    old = scene.relay.leg
    scene.moved()
    scene.at("a").one(rpc="tools/call").json()
    told = len(scene.observer.told)
    old.lose(Generation(1), "gone")
    old.give_up(Generation(1), "upstream_session_lost")

    assert len(scene.observer.told) == told
    assert scene.relay.session.binding.state is BindingState.BOUND


def test_a_refused_connection_counts_against_the_member_and_loses_the_leg():
    """Nobody listens there: every upstream session of it is gone."""
    scene = PoolScene()
    scene.relay.leg.refused(Generation(1))

    assert scene.member("a").health.failures == 1
    assert scene.relay.session.binding.state is BindingState.LOST


def test_giving_a_leg_up_ends_what_runs_in_it_and_nothing_else():
    """Two pings failed on the old one: its call is told so, the new one's goes on."""
    scene = PoolScene()
    old_call, _ = scene.streaming(1, progress(1))
    old = scene.relay.leg
    scene.moved()
    new_call = scene.call(2)
    old.give_up(Generation(1), "upstream_silent")

    assert reason(old_call) == "upstream_silent"
    assert new_call.status is None
    assert scene.at("b").one(rpc="tools/call").is_open
    assert scene.member("a").health.failures == 1
    assert scene.member("b").health.failures == 0


@pytest.mark.parametrize(("why", "is_told"), [("upstream_silent", True), ("upstream_session_lost", False)])
def test_an_upstream_session_that_is_lost_by_silence_is_ended_all_the_same(why: str, is_told: bool):
    """A stopped process may go on, and would keep it for ever; one that does not know it need not be told."""
    scene = PoolScene()
    scene.relay.leg.give_up(Generation(1), why)

    assert [attempt.upstream_id for attempt in scene.at("a").find(method="DELETE")] == ["up-1"] * is_told
    assert scene.relay.session.binding.state is BindingState.LOST


def test_a_session_that_is_lost_says_nothing_against_its_member():
    """Forgetting a session is no illness."""
    scene = PoolScene()
    scene.call(1)
    scene.relay.leg.give_up(Generation(1), "upstream_session_lost")

    assert scene.member("a").health.failures == 0


def test_silence_on_a_draining_leg_is_asked_about_there():
    """The ping goes where the silent call runs, in its upstream session; an answer there forgives it."""
    scene = PoolScene(silence_seconds=30.0, drain_timeout_seconds=600.0)
    sink, attempt = scene.streaming(1)
    scene.moved()
    scene.clock.advance(32.0)
    ping = scene.at("a").one(rpc="ping")

    assert ping.upstream_id == "up-1"
    assert scene.at("b").find(rpc="ping") == []

    ping.json()

    assert not sink.is_over
    assert attempt.is_open


def test_a_draining_leg_that_is_silent_for_good_is_given_up():
    """Two pings without an answer: the call's outcome is unknown, and the leg is no more."""
    scene = PoolScene(silence_seconds=30.0, ping_timeout_seconds=5.0, drain_timeout_seconds=600.0)
    sink, _ = scene.streaming(1)
    scene.moved()
    scene.clock.advance(45.0)

    assert reason(sink) == "upstream_silent"
    assert scene.relay.older == ()
    assert scene.relay.session.binding.state is BindingState.BOUND


def test_the_proxys_own_requests_carry_what_the_session_has():
    """The latest accepted credentials, the negotiated version, this leg's id; another id where one is meant."""
    scene = PoolScene(version="2025-06-18")
    scene.moved()
    headers = dict(scene.relay.leg.own_headers())

    assert (headers["Authorization"], headers["Mcp-Session-Id"]) == ("Bearer one", "up-2")
    assert headers["MCP-Protocol-Version"] == "2025-06-18"
    assert dict(scene.relay.leg.own_headers(upstream_id=UpstreamSessionId("x")))["Mcp-Session-Id"] == "x"
    assert dict(scene.relay.leg.own_headers(is_get=True))["Accept"] == "text/event-stream"


def test_an_upstream_session_that_another_one_owns_is_not_ended():
    """A server that hands out an id twice: it is the other session's now."""
    scene = PoolScene()
    other = open_session(scene.registry, upstream_id="up-1", member=scene.member("a"))
    scene.relay.close(CloseReason.DELETED)

    assert scene.at("a").find(method="DELETE") == []

    other.close(CloseReason.DELETED)

    assert scene.at("a").one(method="DELETE").upstream_id == "up-1"


def test_the_same_id_at_two_members_is_two_upstream_sessions():
    """Ids belong to the server that gave them: the old one is ended, the new one is not."""
    scene = PoolScene()
    scene.moved("b", "up-1")

    assert scene.at("a").one(method="DELETE").upstream_id == "up-1"
    assert scene.at("b").find(method="DELETE") == []


def test_the_same_id_of_another_sessions_member_keeps_nobody_from_being_ended():
    """Who owns an id is asked at the member that gave it."""
    scene = PoolScene()
    relay = open_session(scene.registry, upstream_id="up-1", member=scene.member("b"))
    relay.close(CloseReason.DELETED)

    assert scene.at("b").one(method="DELETE").upstream_id == "up-1"


def test_an_upstream_without_ids_is_not_told_goodbye():
    """There is nothing it could be told."""
    scene = PoolScene(upstream_id=None)
    scene.moved("b", None)

    assert scene.at("a").attempts == []


def test_closing_a_leg_answers_who_asks_for_its_ping():
    """A 400 that waits for a ping finds its session lost when the session goes to another member."""
    scene = PoolScene(eject_after_seconds=0.0)
    asking = scene.call(1)
    scene.at("a").last.answer(400)
    note = scene.notify("notifications/roots/list_changed")
    scene.at("a").last.answer(400)
    scene.call(2)
    scene.at("a").reachable = False
    scene.at("a").one(rpc="tools/call").refuse()
    for attempt in scene.at("a").find(rpc="initialize"):
        attempt.refuse()
    scene.clock.advance(1.0)
    scene.serve("b")
    sent = scene.at("b").find(rpc="tools/call")

    assert sorted(attempt.message["id"] for attempt in sent) == [1, 2]

    for attempt in sent:
        attempt.json()
    scene.at("b").one(rpc="notifications/roots/list_changed").answer(202)

    assert asking.is_over
    assert note.status == 202
    assert scene.at("a").open == []


def test_a_cancel_of_the_proxys_own_names_the_leg():
    """Told once, with the leg's id; nothing depends on the answer."""
    scene = PoolScene()
    scene.relay.leg.tell_cancelled(5)
    note = scene.at("a").one(rpc="notifications/cancelled")

    assert (note.message["params"], note.upstream_id, note.request.fresh) == ({"requestId": 5}, "up-1", True)

    scene.clock.advance(5.0)

    assert note.is_aborted


def test_a_leg_that_is_only_planned_loses_nothing():
    """It has no upstream session yet, so news of one are of another."""
    scene = PoolScene()
    planned = Leg(scene.relay, scene.member("b"), Binding("b"))
    planned.lose(Generation(0), "gone")
    planned.close()

    assert scene.relay.session.binding.state is BindingState.BOUND
    assert not planned.is_present


def test_a_link_of_a_leg_that_is_being_made_does_not_lose_the_present_one():
    """Its standalone stream breaks before the switch: it tries again, the session serves on where it is."""
    scene = PoolScene()
    scene.listening()
    scene.call("s", "resources/subscribe", {"uri": "a"})
    scene.at("a").one(rpc="resources/subscribe").json()
    scene.move()
    scene.at("b").one(rpc="initialize").json(200, initialize_answer(), [("Mcp-Session-Id", "up-2")])
    scene.at("b").one(rpc="notifications/initialized").answer(202)
    scene.at("b").one(method="GET").sse()
    break_off(scene.at("b").one(method="GET"))
    scene.clock.advance(1.0)

    assert scene.relay.session.binding.state is BindingState.BOUND
    assert scene.at("b").one(method="GET").upstream_id == "up-2"
