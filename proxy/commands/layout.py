"""Own how things look to a person: tables, numbers, durations, and texts that cannot play tricks on a terminal.

Knows no command. Invariant: whatever a peer calls itself, what is returned holds no control character, and columns
stand straight under each other.
"""

import unicodedata
from collections.abc import Sequence

LONGEST_CELL = 60
_GAP = "  "


def plain(value: object, longest: int = LONGEST_CELL) -> str:
    """Return a value as text for a terminal: printable, on one line, no longer than it may be."""
    text = {True: "yes", False: "no", None: "-"}.get(value, value) if isinstance(value, bool | None) else value
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns; those whose every value is a number stand right.

    A column in which no row says anything is left out.
    """
    numeric = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(headers))]
    kept = [at for at in range(len(headers)) if not rows or any(row[at] not in ("", None) for row in rows)]
    lines = [[headers[at] for at in kept], *([plain(row[at]) for at in kept] for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(kept))]
    shown = []
    for line in lines:
        cells = [_padded(cell, widths[column], is_right=numeric[kept[column]]) for column, cell in enumerate(line)]
        shown.append(_GAP.join(cells).rstrip())
    return "".join(f"{line}\n" for line in shown)


def fields(pairs: Sequence[tuple[str, object]]) -> str:
    """Return names and values below each other; what says nothing is left out."""
    said = [(name, plain(value, 200)) for name, value in pairs if value not in ("", None)]
    width = max((len(name) for name, _ in said), default=0)
    return "".join(f"{name.ljust(width)}  {value}\n" for name, value in said)


def duration(seconds: float) -> str:
    """Return a time in the two largest units that count: 2d 3h, 4m 5s, 6.1s."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (whole, "s")]
    first = next(at for at, (count, _) in enumerate(units) if count)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2])


def size(count: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def counted(count: int, thing: str) -> str:
    """Return `1 session`, `2 sessions`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _width(text: str) -> int:
    """Return the columns a text takes: wide letters take two, marks above others none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, *, is_right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if is_right else text + space
