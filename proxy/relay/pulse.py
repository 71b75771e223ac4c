"""Whether a member says anything at all: a `ping` of no session, on a fresh connection.

Owns when an exchange of no session has been silent for long enough to ask, the questions under way, one per member
however many ask, and the verdict. Knows no session: it answers whoever asked. Invariant: every question gets exactly
one answer, in a bounded time. For what has no upstream session of its own; in one, `probe` asks, whose answer tells of
the session too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from proxy.core import jsonrpc
from proxy.core.headers import Headers
from proxy.relay.probe import FAILURES_UNTIL_LOST
from proxy.upstream.base import Exchange, Loss, UpstreamRequest

if TYPE_CHECKING:
    from proxy.clock import Clock, Timer
    from proxy.core.head import Head
    from proxy.relay.context import Context
    from proxy.upstream.member import Member

_ID = "mcp-session-proxy-pulse"


class Pulses:
    """The questions of one route."""

    def __init__(self, clock: Clock, timeout_seconds: float) -> None:
        self._clock = clock
        self._timeout = timeout_seconds
        self._asked: dict[Member, _Pulse] = {}
        self._felt_at: dict[Member, float] = {}
        """When each last gave a sign of life; those of long ago are forgotten."""

    def ask(self, member: Member, headers: Headers, answered: Callable[[bool], None]) -> None:
        """Call *answered* with whether *member* lives: any answer counts but a gateway's, a refusal of the ping too.

        One that was felt less than the time of a ping ago is not asked: a thousand quiet subscriptions would.

        *headers*: the credentials, as they go upstream; of whoever asks first.
        """
        if self._clock.now() - self._felt_at.get(member, -inf) < self._timeout:
            answered(True)
            return
        pulse = self._asked.get(member)
        if pulse is None:
            pulse = self._asked[member] = _Pulse(self._clock, self._timeout, member, headers, self._felt)
            pulse.waiting.append(answered)
            pulse.begin()
        else:
            pulse.waiting.append(answered)

    def _felt(self, pulse: _Pulse, is_alive: bool) -> None:
        del self._asked[pulse.member]
        now = self._clock.now()
        if is_alive:
            recent = {member: at for member, at in self._felt_at.items() if now - at < self._timeout}
            self._felt_at = {**recent, pulse.member: now}
        for answered in pulse.waiting:
            answered(is_alive)


class Silence:
    """How long one exchange of no session has heard nothing (semantics 16). Fulfils `wheel.Due`."""

    __slots__ = ("_ctx", "_given_up", "_has_heard", "_head", "_member", "_number")

    def __init__(self, ctx: Context, head: Head, given_up: Callable[[Member], None]) -> None:
        self._ctx = ctx
        self._head = head
        """The client's, for the credentials."""
        self._given_up = given_up
        """Called where the member says nothing to two pings either."""
        self._member: Member | None = None
        self._number = 0
        """Tells an answer about this wait from one about the wait before."""
        self._has_heard = False
        """Whether anything came since the member was last asked about."""

    def begin(self, member: Member) -> None:
        """Listen for *member*, and for nobody else."""
        self.end()
        self._member = member
        self._number += 1
        self._has_heard = False
        self._ctx.silences.add(self)

    def heard(self) -> None:
        """Note that something came."""
        self._has_heard = True

    def end(self) -> None:
        """Listen no longer."""
        self._member = None
        self._ctx.silences.discard(self)

    def due(self) -> None:
        """Ask whether the member lives, if nothing has come for long."""
        member, ctx = self._member, self._ctx
        if member is None:
            return
        if self._has_heard:
            self._has_heard = False
            ctx.silences.add(self)
        else:
            own = ctx.own_headers(ctx.forward(self._head), version=self._head.version, upstream_id=None)
            ctx.pulses.ask(member, own, partial(self._felt, self._number))

    def _felt(self, number: int, is_alive: bool) -> None:
        member = self._member
        if member is None or number != self._number:
            return
        if is_alive:
            self._ctx.silences.add(self)
            return
        self.end()
        # Counted besides the pings: with them it is out by default, and the next request goes elsewhere.
        member.timed_out()
        self._given_up(member)


class _Pulse:
    """One question. Fulfils `upstream.base.Receiver`."""

    __slots__ = ("_clock", "_deadline", "_done", "_exchange", "_failures", "_headers", "_timeout", "member", "waiting")

    def __init__(
        self, clock: Clock, timeout: float, member: Member, headers: Headers, done: Callable[[_Pulse, bool], None]
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._headers = headers
        self._done = done
        self._failures = 0
        self._exchange: Exchange | None = None
        self._deadline: Timer | None = None
        self.member = member
        self.waiting: list[Callable[[bool], None]] = []

    def begin(self) -> None:
        """Ask."""
        body = jsonrpc.request_body(_ID, "ping", None)
        self._deadline = self._clock.call_later(self._timeout, self._timed_out)
        self._exchange = self.member.edge.send(UpstreamRequest("POST", self._headers, body, fresh=True), self)

    def on_head(self, status: int, headers: Headers) -> None:
        """The status is all that is asked for."""
        self._stop()
        if status >= 500:
            self.member.failed()
            self._failed()
        else:
            self._done(self, True)

    def on_data(self, data: bytes) -> None:
        """Nothing depends on it."""

    def on_end(self, proven: bool) -> None:
        """The head has told."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The ping failed."""
        self._exchange = None
        self._stop()
        if loss is Loss.BROKEN:
            self.member.failed()
            self._failed()
        else:
            self.member.refused(detail)
            # Nobody listens: what ran there is gone.
            self._done(self, False)

    def _timed_out(self) -> None:
        self._deadline = None
        self._stop()
        self.member.timed_out()
        self._failed()

    def _failed(self) -> None:
        self._failures += 1
        if self._failures < FAILURES_UNTIL_LOST:
            self.begin()
        else:
            self._done(self, False)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()
