"""The head of a request: what is told of it, what is shared among heads, and what never is."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.core import headers as h
from proxy.core.head import Head
from proxy.core.headers import Block, Headers
from proxy.core.ids import UpstreamSessionId

ACCEPT = ("Accept", "application/json, text/event-stream")


def test_what_is_asked_often_is_told_at_once() -> None:
    """Session, revision, correlation id and cursor, in whatever letter case they came; None where there is none."""
    head = Head(
        "GET",
        "/mcp?a",
        [
            ("MCP-SESSION-ID", "s"),
            ("mcp-protocol-version", "2026-07-28"),
            ("x-REQUEST-id", "r"),
            ("LAST-event-id", "c"),
        ],
    )

    assert (head.method, head.path, head.session_id, head.version) == ("GET", "/mcp?a", "s", "2026-07-28")
    assert (head.is_modern, head.request_id, head.last_event_id) == (True, "r", "c")

    bare = Head("POST", "/", [])

    assert (bare.session_id, bare.version, bare.is_modern) == (None, None, False)
    assert (bare.request_id, bare.last_event_id, bare.headers) == (None, None, [])


def test_only_a_stream_has_a_cursor() -> None:
    """What another method says there is a header like others."""
    for method in ("POST", "DELETE"):
        assert Head(method, "/", [("Last-Event-ID", "c")]).last_event_id is None


def test_what_a_client_accepts_is_found_out_once() -> None:
    """And for all heads that share it."""
    headers: Headers = [ACCEPT]
    head = Head("POST", "/", headers)

    assert head.accepts_sse

    headers.clear()

    assert head.accepts_sse
    assert head.of("s").accepts_sse
    assert not Head("POST", "/", headers).accepts_sse
    assert not Head("POST", "/", [("Accept", "application/json")]).accepts_sse


def test_the_same_head_may_be_of_another_session() -> None:
    """All but session id and cursor is the same, the place of those in the headers too; neither changes the other."""
    first = Head("GET", "/mcp", [("A", "1"), ("MCP-session-ID", "one"), ("Last-Event-ID", "c1"), ACCEPT])
    second = first.of("two", "c2")
    third = second.of("three", "c3")

    assert second.headers == [("A", "1"), ("MCP-session-ID", "two"), ("Last-Event-ID", "c2"), ACCEPT]
    assert third.headers == [("A", "1"), ("MCP-session-ID", "three"), ("Last-Event-ID", "c3"), ACCEPT]
    assert first.headers == [("A", "1"), ("MCP-session-ID", "one"), ("Last-Event-ID", "c1"), ACCEPT]
    assert [head.session_id for head in (first, second, third)] == ["one", "two", "three"]
    assert [head.last_event_id for head in (first, second, third)] == ["c1", "c2", "c3"]
    assert first.findings is second.findings is third.findings
    assert (second.method, second.path, second.version, second.request_id) == ("GET", "/mcp", None, None)


def test_a_head_without_a_session_may_have_another_cursor() -> None:
    """It gets no session by that."""
    head = Head("GET", "/mcp", [("Last-Event-ID", "c1"), ACCEPT]).of(None, "c2")

    assert head.headers == [("Last-Event-ID", "c2"), ACCEPT]
    assert head.session_id is None


def test_another_methods_cursor_stays_as_it_came() -> None:
    """It is no part of what differs from session to session."""
    head = Head("POST", "/", [("Mcp-Session-Id", "one"), ("Last-Event-ID", "c")]).of("two")

    assert head.headers == [("Mcp-Session-Id", "two"), ("Last-Event-ID", "c")]


def test_what_is_sent_in_an_upstream_session_is_made_once() -> None:
    """For as long as it is the same one; a rebuilt session has its own, and another client's head too."""
    forwarded = Block([("A", "1")])
    head = Head("POST", "/", [("Mcp-Session-Id", "s")])
    other = head.of("t")
    one, two = UpstreamSessionId("up-1"), UpstreamSessionId("up-2")

    assert head.bound(forwarded, None) is forwarded

    bound = head.bound(forwarded, one)

    assert bound == [("A", "1"), ("Mcp-Session-Id", "up-1")]
    assert head.bound(forwarded, one) is bound
    assert other.bound(forwarded, two) == [("A", "1"), ("Mcp-Session-Id", "up-2")]
    assert head.bound(forwarded, one) is bound
    assert head.bound(forwarded, two) == [("A", "1"), ("Mcp-Session-Id", "up-2")]
    assert head.bound(forwarded, one) == bound
    assert forwarded == [("A", "1")]


NAMES = st.sampled_from(["Mcp-Session-Id", "mcp-session-id", "Last-Event-ID", "Content-Length", "A", "Host", "Accept"])


@given(st.lists(st.tuples(NAMES, st.sampled_from(["x", "y"])), unique_by=lambda pair: pair[0].lower()))
def test_what_heads_share_says_nothing_of_a_session(pairs: Headers) -> None:
    """What goes upstream and what is accepted is the same whatever session id and cursor a head has."""
    head = Head("GET", "/", pairs)
    other = head.of(head.session_id and "other", head.last_event_id and "other")

    assert h.forward_request(other.headers) == h.forward_request(head.headers)
    assert h.accepts_sse(other.headers) == h.accepts_sse(head.headers)
    assert [name for name, _ in other.headers] == [name for name, _ in head.headers]
