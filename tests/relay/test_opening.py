"""An `initialize`: a session of the proxy's own exactly when the upstream has answered with one."""

import pytest

from proxy.core import headers as h
from proxy.upstream.member import Member
from support.fakes import FakeEdge, FakeSink, edge_of, initialize_answer, initialize_body, result_body
from support.scenes import Front, break_off, message, reason


def _opening(front: Front, version: str = "2025-11-25", **fields: str) -> FakeSink:
    return front.post(initialize_body(version, "init"), **fields)


def test_the_client_gets_an_id_of_ours_and_the_upstreams_answer():
    """The body passes unchanged; the id is the proxy's, 32 visible characters, and never the upstream's (point 2)."""
    front = Front()
    sink = _opening(front)
    body = initialize_answer(request_id="init", tools=True)
    front.edge.last.json(200, body, [(h.SESSION_ID, "up-1"), ("X-Own", "kept")])
    relay = front.only_session()

    assert (sink.status, sink.body, sink.header("X-Own")) == (200, body, "kept")
    assert sink.header(h.SESSION_ID) == relay.session.id
    assert len(relay.session.id) == 32
    assert [name.lower() for name, _ in sink.headers].count("mcp-session-id") == 1
    assert relay.session.binding.upstream_id == "up-1"
    assert front.ctx.ids.session_of("default", relay.session.binding.upstream_id) == relay.session.id


def test_the_upstream_sees_no_session_id():
    """`initialize` opens a new session whatever id it carries, and goes up without one (semantics 22)."""
    front = Front()
    sinks = [_opening(front)]
    front.edge.last.json(200, initialize_answer(request_id="init"))
    first = front.only_session().session.id
    sinks.append(_opening(front, session_id=first))
    front.edge.last.json(200, initialize_answer(request_id="init"))

    assert front.edge.last.upstream_id is None
    assert len({sink.header(h.SESSION_ID) for sink in sinks}) == 2
    assert len(front.registry) == 2


def test_the_handshake_is_recorded():
    """What the client offered and what it was promised, for every rebuild."""
    front = Front()
    body = initialize_body("2025-11-25", "init")
    front.post(body)
    front.edge.last.json(200, initialize_answer("2025-06-18", request_id="init", tools=True))
    handshake = front.only_session().session.handshake

    assert (handshake.body, handshake.request_id, handshake.version) == (body, "init", "2025-06-18")
    assert handshake.promised.tools_list_changed


def test_an_upstream_without_ids_makes_a_session_too():
    """The client gets the proxy's id although the upstream gave none."""
    front = Front()
    sink = _opening(front)
    front.edge.last.json(200, initialize_answer(request_id="init"))

    assert sink.header(h.SESSION_ID) == front.only_session().session.id


def test_an_answer_over_a_stream_makes_a_session():
    """Over SSE: our id, our event ids, the frames ahead of the result too, and the stream ends with it."""
    front = Front()
    sink = _opening(front)
    attempt = front.edge.last
    attempt.sse([(h.SESSION_ID, "up-1")])
    attempt.data(b"id: theirs-0\ndata:\n\n")
    attempt.frame(message("notifications/message"), "theirs-1")

    assert sink.status is None

    body = initialize_answer(request_id="init")
    attempt.frame(body, "theirs-2")

    assert sink.header(h.SESSION_ID) == front.only_session().session.id
    assert [frame.data for frame in sink.frames if frame.data][1:] == [body]
    assert len(sink.messages) == 2
    assert "theirs" not in sink.text
    assert sink.finished
    assert attempt.is_aborted


def test_an_opening_over_a_stream_can_be_resumed():
    """Its events are in the session's log like any call's."""
    front = Front()
    sink = _opening(front)
    front.edge.last.sse([(h.SESSION_ID, "up-1")])
    front.edge.last.frame(initialize_answer(request_id="init"))
    headers = [("Accept", "text/event-stream"), (h.SESSION_ID, front.only_session().session.id)]
    again = front.handle("GET", headers=[*headers, (h.LAST_EVENT_ID, sink.ids[0])])

    assert [answer["id"] for answer in again.messages] == ["init"]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_failing_handshake_passes_unchanged(status: int):
    """Outside a session every status is the upstream's own; a refusal's session id is not shown (semantics 17)."""
    front = Front()
    sink = _opening(front)
    front.edge.last.answer(status, [(h.SESSION_ID, "up-1"), ("WWW-Authenticate", "Bearer")], b"no")

    assert (sink.status, sink.body) == (status, b"no")
    assert sink.header("WWW-Authenticate") == "Bearer"
    assert sink.header(h.SESSION_ID) is None
    assert len(front.registry) == 0


def test_an_error_response_makes_no_session():
    """200 with a JSON-RPC error is an answer, not a handshake."""
    front = Front()
    sink = _opening(front)
    front.edge.last.json(200, {"jsonrpc": "2.0", "id": "init", "error": {"code": -32602, "message": "no"}})

    assert sink.json()["error"]["message"] == "no"
    assert sink.header(h.SESSION_ID) is None
    assert len(front.registry) == 0


def test_an_error_over_a_stream_makes_no_session():
    """The same over SSE: relayed without event ids, as there is no log it could be resumed from."""
    front = Front()
    sink = _opening(front)
    front.edge.last.sse([(h.SESSION_ID, "up-1")])
    front.edge.last.frame({"jsonrpc": "2.0", "id": "init", "error": {"code": 1, "message": "no"}}, "theirs")

    assert [answer["error"]["message"] for answer in sink.messages] == ["no"]
    assert sink.ids == []
    assert sink.finished
    assert sink.header(h.SESSION_ID) is None
    assert len(front.registry) == 0


def test_a_stream_that_ends_without_an_answer_is_told():
    """The client is not left waiting."""
    front = Front()
    sink = _opening(front)
    front.edge.last.sse()
    front.edge.last.end()

    assert (sink.status, reason(sink), sink.json()["id"]) == (200, "stream_broken", "init")
    assert len(front.registry) == 0


def test_a_broken_connection_is_an_unknown_outcome():
    """The upstream may have made a session that nobody will find: told, not tried again."""
    front = Front()
    sink = _opening(front)
    break_off(front.edge.last)

    assert reason(sink) == "connection_broken"
    assert front.edge.open == []


def test_a_redirect_is_not_followed():
    """The client learns where to; the proxy goes nowhere."""
    front = Front()
    sink = _opening(front)
    front.edge.last.answer(308, [("Location", "http://elsewhere/")])

    assert reason(sink) == "redirected"
    assert sink.json()["error"]["data"]["location"] == "http://elsewhere/"


def test_a_refused_connection_is_waited_out():
    """A client that starts before its server is answered when the server is there."""
    front = Front()
    front.edge.reachable = False
    sink = _opening(front)
    front.edge.last.refuse()
    front.clock.advance(3.0)

    assert sink.status is None

    front.edge.reachable = True
    front.clock.advance(3.0)
    front.edge.one(rpc="initialize").json(200, initialize_answer(request_id="init"))

    assert sink.header(h.SESSION_ID) == front.only_session().session.id


def test_a_server_that_stays_away_is_reported():
    """200 with an error after `rebuild_wait_seconds`."""
    front = Front()
    front.edge.reachable = False
    sink = _opening(front)
    front.edge.last.refuse()
    front.clock.advance(10.1)

    assert (sink.status, reason(sink)) == (200, "unreachable")


def test_an_opening_is_never_upgraded():
    """The client needs the session id in the head (semantics 19)."""
    front = Front()
    sink = _opening(front)
    front.clock.advance(29.0)

    assert sink.status is None

    front.edge.last.json(200, initialize_answer(request_id="init"))

    assert sink.header("Content-Type") == "application/json"


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_has_gone_leaves_no_session_behind(is_stream: bool):
    """An upstream session that nobody will use is ended with DELETE as soon as its id is known."""
    front = Front()
    sink = _opening(front)
    attempt = front.edge.last
    sink.go_away()
    if is_stream:
        attempt.sse([(h.SESSION_ID, "up-1")])
        attempt.frame(initialize_answer(request_id="init"))
    else:
        attempt.json(200, initialize_answer(request_id="init"), [(h.SESSION_ID, "up-1")])

    assert front.edge.one(method="DELETE").upstream_id == "up-1"
    assert len(front.registry) == 0
    assert front.ctx.passing == set()


def test_a_client_that_goes_while_the_server_is_away_is_forgotten():
    """Nothing is sent for it when the server comes back."""
    front = Front()
    front.edge.reachable = False
    sink = _opening(front)
    front.edge.last.refuse()
    sink.go_away()
    front.edge.reachable = True
    front.clock.advance(20.0)

    assert front.edge.open == []
    assert front.ctx.passing == set()


def test_an_endless_answer_is_refused():
    """A handshake above `max_message_bytes` is none."""
    front = Front(max_message_bytes=100)
    sink = _opening(front)
    attempt = front.edge.last
    attempt.head(200)
    attempt.data(b"x" * 101)

    assert reason(sink) == "answer_too_large"
    assert attempt.is_aborted


def test_a_shutdown_answers_an_opening():
    """The end of the proxy leaves no client without an answer."""
    front = Front()
    sink = _opening(front)
    front.registry.begin_drain()
    front.registry.end()

    assert reason(sink) == "shutdown"
    assert front.edge.open == []


def test_a_result_without_a_version_is_no_handshake():
    """A 200 that does not answer `initialize` passes, and makes no session."""
    front = Front()
    sink = _opening(front)
    front.edge.last.json(200, result_body("init"))

    assert sink.status == 200
    assert len(front.registry) == 0


def test_clients_of_one_credential_open_at_one_member() -> None:
    """Under `consistent_hash` the credentials say where; other ones may go elsewhere."""
    front = Front(upstreams=("a", "b", "c"), policy="consistent_hash")
    for token in ("one", "two", "three", "four", "five") * 3:
        front.post(initialize_body(), headers=[("Authorization", f"Bearer {token}")])
    places: dict[str | None, set[str]] = {}
    for name in ("a", "b", "c"):
        for attempt in edge_of(front.ctx, name).attempts:
            places.setdefault(attempt.header("Authorization"), set()).add(name)

    assert len(places) == 5
    assert all(len(names) == 1 for names in places.values())


# -- a pool


def _pool(*names: str, **settings: object) -> Front:
    return Front(upstreams=names or ("a", "b"), probe="none", **settings)


def _at(front: Front, name: str) -> FakeEdge:
    return edge_of(front.ctx, name)


def _member(front: Front, name: str) -> Member:
    found = front.ctx.pool.find(name)
    assert found is not None
    return found


def test_sessions_are_spread_over_the_pool():
    """Each opening goes to one member, and the session lies where it was answered."""
    front = _pool("a", "b", "c")
    for _ in range(6):
        _opening(front)
    for name in "abc":
        for number, attempt in enumerate(_at(front, name).find(rpc="initialize")):
            attempt.json(200, initialize_answer(request_id="init"), [(h.SESSION_ID, f"up-{number}")])

    assert [member.sessions for member in front.ctx.pool.members] == [2, 2, 2]
    assert {relay.session.binding.upstream for relay in front.registry.relays} == {"a", "b", "c"}
    assert [record.upstream for record in front.observer.of("session_opened")] == ["a", "a", "b", "b", "c", "c"]


def test_an_opening_that_is_refused_goes_to_the_next_member_at_once():
    """It provably did not run; the client notices nothing, and the refusal counts against the first."""
    front = _pool()
    sink = _opening(front)
    _at(front, "a").last.refuse()
    _at(front, "b").last.json(200, initialize_answer(request_id="init"))

    assert sink.status == 200
    assert front.only_session().leg.member.name == "b"
    assert _member(front, "a").health.failures == 1


def test_an_opening_that_all_refuse_waits_for_one_of_them():
    """Whichever is back first gets it; each is asked anew."""
    front = _pool()
    sink = _opening(front)
    for name in "ab":
        _at(front, name).reachable = name == "a"
        _at(front, name).last.refuse()
    front.clock.advance(2.0)
    asked = [attempt for name in "ab" for attempt in _at(front, name).open]

    assert len(asked) == 1

    asked[0].json(200, initialize_answer(request_id="init"))

    assert sink.status == 200


def test_an_opening_that_has_waited_tries_all_of_them_anew():
    """Refused again by one that seemed to be back, it goes on to the next at once."""
    front = _pool()
    sink = _opening(front)
    for name in "ab":
        _at(front, name).reachable = name == "b"
        _at(front, name).last.refuse()
    front.clock.advance(0.1)
    (first,) = [attempt for name in "ab" for attempt in _at(front, name).open]
    first.refuse()
    (second,) = [attempt for name in "ab" for attempt in _at(front, name).open]
    second.json(200, initialize_answer(request_id="init"))

    assert sink.status == 200


def test_an_opening_that_all_refuse_for_long_is_told_so():
    """After `rebuild_wait_seconds`, as before with one upstream."""
    front = _pool(rebuild_wait_seconds=3.0)
    sink = _opening(front)
    for _ in range(50):
        for name in "ab":
            _at(front, name).reachable = False
            for attempt in _at(front, name).open:
                attempt.refuse()
        front.clock.advance(0.1)

    assert reason(sink) == "unreachable"
    assert front.ctx.openings == 0
    assert front.ctx.passing == set()


def test_an_opening_whose_connection_ends_without_a_word_is_sent_elsewhere():
    """A session that the first may have made, and that nobody uses, ends by itself; with nobody left it is told."""
    front = _pool()
    sink = _opening(front)
    break_off(_at(front, "a").last)
    break_off(_at(front, "b").last)

    assert reason(sink) == "connection_broken"


def test_an_opening_is_not_waited_for_without_a_bound_where_another_one_could_be_asked():
    """One that takes requests and says nothing is left after the time of a ping."""
    front = _pool(ping_timeout_seconds=2.0)
    sink = _opening(front)
    front.clock.advance(2.0)

    assert not _at(front, "a").last.is_open

    _at(front, "b").last.json(200, initialize_answer(request_id="init"), [(h.SESSION_ID, "up-b")])

    assert sink.status == 200


def test_an_opening_leaves_a_member_that_is_ejected_before_it_answers():
    """A stopped server would hold it for ever; what was begun there is cut, and one answer reaches the client."""
    front = _pool(eject_after_seconds=0.0)
    sink = _opening(front)
    first = _at(front, "a").last
    for _ in range(3):
        _member(front, "a").timed_out()
    second = _at(front, "b").last
    second.json(200, initialize_answer(request_id="init"), [(h.SESSION_ID, "up-b")])

    assert first.is_aborted
    assert sink.status == 200
    assert front.only_session().leg.member.name == "b"
    assert front.ctx.openings == 0


def _silenced(front: Front, *names: str) -> None:
    """Let members be out because they say nothing."""
    for name in names:
        for _ in range(3):
            _member(front, name).timed_out()


def test_an_opening_at_a_silent_member_is_asked_of_the_one_that_is_back():
    """Both were out and both were asked; the first is well again, and the client need not wait for the second."""
    front = _pool(eject_after_seconds=0.0)
    sink = _opening(front)
    _silenced(front, "a", "b")
    waiting = _at(front, "b").last
    front.clock.advance(1.0)
    _member(front, "a").answered()
    _at(front, "a").last.json(200, initialize_answer(request_id="init"), [(h.SESSION_ID, "up-a")])

    assert waiting.is_aborted
    assert sink.status == 200
    assert front.only_session().leg.member.name == "a"
    assert front.ctx.openings == 0


def test_an_opening_that_nobody_answers_is_told_so_in_time():
    """All were asked and are out: the client waits as long as for servers that are away."""
    front = _pool(eject_after_seconds=0.0)
    sink = _opening(front)
    _silenced(front, "a", "b")
    front.clock.advance(9.9)

    assert sink.status is None

    front.clock.advance(0.2)

    assert reason(sink) == "upstream_silent"
    assert [_at(front, name).open for name in "ab"] == [[], []]
    assert front.ctx.passing == set()


def test_an_opening_that_comes_to_the_last_one_when_that_is_out_is_told_so_in_time():
    """Nobody would tell of an ejection that was before."""
    front = _pool(eject_after_seconds=0.0)
    _silenced(front, "b")
    sink = _opening(front)
    _silenced(front, "a")

    assert len(_at(front, "b").open) == 1

    front.clock.advance(10.1)

    assert reason(sink) == "upstream_silent"


def test_an_opening_that_is_answered_late_is_waited_for_by_the_head_alone():
    """Its head came before the wait was over: the answer is on its way."""
    front = _pool(eject_after_seconds=0.0)
    sink = _opening(front)
    _silenced(front, "a", "b")
    attempt = _at(front, "b").last
    front.clock.advance(9.0)
    attempt.sse([(h.SESSION_ID, "up-1")])
    front.clock.advance(9.0)
    attempt.frame(initialize_answer(request_id="init"))

    assert sink.status == 200


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_opening_at_a_member_that_hangs_ends(has_begun: bool):
    """There is no other one: it is asked for a sign of life, and given up after the second in vain (semantics 16)."""
    front = Front(silence_seconds=30.0, ping_timeout_seconds=10.0)
    sink = _opening(front)
    if has_begun:
        front.edge.last.sse()
        front.clock.advance(35.0)
    front.clock.advance(32.0)

    assert len(front.edge.find(rpc="ping")) == 1

    front.clock.advance(22.0)

    assert reason(sink) == "upstream_silent"
    assert front.edge.open == []
    assert len(front.ctx.silences) == 0


def test_an_opening_whose_member_answers_pings_is_waited_for():
    """Some servers take long to start a session."""
    front = Front(silence_seconds=30.0)
    sink = _opening(front)
    for _ in range(4):
        front.clock.advance(32.0)
        front.edge.one(rpc="ping").answer(400)
    front.edge.one(rpc="initialize").json(200, initialize_answer(request_id="init"))

    assert sink.status == 200


def test_an_opening_that_waits_for_a_server_asks_for_no_sign_of_life():
    """Nothing is under way of which anything could be heard."""
    front = Front(rebuild_wait_seconds=200.0, silence_seconds=30.0)
    front.edge.reachable = False
    sink = _opening(front)
    front.edge.last.refuse()
    front.clock.advance(100.0)

    assert front.edge.find(rpc="ping") == []
    assert sink.status is None


def test_an_opening_that_is_being_answered_stays():
    """Its head is there: the answer is on its way."""
    front = _pool(eject_after_seconds=0.0)
    sink = _opening(front)
    first = _at(front, "a").last
    first.sse([(h.SESSION_ID, "up-1")])
    for _ in range(3):
        _member(front, "a").timed_out()
    first.frame(initialize_answer(request_id="init"))

    assert front.only_session().leg.member.name == "a"
    assert sink.status == 200
    assert _at(front, "b").attempts == []


@pytest.mark.parametrize(("status", "failures"), [(502, 1), (503, 1), (504, 1), (500, 0), (401, 0), (200, 0)])
def test_a_gateways_answer_to_an_opening_counts_against_the_member(status: int, failures: int):
    """Another one is asked then, at once; what the server itself says is an answer, and passes as it is."""
    front = _pool()
    sink = _opening(front)
    _at(front, "a").last.answer(status, [], b"{}")

    assert _member(front, "a").health.failures == failures
    assert len(_at(front, "b").attempts) == failures
    assert sink.status == (None if failures else status)


@pytest.mark.parametrize("ejects", [False, True])
def test_a_gateways_answer_is_passed_when_nobody_is_left_to_ask(ejects: bool):
    """Unchanged, as outside of a session everything is (semantics 17); each member is asked once."""
    front = _pool(eject_after_seconds=0.0, errors=1 if ejects else 5)
    sink = _opening(front)
    _at(front, "a").last.answer(503, [("Retry-After", "7")], b"starting a")
    _at(front, "b").last.answer(503, [("Retry-After", "9")], b"starting b")

    assert (sink.status, sink.header("Retry-After"), sink.body) == (503, "9", b"starting b")
    assert [len(_at(front, name).attempts) for name in "ab"] == [1, 1]
    assert front.ctx.openings == 0


def test_a_gateways_answer_to_a_client_that_has_gone_is_asked_of_nobody_else():
    """Nobody would use the session."""
    front = _pool()
    sink = _opening(front)
    sink.go_away()
    _at(front, "a").last.answer(503, [], b"")

    assert _at(front, "b").attempts == []


def test_a_pool_without_members_opens_nothing():
    """All of them were drained: the client is told, nothing waits."""
    front = _pool()
    for member in front.ctx.pool.members:
        front.ctx.pool.drain(member)
    sink = _opening(front)

    assert reason(sink) == "unreachable"
    assert front.ctx.openings == 0
