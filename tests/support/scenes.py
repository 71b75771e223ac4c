"""One session on the fakes, with the verbs a client and an upstream have: what most relay tests begin with.

Owns no expectation. A scene holds the session's parts and shortens the usual steps; everything it does goes through the
fakes, so that a test can always do the same by hand.
"""

import json as jsonlib
from collections.abc import Iterable
from typing import Any

from proxy.core import headers as h
from proxy.core.edge import Request
from proxy.core.head import Head
from proxy.core.ids import RequestId
from proxy.core.session import CloseReason
from proxy.downstream.listener import Listener
from proxy.registry import Registry
from proxy.relay.move import MoveOutcome, MoveResult
from proxy.relay.session import SessionRelay
from proxy.routes import RouteTable
from proxy.upstream.base import Loss
from proxy.upstream.member import Member
from support.fakes import (
    ACCEPT_BOTH,
    JSON_TYPE,
    Attempt,
    FakeClock,
    FakeEdge,
    FakeSink,
    Pairs,
    RecordingObserver,
    edge_of,
    listen,
    make_config,
    make_context,
    notification_body,
    open_session,
    post,
    request_body,
    result_body,
)

_OF_THE_POOL = frozenset({"upstreams", "policy", "limits", "trust_forwarded", "observer"})
SETTLE_SECONDS = 20.0
"""Longer than every timer that a closed session may leave to run out."""


class Scene:
    """A session that is bound to `up-1`, its client and its upstream."""

    clock: FakeClock
    edge: FakeEdge
    observer: RecordingObserver

    def __init__(
        self,
        *,
        version: str = "2025-11-25",
        upstream_id: str | None = "up-1",
        promises: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        self.ctx = make_context(**settings)
        self.clock, self.edge, self.observer = self.ctx.clock, edge_of(self.ctx), self.ctx.observer  # type: ignore[assignment]
        self.registry = Registry(self.ctx)
        self.relay: SessionRelay = open_session(
            self.registry, version=version, upstream_id=upstream_id, **dict.fromkeys(promises, True)
        )
        self.version = version
        self.config = make_config(**{key: value for key, value in settings.items() if key not in _OF_THE_POOL})
        self.quiet_timers = self.clock.pending()
        """Timers of a proxy without work: what remains when everything of a session is over."""

    # -- the client

    def call(
        self,
        request_id: RequestId = 1,
        method: str = "tools/call",
        params: dict[str, Any] | None = None,
        *,
        headers: Pairs = (),
    ) -> FakeSink:
        """POST a request."""
        return post(self.relay, request_body(method, request_id, params), headers=headers)

    def batch(self, *bodies: bytes) -> FakeSink:
        """POST a batch."""
        return post(self.relay, b"[" + b",".join(bodies) + b"]")

    def notify(self, method: str, params: dict[str, Any] | None = None, *, headers: Pairs = ()) -> FakeSink:
        """POST a notification."""
        return post(self.relay, notification_body(method, params), headers=headers)

    def cancel(self, request_id: RequestId) -> FakeSink:
        """POST the cancel of a request."""
        return self.notify("notifications/cancelled", {"requestId": request_id})

    def respond(self, request_id: RequestId, result: Any = None) -> FakeSink:
        """POST the response to a server's request."""
        return post(self.relay, result_body(request_id, result))

    def get(self, cursor: str | None = None, *, headers: Pairs = ()) -> FakeSink:
        """Open the standalone stream, or resume with a cursor."""
        return listen(self.relay, cursor, headers=headers)

    def listening(self) -> FakeSink:
        """Open the standalone stream on both sides."""
        sink = self.get()
        self.edge.one(method="GET").sse()
        assert sink.status == 200
        return sink

    def streaming(self, request_id: RequestId = 1, *frames: Any, cursor: str = "") -> tuple[FakeSink, Attempt]:
        """Begin a call whose upstream answers with a stream; a *cursor* is its first event id."""
        sink = self.call(request_id)
        attempt = self.edge.last
        attempt.sse()
        if cursor:
            attempt.data(f"id: {cursor}\ndata:\n\n".encode())
        for frame in frames:
            attempt.frame(frame)
        return sink, attempt

    # -- the upstream

    def lose_session(self, attempt: Attempt) -> None:
        """Answer an exchange as a server does that does not know the session."""
        attempt.json(404, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Session not found"}})

    def rebuilt(self, upstream_id: str | None = "up-2", *, get_status: int = 405) -> None:
        """Serve the rebuild under way."""
        self.edge.serve_rebuild(upstream_id, version=self.version, get_status=get_status)

    def background(self) -> Attempt:
        """Let a rebuild that no request waits for have its turn, and return its first step.

        After a refused connection that turn comes when the upstream can be reached again.
        """
        self.clock.advance()
        if not self.edge.find(rpc="initialize"):
            self.clock.advance(1.0)
            self.edge.reached()
            self.clock.advance()
        return self.edge.one(rpc="initialize")

    def settle(self) -> None:
        """Let every timer of what is over run out."""
        self.clock.advance(SETTLE_SECONDS)


class PoolScene(Scene):
    """A session that is bound to `up-1` on the first of several members, which nobody probes."""

    def __init__(self, *, upstreams: tuple[str, ...] = ("a", "b"), **settings: Any) -> None:
        super().__init__(upstreams=upstreams, **{"probe": "none", **settings})

    def member(self, name: str) -> Member:
        """Return a member of the pool."""
        found = self.ctx.pool.find(name)
        assert found is not None, f"no member {name}"
        return found

    def at(self, name: str) -> FakeEdge:
        """Return a member's edge."""
        return edge_of(self.ctx, name)

    @property
    def edges(self) -> list[FakeEdge]:
        """The edges of all members."""
        return [edge_of(self.ctx, member.key) for member in self.ctx.pool.members]

    def serve(self, name: str, upstream_id: str | None = "up-2", *, get_status: int = 405) -> None:
        """Answer the handshake that a member is asked for."""
        self.at(name).serve_rebuild(upstream_id, version=self.version, get_status=get_status)

    def eject(self, name: str) -> None:
        """Let a member be out."""
        member = self.member(name)
        self.at(name).reachable = False
        for _ in range(self.config.health.fall):
            member.refused()
        self.clock.advance(self.config.health.eject_after_seconds)
        assert not member.is_available, f"{name} is not ejected"

    def move(self, name: str = "b", **how: Any) -> list[MoveResult]:
        """Begin a move of the session; what it comes to is in the list, once it is known."""
        results: list[MoveResult] = []
        self.relay.move(self.member(name), results.append, **how)
        return results

    def moved(self, name: str = "b", upstream_id: str | None = "up-2", *, get_status: int = 405, **how: Any) -> None:
        """Move the session, and see that it worked."""
        results = self.move(name, **how)
        self.serve(name, upstream_id, get_status=get_status)
        assert [result.outcome for result in results] == [MoveOutcome.MOVED]

    def assert_nothing_is_left(self) -> None:
        """Close the session, let its timers run out, and hold that nothing of it is anywhere."""
        self.relay.close(CloseReason.DELETED)
        for edge in self.edges:
            for farewell in edge.find(method="DELETE"):
                farewell.answer(200)
        self.settle()
        assert [attempt for edge in self.edges for attempt in edge.open] == []
        assert [(member.gate.running, len(member.gate), member.sessions) for member in self.ctx.pool.members] == [
            (0, 0, 0)
        ] * len(self.edges)
        assert (self.relay.calls, self.relay.notes, self.relay.older, self.relay.moving) == ({}, set(), (), None)
        assert (self.ctx.budget.used, self.ctx.budget.held, len(self.ctx.ids)) == (0, 0, 0)
        # The wheel of checks has nobody left to look at.
        assert self.clock.pending() == self.quiet_timers - 1


def break_off(attempt: Attempt) -> None:
    """Cut an exchange after bytes may have been read."""
    attempt.lost(Loss.BROKEN)


def message(method: str, **params: Any) -> dict[str, Any]:
    """Return a notification, decoded."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def progress(value: int, token: str = "t") -> dict[str, Any]:
    """Return a progress notification."""
    return message("notifications/progress", progressToken=token, progress=value)


def server_request(request_id: RequestId, method: str = "sampling/createMessage") -> dict[str, Any]:
    """Return a request of the server."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {}}


def result(request_id: RequestId, **fields: Any) -> dict[str, Any]:
    """Return a response, decoded."""
    return {"jsonrpc": "2.0", "id": request_id, "result": fields}


def reason_of(answer: Any) -> str:
    """Return `error.data.reason` of one decoded message."""
    assert answer["error"]["data"]["origin"] == "mcp-session-proxy"
    return str(answer["error"]["data"]["reason"])


def reason(sink: FakeSink) -> str:
    """Return the reason of the proxy's own error: a whole answer, or the last message of a stream."""
    last = sink.messages[-1] if sink.frames else jsonlib.loads(sink.body)
    return reason_of(last)


class Front:
    """A listener over a registry of its own, for what happens before there is a session."""

    clock: FakeClock
    edge: FakeEdge
    observer: RecordingObserver

    def __init__(
        self,
        *,
        upstreams: Iterable[str] = (),
        policy: str = "round_robin",
        limits: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.ctx = make_context(upstreams=upstreams, policy=policy, limits=limits, **settings)
        self.clock, self.edge, self.observer = self.ctx.clock, edge_of(self.ctx), self.ctx.observer  # type: ignore[assignment]
        self.registry = Registry(self.ctx)
        config = make_config(**settings)
        self.routes = RouteTable(config.routes, lambda _: self.registry)
        self.listener = Listener(self.routes, config.listen, self.ctx.observer)

    def handle(
        self,
        method: str,
        body: bytes = b"",
        *,
        path: str = "/mcp",
        host: str | None = "127.0.0.1:8080",
        headers: Pairs = (),
    ) -> FakeSink:
        """Send any request."""
        sink = FakeSink()
        own = [("Host", host)] if host is not None else []
        self.listener.handle(Request(Head(method, path, [*own, *headers]), body), sink)
        return sink

    def post(self, body: bytes, *, session_id: str | None = None, headers: Pairs = ()) -> FakeSink:
        """Send a POST as a client library does."""
        own = [(h.SESSION_ID, session_id)] if session_id is not None else []
        return self.handle("POST", body, headers=[ACCEPT_BOTH, JSON_TYPE, *own, *headers])

    def only_session(self) -> SessionRelay:
        """Return the one session there is."""
        (relay,) = self.registry._sessions.values()
        return relay
