"""What operators are shown and may ask, as it goes over a wire."""

from typing import Any

import msgspec
import pytest

from proxy.control import views

SHAPES = [value for value in vars(views).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)]


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        (views.SwapRequest, {"old": "a", "new": "b", "precent": 10}),
        (views.SwapRequest, {"old": "a", "new": "b", "percent": 0}),
        (views.SwapRequest, {"old": "a", "new": "b", "percent": 101}),
        (views.SwapRequest, {"old": "a", "new": "b", "drain_timeout_seconds": -1}),
        (views.SwapRequest, {"old": "a"}),
        (views.AddUpstream, {"url": "http://a", "weight": 0}),
        (views.AddUpstream, {"url": "http://a", "token": "x"}),
    ],
    ids=range(7),
)
def test_what_is_asked_amiss_is_not_guessed_at(shape: type, asked: dict[str, Any]) -> None:
    """A mistyped share must not move everybody."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(asked, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_no_view_has_a_place_for_a_secret(shape: type[msgspec.Struct]) -> None:
    """Credentials are asked with and never shown: headers stand in one request and in no view."""
    names = {field.name for field in msgspec.structs.fields(shape)}

    assert not names & {"token", "credentials", "authorization", "body"}
    assert "headers" not in names or shape is views.AddUpstream
