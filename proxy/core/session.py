"""The state of one session and the tables that move it.

Owns who a session is (ids, handshake, what the client was promised), which upstream session it is bound to, and what
a rebuild must restore. Knows no time, no I/O and no client connection. Laws: every change of state is a row of
`BINDING` or `SESSION`; a pair without a row raises and changes nothing; a call that succeeds on a bound session
changes no state at all and asks no table.
"""

from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum

import msgspec

from proxy.core.ids import Generation, RequestId, SessionId, UpstreamSessionId
from proxy.core.jsonrpc import InitializeResult
from proxy.core.revision import Revision
from proxy.errors import IllegalTransition

RECORD_FORMAT = 1
"""Version of the session record; a durable store refuses what it does not know."""

SERVER_REQUESTS = 1_024
"""Unanswered server requests one session remembers; the oldest is forgotten first."""


class SessionState(Enum):
    """OPENING until the upstream's handshake answer is known; CLOSED is final."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


class CloseReason(Enum):
    """Why a session is over."""

    DELETED = "deleted"
    EXPIRED = "expired"
    LIFETIME = "lifetime"
    REFUSED = "refused"
    SHUTDOWN = "shutdown"


class SessionEvent(Enum):
    """What can happen to a session as a whole."""

    ANSWERED = "answered"
    CLOSED = "closed"


SESSION: Mapping[tuple[SessionState, SessionEvent], SessionState] = {
    (SessionState.OPENING, SessionEvent.ANSWERED): SessionState.OPEN,
    (SessionState.OPENING, SessionEvent.CLOSED): SessionState.CLOSED,
    (SessionState.OPEN, SessionEvent.CLOSED): SessionState.CLOSED,
    (SessionState.CLOSED, SessionEvent.CLOSED): SessionState.CLOSED,
}


class BindingState(Enum):
    """UNBOUND: no upstream session, by choice; BINDING: one is being made; LOST: there was one."""

    UNBOUND = "unbound"
    BINDING = "binding"
    BOUND = "bound"
    LOST = "lost"


class BindingEvent(Enum):
    """What can happen to a binding."""

    ADOPTED = "adopted"
    """The client's own handshake was answered: the first binding."""
    NEEDED = "needed"
    """A live request or an attached reader wants an upstream session."""
    BUILT = "built"
    """The stored handshake was answered and the state restored."""
    FAILED = "failed"
    """The handshake was answered by something that cannot host this session."""
    DENIED = "denied"
    """The upstream wants other credentials than the stored ones (401, 403)."""
    LOSS = "loss"
    """The upstream session of the present generation is gone (semantics 11)."""
    IDLE = "idle"
    """The session rested for `upstream_idle_seconds`."""
    CLOSED = "closed"
    """The session is over."""


class Command(Enum):
    """What the relay does about a transition, in the order of the row."""

    START_REBUILD = "start rebuild"
    REBUILD_IF_WANTED = "rebuild if a request waits or a reader is attached"
    STOP_REBUILD = "stop rebuild"
    RAISE_GENERATION = "raise generation"
    CLOSE_SERVER_REQUESTS = "close server requests"
    TELL_RESYNC = "tell resync"
    SEND_WAITING = "send waiting requests"
    FAIL_WAITING = "fail waiting requests"
    FAIL_DENIED = "fail the waiting requests with the refused credentials, rebuild for the others"
    REOPEN_LATER = "try again later if a reader is attached"
    CLOSE_STANDALONE = "close upstream standalone stream"
    END_UPSTREAM = "tell the upstream with DELETE"


class Row(msgspec.Struct, frozen=True):
    """One transition: the state after it and the commands that belong to it."""

    state: BindingState
    commands: tuple[Command, ...] = ()


_B, _E, _C = BindingState, BindingEvent, Command

BINDING: Mapping[tuple[BindingState, BindingEvent], Row] = {
    (_B.UNBOUND, _E.ADOPTED): Row(_B.BOUND, (_C.RAISE_GENERATION,)),
    (_B.UNBOUND, _E.NEEDED): Row(_B.BINDING, (_C.START_REBUILD,)),
    # Late news of an upstream session that was let go on purpose.
    (_B.UNBOUND, _E.LOSS): Row(_B.UNBOUND),
    (_B.UNBOUND, _E.IDLE): Row(_B.UNBOUND),
    (_B.UNBOUND, _E.CLOSED): Row(_B.UNBOUND),
    # Single flight: whoever needs the binding while it is being made waits for the same rebuild.
    (_B.BINDING, _E.NEEDED): Row(_B.BINDING),
    (_B.BINDING, _E.BUILT): Row(_B.BOUND, (_C.RAISE_GENERATION, _C.TELL_RESYNC, _C.SEND_WAITING)),
    (_B.BINDING, _E.FAILED): Row(_B.LOST, (_C.CLOSE_STANDALONE, _C.FAIL_WAITING, _C.REOPEN_LATER)),
    # Parked until the next live request brings its own credentials (semantics 12).
    (_B.BINDING, _E.DENIED): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.FAIL_DENIED)),
    (_B.BINDING, _E.LOSS): Row(_B.BINDING),
    (_B.BINDING, _E.IDLE): Row(_B.UNBOUND, (_C.STOP_REBUILD, _C.CLOSE_STANDALONE, _C.FAIL_WAITING)),
    (_B.BINDING, _E.CLOSED): Row(_B.UNBOUND, (_C.STOP_REBUILD, _C.CLOSE_STANDALONE, _C.FAIL_WAITING)),
    (_B.BOUND, _E.NEEDED): Row(_B.BOUND),
    (_B.BOUND, _E.LOSS): Row(_B.LOST, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.REBUILD_IF_WANTED)),
    (_B.BOUND, _E.IDLE): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.END_UPSTREAM)),
    (_B.BOUND, _E.CLOSED): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.END_UPSTREAM)),
    (_B.LOST, _E.NEEDED): Row(_B.BINDING, (_C.START_REBUILD,)),
    (_B.LOST, _E.LOSS): Row(_B.LOST),
    (_B.LOST, _E.IDLE): Row(_B.UNBOUND),
    (_B.LOST, _E.CLOSED): Row(_B.UNBOUND),
}


class Binding:
    """One session's tie to one upstream session."""

    __slots__ = ("generation", "state", "upstream", "upstream_id")

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        """The configured name of the upstream."""
        self.upstream_id: UpstreamSessionId | None = None
        """The id the upstream assigned; None while unbound and for an upstream that issues none."""
        self.generation = Generation(0)
        """Counts bindings; scopes upstream cursors and server request ids."""
        self.state = BindingState.UNBOUND

    def receive(self, event: BindingEvent) -> tuple[Command, ...]:
        """Move by the table and return the commands of the row.

        Raises:
            IllegalTransition: the table has no such row; nothing has changed.
        """
        row = BINDING.get((self.state, event))
        if row is None:
            raise IllegalTransition(f"binding: {event.value} in state {self.state.value}")
        self.state = row.state
        if Command.RAISE_GENERATION in row.commands:
            self.generation = Generation(self.generation + 1)
        return row.commands


class Handshake(msgspec.Struct, gc=False):
    """What the client offered and was promised; replayed on every rebuild."""

    body: bytes
    """The client's `initialize` request, byte for byte."""
    request_id: RequestId
    version: str
    """The protocol version that was negotiated; a rebuild offers this one (semantics 12)."""
    promised: InitializeResult


class ServerRequests:
    """Requests of the upstream that the client has not answered yet, keyed by the id the client saw.

    Invariant: an id that the client saw and has not answered names one request of one generation (semantics 15).
    """

    __slots__ = ("_open", "_renamed")

    def __init__(self) -> None:
        self._open: OrderedDict[RequestId, tuple[Generation, RequestId]] = OrderedDict()
        self._renamed = 0

    def admit(self, upstream_id: RequestId, generation: Generation) -> RequestId:
        """Record a server request and return the id to show the client: another one only where two could meet."""
        owner = (generation, upstream_id)
        shown = upstream_id
        if self._open.get(shown, owner) != owner:
            for candidate, other in self._open.items():
                if other == owner:
                    return candidate
            # A loop, because an upstream may use such names itself.
            while shown in self._open:
                self._renamed += 1
                shown = f"mcp-session-proxy-{generation}-{self._renamed}"
        self._open[shown] = owner
        if len(self._open) > SERVER_REQUESTS:
            self._open.popitem(last=False)
        return shown

    def close(self, generation: Generation) -> None:
        """Let what is open of *generation* go nowhere; its ids stay taken until they are answered."""
        for shown, (owner, upstream_id) in self._open.items():
            if owner == generation:
                self._open[shown] = (Generation(0), upstream_id)

    def answer(self, shown: RequestId) -> tuple[Generation, RequestId] | None:
        """Take out what the client answers; None when no such request is open."""
        return self._open.pop(shown, None)


class Session:
    """Everything about one session that outlives its connections."""

    __slots__ = (
        "_server_requests",
        "binding",
        "format",
        "handshake",
        "id",
        "initialized",
        "log_level",
        "next_stream",
        "older_bindings",
        "principal",
        "revision",
        "route",
        "state",
        "subscriptions",
    )

    def __init__(
        self, session_id: SessionId, route: str, upstream: str, handshake: Handshake, revision: Revision
    ) -> None:
        self.format = RECORD_FORMAT
        self.id = session_id
        self.principal: str | None = None
        """Who may use the session; None until authentication exists."""
        self.route = route
        self.state = SessionState.OPENING
        self.handshake = handshake
        self.revision = revision
        self.binding = Binding(upstream)
        """The binding that new requests go to."""
        self.older_bindings: tuple[Binding, ...] = ()
        """Those that only finish what runs in them, oldest first."""
        self.initialized = False
        """Whether the client sent `notifications/initialized`."""
        self.log_level: str | None = None
        self.subscriptions: dict[str, None] | None = None
        """Subscribed resource URIs in their order; made on first use, as most sessions have none."""
        self.next_stream = 1
        self._server_requests: ServerRequests | None = None

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All of them, the present one last."""
        return (*self.older_bindings, self.binding)

    def bind_anew(self, upstream: str) -> Binding:
        """Put a new binding in the place of the present one, which keeps what runs in it."""
        self.older_bindings = self.bindings
        self.binding = Binding(upstream)
        return self.binding

    @property
    def server_requests(self) -> ServerRequests:
        """The upstream's unanswered requests, made on first use."""
        if self._server_requests is None:
            self._server_requests = ServerRequests()
        return self._server_requests

    def close_server_requests(self, generation: Generation) -> None:
        """Close the requests of an upstream session that is gone (semantics 15)."""
        if self._server_requests is not None:
            self._server_requests.close(generation)

    def receive(self, event: SessionEvent) -> None:
        """Move by the table.

        Raises:
            IllegalTransition: the table has no such row; nothing has changed.
        """
        state = SESSION.get((self.state, event))
        if state is None:
            raise IllegalTransition(f"session: {event.value} in state {self.state.value}")
        self.state = state

    def subscribe(self, uri: str, limit: int) -> bool:
        """Remember a subscription to restore; False when *limit* is reached and it will not be."""
        if self.subscriptions is None:
            self.subscriptions = {}
        if uri not in self.subscriptions and len(self.subscriptions) >= limit:
            return False
        self.subscriptions[uri] = None
        return True

    def unsubscribe(self, uri: str) -> None:
        """Forget a subscription."""
        if self.subscriptions is not None:
            self.subscriptions.pop(uri, None)

    def resync(self) -> list[tuple[str, dict[str, str] | None]]:
        """Return the notifications that follow a discontinuity (semantics 14), method and params.

        One `list_changed` for each list whose `listChanged` the client was promised, one `resources/updated` for
        each restored subscription: equal capabilities do not mean equal lists, and updates during the outage are
        lost.
        """
        promised = self.handshake.promised
        told: list[tuple[str, dict[str, str] | None]] = [
            (f"notifications/{name}/list_changed", None)
            for name, is_promised in (
                ("tools", promised.tools_list_changed),
                ("prompts", promised.prompts_list_changed),
                ("resources", promised.resources_list_changed),
            )
            if is_promised
        ]
        told.extend(("notifications/resources/updated", {"uri": uri}) for uri in self.subscriptions or ())
        return told


class Rest(Enum):
    """What the clock says of a session (semantics 20)."""

    AWAKE = "awake"
    PARK = "park"
    """End the upstream's side only."""
    EXPIRE = "expire"
    """End the session: the last resort, a 404 kills every official client."""
    END = "end"
    """End the session, however active: its lifetime is over."""


def rest(*, idle: float, lived: float, upstream_idle_limit: float, idle_limit: float, lifetime: float) -> Rest:
    """Return what is due, all in seconds; a *lifetime* of 0 is none."""
    if lifetime and lived >= lifetime:
        return Rest.END
    if idle >= idle_limit:
        return Rest.EXPIRE
    return Rest.PARK if idle >= upstream_idle_limit else Rest.AWAKE


def may_read(session: Session, principal: str | None) -> bool:
    """Tell whether *principal* may read this session's log; asked before every replay (semantics 6)."""
    return session.principal is None or session.principal == principal
