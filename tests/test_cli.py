"""The command line: what it prints, what it returns, and that it does both without delay."""

import os
import subprocess
import sys
import types
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

    def run(config: Config) -> int:
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

    def run(config: Config) -> int:
        raise ConfigError("127.0.0.1:1 is in use", key="listen.address", source="--listen")

    monkeypatch.setattr(sys.modules["proxy.app"], "run", run)

    assert cli.main([]) == 2
    assert capsys.readouterr().err == ("mcp-session-proxy: error: --listen: listen.address: 127.0.0.1:1 is in use\n")


def test_interrupt_is_quiet(
    started: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with 130 and without a word."""

    def run(config: Config) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["proxy.app"], "run", run)

    assert cli.main([]) == 130
    assert capsys.readouterr() == ("", "")


def test_the_exit_code_is_the_apps(started: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app returns is what the process exits with."""
    monkeypatch.setattr(sys.modules["proxy.app"], "run", lambda config: 7)

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


def test_checking_loads_no_server() -> None:
    """`--check` answers at once because neither aiohttp, asyncio nor structlog is loaded for it."""
    code = (
        "import sys; from proxy.cli import main; main(['--check']);"
        "print(sorted({'aiohttp', 'asyncio', 'structlog', 'msgspec'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
