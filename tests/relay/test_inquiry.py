"""Asking a server for its tools' annotations: when, how often, how long, and what is made of the answer."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.retry import Tools
from proxy.core.session import CloseReason
from proxy.relay import inquiry
from proxy.relay.inquiry import ANSWER_BYTES, CURIOUS_SECONDS, PAGES, PATIENCE_SECONDS
from proxy.upstream.base import Loss
from support.fakes import Attempt, open_session, post, request_body
from support.scenes import PoolScene, Scene, break_off, result

READ = {"name": "read", "annotations": {"readOnlyHint": True}}
WRITE = {"name": "write"}
KNOWN = Tools(frozenset({"read", "write"}), frozenset({"read"}))


def _curious(**settings: Any) -> Scene:
    return Scene(ask_tools=True, upgrade_after_seconds=60.0, **settings)


def _asking(scene: Scene) -> tuple[Attempt, list[str]]:
    """Ask, and return the question and what whoever asked is told."""
    told: list[str] = []
    scene.ctx.inquiries.ask(scene.relay.leg, lambda: told.append("told"))
    return scene.edge.one(rpc="tools/list"), told


def _page(attempt: Attempt, *tools: Any, **more: Any) -> dict[str, Any]:
    return result(attempt.message["id"], tools=list(tools), **more)


def _tools(scene: Scene) -> Tools | None:
    return scene.relay.leg.member.tools


# -- when


def test_a_tool_that_takes_long_makes_the_proxy_ask():
    """A call that runs for a while may be interrupted, so what kind of tool it is gets asked ahead, in its session."""
    scene = _curious()
    scene.call(1)
    scene.clock.advance(CURIOUS_SECONDS - 0.01)

    assert scene.edge.find(rpc="tools/list") == []

    scene.clock.advance(0.02)
    asked = scene.edge.one(rpc="tools/list")

    assert (asked.upstream_id, asked.request.fresh) == ("up-1", True)
    assert asked.message["params"] == {}
    assert asked.header("Authorization") == "Bearer one"

    asked.json(200, _page(asked, READ, WRITE))

    assert _tools(scene) == KNOWN


@pytest.mark.parametrize("setting", [{"ask_tools": False}, {}])
def test_quick_calls_and_a_proxy_that_may_not_ask_send_nothing_more(setting: dict[str, bool]):
    """Usual traffic passes without a request of the proxy's own."""
    scene = Scene(**{"ask_tools": True, **setting})
    for number in range(5):
        scene.call(number)
        if not setting:
            scene.edge.last.json()
    scene.clock.advance(3.0)

    assert scene.edge.find(rpc="tools/list", is_open=False) == []


def test_many_calls_make_it_look_once():
    """While it is curious already, a call costs no timer of its own."""
    scene = _curious()
    scene.call(0)
    before = scene.clock.pending()
    for number in range(1, 50):
        scene.call(number)

    assert scene.clock.pending() == before


def test_only_tools_make_it_ask():
    """Other requests are judged by their method."""
    scene = _curious()
    scene.call(1, "resources/read")
    scene.clock.advance(3.0)

    assert scene.edge.find(rpc="tools/list", is_open=False) == []


def test_a_list_that_the_client_has_asked_for_spares_the_question():
    """What passes through the session is learnt from."""
    scene = _curious()
    scene.call(1)
    scene.call(2, "tools/list")
    scene.edge.last.json(200, result(2, tools=[READ, WRITE]))
    scene.clock.advance(3.0)
    scene.call(3)
    scene.clock.advance(3.0)

    assert _tools(scene) == KNOWN
    assert len(scene.edge.find(rpc="tools/list", is_open=False)) == 1


def test_one_question_at_a_time_however_many_calls_and_sessions():
    """All sessions of a member share what it says."""
    scene = _curious()
    other = open_session(scene.registry, upstream_id="up-other")
    for number in range(5):
        scene.call(number)
        post(other, request_body("tools/call", number))
    scene.clock.advance(1.0)

    assert len(scene.edge.find(rpc="tools/list", is_open=False)) == 1


def test_each_member_is_asked_for_itself():
    """What one server says of its tools holds for none of the others."""
    scene = PoolScene(ask_tools=True, upgrade_after_seconds=60.0)
    other = open_session(scene.registry, upstream_id="up-b", member=scene.member("b"))
    scene.call(1)
    post(other, request_body("tools/call", 1))
    scene.clock.advance(1.0)
    asked = scene.at("a").one(rpc="tools/list")
    asked.json(200, _page(asked, READ))

    assert scene.at("b").one(rpc="tools/list").upstream_id == "up-b"
    assert scene.member("b").tools is None


def test_a_call_that_has_ended_asks_no_more_and_the_next_one_does():
    """Nothing runs that the answer could be of use to."""
    scene = _curious()
    scene.call(1)
    scene.edge.last.json()
    scene.clock.advance(1.0)

    assert scene.edge.find(rpc="tools/list") == []

    scene.call(2)
    scene.clock.advance(1.0)

    assert scene.edge.one(rpc="tools/list")


def test_a_lost_session_is_not_asked_in():
    """There is nobody to ask until there is a new one."""
    scene = _curious()
    scene.streaming(1)
    scene.call(2, "ping")
    scene.edge.last.refuse()
    scene.clock.advance(1.0)

    assert scene.edge.find(rpc="tools/list", is_open=False) == []


# -- who asks is told once, in time


def test_everybody_who_asks_meanwhile_is_told_by_the_same_answer():
    """In their order, and once."""
    scene = _curious()
    asked, told = _asking(scene)
    scene.ctx.inquiries.ask(scene.relay.leg, lambda: told.append("also"))
    asked.json(200, _page(asked, READ, WRITE))
    scene.clock.advance(10.0)

    assert told == ["told", "also"]
    assert _tools(scene) == KNOWN


def _error(attempt: Attempt) -> None:
    attempt.json(200, {"jsonrpc": "2.0", "id": attempt.message["id"], "error": {"code": -32601, "message": "none"}})


def _refused(attempt: Attempt) -> None:
    attempt.answer(404)


def _broken(attempt: Attempt) -> None:
    break_off(attempt)


def _unreachable(attempt: Attempt) -> None:
    attempt.lost(Loss.NOT_SENT)


def _html(attempt: Attempt) -> None:
    attempt.answer(200, [("Content-Type", "text/html")], b"<html>")


def _nothing(attempt: Attempt) -> None:
    attempt.answer(202)


def _stream_without_answer(attempt: Attempt) -> None:
    attempt.sse()
    attempt.frame({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    attempt.frame(result("another", tools=[READ]))
    attempt.end()


def _list_with_an_error_status(attempt: Attempt) -> None:
    attempt.json(500, _page(attempt, READ))


def _too_large(attempt: Attempt) -> None:
    attempt.head(200, [("Content-Type", "application/json")])
    for _ in range(2):
        attempt.data(b" " * (ANSWER_BYTES // 2 + 1))


@pytest.mark.parametrize(
    "answer",
    [
        _error,
        _refused,
        _broken,
        _unreachable,
        _html,
        _nothing,
        _stream_without_answer,
        _list_with_an_error_status,
        _too_large,
    ],
)
def test_a_server_that_gives_no_list_has_said_nothing(answer: Callable[[Attempt], None]):
    """Whoever asked is told at once that nothing was learnt; nothing is left open."""
    scene = _curious()
    asked, told = _asking(scene)
    answer(asked)

    assert told == ["told"]
    assert _tools(scene) is None
    assert scene.edge.open == []

    scene.clock.advance(10.0)

    assert told == ["told"]


def test_a_frame_that_is_too_large_has_said_nothing(monkeypatch: pytest.MonkeyPatch):
    """An event is bounded like a whole answer."""
    monkeypatch.setattr(inquiry, "ANSWER_BYTES", 1000)
    scene = _curious()
    asked, told = _asking(scene)
    asked.sse()
    asked.data(b"data: " + b"x" * 1100)

    assert (told, _tools(scene)) == (["told"], None)
    assert scene.edge.open == []


def test_a_server_that_does_not_answer_is_not_waited_for():
    """After two seconds whoever asked goes on without the answer, and the question is cut."""
    scene = _curious()
    asked, told = _asking(scene)
    scene.clock.advance(PATIENCE_SECONDS - 0.1)

    assert told == []

    scene.clock.advance(0.2)

    assert told == ["told"]
    assert asked.is_aborted


def test_a_stream_may_carry_the_answer():
    """Behind other frames; the rest of the stream is not waited for."""
    scene = _curious()
    asked, told = _asking(scene)
    asked.sse()
    asked.data(b"id: p\ndata:\n\n")
    asked.frame(_page(asked, READ, WRITE))

    assert told == ["told"]
    assert asked.is_aborted
    assert _tools(scene) == KNOWN


def test_a_member_may_be_asked_again():
    """A question that brought nothing is not the last one."""
    scene = _curious()
    asked, _ = _asking(scene)
    asked.answer(503)
    asked, told = _asking(scene)
    asked.json(200, _page(asked, READ, WRITE))

    assert (told, _tools(scene)) == (["told"], KNOWN)


# -- pages


def test_all_pages_are_asked_for():
    """By the server's cursor, in the same upstream session; later pages add to the first."""
    scene = _curious()
    asked, told = _asking(scene)
    asked.json(200, _page(asked, READ, nextCursor="page two"))
    second = scene.edge.one(rpc="tools/list")

    assert (second.message["params"], second.upstream_id) == ({"cursor": "page two"}, "up-1")
    assert second.message["id"] != asked.message["id"]
    assert (told, _tools(scene)) == ([], None)

    second.json(200, _page(second, WRITE))

    assert (told, _tools(scene)) == (["told"], KNOWN)


def test_pages_come_within_one_patience():
    """All together have two seconds; what came in time is known, of the rest nothing."""
    scene = _curious()
    asked, told = _asking(scene)
    scene.clock.advance(1.5)
    asked.json(200, _page(asked, READ, nextCursor="2"))
    scene.clock.advance(1.0)

    assert told == ["told"]
    assert _tools(scene) == Tools(frozenset({"read"}), frozenset({"read"}), "2")
    assert scene.edge.open == []


def test_pages_without_end_are_asked_for_a_bounded_number_of_times():
    """A server that always names a next page is not asked for ever."""
    scene = _curious()
    _, told = _asking(scene)
    number = 0
    while asked := scene.edge.find(rpc="tools/list"):
        number += 1
        asked[0].json(200, _page(asked[0], {"name": f"t{number}"}, nextCursor=str(number)))

    assert number == PAGES
    assert told == ["told"]
    assert _tools(scene) == Tools(frozenset(f"t{each}" for each in range(1, PAGES + 1)), frozenset(), str(PAGES))


# -- its session ends meanwhile


def test_a_session_that_closes_while_its_server_is_asked_leaves_nothing():
    """Whoever asked is told in time, the question ends, no timer stays."""
    scene = _curious()
    scene.call(1)
    scene.clock.advance(0.5)
    scene.relay.close(CloseReason.DELETED)
    for farewell in scene.edge.find(method="DELETE"):
        farewell.answer(200)
    scene.settle()

    assert scene.edge.open == []
    assert scene.clock.pending() <= scene.quiet_timers


def test_a_change_that_is_told_while_the_server_is_asked_is_not_overwritten():
    """An answer from before the change must not vouch for what came after it."""
    scene = _curious()
    scene.listening()
    asked, _ = _asking(scene)
    scene.edge.one(method="GET").frame({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    asked.json(200, _page(asked, READ, WRITE))

    assert _tools(scene) is None
