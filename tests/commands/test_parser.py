"""How a wrong argument is told."""

import pytest

from proxy.commands.parser import Parser
from proxy.errors import ConfigError


def test_a_wrong_argument_is_an_error_and_no_exit(capsys: pytest.CaptureFixture[str]) -> None:
    """The caller decides how to end; nothing is printed before it does."""
    parser = Parser(prog="x")

    with pytest.raises(ConfigError, match=r"unrecognized arguments: --y \(see --help\)"):
        parser.parse_args(["--y"])
    assert capsys.readouterr() == ("", "")
