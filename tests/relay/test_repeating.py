"""A call that may have run and brought no answer: sent again where that is harmless, told as unknown otherwise (13)."""

import json
from collections.abc import Callable

import pytest

from proxy.core import cut
from proxy.core.exchange import CallState
from proxy.core.ids import Generation
from proxy.core.retry import READING, Safety, Tools
from proxy.core.session import CloseReason
from proxy.relay.repeating import Repeating, judge
from support.fakes import Attempt, FakeSink, request_body, result_body
from support.scenes import (
    PoolScene,
    Scene,
    break_off,
    progress,
    reason,
    reason_of,
    result,
    server_request,
)

READ_ONLY, IDEMPOTENT = {"readOnlyHint": True}, {"idempotentHint": True}


def _know(scene: Scene, **annotations: dict[str, bool]) -> None:
    """Let the client list these tools, so that the proxy knows their annotations."""
    scene.call("list", "tools/list")
    tools = [{"name": name, "annotations": hints} for name, hints in annotations.items()]
    scene.edge.last.json(200, result("list", tools=tools))


def _tool(scene: Scene, name: str = "t", request_id: int | str = 1, **params: object) -> tuple[FakeSink, Attempt]:
    """Call a tool."""
    sink = scene.call(request_id, "tools/call", {"name": name, **params})
    return sink, scene.edge.last


def _repeated(scene: Scene) -> list[tuple[str, str]]:
    return [(record.reason, record.upstream) for record in scene.observer.of("call_repeated")]


def _restart(scene: Scene, upstream_id: str = "up-2") -> None:
    """Let the server come back with nothing, noticed by whoever asks next."""
    for attempt in scene.edge.find(rpc="initialize"):
        attempt.refuse()
    scene.edge.reachable = True
    scene.clock.advance(1.0)
    scene.rebuilt(upstream_id)


# -- what is sent again


@pytest.mark.parametrize("method", sorted(READING))
def test_a_method_that_only_reads_is_sent_again(method: str):
    """In the same upstream session, as that is there: the client sees one slow answer."""
    scene = Scene()
    sink = scene.call(1, method)
    break_off(scene.edge.last)
    again = scene.edge.last
    again.json()

    assert (again.rpc, again.upstream_id, again.request.body) != (method, "up-1", request_body(method, 1))
    assert sink.json() == result(1)
    assert _repeated(scene) == [("connection_broken", "default")]
    assert scene.observer.of("call_ended_unknown") == []


@pytest.mark.parametrize(
    "method", ["tools/call", "logging/setLevel", "resources/subscribe", "tasks/cancel", "x/list", "elicit"]
)
def test_any_other_method_is_not(method: str):
    """What may have an effect has it once: its outcome is unknown, at once."""
    scene = Scene()
    sink = scene.call(1, method)
    break_off(scene.edge.last)

    assert reason(sink) == "connection_broken"
    assert sink.json()["error"]["data"]["outcome"] == "unknown"
    assert scene.edge.open == []


@pytest.mark.parametrize("hints", [READ_ONLY, IDEMPOTENT, {"readOnlyHint": True, "destructiveHint": True}])
def test_a_tool_that_says_it_may_run_twice_does(hints: dict[str, bool]):
    """Its annotations were in a list of tools that passed through the session."""
    scene = Scene()
    _know(scene, t=hints)
    sink, attempt = _tool(scene)
    break_off(attempt)
    scene.edge.one(rpc="tools/call").json()

    assert sink.json() == result(1)


@pytest.mark.parametrize("hints", [{}, {"readOnlyHint": False}, {"idempotentHint": False}, {"destructiveHint": False}])
def test_a_tool_that_does_not_say_so_does_not(hints: dict[str, bool]):
    """The absence of a promise is none."""
    scene = Scene()
    _know(scene, t=hints)
    sink, attempt = _tool(scene)
    break_off(attempt)

    assert reason(sink) == "connection_broken"
    assert scene.edge.open == []


def test_a_tool_is_judged_by_what_was_listed_over_a_stream_and_in_pages():
    """An answer that comes as events counts like one in JSON, and a second page adds to the first."""
    scene = Scene()
    for number, (name, more) in enumerate([("one", {"nextCursor": "2"}), ("two", {})]):
        scene.call(f"list-{number}", "tools/list")
        scene.edge.last.sse()
        tools = [{"name": name, "annotations": READ_ONLY}]
        scene.edge.last.frame(result(f"list-{number}", tools=tools, **more))
    for number, name in enumerate(["one", "two"]):
        sink, attempt = _tool(scene, name, number)
        break_off(attempt)
        scene.edge.one(rpc="tools/call").json()

        assert sink.json() == result(number)


def test_a_tool_whose_server_says_that_its_list_has_changed_is_unknown_again():
    """What was promised of it may not hold any more."""
    scene = Scene()
    _know(scene, t=READ_ONLY)
    scene.listening()
    scene.edge.one(method="GET").frame({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    sink, attempt = _tool(scene)
    break_off(attempt)

    assert reason(sink) == "connection_broken"


def test_the_change_may_be_told_in_a_calls_stream():
    """Servers send such notifications on whatever stream is open."""
    scene = Scene()
    _know(scene, t=READ_ONLY)
    _, other = scene.streaming(2)
    other.frame({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    sink, attempt = _tool(scene)
    break_off(attempt)

    assert reason(sink) == "connection_broken"


def test_a_tool_listed_anew_is_judged_anew():
    """The later word counts."""
    scene = Scene()
    _know(scene, t=READ_ONLY)
    _know(scene, t={})
    sink, attempt = _tool(scene)
    break_off(attempt)

    assert reason(sink) == "connection_broken"


@pytest.mark.parametrize(
    ("safe", "unsafe", "is_repeated"),
    [
        (("get_*",), (), True),
        (("get_time",), (), True),
        (("*",), (), True),
        (("put_*",), (), False),
        (("Get_*",), (), False),
        (("get_*",), ("get_time",), False),
        (("*",), ("*",), False),
    ],
)
def test_the_operators_word_wins(safe: tuple[str, ...], unsafe: tuple[str, ...], is_repeated: bool):
    """`retry.safe_tools` vouches for a tool of which nothing is known, `retry.unsafe_tools` forbids it all the same."""
    scene = Scene(safe_tools=safe, unsafe_tools=unsafe)
    sink, attempt = _tool(scene, "get_time")
    break_off(attempt)
    again = scene.edge.find(rpc="tools/call")

    assert bool(again) == is_repeated

    for attempt in again:
        attempt.json()

    assert sink.json() == result(1) if is_repeated else reason(sink) == "connection_broken"


def test_the_operators_word_wins_over_the_annotations():
    """A server may call a tool harmless that its operator knows better."""
    scene = Scene(unsafe_tools=("t*",))
    _know(scene, t=READ_ONLY)
    sink, attempt = _tool(scene)
    break_off(attempt)

    assert reason(sink) == "connection_broken"


def test_a_call_that_asks_for_a_task_is_never_sent_again():
    """It makes a second task, whatever the tool does."""
    scene = Scene(safe_tools=("*",))
    sink, attempt = _tool(scene, task={"ttl": 60000})
    break_off(attempt)

    assert reason(sink) == "connection_broken"
    assert scene.edge.open == []


# -- under which id


def _in_json(attempt: Attempt, body: bytes) -> None:
    attempt.json(200, body)


def _in_a_stream(attempt: Attempt, body: bytes) -> None:
    attempt.sse()
    attempt.frame(body)


def _in_parts(attempt: Attempt, body: bytes) -> None:
    attempt.sse()
    attempt.data(b"data: " + body[:9])
    attempt.data(body[9:] + b"\n\n")


@pytest.mark.parametrize("answer", [_in_json, _in_a_stream, _in_parts])
@pytest.mark.parametrize("request_id", [1, "1", -7])
def test_in_the_same_upstream_session_it_bears_an_id_of_the_proxys(
    answer: Callable[[Attempt, bytes], None], request_id: int | str
):
    """The first attempt may still run there; the answer bears the client's id, of its type, and is else untouched."""
    scene = Scene()
    sink = scene.call(request_id, "resources/read", {"uri": "a"})
    first = scene.edge.last
    break_off(first)
    again = scene.edge.last
    alias = again.message["id"]

    assert str(alias).startswith("mcp-session-proxy-")
    assert again.message == {**first.message, "id": alias}

    answer(again, b'{"jsonrpc":"2.0",  "result" : {"id": 5.0}, "id": ' + json.dumps(alias).encode() + b"}")
    (told,) = sink.messages or [sink.json()]

    assert told["id"] == request_id
    assert type(told["id"]) is type(request_id)
    assert b'"2.0",  "result" : {"id": 5.0}' in sink.body


def test_in_a_new_upstream_session_the_clients_id_stays():
    """Nobody there has seen it: the very same body goes out."""
    scene = Scene()
    sink = scene.call(1, "resources/read", {"uri": "a"})
    first = scene.edge.last
    scene.call(2)
    scene.edge.last.refuse()
    break_off(first)
    _restart(scene)
    again = scene.edge.one(rpc="resources/read")
    again.json()

    assert (again.request.body, again.upstream_id) == (first.request.body, "up-2")
    assert sink.messages == [result(1)]


def test_each_repetition_in_one_upstream_session_has_its_own_id():
    """Both attempts before it may still run; the second repetition follows a pause, as the first came to nothing."""
    scene = Scene()
    scene.edge.reachable = True
    sink = scene.call(1, "ping")
    for _ in range(2):
        break_off(scene.edge.last)
    scene.clock.advance(0.5)
    ids = [attempt.message["id"] for attempt in scene.edge.attempts]

    assert len(set(ids)) == 3

    scene.edge.last.json()

    assert sink.json() == result(1)


def test_a_repeated_call_that_moves_on_has_its_own_id_again():
    """Once inside the same session, then in a new one."""
    scene = Scene()
    sink = scene.call(1, "ping")
    break_off(scene.edge.last)
    second = scene.edge.last
    scene.lose_session(second)
    scene.rebuilt()
    third = scene.edge.one(rpc="ping")
    third.json()

    assert second.message["id"] != 1
    assert third.message["id"] == 1
    assert sink.json() == result(1)


@pytest.mark.parametrize("status", [400, 422, 503])
def test_an_error_of_the_server_bears_the_clients_id_too(status: int):
    """Its JSON-RPC word passes with its status, under the id that the client knows."""
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    break_off(scene.edge.last)
    again = scene.edge.last
    again.json(status, {"jsonrpc": "2.0", "id": again.message["id"], "error": {"code": -32602, "message": "no"}})
    for ping in scene.edge.find(rpc="ping"):
        ping.json()

    assert (sink.status, sink.json()["id"], sink.json()["error"]["code"]) == (status, 1, -32602)


@pytest.mark.parametrize("is_id_last", [False, True])
def test_a_large_answer_to_a_repeated_call_comes_whole(is_id_last: bool, monkeypatch: pytest.MonkeyPatch):
    """Its id stands where the client's must stand, so nothing of it goes out before it was seen (semantics 28)."""
    monkeypatch.setattr(cut, "CUT_BYTES", 40)
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    scene.edge.last.sse()
    scene.edge.last.frame(progress(1))
    break_off(scene.edge.last)
    again = scene.edge.last
    told = result(again.message["id"], text="x" * 500)
    body = json.dumps(dict(sorted(told.items(), reverse=True)) if is_id_last else told).encode()
    again.sse()
    again.data(b"data: " + body[:300])

    assert sink.messages == [progress(1)]

    again.data(body[300:] + b"\n\n")

    assert sink.messages == [progress(1), result(1, text="x" * 500)]
    assert sink.finished


def test_a_cancel_names_the_id_that_the_upstream_knows():
    """The client cancels its own id; nothing else of its message changes."""
    scene = Scene()
    sink = scene.call(1, "resources/read")
    break_off(scene.edge.last)
    alias = scene.edge.last.message["id"]
    scene.notify("notifications/cancelled", {"requestId": 1, "reason": "user"})
    note = scene.edge.one(rpc="notifications/cancelled")

    assert note.message["params"] == {"requestId": alias, "reason": "user"}
    assert sink.status is None


def test_an_interrupt_names_it_too():
    """An operator's cancel reaches the attempt that runs."""
    scene = Scene()
    scene.call(1, "resources/read")
    break_off(scene.edge.last)
    alias = scene.edge.last.message["id"]
    scene.relay.interrupt()

    assert scene.edge.one(rpc="notifications/cancelled").message["params"] == {"requestId": alias}


def test_a_question_in_a_repeated_call_is_answered():
    """Its own requests pass as in any call."""
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    break_off(scene.edge.last)
    again = scene.edge.last
    again.sse()
    again.frame(server_request(5))
    scene.respond(5)
    again.frame(result_body(again.message["id"]))

    assert [told["id"] for told in sink.messages] == [5, 1]


def test_a_repeated_list_of_tools_is_learnt_from():
    """The answer is looked at under either id."""
    scene = Scene()
    scene.call("l", "tools/list")
    break_off(scene.edge.last)
    again = scene.edge.last
    again.json(200, result(again.message["id"], tools=[{"name": "t", "annotations": READ_ONLY}]))

    assert scene.relay.leg.member.tools == Tools(frozenset({"t"}), frozenset({"t"}))


# -- what the client has seen


def test_what_was_told_before_does_not_hinder():
    """Priming, progress and log messages are no response: the call is sent again, the client's stream goes on."""
    scene = Scene()
    sink = scene.call(1, "prompts/get", {"_meta": {"progressToken": "t"}})
    first = scene.edge.last
    first.sse()
    first.data(b"id: \ndata:\n\n")
    first.frame(progress(1))
    break_off(first)
    again = scene.edge.last
    again.sse()
    again.frame(progress(2))
    again.frame(result_body(again.message["id"]))

    assert sink.messages == [progress(1), progress(2), result(1)]
    assert sink.finished


def test_progress_that_is_not_above_the_last_is_dropped():
    """Progress must rise: what the second attempt tells again is not told again."""
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    scene.edge.last.sse()
    for value in (1, 2, 3):
        scene.edge.last.frame(progress(value))
    scene.edge.last.frame(progress(1, "other"))
    break_off(scene.edge.last)
    again = scene.edge.last
    again.sse()
    for value in (1, 2, 3, 4):
        again.frame(progress(value))
    again.frame(progress(2, "other"))
    again.frame(result_body(again.message["id"]))

    assert sink.messages == [
        *(progress(value) for value in (1, 2, 3)),
        progress(1, "other"),
        progress(4),
        progress(2, "other"),
        result(1),
    ]


def test_the_cursor_of_the_first_attempt_is_not_used_for_the_second():
    """A stream of the repetition that breaks is resumed by its own cursor, or sent again."""
    scene = Scene(resume_attempts=1)
    scene.call(1, "prompts/get")
    scene.edge.last.sse()
    scene.edge.last.data(b"id: e1\ndata:\n\n")
    break_off(scene.edge.last)
    scene.clock.advance(1.0)
    scene.edge.one(method="GET").answer(405)
    again = scene.edge.one(rpc="prompts/get")
    again.sse()
    scene.edge.reachable = True
    break_off(again)
    scene.clock.advance(0.5)

    assert scene.edge.find(method="GET") == []
    assert scene.edge.one(rpc="prompts/get").message["id"] != again.message["id"]


def test_a_stream_is_resumed_before_it_is_sent_again():
    """What runs and can be asked for is not run a second time."""
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    scene.edge.last.sse()
    scene.edge.last.data(b"id: e1\ndata:\n\n")
    break_off(scene.edge.last)
    scene.clock.advance(0.2)
    scene.edge.one(method="GET").sse()
    scene.edge.last.frame(result(1))

    assert sink.messages == [result(1)]
    assert len(scene.edge.find(rpc="prompts/get", is_open=False)) == 1


def test_an_answered_call_is_not_sent_again():
    """Its stream breaks behind the response: the client has an outcome."""
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(result(1))
    break_off(attempt)

    assert sink.messages == [result(1)]
    assert scene.edge.open == []


def test_a_cancelled_call_is_not_sent_again():
    """Nobody waits for it, and nothing would stop it."""
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    attempt = scene.edge.last
    scene.cancel(1)
    break_off(attempt)

    assert reason(sink) == "connection_broken"
    assert scene.edge.find(rpc="prompts/get") == []


def test_a_client_that_has_gone_does_not_stop_the_repetition():
    """It may come back for the answer."""
    scene = Scene()
    sink = scene.call(1, "prompts/get")
    scene.clock.advance(1.0)
    sink.go_away()
    break_off(scene.edge.last)
    scene.edge.one(rpc="prompts/get").json()

    assert scene.get(sink.last_id).messages == [result(1)]


# -- batches (2025-03-26)


def _batch(scene: Scene, *methods: str) -> tuple[FakeSink, Attempt]:
    sink = scene.batch(*(request_body(method, number) for number, method in enumerate(methods, start=1)))
    return sink, scene.edge.last


def _sent_again(scene: Scene, sink: FakeSink, attempt: Attempt) -> None:
    """See that the batch is answered in the next upstream session."""
    _restart(scene)
    again = next(each for each in scene.edge.open if each.request.body == attempt.request.body)
    again.json(200, [result(1), result(2)])

    assert again.upstream_id == "up-2"
    assert [answer["id"] for answer in sink.json()] == [1, 2]


def test_a_batch_that_only_reads_is_sent_again_in_a_new_upstream_session():
    """Whole, under its own ids, when the old one is known to be lost."""
    scene = Scene(version="2025-03-26")
    sink, attempt = _batch(scene, "ping", "tools/list")
    scene.call(9)
    scene.edge.last.refuse()
    break_off(attempt)

    _sent_again(scene, sink, attempt)


@pytest.mark.parametrize("word", ["refuse", "404"])
def test_a_batch_whose_connection_breaks_is_sent_again_when_a_ping_says_that_the_session_is_lost(word: str):
    """A server that was killed, and one that came back without its sessions."""
    scene = Scene(version="2025-03-26")
    sink, attempt = _batch(scene, "ping", "tools/list")
    break_off(attempt)

    assert not sink.is_over

    ping = scene.edge.one(rpc="ping")
    if word == "refuse":
        ping.refuse()
    else:
        ping.answer(404)

    _sent_again(scene, sink, attempt)


@pytest.mark.parametrize("word", ["alive", "gateway", "silent"])
def test_a_batch_is_not_sent_twice_into_one_upstream_session(word: str):
    """It cannot get other ids, so its outcome is unknown where the session may still be there."""
    scene = Scene(version="2025-03-26")
    sink, attempt = _batch(scene, "ping", "tools/list")
    break_off(attempt)
    ping = scene.edge.one(rpc="ping")
    if word == "alive":
        ping.json()
    elif word == "gateway":
        ping.answer(503)
    else:
        scene.clock.advance(scene.config.upstream.ping_timeout_seconds)

    assert [reason_of(answer) for answer in sink.json()] == ["connection_broken"] * 2
    assert scene.edge.open == []


def test_a_batch_whose_ping_comes_late_is_sent_in_the_session_that_is_there_now():
    """Others have noticed the loss before; it is sent again once, and nothing is lost a second time."""
    scene = Scene(version="2025-03-26")
    sink, attempt = _batch(scene, "ping", "tools/list")
    break_off(attempt)
    (ping,) = [each for each in scene.edge.find(rpc="ping") if each is not attempt]
    scene.call(9)
    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.rebuilt("up-2")
    ping.answer(404)
    again = next(each for each in scene.edge.open if each.request.body == attempt.request.body)
    again.json(200, [result(1), result(2)])

    assert again.upstream_id == "up-2"
    assert [answer["id"] for answer in sink.json()] == [1, 2]
    assert scene.relay.session.binding.generation == 2


def test_a_batch_with_one_call_that_must_not_run_twice_does_not():
    """Safe only if every member is (semantics 24)."""
    scene = Scene(version="2025-03-26")
    sink, attempt = _batch(scene, "ping", "tools/call")
    scene.call(9)
    scene.edge.last.refuse()
    break_off(attempt)

    assert [reason_of(answer) for answer in sink.json()] == ["connection_broken"] * 2


def test_a_batch_of_which_a_part_was_answered_is_not_sent_again():
    """Its client has seen an outcome; the others are told theirs is unknown."""
    scene = Scene(version="2025-03-26")
    sink, attempt = _batch(scene, "ping", "ping")
    attempt.sse()
    attempt.frame(result(1))
    scene.call(9)
    scene.edge.last.refuse()
    break_off(attempt)

    assert sink.messages[0] == result(1)
    assert reason_of(sink.messages[1]) == "stream_broken"


def test_a_batch_with_a_notification_is_not_sent_again():
    """It would be told twice."""
    scene = Scene(version="2025-03-26")
    note = b'{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}'
    sink = scene.batch(request_body("ping", 1), note)
    attempt = scene.edge.last
    scene.call(9)
    scene.edge.last.refuse()
    break_off(attempt)

    assert [reason_of(answer) for answer in sink.json()] == ["connection_broken"]


# -- how often


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_a_call_is_sent_again_so_often_and_no_more(attempts: int):
    """`retry.attempts` bounds it; then the reason of the last interruption is told."""
    scene = Scene(attempts=attempts, upgrade_after_seconds=60.0)
    scene.edge.reachable = True
    sink = scene.call(1, "ping")
    for _ in range(attempts):
        break_off(scene.edge.last)
        scene.clock.advance(0.5)
        assert sink.status is None
    break_off(scene.edge.last)

    assert len(scene.edge.attempts) == attempts + 1
    assert reason(sink) == "connection_broken"
    assert scene.edge.open == []


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateways_error_is_waited_out(status: int):
    """Somebody in between says that the server is not there for the moment; that counts as no repetition."""
    scene = Scene(attempts=1, upgrade_after_seconds=60.0)
    scene.edge.reachable = True
    sink = scene.call(1, "ping")
    for _ in range(5):
        scene.edge.one(rpc="ping").answer(status)
        assert scene.edge.open == []
        scene.clock.advance(1.5)
    again = scene.edge.one(rpc="ping")
    again.json()

    assert (again.upstream_id, sink.json()) == ("up-1", result(1))


def test_a_gateway_that_does_not_stop_is_told_of():
    """After `rebuild_wait_seconds` the outcome is unknown, with the gateway's status, and nothing goes on."""
    scene = Scene(upgrade_after_seconds=60.0)
    scene.edge.reachable = True
    sink = scene.call(1, "ping")
    for _ in range(40):
        for attempt in scene.edge.find(rpc="ping"):
            attempt.answer(503)
        scene.clock.advance(0.5)

    assert reason(sink) == "gateway_error"
    assert sink.json()["error"]["data"]["http_status"] == 503
    assert scene.edge.open == []


def test_a_gateways_error_to_a_call_that_must_not_run_twice_is_told_at_once():
    """Its 503 proves nothing."""
    scene = Scene()
    sink, attempt = _tool(scene)
    attempt.answer(503)

    assert reason(sink) == "gateway_error"


# -- what is told when it leads nowhere


def _unreachable(scene: Scene) -> None:
    scene.edge.reachable = False
    scene.edge.one(rpc="initialize").refuse()
    scene.clock.advance(20.0)


def _refused(scene: Scene) -> None:
    scene.edge.one(rpc="initialize").answer(422)


def _other_version(scene: Scene) -> None:
    scene.edge.serve_rebuild("up-2", version="2025-06-18")


def _closed(scene: Scene) -> None:
    scene.relay.close(CloseReason.DELETED)


def _cancelled(scene: Scene) -> None:
    scene.cancel(1)


@pytest.mark.parametrize("end", [_unreachable, _refused, _other_version, _closed, _cancelled])
def test_a_call_that_may_have_run_is_never_said_not_to_have_run(end: Callable[[Scene], None]):
    """Whatever keeps the repetition from being sent is true of it alone: the first interruption is what is told."""
    scene = Scene()
    sink = scene.call(1, "resources/read")
    attempt = scene.edge.last
    scene.call(2)
    scene.edge.last.refuse()
    break_off(attempt)

    assert sink.status is None

    end(scene)
    told = (sink.messages or [sink.json()])[-1]["error"]

    assert (told["data"]["reason"], told["data"]["outcome"], told["code"]) == ("connection_broken", "unknown", -32050)
    assert [record.reason for record in scene.observer.of("call_ended_unknown")] == ["connection_broken"]


def test_a_repetition_that_finds_no_room_is_unknown_too():
    """The queue is full: "did not run" would be true of the second attempt alone."""
    scene = Scene(limits={"max_calls": 1, "queue_limit": 0})
    sink = scene.call(1, "resources/read")
    attempt = scene.edge.last
    scene.relay.leg.member.gate.limit = 0
    break_off(attempt)

    assert reason(sink) == "connection_broken"


def test_a_repetition_that_is_refused_as_lost_goes_on():
    """It did not run there either: rebuilt, and sent once more under the client's id."""
    scene = Scene(attempts=1)
    sink = scene.call(1, "resources/read")
    break_off(scene.edge.last)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.edge.one(rpc="resources/read").json()

    assert sink.json() == result(1)


# -- calls of which nothing is known


def test_a_tool_of_which_nothing_is_known_is_asked_about_once():
    """The client waits for the server's word; a tool that may run twice is sent again then."""
    scene = Scene(ask_tools=True)
    sink, attempt = _tool(scene)
    break_off(attempt)
    asked = scene.edge.one(rpc="tools/list")

    assert (asked.upstream_id, asked.request.fresh, sink.status) == ("up-1", True, None)

    asked.json(200, result(asked.message["id"], tools=[{"name": "t", "annotations": READ_ONLY}]))
    scene.edge.one(rpc="tools/call").json()

    assert sink.json() == result(1)


@pytest.mark.parametrize("known", [[{"name": "t"}], [], None])
def test_a_tool_that_stays_unknown_is_not_sent_again(known: list[dict[str, str]] | None):
    """Not annotated, not listed, or no list at all: its outcome is unknown, and it is asked about once."""
    scene = Scene(ask_tools=True)
    sink, attempt = _tool(scene)
    break_off(attempt)
    asked = scene.edge.one(rpc="tools/list")
    if known is None:
        asked.answer(503)
    else:
        asked.json(200, result(asked.message["id"], tools=known))

    assert reason(sink) == "connection_broken"
    assert scene.edge.open == []


def test_nobody_is_asked_where_the_upstream_session_is_lost():
    """There is nobody who could be asked in it: the outcome is unknown at once."""
    scene = Scene(ask_tools=True)
    sink, attempt = _tool(scene)
    scene.call(2, "ping")
    scene.edge.last.refuse()
    break_off(attempt)

    assert reason(sink) == "connection_broken"
    assert scene.edge.find(rpc="tools/list", is_open=False) == []


def test_a_server_that_does_not_answer_the_question_is_not_waited_for():
    """Within two seconds the client has its answer."""
    scene = Scene(ask_tools=True, upgrade_after_seconds=60.0)
    sink, attempt = _tool(scene)
    break_off(attempt)
    scene.clock.advance(2.0)

    assert reason(sink) == "connection_broken"
    assert scene.edge.open == []


@pytest.mark.parametrize("end", [_closed, _cancelled])
def test_a_call_that_ends_while_it_is_asked_about_has_an_unknown_outcome(end: Callable[[Scene], None]):
    """It may have run, whatever ends the wait; what the server answers later changes nothing."""
    scene = Scene(ask_tools=True)
    sink, attempt = _tool(scene)
    break_off(attempt)
    asked = scene.edge.one(rpc="tools/list")
    end(scene)

    assert sink.json()["error"]["data"]["outcome"] == "unknown"

    if asked.is_open:
        asked.json(200, result(asked.message["id"], tools=[{"name": "t", "annotations": READ_ONLY}]))

    assert scene.edge.find(rpc="tools/call") == []


def test_a_session_that_is_lost_while_it_is_asked_takes_the_call_along_only_where_that_is_safe():
    """Lost for silence during the question: not annotated, so the outcome is unknown; once."""
    scene = Scene(ask_tools=True)
    sink, attempt = _tool(scene)
    break_off(attempt)
    asked = scene.edge.one(rpc="tools/list")
    scene.relay.leg.give_up(Generation(1), "upstream_session_lost")
    scene.clock.advance(3.0)

    assert reason(sink) == "upstream_session_lost"
    assert not asked.is_open
    assert scene.edge.find(rpc="tools/call") == []


def test_an_answer_to_the_question_that_comes_too_late_changes_nothing():
    """Lost meanwhile and sent again by the word of the client's own list: the question's end interrupts nothing."""
    scene = Scene(ask_tools=True, attempts=1)
    sink, attempt = _tool(scene)
    break_off(attempt)
    scene.call("list", "tools/list")
    scene.edge.last.json(200, result("list", tools=[{"name": "t", "annotations": READ_ONLY}]))
    scene.relay.leg.give_up(Generation(1), "upstream_session_lost")
    scene.clock.advance(3.0)
    scene.rebuilt()
    scene.edge.one(rpc="tools/call").json()

    assert sink.messages == [result(1)]
    assert _repeated(scene) == [("upstream_session_lost", "default")]


# -- elsewhere


def test_a_call_is_judged_by_what_its_own_server_said():
    """Another member may have a tool of the same name that promises nothing; the first attempt ran on this one."""
    scene = PoolScene()
    _know(scene, t=READ_ONLY)
    sink, attempt = _tool(scene)
    scene.moved(drain_seconds=60.0)
    break_off(attempt)
    again = scene.at("b").find(rpc="tools/call")

    assert (len(again), sink.status) == (0, None) or again[0].message["id"] == 1


def test_a_paused_resumption_does_not_wake_after_the_repetition():
    """The pause belongs to the attempt that is over: its end must not ask in the name of the next."""
    scene = PoolScene()
    sink = scene.call(1, "prompts/get")
    first = scene.at("a").last
    first.sse()
    first.data(b"id: e1\nretry: 5000\ndata:\n\n")
    first.end()
    scene.moved(drain_seconds=1.0)
    scene.clock.advance(1.0)
    again = scene.at("b").one(rpc="prompts/get")
    again.sse()
    again.data(b"id: f1\nretry: 60000\ndata:\n\n")
    again.end()
    scene.clock.advance(10.0)

    assert scene.at("b").find(method="GET") == []

    scene.clock.advance(55.0)
    scene.at("b").one(method="GET").sse()
    scene.at("b").last.frame(result(1))

    assert sink.messages == [result(1)]


# -- the parts by themselves


def test_a_repetition_counts_what_is_no_gateways_word():
    """Interruptions that are waited out cost none of the attempts."""
    repeating = Repeating(Scene().relay.leg.member)
    for told in ("gateway_error", "connection_broken", "gateway_error"):
        repeating.interrupted(repeating.member, told, {})
        repeating.count()

    assert repeating.may_go_on(Safety.SAFE, 2)
    assert not repeating.may_go_on(Safety.SAFE, 1)
    assert not repeating.may_go_on(Safety.UNSAFE, 2)
    assert not repeating.may_go_on(Safety.UNKNOWN, 2)


def test_the_body_goes_out_with_the_id_it_needs():
    """Spliced at its place; without one the client's own bytes."""
    repeating = Repeating(Scene().relay.leg.member)
    body = b'{"params":{"id":1}, "id":1,"jsonrpc":"2.0","method":"ping"}'

    assert repeating.request_body(body, None) is body
    assert repeating.request_body(body, "p-1") == body.replace(b'"id":1,', b'"id":"p-1",')
    assert repeating.alias == "p-1"


def test_a_body_is_judged_by_the_members_tools_and_the_policy():
    """The same call at two members that have said different things."""
    scene = PoolScene(safe_tools=("vouched",))
    a, b = scene.member("a"), scene.member("b")
    a.tools = Tools(frozenset({"t"}), frozenset({"t"}))
    b.tools = Tools(frozenset({"t"}), frozenset())
    call, vouched = (request_body("tools/call", 1, {"name": name}) for name in ("t", "vouched"))

    assert [judge(scene.relay, member, call) for member in (a, b)] == [Safety.SAFE, Safety.UNSAFE]
    assert [judge(scene.relay, member, vouched) for member in (a, b)] == [Safety.SAFE, Safety.SAFE]
    assert CallState.ASKING.value == "asking"
