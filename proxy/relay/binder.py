"""One session's binding: it feeds events to the table in `core.session` and carries out the commands.

Owns who waits for the binding and the one rebuild under way. Holds no rule of its own about when a state changes.
Invariant: a request on a bound session goes straight through; everything else waits for the same rebuild.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proxy.core import headers as h
from proxy.core.headers import Headers
from proxy.core.ids import Generation, UpstreamSessionId
from proxy.core.session import BindingEvent, BindingState, Command, SessionState
from proxy.observe import hooks
from proxy.relay.rebuild import Rebuild, Refusal

if TYPE_CHECKING:
    from proxy.relay.session import SessionRelay

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
    """Binds one session, again and again."""

    __slots__ = ("_rebuild", "_relay", "_waiting")

    def __init__(self, relay: SessionRelay) -> None:
        self._relay = relay
        self._waiting: dict[Waiter, None] = {}
        self._rebuild: Rebuild | None = None

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

    def is_usable(self, generation: Generation) -> bool:
        """Tell whether the upstream session of *generation* is bound, or being bound."""
        binding = self._relay.session.binding
        if binding.generation == generation:
            return binding.state is BindingState.BOUND
        return binding.state is BindingState.BINDING and generation == binding.generation + 1

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
        # with older credentials than those of this live request (semantics 12).
        self._enter(waiter)
        self.apply(BindingEvent.LOSS)

    def _observe_lost(self, reason: str) -> None:
        relay = self._relay
        if relay.ctx.observer.is_active:
            relay.ctx.observer.upstream_lost(
                hooks.UpstreamLost(session=relay.fingerprint, upstream=relay.ctx.upstream.name, reason=reason)
            )

    def refused(self, generation: Generation) -> None:
        """Report that the upstream refuses connections."""
        self._relay.ctx.recovery.lost()
        self.lose(generation, "refused")

    def give_up(self, generation: Generation, reason: str) -> None:
        """Lose the upstream session by its silence or its own word: end what runs in it, then rebuild."""
        running = [call for call in set(self._relay.calls.values()) if call.runs_in(generation)]
        self.lose(generation, reason)
        for call in running:
            call.fail_silent(reason)

    def built(self, rebuild: Rebuild) -> None:
        """Bind to what the rebuild made, tell the resync, send what waits."""
        relay = self._relay
        self._rebuild = None
        relay.session.binding.upstream_id = rebuild.upstream_id
        self.apply(BindingEvent.BUILT)
        self.note_bound()
        if relay.wants_standalone:
            # Open already, unless the client asked for it while the rebuild was past that step.
            relay.link.open(relay.session.binding.generation, rebuild.upstream_id)
        if relay.ctx.observer.is_active:
            relay.ctx.observer.session_rebuilt(
                hooks.SessionRebuilt(
                    session=relay.fingerprint,
                    upstream=relay.ctx.upstream.name,
                    generation=relay.session.binding.generation,
                    waited_seconds=relay.ctx.clock.now() - rebuild.started_at,
                )
            )

    def failed(self, refusal: Refusal) -> None:
        """Keep the session although the upstream cannot host it now; it is tried again later."""
        self._refused_by_upstream(BindingEvent.FAILED, refusal)

    def denied(self, refusal: Refusal) -> None:
        """Park the session until a live request brings other credentials (semantics 12)."""
        self._refused_by_upstream(BindingEvent.DENIED, refusal)

    def _refused_by_upstream(self, event: BindingEvent, refusal: Refusal) -> None:
        relay = self._relay
        self._rebuild = None
        if relay.ctx.observer.is_active:
            relay.ctx.observer.rebuild_failed(
                hooks.RebuildFailed(session=relay.fingerprint, upstream=relay.ctx.upstream.name, reason=refusal.reason)
            )
        self.apply(event, refusal)

    def apply(self, event: BindingEvent, refusal: Refusal | None = None) -> None:
        """Feed an event to the table and carry out its commands, in order."""
        for command in self._relay.session.binding.receive(event):
            self._execute(command, refusal)

    def _execute(self, command: Command, refusal: Refusal | None) -> None:
        relay = self._relay
        match command:
            case Command.START_REBUILD:
                live = next((waiter for waiter in self._waiting), None)
                credentials = live.headers if live is not None else relay.credentials
                self._rebuild = Rebuild(relay, credentials, is_live=live is not None)
                self._rebuild.start()
            case Command.REBUILD_IF_WANTED:
                if self._waiting or relay.readers.has_standalone:
                    self.apply(BindingEvent.NEEDED)
            case Command.STOP_REBUILD:
                if self._rebuild is not None:
                    self._rebuild.stop()
                    self._rebuild = None
            case Command.RAISE_GENERATION:
                pass  # Done by the binding itself: the number and the state move together.
            case Command.CLOSE_SERVER_REQUESTS:
                relay.session.close_server_requests(relay.session.binding.generation)
            case Command.TELL_RESYNC:
                relay.readers.tell_resync()
            case Command.SEND_WAITING:
                waiting, self._waiting = self._waiting, {}
                for waiter in waiting:
                    waiter.send()
            case Command.FAIL_WAITING:
                waiting, self._waiting = self._waiting, {}
                for waiter in waiting:
                    waiter.refuse(refusal or Refusal("closed_unsent"))
            case Command.FAIL_DENIED:
                self._fail_denied(refusal or Refusal("closed_unsent"))
            case Command.REOPEN_LATER:
                if relay.readers.has_standalone:
                    relay.ctx.clock.call_later(REOPEN_SECONDS, self._reopen)
            case Command.CLOSE_STANDALONE:
                relay.close_link()
            case Command.END_UPSTREAM:
                upstream_id, relay.session.binding.upstream_id = relay.session.binding.upstream_id, None
                relay.ctx.ids.unbind(relay.session.id)
                self.end_upstream(upstream_id)

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
        if self._relay.session.binding.state is BindingState.LOST and self._relay.readers.has_standalone:
            self.apply(BindingEvent.NEEDED)

    def end_upstream(self, upstream_id: UpstreamSessionId | None) -> None:
        """Tell the upstream with DELETE that its session is over; nothing depends on the answer."""
        relay = self._relay
        session = relay.session
        if upstream_id is None:
            return
        owner = relay.ctx.ids.session_of(session.binding.upstream, upstream_id)
        # An upstream that hands out an id twice: it is another session's now.
        if owner is None or owner == session.id:
            relay.ctx.end_upstream(relay.credentials, upstream_id, relay.version_header)
