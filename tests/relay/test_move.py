"""A second binding for a session that is at work: built first, then switched to, the old one drained (swap, drain)."""

from typing import Any

import pytest

from proxy.core import headers as h
from proxy.core.session import BindingState, CloseReason
from proxy.relay.move import MoveOutcome, MoveResult
from proxy.upstream.base import Loss
from support.fakes import initialize_answer, request_body
from support.scenes import PoolScene, break_off, message, progress, reason, result, server_request


def _outcomes(results: list[MoveResult]) -> list[str]:
    return [result.outcome.value for result in results]


def _deleted(scene: PoolScene, name: str) -> list[str | None]:
    return [attempt.upstream_id for attempt in scene.at(name).find(method="DELETE", is_open=False)]


def _half_built(scene: PoolScene, upstream_id: str = "up-2", name: str = "b") -> None:
    """Answer the handshake of what is being made, and nothing more."""
    scene.at(name).one(rpc="initialize").json(200, initialize_answer(), [(h.SESSION_ID, upstream_id)])


# -- the switch


def test_requests_go_to_the_old_one_until_the_new_one_is_ready_and_then_to_the_new_one():
    """While the handshake of the second binding runs nothing waits; after it new requests go there at once."""
    scene = PoolScene()
    results = scene.move()
    before = scene.call(1)
    scene.at("a").one(rpc="tools/call").json()

    assert before.json()["id"] == 1
    assert results == []

    scene.serve("b")
    after = scene.call(2)
    sent = scene.at("b").one(rpc="tools/call")
    sent.json()

    assert (sent.upstream_id, after.json()["id"]) == ("up-2", 2)
    assert _outcomes(results) == ["moved"]
    assert scene.at("a").find(rpc="tools/call") == []


def test_a_move_counts_a_generation_and_a_home():
    """The session belongs to the new member, under the next number, in the dual map too."""
    scene = PoolScene()
    scene.moved()
    session = scene.relay.session
    bound = scene.ctx.ids.upstream_of(session.id)

    assert session.binding.generation == 2
    assert (scene.member("a").sessions, scene.member("b").sessions) == (0, 1)
    assert bound is not None
    assert (bound.upstream, bound.upstream_id, bound.generation) == ("b", "up-2", 2)
    assert session.bindings == (session.binding,)


def test_the_old_upstream_session_is_ended_at_once_where_nothing_runs():
    """With DELETE, and with the credentials the upstream knows."""
    scene = PoolScene()
    scene.moved()
    farewell = scene.at("a").one(method="DELETE")

    assert (farewell.upstream_id, farewell.header("Authorization")) == ("up-1", "Bearer one")
    assert scene.relay.older == ()


def test_what_the_client_set_up_is_there_before_the_switch():
    """The log level and the subscriptions are restored in the new session while the old one still serves."""
    scene = PoolScene()
    scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    scene.edge.last.json()
    scene.call("l", "logging/setLevel", {"level": "debug"})
    scene.edge.last.json()
    results = scene.move()
    _half_built(scene)
    scene.at("b").one(rpc="notifications/initialized").answer(202)
    level = scene.at("b").one(rpc="logging/setLevel")

    assert (level.message["params"], level.upstream_id, results) == ({"level": "debug"}, "up-2", [])

    level.json()
    subscription = scene.at("b").one(rpc="resources/subscribe")
    subscription.json()

    assert subscription.message["params"] == {"uri": "file:///a"}
    assert _outcomes(results) == ["moved"]


def test_what_is_set_up_while_the_new_one_is_made_is_restored_too():
    """A subscription, its end and a level that the old one accepts meanwhile: the switch waits for them."""
    scene = PoolScene()
    scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    scene.edge.last.json()
    results = scene.move()
    _half_built(scene)
    scene.at("b").one(rpc="notifications/initialized").answer(202)
    restored = scene.at("b").one(rpc="resources/subscribe")
    for request_id, method, params in (
        ("t", "resources/subscribe", {"uri": "file:///b"}),
        ("u", "resources/unsubscribe", {"uri": "file:///a"}),
        ("l", "logging/setLevel", {"level": "debug"}),
    ):
        scene.call(request_id, method, params)
        scene.at("a").one(rpc=method).json()
    restored.json()
    late = []
    while not results:
        step = scene.at("b").open[-1]
        late.append((step.rpc, step.message["params"]))
        step.json()

    assert late == [
        ("logging/setLevel", {"level": "debug"}),
        ("resources/subscribe", {"uri": "file:///b"}),
        ("resources/unsubscribe", {"uri": "file:///a"}),
    ]


def test_a_subscription_that_the_old_one_accepts_after_the_switch_is_made_in_the_new_one():
    """The client was told that it has it, and updates come from where the session lies now."""
    scene = PoolScene()
    sink = scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    asked = scene.at("a").one(rpc="resources/subscribe")
    scene.moved()
    asked.json()
    repeated = scene.at("b").one(rpc="resources/subscribe")

    assert sink.json()["id"] == "s"
    assert (repeated.message["params"], repeated.upstream_id) == ({"uri": "file:///a"}, "up-2")
    assert repeated.message["id"] != "s"


def test_a_running_call_finishes_on_the_old_one():
    """Its answer is the client's, and only with it the old upstream session ends."""
    scene = PoolScene()
    sink, attempt = scene.streaming(1, progress(1))
    scene.moved()

    assert scene.relay.session.bindings[0].state is BindingState.DRAINING
    assert _deleted(scene, "a") == []

    attempt.frame(progress(2))
    attempt.frame(result(1))

    assert sink.messages == [progress(1), progress(2), result(1)]
    assert _deleted(scene, "a") == ["up-1"]
    assert scene.relay.session.bindings == (scene.relay.session.binding,)
    assert [member.gate.running for member in scene.ctx.pool.members] == [0, 0]


def test_the_old_one_lives_until_its_last_call_ends():
    """Two calls there, two on the new one: the second of the old ones ends it, the new ones do not keep it."""
    scene = PoolScene()
    scene.call(1)
    scene.call(2)
    one, two = scene.at("a").find(rpc="tools/call")
    scene.moved()
    scene.call(3)
    one.json()

    assert _deleted(scene, "a") == []

    two.json()

    assert _deleted(scene, "a") == ["up-1"]
    assert scene.at("b").one(rpc="tools/call").message["id"] == 3


def test_a_call_may_be_resumed_on_the_old_one():
    """A stream that breaks while it drains is asked for again where it came from."""
    scene = PoolScene()
    sink, attempt = scene.streaming(1)
    attempt.frame(progress(1), "e1")
    scene.moved()
    break_off(attempt)
    scene.clock.advance(0.2)
    resumed = scene.at("a").one(method="GET")

    assert (resumed.upstream_id, resumed.header("Last-Event-ID")) == ("up-1", "e1")

    resumed.sse()
    resumed.frame(result(1), "e2")

    assert sink.messages == [progress(1), result(1)]


# -- the standalone stream


def test_the_clients_standalone_stream_stays_open_throughout():
    """One response for the client: what the old one says, the resync, what the new one says."""
    scene = PoolScene(promises=("tools",))
    sink = scene.listening()
    old = scene.at("a").one(method="GET")
    call, attempt = scene.streaming(1)
    old.frame(message("notifications/message", n=1))
    scene.moved(get_status=200)
    old.frame(message("notifications/message", n=2))
    scene.at("b").one(method="GET").frame(message("notifications/message", n=3))
    attempt.frame(result(1))

    assert [told["params"]["n"] for told in sink.messages if "params" in told] == [1, 2, 3]
    assert [told["method"] for told in sink.messages if "params" not in told] == ["notifications/tools/list_changed"]
    assert not sink.is_over
    assert call.finished
    assert old.is_aborted
    assert scene.at("b").one(method="GET").is_open


def test_a_client_that_listens_after_the_switch_gets_the_new_one():
    """Its stream was not there before, so the new binding opens its own when the client asks."""
    scene = PoolScene()
    scene.moved()
    scene.get()

    assert scene.at("b").one(method="GET").upstream_id == "up-2"
    assert scene.at("a").find(method="GET") == []


def test_a_client_that_began_to_listen_during_the_move_is_heard_by_the_new_one():
    """The handshake was past that step, so the stream is opened with the switch."""
    scene = PoolScene()
    scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    scene.edge.last.json()
    results = scene.move()
    _half_built(scene)
    scene.at("b").one(rpc="notifications/initialized").answer(202)
    sink = scene.get()
    scene.at("a").one(method="GET").sse()
    scene.at("b").one(rpc="resources/subscribe").json()

    assert _outcomes(results) == ["moved"]
    assert scene.at("b").one(method="GET").upstream_id == "up-2"
    assert not sink.is_over


# -- server requests, answers, cancels


@pytest.mark.parametrize("upstream_id", ["up-1", None])
def test_an_answer_goes_to_the_upstream_session_that_asked(upstream_id: str | None):
    """A question that a running call's server asked is answered there after the switch, with or without ids."""
    scene = PoolScene(upstream_id=upstream_id)
    _, attempt = scene.streaming(1)
    attempt.frame(server_request(7))
    scene.moved()
    answered = scene.respond(7, {"x": 1})
    note = scene.at("a").last
    note.answer(202)

    assert (note.message, note.upstream_id) == (result(7, x=1), upstream_id)
    assert answered.status == 202
    assert scene.observer.of("answer_dropped") == scene.observer.of("notification_dropped") == []


def test_the_old_one_may_ask_while_it_drains():
    """On the call's stream and on its standalone stream; both answers go there."""
    scene = PoolScene()
    sink = scene.listening()
    link = scene.at("a").one(method="GET")
    call, attempt = scene.streaming(1)
    scene.moved(get_status=200)
    attempt.frame(server_request("in the call"))
    link.frame(server_request("aside"))

    assert [told["id"] for told in [*call.messages, *sink.messages]] == ["in the call", "aside"]

    for request_id in ("in the call", "aside"):
        scene.respond(request_id)
        note = scene.at("a").last
        note.answer(202)

        assert (note.message, note.upstream_id) == (result(request_id), "up-1")


def test_questions_of_both_under_one_id_are_kept_apart():
    """The later one is shown under another id, and each answer goes where it belongs under its own."""
    scene = PoolScene()
    sink = scene.listening()
    old = scene.at("a").one(method="GET")
    scene.streaming(1)
    scene.moved(get_status=200)
    scene.at("b").one(method="GET").frame(server_request(1))
    old.frame(server_request(1))
    of_new, of_old = [told["id"] for told in sink.messages]

    assert of_new == 1
    assert of_old != 1

    for shown, name, upstream_id in ((of_old, "a", "up-1"), (of_new, "b", "up-2")):
        scene.respond(shown, {"of": name})
        note = scene.at(name).last

        assert (note.message, note.upstream_id) == (result(1, of=name), upstream_id)


def test_an_answer_to_an_old_one_that_has_ended_goes_nowhere():
    """Its server forgot what it asked when its session was ended."""
    scene = PoolScene()
    _, attempt = scene.streaming(1)
    attempt.frame(server_request(7))
    scene.moved()
    attempt.frame(result(1))
    sent = len(scene.at("a").attempts), len(scene.at("b").attempts)

    assert scene.respond(7).status == 202
    assert (len(scene.at("a").attempts), len(scene.at("b").attempts)) == sent
    assert len(scene.observer.of("answer_dropped")) == 1


def test_a_question_of_the_new_one_before_the_switch_is_answered_there():
    """Its stream opens before all is restored: an answer that comes meanwhile waits for the switch."""
    scene = PoolScene()
    scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    scene.edge.last.json()
    sink = scene.listening()
    scene.move()
    _half_built(scene)
    scene.at("b").one(rpc="notifications/initialized").answer(202)
    link = scene.at("b").one(method="GET")
    link.sse()
    link.frame(server_request(7, "roots/list"))

    assert sink.messages[-1]["id"] == 7

    answered = scene.respond(7, {"roots": []})
    scene.at("b").one(rpc="resources/subscribe").json()
    note = scene.at("b").last
    note.answer(202)

    assert (note.message, note.upstream_id) == (result(7, roots=[]), "up-2")
    assert answered.status == 202


def test_a_question_of_a_new_one_that_does_not_come_about_is_dropped():
    """The move fails: the client gets its 202, and after a bounded wait the drop is recorded; nobody else gets it."""
    scene = PoolScene(rebuild_wait_seconds=5.0)
    scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    scene.edge.last.json()
    scene.listening()
    results = scene.move()
    _half_built(scene)
    scene.at("b").one(rpc="notifications/initialized").answer(202)
    link = scene.at("b").one(method="GET")
    link.sse()
    link.frame(server_request(7, "roots/list"))
    answered = scene.respond(7)
    before = len(scene.at("a").attempts)
    scene.relay.moving.stop(MoveResult(MoveOutcome.FAILED, "unreachable"))
    scene.clock.advance(10.0)

    assert _outcomes(results) == ["failed"]
    assert answered.status == 202
    assert [record.reason for record in scene.observer.of("notification_dropped")] == ["unreachable"]
    assert [attempt for attempt in scene.at("a").attempts[before:] if attempt.message] == []


def test_a_cancel_goes_where_the_call_runs():
    """The old one gets the cancel of its call, the new one that of its own."""
    scene = PoolScene()
    scene.call(1)
    scene.moved()
    scene.call(2)
    for request_id in (1, 2):
        assert scene.cancel(request_id).status is None
    old, new = scene.at("a").last, scene.at("b").last

    assert (old.rpc, old.message["params"], old.upstream_id) == ("notifications/cancelled", {"requestId": 1}, "up-1")
    assert (new.rpc, new.message["params"], new.upstream_id) == ("notifications/cancelled", {"requestId": 2}, "up-2")


def test_interrupting_cancels_on_both():
    """Every running call ends, and its own server is told."""
    scene = PoolScene()
    one = scene.call(1)
    scene.moved()
    two = scene.call(2)

    assert scene.relay.interrupt() == 2
    assert [reason(sink) for sink in (one, two)] == ["cancelled"] * 2
    assert [scene.at(name).one(rpc="notifications/cancelled").upstream_id for name in "ab"] == ["up-1", "up-2"]
    assert _deleted(scene, "a") == ["up-1"]


# -- a call that the old one refuses


def test_a_400_of_the_old_one_is_its_own_word_where_a_ping_is_answered():
    """Bad arguments are no lost session: the other calls there go on (semantics 11)."""
    scene = PoolScene()
    bad = scene.call(1)
    refused = scene.at("a").last
    good, attempt = scene.streaming(2)
    scene.moved()
    refused.answer(400, [], b"bad arguments")
    ping = scene.at("a").one(rpc="ping")
    ping.json()
    attempt.frame(result(2))

    assert ping.upstream_id == "up-1"
    assert (bad.status, bad.body) == (400, b"bad arguments")
    assert good.messages == [result(2)]
    assert scene.at("b").find(rpc="tools/call") == []
    assert _deleted(scene, "a") == ["up-1"]


@pytest.mark.parametrize("loss", ["gone", "bad", "refused"])
def test_a_call_that_the_lost_old_one_refused_runs_on_the_new_one(loss: str):
    """It provably did not run: 404, a 400 that a ping confirms, a refused connection."""
    scene = PoolScene()
    sink = scene.call(1)
    attempt = scene.at("a").last
    scene.moved()
    if loss == "gone":
        scene.lose_session(attempt)
    elif loss == "bad":
        attempt.answer(400)
        scene.at("a").one(rpc="ping").answer(400)
    else:
        attempt.refuse()
    again = scene.at("b").one(rpc="tools/call")
    again.json()

    assert (again.upstream_id, sink.json()["id"]) == ("up-2", 1)
    assert scene.relay.older == ()
    assert scene.relay.session.binding.generation == 2
    assert _deleted(scene, "a") == []


def test_a_call_whose_refusal_waits_for_a_ping_is_answered_when_the_old_one_is_lost_meanwhile():
    """The ping is cut with the binding; its word would have been "lost", so the call goes to the new one."""
    scene = PoolScene()
    waiting = scene.call(1)
    asked = scene.at("a").last
    scene.call(2)
    gone = scene.at("a").last
    scene.moved()
    asked.answer(400)
    ping = scene.at("a").one(rpc="ping")
    scene.lose_session(gone)

    assert ping.is_aborted
    assert sorted(attempt.message["id"] for attempt in scene.at("b").find(rpc="tools/call")) == [1, 2]

    for attempt in scene.at("b").find(rpc="tools/call"):
        attempt.json()

    assert waiting.json()["id"] == 1


# -- the time to finish


def test_a_call_that_outlasts_the_drain_ends_as_unknown():
    """After `drain_timeout_seconds` the old upstream session is ended whatever runs there."""
    scene = PoolScene(drain_timeout_seconds=8.0)
    sink, attempt = scene.streaming(1, progress(1))
    scene.moved()
    scene.clock.advance(7.9)

    assert not sink.is_over

    scene.clock.advance(0.2)

    assert reason(sink) == "drained"
    assert sink.messages[-1]["error"]["data"]["outcome"] == "unknown"
    assert attempt.is_aborted
    assert _deleted(scene, "a") == ["up-1"]
    assert scene.at("b").find(rpc="tools/call") == []


def test_a_call_that_only_reads_is_sent_again_when_the_drain_is_over():
    """It runs on the new one under its own id, and its answer is the client's."""
    scene = PoolScene()
    sink = scene.call(1, "resources/read", {"uri": "file:///a"})
    scene.moved(drain_seconds=0.5)
    scene.clock.advance(0.5)
    again = scene.at("b").one(rpc="resources/read")
    again.json()

    assert (again.message["id"], again.upstream_id) == (1, "up-2")
    assert sink.json()["id"] == 1
    assert [(record.reason, record.upstream) for record in scene.observer.of("call_repeated")] == [("drained", "a")]


def test_the_drain_of_one_move_has_its_own_time():
    """What whoever asks for the move says counts, not the configuration."""
    scene = PoolScene(drain_timeout_seconds=100.0)
    sink, _ = scene.streaming(1)
    scene.moved(drain_seconds=2.0)
    scene.clock.advance(2.0)

    assert reason(sink) == "drained"


def test_a_call_that_was_not_sent_is_not_drained():
    """One that could not be sent to the old one and waits has no unknown outcome: it goes to the new one."""
    scene = PoolScene(drain_timeout_seconds=1.0)
    other = scene.call(1)
    sink = scene.call(2)
    scene.moved()
    scene.at("a").reachable = False
    scene.at("a").attempts[-1].lost(Loss.NOT_SENT)
    scene.clock.advance(1.0)

    assert reason(other) == "drained"
    assert sink.status in (None, 200)
    assert sink.messages == []

    scene.at("a").reachable = True
    scene.clock.advance(5.0)
    scene.at("b").one(rpc="tools/call").json()

    assert sink.messages == [result(2)]


def test_a_call_that_waits_does_not_keep_the_old_one():
    """It runs there no more: the last call that does ends the old upstream session."""
    scene = PoolScene()
    scene.call(1)
    scene.call(2)
    running, unsent = scene.at("a").find(rpc="tools/call")
    scene.moved()
    scene.at("a").reachable = False
    unsent.lost(Loss.NOT_SENT)
    running.json()

    assert _deleted(scene, "a") == ["up-1"]
    assert scene.relay.older == ()


def test_nobody_is_asked_about_its_tools_when_its_time_is_over():
    """What kind of tool was interrupted is not worth a question to a server that is taken out."""
    scene = PoolScene(ask_tools=True)
    sink = scene.call(1, "tools/call", {"name": "t"})
    scene.moved(drain_seconds=0.1)
    scene.clock.advance(0.1)

    assert reason(sink) == "drained"
    assert scene.at("a").find(rpc="tools/list", is_open=False) == []


# -- moves that fail


@pytest.mark.parametrize(
    ("status", "headers", "body", "why"),
    [
        (422, (), b'{"no": 1}', "rebuild_refused"),
        (404, (), b"", "rebuild_refused"),
        (200, (("Content-Type", "text/html"),), b"<html>", "rebuild_refused"),
        (200, (), b"", "rebuild_refused"),
        (307, (("Location", "http://elsewhere"),), b"", "rebuild_refused"),
        (401, (("WWW-Authenticate", "Bearer"),), b"", "http_status"),
        (403, (), b"", "http_status"),
    ],
)
def test_a_server_that_does_not_take_the_session_does_not_get_it(status: int, headers: Any, body: bytes, why: str):
    """The move says why, and of the session nothing has changed."""
    scene = PoolScene()
    sink, attempt = scene.streaming(1)
    results = scene.move()
    scene.at("b").one(rpc="initialize").answer(status, list(headers), body)
    scene.clock.advance(30.0)

    assert [(result.outcome, result.reason) for result in results] == [(MoveOutcome.FAILED, why)]
    assert results[0].data["http_status"] == status
    assert (scene.relay.leg.member.name, scene.relay.session.binding.generation) == ("a", 1)
    assert (scene.member("a").sessions, scene.member("b").sessions) == (1, 0)
    assert [record.reason for record in scene.observer.of("move_failed")] == [why]

    attempt.frame(result(1))

    assert sink.messages == [result(1)]
    assert _deleted(scene, "a") == []


def test_another_protocol_version_does_not_get_the_session():
    """The half made upstream session is ended; the next one that is made has the next number."""
    scene = PoolScene()
    results = scene.move()
    scene.at("b").one(rpc="initialize").json(200, initialize_answer("2025-06-18"), [(h.SESSION_ID, "up-2")])

    assert [(result.outcome, result.reason) for result in results] == [(MoveOutcome.FAILED, "version_mismatch")]
    assert results[0].data == {"negotiated": "2025-11-25", "offered": "2025-06-18"}
    assert _deleted(scene, "b") == ["up-2"]

    scene.moved(upstream_id="up-3")

    assert scene.relay.session.binding.generation == 2


def test_a_server_that_is_not_there_does_not_get_the_session():
    """It is tried a bounded number of times; the client notices nothing."""
    scene = PoolScene(eject_after_seconds=0.0)
    scene.at("b").reachable = False
    results = scene.move()
    tries = 0
    while scene.clock.now() < 1100.0 and not results:
        for attempt in scene.at("b").find(rpc="initialize"):
            tries += 1
            attempt.refuse()
        scene.clock.advance(0.5)
    sink = scene.call(1)
    scene.at("a").one(rpc="tools/call").json()

    assert [(result.outcome, result.reason) for result in results] == [(MoveOutcome.FAILED, "unreachable")]
    assert 1 <= tries <= 3
    assert sink.json()["id"] == 1
    scene.assert_nothing_is_left()


def test_a_move_whose_own_failure_ejects_the_member_is_reported_once():
    """What follows from the ejection ends the move already; the refusal that brought it about adds nothing."""
    scene = PoolScene(eject_after_seconds=0.0)
    scene.listening()
    scene.at("b").reachable = False
    for _ in range(scene.config.health.fall - 1):
        scene.member("b").refused()
    results = scene.move()
    scene.at("b").one(rpc="initialize").refuse()
    scene.clock.advance(30.0)

    assert not scene.member("b").is_available
    assert [(result.outcome, result.reason) for result in results] == [(MoveOutcome.FAILED, "unreachable")]
    assert scene.relay.leg.member.name == "a"


def test_a_server_that_says_nothing_does_not_get_the_session():
    """Each step has a deadline, and so has the move."""
    scene = PoolScene(ping_timeout_seconds=2.0)
    scene.at("b").reachable = True
    results = scene.move()
    scene.clock.advance(60.0)

    assert [(result.outcome, result.reason) for result in results] == [(MoveOutcome.FAILED, "unreachable")]
    assert len(scene.at("b").find(rpc="initialize", is_open=False)) == 3
    assert scene.relay.leg.member.name == "a"


def test_a_server_that_is_starting_gets_the_session_later():
    """503 to the handshake is tried again."""
    scene = PoolScene()
    scene.at("b").reachable = True
    results = scene.move()
    scene.at("b").one(rpc="initialize").answer(503)
    scene.clock.advance(1.0)
    scene.serve("b")

    assert _outcomes(results) == ["moved"]


# -- sessions that are not simply bound


def test_an_idle_session_is_moved_without_a_request():
    """There is nothing to replace: its next request makes the upstream session at the new place."""
    scene = PoolScene(upstream_idle_seconds=60.0)
    scene.clock.advance(70.0)
    results = scene.move()

    assert _outcomes(results) == ["idle"]
    assert scene.at("b").attempts == []
    assert (scene.member("a").sessions, scene.member("b").sessions) == (0, 1)

    sink = scene.call(1)
    scene.serve("b")
    scene.at("b").one(rpc="tools/call").json()

    assert sink.json()["id"] == 1
    assert scene.at("a").find(rpc="initialize", is_open=False) == []


def test_a_lost_session_with_a_reader_is_made_at_the_new_place_at_once():
    """Nobody asks, but somebody listens."""
    scene = PoolScene()
    sink = scene.listening()
    scene.call(1)
    scene.at("a").one(rpc="tools/call").answer(404)
    scene.at("a").one(rpc="initialize").answer(422)
    scene.at("b").one(rpc="initialize").answer(422)

    assert scene.relay.session.binding.state is BindingState.LOST

    results = scene.move()
    scene.clock.advance(0.0)
    scene.serve("b", get_status=200)

    assert _outcomes(results) == ["idle"]
    assert scene.relay.session.binding.state is BindingState.BOUND
    assert not sink.is_over


def test_a_closed_session_is_not_moved():
    """Nothing is asked of anybody."""
    scene = PoolScene()
    scene.relay.close(CloseReason.DELETED)

    assert _outcomes(scene.move()) == ["closed"]
    assert scene.at("b").attempts == []


def test_a_session_that_is_closed_during_the_move_ends_on_both():
    """The half made upstream session is ended like the present one, and nothing is left."""
    scene = PoolScene()
    results = scene.move()
    _half_built(scene)
    scene.relay.close(CloseReason.DELETED)

    assert _outcomes(results) == ["closed"]
    assert (_deleted(scene, "a"), _deleted(scene, "b")) == (["up-1"], ["up-2"])
    scene.assert_nothing_is_left()


def test_an_upstream_that_is_lost_during_the_move_is_replaced_by_it():
    """A call that was refused waits for the one upstream session that is being made, and is sent there, once."""
    scene = PoolScene()
    results = scene.move()
    sink = scene.call(1)
    scene.at("a").reachable = False
    scene.at("a").one(rpc="tools/call").refuse()

    assert scene.at("a").find(rpc="initialize") == []

    scene.serve("b")
    sent = scene.at("b").one(rpc="tools/call")
    sent.json()

    assert _outcomes(results) == ["rebuilt"]
    assert scene.relay.session.binding.generation == 2
    assert sink.json()["id"] == 1
    assert _deleted(scene, "a") == []
    scene.assert_nothing_is_left()


def test_a_move_that_fails_when_the_old_one_is_lost_leaves_a_rebuild_behind():
    """Who waits for the move waits for the rebuild then, at once and not after further attempts of the move."""
    scene = PoolScene()
    results = scene.move()
    sink = scene.call(1)
    scene.lose_session(scene.at("a").one(rpc="tools/call"))
    scene.at("b").one(rpc="initialize").answer(503)

    assert [result.reason for result in results] == ["unreachable"]

    scene.serve("a", "up-3")
    scene.at("a").one(rpc="tools/call").json()

    assert sink.json()["id"] == 1
    assert (scene.relay.leg.member.name, scene.relay.session.binding.state) == ("a", BindingState.BOUND)
    scene.assert_nothing_is_left()


def test_a_ping_in_what_was_lost_is_not_waited_for_after_the_switch():
    """A call whose 400 waits for it is sent in the new one at once."""
    scene = PoolScene()
    scene.move()
    waiting = scene.call(1)
    scene.at("a").last.answer(400)
    ping = scene.at("a").one(rpc="ping")
    scene.call(2)
    scene.lose_session(scene.at("a").last)
    scene.serve("b")

    assert ping.is_aborted
    assert sorted(attempt.message["id"] for attempt in scene.at("b").find(rpc="tools/call")) == [1, 2]

    for attempt in scene.at("b").find(rpc="tools/call"):
        attempt.json()

    assert waiting.json() == result(1)


def test_a_rebuild_that_is_under_way_when_the_move_is_done_is_ended():
    """What it had made already is told goodbye; what waited for it is sent in the new one, once."""
    scene = PoolScene()
    scene.call("s", "resources/subscribe", {"uri": "file:///a"})
    scene.edge.last.json()
    sink = scene.call(1)
    scene.lose_session(scene.at("a").one(rpc="tools/call"))
    results = scene.move()
    _half_built(scene, "up-9", "a")
    scene.at("a").one(rpc="notifications/initialized").answer(202)
    restoring = scene.at("a").one(rpc="resources/subscribe")
    scene.serve("b")
    scene.at("b").one(rpc="tools/call").json()

    assert restoring.is_aborted
    assert _outcomes(results) == ["rebuilt"]
    assert _deleted(scene, "a") == ["up-9"]
    assert sink.json()["id"] == 1
    assert scene.relay.leg.member.name == "b"
    scene.assert_nothing_is_left()


def test_a_rebuild_that_is_done_before_the_move_is_replaced_by_it():
    """The call runs in what was there first; the move ends that one after it."""
    scene = PoolScene()
    sink = scene.call(1)
    scene.lose_session(scene.at("a").one(rpc="tools/call"))
    results = scene.move()
    scene.serve("a", "up-9")
    attempt = scene.at("a").one(rpc="tools/call")
    scene.serve("b")

    assert _outcomes(results) == ["moved"]
    assert scene.relay.leg.member.name == "b"

    attempt.json()

    assert sink.json()["id"] == 1
    assert _deleted(scene, "a") == ["up-9"]


def test_a_session_that_is_parked_during_the_move_is_awake_after_it():
    """The upstream's side was ended for idleness; the new one is there when it is ready."""
    scene = PoolScene(upstream_idle_seconds=60.0)
    scene.move()
    scene.relay.park()
    scene.serve("b")

    assert scene.relay.session.binding.state is BindingState.BOUND
    assert _deleted(scene, "a") == ["up-1"]
    scene.assert_nothing_is_left()


# -- who must stay


def test_a_pinned_session_stays():
    """An operator's word holds until it is taken back, or overruled."""
    scene = PoolScene()
    scene.relay.is_pinned = True

    assert _outcomes(scene.move()) == ["pinned"]
    assert scene.at("b").attempts == []

    scene.moved(is_forced=True)

    assert scene.relay.leg.member.name == "b"


def test_a_running_task_pins_its_session():
    """It lies in the upstream session that began it; with its result the session is free (2025-11-25)."""
    scene = PoolScene()
    scene.call(1, "tools/call", {"name": "slow", "task": {}})
    scene.at("a").one(rpc="tools/call").json(200, result(1, task={"taskId": "t", "status": "working"}))

    assert _outcomes(scene.move()) == ["pinned"]

    scene.call(2, "tasks/result", {"taskId": "t"})
    scene.at("a").one(rpc="tasks/result").json()
    scene.moved()

    assert scene.relay.leg.member.name == "b"


def test_a_task_that_is_lost_with_its_binding_is_an_explicit_error():
    """Moved by force: the new server is never asked about a task that it cannot know."""
    scene = PoolScene()
    scene.call(1, "tools/call", {"name": "slow", "task": {}})
    scene.at("a").one(rpc="tools/call").json(200, result(1, task={"taskId": "t", "status": "working"}))
    scene.moved(is_forced=True)
    sink = scene.call(2, "tasks/get", {"taskId": "t"})

    assert (sink.status, reason(sink)) == (200, "task_lost")
    assert scene.at("b").find(rpc="tasks/get", is_open=False) == []


def test_one_move_at_a_time():
    """A second one is refused while the first is built, and leaves that alone."""
    scene = PoolScene(upstreams=("a", "b", "c"))
    first = scene.move("b")
    second = scene.move("c")

    assert [(result.outcome, result.reason) for result in second] == [(MoveOutcome.FAILED, "moving")]

    scene.serve("b")

    assert _outcomes(first) == ["moved"]
    assert scene.at("c").attempts == []


# -- several legs


def test_a_second_move_while_the_first_drains():
    """Three bindings at work: each call ends where it runs, and each old upstream session with its last call."""
    scene = PoolScene(upstreams=("a", "b", "c"))
    one = scene.call(1)
    scene.moved("b", "up-2")
    two = scene.call(2)
    scene.moved("c", "up-3")
    three = scene.call(3)

    assert [leg.member.name for leg in (*scene.relay.older, scene.relay.leg)] == ["a", "b", "c"]
    assert [binding.generation for binding in scene.relay.session.bindings] == [1, 2, 3]

    for name, sink, number in (("b", two, 2), ("a", one, 1), ("c", three, 3)):
        scene.at(name).one(rpc="tools/call").json()

        assert sink.json()["id"] == number
        assert _deleted(scene, name) == ([] if name == "c" else [f"up-{number}"])
    assert scene.relay.older == ()


def test_a_move_to_the_same_member_makes_a_new_upstream_session_there():
    """A refresh: the running call ends in the old one, which is then ended, not the new one."""
    scene = PoolScene()
    sink = scene.call(1)
    running = scene.at("a").last
    scene.moved("a", "up-2")
    scene.call(2)

    assert scene.at("a").last.upstream_id == "up-2"
    assert scene.member("a").sessions == 1

    running.json()

    assert sink.json()["id"] == 1
    assert _deleted(scene, "a") == ["up-1"]


def test_the_old_one_is_ended_once_however_it_ends():
    """Its last call ends in the very moment that its time is over."""
    scene = PoolScene(drain_timeout_seconds=5.0)
    scene.call(1)
    running = scene.at("a").last
    scene.moved()
    running.json()
    scene.clock.advance(10.0)

    assert _deleted(scene, "a") == ["up-1"]


@pytest.mark.parametrize("steps", range(6))
def test_nothing_is_left_of_a_session_that_closes_at_any_step(steps: int):
    """Closed before, during and after the switch: every call has its end, every upstream session its DELETE."""
    scene = PoolScene()
    listening = scene.listening()
    old, _ = scene.streaming(1, progress(1))
    results = scene.move() if steps >= 1 else []
    if steps >= 2:
        _half_built(scene)
    if steps >= 3:
        scene.at("b").one(rpc="notifications/initialized").answer(202)
    if steps >= 4:
        scene.at("b").one(method="GET").sse()
    sink = scene.call(2)
    if steps >= 5:
        scene.at("a").find(method="GET")[-1].frame(server_request(3))
        scene.respond(3)
    scene.relay.close(CloseReason.DELETED)

    assert [reason(each) for each in (old, sink)] == ["session_closed"] * 2
    assert listening.finished
    assert _outcomes(results) == [[], ["closed"], ["closed"], ["closed"], ["moved"], ["moved"]][steps]
    assert _deleted(scene, "a") == ["up-1"]
    assert _deleted(scene, "b") == (["up-2"] if steps >= 2 else [])
    scene.assert_nothing_is_left()


def test_waiting_for_room_ends_with_the_switch():
    """A call that waits for room on the old one has it at once on the new one."""
    scene = PoolScene(limits={"max_calls": 1})
    scene.call(1)
    waiting = scene.call(2)

    assert len(scene.member("a").gate) == 1

    scene.moved()
    scene.at("b").one(rpc="tools/call").json()

    assert waiting.json()["id"] == 2
    assert len(scene.member("a").gate) == 0


def test_an_observer_is_told_of_the_move():
    """Where from, where to, under which number, and how long it took."""
    scene = PoolScene()
    scene.move()
    scene.clock.advance(0.25)
    scene.serve("b")
    (record,) = scene.observer.of("session_moved")

    assert (record.upstream, record.previous, record.generation, record.waited_seconds) == ("b", "a", 2, 0.25)
    assert record.session == scene.relay.fingerprint
    assert scene.observer.of("session_failed_over") == scene.observer.of("session_rebuilt") == []


def test_a_batch_runs_to_its_end_on_the_old_one():
    """All of it, though some of its answers came before the switch (2025-03-26)."""
    scene = PoolScene(version="2025-03-26")
    sink = scene.batch(request_body("tools/call", 1), request_body("tools/call", 2))
    attempt = scene.at("a").last
    attempt.sse()
    attempt.frame(result(1))
    scene.moved()
    attempt.frame(result(2))

    assert sink.messages == [result(1), result(2)]
    assert _deleted(scene, "a") == ["up-1"]
