"""How a command ends."""

import re

from proxy.commands import outcome
from proxy.commands.outcome import CODES_TEXT, REFUSED, CommandError
from proxy.errors import ProxyError


def test_every_exit_code_is_told_in_the_help() -> None:
    """The text that every help ends with lists the codes there are, each once."""
    codes = [value for name, value in vars(outcome).items() if name.isupper() and isinstance(value, int)]
    told = [int(code) for code in re.findall(r"^  (\d+) ", CODES_TEXT, re.MULTILINE)]

    assert sorted(codes) == told == [0, 1, 2, 3, 4, 130]


def test_an_error_that_says_no_more_is_a_refusal() -> None:
    """A command that was not done ends with 1 unless its error knows better."""
    error = CommandError("no")

    assert isinstance(error, ProxyError)
    assert (str(error), error.exit_code) == ("no", REFUSED)
    assert CommandError("no", 4).exit_code == 4
