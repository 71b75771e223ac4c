"""Own where output goes: results to stdout, notes and progress to stderr; for a person or, as JSON, for a program.

Knows no command. Invariant: with `--json` stdout holds JSON documents only, each on a line of its own.
"""

import json
import shutil
import sys
import time
from typing import Any

BAR_CELLS = 24


class Console:
    """The two streams of one command."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        self._has_bar = not is_json and sys.stderr.isatty()
        self._shown = ""

    @property
    def has_bar(self) -> bool:
        """Whether progress is drawn over itself, on a terminal."""
        return self._has_bar

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def write(self, text: str) -> None:
        """Write a result for a person; nothing with `--json`."""
        if not self.is_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    def document(self, value: Any) -> None:
        """Write a result for a program; nothing without `--json`."""
        if self.is_json:
            # Escaped to ASCII: what a peer calls itself must not play tricks here either.
            sys.stdout.write(json.dumps(value) + "\n")
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell a person something beside the result."""
        self.end_progress()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def progress(self, done: int, total: int, text: str) -> None:
        """Show how far something is: a bar on a terminal, else a line when it changed."""
        if self.is_json:
            return
        if not self._has_bar:
            if text != self._shown:
                self._shown = text
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
            return
        filled = BAR_CELLS * done // total if total else 0
        line = f"[{'#' * filled}{'.' * (BAR_CELLS - filled)}] {text}"[: shutil.get_terminal_size().columns - 1]
        # A shorter line leaves the end of the longer one before it: blanks go over that.
        sys.stderr.write("\r" + line.ljust(len(self._shown)))
        sys.stderr.flush()
        self._shown = line

    def end_progress(self) -> None:
        """Leave the bar as it is and go on below it."""
        if self._has_bar and self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._shown = ""
