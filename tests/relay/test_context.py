"""What all sessions share: ids that follow a request, and the headers that go upstream."""

import pytest

from proxy.core import headers as h
from proxy.core.head import Head
from proxy.core.ids import UpstreamSessionId
from support.fakes import FakeClock, edge_of, make_context

CLIENT = [
    ("Authorization", "Bearer one"),
    ("Cookie", "a=1"),
    ("X-Tenant", "blue"),
    ("Accept", "application/json, text/event-stream"),
    ("Content-Type", "application/json"),
    ("Content-Encoding", "gzip"),
    ("MCP-Protocol-Version", "2025-06-18"),
    ("Mcp-Method", "tools/call"),
    ("Mcp-Name", "add"),
    ("traceparent", "00-1-2-01"),
    ("tracestate", "a=b"),
    ("Mcp-Session-Id", "ours"),
    ("Last-Event-ID", "0123456789ab-s-1"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("Host", "proxy"),
    ("Content-Length", "2"),
    ("Accept-Encoding", "gzip"),
]


def test_correlation_ids_differ() -> None:
    """Each is new, and all of one process share what tells it from others."""
    ctx = make_context()
    ids = [ctx.correlation_id() for _ in range(20)]

    assert len(set(ids)) == 20
    assert len({text.partition("-")[0] for text in ids}) == 1


def test_processes_are_told_apart() -> None:
    """The shared part is drawn from the clock's entropy."""
    ctx = make_context()
    other = make_context()
    other.clock = FakeClock()
    other.clock.entropy(1)
    other.__post_init__()

    assert ctx.correlation_id() != other.correlation_id()


def test_a_clients_headers_go_upstream_without_what_is_ours() -> None:
    """Session id, cursor, host and framing stay here; what comes back must not be compressed."""
    headers = make_context().forward(Head("POST", "/mcp", CLIENT))
    names = [name.lower() for name, _ in headers]

    for own in ("mcp-session-id", "last-event-id", "host", "content-length", "x-forwarded-for"):
        assert own not in names
    assert h.get_all(headers, "Accept-Encoding") == ["identity"]
    assert headers[:10] == CLIENT[:5] + CLIENT[5:10]


@pytest.mark.parametrize("is_trusted", [False, True])
def test_forwarded_headers_pass_where_they_are_trusted(is_trusted: bool) -> None:
    """Only then: a client could otherwise claim any origin."""
    headers = make_context(trust_forwarded=is_trusted).forward(Head("POST", "/mcp", CLIENT))

    assert h.get_all(headers, "X-Forwarded-For") == (["10.0.0.1"] if is_trusted else [])


def test_a_request_keeps_the_id_its_client_gave() -> None:
    """One id follows it through all logs; it is not written twice."""
    ctx = make_context()
    head = Head("POST", "/mcp", [("x-request-id", "abc")])
    correlation_id = ctx.correlate(head)

    assert correlation_id == "abc"
    assert h.get_all(ctx.request(head, b"{}", correlation_id).all_headers, "X-Request-Id") == ["abc"]


def test_a_request_without_an_id_gets_one() -> None:
    """Each request its own, although the head it came with is forwarded only once."""
    ctx = make_context()
    head = Head("POST", "/mcp", CLIENT)
    first, second = ctx.correlate(head), ctx.correlate(head)

    assert first != second
    for correlation_id in (first, second):
        request = ctx.request(head, b"{}", correlation_id)
        assert h.get_all(request.all_headers, "X-Request-Id") == [correlation_id]


def test_a_repeated_head_follows_its_session_to_another_upstream_session() -> None:
    """What is kept for a head is kept for one upstream id; after a rebuild the head goes out with the new one."""
    ctx = make_context()
    head = Head("POST", "/mcp", CLIENT)

    for upstream_id in ("up-1", "up-1", "up-2", None, "up-2"):
        request = ctx.request(head, b"{}", "c", UpstreamSessionId(upstream_id) if upstream_id else None)
        assert h.get_all(request.headers, h.SESSION_ID) == ([upstream_id] if upstream_id else [])


@pytest.mark.parametrize("is_get", [False, True])
def test_the_proxys_own_requests_carry_the_credentials_alone(is_get: bool) -> None:
    """Whatever identifies the client goes along, nothing that belongs to its one request."""
    ctx = make_context()
    client = ctx.forward(Head("POST", "/mcp", CLIENT))
    headers = ctx.own_headers(client, version="2025-11-25", upstream_id=UpstreamSessionId("up-1"), is_get=is_get)

    for name in ("Content-Encoding", "Mcp-Method", "Mcp-Name", "traceparent", "tracestate"):
        assert h.get(headers, name) is None
    assert headers[:3] == CLIENT[:3]
    assert h.get_all(headers, "Accept") == ["text/event-stream" if is_get else "application/json, text/event-stream"]
    assert h.get_all(headers, "Content-Type") == ([] if is_get else ["application/json"])
    assert h.get_all(headers, h.PROTOCOL_VERSION) == ["2025-11-25"]
    assert h.get_all(headers, h.SESSION_ID) == ["up-1"]
    assert h.get_all(headers, "X-Request-Id") != h.get_all(client, "X-Request-Id")
    assert len(h.get_all(headers, "X-Request-Id")) == 1


def test_what_goes_with_the_proxys_own_requests_is_chosen_once() -> None:
    """For each version and kind; nothing of one session or request is in it, and other credentials are others."""
    ctx = make_context()
    client, other = (ctx.forward(Head("POST", "/mcp", [("Authorization", who)])) for who in ("one", "two"))
    for _ in range(2):
        for version, is_get in (("2025-11-25", False), ("2025-06-18", False), ("2025-11-25", True), (None, False)):
            for block, who in ((client, "one"), (other, "two")):
                own = ctx.own_headers(block, version=version, upstream_id=UpstreamSessionId(who), is_get=is_get)

                assert h.get(own, "Authorization") == who
                assert h.get_all(own, h.SESSION_ID) == [who]
                assert h.get(own, h.PROTOCOL_VERSION) == version
                assert (h.get(own, "Content-Type") is None) == is_get
    assert client.own is not None
    assert len(client.own) == 4
    assert not any(h.get(own, h.SESSION_ID) or h.get(own, "X-Request-Id") for own in client.own.values())


def test_a_handshake_names_neither_version_nor_session() -> None:
    """Before it is answered there are none."""
    headers = make_context().own_headers(CLIENT[:3], version=None, upstream_id=None)

    assert h.get(headers, h.PROTOCOL_VERSION) is None
    assert h.get(headers, h.SESSION_ID) is None


@pytest.mark.parametrize("version", [None, "2025-11-25"])
def test_an_upstream_session_is_ended_with_a_delete(version: str | None) -> None:
    """On a connection of its own, with the credentials and the upstream's id; a drain can wait for it."""
    ctx = make_context()

    ctx.end_upstream(ctx.pool.members[0], [("Authorization", "Bearer one")], UpstreamSessionId("up-1"), version)

    attempt = edge_of(ctx).last
    assert (attempt.method, attempt.request.body, attempt.request.fresh) == ("DELETE", b"", True)
    assert attempt.upstream_id == "up-1"
    assert attempt.header("Authorization") == "Bearer one"
    assert attempt.header(h.PROTOCOL_VERSION) == version
    assert len(ctx.farewells) == 1

    attempt.answer(200)

    assert not ctx.farewells
