"""Own the command line: what serves and what operates, the lines a person reads, exit codes.

Without a command's word it serves. Must not import what serves requests, nor the commands, before it is needed:
`--check` and `--help` answer at once.
Exit codes of serving: 0, 2 for a configuration that cannot be used (one line on stderr, no traceback), 130 after
Ctrl-C. Those of commands, which `proxy.commands.outcome` owns: 0 done, 1 failed, refused or rolled back, 2 wrong
usage, configuration or token, 3 the admin API cannot be reached, 4 no such thing, 130 after Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from proxy import __version__
from proxy.commands import GROUPS
from proxy.commands.outcome import DONE, INTERRUPTED, USAGE, CommandError
from proxy.commands.parser import Parser
from proxy.config import ENV_PREFIX, Config, load
from proxy.errors import ConfigError

PROGRAM = "mcp-session-proxy"
_POOL_KEY = "upstream.url"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with `argv` (none: the process's arguments) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _operate(arguments) if _is_command(arguments) else _serve(arguments)
    except CommandError as error:
        return _failed(error, error.exit_code)
    except ConfigError as error:
        return _failed(error, USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED


def _failed(error: Exception, code: int) -> int:
    sys.stderr.write(f"{PROGRAM}: error: {error}\n")
    return code


def _is_command(arguments: Sequence[str]) -> bool:
    if not set(GROUPS) & set(arguments):
        return False
    from proxy.commands import dispatch  # noqa: PLC0415 - whoever serves does not need it

    return dispatch.is_command(arguments, dispatch.valued(_parser()))


def _operate(arguments: Sequence[str]) -> int:
    from proxy.commands import dispatch  # noqa: PLC0415 - as above

    try:
        return dispatch.run(arguments, PROGRAM, dispatch.valued(_parser()))
    except BrokenPipeError:
        # Whoever read, such as `head`, has enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _serve(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    overrides: dict[str, Any] = {key: value for key, value in vars(given).items() if "." in key}
    urls = overrides.get(_POOL_KEY, ())
    if len(urls) == 1:
        overrides[_POOL_KEY] = urls[0]
    config = load(given.config, os.environ, overrides)
    if given.check:
        from proxy.commands.configuration import summary  # noqa: PLC0415 - as above

        sys.stdout.write(summary(config))
        return 0
    return _run(config, lambda: load(given.config, os.environ, overrides), given.config)


def _run(config: Config, again: Callable[[], Config], path: Path | None) -> int:
    # Here and not above: aiohttp and what hangs on it take longer to import than all of --check.
    from proxy import app  # noqa: PLC0415

    return app.run(config, again, path)


class _Parser(Parser):
    """Lists the commands in its help; they are looked up for that alone."""

    def format_help(self) -> str:
        from proxy.commands.dispatch import overview  # noqa: PLC0415 - as above

        return f"{super().format_help()}\n{overview()}\n"


def _parser() -> argparse.ArgumentParser:
    """Build the parser; a flag that sets a setting stores under its dotted key, and only when it is given."""
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [options]          serve\n       {PROGRAM} COMMAND ...        operate a running proxy",
        description="A session-mapping reverse proxy for MCP: the session outlives the server behind it.",
        epilog=f"Each setting can come from the environment too: {ENV_PREFIX}LISTEN__ADDRESS=127.0.0.1:80.\n"
        "Order: defaults, file, environment, flags; the last one counts.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a new flag must not change what an old abbreviation means
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add(
        "--upstream", dest=_POOL_KEY, action="append", metavar="URL",
        help="the MCP server's endpoint; given several times, a pool of servers that do the same",
    )  # fmt: skip
    add("--listen", dest="listen.address", metavar="HOST:PORT|fd:N", help="where clients connect")
    add("--path", dest="listen.path", metavar="PATH", help="path of the MCP endpoint")
    add("--admin", dest="admin.address", metavar="HOST:PORT", help="where the admin API listens; empty: nowhere")
    add("--allow-anonymous", dest="listen.allow_anonymous", action="store_true", help="listen beyond loopback")
    add("--log-level", dest="log.level", metavar="LEVEL", help="debug, info, warning or error")
    add("--log-format", dest="log.format", metavar="FORMAT", help="auto, console or json")
    add("--config", type=Path, default=None, metavar="FILE", help="read settings from a TOML file")
    add("--check", action="store_true", default=False, help="validate the configuration and exit")
    add("--version", action="version", version=f"{PROGRAM} {__version__}", help="print the version and exit")
    return parser
