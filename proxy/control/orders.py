"""What a job is to do, and what all jobs share. Plain data.

Knows nothing of how it is done. Invariant: an order never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.config import Swap
    from proxy.control.mover import Slots
    from proxy.observe.hooks import Observer
    from proxy.registry import Registry
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

DRAIN, SWAP, MOVE, REFRESH = "drain", "swap", "move", "refresh"


@dataclass(frozen=True, slots=True)
class Order:
    """What a job is to do."""

    kind: str
    """DRAIN, SWAP, MOVE or REFRESH."""
    registry: Registry
    old: Member
    """Where the sessions are."""
    new: Member | None = None
    """Where they go; None for a drain, which leaves it to the pool, and for a swap whose new member is yet to come."""
    admit: Callable[[], Member] | None = None
    """Takes that one into the pool once it was found fit."""
    relay: SessionRelay | None = None
    """The one session of a move or refresh."""
    percent: int = 100
    """1 to 100; less than all: a canary, which then waits for a word."""
    drain_seconds: float = 60.0
    """How long running calls and tasks are waited for."""
    removes: bool = False
    """Whether the old member goes for good once it is empty."""
    shown_new: str = ""
    """What people call the new one; empty: its key."""


class Ending(Protocol):
    """A job, as far as its end is told."""

    id: str


@dataclass(frozen=True, slots=True)
class Work:
    """What all jobs share."""

    clock: Clock
    observer: Observer
    slots: Slots
    settings: Callable[[], Swap]
    empty: Callable[[Registry, Member], None]
    """Removes a member that nobody is on any more, or as soon as nobody is."""
    ended: Callable[[Ending], None]
    """Learns of the end of a job."""
