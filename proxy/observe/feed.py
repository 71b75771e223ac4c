"""Own the last events, numbered, for who reads them later and comes back for more.

Knows no HTTP and no reader's pace: a reader asks for what lies behind its own place. Invariant: at most `limit` events
are kept whoever reads how slowly, numbers have no holes, and what is no longer there is told as a number of events.
"""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from proxy.observe.hooks import Funnel, Record, said

FROM_THE_START = "0"
"""The cursor of who wants all that is kept."""


class Event(NamedTuple):
    """One record, and its place in the feed."""

    number: int
    """From 1, without holes."""
    at: float
    """Unix time, seconds."""
    verb: str
    record: Record


class Place(NamedTuple):
    """Where a reader goes on."""

    after: int
    """Number of the last event it has."""
    is_known: bool
    """Whether its cursor was one of this feed; if not, nobody can say what it missed."""


class EventFeed(Funnel):
    """Keeps the last `limit` records. `name` tells this feed from those of other processes: no `-` in it."""

    def __init__(self, limit: int, name: str, wall: Callable[[], float]) -> None:
        self._name = name
        self._wall = wall
        self._kept: deque[Event] = deque(maxlen=limit)
        self._watchers: dict[Callable[[], None], None] = {}
        self.latest = 0
        """Number of the last event; 0 before the first."""

    def observed(self, verb: str, record: Record) -> None:
        """Keep `record` and wake who waits for one."""
        self.latest += 1
        self._kept.append(Event(self.latest, self._wall(), verb, record))
        for watcher in list(self._watchers):
            watcher()

    def cursor(self, number: int) -> str:
        """Return the text by which a reader that has event `number` comes back."""
        return f"{self._name}-{number}"

    def place(self, cursor: str) -> Place:
        """Return where a reader with this cursor goes on.

        No cursor: behind the latest event. One of another process or a damaged one: before all that is kept, and so
        does `FROM_THE_START`, which misses nothing.
        """
        oldest = self.latest - len(self._kept)
        if not cursor:
            return Place(self.latest, is_known=True)
        if cursor == FROM_THE_START:
            return Place(oldest, is_known=True)
        name, _, digits = cursor.rpartition("-")
        # isdecimal alone would let digits of other scripts pass, and int() any length of them.
        is_number = digits.isascii() and digits.isdecimal() and len(digits) < 20
        if name == self._name and is_number and int(digits) <= self.latest:
            return Place(int(digits), is_known=True)
        return Place(oldest, is_known=False)

    def read(self, after: int, most: int) -> tuple[int, list[Event]]:
        """Return how many events behind `after` are no longer kept, and up to `most` of those that are."""
        oldest = self.latest - len(self._kept)
        missed = max(0, oldest - after)
        first = max(0, after - oldest)
        return missed, list(islice(self._kept, first, first + most))

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have `watcher` called after each event. It must not call back, nor raise."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Call it no more; harmless when it was not called."""
        self._watchers.pop(watcher, None)

    def body(self, event: Event) -> dict[str, Any]:
        """Return an event as it is shown: id, time (UTC, RFC 3339), event, and what its record says."""
        time = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"id": self.cursor(event.number), "time": time, "event": event.verb, **said(event.record)}
