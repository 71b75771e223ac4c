"""The downstream edge over aiohttp's low-level server.

Owns HTTP towards clients: it reads whole requests, hands them on with a `Sink`, and writes what the sink is given.
Knows no session and no protocol of MCP. Invariant: no aiohttp type leaves this module, and a handler task ends when
its sink is finished, aborted or its client is gone.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from multidict import CIMultiDict

from proxy.config import Listen
from proxy.core.edge import Request, Sink, Watcher
from proxy.core.head import Head
from proxy.core.headers import SESSION_ID, Headers
from proxy.core.ids import SessionId
from proxy.downstream.heads import PRODUCT
from proxy.downstream.leaving import Leaving
from proxy.relay import replies
from proxy.upstream.sockets import watch_peer

HIGH_WATER_BYTES = 65_536
"""Bytes that may wait behind a write that the client does not take; the transport and the kernel hold about as much."""
BURST_BYTES = 1_048_576
"""Bytes that may gather in one turn of the loop, before the first write could show whether the client takes them."""

# What aiohttp undoes by itself (or refuses, where a library is missing): the body is plain then, and must not say else.
_DECODED = frozenset({"gzip", "deflate", "br", "zstd"})

Handle = Callable[[Request, Sink], None]


class HttpServer(Leaving):
    """Serves one listening socket."""

    def __init__(self, handle: Handle, config: Listen, peer_timeout_seconds: float) -> None:
        self.handle = handle
        self.is_closing = False
        self._config = config
        self._server: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()
        self._web = _WebServer(
            self._serve,
            request_factory=self._make_request,
            # Without it an idle handler is not told that its client is gone.
            handler_cancellation=True,
            access_log=None,
            head_timeout=config.head_timeout_seconds,
            peer_timeout=peer_timeout_seconds,
        )

    async def start(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._web, sock=sock, backlog=self._config.backlog)

    def adopt(self, transport: asyncio.Transport, data: bytes, *, is_followed: bool = False) -> None:
        """Serve a connection that somebody else accepted.

        Args:
            transport: its transport.
            data: the first bytes of a request.
            is_followed: they go on behind that request, perhaps with a head that has only begun.
        """
        connection = self._web()
        connection.is_followed = is_followed
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.data_received(data)

    async def close(self, timeout_seconds: float) -> None:
        """End the connections: idle ones now, others once their answers are written, within the bound."""
        self.stop_accepting()
        self._web.pre_shutdown()
        await self._web.shutdown(timeout_seconds)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: Any,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            self._loop,
            client_max_size=self._config.max_body_bytes,
        )

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        if isinstance(protocol, _Connection):
            protocol.head_arrived()
        sink = _HttpSink(request, self)
        if (problem := _framing_problem(request)) is not None:
            sink.answer(400, [("Content-Type", "text/plain"), ("Connection", "close")], problem)
            return await sink.drive()
        try:
            body = await (request.read() if request.content.is_eof() else self._late_body(request))
        except web.HTTPRequestEntityTooLarge:
            replies.report(sink, "body_too_large", limit=self._config.max_body_bytes)
            return await sink.drive()
        except TimeoutError:
            replies.report(sink, "body_timeout")
            return await sink.drive()
        except RequestPayloadError:
            headers = [("Content-Type", "text/plain"), ("Connection", "close")]
            sink.answer(400, headers, b"the request's body cannot be decoded\n")
            return await sink.drive()
        pairs = list(request.headers.items())
        if request.headers.get("Content-Encoding", "").lower() in _DECODED:
            pairs = [pair for pair in pairs if pair[0].lower() != "content-encoding"]
        self.handle(Request(Head(request.method, request.raw_path, pairs), body), sink)
        try:
            response = await sink.drive()
        except BaseException:  # whatever ends the handler, nobody reads the sink any more
            sink.client_gone()
            raise
        if isinstance(protocol, _Connection):
            protocol.answered()
        return response

    async def _late_body(self, request: web.BaseRequest) -> bytes:
        """Read a body that did not come with its head, in a bounded time.

        Raises:
            HTTPRequestEntityTooLarge: it is, or announces itself as, larger than the limit.
            TimeoutError: it did not arrive in time.
        """
        announced = request.content_length
        if announced is not None and announced > self._config.max_body_bytes:
            raise web.HTTPRequestEntityTooLarge(self._config.max_body_bytes, announced)
        if request.headers.get("Expect", "").lower() == "100-continue":
            # aiohttp answers it in its router only, which is not used here (RFC 9110, 10.1.1).
            transport = request.transport
            if transport is not None:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async with asyncio.timeout(self._config.head_timeout_seconds):
            return await request.read()


def _framing_problem(request: web.BaseRequest) -> bytes | None:
    """Say what is wrong with a request that aiohttp's parser lets pass, and another parser would read otherwise."""
    if request.version not in (HttpVersion10, HttpVersion11):
        return b"the HTTP version is not one that is spoken here\n"
    if request.headers.get("Transfer-Encoding", "chunked").strip(" \t,") == "":
        return b"the transfer coding is empty\n"
    return None


class _HttpSink:
    """The answer to one request. Fulfils `core.edge.Sink`."""

    __slots__ = (
        "_closes",
        "_headers",
        "_is_aborted",
        "_is_finished",
        "_is_gone",
        "_is_writing",
        "_parts",
        "_request",
        "_server",
        "_size",
        "_status",
        "_wake",
        "_was_congested",
        "_watcher",
    )

    def __init__(self, request: web.BaseRequest, server: HttpServer) -> None:
        self._request = request
        self._server = server
        # aiohttp's parser takes the last trailer behind a chunked body for the first header of the next request.
        # Behind an upgrade that it does not know it drops what came in the same segment.
        self._closes = "Transfer-Encoding" in request.headers or "Upgrade" in request.headers
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._size = 0
        self._is_finished = False
        self._is_aborted = False
        self._is_gone = False
        self._is_writing = False
        self._was_congested = False
        self._watcher: Watcher | None = None
        self._wake: asyncio.Future[None] | None = None

    @property
    def congested(self) -> bool:
        """Tell whether the client does not keep up."""
        if self._size < (HIGH_WATER_BYTES if self._is_writing else BURST_BYTES):
            return False
        self._was_congested = True
        return True

    def watch(self, watcher: Watcher | None) -> None:
        """Name the one watcher."""
        self._watcher = watcher

    def answer(self, status: int, headers: Headers, body: bytes, session_id: SessionId | None = None) -> None:
        """Send one whole answer."""
        self.start(status, headers, session_id)
        if body:
            self.write(body)
        self.finish()

    def start(self, status: int, headers: Headers, session_id: SessionId | None = None) -> None:
        """Begin the answer."""
        self._status = status
        self._headers = headers if session_id is None else [*headers, (SESSION_ID, session_id)]
        self._notify()

    def write(self, data: bytes) -> None:
        """Send body bytes."""
        if not (self._is_gone or self._is_finished):
            self._parts.append(data)
            self._size += len(data)
            self._notify()

    def offer(self, data: bytes) -> bool:
        """Send body bytes unless the client does not keep up."""
        if self.congested:
            return False
        self.write(data)
        return True

    def finish(self) -> None:
        """End the body as complete."""
        self._is_finished = True
        self._closes = self._closes or self._server.is_closing
        self._notify()

    def abort(self) -> None:
        """Cut the connection without a last chunk."""
        self._is_aborted = True
        # A write that waits for the client to read would keep the handler: the cut ends it.
        if self._is_writing and self._request.transport is not None:
            self._request.transport.abort()
        self._notify()

    def client_gone(self) -> None:
        """The connection is lost."""
        self._is_gone = True
        self._parts.clear()
        self._size = 0
        watcher, self._watcher = self._watcher, None
        if watcher is not None and not (self._is_finished or self._is_aborted):
            watcher.sink_closed()

    def _notify(self) -> None:
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _woken(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake
        self._wake = None

    async def drive(self) -> web.StreamResponse:
        """Write what comes in until the answer is over."""
        while not self._status and not self._is_aborted:
            await self._woken()
        headers: CIMultiDict[str] = CIMultiDict(self._headers)
        headers.setdefault("Server", PRODUCT)
        if self._is_finished:
            whole = web.Response(status=self._status, headers=headers, body=b"".join(self._parts) or None)
            if self._closes or headers.get("Connection") == "close":
                whole.force_close()
            return whole
        response = web.StreamResponse(status=self._status, headers=headers)
        if self._closes or self._request.version < HttpVersion11:
            # An HTTP/1.0 client knows no chunks: the end of the connection ends its body.
            response.force_close()
        if not self._is_aborted:
            await response.prepare(self._request)
        while True:
            if self._is_aborted:
                if self._request.transport is not None:
                    self._request.transport.abort()
                raise ConnectionResetError("cut on purpose")
            if self._parts:
                await self._flush(response)
            elif self._is_finished:
                await response.write_eof()
                if self._closes:
                    response.force_close()
                return response
            else:
                await self._woken()

    async def _flush(self, response: web.StreamResponse) -> None:
        # One write for all that gathered since the last: events of one loop turn leave in one packet.
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._is_writing = True
        await response.write(data)
        self._is_writing = False
        self._size -= len(data)
        if self._was_congested and self._size < HIGH_WATER_BYTES:
            self._was_congested = False
            if self._watcher is not None:
                self._watcher.sink_drained()


class _WebServer(web.Server):
    """Makes connections that do not wait for ever for a request."""

    def __init__(self, *args: Any, head_timeout: float, peer_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout = head_timeout
        self._peer_timeout = peer_timeout

    def __call__(self) -> "_Connection":
        return _Connection(
            self,
            loop=self._loop,
            head_timeout=self._head_timeout,
            peer_timeout=self._peer_timeout,
            **self._kwargs,
        )


class _Connection(RequestHandler):
    """One client connection: watched by the kernel for a dead peer, and by a timer for heads that dribble."""

    __slots__ = ("_head_timeout", "_head_timer", "_peer_timeout", "is_followed")

    def __init__(self, *args: Any, head_timeout: float, peer_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout = head_timeout
        self._peer_timeout = peer_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self.is_followed = False
        """Whether the client did not wait for an answer before it sent on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first head is due."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            watch_peer(sock, self._peer_timeout)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that they begin and do not end is due too.

        aiohttp's keep-alive time-out would bound it as well, but that one is long on purpose: an idle connection that
        the server closes just as a client sends its POST kills some clients.
        """
        super().data_received(data)
        if self._head_timer is None and self._current_request is None and not self._messages:
            self._await_head()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or what our own defect left without an answer."""
        if isinstance(exc, ConnectionError):
            # The client went, or was cut on purpose: aiohttp would log an error for each of a wave that leaves.
            raise exc
        response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = PRODUCT
        return response

    def _await_head(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(self._head_timeout, self.force_close)

    def answered(self) -> None:
        """A request is answered; behind it the parser may hold a head that has only begun, and does not say so."""
        if self.is_followed and self._head_timer is None:
            self._await_head()

    def head_arrived(self) -> None:
        """A head is whole."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self.head_arrived()
        super().connection_lost(exc)
