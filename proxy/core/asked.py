"""What the upstream has asked the client and not been answered yet.

Owns the ids the client sees, and whose each is. Knows no binding. Invariant: an id that the client saw and has not
answered names one request of one generation (semantics 15).
"""

from collections import OrderedDict

from proxy.core.ids import Generation, RequestId

SERVER_REQUESTS = 1_024
"""Unanswered server requests one session remembers; the oldest is forgotten first."""


class ServerRequests:
    """Requests of the upstream that the client has not answered yet, keyed by the id the client saw.

    Invariant: an id that the client saw and has not answered names one request of one generation (semantics 15).
    """

    __slots__ = ("_open", "_renamed", "_tokens")

    def __init__(self) -> None:
        self._open: OrderedDict[RequestId, tuple[Generation, RequestId]] = OrderedDict()
        self._tokens: dict[RequestId, RequestId] = {}
        """The progress token of each that has one."""
        self._renamed = 0

    def admit(self, upstream_id: RequestId, generation: Generation, token: RequestId | None = None) -> RequestId:
        """Record a server request and return the id to show the client: another one only where two could meet.

        *token* is the one it wants its progress under.
        """
        owner = (generation, upstream_id)
        shown = upstream_id
        if self._open.get(shown, owner) != owner:
            for candidate, other in self._open.items():
                if other == owner:
                    return candidate
            # A loop, because an upstream may use such names itself.
            while shown in self._open:
                self._renamed += 1
                shown = f"mcp-session-proxy-{generation}-{self._renamed}"
        self._open[shown] = owner
        if token is not None:
            self._tokens[shown] = token
        if len(self._open) > SERVER_REQUESTS:
            forgotten, _ = self._open.popitem(last=False)
            self._tokens.pop(forgotten, None)
        return shown

    def owner_of_progress(self, token: RequestId) -> Generation | None:
        """Return the generation that wants to hear of progress under *token*; None where none does, or two do."""
        owners = {self._open[shown][0] for shown, own in self._tokens.items() if own == token}
        return owners.pop() if len(owners) == 1 else None

    def close(self, generation: Generation) -> None:
        """Let what is open of *generation* go nowhere; its ids stay taken until they are answered."""
        for shown, (owner, upstream_id) in self._open.items():
            if owner == generation:
                self._open[shown] = (Generation(0), upstream_id)

    def answer(self, shown: RequestId) -> tuple[Generation, RequestId] | None:
        """Take out what the client answers; None when no such request is open."""
        self._tokens.pop(shown, None)
        return self._open.pop(shown, None)
