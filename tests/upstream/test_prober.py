"""Asking members whether they are well: what each kind of probe asks, what it takes for an answer, and when."""

import json
from typing import Any, cast

import pytest

from proxy.config import Health, Upstream
from proxy.core.headers import Headers
from proxy.observe.hooks import NOOP
from proxy.upstream.base import Loss
from proxy.upstream.member import Member
from proxy.upstream.prober import MOST_BYTES, Prober
from support.fakes import JSON_TYPE, SSE_TYPE, Attempt, FakeClock, FakeEdge, initialize_answer, result_body

SESSION: Headers = [("Mcp-Session-Id", "probe-session")]


class Asked:
    """A member, and a note of what is said of it."""

    def __init__(self, member: Member, said: list[tuple[str, bool]]) -> None:
        self._member = member
        self._said = said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    def probed(self, is_well: bool) -> None:
        """Note it, and go on."""
        self._said.append((self._member.name, is_well))
        self._member.probed(is_well)


class Watch:
    """A prober with members whose edges are played by the test, and what it said of each."""

    def __init__(self, names: str = "ab", jitter: float = 0.5, **settings: Any) -> None:
        self.clock = FakeClock()
        self.clock.jitter_value = jitter
        self.health = Health(**{"interval_seconds": 10.0, "timeout_seconds": 2.0, **settings})
        self.members: list[Member] = []
        self.said: list[tuple[str, bool]] = []
        self.prober = Prober(self.health, self.clock, lambda: self.members)
        for name in names:
            self.join(name)

    def join(self, name: str) -> Member:
        """Let a member join."""
        asked = Member(Upstream(name=name), name, FakeEdge(self.clock), self.clock, NOOP, self.health)
        member = cast("Member", Asked(asked, self.said))
        member.take_role(is_alone=False, is_last_resort=False, is_probed=True)
        self.members.append(member)
        self.prober.review()
        return member

    def edge(self, name: str = "a") -> FakeEdge:
        """Return the edge of a member."""
        edge = next(member.edge for member in self.members if member.name == name)
        assert isinstance(edge, FakeEdge)
        return edge

    def ask(self) -> Attempt:
        """Go on to the first question to the first member and return it."""
        self.clock.advance(5.0)
        return self.edge().one()

    def verdict(self) -> bool | None:
        """Return what was said of the first member, at most once."""
        said = [is_well for name, is_well in self.said if name == "a"]
        assert len(said) <= 1
        return said[0] if said else None

    def asked_at(self, seconds: float, name: str = "a", *, is_well: bool = True) -> list[float]:
        """Answer every question for a while; return when they were asked."""
        began, asked = self.clock.now(), []
        while self.clock.now() - began < seconds:
            self.clock.advance(0.25)
            for each in self.members:
                edge = self.edge(each.name)
                while edge.reaches:
                    edge.reached(is_well)
                    if each.name == name:
                        asked.append(round(self.clock.now() - began, 2))
        return asked


# -- MCP


def test_the_handshake_is_a_client_s() -> None:
    """A POST of `initialize` on a connection of its own, with a name of its own and an identity coding."""
    attempt = Watch().ask()
    message = attempt.message

    assert (attempt.method, attempt.rpc, attempt.request.fresh, attempt.request.path) == (
        "POST",
        "initialize",
        True,
        "",
    )
    assert message["params"]["protocolVersion"] == "2025-11-25"
    assert message["params"]["clientInfo"]["name"] == "mcp-session-proxy-probe"
    assert attempt.header("Accept") == "application/json, text/event-stream"
    assert attempt.header("Accept-Encoding") == "identity"
    assert attempt.header("Content-Type") == "application/json"
    assert attempt.header("Mcp-Session-Id") is None


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_result_is_well_and_its_session_is_ended(is_stream: bool) -> None:
    """As JSON or as an event stream, which is not read to its end; the DELETE names the probe's session."""
    watch = Watch()
    attempt = watch.ask()
    answer = initialize_answer(request_id=attempt.message["id"])
    if is_stream:
        attempt.sse(SESSION)
        attempt.frame(b"", "priming")
        attempt.frame({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
        attempt.frame(answer)
        assert attempt.is_aborted
    else:
        attempt.json(200, answer, SESSION)

    assert watch.verdict() is True
    farewell = watch.edge().one()
    assert (farewell.method, farewell.request.fresh) == ("DELETE", True)
    assert farewell.header("Mcp-Session-Id") == "probe-session"
    assert farewell.header("MCP-Protocol-Version") == "2025-11-25"

    farewell.answer(200)
    assert watch.edge().open == []
    assert watch.verdict() is True


def test_without_a_session_there_is_none_to_end() -> None:
    """A server that assigns no id has nothing to forget."""
    watch = Watch()
    attempt = watch.ask()
    attempt.json(200, initialize_answer(request_id=attempt.message["id"]))

    assert (watch.verdict(), watch.edge().open) == (True, [])


@pytest.mark.parametrize("status", [401, 403, 429])
def test_one_that_wants_credentials_is_there(status: int) -> None:
    """Who asks is not known to it, or asks too often: it works."""
    watch = Watch()
    watch.ask().answer(status)

    assert (watch.verdict(), watch.edge().open) == (True, [])


@pytest.mark.parametrize("status", [301, 307, 500, 502, 503, 504])
def test_one_that_fails_is_not_well(status: int) -> None:
    """A redirect is not followed: clients would not be, either."""
    watch = Watch()
    watch.ask().head(status, [("Location", "http://elsewhere.example/mcp")])

    assert (watch.verdict(), watch.edge().open) == (False, [])


@pytest.mark.parametrize("loss", list(Loss))
def test_one_that_is_not_there_is_not_well(loss: Loss) -> None:
    """Whether nobody listens or the answer breaks off."""
    watch = Watch()
    watch.ask().lost(loss)

    assert watch.verdict() is False


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html>welcome</html>"),
        ("application/json", b""),
        ("application/json", b"{}"),
        ("application/json", b"[1]"),
        ("application/json", b'{"jsonrpc":"2.0","id":"another","result":{}}'),
        ("application/json", b'{"jsonrpc":"2.0","id":"probe-1","method":"ping"}'),
        ("text/event-stream", b""),
        ("text/event-stream", b"data: {}\n\n"),
        ("text/event-stream", b'data: {"jsonrpc":"2.0","id":"probe-1","result":{}}\n'),
    ],
)
def test_what_is_no_answer_is_not_well(content_type: str, body: bytes) -> None:
    """HTML, nothing, another message, another one's answer, half an event."""
    watch = Watch()
    watch.ask().answer(200, [("Content-Type", content_type)], body)

    assert watch.verdict() is False


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_an_endless_answer_is_cut(content_type: str) -> None:
    """After so many bytes; nothing more of it is kept."""
    watch = Watch()
    attempt = watch.ask()
    attempt.head(200, [("Content-Type", content_type)])
    for _ in range(MOST_BYTES // 65_536):
        attempt.data(b"x" * 65_536)
    assert watch.verdict() is None
    attempt.data(b"x")

    assert watch.verdict() is False
    assert attempt.is_aborted


@pytest.mark.parametrize("begun", [False, True])
def test_silence_is_not_well(begun: bool) -> None:
    """After the time a probe has, whatever has come until then; what comes later is not heard."""
    watch = Watch()
    attempt = watch.ask()
    if begun:
        attempt.head(200, [SSE_TYPE, *SESSION])
    watch.clock.advance(1.99)
    assert watch.verdict() is None
    watch.clock.advance(0.01)

    assert watch.verdict() is False
    assert attempt.is_aborted
    assert [left.method for left in watch.edge().open] == (["DELETE"] if begun else [])


@pytest.mark.parametrize("refusal", ["error", "400", "404", "405", "406"])
@pytest.mark.parametrize(("answer", "is_well"), [("result", True), ("error", False), ("404", False), ("503", False)])
def test_one_that_knows_no_handshake_is_asked_as_modern_servers_are(refusal: str, answer: str, is_well: bool) -> None:
    """With `server/discover`, whose headers say what the body says; any result will do."""
    watch = Watch()
    attempt = watch.ask()
    reply(attempt, refusal)
    second = watch.edge().one()

    assert (second.rpc, second.request.fresh) == ("server/discover", True)
    assert second.header("MCP-Protocol-Version") == "2026-07-28"
    assert second.header("Mcp-Method") == "server/discover"
    meta = second.message["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientInfo"]["name"] == "mcp-session-proxy-probe"
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {}

    reply(second, answer)

    assert (watch.verdict(), watch.edge().open) == (is_well, [])


def reply(attempt: Attempt, answer: str) -> None:
    """Answer with a result, an error or a status."""
    if answer == "result":
        attempt.json(200, result_body(attempt.message["id"]))
    elif answer == "error":
        error = {"code": -32601, "message": "Method not found"}
        attempt.json(200, {"jsonrpc": "2.0", "id": attempt.message["id"], "error": error})
    else:
        attempt.head(int(answer), [])


def test_both_questions_share_one_time() -> None:
    """A second question does not double the wait."""
    watch = Watch()
    attempt = watch.ask()
    watch.clock.advance(1.5)
    attempt.answer(404)
    watch.clock.advance(0.5)

    assert (watch.verdict(), watch.edge().open) == (False, [])


def test_each_answer_has_its_own_bound() -> None:
    """What the first one took is not missing to the second."""
    watch = Watch()
    attempt = watch.ask()
    attempt.head(200, [JSON_TYPE])
    attempt.data(b" " * (MOST_BYTES - 1000))
    attempt.data(json.dumps({"jsonrpc": "2.0", "id": attempt.message["id"], "error": {"code": 1}}).encode())
    attempt.end()
    second = watch.edge().one()
    second.head(200, [JSON_TYPE])
    second.data(b" " * (MOST_BYTES - 1000))
    second.data(result_body(second.message["id"]))
    second.end()

    assert watch.verdict() is True


def test_an_illegal_session_id_is_not_repeated() -> None:
    """What came in a header does not go out in another without a look."""
    watch = Watch()
    attempt = watch.ask()
    attempt.json(200, initialize_answer(request_id=attempt.message["id"]), [("Mcp-Session-Id", "a b\u00e9")])

    assert (watch.verdict(), watch.edge().open) == (True, [])


def test_a_farewell_is_bounded() -> None:
    """A server that does not answer the DELETE is not waited for longer than for a probe."""
    watch = Watch()
    attempt = watch.ask()
    attempt.json(200, initialize_answer(request_id=attempt.message["id"]), SESSION)
    farewell = watch.edge().one()
    watch.clock.advance(2.0)

    assert farewell.is_aborted
    assert watch.prober._farewells == set()


def test_a_farewell_may_fail() -> None:
    """Nothing depends on it."""
    watch = Watch()
    attempt = watch.ask()
    attempt.json(200, initialize_answer(request_id=attempt.message["id"]), SESSION)
    watch.edge().one().refuse()

    assert watch.prober._farewells == set()
    assert watch.verdict() is True


# -- HTTP and TCP


@pytest.mark.parametrize(("status", "is_well"), [(200, True), (204, True), (302, True), (404, False), (500, False)])
def test_a_probe_of_http_looks_at_the_status(status: int, is_well: bool) -> None:
    """A GET of the configured path on a connection of its own; its body is not read."""
    watch = Watch(probe="http", http_path="/healthz")
    attempt = watch.ask()

    assert (attempt.method, attempt.request.path, attempt.request.fresh) == ("GET", "/healthz", True)
    assert attempt.request.body == b""

    attempt.head(status, SESSION)

    assert (watch.verdict(), attempt.is_aborted, watch.edge().open) == (is_well, True, [])


@pytest.mark.parametrize("outcome", [False, True])
def test_a_probe_of_tcp_makes_a_connection(outcome: bool) -> None:
    """And nothing more."""
    watch = Watch(probe="tcp")
    watch.clock.advance(5.0)
    watch.edge().reached(outcome)

    assert (watch.verdict(), watch.edge().attempts) == (outcome, [])


def test_a_late_connection_is_none() -> None:
    """What is found out after the time is not said a second time."""
    watch = Watch(probe="tcp")
    watch.clock.advance(7.0)
    assert watch.verdict() is False
    watch.edge().reached(True)

    assert watch.verdict() is False


# -- when


@pytest.mark.parametrize("names", ["", "a"])
def test_a_pool_of_one_is_not_asked(names: str) -> None:
    """There is nobody to prefer to it."""
    watch = Watch(names)
    watch.clock.advance(100.0)

    assert not watch.prober.is_running
    assert watch.clock.pending() == 0


def test_nobody_is_asked_where_that_is_off() -> None:
    """However many there are."""
    watch = Watch(probe="none")
    watch.clock.advance(100.0)

    assert not watch.prober.is_running
    assert watch.clock.pending() == 0


@pytest.mark.parametrize(("jitter", "asked"), [(0.0, [0.25, 7.75, 15.25, 22.75]), (0.5, [5.0, 15.0, 25.0])])
def test_members_are_asked_once_in_an_interval(jitter: float, asked: list[float]) -> None:
    """First anywhere in it, then a quarter less to a quarter more than it apart."""
    watch = Watch(probe="tcp", jitter=jitter)

    assert watch.asked_at(30.0) == asked
    assert watch.clock.pending() == 1


def test_one_that_failed_is_asked_again_soon() -> None:
    """In short steps that grow to the interval: both the end and the return are noticed early."""
    watch = Watch(probe="tcp", backoff_min_seconds=1.0)

    assert watch.asked_at(40.0, is_well=False) == [5.0, 6.0, 8.0, 12.0, 20.0, 30.0, 40.0]


def test_one_that_is_coming_back_is_asked_again_soon() -> None:
    """After its first success the next is not an interval away."""
    watch = Watch(probe="tcp", backoff_min_seconds=1.0)
    watch.asked_at(12.0, is_well=False)

    assert watch.members[0].condition == "ejected"
    assert watch.asked_at(20.0) == [8.0, 9.0, 19.0]
    assert watch.members[0].condition == "healthy"


def test_one_that_was_ejected_is_asked_soon() -> None:
    """Whatever was seen of it: the next question would be an interval away."""
    watch = Watch(probe="tcp", backoff_min_seconds=1.0)
    watch.asked_at(5.0)
    for _ in range(3):
        watch.members[0].refused()
    watch.clock.advance(1.0)
    watch.prober.review()

    assert watch.asked_at(3.0)[0] == 1.0


def test_one_question_at_a_time() -> None:
    """One that takes its time is not asked again meanwhile, and keeps nobody else waiting."""
    watch = Watch(interval_seconds=2.0, timeout_seconds=60.0)
    watch.clock.advance(1.0)
    watch.edge("b").one().answer(401)
    watch.clock.advance(10.0)

    assert len(watch.edge("a").attempts) == 1
    assert len(watch.edge("b").attempts) == 2


def test_who_leaves_is_asked_no_more() -> None:
    """Its question is cut, nobody is told; the others are asked on, the last one not."""
    watch = Watch("abc")
    attempt = watch.ask()
    attempt.head(200, [SSE_TYPE, *SESSION])
    leaving = watch.members.pop(0)
    watch.prober.review()

    assert attempt.is_aborted
    assert isinstance(leaving.edge, FakeEdge)
    assert [left.method for left in leaving.edge.open] == ["DELETE"]
    assert watch.prober.is_running

    watch.clock.advance(60.0)
    assert len(watch.edge("b").attempts) > 1
    assert "a" not in dict(watch.said)
    assert len(leaving.edge.attempts) == 2

    watch.members.pop()
    watch.prober.review()
    assert not watch.prober.is_running
    assert watch.edge("b").open == []


def test_one_that_comes_back_begins_anew() -> None:
    """Failures of the time before it left do not make it wait."""
    watch = Watch("abc", probe="tcp", backoff_min_seconds=1.0)
    watch.asked_at(6.0, is_well=False)
    member = watch.members.pop(0)
    watch.prober.review()
    watch.members.insert(0, member)
    watch.prober.review()

    assert watch.asked_at(7.0, is_well=False) == [5.0, 6.0]


def test_at_its_end_nothing_is_under_way() -> None:
    """No question, no farewell, no timer."""
    watch = Watch()
    attempt = watch.ask()
    attempt.json(200, initialize_answer(request_id=attempt.message["id"]), SESSION)
    watch.prober.close()
    assert watch.edge().open == []
    watch.prober.review()
    watch.clock.advance(100.0)

    assert [watch.edge(name).open for name in "ab"] == [[], []]
    assert watch.clock.pending() == 0
    assert not watch.prober.is_running


def test_what_is_asked_is_json() -> None:
    """Both questions can be read by any server."""
    watch = Watch()
    attempt = watch.ask()
    attempt.answer(404)

    for body in (attempt.request.body, watch.edge().last.request.body):
        assert json.loads(body)["jsonrpc"] == "2.0"
