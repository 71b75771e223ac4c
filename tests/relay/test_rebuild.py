"""The stored handshake again: its order, what it restores, and what is told afterwards."""

import pytest

from proxy.core import headers as h
from proxy.core.session import BindingState, CloseReason
from support.fakes import Attempt, initialize_answer, initialize_body
from support.scenes import PoolScene, Scene, break_off, reason, result, server_request


def _lost(scene: Scene) -> Attempt:
    """Lose the session under a call and return the rebuild's first step."""
    scene.call("lost")
    scene.lose_session(scene.edge.find(rpc="tools/call")[-1])
    return scene.edge.one(rpc="initialize")


def _subscribed(scene: Scene, *uris: str, level: str = "") -> None:
    for uri in uris:
        scene.call(f"sub-{uri}", "resources/subscribe", {"uri": uri})
        scene.edge.last.json()
    if level:
        scene.call("level", "logging/setLevel", {"level": level})
        scene.edge.last.json()


def test_the_steps_come_in_their_order():
    """`initialize`, `initialized`, the standalone stream, the log level, the subscriptions, then the call (point 7)."""
    scene = Scene()
    _subscribed(scene, "a", "b", level="debug")
    scene.listening()
    before = len(scene.edge.attempts)
    _lost(scene)
    scene.rebuilt("up-2", get_status=200)

    steps = scene.edge.attempts[before + 1 :]
    assert [attempt.rpc or attempt.method for attempt in steps] == [
        "initialize",
        "notifications/initialized",
        "GET",
        "logging/setLevel",
        "resources/subscribe",
        "resources/subscribe",
        "tools/call",
    ]
    assert [attempt.upstream_id for attempt in steps] == [None, *["up-2"] * 6]
    assert steps[3].message["params"] == {"level": "debug"}
    assert [step.message["params"]["uri"] for step in steps[4:6]] == ["a", "b"]


def test_the_handshake_is_the_clients_own():
    """The recorded body goes out again; only a version that was negotiated differently is replaced (semantics 12)."""
    scene = Scene(version="2025-06-18")
    scene.relay.session.handshake.body = initialize_body("2025-11-25")
    step = _lost(scene)

    assert step.request.body == initialize_body("2025-06-18")
    assert step.header(h.PROTOCOL_VERSION) is None


def test_later_steps_carry_the_negotiated_version():
    """A server that gets no version header assumes an old one and does not prime its streams."""
    scene = Scene(version="2025-06-18")
    _lost(scene)
    scene.edge.one(rpc="initialize").json(200, initialize_answer("2025-06-18"), [(h.SESSION_ID, "up-2")])

    assert scene.edge.one(rpc="notifications/initialized").header(h.PROTOCOL_VERSION) == "2025-06-18"


def test_the_handshake_may_be_answered_by_a_stream():
    """Priming and other frames ahead of the result are no hindrance."""
    scene = Scene()
    step = _lost(scene)
    step.sse([(h.SESSION_ID, "up-2")])
    step.data(b"id: p1\ndata:\n\n")
    step.frame({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    step.frame(initialize_answer())

    assert scene.edge.one(rpc="notifications/initialized").upstream_id == "up-2"
    assert step.is_aborted


def test_a_server_without_a_standalone_stream_is_no_hindrance():
    """405 to the GET: the rebuild goes on."""
    scene = Scene()
    scene.get()
    scene.edge.one(method="GET").answer(405)
    _lost(scene)
    scene.rebuilt("up-2", get_status=405)

    assert scene.edge.one(rpc="tools/call").upstream_id == "up-2"


def test_a_slow_standalone_head_is_waited_for_a_second():
    """Then the rebuild goes on without it."""
    scene = Scene()
    scene.listening()
    step = _lost(scene)
    step.json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    scene.edge.one(rpc="notifications/initialized").answer(202)

    assert scene.edge.one(method="GET").upstream_id == "up-2"
    assert scene.edge.find(rpc="tools/call") == []

    scene.clock.advance(1.0)

    assert scene.edge.one(rpc="tools/call").upstream_id == "up-2"


def test_a_client_that_never_listened_gets_no_upstream_stream():
    """The GET belongs to the rebuild only where the client had opened its own."""
    scene = Scene()
    _lost(scene)
    scene.rebuilt()

    assert scene.edge.find(method="GET", is_open=False) == []


def test_a_subscription_that_cannot_be_restored_is_no_hindrance():
    """A resource that is gone stays gone: recorded, and the rebuild goes on."""
    scene = Scene()
    _subscribed(scene, "a")
    step = _lost(scene)
    step.json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    scene.edge.one(rpc="notifications/initialized").answer(202)
    restore = scene.edge.one(rpc="resources/subscribe")
    restore.json(200, {"jsonrpc": "2.0", "id": restore.message["id"], "error": {"code": 1, "message": "gone"}})

    assert scene.edge.one(rpc="tools/call")
    assert [record.reason for record in scene.observer.of("request_rejected")] == ["not_restored"]


def test_a_server_that_falls_again_during_the_rebuild_is_waited_for():
    """The handshake starts over in a third session, the stream is opened there, and the second is ended."""
    scene = Scene()
    _subscribed(scene, "a")
    scene.listening()
    scene.edge.reachable = True
    step = _lost(scene)
    step.json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    scene.edge.one(rpc="notifications/initialized").answer(202)
    scene.edge.one(method="GET").sse()
    scene.lose_session(scene.edge.one(rpc="resources/subscribe"))
    scene.clock.advance(1.0)
    scene.edge.one(rpc="initialize").json(200, initialize_answer(), [(h.SESSION_ID, "up-3")])
    scene.edge.one(rpc="notifications/initialized").answer(202)

    assert scene.edge.one(method="GET").upstream_id == "up-3"
    assert scene.edge.one(method="DELETE").upstream_id == "up-2"

    scene.edge.one(method="GET").sse()
    scene.edge.one(rpc="resources/subscribe").json()

    assert scene.edge.one(rpc="tools/call").upstream_id == "up-3"
    assert scene.relay.session.binding.generation == 2


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_is_still_starting_is_waited_for(status: int):
    """A 5xx to the handshake is tried again within the request's time."""
    scene = Scene()
    scene.edge.reachable = True
    _lost(scene).answer(status)
    scene.clock.advance(1.0)

    assert scene.edge.one(rpc="initialize")


def test_a_connection_that_breaks_in_the_handshake_is_tried_again():
    """So is one that breaks off."""
    scene = Scene()
    scene.edge.reachable = True
    break_off(_lost(scene))
    scene.clock.advance(1.0)

    assert scene.edge.one(rpc="initialize")


def test_a_silent_handshake_is_tried_again():
    """A stopped process accepts connections and says nothing: the step has a deadline."""
    scene = Scene(rebuild_wait_seconds=60.0)
    scene.edge.reachable = True
    step = _lost(scene)
    scene.clock.advance(11.0)

    assert step.is_aborted
    assert scene.edge.one(rpc="initialize") is not step


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_handshake_refused_by_the_server_is_told(status: int):
    """The call did not run; its error says what the server answered."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.edge.one(rpc="initialize").answer(status, [], b'{"why": 1}')

    assert reason(sink) == "rebuild_refused"
    data = sink.json()["error"]["data"]
    assert (data["http_status"], data["upstream_error"], data["outcome"]) == (status, '{"why": 1}', "not_run")


def test_a_refused_initialized_ends_the_attempt():
    """A server that takes the handshake and not the notification cannot host; its session is ended."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.edge.one(rpc="initialize").json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    scene.edge.one(rpc="notifications/initialized").answer(400)

    assert reason(sink) == "rebuild_refused"
    assert scene.edge.one(method="DELETE").upstream_id == "up-2"


def test_an_illegal_upstream_id_is_none():
    """An id outside visible ASCII is not sent back."""
    scene = Scene()
    _lost(scene).json(200, initialize_answer(), [(h.SESSION_ID, "a b")])

    assert scene.edge.one(rpc="notifications/initialized").upstream_id is None


def test_a_session_closed_meanwhile_ends_the_half_made_one():
    """DELETE during a rebuild: its steps stop, and the upstream is told to forget what it made."""
    scene = Scene()
    step = _lost(scene)
    step.json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    note = scene.edge.one(rpc="notifications/initialized")
    scene.relay.close(CloseReason.DELETED)

    assert note.is_aborted
    assert scene.edge.one(method="DELETE").upstream_id == "up-2"

    scene.settle()

    assert scene.edge.open == []


def test_a_step_after_the_close_is_not_taken():
    """A rebuild that waits for the server when the session closes does nothing when the server comes."""
    scene = Scene()
    scene.edge.reachable = False
    _lost(scene).refuse()
    scene.relay.close(CloseReason.DELETED)
    scene.edge.reachable = True
    scene.settle()

    assert scene.edge.find(rpc="initialize") == []


# -- what is told afterwards


def test_the_resync_is_told_exactly_as_promised():
    """One `list_changed` per promised list, one `updated` per restored subscription, nothing else (semantics 14)."""
    scene = Scene(promises=("tools", "resources", "subscribe"))
    _subscribed(scene, "file:///a", "file:///b")
    sink = scene.listening()
    _lost(scene)
    scene.rebuilt(get_status=200)

    assert [(message["method"], message.get("params")) for message in sink.messages] == [
        ("notifications/tools/list_changed", None),
        ("notifications/resources/list_changed", None),
        ("notifications/resources/updated", {"uri": "file:///a"}),
        ("notifications/resources/updated", {"uri": "file:///b"}),
    ]
    assert not sink.is_over
    assert [record.count for record in scene.observer.of("resync_told")] == [4]


def test_nothing_promised_nothing_told():
    """A client that was promised no changes is told of none."""
    scene = Scene()
    sink = scene.listening()
    _lost(scene)
    scene.rebuilt(get_status=200)

    assert sink.messages == []
    assert scene.observer.of("resync_told") == []


def test_the_resync_waits_for_a_reader_that_comes_later():
    """It is in the log: a client that listens after the rebuild gets it."""
    scene = Scene(promises=("tools",))
    scene.listening().go_away()
    _lost(scene)
    scene.rebuilt(get_status=200)
    sink = scene.get()

    assert [message["method"] for message in sink.messages] == ["notifications/tools/list_changed"]


def test_the_resync_comes_before_the_answers_of_waiting_calls():
    """A client that has its answer already knows that its lists may have changed."""
    scene = Scene(promises=("tools",))
    sink = scene.listening()
    _lost(scene)
    scene.rebuilt(get_status=200)

    assert sink.messages
    assert scene.edge.one(rpc="tools/call").is_open


def test_the_clients_standalone_stream_continues():
    """One response for the client, frames of both upstream sessions in it, ids rising."""
    scene = Scene()
    sink = scene.listening()
    scene.edge.one(method="GET").frame(server_request("first"), "x1")
    _lost(scene)
    scene.rebuilt(get_status=200)
    scene.edge.one(method="GET").frame(server_request(1), "x1")

    assert [message["id"] for message in sink.messages] == ["first", 1]
    offsets = [int(text.rpartition("-")[2]) for text in sink.ids]
    assert offsets == sorted(set(offsets))
    assert not sink.is_over


# -- server requests across generations (semantics 15)


def test_a_late_answer_to_a_lost_sessions_request_goes_nowhere():
    """Accepted with 202, recorded as dropped, never sent to the new session (point 7)."""
    scene = Scene()
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(1))
    _lost(scene)
    scene.rebuilt(get_status=200)
    before = len(scene.edge.attempts)
    answered = scene.respond(1)

    assert answered.status == 202
    assert len(scene.edge.attempts) == before
    assert len(scene.observer.of("answer_dropped")) == 1


def test_a_second_answer_after_the_rebuild_goes_nowhere_either():
    """An id the new session never asked with is of no use to it."""
    scene = Scene()
    _lost(scene)
    scene.rebuilt()
    before = len(scene.edge.attempts)

    assert scene.respond("never asked").status == 202
    assert len(scene.edge.attempts) == before


@pytest.mark.parametrize("request_id", [1, "1"])
def test_colliding_ids_of_two_sessions_are_kept_apart(request_id: int | str):
    """The new session's request gets another id while the old one is unanswered; each answer goes where it belongs."""
    scene = Scene()
    sink = scene.listening()
    scene.edge.one(method="GET").frame(server_request(request_id))
    _lost(scene)
    scene.rebuilt("up-2", get_status=200)
    scene.edge.one(method="GET").frame(server_request(request_id))
    old, new = [message["id"] for message in sink.messages]

    assert old == request_id
    assert new != request_id

    scene.respond(old)

    assert len(scene.observer.of("answer_dropped")) == 1

    answered = scene.respond(new, {"chosen": 1})
    note = scene.edge.last
    note.answer(202)

    assert (note.upstream_id, note.message["id"]) == ("up-2", request_id)
    assert type(note.message["id"]) is type(request_id)
    assert note.message["result"] == {"chosen": 1}
    assert answered.status == 202


def test_number_and_string_ids_of_two_sessions_do_not_collide():
    """`1` of the old session and `"1"` of the new are different ids and stay as they are."""
    scene = Scene()
    sink = scene.listening()
    scene.edge.one(method="GET").frame(server_request(1))
    _lost(scene)
    scene.rebuilt(get_status=200)
    scene.edge.one(method="GET").frame(server_request("1"))

    assert [message["id"] for message in sink.messages] == [1, "1"]

    scene.respond("1")

    assert scene.edge.last.message["id"] == "1"


def test_an_answer_during_the_rebuild_to_the_old_session_is_dropped():
    """The request is closed as soon as its session is known to be lost."""
    scene = Scene()
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(1))
    _lost(scene)

    assert scene.respond(1).status == 202
    assert len(scene.observer.of("answer_dropped")) == 1


def test_an_answer_during_the_rebuild_to_the_new_session_is_delivered():
    """The stream opens before the restore is done: what is asked on it may be answered before that, too."""
    scene = Scene()
    _subscribed(scene, "a")
    sink = scene.listening()
    step = _lost(scene)
    step.json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    scene.edge.one(rpc="notifications/initialized").answer(202)
    link = scene.edge.one(method="GET")
    link.sse()
    link.frame(server_request(7))

    assert sink.messages[-1]["id"] == 7

    scene.respond(7)
    scene.edge.one(rpc="resources/subscribe").json()
    delivered = scene.edge.last

    assert (delivered.message, delivered.upstream_id) == (result(7), "up-2")


def test_the_session_survives_any_number_of_rebuilds():
    """One session id, one log, rising generations."""
    scene = Scene()
    for number in range(2, 8):
        sink = scene.call(number)
        scene.lose_session(scene.edge.last)
        scene.rebuilt(f"up-{number}")
        scene.edge.one(rpc="tools/call").json()

        assert sink.json()["id"] == number
        assert scene.relay.session.binding.generation == number
    assert scene.relay.session.binding.state is BindingState.BOUND


def test_a_question_is_answered_once():
    """A second answer to the same request of a rebuilt session goes nowhere."""
    scene = Scene()
    scene.listening()
    _lost(scene)
    scene.rebuilt(get_status=200)
    scene.edge.one(method="GET").frame(server_request(1))
    scene.respond(1)
    before = len(scene.edge.attempts)
    second = scene.respond(1)

    assert second.status == 202
    assert len(scene.edge.attempts) == before
    assert len(scene.observer.of("answer_dropped")) == 1


# -- what it says of the member


def test_a_half_made_session_hears_nothing_while_its_rebuild_waits():
    """Its stream is cut with it, before the next attempt."""
    scene = Scene()
    _subscribed(scene, "a")
    scene.listening()
    step = _lost(scene)
    step.json(200, initialize_answer(), [(h.SESSION_ID, "up-2")])
    scene.edge.one(rpc="notifications/initialized").answer(202)
    link = scene.edge.one(method="GET")
    link.sse()
    scene.edge.one(rpc="resources/subscribe").answer(503)

    assert link.is_aborted
    assert scene.edge.find(method="GET") == []


@pytest.mark.parametrize("how", ["refused", "503", "silent"])
def test_a_handshake_that_fails_counts_against_the_member_and_one_that_works_ends_the_row(how: str):
    """A rebuild notices an outage, and its end, like calls do."""
    scene = Scene(ping_timeout_seconds=2.0, rebuild_wait_seconds=60.0)
    scene.edge.reachable = True
    step = _lost(scene)
    if how == "refused":
        step.refuse()
    elif how == "503":
        step.answer(503)
    else:
        scene.clock.advance(2.0)

    assert scene.relay.leg.member.health.failures == 1

    scene.clock.advance(1.0)
    scene.rebuilt()

    assert scene.relay.leg.member.health.failures == 0


def test_a_member_that_would_not_host_the_session_is_asked_again_after_a_wait():
    """It may be another version by then: an outage of the others leads back to it."""
    scene = PoolScene(rebuild_wait_seconds=60.0, eject_after_seconds=0.5)
    sink = scene.call(1)
    scene.lose_session(scene.at("a").last)
    scene.at("a").one(rpc="initialize").answer(422)
    scene.at("b").reachable = False
    scene.at("b").one(rpc="initialize").refuse()
    scene.clock.advance(2.0)
    scene.serve("a")
    scene.at("a").one(rpc="tools/call").json()

    assert sink.messages == [result(1)]
    assert scene.relay.leg.member.name == "a"
