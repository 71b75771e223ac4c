"""Revisions: what each knows, and how versions nobody has heard of are treated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import revision

MODERN = "2026-07-28"


def test_the_table_is_ordered_and_complete():
    """The five revisions stand in the order of time."""
    versions = [row.version for row in revision.REVISIONS]

    assert versions == ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]
    assert all(revision.lookup(version).version == version for version in versions)


@pytest.mark.parametrize(
    ("feature", "versions"),
    [
        ("has_session", {"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"}),
        ("has_batches", {"2025-03-26"}),
        ("has_priming", {"2025-11-25"}),
        ("has_version_header", {"2025-06-18", "2025-11-25", "2026-07-28"}),
    ],
)
def test_features_belong_to_their_revisions(feature, versions):
    """Each feature is known to exactly the revisions that define it."""
    assert {row.version for row in revision.REVISIONS if getattr(row, feature)} == versions


def test_lookup_is_exact():
    """A version without a row of its own is not found, however near."""
    assert revision.lookup("2025-06-19") is None
    assert revision.is_known("2025-06-18")
    assert not revision.is_known("2025-06-19")


@pytest.mark.parametrize("version", [MODERN, "2026-07-29", "2027-01-01", "9999-12-31"])
def test_modern_dates_include_the_future(version):
    """2026-07-28 and every later date is modern."""
    assert revision.is_modern(version)


@pytest.mark.parametrize(
    "version",
    [
        None,
        "",
        "2026-07-27",
        "2025-11-25",
        "draft",
        "zzzz-zz-zz",
        "2026-07-28 ",
        "2026-07-28\n",
        "2027",
        "\uff12\uff10\uff12\uff17-01-01",
    ],
)
def test_everything_else_is_not_modern(version):
    """Older dates, other texts and no version at all are not modern."""
    assert not revision.is_modern(version)


@pytest.mark.parametrize(
    ("version", "row"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-11-25", "2025-11-25"),
        ("2025-06-19", "2025-06-18"),
        ("2025-03-25", "2024-11-05"),
        ("2024-10-07", "2024-11-05"),
        ("2026-01-01", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("2030-01-01", "2025-11-25"),
        ("", "2025-03-26"),
        ("draft", "2025-03-26"),
        ("DRAFT-2026-v1", "2025-03-26"),
    ],
)
def test_a_session_takes_the_nearest_older_row(version, row):
    """Unknown dates are treated by what came before them, other texts by what the spec says to assume."""
    assert revision.for_session(version).version == row


@given(st.text() | st.dates().map(str))
def test_every_text_gives_a_row_with_sessions(version):
    """No version text leaves a session without a row, and none gives one without sessions."""
    assert revision.for_session(version).has_session
