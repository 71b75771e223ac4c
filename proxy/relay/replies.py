"""Every answer the proxy makes up itself, in the form that real clients live through.

Owns headers and bodies of such answers; the words are in `core.faults`. Knows no session.
"""

from typing import Any

from proxy.core import faults
from proxy.core.edge import Sink
from proxy.core.headers import Block, Headers
from proxy.core.ids import RequestId
from proxy.observe.hooks import Observer, RequestRejected

JSON = ("Content-Type", "application/json")
_STREAM = Block(
    [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache, no-transform"),
        # nginx in front would buffer the stream otherwise.
        ("X-Accel-Buffering", "no"),
    ]
)
_ACCEPTED = Block()
_DELETED = Block()
_STREAM_NAMES = frozenset({"content-type", "cache-control", "x-accel-buffering"})


def stream_headers(upstream: Headers = _STREAM) -> Headers:
    """Return the head of an event stream: the upstream's own headers where there are any, and what SSE needs."""
    if not upstream:
        return _STREAM
    if type(upstream) is not Block:
        return _stream_headers(upstream)
    if upstream.streamed is None:
        upstream.streamed = Block(_stream_headers(upstream))
    return upstream.streamed


def _stream_headers(upstream: Headers) -> Headers:
    return [*(pair for pair in upstream if pair[0].lower() not in _STREAM_NAMES), *_STREAM]


def report(sink: Sink, reason: str, request_id: RequestId | None = None, **more: Any) -> None:
    """Answer with a row of the fault table, whole."""
    fault = faults.FAULTS[reason]
    headers = [JSON]
    if fault.status == 405:
        # RFC 9110, 15.5.6: a 405 MUST carry Allow.
        headers.append(("Allow", "GET, POST, DELETE"))
    elif fault.status in (408, 413):
        # What is left of the body would be taken for the next request.
        headers.append(("Connection", "close"))
    sink.answer(fault.status, headers, faults.body(reason, request_id, **more))


def report_all(sink: Sink, reason: str, ids: tuple[RequestId, ...], *, is_batch: bool, **more: Any) -> None:
    """Answer every request of a POST with a row of the fault table."""
    bodies = [faults.body(reason, request_id, **more) for request_id in ids]
    whole = b"[" + b",".join(bodies) + b"]" if is_batch else bodies[0]
    sink.answer(faults.FAULTS[reason].status, [JSON], whole)


def accepted(sink: Sink) -> None:
    """Answer 202: the proxy takes responsibility for the notification or response (semantics 23)."""
    sink.answer(202, _ACCEPTED, b"")


def deleted(sink: Sink) -> None:
    """Answer that a session is over."""
    sink.answer(200, _DELETED, b"")


def observe_rejected(observer: Observer, reason: str) -> None:
    """Record a request that reached no session."""
    observer.request_rejected(RequestRejected(reason=reason, status=faults.FAULTS[reason].status))
