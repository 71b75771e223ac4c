"""A sink by itself, over a connection that records: what is told to it when, and what it still holds afterwards."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.headers import Headers
from proxy.core.ids import SessionId
from proxy.downstream.sink import BURST_BYTES, WireSink

pytestmark = pytest.mark.interpreted  # a compiled sink takes a real connection alone

TEXT = [("Content-Type", "text/plain")]


class FakeConnection:
    """Records what a sink says. Stands in for `connection.Connection`."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.callbacks: list[Callable[[], None]] = []
        self.is_paused = False
        self.transport = None

    def soon(self, callback: Callable[[], None]) -> None:
        """Keep it for `turn`."""
        self.callbacks.append(callback)

    def turn(self) -> None:
        """Run what is to run at the end of this turn of the loop."""
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def answer(self, status: int, headers: Headers, body: bytes, session_id: SessionId | None) -> None:
        """Record."""
        self.said.append(("answer", status, headers, body, session_id))

    def open(self, status: int, headers: Headers, session_id: SessionId | None, body: bytes) -> None:
        """Record."""
        self.said.append(("open", status, headers, body, session_id))

    def write(self, data: bytes) -> None:
        """Record."""
        self.said.append(("write", data))

    def end(self) -> None:
        """Record."""
        self.said.append(("end",))

    def abort(self) -> None:
        """Record."""
        self.said.append(("abort",))


class Watching:
    """Counts what it is told. Fulfils `core.edge.Watcher`."""

    closed = drained = 0

    def sink_closed(self) -> None:
        """Count."""
        self.closed += 1

    def sink_drained(self) -> None:
        """Count."""
        self.drained += 1


def begin() -> tuple[Any, WireSink, Watching]:
    """Make a sink that is watched."""
    connection: Any = FakeConnection()
    sink, watching = WireSink(connection), Watching()
    sink.watch(watching)
    return connection, sink, watching


ENDS = {
    "answered": ["answer"],
    "finished in its turn": ["start", "write", "finish"],
    "finished later": ["start", "turn", "finish"],
    "aborted": ["abort"],
    "aborted in its turn": ["start", "write", "abort"],
    "aborted later": ["start", "turn", "abort"],
    "gone": ["client_gone"],
    "gone in its turn": ["start", "write", "client_gone"],
    "gone later": ["start", "turn", "client_gone"],
    "failed": ["fail"],
    "failed in its turn": ["start", "fail"],
}
"""How an answer may come to its end."""


def play(connection: Any, sink: WireSink, verbs: list[str]) -> None:
    """Tell a sink one thing after the other."""
    words: dict[str, tuple[Any, ...]] = {"answer": (200, TEXT, b"a"), "start": (200, TEXT), "write": (b"a",)}
    for verb in verbs:
        getattr(connection if verb == "turn" else sink, verb)(*words.get(verb, ()))


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_a_sink_is_told_behind_its_end_goes_nowhere(end: list[str]) -> None:
    """Not to the connection, which serves another request by then, and not into a buffer that grows."""
    connection, sink, _ = begin()
    play(connection, sink, end)
    said = list(connection.said)
    sink.write(b"late")

    assert not sink._parts

    late = ["write", "finish", "start", "write", "turn", "write", "finish", "answer", "fail", "abort"]
    play(connection, sink, late + late)

    assert connection.said == said
    assert not connection.callbacks
    assert not sink._parts

    connection.is_paused = True

    assert not sink.congested


def test_an_answer_is_told_whole_or_in_pieces() -> None:
    """Whole where its end came in the turn in which it began."""
    connection, sink, _ = begin()
    sink.answer(200, TEXT, b"a", SessionId("s"))

    assert connection.said == [("answer", 200, TEXT, b"a", "s")]

    connection, sink, _ = begin()
    sink.start(201, TEXT, SessionId("s"))
    sink.write(b"a")
    sink.write(b"b")
    sink.finish()
    connection.turn()

    assert connection.said == [("answer", 201, TEXT, b"ab", "s")]

    connection, sink, _ = begin()
    sink.start(200, TEXT, SessionId("s"))
    sink.write(b"a")
    sink.write(b"b")

    assert connection.said == []

    connection.turn()
    sink.write(b"c")
    sink.finish()

    assert connection.said == [("open", 200, TEXT, b"ab", "s"), ("write", b"c"), ("end",)]


def test_a_watcher_is_told_once_that_the_client_is_gone() -> None:
    """The last one that was named; none where none was."""
    connection, sink, watching = begin()
    other = Watching()
    sink.watch(other)
    sink.client_gone()
    sink.client_gone()

    assert (watching.closed, other.closed) == (0, 1)

    _, sink, watching = begin()
    sink.watch(None)
    sink.client_gone()

    assert watching.closed == 0
    assert connection.said == []


def test_a_watcher_is_told_of_room_only_where_it_was_told_of_none() -> None:
    """And once for each time."""
    connection, sink, watching = begin()
    sink.drained()

    assert watching.drained == 0

    connection.is_paused = True

    assert sink.congested
    assert sink.congested

    connection.is_paused = False
    sink.drained()
    sink.drained()

    assert watching.drained == 1

    sink.watch(None)
    connection.is_paused = True

    assert sink.congested

    sink.drained()

    assert watching.drained == 1


@pytest.mark.parametrize("is_taken", [False, True])
def test_what_gathers_in_a_turn_is_bounded(is_taken: bool) -> None:
    """Behind the bound it is congested until a first write has shown whether the client takes it."""
    connection, sink, watching = begin()
    sink.start(200, TEXT)
    sink.write(bytes(BURST_BYTES - 1))

    assert not sink.congested

    sink.write(b"x")

    assert sink.congested

    connection.is_paused = not is_taken
    connection.turn()

    assert watching.drained == int(is_taken)
    assert sink.congested == (not is_taken)


def test_an_offer_is_taken_or_not() -> None:
    """As `write` while the client keeps up; else it goes nowhere, and who made it hears when there is room again."""
    connection, sink, watching = begin()
    sink.start(200, TEXT)

    assert sink.offer(b"a")

    connection.turn()

    assert sink.offer(b"b")

    connection.is_paused = True

    assert not sink.offer(b"c")
    assert connection.said[1:] == [("write", b"b")]
    assert connection.said[0][3] == b"a"

    connection.is_paused = False
    sink.drained()

    assert watching.drained == 1
    assert sink.offer(b"d")
    assert connection.said[-1] == ("write", b"d")


def test_offers_that_gather_in_a_turn_are_bounded() -> None:
    """As what is written."""
    _, sink, _ = begin()
    sink.start(200, TEXT)

    assert sink.offer(bytes(BURST_BYTES))
    assert not sink.offer(b"x")


def test_what_is_offered_to_nobody_is_taken() -> None:
    """The client is gone: it goes nowhere, and nobody waits for room."""
    connection, sink, _ = begin()
    sink.start(200, TEXT)
    connection.turn()
    sink.client_gone()

    assert sink.offer(b"x")
    assert ("write", b"x") not in connection.said


def test_a_handler_that_fails_before_its_answer_is_answered_for() -> None:
    """500, and the connection is closed: what state it was left in nobody knows."""
    connection, sink, _ = begin()
    sink.fail()
    (_, status, headers, body, session_id) = connection.said[0]

    assert (status, session_id) == (500, None)
    assert ("Connection", "close") in headers
    assert body.startswith(b"500 ")

    connection, sink, _ = begin()
    sink.start(200, TEXT)
    sink.fail()

    assert connection.said == [("abort",)]
