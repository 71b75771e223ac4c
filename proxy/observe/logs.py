"""Own the log: every session event as one line on stderr, for a person or as JSON.

Knows no sessions: what a line may say was decided by the records of `hooks`. Invariant: one event is one
line, and no line holds a session id, a body or a header value; texts of libraries' exceptions are left out.
"""

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

from proxy.observe.hooks import VERBS, Funnel, Record, said

_LOSSES = {
    "gap_told", "call_ended_unknown", "upstream_lost", "rebuild_failed", "reader_cut", "notification_dropped",
    "request_rejected", "upstream_ejected", "pool_panicked", "move_failed", "reload_refused",
}  # fmt: skip
LEVELS: dict[str, str] = {verb: "warning" if verb in _LOSSES else "info" for verb in VERBS}
"""Level of each verb: warning where something was lost, cut or refused; info for the course of a session."""

ANYBODYS: Final = frozenset({"request_rejected"})
"""Verbs that anybody who reaches the port can cause, without a session, as often as he likes."""
ANYBODYS_LINES: Final = 20
"""Lines a second that they have together; what is beyond is counted, and told with the next line."""

_LONGEST_MESSAGE = 200
_INNERMOST_FRAMES = 6


def configure(level: str, format: str, stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Set structlog and the standard library's logging up to write lines to `stream` (none: stderr).

    `level` is debug, info, warning or error; `format` console, json, or auto (console on a terminal, else
    json).
    Loggers obtained before keep what was set when they were bound.
    """
    target = stream or sys.stderr
    is_terminal = target.isatty()
    is_console = format == "console" or (format == "auto" and is_terminal)
    render: Any = structlog.processors.JSONRenderer()
    if is_console:
        render = structlog.dev.ConsoleRenderer(colors=is_terminal)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _tidy,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    _adopt_library_logs(level)


class LogObserver(Funnel):
    """Writes one line per record; to be made after `configure`.

    Knows the least severe level that is written: below it not even the words of a line are looked up. *now* are
    seconds of any clock.
    """

    def __init__(self, level: str, now: Callable[[], float]) -> None:
        least = logging.getLevelNamesMapping()[level.upper()]
        self._written = {verb for verb, own in LEVELS.items() if logging.getLevelNamesMapping()[own.upper()] >= least}
        self._logger = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger().bind())
        self._now = now
        self._second_ends = now()
        self._lines = 0
        self._unlogged = 0

    def observed(self, verb: str, record: Record) -> None:
        """Write `record` under the name of its verb; empty fields are left out."""
        if verb not in self._written:
            return
        fields = said(record)
        if verb in ANYBODYS:
            if not self._has_line():
                self._unlogged += 1
                return
            if self._unlogged:
                fields["unlogged"] = self._unlogged
                self._unlogged = 0
        getattr(self._logger, LEVELS[verb])(verb, **fields)

    def _has_line(self) -> bool:
        """Take one of the lines of this second, if there is one left."""
        now = self._now()
        if now >= self._second_ends:
            self._second_ends = now + 1.0
            self._lines = 0
        self._lines += 1
        return self._lines <= ANYBODYS_LINES


def _tidy(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put what every line has first, shorten seconds, and escape what could forge a line or move a cursor."""
    tidy: dict[str, Any] = {name: fields.pop(name) for name in ("timestamp", "level", "event")}
    for name, value in fields.items():
        tidy[name] = round(value, 3) if isinstance(value, float) else value
    for name, value in tidy.items():
        if isinstance(value, str) and not value.isprintable():
            tidy[name] = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return tidy


def _adopt_library_logs(level: str) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler())
    # Never below warning: what aiohttp says at debug level quotes the bytes of bad requests.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))


class _LibraryHandler(logging.Handler):
    """Writes what asyncio and aiohttp log as lines like the proxy's own.

    Of an exception it tells the type and the place, not the text: that may quote a header or a body. asyncio
    repeats it in the later lines of its message, so only the first one is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logger = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger().bind())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line for `record`."""
        # structlog knows the named levels only.
        level = min(max(record.levelno // 10 * 10, logging.WARNING), logging.CRITICAL)
        # A handler must not raise into the code that logs; logging's own way out prints the whole message.
        with contextlib.suppress(Exception):
            self._logger.log(level, "library_log", **_library_said(record))


def _library_said(record: logging.LogRecord) -> dict[str, str]:
    line = {"logger": record.name, "message": record.getMessage().partition("\n")[0][:_LONGEST_MESSAGE]}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-_INNERMOST_FRAMES:]
        line["error"] = type(error).__name__
        line["at"] = " > ".join(f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in frames)
    return line
