"""A configuration as it is shown and compared: complete, loadable, and without secrets."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import SETTINGS, Admin, Config, differences, effective, load, loads
from proxy.config.routes import KEY, REPLACED
from proxy.errors import ConfigError

SECRETS = """
[admin]
token = "hunter2"
[upstream]
headers = { Authorization = "hunter2" }
[[routes]]
[[routes.upstreams]]
url = "http://a/"
headers = { X-Key = "hunter2", X-Empty = "" }
[[routes.upstreams]]
url = "http://b/"
"""


def written(tables: dict[str, Any]) -> str:
    """Write tables as TOML: keys that are bare words or quoted, values as JSON has them too."""

    def value(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{json.dumps(name)} = {value(text)}" for name, text in item.items()) + "}"
        return json.dumps(item)

    lines = []
    for section, table in tables.items():
        if section == KEY:
            continue
        lines += [f"[{section}]", *(f"{name} = {value(item)}" for name, item in table.items())]
    for route in tables.get(KEY, ()):
        lines += ["[[routes]]", *(f"{name} = {value(item)}" for name, item in route.items() if name != "upstreams")]
        for upstream in route["upstreams"]:
            lines += ["[[routes.upstreams]]", *(f"{name} = {value(item)}" for name, item in upstream.items())]
    return "\n".join(lines)


def test_everything_in_force_is_shown() -> None:
    """Every setting is there under its own name, in its order, and the route that is made of them."""
    shown = effective(Config())
    keys = [f"{section}.{name}" for section, table in shown.items() if section != KEY for name in table]

    assert keys == list(SETTINGS)
    assert [(route["name"], route["path"]) for route in shown[KEY]] == [("main", "/mcp")]
    assert shown[KEY][0]["upstreams"][0]["url"] == shown["upstream"]["url"] == Config().upstream.url
    assert json.loads(json.dumps(shown)) == shown


def test_keys_that_routes_replace_are_not_shown() -> None:
    """A URL that nobody connects to is not in force."""
    shown = effective(loads("[[routes]]\n[[routes.upstreams]]\nurl = 'http://a/'"))
    keys = [f"{section}.{name}" for section, table in shown.items() if section != KEY for name in table]

    assert set(SETTINGS) - set(keys) == set(REPLACED)
    assert [upstream["url"] for upstream in shown[KEY][0]["upstreams"]] == ["http://a/"]


def test_a_pool_of_flags_is_shown_whole() -> None:
    """Several --upstream are several upstreams of the one route."""
    shown = effective(load(None, {}, {"upstream.url": ["http://a/", "http://b/"]}))

    assert [upstream["url"] for upstream in shown[KEY][0]["upstreams"]] == ["http://a/", "http://b/"]
    assert shown["upstream"]["url"] == "http://a/"


def test_secrets_are_masked() -> None:
    """Of a token and of headers only that they are set is shown, and which headers."""
    shown = effective(loads(SECRETS))

    assert "hunter2" not in repr(shown)
    assert shown["admin"]["token"] == "***"
    assert shown["upstream"]["headers"] == {"Authorization": "***"}
    assert [upstream["headers"] for upstream in shown[KEY][0]["upstreams"]] == [
        {"X-Key": "***", "X-Empty": "***"},
        {"Authorization": "***"},
    ]
    assert effective(Config())["admin"]["token"] == ""


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "listen.path": st.sampled_from(["/mcp", "/x"]),
    "listen.allowed_hosts": st.lists(st.sampled_from(["a", "b:1"]), max_size=2),
    "upstream.url": st.sampled_from(["http://a/", "http://b/"]),
    "upstream.weight": st.integers(1, 3),
    "upstream.labels": st.dictionaries(st.sampled_from(["a.b", "c"]), st.text("a\"\\'=,é ", max_size=4), max_size=2),
    "upstream.silence_seconds": st.sampled_from([10.0, 30.0]),
    "health.probe": st.sampled_from(["mcp", "tcp"]),
    "retry.ask_tools": st.booleans(),
    "admin.address": st.sampled_from(["", "127.0.0.1:1"]),
    "log.level": st.sampled_from(["info", "debug"]),
}
_ROUTES = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["a", "b"]),
            "path": st.sampled_from(["/a", "/b"]),
            "host": st.sampled_from(["", "x"]),
            "upstreams": st.lists(
                st.fixed_dictionaries({"url": st.just("http://c/"), "max_calls": st.integers(300, 302)}),
                min_size=1,
                max_size=2,
            ),
        }
    ),
    max_size=2,
)


@given(st.fixed_dictionaries({}, optional=_VALUES), _ROUTES)
def test_what_is_shown_is_what_is_in_force(overrides: dict[str, Any], routes: list[dict[str, Any]]) -> None:
    """Written to a file and loaded, what is shown is the same configuration, secrets apart."""
    tables: dict[str, Any] = {KEY: routes} if routes else {}
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if not (routes and key in REPLACED):
            tables.setdefault(section, {})[name] = value
    try:
        config = loads(written(tables))
    except ConfigError:
        assert len(routes) > 1  # two of a name, or of an endpoint
        return
    shown = effective(config)
    if not routes:
        del shown[KEY]  # beside them a file cannot have what they are made of

    assert loads(written(shown)) == config


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("", "[log]\nlevel = 'info'", []),
        ("", "[log]\nlevel = 'debug'\n[listen]\nbacklog = 1", ["listen.backlog", "log.level"]),
        ("[admin]\ntoken = 'a'", "[admin]\ntoken = 'b'", ["admin.token"]),
        ("", "[health]\nfall = 9\n[upstream]\nsilence_seconds = 20", ["upstream.silence_seconds", "health.fall"]),
        # of routes
        ("", "[listen]\npath = '/x'", []),
        ("", "[upstream]\nurl = 'http://b/'\nname = 'b'\nweight = 2\nlabels = { a = 'b' }\nmax_calls = 300", []),
        ("", "[[routes]]\n[[routes.upstreams]]\nurl = 'http://a/'", []),
        (SECRETS, SECRETS.replace("http://b/", "http://c/"), []),
    ],
)
def test_differences_outside_of_routes(before: str, after: str, expected: list[str]) -> None:
    """What a new route table does not bring about is named; the rest is not."""
    old, new = loads(before), loads(after)

    assert differences(old, new) == expected
    assert differences(new, old) == expected


def test_differences_name_keys_and_no_values() -> None:
    """A changed secret is told as changed."""
    old, new = Config(), replace(Config(), admin=Admin(token="hunter2"))

    assert differences(old, new) == ["admin.token"]
