"""Tasks (2025-11-25): which of a session's are known to run, where, and what becomes of them with their session."""

from typing import Any

import pytest

from proxy.core import jsonrpc
from proxy.core.ids import Generation
from proxy.relay import tasks
from support.fakes import FakeSink, notification_body, request_body, result_body
from support.scenes import PoolScene, Scene, message, reason, result

NONSENSE = [
    b"",
    b"{",
    b"[]",
    b'{"result":7}',
    b'{"result":{"task":[]}}',
    b'{"result":{"task":{"taskId":7}}}',
    b"[" * 3000,
]


def _began(scene: Scene, task_id: str = "t", request_id: int | str = "begin") -> FakeSink:
    """Call a tool that answers with a task."""
    sink = scene.call(request_id, "tools/call", {"name": "slow", "task": {"ttl": 60000}})
    scene.edge.find(rpc="tools/call")[-1].json(200, result(request_id, task={"taskId": task_id, "status": "working"}))
    return sink


def _ask(
    scene: Scene, method: str, task_id: str = "t", *, status: str = "working", request_id: Any = "ask"
) -> FakeSink:
    """Ask about a task, and let the server answer."""
    sink = scene.call(request_id, method, {"taskId": task_id})
    answer = {"taskId": task_id, "status": status} if method != "tasks/result" else {"content": []}
    scene.edge.one(rpc=method).json(200, result(request_id, **answer))
    return sink


# -- from the calls of a session


def test_a_task_is_noted_with_the_upstream_session_that_began_it():
    """Its answer passes unchanged, and the session is bound to where it runs."""
    scene = Scene()
    sink = _began(scene)

    assert sink.json()["result"]["task"]["taskId"] == "t"
    assert scene.relay.session.tasks == {"t": 1}


def test_a_task_that_is_told_by_a_stream_is_noted_too():
    """An answer that comes as an event counts the same."""
    scene = Scene()
    scene.call(1, "tools/call", {"name": "slow", "task": {}})
    scene.edge.last.sse()
    scene.edge.last.frame(result(1, task={"taskId": "t", "status": "working"}))

    assert scene.relay.session.has_tasks


@pytest.mark.parametrize("answer", [{"content": []}, {"task": None}, {"task": {"taskId": 7}}, {"task": "t"}])
def test_an_answer_without_a_task_is_none(answer: dict[str, Any]):
    """A tool may answer at once although a task was asked for."""
    scene = Scene()
    scene.call(1, "tools/call", {"name": "slow", "task": {}})
    scene.edge.last.json(200, result(1, **answer))

    assert not scene.relay.session.has_tasks


@pytest.mark.parametrize(
    ("method", "status", "is_over"),
    [
        ("tasks/get", "working", False),
        ("tasks/get", "input_required", False),
        ("tasks/get", "completed", False),
        ("tasks/get", "failed", True),
        ("tasks/get", "cancelled", True),
        ("tasks/result", "", True),
        ("tasks/cancel", "cancelled", True),
    ],
)
def test_a_task_pins_until_nobody_needs_its_upstream_session(method: str, status: str, is_over: bool):
    """A completed one is needed until its result was fetched; a failed or cancelled one is not."""
    scene = PoolScene()
    _began(scene)
    _ask(scene, method, status=status)

    assert scene.relay.session.has_tasks is not is_over
    assert [each.outcome.value for each in scene.move()] == ([] if is_over else ["pinned"])


def test_an_error_about_a_task_says_nothing_of_it():
    """It may still run: a server that was busy for a moment has not ended it."""
    scene = Scene()
    _began(scene)
    scene.call(2, "tasks/cancel", {"taskId": "t"})
    scene.edge.last.json(200, {"jsonrpc": "2.0", "id": 2, "error": {"code": -32603, "message": "busy"}})

    assert scene.relay.session.has_tasks


@pytest.mark.parametrize("in_a_call", [False, True])
def test_a_task_that_ends_by_itself_pins_no_more(in_a_call: bool):
    """The server tells its status on whatever stream is open."""
    scene = Scene()
    _began(scene, "t")
    _began(scene, "u", "second")
    if in_a_call:
        _, stream = scene.streaming(5)
    else:
        scene.listening()
        stream = scene.edge.one(method="GET")
    stream.frame(message(tasks.STATUS, taskId="t", status="failed"))
    stream.frame(message(tasks.STATUS, taskId="u", status="completed"))

    assert list(scene.relay.session.tasks) == ["u"]


@pytest.mark.parametrize("method", sorted(tasks.ABOUT_TASKS))
def test_a_task_that_was_lost_with_its_session_is_an_explicit_error(method: str):
    """The server that came back may know another task by that name, so it is not asked."""
    scene = Scene()
    _began(scene)
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    before = len(scene.edge.attempts)
    sink = scene.call(2, method, {"taskId": "t"})

    assert (sink.status, reason(sink), sink.json()["id"]) == (200, "task_lost", 2)
    assert sink.json()["error"]["data"]["outcome"] == "unknown"
    assert len(scene.edge.attempts) == before
    assert not scene.relay.session.has_tasks


def test_a_lost_task_is_told_as_often_as_it_is_asked_for():
    """The second question is no other than the first."""
    scene = Scene()
    _began(scene)
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()

    assert [reason(scene.call(number, "tasks/get", {"taskId": "t"})) for number in (2, 3, 4)] == ["task_lost"] * 3


@pytest.mark.parametrize("method", sorted(tasks.ABOUT_TASKS))
@pytest.mark.parametrize("how", ["refused", "404", "400", "waits for room"])
def test_the_question_that_finds_the_loss_is_not_asked_of_the_next_upstream_session(method: str, how: str):
    """That may know another client's task by that name."""
    scene = Scene(version="2025-11-25", limits={"max_session_calls": 1} if how == "waits for room" else None)
    _began(scene)
    if how == "waits for room":
        scene.call(1)
    sink = scene.call(2, method, {"taskId": "t"})
    scene.edge.reachable = True
    if how == "refused":
        scene.edge.one(rpc=method).refuse()
    elif how == "400":
        scene.edge.one(rpc=method).answer(400)
        scene.edge.one(rpc="ping").answer(400)
    elif how == "404":
        scene.edge.one(rpc=method).answer(404)
    else:
        scene.edge.one(rpc="tools/call").answer(404)
    scene.clock.advance(1.0)
    scene.rebuilt()
    for attempt in scene.edge.find(rpc="tools/call"):
        attempt.json()

    assert reason(sink) == "task_lost"
    assert scene.edge.find(rpc=method) == []
    assert scene.ctx.pool.members[0].gate.running == 0


def test_a_lost_task_pins_nothing():
    """The session may rest and be moved as any other, and an operator sees that none runs."""
    scene = PoolScene()
    scene.call("begin", "tools/call", {"name": "slow", "task": {}})
    scene.at("a").last.json(200, result("begin", task={"taskId": "t", "status": "working"}))

    assert scene.relay.session.running_tasks == 1

    scene.call(1)
    scene.lose_session(scene.at("a").last)
    scene.serve("a")

    assert (scene.relay.session.running_tasks, scene.relay.session.has_tasks) == (0, False)

    scene.moved()


def test_a_lost_task_is_told_of_while_its_session_is_being_rebuilt():
    """Nothing has to be waited for: what is asked about is gone."""
    scene = Scene()
    _began(scene)
    scene.call(1)
    scene.lose_session(scene.edge.last)

    assert reason(scene.call(2, "tasks/get", {"taskId": "t"})) == "task_lost"


def test_a_task_of_the_present_session_is_asked_about_upstream():
    """Also one that the proxy does not know: the server's word counts."""
    scene = Scene()
    _began(scene)
    scene.call(1, "tasks/get", {"taskId": "t"})
    scene.call(2, "tasks/get", {"taskId": "another"})

    assert [attempt.message["id"] for attempt in scene.edge.find(rpc="tasks/get")] == [1, 2]


def test_a_task_that_was_begun_again_in_the_new_session_is_there():
    """Under the same name: the later one counts."""
    scene = Scene()
    _began(scene)
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    _began(scene, "t", "again")
    scene.call(2, "tasks/get", {"taskId": "t"})

    assert scene.edge.one(rpc="tasks/get").message["id"] == 2


def test_a_task_of_a_draining_leg_belongs_to_that_one():
    """Moved by force while the call that made it still ran: noted under the old number, and lost with it."""
    scene = PoolScene()
    scene.call(1, "tools/call", {"name": "slow", "task": {}})
    attempt = scene.at("a").last
    scene.moved()
    attempt.json(200, result(1, task={"taskId": "t", "status": "working"}))

    assert scene.relay.session.tasks == {"t": Generation(1)}
    assert reason(scene.call(2, "tasks/get", {"taskId": "t"})) == "task_lost"


# -- by themselves


@pytest.mark.parametrize("body", NONSENSE)
def test_what_cannot_be_read_says_nothing(body: bytes):
    """Neither an answer nor a question nor a status of another shape is taken for one about a task."""
    scene = Scene()
    relay = scene.relay
    relay.session.tasks = {"t": Generation(1)}
    envelope = jsonrpc.classify(request_body("tasks/get", 1, {"taskId": "t"}))
    tasks.begun(relay, body, Generation(1))
    tasks.answered(relay, "tasks/result", body, body)
    tasks.told(relay, body)

    assert not tasks.is_lost(relay, envelope.method, body)
    assert list(relay.session.tasks) == ["t"]


def test_the_oldest_of_too_many_is_forgotten():
    """A client that begins tasks and never fetches them costs a bounded number of names."""
    scene = Scene()
    for number in range(tasks.MOST + 3):
        tasks.begun(scene.relay, result_body(1, {"task": {"taskId": f"t{number}"}}), Generation(1))

    assert len(scene.relay.session.tasks) == tasks.MOST
    assert next(iter(scene.relay.session.tasks)) == "t3"


def test_a_task_that_is_begun_under_a_lost_name_is_the_latest():
    """It is the last to be forgotten, not the first."""
    scene = Scene()
    for number in (*range(tasks.MOST), 0, tasks.MOST):
        tasks.begun(scene.relay, result_body(1, {"task": {"taskId": f"t{number}"}}), Generation(1))

    assert "t0" in scene.relay.session.tasks
    assert "t1" not in scene.relay.session.tasks


def test_only_requests_about_tasks_are_looked_at():
    """A tool's argument may have such a name too."""
    scene = Scene()
    scene.relay.session.tasks = {"t": Generation(7)}
    body = request_body("tools/call", 1, {"taskId": "t"})

    assert not tasks.is_lost(scene.relay, jsonrpc.classify(body).method, body)
    assert tasks.is_lost(scene.relay, "tasks/get", body)


def test_a_status_of_an_unknown_task_changes_nothing():
    """Servers tell of tasks of which the proxy never heard."""
    scene = Scene()
    scene.relay.session.tasks = {"t": Generation(1)}
    tasks.told(scene.relay, notification_body(tasks.STATUS, {"taskId": "u", "status": "failed"}))

    assert list(scene.relay.session.tasks) == ["t"]
