"""Asking one server who it is, whatever it answers."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.control.interview import FAREWELL_SECONDS, MOST_BYTES, MOST_PAGES, Answer, Interview
from proxy.core import headers as h
from proxy.core import jsonrpc
from proxy.upstream.base import Loss
from support.fakes import Attempt, FakeClock, FakeEdge, initialize_answer, result_body

TIMEOUT = 10.0


class Asked:
    """A server that is asked, and what became of it."""

    def __init__(self, *, needs_session: bool = True, with_tools: bool = False) -> None:
        self.clock = FakeClock()
        self.edge = FakeEdge(self.clock)
        self.answers: list[Answer] = []
        self.ended = 0
        self.interview = Interview(
            self.edge, self.clock, TIMEOUT, "2025-11-25", self.answers.append, self.end,
            needs_session=needs_session, with_tools=with_tools,
        )  # fmt: skip
        self.interview.begin()

    def end(self) -> None:
        """Note that the edge may be closed."""
        self.ended += 1

    def greet(self, upstream_id: str | None = "theirs", version: str = "2025-11-25") -> None:
        """Answer `initialize`."""
        attempt = self.edge.one(rpc="initialize")
        headers = [] if upstream_id is None else [(h.SESSION_ID, upstream_id)]
        attempt.json(200, initialize_answer(version, request_id=attempt.message["id"]), headers)

    @property
    def answer(self) -> Answer:
        """What it all came to; exactly one answer."""
        (answer,) = self.answers
        return answer

    @property
    def problem(self) -> str:
        """What the server did instead of answering; then nothing may be left."""
        assert self.answer.identity is None
        self.clock.advance(FAREWELL_SECONDS)
        assert self.edge.open == []
        assert self.ended == 1
        return self.answer.problem


def test_a_server_says_who_it_is_and_its_session_is_ended() -> None:
    """One short session: opened, and told that it is over."""
    asked = Asked()
    request = asked.edge.one(rpc="initialize").message
    assert request["params"]["protocolVersion"] == "2025-11-25"
    assert request["params"]["clientInfo"]["name"] == "mcp-session-proxy"
    asked.greet()
    assert asked.answer.identity is not None
    assert asked.answer.identity.name == "upstream"
    farewell = asked.edge.one(method="DELETE")
    assert (farewell.upstream_id, farewell.header(h.PROTOCOL_VERSION)) == ("theirs", "2025-11-25")
    assert asked.ended == 0
    farewell.answer(405)

    assert asked.ended == 1
    assert asked.clock.pending() == 0


def test_a_server_without_ids_needs_no_farewell() -> None:
    """There is no session to end."""
    asked = Asked()
    asked.greet(None)
    asked.clock.advance()

    assert asked.edge.find(method="DELETE") == []
    assert asked.ended == 1


@pytest.mark.parametrize("how", ["lost", "never"])
def test_a_farewell_that_is_not_heard_holds_nobody_up(how: str) -> None:
    """Nothing depends on it."""
    asked = Asked()
    asked.greet()
    farewell = asked.edge.one(method="DELETE")
    if how == "lost":
        farewell.lost(Loss.BROKEN)
    else:
        farewell.head(200)
        farewell.data(b"x")
        asked.clock.advance(FAREWELL_SECONDS)
        assert farewell.is_aborted

    assert asked.ended == 1


def test_an_answer_may_come_as_an_event_stream() -> None:
    """Other messages before it are none of ours, and the stream need not end."""
    asked = Asked()
    attempt = asked.edge.last
    attempt.sse([(h.SESSION_ID, "theirs")])
    attempt.frame(b"")
    attempt.frame({"jsonrpc": "2.0", "method": "notifications/message"})
    attempt.frame(result_body(99, {"protocolVersion": "1"}))
    attempt.frame(initialize_answer(request_id=attempt.message["id"]))

    assert asked.answer.identity is not None
    assert asked.answer.identity.protocol_version == "2025-11-25"
    assert attempt.is_aborted


ERROR = jsonrpc.error_body(1, -32603, "out of\norder", {})

BAD: dict[str, tuple[Callable[[Attempt], object], str]] = {
    "refused": (lambda a: a.lost(Loss.REFUSED, ""), "cannot be reached"),
    "not sent": (lambda a: a.lost(Loss.NOT_SENT, "bad certificate"), "cannot be reached (bad certificate)"),
    "broken": (lambda a: a.lost(Loss.BROKEN, "reset"), "broke off its answer (reset)"),
    "error": (lambda a: a.json(200, ERROR), "answered initialize with an error: out of order"),
    "odd error": (
        lambda a: a.json(200, b'{"jsonrpc":"2.0","id":1,"error":7}'), "answered initialize with an error: "
    ),
    "status": (lambda a: a.answer(500), "answered initialize with HTTP 500"),
    "no body": (lambda a: a.answer(200), "answered initialize with no body"),
    "html": (
        lambda a: a.answer(200, [("Content-Type", "text/html")], b"<html>"), "answered initialize with text/html"
    ),
    "no type": (lambda a: a.answer(200, [], b"hm"), "answered initialize with a body of no type"),
    "no handshake": (lambda a: a.json(200), "answered initialize with no handshake"),
    "empty stream": (lambda a: (a.sse(), a.end()), "answered initialize with an event stream that holds no answer"),
    "redirect": (
        lambda a: a.answer(307, [("Location", "http://else.test/")]),
        "redirects (HTTP 307) to http://else.test/: give that address",
    ),
    "blind redirect": (lambda a: a.answer(302), "redirects (HTTP 302): give that address"),
    "endless body": (
        lambda a: (a.head(200), a.data(b"x" * MOST_BYTES), a.data(b"x")),
        f"answered initialize with more than {MOST_BYTES} bytes",
    ),
    "endless stream": (
        lambda a: (a.sse(), a.data(b":" * MOST_BYTES), a.data(b":")),
        f"answered initialize with more than {MOST_BYTES} bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_answer_is_told_for_what_it_is(kind: str) -> None:
    """Whatever a server does instead of answering, it is said in words, once, and nothing is left open."""
    act, problem = BAD[kind]
    asked = Asked()
    act(asked.edge.last)

    assert asked.problem == problem
    assert not asked.answer.wants_credentials


def test_silence_has_an_end() -> None:
    """A server that says nothing, or a little all the time, is given up in time."""
    asked = Asked()
    attempt = asked.edge.last
    attempt.head(200)
    asked.clock.advance(TIMEOUT - 0.1)
    attempt.data(b"{")
    asked.clock.advance(0.2)

    assert asked.problem == "did not answer initialize within 10 s"
    assert attempt.is_aborted


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_credentials_is_told_apart(status: int) -> None:
    """It is there, and speaks to nobody whom it does not know."""
    asked = Asked()
    asked.edge.last.answer(status)

    assert asked.problem == f"wants credentials (HTTP {status})"
    assert asked.answer.wants_credentials


def test_a_session_that_came_with_a_refusal_is_ended_too() -> None:
    """Even an answer that cannot be used may have opened one."""
    asked = Asked()
    asked.edge.last.answer(200, [(h.SESSION_ID, "theirs"), ("Content-Type", "text/html")], b"<html>")

    assert asked.edge.one(method="DELETE").upstream_id == "theirs"


def test_a_hostile_version_goes_into_no_header() -> None:
    """A server may answer with any text; only a version that is known is repeated."""
    asked = Asked()
    asked.greet(version="2025\r\nX: y")

    assert asked.answer.identity is not None
    assert asked.edge.one(method="DELETE").header(h.PROTOCOL_VERSION) is None


# -- tools


def tools_page(*names: str, cursor: str | None = None) -> dict[str, Any]:
    """Return a page of tools."""
    page: dict[str, Any] = {"tools": [{"name": name} for name in names]}
    return page if cursor is None else {**page, "nextCursor": cursor}


def test_tools_are_asked_for_page_by_page() -> None:
    """In the session, after its handshake is complete, with the cursor of the page before."""
    asked = Asked(with_tools=True)
    asked.greet()
    note = asked.edge.one(rpc="notifications/initialized")
    assert note.upstream_id == "theirs"
    note.answer(202)
    first = asked.edge.one(rpc="tools/list")
    assert (first.upstream_id, first.header(h.PROTOCOL_VERSION)) == ("theirs", "2025-11-25")
    first.json(200, result_body(first.message["id"], tools_page("a", cursor="p2")))
    second = asked.edge.one(rpc="tools/list")
    assert second.message["params"] == {"cursor": "p2"}
    second.json(200, result_body(second.message["id"], tools_page("b")))

    assert asked.answer.identity is not None
    assert set(asked.answer.identity.tools or ()) == {"a", "b"}


def test_a_server_without_tools_has_none() -> None:
    """It may refuse to list them."""
    asked = Asked(with_tools=True)
    asked.greet()
    asked.edge.one(rpc="notifications/initialized").answer(202)
    asked.edge.one(rpc="tools/list").json(200, ERROR)

    assert asked.answer.identity is not None
    assert asked.answer.identity.tools == {}


def test_an_endless_list_has_an_end() -> None:
    """After so many pages it is enough."""
    asked = Asked(with_tools=True)
    asked.greet()
    asked.edge.one(rpc="notifications/initialized").answer(202)
    for page in range(MOST_PAGES):
        attempt = asked.edge.one(rpc="tools/list")
        attempt.json(200, result_body(attempt.message["id"], tools_page(f"t{page}", cursor="more")))

    assert asked.answer.identity is not None
    assert len(asked.answer.identity.tools or ()) == MOST_PAGES


# -- servers without sessions


def discovered(asked: Asked) -> Attempt:
    """Refuse `initialize` and return what is asked then."""
    asked.edge.last.json(400, ERROR)
    return asked.edge.last


def test_a_server_without_sessions_is_asked_in_its_own_way() -> None:
    """Where nobody needs a session, one that knows no handshake may take the place of another."""
    asked = Asked(needs_session=False, with_tools=True)
    attempt = discovered(asked)
    assert attempt.rpc == "server/discover"
    assert (attempt.header(h.METHOD), attempt.header(h.PROTOCOL_VERSION)) == ("server/discover", "2026-07-28")
    result = {"supportedVersions": ["2026-07-28"], "serverInfo": {"name": "modern"}}
    attempt.json(200, result_body(attempt.message["id"], result))

    assert asked.answer.identity is not None
    assert asked.answer.identity.name == "modern"
    assert asked.answer.identity.tools is None


def test_a_server_that_knows_neither_is_told_by_its_first_word() -> None:
    """What it said to the handshake says more than what it said to the other question."""
    asked = Asked(needs_session=False)
    discovered(asked).answer(404)

    assert asked.problem == "answered initialize with HTTP 400"


def test_where_sessions_are_to_be_hosted_a_handshake_is_needed() -> None:
    """There is no second question."""
    asked = Asked()
    asked.edge.last.json(400, ERROR)

    assert asked.problem == "answered initialize with HTTP 400"
    assert len(asked.edge.attempts) == 1


def test_a_question_that_is_stopped_is_not_answered() -> None:
    """The session that it opened is ended, and stopping again does nothing more."""
    asked = Asked(with_tools=True)
    asked.greet()
    asked.interview.stop()
    asked.interview.stop()
    asked.edge.one(method="DELETE").answer(200)

    assert asked.answers == []
    assert asked.ended == 1
    assert asked.clock.pending() == 0
