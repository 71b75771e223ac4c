"""From one route table to another: the steps between them, in an order that leaves no pool empty.

Owns the comparison alone. Knows neither routes nor upstreams: what they are made of are values that are equal or not,
and who asks says which of them a running upstream can take on and which make it another one. Laws: the steps turn the
old table into the new one; equal tables give none; the order in which either is written does not matter.
"""

from collections.abc import Hashable, Mapping
from enum import Enum
from typing import TypeAlias

import msgspec
from mypy_extensions import mypyc_attr


@mypyc_attr(native_class=False)
class Place(msgspec.Struct, frozen=True):
    """One upstream of a route."""

    identity: Hashable
    """What makes it this one: its address and how it is spoken to."""
    settings: Hashable
    """What can change while it runs."""


@mypyc_attr(native_class=False)
class Pattern(msgspec.Struct, frozen=True):
    """One route."""

    at: Hashable
    """Where it is found; that can change while it runs."""
    facts: Hashable
    """What else can change while it runs: how it places sessions."""
    places: Mapping[str, Place]
    """Its upstreams by name; at least one."""


Table: TypeAlias = Mapping[str, Pattern]
"""All routes by name."""


class Change(Enum):
    """One kind of step, in the order in which they are to be taken."""

    ROUTE_REMOVED = "route removed"
    """First of all, as what comes may have its name or its path."""
    ROUTE_CHANGED = "route changed"
    ROUTE_ADDED = "route added"
    """With all its upstreams."""
    ADDED = "added"
    """Before any leaves: a pool is never empty."""
    ADJUSTED = "adjusted"
    """It runs on with other settings."""
    REPLACED = "replaced"
    """Another one of its name is added, then it leaves."""
    REMOVED = "removed"


@mypyc_attr(native_class=False)
class Step(msgspec.Struct, frozen=True):
    """One step."""

    change: Change
    route: str
    upstream: str = ""
    """Empty where it is about the route itself."""


def renamed(old: Table, new: Table) -> dict[str, str]:
    """Return the routes of *old* that go on under another name: that name by their own.

    One that goes and one that comes are the same where they are found at the same place; else where they share an
    upstream, and neither shares one with a third.
    """
    going = {name: pattern for name, pattern in old.items() if name not in new}
    coming = {name: pattern for name, pattern in new.items() if name not in old}
    places = {pattern.at: name for name, pattern in coming.items()}
    found = {name: places[pattern.at] for name, pattern in going.items() if pattern.at in places}
    akin = [
        (name, other)
        for name, pattern in going.items()
        if name not in found
        for other, candidate in coming.items()
        if other not in found.values() and not _identities(pattern).isdisjoint(_identities(candidate))
    ]
    for pair in akin:
        if sum(bool({*pair} & {*another}) for another in akin) == 1:
            found[pair[0]] = pair[1]
    return found


def _identities(pattern: Pattern) -> set[Hashable]:
    return {place.identity for place in pattern.places.values()}


def steps(old: Table, new: Table) -> list[Step]:
    """Return what turns *old* into *new*, in the order of `Change`.

    An upstream belongs to its route: one that goes from one route to another is removed and added, as sessions never
    cross routes.
    """
    found = [Step(Change.ROUTE_REMOVED, name) for name in old if name not in new]
    found += [Step(Change.ROUTE_ADDED, name) for name in new if name not in old]
    for name in old:
        if name in new:
            found += _within(name, old[name], new[name])
    order = list(Change)
    return sorted(found, key=lambda step: order.index(step.change))


def _within(route: str, old: Pattern, new: Pattern) -> list[Step]:
    found = [Step(Change.ROUTE_CHANGED, route)] if (old.at, old.facts) != (new.at, new.facts) else []
    for name, place in new.places.items():
        before = old.places.get(name)
        if before is None:
            found.append(Step(Change.ADDED, route, name))
        elif before.identity != place.identity:
            found.append(Step(Change.REPLACED, route, name))
        elif before.settings != place.settings:
            found.append(Step(Change.ADJUSTED, route, name))
    found += [Step(Change.REMOVED, route, name) for name in old.places if name not in new.places]
    return found
