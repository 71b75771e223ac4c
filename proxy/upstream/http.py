"""The upstream edge over aiohttp's client.

Owns connections to one upstream and translates aiohttp's exceptions into `Loss`, once. Knows no session. Invariant:
a call is written at most once; whatever happens after a connection existed counts as "may have been read".
"""

import asyncio
from collections.abc import Callable

import aiohttp
from yarl import URL

from proxy.config import Upstream
from proxy.upstream.base import Exchange, Loss, Receiver, UpstreamRequest
from proxy.upstream.sockets import connect_socket

# Nothing was written: no connection was made, or a kept one was found closing before the head was written (the
# body's writer reports the same class wrapped in ClientOSError, so a direct one is always the head's).
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientConnectionResetError,
)
# LineTooLong and its kin are ValueErrors or ClientErrors, by version.
_FAILED = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class HttpEdge:
    """One upstream over HTTP/1.1. Fulfils `upstream.base.Edge`."""

    def __init__(self, config: Upstream) -> None:
        self._url = URL(config.url, encoded=True)
        self._timeout = aiohttp.ClientTimeout(
            # No total and no read timeout: silence is not death (semantics 16), the relay's pings decide.
            total=None,
            sock_connect=config.connect_timeout_seconds,
        )
        # Short idle time: a kept connection that the server closes just as a POST is written is an unknown outcome.
        self._kept = self._session(keepalive_timeout=config.keepalive_seconds)
        # aiohttp re-sends a GET or DELETE once when a kept connection dies under it, unasked; on fresh connections
        # it cannot.
        self._fresh = self._session(force_close=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def _session(self, *, keepalive_timeout: float | None = None, force_close: bool = False) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            # aiohttp's default of 100 would block the 101st open stream without an error.
            limit=0,
            force_close=force_close,
            keepalive_timeout=None if force_close else keepalive_timeout,
            socket_factory=connect_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            # A shared jar would send one session's cookies with another's requests.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    def send(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Begin an exchange."""
        exchange = _HttpExchange()
        session = self._fresh if request.fresh else self._kept
        task = self._loop.create_task(self._run(session, request, receiver, exchange))
        # The loop holds tasks weakly; one that nobody holds is collected in the middle of its work.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        exchange.task = task
        return exchange

    async def _run(
        self,
        session: aiohttp.ClientSession,
        request: UpstreamRequest,
        receiver: Receiver,
        exchange: "_HttpExchange",
    ) -> None:
        try:
            response = await session.request(
                request.method,
                self._url,
                data=request.body or None,
                headers=request.headers,
                allow_redirects=False,
            )
        except _NOT_SENT as error:
            refused = isinstance(getattr(error, "os_error", None), ConnectionRefusedError | ConnectionResetError)
            receiver.on_lost(Loss.REFUSED if refused else Loss.NOT_SENT, str(error))
            return
        except _FAILED as error:
            receiver.on_lost(Loss.BROKEN, f"{type(error).__name__}: {error}")
            return
        try:
            await self._read(response, receiver, exchange)
        finally:
            # `close`, not `release`, for what is unfinished: a released stream stays open at the server.
            if not response.content.at_eof():
                response.close()

    async def _read(self, response: aiohttp.ClientResponse, receiver: Receiver, exchange: "_HttpExchange") -> None:
        try:
            receiver.on_head(response.status, list(response.headers.items()))
            content = response.content
            # A short answer came in one piece with its head: no iterator, no await.
            if content.is_eof() and not exchange.is_aborted and (data := content.read_nowait()):
                receiver.on_data(data)
            async for data in content.iter_any():
                # A receiver may abort from inside a call, and what is buffered comes without another suspension at
                # which the cancellation would be raised.
                if exchange.is_aborted:
                    return
                if exchange.gate is not None:
                    await exchange.gate.wait()
                receiver.on_data(data)
        except _FAILED as error:
            if not exchange.is_aborted:
                receiver.on_lost(Loss.BROKEN, f"{type(error).__name__}: {error}")
            return
        if not exchange.is_aborted:
            # A body that only ends because the peer closed may be cut: aiohttp reports a clean end for it.
            headers = response.headers
            receiver.on_end("Content-Length" in headers or "Transfer-Encoding" in headers)

    def reach(self, done: Callable[[bool], None]) -> None:
        """Find out whether a connection can be made, without a request."""
        task = self._loop.create_task(self._reach(done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reach(self, done: Callable[[bool], None]) -> None:
        host, port = self._url.host, self._url.port
        try:
            async with asyncio.timeout(self._timeout.sock_connect):
                _, writer = await asyncio.open_connection(host, port)
        except Exception:  # whatever it was, who asked must hear of it, or waits for ever
            done(False)
            return
        writer.close()
        done(True)

    async def close(self) -> None:
        """Cut everything and free the connections."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kept.close()
        await self._fresh.close()


class _HttpExchange:
    """One request under way. Fulfils `upstream.base.Exchange`."""

    __slots__ = ("gate", "is_aborted", "task")

    def __init__(self) -> None:
        self.is_aborted = False
        self.task: asyncio.Task[None] | None = None
        self.gate: asyncio.Event | None = None

    def abort(self) -> None:
        """Cut it; the receiver hears nothing any more."""
        self.is_aborted = True
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
