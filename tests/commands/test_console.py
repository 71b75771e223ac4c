"""Where output goes, and how progress looks with and without a terminal."""

import json
import sys

import pytest

from proxy.commands.console import BAR_CELLS, Console


def test_a_person_gets_text_and_a_program_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each console writes its own kind of result and leaves the other out."""
    for console in (Console(is_json=False), Console(is_json=True)):
        console.write("text\n")
        console.document({"a": 1})

    assert capsys.readouterr() == ('text\n{"a": 1}\n', "")


def test_a_document_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """A peer's name cannot break a line or reach the terminal as it is."""
    Console(is_json=True).document({"client": "x\n\x1b[2J\u202e"})
    out = capsys.readouterr().out

    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out) == {"client": "x\n\x1b[2J\u202e"}


def test_without_a_terminal_progress_is_a_line_per_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A log of a script holds each state once."""
    console = Console(is_json=False)
    for text in ("1/2", "1/2", "2/2"):
        console.progress(1, 2, text)
    console.end_progress()

    assert capsys.readouterr() == ("", "1/2\n2/2\n")


def test_on_a_terminal_progress_is_a_bar_drawn_over_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar grows in its line, a shorter text leaves nothing of the longer one, and a note goes below."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    console = Console(is_json=False)
    console.progress(1, 2, "1/2 moved")
    console.progress(2, 2, "2/2")
    console.progress(0, 0, "none")
    console.note("said")
    console.end_progress()
    first, second, third = capsys.readouterr().err.removeprefix("\r").split("\r")
    half = BAR_CELLS // 2

    assert first == f"[{'#' * half}{'.' * half}] 1/2 moved"
    assert second == f"[{'#' * BAR_CELLS}] 2/2".ljust(len(first))
    assert third.rstrip(" ").startswith(f"[{'.' * BAR_CELLS}] none")
    assert third.endswith("\nsaid\n")


def test_a_bar_fits_its_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that wrapped could not be drawn over."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    Console(is_json=False).progress(1, 2, "x" * 100)

    assert len(capsys.readouterr().err.removeprefix("\r")) == 39


def test_a_program_gets_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON the documents tell how far it is."""
    console = Console(is_json=True)
    console.progress(1, 2, "1/2")
    console.end_progress()

    assert capsys.readouterr() == ("", "")
