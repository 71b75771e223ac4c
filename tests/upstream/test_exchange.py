"""One exchange's end: told once, and never after it was cut."""

from typing import Any

import pytest

from proxy.upstream.base import Loss
from proxy.upstream.exchange import WireExchange
from support.raw_server import Heard


class Line:
    """A connection that records what its exchange does to it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def drop(self) -> None:
        """Note it."""
        self.told.append("drop")

    def pause(self) -> None:
        """Note it."""
        self.told.append("pause")

    def resume(self) -> None:
        """Note it."""
        self.told.append("resume")


def connected() -> tuple[WireExchange, Heard, Line]:
    """Return an exchange that is being answered."""
    heard, line = Heard(), Line()
    exchange = WireExchange(heard)
    connection: Any = line
    exchange.connection = connection
    return exchange, heard, line


@pytest.mark.interpreted
def test_a_loss_is_told_once() -> None:
    """Whatever is reported after the end is no news."""
    exchange, heard, _ = connected()

    exchange.lost(Loss.BROKEN, "cut")
    exchange.lost(Loss.REFUSED, "again")

    assert (heard.loss, heard.detail, heard.violations) == (Loss.BROKEN, "cut", [])
    assert exchange.is_over


@pytest.mark.interpreted
def test_a_cut_exchange_is_silent_and_drops_its_connection() -> None:
    """Its receiver hears nothing any more, and the answer that may still come reaches nobody."""
    exchange, heard, line = connected()

    exchange.abort()
    exchange.abort()
    exchange.lost(Loss.BROKEN, "late")

    assert line.told == ["drop"]
    assert not heard.is_over


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.interpreted
def test_reading_stops_and_goes_on_once(times: int) -> None:
    """However often it is said; and not at all without a connection."""
    exchange, _, line = connected()

    for _ in range(times):
        exchange.pause()
    for _ in range(times):
        exchange.resume()

    assert line.told == ["pause", "resume"]

    exchange.connection = None
    exchange.pause()
    exchange.resume()

    assert line.told == ["pause", "resume"]
