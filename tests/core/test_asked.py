"""The ids of server requests: shown as they are unless two could meet, bounded, and closed with their generation."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.core.asked import SERVER_REQUESTS, ServerRequests
from proxy.core.ids import Generation


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
    requests = ServerRequests()
    requests.admit(1, Generation(1))
    requests.admit(2, Generation(2))
    requests.close(Generation(1))

    assert requests.admit(1, Generation(2)) != 1
    assert requests.answer(1) == (0, 1)
    assert requests.answer(2) == (2, 2)


def test_unanswered_requests_are_bounded() -> None:
    """Beyond the bound the oldest is forgotten, and only that one."""
    requests = ServerRequests()
    for number in range(SERVER_REQUESTS + 1):
        requests.admit(number, Generation(1))

    assert requests.answer(0) is None
    assert requests.answer(1) == (1, 1)
    assert requests.answer(SERVER_REQUESTS) == (1, SERVER_REQUESTS)


def test_progress_belongs_to_who_asked() -> None:
    """By the token that the open request named, until it is answered; never by one that two generations use."""
    requests = ServerRequests()
    requests.admit(1, Generation(1), "t")
    requests.admit(2, Generation(2), "u")
    requests.admit(3, Generation(2))

    assert requests.owner_of_progress("t") == 1
    assert requests.owner_of_progress("u") == 2
    assert requests.owner_of_progress("v") is None
    requests.admit(4, Generation(2), "t")
    assert requests.owner_of_progress("t") is None
    requests.answer(4)
    assert requests.owner_of_progress("t") == 1
    requests.answer(1)
    assert requests.owner_of_progress("t") is None


def test_progress_of_a_closed_request_is_nobodys() -> None:
    """What a lost session asked is not told to the one that took its place."""
    requests = ServerRequests()
    requests.admit(1, Generation(1), "t")
    requests.close(Generation(1))

    assert requests.owner_of_progress("t") == 0


def test_tokens_are_forgotten_with_their_requests() -> None:
    """They are bounded by the requests that name them."""
    requests = ServerRequests()
    for number in range(SERVER_REQUESTS + 1):
        requests.admit(number, Generation(1), number)

    assert requests.owner_of_progress(0) is None
    assert requests.owner_of_progress(1) == 1
