"""What a person tries first works: the demo shows what it promises, and `make run` starts and ends cleanly.

Both are run as the Makefile runs them, as processes of their own.
"""

import http.client
import json
import os
import re
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from support import envs
from support.processes import Process, free_port
from support.servers import PythonServer

pytestmark = [pytest.mark.e2e, pytest.mark.sdk]

EXAMPLES = envs.ROOT / "examples"
SDK = "python-2"
DEMO_SECONDS = 40.0
START_SECONDS = 20.0
END_SECONDS = 10.0
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def demo(python: str | Path) -> Process:
    """Start the demo with the proxy that this interpreter has."""
    return Process("demo", [str(envs.ensure(SDK)), str(EXAMPLES / "demo.py"), "--python", str(python)])


@contextmanager
def running(*arguments: str) -> Iterator[Process]:
    """Start what `make run` starts, on a port that is free."""
    command = [sys.executable, str(EXAMPLES / "run.py"), "--listen", f"127.0.0.1:{free_port()}", *arguments]
    with Process("run", command) as process:
        process.wait_line("Ctrl-C ends it", START_SECONDS)
        yield process


def told_url(process: Process) -> str:
    """Read the endpoint's URL out of the snippet for clients, which is for copying as it stands."""
    lines = list(process.lines)
    begin = lines.index("{")
    snippet = json.loads("\n".join(lines[begin : lines.index("}", begin) + 1]))
    (server,) = snippet["mcpServers"].values()
    assert server["type"] == "http"
    return str(server["url"])


def open_session(url: str) -> int:
    """Send the first request of a client, and return the status of its answer."""
    match = re.fullmatch(r"http://([\d.]+):(\d+)(/\S+)", url)
    assert match
    connection = http.client.HTTPConnection(match[1], int(match[2]), timeout=10)
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    connection.request("POST", match[3], json.dumps(INITIALIZE), headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def children(process: Process) -> set[int]:
    """List the children of a process."""
    return {int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}


def is_alive(pid: int) -> bool:
    """Say whether there is such a process, not yet ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition, and return whether it came about."""
    deadline = time.monotonic() + END_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_the_demo_shows_one_session_outliving_everything() -> None:
    """A real client's session survives a cut connection and two killed servers; nothing is left behind."""
    with demo(sys.executable) as process:
        code = process.wait_exit(DEMO_SECONDS)
        lines = list(process.lines)
    started = {int(pid) for line in lines for pid in re.findall(r"started, process (\d+)", line)}

    assert code == 0, "\n".join(lines)
    assert lines[-1] == "All of it held."
    assert sum(line.strip().startswith("ok ") for line in lines) == 13
    assert len(started) == 4
    assert [pid for pid in started if is_alive(pid)] == []


def test_the_demo_fails_when_sessions_do_not_survive(tmp_path: Path) -> None:
    """Something in the proxy's place that only forwards bytes does not pass for it."""
    forward = tmp_path / "forward.py"
    forward.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import asyncio, signal, sys
            sys.path.insert(0, {str(envs.ROOT / "tests")!r})
            from support.tcp_relay import TcpRelay
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            ports = dict(zip(sys.argv, sys.argv[1:]))
            relay = TcpRelay(int(ports["--upstream"].rpartition(":")[2].removesuffix("/mcp")))
            relay.port = int(ports["--listen"].rpartition(":")[2])
            async def main():
                async with relay:
                    print("listening on", relay.port, flush=True)
                    await asyncio.Event().wait()
            asyncio.run(main())
            """
        )
    )
    forward.chmod(0o755)
    with demo(forward) as process:
        code = process.wait_exit(DEMO_SECONDS)

    assert code == 1
    assert "FAILED" in "\n".join(process.lines)


@pytest.fixture
def usual_port_taken() -> Iterator[None]:
    """Take the port that the example server would have, unless someone else has it."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(socket.create_server(("127.0.0.1", 3001)))
        yield


@pytest.mark.usefixtures("usual_port_taken")
def test_run_starts_a_server_of_its_own_and_ends_with_it() -> None:
    """Without an upstream there is one, on a free port; Ctrl-C ends both."""
    with running("--server-python", str(envs.ensure(SDK))) as process:
        upstream = process.wait_line("listening on", START_SECONDS)
        status = open_session(told_url(process))
        process.wait_line("session_opened", END_SECONDS)
        born = children(process)
        process.signal(signal.SIGINT)
        code = process.wait_exit(END_SECONDS)

    assert status == 200
    assert ":3001/" not in upstream
    assert len(born) == 2
    assert code == 0
    assert [pid for pid in born if is_alive(pid)] == []


def test_run_brings_back_a_server_that_was_killed() -> None:
    """A person can kill the example server and see the next session answered."""
    with running("--server-python", str(envs.ensure(SDK))) as process:
        hint = process.wait_line("kill -9", START_SECONDS)
        os.kill(int(re.findall(r"kill -9 (\d+)", hint)[0]), signal.SIGKILL)
        process.wait_line("started again", START_SECONDS)

        assert open_session(told_url(process)) == 200


def test_run_takes_its_children_along_when_it_is_killed() -> None:
    """Not even SIGKILL leaves an orphan."""
    with running("--server-python", str(envs.ensure(SDK))) as process:
        born = children(process)
        process.kill()

        assert len(born) == 2
        assert until(lambda: not any(is_alive(pid) for pid in born))


def test_run_stands_in_front_of_a_server_that_is_there() -> None:
    """With an upstream given, only the proxy is started."""
    with PythonServer(SDK) as server, running("--upstream", server.url) as process:
        assert len(children(process)) == 1
        assert open_session(told_url(process)) == 200


def test_run_says_why_the_proxy_did_not_start() -> None:
    """A port that is taken ends it with the proxy's own line, and no server is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["--listen", address, "--upstream", "http://127.0.0.1:9/mcp"]
        with Process("run", [sys.executable, str(EXAMPLES / "run.py"), *arguments]) as process:
            code = process.wait_exit(START_SECONDS)

    assert code == 1
    assert f"cannot listen on {address}" in "\n".join(process.lines)
