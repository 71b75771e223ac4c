"""A call whose attempt may have run and brought no answer: whether it is sent again, and under which id.

Owns the count of repetitions and what is told when they lead nowhere. The verdict on a body is `core.retry`'s. Knows no
HTTP and no waiting. Invariant: what may have run is never said not to have run, however its repetition ended
(semantics 13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.core import jsonrpc
from proxy.core.faults import FAULTS
from proxy.core.ids import RequestId
from proxy.core.retry import Safety, may_repeat, safety_of
from proxy.observe import hooks

if TYPE_CHECKING:
    from proxy.relay.context import Context
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

UNCOUNTED = frozenset({"gateway_error"})
"""Interruptions that are waited out rather than counted: somebody says that the server is not there for the moment."""


class Repeating:
    """The repetitions of one call; made with the first interruption."""

    __slots__ = ("_count", "alias", "data", "member", "reason")

    def __init__(self, member: Member) -> None:
        self._count = 0
        self.member = member
        """Where the latest attempt may have run."""
        self.reason = ""
        """The row of the fault table that is told if no repetition is answered."""
        self.data: dict[str, Any] = {}
        self.alias: RequestId | None = None
        """The id it bears where the first attempt may still run in the same upstream session."""

    def interrupted(self, member: Member, reason: str, data: dict[str, Any]) -> None:
        """Note what interrupted the latest attempt."""
        self.member = member
        self.reason = reason
        self.data = data

    def may_go_on(self, judged: Safety, limit: int) -> bool:
        """Tell whether the call is sent again; only asked while no response of it was appended."""
        return may_repeat(judged, self._count, limit, response_appended=False)

    @property
    def is_hasty(self) -> bool:
        """Tell whether going on at once may only burn the repetitions: a pause gives the upstream, and health, time."""
        return self.reason in UNCOUNTED or self._count > 1

    def count(self) -> None:
        """Count a repetition."""
        if self.reason not in UNCOUNTED:
            self._count += 1

    def outcome(self, reason: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what is told of the call where *reason* is true of its repetition: "did not run" is not."""
        return (self.reason, self.data) if FAULTS[reason].outcome == "not_run" else (reason, data)

    def request_body(self, body: bytes, alias: RequestId | None) -> bytes:
        """Return what is sent: with *alias* in the place of the request's id, where one is needed."""
        self.alias = alias
        return body if alias is None else jsonrpc.replace_id(body, alias)


def judge(relay: SessionRelay, member: Member, body: bytes) -> Safety:
    """Tell what sending *body* a second time would do, as far as it is known."""
    return safety_of(jsonrpc.classify(body), body, member.tools, relay.ctx.policy)


def observe(ctx: Context, session: str, correlation_id: str, reason: str, member: Member) -> None:
    """Tell observers that a call is sent again; *session* is the fingerprint, empty for a call of none."""
    if ctx.observer.is_active:
        ctx.observer.call_repeated(
            hooks.CallRepeated(session=session, request_id=correlation_id, reason=reason, upstream=member.name)
        )
