"""What a job is told to do."""

import dataclasses

import pytest

from proxy.control.orders import DRAIN, MOVE, REFRESH, SWAP, Order
from support.moving import Scene


def test_an_order_never_changes() -> None:
    """Who holds an order may rely on it: what changes in the course of a job is the job's."""
    order = Order(DRAIN, Scene().registry, Scene().member("a"))

    assert (order.percent, order.removes, order.new, order.relay) == (100, False, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        order.percent = 50  # type: ignore[misc]


def test_kinds_are_what_people_read() -> None:
    """The kinds stand in job ids and views."""
    assert (DRAIN, SWAP, MOVE, REFRESH) == ("drain", "swap", "move", "refresh")
