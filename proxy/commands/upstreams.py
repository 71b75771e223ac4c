"""Own the commands on upstreams: list, add, drain, undrain, swap, remove."""

import argparse
from typing import Any

from proxy.commands.client import part
from proxy.commands.command import Call, Command
from proxy.commands.following import started
from proxy.commands.layout import table
from proxy.commands.outcome import DONE
from proxy.commands.sessions import declare_detach


def _ls(call: Call) -> int:
    answer = call.admin.ask("GET", "/upstreams", query={"route": call.arguments.route})
    call.console.document(answer)
    call.console.write(upstreams_text(answer["upstreams"]))
    return DONE


def upstreams_text(upstreams: list[dict[str, Any]]) -> str:
    """Return a table of upstreams."""
    rows = [
        (
            each["key"], each["route"], each["url"], each["state"], _health(each), each["sessions"], each["calls"],
            each["queued"], each["weight"],
            f"{each['share_percent']} %" if each.get("share_percent") is not None else "",
            ", ".join(f"{name}={value}" for name, value in each["labels"].items()),
        )
        for each in upstreams
    ]  # fmt: skip
    return table(
        ("NAME", "ROUTE", "URL", "STATE", "HEALTH", "SESSIONS", "CALLS", "QUEUED", "WEIGHT", "SHARE", "LABELS"), rows
    )


def _health(upstream: dict[str, Any]) -> str:
    health = str(upstream["health"]).replace("_", "-")
    return f"{health} ({upstream['reason']})" if upstream["reason"] else health


def _add(call: Call) -> int:
    given = call.arguments
    body: dict[str, Any] = {"url": given.url, "weight": given.weight}
    body |= {name: value for name in ("route", "name", "ca_file") if (value := getattr(given, name))}
    body |= {name: dict(pairs) for name in ("labels", "headers") if (pairs := getattr(given, name))}
    return _shown(call, call.admin.ask("POST", "/upstreams", body), "added")


def _drain(call: Call) -> int:
    body = {} if call.arguments.drain_timeout is None else {"timeout_seconds": call.arguments.drain_timeout}
    return started(call, call.admin.ask("POST", _path(call, "/drain"), body))


def _undrain(call: Call) -> int:
    return _shown(call, call.admin.ask("POST", _path(call, "/undrain")), "taken back")


def _rm(call: Call) -> int:
    query = {"force": "true" if call.arguments.force else ""}
    return _shown(call, call.admin.ask("DELETE", _path(call), query=query), "removed")


def _swap(call: Call) -> int:
    given = call.arguments
    body: dict[str, Any] = {"old": given.old, "new": given.new, "percent": given.percent}
    body |= {name: value for name in ("route", "name") if (value := getattr(given, name))}
    body |= {name: value for name in ("strict", "compare_tools") if (value := getattr(given, name)) is not None}
    if given.drain_timeout is not None:
        body["drain_timeout_seconds"] = given.drain_timeout
    return started(call, call.admin.ask("POST", "/swaps", body))


def _shown(call: Call, upstream: dict[str, Any], what: str) -> int:
    call.console.document(upstream)
    call.console.write(f"{what}:\n{upstreams_text([upstream])}")
    return DONE


def _path(call: Call, rest: str = "") -> str:
    return f"/upstreams/{part(call.arguments.upstream)}{rest}"


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not (name and mark):
        raise argparse.ArgumentTypeError("expected NAME=VALUE")  # what was given may be a secret
    return name, value


def _declare_ls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--route", metavar="ROUTE", help="only those of this route")


def _declare_upstream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("upstream", metavar="NAME", help="name of the upstream")


def _declare_add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="its MCP endpoint")
    add("--route", metavar="ROUTE", help="where it goes; needed where there are several routes")
    add("--name", metavar="NAME", help="its name; left out: the proxy chooses")
    add("--weight", type=int, default=1, metavar="N", help="1 to 1000")
    add("--label", dest="labels", action="append", type=_pair, metavar="NAME=VALUE", help="for people; may be repeated")
    add(
        "--header", dest="headers", action="append", type=_pair, metavar="NAME=VALUE",
        help="sent with every request to it; may be repeated",
    )  # fmt: skip
    add("--ca-file", metavar="FILE", help="authorities for its certificate, as the proxy finds the file")


def _declare_drain(parser: argparse.ArgumentParser) -> None:
    _declare_upstream(parser)
    _declare_timeout(parser)
    declare_detach(parser)


def _declare_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--drain-timeout",
        type=float,
        metavar="SECONDS",
        help="for running calls to end; else swap.drain_timeout_seconds",
    )


def _declare_rm(parser: argparse.ArgumentParser) -> None:
    _declare_upstream(parser)
    parser.add_argument("--force", action="store_true", help="also one that still has sessions: they lose it")


def _declare_swap(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("old", metavar="OLD", help="name or URL of the upstream that goes")
    add("new", metavar="NEW_URL", help="URL of what comes, or the name of an upstream that is there")
    add("--percent", type=int, default=100, metavar="N", help="move this share of the sessions only, 1 to 100")
    add(
        "--strict", action=argparse.BooleanOptionalAction,
        help="refuse when the new one offers less or another version; else swap.strict",
    )  # fmt: skip
    add(
        "--compare-tools", action=argparse.BooleanOptionalAction,
        help="compare the lists of tools too; else swap.compare_tools",
    )  # fmt: skip
    _declare_timeout(parser)
    add("--name", metavar="NAME", help="name of the new upstream")
    add("--route", metavar="ROUTE", help="where OLD is; needed where a URL is on several routes")
    declare_detach(parser)


_SWAP_NOTES = """\
The servers are compared first; then NEW is added, the sessions of OLD are moved, its running calls are given time to
end, and OLD is removed. With --percent the job holds when that share is moved: swap again with a larger one to go on,
or take it back with jobs rollback."""

COMMANDS = (
    Command("upstreams ls", "List the upstreams.", _ls, _declare_ls),
    Command("upstreams add", "Add an upstream to a route's pool.", _add, _declare_add),
    Command("upstreams drain", "Move its sessions to the others of its pool.", _drain, _declare_drain),
    Command("upstreams undrain", "Let a drained upstream have sessions again.", _undrain, _declare_upstream),
    Command("upstreams swap", "Put another upstream in its place.", _swap, _declare_swap, _SWAP_NOTES),
    Command("upstreams rm", "Take an upstream out for good.", _rm, _declare_rm),
)
