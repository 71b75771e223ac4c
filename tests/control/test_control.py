"""All an operator can do: what it changes, and what is refused before anything is changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

import native
from proxy.control.base import ControlError
from proxy.control.views import AddUpstream, JobView, SessionFilter, SwapRequest
from proxy.errors import ProxyError
from proxy.upstream.member import MemberState
from support.fakes import post, request_body
from support.operated import OTHER, TWO, Operated

NEW = "http://new.test/mcp"
ALONE = TWO.partition('[[routes.upstreams]]\nname = "b"')[0]


def refused(change: Callable[[], Any]) -> tuple[str, str]:
    """Return the code and the words of a refusal."""
    with pytest.raises(ControlError) as error:
        change()
    return error.value.code, str(error.value)


def state(proxy: Operated, job: JobView) -> str:
    """Return where a job is by now."""
    proxy.clock.advance(0.2)
    return proxy.control.job(job.id).state


def swapped(proxy: Operated, old: str = "a", new: str = NEW, **more: Any) -> JobView:
    """Ask for a swap whose comparison finds nothing."""
    job = proxy.control.swap_upstream(SwapRequest(old=old, new=new, **more))
    for url in ("http://a.test/mcp", "http://b.test/mcp", new):
        proxy.answer_comparison(url)
    proxy.clock.advance()
    return job


# -- at a glance


async def test_the_process_is_shown_at_a_glance() -> None:
    """Its routes, its load, its jobs under way and its counters."""
    proxy = Operated(TWO + OTHER)
    relay, _ = proxy.open("a", 2)
    proxy.open("c")
    post(relay, request_body("tools/call", 1))
    proxy.clock.advance(5.0)
    swapped(proxy)
    status = proxy.control.status()

    assert (status.sessions, status.calls, status.streams) == (3, 1, 1), "a slow call has got a stream"
    assert status.bound_sessions == len(proxy.ids)
    assert [route.name for route in status.routes] == ["main", "other"]
    assert [job.kind for job in status.jobs] == ["swap"]
    assert status.counters == {"sessions": 2, "seconds_total": 1}
    assert status.uptime_seconds == pytest.approx(5.003)
    assert not status.is_draining
    assert status.version
    assert status.is_compiled == any(native.compiled())
    assert status.pid


def test_a_proxy_is_ready_while_it_can_serve() -> None:
    """Not while it goes, and not when no upstream of any route is well; one dark route is told and no reason."""
    proxy = Operated(TWO + OTHER)
    assert msgspec.to_builtins(proxy.control.readiness()) == {"is_ready": True, "reasons": []}
    proxy.member("c").state = MemberState.DRAINING
    assert msgspec.to_builtins(proxy.control.readiness()) == {
        "is_ready": True, "reasons": ["route other: no upstream is well"],
    }  # fmt: skip
    proxy.member("a").state = proxy.member("b").state = MemberState.DRAINING
    assert not proxy.control.readiness().is_ready
    proxy.served().registry.is_draining = True
    assert proxy.control.readiness().reasons == ["the process is going"]
    assert proxy.control.status().is_draining


# -- sessions


def test_sessions_are_looked_at() -> None:
    """As a list and one by one; a session that is not there is told."""
    proxy = Operated()
    relay, _ = proxy.open("a", 2)

    assert proxy.control.sessions(SessionFilter(), "", 1).total == 2
    assert proxy.control.session(relay.fingerprint).upstream == "a"
    assert refused(lambda: proxy.control.session("nobody-here"))[0] == "not_found"


def test_a_session_is_closed() -> None:
    """It is gone, and its upstream is told."""
    proxy = Operated()
    (relay,) = proxy.open(upstream_id="theirs")
    proxy.control.close_session(relay.fingerprint)

    assert len(proxy.served().registry) == 0
    assert proxy.edge("a").one(method="DELETE").upstream_id == "theirs"


def test_a_session_is_moved_where_it_is_told_to() -> None:
    """Its next request goes there."""
    proxy = Operated()
    relay, other = proxy.open("a", 2)
    job = proxy.control.move_session(relay.session.id, "b")
    proxy.serve("b")

    assert state(proxy, job) == "done"
    assert (job.kind, job.old, job.new) == ("move", "a", "b")
    assert (relay.leg.member.key, other.leg.member.key) == ("b", "a")
    assert refused(lambda: proxy.control.move_session(relay.session.id, "b")) == (
        "conflict", "the session is on b already: a refresh makes it anew there",
    )  # fmt: skip


def test_a_session_is_moved_where_the_pool_chooses() -> None:
    """For no name another member is chosen, if there is one."""
    proxy, alone = Operated(), Operated(ALONE)
    (relay,), (lonely,) = proxy.open("a"), alone.open("a")
    proxy.control.move_session(relay.session.id, "")
    proxy.serve("b")

    assert relay.leg.member.key == "b"
    assert refused(lambda: alone.control.move_session(lonely.session.id, "")) == (
        "conflict", "there is no upstream besides a in route main",
    )  # fmt: skip


def test_a_session_does_not_cross_routes() -> None:
    """An upstream of another route is none of its own."""
    proxy = Operated(TWO + OTHER)
    (relay,) = proxy.open("a")

    assert refused(lambda: proxy.control.move_session(relay.session.id, "c")) == (
        "not_found", "there is no upstream c in route main",
    )  # fmt: skip


def test_a_session_is_refreshed_where_it_is() -> None:
    """It gets a new upstream session, and keeps everything else."""
    proxy = Operated()
    (relay,) = proxy.open()
    job = proxy.control.refresh_session(relay.session.id)
    proxy.serve("a")

    assert state(proxy, job) == "done"
    assert (relay.leg.member.key, relay.session.binding.generation) == ("a", 2)


def test_a_session_that_may_not_move_is_not_moved() -> None:
    """Neither a pinned one, nor one that is on its way, nor to where nobody goes any more."""
    proxy = Operated()
    relay, busy, free = proxy.open("a", 3)
    proxy.control.pin_session(relay.session.id, is_pinned=True)
    assert relay.is_pinned
    for change in (proxy.control.refresh_session, lambda name: proxy.control.move_session(name, "b")):
        assert refused(lambda change=change: change(relay.session.id)) == (  # type: ignore[misc]
            "conflict", "the session is pinned: unpin it first",
        )  # fmt: skip
    proxy.control.pin_session(relay.session.id, is_pinned=False)
    assert not relay.is_pinned
    proxy.control.move_session(busy.session.id, "b")
    assert refused(lambda: proxy.control.refresh_session(busy.session.id))[1] == "the session is being moved"
    proxy.pool().drain(proxy.member("b"))

    assert refused(lambda: proxy.control.move_session(free.session.id, "b"))[1] == "b is being drained"
    assert len(proxy.control.jobs()) == 1


def test_a_sessions_calls_are_interrupted() -> None:
    """Each is cancelled, and their number told."""
    proxy = Operated()
    (relay,) = proxy.open()
    sinks = [post(relay, request_body("tools/call", number)) for number in (1, 2)]

    assert proxy.control.interrupt_session(relay.session.id) == 2
    assert proxy.control.interrupt_session(relay.session.id) == 0
    assert all(sink.is_over for sink in sinks)


# -- upstreams


def test_upstreams_are_looked_at() -> None:
    """Of a route, of all, and one by one."""
    proxy = Operated(TWO + OTHER)

    assert [view.key for view in proxy.control.upstreams("")] == ["a", "b", "c"]
    assert [view.key for view in proxy.control.upstreams("other")] == ["c"]
    assert proxy.control.upstream("c").route == "other"
    assert refused(lambda: proxy.control.upstreams("third"))[0] == "not_found"


def test_an_upstream_is_added() -> None:
    """With what was said of it, and what the configuration says of all."""
    proxy = Operated('[upstream]\nkeepalive_seconds = 1.0\nweight = 2\nlabels = {team = "x"}\n' + TWO)
    view = proxy.control.add_upstream(AddUpstream(url=NEW, weight=5, headers={"X-Key": "1"}))
    config = proxy.member("main-1").config

    assert (view.name, view.url, view.weight, view.labels) == ("main-1", NEW, 5, {"team": "x"})
    assert (config.headers, config.keepalive_seconds) == ((("X-Key", "1"),), 1.0)
    assert proxy.control.add_upstream(AddUpstream(url=NEW, name="named")).weight == 2
    assert proxy.control.add_upstream(AddUpstream(url=NEW)).name == "main-2"


def test_an_upstream_that_cannot_be_added_is_refused() -> None:
    """A taken name, an unusable URL, no such route, or one that goes."""
    proxy = Operated(TWO + OTHER)
    add = proxy.control.add_upstream
    assert refused(lambda: add(AddUpstream(url=NEW)))[0] == "ambiguous"
    assert refused(lambda: add(AddUpstream(url=NEW, route="main", name="c"))) == (
        "conflict", "there is an upstream c already",
    )  # fmt: skip
    assert refused(lambda: add(AddUpstream(url="nowhere", route="main")))[0] == "invalid"
    proxy.routes.retire(proxy.served("other"))

    assert refused(lambda: add(AddUpstream(url=NEW, route="other"))) == ("conflict", "route other is being removed")
    assert len(proxy.control.upstreams("")) == 3


def test_an_upstream_is_drained_and_taken_in_again() -> None:
    """Its sessions move, and it gets new ones once it is taken in."""
    proxy = Operated()
    proxy.open("a", 3)
    job = proxy.control.drain_upstream("a", None)
    assert refused(lambda: proxy.control.drain_upstream("a", None))[0] == "conflict"
    proxy.serve("b")
    assert state(proxy, job) == "done"
    assert proxy.control.upstream("a").state == "draining"

    assert proxy.control.undrain_upstream("a").state == "active"
    assert refused(lambda: proxy.control.undrain_upstream("a")) == ("conflict", "a takes sessions already")


def test_a_drain_under_way_ends_when_the_upstream_is_taken_in() -> None:
    """What has moved has moved."""
    proxy = Operated()
    proxy.open("a", 2)
    job = proxy.control.drain_upstream("a", 5.0)

    assert proxy.control.undrain_upstream("a").state == "active"
    assert proxy.control.job(job.id).state == "cancelled"


def test_the_only_upstream_stays() -> None:
    """It is neither drained nor removed, by force or without: there would be nobody."""
    proxy = Operated(ALONE)
    words = ("conflict", "a is the only upstream of route main: add another one first")

    assert refused(lambda: proxy.control.drain_upstream("a", None)) == words
    assert refused(lambda: proxy.control.remove_upstream("a", is_forced=True)) == words


def test_a_drain_to_nobody_who_is_well_is_refused() -> None:
    """The sessions would have nowhere to go, and new clients neither; it says who is out and why."""
    proxy = Operated()
    other = proxy.member("b")
    for _ in range(3):
        other.refused()
    proxy.clock.advance(2.0)

    assert refused(lambda: proxy.control.drain_upstream("a", None)) == (
        "conflict", "no other upstream of route main is well: b (unreachable)",
    )  # fmt: skip
    assert proxy.member("a").is_available


async def test_an_empty_upstream_is_removed() -> None:
    """There is nothing to lose."""
    proxy = Operated()

    assert proxy.control.remove_upstream("b", is_forced=False).state == "removed"
    assert proxy.keys_of() == ["a"]


async def test_an_upstream_with_sessions_is_removed_by_force_alone() -> None:
    """They lose it there, and it is told so: a running call ends unknown, and the next one is answered elsewhere."""
    proxy = Operated()
    (relay,) = proxy.open("b", upstream_id="theirs")
    edge = proxy.edge("b")
    sink = post(relay, request_body("tools/call", 1))
    assert refused(lambda: proxy.control.remove_upstream("b", is_forced=False)) == (
        "conflict", "b has 1 sessions: drain it first, or use force",
    )  # fmt: skip
    proxy.control.remove_upstream("b", is_forced=True)
    proxy.clock.advance(0.1)

    assert sink.json()["error"]["data"]["outcome"] == "unknown"
    assert edge.one(method="DELETE").upstream_id == "theirs"

    again = post(relay, request_body("ping", 2))
    proxy.serve("a")
    proxy.edge("a").one(rpc="ping").json()
    assert again.json()["id"] == 2
    assert relay.leg.member.key == "a"


def test_an_upstream_that_is_part_of_a_job_is_left_alone() -> None:
    """The job is named, for its operator to decide."""
    proxy = Operated()
    proxy.open("a")
    proxy.control.swap_upstream(SwapRequest(old="a", new="b"))
    words = "b is part of swap-1 (comparing): wait for its end, or cancel it"

    assert refused(lambda: proxy.control.remove_upstream("b", is_forced=True)) == ("conflict", words)
    assert refused(lambda: proxy.control.undrain_upstream("b")) == ("conflict", words)
    assert refused(lambda: proxy.control.drain_upstream("b", None)) == ("conflict", words)


# -- swaps


async def test_a_swap_to_a_url_takes_name_and_settings_over() -> None:
    """The new one is what the old one was, at another address."""
    proxy = Operated(TWO.replace('url = "http://a.test/mcp"', 'url = "http://a.test/mcp"\nweight = 4\nmax_calls = 300'))
    relays = proxy.open("a", 3)
    job = swapped(proxy)
    assert (job.kind, job.state, job.old, job.new, job.percent) == ("swap", "comparing", "a", NEW, 100)
    proxy.serve("a~2")

    assert state(proxy, job) == "done"
    assert proxy.keys_of() == ["b", "a~2"]
    member = proxy.member("a~2")
    assert (member.name, member.config.url, member.config.weight, member.gate.limit) == ("a", NEW, 4, 300)
    assert {relay.leg.member for relay in relays} == {member}
    assert proxy.control.job(job.id).counts.moved == 3


async def test_a_swap_may_name_the_new_one() -> None:
    """A name that is taken is refused."""
    proxy = Operated()
    wanted = SwapRequest(old="http://a.test/mcp", new=NEW, name="blue")
    assert refused(lambda: proxy.control.swap_upstream(msgspec.structs.replace(wanted, name="b"))) == (
        "conflict", "there is an upstream b already",
    )  # fmt: skip
    swapped(proxy, "http://a.test/mcp", name="blue")
    proxy.clock.advance(0.2)

    assert proxy.keys_of() == ["b", "blue"]


async def test_a_swap_may_be_to_a_member_that_is_there() -> None:
    """By its name or its URL; nobody is added."""
    for new in ("b", "http://b.test/mcp"):
        proxy = Operated()
        (relay,) = proxy.open("a")
        job = swapped(proxy, new=new)
        proxy.serve("b")

        assert (state(proxy, job), proxy.keys_of(), relay.leg.member.key) == ("done", ["b"], "b")


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("x", NEW, "not_found", "there is no upstream x"),
        ("a", "x", "not_found", "there is no upstream x in route main"),
        ("a", "c", "not_found", "there is no upstream c in route main"),
        ("a", "a", "conflict", "a is a itself"),
        ("a", "http://a.test/mcp", "conflict", "http://a.test/mcp is a itself"),
        ("a", "ftp://b/", "invalid", "url: expected an http:// or https:// URL"),
    ],
)
def test_a_swap_that_makes_no_sense_is_refused(old: str, new: str, code: str, words: str) -> None:
    """Nobody is asked and nothing is begun."""
    proxy = Operated(TWO + OTHER)
    found, text = refused(lambda: proxy.control.swap_upstream(SwapRequest(old=old, new=new)))

    assert (found, text[: len(words)]) == (code, words)
    assert proxy.control.jobs() == []
    assert len(proxy.edges) == 3


async def test_a_swap_to_a_server_that_will_not_do_changes_nothing() -> None:
    """It says which and why, and the sessions stay where they are."""
    proxy = Operated()
    (relay,) = proxy.open("a")
    job = proxy.control.swap_upstream(SwapRequest(old="a", new=NEW))
    proxy.answer_comparison("http://a.test/mcp")
    proxy.answer_comparison(NEW, is_ok=False)
    view = proxy.control.job(job.id)

    assert (view.state, view.problem) == ("failed", f"{NEW} answered initialize with HTTP 500")
    assert proxy.keys_of() == ["a", "b"]
    assert (relay.leg.member.key, relay.moving) == ("a", None)


@pytest.mark.parametrize(
    ("configured", "asked", "outcome"), [("true", None, "failed"), ("false", True, "failed"), ("true", False, "moving")]
)
async def test_a_difference_refuses_when_it_is_to_be_strict(configured: str, asked: bool | None, outcome: str) -> None:
    """As configured, or as asked for this once."""
    proxy = Operated(TWO + f"[swap]\nstrict = {configured}\n")
    proxy.open("a")
    job = proxy.control.swap_upstream(SwapRequest(old="a", new=NEW, strict=asked))
    proxy.answer_comparison("http://a.test/mcp")
    proxy.answer_comparison(NEW, tools=True)
    view = proxy.control.job(job.id)

    assert view.state == outcome
    assert [difference.field for difference in view.differences] == [
        "capabilities.tools", "capabilities.tools.listChanged",
    ]  # fmt: skip


@pytest.mark.parametrize(("configured", "asked", "is_listed"), [("true", None, True), ("true", False, False)])
async def test_tools_are_compared_when_it_is_asked_for(configured: str, asked: bool | None, is_listed: bool) -> None:
    """As configured, or as asked for this once."""
    proxy = Operated(TWO + f"[swap]\ncompare_tools = {configured}\n")
    old = proxy.edge("a")
    swapped(proxy, compare_tools=asked)

    assert bool(old.find(rpc="notifications/initialized")) == is_listed


async def test_a_canary_goes_on_by_the_same_words() -> None:
    """Asked for again with a larger share it moves as many more, and with all of them it is a swap like any other."""
    proxy = Operated(ALONE)
    relays = proxy.open("a", 4)
    job = swapped(proxy, percent=25)
    proxy.serve("a~2")
    assert state(proxy, job) == "holding"
    assert [relay.leg.member.key for relay in relays].count("a~2") == 1
    assert proxy.control.upstream("a~2").share_percent == 25
    for new in (NEW, "a~2"):
        assert refused(lambda new=new: proxy.control.swap_upstream(SwapRequest(old="a", new=new, percent=10))) == (  # type: ignore[misc]
            "conflict", f"{job.id} has 25 % already: a smaller share is a rollback",
        )  # fmt: skip
    again = proxy.control.swap_upstream(SwapRequest(old="a", new=NEW))
    proxy.serve("a~2")

    assert again.id == job.id
    assert state(proxy, job) == "done"
    assert proxy.keys_of() == ["a~2"]


async def test_another_swap_off_a_canary_is_refused() -> None:
    """One at a time."""
    proxy = Operated(ALONE)
    proxy.open("a", 2)
    swapped(proxy, percent=50)
    proxy.serve("a~2")

    assert refused(lambda: proxy.control.swap_upstream(SwapRequest(old="a", new="http://third.test/")))[0] == "conflict"


async def test_there_is_no_canary_of_a_drained_upstream() -> None:
    """Nobody would be shared: it gets no sessions."""
    proxy = Operated()
    proxy.control.drain_upstream("a", None)

    assert refused(lambda: proxy.control.swap_upstream(SwapRequest(old="a", new=NEW, percent=50)))[1] == (
        "a is being drained"
    )
    assert refused(lambda: proxy.control.swap_upstream(SwapRequest(old="b", new="a")))[1] == "a is being drained"
    proxy.routes.retire(proxy.served())
    assert refused(lambda: proxy.control.swap_upstream(SwapRequest(old="a", new=NEW)))[1] == (
        "route main is being removed"
    )


async def test_calls_go_on_where_they_run_while_a_swap_is_made() -> None:
    """The running call ends on the old one, the next is answered by the new one, and the accounting says so."""
    proxy = Operated(ALONE)
    (relay,) = proxy.open("a", upstream_id="theirs")
    running = post(relay, request_body("tools/call", 1))
    job = swapped(proxy)
    proxy.edge("a~2").serve_rebuild("new")
    proxy.clock.advance(0.2)
    view = proxy.control.job(job.id)
    assert (view.state, view.counts.calls_running, view.counts.moved) == ("finishing", 1, 1)
    detail = proxy.control.session(relay.fingerprint)
    assert [(leg.upstream, leg.state) for leg in detail.legs] == [("a", "draining"), ("a~2", "bound")]
    after = post(relay, request_body("tools/call", 2))
    proxy.edge("a~2").one(rpc="tools/call").json()
    proxy.edge("a").one(rpc="tools/call").json()

    assert (running.json()["id"], after.json()["id"]) == (1, 2)
    assert state(proxy, job) == "done"
    assert proxy.control.job(job.id).counts.calls_finished == 1


# -- jobs


async def test_jobs_are_looked_at_cancelled_and_taken_back() -> None:
    """By their names; the answer is what they came to."""
    proxy = Operated(ALONE)
    proxy.open("a", 2)
    job = swapped(proxy, percent=50)
    proxy.serve("a~2")
    assert proxy.control.rollback_job(job.id).state == "rolling_back"
    proxy.serve("a")
    assert state(proxy, job) == "rolled_back"
    other = swapped(proxy)
    assert proxy.control.cancel_job(other.id).state == "cancelled"

    assert [view.id for view in proxy.control.jobs()] == [other.id, job.id]
    assert refused(lambda: proxy.control.cancel_job(job.id))[0] == "conflict"
    assert refused(lambda: proxy.control.rollback_job("job"))[0] == "not_found"


# -- the configuration and the process


def test_the_configuration_is_shown_as_it_is_in_force() -> None:
    """With the upstreams there are now, and without secrets."""
    proxy = Operated(
        TWO.replace('url = "http://a.test/mcp"', 'url = "http://a.test/mcp"\nheaders = {X-Key = "secret"}')
    )
    proxy.pool().add(replace(proxy.member("b").config, name="extra"))
    proxy.pool().drain(proxy.member("b"))
    shown = proxy.control.effective_config()

    assert [upstream["name"] for upstream in shown["routes"][0]["upstreams"]] == ["a", "extra"]
    assert "secret" not in msgspec.json.encode(shown).decode()
    assert shown["health"]["probe"] == "none"


def test_routes_are_looked_at() -> None:
    """All of them."""
    assert [route.path for route in Operated(TWO + OTHER).control.routes()] == ["/mcp", "/other"]


def test_the_configuration_is_read_anew() -> None:
    """And applied."""
    proxy = Operated()
    proxy.text = TWO + OTHER

    assert proxy.control.reload().added == ["route other"]
    assert [route.name for route in proxy.control.config.routes] == ["main", "other"]


def test_a_new_process_takes_over() -> None:
    """Its pid is told; where it cannot be started it is said why."""
    proxy = Operated()
    assert (proxy.control.upgrade(), proxy.upgrades) == (4711, 1)

    def fails() -> int:
        raise ProxyError("no other upgrade can begin")

    proxy.control._upgrade = fails
    assert refused(proxy.control.upgrade) == ("conflict", "no other upgrade can begin")


async def test_at_the_end_jobs_stop() -> None:
    """A swap that holds does not hold the process up."""
    proxy = Operated(ALONE)
    job = swapped(proxy, percent=50)
    await proxy.control.close()

    assert proxy.control.job(job.id).state == "cancelled"
