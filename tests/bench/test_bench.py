"""The benchmark's own proof: what it would measure is checked to the byte, and its arithmetic is right."""

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from contenders import find_nginx
from fan import run_fan_out
from figures import Sample, summarise, table
from load import run_calls, run_churn, run_sessions
from processes import BenchError
from wire import ChunkedBody, LoadError, Target

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


@contextlib.asynccontextmanager
async def mangled(stub_port, old, new):
    """Stand between load and stub, and replace the first `old` of each read from the stub by `new`."""
    writers = []

    async def copy(reader, writer, change):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data.replace(old, new, 1) if change else data)
        writer.close()

    async def accept(reader, writer):
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", stub_port)
        writers.extend([writer, up_writer])
        await asyncio.gather(copy(reader, up_writer, False), copy(up_reader, writer, True))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
        await server.wait_closed()


def workload(name, target):
    """Return a short run of one workload."""
    if name == "fan_out":
        return run_fan_out(target, NoMeter(), 20, 0.02)
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
        (
            "fan_out",
            b"text/event-stream\r\nCache-Control: no-cache\r\nT",
            b"text/event-stream\r\nCache-Control: no-cache\r\nX",
        ),
    ],
)
async def test_a_wrong_answer_fails_the_run(stub_port, name, old, new):
    """A target that alters a status, an id, a payload or an event's order is not measured."""
    async with mangled(stub_port, old, new) as port:
        with pytest.raises(LoadError):
            await workload(name, Target("127.0.0.1", port, stub_port))


@pytest.mark.parametrize("cut", range(1, 31))
def test_a_chunked_body_is_read_alike_however_it_is_cut(cut):
    """The decoder gives the same bytes for every cut, and keeps what lies behind the body."""
    wire = b"5\r\nhello\r\n7;x=y\r\n, there\r\n0\r\n\r\nnext"
    body = ChunkedBody()

    decoded = body.feed(wire[:cut]) + body.feed(wire[cut:])

    assert (decoded, body.done, body.carry) == (b"hello, there", True, b"next")


def test_a_missing_nginx_is_an_error(monkeypatch):
    """Without nginx and without a way to fetch it the benchmark says what to do, and does not run."""
    monkeypatch.setattr("shutil.which", lambda *arguments, **options: None)

    with pytest.raises(BenchError, match="install nginx"):
        find_nginx()


def sample(contender, number, cpu_seconds, workload="json", each=None):
    """Return 100 units in one second."""
    return Sample(workload, contender, number, 100, 1.0, cpu_seconds, each)


def test_ratios_are_taken_inside_a_round():
    """A round in which the whole machine was slow does not move the ratio."""
    samples = [
        sample("proxy", 0, 0.20),
        sample("nginx", 0, 0.02),
        sample("nginx", 1, 0.20),
        sample("proxy", 1, 2.20),
        sample("proxy", 2, 0.24),
        sample("nginx", 2, 0.02),
    ]

    base, product = summarise(samples)

    assert (base.contender, base.cpu_ratio, base.reached) == ("nginx", None, None)
    assert product.cpu_ratio.median == pytest.approx(11.0)
    assert (product.cpu_ratio.least, product.cpu_ratio.greatest) == pytest.approx((10.0, 12.0))
    assert product.reached is True


def test_a_missed_figure_is_named_in_the_table():
    """The table says which figure was to be reached and that it was missed."""
    samples = [sample("nginx", 0, 0.1, "sessions", 0.0), sample("proxy", 0, 0.1, "sessions", 12.5 * 1024)]

    text = table(summarise(samples), {"streams": 1000, "sessions": 5000})

    assert "5,000 sessions opened" in text
    assert "<= 12 KiB: MISSED" in text
