"""Whether one upstream can take another one's place: both are asked who they are before anything is changed.

Owns the verdict. Knows no job. Invariant: an upstream that did not answer as an MCP server of the sessions' version is
never found fit, whatever else is configured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from proxy.control.interview import Answer, Interview
from proxy.core import identity
from proxy.core.identity import Difference
from proxy.core.jsonrpc import InitializeResult
from proxy.core.revision import REVISIONS

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.relay.session import SessionRelay
    from proxy.upstream.base import Edge

NEWEST = next(revision.version for revision in reversed(REVISIONS) if revision.has_session)
"""What is offered where no session says otherwise."""


class Verdict(msgspec.Struct, frozen=True):
    """What the comparison says."""

    differences: list[Difference]
    problem: str = ""
    """Why the new one will not do; empty when it will."""


class Promise(msgspec.Struct, frozen=True):
    """What sessions on the old upstream rely on."""

    version: str
    """The protocol version that most of them negotiated."""
    promised: InitializeResult
    """What one of these was promised."""


def promise_of(relays: Iterable[SessionRelay]) -> Promise | None:
    """Return what sessions rely on; None where there are none."""
    numbers: Counter[str] = Counter()
    promises: dict[str, InitializeResult] = {}
    for relay in relays:
        handshake = relay.session.handshake
        numbers[handshake.version] += 1
        # The latest one: what was promised first may be long gone.
        promises[handshake.version] = handshake.promised
    if not numbers:
        return None
    version = numbers.most_common(1)[0][0]
    return Promise(version, promises[version])


def judge(old_url: str, old: Answer, new_url: str, new: Answer, promise: Promise | None, *, is_strict: bool) -> Verdict:
    """Compare what two servers said of themselves.

    Args:
        old_url: The one that is to be replaced, for the words.
        old: What it said. One that is down is compared by what a session there was promised.
        new_url: The other one.
        new: What that said.
        promise: What the sessions rely on; None where there are none.
        is_strict: Whether any difference speaks against it, and whatever cannot be compared as well.
    """
    if new.identity is None:
        if not new.wants_credentials:
            return Verdict([], f"{new_url} {new.problem}")
        # Each session brings its own, and its own move tells.
        return Verdict([], f"{new_url} {new.problem}, so that nothing can be compared" if is_strict else "")
    before = old.identity
    if before is None and promise is not None:
        before = identity.promised(promise.promised)
    found = [] if before is None else identity.differences(before, new.identity)
    version = new.identity.protocol_version
    if promise is not None and version != promise.version:
        problem = f"{new_url} speaks protocol version {version}, and the sessions negotiated {promise.version}"
        return Verdict(found, problem)
    if is_strict and old.identity is None:
        return Verdict(found, f"{old_url} {old.problem}, so that nothing can be compared")
    if is_strict and found:
        fields = ", ".join(difference.field for difference in found)
        return Verdict(found, f"{new_url} differs from {old_url}: {fields}")
    return Verdict(found)


class Comparison:
    """Both servers asked at the same time."""

    def __init__(
        self,
        clock: Clock,
        timeout_seconds: float,
        old: tuple[str, Edge],
        new: tuple[str, Edge],
        promise: Promise | None,
        done: Callable[[Verdict], None],
        released: Callable[[], None],
        *,
        is_strict: bool,
        with_tools: bool,
    ) -> None:
        """Prepare to ask.

        Args:
            clock: Time.
            timeout_seconds: For all questions to one server.
            old: URL and edge of the one that is to be replaced.
            new: URL and edge of the other one.
            promise: As for `judge`.
            done: Told the verdict, once.
            released: Told, after that, when the edge of the new one is not needed any more.
            is_strict: As for `judge`.
            with_tools: Whether tools are compared.
        """
        self._urls = old[0], new[0]
        self._promise = promise
        self._done = done
        self._is_strict = is_strict
        self._answers: dict[int, Answer] = {}
        version = promise.version if promise is not None else NEWEST
        self._interviews = [
            Interview(
                edge, clock, timeout_seconds, version, partial(self._answered, side), ended,
                needs_session=promise is not None, with_tools=with_tools,
            )
            for side, (edge, ended) in enumerate(((old[1], _nothing), (new[1], released)))
        ]  # fmt: skip

    def begin(self) -> None:
        """Ask."""
        for interview in self._interviews:
            interview.begin()

    def stop(self) -> None:
        """Ask no longer; nobody is told a verdict."""
        for interview in self._interviews:
            interview.stop()

    def _answered(self, side: int, answer: Answer) -> None:
        self._answers[side] = answer
        if len(self._answers) == len(self._interviews):
            old, new = self._answers[0], self._answers[1]
            verdict = judge(self._urls[0], old, self._urls[1], new, self._promise, is_strict=self._is_strict)
            self._done(verdict)


def _nothing() -> None:
    pass
