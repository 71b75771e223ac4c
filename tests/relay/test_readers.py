"""Clients that come, come back and take over: what each cursor is answered with, on both kinds of stream."""

import pytest

from proxy.core.cursor import parse
from support.fakes import FakeSink, request_body
from support.scenes import Scene, message, progress, reason_of, result


def _finished_call(scene: Scene, request_id: int = 1, events: int = 3) -> FakeSink:
    """Run a call over a stream to its end."""
    sink, attempt = scene.streaming(request_id, *(progress(number) for number in range(events)))
    attempt.frame(result(request_id))
    return sink


def _told(sink: FakeSink) -> list[str]:
    return [told["method"] for told in sink.messages]


# -- a call stream


@pytest.mark.parametrize("seen", [0, 1, 2, 3])
def test_a_cursor_in_the_window_gets_exactly_what_follows(seen: int):
    """From whichever event the client has seen last: the rest, once each, then the end."""
    scene = Scene()
    first = _finished_call(scene)
    again = scene.get(first.ids[seen])

    assert (again.status, again.messages) == (200, first.messages[seen:])
    assert again.finished


def test_replayed_bytes_are_the_first_ones():
    """A frame comes again with the id and the bytes it had."""
    scene = Scene()
    first = _finished_call(scene)
    again = scene.get(first.ids[0])

    assert again.writes[-1] == b"".join(first.writes[1:])


def test_a_cursor_at_the_end_gets_405():
    """Everything was delivered: 405 ends the asking, an empty 200 would not (semantics 8)."""
    scene = Scene()
    sink = scene.get(_finished_call(scene).last_id)

    assert sink.status == 405
    assert sink.header("Allow")


def test_a_resume_is_answered_from_the_log_alone():
    """No exchange with the upstream follows from a client's reconnecting."""
    scene = Scene()
    first = _finished_call(scene)
    before = len(scene.edge.attempts)
    scene.get(first.ids[0])

    assert len(scene.edge.attempts) == before
    assert [(record.stream, record.replayed) for record in scene.observer.of("stream_resumed")] == [("call", 4)]


def test_a_second_reader_takes_the_stream_over():
    """Whoever comes later has it; the earlier response ends cleanly, nothing is doubled or missed."""
    scene = Scene()
    first, attempt = scene.streaming(1, progress(1))
    second = scene.get(first.last_id)

    assert first.finished

    attempt.frame(progress(2))
    third = scene.get(second.last_id)
    attempt.frame(result(1))

    assert second.finished
    assert [first.messages, second.messages, third.messages] == [[progress(1)], [progress(2)], [result(1)]]


def test_a_resumed_stream_has_an_id_before_it_can_end():
    """A client keeps its cursor per connection: one that is cut again at once must not lose it."""
    scene = Scene()
    first, _ = scene.streaming(1, progress(1))
    first.go_away()
    again = scene.get(first.last_id)

    assert len(again.ids) == 1

    again.go_away()
    third = scene.get(again.last_id)

    assert third.messages == []
    assert not third.is_over


def test_messages_of_another_stream_are_never_replayed():
    """A cursor is one inside its own stream."""
    scene = Scene()
    listening = scene.listening()
    one, attempt = scene.streaming(1, progress(1, "one"))
    _, other = scene.streaming(2, progress(1, "two"))
    scene.edge.one(method="GET").frame(message("standalone"))
    one.go_away()
    other.frame(progress(2, "two"))
    attempt.frame(progress(2, "one"))
    again = scene.get(one.last_id)

    assert again.messages == [progress(2, "one")]
    assert _told(listening) == ["standalone"]


def test_a_gap_with_the_result_retained_gets_the_result():
    """The window has moved on, the answer is still there: it alone is delivered (semantics 9)."""
    scene = Scene(events_per_stream=2, slow_reader_events=1)
    first = _finished_call(scene, events=5)
    again = scene.get(first.ids[0])

    assert (again.status, again.messages) == (200, [result(1)])
    assert again.finished
    assert scene.get(again.last_id).status == 405


def test_a_gap_on_a_running_call_ends_it_as_unknown():
    """The error carries the true request id, is the call's terminal entry, and the upstream is not read on."""
    scene = Scene(events_per_stream=2, slow_reader_events=1)
    first, attempt = scene.streaming("call-1", progress(1))
    first.go_away()
    for number in range(2, 6):
        attempt.frame(progress(number))
    again = scene.get(first.last_id)

    assert (again.status, again.messages[-1]["id"], reason_of(again.messages[-1])) == (200, "call-1", "gap")
    assert len(again.messages) == 1
    assert again.finished
    assert attempt.is_aborted
    assert scene.get(again.last_id).status == 405
    assert len(scene.observer.of("gap_told")) == 1


def test_an_evicted_stream_is_told_from_its_tombstone():
    """After the window's time the true request id is still known: 200 with "outcome unknown", then 405."""
    scene = Scene(completed_seconds=60.0)
    first = _finished_call(scene)
    scene.clock.advance(62.0)
    again = scene.get(first.ids[1])

    assert (again.status, [answer["id"] for answer in again.messages]) == (200, [1])
    assert reason_of(again.messages[0]) == "gap"
    assert scene.get(again.last_id).status == 405
    assert scene.get(first.last_id).status == 405
    assert len(scene.observer.of("gap_told")) == 1


def test_a_gap_in_a_batch_answers_every_member():
    """Each member gets its response where that is retained, and its own error where it is not (semantics 24)."""
    scene = Scene(version="2025-03-26", events_per_stream=2, slow_reader_events=1)
    sink = scene.batch(*(request_body("tools/call", number) for number in (1, 2, 3)))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(progress(1))
    sink.go_away()
    for number in (1, 2, 3):
        attempt.frame(result(number))
    again = scene.get(sink.last_id)

    assert sorted(answer["id"] for answer in again.messages) == [1, 2, 3]
    assert [answer["id"] for answer in again.messages if "error" in answer] == [1]
    assert again.finished
    assert scene.get(again.last_id).status == 405


def test_a_gap_in_a_running_batch_answers_every_open_member():
    """No member is left without an answer when the batch cannot be continued."""
    scene = Scene(version="2025-03-26", events_per_stream=3, slow_reader_events=1)
    sink = scene.batch(*(request_body("tools/call", number) for number in (1, 2)))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(progress(1))
    sink.go_away()
    for number in range(2, 8):
        attempt.frame(progress(number))
    again = scene.get(sink.last_id)
    answers = [told for told in again.messages if "id" in told]

    assert [(answer["id"], reason_of(answer)) for answer in answers] == [(1, "gap"), (2, "gap")]


@pytest.mark.parametrize("cursor", ["nonsense", "x" * 65, "abc-c1-1", "aaaaaaaaaaaa-c1-01", "aaaaaaaaaaaa-x-1"])
def test_a_malformed_cursor_gets_400(cursor: str):
    """It is none of this proxy's ids (semantics 9)."""
    scene = Scene()
    _finished_call(scene)

    assert scene.get(cursor).status == 400


def test_a_forged_cursor_gets_400():
    """An offset beyond the end, or a call stream that never was."""
    scene = Scene()
    cursor = parse(_finished_call(scene).last_id)
    assert cursor is not None

    assert scene.get(f"{cursor.epoch}-c1-{cursor.offset + 100}").status == 400
    assert scene.get(f"{cursor.epoch}-c9-{cursor.offset}").status == 400


def test_a_foreign_call_cursor_gets_400_and_never_404():
    """Another session's call is none of this one's; 404 would say that the session is gone."""
    ours, theirs = Scene(), Scene()
    theirs.clock.entropy(1)
    foreign = _finished_call(theirs).last_id.replace(theirs.relay.log.epoch, "z" * 12)

    assert ours.get(foreign).status == 400


# -- the standalone stream


def test_the_upstreams_head_is_awaited():
    """The client's stream opens when the upstream's word is known, under the client's own id (semantics 18)."""
    scene = Scene()
    sink = scene.get()

    assert sink.status is None

    scene.edge.one(method="GET").sse([("Mcp-Session-Id", "up-1")])

    assert sink.status == 200
    assert sink.header("Mcp-Session-Id") == scene.relay.session.id


def test_the_upstreams_head_is_awaited_for_a_second():
    """A server that is slow to answer its GET does not keep the client's from opening."""
    scene = Scene()
    sink = scene.get()
    scene.clock.advance(1.0)

    assert (sink.status, len(sink.ids)) == (200, 1)

    scene.edge.one(method="GET").sse()
    scene.edge.one(method="GET").frame(message("a"))

    assert _told(sink) == ["a"]


def test_a_client_that_goes_while_it_waits_is_not_attached():
    """Its GET ends with it."""
    scene = Scene()
    sink = scene.get()
    sink.go_away()
    scene.clock.advance(2.0)

    assert not scene.relay.readers


def test_a_get_without_a_cursor_takes_the_stream_over():
    """It continues after the last entry written to the previous reader (semantics 7)."""
    scene = Scene()
    first = scene.listening()
    scene.edge.one(method="GET").frame(message("a"))
    second = scene.get()
    scene.edge.one(method="GET").frame(message("b"))

    assert first.finished
    assert (_told(first), _told(second)) == (["a"], ["b"])


def test_what_nobody_was_given_is_delivered():
    """Messages that arrived while no client listened go to the next one, without a cursor too."""
    scene = Scene()
    scene.listening().go_away()
    scene.edge.one(method="GET").frame(message("a"))
    scene.edge.one(method="GET").frame(message("b"))

    assert _told(scene.get()) == ["a", "b"]


def test_a_cursor_on_the_standalone_stream_replays_from_there():
    """Also what was already written to the former connection and may have been lost with it."""
    scene = Scene()
    first = scene.listening()
    for name in "abc":
        scene.edge.one(method="GET").frame(message(name))
    again = scene.get(first.ids[1])

    assert _told(again) == ["b", "c"]
    assert not again.is_over


def test_a_gap_on_the_standalone_stream_is_told_as_a_resync():
    """200, a fresh id, the promised notifications, then live: nothing pretends continuity (semantics 9)."""
    scene = Scene(promises=("tools", "prompts"), events_per_stream=2, slow_reader_events=1)
    first = scene.listening()
    first.go_away()
    for name in "abcd":
        scene.edge.one(method="GET").frame(message(name))
    again = scene.get(first.last_id)
    scene.edge.one(method="GET").frame(message("live"))

    assert again.status == 200
    assert _told(again) == [
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "live",
    ]
    assert again.frames[0].data == b""
    assert [record.stream for record in scene.observer.of("gap_told")] == ["standalone"]


def test_a_gap_without_a_cursor_is_told_as_well():
    """Undelivered messages that the window lost are a gap for whoever comes next."""
    scene = Scene(promises=("tools",), events_per_stream=2, slow_reader_events=1)
    scene.listening().go_away()
    for name in "abcd":
        scene.edge.one(method="GET").frame(message(name))

    assert _told(scene.get()) == ["notifications/tools/list_changed"]


def test_a_foreign_standalone_cursor_is_healed_by_a_resync():
    """An id of another epoch: 200 and the resync, for one client library brings another session's cursor."""
    scene = Scene(promises=("tools",))
    scene.listening()
    again = scene.get("zzzzzzzzzzzz-s-17")

    assert (again.status, _told(again)) == (200, ["notifications/tools/list_changed"])


def test_an_empty_cursor_is_none():
    """An empty `Last-Event-ID` means the same as no header."""
    scene = Scene()
    scene.listening()

    assert scene.get("").status == 200


def test_after_an_abort_the_next_stream_is_ended_cleanly_once():
    """A Python client gives up after two aborts without a clean end between (semantics 10)."""
    scene = Scene()
    scene.listening().go_away()
    second = scene.get()
    scene.clock.advance(1.9)

    assert not second.is_over

    scene.clock.advance(0.2)

    assert second.finished

    third = scene.get(second.last_id)
    scene.clock.advance(100.0)

    assert not third.is_over


def test_an_older_session_gets_no_priming_on_its_standalone_stream():
    """It becomes resumable with its first event (semantics 5)."""
    scene = Scene(version="2025-06-18")
    sink = scene.listening()

    assert (sink.ids, sink.status) == ([], 200)

    scene.edge.one(method="GET").frame(message("a"))

    assert len(sink.ids) == 1


def test_a_get_during_a_rebuild_joins_it():
    """No upstream session at the moment: the GET wants one, and its stream opens within a second."""
    scene = Scene()
    scene.call(1)
    scene.lose_session(scene.edge.last)
    sink = scene.get()

    assert len(scene.edge.find(rpc="initialize")) == 1

    scene.clock.advance(1.0)
    scene.rebuilt(get_status=200)
    scene.edge.one(method="GET").frame(message("a"))

    assert _told(sink) == ["a"]


def test_a_get_wakes_a_sleeping_session():
    """A parked upstream side is bound again by a client that listens (semantics 20)."""
    scene = Scene(upstream_idle_seconds=60.0)
    scene.clock.advance(80.0)

    assert len(scene.edge.find(method="DELETE", is_open=False)) == 1

    sink = scene.get()
    scene.background()
    scene.rebuilt("up-2", get_status=200)
    scene.clock.advance(1.0)

    assert sink.status == 200
    assert scene.edge.one(method="GET").upstream_id == "up-2"


def test_heartbeats_carry_no_id():
    """A quiet stream gets a comment a period, which moves no cursor (point 3)."""
    scene = Scene()
    sink = scene.listening()
    scene.clock.advance(40.0)
    for ping in scene.edge.find(rpc="ping"):
        ping.json()

    assert sink.body.count(b": keep-alive\n") in (1, 2)
    assert len(sink.ids) == 1
