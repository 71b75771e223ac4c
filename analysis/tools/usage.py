"""Blocks of `session-id-usage-map.md`: where an id, an offset or a cursor is made, kept, compared, read or written.

Reads the source's syntax trees. A place is a function or a class; what it does with a name follows from where the name
stands. Functions that only hand a value on are left out: the types of `core.ids` watch over those. Why a place does
what it does is written by hand in `notes.toml`; a place without a note is marked, and a test fails on it.
"""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tools.source import Function, functions, modules, table

NOTES = Path(__file__).with_name("notes.toml")

SESSION, UPSTREAM, EVENT, OFFSET, CURSOR = (
    "session id",
    "upstream session id",
    "event id",
    "offset",
    "upstream cursor",
)
UNEXPLAINED = "**not explained in `notes.toml`**"
KINDS = ("made", "kept", "compared", "looked up", "read", "written")

_NAMES = {
    SESSION: {"SessionId", "session_id", "_session_id", "mint_session_id"},
    UPSTREAM: {"UpstreamSessionId", "upstream_id", "_upstream_id"},
    EVENT: {"EventId", "event_id", "Cursor", "Epoch", "epoch", "mint_epoch", "priming_frame"},
    OFFSET: {
        "Offset",
        "offset",
        "position",
        "_position",
        "delivered",
        "floor",
        "terminal",
        "top",
        "committed",
        "_start",
    },
    CURSOR: {"_cursor", "upstream_cursor"},
}
# Headers that are taken off by their lower-case name.
_STRIPPED = {"mcp-session-id": (SESSION, UPSTREAM), "last-event-id": (EVENT,)}
_MAKERS = {
    "upstream_cursor",
    "SessionId",
    "mint_session_id",
    "UpstreamSessionId",
    "EventId",
    "event_id",
    "Cursor",
    "Epoch",
    "mint_epoch",
    "Offset",
}
_HEADERS = {"SESSION_ID", "LAST_EVENT_ID"}
_SAYS_LITTLE = {"id", "upstream_id", "offset", "terminal", "floor", "delivered", "top"}
_LOOKUPS = {"get", "pop", "find", "discard", "tombstone"}
_WRITERS = {"encode", "priming_frame", "write"}

# One name, three meanings: in the log it is the upstream's event id of a frame, in `ServerRequests` the id of a
# server's request, which is no session's. (module, start of the qualified name) -> what it is.
_ALSO_UPSTREAM_ID = {
    ("core.replay", ""): CURSOR,
    ("store.base", ""): CURSOR,
    ("store.memory", ""): CURSOR,
    ("relay.call", "Call._respond"): CURSOR,
    ("core.asked", ""): None,
    ("relay.inbox", ""): None,
}
_NOT_AN_OFFSET = {("relay.call", "Call.fail")}  # `position` counts the members of a batch there
# Who reads a header of the client's; everybody else reads the upstream's.
_OF_THE_CLIENT = {"downstream.listener", "relay.readers"}


@dataclass
class Place:
    """One function or class and the names it uses, by kind."""

    module: str
    name: str
    uses: dict[str, set[str]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """How notes and documents call it."""
        return f"{self.module}:{self.name}" if self.name else self.module


def session_id() -> str:
    """Write the map of the proxy's own session id."""
    return _table(SESSION)


def upstream_session_id() -> str:
    """Write the map of the upstream's session id."""
    return _table(UPSTREAM)


def event_id() -> str:
    """Write the map of the proxy's event id, its epoch and the cursor read from it."""
    return _table(EVENT)


def offset() -> str:
    """Write the map of offsets, which are what a cursor is inside the proxy."""
    return _table(OFFSET)


def upstream_cursor() -> str:
    """Write the map of the upstream's event ids."""
    return _table(CURSOR)


def problems() -> list[str]:
    """Return the places without a note and the notes without a place."""
    found = []
    for subject in _NAMES:
        places = {place.key for place in places_of(subject)}
        notes = set(_notes(subject))
        found += [f"[{subject!r}] does not explain {key}" for key in sorted(places - notes)]
        found += [f"[{subject!r}] explains {key}, which is no such place" for key in sorted(notes - places)]
    return found


def _notes(subject: str) -> dict[str, str]:
    return tomllib.loads(NOTES.read_text(encoding="utf-8")).get(subject, {})


def _table(subject: str) -> str:
    notes = _notes(subject)
    places = places_of(subject)
    rows = [
        [
            f"`{place.module}` `{place.name}`" if place.name else f"`{place.module}`",
            *(", ".join(f"`{name}`" for name in sorted(place.uses.get(kind, ()))) for kind in KINDS),
            notes.get(place.key, UNEXPLAINED),
        ]
        for place in places
    ]
    return table(["place", *KINDS, "why"], rows)


def places_of(subject: str) -> list[Place]:
    """Return the places that do something with *subject*."""
    return _places()[subject]


@cache
def _places() -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {subject: [] for subject in _NAMES}
    for item in modules():
        for name, function, statements in functions(item.tree):
            here = {subject: Place(item.name, name) for subject in _NAMES}
            for statement in statements:
                for subject, kind, text in _uses(item.name, name, statement, is_class=function is None):
                    here[subject].uses.setdefault(kind, set()).add(text)
            for subject, place in here.items():
                if place.uses:
                    found[subject].append(place)
    return found


def _uses(module: str, scope: str, root: ast.stmt, *, is_class: bool) -> Iterator[tuple[str, str, str]]:
    """Yield (subject, kind, text) of every use but mere handing on."""
    parents: dict[ast.AST, ast.AST] = {}
    annotations: set[ast.AST] = set()
    for node in ast.walk(root):
        for child in ast.iter_child_nodes(node):
            parents[child] = node
        if isinstance(node, Function):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            marks = [argument.annotation for argument in arguments] + [node.returns]
            annotations.update(part for mark in marks if mark is not None for part in ast.walk(mark))
        elif isinstance(node, ast.AnnAssign):
            annotations.update(ast.walk(node.annotation))
    for node in ast.walk(root):
        if isinstance(node, ast.Constant) and node.value in _STRIPPED:
            for subject in _STRIPPED[node.value]:
                yield subject, "compared", node.value
        if node in annotations or not isinstance(node, ast.Name | ast.Attribute):
            continue
        text = node.id if isinstance(node, ast.Name) else node.attr
        subject = _subject(module, scope, node, text, parents)
        if subject is not None:
            kind = _kind(node, text, parents, is_class=is_class)
            if kind is not None:
                yield subject, kind, _shown(node, text)


def _subject(
    module: str, scope: str, node: ast.Name | ast.Attribute, text: str, parents: dict[ast.AST, ast.AST]
) -> str | None:
    base = _text(node.value) if isinstance(node, ast.Attribute) else ""
    if text == "id" and base.rpartition(".")[2] in ("session", "frame"):
        return SESSION if base.endswith("session") else CURSOR
    if text == "SESSION_ID":
        return _of_header(module, node, parents, SESSION, UPSTREAM)
    if text == "LAST_EVENT_ID":
        return _of_header(module, node, parents, EVENT, CURSOR)
    if text == "upstream_id":
        for (where, start), meant in _ALSO_UPSTREAM_ID.items():
            if where == module and scope.startswith(start):
                return meant
    if module.startswith(("observe", "config")) or (text == "id" and base):
        return None
    if text == "position" and (module, scope) in _NOT_AN_OFFSET:
        return None
    return next((subject for subject, names in _NAMES.items() if text in names), None)


def _of_header(module: str, node: ast.AST, parents: dict[ast.AST, ast.AST], own: str, upstream: str) -> str | None:
    parent = parents.get(node)
    if isinstance(parent, ast.Tuple):
        value = _text(parent.elts[-1])
        return own if value.endswith(("session.id", "session_id")) else upstream
    if isinstance(parent, ast.Call):
        return own if module in _OF_THE_CLIENT else upstream
    return None


def _kind(node: ast.Name | ast.Attribute, text: str, parents: dict[ast.AST, ast.AST], *, is_class: bool) -> str | None:
    parent = parents.get(node)
    if isinstance(parent, ast.Call) and parent.func is node:
        if text in _MAKERS:
            return "made"
        return "written" if text in _WRITERS else None
    if isinstance(node.ctx, ast.Store):
        if isinstance(node, ast.Attribute):
            return "kept"
        return "kept" if is_class and isinstance(parent, ast.AnnAssign) else None
    child: ast.AST = node
    while parent is not None and not isinstance(parent, ast.stmt):
        if isinstance(parent, ast.Compare):
            return "compared"
        if isinstance(parent, ast.Tuple) and _is_pair(parent):
            return "written"
        if isinstance(parent, ast.Subscript) and parent.slice is child:
            return "kept" if isinstance(parent.ctx, ast.Store) else "looked up"
        if isinstance(parent, ast.Call) and child is not parent.func:
            called = _text(parent.func).rpartition(".")[2]
            if called == "get" and len(parent.args) > 1 and _is_header(parent.args[1]):
                return "read"
            if called in _WRITERS:
                return "written"
            return "looked up" if called in _LOOKUPS and text not in _HEADERS else None
        child, parent = parent, parents.get(parent)
    return None


def _is_header(node: ast.AST) -> bool:
    return _text(node).rpartition(".")[2] in _HEADERS


def _is_pair(node: ast.Tuple) -> bool:
    return len(node.elts) == 2 and _is_header(node.elts[0]) and not _is_header(node.elts[1])


def _text(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _shown(node: ast.Name | ast.Attribute, text: str) -> str:
    if isinstance(node, ast.Attribute) and text in _SAYS_LITTLE:
        owner = _text(node.value).rpartition(".")[2]
        return f"{owner}.{text}" if owner not in ("", "self") else text
    return text
