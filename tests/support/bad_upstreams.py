"""Upstreams that are none: each answers `initialize` in one of the ways that a session cannot live with.

Plays on `support.raw_server.RawServer`. Knows nothing of the product.
"""

import json
from dataclasses import dataclass

from support.raw_server import Peer, RawServer, chunk, ok

OTHER_VERSION = "2024-11-05"
ELSEWHERE = "http://127.0.0.1:9/elsewhere"
_FLOOD = b"x" * 65_536
_SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Bad:
    """One way of answering; `$ID` in an answer stands for the request's id."""

    answer: bytes = b""
    flood: bytes = b""
    """The head of an answer whose body never ends."""
    status: str = "200 OK"
    lines: tuple[str, ...] = ("Content-Type: application/json",)

    def server(self) -> RawServer:
        """Make a server that answers so."""
        return RawServer(self.play)

    async def play(self, peer: Peer) -> None:
        """Answer the requests of one connection."""
        while (received := await peer.request()) is not None:
            try:
                message = json.loads(received.body or b"{}")
            except ValueError:
                message = {}
            if received.method != "POST" or message.get("method") != "initialize":
                await peer.send(ok(b"{}", status="404 Not Found"))
            elif self.flood:
                await peer.send(self.flood)
                while True:
                    await peer.send(chunk(_FLOOD))
            else:
                await peer.send(self._whole(json.dumps(message["id"]).encode()))

    def _whole(self, request_id: bytes) -> bytes:
        body = self.answer.replace(b"$ID", request_id)
        head = [f"HTTP/1.1 {self.status}", *self.lines, f"Content-Length: {len(body)}"]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _result(version: str) -> bytes:
    answer = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "bad", "version": "1"}}
    return b'{"jsonrpc":"2.0","id":$ID,"result":' + json.dumps(answer).encode() + b"}"


BAD = {
    "error": Bad(b'{"jsonrpc":"2.0","id":$ID,"error":{"code":-32603,"message":"the licence ran out"}}'),
    "http error": Bad(b"nobody is at home", status="418 I'm a teapot"),
    "version": Bad(_result(OTHER_VERSION)),
    "no body": Bad(b""),
    "html": Bad(b"<html><body>It works!</body></html>", lines=("Content-Type: text/html",)),
    "redirect": Bad(b"", status="307 Temporary Redirect", lines=(f"Location: {ELSEWHERE}",)),
    "endless body": Bad(flood=_JSON_HEAD),
    "endless stream": Bad(flood=_SSE_HEAD),
}
