"""Own the settings: one frozen dataclass per table of `config.toml`, with defaults, ranges and reasons.

Knows neither files nor the environment. The docstrings under the fields are the manual; rules between fields
are in `loading` and `routes`. Invariant: the defaults fit every rule, and a `Config` has at least one route.
"""

from dataclasses import dataclass, field

from proxy.config.address import (
    header_problem,
    host_name_problem,
    host_problem,
    label_problem,
    listen_problem,
    origin_problem,
    parse_address,
    parse_descriptor,
    path_problem,
    token_problem,
    tool_problem,
    url_problem,
)
from proxy.config.rules import count, name_problem, one_of, seconds, setting, share, size


@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients connect, and what the listener accepts from them."""

    address: str = setting("127.0.0.1:8080", check=listen_problem, flag="--listen")
    """`host:port`, `[ipv6]:port` (port 0: the system chooses), `fd:N`. Loopback: nobody is authenticated."""
    path: str = setting("/mcp", check=path_problem, flag="--path")
    """Path of the MCP endpoint, compared exactly. `/mcp` is what clients' examples use."""
    http: str = setting("wire", check=one_of("wire", "aiohttp"))
    """How clients are spoken to: `wire` (usual requests at protocol level, the rest by aiohttp) or `aiohttp` alone."""
    allow_anonymous: bool = setting(False, flag="--allow-anonymous")
    """Whether to listen beyond loopback although nobody is authenticated. Off: to be said knowingly."""
    allowed_hosts: tuple[str, ...] = setting((), check=host_problem)
    """Further `Host` values accepted, name or name:port, in any letter case. None: loopback names suffice."""
    allowed_origins: tuple[str, ...] = setting((), check=origin_problem)
    """Further `Origin` values accepted, scheme://host[:port], in any letter case. None: no page needs it."""
    backlog: int = count(4096, most=65535)
    """Connections the kernel may queue, 1 to 65535. 4096 is what Linux grants by default (somaxconn)."""
    max_body_bytes: int = size(16_777_216)
    """Largest request body, bytes, from 1. 16 MiB: tool arguments with files in them fit."""
    head_timeout_seconds: float = seconds(30.0)
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
    """The MCP server behind the proxy, and the patience with it. An upstream of a route has some of its own."""

    name: str = setting("default", check=name_problem, own=True)
    """Name in logs and counters, a-z, 0-9, - and _. `default` is the name `--upstream` gives."""
    url: str = setting("http://127.0.0.1:3001/mcp", check=url_problem, flag="--upstream", own=True)
    """Its MCP endpoint, http or https, no user, query or fragment. 3001: the example servers' port."""
    weight: int = count(1, most=1000, own=True)
    """Its part of the sessions, 1 to 1000, for every policy but `round_robin`. 1: all are alike."""
    labels: tuple[tuple[str, str], ...] = setting((), pairs=label_problem, own=True)
    """What people want to see beside its name, a table of strings. None: nothing depends on them."""
    headers: tuple[tuple[str, str], ...] = setting((), pairs=header_problem, own=True, secret=True)
    """Headers sent with every request to it, in the place of a client's of that name. None: clients bring theirs."""
    ca_file: str = setting("", own=True)
    """PEM file of the authorities that may have signed its certificate; "": the system's. For a private one."""
    http: str = setting("wire", check=one_of("wire", "aiohttp"), own=True)
    """How it is spoken to: `wire` (at protocol level, a fifth of the price) or `aiohttp`, which does the same."""
    connect_timeout_seconds: float = seconds(5.0, own=True)
    """Time for one connection attempt, seconds, above 0. 5: one lost SYN and its repetitions fit."""
    keepalive_seconds: float = seconds(2.0, zero=True, own=True)
    """Time an idle connection is kept, seconds, from 0. 2: one that dies under a POST loses its outcome."""
    max_connections: int = count(10_000, most=1_000_000, own=True)
    """Connections for calls, in use and idle, from 1. 10,000: above what a server takes, below the ports there are."""
    max_calls: int = count(10_000, most=1_000_000, own=True)
    """Calls at once on it, from 1; further ones wait. 10,000: no bound before one is chosen for the server."""
    max_session_calls: int = count(256, most=1_000_000, own=True)
    """Calls of one session at once on it, from 1; further ones wait. 256, as much as `session.max_calls`."""
    queue_limit: int = count(1024, least=0, most=1_000_000, own=True)
    """Calls that may wait for room, from 0; further ones are refused. 1024: a burst, not a backlog."""
    queue_timeout_seconds: float = seconds(10.0, own=True)
    """Time a call waits for room, seconds, above 0; then it is refused. 10: clients still wait."""
    rebuild_wait_seconds: float = seconds(10.0, zero=True)
    """Wait inside a request for a server that refuses to connect, seconds, from 0. 10: a usual restart."""
    discover_wait_seconds: float = seconds(5.0, zero=True)
    """The same for `server/discover`, and its wait for an answer, seconds, from 0. 5: a client gives up after 10."""
    silence_seconds: float = seconds(30.0)
    """Silence on an exchange before a `ping` asks, seconds, above 0. 30: twice the usual heartbeat."""
    ping_timeout_seconds: float = seconds(10.0)
    """Time for that ping's answer, seconds, above 0, at most `silence_seconds`. Two failures mean lost."""
    reconnect_min_seconds: float = seconds(0.1)
    """First delay between attempts to reach it again, seconds, above 0. 0.1: a fast restart is met."""
    reconnect_max_seconds: float = seconds(1.0)
    """Longest such delay, seconds, from `reconnect_min_seconds`. 1: cheap, one loop per upstream."""
    resume_attempts: int = count(3, least=0, most=1000)
    """Tries to resume a broken call stream by upstream cursor, from 0. 3: then its outcome is unknown."""
    max_message_bytes: int = size(16_777_216)
    """Largest answer or event taken from it, bytes, from 1. 16 MiB, as much as `listen.max_body_bytes`."""
    rebuilds_per_second: float = setting(200.0, positive=True, most=1_000_000)
    """Sessions rebuilt per second after an outage, above 0. 200: a server that starts is not run over."""


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint for clients, and the pool of upstreams behind it. Sessions never cross routes."""

    name: str = setting("main", check=name_problem)
    """Name in listings and logs, as an upstream's. Where `[[routes]]` gives none it is made of the path."""
    path: str = setting("/mcp", check=path_problem)
    """Path of the endpoint, compared exactly. `/mcp` is what clients' examples use."""
    host: str = setting("", check=host_name_problem)
    """The `Host` name, without port, of its requests, in lower case; "": any. For several names on one path."""
    policy: str = setting(
        "least_sessions", check=one_of("least_sessions", "round_robin", "weighted", "consistent_hash")
    )
    """How a new session gets its upstream. least_sessions: evens out after one was away."""
    upstreams: tuple[Upstream, ...] = (Upstream(),)
    """The pool, at least one."""


@dataclass(frozen=True, slots=True)
class Health:
    """When an upstream of a pool is ejected from it and readmitted. A pool of one ejects nobody."""

    probe: str = setting("mcp", check=one_of("mcp", "http", "tcp", "none"))
    """How upstreams are asked: `mcp` (a short session of its own), `http`, `tcp`, `none`. mcp: shows that it serves."""
    http_path: str = setting("/", check=path_problem)
    """Path an `http` probe asks for; below 400 is well. `/`: there is none that every server has."""
    interval_seconds: float = seconds(5.0)
    """Pause between two probes of an upstream, seconds, above 0. 5: cheap, and traffic tells sooner."""
    timeout_seconds: float = seconds(2.0)
    """Time for a probe's answer, seconds, above 0, at most `interval_seconds`. 2: a busy server makes it."""
    fall: int = count(3, most=1000)
    """Failures in a row (refused, timed out, probe) that eject, from 1. 3: one lost packet is none."""
    rise: int = count(2, most=1000)
    """Probes in a row that must succeed to readmit, from 1. 2: a server that just starts is not hit."""
    errors: int = count(5, most=10_000)
    """Answers 5xx in a row that eject, from 1. 5: more than `fall`, for who answers is there."""
    eject_after_seconds: float = seconds(1.0, zero=True)
    """Time it must have failed before it is ejected, seconds, from 0: sessions wait. 1: a restart in place."""
    backoff_min_seconds: float = seconds(1.0)
    """First wait of an ejected upstream before a trial, seconds, above 0. 1: a short fault costs little."""
    backoff_max_seconds: float = seconds(60.0)
    """Longest such wait, seconds, from `backoff_min_seconds`; it doubles. 60: a minute after repair at most."""
    half_open_trials: int = count(1, most=1000)
    """Trials at once with an upstream that may be back, from 1. 1: a broken one costs one session."""
    panic_threshold: float = share(0.5)
    """Share of available upstreams below which ejections are ignored, 0 (none left) to 1. 0.5: half carry it all."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Which calls that may have run are sent again after their upstream was lost."""

    attempts: int = count(2, least=0, most=100)
    """Times such a call is sent again, from 0. 2: who fails three times fails because of the call."""
    safe_tools: tuple[str, ...] = setting((), check=tool_problem)
    """Tools that may run twice whatever their annotations say; `*` stands for any text. None: tools know best."""
    unsafe_tools: tuple[str, ...] = setting((), check=tool_problem)
    """Tools that must not, whatever their annotations and `safe_tools` say. None, as above."""
    ask_tools: bool = setting(True)
    """Whether an upstream is asked once for its tools' annotations if no client did. On: clients need not list."""


@dataclass(frozen=True, slots=True)
class Swap:
    """How sessions are moved from one upstream to another on purpose."""

    drain_timeout_seconds: float = seconds(60.0, zero=True)
    """Time running calls get on the upstream that is left, seconds, from 0. 60: as long as clients wait."""
    concurrency: int = count(64, most=100_000)
    """Moves under way at once, from 1. 64: 1,000 idle sessions in a second, and room for calls."""
    rollback_error_rate: float = share(0.2)
    """Share of failed moves and calls on the new upstream that undoes a swap, 0 to 1; 0: never. 0.2: no noise."""
    rollback_min_calls: int = count(20)
    """Moves and calls seen before that share counts, from 1. 20: one failure alone is below 0.2."""
    strict: bool = setting(False)
    """Whether another server, version or set of capabilities refuses a swap. Off: new versions differ."""
    compare_tools: bool = setting(False)
    """Whether the tool lists are compared too. Off: they are often long and often differ."""


@dataclass(frozen=True, slots=True)
class Session:
    """How many sessions there may be, how long they live, and what one may hold."""

    max_sessions: int = count(100_000)
    """Sessions alive at once, from 1. 100,000 idle ones take about 1.2 GiB."""
    upstream_idle_seconds: float = seconds(1800.0)
    """Idle time that ends only the upstream side, seconds, above 0. 30 minutes: the next request rebuilds."""
    idle_seconds: float = seconds(86400.0)
    """Idle time that ends the session (404), seconds, from `upstream_idle_seconds`. A day: it is final."""
    lifetime_seconds: float = seconds(0.0, zero=True)
    """Absolute lifetime, seconds; 0: none, because an active session has no reason to end."""
    max_calls: int = count(256)
    """Calls in flight in one session, from 1. 256: far above what clients run, bounds a runaway."""
    max_subscriptions: int = count(1024, least=0)
    """Resource subscriptions remembered per session, from 0. 1024: every rebuild restores each of them."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The SSE streams towards clients."""

    retry_seconds: float = setting(3.0, least=0.001, most=3600)
    """Wait told to clients before they reconnect, seconds, 0.001 to 3600. 3 covers a restart of the proxy."""
    heartbeat_seconds: float = seconds(15.0)
    """Pause between heartbeats, seconds, below `peer_timeout_seconds`. 15: well inside balancers' 60."""
    upgrade_after_seconds: float = seconds(1.0, zero=True)
    """Wait for an answer before a stream opens instead, seconds, from 0. 1: fast answers stay plain JSON."""
    slow_reader_events: int = count(500)
    """Events a client may lag before it is cut, below `replay.events_per_stream`: the rest is replayed."""
    slow_reader_bytes: int = size(1_048_576)
    """Bytes a client may lag before it is cut, below `replay.bytes_per_stream`. 1 MiB: a large event."""
    close_after_abort_seconds: float = seconds(2.0, zero=True)
    """Life of the stream after an aborted one, seconds; its clean end keeps Python clients reconnecting."""
    peer_timeout_seconds: float = seconds(45.0)
    """Time after which unacknowledged bytes mean a dead client, seconds, above 0. 45: three heartbeats."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What is kept for clients that come back."""

    events_per_stream: int = count(1000)
    """Events kept per stream, from 1. 1000: minutes of a chatty tool."""
    bytes_per_stream: int = size(4_194_304)
    """Bytes kept per stream, at most `bytes_per_session`. 4 MiB: 1,000 events of 4 KiB."""
    bytes_per_session: int = size(16_777_216)
    """Bytes kept per session, at most `bytes_total`. 16 MiB: four full streams."""
    bytes_total: int = size(536_870_912)
    """Bytes kept in the process, from 1. 512 MiB: fits a small machine."""
    completed_seconds: float = seconds(600.0, zero=True)
    """Time a completed stream is kept, seconds, from 0. 10 minutes: a laptop's short sleep."""


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin API, on a listener of its own."""

    address: str = setting("127.0.0.1:9901", check=lambda text: listen_problem(text) if text else "", flag="--admin")
    """As `listen.address`; "": none. 9901: the default, unlike an address somebody set, may be taken."""
    token: str = setting("", check=token_problem, secret=True)
    """Bearer token each request must bring; "": none, which is allowed on loopback alone."""
    events: int = count(1000, most=1_000_000)
    """Events kept for who reads `/events` and comes back, from 1. 1000: a swap of as many sessions."""

    @property
    def descriptor(self) -> int | None:
        """N of `fd:N`; None for an address."""
        return parse_descriptor(self.address)

    @property
    def host(self) -> str:
        """Host part of `address`, without brackets; of a descriptor as in `Listen`, "" when there is no listener."""
        if self.descriptor is not None:
            return "localhost"
        return parse_address(self.address)[0] if self.address else ""

    @property
    def port(self) -> int:
        """Port part of `address`; 0 of a descriptor and when there is no listener."""
        return parse_address(self.address)[1] if self.address and self.descriptor is None else 0


@dataclass(frozen=True, slots=True)
class Server:
    """The process."""

    drain_seconds: float = seconds(10.0, zero=True)
    """Bound of a drain after SIGTERM, seconds, from 0. 10: below the 30 that orchestrators wait."""
    uvloop: bool = setting(True)
    """Whether uvloop runs the proxy where it is installed. On: less CPU per call."""
    watch_config: bool = setting(True)
    """Whether a changed configuration file is applied without SIGHUP. On: routes follow what is deployed."""
    upgrade_drain_seconds: float = seconds(30.0, zero=True)
    """Window over which a replaced process ends its streams, seconds, from 0. 30: clients come back spread out."""
    upgrade_ready_seconds: float = seconds(30.0)
    """Time a new process gets to serve before the old one goes on, seconds, above 0. 30: a cold start."""


@dataclass(frozen=True, slots=True)
class Log:
    """What is written to stderr."""

    level: str = setting("info", check=one_of("debug", "info", "warning", "error"), flag="--log-level")
    """Least severe level written: debug, info, warning, error. info: a line per event, none per call."""
    format: str = setting("auto", check=one_of("auto", "console", "json"), flag="--log-format")
    """console, json, or auto: console on a terminal, else json."""


class _Made(tuple[Route, ...]):
    """A route table that nobody gave."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Every section, and the routes; only `app` sees it whole."""

    listen: Listen = field(default_factory=Listen)
    upstream: Upstream = field(default_factory=Upstream)
    health: Health = field(default_factory=Health)
    retry: Retry = field(default_factory=Retry)
    swap: Swap = field(default_factory=Swap)
    session: Session = field(default_factory=Session)
    stream: Stream = field(default_factory=Stream)
    replay: Replay = field(default_factory=Replay)
    admin: Admin = field(default_factory=Admin)
    server: Server = field(default_factory=Server)
    log: Log = field(default_factory=Log)
    routes: tuple[Route, ...] = ()
    """At least one. Where none is given it is made of `listen.path` and `upstream`."""
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Dotted keys, and `routes`, that a file, a variable or a flag set: tells a default from the same value chosen."""

    def __post_init__(self) -> None:
        """Make the route of who names none: also in a copy with another section (`dataclasses.replace`)."""
        if not self.routes or isinstance(self.routes, _Made):
            route = Route(path=self.listen.path, upstreams=(self.upstream,))
            object.__setattr__(self, "routes", _Made((route,)))  # frozen for everybody else
