"""Reading the configuration: sources, their order, and one clear line for everything that is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import ENV_PREFIX, SETTINGS, Config, load, loads
from proxy.core.headers import is_loopback
from proxy.errors import ConfigError

VALID: list[tuple[str, Callable[[Config], Any], Any]] = [
    ("", lambda c: c, Config()),
    ("[listen]", lambda c: c.listen, Config().listen),
    ("listen.address = 'localhost:0'", lambda c: (c.listen.host, c.listen.port), ("localhost", 0)),
    ("[listen]\naddress = '[::1]:8080'", lambda c: (c.listen.host, c.listen.port), ("::1", 8080)),
    ("[listen]\naddress = '0.0.0.0:65535'\nallow_anonymous = true", lambda c: c.listen.port, 65535),
    ("[listen]\npath = '/a/b-c.d~'", lambda c: c.listen.path, "/a/b-c.d~"),
    (
        "[listen]\nallowed_hosts = ['a.example', 'b:81', '[::1]', '[::1]:9']",
        lambda c: c.listen.allowed_hosts,
        ("a.example", "b:81", "[::1]", "[::1]:9"),
    ),
    (
        "[listen]\nallowed_origins = ['https://a.example', 'vscode-webview://b', 'http://[::1]:5']",
        lambda c: c.listen.allowed_origins,
        ("https://a.example", "vscode-webview://b", "http://[::1]:5"),
    ),
    ("[listen]\nbacklog = 1", lambda c: c.listen.backlog, 1),
    (
        "[upstream]\nurl = 'https://mcp.example:443/@a/%20'",
        lambda c: c.upstream.url,
        "https://mcp.example:443/@a/%20",
    ),
    ("[upstream]\nurl = 'http://[::1]:3001'", lambda c: c.upstream.url, "http://[::1]:3001"),
    ("[upstream]\nname = 'a-b_9'", lambda c: c.upstream.name, "a-b_9"),
    ("[upstream]\nkeepalive_seconds = 0", lambda c: c.upstream.keepalive_seconds, 0.0),
    ("[upstream]\nsilence_seconds = 12", lambda c: type(c.upstream.silence_seconds), float),
    ("[upstream]\nreconnect_min_seconds = 1.0", lambda c: c.upstream.reconnect_min_seconds, 1.0),
    ("[session]\nidle_seconds = 1800", lambda c: c.session.idle_seconds, 1800.0),
    ("[stream]\nslow_reader_events = 999", lambda c: c.stream.slow_reader_events, 999),
    ("[replay]\nbytes_per_stream = 16_777_216", lambda c: c.replay.bytes_per_stream, 16_777_216),
    ("[server]\nuvloop = false", lambda c: c.server.uvloop, False),
    ("[log]\nlevel = 'debug'\nformat = 'json'", lambda c: (c.log.level, c.log.format), ("debug", "json")),
]

INVALID: list[tuple[str, str, str]] = [
    # unknown
    ("[lisen]\naddress = 'x'", "lisen", "unknown table or key; did you mean listen?"),
    ("[zzzzzz]", "zzzzzz", "unknown table or key"),
    ("[listen]\nadress = 'x'", "listen.adress", "unknown key; did you mean listen.address?"),
    ("[listen]\nqqqqqq = 1", "listen.qqqqqq", "unknown key"),
    ("[stream]\nmax_sessions = 3", "stream.max_sessions", "unknown key; did you mean session.max_sessions?"),
    ("address = 'x'", "address", "unknown table or key; did you mean listen.address?"),
    # types
    ("listen = 3", "listen", "expected a table [listen], got 3"),
    ("[[listen]]", "listen", "expected a table [listen], got [{}]"),
    ("[listen]\naddress = 8080", "listen.address", "expected a string, got 8080"),
    ("[listen.path]\nx = 1", "listen.path", 'expected a string, got {"x": 1}'),
    ("[listen]\nallow_anonymous = 1", "listen.allow_anonymous", "expected true or false, got 1"),
    ("[listen]\nallow_anonymous = 'true'", "listen.allow_anonymous", 'expected true or false, got "true"'),
    ("[listen]\nbacklog = true", "listen.backlog", "expected an integer, got true"),
    ("[listen]\nbacklog = 5.0", "listen.backlog", "expected an integer, got 5.0"),
    ("[listen]\nbacklog = '5'", "listen.backlog", 'expected an integer, got "5"'),
    ("[listen]\nhead_timeout_seconds = false", "listen.head_timeout_seconds", "expected a number, got false"),
    ("[listen]\nhead_timeout_seconds = '1'", "listen.head_timeout_seconds", 'expected a number, got "1"'),
    (
        "[listen]\nhead_timeout_seconds = 1" + "0" * 400,
        "listen.head_timeout_seconds",
        "expected a number, got 1000",
    ),
    ("[listen]\nallowed_hosts = 'a'", "listen.allowed_hosts", 'expected a list of strings, got "a"'),
    (
        "[listen]\nallowed_hosts = ['a', 1]",
        "listen.allowed_hosts",
        'expected a list of strings, got ["a", 1]',
    ),
    ("[log]\nlevel = 2026-01-01", "log.level", 'expected a string, got "2026-01-01"'),
    # ranges
    ("[listen]\nbacklog = 0", "listen.backlog", "expected a number from 1 to 65535, got 0"),
    ("[listen]\nbacklog = 65536", "listen.backlog", "expected a number from 1 to 65535, got 65536"),
    ("[listen]\nmax_body_bytes = -1", "listen.max_body_bytes", "expected a number from 1 to"),
    ("[upstream]\nsilence_seconds = 0", "upstream.silence_seconds", "expected a number above 0 and at most"),
    ("[upstream]\nsilence_seconds = nan", "upstream.silence_seconds", "at most 315360000, got NaN"),
    ("[upstream]\nsilence_seconds = inf", "upstream.silence_seconds", "at most 315360000, got Infinity"),
    ("[upstream]\nkeepalive_seconds = -0.1", "upstream.keepalive_seconds", "expected a number from 0 to"),
    ("[upstream]\nrebuilds_per_second = 0", "upstream.rebuilds_per_second", "above 0"),
    ("[stream]\nretry_seconds = 0", "stream.retry_seconds", "expected a number from 0.001 to 3600, got 0.0"),
    ("[session]\nlifetime_seconds = -1", "session.lifetime_seconds", "from 0 to"),
    ("[log]\nlevel = 'loud'", "log.level", 'expected one of debug, info, warning, error, got "loud"'),
    ("[log]\nformat = 'xml'", "log.format", 'expected one of auto, console, json, got "xml"'),
    ("[upstream]\nname = 'A b'", "upstream.name", "expected up to 64 of a-z"),
    # between settings
    (
        "[listen]\naddress = '0.0.0.0:80'",
        "listen.address",
        "listen.allow_anonymous = true (--allow-anonymous)",
    ),
    (
        "[listen]\naddress = 'mcp.example:80'",
        "listen.address",
        "listening on mcp.example lets other machines in",
    ),
    (
        "[stream]\nslow_reader_events = 1000",
        "stream.slow_reader_events",
        "expected stream.slow_reader_events (1000) below replay.events_per_stream (1000)",
    ),
    (
        "[replay]\nevents_per_stream = 10",
        "replay.events_per_stream",
        "expected stream.slow_reader_events (500) below replay.events_per_stream (10)",
    ),
    ("[stream]\nslow_reader_bytes = 4194304", "stream.slow_reader_bytes", "below replay.bytes_per_stream"),
    ("[replay]\nbytes_per_stream = 16777217", "replay.bytes_per_stream", "at most replay.bytes_per_session"),
    ("[replay]\nbytes_total = 16777215", "replay.bytes_total", "at most replay.bytes_total (16777215)"),
    (
        "[session]\nidle_seconds = 1799",
        "session.idle_seconds",
        "session.upstream_idle_seconds (1800.0) at most",
    ),
    (
        "[upstream]\nreconnect_max_seconds = 0.01",
        "upstream.reconnect_max_seconds",
        "reconnect_min_seconds (0.1)",
    ),
    (
        "[upstream]\nping_timeout_seconds = 31",
        "upstream.ping_timeout_seconds",
        "at most upstream.silence_seconds",
    ),
    (
        "[stream]\nheartbeat_seconds = 45",
        "stream.heartbeat_seconds",
        "below stream.peer_timeout_seconds (45.0)",
    ),
    # not TOML
    ("[listen]\npath = \n[log]", "line 2, column 8", "not valid TOML: Invalid value"),
    ("[listen]\naddress = ", "line 2, column 11", "not valid TOML: Invalid value"),
    ("[listen]\npath = '/a'\npath = '/b'", "line 3, column 12", "not valid TOML: Cannot overwrite a value"),
    ("# ok\n[listen", "line 2, column 8", "not valid TOML: Expected ']'"),
    ("x = " + "1" * 5000, "", "not valid TOML: "),
    ("x = " + "[" * 100_000, "", "not valid TOML: "),
]


@pytest.mark.parametrize(("text", "read", "expected"), VALID, ids=[text[:40] for text, *_ in VALID])
def test_valid_text_is_read(text: str, read: Callable[[Config], Any], expected: Any) -> None:
    """What is allowed is taken as it was written."""
    config = loads(text)

    assert read(config) == expected


@pytest.mark.parametrize(("text", "key", "problem"), INVALID, ids=[text[:40] for text, *_ in INVALID])
def test_invalid_text_is_one_line(text: str, key: str, problem: str) -> None:
    """What is wrong is told on one short line: file, key, and what was expected and given."""
    with pytest.raises(ConfigError) as caught:
        loads(text, "some/config.toml")

    line = str(caught.value)

    assert (caught.value.source, caught.value.key) == ("some/config.toml", key)
    assert problem in caught.value.problem
    assert line == ": ".join(part for part in ("some/config.toml", key, caught.value.problem) if part)
    assert line.isprintable()
    assert len(line) < 300


def test_every_order_rule_is_tried() -> None:
    """Each rule between two settings has a row that breaks it."""
    from proxy.config.loading import _ASCENDING

    tried = " ".join(problem for _, _, problem in INVALID) + " ".join(key for _, key, _ in INVALID)

    assert [low for low, _, high, _ in _ASCENDING if low not in tried and high not in tried] == []


def test_later_sources_win(tmp_path: Path) -> None:
    """Flags go over the environment, that over the file, that over the defaults."""
    file = tmp_path / "c.toml"
    file.write_text("[listen]\npath = '/file'\nbacklog = 7\n[log]\nlevel = 'error'\n")
    environ = {"MCP_SESSION_PROXY__LISTEN__PATH": "/env", "MCP_SESSION_PROXY__LOG__LEVEL": "debug"}

    config = load(file, environ, {"listen.path": "/flag"})

    assert (config.listen.path, config.log.level, config.listen.backlog) == ("/flag", "debug", 7)
    assert config.upstream == Config().upstream


@pytest.mark.parametrize(
    ("name", "text", "key", "expected"),
    [
        ("LISTEN__ADDRESS", "[::1]:1", "listen.address", "[::1]:1"),
        ("LISTEN__BACKLOG", "12", "listen.backlog", 12),
        ("LISTEN__ALLOW_ANONYMOUS", "True", "listen.allow_anonymous", True),
        ("SERVER__UVLOOP", "0", "server.uvloop", False),
        ("STREAM__RETRY_SECONDS", "2", "stream.retry_seconds", 2.0),
        ("STREAM__RETRY_SECONDS", "0.25", "stream.retry_seconds", 0.25),
        ("LISTEN__ALLOWED_HOSTS", "a, b:80,", "listen.allowed_hosts", ("a", "b:80")),
        ("LISTEN__ALLOWED_HOSTS", "", "listen.allowed_hosts", ()),
    ],
)
def test_environment_is_read_by_type(name: str, text: str, key: str, expected: object) -> None:
    """A variable becomes what its setting is; lists are comma separated."""
    config = load(None, {ENV_PREFIX + name: text}, {})
    section, _, field = key.partition(".")

    value = getattr(getattr(config, section), field)

    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("LISTEN__BACKLOG", "many", 'listen.backlog: expected an integer, got "many"'),
        ("LISTEN__BACKLOG", "1.5", 'listen.backlog: expected an integer, got "1.5"'),
        ("STREAM__RETRY_SECONDS", "", 'stream.retry_seconds: expected a number, got ""'),
        ("SERVER__UVLOOP", "maybe", 'server.uvloop: expected true or false, got "maybe"'),
        (
            "LISTEN__ADRESS",
            "x",
            "listen.adress: unknown key; did you mean MCP_SESSION_PROXY__LISTEN__ADDRESS?",
        ),
        ("LISTEN", "x", "listen: unknown table or key"),
        ("listen__path", "/x", "listen.path: unknown key; did you mean MCP_SESSION_PROXY__LISTEN__PATH?"),
    ],
)
def test_wrong_environment_names_the_variable(name: str, text: str, line: str) -> None:
    """An error in the environment says which variable it is."""
    with pytest.raises(ConfigError) as caught:
        load(None, {ENV_PREFIX + name: text}, {})

    assert str(caught.value).startswith(f"{ENV_PREFIX}{name}: {line}")


def test_foreign_environment_is_left_alone() -> None:
    """Variables that Kubernetes makes for a service of the proxy's name are not its settings."""
    environ = {"MCP_SESSION_PROXY_PORT": "tcp://10.0.0.1:80", "MCP_SESSION_PROXY_SERVICE_HOST": "10.0.0.1"}

    assert load(None, environ, {}) == Config()


def test_wrong_override_names_the_flag() -> None:
    """An error in a flag says which flag it is."""
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {"upstream.url": "nonsense"})
    with pytest.raises(ConfigError) as unknown:
        load(None, {}, {"upstream.uri": "http://a"})

    assert str(caught.value).startswith("--upstream: upstream.url: expected an http:// or https:// URL")
    assert str(unknown.value) == "command line: upstream.uri: unknown key; did you mean upstream.url?"


def test_rules_between_sources_name_the_one_that_was_set(tmp_path: Path) -> None:
    """A flag that does not fit the file is blamed with its own name, a file with its own."""
    file = tmp_path / "c.toml"
    file.write_text("[replay]\nevents_per_stream = 100\n")

    with pytest.raises(ConfigError) as by_file:
        load(file, {}, {"listen.path": "/x"})
    with pytest.raises(ConfigError) as by_flag:
        load(None, {}, {"listen.address": "0.0.0.0:1"})

    assert (by_file.value.source, by_file.value.key) == (str(file), "replay.events_per_stream")
    assert (by_flag.value.source, by_flag.value.key) == ("--listen", "listen.address")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        (b"[log]\n# \xff\n", "line 2: expected UTF-8 text, got other bytes"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """A file that is missing or not text is named."""
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load(file, {}, {})

    assert str(caught.value).startswith(f"{file}: {problem}")


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """A file from an editor that puts a mark first is read."""
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbf[log]\r\nlevel = 'error'\r\n")

    assert load(file, {}, {}).log.level == "error"


@given(st.text())
def test_messages_stay_on_one_line(text: str) -> None:
    """No value and no key can put a second line, or a control character, into the message."""
    lines = []
    for overrides in ({"listen.address": text}, {text: 1}, {"upstream.url": text}):
        try:
            load(None, {}, overrides)
        except ConfigError as error:
            lines.append(str(error))

    assert all(line.isprintable() for line in lines)
    assert len(lines) >= 2


@given(
    st.dictionaries(
        st.sampled_from(sorted(SETTINGS)),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    )
)
def test_load_returns_a_valid_config_or_a_config_error(overrides: dict[str, object]) -> None:
    """Whatever is given, nothing else comes out, and what comes out holds the rules."""
    try:
        config = load(None, {}, overrides)
    except ConfigError:
        return

    assert config.stream.slow_reader_events < config.replay.events_per_stream
    assert is_loopback(config.listen.host) or config.listen.allow_anonymous
    assert all(
        type(getattr(getattr(config, setting.section), setting.name)) is type(setting.default)
        for setting in SETTINGS.values()
    )
