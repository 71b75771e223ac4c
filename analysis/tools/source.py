"""The product's source as syntax trees: modules, classes, functions, enum members and their docstrings.

Reads files and imports nothing of the product. Names are as the documents write them: `core.session` for a module,
`Binder.built` for a method.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "proxy"

NOTHING = "\N{EN DASH}"
"""What an empty cell of a table says."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One module of the product."""

    name: str
    """Dotted, without the package's name; empty for the package itself."""
    path: Path
    tree: ast.Module

    @property
    def summary(self) -> str:
        """The first sentence line of its docstring."""
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]


@cache
def modules() -> tuple[Module, ...]:
    """Return every module, sorted by name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found.append(Module(name, path, ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(found)


def module(name: str) -> Module:
    """Return one module by its dotted name."""
    return next(item for item in modules() if item.name == name)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function | None, list[ast.stmt]]]:
    """Yield (qualified name, node, own statements) of every scope; the module's own has no name and no node."""
    own = []
    for child in getattr(tree, "body", []):
        if isinstance(child, Function):
            yield prefix + child.name, child, [child]
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            own.append(child)
    yield prefix.rstrip("."), None, own


def enum_members(module_name: str, class_name: str) -> dict[str, str]:
    """Return the members of an enum and the docstring below each; empty where there is none."""
    members: dict[str, str] = {}
    last = ""
    for child in _class(module_name, class_name).body:
        match child:
            case ast.Assign(targets=[ast.Name(id=name)]):
                members[name] = ""
                last = name
            case ast.Expr(value=ast.Constant(value=str(text))) if last:
                members[last] = " ".join(text.split())
            case _:
                last = ""
    return members


def class_docstring(module_name: str, class_name: str) -> str:
    """Return a class's docstring on one line."""
    return " ".join((ast.get_docstring(_class(module_name, class_name)) or "").split())


def _class(module_name: str, class_name: str) -> ast.ClassDef:
    found = (
        node for node in module(module_name).tree.body if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return next(found)


def assignments(class_name: str) -> dict[str, list[str]]:
    """Return where each member of an enum is assigned to an attribute: `module.Class.method`, in order."""
    places: dict[str, list[str]] = {}
    for item in modules():
        for qualified, _, statements in functions(item.tree):
            for statement in statements:
                for node in ast.walk(statement):
                    match node:
                        case ast.Assign(
                            targets=[ast.Attribute()],
                            value=ast.Attribute(value=ast.Name(id=name), attr=member),
                        ) if name == class_name:
                            place = f"`{item.name}` `{qualified}`"
                            known = places.setdefault(member, [])
                            if place not in known:
                                known.append(place)
    return places


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
