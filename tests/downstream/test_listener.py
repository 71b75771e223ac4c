"""What comes before any session: path, Host, Origin, method, headers, and who a request is for."""

import pytest

from proxy.core import headers as h
from support.fakes import FakeSink, initialize_answer, initialize_body, request_body
from support.scenes import Front, reason

GET = [("Accept", "text/event-stream")]


def _opened(front: Front) -> str:
    """Open a session and return its id."""
    sink = front.post(initialize_body(request_id="init"))
    front.edge.last.json(200, initialize_answer(request_id="init"), [(h.SESSION_ID, "up-1")])
    session_id = sink.header(h.SESSION_ID)
    assert session_id is not None
    return session_id


def _rejected(front: Front) -> list[tuple[str, int]]:
    return [(record.reason, record.status) for record in front.observer.of("request_rejected")]


# -- path, Host, Origin (semantics 29)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp?x=1"])
def test_the_endpoint_is_found(path: str):
    """With or without a slash at the end, and with a query."""
    front = Front()
    sink = front.handle("POST", request_body("ping", 1), path=path)

    assert sink.status is None
    assert len(front.edge.open) == 1


@pytest.mark.parametrize("path", ["/", "/mcp2", "/MCP", "/mcp/x", "//mcp"])
def test_another_path_gets_404(path: str):
    """And the answer names the endpoint, never a session."""
    front = Front()
    session_id = _opened(front)
    sink = front.handle("POST", request_body("ping", 1), path=path)

    assert (sink.status, reason(sink)) == (404, "no_such_path")
    assert session_id not in sink.text


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:9", "[::1]:80", "LOCALHOST"])
def test_loopback_hosts_are_accepted(host: str):
    """On a loopback listener, whatever the port."""
    front = Front()

    assert front.handle("POST", request_body("ping", 1), host=host).status is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", None])
def test_other_hosts_are_refused(host: str | None):
    """A page must not reach a loopback listener under a name of its own (rebinding)."""
    front = Front()
    sink = front.handle("POST", request_body("ping", 1), host=host)

    assert (sink.status, reason(sink)) == (403, "bad_host")
    assert front.edge.open == []


def test_a_configured_host_is_accepted():
    """`listen.allowed_hosts` adds names."""
    front = Front(allowed_hosts=("proxy.example",))

    assert front.handle("POST", request_body("ping", 1), host="proxy.example:443").status is None


@pytest.mark.parametrize("origin", ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:1"])
def test_loopback_origins_are_accepted(origin: str):
    """A page of this machine may ask."""
    front = Front()

    assert front.handle("POST", request_body("ping", 1), headers=[("Origin", origin)]).status is None


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
def test_other_origins_get_403(method: str, origin: str):
    """An invalid `Origin` must be refused, on every method (transport spec)."""
    front = Front()
    headers = [*GET, (h.SESSION_ID, _opened(front)), ("Origin", origin)]
    sink = front.handle(method, request_body("ping", 1), headers=headers)

    assert (sink.status, reason(sink)) == (403, "bad_origin")
    assert len(front.registry) == 1
    assert _rejected(front) == [("bad_origin", 403)]


def test_a_configured_origin_is_accepted():
    """`listen.allowed_origins` adds pages."""
    front = Front(allowed_origins=("https://app.example",))

    assert front.handle("POST", request_body("ping", 1), headers=[("Origin", "https://app.example")]).status is None


# -- methods and headers


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_get_405(method: str):
    """With the list of those that are allowed (RFC 9110)."""
    sink = Front().handle(method)

    assert (sink.status, sink.header("Allow")) == (405, "GET, POST, DELETE")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (h.SESSION_ID, ("a", "b")),
        (h.PROTOCOL_VERSION, ("2025-11-25", "2026-07-28")),
        (h.LAST_EVENT_ID, ("x", "y")),
        ("Content-Type", ("application/json", "text/plain")),
    ],
)
def test_a_header_that_says_two_things_gets_400(name: str, values: tuple[str, str]):
    """Between two different values there is no right choice; letter case does not hide them."""
    front = Front()
    headers = [(name, values[0]), (name.upper(), values[1])]
    sink = front.handle("POST", request_body("ping", 1), headers=headers)

    assert (sink.status, reason(sink)) == (400, "duplicate_header")
    assert sink.json()["error"]["data"]["header"] == name
    assert front.edge.open == []


def test_a_header_that_says_one_thing_twice_is_fine():
    """The same value again leaves no doubt."""
    front = Front()
    sink = front.post(request_body("ping", 1), headers=[("Content-Type", "application/json")])

    assert sink.status is None


def test_the_session_header_is_found_in_any_letter_case():
    """Some clients send it lower, some upper."""
    front = Front()
    session_id = _opened(front)
    front.handle("POST", request_body("ping", 1), headers=[("MCP-SESSION-ID", session_id)])

    assert front.edge.last.upstream_id == "up-1"


# -- sessions


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_an_unknown_session_gets_404(method: str):
    """On every method; the body lists no session that lives."""
    front = Front()
    session_id = _opened(front)
    sink = front.handle(method, request_body("ping", 7), headers=[*GET, (h.SESSION_ID, "unknown")])

    assert (sink.status, sink.json()["error"]["code"]) == (404, -32001)
    assert sink.json()["id"] == (7 if method == "POST" else None)
    assert session_id not in sink.text
    assert front.edge.open == []


def test_an_upstreams_id_opens_nothing():
    """Only ids the proxy has minted name a session: the upstream's own is unknown here."""
    front = Front()
    _opened(front)

    assert front.post(request_body("ping", 1), session_id="up-1").status == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_need_a_session_id(method: str):
    """400 without one; only POSTs are forwarded without an id (semantics 22)."""
    front = Front()
    sink = front.handle(method, headers=GET)

    assert (sink.status, reason(sink)) == (400, "missing_session")
    assert front.edge.open == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_modern_get_or_delete_gets_405(method: str):
    """The modern transport has POST only, whatever id is sent along."""
    front = Front()
    headers = [*GET, (h.PROTOCOL_VERSION, "2026-07-28"), (h.SESSION_ID, _opened(front))]
    sink = front.handle(method, headers=headers)

    assert sink.status == 405
    assert len(front.registry) == 1


def test_a_get_with_an_unknown_version_gets_400():
    """A bad `MCP-Protocol-Version` must be refused (transport spec)."""
    front = Front()
    headers = [*GET, (h.SESSION_ID, _opened(front)), (h.PROTOCOL_VERSION, "1999-01-01")]
    sink = front.handle("GET", headers=headers)

    assert (sink.status, reason(sink)) == (400, "bad_version")


def test_a_get_that_takes_no_stream_gets_406():
    """There is nothing else to answer it with."""
    front = Front()
    headers = [("Accept", "application/json"), (h.SESSION_ID, _opened(front))]

    assert front.handle("GET", headers=headers).status == 406


def test_a_get_opens_the_standalone_stream():
    """It reaches the session it names."""
    front = Front()
    front.handle("GET", headers=[*GET, (h.SESSION_ID, _opened(front))])

    assert front.edge.one(method="GET").upstream_id == "up-1"


def test_delete_ends_the_session():
    """200 for the client, DELETE with the live credentials for the upstream, 404 from then on (point 8)."""
    front = Front()
    session_id = _opened(front)
    headers = [(h.SESSION_ID, session_id), ("Authorization", "Bearer new")]
    sink = front.handle("DELETE", headers=headers)
    farewell = front.edge.one(method="DELETE")

    assert (sink.status, sink.body) == (200, b"")
    assert (farewell.upstream_id, farewell.header("Authorization")) == ("up-1", "Bearer new")
    assert front.handle("DELETE", headers=headers).status == 404
    assert front.post(request_body("ping", 1), session_id=session_id).status == 404
    assert len(front.edge.find(method="DELETE")) == 1


def test_a_session_is_never_ended_for_a_new_one():
    """At `max_sessions` an `initialize` is refused as 200 with its id, and is not sent."""
    front = Front(max_sessions=1)
    session_id = _opened(front)
    before = len(front.edge.attempts)
    sink = front.post(initialize_body(request_id="second"))

    assert (sink.status, reason(sink), sink.json()["id"]) == (200, "too_many_sessions", "second")
    assert front.registry.find(session_id) is not None
    assert len(front.edge.attempts) == before


def test_a_draining_proxy_takes_no_new_session():
    """503 for `initialize` and for a GET, while running calls go on."""
    front = Front()
    session_id = _opened(front)
    call = front.post(request_body("tools/call", 1), session_id=session_id)
    attempt = front.edge.last
    front.registry.begin_drain()

    assert front.post(initialize_body()).status == 503
    assert front.handle("GET", headers=[*GET, (h.SESSION_ID, session_id)]).status == 503

    attempt.json()

    assert call.json()["id"] == 1


def test_initialize_as_a_notification_is_none():
    """Without an id it opens nothing; it is forwarded like any other message."""
    front = Front()
    front.post(b'{"jsonrpc":"2.0","method":"initialize","params":{}}')
    front.edge.last.answer(202)

    assert len(front.registry) == 0


def test_every_rejection_is_one_whole_json_answer():
    """JSON-RPC errors marked as the proxy's own, ended cleanly."""
    front = Front()
    sinks: list[FakeSink] = [
        front.handle("PUT"),
        front.handle("GET"),
        front.handle("POST", path="/x"),
        front.post(b"{}", session_id="unknown"),
    ]

    assert all(sink.finished for sink in sinks)
    assert all(sink.header("Content-Type") == "application/json" for sink in sinks)
    assert [reason(sink) for sink in sinks] == ["method", "missing_session", "no_such_path", "unknown_session"]
    assert _rejected(front) == [
        ("method", 405),
        ("missing_session", 400),
        ("no_such_path", 404),
        ("unknown_session", 404),
    ]
