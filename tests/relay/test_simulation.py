"""Random interleavings of clients, faults, operators and time, held against what must be true whatever happens.

I1 the exact sequence per stream, or a told discontinuity; I2 nothing of one session in another; I3 every request id
answered once, or its client is gone; I4 no call executed twice that may not be, none executed that was said not to
run; I5 nothing left after the end; I6 no two owners: a session has one present upstream session, an upstream session
one session, and one that no session has was ended; I7 room on a member is held exactly while a call runs there. The
models in `support.world` assert I1 to I4 where they happen; a failing seed is repeated by its number alone.
"""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from proxy.core import cut
from proxy.core.faults import FAULTS
from proxy.core.session import Binding, BindingState, Session
from proxy.relay.binder import Binder
from proxy.relay.call import Call
from proxy.relay.feed import Feed
from proxy.relay.leg import Leg
from proxy.relay.move import MoveOutcome, MoveResult
from proxy.relay.note import Note
from proxy.relay.opening import Opening
from proxy.relay.patience import Patience
from proxy.relay.rebuild import Rebuild
from proxy.relay.session import SessionRelay
from proxy.relay.sessionless import Sessionless
from proxy.relay.standalone import Standalone
from proxy.store import memory
from proxy.store.memory import MemoryLog
from proxy.upstream.gate import Gate
from proxy.upstream.member import Member, MemberState
from proxy.upstream.pool import Pool
from support.fakes import FakeEdge
from support.scenes import Front, break_off
from support.world import PROBE, SAFE_TOOLS, SMALL_WINDOW, UNSAFE_TOOLS, Books, Client, Guest, Server, ServerSession

SEEDS = 800
GROUPS = 8
STEPS = 200
LONGEST_SECONDS = 400.0
SERVERS = (1, 2, 2, 3)
CHECK_EVERY = 3
"""Steps between two looks at the books from inside: what is wrong there stays wrong."""
ENDS = {
    "result", "stream_broken", "connection_broken", "session_closed", "cancelled", "cancelled_unsent", "gap", "drained",
    "gateway_error", "upstream_silent", "upstream_session_lost", "unreachable", "queue_full", "queue_timeout",
    "http 429",
}  # fmt: skip
"""What the calls must come to, for the simulation to be one of everything."""
VERBS = {
    "session_rebuilt", "session_failed_over", "session_moved", "session_parked", "move_failed", "call_repeated",
    "stream_resumed", "gap_told", "resync_told", "answer_dropped", "upstream_ejected", "upstream_readmitted",
    "upstream_added", "upstream_draining", "upstream_removed",
}  # fmt: skip


class Simulation:
    """One seed's world."""

    def __init__(self, seed: int) -> None:
        dice = self.dice = random.Random(seed)
        is_small = dice.random() < 0.4
        small = {"events_per_stream": SMALL_WINDOW, "slow_reader_events": 3} if is_small else {}
        is_narrow = dice.random() < 0.3
        narrow = {"max_calls": 3, "max_session_calls": 2, "queue_limit": 3, "queue_timeout_seconds": 5.0}
        size = SERVERS[seed % len(SERVERS)]
        self.front = Front(
            upstreams=tuple("abc"[:size]),
            limits=narrow if is_narrow else {},
            resume_attempts=dice.choice([0, 1, 3]),
            completed_seconds=dice.choice([20.0, 600.0]),
            upstream_idle_seconds=dice.choice([30.0, 1800.0]),
            probe=dice.choice(["none", "mcp"]),
            eject_after_seconds=dice.choice([0.0, 1.0]),
            drain_timeout_seconds=dice.choice([3.0, 60.0]),
            attempts=dice.choice([0, 2]),
            ask_tools=dice.random() < 0.7,
            safe_tools=SAFE_TOOLS,
            unsafe_tools=UNSAFE_TOOLS,
            **small,
        )
        self.faults = dice.choice([0.0, 0.01, 0.04])
        self.orders = dice.choice([0.0, 0.02, 0.06])
        self.quiet = 1  # the registry's sweep; wheels and probes end with what they look at
        self.books = Books()
        self.server_options = {"lost_status": dice.choice([404, 404, 400]), "may_repeat": not is_small}
        self.names = count(1)
        self.servers: dict[Member, Server] = {}
        for member in self.pool.members:
            self._set_up(member)
        self.pool.on_ejected.insert(0, self._ejected)
        self.ordered = 0
        self.reported: Counter[str] = Counter()
        serials = count(1)
        self.clients = [
            Client(self.front, f"client-{number}", dice, serials) for number in range(dice.choice([1, 2, 3]))
        ]
        self.guest = Guest(self.front, dice, serials)
        for client in self.clients:
            client.open()

    @property
    def pool(self) -> Pool:
        """The pool of the one route."""
        return self.front.ctx.pool

    @property
    def relays(self) -> list[SessionRelay]:
        """The sessions there are."""
        return list(self.front.registry.relays)

    def _set_up(self, member: Member) -> None:
        assert isinstance(member.edge, FakeEdge)
        self.servers[member] = Server(member.edge, self.dice, self.books, name=member.key, **self.server_options)

    async def run(self) -> None:
        """Let chance rule, then let everything come to its end."""
        for number in range(STEPS):
            self._step()
            for client in self.clients:
                client.read()
            self.guest.read()
            if number % CHECK_EVERY == 0:
                self._check()
            if self.pool._tasks:
                await asyncio.sleep(0)
        self._finish()
        self._check()
        await self._close()

    def _step(self) -> None:
        dice = self.dice
        chance = dice.random()
        if chance < 0.36:
            self._serve()
        elif chance < 0.6:
            self._stream(dice.choice(list(self.servers.values())))
        elif chance < 0.6 + self.faults:
            self._fault(dice.choice(list(self.servers.values())))
        elif chance < 0.6 + self.faults + self.orders:
            self._order()
        elif chance < 0.74:
            self.front.clock.advance(dice.choice([0.0, 0.05, 0.3, 0.3, 1.0, 1.0, 3.0, 3.0, 12.0, 40.0]))
        else:
            for server in self.servers.values():
                if not server.is_up and dice.random() < 0.3:
                    server.rise()
                elif server.is_stopped and dice.random() < 0.1:
                    server.go_on_running()
            if dice.random() < 0.08:
                self.guest.go() if self.guest.pending and dice.random() < 0.2 else self.guest.call()
            else:
                self._act(dice.choice(self.clients))

    def _serve(self) -> None:
        self._cut_closed()
        for server in self.servers.values():
            waiting = server.waiting
            for attempt in self.dice.sample(waiting, min(len(waiting), self.dice.choice([1, 2, 5]))):
                if attempt.is_open:
                    server.serve(attempt)

    def _cut_closed(self) -> None:
        """Let an edge that is closed end what it has, and take nothing more."""
        for server in self.servers.values():
            if server.edge.is_closed and server.is_up:
                server.fall()

    def _stream(self, server: Server) -> None:
        dice = self.dice
        if not server.is_there:
            return
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

    def _fault(self, server: Server) -> None:
        chance = self.dice.random()
        if not server.is_up:
            server.rise()
        elif server.is_stopped:
            server.go_on_running()
        elif chance < 0.4:
            server.fall()
        elif chance < 0.7:
            server.stop()
        else:
            server.forget()

    # -- the operator

    def _order(self) -> None:
        dice, pool = self.dice, self.pool
        active = [member for member in pool.members if member.state is MemberState.ACTIVE]
        draining = [member for member in pool.members if member.state is MemberState.DRAINING]
        actions: list[tuple[float, bool, Callable[[], None]]] = [
            (8, bool(self.relays), lambda: self._move(dice.choice(self.relays), dice.choice(pool.members))),
            (2, len(active) > 1, lambda: self._drain(dice.choice(active))),
            (1, bool(draining), lambda: pool.undrain(dice.choice(draining))),
            (2, len(active) > 1 and bool(draining), lambda: pool.remove(dice.choice(draining))),
            (0.5, len(active) > 1, lambda: pool.remove(dice.choice(active))),
            (2, len(pool.members) < 3 and len(self.servers) > 1, self._add),
            (1, bool(self.relays), lambda: self._pin(dice.choice(self.relays))),
            (1, bool(self.relays), lambda: self._interrupt(dice.choice(self.relays))),
        ]
        possible = [(weight, verb) for weight, is_possible, verb in actions if is_possible]
        if possible:
            dice.choices([verb for _, verb in possible], [weight for weight, _ in possible])[0]()

    def _add(self) -> None:
        config = self.dice.choice(self.pool.members).config
        self._set_up(self.pool.add(config))

    def _drain(self, member: Member) -> None:
        self.pool.drain(member)
        for relay in self.relays:
            if relay.leg.member is member:
                self._move(relay, self.pool.successor(member))

    def _move(self, relay: SessionRelay, member: Member) -> None:
        self.ordered += 1
        told: list[MoveResult] = []

        def report(result: MoveResult) -> None:
            assert not told, f"a move that ended twice: {told[0]}, then {result}"
            told.append(result)
            self.reported[result.outcome.value] += 1

        relay.move(member, report, is_forced=self.dice.random() < 0.5)

    def _pin(self, relay: SessionRelay) -> None:
        relay.is_pinned = not relay.is_pinned

    def _interrupt(self, relay: SessionRelay) -> None:
        relay.interrupt()
        assert not relay.calls, "a call went on although it was interrupted"

    def _ejected(self, member: Member) -> None:
        # Nobody says goodbye to a server that is taken for dead.
        self.servers[member].doubted.update(self.servers[member].sessions)

    # -- the clients

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

    # -- what holds after every step

    def _check(self) -> None:
        """Hold I6 and I7, as far as they can be seen from inside."""
        rooms: Counter[Member] = Counter(
            member for member in self.servers for each in self.front.ctx.passing if _room_of(each) is member.gate
        )
        homes: Counter[Member] = Counter()
        owners: dict[tuple[Member, str], SessionRelay] = {}
        for relay in self.relays:
            homes[relay.leg.member] += 1
            assert relay.session.bindings == (*(leg.binding for leg in relay.older), relay.leg.binding)
            assert all(leg.binding.state is BindingState.DRAINING for leg in relay.older)
            assert relay.calls or not relay.older, "an older binding in which nothing can run"
            used = Counter(id(call._leg) for call in set(relay.calls.values()) if call._leg is not None)
            for leg in {relay.leg, *relay.older, *(call._leg for call in relay.calls.values() if call._leg)}:
                rooms[leg.member] += leg.running
                assert leg.running == used[id(leg)], "room of a session that no call holds"
                upstream_id = leg.binding.upstream_id
                if (
                    upstream_id is not None
                    and leg.is_bound(leg.binding.generation)
                    and leg in (relay.leg, *relay.older)
                ):
                    other = owners.setdefault((leg.member, upstream_id), relay)
                    assert other is relay, "an upstream session with two owners"
        for member in self.servers:
            assert member.gate.running == rooms[member], f"{member.key}: room that no call holds"
            assert member.gate.running <= member.gate.limit
            assert member.sessions == homes[member], f"{member.key}: {member.sessions} sessions, not {homes[member]}"

    def _unowned(self) -> list[str]:
        """Name the upstream sessions that are there although no session has them and nobody doubted them."""
        owned = {
            (leg.member, leg.binding.upstream_id)
            for relay in self.relays
            for leg in (relay.leg, *relay.older)
            if leg.is_bound(leg.binding.generation)
        }
        return [
            session.label
            for member, server in self.servers.items()
            for session in server.sessions.values()
            if (member, session.id) not in owned and not self._is_excused(server, session)
        ]

    def _is_excused(self, server: Server, session: ServerSession) -> bool:
        return session.client == PROBE or session.id in server.doubted or server.edge.is_closed

    # -- the end

    def _finish(self) -> None:
        """Heal the servers, let the clients come back, and wait: every call must find its end."""
        for server in self.servers.values():
            if not server.edge.is_closed:
                server.heal()
        until = self.front.clock.now() + LONGEST_SECONDS
        while self._is_waiting and self.front.clock.now() < until:
            self._serve_all()
            for server in self.servers.values():
                for call in server.running:
                    if call.attempt is not None and call.attempt.is_open:
                        server.emit(call, is_last=True)
                while server.halves:
                    server.go_on()
            for client in self.clients:
                client.read()
                for call in client.adrift:
                    client.resume(call)
                client.read()
            self.guest.read()
            self.front.clock.advance(1.0)
        left = {call.serial for client in self.clients for call in client.pending} | set(self.guest.pending)
        assert not left, f"calls that were never answered: {left}"

    @property
    def _is_waiting(self) -> bool:
        return bool(self.guest.pending) or any(client.pending for client in self.clients)

    def _serve_all(self) -> None:
        self._cut_closed()
        for server in self.servers.values():
            for attempt in server.waiting:
                if attempt.is_open:
                    server.serve(attempt)

    async def _close(self) -> None:
        """End every session: no exchange, timer or byte remains."""
        for client in self.clients:
            if client.session_id is not None and not client.is_over:
                self._delete(client)
        for _ in range(30):
            self._serve_all()
            self.front.clock.advance(3.0)
        ctx = self.front.ctx
        for client in self.clients:
            if client.opening is not None:
                client.read()
            if client.session_id is not None and not client.is_over:
                self._delete(client)
        for _ in range(5):
            self._serve_all()
            self.front.clock.advance(3.0)
        unowned = self._unowned()
        assert not unowned, f"upstream sessions that nobody ended: {unowned}"
        ends = {call.serial: call.end for client in self.clients for call in client.calls} | self.guest.ends
        for serial, end in ends.items():
            outcome = FAULTS[end].outcome if end in FAULTS else ""
            assert outcome != "not_run" or serial not in self.books.executions, f"{end}, and yet it ran"
        self._check()
        await self.pool.close()
        self.front.clock.advance(60.0)
        assert sum(self.reported.values()) == self.ordered
        assert [edge for server in self.servers.values() if (edge := server.edge).open] == []
        assert self.front.clock.pending() == self.quiet
        assert (len(self.front.registry), len(ctx.ids), ctx.budget.used, ctx.budget.held) == (0, 0, 0, 0)
        assert (ctx.passing, len(ctx.farewells), ctx.budget.logs) == (set(), 0, set())


def _room_of(passing: object) -> Gate | None:
    return passing._room if isinstance(passing, Sessionless) else None


@pytest.fixture(autouse=True)
def _large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every answer that comes in pieces be one that is large enough to go out in parts."""
    monkeypatch.setattr(cut, "CUT_BYTES", 60)
    monkeypatch.setattr(memory, "GATHERED_BYTES", 8)


@pytest.mark.parametrize("group", range(GROUPS))
async def test_whatever_happens_the_invariants_hold(group: int):
    """No interleaving of posts, cuts, resumes, cancels, outages, moves, drains, silence and time breaks I1 to I7."""
    for seed in range(group, SEEDS, GROUPS):
        try:
            await Simulation(seed).run()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.long
@pytest.mark.parametrize("group", range(GROUPS))
async def test_the_invariants_hold_for_many_more_dice(group: int):
    """The same, over five times as many seeds that the short run does not use."""
    for seed in range(SEEDS + group, 6 * SEEDS, GROUPS):
        try:
            await Simulation(seed).run()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def _alive() -> Counter[str]:
    """Count what a session is made of, after what nobody holds has gone."""
    gc.collect()
    # Finalizers of the first round let go of more.
    gc.collect()
    kinds = (SessionRelay, Call, Note, Leg, Binder, Rebuild, Opening, Standalone, Patience, MemoryLog, Session, Binding)
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in kinds)


async def test_nothing_of_a_session_outlives_it():
    """What refers to itself is found by the collector: compiled classes tell it what they hold, which may be wrong."""
    before = _alive()
    for seed in range(40):
        await Simulation(seed).run()

    assert _alive() - before == Counter()


@pytest.mark.interpreted
async def test_the_simulation_meets_what_it_is_for(monkeypatch: pytest.MonkeyPatch):
    """The dice reach every end a call can have and every kind of event: a simulation of nothing proves nothing."""
    ends: set[str] = set()
    verbs: set[str] = set()
    cuts: list[str] = []
    reported: Counter[str] = Counter()
    repeated = 0
    original = Feed._detach
    monkeypatch.setattr(Feed, "_detach", lambda feed, reason: (cuts.append(reason), original(feed, reason)))
    for seed in range(120):
        simulation = Simulation(seed)
        await simulation.run()
        ends.update(call.end for client in simulation.clients for call in client.calls)
        verbs.update(simulation.front.observer.verbs)
        reported += simulation.reported
        repeated += sum(number > 1 for number in simulation.books.executions.values())

    assert ENDS - ends == set()
    assert VERBS - verbs == set()
    assert set(reported) == {outcome.value for outcome in MoveOutcome}
    assert cuts.count("broken_off") > 5, "hardly an answer was broken off in the middle"
    assert repeated > 30, "hardly a call was executed twice"
