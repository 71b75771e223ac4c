"""Blocks of `architecture.md` and `decisions/`: the modules in one line each, the layers, the list of decisions."""

import tomllib

from tools.source import PACKAGE, ROOT, Module, modules, table


def modules_table() -> str:
    """Write every module with the first line of its docstring, in the order of a request."""
    order = [layer for row in _layers() for layer in row]
    known = [item for item in modules() if item.name]

    def rank(name: str) -> tuple[int, str]:
        return order.index(name.partition(".")[0]), name

    rows = [[f"`{_shown(item)}`", item.summary] for item in sorted(known, key=lambda item: rank(item.name))]
    return table(["module", "what it is"], rows)


def _shown(item: Module) -> str:
    # `commands.toml` would read as a file of that name.
    return item.path.relative_to(PACKAGE).as_posix() if item.name.endswith(".toml") else item.name


def layers() -> str:
    """Draw the layers as the import contract has them."""
    rows = [" | ".join(row) for row in _layers()]
    return "\n".join(["```text", " > ".join(rows), "```"])


def _layers() -> list[list[str]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    found = next(contract for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in found["layers"]]


def decisions_table() -> str:
    """List the decisions by number."""
    rows = []
    for path in sorted((ROOT / "analysis" / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        number, _, text = title.partition(". ")
        rows.append([number, f"[{text}]({path.name})"])
    return table(["no.", "decision"], rows)
