"""The exact accounting of a job: one place for every session it is about.

Owns where each of them stands. Knows nothing of how it came there. Invariant, at every step: the numbers of all places
add up to the total, as each session stands in exactly one.
"""

from collections.abc import Hashable
from enum import Enum
from typing import Generic, TypeVar

from proxy.control.views import JobCounts
from proxy.relay.move import MoveOutcome

_Key = TypeVar("_Key", bound=Hashable)


class Standing(Enum):
    """How it stands with one session; the values are the names of the counts."""

    MOVED = "moved"
    REBUILT = "rebuilt"
    IDLE = "idle"
    CLOSED = "closed"
    FAILED = "failed"
    PINNED = "pinned"
    REMAINING = "remaining"


AFTER_MOVE = {
    MoveOutcome.MOVED: Standing.MOVED,
    MoveOutcome.REBUILT: Standing.REBUILT,
    MoveOutcome.IDLE: Standing.IDLE,
    MoveOutcome.CLOSED: Standing.CLOSED,
    MoveOutcome.FAILED: Standing.FAILED,
    MoveOutcome.PINNED: Standing.PINNED,
}
"""Where the report of a move puts a session."""

GONE_OVER = frozenset({Standing.MOVED, Standing.REBUILT, Standing.IDLE})
"""Those who lie on the new upstream now."""
STAYING = frozenset({Standing.FAILED, Standing.PINNED})
"""Those who had their turn and lie on the old one still."""


class Tally(Generic[_Key]):
    """Where each session of a job stands."""

    def __init__(self) -> None:
        self._standing: dict[_Key, Standing] = {}
        self._numbers = dict.fromkeys(Standing, 0)

    def __len__(self) -> int:
        """Count the sessions."""
        return len(self._standing)

    def __contains__(self, key: _Key) -> bool:
        """Tell whether a session is counted."""
        return key in self._standing

    def put(self, key: _Key, standing: Standing) -> None:
        """Let a session stand there from now on, wherever it stood before, if anywhere."""
        before = self._standing.get(key)
        if before is not None:
            self._numbers[before] -= 1
        self._standing[key] = standing
        self._numbers[standing] += 1

    def of(self, key: _Key) -> Standing | None:
        """Return where a session stands; None for one that is not counted."""
        return self._standing.get(key)

    def number(self, *standings: Standing) -> int:
        """Count those who stand in any of these places."""
        return sum(self._numbers[standing] for standing in standings)

    def standing_in(self, *standings: Standing) -> list[_Key]:
        """Return those who stand in any of these places, in the order of their coming."""
        if not self.number(*standings):
            return []
        return [key for key, standing in self._standing.items() if standing in standings]

    def counts(self, finished: int, unknown: int, running: int) -> JobCounts:
        """Return the numbers, with those of the calls on the old upstream beside them."""
        return JobCounts(
            total=len(self._standing),
            calls_finished=finished,
            calls_unknown=unknown,
            calls_running=running,
            **{standing.value: number for standing, number in self._numbers.items()},
        )
