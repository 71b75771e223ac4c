"""Asking one server who it is, in a short session of its own.

Owns the questions, their bounds, and the words for what came back instead of an answer. Knows no client's session and
uses no client's credentials. Invariants: it is answered once, within its time, whatever the server sends; a session
that was opened is ended.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from proxy import __version__
from proxy.core import headers as h
from proxy.core import identity, jsonrpc, sse
from proxy.core.headers import Body, Headers
from proxy.core.identity import Identity, Tool
from proxy.core.ids import is_legal_session_id
from proxy.core.revision import FIRST_MODERN_VERSION, lookup
from proxy.upstream.base import Loss, UpstreamRequest

if TYPE_CHECKING:
    from proxy.clock import Clock, Timer
    from proxy.upstream.base import Edge, Exchange

MOST_BYTES = 4_194_304
"""Of one answer; schemas of many tools fit."""
MOST_PAGES = 50
"""Of a tool list; one that goes on for longer is not compared."""
FAREWELL_SECONDS = 2.0
"""Time for the server to hear that its session is over."""

_OWN: Headers = [
    ("Accept", "application/json, text/event-stream"),
    ("Accept-Encoding", "identity"),
    ("Content-Type", "application/json"),
]
_CLIENT = {"name": "mcp-session-proxy", "version": __version__}
_LOSSES = {Loss.REFUSED: "cannot be reached", Loss.NOT_SENT: "cannot be reached", Loss.BROKEN: "broke off its answer"}
_SHOWN_CHARACTERS = 200


class Answer(msgspec.Struct, frozen=True):
    """What is known of a server after it was asked."""

    identity: Identity | None
    """None where there was no usable answer."""
    problem: str = ""
    """What it did instead, to be read behind its name; empty when it answered."""
    wants_credentials: bool = False
    """It refused to speak to who has no credentials, which says nothing of what it is."""


class Interview:
    """Questions to one server. Fulfils `upstream.base.Receiver`."""

    def __init__(
        self,
        edge: Edge,
        clock: Clock,
        timeout_seconds: float,
        version: str,
        done: Callable[[Answer], None],
        ended: Callable[[], None],
        *,
        needs_session: bool,
        with_tools: bool,
    ) -> None:
        """Prepare to ask.

        Args:
            edge: The server.
            clock: Time.
            timeout_seconds: For all questions together.
            version: The protocol version to offer.
            done: Told the answer, once.
            ended: Told, after that, when nothing is under way any more and the edge may be closed.
            needs_session: Whether a server without sessions will not do; else it is asked in the way of those.
            with_tools: Whether its tools are asked for.
        """
        self._edge = edge
        self._clock = clock
        self._timeout = timeout_seconds
        self._version = version
        self._done = done
        self._ended = ended
        self._needs_session = needs_session
        self._with_tools = with_tools
        self._deadline: Timer | None = None
        self._exchange: Exchange | None = None
        self._asked = ""
        self._number = 0
        self._status = 0
        self._head: Headers = []
        self._body: list[bytes] = []
        self._size = 0
        self._decoder: sse.Decoder | None = None
        self._upstream_id: str | None = None
        self._identity: Identity | None = None
        self._tools: dict[str, Tool] = {}
        self._pages = 0
        self._refusal = ""
        """What it answered to `initialize`, while it is asked in another way."""
        self._is_over = False

    def begin(self) -> None:
        """Ask."""
        self._deadline = self._clock.call_later(self._timeout, self._timed_out)
        params = {"protocolVersion": self._version, "capabilities": {}, "clientInfo": _CLIENT}
        self._ask("initialize", params)

    def stop(self) -> None:
        """Ask no longer; `done` is not told."""
        if not self._is_over:
            self._end()

    # -- one exchange

    def _ask(self, method: str, params: dict[str, Any] | None, *more: tuple[str, str]) -> None:
        self._asked = method
        self._number += 1
        self._send(jsonrpc.request_body(self._number, method, params), *more)

    def _send(self, body: bytes, *more: tuple[str, str]) -> None:
        self._status = self._size = 0
        self._body = []
        self._decoder = None
        headers = [*_OWN, *self._of_session(), *more]
        self._exchange = self._edge.send(UpstreamRequest("POST", headers, body, fresh=True), self)

    def _of_session(self) -> Headers:
        named: Headers = [] if self._upstream_id is None else [(h.SESSION_ID, self._upstream_id)]
        # Of a version that is known alone: a server may answer with any text.
        revision = None if self._identity is None else lookup(self._identity.protocol_version)
        if revision is not None and revision.has_version_header:
            named.append((h.PROTOCOL_VERSION, revision.version))
        return named

    def on_head(self, status: int, headers: Headers) -> None:
        """An answer begins."""
        self._status, self._head = status, headers
        if self._asked == "initialize":
            assigned = h.get(headers, h.SESSION_ID)
            self._upstream_id = assigned if assigned and is_legal_session_id(assigned) else None
        if 200 <= status < 300 and h.body_of(headers) is Body.STREAM:
            self._decoder = sse.Decoder(MOST_BYTES)

    def on_data(self, data: bytes) -> None:
        """A piece of it."""
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._fail(f"answered {self._asked} with more than {MOST_BYTES} bytes")
        elif self._decoder is None:
            self._body.append(data)
        else:
            for frame in self._decoder.feed(data):
                envelope = jsonrpc.classify(frame.data or b"")
                if envelope.kind is jsonrpc.Kind.RESPONSE and envelope.id == self._number:
                    self._end_exchange()
                    self._answered(frame.data or b"")
                    return

    def on_end(self, proven: bool) -> None:
        """It is over."""
        self._exchange = None
        self._answered(b"".join(self._body))

    def on_lost(self, loss: Loss, detail: str) -> None:
        """It will not be whole."""
        self._exchange = None
        self._fail(_LOSSES[loss] + (f" ({_shown(detail)})" if detail else ""))

    def _timed_out(self) -> None:
        self._deadline = None
        self._fail(f"did not answer {self._asked} within {self._timeout:g} s")

    # -- what it says

    def _answered(self, body: bytes) -> None:
        status = self._status
        if self._asked == "notifications/initialized":
            self._ask("tools/list", None)
        elif self._asked == "tools/list":
            self._listed(body)
        elif status in (401, 403):
            self._finish(Answer(None, f"wants credentials (HTTP {status})", wants_credentials=True))
        elif 300 <= status < 400:
            location = h.get(self._head, "Location")
            self._fail(f"redirects (HTTP {status}){f' to {_shown(location)}' if location else ''}: give that address")
        else:
            found = identity.read(body) if 200 <= status < 300 else None
            if found is None:
                self._refused(f"answered {self._asked} with {self._kind_of(body)}")
            else:
                self._identity = found
                self._learnt(found)

    def _learnt(self, found: Identity) -> None:
        if not self._with_tools:
            self._finish(Answer(found))
        elif self._asked == "initialize":
            self._asked = "notifications/initialized"
            self._send(jsonrpc.notification_body(self._asked, None))
        else:
            # Requests without a session carry what a handshake would have said, each: its tools stay unknown.
            self._finish(Answer(found))

    def _refused(self, problem: str) -> None:
        """Ask in the way of clients without a session, where that may do; else say what it was."""
        if self._asked != "initialize" or self._needs_session:
            self._fail(self._refusal or problem)
            return
        self._refusal = problem
        self._upstream_id = None
        meta = {
            "io.modelcontextprotocol/protocolVersion": FIRST_MODERN_VERSION,
            "io.modelcontextprotocol/clientInfo": _CLIENT,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        version = (h.PROTOCOL_VERSION, FIRST_MODERN_VERSION)
        self._ask("server/discover", {"_meta": meta}, version, (h.METHOD, "server/discover"))

    def _listed(self, body: bytes) -> None:
        assert self._identity is not None
        page = identity.read_tools(body) if 200 <= self._status < 300 else None
        if page is None:
            # A server without tools may say so with an error.
            self._finish(Answer(msgspec.structs.replace(self._identity, tools=self._tools)))
            return
        self._tools.update(page.tools)
        self._pages += 1
        if page.next_cursor is None or self._pages >= MOST_PAGES:
            self._finish(Answer(msgspec.structs.replace(self._identity, tools=self._tools)))
        else:
            self._ask("tools/list", {"cursor": page.next_cursor})

    def _kind_of(self, body: bytes) -> str:
        """Say what came in the place of an answer."""
        if not 200 <= self._status < 300:
            return f"HTTP {self._status}"
        if self._decoder is not None:
            return "an event stream that holds no answer"
        envelope = jsonrpc.classify(body)
        if envelope.kind is jsonrpc.Kind.RESPONSE and envelope.is_error:
            return f"an error: {_shown(_message_of(body))}"
        if not body:
            return "no body"
        content_type = h.get(self._head, "Content-Type")
        return "no handshake" if h.is_json(content_type) else f"{_shown(content_type or 'a body of no type')}"

    # -- ends

    def _fail(self, problem: str) -> None:
        self._finish(Answer(None, problem))

    def _finish(self, answer: Answer) -> None:
        if not self._is_over:
            self._end()
            self._done(answer)

    def _end(self) -> None:
        self._is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._end_exchange()
        if self._upstream_id is None:
            # Not from inside: who asked may not have noted yet whom it has asked.
            self._clock.call_later(0.0, self._ended)
        else:
            headers = [*_OWN, *self._of_session()]
            Farewell(self._edge, self._clock, self._ended).begin(UpstreamRequest("DELETE", headers, b"", fresh=True))

    def _end_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()


class Farewell:
    """The DELETE of a session that was for a question only. Fulfils `upstream.base.Receiver`."""

    def __init__(self, edge: Edge, clock: Clock, ended: Callable[[], None]) -> None:
        self._edge = edge
        self._clock = clock
        self._ended = ended
        self._exchange: Exchange | None = None
        self._deadline: Timer | None = None

    def begin(self, request: UpstreamRequest) -> None:
        """Say it."""
        self._deadline = self._clock.call_later(FAREWELL_SECONDS, partial(self._over, is_late=True))
        self._exchange = self._edge.send(request, self)

    def on_head(self, status: int, headers: Headers) -> None:
        """Nothing depends on it."""

    def on_data(self, data: bytes) -> None:
        """Nothing depends on it."""

    def on_end(self, proven: bool) -> None:
        """It was heard."""
        self._over()

    def on_lost(self, loss: Loss, detail: str) -> None:
        """It was not heard; an upstream ends its idle sessions itself."""
        self._over()

    def _over(self, *, is_late: bool = False) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if is_late and self._exchange is not None:
            self._exchange.abort()
        self._ended()


class _Error(msgspec.Struct):
    message: str = ""


class _WithError(msgspec.Struct):
    error: _Error


def _message_of(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_WithError).error.message
    except (ValueError, RecursionError):
        return ""


def _shown(text: str) -> str:
    """Return a server's words on one line, in bounds."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 3] + "..."
