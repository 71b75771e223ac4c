"""Beginnings and ends: of the process, of sessions, of streams and of the connections that carry them.

What ends on purpose ends at a frame boundary with a proper last chunk; what is held without a reader, a client
or a session is let go within its bound; what was cut for its slowness is complete afterwards.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes import Process
from support.proxy_process import ProxyProcess
from support.raw import Frame, RawConnection, RawSession, Stream
from support.scripted import Scripted, notification, script
from support.waiting import until

pytestmark = pytest.mark.e2e

SSE, END, HANG = ["sse"], ["end"], ["hang"]
DRAIN_SECONDS = 1.5


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Start one scripted server."""
    with Scripted() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(upstream: Scripted) -> Iterator[ProxyProcess]:
    """Start one proxy in front of it."""
    with ProxyProcess(upstream.url) as process:
        yield process


def text(response: Any) -> str:
    """Return the mark a scripted result echoes."""
    return str(response["result"]["content"][0]["text"])


async def running(session: RawSession, connection: RawConnection, mark: str, *rest: Any) -> dict[str, Any]:
    """Begin a call that streams, and read its first progress; return its body."""
    body = session.call_body(script(mark, SSE, ["progress", 1], *rest))
    await session.send(connection, "POST", body)
    await connection.read_head()
    await connection.message()
    return body


async def deletes(upstream: Scripted) -> int:
    """Count the upstream's DELETEs."""
    return len(await upstream.requests("DELETE"))


def descriptors(process: Process) -> int:
    """Count the open files of a process."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def resident_kib(process: Process) -> int:
    """Read the memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


# --- the process


async def test_a_stop_drains_within_its_bound() -> None:
    """Streams end cleanly at once, a call that finishes is answered, one that does not is told, then exit 0."""
    settings = {"SERVER__DRAIN_SECONDS": str(DRAIN_SECONDS)}
    with Scripted() as upstream, ProxyProcess(upstream.url, settings) as proxy:
        session = await RawSession.open(proxy.url)
        async with (
            RawConnection(proxy.url) as reader,
            RawConnection(proxy.url) as finishing,
            RawConnection(proxy.url) as endless,
        ):
            await session.listen(reader)
            await reader.frame()
            await running(session, finishing, "finishing", ["wait", "drain"], ["result"], END)
            hanging = await running(session, endless, "endless", HANG)
            began = time.monotonic()
            proxy.process.signal(signal.SIGTERM)
            standalone = await reader.stream()
            closed_after = time.monotonic() - began
            with pytest.raises(ConnectionRefusedError):
                async with RawConnection(proxy.url):
                    pass
            await upstream.control("open", gate="drain")
            finished = await finishing.stream()
            told = await endless.stream()
            code = await asyncio.to_thread(proxy.process.wait_exit, DRAIN_SECONDS + 3)
            took = time.monotonic() - began

        assert [standalone.is_clean, finished.is_clean, told.is_clean] == [True] * 3
        assert closed_after < DRAIN_SECONDS / 2
        assert text(finished.messages[-1].json) == "finishing"
        assert told.messages[-1].json["id"] == hanging["id"]
        assert told.messages[-1].json["error"]["data"]["reason"] == "shutdown"
        assert code == 0
        assert DRAIN_SECONDS <= took < DRAIN_SECONDS + 2
        assert await deletes(upstream) == 1


async def test_a_stop_with_nothing_running_is_immediate(upstream: Scripted) -> None:
    """Open standalone streams and idle connections do not use up the drain's time."""
    with ProxyProcess(upstream.url) as proxy:
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as reader:
            await session.listen(reader)
            await reader.frame()
            proxy.process.signal(signal.SIGTERM)

            assert (await reader.stream()).is_clean
            assert await asyncio.to_thread(proxy.process.wait_exit, 3.0) == 0


def test_a_port_in_use_is_one_clear_line(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Exit code 2, the key and the address, no traceback."""
    address = proxy.url.split("/")[2]
    command = [sys.executable, "-m", "proxy", "--upstream", upstream.url, "--listen", address]
    with Process("second proxy", command) as second:
        code = second.wait_exit(10.0)

    assert code == 2
    assert len(second.lines) == 1
    assert "listen.address" in second.lines[0]
    assert address in second.lines[0]


# --- sessions


async def test_delete_ends_everything_of_a_session_once(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Its streams end cleanly, its call is told, the upstream hears one DELETE; afterwards the id is unknown."""
    session = await RawSession.open(proxy.url)
    before = await deletes(upstream)
    async with RawConnection(proxy.url) as reader, RawConnection(proxy.url) as caller:
        await session.listen(reader)
        await reader.frame()
        body = await running(session, caller, "deleted", HANG)
        first = await session.delete()
        standalone, told = await reader.stream(), await caller.stream()
    second = await session.delete()
    later = await session.post(session.call_body(script("too late")))

    async def is_told() -> bool:
        return await deletes(upstream) > before

    await until(is_told, "the upstream heard of it")

    assert (first.status, second.status, later.status) == (200, 404, 404)
    assert standalone.is_clean
    assert told.is_clean
    assert told.messages[-1].json["id"] == body["id"]
    assert told.messages[-1].json["error"]["data"]["reason"] == "session_closed"
    assert await deletes(upstream) == before + 1
    assert upstream.executed("too late") == []


async def test_idleness_ends_the_upstreams_side_first_and_the_session_late() -> None:
    """Parked with a DELETE, woken by the next request, expired in the end; an open stream is activity."""
    settings = {"SESSION__UPSTREAM_IDLE_SECONDS": "0.4", "SESSION__IDLE_SECONDS": "1.5"}
    with Scripted() as upstream, ProxyProcess(upstream.url, settings) as proxy:
        idle, read = await RawSession.open(proxy.url), await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as reader:
            await read.listen(reader)
            await reader.frame()

            async def is_parked() -> bool:
                return await deletes(upstream) == 1

            await until(is_parked, "the idle session is parked")
            assert text(await idle.call(script("woken"))) == "woken"
            assert len(await upstream.requests(rpc="initialize")) == 3

            async def is_expired() -> bool:
                # Asking the proxy would count as activity.
                lines = list(proxy.process.lines)
                return any('"session_closed"' in line and '"expired"' in line for line in lines)

            await until(is_expired, "the idle session has expired")
            assert (await idle.post(idle.call_body(script("dead")))).status == 404
            assert text(await read.call(script("alive"))) == "alive"


async def test_a_lifetime_ends_a_session_however_active() -> None:
    """The stream ends cleanly, the running call is told, the id is unknown."""
    with Scripted() as upstream, ProxyProcess(upstream.url, {"SESSION__LIFETIME_SECONDS": "0.6"}) as proxy:
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as reader, RawConnection(proxy.url) as caller:
            await session.listen(reader)
            await reader.frame()
            await running(session, caller, "old", HANG)
            standalone, told = await reader.stream(), await caller.stream()

        assert standalone.is_clean
        assert told.messages[-1].json["error"]["data"]["reason"] == "session_closed"
        assert (await session.post(session.call_body(script("dead")))).status == 404


async def test_three_hundred_sessions_leave_nothing_behind(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Opened, read, cut in a call and deleted: files are back at their baseline, memory near it."""

    async def one() -> None:
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url) as reader, RawConnection(proxy.url) as caller:
            await session.listen(reader)
            await reader.frame()
            await running(session, caller, "leak", HANG)
            caller.cut()
            assert (await session.delete()).status == 200
            assert (await reader.stream()).is_clean

    async def round_of(sessions: int) -> None:
        for _ in range(sessions // 50):
            await asyncio.gather(*[one() for _ in range(50)])
        # The upstream connections that are kept for the next call go after their time.
        await until(lambda: descriptors(proxy.process) <= files, "the files are closed")

    files = descriptors(proxy.process)
    await round_of(300)
    warm = resident_kib(proxy.process)
    await round_of(300)

    assert resident_kib(proxy.process) - warm < 4096
    assert (await upstream.control("state"))["streams"] == 0


# --- streams and their readers


async def test_the_second_reader_has_the_stream(proxy: ProxyProcess, upstream: Scripted) -> None:
    """The first is ended cleanly at once, and what comes then goes to the second only."""
    session = await RawSession.open(proxy.url)
    async with RawConnection(proxy.url) as first, RawConnection(proxy.url) as second:
        for reader in (first, second):
            assert (await session.listen(reader)).status == 200
            await reader.frame()
        ended = await first.stream()
        await upstream.control("emit", raw=notification("for the second"))

        assert ended.is_clean
        assert ended.messages == []
        assert (await second.message()).json["params"]["data"] == "for the second"


async def test_two_resumes_at_once_have_one_winner(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Both get contiguous events from their cursor, only the later one the live rest; nothing interleaves."""
    session = await RawSession.open(proxy.url)
    async with RawConnection(proxy.url) as caller:
        body = session.call_body(script("two", SSE, ["progress", 1], ["wait", "two"], ["progress", 2], ["result"], END))
        await session.send(caller, "POST", body)
        await caller.read_head()
        primed = await caller.frame()
        await caller.message()
        caller.cut()
    assert primed is not None
    async with RawConnection(proxy.url) as one, RawConnection(proxy.url) as other:
        heads = await asyncio.gather(session.listen(one, primed.id), session.listen(other, primed.id))
        await asyncio.gather(one.message(), other.message())
        await upstream.control("open", gate="two")
        streams = await asyncio.gather(one.stream(), other.stream())
    rests = sorted(len(stream.messages) for stream in streams)

    assert [head.status for head in heads] == [200, 200]
    assert [stream.is_clean for stream in streams] == [True, True]
    assert rests == [0, 2]


async def test_the_same_request_again_takes_the_running_call_over(proxy: ProxyProcess, upstream: Scripted) -> None:
    """An identical POST gets the running stream from its start; the first ends cleanly; it ran once."""
    session = await RawSession.open(proxy.url)
    async with RawConnection(proxy.url) as first, RawConnection(proxy.url) as second:
        body = await running(session, first, "again", ["wait", "again"], ["result"], END)
        await session.send(second, "POST", body)
        await second.read_head()
        replayed = await second.message()
        await upstream.control("open", gate="again")
        ended, rest = await first.stream(), await second.stream()

    assert ended.is_clean
    assert replayed.json["params"]["progress"] == 1
    assert [text(frame.json) for frame in rest.messages] == ["again"]
    assert len(upstream.executed("again")) == 1


@pytest.mark.parametrize(
    ("bound", "settings", "count", "size"),
    [
        ("bytes", {"STREAM__SLOW_READER_EVENTS": "900"}, 110, 100_000),
        ("events", {"STREAM__SLOW_READER_EVENTS": "20", "STREAM__SLOW_READER_BYTES": "8000000"}, 500, 20_000),
    ],
)
async def test_a_reader_that_never_reads_is_cut_and_complete_later(
    bound: str, settings: dict[str, str], count: int, size: int
) -> None:
    """Cut at its bound without a last chunk, others served meanwhile; its resume brings all it missed, once."""
    window = {"REPLAY__BYTES_PER_STREAM": str(2**24), "REPLAY__BYTES_PER_SESSION": str(2**25)}
    with Scripted() as upstream, ProxyProcess(upstream.url, {**window, **settings}) as proxy:
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url, receive_buffer_bytes=4096) as reader:
            body = session.call_body(script("slow", SSE, *[["big", size]] * count, ["result"], END))
            await session.send(reader, "POST", body)
            await asyncio.to_thread(proxy.process.wait_line, '"reader_cut"', 10.0)
            assert text(await session.call(script("other"))) == "other"
            await reader.read_head()
            received = await reader.stream()
        frames: list[Frame] = list(received.frames)
        rest = Stream()
        while not rest.is_clean:
            async with RawConnection(proxy.url) as again:
                assert (await session.listen(again, frames[-1].id)).status == 200
                rest = await again.stream()
                frames += rest.frames
        messages = [frame for frame in frames if frame.data]

        assert not received.is_clean
        assert len(messages) == len({frame.id for frame in messages}) == count + 1
        assert text(messages[-1].json) == "slow"


async def test_a_peer_that_takes_nothing_is_let_go() -> None:
    """A reader whose window stays shut holds its connection for `peer_timeout_seconds` only; its call goes on."""
    settings = {"STREAM__PEER_TIMEOUT_SECONDS": "1.5", "STREAM__HEARTBEAT_SECONDS": "1"}
    with Scripted() as upstream, ProxyProcess(upstream.url, settings) as proxy:
        session = await RawSession.open(proxy.url)
        async with RawConnection(proxy.url, receive_buffer_bytes=4096) as reader:
            body = session.call_body(script("shut", SSE, *[["big", 8000]] * 480, ["wait", "shut"], ["result"], END))
            await session.send(reader, "POST", body)
            await reader.read_head()
            primed = await reader.frame()
            assert primed is not None
            held = descriptors(proxy.process)
            await until(lambda: descriptors(proxy.process) < held, "the connection is given up")
        await upstream.control("open", gate="shut")
        async with RawConnection(proxy.url) as again:
            assert (await session.listen(again, primed.id)).status == 200
            stream = await again.stream()

        assert text(stream.messages[-1].json) == "shut"
