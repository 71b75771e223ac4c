"""One HTTP/1.1 connection to an upstream: one request, one answer, told to the exchange that owns it.

Owns the framing, through llhttp (httptools). Knows no pool beyond whom it tells that it rests or is gone. Invariant:
bytes that nobody asked for end the connection; they never reach the next request.
"""

import asyncio
import select
import socket
from typing import Protocol, cast

import httptools

from proxy.core.headers import Headers
from proxy.upstream.base import Loss, Receiver
from proxy.upstream.sockets import OUTGOING_PEER_TIMEOUT_SECONDS, watch_peer

MAX_HEAD_BYTES = 65_536 + 262_144
"""Bytes in a row without any of a body: 64 KiB of head or trailer, and one read that may hold the body's beginning."""
# Answers that have no body whatever their headers say (RFC 9110, 6.4.1); llhttp knows them too.
_BODILESS = frozenset({204, 304})


class _StatusError(Exception):
    """The status is none: below 100, which would be taken for an announcement that has a body."""


class Pool(Protocol):
    """Whom a connection tells."""

    def opened(self, connection: "Connection") -> None:
        """It is there."""

    def rest(self, connection: "Connection") -> None:
        """Its answer is whole and it can take another request."""

    def closed(self, connection: "Connection") -> None:
        """It is gone."""

    def report(self, context: dict[str, object]) -> None:
        """A receiver raised."""


class WireExchange:
    """One request under way. Fulfils `upstream.base.Exchange`."""

    __slots__ = ("_is_paused", "connection", "is_over", "receiver")

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.connection: Connection | None = None
        self.is_over = False
        self._is_paused = False

    def abort(self) -> None:
        """Cut it; the receiver hears nothing any more."""
        self.is_over = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.drop()

    def pause(self) -> None:
        """Stop reading the body."""
        if not self._is_paused and self.connection is not None:
            self._is_paused = True
            self.connection.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self._is_paused and self.connection is not None:
            self._is_paused = False
            self.connection.resume()

    def lost(self, loss: Loss, detail: str) -> None:
        """End without a whole answer."""
        if not self.is_over:
            self.is_over = True
            self.connection = None
            self.receiver.on_lost(loss, detail)


class Connection(asyncio.Protocol):
    """One connection: one answer at a time, told to the exchange that owns it."""

    __slots__ = (
        "_bodiless_size",
        "_exchange",
        "_has_head",
        "_has_length",
        "_headers",
        "_is_complete",
        "_is_informational",
        "_is_persistent",
        "_is_poisoned",
        "_keep",
        "_parser",
        "_poller",
        "_pool",
        "_status",
        "_transport",
        "idle_since",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._exchange: WireExchange | None = None
        self._transport: asyncio.Transport | None = None
        # Made once: to make and register one costs three times the question itself.
        self._poller = select.poll()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._status = 0
        self._bodiless_size = 0
        self._has_head = False
        self._has_length = False
        self._is_informational = False
        self._is_complete = False
        self._is_persistent = False
        self._is_poisoned = False
        self._keep = False
        self.idle_since = 0.0

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports have asyncio's verbs without being its subclasses.
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._poller.register(sock.fileno(), select.POLLIN)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                watch_peer(sock, OUTGOING_PEER_TIMEOUT_SECONDS)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        if self._exchange is None:
            # Nobody asked: whatever this is, the next request must not get it.
            self.drop()
            return
        # The parser has no bound of its own: a header or a trailer, a chunk extension, announcements (1xx) may go on
        # for ever.
        self._bodiless_size += len(data)
        if self._bodiless_size > MAX_HEAD_BYTES:
            is_behind = self._has_head and not self._is_informational
            self._fail(f"the {'trailer' if is_behind else 'head'} is too long")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _StatusError):
                self._fail("the status is below 100")
                return
            # A receiver raised: our own defect, not the upstream's, and the parser hides it.
            self._pool.report({"message": "receiver failed", "exception": error.__context__})
            self._fail("receiver failed")
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"{type(error).__name__}: {error}")
            return
        if self._is_complete:
            self._complete()

    def eof_received(self) -> bool:
        """The peer will send no more; half-open connections are of no use."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._pool.closed(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.is_over:
            return
        if self._status and not self._is_informational and not self._has_length and exc is None:
            # The close alone delimits the body: it may be whole, and it may be cut.
            exchange.is_over = True
            exchange.connection = None
            exchange.receiver.on_end(False)
        else:
            exchange.lost(Loss.BROKEN, str(exc) if exc is not None else "closed before the answer was whole")

    # -- the parser

    def on_message_begin(self) -> None:
        """A message starts."""
        if self._is_complete:
            self._is_poisoned = True
        self._headers = []
        self._has_head = False
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; behind a chunked body it is a trailer, which nobody here has a use for."""
        if self._has_head:
            return
        text = name.decode("utf-8", "surrogateescape")
        self._headers.append((text, value.decode("utf-8", "surrogateescape")))
        # By its first letters: most names begin otherwise.
        if text[0] in "cCtT" and text.lower() in ("content-length", "transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._is_complete:
            return
        self._has_head = True
        status = self._status = self._parser.get_status_code()
        if status < 100:
            raise _StatusError
        # Asked here: behind the body the parser has forgotten the head.
        self._is_persistent = self._parser.should_keep_alive()
        # 100 and 103 announce; the answer is still to come (RFC 9110, 15.2).
        self._is_informational = status < 200
        if status in _BODILESS:
            self._has_length = True
        exchange = self._exchange
        if exchange is not None and not exchange.is_over and not self._is_informational:
            exchange.receiver.on_head(status, self._headers)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, freed of its chunk framing."""
        self._bodiless_size = 0
        exchange = self._exchange
        if exchange is not None and not exchange.is_over and not self._is_complete:
            exchange.receiver.on_data(body)

    def on_message_complete(self) -> None:
        """The message is whole."""
        # Told after the parser has seen all that came with it: what stands behind an answer poisons the connection.
        if not self._is_informational:
            self._is_complete = True

    # -- use

    @property
    def is_usable(self) -> bool:
        """Tell whether a request may be written: the connection is open and nothing waits in front."""
        transport = self._transport
        # An answer may come before its request is written to the end; what is left would precede the next one.
        return transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing has arrived unasked, not even the end: asked of the kernel, as the loop may be late."""
        return not self._poller.poll(0)

    def begin(self, exchange: WireExchange, head: bytes, body: bytes, *, keep: bool) -> None:
        """Write a request."""
        assert self._transport is not None
        self._exchange = exchange
        exchange.connection = self
        self._status = 0
        self._bodiless_size = 0
        self._has_head = False
        self._is_complete = False
        self._is_informational = False
        self._keep = keep
        if len(body) < 65_536:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._transport is not None:
            self._transport.resume_reading()

    def drop(self) -> None:
        """Cut the connection."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            # A paused connection would never notice that the server closes it.
            exchange.resume()
        if self._keep and not self._is_poisoned and self._is_persistent and self.is_usable:
            self._pool.rest(self)
        else:
            self.drop()
        if exchange is not None and not exchange.is_over:
            exchange.is_over = True
            exchange.connection = None
            exchange.receiver.on_end(True)

    def _fail(self, detail: str) -> None:
        exchange = self._exchange
        self.drop()
        if exchange is not None:
            exchange.lost(Loss.BROKEN, detail)
