"""The answers the proxy makes up itself: their heads, their bodies, and what observers hear."""

import pytest

from proxy.core import headers as h
from proxy.core.faults import FAULTS
from proxy.observe.hooks import RequestRejected
from proxy.relay import replies
from support.fakes import JSON_TYPE, FakeSink, RecordingObserver


def test_a_stream_has_what_sse_needs() -> None:
    """Its type, no cache, no buffer in between."""
    assert replies.stream_headers() == [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ]


def test_a_stream_keeps_the_upstreams_headers() -> None:
    """Except those that SSE needs otherwise, in any letter case."""
    upstream = [
        ("X-Server", "a"), ("content-type", "text/event-stream; charset=utf-8"), ("CACHE-CONTROL", "public"),
        ("x-accel-buffering", "yes"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"),
    ]  # fmt: skip

    headers = replies.stream_headers(upstream)

    assert [pair for pair in headers if pair in upstream] == [upstream[0], upstream[4], upstream[5]]
    assert h.get_all(headers, "Content-Type") == ["text/event-stream"]
    assert h.get_all(headers, "Cache-Control") == ["no-cache, no-transform"]
    assert h.get_all(headers, "X-Accel-Buffering") == ["no"]


@pytest.mark.parametrize("reason", FAULTS)
def test_a_report_is_a_whole_answer(reason: str) -> None:
    """Status, JSON error and end in one turn; a 405 says what is allowed."""
    sink = FakeSink()

    replies.report(sink, reason, 7, limit=3)

    assert sink.status == FAULTS[reason].status
    assert sink.finished
    assert sink.header("Content-Type") == "application/json"
    assert (sink.header("Allow") is not None) == (sink.status == 405)
    assert sink.json()["id"] == 7
    assert sink.json()["error"]["data"]["reason"] == reason
    assert sink.json()["error"]["data"]["limit"] == 3


@pytest.mark.parametrize("reason", FAULTS)
def test_a_request_not_read_to_its_end_closes_its_connection(reason: str) -> None:
    """What is left of a body must not be taken for the next request."""
    sink = FakeSink()

    replies.report(sink, reason)

    assert (sink.header("Connection") == "close") == (sink.status in (408, 413))


def test_a_report_without_a_request_has_no_id() -> None:
    """The id is null, as JSON-RPC wants it."""
    sink = FakeSink()

    replies.report(sink, "missing_session")

    assert sink.json()["id"] is None


def test_one_request_gets_one_error() -> None:
    """A POST that is no batch is answered by an object."""
    sink = FakeSink()

    replies.report_all(sink, "unreachable", ("a",), is_batch=False)

    assert (sink.status, sink.json()["id"]) == (200, "a")


@pytest.mark.parametrize("ids", [(1,), (1, "1", 2)])
def test_a_batch_gets_an_error_for_each(ids: tuple[int | str, ...]) -> None:
    """An array, also of one, in the order of the requests, with their ids as they were."""
    sink = FakeSink()

    replies.report_all(sink, "too_many_calls", ids, is_batch=True, limit=2)

    assert [member["id"] for member in sink.json()] == list(ids)
    assert {member["error"]["data"]["limit"] for member in sink.json()} == {2}
    assert sink.headers == [JSON_TYPE]
    assert sink.finished


def test_accepted_is_an_empty_202() -> None:
    """No body and no type of one."""
    sink = FakeSink()

    replies.accepted(sink)

    assert (sink.status, sink.headers, sink.body, sink.finished) == (202, [], b"", True)


def test_a_rejection_is_observed_with_its_status() -> None:
    """The observer hears the row and what the client got."""
    observer = RecordingObserver()

    replies.observe_rejected(observer, "bad_host")

    assert observer.told == [("request_rejected", RequestRejected(reason="bad_host", status=403))]
