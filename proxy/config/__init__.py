"""The configuration: `sections` says what there is, `loading` reads it, `shown` shows it.

Knows no component: each receives its section or plain values, never the whole `Config`.
"""

from proxy.config.address import parse_address
from proxy.config.loading import ENV_PREFIX, SETTINGS, exposure_problem, load, loads
from proxy.config.sections import (
    Admin,
    Config,
    Health,
    Listen,
    Log,
    Replay,
    Retry,
    Route,
    Server,
    Session,
    Stream,
    Swap,
    Upstream,
)
from proxy.config.shown import differences, effective

__all__ = [
    "ENV_PREFIX",
    "SETTINGS",
    "Admin",
    "Config",
    "Health",
    "Listen",
    "Log",
    "Replay",
    "Retry",
    "Route",
    "Server",
    "Session",
    "Stream",
    "Swap",
    "Upstream",
    "differences",
    "effective",
    "exposure_problem",
    "load",
    "loads",
    "parse_address",
]
