"""The protocol revisions and what each of them knows: the one place where a version text is given a meaning.

Nothing else in the proxy compares versions; it asks a `Revision` for a property. The table is ordered from
the oldest to the newest, and version texts are dates (YYYY-MM-DD), so that their order as text is their
order in time.
"""

import re
from typing import Final

import msgspec
from mypy_extensions import mypyc_attr


@mypyc_attr(native_class=False)
class Revision(msgspec.Struct, frozen=True):
    """What one revision of the protocol knows of sessions and streams."""

    version: str
    has_session: bool
    """There is an `initialize` handshake, and `Mcp-Session-Id` may follow from it."""
    has_batches: bool
    """A POST body may be an array whose members are watched one by one."""
    has_priming: bool
    """A client bears an event with an id and empty data; older libraries parse the empty text and fail."""
    has_version_header: bool
    """`MCP-Protocol-Version` is required after the handshake."""


REVISIONS: Final[tuple[Revision, ...]] = (
    # Its own transport (HTTP+SSE) is not spoken here, but clients negotiate this version over Streamable
    # HTTP too, and there it has a session like the others. Batches outside 2025-03-26 are relayed
    # unwatched, as on the later ones.
    Revision("2024-11-05", has_session=True, has_batches=False, has_priming=False, has_version_header=False),
    Revision("2025-03-26", has_session=True, has_batches=True, has_priming=False, has_version_header=False),
    Revision("2025-06-18", has_session=True, has_batches=False, has_priming=False, has_version_header=True),
    Revision("2025-11-25", has_session=True, has_batches=False, has_priming=True, has_version_header=True),
    Revision("2026-07-28", has_session=False, has_batches=False, has_priming=False, has_version_header=True),
)

FIRST_MODERN_VERSION: Final = "2026-07-28"
ASSUMED_VERSION: Final = "2025-03-26"
"""The oldest with Streamable HTTP; what "the server SHOULD assume" where no version is told (2025-06-18)."""

_BY_VERSION: Final = {revision.version: revision for revision in REVISIONS}
_LEGACY: Final = tuple(revision for revision in REVISIONS if revision.has_session)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def lookup(version: str) -> Revision | None:
    """Find the row of exactly this version."""
    return _BY_VERSION.get(version)


def is_known(version: str) -> bool:
    """Tell whether the table has a row of exactly this version."""
    return version in _BY_VERSION


def is_modern(version: str | None) -> bool:
    """Tell a version without sessions, 2026-07-28 or any later date, from everything else."""
    return version is not None and version >= FIRST_MODERN_VERSION and _DATE.fullmatch(version) is not None


def for_session(version: str) -> Revision:
    """Choose the row a session that negotiated `version` is treated by; always one that has sessions.

    A date without a row takes the nearest older one (whatever came between did not know what came after),
    one before the first row takes the first. A text that is no date takes `ASSUMED_VERSION`.
    """
    row = _BY_VERSION.get(version)
    if row is not None and row.has_session:
        return row
    if _DATE.fullmatch(version) is None:
        return _BY_VERSION[ASSUMED_VERSION]
    older = [row for row in _LEGACY if row.version < version]
    return older[-1] if older else _LEGACY[0]
