"""What is compiled, and that what runs is what was compiled."""

import ast
import importlib
from pathlib import Path

import pytest

import native

SOURCES = native.sources()


def test_a_module_of_a_call_is_compiled_or_says_why_not() -> None:
    """None is left out because nobody thought of it, and no reason is kept for one that has gone."""
    there = {
        path.relative_to(native.ROOT).as_posix()
        for package in native.PACKAGES
        for path in (native.ROOT / "proxy" / package).glob("*.py")
        if path.name != "__init__.py"
    }

    assert set(SOURCES) & there == there - set(native.INTERPRETED)
    assert set(native.INTERPRETED) <= there
    assert all(native.INTERPRETED.values())


def test_a_struct_in_a_compiled_module_is_left_to_its_library() -> None:
    """Undeclared, mypyc takes a struct for a class of its own, without what its library makes of it."""
    undeclared = []
    for name in SOURCES:
        for node in ast.walk(ast.parse((native.ROOT / name).read_text())):
            if isinstance(node, ast.ClassDef) and any("Struct" in ast.unparse(base) for base in node.bases):
                written = [ast.unparse(each) for each in node.decorator_list]
                if "mypyc_attr(native_class=False)" not in written:
                    undeclared.append(f"{name}: {node.name}")

    assert undeclared == []


def test_no_compiled_class_annotates_a_field_of_its_base_again() -> None:
    """Mypyc 2.4 visits such a field twice, so that the collector never frees what it holds."""
    nodes = [
        node
        for name in SOURCES
        for node in ast.walk(ast.parse((native.ROOT / name).read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    classes = {node.name: node for node in nodes}
    named = [node.name for node in nodes]
    bases = {ast.unparse(base) for node in nodes for base in node.bases} & set(named)
    assert [name for name in bases if named.count(name) > 1] == [], "which of them is meant cannot be told"

    def annotated(node: ast.ClassDef) -> set[str]:
        targets = [each.target for each in ast.walk(node) if isinstance(each, ast.AnnAssign)]
        return {ast.unparse(target).removeprefix("self.") for target in targets}

    def of_bases(node: ast.ClassDef) -> set[str]:
        known = [classes[ast.unparse(base)] for base in node.bases if ast.unparse(base) in classes]
        return set().union(*(annotated(base) | of_bases(base) for base in known))

    again = {node.name: both for node in nodes if (both := annotated(node) & of_bases(node))}

    assert again == {}


@pytest.mark.parametrize("name", SOURCES)
def test_what_runs_is_what_was_compiled(name: str) -> None:
    """Every module that is to be compiled is, or none is."""
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))

    assert module.__file__ is not None
    assert module.__file__.endswith(".py") != any(native.compiled())


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout with one module of each kind, and return where it is."""
    for name in (*native.TOOLS, "proxy/cli.py", "proxy/core/ids.py", *(f"proxy/{each}.py" for each in native.MODULES)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# of old\n")
    monkeypatch.setattr(native, "ROOT", tmp_path)
    monkeypatch.setattr(native, "STAMP", tmp_path / "stamp")
    return tmp_path


def compile_nothing(checkout: Path) -> None:
    """Leave what a build leaves."""
    (checkout / "proxy/core/ids.cpython-311-x86_64-linux-gnu.so").write_text("")
    (checkout / f"{native.NAME}__mypyc.cpython-311-x86_64-linux-gnu.so").write_text("")
    native.STAMP.write_text(native.digest())


@pytest.mark.parametrize("name", [*native.TOOLS, "proxy/cli.py", "proxy/core/ids.py", "proxy/core/new.py"])
def test_what_was_made_of_other_sources_is_old(checkout: Path, name: str) -> None:
    """Another line, another module, other tools: Python would take the old one all the same."""
    compile_nothing(checkout)
    assert native.is_current()

    (checkout / name).write_text("# anew\n")

    assert not native.is_current()


def test_what_was_compiled_can_be_taken_away(checkout: Path) -> None:
    """The sources stay, nothing else of it does; a second time is no error."""
    compile_nothing(checkout)
    native.remove()
    native.remove()

    assert list(native.compiled()) == []
    assert not native.is_current()
    assert (checkout / "proxy/core/ids.py").exists()
