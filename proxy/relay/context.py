"""What all sessions of a route share.

Owns nothing but references; made once per route by the composition root, which gives several routes the same clock,
budget, wheels and observer. A record for an observer is built only where one is
active (semantics 27).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from proxy.clock import Clock
from proxy.config import Retry, Session, Stream, Swap, Upstream
from proxy.core import headers as h
from proxy.core.head import Head
from proxy.core.headers import Block, Headers
from proxy.core.idmap import IdMap
from proxy.core.ids import UpstreamSessionId
from proxy.core.retry import RetryPolicy
from proxy.observe.hooks import Fingerprint, Observer
from proxy.relay.farewell import PATIENCE_SECONDS, Farewell
from proxy.relay.inquiry import Inquiries
from proxy.relay.pulse import Pulses
from proxy.store.memory import Budget
from proxy.upstream.base import UpstreamRequest
from proxy.upstream.member import Member
from proxy.upstream.pool import Pool
from proxy.wheel import Queue, Wheel

# What belongs to one request and must not travel with a request that the proxy makes by itself.
_PER_REQUEST = frozenset(
    {
        "accept",
        "content-type",
        "content-encoding",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "traceparent",
        "tracestate",
        "x-request-id",
    }
)
LINGER_SECONDS = 5.0
"""How long an upstream may keep an answered call's stream open before it is cut."""
_ACCEPT_BOTH = "application/json, text/event-stream"


class Abandonable(Protocol):
    """An exchange that a drain may end."""

    @property
    def member(self) -> Member | None:
        """Where it is under way."""

    def abandon(self) -> None:
        """End it and tell the client."""

    def evade(self, member: Member) -> None:
        """Go elsewhere if it waits for this member, which is out, and may be sent again."""

    def reconsider(self, member: Member) -> None:
        """Go to this member, which is back, if it waits for one that is out, and may be sent again."""


@dataclass(slots=True)
class Context:
    """The shared parts."""

    clock: Clock
    pool: Pool
    """The upstreams of the route."""
    budget: Budget
    heartbeats: Wheel
    checks: Wheel
    """Looks after silence and idleness of sessions."""
    ids: IdMap
    observer: Observer
    fingerprint: Fingerprint
    upstream: Upstream
    """The timings that hold for every upstream."""
    session: Session
    stream: Stream
    retry: Retry
    swap: Swap
    trust_forwarded: bool
    route: str
    upgrades: Queue = field(init=False)
    """Calls whose clients get a stream if they are not answered soon (semantics 19)."""
    lingers: Queue = field(init=False)
    """Calls that are answered while their upstream stream is still open."""
    farewells: Queue = field(init=False)
    """DELETEs under way that no session owns any more; a drain waits for them."""
    policy: RetryPolicy = field(init=False)
    """What may be sent again."""
    inquiries: Inquiries = field(init=False)
    silences: Queue = field(init=False)
    """Exchanges of no session, to be asked about when nothing has come for long (semantics 16)."""
    pulses: Pulses = field(init=False)
    passing: set[Abandonable] = field(default_factory=set)
    """Exchanges under way without a session."""
    openings: int = 0
    """`initialize` requests under way: sessions to be."""
    _sequence: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 62)))
    _prefix: str = ""

    def __post_init__(self) -> None:
        self._prefix = self.clock.entropy(4).hex()
        self.upgrades = Queue(self.clock, self.stream.upgrade_after_seconds)
        self.lingers = Queue(self.clock, LINGER_SECONDS)
        self.farewells = Queue(self.clock, PATIENCE_SECONDS)
        self.inquiries = Inquiries(self.clock)
        self.silences = Queue(self.clock, self.upstream.silence_seconds)
        self.pulses = Pulses(self.clock, self.upstream.ping_timeout_seconds)
        retry = self.retry
        self.policy = RetryPolicy(retry.attempts, retry.safe_tools, retry.unsafe_tools, asks=retry.ask_tools)

    def correlation_id(self) -> str:
        """Return a new id that follows one request through the logs of the proxy and the upstream."""
        return f"{self._prefix}-{next(self._sequence):x}"

    def forward(self, head: Head) -> Block:
        """Return what of a client's head goes upstream, without session id."""
        block = head.findings.forwarded
        if block is None:
            chosen = h.forward_request(head.headers, trust_forwarded=self.trust_forwarded)
            # The proxy reads what comes back, so nothing may compress it.
            block = head.findings.forwarded = Block([*chosen, ("Accept-Encoding", "identity")])
        return block

    def request(
        self, head: Head, body: bytes, correlation_id: str, upstream_id: UpstreamSessionId | None = None
    ) -> UpstreamRequest:
        """Return a client's POST as it goes upstream."""
        headers = head.bound_block
        if headers is None or head.bound_to != upstream_id:
            headers = head.bound(self.forward(head), upstream_id)
        return UpstreamRequest("POST", headers, body, False, "" if head.request_id is not None else correlation_id)

    def placing_key(self, headers: Headers) -> str:
        """Return by what a client is known to `consistent_hash`: its credentials, as nobody is authenticated here."""
        return h.get(headers, "Authorization") or ""

    def correlate(self, head: Head) -> str:
        """Return the id that follows a client's request: its own, else a new one."""
        return head.request_id or self.correlation_id()

    def own_headers(
        self,
        headers: Headers,
        *,
        version: str | None,
        upstream_id: UpstreamSessionId | None,
        is_get: bool = False,
    ) -> Headers:
        """Return the headers of a request the proxy makes by itself, with the credentials that *headers* carry."""
        own = [*self._own(headers, version, is_get=is_get), (h.REQUEST_ID, self.correlation_id())]
        if upstream_id is not None:
            own.append((h.SESSION_ID, upstream_id))
        return own

    def _own(self, headers: Headers, version: str | None, *, is_get: bool = False) -> Block:
        """Return what all requests of the proxy's own share that go with *headers*."""
        known = headers.own if type(headers) is Block else None
        own = known.get((version, is_get)) if known is not None else None
        if own is None:
            pairs = [pair for pair in headers if pair[0].lower() not in _PER_REQUEST]
            pairs.append(("Accept", "text/event-stream" if is_get else _ACCEPT_BOTH))
            if not is_get:
                pairs.append(("Content-Type", "application/json"))
            if version is not None:
                pairs.append((h.PROTOCOL_VERSION, version))
            own = Block(pairs)
            if type(headers) is Block:
                headers.own = {**(known or {}), (version, is_get): own}
        return own

    def end_upstream(
        self, member: Member, headers: Headers, upstream_id: UpstreamSessionId, version: str | None = None
    ) -> None:
        """Tell the upstream with DELETE that its session is over; nothing depends on the answer."""
        own = self._own(headers, version).of_session(upstream_id)
        request = UpstreamRequest("DELETE", own, b"", fresh=True, correlation_id=self.correlation_id())
        Farewell(member.edge, self.farewells).begin(request)
