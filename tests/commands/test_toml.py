"""The configuration as TOML: what is written reads back."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.commands.toml import written
from proxy.config import Config, effective, loads

TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(TEXTS, PLAIN, max_size=3)
TABLES = st.dictionaries(TEXTS, VALUES, max_size=4)
ROUTES = st.lists(
    st.builds(
        lambda own, pool: {**own, "upstreams": pool},
        TABLES,
        st.lists(TABLES, min_size=1, max_size=2),
    ),
    min_size=1,
    max_size=2,
)


@given(
    st.builds(
        lambda top, tables, routes: {**top, **tables, "routes": routes},
        st.dictionaries(TEXTS, PLAIN, max_size=2),
        st.dictionaries(TEXTS, TABLES, max_size=3),
        ROUTES,
    )
)
def test_what_is_written_reads_back(tables: dict[str, Any]) -> None:
    """Whatever texts and numbers stand in tables and arrays of tables, a reader of TOML finds the same."""
    assert tomllib.loads(written(tables)) == tables


def test_an_array_of_tables_below_a_table_is_written_too() -> None:
    """No part of a configuration is lost for where it stands."""
    tables = {"a": {"x": 1, "b": [{"c": 1}, {"c": 2}]}, "d": {}}

    assert tomllib.loads(written(tables)) == tables


def test_the_defaults_read_back() -> None:
    """The whole configuration is written as the file that would make it."""
    assert tomllib.loads(written(effective(Config()))) == effective(Config())


def test_routes_are_written_as_a_person_writes_them() -> None:
    """Arrays of tables have headers, small tables stand inline."""
    config = loads('[[routes]]\npath = "/a"\n[[routes.upstreams]]\nurl = "http://a/"\nlabels = { version = "1" }\n')
    text = written(effective(config))

    assert "\n[[routes]]\n" in text
    assert "\n[[routes.upstreams]]\n" in text
    assert '\nlabels = { version = "1" }\n' in text
