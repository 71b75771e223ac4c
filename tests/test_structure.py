"""The rules of structure that no tool checks: sizes, names, imports, words, a test file for every module."""

import ast
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "proxy").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

LONGEST_MODULE = 400
LONGER = {"proxy/relay/attempt.py": 480, "proxy/relay/call.py": 520, "proxy/upstream/connection.py": 500}
"""Hot modules that exceed it, each with its reason in its docstring."""
LONGEST_FUNCTION = 80
LONGEST_FUNCTION_MOST = 45
"""Lines that 95 of 100 functions do not exceed."""

MADE_HERE = {
    ".git", ".venv", ".envs", "build", "dist", "node_modules", "__pycache__", ".coverage", ".hypothesis",
    ".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache",
}  # fmt: skip
"""What a checkout does not hold."""

# In two halves each, so that this file does not hold them.
FOREIGN_WORDS = [a + b for a, b in (("/wo", "rk/"), ("/tmp", "/w/"), ("/ro", "ot/"), ("/opt/", "wheels"))]
"""Places of one machine, which mean nothing on another."""
REGISTRY = re.compile(r"https?://[\w.-]*(?:registry|npm|pypi|artifactory|nexus)[\w.-]*")
"""An address of a package registry: which one is used is the business of who installs."""

TESTED_ELSEWHERE = {
    "proxy/__main__.py": "tests/test_cli.py starts it",
    "proxy/control/base.py": "an interface: what keeps it is tested",
    "proxy/store/base.py": "an interface: what keeps it is tested",
    "proxy/upstream/base.py": "an interface: what keeps it is tested",
}
"""Modules without a test file of their own name, and where they are tested."""


def name_of(path: Path) -> str:
    """Return the path of a file as this repository knows it."""
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give every function in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function, from its name to its end."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def texts() -> Iterator[tuple[str, str]]:
    """Give the name and the text of every file that a checkout holds."""
    for directory, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in MADE_HERE]
        for path in (Path(directory) / file for file in files if file not in MADE_HERE and file[-3:] != ".so"):
            yield name_of(path), path.read_text(errors="replace")


def test_every_module_can_be_imported_alone() -> None:
    """No module needs another to have been imported before it: there are no cycles to fall into."""
    paths = [name_of(path) for path in MODULES if path.name != "__main__.py"]  # importing that one runs it
    names = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in paths]
    script = """
import importlib, sys
failed = []
for name in sys.argv[1:]:
    for loaded in [each for each in sys.modules if each.partition(".")[0] == "proxy"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{name}: {error!r}")
sys.exit("\\n".join(failed) or 0)
"""
    command = [sys.executable, "-c", script, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_no_module_is_too_long_to_be_read() -> None:
    """A module stays within its budget of lines."""
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGER.get(name, LONGEST_MODULE)}

    assert too_long == {}


def test_no_function_is_too_long_to_be_read() -> None:
    """A function stays within its budget of lines, and nearly all are well below."""
    lengths = {f"{name_of(path)}:{f.name}": length(f) for path in MODULES for f in functions(path)}
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}

    assert too_long == {}
    assert statistics.quantiles(lengths.values(), n=20)[-1] <= LONGEST_FUNCTION_MOST


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_every_test_says_in_one_line_what_it_holds(path: Path) -> None:
    """The docstring of a test is one sentence on one line."""
    unsaid = [
        f"line {test.lineno}: {test.name}"
        for test in functions(path)
        if test.name.startswith("test_") and not re.fullmatch(r".+\.", ast.get_docstring(test) or "")
    ]

    assert unsaid == []


def test_every_module_has_tests_of_its_name() -> None:
    """Who changes a module finds its tests by its name."""
    names = {path.stem.removeprefix("test_") for path in TESTS}
    untested = {name_of(path) for path in MODULES if path.name != "__init__.py" and path.stem not in names}

    assert untested == set(TESTED_ELSEWHERE)


def test_no_file_names_a_place_of_one_machine() -> None:
    """The repository means the same on every machine."""
    found = [
        f"{name}: {word}"
        for name, text in texts()
        for word in [*FOREIGN_WORDS, *REGISTRY.findall(text)]
        if word in text
    ]

    assert found == []


def test_every_dependency_is_pinned_for_the_checks() -> None:
    """What the project asks for by name has its version in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["native"], *extras["dev"]]
    asked = {re.split(r"[^\w-]", line)[0].lower().replace("_", "-") for line in wanted}
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }

    assert asked - pinned == {"mcp-session-proxy"}, "which names its own extras"


def test_every_link_in_the_readme_leads_somewhere() -> None:
    """The first page a person opens points at files that are there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    dead = [link for link in links if not (ROOT / link).exists()]

    assert len(links) > 5
    assert dead == []
