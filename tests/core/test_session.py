"""The session's state tables, what it remembers for a rebuild, and the ids of server requests."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.core.ids import Generation, SessionId
from proxy.core.revision import for_session
from proxy.core.session import (
    BINDING,
    RECORD_FORMAT,
    SERVER_REQUESTS,
    SESSION,
    Binding,
    BindingEvent,
    BindingState,
    Command,
    Rest,
    ServerRequests,
    Session,
    SessionEvent,
    SessionState,
    may_read,
    rest,
)
from proxy.errors import IllegalTransition
from support.fakes import make_handshake

B, E, C = BindingState, BindingEvent, Command
PAIRS = list(product(BindingState, BindingEvent))
IMPOSSIBLE = {
    # Nobody makes an upstream session, so none can be made or refused.
    *product((B.UNBOUND, B.BOUND, B.LOST), (E.BUILT, E.FAILED, E.DENIED)),
    # The client's own handshake is answered once, before anything else.
    *product((B.BINDING, B.BOUND, B.LOST), (E.ADOPTED,)),
}


def make_session(version: str = "2025-11-25", **promises: bool) -> Session:
    """Return an open session that nothing is bound to."""
    handshake = make_handshake(version, **promises)
    session = Session(SessionId("s" * 32), "/mcp", "default", handshake, for_session(version))
    session.receive(SessionEvent.ANSWERED)
    return session


def facts(binding: Binding) -> dict[str, object]:
    """Return everything a binding says of itself."""
    return {name: getattr(binding, name) for name in Binding.__slots__}


def binding_in(state: BindingState) -> Binding:
    """Return a binding that has come to *state* with its third generation."""
    binding = Binding("default")
    binding.state = state
    binding.generation = Generation(3)
    return binding


# -- the binding


def test_the_table_leaves_out_exactly_what_cannot_happen() -> None:
    """Every pair of state and event has a row, except those that would break the order of things."""
    assert {pair for pair in PAIRS if pair not in BINDING} == IMPOSSIBLE


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_a_pair_moves_by_its_row_or_changes_nothing(state: BindingState, event: BindingEvent) -> None:
    """A row gives state and commands; without one the binding raises and is what it was."""
    binding = binding_in(state)
    before = facts(binding)
    row = BINDING.get((state, event))

    if row is None:
        with pytest.raises(IllegalTransition, match=f"{event.value} in state {state.value}"):
            binding.receive(event)

        assert facts(binding) == before
        return

    assert binding.receive(event) == row.commands
    entered = row.state is B.BOUND and state is not B.BOUND
    assert facts(binding) == {**before, "state": row.state, "generation": 4 if entered else 3}


@given(st.lists(st.sampled_from(BindingEvent), max_size=40))
def test_generations_count_the_entries_into_bound(events: list[BindingEvent]) -> None:
    """Whatever happens in whatever order, the generation is the number of bindings so far."""
    binding = Binding("default")
    entries = 0
    for event in events:
        before = binding.state
        if (before, event) in BINDING:
            binding.receive(event)
            entries += binding.state is B.BOUND and before is not B.BOUND
        else:
            with pytest.raises(IllegalTransition):
                binding.receive(event)

            assert binding.state is before

    assert binding.generation == entries


@pytest.mark.parametrize("state", BindingState)
def test_a_closed_session_is_bound_to_nothing(state: BindingState) -> None:
    """The end of a session unbinds it, from every state."""
    binding = binding_in(state)

    binding.receive(E.CLOSED)

    assert binding.state is B.UNBOUND


@pytest.mark.parametrize(("state", "event"), list(BINDING))
def test_commands_belong_to_the_change_of_state(state: BindingState, event: BindingEvent) -> None:
    """Each command stands exactly in the rows whose change of state it is there for."""
    row = BINDING[state, event]
    to, commands = row.state, set(row.commands)
    left = {now for now in BindingState if state is now and to is not now}
    entered = to if to is not state else None

    assert (C.START_REBUILD in commands) == (entered is B.BINDING)
    assert (C.RAISE_GENERATION in commands) == (entered is B.BOUND)
    assert (C.TELL_RESYNC in commands) == (left == {B.BINDING} and to is B.BOUND)
    assert (C.SEND_WAITING in commands) == (left == {B.BINDING} and to is B.BOUND)
    assert (C.FAIL_WAITING in commands) == (left == {B.BINDING} and to is not B.BOUND and event is not E.DENIED)
    assert (C.FAIL_DENIED in commands) == (event is E.DENIED)
    assert (C.STOP_REBUILD in commands) == (left == {B.BINDING} and event in (E.IDLE, E.CLOSED))
    assert (C.CLOSE_SERVER_REQUESTS in commands) == (left == {B.BOUND})
    assert (C.END_UPSTREAM in commands) == (left == {B.BOUND} and to is B.UNBOUND)
    assert (C.CLOSE_STANDALONE in commands) == (left <= {B.BOUND, B.BINDING} and bool(left) and to is not B.BOUND)
    assert (C.REBUILD_IF_WANTED in commands) == (left == {B.BOUND} and to is B.LOST)
    assert (C.REOPEN_LATER in commands) == (event is E.FAILED)


def test_clients_hear_of_the_resync_before_their_calls_go_on() -> None:
    """What waits is sent after the log has the resync, so that an answer cannot overtake it."""
    commands = BINDING[B.BINDING, E.BUILT].commands

    assert commands.index(C.TELL_RESYNC) < commands.index(C.SEND_WAITING)
    assert commands.index(C.RAISE_GENERATION) < commands.index(C.TELL_RESYNC)


# -- the session


@pytest.mark.parametrize(("state", "event"), list(product(SessionState, SessionEvent)))
def test_a_session_moves_by_its_table_or_not_at_all(state: SessionState, event: SessionEvent) -> None:
    """A pair without a row raises and leaves the state alone."""
    session = make_session()
    session.state = state

    if (state, event) in SESSION:
        session.receive(event)

        assert session.state is SESSION[state, event]
        return
    with pytest.raises(IllegalTransition, match=f"{event.value} in state {state.value}"):
        session.receive(event)

    assert session.state is state


def test_a_closed_session_stays_closed() -> None:
    """CLOSED is final: it takes another close and nothing else."""
    leaving = {event: state for (before, event), state in SESSION.items() if before is SessionState.CLOSED}

    assert leaving == {SessionEvent.CLOSED: SessionState.CLOSED}


def test_a_new_session_is_a_record_of_the_present_format() -> None:
    """It starts unbound, without owner, with the first stream's number, and says its format."""
    session = make_session()

    assert session.format == RECORD_FORMAT
    assert session.principal is None
    assert session.next_stream == 1
    assert (session.binding,) == session.bindings
    assert (session.binding.state, session.binding.generation) == (B.UNBOUND, 0)
    assert session.binding.upstream == "default"


def test_requests_go_to_the_last_binding() -> None:
    """A session may hold several bindings; the newest is the present one."""
    session = make_session()
    session.bind_anew("other")

    assert session.binding.upstream == "other"


def test_server_requests_are_made_once() -> None:
    """The first use makes the table and every later use finds it."""
    session = make_session()
    session.server_requests.admit(7, Generation(1))

    assert session.server_requests.answer(7) == (1, 7)


# -- subscriptions and the resync


def test_a_session_remembers_so_many_subscriptions() -> None:
    """A new one beyond the limit is refused; one that is known already is not."""
    session = make_session()

    assert [session.subscribe(uri, 2) for uri in ("a", "b", "c", "a")] == [True, True, False, True]
    assert list(session.subscriptions or ()) == ["a", "b"]


def test_a_forgotten_subscription_makes_room() -> None:
    """Unsubscribing forgets; what was never subscribed is no error, first of all neither."""
    session = make_session()
    session.unsubscribe("a")
    session.subscribe("a", 1)
    session.unsubscribe("a")
    session.unsubscribe("a")

    assert session.subscribe("b", 1)
    assert list(session.subscriptions or ()) == ["b"]


@pytest.mark.parametrize("promised", [(), ("tools",), ("prompts",), ("resources",), ("tools", "resources", "prompts")])
def test_the_resync_says_what_was_promised(promised: tuple[str, ...]) -> None:
    """One `list_changed` for each promised list, none for the others."""
    session = make_session(**dict.fromkeys(promised, True))

    told = {method for method, params in session.resync() if params is None}

    assert told == {f"notifications/{name}/list_changed" for name in promised}


def test_the_resync_names_every_subscription() -> None:
    """Updates during an outage are lost, so each subscribed resource is told as updated, after the lists."""
    session = make_session(tools=True)
    session.subscribe("file:///b", 9)
    session.subscribe("file:///a", 9)

    assert session.resync() == [
        ("notifications/tools/list_changed", None),
        ("notifications/resources/updated", {"uri": "file:///b"}),
        ("notifications/resources/updated", {"uri": "file:///a"}),
    ]


# -- the clock's word


@given(
    *[st.floats(0, 100, allow_nan=False)] * 2,
    *[st.floats(1, 100, allow_nan=False)] * 2,
    st.just(0.0) | st.floats(1, 100),
)
def test_the_last_resort_is_the_last(
    idle: float, lived: float, upstream_limit: float, idle_limit: float, lifetime: float
) -> None:
    """The lifetime ends even an active session, idleness expires, then parks; a lifetime of 0 is none."""
    said = rest(idle=idle, lived=lived, upstream_idle_limit=upstream_limit, idle_limit=idle_limit, lifetime=lifetime)

    assert (said is Rest.END) == (lifetime > 0 and lived >= lifetime)
    if said is not Rest.END:
        assert (said is Rest.EXPIRE) == (idle >= idle_limit)
        assert (said is Rest.AWAKE) == (idle < min(idle_limit, upstream_limit))


@pytest.mark.parametrize(
    ("owner", "reader", "may"),
    [
        (None, None, True),
        (None, "anna", True),
        ("anna", "anna", True),
        ("anna", "bob", False),
        ("anna", None, False),
    ],
)
def test_only_its_owner_reads_an_owned_session(owner: str | None, reader: str | None, may: bool) -> None:
    """A session without an owner is anybody's who knows its id."""
    session = make_session()
    session.principal = owner

    assert may_read(session, reader) is may


# -- server requests


class ServerRequestModel(RuleBasedStateMachine):
    """Server requests of several generations against a plain list of (shown, generation, id)."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = ServerRequests()
        self.open: dict[tuple[type, object], tuple[int, object]] = {}

    ids = st.integers(0, 2) | st.sampled_from(["0", "1", "2", "mcp-session-proxy-2-1", "mcp-session-proxy-3-2"])
    generations = st.integers(1, 3).map(Generation)

    @rule(upstream_id=ids, generation=generations)
    def admit(self, upstream_id: int | str, generation: Generation) -> None:
        """A request comes from an upstream session, perhaps for the second time."""
        shown = self.requests.admit(upstream_id, generation)
        known = self.open.setdefault((type(shown), shown), (generation, upstream_id))

        assert known == (generation, upstream_id), "two requests are shown alike"
        assert type(known[1]) is type(upstream_id)

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """The client answers one of what it was shown, or something it never saw."""
        choices = [shown for _, shown in self.open] + [99, "99"]
        shown = data.draw(st.sampled_from(choices))
        expected = self.open.pop((type(shown), shown), None)

        got = self.requests.answer(shown)

        assert got == expected
        if got is not None and expected is not None:
            assert type(got[1]) is type(expected[1])

    @rule(generation=generations)
    def close(self, generation: Generation) -> None:
        """An upstream session is gone: its requests stay open for the client and lead to no generation."""
        self.requests.close(generation)
        for key, (owner, upstream_id) in self.open.items():
            if owner == generation:
                self.open[key] = (0, upstream_id)

    @rule(upstream_id=ids, generation=generations)
    def answer_unseen(self, upstream_id: int | str, generation: Generation) -> None:
        """An answer counts once: what was answered is not open any more."""
        shown = self.requests.admit(upstream_id, generation)
        self.open.pop((type(shown), shown), None)
        self.requests.answer(shown)

        assert self.requests.answer(shown) is None

    @invariant()
    def ids_differ_only_where_they_could_meet(self) -> None:
        """An id changes only where the same one is, or was, open for another request."""
        for (_, shown), (_, upstream_id) in self.open.items():
            assert shown == upstream_id or str(shown).startswith("mcp-session-proxy-")


TestServerRequests = ServerRequestModel.TestCase


def test_one_and_text_one_are_two_requests() -> None:
    """The ids 1 and "1" are open side by side and answered by their type."""
    requests = ServerRequests()
    requests.admit(1, Generation(1))
    requests.admit("1", Generation(2))

    assert requests.answer("1") == (2, "1")
    assert requests.answer(1) == (1, 1)


def test_a_request_told_twice_has_one_name() -> None:
    """A renamed request that the upstream sends again is shown under the same name."""
    requests = ServerRequests()
    assert requests.admit(1, Generation(1)) == 1
    renamed = requests.admit(1, Generation(2))

    assert renamed != 1
    assert requests.admit(1, Generation(2)) == renamed
    assert requests.answer(renamed) == (2, 1)
    assert requests.answer(1) == (1, 1)


def test_a_name_of_the_proxy_that_is_taken_is_passed_over() -> None:
    """An upstream that uses the proxy's own names gets no two requests shown alike."""
    requests = ServerRequests()
    taken = requests.admit("mcp-session-proxy-2-1", Generation(1))
    requests.admit(1, Generation(1))

    assert requests.admit(1, Generation(2)) == "mcp-session-proxy-2-2"
    assert requests.answer(taken) == (1, "mcp-session-proxy-2-1")


def test_a_closed_request_keeps_its_name_taken() -> None:
    """A lost session's open id is not given to a request of the next one, and its answer goes nowhere."""
    session = make_session()
    session.close_server_requests(Generation(1))
    session.server_requests.admit(1, Generation(1))
    session.server_requests.admit(2, Generation(2))
    session.close_server_requests(Generation(1))

    assert session.server_requests.admit(1, Generation(2)) != 1
    assert session.server_requests.answer(1) == (0, 1)
    assert session.server_requests.answer(2) == (2, 2)


def test_unanswered_requests_are_bounded() -> None:
    """Beyond the bound the oldest is forgotten, and only that one."""
    requests = ServerRequests()
    for number in range(SERVER_REQUESTS + 1):
        requests.admit(number, Generation(1))

    assert requests.answer(0) is None
    assert requests.answer(1) == (1, 1)
    assert requests.answer(SERVER_REQUESTS) == (1, SERVER_REQUESTS)
