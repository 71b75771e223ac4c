"""Blocks of `errors.md`: the fault table, with what each row's `data` carries and which module sends it.

The table is the product's own; the keys of `data` and the senders are read from the source, where a row is named: by
its text, or by a constant of that text.
"""

import ast
from functools import cache

from proxy.core.faults import FAULTS, Fault
from tools.source import NOTHING, Function, functions, modules, table

_NOT_DATA = {"is_batch", "can_ask"}
_NO_ANSWERS = {"_drop", "dropped", "abandon", "lose", "AnswerDropped", "NotificationDropped", "MoveResult"}
"""Verbs that record a reason and answer nobody."""
_NO_CLIENTS = ("admin", "commands", "config", "control", "observe")
"""Packages that speak to operators, in words of their own."""
_NUMBERS = {
    "OUTCOME_UNKNOWN": "outcome unknown",
    "UNAVAILABLE": "upstream unavailable; the call did not run",
    "OVERLOADED": "a limit is reached; the call did not run",
    "SESSION_CLOSED": "the session or the proxy ended",
    "UNUSABLE": "the upstream's answer cannot be passed on",
    "INVALID_REQUEST": "the request itself is at fault (JSON-RPC's own code)",
    "SESSION_NOT_FOUND": "no such session (what official servers answer)",
}


def inside_table() -> str:
    """Write the rows that answer a request with 200."""
    return _table([fault for fault in FAULTS.values() if fault.status == 200])


def outside_table() -> str:
    """Write the rows with a status of their own."""
    return _table([fault for fault in FAULTS.values() if fault.status != 200])


def _table(faults: list[Fault]) -> str:
    uses = _uses()
    rows = []
    for fault in faults:
        keys, senders = uses.get(fault.reason, (set(), set()))
        rows.append(
            [
                f"`{fault.reason}`",
                fault.when,
                str(fault.status),
                str(fault.code),
                fault.message,
                fault.outcome,
                ", ".join(f"`{key}`" for key in sorted(keys)) or NOTHING,
                ", ".join(f"`{sender}`" for sender in sorted(senders)) or NOTHING,
            ]
        )
    head = ["`data.reason`", "when", "status", "code", "message", "`data.outcome`", "more `data`", "sent by"]
    return table(head, rows)


def codes_table() -> str:
    """Write the codes."""
    from proxy.core import faults  # noqa: PLC0415 - the names of its constants, not their values

    rows = []
    for name, meaning in _NUMBERS.items():
        code = getattr(faults, name)
        reasons = [f"`{fault.reason}`" for fault in FAULTS.values() if fault.code == code]
        rows.append([str(code), meaning, ", ".join(reasons)])
    return table(["code", "meaning", "reasons"], rows)


def unused() -> list[str]:
    """Return the rows that nothing sends."""
    return [reason for reason in FAULTS if reason not in _uses()]


@cache
def _uses() -> dict[str, tuple[set[str], set[str]]]:
    """Find for each reason the extra keys of its `data` and the modules that name it."""
    uses: dict[str, tuple[set[str], set[str]]] = {}
    for item in modules():
        if item.name == "core.faults" or item.name.startswith(_NO_CLIENTS):
            continue
        constants = _constants(item.tree)
        for _, function, statements in functions(item.tree):
            for statement in statements:
                for node in ast.walk(statement):
                    for reason in _named(node, constants):
                        keys, senders = uses.setdefault(reason, (set(), set()))
                        senders.add(item.name)
                        keys.update(_keys(node, function))
                        keys.update(_handed_on().get(_verb(node), ()))
    return uses


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the module's own names for reasons."""
    return {
        child.targets[0].id: child.value.value
        for child in tree.body
        if isinstance(child, ast.Assign)
        and isinstance(child.targets[0], ast.Name)
        and isinstance(child.value, ast.Constant)
        and child.value.value in FAULTS
    }


@cache
def _handed_on() -> dict[str, set[str]]:
    """Find for each function that is given a reason and hands it on what it adds to the `data`."""
    found: dict[str, set[str]] = {}
    for item in modules():
        if item.name.startswith(_NO_CLIENTS):
            continue
        for _, function, _ in functions(item.tree):
            if function is None or "reason" not in {each.arg for each in function.args.args}:
                continue
            for node in ast.walk(function):
                match node:
                    case ast.Call(args=[ast.Name(id="reason"), *_]):
                        found.setdefault(function.name, set()).update(_keys(node, function))
    return found


def _verb(node: ast.AST) -> str:
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def _named(node: ast.AST, constants: dict[str, str]) -> set[str]:
    """Return the reasons that an expression names: in a call, a returned pair, or a choice of two."""
    if isinstance(node, ast.Call):
        if _verb(node) in _NO_ANSWERS:
            return set()
        parts = node.args
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        parts = node.value.elts
    elif isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    else:
        return set()
    texts = {part.value for part in parts if isinstance(part, ast.Constant) and part.value in FAULTS}
    return texts | {constants[part.id] for part in parts if isinstance(part, ast.Name) and part.id in constants}


def _keys(node: ast.AST, function: Function | None) -> set[str]:
    keys = set()
    if isinstance(node, ast.Call):
        # `**more` has no name here; its keys stand where it was given.
        keys = {keyword.arg for keyword in node.keywords if keyword.arg is not None} - _NOT_DATA
        parts = node.args
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        parts = node.value.elts
    else:
        return keys
    for part in parts:
        if isinstance(part, ast.Dict):
            keys |= _of_dict(part)
        elif isinstance(part, ast.Name) and function is not None:
            keys |= _of_name(part.id, function)
    return keys


def _of_dict(node: ast.Dict) -> set[str]:
    return {key.value for key in node.keys if isinstance(key, ast.Constant)}


def _of_name(name: str, function: Function) -> set[str]:
    """Return the keys a local dict is given in its function."""
    keys: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Dict() as value) if target == name:
                keys |= _of_dict(value)
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.Dict() as value) if target == name:
                keys |= _of_dict(value)
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=target), slice=ast.Constant(value=str(key)))]) if (
                target == name
            ):
                keys.add(key)
    return keys
