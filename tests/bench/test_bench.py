"""The benchmark's own proof: what it would measure is checked to the byte, and its arithmetic is right."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import hotspots
import processes
import pytest
import run as bench
from contenders import BUILD, CONTENDERS, ROOT, SOURCES, Placement, running, session_proxy
from fan import run_fan_out
from figures import BASELINE, PRODUCT, Sample, as_json, judge, summarise, table
from load import run_calls, run_churn, run_sessions
from processes import BenchError, sockets
from storm import LAST_CHUNK, MISSED, Outcome, counted, run_storm
from wire import ChunkedBody, LoadError, Target

from upstream import BadRequestError, Kept, parse_head, without_correlation

STUB = Path(__file__).with_name("upstream.py")


class NoMeter:
    """A meter that sees nothing."""

    def start(self):
        """Begin."""

    def stop(self):
        """End."""

    def rss_bytes(self):
        """Know nothing."""
        return 0


@pytest.fixture(scope="module")
def stub_port():
    """Run the stub as the benchmark does; give its port."""
    process = subprocess.Popen([sys.executable, str(STUB)], stdout=subprocess.PIPE, text=True)
    yield int(process.stdout.readline().rpartition(":")[2].split("/")[0])
    process.terminate()
    process.wait(10)
    process.stdout.close()


@contextlib.contextmanager
def front(stub_port, change):
    """Stand between load and stub, in a thread, since a storm blocks; pass what the stub sends through `change`.

    A client that goes takes its connection to the stub along. Behind the end of a body nothing is passed.
    """
    loop = asyncio.new_event_loop()
    writers, tasks = [], set()

    async def copy(reader, writer, changed):
        ended = False
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                passed = b"" if ended else changed(data)
                writer.write(passed)
                ended = ended or (passed != data and passed.endswith(LAST_CHUNK))
        writer.close()

    async def accept(reader, writer):
        tasks.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", stub_port)
        writers.extend([writer, up_writer])
        await asyncio.gather(copy(reader, up_writer, lambda data: data), copy(up_reader, writer, change))

    async def close(server):
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()

    server = loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1", 0, backlog=128))
    port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(close(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def mangled(stub_port, old, new):
    """Replace the first `old` of each read from the stub by `new`."""
    return front(stub_port, lambda data: data.replace(old, new, 1))


def kept(mark, number):
    """Return the `number`-th event of a client as the stub sends it."""
    store = Kept(b"%d" % mark)
    return [store.add() for _ in range(number)][-1]


def workload(name, target):
    """Return a short run of one workload."""
    if name == "fan_out":
        return run_fan_out(target, NoMeter(), 20, 0.02)
    if name == "storm":
        return run_storm(target, NoMeter(), 8, remembers=False)
    if name == "churn":
        return run_churn(target, NoMeter(), 0.02)
    return run_calls(target, NoMeter(), name, 0.02)


@pytest.mark.parametrize("name", ["json", "sse", "big_json", "big_event", "churn"])
async def test_answers_of_a_sound_target_are_counted(stub_port, name):
    """Each closed loop runs against the stub itself and counts what it got."""
    count = await workload(name, Target("127.0.0.1", stub_port, stub_port))

    assert count > 0


async def test_each_event_is_counted_on_each_stream(stub_port):
    """The count of delivered events is rounds times streams."""
    delivered, _ = await workload("fan_out", Target("127.0.0.1", stub_port, stub_port))

    assert delivered > 0
    assert delivered % 20 == 0


async def test_memory_per_session_is_the_difference_over_the_count(stub_port):
    """Resident bytes before and after are subtracted and divided by the sessions opened."""

    class Growing(NoMeter):
        grown = 1000

        def rss_bytes(self):
            self.grown += 64000
            return self.grown

    each = await run_sessions(Target("127.0.0.1", stub_port, stub_port), Growing(), 64)

    assert each == 1000


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("json", b"HTTP/1.1 200", b"HTTP/1.1 500"),
        ("json", b'"id":1,"result":{"content"', b'"id":2,"result":{"content"'),
        ("json", b"quick", b"quack"),
        ("sse", b'"progress":2', b'"progress":1'),
        ("sse", b"data: {", b"dato: {"),
        ("sse", b'"id":1,"result":{"content"', b'"id":2,"result":{"content"'),
        ("big_json", b"xxxx", b"xxxy"),
        ("big_event", b"xxxx", b"xxxy"),
        ("big_event", b"data: {", b"dato: {"),
        ("churn", b"HTTP/1.1 202 ", b"HTTP/1.1 404 "),
        ("fan_out", b'"number":', b'"numbed":'),
        ("storm", kept(3, 5), kept(4, 5)),
        ("storm", kept(3, 5), kept(3, 5).replace(b"waits", b"wants")),
        ("storm", kept(3, 5), kept(3, 7)),
        ("storm", kept(3, 5), kept(3, 5) + b"x"),
        (
            "fan_out",
            b"text/event-stream\r\nCache-Control: no-cache\r\nT",
            b"text/event-stream\r\nCache-Control: no-cache\r\nX",
        ),
    ],
)
def test_a_wrong_answer_fails_the_run(stub_port, name, old, new):
    """A target that alters a status, an id, a payload or an event's order, or mixes up clients, is not measured."""
    with mangled(stub_port, old, new) as port, pytest.raises(LoadError):
        asyncio.run(workload(name, Target("127.0.0.1", port, stub_port)))


@pytest.mark.parametrize(
    ("change", "lost", "doubled"),
    [
        (lambda data: data, 0, 0),
        (lambda data: data.replace(kept(3, 5), b"").replace(kept(6, 9), b""), 2, 0),
        (lambda data: data.replace(kept(3, 5), kept(3, 5) * 3), 0, 2),
        (lambda data: data.replace(kept(2, MISSED + 1), kept(2, MISSED + 1) + kept(2, 4)), 0, 1),
    ],
)
def test_a_storm_counts_what_is_lost_and_what_is_doubled(stub_port, change, lost, doubled):
    """Every event that did not come, or came again, is counted, and none else."""
    with front(stub_port, change) as port:
        outcome = asyncio.run(workload("storm", Target("127.0.0.1", port, stub_port)))

    assert outcome == Outcome(8 * MISSED, lost, doubled)


def test_a_storm_comes_back_after_a_clean_end(stub_port):
    """A stream that is ended properly in the middle of the storm is asked for again, from the last id given."""
    cut = []

    def ended_once(data):
        at = data.find(kept(3, 5))
        if at < 0 or cut:
            return data
        cut.append(at)
        return data[: at + len(kept(3, 5))] + LAST_CHUNK

    with front(stub_port, ended_once) as port:
        outcome = asyncio.run(workload("storm", Target("127.0.0.1", port, stub_port)))

    assert cut
    assert outcome == Outcome(8 * MISSED, 0, 0)


@pytest.mark.e2e
def test_a_storm_through_the_product_is_measured_to_the_end(stub_port):
    """The proxy keeps its upstream streams while clients are away: the storm goes by its own event ids."""
    (BUILD / "bench").mkdir(parents=True, exist_ok=True)
    with (
        (BUILD / "bench" / "test.log").open("w") as log,
        running(session_proxy(), stub_port, Placement.choose(), log) as one,
    ):
        outcome = asyncio.run(run_storm(one.target, NoMeter(), 20, remembers=one.remembers))

    assert outcome == Outcome(20 * MISSED, 0, 0)


def test_the_first_and_the_last_event_count_too():
    """What is missing at either end of a storm is lost as well."""
    everything = list(range(1, MISSED + 3))

    assert counted([everything, everything[1:-1], [*everything, 1]]) == Outcome(3 * MISSED, 2, 1)


def test_an_event_id_that_was_never_given_is_refused():
    """A proxy that hands its own event ids on to the upstream is seen."""
    store = Kept(b"1")
    store.add()

    assert store.number_of(b"k-1") == 1
    for event_id in (b"k-2", b"s-1", b"k-", b"k-x"):
        with pytest.raises(BadRequestError):
            store.number_of(event_id)


def test_the_kernel_says_what_is_connected_and_what_is_unread():
    """Both ends of a connection are found by their port, with the bytes that nobody has read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert sockets(port) == []
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            client.sendall(b"12345")
            found = sockets(port)

    assert sorted(each.port == port for each in found) == [False, True]
    assert sum(each.queued for each in found if each.port == port) == 5


def test_more_streams_than_files_are_lowered_with_a_word(monkeypatch, capsys):
    """A number of streams that the limit of open files does not allow is lowered, and that is said."""
    monkeypatch.setattr(processes, "file_limit", lambda: 1000)

    assert processes.clamped(300, "--clients") == 300
    assert capsys.readouterr().out == ""
    assert processes.clamped(4000, "--clients") == 372
    assert "--clients: 4,000 need 8,256 open files and 1,000 are allowed: lowered to 372" in capsys.readouterr().out


@pytest.mark.parametrize("cut", range(1, 31))
def test_a_chunked_body_is_read_alike_however_it_is_cut(cut):
    """The decoder gives the same bytes for every cut, and keeps what lies behind the body."""
    wire = b"5\r\nhello\r\n7;x=y\r\n, there\r\n0\r\n\r\nnext"
    body = ChunkedBody()

    decoded = body.feed(wire[:cut]) + body.feed(wire[cut:])

    assert (decoded, body.done, body.carry) == (b"hello, there", True, b"next")


@pytest.mark.parametrize("name", ["X-Request-Id", "x-request-id"])
def test_an_id_of_the_contenders_own_costs_the_stub_nothing(name):
    """Who adds one to every request is not measured by what the stub does about it; the rest of the head counts."""
    heads = [
        f"POST /mcp HTTP/1.1\r\nHost: h\r\n{name}: {number}\r\nMcp-Session-Id: {session}\r\n".encode()
        for number, session in ((1, "a"), (22, "a"), (3, "b"))
    ]
    first, again, other = map(without_correlation, heads)

    assert first == again != other
    assert parse_head(first).session == b"a"
    assert without_correlation(first) == first


@pytest.mark.parametrize("name", ["nginx", "haproxy", "envoy"])
def test_a_missing_contender_is_an_error(monkeypatch, name):
    """Without a program and without a way to fetch it the benchmark says what to do, and does not run."""
    monkeypatch.setattr("shutil.which", lambda *arguments, **options: None)

    with pytest.raises(BenchError, match=f"install {name}|--without {name}"):
        CONTENDERS[name]()


def test_only_who_takes_part_is_needed(monkeypatch):
    """A contender that no wanted workload asks for, or that is left out, is not even looked for."""
    for name in CONTENDERS:
        monkeypatch.setitem(CONTENDERS, name, lambda name=name: name)

    assert bench.chosen(bench.parse(["--only", "storm", "churn"])) == [BASELINE, PRODUCT]
    assert bench.chosen(bench.parse(["--only", "json", "--without", "envoy"])) == [BASELINE, "haproxy", PRODUCT]
    assert bench.stands_in("added", "storm")


def sample(contender, number, cpu_seconds, workload="json", each=None, **counts):
    """Return 100 units in one second."""
    return Sample(workload, contender, number, 100, counts.pop("seconds", 1.0), cpu_seconds, each, **counts)


def verdicts(samples):
    """Return whether each figure was reached, by its measure."""
    return {verdict.goal.measure: verdict.met for verdict in judge(samples)}


def test_ratios_are_taken_inside_a_round():
    """A round in which the whole machine was slow does not move the ratio."""
    samples = [
        sample("proxy", 0, 0.030),
        sample("nginx", 0, 0.020),
        sample("nginx", 1, 0.200),
        sample("proxy", 1, 0.320),
        sample("proxy", 2, 0.034),
        sample("nginx", 2, 0.020),
    ]

    base, product = summarise(samples)

    assert (base.contender, base.cpu_ratio) == ("nginx", None)
    assert product.cpu_ratio.median == pytest.approx(1.6)
    assert (product.cpu_ratio.least, product.cpu_ratio.greatest) == pytest.approx((1.5, 1.7))
    assert verdicts(samples) == {"rate": True, "cpu_us": True}


def test_a_big_answer_is_held_against_haproxy():
    """The ratio of a workload is to the contender its goal names; without it the goal is not measured."""
    samples = [
        sample("nginx", 0, 0.1, "big_json", seconds=0.5),
        sample("proxy", 0, 0.1, "big_json", seconds=1.2),
        sample("haproxy", 0, 0.1, "big_json", seconds=1.0),
    ]

    rows = {row.contender: row for row in summarise(samples)}

    assert rows["nginx"].rate_ratio.median == pytest.approx(2.0)
    assert rows["haproxy"].rate_ratio is None
    assert verdicts(samples) == {"rate": True}
    assert verdicts(samples[:2]) == {"rate": None}
    assert verdicts(samples[:1]) == {}


def test_one_lost_event_in_one_round_misses_the_goal():
    """What must never happen is not judged by its median."""
    samples = [sample("nginx", number, 0.1, "storm", lost=0, doubled=0) for number in range(3)]
    samples += [sample("proxy", number, 0.1, "storm", seconds=0.5, lost=number == 1, doubled=0) for number in range(3)]

    assert verdicts(samples) == {"seconds": True, "lost": False, "doubled": True}
    assert "1 lost, 0 doubled" in table(summarise(samples), judge(samples), SIZES)


SIZES = {"streams": 1000, "more_streams": 5000, "clients": 4000, "sessions": 5000}


def test_a_missed_figure_is_named_in_the_table():
    """The table says which figure was to be reached and that it was missed."""
    samples = [sample("nginx", 0, 0.1, "sessions", 0.0), sample("proxy", 0, 0.1, "sessions", 12.5 * 1024)]

    text = table(summarise(samples), judge(samples), SIZES)

    assert "5,000 sessions opened" in text
    assert "KiB <= 12: MISSED" in text


def test_the_picture_shows_each_ratio_with_its_bound(monkeypatch):
    """The picture is sound XML in which every contender beside the baseline has a bar for each bound."""
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    from tools import figures as document

    samples = [sample(name, 0, 0.03 if name == "proxy" else 0.01) for name in ("nginx", "haproxy", "proxy")]
    result = json.loads(json.dumps(as_json(samples, summarise(samples), judge(samples))))
    picture = ET.fromstring(document.picture(result))

    bars = [each.get("class") for each in picture.iter("{http://www.w3.org/2000/svg}rect")]
    words = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert (bars.count("haproxy"), bars.count("proxy"), bars.count("nginx")) == (3, 3, 1)  # and one in the legend
    assert "3.00, <= 2x: MISSED" in words
    assert "1.00, >= 0.5x: met" in words


def test_a_sample_is_charged_to_the_innermost_function_of_the_product():
    """A library or the kernel counts for who called it, and the loop for itself alone."""
    begin = f"main ({SOURCES}/proxy/cli.py:1);run ({SOURCES}/proxy/app.py:150);Runner.run (/lib/asyncio/runners.py:86)"
    served = f"{begin};Connection.begin ({SOURCES}/proxy/downstream/connection.py:9)"
    lines = [
        f"{begin} 5",
        f"{served};Listener.handle ({SOURCES}/proxy/downstream/listener.py:7) 2",
        f"{begin};Call.begin ({SOURCES}/proxy/relay/call.py:9);write (/lib/transports.py:3) 3",
        " 1",
    ]

    parts, functions = hotspots.charged(lines)

    assert {part: count for part, count in parts.items() if count} == {hotspots.NOBODY: 6, "sorting": 2, "relay": 3}
    assert functions["Call.begin (proxy/relay/call.py)"] == 3
