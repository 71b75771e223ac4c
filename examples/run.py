"""Run the proxy for a person: in front of a server that is there, or of the example server, started here.

    make run [UPSTREAM=http://127.0.0.1:3001/mcp] [LISTEN=127.0.0.1:8080]

Owns both processes: the server comes first and goes last, one that dies is started again (kill it and see),
and none outlives this one. Uses the standard library alone; the proxy is what it would be by hand.
"""

import argparse
import ctypes
import functools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER_PORT, ADMIN_PORT = 3001, 9901
"""Where config.toml expects the server and has the admin API; other ports are taken when these are not free."""
START_SECONDS = 20.0
STOP_SECONDS = 15.0
"""More than the proxy's own bound for its drain."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1


class Stopped(Exception):  # noqa: N818 - it is a request, not an error
    """A signal asked for the end."""


class Failed(Exception):  # noqa: N818 - the name is what the last line says
    """Something did not start; the message is for the person."""


def start(command: Sequence[str | Path], *, piped: bool = False) -> subprocess.Popen[str]:
    """Start a child that Ctrl-C in the terminal does not reach, and that ends when this process does."""
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE if piped else None,
        text=True,
        start_new_session=True,  # a terminal tells the whole group: the server would be gone before the proxy
        preexec_fn=_end_with_parent(),  # noqa: PLW1509 - it makes one system call and takes no lock
    )


def _end_with_parent() -> Callable[[], object] | None:
    if sys.platform != "linux":
        return None
    # The library is loaded here, before the fork: afterwards little is allowed.
    prctl = ctypes.CDLL(None).prctl
    return functools.partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(child: subprocess.Popen[str] | None) -> None:
    """End a child with SIGTERM, with SIGKILL when it takes too long."""
    if child is None:
        return
    child.terminate()  # does nothing once it is reaped
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def free_port(preferred: int) -> int:
    """Return `preferred` where nobody listens there, else a port that is free."""
    for port in (preferred, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise Failed("no free port on 127.0.0.1")


def start_server(python: Path, port: int) -> subprocess.Popen[str]:
    """Start the example server and wait until it takes connections."""
    child = start([python, ROOT / "examples" / "server.py", "--port", str(port)])
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return child
    stop(child)
    raise Failed(f"the example server did not start on port {port} (exit code {child.returncode})")


def start_proxy(upstream: str, listen: str | None, admin: str) -> tuple[subprocess.Popen[str], str]:
    """Start the proxy with config.toml; return it with the URL for clients once it serves.

    Its log passes through to stderr, one line per session event.
    """
    command = [sys.executable, "-m", "proxy", "--config", ROOT / "config.toml", "--upstream", upstream]
    command += ["--admin", admin, "--log-format", "console", *(["--listen", listen] if listen else [])]
    child = start(command, piped=True)
    assert child.stderr is not None
    for line in child.stderr:
        sys.stderr.write(line)
        if found := re.search(r"listening on (http\S+)", line):
            threading.Thread(target=_pass_on, args=[child], daemon=True).start()
            return child, found[1]
    raise Failed(f"the proxy did not start (exit code {child.wait()})")


def _pass_on(child: subprocess.Popen[str]) -> None:
    assert child.stderr is not None
    for line in child.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()


def introduce(url: str, admin: str, server: subprocess.Popen[str] | None) -> None:
    """Print what a person needs to try it."""
    snippet = {"mcpServers": {"through-the-proxy": {"type": "http", "url": url}}}
    print(f"\nMCP endpoint: {url}\n\nFor a client's configuration:\n{json.dumps(snippet, indent=2)}\n")
    if server is not None:
        print(f"Or: .envs/python-2/bin/python examples/client.py {url}")
        print(f"To see a session survive: kill -9 {server.pid} (the example server comes back by itself)")
    print(f"To look inside: {Path(sys.executable).parent / 'mcp-session-proxy'} status --admin {admin}")
    print("Ctrl-C ends it. Session events:", flush=True)


def run(upstream: str | None, listen: str | None, server_python: Path) -> int:
    """Run until a signal or the end of the proxy; return the exit code."""
    server = proxy = None
    try:
        port = 0
        if upstream is None:
            port = free_port(SERVER_PORT)
            server = start_server(server_python, port)
            upstream = f"http://127.0.0.1:{port}/mcp"
        admin = f"127.0.0.1:{free_port(ADMIN_PORT)}"
        proxy, url = start_proxy(upstream, listen, admin)
        introduce(url, admin, server)
        while proxy.poll() is None:
            if server is not None and server.poll() is not None:
                server = start_server(server_python, port)
                print(f"example server started again, process {server.pid}", flush=True)
            time.sleep(0.2)
        print(f"the proxy ended by itself, exit code {proxy.returncode}", file=sys.stderr)
    except Stopped:
        print("\nending the proxy, then the server", file=sys.stderr)
        return 0
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    else:
        return 1
    finally:
        for number in SIGNALS:
            signal.signal(number, functools.partial(_hurry, proxy))
        stop(proxy)
        stop(server)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Run the proxy, and the example server where none is given.")
    parser.add_argument("--upstream", metavar="URL", help="a server that runs already")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where clients connect (else: config.toml)")
    parser.add_argument("--server-python", type=Path, metavar="FILE", help="interpreter with the Python SDK")
    options = parser.parse_args()
    for number in SIGNALS:
        signal.signal(number, _stop)
    if not options.upstream and not options.server_python:
        parser.error("without --upstream it takes --server-python to start the example server")
    return run(options.upstream or None, options.listen or None, options.server_python)


def _stop(*_: object) -> None:
    raise Stopped


def _hurry(proxy: subprocess.Popen[str] | None, *_: object) -> None:
    if proxy is not None:
        proxy.terminate()  # a second signal cuts its drain short; what is ending must not stop half way


if __name__ == "__main__":
    sys.exit(main())
