"""An upstream that an operator asks for, judged as if it stood in the configuration.

Owns what is filled in and what is refused. Adds nothing to any pool. Invariant: what is returned would have been
accepted from a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from proxy.config.routes import OF_UPSTREAM
from proxy.config.rules import checked
from proxy.control.base import ControlError
from proxy.errors import ConfigError
from proxy.upstream.tls import client_context

if TYPE_CHECKING:
    from proxy.config import Upstream

SOURCE = "request"


def upstream_of(base: Upstream, values: Mapping[str, Any]) -> Upstream:
    """Return *base* with some values of its own.

    Raises:
        ControlError: a value is not usable; the message names it.
    """
    try:
        own = {
            name: checked(value, OF_UPSTREAM[name].default, OF_UPSTREAM[name].metadata["rule"], name, SOURCE)
            for name, value in values.items()
        }
        wanted = replace(base, **own)
        if wanted.ca_file:
            client_context(wanted)
    except ConfigError as error:
        raise ControlError("invalid", f"{error.key}: {error.problem}") from None
    return wanted


def free_name(route: str, taken: Collection[str]) -> str:
    """Return the name that an upstream of a route gets where nobody gives one: as in a file."""
    return next(name for number in count(1) if (name := f"{route[:56]}-{number}") not in taken)
