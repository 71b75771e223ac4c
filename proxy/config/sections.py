"""Own the settings: one frozen dataclass per table of `config.toml`, with defaults, ranges and reasons.

Knows neither files nor the environment. The docstrings under the fields are the manual; rules between fields
are in `loading`. Invariant: the defaults fit every rule.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy.config.address import (
    host_problem,
    listen_problem,
    origin_problem,
    parse_address,
    parse_descriptor,
    path_problem,
    shown,
    url_problem,
)

_LONGEST_SECONDS = 10 * 365 * 86400.0
_MOST_BYTES = 2**40

_T = TypeVar("_T")
_Check = Callable[[str], str]
"""Takes the text, returns what is wrong with it; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting must satisfy beyond its type, and the flag that sets it."""

    least: float = 0
    most: float = math.inf
    positive: bool = False
    check: _Check | None = None
    flag: str = ""


def _setting(default: _T, **rule: Any) -> _T:
    return field(default=default, metadata={"rule": Rule(**rule)})


def _seconds(default: float, *, zero: bool = False) -> float:
    return _setting(default, positive=not zero, most=_LONGEST_SECONDS)


def _count(default: int, *, least: int = 1, most: int = 10_000_000) -> int:
    return _setting(default, least=least, most=most)


def _bytes(default: int) -> int:
    return _setting(default, least=1, most=_MOST_BYTES)


def _check_name(text: str) -> str:
    fits = re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", text)
    return "" if fits else f"expected up to 64 of a-z, 0-9, - and _, a letter or digit first, got {shown(text)}"


def _one_of(*choices: str) -> _Check:
    return lambda text: "" if text in choices else f"expected one of {', '.join(choices)}, got {shown(text)}"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients connect, and what the listener accepts from them."""

    address: str = _setting("127.0.0.1:8080", check=listen_problem, flag="--listen")
    """`host:port`, `[ipv6]:port` (port 0: the system chooses), `fd:N`. Loopback: nobody is authenticated."""
    path: str = _setting("/mcp", check=path_problem, flag="--path")
    """Path of the MCP endpoint, compared exactly. `/mcp` is what clients' examples use."""
    http: str = _setting("wire", check=_one_of("wire", "aiohttp"))
    """How clients are spoken to: `wire` (usual requests at protocol level, the rest by aiohttp) or `aiohttp` alone."""
    allow_anonymous: bool = _setting(False, flag="--allow-anonymous")
    """Whether to listen beyond loopback although nobody is authenticated. Off: to be said knowingly."""
    allowed_hosts: tuple[str, ...] = _setting((), check=host_problem)
    """Further `Host` values accepted, name or name:port, in any letter case. None: loopback names suffice."""
    allowed_origins: tuple[str, ...] = _setting((), check=origin_problem)
    """Further `Origin` values accepted, scheme://host[:port], in any letter case. None: no page needs it."""
    backlog: int = _count(4096, most=65535)
    """Connections the kernel may queue, 1 to 65535. 4096 is what Linux grants by default (somaxconn)."""
    max_body_bytes: int = _bytes(16_777_216)
    """Largest request body, bytes, from 1. 16 MiB: tool arguments with files in them fit."""
    head_timeout_seconds: float = _seconds(30.0)
    """Time for a request's head to arrive, seconds, above 0. 30: slow links make it, idlers do not."""

    @property
    def descriptor(self) -> int | None:
        """N of `fd:N`; None for an address."""
        return parse_descriptor(self.address)

    @property
    def host(self) -> str:
        """Host part of `address`, without brackets.

        Of a descriptor it is not known before the socket is taken. Until then it counts as loopback, where `Host` and
        `Origin` are judged most strictly; who takes the socket puts its true address in the place of `fd:N`.
        """
        return "localhost" if self.descriptor is not None else parse_address(self.address)[0]

    @property
    def port(self) -> int:
        """Port part of `address`; 0 of a descriptor."""
        return 0 if self.descriptor is not None else parse_address(self.address)[1]


@dataclass(frozen=True, slots=True)
class Upstream:
    """The MCP server behind the proxy, and the patience with it."""

    name: str = _setting("default", check=_check_name)
    """Name in logs and counters, a-z, 0-9, - and _. `default` is the name `--upstream` gives."""
    url: str = _setting("http://127.0.0.1:3001/mcp", check=url_problem, flag="--upstream")
    """Its MCP endpoint, http or https, no user, query or fragment. 3001: the example servers' port."""
    ca_file: str = _setting("")
    """PEM file of the authorities that may have signed its certificate; "": the system's. For a private one."""
    http: str = _setting("wire", check=_one_of("wire", "aiohttp"))
    """How it is spoken to: `wire` (at protocol level, a fifth of the price) or `aiohttp`, which does the same."""
    connect_timeout_seconds: float = _seconds(5.0)
    """Time for one connection attempt, seconds, above 0. 5: one lost SYN and its repetitions fit."""
    keepalive_seconds: float = _seconds(2.0, zero=True)
    """Time an idle connection is kept, seconds, from 0. 2: one that dies under a POST loses its outcome."""
    rebuild_wait_seconds: float = _seconds(10.0, zero=True)
    """Wait inside a request for a server that refuses to connect, seconds, from 0. 10: a usual restart."""
    discover_wait_seconds: float = _seconds(5.0, zero=True)
    """The same for `server/discover`, seconds, from 0. 5: a client gives up its modern try after 10."""
    silence_seconds: float = _seconds(30.0)
    """Silence on an exchange before a `ping` asks, seconds, above 0. 30: twice the usual heartbeat."""
    ping_timeout_seconds: float = _seconds(10.0)
    """Time for that ping's answer, seconds, above 0, at most `silence_seconds`. Two failures mean lost."""
    reconnect_min_seconds: float = _seconds(0.1)
    """First delay between attempts to reach it again, seconds, above 0. 0.1: a fast restart is met."""
    reconnect_max_seconds: float = _seconds(1.0)
    """Longest such delay, seconds, from `reconnect_min_seconds`. 1: cheap, one loop per upstream."""
    resume_attempts: int = _count(3, least=0, most=1000)
    """Tries to resume a broken call stream by upstream cursor, from 0. 3: then its outcome is unknown."""
    max_message_bytes: int = _bytes(16_777_216)
    """Largest answer or event taken from it, bytes, from 1. 16 MiB, as much as `listen.max_body_bytes`."""
    rebuilds_per_second: float = _setting(200.0, positive=True, most=1_000_000)
    """Sessions rebuilt per second after an outage, above 0. 200: a server that starts is not run over."""


@dataclass(frozen=True, slots=True)
class Session:
    """How many sessions there may be, how long they live, and what one may hold."""

    max_sessions: int = _count(100_000)
    """Sessions alive at once, from 1. 100,000 idle ones take about 1.2 GiB."""
    upstream_idle_seconds: float = _seconds(1800.0)
    """Idle time that ends only the upstream side, seconds, above 0. 30 minutes: the next request rebuilds."""
    idle_seconds: float = _seconds(86400.0)
    """Idle time that ends the session (404), seconds, from `upstream_idle_seconds`. A day: it is final."""
    lifetime_seconds: float = _seconds(0.0, zero=True)
    """Absolute lifetime, seconds; 0: none, because an active session has no reason to end."""
    max_calls: int = _count(256)
    """Calls in flight in one session, from 1. 256: far above what clients run, bounds a runaway."""
    max_subscriptions: int = _count(1024, least=0)
    """Resource subscriptions remembered per session, from 0. 1024: every rebuild restores each of them."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The SSE streams towards clients."""

    retry_seconds: float = _setting(3.0, least=0.001, most=3600)
    """Wait told to clients before they reconnect, seconds, 0.001 to 3600. 3 covers a restart of the proxy."""
    heartbeat_seconds: float = _seconds(15.0)
    """Pause between heartbeats, seconds, below `peer_timeout_seconds`. 15: well inside balancers' 60."""
    upgrade_after_seconds: float = _seconds(1.0, zero=True)
    """Wait for an answer before a stream opens instead, seconds, from 0. 1: fast answers stay plain JSON."""
    slow_reader_events: int = _count(500)
    """Events a client may lag before it is cut, below `replay.events_per_stream`: the rest is replayed."""
    slow_reader_bytes: int = _bytes(1_048_576)
    """Bytes a client may lag before it is cut, below `replay.bytes_per_stream`. 1 MiB: a large event."""
    close_after_abort_seconds: float = _seconds(2.0, zero=True)
    """Life of the stream after an aborted one, seconds; its clean end keeps Python clients reconnecting."""
    peer_timeout_seconds: float = _seconds(45.0)
    """Time after which unacknowledged bytes mean a dead client, seconds, above 0. 45: three heartbeats."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What is kept for clients that come back."""

    events_per_stream: int = _count(1000)
    """Events kept per stream, from 1. 1000: minutes of a chatty tool."""
    bytes_per_stream: int = _bytes(4_194_304)
    """Bytes kept per stream, at most `bytes_per_session`. 4 MiB: 1,000 events of 4 KiB."""
    bytes_per_session: int = _bytes(16_777_216)
    """Bytes kept per session, at most `bytes_total`. 16 MiB: four full streams."""
    bytes_total: int = _bytes(536_870_912)
    """Bytes kept in the process, from 1. 512 MiB: fits a small machine."""
    completed_seconds: float = _seconds(600.0, zero=True)
    """Time a completed stream is kept, seconds, from 0. 10 minutes: a laptop's short sleep."""


@dataclass(frozen=True, slots=True)
class Server:
    """The process."""

    drain_seconds: float = _seconds(10.0, zero=True)
    """Bound of a drain after SIGTERM, seconds, from 0. 10: below the 30 that orchestrators wait."""
    uvloop: bool = _setting(True)
    """Whether uvloop runs the proxy where it is installed. On: less CPU per call."""


@dataclass(frozen=True, slots=True)
class Log:
    """What is written to stderr."""

    level: str = _setting("info", check=_one_of("debug", "info", "warning", "error"), flag="--log-level")
    """Least severe level written: debug, info, warning, error. info: a line per event, none per call."""
    format: str = _setting("auto", check=_one_of("auto", "console", "json"), flag="--log-format")
    """console, json, or auto: console on a terminal, else json."""


@dataclass(frozen=True, slots=True)
class Config:
    """Every section; only `app` sees it whole."""

    listen: Listen = field(default_factory=Listen)
    upstream: Upstream = field(default_factory=Upstream)
    session: Session = field(default_factory=Session)
    stream: Stream = field(default_factory=Stream)
    replay: Replay = field(default_factory=Replay)
    server: Server = field(default_factory=Server)
    log: Log = field(default_factory=Log)
