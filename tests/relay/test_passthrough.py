"""What has no session: modern requests, legacy ones without an id, and bodies the proxy cannot read (semantics 25)."""

import pytest

from proxy.core import headers as h
from support.fakes import FakeSink, request_body, result_body
from support.scenes import Front, break_off, message, progress, reason, reason_of, result

MODERN = [(h.PROTOCOL_VERSION, "2026-07-28"), (h.METHOD, "tools/call"), (h.NAME, "echo"), ("Mcp-Param-Region", "eu")]


def _modern(front: Front, method: str = "tools/call", request_id: int | str = 1) -> FakeSink:
    return front.post(request_body(method, request_id), headers=MODERN)


# -- what passes


def test_a_modern_request_passes_unchanged():
    """Body and headers, `Mcp-Param-*` too, reach the upstream; no id is minted or echoed (point 8)."""
    front = Front()
    body = b'{"id": 1,  "method":"tools/call","jsonrpc":"2.0"}'
    sink = front.post(body, headers=[*MODERN, (h.LAST_EVENT_ID, "x")], session_id="whatever")
    attempt = front.edge.last

    assert attempt.request.body == body
    assert [attempt.header(name) for name, _ in MODERN] == [value for _, value in MODERN]
    assert attempt.upstream_id is None
    assert attempt.header(h.LAST_EVENT_ID) is None

    attempt.json(200, b'{"jsonrpc":"2.0",  "id":1,"result":{}}', [("X-Own", "kept"), (h.SESSION_ID, "up-1")])

    assert (sink.status, sink.body) == (200, b'{"jsonrpc":"2.0",  "id":1,"result":{}}')
    assert sink.header("X-Own") == "kept"
    assert sink.header(h.SESSION_ID) is None
    assert len(front.registry) == 0


@pytest.mark.parametrize("version", ["2026-07-28", "2026-12-01", "2031-01-01"])
def test_future_versions_are_modern_too(version: str):
    """Any date from 2026-07-28 on."""
    front = Front()
    front.post(request_body("initialize", 1), headers=[(h.PROTOCOL_VERSION, version)])
    sink = front.post(request_body("tools/list", 2), headers=[(h.PROTOCOL_VERSION, version)], session_id="x")

    assert len(front.edge.open) == 2
    assert sink.status is None


def test_a_body_may_say_that_it_is_modern():
    """The version in `_meta` counts where no header tells."""
    front = Front()
    meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    sink = front.post(request_body("tools/list", 1, meta))
    sink.go_away()

    assert front.edge.last.is_aborted


@pytest.mark.parametrize("status", [400, 401, 404, 405, 429, 500, 502, 503])
def test_every_status_passes_unchanged(status: int):
    """A modern 404 is no lost session, a 503 no outage of ours: all are relayed, nothing is tried again."""
    front = Front()
    sink = _modern(front)
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}'
    front.edge.last.answer(status, [("X-Own", "kept")], body)

    assert (sink.status, sink.body, sink.header("X-Own")) == (status, body, "kept")
    assert front.edge.open == []


def test_a_stream_passes_as_its_own_bytes():
    """No ids of ours, comments and line ends kept: what the upstream sent, whole frames at a time."""
    front = Front()
    sink = _modern(front)
    attempt = front.edge.last
    attempt.sse()
    raw = b": hi\r\n\r\nevent: message\r\ndata: " + result_body(1) + b"\r\n\r\n"
    for position in range(len(raw)):
        attempt.data(raw[position : position + 1])
    attempt.end()

    assert sink.body == raw
    assert sink.finished


def test_nothing_is_upgraded():
    """A modern answer may be slow before its head: the proxy opens no stream of its own (semantics 19)."""
    front = Front()
    sink = _modern(front)
    front.clock.advance(29.0)

    assert sink.status is None

    front.edge.last.json()

    assert sink.header("Content-Type") == "application/json"


def test_a_quiet_stream_gets_heartbeats_between_frames():
    """Comments at frame boundaries are allowed, never inside a frame."""
    front = Front()
    sink = _modern(front)
    attempt = front.edge.last
    attempt.sse()
    attempt.frame(progress(1))
    attempt.data(b"event: message\nda")
    front.clock.advance(40.0)

    assert b": keep-alive\n" in sink.body

    attempt.data(b"ta: " + result_body(1) + b"\n\n")

    assert sink.messages == [progress(1), result(1)]


# -- how it ends


def test_a_disconnect_cancels_upstream():
    """Closing the response stream is the cancel: the exchange is cut, before and after the head."""
    front = Front()
    before, during = _modern(front, request_id=1), _modern(front, request_id=2)
    front.edge.attempts[1].sse()
    before.go_away()
    during.go_away()

    assert [attempt.is_aborted for attempt in front.edge.attempts] == [True, True]
    assert front.ctx.passing == set()


def test_a_legacy_disconnect_is_no_cancel():
    """Before 2026-07-28 the upstream's work goes on."""
    front = Front()
    sink = front.post(request_body("tools/call", 1))
    sink.go_away()

    assert front.edge.last.is_open

    front.edge.last.json()

    assert front.ctx.passing == set()


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_missing_end_is_told(is_clean: bool):
    """A stream that the upstream breaks off ends with a JSON-RPC error and a proper last chunk, not in silence."""
    front = Front()
    sink = _modern(front, request_id="r1")
    attempt = front.edge.last
    attempt.sse()
    attempt.frame(progress(1))
    attempt.data(b"data: {half")
    attempt.end() if is_clean else break_off(attempt)

    assert sink.messages[0] == progress(1)
    assert (sink.messages[1]["id"], reason_of(sink.messages[1])) == ("r1", "stream_broken")
    assert b"{half" not in sink.body
    assert sink.ids == []
    assert sink.finished


def test_a_cut_after_the_answer_is_no_loss():
    """What was asked is answered: the stream ends cleanly without another word."""
    front = Front()
    sink = _modern(front)
    attempt = front.edge.last
    attempt.sse()
    attempt.frame(result(1))
    break_off(attempt)

    assert sink.messages == [result(1)]
    assert sink.finished


def test_a_subscription_may_end_and_may_not_be_cut_in_silence():
    """`subscriptions/listen` has no answer to wait for: its clean end passes, its cut is told."""
    front = Front()
    ended, cut = (_modern(front, "subscriptions/listen", f"listen-{number}") for number in range(2))
    for attempt in front.edge.attempts:
        attempt.sse()
        attempt.frame(message("notifications/subscriptions/acknowledged"))
    front.edge.attempts[0].end()
    break_off(front.edge.attempts[1])

    assert len(ended.messages) == 1
    assert ended.finished
    assert reason(cut) == "stream_broken"


def test_a_connection_broken_before_the_answer_is_told():
    """200 with an error: a connection dropped before its head kills some clients."""
    front = Front()
    sink = _modern(front)
    break_off(front.edge.last)

    assert (sink.status, reason(sink)) == (200, "connection_broken")
    assert front.edge.open == []


def test_a_half_body_is_told():
    """A JSON answer that only the close delimits and that is not whole is none."""
    front = Front()
    sink = _modern(front)
    attempt = front.edge.last
    attempt.head(200)
    attempt.data(result_body(1)[:-2])
    attempt.end(proven=False)

    assert reason(sink) == "connection_broken"


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_above_the_bound_is_refused(is_stream: bool):
    """Nothing is buffered without end."""
    front = Front(max_message_bytes=100)
    sink = _modern(front)
    attempt = front.edge.last
    if is_stream:
        attempt.sse()
    else:
        attempt.head(200)
    attempt.data(b"data: " + b"x" * 200)

    assert reason(sink) == "answer_too_large"
    assert attempt.is_aborted


def test_a_shutdown_is_told():
    """A running exchange gets its error, in its stream or as a whole answer."""
    front = Front()
    plain, streaming = _modern(front, request_id=1), _modern(front, request_id=2)
    front.edge.attempts[1].sse()
    front.registry.begin_drain()

    assert front.registry.has_running_calls

    front.registry.end()

    assert [reason(sink) for sink in (plain, streaming)] == ["shutdown", "shutdown"]
    assert front.edge.open == []


def test_a_slow_client_is_not_buffered_for():
    """A congested client stops the reading, and draining or going starts it again."""
    front = Front()
    sink = front.post(request_body("tools/call", 1))
    attempt = front.edge.last
    attempt.sse()
    sink.congest()
    attempt.frame(progress(1))

    assert attempt.is_paused

    sink.drain()

    assert not attempt.is_paused

    sink.congest()
    attempt.frame(progress(2))
    sink.go_away()

    assert not attempt.is_paused


def test_sessionless_requests_reach_a_sessionless_server():
    """A legacy POST without an id, as a stateless server's clients send it, is forwarded (semantics 22)."""
    front = Front()
    sink = front.post(request_body("tools/list", 1), headers=[(h.PROTOCOL_VERSION, "2025-11-25")])
    front.edge.last.answer(404, [], b"what?")

    assert (sink.status, sink.body) == (404, b"what?")
    assert front.edge.open == []


def test_a_batch_is_told_member_by_member():
    """Every open request of a broken batch gets its error."""
    front = Front()
    body = b"[" + request_body("a", 1) + b"," + request_body("b", 2) + b"]"
    plain = front.post(body)
    break_off(front.edge.last)
    streamed = front.post(body)
    attempt = front.edge.last
    attempt.sse()
    attempt.frame([result(2)])
    break_off(attempt)

    assert [(answer["id"], reason_of(answer)) for answer in plain.json()] == [
        (1, "connection_broken"),
        (2, "connection_broken"),
    ]
    assert [(answer["id"], reason_of(answer)) for answer in streamed.messages[1:]] == [(1, "stream_broken")]


def test_a_notification_that_cannot_be_delivered_is_not_accepted():
    """Without a session nobody delivers it later: 202 would claim it."""
    front = Front()
    sink = front.post(b'{"jsonrpc":"2.0","method":"notifications/x"}')
    break_off(front.edge.last)

    assert sink.status != 202
    assert reason(sink) == "connection_broken"
