"""The settings themselves: defaults, the manual under each, the file that shows them all, and the route of old."""

import ast
import re
import tomllib
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path

import pytest

from proxy.config import SETTINGS, Admin, Config, Listen, Route, Upstream, load, loads, sections
from proxy.config.routes import OF_ROUTE, OF_UPSTREAM, REPLACED

ROOT = Path(__file__).resolve().parent.parent.parent
SECTIONS = [section for section in fields(Config) if is_dataclass(section.type)]


def test_config_toml_equals_the_defaults() -> None:
    """The file in the repository says what holds without it."""
    config = load(ROOT / "config.toml", {}, {})

    assert config == Config()
    assert config == loads("")


def test_config_toml_names_every_setting_and_nothing_else() -> None:
    """Every field of every section is in the file, in the code's order, after a comment."""
    text = (ROOT / "config.toml").read_text()
    tables = tomllib.loads(text)
    keys = [f"{table}.{key}" for table, values in tables.items() for key in values]
    uncommented = re.findall(r"^\[\w+\]\n(\w+) =", text, re.MULTILINE)

    assert keys == list(SETTINGS)
    assert uncommented == []


def test_the_example_of_routes_holds() -> None:
    """Taken out of its comment, in the place of the three keys it replaces, the example is what it says it is."""
    text = (ROOT / "config.toml").read_text()
    for key in REPLACED:
        text = re.sub(rf"^{key.rpartition('.')[2]} = .*\n", "", text, count=1, flags=re.MULTILINE)
    example = re.search(r"^# \[\[routes\]\]\n(?:#.*\n)+", text, re.MULTILINE)
    assert example is not None

    config = loads(text.replace(example[0], "") + re.sub(r"^# ?", "", example[0], flags=re.MULTILINE))
    (route,) = config.routes

    assert (route.name, route.path, route.host, route.policy) == ("main", "/mcp", "", Route().policy)
    assert [upstream.name for upstream in route.upstreams] == ["a", "b"]
    assert config == replace(Config(), routes=config.routes)


def test_the_example_of_routes_names_every_key() -> None:
    """Whatever a route and its upstreams can say is named beside the example."""
    text = (ROOT / "config.toml").read_text()
    example = text[text.index("# [[routes]]") : text.index("[health]")]

    assert [name for name in [*OF_ROUTE, *OF_UPSTREAM] if re.search(rf"\b{name}\b", example) is None] == []


def test_every_setting_has_a_docstring() -> None:
    """The text under each field is the manual, so none is missing."""
    tree = ast.parse(Path(sections.__file__).read_text())
    names = {section.type.__name__ for section in SECTIONS} | {"Route", "Config"}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names]
    bare = [
        f"{node.name}.{field.target.id}"
        for node in classes
        for field, after in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]

    assert len(classes) == len(names)
    assert [name for name in bare if name not in {f"Config.{section.name}" for section in SECTIONS}] == []


def test_every_default_fits_its_own_rule() -> None:
    """Giving every default explicitly changes nothing."""
    given_defaults = {
        key: {} if setting.rule.pairs else list(setting.default) if type(setting.default) is tuple else setting.default
        for key, setting in SETTINGS.items()
    }

    assert load(None, {}, given_defaults) == Config()


def test_sections_are_frozen() -> None:
    """No component can change what another one reads."""
    config = Config()

    assert all(getattr(config, section.name).__dataclass_params__.frozen for section in SECTIONS)
    with pytest.raises(FrozenInstanceError):
        config.listen.path = "/x"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        config.routes = ()  # type: ignore[misc]


def test_without_routes_there_is_one() -> None:
    """It is made of the listener's path and the one upstream."""
    upstream = Upstream(url="http://127.0.0.1:9/x")

    assert Config().routes == (Route(),)
    assert Config(listen=Listen(path="/x"), upstream=upstream).routes == (Route(path="/x", upstreams=(upstream,)),)


def test_a_copy_with_another_section_has_its_route() -> None:
    """The route nobody gave follows what it is made of; one that was given stays."""
    upstream = Upstream(url="http://127.0.0.1:9/x")
    given = (Route(name="other"),)

    assert replace(Config(), upstream=upstream).routes[0].upstreams == (upstream,)
    assert replace(replace(Config(), listen=Listen(path="/x")), upstream=upstream).routes[0].path == "/x"
    assert replace(Config(routes=given), upstream=upstream).routes == given


def test_representations_hold_no_secret() -> None:
    """A configuration in a log line or a traceback shows neither token nor headers."""
    config = Config(admin=Admin(token="hunter2"), upstream=Upstream(headers=(("X-Key", "hunter2"),)))

    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", (None, "", 0)),
        ("127.0.0.1:9", (None, "127.0.0.1", 9)),
        ("[::1]:0", (None, "::1", 0)),
        ("fd:3", (3, "localhost", 0)),
    ],
)
def test_the_admin_address_in_parts(address: str, expected: tuple[int | None, str, int]) -> None:
    """It is read as the listener's, and may be none."""
    admin = Admin(address=address)

    assert (admin.descriptor, admin.host, admin.port) == expected
