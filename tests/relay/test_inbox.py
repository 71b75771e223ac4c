"""Who takes a POST of a session: a call, a delivery, an answer for the session that asked, or the upstream's word."""

import json

import pytest

from proxy.core import jsonrpc
from proxy.core.edge import Request
from proxy.core.head import Head
from proxy.observe.hooks import Observers
from support.fakes import FakeSink, notification_body, post, request_body, result_body
from support.scenes import PoolScene, Scene, message, reason, reason_of, result, server_request


def drops(scene: Scene) -> list[str]:
    """Return why notifications were dropped."""
    return [record.reason for record in scene.observer.of("notification_dropped")]


def bodies(scene: Scene) -> list[bytes]:
    """Return what was sent upstream by POST."""
    return [attempt.request.body for attempt in scene.edge.attempts if attempt.method == "POST"]


def array(*parts: bytes) -> bytes:
    """Write a batch."""
    return b"[" + b",".join(parts) + b"]"


# -- who takes it


def test_a_request_becomes_a_call() -> None:
    """It is entered under its id, and goes upstream byte by byte."""
    scene = Scene()
    body = b' {"jsonrpc":"2.0", "id":"a", "method":"tools/call", "params":{"x":1.0}} '
    post(scene.relay, body)

    assert set(scene.relay.calls) == {"a"}
    assert bodies(scene) == [body]


def test_a_notification_is_delivered() -> None:
    """It becomes no call, and its own 202 follows the upstream's."""
    scene = Scene()
    sink = scene.notify("notifications/roots/list_changed")
    scene.edge.last.answer(202)

    assert scene.relay.calls == {}
    assert sink.status == 202


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b'{"jsonrpc":"2.0"}', b'{"jsonrpc":"2.0","id":null,"method":"m"}', b"\xff\xfe"],
    ids=["empty", "cut", "empty batch", "number", "nothing asked", "null id", "not UTF-8"],
)
def test_what_is_none_of_these_is_the_upstreams_to_judge(body: bytes) -> None:
    """It is passed on as it is, and the upstream's answer is passed back; nothing is entered."""
    scene = Scene(version="2025-03-26")
    sink = post(scene.relay, body)
    attempt = scene.edge.last

    assert attempt.request.body == body
    assert attempt.upstream_id == "up-1"

    attempt.json(400, {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}})
    scene.edge.one(rpc="ping").json(200)

    assert (sink.status, sink.json()["error"]["code"]) == (400, -32700)
    assert scene.relay.calls == {}


@pytest.mark.parametrize(("version", "is_sorted"), [("2025-03-26", True), ("2025-06-18", False), ("2025-11-25", False)])
def test_batches_are_read_where_the_revision_has_them(version: str, is_sorted: bool) -> None:
    """Elsewhere they are the upstream's to judge (semantics 24)."""
    scene = Scene(version=version)
    body = array(request_body("tools/list", 1), request_body("tools/list", 2))
    post(scene.relay, body)

    assert set(scene.relay.calls) == ({1, 2} if is_sorted else set())
    assert bodies(scene) == [body]


def test_a_call_streams_only_where_its_client_takes_streams() -> None:
    """Without `text/event-stream` in `Accept` a slow answer is waited for."""
    for accept, status in (("application/json, text/event-stream", 200), ("application/json", None)):
        scene = Scene()
        sink = FakeSink()
        body = request_body("tools/call", 1)
        headers = [("Accept", accept), ("Mcp-Session-Id", scene.relay.session.id)]
        request = Request(Head("POST", "/mcp", headers), body)
        scene.relay.post(jsonrpc.classify(body), request, sink)
        scene.clock.advance(1.0)

        assert sink.status == status


# -- ids in use, and bounds


def test_an_id_in_use_is_taken_over_by_its_own_request_only() -> None:
    """The same bytes take the running call over; others are told that the id is in use (semantics 21)."""
    scene = Scene()
    first = scene.call(1, params={"a": 1})
    other = scene.call(1, params={"a": 2})
    again = scene.call(1, params={"a": 1})

    assert (other.status, reason(other)) == (200, "id_in_use")
    assert other.json()["id"] == 1
    assert len(bodies(scene)) == 1

    scene.edge.last.json(200)

    assert again.json()["id"] == 1
    assert first.is_over
    assert first.body == b""


def test_a_number_and_its_text_are_two_ids() -> None:
    """JSON-RPC tells 1 from "1"."""
    scene = Scene()
    scene.call(1)
    scene.call("1")

    assert set(scene.relay.calls) == {1, "1"}


def test_a_finished_id_is_free() -> None:
    """What is over does not stand in the way."""
    scene = Scene()
    scene.call(1)
    scene.edge.last.json(200)
    sink = scene.call(1, params={"other": True})
    scene.edge.last.json(200)

    assert sink.json()["result"] == {}


def test_calls_in_flight_are_bounded() -> None:
    """Beyond `max_calls` a call is refused without having run; one that ends makes room."""
    scene = Scene(max_calls=2)
    scene.call(1)
    scene.call(2)
    sink = scene.call(3)

    assert reason(sink) == "too_many_calls"
    assert sink.json()["error"]["data"]["outcome"] == "not_run"
    assert sink.json()["error"]["data"]["limit"] == 2
    assert len(bodies(scene)) == 2

    scene.edge.last.json(200)
    scene.call(4)

    assert set(scene.relay.calls) == {1, 4}


def test_notifications_under_way_are_bounded() -> None:
    """Beyond the same bound the client gets its 202, and the drop is recorded."""
    scene = Scene(max_calls=1)
    scene.notify("notifications/roots/list_changed")
    sink = scene.notify("notifications/roots/list_changed")

    assert sink.status == 202
    assert drops(scene) == ["too_many_notifications"]
    assert len(bodies(scene)) == 1


# -- batches


def test_a_batch_is_admitted_whole_or_not_at_all() -> None:
    """One id in use, or one call too many, refuses every request in it, each under its own id."""
    for settings, why in (({}, "id_in_use"), ({"max_calls": 2}, "too_many_calls")):
        scene = Scene(version="2025-03-26", **settings)
        scene.call(1 if why == "id_in_use" else 9)
        sink = scene.batch(request_body("tools/list", 1), request_body("tools/list", 2))
        answers = sink.json()

        assert [answer["id"] for answer in answers] == [1, 2]
        assert {reason_of(answer) for answer in answers} == {why}
        assert len(bodies(scene)) == 1


def test_a_batch_may_hold_an_id_twice() -> None:
    """It is one call of that id; the upstream judges the rest."""
    scene = Scene(version="2025-03-26")
    scene.batch(request_body("tools/list", 1), request_body("tools/list", 1))

    assert set(scene.relay.calls) == {1}


def test_a_batch_without_requests_is_delivered() -> None:
    """Notifications and responses in an array are answered 202, and the array stays as it was."""
    scene = Scene(version="2025-03-26")
    body = b"[ " + notification_body("notifications/roots/list_changed") + b" ]"
    sink = post(scene.relay, body)
    scene.edge.last.answer(202)

    assert sink.status == 202
    assert bodies(scene) == [body]
    assert scene.relay.calls == {}


def test_a_batch_keeps_what_belongs_to_the_present_session() -> None:
    """The answer to a lost session's request is taken out; the rest is delivered."""
    scene = Scene(version="2025-03-26")
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(7))
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2", get_status=200)
    scene.edge.one(rpc="tools/call").json(200)
    note = notification_body("notifications/roots/list_changed")
    sink = scene.batch(result_body(7), note)

    assert scene.edge.last.request.body == array(note)
    assert len(scene.observer.of("answer_dropped")) == 1

    scene.edge.last.answer(202)

    assert sink.status == 202

    before = len(bodies(scene))
    sink = scene.batch(result_body(7))

    assert (sink.status, sink.body) == (202, b"")
    assert len(bodies(scene)) == before


def test_a_batch_with_an_answer_goes_to_the_session_that_asked() -> None:
    """It is delivered there or nowhere: after a loss it is dropped, not sent to the next session."""
    scene = Scene(version="2025-03-26")
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(7))
    scene.batch(result_body(7), notification_body("notifications/roots/list_changed"))
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2", get_status=200)

    assert drops(scene) == ["upstream_session_lost"]
    assert [attempt for attempt in scene.edge.attempts if b'"result"' in attempt.request.body][1:] == []


def test_the_same_batch_again_takes_the_first_over():
    """As with a single request: identical bytes under ids in flight are not run twice (semantics 21)."""
    scene = Scene(version="2025-03-26")
    members = [request_body("tools/call", number) for number in (1, 2)]
    first, second = scene.batch(*members), scene.batch(*members)
    scene.edge.one(method="POST").json(200, [result(1), result(2)])

    assert first.status == 202
    assert second.json() == [result(1), result(2)]


def test_a_batch_without_its_late_answer_is_still_the_same():
    """What was taken out of the first does not make the second another batch: it joins, and nothing runs twice."""
    scene = Scene(version="2025-03-26")
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(7))
    scene.call("lost")
    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.rebuilt("up-2", get_status=200)
    scene.edge.one(rpc="tools/call").json(200)
    members = [result_body(7), request_body("tools/call", 1)]
    first = scene.batch(*members)
    sent = len(bodies(scene))
    second = scene.batch(*members)
    scene.edge.last.json(200, [result(1)])

    assert len(bodies(scene)) == sent
    assert (first.status, second.json()) == (202, [result(1)])


def _batched_answers(scene: Scene) -> list[int | str]:
    """Lose a session with an open request 1, ask 1 again in the next, and return both ids as shown."""
    sink = scene.listening()
    scene.edge.one(method="GET").frame(server_request(1))
    scene.call("lost")
    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.rebuilt(get_status=200)
    scene.edge.one(rpc="tools/call").json()
    scene.edge.one(method="GET").frame(server_request(1))
    return [message["id"] for message in sink.messages]


def test_answers_in_a_batch_go_to_who_asked_or_nowhere():
    """The lost session's is taken out and recorded, the present one's gets its own id back (semantics 15)."""
    scene = Scene(version="2025-03-26")
    old, new = _batched_answers(scene)
    sink = scene.batch(result_body(old, {"of": "old"}), result_body(new, {"of": "new"}))
    delivered = scene.edge.one(method="POST")
    delivered.answer(202)

    assert json.loads(delivered.request.body) == [result(1, of="new")]
    assert sink.status == 202
    assert len(scene.observer.of("answer_dropped")) == 1


def test_a_batch_whose_ids_need_no_change_keeps_its_bytes():
    """Spacing and order are the client's own."""
    scene = Scene(version="2025-03-26")
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(1))
    body = b'[ {"jsonrpc":"2.0","id":1,  "result":{}} ,{"jsonrpc":"2.0","method":"notifications/x"}]'
    post(scene.relay, body)

    assert scene.edge.last.request.body == body


# -- notifications with a meaning of their own


def test_initialized_is_part_of_the_handshake() -> None:
    """It is noted, and never delivered to a later upstream session, whose rebuild says it by itself."""
    scene = Scene()
    scene.relay.session.initialized = False
    scene.notify("notifications/initialized")

    assert scene.relay.session.initialized

    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")

    assert drops(scene) == ["upstream_session_lost"]
    assert len(scene.edge.find(rpc="notifications/initialized", is_open=False)) == 2


def test_a_cancel_is_forwarded_once() -> None:
    """To the session that runs the call; a second one has nothing to cancel."""
    scene = Scene()
    scene.streaming(1)
    first = scene.cancel(1)
    scene.edge.last.answer(202)
    second = scene.cancel(1)

    assert (first.status, second.status) == (202, 202)
    assert len(scene.edge.find(rpc="notifications/cancelled", is_open=False)) == 1
    assert drops(scene) == ["nothing_to_cancel"]


def test_a_cancel_is_for_the_session_that_runs_the_call() -> None:
    """Lost on its way, it is not delivered to the next one, where that id may be another call's."""
    scene = Scene()
    scene.streaming(1)
    scene.cancel(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")

    assert len(scene.edge.find(rpc="notifications/cancelled", is_open=False)) == 1
    assert drops(scene) == ["upstream_session_lost"]


@pytest.mark.parametrize("params", [{"requestId": 99}, {"requestId": None}, {}, None])
def test_a_cancel_of_nothing_is_accepted_and_recorded(params: dict[str, object] | None) -> None:
    """Unknown, finished or unnamed: the client gets its 202 and the upstream hears nothing."""
    scene = Scene()
    sink = scene.notify("notifications/cancelled", params)

    assert sink.status == 202
    assert bodies(scene) == []
    assert drops(scene) == ["nothing_to_cancel"]


def test_a_cancel_of_a_call_that_never_left_stays_here() -> None:
    """The upstream knows nothing of it; the call is over."""
    scene = Scene()
    scene.call(1)
    scene.edge.last.refuse()
    sink = scene.cancel(1)
    before = len(bodies(scene))
    scene.clock.advance(0.0)

    assert sink.status == 202
    assert len(bodies(scene)) == before
    assert scene.edge.find(rpc="notifications/cancelled", is_open=False) == []
    assert scene.relay.calls == {}


# -- answers to the server's requests


def test_an_answer_goes_to_the_session_that_asked() -> None:
    """Untouched, byte by byte, while the session is the one that asked."""
    scene = Scene()
    scene.listening()
    scene.edge.one(method="GET").frame(server_request("q"))
    sink = scene.respond("q", {"a": 1})
    attempt = scene.edge.last

    assert attempt.request.body == result_body("q", {"a": 1})
    assert attempt.upstream_id == "up-1"

    attempt.answer(202)

    assert sink.status == 202


def test_an_answer_to_a_lost_session_is_dropped_and_recorded() -> None:
    """202, and the new session is not told what it never asked."""
    scene = Scene()
    scene.listening()
    scene.edge.one(method="GET").frame(server_request("q"))
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2", get_status=200)
    before = len(bodies(scene))
    sink = scene.respond("q")

    assert (sink.status, sink.body) == (202, b"")
    assert len(bodies(scene)) == before
    assert len(scene.observer.of("answer_dropped")) == 1


def test_a_request_that_two_generations_share_by_id_is_told_apart() -> None:
    """The later one has got an id of ours; its answer carries the server's own, with its type."""
    scene = Scene()
    sink = scene.listening()
    scene.edge.one(method="GET").frame(server_request(7))
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2", get_status=200)
    scene.edge.one(method="GET").frame(server_request(7))
    asked = [each["id"] for each in sink.messages if each.get("method") == "sampling/createMessage"]

    assert asked[0] == 7
    assert asked[1] != 7

    scene.respond(asked[1], {"a": 1})

    assert json.loads(scene.edge.last.request.body) == {"jsonrpc": "2.0", "id": 7, "result": {"a": 1}}
    assert scene.edge.last.upstream_id == "up-2"


def test_an_answer_nobody_asked_for_is_the_upstreams_to_judge() -> None:
    """In a session that was never rebuilt it can mislead nobody; later it is dropped."""
    scene = Scene()
    scene.respond("unknown")

    assert bodies(scene) == [result_body("unknown")]

    scene.edge.last.answer(202)
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")
    scene.edge.one(rpc="tools/call").json(200)
    before = len(bodies(scene))
    scene.respond("unknown")

    assert len(bodies(scene)) == before


def test_an_error_without_an_id_is_delivered() -> None:
    """A client that could not read a request says so; it belongs to no request."""
    scene = Scene()
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}'
    post(scene.relay, body)

    assert bodies(scene) == [body]


def test_a_message_is_what_it_is_by_its_fields() -> None:
    """A notification the proxy has no name for is delivered like any other."""
    scene = Scene()
    post(scene.relay, json.dumps(message("notifications/unheard-of", x=1)).encode())

    assert scene.edge.last.rpc == "notifications/unheard-of"


def test_a_cancel_names_its_call_by_type_too():
    """`"1"` does not cancel `1`."""
    scene = Scene()
    scene.call(1)
    scene.cancel("1")

    assert scene.edge.find(rpc="notifications/cancelled") == []


def test_a_dropped_answer_is_accepted_where_nobody_watches() -> None:
    """Whether a record is written makes no difference to the client."""
    scene = Scene(observer=Observers())
    scene.listening()
    scene.edge.one(method="GET").frame(server_request("q"))
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2", get_status=200)

    assert scene.respond("q").status == 202


def test_requests_under_way_are_counted_until_they_end():
    """A body is held in the process's budget while its call runs, whatever becomes of it."""
    scene = Scene()
    scene.call(1)
    held = scene.relay.ctx.budget.held

    assert held > 0

    scene.edge.last.json(200, result_body(1))

    assert scene.relay.ctx.budget.held == 0


def test_a_request_that_the_memory_has_no_room_for_is_refused():
    """Beyond the process's cap a call is told "not run" at once; the session and its running calls go on."""
    scene = Scene()
    scene.call(1)
    scene.relay.ctx.budget.held = scene.relay.ctx.budget.limits.bytes_total
    sink = scene.call(2)

    assert reason(sink) == "too_many_bytes"
    assert len(scene.relay.calls) == 1


# -- several legs


def test_a_batch_of_answers_goes_to_the_leg_that_asked() -> None:
    """A batch is one message: its answers belong to the draining session, so it goes there whole."""
    scene = PoolScene(version="2025-03-26")
    _, attempt = scene.streaming(1)
    attempt.frame([server_request(7), server_request(8)])
    scene.moved()
    post(scene.relay, array(result_body(7), result_body(8)))

    assert scene.at("a").last.message == [result(7), result(8)]
    assert scene.at("a").last.upstream_id == "up-1"


def test_the_clients_own_initialized_is_for_the_session_it_was_sent_in() -> None:
    """A move says its own: what the client says after the switch goes to the new one, and marks the session."""
    scene = PoolScene()
    scene.moved()
    post(scene.relay, notification_body("notifications/initialized"))

    assert scene.relay.session.initialized
    assert scene.at("b").last.rpc == "notifications/initialized"


def test_a_request_about_a_task_is_looked_at_only_where_there_are_tasks() -> None:
    """Without a known task every such request is the upstream's."""
    scene = Scene()
    scene.call(1, "tasks/get", {"taskId": "t"})

    assert scene.edge.one(rpc="tasks/get").upstream_id == "up-1"


def test_a_lost_task_costs_no_place_among_the_calls() -> None:
    """It is answered at once: its id is free and nothing is held for it."""
    scene = Scene()
    scene.relay.session.tasks = {"t": 9}
    sink = scene.call(1, "tasks/get", {"taskId": "t"})

    assert reason(sink) == "task_lost"
    assert scene.relay.calls == {}
    assert scene.ctx.budget.held == 0
