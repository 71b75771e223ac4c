"""Requests whose success a rebuild must repeat: what a session subscribes to and at which level it is logged.

Owns which they are and what is noted of them. Knows no upstream. Invariant: noted is what the upstream has accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core import jsonrpc

if TYPE_CHECKING:
    from proxy.relay.session import SessionRelay

REMEMBERED = frozenset({"resources/subscribe", "resources/unsubscribe", "logging/setLevel"})
"""Their answers are looked at before they are passed on, no others."""


def remember(relay: SessionRelay, method: str | None, body: bytes, correlation_id: str) -> None:
    """Note a request of these that was answered with a result."""
    if method == "logging/setLevel":
        relay.session.log_level = jsonrpc.log_level(body)
        return
    uri = jsonrpc.resource_uri(body)
    if uri is None:
        return
    if method == "resources/unsubscribe":
        relay.session.unsubscribe(uri)
    elif not relay.session.subscribe(uri, relay.ctx.session.max_subscriptions):
        relay.reject("too_many_subscriptions", correlation_id)
