"""How a call's broken upstream stream is asked for again.

Owns the upstream's cursor, its `retry`, and the count of attempts; makes the GET. Knows no client and no session.
Invariant: without a usable cursor, or after `resume_attempts` attempts that brought nothing, there is no next one.
"""

from proxy.core import headers as h
from proxy.core import jsonrpc, sse
from proxy.core.cursor import upstream_cursor
from proxy.core.headers import Headers
from proxy.core.ids import RequestId
from proxy.core.replay import Stream
from proxy.upstream.base import UpstreamRequest

LONGEST_RETRY_SECONDS = 60.0
"""An upstream's `retry` beyond this is not waited for: the client would hear nothing of its call meanwhile."""
MAX_WINDOW_BYTES = 1 << 40
"""The window is read back whole; what bounds it is the log."""
DEFAULT_RETRY_SECONDS = 1.0
"""Waited after a clean end where the upstream named no `retry`, as the official clients do."""


class Resumption:
    """The cursor of one call's upstream stream and what may be done with it."""

    __slots__ = ("_progress", "_retry_seconds", "attempts", "is_resumed", "last_id", "may_repeat")

    def __init__(self) -> None:
        self.last_id: bytes | None = None
        """The upstream's event id that came last, as it came."""
        self._retry_seconds = DEFAULT_RETRY_SECONDS
        self.attempts = 0
        """Made since the last event."""
        self._progress: dict[RequestId, float] | None = None
        """The last delivered progress of each token; read from the window when first asked for."""
        self.is_resumed = False
        """Whether the present upstream stream is a resumed one, which may repeat frames."""
        self.may_repeat = False
        """Whether progress may come that was told before."""

    def resumed(self) -> None:
        """Note that the present upstream stream is a resumed one."""
        self.is_resumed = self.may_repeat = True

    def start_over(self) -> None:
        """Forget the upstream stream: the request is sent again, and what its progress tells may have been told."""
        self.last_id = None
        self._retry_seconds = DEFAULT_RETRY_SECONDS
        self.attempts = 0
        self.is_resumed = False
        self.may_repeat = True

    def note(self, frame: sse.Frame) -> None:
        """Take a frame's id and `retry`; an id is progress, so the attempts count anew."""
        if frame.id is not None:
            # Kept as it came: whether it can be sent back is asked when it has to be.
            self.last_id = frame.id
            self.attempts = 0
        if frame.retry is not None:
            self._retry_seconds = min(frame.retry / 1000, LONGEST_RETRY_SECONDS)

    def is_stale(self, stream: Stream, data: bytes) -> bool:
        """Tell whether a progress notification repeats what *stream* delivered, under another event id.

        "The progress value MUST increase with each notification" (progress, 2025-11-25): one that does not is a
        repeat, and dropped (semantics 13).
        """
        told = jsonrpc.progress_of(data)
        if told is None:
            return False
        if self._progress is None:
            self._progress = {}
            window = b"".join(part for entry in stream.entries or () for part in entry.parts)
            for frame in sse.Decoder(MAX_WINDOW_BYTES).feed(window):
                delivered = jsonrpc.progress_of(frame.data) if frame.data else None
                if delivered is not None:
                    self._progress[delivered[0]] = delivered[1]
        token, value = told
        last = self._progress.get(token)
        if last is not None and value <= last:
            return True
        self._progress[token] = value
        return False

    @property
    def is_possible(self) -> bool:
        """Tell whether there is a cursor to ask with."""
        return self._cursor is not None

    @property
    def _cursor(self) -> str | None:
        return upstream_cursor(self.last_id) if self.last_id is not None else None

    def next_delay(self, *, is_clean: bool, attempts: int, shortest: float) -> float | None:
        """Count an attempt and return how long to wait for it; None when there is no next one.

        Args:
            is_clean: the stream ended at a frame boundary, which invites to come back after `retry` (2025-11-25).
            attempts: how many in a row may bring nothing.
            shortest: the first delay after a cut, in seconds; it grows with every attempt.
        """
        if self._cursor is None or self.attempts >= attempts:
            return None
        self.attempts += 1
        return self._retry_seconds if is_clean else shortest * self.attempts

    def request(self, headers: Headers) -> UpstreamRequest | None:
        """Return the GET that asks for what follows the cursor; *headers* are taken over."""
        cursor = self._cursor
        if cursor is None:
            return None
        headers.append((h.LAST_EVENT_ID, cursor))
        return UpstreamRequest("GET", headers, b"", fresh=True)
