"""Which command a command line means."""

import pytest

from proxy.cli import _parser
from proxy.commands import GROUPS
from proxy.commands.dispatch import COMMANDS, is_command, overview, run, valued
from proxy.commands.outcome import CODES_TEXT, CommandError
from proxy.errors import ConfigError

SERVING = valued(_parser())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", False),
        ("--listen 127.0.0.1:1", False),
        ("--upstream http://a/ --check", False),
        ("status", True),
        ("sessions ls", True),
        ("--admin http://a:1 sessions ls", True),
        ("--json status", True),
        ("--token status", False),
        ("--token=x status", True),
        ("--path status", False),
        ("--config events --check", False),
        ("--config c.toml events", True),
        ("--check status", True),
        ("-- status", True),
        ("--", False),
        ("serve status", False),
        ("--listen", False),
    ],
)
def test_the_first_word_decides(line: str, expected: bool) -> None:
    """A word that is the value of an option is none, whoever's option it is."""
    assert is_command(line.split(), SERVING) is expected


def test_no_option_takes_a_value_in_one_place_and_none_in_another() -> None:
    """Else nobody could tell where the first word is."""
    parsers = [_parser(), *(command.parser("") for command in COMMANDS)]
    with_value = {option for parser in parsers for option in valued(parser)}
    every = [option for parser in parsers for action in parser._actions for option in action.option_strings]
    without = {
        option
        for parser in parsers
        for action in parser._actions
        if action.nargs == 0
        for option in action.option_strings
    }

    assert with_value & without == set()
    assert with_value | without == set(every)


def test_every_command_begins_with_a_known_word() -> None:
    """The words by which serving is told from operating are those of the commands, no more and no fewer."""
    assert {command.words.split()[0] for command in COMMANDS} == set(GROUPS)
    assert len({command.words for command in COMMANDS}) == len(COMMANDS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sessions", "sessions: expected one of ls, show, close, move, refresh, interrupt, pin, unpin (see"),
        ("upstreams swop a b", "upstreams: expected one of ls, add, drain, undrain, swap, rm (see"),
        ("config", "config: expected one of check, show (see"),
        ("jobs --admin ls", "jobs: expected one of ls, show, cancel, rollback (see"),
        ("--json", "expected a command"),
    ],
)
def test_a_word_that_is_missing_or_wrong_names_those_there_are(line: str, message: str) -> None:
    """Who mistypes learns what there is."""
    with pytest.raises(CommandError) as caught:
        run(line.split(), "p", SERVING)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("line", ["status now", "sessions show a b", "status --limit 3", "--listen x status"])
def test_an_argument_too_many_is_refused(line: str) -> None:
    """What a command does not know it does not overlook."""
    with pytest.raises(ConfigError, match="unrecognized arguments"):
        run(line.split(), "p", SERVING)


def test_a_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Help on a first word alone is the list of the second ones."""
    code = run(["jobs", "--help"], "p", SERVING)
    out = capsys.readouterr().out

    assert code == 0
    assert out.startswith("usage: p jobs COMMAND ...\n")
    assert all(f"  jobs {verb}" in out for verb in ("ls", "show", "cancel", "rollback"))
    assert "sessions" not in out.replace("no such session", "")


def test_the_overview_has_every_command() -> None:
    """The program's own help leads to each, and tells the exit codes."""
    text = overview()

    assert all(f"  {command.words} " in text for command in COMMANDS)
    assert text.endswith(CODES_TEXT)
