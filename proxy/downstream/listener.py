"""Sorts a client's request: what it may not do, which session it is for, or that it is for none.

Owns the checks that come before any session (path, Host, Origin, method, headers). Knows no HTTP library and never
talks to an upstream. Invariant: every request gets exactly one answer through its sink.
"""

from proxy.config import Listen
from proxy.core import headers as h
from proxy.core import jsonrpc
from proxy.core.edge import Request, Sink, answer
from proxy.core.ids import RequestId
from proxy.core.jsonrpc import Envelope, Kind
from proxy.core.revision import is_known, is_modern
from proxy.core.session import CloseReason
from proxy.registry import Registry
from proxy.relay import replies
from proxy.relay.opening import Opening
from proxy.relay.passthrough import Passthrough


class Listener:
    """The MCP endpoint of one route."""

    def __init__(self, registry: Registry, config: Listen) -> None:
        self._registry = registry
        self._ctx = registry.ctx
        self._config = config
        # Parsed once: the property reads the address anew, and every request asks.
        self._host = config.host
        self._paths = frozenset({config.path, config.path.rstrip("/") + "/", config.path.rstrip("/") or "/"})

    def handle(self, request: Request, sink: Sink) -> None:
        """Answer one request, now or later."""
        fault = self._fault(request)
        if fault is not None:
            reason, names = fault
            self._reject(sink, reason, None, **names)
        elif request.method == "POST":
            self._post(request, sink)
        elif request.method == "GET":
            self._get(request, sink)
        elif request.method == "DELETE":
            self._delete(request, sink)
        else:
            self._reject(sink, "method")

    def _fault(self, request: Request) -> tuple[str, dict[str, str]] | None:
        headers = request.headers
        config = self._config
        if _path_of(request.path) not in self._paths:
            return "no_such_path", {"path": config.path}
        host = h.get(headers, "Host")
        if not h.host_allowed(host, self._host, config.allowed_hosts):
            return "bad_host", {"header": "Host"}
        if not h.origin_allowed(h.get(headers, "Origin"), self._host, config.allowed_origins, host):
            return "bad_origin", {"header": "Origin"}
        doubled = h.duplicated_headers(headers)
        if doubled:
            return "duplicate_header", {"header": doubled[0]}
        return None

    # -- POST

    def _post(self, request: Request, sink: Sink) -> None:
        headers = request.headers
        envelope = jsonrpc.classify(request.body)
        if is_modern(h.get(headers, h.PROTOCOL_VERSION)):
            self._pass_through(envelope, request, sink, is_modern=True)
            return
        if envelope.method == "initialize" and envelope.kind is Kind.REQUEST and envelope.id is not None:
            self._open(envelope.id, request, sink)
            return
        session_id = h.get(headers, h.SESSION_ID)
        relay = self._registry.find(session_id) if session_id is not None else None
        if relay is not None:
            relay.post(envelope, request, sink)
        elif is_modern(jsonrpc.meta_protocol_version(request.body)):
            self._pass_through(envelope, request, sink, is_modern=True)
        elif session_id is not None:
            self._reject(sink, "unknown_session", envelope.id if envelope.kind is Kind.REQUEST else None)
        else:
            self._pass_through(envelope, request, sink, is_modern=False)

    def _open(self, request_id: RequestId, request: Request, sink: Sink) -> None:
        registry = self._registry
        if registry.is_draining:
            self._reject(sink, "draining", request_id)
        elif registry.is_full:
            self._reject(sink, "too_many_sessions", request_id, limit=self._ctx.session.max_sessions)
        else:
            Opening(self._ctx, request_id, request.headers, request.body, sink, registry.open).begin()

    def _pass_through(self, envelope: Envelope, request: Request, sink: Sink, *, is_modern: bool) -> None:
        ids: tuple[RequestId, ...] = ()
        if envelope.kind is Kind.REQUEST and envelope.id is not None:
            ids = (envelope.id,)
        elif envelope.kind is Kind.BATCH:
            members = [member for member, _ in jsonrpc.split_batch(request.body)]
            ids = tuple(member.id for member in members if member.kind is Kind.REQUEST and member.id is not None)
        headers, _ = self._ctx.upstream_headers(request.headers)
        Passthrough(self._ctx, ids, headers, request.body, sink, method=envelope.method, is_modern=is_modern).begin()

    # -- GET and DELETE

    def _get(self, request: Request, sink: Sink) -> None:
        headers = request.headers
        version = h.get(headers, h.PROTOCOL_VERSION)
        session_id = h.get(headers, h.SESSION_ID)
        if is_modern(version):
            # The modern transport has no GET (2026-07-28).
            self._reject(sink, "method")
        elif session_id is None:
            self._reject(sink, "missing_session")
        elif version is not None and not is_known(version):
            self._reject(sink, "bad_version", version=version[:64])
        elif not h.accepts_sse(headers):
            self._reject(sink, "not_acceptable")
        else:
            relay = self._registry.find(session_id)
            if relay is None:
                self._reject(sink, "unknown_session")
            elif self._registry.is_draining:
                self._reject(sink, "draining")
            else:
                relay.readers.listen(request, sink)

    def _delete(self, request: Request, sink: Sink) -> None:
        headers = request.headers
        session_id = h.get(headers, h.SESSION_ID)
        if is_modern(h.get(headers, h.PROTOCOL_VERSION)):
            self._reject(sink, "method")
        elif session_id is None:
            self._reject(sink, "missing_session")
        else:
            relay = self._registry.find(session_id)
            if relay is None:
                self._reject(sink, "unknown_session")
                return
            # The live request's credentials, so that the upstream lets itself be told.
            relay.credentials, _ = self._ctx.upstream_headers(headers)
            relay.close(CloseReason.DELETED)
            answer(sink, 200, [], b"")

    def _reject(self, sink: Sink, reason: str, request_id: RequestId | None = None, **data: object) -> None:
        observer = self._ctx.observer
        if observer.is_active:
            replies.observe_rejected(observer, reason)
        replies.report(sink, reason, request_id, **data)


def _path_of(target: str) -> str:
    """Return the path of a request target in origin form or absolute form (RFC 9112, 3.2)."""
    if not target.startswith("/"):
        _, _, rest = target.partition("://")
        target = "/" + rest.partition("/")[2]
    return target.partition("?")[0]
