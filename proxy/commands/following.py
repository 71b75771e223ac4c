"""Own how a job is shown while it runs and when it is over.

Knows the form of a job, not what moves. Invariant: Ctrl-C ends the watching, never the job, and says how to go on.
"""

from typing import Any

from proxy.commands.client import DEFAULT_ADDRESS, part
from proxy.commands.command import Call
from proxy.commands.layout import counted, duration, fields, plain, table
from proxy.commands.outcome import DONE, INTERRUPTED, REFUSED, CommandError

OVER = ("done", "failed", "cancelled", "rolled_back")
RESTING = (*OVER, "holding")
"""States in which nothing changes by itself; `holding` is a canary that waits for what the operator says next."""
_PAUSES = (0.1, 0.2, 0.4, 0.8)
"""Seconds between looks: a short job is seen to its end at once, a long one asked for once a second."""
_SLOWEST = 1.0
_BAR_PAUSE = 0.2

Job = dict[str, Any]


def started(call: Call, job: Job, *, good: tuple[str, ...] = ("done", "holding")) -> int:
    """Show a job that was just asked for, and follow it unless `--detach` was given; returns the exit code.

    Args:
        call: the command.
        job: as the proxy answered.
        good: the states that count as success.
    """
    if getattr(call.arguments, "detach", False):
        call.console.document(job)
        call.console.write(f"job {job['id']} runs; follow it with: {_again(call, job)}\n")
        return DONE
    return follow(call, job, good=good)


def follow(call: Call, job: Job, *, good: tuple[str, ...] = ("done", "holding")) -> int:
    """Show how a job goes until it rests, then how it ended; returns the exit code."""
    console = call.console
    shown: Job = {}
    looks = 0
    try:
        while True:
            if _told(job) != _told(shown):
                # With --json the last line is the end of the job, or where it rests.
                console.document(job)
                shown = job
            if job["state"] in RESTING:
                break
            console.progress(_settled(job), job["counts"]["total"], progress_text(job))
            console.pause(_BAR_PAUSE if console.has_bar else _PAUSES[looks] if looks < len(_PAUSES) else _SLOWEST)
            looks += 1
            job = call.admin.ask("GET", f"/jobs/{part(job['id'])}")
    except KeyboardInterrupt:
        console.note(f"job {job['id']} goes on; follow it with: {_again(call, job)}")
        return INTERRUPTED
    except CommandError as error:
        raise CommandError(f"{error}; job {job['id']} may go on", error.exit_code) from None
    if shown:
        console.progress(_settled(job), job["counts"]["total"], progress_text(job))
    console.end_progress()
    console.write(job_text(job))
    if job["state"] not in good:
        console.note(f"job {job['id']} {_state(job)}: {plain(job['problem'] or 'no reason given', 400)}")
        return REFUSED
    return DONE


def progress_text(job: Job) -> str:
    """Return one line of counts, for a job that runs."""
    counts = job["counts"]
    text = f"{_state(job)} {_settled(job)}/{counts['total']}: {counts['moved']} moved, {counts['rebuilt']} rebuilt"
    text += "".join(f", {counts[name]} {name}" for name in ("idle", "closed", "failed", "pinned") if counts[name])
    text += f"; calls: {counts['calls_running']} running, {counts['calls_finished']} finished"
    return text + (f", {counts['calls_unknown']} unknown" if counts["calls_unknown"] else "")


def job_text(job: Job) -> str:
    """Return all there is to say of a job."""
    counts = job["counts"]
    sessions = ", ".join(
        f"{counts[name]} {name}"
        for name in ("moved", "rebuilt", "idle", "closed", "failed", "pinned", "remaining")
        if counts[name] or name == "moved"
    )
    calls = ", ".join(f"{counts[f'calls_{name}']} {name}" for name in ("finished", "unknown", "running"))
    ended = job["took_seconds"] is not None
    time = f"took {duration(job['took_seconds'])}" if ended else f"began {duration(job['started_seconds'])} ago"
    text = f"job {plain(job['id'])}: {_state(job)}, {time}\n"
    text += fields(
        [
            (job["kind"], _ends(job)),
            ("share", f"{job['percent']} %" if job["percent"] != 100 else ""),
            ("sessions", f"{counts['total']}: {sessions}"),
            ("calls", calls),
            ("problem", job["problem"]),
        ]
    )
    if job["state"] == "holding":
        text += f"it holds: swap the rest with a larger --percent, or take it back with jobs rollback {job['id']}\n"
    if job["differences"]:
        rows = [
            (each["field"], each["old"], each["new"], "loss" if each["is_loss"] else "") for each in job["differences"]
        ]
        text += f"{counted(len(rows), 'difference')} between the servers:\n" + table(("FIELD", "OLD", "NEW", ""), rows)
    return text


def _ends(job: Job) -> str:
    ends = [plain(end, 200) for end in (job["old"], job["new"]) if end]
    return " -> ".join(ends)


def _state(job: Job) -> str:
    return str(job["state"]).replace("_", " ")


def _settled(job: Job) -> int:
    return int(job["counts"]["total"] - job["counts"]["remaining"])


def _told(job: Job) -> Job:
    """Return what counts as a change: not the time alone."""
    return {name: value for name, value in job.items() if name not in ("started_seconds", "took_seconds")}


def _again(call: Call, job: Job) -> str:
    url = call.admin.address.url
    where = "" if url == f"http://{DEFAULT_ADDRESS}" else f" --admin {url}"
    return f"mcp-session-proxy jobs show {job['id']} --follow{where}"
