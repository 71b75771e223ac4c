"""One session's binding: single flight, credentials, and who is told when it cannot be had."""

from typing import Any

import pytest

from proxy.core import headers as h
from proxy.core.ids import Generation
from proxy.core.session import BindingState, CloseReason
from proxy.upstream.base import Loss
from support.fakes import FakeSink, initialize_answer, open_session, post, request_body, result_body
from support.scenes import PoolScene, Scene, break_off, message, progress, reason, result, server_request


def test_ten_refused_requests_make_one_rebuild():
    """Whoever needs the binding while it is made waits for the same handshake, and each is answered (point 7)."""
    scene = Scene()
    sinks = [scene.call(number) for number in range(10)]
    for attempt in scene.edge.find(rpc="tools/call"):
        scene.lose_session(attempt)
    late = scene.call(10)

    assert len(scene.edge.find(rpc="initialize")) == 1

    scene.rebuilt("up-2")
    again = scene.edge.find(rpc="tools/call")

    assert sorted(attempt.message["id"] for attempt in again) == list(range(11))
    assert {attempt.upstream_id for attempt in again} == {"up-2"}

    for attempt in again:
        attempt.json()

    assert [sink.json()["id"] for sink in [*sinks, late]] == list(range(11))
    assert len(scene.edge.find(rpc="initialize", is_open=False)) == 1


def test_waiting_requests_are_sent_in_the_order_of_their_arrival():
    """A message never overtakes the one before it because of a rebuild."""
    scene = Scene()
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.notify("notifications/roots/list_changed")
    scene.call(2)
    scene.rebuilt()

    assert [attempt.rpc for attempt in scene.edge.open] == [
        "tools/call",
        "notifications/roots/list_changed",
        "tools/call",
    ]


def test_a_live_requests_credentials_rebuild_also_beside_a_reader():
    """The credentials are those of the request that met the loss, attached reader or not (semantics 12)."""
    for has_reader in (False, True):
        scene = Scene()
        if has_reader:
            scene.listening()
        scene.call(1, headers=[("Authorization", "Bearer two")])
        scene.lose_session(scene.edge.one(rpc="tools/call"))

        assert scene.edge.one(rpc="initialize").header("Authorization") == "Bearer two"


def test_a_rebuild_without_a_request_takes_the_latest_accepted_credentials():
    """Credentials that the upstream refused are never used in the background."""
    scene = Scene()
    scene.listening()
    scene.call(1, headers=[("Authorization", "Bearer two")])
    scene.edge.one(rpc="tools/call").json()
    scene.call(2, headers=[("Authorization", "Bearer wrong")])
    scene.edge.one(rpc="tools/call").answer(401)
    scene.edge.one(method="GET").end()
    scene.clock.advance(1.0)
    scene.lose_session(scene.edge.one(method="GET"))
    for ping in scene.edge.find(rpc="ping"):
        scene.lose_session(ping)

    assert scene.background().header("Authorization") == "Bearer two"


def test_a_loss_without_anyone_who_needs_the_session_waits():
    """Nothing is rebuilt for nobody; the next request does it."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    break_off(attempt)
    scene.clock.advance(0.2)
    scene.lose_session(scene.edge.one(method="GET"))

    assert reason(sink) == "upstream_session_lost"
    assert scene.relay.session.binding.state is BindingState.LOST
    assert scene.edge.open == []

    scene.call(2)

    assert scene.edge.one(rpc="initialize")


def test_a_401_in_the_rebuild_reaches_the_live_request():
    """The request whose credentials were refused gets the upstream's own 401, headers and body (semantics 12)."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.edge.one(rpc="initialize").answer(
        401, [("WWW-Authenticate", "Bearer x"), ("Mcp-Session-Id", "up-9")], b"who?"
    )

    assert (sink.status, sink.body) == (401, b"who?")
    assert sink.header("WWW-Authenticate") == "Bearer x"
    assert sink.header("Mcp-Session-Id") != "up-9"
    assert scene.relay.session.binding.state is BindingState.UNBOUND


def test_a_401_after_the_upgrade_is_told_inside_the_stream():
    """A request whose stream has begun gets it as an error with the status."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.clock.advance(1.0)
    scene.edge.one(rpc="initialize").answer(401)

    assert reason(sink) == "http_status"
    assert sink.messages[0]["error"]["data"]["http_status"] == 401


def test_a_401_in_the_background_parks_the_session():
    """No request: nothing is tried again until one brings its own credentials."""
    scene = Scene()
    scene.listening()
    scene.edge.one(method="GET").end()
    scene.clock.advance(1.0)
    scene.edge.one(method="GET").refuse()
    scene.background().answer(401)
    scene.clock.advance(60.0)

    assert scene.relay.session.binding.state is BindingState.UNBOUND
    assert scene.edge.open == []

    sink = scene.call(1, headers=[("Authorization", "Bearer new")])

    assert scene.edge.one(rpc="initialize").header("Authorization") == "Bearer new"

    scene.rebuilt(get_status=200)
    scene.edge.one(rpc="tools/call").json()

    assert sink.json()["id"] == 1


def test_another_protocol_version_cannot_host_the_session():
    """The call is told so as not run, the session is kept, the new upstream session ended (semantics 12)."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.edge.serve_rebuild("up-2", version="2025-06-18")

    assert reason(sink) == "version_mismatch"
    assert sink.json()["error"]["data"]["offered"] == "2025-06-18"
    assert scene.edge.one(method="DELETE").upstream_id == "up-2"

    again = scene.call(2)
    scene.rebuilt("up-3")
    scene.edge.one(rpc="tools/call").json()

    assert again.json()["id"] == 2


def test_a_refused_handshake_is_tried_again_for_a_reader():
    """While a client reads, a session whose handshake was refused is tried again later without a request."""
    scene = Scene()
    scene.listening()
    scene.call(1)
    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.edge.one(rpc="initialize").answer(422)

    assert scene.edge.find(rpc="initialize") == []

    scene.clock.advance(5.0)

    assert scene.edge.one(rpc="initialize")


def test_the_dual_map_follows_the_binding():
    """Both directions name the present upstream session, and nothing once the session is over."""
    scene = Scene()
    session = scene.relay.session
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")

    assert scene.ctx.ids.session_of("default", "up-1") is None
    assert scene.ctx.ids.session_of("default", "up-2") == session.id
    bound = scene.ctx.ids.upstream_of(session.id)
    assert bound is not None
    assert bound.generation == 2

    scene.relay.close(CloseReason.DELETED)

    assert len(scene.ctx.ids) == 0
    assert scene.ctx.ids.session_of("default", "up-2") is None


def test_late_news_of_an_old_upstream_session_changes_nothing():
    """A loss of generation 1 does not touch generation 2."""
    scene = Scene()
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.relay.binder.lose(Generation(1), "gone")

    assert scene.relay.session.binding.state is BindingState.BOUND


def test_an_observer_is_told_of_loss_and_rebuild():
    """With the time the client waited and the new binding's number."""
    scene = Scene()
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.clock.advance(0.5)
    scene.rebuilt()

    assert [record.reason for record in scene.observer.of("upstream_lost")] == ["gone"]
    (rebuilt,) = scene.observer.of("session_rebuilt")
    assert (rebuilt.generation, rebuilt.waited_seconds) == (2, 0.5)


def test_calls_of_the_lost_session_go_on_as_long_as_their_streams_do():
    """A loss seen by one request does not cut another's answer that still arrives."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    scene.call(2)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    attempt.frame(result(1))

    assert sink.messages == [result(1)]


def test_a_call_refused_during_a_silence_check_is_sent_again():
    """A ping that finds the session lost says nothing of calls that it refused: they did not run."""
    scene = Scene(upgrade_after_seconds=60.0)
    silent, _ = scene.streaming(1)
    scene.clock.advance(32.0)
    ping = scene.edge.one(rpc="ping")
    refused = scene.call(2)
    scene.edge.last.answer(400)
    waiting = scene.call(3)
    scene.lose_session(scene.edge.last)
    scene.lose_session(ping)
    scene.rebuilt("up-2")

    again = [attempt for attempt in scene.edge.find(rpc="tools/call") if attempt.upstream_id == "up-2"]
    assert sorted(attempt.message["id"] for attempt in again) == [2, 3]

    for attempt in again:
        attempt.json()

    assert [refused.json()["id"], waiting.json()["id"]] == [2, 3]
    assert reason(silent) == "upstream_session_lost"


# -- failover: its member is gone, another one of the pool takes the session


def _gone(scene: PoolScene, name: str = "a", *, seconds: float = 5.0) -> None:
    """Let a member refuse everything until it is ejected."""
    edge = scene.at(name)
    edge.reachable = False
    until = scene.clock.now() + seconds
    while scene.member(name).is_available and scene.clock.now() < until:
        for attempt in edge.open:
            if not attempt.has_head:
                attempt.refuse()
            elif attempt.is_open:
                break_off(attempt)
        scene.clock.advance(0.1)
    assert not scene.member(name).is_available, f"{name} is not ejected"


def test_a_restart_in_place_is_no_failover():
    """Back before it is ejected, the member gets its session again: the others are not even asked."""
    scene = PoolScene(eject_after_seconds=1.0)
    sink = scene.call(1)
    scene.at("a").reachable = False
    scene.at("a").last.refuse()
    scene.at("a").one(rpc="initialize").refuse()
    scene.clock.advance(0.6)
    scene.at("a").reachable = True
    scene.clock.advance(0.2)
    scene.serve("a", "up-2")
    scene.at("a").one(rpc="tools/call").json()

    assert (sink.messages or [sink.json()]) == [result(1)]
    assert scene.relay.leg.member.name == "a"
    assert scene.at("b").attempts == []
    assert scene.observer.of("session_failed_over") == scene.observer.of("upstream_ejected") == []
    assert [record.upstream for record in scene.observer.of("session_rebuilt")] == ["a"]


def test_a_session_goes_to_another_member_when_its_own_is_ejected():
    """Waited for until then, rebuilt once on the other one, and every waiting call is sent there, once."""
    scene = PoolScene(eject_after_seconds=1.0)
    sinks = [scene.call(number) for number in range(5)]
    _gone(scene)
    late = scene.call(5)

    assert len(scene.at("b").find(rpc="initialize")) == 1

    scene.serve("b")
    sent = scene.at("b").find(rpc="tools/call")

    assert sorted(attempt.message["id"] for attempt in sent) == list(range(6))
    assert {attempt.upstream_id for attempt in sent} == {"up-2"}

    for attempt in sent:
        attempt.json()

    assert all(sink.is_over for sink in [*sinks, late])
    assert scene.relay.session.binding.generation == 2
    assert (scene.member("a").sessions, scene.member("b").sessions) == (0, 1)
    assert len(scene.at("b").find(rpc="initialize", is_open=False)) == 1
    scene.assert_nothing_is_left()


def test_what_the_client_set_up_follows_it():
    """Handshake, log level, subscriptions and the standalone stream are there on the other member; then the resync."""
    scene = PoolScene(promises=("tools", "resources", "subscribe"))
    listening = scene.listening()
    scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    scene.at("a").one(rpc="resources/subscribe").json()
    scene.call("l", "logging/setLevel", {"level": "debug"})
    scene.at("a").one(rpc="logging/setLevel").json()
    scene.call(1)
    _gone(scene)
    scene.serve("b", get_status=200)

    assert [attempt.rpc or attempt.method for attempt in scene.at("b").attempts] == [
        "initialize",
        "notifications/initialized",
        "GET",
        "logging/setLevel",
        "resources/subscribe",
        "tools/call",
    ]
    assert [told["method"] for told in listening.messages] == [
        "notifications/tools/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    ]

    scene.at("b").one(method="GET").frame(message("notifications/message", n=1))

    assert listening.messages[-1]["params"] == {"n": 1}
    assert not listening.is_over


def test_an_observer_is_told_of_a_failover_as_such():
    """Where from, where to, under which number, after how long; no second record says that it was rebuilt."""
    scene = PoolScene()
    scene.call(1)
    started = scene.clock.now()
    _gone(scene)
    scene.serve("b")
    (record,) = scene.observer.of("session_failed_over")

    assert (record.upstream, record.previous, record.generation) == ("b", "a", 2)
    assert record.waited_seconds == scene.clock.now() - started
    assert scene.observer.of("session_rebuilt") == []
    assert [each.upstream for each in scene.observer.of("upstream_ejected")] == ["a"]


@pytest.mark.parametrize("is_safe", [True, False])
def test_a_call_that_may_have_run_there(is_safe: bool):
    """One that reads is sent again on the other member under its own id; any other ends as unknown, at once."""
    scene = PoolScene()
    sink = scene.call(1, "resources/read" if is_safe else "tools/call")
    running = scene.at("a").last
    scene.call(2)
    scene.at("a").last.refuse()
    break_off(running)
    if not is_safe:
        assert reason(sink) == "connection_broken"
    _gone(scene)
    scene.serve("b")

    again = [attempt for attempt in scene.at("b").open if attempt.message["id"] == 1]
    assert [attempt.rpc for attempt in again] == (["resources/read"] if is_safe else [])

    for attempt in again:
        attempt.json()

    assert sink.is_over


def test_a_server_request_of_the_lost_member_is_answered_nowhere():
    """The other member never asked; the drop is recorded."""
    scene = PoolScene()
    scene.listening()
    scene.at("a").one(method="GET").frame(server_request(1))
    scene.call(1)
    _gone(scene)
    scene.serve("b", get_status=200)
    before = len(scene.at("b").attempts)

    assert scene.respond(1).status == 202
    assert len(scene.at("b").attempts) == before
    assert len(scene.observer.of("answer_dropped")) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [(422, b"{}"), (404, b""), (200, b"<html>"), (200, initialize_answer("2025-06-18"))],
    ids=["422", "404", "html", "version"],
)
def test_a_member_that_does_not_take_the_session_is_passed_over(status: int, body: bytes):
    """The next one is asked at once; the call is answered there, and the one that refused is tried no more for it."""
    scene = PoolScene(upstreams=("a", "b", "c"))
    sink = scene.call(1)
    _gone(scene)
    (first,) = [name for name in "bc" if scene.at(name).find(rpc="initialize")]
    (second,) = {"b", "c"} - {first}
    scene.at(first).one(rpc="initialize").answer(status, [("Content-Type", "application/json")], body)
    scene.serve(second)
    scene.at(second).one(rpc="tools/call").json()

    assert (sink.messages or [sink.json()]) == [result(1)]
    assert scene.relay.leg.member.name == second
    assert scene.at(first).open == []
    assert [record.upstream for record in scene.observer.of("rebuild_failed")] == [first]


def test_the_same_member_is_asked_first_although_it_lost_the_session():
    """A server that answers 404 is there: it is asked before others, and passed over only if it refuses."""
    scene = PoolScene()
    sink = scene.call(1)
    scene.lose_session(scene.at("a").last)
    scene.at("a").one(rpc="initialize").answer(422)
    scene.serve("b")
    scene.at("b").one(rpc="tools/call").json()

    assert sink.json() == result(1)


def test_a_session_that_nobody_takes_is_kept_and_tried_again():
    """A clear error that says who refused it and why; the next request tries again, and finds one that takes it."""
    scene = PoolScene()
    sink = scene.call(1)
    scene.lose_session(scene.at("a").last)
    scene.at("a").one(rpc="initialize").answer(422)
    scene.at("b").one(rpc="initialize").json(200, initialize_answer("2025-06-18"), [(h.SESSION_ID, "up-9")])
    data = sink.json()["error"]["data"]

    assert (reason(sink), data["outcome"]) == ("version_mismatch", "not_run")
    assert [(each["upstream"], each["reason"]) for each in data["refused"]] == [
        ("a", "rebuild_refused"),
        ("b", "version_mismatch"),
    ]
    assert scene.relay.session.binding.state is BindingState.LOST
    assert scene.registry.find(scene.relay.session.id) is scene.relay
    assert scene.at("b").one(method="DELETE").upstream_id == "up-9"

    again = scene.call(2)
    (name,) = [name for name in "ab" if scene.at(name).find(rpc="initialize")]
    scene.serve(name, "up-3")
    scene.at(name).one(rpc="tools/call").json()

    assert again.json() == result(2)
    assert scene.relay.session.binding.generation == 2


def test_a_reader_of_a_session_that_nobody_takes_has_it_tried_again():
    """Without a request, a while later, while its stream stays open."""
    scene = PoolScene()
    listening = scene.listening()
    scene.call(1)
    scene.lose_session(scene.at("a").one(rpc="tools/call"))
    for name in "ab":
        scene.at(name).one(rpc="initialize").answer(422)

    assert not listening.is_over

    scene.clock.advance(5.0)

    assert sum(len(scene.at(name).find(rpc="initialize")) for name in "ab") == 1


def test_a_member_that_wants_other_credentials_does_not_get_the_session():
    """Its 401 is the live request's answer; the next one's credentials are tried, on whichever member is well."""
    scene = PoolScene()
    sink = scene.call(1)
    _gone(scene)
    scene.at("b").one(rpc="initialize").answer(401, [("WWW-Authenticate", "Bearer")])

    assert scene.relay.session.binding.state is BindingState.LOST
    assert scene.relay.leg.member.name == "a"
    assert sink.status == 401 or reason(sink) == "http_status"

    again = scene.call(2, headers=[("Authorization", "Bearer new")])

    assert scene.at("b").one(rpc="initialize").header("Authorization") == "Bearer new"

    scene.serve("b")
    scene.at("b").one(rpc="tools/call").json()

    assert again.json() == result(2)
    assert scene.relay.leg.member.name == "b"


@pytest.mark.parametrize("status", [401, 403])
def test_a_member_that_wants_other_credentials_is_passed_over(status: int):
    """Another one may take them: the client notices nothing, and nobody is asked twice."""
    scene = PoolScene(upstreams=("a", "b", "c"))
    sink = scene.call(1)
    _gone(scene)
    (first,) = [name for name in "bc" if scene.at(name).find(rpc="initialize")]
    (second,) = {"b", "c"} - {first}
    scene.at(first).one(rpc="initialize").answer(status)
    scene.serve(second)
    scene.at(second).one(rpc="tools/call").json()

    assert (sink.messages or [sink.json()]) == [result(1)]
    assert scene.relay.leg.member.name == second
    assert len([each for each in scene.at(first).attempts if each.rpc == "initialize"]) == 1
    assert [(record.upstream, record.reason) for record in scene.observer.of("rebuild_failed")] == [
        (first, "http_status")
    ]


def test_credentials_that_no_member_takes_park_the_session():
    """Each is asked once, the one that lost the session too; the last one's word is the answer (semantics 12)."""
    scene = PoolScene()
    listening = scene.listening()
    sink = scene.call(1)
    scene.lose_session(scene.at("a").one(rpc="tools/call"))
    for name in "ab":
        scene.at(name).one(rpc="initialize").answer(401, [("WWW-Authenticate", name)], b"who?")

    assert (sink.status, sink.header("WWW-Authenticate")) == (401, "b")
    assert scene.relay.session.binding.state is BindingState.UNBOUND

    scene.clock.advance(60.0)

    assert [scene.at(name).open for name in "ab"] == [[], []]
    assert not listening.is_over


def test_a_session_that_was_denied_elsewhere_goes_home_when_its_member_is_back():
    """The one that took its credentials will take them again: its stream is live there without a request."""
    scene = PoolScene(backoff_min_seconds=20.0)
    scene.listening()
    scene.call(1)
    _gone(scene)
    scene.at("b").one(rpc="initialize").answer(403)
    asked = len(scene.at("b").attempts)
    scene.at("a").reachable = True
    scene.clock.advance(30.0)
    scene.serve("a", "up-3", get_status=200)

    assert len(scene.at("b").attempts) == asked, "who refused them is not asked again"
    assert scene.relay.leg.member.name == "a"
    assert scene.relay.session.binding.state is BindingState.BOUND


def test_a_session_whose_member_takes_no_more_is_parked_where_it_was_denied():
    """A drained one will not have it back, so nothing is waited for."""
    scene = PoolScene()
    scene.listening()
    scene.call(1)
    scene.ctx.pool.drain(scene.member("a"))
    scene.at("a").one(rpc="tools/call").refuse()
    scene.at("b").one(rpc="initialize").answer(403)

    assert scene.relay.session.binding.state is BindingState.UNBOUND
    assert scene.relay.leg.member.name == "b"


def test_a_session_without_a_reader_waits_for_its_next_request_at_home():
    """It was denied elsewhere, nobody listens, and nothing is left that would look after it."""
    scene = PoolScene()
    scene.call(1)
    _gone(scene)
    scene.at("b").one(rpc="initialize").answer(403)
    scene.at("a").reachable = True
    scene.member("a").answered()
    scene.clock.advance(60.0)

    assert scene.at("a").find(rpc="initialize") == []

    sink = scene.call(2)
    scene.serve("a", "up-3")
    scene.at("a").one(rpc="tools/call").json()

    assert sink.json() == result(2)


def test_each_of_several_sessions_is_rebuilt_once():
    """All of a member that is gone go elsewhere, each by one handshake and with its own client's credentials."""
    scene = PoolScene()
    others = [
        open_session(
            scene.registry, upstream_id=f"up-{name}", headers=[("Authorization", f"Bearer {name}")],
            member=scene.member("a"),
        )
        for name in "xyz"
    ]  # fmt: skip
    sinks: list[FakeSink] = []
    for number, relay in enumerate([scene.relay, *others]):
        own = [("Authorization", f"Bearer {number}")]
        sinks.extend(post(relay, request_body("tools/call", each), headers=own) for each in (1, 2))
    _gone(scene)
    handshakes = scene.at("b").find(rpc="initialize")

    assert sorted(attempt.header("Authorization") or "" for attempt in handshakes) == [
        f"Bearer {number}" for number in range(4)
    ]

    for number, attempt in enumerate(handshakes):
        attempt.json(200, initialize_answer(), [(h.SESSION_ID, f"new-{number}")])
    scene.serve("b")
    sent = scene.at("b").find(rpc="tools/call")

    assert len({(attempt.upstream_id, attempt.message["id"]) for attempt in sent}) == len(sent) == 8

    for attempt in sent:
        attempt.json()

    assert all(sink.is_over for sink in sinks)
    assert (scene.member("a").sessions, scene.member("b").sessions) == (0, 4)


def test_a_session_with_a_running_call_leaves_an_ejected_member_that_lives():
    """Ejected for its errors it still runs the call to its end; new requests go to the other one at once."""
    scene = PoolScene(eject_after_seconds=0.0, errors=1)
    sink, attempt = scene.streaming(1, progress(1))
    scene.call(2)
    scene.at("a").last.answer(500)
    scene.serve("b")
    scene.call(3)
    scene.at("b").one(rpc="tools/call").json()
    attempt.frame(result(1))

    assert sink.messages == [progress(1), result(1)]
    assert scene.relay.leg.member.name == "b"
    assert [each.upstream_id for each in scene.at("a").find(method="DELETE", is_open=False)] == ["up-1"]


def test_all_members_down_for_less_than_the_wait():
    """The calls wait for whichever comes back first, and are answered there."""
    scene = PoolScene(rebuild_wait_seconds=30.0)
    sink = scene.call(1)
    for edge in scene.edges:
        edge.reachable = False
    _gone(scene)
    for _ in range(60):
        for edge in scene.edges:
            for attempt in edge.open:
                attempt.refuse()
        scene.clock.advance(0.1)

    assert sink.messages == []

    scene.at("b").reachable = True
    scene.clock.advance(3.0)
    for attempt in scene.at("a").open:
        attempt.refuse()
    scene.clock.advance(1.0)
    scene.serve("b")
    scene.at("b").one(rpc="tools/call").json()

    assert sink.messages == [result(1)]


def test_all_members_down_for_longer():
    """A clear error that the call did not run; the session is kept, and its next call is answered when one is back."""
    scene = PoolScene(rebuild_wait_seconds=3.0)
    sink = scene.call(1)
    for edge in scene.edges:
        edge.reachable = False
    for _ in range(100):
        for edge in scene.edges:
            for attempt in edge.open:
                attempt.refuse()
        scene.clock.advance(0.1)

    assert reason(sink) == "unreachable"

    again = scene.call(2)
    scene.at("b").reachable = True
    for _ in range(29):
        for attempt in scene.at("a").open:
            attempt.refuse()
        scene.serve("b")
        scene.clock.advance(0.1)
    scene.at("b").one(rpc="tools/call").json()

    assert again.messages == [result(2)]


@pytest.mark.parametrize("how", ["silent", "503", "broken"])
def test_a_member_that_hangs_in_the_handshake_is_left(how: str):
    """It accepts connections and does not serve: the session does not stay with it while another one is well."""
    scene = PoolScene(rebuild_wait_seconds=60.0, ping_timeout_seconds=2.0, eject_after_seconds=0.0, errors=2)
    scene.at("a").reachable = True
    sink = scene.call(1)
    scene.lose_session(scene.at("a").last)
    for _ in range(400):
        for attempt in scene.at("a").find(rpc="initialize"):
            if how == "503":
                attempt.answer(503)
            elif how == "broken":
                break_off(attempt)
        scene.clock.advance(0.1)
        if scene.at("b").attempts or how == "broken":
            break
    if how == "broken":
        # One broken connection says nothing of its health: it is asked again.
        scene.clock.advance(1.0)
        scene.serve("a")
        scene.at("a").one(rpc="tools/call").json()
    else:
        scene.serve("b")
        scene.at("b").one(rpc="tools/call").json()

    assert (sink.messages or [sink.json()]) == [result(1)]


def test_a_failover_that_is_closed_leaves_nothing():
    """Closed while the other member is asked: the half made upstream session is ended, all waiting calls have ends."""
    scene = PoolScene()
    listening = scene.listening()
    sink = scene.call(1)
    _gone(scene)
    scene.at("b").one(rpc="initialize").json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    scene.relay.close(CloseReason.DELETED)

    assert reason(sink) == "closed_unsent"
    assert listening.finished
    assert [each.upstream_id for each in scene.at("b").find(method="DELETE", is_open=False)] == ["up-2"]
    scene.assert_nothing_is_left()


def test_a_connection_that_cannot_be_had_is_no_loss_of_the_session():
    """Not made for a reason of our own: the session is still there, and the call waits for a connection."""
    scene = PoolScene()
    sink = scene.call(1)
    scene.at("a").reachable = True
    scene.at("a").last.lost(Loss.NOT_SENT)
    scene.clock.advance(0.5)
    again = scene.at("a").one(rpc="tools/call")
    again.json()

    assert (again.upstream_id, sink.json()) == ("up-1", result(1))
    assert scene.relay.session.binding.generation == 1


def test_a_session_without_ids_fails_over_like_any_other():
    """Nothing but the refused connection says that it is lost."""
    scene = PoolScene(upstream_id=None)
    sink = scene.call(1)
    _gone(scene)
    scene.serve("b", None)
    sent = scene.at("b").one(rpc="tools/call")
    sent.json()

    assert sent.upstream_id is None
    assert (sink.messages or [sink.json()]) == [result(1)]


def test_a_stream_of_the_lost_member_goes_on_as_long_as_it_does():
    """A server that stops listening may still finish what it runs; the client's answer is that one."""
    scene = PoolScene()
    sink, attempt = scene.streaming(1, progress(1))
    scene.call(2)
    scene.at("a").last.refuse()
    scene.at("a").reachable = False
    for each in scene.at("a").find(rpc="initialize"):
        each.refuse()
    scene.clock.advance(2.0)
    scene.serve("b")
    attempt.data(b"data: " + result_body(1) + b"\n\n")

    assert sink.messages == [progress(1), result(1)]
    assert scene.member("a").gate.running == 0


def test_waiting_in_a_move_starts_nothing():
    """What belongs to a binding that a move makes is sent with the switch; the present one is not rebuilt for it."""
    scene = PoolScene()
    scene.move()
    sent: list[str] = []

    class Waiting:
        headers = ()

        def queued(self) -> None:
            sent.append("queued")

        def send(self) -> None:
            sent.append("sent")

        def refuse(self, refusal: Any) -> None:
            sent.append("refused")

    scene.relay.binder.await_switch(Waiting())

    assert sent == ["queued"]
    assert scene.relay.session.binding.state is BindingState.BOUND

    scene.serve("b")

    assert sent == ["queued", "sent"]


def test_one_silent_handshake_is_enough_where_another_member_is_well():
    """It accepts connections, so waiting for it would lead back to it at once; it need not be ejected for that."""
    scene = PoolScene(ping_timeout_seconds=2.0, rebuild_wait_seconds=60.0)
    sink = scene.call(1)
    scene.lose_session(scene.at("a").last)
    scene.clock.advance(2.0)

    assert scene.member("a").is_available
    assert scene.member("a").health.failures == 1
    assert len(scene.at("a").find(rpc="initialize", is_open=False)) == 1

    scene.serve("b")
    scene.at("b").one(rpc="tools/call").json()

    assert sink.messages == [result(1)]


def test_a_silent_handshake_is_tried_again_where_nobody_better_is_there():
    """The other one is out: the session stays, and asks again."""
    scene = PoolScene(ping_timeout_seconds=2.0, rebuild_wait_seconds=60.0)
    scene.eject("b")
    scene.at("a").reachable = True
    scene.call(1)
    scene.lose_session(scene.at("a").last)
    scene.clock.advance(3.0)

    assert len(scene.at("a").find(rpc="initialize", is_open=False)) == 2
    assert scene.relay.leg.member.name == "a"


def test_a_server_that_came_back_is_asked_for_its_tools_anew():
    """It may be another version: what it said before holds for the calls of before."""
    scene = Scene(ask_tools=True, upgrade_after_seconds=60.0)
    scene.call("l", "tools/list")
    scene.edge.last.json(200, result("l", tools=[{"name": "t"}]))
    scene.call(1)
    scene.clock.advance(1.0)

    assert len(scene.edge.find(rpc="tools/list", is_open=False)) == 1

    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.rebuilt()
    scene.clock.advance(1.0)

    assert scene.edge.one(rpc="tools/list").upstream_id == "up-2"
