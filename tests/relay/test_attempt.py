"""The upstream's side of a call: room on the member, what an attempt says of the member's health, its ends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.headers import Block
from proxy.core.session import CloseReason
from proxy.relay.attempt import RETRY_AFTER_SECONDS
from proxy.upstream.base import Loss
from support.fakes import Attempt, FakeSink, open_session, post, request_body, result_body
from support.scenes import PoolScene, Scene, break_off, progress, reason, result


def _narrow(**settings: Any) -> Scene:
    """Return a scene whose upstream takes two calls at once."""
    limits = {"max_calls": 2, "max_session_calls": 2, "queue_limit": 2, "queue_timeout_seconds": 4.0}
    return Scene(limits={**limits, **settings.pop("limits", {})}, **settings)


def _calls(scene: Scene) -> list[int]:
    return [attempt.message["id"] for attempt in scene.edge.find(rpc="tools/call")]


def _another(scene: Scene, *numbers: int) -> list[FakeSink]:
    """Send calls in a second session of the same route."""
    relay = open_session(scene.registry, upstream_id="up-other")
    return [post(relay, request_body("tools/call", number)) for number in numbers]


# -- room


def test_calls_above_the_limit_wait_in_the_order_of_their_arrival():
    """The upstream never has more than it may; the first that waits goes first, and each is answered."""
    scene = _narrow()
    sinks = [scene.call(number) for number in range(1, 5)]

    assert _calls(scene) == [1, 2]
    assert all(sink.status is None for sink in sinks)

    for number in range(1, 5):
        scene.edge.find(rpc="tools/call")[0].json()

        assert _calls(scene) == [each for each in (number + 1, number + 2) if each <= 4]
    assert [sink.json()["id"] for sink in sinks] == [1, 2, 3, 4]


def test_sessions_share_the_limit_of_their_upstream():
    """Room is the member's, whosever call it is."""
    scene = _narrow()
    scene.call(1)
    (first, second) = _another(scene, 2, 3)

    assert _calls(scene) == [1, 2]

    scene.edge.find(rpc="tools/call")[0].json()

    assert _calls(scene) == [2, 3]
    assert (first.status, second.status) == (None, None)


def test_a_session_has_a_limit_of_its_own_and_others_pass_it():
    """One client with many calls does not keep the room from another one's."""
    scene = _narrow(limits={"max_calls": 3, "max_session_calls": 1})
    scene.call(1)
    waiting = scene.call(2)
    (other,) = _another(scene, 3)

    assert _calls(scene) == [1, 3]

    scene.edge.find(rpc="tools/call")[1].json()

    assert other.json()["id"] == 3
    assert waiting.status is None

    scene.edge.find(rpc="tools/call")[0].json()

    assert _calls(scene) == [2]


def test_a_full_queue_turns_away_with_a_hint():
    """An overloaded error as 200, that says it did not run and when to try again; nothing is sent."""
    scene = _narrow()
    for number in range(1, 5):
        scene.call(number)
    sink = scene.call(5)
    error = sink.json()["error"]

    assert (sink.status, error["code"]) == (200, -32052)
    assert error["data"] == {
        "origin": "mcp-session-proxy",
        "reason": "queue_full",
        "outcome": "not_run",
        "retry_after_seconds": RETRY_AFTER_SECONDS,
    }
    assert 5 not in scene.relay.calls
    assert _calls(scene) == [1, 2]


def test_a_wait_for_room_is_bounded():
    """After `queue_timeout_seconds` the call is turned away, and its id is free."""
    scene = _narrow(upgrade_after_seconds=60.0)
    for number in range(1, 4):
        scene.call(number)
    waiting = scene.call(4)
    scene.clock.advance(3.9)

    assert waiting.status is None

    scene.clock.advance(0.5)

    assert reason(waiting) == "queue_timeout"
    assert waiting.json()["error"]["data"]["retry_after_seconds"] == RETRY_AFTER_SECONDS
    assert sorted(scene.relay.calls) == [1, 2]
    assert len(scene.relay.leg.member.gate) == 0


def test_a_call_that_waits_gets_its_stream_in_time():
    """`upgrade_after` counts from the arrival, whatever the call waits for (semantics 19)."""
    scene = _narrow()
    for number in range(1, 3):
        scene.call(number)
    waiting = scene.call(3)
    scene.clock.advance(1.0)

    assert waiting.status == 200

    scene.edge.find(rpc="tools/call")[0].json()
    scene.edge.find(rpc="tools/call")[1].json()

    assert waiting.messages == [result(3)]


def _answer(scene: Scene, attempt: Attempt) -> None:
    attempt.json()


def _answer_late(scene: Scene, attempt: Attempt) -> None:
    attempt.sse()
    attempt.frame(progress(1))
    attempt.frame(result(attempt.message["id"]))


def _refuse(scene: Scene, attempt: Attempt) -> None:
    attempt.answer(429, [], b"no")


def _break(scene: Scene, attempt: Attempt) -> None:
    break_off(attempt)


def _redirect(scene: Scene, attempt: Attempt) -> None:
    attempt.answer(307)


def _gateway(scene: Scene, attempt: Attempt) -> None:
    attempt.answer(503)


def _encode(scene: Scene, attempt: Attempt) -> None:
    attempt.sse([("Content-Encoding", "gzip")])


def _say_nothing(scene: Scene, attempt: Attempt) -> None:
    attempt.answer(202)


def _cancelled(scene: Scene, attempt: Attempt) -> None:
    scene.cancel(attempt.message["id"])
    scene.edge.one(rpc="notifications/cancelled").answer(202)
    scene.clock.advance(5.0)


def _lose(scene: Scene, attempt: Attempt) -> None:
    scene.lose_session(attempt)
    scene.edge.one(rpc="initialize").answer(422)


def _interrupt(scene: Scene, attempt: Attempt) -> None:
    scene.relay.interrupt()


def _close(scene: Scene, attempt: Attempt) -> None:
    scene.relay.close(CloseReason.DELETED)


def _fall_silent(scene: Scene, attempt: Attempt) -> None:
    scene.clock.advance(32.0)
    scene.edge.one(rpc="ping").answer(404)


ENDS = [
    _answer, _answer_late, _refuse, _break, _redirect, _gateway, _encode, _say_nothing, _cancelled, _lose, _interrupt,
    _close, _fall_silent,
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_every_end_of_a_call_frees_its_room(end: Any):
    """However it ends, what it held of the member and of its session is free, once."""
    scene = _narrow()
    sink = scene.call(1)
    leg, gate = scene.relay.leg, scene.relay.leg.member.gate

    assert (gate.running, leg.running) == (1, 1)

    end(scene, scene.edge.one(rpc="tools/call"))

    assert sink.is_over
    assert (gate.running, leg.running, len(gate)) == (0, 0, 0)
    assert scene.relay.calls == {}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_of_a_call_lets_the_next_one_in(end: Any):
    """Who waits for the room of another session's call gets it."""
    scene = _narrow(limits={"max_calls": 1, "queue_timeout_seconds": 60.0}, silence_seconds=30.0)
    scene.call(1)
    (waiting,) = _another(scene, 2)
    end(scene, scene.edge.one(rpc="tools/call"))
    sent = [attempt for attempt in scene.edge.find(rpc="tools/call") if attempt.message["id"] == 2]

    assert len(sent) == 1

    sent[0].json()

    assert waiting.messages == [result(2)] if waiting.frames else waiting.json() == result(2)


def test_a_call_that_waits_for_the_binding_holds_no_room():
    """Between two attempts it runs nowhere."""
    scene = _narrow()
    scene.call(1)
    leg = scene.relay.leg
    scene.lose_session(scene.edge.one(rpc="tools/call"))

    assert (leg.member.gate.running, leg.running) == (0, 0)

    scene.rebuilt()

    assert (leg.member.gate.running, scene.relay.leg.running) == (1, 1)


@pytest.mark.parametrize("why", ["gateway", "not sent"])
def test_a_call_that_waits_for_its_member_holds_no_room(why: str):
    """While it cannot be sent, others of the member may run."""
    scene = _narrow()
    scene.edge.reachable = False
    scene.call(1, "ping")
    if why == "gateway":
        scene.edge.last.answer(503)
    else:
        scene.edge.last.lost(Loss.NOT_SENT)

    assert (scene.relay.leg.member.gate.running, scene.relay.leg.running) == (0, 0)


def test_a_refusal_that_is_no_news_holds_no_room_twice():
    """Refused by a session that was replaced since, the call is sent at once, and counted once."""
    scene = _narrow()
    scene.call(1)
    scene.call(2)
    first, second = scene.edge.find(rpc="tools/call")
    scene.lose_session(first)
    scene.rebuilt()
    scene.lose_session(second)
    leg = scene.relay.leg

    assert (leg.member.gate.running, leg.running) == (2, 2)

    for attempt in scene.edge.find(rpc="tools/call"):
        attempt.json()

    assert (leg.member.gate.running, leg.running) == (0, 0)


def test_a_call_that_waits_for_room_finds_its_session_lost():
    """It goes to the binding's queue and is sent in the next upstream session, once."""
    scene = _narrow(limits={"max_calls": 1})
    scene.call(1)
    waiting = scene.call(2)
    scene.lose_session(scene.edge.one(rpc="tools/call"))

    assert _calls(scene) == []

    scene.rebuilt()
    first = scene.edge.one(rpc="tools/call")
    first.json()
    second = scene.edge.one(rpc="tools/call")
    second.json()

    assert sorted([first.message["id"], second.message["id"]]) == [1, 2]
    assert {first.upstream_id, second.upstream_id} == {"up-2"}
    assert waiting.json() == result(2)


@pytest.mark.parametrize("end", ["cancel", "interrupt", "close"])
def test_a_call_that_waits_for_room_can_be_ended(end: str):
    """It leaves the queue, was not sent, and is said not to have run."""
    scene = _narrow(limits={"max_calls": 1})
    scene.call(1)
    waiting = scene.call(2)
    if end == "cancel":
        scene.cancel(2)
    elif end == "interrupt":
        scene.relay.interrupt()
    else:
        scene.relay.close(CloseReason.DELETED)

    assert reason(waiting) == {"close": "closed_unsent"}.get(end, "cancelled_unsent")
    assert waiting.json()["error"]["data"]["outcome"] == "not_run"
    assert len(scene.relay.leg.member.gate) == 0
    assert [attempt.message["id"] for attempt in scene.edge.find(rpc="tools/call", is_open=False)] == [1]


def test_more_room_is_used_at_once():
    """A limit that is raised while the proxy runs lets in who waits."""
    scene = _narrow()
    for number in range(1, 5):
        scene.call(number)
    member = scene.relay.leg.member
    member.gate.limit = 10
    member.gate.session_limit = 10
    scene.edge.find(rpc="tools/call")[0].json()

    assert _calls(scene) == [2, 3, 4]


def test_who_waits_for_a_member_that_is_drained_goes_where_its_session_goes():
    """The gate of a drained member sends them away; the session is still there, so they wait, and follow its move."""
    scene = PoolScene(limits={"max_calls": 1})
    scene.call(1)
    waiting = scene.call(2)
    scene.ctx.pool.drain(scene.member("a"))

    assert waiting.status is None

    scene.moved()
    scene.at("b").one(rpc="tools/call").json()

    assert waiting.json() == result(2)
    assert len(scene.at("a").find(rpc="tools/call", is_open=False)) == 1


def test_a_failover_takes_along_who_waits_for_room():
    """The old member's gate has nobody left; all are sent in the new upstream session."""
    scene = PoolScene(limits={"max_calls": 1, "queue_timeout_seconds": 60.0}, eject_after_seconds=0.5)
    scene.call(1)
    waiting = scene.call(2)
    scene.at("a").reachable = False
    scene.at("a").one(rpc="tools/call").refuse()
    for attempt in scene.at("a").find(rpc="initialize"):
        attempt.refuse()
    scene.clock.advance(1.5)
    scene.serve("b")
    for _ in range(2):
        scene.at("b").one(rpc="tools/call").json()

    assert (waiting.messages or [waiting.json()]) == [result(2)]
    assert [len(member.gate) for member in scene.ctx.pool.members] == [0, 0]


def test_a_member_that_refuses_the_session_keeps_nobody_waiting_for_its_room():
    """A call still runs there, but the session lies elsewhere: who waits for that room is sent there."""
    scene = PoolScene(limits={"max_calls": 1, "queue_timeout_seconds": 60.0})
    running, attempt = scene.streaming(1)
    waiting = scene.call(2)
    scene.notify("notifications/roots/list_changed")
    scene.lose_session(scene.at("a").last)
    scene.at("a").one(rpc="initialize").answer(422)
    scene.serve("b")
    scene.at("b").one(rpc="tools/call").json()

    assert waiting.json() == result(2)

    attempt.frame(result(1))

    assert running.messages == [result(1)]
    assert [member.gate.running for member in scene.ctx.pool.members] == [0, 0]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["call", "call", "answer", "stream", "break", "lose", "rebuild", "cancel", "wait", "interrupt"]
        ),
        st.integers(0, 5),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_whatever_happens_room_is_held_by_running_calls_alone(actions: list[tuple[str, int]]):
    """After any sequence of events each call that runs holds one place, and without calls none is held."""
    scene = _narrow(attempts=1, upgrade_after_seconds=1.0)
    scene.edge.reachable = True
    numbers = iter(range(1, 100))
    member = scene.relay.leg.member
    for action, which in actions:
        _act(scene, action, which, numbers)
        holding = [call for call in scene.relay.calls.values() if call._leg is not None]

        assert member.gate.running == scene.relay.leg.running == len(holding) <= 2
        assert member.gate.is_busy == bool(len(member.gate))
    scene.relay.interrupt()

    assert (member.gate.running, scene.relay.leg.running, len(member.gate)) == (0, 0, 0)


def _act(scene: Scene, action: str, which: int, numbers: Any) -> None:
    calls = [attempt for attempt in scene.edge.find(rpc="ping") if attempt.message["id"] in scene.relay.calls]
    attempt = calls[which % len(calls)] if calls else None
    if action == "call":
        scene.call(next(numbers), "ping")
    elif action == "rebuild":
        scene.rebuilt()
    elif action == "wait":
        scene.clock.advance(which)
    elif action == "interrupt":
        scene.relay.interrupt()
    elif action == "cancel" and scene.relay.calls:
        scene.cancel(list(scene.relay.calls)[which % len(scene.relay.calls)])
    elif attempt is not None and attempt.has_head:
        attempt.end() if action == "break" else attempt.frame(result(attempt.message["id"]))
    elif attempt is not None:
        {
            "answer": attempt.json,
            "stream": attempt.sse,
            "break": lambda: break_off(attempt),
            "lose": lambda: scene.lose_session(attempt),
        }.get(action, attempt.json)()


# -- what an attempt says of the member


def _failures(scene: Scene) -> int:
    return scene.relay.leg.member.health.failures


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_servers_error_counts_against_it(status: int):
    """Each 5xx without a JSON-RPC word of its own is one failure."""
    scene = Scene()
    for number in range(3):
        scene.call(number)
        scene.edge.last.answer(status)

    assert _failures(scene) == 3


def test_a_json_rpc_error_is_an_answer():
    """The server itself speaks, whatever status it uses."""
    scene = Scene()
    scene.call(1)
    scene.edge.last.json(503, {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "busy"}})

    assert _failures(scene) == 0


@pytest.mark.parametrize("loss", [Loss.REFUSED, Loss.NOT_SENT])
def test_a_connection_that_cannot_be_had_counts_against_it(loss: Loss):
    """Refused or not made: both say that the member does not serve."""
    scene = Scene()
    scene.call(1)
    scene.edge.last.lost(loss)

    assert _failures(scene) == 1
    assert scene.relay.leg.member.recovery.is_down


def test_a_connection_that_ends_before_an_answer_is_a_failure():
    """A dead server behind something that accepts connections looks so; one that breaks in its answer lives."""
    scene = Scene()
    scene.call(1)
    scene.edge.last.sse()
    break_off(scene.edge.last)

    assert _failures(scene) == 0

    scene.call(2)
    break_off(scene.edge.last)

    assert _failures(scene) == 1


PLAIN, STREAM = ("Content-Type", "application/json"), ("Content-Type", "text/event-stream")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([PLAIN], result_body(1)),
        ([PLAIN], b"no JSON at all"),
        ([PLAIN], b"x" * 301),
        ([], result_body(1)),
        ([PLAIN, ("Mcp-Session-Id", "up-1")], result_body(1)),
        ([STREAM], b"id: 1\ndata: " + result_body(1) + b"\n\n"),
        ([STREAM], b"id: 1\ndata: " + result_body(2) + b"\n\n"),
        ([STREAM], b"data: half a fra"),
        ([STREAM], b"data: " + b"x" * 301),
        ([STREAM, ("Content-Encoding", "gzip")], b"\x1f\x8b"),
    ],
)
@pytest.mark.parametrize("status", [200, 202])
def test_an_answer_that_is_told_in_one_step_means_the_same(status: int, headers: Any, body: bytes):
    """Whatever it is: what the client gets, what is retained, and the room that is free again."""
    seen = []
    for is_whole in (False, True):
        scene = Scene(max_message_bytes=300)
        sink = scene.call(1)
        attempt = scene.edge.last
        if is_whole:
            attempt.is_over = True
            attempt.receiver.on_whole(status, Block(headers), body)
        else:
            attempt.head(status, headers)
            for verb, words in ((attempt.data, (body,)), (attempt.end, ())):
                if attempt.is_open:
                    verb(*words)
        gate = scene.relay.leg.member.gate
        seen.append((sink.status, sink.headers, sink.writes, sink.finished, gate.running, scene.ctx.budget.held))

    assert seen[0] == seen[1]


def test_an_answer_to_a_call_that_is_over_is_unheard_in_one_step_too():
    """Its client was told that it was cancelled."""
    scene = Scene()
    sink = scene.call(1)
    attempt = scene.edge.last
    scene.relay.interrupt()
    told = list(sink.writes)
    attempt.receiver.on_whole(200, Block([PLAIN]), result_body(1))

    assert sink.writes == told
    assert scene.relay.leg.member.gate.running == 0


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_ends_a_row_of_failures(streams: bool):
    """In JSON or as a stream: what failed before is not in a row with what fails after."""
    scene = Scene()
    scene.call(1)
    scene.edge.last.answer(503)

    assert _failures(scene) == 1

    scene.call(2)
    if streams:
        scene.edge.last.sse()
    else:
        scene.edge.last.json()

    assert _failures(scene) == 0


def test_an_ejected_upstream_gets_no_new_sessions_but_keeps_what_it_answers():
    """Calls under way there are not cut by an ejection."""
    scene = PoolScene()
    sink, attempt = scene.streaming(1)
    scene.eject("a")
    attempt.frame(result(1))

    assert sink.messages == [result(1)]


# -- its resumption


@pytest.mark.parametrize("is_safe", [True, False])
def test_a_resumption_that_pauses_while_its_session_is_lost_asks_nobody(is_safe: bool):
    """Its cursor is of no use elsewhere: sent again in the next upstream session where that is safe, else unknown."""
    scene = Scene()
    sink = scene.call(1, "prompts/get" if is_safe else "tools/call")
    attempt = scene.edge.last
    attempt.sse()
    attempt.data(b"id: e1\nretry: 3000\ndata:\n\n")
    attempt.end()
    scene.call(2, "ping")
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")
    scene.clock.advance(3.1)

    assert scene.edge.find(method="GET", is_open=False) == []

    if is_safe:
        scene.edge.one(rpc="prompts/get").json()

        assert sink.messages == [result(1)]
    else:
        assert reason(sink) == "upstream_session_lost"


# -- counts


def test_a_member_counts_how_its_calls_ended():
    """Answered, refused by the server, or with an unknown outcome: each call is counted once."""
    scene = Scene()
    member = scene.relay.leg.member
    scene.call(1)
    scene.edge.last.json()
    scene.call(2)
    scene.edge.last.answer(429)
    scene.call(3)
    break_off(scene.edge.last)
    scene.call(4, "ping")
    break_off(scene.edge.last)
    scene.edge.last.json()

    assert (member.finished, member.unknown) == (3, 1)


def test_a_repetition_that_fails_is_counted_where_the_call_may_have_run():
    """Its member is the one whose outcome nobody knows."""
    scene = Scene()
    member = scene.relay.leg.member
    scene.call(1, "ping")
    attempt = scene.edge.last
    scene.call(2, "ping")
    scene.edge.last.refuse()
    break_off(attempt)
    scene.edge.one(rpc="initialize").answer(422)

    assert member.unknown == 1
