"""Many clients at once, over real sockets: cut together, back together, with the server killed in between."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from support.proxy_process import ProxyProcess
from support.raw import RawConnection, RawSession
from support.scripted import Scripted, notification
from support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CLIENTS = 400
MISSED = 10
LAST = 1000
"""The number of the event after the restart."""
AT_ONCE = 100
"""Connections that are being opened at the same time: the storm is the proxy's, not the test machine's."""


@pytest.fixture
def upstream() -> Iterator[Scripted]:
    """A server of its own: the storm talks to every stream that is open."""
    with Scripted() as server:
        yield server


@pytest.fixture
def proxy(upstream: Scripted) -> Iterator[ProxyProcess]:
    """A proxy that leaves resumed streams open for as long as the test looks at them."""
    with ProxyProcess(upstream.url, {"STREAM__CLOSE_AFTER_ABORT_SECONDS": "60"}) as process:
        yield process


class Listener:
    """One client on its standalone stream, and what it was given."""

    def __init__(self, session: RawSession, connection: RawConnection) -> None:
        self.session = session
        self.connection = connection
        self.cursor: str | None = None
        self.given: list[int] = []

    async def read(self, upto: int) -> None:
        """Take frames until the numbered event has come."""
        while not self.given or self.given[-1] < upto:
            frame = await self.connection.frame()
            assert frame is not None, "the stream ended"
            self.cursor = frame.id or self.cursor
            if frame.data:
                number = frame.json.get("params", {}).get("data")
                if isinstance(number, int):
                    self.given.append(number)

    async def resynced(self) -> None:
        """Take frames until the resync of a rebuild is whole: two lists may have changed at this server."""
        lists = 0
        while lists < 2:
            frame = await self.connection.message()
            self.cursor = frame.id or self.cursor
            lists += frame.json["method"].endswith("list_changed")

    async def listen(self) -> None:
        """Open the stream, from the last id on if there is one."""
        head = await self.session.listen(self.connection, self.cursor)
        assert head.status == 200


async def emit(upstream: Scripted, numbers: range) -> None:
    """Send numbered events on every stream that the server has open."""
    for number in numbers:
        await upstream.control("emit", raw=notification(number))


async def all_at_once(work: list) -> None:
    """Run everything, a bounded number at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(coroutine) -> None:
        async with gate:
            await coroutine

    await asyncio.gather(*[one(coroutine) for coroutine in work])


@pytest.mark.timeout(110)
async def test_everybody_comes_back_to_everything(proxy: ProxyProcess, upstream: Scripted) -> None:
    """Four hundred clients are cut, miss ten events each, and come back at once: none lost, none doubled."""
    async with contextlib.AsyncExitStack() as open_connections:
        await storm(proxy, upstream, open_connections)


async def storm(proxy: ProxyProcess, upstream: Scripted, open_connections: contextlib.AsyncExitStack) -> None:
    """Play it."""

    async def connected() -> RawConnection:
        return await open_connections.enter_async_context(RawConnection(proxy.url))

    listeners = [Listener(await RawSession.open(proxy.url), await connected()) for _ in range(CLIENTS)]
    await all_at_once([each.listen() for each in listeners])
    await until(lambda: has_all_streams(upstream), "every session's stream is open at the server", 60)
    await emit(upstream, range(1, 2))
    await all_at_once([each.read(1) for each in listeners])

    for each in listeners:
        each.connection.cut()
    await emit(upstream, range(2, 2 + MISSED))
    for each in listeners:
        each.connection = await connected()
    await all_at_once([each.listen() for each in listeners])
    await all_at_once([each.read(1 + MISSED) for each in listeners])

    assert {tuple(each.given) for each in listeners} == {tuple(range(1, 2 + MISSED))}

    upstream.restart()
    # Told once the session's stream is open at the new server.
    await all_at_once([each.resynced() for each in listeners])
    await emit(upstream, range(LAST, LAST + 1))
    await all_at_once([each.read(LAST) for each in listeners])

    assert {tuple(each.given) for each in listeners} == {(*range(1, 2 + MISSED), LAST)}


async def has_all_streams(upstream: Scripted) -> bool:
    """Tell whether every client's session has asked the server for its stream."""
    return len(await upstream.requests("GET")) >= CLIENTS
