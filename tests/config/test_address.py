"""Addresses, URLs, hosts and origins as people write them, through the settings that take them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Listen, load, loads, parse_address
from proxy.core.headers import is_loopback
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
