"""What an attempt's outcome means: the whole table, and the law that nothing runs twice."""

from itertools import product

import pytest

from proxy.core.exchange import REQUEST, Action, Outcome, classify_status, decide

PROVABLY_NOT_RUN = {Outcome.REFUSED, Outcome.NOT_SENT, Outcome.GONE, Outcome.BAD}
REFUSALS = {Outcome.REFUSED, Outcome.GONE, Outcome.BAD}
"""What may mean that the upstream session is lost."""
CASES = list(product(Outcome, (False, True), (False, True)))


@pytest.mark.parametrize(
    ("status", "carried_id", "has_jsonrpc_body", "outcome"),
    [
        (200, True, True, Outcome.ANSWERED),
        (202, False, False, Outcome.ANSWERED),
        (299, True, False, Outcome.ANSWERED),
        (300, True, False, Outcome.REDIRECTED),
        (307, False, True, Outcome.REDIRECTED),
        (399, True, True, Outcome.REDIRECTED),
        (400, True, True, Outcome.BAD),
        (400, False, False, Outcome.OTHER),
        (401, True, False, Outcome.OTHER),
        (404, True, False, Outcome.GONE),
        (404, True, True, Outcome.GONE),
        (404, False, False, Outcome.OTHER),
        (429, True, False, Outcome.OTHER),
        (500, True, False, Outcome.OTHER),
        (501, True, False, Outcome.OTHER),
        (502, True, False, Outcome.UNAVAILABLE),
        (503, False, False, Outcome.UNAVAILABLE),
        (504, True, False, Outcome.UNAVAILABLE),
        (502, True, True, Outcome.OTHER),
        (503, True, True, Outcome.OTHER),
        (504, False, True, Outcome.OTHER),
        (505, True, False, Outcome.OTHER),
    ],
)
def test_a_status_has_one_meaning(status: int, carried_id: bool, has_jsonrpc_body: bool, outcome: Outcome) -> None:
    """A refusal means a lost session only with an id; a gateway's status only without a JSON-RPC body."""
    assert classify_status(status, carried_id=carried_id, has_jsonrpc_body=has_jsonrpc_body) is outcome


@pytest.mark.parametrize(("outcome", "action"), [
    (Outcome.ANSWERED, Action.RELAY),
    (Outcome.STREAM_ENDED, Action.RESUME),
    (Outcome.REFUSED, Action.REBUILD),
    (Outcome.NOT_SENT, Action.WAIT),
    (Outcome.BROKEN, Action.UNKNOWN),
    (Outcome.GONE, Action.REBUILD),
    (Outcome.BAD, Action.PROBE),
    (Outcome.UNAVAILABLE, Action.UNKNOWN),
    (Outcome.REDIRECTED, Action.UNUSABLE),
    (Outcome.OTHER, Action.RELAY),
])  # fmt: skip
def test_a_first_attempt_in_the_present_session(outcome: Outcome, action: Action) -> None:
    """Each outcome of a first attempt has its action."""
    assert decide(outcome, stale=False, rebuilt=False) is action


def test_every_outcome_has_a_row() -> None:
    """No outcome is left without an action."""
    assert set(REQUEST) == set(Outcome)


@pytest.mark.parametrize(("outcome", "stale", "rebuilt"), CASES)
def test_nothing_runs_twice(outcome: Outcome, stale: bool, rebuilt: bool) -> None:
    """A request is sent again only when it provably did not run."""
    action = decide(outcome, stale=stale, rebuilt=rebuilt)

    assert action not in (Action.RETRY, Action.REBUILD, Action.WAIT) or outcome in PROVABLY_NOT_RUN


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.GONE, Outcome.BAD])
def test_a_second_refusal_is_the_clients(outcome: Outcome, stale: bool) -> None:
    """One rebuild per request: after it the upstream's refusal is relayed, whichever session it came from."""
    assert decide(outcome, stale=stale, rebuilt=True) is Action.RELAY


@pytest.mark.parametrize(("outcome", "stale", "rebuilt"), CASES)
def test_old_news_of_a_former_session_loses_nothing(outcome: Outcome, stale: bool, rebuilt: bool) -> None:
    """A refusal by a session that is not the present one is no loss: the request goes to the present one."""
    action = decide(outcome, stale=stale, rebuilt=rebuilt)

    assert not stale or action not in (Action.REBUILD, Action.PROBE)
    assert (action is Action.RETRY) == (
        stale and outcome in REFUSALS and not (rebuilt and outcome is not Outcome.REFUSED)
    )


@pytest.mark.parametrize(("outcome", "stale", "rebuilt"), [case for case in CASES if case[0] not in REFUSALS])
def test_nothing_else_depends_on_history(outcome: Outcome, stale: bool, rebuilt: bool) -> None:
    """An outcome that is no refusal means the same in every session and after every rebuild."""
    assert decide(outcome, stale=stale, rebuilt=rebuilt) is REQUEST[outcome]


def test_a_refused_connection_is_waited_out_again() -> None:
    """A connection refused after the rebuild is no second refusal: nobody has said no."""
    assert decide(Outcome.REFUSED, stale=False, rebuilt=True) is Action.REBUILD


@pytest.mark.parametrize(("stale", "rebuilt"), list(product((False, True), (False, True))))
def test_no_connection_is_no_loss(stale: bool, rebuilt: bool) -> None:
    """A time-out, no route or a limit of our own says nothing of the upstream session: it is waited out."""
    assert decide(Outcome.NOT_SENT, stale=stale, rebuilt=rebuilt) is Action.WAIT
