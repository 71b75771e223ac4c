"""One POST of a session, sorted: who deals with it, and that an answer goes to who asked, or nowhere."""

import json

from support.fakes import notification_body, post, request_body, result_body
from support.scenes import Scene, reason_of, result, server_request


def test_each_kind_finds_its_way():
    """A request becomes a call, a notification and a response are taken responsibility for, the rest passes."""
    scene = Scene()
    post(scene.relay, request_body("tools/list", 1))
    post(scene.relay, notification_body("notifications/x"))
    post(scene.relay, result_body(7))
    post(scene.relay, b"nonsense")

    assert list(scene.relay.calls) == [1]
    assert len(scene.relay.notes) == 2
    assert len(scene.ctx.passing) == 1
    assert [attempt.upstream_id for attempt in scene.edge.open] == ["up-1"] * 4


def test_messages_above_the_bound_are_recorded_as_dropped():
    """Nobody can make the proxy hold notifications without end: 202, and a record."""
    scene = Scene(max_calls=2)
    sinks = [scene.notify("notifications/x") for _ in range(3)]

    assert len(scene.edge.open) == 2
    assert sinks[2].status == 202
    assert [record.reason for record in scene.observer.of("notification_dropped")] == ["too_many_notifications"]


def test_a_batch_is_counted_by_its_requests():
    """A batch that would exceed `max_calls` runs not at all, and each member is told."""
    scene = Scene(version="2025-03-26", max_calls=2)
    sink = scene.batch(*(request_body("tools/call", number) for number in (1, 2, 3)))

    assert [reason_of(answer) for answer in sink.json()] == ["too_many_calls"] * 3
    assert scene.edge.open == []


def test_the_same_batch_again_takes_the_first_over():
    """As with a single request: identical bytes under ids in flight are not run twice (semantics 21)."""
    scene = Scene(version="2025-03-26")
    members = [request_body("tools/call", number) for number in (1, 2)]
    first, second = scene.batch(*members), scene.batch(*members)
    scene.edge.one(method="POST").json(200, [result(1), result(2)])

    assert first.status == 202
    assert second.json() == [result(1), result(2)]


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


def test_a_batch_of_lost_answers_goes_nowhere():
    """Accepted, recorded, and nothing is sent."""
    scene = Scene(version="2025-03-26")
    old, _ = _batched_answers(scene)
    sink = scene.batch(result_body(old))

    assert sink.status == 202
    assert scene.edge.find(method="POST") == []


def test_a_batch_whose_ids_need_no_change_keeps_its_bytes():
    """Spacing and order are the client's own."""
    scene = Scene(version="2025-03-26")
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(1))
    body = b'[ {"jsonrpc":"2.0","id":1,  "result":{}} ,{"jsonrpc":"2.0","method":"notifications/x"}]'
    post(scene.relay, body)

    assert scene.edge.last.request.body == body


def test_a_cancel_of_an_unknown_call_goes_nowhere():
    """Nothing to cancel: accepted and recorded."""
    scene = Scene()

    assert scene.cancel(99).status == 202
    assert scene.edge.attempts == []
    assert [record.reason for record in scene.observer.of("notification_dropped")] == ["nothing_to_cancel"]


def test_a_cancel_names_its_call_by_type_too():
    """`"1"` does not cancel `1`."""
    scene = Scene()
    scene.call(1)
    scene.cancel("1")

    assert scene.edge.find(rpc="notifications/cancelled") == []
