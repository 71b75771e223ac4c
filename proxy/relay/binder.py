"""One session's present binding: it feeds events to the table in `core.session` and carries out the commands.

Owns who waits for the binding and the one rebuild under way, and where that is made. Holds no rule of its own about
when a state changes. Invariant: a request on a bound session goes straight through; everything else waits for the same
rebuild.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from proxy.core import headers as h
from proxy.core.headers import Headers
from proxy.core.ids import Generation
from proxy.core.session import BindingEvent, BindingState, Command, SessionState
from proxy.observe import hooks
from proxy.relay.evading import settle
from proxy.relay.rebuild import Rebuild, Refusal
from proxy.upstream.member import MemberState

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.leg import Leg
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

REOPEN_SECONDS = 5.0
"""How long after a refused handshake an attached reader's session is tried again without a request."""


class Waiter(Protocol):
    """Whoever waits for the binding."""

    @property
    def headers(self) -> Headers:
        """Its client's headers, for the credentials."""

    def queued(self) -> None:
        """It has to wait."""

    def send(self) -> None:
        """The session is bound."""

    def refuse(self, refusal: Refusal) -> None:
        """The session could not be bound."""


class Binder:
    """Binds one session, again and again. Fulfils `rebuild.Owner`."""

    __slots__ = ("_homecoming", "_rebuild", "_relay", "_waiting")

    def __init__(self, relay: SessionRelay) -> None:
        self._relay = relay
        self._waiting: dict[Waiter, None] = {}
        self._rebuild: Rebuild | None = None
        self._homecoming: Timer | None = None
        """Looks whether the session's own member is well again."""

    # -- who needs the binding

    def demand(self, waiter: Waiter) -> None:
        """Send at once when bound; otherwise wait for the rebuild, starting it if nobody has."""
        session = self._relay.session
        if session.binding.state is BindingState.BOUND:
            waiter.send()
        elif session.state is SessionState.CLOSED:
            waiter.refuse(Refusal("closed_unsent"))
        else:
            self._enter(waiter)
            self.apply(BindingEvent.NEEDED)

    def await_switch(self, waiter: Waiter) -> None:
        """Wait for the binding that a move makes, and start nothing."""
        self._waiting[waiter] = None
        waiter.queued()

    def _enter(self, waiter: Waiter) -> None:
        self._waiting[waiter] = None
        waiter.queued()
        if self._rebuild is not None:
            self._rebuild.promote(waiter.headers)

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting."""
        self._waiting.pop(waiter, None)

    def is_bound(self, generation: Generation) -> bool:
        """Tell whether the upstream session of *generation* is the present one."""
        binding = self._relay.session.binding
        return binding.state is BindingState.BOUND and binding.generation == generation

    @property
    def building(self) -> Generation | None:
        """The generation that is being made, if one is."""
        return self._rebuild.generation if self._rebuild is not None else None

    def note_bound(self) -> None:
        """Enter the binding into the dual map."""
        session = self._relay.session
        binding = session.binding
        self._relay.ctx.ids.bind(session.id, binding.upstream, binding.upstream_id, binding.generation)

    # -- what happens to it

    def lose(self, generation: Generation, reason: str) -> None:
        """Report that the upstream session of *generation* is gone; news of an older one is ignored."""
        if not self.is_bound(generation):
            return
        self._observe_lost(reason)
        self.apply(BindingEvent.LOSS)

    def lose_for(self, waiter: Waiter, generation: Generation, reason: str) -> None:
        """Report the loss that *waiter*'s request met, and send it in the next upstream session."""
        if not self.is_bound(generation):
            self.demand(waiter)
            return
        self._observe_lost(reason)
        # It waits before the loss is told: an attached reader would start the rebuild in the background's queue and
        # with older credentials than those of this live request (semantics 12). It frees its room after that: who
        # waits for it would be sent into the session that is lost.
        self._waiting[waiter] = None
        self.apply(BindingEvent.LOSS)
        waiter.queued()

    def _observe_lost(self, reason: str) -> None:
        relay = self._relay
        if relay.ctx.observer.is_active:
            relay.ctx.observer.upstream_lost(
                hooks.UpstreamLost(session=relay.fingerprint, upstream=relay.leg.member.name, reason=reason)
            )

    def _begin_rebuild(self) -> None:
        relay = self._relay
        live = next((waiter for waiter in self._waiting), None)
        credentials = live.headers if live is not None else relay.credentials
        self._rebuild = Rebuild(relay.leg, self, credentials, is_live=live is not None)
        self._rebuild.start()

    def resume(self) -> None:
        """Make the binding after all: the move that was to make it came to nothing."""
        if self._relay.session.binding.state is BindingState.BINDING and self._rebuild is None:
            self._begin_rebuild()

    def wake(self) -> None:
        """Make the binding, if somebody wants it: the session has another place now."""
        if self._waiting or self._relay.readers.has_standalone:
            self.apply(BindingEvent.NEEDED)

    # -- what the rebuild asks and reports

    def leg_for(self, rebuild: Rebuild) -> Leg:
        """Return where the next attempt is made.

        At the same member while that is well, so that its restart is no failover; else at another one of the pool.
        """
        relay = self._relay
        member = relay.leg.member
        chosen = relay.ctx.pool.successor(member, rebuild.tried, relay.placing_key)
        if chosen is not member:
            relay.rehome(chosen)
        return relay.leg

    def unavailable(self, rebuild: Rebuild, *, is_hung: bool) -> None:
        """Try again when the member, or another one, can be reached."""
        relay = self._relay
        member = relay.leg.member
        if is_hung and len(relay.ctx.pool.members) > 1:
            rebuild.refusals[member.name] = {"upstream": member.name, "reason": "upstream_silent"}
            # It accepts connections, so the queue of an outage would lead back to it at once.
            other = relay.ctx.pool.successor(member, (*rebuild.tried, member), relay.placing_key)
            if other is not member and other.is_available:
                rebuild.tried = (*rebuild.tried, member)
                relay.rehome(other)
                rebuild.begin_again()
                return
        rebuild.try_again()

    def told(self) -> dict[str, Any]:
        """Return what the members of the pool said that would not host the session, for whoever waits in vain."""
        refusals = self._rebuild.refusals if self._rebuild is not None else {}
        return {"refused": list(refusals.values())} if refusals else {}

    def built(self, rebuild: Rebuild) -> None:
        """Bind to what the rebuild made, tell the resync, send what waits."""
        relay = self._relay
        self._rebuild = None
        # A server that lost a session may have come back as another version.
        rebuild.came_from.doubt_tools()
        relay.session.binding.upstream_id = rebuild.upstream_id
        self.apply(BindingEvent.BUILT, generation=rebuild.generation)
        self.note_bound()
        if relay.wants_standalone:
            # Open already, unless the client asked for it while the rebuild was past that step.
            relay.leg.link.open(relay.session.binding.generation, rebuild.upstream_id)
        if relay.ctx.observer.is_active:
            self._observe_built(rebuild)
        settle(relay)

    def _observe_built(self, rebuild: Rebuild) -> None:
        relay, came_from = self._relay, rebuild.came_from
        observer, member = relay.ctx.observer, relay.leg.member
        generation = relay.session.binding.generation
        waited = relay.ctx.clock.now() - rebuild.started_at
        if came_from is member:
            observer.session_rebuilt(
                hooks.SessionRebuilt(
                    session=relay.fingerprint, upstream=member.name, generation=generation, waited_seconds=waited
                )
            )
        else:
            observer.session_failed_over(
                hooks.SessionFailedOver(
                    session=relay.fingerprint,
                    upstream=member.key,
                    previous=came_from.key,
                    generation=generation,
                    waited_seconds=waited,
                )
            )

    def failed(self, refusal: Refusal) -> None:
        """Try the pool's other members; keep the session although none can host it now, to be tried again later."""
        relay, rebuild = self._relay, self._rebuild
        if rebuild is not None:
            self._pass_over(rebuild, refusal)
            if len(relay.ctx.pool.members) > 1:
                refusal.data = {**refusal.data, **self.told()}
            other = relay.ctx.pool.place(relay.placing_key, rebuild.tried)
            if other is not None:
                self._go_on_at(other, rebuild, refusal)
                return
        self._refused_by_upstream(BindingEvent.FAILED, refusal)

    def denied(self, refusal: Refusal) -> None:
        """Try the pool's other members that are well; else wait for other credentials (semantics 12)."""
        relay, rebuild, event = self._relay, self._rebuild, BindingEvent.DENIED
        if rebuild is not None:
            self._pass_over(rebuild, refusal)
            pool, came_from = relay.ctx.pool, rebuild.came_from
            if any(each.is_available and each not in rebuild.tried for each in pool.members):
                other = pool.place(relay.placing_key, rebuild.tried)
                if other is not None:
                    self._go_on_at(other, rebuild, refusal)
                    return
            if came_from.state is MemberState.ACTIVE and came_from not in rebuild.tried:
                event = BindingEvent.DENIED_ELSEWHERE
        self._refused_by_upstream(event, refusal)

    def _pass_over(self, rebuild: Rebuild, refusal: Refusal) -> None:
        member = self._relay.leg.member
        rebuild.tried = (*rebuild.tried, member)
        rebuild.refusals[member.name] = {"upstream": member.name, "reason": refusal.reason, **refusal.data}

    def _go_on_at(self, other: Member, rebuild: Rebuild, refusal: Refusal) -> None:
        self._observe_failed(refusal)
        self._relay.rehome(other)
        rebuild.begin_again()

    def _refused_by_upstream(self, event: BindingEvent, refusal: Refusal) -> None:
        relay, rebuild = self._relay, self._rebuild
        self._drop_rebuild()
        self._observe_failed(refusal)
        if event is BindingEvent.DENIED_ELSEWHERE and rebuild is not None:
            # One that has taken nothing of it is no home: the next attempt would begin there.
            relay.rehome(rebuild.came_from)
        self.apply(event, refusal)

    def _drop_rebuild(self) -> None:
        rebuild, self._rebuild = self._rebuild, None
        if rebuild is not None:
            self._relay.session.return_generation(rebuild.generation)

    def _observe_failed(self, refusal: Refusal) -> None:
        relay = self._relay
        if relay.ctx.observer.is_active:
            relay.ctx.observer.rebuild_failed(
                hooks.RebuildFailed(session=relay.fingerprint, upstream=relay.leg.member.name, reason=refusal.reason)
            )

    def apply(
        self, event: BindingEvent, refusal: Refusal | None = None, *, generation: Generation | None = None
    ) -> None:
        """Feed an event to the table and carry out its commands, in order."""
        for command in self._relay.session.binding.receive(event, generation):
            self._execute(command, refusal)

    def send_waiting(self) -> None:
        """Send what waits: the session is bound."""
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.send()

    def _execute(self, command: Command, refusal: Refusal | None) -> None:
        relay = self._relay
        match command:
            case Command.START_REBUILD:
                # Single flight: a move that is under way makes an upstream session already.
                if relay.moving is None:
                    self._begin_rebuild()
            case Command.REBUILD_IF_WANTED:
                if self._waiting or relay.readers.has_standalone:
                    self.apply(BindingEvent.NEEDED)
            case Command.STOP_REBUILD:
                if self._rebuild is not None:
                    self._rebuild.stop()
                    self._drop_rebuild()
            case Command.RAISE_GENERATION:
                pass  # Done by the binding itself: the number and the state move together.
            case Command.CLOSE_SERVER_REQUESTS:
                relay.session.close_server_requests(relay.session.binding.generation)
            case Command.TELL_RESYNC:
                relay.readers.tell_resync()
            case Command.SEND_WAITING:
                self.send_waiting()
            case Command.FAIL_WAITING:
                waiting, self._waiting = self._waiting, {}
                for waiter in waiting:
                    waiter.refuse(refusal or Refusal("closed_unsent"))
            case Command.FAIL_DENIED:
                self._fail_denied(refusal or Refusal("closed_unsent"))
            case Command.REOPEN_LATER:
                if relay.readers.has_standalone:
                    relay.ctx.clock.call_later(REOPEN_SECONDS, self._reopen)
            case Command.REOPEN_AT_HOME:
                if self._homecoming is None:
                    self._homecoming = relay.ctx.clock.call_later(REOPEN_SECONDS, self._reopen_at_home)
            case Command.CLOSE_STANDALONE:
                relay.leg.close_link()
            case Command.END_UPSTREAM:
                relay.leg.end()

    def _fail_denied(self, refusal: Refusal) -> None:
        # One waiter's bad token, or a stored one that was rotated, must not answer for the others' good ones.
        refused = h.get(refusal.credentials, "Authorization")
        for waiter in tuple(self._waiting):
            if h.get(waiter.headers, "Authorization") == refused:
                del self._waiting[waiter]
                waiter.refuse(refusal)
        if self._waiting:
            self.apply(BindingEvent.NEEDED)

    def _reopen(self) -> None:
        if self._wants_reopening:
            self.apply(BindingEvent.NEEDED)

    def _reopen_at_home(self) -> None:
        self._homecoming = None
        if not self._wants_reopening:
            return
        member = self._relay.leg.member
        if member.is_available or member.can_be_tried:
            self.apply(BindingEvent.NEEDED)
        else:
            self._homecoming = self._relay.ctx.clock.call_later(REOPEN_SECONDS, self._reopen_at_home)

    @property
    def _wants_reopening(self) -> bool:
        return self._relay.session.binding.state is BindingState.LOST and self._relay.readers.has_standalone
