"""Sorts a client's request: what it may not do, which session it is for, or that it is for none.

Owns the checks that come before any session (route, Host, Origin, method, headers). Knows no HTTP library and never
talks to an upstream. Invariant: every request gets exactly one answer through its sink.
"""

from typing import cast

from proxy.config import Listen
from proxy.core import headers as h
from proxy.core import jsonrpc
from proxy.core.edge import Request, Sink
from proxy.core.head import Head
from proxy.core.ids import RequestId
from proxy.core.jsonrpc import Envelope, Kind
from proxy.core.revision import is_known, is_modern
from proxy.observe.hooks import Observer
from proxy.relay import replies
from proxy.relay.opening import Opening
from proxy.relay.sessionless import Sessionless
from proxy.routes import Endpoint, RouteTable

# A member of an enum costs ten times a global to get at.
_REQUEST = Kind.REQUEST
_FINE = "fine"
"""The verdict on a head with which nothing is wrong."""
_Fault = tuple[str, dict[str, str]]
"""A row of the fault table, and the names that belong into its message."""


class Listener:
    """The MCP endpoints of all routes."""

    def __init__(self, routes: RouteTable, config: Listen, observer: Observer) -> None:
        self._routes = routes
        self._observer = observer
        self._config = config
        # Parsed once: the property reads the address anew, and every request asks.
        self._host = config.host

    def handle(self, request: Request, sink: Sink) -> None:
        """Answer one request, now or later."""
        head = request.head
        findings = head.findings
        if findings.version != self._routes.version:
            findings.version = self._routes.version
            findings.verdict = self._judge(head)
        verdict = findings.verdict
        if verdict is not _FINE:
            reason, names = cast("_Fault", verdict)
            self._reject(sink, reason, None, **names)
            return
        endpoint: Endpoint = findings.route
        if head.method == "POST":
            envelope = jsonrpc.classify(request.body)
            session_id = head.session_id
            if session_id is not None and envelope.method != "initialize" and not head.is_modern:
                # Nearly every request.
                found = endpoint.registry.find(session_id)
                if found is not None:
                    found.post(envelope, request, sink)
                    return
            self._post(endpoint, envelope, request, sink)
        elif head.method == "GET":
            self._get(endpoint, request, sink)
        elif head.method == "DELETE":
            self._delete(endpoint, request, sink)
        else:
            self._reject(sink, "method")

    def _judge(self, head: Head) -> object:
        """Return what is wrong with a head, whatever its session and body are; else note its route."""
        headers = head.headers
        config = self._config
        host = h.get(headers, "Host")
        path = _path_of(head.path)
        endpoint = head.findings.route = self._routes.find(path, h.host_name(host))
        if endpoint is None:
            return "no_such_path", {"path": self._routes.known_paths}
        own = endpoint.host
        allowed = (*config.allowed_hosts, own) if own else config.allowed_hosts
        if not h.host_allowed(host, self._host, allowed):
            return "bad_host", {"header": "Host"}
        if not h.origin_allowed(h.get(headers, "Origin"), self._host, config.allowed_origins, host):
            return "bad_origin", {"header": "Origin"}
        doubled = h.duplicated_headers(headers)
        if doubled:
            return "duplicate_header", {"header": doubled[0]}
        return _FINE

    # -- POST

    def _post(self, endpoint: Endpoint, envelope: Envelope, request: Request, sink: Sink) -> None:
        head = request.head
        if head.is_modern:
            self._pass_through(endpoint, envelope, request, sink, is_modern=True)
            return
        if envelope.method == "initialize" and envelope.kind is _REQUEST and envelope.id is not None:
            self._open(endpoint, envelope.id, request, sink)
            return
        session_id = head.session_id
        found = endpoint.find(session_id) if session_id is not None else None
        if found is not None:
            found.post(envelope, request, sink)
        elif is_modern(jsonrpc.meta_protocol_version(request.body)):
            self._pass_through(endpoint, envelope, request, sink, is_modern=True)
        elif session_id is not None:
            self._reject(sink, "unknown_session", envelope.id if envelope.kind is _REQUEST else None)
        else:
            self._pass_through(endpoint, envelope, request, sink, is_modern=False)

    def _open(self, endpoint: Endpoint, request_id: RequestId, request: Request, sink: Sink) -> None:
        registry = endpoint.registry
        if registry.is_draining:
            self._reject(sink, "draining", request_id)
        elif not endpoint.is_open:
            self._reject(sink, "no_such_path", request_id, path=self._routes.known_paths)
        elif registry.is_full:
            self._reject(sink, "too_many_sessions", request_id, limit=registry.ctx.session.max_sessions)
        else:
            Opening(registry.ctx, request_id, request.head, request.body, sink, registry.open).begin()

    def _pass_through(
        self, endpoint: Endpoint, envelope: Envelope, request: Request, sink: Sink, *, is_modern: bool
    ) -> None:
        if not endpoint.is_open:
            self._reject(sink, "no_such_path", envelope.id, path=self._routes.known_paths)
            return
        ids: tuple[RequestId, ...] = ()
        if envelope.kind is _REQUEST and envelope.id is not None:
            ids = (envelope.id,)
        elif envelope.kind is Kind.BATCH:
            members = [member for member, _ in jsonrpc.split_batch(request.body)]
            ids = tuple(member.id for member in members if member.kind is _REQUEST and member.id is not None)
        exchange = Sessionless(
            endpoint.registry.ctx, ids, request.head, request.body, sink, method=envelope.method, is_modern=is_modern
        )
        exchange.begin()

    # -- GET and DELETE

    def _get(self, endpoint: Endpoint, request: Request, sink: Sink) -> None:
        head = request.head
        version, session_id = head.version, head.session_id
        if head.is_modern:
            # The modern transport has no GET (2026-07-28).
            self._reject(sink, "method")
        elif session_id is None:
            self._reject(sink, "missing_session")
        elif version is not None and not is_known(version):
            self._reject(sink, "bad_version", version=version[:64])
        elif not head.accepts_sse:
            self._reject(sink, "not_acceptable")
        else:
            found = endpoint.find(session_id)
            if found is None:
                self._reject(sink, "unknown_session")
            elif endpoint.registry.is_draining:
                self._reject(sink, "draining")
            else:
                found.listen(request, sink)

    def _delete(self, endpoint: Endpoint, request: Request, sink: Sink) -> None:
        session_id = request.head.session_id
        if request.head.is_modern:
            self._reject(sink, "method")
        elif session_id is None:
            self._reject(sink, "missing_session")
        else:
            found = endpoint.find(session_id)
            if found is None:
                self._reject(sink, "unknown_session")
            else:
                found.delete(request, sink)

    def _reject(self, sink: Sink, reason: str, request_id: RequestId | None = None, **data: object) -> None:
        observer = self._observer
        if observer.is_active:
            replies.observe_rejected(observer, reason)
        replies.report(sink, reason, request_id, **data)


def _path_of(target: str) -> str:
    """Return the path of a request target in origin form or absolute form (RFC 9112, 3.2)."""
    if not target.startswith("/"):
        _, _, rest = target.partition("://")
        target = "/" + rest.partition("/")[2]
    return target.partition("?")[0]
