"""Commands on upstreams."""

import json
from collections import deque

import pytest

from proxy.control.base import ControlError
from proxy.control.views import AddUpstream, SwapRequest
from support.operators import job_view, upstream_view

NEW = "http://127.0.0.1:3002/mcp"


def test_upstreams_are_listed_with_their_health(operate) -> None:
    """Why one is not well stands beside its health; the share of a canary only while there is one."""
    operate.control.upstreams_held = [
        upstream_view("a", share_percent=90),
        upstream_view("b", health="half_open", reason="refused", labels={"version": "2", "zone": "x"}),
    ]
    ended = operate("upstreams", "ls")
    first, second, third = ended.out.splitlines()

    assert ended.code == 0
    assert first.split() == [
        "NAME", "ROUTE", "URL", "STATE", "HEALTH", "SESSIONS", "CALLS", "QUEUED", "WEIGHT", "SHARE", "LABELS",
    ]  # fmt: skip
    assert "90 %   version=1" in second
    assert "half-open (refused)" in third
    assert "version=2, zone=x" in third
    assert "SHARE" not in operate("status").out or "90 %" in ended.out


def test_upstreams_of_no_route_are_4(operate) -> None:
    """A route that is not there is told."""
    assert operate("upstreams", "ls", "--route", "main").code == 0
    assert operate("upstreams", "ls", "--route", "other").code == 4


def test_an_upstream_is_added_with_all_that_is_said_of_it(operate) -> None:
    """Every option arrives; what was not said is left to the proxy."""
    ended = operate(
        "upstreams", "add", NEW, "--route", "main", "--name", "c", "--weight", "3", "--label", "version=2",
        "--label", "zone=x", "--header", "X-Api-Key=s=3", "--ca-file", "/etc/ca.pem",
    )  # fmt: skip
    operate("upstreams", "add", NEW)

    assert ended.code == 0
    assert ended.out.startswith("added:\nNAME")
    assert operate.control.asked == [
        (
            "add_upstream",
            AddUpstream(
                url=NEW, route="main", name="c", weight=3, labels={"version": "2", "zone": "x"},
                headers={"X-Api-Key": "s=3"}, ca_file="/etc/ca.pem",
            ),
        ),
        ("add_upstream", AddUpstream(url=NEW)),
    ]  # fmt: skip


def test_a_malformed_header_does_not_show_its_value(operate) -> None:
    """It may be a secret: the message says what was expected, not what was given."""
    ended = operate("upstreams", "add", NEW, "--header", "s3cret")

    assert (ended.code, ended.out) == (2, "")
    assert "expected NAME=VALUE" in ended.err
    assert "s3cret" not in ended.err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), SwapRequest(old="a", new=NEW)),
        (
            (
                "--percent", "10", "--strict", "--compare-tools", "--drain-timeout", "5", "--name", "c",
                "--route", "main",
            ),
            SwapRequest(
                old="a", new=NEW, percent=10, strict=True, compare_tools=True, drain_timeout_seconds=5.0, name="c",
                route="main",
            ),
        ),
        (("--no-strict", "--no-compare-tools"), SwapRequest(old="a", new=NEW, strict=False, compare_tools=False)),
    ],
)  # fmt: skip
def test_a_swap_asks_for_what_was_said(operate, words: tuple[str, ...], wanted: SwapRequest) -> None:
    """Every option arrives; what was not said is as configured."""
    assert operate("upstreams", "swap", "a", NEW, *words).code == 0
    assert operate.control.asked == [("swap_upstream", wanted)]


@pytest.mark.parametrize(
    "words",
    [
        ("upstreams", "swap", "--percent", "10", "a", NEW),
        ("upstreams", "--percent", "10", "swap", "a", NEW),
        ("--percent", "10", "upstreams", "swap", "a", NEW),
        ("upstreams", "swap", "a", "--percent", "10", NEW),
        ("upstreams", "swap", "a", NEW, "--percent=10"),
    ],
)
def test_options_may_stand_anywhere(operate, words: tuple[str, ...]) -> None:
    """Before, between and after the words, it is the same swap."""
    assert operate(*words).code == 0
    assert operate.bare("--admin", operate.admin.url, *words).code == 0
    assert operate.control.asked == 2 * [("swap_upstream", SwapRequest(old="a", new=NEW, percent=10))]


def test_the_old_one_may_be_named_by_its_url(operate) -> None:
    """Who knows only where it is can swap it too."""
    assert operate("upstreams", "swap", "http://127.0.0.1:3001/a", NEW).code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ControlError("conflict", "the new one offers less: capabilities.tools"), 1),
        (ControlError("invalid", "http://x: expected an MCP server, got HTML"), 2),
    ],
)
def test_a_refused_swap_says_which_and_why(operate, error: ControlError, code: int) -> None:
    """The proxy's words reach the operator, and nothing is followed."""
    operate.control.error = error
    ended = operate("upstreams", "swap", "a", NEW)

    assert (ended.code, ended.out, ended.err) == (code, "", f"mcp-session-proxy: error: {error}\n")


def test_no_such_upstream_is_4(operate) -> None:
    """Of a swap, a drain and all others."""
    codes = [
        operate("upstreams", *words).code
        for words in (("swap", "zzz", NEW), ("drain", "zzz"), ("undrain", "zzz"), ("rm", "zzz"))
    ]

    assert codes == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("drain", "a"), ("drain_upstream", "a", None)),
        (("drain", "a", "--drain-timeout", "2.5"), ("drain_upstream", "a", 2.5)),
    ],
)
def test_a_drain_is_followed(operate, words: tuple[str, ...], asked: tuple[object, ...]) -> None:
    """It is a job as a swap is."""
    operate.control.course = deque([job_view("moving", kind="drain", new=""), job_view(kind="drain", new="")])
    ended = operate("upstreams", *words)

    assert ended.code == 0
    assert "drain     a\n" in ended.out
    assert operate.control.asked == [asked]


@pytest.mark.parametrize(
    ("words", "asked", "out"),
    [
        (("undrain", "a"), ("undrain_upstream", "a"), "taken back:\n"),
        (("rm", "a"), ("remove_upstream", "a", False), "removed:\n"),
        (("rm", "a", "--force"), ("remove_upstream", "a", True), "removed:\n"),
    ],
)
def test_changes_show_the_upstream(operate, words: tuple[str, ...], asked: tuple[object, ...], out: str) -> None:
    """What was done is said, with the upstream as it is then."""
    ended = operate("upstreams", *words)
    document = json.loads(operate("upstreams", *words, "--json").out)

    assert (ended.code, document["name"]) == (0, "a")
    assert ended.out.startswith(out)
    assert operate.control.asked == [asked, asked]
