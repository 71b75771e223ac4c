"""The system's clock: instants that never go back, timers that can be cancelled, entropy that differs."""

import asyncio

import pytest

from proxy.clock import SystemClock, run_all


@pytest.fixture
async def clock() -> SystemClock:
    """Return the running loop's clock."""
    return SystemClock(asyncio.get_running_loop())


async def test_now_is_the_loops_monotonic_time(clock: SystemClock) -> None:
    """Timers and instants are of one clock, in seconds, and it never goes back."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    instants = [clock.now() for _ in range(100)]

    assert before <= instants[0]
    assert instants == sorted(instants)
    assert instants[-1] <= loop.time()


async def test_a_timer_calls_once_and_not_early(clock: SystemClock) -> None:
    """The call comes from the loop, after the delay, never from inside `call_later`."""
    called: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    started = clock.now()
    clock.call_later(0.01, lambda: called.set_result(clock.now()))

    assert not called.done()

    async with asyncio.timeout(5.0):
        at = await called

    # A loop may run a timer early by the resolution of its clock.
    assert at - started > 0.009


async def test_a_cancelled_timer_never_calls(clock: SystemClock) -> None:
    """Neither before nor after its time, and a second cancel is harmless."""
    calls: list[str] = []
    later: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(0.001, lambda: calls.append("cancelled"))
    clock.call_later(0.002, lambda: later.set_result(None))
    timer.cancel()
    timer.cancel()
    async with asyncio.timeout(5.0):
        await later

    assert calls == []


async def test_a_timer_that_ran_can_be_cancelled(clock: SystemClock) -> None:
    """Whoever cancels late need not know."""
    ran: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(0.0, lambda: ran.set_result(None))
    async with asyncio.timeout(5.0):
        await ran
    timer.cancel()

    assert ran.result() is None


@pytest.mark.parametrize("size", [0, 4, 16, 24, 32])
async def test_entropy_has_its_size(clock: SystemClock, size: int) -> None:
    """As many bytes as were asked for."""
    assert len(clock.entropy(size)) == size


async def test_entropy_does_not_repeat(clock: SystemClock) -> None:
    """Two draws of 16 bytes are alike with a chance of 1 in 2^128."""
    assert clock.entropy(16) != clock.entropy(16)


async def test_jitter_is_a_share(clock: SystemClock) -> None:
    """From 0, below 1, and not always the same."""
    drawn = [clock.jitter() for _ in range(100)]

    assert all(0.0 <= share < 1.0 for share in drawn)
    assert len(set(drawn)) > 1


def test_all_are_called_in_their_order() -> None:
    """What each returns does not matter, and none at all is fine."""
    called: list[int] = []

    run_all([lambda: called.append(1), lambda: called.append(2)])
    run_all([])

    assert called == [1, 2]


def test_one_that_fails_stops_none_of_the_others() -> None:
    """The first error is raised when all had their turn."""
    called: list[int] = []

    def fail(number: int) -> None:
        called.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"^2$"):
        run_all([lambda: called.append(1), lambda: fail(2), lambda: fail(3), lambda: called.append(4)])

    assert called == [1, 2, 3, 4]
