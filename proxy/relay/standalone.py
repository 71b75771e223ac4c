"""The upstream's side of the standalone stream: one GET, kept while the session is bound.

Owns its state, its cursor and its back-off; appends what arrives to the session's log, whether or not a client
listens. Invariant: at most one GET is open; a frame that comes twice is appended once.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from proxy.core import headers as h
from proxy.core import jsonrpc, sse
from proxy.core.cursor import upstream_cursor
from proxy.core.exchange import GATEWAY_STATUSES
from proxy.core.headers import Body, Headers
from proxy.core.ids import Generation, UpstreamSessionId
from proxy.core.jsonrpc import Kind
from proxy.relay.remembering import LASTING, told
from proxy.relay.resumption import LONGEST_RETRY_SECONDS
from proxy.upstream.base import Exchange, Loss, UpstreamRequest

if TYPE_CHECKING:
    from proxy.clock import Timer
    from proxy.core.replay import Stream
    from proxy.relay.leg import Leg

# A member of an enum costs ten times a global to get at, and every event asks.
_RESPONSE, _REQUEST, _NOTIFICATION = Kind.RESPONSE, Kind.REQUEST, Kind.NOTIFICATION
_GROWTH = 2.0
BARREN_RESUMES = 3
# A status that says nothing of the cursor: 0 is a connection that broke, 409 another reader that is still there.
_PASSING_STATUSES = frozenset({0, 409, 429, *GATEWAY_STATUSES})
HEAD_WAIT_SECONDS = 1.0
"""How long the upstream's word on its stream is awaited, by a client's GET and by a rebuild (semantics 18)."""
STEADY_SECONDS = 5.0
"""A link that held this long was a good one: the next break starts with short waits again."""
LONGEST_BACKOFF_SECONDS = 30.0
"""Between attempts of one session against a server that is there and does not give it its stream."""


class LinkState(Enum):
    """Where the upstream's side stands."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"
    WAITING = "waiting"
    """Broken; a timer opens it again."""
    REFUSED = "refused"
    """405: this upstream has no standalone stream; remembered for the generation (semantics 18)."""
    PARKED = "parked"
    """401 or 403: until a live request brings other credentials."""


class Refused:
    """The upstream's own answer to a GET, relayed to the client."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Standalone:
    """The link of one leg. Fulfils `upstream.base.Receiver`."""

    __slots__ = (
        "_attempt",
        "_barren",
        "_buffer",
        "_decoder",
        "_exchange",
        "_has_hole",
        "_is_resumed",
        "_last_id",
        "_leg",
        "_opened_at",
        "_refused_with",
        "_relay",
        "_retry_seconds",
        "_status",
        "_stream",
        "_timer",
        "_upstream_id",
        "_waiters",
        "generation",
        "headers",
        "last_bytes",
        "refused",
        "state",
    )

    def __init__(self, leg: Leg) -> None:
        self._leg = leg
        self._relay = leg.relay
        self.state = LinkState.CLOSED
        self.generation = Generation(0)
        self._upstream_id: UpstreamSessionId | None = None
        self._last_id: bytes | None = None
        self._retry_seconds: float | None = None
        self._is_resumed = False
        self._has_hole = False
        """Events may have been lost while the link was broken: told once it is open again."""
        self._attempt = 0
        self._barren = 0
        """Resumes in a row that brought no frame."""
        self._exchange: Exchange | None = None
        self._timer: Timer | None = None
        self._decoder: sse.Decoder | None = None
        self._stream: Stream | None = None
        """The session's, which is the same for good: asked for with the first event."""
        self._status = 0
        self._buffer: list[bytes] = []
        self._waiters: list[Callable[[], None]] = []
        self.headers: Headers = []
        """The upstream's head, for the client's stream."""
        self.refused: Refused | None = None
        self.last_bytes = 0.0
        self._opened_at = 0.0
        self._refused_with: str | None = None

    @property
    def _cursor(self) -> str | None:
        return upstream_cursor(self._last_id) if self._last_id is not None else None

    def open(
        self,
        generation: Generation,
        upstream_id: UpstreamSessionId | None,
        known: Callable[[], None] | None = None,
    ) -> None:
        """Open the link in an upstream session, unless it is; *known* is called once its answer is there."""
        if generation != self.generation or upstream_id != self._upstream_id:
            # A rebuild that had to begin again has another upstream session for the same generation.
            self.close()
            self.generation = generation
            self._upstream_id = upstream_id
            self._last_id = None
            self._has_hole = False
            self._attempt = 0
            self.refused = None
        if self.state in (LinkState.OPEN, LinkState.REFUSED, LinkState.WAITING):
            if known is not None:
                known()
            return
        if known is not None:
            self._waiters.append(known)
        if self.state in (LinkState.CLOSED, LinkState.PARKED):
            self._get()

    def offer(self, headers: Headers) -> None:
        """Try a parked link again, if these credentials are others than those that were refused."""
        if h.get(headers, "Authorization") != self._refused_with:
            self._get()

    def close(self) -> None:
        """Cut the link; it opens again with the next `open`, from nothing.

        For an upstream without ids nothing else shows that its session is a new one.
        """
        self.state = LinkState.CLOSED
        self._last_id = None
        self._decoder = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None
        self._tell_waiters()

    def _get(self) -> None:
        self._timer = None
        self.state = LinkState.OPENING
        relay = self._relay
        headers = self._leg.own_headers(is_get=True, upstream_id=self._upstream_id)
        cursor = self._cursor
        self._is_resumed = cursor is not None
        if cursor is not None:
            headers.append((h.LAST_EVENT_ID, cursor))
        self._decoder = None
        self._status = 0
        self._buffer = []
        self.last_bytes = relay.ctx.clock.now()
        self._exchange = self._leg.member.edge.send(UpstreamRequest("GET", headers, b"", fresh=True), self)

    def on_head(self, status: int, headers: Headers) -> None:
        """The upstream's word on its standalone stream."""
        self.last_bytes = self._relay.ctx.clock.now()
        self._status = status
        self.headers = headers
        if status == 200 and h.body_of(headers) is Body.STREAM:
            self.state = LinkState.OPEN
            self._opened_at = self.last_bytes
            self._decoder = sse.Decoder(self._relay.ctx.upstream.max_message_bytes)
            if self._has_hole:
                self._has_hole = False
                self._relay.readers.tell_resync()
            self._tell_waiters()

    def on_data(self, data: bytes) -> None:
        """Bytes of the stream, or of a refusal."""
        self.last_bytes = self._relay.ctx.clock.now()
        if self._decoder is None:
            if len(self._buffer) < 64:
                self._buffer.append(data)
            return
        frame = self._decoder.whole(data)
        if frame is not None:
            self._attempt = self._barren = 0
            self._frame(frame)
            return
        try:
            frames = self._decoder.feed(data)
        except sse.FrameTooLarge:
            # The frame can never be passed on; asking for it again by cursor would end here again.
            self._last_id = None
            self._exchange_abort()
            self._has_hole = True
            self._again(self._relay.ctx.upstream.reconnect_min_seconds)
            return
        if frames:
            self._attempt = 0
            self._barren = 0
            for frame in frames:
                self._frame(frame)

    def _frame(self, frame: sse.Frame) -> None:
        if frame.id is not None:
            # Kept as it came: whether it can be sent back is asked when it has to be.
            self._last_id = frame.id
        if frame.retry is not None:
            self._retry_seconds = min(frame.retry / 1000, LONGEST_RETRY_SECONDS)
        data = frame.data
        if not data:
            return
        relay = self._relay
        stream = self._stream
        if stream is None:
            stream = self._stream = relay.readers.standalone
        if self._is_resumed and stream.holds(frame):
            return
        envelope = jsonrpc.classify(data)
        kind = envelope.kind
        if kind is _RESPONSE:
            # No answer belongs here (2025-11-25, "Listening for Messages"); one server's event store replays the
            # answers of other streams to a reader with a cursor, and they were given to their own.
            return
        if kind is _NOTIFICATION and envelope.method in LASTING:
            told(self._leg, envelope.method, data)
        if kind is _REQUEST:
            data = relay.admit(envelope, data, self.generation)
            if self._is_resumed and stream.holds(sse.Frame(data, frame.id, frame.event)):
                return
        relay.log.append(stream, frame.event, data, frame.id)

    def on_end(self, proven: bool) -> None:
        """The stream ended, or a refusal is whole."""
        self._exchange = None
        if self._decoder is not None:
            self._broken(is_clean=proven)
            return
        status = self._status
        if status == 405:
            self._refuse(405, LinkState.REFUSED)
        elif status in (401, 403):
            self._refused_with = h.get(self._relay.credentials, "Authorization")
            self._refuse(status, LinkState.PARKED)
        elif status in (400, 404) and self._upstream_id is not None:
            # A lost session, a cursor it does not know, or a server without this route: a ping tells the first.
            self.state = LinkState.WAITING
            generation = self.generation
            self._leg.probe.confirm(generation, lambda is_lost: self._probed(generation, is_lost))
        else:
            self._broken(is_clean=False)

    def _probed(self, generation: Generation, is_lost: bool) -> None:
        if generation != self.generation or self.state is not LinkState.WAITING or self._timer is not None:
            return
        if is_lost and self._leg.is_bound(self.generation):
            self._leg.lose(self.generation, "gone" if self._status == 404 else "bad")
        elif not is_lost and self._cursor is None:
            # 404 would tell the client that its session is gone.
            self._refuse(405 if self._status == 404 else self._status, LinkState.REFUSED)
        else:
            self._last_id = None
            self._broken(is_clean=False)

    def _refuse(self, status: int, state: LinkState) -> None:
        self.state = state
        self.refused = Refused(status, self.headers, b"".join(self._buffer))
        self._tell_waiters()

    def on_lost(self, loss: Loss, detail: str) -> None:
        """The link broke."""
        self._exchange = None
        if loss is Loss.REFUSED and self._leg.is_bound(self.generation):
            self.state = LinkState.CLOSED
            self._leg.refused(self.generation)
            self._tell_waiters()
        else:
            # While the session is still being bound there is no loss to report, and nobody else would try again.
            self._broken(is_clean=False)

    def _broken(self, *, is_clean: bool) -> None:
        ctx = self._relay.ctx
        if self._decoder is not None and ctx.clock.now() - self._opened_at >= STEADY_SECONDS:
            self._attempt = 0
        delay = min(LONGEST_BACKOFF_SECONDS, ctx.upstream.reconnect_min_seconds * _GROWTH**self._attempt)
        self._attempt = min(self._attempt + 1, 20)
        if is_clean and self._retry_seconds is not None:
            delay = max(delay, self._retry_seconds)
        if self._is_resumed and self._is_cursor_spent():
            self._last_id = None
            self._has_hole = True
        if self._cursor is None and self._decoder is not None:
            # Whatever is sent until the link is open again cannot be asked for: a hole, so it is told.
            self._has_hole = True
        self._again(delay * (0.75 + 0.5 * ctx.clock.jitter()))

    def _is_cursor_spent(self) -> bool:
        """Tell whether asking with the present cursor leads nowhere: it is refused, or brings nothing, repeatedly."""
        if self._decoder is None:
            return self._status not in _PASSING_STATUSES
        self._barren += 1
        return self._barren >= BARREN_RESUMES

    def _again(self, delay: float) -> None:
        self._decoder = None
        self.state = LinkState.WAITING
        self._timer = self._relay.ctx.clock.call_later(delay, self._get)
        self._tell_waiters()

    def _exchange_abort(self) -> None:
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for known in waiters:
            known()
