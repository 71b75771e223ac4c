"""The dual map: the client's session id to the upstream's, and back.

Owns both directions and keeps them in step; knows nothing else of a session. Invariant: the reverse direction names
at most one session per upstream id, the one that was bound to it last, and never one that is not bound to it.
"""

import msgspec
from mypy_extensions import mypyc_attr

from proxy.core.ids import Generation, SessionId, UpstreamSessionId


@mypyc_attr(native_class=False)
class Bound(msgspec.Struct, frozen=True, gc=False):
    """Where a session is bound."""

    upstream: str
    upstream_id: UpstreamSessionId | None
    """None for an upstream that issues no ids."""
    generation: Generation


class IdMap:
    """Own id ↔ (upstream, upstream's id or none, generation). As large as there are sessions, which are bounded."""

    def __init__(self) -> None:
        self._bound: dict[SessionId, Bound] = {}
        self._owners: dict[tuple[str, UpstreamSessionId], SessionId] = {}

    def __len__(self) -> int:
        """Count the bound sessions."""
        return len(self._bound)

    def bind(
        self,
        session_id: SessionId,
        upstream: str,
        upstream_id: UpstreamSessionId | None,
        generation: Generation,
    ) -> None:
        """Enter a binding, in place of the session's former one."""
        self.unbind(session_id)
        self._bound[session_id] = Bound(upstream, upstream_id, generation)
        if upstream_id is not None:
            self._owners[upstream, upstream_id] = session_id

    def unbind(self, session_id: SessionId) -> None:
        """Take the session's binding out, if it has one."""
        bound = self._bound.pop(session_id, None)
        if bound is None or bound.upstream_id is None:
            return
        key = bound.upstream, bound.upstream_id
        # A server that hands one id to two sessions: the later one keeps it.
        if self._owners.get(key) == session_id:
            del self._owners[key]

    def upstream_of(self, session_id: SessionId) -> Bound | None:
        """Return where a session is bound."""
        return self._bound.get(session_id)

    def session_of(self, upstream: str, upstream_id: UpstreamSessionId) -> SessionId | None:
        """Return the session that is bound to an upstream session."""
        return self._owners.get((upstream, upstream_id))
