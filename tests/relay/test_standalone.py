"""The upstream's side of the standalone stream: one GET, kept while the session is bound."""

import pytest

from proxy.core.session import CloseReason
from proxy.relay.standalone import LinkState
from support.fakes import Attempt, FakeSink, initialize_answer
from support.scenes import PoolScene, Scene, break_off, message, result, server_request


def _link(scene: Scene) -> Attempt:
    return scene.edge.one(method="GET")


def _reopened(scene: Scene, seconds: float = 1.0) -> Attempt:
    scene.clock.advance(seconds)
    return _link(scene)


def _numbers(sink: FakeSink) -> list[int]:
    return [told["params"]["n"] for told in sink.messages if "n" in told.get("params", {})]


def test_it_opens_with_the_clients_first_get():
    """No client stream, no upstream stream; then one GET with the upstream's id and the session's version."""
    scene = Scene()
    scene.call(1)
    scene.edge.last.json()

    assert scene.edge.find(method="GET", is_open=False) == []

    scene.get()
    link = _link(scene)

    assert (link.upstream_id, link.header("MCP-Protocol-Version")) == ("up-1", "2025-11-25")
    assert (link.header("Accept"), link.request.fresh) == ("text/event-stream", True)
    assert link.header("Last-Event-ID") is None


def test_it_is_kept_without_a_reader():
    """What arrives while no client listens is kept for the next (semantics 7, 18)."""
    scene = Scene()
    scene.listening().go_away()
    _link(scene).frame(message("a", n=1))
    sink = scene.get()
    _link(scene).frame(message("a", n=2))

    assert _numbers(sink) == [1, 2]
    assert len(scene.edge.find(method="GET", is_open=False)) == 1


def test_a_broken_link_is_reopened_with_its_own_cursor():
    """Unseen by the client: the same response goes on, with nothing doubled (point 6)."""
    scene = Scene(promises=("tools",))
    sink = scene.listening()
    link = _link(scene)
    link.frame(message("a", n=1), "e1")
    link.frame(message("a", n=2), "e2")
    break_off(link)
    again = _reopened(scene)

    assert (again.header("Last-Event-ID"), again.upstream_id) == ("e2", "up-1")

    again.sse()
    again.frame(message("a", n=2), "e2")
    again.frame(message("a", n=3), "e3")

    assert _numbers(sink) == [1, 2, 3]
    assert len(sink.messages) == 3
    assert not sink.is_over


def test_a_link_without_a_cursor_tells_the_resync_when_it_is_back():
    """What was sent meanwhile cannot be asked for: it is told as a discontinuity."""
    scene = Scene(promises=("tools",))
    sink = scene.listening()
    _link(scene).frame(message("a", n=1))
    break_off(_link(scene))

    assert len(sink.messages) == 1

    _reopened(scene).sse()

    assert [told["method"] for told in sink.messages] == ["a", "notifications/tools/list_changed"]


def test_the_resync_is_told_once_however_often_the_reopening_fails():
    """One hole, one telling."""
    scene = Scene(promises=("tools",))
    sink = scene.listening()
    break_off(_link(scene))
    _reopened(scene).answer(409)
    _reopened(scene, 5.0).answer(503)
    _reopened(scene, 5.0).sse()

    assert [told["method"] for told in sink.messages] == ["notifications/tools/list_changed"]


def test_the_waits_between_failures_grow():
    """Backoff: a server that refuses is not asked without end."""
    scene = Scene()
    scene.listening()
    break_off(_link(scene))
    waits = []
    for _ in range(6):
        start = scene.clock.now()
        while not scene.edge.find(method="GET"):
            scene.clock.advance(0.05)
        waits.append(scene.clock.now() - start)
        _link(scene).answer(409)

    assert waits == sorted(waits)
    assert waits[-1] > 8 * waits[0]


def test_jitter_spreads_the_reopening():
    """Two proxies, or many sessions, do not knock in step."""
    waits = []
    for jitter in (0.0, 0.99):
        scene = Scene()
        scene.listening()
        scene.clock.jitter_value = jitter
        break_off(_link(scene))
        start = scene.clock.now()
        while not scene.edge.find(method="GET"):
            scene.clock.advance(0.005)
        waits.append(scene.clock.now() - start)

    assert waits[1] > 1.4 * waits[0]


def test_a_clean_end_is_met_again_after_its_retry():
    """A server that ends the connection is asked again no sooner than it said."""
    scene = Scene()
    scene.listening()
    link = _link(scene)
    link.data(b"id: e1\nretry: 4000\ndata:\n\n")
    link.end()
    scene.clock.advance(2.9)

    assert scene.edge.find(method="GET") == []
    assert _reopened(scene, 1.2).header("Last-Event-ID") == "e1"


def test_a_server_without_the_stream_is_remembered():
    """405 is relayed to the client and not asked about again in this upstream session (semantics 18)."""
    scene = Scene()
    first = scene.get()
    _link(scene).answer(405, [("Allow", "POST")], b"none")
    second = scene.get()
    scene.clock.advance(60.0)

    assert [(sink.status, sink.body) for sink in (first, second)] == [(405, b"none")] * 2
    assert first.header("Allow") == "POST"
    assert len(scene.edge.find(method="GET", is_open=False)) == 1


def test_the_next_upstream_session_is_asked_anew():
    """405 is remembered for the generation only."""
    scene = Scene()
    scene.get()
    _link(scene).answer(405)
    scene.call(1)
    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.rebuilt(get_status=200)

    assert scene.get().status == 200
    assert _link(scene).upstream_id == "up-2"


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_relayed_and_asked_again_with_the_next(status: int):
    """Until a live request brings other credentials nothing is tried; the next GET brings them."""
    scene = Scene()
    sink = scene.get()
    _link(scene).answer(status, [("WWW-Authenticate", "Bearer")], b"who?")
    scene.clock.advance(60.0)

    assert (sink.status, sink.body, sink.header("WWW-Authenticate")) == (status, b"who?", "Bearer")
    assert scene.edge.find(method="GET") == []

    scene.get(headers=[("Authorization", "Bearer new")])

    assert _link(scene).header("Authorization") == "Bearer new"


def test_a_404_that_a_ping_confirms_rebuilds_for_the_reader():
    """A loss noticed on the standalone stream rebuilds too, unseen by its client (semantics 11)."""
    scene = Scene()
    sink = scene.listening()
    _link(scene).end()
    scene.lose_session(_reopened(scene))
    for ping in scene.edge.find(rpc="ping"):
        scene.lose_session(ping)
    scene.background()
    scene.rebuilt(get_status=200)
    _link(scene).frame(message("a", n=1))

    assert _link(scene).upstream_id == "up-2"
    assert _numbers(sink) == [1]


def test_a_400_in_a_live_session_drops_the_cursor():
    """The ping is answered, so only the cursor was refused: the stream is opened without it, and the hole told."""
    scene = Scene(promises=("tools",))
    sink = scene.listening()
    _link(scene).frame(message("a", n=1), "e1")
    break_off(_link(scene))
    _reopened(scene).answer(400)
    scene.edge.one(rpc="ping").json()
    again = _reopened(scene, 5.0)

    assert again.header("Last-Event-ID") is None

    again.sse()
    again.frame(message("a", n=2), "e2")

    assert _numbers(sink) == [1, 2]
    assert "notifications/tools/list_changed" in [told["method"] for told in sink.messages]


def test_a_refused_connection_is_a_lost_session():
    """A server that is gone comes back with nothing: the session is rebuilt as soon as it does."""
    scene = Scene()
    sink = scene.listening()
    break_off(_link(scene))
    _reopened(scene).refuse()
    scene.background().refuse()
    scene.edge.reachable = True
    scene.clock.advance(1.0)
    scene.rebuilt(get_status=200)

    assert _link(scene).upstream_id == "up-2"
    assert not sink.is_over


def test_a_link_refused_in_the_middle_of_a_rebuild_is_tried_again():
    """The rebuild goes on without it, and the reader's stream is opened later all the same."""
    scene = Scene()
    scene.listening()
    scene.call(1)
    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.edge.one(rpc="initialize").json(200, initialize_answer(), [("Mcp-Session-Id", "up-2")])
    scene.edge.one(rpc="notifications/initialized").answer(202)
    _link(scene).refuse()
    scene.clock.advance(1.0)
    scene.edge.one(rpc="tools/call").json()

    assert _reopened(scene).upstream_id == "up-2"


def test_foreign_answers_in_a_resumed_link_are_dropped():
    """One server's event store replays other streams' answers: they were given to their own."""
    scene = Scene()
    sink = scene.listening()
    _link(scene).frame(message("a", n=1), "e1")
    break_off(_link(scene))
    again = _reopened(scene)
    again.sse()
    again.frame(result(5), "x5")
    again.frame(message("a", n=2), "e2")

    assert [told.get("id") for told in sink.messages] == [None, None]
    assert _numbers(sink) == [1, 2]


def test_a_repeated_server_request_is_shown_once():
    """What comes twice is dropped, also where its id had to change."""
    scene = Scene()
    sink = scene.listening()
    _link(scene).frame(server_request(1), "e1")
    scene.call(1)
    scene.lose_session(scene.edge.one(rpc="tools/call"))
    scene.rebuilt(get_status=200)
    _link(scene).frame(server_request(1), "f1")
    _link(scene).frame(server_request(2), "f2")
    break_off(_link(scene))
    again = _reopened(scene)
    again.sse()
    again.frame(server_request(1), "f1")
    again.frame(server_request(2), "f2")

    assert len(sink.messages) == 3
    assert len({str(told["id"]) for told in sink.messages}) == 3


@pytest.mark.parametrize("cursor", ["é", "x" * 4097])
def test_a_cursor_that_fits_no_header_is_none(cursor: str):
    """An id beyond ASCII or 4 KiB is never sent back."""
    scene = Scene()
    scene.listening()
    _link(scene).frame(message("a", n=1), cursor)
    break_off(_link(scene))

    assert _reopened(scene).header("Last-Event-ID") is None


def test_a_frame_above_the_bound_is_a_told_hole():
    """It can never be passed on: the link is opened past it, and the resync told."""
    scene = Scene(promises=("tools",), max_message_bytes=200)
    sink = scene.listening()
    link = _link(scene)
    link.frame(message("a", n=1), "e1")
    link.data(b"data: " + b"x" * 300)

    assert link.is_aborted

    again = _reopened(scene)
    again.sse()

    assert again.header("Last-Event-ID") is None
    assert sink.messages[-1]["method"] == "notifications/tools/list_changed"


def test_an_encoded_stream_is_not_read():
    """What cannot be read is not taken for an event stream."""
    scene = Scene()
    sink = scene.get()
    _link(scene).sse([("Content-Encoding", "gzip")])
    scene.clock.advance(1.0)

    assert (sink.status, sink.messages) == (200, [])
    assert scene.relay.leg.link.state is not LinkState.OPEN


def test_the_end_of_the_session_cuts_it():
    """Nothing is read for a session that is over."""
    scene = Scene()
    sink = scene.listening()
    link = _link(scene)
    scene.relay.close(CloseReason.DELETED)

    assert link.is_aborted
    assert sink.finished

    scene.settle()

    assert scene.edge.find(method="GET") == []


# -- several legs


def test_a_change_of_the_tools_makes_them_unknown():
    """What the server said of them may not hold any more; the notification reaches the client."""
    scene = Scene()
    scene.call(1, "tools/list")
    scene.edge.last.json(200, result(1, tools=[{"name": "t"}]))
    sink = scene.listening()
    told = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    _link(scene).frame(told)

    assert scene.relay.leg.member.tools is None
    assert sink.messages == [told]


def test_the_link_of_a_draining_leg_is_kept_and_reopened_there():
    """It breaks while a call still runs: asked for again with its own cursor, in its own upstream session."""
    scene = PoolScene()
    sink = scene.listening()
    old = scene.at("a").one(method="GET")
    scene.call(1)
    scene.moved(get_status=200)
    old.frame(message("a", n=1), "e1")
    break_off(old)
    scene.clock.advance(1.0)
    again = scene.at("a").one(method="GET")

    assert (again.header("Last-Event-ID"), again.upstream_id) == ("e1", "up-1")

    again.sse()
    again.frame(message("a", n=2), "e2")

    assert _numbers(sink) == [1, 2]


def test_a_lost_session_on_a_draining_link_ends_that_leg_alone():
    """404 and a ping refused alike: its call's outcome is its own, the session serves on."""
    scene = PoolScene()
    sink = scene.listening()
    old = scene.at("a").one(method="GET")
    scene.call(1)
    scene.moved(get_status=200)
    break_off(old)
    scene.clock.advance(1.0)
    scene.lose_session(scene.at("a").one(method="GET"))
    scene.lose_session(scene.at("a").one(rpc="ping"))

    assert scene.relay.older == ()
    assert scene.at("b").one(method="GET").is_open
    assert not sink.is_over


def test_a_refused_connection_of_a_draining_link_ends_that_leg_alone():
    """Nobody listens there any more; the link is not tried for ever."""
    scene = PoolScene(silence_seconds=1000.0)
    scene.listening()
    old = scene.at("a").one(method="GET")
    scene.call(1)
    scene.moved(get_status=200)
    break_off(old)
    scene.clock.advance(1.0)
    scene.at("a").one(method="GET").refuse()
    scene.clock.advance(60.0)

    assert scene.relay.older == ()
    assert scene.at("a").find(method="GET") == []
    assert scene.relay.session.binding.upstream == "b"
