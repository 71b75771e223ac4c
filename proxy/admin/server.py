"""Own the admin API's listener: HTTP in, one operation of the table done, JSON out.

Knows the operator's contract (`control`) and nothing behind it. Invariant: every answer but an event stream is one JSON
document (or has no body), an error has a code for programs and a sentence for people, and no request holds more than
`MAX_BODY_BYTES` or stays longer than `BODY_SECONDS` before it is read.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from proxy import __version__
from proxy.admin import openapi
from proxy.admin.events import EventStreams
from proxy.admin.guard import Guard, Refusal
from proxy.admin.operations import OPERATIONS, Asked, NoQuery, Operation
from proxy.clock import Clock
from proxy.config import Admin
from proxy.control.base import Control, ControlError
from proxy.control.views import JobView, UpstreamView
from proxy.core.headers import is_loopback
from proxy.errors import ConfigError
from proxy.observe.feed import EventFeed

MAX_BODY_BYTES = 65_536
"""Far above any operation's body."""
BODY_SECONDS = 10.0
"""Time for a body to arrive."""
SHUTDOWN_SECONDS = 1.0
"""How long the end waits for answers under way."""

_STATUS = {"not_found": 404, "ambiguous": 409, "invalid": 400, "conflict": 409}
_HEADERS = {
    "Server": f"mcp-session-proxy/{__version__}",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_HTTP_ERRORS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_log = logging.getLogger(__name__)


class AdminServer:
    """Serves the admin API on one listening socket. Make it inside a running event loop."""

    def __init__(self, control: Control, feed: EventFeed, config: Admin, clock: Clock) -> None:
        self._control = control
        self._clock = clock
        self._guard = Guard(config.token)
        self._has_token = bool(config.token)
        self._streams = EventStreams(feed, clock)
        self._description = b""
        application = web.Application(middlewares=[_errors_told], client_max_size=MAX_BODY_BYTES)
        for operation in OPERATIONS:
            application.router.add_route(operation.method, operation.path, self._handler(operation))
        application.router.add_route("GET", openapi.EVENTS_PATH, self._events)
        application.router.add_route("GET", openapi.DESCRIPTION_PATH, self._describe)
        application.on_shutdown.append(self._end_streams)
        # Without cancellation a handler that waits is not told that its client is gone.
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS
        )

    @property
    def event_readers(self) -> int:
        """How many read the event feed."""
        return self._streams.readers

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket.

        Raises:
            ConfigError: other machines can reach it and there is no token.
        """
        host = str(sock.getsockname()[0])
        # Held for a socket from outside too, whose address no configuration knows.
        if not self._has_token and not is_loopback(host):
            raise ConfigError(f"listening on {host} lets other machines in: set a token", key="admin.token")
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        """End: no new connections, event streams ended, answers under way given a second."""
        await self._runner.cleanup()

    async def _end_streams(self, _: web.Application) -> None:
        self._streams.close()

    def _handler(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self._admit(request, is_open=operation.is_open)
            body = await self._body(request, operation)
            asked = Asked(dict(request.match_info), _query(request, operation.query), body)
            answer = operation.run(self._control, asked)
            return _answered(operation, answer)

        return handle

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._admit(request, is_open=False)
        query = _query(request, openapi.EventQuery)
        if self._streams.is_full:
            raise _Refused(Refusal(503, "busy", "too many read the events already"))
        cursor = request.headers.get("Last-Event-ID") or query.since
        return await self._streams.serve(request, cursor, _HEADERS, follow=query.follow)

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        self._admit(request, is_open=False)
        _query(request, NoQuery)
        if not self._description:
            self._description = msgspec.json.encode(openapi.document(is_token_needed=self._has_token))
        return _json(200, self._description)

    def _admit(self, request: web.Request, *, is_open: bool) -> None:
        refusal = self._guard.refusal(list(request.headers.items()), is_open=is_open)
        if refusal is not None:
            raise _Refused(refusal)

    async def _body(self, request: web.Request, operation: Operation) -> Any:
        timer = self._clock.call_later(BODY_SECONDS, lambda: _cut(request))
        try:
            text = await request.read()
        finally:
            timer.cancel()
        if text and (refusal := self._guard.body_refusal(list(request.headers.items()))) is not None:
            raise _Refused(refusal)
        if operation.body is None:
            if text:
                raise _Refused(Refusal(400, "invalid", "expected no body"))
            return None
        return msgspec.json.decode(text or b"{}", type=operation.body)


class _Refused(Exception):  # noqa: N818 - it carries an answer, not a defect
    """A request is not served."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _query(request: web.Request, kind: type) -> Any:
    pairs = request.query
    if len(set(pairs)) != len(pairs):
        raise _Refused(Refusal(400, "invalid", "a query parameter was given twice"))
    # Not strict: in a query every value is a text.
    return msgspec.convert(dict(pairs), kind, strict=False)


def _answered(operation: Operation, answer: Any) -> web.Response:
    status = operation.status_of(answer)
    if operation.answer is None:
        return web.Response(status=status, headers=_HEADERS)
    response = _json(status, msgspec.json.encode(answer))
    if isinstance(answer, JobView) and status == 202:
        response.headers["Location"] = f"/jobs/{quote(answer.id, safe='')}"
    if isinstance(answer, UpstreamView) and status == 201:
        response.headers["Location"] = f"/upstreams/{quote(answer.name, safe='')}"
    return response


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, headers=_HEADERS, body=body, content_type="application/json")


def _refused(refusal: Refusal) -> web.Response:
    body = openapi.ErrorBody(error=openapi.Problem(code=refusal.code, message=refusal.message))
    response = _json(refusal.status, msgspec.json.encode(body))
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


@web.middleware
async def _errors_told(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn whatever ends a request without an answer into one."""
    try:
        response = await handler(request)
    except _Refused as error:
        response = _refused(error.refusal)
    except ControlError as error:
        response = _refused(Refusal(_STATUS.get(error.code, 500), error.code, str(error)))
    except ConfigError as error:
        response = _refused(Refusal(400, "invalid", str(error)))
    except msgspec.MsgspecError as error:
        # Of a ValidationError; its text names types and places, never values.
        response = _refused(Refusal(400, "invalid", str(error)))
    except web.HTTPException as error:
        code = _HTTP_ERRORS.get(error.status, "invalid")
        response = _refused(Refusal(error.status, code, error.reason))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except web.RequestPayloadError:
        response = _refused(Refusal(400, "invalid", "the request's body cannot be decoded"))
    except ConnectionError:
        raise  # the client went
    except Exception:
        # The boundary: a defect in one operation is no reason to end the connection without a word.
        _log.exception("an admin request failed")
        response = _refused(Refusal(500, "internal", "the proxy failed; its log says where"))
    # Behind a body that was refused or came in chunks, nobody can be sure where the next request begins.
    if response.status >= 400 or "Transfer-Encoding" in request.headers:
        response.force_close()
    return response


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
