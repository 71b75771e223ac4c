"""The command line: what it prints, what it returns, and that it does both without delay."""

import os
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import proxy
from proxy import cli
from proxy.config import ENV_PREFIX, SETTINGS, Config
from proxy.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Put a stand-in in the place of `proxy.app` that records what it is started with."""
    configs: list[Config] = []

    def run(config: Config, again: object, path: Path | None) -> int:
        configs.append(config)
        return 0

    app = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "proxy.app", app)
    monkeypatch.setattr(proxy, "app", app, raising=False)
    return configs


def spawn(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_flags_reach_the_app(started: list[Config]) -> None:
    """The flags of the common case set their settings; the rest keeps its defaults."""
    code = cli.main(
        [
            "--upstream",
            "http://127.0.0.1:9/x",
            "--listen",
            "0.0.0.0:1",
            "--allow-anonymous",
            "--path",
            "/p",
            "--log-level",
            "debug",
            "--log-format",
            "json",
        ]
    )
    (config,) = started

    assert code == 0
    assert (config.upstream.name, config.upstream.url) == ("default", "http://127.0.0.1:9/x")
    assert (config.listen.address, config.listen.path, config.listen.allow_anonymous) == (
        "0.0.0.0:1",
        "/p",
        True,
    )
    assert (config.log.level, config.log.format) == ("debug", "json")
    assert config.replay == Config().replay


def test_nothing_given_means_the_defaults(
    started: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config.toml that happens to lie in the working directory is not read."""
    (tmp_path / "config.toml").write_text("nonsense")
    monkeypatch.chdir(tmp_path)

    assert cli.main([]) == 0
    assert started == [Config()]


def test_file_environment_and_flags_in_their_order(
    started: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags go over the environment, and that over the file."""
    file = tmp_path / "c.toml"
    file.write_text("[listen]\npath = '/file'\nbacklog = 9\n[log]\nlevel = 'error'\n")
    monkeypatch.setenv(ENV_PREFIX + "LISTEN__PATH", "/env")
    monkeypatch.setenv(ENV_PREFIX + "LOG__LEVEL", "debug")

    cli.main(["--config", str(file), "--path", "/flag"])
    (config,) = started

    assert (config.listen.path, config.log.level, config.listen.backlog) == ("/flag", "debug", 9)


def test_the_app_can_read_the_configuration_anew(
    started: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told which file to watch, and what it reads later is again under environment and flags."""
    given: list[tuple[Callable[[], Config], Path | None]] = []
    monkeypatch.setattr(sys.modules["proxy.app"], "run", lambda config, again, path: given.append((again, path)) or 0)
    file = tmp_path / "c.toml"
    file.write_text("[listen]\npath = '/old'\nbacklog = 9\n")
    cli.main(["--config", str(file), "--path", "/flag"])
    ((again, path),) = given
    file.write_text("[listen]\npath = '/new'\nbacklog = 10\n")

    assert path == file
    assert (again().listen.path, again().listen.backlog) == ("/flag", 10)


def test_every_flag_of_a_setting_exists() -> None:
    """A flag named in an error message is one the parser knows, and it sets that setting."""
    flags = {setting.rule.flag: key for key, setting in SETTINGS.items() if setting.rule.flag}
    known = {option: action.dest for action in cli._parser()._actions for option in action.option_strings}

    assert {flag: known.get(flag) for flag in flags} == flags
    assert {option: dest for option, dest in known.items() if "." in dest} == flags


def test_check_prints_and_starts_nothing(started: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` says what would be served and where, and exits with 0."""
    code = cli.main(["--check", "--upstream", "http://127.0.0.1:9/mcp", "--listen", "[::1]:8081"])
    written = capsys.readouterr()

    assert code == 0
    assert written.out == (
        "configuration ok\nupstream: default http://127.0.0.1:9/mcp\nlisten: http://[::1]:8081/mcp\n"
    )
    assert written.err == ""
    assert started == []


def test_check_looks_at_the_authorities(
    started: list[Config], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file that is not there is found before the service is started."""
    file = tmp_path / "c.toml"
    file.write_text(f"[upstream]\nurl = 'https://a/'\nca_file = '{tmp_path}/none.pem'\n")

    assert cli.main(["--check", "--config", str(file)]) == 2
    assert capsys.readouterr() == (
        "",
        f"mcp-session-proxy: error: upstream.ca_file: {tmp_path}/none.pem cannot be read: No such file or directory\n",
    )


def test_check_needs_no_inherited_socket(started: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever checks a configuration is not who hands the socket over."""
    assert cli.main(["--check", "--listen", "fd:1000"]) == 0
    assert capsys.readouterr().out.endswith("listen: inherited descriptor 1000, path /mcp\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--listen", "fd:x"],
            '--listen: listen.address: expected fd:N with the number of an inherited descriptor, got "fd:x"',
        ),
        (
            ["--listen", "x"],
            '--listen: listen.address: expected host:port, an IPv6 host in brackets ([::1]:8080), got "x"',
        ),
        (
            ["--upstream", "x"],
            '--upstream: upstream.url: expected an http:// or https:// URL with a host, got "x"',
        ),
        (
            ["--log-level", "x"],
            '--log-level: log.level: expected one of debug, info, warning, error, got "x"',
        ),
        (
            ["--config", "/nonexistent/c.toml"],
            "/nonexistent/c.toml: cannot be read: No such file or directory",
        ),
        (["--nonsense"], "unrecognized arguments: --nonsense (see --help)"),
        (["--up", "http://a"], "unrecognized arguments: --up http://a (see --help)"),
        (["--upstream"], "argument --upstream: expected one argument (see --help)"),
        (["serve\nnow"], r"unrecognized arguments: serve\nnow (see --help)"),
    ],
)
def test_errors_are_one_line(
    started: list[Config], capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    """Whatever is wrong is one line on stderr and exit code 2, and nothing starts."""
    code = cli.main(arguments)
    written = capsys.readouterr()

    assert code == 2
    assert written.err == f"mcp-session-proxy: error: {line}\n"
    assert written.out == ""
    assert started == []


def test_an_address_in_use_is_a_configuration_error(
    started: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the app finds wrong with the configuration is told as what the loader finds."""

    def run(config: Config, again: object, path: Path | None) -> int:
        raise ConfigError("127.0.0.1:1 is in use", key="listen.address", source="--listen")

    monkeypatch.setattr(sys.modules["proxy.app"], "run", run)

    assert cli.main([]) == 2
    assert capsys.readouterr().err == ("mcp-session-proxy: error: --listen: listen.address: 127.0.0.1:1 is in use\n")


def test_interrupt_is_quiet(
    started: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with 130 and without a word."""

    def run(config: Config, again: object, path: Path | None) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["proxy.app"], "run", run)

    assert cli.main([]) == 130
    assert capsys.readouterr() == ("", "")


def test_the_exit_code_is_the_apps(started: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app returns is what the process exits with."""
    monkeypatch.setattr(sys.modules["proxy.app"], "run", lambda *_: 7)

    assert cli.main([]) == 7


@pytest.mark.parametrize(
    ("flag", "text"),
    [("--version", f"mcp-session-proxy {proxy.__version__}\n"), ("--help", "--upstream URL")],
)
def test_help_and_version(capsys: pytest.CaptureFixture[str], flag: str, text: str) -> None:
    """Both print to stdout and exit with 0."""
    with pytest.raises(SystemExit) as caught:
        cli.main([flag])

    assert caught.value.code == 0
    assert text in capsys.readouterr().out


def test_a_real_process_checks_the_repositorys_file() -> None:
    """`python -m proxy --config config.toml --check` works from the checkout."""
    done = spawn("--config", "config.toml", "--check")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("configuration ok\n")


def test_a_real_process_refuses_an_invalid_file(tmp_path: Path) -> None:
    """An unknown key ends the process with one line that names key and file, code 2, no traceback."""
    file = tmp_path / "bad.toml"
    file.write_text("[listen]\nadress = '127.0.0.1:1'\n")

    done = spawn("--config", str(file))

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"mcp-session-proxy: error: {file}: listen.adress: unknown key; did you mean listen.address?\n"
    )


def test_a_real_process_refuses_a_descriptor_it_has_not_inherited() -> None:
    """What was promised and is not there ends the process at once, in one line."""
    done = spawn("--listen", "fd:1000")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mcp-session-proxy: error: listen.address: descriptor 1000: "
        "expected a bound IPv4 or IPv6 stream socket, got no open descriptor\n"
    )


def test_a_real_process_refuses_authorities_it_cannot_read() -> None:
    """It ends before it serves anybody, in one line."""
    done = spawn(
        "--upstream", "https://127.0.0.1:9/", "--listen", "127.0.0.1:0", MCP_SESSION_PROXY__UPSTREAM__CA_FILE="/none"
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mcp-session-proxy: error: upstream.ca_file: /none cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize(
    "words", [["--check"], ["--help"], ["config", "show"], ["status", "--admin", "127.0.0.1:1"]], ids=" ".join
)
def test_what_serves_nobody_loads_no_server(words: list[str]) -> None:
    """Checks, help and commands answer at once because no server, no loop and no logging is loaded for them."""
    code = (
        "import contextlib, sys\n"
        "from proxy.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main({words!r})\n"
        "print(sorted({'aiohttp', 'asyncio', 'structlog', 'msgspec'} & set(sys.modules)))"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=inherited, capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"


def test_serving_loads_no_command() -> None:
    """Who serves pays nothing for the commands."""
    code = (
        "import sys, types; sys.modules['proxy.app'] = types.SimpleNamespace(run=lambda *_: 0)\n"
        "from proxy.cli import main; main([])\n"
        "print(sorted(name for name in sys.modules if name.startswith('proxy.commands')), 'http.client' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['proxy.commands', 'proxy.commands.outcome', 'proxy.commands.parser'] False\n"


def test_several_upstreams_are_a_pool(started: list[Config]) -> None:
    """The flag may be repeated: one route, whose servers do the same."""
    cli.main(["--upstream", "http://127.0.0.1:1/mcp", "--upstream", "http://127.0.0.1:2/mcp"])
    (config,) = started
    (route,) = config.routes

    assert [upstream.url for upstream in route.upstreams] == ["http://127.0.0.1:1/mcp", "http://127.0.0.1:2/mcp"]


def test_one_upstream_is_given_as_a_text(started: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a flag that was repeated is a list to who reads it."""
    given: list[object] = []
    monkeypatch.setattr(cli, "load", lambda file, environ, overrides: given.append(overrides) or Config())
    cli.main(["--upstream", "http://127.0.0.1:1/mcp"])

    assert given == [{"upstream.url": "http://127.0.0.1:1/mcp"}]


@pytest.mark.parametrize("address", ["127.0.0.1:9902", ""])
def test_the_admin_api_has_its_flag(started: list[Config], address: str) -> None:
    """It says where the admin API listens when the proxy serves; empty, that it does not."""
    cli.main(["--admin", address])
    (config,) = started

    assert config.admin.address == address


def test_a_flags_value_is_no_command(started: list[Config]) -> None:
    """A file may be called as a command is."""
    assert cli.main(["--log-level", "debug", "--path", "/events"]) == 0
    assert cli.main(["--config", "status"]) == 2
    assert len(started) == 1


def test_a_command_operates_and_does_not_serve(started: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    """Its word decides; a proxy that is not there is told with the code for that."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        code = cli.main(["status", "--admin", address])

    assert code == 3
    assert capsys.readouterr() == (
        "",
        f"mcp-session-proxy: error: the admin API at http://{address} cannot be reached: Connection refused\n",
    )
    assert started == []


def test_a_flag_of_serving_is_none_of_a_command(started: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    """What a command cannot use is refused, not overlooked."""
    assert cli.main(["--listen", "127.0.0.1:1", "status"]) == 2
    assert capsys.readouterr().err == (
        "mcp-session-proxy: error: unrecognized arguments: --listen 127.0.0.1:1 (see --help)\n"
    )
    assert started == []


def test_help_lists_the_commands_and_their_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """One page says all there is to call."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out

    assert "  upstreams swap " in out
    assert "  3    the admin API cannot be reached\n" in out


def test_a_reader_that_has_enough_is_no_failure() -> None:
    """A pipe into `head` ends a command without a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "config", "show"],
            cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (0, "")
