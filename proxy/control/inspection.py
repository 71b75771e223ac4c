"""What is there, as operators are shown it: sessions, upstreams, routes.

Owns the look-ups by what people type, and the making of views. Changes nothing. Invariant: no credential leaves this
module, and no whole session id but the one that was asked with.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxy.control.base import ControlError
from proxy.control.views import (
    LegView,
    RouteView,
    SessionDetail,
    SessionFilter,
    SessionPage,
    SessionView,
    UpstreamView,
)
from proxy.core import sse
from proxy.observe.hooks import Fingerprint
from proxy.relay.session import SessionRelay
from proxy.store.memory import MemoryLog
from proxy.upstream.member import MemberState

if TYPE_CHECKING:
    from proxy.relay.leg import Leg
    from proxy.routes import RouteTable, Served
    from proxy.upstream.member import Member

IS_COMPILED: Final = not sse.__file__.endswith(".py")
"""Whether what a call passes through runs compiled (native.py) or from its sources."""
SHORTEST_PREFIX = 6
"""Characters of a session id that name it, where no other begins so."""
SHOWN_CHARACTERS = 8
"""Of an id; of 192 bits it leaves 144 unsaid."""
MOST_ON_A_PAGE = 1000


class _ClientInfo(msgspec.Struct):
    name: Any = ""
    version: Any = ""


class _Params(msgspec.Struct, rename="camel"):
    client_info: _ClientInfo | None = None


class _Opening(msgspec.Struct):
    params: _Params | None = None


_decode_opening = msgspec.json.Decoder(_Opening).decode


# -- sessions


def find_session(routes: RouteTable, wanted: str) -> SessionRelay:
    """Return the session of a whole id, a fingerprint, or at least 6 first characters of an id.

    Raises:
        ControlError: there is none, or several.
    """
    for served in routes.routes:
        found = served.registry.find(wanted)
        if isinstance(found, SessionRelay):
            return found
    if Fingerprint.is_fingerprint(wanted):
        by_print = [relay for relay in _all(routes) if relay.fingerprint == wanted]
        if by_print:
            return _only(by_print, wanted)
    if len(wanted) < SHORTEST_PREFIX:
        raise ControlError("not_found", f"there is no session {wanted}: give {SHORTEST_PREFIX} characters or more")
    return _only([relay for relay in _all(routes) if relay.session.id.startswith(wanted)], wanted)


def _only(found: Sequence[SessionRelay], wanted: str) -> SessionRelay:
    if not found:
        # Not what was typed as a whole: it may be an id of another process.
        raise ControlError("not_found", f"there is no session {shorten(wanted)}")
    if len(found) > 1:
        raise ControlError("ambiguous", f"{len(found)} sessions begin with {shorten(wanted)}: give more of the id")
    return found[0]


def _all(routes: RouteTable) -> Iterator[SessionRelay]:
    for served in routes.routes:
        yield from served.registry.relays


def page(routes: RouteTable, chosen: SessionFilter, after: str, limit: int, now: float) -> SessionPage:
    """Return a part of the sessions, oldest first.

    Raises:
        ControlError: *limit* is not from 1 to 1000, or *after* is not what a page said.
    """
    if not 1 <= limit <= MOST_ON_A_PAGE:
        raise ControlError("invalid", f"expected a limit from 1 to {MOST_ON_A_PAGE}, got {limit}")
    place = _place_after(after)
    total = 0
    following: list[tuple[tuple[float, str], Served, SessionRelay]] = []
    for served in routes.routes:
        for relay in served.registry.relays:
            if _fits(served, relay, chosen):
                total += 1
                key = relay.opened_at, relay.fingerprint
                if key > place:
                    following.append((key, served, relay))
    shown = heapq.nsmallest(limit, following, key=lambda each: each[0])
    is_last = len(shown) == len(following)
    return SessionPage(
        sessions=[session_view(served, relay, now) for _, served, relay in shown],
        total=total,
        next="" if is_last else f"{shown[-1][0][0]!r}-{shown[-1][0][1]}",
    )


def _place_after(after: str) -> tuple[float, str]:
    if not after:
        return float("-inf"), ""
    instant, _, fingerprint = after.rpartition("-")
    try:
        return float(instant), fingerprint
    except ValueError:
        raise ControlError("invalid", "expected `next` of a page before") from None


def _fits(served: Served, relay: SessionRelay, chosen: SessionFilter) -> bool:
    member = relay.leg.member
    return (
        chosen.route in ("", served.config.name)
        and chosen.upstream in ("", member.name, member.key)
        and chosen.state in ("", relay.session.binding.state.value)
        and chosen.is_pinned in (None, relay.is_pinned)
        # Last, because it reads the handshake.
        and (not chosen.client or chosen.client.lower() in client_of(relay).lower())
    )


def client_of(relay: SessionRelay) -> str:
    """Return the name and the version that a client gave."""
    try:
        params = _decode_opening(relay.session.handshake.body).params
    except (ValueError, RecursionError):
        return ""
    if params is None or params.client_info is None:
        return ""
    parts = (params.client_info.name, params.client_info.version)
    return " ".join(part for part in parts if isinstance(part, str) and part)


def session_view(served: Served, relay: SessionRelay, now: float, wanted: str = "") -> SessionView:
    """Return one session as it stands in a list; *wanted*: what it was asked by."""
    return SessionView(**_session_facts(served, relay, now, wanted))


def _session_facts(served: Served, relay: SessionRelay, now: float, wanted: str) -> dict[str, Any]:
    session = relay.session
    return {
        "id": session.id if wanted == session.id else shorten(session.id),
        "fingerprint": relay.fingerprint,
        "route": served.config.name,
        "upstream": relay.leg.member.key,
        "state": session.binding.state.value,
        "generation": session.binding.generation,
        "protocol_version": session.handshake.version,
        "client": client_of(relay),
        "age_seconds": now - relay.opened_at,
        "idle_seconds": 0.0 if relay.is_active else now - relay.last_active,
        # By call, not by request id: a batch is one.
        "calls": len(set(relay.calls.values())),
        "streams": len(relay.readers),
        "is_pinned": relay.is_pinned,
        "is_moving": relay.moving is not None,
    }


def session_detail(routes: RouteTable, wanted: str, now: float) -> SessionDetail:
    """Return one session as it is looked at closely.

    Raises:
        ControlError: there is none, or several.
    """
    relay = find_session(routes, wanted)
    session = relay.session
    return SessionDetail(
        **_session_facts(serving(routes, relay), relay, now, wanted),
        legs=[_leg_view(leg) for leg in (*relay.older, relay.leg)],
        running=_running(relay, now),
        subscriptions=len(session.subscriptions or ()),
        log_level=session.log_level or "",
        tasks=session.running_tasks,
        buffered_bytes=relay.log.size if isinstance(relay.log, MemoryLog) else 0,
    )


def serving(routes: RouteTable, relay: SessionRelay) -> Served:
    """Return the route that serves a session."""
    return next(served for served in routes.routes if served.registry.ctx is relay.ctx)


def _leg_view(leg: Leg) -> LegView:
    return LegView(
        upstream=leg.member.key,
        generation=leg.binding.generation,
        state=leg.binding.state.value,
        calls=leg.running,
        upstream_id=shorten(leg.binding.upstream_id or ""),
    )


def _running(relay: SessionRelay, now: float) -> list[dict[str, Any]]:
    running = []
    for request_id, call in relay.calls.items():
        leg = relay.leg_of(call.generation)
        is_sent = leg is not None and bool(call.generation)
        running.append(
            {
                "request_id": request_id,
                "method": call.method or "batch",
                "upstream": leg.member.key if leg is not None else "",
                "generation": call.generation,
                "silent_seconds": now - call.last_bytes if is_sent else None,
                "state": call.state.value,
            }
        )
    return running


def shorten(text: str) -> str:
    """Return the beginning of an id: never more than half of it."""
    return text[: min(SHOWN_CHARACTERS, len(text) // 2)] + "…" if text else ""


# -- upstreams and routes


_BY_NAME = 1
"""Second of the three ways in which a member can be named."""


def find_member(routes: RouteTable, wanted: str, route: str = "") -> tuple[Served, Member]:
    """Return the member of a key, a name or a URL, in that order; those that take sessions before the others.

    Raises:
        ControlError: there is none, or several.
    """
    here = [
        (served, member)
        for served in (routes.routes if not route else [find_route(routes, route)])
        for member in served.registry.ctx.pool.members
    ]
    active = [each for each in here if each[1].state is MemberState.ACTIVE]
    for members in (active, here):
        for way in range(3):
            found = [each for each in members if _names_of(each[1])[way] == wanted]
            if len(found) > 1 and not (way == _BY_NAME and _is_one_name(found)):
                keys = ", ".join(member.key for _, member in found)
                raise ControlError("ambiguous", f"{wanted} is each of {keys}: say which")
            if found:
                return found[0]
    raise ControlError("not_found", f"there is no upstream {wanted}" + (f" in route {route}" if route else ""))


def _is_one_name(found: list[tuple[Served, Member]]) -> bool:
    """Tell whether these are one pool's: a swap's newcomer has the name of whom it follows.

    Until that one is gone the name means the one that was there first, so that the words that began a canary go on
    with it.
    """
    return all(served is found[0][0] for served, _ in found)


def _names_of(member: Member) -> tuple[str, str, str]:
    return member.key, member.name, member.config.url


def find_route(routes: RouteTable, wanted: str) -> Served:
    """Return a route by its name; for the empty one the only route there is.

    Raises:
        ControlError: there is none, or no name was given and there are several.
    """
    serving_now = [served for served in routes.routes if not served.is_retiring]
    if not wanted:
        if len(serving_now) != 1:
            names = ", ".join(served.config.name for served in serving_now)
            raise ControlError("ambiguous", f"there are several routes, say which: {names}")
        return serving_now[0]
    for served in (*serving_now, *routes.routes):
        if served.config.name == wanted:
            return served
    raise ControlError("not_found", f"there is no route {wanted}")


def upstream_view(served: Served, member: Member, now: float) -> UpstreamView:
    """Return one member as people see it."""
    config = member.config
    return UpstreamView(
        name=member.name,
        key=member.key,
        route=served.config.name,
        url=config.url,
        state=member.state.value,
        health=member.condition,
        reason=member.health.reason,
        since_seconds=now - member.health.since,
        weight=config.weight,
        labels=dict(config.labels),
        sessions=member.sessions,
        calls=member.gate.running,
        queued=len(member.gate),
        share_percent=served.registry.ctx.pool.share_of(member),
    )


def upstream_views(routes: Iterable[Served], now: float) -> list[UpstreamView]:
    """Return the members of some routes."""
    return [upstream_view(served, member, now) for served in routes for member in served.registry.ctx.pool.members]


def route_view(served: Served, now: float) -> RouteView:
    """Return one route as people see it."""
    config, registry = served.config, served.registry
    return RouteView(
        name=config.name,
        path=config.path,
        host=config.host,
        policy=config.policy,
        sessions=len(registry),
        is_panicking=registry.ctx.pool.is_panicking,
        upstreams=upstream_views([served], now),
    )
