"""The table of operations: complete, and each does what it says."""

from typing import Any

import msgspec
import pytest

from proxy.admin.operations import OPERATIONS, Asked, Operation
from proxy.control.base import Control
from proxy.control.views import Readiness, SessionFilter, SwapRequest
from support.operators import FakeControl

BY_NAME = {operation.name: operation for operation in OPERATIONS}


def ask(control: FakeControl, name: str, body: Any = None, /, query: Any = None, **path: str) -> Any:
    """Run one operation as the server does."""
    operation = BY_NAME[name]
    decoded = None if operation.body is None else msgspec.convert(body or {}, operation.body)
    return operation.run(control, Asked(path, msgspec.convert(query or {}, operation.query), decoded))


def test_no_two_operations_share_a_name_or_a_place() -> None:
    """Names and places are unique."""
    assert len(BY_NAME) == len(OPERATIONS)
    assert len({(each.method, each.path) for each in OPERATIONS}) == len(OPERATIONS)


def test_everything_an_operator_can_do_is_offered() -> None:
    """Each verb of the contract is reached by an operation."""
    used = {name for operation in OPERATIONS for code in codes(operation.run) for name in code.co_names}
    verbs = {name for name, value in vars(Control).items() if callable(value) and not name.startswith("_")}

    assert verbs - used == {"subscribe"} & verbs


def codes(function: Any) -> list[Any]:
    """Return the code of a function and of the functions of its module that it calls."""
    module = function.__globals__
    called = [module[name] for name in function.__code__.co_names if name in module]
    return [function.__code__, *(one.__code__ for one in called if hasattr(one, "__code__"))]


def test_only_health_is_open() -> None:
    """Nothing but the two probes goes without the token."""
    assert {operation.path for operation in OPERATIONS if operation.is_open} == {"/livez", "/readyz"}


def test_a_query_becomes_a_filter() -> None:
    """The words of the query are the words of the filter."""
    control = FakeControl()
    query = {"route": "r", "upstream": "u", "state": "lost", "client": "c", "pinned": True, "after": "1", "limit": 2}
    ask(control, "listSessions", query=query)
    chosen = SessionFilter(route="r", upstream="u", state="lost", client="c", is_pinned=True)

    assert control.asked == [("sessions", chosen, "1", 2)]


def test_pinning_shows_the_session() -> None:
    """The answer to a pin is the session as it is then."""
    control = FakeControl()
    detail = ask(control, "pinSession", id="sess01")
    ask(control, "unpinSession", id="sess01")

    assert detail.id == "sess01…"
    assert control.asked == [("pin_session", "sess01", True), ("pin_session", "sess01", False)]


def test_both_ways_to_swap_ask_for_the_same() -> None:
    """The upstream in the path or in the body: the same swap."""
    control = FakeControl()
    how = {"new": "http://127.0.0.1:3002/mcp", "percent": 10, "strict": True, "drain_timeout_seconds": 5.0}
    ask(control, "swapUpstream", how, name="a")
    ask(control, "swap", {"old": "a", **how})

    (_, first), (_, second) = control.asked
    assert first == second == SwapRequest(old="a", **how)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("swap", {"old": "a", "new": "b", "percent": 0}),
        ("swap", {"old": "a", "new": "b", "percent": 101}),
        ("swap", {"old": "a", "new": "b", "precent": 10}),
        ("swap", {"old": "a", "new": "b", "drain_timeout_seconds": -1}),
        ("swap", {"old": "a"}),
        ("addUpstream", {"url": "http://a/", "weight": 0}),
        ("addUpstream", {"url": "http://a/", "lables": {}}),
        ("drainUpstream", {"timeout_seconds": -1}),
        ("moveSession", {"upstream": 7}),
    ],
)
def test_what_is_not_meant_is_refused(name: str, body: Any) -> None:
    """A mistyped word or a number out of range changes nothing."""
    control = FakeControl()

    with pytest.raises(msgspec.ValidationError):
        ask(control, name, body, id="sess01")
    assert control.asked == []


def test_not_ready_is_503() -> None:
    """A readiness that says no is told by the status too, every other answer by its own."""
    ready: Operation = BY_NAME["isReady"]

    assert ready.status_of(Readiness(is_ready=True, reasons=[])) == 200
    assert ready.status_of(Readiness(is_ready=False, reasons=["draining"])) == 503
    assert BY_NAME["swap"].status_of(None) == 202
