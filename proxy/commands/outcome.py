"""Own how a command ends: its exit codes, and the error that carries one.

Invariant: whoever scripts a command can tell by the code alone whether to try again, to correct it, or to give up.
"""

from proxy.errors import ProxyError

DONE = 0
REFUSED = 1
"""The operation failed, was refused, cancelled or rolled back."""
USAGE = 2
"""The command line, the configuration or the token is wrong."""
UNREACHABLE = 3
"""The admin API cannot be reached, or stopped answering."""
NOT_FOUND = 4
"""There is no such session, upstream, job or route."""
INTERRUPTED = 130
"""Ctrl-C (128 + SIGINT); a job that was started goes on."""

CODES_TEXT = """exit codes:
  0    done
  1    the operation failed, was refused, cancelled or rolled back
  2    wrong usage, configuration or token
  3    the admin API cannot be reached
  4    no such session, upstream, job or route
  130  Ctrl-C; a job that was started goes on"""


class CommandError(ProxyError):
    """A command did not do what was asked."""

    def __init__(self, message: str, exit_code: int = REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
