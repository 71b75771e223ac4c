"""Every error the proxy itself can answer with, in one table.

Owns the codes, the words and the statuses; knows nothing of when they are sent beyond what the table says.
`analysis/errors.md` is generated from it. Invariant: an error that answers a request inside a live session goes out
as 200 (some SDK versions abandon the whole client on a 4xx or 5xx to a POST); 404 means that the session is gone and
nothing else.
"""

from typing import Any

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.ids import RequestId
from proxy.core.jsonrpc import error_body

ORIGIN = "mcp-session-proxy"

OUTCOME_UNKNOWN = -32050
UNAVAILABLE = -32051
OVERLOADED = -32052
SESSION_CLOSED = -32053
UNUSABLE = -32054
INVALID_REQUEST = -32600
SESSION_NOT_FOUND = -32001
"""What the official servers answer an unknown session with."""


@mypyc_attr(native_class=False)
class Fault(msgspec.Struct, frozen=True):
    """One row: `data.reason` is its name."""

    reason: str
    status: int
    code: int
    outcome: str
    """`unknown`: may have run; `not_run`: provably did not; `refused`: the upstream said no; `none`: no call."""
    message: str
    when: str


_ROWS = (
    Fault(
        "connection_broken", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: the connection to the server broke before its answer was whole",
        "the upstream's connection ends after the request may have been read and before a whole answer",
    ),
    Fault(
        "stream_broken", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: the server's stream broke before the answer and could not be resumed",
        "a call's event stream is cut and there is no upstream cursor, or resuming with it failed",
    ),
    Fault(
        "upstream_silent", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: the server fell silent and answers no ping",
        "no bytes for `silence_seconds`, then two pings failed",
    ),
    Fault(
        "upstream_session_lost", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: the server lost the session this call ran in",
        "a ping or a resume shows that the upstream session of a running call is gone",
    ),
    Fault(
        "drained", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: the server was taken out of service while the call ran",
        "a call still runs in a drained upstream when `swap.drain_timeout_seconds` are over",
    ),
    Fault(
        "task_lost", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: the task was lost with the server's session that ran it",
        "a request about a task whose upstream session is gone",
    ),
    Fault(
        "gateway_error", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: something in front of the server answered for it",
        "502, 503 or 504 without a JSON-RPC body; `data.http_status` tells which",
    ),
    Fault(
        "gap", 200, OUTCOME_UNKNOWN, "unknown",
        "outcome unknown: the answer is no longer in the replay window",
        "a resume below the window of a call stream whose result is not retained",
    ),
    Fault(
        "cancelled", 200, OUTCOME_UNKNOWN, "unknown",
        "the call was cancelled and the server sent no answer",
        "the upstream ends a cancelled call without a response, or leaves it without one for 5 seconds",
    ),
    Fault(
        "cancelled_unsent", 200, UNAVAILABLE, "not_run",
        "the call was cancelled before it was sent",
        "a cancel for a call that still waits for the upstream",
    ),
    Fault(
        "unreachable", 200, UNAVAILABLE, "not_run",
        "the server cannot be reached; the call did not run",
        "no connection for the whole of `rebuild_wait_seconds`, refused or otherwise",
    ),
    Fault(
        "discover_unreachable", 503, UNAVAILABLE, "not_run",
        "the server cannot be reached",
        "`server/discover` without an answer for `discover_wait_seconds`; 200 would end some clients' era",
    ),
    Fault(
        "closed_unsent", 200, SESSION_CLOSED, "not_run",
        "the session was closed before the call was sent",
        "a call still waits for the upstream when its session ends",
    ),
    Fault(
        "rebuild_refused", 200, UNAVAILABLE, "not_run",
        "the server refused the session's handshake; the call did not run",
        "the stored handshake is answered with an error; `data.http_status` or `data.upstream_error` tells which",
    ),
    Fault(
        "version_mismatch", 200, UNAVAILABLE, "not_run",
        "the server came back with another protocol version and cannot host this session; the call did not run",
        "the stored handshake is answered with another version than the client negotiated",
    ),
    Fault(
        "too_many_calls", 200, OVERLOADED, "not_run",
        "too many calls in flight in this session; the call did not run",
        "more than `session.max_calls` requests without an answer",
    ),
    Fault(
        "too_many_bytes", 200, OVERLOADED, "not_run",
        "the requests under way fill the proxy's memory; the call did not run",
        "bodies of calls under way above `replay.bytes_total` for the process",
    ),
    Fault(
        "queue_full", 200, OVERLOADED, "not_run",
        "the server is overloaded; the call did not run",
        "no room at the upstream and `upstream.queue_limit` calls wait already; `data.retry_after_seconds`",
    ),
    Fault(
        "queue_timeout", 200, OVERLOADED, "not_run",
        "the server is overloaded; the call did not run",
        "no room at the upstream for `upstream.queue_timeout_seconds`; `data.retry_after_seconds`",
    ),
    Fault(
        "too_many_sessions", 200, OVERLOADED, "not_run",
        "the proxy holds as many sessions as it may",
        "an `initialize` at `session.max_sessions`",
    ),
    Fault(
        "session_closed", 200, SESSION_CLOSED, "unknown",
        "outcome unknown: the session was closed while the call ran",
        "DELETE, expiry or the end of its lifetime during a call",
    ),
    Fault(
        "shutdown", 200, SESSION_CLOSED, "unknown",
        "outcome unknown: the proxy is shutting down",
        "a call still runs when `drain_seconds` are over",
    ),
    Fault(
        "answer_too_large", 200, UNUSABLE, "unknown",
        "the server's answer is larger than the proxy passes on",
        "a body or a frame above `upstream.max_message_bytes`, or one that the process has no room for",
    ),
    Fault(
        "answer_unusable", 200, UNUSABLE, "unknown",
        "the server's answer cannot be passed on",
        "an answer that is no JSON where one is needed, or an encoded event stream",
    ),
    Fault(
        "redirected", 200, UNUSABLE, "unknown",
        "the server redirects to another address; configure that one as the upstream's url",
        "any 3xx; `data.location` tells where to",
    ),
    Fault(
        "http_status", 200, UNUSABLE, "refused",
        "the server refused the call",
        "a 4xx after the event stream to the client had begun; `data.http_status`",
    ),
    Fault(
        "http_error", 200, UNUSABLE, "unknown",
        "outcome unknown: the server failed while it ran the call",
        "a 5xx after the event stream to the client had begun; `data.http_status`",
    ),
    Fault(
        "id_in_use", 200, INVALID_REQUEST, "not_run",
        "a request with this id and another body is still running",
        "a POST with an id in flight whose body differs",
    ),
    Fault(
        "unknown_session", 404, SESSION_NOT_FOUND, "none",
        "Session not found", "a session id that the proxy does not hold: never issued, deleted or expired",
    ),
    Fault(
        "missing_session", 400, INVALID_REQUEST, "none",
        "Mcp-Session-Id header required", "GET or DELETE without a session id",
    ),
    Fault(
        "bad_cursor", 400, INVALID_REQUEST, "none",
        "Last-Event-ID: not an event id of this session", "a malformed or forged cursor",
    ),
    Fault(
        "bad_version", 400, INVALID_REQUEST, "none",
        "MCP-Protocol-Version: unsupported", "GET with a version header that names no known revision",
    ),
    Fault(
        "duplicate_header", 400, INVALID_REQUEST, "none",
        "a header that may stand once stands twice with different values",
        "any request; `data.header` names the header",
    ),
    Fault(
        "bad_origin", 403, INVALID_REQUEST, "none",
        "Origin: not allowed here", "an Origin that is neither loopback on a loopback listener nor configured",
    ),
    Fault(
        "bad_host", 403, INVALID_REQUEST, "none",
        "Host: not allowed here", "a Host that is neither loopback on a loopback listener nor configured",
    ),
    Fault(
        "no_such_path", 404, INVALID_REQUEST, "none",
        "no MCP endpoint at this path", "any path that no route has",
    ),
    Fault(
        "method", 405, INVALID_REQUEST, "none",
        "method not allowed", "any method but POST, GET and DELETE; GET and DELETE with a modern version header",
    ),
    Fault(
        "finished", 405, INVALID_REQUEST, "none",
        "this stream is complete and was delivered", "a resume at or past the end of a call stream",
    ),
    Fault(
        "forgotten", 405, INVALID_REQUEST, "none",
        "this stream is no longer remembered", "a resume of a call stream beyond the bounded tombstones",
    ),
    Fault(
        "not_acceptable", 406, INVALID_REQUEST, "none",
        "Accept: text/event-stream required", "a GET that accepts no event stream",
    ),
    Fault(
        "body_too_large", 413, INVALID_REQUEST, "none",
        "request body too large", "a body above `listen.max_body_bytes`",
    ),
    Fault(
        "body_timeout", 408, INVALID_REQUEST, "none",
        "the request's body did not arrive in time", "a body slower than `listen.head_timeout_seconds`",
    ),
    Fault(
        "draining", 503, SESSION_CLOSED, "not_run",
        "the proxy is shutting down", "an `initialize` or a GET while the proxy drains",
    ),
)  # fmt: skip

FAULTS = {fault.reason: fault for fault in _ROWS}


def body(reason: str, request_id: RequestId | None, **more: Any) -> bytes:
    """Return the JSON-RPC error for a row of the table; *more* goes into `data`."""
    fault = FAULTS[reason]
    data = {"origin": ORIGIN, "reason": reason, "outcome": fault.outcome, **more}
    return error_body(request_id, fault.code, fault.message, data)
