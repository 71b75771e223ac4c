"""The processes of the failover benchmark: two stubs that say who they are, the proxy with its admin API, its log.

Owns how they are started, asked and ended, and what is read of the proxy's log; knows no client and no figure. The
proxy has one CPU alone; the stubs and the load share another. Each process is ended by its own id.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TextIO

from contenders import HERE, ROOT, free_port
from failover_figures import Cpu
from load import Control, asked, connected, run
from processes import BenchError, Placement, start, stop
from wire import Connection, Target

READY_SECONDS: Final = 15.0
CPU_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Stub:
    """A started upstream."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"


@contextlib.contextmanager
def stub(name: str, placement: Placement, log: TextIO, think_seconds: float) -> Iterator[Stub]:
    """Run one stub upstream."""
    command = [sys.executable, str(HERE / "failover_upstream.py"), "--name", name, "--think", str(think_seconds)]
    process = start(command, placement.stub, log, piped=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"stub {name} did not start, see {log.name}")
        yield Stub(name, process.pid, int(line.rpartition(":")[2].split("/")[0]))
    finally:
        stop(process)


class StubControl(Control):
    """A stub's own endpoint."""

    async def marks(self) -> dict[int, int]:
        """Ask how often the call of each mark was run."""
        return {int(mark): number for mark, number in json.loads(await self.ask(b"GET", b"/marks", 200)).items()}


@dataclass(frozen=True, slots=True)
class Proxy:
    """The started proxy."""

    pid: int
    target: Target
    admin_port: int
    log: Path

    def records(self) -> list[dict[str, Any]]:
        """Read the events of its log; `at` is Unix time."""
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            if line.startswith("{"):
                record = json.loads(line)
                found.append(record | {"at": datetime.fromisoformat(record["timestamp"]).timestamp()})
        return found


def configuration(port: int, admin_port: int, urls: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """Write a configuration: the defaults but for addresses, the pool, and what `settings` names by dotted keys."""
    tables: dict[str, list[str]] = {"listen": [f'address = "127.0.0.1:{port}"']}
    tables["admin"] = [f'address = "127.0.0.1:{admin_port}"']
    for key, value in settings.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, []).append(f"{name} = {json.dumps(value)}")
    lines = [line for table, own in tables.items() for line in (f"[{table}]", *own)]
    lines += ["[[routes]]", 'name = "main"', 'path = "/mcp"']
    for name, url in urls.items():
        lines += ["[[routes.upstreams]]", f'name = "{name}"', f'url = "{url}"']
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def proxy(
    urls: Mapping[str, str], placement: Placement, settings: Mapping[str, Any], directory: Path
) -> Iterator[Proxy]:
    """Run the proxy over a pool, with its files in a directory; it accepts connections when this yields."""
    directory.mkdir(parents=True, exist_ok=True)
    port, admin_port = free_port(), free_port()
    file, log_file = directory / "config.toml", directory / "proxy.log"
    file.write_text(configuration(port, admin_port, urls, settings), encoding="utf-8")
    with log_file.open("w", encoding="utf-8") as log:
        process = start([sys.executable, "-m", "proxy", "--config", str(file)], placement.measured, log, cwd=ROOT)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while "listening on" not in log_file.read_text(encoding="utf-8"):
                if process.poll() is not None:
                    raise BenchError(f"the proxy ended with {process.returncode}, see {log_file}")
                if time.monotonic() > deadline:
                    raise BenchError(f"the proxy is not ready after {READY_SECONDS:.0f} s, see {log_file}")
                time.sleep(0.02)
            yield Proxy(process.pid, Target("127.0.0.1", port, 0), admin_port, log_file)
        finally:
            stop(process)


class CpuWatch:
    """What the kernel says of the proxy's CPU, again and again: how long it ran, how long it waited for others.

    On a machine that does other things the second shows how much of a blackout is not the proxy's.
    """

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/schedstat")
        self.seen: list[Cpu] = []
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        ran, waited, _ = self._file.read_text().split()
        self.seen.append(Cpu(time.perf_counter(), int(ran) / 1e9, int(waited) / 1e9))
        self._timer = asyncio.get_running_loop().call_later(CPU_POLL_SECONDS, self._look)


class AdminClient:
    """The proxy's admin API over one connection."""

    def __init__(self, port: int, connections: list[Connection]) -> None:
        self.host = b"127.0.0.1:%d" % port
        self.connections = connections

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, status: int = 200) -> Any:
        """Do one operation; return its answer. LoadError for another status."""
        text = b"" if body is None else json.dumps(body).encode()
        kind = b"Content-Type: application/json\r\n" if text else b""
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n"
        request = head % (method.encode(), path.encode(), self.host, kind, len(text)) + text
        return json.loads((await run(self.connections, [asked(request, status)]))[0])


@contextlib.asynccontextmanager
async def admin_of(one: Proxy) -> AsyncIterator[AdminClient]:
    """Open the connection to the admin API."""
    async with connected("127.0.0.1", one.admin_port, 1) as connections:
        yield AdminClient(one.admin_port, connections)
