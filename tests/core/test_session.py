"""The session's state tables, its bindings and their generations, and what it remembers for a rebuild."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.ids import Generation, SessionId
from proxy.core.revision import for_session
from proxy.core.session import (
    BINDING,
    RECORD_FORMAT,
    SESSION,
    Binding,
    BindingEvent,
    BindingState,
    Command,
    Rest,
    Session,
    SessionEvent,
    SessionState,
    may_read,
    rest,
)
from proxy.errors import IllegalTransition
from support.fakes import make_handshake
from support.inner import fields_of

B, E, C = BindingState, BindingEvent, Command
PAIRS = list(product(BindingState, BindingEvent))
DENIALS = (E.DENIED, E.DENIED_ELSEWHERE)
IMPOSSIBLE = {
    # Nobody makes an upstream session, so none can be made or refused.
    *product((B.UNBOUND, B.BOUND, B.LOST), (E.BUILT, E.FAILED, *DENIALS)),
    # The client's own handshake is answered once, before anything else.
    *product((B.BINDING, B.BOUND, B.LOST), (E.ADOPTED,)),
    # One that drains has been replaced: nobody needs it, and it is neither made anew nor parked.
    *product((B.DRAINING,), (E.ADOPTED, E.NEEDED, E.BUILT, E.FAILED, *DENIALS, E.IDLE, E.REPLACED)),
    *product((B.UNBOUND, B.BINDING, B.BOUND, B.LOST), (E.FINISHED,)),
}


def make_session(version: str = "2025-11-25", **promises: bool) -> Session:
    """Return an open session that nothing is bound to."""
    handshake = make_handshake(version, **promises)
    session = Session(SessionId("s" * 32), "/mcp", "default", handshake, for_session(version))
    session.receive(SessionEvent.ANSWERED)
    return session


def facts(binding: Binding) -> dict[str, object]:
    """Return everything a binding says of itself."""
    return {name: getattr(binding, name) for name in fields_of(Binding)}


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
    assert (C.FAIL_WAITING in commands) == (
        left == {B.BINDING} and to is not B.BOUND and event not in (*DENIALS, E.REPLACED)
    )
    assert (C.FAIL_DENIED in commands) == (event in DENIALS)
    assert (C.STOP_REBUILD in commands) == (left == {B.BINDING} and event in (E.IDLE, E.CLOSED, E.REPLACED))
    had_upstream = bool(left & {B.BOUND, B.DRAINING}) and to is not B.DRAINING
    assert (C.CLOSE_SERVER_REQUESTS in commands) == had_upstream
    assert (C.END_UPSTREAM in commands) == (had_upstream and to is B.UNBOUND)
    assert (C.CLOSE_STANDALONE in commands) == (had_upstream or (left == {B.BINDING} and to is not B.BOUND))
    assert (C.REBUILD_IF_WANTED in commands) == (left == {B.BOUND} and to is B.LOST)
    assert (C.REOPEN_LATER in commands) == (event is E.FAILED)
    assert (C.REOPEN_AT_HOME in commands) == (event is E.DENIED_ELSEWHERE)


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


def bound(session: Session, upstream: str) -> Binding:
    """Put a binding of its own in the place of the present one, as a move does."""
    binding = Binding(upstream)
    session.binding.receive(E.REPLACED)
    session.replace(binding)
    binding.receive(E.ADOPTED, session.next_generation())
    return binding


def test_a_replaced_binding_stays_while_it_drains() -> None:
    """New requests go to the one that took its place; it is forgotten when it is dropped."""
    session = make_session()
    session.binding.receive(E.ADOPTED)
    first = session.binding
    second = bound(session, "other")

    assert session.bindings == (first, second)
    assert (first.state, session.binding) == (B.DRAINING, second)

    session.drop(first)

    assert session.bindings == (second,)


def test_a_replaced_binding_without_upstream_session_is_forgotten_at_once() -> None:
    """There is nothing in it that could drain."""
    session = make_session()
    second = bound(session, "other")

    assert session.bindings == (second,)


def test_generations_rise_across_bindings() -> None:
    """Two upstream sessions of one session never share a number, also when they are made at the same time."""
    session = make_session()
    session.binding.receive(E.ADOPTED, session.next_generation())
    rebuilt, moved = session.next_generation(), session.next_generation()

    assert (session.binding.generation, rebuilt, moved) == (1, 2, 3)
    assert bound(session, "other").generation == 4


def test_the_number_of_an_upstream_session_that_did_not_come_about_is_given_again() -> None:
    """Only the last one given: an older one may have been passed by."""
    session = make_session()
    first, second = session.next_generation(), session.next_generation()
    session.return_generation(first)

    assert session.next_generation() == second + 1

    session.return_generation(Generation(second + 1))

    assert session.next_generation() == second + 1


def test_a_generation_that_does_not_rise_is_refused() -> None:
    """What is scoped by it would mix with what is older; nothing changes."""
    binding = binding_in(B.UNBOUND)

    with pytest.raises(IllegalTransition, match="generation 3 after 3"):
        binding.receive(E.ADOPTED, Generation(3))

    assert (binding.state, binding.generation) == (B.UNBOUND, 3)


def test_a_session_closes_what_a_lost_upstream_session_asked() -> None:
    """Also before anything was asked: then there is nothing to close."""
    session = make_session()
    session.close_server_requests(Generation(1))
    session.server_requests.admit(1, Generation(1))
    session.close_server_requests(Generation(1))

    assert session.server_requests.answer(1) == (0, 1)


def test_running_tasks_are_known_by_their_generation() -> None:
    """None in a new session; those of an upstream session that is gone run no more, and are still known."""
    session = make_session()

    assert not session.has_tasks

    session.tasks = {"t": Generation(3), "u": Generation(3), "lost": Generation(2)}
    for state in BindingState:
        session.binding = binding_in(state)
        is_there = state in (BindingState.BOUND, BindingState.DRAINING)

        assert (session.running_tasks, session.has_tasks) == (2 if is_there else 0, is_there)

    session.tasks = {"lost": Generation(2)}
    session.binding = binding_in(BindingState.BOUND)

    assert not session.has_tasks


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
