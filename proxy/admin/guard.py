"""Own who may ask the admin API, and in what form: token, `Host`, `Origin`, type of a body.

Knows neither operations nor the HTTP library. Invariant: nothing but `/livez` and `/readyz` is done for who does not
bring the token where there is one, and no web page of somebody else reaches any operation.
"""

import hmac
from typing import NamedTuple

from proxy.core import headers as h
from proxy.core.headers import Headers

_ONCE = ("Authorization", "Content-Encoding", "Content-Type", "Host", "Origin")
_LOOPBACK = "localhost"


class Refusal(NamedTuple):
    """Why a request is not served."""

    status: int
    code: str
    """A word for programs."""
    message: str


class Guard:
    """Judges heads of requests."""

    def __init__(self, token: str) -> None:
        self._token = token.encode(errors="surrogateescape")

    def refusal(self, headers: Headers, *, is_open: bool) -> Refusal | None:
        """Return why a request is refused; None when it may be served.

        Args:
            headers: of the request.
            is_open: whether it needs no token.
        """
        if h.duplicated_headers(headers, _ONCE):
            return Refusal(400, "invalid", "a header that means one thing was sent with several values")
        host = h.get(headers, "Host")
        # Without a token the listener is on loopback: there a page may name any host that resolves to 127.0.0.1 (DNS
        # rebinding). With one, the page does not know it, and orchestrators ask by addresses nobody configured.
        if not self._token and not h.host_allowed(host, _LOOPBACK, ()):
            return Refusal(403, "forbidden", "the Host header is not a loopback name, and there is no token")
        origin = h.get(headers, "Origin")
        # No page is served here, so any page is somebody else's, one of another port of this machine too.
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return Refusal(403, "forbidden", "requests of web pages are not served")
        if self._token and not is_open and not self._brings_token(h.get(headers, "Authorization")):
            return Refusal(401, "unauthorized", "expected the header Authorization: Bearer with the admin token")
        return None

    @staticmethod
    def body_refusal(headers: Headers) -> Refusal | None:
        """Return why the body of a request is not read; None when it may be."""
        # A page may send forms and plain text to anybody without asking; JSON it may not (Fetch, 2.2.2).
        if not h.is_json(h.get(headers, "Content-Type")):
            return Refusal(415, "unsupported_media_type", "expected a body with Content-Type: application/json")
        if h.is_encoded(headers):
            return Refusal(415, "unsupported_media_type", "expected a body without Content-Encoding")
        return None

    def _brings_token(self, authorization: str | None) -> bool:
        scheme, _, given = (authorization or "").partition(" ")
        is_same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token)
        return is_same and scheme.lower() == "bearer"
