"""What the first and the last bytes of a message tell is what `classify` tells of the whole."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core import recognition as r
from proxy.core.jsonrpc import Envelope, Kind, classify
from proxy.core.recognition import ResponseBeginning, begins_response, ends_response

LONG = "x" * r.SHOWN_BYTES

TEXTS = st.text('ab"\\{}[],:\n é1', max_size=6) | st.just('","id":2}') | st.just('"},"method":"')
SCALARS = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.sampled_from(["id", "method"]), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(["id", "result", "error", "jsonrpc", "method", "é", "i\\u0064", "m\\u0065thod", "a\\n"])
MEMBERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
USUAL = st.permutations([("jsonrpc", "2.0"), ("id", 1), ("result", {"content": [{"text": 'a"}],"id":3}'}]})])
CONTRARY = {"id", "method", "error"}
SPACES = st.text(" \n\t\r", max_size=2)


def write(members, space, *, is_ascii):
    """Write an object member by member, so that names may repeat and be spelt with escapes."""
    texts = [
        f'{space}"{name}"{space}:{space}{json.dumps(value, ensure_ascii=is_ascii)}{space}' for name, value in members
    ]
    return f"{space}{{{','.join(texts) or space}}}{space}".encode()


def meant(members):
    """Return the names of members as a parser reads them."""
    return {name.encode().decode("unicode_escape") for name, _ in members}


@settings(max_examples=600)
@given(MEMBERS | USUAL, SPACES, st.booleans(), st.floats(0, 1))
def test_a_beginning_tells_what_the_whole_is(members, space, is_ascii, place):
    """Cut anywhere, what is recognised is a response with that id, where no later member contradicts."""
    text = write(members, space, is_ascii=is_ascii)
    cut = round(len(text) * place)
    beginning = begins_response(text[:cut])
    if beginning is None:
        return
    envelope = classify(text)
    # The members of the text that the last one shown begins; what follows it was not to be seen.
    shown = next(n for n in range(len(members) + 1) if len(write(members[:n], space, is_ascii=is_ascii)) > cut)
    if not meant(members[shown:]) & CONTRARY:
        kind = Kind.OPAQUE if beginning.id is None and not beginning.is_error else Kind.RESPONSE
        assert envelope == Envelope(kind, beginning.id, None, beginning.is_error)


@settings(max_examples=600)
@given(MEMBERS | USUAL, SPACES, st.booleans(), st.lists(st.integers(1, 40), max_size=4), st.integers(0, 40))
def test_an_end_tells_what_the_whole_is(members, space, has_id, sizes, tail):
    """From the end of a text in any parts `classify`'s word is told, unless a further object hides the contrary."""
    text = write([("id", 5)] * has_id + [("result", {"a": LONG}), *members], space, is_ascii=True)
    beginning = begins_response(text)
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    envelope = ends_response(beginning, [*parts, text[at : len(text) - tail], text[len(text) - tail :]])

    assert beginning == ResponseBeginning(5 if has_id else None, is_error=False)
    hidden = max((place for place, (_, value) in enumerate(members, 1) if isinstance(value, dict)), default=0)
    if envelope is not None and not meant(members[:hidden]) & CONTRARY:
        assert envelope == classify(text)


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":{', ResponseBeginning(1, is_error=False)),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,', ResponseBeginning(1, is_error=True)),
        (b' {\n "id" : "a\\u0031" ,\r\t"result" : {\n', ResponseBeginning("a1", is_error=False)),
        (b'{"id":-7,"result":{', ResponseBeginning(-7, is_error=False)),
        (b'{"result":{"content":[', ResponseBeginning(None, is_error=False)),
        (b'{"id":1,"id":2,"result":{', ResponseBeginning(2, is_error=False)),
        (b'{"id":1,"error":null,"result":{', ResponseBeginning(1, is_error=False)),
        (b'{"id":1,"error":{},"result":{', ResponseBeginning(1, is_error=True)),
        (b'{"id":1,"result":null,"error":{', ResponseBeginning(1, is_error=True)),
        (b'{"_meta":{"a":["}"," \\"{",{}]},"id":1,"result":{', ResponseBeginning(1, is_error=False)),
        (b'{"x":true,"y":-1.5e+3,"id":1,"result":{', ResponseBeginning(1, is_error=False)),
        (b'{"id":1,"result":{"method":"x","id":2,', ResponseBeginning(1, is_error=False)),
        (b'{"id":1,"result":{"text":"} , \\"', ResponseBeginning(1, is_error=False)),
    ],
)
def test_what_is_recognised(text, beginning):
    """A result or an error that goes on, the id in front of it or still to come."""
    assert begins_response(text) == beginning
    assert begins_response(text + LONG.encode()) == beginning


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"[",
        b'[{"id":1,"result":{',
        b"{",
        b'{"id"',
        b'{"id":1',
        b'{"id":1,',
        b'{"id":1,"result"',
        b'{"id":1,"result":',
        b'{"id":1,"result":12',
        b'{"id":1,"result":[',
        b'{"id":1,"result":"',
        b'{"id":1,"result":nul',
        b'{"id":1,"error":nul',
        b'{"id":1,"result":{}',
        b'{"id":1,"result":{}}',
        b'{"id":1,"result":{},"_meta":{',
        b'{"id":1,"params":{',
        b'{"id":1,"method":null,"result":{',
        b'{"method":"x","id":1,"result":{',
        b'{"result":{},"method":"x","params":{',
        b'{"\\u0069d":1,"result":{',
        b'{"\\u006dethod":"a","id":1,"result":{',
        b'{"id":1.0,"result":{',
        b'{"id":1e2,"result":{',
        b'{"id":null,"result":{',
        b'{"id":true,"result":{',
        b'{"id":[1],"result":{',
        b'{"id":"\xff","result":{',
        b'{"id":1,"_meta":{"a":" } , ',
        b'{"id":1,"_meta":"},\\"result\\":{',
        b'\xef\xbb\xbf{"id":1,"result":{',
        b'{"id":' + b"9" * 5000 + b',"result":{',
        b'{"_meta":"' + LONG.encode() + b'","id":1,"result":{',
    ],
)
def test_what_is_refused(text):
    """Other messages, and whatever leaves a doubt."""
    assert begins_response(text) is None


@pytest.mark.parametrize(
    ("head", "tail", "envelope"),
    [
        (b'{"id":1,"result":{', b'"}]}}', Envelope(Kind.RESPONSE, 1, None, is_error=False)),
        (b'{"id":1,"error":{', b'"}\n}\r\n', Envelope(Kind.RESPONSE, 1, None, is_error=True)),
        (b'{"id":1,"result":{"a":"', b'},\\"id\\":9"}}', Envelope(Kind.RESPONSE, 1, None, is_error=False)),
        (b'{"result":{', b'},"jsonrpc":"2.0","id":7}', Envelope(Kind.RESPONSE, 7, None, is_error=False)),
        (b'{"result":{', b'}\n,\n"id" : "a" }', Envelope(Kind.RESPONSE, "a", None, is_error=False)),
        (b'{"id":1,"result":{', b'},"x":"}","y":-1.5}', Envelope(Kind.RESPONSE, 1, None, is_error=False)),
    ],
)
def test_ends_that_are_clear(head, tail, envelope):
    """The value that went on is closed, and behind it stands nothing that contradicts."""
    assert ends_response(begins_response(head), [head + LONG.encode(), tail]) == envelope


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (b'{"id":1,"result":{', b"}"),
        (b'{"id":1,"result":{', b"]}"),
        (b'{"id":1,"result":{', b"}}}x"),
        (b'{"id":1,"result":{', b'},"id":1}'),
        (b'{"id":1,"result":{', b'},"method":"x"}'),
        (b'{"id":1,"result":{', b'},"error":{}}'),
        (b'{"id":1,"result":{', b'},"error":1}'),
        (b'{"id":1,"result":{', b'},"method":"x","params":{}}'),
        (b'{"id":1,"result":{', b'},"m\\u0065thod":"x"}'),
        (b'{"id":1,"result":{', b'},"result":2}'),
        (b'{"id":1,"result":{', b"}" + b" " * 600 + b"}"),
        (b'{"id":1,"result":{', b'},"a":"' + b"x" * 600 + b'"}'),
        (b'{"result":{', b"}}"),
        (b'{"result":{', b'},"id":1.0}'),
        (b'{"result":{', b'},"id":null}'),
        (b'{"result":{', b'},"id":1,"id":2}'),
        (b'{"result":{', b'},"id":true,"id":2}'),
        (b'{"result":{', b'},"id":1,"_meta":{}}'),
    ],
)
def test_ends_that_are_not(head, tail):
    """Where a member contradicts, the id is missing or the tail does not show it, the whole must be asked."""
    assert ends_response(begins_response(head), [head + LONG.encode(), tail]) is None


@given(st.binary() | st.text('{}[]",:\\ntrue1.0 idmethodresult').map(str.encode), st.integers(0, 300))
def test_nothing_raises(text, size):
    """No bytes, whatever they are, make the reading of a beginning or an end raise."""
    beginning = ResponseBeginning(None, is_error=False)

    begins_response(b'{"id":1,"result":' + text)
    begins_response(text)
    ends_response(beginning, [])
    ends_response(beginning, [text[:size], text[size:], b""])
