"""One client connection at protocol level: usual requests served here, everything else handed to the library.

Owns the framing of requests and answers on one connection. Knows no session.
Invariants: one request at a time; a sink writes to its own request's answer or to nothing; once handed over the
connection never comes back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from proxy.core.edge import Request, Sink
from proxy.core.headers import Block
from proxy.downstream.heads import BODILESS, CHUNK, COPIED_BYTES, Heads, Reading, Rendered, may_become_usual, rendered
from proxy.downstream.sink import WireSink
from proxy.relay import replies

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.core.head import Head
    from proxy.core.headers import Headers
    from proxy.core.ids import SessionId
    from proxy.wheel import Queue

EARLY_BYTES = 65_536
"""Bytes taken of a client that sends on before it has its answer; it is not read further then."""
_LAST_CHUNK = b"0\r\n\r\n"


class Server(Protocol):
    """What a connection needs of the server it belongs to."""

    handle: Callable[[Request, Sink], None]
    max_body_bytes: int
    due: Queue
    """Connections on which a head or a body is awaited."""
    era: int
    """Counts up slowly: what connections remember of the time they were last used."""
    heads: Heads
    is_closing: bool

    def date(self) -> bytes:
        """Return the line of the present second."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back in the loop's next turn."""

    def opened(self, connection: Connection) -> None:
        """Hold a new connection."""

    def closed(self, connection: Connection) -> None:
        """Let a connection go."""

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, is_followed: bool) -> None:
        """Let the library serve a connection from here on; *is_followed* when there is more than one request in it."""

    def failed(self, error: Exception) -> None:
        """Report a defect of our own."""


class Connection:
    """One connection. Fulfils `wheel.Due`, and `asyncio.Protocol` without deriving from it.

    A compiled class derives from compiled ones alone.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_head",
        "_is_awaited",
        "_known",
        "_missing",
        "_server",
        "_sink",
        "era",
        "is_paused",
        "transport",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self.transport: asyncio.Transport | None = None
        self._known: Reading | None = None
        """The head that came last, for as long as it repeats."""
        self._buffer = b""
        """The beginning of a head; or, while a request is served, what came too early."""
        self._head: Head | None = None
        """Of the request whose body is still coming."""
        self._body: list[bytes] = []
        self._missing = 0
        self._sink: WireSink | None = None
        self._is_awaited = False
        """Whether the rest of a request is due."""
        self.era = server.era
        """When it was last answered."""
        self.is_paused = False
        """Whether the client takes fewer bytes than it is sent."""

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first head is due."""
        # uvloop's transports have asyncio's verbs without being its subclasses.
        self.transport = cast("asyncio.Transport", transport)
        self._server.opened(self)
        self._await()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.transport = None
        self._release()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.client_gone()

    def eof_received(self) -> bool:
        """Take the end of the client's bytes for the end of the client, as the library does."""
        return False

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """The client reads again."""
        self.is_paused = False
        if self._sink is not None:
            self._sink.drained()

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests."""
        if self._sink is not None:
            self._too_early(data)
            return
        if self._head is not None:
            self._take_body(self._head, data)
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        known = self._known
        if known is not None:
            # Nearly always the head of the request before, and a body of perhaps another length behind it, all of it
            # in one read. The head that this would have is written and compared, which takes two thirds of reading
            # what it says. With the wrong number of digits the sizes do not add up.
            size = len(data) - known.size
            length = size - (2 if size < 102 else 3 if size < 1003 else 4 if size < 10004 else 5)
            text = b"%b%d%b" % (known.until, length, known.behind)
            if 0 < length <= self._server.max_body_bytes and len(text) + length == len(data) and data.startswith(text):
                self._serve(known.head, data[len(text) :])
                return
            if self._begin_again(known, data):
                return
        self._read(data)

    def _begin_again(self, known: Reading, data: bytes) -> bool:
        """Take the head of the request before, of whose body more, or less, is there; False for another head."""
        if data.startswith(known.until):
            at = len(known.until)
            end = data.find(b"\r\n", at, at + 12)
            # Not found, it would be an end before the beginning, which compiled code refuses to cut out.
            digits = data[at:end] if end >= 0 else b""
            if digits.isdigit() and digits[0] != 0x30 and data.startswith(known.behind, end):
                self._begin(known.head, data, end + len(known.behind), int(digits))
                return True
        return False

    # -- a request

    def _read(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if may_become_usual(data):
                self._buffer = data
                self._await()
            else:
                self._hand_over(data)
            return
        reading = self._server.heads.read(data[: end + 2])
        if reading is None:
            self._hand_over(data)
            return
        # Only what has a body is repeated: a stream's request would be kept for nothing while it lasts.
        self._known = reading if reading.length else None
        self._begin(reading.head, data, end + 4, reading.length)

    def _begin(self, head: Head, data: bytes, start: int, length: int) -> None:
        missing = start + length - len(data)
        if missing < 0 or length > self._server.max_body_bytes:
            # Another request behind this one, or a body that will be refused. All of it, the first request too: what
            # the library finds behind it decides whether it is answered at all.
            self._hand_over(data, is_followed=missing < 0)
        elif missing == 0:
            self._serve(head, data[start:])
        else:
            self._head = head
            self._body = [data[start:]]
            self._missing = missing
            self._await()

    def _take_body(self, head: Head, data: bytes) -> None:
        self._missing -= len(data)
        behind = b""
        if self._missing < 0:
            data, behind = data[: self._missing], data[self._missing :]
        self._body.append(data)
        if self._missing <= 0:
            body = b"".join(self._body)
            self._head = None
            self._body = []
            # Before it is served: its answer may come at once, and finds what to do next.
            self._buffer = behind
            self._serve(head, body)

    def _serve(self, head: Head, body: bytes) -> None:
        server = self._server
        if self._is_awaited:
            self._is_awaited = False
            server.due.discard(self)
        sink = self._sink = WireSink(self)
        try:
            server.handle(Request(head, body), sink)
        except Exception as error:  # a defect of our own must not take the loop's other connections along
            server.failed(error)
            sink.fail()

    def _too_early(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > EARLY_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _await(self) -> None:
        """Bound the time that the rest of a request may take, from its first byte."""
        if not self._is_awaited:
            self._is_awaited = True
            self._server.due.add(self)

    def due(self) -> None:
        """Give up a request that does not come."""
        self._is_awaited = False
        if self._head is not None:
            self._head = None
            self._body = []
            # The answer closes the connection.
            sink = self._sink = WireSink(self)
            replies.report(sink, "body_timeout")
        else:
            self.close()

    # -- an answer

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this turn of the loop."""
        self._server.soon(callback)

    def answer(self, status: int, headers: Headers, body: bytes, session_id: SessionId | None) -> None:
        """Write a whole answer, and take the next request."""
        transport = self.transport
        if transport is None:
            return
        known = headers.rendered if type(headers) is Block else None
        if type(known) is not Rendered or known.status != status:
            known = rendered(status, headers)
        length, date = len(body), self._server.date()
        if length < COPIED_BYTES or status in BODILESS:
            transport.write(known.framed(length, date, session_id, body))
        else:
            transport.writelines((known.framed(length, date, session_id), body))
        server = self._server
        if known.closes or server.is_closing or self._buffer:
            self.done(closes=known.closes)
        else:
            # As `done`, for nearly every answer.
            self._sink = None
            self.era = server.era

    def open(self, status: int, headers: Headers, session_id: SessionId | None, body: bytes) -> None:
        """Write the head of an answer in pieces, and its first piece."""
        if self.transport is not None:
            head = rendered(status, headers).chunked(self._server.date(), session_id)
            self.transport.write(b"%b%x\r\n%b\r\n" % (head, len(body), body) if body else head)

    def write(self, data: bytes) -> None:
        """Write a piece of an answer."""
        if self.transport is not None:
            if len(data) < COPIED_BYTES:
                self.transport.write(CHUNK % (len(data), data))
            else:
                self.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))

    def end(self) -> None:
        """Write the end of an answer in pieces."""
        if self.transport is not None:
            self.transport.write(_LAST_CHUNK)
            self.done(closes=False)

    def abort(self) -> None:
        """Cut the connection."""
        self._sink = None
        if self.transport is not None:
            self.transport.abort()

    def done(self, *, closes: bool) -> None:
        """Take the next request."""
        self._sink = None
        server = self._server
        if closes or server.is_closing:
            self.close()
        elif self._buffer:
            # The client did not wait for its answer.
            early, self._buffer = self._buffer, b""
            self._hand_over(early, is_followed=True)
        else:
            self.era = server.era

    def close(self) -> None:
        """End the connection once what was written has left; until then the server holds it."""
        self._stop_awaiting()
        if self.transport is not None:
            self.transport.close()

    def cut(self) -> None:
        """End the connection and whatever is under way on it; who watches is told."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Tell whether no request is under way."""
        return self._sink is None and self._head is None

    def _hand_over(self, data: bytes, *, is_followed: bool = False) -> None:
        transport, self.transport = self.transport, None
        self._release()
        if transport is not None and not transport.is_closing():
            # Paused perhaps, for what came too early; the library pauses by itself.
            transport.resume_reading()
            self._server.hand_over(transport, data, is_followed=is_followed)
            if self.is_paused:
                # A transport says it once, and has told us: the library would write on without end.
                cast("asyncio.Protocol", transport.get_protocol()).pause_writing()

    def _stop_awaiting(self) -> None:
        if self._is_awaited:
            self._is_awaited = False
            self._server.due.discard(self)

    def _release(self) -> None:
        self._stop_awaiting()
        self._server.closed(self)
