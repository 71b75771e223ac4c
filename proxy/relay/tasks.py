"""Tasks (2025-11-25): work that outlives its request and lies in the upstream session that began it.

Owns which of a session's tasks are known, and where each ran. Knows no upstream. Invariant: what is asked about a task
whose upstream session is gone gets an explicit error, never the word of a server that may know another task by that
name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from proxy.core.ids import Generation
    from proxy.relay.session import SessionRelay

ABOUT_TASKS = frozenset({"tasks/get", "tasks/result", "tasks/cancel"})
STATUS = "notifications/tasks/status"
MOST = 256
"""Tasks remembered per session; the oldest is forgotten first."""
_OVER = frozenset({"failed", "cancelled"})
"""A completed one is still needed where it is: its result has not been fetched."""


class _Task(msgspec.Struct, gc=False, rename="camel"):
    task_id: Any = None
    status: Any = None


class _Result(msgspec.Struct, gc=False, rename="camel"):
    task: _Task | None = None
    status: Any = None


class _Answer(msgspec.Struct, gc=False):
    result: _Result | None = None


class _Asked(msgspec.Struct, gc=False):
    params: _Task | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_asked = msgspec.json.Decoder(_Asked).decode


def begun(relay: SessionRelay, answer: bytes, generation: Generation) -> None:
    """Note the task that a call was answered with, if it was."""
    task = _result_of(answer).task
    if task is None or type(task.task_id) is not str:
        return
    tasks = relay.session.tasks
    if tasks is None:
        tasks = relay.session.tasks = {}
    # Under a name that was lost it is the latest of all.
    tasks.pop(task.task_id, None)
    tasks[task.task_id] = generation
    if len(tasks) > MOST:
        del tasks[next(iter(tasks))]


def answered(relay: SessionRelay, method: str, asked: bytes, answer: bytes) -> None:
    """Note what an answer says of a task: one that is over, or whose result was fetched, pins nothing any more."""
    task_id = _named(asked)
    if task_id is not None and (method != "tasks/get" or _result_of(answer).status in _OVER):
        _forget(relay, task_id)


def told(relay: SessionRelay, data: bytes) -> None:
    """Note a status that the upstream tells by itself."""
    try:
        task = _decode_asked(data).params
    except (ValueError, RecursionError):
        return
    if task is not None and task.status in _OVER and type(task.task_id) is str:
        _forget(relay, task.task_id)


def is_lost(relay: SessionRelay, method: str | None, body: bytes) -> bool:
    """Tell whether a request asks about a task whose upstream session is gone.

    It stays known as lost: the next question would be answered by a server that never heard of it.
    """
    if method not in ABOUT_TASKS:
        return False
    generation = (relay.session.tasks or {}).get(_named(body) or "")
    return generation is not None and not relay.leg.is_bound(generation)


def _forget(relay: SessionRelay, task_id: str) -> None:
    if relay.session.tasks is not None:
        relay.session.tasks.pop(task_id, None)


def _named(body: bytes) -> str | None:
    try:
        task = _decode_asked(body).params
    except (ValueError, RecursionError):
        return None
    return task.task_id if task is not None and type(task.task_id) is str else None


def _result_of(body: bytes) -> _Result:
    try:
        return _decode_answer(body).result or _Result()
    except (ValueError, RecursionError):
        return _Result()
