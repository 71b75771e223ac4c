"""What has no session: where it is sent, whether it is sent again, how long a silent upstream is heard."""

import pytest

from proxy.core import headers as h
from support.fakes import Attempt, FakeEdge, FakeSink, edge_of, request_body, result_body
from support.scenes import Front, break_off, reason, reason_of, result

MODERN = [(h.PROTOCOL_VERSION, "2026-07-28"), (h.METHOD, "tools/call"), (h.NAME, "echo")]


def _modern(front: Front, method: str = "tools/call", request_id: int | str = 1) -> FakeSink:
    return front.post(request_body(method, request_id), headers=MODERN)


# -- one that is away


def test_a_refused_connection_is_waited_out():
    """It provably did not run: sent when the server is back, once, without any handshake (point 8)."""
    front = Front()
    front.edge.reachable = False
    sink = _modern(front)
    front.edge.last.refuse()
    front.clock.advance(3.0)
    front.edge.reachable = True
    front.clock.advance(5.0)
    front.edge.one(rpc="tools/call").json()

    assert sink.json()["id"] == 1
    assert len(front.edge.attempts) == 2


def test_a_server_that_stays_away_is_reported():
    """After `rebuild_wait_seconds`, as not run."""
    front = Front()
    front.edge.reachable = False
    sink = _modern(front)
    front.edge.last.refuse()
    front.clock.advance(9.9)

    assert sink.status is None

    front.clock.advance(0.2)

    assert reason(sink) == "unreachable"
    assert front.ctx.passing == set()


def test_a_discover_waits_less():
    """`server/discover` waits at most `discover_wait_seconds`: a client's own limit is ten seconds (semantics 25)."""
    front = Front()
    front.edge.reachable = False
    sink = _modern(front, "server/discover")
    front.edge.last.refuse()
    front.clock.advance(4.9)

    assert sink.status is None

    front.clock.advance(0.2)

    assert reason(sink).endswith("unreachable")


def test_a_client_that_goes_while_it_waits_is_forgotten():
    """Nothing is sent for it when the server is back."""
    front = Front()
    front.edge.reachable = False
    sink = _modern(front)
    front.edge.last.refuse()
    sink.go_away()
    front.edge.reachable = True
    front.clock.advance(20.0)

    assert front.edge.open == []
    assert front.ctx.passing == set()


# -- a pool


def _pool(**settings: object) -> Front:
    return Front(upstreams=("a", "b"), probe="none", **settings)


def _at(front: Front, name: str) -> FakeEdge:
    return edge_of(front.ctx, name)


def test_requests_without_a_session_are_spread_over_the_pool():
    """Each goes to one member, and counts as no session there."""
    front = _pool()
    for number in range(4):
        _modern(front, request_id=number)

    assert [len(edge_of(front.ctx, name).open) for name in "ab"] == [2, 2]
    assert [member.sessions for member in front.ctx.pool.members] == [0, 0]
    assert [member.load for member in front.ctx.pool.members] == [0, 0]


def test_a_request_that_one_member_refuses_goes_to_the_next():
    """It did not run there."""
    front = _pool()
    sink = _modern(front)
    edge_of(front.ctx, "a").last.refuse()
    edge_of(front.ctx, "b").last.json()

    assert sink.json() == result(1)
    assert [member.health.failures for member in front.ctx.pool.members] == [1, 0]


def test_a_request_that_all_refuse_waits_and_is_sent_once():
    """To whichever comes back."""
    front = _pool()
    sink = _modern(front)
    for name in "ab":
        edge_of(front.ctx, name).last.refuse()
    edge_of(front.ctx, "b").reachable = True
    front.clock.advance(1.0)
    sent = [attempt for name in "ab" for attempt in edge_of(front.ctx, name).open]

    assert len(sent) == 1

    sent[0].json()

    assert sink.json() == result(1)


@pytest.mark.parametrize(("status", "failures"), [(502, 1), (503, 1), (504, 1), (500, 0), (404, 0)])
def test_a_gateways_answer_counts_against_the_member(status: int, failures: int):
    """It passes unchanged all the same."""
    front = _pool()
    sink = _modern(front)
    edge_of(front.ctx, "a").last.answer(status, [], b"x")

    assert (sink.status, front.ctx.pool.members[0].health.failures) == (status, failures)


# -- what may be sent again


@pytest.mark.parametrize("method", ["tools/list", "resources/read", "server/discover"])
@pytest.mark.parametrize("has_begun", [False, True])
def test_what_only_reads_is_asked_of_another_member(method: str, has_begun: bool):
    """The connection broke before a whole answer; the client notices nothing, and the repetition is recorded."""
    front = _pool()
    sink = _modern(front, method)
    attempt = _at(front, "a").last
    if has_begun:
        attempt.head(200)
        attempt.data(b'{"jsonrpc"')
    break_off(attempt)
    _at(front, "b").last.json()

    assert sink.json() == result(1)
    assert [record.reason for record in front.observer.of("call_repeated")] == ["connection_broken"]
    assert front.ctx.pool.members[0].health.failures == (not has_begun)


def test_what_only_reads_waits_for_the_one_member_there_is():
    """It is sent again when that can be reached, as often as `retry.attempts` says; then its outcome is unknown."""
    front = Front(attempts=2)
    front.edge.reachable = True
    sink = _modern(front, "tools/list")
    for _ in range(2):
        break_off(front.edge.last)

        assert front.edge.open == []

        front.clock.advance(1.0)
    break_off(front.edge.one(rpc="tools/list"))

    assert reason(sink) == "connection_broken"
    assert len(front.edge.attempts) == 3


def test_what_was_repeated_in_vain_is_never_said_not_to_have_run():
    """Nobody came back: the first attempt's outcome is what is not known."""
    front = Front()
    sink = _modern(front, "tools/list")
    front.edge.reachable = False
    break_off(front.edge.last)
    front.clock.advance(11.0)

    assert reason(sink) == "connection_broken"
    assert sink.json()["error"]["data"]["outcome"] == "unknown"


def test_a_tool_that_an_operator_vouches_for_is_called_again():
    """The same word counts as in a session; any other tool is called once."""
    for tool, times in (("look_up", 2), ("act", 1)):
        front = _pool(safe_tools=("look_*",))
        front.post(request_body("tools/call", 1, {"name": tool}), headers=MODERN)
        break_off(_at(front, "a").last)

        assert sum(len(_at(front, name).attempts) for name in "ab") == times


def test_what_nobody_waits_for_is_not_asked_of_another_member():
    """The client went, which before 2026-07-28 is no cancel; then the connection broke."""
    front = _pool()
    sink = front.post(request_body("tools/list", 1))
    sink.go_away()
    break_off(_at(front, "a").last)

    assert _at(front, "b").attempts == []
    assert front.ctx.pool.members[0].gate.running == 0


def test_an_answer_that_has_begun_as_a_stream_is_not_asked_for_again():
    """The client has seen a part of it."""
    front = _pool()
    sink = _modern(front, "tools/list")
    attempt = _at(front, "a").last
    attempt.sse()
    break_off(attempt)

    assert reason_of(sink.messages[0]) == "stream_broken"
    assert _at(front, "b").attempts == []


def test_a_member_that_closes_without_a_word_is_ejected():
    """A dead server behind something that accepts connections for it looks like this."""
    front = _pool(eject_after_seconds=0.0, errors=3)
    for number in range(6):
        _modern(front, request_id=number)
        for attempt in _at(front, "a").open:
            break_off(attempt)

    assert not front.ctx.pool.members[0].is_available


# -- a client's first word


def _discovers(**settings: object) -> tuple[Front, FakeSink]:
    front = _pool(**settings)
    return front, _modern(front, "server/discover")


def test_a_discover_is_never_answered_with_an_error_in_a_200():
    """That would end the era of some clients for their life: each of its ends is a 503."""
    for end in ("break", "silence", "too large", "too many"):
        front = Front(max_message_bytes=100, limits={"max_calls": 1, "queue_limit": 0} if end == "too many" else None)
        if end == "too many":
            _modern(front)
        sink = _modern(front, "server/discover")
        attempt = front.edge.last
        if end == "break":
            front.edge.reachable = False
            break_off(attempt)
        elif end == "too large":
            attempt.head(200)
            attempt.data(b"x" * 200)
        front.clock.advance(6.0)

        assert (sink.status, reason(sink)) == (503, "discover_unreachable"), end


def test_a_discover_does_not_wait_for_a_silent_member_while_another_is_there():
    """It is asked in time: a dual-era client gives up after ten seconds."""
    front, sink = _discovers()
    front.clock.advance(2.5)

    assert _at(front, "a").last.is_aborted
    assert front.ctx.pool.members[0].health.failures == 1

    _at(front, "b").last.json()

    assert sink.json() == result(1)


def test_a_discover_whose_answer_has_begun_is_waited_for():
    """It is on its way."""
    front, sink = _discovers()
    attempt = _at(front, "a").last
    attempt.head(200)
    front.clock.advance(20.0)
    attempt.data(result_body(1))
    attempt.end()

    assert sink.json() == result(1)
    assert _at(front, "b").attempts == []


# -- silence


def _pings(edge: FakeEdge) -> list[Attempt]:
    return edge.find(rpc="ping")


@pytest.mark.parametrize("method", ["tools/call", "tools/list"])
def test_a_silent_member_is_given_up_after_two_pings(method: str):
    """What may run twice goes to another one; the rest is told at once that its outcome is unknown."""
    front = _pool(silence_seconds=30.0, ping_timeout_seconds=10.0)
    sink = _modern(front, method)
    front.clock.advance(30.0)

    assert len(_pings(_at(front, "a"))) == 1

    front.clock.advance(19.0)

    assert sink.status is None

    front.clock.advance(2.0)
    if method == "tools/list":
        _at(front, "b").one(rpc=method).json()

        assert sink.json() == result(1)
    else:
        assert reason(sink) == "upstream_silent"
    assert _at(front, "a").open == []


def test_a_member_that_answers_pings_is_heard_for_ever():
    """Silence is not death: it is asked again after each period of silence."""
    front = Front(silence_seconds=30.0)
    sink = _modern(front)
    for _ in range(5):
        front.clock.advance(32.0)
        (ping,) = _pings(front.edge)
        ping.answer(400)
    front.edge.one(rpc="tools/call").json()

    assert sink.json() == result(1)


def test_whoever_speaks_is_not_asked():
    """Progress is a sign of life."""
    front = Front(silence_seconds=30.0)
    _modern(front)
    attempt = front.edge.last
    attempt.sse()
    for _ in range(6):
        attempt.data(b": a comment\n\n")
        front.clock.advance(20.0)

    assert _pings(front.edge) == []

    front.clock.advance(35.0)

    assert len(_pings(front.edge)) == 1


def test_several_silent_requests_ask_once():
    """One question for the member, and each is told."""
    front = Front(silence_seconds=30.0, ping_timeout_seconds=10.0)
    sinks = [_modern(front, request_id=number) for number in range(5)]
    front.clock.advance(32.0)

    assert len(_pings(front.edge)) == 1

    front.clock.advance(30.0)

    assert [reason(sink) for sink in sinks] == ["upstream_silent"] * 5


def test_what_is_over_is_not_asked_about():
    """Nothing of it is left."""
    front = Front(silence_seconds=30.0)
    _modern(front)

    assert len(front.ctx.silences) == 1

    front.edge.last.json()

    assert len(front.ctx.silences) == 0

    front.clock.advance(60.0)

    assert front.edge.open == []


@pytest.mark.parametrize(("method", "is_asked_elsewhere"), [("tools/list", True), ("tools/call", False)])
def test_a_member_that_is_ejected(method: str, is_asked_elsewhere: bool):
    """What may run twice leaves it at once, without a second answer; the rest stays, as it may be running there."""
    front = _pool(eject_after_seconds=0.0)
    sink = _modern(front, method)
    first = _at(front, "a").last
    for _ in range(3):
        front.ctx.pool.members[0].timed_out()

    assert first.is_aborted == is_asked_elsewhere

    (_at(front, "b").last if is_asked_elsewhere else first).json()

    assert sink.json() == result(1)
    assert len(_at(front, "b").attempts) == is_asked_elsewhere


def test_what_waits_at_the_last_member_is_asked_of_the_one_that_is_back():
    """Both were out, the first is well again, the second says nothing."""
    front = _pool(eject_after_seconds=0.0)
    sink = _modern(front, "tools/list")
    a, b = front.ctx.pool.members
    for member in (a, b):
        for _ in range(3):
            member.timed_out()
    (waiting,) = [attempt for name in "ab" for attempt in _at(front, name).open]
    other = a if waiting in _at(front, "b").open else b
    front.clock.advance(1.0)
    other.answered()
    edge_of(front.ctx, other.key).one(rpc="tools/list").json()

    assert waiting.is_aborted
    assert sink.json() == result(1)


# -- room on the member


def test_a_request_without_a_session_takes_room_like_a_call():
    """Beyond the member's bound it waits, and is sent when one before it has ended, however that ended."""
    front = Front(limits={"max_calls": 1})
    first, second, third = (_modern(front, request_id=number) for number in (1, 2, 3))

    assert len(front.edge.open) == 1

    front.edge.last.json()
    break_off(front.edge.one(rpc="tools/call"))
    front.edge.one(rpc="tools/call").json(200, result_body(3))

    assert [sink.status for sink in (first, second, third)] == [200, 200, 200]
    assert reason(second) == "connection_broken"
    assert front.ctx.pool.members[0].gate.running == 0


def test_a_queue_that_is_full_is_told_with_a_hint():
    """At once, with the time after which to try again; who waits too long hears the same."""
    front = Front(limits={"max_calls": 1, "queue_limit": 1, "queue_timeout_seconds": 5.0})
    _modern(front, request_id=1)
    waiting, refused = _modern(front, request_id=2), _modern(front, request_id=3)
    front.clock.advance(6.0)

    assert (reason(refused), reason(waiting)) == ("queue_full", "queue_timeout")
    assert refused.json()["error"]["data"]["retry_after_seconds"] == 1.0
    assert len(front.edge.open) == 1


def test_a_client_that_goes_leaves_the_queue():
    """Nothing is sent for it, and its place is free."""
    front = Front(limits={"max_calls": 1})
    _modern(front, request_id=1)
    _modern(front, request_id=2).go_away()
    front.edge.last.json()

    assert front.edge.open == []
    assert len(front.ctx.pool.members[0].gate) == 0


def test_subscriptions_and_notifications_take_no_room():
    """The one lasts, and the others are not waited for."""
    front = Front(limits={"max_calls": 1})
    _modern(front, "subscriptions/listen", 1)
    front.post(b'{"jsonrpc":"2.0","method":"notifications/x"}', headers=MODERN)
    _modern(front, request_id=2)

    assert len(front.edge.open) == 3


def test_who_waits_for_a_member_that_goes_is_sent_elsewhere():
    """It did not run there."""
    front = Front(upstreams=("a", "b"), limits={"max_calls": 1})
    for number in range(3):
        _modern(front, request_id=number)
    (crowded,) = (member for member in front.ctx.pool.members if len(member.gate))
    other = edge_of(front.ctx, "b" if crowded.name == "a" else "a")
    other.last.json()
    front.ctx.pool.drain(crowded)

    assert len(other.open) == 1


def test_what_nobody_waits_for_ends():
    """A call of a client that has gone is heard for a while, no drain waits for it, and then it is cut."""
    front = Front(silence_seconds=30.0)
    sink = front.post(request_body("tools/call", 1))
    attempt = front.edge.last
    sink.go_away()

    assert attempt.is_open
    assert not front.ctx.passing

    front.clock.advance(30.0)

    assert attempt.is_aborted
    assert front.ctx.pool.members[0].gate.running == 0
