"""Write the generated blocks of the documents in this directory; `--check` only tells what is stale or missing.

A block stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; everything else is written by hand. Run by
`make docs` with the project's Python. Exit codes: 0, 1 when `--check` finds something, 2 for an unknown block.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from tools import faults, figures, layout, states, usage  # noqa: E402 - the path above comes first

BLOCKS: dict[str, Callable[[], str]] = {
    "faults inside a session": faults.inside_table,
    "faults outside a session": faults.outside_table,
    "fault codes": faults.codes_table,
    "session table": states.session_table,
    "session diagram": states.session_diagram,
    "binding table": states.binding_table,
    "binding diagram": states.binding_diagram,
    "binding events": states.binding_events,
    "rest table": states.rest_table,
    "member states": states.member_states,
    "health table": states.health_table,
    "health diagram": states.health_diagram,
    "health signals": states.health_signals,
    "health counts": states.health_counts,
    "job table": states.job_table,
    "job diagram": states.job_diagram,
    "job states": states.job_states,
    "job events": states.job_events,
    "outcomes": states.outcome_table,
    "actions": states.action_table,
    "statuses": states.status_table,
    "call states": states.call_states,
    "link states": states.link_states,
    "stream states": states.stream_states,
    "resume table": states.resume_table,
    "modules": layout.modules_table,
    "layers": layout.layers,
    "decisions": layout.decisions_table,
    "uses of the session id": usage.session_id,
    "uses of the upstream session id": usage.upstream_session_id,
    "uses of the event id": usage.event_id,
    "uses of the offset": usage.offset,
    "uses of the upstream cursor": usage.upstream_cursor,
}
_BLOCK = re.compile(r"(<!-- generated: ([a-z ]+) -->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL)


def written(text: str, figured: str | None = None) -> str:
    """Return a document with every generated block written anew; the benchmark's figures only where they are given."""

    def block(match: re.Match[str]) -> str:
        if match[2] == figures.NAME and figured is None:
            return match[0]
        made = figured if match[2] == figures.NAME else BLOCKS[match[2]]()
        return f"{match[1]}{made}\n{match[4]}"

    return _BLOCK.sub(block, text)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write the generated blocks of the documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when something is to do")
    parser.add_argument("directory", type=Path, nargs="?", default=HERE, help="other documents than these")
    parser.add_argument("--figures", type=Path, help="take the figures of this result of the benchmark, too")
    options = parser.parse_args()
    figured = None
    if options.figures is not None:
        result = json.loads(options.figures.read_text(encoding="utf-8"))
        figured = figures.table(result)
        (options.directory / figures.PICTURE).parent.mkdir(exist_ok=True)
        (options.directory / figures.PICTURE).write_text(figures.picture(result), encoding="utf-8")
    todo = [f"never sent: {reason} (core/faults.py)" for reason in faults.unused()]
    todo += [f"notes.toml: {problem}" for problem in usage.problems()]
    for path in sorted(options.directory.rglob("*.md")):
        before = path.read_text(encoding="utf-8")
        try:
            after = written(before, figured)
        except KeyError as error:
            sys.stderr.write(f"{path.name}: no block is named {error}\n")
            return 2
        if after != before and options.check:
            todo.append(f"stale: {path.relative_to(options.directory)} (make docs)")
        elif after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"written: {path.relative_to(options.directory)}\n")
    sys.stdout.writelines(f"{line}\n" for line in todo)
    return 1 if options.check and todo else 0


if __name__ == "__main__":
    sys.exit(main())
