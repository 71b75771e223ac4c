"""Log lines: one per record, as JSON or for a person, with fingerprints and nothing secret."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from proxy.observe.hooks import (
    VERBS,
    CallEndedUnknown,
    Fingerprint,
    Record,
    RequestRejected,
    SessionClosed,
    SessionOpened,
    SessionRebuilt,
    StreamResumed,
)
from proxy.observe.logs import ANYBODYS_LINES, LEVELS, LogObserver, configure
from support.fakes import FakeClock

SESSION_ID = "c2Vzc2lvbi1pZC1vZi0xOTItYml0cyE_"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Claim it."""
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Leave structlog and the root logger as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the JSON lines written so far."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_time_level_event_and_fields() -> None:
    """A record becomes one JSON object that starts with when, how severe and what."""
    stream = io.StringIO()
    configure("info", "json", stream)

    LogObserver("debug", float).session_rebuilt(
        SessionRebuilt(session="0123456789", request_id="r-1", upstream="default", generation=2, waited_seconds=0.12345)
    )
    (line,) = lines(stream)
    written = datetime.fromisoformat(line["timestamp"])

    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert written.tzinfo == UTC
    assert {name: value for name, value in line.items() if name != "timestamp"} == {
        "level": "info",
        "event": "session_rebuilt",
        "session": "0123456789",
        "request_id": "r-1",
        "upstream": "default",
        "generation": 2,
        "waited_seconds": 0.123,
    }


def test_empty_fields_are_left_out_and_zeros_stay() -> None:
    """A line says what is known; a zero is known."""
    stream = io.StringIO()
    configure("info", "json", stream)

    LogObserver("debug", float).stream_resumed(StreamResumed(stream="call", replayed=0))
    (line,) = lines(stream)

    assert {**line, "timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "stream_resumed",
        "stream": "call",
        "replayed": 0,
    }


@pytest.mark.parametrize("verb", VERBS)
def test_below_the_least_severe_level_a_record_is_not_even_read(verb: str) -> None:
    """What is not written costs nothing; what is, is written whole."""
    stream = io.StringIO()
    configure("debug", "json", stream)
    log = LogObserver("warning", float)

    if LEVELS[verb] == "info":
        getattr(log, verb)(None)
    else:
        getattr(log, verb)(Record(session="0123456789"))

    assert stream.getvalue().count("\n") == (LEVELS[verb] == "warning")


@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_one_line(verb: str, format_: str) -> None:
    """Each verb writes exactly one line, under its own name."""
    stream = io.StringIO()
    configure("info", format_, stream)

    getattr(LogObserver("debug", float), verb)(Record(session="0123456789"))

    assert stream.getvalue().count("\n") == 1
    assert verb in stream.getvalue()
    assert "0123456789" in stream.getvalue()


def test_losses_are_warnings() -> None:
    """With level warning, losses are written and the normal course is not."""
    stream = io.StringIO()
    configure("warning", "json", stream)
    log = LogObserver("debug", float)

    log.session_opened(SessionOpened(upstream="default"))
    log.call_ended_unknown(CallEndedUnknown(reason="reset"))

    assert [(line["event"], line["level"]) for line in lines(stream)] == [("call_ended_unknown", "warning")]
    assert {verb for verb, level in LEVELS.items() if level == "warning"} == {
        "gap_told", "call_ended_unknown", "upstream_lost", "rebuild_failed", "reader_cut",
        "notification_dropped", "request_rejected", "upstream_ejected", "pool_panicked", "move_failed",
        "reload_refused",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("format_", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("console", io.StringIO(), False),
    ],
)
def test_auto_follows_the_terminal(format_: str, stream: io.StringIO, is_json: bool) -> None:
    """A person at a terminal reads columns, a collector reads JSON, and either can be asked for."""
    configure("info", format_, stream)

    LogObserver("debug", float).session_closed(SessionClosed(reason="deleted"))
    text = stream.getvalue()

    assert text.startswith("{") is is_json
    assert ("\x1b[" in text) is (stream.isatty() and not is_json)
    assert "deleted" in text


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream the lines go to stderr, stdout stays free."""
    configure("info", "json")

    LogObserver("debug", float).session_closed(SessionClosed(reason="deleted"))
    written = capsys.readouterr()

    assert written.out == ""
    assert json.loads(written.err)["event"] == "session_closed"


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_session_id_never_appears(format_: str) -> None:
    """Fingerprinted or, by a caller's mistake, whole: no verb writes a session id or a part of it."""
    stream = io.StringIO()
    configure("debug", format_, stream)
    log, fingerprint = LogObserver("debug", float), Fingerprint(bytes(32))

    for verb in VERBS:
        getattr(log, verb)(Record(session=fingerprint(SESSION_ID)))
        getattr(log, verb)(Record(session=SESSION_ID))
    text = stream.getvalue()

    assert text.count(fingerprint(SESSION_ID)) == len(VERBS)
    assert text.count("not-a-fingerprint") == len(VERBS)
    assert [SESSION_ID[at : at + 6] for at in range(len(SESSION_ID) - 5) if SESSION_ID[at : at + 6] in text] == []


@pytest.mark.parametrize("value", ['x\n{"event":"forged"}', "\x1b[2J\u2028forged"])
@pytest.mark.parametrize("format_", ["json", "console"])
def test_no_value_can_forge_a_line(format_: str, value: str) -> None:
    """Line ends and escape sequences in a value are written as text."""
    stream = io.StringIO()
    configure("info", format_, stream)

    LogObserver("debug", float).session_closed(SessionClosed(request_id=value, reason="deleted"))
    text = stream.getvalue()

    assert text.removesuffix("\n").isprintable()
    assert "forged" in text


def test_library_errors_become_lines_without_their_text() -> None:
    """What a library logs is one line too, with the kind and place of an exception but not its text."""
    stream = io.StringIO()
    configure("info", "json", stream)

    try:
        raise ValueError(f"Mcp-Session-Id: {SESSION_ID}")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request\nfrom %s", "127.0.0.1")
    (line,) = lines(stream)

    assert (line["event"], line["level"], line["logger"]) == ("library_log", "error", "aiohttp.server")
    assert (line["message"], line["error"]) == ("Error handling request", "ValueError")
    assert line["at"].startswith("test_logs.py:")
    assert SESSION_ID not in stream.getvalue()


async def test_asyncio_errors_become_lines_without_their_text() -> None:
    """An exception nobody awaited, which asyncio repeats in its message, is told without its text."""
    stream = io.StringIO()
    configure("info", "json", stream)

    asyncio.get_running_loop().call_exception_handler(
        {
            "message": "Task exception was never retrieved",
            "exception": ValueError(SESSION_ID),
            "task": SESSION_ID,
        }
    )
    (line,) = lines(stream)

    assert (line["logger"], line["error"]) == ("asyncio", "ValueError")
    assert SESSION_ID not in stream.getvalue()


def test_library_levels() -> None:
    """Libraries are heard from warning on even at level debug, and an odd level of theirs is rounded down."""
    stream = io.StringIO()
    configure("debug", "json", stream)
    library = logging.getLogger("some.library")

    library.debug("bytes of a request")
    library.info("chatter")
    library.log(35, "odd")
    configure("error", "json", stream)
    library.warning("not now")

    assert [(line["message"], line["level"]) for line in lines(stream)] == [("odd", "warning")]


def test_configuring_twice_writes_once() -> None:
    """A second call replaces the first one, for libraries too."""
    first, second = io.StringIO(), io.StringIO()
    configure("info", "json", first)
    configure("info", "json", second)

    logging.getLogger("some.library").warning("once")
    LogObserver("debug", float).session_closed(SessionClosed(reason="deleted"))

    assert first.getvalue() == ""
    assert [line["event"] for line in lines(second)] == ["library_log", "session_closed"]


def test_a_broken_stream_does_not_reach_the_library_that_logs() -> None:
    """A closed stderr ends no request: the line is lost."""
    stream = io.StringIO()
    configure("info", "json", stream)
    stream.close()

    assert logging.getLogger("some.library").warning("lost") is None


def rejecting(count: int, log: LogObserver, stream: io.StringIO) -> list[dict[str, Any]]:
    """Have *count* requests rejected; return the lines of it."""
    before = len(lines(stream))
    for _ in range(count):
        log.request_rejected(RequestRejected(reason="bad_origin", status=403))
    return lines(stream)[before:]


def test_what_anybody_can_cause_has_so_many_lines_a_second() -> None:
    """The log is not filled by who is refused; how much was left out is told with the next line, once."""
    stream, clock = io.StringIO(), FakeClock()
    configure("info", "json", stream)
    log = LogObserver("info", clock.now)

    assert len(rejecting(ANYBODYS_LINES + 7, log, stream)) == ANYBODYS_LINES
    clock.advance(0.5)
    assert rejecting(3, log, stream) == []
    clock.advance(0.5)
    first, second = rejecting(2, log, stream)

    assert first["unlogged"] == 10
    assert "unlogged" not in second


def test_what_is_left_out_costs_no_other_line() -> None:
    """The events of sessions are written, however many are refused."""
    stream, clock = io.StringIO(), FakeClock()
    configure("info", "json", stream)
    log = LogObserver("info", clock.now)
    rejecting(2 * ANYBODYS_LINES, log, stream)
    before = len(lines(stream))
    for _ in range(2 * ANYBODYS_LINES):
        log.session_closed(SessionClosed(reason="deleted"))

    assert len(lines(stream)) - before == 2 * ANYBODYS_LINES
