"""Silence on a session's exchanges: whose server is asked for a sign of life, and what its answer forgives."""

import pytest

from proxy.relay import silence
from support.scenes import PoolScene, Scene, progress, reason, result

SILENCE_SECONDS = 30.0


def _check(scene: Scene) -> None:
    silence.check(scene.relay, scene.clock.now())


def test_a_call_that_has_been_silent_for_long_leads_to_a_ping() -> None:
    """Not before its time, and one ping however many calls are silent."""
    scene = Scene()
    scene.streaming(1)
    scene.streaming(2)
    scene.clock._now += SILENCE_SECONDS - 1
    _check(scene)

    assert scene.edge.find(rpc="ping") == []

    scene.clock._now += 1
    _check(scene)

    assert len(scene.edge.find(rpc="ping")) == 1


def test_a_stream_that_nobody_reads_is_not_missed() -> None:
    """An idle server has nothing to say; only a reader's stream leads to a ping."""
    scene = Scene()
    sink = scene.listening()
    sink.go_away()
    scene.clock._now += SILENCE_SECONDS
    _check(scene)

    assert scene.edge.find(rpc="ping") == []


def test_an_answered_ping_forgives_the_silence() -> None:
    """The next one is asked for only after as long a silence again."""
    scene = Scene()
    scene.streaming(1)
    scene.clock._now += SILENCE_SECONDS
    _check(scene)
    scene.edge.one(rpc="ping").json()
    _check(scene)

    assert scene.edge.find(rpc="ping") == []

    scene.clock._now += SILENCE_SECONDS
    _check(scene)

    assert len(scene.edge.find(rpc="ping")) == 1


@pytest.mark.parametrize("is_alive", [True, False])
def test_each_binding_of_a_moved_session_is_asked_for_itself(is_alive: bool) -> None:
    """A call that runs where the session lay before depends on that server's word, and on no other's."""
    scene = PoolScene()
    sink, attempt = scene.streaming(1, progress(1))
    scene.moved()
    scene.clock._now += SILENCE_SECONDS
    silence.check(scene.relay, scene.clock.now())
    ping = scene.at("a").one(rpc="ping")

    assert scene.at("b").find(rpc="ping") == []

    if is_alive:
        ping.json()
        attempt.frame(result(1))

        assert sink.messages[-1] == result(1)
    else:
        ping.answer(404)

        assert reason(sink) == "upstream_session_lost"


def test_a_call_in_an_upstream_session_that_is_gone_is_given_up() -> None:
    """No ping can speak for it."""
    scene = Scene()
    sink, _ = scene.streaming(1)
    scene.relay.leg.lose(scene.relay.session.binding.generation, "gone")
    scene.clock._now += SILENCE_SECONDS
    _check(scene)

    assert reason(sink) == "upstream_session_lost"
