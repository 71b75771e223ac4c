"""Headers: what crosses the proxy in either direction, what a client accepts, and who may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import headers as h
from proxy.core.headers import Block, Body

HOP_BY_HOP = [
    ("Connection", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"),
    ("Proxy-Authorization", "Basic eA=="),
    ("Proxy-Connection", "keep-alive"),
    ("TE", "trailers"),
    ("Trailer", "Expires"),
    ("Transfer-Encoding", "chunked"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAM"),
]


def test_look_ups_ignore_the_case_of_names():
    """A name is found in whatever letter case it was written, the first value first."""
    headers = [("MCP-SESSION-ID", "a"), ("x", "y"), ("mcp-session-id", "b")]

    assert h.get(headers, h.SESSION_ID) == "a"
    assert h.get_all(headers, h.SESSION_ID) == ["a", "b"]


def test_look_ups_tell_absence():
    """A name that is not there gives None, also where another has the same length."""
    headers = [("Mcp-Session-Ix", "a")]

    assert h.get(headers, h.SESSION_ID) is None
    assert h.get_all(headers, h.SESSION_ID) == []


@pytest.mark.parametrize("forward", [h.forward_request, h.forward_response])
@pytest.mark.parametrize("header", HOP_BY_HOP)
def test_hop_by_hop_headers_stop_at_the_proxy(forward, header):
    """What belongs to one connection is passed on in neither direction, in any letter case."""
    name, value = header

    assert forward([("A", "b"), header, (name.upper(), value), (name.lower(), value)]) == [("A", "b")]


@pytest.mark.parametrize("forward", [h.forward_request, h.forward_response])
def test_headers_named_by_connection_stop_at_the_proxy(forward):
    """The names listed in every Connection header are removed, wherever they stand."""
    headers = [
        ("X-Early", "1"),
        ("Connection", "close, x-early ,X-LATE"),
        ("x-late", "2"),
        ("Connection", "third"),
        ("Connection", "keep-alive"),
        ("Third", "3"),
        ("X-Other", "4"),
    ]

    assert forward(headers) == [("X-Other", "4")]


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Content-Length",
        "Mcp-Session-Id",
        "Last-Event-ID",
        "Accept-Encoding",
        "Expect",
        "MCP-SESSION-ID",
    ],
)
def test_what_the_proxy_writes_itself_is_not_forwarded(name):
    """Framing, the session id and the cursor of the client's side never reach the upstream."""
    assert h.forward_request([(name, "x"), ("A", "b")]) == [("A", "b")]


def test_everything_else_goes_upstream_in_order_and_case():
    """Credentials, cookies, tracing, MCP metadata and unknown headers pass untouched, repeated ones too."""
    headers = [
        ("Authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("COOKIE", "c=d"),
        ("traceparent", "00-1-2-01"),
        ("Mcp-Param-Region", "=?base64?eA==?="),
        ("Mcp-Method", "tools/call"),
        ("Origin", "http://localhost"),
        ("MCP-Protocol-Version", "2025-11-25"),
        ("Accept", "application/json, text/event-stream"),
        ("Content-Type", "application/json"),
        ("X-Forwarder", "kept"),
    ]

    assert h.forward_request(headers) == headers


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "x-forwarded-proto", "X-FORWARDED-ANYTHING", "Forwarded", "X-Real-IP"]
)
def test_forwarded_headers_need_trust(name):
    """What a client says about where a request came from is believed only where that is configured."""
    assert h.forward_request([(name, "1.2.3.4")]) == []
    assert h.forward_request([(name, "1.2.3.4")], trust_forwarded=True) == [(name, "1.2.3.4")]


def test_a_response_keeps_its_headers():
    """Only framing and the upstream's session id are taken off; Date and Server are the origin's."""
    kept = [
        ("Content-Type", "application/json"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Server", "origin"),
        ("Set-Cookie", "a=b"),
        ("Set-Cookie", "c=d"),
        ("WWW-Authenticate", "Bearer"),
        ("Retry-After", "1"),
    ]

    assert h.forward_response([("content-length", "3"), *kept, ("mcp-session-id", "up")]) == kept


@pytest.mark.parametrize("value", ["a\r\n b", "a\n\tb", "a\rb", "a\0b", "a\r\n\r\n  b"])
def test_a_folded_value_is_sent_on_in_one_line(value):
    """A line end inside a value becomes a space: rendered as it is, it would say two things, or nothing be sent."""
    forwarded = h.forward_response([("X-A", value), ("X-B", "c")])

    assert forwarded == [("X-A", "a b"), ("X-B", "c")]
    assert h.render(forwarded) == b"X-A: a b\r\nX-B: c\r\n"


NAMES = st.sampled_from([name for name, _ in HOP_BY_HOP] + ["Host", "A", "B", "X-Forwarded-For", "Content-Length"])


@given(st.lists(st.tuples(NAMES, st.sampled_from(["a", "b", "close", "a, host", ""]))))
def test_forwarding_only_ever_removes(headers):
    """What goes out is a part of what came in, in the same order, and forwarding it again changes nothing."""
    for forward in (h.forward_request, h.forward_response):
        kept = forward(list(headers))
        rest = iter(headers)

        assert all(header in rest for header in kept)
        assert forward(kept) == kept


@pytest.mark.parametrize(
    "accept",
    [
        ["application/json, text/event-stream"],
        ["text/event-stream"],
        ["*/*"],
        ["text/*"],
        ["Text/Event-Stream ; charset=utf-8"],
        ["application/json", "text/event-stream"],
        ["text/event-stream;q=0.001"],
        ["text/event-stream, */*;q=0"],
        ["*/*;q=0, text/*"],
        ["text/event-stream;q=1, text/event-stream;q=0"],
        ["application/json;q=0, */*;q=0.1"],
    ],
)
def test_an_event_stream_is_accepted(accept):
    """Any range that covers it will do, unless a more specific one refuses; several headers count as one."""
    assert h.accepts_sse([("Host", "x"), ("Origin", "y"), *(("aCCept", value) for value in accept)])


@pytest.mark.parametrize(
    "accept",
    [
        [],
        [""],
        ["application/json"],
        ["text/event-streams"],
        ["text/event-stream;q=0"],
        ["text/event-stream; q=0.000"],
        ["*/*, text/event-stream;q=0"],
        ["text/event-stream;q=0, text/*;q=1"],
        ["text/*;q=0, */*"],
        ["*/*;q=0"],
    ],
)
def test_an_event_stream_is_not_accepted(accept):
    """Without a range that covers it, or where the most specific one has q=0, no stream is opened."""
    assert not h.accepts_sse([("Accept", value) for value in accept])


def test_content_types_are_told_apart():
    """Parameters, blanks and letter case do not matter; other types and none at all are neither."""
    assert h.is_json("application/json")
    assert h.is_json("Application/JSON ; charset=utf-8")
    assert h.is_sse("text/event-stream;charset=utf-8")
    for other in (None, "", "application/jsonx", "text/plain", "x-text/event-stream"):
        assert not h.is_json(other)
        assert not h.is_sse(other)


def test_a_header_with_two_values_is_named():
    """Of the headers that must be single, those with two different values are told in a fixed order."""
    headers = [("last-event-id", "1"), ("MCP-SESSION-ID", "a"), ("Accept", "x"), ("Accept", "y")]

    assert h.duplicated_headers(headers) == []
    assert h.duplicated_headers([*headers, ("Mcp-Session-Id", "a")]) == []
    assert h.duplicated_headers([*headers, ("Last-Event-ID", "2"), ("Mcp-Session-Id", "b")]) == [
        "Mcp-Session-Id",
        "Last-Event-ID",
    ]
    assert h.duplicated_headers(headers, ["accept"]) == ["accept"]


@pytest.mark.parametrize(
    ("listen_host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.3.4", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("::1", True),
        ("[::1]", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("128.0.0.1", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_a_loopback_listener_is_recognised(listen_host, is_loopback):
    """Every spelling of a loopback address counts, no name but localhost does."""
    assert h.is_loopback(listen_host) is is_loopback


LOOPBACK_HOSTS = [
    "localhost",
    "LOCALHOST:8080",
    "127.0.0.1",
    "127.9.8.7:1",
    "[::1]",
    "[::1]:8080",
    "localhost:",
]
OTHER_HOSTS = [
    "example.com",
    "localhost.example.com",
    "127.0.0.1.example.com",
    "127.0.0.256",
    "127.1",
    "128.0.0.1",
    "0.0.0.0",
    "::1",
    "[::2]",
    "localhost:80:80",
    "localhost\n",
    "localho\u017ft",
    "user@localhost",
    "",
]


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_a_loopback_listener_takes_loopback_names(host):
    """Any loopback host and origin with any port is served on a loopback listener."""
    assert h.host_allowed(host, "127.0.0.1", ())
    assert h.origin_allowed(f"http://{host}", "::1", (), host)
    assert h.origin_allowed(f"HTTPS://{host}", "localhost", (), "localhost")


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_a_loopback_listener_refuses_other_names(host):
    """A name that a page's owner could point at this machine is refused, as host and as origin."""
    assert not h.host_allowed(host, "127.0.0.1", ())
    assert not h.origin_allowed(f"http://{host}", "127.0.0.1", (), host)


def test_a_loopback_listener_needs_a_host():
    """A request without Host is refused there; elsewhere only where hosts are configured."""
    assert not h.host_allowed(None, "127.0.0.1", ("example.com",))
    assert not h.host_allowed(None, "0.0.0.0", ("example.com",))
    assert h.host_allowed(None, "0.0.0.0", ())


@pytest.mark.parametrize(
    "origin", ["null", "", "localhost", "ftp://localhost", "file://", "http://", "https://localhost/x"]
)
def test_texts_that_are_no_web_origin_are_refused(origin):
    """An opaque or malformed origin is refused on any listener."""
    assert not h.origin_allowed(origin, "127.0.0.1", ("example.com",), "localhost")
    assert not h.origin_allowed(origin, "0.0.0.0", (), "localhost")


def test_no_origin_is_fine():
    """Clients that are no browsers send no Origin."""
    assert h.origin_allowed(None, "127.0.0.1", (), None)
    assert h.origin_allowed(None, "0.0.0.0", ("https://a.example",), "b.example")


@pytest.mark.parametrize("listen_host", ["127.0.0.1", "0.0.0.0"])
def test_configured_hosts_are_served(listen_host):
    """An entry without a port stands for any port, one with a port for that one, in any letter case."""
    allowed = ["MCP.example.com", "other.example:8443", "[fe80::1]"]

    for host in ("mcp.example.com", "mcp.EXAMPLE.com:1234", "other.example:8443", "[FE80::1]:99"):
        assert h.host_allowed(host, listen_host, allowed)
    for host in ("example.com", "x.mcp.example.com", "other.example", "other.example:80", "[fe80::2]"):
        assert not h.host_allowed(host, listen_host, allowed)


def test_another_listener_takes_any_host_unless_configured():
    """Off the loopback interface the proxy cannot know its names; once told, it insists on them."""
    assert h.host_allowed("anything.example", "0.0.0.0", ())
    assert not h.host_allowed("localhost", "0.0.0.0", ("mcp.example.com",))


@pytest.mark.parametrize("listen_host", ["127.0.0.1", "0.0.0.0"])
def test_configured_origins_are_served(listen_host):
    """An entry is a whole origin (of an application too), a host, or a host with port."""
    allowed = ["https://App.example:8443", "plain.example", "port.example:81", "vscode-webview://abc", "null"]

    for origin in (
        "https://app.EXAMPLE:8443",
        "http://plain.example:1",
        "https://plain.example",
        "http://port.example:81",
        "vscode-webview://abc",
        "null",
    ):
        assert h.origin_allowed(origin, listen_host, allowed, "else.example")
    for origin in (
        "https://app.example",
        "http://app.example:8443",
        "http://port.example",
        "vscode-webview://x",
    ):
        assert not h.origin_allowed(origin, listen_host, allowed, "else.example")


def test_another_listener_takes_its_own_pages():
    """Off the loopback interface an origin with the host of the Host header is served, whatever the ports."""
    assert h.origin_allowed("https://mcp.example", "0.0.0.0", (), "MCP.example:8080")
    assert not h.origin_allowed("https://evil.example", "0.0.0.0", (), "mcp.example")
    assert not h.origin_allowed("https://mcp.example.evil", "0.0.0.0", (), "mcp.example")
    assert not h.origin_allowed("https://mcp.example", "0.0.0.0", (), None)
    assert not h.origin_allowed("https://a b", "0.0.0.0", (), "a b")


SSE = ("Content-Type", "text/event-stream")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([SSE], Body.STREAM),
        ([("content-type", "Text/Event-Stream; charset=utf-8")], Body.STREAM),
        ([SSE, ("Content-Encoding", "identity")], Body.STREAM),
        ([SSE, ("content-encoding", "gzip")], Body.UNREADABLE),
        ([("Content-Encoding", "gzip"), SSE], Body.UNREADABLE),
        ([("Content-Type", "application/json")], Body.PLAIN),
        ([("Content-Type", "application/json"), ("Content-Encoding", "gzip")], Body.PLAIN),
        ([], Body.PLAIN),
    ],
)
def test_a_head_says_what_kind_of_body_follows(headers, body):
    """A stream, one that cannot be read, or anything else; a block says the same as its pairs."""
    block = Block(headers)

    assert h.body_of(headers) is h.body_of(block) is h.body_of(block) is body


@pytest.mark.parametrize(("coding", "is_encoded"), [(None, False), ("", False), ("identity", False), ("gzip", True)])
def test_a_content_coding_is_told(coding, is_encoded):
    """None and `identity` are none."""
    assert h.is_encoded([] if coding is None else [("content-ENCODING", coding)]) is is_encoded


def test_a_head_with_a_session_id_is_told_apart():
    """In whatever letter case it is; a block says the same as its pairs."""
    for headers, names in (([("mcp-SESSION-id", "")], True), ([("Mcp-Session", "a")], False), ([], False)):
        block = Block(headers)

        assert h.names_session(headers) is h.names_session(block) is h.names_session(block) is names


def test_a_block_is_asked_once():
    """What was worked out of it is kept beside it, and never beside headers that are no block."""
    block = Block([SSE, ("Mcp-Session-Id", "a"), ("Connection", "y"), ("X", "1"), ("Y", "2")])
    onward = h.forward_response(block)

    assert onward == [SSE, ("X", "1")]
    assert h.forward_response(block) is onward
    assert h.body_of(block) is Body.STREAM
    assert h.names_session(block)

    block.clear()

    assert h.forward_response(block) is onward
    assert h.body_of(block) is Body.STREAM
    assert h.names_session(block)

    pairs = [SSE]

    assert h.forward_response(pairs) is not h.forward_response(pairs)


FIELDS = st.tuples(st.text("abX-", min_size=1, max_size=4), st.text("xyz é\r\n\0", max_size=4))


@given(st.lists(FIELDS, max_size=4), st.text("!~az09-", min_size=1, max_size=8))
def test_a_block_of_a_session_is_written_as_any_other(pairs, session_id):
    """The first and every later one: what is kept ready is what would be written; what cannot be is not."""
    block = Block(pairs)
    for session in (session_id, "other", session_id):
        bound = block.of_session(session)

        assert bound == [*pairs, (h.SESSION_ID, session)]
        if any(set(value) & set("\r\n\0") for _, value in pairs):
            assert bound.rendered is None
        else:
            assert bound.rendered == h.render(bound)


def test_what_an_edge_made_of_a_block_is_no_business_of_its_sessions():
    """An upstream with headers of its own writes others."""
    block = Block([("X", "1")])
    block.rendered = ("own", b"X: 2\r\n")

    assert block.of_session("a").rendered is None
    assert block.rendered == ("own", b"X: 2\r\n")


def test_a_block_is_a_list_to_whoever_reads_it():
    """Equal to its pairs, made of any of them, and with nothing worked out yet."""
    block = Block(iter([SSE, ("X", "1")]))

    assert block == [SSE, ("X", "1")]
    assert [*block] == [SSE, ("X", "1")]
    assert (block.rendered, block.onward, block.streamed, block.own, block.is_of_session, block.body) == (None,) * 6
    assert Block() == []


def test_headers_are_written_as_they_came():
    """One line each, in order and case, with the bytes that were no UTF-8."""
    undecodable = b"\xe9".decode("utf-8", "surrogateescape")

    assert h.render([("X-a", "1"), ("x-A", "é"), ("E", ""), ("R", undecodable)]) == (
        b"X-a: 1\r\nx-A: \xc3\xa9\r\nE: \r\nR: \xe9\r\n"
    )
    assert h.render([]) == b""


@pytest.mark.parametrize("text", ["a\r\nY: b", "a\nb", "a\rb", "a\r", "\n", "a\0b", "\ud800"])
def test_no_header_says_more_than_one_line(text):
    """In its name or in its value, and whatever stands around it."""
    for pair in (("X", text), (text, "a")):
        with pytest.raises(ValueError):
            h.render([("A", "b"), pair, ("C", "d")])
