"""The admin API over a real socket: every operation, every refusal, and answers that fit their description."""

import asyncio
import json
import socket
from typing import Any, Self

import aiohttp
import pytest

from proxy.admin.operations import OPERATIONS, Operation
from proxy.admin.server import BODY_SECONDS, MAX_BODY_BYTES, AdminServer
from proxy.config import Admin
from proxy.control.base import ControlError
from proxy.control.views import Readiness
from proxy.errors import ConfigError
from support.fakes import FakeClock
from support.operators import DIFFERENCE, TOKEN, FakeControl, job_view, new_feed
from support.schemas import problems
from support.waiting import until

NAMES = {"/sessions": "sess01", "/upstreams": "a", "/jobs": "7"}
BODIES: dict[str, Any] = {
    "addUpstream": {"url": "http://127.0.0.1:3002/mcp", "labels": {"version": "2"}},
    "swapUpstream": {"new": "http://127.0.0.1:3002/mcp", "percent": 10},
    "swap": {"old": "a", "new": "http://127.0.0.1:3002/mcp"},
    "moveSession": {"upstream": "b"},
    "drainUpstream": {"timeout_seconds": 5},
}


class House:
    """An admin API and a client of it."""

    def __init__(self, token: str = "") -> None:
        self.control = FakeControl()
        self.control.course[0] = job_view("moving", total=3, remaining=2, differences=[DIFFERENCE])
        self.feed = new_feed()
        self.clock = FakeClock()
        self.token = token

    async def __aenter__(self) -> Self:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.server = AdminServer(self.control, self.feed, Admin(token=self.token), self.clock)
        await self.server.start(self.sock)
        self.client = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.close()
        self.sock.close()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return status and decoded body of one answer."""
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        async with self.client.request(method, path, json=body, headers=headers) as answer:
            text = await answer.read()
            if text:
                assert answer.headers["Content-Type"] == "application/json"
            self.headers = answer.headers
            return answer.status, json.loads(text) if text else None

    async def run(self, operation: Operation, **headers: str) -> tuple[int, Any]:
        """Ask for one operation with what it needs."""
        path = operation.path
        for start, name in NAMES.items():
            if path.startswith(start):
                path = path.replace("{id}", name).replace("{name}", name)
        return await self.ask(operation.method, path, BODIES.get(operation.name), **headers)

    async def raw(self, data: bytes) -> bytes:
        """Send bytes and return all that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_every_answer_fits_its_description(operation: Operation) -> None:
    """What an operation answers is what /openapi.json says it answers, status and body."""
    async with House() as house:
        _, document = await house.ask("GET", "/openapi.json")
        status, answer = await house.run(operation)
        described = document["paths"][operation.path][operation.method.lower()]["responses"][str(operation.status)]

        assert status == operation.status
        if operation.answer is None:
            assert (answer, "content" in described) == (None, False)
        else:
            schema = described["content"]["application/json"]["schema"]
            assert problems(schema, answer, document) == []


async def test_every_route_is_described() -> None:
    """The server offers no path and no method of which the description is silent."""
    async with House() as house:
        _, document = await house.ask("GET", "/openapi.json")
        resources = house.server._runner.app.router.routes()
        served = {(route.method.lower(), route.resource.canonical) for route in resources if route.resource}
        described = {(method, path) for path, methods in document["paths"].items() for method in methods}

        assert served == described


async def test_changes_reach_the_operator() -> None:
    """What is asked over HTTP is what is done."""
    async with House() as house:
        await house.ask("DELETE", "/sessions/sess02")
        await house.ask("POST", "/sessions/sess01/move", {"upstream": "b"})
        await house.ask("POST", "/upstreams/a/drain")
        await house.ask("DELETE", "/upstreams/a?force=true")
        await house.ask("DELETE", "/jobs/7")

        assert house.control.asked == [
            ("close_session", "sess02"),
            ("move_session", "sess01", "b"),
            ("drain_upstream", "a", None),
            ("remove_upstream", "a", True),
            ("cancel_job", "7"),
        ]


async def test_a_new_thing_is_told_with_its_place() -> None:
    """A job and an added upstream say where to look at them."""
    async with House() as house:
        await house.ask("POST", "/swaps", BODIES["swap"])
        job = house.headers["Location"]
        await house.ask("POST", "/upstreams", BODIES["addUpstream"])

        assert (job, house.headers["Location"]) == ("/jobs/7", "/upstreams/c")


async def test_an_upstream_is_found_by_its_url() -> None:
    """A name in a path may hold anything, escaped."""
    async with House() as house:
        status, answer = await house.ask("GET", "/upstreams/http%3A%2F%2F127.0.0.1%3A3001%2Fa")

        assert (status, answer["name"]) == (200, "a")


async def test_sessions_are_paged() -> None:
    """A page says how to ask for the next, the last one that there is none."""
    async with House() as house:
        _, first = await house.ask("GET", "/sessions?limit=2")
        _, second = await house.ask("GET", f"/sessions?limit=2&after={first['next']}")

        assert ([len(page["sessions"]) for page in (first, second)], first["total"]) == ([2, 1], 3)
        assert second["next"] == ""


async def test_readiness_is_told_by_the_status() -> None:
    """Who should not be given traffic says 503 and why."""
    async with House() as house:
        house.control.ready = Readiness(is_ready=False, reasons=["route main: no upstream is available"])

        assert await house.ask("GET", "/readyz") == (
            503,
            {"is_ready": False, "reasons": ["route main: no upstream is available"]},
        )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "not_found"),
        ("PUT", "/jobs", None, 405, "method_not_allowed"),
        ("GET", "/sessions/other", None, 404, "not_found"),
        ("GET", "/sessions/sess", None, 409, "ambiguous"),
        ("GET", "/jobs/8", None, 404, "not_found"),
        ("GET", "/sessions?limit=0", None, 400, "invalid"),
        ("GET", "/sessions?limit=1001", None, 400, "invalid"),
        ("GET", "/sessions?limit=x", None, 400, "invalid"),
        ("GET", "/sessions?limt=1", None, 400, "invalid"),
        ("GET", "/sessions?limit=1&limit=2", None, 400, "invalid"),
        ("GET", "/status?x=1", None, 400, "invalid"),
        ("GET", "/status", {"a": 1}, 400, "invalid"),
        ("POST", "/swaps", {"old": "a"}, 400, "invalid"),
        ("POST", "/swaps", None, 400, "invalid"),
        ("POST", "/swaps", {"old": "a", "new": "b", "percent": 0}, 400, "invalid"),
        ("POST", "/swaps", {"old": "zzz", "new": "b"}, 404, "not_found"),
        ("POST", "/reload", {"x": 1}, 400, "invalid"),
        ("POST", "/reload", [], 400, "invalid"),
        ("POST", "/swaps", {"old": "a", "new": "b" * MAX_BODY_BYTES}, 413, "body_too_large"),
    ],
)
async def test_refusals_are_told_in_one_form(method: str, path: str, body: Any, status: int, code: str) -> None:
    """Every error is JSON with a code and a sentence, and nothing was done."""
    async with House() as house:
        _, document = await house.ask("GET", "/openapi.json")
        answered, answer = await house.ask(method, path, body)

        assert (answered, answer["error"]["code"]) == (status, code)
        assert problems({"$ref": "#/components/schemas/ErrorBody"}, answer, document) == []
        assert house.control.asked == []


async def test_a_method_that_is_not_there_names_those_that_are() -> None:
    """405 comes with Allow (RFC 9110, 15.5.6)."""
    async with House() as house:
        await house.ask("PUT", "/jobs/7")

        assert set(house.headers["Allow"].split(",")) == {"DELETE", "GET"}


@pytest.mark.parametrize(("code", "status"), [("conflict", 409), ("invalid", 400), ("ambiguous", 409)])
async def test_what_the_operator_refuses_is_told(code: str, status: int) -> None:
    """The operator's code and words reach who asked."""
    async with House() as house:
        house.control.error = ControlError(code, "upstream a is the last of its pool")

        assert await house.ask("POST", "/upstreams/a/drain") == (
            status,
            {"error": {"code": code, "message": "upstream a is the last of its pool"}},
        )


async def test_a_setting_that_cannot_be_is_told() -> None:
    """What judges settings may refuse those of an operator too."""
    async with House() as house:
        house.control.error = ConfigError("expected an http:// URL", key="url")
        _, answer = await house.ask("POST", "/upstreams", {"url": "x"})

        assert answer == {"error": {"code": "invalid", "message": "url: expected an http:// URL"}}


async def test_a_defect_is_answered_and_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception may quote anything: the client hears that there was one, the log where."""
    async with House() as house:
        house.control.error = KeyError("c2Vzc2lvbi1pZA")
        status, answer = await house.ask("POST", "/reload")

        assert (status, answer["error"]["code"]) == (500, "internal")
        assert "c2Vzc2lvbi1pZA" not in json.dumps(answer)
        assert [record.message for record in caplog.records] == ["an admin request failed"]


async def test_the_token_opens_all_and_its_lack_only_health() -> None:
    """With a token configured, nothing but the two probes is served without it."""
    async with House(TOKEN) as house:
        refused = {
            operation.path: (await house.run(operation, Authorization="Bearer wrong"))[0] for operation in OPERATIONS
        }
        challenge = house.headers.get("WWW-Authenticate")
        feed, _ = await house.ask("GET", "/events", Authorization="")
        description, _ = await house.ask("GET", "/openapi.json", Authorization="")
        served, _ = await house.ask("GET", "/status")

        assert {path for path, status in refused.items() if status != 401} == {"/livez", "/readyz"}
        assert (challenge, feed, description, served) == ("Bearer", 401, 401, 200)
        assert house.control.asked == []


async def test_no_page_reaches_an_operation() -> None:
    """A rebound name and a foreign origin are refused before anything is done."""
    async with House() as house:
        rebound, _ = await house.ask("POST", "/reload", Host="evil.example")
        foreign, _ = await house.ask("POST", "/reload", Origin="https://evil.example")
        events, _ = await house.ask("GET", "/events", Origin="https://evil.example")

        assert (rebound, foreign, events) == (403, 403, 403)
        assert house.control.asked == []


async def test_a_form_is_not_read() -> None:
    """What any page can make a browser send changes nothing."""
    async with House() as house, house.client.post("/swaps", data=b'{"old":"a","new":"b"}') as answer:
        assert answer.status == 415
        assert house.control.asked == []


@pytest.mark.parametrize(
    ("body", "said"), [(b"{", "Input data was truncated"), (b"\xff", "malformed"), (b'{"old": 1}', "Expected `str`")]
)
async def test_a_body_that_is_no_json_is_refused(body: bytes, said: str) -> None:
    """Whoever sends it hears what was wrong, and not what it sent."""
    async with House() as house:
        headers = {"Content-Type": "application/json"}
        async with house.client.post("/swaps", data=body, headers=headers) as answer:
            error = (await answer.json())["error"]

        assert (answer.status, error["code"]) == (400, "invalid")
        assert said in error["message"]


async def test_a_body_that_never_comes_is_given_up() -> None:
    """A client that announces a body and sends none is cut in time."""
    async with House() as house:
        head = b"POST /swaps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        waiting = asyncio.ensure_future(house.raw(head))
        await until(lambda: house.clock.pending() > 0, "the head's arrival")
        house.clock.advance(BODY_SECONDS)

        assert await asyncio.wait_for(waiting, 10) == b""


async def test_an_oversized_chunked_body_is_refused() -> None:
    """The bound holds for bodies of no announced length, and the connection ends with it."""
    async with House() as house:
        head = b"POST /swaps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (MAX_BODY_BYTES + 1, b" " * (MAX_BODY_BYTES + 1))
        answer = await house.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)

        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()


async def test_behind_a_chunked_body_the_connection_ends() -> None:
    """What follows one may be read in two ways: nothing does."""
    async with House() as house:
        head = b"POST /swaps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        body = b'{"old": "a", "new": "b"}'
        chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        answer = await asyncio.wait_for(house.raw(head + chunked), 10)

        assert answer.startswith(b"HTTP/1.1 202 ")
        assert b"connection: close" in answer.lower()


async def test_answers_name_the_product_and_are_not_kept() -> None:
    """No cache keeps what an operator saw, and the library below is nobody's business."""
    async with House() as house:
        await house.ask("GET", "/status")

        assert house.headers["Cache-Control"] == "no-store"
        assert house.headers["Server"].startswith("mcp-session-proxy/")


async def test_other_machines_are_not_let_in_without_a_token() -> None:
    """A socket that others can reach is not served without a token, whoever made it."""
    sock = socket.socket()
    sock.bind(("0.0.0.0", 0))
    try:
        server = AdminServer(FakeControl(), new_feed(), Admin(address="fd:9"), FakeClock())
        with pytest.raises(ConfigError, match="set a token"):
            await server.start(sock)
        with_token = AdminServer(FakeControl(), new_feed(), Admin(address="fd:9", token=TOKEN), FakeClock())
        await with_token.start(sock)
        await with_token.close()
    finally:
        sock.close()
