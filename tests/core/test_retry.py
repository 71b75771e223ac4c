"""What may be sent a second time: methods that read, tools that were vouched for, and nothing else."""

import json
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import jsonrpc
from proxy.core.retry import (
    READING,
    RetryPolicy,
    Safety,
    Tools,
    learn,
    may_repeat,
    safety,
    safety_of,
    together,
    tool_of,
)
from support.fakes import notification_body, request_body, result_body

S = Safety
TRUSTING = RetryPolicy(safe_tools=["*"])
PLAIN = RetryPolicy()
NAMES = st.text("ab_*", max_size=8)


def tool(name: Any, **annotations: Any) -> dict[str, Any]:
    """Return a tool as a server lists it."""
    return {"name": name, "inputSchema": {"type": "object"}, "annotations": annotations}


def listed(*tools: Any, **more: Any) -> bytes:
    """Return an answer to `tools/list`."""
    return result_body(1, {"tools": list(tools), **more})


def call(name: Any = "t", **params: Any) -> bytes:
    """Return a `tools/call`."""
    return request_body("tools/call", 1, {"name": name, "arguments": {}, **params})


def judge(body: bytes, tools: Tools | None = None, policy: RetryPolicy = PLAIN) -> Safety:
    """Judge a body as the relay does."""
    return safety_of(jsonrpc.classify(body), body, tools, policy)


# -- methods


@pytest.mark.parametrize("method", sorted(READING))
def test_what_only_reads_may_be_sent_again(method: str) -> None:
    """Reading methods are safe whatever is known of tools."""
    assert safety(method, None, None, None, PLAIN) is S.SAFE


@pytest.mark.parametrize(
    "method", [None, "initialize", "logging/setLevel", "resources/subscribe", "tasks/cancel", "x/list", "tools/List"]
)
def test_every_other_method_is_unsafe(method: str | None) -> None:
    """What is not known to read is not sent again, even by an operator who trusts every tool."""
    assert safety(method, "t", frozenset("t"), frozenset("t"), TRUSTING) is S.UNSAFE


# -- tools


@pytest.mark.parametrize(
    ("repeatable", "known", "expected"),
    [
        (None, None, S.UNKNOWN),
        (frozenset(), None, S.UNSAFE),
        (frozenset("t"), None, S.SAFE),
        (frozenset("t"), frozenset("t"), S.SAFE),
        (frozenset(), frozenset("t"), S.UNSAFE),
        (frozenset("u"), frozenset("u"), S.UNKNOWN),
    ],
)
def test_annotations_decide_of_a_tool(
    repeatable: frozenset[str] | None, known: frozenset[str] | None, expected: Safety
) -> None:
    """A tool is judged by what was listed of it; one that was not listed is unknown."""
    assert safety("tools/call", "t", repeatable, known, PLAIN) is expected


@pytest.mark.parametrize(("is_unsafe", "is_safe", "is_repeatable"), list(product((False, True), repeat=3)))
def test_unsafe_wins_over_safe_wins_over_annotations(*, is_unsafe: bool, is_safe: bool, is_repeatable: bool) -> None:
    """The operator's no is the last word, his yes the next, the server's comes after them."""
    policy = RetryPolicy(safe_tools=["t"] * is_safe, unsafe_tools=["t"] * is_unsafe)
    repeatable = frozenset("t") if is_repeatable else frozenset[str]()

    expected = not is_unsafe and (is_safe or is_repeatable)

    assert (safety("tools/call", "t", repeatable, frozenset("t"), policy) is S.SAFE) == expected


def test_a_call_that_names_no_tool_is_unsafe() -> None:
    """Nobody can have vouched for it."""
    assert safety("tools/call", None, frozenset(), frozenset(), TRUSTING) is S.UNSAFE


def test_a_call_that_makes_a_task_is_never_safe() -> None:
    """A second call would make a second task, whoever vouches for the tool."""
    body = call(task={"ttl": 1000})

    assert tool_of(body) == ("t", True)
    assert judge(body, Tools(frozenset("t"), frozenset("t")), TRUSTING) is S.UNSAFE
    assert safety("ping", None, None, None, PLAIN, has_task=True) is S.UNSAFE


# -- the operator's names


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("get", "get", True),
        ("get", "get_it", False),
        ("get", "Get", False),
        ("get_*", "get_", True),
        ("*_get", "x_get", True),
        ("get*get", "get", False),
        ("get*get", "getget", True),
        ("*a*b*", "xxaxxbxx", True),
        ("*a*b*", "xxbxxaxx", False),
        ("a*b*c", "abbc", True),
        ("a*b*c", "ac", False),
        ("a*bc*c", "abc", False),
        ("a*bc*c", "abcc", True),
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("a?", "ab", False),
        ("[a]", "a", False),
    ],
)
def test_names_are_exact_but_for_wildcards(pattern: str, name: str, fits: bool) -> None:
    """A star stands for anything; every other letter for itself in its case."""
    assert RetryPolicy(safe_tools=[pattern]).names_safe(name) is fits
    assert RetryPolicy(unsafe_tools=[pattern]).names_unsafe(name) is fits


@given(NAMES, st.text("ab_", max_size=12))
def test_wildcards_fit_what_the_shell_says(pattern: str, name: str) -> None:
    """Where a pattern has stars only, it fits what the usual matcher says."""
    assert RetryPolicy(safe_tools=[pattern]).names_safe(name) == fnmatchcase(name, pattern)


def test_a_hostile_name_takes_no_time() -> None:
    """A long name against many wildcards ends at once: nothing is tried twice."""
    assert not RetryPolicy(safe_tools=["*a" * 50 + "*b"]).names_safe("a" * 200_000)


# -- what a server lists


@pytest.mark.parametrize(
    ("annotations", "is_repeatable"),
    [
        ({"readOnlyHint": True}, True),
        ({"idempotentHint": True, "destructiveHint": True}, True),
        ({"readOnlyHint": False, "idempotentHint": False}, False),
        ({}, False),
        ({"readOnlyHint": "yes"}, False),
        ({"readOnlyHint": 1}, False),
        ({"title": "Read only"}, False),
    ],
)
def test_a_tool_is_repeatable_by_its_hints(annotations: dict[str, Any], is_repeatable: bool) -> None:
    """Either hint suffices, and only if it is plainly true."""
    tools = learn(listed(tool("t", **annotations)))

    assert tools is not None
    assert tools.known == {"t"}
    assert tools.repeatable == (frozenset("t") if is_repeatable else frozenset())


@pytest.mark.parametrize("annotations", [None, [], "readOnlyHint", 1])
def test_odd_tools_do_not_hide_the_others(annotations: Any) -> None:
    """A tool of a wrong shape is not repeatable, one without a name is none; the others count."""
    odd = {"name": "odd", "annotations": annotations}
    tools = learn(listed(odd, {"name": 7}, {}, tool("t", readOnlyHint=True)))

    assert tools == Tools(frozenset({"odd", "t"}), frozenset("t"))


@pytest.mark.parametrize("order", [1, -1])
def test_a_name_that_stands_twice_must_be_vouched_for_twice(order: int) -> None:
    """Which of the two a call means is not known."""
    tools = learn(listed(*[tool("t", readOnlyHint=True), tool("t")][::order]))

    assert tools is not None
    assert tools.repeatable == frozenset()


@pytest.mark.parametrize(("cursor", "expected"), [({"nextCursor": "p2"}, "p2"), ({}, None), ({"nextCursor": 2}, None)])
def test_a_page_says_where_the_list_goes_on(cursor: dict[str, Any], expected: str | None) -> None:
    """The cursor of the next page is kept; a list without one is at its end."""
    tools = learn(listed(tool("t"), **cursor))

    assert tools is not None
    assert tools.next_cursor == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        result_body(1, {}),
        result_body(1, {"tools": {}}),
        result_body(1, {"tools": [1]}),
        jsonrpc.error_body(1, -32601, "no", {}),
        call(),
    ],
    ids=range(10),
)
def test_other_answers_teach_nothing(body: bytes) -> None:
    """An error, another result or no JSON at all is not taken for an empty list."""
    assert learn(body) is None


def test_pages_add_up_and_the_later_word_counts() -> None:
    """Each page adds its tools; a tool that lost its hint is not repeatable any more."""
    first = Tools(frozenset("ab"), frozenset("ab"), "p2")
    second = Tools(frozenset("bc"), frozenset("c"))

    assert first.followed_by(second) == Tools(frozenset("abc"), frozenset("ac"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=6), st.lists(st.sampled_from("abc")))
def test_only_listed_tools_are_ever_repeatable(listing: list[tuple[str, bool]], before: list[str]) -> None:
    """Whatever is listed after whatever, what is repeatable is known."""
    page = learn(listed(*(tool(name, readOnlyHint=hint) for name, hint in listing)))
    assert page is not None

    tools = Tools(frozenset(before), frozenset(before)).followed_by(page)

    assert tools.repeatable <= tools.known
    for name in {name for name, _ in listing}:
        assert (name in tools.repeatable) == all(hint for other, hint in listing if other == name)


# -- what a call names


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (call("get"), ("get", False)),
        (call("get", task={}), ("get", True)),
        (call("get", task=None), ("get", False)),
        (call(7), (None, False)),
        (request_body("tools/call"), (None, False)),
        (request_body("tools/call", 1, {"arguments": {"name": "x", "task": {}}}), (None, False)),
        (b'{"params":[1]}', (None, False)),
        (b"not json", (None, False)),
    ],
    ids=range(8),
)
def test_a_call_is_read_as_far_as_it_can_be(body: bytes, expected: tuple[str | None, bool]) -> None:
    """Name and task are read from their own places; what is odd is no name."""
    assert tool_of(body) == expected


# -- whole bodies


def test_responses_and_notifications_are_not_sent_again() -> None:
    """What is no request has no answer that would tell whether it arrived."""
    assert judge(result_body(1)) is S.UNSAFE
    assert judge(notification_body("notifications/initialized")) is S.UNSAFE
    assert judge(b"nothing") is S.UNSAFE


def batch(*members: bytes) -> bytes:
    """Return a batch."""
    return b"[" + b",".join(members) + b"]"


def test_a_batch_is_safe_if_every_member_is() -> None:
    """One member that may not be sent twice keeps the others from it."""
    ping, note = request_body("ping"), notification_body("notifications/x")
    tools = Tools(frozenset("tu"), frozenset("t"))

    assert judge(batch(ping, call("t")), tools) is S.SAFE
    assert judge(batch(ping, call("t"), call("u")), tools) is S.UNSAFE
    assert judge(batch(ping, call("t"))) is S.UNKNOWN
    assert judge(batch(ping, note), tools) is S.UNSAFE
    assert judge(b"[" + b" " * 2_000_000 + ping + b"]") is S.UNSAFE, "a batch too large to be read"


@given(st.lists(st.sampled_from(Safety), max_size=6))
def test_the_worst_member_decides(members: list[Safety]) -> None:
    """Unsafe before unknown before safe; nothing at all is not safe."""
    judged = together(members)

    assert (judged is S.SAFE) == (bool(members) and all(member is S.SAFE for member in members))
    assert (judged is S.UNKNOWN) == (S.UNKNOWN in members and S.UNSAFE not in members)


@given(
    name=st.text(min_size=1, max_size=5),
    hint=st.booleans(),
    was_listed=st.booleans(),
    safe=st.lists(NAMES, max_size=3),
    unsafe=st.lists(NAMES, max_size=3),
)
def test_only_what_somebody_vouched_for_is_safe(
    name: str, hint: bool, was_listed: bool, safe: list[str], unsafe: list[str]
) -> None:
    """A call is safe only by the operator's word or a listed hint, and never against the operator's word."""
    tools = learn(listed(tool(name, readOnlyHint=hint))) if was_listed else None
    judged = judge(call(name), tools, RetryPolicy(safe_tools=safe, unsafe_tools=unsafe))

    allowed = any(fnmatchcase(name, pattern) for pattern in safe)
    forbidden = any(fnmatchcase(name, pattern) for pattern in unsafe)
    assert (judged is S.SAFE) == (not forbidden and (allowed or (was_listed and hint)))
    assert (judged is S.UNKNOWN) == (not forbidden and not allowed and not was_listed)


# -- the decision


@given(st.sampled_from(Safety), st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_a_call_is_repeated_within_its_limit_and_before_its_answer(
    judged: Safety, attempts: int, limit: int, appended: bool
) -> None:
    """Only what is safe, so often and not more, and never once an outcome was shown."""
    repeats = may_repeat(judged, attempts, limit, response_appended=appended)

    assert repeats == (judged is S.SAFE and attempts < limit and not appended)


def test_a_policy_has_what_the_operator_set() -> None:
    """The numbers and switches are handed on as they are."""
    policy = RetryPolicy(5, asks=False)

    assert (policy.attempts, policy.asks) == (5, False)
    assert (PLAIN.attempts, PLAIN.asks) == (2, True)


def test_schemas_are_not_read() -> None:
    """A list is learnt although a schema in it is nothing that could be held as an object of ours."""
    body = json.dumps({"id": 1, "result": {"tools": [{"name": "t", "inputSchema": [1, {"deep": [[]]}]}]}}).encode()

    assert learn(body) == Tools(frozenset("t"))
