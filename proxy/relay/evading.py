"""A session leaves a member that is out: ejected, or removed while the session was on its way there.

Owns what is done about one session; whose turn it is, is the registry's. Knows no health. Invariant: a session is moved
only where another member is better, and one that somebody holds leaves only a member that is gone for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.core.session import BindingState
from proxy.upstream.member import MemberState

if TYPE_CHECKING:
    from proxy.relay.session import SessionRelay


def evade(relay: SessionRelay, done: Callable[[], None]) -> None:
    """Go elsewhere, if another member is better; what nobody uses now is made anew when it is. Calls *done* once."""
    session, member, pool = relay.session, relay.leg.member, relay.ctx.pool
    is_gone = member.state is MemberState.REMOVED
    is_held = (relay.is_pinned or session.has_tasks) and not is_gone
    is_free = session.binding.state is BindingState.BOUND and not is_held
    # Asked for those alone that go: it counts a session on its way.
    other = pool.successor(member, (), relay.placing_key) if is_free and relay.is_active else member
    if other is not member:
        relay.move(other, lambda _: done(), is_forced=is_gone)
    elif not is_free or relay.is_active or not pool.has_place((member,)):
        done()
    elif member.health.reason == "unreachable":
        relay.binder.lose(session.binding.generation, "ejected")
        done()
    else:
        # It may be alive, and would keep the upstream session for ever if nobody told it.
        relay.park()
        done()


def settle(relay: SessionRelay) -> None:
    """Leave again where the member was removed while the session was on its way there."""
    if relay.leg.member.state is MemberState.REMOVED:
        evade(relay, _nothing)


def _nothing() -> None:
    """Wait for nothing."""
