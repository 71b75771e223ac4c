"""What tests read of a class that is no part of its interface; knows how interpreted and compiled classes keep it."""

import inspect


def fields_of(kind: type) -> list[str]:
    """Name the fields of a class's instances."""
    slots = getattr(kind, "__slots__", None)
    if slots is not None:
        return list(slots)
    return [name for name, value in vars(kind).items() if inspect.isgetsetdescriptor(value) and name[:2] != "__"]
