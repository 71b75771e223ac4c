"""Asking a server for its tools' annotations, which say whether a call that may have run can be sent again.

Owns the questions under way, at most one per member. Knows no call. Invariants: whoever asks is told once, within
`PATIENCE_SECONDS`, whatever the answer was; a server is only asked where a client's call has taken long enough to be
worth it, so that usual traffic passes without a request of the proxy's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.clock import run_all
from proxy.core import headers as h
from proxy.core import jsonrpc, sse
from proxy.core.headers import Body, Headers
from proxy.core.ids import RequestId
from proxy.core.jsonrpc import Kind
from proxy.core.retry import LIST_TOOLS, Tools, learn
from proxy.upstream.base import Exchange, Loss, UpstreamRequest

if TYPE_CHECKING:
    from proxy.clock import Clock, Timer
    from proxy.relay.leg import Leg
    from proxy.upstream.member import Member

CURIOUS_SECONDS = 0.2
"""A tool that has run for this long may well be interrupted: now it is good to know what kind of tool it is."""
PATIENCE_SECONDS = 2.0
"""A call whose outcome is unknown must be told so soon: longer than this nobody waits for the annotations."""
PAGES = 20
"""Pages of a list of tools that are asked for."""
ANSWER_BYTES = 4_194_304
"""A longer answer is not read."""


class Inquiries:
    """The questions of one route."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[Member, _Inquiry] = {}

    def ask(self, leg: Leg, then: Callable[[], None]) -> None:
        """Ask *leg*'s server in its upstream session, and call *then* once: `member.tools` has what was learnt."""
        inquiry = self._running.get(leg.member)
        if inquiry is None:
            inquiry = self._running[leg.member] = _Inquiry(leg, self._ended)
            inquiry.then.append(then)
            inquiry.begin()
        else:
            inquiry.then.append(then)

    def note_call(self, leg: Leg) -> None:
        """Ask in a while, if a call of this leg's session is still running then."""
        leg.member.is_curious = False
        known = leg.member.tools
        self._clock.call_later(CURIOUS_SECONDS, lambda: self._wonder(leg, known))

    def _wonder(self, leg: Leg, known: Tools | None) -> None:
        member = leg.member
        if member.tools is not known or member in self._running:
            # It was told meanwhile, or is being asked.
            return
        if leg.running > 0 and leg.is_bound(leg.binding.generation):
            self.ask(leg, _nothing)
        else:
            member.is_curious = True

    def outdate(self, member: Member) -> None:
        """Learn nothing from a question under way: the member has said that its tools changed."""
        inquiry = self._running.get(member)
        if inquiry is not None:
            inquiry.is_outdated = True

    def _ended(self, inquiry: _Inquiry) -> None:
        self._running.pop(inquiry.member, None)
        run_all(inquiry.then)


def _nothing() -> None:
    """Wait for no answer: who needs it looks it up."""


class _Inquiry:
    """One list of tools, page by page. Fulfils `upstream.base.Receiver`."""

    __slots__ = (
        "_buffer",
        "_decoder",
        "_exchange",
        "_learnt",
        "_leg",
        "_on_end",
        "_pages",
        "_request_id",
        "_size",
        "_status",
        "_timer",
        "is_outdated",
        "member",
        "then",
    )

    def __init__(self, leg: Leg, on_end: Callable[[_Inquiry], None]) -> None:
        self._leg = leg
        self.member = leg.member
        self._on_end = on_end
        self.then: list[Callable[[], None]] = []
        self._timer: Timer | None = None
        self._exchange: Exchange | None = None
        self._learnt: Tools | None = None
        self.is_outdated = False
        """Whether the answer may be from before a change."""
        self._pages = 0
        self._request_id: RequestId = ""
        self._status = 0
        self._size = 0
        self._buffer: list[bytes] = []
        self._decoder: sse.Decoder | None = None

    def begin(self) -> None:
        """Ask for the first page."""
        self._timer = self._leg.relay.ctx.clock.call_later(PATIENCE_SECONDS, self._end)
        self._ask(None)

    def _ask(self, cursor: str | None) -> None:
        leg = self._leg
        self._pages += 1
        self._status = 0
        self._size = 0
        self._buffer = []
        self._decoder = None
        self._request_id = f"mcp-session-proxy-{leg.relay.ctx.correlation_id()}"
        body = jsonrpc.request_body(self._request_id, LIST_TOOLS, {"cursor": cursor} if cursor is not None else {})
        self._exchange = leg.member.edge.send(UpstreamRequest("POST", leg.own_headers(), body, fresh=True), self)

    def on_head(self, status: int, headers: Headers) -> None:
        """The answer begins."""
        self._status = status
        if status < 300 and h.body_of(headers) is not Body.PLAIN:
            self._decoder = sse.Decoder(ANSWER_BYTES)

    def on_data(self, data: bytes) -> None:
        """A piece of it."""
        self._size += len(data)
        if self._size > ANSWER_BYTES:
            self._end()
        elif self._decoder is None:
            self._buffer.append(data)
        else:
            for frame in self._decoder.feed(data):
                if frame.data and self._is_answer(frame.data):
                    self._page(frame.data)
                    return

    def _is_answer(self, data: bytes) -> bool:
        envelope = jsonrpc.classify(data)
        return envelope.kind is Kind.RESPONSE and envelope.id == self._request_id

    def on_end(self, proven: bool) -> None:
        """The answer is over."""
        self._exchange = None
        if self._status < 300 and self._decoder is None:
            self._page(b"".join(self._buffer))
        else:
            self._end()

    def on_lost(self, loss: Loss, detail: str) -> None:
        """Nothing is learnt."""
        self._exchange = None
        self._end()

    def _page(self, body: bytes) -> None:
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None
        page = learn(body)
        if page is None:
            self._end()
            return
        self._learnt = page if self._learnt is None else self._learnt.followed_by(page)
        if page.next_cursor is not None and self._pages < PAGES:
            self._ask(page.next_cursor)
        else:
            self._end()

    def _end(self) -> None:
        """Tell who asked; what could not be learnt stays unknown, a tool that was not listed included."""
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._learnt is not None and not self.is_outdated:
                self.member.learn(self._learnt)
            self._on_end(self)
