"""Official clients driven by a test, each in a process of its own.

Owns the line protocol between a test and a driver (tests/clients/): JSON objects, one per line. Knows
nothing of any SDK. Ops run concurrently; each ends in exactly one `result` or `error` line that carries its
id.

Ops, as `{"op": ..., "id": ...}`; the id defaults to the name of the op:
  open {url, mode: legacy|modern|auto, headers}, call {tool, args, timeout}, cancel {call}, subscribe {uri},
  unsubscribe {uri}, set_level {level}, list_tools, list_resources, read {uri}, ping, hold {on}, answer,
  close. `hold` keeps answers to the server's requests back until `answer`; `close` ends the session as the
  SDK does; the end of stdin ends the process without that.
Lines from the driver, as `{"event": ...}`:
  ready {sdk}, result {id, value}, error {id, code, message, data}, progress {id, progress, total, message},
  notification {method, params}, request {method, params}, fault {message}, dead {reason},
  subscription_ended {uri, reason}, and for the head of every HTTP answer
  http {method, rpc, status, sent_session, got_session, last_event_id, content_type}.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from support import envs
from support.processes import clean_environment

PYTHON_DRIVER = envs.ROOT / "tests" / "clients" / "python_client.py"
LINE_LIMIT_BYTES = 64 * 2**20
ANSWER_TIMEOUT_SECONDS = 20.0

Event = dict[str, Any]


class OpError(Exception):
    """An op that ended in an error line; `code` is None where the client failed without a JSON-RPC error."""

    def __init__(self, code: int | None, message: str, data: Any) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data


class Client:
    """One driver process; `async with` starts and ends it."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.events: list[Event] = []
        self._command = [str(part) for part in command]
        self._ids = itertools.count(1)
        self._changed = asyncio.Condition()
        self._at_end = False

    @classmethod
    def python(cls, line: str) -> Self:
        """Make a client of one Python SDK line, from its environment."""
        return cls(f"client {line}", [str(envs.ensure(line)), str(PYTHON_DRIVER)])

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
            limit=LINE_LIMIT_BYTES,
        )
        self._complaints: list[str] = []
        self._readers = [asyncio.create_task(self._read()), asyncio.create_task(self._read_complaints())]
        await self.wait(lambda event: event["event"] == "ready")
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._readers)
        assert self._process.stdin is not None
        self._process.stdin.close()

    # --- talking

    async def send(self, op: str, **members: Any) -> str:
        """Start an op and return its id."""
        op_id = str(members.pop("id", None) or f"{op}-{next(self._ids)}")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, "id": op_id, **members}).encode() + b"\n")
        await self._process.stdin.drain()
        return op_id

    async def result(self, op_id: str, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> Any:
        """Wait for the end of an op and return its value.

        Raises:
            OpError: it ended in an error.
            TimeoutError: it did not end in time.
        """
        ends = ("result", "error")
        event = await self.wait(lambda e: e["event"] in ends and e.get("id") == op_id, timeout_seconds)
        if event["event"] == "error":
            raise OpError(event["code"], event["message"], event["data"])
        return event["value"]

    async def do(self, op: str, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS, **members: Any) -> Any:
        """Run one op to its end (`send`, then `result`)."""
        return await self.result(await self.send(op, **members), timeout_seconds)

    async def call(self, tool: str, **args: Any) -> str:
        """Call a tool and return the text it answered."""
        return text_of(await self.do("call", tool=tool, args=args))

    # --- watching

    def mark(self) -> int:
        """Return a position in the events, for `wait(after=...)`."""
        return len(self.events)

    async def wait(
        self, wanted: Callable[[Event], bool], timeout_seconds: float = ANSWER_TIMEOUT_SECONDS, after: int = 0
    ) -> Event:
        """Return the first event from position `after` on that is wanted.

        Raises:
            TimeoutError: none came in time, or the driver ended; the message shows the last events.
        """
        position = after
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                while True:
                    found = next(filter(wanted, self.events[position:]), None)
                    if found is not None:
                        return found
                    position = len(self.events)
                    if self._at_end:
                        raise TimeoutError
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(self._describe()) from None

    async def updated(self, uri: str, after: int = 0, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> Event:
        """Wait for a `resources/updated` of one resource."""

        def is_update(event: Event) -> bool:
            return event.get("method") == "notifications/resources/updated" and event["params"]["uri"] == uri

        return await self.wait(is_update, timeout_seconds, after)

    def progress(self, op_id: str) -> list[float]:
        """List the progress values that one call has reported."""
        return [event["progress"] for event in self.events if event["event"] == "progress" and event["id"] == op_id]

    def http(self, rpc: str | None = None, method: str = "POST") -> list[Event]:
        """List the HTTP exchanges of one JSON-RPC method, or of one HTTP method that carries none."""
        seen = [event for event in self.events if event["event"] == "http"]
        return [event for event in seen if event["method"] == method and event["rpc"] == rpc]

    def session_ids(self) -> set[str]:
        """List every session id that an answer gave this client."""
        return {event["got_session"] for event in self.events if event["event"] == "http" and event["got_session"]}

    def _describe(self) -> str:
        last = "\n".join(json.dumps(event)[:300] for event in self.events[-25:])
        complaints = "\n".join(self._complaints[-25:])
        code = self._process.returncode
        return f"{self.name}, exit code {code}: the awaited event did not come\n{last}\n{complaints}"

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()
        async with self._changed:
            self._at_end = True
            self._changed.notify_all()

    async def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._complaints.append(line.decode(errors="replace").rstrip())


def text_of(result: Any) -> str:
    """Return the text of a tool's result."""
    return str(result["content"][0]["text"])
