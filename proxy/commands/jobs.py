"""Own the commands on jobs: list, show, cancel, roll back."""

import argparse

from proxy.commands.client import part
from proxy.commands.command import Call, Command
from proxy.commands.following import follow, job_text, started
from proxy.commands.layout import duration, table
from proxy.commands.outcome import DONE
from proxy.commands.sessions import declare_detach


def _ls(call: Call) -> int:
    answer = call.admin.ask("GET", "/jobs")
    call.console.document(answer)
    rows = [
        (
            job["id"], job["kind"], job["state"].replace("_", " "), job["old"], job["new"],
            job["counts"]["total"], job["counts"]["moved"], job["counts"]["remaining"],
            f"{duration(job['started_seconds'])} ago",
            "" if job["took_seconds"] is None else duration(job["took_seconds"]),
            job["problem"],
        )
        for job in answer["jobs"]
    ]  # fmt: skip
    headers = ("ID", "KIND", "STATE", "OLD", "NEW", "SESSIONS", "MOVED", "REMAINING", "BEGAN", "TOOK", "PROBLEM")
    call.console.write(table(headers, rows))
    return DONE


def _show(call: Call) -> int:
    job = call.admin.ask("GET", _path(call))
    if call.arguments.follow:
        return follow(call, job)
    call.console.document(job)
    call.console.write(job_text(job))
    return DONE


def _cancel(call: Call) -> int:
    return started(call, call.admin.ask("DELETE", _path(call)), good=("cancelled",))


def _rollback(call: Call) -> int:
    return started(call, call.admin.ask("POST", _path(call, "/rollback")), good=("rolled_back",))


def _path(call: Call, rest: str = "") -> str:
    return f"/jobs/{part(call.arguments.job)}{rest}"


def _declare_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="ID", help="id of the job")


def _declare_show(parser: argparse.ArgumentParser) -> None:
    _declare_job(parser)
    parser.add_argument("--follow", action="store_true", help="stay until it is over")


def _declare_change(parser: argparse.ArgumentParser) -> None:
    _declare_job(parser)
    declare_detach(parser)


COMMANDS = (
    Command("jobs ls", "List the jobs, the newest first.", _ls),
    Command("jobs show", "Look at one job.", _show, _declare_show),
    Command("jobs cancel", "Stop a job where it is: what has moved has moved.", _cancel, _declare_change),
    Command("jobs rollback", "Take a swap back: what has moved is moved again.", _rollback, _declare_change),
)
