"""A whole world on the fakes for the simulation: some upstream servers and some clients, each a small honest model.

The servers keep their own books (sessions, what they asked and were answered) and common ones (which call was executed
where), the clients theirs (what each stream has shown them). All assert what must never happen at the line where it
does. None knows the proxy's inside. A server takes the worst view of what reached it: a request that was broken off or
given up before it was looked at is executed all the same.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from proxy.core import headers as h
from proxy.core import sse
from support.fakes import (
    ACCEPT_BOTH,
    JSON_TYPE,
    Attempt,
    FakeEdge,
    FakeSink,
    initialize_answer,
    notification_body,
    request_body,
    result_body,
)
from support.scenes import Front, break_off

PROGRESS = "notifications/progress"
RESYNC = "notifications/tools/list_changed"
"""The one notification that only the proxy sends here: it tells a discontinuity."""
SMALL_WINDOW = 6
PROBE = "mcp-session-proxy-probe"
"""The name under which the proxy itself asks whether a server is well."""
PROMPT = "prompt"
"""A request that only reads whatever the server says: no tool."""
SAFE_TOOLS, UNSAFE_TOOLS = ("vouched*",), ("forbidden",)
"""What the operator says of tools; the server says something else."""
TOOLS: dict[str, dict[str, bool]] = {
    "write": {},
    "overwrite": {"readOnlyHint": False, "idempotentHint": False},
    "read": {"readOnlyHint": True},
    "same": {"idempotentHint": True},
    "vouched-for": {},
    "forbidden": {"readOnlyHint": True},
}
"""The tools and their annotations."""
REPEATABLE = frozenset({PROMPT, "read", "same", "vouched-for"})
"""What may be executed more than once."""


class Books:
    """What all servers together have executed, and every event id they gave."""

    def __init__(self) -> None:
        self.executions: dict[int, int] = {}
        self.cursors: dict[str, ServerCall | ServerSession] = {}
        self.tag = 0

    def execute(self, attempt: Attempt) -> int:
        """Enter an execution and return which one of its call it is, from 1."""
        params = attempt.message["params"]
        serial = params["serial"]
        self.executions[serial] = run = self.executions.get(serial, 0) + 1
        assert run == 1 or params["name"] in REPEATABLE, f"call {serial} of {params['name']} was executed twice"
        return run

    def event_id(self, owner: ServerCall | ServerSession) -> str:
        """Give an event id that no server gives again."""
        self.tag += 1
        self.cursors[f"e{self.tag}"] = owner
        return f"e{self.tag}"


@dataclass(eq=False)
class ServerCall:
    """One execution of a call on the server."""

    client: str
    serial: int
    run: int
    request_id: int | str
    upstream_id: str
    has_ids: bool
    attempt: Attempt | None
    frames: list[tuple[str, bytes]] = field(default_factory=list)
    counted: int = 0
    """Messages without the progress between them."""
    progress: int = 0
    is_done: bool = False

    def said(self) -> dict[str, Any]:
        """Return what the next message says of itself."""
        return {"of": self.serial, "k": self.counted, "run": self.run, "client": self.client}


@dataclass(eq=False)
class ServerSession:
    """One session of the server."""

    id: str
    label: str
    """Names it among the sessions of all servers, whose ids are the same."""
    client: str
    has_ids: bool
    link: Attempt | None = None
    sent: int = 0
    store: list[tuple[str, bytes]] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    """Event ids that were sent, not merely stored."""
    asked: dict[Any, int] = field(default_factory=dict)
    answered: set[Any] = field(default_factory=set)
    next_ask: int = 1
    called: set[int | str] = field(default_factory=set)
    """Ids of the calls that were executed in it: none of their clients uses one twice."""


class Server:
    """The upstream: every open exchange waits here until the dice say what happens to it."""

    def __init__(
        self,
        edge: FakeEdge,
        dice: random.Random,
        books: Books,
        *,
        lost_status: int,
        may_repeat: bool,
        name: str = "default",
    ) -> None:
        self.edge = edge
        self.dice = dice
        self.books = books
        self.lost_status = lost_status
        self.may_repeat = may_repeat
        self.name = name
        self.is_up = True
        self.is_stopped = False
        """Whether it takes connections and does nothing, as a stopped process does."""
        self.is_healthy = False
        """Whether it does everything right from now on."""
        self.sessions: dict[str, ServerSession] = {}
        self.doubted: set[str] = set()
        """Sessions that a proxy may take for lost although they are there: their server was silent for a while."""
        self.calls: list[ServerCall] = []
        self.stuck: set[Attempt] = set()
        self.halves: list[tuple[Attempt, bytes]] = []
        """Answers under way: what is still to come of each."""
        self._inbox: list[Attempt] = []
        self._seen = 0
        self._made = 0
        edge.reachable = True

    # -- outages

    @property
    def is_there(self) -> bool:
        """Tell whether it does anything."""
        return self.is_up and not self.is_stopped

    def fall(self) -> None:
        """Die: every exchange is cut, every session forgotten, connections refused."""
        self._take_in()
        self.is_up = self.edge.reachable = self.is_stopped = False
        for attempt in self.edge.open:
            if attempt in self._inbox and self._would_run(attempt):
                self.books.execute(attempt)
        self.forget()
        for attempt in self.edge.open:
            # Not one that was ended by what another one's end called for.
            if attempt.is_open:
                break_off(attempt)

    def rise(self) -> None:
        """Come back with nothing."""
        self.is_up = self.edge.reachable = True

    def stop(self) -> None:
        """Stop in the middle of everything: connections are accepted, and nobody answers."""
        self.is_stopped = True
        self.doubted.update(self.sessions)

    def go_on_running(self) -> None:
        """Run again, with all that has arrived meanwhile."""
        self.doubted.update(self.sessions)
        self.is_stopped = False

    def forget(self) -> None:
        """Lose every session; what streams goes on streaming until it is cut."""
        self.sessions.clear()

    # -- one step for one exchange

    def _take_in(self) -> None:
        """Read what has arrived; what was given up before it was looked at is done all the same."""
        attempts = self.edge.attempts
        self._inbox.extend(attempts[self._seen :])
        self._seen = len(attempts)
        kept: list[Attempt] = []
        for attempt in self._inbox:
            if attempt.has_head or attempt.is_over or attempt in self.stuck:
                continue
            if attempt.is_open or not self.is_there:
                kept.append(attempt)
            elif attempt.method == "DELETE":
                self.sessions.pop(attempt.upstream_id or "", None)
            elif attempt.rpc == "ping":
                self.doubted.add(attempt.upstream_id or "")
            elif self._would_run(attempt):
                self.books.execute(attempt)
        self._inbox = kept

    def _would_run(self, attempt: Attempt) -> bool:
        return _is_call(attempt) and (attempt.upstream_id is None or attempt.upstream_id in self.sessions)

    @property
    def waiting(self) -> list[Attempt]:
        """The exchanges that got no head yet and can be given one."""
        self._take_in()
        return [] if self.is_stopped else [attempt for attempt in self._inbox if attempt.is_open]

    def serve(self, attempt: Attempt) -> None:
        """Do something about an exchange."""
        if not self.is_up:
            attempt.refuse()
            return
        if attempt.method == "DELETE":
            self.sessions.pop(attempt.upstream_id or "", None)
            attempt.answer(200)
        elif attempt.rpc == "initialize":
            self._initialize(attempt)
        elif attempt.upstream_id is None and _is_call(attempt):
            self._serve_guest(attempt)
        elif attempt.upstream_id not in self.sessions:
            status = 404 if attempt.method == "GET" else self.lost_status
            attempt.json(status, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "lost"}})
        elif attempt.method == "GET":
            self._get(attempt, self.sessions[attempt.upstream_id])
        elif _is_call(attempt):
            self._call(attempt, self.sessions[attempt.upstream_id])
        elif attempt.rpc == "tools/list":
            self._maybe(attempt, lambda: attempt.json(200, self._tools(attempt)))
        elif attempt.rpc is not None and attempt.message.get("id") is not None:
            # A ping that fails twice loses the session for the proxy.
            self.doubted.add(attempt.upstream_id or "")
            self._maybe(attempt, attempt.json)
        else:
            self._note(attempt, self.sessions[attempt.upstream_id])

    def _tools(self, attempt: Attempt) -> bytes:
        """Write the list of tools, in two pages."""
        listed = [{"name": name, "annotations": annotations} for name, annotations in TOOLS.items()]
        if (attempt.message.get("params") or {}).get("cursor") == "2":
            return result_body(attempt.message["id"], {"tools": listed[3:]})
        return result_body(attempt.message["id"], {"tools": listed[:3], "nextCursor": "2"})

    def _maybe(self, attempt: Attempt, verb: Any) -> None:
        """Mostly do it; sometimes fail as servers do."""
        if self.is_healthy or self.dice.random() < 0.8:
            verb()
        elif self.dice.random() < 0.5:
            break_off(attempt)
        else:
            attempt.answer(503)

    def _initialize(self, attempt: Attempt) -> None:
        self._made += 1
        client = attempt.message["params"]["clientInfo"]["name"]
        session = ServerSession(
            f"up-{self._made}", f"{self.name}/{self._made}", client, has_ids=self.dice.random() < 0.6
        )
        version = attempt.message["params"]["protocolVersion"]
        body = initialize_answer(version, request_id=attempt.message["id"], tools=True)

        def verb() -> None:
            self.sessions[session.id] = session
            if self.dice.random() < 0.5:
                attempt.json(200, body, [(h.SESSION_ID, session.id)])
            else:
                attempt.sse([(h.SESSION_ID, session.id)])
                attempt.frame(body)

        self._maybe(attempt, verb)

    def _note(self, attempt: Attempt, session: ServerSession) -> None:
        message = attempt.message
        if "method" not in message:
            shown = message["id"]
            assert shown in session.asked, f"{session.id} never asked {shown!r}"
            assert shown not in session.answered, f"{session.id} was answered twice on {shown!r}"
            assert message["result"]["tag"] == session.asked[shown], "an answer to another request"
            if not self.is_healthy and self.dice.random() < 0.1:
                attempt.answer(503)  # refused, so it may come again
                return
            session.answered.add(shown)
        elif message["method"] == "notifications/cancelled":
            meant = message["params"]["requestId"]
            # By its latest id: an earlier one is that of an attempt which was given up.
            known = {other.message["params"]["serial"]: other.message["id"] for other in self._calls_in(session)}
            assert meant in known.values(), f"{session.label} has no call {meant!r}"
        if not self.is_healthy and self.dice.random() < 0.1:
            break_off(attempt)
        else:
            attempt.answer(202)

    def _calls_in(self, session: ServerSession) -> list[Attempt]:
        return [each for each in self.edge.attempts if each.upstream_id == session.id and _is_call(each)]

    def _call(self, attempt: Attempt, session: ServerSession) -> None:
        chance = 0.0 if self.is_healthy else self.dice.random()
        if chance > 0.97:
            attempt.answer(400, [], b"refused before running")
            return
        if chance > 0.94:
            attempt.answer(429, [], b"slow down")
            return
        run = self.books.execute(attempt)
        message, params = attempt.message, attempt.message["params"]
        call = ServerCall(session.client, params["serial"], run, message["id"], session.id, session.has_ids, attempt)
        assert params["client"] == session.client, "a call in another client's session"
        assert call.request_id not in session.called, f"{session.label}: {call.request_id!r} twice in one session"
        session.called.add(call.request_id)
        self.calls.append(call)
        if chance > 0.91:
            self.stuck.add(attempt)
        elif chance > 0.88:
            call.is_done = True
            break_off(attempt)
        elif chance > 0.85:
            call.is_done = True
            attempt.answer(502)
        elif chance > 0.6 or (self.is_healthy and self.dice.random() < 0.5):
            call.is_done = True
            attempt.json(200, self._result(call))
        else:
            attempt.sse()
            if call.has_ids and self.dice.random() < 0.7:
                priming = self.books.event_id(call)
                attempt.data(f"id: {priming}\ndata:\n\n".encode())

    def _serve_guest(self, attempt: Attempt) -> None:
        """Answer a request without a session."""
        chance = 0.0 if self.is_healthy else self.dice.random()
        if chance > 0.9:
            attempt.answer(503)
            return
        self.books.execute(attempt)
        answer = result_body(attempt.message["id"], {"of": attempt.message["params"]["serial"]})
        if chance > 0.8:
            break_off(attempt)
        elif chance > 0.4:
            attempt.json(200, answer)
        else:
            attempt.sse()
            attempt.frame(answer)
            if attempt.is_open:
                attempt.end()

    def _result(self, call: ServerCall) -> bytes:
        call.counted += 1
        return result_body(call.request_id, call.said())

    # -- streams

    def _get(self, attempt: Attempt, session: ServerSession) -> None:
        cursor = attempt.header(h.LAST_EVENT_ID)
        owner = self.books.cursors.get(cursor or "")
        if not self.is_healthy and self.dice.random() < 0.15:
            attempt.answer(self.dice.choice([400, 409, 503]))
        elif isinstance(owner, ServerCall):
            self._resume(attempt, owner, cursor or "")
        elif session.link is not None and session.link.is_open:
            attempt.answer(409)
        else:
            session.link = attempt
            attempt.sse()
            if cursor is not None:
                for event_id, data in self._behind(session.store, cursor, session.given):
                    session.given.add(event_id)
                    attempt.frame(data, event_id)

    def _behind(
        self, frames: list[tuple[str, bytes]], cursor: str, given: set[str] | None = None
    ) -> list[tuple[str, bytes]]:
        """Return what follows a cursor; some servers send again what came before it."""
        number = int(cursor[1:])
        repeats = self.may_repeat and self.dice.random() < 0.3
        return [
            frame
            for frame in frames
            if int(frame[0][1:]) > number or (repeats and (given is None or frame[0] in given))
        ]

    def _resume(self, attempt: Attempt, call: ServerCall, cursor: str) -> None:
        assert call in self.calls and attempt.upstream_id == call.upstream_id, "a cursor of another upstream session"  # noqa: PT018
        if call.attempt is not None and call.attempt.is_open and not self.is_healthy:
            attempt.answer(409)
            return
        call.attempt = attempt
        attempt.sse()
        foreign = [other for other in self.calls if other.serial != call.serial and other.client == call.client]
        if foreign and self.dice.random() < 0.2:
            other = self.dice.choice(foreign)
            said = {"of": other.serial, "k": 1, "run": other.run, "client": "foreign"}
            attempt.frame(result_body(other.request_id, said))
        for event_id, data in self._behind(call.frames, cursor):
            if attempt.is_open:
                attempt.frame(data, event_id)

    @property
    def running(self) -> list[ServerCall]:
        """The calls that have no result yet and a stream to give it on."""
        if not self.is_there:
            return []
        return [call for call in self.calls if not call.is_done and call.attempt is not None and call.attempt.has_head]

    def emit(self, call: ServerCall, *, is_last: bool) -> None:
        """Send a call's next message, or store it where the stream is cut and has an event store behind it."""
        if is_last:
            data = self._result(call)
        elif self.may_repeat and self.dice.random() < 0.2:
            # Not where the window is small: what was told can then be out of the proxy's sight.
            call.progress += 1
            said = {**call.said(), "progressToken": call.serial, "progress": call.progress}
            data = notification_body(PROGRESS, said)
        else:
            call.counted += 1
            data = notification_body("notifications/message", call.said())
        call.is_done = is_last
        event_id = self.books.event_id(call) if call.has_ids else ""
        call.frames.append((event_id, data))
        attempt = call.attempt
        if attempt is None or not attempt.is_open:
            return
        if not self.is_healthy and self.dice.random() < 0.15:
            attempt.data(b"data: " + data[: self.dice.randrange(len(data))])
            break_off(attempt)
            return
        if is_last and self.dice.random() < 0.5:
            wire = (f"id: {event_id}\n".encode() if event_id else b"") + b"data: " + data + b"\n\n"
            cut = self.dice.randrange(1, len(wire))
            attempt.data(wire[:cut])
            self.halves.append((attempt, wire[cut:]))
            return
        attempt.frame(data, event_id)
        if is_last and attempt.is_open:
            attempt.end()

    def go_on(self) -> None:
        """Send more of an answer under way, or break it off."""
        place = self.dice.randrange(len(self.halves))
        attempt, rest = self.halves.pop(place)
        if not attempt.is_open:
            return
        if not self.is_healthy and self.dice.random() < 0.15:
            break_off(attempt)
            return
        cut = self.dice.choice([len(rest), self.dice.randrange(1, len(rest) + 1)])
        attempt.data(rest[:cut])
        if cut < len(rest):
            self.halves.append((attempt, rest[cut:]))
        elif attempt.is_open:
            attempt.end()

    def ask(self, session: ServerSession) -> None:
        """Send a request of the server's on its standalone stream; ids repeat from session to session."""
        if session.link is None or not session.link.is_open:
            return
        shown: int | str = session.next_ask if session.next_ask % 3 else str(session.next_ask)
        session.next_ask += 1
        self.books.tag += 1
        session.asked[shown] = self.books.tag
        params = {"tag": self.books.tag, "client": session.client}
        session.link.frame(request_body("sampling/createMessage", shown, params))

    def tell(self, session: ServerSession) -> None:
        """Send the next standalone message; without an event store it is lost while no stream is open."""
        session.sent += 1
        said = {"n": session.sent, "session": session.label, "client": session.client}
        data = notification_body("notifications/message", said)
        event_id = self.books.event_id(session) if session.has_ids else ""
        if session.has_ids:
            session.store.append((event_id, data))
        if session.link is not None and session.link.is_open:
            session.given.add(event_id)
            session.link.frame(data, event_id)

    def heal(self) -> None:
        """Come back for good, and take up what was left lying."""
        self.is_healthy = True
        if self.is_stopped:
            self.go_on_running()
        self.rise()
        for attempt in tuple(self.stuck):
            if attempt.is_open and attempt.upstream_id in self.sessions:
                (call,) = [each for each in self.calls if each.attempt is attempt]
                call.is_done = True
                attempt.json(200, self._result(call))


def _is_call(attempt: Attempt) -> bool:
    return attempt.rpc in ("tools/call", "prompts/get")


class Guest:
    """A client of today's protocol: no session, and every request has one end, whichever server it comes from."""

    def __init__(self, front: Front, dice: random.Random, serials: Any) -> None:
        self.front = front
        self.dice = dice
        self.serials = serials
        self.pending: dict[int, FakeSink] = {}
        self.ends: dict[int, str] = {}

    def call(self) -> None:
        """Send a call that must not be executed twice."""
        serial = next(self.serials)
        params = {"name": "write", "serial": serial, "client": "guest"}
        headers = [(h.PROTOCOL_VERSION, "2026-07-28"), (h.METHOD, "tools/call"), (h.NAME, "write")]
        self.pending[serial] = self.front.post(request_body("tools/call", serial, params), headers=headers)

    def go(self) -> None:
        """Lose a connection, which is a cancel."""
        serial = self.dice.choice(list(self.pending))
        self.pending.pop(serial).go_away()
        self.ends[serial] = ""

    def read(self) -> None:
        """Look at what has come."""
        for serial, sink in tuple(self.pending.items()):
            if sink.finished:
                del self.pending[serial]
                self.ends[serial] = self._end(serial, sink)

    def _end(self, serial: int, sink: FakeSink) -> str:
        if sink.status != 200:
            assert sink.status == 503, f"a request was answered with {sink.status}"
            return "http 503"
        (message,) = sink.messages or [sink.json()]
        assert message["id"] == serial, "an answer to another request"
        if "result" in message:
            assert message["result"]["of"] == serial, "an answer of another request"
            return "result"
        return str(message["error"]["data"]["reason"])


def _offset(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


class Connection:
    """One answer the client reads."""

    def __init__(self, sink: FakeSink, call: ClientCall | None, cursor: str | None = None) -> None:
        self.sink = sink
        self.call = call
        self.cursor = cursor
        self.is_repost = call is not None and cursor is None and bool(call.shown)
        """Whether it shows a running call from its beginning again."""
        self.is_read = False
        self._decoder = sse.Decoder(1 << 30)
        self._writes = 0
        self._last = -1

    def may_repeat(self, event_id: bytes) -> bool:
        """Tell whether what was shown already may come again: it came while the client was asking."""
        return self.cursor is not None and _offset(event_id.decode()) > _offset(self.cursor)

    def frames(self) -> list[sse.Frame]:
        """Return what is new, and hold that ids rise within one response."""
        new = self.sink.writes[self._writes :]
        self._writes += len(new)
        frames = [frame for data in new for frame in self._decoder.feed(data)]
        for frame in frames:
            if frame.id is not None:
                offset = _offset(frame.id.decode())
                assert offset > self._last, "ids that do not rise"
                self._last = offset
        return frames


@dataclass(eq=False)
class ClientCall:
    """One call as its client sees it."""

    serial: int
    kind: str
    request_id: int | str
    body: bytes
    last_id: str | None = None
    shown: set[bytes] = field(default_factory=set)
    run: int = 0
    """Which execution the latest message came from; 0 before the first."""
    told: int = 0
    """Messages received of that execution; the upstream numbers them from 1."""
    progress: int = 0
    """The highest that was told."""
    end: str = ""
    """How it was answered; empty while it was not."""
    is_gone: bool = False
    """The client cannot or will not ask any more."""
    is_restarted: bool = False
    """The request was sent again, which asks for what is retained and no more."""


class Client:
    """One client with one session. Honours event ids, and holds what it was shown against what may be shown."""

    def __init__(self, front: Front, name: str, dice: random.Random, serials: Any) -> None:
        self.front = front
        self.name = name
        self.dice = dice
        self.serials = serials
        self.version = dice.choice(["2025-11-25", "2025-11-25", "2025-06-18"])
        self.session_id: str | None = None
        self.is_over = False
        self.calls: list[ClientCall] = []
        self.connections: list[Connection] = []
        self.questions: list[tuple[Any, int]] = []
        self.standalone_id: str | None = None
        self.standalone_shown: set[bytes] = set()
        self.numbers: dict[str, int] = {}
        self.resynced: set[str] = set()
        self.opening: FakeSink | None = None
        self.requests = 0

    # -- what it does

    def open(self) -> None:
        """Send `initialize`."""
        params = {
            "protocolVersion": self.version,
            "capabilities": {},
            "clientInfo": {"name": self.name, "version": "1"},
        }
        self.opening = self.front.post(request_body("initialize", 0, params))

    def call(self) -> None:
        """Send a call."""
        serial = next(self.serials)
        self.requests += 1
        request_id = self.requests if self.requests % 2 else str(self.requests)
        kind = self.dice.choice([*TOOLS, "write", PROMPT])
        method = "prompts/get" if kind == PROMPT else "tools/call"
        params = {"name": kind, "serial": serial, "client": self.name}
        body = request_body(method, request_id, params)
        call = ClientCall(serial, kind, request_id, body)
        self.calls.append(call)
        self._post(body, call)

    def _post(self, body: bytes, call: ClientCall) -> None:
        sink = self.front.post(body, session_id=self.session_id)
        self.connections.append(Connection(sink, call))

    def _get(self, cursor: str | None, call: ClientCall | None) -> None:
        headers = [("Accept", "text/event-stream"), (h.SESSION_ID, self.session_id or "")]
        if cursor is not None:
            headers.append((h.LAST_EVENT_ID, cursor))
        self.connections.append(Connection(self.front.handle("GET", headers=headers), call, cursor))

    def listen(self) -> None:
        """Open the standalone stream, mostly with the cursor it has."""
        self._get(self.standalone_id if self.dice.random() < 0.8 else None, None)

    def resume(self, call: ClientCall) -> None:
        """Ask for the rest of a call."""
        self._get(call.last_id, call)

    def post_again(self, call: ClientCall) -> None:
        """Send a running call's request again."""
        call.is_gone = False
        call.is_restarted = True
        self._post(call.body, call)

    def cut(self, connection: Connection) -> None:
        """Lose a connection; a call without an id is gone with it."""
        self.read()
        connection.sink.go_away()
        call = connection.call
        if call is not None and not call.end and not self._attached(call):
            call.is_gone = call.last_id is None or self.dice.random() < 0.1

    def cancel(self, call: ClientCall) -> None:
        """Cancel a call."""
        self._note(notification_body("notifications/cancelled", {"requestId": call.request_id}))

    def answer(self) -> None:
        """Answer one of the server's requests, once."""
        shown, tag = self.questions.pop(self.dice.randrange(len(self.questions)))
        self._note(result_body(shown, {"tag": tag}))

    def _note(self, body: bytes) -> None:
        self.front.handle("POST", body, headers=[ACCEPT_BOTH, JSON_TYPE, (h.SESSION_ID, self.session_id or "")])

    def delete(self) -> FakeSink:
        """End the session."""
        self.read()
        sink = self.front.handle("DELETE", headers=[(h.SESSION_ID, self.session_id or "")])
        self.is_over = True
        self.read()
        return sink

    # -- what it has

    @property
    def live(self) -> list[Connection]:
        """The answers that still come."""
        return [connection for connection in self.connections if not connection.sink.is_over]

    def _attached(self, call: ClientCall) -> bool:
        return any(connection.call is call and not connection.sink.is_over for connection in self.connections)

    @property
    def is_listening(self) -> bool:
        """Tell whether its standalone stream is open."""
        return any(connection.call is None for connection in self.live)

    @property
    def pending(self) -> list[ClientCall]:
        """The calls it still waits for."""
        return [call for call in self.calls if not call.end and not call.is_gone]

    @property
    def adrift(self) -> list[ClientCall]:
        """The calls it can ask for again by their cursor."""
        return [call for call in self.pending if call.last_id is not None and not self._attached(call)]

    # -- what it is shown

    def read(self) -> None:
        """Read everything that has come."""
        if self.opening is not None and self.opening.is_over:
            self.session_id = self.opening.header(h.SESSION_ID)
            self.opening = None
        for connection in self.connections:
            if connection.sink.status is None:
                continue
            if connection.sink.header("Content-Type") == "text/event-stream":
                for frame in connection.frames():
                    if connection.call is None:
                        self._standalone(connection, frame)
                    else:
                        self._frame(connection, connection.call, frame)
            elif connection.sink.finished and not connection.is_read:
                self._whole(connection)
            connection.is_read = connection.is_read or connection.sink.is_over
        self.connections = [connection for connection in self.connections if not connection.sink.is_over]

    def _whole(self, connection: Connection) -> None:
        call, sink = connection.call, connection.sink
        if call is None or sink.status == 202:
            known = (200, 202, 400, 405, 404) if self.is_over else (200, 202, 400, 405)
            assert sink.status in known, f"a GET was answered with {sink.status}: {sink.text}"
            return
        if sink.status == 405:
            assert call.end, "405 although the answer was not delivered"
            return
        assert not call.end, f"call {call.serial} was answered twice: {call.end}, then {sink.status}"
        if sink.status == 200:
            self._response(call, json.loads(sink.body))
        else:
            assert sink.status in (400, 404, 429), f"a call answered with {sink.status}"
            call.end = f"http {sink.status}"

    def _frame(self, connection: Connection, call: ClientCall, frame: sse.Frame) -> None:
        assert frame.id is not None, "a frame without an id"
        if frame.id in call.shown:
            assert connection.is_repost or connection.may_repeat(frame.id), "a frame of a call twice"
            return
        call.shown.add(frame.id)
        call.last_id = frame.id.decode()
        if not frame.data:
            return
        assert not call.end, f"call {call.serial}: more behind its answer"
        message = json.loads(frame.data)
        if message.get("method") == PROGRESS:
            told = message["params"]["progress"]
            assert told > call.progress, f"call {call.serial}: progress {told} after {call.progress}"
            call.progress = told
        elif "method" in message:
            self._counted(call, message["params"], is_last=False)
        else:
            self._response(call, message)

    def _response(self, call: ClientCall, message: Any) -> None:
        assert message["id"] == call.request_id, "an answer to another request"
        assert type(message["id"]) is type(call.request_id), "an id of another type"
        if "result" in message:
            self._counted(call, message["result"], is_last=True)
            call.end = "result"
        else:
            data = message["error"]["data"]
            assert data["origin"] == "mcp-session-proxy", "an error nobody made"
            call.end = data["reason"]

    def _counted(self, call: ClientCall, said: dict[str, Any], *, is_last: bool) -> None:
        assert (said["client"], said["of"]) == (self.name, call.serial), "a message of another call"
        if said["run"] != call.run:
            assert said["run"] > call.run, f"call {call.serial}: execution {said['run']} after {call.run}"
            assert not call.run or call.kind in REPEATABLE, f"call {call.serial}: executed again"
            call.run, call.told = said["run"], 0
        missing = said["k"] - call.told - 1
        assert missing >= 0, f"call {call.serial}: message {said['k']} after {call.told}"
        # An answer alone is how a hole is told where the answer is retained; the window is then full of newer ones,
        # or of those of an earlier execution.
        is_told = is_last and (missing >= SMALL_WINDOW - 1 or call.run > 1)
        assert not missing or is_told or call.is_restarted, f"call {call.serial}: {missing} are missing"
        call.told = said["k"]
        call.is_restarted = False

    def _standalone(self, connection: Connection, frame: sse.Frame) -> None:
        assert frame.id is not None, "a frame without an id"
        if frame.id in self.standalone_shown:
            assert connection.may_repeat(frame.id), "a standalone frame twice"
            return
        self.standalone_shown.add(frame.id)
        self.standalone_id = frame.id.decode()
        if not frame.data:
            return
        message = json.loads(frame.data)
        if message.get("method") == RESYNC:
            self.resynced = set(self.numbers)
            return
        params = message["params"]
        assert params["client"] == self.name, "a message of another client's session"
        if "id" in message:
            self.questions.append((message["id"], params["tag"]))
            return
        session, number = params["session"], params["n"]
        last = self.numbers.get(session)
        if last is not None:
            assert number > last, f"standalone message {number} after {last}"
            assert number == last + 1 or session in self.resynced, f"{last} to {number}: a hole nobody told"
        self.numbers[session] = number
        self.resynced.discard(session)
