"""What two servers' handshakes and tool lists tell of each other."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import identity
from proxy.core.identity import MAX_CAPABILITIES, Difference, Identity, differences, promised, read, read_tools
from support.fakes import initialize_answer, initialize_result, result_body

LEAVES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a", "present"]) | st.just([1])
CAPABILITIES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), LEAVES | inner, max_size=3),
    max_leaves=8,
)


def answer(capabilities: Any = None, protocol: str = "2025-11-25", **server: Any) -> bytes:
    """Return an answer to `initialize`."""
    result = {"protocolVersion": protocol, "serverInfo": {"name": "one", "version": "1", **server}}
    if capabilities is not None:
        result["capabilities"] = capabilities
    return result_body(0, result)


def known(body: bytes, tools: dict[str, Any] | None = None) -> Identity:
    """Read an answer, and a tool list beside it."""
    found = read(body)
    assert found is not None
    if tools is None:
        return found
    page = read_tools(result_body(1, {"tools": [{"name": name, **tool} for name, tool in tools.items()]}))
    assert page is not None
    return Identity(found.name, found.version, found.protocol_version, found.capabilities, page.tools)


def told(old: Any, new: Any) -> list[tuple[str, str, str, bool]]:
    """Compare two servers by their capabilities alone."""
    return [(d.field, d.old, d.new, d.is_loss) for d in differences(known(answer(old)), known(answer(new)))]


def tools_told(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, bool]]:
    """Compare two servers by their tools alone."""
    return [(d.field, d.is_loss) for d in differences(known(answer(), old), known(answer(), new))]


# -- reading


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        result_body(0, {}),
        result_body(0, {"protocolVersion": 1}),
        result_body(0, {"protocolVersion": ""}),
    ],
    ids=range(6),
)
def test_what_is_no_handshake_is_no_identity(body: bytes) -> None:
    """Without a result that names a protocol version there is nothing to compare."""
    assert read(body) is None


@pytest.mark.parametrize("server", [None, [], "server", {"name": 1, "version": {}}])
@pytest.mark.parametrize("capabilities", [None, [], "all", 1])
def test_odd_members_count_as_missing(server: Any, capabilities: Any) -> None:
    """A server that misspells who it is can still be compared."""
    body = result_body(0, {"protocolVersion": "v", "serverInfo": server, "capabilities": capabilities})

    assert known(body) == Identity("", "", "v", {})


def test_instructions_are_not_compared() -> None:
    """Another wording for models is no difference."""
    one, other = (result_body(0, {"protocolVersion": "v", "instructions": text}) for text in ("do", "do not"))

    assert differences(known(one), known(other)) == []


def test_an_endless_list_of_capabilities_is_read_in_bounds() -> None:
    """What a server may announce is bounded in number and in depth, and equal servers are still equal."""
    deep: Any = {"x": 1}
    for _ in range(200):
        deep = {"x": deep}
    many = {f"c{i}": {} for i in range(MAX_CAPABILITIES * 2)}

    one = known(answer({**many, "a": deep}))

    assert len(one.capabilities) == MAX_CAPABILITIES
    assert max(path.count(".") for path in one.capabilities) < identity.MAX_DEPTH
    assert differences(one, known(answer({"a": deep, **many}))) == []


def test_nesting_without_end_is_not_read() -> None:
    """An answer nested deeper than can be read is no identity and no tool list."""
    nest = b"[" * 200_000 + b"]" * 200_000

    assert read(b'{"result":{"protocolVersion":"v","capabilities":{"a":' + nest + b"}}}") is None
    assert read_tools(b'{"result":{"tools":[{"name":"t","inputSchema":' + nest + b"}]}}") is None


def test_a_server_without_sessions_is_compared_by_all_its_versions() -> None:
    """What answers `server/discover` negotiates nothing: it says what it supports, in any order."""
    one, other = (
        known(result_body(0, {"supportedVersions": versions, "capabilities": {"tools": {}}}))
        for versions in (["2026-07-28", "2027-01-01"], ["2027-01-01", "2026-07-28"])
    )

    assert one.protocol_version == "2026-07-28, 2027-01-01"
    assert differences(one, other) == []


# -- who it is


def test_another_version_of_the_server_is_told_and_no_loss() -> None:
    """A swap is for that: name and version of the server may change."""
    found = differences(known(answer(name="one", version="1")), known(answer(name="two", version="2")))

    assert found == [
        Difference("serverInfo.name", "one", "two", is_loss=False),
        Difference("serverInfo.version", "1", "2", is_loss=False),
    ]


@pytest.mark.parametrize(("old", "new"), [("2025-11-25", "2025-06-18"), ("2025-06-18", "2025-11-25")])
def test_another_protocol_version_is_a_loss(old: str, new: str) -> None:
    """A session cannot go on in another version, newer or older."""
    assert differences(known(answer(protocol=old)), known(answer(protocol=new))) == [
        Difference("protocolVersion", old, new, is_loss=True)
    ]


# -- what it offers


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"logging": {}}, {}, [("capabilities.logging", "present", "absent", True)]),
        ({}, {"logging": {}}, [("capabilities.logging", "absent", "present", False)]),
        (
            {"tools": {"listChanged": True}},
            {"tools": {}},
            [("capabilities.tools.listChanged", "true", "absent", True)],
        ),
        (
            {"tools": {"listChanged": True}},
            {"tools": {"listChanged": False}},
            [("capabilities.tools.listChanged", "true", "false", True)],
        ),
        (
            {"tools": {"listChanged": False}},
            {"tools": {}},
            [("capabilities.tools.listChanged", "false", "absent", False)],
        ),
        ({"x": {"most": 5}}, {"x": {"most": 3}}, [("capabilities.x.most", "5", "3", False)]),
        ({"x": True}, {"x": 1}, [("capabilities.x", "true", "1", False)]),
        ({"x": {}}, {"x": None}, [("capabilities.x", "present", "null", True)]),
        ({"x": [1, 2]}, {"x": [2, 1]}, [("capabilities.x", "[1,2]", "[2,1]", False)]),
        (
            {"tasks": {"requests": {"tools": {"call": {}}}}},
            {"tasks": {"requests": {"tools": {}}}},
            [("capabilities.tasks.requests.tools.call", "present", "absent", True)],
        ),
    ],
)
def test_capabilities_are_compared_to_their_depth(old: Any, new: Any, expected: Any) -> None:
    """Each path that differs is told; what was offered and is no more is a loss."""
    assert told(old, new) == expected


def test_long_values_are_shown_short() -> None:
    """A difference is for a person to read."""
    ((_, old, _, _),) = told({"x": "y" * 1000}, {"x": "z"})

    assert len(old) == 80
    assert old.endswith("...")


@given(CAPABILITIES)
def test_a_server_does_not_differ_from_itself(capabilities: dict[str, Any]) -> None:
    """Whatever it offers, and in whatever order it says so."""
    reordered = dict(reversed(capabilities.items()))

    assert told(capabilities, reordered) == []


@given(CAPABILITIES, CAPABILITIES)
def test_differences_are_the_same_from_both_sides(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Old and new change places, and nothing is a loss both ways."""
    there, back = told(one, other), told(other, one)

    assert [(f, new, old) for f, old, new, _ in there] == [(f, old, new) for f, old, new, _ in back]
    assert not any(a[3] and b[3] for a, b in zip(there, back, strict=True))


@given(CAPABILITIES, st.sampled_from("xyz"), LEAVES)
def test_who_offers_more_loses_nothing(capabilities: dict[str, Any], name: str, value: Any) -> None:
    """A new capability beside the old ones is a difference and no loss."""
    ((_, old, _, is_loss),) = told(capabilities, {**capabilities, name: value})

    assert (old, is_loss) == ("absent", False)


# -- a server that cannot be asked any more


def test_a_promise_is_compared_as_far_as_it_goes() -> None:
    """What the client was promised and the new one lacks is a loss; what nobody knows of is not told."""
    old = promised(initialize_result(tools=True, subscribe=True, logging=True))
    new = known(initialize_answer(tools=True, prompts=True))

    assert [(d.field, d.is_loss) for d in differences(old, new)] == [
        ("capabilities.logging", True),
        ("capabilities.resources", True),
        ("capabilities.resources.subscribe", True),
    ]


@given(st.sets(st.sampled_from(["tools", "prompts", "resources", "subscribe", "logging"])))
def test_a_promise_kept_is_no_difference(names: set[str]) -> None:
    """The server that made a promise does not differ from it."""
    promises = dict.fromkeys(names, True)

    assert differences(promised(initialize_result(**promises)), known(initialize_answer(**promises))) == []


# -- tools


SCHEMA = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]}


def test_tools_are_compared_where_both_are_known() -> None:
    """A list that was not asked for says nothing."""
    assert differences(known(answer(), {"t": {}}), known(answer())) == []
    assert differences(known(answer()), known(answer(), {"t": {}})) == []


def test_a_missing_tool_is_a_loss() -> None:
    """Tools that come are told, tools that go are lost."""
    assert tools_told({"a": {}, "b": {}}, {"b": {}, "c": {}}) == [("tools.a", True), ("tools.c", False)]


@pytest.mark.parametrize(
    ("schema", "is_loss"),
    [
        ({**SCHEMA, "required": ["a", "b"]}, True),
        ({**SCHEMA, "properties": {"a": {}}}, True),
        ({**SCHEMA, "properties": {"a": {}, "b": {}, "c": {}}}, False),
        ({**SCHEMA, "required": []}, False),
        ({**SCHEMA, "properties": {"a": {"type": "string"}, "b": {}}}, False),
        ({**SCHEMA, "required": "ab"}, False),
        (None, True),
        ([], True),
    ],
)
def test_a_narrower_schema_is_a_loss(schema: Any, is_loss: bool) -> None:
    """A parameter that must be given now, or may not be any more, refuses calls that the old one took."""
    assert tools_told({"t": {"inputSchema": SCHEMA}}, {"t": {"inputSchema": schema}}) == [
        ("tools.t.inputSchema", is_loss)
    ]


def test_the_order_of_a_schema_says_nothing() -> None:
    """Two servers may write the same schema in another order."""
    turned = json.loads(json.dumps(dict(reversed(SCHEMA.items()))))

    assert tools_told({"t": {"inputSchema": SCHEMA}}, {"t": {"inputSchema": turned}}) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"readOnlyHint": True}, {}, [("tools.t.annotations", True)]),
        ({"readOnlyHint": True}, None, [("tools.t.annotations", True)]),
        ({"readOnlyHint": True}, {"idempotentHint": True}, [("tools.t.annotations", False)]),
        ({}, {"readOnlyHint": True}, [("tools.t.annotations", False)]),
        ({"title": "a"}, {"title": "b"}, []),
        ({"title": "a"}, None, []),
    ],
)
def test_a_hint_that_is_gone_is_a_loss(old: Any, new: Any, expected: list[tuple[str, bool]]) -> None:
    """Calls that could be sent again cannot be any more; titles are for people."""
    assert tools_told({"t": {"annotations": old}}, {"t": {"annotations": new}}) == expected


def test_a_tool_list_says_where_it_goes_on() -> None:
    """The cursor leads to the next page."""
    page = read_tools(result_body(1, {"tools": [], "nextCursor": "p2"}))

    assert page is not None
    assert (page.tools, page.next_cursor) == ({}, "p2")


@pytest.mark.parametrize("body", [b"", b"[]", result_body(1, {}), result_body(1, {"tools": [{"name": 1}]})])
def test_what_is_no_tool_list_is_none(body: bytes) -> None:
    """Neither an error nor a list of something else is an empty list of tools."""
    assert read_tools(body) is None
