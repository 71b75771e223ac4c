"""Requests whose success says something that lasts: what a rebuild must repeat, the kinds of tools, where a task runs.

Owns which they are and what is noted of them. Knows no upstream. Invariant: noted is what the upstream has accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core import jsonrpc
from proxy.core.retry import CALL_TOOL, LIST_TOOLS, learn
from proxy.relay import tasks

if TYPE_CHECKING:
    from proxy.core.ids import Generation
    from proxy.relay.leg import Leg
    from proxy.relay.session import SessionRelay

RESTORED = frozenset({"resources/subscribe", "resources/unsubscribe", "logging/setLevel"})
REMEMBERED = RESTORED | {LIST_TOOLS} | tasks.ABOUT_TASKS
"""Their answers are looked at before they are passed on, no others but those of calls that ask for a task."""
LASTING = frozenset({"notifications/tools/list_changed", tasks.STATUS})
"""Notifications that are looked at, on whatever stream they come."""
TASK = b'"task"'
"""Stands in every `tools/call` that asks for a task, and in few others."""


def remember(leg: Leg, generation: Generation, method: str | None, body: bytes, answer: bytes, about: str) -> None:
    """Note a request of these that was answered with a result; *about* is its correlation id."""
    relay = leg.relay
    if method == LIST_TOOLS:
        page = learn(answer)
        if page is not None:
            known = leg.member.tools
            leg.member.learn(page if known is None else known.followed_by(page))
    elif method == CALL_TOOL:
        tasks.begun(relay, answer, generation)
    elif method in tasks.ABOUT_TASKS:
        tasks.answered(relay, method or "", body, answer)
    else:
        _restore_later(relay, method, body, about)
        if not leg.is_present and relay.leg.is_bound(relay.leg.binding.generation):
            # Asked before the session was moved and answered after it: the present one has not heard of it.
            relay.leg.repeat(body)


def told(leg: Leg, method: str | None, data: bytes) -> None:
    """Note what the upstream says by itself."""
    if method == tasks.STATUS:
        tasks.told(leg.relay, data)
    else:
        # What was known of the tools may not hold any more.
        leg.member.forget_tools()
        leg.relay.ctx.inquiries.outdate(leg.member)


def _restore_later(relay: SessionRelay, method: str | None, body: bytes, about: str) -> None:
    if method == "logging/setLevel":
        relay.session.log_level = jsonrpc.log_level(body)
        return
    uri = jsonrpc.resource_uri(body)
    if uri is None:
        return
    if method == "resources/unsubscribe":
        relay.session.unsubscribe(uri)
    elif not relay.session.subscribe(uri, relay.ctx.session.max_subscriptions):
        relay.reject("too_many_subscriptions", about)
