"""Own which command a command line means: options may stand anywhere, so words are told from options' values first.

Knows the commands' parsers, not what they do. Invariant: a command line that holds no command's word before any other
word is not touched: it serves.
"""

import argparse
from collections.abc import Collection, Sequence

from proxy.commands import GROUPS, configuration, events, jobs, process, sessions, upstreams
from proxy.commands.command import Call, Command
from proxy.commands.outcome import CODES_TEXT, DONE, USAGE, CommandError

COMMANDS: tuple[Command, ...] = (
    *sessions.COMMANDS,
    *upstreams.COMMANDS,
    *jobs.COMMANDS,
    *events.COMMANDS,
    *configuration.COMMANDS,
    *process.COMMANDS,
)


def is_command(arguments: Sequence[str], serving: Collection[str]) -> bool:
    """Tell whether a command line holds a command: whether its first word is one of theirs.

    Args:
        arguments: without the program's name.
        serving: options of serving that take a value.
    """
    # Most command lines serve and have none of the words at all: then no parser needs to be made.
    if not set(GROUPS) & set(arguments):
        return False
    place = _first_word(arguments, {*serving, *_valued()})
    return place is not None and arguments[place] in GROUPS


def run(arguments: Sequence[str], program: str, serving: Collection[str]) -> int:
    """Run the command that a command line holds, and return its exit code.

    Args:
        arguments: without the program's name.
        program: its name, for messages.
        serving: options of serving that take a value.

    Raises:
        ConfigError: the command line or a file cannot be used.
        CommandError: it was not done; its exit code says why.
    """
    options = {*serving, *_valued()}
    rest = list(arguments)
    place = _first_word(rest, options)
    if place is None:
        raise CommandError("expected a command (see --help)", USAGE)
    group = rest.pop(place)
    known = {command.words: command for command in COMMANDS}
    words = group
    if words not in known:
        place = _first_word(rest, options)
        if place is None:
            return _without_verb(group, rest, program)
        words = f"{group} {rest.pop(place)}"
    if words not in known:
        raise CommandError(f"{group}: expected one of {_verbs(group)} (see {group} --help)", USAGE)
    command = known[words]
    # Intermixed: `sessions move ID --detach UPSTREAM` is one with `sessions move ID UPSTREAM --detach`.
    call = Call(command.parser(program).parse_intermixed_args(rest))
    return command.run(call)


def overview() -> str:
    """Return the list of commands, for the program's help."""
    width = max(len(command.words) for command in COMMANDS)
    lines = "".join(f"  {command.words.ljust(width)}  {command.help}\n" for command in COMMANDS)
    return f"commands (each has its own --help):\n{lines}\n{CODES_TEXT}"


def _without_verb(group: str, rest: list[str], program: str) -> int:
    if not {"--help", "-h"} & set(rest):
        raise CommandError(f"{group}: expected one of {_verbs(group)} (see {group} --help)", USAGE)
    own = [command for command in COMMANDS if command.words.startswith(f"{group} ")]
    width = max(len(command.words) for command in own)
    lines = "".join(f"  {command.words.ljust(width)}  {command.help}\n" for command in own)
    print(f"usage: {program} {group} COMMAND ...\n\n{lines}\n{CODES_TEXT}")  # noqa: T201 - help goes to stdout
    return DONE


def _verbs(group: str) -> str:
    return ", ".join(command.words.partition(" ")[2] for command in COMMANDS if command.words.startswith(f"{group} "))


def valued(parser: argparse.ArgumentParser) -> set[str]:
    """Return every option of a parser that takes a value."""
    actions = parser._actions  # noqa: SLF001 - argparse has no other way to ask
    return {option for action in actions if action.nargs != 0 for option in action.option_strings}


def _valued() -> set[str]:
    return {option for command in COMMANDS for option in valued(command.parser(""))}


def _first_word(arguments: Sequence[str], options: Collection[str]) -> int | None:
    """Return where the first word stands that is neither an option nor the value of one of *options*."""
    is_value = False
    for place, argument in enumerate(arguments):
        if is_value:
            is_value = False
        elif argument.startswith("-") and argument != "-":
            is_value = argument in options
        else:
            return place
    return None
