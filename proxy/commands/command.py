"""Own what a command is: its words, its arguments, what it does; and what it is given to do it with.

Knows no single command. Invariant: every command takes `--admin`, `--token` and `--json`, before or after its own.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from proxy.commands.client import DEFAULT_ADDRESS, AdminClient, parse_admin
from proxy.commands.console import Console
from proxy.commands.outcome import CODES_TEXT
from proxy.commands.parser import Parser
from proxy.config import ENV_PREFIX

ADDRESS_ENV = f"{ENV_PREFIX}ADMIN__ADDRESS"
TOKEN_ENV = f"{ENV_PREFIX}ADMIN__TOKEN"


class Call:
    """One command line, read: its arguments, the console, and the way to the proxy where it needs one."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.console = Console(is_json=arguments.json)

    @cached_property
    def admin(self) -> AdminClient:
        """The admin API that is meant.

        Raises:
            CommandError: the address or the token cannot be one.
        """
        address = self.arguments.admin or os.environ.get(ADDRESS_ENV) or DEFAULT_ADDRESS
        token = self.arguments.token or os.environ.get(TOKEN_ENV, "")
        return AdminClient(parse_admin(address), token)


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do."""

    words: str
    """By which it is called."""
    help: str
    run: Callable[[Call], int]
    """Does it and returns the exit code."""
    declare: Callable[[argparse.ArgumentParser], object] = lambda _: None
    """Adds its own arguments to a parser."""
    notes: str = ""
    """What its help says at the end."""

    def parser(self, program: str) -> Parser:
        """Return what reads its arguments."""
        parser = Parser(
            prog=f"{program} {self.words}",
            description=self.help,
            epilog=f"{self.notes}\n\n{CODES_TEXT}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.declare(parser)
        common = parser.add_argument_group("of every command")
        common.add_argument(
            "--admin", metavar="URL", default="",
            help=f"the admin API, http://host:port or host:port; else {ADDRESS_ENV}, else {DEFAULT_ADDRESS}",
        )  # fmt: skip
        common.add_argument("--token", metavar="TOKEN", default="", help=f"its token; better in {TOKEN_ENV}")
        common.add_argument("--json", action="store_true", help="write JSON, for programs")
        return parser
