"""What an upstream's answer to a client's POST means, and what to do about it.

Owns the outcomes of one attempt and the table from outcome to action; knows nothing of sockets, bodies or clocks.
Law: a request is sent again only when it provably did not run (semantics 13): nothing was written, or the upstream
refused it as belonging to a session it does not know.
"""

from collections.abc import Mapping
from enum import Enum

GATEWAY_STATUSES = frozenset({502, 503, 504})
"""Not the server's own word: of what stands in front of it, or of one that is starting or going."""


class Outcome(Enum):
    """How one attempt ended."""

    ANSWERED = "answered"
    """2xx with a whole body."""
    STREAM_ENDED = "stream ended"
    """An event stream ended or broke before every request was answered."""
    REFUSED = "refused"
    """Nobody listens: provably did not run, and the upstream session is lost (semantics 11)."""
    NOT_SENT = "not sent"
    """No connection, for a reason that says nothing of the upstream's sessions: provably did not run."""
    BROKEN = "broken"
    """The connection broke after something may have been written, before a whole answer."""
    GONE = "gone"
    """404 to a request that carried the upstream's session id."""
    BAD = "bad"
    """400 to a request that carried the upstream's session id: perhaps a lost session, a ping tells."""
    UNAVAILABLE = "unavailable"
    """502, 503, 504 without a JSON-RPC body: somebody between us and the server speaks."""
    REDIRECTED = "redirected"
    """3xx: following it would carry a session to another address."""
    OTHER = "other"
    """Any other status: the upstream's own word."""


class Action(Enum):
    """What the relay does."""

    RELAY = "relay"
    RETRY = "retry"
    """The upstream session it was refused in is not the present one: send again in the present one."""
    REBUILD = "rebuild"
    """Report the loss, wait for the new upstream session, send again."""
    WAIT = "wait"
    """Send again in the same upstream session once the upstream can be reached."""
    PROBE = "probe"
    RESUME = "resume"
    UNKNOWN = "unknown"
    """Tell the client that the outcome is unknown."""
    UNUSABLE = "unusable"
    """Tell the client that the upstream's answer cannot be passed on."""


def classify_status(status: int, *, carried_id: bool, has_jsonrpc_body: bool) -> Outcome:
    """Return the outcome of an attempt answered whole with *status*."""
    if status < 300:
        return Outcome.ANSWERED
    if status < 400:
        return Outcome.REDIRECTED
    if carried_id and status == 404:
        return Outcome.GONE
    if carried_id and status == 400:
        return Outcome.BAD
    if status in GATEWAY_STATUSES and not has_jsonrpc_body:
        return Outcome.UNAVAILABLE
    return Outcome.OTHER


REQUEST: Mapping[Outcome, Action] = {
    Outcome.ANSWERED: Action.RELAY,
    Outcome.STREAM_ENDED: Action.RESUME,
    Outcome.REFUSED: Action.REBUILD,
    Outcome.NOT_SENT: Action.WAIT,
    Outcome.BROKEN: Action.UNKNOWN,
    Outcome.GONE: Action.REBUILD,
    Outcome.BAD: Action.PROBE,
    # A gateway's 502 and 504 do not say whether the server ran the call, nor provably does its 503.
    Outcome.UNAVAILABLE: Action.UNKNOWN,
    Outcome.REDIRECTED: Action.UNUSABLE,
    Outcome.OTHER: Action.RELAY,
}


def decide(outcome: Outcome, *, stale: bool, rebuilt: bool) -> Action:
    """Return what follows an attempt.

    Args:
        outcome: how it ended.
        stale: the session was bound anew since the attempt was sent, so its refusal is no news.
        rebuilt: this request has had its rebuild; a second refusal is relayed (semantics 11). A refused connection
            is no refusal by a server and may be waited out again, within the request's deadline.
    """
    action = REQUEST[outcome]
    if outcome in (Outcome.GONE, Outcome.BAD) and rebuilt:
        return Action.RELAY
    if stale and outcome in (Outcome.GONE, Outcome.BAD, Outcome.REFUSED):
        return Action.RETRY
    return action


class CallState(Enum):
    """Where one client POST with requests stands."""

    WAITING = "waiting"
    """For the session's binding; not sent."""
    SENT = "sent"
    PROBING = "probing"
    """A 400 is held back until a ping tells whether the session is lost."""
    ASKING = "asking"
    """Its attempt is over without an answer, and the server is asked whether it may be sent again (semantics 13)."""
    STREAMING = "streaming"
    RESUMING = "resuming"
    """The upstream's stream broke and is asked for again by its cursor."""
    DONE = "done"
