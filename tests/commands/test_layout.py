"""How things look: straight columns, short times, and no tricks on the terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.commands.layout import LONGEST_CELL, counted, duration, fields, plain, size, table


@given(st.text())
def test_what_a_peer_calls_itself_plays_no_tricks(text: str) -> None:
    """Whatever is shown is printable, on one line and bounded."""
    shown = plain(text)

    assert shown.isprintable()
    assert len(shown) <= LONGEST_CELL


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("\x1b[2Jgone\n", r"\x1b[2Jgone\n"),
        (True, "yes"),
        (False, "no"),
        (None, "-"),
        (0, "0"),
        (1, "1"),
        ("x" * 100, "x" * 59 + "…"),
    ],
)
def test_values_are_shown_as_a_person_writes_them(value: object, expected: str) -> None:
    """Control characters are escaped, long texts end in an ellipsis."""
    assert plain(value) == expected


def test_columns_stand_straight_and_numbers_right() -> None:
    """Texts stand left, numbers right, and no line ends in blanks."""
    text = table(("NAME", "CALLS", "LAST"), [("a", 7, "x"), ("longer", 1200, "")])

    assert text == "NAME    CALLS  LAST\na           7  x\nlonger   1200\n"


def test_a_column_that_says_nothing_is_left_out() -> None:
    """Of what nobody uses there is no column, but for an empty table every one stands."""
    assert table(("A", "B", "C"), [("x", "", None), ("y", "", 1)]) == "A  C\nx  -\ny  1\n"
    assert table(("A", "B"), []) == "A  B\n"


def test_wide_letters_take_two_columns() -> None:
    """Names in any script keep the columns behind them straight."""
    lines = table(("NAME", "X"), [("日本", "1"), ("e\u0301", "2"), ("abcd", "3")]).splitlines()

    assert lines == ["NAME  X", "日本  1", "e\u0301     2", "abcd  3"]


@given(st.lists(st.tuples(st.text(st.characters(codec="ascii")), st.integers()), min_size=1))
def test_the_last_column_of_numbers_ends_in_one_line(rows: list[tuple[str, int]]) -> None:
    """However long what stands before it is, a column of numbers is flush right."""
    rows = [(f"n{name}", number) for name, number in rows]
    lines = table(("NAME", "NUMBER"), rows).splitlines()

    assert len({len(line) for line in lines}) == 1
    assert len(lines) == len(rows) + 1


def test_fields_stand_below_each_other() -> None:
    """Names are padded, what says nothing is left out, and a zero says something."""
    assert fields([("id", "x"), ("calls", 0), ("empty", ""), ("none", None)]) == "id     x\ncalls  0\n"
    assert fields([]) == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0s"),
        (6.14, "6.1s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (60, "1m 0s"),
        (3700, "1h 1m"),
        (86400, "1d 0h"),
        (90061, "1d 1h"),
    ],
)
def test_a_duration_has_two_units(seconds: float, expected: str) -> None:
    """The two largest units are what a person wants to know."""
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 2**20, "3.0 MiB"), (5 * 2**40, "5120.0 GiB")],
)
def test_a_size_has_the_unit_that_suits_it(count: int, expected: str) -> None:
    """Bytes are shown in powers of 1024."""
    assert size(count) == expected


def test_one_is_singular() -> None:
    """One of a thing is not many."""
    assert (counted(1, "call"), counted(0, "call"), counted(2, "call")) == ("1 call", "0 calls", "2 calls")
