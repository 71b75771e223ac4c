"""The dual map against a list of all bindings ever made, in both directions."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.core.idmap import Bound, IdMap
from proxy.core.ids import Generation, SessionId, UpstreamSessionId

SESSIONS = tuple(SessionId(f"session-{number}") for number in range(4))
UPSTREAMS = ("one", "two")
UPSTREAM_IDS = tuple(UpstreamSessionId(f"up-{number}") for number in range(3))


class IdMapModel(RuleBasedStateMachine):
    """Few sessions, upstreams and ids, so that every collision happens."""

    def __init__(self) -> None:
        super().__init__()
        self.map = IdMap()
        self.bound: dict[SessionId, Bound] = {}
        self.last_binder: dict[tuple[str, UpstreamSessionId], SessionId] = {}

    @rule(
        session_id=st.sampled_from(SESSIONS),
        upstream=st.sampled_from(UPSTREAMS),
        upstream_id=st.none() | st.sampled_from(UPSTREAM_IDS),
        generation=st.integers(1, 9).map(Generation),
    )
    def bind(
        self,
        session_id: SessionId,
        upstream: str,
        upstream_id: UpstreamSessionId | None,
        generation: Generation,
    ) -> None:
        """A session is bound, for the first time or anew; servers may hand out one id twice."""
        self.map.bind(session_id, upstream, upstream_id, generation)
        self.bound[session_id] = Bound(upstream, upstream_id, generation)
        if upstream_id is not None:
            self.last_binder[upstream, upstream_id] = session_id

    @rule(session_id=st.sampled_from(SESSIONS))
    def unbind(self, session_id: SessionId) -> None:
        """A session is parked or over, or never was bound."""
        self.map.unbind(session_id)
        self.bound.pop(session_id, None)

    @invariant()
    def sessions_lead_to_their_upstreams(self) -> None:
        """Each session is bound where it was bound last, or nowhere."""
        assert {session_id: self.map.upstream_of(session_id) for session_id in SESSIONS} == {
            session_id: self.bound.get(session_id) for session_id in SESSIONS
        }
        assert len(self.map) == len(self.bound)

    @invariant()
    def upstreams_lead_back_to_the_last_binder(self) -> None:
        """The reverse names who was bound to it last, while that one still is; nobody else."""
        for upstream in UPSTREAMS:
            for upstream_id in UPSTREAM_IDS:
                owner = self.last_binder.get((upstream, upstream_id))
                bound = self.bound.get(owner) if owner is not None else None
                is_still = bound is not None and (bound.upstream, bound.upstream_id) == (
                    upstream,
                    upstream_id,
                )

                assert self.map.session_of(upstream, upstream_id) == (owner if is_still else None)


TestIdMap = IdMapModel.TestCase


def test_both_directions_of_one_binding() -> None:
    """A bound session is found from either id."""
    ids = IdMap()
    ids.bind(SESSIONS[0], "one", UPSTREAM_IDS[0], Generation(1))

    assert ids.upstream_of(SESSIONS[0]) == Bound("one", UPSTREAM_IDS[0], Generation(1))
    assert ids.session_of("one", UPSTREAM_IDS[0]) == SESSIONS[0]
    assert ids.session_of("two", UPSTREAM_IDS[0]) is None


def test_a_rebuild_replaces_both_directions() -> None:
    """The lost upstream session leads nowhere, the new one to the session."""
    ids = IdMap()
    ids.bind(SESSIONS[0], "one", UPSTREAM_IDS[0], Generation(1))
    ids.bind(SESSIONS[0], "one", UPSTREAM_IDS[1], Generation(2))

    assert ids.session_of("one", UPSTREAM_IDS[0]) is None
    assert ids.session_of("one", UPSTREAM_IDS[1]) == SESSIONS[0]
    assert len(ids) == 1


def test_an_upstream_without_ids_is_bound_in_one_direction() -> None:
    """A server that issues no id can host any number of sessions."""
    ids = IdMap()
    ids.bind(SESSIONS[0], "one", None, Generation(1))
    ids.bind(SESSIONS[1], "one", None, Generation(1))
    ids.unbind(SESSIONS[0])

    assert ids.upstream_of(SESSIONS[0]) is None
    assert ids.upstream_of(SESSIONS[1]) == Bound("one", None, Generation(1))
