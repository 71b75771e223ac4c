"""Upstreams that an operator asks for."""

from pathlib import Path
from typing import Any

import pytest

from proxy.config import Upstream
from proxy.control.base import ControlError
from proxy.control.newcomers import free_name, upstream_of

BASE = Upstream(headers=(("X-Key", "1"),), weight=3)


def test_what_is_not_said_is_as_for_all() -> None:
    """Only what was asked for differs from the base."""
    wanted = upstream_of(BASE, {"name": "b", "url": "http://b.test/mcp", "labels": {"v": "2"}})

    assert (wanted.name, wanted.url, wanted.labels) == ("b", "http://b.test/mcp", (("v", "2"),))
    assert (wanted.headers, wanted.weight) == (BASE.headers, 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "ftp://b"}, "url: expected an http:// or https:// URL"),
        ({"url": "http://user:secret@b/"}, "url: expected a URL without user and password"),
        ({"name": "Not A Name"}, "name: expected up to 64 of a-z"),
        ({"weight": 0}, "weight: expected a number from 1"),
        ({"labels": {"v": 7}}, "labels.v: expected a string"),
        ({"headers": {"X Y": "1"}}, "headers.X Y: "),
        ({"ca_file": "/nowhere/ca.pem"}, "upstream.ca_file: /nowhere/ca.pem cannot be read"),
    ],
)
def test_what_a_file_may_not_say_nobody_may(values: dict[str, Any], words: str) -> None:
    """Refused as from a file, naming what is wrong, with no secret in it."""
    with pytest.raises(ControlError) as error:
        upstream_of(BASE, values)

    assert error.value.code == "invalid"
    assert str(error.value).startswith(words)
    assert "secret" not in str(error.value)


def test_a_file_of_authorities_is_read_before_it_is_needed(tmp_path: Path) -> None:
    """One without certificates is refused."""
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    with pytest.raises(ControlError, match="expected certificates in PEM format"):
        upstream_of(BASE, {"ca_file": str(path)})


def test_a_free_name_is_as_in_a_file() -> None:
    """The route's name and the first number that is free."""
    assert free_name("main", set()) == "main-1"
    assert free_name("main", {"main-1", "main-2", "main-4"}) == "main-3"
    assert len(free_name("r" * 64, set())) <= 64
