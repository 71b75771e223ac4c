"""Commands on the configuration."""

import json
import tomllib
from pathlib import Path

import pytest

from proxy.commands.configuration import summary
from proxy.config import ENV_PREFIX, Config, effective, load, loads
from proxy.errors import ConfigError

ROUTES = """
[admin]
token = "s3cret-token-of-the-proxy"
[[routes]]
path = "/a"
[[routes.upstreams]]
name = "one"
url = "http://127.0.0.1:3001/mcp"
headers = { X-Api-Key = "s3cret" }
[[routes.upstreams]]
name = "two"
url = "http://127.0.0.1:3002/mcp"
[[routes]]
path = "/b"
host = "b.example"
[[routes.upstreams]]
url = "http://127.0.0.1:3003/mcp"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a configuration with two routes."""
    path = tmp_path / "c.toml"
    path.write_text(ROUTES)
    return path


def test_a_summary_says_what_is_served_and_where() -> None:
    """Of one upstream it is as short as ever; routes are named where somebody wrote them."""
    assert summary(Config()) == (
        "configuration ok\nupstream: default http://127.0.0.1:3001/mcp\nlisten: http://127.0.0.1:8080/mcp\n"
    )
    assert summary(loads(ROUTES)) == (
        "configuration ok\n"
        "route: a /a least_sessions\n"
        "upstream: one http://127.0.0.1:3001/mcp\n"
        "upstream: two http://127.0.0.1:3002/mcp\n"
        "route: b b.example/b least_sessions\n"
        "upstream: b-1 http://127.0.0.1:3003/mcp\n"
        "listen: http://127.0.0.1:8080/a\n"
        "listen: http://127.0.0.1:8080/b\n"
    )


def test_a_summary_looks_at_the_files_of_every_upstream(tmp_path: Path) -> None:
    """Authorities that cannot be read are found before anything is served."""
    text = ROUTES.replace(':3002/mcp"', f':3002/mcp"\nca_file = "{tmp_path}/none.pem"').replace(
        "http://127.0.0.1:3002", "https://127.0.0.1:3002"
    )

    with pytest.raises(ConfigError, match=r"none\.pem"):
        summary(loads(text))


@pytest.mark.parametrize("form", ["positional", "flag"])
def test_a_file_is_checked(operate, file: Path, form: str) -> None:
    """A valid one is summed up, with 0; as a document it is shown whole."""
    words = [str(file)] if form == "positional" else ["--config", str(file)]
    ended = operate.bare("config", "check", *words)
    document = json.loads(operate.bare("config", "check", *words, "--json").out)

    assert (ended.code, ended.err) == (0, "")
    assert ended.out == summary(loads(ROUTES))
    assert document["is_valid"] is True
    assert "s3cret" not in json.dumps(document)


def test_an_invalid_file_is_2_and_says_why(operate, tmp_path: Path) -> None:
    """The key and the file are named, in one line."""
    path = tmp_path / "bad.toml"
    path.write_text("[listen]\nadress = 'x'\n")
    ended = operate.bare("config", "check", str(path))

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"mcp-session-proxy: error: {path}: listen.adress: unknown key; did you mean listen.address?\n"
    )


def test_what_is_in_force_is_shown_without_secrets(operate, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and environment together, as TOML or as JSON, and no token or header in either."""
    monkeypatch.setenv(ENV_PREFIX + "LOG__LEVEL", "debug")
    ended = operate.bare("config", "show", str(file))
    document = json.loads(operate.bare("config", "show", "--config", str(file), "--json").out)

    assert ended.code == 0
    assert tomllib.loads(ended.out) == document == effective(load(file, {ENV_PREFIX + "LOG__LEVEL": "debug"}, {}))
    assert document["log"]["level"] == "debug"
    assert "s3cret" not in ended.out


def test_a_running_proxys_configuration_is_asked_for(operate) -> None:
    """With --admin it is what runs, whatever files lie here."""
    ended = operate("config", "show")

    assert ended.code == 0
    assert tomllib.loads(ended.out) == operate.control.config
    assert json.loads(operate("config", "show", "--json").out) == operate.control.config


def test_an_address_in_the_environment_is_only_a_setting(operate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the flag the local configuration is shown, and the address is part of it."""
    monkeypatch.setenv(ENV_PREFIX + "ADMIN__ADDRESS", "127.0.0.1:1")
    document = json.loads(operate.bare("config", "show", "--json").out)

    assert document["admin"]["address"] == "127.0.0.1:1"


def test_two_files_or_a_file_and_a_proxy_are_wrong_usage(operate, file: Path) -> None:
    """Nobody guesses which of them was meant."""
    both = operate.bare("config", "check", str(file), "--config", str(file))
    mixed = operate("config", "show", str(file))

    assert (both.code, mixed.code) == (2, 2)
    assert (both.out, mixed.out) == ("", "")
