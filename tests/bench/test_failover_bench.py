"""The failover benchmark's own proof: what it counts is right, and what must not happen is seen when it happens."""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import failover
import pytest
from failover_figures import (
    BIN_SECONDS,
    EXPECTED,
    NEVER,
    Cpu,
    Failover,
    Sample,
    Swap,
    as_json,
    blackouts,
    broken,
    calls_missed,
    events_missed,
    latencies,
    percentile,
    places,
    sampled,
    summarise,
    used,
)
from failover_load import Heard, Told, all_have, listening, open_sessions, outcome_of, steady_calls, told, until
from failover_processes import StubControl, configuration
from failover_report import BEGIN, END, lines, markdown, picture, placed, table
from failover_runs import Scene, Sizes, run_failover, run_swap
from failover_upstream import CHANGE, LOOK, QUICK, event
from load import connected, run
from processes import Placement
from wire import LoadError, Reply, Target

from proxy.config import load
from upstream import chunk

STUB = Path(__file__).with_name("failover_upstream.py")
WHOLE = [Heard(at, upstream, number) for at, (upstream, number) in enumerate(EXPECTED)]
"""What a stream is given when nothing is lost, an event each second."""


@pytest.fixture(scope="module")
def stub_port():
    """Run the stub as the benchmark does; give its port."""
    process = subprocess.Popen([sys.executable, str(STUB), "--name", "b"], stdout=subprocess.PIPE, text=True)
    yield int(process.stdout.readline().rpartition(":")[2].split("/")[0])
    process.terminate()
    process.wait(10)
    process.stdout.close()


def target_of(port):
    """Return a port of this machine as a target of the load."""
    return Target("127.0.0.1", port, port)


def end(mark, outcome="b", began_at=0.0, at=0.01, answers=1):
    """Return how a call ended."""
    return Told(mark, began_at, at, outcome, answers)


# -- what is counted


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0], 99, 3.0), ([1.0, 2.0, 3.0, 4.0], 50, 2.0), (list(range(1, 101)), 99, 99), (list(range(1, 201)), 99, 198)],
)
def test_a_percentile_is_a_value_that_was_measured(values, percent, expected):
    """The nearest rank is taken, whatever the order."""
    assert percentile(list(reversed(values)), percent) == expected


@pytest.mark.parametrize(
    ("heard", "lost", "doubled"),
    [
        (WHOLE, 0, 0),
        (WHOLE[:-1], 1, 0),
        ([*WHOLE, WHOLE[2]], 0, 1),
        ([*WHOLE[1:], WHOLE[2], WHOLE[2]], 1, 2),
        ([], 4, 0),
    ],
)
def test_events_that_are_missing_or_come_again_are_counted(heard, lost, doubled):
    """Every stream is held against what each upstream has sent."""
    assert events_missed([WHOLE, heard]) == {"events_lost": lost, "events_doubled": doubled}


@pytest.mark.parametrize(
    ("call", "ran", "expected"),
    [
        (end(1), ({1: 1}, {1: 1}), (0, 0, 0)),
        (end(1), ({}, {1: 1}), (0, 0, 0)),
        (end(1), ({1: 1}, {1: 2}), (0, 1, 0)),
        (end(1, answers=2), ({1: 1}, {1: 1}), (0, 1, 0)),
        (end(1, outcome="failed", answers=0), ({1: 1}, {}), (1, 0, 0)),
        (end(1, outcome="unknown"), ({1: 1}, {}), (0, 0, 1)),
        (end(1, outcome="a"), ({1: 1}, {}), (0, 0, 1)),
    ],
)
def test_a_reading_call_may_run_once_on_each_upstream(call, ran, expected):
    """One without an answer is lost, one that is answered or run too often doubled, one that ends otherwise wrong."""
    counted = calls_missed([call], ["b"], ran, may_repeat=True)

    assert (counted["lost"], counted["doubled"], counted["failed"]) == expected


def test_any_other_call_may_run_once_in_all():
    """A call that was run by both upstreams is doubled, though each ran it once and its client was told once."""
    counted = calls_missed([end(1, outcome="unknown"), end(2, outcome="unknown")], ["unknown"], ({1: 1, 2: 1}, {2: 1}))

    assert counted == {"lost": 0, "doubled": 1, "failed": 0}


def test_a_blackout_ends_with_the_first_byte_of_the_new_upstream():
    """It runs from the last event of the old one to the first of the new one, whatever came otherwise."""
    assert blackouts([WHOLE, [Heard(5.0, "a", 1), Heard(6.5, "b", 0), Heard(9.0, "b", 1)]]) == [1.0, 1.5]


def test_the_cpu_is_read_around_the_window():
    """What was used before and after does not count."""
    seen = [Cpu(0.0, 1.0, 0.0), Cpu(1.0, 1.1, 0.5), Cpu(2.0, 1.4, 0.6), Cpu(3.0, 9.0, 9.0)]

    assert used("x", seen, 1.5, 2.0) == pytest.approx({"x_cpu_ms": 300.0, "x_waited_ms": 100.0})


def a_failover(*, is_safe):
    """Return a failover of three sessions, two with a call in flight."""
    return Failover(
        killed_at=1.0,
        ejected_at=1.5,
        heard=[WHOLE, WHOLE, WHOLE],
        held=[
            end(7, "b" if is_safe else "unknown", at=1.75),
            end(8, "b" if is_safe else "unknown", at=1.65),
        ],
        is_safe=is_safe,
        steady=[end(1, began_at=0.5, at=0.51), end(2, began_at=1.2, at=1.3), end(3, began_at=2.5, at=2.52)],
        ran=({7: 1, 8: 1}, {1: 1, 2: 1, 3: 1} | ({7: 1, 8: 1} if is_safe else {})),
        cpu=[Cpu(0.0, 0.0, 0.0), Cpu(9.0, 0.1, 0.0)],
    )


def test_a_failover_is_reckoned_from_its_instants():
    """Calls in flight count until their answer, other sessions until their stream; nothing went wrong here."""
    figures = a_failover(is_safe=True).figures()

    assert figures["detection_ms"] == pytest.approx(500)
    assert (figures["blackout_p50_ms"], figures["blackout_p99_ms"]) == pytest.approx((650, 750))
    assert (figures["beyond_p50_ms"], figures["beyond_p99_ms"]) == pytest.approx((150, 250))
    assert figures["others_p50_ms"] == pytest.approx(1000)
    assert [figures[f"{part}_p50_ms"] for part in ("before", "during", "after")] == pytest.approx([10, 100, 20])
    assert "told_p50_ms" not in figures
    assert not any(figures[name] for name in NEVER)


def test_calls_that_are_not_sent_again_count_until_they_are_told():
    """The time runs from the kill, and their sessions are among the others."""
    figures = a_failover(is_safe=False).figures()

    assert (figures["told_p50_ms"], figures["told_p99_ms"]) == pytest.approx((650, 750))
    assert figures["failed"] == 0
    assert "beyond_p99_ms" not in figures


def test_a_swap_is_reckoned_from_its_request_to_its_end():
    """Sessions that did not move are told, and the steady calls are split at both ends."""
    figures = Swap(
        asked_at=1.0,
        done_at=2.0,
        moved_at=[1.2, 1.8],
        sessions=3,
        heard=[WHOLE],
        steady=[end(1, "a", 0.5, 0.51), end(2, "a", 1.5, 1.52), end(3, "failed", 2.5, 2.6)],
        ran=({1: 1, 2: 1, 3: 1}, {3: 1}),
        counts={"moved": 2},
        cpu=[Cpu(0.0, 0.0, 0.0), Cpu(9.0, 0.1, 0.0)],
    ).figures()

    assert (figures["duration_s"], figures["moving_s"]) == pytest.approx((1.0, 0.8))
    assert (figures["moved"], figures["not_moved"]) == (2, 1)
    assert (figures["steady_calls"], figures["steady_failed"], figures["steady_doubled"]) == (3, 1, 1)


# -- over time


def record(at, name, session, upstream=""):
    """Return a line of the proxy's log."""
    return {"at": at, "event": name, "session": session, "upstream": upstream}


def test_sessions_are_followed_through_the_log():
    """A session without an upstream counts as nowhere until it is rebuilt; what names no session moves nobody."""
    steps = places(
        [
            record(1.0, "session_opened", "s", "a"),
            record(1.1, "session_opened", "t", "a"),
            record(2.0, "upstream_lost", "", "a"),
            record(2.1, "upstream_lost", "s", "a"),
            record(3.0, "session_rebuilt", "s", "b"),
            record(3.0, "session_failed_over", "s", "b"),
            record(4.0, "session_moved", "t", "b"),
        ],
        offset=10.0,
    )

    assert [at for at, _ in steps] == [11.0, 11.1, 12.1, 13.0, 14.0]
    assert steps[2][1] == {"a": 1, "": 1}
    assert steps[-1][1] == {"a": 0, "": 0, "b": 2}


def test_the_timeline_holds_what_was_so_at_the_end_of_each_bin():
    """Several changes in a bin leave the last one's numbers, a bin without any those before."""
    steps = [(0.01, {"a": 1}), (0.02, {"a": 2}), (0.12, {"a": 1, "": 1})]

    rows = sampled(steps, 0.0, 4 * BIN_SECONDS, zero=0.1)

    assert [row["a"] for row in rows] == [2, 2, 1, 1]
    assert [row["nowhere"] for row in rows] == [0, 0, 1, 1]
    assert [row["at"] for row in rows] == pytest.approx([-0.05, 0.0, 0.05, 0.1])


def test_latencies_are_gathered_by_when_calls_began():
    """Each bin has its own median and its slowest call."""
    calls = [end(1, began_at=0.0, at=0.01), end(2, began_at=0.04, at=0.34), end(3, began_at=0.06, at=0.08)]

    first, second = latencies(calls, zero=0.0)

    assert (first["p50"], first["max"]) == pytest.approx((10, 300))
    assert (second["at"], second["max"]) == pytest.approx((0.075, 20))


# -- over rounds


def sample(number, scenario="failover", timeline=None, **figures):
    """Return one run."""
    return Sample(scenario, number, figures, timeline or {})


def verdicts(samples):
    """Return what became of each goal, by its measure."""
    return {row.measure: row.is_met for row in summarise(samples) if row.at_most is not None}


def test_a_figure_is_held_against_its_goal_by_its_median():
    """One slow round of three misses nothing, two do."""
    values = [120.0, 140.0, 300.0]

    assert verdicts([sample(at, beyond_p99_ms=value) for at, value in enumerate(values)]) == {"beyond_p99_ms": True}
    values[1] = 160.0
    assert verdicts([sample(at, beyond_p99_ms=value) for at, value in enumerate(values)]) == {"beyond_p99_ms": False}


def test_one_lost_call_in_one_round_fails_the_run():
    """What must not happen is judged by every round; a missed figure alone fails nothing."""
    rows = summarise([sample(0, lost=0, beyond_p99_ms=999.0), sample(1, lost=1), sample(2, lost=0)])

    assert broken(rows) == ["failover: lost is 1"]


def a_result():
    """Return a result with a failover and a swap, as it is read from JSON."""
    timeline = {
        "places": [{"at": at / 20, "a": 10.0, "b": 0.0, "nowhere": 0.0} for at in range(-20, 60)],
        "latencies": [{"at": at / 20, "p50": 6.0, "max": 20.0} for at in range(-20, 60)],
    }
    figures = {"detection_ms": 1003.0, "beyond_p50_ms": 90.0, "beyond_p99_ms": 120.0, "lost": 0, "doubled": 0}
    samples = [
        sample(0, timeline=timeline | {"held": [{"at": 1.1, "ms": 1100.0}]}, **figures, failed=0),
        sample(0, "swap", timeline | {"held": []}, duration_s=2.5, moved=1100, not_moved=0),
    ]
    options = failover.parse(["--rounds", "1"])
    bench = failover.Bench(options)
    bench.samples = samples
    machine = {"cpu": "a CPU", "cpus": 2, "kernel": "6", "load_average": (0.0, 0.0, 0.0)}
    return json.loads(json.dumps(bench.result(machine) | as_json(samples, summarise(samples))))


def test_a_missed_figure_is_named_in_the_table():
    """The table says what was to be reached and whether it was."""
    rows = {(figure, value, verdict) for _, figure, value, verdict in lines(a_result())}

    assert ("calls in flight: beyond detection", "90, 120 ms, p50 and p99", "p99 <= 150: met") in rows
    assert ("calls in flight: lost, doubled, wrong end", "0, 0, 0", "0: met") in rows
    assert ("duration", "2.50 s", "<= 2: MISSED") in rows
    assert "<= 2: MISSED" in table(a_result())


def test_the_document_gets_the_figures_and_keeps_its_words():
    """Only the measured block is written anew; a document without one is refused."""
    document = placed(f"before\n{BEGIN}old\n{END}\nafter\n", markdown(a_result()))

    assert document.startswith("before\n")
    assert document.endswith("\nafter\n")
    assert "old" not in document
    assert "| failover, reading calls in flight | from SIGKILL to ejection | 1,003 ms | - |" in document
    with pytest.raises(ValueError, match="no block"):
        placed("nothing\n", "figures")


def test_the_picture_shows_both_runs_with_sessions_and_latencies():
    """It is sound XML with a line for each place and each latency of both, and a dot for each call in flight."""
    drawn = ET.fromstring(picture(a_result()))

    kinds = [each.get("class") for each in drawn.iter("{http://www.w3.org/2000/svg}path")]
    texts = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    dots = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert [kinds.count(name) for name in ("a", "b", "nowhere", "p50", "max")] == [4, 4, 4, 4, 4]  # half are legends
    assert len(dots) == 2
    assert {"ejected", "done"} <= set(texts)


# -- what is asked and told


def test_the_proxy_has_its_defaults_but_for_what_is_named(tmp_path):
    """The configuration is one the proxy takes, with the pool, the addresses and the settings asked for."""
    file = tmp_path / "config.toml"
    urls = {"a": "http://127.0.0.1:1/mcp", "b": "http://127.0.0.1:2/mcp"}
    file.write_text(configuration(3, 4, urls, dict([failover.setting("health.fall=2")])))

    config = load(file, {}, {})

    assert {name: upstream.url for upstream in config.routes[0].upstreams for name in [upstream.name]} == urls
    assert (config.listen.port, config.admin.port, config.health.fall) == (3, 4, 2)
    assert config.given == {"listen.address", "admin.address", "health.fall", "routes"}


@pytest.mark.parametrize("scenario", failover.SCENARIOS)
def test_every_scenario_asks_for_settings_that_there_are(scenario, tmp_path):
    """What differs from the defaults is taken by the proxy."""
    file = tmp_path / "config.toml"
    file.write_text(configuration(3, 4, {"a": "http://127.0.0.1:1/mcp"}, failover.SCENARIOS[scenario].settings))

    given = load(file, {}, {}).given

    assert set(failover.SCENARIOS[scenario].settings) <= given


def test_an_answer_says_who_ran_the_call_or_why_nobody_knows():
    """An error tells its outcome, another call's answer is none."""
    ran = {"result": {"content": [{"type": "text", "text": "b ran 5"}]}}
    error = {"error": {"code": -32050, "message": "x", "data": {"outcome": "unknown", "reason": "connection_broken"}}}

    assert outcome_of(ran, 5) == ("b", "")
    assert outcome_of(ran, 6)[0] == "failed"
    assert outcome_of(error, 5) == ("unknown", "connection_broken")


@pytest.mark.parametrize(
    ("reply", "outcome", "answers"),
    [
        (Reply(200, b"HTTP/1.1 200 OK\r\n\r\n", b'{"id":5,"result":{"content":[{"text":"b ran 5"}]}}'), "b", 1),
        (
            Reply(
                200,
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
                b'id: 1\ndata: \n\ndata: {"id":5,"result":{"content":[{"text":"b ran 5"}]}}\n\n' * 2,
            ),
            "b",
            2,
        ),
        (Reply(200, b"HTTP/1.1 200 OK\r\n\r\n", b'{"id":6,"result":{}}'), "failed", 0),
        (Reply(502, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b""), "failed", 0),
    ],
)
def test_the_answers_of_a_call_are_counted(reply, outcome, answers):
    """As JSON or as a stream, only messages with its id answer a call."""
    script = told(target_of(1), b"s", 5, LOOK)
    next(script)

    with pytest.raises(StopIteration) as ended:
        script.send(reply)

    assert (ended.value.value.outcome, ended.value.value.answers) == (outcome, answers)


# -- the stub and the load


async def test_the_stub_says_who_it_is_and_counts_what_it_runs(stub_port):
    """Handshake, tools and events name it, and each run of a call is counted under its mark."""
    target = target_of(stub_port)
    (session, name), *_ = await open_sessions(target, 1)
    async with connected("127.0.0.1", stub_port, 1) as connections:
        (quick,) = await run(connections, [told(target, session, 3, QUICK)])
        (again,) = await run(connections, [told(target, session, 3, LOOK)])
        marks = await StubControl(connections).marks()

    assert (name, quick.outcome, again.outcome) == ("b", "b", "b")
    assert marks[3] == 2


async def test_a_stream_is_given_each_event_of_the_stub(stub_port):
    """It begins with an event, and gets one more each time the stub is told to speak."""
    target = target_of(stub_port)
    sessions = [one.session for one in await open_sessions(target, 3)]
    async with (
        listening(target, sessions) as listeners,
        connected("127.0.0.1", stub_port, 1) as connections,
    ):
        control = StubControl(connections)
        await all_have(listeners, "b", 0)
        said = (await control.status())["said"]
        await control.post(b"/say")
        await all_have(listeners, "b", said + 1)

    assert [len(listener.heard) for listener in listeners] == [2, 2, 2]


async def test_steady_calls_are_answered_one_for_one(stub_port):
    """Every call that was due has its end, under a mark of its own."""
    target = target_of(stub_port)
    sessions = [one.session for one in await open_sessions(target, 2)]
    async with steady_calls(target, sessions, 2000.0, 100) as steady:
        await until(lambda: len(steady.ended) >= 20, "calls are not answered")

    assert len(steady.ended) == steady.begun >= 20
    assert {call.mark for call in steady.ended} == set(range(100, 100 + steady.begun))
    assert {call.outcome for call in steady.ended} == {"b"}


@contextlib.asynccontextmanager
async def served(answer):
    """Answer each connection by `answer(reader, writer)`, then close it; give the port."""
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.gather(*tasks)
    await server.wait_closed()


async def test_a_refused_call_is_a_failed_one():
    """A target that is gone leaves ends that say so, not a hang."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")

    async with served(answer) as port, steady_calls(target_of(port), [b"s"], 1000.0, 1) as steady:
        await until(lambda: bool(steady.ended), "no call has ended")

    assert len(steady.ended) == steady.begun
    assert {call.outcome for call in steady.ended} == {"failed"}


@pytest.mark.parametrize(
    "frames",
    [
        b"data: " + event(b"b", 1).replace(b"bench", b"bunch") + b"\n\n",
        b'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n',
        None,
    ],
)
async def test_a_stream_that_is_altered_or_ended_fails_the_run(frames):
    """What nobody has sent, and the end of a stream, is no measurement."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b": \n\n"))
        if frames is not None:
            writer.write(chunk(frames))
            await reader.read()

    async with served(answer) as port:
        with pytest.raises(LoadError, match="delivered|closed"):
            async with listening(target_of(port), [b"s"]) as listeners:
                await all_have(listeners, "b", 0)


# -- the product

SIZES = Sizes(sessions=12, held=4, others=4, rate=100.0, settled_seconds=0.1)


@pytest.mark.e2e
@pytest.mark.parametrize(("tool", "measured"), [(LOOK, "beyond_p99_ms"), (CHANGE, "told_p99_ms")])
def test_a_failover_through_the_product_is_measured_to_the_end(tool, measured, tmp_path):
    """Calls that read are answered by the other upstream, others are told, and nothing is lost or doubled."""
    scene = Scene(SIZES, Placement.choose(), tmp_path, {"health.eject_after_seconds": 0.0})

    taken = asyncio.run(run_failover(scene, 0, "failover", tool))

    assert broken(summarise([taken])) == []
    assert taken.figures[measured] > 0
    assert taken.timeline["places"][-1]["b"] >= SIZES.sessions + SIZES.others
    assert len(taken.timeline["held"]) == SIZES.held


@pytest.mark.e2e
@pytest.mark.parametrize("with_streams", [True, False])
def test_a_swap_through_the_product_is_measured_to_the_end(with_streams, tmp_path):
    """Every session is moved, and no call and no event is lost or doubled."""
    scene = Scene(SIZES, Placement.choose(), tmp_path, {})

    taken = asyncio.run(run_swap(scene, 0, "swap", with_streams=with_streams))

    assert broken(summarise([taken])) == []
    assert taken.figures["moved"] == SIZES.sessions + SIZES.others
    assert taken.timeline["places"][-1] == pytest.approx(
        {"at": taken.timeline["places"][-1]["at"], "a": 0, "b": SIZES.sessions + SIZES.others, "nowhere": 0}
    )
