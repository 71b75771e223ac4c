"""Whom the proxy trusts to be its upstream, and what it means that no connection came about: one word for either edge.

Owns what is verified and what is offered. Knows neither connections nor exchanges. Invariant: a certificate is always
verified, with its name; there is no setting that turns it off.
"""

import ssl

from proxy.config import Upstream
from proxy.errors import ConfigError
from proxy.upstream.base import Loss


def client_context(config: Upstream) -> ssl.SSLContext:
    """Return the context for connections to an `https://` upstream.

    Raises:
        ConfigError: `upstream.ca_file` cannot be read, or holds no certificate.
    """
    try:
        # Without a file: the system's authorities, or what SSL_CERT_FILE and SSL_CERT_DIR name.
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except ssl.SSLError as error:
        problem = f"expected certificates in PEM format in {config.ca_file}, got none that can be read"
        raise ConfigError(problem, key="upstream.ca_file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{config.ca_file} cannot be read: {reason}", key="upstream.ca_file") from error
    # The one protocol that is spoken; a server that prefers HTTP/2 and is told nothing may begin with it.
    context.set_alpn_protocols(["http/1.1"])
    return context


def failed_connection(error: BaseException, is_tls: bool, timeout_seconds: float) -> tuple[Loss, str]:
    """Return what a connection that was not made means, and why it was not, for a person."""
    if isinstance(error, ConnectionRefusedError) or (isinstance(error, ConnectionResetError) and not is_tls):
        return Loss.REFUSED, str(error)
    if isinstance(error, ConnectionError) and is_tls:
        # Somebody listens, and may still have the sessions: a handshake that breaks off says nothing about them.
        return Loss.NOT_SENT, f"the TLS handshake was broken off: {str(error) or 'closed'}"
    if isinstance(error, TimeoutError) and not error.errno:
        return Loss.NOT_SENT, f"no connection within {timeout_seconds:g} seconds"
    return Loss.NOT_SENT, f"{type(error).__name__}: {error}"
