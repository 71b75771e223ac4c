"""What is noted of answers: what a rebuild must repeat, the kinds of tools, where a task runs."""

import pytest

from proxy.core.ids import Generation
from proxy.core.retry import Tools
from proxy.relay.remembering import REMEMBERED, remember
from support.fakes import RecordingObserver, request_body, result_body
from support.scenes import Scene

SUBSCRIBE, UNSUBSCRIBE, SET_LEVEL = "resources/subscribe", "resources/unsubscribe", "logging/setLevel"


def noted(scene: Scene, method: str, answer: object = None, **params: object) -> None:
    """Note an answered request."""
    body, told = request_body(method, 1, params), result_body(1, answer)
    remember(scene.relay.leg, Generation(1), method, body, told, "r-1")


def test_what_is_remembered() -> None:
    """What the upstream keeps for a session, its list of tools, its tasks; the answers of no others are looked at."""
    about_tasks = {"tasks/get", "tasks/result", "tasks/cancel"}

    assert {SUBSCRIBE, UNSUBSCRIBE, SET_LEVEL, "tools/list", *about_tasks} == REMEMBERED


def test_a_list_of_tools_tells_which_may_run_twice() -> None:
    """A further page adds to what is known of the member."""
    scene = Scene()
    noted(scene, "tools/list", {"tools": [{"name": "read", "annotations": {"readOnlyHint": True}}]})
    noted(scene, "tools/list", {"tools": [{"name": "write"}]})

    assert scene.relay.leg.member.tools == Tools(frozenset({"read", "write"}), frozenset({"read"}))


def test_a_task_pins_until_its_result_is_fetched() -> None:
    """Begun by a call, kept while it is asked for, forgotten with its result; a failed one is over at once."""
    scene = Scene()
    for name in ("a", "b", "c"):
        noted(scene, "tools/call", {"task": {"taskId": name, "status": "working"}}, task={})
    noted(scene, "tasks/get", {"taskId": "a", "status": "completed"}, taskId="a")

    assert list(scene.relay.session.tasks or ()) == ["a", "b", "c"]

    noted(scene, "tasks/result", {}, taskId="a")
    noted(scene, "tasks/get", {"taskId": "b", "status": "failed"}, taskId="b")
    noted(scene, "tasks/cancel", {"taskId": "c", "status": "cancelled"}, taskId="c")

    assert not scene.relay.session.has_tasks


def test_subscriptions_and_the_level_are_noted() -> None:
    """A rebuild repeats what was subscribed and not unsubscribed, and the last level."""
    scene = Scene()
    for uri in ("a:1", "a:2"):
        noted(scene, SUBSCRIBE, uri=uri)
    noted(scene, UNSUBSCRIBE, uri="a:1")
    noted(scene, SET_LEVEL, level="debug")
    noted(scene, SET_LEVEL, level="error")

    assert list(scene.relay.session.subscriptions) == ["a:2"]
    assert scene.relay.session.log_level == "error"


@pytest.mark.parametrize("method", [SUBSCRIBE, UNSUBSCRIBE])
def test_a_request_without_a_uri_is_not_noted(method: str) -> None:
    """What the upstream made of it is unknown, so there is nothing to repeat."""
    scene = Scene()
    noted(scene, method)

    assert not scene.relay.session.subscriptions


def test_more_subscriptions_than_may_be_are_told() -> None:
    """The one that is too many is not noted, and an observer hears of it."""
    scene = Scene(max_subscriptions=1)
    noted(scene, SUBSCRIBE, uri="a:1")
    noted(scene, SUBSCRIBE, uri="a:2")

    assert list(scene.relay.session.subscriptions) == ["a:1"]
    assert isinstance(scene.observer, RecordingObserver)
    assert [record.reason for record in scene.observer.of("request_rejected")] == ["too_many_subscriptions"]
