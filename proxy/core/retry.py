"""Whether a call that may have run may be sent again.

Owns the methods that only read, what a server says of its tools, and how an operator overrides both. Knows no session
and no upstream; *when* a call is sent again is the relay's business. Invariant: only what is plainly `SAFE` is ever
sent twice (semantics 13): what nobody has vouched for is not.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import msgspec

from proxy.core import jsonrpc
from proxy.core.jsonrpc import Envelope, Kind

READING: Final = frozenset(
    {
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "tasks/list",
        "resources/read",
        "prompts/get",
        "completion/complete",
        "ping",
    }
)
"""Requests that change nothing, whoever serves them. Named one by one: a method that a server has invented may end in
`/list` and do anything."""

CALL_TOOL: Final = "tools/call"
LIST_TOOLS: Final = "tools/list"


class Safety(Enum):
    """What sending a request a second time would do."""

    SAFE = "safe"
    """Nothing: it reads, or it comes to the same."""
    UNSAFE = "unsafe"
    """Perhaps a second effect."""
    UNKNOWN = "unknown"
    """A tool whose annotations have not been learnt: asking the server may tell. Until then as good as unsafe."""


class RetryPolicy:
    """What an operator says of the tools; made once of the configuration."""

    __slots__ = ("_safe", "_unsafe", "asks", "attempts")

    def __init__(
        self,
        attempts: int = 2,
        safe_tools: Iterable[str] = (),
        unsafe_tools: Iterable[str] = (),
        *,
        asks: bool = True,
    ) -> None:
        self.attempts = attempts
        """How often a call that may have run is sent again."""
        self.asks = asks
        """Whether an upstream is asked for its tools' annotations."""
        self._safe = tuple(pattern.split("*") for pattern in safe_tools)
        self._unsafe = tuple(pattern.split("*") for pattern in unsafe_tools)

    def names_safe(self, tool: str) -> bool:
        """Tell whether the operator vouches for *tool*."""
        return any(_fits(pattern, tool) for pattern in self._safe)

    def names_unsafe(self, tool: str) -> bool:
        """Tell whether the operator forbids sending a call of *tool* twice."""
        return any(_fits(pattern, tool) for pattern in self._unsafe)


def _fits(pattern: list[str], name: str) -> bool:
    """Match what stood between the wildcards of a pattern, letter by letter and case by case.

    Not by a regular expression: names come from clients, and one with several `.*` takes the square of a long name's
    length and more. The first place that fits is the right one for each part but the last, so nothing is tried twice.
    """
    if len(pattern) == 1:
        return name == pattern[0]
    first, *middle, last = pattern
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


class Tools(msgspec.Struct, frozen=True, gc=False):
    """What a server has said of its tools so far."""

    known: frozenset[str] = frozenset()
    """Names of all that were listed."""
    repeatable: frozenset[str] = frozenset()
    """Those with `readOnlyHint` or `idempotentHint`."""
    next_cursor: str | None = None
    """Where the list goes on; None at its end."""

    def followed_by(self, page: "Tools") -> "Tools":
        """Return what is known once *page* has come too: of a tool listed again the later word counts."""
        return Tools(self.known | page.known, (self.repeatable - page.known) | page.repeatable, page.next_cursor)


class _Tool(msgspec.Struct, gc=False):
    # Any, because one tool of a wrong type must not hide the others; schemas, the bulk, are not read.
    name: Any = None
    annotations: Any = None


class _ToolList(msgspec.Struct, gc=False, rename="camel"):
    tools: list[_Tool]
    next_cursor: Any = None


class _WithTools(msgspec.Struct, gc=False):
    result: _ToolList


class _CallParams(msgspec.Struct, gc=False):
    name: Any = None
    task: msgspec.Raw = msgspec.Raw(b"null")


class _WithCall(msgspec.Struct, gc=False):
    params: _CallParams | None = None


_decode_tools: Final = msgspec.json.Decoder(_WithTools).decode
_decode_call: Final = msgspec.json.Decoder(_WithCall).decode
_UNREADABLE: Final = (ValueError, RecursionError)


def learn(body: bytes) -> Tools | None:
    """Read the answer to `tools/list`; None when it is no such answer."""
    try:
        result = _decode_tools(body).result
    except _UNREADABLE:
        return None
    known: set[str] = set()
    repeatable: set[str] = set()
    doubtful: set[str] = set()
    for tool in result.tools:
        if type(tool.name) is str:
            known.add(tool.name)
            # A name that stands twice is repeatable only if both say so: which of them a call means is not known.
            (repeatable if _is_repeatable(tool.annotations) else doubtful).add(tool.name)
    cursor = result.next_cursor
    return Tools(frozenset(known), frozenset(repeatable - doubtful), cursor if type(cursor) is str else None)


def _is_repeatable(annotations: Any) -> bool:
    return isinstance(annotations, dict) and (
        annotations.get("readOnlyHint") is True or annotations.get("idempotentHint") is True
    )


def tool_of(body: bytes) -> tuple[str | None, bool]:
    """Read of a `tools/call` which tool it means, and whether it asks for a task (2025-11-25)."""
    try:
        params = _decode_call(body).params
    except _UNREADABLE:
        return None, False
    if params is None:
        return None, False
    return params.name if type(params.name) is str else None, bytes(params.task) != b"null"


def safety(
    method: str | None,
    tool: str | None,
    repeatable: frozenset[str] | None,
    known: frozenset[str] | None,
    policy: RetryPolicy,
    *,
    has_task: bool = False,
) -> Safety:
    """Judge one request.

    Args:
        method: None for what is no request.
        tool: Which one a `tools/call` means; None where it names none.
        repeatable: Tools with `readOnlyHint` or `idempotentHint`; None while nothing was learnt.
        known: All tools that were listed; None where that is not known.
        policy: The operator's word, which wins over the server's.
        has_task: A task is made by the call itself: a second call makes a second one, whatever the tool does.
    """
    if has_task:
        return Safety.UNSAFE
    if method != CALL_TOOL:
        return Safety.SAFE if method in READING else Safety.UNSAFE
    if tool is None or policy.names_unsafe(tool):
        return Safety.UNSAFE
    if policy.names_safe(tool):
        return Safety.SAFE
    if repeatable is None:
        return Safety.UNKNOWN
    if tool in repeatable:
        return Safety.SAFE
    return Safety.UNSAFE if known is None or tool in known else Safety.UNKNOWN


def together(members: Iterable[Safety]) -> Safety:
    """Judge a batch: safe only if every member is (semantics 24)."""
    found = set(members)
    if Safety.UNSAFE in found or not found:
        return Safety.UNSAFE
    return Safety.UNKNOWN if Safety.UNKNOWN in found else Safety.SAFE


def safety_of(envelope: Envelope, body: bytes, tools: Tools | None, policy: RetryPolicy) -> Safety:
    """Judge a whole body, a batch member by member.

    A batch's notifications and responses count too: they would arrive twice.
    """
    if envelope.kind is Kind.BATCH:
        return together(safety_of(member, text, tools, policy) for member, text in jsonrpc.split_batch(body))
    if envelope.kind is not Kind.REQUEST:
        return Safety.UNSAFE
    tool, has_task = tool_of(body) if envelope.method == CALL_TOOL else (None, False)
    known, repeatable = (tools.known, tools.repeatable) if tools is not None else (None, None)
    return safety(envelope.method, tool, repeatable, known, policy, has_task=has_task)


def may_repeat(judged: Safety, attempts_so_far: int, limit: int, *, response_appended: bool) -> bool:
    """Tell whether a call that may have run is sent again.

    Args:
        judged: What sending it again would do.
        attempts_so_far: How often it was sent again already.
        limit: How often it may be (`retry.attempts`).
        response_appended: Whether any response of it was appended: its client has seen an outcome (semantics 13).
    """
    return judged is Safety.SAFE and not response_appended and attempts_so_far < limit
