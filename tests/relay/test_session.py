"""One session as a whole: its idleness, its lifetime, its ends, and that nothing of it is left behind."""

import pytest

from proxy.core import headers as h
from proxy.core.edge import Request
from proxy.core.head import Head
from proxy.core.ids import Generation
from proxy.core.session import BindingState, CloseReason
from proxy.relay.evading import evade
from support.fakes import FakeSink, listen, open_session, post, request_body
from support.scenes import PoolScene, Scene, break_off, progress, reason, result, server_request


def _busy(scene: Scene) -> list[FakeSink]:
    """Open everything a session can have open."""
    listening = scene.listening()
    plain = scene.call(1)
    streaming, _ = scene.streaming(2, progress(1), cursor="e1")
    resuming, attempt = scene.streaming(3, cursor="e1")
    break_off(attempt)
    refused = scene.call(4)
    scene.edge.last.answer(400)
    note = scene.notify("notifications/roots/list_changed")
    return [listening, plain, streaming, resuming, refused, note]


@pytest.mark.parametrize("why", list(CloseReason))
def test_nothing_is_left_of_a_closed_session(why: CloseReason):
    """Every client has its end; after a while no exchange, no timer, no byte and no id remains (I5)."""
    scene = Scene()
    sinks = _busy(scene)
    scene.relay.close(why)
    farewell = scene.edge.one(method="DELETE")

    assert farewell.upstream_id == "up-1"
    assert all(sink.finished for sink in sinks)

    farewell.answer(200)
    scene.settle()

    assert scene.edge.open == []
    assert scene.clock.pending() == scene.quiet_timers - 1  # the wheel of checks has nobody left to look at
    assert scene.ctx.budget.used == 0
    assert len(scene.registry) == len(scene.ctx.ids) == 0
    assert not scene.ctx.budget.logs


def test_running_calls_are_told_at_the_end():
    """DELETE with running calls: each gets its error as 200, streams end with a proper last chunk (point 8)."""
    scene = Scene()
    _, plain, streaming, resuming, refused, note = _busy(scene)
    scene.relay.close(CloseReason.DELETED)

    assert [reason(sink) for sink in (plain, streaming, resuming, refused)] == ["session_closed"] * 4
    assert {sink.status for sink in (plain, streaming, resuming, refused)} == {200}
    assert note.status == 202


def test_a_shutdown_is_told_as_such():
    """The proxy's own end has its own reason."""
    scene = Scene()
    sink = scene.call(1)
    scene.relay.close(CloseReason.SHUTDOWN)

    assert reason(sink) == "shutdown"


def test_a_second_close_does_nothing():
    """One DELETE goes upstream, one record is told."""
    scene = Scene()
    scene.relay.close(CloseReason.DELETED)
    scene.relay.close(CloseReason.EXPIRED)

    assert len(scene.edge.find(method="DELETE", is_open=False)) == 1
    assert [record.reason for record in scene.observer.of("session_closed")] == ["deleted"]


def test_an_unbound_session_ends_without_a_word_upstream():
    """What the upstream does not hold need not be ended there."""
    scene = Scene()
    scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.edge.one(rpc="initialize").answer(422)
    scene.relay.close(CloseReason.DELETED)

    assert scene.edge.open == []


def test_an_upstream_without_ids_is_told_nothing():
    """There is no session id to end."""
    scene = Scene(upstream_id=None)
    scene.relay.close(CloseReason.DELETED)

    assert scene.edge.attempts == []


def test_a_farewell_that_nobody_answers_is_given_up():
    """Nothing depends on the answer to DELETE."""
    scene = Scene()
    scene.relay.close(CloseReason.DELETED)
    farewell = scene.edge.one(method="DELETE")
    scene.clock.advance(5.0)

    assert farewell.is_aborted
    assert not scene.ctx.farewells


# -- idleness (semantics 20)


def test_an_idle_session_ends_its_upstream_side_first():
    """After `upstream_idle_seconds` the upstream is told with DELETE; the client's id stays."""
    scene = Scene(upstream_idle_seconds=60.0)
    scene.clock.advance(64.0)

    assert scene.edge.one(method="DELETE").upstream_id == "up-1"
    assert scene.relay.session.binding.state is BindingState.UNBOUND
    assert scene.registry.find(scene.relay.session.id) is scene.relay
    assert len(scene.observer.of("session_parked")) == 1

    scene.clock.advance(60.0)

    assert len(scene.edge.find(method="DELETE", is_open=False)) == 1


def test_the_next_request_rebuilds():
    """The client sees one slow answer, under its old id."""
    scene = Scene(upstream_idle_seconds=60.0)
    scene.clock.advance(70.0)
    sink = scene.call(1)
    scene.rebuilt("up-2")
    scene.edge.one(rpc="tools/call").json()

    assert sink.json()["id"] == 1


def test_a_session_whose_task_runs_is_not_parked():
    """The task runs in the upstream session, and would end with it."""
    scene = Scene(upstream_idle_seconds=60.0)
    scene.relay.session.tasks = {"t": scene.relay.session.binding.generation}
    scene.clock.advance(200.0)

    assert [attempt.method for attempt in scene.edge.attempts] == []

    scene.relay.session.tasks = None
    scene.clock.advance(60.0)

    assert [attempt.method for attempt in scene.edge.attempts] == ["DELETE"]


def test_a_day_of_idleness_ends_the_session():
    """The last resort: a 404 kills every official client."""
    scene = Scene(upstream_idle_seconds=60.0, idle_seconds=600.0)
    scene.clock.advance(590.0)

    assert len(scene.registry) == 1

    scene.clock.advance(20.0)

    assert len(scene.registry) == 0
    assert [record.reason for record in scene.observer.of("session_closed")] == ["expired"]


def test_an_open_stream_is_activity():
    """A session with a reader is never idle."""
    scene = Scene(upstream_idle_seconds=60.0, idle_seconds=120.0, silence_seconds=1000.0)
    scene.listening()
    scene.clock.advance(500.0)

    assert scene.relay.session.binding.state is BindingState.BOUND


def test_a_running_call_is_activity():
    """So is one with a call, even when its client has gone."""
    scene = Scene(upstream_idle_seconds=60.0, idle_seconds=120.0, silence_seconds=1000.0)
    sink, _ = scene.streaming(1, progress(1))
    sink.go_away()
    scene.clock.advance(500.0)

    assert scene.relay.session.binding.state is BindingState.BOUND


def test_a_dead_peers_stream_is_not():
    """Idleness counts from the moment the reader is gone."""
    scene = Scene(upstream_idle_seconds=60.0, silence_seconds=1000.0)
    sink = scene.listening()
    scene.clock.advance(100.0)
    sink.go_away()
    scene.clock.advance(55.0)

    assert scene.relay.session.binding.state is BindingState.BOUND

    scene.clock.advance(10.0)

    assert scene.relay.session.binding.state is BindingState.UNBOUND


def test_a_request_is_activity():
    """The time counts from the end of the latest call."""
    scene = Scene(upstream_idle_seconds=60.0)
    for number in range(5):
        scene.clock.advance(50.0)
        scene.call(number)
        scene.edge.last.json()

    assert scene.relay.session.binding.state is BindingState.BOUND


def test_the_lifetime_ends_an_active_session_too():
    """An absolute lifetime asks for no idleness; its calls are told."""
    scene = Scene(lifetime_seconds=100.0, silence_seconds=1000.0)
    sink, _ = scene.streaming(1)
    scene.clock.advance(99.0)

    assert not sink.is_over

    scene.clock.advance(10.0)

    assert reason(sink) == "session_closed"
    assert [record.reason for record in scene.observer.of("session_closed")] == ["lifetime"]


def test_without_a_lifetime_an_active_session_has_no_end():
    """0 is none: only idleness ends a session, and one with a reader is never idle."""
    scene = Scene(silence_seconds=1e6, upstream_idle_seconds=100.0, idle_seconds=200.0)
    scene.listening()
    scene.clock.advance(2000.0)

    assert len(scene.registry) == 1


# -- sorting what comes


def test_an_answer_to_a_request_goes_to_the_session_that_asked():
    """A response keeps its body where the id was not changed."""
    scene = Scene()
    scene.listening()
    scene.edge.one(method="GET").frame(server_request(1))
    body = b'{"id":1,  "jsonrpc":"2.0", "result":{}}'
    post(scene.relay, body)

    assert scene.edge.last.request.body == body
    assert scene.edge.last.upstream_id == "up-1"


def test_a_batch_on_other_versions_is_relayed():
    """Only 2025-03-26 knows batches: elsewhere the upstream says what it thinks of one (semantics 24)."""
    scene = Scene(version="2025-11-25")
    sink = post(scene.relay, b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]')
    scene.edge.last.answer(422, [], b"no batches")

    assert (sink.status, sink.body) == (422, b"no batches")
    assert scene.relay.calls == {}


def test_a_parked_session_drops_late_answers():
    """The requests of an upstream session that was let go are closed."""
    scene = Scene(upstream_idle_seconds=60.0)
    scene.listening().go_away()
    scene.edge.one(method="GET").frame(server_request(1))
    scene.clock.advance(70.0)
    before = len(scene.edge.attempts)

    assert scene.respond(1).status == 202
    assert len(scene.edge.attempts) == before
    assert len(scene.observer.of("answer_dropped")) == 1


def test_sessions_do_not_share_anything():
    """Two sessions with equal request ids get their own answers, ids and logs (I2)."""
    one, two = Scene(), Scene(upstream_id="up-b")
    sinks = [scene.streaming(1)[0] for scene in (one, two)]
    for scene, text in ((one, "one"), (two, "two")):
        scene.edge.last.frame(result(1, text=text))

    assert [sink.messages for sink in sinks] == [[result(1, text="one")], [result(1, text="two")]]


@pytest.mark.parametrize("name", ["Mcp-Session-Id", "MCP-SESSION-ID"])
@pytest.mark.parametrize("is_given", [False, True])
def test_an_upstreams_session_id_is_not_shown(name: str, is_given: bool):
    """Where an answer carries one the client gets the proxy's in its place, and none where it does not."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.json(headers=[("X-A", "1"), *([(name, "up-1")] if is_given else [])])
    ids = h.get_all(sink.headers, "Mcp-Session-Id")

    assert ids == ([scene.relay.session.id] if is_given else [])
    assert sink.header("X-A") == "1"


def test_a_delete_ends_the_session_with_the_credentials_it_brings():
    """The upstream is told by who asks now, whatever was accepted before; the client is answered."""
    scene = Scene()
    listening = scene.listening()
    sink = FakeSink()
    headers = [("Authorization", "Bearer new"), ("Mcp-Session-Id", scene.relay.session.id)]
    scene.relay.delete(Request(Head("DELETE", "/mcp", headers), b""), sink)
    farewell = scene.edge.one(method="DELETE")

    assert (sink.status, sink.finished, listening.finished) == (200, True, True)
    assert farewell.header("Authorization") == "Bearer new"
    assert farewell.upstream_id == "up-1"
    assert len(scene.registry) == 0


def test_a_get_opens_the_standalone_stream():
    """Told to the session, it is its readers' business."""
    scene = Scene()
    sink = FakeSink()
    headers = [("Accept", "text/event-stream"), ("Mcp-Session-Id", scene.relay.session.id)]
    scene.relay.listen(Request(Head("GET", "/mcp", headers), b""), sink)
    scene.edge.one(method="GET").sse()

    assert sink.status == 200
    assert scene.relay.is_active


# -- its member is out


def _evaded(scene: PoolScene) -> list[str]:
    told: list[str] = []
    evade(scene.relay, lambda: told.append("done"))
    return told


def test_a_session_that_is_used_moves_away_from_an_ejected_member():
    """The registry sees to it: its next request is answered elsewhere, without having met the outage."""
    scene = PoolScene()
    listening = scene.listening()
    scene.eject("a")
    scene.serve("b", get_status=200)
    sink = scene.call(1)
    scene.at("b").one(rpc="tools/call").json()

    assert sink.json() == result(1)
    assert scene.relay.leg.member.name == "b"
    assert not listening.is_over


def test_an_idle_session_of_a_dead_member_is_made_anew_when_it_is_needed():
    """Nobody is asked for nobody: the next request finds it elsewhere; a dead server is not told goodbye."""
    scene = PoolScene()
    scene.eject("a")

    assert scene.relay.session.binding.state is BindingState.LOST
    assert [attempt for edge in scene.edges for attempt in edge.attempts] == []

    scene.call(1)

    assert scene.at("b").one(rpc="initialize")


def test_an_idle_session_of_an_ejected_member_that_lives_is_ended_there():
    """It was ejected for its errors, and would keep the upstream session for ever."""
    scene = PoolScene(eject_after_seconds=0.0, errors=1)
    other = open_session(scene.registry, upstream_id="up-other", member=scene.member("a"))
    post(other, request_body("tools/call", 1))
    scene.at("a").last.answer(500)
    scene.clock.advance(0.0)

    assert not scene.member("a").is_available
    assert "up-1" in [attempt.upstream_id for attempt in scene.at("a").find(method="DELETE")]
    assert scene.relay.session.binding.state is BindingState.UNBOUND


@pytest.mark.parametrize("why", ["pinned", "task", "only one", "lost"])
def test_a_session_that_cannot_leave_stays(why: str):
    """Pinned, with a running task, without a better place, or without anything to move: it says so at once."""
    scene = PoolScene(upstreams=("a",) if why == "only one" else ("a", "b"))
    scene.listening()
    if why == "pinned":
        scene.relay.is_pinned = True
    elif why == "task":
        scene.relay.session.tasks = {"t": Generation(1)}
    elif why == "lost":
        scene.relay.park()
    if why != "only one":
        scene.eject("a")

    assert _evaded(scene) == ["done"]
    assert scene.relay.leg.member.name == "a"
    assert scene.relay.moving is None
    assert [attempt for edge in scene.edges[1:] for attempt in edge.attempts] == []


@pytest.mark.parametrize("why", ["pinned", "task"])
def test_an_idle_session_that_must_stay_is_kept_bound(why: str):
    """What holds it there holds while nobody uses it, too."""
    scene = PoolScene()
    if why == "pinned":
        scene.relay.is_pinned = True
    else:
        scene.relay.session.tasks = {"t": Generation(1)}
    scene.eject("a")

    assert scene.relay.session.binding.state is BindingState.BOUND


def test_a_session_that_has_left_is_not_asked_to_leave_again():
    """Its member is well now."""
    scene = PoolScene()
    scene.listening()
    scene.eject("a")
    scene.serve("b", get_status=200)

    assert _evaded(scene) == ["done"]
    assert scene.relay.leg.member.name == "b"


def _leaving(scene: PoolScene) -> list[str | None]:
    return [attempt.header("Authorization") for attempt in scene.at("b").find(rpc="initialize")]


def test_sessions_leave_a_bounded_number_at_a_time_those_with_running_calls_first():
    """`swap.concurrency` bounds it, and who waits for an answer goes ahead; each that has left lets the next one go."""
    scene = PoolScene(concurrency=2)
    relays = [
        open_session(
            scene.registry,
            upstream_id=f"up-{number}",
            headers=[("Authorization", f"Bearer {number}")],
            member=scene.member("a"),
        )
        for number in range(4)
    ]
    for relay in relays:
        listen(relay)
    for link in scene.at("a").find(method="GET"):
        link.sse()
    for number in (2, 3):
        post(relays[number], request_body("tools/call", 1), headers=[("Authorization", f"Bearer {number}")])
    scene.eject("a")

    assert _leaving(scene) == ["Bearer 2", "Bearer 3"]

    for number in range(4):
        scene.serve("b", f"new-{number}", get_status=200)
        scene.clock.advance()

    assert {relay.leg.member.name for relay in relays} == {"b"}
    assert _leaving(scene) == []


# -- an operator's word


def test_interrupting_ends_every_call():
    """Running ones are cancelled upstream, waiting ones were never sent, and all are told which they are."""
    scene = Scene()
    running = scene.call(1)
    streaming, _ = scene.streaming(2, progress(1))
    waiting = scene.call(3)
    scene.edge.last.refuse()

    assert scene.relay.interrupt() == 3
    assert [reason(sink) for sink in (running, streaming, waiting)] == ["cancelled", "cancelled", "cancelled_unsent"]
    assert scene.relay.calls == {}
    assert scene.edge.find(rpc="tools/call") == []
    assert scene.relay.interrupt() == 0


def test_interrupting_a_call_of_a_session_that_was_rebuilt_since_tells_nobody():
    """It still streams from the lost upstream session: the present one never had it."""
    scene = Scene()
    sink, attempt = scene.streaming(1, progress(1))
    scene.call(2)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")
    scene.edge.one(rpc="tools/call") if not attempt.is_open else scene.edge.find(rpc="tools/call")[-1].json()
    scene.relay.interrupt()

    assert reason(sink) == "cancelled"
    assert scene.edge.find(rpc="notifications/cancelled", is_open=False) == []


def test_interrupting_a_batch_counts_it_once_and_names_each_request():
    """Its members each get their end (2025-03-26)."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(request_body("tools/call", 1), request_body("tools/call", 2))

    assert scene.relay.interrupt() == 1
    assert [answer["id"] for answer in sink.json()] == [1, 2]
    assert [note.message["params"]["requestId"] for note in scene.edge.find(rpc="notifications/cancelled")] == [1, 2]


def test_a_moved_session_is_at_home_in_one_place():
    """Each change of its home is counted at both members, also while nothing is bound."""
    scene = PoolScene(upstreams=("a", "b", "c"))
    homes = [[member.sessions for member in scene.ctx.pool.members]]
    scene.moved("b")
    homes.append([member.sessions for member in scene.ctx.pool.members])
    scene.relay.park()
    scene.relay.rehome(scene.member("c"))
    homes.append([member.sessions for member in scene.ctx.pool.members])
    scene.relay.close(CloseReason.DELETED)
    homes.append([member.sessions for member in scene.ctx.pool.members])

    assert homes == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert scene.relay.session.binding.upstream == "c"
