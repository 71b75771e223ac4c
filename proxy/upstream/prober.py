"""Asking the members of a pool whether they are well: a handshake of MCP, a request of HTTP, or a connection.

Owns when each member is asked, and one question from its beginning to its end. Knows no client's session: its own ones
are short and ended. Judges nothing but the answer; what follows is the member's breaker's. Invariants: at most one
question per member is under way; each ends in `timeout_seconds`, whatever the member sends; a pool of one is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.core import headers as h
from proxy.core import jsonrpc, sse
from proxy.core.headers import Headers
from proxy.core.health import HealthState
from proxy.core.ids import is_legal_session_id
from proxy.upstream.base import Loss, UpstreamRequest

if TYPE_CHECKING:
    from proxy import config
    from proxy.clock import Clock, Timer
    from proxy.upstream.base import Edge, Exchange
    from proxy.upstream.member import Member

MOST_BYTES = 1_048_576
"""Of an answer; more is no handshake. Instructions and schemas of large servers fit."""

_LEGACY = "2025-11-25"
_MODERN = "2026-07-28"
_CLIENT = {"name": "mcp-session-proxy-probe", "version": __version__}
_INITIALIZE = "probe-1"
_DISCOVER = "probe-2"
_OWN: Headers = [("Accept", "application/json, text/event-stream"), ("Accept-Encoding", "identity")]
_JSON: Headers = [*_OWN, ("Content-Type", "application/json")]
# It is there and wants to know who asks (401, 403), or it has much to do (429).
_THERE = frozenset({401, 403, 429})


class Prober:
    """Asks the members of one pool, each in its turn."""

    def __init__(self, health: config.Health, clock: Clock, members: Callable[[], Sequence[Member]]) -> None:
        self._health = health
        self._clock = clock
        self._members = members
        self._due: dict[Member, float] = {}
        """When each is asked next; of one that is being asked, when it was."""
        self._probes: dict[Member, _Probe] = {}
        self._failures: dict[Member, int] = {}
        """In a row."""
        self._farewells: set[_Farewell] = set()
        self._timer: Timer | None = None
        self._is_closed = False
        self.is_running = False
        """Whether the members are asked."""

    def review(self) -> None:
        """Begin, go on or stop, as there are members to ask; look again soon at those that were ejected just now."""
        members = () if self._is_closed or self._health.probe == "none" else tuple(self._members())
        self.is_running = len(members) > 1
        if not self.is_running:
            members = ()
        present = frozenset(members)
        for member in [member for member in self._due if member not in present]:
            del self._due[member]
            self._failures.pop(member, None)
            probe = self._probes.pop(member, None)
            if probe is not None:
                probe.stop()
        now = self._clock.now()
        for member in members:
            # The first time anywhere in the interval: several members are not asked in step.
            due = self._due.get(member, now + self._health.interval_seconds * self._clock.jitter())
            if member.health.state is HealthState.OPEN:
                due = min(due, now + self._health.backoff_min_seconds)
            self._due[member] = due
        self._schedule()

    def close(self) -> None:
        """Stop."""
        self._is_closed = True
        self.review()
        for farewell in tuple(self._farewells):
            farewell.over()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = [due for member, due in self._due.items() if member not in self._probes]
        if waiting:
            self._timer = self._clock.call_later(max(0.0, min(waiting) - self._clock.now()), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._clock.now()
        for member, due in tuple(self._due.items()):
            if due <= now and member not in self._probes:
                probe = _Probe(member.edge, self._health, self._clock, partial(self._done, member), self._end_session)
                self._probes[member] = probe
                probe.begin()
        self._schedule()

    def _done(self, member: Member, is_well: bool) -> None:
        del self._probes[member]
        failures = self._failures[member] = 0 if is_well else self._failures.get(member, 0) + 1
        member.probed(is_well)
        if member in self._due:
            self._due[member] = self._clock.now() + self._pause(member, failures)
            self._schedule()

    def _pause(self, member: Member, failures: int) -> float:
        health = self._health
        pause = health.interval_seconds
        if failures or member.health.state is not HealthState.CLOSED:
            # Sooner while something is amiss: both its end and its return are noticed in a few short steps.
            pause = min(pause, health.backoff_min_seconds * 2 ** min(16, max(0, failures - 1)))
        return pause * (0.75 + 0.5 * self._clock.jitter())

    def _end_session(self, edge: Edge, upstream_id: str) -> None:
        _Farewell(edge, upstream_id, self._farewells).begin(self._clock, self._health.timeout_seconds)


class _Probe:
    """One question. Fulfils `upstream.base.Receiver`."""

    __slots__ = (
        "_asked",
        "_body",
        "_clock",
        "_deadline",
        "_decoder",
        "_done",
        "_edge",
        "_end_session",
        "_exchange",
        "_health",
        "_is_over",
        "_sessions",
        "_size",
    )

    def __init__(
        self,
        edge: Edge,
        health: config.Health,
        clock: Clock,
        done: Callable[[bool], None],
        end_session: Callable[[Edge, str], None],
    ) -> None:
        self._edge = edge
        self._health = health
        self._clock = clock
        self._done = done
        self._end_session = end_session
        self._deadline: Timer | None = None
        self._exchange: Exchange | None = None
        self._asked = _INITIALIZE
        self._sessions: list[str] = []
        """Those that the questions have opened."""
        self._decoder: sse.Decoder | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._is_over = False

    def begin(self) -> None:
        """Ask."""
        self._deadline = self._clock.call_later(self._health.timeout_seconds, partial(self._finish, False))
        match self._health.probe:
            case "tcp":
                self._edge.reach(self._finish)
            case "http":
                self._send(UpstreamRequest("GET", _OWN, b"", fresh=True, path=self._health.http_path))
            case _:
                params = {"protocolVersion": _LEGACY, "capabilities": {}, "clientInfo": _CLIENT}
                body = jsonrpc.request_body(_INITIALIZE, "initialize", params)
                self._send(UpstreamRequest("POST", _JSON, body, fresh=True))

    def stop(self) -> None:
        """Ask no longer; nobody is told."""
        self._is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._end_exchange()
        for upstream_id in self._sessions:
            self._end_session(self._edge, upstream_id)

    # -- one exchange

    def _send(self, request: UpstreamRequest) -> None:
        self._decoder = None
        self._body = []
        self._size = 0
        self._exchange = self._edge.send(request, self)

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins; of HTTP the status is all that is asked for."""
        if self._health.probe == "http":
            self._finish(status < 400)
            return
        upstream_id = h.get(headers, h.SESSION_ID)
        if upstream_id and is_legal_session_id(upstream_id):
            self._sessions.append(upstream_id)
        if status in _THERE:
            self._finish(True)
        elif status >= 500 or 300 <= status < 400:
            self._finish(False)
        elif status >= 400:
            self._discover()
        elif h.is_sse(h.get(headers, "Content-Type")):
            self._decoder = sse.Decoder(MOST_BYTES)

    def on_data(self, data: bytes) -> None:
        """Take a piece of the answer."""
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._finish(False)
        elif self._decoder is None:
            self._body.append(data)
        else:
            for frame in self._decoder.feed(data):
                if frame.data and self._judge(frame.data):
                    return

    def on_end(self, proven: bool) -> None:
        """The answer is whole; if it said nothing until now it says nothing at all."""
        self._exchange = None
        if not self._judge(b"".join(self._body)):
            self._finish(False)

    def on_lost(self, loss: Loss, detail: str) -> None:
        """Nobody listens, or it broke off."""
        self._exchange = None
        self._finish(False)

    # -- what it says

    def _judge(self, message: bytes) -> bool:
        """Tell whether *message* answers the question; act on it if it does."""
        envelope = jsonrpc.classify(message)
        if envelope.kind is not jsonrpc.Kind.RESPONSE or envelope.id not in (self._asked, None):
            return False
        if not envelope.is_error:
            self._finish(True)
        else:
            self._discover()
        return True

    def _discover(self) -> None:
        """Ask as clients without a session do: one that knows no `initialize` may know this."""
        if self._asked is _DISCOVER:
            self._finish(False)
            return
        self._asked = _DISCOVER
        self._end_exchange()
        meta = {
            "io.modelcontextprotocol/protocolVersion": _MODERN,
            "io.modelcontextprotocol/clientInfo": _CLIENT,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = jsonrpc.request_body(_DISCOVER, "server/discover", {"_meta": meta})
        headers = [*_JSON, (h.PROTOCOL_VERSION, _MODERN), (h.METHOD, "server/discover")]
        self._send(UpstreamRequest("POST", headers, body, fresh=True))

    def _finish(self, is_well: bool) -> None:
        if not self._is_over:
            self.stop()
            self._done(is_well)

    def _end_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()


class _Farewell:
    """The DELETE of a probe's session; nothing depends on the answer. Fulfils `upstream.base.Receiver`."""

    __slots__ = ("_deadline", "_edge", "_exchange", "_under_way", "_upstream_id")

    def __init__(self, edge: Edge, upstream_id: str, under_way: set[_Farewell]) -> None:
        self._edge = edge
        self._upstream_id = upstream_id
        self._under_way = under_way
        self._deadline: Timer | None = None
        self._exchange: Exchange | None = None

    def begin(self, clock: Clock, timeout_seconds: float) -> None:
        """Say it."""
        headers = [*_OWN, (h.PROTOCOL_VERSION, _LEGACY), (h.SESSION_ID, self._upstream_id)]
        self._under_way.add(self)
        self._deadline = clock.call_later(timeout_seconds, self.over)
        self._exchange = self._edge.send(UpstreamRequest("DELETE", headers, b"", fresh=True), self)

    def on_head(self, status: int, headers: Headers) -> None:
        """It was heard."""
        self.over()

    def on_data(self, data: bytes) -> None:
        """Nothing depends on it."""

    def on_end(self, proven: bool) -> None:
        """It was heard."""

    def on_lost(self, loss: Loss, detail: str) -> None:
        """It was not heard; an upstream ends its idle sessions itself."""
        self._exchange = None
        self.over()

    def over(self) -> None:
        """Wait no longer."""
        if self._deadline is not None:
            self._deadline.cancel()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()
        self._under_way.discard(self)
