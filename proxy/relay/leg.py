"""One binding of a session at work: the member it lies on, the link of its standalone stream, its ping.

Owns these three and the count of calls that run there. Knows neither who waits for the binding (`binder`) nor when
another takes its place (`move`). Invariant: a leg's member never changes; a session that goes to another one gets
another leg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core import jsonrpc
from proxy.core.headers import Headers
from proxy.core.ids import Generation, RequestId, UpstreamSessionId
from proxy.core.session import Binding, BindingState
from proxy.relay.farewell import Farewell
from proxy.relay.probe import Probe
from proxy.relay.standalone import Standalone
from proxy.upstream.base import UpstreamRequest

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

_BOUND, _DRAINING = BindingState.BOUND, BindingState.DRAINING


class Leg:
    """One upstream session of a session, or the place where it will have one."""

    __slots__ = ("_link", "_probe", "binding", "ends_at", "member", "relay", "running")

    def __init__(self, relay: SessionRelay, member: Member, binding: Binding) -> None:
        self.relay = relay
        self.member = member
        self.binding = binding
        self.running = 0
        """Calls of this session that have room on the member."""
        self.ends_at: Timer | None = None
        """Ends what still runs here, where another leg has taken this one's place."""
        self._link: Standalone | None = None
        self._probe: Probe | None = None

    # -- parts made on first use: an idle session without a stream needs none of them

    @property
    def link(self) -> Standalone:
        """The upstream's side of the standalone stream."""
        if self._link is None:
            self._link = Standalone(self)
        return self._link

    @property
    def has_link(self) -> bool:
        """Tell whether the link was ever made."""
        return self._link is not None

    @property
    def probe(self) -> Probe:
        """The leg's ping."""
        if self._probe is None:
            self._probe = Probe(self)
        return self._probe

    def close_link(self) -> None:
        """Cut the upstream's side of the standalone stream, if there is one."""
        if self._link is not None:
            self._link.close()

    def close(self) -> None:
        """Cut the link and stop asking: the binding is over, or lies elsewhere from now on."""
        self.close_link()
        if self._probe is not None:
            self._probe.close()

    # -- the binding

    @property
    def is_present(self) -> bool:
        """Tell whether new requests of the session go here."""
        return self.relay.leg is self

    def is_bound(self, generation: Generation) -> bool:
        """Tell whether the upstream session of *generation* is this leg's and still there."""
        binding = self.binding
        return binding.generation == generation and binding.state in (_BOUND, _DRAINING)

    def lose(self, generation: Generation, reason: str) -> None:
        """Report that the upstream session of *generation* is gone; news of an older one is ignored."""
        if self.is_present:
            self.relay.binder.lose(generation, reason)
        elif self.is_bound(generation):
            self.relay.lose_older(self, reason)

    def refused(self, generation: Generation) -> None:
        """Report that the member refuses connections."""
        self.member.refused()
        self.lose(generation, "refused")

    def give_up(self, generation: Generation, reason: str) -> None:
        """Lose the upstream session by its silence or its own word: end what runs in it."""
        if reason == "upstream_silent":
            self.member.timed_out()
            # It may be alive: a stopped process reads this once it goes on, and would keep the session for ever.
            self.end_upstream(self.binding.upstream_id)
        running = [call for call in dict.fromkeys(self.relay.calls.values()) if call.runs_in(generation)]
        self.lose(generation, reason)
        for call in running:
            call.give_up(reason)

    def own_headers(self, *, is_get: bool = False, upstream_id: UpstreamSessionId | None = None) -> Headers:
        """Return the headers of a request of the proxy's own, in this leg's upstream session by default."""
        relay = self.relay
        return relay.ctx.own_headers(
            relay.credentials,
            version=relay.version_header,
            upstream_id=upstream_id if upstream_id is not None else self.binding.upstream_id,
            is_get=is_get,
        )

    def end(self) -> None:
        """Tell the member that the upstream session is over."""
        binding = self.binding
        upstream_id, binding.upstream_id = binding.upstream_id, None
        if self.is_present:
            self.relay.ctx.ids.unbind(self.relay.session.id)
        self.end_upstream(upstream_id)

    def end_upstream(self, upstream_id: UpstreamSessionId | None) -> None:
        """Tell the member with DELETE that this upstream session is over; nothing depends on the answer."""
        if upstream_id is None:
            return
        relay = self.relay
        owner = relay.ctx.ids.session_of(self.member.key, upstream_id)
        # An upstream that hands out an id twice: it is another session's now.
        if owner is None or owner == relay.session.id:
            relay.ctx.end_upstream(self.member, relay.credentials, upstream_id, relay.version_header)

    def repeat(self, body: bytes) -> None:
        """Ask the member what another leg was asked, under an id of the proxy's; nothing depends on the answer."""
        own = jsonrpc.replace_id(body, f"mcp-session-proxy-{self.relay.ctx.correlation_id()}")
        request = UpstreamRequest("POST", self.own_headers(), own, fresh=True)
        Farewell(self.member.edge, self.relay.ctx.farewells).begin(request)

    def tell_cancelled(self, request_id: RequestId) -> None:
        """Tell the member that a request is cancelled; nothing depends on the answer."""
        body = jsonrpc.notification_body("notifications/cancelled", {"requestId": request_id})
        request = UpstreamRequest("POST", self.own_headers(), body, fresh=True)
        Farewell(self.member.edge, self.relay.ctx.farewells).begin(request)
