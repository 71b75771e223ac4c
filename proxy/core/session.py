"""The state of one session and the tables that move it.

Owns who a session is (ids, handshake, what the client was promised), which upstream session it is bound to, and what
a rebuild must restore. Knows no time, no I/O and no client connection. Laws: every change of state is a row of
`BINDING` or `SESSION`; a pair without a row raises and changes nothing; a call that succeeds on a bound session
changes no state at all and asks no table.
"""

from collections.abc import Mapping
from enum import Enum

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.asked import ServerRequests
from proxy.core.ids import Generation, RequestId, SessionId, UpstreamSessionId
from proxy.core.jsonrpc import InitializeResult
from proxy.core.revision import Revision
from proxy.errors import IllegalTransition

RECORD_FORMAT = 1
"""Version of the session record; a durable store refuses what it does not know."""


class _Name(Enum):
    """An enum whose members are looked up by what they are: the usual hash is a call in Python, two for each row."""

    __hash__ = object.__hash__


class SessionState(_Name):
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
    OPERATOR = "operator"
    ROUTE_REMOVED = "route_removed"
    SHUTDOWN = "shutdown"


class SessionEvent(_Name):
    """What can happen to a session as a whole."""

    ANSWERED = "answered"
    CLOSED = "closed"


SESSION: Mapping[tuple[SessionState, SessionEvent], SessionState] = {
    (SessionState.OPENING, SessionEvent.ANSWERED): SessionState.OPEN,
    (SessionState.OPENING, SessionEvent.CLOSED): SessionState.CLOSED,
    (SessionState.OPEN, SessionEvent.CLOSED): SessionState.CLOSED,
    (SessionState.CLOSED, SessionEvent.CLOSED): SessionState.CLOSED,
}


class BindingState(_Name):
    """UNBOUND: no upstream session, by choice; BINDING: one is being made; LOST: there was one.

    DRAINING: another binding has taken its place, and it lives on for the calls that run in it.
    """

    UNBOUND = "unbound"
    BINDING = "binding"
    BOUND = "bound"
    LOST = "lost"
    DRAINING = "draining"


class BindingEvent(_Name):
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
    DENIED_ELSEWHERE = "denied elsewhere"
    """So do others, while the one that took the stored ones is not there."""
    LOSS = "loss"
    """The upstream session of the present generation is gone (semantics 11)."""
    IDLE = "idle"
    """The session rested for `upstream_idle_seconds`."""
    REPLACED = "replaced"
    """Another binding takes its place: the session was moved."""
    FINISHED = "finished"
    """Nothing runs in it any more, or its time to finish is over."""
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
    REOPEN_AT_HOME = "try again when the session's own upstream is well, if a reader is attached"
    CLOSE_STANDALONE = "close upstream standalone stream"
    END_UPSTREAM = "tell the upstream with DELETE"


@mypyc_attr(native_class=False)
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
    (_B.UNBOUND, _E.REPLACED): Row(_B.UNBOUND),
    (_B.UNBOUND, _E.CLOSED): Row(_B.UNBOUND),
    # Single flight: whoever needs the binding while it is being made waits for the same rebuild.
    (_B.BINDING, _E.NEEDED): Row(_B.BINDING),
    (_B.BINDING, _E.BUILT): Row(_B.BOUND, (_C.RAISE_GENERATION, _C.TELL_RESYNC, _C.SEND_WAITING)),
    (_B.BINDING, _E.FAILED): Row(_B.LOST, (_C.CLOSE_STANDALONE, _C.FAIL_WAITING, _C.REOPEN_LATER)),
    # Parked until the next live request brings its own credentials (semantics 12).
    (_B.BINDING, _E.DENIED): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.FAIL_DENIED)),
    # Where they were taken they will be again; who refused them is not asked a second time.
    (_B.BINDING, _E.DENIED_ELSEWHERE): Row(_B.LOST, (_C.CLOSE_STANDALONE, _C.FAIL_DENIED, _C.REOPEN_AT_HOME)),
    (_B.BINDING, _E.LOSS): Row(_B.BINDING),
    (_B.BINDING, _E.IDLE): Row(_B.UNBOUND, (_C.STOP_REBUILD, _C.CLOSE_STANDALONE, _C.FAIL_WAITING)),
    # Who waits goes on waiting: it is sent in the binding that takes the place.
    (_B.BINDING, _E.REPLACED): Row(_B.UNBOUND, (_C.STOP_REBUILD, _C.CLOSE_STANDALONE)),
    (_B.BINDING, _E.CLOSED): Row(_B.UNBOUND, (_C.STOP_REBUILD, _C.CLOSE_STANDALONE, _C.FAIL_WAITING)),
    (_B.BOUND, _E.NEEDED): Row(_B.BOUND),
    (_B.BOUND, _E.LOSS): Row(_B.LOST, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.REBUILD_IF_WANTED)),
    (_B.BOUND, _E.IDLE): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.END_UPSTREAM)),
    # Its standalone stream stays: a server may ask on it what a call that runs there needs to know.
    (_B.BOUND, _E.REPLACED): Row(_B.DRAINING),
    (_B.BOUND, _E.CLOSED): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.END_UPSTREAM)),
    (_B.LOST, _E.NEEDED): Row(_B.BINDING, (_C.START_REBUILD,)),
    (_B.LOST, _E.LOSS): Row(_B.LOST),
    (_B.LOST, _E.IDLE): Row(_B.UNBOUND),
    (_B.LOST, _E.REPLACED): Row(_B.UNBOUND),
    (_B.LOST, _E.CLOSED): Row(_B.UNBOUND),
    (_B.DRAINING, _E.LOSS): Row(_B.LOST, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS)),
    (_B.DRAINING, _E.FINISHED): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.END_UPSTREAM)),
    (_B.DRAINING, _E.CLOSED): Row(_B.UNBOUND, (_C.CLOSE_STANDALONE, _C.CLOSE_SERVER_REQUESTS, _C.END_UPSTREAM)),
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

    def receive(self, event: BindingEvent, generation: Generation | None = None) -> tuple[Command, ...]:
        """Move by the table and return the commands of the row.

        Args:
            event: what happened.
            generation: the number an entry into BOUND takes, as `Session.next_generation` gave it; None: the next one
                of this binding.

        Raises:
            IllegalTransition: the table has no such row, or the number does not rise; nothing has changed.
        """
        row = BINDING.get((self.state, event))
        if row is None:
            raise IllegalTransition(f"binding: {event.value} in state {self.state.value}")
        if Command.RAISE_GENERATION in row.commands:
            raised = Generation(self.generation + 1) if generation is None else generation
            if raised <= self.generation:
                raise IllegalTransition(f"binding: generation {raised} after {self.generation}")
            self.generation = raised
        self.state = row.state
        return row.commands


@mypyc_attr(native_class=False)
class Handshake(msgspec.Struct, gc=False):
    """What the client offered and was promised; replayed on every rebuild."""

    body: bytes
    """The client's `initialize` request, byte for byte."""
    request_id: RequestId
    version: str
    """The protocol version that was negotiated; a rebuild offers this one (semantics 12)."""
    promised: InitializeResult


class Session:
    """Everything about one session that outlives its connections."""

    __slots__ = (
        "_generations",
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
        "tasks",
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
        self._generations = 0
        self._server_requests: ServerRequests | None = None
        self.tasks: dict[str, Generation] | None = None
        """Tasks (2025-11-25) and the generation whose upstream session holds, or held, each; made on first use."""

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All of them, the present one last."""
        return (*self.older_bindings, self.binding)

    def next_generation(self) -> Generation:
        """Return a number for the next upstream session; two that are being made at once never share one."""
        self._generations = max(self._generations, *(binding.generation for binding in self.bindings)) + 1
        return Generation(self._generations)

    def return_generation(self, generation: Generation) -> None:
        """Take back the number of an upstream session that did not come about, if it was the last one given."""
        if generation == self._generations:
            self._generations -= 1

    def replace(self, binding: Binding) -> None:
        """Put *binding* in the place of the present one, which stays among the older ones while it drains."""
        present = self.binding
        if present.state is BindingState.DRAINING:
            self.older_bindings = (*self.older_bindings, present)
        self.binding = binding

    def drop(self, binding: Binding) -> None:
        """Forget an older binding in which nothing runs any more."""
        self.older_bindings = tuple(older for older in self.older_bindings if older is not binding)

    @property
    def has_tasks(self) -> bool:
        """Tell whether a task runs that pins the session to its upstream session."""
        return self.tasks is not None and self.running_tasks > 0

    @property
    def running_tasks(self) -> int:
        """Count the tasks of the present upstream session; those of one that is gone are lost with it."""
        binding = self.binding
        if not self.tasks or binding.state not in (BindingState.BOUND, BindingState.DRAINING):
            return 0
        return sum(generation == binding.generation for generation in self.tasks.values())

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
