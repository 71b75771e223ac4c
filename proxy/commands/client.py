"""Own the way to the admin API of a running proxy: one request and its answer, or the stream of events.

Knows HTTP and the forms of errors, no operation. Of the standard library alone, so that a command answers at once.
Invariant: a request is sent once; what may have been done is never asked for again.
"""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from proxy.commands.outcome import NOT_FOUND, REFUSED, UNREACHABLE, USAGE, CommandError
from proxy.config import parse_address
from proxy.core.headers import is_loopback

DEFAULT_ADDRESS = "127.0.0.1:9901"
TIMEOUT_SECONDS = 10.0
"""For a connection and for an answer: operations begin at once, what takes time is a job."""
SILENCE_SECONDS = 45.0
"""For the next event or heartbeat: three of the latter."""
MAX_ANSWER_BYTES = 64 * 2**20
_MAX_LINE_BYTES = 2**20

_CODES = {400: USAGE, 401: USAGE, 403: USAGE, 404: NOT_FOUND}


class Address(NamedTuple):
    """Where an admin API listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """As a person writes it."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_admin(text: str) -> Address:
    """Read `http://host:port` or `host:port`.

    Raises:
        CommandError: it is neither; says what was expected.
    """
    bare = re.sub(r"\Ahttp://", "", text.strip(), flags=re.IGNORECASE).removesuffix("/")
    try:
        # fd:N is where a listener finds its socket: no other process does.
        host, port = ("", 0) if bare.startswith("fd:") else parse_address(bare)
    except ValueError:
        host, port = "", 0
    if not port:
        raise CommandError(f"--admin: expected http://host:port or host:port, got {json.dumps(text)}", USAGE)
    # What a listener calls "every address" is none to connect to.
    return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104 - compared, not bound


class Event(NamedTuple):
    """One event of the feed."""

    id: str
    body: dict[str, Any]


class AdminClient:
    """Asks one admin API; a connection per request."""

    def __init__(self, address: Address, token: str = "") -> None:
        self.address = address
        self._headers = {"Accept": "application/json", "User-Agent": "mcp-session-proxy"}
        if token:
            if not (token.isascii() and token.isprintable()):
                raise CommandError("--token: expected printable ASCII characters", USAGE)
            self._headers["Authorization"] = f"Bearer {token}"

    @property
    def is_remote(self) -> bool:
        """Whether it is another machine's, as far as the address tells."""
        return not is_loopback(self.address.host)

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Send one request and return its decoded answer; None where it has no body.

        Args:
            method: of HTTP.
            path: of the operation, its parts escaped by `part`.
            body: sent as JSON.
            query: parameters; those that are None or "" are left out.

        Raises:
            CommandError: the proxy cannot be reached, or says no; the exit code says which.
        """
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=TIMEOUT_SECONDS)
        try:
            self._connect(connection)
            connection.request(method, path + _query(query), body=data, headers=headers)
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            done = "" if method == "GET" else "; whether it was done is not known"
            raise self._unreachable(f"did not answer within {TIMEOUT_SECONDS:g} s{done}") from None
        except (OSError, http.client.HTTPException) as error:
            done = "" if method == "GET" else "; whether it was done is not known"
            raise self._unreachable(f"ended the connection without an answer{done}") from error
        finally:
            connection.close()
        return self._judged(answer.status, text)

    def events(self, since: str, *, follow: bool) -> Iterator[Event]:
        """Yield the events of one connection, gaps among them; an event without a body tells the present place only.

        Raises:
            CommandError: the proxy cannot be reached, says no, or ended the stream before its end.
        """
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=TIMEOUT_SECONDS)
        answer = None
        try:
            self._connect(connection)
            query = _query({"since": since, "follow": "" if follow else "false"})
            connection.request("GET", "/events" + query, headers={**self._headers, "Accept": "text/event-stream"})
            sock = connection.sock
            answer = connection.getresponse()
            if answer.status != 200:
                self._judged(answer.status, answer.read(MAX_ANSWER_BYTES))
                raise self._unreachable("is not an admin API")
            # Taken before the answer: behind one that ends the connection http.client forgets the socket it reads.
            if sock is not None:
                sock.settimeout(SILENCE_SECONDS)
            yield from _parsed(answer)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable("ended the stream of events") from error
        finally:
            if answer is not None:
                answer.close()
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        """Connect first: what fails here was certainly not done."""
        try:
            connection.connect()
        except TimeoutError:
            raise self._unreachable(f"did not accept a connection within {TIMEOUT_SECONDS:g} s") from None
        except OSError as error:
            reason = error.strerror or "no such host" if isinstance(error, socket.gaierror) else error.strerror
            raise self._unreachable(f"cannot be reached: {reason or error}") from None

    def _judged(self, status: int, text: bytes) -> Any:
        try:
            body = json.loads(text) if text else None
        except ValueError:
            raise self._unreachable("is not an admin API") from None
        if 200 <= status < 300:
            return body
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            raise self._unreachable(f"is not an admin API (it answers {status})")
        message = error["message"]
        if status == 401:
            message += " (--token, or MCP_SESSION_PROXY__ADMIN__TOKEN)"
        raise CommandError(message, _CODES.get(status, REFUSED))

    def _unreachable(self, problem: str) -> CommandError:
        return CommandError(f"the admin API at {self.address.url} {problem}", UNREACHABLE)


def part(text: str) -> str:
    """Escape one part of a path."""
    return quote(text, safe="")


def _query(query: Mapping[str, Any] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else ""


def _parsed(answer: http.client.HTTPResponse) -> Iterator[Event]:
    """Read events as far as the proxy writes them: one line of data each, LF line ends."""
    cursor, data = "", ""
    while line := answer.readline(_MAX_LINE_BYTES):
        name, _, value = line.decode(errors="replace").rstrip("\n").partition(": ")
        if name == "id":
            cursor = value
        elif name == "data":
            data = value
        elif not name and cursor:
            yield Event(cursor, json.loads(data) if data else {})
            cursor, data = "", ""
