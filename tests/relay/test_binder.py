"""One session's binding: single flight, credentials, and who is told when it cannot be had."""

from proxy.core.ids import Generation
from proxy.core.session import BindingState, CloseReason
from support.scenes import Scene, break_off, reason, result


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
