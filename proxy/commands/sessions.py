"""Own the commands on sessions: list, show, close, move, refresh, interrupt, pin, unpin."""

import argparse
from typing import Any

from proxy.commands.client import part
from proxy.commands.command import Call, Command
from proxy.commands.following import started
from proxy.commands.layout import counted, duration, fields, plain, size, table
from proxy.commands.outcome import DONE

_PAGE = 1000
"""The most that one answer holds."""
_SESSION_HELP = "its id, at least 6 first characters of it, or its fingerprint"


def _ls(call: Call) -> int:
    given = call.arguments
    query = {name: getattr(given, name) for name in ("route", "upstream", "state", "client")}
    if given.pinned is not None:
        query["pinned"] = "true" if given.pinned else "false"
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        wanted = min(_PAGE, given.limit - len(found)) if given.limit else _PAGE
        page = call.admin.ask("GET", "/sessions", query={**query, "after": after, "limit": wanted})
        found += page["sessions"]
        after = page["next"]
        if not after or (given.limit and len(found) >= given.limit):
            break
    call.console.document({"sessions": found, "total": page["total"], "next": after})
    rows = [
        (
            each["id"], each["fingerprint"], each["route"], each["upstream"], _state(each), each["client"],
            each["calls"], each["streams"], duration(each["age_seconds"]), duration(each["idle_seconds"]),
        )
        for each in found
    ]  # fmt: skip
    call.console.write(
        table(("ID", "FINGERPRINT", "ROUTE", "UPSTREAM", "STATE", "CLIENT", "CALLS", "STREAMS", "AGE", "IDLE"), rows)
    )
    if after and not call.console.is_json:
        call.console.note(f"{len(found)} of {page['total']} shown; all of them with --limit 0")
    return DONE


def _state(session: dict[str, Any]) -> str:
    marks = [word for word in ("pinned", "moving") if session[f"is_{word}"]]
    return ",".join([session["state"], *marks])


def _show(call: Call) -> int:
    session = call.admin.ask("GET", _path(call))
    call.console.document(session)
    call.console.write(_detail(session))
    return DONE


def _detail(session: dict[str, Any]) -> str:
    text = fields(
        [
            ("id", session["id"]),
            ("fingerprint", session["fingerprint"]),
            ("client", session["client"]),
            ("protocol", session["protocol_version"]),
            ("route", session["route"]),
            ("upstream", session["upstream"]),
            ("state", _state(session)),
            ("generation", session["generation"]),
            ("age", duration(session["age_seconds"])),
            ("idle", duration(session["idle_seconds"])),
            ("streams", session["streams"]),
            ("subscriptions", session["subscriptions"]),
            ("log level", session["log_level"]),
            ("tasks", session["tasks"]),
            ("buffered", size(session["buffered_bytes"])),
        ]
    )
    legs = [(e["upstream"], e["generation"], e["state"], e["calls"], e["upstream_id"]) for e in session["legs"]]
    if legs:
        text += "\n" + table(("BINDING", "GENERATION", "STATE", "CALLS", "UPSTREAM ID"), legs)
    calls = [
        (
            each.get("request_id"), each.get("method"), each.get("upstream"), each.get("generation"),
            each.get("state"), duration(each.get("silent_seconds") or 0.0),
        )
        for each in session["running"]
    ]  # fmt: skip
    if calls:
        text += "\n" + table(("CALL", "METHOD", "UPSTREAM", "GENERATION", "STATE", "SILENT"), calls)
    return text


def _close(call: Call) -> int:
    call.admin.ask("DELETE", _path(call))
    call.console.document({"closed": call.arguments.session})
    call.console.write("closed\n")
    return DONE


def _move(call: Call) -> int:
    return started(call, call.admin.ask("POST", _path(call, "/move"), {"upstream": call.arguments.to or ""}))


def _refresh(call: Call) -> int:
    return started(call, call.admin.ask("POST", _path(call, "/refresh")))


def _interrupt(call: Call) -> int:
    answer = call.admin.ask("POST", _path(call, "/interrupt"))
    call.console.document(answer)
    call.console.write(f"{counted(answer['calls'], 'call')} cancelled\n")
    return DONE


def _pin(call: Call) -> int:
    session = call.admin.ask("POST", _path(call, "/pin"))
    call.console.document(session)
    call.console.write(f"{plain(session['id'])} is pinned to {plain(session['upstream'])}\n")
    return DONE


def _unpin(call: Call) -> int:
    session = call.admin.ask("POST", _path(call, "/unpin"))
    call.console.document(session)
    call.console.write(f"{plain(session['id'])} may be moved\n")
    return DONE


def _path(call: Call, rest: str = "") -> str:
    return f"/sessions/{part(call.arguments.session)}{rest}"


def _limit(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _declare_ls(parser: argparse.ArgumentParser) -> None:
    for name, metavar, says in (
        ("route", "ROUTE", "of this route"),
        ("upstream", "NAME", "on this upstream"),
        ("state", "STATE", "bound, binding, lost or unbound"),
        ("client", "TEXT", "whose client's name has this in it"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=f"only those {says}")
    parser.add_argument("--pinned", action=argparse.BooleanOptionalAction, help="only the pinned ones, or the others")
    parser.add_argument("--limit", type=_limit, default=100, metavar="N", help="show up to N (100); 0: all")


def _declare_session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="ID", help=_SESSION_HELP)


def _declare_job(parser: argparse.ArgumentParser) -> None:
    _declare_session(parser)
    declare_detach(parser)


def _declare_move(parser: argparse.ArgumentParser) -> None:
    _declare_session(parser)
    parser.add_argument("to", nargs="?", metavar="UPSTREAM", help="where to; left out: the proxy chooses")
    declare_detach(parser)


def declare_detach(parser: argparse.ArgumentParser) -> None:
    """Add the flag of commands that start a job."""
    parser.add_argument("--detach", "--no-wait", action="store_true", help="do not wait for the end of the job")


COMMANDS = (
    Command("sessions ls", "List sessions, oldest first.", _ls, _declare_ls),
    Command("sessions show", "Look at one session.", _show, _declare_session),
    Command("sessions close", "End a session; its client has to start again.", _close, _declare_session),
    Command("sessions move", "Give a session a binding on another upstream.", _move, _declare_move),
    Command("sessions refresh", "Give a session a new upstream session where it is.", _refresh, _declare_job),
    Command("sessions interrupt", "Cancel a session's running calls.", _interrupt, _declare_session),
    Command("sessions pin", "Keep a session where it is, whatever is drained.", _pin, _declare_session),
    Command("sessions unpin", "Let a pinned session be moved again.", _unpin, _declare_session),
)
