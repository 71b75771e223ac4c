"""The head of one client request, and what follows from it alone, worked out once.

Clients repeat their heads byte for byte on a connection, so the downstream edge hands the same object in for as long as
they do; and the heads of one client software's sessions differ in the session id alone, so they share what was found
out. Must not know of sessions or of the HTTP library. Invariant: everything here depends on the head only; what depends
on a session's state is asked anew for every request.
"""

from typing import Any

from proxy.core import headers as h
from proxy.core.headers import Block, Headers
from proxy.core.ids import UpstreamSessionId
from proxy.core.revision import is_modern


class Findings:
    """What was found out about a head, whatever its session id."""

    __slots__ = ("accepts_sse", "forwarded", "route", "verdict", "version")

    def __init__(self) -> None:
        self.verdict: object = None
        """What the listener says of it; None until it has been asked."""
        self.route: Any = None
        """Which route the listener found for it."""
        self.version = -1
        """Of the route table that the verdict and the route were found in."""
        self.forwarded: Block | None = None
        """What of it goes upstream, without a session id; None until it has been chosen."""
        self.accepts_sse: bool | None = None


class Head:
    """Method, target and headers of one request."""

    __slots__ = (
        "_headers",
        "_is_own",
        "bound_block",
        "bound_to",
        "findings",
        "is_modern",
        "last_event_id",
        "method",
        "path",
        "request_id",
        "session_id",
        "version",
    )

    def __init__(self, method: str, path: str, headers: Headers, like: "Head | None" = None) -> None:
        self.method = method
        self.path = path
        """The request target, query and all."""
        self._headers = headers
        self._is_own = like is None
        """Whether the headers are this head's, session id and all."""
        self.session_id: str | None = None
        self.last_event_id: str | None = None
        """The cursor of a client that comes back."""
        self.bound_block: Block | None = None
        """What `bound` gave last."""
        self.bound_to: UpstreamSessionId | None = None
        if like is not None:
            self.version: str | None = like.version
            self.is_modern: bool = like.is_modern
            self.request_id: str | None = like.request_id
            """The client's own correlation id."""
            self.findings: Findings = like.findings
            return
        self.session_id = h.get(headers, h.SESSION_ID)
        self.version = h.get(headers, h.PROTOCOL_VERSION)
        self.is_modern = is_modern(self.version)
        self.request_id = h.get(headers, h.REQUEST_ID)
        if method == "GET":
            self.last_event_id = h.get(headers, h.LAST_EVENT_ID)
        self.findings = Findings()

    def of(self, session_id: str | None, last_event_id: str | None = None) -> "Head":
        """Return the same head with another session id and cursor in the place of its own, where it has them."""
        other = Head(self.method, self.path, self._headers, self)
        other.session_id = session_id
        other.last_event_id = last_event_id
        return other

    @property
    def headers(self) -> Headers:
        """All of them, in wire order."""
        if self._is_own:
            return self._headers
        own = {"mcp-session-id": self.session_id, "last-event-id": self.last_event_id}
        return [(name, own.get(name.lower()) or value) for name, value in self._headers]

    @property
    def accepts_sse(self) -> bool:
        """Tell whether the client takes an event stream."""
        findings = self.findings
        if findings.accepts_sse is None:
            findings.accepts_sse = h.accepts_sse(self._headers)
        return findings.accepts_sse

    def bound(self, forwarded: Block, upstream_id: UpstreamSessionId | None) -> Block:
        """Return *forwarded* as it is sent in an upstream session."""
        if upstream_id is None:
            return forwarded
        block = self.bound_block
        if block is None or self.bound_to != upstream_id:
            block = self.bound_block = forwarded.of_session(upstream_id)
            self.bound_to = upstream_id
        return block
