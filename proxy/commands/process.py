"""Own the commands on the process as a whole: status, reload, upgrade."""

from proxy.commands.command import Call, Command
from proxy.commands.following import progress_text
from proxy.commands.layout import counted, duration, plain, size, table
from proxy.commands.outcome import DONE, REFUSED
from proxy.commands.upstreams import upstreams_text


def _status(call: Call) -> int:
    status = call.admin.ask("GET", "/status")
    call.console.document(status)
    state = ", draining" if status["is_draining"] else ""
    state += "" if status["is_compiled"] else ", not compiled"
    text = (
        f"mcp-session-proxy {plain(status['version'])}, pid {status['pid']}, "
        f"up {duration(status['uptime_seconds'])}{state}\n"
        f"{counted(status['sessions'], 'session')} ({status['bound_sessions']} bound), "
        f"{counted(status['calls'], 'call')}, {counted(status['streams'], 'stream')}, "
        f"{size(status['buffered_bytes'])} buffered\n\n"
    )
    rows = [
        (
            each["name"], f"{each['host']}{each['path']}", each["policy"], each["sessions"],
            "ejections ignored: too few upstreams are well" if each["is_panicking"] else "",
        )
        for each in status["routes"]
    ]  # fmt: skip
    text += table(("ROUTE", "PATH", "POLICY", "SESSIONS", "PANIC"), rows)
    text += "\n" + upstreams_text([each for route in status["routes"] for each in route["upstreams"]])
    for job in status["jobs"]:
        text += f"\njob {plain(job['id'])}, {plain(job['kind'])} {plain(job['old'])}: {progress_text(job)}\n"
    call.console.write(text)
    return DONE


def _reload(call: Call) -> int:
    answer = call.admin.ask("POST", "/reload")
    call.console.document(answer)
    if not answer["is_applied"]:
        call.console.note(f"nothing was changed: {plain(answer['problem'], 400)}")
        return REFUSED
    parts = [
        f"{word}: {', '.join(plain(name) for name in answer[word])}"
        for word in ("added", "removed", "changed")
        if answer[word]
    ]
    call.console.write(f"applied; {'; '.join(parts) or 'nothing differs'}\n")
    if answer["needs_restart"]:
        call.console.write(f"only after a restart: {', '.join(plain(key) for key in answer['needs_restart'])}\n")
    return DONE


def _upgrade(call: Call) -> int:
    answer = call.admin.ask("POST", "/upgrade")
    call.console.document(answer)
    call.console.write(f"process {answer['pid']} is taking over; the events tell when it has\n")
    return DONE


COMMANDS = (
    Command("status", "Show the process at a glance.", _status),
    Command("reload", "Have the proxy read its configuration anew and apply its routes.", _reload),
    Command("upgrade", "Have the proxy start a new process that takes its sockets over.", _upgrade),
)
