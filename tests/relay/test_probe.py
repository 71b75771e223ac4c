"""A ping inside the upstream session: what it is asked for, and what its answer means."""

import pytest

from proxy.core.session import CloseReason
from support.scenes import Scene, break_off, reason, result


def test_silence_is_asked_about_and_forgiven():
    """After `silence_seconds` without bytes a ping goes out on a fresh connection; its answer ends the question."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    scene.clock.advance(36.0)
    ping = scene.edge.one(rpc="ping")

    assert (ping.request.fresh, ping.upstream_id) == (True, "up-1")

    ping.json()
    scene.clock.advance(20.0)

    assert scene.edge.find(rpc="ping") == []

    scene.clock.advance(16.0)

    assert scene.edge.one(rpc="ping")
    assert not sink.is_over
    assert attempt.is_open


def test_bytes_are_a_sign_of_life():
    """A heartbeat of the upstream's, even a comment, is no silence."""
    scene = Scene()
    _, attempt = scene.streaming(1)
    for _ in range(10):
        scene.clock.advance(20.0)
        attempt.data(b": ping\n\n")

    assert scene.edge.find(rpc="ping", is_open=False) == []


def test_two_failed_pings_end_the_call():
    """The outcome is told as unknown, the exchange is cut (semantics 16)."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    scene.clock.advance(36.0)
    scene.clock.advance(10.0)

    assert not sink.is_over

    scene.clock.advance(10.0)

    assert reason(sink) == "upstream_silent"
    assert attempt.is_aborted
    assert len(scene.edge.find(rpc="ping", is_open=False)) == 2


def test_one_failed_ping_is_a_busy_moment():
    """An answer to the second forgives the first."""
    scene = Scene()
    sink, _ = scene.streaming(1)
    scene.clock.advance(36.0)
    break_off(scene.edge.one(rpc="ping"))
    scene.edge.one(rpc="ping").json()
    scene.clock.advance(36.0)
    break_off(scene.edge.one(rpc="ping"))

    assert not sink.is_over
    assert scene.edge.one(rpc="ping")


@pytest.mark.parametrize("status", [400, 404])
def test_a_ping_refused_as_unknown_loses_the_session_at_once(status: int):
    """The running call's session is gone: told at once, without a second ping."""
    scene = Scene()
    sink, _ = scene.streaming(1)
    scene.clock.advance(36.0)
    scene.edge.one(rpc="ping").answer(status)

    assert reason(sink) == "upstream_session_lost"
    assert scene.edge.find(rpc="ping") == []


def test_a_refused_connection_loses_the_session_at_once():
    """Nobody listens there any more."""
    scene = Scene()
    sink, _ = scene.streaming(1)
    scene.clock.advance(36.0)
    scene.edge.one(rpc="ping").refuse()

    assert reason(sink) == "upstream_session_lost"


@pytest.mark.parametrize("status", [200, 401, 405, 429])
def test_any_other_answer_is_a_sign_of_life(status: int):
    """Who answers lives, whatever he says."""
    scene = Scene()
    sink, _ = scene.streaming(1)
    scene.clock.advance(36.0)
    scene.edge.one(rpc="ping").answer(status)

    assert not sink.is_over
    assert scene.edge.find(rpc="ping") == []


def test_a_gateways_5xx_is_none():
    """A 5xx counts as a failed ping: two of them mean lost."""
    scene = Scene()
    sink, _ = scene.streaming(1)
    scene.clock.advance(36.0)
    scene.edge.one(rpc="ping").answer(502)
    scene.edge.one(rpc="ping").answer(502)

    assert reason(sink) == "upstream_silent"


def test_an_answer_that_breaks_behind_its_head_counts():
    """A head is an answer even when its stream is cut after it."""
    scene = Scene()
    sink, _ = scene.streaming(1)
    scene.clock.advance(36.0)
    ping = scene.edge.one(rpc="ping")
    ping.sse()
    break_off(ping)

    assert not sink.is_over
    assert scene.edge.find(rpc="ping") == []


def test_a_silent_standalone_stream_of_a_reader_is_asked_about():
    """A half-dead link is noticed while a client listens, and the session rebuilt for it."""
    scene = Scene()
    sink = scene.listening()
    link = scene.edge.one(method="GET")
    scene.clock.advance(36.0)
    scene.edge.one(rpc="ping").answer(404)

    assert link.is_aborted
    assert scene.background()
    assert not sink.is_over


def test_an_idle_session_is_not_pinged():
    """Without a call or a reader nothing is expected, so nothing is asked."""
    scene = Scene()
    scene.listening().go_away()
    scene.clock.advance(300.0)

    assert scene.edge.find(rpc="ping", is_open=False) == []


def test_a_silent_resume_is_asked_about():
    """A call whose resume gets no head does not hang for ever."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    break_off(attempt)
    scene.clock.advance(37.0)

    assert scene.edge.one(rpc="ping")

    scene.clock.advance(20.0)

    assert reason(sink) == "upstream_silent"


def test_a_silent_resumed_stream_is_asked_for_again():
    """One server sends nothing live on a resumed stream: while it answers pings it is polled with the same cursor."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    break_off(attempt)
    scene.clock.advance(0.2)
    first = scene.edge.one(method="GET")
    first.sse()
    scene.clock.advance(37.0)
    scene.edge.one(rpc="ping").json()
    second = scene.edge.one(method="GET")

    assert first.is_aborted
    assert second.header("Last-Event-ID") == "e1"

    second.sse()
    second.frame(result(1), "e2")

    assert sink.messages == [result(1)]


def test_a_silent_call_of_a_lost_session_is_told():
    """No ping can speak for a session that is known to be gone: silence in it ends the call."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    scene.call(2)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.clock.advance(36.0)

    assert reason(sink) == "upstream_session_lost"
    assert attempt.is_aborted


def test_one_ping_answers_everybody_who_asks():
    """Two calls refused with 400 share one ping."""
    scene = Scene()
    sinks = [scene.call(1), scene.call(2)]
    for attempt in scene.edge.find(rpc="tools/call"):
        attempt.answer(400, [], b"no")
    scene.edge.one(rpc="ping").json()

    assert [sink.status for sink in sinks] == [400, 400]


def test_a_ping_of_the_old_session_says_nothing_of_the_new():
    """A refusal in the new upstream session gets a ping of its own."""
    scene = Scene()
    old = scene.call(1)
    scene.edge.last.answer(400)
    old_ping = scene.edge.one(rpc="ping")
    scene.call(2)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")
    new = scene.call(3)
    scene.edge.last.answer(400, [], b"bad arguments")
    ping = scene.edge.one(rpc="ping")

    assert old_ping.is_aborted
    assert ping.upstream_id == "up-2"

    ping.json()

    assert (new.status, new.body) == (400, b"bad arguments")
    assert scene.relay.session.binding.generation == 2

    for attempt in scene.edge.find(rpc="tools/call"):
        attempt.json()

    assert old.json()["id"] == 1


def test_a_ping_that_gets_no_answer_confirms_nothing():
    """The 400 is relayed when the ping's time is over."""
    scene = Scene(upgrade_after_seconds=60.0)
    sink = scene.call(1)
    scene.edge.last.answer(400, [], b"no")
    scene.clock.advance(10.0)

    assert (sink.status, sink.body) == (400, b"no")


def test_no_ping_outlives_its_session():
    """DELETE cuts the ping under way, and nothing is reported any more."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.answer(400)
    ping = scene.edge.one(rpc="ping")
    scene.relay.close(CloseReason.DELETED)
    scene.settle()

    assert ping.is_aborted
    assert reason(sink) == "session_closed"
