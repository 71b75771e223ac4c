"""Addresses, URLs, hosts, origins and headers as people write them, through the settings that take them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Listen, load, loads, parse_address
from proxy.config.address import header_problem, host_name_problem, label_problem, token_problem, tool_problem
from proxy.core.headers import SINGLE_VALUE, forward_request, is_loopback, render
from proxy.errors import ConfigError

INVALID: list[tuple[str, str, str]] = [
    # addresses
    ("[listen]\naddress = '8080'", "listen.address", "expected host:port, an IPv6 host in brackets"),
    ("[listen]\naddress = ':8080'", "listen.address", "expected host:port"),
    ("[listen]\naddress = '::1:8080'", "listen.address", "expected host:port, an IPv6 host in brackets"),
    ("[listen]\naddress = '127.0.0.1:'", "listen.address", "expected host:port"),
    ("[listen]\naddress = '127.0.0.1:-1'", "listen.address", "expected host:port"),
    ("[listen]\naddress = '127.0.0.1:65536'", "listen.address", "expected a port from 0 to 65535, got 65536"),
    ("[listen]\naddress = '[::g]:80'", "listen.address", "expected a host name or an IP address"),
    ("[listen]\naddress = '127.1:80'", "listen.address", "expected a host name or an IP address"),
    ("[listen]\naddress = 'http://a:80'", "listen.address", "expected host:port"),
    ("[listen]\naddress = 'a b:80'", "listen.address", "expected a host name or an IP address"),
    ("[listen]\naddress = 'fd:'", "listen.address", "expected fd:N with the number of an inherited descriptor"),
    ("[listen]\naddress = 'fd:-1'", "listen.address", "expected fd:N"),
    ("[listen]\naddress = 'fd:9999999999'", "listen.address", "expected fd:N"),
    ("[listen]\nallowed_hosts = ['fd:x']", "listen.allowed_hosts", "expected hosts as in a Host header"),
    ("[listen]\nallowed_hosts = ['http://a']", "listen.allowed_hosts", "expected hosts as in a Host header"),
    ("[listen]\nallowed_hosts = ['*']", "listen.allowed_hosts", "expected hosts as in a Host header"),
    (
        "[listen]\nallowed_origins = ['a.example']",
        "listen.allowed_origins",
        "expected origins as scheme://host",
    ),
    ("[listen]\nallowed_origins = ['*']", "listen.allowed_origins", "expected origins as scheme://host"),
    (
        "[listen]\nallowed_origins = ['http://a/']",
        "listen.allowed_origins",
        "expected origins as scheme://host",
    ),
    ("[listen]\npath = 'mcp'", "listen.path", "expected a path such as /mcp"),
    ("[listen]\npath = '/mcp?x'", "listen.path", "expected a path such as /mcp"),
    ("[listen]\npath = '/a/../b'", "listen.path", "expected a path such as /mcp"),
    ("[listen]\npath = '/{a}'", "listen.path", "expected a path such as /mcp"),
    # URLs
    ("[upstream]\nurl = ''", "upstream.url", "expected an http:// or https:// URL with a host"),
    ("[upstream]\nurl = 'localhost:3001'", "upstream.url", "expected an http:// or https:// URL with a host"),
    ("[upstream]\nurl = 'ftp://a/mcp'", "upstream.url", "expected an http:// or https:// URL with a host"),
    ("[upstream]\nurl = 'http:///mcp'", "upstream.url", "expected an http:// or https:// URL with a host"),
    ("[upstream]\nurl = 'http://a:b/mcp'", "upstream.url", "expected an http:// or https:// URL"),
    ("[upstream]\nurl = 'http://a:99999/'", "upstream.url", "expected an http:// or https:// URL"),
    ("[upstream]\nurl = 'http://[::1/'", "upstream.url", "expected an http:// or https:// URL"),
    ("[upstream]\nurl = 'http://a:0/'", "upstream.url", "with a port from 1"),
    ("[upstream]\nurl = 'http://a/mcp?x=1'", "upstream.url", "without query and fragment"),
    ("[upstream]\nurl = 'http://a/mcp?'", "upstream.url", "without query and fragment"),
    ("[upstream]\nurl = 'http://a/mcp#x'", "upstream.url", "without query and fragment"),
    (
        "[upstream]\nurl = 'http://u:p@a/mcp'",
        "upstream.url",
        "without user and password (let clients send a header",
    ),
    ("[upstream]\nurl = 'http://a/b c'", "upstream.url", "visible ASCII"),
    ('[upstream]\nurl = "http://a/b\\tc"', "upstream.url", "visible ASCII"),
    ("[upstream]\nurl = 'http://bücher.example/'", "upstream.url", "visible ASCII"),
]


@pytest.mark.parametrize(("text", "key", "problem"), INVALID, ids=[text[:60] for text, *_ in INVALID])
def test_unusable_text_is_refused(text: str, key: str, problem: str) -> None:
    """What cannot be listened on, reached or compared is told with what was expected."""
    with pytest.raises(ConfigError) as caught:
        loads(text)

    assert caught.value.key == key
    assert problem in caught.value.problem
    assert ", got " in caught.value.problem


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@a/",
        "user:hunter2@a",
        "http://a/?token=hunter2",
        "http://a:x/#hunter2",
        "ht tp://hunter2@a:z",
    ],
)
def test_credentials_are_not_repeated(url: str) -> None:
    """A password in a refused URL does not get into the message."""
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {"upstream.url": url})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    """Only what certainly stays on this machine is loopback."""
    assert is_loopback(host) is expected


@given(st.integers(0, 65535), st.sampled_from(["a", "127.0.0.1", "[::1]", "x-1.example"]))
def test_address_round_trip(port: int, host: str) -> None:
    """An address is split into exactly its host and its port."""
    assert parse_address(f"{host}:{port}") == (host.strip("[]"), port)


@given(st.integers(0, 999_999_999))
def test_a_descriptor_is_named_by_its_number(number: int) -> None:
    """`fd:N` is no host called fd: until its socket is taken it is judged as the strictest kind, loopback."""
    listen = loads(f"[listen]\naddress = 'fd:{number}'").listen

    assert (listen.descriptor, listen.port) == (number, 0)
    assert is_loopback(listen.host)


def test_an_address_is_no_descriptor() -> None:
    """A host that is called fd is told from it by a dot."""
    assert Listen().descriptor is None
    assert Listen(address="fd.:3", allow_anonymous=True).descriptor is None
    assert (Listen(address="fd.:3").host, Listen(address="fd.:3").port) == ("fd.", 3)


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "x_y.z", "!#$%&'*+-.^_`|~09aZ", "Cookie", "User-Agent"])
@pytest.mark.parametrize("value", ["", "a", "Bearer a.b==", 'a, b;\tc="d"'])
def test_headers_that_can_be_set(name: str, value: str) -> None:
    """Any other token is a name, and visible ASCII is a value."""
    assert header_problem(name, value) == ""


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "a\0", "é", "a(b)", "a,b", "[a]"])
def test_names_that_no_header_has(name: str) -> None:
    """A name is a token: nothing in it can end the name or the line."""
    assert header_problem(name, "x").startswith("expected a header name, got ")


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\n", "\ra", "a\0b", "é", "a\x7f", " a", "a ", "\t", "\ud800"])
def test_values_that_no_header_has(value: str) -> None:
    """Nothing in a value can start another header, and what is refused is not repeated."""
    problem = header_problem("X-Key", value)

    assert problem.startswith("expected a header value of visible ASCII")
    assert ", got" not in problem


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "Content-Length", "Transfer-Encoding", "Mcp-Session-Id", "Connection", "TE", "Trailer", "Upgrade"),
        *("Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Expect", "Accept", "Accept-Encoding"),
        *("Content-Type", "Content-Encoding", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", "Last-Event-ID"),
    ],
)
def test_headers_of_the_message_cannot_be_set(name: str) -> None:
    """What frames a message, or belongs to one session or body, is written for each message."""
    assert header_problem(name, "x").startswith("expected another header")
    assert header_problem(name.lower(), "x") == header_problem(name.upper(), "x") != ""


@given(st.sampled_from([*SINGLE_VALUE, "Connection", "TE", "Upgrade", "Forwarded", "X-Key"]) | st.text(max_size=12))
def test_what_does_not_cross_the_proxy_cannot_be_set(name: str) -> None:
    """A header that a client's request loses on its way would be one the proxy has to write."""
    if header_problem(name, "x") == "":
        assert forward_request([(name, "x")], trust_forwarded=True) == [(name, "x")]


@given(st.text(max_size=12), st.text(max_size=12))
def test_headers_that_are_accepted_can_be_sent(name: str, value: str) -> None:
    """Whatever is accepted is exactly one line."""
    if header_problem(name, value) == "":
        assert render([(name, value)]).decode("ascii").splitlines() == [f"{name}: {value}"]


@pytest.mark.parametrize("text", ["", "a", "mcp.example", "127.0.0.1", "[::1]", "localhost"])
def test_hosts_of_routes(text: str) -> None:
    """A name or an address without port; none stands for any."""
    assert host_name_problem(text) == ""


@pytest.mark.parametrize("text", ["a:80", "::1", "*", "*.example", "http://a", "a/b", "127.1", " a"])
def test_what_is_no_host_of_a_route(text: str) -> None:
    """Ports, patterns and URLs are none."""
    assert host_name_problem(text).startswith("expected a host name or an IP address without port, got ")


@pytest.mark.parametrize(
    ("problem", "is_refused"),
    [
        (label_problem("version", "1.2 (beta)"), False),
        (label_problem("a.b/c-d_9", ""), False),
        (label_problem("", "x"), True),
        (label_problem("a b", "x"), True),
        (label_problem("-a", "x"), True),
        (label_problem("a" * 65, "x"), True),
        (label_problem("a", "b\nc"), True),
        (label_problem("a", "\x1b[31m"), True),
        (label_problem("a", "b" * 257), True),
        (token_problem(""), False),
        (token_problem("aZ09-._~+/=="), False),
        (token_problem("a b"), True),
        (token_problem("a=b"), True),
        (token_problem("é"), True),
        (token_problem("a\n"), True),
        (tool_problem("read_*"), False),
        (tool_problem("*"), False),
        (tool_problem("Größe messen"), False),
        (tool_problem(""), True),
        (tool_problem("a\nb"), True),
        (tool_problem("a" * 257), True),
    ],
)
def test_labels_tokens_and_tools(problem: str, is_refused: bool) -> None:
    """What would break a line, a table or a header is refused, the rest is not."""
    assert problem.startswith("expected") is is_refused


@given(st.text("aZ \n=!é", min_size=5))
def test_a_token_is_not_shown(text: str) -> None:
    """What is wrong with a token is told without it."""
    assert text not in token_problem(text)
