"""Waiting for a fact that has no event of its own: a file, a process, another server's state."""

import asyncio
from collections.abc import Awaitable, Callable

DEADLINE_SECONDS = 10.0
PAUSE_SECONDS = 0.02


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str, timeout_seconds: float = DEADLINE_SECONDS
) -> None:
    """Return once the condition holds.

    Raises:
        TimeoutError: it did not in time; the message says what was awaited.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                holds = condition()
                if holds if isinstance(holds, bool) else await holds:
                    return
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"not within {timeout_seconds:g} s: {what}") from None
