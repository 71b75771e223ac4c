"""The head of one client request, and what follows from it alone, worked out once.

Clients repeat their heads byte for byte on a connection, so the downstream edge hands the same object in for as long as
they do. Must not know of sessions or of the HTTP library. Invariant: everything here depends on the head only; what
depends on a session's state is asked anew for every request.
"""

from proxy.core import headers as h
from proxy.core.headers import Block, Headers
from proxy.core.ids import UpstreamSessionId
from proxy.core.revision import is_modern


class Head:
    """Method, target and headers of one request."""

    __slots__ = (
        "_accepts_sse",
        "_bound",
        "_bound_to",
        "forwarded",
        "headers",
        "is_modern",
        "method",
        "path",
        "request_id",
        "session_id",
        "verdict",
        "version",
    )

    def __init__(self, method: str, path: str, headers: Headers) -> None:
        self.method = method
        self.path = path
        """The request target, query and all."""
        self.headers = headers
        self.session_id = h.get(headers, h.SESSION_ID)
        self.version = h.get(headers, h.PROTOCOL_VERSION)
        self.is_modern = is_modern(self.version)
        self.request_id = h.get(headers, h.REQUEST_ID)
        """The client's own correlation id."""
        self.verdict: object = None
        """What the listener says of it; None until it has been asked."""
        self.forwarded: Block | None = None
        """What of it goes upstream, without a session id; None until it has been chosen."""
        self._accepts_sse: bool | None = None
        self._bound: Block | None = None
        self._bound_to: UpstreamSessionId | None = None

    @property
    def accepts_sse(self) -> bool:
        """Tell whether the client takes an event stream."""
        if self._accepts_sse is None:
            self._accepts_sse = h.accepts_sse(self.headers)
        return self._accepts_sse

    def bound(self, forwarded: Block, upstream_id: UpstreamSessionId | None) -> Block:
        """Return *forwarded* as it is sent in an upstream session."""
        if upstream_id is None:
            return forwarded
        block = self._bound
        if block is None or self._bound_to != upstream_id:
            block = self._bound = Block([*forwarded, (h.SESSION_ID, upstream_id)])
            self._bound_to = upstream_id
        return block
