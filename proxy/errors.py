"""Own the error tree: what the proxy raises, and who catches it.

- ProxyError
  - ConfigError: a setting is wrong; `cli` prints its one line and exits with 2
  - UpstreamError: an exchange with an upstream failed; raised by `upstream`, caught by `relay`
  - DownstreamError: a client's request or connection is unusable; raised and caught in `downstream`
  - StoreError: a session store or stream log failed; raised by `store`, caught by `relay`
  - InternalError: the proxy broke one of its own rules; nothing catches it but the outermost boundary
    - IllegalTransition: a (state, event) pair that no table knows; the state is unchanged

Expected outcomes (a gap, giving up, not found) are return values, never errors.
"""


class ProxyError(Exception):
    """Something failed in the proxy."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or _first_line(type(self)))


class ConfigError(ProxyError):
    """The configuration is not usable."""

    def __init__(self, problem: str = "", *, key: str = "", source: str = "") -> None:
        super().__init__(problem)
        self.problem = str(self.args[0])
        """What was expected and what was given."""
        self.key = key
        """Dotted key (`listen.address`), or the place in the file; empty when no single key is at fault."""
        self.source = source
        """File, environment variable or flag that gave the value; empty when there is none."""

    def __str__(self) -> str:
        """Return `<source>: <key>: <problem>` without empty parts, on one line whatever was given."""
        line = ": ".join(part for part in (self.source, self.key, self.problem) if part)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class UpstreamError(ProxyError):
    """An exchange with the upstream failed."""


class DownstreamError(ProxyError):
    """The client's request or connection is unusable."""


class StoreError(ProxyError):
    """The store failed."""


class InternalError(ProxyError):
    """The proxy broke one of its own rules."""


class IllegalTransition(InternalError):  # noqa: N818 - the name is the vocabulary of the state tables
    """No table knows this event in this state."""


def _first_line(cls: type[ProxyError]) -> str:
    """Return the docstring's first line (`-OO` drops it: then the class's name) as default message."""
    return (cls.__doc__ or cls.__name__).partition("\n")[0].rstrip(".")
