"""One POST without requests: taken responsibility for, delivered later or recorded as dropped (semantics 23)."""

import pytest

from proxy.core.session import CloseReason
from proxy.upstream.base import Loss
from support.fakes import FakeSink, post, request_body, result_body
from support.scenes import PoolScene, Scene, break_off, server_request


def _dropped(scene: Scene) -> list[str]:
    return [record.reason for record in scene.observer.of("notification_dropped")]


def test_a_quick_answer_of_the_upstream_is_the_clients():
    """A notification the upstream accepts is answered with the upstream's own 202, after it."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")

    assert sink.status is None

    scene.edge.last.answer(202, [("X-Own", "kept")])

    assert (sink.status, sink.body, sink.header("X-Own")) == (202, b"", "kept")
    assert scene.relay.notes == set()


def test_a_slow_upstream_is_not_waited_for():
    """After `upgrade_after` the client gets its 202; the delivery goes on."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.clock.advance(1.0)

    assert (sink.status, sink.finished) == (202, True)

    attempt = scene.edge.last

    assert attempt.is_open

    attempt.answer(202)

    assert _dropped(scene) == []
    assert scene.relay.notes == set()


def test_a_client_that_has_gone_does_not_stop_the_delivery():
    """The message belongs to the proxy once it has arrived."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    attempt = scene.edge.last
    sink.go_away()
    scene.lose_session(attempt)
    scene.rebuilt("up-2")

    assert scene.edge.one(rpc="notifications/roots/list_changed").upstream_id == "up-2"


@pytest.mark.parametrize("loss", ["gone", "bad", "refused"])
def test_a_notification_of_a_lost_session_is_delivered_in_the_next(loss: str):
    """404, a 400 that a ping confirms, and a refused connection rebuild; the message follows, once."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    attempt = scene.edge.last
    if loss == "gone":
        scene.lose_session(attempt)
    elif loss == "bad":
        attempt.answer(400)
        scene.edge.one(rpc="ping").answer(400)
    else:
        attempt.refuse()
    scene.rebuilt("up-2")
    again = scene.edge.one(rpc="notifications/roots/list_changed")
    again.answer(202)

    assert again.upstream_id == "up-2"
    assert sink.status == 202
    assert _dropped(scene) == []


def test_a_400_in_a_live_session_is_the_upstreams_word():
    """A malformed message that the upstream refuses in a session that answers pings is refused (semantics 23)."""
    scene = Scene()
    sink = scene.notify("notifications/nonsense")
    scene.edge.last.answer(400, [], b"bad")
    scene.edge.one(rpc="ping").json()

    assert (sink.status, sink.body) == (400, b"bad")


def test_an_old_sessions_400_is_no_verdict():
    """Refused by a session that was replaced meanwhile, the message goes to the present one."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    note = scene.edge.last
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")
    note.answer(400)
    again = scene.edge.one(rpc="notifications/roots/list_changed")
    again.answer(202)

    assert again.upstream_id == "up-2"
    assert sink.status == 202
    assert scene.edge.find(rpc="ping", is_open=False) == []


def test_a_second_refusal_is_relayed():
    """One rebuild per message (semantics 11)."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.lose_session(scene.edge.one(rpc="notifications/roots/list_changed"))

    assert sink.status == 404
    assert scene.edge.open == []


def test_a_refusal_after_the_202_is_recorded():
    """The client was told "accepted", so the drop is recorded."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.clock.advance(1.0)
    scene.edge.last.answer(403)

    assert sink.status == 202
    assert _dropped(scene) == ["refused"]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_5xx_never_reaches_the_client(status: int):
    """The delivery is tried again a few times, then the drop is recorded; the client has its 202."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    for _ in range(4):
        scene.edge.one(rpc="notifications/roots/list_changed").answer(status)
        scene.clock.advance(5.0)

    assert sink.status == 202
    assert scene.edge.open == []
    assert _dropped(scene) == [f"http_{status}"]


def test_a_failed_delivery_is_not_repeated():
    """The server itself failed over it, so it may have been taken: recorded at once, 202 for the client."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.edge.one(rpc="notifications/roots/list_changed").answer(500)
    scene.clock.advance(5.0)

    assert sink.status == 202
    assert scene.edge.open == []
    assert _dropped(scene) == ["http_500"]


def test_an_answer_is_not_delivered_twice():
    """A gateway's 503 to the answer of a server request proves nothing, and an answer must not come twice."""
    scene = Scene()
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(7))
    sink = scene.respond(7)
    scene.edge.last.answer(503)
    scene.clock.advance(5.0)

    assert sink.status == 202
    assert _dropped(scene) == ["http_503"]


def test_a_5xx_that_passes_is_no_loss():
    """A delivery that succeeds later is no drop."""
    scene = Scene()
    scene.notify("notifications/roots/list_changed")
    scene.edge.last.answer(503)
    scene.clock.advance(5.0)
    scene.edge.one(rpc="notifications/roots/list_changed").answer(202)

    assert _dropped(scene) == []


def test_a_broken_connection_is_recorded_as_a_drop():
    """It may have been delivered: it is not sent twice, the client gets 202."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    break_off(scene.edge.last)

    assert sink.status == 202
    assert _dropped(scene) == ["connection_broken"]
    assert scene.edge.open == []


def test_a_redirect_is_recorded_as_a_drop():
    """Nothing follows another address."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.edge.last.answer(307, [("Location", "http://elsewhere")])

    assert sink.status == 202
    assert _dropped(scene) == ["redirected"]


def test_a_server_that_stays_away_makes_a_recorded_drop():
    """After `rebuild_wait_seconds` the drop is recorded; the client had its 202 after a second."""
    scene = Scene()
    scene.edge.reachable = False
    sink = scene.notify("notifications/roots/list_changed")
    scene.edge.last.refuse()
    scene.edge.one(rpc="initialize").refuse()
    scene.clock.advance(1.0)

    assert sink.status == 202

    scene.clock.advance(9.5)

    assert _dropped(scene) == ["unreachable"]
    assert scene.relay.notes == set()


def test_a_message_under_way_is_not_given_up_by_the_wait_before_it():
    """The bound of the wait ends with the wait: a slow delivery after a rebuild is no drop."""
    scene = Scene()
    scene.notify("notifications/roots/list_changed")
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    note = scene.edge.one(rpc="notifications/roots/list_changed")
    scene.clock.advance(15.0)

    assert _dropped(scene) == []

    note.answer(202)

    assert _dropped(scene) == []
    assert scene.relay.notes == set()


def test_a_stream_in_answer_to_a_notification_is_cut():
    """Nothing was asked, so nothing that streams is an answer."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    attempt = scene.edge.last
    attempt.sse()

    assert sink.status == 202
    assert attempt.is_aborted


def test_the_clients_own_initialized_belongs_to_its_session():
    """A rebuild sends its own `initialized`: the client's is not repeated in the next session."""
    scene = Scene()
    sink = scene.notify("notifications/initialized")
    scene.edge.last.refuse()
    scene.rebuilt("up-2")

    assert sink.status == 202
    sent = scene.edge.find(rpc="notifications/initialized", is_open=False)
    assert [attempt.upstream_id for attempt in sent] == ["up-1", "up-2"]


def test_a_cancel_does_not_follow_into_the_next_session():
    """A cancel names a call of the old session: in the next it could hit another one."""
    scene = Scene()
    _, attempt = scene.streaming(1)
    sink = scene.cancel(1)
    scene.lose_session(scene.edge.one(rpc="notifications/cancelled"))
    scene.rebuilt()

    assert sink.status == 202
    assert scene.edge.find(rpc="notifications/cancelled") == []
    assert _dropped(scene) == ["upstream_session_lost"]
    assert attempt.is_open


def test_a_batch_of_notifications_gets_one_202():
    """A batch without requests is one message (2025-03-26)."""
    scene = Scene(version="2025-03-26")
    body = b'[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"b"}]'
    sink = post(scene.relay, body)
    scene.edge.last.answer(202)

    assert scene.edge.last.request.body == body
    assert sink.status == 202


@pytest.mark.parametrize("is_waiting", [True, False])
def test_the_end_of_the_session_records_each_drop_once(is_waiting: bool):
    """A message under way or waiting when the session closes is recorded once, and its client gets 202."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    if is_waiting:
        scene.lose_session(scene.edge.last)
    scene.relay.close(CloseReason.DELETED)

    assert sink.status == 202
    assert _dropped(scene) == ["session_closed"]
    assert all(attempt.method == "DELETE" for attempt in scene.edge.open)


def test_a_rebuild_that_is_refused_drops_the_message():
    """The reason says which row of the fault table it was."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.lose_session(scene.edge.last)
    scene.edge.one(rpc="initialize").answer(422)

    assert sink.status == 202
    assert _dropped(scene) == ["rebuild_refused"]


def test_a_malformed_message_is_refused_by_the_upstream():
    """What is no JSON-RPC goes through unchanged, and so does the upstream's 400."""
    scene = Scene()
    sink = post(scene.relay, b"{nonsense")
    attempt = scene.edge.last
    attempt.answer(400, [("Mcp-Session-Id", "up-9")], b"parse error")
    scene.edge.one(rpc="ping").json()

    assert attempt.upstream_id == "up-1"
    assert (sink.status, sink.body) == (400, b"parse error")
    assert sink.header("Mcp-Session-Id") == scene.relay.session.id


# -- responses to the server's requests


def test_a_response_is_delivered_like_a_notification():
    """202 for the client, and the body unchanged upstream."""
    scene = Scene()
    sink = post(scene.relay, result_body("s1", {"x": 1}))
    scene.edge.last.answer(202)

    assert scene.edge.last.request.body == result_body("s1", {"x": 1})
    assert sink.status == 202


def test_a_request_is_no_note():
    """Requests are never answered 202 by the proxy."""
    scene = Scene()
    sink = post(scene.relay, request_body("tools/list", 1))
    scene.clock.advance(2.0)

    assert sink.status == 200


# -- a pool


def test_a_notification_follows_its_session_to_another_member():
    """Refused where the session lay, it is delivered where it lies then, once."""
    scene = PoolScene(eject_after_seconds=0.0)
    sink = scene.notify("notifications/roots/list_changed")
    scene.at("a").reachable = False
    scene.at("a").last.refuse()
    for attempt in scene.at("a").find(rpc="initialize"):
        attempt.refuse()
    scene.clock.advance(0.9)
    scene.serve("b")
    again = scene.at("b").one(rpc="notifications/roots/list_changed")
    again.answer(202)

    assert again.upstream_id == "up-2"
    assert sink.status == 202
    assert _dropped(scene) == []


def test_a_connection_that_cannot_be_had_is_waited_for():
    """Provably not delivered: sent again in the same upstream session when the member can be reached."""
    scene = PoolScene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.at("a").reachable = True
    scene.at("a").last.lost(Loss.NOT_SENT)
    scene.clock.advance(0.5)
    again = scene.at("a").one(rpc="notifications/roots/list_changed")
    again.answer(202)

    assert (again.upstream_id, sink.status) == ("up-1", 202)


@pytest.mark.parametrize("loss", [Loss.REFUSED, Loss.NOT_SENT])
def test_a_connection_that_cannot_be_had_counts_against_the_member(loss: Loss):
    """Notifications notice an outage like calls do."""
    scene = PoolScene()
    scene.notify("notifications/roots/list_changed")
    scene.at("a").last.lost(loss)

    assert scene.member("a").health.failures == 1
    assert scene.member("a").recovery.is_down


def _asked_and_moved() -> PoolScene:
    """Let the old upstream session have an open question and a running call after a move."""
    scene = PoolScene()
    _, attempt = scene.streaming(1)
    attempt.frame(server_request(7))
    scene.moved()
    return scene


@pytest.mark.parametrize("loss", ["gone", "bad", "refused"])
def test_an_answer_for_a_draining_session_that_is_lost_goes_nowhere(loss: str):
    """Neither to the new one, which never asked, nor a second time to the old one."""
    scene = _asked_and_moved()
    before = len(scene.at("b").attempts)
    sink = scene.respond(7)
    attempt = scene.at("a").last
    if loss == "gone":
        scene.lose_session(attempt)
    elif loss == "bad":
        attempt.answer(400)
        scene.at("a").one(rpc="ping").answer(404)
    else:
        attempt.refuse()

    assert sink.status == 202
    assert _dropped(scene) == ["upstream_session_lost"]
    assert len(scene.at("b").attempts) == before
    assert scene.relay.older == ()
    assert scene.relay.notes == set()


def test_a_400_of_a_draining_session_that_lives_is_its_word():
    """A ping there is answered, so the message itself was bad; the call there runs on."""
    scene = _asked_and_moved()
    sink = scene.respond(7)
    scene.at("a").last.answer(400, [], b"bad")
    scene.at("a").one(rpc="ping").json()

    assert (sink.status, sink.body) == (400, b"bad")
    assert [leg.member.name for leg in scene.relay.older] == ["a"]


def test_an_answer_that_is_under_way_when_the_drain_ends_is_no_second_one():
    """The old session ends while its answer is on the way: accepted by it or not, it goes nowhere else."""
    scene = _asked_and_moved()
    sink = scene.respond(7)
    note = scene.at("a").last
    scene.clock.advance(60.0)
    if note.is_open:
        note.answer(202)

    assert sink.status == 202
    assert scene.at("b").find(is_open=True) == []
    assert scene.relay.notes == set()


def test_a_notification_that_is_nobodys_goes_to_the_present_session():
    """What the client says of itself is for whoever answers it from now on."""
    scene = _asked_and_moved()
    scene.notify("notifications/roots/list_changed")

    assert scene.at("b").last.rpc == "notifications/roots/list_changed"


def _told_of_progress(scene: PoolScene, token: str) -> FakeSink:
    return scene.notify("notifications/progress", {"progressToken": token, "progress": 1})


def test_progress_of_a_draining_sessions_question_is_told_to_it():
    """The one that took its place asked nothing; what names no open question goes to the present one."""
    scene = PoolScene()
    _, attempt = scene.streaming(1)
    question = {**server_request(7), "params": {"_meta": {"progressToken": "mine"}}}
    attempt.frame(question)
    scene.moved()
    before = len(scene.at("b").attempts)
    told = _told_of_progress(scene, "mine")
    scene.at("a").last.answer(202)

    assert told.status == 202
    assert b'"mine"' in scene.at("a").last.request.body
    assert len(scene.at("b").attempts) == before

    _told_of_progress(scene, "another")
    assert b'"another"' in scene.at("b").last.request.body
    scene.at("b").last.answer(202)

    scene.respond(7)
    scene.at("a").last.answer(202)
    _told_of_progress(scene, "mine")
    assert b'"mine"' in scene.at("b").last.request.body


def test_progress_of_a_lost_sessions_question_goes_nowhere():
    """Neither to the session that takes its place, nor into the queue for it: dropped at once."""
    scene = Scene()
    _, attempt = scene.streaming(1)
    attempt.frame({**server_request(7), "params": {"_meta": {"progressToken": "mine"}}})
    scene.notify("notifications/roots/list_changed")
    scene.lose_session(scene.edge.last)
    told = scene.notify("notifications/progress", {"progressToken": "mine", "progress": 1})

    assert told.status == 202
    assert _dropped(scene) == ["upstream_session_lost"]
    scene.rebuilt()
    assert all(b'"mine"' not in attempt.request.body for attempt in scene.edge.attempts)
