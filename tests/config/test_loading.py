"""Reading the configuration: sources, their order, and one clear line for everything that is wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import ENV_PREFIX, SETTINGS, Admin, Config, Listen, Route, exposure_problem, load, loads
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
    (
        "[upstream]\nlabels = { version = '1', zone = 'a b' }",
        lambda c: dict(c.upstream.labels),
        {"version": "1", "zone": "a b"},
    ),
    ("[upstream.labels]\nversion = ''", lambda c: c.upstream.labels, (("version", ""),)),
    (
        "[upstream]\nheaders = { X-Api-Key = 'a, b=c' }",
        lambda c: c.routes[0].upstreams[0].headers,
        (("X-Api-Key", "a, b=c"),),
    ),
    ("[upstream]\nqueue_limit = 0", lambda c: c.upstream.queue_limit, 0),
    ("[upstream]\nmax_calls = 1", lambda c: (c.upstream.max_calls, c.upstream.max_session_calls), (1, 256)),
    ("[upstream]\nmax_connections = 1", lambda c: (c.upstream.max_connections, c.upstream.max_calls), (1, 10_000)),
    ("[health]\nprobe = 'none'\nfall = 1", lambda c: (c.health.probe, c.health.fall), ("none", 1)),
    (
        "[health]\neject_after_seconds = 0\npanic_threshold = 1",
        lambda c: (c.health.eject_after_seconds, c.health.panic_threshold),
        (0.0, 1.0),
    ),
    ("[health]\ntimeout_seconds = 5", lambda c: c.health.timeout_seconds, 5.0),
    ("[health]\nbackoff_max_seconds = 1", lambda c: c.health.backoff_max_seconds, 1.0),
    (
        "[retry]\nattempts = 0\nsafe_tools = ['read_*', 'x']\nunsafe_tools = ['*']",
        lambda c: c.retry.safe_tools,
        ("read_*", "x"),
    ),
    ("[swap]\nrollback_error_rate = 0\ndrain_timeout_seconds = 0\nstrict = true", lambda c: c.swap.strict, True),
    ("[admin]\naddress = ''", lambda c: (c.admin.address, "admin.address" in c.given), ("", True)),
    ("[admin]\naddress = 'fd:4'\n[listen]\naddress = 'fd:3'", lambda c: c.admin.descriptor, 4),
    ("[admin]\naddress = '127.0.0.1:0'\n[listen]\naddress = '127.0.0.1:0'", lambda c: c.admin.port, 0),
    ("[admin]\naddress = '0.0.0.0:1'\ntoken = 'aB3-._~+/=='", lambda c: c.admin.token, "aB3-._~+/=="),
    # It was valid before there was an admin API, whose default gives way.
    ("[listen]\naddress = '127.0.0.1:9901'", lambda c: (c.listen.port, c.admin.port), (9901, 9901)),
    ("[server]\nwatch_config = false\nupgrade_drain_seconds = 0", lambda c: c.server.watch_config, False),
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
    ("[health]\nprobe = 'icmp'", "health.probe", 'expected one of mcp, http, tcp, none, got "icmp"'),
    ("[health]\nhttp_path = 'up'", "health.http_path", "expected a path such as /mcp"),
    ("[health]\nfall = 0", "health.fall", "expected a number from 1 to"),
    ("[health]\npanic_threshold = 1.01", "health.panic_threshold", "expected a number from 0 to 1, got 1.01"),
    ("[health]\npanick_threshold = 1", "health.panick_threshold", "did you mean health.panic_threshold?"),
    ("[retry]\nattempts = -1", "retry.attempts", "expected a number from 0 to 100, got -1"),
    ("[retry]\nsafe_tools = ['']", "retry.safe_tools", 'expected the name of a tool, or a part of it with *, got ""'),
    ("[retry]\nunsafe_tools = 'x'", "retry.unsafe_tools", 'expected a list of strings, got "x"'),
    ("[swap]\nrollback_error_rate = 20", "swap.rollback_error_rate", "expected a number from 0 to 1, got 20.0"),
    ("[swap]\nconcurrency = 0", "swap.concurrency", "expected a number from 1 to"),
    ("[admin]\naddress = '9901'", "admin.address", "expected host:port"),
    ("[admin]\nevents = 0", "admin.events", "expected a number from 1 to"),
    ("[upstream]\nweight = 1001", "upstream.weight", "expected a number from 1 to 1000, got 1001"),
    ("[upstream]\nlabels = ['a']", "upstream.labels", 'expected a table of strings, got ["a"]'),
    ("[upstream]\nlabels = { version = 1 }", "upstream.labels.version", "expected a string, got 1"),
    ("[upstream]\nqueue_timeout_seconds = 0", "upstream.queue_timeout_seconds", "expected a number above 0"),
    # between settings
    (
        "[health]\ntimeout_seconds = 6",
        "health.timeout_seconds",
        "at most health.interval_seconds (5.0), so that one probe",
    ),
    ("[health]\ninterval_seconds = 1", "health.interval_seconds", "health.timeout_seconds (2.0) at most"),
    ("[health]\nbackoff_min_seconds = 61", "health.backoff_min_seconds", "at most health.backoff_max_seconds (60.0)"),
    (
        "[admin]\naddress = '127.0.0.1:8080'",
        "admin.address",
        "expected another port than that of listen.address (127.0.0.1:8080)",
    ),
    (
        "[admin]\naddress = '127.0.0.1:81'\n[listen]\naddress = '[::1]:81'",
        "admin.address",
        "expected another port than that of listen.address ([::1]:81)",
    ),
    ("[admin]\naddress = 'fd:3'\n[listen]\naddress = 'fd:3'", "admin.address", "listen.address (fd:3)"),
    ("[admin]\naddress = '0.0.0.0:9901'", "admin.address", "set admin.token"),
    (
        "[retry]\nsafe_tools = ['a', 'b']\nunsafe_tools = ['b']",
        "retry.safe_tools",
        'in one of retry.safe_tools and retry.unsafe_tools, got "b" in both',
    ),
    (
        "[upstream]\nmax_session_calls = 20\nmax_calls = 10",
        "upstream.max_session_calls",
        "expected at most max_calls (10), for a session has no more than all have, got 20",
    ),
    ("[upstream]\nmax_calls = 10001", "upstream.max_calls", "expected at most max_connections (10000)"),
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
        ("RETRY__SAFE_TOOLS", "read_*, b", "retry.safe_tools", ("read_*", "b")),
        ("UPSTREAM__LABELS", "version=1, zone = b c ,", "upstream.labels", (("version", "1"), ("zone", "b c"))),
        ("UPSTREAM__HEADERS", "Authorization=Basic dTpw==", "upstream.headers", (("Authorization", "Basic dTpw=="),)),
        ("UPSTREAM__HEADERS", "", "upstream.headers", ()),
        ("ADMIN__ADDRESS", "", "admin.address", ""),
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
        ("ROUTES", "x", "routes: routes are set in the file alone"),
        ("ROUTES__0__PATH", "/x", "routes.0.path: routes are set in the file alone"),
        ("ROUTE", "x", "route: unknown table or key; did you mean routes?"),
        ("UPSTREAM__LABELS", "version", 'upstream.labels: expected a table of strings, got "version"'),
        ("UPSTREAM__LABELS", "a=1,a=2", 'upstream.labels: expected a table of strings, got "a=1,a=2"'),
        ("UPSTREAM__HEADERS", "hunter2", "upstream.headers: expected a table of strings, got ***"),
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
    assert len(config.routes) == 1
    assert config.given == set(overrides)


@pytest.mark.parametrize("text", ["", "[upstream]", "[upstream]\nweight = 1", "[listen]\npath = '/x'"])
def test_what_was_given_is_known(text: str) -> None:
    """A default and the same value chosen can be told apart."""
    assert loads(text).given == {key for key in ("upstream.weight", "listen.path") if key.partition(".")[2] in text}


def test_what_was_given_does_not_count_in_comparisons() -> None:
    """Two configurations with the same values are equal, whoever chose them."""
    chosen = load(None, {ENV_PREFIX + "ADMIN__ADDRESS": Admin().address}, {"log.level": "info"})

    assert chosen == Config()
    assert chosen.given == {"admin.address", "log.level"}


def test_one_upstream_in_a_list_is_one() -> None:
    """A flag that can be given several times and was given once makes the same as ever."""
    once = load(None, {}, {"upstream.url": ["http://a/"]})

    assert once == load(None, {}, {"upstream.url": "http://a/"})
    assert once.routes == (Route(upstreams=(once.upstream,)),)
    assert replace(once, listen=Listen(path="/x")).routes[0].path == "/x"


def test_several_upstreams_make_a_pool() -> None:
    """They are numbered after the first, in their order, and are alike but for name and URL."""
    environ = {ENV_PREFIX + "UPSTREAM__KEEPALIVE_SECONDS": "1", ENV_PREFIX + "UPSTREAM__URL": "http://z/"}
    config = load(None, environ, {"upstream.url": ["http://a/", "http://b/", "http://a/"], "listen.path": "/x"})
    (route,) = config.routes

    assert (route.name, route.path, config.upstream) == ("main", "/x", route.upstreams[0])
    assert [(upstream.name, upstream.url, upstream.keepalive_seconds) for upstream in route.upstreams] == [
        ("default", "http://a/", 1.0),
        ("default-2", "http://b/", 1.0),
        ("default-3", "http://a/", 1.0),
    ]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"upstream.url": ["http://a/", "x"]}, "--upstream: upstream.url: expected an http:// or https:// URL"),
        ({"upstream.url": ["http://a/", 3]}, "--upstream: upstream.url: expected a string, got 3"),
        ({"upstream.url": []}, "--upstream: upstream.url: expected a string, got []"),
        ({"listen.path": ["/a"]}, '--path: listen.path: expected a string, got ["/a"]'),
        (
            {"upstream.url": ["http://a/", "http://b/"], "upstream.name": "n" * 64},
            "command line: upstream.name: expected up to 64 of a-z",
        ),
    ],
)
def test_wrong_lists_of_flags(overrides: dict[str, object], line: str) -> None:
    """Each URL is judged as if it were alone, and no other flag takes a list."""
    with pytest.raises(ConfigError) as caught:
        load(None, {}, overrides)

    assert str(caught.value).startswith(line)


def test_a_file_names_one_upstream_outside_of_routes() -> None:
    """The list is the command line's; a file has routes for that."""
    with pytest.raises(ConfigError, match="expected a string"):
        loads("[upstream]\nurl = ['http://a/', 'http://b/']")


ROUTES = "[[routes]]\n[[routes.upstreams]]\nurl = 'http://a/'\n"


@pytest.mark.parametrize(
    ("text", "environ", "overrides", "line"),
    [
        (
            "[listen]\npath = '/x'\n",
            {},
            {},
            "FILE: listen.path: expected none beside the routes of FILE: each [[routes]] has",
        ),
        (
            "[upstream]\nname = 'x'\n",
            {},
            {},
            "FILE: upstream.name: expected none beside the routes of FILE: each [[routes.up",
        ),
        (
            "",
            {"UPSTREAM__URL": "http://b/"},
            {},
            f"{ENV_PREFIX}UPSTREAM__URL: upstream.url: expected none beside the routes",
        ),
        ("", {}, {"upstream.url": "http://b/"}, "--upstream: upstream.url: expected none beside the routes of FILE"),
        (
            "",
            {},
            {"upstream.url": ["http://b/", "http://c/"]},
            "--upstream: upstream.url: expected none beside the routes",
        ),
        ("", {}, {"listen.path": "/mcp"}, "--path: listen.path: expected none beside the routes of FILE"),
    ],
)
def test_nothing_is_set_that_routes_replace(
    tmp_path: Path, text: str, environ: dict[str, str], overrides: dict[str, object], line: str
) -> None:
    """A key that would have no effect is refused with its source, and with that of the routes."""
    file = tmp_path / "c.toml"
    file.write_text(text + ROUTES)

    with pytest.raises(ConfigError) as caught:
        load(file, {ENV_PREFIX + name: value for name, value in environ.items()}, overrides)

    assert str(caught.value).startswith(line.replace("FILE", str(file)))


def test_routes_take_what_other_sources_say_of_all_upstreams(tmp_path: Path) -> None:
    """A variable of [upstream] holds for every upstream of the file that does not say otherwise."""
    file = tmp_path / "c.toml"
    file.write_text(ROUTES + "[[routes.upstreams]]\nurl = 'http://b/'\nmax_calls = 5\n")

    config = load(file, {ENV_PREFIX + "UPSTREAM__MAX_CALLS": "7", ENV_PREFIX + "UPSTREAM__SILENCE_SECONDS": "20"}, {})

    assert [upstream.max_calls for upstream in config.routes[0].upstreams] == [7, 5]
    assert [upstream.silence_seconds for upstream in config.routes[0].upstreams] == [20.0, 20.0]
    assert "routes" in config.given


@pytest.mark.parametrize(
    ("section", "is_exposed"),
    [
        (Listen(), False),
        (Listen(address="0.0.0.0:1"), True),
        (Listen(address="0.0.0.0:1", allow_anonymous=True), False),
        (Listen(address="fd:3"), False),
        (Admin(), False),
        (Admin(address=""), False),
        (Admin(address="[::]:1"), True),
        (Admin(address="[::]:1", token="x"), False),
        (Admin(address="fd:3"), False),
    ],
)
def test_exposure(section: Listen | Admin, is_exposed: bool) -> None:
    """Beyond loopback clients need leave, and operators a token."""
    assert bool(exposure_problem(section)) is is_exposed


def test_a_token_is_not_repeated() -> None:
    """Neither a token of the wrong form nor one of the wrong type stands in the message."""
    lines = []
    for value in ("hunter2 hunter2", ["hunter2"]):
        with pytest.raises(ConfigError) as caught:
            load(None, {}, {"admin.token": value})
        lines.append(str(caught.value))

    assert "hunter2" not in "".join(lines)
    assert all("admin.token: expected a" in line for line in lines)
