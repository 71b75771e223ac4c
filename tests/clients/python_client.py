"""One session of an official Python SDK client, driven by JSON lines (described in tests/support/clients.py).

Runs on both lines of releases (1.x and 2.x), from the environment of one of them; what differs between the
lines sits in two `open_` functions. Every op runs beside the others and ends in exactly one `result` or
`error` line. The driver adds nothing to the SDK's behaviour: what the SDK survives, hides or dies of is
what the tests want to see.
"""

import asyncio
import json
import sys
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from pydantic import AnyUrl, BaseModel

IS_V2 = not version("mcp").startswith("1.")
if IS_V2:
    import mcp_types as types
    from mcp import Client
    from mcp.client.subscriptions import SubscriptionLost
else:
    from mcp import ClientSession, types

MODES = {"legacy": "legacy", "auto": "auto", "modern": "2026-07-28"}


def emit(event: str, **members: Any) -> None:
    """Write one line; a reader that went away ends the process at its next read."""
    with suppress(BrokenPipeError):
        print(json.dumps({"event": event, **members}), flush=True)


def wire(model: Any) -> Any:
    """Return a model of the SDK as the JSON that travelled, by its wire names."""
    if isinstance(model, BaseModel):
        return model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return model


class Recorder:
    """Wraps the HTTP transport of the SDK's client and reports the head of every answer."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.session: str | None = None
        """The last session id that an answer gave."""

    async def handle_async_request(self, request: Any) -> Any:
        """Pass one request on and report what came of it."""
        seen = {
            "method": request.method,
            "rpc": _rpc_method(request),
            "sent_session": request.headers.get("mcp-session-id"),
            "last_event_id": request.headers.get("last-event-id"),
        }
        try:
            response = await self._inner.handle_async_request(request)
        except Exception as error:
            emit("http", **seen, status=None, error=repr(error), got_session=None, content_type=None)
            raise
        got = response.headers
        self.session = got.get("mcp-session-id", self.session)
        emit(
            "http",
            **seen,
            status=response.status_code,
            got_session=got.get("mcp-session-id"),
            content_type=got.get("content-type"),
        )
        return response

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._inner.__aexit__(*failure)

    async def aclose(self) -> None:
        """Close what is wrapped."""
        await self._inner.aclose()


def _rpc_method(request: Any) -> str | None:
    try:
        return json.loads(request.content).get("method")
    except (ValueError, AttributeError):
        return None


class Driver:
    """Holds the SDK's session and the ops that are running on it."""

    def __init__(self) -> None:
        self.session: Any = None
        self.is_held = False
        self._held: deque[asyncio.Event] = deque()
        self._holder: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._ops: dict[str, asyncio.Task[None]] = {}
        self._listens: dict[str, asyncio.Task[None]] = {}

    # --- what the SDK calls

    async def on_message(self, message: Any) -> None:
        """Report a notification, or a fault that the SDK found on its transport."""
        if isinstance(message, Exception):
            emit("fault", message=repr(message))
            return
        body = wire(getattr(message, "root", message))
        method = str(body.get("method", "")) if isinstance(body, dict) else ""
        if method.startswith("notifications/") and method != "notifications/progress":
            emit("notification", method=method, params=body.get("params", {}))

    async def on_elicit(self, _: Any, params: Any) -> Any:
        """Accept every form, when allowed to answer."""
        await self._may_answer("elicitation/create", params)
        return types.ElicitResult(action="accept", content={"answer": "yes"})

    async def on_sample(self, _: Any, params: Any) -> Any:
        """Answer every sampling request with the same text, when allowed to."""
        await self._may_answer("sampling/createMessage", params)
        text = types.TextContent(type="text", text="sampled")
        return types.CreateMessageResult(role="assistant", content=text, model="none")

    async def _may_answer(self, method: str, params: Any) -> None:
        gate = asyncio.Event()
        if self.is_held:
            self._held.append(gate)  # before the report: a test may say `answer` as soon as it reads it
        else:
            gate.set()
        emit("request", method=method, params=wire(params))
        await gate.wait()

    # --- ops

    async def op_open(self, url: str, mode: str = "legacy", headers: dict[str, str] | None = None) -> Any:
        """Open the session in a task of its own: who entered the SDK's scopes must leave them."""
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._holder = asyncio.create_task(self._hold(opened, url, mode, headers or {}))
        return await opened

    async def _hold(self, opened: asyncio.Future[Any], url: str, mode: str, headers: dict[str, str]) -> None:
        enter = open_v2 if IS_V2 else open_v1
        reason = None
        try:
            async with enter(self, url, mode, headers) as (self.session, described):
                opened.set_result(described)
                await self._closing.wait()
        except BaseException as error:  # 1.x cancels the scope that its caller waits in
            reason = repr(_innermost(error))
        self.session = None
        if not opened.done():
            opened.set_exception(RuntimeError(reason))
        elif not self._closing.is_set():
            emit("dead", reason=reason)
            for op in self._ops.values():
                op.cancel()

    async def op_close(self) -> None:
        """End the session the way the SDK does."""
        for listen in self._listens.values():
            listen.cancel()
        self._closing.set()
        if self._holder is not None:
            await self._holder

    async def op_call(
        self,
        op_id: str,
        tool: str,
        args: dict[str, Any] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the SDK's own limit, in seconds
    ) -> Any:
        """Call a tool, reporting its progress."""

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            emit("progress", id=op_id, progress=progress, total=total, message=message)

        limit: Any = timeout if IS_V2 or timeout is None else timedelta(seconds=timeout)
        return wire(await self.session.call_tool(tool, args or {}, limit, on_progress))

    async def op_cancel(self, call: str) -> None:
        """Abandon a running call as the SDK does it."""
        self._ops[call].cancel()

    async def op_subscribe(self, uri: str) -> None:
        """Subscribe to a resource: a request on the old protocol, a stream of its own on the modern one."""
        if not IS_V2 or self.session.protocol_version < "2026":
            await self.session.subscribe_resource(uri if IS_V2 else AnyUrl(uri))
            return
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listens[uri] = asyncio.create_task(self._listen(uri, ready))
        await ready

    async def _listen(self, uri: str, ready: asyncio.Future[None]) -> None:
        reason = "graceful"
        try:
            async with self.session.listen(resource_subscriptions=[uri]) as updates:
                ready.set_result(None)
                async for _ in updates:  # each is reported by `on_message` as well
                    pass
        except SubscriptionLost:
            reason = "lost"
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
                return
            reason = repr(error)
        emit("subscription_ended", uri=uri, reason=reason)

    async def op_unsubscribe(self, uri: str) -> None:
        """End a subscription."""
        if uri in self._listens:
            self._listens.pop(uri).cancel()
            return
        await self.session.unsubscribe_resource(uri if IS_V2 else AnyUrl(uri))

    async def op_set_level(self, level: Any) -> None:
        """Set the log level of the session."""
        await self.session.set_logging_level(level)

    async def op_list_tools(self) -> Any:
        """List the names of the tools."""
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def op_list_resources(self) -> Any:
        """List the URIs of the resources."""
        return [str(resource.uri) for resource in (await self.session.list_resources()).resources]

    async def op_read(self, uri: str) -> Any:
        """Read one resource."""
        return wire(await self.session.read_resource(uri if IS_V2 else AnyUrl(uri)))

    async def op_ping(self) -> None:
        """Ping the server."""
        await self.session.send_ping()

    async def op_hold(self, on: bool) -> None:
        """Hold answers to the server's requests back, or stop doing so."""
        self.is_held = on

    async def op_answer(self) -> None:
        """Answer the oldest request that is held."""
        self._held.popleft().set()

    # --- the lines

    async def run_op(self, op: str, op_id: str, members: dict[str, Any]) -> None:
        """Run one op to its one closing line."""
        handler: Callable[..., Any] = getattr(self, f"op_{op}")
        if op == "call":
            members["op_id"] = op_id
        try:
            if self.session is None and op not in {"open", "close", "hold"}:
                raise RuntimeError("no session")
            value = await handler(**members)
        except asyncio.CancelledError:
            emit("error", id=op_id, code=None, message="cancelled", data=None)
        except Exception as error:
            cause = getattr(error, "error", None)  # McpError and MCPError carry the JSON-RPC error
            message = getattr(cause, "message", None) or repr(error)
            emit(
                "error",
                id=op_id,
                code=getattr(cause, "code", None),
                message=message,
                data=getattr(cause, "data", None),
            )
        else:
            emit("result", id=op_id, value=value)
        finally:
            self._ops.pop(op_id, None)

    async def serve(self) -> None:
        """Obey lines until stdin ends; then stop without closing the session."""
        reader = asyncio.StreamReader(limit=64 * 2**20)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        emit("ready", sdk=version("mcp"))
        async for line in reader:
            members = json.loads(line)
            op = members.pop("op")
            op_id = members.pop("id", op)
            self._ops[op_id] = asyncio.create_task(self.run_op(op, op_id, members))


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def http_client(headers: dict[str, str]) -> Any:
    """Make the HTTP client that the SDK would make, with the recorder inside it."""
    client = create_mcp_http_client(headers=headers)
    client._transport = Recorder(client._transport)
    return client


def described(http: Any, protocol: str, server: Any, capabilities: Any) -> dict[str, Any]:
    """Say what was agreed on, in the same words for both lines."""
    name = server.name if server is not None else None
    return {
        "protocol": protocol,
        "session": http._transport.session,
        "server": name,
        "capabilities": wire(capabilities),
    }


@asynccontextmanager
async def open_v1(driver: Driver, url: str, mode: str, headers: dict[str, str]) -> AsyncIterator[tuple[Any, Any]]:
    """Open a session of the 1.x line, which knows the old handshake alone."""
    if mode != "legacy":
        raise ValueError(f"the 1.x line has no mode {mode}")
    async with (
        http_client(headers) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
    ):
        callbacks = {"sampling_callback": driver.on_sample, "elicitation_callback": driver.on_elicit}
        async with ClientSession(read, write, message_handler=driver.on_message, **callbacks) as session:
            answer = await session.initialize()
            yield (
                session,
                described(http, str(answer.protocolVersion), answer.serverInfo, answer.capabilities),
            )


@asynccontextmanager
async def open_v2(driver: Driver, url: str, mode: str, headers: dict[str, str]) -> AsyncIterator[tuple[Any, Any]]:
    """Open a session of the 2.x line in either era."""
    async with http_client(headers) as http:
        transport = streamable_http_client(url, http_client=http)
        client = Client(
            transport,
            mode=MODES[mode],
            message_handler=driver.on_message,
            sampling_callback=driver.on_sample,
            elicitation_callback=driver.on_elicit,
            cache=None,
        )
        async with client:
            yield (
                client,
                described(http, client.protocol_version, client.server_info, client.server_capabilities),
            )


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the 2.x line warns at every call that the modern protocol drops
    asyncio.run(Driver().serve())
