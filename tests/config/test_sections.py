"""The settings themselves: defaults, the manual under each, and the file that shows them all."""

import ast
import re
import tomllib
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from proxy.config import SETTINGS, Config, load, loads, sections

ROOT = Path(__file__).resolve().parent.parent.parent


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


def test_every_setting_has_a_docstring() -> None:
    """The text under each field is the manual, so none is missing."""
    tree = ast.parse(Path(sections.__file__).read_text())
    names = {section.type.__name__ for section in fields(Config)}
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
    assert bare == []


def test_every_default_fits_its_own_rule() -> None:
    """Giving every default explicitly changes nothing."""
    given_defaults = {
        key: list(setting.default) if isinstance(setting.default, tuple) else setting.default
        for key, setting in SETTINGS.items()
    }

    assert load(None, {}, given_defaults) == Config()


def test_sections_are_frozen() -> None:
    """No component can change what another one reads."""
    config = Config()

    assert all(is_dataclass(getattr(config, section.name)) for section in fields(config))
    with pytest.raises(FrozenInstanceError):
        config.listen.path = "/x"  # type: ignore[misc]
