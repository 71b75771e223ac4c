"""A POST of no session: modern requests, and legacy ones without an id (semantics 25).

Owns where it is sent, whether it is sent again, and how long a silent upstream is heard. What may be sent again is
`core.retry`'s. Invariants: what may have run is sent again only where that is harmless, and never said not to have run;
each ends, also at an upstream that accepts it and says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.core import jsonrpc
from proxy.core.edge import Sink
from proxy.core.head import Head
from proxy.core.headers import Headers
from proxy.core.ids import RequestId
from proxy.core.retry import safety_of
from proxy.relay.attempt import RETRY_AFTER_SECONDS
from proxy.relay.passthrough import Passthrough
from proxy.relay.pulse import Silence
from proxy.relay.repeating import Repeating, observe
from proxy.upstream.base import Exchange, Loss

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.context import Context
    from proxy.upstream.gate import Gate
    from proxy.upstream.member import Member

DISCOVER = "server/discover"
LISTEN = "subscriptions/listen"


class Sessionless(Passthrough):
    """One POST under way. Fulfils `upstream.gate.Waiter`."""

    __slots__ = ("_cancels", "_deadline", "_gate", "_method", "_repeating", "_room", "_silence", "_tried")

    def __init__(
        self,
        ctx: Context,
        ids: tuple[RequestId, ...],
        head: Head,
        body: bytes,
        sink: Sink,
        *,
        method: str | None = None,
        is_modern: bool = False,
    ) -> None:
        limits = ctx.upstream
        wait = limits.discover_wait_seconds if method == DISCOVER else limits.rebuild_wait_seconds
        super().__init__(ctx, ids, head, body, sink, wait)
        self._method = method
        self._cancels = is_modern
        """Whether the client's disconnect is a cancel: in 2026-07-28 it is, before it is not."""
        self._tried: tuple[Member, ...] = ()
        """Members that would not, or could not, answer, in this round."""
        self._repeating: Repeating | None = None
        self._gate: Gate | None = None
        """What it waits for, where the member has no room."""
        self._room: Gate | None = None
        """Where it has room."""
        self._deadline: Timer | None = None
        """Ends the wait for the answer to a `server/discover`."""
        self._silence = Silence(ctx, head, self._given_up)

    # -- where to

    def send(self) -> None:
        """Send it to whom the pool chooses."""
        member = self._ctx.pool.place(self._key, is_session=False)
        if member is None:
            self._fail("unreachable")
        else:
            self._send_to(member)

    def _send_to(self, member: Member) -> None:
        if self._is_over:
            return
        self._patience.end()
        self._member = member
        gate = member.gate
        # What asks for nothing, and a subscription, which lasts, take no room from calls.
        if not self._ids or self._method == LISTEN:
            self._send_now(member)
        elif gate.running >= gate.limit or gate.is_busy:
            self._gate = gate
            gate.wait(self)
        else:
            gate.running += 1
            self._room = gate
            self._send_now(member)

    def _send_now(self, member: Member) -> None:
        self._silence.begin(member)
        self._send_in(member)
        if self._method == DISCOVER and self._exchange is not None:
            self._limit(self._exchange, (*self._tried, member))

    def _send_anew(self) -> None:
        self._tried = ()
        self.send()

    def _send_elsewhere(self, member: Member) -> bool:
        """Send it to a member that was not tried yet, if there is one."""
        self._leave()
        self._tried = (*self._tried, member)
        other = self._ctx.pool.place(self._key, self._tried, is_session=False)
        if other is None:
            return False
        self._send_to(other)
        return True

    @property
    def _key(self) -> str:
        return self._ctx.placing_key(self._head.headers)

    # -- room on the member

    @property
    def can_enter(self) -> bool:
        """Tell that no session holds it back."""
        return True

    def admitted(self) -> None:
        """Send it: there is room now."""
        self._room, self._gate = self._gate, None
        if self._member is not None:
            self._send_now(self._member)

    def turned_away(self, reason: str) -> None:
        """Tell the client that there is no room."""
        self._gate = None
        self._fail(reason, retry_after_seconds=RETRY_AFTER_SECONDS)

    def sent_elsewhere(self) -> None:
        """Choose again: the member takes nothing any more."""
        self._gate = None
        self._send_anew()

    def _leave(self) -> None:
        """Give the room free, and be asked about no more."""
        self._silence.end()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        room, self._room = self._room, None
        if room is not None:
            room.leave()

    # -- the client's side

    def sink_closed(self) -> None:
        """The client is gone."""
        if self._cancels:
            self._abort_upstream()
        super().sink_closed()

    # -- the upstream's side

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins."""
        self._silence.heard()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        super().on_head(status, headers)

    def on_data(self, data: bytes) -> None:
        """A piece of it."""
        self._silence.heard()
        super().on_data(data)

    @property
    def _may_end_unanswered(self) -> bool:
        # A subscription has no answer to wait for: only a cut one is reported.
        return self._method == LISTEN

    def _answered(self, body: bytes) -> None:
        self._relay_answer(body)

    def _lost(self, loss: Loss, detail: str) -> bool:
        member = self._member
        if member is None:
            return False
        if loss is not Loss.BROKEN:
            member.refused(detail)
            self._go_on(member)
            return True
        if not self._status:
            # A dead server behind something that accepts connections for it looks like this.
            member.failed()
        self._interrupted(member, "connection_broken")
        return True

    def _go_on(self, member: Member) -> None:
        """Ask another member, or wait for one."""
        if not self._send_elsewhere(member):
            self._patience.until_reachable(member.recovery, self._send_anew)

    # -- an attempt that may have run

    def _interrupted(self, member: Member, reason: str) -> None:
        """Send it again where that is harmless; else tell that its outcome is unknown."""
        if self._may_repeat(member):
            self._repeat(member, reason)
            self._go_on(member)
        else:
            self._fail(reason)

    def _may_repeat(self, member: Member) -> bool:
        policy = self._ctx.policy
        if self._decoder is not None or self._sink is None:
            return False
        if self._method == DISCOVER:
            # It changes nothing, and it is a client's first word: each member is asked.
            return True
        judged = safety_of(jsonrpc.classify(self._body), self._body, member.tools, policy)
        return (self._repeating or Repeating(member)).may_go_on(judged, policy.attempts)

    def _repeat(self, member: Member, reason: str) -> None:
        self._repeating = self._repeating or Repeating(member)
        self._repeating.interrupted(member, reason, {})
        self._repeating.count()
        observe(self._ctx, "", self._correlation_id, reason, member)

    def _fail(self, reason: str, **data: Any) -> None:
        if self._repeating is not None:
            reason, data = self._repeating.outcome(reason, data)
        if self._method == DISCOVER and self._decoder is None:
            # 200 with an error would turn some dual-era clients into old ones for their life.
            super()._fail("discover_unreachable")
        else:
            super()._fail(reason, **data)

    # -- silence

    def evade(self, member: Member) -> None:
        """Ask another one what may be asked twice: this one is out. What else may run there has its deadline."""
        if self._member is member and self._exchange is not None and not self._status and self._may_repeat(member):
            if not self._ctx.pool.has_place((*self._tried, member)):
                return
            self._abort_upstream()
            self._repeat(member, "upstream_silent")
            self._send_elsewhere(member)

    def reconsider(self, member: Member) -> None:
        """Ask *member*, which is back, what may be asked twice of one that is out."""
        asked = self._member
        if asked is not None and asked is not member and not asked.is_available:
            self._tried = ()
            self.evade(asked)

    def _given_up(self, member: Member) -> None:
        # Its ejection may have led elsewhere already.
        if self._member is member and self._exchange is not None:
            self._abort_upstream()
            self._interrupted(member, "upstream_silent")

    def _limit(self, exchange: Exchange, tried: tuple[Member, ...]) -> None:
        """Wait for the answer to a `server/discover` no longer than a dual-era client does."""
        limits = self._ctx.upstream
        seconds = limits.discover_wait_seconds or limits.ping_timeout_seconds
        # With time left to ask the others.
        self._deadline = self._ctx.clock.call_later(
            seconds / 2 if self._ctx.pool.has_place(tried) else seconds, lambda: self._undiscovered(exchange)
        )

    def _undiscovered(self, exchange: Exchange) -> None:
        self._deadline = None
        member = self._member
        if self._exchange is not exchange or member is None:
            return
        self._abort_upstream()
        member.timed_out()
        if not self._send_elsewhere(member):
            self._fail("upstream_silent")

    def _over(self) -> None:
        super()._over()
        self._leave()
        if self._gate is not None:
            self._gate.leave_queue(self)
            self._gate = None
