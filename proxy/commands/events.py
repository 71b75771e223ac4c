"""Own the command that shows the event feed, and its patience: a proxy that restarts is waited for."""

import argparse
from typing import Any

from proxy.commands.client import Event
from proxy.commands.command import Call, Command
from proxy.commands.layout import plain
from proxy.commands.outcome import DONE, INTERRUPTED, UNREACHABLE, CommandError

ATTEMPTS = 30
"""Tries to reach a proxy again, a second apart."""
_PAUSE_SECONDS = 1.0


def _events(call: Call) -> int:
    follow = call.arguments.follow
    reader = _Reader(call)
    try:
        reader.read(follow=follow)
        while follow:
            call.console.note("the proxy ended the stream; trying again")
            reader.read_again()
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


class _Reader:
    """Where one reader is."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._since = call.arguments.since
        self._has_begun = False

    def read(self, *, follow: bool) -> None:
        """Show events until the stream ends."""
        try:
            for event in self._call.admin.events(self._since, follow=follow):
                self._since = event.id
                self._has_begun = True
                self._show(event)
        except CommandError as error:
            # The first try tells at once that there is no proxy; later ones are only an interruption.
            if error.exit_code != UNREACHABLE or not self._has_begun or not follow:
                raise

    def read_again(self) -> None:
        """Come back to where it was.

        Raises:
            CommandError: the proxy does not come back either.
        """
        for attempt in range(ATTEMPTS):
            self._call.console.pause(_PAUSE_SECONDS)
            self._has_begun = False
            try:
                self.read(follow=True)
            except CommandError as error:
                if error.exit_code != UNREACHABLE or attempt == ATTEMPTS - 1:
                    raise
            else:
                return

    def _show(self, event: Event) -> None:
        if not event.body:
            return  # it only tells the place
        self._call.console.document(event.body)
        self._call.console.write(_line(event.body))


def _line(body: dict[str, Any]) -> str:
    if body.get("event") == "gap":
        missed = body.get("missed")
        many = "some" if missed is None else str(missed)
        return f"-- {many} events are missing ({plain(body.get('reason'))})\n"
    said = {name: value for name, value in body.items() if name not in ("id", "time", "event")}
    values = " ".join(f"{name}={plain(_short(value))}" for name, value in said.items())
    return f"{plain(body.get('time', ''))}  {plain(body.get('event', '')):<22}  {values}".rstrip() + "\n"


def _short(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--follow", action=argparse.BooleanOptionalAction, default=True,
        help="stay for what comes (the default), or show what is kept and end",
    )  # fmt: skip
    parser.add_argument("--since", metavar="ID", default="", help="go on behind this event; 0: all that are kept")


COMMANDS = (Command("events", "Show what happens, one line per event.", _events, _declare),)
