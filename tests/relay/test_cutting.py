"""Large responses that go to the client before their end is there: when they may, and whatever breaks them off."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from proxy.app import App
from proxy.core.cut import CUT_BYTES
from proxy.core.session import CloseReason
from proxy.downstream.sockets import bind
from proxy.relay.attempt import HELD_FROM
from proxy.relay.call import CANCEL_SECONDS
from support.fakes import JSON_TYPE, Attempt, FakeSink, initialize_answer, make_config, post, request_body
from support.raw import RawConnection, RawSession
from support.raw_server import Peer, RawServer, chunk, ok
from support.scenes import Scene, break_off, progress, reason, result

SIZE = 2 * CUT_BYTES
TEXT = "x" * SIZE


def large(request_id: int | str = 1) -> bytes:
    """Return a large response."""
    return json.dumps(result(request_id, text=TEXT)).encode()


def frame(data: bytes, event_id: str = "") -> bytes:
    """Write a frame of the upstream's."""
    return b"event: message\n" + (f"id: {event_id}\n".encode() if event_id else b"") + b"data: " + data + b"\n\n"


def half(attempt: Attempt, data: bytes, event_id: str = "") -> bytes:
    """Send a frame but for its end, in chunks, and return what is missing."""
    wire = frame(data, event_id)
    for start in range(0, len(wire) - 1_000, 65_536):
        attempt.data(wire[start : min(start + 65_536, len(wire) - 1_000)])
    return wire[-1_000:]


def begun(
    scene: Scene, data: bytes | None = None, event_id: str = "", *, cursor: str = "u-1"
) -> tuple[FakeSink, Attempt, bytes]:
    """Begin a call whose upstream answers with a large frame; its end is returned."""
    sink, attempt = scene.streaming(1, cursor=cursor)
    before = len(sink.body)
    rest = half(attempt, large() if data is None else data, event_id)

    assert len(sink.body) > before + SIZE / 2, "nothing went out before the end"
    return sink, attempt, rest


def assert_quiet(scene: Scene) -> None:
    """Hold that nothing is left of what is over."""
    scene.settle()
    budget = scene.ctx.budget
    assert (scene.relay.calls, budget.held) == ({}, 0)
    assert scene.edge.open == []


# -- what goes through


@pytest.mark.parametrize("has_id", [False, True])
def test_a_large_response_goes_out_before_its_end(has_id: bool) -> None:
    """It arrives byte for byte, ends the stream, and comes again from the log with the same id."""
    scene = Scene()
    sink, attempt, rest = begun(scene, event_id="u-2" if has_id else "")
    first = sink.ids[0]
    attempt.data(rest)

    assert [f.data for f in sink.frames] == [b"", large()]
    assert sink.finished
    assert scene.relay.calls == {}

    again = scene.get(first)

    assert [f.data for f in again.frames] == [large()]
    assert again.last_id == sink.last_id
    assert scene.get(sink.last_id).status == 405

    attempt.end()
    assert_quiet(scene)


@pytest.mark.parametrize("cut", [1, 30, 1_000, 4_096, 65_536, CUT_BYTES, SIZE])
def test_wherever_the_upstream_cuts_its_bytes(cut: int) -> None:
    """Parts of any size are the same message."""
    scene = Scene()
    sink, attempt = scene.streaming(1, progress(1), cursor="u-1")
    wire = frame(large(), "u-2")
    size = max(cut, 64)
    pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
    for piece in (*pieces[:-1], *(pieces[-1][at : at + cut] for at in range(0, len(pieces[-1]), cut))):
        attempt.data(piece)

    assert [f.data for f in sink.frames[1:]] == [json.dumps(progress(1)).encode(), large()]
    assert sink.finished


def test_an_id_that_comes_last_is_recognised() -> None:
    """One official SDK writes the result first and the id last: one open request is all it can be."""
    scene = Scene()
    data = b'{"result":{"text":"%b"},"jsonrpc":"2.0","id":1}' % TEXT.encode()
    sink, attempt, rest = begun(scene, data)
    attempt.data(rest)

    assert [f.data for f in sink.frames] == [b"", data]
    assert sink.finished


def test_a_large_error_goes_through() -> None:
    """An error is an answer like any other."""
    scene = Scene()
    data = b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m","data":{"text":"%b"}}}' % TEXT.encode()
    sink, attempt, rest = begun(scene, data)
    attempt.data(rest)

    assert sink.messages[-1]["error"]["code"] == -1
    assert sink.finished


def test_lines_behind_the_data_are_part_of_it() -> None:
    """A second data line, a later event and a later id of the upstream count as in a frame that comes whole."""
    scene = Scene()
    sink, attempt, rest = begun(scene, large()[:-1])
    attempt.data(rest.removesuffix(b"\n\n") + b"\nid: u-9\ndata: }\nevent: other\n\n")

    assert (sink.frames[-1].data, sink.frames[-1].event) == (large()[:-1] + b"\n}", b"other")
    assert [entry.upstream_id for entry in scene.relay.log.find("c1").entries] == [b"u-9"]
    assert sink.finished


def test_one_of_several_answers_goes_through_and_the_stream_goes_on() -> None:
    """In a batch the frame is no terminal entry; the upstream's later frames follow."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(request_body("tools/call", 1), request_body("tools/call", 2))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(progress(1))
    rest = half(attempt, large(2))
    sent = len(sink.body)
    attempt.data(rest)
    attempt.frame(result(1))

    assert sent > SIZE / 2
    assert [m["id"] for m in sink.messages[1:]] == [2, 1]
    assert sink.finished


def test_the_id_of_a_frame_in_parts_is_a_cursor() -> None:
    """What broke behind it is asked for from there."""
    scene = Scene(version="2025-03-26")
    scene.batch(request_body("tools/call", 1), request_body("tools/call", 2))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(progress(1), "u-1")
    attempt.data(half(attempt, large(2), "u-2"))
    break_off(attempt)
    scene.clock.advance(10.0)

    assert scene.edge.one(method="GET").header("Last-Event-ID") == "u-2"


# -- what does not


def test_with_several_open_requests_an_id_that_comes_last_is_awaited() -> None:
    """Which of them the frame answers is known at its end."""
    scene = Scene(version="2025-03-26")
    sink = scene.batch(request_body("tools/call", 1), request_body("tools/call", 2))
    attempt = scene.edge.last
    attempt.sse()
    attempt.frame(progress(1))
    before = sink.body
    rest = half(attempt, b'{"result":{"text":"%b"},"jsonrpc":"2.0","id":2}' % TEXT.encode())

    assert sink.body == before

    attempt.data(rest)

    assert [m.get("id") for m in sink.messages] == [None, 2]


@pytest.mark.parametrize(
    ("data", "is_answer"),
    [
        (b'{"jsonrpc":"2.0","method":"m","params":{"text":"%b"}}', False),
        (b'{"jsonrpc":"2.0","id":5,"method":"m","params":{"text":"%b"}}', False),
        (b'[{"jsonrpc":"2.0","id":1,"result":{"text":"%b"}}]', True),
        (b'{"jsonrpc":"2.0","id":2,"result":{"text":"%b"}}', None),
        (b'{"jsonrpc":"2.0","id":"1","result":{"text":"%b"}}', None),
        (b'"%b"', False),
    ],
)
def test_what_is_not_recognised_comes_whole(data: bytes, is_answer: bool | None) -> None:
    """Notifications, requests, batches and answers to others are taken when they are there, as ever."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="u-1")
    before = sink.body
    text = data % TEXT.encode()
    rest = half(attempt, text)

    assert sink.body == before

    attempt.data(rest)

    assert [f.data for f in sink.frames[1:]] == ([] if is_answer is None else [text])
    assert sink.finished == (is_answer is True)


def test_a_client_without_an_event_id_gets_it_whole() -> None:
    """It could not come back if the frame broke off: older revisions have no id before the first frame."""
    scene = Scene(version="2025-06-18")
    sink, attempt = scene.streaming(1)
    rest = half(attempt, large())

    assert sink.frames == []

    break_off(attempt)

    assert reason(sink) == "stream_broken"
    assert rest


def test_a_request_that_is_remembered_is_answered_whole() -> None:
    """Whether it is an error is asked before the answer goes out."""
    scene = Scene()
    sink = scene.call(1, "resources/subscribe", {"uri": "a:1"})
    attempt = scene.edge.last
    attempt.sse()
    before = sink.body
    attempt.data(half(attempt, large()))

    assert sink.body.startswith(before)
    assert sink.finished
    assert list(scene.relay.session.subscriptions) == ["a:1"]


def test_on_a_resumed_stream_an_id_that_comes_last_is_awaited() -> None:
    """One event store mixes in frames of other calls, so only a named id is proof."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="u-1")
    break_off(attempt)
    scene.clock.advance(10.0)
    again = scene.edge.one(method="GET")
    again.sse()
    before = sink.body
    foreign = b'{"result":{"text":"%b"},"jsonrpc":"2.0","id":7}' % TEXT.encode()
    again.data(half(again, foreign))

    assert [f.data for f in sink.frames] == [b""]

    rest = half(again, large())

    assert len(sink.body) > len(before) + SIZE / 2

    again.data(rest)

    assert [f.data for f in sink.frames] == [b"", large()]
    assert sink.finished


def test_a_full_client_gets_it_whole_later() -> None:
    """It is given no beginning; what it missed comes first."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="u-1")
    sink.congest()
    attempt.frame(progress(1))
    rest = half(attempt, large())
    attempt.data(rest)

    assert [f.data for f in sink.frames] == [b""]

    sink.drain()

    assert [f.data for f in sink.frames[1:]] == [json.dumps(progress(1)).encode(), large()]
    assert sink.finished


# -- what breaks it off


def assert_cut(scene: Scene, sink: FakeSink, expected: str) -> None:
    """Hold that the client was cut without a last chunk, and is told the outcome when it comes back."""
    assert sink.aborted
    assert not sink.finished
    assert [f.data for f in sink.frames] == [b""]

    again = scene.get(sink.last_id)

    assert reason(again) == expected
    assert again.finished
    assert scene.get(again.last_id).status == 405
    assert_quiet(scene)


def test_an_upstream_that_breaks_off_without_a_cursor() -> None:
    """Half a frame is nothing: the client is cut off and is told on its return that the outcome is unknown."""
    scene = Scene()
    sink, attempt, _ = begun(scene, cursor="")
    break_off(attempt)

    assert_cut(scene, sink, "stream_broken")


def test_an_upstream_that_ends_in_the_middle() -> None:
    """A proper end of the body in the middle of a frame is none of the frame."""
    scene = Scene()
    sink, attempt, _ = begun(scene, cursor="")
    attempt.end()

    assert_cut(scene, sink, "stream_broken")


@pytest.mark.parametrize("comes_back", ["before", "after"])
def test_an_upstream_that_can_be_resumed_sends_it_again(comes_back: str) -> None:
    """Nothing of the half is kept: the frame comes once, whole, to a client that came back."""
    scene = Scene()
    sink, attempt, _ = begun(scene, event_id="u-2")
    break_off(attempt)
    first = sink.last_id
    back = scene.get(first) if comes_back == "before" else None
    scene.clock.advance(10.0)
    resumed = scene.edge.one(method="GET")

    assert resumed.header("Last-Event-ID") == "u-1", "the id of a frame that never ended is no cursor"

    resumed.sse()
    resumed.data(frame(large(), "u-2"))
    resumed.end()
    back = scene.get(first) if back is None else back

    assert sink.aborted
    assert [f.data for f in back.frames if f.data] == [large()]
    assert back.finished
    assert_quiet(scene)


def test_a_frame_that_grows_beyond_the_bound() -> None:
    """It is given up in the middle, and the client told on its return."""
    scene = Scene(max_message_bytes=SIZE - 10_000)
    sink, attempt, _ = begun(scene)

    assert attempt.is_aborted
    assert_cut(scene, sink, "answer_too_large")


def test_a_cancelled_call_that_is_not_over_in_time() -> None:
    """The timer of the cancel ends it in the middle."""
    scene = Scene()
    sink, attempt, _ = begun(scene)
    scene.cancel(1)
    scene.edge.one(rpc="notifications/cancelled").answer(202)

    assert not sink.is_over

    scene.clock.advance(CANCEL_SECONDS)

    assert attempt.is_aborted
    assert_cut(scene, sink, "cancelled")


def test_the_end_of_the_session() -> None:
    """The client is cut in the middle, not ended as if it had all."""
    scene = Scene()
    sink, attempt, _ = begun(scene)
    listening = scene.get()
    scene.relay.close(CloseReason.DELETED)

    assert attempt.is_aborted
    assert (sink.aborted, sink.finished) == (True, False)
    assert not listening.aborted
    assert scene.ctx.budget.held == 0


def test_a_resumed_stream_that_falls_silent_in_the_middle() -> None:
    """It is asked for once more, from before the frame, and the frame comes whole to who was cut off."""
    scene = Scene()
    sink, attempt = scene.streaming(1, cursor="u-1")
    break_off(attempt)
    scene.clock.advance(10.0)
    resumed = scene.edge.one(method="GET")
    resumed.sse()
    half(resumed, large(), "u-2")
    scene.relay.calls[1].ask_again()

    assert resumed.is_aborted
    assert sink.aborted

    again = scene.edge.one(method="GET")

    assert again.header("Last-Event-ID") == "u-1"

    again.sse()
    back = scene.get(sink.last_id)
    again.data(frame(large(), "u-2"))

    assert [f.data for f in back.frames if f.data] == [large()]
    assert back.finished


def test_a_client_with_a_gap_ends_the_call() -> None:
    """A reader whose cursor is below the window gets the one error; who had a part of the frame is cut."""
    scene = Scene(events_per_stream=1)
    sink, attempt = scene.streaming(1, cursor="u-1")
    first = sink.ids[0]
    attempt.frame(progress(1))
    attempt.frame(progress(2))
    half(attempt, large())
    again = scene.get(first)

    assert attempt.is_aborted
    assert sink.aborted
    assert reason(again) == "gap"
    assert_quiet(scene)


# -- clients that come and go


def test_a_client_that_goes_away_and_comes_back() -> None:
    """Its call goes on; it gets the response whole, in its order, once."""
    scene = Scene()
    sink, attempt, rest = begun(scene)
    sink.go_away()
    attempt.data(rest[:500])
    back = scene.get(sink.last_id)
    attempt.data(rest[500:])

    assert [f.data for f in back.frames if f.data] == [large()]
    assert back.finished
    assert sink.last_id != back.last_id

    attempt.end()
    assert_quiet(scene)


def test_a_client_that_comes_back_unnoticed() -> None:
    """The former connection is cut in the middle of its frame, and the new one has all."""
    scene = Scene()
    sink, attempt, rest = begun(scene)
    back = scene.get(sink.last_id)

    assert sink.aborted

    attempt.data(rest)

    assert [f.data for f in back.frames if f.data] == [large()]
    assert back.finished


def test_a_client_that_sends_the_same_request_again() -> None:
    """It takes the running call over, gets the response whole, and the former connection is cut."""
    scene = Scene()
    sink, attempt, rest = begun(scene)
    again = post(scene.relay, request_body("tools/call", 1))

    assert sink.aborted

    attempt.data(rest)

    assert again.messages[-1]["id"] == 1
    assert again.finished


# -- what turns out not to be what it seemed


@pytest.mark.parametrize(
    ("tail", "is_answer"),
    [
        (b'},"id":1}', True),
        (b'},"id":1,"error":null}', True),
        (b'},"id":1,"x":"\\"method\\":"}', True),
        (b'},"id":2}', None),
        (b'},"id":"1"}', None),
        (b'},"id":1,"method":"sampling/createMessage"}', False),
        (b'},"method":"notifications/message"}', False),
        (b"", False),
    ],
)
def test_a_contradiction_at_the_end(tail: bytes, is_answer: bool | None) -> None:
    """Who had a part is cut off; the frame is then taken for what it is, and the call goes on where it is no answer."""
    scene = Scene()
    data = b'{"jsonrpc":"2.0","result":{"text":"%b"' % TEXT.encode() + tail
    sink, attempt, rest = begun(scene, data)
    attempt.data(rest)

    assert sink.aborted == (not is_answer)
    assert sink.finished == (is_answer is True)

    back = sink if is_answer else scene.get(sink.last_id)
    if not is_answer:
        attempt.frame(result(1, is_late=True))
        late = [json.dumps(result(1, is_late=True)).encode()]
        assert [f.data for f in back.frames if f.data] == [*([] if is_answer is None else [data]), *late]

    assert back.finished
    assert scene.relay.calls == {}


def test_an_answer_that_is_lost_is_told() -> None:
    """A frame larger than the window whose end contradicts its beginning is gone: the outcome is unknown."""
    scene = Scene(bytes_per_stream=CUT_BYTES, slow_reader_bytes=CUT_BYTES - 1)
    sink, attempt, rest = begun(scene, b'{"result":{"text":"%b"},"id":2}' % TEXT.encode())
    attempt.data(rest)

    assert attempt.is_aborted
    assert_cut(scene, sink, "answer_too_large")


def test_a_frame_larger_than_the_window_still_answers() -> None:
    """Who reads has all of it; who comes later is told that it is no longer there."""
    scene = Scene(bytes_per_stream=CUT_BYTES, slow_reader_bytes=CUT_BYTES - 1)
    sink, attempt, rest = begun(scene)
    first = sink.ids[0]
    attempt.data(rest)

    assert [f.data for f in sink.frames] == [b"", large()]
    assert sink.finished
    assert reason(scene.get(first)) == "gap"


# -- a plain answer


def test_a_large_plain_answer_counts_while_it_comes() -> None:
    """What is kept of it is held in the budget until it is passed on, whole."""
    scene = Scene()
    sink = scene.call(1)
    attempt = scene.edge.last
    own = scene.ctx.budget.held
    data = large()
    attempt.head(200, [JSON_TYPE])
    held = []
    for start in range(0, len(data), HELD_FROM):
        attempt.data(data[start : start + HELD_FROM])
        held.append(scene.ctx.budget.held - own)

    assert held[0] == 0, "a small answer costs no accounting"
    assert held[1:] == [min((count + 2) * HELD_FROM, len(data)) for count in range(len(held) - 1)]
    assert all(one < other for one, other in pairwise(held))

    attempt.end()

    assert sink.body == data
    assert_quiet(scene)


@pytest.mark.parametrize("end", ["lost", "cancel", "unproven"])
def test_a_large_plain_answer_that_breaks_off_is_let_go(end: str) -> None:
    """The outcome is told as ever, and nothing stays counted."""
    scene = Scene()
    sink = scene.call(1)
    attempt = scene.edge.last
    attempt.head(200, [JSON_TYPE])
    attempt.data(large()[:-10])
    if end == "lost":
        break_off(attempt)
    elif end == "unproven":
        attempt.end(proven=False)
    else:
        scene.cancel(1)
        scene.edge.one(rpc="notifications/cancelled").answer(202)
        scene.clock.advance(CANCEL_SECONDS)

    assert reason(sink) == ("cancelled" if end == "cancel" else "connection_broken")
    assert_quiet(scene)


def test_a_plain_answer_without_room_is_refused() -> None:
    """Where what is under way fills the process's cap, the call is answered with the fault, not with memory."""
    scene = Scene(bytes_total=200_000, bytes_per_session=100_000, bytes_per_stream=50_000, slow_reader_bytes=40_000)
    sink = scene.call(1)
    attempt = scene.edge.last
    attempt.head(200, [JSON_TYPE])
    attempt.data(b"x" * 150_000)

    assert not sink.is_over

    attempt.data(b"x" * 50_000)

    assert attempt.is_aborted
    assert reason(sink) == "answer_too_large"
    assert_quiet(scene)


# -- on real connections


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Upstream:
    """A server whose calls are answered with a priming frame and most of a large one; a gate lets the rest out."""

    def __init__(self, *, breaks: bool) -> None:
        self.gate = asyncio.Event()
        self.breaks = breaks
        self.server = RawServer(self._serve)

    async def _serve(self, peer: Peer) -> None:
        while (received := await peer.request()) is not None:
            message = json.loads(received.body) if received.body else {}
            if "id" not in message:
                await peer.send(ok(b"", status="202 Accepted" if received.method == "POST" else "405 Not Allowed"))
            elif message["method"] == "initialize":
                await peer.send(ok(initialize_answer(request_id=message["id"]), "Mcp-Session-Id: up-1"))
            else:
                wire = frame(large(message["id"]))
                await peer.send(STREAM_HEAD, chunk(wire[: -(SIZE // 8)]))
                await self.gate.wait()
                if self.breaks:
                    peer.reset()
                    return
                await peer.send(chunk(wire[-(SIZE // 8) :]), chunk(b""))


@asynccontextmanager
async def calling(http: str, *, breaks: bool) -> AsyncIterator[tuple[Upstream, RawSession, RawConnection]]:
    """Send a call through a whole proxy and wait until most of its answer has come, before the end is there."""
    upstream = Upstream(breaks=breaks)
    async with upstream.server as server:
        config = make_config(url=server.url, address="127.0.0.1:0")
        config = replace(config, upstream=replace(config.upstream, http=http), listen=replace(config.listen, http=http))
        with bind(config.listen) as sock:
            app = App(config)
            await app.start(sock)
            try:
                session = await RawSession.open(f"http://127.0.0.1:{sock.getsockname()[1]}/mcp")
                async with RawConnection(session.url) as connection:
                    await session.send(connection, "POST", session.call_body({}, request_id=1))
                    await connection.read_head()
                    yield upstream, session, connection
            finally:
                hurry = asyncio.Event()
                hurry.set()
                await app.drain(hurry)


async def most_of(connection: RawConnection) -> str:
    """Read until most of the large frame has come, and return the id of the frame before it."""
    priming = await connection.frame()
    assert priming is not None
    assert priming.id
    while len(connection._text) < SIZE // 2:
        data = await asyncio.wait_for(connection._read_some(), 10.0)
        assert data
        connection._text += data
    return priming.id


@pytest.mark.parametrize("http", ["wire", "aiohttp"])
async def test_through_both_edges_before_the_end(http: str) -> None:
    """The client reads most of the response while the upstream still holds its end back; then it is whole."""
    async with calling(http, breaks=False) as (upstream, _, connection):
        await most_of(connection)
        upstream.gate.set()
        stream = await connection.stream()

        assert stream.is_clean
        assert [f.data for f in stream.frames] == [large().decode()]
        assert stream.frames[0].id


@pytest.mark.parametrize("http", ["wire", "aiohttp"])
async def test_through_both_edges_broken_off(http: str) -> None:
    """The client's body has no proper end, no frame of it counts, and the client is told the outcome on its return."""
    async with calling(http, breaks=True) as (upstream, session, connection):
        cursor = await most_of(connection)
        upstream.gate.set()
        stream = await connection.stream()

        assert not stream.is_clean
        assert stream.frames == []

        async with RawConnection(session.url) as again:
            await session.listen(again, cursor)
            told = await again.stream()

        assert told.is_clean
        assert [f.json["error"]["data"]["reason"] for f in told.messages] == ["stream_broken"]
