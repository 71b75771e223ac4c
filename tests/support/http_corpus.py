"""Requests as bytes, for whatever reads them: usual, odd, hostile, and such as do not come to their end.

Data only: a name, the bytes in their segments, and what the client does behind them. Marks in the bytes stand for what
only a run knows; all but one are as long as what takes their place, so that lengths can be written here. Invariant: no
case depends on time; one that does not end by itself says what ends it.
"""

import gzip
import json
from dataclasses import dataclass

MAX_BODY_BYTES = 4096
"""The limit of `listen.max_body_bytes` that the cases about it mean."""
VERSION = "2025-11-25"
MODERN = "2026-07-28"
EVIL = b"evil-tool"
"""What a request says that somebody smuggled: no upstream may ever read it."""

HOST_MARK = "@HOST@".ljust(len("127.0.0.1:54321"), "-")
SESSION_MARK = "@SESSION@".ljust(32, "-")
OTHER_MARK = "@OTHER@".ljust(32, "-")
CURSOR_MARK = "@CURSOR@"
"""An event id of the session's standalone stream; of no fixed length."""

AWAIT = None
"""In the place of a segment: go on when a head has come."""


@dataclass(frozen=True)
class Case:
    """One thing a client does on a connection."""

    name: str
    pieces: tuple[bytes | None, ...]
    answers: int = 1
    """How many final answers to wait for before the end."""
    then: str = "probe"
    """`probe`: send a usual request and see whether it is answered; `half-close`: end the client's side and read what
    comes; `reset`: break the connection and listen no more."""
    until: bytes = b""
    """Its answer has no end: read up to these bytes, then break the connection."""
    is_head: bool = False
    """Its answer has no body whatever it says."""
    is_bytewise: bool = False
    """Every byte is sent in a segment of its own."""


# -- parts of requests


def call(tool: str = "echo", request_id: int | str = 1) -> bytes:
    """Write the body of a call."""
    params = {"name": tool, "arguments": {"mark": "é"}}
    return dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params})


def dumps(message: object) -> bytes:
    """Write a body as clients do."""
    return json.dumps(message, separators=(",", ":")).encode()


CALL = call()
PING = dumps({"jsonrpc": "2.0", "id": "ping", "method": "ping"})
INITIALIZE = dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": "corpus", "version": "1"},
        },
    }
)
INITIALIZED = dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})

ACCEPT = "Accept: application/json, text/event-stream"
JSON = "Content-Type: application/json"
SESSION = f"Mcp-Session-Id: {SESSION_MARK}"
OTHER = f"Mcp-Session-Id: {OTHER_MARK}"
REVISION = f"MCP-Protocol-Version: {VERSION}"
USUAL = (ACCEPT, JSON, SESSION, REVISION)


def head(first: str, *lines: str, host: str = f"Host: {HOST_MARK}") -> bytes:
    """Write a head."""
    return "\r\n".join([first, *([host] if host else []), *lines]).encode("latin-1") + b"\r\n\r\n"


def length(body: bytes) -> str:
    """Write the header that says how long a body is."""
    return f"Content-Length: {len(body)}"


def post(body: bytes = CALL, *more: str, usual: tuple[str, ...] = USUAL, first: str = "POST /mcp HTTP/1.1") -> bytes:
    """Write a whole POST."""
    return head(first, *usual, *more, length(body)) + body


def framed(body: bytes, *framing: str) -> bytes:
    """Write a POST whose framing is the case's own."""
    return head("POST /mcp HTTP/1.1", *USUAL, *framing) + body


def get(*more: str, first: str = "GET /mcp HTTP/1.1") -> bytes:
    """Write a GET of a stream."""
    return head(first, "Accept: text/event-stream", SESSION, REVISION, *more)


def chunk(data: bytes) -> bytes:
    """Write one chunk; an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def halves(data: bytes, at: int) -> tuple[bytes, bytes]:
    """Cut in two."""
    return data[:at], data[at:]


def one(name: str, data: bytes, **more: object) -> Case:
    """Make a case of one segment."""
    return Case(name, (data,), **more)  # type: ignore[arg-type]


CHUNKED = "Transfer-Encoding: chunked"
EVIL_CALL = call(EVIL.decode(), "evil")
SMUGGLED = post(EVIL_CALL, usual=(ACCEPT, JSON, OTHER, REVISION))
"""A whole request of another session, for the place where a body ends in one reading and goes on in another."""
LAST_CHUNK = chunk(b"")


# -- answers of an upstream

ANSWERS = {
    "200 without a type": ("200 OK", (), b"{}"),
    "200 with an odd reason": ("200 Fine, thank you", (JSON,), b"{}"),
    "200 of plain text": ("200 OK", ("Content-Type: text/plain",), b"hello"),
    "200 of nothing": ("200 OK", (JSON,), b""),
    "200 of nothing without a type": ("200 OK", (), b""),
    "201": ("201 Created", (JSON, "Location: /x"), b"{}"),
    "202 with a body": ("202 Accepted", (JSON,), b"{}"),
    "202 of nothing": ("202 Accepted", (), b""),
    "204": ("204 No Content", (), b""),
    "205": ("205 Reset Content", (), b""),
    "206": ("206 Partial Content", (JSON, "Content-Range: bytes 0-1/2"), b"{}"),
    "299": ("299 Unheard", (JSON,), b"{}"),
    "304": ("304 Not Modified", ('ETag: "x"',), b""),
    "307": ("307 Temporary Redirect", ("Location: http://evil.example/",), b""),
    "400": ("400 Bad Request", ("Content-Type: text/plain",), b"no"),
    "401": ("401 Unauthorized", ('WWW-Authenticate: Bearer resource_metadata="http://x/"',), b""),
    "403": ("403 Forbidden", (JSON,), b'{"error":"x"}'),
    "418": ("418 I'm a teapot", (JSON,), b"{}"),
    "429": ("429 Too Many Requests", ("Retry-After: 1",), b""),
    "451": ("451 Unavailable For Legal Reasons", (), b"x"),
    "499": ("499 Closed", (), b"x"),
    "500": ("500 Internal Server Error", ("Content-Type: text/html",), b"<h1>"),
    "503": ("503 Service Unavailable", ("Retry-After: 0",), b""),
    "599": ("599 Unheard", (), b"x"),
    "999": ("999 Unheard", (), b"x"),
    "names in all letters": ("200 OK", ("CONTENT-type: application/json", "x-lower: 1", "X-UPPER: 2"), b"{}"),
    "same name thrice": ("200 OK", (JSON, "X-A: 1", "X-B: 2", "X-A: 3", "x-a: 4"), b"{}"),
    "two cookies": ("200 OK", (JSON, "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2"), b"{}"),
    "own server and date": ("200 OK", (JSON, "Server: x/1", "Date: Sat, 21 Nov 2026 00:00:00 GMT"), b"{}"),
    "server in lower case": ("200 OK", (JSON, "server: x/1", "date: Sat, 21 Nov 2026 00:00:00 GMT"), b"{}"),
    "two servers": ("200 OK", (JSON, "Server: x/1", "Server: y/2"), b"{}"),
    "empty value": ("200 OK", (JSON, "X-Empty:", "X-Blank:   "), b"{}"),
    "value in UTF-8": ("200 OK", (JSON, "X-A: \xc3\xa9"), b"{}"),
    "value in Latin-1": ("200 OK", (JSON, "X-A: \xe9"), b"{}"),
    "value with tabs": ("200 OK", (JSON, "X-A: a\tb"), b"{}"),
    "two types": ("200 OK", (JSON, "Content-Type: text/plain"), b"{}"),
    "type with a parameter": ("200 OK", ("Content-Type: application/json; charset=utf-8",), b"{}"),
    "hop by hop": ("200 OK", (JSON, "Connection: X-A", "X-A: 1", "Keep-Alive: timeout=1", "Upgrade: x"), b"{}"),
    "connection: close": ("200 OK", (JSON, "Connection: close"), b"{}"),
    "encoded": ("200 OK", (JSON, "Content-Encoding: unheard-of"), b"xyz"),
    "trailer announced": ("200 OK", (JSON, "Trailer: X-A"), b"{}"),
    "session id of its own": ("200 OK", (JSON, "Mcp-Session-Id: up-9"), b"{}"),
    "body of 70,000 bytes": ("200 OK", (JSON,), b'"' + b"x" * 70_000 + b'"'),
    "50 headers": ("200 OK", (JSON, *(f"X-{number}: {number}" for number in range(50))), b"{}"),
}
"""What an upstream may say: status, headers, body; the length is added."""


def answer_bytes(name: str) -> bytes:
    """Write one of `ANSWERS`."""
    status, lines, body = ANSWERS[name]
    framing = () if status[:3] in ("204", "304") else (length(body),)
    return head(f"HTTP/1.1 {status}", *lines, *framing, host="") + body


# -- usual

USUAL_CASES = (
    one("call", post()),
    one(
        "call as the Python SDK sends it",
        head(
            "POST /mcp HTTP/1.1",
            "Accept: application/json, text/event-stream",
            "Accept-Encoding: gzip, deflate",
            "Connection: keep-alive",
            "User-Agent: python-httpx/0.28.1",
            "mcp-protocol-version: 2025-11-25",
            f"mcp-session-id: {SESSION_MARK}",
            "content-type: application/json",
            f"Content-Length: {len(CALL)}",
        )
        + CALL,
    ),
    one(
        "call as the TypeScript SDK sends it",
        head(
            "POST /mcp HTTP/1.1",
            "connection: keep-alive",
            "accept: application/json, text/event-stream",
            "content-type: application/json",
            "mcp-protocol-version: 2025-11-25",
            f"mcp-session-id: {SESSION_MARK}",
            "accept-language: *",
            "sec-fetch-mode: cors",
            "user-agent: node",
            "accept-encoding: gzip, deflate",
            f"content-length: {len(CALL)}",
            host=f"host: {HOST_MARK}",
        )
        + CALL,
    ),
    one(
        "call as Go sends it",
        head(
            "POST /mcp HTTP/1.1",
            "User-Agent: Go-http-client/1.1",
            f"Content-Length: {len(CALL)}",
            "Accept: application/json, text/event-stream",
            "Content-Type: application/json",
            "Mcp-Protocol-Version: 2025-11-25",
            f"Mcp-Session-Id: {SESSION_MARK}",
            "Accept-Encoding: gzip",
        )
        + CALL,
    ),
    one("call answered by a stream", post(call("stream"))),
    one("call answered by an error", post(call("unknown"))),
    one("call with an empty result of 1 MiB", post(call("large"))),
    one(
        "call with credentials and unknown headers", post(CALL, "Authorization: Bearer x", "X-Tenant: 7", "Cookie: a=1")
    ),
    one("ping", post(PING)),
    one("notification", post(INITIALIZED)),
    one("response to nothing", post(dumps({"jsonrpc": "2.0", "id": "x", "result": {}}))),
    one("batch", post(b"[" + call(request_id=1) + b"," + call(request_id="2") + b"]")),
    one("initialize", post(INITIALIZE, usual=(ACCEPT, JSON))),
    one("initialize with a stale session", post(INITIALIZE)),
    one("GET", get(), until=b"standalone"),
    one("GET with a cursor", get(f"Last-Event-ID: {CURSOR_MARK}"), until=b"standalone"),
    one("GET with a cursor of nobody", get("Last-Event-ID: abc")),
    one("GET with an empty cursor", get("Last-Event-ID: "), until=b"standalone"),
    one("DELETE", head("DELETE /mcp HTTP/1.1", SESSION, REVISION)),
    one("DELETE with a length of none", head("DELETE /mcp HTTP/1.1", SESSION, REVISION, "Content-Length: 0")),
    one("DELETE with a body", head("DELETE /mcp HTTP/1.1", SESSION, REVISION, "Content-Length: 2") + b"{}"),
    one(
        "modern call",
        post(
            dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}),
            usual=(ACCEPT, JSON, f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/list"),
        ),
    ),
    one(
        "modern call by its body alone",
        post(
            dumps(
                {
                    "jsonrpc": "2.0",
                    "id": 1,
                    "method": "tools/list",
                    "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": MODERN}},
                }
            ),
            usual=(ACCEPT, JSON),
        ),
    ),
    one("modern GET", head("GET /mcp HTTP/1.1", "Accept: text/event-stream", f"MCP-Protocol-Version: {MODERN}")),
    one("call without a session", post(usual=(ACCEPT, JSON, REVISION))),
    Case("two calls one after the other", (post(), AWAIT, post(call(request_id=2))), answers=2),
    Case("call in two segments, cut in the head", halves(post(), 50)),
    Case("call in two segments, cut before the body", halves(post(), len(post()) - len(CALL))),
    Case("call in two segments, cut in the body", halves(post(), len(post()) - 10)),
    Case("call in two segments, cut before the last byte", halves(post(), len(post()) - 1)),
    Case("call in two segments, cut inside the end of the head", halves(post(), len(post()) - len(CALL) - 2)),
    Case("call in two segments, cut in the name of its length", halves(post(), len(post()) - len(CALL) - 12)),
    one("call in single bytes", post(usual=(SESSION, ACCEPT, JSON)), is_bytewise=True),
    one("GET in single bytes", get(), until=b"standalone", is_bytewise=True),
    one("DELETE in single bytes", head("DELETE /mcp HTTP/1.1", SESSION), is_bytewise=True),
)

MODERN_LINES = (ACCEPT, JSON, f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/call", "Mcp-Name: x")
ANSWER_CASES = (
    *(one(f"answer: {name}", post(call(f"answer:{name}"))) for name in ANSWERS),
    *(one(f"modern answer: {name}", post(call(f"answer:{name}"), usual=MODERN_LINES)) for name in ANSWERS),
    one("modern answer by a stream", post(call("stream"), usual=MODERN_LINES)),
    one("answer by a stream with headers of its own", post(call("stream with headers"))),
    one("answer by a stream with large events", post(call("large stream"))),
    one("answer by a stream that is cut", post(call("cut stream"))),
    one("modern answer by a stream that is cut", post(call("cut stream"), usual=MODERN_LINES)),
    one("defect of our own", post(CALL, "X-Defect: at once")),
    one("defect of our own behind the head", post(CALL, "X-Defect: behind the head")),
    one("defect of our own behind the answer", post(CALL, "X-Defect: behind the answer")),
    one("cut at once", post(CALL, "X-Defect: abort")),
    one("cut behind the head", post(CALL, "X-Defect: abort behind the head")),
)

# -- a head that repeats

_LONGER = call("echo a little longer")


def repeated(*framing: str, behind: tuple[str, ...] = (), body: bytes = CALL) -> bytes:
    """Write a call whose head is that of `REPEATED` but for its framing."""
    return head("POST /mcp HTTP/1.1", ACCEPT, *framing, JSON, SESSION, *behind) + body


HEADS_OF_NOBODY = (ACCEPT, JSON, "Mcp-Session-Id: nobody")
REPEATED = repeated(length(CALL))
OF_NOBODY = REPEATED.replace(SESSION_MARK.encode(), b"nobody")
AGAIN = {
    "the same": repeated(length(CALL)),
    "longer": repeated(length(_LONGER), body=_LONGER),
    "of one byte": repeated("Content-Length: 1", body=b"1"),
    "of nothing": repeated("Content-Length: 0", body=b""),
    "with zeros in front": repeated(f"Content-Length: 0{len(CALL)}"),
    "with a plus": repeated(f"Content-Length: +{len(CALL)}"),
    "without a value": repeated("Content-Length: "),
    "with a blank behind": repeated(f"Content-Length: {len(CALL)} "),
    "with two blanks in front": repeated(f"Content-Length:  {len(CALL)}"),
    "as a list": repeated(f"Content-Length: {len(CALL)},{len(CALL)}"),
    "in another script": repeated("Content-Length: \xd9\xa5"),
    "with a sign behind": repeated(f"Content-Length: {len(CALL)}\xb2"),
    "with its name in other letters": repeated(f"content-length: {len(CALL)}"),
    "with a header behind": repeated(length(CALL), behind=("X-Odd: 1",)),
    "with a length behind": repeated(length(CALL), behind=(length(CALL),)),
    "with chunks behind": repeated("Content-Length: 5", behind=(CHUNKED,), body=LAST_CHUNK),
    "with a close behind": repeated(length(CALL), behind=("Connection: close",)),
    "with another session": REPEATED.replace(SESSION.encode(), OTHER.encode()),
    "with another method": REPEATED.replace(b"POST", b"PUT"),
    "with another path": REPEATED.replace(b"/mcp", b"/mcq"),
    "with another version": REPEATED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "and once more behind it": REPEATED * 2,
    "and junk behind it": REPEATED + b"\0",
    "and a GET behind it": REPEATED + get(),
    "without a line end": REPEATED.replace(b"\r\nContent-Type", b"\nContent-Type"),
    "with a folded line": REPEATED.replace(b"\r\nContent-Type", b"\r\n Content-Type"),
    "with an empty line instead": REPEATED.replace(b"\r\nContent-Type", b"\r\n\r\nContent-Type"),
    "beyond the limit": repeated(f"Content-Length: {MAX_BODY_BYTES + 1}", body=b" " * (MAX_BODY_BYTES + 1)),
    "at the limit": repeated(f"Content-Length: {MAX_BODY_BYTES}", body=b" " * MAX_BODY_BYTES),
    "beyond 32 bits": repeated("Content-Length: 4294967301"),
    "of 11 digits": repeated("Content-Length: 10000000000"),
    "of 20 digits": repeated("Content-Length: 18446744073709551617"),
    "of 30 digits": repeated("Content-Length: " + "1" * 30),
}
"""What comes behind `REPEATED`, and how it differs from it."""

_ENDLESS = ("beyond 32 bits", "of 11 digits")
_TWO = ("and once more behind it", "and a GET behind it", "with an empty line instead", "of one byte")
REPEATED_CASES = (
    *(
        Case(
            f"again {name}",
            (REPEATED, AWAIT, data),
            3 if name in _TWO[:1] else 2,
            "half-close" if name in _ENDLESS else "probe",
            until=b"standalone" if name == "and a GET behind it" else b"",
        )
        for name, data in AGAIN.items()
    ),
    *(
        Case(f"again, cut {where}", (REPEATED, AWAIT, *halves(REPEATED, at)), 2)
        for where, at in {
            "in the first line": 3,
            "in the name of its length": REPEATED.index(b"Content-Length") + 5,
            "before its length": REPEATED.index(b"Content-Length") + 16,
            "in its length": REPEATED.index(b"Content-Length") + 17,
            "behind its length": REPEATED.index(b"Content-Length") + 16 + len(str(len(CALL))),
            "in the line end behind it": REPEATED.index(b"Content-Length") + 17 + len(str(len(CALL))),
            "behind that line": REPEATED.index(b"Content-Length") + 18 + len(str(len(CALL))),
            "in the line behind": REPEATED.index(b"Content-Type") + 5,
            "in the empty line": REPEATED.index(b"\r\n\r\n") + 3,
            "before the body": REPEATED.index(b"\r\n\r\n") + 4,
            "in the body": len(REPEATED) - 9,
        }.items()
    ),
    *(
        Case(f"thrice, its length {name}", (data, AWAIT, data, AWAIT, data), 3)
        for name, line in {
            "in lower case": f"content-length: {len(CALL)}",
            "in mixed case": f"ConTent-length: {len(CALL)}",
            "in upper case": f"CONTENT-LENGTH: {len(CALL)}",
            "without a blank": f"Content-Length:{len(CALL)}",
            "with two blanks": f"Content-Length:  {len(CALL)}",
            "with a tab": f"Content-Length:\t{len(CALL)}",
            "with a blank behind": f"Content-Length: {len(CALL)} ",
            "with zeros": f"Content-Length: 000{len(CALL)}",
            "behind one that looks like it": f"X-Content-Length: 0\r\nContent-Length:{len(CALL)}",
            "behind a value that looks like it": f"X-A: Content-Length: 0\r\nContent-Length: {len(CALL)}",
        }.items()
        for data in [repeated(line)]
    ),
    *(
        Case(f"thrice, its session {name}", (data, AWAIT, data, AWAIT, data), 3)
        for name, line in {
            "in lower case": SESSION.lower().replace(SESSION_MARK.lower(), SESSION_MARK),
            "in upper case": SESSION.upper(),
            "without a blank": f"Mcp-Session-Id:{SESSION_MARK}",
            "with blanks around": f"Mcp-Session-Id:  {SESSION_MARK}  ",
            "with a tab": f"Mcp-Session-Id:\t{SESSION_MARK}",
            "behind a value that looks like it": f"X-A: Mcp-Session-Id: {OTHER_MARK}\r\nMcp-Session-Id:{SESSION_MARK}",
            "empty": "Mcp-Session-Id:",
            "empty, with a blank": "Mcp-Session-Id: ",
            "unknown": "Mcp-Session-Id: nobody",
            "of blanks inside": "Mcp-Session-Id: no body",
        }.items()
        for data in [post(usual=(ACCEPT, JSON, line))]
    ),
    *(
        Case(f"thrice, its cursor {name}", (data, AWAIT, data, AWAIT, data), 3)
        for name, line in {
            "of nobody": "Last-Event-ID: abc",
            "with blanks around": "Last-Event-ID:  abc  ",
            "without a blank": "Last-Event-ID:abc",
            "in lower case": "last-event-id: abc",
        }.items()
        for data in [get(line)]
    ),
    Case("sessions in turn", (REPEATED, AWAIT, AGAIN["with another session"], AWAIT, REPEATED, AWAIT, OF_NOBODY), 4),
    Case("again and again", (REPEATED, AWAIT, REPEATED, AWAIT, repeated(length(PING), body=PING), AWAIT, REPEATED), 4),
    Case("again behind another", (REPEATED, AWAIT, post(PING), AWAIT, REPEATED), 3),
    Case("again behind a stream", (post(call("stream")), AWAIT, post(call("stream")), AWAIT, REPEATED), 3),
    Case("again behind a refusal", (post(usual=HEADS_OF_NOBODY), AWAIT, post(usual=HEADS_OF_NOBODY)), 2),
    Case("again behind an end", (head("DELETE /mcp HTTP/1.1", SESSION), AWAIT, REPEATED), 2),
)

# -- odd

ODD_LINES = {
    "name in upper case": "X-ODD: 1",
    "name in lower case": "x-odd: 1",
    "no blank before the value": "X-Odd:1",
    "blanks around the value": "X-Odd:    1  ",
    "tabs around the value": "X-Odd:\t1\t",
    "tab in the value": "X-Odd: a\tb",
    "empty value": "X-Odd:",
    "value of blanks": "X-Odd:   ",
    "value in UTF-8": "X-Odd: \xc3\xa9",
    "value in Latin-1": "X-Odd: \xe9",
    "value with every visible character": "X-Odd: " + "".join(map(chr, range(0x21, 0x7F))),
    "value with a DEL": "X-Odd: a\x7fb",
    "value with a control character": "X-Odd: a\x01b",
    "value with an escape": "X-Odd: a\x1bb",
    "value with a vertical tab": "X-Odd: a\x0bb",
    "name with every allowed sign": "!#$%&'*+-.^_`|~X: 1",
    "name of digits": "123: 1",
    "name with an underscore": "Content_Length: 3",
    "accept-encoding": "Accept-Encoding: gzip",
    "name that is no HTTP any more": "Proxy-Connection: keep-alive",
    "keep-alive header": "Keep-Alive: timeout=5",
    "connection of another header": "Connection: X-Odd, keep-alive",
    "connection: keep-alive": "Connection: keep-alive",
    "connection: close": "Connection: close",
    "connection: Close": "Connection: Close",
    "connection: close in a list": "Connection: x, close",
    "connection without a value": "Connection:",
    "connection: upgrade without one": "Connection: upgrade",
    "upgrade without a connection": "Upgrade: websocket",
    "trailer": "Trailer: X-Late",
    "TE": "TE: trailers",
    "expect of something else": "Expect: 200-maybe",
    "empty expect": "Expect:",
    "content encoding that nobody knows": "Content-Encoding: unheard-of",
    "content encoding identity": "Content-Encoding: identity",
    "transfer coding without a value": "Transfer-Encoding:",
    "forwarded": "X-Forwarded-For: 1.2.3.4",
    "method override": "X-HTTP-Method-Override: DELETE",
    "old websocket key": "Sec-WebSocket-Key1: x",
    "HTTP2 settings": "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "cursor on a POST": "Last-Event-ID: x",
    "good origin": "Origin: http://localhost:5173",
    "empty origin": "Origin:",
    "bad origin": "Origin: https://evil.example",
    "null origin": "Origin: null",
    "same session twice": SESSION,
    "other session as well": OTHER,
    "same type twice": JSON,
    "same type twice in other words": "Content-Type: application/json; charset=utf-8",
    "other type as well": "Content-Type: text/plain",
    "other accept as well": "Accept: text/html",
    "same version twice": REVISION,
    "other version as well": "MCP-Protocol-Version: 2025-06-18",
    "modern version as well": f"MCP-Protocol-Version: {MODERN}",
    "same host twice": f"Host: {HOST_MARK}",
    "other host as well": "Host: evil.example",
    "empty host as well": "Host:",
    "two origins": "Origin: http://localhost:1\r\nOrigin: https://evil.example",
    "two user agents": "User-Agent: a\r\nUser-Agent: b",
    "two entity tags": "ETag: a\r\nETag: b",
    "two dates": "Date: Sat, 21 Nov 2026 00:00:00 GMT\r\nDate: Sat, 21 Nov 2026 00:00:01 GMT",
    "two authorizations": "Authorization: Bearer a\r\nAuthorization: Bearer b",
    "two cookies": "Cookie: a=1\r\nCookie: b=2",
}
"""One header of a call more."""

HOSTS = {
    "none": "",
    "empty": "Host:",
    "bare name": "Host: localhost",
    "bare address": "Host: 127.0.0.1",
    "upper case": "HOST: LOCALHOST",
    "IPv6": "Host: [::1]:8080",
    "IPv6 without brackets": "Host: ::1",
    "port of letters": "Host: localhost:http",
    "port without digits": "Host: localhost:",
    "blank inside": "Host: localhost evil.example",
    "list": "Host: localhost, evil.example",
    "with a path": "Host: localhost/x",
    "with a user": "Host: evil@localhost",
    "foreign": "Host: evil.example",
    "beginning like a good one": "Host: localhost.evil.example",
    "with a dot": "Host: localhost.",
    "beyond ASCII": "Host: localh\xc3\xb6st",
}

FIRST_LINES = {
    "path with a slash": "POST /mcp/ HTTP/1.1",
    "path with a query": "POST /mcp?a=1&b=%20 HTTP/1.1",
    "path with an empty query": "POST /mcp? HTTP/1.1",
    "path with a fragment": "POST /mcp#x HTTP/1.1",
    "path with an escape": "POST /%6dcp HTTP/1.1",
    "path with dots": "POST /x/../mcp HTTP/1.1",
    "path with a parameter": "POST /mcp;x=1 HTTP/1.1",
    "path in upper case": "POST /MCP HTTP/1.1",
    "path with two slashes": "POST //mcp HTTP/1.1",
    "other path": "POST /other HTTP/1.1",
    "root": "POST / HTTP/1.1",
    "query with bytes beyond ASCII": "POST /mcp?\xc3\xa9 HTTP/1.1",
    "query with a byte that is no UTF-8": "POST /mcp?\xe9 HTTP/1.1",
    "query with signs": 'POST /mcp?"<>\\^`{|} HTTP/1.1',
    "query with a control character": "POST /mcp?\x01 HTTP/1.1",
    "query with a DEL": "POST /mcp?\x7f HTTP/1.1",
    "query with a tab": "POST /mcp?\t HTTP/1.1",
    "absolute form": f"POST http://{HOST_MARK}/mcp HTTP/1.1",
    "absolute form of another host": "POST http://evil.example/mcp HTTP/1.1",
    "absolute form with a bad port": "POST http://localhost:99999/mcp HTTP/1.1",
    "absolute form without a path": f"POST http://{HOST_MARK} HTTP/1.1",
    "absolute form with brackets": "POST http://[::1/mcp HTTP/1.1",
    "absolute form of another scheme": f"POST ftp://{HOST_MARK}/mcp HTTP/1.1",
    "authority form": "POST localhost:80 HTTP/1.1",
    "asterisk form": "POST * HTTP/1.1",
    "no slash": "POST mcp HTTP/1.1",
    "no target": "POST HTTP/1.1",
    "empty target": "POST  HTTP/1.1",
    "two blanks": "POST  /mcp  HTTP/1.1",
    "tab instead of a blank": "POST\t/mcp\tHTTP/1.1",
    "blank in the target": "POST /mcp x HTTP/1.1",
    "blank in front": " POST /mcp HTTP/1.1",
    "blank behind": "POST /mcp HTTP/1.1 ",
    "no version": "POST /mcp",
    "old version": "POST /mcp HTTP/0.9",
    "next version": "POST /mcp HTTP/1.2",
    "version 2": "POST /mcp HTTP/2.0",
    "version without a point": "POST /mcp HTTP/2",
    "version of two digits": "POST /mcp HTTP/1.10",
    "version in lower case": "POST /mcp http/1.1",
    "version of another protocol": "POST /mcp RTSP/1.0",
    "other letters for HTTP": "POST /mcp HTTQ/1.1",
    "method in lower case": "post /mcp HTTP/1.1",
    "method in mixed case": "Post /mcp HTTP/1.1",
    "method that is longer": "POSTS /mcp HTTP/1.1",
    "method with a sign": "PO-ST /mcp HTTP/1.1",
    "method with a colon": "PO:ST /mcp HTTP/1.1",
    "unheard method": "BREW /mcp HTTP/1.1",
    "method of another protocol": "ANNOUNCE /mcp HTTP/1.1",
    "PUT": "PUT /mcp HTTP/1.1",
    "PATCH": "PATCH /mcp HTTP/1.1",
    "OPTIONS": "OPTIONS /mcp HTTP/1.1",
    "QUERY": "QUERY /mcp HTTP/1.1",
    "TRACE with a body": "TRACE /mcp HTTP/1.1",
    "DELETE of another path": "DELETE /other HTTP/1.1",
    "request line of 8,000 bytes": "POST /mcp?" + "a" * 8000 + " HTTP/1.1",
    "request line of 9,000 bytes": "POST /mcp?" + "a" * 9000 + " HTTP/1.1",
    "request line of 70,000 bytes": "POST /mcp?" + "a" * 70_000 + " HTTP/1.1",
}
"""The first line of a call, otherwise usual."""

BODIES = {
    "empty": b"",
    "no JSON": b"hello",
    "cut JSON": CALL[:-1],
    "more behind the JSON": CALL + b"x",
    "blanks around the JSON": b" \r\n" + CALL + b"\r\n ",
    "byte order mark": b"\xef\xbb\xbf" + CALL,
    "UTF-16": CALL.decode().encode("utf-16"),
    "no UTF-8": CALL.replace("é".encode(), b"\xff"),
    "NUL": b"\0" * 10,
    "number": b"1",
    "string": b'"x"',
    "null": b"null",
    "empty array": b"[]",
    "empty object": b"{}",
    "array of numbers": b"[1,2]",
    "deep": b"[" * 1500 + b"]" * 1500,
    "id of null": CALL.replace(b'"id":1', b'"id":null'),
    "id of a float": CALL.replace(b'"id":1', b'"id":1.5'),
    "id of an array": CALL.replace(b'"id":1', b'"id":[1]'),
    "two ids": CALL.replace(b'"id":1', b'"id":1,"id":2'),
    "two methods": CALL.replace(b'"method"', b'"method":"initialize","method"'),
    "a request": SMUGGLED,
    "line ends": b"\r\n\r\n\r\n",
    "at the limit": CALL + b" " * (MAX_BODY_BYTES - len(CALL)),
}

HEADS = {
    "no headers but host": (),
    "no accept": (JSON, SESSION, REVISION),
    "accept of JSON": ("Accept: application/json", JSON, SESSION, REVISION),
    "accept of anything": ("Accept: */*", JSON, SESSION, REVISION),
    "accept of nothing we have": ("Accept: text/html", JSON, SESSION, REVISION),
    "no type": (ACCEPT, SESSION, REVISION),
    "other type": (ACCEPT, "Content-Type: text/plain", SESSION, REVISION),
    "type with a parameter": (ACCEPT, "Content-Type: application/json; charset=utf-8", SESSION, REVISION),
    "type of a form": (ACCEPT, "Content-Type: application/x-www-form-urlencoded", SESSION, REVISION),
    "unknown session": (ACCEPT, JSON, "Mcp-Session-Id: unknown", REVISION),
    "empty session": (ACCEPT, JSON, "Mcp-Session-Id:", REVISION),
    "session with blanks": (ACCEPT, JSON, f"Mcp-Session-Id:   {SESSION_MARK}\t ", REVISION),
    "session in upper case": (ACCEPT, JSON, f"MCP-SESSION-ID: {SESSION_MARK}", REVISION),
    "two sessions in one": (ACCEPT, JSON, f"Mcp-Session-Id: {SESSION_MARK}, {OTHER_MARK}", REVISION),
    "no version": (ACCEPT, JSON, SESSION),
    "bad version": (ACCEPT, JSON, SESSION, "MCP-Protocol-Version: 1999-01-01"),
    "version of no date": (ACCEPT, JSON, SESSION, "MCP-Protocol-Version: latest"),
    "other version": (ACCEPT, JSON, SESSION, "MCP-Protocol-Version: 2025-06-18"),
    "100 headers": (*USUAL, *(f"X-{number}: {number}" for number in range(100))),
    "123 headers and two": (*USUAL, *(f"X-{number}: {number}" for number in range(122))),
    "200 headers": (*USUAL, *(f"X-{number}: {number}" for number in range(200))),
    "2,000 headers": (*USUAL, *(f"X-{number}: {number}" for number in range(2000))),
    "header of 8,000 bytes": (*USUAL, "X-Long: " + "a" * 8000),
    "header of 8,186 bytes": (*USUAL, "X-Long: " + "a" * 8178),
    "header of 9,000 bytes": (*USUAL, "X-Long: " + "a" * 9000),
    "header of 70,000 bytes": (*USUAL, "X-Long: " + "a" * 70_000),
    "name of 9,000 bytes": (*USUAL, "X-" + "a" * 9000 + ": 1"),
    "many long headers": (*USUAL, *(f"X-{number}: {'a' * 1000}" for number in range(100))),
}
"""The headers of a call beside Host and its length."""

_LARGE_POST = post(PING + b" " * (MAX_BODY_BYTES - len(PING)))
ODD_CASES = (
    *(one(f"header: {name}", post(CALL, line)) for name, line in ODD_LINES.items()),
    *(
        one(f"host: {name}", head("POST /mcp HTTP/1.1", *USUAL, length(CALL), host=line) + CALL)
        for name, line in HOSTS.items()
    ),
    *(one(f"first line: {name}", post(first=line)) for name, line in FIRST_LINES.items()),
    *(one(f"body: {name}", post(body)) for name, body in BODIES.items()),
    *(one(f"head: {name}", post(usual=lines)) for name, lines in HEADS.items()),
    one("GET with a body", get(length(CALL)) + CALL, until=b"standalone"),
    one("HEAD", head("HEAD /mcp HTTP/1.1", SESSION), is_head=True),
    one("HEAD with a body", post(first="HEAD /mcp HTTP/1.1"), is_head=True),
    one("OPTIONS of everything", head("OPTIONS * HTTP/1.1")),
    one(
        "preflight",
        head("OPTIONS /mcp HTTP/1.1", "Origin: http://localhost:1", "Access-Control-Request-Method: POST"),
    ),
    one("CONNECT", head("CONNECT localhost:80 HTTP/1.1"), then="half-close"),
    one("TRACE", head("TRACE /mcp HTTP/1.1")),
    one("PRI of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    one("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    one("GET without a session", head("GET /mcp HTTP/1.1", "Accept: text/event-stream")),
    one("GET of an unknown session", head("GET /mcp HTTP/1.1", "Accept: text/event-stream", "Mcp-Session-Id: x")),
    one("GET that takes no stream", head("GET /mcp HTTP/1.1", "Accept: application/json", SESSION)),
    one("GET with a bad version", head("GET /mcp HTTP/1.1", ACCEPT, SESSION, "MCP-Protocol-Version: 1")),
    one("GET of another path", get(first="GET /favicon.ico HTTP/1.1")),
    one("GET of a stream, HTTP/1.0", get(first="GET /mcp HTTP/1.0"), until=b"standalone"),
    one("GET of a stream that is to close", get("Connection: close"), until=b"standalone"),
    one("GET of a stream with a query", get(first="GET /mcp?x=1 HTTP/1.1"), until=b"standalone"),
    one("GET with a length of none", get("Content-Length: 0"), until=b"standalone"),
    one("DELETE without a session", head("DELETE /mcp HTTP/1.1")),
    one("DELETE of an unknown session", head("DELETE /mcp HTTP/1.1", "Mcp-Session-Id: x")),
    one("DELETE, HTTP/1.0", head("DELETE /mcp HTTP/1.0", SESSION)),
    one("HTTP/1.0", post(first="POST /mcp HTTP/1.0")),
    one("HTTP/1.0 kept alive", post(CALL, "Connection: keep-alive", first="POST /mcp HTTP/1.0")),
    one("HTTP/1.0 without a host", head("POST /mcp HTTP/1.0", *USUAL, length(CALL), host="") + CALL),
    one("HTTP/1.0 answered by a stream", post(call("stream"), first="POST /mcp HTTP/1.0")),
    one("call that is to close, answered by a stream", post(call("stream"), "Connection: close")),
    one("line end in front", b"\r\n" + post()),
    one("many line ends in front", b"\r\n" * 10 + post()),
    one("line feed in front", b"\n" + post()),
    one("carriage return in front", b"\r" + post()),
    Case("line end in a segment in front", (b"\r\n", post())),
    Case("line end behind", (post() + b"\r\n",)),
    Case("line end behind in a segment of its own", (post(), b"\r\n")),
    one("expect, the body with it", post(CALL, "Expect: 100-continue")),
    Case(
        "expect, the body awaited",
        (head("POST /mcp HTTP/1.1", *USUAL, "Expect: 100-continue", length(CALL)), AWAIT, CALL),
    ),
    Case(
        "expect in capitals, the body awaited",
        (head("POST /mcp HTTP/1.1", *USUAL, "expect: 100-CONTINUE", length(CALL)), AWAIT, CALL),
    ),
    Case(
        "expect with chunks, the body awaited",
        (
            head("POST /mcp HTTP/1.1", *USUAL, "Expect: 100-continue", CHUNKED),
            AWAIT,
            chunk(CALL) + LAST_CHUNK,
        ),
    ),
    Case(
        "expect with too large a body",
        (head("POST /mcp HTTP/1.1", *USUAL, "Expect: 100-continue", "Content-Length: 1000000"),),
        then="half-close",
    ),
    one("expect without a body", head("POST /mcp HTTP/1.1", *USUAL, "Expect: 100-continue", "Content-Length: 0")),
    one("expect on a GET", get("Expect: 100-continue"), until=b"standalone"),
    one("upgrade to a websocket", head("GET /mcp HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", SESSION)),
    one(
        "upgrade to a websocket on a stream",
        get("Connection: Upgrade", "Upgrade: websocket"),
        until=b"standalone",
    ),
    one("upgrade to HTTP/2", post(CALL, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: A")),
    one("upgrade of a call", post(CALL, "Connection: Upgrade", "Upgrade: websocket")),
    one("upgrade, a call behind it", post(CALL, "Connection: Upgrade", "Upgrade: websocket") + post(), answers=2),
    one("chunks", framed(chunk(CALL) + LAST_CHUNK, CHUNKED)),
    one("chunks of single bytes", framed(b"".join(chunk(bytes([each])) for each in CALL) + LAST_CHUNK, CHUNKED)),
    one("chunks in capitals", framed(chunk(CALL) + LAST_CHUNK, "Transfer-Encoding: CHUNKED")),
    one("chunk size in capitals", framed(b"%X\r\n%b\r\n0\r\n\r\n" % (len(CALL), CALL), CHUNKED)),
    one("chunk size with zeros", framed(b"0000%x\r\n%b\r\n000\r\n\r\n" % (len(CALL), CALL), CHUNKED)),
    one("chunk extensions", framed(b'%x;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % (len(CALL), CALL), CHUNKED)),
    one("chunks with a trailer", framed(chunk(CALL) + b"0\r\nX-Late: 1\r\n\r\n", CHUNKED)),
    one("chunks of nothing", framed(LAST_CHUNK, CHUNKED)),
    one("chunks beyond the limit", framed(chunk(b" " * MAX_BODY_BYTES) + chunk(CALL) + LAST_CHUNK, CHUNKED)),
    one("chunks in single bytes", framed(chunk(CALL) + LAST_CHUNK, CHUNKED), is_bytewise=True),
    Case("chunks, the last one late", (framed(chunk(CALL), CHUNKED), LAST_CHUNK)),
    one("chunks on a GET", get(CHUNKED) + LAST_CHUNK, until=b"standalone"),
    one("chunks, HTTP/1.0", head("POST /mcp HTTP/1.0", *USUAL, CHUNKED) + chunk(CALL) + LAST_CHUNK),
    one("gzip", post(gzip.compress(CALL, mtime=0), "Content-Encoding: gzip")),
    one("gzip in capitals", post(gzip.compress(CALL, mtime=0), "Content-Encoding: GZIP")),
    one("gzip in chunks", framed(chunk(gzip.compress(CALL, mtime=0)) + LAST_CHUNK, CHUNKED, "Content-Encoding: gzip")),
    one("gzip that is none", post(CALL, "Content-Encoding: gzip")),
    one("gzip of too much", post(gzip.compress(bytes(100_000), mtime=0), "Content-Encoding: gzip")),
    one("gzip twice", post(gzip.compress(gzip.compress(CALL, mtime=0)), "Content-Encoding: gzip, gzip")),
    one("gzip of nothing", post(b"", "Content-Encoding: gzip")),
    one("deflate that is none", post(CALL, "Content-Encoding: deflate")),
    one("brotli", post(CALL, "Content-Encoding: br")),
    one("two encodings", post(CALL, "Content-Encoding: identity", "Content-Encoding: unheard-of")),
    one("no length", head("POST /mcp HTTP/1.1", *USUAL)),
    one("no length, a body all the same", head("POST /mcp HTTP/1.1", *USUAL) + CALL, answers=2),
    one("length of none", framed(b"", "Content-Length: 0")),
    one("length of none, a call behind it", framed(b"", "Content-Length: 0") + post(), answers=2),
    one("length with zeros", framed(CALL, f"Content-Length: 000{len(CALL)}")),
    one("length with blanks", framed(CALL, f"Content-Length:  \t {len(CALL)} \t ")),
    one("length twice", framed(CALL, length(CALL), length(CALL))),
    one("length twice in one", framed(CALL, f"Content-Length: {len(CALL)}, {len(CALL)}")),
    one("length of 20 digits", framed(CALL, "Content-Length: 18446744073709551617")),
    one("length of 100 digits", framed(CALL, "Content-Length: " + "9" * 100)),
    one("length of 16 hexadecimal digits", framed(CALL, "Content-Length: 9223372036854775808"), then="half-close"),
    one("body at one more than the limit", post(b" " * (MAX_BODY_BYTES + 1))),
    one("body far beyond the limit", post(b" " * (MAX_BODY_BYTES * 50))),
    Case(
        "body beyond the limit, in segments",
        (*halves(post(b" " * (MAX_BODY_BYTES + 1)), 500),),
    ),
    one(
        "body beyond the limit, announced alone",
        head("POST /mcp HTTP/1.1", *USUAL, "Content-Length: 1000000"),
        then="half-close",
    ),
    one(
        "body beyond the limit of a path that is none",
        head("POST /other HTTP/1.1", *USUAL, "Content-Length: 1000000"),
        then="half-close",
    ),
    one("two calls in one segment", post() + post(call(request_id=2)), answers=2),
    one("the same call twice in one segment", post() + post(), answers=2),
    one("five calls in one segment", b"".join(post(call(request_id=number)) for number in range(5)), answers=5),
    one("forty calls in one segment", b"".join(post(call(request_id=number)) for number in range(40)), answers=40),
    one("two calls, the first answered by a stream", post(call("stream")) + post(call(request_id=2)), answers=2),
    one("two calls, the first to close", post(CALL, "Connection: close") + post(call(request_id=2))),
    one("call, then one of another path", post() + post(first="POST /other HTTP/1.1"), answers=2),
    one("call, then chunks", post() + framed(chunk(call(request_id=2)) + LAST_CHUNK, CHUNKED), answers=2),
    one("chunks, then a call", framed(chunk(CALL) + LAST_CHUNK, CHUNKED) + post(call(request_id=2)), answers=2),
    one("call, then no HTTP", post() + b"\0\r\n\r\n", answers=2),
    one("call, then two lengths", post() + framed(b"abc", "Content-Length: 3", "Content-Length: 1"), answers=2),
    one("call, then one without a host", post() + head("POST /mcp HTTP/1.1", *USUAL, host=""), answers=2),
    one("call, then a GET", post() + get(), until=b"standalone"),
    one("call, then a DELETE", post() + head("DELETE /mcp HTTP/1.1", SESSION), answers=2),
    one("DELETE, then a call", head("DELETE /mcp HTTP/1.1", SESSION) + post(), answers=2),
    one("initialize, then a call", post(INITIALIZE, usual=(ACCEPT, JSON)) + post(), answers=2),
    Case("calls while one is under way", (post(call("slow")), b"".join([_LARGE_POST] * 40)), answers=41),
    Case("calls in segments while one is under way", (post(call("slow")), *([_LARGE_POST] * 40)), answers=41),
    Case("half a call while one is under way", (post(call("slow")), *halves(post(), 99)), answers=2),
    Case("no HTTP while one is under way", (post(call("slow")), b"\0\r\n\r\n"), answers=2),
    Case("line end while one is under way", (post(call("slow")), b"\r\n")),
    Case("call while a stream is under way", (post(call("slow stream")), post(call(request_id=2))), answers=2),
    Case("call, the next one begun", (post() + b"POST /mcp HT", AWAIT, post(call(request_id=2))[12:]), answers=2),
    Case("two calls, cut in the body of the first", halves(post() + post(call(request_id=2)), len(post()) - 9), 2),
    Case("call cut in its body, then a half", (post()[:-9], post()[-9:] + post(PING)[:60], AWAIT, post(PING)[60:]), 2),
    Case("call cut in its body, then no HTTP", (post()[:-9], post()[-9:] + b"\0\r\n\r\n"), answers=2),
    Case("call cut in its body, then a GET", (post()[:-9], post()[-9:] + get()), 2, until=b"standalone"),
    Case("call and a half", (post() + post(call(request_id=2))[:60], AWAIT, post(call(request_id=2))[60:]), answers=2),
    Case(
        "call, the next one's body late",
        (post() + post(call(request_id=2))[:-5], AWAIT, post(call(request_id=2))[-5:]),
        answers=2,
    ),
    one("two calls in single bytes", post() + post(call(request_id=2)), answers=2, is_bytewise=True),
    one("two calls of two sessions", post() + post(call(request_id=2), usual=(ACCEPT, JSON, OTHER)), answers=2),
    one("GET, a call behind it", get() + post(), until=b"standalone"),
)

# -- hostile: what another reader could frame otherwise

ENDS = {
    "line feeds alone": lambda data: data.replace(b"\r\n", b"\n"),
    "line feed alone behind the first line": lambda data: data.replace(b"\r\n", b"\n", 1),
    "line feed alone in front of the body": lambda data: data.replace(b"\r\n\r\n", b"\r\n\n", 1),
    "two line feeds in front of the body": lambda data: data.replace(b"\r\n\r\n", b"\n\n", 1),
    "carriage returns alone": lambda data: data.replace(b"\r\n", b"\r"),
    "carriage return alone in front of the body": lambda data: data.replace(b"\r\n\r\n", b"\r\n\r", 1),
    "line ends the wrong way round": lambda data: data.replace(b"\r\n", b"\n\r"),
    "two carriage returns": lambda data: data.replace(b"\r\n", b"\r\r\n"),
}

HOSTILE_LINES = {
    "line feed in a value": "X-Odd: a\nContent-Length: 0",
    "carriage return in a value": "X-Odd: a\rContent-Length: 0",
    "NUL in a value": "X-Odd: a\0b",
    "NUL in a name": "X-O\0dd: a",
    "folded": "X-Odd: a\r\n b",
    "folded by a tab": "X-Odd: a\r\n\tb",
    "folded empty": "X-Odd:\r\n b",
    "folded with a header": "X-Odd: a\r\n Content-Length: 0",
    "folded length": "Content-Length:\r\n 5",
    "folded coding": "Transfer-Encoding:\r\n chunked",
    "blank before the colon": "X-Odd : 1",
    "tab before the colon": "X-Odd\t: 1",
    "blank before the colon of a length": "Content-Length : 3",
    "blank before the colon of a coding": "Transfer-Encoding : chunked",
    "blank before the name": " X-Odd: 1",
    "blank in the name": "X Odd: 1",
    "no name": ": 1",
    "no colon": "X-Odd",
    "colon alone": ":",
    "name in quotes": '"X-Odd": 1',
    "name in brackets": "X(Odd): 1",
    "name with a slash": "X/Odd: 1",
    "name with a semicolon": "X;Odd: 1",
    "name beyond ASCII": "X-\xc3\xa9: 1",
    "name in Latin-1": "X-\xe9: 1",
    "coding in a name with a byte more": "Transfer-Encoding\x0b: chunked",
    "vertical tab before a coding": "\x0bTransfer-Encoding: chunked",
}
"""One line of a call more, which another reader could take for something else."""

LENGTHS = {
    "with a plus": ("Content-Length: +5",),
    "with a minus": ("Content-Length: -5",),
    "empty": ("Content-Length:",),
    "of blanks": ("Content-Length:  \t ",),
    "hexadecimal": ("Content-Length: 0x5",),
    "octal": ("Content-Length: 0o5",),
    "with a point": ("Content-Length: 5.0",),
    "with an exponent": ("Content-Length: 5e0",),
    "with an underscore": ("Content-Length: 0_5",),
    "with a blank inside": ("Content-Length: 5 5",),
    "with letters": ("Content-Length: 5x",),
    "of letters": ("Content-Length: five",),
    "in another script": ("Content-Length: \xd9\xa5",),
    "in quotes": ('Content-Length: "5"',),
    "with a semicolon": ("Content-Length: 5;5",),
    "as a list": ("Content-Length: 5,5",),
    "as a list of two": ("Content-Length: 5, 6",),
    "as a list with a gap": ("Content-Length: 5,",),
    "twice the same": ("Content-Length: 5", "Content-Length: 5"),
    "twice, unequal": ("Content-Length: 5", "Content-Length: 6"),
    "twice, in other letters": ("Content-Length: 5", "content-length: 0"),
    "twice, one with zeros": ("Content-Length: 5", "Content-Length: 05"),
    "twice, one empty": ("Content-Length: 5", "Content-Length:"),
    "thrice": ("Content-Length: 0", "Content-Length: 5", "Content-Length: 5"),
    "apart": ("Content-Length: 5", "X-Between: 1", "Content-Length: 0"),
    "with a carriage return": ("Content-Length: 5\r5",),
    "with a NUL": ("Content-Length: 5\0",),
    "with a vertical tab": ("Content-Length: \x0b5",),
    "with a form feed": ("Content-Length: 5\x0c",),
    "negative zero": ("Content-Length: -0",),
}
"""Lengths that are none; the body has five bytes and something behind it."""

CODINGS = {
    "length, then chunks": ("Content-Length: 5", CHUNKED),
    "chunks, then length": (CHUNKED, "Content-Length: 5"),
    "length of none, then chunks": ("Content-Length: 0", CHUNKED),
    "chunks, then length of none": (CHUNKED, "Content-Length: 0"),
    "chunked twice": (CHUNKED, CHUNKED),
    "chunked twice in one": ("Transfer-Encoding: chunked, chunked",),
    "identity": ("Transfer-Encoding: identity",),
    "identity, and a length": ("Transfer-Encoding: identity", "Content-Length: 5"),
    "identity, then chunked": ("Transfer-Encoding: identity, chunked",),
    "chunked, then identity": ("Transfer-Encoding: chunked, identity",),
    "chunked, then identity apart": (CHUNKED, "Transfer-Encoding: identity"),
    "gzip": ("Transfer-Encoding: gzip",),
    "gzip, then chunked": ("Transfer-Encoding: gzip, chunked",),
    "chunked, then gzip": ("Transfer-Encoding: chunked, gzip",),
    "unheard": ("Transfer-Encoding: cow",),
    "unheard, and a length": ("Transfer-Encoding: cow", "Content-Length: 5"),
    "unheard, then chunked": ("Transfer-Encoding: cow", CHUNKED),
    "chunked, then unheard": (CHUNKED, "Transfer-Encoding: cow"),
    "longer": ("Transfer-Encoding: xchunked",),
    "longer at the end": ("Transfer-Encoding: chunkedx",),
    "with a parameter": ("Transfer-Encoding: chunked;q=1",),
    "in quotes": ('Transfer-Encoding: "chunked"',),
    "with a comma in front": ("Transfer-Encoding: , chunked",),
    "with a comma behind": ("Transfer-Encoding: chunked,",),
    "with a vertical tab": ("Transfer-Encoding: \x0bchunked",),
    "with a tab": ("Transfer-Encoding:\tchunked", "Content-Length: 5"),
    "with a NUL": ("Transfer-Encoding: chunked\0",),
    "beyond ASCII": ("Transfer-Encoding: \xc5\xbfhunked",),
    "in a folded line": ("Transfer-Encoding: x\r\n chunked",),
    "empty": ("Transfer-Encoding:", "Content-Length: 5"),
    "with an underscore in the name": ("Transfer_Encoding: chunked", "Content-Length: 5"),
}
"""Codings that leave a doubt. The bytes behind are five in one reading and none in another."""

CHUNKS = {
    "size of letters": b"zz\r\nabc\r\n0\r\n\r\n",
    "size with a minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with a plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size with an underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "size with a blank in front": b" 3\r\nabc\r\n0\r\n\r\n",
    "size with a blank behind": b"3 \r\nabc\r\n0\r\n\r\n",
    "size with a tab behind": b"3\t\r\nabc\r\n0\r\n\r\n",
    "size with a letter behind": b"3g\r\nabc\r\n0\r\n\r\n",
    "size with a point": b"3.0\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "no size but an extension": b";x\r\nabc\r\n0\r\n\r\n",
    "size of 17 digits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "size of 100 digits": b"f" * 100 + b"\r\nabc\r\n0\r\n\r\n",
    "line feed alone behind the size": b"3\nabc\r\n0\r\n\r\n",
    "carriage return alone behind the size": b"3\rabc\r\n0\r\n\r\n",
    "line feed alone behind the chunk": b"3\r\nabc\n0\r\n\r\n",
    "no line end behind the chunk": b"3\r\nabc0\r\n\r\n",
    "chunk longer than its size": b"3\r\nabcde\r\n0\r\n\r\n",
    "line feed alone behind the last size": b"3\r\nabc\r\n0\n\r\n",
    "line feed alone at the end": b"3\r\nabc\r\n0\r\n\n",
    "extension with a line feed": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "extension with a carriage return": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "extension with a NUL": b"3;a\0\r\nabc\r\n0\r\n\r\n",
    "extension that is open": b'3;a="b\r\nabc\r\n0\r\n\r\n',
    "extension of 70,000 bytes": b"3;" + b"a" * 70_000 + b"\r\nabc\r\n0\r\n\r\n",
    "folded trailer": b"3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n",
    "trailer without a name": b"3\r\nabc\r\n0\r\n: a\r\n\r\n",
    "trailer that is a length": b"3\r\nabc\r\n0\r\nContent-Length: 50\r\n\r\n",
    "trailer that is a coding": b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer that is a session": b"3\r\nabc\r\n0\r\n" + OTHER.encode() + b"\r\n\r\n",
    "trailer without an end, then a request": b"3\r\nabc\r\n0\r\n" + SMUGGLED,
}
"""Chunks that leave a doubt."""

HOSTILE_CASES = (
    *(one(f"ends: {name}", change(post())) for name, change in ENDS.items()),
    *(one(f"line: {name}", post(CALL, line)) for name, line in HOSTILE_LINES.items()),
    *(one(f"length: {name}", framed(b"12345" + SMUGGLED, *lines)) for name, lines in LENGTHS.items()),
    *(one(f"coding: {name}", framed(b"0\r\n\r\n" + SMUGGLED, *lines)) for name, lines in CODINGS.items()),
    *(one(f"chunks: {name}", framed(data, CHUNKED)) for name, data in CHUNKS.items() if "without an end" not in name),
    one(
        "trailers, a call without a session behind them",
        framed(chunk(CALL) + b"0\r\nX-Late: 1\r\n" + OTHER.encode() + b"\r\n\r\n", CHUNKED)
        + post(usual=(ACCEPT, JSON)),
        answers=2,
    ),
    Case(
        "trailers, a call behind them in a segment of its own",
        (framed(chunk(CALL) + b"0\r\nAuthorization: Bearer evil\r\n\r\n", CHUNKED), AWAIT, post()),
        answers=2,
    ),
    one("length on a GET", get("Content-Length: 5") + b"12345", until=b"standalone"),
    one("length on a GET that is a request", get(length(SMUGGLED)) + SMUGGLED, until=b"standalone"),
    one("length and chunks on a GET", get("Content-Length: 5", CHUNKED) + b"0\r\n\r\n" + SMUGGLED),
    one("length and chunks, HTTP/1.0", head("POST /mcp HTTP/1.0", "Content-Length: 5", CHUNKED) + b"0\r\n\r\nabc"),
)

# -- cases that do not come to their end by themselves

CUT = {
    "nothing": (b"", 0, 0),
    "a line end": (b"\r\n", 0, 0),
    "a part of the first line": (b"POST /mc", 0, 0),
    "the first line": (b"POST /mcp HTTP/1.1\r\n", 0, 0),
    "a part of a header": (post()[:100], 0, 0),
    "the head but its end": (post()[: -len(CALL) - 2], 0, 0),
    "the head alone": (post()[: -len(CALL)], 0, 1),
    "a part of the body": (post()[:-5], 0, 1),
    "the body but a byte": (post()[:-1], 0, 1),
    "a chunk size": (framed(b"5", CHUNKED), 0, 1),
    "a part of a chunk": (framed(b"5\r\nab", CHUNKED), 0, 1),
    "chunks but the last": (framed(chunk(CALL), CHUNKED), 0, 1),
    "the last chunk but its end": (framed(chunk(CALL) + b"0\r\n", CHUNKED), 0, 1),
    "a call and a head": (post() + post()[: -len(CALL)], 1, 1),
    "a call and a part of one": (post() + b"POST /mc", 1, 0),
    "a trailer without its end": (framed(b"3\r\nabc\r\n0\r\n" + SMUGGLED[:-1], CHUNKED), 0, 1),
    "a call": (post(), 1, 0),
    "two calls": (post() + post(call(request_id=2)), 2, 0),
}
"""What a client has sent when it stops, how many answers it has got by then, and how many it gets if it stays."""

CUT_CASES = (
    *(Case(f"half close behind {name}", (data,), count, "half-close") for name, (data, count, _) in CUT.items()),
    *(Case(f"reset behind {name}", (data,), count, "reset") for name, (data, count, _) in CUT.items()),
    Case("half close with a call under way", (post(call("wait")),), 0, "half-close"),
)

_PATIENT = ("a call and a part of one", "a trailer without its end", "a call", "two calls")
LATE_CASES = tuple(
    Case(f"nothing more behind {name}", (data,), count + late, "half-close" if late else "wait")
    for name, (data, count, late) in CUT.items()
    if name not in _PATIENT
)
"""As above, but the client stays: the server's own patience is what ends it."""

CASES = (*USUAL_CASES, *ANSWER_CASES, *REPEATED_CASES, *ODD_CASES, *HOSTILE_CASES, *CUT_CASES)
"""Every case whose end does not depend on a deadline."""

assert len({case.name for case in (*CASES, *LATE_CASES)}) == len(CASES) + len(LATE_CASES)
