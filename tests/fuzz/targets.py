"""What the coverage-guided fuzzer plays with one input; needs no fuzzer, so that a crash can be played anywhere.

Everything that is not in the bytes (segments, how a handler answers, how it ends) is drawn from them, so that an input
always does the same.
"""

import random
import zlib
from collections.abc import Callable
from contextlib import ExitStack

from fuzz.harness import FAULTS, HABITS, Downstream, Upstream, cut
from fuzz.laws import (
    assert_alike,
    assert_constant,
    assert_envelope_is_true,
    assert_frames_do_not_depend_on_segments,
    assert_lawful,
)
from support.http_fronts import KINDS

SEPARATOR = b"----"
"""Between the answers of one input."""

Target = Callable[[bytes], None]


def _seed(data: bytes) -> int:
    return zlib.crc32(data)


def downstream(stack: ExitStack) -> Target:
    """Requests on one connection: to every edge, and held against each other."""
    servers = [Downstream(kind) for kind in KINDS]
    for server in servers:
        stack.callback(server.close)

    def play(data: bytes) -> None:
        dice = random.Random(_seed(data))
        pieces = cut(data, _seed(data))
        habits = dice.choices((*HABITS, *FAULTS), k=2)
        ending, turns = dice.choice(("stay", "close", "reset")), dice.randrange(3)
        for server in servers:
            server.play(pieces, habits=habits, ending=ending, turns=turns)
        assert_alike([server.play(pieces, turns=turns) for server in servers])

    return play


def upstream(stack: ExitStack) -> Target:
    """Answers on one connection, the last of which is looked at."""
    edge = Upstream()
    stack.callback(edge.close)

    def play(data: bytes) -> None:
        answers = data.split(SEPARATOR)
        pieces = [cut(answer, _seed(data) + number) for number, answer in enumerate(answers)]
        edge.forget()
        told = edge.play(*pieces, reset=_seed(data) % 3 == 0)[-1]
        assert_lawful(told, answers[-1], reset=_seed(data) % 3 == 0)
        assert_constant(edge, answers[-1], pieces[-1], before=answers[0])

    return play


def stream(stack: ExitStack) -> Target:
    """An event stream in segments."""
    return lambda data: assert_frames_do_not_depend_on_segments(data, cut(data, _seed(data)))


def envelope(stack: ExitStack) -> Target:
    """The body of a message."""
    return lambda data: assert_envelope_is_true(data, random.Random(_seed(data)))


TARGETS: dict[str, Callable[[ExitStack], Target]] = {
    "downstream": downstream,
    "upstream": upstream,
    "sse": stream,
    "jsonrpc": envelope,
}
"""How to make each; what it holds open is closed by the stack."""
