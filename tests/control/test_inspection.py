"""What operators are shown, and what they may call it."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control import inspection
from proxy.control.base import ControlError
from proxy.control.inspection import find_member, find_route, find_session, page, shorten
from proxy.control.views import SessionFilter
from proxy.core.session import CloseReason
from support.fakes import initialize_body, listen, post, request_body
from support.operated import OTHER, TWO, Operated

ANY = SessionFilter()


def refused(error: pytest.ExceptionInfo[ControlError]) -> tuple[str, str]:
    """Return what was refused and in which words."""
    return error.value.code, str(error.value)


# -- sessions by name


def test_a_session_is_found_by_its_id_its_beginning_and_its_fingerprint() -> None:
    """Each of the three names one session, on whatever route it is."""
    proxy = Operated(TWO + OTHER)
    (relay,) = proxy.open("c")
    proxy.open("a", 3)

    for name in (relay.session.id, relay.session.id[:6], relay.session.id[:20], relay.fingerprint):
        assert find_session(proxy.routes, name) is relay


@pytest.mark.parametrize("name", ["", "abcde", "0123456789", "nosuchsession", "x" * 200])
def test_a_name_of_nobody_is_told(name: str) -> None:
    """There is no such session; a long name, which may be a whole id, is not repeated."""
    proxy = Operated()
    proxy.open()
    with pytest.raises(ControlError) as error:
        find_session(proxy.routes, name)

    code, words = refused(error)
    assert code == "not_found"
    assert len(words) < 80


def test_a_beginning_of_several_is_ambiguous() -> None:
    """More of the id has to be said; a whole id is never ambiguous."""
    proxy = Operated()
    one, other = proxy.open("a", 2)
    registry = proxy.served().registry
    for relay, session_id in ((one, "abcdef1"), (other, "abcdef12")):
        del registry._sessions[relay.session.id]
        relay.session.id = session_id  # type: ignore[assignment]
        registry._sessions[relay.session.id] = relay
    with pytest.raises(ControlError) as error:
        find_session(proxy.routes, "abcdef")

    assert refused(error) == ("ambiguous", "2 sessions begin with abc…: give more of the id")
    assert find_session(proxy.routes, "abcdef1") is one
    assert find_session(proxy.routes, "abcdef12") is other


def test_a_beginning_that_looks_like_a_fingerprint_is_still_a_beginning() -> None:
    """Ten digits of an id are tried as both."""
    proxy = Operated()
    (relay,) = proxy.open()
    registry = proxy.served().registry
    del registry._sessions[relay.session.id]
    relay.session.id = "0123456789abc"  # type: ignore[assignment]
    registry._sessions[relay.session.id] = relay

    assert find_session(proxy.routes, "0123456789") is relay


@given(st.text(max_size=60))
def test_what_is_shown_of_an_id_is_not_the_id(text: str) -> None:
    """At most half of it, and at most eight characters."""
    shown = shorten(text)

    assert len(shown) <= 9
    assert shown == "" if not text else shown[-1] == "…"
    assert len(shown) - 1 <= len(text) // 2 or not text


# -- lists


def test_a_list_names_no_whole_id() -> None:
    """Neither the proxy's id nor the upstream's stands in a list, or in what is asked for by a beginning."""
    proxy = Operated()
    (relay,) = proxy.open(upstream_id="upstream-session-id")
    shown = page(proxy.routes, ANY, "", 10, proxy.clock.now())
    detail = inspection.session_detail(proxy.routes, relay.session.id[:10], proxy.clock.now())

    for view in (shown, detail):
        text = msgspec.json.encode(view).decode()
        assert relay.session.id not in text
        assert "upstream-session-id" not in text
        assert "Bearer one" not in text
    assert inspection.session_detail(proxy.routes, relay.session.id, 0.0).id == relay.session.id


def test_sessions_are_listed_oldest_first_over_all_routes() -> None:
    """Page by page, each once, whatever comes and goes in between."""
    proxy = Operated(TWO + OTHER)
    relays = [relay for key in ("a", "c", "b", "a", "c") for relay in proxy.open(key)]
    first = page(proxy.routes, ANY, "", 2, proxy.clock.now())
    relays[1].close(CloseReason.DELETED)
    relays[2].close(CloseReason.DELETED)
    relays += proxy.open()
    second = page(proxy.routes, ANY, first.next, 2, proxy.clock.now())
    third = page(proxy.routes, ANY, second.next, 2, proxy.clock.now())

    prints = [view.fingerprint for shown in (first, second, third) for view in shown.sessions]
    assert prints == [relay.fingerprint for relay in (relays[0], relays[1], *relays[3:])]
    assert (first.total, second.total, third.total, third.next) == (5, 4, 4, "")


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_add_up_whatever_their_size(limit: int) -> None:
    """Of sessions opened at the same instant too."""
    proxy = Operated()
    proxy.clock.advance = lambda seconds=0.0: None  # type: ignore[method-assign]
    relays = proxy.open("a", 7)
    seen: list[str] = []
    after = ""
    while True:
        shown = page(proxy.routes, ANY, after, limit, 0.0)
        seen += [view.fingerprint for view in shown.sessions]
        after = shown.next
        if not after:
            break

    assert sorted(seen) == sorted(relay.fingerprint for relay in relays)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_bounds(limit: int) -> None:
    """From 1 to 1000."""
    with pytest.raises(ControlError, match="expected a limit from 1 to 1000") as error:
        page(Operated().routes, ANY, "", limit, 0.0)

    assert error.value.code == "invalid"


@pytest.mark.parametrize("after", ["x", "-", "1-2-3x-y", "ten-abc"])
def test_a_place_that_no_page_said_is_refused(after: str) -> None:
    """It is not guessed at."""
    with pytest.raises(ControlError, match="expected `next` of a page before"):
        page(Operated().routes, ANY, after, 1, 0.0)


def test_a_list_holds_what_was_asked_for() -> None:
    """By route, upstream (name or key), state, client and pin, each alone and together."""
    proxy = Operated(TWO + OTHER)
    a, b, c = (proxy.open(key)[0] for key in "abc")
    a.is_pinned = True
    b.park()

    def listed(**chosen: object) -> list[str]:
        shown = page(proxy.routes, SessionFilter(**chosen), "", 10, proxy.clock.now())  # type: ignore[arg-type]
        assert shown.total == len(shown.sessions)
        names = {relay.fingerprint: name for relay, name in ((a, "a"), (b, "b"), (c, "c"))}
        return [names[view.fingerprint] for view in shown.sessions]

    assert listed() == ["a", "b", "c"]
    assert listed(route="other") == ["c"]
    assert listed(upstream="b") == ["b"]
    assert listed(state="unbound") == ["b"]
    assert listed(is_pinned=True) == ["a"]
    assert listed(is_pinned=False) == ["b", "c"]
    assert listed(client="TEST") == ["a", "b", "c"]
    assert listed(client="other") == []
    assert listed(route="main", state="bound") == ["a"]


@pytest.mark.parametrize(
    ("body", "client"),
    [
        (initialize_body(), "test 1"),
        (b'{"params":{"clientInfo":{"name":"only"}}}', "only"),
        (b'{"params":{"clientInfo":{"name":7,"version":"2"}}}', "2"),
        (b'{"params":{"clientInfo":7}}', ""),
        (b'{"params":{}}', ""),
        (b"{}", ""),
        (b"not json", ""),
    ],
    ids=range(7),
)
def test_a_client_is_called_what_it_called_itself(body: bytes, client: str) -> None:
    """As far as it did."""
    (relay,) = Operated().open()
    relay.session.handshake = msgspec.structs.replace(relay.session.handshake, body=body)

    assert inspection.client_of(relay) == client


# -- one session


def test_a_session_is_shown_with_all_that_runs() -> None:
    """Its calls, its streams, its bindings, and what a rebuild would restore."""
    proxy = Operated()
    (relay,) = proxy.open(upstream_id="upstream-session-id")
    listen(relay)
    post(relay, request_body("tools/call", 7, {"name": "t"}))
    post(relay, b"[" + request_body("ping", 8) + b"," + request_body("ping", 9) + b"]")
    relay.session.subscribe("file:///a", 10)
    relay.session.log_level = "debug"
    relay.session.tasks = {"t": relay.session.binding.generation}
    proxy.clock.advance(2.0)
    detail = inspection.session_detail(proxy.routes, relay.fingerprint, proxy.clock.now())

    assert (detail.route, detail.upstream, detail.state, detail.generation) == ("main", "a", "bound", 1)
    assert (detail.client, detail.protocol_version) == ("test 1", "2025-11-25")
    assert (detail.age_seconds, detail.idle_seconds) == (2.0, 0.0)
    assert (detail.subscriptions, detail.log_level, detail.tasks) == (1, "debug", 1)
    assert detail.streams >= 1
    assert detail.buffered_bytes == relay.log.size  # type: ignore[attr-defined]
    assert [msgspec.to_builtins(leg) for leg in detail.legs] == [
        {"upstream": "a", "generation": 1, "state": "bound", "calls": relay.leg.running, "upstream_id": "upstream…"}
    ]
    assert {call["request_id"] for call in detail.running} == set(relay.calls)
    first = detail.running[0]
    assert first == {
        "request_id": 7, "method": "tools/call", "upstream": "a", "generation": 1, "silent_seconds": 2.0,
        "state": "sent",
    }  # fmt: skip


def test_an_idle_session_says_for_how_long() -> None:
    """Without calls and readers it rests."""
    proxy = Operated()
    (relay,) = proxy.open()
    proxy.clock.advance(30.0)
    detail = inspection.session_detail(proxy.routes, relay.session.id, proxy.clock.now())

    assert (detail.idle_seconds, detail.calls, detail.running, detail.tasks) == (30.0, 0, [], 0)
    assert not detail.is_moving


def test_a_call_that_waits_is_nowhere() -> None:
    """While the session has no upstream session its call is sent to nobody, and has not been silent."""
    proxy = Operated()
    (relay,) = proxy.open()
    relay.park()
    post(relay, request_body("ping", 1))
    (call,) = inspection.session_detail(proxy.routes, relay.session.id, proxy.clock.now()).running

    assert (call["state"], call["silent_seconds"], call["upstream"]) == ("waiting", None, "")


# -- upstreams and routes


def test_an_upstream_is_found_by_key_name_and_url() -> None:
    """On whatever route it is, unless a route is named."""
    proxy = Operated(TWO + OTHER)
    for name in ("c", "http://c.test/mcp"):
        served, member = find_member(proxy.routes, name)
        assert (served.config.name, member.key) == ("other", "c")
    assert find_member(proxy.routes, "c", "other")[1].key == "c"
    for name, route in (("c", "main"), ("d", ""), ("http://d.test/mcp", "")):
        with pytest.raises(ControlError, match=f"there is no upstream {name}") as error:
            find_member(proxy.routes, name, route)
        assert error.value.code == "not_found"


def test_who_takes_sessions_is_meant_before_who_does_not() -> None:
    """After a swap the name is the new one's; the old one is still found by its URL."""
    proxy = Operated()
    pool, old = proxy.pool(), proxy.member("a")
    new = pool.add(replace(old.config, url="http://new.test/mcp"))
    assert find_member(proxy.routes, "a")[1] is old, "while both take sessions a key says which"
    assert find_member(proxy.routes, "a~2")[1] is new
    pool.drain(old)

    assert find_member(proxy.routes, "a")[1] is new
    assert find_member(proxy.routes, "http://a.test/mcp")[1] is old


def test_a_name_of_both_sides_of_a_swap_means_the_one_that_was_there_first() -> None:
    """Also when neither has it for its key any more: the words that began a canary go on with it."""
    proxy = Operated()
    pool = proxy.pool()
    second = pool.add(replace(proxy.member("a").config, url="http://second.test/mcp"))
    pool.remove(proxy.member("a"))
    third = pool.add(replace(second.config, url="http://third.test/mcp"))

    assert [member.key for member in (second, third)] == ["a~2", "a~3"]
    assert find_member(proxy.routes, "a")[1] is second


def test_a_url_of_several_is_ambiguous() -> None:
    """Their keys are told."""
    proxy = Operated()
    proxy.pool().add(replace(proxy.member("a").config, name="twin"))
    with pytest.raises(ControlError, match="http://a.test/mcp is each of a, twin: say which") as error:
        find_member(proxy.routes, "http://a.test/mcp")

    assert error.value.code == "ambiguous"


def test_the_only_route_needs_no_name() -> None:
    """With several, one has to be said; one that is being removed is found by its name alone."""
    one, two = Operated(), Operated(TWO + OTHER)
    assert find_route(one.routes, "").config.name == "main"
    assert find_route(two.routes, "other").config.name == "other"
    for name, code in (("", "ambiguous"), ("third", "not_found")):
        with pytest.raises(ControlError) as error:
            find_route(two.routes, name)
        assert error.value.code == code
    two.routes.retire(two.served("other"))

    assert find_route(two.routes, "").config.name == "main"
    assert find_route(two.routes, "other").is_retiring


def test_an_upstream_is_shown_with_its_health_and_its_load() -> None:
    """Without the headers that are sent to it."""
    proxy = Operated(
        TWO.replace('url = "http://a.test/mcp"', 'url = "http://a.test/mcp"\nheaders = {X-Key = "secret"}')
    )
    proxy.open("a", 2)
    member = proxy.member("a")
    member.gate.running = 3
    member.refused()
    proxy.clock.advance(1.0)
    proxy.pool().share(member, proxy.member("b"), 30)
    view = inspection.upstream_view(proxy.served(), member, proxy.clock.now())

    assert (view.name, view.key, view.route, view.url, view.state) == ("a", "a", "main", "http://a.test/mcp", "active")
    assert (view.health, view.reason) == ("failing", "unreachable")
    assert view.since_seconds == pytest.approx(1.002)
    assert (view.sessions, view.calls, view.queued, view.weight, view.share_percent) == (2, 3, 0, 1, 70)
    assert "secret" not in msgspec.json.encode(view).decode()


def test_a_route_is_shown_with_its_upstreams() -> None:
    """And with how many sessions it has."""
    proxy = Operated(TWO + OTHER)
    proxy.open("a", 2)
    view = inspection.route_view(proxy.served(), proxy.clock.now())

    assert (view.name, view.path, view.host, view.policy, view.sessions) == ("main", "/mcp", "", "least_sessions", 2)
    assert [upstream.key for upstream in view.upstreams] == ["a", "b"]
    assert not view.is_panicking
