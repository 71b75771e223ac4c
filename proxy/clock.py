"""The only source of time, timers and entropy.

Owns the event loop's clock and the operating system's random bytes. Everything else takes a `Clock`, or takes `now`
as an argument, so that a test drives hours in microseconds. Instants are monotonic seconds; they never jump with
the wall clock.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable
from typing import Protocol


class Timer(Protocol):
    """One pending call."""

    def cancel(self) -> None:
        """Forget the call; harmless when it ran already."""


class Clock(Protocol):
    """Time and entropy as the shell sees them."""

    def now(self) -> float:
        """Return the monotonic instant, in seconds."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* once, *delay* seconds from now."""

    def entropy(self, size: int) -> bytes:
        """Return *size* bytes fit for secrets."""

    def jitter(self) -> float:
        """Return a number in [0, 1) to spread clients with; not fit for secrets."""


def run_all(callbacks: Iterable[Callable[[], object]]) -> None:
    """Call each, whatever another one does.

    Raises:
        Exception: the first one raised, after all were called; the event loop logs it.
    """
    failure: Exception | None = None
    for callback in callbacks:
        try:
            callback()
        except Exception as error:  # kept until the others had their turn
            failure = failure or error
    if failure is not None:
        raise failure


class SystemClock:
    """The running event loop's time and the system's entropy."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time
        self.entropy = os.urandom
        self.jitter = random.random

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* once, *delay* seconds from now."""
        return self._loop.call_later(delay, callback)


def wall() -> float:
    """Return the wall clock's time in seconds since 1970: for people to read, never to measure with."""
    return time.time()
