"""What a session subscribes to and at which level it is logged, noted for a rebuild."""

import pytest

from proxy.relay.remembering import REMEMBERED, remember
from support.fakes import RecordingObserver, request_body
from support.scenes import Scene

SUBSCRIBE, UNSUBSCRIBE, SET_LEVEL = "resources/subscribe", "resources/unsubscribe", "logging/setLevel"


def noted(scene: Scene, method: str, **params: str) -> None:
    """Note an answered request."""
    remember(scene.relay, method, request_body(method, 1, params), "r-1")


def test_what_is_remembered() -> None:
    """These three change what the upstream keeps for a session; the answers of no others are looked at."""
    assert {SUBSCRIBE, UNSUBSCRIBE, SET_LEVEL} == REMEMBERED


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
