"""A configuration file that is watched by looking at it now and then.

Owns when a changed file is read. Knows nothing of what is in it. Invariants: a file is read once per change, and not
before it has stayed as it is for a whole interval; one that could not be used is not read again until it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from proxy.clock import Clock, Timer

INTERVAL_SECONDS = 1.0
"""Time between two looks. Not less: some file systems keep times of a second."""

Mark: TypeAlias = tuple[int, int, int]
"""Time of change, size and inode: who writes a file anew under its name changes at least one of them."""


def mark_of(path: Path) -> Mark | None:
    """Look at a file through links, as configuration in a container is one; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Watch:
    """Looks at one file until it is closed."""

    def __init__(self, clock: Clock, look: Callable[[], Mark | None], changed: Callable[[], object]) -> None:
        """Prepare to watch; the file as it is now counts as read.

        Args:
            clock: Time.
            look: Returns the file's mark, None while there is none.
            changed: Reads it; what it returns is nobody's business here.
        """
        self._clock = clock
        self._look = look
        self._changed = changed
        self._read = self._seen = look()
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Look from now on."""
        self._timer = self._clock.call_later(INTERVAL_SECONDS, self._turn)

    def close(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        # First the next look: a reload that raises must not be the last.
        self.begin()
        before, self._seen = self._seen, self._look()
        # While an editor puts a new file in the place of the old one there is none for a moment.
        if self._seen is None or self._seen != before or self._seen == self._read:
            return
        self._read = self._seen
        self._changed()
