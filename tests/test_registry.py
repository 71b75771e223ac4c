"""The sessions of a process: opened, found, bounded, swept, drained and ended."""

import pytest

from proxy.core import headers as h
from proxy.core.head import Head
from proxy.core.idmap import Bound
from proxy.core.session import BindingState, CloseReason, SessionState
from proxy.observe.hooks import NOOP, Drained, SessionClosed, SessionOpened
from proxy.registry import SWEEP_SECONDS, Registry
from proxy.relay.opening import Opening
from support.fakes import (
    FakeSink,
    edge_of,
    initialize_body,
    listen,
    make_context,
    make_handshake,
    open_session,
    post,
    request_body,
)


def test_an_opened_session_is_found_by_its_own_id() -> None:
    """Not by the upstream's, and by no other."""
    registry = Registry(make_context())
    relay = open_session(registry, upstream_id="up-1")

    assert registry.find(relay.session.id) is relay
    assert registry.find("up-1") is None
    assert registry.find("") is None
    assert len(registry) == 1


def test_every_session_has_an_id_and_an_epoch_of_its_own() -> None:
    """32 characters of which nothing comes from the upstream, and 12 for the log."""
    registry = Registry(make_context())
    relays = [open_session(registry, upstream_id="same") for _ in range(50)]

    assert len({relay.session.id for relay in relays}) == 50
    assert len({relay.log.epoch for relay in relays}) == 50
    assert {len(relay.session.id) for relay in relays} == {32}
    assert {len(relay.log.epoch) for relay in relays} == {12}


@pytest.mark.parametrize("upstream_id", ["up-1", None])
def test_a_new_session_is_bound_for_the_first_time(upstream_id: str | None) -> None:
    """Open, bound in generation 1, and entered into the dual map, also where the upstream gives no id."""
    ctx = make_context(name="files")
    registry = Registry(ctx)
    session = open_session(registry, upstream_id=upstream_id, version="2025-06-18").session

    assert session.state is SessionState.OPEN
    assert (session.binding.state, session.binding.generation) == (BindingState.BOUND, 1)
    assert ctx.ids.upstream_of(session.id) == Bound("files", upstream_id, 1)
    assert session.route == ctx.route
    assert session.revision.version == "2025-06-18"
    if upstream_id is not None:
        assert ctx.ids.session_of("files", upstream_id) == session.id


def test_an_opening_is_observed() -> None:
    """The record names the session by its fingerprint, the request, the upstream and the version."""
    ctx = make_context(name="files")
    relay = open_session(ctx)

    assert ctx.observer.told == [
        (
            "session_opened",
            SessionOpened(
                session=ctx.fingerprint(relay.session.id),
                request_id="opening",
                upstream="files",
                protocol_version="2025-11-25",
            ),
        )
    ]


def test_a_registry_is_full_at_its_bound() -> None:
    """Old sessions are never ended for a new one; an end makes room."""
    registry = Registry(make_context(max_sessions=2))
    assert not registry.is_full
    first = open_session(registry)
    assert not registry.is_full
    open_session(registry)
    assert registry.is_full

    first.close(CloseReason.DELETED)

    assert not registry.is_full


def test_openings_under_way_take_their_place() -> None:
    """An `initialize` that may become a session counts as one until it is answered."""
    ctx = make_context(max_sessions=1)
    registry = Registry(ctx)
    Opening(ctx, 0, Head("POST", "/mcp", []), initialize_body(), FakeSink(), registry.open).begin()

    assert registry.is_full

    edge_of(ctx).last.json(400, b"{}")

    assert not registry.is_full


def test_a_closed_session_is_gone() -> None:
    """Neither the id nor the binding leads anywhere, and the upstream is told with the client's credentials."""
    ctx = make_context()
    registry = Registry(ctx)
    relay = open_session(registry, headers=[("Authorization", "Bearer two")])
    other = open_session(registry, upstream_id="up-2")

    relay.close(CloseReason.DELETED)

    assert registry.find(relay.session.id) is None
    assert registry.find(other.session.id) is other
    assert ctx.ids.upstream_of(relay.session.id) is None
    assert ctx.ids.session_of(ctx.upstream.name, "up-1") is None
    goodbye = edge_of(ctx).one(method="DELETE")
    assert goodbye.upstream_id == "up-1"
    assert goodbye.header("Authorization") == "Bearer two"


def test_completed_streams_are_swept() -> None:
    """The registry looks after their time, again and again, on one timer."""
    ctx = make_context(completed_seconds=5.0)
    registry = Registry(ctx)
    relay = open_session(registry)
    for _ in range(2):
        stream = relay.open_stream((1,))
        relay.log.append(stream, b"message", b"{}", None, terminal=True)
        ctx.clock.advance(5.0 - SWEEP_SECONDS)

        assert relay.log.find(stream.id) is stream

        ctx.clock.advance(2 * SWEEP_SECONDS)

        assert relay.log.find(stream.id) is None


def test_a_drain_ends_standalone_streams_alone() -> None:
    """Streams of running calls stay, and the sessions too."""
    ctx = make_context(upgrade_after_seconds=0.0)
    registry = Registry(ctx)
    relay = open_session(registry)
    standalone = listen(relay)
    edge_of(ctx).one(method="GET").sse()
    call = post(relay, request_body("tools/call", 1))
    ctx.clock.advance()

    registry.begin_drain()

    assert registry.is_draining
    assert standalone.finished
    assert call.status == 200
    assert not call.is_over
    assert registry.find(relay.session.id) is relay


def test_running_calls_are_known() -> None:
    """A call counts until its answer, an opening likewise; an idle session does not."""
    ctx = make_context()
    registry = Registry(ctx)
    assert not registry.has_running_calls
    relay = open_session(registry)
    assert not registry.has_running_calls

    post(relay, request_body("tools/call", 1))
    assert registry.has_running_calls
    edge_of(ctx).last.json()
    assert not registry.has_running_calls

    Opening(ctx, 0, Head("POST", "/mcp", []), initialize_body(), FakeSink(), registry.open).begin()
    assert registry.has_running_calls
    edge_of(ctx).last.json(500, b"{}")
    assert not registry.has_running_calls


def test_the_end_tells_everybody() -> None:
    """Running calls get their error, streams their clean end, openings too, and each upstream its DELETE."""
    ctx = make_context(upgrade_after_seconds=0.0)
    registry = Registry(ctx)
    one, two = open_session(registry, upstream_id="up-1"), open_session(registry, upstream_id="up-2")
    plain = post(one, request_body("tools/call", 1), headers=[])
    streamed = post(two, request_body("tools/call", "1"))
    ctx.clock.advance()
    opening = FakeSink()
    Opening(ctx, 0, Head("POST", "/mcp", []), initialize_body(), opening, registry.open).begin()
    listener = listen(one)
    edge_of(ctx).one(method="GET").sse()

    registry.begin_drain()
    ctx.clock.advance(3.0)
    registry.end()

    assert len(registry) == 0
    for sink, request_id in ((plain, 1), (streamed, "1")):
        (told,) = sink.messages
        assert told["id"] == request_id
        assert told["error"]["data"]["reason"] == "shutdown"
        assert sink.finished
    assert opening.json()["error"]["data"]["reason"] == "shutdown"
    assert listener.finished
    assert {attempt.upstream_id for attempt in edge_of(ctx).find(method="DELETE")} == {"up-1", "up-2"}
    assert not [attempt for attempt in edge_of(ctx).open if attempt.method != "DELETE"]
    assert ctx.observer.of("session_closed") == [
        SessionClosed(session=relay.fingerprint, reason="shutdown") for relay in (one, two)
    ]
    assert ctx.observer.of("drained") == [Drained(streams=1, aborted=3, waited_seconds=3.0)]
    assert len(ctx.ids) == 0
    assert ctx.budget.used == 0


def test_an_end_without_observer_ends_as_well() -> None:
    """Nothing is recorded, everything is closed."""
    ctx = make_context(observer=NOOP)
    registry = Registry(ctx)
    relay = registry.open(make_handshake(), None, [], "", ctx.pool.members[0])

    registry.end()

    assert relay.session.state is SessionState.CLOSED
    assert len(registry) == 0
    assert not edge_of(ctx).find(method="DELETE")


def test_a_clients_answer_names_the_session_and_not_the_upstreams() -> None:
    """From the first answer on a client sees one id, the proxy's."""
    ctx = make_context()
    relay = open_session(ctx, upstream_id="up-1")
    sink = post(relay, request_body("tools/list", 1))
    edge_of(ctx).last.json(200, headers=[(h.SESSION_ID, "up-1")])

    assert edge_of(ctx).last.upstream_id == "up-1"
    assert h.get_all(sink.headers, h.SESSION_ID) == [relay.session.id]
