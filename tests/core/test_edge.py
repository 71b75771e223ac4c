"""What crosses the downstream edge: a request is its head and its body."""

from proxy.core.edge import Request
from proxy.core.head import Head


def test_a_request_is_what_it_was_made_of() -> None:
    """A request carries method, path, headers in their order and the body, unread."""
    request = Request(Head("POST", "/mcp?x=1", [("B", "2"), ("A", "1")]), b"\xff")

    assert (request.head.method, request.head.path) == ("POST", "/mcp?x=1")
    assert request.headers == [("B", "2"), ("A", "1")]
    assert request.body == b"\xff"
