"""Silence on a session's exchanges: who is asked for a sign of life, and what an answer forgives (semantics 16).

Owns the rule. Keeps no state: the instants of the last bytes are the exchanges' own. Invariant: a leg is asked only
while its upstream session is there, and what runs in one that is not is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.relay.standalone import LinkState

if TYPE_CHECKING:
    from proxy.core.ids import Generation
    from proxy.relay.leg import Leg
    from proxy.relay.session import SessionRelay

_LISTENING = frozenset({LinkState.OPENING, LinkState.OPEN})


def check(relay: SessionRelay, now: float) -> None:
    """Ask the upstream for a sign of life where one of the session's exchanges has been silent for long."""
    latest = now - relay.ctx.upstream.silence_seconds
    silent: dict[Leg, None] = {}
    for call in dict.fromkeys(relay.calls.values()):
        if call.awaits_bytes and call.last_bytes <= latest:
            leg = relay.leg_of(call.generation)
            if leg is None or not leg.is_bound(call.generation):
                # No ping can speak for an upstream session that is known to be lost.
                call.give_up("upstream_session_lost")
            else:
                silent[leg] = None
    leg = relay.leg
    if leg.has_link and leg.link.state in _LISTENING and bool(relay.readers) and leg.link.last_bytes <= latest:
        silent[leg] = None
    for leg in silent:
        leg.probe.check_silence(leg.binding.generation)


def forgive(leg: Leg, generation: Generation) -> None:
    """Forget the silence so far: the upstream answered a ping."""
    relay = leg.relay
    now = relay.ctx.clock.now()
    latest = now - relay.ctx.upstream.silence_seconds
    for call in dict.fromkeys(relay.calls.values()):
        if call.generation == generation:
            if call.last_bytes <= latest:
                call.ask_again()
            call.last_bytes = now
    if leg.has_link:
        leg.link.last_bytes = now
