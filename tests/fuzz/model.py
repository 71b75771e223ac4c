"""A second reader of HTTP/1.1 framing, slow and plain, to hold the edges against.

Reads whole byte strings, never pieces. It says which messages are there as RFC 9112 frames them, and stops where
two readers could differ. Must not share code or habits with what it judges: no parser, no library. `TOLERATED` names
what the parsers behind the edges take although this reader would not.
"""

import re
from dataclasses import dataclass, field

TOLERATED = {
    "line ends in front of a request": "RFC 9112, 2.2: ignored",
    "line ends in front of an answer and behind it": "nobody takes them for anything",
    "more than one blank in a request line": "RFC 9112, 3: whitespace-delimited words",
    "RTSP and ICE instead of HTTP in a request": "framed as HTTP is",
    "versions 0.9 and 2.0 of an answer": "known to llhttp, and read as 1.0 and 1.1",
    "chunked said again in a line of its own": "known to llhttp; a doubt, if a small one, that is the upstream's fault",
    "an empty Transfer-Encoding of an answer": "the same",
    "any bytes in a reason phrase": "nobody reads it",
    "codings before chunked": "framed alike by everybody",
}
"""What the model accepts to agree with the parsers, and why that is bearable."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_REQUEST_LINE = re.compile(rb"[A-Za-z-]+ +[^ \t]+ +(?:HTTP|RTSP|ICE)/1\.[01]\Z")
_STATUS_LINE = re.compile(rb"HTTP/(?:0\.9|1\.[01]|2\.0) [0-9]{3}(?: [^\r\n]*)?\Z")
_DIGITS = re.compile(rb"[0-9]+\Z")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
_LARGEST = 2**64 - 1

Pairs = list[tuple[bytes, bytes]]


class Doubt(Exception):  # noqa: N818
    """From here on two readers could differ."""


class More(Exception):  # noqa: N818
    """The message is not at its end."""


@dataclass
class Message:
    """One request or answer."""

    start: bytes
    headers: Pairs
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    is_close_delimited: bool = False

    def get(self, name: bytes) -> list[bytes]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key == name]

    @property
    def method(self) -> bytes:
        """The method of a request."""
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """The target of a request."""
        return self.start.split()[1]

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.start.split(b" ")[1])


@dataclass
class Reading:
    """What is in a byte string."""

    messages: list[Message]
    end: str
    """`whole`, `more` or `doubt`."""
    rest: bytes
    """What is behind the last whole message."""


def requests(data: bytes) -> Reading:
    """Read requests to the end or to the first doubt."""
    messages: list[Message] = []
    while True:
        data = data.lstrip(b"\r\n")
        if not data:
            return Reading(messages, "whole", data)
        try:
            message, size = _request(data)
        except More:
            return Reading(messages, "more", data)
        except Doubt:
            return Reading(messages, "doubt", data)
        messages.append(message)
        data = data[size:]


def _request(data: bytes) -> tuple[Message, int]:
    message, at = _head(data)
    if _REQUEST_LINE.match(message.start) is None or b"" in message.get(b"transfer-encoding"):
        raise Doubt
    return _body(message, data, at, is_answer=False)


def answer(data: bytes) -> Reading:
    """Read one final answer, with those before it that only announce; what is behind it is the rest."""
    messages: list[Message] = []
    while True:
        data = data.lstrip(b"\r\n")
        try:
            message, at = _head(data)
            match = _STATUS_LINE.match(message.start)
            if match is None or message.status < 100 or message.status == 101:
                raise Doubt
            if message.status < 200 or message.status in (204, 304):
                # Whatever their fields say of a body.
                size = at
            else:
                message, size = _body(message, data, at, is_answer=True)
        except More:
            return Reading(messages, "more", data)
        except Doubt:
            return Reading(messages, "doubt", data)
        messages.append(message)
        data = data[size:]
        if message.status >= 200:
            return Reading(messages, "whole", data.lstrip(b"\r\n"))


def answers(data: bytes, methods: list[str]) -> Reading:
    """Read the answers to requests of these methods, as a client does that asked them."""
    messages: list[Message] = []
    left = list(methods)
    while data:
        try:
            message, at = _head(data)
            if _STATUS_LINE.match(message.start) is None:
                raise Doubt
            is_bodiless = message.status < 200 or message.status in (204, 304) or left[:1] == ["HEAD"]
            size = at
            if not is_bodiless:
                message, size = _body(message, data, at, is_answer=True)
        except More:
            return Reading(messages, "more", data)
        except Doubt:
            return Reading(messages, "doubt", data)
        messages.append(message)
        if message.status >= 200:
            left = left[1:]
        data = data[size:]
    return Reading(messages, "whole", data)


def _head(data: bytes) -> tuple[Message, int]:
    """Read the first line and the fields; return the message and where its body begins."""
    end = data.find(b"\r\n\r\n")
    # A doubt is told as soon as its line is whole: nobody has to wait for the rest.
    lines = data[:end].split(b"\r\n") if end >= 0 else data.split(b"\r\n")[:-1]
    for line in lines:
        if b"\n" in line or b"\r" in line:
            raise Doubt
    if end < 0:
        raise More
    return Message(lines[0], _fields(lines[1:])), end + 4


def _fields(lines: list[bytes]) -> Pairs:
    pairs: Pairs = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _TOKEN.match(name) is None or _VALUE.match(value) is None:
            raise Doubt
        pairs.append((name.lower(), value.strip(b" \t")))
    return pairs


def _framing(message: Message) -> tuple[bool, int | None]:
    """Return whether it is chunked, and else how long it says it is."""
    lengths = message.get(b"content-length")
    lines = [line for line in map(_codings, message.get(b"transfer-encoding")) if line]
    if len(lengths) > 1 or (lengths and lines):
        raise Doubt
    if lines:
        # Framed by chunks only if they are the last coding, and if no line says so twice.
        if lines[-1][-1] != b"chunked" or any(line.count(b"chunked") > 1 for line in lines):
            raise Doubt
        return True, None
    if not lengths:
        return False, None
    if _DIGITS.match(lengths[0]) is None or int(lengths[0]) > _LARGEST:
        raise Doubt
    return False, int(lengths[0])


def _codings(value: bytes) -> list[bytes]:
    return [coding for coding in (each.strip(b" \t") for each in value.lower().split(b",")) if coding]


def _body(message: Message, data: bytes, at: int, *, is_answer: bool) -> tuple[Message, int]:
    """Read the body; return the message with it and where it ends."""
    is_chunked, length = _framing(message)
    if is_chunked:
        return _chunks(message, data, at)
    if length is None:
        if is_answer:
            message.is_close_delimited = True
            message.body = data[at:]
            return message, len(data)
        length = 0
    if len(data) - at < length:
        raise More
    message.body = data[at : at + length]
    return message, at + length


def _chunks(message: Message, data: bytes, at: int) -> tuple[Message, int]:
    body = []
    while True:
        line, at = _line(data, at)
        match = _CHUNK_SIZE.match(line)
        if match is None or int(match[1], 16) > _LARGEST:
            raise Doubt
        size = int(match[1], 16)
        if not size:
            break
        if len(data) - at < size + 2:
            if data[at + size : at + size + 1] not in (b"", b"\r"):
                raise Doubt
            raise More
        if data[at + size : at + size + 2] != b"\r\n":
            raise Doubt
        body.append(data[at : at + size])
        at += size + 2
    lines = []
    while True:
        line, at = _line(data, at)
        if not line:
            break
        lines.append(line)
    message.trailers = _fields(lines)
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in message.trailers):
        raise Doubt
    message.body = b"".join(body)
    return message, at


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    line = data[at:] if end < 0 else data[at:end]
    if b"\n" in line or b"\0" in line or b"\r" in line.removesuffix(b"\r" if end < 0 else b""):
        raise Doubt
    if end < 0:
        raise More
    return line, end + 2
