"""Certificates as a test needs them, and what a server shows of a handshake.

One authority is trusted (its file is `trusted`), another signs what must not be. Knows nothing of the product.
"""

import datetime as dt
import ssl
from pathlib import Path

import trustme

HOST = "localhost"
ADDRESS = "127.0.0.1"


class Certificates:
    """A private authority that the product is told to trust, one that it is not, and contexts for servers."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self._stranger = trustme.CA()
        self.trusted = directory / "authority.pem"
        """File of the authority."""
        self.strange = directory / "stranger.pem"
        """File of the other."""
        self._authority.cert_pem.write_to_path(str(self.trusted))
        self._stranger.cert_pem.write_to_path(str(self.strange))
        self.asked: list[str | None] = []
        """The names that clients asked for in their handshakes (SNI), None for none."""

    def server(self, *names: str, **times: dt.datetime) -> ssl.SSLContext:
        """Return a server's context with a certificate for these names, by default for this machine's."""
        return self._context(self._authority.issue_cert(*(names or (HOST, ADDRESS)), **times))

    def expired(self) -> ssl.SSLContext:
        """Return one whose certificate was good for a day in the past."""
        now = dt.datetime.now(dt.UTC)
        return self.server(not_before=now - dt.timedelta(days=2), not_after=now - dt.timedelta(days=1))

    def early(self) -> ssl.SSLContext:
        """Return one whose certificate is good from tomorrow."""
        now = dt.datetime.now(dt.UTC)
        return self.server(not_before=now + dt.timedelta(days=1), not_after=now + dt.timedelta(days=2))

    def stranger(self) -> ssl.SSLContext:
        """Return one that an authority signed which nobody named."""
        return self._context(self._stranger.issue_cert(HOST, ADDRESS))

    def own(self) -> ssl.SSLContext:
        """Return one that has signed itself."""
        context = self._bare()
        authority = trustme.CA()
        with authority.private_key_pem.tempfile() as key, authority.cert_pem.tempfile() as certificate:
            context.load_cert_chain(certificate, key)
        return context

    def _context(self, certificate: trustme.LeafCert) -> ssl.SSLContext:
        context = self._bare()
        certificate.configure_cert(context)
        return context

    def _bare(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = lambda _, name, __: self.asked.append(name)
        return context
