"""One HTTP/1.1 connection to an upstream: one request, one answer, told to the exchange that owns it.

Owns the framing. llhttp (httptools) reads every head the first time, and whatever is not plain in a body; a head that
comes again byte for byte, but for its length, is recognised (`answers.py`), and a plain body behind it is counted here.
Knows no other connection, only whom it tells that it rests or is gone. Invariant: bytes that nobody asked for end the
connection; they never reach the next request.

Longer than the guide: who takes the next bytes (parser, count, chunks) changes inside one answer, on one state.
"""

import asyncio
import re
import select
import socket
from enum import Enum
from typing import cast

import httptools

from proxy.core.headers import Block, Headers, get
from proxy.upstream.answers import BODILESS
from proxy.upstream.base import Loss
from proxy.upstream.exchange import Connections, WireExchange
from proxy.upstream.sockets import OUTGOING_PEER_TIMEOUT_SECONDS, watch_peer

READ_BYTES = 262_144
"""As much as one read of the loop brings; over TLS what was held back comes in a single one, which may be larger."""
MAX_HEAD_BYTES = 65_536 + READ_BYTES
"""Bytes in a row without any of a body: 64 KiB of head or trailer, and one read that may hold the body's beginning."""
WHOLE_BYTES = 65_536
"""A smaller answer, head and all, that is there whole is told in one step, to who can take it so."""
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match
# What llhttp is told of a chunked answer whose head was recognised, before it gets the body's odd part.
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class _Lane(Enum):
    """Who takes the next bytes of the answer."""

    HEAD = "head"
    """Nothing of it has come."""
    PARSER = "parser"
    COUNTED = "counted"
    """A body of known length."""
    CHUNKS = "chunks"
    """A chunked body, between two chunks."""


# A member of an enum costs ten times a global to get at.
_HEAD, _PARSER, _COUNTED, _CHUNKS = _Lane


class _StatusError(Exception):
    """The status is none: below 100, or an announcement that llhttp does not know and reads a body behind."""


class Connection:
    """One connection: one answer at a time, told to the exchange that owns it.

    Fulfils `asyncio.Protocol` without deriving from it: a compiled class derives from compiled ones alone.
    """

    __slots__ = (
        "_bodiless_size", "_exchange", "_has_head", "_has_length", "_has_parsed", "_headers", "_is_chunked",
        "_is_complete", "_is_in_chunk", "_is_informational", "_is_muted", "_is_persistent", "_is_poisoned", "_keep",
        "_lane", "_learning", "_left", "_owner", "_parser", "_poller", "_status", "_transport", "idle_since",
    )  # fmt: skip

    def __init__(self, owner: Connections) -> None:
        self._owner = owner
        self._exchange: WireExchange | None = None
        self._transport: asyncio.Transport | None = None
        self._poller: select.poll | None = None
        self._parser: httptools.HttpResponseParser | None = None
        """Made when it is needed; between two answers it stands before the next."""
        self._lane = _HEAD
        self._left = 0
        """Bytes of a counted body that are still to come."""
        self._learning: bytes | None = None
        """The head that llhttp is reading, if it may be remembered."""
        self._is_muted = False
        """llhttp is told a head that the receiver knows."""
        self._is_in_chunk = False
        self._is_chunked = False
        self._headers: Headers = []
        self._status = 0
        self._bodiless_size = 0
        self._has_head = False
        self._has_length = False
        self._has_parsed = False
        """Whether any of this answer went through the parser."""
        self._is_informational = False
        self._is_complete = False
        self._is_persistent = False
        self._is_poisoned = False
        self._keep = False
        self.idle_since = 0.0

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports have asyncio's verbs without being its subclasses.
        self._transport = cast("asyncio.Transport", transport)
        self._owner.opened(self)

    def watch(self) -> None:
        """Let the kernel end it when the peer vanishes: for what lasts, or rests between requests."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            watch_peer(sock, OUTGOING_PEER_TIMEOUT_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        exchange = self._exchange
        if exchange is None:
            # Nobody asked: whatever this is, the next request must not get it.
            self.drop()
            return
        lane = self._lane
        if lane is _PARSER:
            self._parse(data)
            return
        try:
            if lane is _CHUNKS:
                # Nearly every read is one chunk and nothing else: it is handed on without a further call. What it would
                # begin with then is written and compared, which takes half as long as to read what it says. With the
                # wrong number of digits nothing is equal.
                total = len(data)
                start = 5 if 262 < total < 4103 else 4 if total < 262 else 6
                size = total - start - 2
                if size > 0 and data[:start] == b"%x\r\n" % size and data[-2:] == b"\r\n":
                    exchange.receiver.on_data(data[start:-2])
                elif data[-7:] == b"\r\n0\r\n\r\n":
                    self._take_last(exchange, data)
                else:
                    self._take_chunks(exchange, data, 0)
            elif lane is _HEAD:
                self._begin_answer(exchange, data)
            else:
                self._count(exchange, data)
        except Exception as error:  # a receiver raised: our own defect, not the upstream's
            self._owner.report({"message": "receiver failed", "exception": error})
            self._fail("receiver failed")

    # -- answers whose heads are known

    def _begin_answer(self, exchange: WireExchange, data: bytes) -> None:
        heads = self._owner.heads
        last = heads.last
        if last is not None and last.is_usual and len(data) < WHOLE_BYTES:
            start = heads.whole(data)
            take = getattr(exchange.receiver, "on_whole", None) if start else None
            if take is not None:
                # Nearly every answer: told in one step instead of three.
                self._exchange = None
                self._part(exchange, last.is_persistent)
                take(last.status, last.headers, data[start:])
                return
        found = heads.find(data)
        if found is None:
            self._lane = _PARSER
            self._parse(data)
            return
        head, key, start, length = found
        if head is None or (head.is_counted and len(data) - start > length):
            # Not seen before; or with bytes behind the answer, which are the parser's to judge.
            self._learning = key
            self._lane = _PARSER
            self._is_chunked = False
            self._parse(data)
            if self._is_chunked:
                # Its head is known now, and the parser is needed for this answer no more than for the next.
                self._is_muted = True
                self._leave_parser(data)
            return
        self._has_head = self._has_length = True
        self._status = head.status
        self._is_persistent = head.is_persistent
        exchange.receiver.on_head(head.status, head.headers)
        if exchange.is_over:
            return
        if not head.is_counted:
            self._lane = _CHUNKS
            if start < len(data):
                self.data_received(data[start:])
        elif start + length == len(data):
            if length:
                exchange.receiver.on_data(data[start:])
            self._complete()
        else:
            self._lane = _COUNTED
            self._left = length
            if start < len(data):
                self._count(exchange, data[start:])

    def _count(self, exchange: WireExchange, data: bytes) -> None:
        left = self._left = self._left - len(data)
        if left < 0:
            data = data[:left]
            self._is_poisoned = True
        if not exchange.is_over:
            exchange.receiver.on_data(data)
        if left <= 0:
            self._complete()

    def _take_last(self, exchange: WireExchange, data: bytes) -> None:
        """Take one chunk and the body's end behind it, if that is all there is."""
        total = len(data) - len(_LAST_CHUNK)
        start = 5 if 262 < total < 4103 else 4 if total < 262 else 6
        size = total - start - 2
        if size > 0 and data[:start] == b"%x\r\n" % size:
            exchange.receiver.on_data(data[start : start + size])
            if not exchange.is_over:
                self._complete()
        else:
            self._take_chunks(exchange, data, 0)

    def _take_chunks(self, exchange: WireExchange, data: bytes, start: int) -> None:
        """Take whole plain chunks; anything else about them is the parser's."""
        receiver = exchange.receiver
        end = len(data)
        while start < end:
            if end - start == len(_LAST_CHUNK) and data.endswith(_LAST_CHUNK):
                self._complete()
                return
            match = _CHUNK(data, start)
            if match is None:
                break
            first = match.end()
            size = int(match[1], 16)
            last = first + size
            if data[last : last + 2] != b"\r\n" or (not size and last + 2 != end):
                break
            if not size:
                self._complete()
                return
            receiver.on_data(data[first:last])
            if exchange.is_over:
                return
            start = last + 2
        if start < end:
            self._lane = _PARSER
            self._parse_rest(data[start:] if start else data)

    def _parse_rest(self, data: bytes) -> None:
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        if not self._is_muted:
            self._is_muted = True
            self._parser.feed_data(_CHUNKED_HEAD)
        self._parse(data)
        self._leave_parser(data)

    def _leave_parser(self, data: bytes) -> None:
        if self._exchange is not None and not self._is_in_chunk and data.endswith(b"\r\n"):
            # It stands between two chunks, and so do we.
            self._lane = _CHUNKS

    def _parse(self, data: bytes) -> None:
        # The parser has no bound of its own: a header or a trailer, a chunk extension, announcements (1xx) may go on
        # for ever. A read counts as one however large it is: the body may begin anywhere in it.
        self._has_parsed = True
        self._bodiless_size += min(len(data), READ_BYTES)
        if self._bodiless_size > MAX_HEAD_BYTES:
            is_behind = self._has_head and not self._is_informational
            self._fail(f"the {'trailer' if is_behind else 'head'} is too long")
            return
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _StatusError):
                self._fail("no status that an answer has")
                return
            # A receiver raised: our own defect, not the upstream's, and the parser hides it.
            self._owner.report({"message": "receiver failed", "exception": error.__context__})
            self._fail("receiver failed")
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"{type(error).__name__}: {error}")
            return
        if self._is_complete:
            self._complete()

    def eof_received(self) -> bool:
        """The peer will send no more; half-open connections are of no use."""
        return False

    def pause_writing(self) -> None:
        """A request's body waits for the upstream to read; there is no more of it to hold back."""

    def resume_writing(self) -> None:
        """It was read."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._owner.closed(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.is_over:
            return
        if self._status and not self._is_informational and not self._has_length and exc is None:
            # The close alone delimits the body: it may be whole, and it may be cut.
            exchange.is_over = True
            exchange.connection = None
            exchange.receiver.on_end(False)
        else:
            exchange.lost(Loss.BROKEN, str(exc) if exc is not None else "closed before the answer was whole")

    # -- the parser

    def on_message_begin(self) -> None:
        """A message starts."""
        if self._is_complete:
            self._is_poisoned = True
        elif self._is_muted:
            return
        self._headers = []
        self._has_head = False
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; behind a chunked body it is a trailer, which nobody here has a use for."""
        if self._has_head:
            return
        text = name.decode("utf-8", "surrogateescape")
        # Without the blanks behind it, which llhttp leaves on (RFC 9112, 5.1).
        self._headers.append((text, value.decode("utf-8", "surrogateescape").rstrip(" \t")))
        # By its first letters: most names begin otherwise.
        if text[0] in "cCtT" and text.lower() in ("content-length", "transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._is_complete or self._is_muted:
            return
        self._has_head = True
        parser = self._parser
        assert parser is not None
        status = self._status = parser.get_status_code()
        if status < 100 or 103 < status < 200:
            raise _StatusError
        # Asked here: behind the body the parser has forgotten the head.
        self._is_persistent = parser.should_keep_alive()
        # 100 and 103 announce; the answer is still to come (RFC 9110, 15.2).
        self._is_informational = status < 200
        if status in BODILESS:
            self._has_length = True
        if self._learning is not None:
            self._headers = self._owner.heads.learn(self._learning, status, self._headers, self._is_persistent)
            self._learning = None
            self._is_chunked = type(self._headers) is Block and get(self._headers, "Content-Length") is None
        exchange = self._exchange
        if exchange is not None and not exchange.is_over and not self._is_informational:
            exchange.receiver.on_head(status, self._headers)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, freed of its chunk framing."""
        self._bodiless_size = 0
        exchange = self._exchange
        if exchange is not None and not exchange.is_over and not self._is_complete:
            exchange.receiver.on_data(body)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._is_in_chunk = True

    def on_chunk_complete(self) -> None:
        """A chunk is whole."""
        self._is_in_chunk = False

    def on_message_complete(self) -> None:
        """The message is whole."""
        # Told after the parser has seen all that came with it: what stands behind an answer poisons the connection.
        if not self._is_informational:
            self._is_complete = True

    # -- use

    @property
    def is_open(self) -> bool:
        """Tell whether it is open: all that the first request on it needs, before which a handshake may still drain."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_usable(self) -> bool:
        """Tell whether a further request may be written: the connection is open and nothing waits in front."""
        transport = self._transport
        # An answer may come before its request is written to the end; what is left would precede the next one.
        return transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    @property
    def is_ready(self) -> bool:
        """Tell whether it is usable, and nothing has arrived unasked, not even the end.

        Asked of the kernel, as the loop may be late.
        """
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        poller = self._poller
        if poller is None:
            # Made once: to make and register one costs three times the question itself.
            sock = transport.get_extra_info("socket")
            if sock is None:
                return False
            poller = self._poller = select.poll()
            poller.register(sock.fileno(), select.POLLIN)
        return not poller.poll(0)

    def begin(self, exchange: WireExchange, head: bytes, body: bytes, *, keep: bool) -> None:
        """Write a request; a small body stands in *head* already."""
        assert self._transport is not None
        self._exchange = exchange
        exchange.connection = self
        self._status = 0
        self._has_head = False
        self._lane = _HEAD
        self._keep = keep
        if self._has_parsed:
            self._forget_parsed()
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)

    def _forget_parsed(self) -> None:
        """Undo what the parser left behind of the answer before."""
        self._has_parsed = False
        self._bodiless_size = 0
        self._is_complete = False
        self._is_informational = False
        self._learning = None
        if self._is_muted:
            # It stands in the middle of an answer whose end it was not shown.
            self._is_muted = False
            self._parser = None

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._transport is not None:
            self._transport.resume_reading()

    def drop(self) -> None:
        """Cut the connection."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def cut(self, detail: str) -> None:
        """Cut the connection and tell whoever waits for an answer on it that none will come."""
        self._fail(detail)

    def _complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.is_over:
            self.drop()
        else:
            self._part(exchange, self._is_persistent)
            exchange.receiver.on_end(True)

    def _part(self, exchange: WireExchange, is_persistent: bool) -> None:
        """End an exchange whose answer is whole, and rest or go."""
        if exchange.is_paused:
            # A paused connection would never notice that the server closes it.
            exchange.resume()
        transport = self._transport
        if (
            self._keep
            and is_persistent
            and not self._is_poisoned
            and transport is not None
            and not transport.is_closing()
            # An answer may come before its request is written to the end; what is left would precede the next one.
            and not transport.get_write_buffer_size()
        ):
            self._owner.rest(self)
        else:
            self.drop()
        exchange.is_over = True
        exchange.connection = None

    def _fail(self, detail: str) -> None:
        exchange = self._exchange
        self.drop()
        if exchange is not None:
            exchange.lost(Loss.BROKEN, detail)
