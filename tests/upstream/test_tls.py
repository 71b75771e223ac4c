"""Whom the edges trust, and what a connection that was not made means: the words, without a network."""

import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Upstream
from proxy.errors import ConfigError
from proxy.upstream.base import Loss
from proxy.upstream.http import HttpEdge
from proxy.upstream.tls import client_context, failed_connection
from proxy.upstream.wire import WireEdge
from support.tls import Certificates

HTTPS = "https://upstream.example/mcp"


def context(**settings: Any) -> ssl.SSLContext:
    """Make the context of an upstream."""
    return client_context(Upstream(url=HTTPS, **settings))


def test_certificates_and_their_names_are_verified() -> None:
    """There is nothing to turn that off with."""
    made = context()

    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.check_hostname
    assert made.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_file_names_the_only_authorities(tmp_path: Path) -> None:
    """Those of the system are not among them."""
    certificates = Certificates(tmp_path)

    assert len(context(ca_file=str(certificates.trusted)).get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "expected certificates in PEM format in "),
        (b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", "expected certificates in PEM format"),
        (b"\0\xff", "expected certificates in PEM format in "),
    ],
    ids=["missing", "empty", "broken", "binary"],
)
@pytest.mark.parametrize("make", [client_context, WireEdge, HttpEdge])
async def test_a_file_without_certificates_is_an_error_of_the_configuration(
    make: Any, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """It is told when the edge is made, with the file's name, and not with the first request."""
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        make(Upstream(url=HTTPS, ca_file=str(file)))

    assert raised.value.key == "upstream.ca_file"
    assert str(file) in raised.value.problem
    assert problem in raised.value.problem


def test_a_name_that_can_be_no_file_is_one_too() -> None:
    """Whatever a configuration holds, there is no traceback."""
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        context(ca_file="a\0b")


async def test_no_file_is_looked_at_without_tls() -> None:
    """Who speaks plain HTTP on purpose trusts nobody's certificates."""
    for make in (WireEdge, HttpEdge):
        edge = make(Upstream(url="http://127.0.0.1:9/mcp", ca_file="/nonexistent"))
        await edge.close()


@pytest.mark.parametrize(
    ("error", "is_tls", "loss", "detail"),
    [
        (ConnectionRefusedError(111, "refused"), False, Loss.REFUSED, "[Errno 111] refused"),
        (ConnectionRefusedError(111, "refused"), True, Loss.REFUSED, "[Errno 111] refused"),
        (ConnectionResetError(104, "reset"), False, Loss.REFUSED, "[Errno 104] reset"),
        (
            ConnectionResetError(104, "reset"),
            True,
            Loss.NOT_SENT,
            "the TLS handshake was broken off: [Errno 104] reset",
        ),
        (ConnectionResetError(), True, Loss.NOT_SENT, "the TLS handshake was broken off: closed"),
        (ConnectionAbortedError(), True, Loss.NOT_SENT, "the TLS handshake was broken off: closed"),
        (TimeoutError(), True, Loss.NOT_SENT, "no connection within 2.5 seconds"),
        (TimeoutError(), False, Loss.NOT_SENT, "no connection within 2.5 seconds"),
        (TimeoutError(errno.ETIMEDOUT, "late"), False, Loss.NOT_SENT, f"TimeoutError: [Errno {errno.ETIMEDOUT}] late"),
        (socket.gaierror(-2, "no name"), False, Loss.NOT_SENT, "gaierror: [Errno -2] no name"),
        (ssl.SSLError(1, "[SSL] bad"), True, Loss.NOT_SENT, "SSLError: [SSL] bad"),
        (OSError(113, "no route"), False, Loss.NOT_SENT, "OSError: [Errno 113] no route"),
        (RuntimeError("odd"), False, Loss.NOT_SENT, "RuntimeError: odd"),
    ],
)
def test_a_connection_that_was_not_made_is_told_by_its_reason(
    error: Exception, is_tls: bool, loss: Loss, detail: str
) -> None:
    """Refused is only where nobody listens; every detail says something."""
    told, why = failed_connection(error, is_tls, 2.5)

    assert told is loss
    assert detail in why
