"""The documents say what is so: what they name exists, what is made from the code is fresh, promises are tested."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from proxy.config import ENV_PREFIX, SETTINGS, Config, routes

ROOT = Path(__file__).resolve().parents[1]
ANALYSIS = ROOT / "analysis"
GENERATOR = ANALYSIS / "generate.py"
DOCUMENTS = sorted([*ANALYSIS.rglob("*.md"), *(ROOT / "tasks").glob("*.md"), ROOT / "README.md"])
# These two speak of other people's code, whose names are not ours to check.
NAMING = [path for path in DOCUMENTS if path.name not in ("current-session-architecture.md", "existing-sse-clients.md")]

# Names of other software that the documents use as code.
FOREIGN = {
    "call_later", "aiohttp.client", "data.http_status", "data.location", "data.origin", "data.outcome", "data.reason",
    "error.code", "error.data.origin", "resources/updated", "list_changed", "aiohttp-sse-client", "mcpServers",
    "relay.py", "downstream/feed.py",
}  # fmt: skip
PEOPLE = {"Client", "Old", "New", "Upstream"}
"""Who takes part in diagrams without being a class."""

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*(?:\(\))?")
TEST = re.compile(r"(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)")
UNITS = ("_seconds", "_bytes", "_events", "_per_stream", "_per_session", "_total")
SUFFIXES = (".py", ".md", ".toml", ".in", ".json", ".txt")


def prose(text):
    """Return a document without its code blocks."""
    return FENCE.sub("", text)


@cache
def words():
    """Return every identifier of the product, its benchmark and the documents' tools, and texts that look like one."""
    known = set()
    for folder in ("proxy", "tests/bench", "analysis"):
        for path in (ROOT / folder).rglob("*.py"):
            known |= set(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for field in ("id", "attr", "arg", "name", "value"):
                    word = getattr(node, field, None)
                    if isinstance(word, str) and word.isidentifier():
                        known.add(word)
    return known


@cache
def members():
    """Return what each class of the product has: its own and its parents' fields, attributes and methods."""
    found, parents = {}, {}
    for path in (ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                parents[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                own = found.setdefault(node.name, set())
                for child in ast.walk(node):
                    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                        own.add(child.name)
                    elif isinstance(child, ast.Attribute) and ast.unparse(child.value) == "self":
                        own.add(child.attr)
                    elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                        own.add(child.id)
    return {name: own.union(*(found.get(base, ()) for base in parents[name])) for name, own in found.items()}


@cache
def settings():
    """Return every key of the configuration with its section."""
    arrays = {"routes": routes.OF_ROUTE, "routes.upstreams": routes.OF_UPSTREAM}
    return {*SETTINGS, *(f"{array}.{key}" for array, keys in arrays.items() for key in keys)}


@cache
def sources():
    """Return the files of the repository that a person edits."""
    folders = ("proxy", "tests", "analysis", "tasks", "examples")
    return [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]


@cache
def defined_in(path):
    """Return the tests a file defines."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def is_module(name):
    """Tell whether `core.session` or `relay` is a module of the product."""
    path = ROOT / "proxy" / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def wrong_test(token):
    """Say what is wrong with the name of a test; empty when it exists."""
    match = TEST.fullmatch(token)
    if match is None or not (ROOT / match[1]).is_file():
        return "no such file of tests"
    return "" if match[2] in defined_in(match[1]) else "no such test"


def wrong_path(token):
    """Say what is wrong with the name of a file; empty when it exists or is made."""
    made = token.startswith(("build/", ".venv"))
    if "/" not in token:
        return "" if any(path.name == token for path in sources()) else "no such file"
    places = (ROOT, ROOT / "proxy", ANALYSIS, ANALYSIS / "tools", ROOT / ".ci")
    return "" if made or any((place / token).exists() for place in places) else "no such file"


def wrong_name(token):
    """Say what is wrong with a name in the text; empty when the code has it, or it is none of the code's."""
    name = token.removesuffix("()")
    if name in FOREIGN or is_module(name) or name in settings():
        return ""
    first, *rest = name.split(".")
    if rest and first in Config.__dataclass_fields__ and rest[-1].endswith(UNITS):
        return "no such setting"
    if rest and first in members():
        return "" if rest[0] in members()[first] else f"{first} has no {rest[0]}"
    looks_like_code = rest or "_" in name or token.endswith("()") or re.search(r"[a-z][A-Z]", name)
    unknown = [part for part in name.split(".") if part not in words()]
    return f"the code has no {unknown[0]}" if looks_like_code and unknown else ""


def wrong_names(text):
    """Return every name in a document's text that does not exist, with what is wrong."""
    found = []
    for token in CODE.findall(prose(text)):
        if token in FOREIGN:
            continue
        problem = ""
        if token.startswith("tests/") and "::" in token:
            problem = wrong_test(token)
        elif token.startswith("make "):
            problem = "" if f"\n{token[5:]}:" in (ROOT / "Makefile").read_text(encoding="utf-8") else "no such target"
        elif token.endswith(SUFFIXES) and " " not in token:
            problem = wrong_path(token)
        elif NAME.fullmatch(token) and not token.startswith(ENV_PREFIX):
            problem = wrong_name(token)
        if problem:
            found.append(f"{token}: {problem}")
    return found


def wrong_in_diagrams(text):
    """Return every participant and every call in a document's diagrams that the code does not have."""
    found = []
    for kind, body in FENCE.findall(text):
        if kind != "mermaid":
            continue
        if body.startswith("stateDiagram"):
            states = re.findall(r"^ +(\w+) --> (\w+)", body, re.MULTILINE)
            found += [state for move in states for state in move if state not in words()]
            continue
        boxes = re.findall(r"participant (\w+)", body)
        if not body.startswith("sequenceDiagram"):
            boxes = re.findall(r"(\w+) -->|--> (\w+)", body)
            boxes = [left or right for left, right in boxes]
        found += [box for box in boxes if box not in members() and box not in PEOPLE]
        found += [call for call in re.findall(r"(\w+)\(", body) if call not in words()]
        found += [key for key in re.findall(r"\b[a-z]+\.[a-z]+_[a-z_]+", body) if wrong_name(key)]
        # A semicolon ends a statement: renderers refuse what stands behind it.
        found += [line.strip() for line in body.splitlines() if ";" in line]
    return found


def anchors(path):
    """Return the anchors of a document's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(path):
    """Return the links of a document that lead nowhere; addresses of other places are not tried."""
    found = []
    for link in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target) if target else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(link)
    return found


def rows(text, head):
    """Return the rows of every table whose first column is called *head*, as lists of cells."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == head:
            inside = True
        elif inside and not cells[0].startswith("---"):
            found.append(cells)
    return found


def of(path):
    """Name a document in the list of tests."""
    return str(path.relative_to(ROOT))


def generate(*arguments):
    """Run the generator of documents."""
    command = [sys.executable, str(GENERATOR), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_generated_parts_are_fresh():
    """What is made from the code says what the code says, every fault is sent, every use of an id is explained."""
    done = generate("--check")

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_a_stale_part_is_found_and_written_anew(tmp_path):
    """A block that was changed by hand is named, and writing it brings the code's own back."""
    copy = tmp_path / "errors.md"
    shutil.copy(ANALYSIS / "errors.md", copy)
    generate(tmp_path)
    fresh = copy.read_text(encoding="utf-8")
    copy.write_text(fresh.replace("| -32050 |", "| -1 |"), encoding="utf-8")

    found = generate("--check", tmp_path)
    written = generate(tmp_path)

    assert "stale: errors.md" in found.stdout
    assert found.returncode == 1
    assert written.returncode == 0
    assert copy.read_text(encoding="utf-8") == fresh


@pytest.mark.parametrize("path", NAMING, ids=of)
def test_what_a_document_names_exists(path):
    """Modules, classes, functions, settings, files, targets and tests are in the code under these names."""
    assert wrong_names(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "token",
    [
        "tests/core/test_sse.py::test_that_is_not_there",
        "tests/core/test_nothing.py::test_boundaries",
        "make coffee",
        "proxy/core/nothing.py",
        "core/nothing.py",
        "replay.events_per_strean",
        "upstream.rebuild_wait_secs_seconds",
        "SessionRelay.nothing",
        "NoSuchClass",
        "no_such_function()",
        "core.nothing.Else",
    ],
)
def test_a_name_that_does_not_exist_is_found(token):
    """A test, target, file, setting, member, class or function that is not there is told."""
    assert len(wrong_names(f"see `{token}` for this")) == 1


@pytest.mark.parametrize("path", NAMING, ids=of)
def test_diagrams_are_in_the_codes_own_names(path):
    """Who takes part in a diagram is a class, and what they call is a function."""
    assert wrong_in_diagrams(path.read_text(encoding="utf-8")) == []


def test_a_stranger_in_a_diagram_is_found():
    """A participant or a call that the code does not have is told."""
    text = "```mermaid\nsequenceDiagram\n    participant Relais\n    Relais->>Call: sendd()\n```\n"

    assert wrong_in_diagrams(text) == ["Relais", "sendd"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=of)
def test_every_link_leads_somewhere(path):
    """Links to files and headings of the repository point at what is there."""
    assert dead_links(path) == []


def test_a_dead_link_is_found(tmp_path):
    """A missing file and a missing heading are told; other places are not tried."""
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#b) [c](gone.md) [d](https://example.org/x)\n", encoding="utf-8")

    assert dead_links(page) == ["#b", "gone.md"]


def test_every_guarantee_names_the_test_that_holds_it():
    """A promise to users without a test is a hope."""
    guarantees = rows((ANALYSIS / "delivery.md").read_text(encoding="utf-8"), "Guarantee")

    assert len(guarantees) > 40
    assert [row[0] for row in guarantees if not TEST.search(row[-1])] == []


def test_every_rule_of_the_transport_names_its_module_and_its_test():
    """Each MUST and SHOULD leads to the code that keeps it and the test that holds it."""
    rules = rows((ANALYSIS / "session-mapping-design.md").read_text(encoding="utf-8"), "rule")

    assert len(rules) > 25
    assert [row[0] for row in rules if len(row) != 3 or not CODE.search(row[1]) or not TEST.search(row[2])] == []


def test_decisions_are_numbered_and_whole():
    """Decisions count from 1 and say context, decision, consequences and what was not taken."""
    pages = sorted((ANALYSIS / "decisions").glob("0*.md"))
    parts = ["## Context", "## Decision", "## Consequences", "## Not taken"]

    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]}. "), page.name
        assert [line for line in text.splitlines() if line.startswith("## ")] == parts, page.name


def test_every_piece_of_work_is_in_the_tracker_and_whole():
    """A piece says goal, contract and when it is done, and the tracker knows where it stands."""
    tracker = (ROOT / "tasks" / "tracker.md").read_text(encoding="utf-8")
    pieces = [path for path in (ROOT / "tasks").glob("*.md") if path.name != "tracker.md"]

    assert len(rows(tracker, "Piece")) == len(pieces)
    for path in pieces:
        text = path.read_text(encoding="utf-8")
        assert f"]({path.name})" in tracker, path.name
        for part in ("**Goal.**", "**Where.**", "**Contract.**", "**Done when.**"):
            assert part in text, f"{path.name}: {part}"
