"""What every command has in common: its address, its token, its help."""

import argparse

import pytest

from proxy.commands.command import ADDRESS_ENV, TOKEN_ENV, Call
from proxy.commands.dispatch import COMMANDS
from proxy.commands.outcome import CODES_TEXT, CommandError
from support.operators import TOKEN, ThreadedAdmin


def call(admin: str = "", token: str = "") -> Call:
    """Return a command line with these options."""
    return Call(argparse.Namespace(admin=admin, token=token, json=False))


def test_the_flag_goes_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's flag counts, then the proxy's own setting, then where a proxy listens by itself."""
    default = call().admin.address.url
    monkeypatch.setenv(ADDRESS_ENV, "127.0.0.1:2")
    from_environment = call().admin.address.url

    assert (default, from_environment) == ("http://127.0.0.1:9901", "http://127.0.0.1:2")
    assert call("http://127.0.0.1:3").admin.address.url == "http://127.0.0.1:3"


def test_a_token_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other user of the machine reads it, as one may read a flag."""
    with ThreadedAdmin(TOKEN) as admin:
        monkeypatch.setenv(TOKEN_ENV, TOKEN)
        assert call(admin.url).admin.ask("GET", "/status")["pid"] == 4711
        with pytest.raises(CommandError):
            call(admin.url, "wrong").admin.ask("GET", "/status")


def test_an_address_in_the_environment_may_be_none_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inherited descriptor says nothing to another process."""
    monkeypatch.setenv(ADDRESS_ENV, "fd:3")

    with pytest.raises(CommandError, match="--admin: expected"):
        _ = call().admin


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_every_command_has_help_with_its_exit_codes(command: object) -> None:
    """Whoever scripts a command finds in its help what to expect, and what every command takes."""
    text = command.parser("mcp-session-proxy").format_help()  # type: ignore[attr-defined]

    assert text.startswith(f"usage: mcp-session-proxy {command.words} ")  # type: ignore[attr-defined]
    assert CODES_TEXT in text
    assert all(option in text for option in ("--admin URL", "--token TOKEN", "--json"))
