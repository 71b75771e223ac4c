"""Random interleavings of clients, faults and time, held against what must be true whatever happens.

I1 the exact sequence per stream, or a told discontinuity; I2 nothing of one session in another; I3 every request id
answered once, or its client is gone; I4 no call executed twice; I5 nothing left after the end. The models in
`support.world` assert I1 to I4 where they happen; a failing seed is repeated by its number alone.
"""

import random
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from proxy.core.cut import CuttingDecoder
from proxy.relay import call as call_module
from proxy.relay.feed import Feed
from proxy.store import memory
from support.scenes import Front, break_off
from support.world import SMALL_WINDOW, Client, Server

SEEDS = 1000
GROUPS = 8
STEPS = 200
LONGEST_SECONDS = 400.0


class Simulation:
    """One seed's world."""

    def __init__(self, seed: int) -> None:
        dice = self.dice = random.Random(seed)
        is_small = dice.random() < 0.4
        small = {"events_per_stream": SMALL_WINDOW, "slow_reader_events": 3} if is_small else {}
        self.front = Front(
            resume_attempts=dice.choice([0, 1, 3]),
            completed_seconds=dice.choice([20.0, 600.0]),
            upstream_idle_seconds=dice.choice([30.0, 1800.0]),
            **small,
        )
        self.faults = dice.choice([0.0, 0.01, 0.04])
        self.quiet = self.front.clock.pending()
        lost_status = dice.choice([404, 404, 400])
        self.server = Server(self.front.edge, dice, lost_status=lost_status, may_repeat=not is_small)
        serials = count(1)
        self.clients = [
            Client(self.front, f"client-{number}", dice, serials) for number in range(dice.choice([1, 2, 3]))
        ]
        for client in self.clients:
            client.open()

    def run(self) -> None:
        """Let chance rule, then let everything come to its end."""
        for _ in range(STEPS):
            self._step()
            for client in self.clients:
                client.read()
        self._finish()
        self._close()

    def _step(self) -> None:
        dice, server = self.dice, self.server
        chance = dice.random()
        if chance < 0.36:
            self._serve()
        elif chance < 0.6:
            self._stream()
        elif chance < 0.6 + self.faults:
            self._fault()
        elif chance < 0.72:
            self.front.clock.advance(dice.choice([0.0, 0.05, 0.3, 0.3, 1.0, 1.0, 3.0, 3.0, 12.0, 40.0]))
        else:
            if not server.is_up and dice.random() < 0.3:
                server.rise()
            self._act(dice.choice(self.clients))

    def _serve(self) -> None:
        waiting = self.server.waiting
        for attempt in self.dice.sample(waiting, min(len(waiting), self.dice.choice([1, 2, 5]))):
            if attempt.is_open:
                self.server.serve(attempt)

    def _stream(self) -> None:
        server, dice = self.server, self.dice
        if server.halves and dice.random() < 0.3:
            server.go_on()
        elif server.running and dice.random() < 0.5:
            call = dice.choice(server.running)
            if call.attempt is not None and call.attempt.is_open and dice.random() < 0.15:
                call.attempt.end() if dice.random() < 0.5 else break_off(call.attempt)
            else:
                for _ in range(dice.choice([1, 1, 1, 9])):
                    server.emit(call, is_last=False)
                if dice.random() < 0.3:
                    server.emit(call, is_last=True)
        elif server.sessions:
            session = dice.choice(list(server.sessions.values()))
            if session.link is not None and session.link.is_open and dice.random() < 0.2:
                session.link.end() if dice.random() < 0.5 else break_off(session.link)
            elif dice.random() < 0.3:
                server.ask(session)
            else:
                for _ in range(dice.choice([1, 1, 2, 9])):
                    server.tell(session)

    def _fault(self) -> None:
        server = self.server
        if not server.is_up:
            server.rise()
        elif self.dice.random() < 0.5:
            server.fall()
        else:
            server.forget()

    def _act(self, client: Client) -> None:
        dice = self.dice
        if client.is_over:
            return
        if client.session_id is None:
            if client.opening is None:
                client.open()
            return
        relay = self.front.registry.find(client.session_id)
        lost = [call for call in client.calls if call.is_gone and relay is not None and call.request_id in relay.calls]
        known = [call for call in client.pending if call.last_id is not None]
        actions: list[tuple[float, bool, Callable[[], None]]] = [
            (4, len(client.pending) < 6, client.call),
            (1 if client.is_listening else 6, True, client.listen),
            (3, bool(client.live), lambda: client.cut(dice.choice(client.live))),
            (4, bool(client.adrift), lambda: client.resume(dice.choice(client.adrift))),
            (1, bool(known), lambda: client.resume(dice.choice(known))),
            (1, bool(lost), lambda: client.post_again(dice.choice(lost))),
            (1, bool(client.pending), lambda: client.cancel(dice.choice(client.pending))),
            (2, bool(client.questions), client.answer),
            (0.1, True, lambda: self._delete(client)),
        ]
        possible = [(weight, verb) for weight, is_possible, verb in actions if is_possible]
        dice.choices([verb for _, verb in possible], [weight for weight, _ in possible])[0]()

    def _delete(self, client: Client) -> None:
        live = client.live
        assert client.delete().status == 200
        # Who has half an answer is cut off: nothing can be said in the middle of a frame.
        attached = [connection.call for connection in live if not connection.sink.aborted]
        for call in client.calls:
            if not call.end:
                assert call not in attached, "a reader was left without an answer at the end of its session"
                call.is_gone = True

    # -- the end

    def _finish(self) -> None:
        """Heal the server, let the clients come back, and wait: every call must find its end."""
        self.server.heal()
        until = self.front.clock.now() + LONGEST_SECONDS
        while any(client.pending for client in self.clients) and self.front.clock.now() < until:
            for attempt in self.server.waiting:
                if attempt.is_open:
                    self.server.serve(attempt)
            for call in self.server.running:
                if call.attempt is not None and call.attempt.is_open:
                    self.server.emit(call, is_last=True)
            while self.server.halves:
                self.server.go_on()
            for client in self.clients:
                client.read()
                for call in client.adrift:
                    client.resume(call)
                client.read()
            self.front.clock.advance(1.0)
        left = {call.serial for client in self.clients for call in client.pending}
        assert not left, f"calls that were never answered: {left}"

    def _close(self) -> None:
        """End every session: no exchange, timer or byte remains."""
        for client in self.clients:
            if client.session_id is not None and not client.is_over:
                self._delete(client)
        for _ in range(30):
            for attempt in self.server.waiting:
                if attempt.is_open:
                    self.server.serve(attempt)
            self.front.clock.advance(3.0)
        ctx = self.front.ctx
        for client in self.clients:
            if client.opening is not None:
                client.read()
            if client.session_id is not None and not client.is_over:
                self._delete(client)
        self.front.clock.advance(60.0)
        assert self.front.edge.open == []
        assert self.front.clock.pending() == self.quiet
        assert (len(self.front.registry), len(ctx.ids), ctx.budget.used, ctx.budget.held) == (0, 0, 0, 0)
        assert (ctx.passing, len(ctx.farewells), ctx.budget.logs) == (set(), 0, set())


@pytest.fixture(autouse=True)
def _large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every answer that comes in pieces be one that is large enough to go out in parts."""
    monkeypatch.setattr(call_module, "CuttingDecoder", partial(CuttingDecoder, cut_bytes=60))
    monkeypatch.setattr(memory, "GATHERED_BYTES", 8)


@pytest.mark.parametrize("group", range(GROUPS))
def test_whatever_happens_the_invariants_hold(group: int):
    """No interleaving of posts, cuts, resumes, cancels, outages, restarts, silence and time breaks I1 to I5."""
    for seed in range(group, SEEDS, GROUPS):
        try:
            Simulation(seed).run()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.long
@pytest.mark.parametrize("group", range(GROUPS))
def test_the_invariants_hold_for_many_more_dice(group: int):
    """The same, over five times as many seeds that the short run does not use."""
    for seed in range(SEEDS + group, 6 * SEEDS, GROUPS):
        try:
            Simulation(seed).run()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


def test_the_simulation_meets_what_it_is_for(monkeypatch: pytest.MonkeyPatch):
    """The dice reach every end a call can have and every kind of event: a simulation of nothing proves nothing."""
    ends: set[str] = set()
    verbs: set[str] = set()
    cuts: list[str] = []
    original = Feed._detach
    monkeypatch.setattr(Feed, "_detach", lambda feed, reason: (cuts.append(reason), original(feed, reason)))
    for seed in range(120):
        simulation = Simulation(seed)
        simulation.run()
        ends.update(call.end for client in simulation.clients for call in client.calls)
        verbs.update(simulation.front.observer.verbs)

    assert {"result", "stream_broken", "connection_broken", "session_closed", "cancelled", "gap", "http 429"} <= ends
    assert {"session_rebuilt", "stream_resumed", "gap_told", "resync_told", "answer_dropped"} <= verbs
    assert cuts.count("broken_off") > 10, "hardly an answer was broken off in the middle"
