"""The states of a job and the table that moves it.

Owns which change may follow which. Knows nothing of what a job does in a state. Law: every change is a row of `JOB`;
a pair without a row raises and changes nothing; from every state but the final ones a job can be cancelled.
"""

from collections.abc import Mapping
from enum import Enum

from proxy.errors import IllegalTransition


class JobState(Enum):
    """Where a job is."""

    COMPARING = "comparing"
    """The new upstream and the old one are asked who they are; nothing has changed yet."""
    MOVING = "moving"
    """Sessions get their second bindings."""
    FINISHING = "finishing"
    """All have been asked to move; calls still run in old bindings."""
    HOLDING = "holding"
    """A canary's share has moved; the rest waits for a word."""
    ROLLING_BACK = "rolling_back"
    """What has moved moves back."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"


class JobEvent(Enum):
    """What can happen to a job."""

    COMPARED = "compared"
    """Nothing speaks against it."""
    REFUSED = "refused"
    """The new upstream will not do."""
    ALL_MOVED = "all moved"
    """Every session has had its turn, and whoever waits for a task has no more to wait for."""
    SHARE_MOVED = "share moved"
    EXTENDED = "extended"
    """The canary gets a larger share, or everything."""
    FINISHED = "finished"
    """Nothing runs in old bindings any more."""
    STUCK = "stuck"
    """The same, but some sessions had to stay."""
    TAKEN_BACK = "taken back"
    """By its operator, or because too much went wrong."""
    RETURNED = "returned"
    """All are back."""
    CANCELLED = "cancelled"


_S, _E = JobState, JobEvent

JOB: Mapping[tuple[JobState, JobEvent], JobState] = {
    (_S.COMPARING, _E.COMPARED): _S.MOVING,
    (_S.COMPARING, _E.REFUSED): _S.FAILED,
    (_S.COMPARING, _E.CANCELLED): _S.CANCELLED,
    (_S.MOVING, _E.ALL_MOVED): _S.FINISHING,
    (_S.MOVING, _E.SHARE_MOVED): _S.HOLDING,
    (_S.MOVING, _E.TAKEN_BACK): _S.ROLLING_BACK,
    (_S.MOVING, _E.CANCELLED): _S.CANCELLED,
    (_S.HOLDING, _E.EXTENDED): _S.MOVING,
    (_S.HOLDING, _E.TAKEN_BACK): _S.ROLLING_BACK,
    (_S.HOLDING, _E.CANCELLED): _S.CANCELLED,
    (_S.FINISHING, _E.FINISHED): _S.DONE,
    (_S.FINISHING, _E.STUCK): _S.FAILED,
    (_S.FINISHING, _E.TAKEN_BACK): _S.ROLLING_BACK,
    (_S.FINISHING, _E.CANCELLED): _S.CANCELLED,
    (_S.ROLLING_BACK, _E.RETURNED): _S.ROLLED_BACK,
    (_S.ROLLING_BACK, _E.STUCK): _S.FAILED,
    (_S.ROLLING_BACK, _E.CANCELLED): _S.CANCELLED,
}

FINAL = frozenset({_S.DONE, _S.FAILED, _S.CANCELLED, _S.ROLLED_BACK})
"""States that no event leaves."""


def after(state: JobState, event: JobEvent) -> JobState:
    """Return the state that follows.

    Raises:
        IllegalTransition: the table has no such row.
    """
    following = JOB.get((state, event))
    if following is None:
        raise IllegalTransition(f"job: {event.value} in state {state.value}")
    return following
