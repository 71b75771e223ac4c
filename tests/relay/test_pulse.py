"""A question to a member of which nothing is known but that it is silent."""

import pytest

from proxy.core.head import Head
from proxy.core.headers import Headers
from proxy.relay.pulse import Pulses, Silence
from proxy.upstream.base import Loss
from proxy.upstream.member import Member
from support.fakes import Attempt, FakeClock, FakeEdge, edge_of, make_context

OWN: Headers = [("Authorization", "Bearer x")]


class World:
    """One member, and what was answered about it."""

    def __init__(self) -> None:
        self.ctx = make_context(upstreams=("a", "b"), probe="none")
        self.clock: FakeClock = self.ctx.clock  # type: ignore[assignment]
        self.member = self.ctx.pool.members[0]
        self.edge: FakeEdge = edge_of(self.ctx, "a")
        self.pulses = Pulses(self.clock, 10.0)
        self.answers: list[bool] = []

    def ask(self) -> Attempt:
        """Ask, and return the ping that is under way."""
        self.pulses.ask(self.member, OWN, self.answers.append)
        return self.edge.one(rpc="ping")


@pytest.mark.parametrize("status", [200, 202, 400, 401, 404, 405, 429])
def test_any_answer_is_a_sign_of_life(status: int) -> None:
    """Also one that refuses the ping; it carries the credentials, and no connection of others is used."""
    world = World()
    ping = world.ask()
    ping.head(status)

    assert world.answers == [True]
    assert (ping.request.fresh, ping.header("Authorization")) == (True, "Bearer x")
    assert world.edge.open == []
    assert world.member.health.failures == 0


@pytest.mark.parametrize("how", ["gateway", "broken", "silent"])
def test_two_failures_in_a_row_are_none(how: str) -> None:
    """One may meet a busy moment; both count against the member."""
    world = World()
    ping = world.ask()
    for number in range(2):
        assert world.answers == []

        ping = world.edge.one(rpc="ping")
        if how == "gateway":
            ping.head(503)
        elif how == "broken":
            ping.lost(Loss.BROKEN)
        else:
            world.clock.advance(10.0)
        assert world.member.health.failures == number + 1

    assert world.answers == [False]
    assert world.edge.open == []


def test_a_refusal_tells_at_once() -> None:
    """Nobody listens."""
    world = World()
    world.ask().refuse()

    assert world.answers == [False]
    assert world.clock.pending() == 0


def test_a_second_ping_may_be_answered() -> None:
    """It lives."""
    world = World()
    world.ask()
    world.clock.advance(10.0)
    world.edge.one(rpc="ping").head(200)

    assert world.answers == [True]


def test_whoever_asks_meanwhile_shares_the_question() -> None:
    """Each gets the answer once."""
    world = World()
    world.ask()
    ping = world.ask()
    ping.head(200)

    assert world.answers == [True, True]
    assert len(world.edge.attempts) == 1


def test_one_that_was_felt_just_now_is_not_asked() -> None:
    """A thousand quiet subscriptions ask once in the time of a ping; then it is a question again."""
    world = World()
    world.ask().head(200)
    for _ in range(100):
        world.pulses.ask(world.member, OWN, world.answers.append)

    assert world.answers == [True] * 101
    assert len(world.edge.attempts) == 1

    world.clock.advance(10.0)
    world.ask().refuse()

    assert world.answers[-1] is False

    world.ask()

    assert len(world.edge.attempts) == 3, "one that was found dead is asked at once"


# -- the silence of one exchange


class Listening:
    """An exchange at the first of two members, and who was given up."""

    def __init__(self) -> None:
        self.ctx = make_context(upstreams=("a", "b"), probe="none", silence_seconds=30.0, ping_timeout_seconds=10.0)
        self.clock: FakeClock = self.ctx.clock  # type: ignore[assignment]
        self.a, self.b = self.ctx.pool.members
        self.given_up: list[Member] = []
        self.silence = Silence(self.ctx, Head("POST", "/mcp", OWN), self.given_up.append)
        self.silence.begin(self.a)

    def pings(self, name: str) -> int:
        """Count the pings that a member was sent."""
        return sum(attempt.rpc == "ping" for attempt in edge_of(self.ctx, name).attempts)


def test_a_silent_member_is_given_up_once() -> None:
    """After two pings in vain; the silence itself counts against it besides them, so that it is out by default."""
    listening = Listening()
    listening.clock.advance(29.9)

    assert listening.pings("a") == 0

    listening.clock.advance(25.0)

    assert listening.given_up == [listening.a]
    assert (listening.pings("a"), listening.a.is_available) == (2, False)

    listening.clock.advance(100.0)

    assert listening.given_up == [listening.a]
    assert edge_of(listening.ctx, "a").attempts[0].header("Authorization") == "Bearer x"


def test_what_was_heard_starts_the_silence_anew() -> None:
    """And an answered ping does."""
    listening = Listening()
    listening.silence.heard()
    listening.clock.advance(55.0)

    assert listening.pings("a") == 0

    listening.clock.advance(10.0)
    edge_of(listening.ctx, "a").one(rpc="ping").head(200)
    listening.clock.advance(25.0)

    assert (listening.pings("a"), listening.given_up) == (1, [])


def test_an_answer_about_the_wait_before_says_nothing() -> None:
    """The exchange has gone to another member, or has ended, while the ping was under way."""
    for ends in (True, False):
        listening = Listening()
        listening.clock.advance(32.0)
        if ends:
            listening.silence.end()
        else:
            listening.silence.begin(listening.b)
        edge_of(listening.ctx, "a").one(rpc="ping").refuse()
        listening.clock.advance(1.0)

        assert listening.given_up == []
        assert len(listening.ctx.silences) == (not ends)
