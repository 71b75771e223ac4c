"""Stand-ins for time, clients, upstreams and observers, so that a session runs without a socket.

Each fake holds its edge's contract: a verb that the contract forbids fails the test at the line that broke
it. The fakes decide nothing by themselves: a clock moves and an upstream answers when it is told to.
"""

import hashlib
import heapq
import json as jsonlib
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from itertools import count
from typing import Any

from proxy.app import check_period_seconds
from proxy.config import Config
from proxy.core import headers as h
from proxy.core import jsonrpc, sse
from proxy.core.edge import Request, Watcher
from proxy.core.head import Head
from proxy.core.headers import Block, Headers
from proxy.core.idmap import IdMap
from proxy.core.ids import RequestId, SessionId, UpstreamSessionId
from proxy.core.session import Handshake
from proxy.observe.hooks import Fingerprint, Funnel, Record
from proxy.registry import Registry
from proxy.relay.context import Context
from proxy.relay.session import SessionRelay
from proxy.store.memory import Budget
from proxy.upstream.base import Loss, Receiver, UpstreamRequest
from proxy.upstream.member import Member
from proxy.upstream.pool import Pool
from proxy.wheel import Wheel

JSON_TYPE = ("Content-Type", "application/json")
SSE_TYPE = ("Content-Type", "text/event-stream")
ACCEPT_BOTH = ("Accept", "application/json, text/event-stream")

Pairs = Iterable[tuple[str, str]]

_SECTIONS = ("upstream", "session", "stream", "replay", "listen", "server", "retry", "swap", "health")
_RUNAWAY_TIMERS = 100_000


class FakeTimer:
    """One pending call of a `FakeClock`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the call; harmless when it ran already."""
        self.callback = None


class FakeClock:
    """Time that moves only by `advance`; entropy that repeats from run to run. Fulfils `clock.Clock`."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._sequence = count()
        self._drawn = count()
        self.jitter_value = 0.0
        """What `jitter` returns."""

    def now(self) -> float:
        """Return the present instant."""
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        """Call *callback* in the `advance` that reaches its instant; never from inside this call."""
        assert delay >= 0, f"a delay of {delay} seconds lies in the past"
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._sequence), timer))
        return timer

    def entropy(self, size: int) -> bytes:
        """Return *size* bytes, others at every call and the same in every run."""
        return hashlib.shake_256(next(self._drawn).to_bytes(8, "big")).digest(size)

    def jitter(self) -> float:
        """Return `jitter_value`."""
        return self.jitter_value

    def pending(self) -> int:
        """Count the timers that were neither run nor cancelled."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def advance(self, seconds: float = 0.0) -> None:
        """Move on by *seconds* and run what falls due, at its instant, in order; 0 runs what is due now."""
        until = self._now + seconds
        ran = 0
        while self._timers and self._timers[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                ran += 1
                assert ran < _RUNAWAY_TIMERS, "timers start each other without end"
                callback()
        self._now = until


class FakeSink:
    """One client's answer, recorded. Fulfils `proxy.core.edge.Sink`."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Headers = []
        self.writes: list[bytes] = []
        self.finished = False
        self.aborted = False
        self.gone = False
        self.watcher: Watcher | None = None
        self.is_congested = False
        """What `congested` says, besides `room`."""
        self.room: int | None = None
        """Bytes it takes before it says that it is congested; None for no end."""

    # -- what the proxy calls

    @property
    def congested(self) -> bool:
        """Tell what the test has set."""
        return self.is_congested or (self.room is not None and self.room <= 0)

    def watch(self, watcher: Watcher | None) -> None:
        """Name the one watcher."""
        self.watcher = watcher

    def answer(self, status: int, headers: Headers, body: bytes, session_id: SessionId | None = None) -> None:
        """Record a whole answer."""
        self.start(status, headers, session_id)
        if body:
            self.write(body)
        self.finish()

    def start(self, status: int, headers: Headers, session_id: SessionId | None = None) -> None:
        """Record the head."""
        self._assert_open("start")
        assert self.status is None, f"started twice: {self.status}, then {status}"
        if not self.gone:
            self.status = status
            self.headers = [*headers, *([(h.SESSION_ID, session_id)] if session_id is not None else [])]

    def write(self, data: bytes) -> None:
        """Record body bytes."""
        self._assert_open("write")
        assert data, "an empty write would end a chunked body"
        if not self.gone:
            assert self.status is not None, "body before head"
            self.writes.append(data)
            if self.room is not None:
                self.room -= len(data)

    def offer(self, data: bytes) -> bool:
        """Record body bytes, if they are taken."""
        if self.congested:
            return False
        self.write(data)
        return True

    def finish(self) -> None:
        """Record the clean end."""
        self._assert_open("finish")
        if not self.gone:
            assert self.status is not None, "an end without a head"
            self.finished = True

    def abort(self) -> None:
        """Record the cut."""
        self._assert_open("abort")
        self.aborted = not self.gone

    def _assert_open(self, verb: str) -> None:
        assert not self.finished, f"{verb} after finish"
        assert not self.aborted, f"{verb} after abort"

    # -- what the client does

    def congest(self) -> None:
        """Stop reading."""
        self.is_congested = True

    def drain(self) -> None:
        """Read everything."""
        self.is_congested = False
        if self.room is not None:
            self.room = 1 << 40
        if self.watcher is not None and not self.is_over:
            self.watcher.sink_drained()

    def go_away(self) -> None:
        """Close the connection."""
        was_over, self.gone = self.is_over, True
        watcher, self.watcher = self.watcher, None
        if watcher is not None and not was_over:
            watcher.sink_closed()

    # -- what the client has got

    @property
    def is_over(self) -> bool:
        """Tell whether the answer has its end, or nobody to read it."""
        return self.finished or self.aborted or self.gone

    @property
    def body(self) -> bytes:
        """Everything that was written."""
        return b"".join(self.writes)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """Return a body that is one JSON value."""
        return jsonlib.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return a header of the head."""
        return h.get(self.headers, name)

    @property
    def frames(self) -> list[sse.Frame]:
        """The frames of the body, priming frames too."""
        return sse.Decoder(1 << 30).feed(self.body)

    @property
    def ids(self) -> list[str]:
        """The event ids that were given, in order."""
        return [frame.id.decode() for frame in self.frames if frame.id is not None]

    @property
    def last_id(self) -> str:
        """What a client that comes back says as `Last-Event-ID`."""
        return self.ids[-1]

    @property
    def messages(self) -> list[Any]:
        """The decoded JSON of every frame that has data."""
        return [jsonlib.loads(frame.data) for frame in self.frames if frame.data]


class Attempt:
    """One exchange that the proxy began, and the verbs with which the test answers it. Fulfils `Exchange`."""

    def __init__(self, request: UpstreamRequest, receiver: Receiver) -> None:
        self.request = request
        self.receiver = receiver
        self.is_aborted = False
        self.is_paused = False
        self.is_over = False
        """Ended or lost, by the test."""
        self.has_head = False

    # -- what the proxy calls

    def abort(self) -> None:
        """Record the cut; the receiver hears nothing any more."""
        self.is_aborted = True

    def pause(self) -> None:
        """Record that reading stopped."""
        self.is_paused = True

    def resume(self) -> None:
        """Record that reading goes on."""
        self.is_paused = False

    # -- what was asked

    @property
    def is_open(self) -> bool:
        """Tell whether an answer can still be heard."""
        return not (self.is_over or self.is_aborted)

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.request.method

    @property
    def message(self) -> Any:
        """The decoded JSON of the request's body; None without one."""
        return jsonlib.loads(self.request.body) if self.request.body else None

    @property
    def rpc(self) -> str | None:
        """The JSON-RPC method, where the body is one message with a method."""
        return jsonrpc.classify(self.request.body).method

    def header(self, name: str) -> str | None:
        """Return a header of the request."""
        return h.get(self.request.all_headers, name)

    @property
    def upstream_id(self) -> str | None:
        """The session id it carries."""
        return self.header(h.SESSION_ID)

    # -- how it is answered; what comes after an abort is unheard, as on a wire

    def head(self, status: int, headers: Pairs = ()) -> None:
        """Send status and headers."""
        self._assert_running()
        assert not self.has_head, "one head per exchange"
        self.has_head = True
        if not self.is_aborted:
            self.receiver.on_head(status, Block(headers))

    def data(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._assert_running()
        assert self.has_head, "body before head"
        if not self.is_aborted:
            self.receiver.on_data(data)

    def end(self, *, proven: bool = True) -> None:
        """End the body."""
        self._assert_running()
        assert self.has_head, "an end without a head"
        self.is_over = True
        if not self.is_aborted:
            self.receiver.on_end(proven)

    def lost(self, loss: Loss, detail: str = "test") -> None:
        """Break the connection, or refuse it."""
        self._assert_running()
        assert loss is Loss.BROKEN or not self.has_head, "what was answered was sent"
        self.is_over = True
        if not self.is_aborted:
            self.receiver.on_lost(loss, detail)

    def refuse(self) -> None:
        """Refuse the connection."""
        self.lost(Loss.REFUSED)

    def answer(self, status: int, headers: Headers = (), body: bytes = b"") -> None:  # type: ignore[assignment]
        """Send one whole answer."""
        self.head(status, headers)
        if body:
            self.data(body)
        self.end()

    def json(self, status: int = 200, body: Any = None, headers: Pairs = ()) -> None:
        """Send one whole JSON answer; *body* may be bytes; without one, an empty result."""
        if body is None:
            body = jsonlib.loads(result_body(self.message["id"]))
        data = body if isinstance(body, bytes) else jsonlib.dumps(body).encode()
        self.answer(status, [JSON_TYPE, *headers], data)

    def sse(self, headers: Pairs = ()) -> None:
        """Begin an event stream."""
        self.head(200, [SSE_TYPE, *headers])

    def frame(self, data: Any, event_id: str = "", event: str = "message") -> None:
        """Send one frame of an event stream; *data* may be bytes."""
        data = data if isinstance(data, bytes) else jsonlib.dumps(data).encode()
        lines = [f"event: {event}".encode()] if event else []
        if event_id:
            lines.append(f"id: {event_id}".encode())
        self.data(b"\n".join([*lines, b"data: " + data, b"", b""]))

    def _assert_running(self) -> None:
        assert not self.is_over, "the exchange is over: an edge says nothing more"


class FakeEdge:
    """One upstream that records what is asked. Fulfils `proxy.upstream.base.Edge`."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.attempts: list[Attempt] = []
        self.reaches: list[Callable[[bool], None]] = []
        """Who waits for the outcome of `reach`, where `reachable` does not tell."""
        self.reachable: bool | None = None
        """What every `reach` is answered with, at the next `advance`; None: `reached` answers by hand."""
        self.reach_count = 0
        self.is_closed = False

    # -- what the proxy calls

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Attempt:
        """Record an exchange; its receiver hears nothing from inside this call."""
        attempt = Attempt(request, receiver)
        self.attempts.append(attempt)
        return attempt

    def reach(self, done: Callable[[bool], None]) -> None:
        """Record the question, or answer it in the clock's next turn."""
        self.reach_count += 1
        if self.reachable is None:
            self.reaches.append(done)
        else:
            answer = self.reachable
            self._clock.call_later(0.0, lambda: done(answer))

    async def close(self) -> None:
        """Cut everything."""
        self.is_closed = True

    # -- what the test looks at

    def reached(self, outcome: bool = True) -> None:
        """Answer the oldest open `reach`."""
        self.reaches.pop(0)(outcome)

    @property
    def last(self) -> Attempt:
        """The exchange that began last."""
        return self.attempts[-1]

    @property
    def open(self) -> list[Attempt]:
        """The exchanges that still wait for something."""
        return [attempt for attempt in self.attempts if attempt.is_open]

    def find(self, *, method: str | None = None, rpc: str | None = None, is_open: bool = True) -> list[Attempt]:
        """Return the exchanges of an HTTP method, of a JSON-RPC method, or of both."""
        return [
            attempt
            for attempt in self.attempts
            if (not is_open or attempt.is_open)
            and (method is None or attempt.method == method)
            and (rpc is None or attempt.rpc == rpc)
        ]

    def one(self, *, method: str | None = None, rpc: str | None = None) -> Attempt:
        """Return the only open exchange that fits."""
        found = self.find(method=method, rpc=rpc)
        assert len(found) == 1, f"{len(found)} open exchanges with {method or rpc}, not one"
        return found[0]

    def serve_rebuild(
        self, upstream_id: str | None = "up-2", *, version: str = "2025-11-25", get_status: int = 405
    ) -> None:
        """Answer the steps of a rebuild until none is open; a *get_status* of 200 opens the stream."""
        while steps := [attempt for attempt in self.open if _is_rebuild_step(attempt)]:
            for step in steps:
                if step.method == "GET":
                    step.sse() if get_status == 200 else step.answer(get_status)
                elif step.rpc == "initialize":
                    headers = [(h.SESSION_ID, upstream_id)] if upstream_id is not None else []
                    step.json(200, initialize_answer(version, request_id=step.message["id"]), headers)
                elif step.rpc == "notifications/initialized":
                    step.answer(202)
                else:
                    step.json(200)


def _is_rebuild_step(attempt: Attempt) -> bool:
    if attempt.method == "GET":
        return not attempt.has_head and attempt.header(h.LAST_EVENT_ID) is None
    if attempt.rpc in ("initialize", "notifications/initialized"):
        return True
    restores = attempt.rpc in ("logging/setLevel", "resources/subscribe")
    return restores and str(attempt.message["id"]).startswith("mcp-session-proxy-")


class RecordingObserver(Funnel):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Record]] = []

    def observed(self, verb: str, record: Record) -> None:
        """Remember."""
        self.told.append((verb, record))

    @property
    def verbs(self) -> list[str]:
        """The verbs in the order of their calls."""
        return [verb for verb, _ in self.told]

    def of(self, verb: str) -> list[Any]:
        """Return the records of one verb."""
        return [record for told, record in self.told if told == verb]


def make_config(**settings: Any) -> Config:
    """Return a configuration; each setting is named by its key alone, which is unique."""
    config = Config()
    # No test shares a port with another one, or with a proxy that runs on this machine.
    config = replace(config, admin=replace(config.admin, address=""))
    for key, value in settings.items():
        holders = [name for name in _SECTIONS if key in {item.name for item in fields(getattr(config, name))}]
        if key == "max_calls":
            holders.remove("upstream")  # `limits` sets the upstream's
        assert len(holders) == 1, f"{key}: in {len(holders)} tables, not one"
        section = replace(getattr(config, holders[0]), **{key: value})
        config = replace(config, **{holders[0]: section})
    return config


def make_context(
    *,
    observer: Any = None,
    trust_forwarded: bool = False,
    upstreams: Iterable[str] = (),
    policy: str = "round_robin",
    limits: dict[str, Any] | None = None,
    **settings: Any,
) -> Context:
    """Return a context whose clock, edges and observer are fakes, with the settings named by their keys.

    *upstreams* names the members of the pool; by default there is the one of the configuration. *limits* are settings
    of each of them. Nobody asks a server for its tools unless the test says so: it would be a request more.
    """
    config = make_config(**{"ask_tools": False, **settings})
    config = replace(config, upstream=replace(config.upstream, **(limits or {})))
    clock = FakeClock()
    observer = RecordingObserver() if observer is None else observer
    members = [replace(config.upstream, name=name, url=f"http://{name}.test/mcp") for name in upstreams]
    pool = Pool(
        "main",
        policy,
        members or [config.upstream],
        lambda _: FakeEdge(clock),
        clock,
        observer,
        config.health,
    )
    return Context(
        clock=clock,
        pool=pool,
        budget=Budget(config.replay, clock.now),
        heartbeats=Wheel(clock, config.stream.heartbeat_seconds),
        checks=Wheel(clock, check_period_seconds(config)),
        ids=IdMap(),
        observer=observer,
        fingerprint=Fingerprint(bytes(32)),
        upstream=config.upstream,
        session=config.session,
        stream=config.stream,
        retry=config.retry,
        swap=config.swap,
        trust_forwarded=trust_forwarded,
        route="main",
    )


def edge_of(ctx: Context, name: str = "") -> "FakeEdge":
    """Return the fake edge of a member; of the first one by default."""
    member = ctx.pool.find(name) if name else ctx.pool.members[0]
    assert member is not None, f"no member {name}"
    assert isinstance(member.edge, FakeEdge)
    return member.edge


# -- messages


def request_body(method: str, request_id: RequestId = 1, params: dict[str, Any] | None = None) -> bytes:
    """Write a request."""
    return jsonrpc.request_body(request_id, method, params)


def notification_body(method: str, params: dict[str, Any] | None = None) -> bytes:
    """Write a notification."""
    return jsonrpc.notification_body(method, params)


def result_body(request_id: RequestId, result: Any = None) -> bytes:
    """Write a response with a result."""
    return jsonlib.dumps({"jsonrpc": "2.0", "id": request_id, "result": {} if result is None else result}).encode()


def initialize_body(version: str = "2025-11-25", request_id: RequestId = 0) -> bytes:
    """Write what a client opens with."""
    client = {"name": "test", "version": "1"}
    return request_body(
        "initialize", request_id, {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
    )


def initialize_answer(version: str = "2025-11-25", *, request_id: RequestId = 0, **promises: bool) -> bytes:
    """Write the server's answer to `initialize`.

    Promises: tools, prompts, resources (`listChanged` each), subscribe, logging.
    """
    unknown = promises.keys() - {"tools", "prompts", "resources", "subscribe", "logging"}
    assert not unknown, f"no such promise: {unknown}"
    capabilities: dict[str, Any] = {
        name: {"listChanged": True} for name in ("tools", "prompts", "resources") if promises.get(name)
    }
    if promises.get("subscribe"):
        capabilities.setdefault("resources", {})["subscribe"] = True
    if promises.get("logging"):
        capabilities["logging"] = {}
    server = {"name": "upstream", "version": "1"}
    return result_body(request_id, {"protocolVersion": version, "capabilities": capabilities, "serverInfo": server})


def initialize_result(version: str = "2025-11-25", **promises: bool) -> jsonrpc.InitializeResult:
    """Return the server's answer to `initialize`, as the proxy has read it."""
    result = jsonrpc.initialize_result(initialize_answer(version, **promises))
    assert result is not None
    return result


def make_handshake(version: str = "2025-11-25", *, request_id: RequestId = 0, **promises: bool) -> Handshake:
    """Return what a client offered and was promised."""
    return Handshake(initialize_body(version, request_id), request_id, version, initialize_result(version, **promises))


# -- sessions


def open_session(
    where: Context | Registry,
    *,
    version: str = "2025-11-25",
    upstream_id: str | None = "up-1",
    headers: Headers | None = None,
    member: Member | None = None,
    **promises: bool,
) -> SessionRelay:
    """Open a session as an answered `initialize` does; of a context, in a registry of its own."""
    registry = Registry(where) if isinstance(where, Context) else where
    return registry.open(
        make_handshake(version, **promises),
        UpstreamSessionId(upstream_id) if upstream_id is not None else None,
        [("Authorization", "Bearer one")] if headers is None else headers,
        "opening",
        member or registry.ctx.pool.members[0],
    )


def post(relay: SessionRelay, body: bytes, *, headers: Pairs = (), sink: FakeSink | None = None) -> FakeSink:
    """Send a POST of the session's client and return its sink."""
    sink = FakeSink() if sink is None else sink
    own = [ACCEPT_BOTH, JSON_TYPE, (h.SESSION_ID, relay.session.id), *headers]
    request = Request(Head("POST", "/mcp", own), body)
    relay.post(jsonrpc.classify(body), request, sink)
    return sink


def listen(
    relay: SessionRelay, cursor: str | None = None, *, headers: Pairs = (), sink: FakeSink | None = None
) -> FakeSink:
    """Send a GET of the session's client, with its cursor where it has one, and return its sink."""
    sink = FakeSink() if sink is None else sink
    own = [("Accept", "text/event-stream"), (h.SESSION_ID, relay.session.id), *headers]
    if cursor is not None:
        own.append((h.LAST_EVENT_ID, cursor))
    relay.readers.listen(Request(Head("GET", "/mcp", own), b""), sink)
    return sink
