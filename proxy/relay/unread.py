"""A body of a session that is not ours to judge: what the upstream says of it, the client is told.

Owns its way into the session's present upstream session, and into the next one where that is lost. Invariant: sent
again only where the upstream session did not take it, and at most once after a loss (semantics 11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core import headers as h
from proxy.core.edge import Sink
from proxy.core.head import Head
from proxy.core.headers import Headers
from proxy.core.ids import Generation
from proxy.relay.passthrough import Passthrough
from proxy.upstream.base import Loss

if TYPE_CHECKING:
    from proxy.relay.rebuild import Refusal
    from proxy.relay.session import SessionRelay


class Unread(Passthrough):
    """One POST under way. Fulfils `binder.Waiter`."""

    __slots__ = ("_carried_id", "_generation", "_rebuilt", "_relay")

    def __init__(self, relay: SessionRelay, head: Head, body: bytes, sink: Sink) -> None:
        super().__init__(relay.ctx, (), head, body, sink, relay.ctx.upstream.rebuild_wait_seconds)
        self._relay = relay
        self._generation = Generation(0)
        self._carried_id = False
        self._rebuilt = False

    # -- the binding

    def begin(self) -> None:
        """Send it, as soon as the session is bound."""
        if self._sink is not None:
            self._sink.watch(self)
        self._ctx.passing.add(self)
        self._relay.binder.demand(self)

    def queued(self) -> None:
        """Start the bounded wait for the upstream; later waits share its end."""
        self._patience.begin()

    def send(self) -> None:
        """Send it in the present upstream session."""
        if self._is_over:
            return
        self._patience.end()
        leg = self._relay.leg
        self._generation = leg.binding.generation
        self._carried_id = leg.binding.upstream_id is not None
        self._send_in(leg.member, leg.binding.upstream_id)

    def refuse(self, refusal: Refusal) -> None:
        """End the wait: no upstream session can be had."""
        self._fail(refusal.reason, **refusal.data)

    def _again(self, reason: str) -> None:
        if not self._is_over:
            self._rebuilt = True
            self._relay.binder.lose_for(self, self._generation, reason)

    # -- the upstream's side

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins."""
        if h.names_session(headers):
            self._session_id = self._relay.session.id
        super().on_head(status, headers)

    def _answered(self, body: bytes) -> None:
        carried_id = self._carried_id and not self._rebuilt
        if carried_id and self._status == 404:
            self._again("gone")
        elif carried_id and self._status == 400:
            self._relay.leg.probe.confirm(self._generation, lambda is_lost: self._probed(is_lost, body))
        else:
            self._relay_answer(body)

    def _probed(self, is_lost: bool, body: bytes) -> None:
        if is_lost:
            self._again("bad")
        else:
            self._relay_answer(body)

    def _lost(self, loss: Loss, detail: str) -> bool:
        member = self._member
        if loss is Loss.BROKEN or member is None:
            return False
        member.refused(detail)
        if loss is Loss.REFUSED:
            self._relay.binder.lose_for(self, self._generation, "refused")
        else:
            self._patience.until_reachable(member.recovery, lambda: self._relay.binder.demand(self))
        return True

    def _over(self) -> None:
        self._relay.binder.leave(self)
        super()._over()
