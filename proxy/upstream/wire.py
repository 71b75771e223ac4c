"""The upstream edge at protocol level: connections of our own instead of a library's client.

Owns the connections to one upstream and what is written on them; their framing is `connection.py`'s. Knows no session.
Invariants: a call is written at most once; a connection is used again only after a whole answer with nothing behind
it, so bytes of one answer can never reach another request; what breaks before the first byte of a request was written
counts as not sent; a header of this upstream's own reaches no other one.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from proxy.clock import SystemClock
from proxy.config import Upstream
from proxy.core.headers import REQUEST_ID, Block, Headers, render
from proxy.upstream.answers import KnownHeads
from proxy.upstream.base import Exchange, Loss, Receiver, UpstreamRequest
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import WireExchange
from proxy.upstream.tls import client_context, failed_connection
from proxy.wheel import Queue

JOINED_BYTES = 65_536
"""Below this a body is copied behind its head, which is cheaper than a list of buffers for the kernel."""
_CALL = b"%b %b%bX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b"
CLOSED = "this upstream was taken out"
"""What an exchange hears that outlives its edge."""


class WireEdge:
    """One upstream over HTTP/1.1. Fulfils `upstream.base.Edge`."""

    def __init__(self, config: Upstream) -> None:
        parts = urlsplit(config.url)
        is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if is_tls else 80)
        self._ssl = client_context(config) if is_tls else None
        self._protocol = f" HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()
        self._target = (parts.path or "/").encode() + self._protocol
        self._own = render(list(config.headers))
        """The headers that every request carries, in the place of a client's of the same names."""
        self._own_names = frozenset(name.lower() for name, _ in config.headers)
        self._has_own_id = REQUEST_ID.lower() in self._own_names
        self._most_idle = config.max_connections
        self._connect_timeout = config.connect_timeout_seconds
        self._keepalive = config.keepalive_seconds
        self.heads = KnownHeads()
        self._loop = asyncio.get_running_loop()
        self._connecting = Queue(SystemClock(self._loop), config.connect_timeout_seconds)
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    # -- the contract

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Begin an exchange."""
        exchange = WireExchange(receiver)
        body = request.body
        is_joined = 0 < len(body) < JOINED_BYTES
        try:
            head = self._head(request, body if is_joined else b"")
        except ValueError as error:
            # Not a byte is written of a request that would say two things.
            self._loop.call_soon(exchange.lost, Loss.NOT_SENT, str(error))
            return exchange
        if is_joined:
            body = b""
        if self._is_closed:
            self._loop.call_soon(exchange.lost, Loss.REFUSED, CLOSED)
            return exchange
        if not request.fresh:
            # The newest first, so that the others grow old and are closed.
            while self._idle:
                connection = self._idle.pop()
                if connection.is_ready:
                    connection.begin(exchange, head, body, keep=True)
                    return exchange
                connection.drop()
        # Whoever says that a session is over waits a few seconds for the answer: five socket options, 8 microseconds
        # of the 30 that such a connection takes, are not worth it.
        is_brief = request.fresh and request.method == "DELETE"
        start = self._connect_and_begin(exchange, head, body, keep=not request.fresh, is_brief=is_brief)
        self._spawn(start, exchange)
        return exchange

    def reach(self, done: Callable[[bool], None]) -> None:
        """Find out whether a connection can be made, without a request."""
        self._spawn(self._reach(done))

    async def close(self) -> None:
        """Cut everything and free the connections; who waits for an answer hears that none will come."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in tuple(self._open):
            connection.cut(CLOSED)

    # -- connections

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]", exchange: WireExchange | None = None) -> None:
        task = self._loop.create_task(coroutine)
        # The loop holds tasks weakly; one that nobody holds is collected in the middle of its work.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if exchange is not None:
            # From outside: a task that is cancelled before its first step runs nothing of its own.
            task.add_done_callback(partial(_tell_cancelled, exchange))

    async def _connect(self) -> Connection:
        deadline = _Deadline()
        self._connecting.add(deadline)
        connection = Connection(self)
        try:
            await self._loop.create_connection(
                lambda: cast("asyncio.Protocol", connection), self._host, self._port, ssl=self._ssl
            )
        except asyncio.CancelledError:
            if not deadline.is_over:
                raise
            raise TimeoutError from None
        finally:
            self._connecting.discard(deadline)
        return connection

    async def _connect_and_begin(
        self, exchange: WireExchange, head: bytes, body: bytes, *, keep: bool, is_brief: bool
    ) -> None:
        try:
            connection = await self._connect()
        except Exception as error:  # whatever it was, nothing was written, and the receiver must hear of it
            exchange.lost(*failed_connection(error, self._ssl is not None, self._connect_timeout))
            return
        if exchange.is_over:
            connection.drop()
        elif connection.is_open:
            if not is_brief:
                connection.watch()
            connection.begin(exchange, head, body, keep=keep)
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

    def opened(self, connection: Connection) -> None:
        """Hold a new connection."""
        self._open.add(connection)

    def report(self, context: dict[str, object]) -> None:
        """Hand a defect of our own to the loop's handler, which logs it."""
        self._loop.call_exception_handler(context)

    def closed(self, connection: Connection) -> None:
        """Let a connection go."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def rest(self, connection: Connection) -> None:
        """Keep a connection whose answer is whole for the next request, for a short time."""
        if not self._keepalive:
            connection.drop()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if len(self._idle) > self._most_idle:
            self._idle.popleft().drop()
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

    def _head(self, request: UpstreamRequest, body: bytes) -> bytes:
        """Write a request's head, and behind it what of its body is given."""
        headers = request.headers
        known = headers.rendered if type(headers) is Block else None
        if type(known) is bytes and not self._own:
            fields = known
        else:
            fields = self._fields(headers) if self._own else _rendered(headers)
        method, size, own_id = request.method, len(request.body), request.correlation_id
        if own_id and size and not (self._has_own_id or request.fresh or request.path):
            # Nearly every call, in one step.
            return _CALL % (method.encode(), self._target, fields, own_id.encode(), size, body)
        if own_id and not self._has_own_id:
            fields += b"X-Request-Id: %b\r\n" % own_id.encode()
        if request.fresh:
            fields += b"Connection: close\r\n"
        target = request.path.encode() + self._protocol if request.path else self._target
        if method == "POST" or size:
            return b"%b %b%bContent-Length: %d\r\n\r\n%b" % (method.encode(), target, fields, size, body)
        return b"%b %b%b\r\n" % (method.encode(), target, fields)

    def _fields(self, headers: Headers) -> bytes:
        known = headers.rendered if type(headers) is Block else None
        # Other upstreams are sent the same block: what they made of it holds their own headers, or none.
        if type(known) is tuple and known[0] is self._own:
            fields: bytes = known[1]
            return fields
        fields = render([pair for pair in headers if pair[0].lower() not in self._own_names]) + self._own
        if type(headers) is Block:
            headers.rendered = (self._own, fields)
        return fields


class _Deadline:
    """The bound of one connection attempt, on the timer that all of them share. Fulfils `wheel.Due`."""

    __slots__ = ("_task", "is_over")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.is_over = False

    def due(self) -> None:
        """End the attempt."""
        self.is_over = True
        if self._task is not None:
            self._task.cancel()


def _tell_cancelled(exchange: WireExchange, task: "asyncio.Task[None]") -> None:
    if task.cancelled():
        exchange.lost(Loss.NOT_SENT, CLOSED)


def _rendered(headers: Headers) -> bytes:
    if type(headers) is not Block:
        return render(headers)
    known = headers.rendered
    if not isinstance(known, bytes):
        known = headers.rendered = render(headers)
    return known
