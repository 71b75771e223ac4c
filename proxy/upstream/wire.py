"""The upstream edge at protocol level: HTTP/1.1 as an `asyncio.Protocol` over llhttp (httptools).

Owns the connections to one upstream, their pool and their framing. Knows no session. Invariants: a call is written at
most once; a connection is used again only after a whole answer with nothing behind it, so bytes of one answer can
never reach another request; what breaks before the first byte of a request was written counts as not sent.
"""

import asyncio
import contextlib
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

from proxy.config import Upstream
from proxy.core.headers import Headers
from proxy.upstream.base import Exchange, Loss, Receiver, UpstreamRequest
from proxy.upstream.sockets import OUTGOING_PEER_TIMEOUT_SECONDS, watch_peer

MAX_HEAD_BYTES = 65_536 + 262_144
"""Bytes received before an answer's head is whole: 64 KiB of head, and one read that may hold the body's beginning."""
# Answers that have no body whatever their headers say (RFC 9110, 6.4.1); llhttp knows them too.
_BODILESS = frozenset({204, 304})


class WireEdge:
    """One upstream over HTTP/1.1. Fulfils `upstream.base.Edge`."""

    def __init__(self, config: Upstream) -> None:
        parts = urlsplit(config.url)
        is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if is_tls else 80)
        self._ssl = ssl.create_default_context() if is_tls else None
        self._target = f"{parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self._connect_timeout = config.connect_timeout_seconds
        self._keepalive = config.keepalive_seconds
        self._loop = asyncio.get_running_loop()
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    # -- the contract

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Begin an exchange."""
        exchange = _WireExchange(receiver)
        try:
            head = self._head(request)
        except ValueError as error:
            # Not a byte is written of a request that would say two things.
            self._loop.call_soon(exchange.lost, Loss.NOT_SENT, str(error))
            return exchange
        connection = None if request.fresh else self._take_idle()
        if connection is not None:
            connection.begin(exchange, head, request.body, keep=True)
        else:
            self._spawn(self._connect_and_begin(exchange, head, request))
        return exchange

    def reach(self, done: Callable[[bool], None]) -> None:
        """Find out whether a connection can be made, without a request."""
        self._spawn(self._reach(done))

    async def close(self) -> None:
        """Cut everything and free the connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in tuple(self._open):
            connection.drop()

    # -- connections

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(coroutine)
        # The loop holds tasks weakly; one that nobody holds is collected in the middle of its work.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> "_Connection":
        async with asyncio.timeout(self._connect_timeout):
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self), self._host, self._port, ssl=self._ssl
            )
        return connection

    async def _connect_and_begin(self, exchange: "_WireExchange", head: bytes, request: UpstreamRequest) -> None:
        try:
            connection = await self._connect()
        except (ConnectionRefusedError, ConnectionResetError) as error:
            exchange.lost(Loss.REFUSED, str(error))
            return
        except Exception as error:  # whatever it was, nothing was written, and the receiver must hear of it
            exchange.lost(Loss.NOT_SENT, f"{type(error).__name__}: {error}")
            return
        if exchange.is_over:
            connection.drop()
        elif connection.is_usable:
            connection.begin(exchange, head, request.body, keep=not request.fresh)
        else:
            exchange.lost(Loss.NOT_SENT, "closed as soon as it was open")

    async def _reach(self, done: Callable[[bool], None]) -> None:
        try:
            connection = await self._connect()
        except Exception:  # whatever it was, who asked must hear of it, or waits for ever
            done(False)
            return
        connection.drop()
        done(True)

    def _take_idle(self) -> "_Connection | None":
        # The newest first, so that the others grow old and are closed.
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and connection.is_quiet:
                return connection
            connection.drop()
        return None

    def opened(self, connection: "_Connection") -> None:
        """Hold a new connection."""
        self._open.add(connection)

    def report(self, context: dict[str, object]) -> None:
        """Hand a defect of our own to the loop's handler, which logs it."""
        self._loop.call_exception_handler(context)

    def closed(self, connection: "_Connection") -> None:
        """Let a connection go."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def rest(self, connection: "_Connection") -> None:
        """Keep a connection whose answer is whole for the next request, for a short time."""
        if not self._keepalive:
            connection.drop()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._keepalive, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        latest = self._loop.time() - self._keepalive
        while self._idle and self._idle[0].idle_since <= latest:
            self._idle.popleft().drop()
        if self._idle:
            delay = self._idle[0].idle_since - latest
            self._sweeper = self._loop.call_later(max(delay, 0.01), self._sweep)

    def _head(self, request: UpstreamRequest) -> bytes:
        lines = [f"{request.method} {self._target}"]
        lines.extend([f"{name}: {value}\r\n" for name, value in request.headers])
        if request.fresh:
            lines.append("Connection: close\r\n")
        if request.body or request.method == "POST":
            lines.append(f"Content-Length: {len(request.body)}\r\n")
        lines.append("\r\n")
        # Headers were decoded this way; surrogates stand for bytes that are not UTF-8.
        head = "".join(lines).encode("utf-8", "surrogateescape")
        # One line end per line and no other: nothing a client or an upstream put into a value ends it early.
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1 or b"\0" in head:
            raise ValueError("a header value holds a line end or NUL")
        return head


class _WireExchange:
    """One request under way. Fulfils `upstream.base.Exchange`."""

    __slots__ = ("_is_paused", "connection", "is_over", "receiver")

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.connection: _Connection | None = None
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


class _Connection(asyncio.Protocol):
    """One connection: one answer at a time, told to the exchange that owns it."""

    __slots__ = (
        "_edge",
        "_exchange",
        "_fd",
        "_has_head",
        "_has_length",
        "_head_size",
        "_headers",
        "_is_complete",
        "_is_informational",
        "_is_persistent",
        "_is_poisoned",
        "_keep",
        "_parser",
        "_status",
        "_transport",
        "idle_since",
    )

    def __init__(self, edge: WireEdge) -> None:
        self._edge = edge
        self._exchange: _WireExchange | None = None
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._status = 0
        self._head_size = 0
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
            self._fd = sock.fileno()
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                watch_peer(sock, OUTGOING_PEER_TIMEOUT_SECONDS)
        self._edge.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        if self._exchange is None:
            # Nobody asked: whatever this is, the next request must not get it.
            self.drop()
            return
        if not self._has_head or self._is_informational:
            # The parser has no bound of its own, and announcements (1xx) may go on for ever as well.
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES:
                self._fail("the head is too long")
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # A receiver raised: our own defect, not the upstream's, and the parser hides it.
            self._edge.report({"message": "receiver failed", "exception": error.__context__})
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
        self._edge.closed(self)
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
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return not poller.poll(0)

    def begin(self, exchange: _WireExchange, head: bytes, body: bytes, *, keep: bool) -> None:
        """Write a request."""
        assert self._transport is not None
        self._exchange = exchange
        exchange.connection = self
        self._status = 0
        self._head_size = 0
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
            self._edge.rest(self)
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
