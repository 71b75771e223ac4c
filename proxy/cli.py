"""Own the command line: arguments, the lines a person reads, exit codes.

Must not import what serves requests before it is needed: `--check` and `--help` answer at once.
Exit codes: 0, 2 for a configuration that cannot be used (one line on stderr, no traceback), 130 after Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from proxy import __version__
from proxy.config import ENV_PREFIX, Config, load
from proxy.errors import ConfigError

PROGRAM = "mcp-session-proxy"


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument as any other configuration error: in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (none: the process's arguments) and return its exit code."""
    try:
        arguments = _parser().parse_args(argv)
        overrides = {key: value for key, value in vars(arguments).items() if "." in key}
        config = load(arguments.config, os.environ, overrides)
        if arguments.check:
            _look_at_files(config)
            sys.stdout.write(_summary(config))
            return 0
        return _run(config)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells count


def _run(config: Config) -> int:
    # Here and not above: aiohttp and what hangs on it take longer to import than all of --check.
    from proxy import app  # noqa: PLC0415

    return app.run(config)


def _look_at_files(config: Config) -> None:
    if config.upstream.ca_file:
        from proxy.upstream.tls import client_context  # noqa: PLC0415 - only where it is needed, as above

        client_context(config.upstream)


def _summary(config: Config) -> str:
    listen = config.listen
    if listen.descriptor is None:
        place = f"http://{listen.address}{listen.path}"
    else:
        # Whoever checks need not have the socket: it is looked at when it is taken.
        place = f"inherited descriptor {listen.descriptor}, path {listen.path}"
    return f"configuration ok\nupstream: {config.upstream.name} {config.upstream.url}\nlisten: {place}\n"


def _parser() -> argparse.ArgumentParser:
    """Build the parser; a flag that sets a setting stores under its dotted key, and only when it is given."""
    parser = _Parser(
        prog=PROGRAM,
        description="A session-mapping reverse proxy for MCP: the session outlives the server behind it.",
        epilog=f"Each setting can come from the environment too: {ENV_PREFIX}LISTEN__ADDRESS=127.0.0.1:80. "
        "Order: defaults, file, environment, flags; the last one counts.",
        allow_abbrev=False,  # a new flag must not change what an old abbreviation means
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--upstream", dest="upstream.url", metavar="URL", help="the MCP server's endpoint")
    add("--listen", dest="listen.address", metavar="HOST:PORT|fd:N", help="where clients connect")
    add("--path", dest="listen.path", metavar="PATH", help="path of the MCP endpoint")
    add("--allow-anonymous", dest="listen.allow_anonymous", action="store_true", help="listen beyond loopback")
    add("--log-level", dest="log.level", metavar="LEVEL", help="debug, info, warning or error")
    add("--log-format", dest="log.format", metavar="FORMAT", help="auto, console or json")
    add("--config", type=Path, default=None, metavar="FILE", help="read settings from a TOML file")
    add("--check", action="store_true", default=False, help="validate the configuration and exit")
    add("--version", action="version", version=f"{PROGRAM} {__version__}", help="print the version and exit")
    return parser
