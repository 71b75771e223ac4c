"""JSON-RPC bodies: what an envelope tells, what a reader finds, and splices that change one value only."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core import jsonrpc as j
from proxy.core.jsonrpc import Envelope, Kind

OPAQUE = Envelope(Kind.OPAQUE, None, None, is_error=False)
DEEP = 200_000


def body(**members):
    """Write a body of these members."""
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


@pytest.mark.parametrize(
    ("text", "envelope"),
    [
        (b'{"id":1,"method":"a","params":[]}', Envelope(Kind.REQUEST, 1, "a", is_error=False)),
        (b'{"id":"1","method":"a"}', Envelope(Kind.REQUEST, "1", "a", is_error=False)),
        (b'{"id":"","method":""}', Envelope(Kind.REQUEST, "", "", is_error=False)),
        (
            b'{"id":-12345678901234567890123,"method":"a"}',
            Envelope(Kind.REQUEST, -(12345678901234567890123), "a", is_error=False),
        ),
        (b'{"id":1,"id":2,"method":"a"}', Envelope(Kind.REQUEST, 2, "a", is_error=False)),
        (b'{"\\u0069d":3,"method":"\\u0061"}', Envelope(Kind.REQUEST, 3, "a", is_error=False)),
        (b' {"method":"n"}\r\n', Envelope(Kind.NOTIFICATION, None, "n", is_error=False)),
        (b'{"id":1,"result":null}', Envelope(Kind.RESPONSE, 1, None, is_error=False)),
        (b'{"id":"a","result":{"id":9,"method":"x"}}', Envelope(Kind.RESPONSE, "a", None, is_error=False)),
        (
            b'{"id":1,"method":null,"result":{},"error":null}',
            Envelope(Kind.RESPONSE, 1, None, is_error=False),
        ),
        (b'{"id":1,"result":null,"error":{}}', Envelope(Kind.RESPONSE, 1, None, is_error=True)),
        (b'{"id":null,"result":{}}', Envelope(Kind.RESPONSE, None, None, is_error=False)),
        (b'{"id":null,"error":{"code":1}}', Envelope(Kind.RESPONSE, None, None, is_error=True)),
        (b'{"error":{"code":1}}', Envelope(Kind.RESPONSE, None, None, is_error=True)),
        (b'[{"id":1,"method":"a"}]', Envelope(Kind.BATCH, None, None, is_error=False)),
        (b"\n[1]", Envelope(Kind.BATCH, None, None, is_error=False)),
    ],
)
def test_envelopes(text, envelope):
    """Kind, id, method and error are told from the top level alone, by the rules of the protocol."""
    assert j.classify(text) == envelope


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"1",
        b'"x"',
        b"[]",
        b"[1",
        b"{}",
        b'{"id":1}',
        b'{"result":{}}',
        b'{"id":1,"error":null}',
        b'{"error":null}',
        b'{"id":null,"method":"a"}',
        b'{"id":true,"method":"a"}',
        b'{"id":1.0,"method":"a"}',
        b'{"id":1e2,"method":"a"}',
        b'{"id":1.5,"result":{}}',
        b'{"id":[1],"method":"a"}',
        b'{"id":1,"method":7}',
        b'{"id":1,"method":"a"} {}',
        b'{"id":"\xff","method":"a"}',
        b'{"id":1,"method":"a","params":nul}',
        b'\xef\xbb\xbf{"id":1,"method":"a"}',
        b'{"id":' + b"9" * 5000 + b',"method":"a"}',
        b'{"id":1,"result":' + b"[" * DEEP + b"]" * DEEP + b"}",
    ],
)
def test_opaque_bodies(text):
    """What is not JSON, not JSON-RPC, or has an id of another type is told as such and never raises."""
    assert j.classify(text) == OPAQUE


@given(st.binary() | st.text('{}[]",:\\ntrue1.0 idmethodresult').map(str.encode))
def test_reading_never_fails(text):
    """No body, whatever its bytes, makes a reader or a splice raise."""
    j.split_batch(text)
    for read in (
        j.classify,
        j.cancelled_id,
        j.progress_of,
        j.progress_token_of,
        j.resource_uri,
        j.log_level,
        j.initialize_params,
        j.initialize_result,
        j.meta_protocol_version,
    ):
        read(text)
    for splice in (j.replace_id, j.replace_cancelled_id, j.replace_protocol_version):
        splice(text, "x")


def test_ids_keep_their_type():
    """`1` and `"1"` are different ids, in an envelope and in a written body."""
    assert j.classify(b'{"id":1,"method":"a"}').id != j.classify(b'{"id":"1","method":"a"}').id
    assert json.loads(j.error_body("1", 0, "", {}))["id"] == "1"
    assert json.loads(j.error_body(1, 0, "", {}))["id"] == 1


def test_a_batch_is_taken_apart():
    """Each member comes with its own bytes, a nested array and a stranger among them."""
    members = [b'{ "id": 1, "method": "a" }', b'{"method":"b"}', b"3", b"[ 1 ]", b'{"id":1,"result":"]"}']

    parts = j.split_batch(b" [" + b" , ".join(members) + b"] ")

    assert [raw for _, raw in parts] == members
    assert [envelope.kind for envelope, _ in parts] == [
        Kind.REQUEST,
        Kind.NOTIFICATION,
        Kind.OPAQUE,
        Kind.BATCH,
        Kind.RESPONSE,
    ]
    assert all(type(raw) is bytes for _, raw in parts)


def test_what_is_no_array_has_no_members():
    """An object or broken text is an empty batch."""
    assert j.split_batch(b'{"id":1}') == []
    assert j.split_batch(b"[") == []


def test_written_bodies():
    """Requests, notifications and errors are JSON-RPC 2.0, params only where they are given."""
    assert json.loads(j.request_body("p", "ping", None)) == {"jsonrpc": "2.0", "id": "p", "method": "ping"}
    assert json.loads(j.request_body(1, "a", {"b": "é"}))["params"] == {"b": "é"}
    assert json.loads(j.notification_body("n", None)) == {"jsonrpc": "2.0", "method": "n"}
    assert json.loads(j.notification_body("n", {}))["params"] == {}
    assert json.loads(j.error_body(None, -32050, "m", {"reason": "r"})) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32050, "message": "m", "data": {"reason": "r"}},
    }


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"requestId": 7}, 7),
        ({"requestId": "7", "reason": "x"}, "7"),
        ({"requestId": 7.5}, None),
        ({"requestId": 7.0}, None),
        ({"requestId": True}, None),
        ({"requestId": None}, None),
        ({}, None),
        ([7], None),
        (None, None),
    ],
)
def test_which_request_is_cancelled(params, expected):
    """params.requestId counts where it is an integer or a string."""
    found = j.cancelled_id(body(method="notifications/cancelled", params=params))

    assert (found, type(found)) == (expected, type(expected))


def test_progress_is_read():
    """Token and value come from a progress notification, an integral value as float too."""
    method = "notifications/progress"

    assert j.progress_of(body(method=method, params={"progressToken": "t", "progress": 1})) == ("t", 1.0)
    assert j.progress_of(body(method=method, params={"progressToken": 5, "progress": 0.5, "total": 2})) == (
        5,
        0.5,
    )


@pytest.mark.parametrize(
    "members",
    [
        {"method": "notifications/message", "params": {"progressToken": 1, "progress": 1}},
        {"method": "notifications/progress", "params": {"progressToken": 1.5, "progress": 1}},
        {"method": "notifications/progress", "params": {"progressToken": True, "progress": 1}},
        {"method": "notifications/progress", "params": {"progressToken": 1, "progress": "1"}},
        {"method": "notifications/progress", "params": {"progress": 1}},
        {"method": "notifications/progress"},
    ],
)
def test_other_messages_are_no_progress(members):
    """Another method, a token or value of another type, or a missing one is no progress."""
    assert j.progress_of(body(**members)) is None


VERSION_KEY = "io.modelcontextprotocol/protocolVersion"


@pytest.mark.parametrize(
    ("params", "token", "version"),
    [
        ({"_meta": {"progressToken": 1}}, 1, None),
        ({"_meta": {"progressToken": "1", VERSION_KEY: "2026-07-28"}}, "1", "2026-07-28"),
        ({"_meta": {"progressToken": 1.5, VERSION_KEY: "2026-07-28"}}, None, "2026-07-28"),
        ({"_meta": {"progressToken": False, VERSION_KEY: 7}}, None, None),
        ({"_meta": {}}, None, None),
        ({"_meta": None}, None, None),
        ({"_meta": [1]}, None, None),
        ({"progressToken": 1, VERSION_KEY: "2026-07-28"}, None, None),
        ([1], None, None),
        (None, None, None),
    ],
)
def test_request_metadata_is_read(params, token, version):
    """Token and version are found in the metadata only, the one whatever the other is."""
    text = body(id=1, method="tools/call", params=params)

    assert j.progress_token_of(text) == token
    assert j.meta_protocol_version(text) == version


def test_escaped_names_are_found():
    """A slash may be written as an escape, and so may any letter."""
    meta = b'{"io.modelcontextprotocol\\/protocol\\u0056ersion":"v","progress\\u0054oken":2}'
    text = b'{"params":{"_meta":%b}}' % meta

    assert j.meta_protocol_version(text) == "v"
    assert j.progress_token_of(text) == 2


@pytest.mark.parametrize("read", [j.resource_uri, j.log_level])
@pytest.mark.parametrize("params", [{"uri": 1, "level": 2}, {}, None, [1]])
def test_absent_texts_are_none(read, params):
    """Where uri or level is missing or no text, there is none."""
    assert read(body(params=params)) is None


def test_texts_of_params_are_read():
    """Uri and level are found, the one whatever the other is."""
    assert j.resource_uri(body(params={"uri": "a://b", "level": 1})) == "a://b"
    assert j.log_level(body(params={"uri": 1, "level": "debug"})) == "debug"


def test_the_proposal_of_a_client_is_read():
    """The proposed version is found, or told as missing."""
    assert j.initialize_params(body(params={"protocolVersion": "v", "capabilities": {}})).protocol_version == "v"
    assert j.initialize_params(body(params={})).protocol_version is None
    assert j.initialize_params(b"x").protocol_version is None


def test_the_promises_of_a_server_are_read():
    """Each promised capability is found on its own."""
    flags = {
        "tools_list_changed": {"tools": {"listChanged": True}},
        "prompts_list_changed": {"prompts": {"listChanged": True}},
        "resources_list_changed": {"resources": {"listChanged": True}},
        "resources_subscribe": {"resources": {"subscribe": True}},
        "logging": {"logging": {}},
    }
    for flag, capabilities in flags.items():
        result = j.initialize_result(body(id=1, result={"protocolVersion": "v", "capabilities": capabilities}))

        assert {name for name in flags if getattr(result, name)} == {flag}


def test_the_name_of_a_server_is_read():
    """Version, name and the server's own version come through."""
    text = body(id=1, result={"protocolVersion": "v", "serverInfo": {"name": "n", "version": "1"}})

    result = j.initialize_result(text)

    assert (result.protocol_version, result.server_name, result.server_version) == ("v", "n", "1")


@pytest.mark.parametrize("odd", [None, True, 1, "x", []])
def test_odd_promises_count_as_none(odd):
    """A server that writes capabilities of another type has promised nothing, and its answer stays usable."""
    for capabilities in (odd, dict.fromkeys(("tools", "prompts", "resources", "logging"), odd)):
        text = body(id=1, result={"protocolVersion": "v", "capabilities": capabilities, "serverInfo": odd})

        assert j.initialize_result(text) == j.InitializeResult("v", *[False] * 5, "", "")


@pytest.mark.parametrize(
    "members", [{"error": {"code": 1}}, {"result": {}}, {"result": {"protocolVersion": 1}}, {"result": None}]
)
def test_other_answers_are_no_initialize_result(members):
    """An error, or a result without a version, is not an answer to initialize."""
    assert j.initialize_result(body(id=1, **members)) is None


class Pairs(list):
    """An object as written: members in order, names possibly repeated."""


NAMES = st.sampled_from(["id", "params", "requestId", "protocolVersion", "x", "i", "id2", "é", 'q"\\', ""])
IDS = st.integers(-(10**30), 10**30) | st.text("ab1", max_size=3)
LEAVES = (
    IDS
    | st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('{}[]",:\\é\n', max_size=6)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=4).map(Pairs),
    max_leaves=12,
)
OBJECTS = st.lists(st.tuples(NAMES, VALUES), max_size=6).map(Pairs)
BLANKS = st.sampled_from(["", "", " ", "\n", "\t\r\n "])


def write(value, draw):
    """Write a value as JSON, with blanks and escapes anywhere they are legal."""
    gap = lambda: draw(BLANKS)  # noqa: E731
    if isinstance(value, Pairs):
        members = (gap() + escape(name, draw) + gap() + ":" + gap() + write(item, draw) + gap() for name, item in value)
        return "{" + (",".join(members) or gap()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(gap() + write(item, draw) + gap() for item in value) or gap()) + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


def escape(name, draw):
    """Write a name plainly or with every character escaped."""
    if draw(st.integers(0, 3)):
        return json.dumps(name, ensure_ascii=False)
    return '"' + "".join(f"\\u{ord(character):04x}" for character in name) + '"'


def with_value(text, path, value):
    """Change a value the way a JSON parser understands the text; the text's meaning if it is not there."""
    whole = json.loads(text)
    at = whole
    for name in path[:-1]:
        at = at.get(name) if isinstance(at, dict) else None
    if isinstance(at, dict) and path[-1] in at:
        at[path[-1]] = value
        return whole, True
    return whole, False


SPLICES = [
    (j.replace_id, ("id",)),
    (j.replace_cancelled_id, ("params", "requestId")),
    (j.replace_protocol_version, ("params", "protocolVersion")),
]


@pytest.mark.parametrize("splice", SPLICES)
@settings(max_examples=100)
@given(st.data(), OBJECTS, OBJECTS, IDS)
def test_a_splice_changes_what_a_parser_reads_there(splice, data, members, params, new):
    """The last value under the name becomes the new one, and everything else reads as before."""
    replace, path = splice
    if len(path) == 2 and data.draw(st.booleans()):
        members = Pairs([*members, ("params", params)])
    text = (data.draw(BLANKS) + write(members, data.draw) + data.draw(BLANKS)).encode()
    if replace is j.replace_protocol_version:
        new = str(new)
    expected, is_there = with_value(text, path, new)

    changed = replace(text, new)

    assert json.loads(changed) == expected
    if not is_there:
        assert changed is text


@pytest.mark.parametrize("splice", SPLICES)
@settings(max_examples=60)
@given(st.data(), st.tuples(OBJECTS, OBJECTS), st.text("ab1", max_size=3), st.text("cd2", max_size=3))
def test_a_splice_touches_no_other_byte(splice, data, around, old, new):
    """Putting the old value back gives the old body, byte for byte."""
    replace, path = splice
    before, after = around
    inner = Pairs([*before, (path[-1], old), *[pair for pair in after if pair[0] != path[-1]]])
    members = inner if len(path) == 1 else Pairs([*before, ("params", inner), ("id", 1)])
    text = write(members, data.draw).encode()

    changed = replace(text, new)

    assert len(changed) - len(text) == len(new) - len(old)
    assert replace(changed, old) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"id":1,"method":"a"}', b'{"id":"p","method":"a"}'),
        (
            b'{"params":{"id":1,"x":"\\"id\\":1}"} , "id" : 1 }',
            b'{"params":{"id":1,"x":"\\"id\\":1}"} , "id" : "p" }',
        ),
        (b'{"id":[1,{"id":2}],"id":{"id":"]"}}', b'{"id":[1,{"id":2}],"id":"p"}'),
        (b'{"a":{"b":"]}"},"a":{"c":[{}]},"id":1}', b'{"a":{"b":"]}"},"a":{"c":[{}]},"id":"p"}'),
        (b'{"id":12345}', b'{"id":"p"}'),
        (b'{"id":-1.5e+3}', b'{"id":"p"}'),
        (b'{"id":null,"error":{}}', b'{"id":"p","error":{}}'),
    ],
)
def test_the_top_level_id_is_replaced(text, expected):
    """Only the id of the message itself changes, and of repeated ones the last."""
    assert j.replace_id(text, "p") == expected


def test_a_cancelled_id_is_replaced_by_its_type():
    """The id inside params is replaced, not the one of another place, and an integer stays one."""
    text = b'{"method":"notifications/cancelled","requestId":0,"params":{"requestId":"a","reason":"r"}}'

    assert j.replace_cancelled_id(text, 5) == text.replace(b'"a"', b"5")


def test_the_same_version_leaves_the_same_object():
    """An equal version is not written again, even where it is spelled with escapes."""
    text = b'{"params":{"protocolVersion":"2025-11-2\\u0035"}}'

    assert j.replace_protocol_version(text, "2025-11-25") is text
    assert j.replace_protocol_version(text, "v") == b'{"params":{"protocolVersion":"v"}}'


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b'{"id":1', b'{"id":1}x', b'{"params":7}', b'{"params":"requestId"}']
)
def test_bodies_that_hold_no_such_value_stay_as_they_are(text):
    """Broken text, another shape or an absent value is returned untouched."""
    assert j.replace_id(text, "p") is text
    assert j.replace_cancelled_id(text, "p") is text
    assert j.replace_protocol_version(text, "p") is text


@pytest.mark.timeout(20)
def test_a_repeated_name_does_not_multiply_the_work():
    """A large value under a name repeated a hundred thousand times is not copied for each of them."""
    text = b"{" + b'"a":[],' * 100_000 + b'"a":[' + b"1," * 2_000_000 + b'1],"id":1}'

    assert j.replace_id(text, 2) == text[:-2] + b"2}"
