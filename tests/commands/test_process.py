"""Commands on the process as a whole."""

import json
from collections import deque

from proxy.control.base import ControlError
from proxy.control.views import ReloadView
from support.operators import job_view


def test_the_status_is_a_page(operate) -> None:
    """Version, numbers, routes, upstreams, and what is under way."""
    operate.control.course = deque([job_view("moving", total=3, moved=1, remaining=2)])
    ended = operate("status")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(
        "mcp-session-proxy 0.1.0, pid 4711, up 1d 1h\n"
        "3 sessions (3 bound), 2 calls, 3 streams, 3.0 MiB buffered\n\n"
        "ROUTE  PATH  POLICY          SESSIONS\n"
        "main   /mcp  least_sessions         3\n\n"
        "NAME  ROUTE  URL "
    )
    assert ended.out.endswith("\njob 7, swap a: moving 1/3: 1 moved, 0 rebuilt; calls: 0 running, 0 finished\n")


def test_the_status_is_a_document(operate) -> None:
    """With JSON it is what the API says."""
    assert json.loads(operate("status", "--json").out)["counters"] == {"sessions_opened_total": 3}


def test_a_reload_says_what_it_changed(operate) -> None:
    """Also what will only count after a restart."""
    operate.control.reloaded = ReloadView(
        is_applied=True, problem="", added=["b", "c"], removed=[], changed=["a"], needs_restart=["listen.address"]
    )
    ended = operate("reload")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "applied; added: b, c; changed: a\nonly after a restart: listen.address\n"


def test_a_reload_of_the_same_says_so(operate) -> None:
    """Nothing differs is an answer too."""
    operate.control.reloaded = ReloadView(
        is_applied=True, problem="", added=[], removed=[], changed=[], needs_restart=[]
    )

    assert operate("reload").out == "applied; nothing differs\n"


def test_a_refused_reload_is_1_and_says_why(operate) -> None:
    """The configuration in force stays, and a script notices."""
    operate.control.reloaded = ReloadView(
        is_applied=False, problem="c.toml: routes[0].path: x", added=[], removed=[], changed=[], needs_restart=[]
    )
    ended = operate("reload")
    document = json.loads(operate("reload", "--json").out)

    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "nothing was changed: c.toml: routes[0].path: x\n"
    assert document["is_applied"] is False


def test_an_upgrade_tells_the_new_process(operate) -> None:
    """Its pid is what one looks for in the logs; a refusal is 1."""
    ended = operate("upgrade")
    document = json.loads(operate("upgrade", "--json").out)
    operate.control.error = ControlError("conflict", "an upgrade is under way")

    assert (ended.code, document) == (0, {"pid": 4712})
    assert "process 4712 is taking over" in ended.out
    assert operate("upgrade").code == 1
