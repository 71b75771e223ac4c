"""A body of a session that the proxy does not judge: the way into the upstream session, and into the next one."""

from proxy.core.session import CloseReason
from support.fakes import post
from support.scenes import PoolScene, Scene, break_off, reason

NONSENSE = b"{nonsense"


def test_a_body_of_a_session_goes_where_that_lies():
    """What the proxy cannot read is sent in the present upstream session, whichever member has it."""
    scene = PoolScene()
    scene.moved()
    sink = post(scene.relay, NONSENSE)
    attempt = scene.at("b").last
    attempt.answer(422, [], b"no")

    assert (attempt.upstream_id, attempt.request.body) == ("up-2", NONSENSE)
    assert (sink.status, sink.body) == (422, b"no")


def test_a_body_of_a_session_that_is_closed_while_a_ping_is_asked_gets_its_end():
    """A 400 that waits for a ping is not forgotten with the session."""
    scene = PoolScene()
    sink = post(scene.relay, NONSENSE)
    scene.at("a").last.answer(400)
    scene.relay.close(CloseReason.DELETED)

    assert sink.is_over


def test_a_body_whose_session_is_lost_is_sent_in_the_next_one():
    """A 404 took nothing of it; the answer of the next one is the client's, whatever it is."""
    scene = Scene()
    sink = post(scene.relay, NONSENSE)
    scene.lose_session(scene.edge.last)
    scene.rebuilt("up-2")
    attempt = scene.edge.last
    attempt.answer(404, [], b"no")

    assert (attempt.upstream_id, attempt.request.body) == ("up-2", NONSENSE)
    assert (sink.status, sink.body) == (404, b"no")


def test_a_body_whose_connection_breaks_is_not_sent_again():
    """Nobody knows what it was."""
    scene = Scene()
    sink = post(scene.relay, NONSENSE)
    break_off(scene.edge.last)

    assert reason(sink) == "connection_broken"
    assert scene.edge.open == []


def test_a_body_that_is_refused_waits_for_the_session():
    """It was not written; a call that is refused with it makes no second rebuild."""
    scene = Scene()
    sink = post(scene.relay, NONSENSE)
    scene.edge.last.refuse()
    scene.call(1)
    scene.rebuilt("up-2")
    (attempt,) = [each for each in scene.edge.open if each.request.body == NONSENSE]
    attempt.answer(400, [], b"no")
    scene.edge.one(rpc="ping").answer(200)

    assert (sink.status, sink.body) == (400, b"no")
