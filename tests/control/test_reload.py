"""A new configuration, applied to what runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import loads
from proxy.config.routes import OF_UPSTREAM
from proxy.control.reload import table_of
from proxy.control.views import SwapRequest
from proxy.core.table import steps
from proxy.upstream.member import MemberState
from support.operated import OTHER, TWO, Operated

A = 'url = "http://a.test/mcp"'
B = """[[routes.upstreams]]
name = "b"
url = "http://b.test/mcp"
"""
C = """[[routes.upstreams]]
name = "c"
url = "http://c.test/mcp"
"""


def reloaded(proxy: Operated, text: str) -> tuple[list[str], list[str], list[str]]:
    """Apply a configuration, and return what came, went and changed."""
    proxy.text = text
    view = proxy.control.reload()
    assert (view.is_applied, view.problem) == (True, "")
    return view.added, view.removed, view.changed


# -- nothing


def test_the_same_again_changes_nothing() -> None:
    """No session moves and no upstream is touched."""
    proxy = Operated(TWO + OTHER)
    proxy.open("a", 3)
    before = [id(member) for served in proxy.routes.routes for member in served.registry.ctx.pool.members]

    assert reloaded(proxy, TWO + OTHER) == ([], [], [])
    assert [id(member) for served in proxy.routes.routes for member in served.registry.ctx.pool.members] == before
    assert proxy.control.jobs() == []
    assert proxy.observer.of("config_reloaded")[0].added == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[routes", "config.toml: line 1"),
        (TWO + OTHER.replace('"/other"', '"/mcp"'), "routes[1].path"),
        (TWO + C.replace('"c"', '"a"'), "routes[0].upstreams[2].name"),
        (TWO.replace(A, A + '\nca_file = "/nowhere/ca.pem"'), "/nowhere/ca.pem cannot be read"),
    ],
)
def test_what_cannot_be_used_changes_nothing_and_says_why(text: str, words: str) -> None:
    """Not even what of it could be used is applied: it is judged before anything is changed."""
    proxy = Operated()
    proxy.text = text.replace('policy = "least_sessions"', "") + C if "ca_file" in text else text
    view = proxy.control.reload()

    assert not view.is_applied
    assert words in view.problem
    assert (view.added, view.removed, view.changed, view.needs_restart) == ([], [], [], [])
    assert proxy.keys_of() == ["a", "b"]
    assert proxy.control.config == proxy.config
    assert proxy.observer.of("reload_refused")[0].reason == "invalid"
    assert reloaded(proxy, TWO) == ([], [], [])


# -- upstreams


def test_an_upstream_that_comes_is_added() -> None:
    """It gets sessions from then on."""
    proxy = Operated()

    assert reloaded(proxy, TWO + C) == (["c"], [], [])
    assert proxy.keys_of() == ["a", "b", "c"]


async def test_an_upstream_that_goes_is_drained_and_then_gone() -> None:
    """Its sessions move to the others first."""
    proxy = Operated()
    relays = proxy.open("b", 2)

    assert reloaded(proxy, TWO.replace(B, "")) == ([], ["b"], [])
    assert proxy.keys_of() == ["a", "b draining"]
    proxy.serve("a")
    proxy.clock.advance(1.0)

    assert proxy.keys_of() == ["a"]
    assert {relay.leg.member.key for relay in relays} == {"a"}


@pytest.mark.parametrize(
    "more", ['headers = {X-Key = "2"}', 'http = "aiohttp"', "connect_timeout_seconds = 1.0", "keepalive_seconds = 1.0"]
)
async def test_an_upstream_that_is_another_one_takes_the_place(more: str) -> None:
    """One that is reached or spoken to in another way is added, and the old one of its name drained."""
    proxy = Operated()
    (relay,) = proxy.open("a")

    assert reloaded(proxy, TWO.replace(A, f"{A}\n{more}")) == ([], [], ["a"])
    assert proxy.keys_of() == ["a draining", "b", "a~2"]
    proxy.serve("b")
    proxy.serve("a~2")
    proxy.clock.advance(1.0)

    assert proxy.keys_of() == ["b", "a~2"]
    assert relay.leg.member.key in ("b", "a~2")


async def test_in_a_pool_of_one_the_new_address_takes_all() -> None:
    """The pool is not empty for a moment, and the sessions follow."""
    text = TWO.replace(B, "")
    proxy = Operated(text)
    relays = proxy.open("a", 3)
    reloaded(proxy, text.replace("http://a.test", "http://new.test"))
    proxy.serve("a~2")
    proxy.clock.advance(1.0)

    assert proxy.keys_of() == ["a~2"]
    assert {relay.leg.member.config.url for relay in relays} == {"http://new.test/mcp"}


def test_an_upstream_that_has_other_limits_runs_on() -> None:
    """Weight, labels and limits are taken on in place; what holds for all upstreams counts after a restart."""
    proxy = Operated()
    before, (relay,) = proxy.member("a"), proxy.open("a")
    text = TWO.replace(A, f'{A}\nweight = 7\nlabels = {{v = "2"}}\nmax_calls = 5\nmax_session_calls = 5')
    proxy.text = "[upstream]\nsilence_seconds = 77.0\n" + text
    view = proxy.control.reload()

    assert (view.changed, view.needs_restart) == (["a"], ["upstream.silence_seconds"])
    member = proxy.member("a")
    assert member is before
    assert (member.config.weight, member.config.labels, member.gate.limit) == (7, (("v", "2"),), 5)
    assert member.config.silence_seconds == 30.0
    assert relay.moving is None
    assert proxy.observer.of("config_reloaded")[0].changed == 1


def test_what_holds_for_all_is_that_of_the_running_process() -> None:
    """An upstream that comes is as patient as those that are there."""
    proxy = Operated()
    proxy.text = "[upstream]\nsilence_seconds = 77.0\nkeepalive_seconds = 1.0\n" + TWO + C
    view = proxy.control.reload()

    assert view.needs_restart == ["upstream.silence_seconds"]
    assert view.added == ["c"]
    assert view.changed == ["a", "b"], "they have a new default of their own settings"
    config = proxy.member("c").config
    assert (config.silence_seconds, config.keepalive_seconds) == (30.0, 1.0)


# -- routes


def test_a_route_that_comes_is_served() -> None:
    """With its upstreams."""
    proxy = Operated()

    assert reloaded(proxy, TWO + OTHER) == (["route other"], [], [])
    assert proxy.leads_to("/other") is proxy.served("other")
    assert proxy.observer.of("config_reloaded")[0].added == 1


async def test_a_route_that_goes_serves_its_sessions_for_a_while() -> None:
    """It takes no others; when the time is over they are ended and its pool is closed."""
    proxy = Operated(TWO + OTHER + "[swap]\ndrain_timeout_seconds = 5.0\n")
    (relay,) = proxy.open("c")
    edge = proxy.edge("c")

    assert reloaded(proxy, TWO + "[swap]\ndrain_timeout_seconds = 5.0\n") == ([], ["route other"], [])
    assert proxy.served("other").is_retiring
    proxy.clock.advance(4.9)
    assert relay.session.state.value == "open"
    proxy.clock.advance(0.2)

    assert relay.session.state.value == "closed"
    assert [served.config.name for served in proxy.routes.routes] == ["main"]
    assert not edge.is_closed, "the DELETE of its session is on its way"

    proxy.clock.advance(5.0)
    await proxy.control.close()

    assert edge.is_closed


async def test_a_route_may_come_back_before_it_has_gone() -> None:
    """A mistake in the file was put right: its sessions and its pool are as they were, and nobody ends them later."""
    proxy = Operated(TWO + OTHER)
    (relay,) = proxy.open("c")
    route, member = proxy.served("other"), proxy.member("c")
    reloaded(proxy, TWO)
    reloaded(proxy, TWO + OTHER)

    assert proxy.leads_to("/other") is route

    proxy.clock.advance(120.0)
    await proxy.control.close()

    assert not route.is_retiring
    assert route.registry.ctx.pool.members == (member,)
    assert relay.session.state.value == "open"


async def test_a_route_that_leaves_again_has_all_its_time_again() -> None:
    """What the first retirement had set is void."""
    proxy = Operated(TWO + OTHER)
    (relay,) = proxy.open("c")
    reloaded(proxy, TWO)
    proxy.clock.advance(50.0)
    reloaded(proxy, TWO + OTHER)
    reloaded(proxy, TWO)
    proxy.clock.advance(50.0)

    assert relay.session.state.value == "open"

    proxy.clock.advance(20.0)
    await proxy.control.close()

    assert relay.session.state.value == "closed"


def test_a_route_changes_its_place_and_its_policy() -> None:
    """Its sessions and its pool stay."""
    proxy = Operated()
    served = proxy.served()
    proxy.open("a")
    text = TWO.replace('path = "/mcp"', 'path = "/new"\nhost = "mcp.test"\npolicy = "round_robin"')

    assert reloaded(proxy, text) == ([], [], ["route main"])
    assert proxy.leads_to("/new", "mcp.test") is served
    assert proxy.leads_to("/mcp") is None
    assert (proxy.pool().policy, len(served.registry)) == ("round_robin", 1)


UNNAMED = """
[[routes]]
path = "/mcp"
[[routes.upstreams]]
url = "http://a.test/mcp"
"""


async def test_a_route_that_is_given_a_name_keeps_its_sessions() -> None:
    """It is found at the same place, so it is the same one; everything goes by the new name."""
    proxy = Operated(UNNAMED)
    served = proxy.served("mcp")
    (relay,) = proxy.open("mcp-1")
    text = UNNAMED.replace('path = "/mcp"', 'name = "tools"\npath = "/mcp"')
    added, removed, changed = reloaded(proxy, text)
    proxy.serve("tools-1")
    proxy.clock.advance(200.0)
    await proxy.control.close()

    assert (added, removed, changed) == (["tools-1"], ["mcp-1"], ["route mcp, now tools"])
    assert proxy.leads_to("/mcp") is served is proxy.served("tools")
    assert (relay.session.state.value, relay.session.route, relay.leg.member.name) == ("open", "tools", "tools-1")
    assert proxy.control.routes()[0].name == "tools"
    assert reloaded(proxy, text) == ([], [], [])


async def test_a_route_without_a_name_keeps_its_sessions_at_another_path() -> None:
    """Its upstream is the same; the sessions are answered at both places."""
    proxy = Operated(UNNAMED)
    served = proxy.served("mcp")
    (relay,) = proxy.open("mcp-1")
    _, removed, changed = reloaded(proxy, UNNAMED.replace('/mcp"\n[[', '/new"\n[['))
    proxy.clock.advance(200.0)
    await proxy.control.close()

    assert (removed, changed) == (["mcp-1"], ["route mcp, now new", "route new"])
    assert proxy.leads_to("/new") is served
    assert relay.session.state.value == "open"


async def test_sessions_outlive_the_way_from_one_upstream_to_a_pool() -> None:
    """What stood outside of routes is a route at the same place."""
    proxy = Operated('[upstream]\nurl = "http://a.test/mcp"\n')
    (relay,) = proxy.open("default")
    _, removed, changed = reloaded(proxy, UNNAMED + '[[routes.upstreams]]\nurl = "http://b.test/mcp"\n')
    proxy.clock.advance(200.0)
    await proxy.control.close()

    assert (removed, changed) == (["default"], ["route main, now mcp"])
    assert relay.session.state.value == "open"


async def test_jobs_on_a_route_end_with_it() -> None:
    """A swap that holds does not outlive its route."""
    proxy = Operated(TWO + OTHER)
    proxy.open("c", 2)
    job = proxy.control.swap_upstream(SwapRequest(old="c", new="http://new.test/mcp", percent=50))
    proxy.answer_comparison("http://c.test/mcp")
    proxy.answer_comparison("http://new.test/mcp")
    proxy.serve("c~2")
    assert proxy.control.job(job.id).state == "holding"
    reloaded(proxy, TWO)
    proxy.clock.advance(60.0)
    await proxy.control.close()

    assert proxy.control.job(job.id).state == "cancelled"


# -- what an operator has changed


def test_what_an_operator_added_stays() -> None:
    """A file that says nothing new about it takes nothing away."""
    proxy = Operated()
    proxy.pool().add(replace(proxy.member("a").config, name="extra", url="http://extra.test/mcp"))

    assert reloaded(proxy, TWO + C) == (["c"], [], [])
    assert proxy.keys_of() == ["a", "b", "extra", "c"]


def test_what_an_operator_removed_stays_away() -> None:
    """Until the file says something else about it."""
    proxy = Operated()
    proxy.pool().remove(proxy.member("b"))
    reloaded(proxy, TWO)
    assert proxy.keys_of() == ["a"]
    changed = TWO.replace(B, B + "weight = 2\n")
    reloaded(proxy, changed)
    assert proxy.keys_of() == ["a"], "another weight of who is not there"
    reloaded(proxy, changed.replace("http://b.test", "http://new.test"))

    assert proxy.keys_of() == ["a", "b~2"]


async def test_a_file_that_follows_a_swap_changes_nothing() -> None:
    """The new upstream has the old one's name: writing its URL into the file is no news."""
    proxy = Operated()
    member = proxy.member("a")
    new = proxy.pool().add(replace(member.config, url="http://new.test/mcp"))
    proxy.pool().remove(member)
    (relay,) = proxy.open("a~2")
    reloaded(proxy, TWO.replace("http://a.test", "http://new.test"))

    assert proxy.keys_of() == ["b", "a~2"]
    assert new.state is MemberState.ACTIVE
    assert relay.moving is None


async def test_who_is_left_by_a_file_is_brought_back() -> None:
    """Where an operator took out what the file keeps and the file takes out the rest, somebody must be there."""
    proxy = Operated()
    (relay,) = proxy.open("a")
    proxy.pool().remove(proxy.member("b"))
    text = TWO.replace(A, "").replace('[[routes.upstreams]]\nname = "a"\n', "")
    reloaded(proxy, text)
    proxy.serve("b~2")
    proxy.clock.advance(1.0)

    assert proxy.keys_of() == ["b~2"]
    assert relay.leg.member.key == "b~2"


async def test_the_file_has_the_last_word_over_a_job() -> None:
    """A drain that an operator began gives way to the removal."""
    proxy = Operated()
    (relay,) = proxy.open("b")
    job = proxy.control.drain_upstream("b", None)
    reloaded(proxy, TWO.replace(B, ""))
    assert proxy.control.job(job.id).state == "cancelled"
    proxy.serve("a")
    proxy.clock.advance(2.0)

    assert proxy.keys_of() == ["a"]
    assert relay.leg.member.key == "a"


async def test_what_an_operator_drained_goes_with_its_name() -> None:
    """A member that takes no sessions any more is gone when the file says so, or names another one."""
    for text, left in ((TWO.replace(B, ""), ["a"]), (TWO.replace("http://b.test", "http://new.test"), ["a", "b~2"])):
        proxy = Operated()
        proxy.control.drain_upstream("b", None)
        assert proxy.keys_of() == ["a", "b draining"]
        reloaded(proxy, text)
        proxy.clock.advance(1.0)

        assert proxy.keys_of() == left


async def test_a_removal_under_way_goes_on() -> None:
    """A file that changes again while an upstream leaves does not begin that anew."""
    proxy = Operated()
    proxy.open("a", 2)
    reloaded(proxy, TWO.replace("http://a.test", "http://new.test"))
    (job,) = proxy.control.jobs()
    reloaded(proxy, TWO.replace("http://a.test", "http://newer.test"))

    assert [(each.id, each.state) for each in proxy.control.jobs()] == [("drain-2", "done"), (job.id, "moving")]
    assert proxy.keys_of() == ["a draining", "b", "a~3"]


# -- what counts when


def test_what_counts_after_a_restart_is_told_each_time() -> None:
    """It is compared with what runs, however often the file was read since."""
    proxy = Operated()
    changed = "[session]\nmax_sessions = 5\n" + TWO
    for _ in range(2):
        proxy.text = changed
        assert proxy.control.reload().needs_restart == ["session.max_sessions"]
    assert proxy.control.config.session.max_sessions != 5
    proxy.text = TWO
    assert proxy.control.reload().needs_restart == []


def test_how_sessions_are_moved_counts_at_once() -> None:
    """The next job asks for it."""
    proxy = Operated()
    proxy.text = TWO + "[swap]\nconcurrency = 3\n"
    view = proxy.control.reload()

    assert view.needs_restart == []
    assert proxy.control.config.swap.concurrency == 3


def test_a_proxy_without_routes_reloads_its_one_route() -> None:
    """A path and an upstream that stand outside of routes are a route all the same."""
    proxy = Operated('[upstream]\nurl = "http://a.test/mcp"\n')
    proxy.text = '[listen]\npath = "/new"\n[upstream]\nurl = "http://a.test/mcp"\nweight = 3\n'
    view = proxy.control.reload()

    assert (view.changed, view.needs_restart) == (["route main", "default"], [])
    assert proxy.leads_to("/new") is proxy.served()
    assert proxy.member("default").config.weight == 3
    assert proxy.control.config.listen.path == "/new"
    assert proxy.control.config.routes == loads(proxy.text).routes


def test_every_difference_between_two_upstreams_is_seen() -> None:
    """Each setting that an upstream may have of its own makes a step; the name alone makes another upstream."""
    other = {
        "url": "http://other.test/mcp", "weight": 2, "labels": (("a", "b"),), "headers": (("a", "b"),),
        "ca_file": "x", "http": "aiohttp", "connect_timeout_seconds": 9.0, "keepalive_seconds": 9.0,
        "max_connections": 9, "max_calls": 9, "max_session_calls": 9, "queue_limit": 9, "queue_timeout_seconds": 9.0,
    }  # fmt: skip
    (route,) = loads(TWO).routes
    assert set(other) == set(OF_UPSTREAM) - {"name"}
    for name, value in other.items():
        changed = replace(route.upstreams[0], **{name: value})
        new = replace(route, upstreams=(changed, route.upstreams[1]))
        assert len(steps(table_of((route,)), table_of((new,)))) == 1, name


def test_a_certificate_is_read_before_it_is_trusted(tmp_path: Path) -> None:
    """Of upstreams that come and of routes that come; what was there is not read again."""
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    proxy = Operated()
    for text in (TWO + C + f'ca_file = "{path}"\n', TWO + OTHER + f'ca_file = "{path}"\n'):
        proxy.text = text
        assert "expected certificates in PEM format" in proxy.control.reload().problem
