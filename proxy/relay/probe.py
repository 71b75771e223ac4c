"""A ping inside an upstream session, on a fresh connection: what tells silence and refusal from loss.

Owns the one ping under way and the count of failures. Knows no call; it reports to whoever asked. Invariant: at most
one ping per leg is under way, and every question gets exactly one answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.core import jsonrpc
from proxy.core.headers import Headers
from proxy.core.ids import Generation
from proxy.relay import silence
from proxy.upstream.base import Exchange, Loss, UpstreamRequest

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.relay.leg import Leg

FAILURES_UNTIL_LOST = 2
"""Semantics 16: one ping may meet a busy moment, two in a row mean lost."""


class Probe:
    """Asks one leg's upstream whether it still knows the session. Fulfils `upstream.base.Receiver`."""

    __slots__ = (
        "_asked",
        "_deadline",
        "_exchange",
        "_failures",
        "_generation",
        "_is_silence",
        "_leg",
        "_status",
    )

    def __init__(self, leg: Leg) -> None:
        self._leg = leg
        self._asked: list[Callable[[bool], None]] = []
        self._is_silence = False
        self._failures = 0
        self._generation = Generation(0)
        self._exchange: Exchange | None = None
        self._deadline: Timer | None = None
        self._status = 0

    def confirm(self, generation: Generation, answered: Callable[[bool], None]) -> None:
        """Call *answered* with whether a ping is refused alike (semantics 11): a 400 alone says too little."""
        if not self._leg.is_bound(generation):
            # Already lost, or bound anew: the refusal is old news and the request goes to the present session.
            answered(True)
            return
        self._ping(generation)
        self._asked.append(answered)

    def check_silence(self, generation: Generation) -> None:
        """Ask because nothing has come for long; two failures in a row lose the session."""
        if self._leg.is_bound(generation):
            self._ping(generation)
            self._is_silence = True

    def close(self) -> None:
        """Stop asking; who asked is told that the session is lost, as it is for this leg."""
        self._forget()

    def _ping(self, generation: Generation) -> None:
        if generation != self._generation:
            self._forget()
        elif self._deadline is not None:
            return
        leg = self._leg
        ctx = leg.relay.ctx
        self._generation = generation
        self._status = 0
        body = jsonrpc.request_body(f"mcp-session-proxy-{ctx.correlation_id()}", "ping", None)
        request = UpstreamRequest("POST", leg.own_headers(), body, fresh=True)
        self._deadline = ctx.clock.call_later(ctx.upstream.ping_timeout_seconds, self._timed_out)
        self._exchange = leg.member.edge.send(request, self)

    def on_head(self, status: int, headers: Headers) -> None:
        """The status is all that is asked for."""
        self._status = status

    def on_data(self, data: bytes) -> None:
        """The body says nothing more."""

    def on_end(self, proven: bool) -> None:
        """The ping is answered."""
        self._exchange = None
        self._stop()
        self._tell(is_refused=self._status in (400, 404), is_alive=self._status < 500)

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The ping failed."""
        self._exchange = None
        self._stop()
        if loss is Loss.REFUSED:
            self._leg.member.refused(detail)
            # Nobody listens: that is a lost session at once (semantics 11).
            self._tell(is_refused=True, is_alive=False)
        else:
            # A head that came was an answer, even when its stream was cut after it.
            self._tell(is_refused=self._status in (400, 404), is_alive=0 < self._status < 500)

    def _timed_out(self) -> None:
        self._deadline = None
        self._stop()
        self._tell(is_refused=self._status in (400, 404), is_alive=0 < self._status < 500)

    def _forget(self) -> None:
        """Drop the ping of an upstream session that is not the present one: its word says nothing of the next."""
        self._stop()
        self._failures = 0
        self._is_silence = False
        asked, self._asked = self._asked, []
        for answered in asked:
            answered(True)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    def _tell(self, *, is_refused: bool, is_alive: bool) -> None:
        leg, generation = self._leg, self._generation
        is_silence, self._is_silence = self._is_silence, False
        asked, self._asked = self._asked, []
        if is_alive and not is_refused:
            self._failures = 0
            silence.forgive(leg, generation)
        elif is_silence:
            self._failures = FAILURES_UNTIL_LOST if is_refused else self._failures + 1
            if self._failures >= FAILURES_UNTIL_LOST:
                self._failures = 0
                leg.give_up(generation, "upstream_session_lost" if is_refused else "upstream_silent")
            else:
                self.check_silence(generation)
        for answered in asked:
            answered(is_refused)
