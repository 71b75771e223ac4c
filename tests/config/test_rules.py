"""One value and its rule: types, ranges, tables of strings, and what text becomes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import header_problem, label_problem
from proxy.config.rules import Rule, checked, name_problem, one_of, parsed
from proxy.errors import ConfigError

TABLE = Rule(pairs=label_problem)
HEADERS = Rule(pairs=header_problem, secret=True)

FITTING: list[tuple[object, object, Rule, Any]] = [
    (3, 1, Rule(least=3, most=3), 3),
    (3, 1.0, Rule(), 3.0),
    (0, 1.0, Rule(), 0.0),
    (True, False, Rule(), True),
    ("a", "", Rule(check=one_of("a", "b")), "a"),
    (["a", "b"], (), Rule(check=one_of("a", "b")), ("a", "b")),
    ([], (), Rule(), ()),
    ({}, (), TABLE, ()),
    ({"b": "2", "a": "1"}, (), TABLE, (("b", "2"), ("a", "1"))),
]

REFUSED: list[tuple[object, object, Rule, str, str]] = [
    ("3", 1, Rule(), "k", 'expected an integer, got "3"'),
    (True, 1, Rule(), "k", "expected an integer, got true"),
    (3.0, 1, Rule(), "k", "expected an integer, got 3.0"),
    (2**1001, 1.0, Rule(), "k", "expected a number, got "),
    (0, 1, Rule(positive=True), "k", "expected a number above 0 and at most inf, got 0"),
    (2, 1, Rule(least=3, most=4), "k", "expected a number from 3 to 4, got 2"),
    (float("nan"), 1.0, Rule(), "k", "expected a number from 0 to inf, got NaN"),
    ("c", "", Rule(check=one_of("a", "b")), "k", 'expected one of a, b, got "c"'),
    (["a", "c"], (), Rule(check=one_of("a", "b")), "k", 'expected one of a, b, got "c"'),
    (["a", 1], (), Rule(), "k", 'expected a list of strings, got ["a", 1]'),
    ("hunter2", 1, Rule(secret=True), "k", "expected an integer, got ***"),
    (["hunter2"], (), HEADERS, "k", "expected a table of strings, got ***"),
    ({"X-Key": ["hunter2"]}, (), HEADERS, "k.X-Key", "expected a string, got ***"),
    ({"X-Key": "hunter2\n"}, (), HEADERS, "k.X-Key", "expected a header value"),
    ({"X-Key": "a", "x-key": "hunter2"}, (), HEADERS, "k.x-key", "expected each name once, in whatever letter case"),
    ({"a b": "1"}, (), TABLE, "k.a b", "expected a label of up to 64"),
    ({"a": {"b": "c"}}, (), TABLE, "k.a", 'expected a string, got {"b": "c"}'),
]


@pytest.mark.parametrize(("value", "default", "rule", "expected"), FITTING)
def test_what_fits_is_kept(value: object, default: object, rule: Rule, expected: object) -> None:
    """A value comes out in the type of its default."""
    kept = checked(value, default, rule, "k", "s")

    assert (kept, type(kept)) == (expected, type(expected))


@pytest.mark.parametrize(("value", "default", "rule", "key", "problem"), REFUSED)
def test_what_does_not_fit_is_refused(value: object, default: object, rule: Rule, key: str, problem: str) -> None:
    """The error names key and source and says what was expected, and no secret."""
    with pytest.raises(ConfigError) as caught:
        checked(value, default, rule, "k", "some source")

    assert (caught.value.key, caught.value.source) == (key, "some source")
    assert caught.value.problem.startswith(problem)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("default", "rule", "text", "expected"),
    [
        (False, Rule(), " Yes ", True),
        (True, Rule(), "off", False),
        (True, Rule(), "perhaps", "perhaps"),
        (1, Rule(), "12", 12),
        (1, Rule(), "1.5", "1.5"),
        (1.0, Rule(), "1.5", 1.5),
        (1.0, Rule(), "", ""),
        ("x", Rule(), "", ""),
        ((), Rule(), "a, b,,", ["a", "b"]),
        ((), TABLE, "a=1,b = c=d ,", {"a": "1", "b": "c=d"}),
        ((), TABLE, "", {}),
        ((), TABLE, "a=", {"a": ""}),
        ((), TABLE, "a=1,b", "a=1,b"),
        ((), TABLE, "a=1,a=2", "a=1,a=2"),
    ],
)
def test_text_becomes_what_its_setting_is(default: object, rule: Rule, text: str, expected: object) -> None:
    """What cannot be read stays text, for `checked` to refuse."""
    assert parsed(default, rule, text) == expected


@given(st.text(), st.sampled_from([False, 1, 1.0, "", ()]), st.sampled_from([Rule(), TABLE, HEADERS]))
def test_any_text_is_taken_or_refused(text: str, default: object, rule: Rule) -> None:
    """Whatever stands in a variable, it becomes a value of the right type or a `ConfigError`."""
    if rule.pairs is not None:
        default = ()
    try:
        value = checked(parsed(default, rule, text), default, rule, "k", "s")
    except ConfigError:
        return

    assert type(value) is type(default)


_NAMES = st.text("abz09-_", min_size=1, max_size=5)


@given(st.dictionaries(_NAMES, st.text("ab =\"'09:/", max_size=8).map(str.strip), max_size=4))
def test_a_table_comes_back_from_its_text(table: dict[str, str]) -> None:
    """`a=b,c=d` says what a table says, as long as no value holds a comma."""
    text = ",".join(f"{name}={value}" for name, value in table.items())

    assert parsed((), TABLE, text) == table


@given(st.text(max_size=70))
def test_names_are_words_of_one_part(text: str) -> None:
    """A name that is accepted can stand in a path, a log line and a command as it is."""
    if name_problem(text):
        return

    assert text.isascii()
    assert 0 < len(text) <= 64
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    assert text[0] not in "-_"
