"""Which member of a pool gets the next session: one policy each, over what is known of those that may have it.

Owns whose turn it is. Knows neither health nor sessions: who is not to be chosen is not among the candidates.
Laws: one of the candidates is chosen, whichever they are; the same questions in the same order get the same answers.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from mypy_extensions import mypyc_attr


@mypyc_attr(native_class=False)
class Candidate(msgspec.Struct, gc=False):
    """One that may be chosen."""

    name: str
    """What its turns and its share of keys belong to; unique among the candidates."""
    weight: int
    """Its share compared with the others', from 1."""
    load: int
    """What it has already, from 0."""


class Policy(Protocol):
    """How to choose."""

    def pick(self, candidates: Sequence[Candidate], key: str) -> int:
        """Return the index of the chosen one of at least one candidate; *key* names whom it is for, "" nobody."""


class RoundRobin:
    """Each in its turn."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}
        self._turn = 0

    def pick(self, candidates: Sequence[Candidate], key: str) -> int:
        """Return the one whose last turn is longest ago; one that had none comes first."""
        return self.least(candidates, range(len(candidates)))

    def least(self, candidates: Sequence[Candidate], indices: Sequence[int]) -> int:
        """Return the one of *indices* whose last turn is longest ago."""
        turns = self._turns
        if len(turns) > 2 * len(candidates) + 16:
            # Names that are gone for good would gather with every swap.
            present = {candidate.name for candidate in candidates}
            self._turns = turns = {name: turn for name, turn in turns.items() if name in present}
        index = min(indices, key=lambda each: turns.get(candidates[each].name, 0))
        self._turn += 1
        turns[candidates[index].name] = self._turn
        return index


class LeastSessions:
    """The one that has least for its weight; each in its turn where that is the same."""

    def __init__(self) -> None:
        self._ties = RoundRobin()

    def pick(self, candidates: Sequence[Candidate], key: str) -> int:
        """Return the one that would still have least with one more."""
        # With one more: of empty ones the heavier gets the first.
        loads = [(candidate.load + 1) / candidate.weight for candidate in candidates]
        least = min(loads)
        return self._ties.least(candidates, [index for index, load in enumerate(loads) if load == least])


class Weighted:
    """Each as often as its weight says, spread evenly (smooth weighted round robin)."""

    def __init__(self) -> None:
        self._credits: dict[str, int] = {}

    def pick(self, candidates: Sequence[Candidate], key: str) -> int:
        """Return the one with most credit: each earns its weight per turn, the chosen one pays for all."""
        earned = {each.name: self._credits.get(each.name, 0) + each.weight for each in candidates}
        index = max(range(len(candidates)), key=lambda each: earned[candidates[each].name])
        earned[candidates[index].name] -= sum(candidate.weight for candidate in candidates)
        # Who is not among them now starts anew when it comes back: it has missed its turns, not saved them.
        self._credits = earned
        return index


class ConsistentHash:
    """The same one for the same key; when one comes or goes only its own keys change places."""

    def __init__(self) -> None:
        self._keyless = LeastSessions()

    def pick(self, candidates: Sequence[Candidate], key: str) -> int:
        """Return the one with the highest score for *key*; without a key the one that has least."""
        if not key:
            return self._keyless.pick(candidates, key)
        return max(range(len(candidates)), key=lambda each: _score(candidates[each], key))


def _score(candidate: Candidate, key: str) -> float:
    # Weighted rendezvous hashing: -w / ln(u), with u even in (0, 1), is highest with a chance of w by the sum of all,
    # and no other candidate has a part in it.
    text = f"{candidate.name}\0{key}".encode("utf-8", "surrogateescape")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return -candidate.weight / math.log((number + 0.5) / 2**64)


POLICIES: Mapping[str, Callable[[], Policy]] = {
    "least_sessions": LeastSessions,
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "consistent_hash": ConsistentHash,
}
"""The policies by their names in the configuration."""


class Share:
    """A part of a stream of sessions, exact to one however long it is."""

    __slots__ = ("_count", "percent")

    def __init__(self, percent: int) -> None:
        self.percent = percent
        """0 to 100."""
        self._count = 0

    def take(self) -> bool:
        """Count one; tell whether it belongs to the part."""
        before = self._count * self.percent // 100
        self._count += 1
        return self._count * self.percent // 100 > before
