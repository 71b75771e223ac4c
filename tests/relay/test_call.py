"""One POST with requests, from its arrival to its one answer, whatever its upstream does meanwhile."""

import gc
import json

import pytest

from proxy.core import jsonrpc
from proxy.core.edge import Request
from proxy.core.head import Head
from proxy.relay.patience import Patience
from proxy.upstream.base import Loss
from support.fakes import JSON_TYPE, FakeSink, post, request_body, result_body
from support.scenes import Scene, break_off, progress, reason, reason_of, result, server_request

# -- the fast path


def test_a_fast_json_answer_is_passed_unchanged():
    """A JSON answer within `upgrade_after` keeps its status, its headers and every byte of its body."""
    scene = Scene()
    sink = scene.call(1)
    body = b'{"result" : {"a": 1.0},  "id":1,"jsonrpc":"2.0"}'
    scene.edge.last.answer(200, [JSON_TYPE, ("X-Own", "kept"), ("Mcp-Session-Id", "up-1")], body)

    assert (sink.status, sink.body, sink.finished) == (200, body, True)
    assert sink.header("X-Own") == "kept"
    assert sink.header("Mcp-Session-Id") == scene.relay.session.id


def test_an_answer_without_the_upstreams_id_gets_none_of_ours():
    """The client's session id is shown where the upstream shows its own, and nowhere else."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.json()

    assert sink.header("Mcp-Session-Id") is None


def test_the_upstream_sees_its_own_id_and_the_clients_body():
    """The request goes on byte for byte, with the upstream's session id in place of ours."""
    scene = Scene()
    body = b'{"id":7,  "method":"tools/call","jsonrpc":"2.0"}'
    post(scene.relay, body, headers=[("Authorization", "Bearer x")])
    attempt = scene.edge.last

    assert attempt.request.body == body
    assert attempt.upstream_id == "up-1"
    assert attempt.header("Authorization") == "Bearer x"
    assert scene.relay.session.id not in str(attempt.request.headers)


def test_an_upstream_without_session_ids_works_the_same():
    """An upstream that issued no id is sent none, and its calls are answered."""
    scene = Scene(upstream_id=None)
    sink = scene.call(1)

    assert scene.edge.last.upstream_id is None

    scene.edge.last.json()

    assert sink.json()["id"] == 1


@pytest.mark.parametrize("status", [401, 403, 422, 429, 500])
def test_the_upstreams_own_refusals_pass_unchanged(status: int):
    """401, 403, 429, other 4xx and a 500 keep their status, headers and body (semantics 17)."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.answer(status, [("WWW-Authenticate", "Bearer"), ("Retry-After", "7")], b"no")

    assert (sink.status, sink.body) == (status, b"no")
    assert sink.header("WWW-Authenticate") == "Bearer"
    assert sink.header("Retry-After") == "7"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateways_error_becomes_an_unknown_outcome(status: int):
    """502, 503, 504 without a JSON-RPC body answer the call with 200 and an error (semantics 17)."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.answer(status, [], b"<html>")

    assert (sink.status, reason(sink)) == (200, "gateway_error")
    assert sink.json()["error"]["data"]["http_status"] == status


def test_a_503_with_a_json_rpc_body_passes():
    """A 5xx that is the server's own JSON-RPC word is relayed."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.json(503, {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "busy"}})

    assert (sink.status, sink.json()["error"]["message"]) == (503, "busy")


def test_a_redirect_is_not_followed():
    """A 3xx would carry the session elsewhere: the client gets an error that names the address."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.answer(307, [("Location", "http://elsewhere/mcp")])

    assert (sink.status, reason(sink)) == (200, "redirected")
    assert sink.json()["error"]["data"]["location"] == "http://elsewhere/mcp"
    assert len(scene.edge.attempts) == 1


def test_a_connection_that_breaks_before_the_answer_is_an_unknown_outcome():
    """A call that may have been read is never sent again: its outcome is unknown."""
    scene = Scene()
    sink = scene.call("a")
    break_off(scene.edge.last)

    assert (sink.status, reason(sink), sink.json()["id"]) == (200, "connection_broken", "a")
    assert scene.edge.open == []
    assert [record.reason for record in scene.observer.of("call_ended_unknown")] == ["connection_broken"]


def test_a_half_body_that_ends_with_the_connection_is_no_answer():
    """A body that only the close delimits counts when it is whole JSON, and is an unknown outcome otherwise."""
    scene = Scene()
    whole, half = scene.call(1), scene.call(2)
    for attempt, body in zip(scene.edge.attempts, (result_body(1), result_body(2)[:-3]), strict=True):
        attempt.head(200, [JSON_TYPE])
        attempt.data(body)
        attempt.end(proven=False)

    assert whole.json()["id"] == 1
    assert reason(half) == "connection_broken"


def test_an_answer_above_the_bound_is_refused():
    """A body larger than `max_message_bytes` is cut off and reported, never buffered without end."""
    scene = Scene(max_message_bytes=10)
    sink = scene.call(1)
    attempt = scene.edge.last
    attempt.head(200, [JSON_TYPE])
    attempt.data(b"x" * 11)

    assert reason(sink) == "answer_too_large"
    assert attempt.is_aborted


def test_a_frame_above_the_bound_is_refused():
    """So is a frame of an event stream."""
    scene = Scene(max_message_bytes=100)
    sink, attempt = scene.streaming(1)
    attempt.data(b"data: " + b"x" * 200)

    assert reason(sink) == "answer_too_large"
    assert attempt.is_aborted


def test_an_encoded_event_stream_is_unusable():
    """An event stream that cannot be read as it is ends the call with an error."""
    scene = Scene()
    sink = scene.call(1)
    attempt = scene.edge.last
    attempt.sse([("Content-Encoding", "gzip")])

    assert reason(sink) == "answer_unusable"
    assert attempt.is_aborted


# -- streams


def test_frames_arrive_with_the_proxys_ids_and_unchanged_data():
    """Every frame of a call's stream gets an id of ours; its data bytes and event name are the upstream's."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    attempt.frame(b'{"jsonrpc":"2.0", "method" : "notifications/message"}', "up-77")
    attempt.frame(result_body(1), "up-78")

    first, second = [frame for frame in sink.frames if frame.data]
    assert first.data == b'{"jsonrpc":"2.0", "method" : "notifications/message"}'
    assert (second.data, second.event) == (result_body(1), b"message")
    assert len(set(sink.ids)) == len(sink.ids) == 3
    assert "up-7" not in sink.text
    assert sink.finished


def test_a_stream_opens_with_retry_and_a_priming_event():
    """A 2025-11-25 session's stream begins with `retry` and an id with empty data (semantics 5)."""
    scene = Scene()
    sink, _ = scene.streaming(1)

    (priming,) = sink.frames
    assert (priming.data, priming.retry) == (b"", 3000)
    assert sink.header("Content-Type") == "text/event-stream"


def test_an_older_session_gets_no_priming_event():
    """An older client would parse the empty data: it gets `retry` and a comment, no event."""
    scene = Scene(version="2025-06-18")
    sink, attempt = scene.streaming(1)

    assert sink.frames == []
    assert b"retry: 3000" in sink.body

    attempt.frame(result_body(1))

    assert len(sink.ids) == 1


def test_an_answered_calls_stream_that_lingers_is_cut():
    """An upstream that keeps an answered call's stream open is cut after a while, unseen by the client."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    attempt.frame(result_body(1))

    assert sink.finished
    assert attempt.is_open

    scene.clock.advance(5.0)

    assert attempt.is_aborted


def test_what_follows_the_answer_is_ignored():
    """A call has one terminal entry: frames behind it go nowhere (semantics 4)."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    attempt.data(b"data: " + result_body(1) + b"\n\ndata: " + result_body(1) + b"\n\n")
    attempt.frame(progress(1))

    assert [message.get("id") for message in sink.messages] == [1]


def test_a_foreign_response_in_a_stream_is_dropped():
    """A response with another id never ends a call, and never reaches its client."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    attempt.frame(result(2))
    attempt.frame(result("1"))

    assert sink.messages == []

    attempt.frame(result(1))

    assert sink.messages == [result(1)]


def test_a_finished_id_is_free_again():
    """The same request id may be used for the next call (semantics 21)."""
    scene = Scene()
    for _ in range(2):
        sink = scene.call(1)
        scene.edge.last.json()

        assert sink.json()["id"] == 1


# -- upgrade_after


def test_a_late_json_answer_arrives_as_an_event():
    """Without a head within `upgrade_after` the proxy opens a stream itself and delivers the answer in it."""
    scene = Scene()
    sink = scene.call(1)
    scene.clock.advance(0.99)

    assert sink.status is None

    scene.clock.advance(0.02)

    assert (sink.status, len(sink.ids)) == (200, 1)

    scene.edge.last.answer(200, [JSON_TYPE], result_body(1, {"late": True}))

    assert [frame.data for frame in sink.frames][1:] == [result_body(1, {"late": True})]
    assert sink.finished


def test_a_late_refusal_becomes_an_error_with_its_status():
    """After the stream has begun another status is told as `data.http_status` (semantics 19)."""
    scene = Scene()
    sink = scene.call(1)
    scene.clock.advance(1.0)
    scene.edge.last.answer(429, [], b"slow down")

    assert reason(sink) == "http_status"
    assert sink.messages[0]["error"]["data"]["http_status"] == 429
    assert sink.messages[0]["id"] == 1


def test_a_late_answer_that_is_no_response_is_unusable():
    """A body that does not answer the request cannot be an event of its stream."""
    scene = Scene()
    sink = scene.call(1)
    scene.clock.advance(1.0)
    scene.edge.last.answer(200, [JSON_TYPE], result_body(2))

    assert reason(sink) == "answer_unusable"


def test_a_client_that_takes_no_stream_is_waited_with():
    """Without `text/event-stream` in Accept the answer stays plain JSON, however late (semantics 19)."""
    scene = Scene()
    sink = FakeSink()
    body = request_body("tools/call", 1)
    headers = [("Accept", "application/json"), ("Mcp-Session-Id", scene.relay.session.id)]
    scene.relay.post(jsonrpc.classify(body), Request(Head("POST", "/mcp", headers), body), sink)
    scene.clock.advance(20.0)

    assert sink.status is None

    scene.edge.one(rpc="tools/call").json()

    assert sink.json()["id"] == 1


def test_upgrade_after_runs_through_a_rebuild():
    """The second counts from the request's arrival, and a late loss of the session still rebuilds (semantics 19)."""
    scene = Scene()
    sink = scene.call(1)
    scene.clock.advance(0.6)
    scene.lose_session(scene.edge.last)
    scene.clock.advance(0.4)

    assert sink.status == 200
    assert sink.messages == []

    scene.rebuilt()
    scene.edge.one(rpc="tools/call").json()

    assert sink.messages == [result(1)]
    assert sink.finished


def test_a_session_lost_after_the_upgrade_is_rebuilt():
    """A 404 behind the head of our own stream is no different from one before it."""
    scene = Scene()
    sink = scene.call(1)
    scene.clock.advance(1.5)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.edge.one(rpc="tools/call").json()

    assert sink.messages == [result(1)]


# -- the client goes, comes back, or asks twice


def test_a_disconnect_before_the_first_event_id_drops_the_result():
    """The exchange is finished, and the result of a call nobody can ask for is not kept (semantics 3)."""
    scene = Scene()
    sink = scene.call(1)
    sink.go_away()
    attempt = scene.edge.last
    scene.clock.advance(2.0)

    assert attempt.is_open

    attempt.json()

    assert scene.relay.calls == {}
    assert scene.relay.log.size == 0


def test_a_disconnect_is_no_cancel_and_the_rest_is_replayed():
    """After the first event id the client may come back and gets exactly what it missed, then what follows."""
    scene = Scene()
    sink, attempt = scene.streaming(1, progress(1))
    sink.go_away()
    attempt.frame(progress(2))

    assert attempt.is_open

    again = scene.get(sink.last_id)
    attempt.frame(progress(3))
    attempt.frame(result_body(1))

    assert again.messages == [progress(2), progress(3), result(1)]
    assert again.finished


def test_an_identical_request_takes_the_stream_over():
    """A POST with an id in flight and the same body continues the running call: it is not run twice (semantics 21)."""
    scene = Scene()
    sink, attempt = scene.streaming(1, progress(1))
    again = scene.call(1)
    attempt.frame(result_body(1))

    assert sink.finished
    assert sink.messages == [progress(1)]
    assert again.messages == [progress(1), result(1)]
    assert len(scene.edge.attempts) == 1


def test_an_identical_request_takes_over_before_the_answer_begins():
    """The first connection ends without an answer of its own, the second gets the JSON."""
    scene = Scene()
    first = scene.call(1)
    second = scene.call(1)

    assert (first.status, first.finished) == (202, True)

    scene.edge.one(rpc="tools/call").json()

    assert second.json()["id"] == 1


def test_a_request_sent_again_after_a_disconnect_is_upgraded_too():
    """The second connection gets its own `upgrade_after`."""
    scene = Scene()
    scene.call(1).go_away()
    again = scene.call(1)
    scene.clock.advance(1.0)

    assert again.status == 200
    assert len(scene.edge.attempts) == 1


def test_another_request_with_an_id_in_flight_is_refused():
    """A different body under an id in flight gets -32600 as 200 and does not run (semantics 21)."""
    scene = Scene()
    sink = scene.call(1)
    other = scene.call(1, "tools/list")

    assert (other.status, other.json()["error"]["code"], reason(other)) == (200, -32600, "id_in_use")
    assert len(scene.edge.attempts) == 1

    scene.edge.last.json()

    assert sink.json()["id"] == 1


def test_string_and_number_ids_are_different():
    """`1` and `"1"` are two calls, and each gets its own answer."""
    scene = Scene()
    number, text = scene.call(1), scene.call("1")
    for attempt in scene.edge.attempts:
        attempt.json()

    assert number.json()["id"] == 1
    assert text.json()["id"] == "1"


def test_calls_above_the_bound_are_refused():
    """More than `max_calls` in flight are answered as overloaded and not run."""
    scene = Scene(max_calls=1)
    scene.call(1)
    second = scene.call(2)

    assert (second.status, reason(second)) == (200, "too_many_calls")
    assert len(scene.edge.attempts) == 1


# -- a lost session


def test_a_refused_call_is_sent_again_in_the_next_session():
    """404: rebuild inside the request, send again once, answer: the client sees one slow answer."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)

    assert sink.status is None

    scene.rebuilt("up-2")
    attempt = scene.edge.one(rpc="tools/call")

    assert attempt.upstream_id == "up-2"

    attempt.json()

    assert (sink.status, sink.json()["id"]) == (200, 1)
    assert scene.relay.session.binding.generation == 2


def test_a_second_refusal_is_relayed():
    """At most one rebuild per request: the second 404 is the upstream's word (semantics 11)."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.lose_session(scene.edge.one(rpc="tools/call"))

    assert sink.status == 404
    assert scene.edge.open == []


def test_a_404_without_a_session_id_is_relayed():
    """An upstream that issues no ids cannot lose one: its 404 is an answer."""
    scene = Scene(upstream_id=None)
    sink = scene.call(1)
    scene.edge.last.answer(404, [], b"what?")

    assert (sink.status, sink.body) == (404, b"what?")


def test_an_old_refusal_is_no_news():
    """A call refused by a session that was replaced meanwhile goes to the present one, without another rebuild."""
    scene = Scene()
    scene.call(1)
    late = scene.call(2)
    first, second = scene.edge.attempts
    scene.lose_session(first)
    scene.rebuilt("up-2")
    scene.lose_session(second)
    again = scene.edge.find(rpc="tools/call")[-1]

    assert again.upstream_id == "up-2"

    again.json()

    assert late.json()["id"] == 2
    assert scene.relay.session.binding.generation == 2


def test_a_400_that_a_ping_confirms_is_a_lost_session():
    """A 400 and a ping refused alike in the same upstream session start the rebuild (semantics 11)."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.json(400, {"error": "no"})
    ping = scene.edge.one(rpc="ping")

    assert (ping.upstream_id, ping.request.fresh, sink.status) == ("up-1", True, None)

    ping.json(400, {"error": "no"})
    scene.rebuilt()
    scene.edge.one(rpc="tools/call").json()

    assert sink.json()["id"] == 1


def test_a_400_that_a_ping_does_not_confirm_is_relayed():
    """A 400 in a session that answers a ping is the upstream's own word."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.answer(400, [], b"bad arguments")
    scene.edge.one(rpc="ping").json()

    assert (sink.status, sink.body) == (400, b"bad arguments")
    assert scene.edge.open == []


def test_a_refused_connection_is_waited_out():
    """A call that could not be sent waits for the server to come back and is sent then, once."""
    scene = Scene()
    sink = scene.call(1)
    scene.edge.last.refuse()
    scene.edge.one(rpc="initialize").refuse()
    scene.edge.reachable = False
    scene.clock.advance(4.0)

    assert scene.edge.open == []

    scene.edge.reachable = True
    scene.clock.advance(4.0)
    scene.rebuilt()
    scene.edge.one(rpc="tools/call").json()

    assert sink.messages == [result(1)]


def test_a_server_that_stays_away_is_reported_in_time():
    """After `rebuild_wait_seconds` of refused connections the call is told that it did not run."""
    scene = Scene(upgrade_after_seconds=60.0)
    scene.edge.reachable = False
    sink = scene.call(1)
    scene.edge.last.refuse()
    scene.edge.one(rpc="initialize").refuse()
    scene.clock.advance(9.9)

    assert sink.status is None

    scene.clock.advance(0.2)

    assert (sink.status, reason(sink)) == (200, "unreachable")
    assert sink.json()["error"]["data"]["outcome"] == "not_run"


def test_the_wait_is_one_for_all_refusals_of_a_call():
    """Refused again after a rebuild, a call waits what is left of its time, not anew."""
    scene = Scene(upgrade_after_seconds=60.0)
    sink = scene.call(1)
    scene.clock.advance(1.0)
    scene.edge.last.refuse()
    scene.clock.advance(6.0)
    scene.rebuilt()
    scene.edge.one(rpc="tools/call").refuse()
    scene.clock.advance(3.9)

    assert sink.status is None

    scene.clock.advance(0.2)

    assert reason(sink) == "unreachable"


# -- cancel


def test_a_cancel_is_forwarded_once():
    """The first cancel of a running call goes upstream, another is accepted and goes nowhere."""
    scene = Scene()
    scene.call(1)
    first = scene.cancel(1)
    note = scene.edge.one(rpc="notifications/cancelled")
    note.answer(202)
    second = scene.cancel(1)

    assert (first.status, second.status) == (202, 202)
    assert len(scene.edge.find(rpc="notifications/cancelled", is_open=False)) == 1
    assert [record.reason for record in scene.observer.of("notification_dropped")] == ["nothing_to_cancel"]


def test_a_cancel_while_the_call_waits_ends_it():
    """A call that was not sent is answered at once, as not run, and is never sent."""
    scene = Scene()
    sink = scene.call(1)
    scene.lose_session(scene.edge.last)
    cancel = scene.cancel(1)
    scene.rebuilt()

    assert cancel.status == 202
    assert reason(sink) == "cancelled_unsent"
    assert scene.edge.find(rpc="tools/call") == []
    assert scene.edge.find(rpc="notifications/cancelled", is_open=False) == []


def test_a_cancelled_call_that_its_session_refuses_is_not_sent_again():
    """Nothing would stop it in the next session: it is answered as not run."""
    scene = Scene()
    sink = scene.call(1)
    call = scene.edge.last
    scene.cancel(1)
    scene.lose_session(call)
    scene.call(2)
    scene.rebuilt()

    assert reason(sink) == "cancelled_unsent"
    assert [attempt.message["id"] for attempt in scene.edge.find(rpc="tools/call")] == [2]


def test_a_cancelled_call_that_finds_its_session_lost_says_so():
    """Nothing is rebuilt for it, but the next call is not sent into the lost session."""
    scene = Scene()
    scene.call(1)
    call = scene.edge.last
    scene.cancel(1)
    scene.lose_session(call)

    assert [record.reason for record in scene.observer.of("upstream_lost")] == ["gone"]

    scene.call(2)

    assert scene.edge.find(rpc="tools/call") == []
    assert scene.edge.one(rpc="initialize")


def test_a_cancelled_call_whose_stream_ends_is_told():
    """A server that ends a cancelled call's stream without a response leaves no call hanging (semantics 4)."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    scene.cancel(1)
    attempt.end()

    assert reason(sink) == "cancelled"
    assert sink.finished
    assert scene.edge.find(method="GET") == []


def test_a_cancelled_call_may_still_be_answered():
    """A response that comes all the same is the answer."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    scene.cancel(1)
    attempt.frame(result_body(1))

    assert sink.messages == [result(1)]


# -- a broken stream


def test_a_broken_stream_without_a_cursor_is_an_unknown_outcome():
    """Nothing to resume with: the client is told at once."""
    scene = Scene()
    sink, attempt = scene.streaming(1, progress(1))
    break_off(attempt)

    assert reason(sink) == "stream_broken"
    assert sink.finished
    assert scene.edge.open == []


def test_a_half_frame_is_never_forwarded():
    """Bytes behind the last frame boundary of a cut stream reach nobody."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    attempt.data(b"data: " + result_body(1))
    break_off(attempt)

    assert [reason_of(message) for message in sink.messages] == ["stream_broken"]


def test_a_broken_stream_is_resumed_by_its_cursor_unseen_by_the_client():
    """The upstream is asked again with its own last id, repeats and foreign responses are dropped, the rest follows."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    attempt.frame(progress(1), "e1")
    attempt.frame(progress(2), "e2")
    break_off(attempt)
    scene.clock.advance(0.2)
    resumed = scene.edge.one(method="GET")

    assert (resumed.header("Last-Event-ID"), resumed.upstream_id) == ("e2", "up-1")

    resumed.sse()
    resumed.frame(progress(1), "e1")
    resumed.frame(progress(2), "e2")
    resumed.frame(result(9), "x9")
    resumed.frame(progress(3), "e3")
    resumed.frame(result(1), "e4")

    assert sink.messages == [progress(1), progress(2), progress(3), result(1)]
    assert sink.finished


def test_a_stream_that_ends_cleanly_is_polled_after_its_retry():
    """A server may end the connection, not the stream: it is asked again after the `retry` it gave."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    attempt.data(b"id: p1\nretry: 2500\ndata:\n\n")
    attempt.end()
    scene.clock.advance(2.4)

    assert scene.edge.open == []

    scene.clock.advance(0.2)
    resumed = scene.edge.one(method="GET")
    resumed.sse()
    resumed.frame(result(1), "p2")

    assert resumed.header("Last-Event-ID") == "p1"
    assert sink.messages == [result(1)]


@pytest.mark.parametrize("status", [400, 401, 405])
def test_a_refused_resume_is_an_unknown_outcome(status: int):
    """A server that does not resume leaves the outcome unknown."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    break_off(attempt)
    scene.clock.advance(0.2)
    scene.edge.one(method="GET").answer(status)

    assert reason(sink) == "stream_broken"
    assert sink.messages[0]["error"]["data"]["http_status"] == status


def test_a_resume_into_a_lost_session_is_told_and_rebuilds_later():
    """404 to a resume: the call's session is gone, its outcome unknown; the next request rebuilds."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    break_off(attempt)
    scene.clock.advance(0.2)
    scene.lose_session(scene.edge.one(method="GET"))

    assert reason(sink) == "upstream_session_lost"

    scene.call(2)

    assert scene.edge.one(rpc="initialize")


def test_resuming_is_tried_a_bounded_number_of_times():
    """After `resume_attempts` failures in a row the outcome is unknown."""
    scene = Scene(resume_attempts=2)
    sink, attempt = scene.streaming(1, cursor="e1")
    break_off(attempt)
    for status in (409, 503):
        scene.clock.advance(1.0)
        scene.edge.one(method="GET").answer(status)

    assert reason(sink) == "stream_broken"


def test_progress_on_a_resumed_stream_counts_the_tries_anew():
    """A server that gives an id and ends, again and again, is polled as long as it likes."""
    scene = Scene(resume_attempts=1)
    sink, attempt = scene.streaming(1, cursor="e0")
    attempt.end()
    for number in range(1, 6):
        scene.clock.advance(1.0)
        attempt = scene.edge.one(method="GET")
        attempt.sse()
        attempt.data(f"id: e{number}\ndata:\n\n".encode())
        attempt.end()
    scene.clock.advance(1.0)
    scene.edge.one(method="GET").sse()
    scene.edge.last.frame(result(1))

    assert scene.edge.last.header("Last-Event-ID") == "e5"
    assert sink.messages == [result(1)]


def test_a_refused_connection_during_a_resume_ends_the_call():
    """The server is gone and its store with it: the outcome is unknown, and the session lost."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    break_off(attempt)
    scene.clock.advance(0.2)
    scene.edge.one(method="GET").refuse()

    assert reason(sink) == "stream_broken"
    assert [record.reason for record in scene.observer.of("upstream_lost") if record.session] == ["refused"]


def test_a_call_of_a_lost_session_is_not_resumed_in_the_next():
    """Cursors belong to the upstream session that gave them."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="e1")
    scene.call(2)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    break_off(attempt)
    scene.clock.advance(5.0)

    assert reason(sink) == "stream_broken"
    assert scene.edge.find(method="GET") == []


@pytest.mark.parametrize("cursor", ["é", "x" * 4097])
def test_a_cursor_that_fits_no_header_is_not_sent(cursor: str):
    """An id beyond ASCII or 4 KiB cannot be asked with."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor=cursor)
    break_off(attempt)
    scene.clock.advance(1.0)

    assert reason(sink) == "stream_broken"
    assert scene.edge.open == []


# -- batches (2025-03-26)


def _members(*ids: int) -> list[bytes]:
    return [request_body("tools/call", request_id) for request_id in ids]


def test_a_batch_is_complete_when_every_request_is_answered():
    """One stream for all members; it ends with the last answer (semantics 24)."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(*_members(1, 2))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(result(2))

    assert not sink.finished

    attempt.frame(result(1))

    assert sink.finished
    assert sink.messages == [result(2), result(1)]


def test_a_batch_answered_by_a_batch_is_complete():
    """An array of responses in one frame answers its members."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(*_members(1, 2))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame([result(1), result(2)])

    assert sink.finished
    assert sink.messages == [[result(1), result(2)]]


def test_lost_members_of_a_batch_each_get_their_error():
    """A broken stream answers every open member and no other."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(*_members(1, 2, 3))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(result(2))
    break_off(attempt)

    assert [message["id"] for message in sink.messages] == [2, 1, 3]
    assert [reason_of(message) for message in sink.messages[1:]] == ["stream_broken"] * 2
    assert sink.finished


def test_a_batch_that_fails_before_its_answer_gets_an_array():
    """Before a stream has begun the errors come as one batch."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(*_members(1, 2))
    break_off(scene.edge.last)

    assert [reason_of(answer) for answer in sink.json()] == ["connection_broken"] * 2
    assert [answer["id"] for answer in sink.json()] == [1, 2]


def test_a_batch_is_never_upgraded():
    """Its answer is an array of the upstream's own (semantics 19)."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(*_members(1, 2))
    scene.clock.advance(5.0)

    assert sink.status is None

    scene.edge.last.json(200, [result(1), result(2)])

    assert sink.json() == [result(1), result(2)]


def test_a_refused_batch_is_sent_again_whole():
    """A 404 ran no member: the batch goes to the next upstream session."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(*_members(1, 2))
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.edge.last.json(200, [result(1), result(2)])

    assert [answer["id"] for answer in sink.json()] == [1, 2]


def test_a_batch_with_an_id_in_flight_is_refused_member_by_member():
    """No member runs, and each is told so."""
    scene = Scene(version="2025-03-26")
    scene.call(2)
    sink = scene.batch(*_members(1, 2))

    assert [(answer["id"], reason_of(answer)) for answer in sink.json()] == [(1, "id_in_use"), (2, "id_in_use")]
    assert len(scene.edge.attempts) == 1


# -- what a rebuild has to know of a call


def test_what_the_client_set_up_is_remembered():
    """Successful subscriptions and the log level are kept for a rebuild; refused ones are not."""
    scene = Scene()
    for request_id, (method, params, ok) in enumerate(
        [
            ("resources/subscribe", {"uri": "a"}, True),
            ("resources/subscribe", {"uri": "b"}, True),
            ("resources/subscribe", {"uri": "c"}, False),
            ("resources/unsubscribe", {"uri": "a"}, True),
            ("logging/setLevel", {"level": "debug"}, True),
        ]
    ):
        scene.call(request_id, method, params)
        answer = result(request_id) if ok else {"jsonrpc": "2.0", "id": request_id, "error": {"code": 1, "message": ""}}
        scene.edge.last.json(200, answer)

    assert list(scene.relay.session.subscriptions or ()) == ["b"]
    assert scene.relay.session.log_level == "debug"


def test_what_is_set_up_over_a_stream_is_remembered_too():
    """The same for an answer that comes as an event."""
    scene = Scene()
    scene.call(1, "resources/subscribe", {"uri": "a"})
    scene.edge.last.sse()
    scene.edge.last.frame(result(1))

    assert list(scene.relay.session.subscriptions or ()) == ["a"]


def test_subscriptions_above_the_bound_are_not_restored():
    """They work, and an observer is told that a rebuild will not bring them back."""
    scene = Scene(max_subscriptions=1)
    for request_id, uri in enumerate("ab"):
        sink = scene.call(request_id, "resources/subscribe", {"uri": uri})
        scene.edge.last.json()

        assert sink.json()["id"] == request_id
    assert list(scene.relay.session.subscriptions or ()) == ["a"]
    assert [record.reason for record in scene.observer.of("request_rejected")] == ["too_many_subscriptions"]


def test_a_servers_request_in_a_calls_stream_reaches_the_client_unchanged():
    """Its id stays where no other generation could be meant (semantics 15)."""
    scene = Scene()
    sink, attempt = scene.streaming(1)
    raw = b'{"jsonrpc":"2.0",  "id":5,"method":"roots/list"}'
    attempt.frame(raw)

    assert sink.frames[-1].data == raw

    answered = scene.respond(5)
    note = scene.edge.last
    note.answer(202)

    assert (answered.status, json.loads(note.request.body)["id"]) == (202, 5)


def test_a_servers_request_repeated_by_a_resume_is_shown_once():
    """What comes twice is dropped, also where its id had to change."""
    scene = Scene()
    _, old = scene.streaming(8)
    old.frame(server_request(5))
    scene.call(2)
    scene.lose_session(scene.edge.last)
    scene.rebuilt()
    scene.edge.last.json()
    sink, attempt = scene.streaming(3)
    attempt.frame(server_request(5), "e1")
    break_off(attempt)
    scene.clock.advance(0.2)
    resumed = scene.edge.one(method="GET")
    resumed.sse()
    resumed.frame(server_request(5), "e1")
    resumed.frame(result(3), "e2")

    assert len(sink.messages) == 2
    assert sink.messages[0]["id"] != 5


def test_losses_of_every_kind_leave_nothing_behind():
    """After the answers of failed calls no exchange, no timer and no id is left."""
    scene = Scene()
    for number, loss in enumerate((Loss.BROKEN, Loss.NOT_SENT)):
        scene.call(number)
        scene.edge.last.lost(loss)
    scene.edge.reachable = True
    scene.clock.advance(30.0)
    scene.edge.serve_rebuild()
    for attempt in scene.edge.open:
        attempt.json()
    scene.settle()

    assert scene.relay.calls == {}
    assert scene.edge.open == []


def test_what_a_call_waited_with_goes_with_it():
    """A call and its patience hold each other: ended, they do not wait for the collector with the body."""
    scene = Scene()
    gc.collect()
    before = sum(type(each) is Patience for each in gc.get_objects())
    gc.disable()
    try:
        sink = scene.call(1)
        scene.edge.last.refuse()
        waiting = sum(type(each) is Patience for each in gc.get_objects())
        scene.clock.advance(3600.0)
        left = sum(type(each) is Patience for each in gc.get_objects())
    finally:
        gc.enable()

    assert sink.status is not None
    assert (waiting - before, left - before) == (1, 0)
