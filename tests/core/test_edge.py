"""The downstream edge's one function: a whole answer through a sink."""

import pytest

from proxy.core.edge import Request, answer
from support.fakes import JSON_TYPE, FakeSink


@pytest.mark.parametrize("body", [b'{"jsonrpc":"2.0"}', b""])
def test_an_answer_is_whole_at_once(body: bytes) -> None:
    """Head, body and clean end in one turn; an empty body writes nothing: HTTP would take it for the end."""
    sink = FakeSink()

    answer(sink, 202, [JSON_TYPE], body)

    assert (sink.status, sink.headers, sink.body) == (202, [JSON_TYPE], body)
    assert len(sink.writes) == bool(body)
    assert sink.finished
    assert not sink.aborted


def test_a_request_is_what_it_was_made_of() -> None:
    """A request carries method, path, headers in their order and the body, unread."""
    request = Request("POST", "/mcp?x=1", [("B", "2"), ("A", "1")], b"\xff")

    assert (request.method, request.path) == ("POST", "/mcp?x=1")
    assert request.headers == [("B", "2"), ("A", "1")]
    assert request.body == b"\xff"
