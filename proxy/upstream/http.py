"""The upstream edge over aiohttp's client.

Owns connections to one upstream and translates aiohttp's exceptions into `Loss`, once. Knows no session. Invariants:
a call is written at most once; whatever happens after a connection existed counts as "may have been read"; bytes that
nobody asked for never reach the next request.
"""

import asyncio
import io
import select
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from proxy.config import Upstream
from proxy.upstream.base import Exchange, Loss, Receiver, UpstreamRequest
from proxy.upstream.sockets import connect_socket
from proxy.upstream.tls import client_context, failed_connection

# Nothing was written: no connection was made, or a kept one was found closing before the head was written (the
# body's writer reports the same class wrapped in ClientOSError, so a direct one is always the head's).
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientConnectionResetError,
)
_LARGE_BODY_BYTES = 1_048_576
"""From here on aiohttp warns about a body that is bytes."""
# Whole whatever their headers say, as they have no body (RFC 9110, 6.4.1).
_BODILESS = frozenset({204, 304})


class HttpEdge:
    """One upstream over HTTP/1.1. Fulfils `upstream.base.Edge`."""

    def __init__(self, config: Upstream) -> None:
        self._url = URL(config.url, encoded=True)
        self._ssl = client_context(config) if self._url.scheme == "https" else None
        self._timeout = aiohttp.ClientTimeout(
            # No total and no read timeout: silence is not death (semantics 16), the relay's pings decide.
            total=None,
            sock_connect=config.connect_timeout_seconds,
        )
        # Short idle time: a kept connection that the server closes just as a POST is written is an unknown outcome.
        self._most_idle = config.max_connections
        self._kept = self._session(config.keepalive_seconds)
        self._fresh = self._session(0)
        self._own = list(config.headers)
        """The headers that every request carries, in the place of a client's of the same names."""
        self._own_names = frozenset(name.lower() for name, _ in config.headers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def _session(self, keepalive_seconds: float) -> aiohttp.ClientSession:
        connector = _Connector(
            self._most_idle,
            # aiohttp's default of 100 would block the 101st open stream without an error.
            limit=0,
            # aiohttp takes a time-out of 0 for its default.
            force_close=not keepalive_seconds,
            keepalive_timeout=keepalive_seconds or None,
            socket_factory=connect_socket,
            ssl=self._ssl or True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            # A shared jar would send one session's cookies with another's requests.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        # aiohttp sends a GET or DELETE once more when its connection dies, a new connection too. Who may repeat what
        # is not decided here; aiohttp's own test client has no other switch either.
        session._retry_connection = False  # noqa: SLF001
        return session

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Begin an exchange."""
        exchange = _HttpExchange(receiver)
        if self._kept.closed:
            self._loop.call_soon(exchange.lost, Loss.REFUSED, "this upstream was taken out")
            return exchange
        session = self._fresh if request.fresh else self._kept
        task = self._loop.create_task(self._run(session, request, exchange))
        # The loop holds tasks weakly; one that nobody holds is collected in the middle of its work.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Of an aborted exchange this is no news; else its edge was closed, and part of it may have been written.
        task.add_done_callback(partial(_tell_cancelled, exchange))
        exchange.task = task
        return exchange

    async def _run(
        self,
        session: aiohttp.ClientSession,
        request: UpstreamRequest,
        exchange: "_HttpExchange",
    ) -> None:
        headers = request.all_headers
        if self._own:
            headers = [*(pair for pair in headers if pair[0].lower() not in self._own_names), *self._own]
        if any(mark in text for pair in headers for text in pair for mark in "\r\n\0"):
            # aiohttp refuses it as well, but with an error that may also mean a half-written request.
            exchange.lost(Loss.NOT_SENT, "a header value holds a line end or NUL")
            return
        body = request.body
        try:
            response = await session.request(
                request.method,
                self._url.with_path(request.path, encoded=True) if request.path else self._url,
                data=(io.BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body) or None,
                headers=headers,
                allow_redirects=False,
            )
        except _NOT_SENT as error:
            if isinstance(error, aiohttp.ClientConnectionResetError):
                exchange.lost(Loss.NOT_SENT, str(error))
            else:
                cause = getattr(error, "os_error", error)
                exchange.lost(*failed_connection(cause, self._ssl is not None, self._timeout.sock_connect or 0))
            return
        except Exception as error:  # whatever it was, the receiver must hear of it, or waits for ever
            exchange.lost(Loss.BROKEN, f"{type(error).__name__}: {error}")
            return
        is_whole = False
        try:
            is_whole = await self._read(response, exchange)
        except Exception as error:  # a receiver raised: our own defect, not the upstream's
            self._loop.call_exception_handler({"message": "receiver failed", "exception": error})
            exchange.lost(Loss.BROKEN, "receiver failed")
        finally:
            # `close`, not `release`, for what is unfinished: a released stream stays open at the server.
            if not is_whole:
                response.close()

    async def _read(self, response: aiohttp.ClientResponse, exchange: "_HttpExchange") -> bool:
        """Tell the answer; return whether it is whole and its connection can be used again."""
        if response.status < 200:
            # Another protocol begins here (101), or no status at all; what follows is no body.
            exchange.lost(Loss.BROKEN, f"status {response.status}")
            return False
        receiver, content = exchange.receiver, response.content
        receiver.on_head(response.status, list(response.headers.items()))
        # A short answer came in one piece with its head: no await.
        if content.is_eof() and not exchange.is_over and (data := content.read_nowait()):
            receiver.on_data(data)
        while True:
            try:
                data = await content.readany()
            except Exception as error:  # as above; what a receiver raises does not pass here
                exchange.lost(Loss.BROKEN, f"{type(error).__name__}: {error}")
                return False
            # A receiver may abort from inside a call, and what is buffered comes without another suspension at
            # which the cancellation would be raised.
            if exchange.is_over:
                return False
            if not data:
                break
            if exchange.gate is not None:
                await exchange.gate.wait()
            receiver.on_data(data)
        # A body that only ends because the peer closed may be cut: aiohttp reports a clean end for it.
        coding = response.headers.get("Transfer-Encoding")
        if coding is not None and not coding.lower().endswith("chunked"):
            exchange.lost(Loss.BROKEN, "a transfer coding that nobody asked for")
            return False
        exchange.is_over = True
        receiver.on_end(coding is not None or "Content-Length" in response.headers or response.status in _BODILESS)
        return True

    def reach(self, done: Callable[[bool], None]) -> None:
        """Find out whether a connection can be made, without a request."""
        task = self._loop.create_task(self._reach(done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reach(self, done: Callable[[bool], None]) -> None:
        host, port = self._url.host, self._url.port
        try:
            async with asyncio.timeout(self._timeout.sock_connect):
                # With the handshake: who does not pass it takes no request.
                _, writer = await asyncio.open_connection(host, port, ssl=self._ssl)
        except Exception:  # whatever it was, who asked must hear of it, or waits for ever
            done(False)
            return
        # Not `close`: over TLS that waits for the server to say goodbye, too.
        writer.transport.abort()
        done(True)

    async def close(self) -> None:
        """Cut everything and free the connections."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kept.close()
        await self._fresh.close()


def _tell_cancelled(exchange: "_HttpExchange", task: "asyncio.Task[None]") -> None:
    if task.cancelled():
        exchange.lost(Loss.BROKEN, "this upstream was taken out")


class _Connector(aiohttp.TCPConnector):
    """Keeps connections, and uses none again on which anything has arrived unasked.

    aiohttp looks whether a kept connection is open, not whether bytes wait on it: they would be the next answer.
    """

    def __init__(self, most_idle: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._most_idle = most_idle

    async def _get(self, key: Any, traces: list[Any]) -> Any:
        for protocol, _ in self._conns.get(key, ()):
            if protocol.should_close or not _is_quiet(protocol):
                protocol.close()
        return await super()._get(key, traces)

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        is_full = len(self._conns.get(key, ())) >= self._most_idle
        closes = should_close or protocol.should_close or self._force_close or is_full
        if closes and key.is_ssl:
            # aiohttp's `close` waits for the server to say goodbye, half a minute for one that has stopped.
            protocol.abort()
        super()._release(key, protocol, should_close=closes)


def _is_quiet(protocol: ResponseHandler) -> bool:
    """Tell whether nothing waits to be read, not even the end: asked of the kernel, as the loop may be late."""
    sock = protocol.transport.get_extra_info("socket") if protocol.transport is not None else None
    if sock is None or sock.fileno() < 0:
        return False
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLIN)
    return not poller.poll(0)


class _HttpExchange:
    """One request under way. Fulfils `upstream.base.Exchange`."""

    __slots__ = ("gate", "is_over", "receiver", "task")

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.is_over = False
        self.task: asyncio.Task[None] | None = None
        self.gate: asyncio.Event | None = None

    def lost(self, loss: Loss, detail: str) -> None:
        """End without a whole answer."""
        if not self.is_over:
            self.is_over = True
            self.receiver.on_lost(loss, detail)

    def abort(self) -> None:
        """Cut it; the receiver hears nothing any more."""
        self.is_over = True
        if self.task is not None:
            self.task.cancel()

    def pause(self) -> None:
        """Stop reading the body."""
        if self.gate is None:
            self.gate = asyncio.Event()
        self.gate.clear()

    def resume(self) -> None:
        """Go on reading."""
        if self.gate is not None:
            self.gate.set()
