"""What every test of a command needs: a proxy to operate, and no waiting."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from proxy.cli import main
from proxy.commands.console import Console
from proxy.config import ENV_PREFIX
from support.operators import ThreadedAdmin


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Operator:
    """Whoever types commands against one proxy."""

    def __init__(self, admin: ThreadedAdmin, capsys: pytest.CaptureFixture[str], pauses: list[float]) -> None:
        self.admin = admin
        self.control = admin.control
        self.pauses = pauses
        self._capsys = capsys

    def __call__(self, *words: str) -> Ended:
        """Run one command against the proxy, in this process."""
        return self.bare(*words, "--admin", self.admin.url)

    def bare(self, *words: str) -> Ended:
        """Run one command as it stands."""
        code = main(list(words))
        return Ended(code, *self._capsys.readouterr())


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Take the waiting out of commands; the pauses they would have made are listed."""
    made: list[float] = []
    monkeypatch.setattr(Console, "pause", lambda _, seconds: made.append(seconds))
    return made


@pytest.fixture
def admin() -> Iterator[ThreadedAdmin]:
    """Serve a real admin API before a fake proxy."""
    with ThreadedAdmin() as served:
        yield served


@pytest.fixture
def operate(admin: ThreadedAdmin, capsys: pytest.CaptureFixture[str], pauses: list[float]) -> Operator:
    """Return who types commands."""
    return Operator(admin, capsys, pauses)
