"""Admission to one upstream: its bounds, whose turn it is, and what ends a wait."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.config import Upstream
from proxy.upstream.gate import QUEUE_FULL, QUEUE_TIMEOUT, Gate
from support.fakes import FakeClock


class Desk:
    """A gate, its clock, and what its waiters were told, in the order in which they were."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.config = Upstream(**{"max_calls": 2, "queue_limit": 3, "queue_timeout_seconds": 10.0, **settings})
        self.gate = Gate(self.config, self.clock)
        self.told: list[tuple[str, str]] = []
        self.full_sessions: set[str] = set()
        """Sessions that have no room."""

    def fill(self) -> None:
        """Let as many run as may."""
        self.gate.running = self.gate.limit

    def wait(self, name: str, session: str = "s") -> "Call":
        """Let a call wait."""
        call = Call(self, name, session)
        self.gate.wait(call)
        return call


class Call:
    """One call. Fulfils `gate.Waiter`."""

    def __init__(self, desk: Desk, name: str, session: str) -> None:
        self.desk = desk
        self.name = name
        self.session = session

    @property
    def can_enter(self) -> bool:
        """Tell whether its session has room."""
        return self.session not in self.desk.full_sessions

    def admitted(self) -> None:
        """Note it."""
        self.desk.told.append((self.name, "admitted"))

    def turned_away(self, reason: str) -> None:
        """Note it."""
        self.desk.told.append((self.name, reason))

    def sent_elsewhere(self) -> None:
        """Note it."""
        self.desk.told.append((self.name, "elsewhere"))


@pytest.mark.parametrize(("calls", "connections", "limit"), [(5, 9, 5), (9, 5, 5)])
def test_the_limit_is_the_smaller_one(calls: int, connections: int, limit: int) -> None:
    """A call needs a connection, so fewer of those are a bound of calls, too."""
    desk = Desk(max_calls=calls, max_connections=connections, max_session_calls=3)

    assert (desk.gate.limit, desk.gate.session_limit) == (limit, 3)


def test_first_come_first_served() -> None:
    """Each call that ends lets in the one that has waited longest."""
    desk = Desk()
    desk.fill()
    for name in "abc":
        desk.wait(name)

    assert (desk.told, desk.gate.is_busy, len(desk.gate)) == ([], True, 3)

    desk.gate.leave()
    desk.gate.leave()

    assert desk.told == [("a", "admitted"), ("b", "admitted")]
    assert (desk.gate.running, desk.gate.is_busy) == (2, True)

    desk.gate.leave()

    assert desk.told[2:] == [("c", "admitted")]
    assert (desk.gate.running, desk.gate.is_busy) == (2, False)
    for _ in range(2):
        desk.gate.leave()
    assert desk.gate.running == 0


def test_who_could_not_go_is_passed() -> None:
    """A session that has enough calls keeps its place and holds nobody up."""
    desk = Desk()
    desk.fill()
    desk.full_sessions = {"busy"}
    desk.wait("a", "busy")
    desk.wait("b")
    desk.gate.leave()

    assert desk.told == [("b", "admitted")]

    desk.full_sessions = set()
    desk.gate.leave()

    assert desk.told == [("b", "admitted"), ("a", "admitted")]


def test_those_that_cannot_go_keep_nobody_out() -> None:
    """While only others' sessions have no room, a newcomer goes at once, though the queue is full."""
    desk = Desk(queue_limit=1)
    desk.full_sessions = {"busy"}
    desk.wait("a", "busy")

    assert desk.gate.is_busy

    desk.wait("b")

    assert (desk.told, desk.gate.running) == ([("b", "admitted")], 1)

    desk.wait("c", "busy")

    assert desk.told[1:] == [("c", QUEUE_FULL)]


def test_a_newcomer_passes_nobody_who_can_go() -> None:
    """Who could not go until now, and nobody noticed that it can, goes first."""
    desk = Desk(max_calls=1)
    desk.full_sessions = {"busy"}
    desk.wait("a", "busy")
    desk.full_sessions = set()
    desk.wait("b")

    assert desk.told == [("a", "admitted")]


def test_the_queue_is_bounded() -> None:
    """One more is told at once that it is full, and has left nothing behind."""
    desk = Desk()
    desk.fill()
    for name in "abcd":
        desk.wait(name)

    assert desk.told == [("d", QUEUE_FULL)]
    assert len(desk.gate) == 3


def test_without_a_queue_nobody_waits() -> None:
    """A queue of nought turns everybody away."""
    desk = Desk(queue_limit=0)
    desk.fill()
    desk.wait("a")

    assert (desk.told, desk.gate.is_busy) == ([("a", QUEUE_FULL)], False)


def test_a_wait_has_its_end() -> None:
    """Each waits as long as configured from its own beginning; one timer serves all, and none is left."""
    desk = Desk()
    desk.fill()
    desk.wait("a")
    desk.clock.advance(5.0)
    desk.wait("b")

    assert desk.clock.pending() == 1

    desk.clock.advance(4.9)
    assert desk.told == []

    desk.clock.advance(0.8)
    assert desk.told == [("a", QUEUE_TIMEOUT)]

    desk.clock.advance(10.0)
    assert desk.told == [("a", QUEUE_TIMEOUT), ("b", QUEUE_TIMEOUT)]
    assert (desk.gate.is_busy, desk.gate.running, desk.clock.pending()) == (False, 2, 0)


def test_who_was_admitted_is_not_turned_away_later() -> None:
    """Its deadline has left with it."""
    desk = Desk()
    desk.fill()
    desk.wait("a")
    desk.gate.leave()
    desk.clock.advance(60.0)

    assert desk.told == [("a", "admitted")]


def test_a_place_can_be_given_up() -> None:
    """Who left is told nothing; to leave again, or without having waited, is harmless."""
    desk = Desk()
    desk.fill()
    call = desk.wait("a")
    desk.gate.leave_queue(call)
    desk.gate.leave_queue(call)
    desk.gate.leave_queue(Call(desk, "b", "s"))
    desk.gate.leave()
    desk.clock.advance(60.0)

    assert (desk.told, desk.gate.is_busy, desk.gate.running) == ([], False, 1)


def test_everybody_is_sent_elsewhere_at_once() -> None:
    """In their order; and one who waits here again from inside that call has a place of its own."""
    desk = Desk()
    desk.fill()
    desk.wait("a")
    again = desk.wait("b")

    def come_back() -> None:
        desk.told.append(("b", "back"))
        desk.gate.wait(again)

    again.sent_elsewhere = come_back  # type: ignore[method-assign]
    desk.wait("c")
    desk.gate.release_all()

    assert desk.told == [("a", "elsewhere"), ("b", "back"), ("c", "elsewhere")]
    assert (desk.gate.is_busy, len(desk.gate)) == (True, 1)

    desk.gate.leave()

    assert desk.told[3:] == [("b", "admitted")]
    desk.clock.advance(60.0)
    assert len(desk.told) == 4


def test_a_waiter_may_end_inside_its_admission() -> None:
    """A call that fails as it is sent makes room for the next one, which is not let in twice."""
    desk = Desk(max_calls=1)
    desk.fill()
    first = desk.wait("a")
    desk.wait("b")
    desk.wait("c")

    def end_at_once() -> None:
        desk.told.append(("a", "admitted"))
        desk.gate.leave()

    first.admitted = end_at_once  # type: ignore[method-assign]
    desk.gate.leave()

    assert desk.told == [("a", "admitted"), ("b", "admitted")]
    assert (desk.gate.running, len(desk.gate)) == (1, 1)


def test_a_long_queue_may_end_in_its_admission() -> None:
    """However many have nothing to send any more: each in its turn, not one inside the other."""
    desk = Desk(max_calls=1, queue_limit=5_000)
    desk.fill()

    class Gone(Call):
        def admitted(self) -> None:
            super().admitted()
            self.desk.gate.leave()

    for number in range(5_000):
        desk.gate.wait(Gone(desk, str(number), "s"))
    desk.gate.leave()

    assert desk.told == [(str(number), "admitted") for number in range(5_000)]
    assert (desk.gate.running, desk.gate.is_busy, len(desk.gate)) == (0, False, 0)


def test_who_comes_inside_an_admission_passes_nobody() -> None:
    """It waits behind those who were there before it, and is let in with them."""
    desk = Desk(max_calls=3)
    desk.fill()
    first = desk.wait("a")
    desk.wait("b")

    def admitted() -> None:
        desk.told.append(("a", "admitted"))
        desk.wait("c")

    first.admitted = admitted  # type: ignore[method-assign]
    desk.gate.running = 0
    desk.gate.configure(desk.config)

    assert desk.told == [("a", "admitted"), ("b", "admitted"), ("c", "admitted")]
    assert desk.gate.running == 3


def test_other_limits_hold_at_once() -> None:
    """More room lets in who waits, less lets finish who runs; who waits keeps the time it was given."""
    desk = Desk()
    desk.fill()
    for name in "abc":
        desk.wait(name)
    desk.gate.configure(Upstream(max_calls=4, max_session_calls=7, queue_limit=1, queue_timeout_seconds=1.0))

    assert desk.told == [("a", "admitted"), ("b", "admitted")]
    assert (desk.gate.limit, desk.gate.session_limit, desk.gate.running) == (4, 7, 4)

    desk.gate.configure(Upstream(max_calls=1))
    desk.gate.leave()
    desk.gate.leave()
    desk.gate.leave()

    assert (len(desk.told), desk.gate.running) == (2, 1)

    desk.clock.advance(9.9)
    assert len(desk.told) == 2
    desk.clock.advance(0.2)
    assert desk.told[2:] == [("c", QUEUE_TIMEOUT)]


def test_a_closed_gate_tells_nobody() -> None:
    """Who waits at the end of the process is forgotten."""
    desk = Desk()
    desk.fill()
    desk.wait("a")
    desk.gate.close()
    desk.clock.advance(60.0)

    assert (desk.told, desk.gate.is_busy) == ([], False)


class GateModel(RuleBasedStateMachine):
    """Calls of three sessions that come, end, give up and are late, in any order."""

    SESSION_LIMIT = 2

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(max_calls=3, queue_limit=4, max_session_calls=self.SESSION_LIMIT)
        self.running: list[ModelCall] = []
        self.waiting: list[ModelCall] = []
        self.count = 0

    @rule(session=st.sampled_from("xyz"))
    def arrive(self, session: str) -> None:
        """A call comes, by the same test as the relay's."""
        self.count += 1
        call = ModelCall(self, self.count, session)
        gate = self.desk.gate
        if gate.running >= gate.limit or gate.is_busy or not call.can_enter:
            self.waiting.append(call)
            gate.wait(call)
        else:
            gate.running += 1
            self.running.append(call)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A call ends."""
        if self.running:
            self.running.remove(data.draw(st.sampled_from(self.running)))
            self.desk.gate.leave()

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """A client goes."""
        if self.waiting:
            call = data.draw(st.sampled_from(self.waiting))
            self.waiting.remove(call)
            self.desk.gate.leave_queue(call)

    @rule(seconds=st.sampled_from([1.0, 11.0]))
    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.desk.clock.advance(seconds)

    @rule()
    def release(self) -> None:
        """The upstream is drained."""
        self.desk.gate.release_all()
        assert not self.waiting

    @invariant()
    def bounds_hold(self) -> None:
        """No more run than may, of all and of one session; no more wait than may."""
        sessions = [call.session for call in self.running]

        assert self.desk.gate.running == len(self.running) <= 3
        assert all(sessions.count(session) <= self.SESSION_LIMIT for session in "xyz")
        assert len(self.desk.gate) == len(self.waiting) <= 4
        assert self.desk.gate.is_busy == bool(self.waiting)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """Who waits could not go: there is no room on the upstream, or none for its session."""
        assert len(self.running) == 3 or not any(call.can_enter for call in self.waiting)


class ModelCall:
    """A call of the model. Fulfils `gate.Waiter`."""

    def __init__(self, model: GateModel, number: int, session: str) -> None:
        self.model = model
        self.number = number
        self.session = session

    @property
    def can_enter(self) -> bool:
        """Tell whether its session has room."""
        return sum(call.session == self.session for call in self.model.running) < self.model.SESSION_LIMIT

    def admitted(self) -> None:
        """Go: whoever came before it and could go has gone."""
        self.model.waiting.remove(self)
        assert not any(call.can_enter and call.number < self.number for call in self.model.waiting)
        self.model.running.append(self)

    def turned_away(self, reason: str) -> None:
        """Be gone."""
        assert reason == QUEUE_TIMEOUT or len(self.model.waiting) == 5
        self.model.waiting.remove(self)

    def sent_elsewhere(self) -> None:
        """Be gone."""
        self.model.waiting.remove(self)


TestGate = GateModel.TestCase
TestGate.settings = settings(max_examples=100, deadline=None)
