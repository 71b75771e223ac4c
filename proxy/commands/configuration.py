"""Own the commands on the configuration: check a file, show what is in force here or in a running proxy."""

import argparse
import os
from pathlib import Path

from proxy.commands.command import Call, Command
from proxy.commands.outcome import DONE, USAGE, CommandError
from proxy.commands.toml import written
from proxy.config import Config, effective, load


def summary(config: Config) -> str:
    """Return what a valid configuration comes to.

    Raises:
        ConfigError: a file that it names cannot be used.
    """
    _look_at_files(config)
    listen = config.listen
    # Whoever checks need not have the socket: it is looked at when it is taken.
    inherited = f"inherited descriptor {listen.descriptor}"
    text = "configuration ok\n"
    for route in config.routes:
        if "routes" in config.given:
            text += f"route: {route.name} {route.host}{route.path} {route.policy}\n"
        text += "".join(f"upstream: {upstream.name} {upstream.url}\n" for upstream in route.upstreams)
    paths = [route.path for route in config.routes]
    if listen.descriptor is None:
        return text + "".join(f"listen: http://{listen.address}{path}\n" for path in dict.fromkeys(paths))
    return text + "".join(f"listen: {inherited}, path {path}\n" for path in dict.fromkeys(paths))


def _look_at_files(config: Config) -> None:
    for upstream in (upstream for route in config.routes for upstream in route.upstreams):
        if upstream.ca_file:
            from proxy.upstream.tls import client_context  # noqa: PLC0415 - only where it is needed: it takes its time

            client_context(upstream)


def _file(call: Call) -> Path | None:
    given = call.arguments
    if given.file is not None and given.config is not None:
        raise CommandError("expected one file, as FILE or with --config", USAGE)
    file: Path | None = given.file if given.file is not None else given.config
    return file


def _check(call: Call) -> int:
    config = load(_file(call), os.environ, {})
    text = summary(config)
    call.console.document({"is_valid": True, "config": effective(config)})
    call.console.write(text)
    return DONE


def _show(call: Call) -> int:
    file = _file(call)
    # An address in the environment is a setting of the local configuration too: only the flag means another process.
    if call.arguments.admin:
        if file is not None:
            raise CommandError("expected a file, or --admin for a running proxy, not both", USAGE)
        tables = call.admin.ask("GET", "/config")
    else:
        tables = effective(load(file, os.environ, {}))
    call.console.document(tables)
    call.console.write(written(tables))
    return DONE


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a TOML file; none: defaults")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the same")


COMMANDS = (
    Command("config check", "Validate a configuration; serves nothing, and asks no proxy.", _check, _declare),
    Command(
        "config show", "Show every setting in force, secrets masked: of a file, or with --admin of a running proxy.",
        _show, _declare,
    ),
)  # fmt: skip
