"""The table of the proxy's own errors: its codes, its statuses and the bodies made of it."""

import json
import re

import pytest

from proxy.core import faults
from proxy.core.faults import FAULTS, Fault

ROWS = [pytest.param(fault, id=fault.reason) for fault in FAULTS.values()]


def test_reasons_are_the_names_of_the_rows() -> None:
    """No two rows share a reason, and a row is found under its own."""
    assert len(FAULTS) == len(faults._ROWS)
    assert all(FAULTS[row.reason] is row for row in faults._ROWS)


@pytest.mark.parametrize("fault", ROWS)
def test_a_row_is_whole(fault: Fault) -> None:
    """Every row has a name that can be a label, words for people, and the case it is for."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", fault.reason)
    assert fault.message
    assert fault.when
    assert fault.outcome in {"unknown", "not_run", "refused", "none"}


@pytest.mark.parametrize("fault", ROWS)
def test_an_error_inside_a_live_session_is_a_200(fault: Fault) -> None:
    """Some clients abandon all on a 4xx or 5xx to a POST: only what is outside a session has another status."""
    outside = fault.outcome == "none" or fault.reason in {"draining", "discover_unreachable"}

    assert (fault.status != 200) == outside


@pytest.mark.parametrize("fault", ROWS)
def test_a_404_means_that_nothing_is_there(fault: Fault) -> None:
    """Clients end their session at a 404: it tells of a session or a path that is not there, only."""
    assert (fault.status == 404) == (fault.reason in {"unknown_session", "no_such_path"})


@pytest.mark.parametrize("fault", ROWS)
def test_a_code_keeps_its_word(fault: Fault) -> None:
    """Who may repeat a call can tell so from the code alone."""
    outcomes = {
        faults.OUTCOME_UNKNOWN: {"unknown"},
        faults.UNAVAILABLE: {"not_run"},
        faults.OVERLOADED: {"not_run"},
        faults.SESSION_CLOSED: {"unknown", "not_run"},
        faults.UNUSABLE: {"unknown", "not_run", "refused"},
        faults.INVALID_REQUEST: {"none", "not_run"},
        faults.SESSION_NOT_FOUND: {"none"},
    }

    assert fault.outcome in outcomes[fault.code]


def test_codes_are_the_documented_ones() -> None:
    """Clients match these numbers."""
    assert {fault.code for fault in FAULTS.values()} == {
        -32050, -32051, -32052, -32053, -32054, -32600, -32001,
    }  # fmt: skip


@pytest.mark.parametrize("request_id", [1, "1", None])
@pytest.mark.parametrize("fault", ROWS)
def test_a_body_is_a_json_rpc_error_with_its_reason(fault: Fault, request_id: int | str | None) -> None:
    """The body names its origin, the row and the outcome, under the request's own id."""
    assert json.loads(faults.body(fault.reason, request_id)) == {
        "jsonrpc": "2.0",
        "id": request_id,
        "error": {
            "code": fault.code,
            "message": fault.message,
            "data": {"origin": "mcp-session-proxy", "reason": fault.reason, "outcome": fault.outcome},
        },
    }


def test_a_body_tells_more_where_there_is_more() -> None:
    """What the caller knows beyond the row goes into `data`, beside the row's own members."""
    data = json.loads(faults.body("gateway_error", 7, http_status=502))["error"]["data"]

    assert data == {
        "origin": "mcp-session-proxy",
        "reason": "gateway_error",
        "outcome": "unknown",
        "http_status": 502,
    }


def test_an_unknown_reason_is_a_mistake() -> None:
    """There is no error outside the table."""
    with pytest.raises(KeyError):
        faults.body("whatever", 1)
