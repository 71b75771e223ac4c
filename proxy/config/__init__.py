"""The configuration: `sections` says what there is, `loading` reads it, `address` judges addresses.

Knows no component: each receives its section or plain values, never the whole `Config`.
"""

from proxy.config.address import parse_address
from proxy.config.loading import ENV_PREFIX, SETTINGS, exposure_problem, load, loads
from proxy.config.sections import Config, Listen, Log, Replay, Server, Session, Stream, Upstream

__all__ = [
    "ENV_PREFIX",
    "SETTINGS",
    "Config",
    "Listen",
    "Log",
    "Replay",
    "Server",
    "Session",
    "Stream",
    "Upstream",
    "exposure_problem",
    "load",
    "loads",
    "parse_address",
]
