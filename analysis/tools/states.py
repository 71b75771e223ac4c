"""Blocks of `state-machines.md`: the tables of the product written out, and the decisions tried on every case.

Imports what the product goes by, so what stands in the document is what the code does.
"""

from collections.abc import Iterable

from proxy.control.phases import FINAL, JOB, JobState
from proxy.core import exchange
from proxy.core.cursor import Cursor
from proxy.core.exchange import Outcome
from proxy.core.health import HEALTH, REASONS, Count
from proxy.core.ids import STANDALONE, Epoch, Offset, StreamId
from proxy.core.replay import Entry, Stream
from proxy.core.resume import decide
from proxy.core.session import BINDING, SESSION
from tools.source import NOTHING, assignments, class_docstring, enum_members, table

_EPOCH = Epoch("0123456789ab")
_OTHER = Epoch("ba9876543210")


def session_table() -> str:
    """Write `SESSION`."""
    rows = [[before.value, event.value, after.value] for (before, event), after in SESSION.items()]
    return table(["state", "event", "next state"], rows)


def session_diagram() -> str:
    """Draw `SESSION`."""
    moves = [f"    {before.value} --> {after.value} : {event.value}" for (before, event), after in SESSION.items()]
    return _diagram("    [*] --> opening", moves)


def binding_table() -> str:
    """Write `BINDING`."""
    rows = [
        [before.value, event.value, row.state.value, ", ".join(command.value for command in row.commands) or NOTHING]
        for (before, event), row in BINDING.items()
    ]
    return table(["state", "event", "next state", "commands, in order"], rows)


def binding_diagram() -> str:
    """Draw `BINDING`, without the rows that change nothing."""
    rows = [(before.value, event.value, row.state.value) for (before, event), row in BINDING.items()]
    return _diagram("    [*] --> unbound", _moves(rows))


def _moves(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return an arrow for each change of state, with all events that bring it about."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for before, event, after in rows:
        if before != after:
            arrows.setdefault((before, after), []).append(event)
    return [f"    {before} --> {after} : {', '.join(events)}" for (before, after), events in arrows.items()]


def _diagram(start: str, moves: list[str]) -> str:
    return "\n".join(["```mermaid", "stateDiagram-v2", start, *moves, "```"])


def binding_events() -> str:
    """Write what each event of a binding means."""
    return _members("core.session", "BindingEvent", "event")


def health_table() -> str:
    """Write `HEALTH`."""
    rows = []
    for (before, signal), row in HEALTH.items():
        when = (row.when,) if isinstance(row.when, Count) else row.when
        condition = f"enough {' or '.join(count.value for count in when)}" if when else "at once"
        rows.append(
            [
                before.value,
                signal.value,
                row.state.value,
                condition if row.state is not before else "",
                row.adds.value if row.adds is not None else "",
                ", ".join(count.value for count in row.clears),
            ]
        )
    head = ["state", "signal", "next state", "if", "counts", "clears"]
    return table(head, [[cell or NOTHING for cell in row] for row in rows])


def health_diagram() -> str:
    """Draw `HEALTH`, without the rows that change nothing."""
    rows = [(before.value, signal.value, row.state.value) for (before, signal), row in HEALTH.items()]
    return _diagram("    [*] --> closed", _moves(rows))


def health_signals() -> str:
    """Write what each signal of an upstream's health means, and the reason that people are shown."""
    reasons = {signal.name: f"`{reason}`" for signal, reason in REASONS.items()}
    rows = [
        [f"`{member}`", text or NOTHING, reasons.get(member, NOTHING)]
        for member, text in enum_members("core.health", "Signal").items()
    ]
    return table(["signal", "meaning", "reason shown"], rows)


def health_counts() -> str:
    """Write what is counted in a row."""
    return _members("core.health", "Count", "count")


def job_table() -> str:
    """Write `JOB`."""
    rows = [[before.value, event.value, after.value] for (before, event), after in JOB.items()]
    return table(["state", "event", "next state"], rows)


def job_diagram() -> str:
    """Draw `JOB`, without the cancels, which are possible everywhere before the end."""
    rows = [
        (before.value, event.value, after.value) for (before, event), after in JOB.items() if after.name != "CANCELLED"
    ]
    begins = ["    [*] --> comparing : swap", "    [*] --> moving : drain, move, refresh"]
    ends = [f"    {state.value} --> [*]" for state in JobState if state in FINAL and state.name != "CANCELLED"]
    return _diagram("\n".join(begins), [*_moves(rows), *ends])


def job_states() -> str:
    """Write what each state of a job means."""
    return _members("control.phases", "JobState", "state")


def job_events() -> str:
    """Write what can happen to a job."""
    return _members("control.phases", "JobEvent", "event")


def _members(module: str, name: str, head: str) -> str:
    rows = [[f"`{member}`", text or NOTHING] for member, text in enum_members(module, name).items()]
    return table([head, "meaning"], rows)


def rest_table() -> str:
    """Write what the clock can say of a session."""
    return _members("core.session", "Rest", "verdict")


def outcome_table() -> str:
    """Write `REQUEST` and `exchange.decide` for every case."""
    meanings = enum_members("core.exchange", "Outcome")
    rows = []
    for outcome in Outcome:
        decided = [
            exchange.decide(outcome, stale=stale, rebuilt=rebuilt).value
            for stale, rebuilt in ((False, False), (True, False), (False, True), (True, True))
        ]
        rows.append([f"`{outcome.name}`", meanings[outcome.name], *decided])
    head = ["outcome", "meaning", "first attempt", "stale", "rebuilt", "stale and rebuilt"]
    return table(head, rows)


def action_table() -> str:
    """Write what each action means."""
    return _members("core.exchange", "Action", "action")


def status_table() -> str:
    """Write `exchange.classify_status` for the statuses that differ."""
    rows = []
    for status in (200, 202, 302, 400, 401, 403, 404, 405, 429, 500, 502, 503, 504):
        cells = [
            exchange.classify_status(status, carried_id=carried, has_jsonrpc_body=has_body).name
            for carried, has_body in ((True, False), (False, False), (True, True))
        ]
        rows.append([str(status), *(f"`{cell}`" for cell in cells)])
    return table(["status", "carried an upstream id", "carried none", "carried one, JSON-RPC body"], rows)


def _entered(module: str, name: str) -> str:
    places = assignments(name)
    rows = [
        [f"`{member}`", text or NOTHING, ", ".join(places.get(member, [])) or NOTHING]
        for member, text in enum_members(module, name).items()
    ]
    return class_docstring(module, name) + "\n\n" + table(["state", "meaning", "entered in"], rows)


def call_states() -> str:
    """Write the states of a call and who enters them."""
    return _entered("core.exchange", "CallState")


def link_states() -> str:
    """Write the states of the upstream's standalone stream and who enters them."""
    return _entered("relay.standalone", "LinkState")


def member_states() -> str:
    """Write what a member of a pool can be, and who makes it that."""
    return _entered("upstream.member", "MemberState")


def stream_states() -> str:
    """Write the states of a stream and who enters them."""
    return _entered("core.replay", "StreamState")


def resume_table() -> str:
    """Try `resume.decide` on every case that it tells apart."""
    rows = []
    for text, cursor, stream, buried in _resume_cases():
        verdict = decide(cursor, epoch=_EPOCH, top=Offset(20), next_stream=5, stream=stream, buried=buried)
        rows.append([text, f"`{verdict.name}`", _ANSWERS[verdict.name]])
    return table(["cursor", "verdict", "answer"], rows)


_ANSWERS = {
    "CONTINUE": "200, what follows, then live",
    "FINISHED": "405",
    "RESULT_ONLY": "200, the terminal entry alone",
    "UNKNOWN": "200, one error `gap` per request id",
    "RESYNC": "200, a fresh id, the resync, then live",
    "FORGED": "400",
    "FORGOTTEN": "405",
}


def _resume_cases() -> list[tuple[str, Cursor, Stream | None, Offset | None]]:
    call, unused = StreamId("c1"), StreamId("c5")

    def at(offset: int, stream: StreamId, epoch: Epoch = _EPOCH) -> Cursor:
        return Cursor(epoch, stream, Offset(offset))

    return [
        ("another epoch, standalone stream", at(3, STANDALONE, _OTHER), _stream(STANDALONE), None),
        ("another epoch, call stream", at(3, call, _OTHER), _stream(call), None),
        ("above the newest offset of the log", at(21, call), _stream(call), None),
        ("a call stream that never was", at(3, unused), None, None),
        ("standalone stream, inside the window", at(6, STANDALONE), _stream(STANDALONE), None),
        ("standalone stream, below the floor", at(2, STANDALONE), _stream(STANDALONE), None),
        ("standalone stream, not open in this log", at(2, STANDALONE), None, None),
        ("running call, inside the window", at(6, call), _stream(call), None),
        ("running call, below the floor", at(2, call), _stream(call), None),
        ("complete call, inside the window", at(6, call), _stream(call, terminal=8), None),
        ("complete call, at its terminal entry", at(8, call), _stream(call, terminal=8), None),
        ("complete call, below the floor, result retained", at(2, call), _stream(call, terminal=8), None),
        ("complete call, below the floor, result dropped", at(2, call), _stream(call, terminal=8, kept=0), None),
        ("evicted call, before its end, ids remembered", at(2, call), None, Offset(8)),
        ("evicted call, at its end, ids remembered", at(8, call), None, Offset(8)),
        ("evicted call, ids no longer remembered", at(2, call), None, None),
    ]


def _stream(stream_id: StreamId, *, terminal: int | None = None, kept: int = 3) -> Stream:
    """Return a stream with the entries 6, 7 and 8, of which the newest *kept* remain; floor 5 when all remain."""
    stream = Stream(stream_id, Offset(5), (1,))
    for offset in (6, 7, 8):
        stream.append(Entry(Offset(offset), b"id: x\ndata: x\n\n", None))
    for _ in range(3 - kept):
        stream.drop_oldest()
    stream.terminal = None if terminal is None else Offset(terminal)
    return stream
