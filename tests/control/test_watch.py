"""A file that is watched: when it is read, and when not."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.watch import INTERVAL_SECONDS, Mark, Watch, mark_of
from support.fakes import FakeClock


class File:
    """A file that changes as the test says, and what was read of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.mark: Mark | None = (1, 1, 1)
        self.read: list[Mark | None] = []
        self.watch = Watch(self.clock, lambda: self.mark, self.reload)
        self.watch.begin()

    def reload(self) -> None:
        """Read it."""
        self.read.append(self.mark)

    def wait(self, intervals: int = 1) -> None:
        """Let so many intervals pass."""
        self.clock.advance(intervals * INTERVAL_SECONDS)


def test_a_file_that_stays_is_not_read() -> None:
    """What was there at the start counts as read."""
    file = File()
    file.wait(10)

    assert file.read == []


def test_a_changed_file_is_read_once_it_is_quiet() -> None:
    """Not in the middle of being written, but an interval after its last change, and once."""
    file = File()
    file.mark = (2, 1, 1)
    file.wait()
    file.mark = (2, 2, 1)
    file.wait()
    assert file.read == []
    file.wait(5)

    assert file.read == [(2, 2, 1)]


def test_a_file_that_is_gone_for_a_moment_is_not_read() -> None:
    """An editor that puts a new file in the place of the old one leaves none there in between."""
    file = File()
    file.mark = None
    file.wait(3)
    assert file.read == []
    file.mark = (1, 1, 2)
    file.wait(2)

    assert file.read == [(1, 1, 2)]


def test_a_file_that_comes_back_as_it_was_is_not_read() -> None:
    """Nothing has changed."""
    file = File()
    file.mark = None
    file.wait()
    file.mark = (1, 1, 1)
    file.wait(3)

    assert file.read == []


def test_a_reload_that_raises_is_not_the_last() -> None:
    """The next change is read all the same, and the one that failed not again."""
    file = File()
    file.watch._changed = lambda: file.read.append(file.mark) or 1 / 0
    file.mark = (2, 1, 1)
    try:
        file.wait(2)
    except ZeroDivisionError:
        file.watch._changed = file.reload
    file.wait(3)
    assert file.read == [(2, 1, 1)]
    file.mark = (3, 1, 1)
    file.wait(2)

    assert file.read == [(2, 1, 1), (3, 1, 1)]


def test_a_closed_watch_looks_no_more() -> None:
    """Nothing is left running, and closing twice is harmless."""
    file = File()
    file.watch.close()
    file.watch.close()
    file.mark = (2, 1, 1)
    file.wait(3)

    assert (file.read, file.clock.pending()) == ([], 0)


@given(st.lists(st.sampled_from([None, (1, 1, 1), (2, 1, 1), (3, 1, 1)]), max_size=20))
def test_in_the_end_the_last_change_is_read(marks: list[Mark | None]) -> None:
    """Whatever happened to it: once the file rests, what is in it was read last, or was never changed."""
    file = File()
    for mark in marks:
        file.mark = mark
        file.wait()
    file.mark = file.mark or (4, 1, 1)
    file.wait(2)

    assert (file.read or [(1, 1, 1)])[-1] == file.mark
    assert all(before != after for before, after in zip(file.read, file.read[1:], strict=False))


def test_a_mark_changes_with_the_file(tmp_path: Path) -> None:
    """Another text, another file under the name, another one behind a link; none where there is no file."""
    path, link = tmp_path / "config.toml", tmp_path / "link.toml"
    assert mark_of(path) is None
    path.write_text("a")
    link.symlink_to(path)
    first = mark_of(link)
    path.write_text("ab")
    second = mark_of(link)
    other = tmp_path / "other.toml"
    other.write_text("ab")
    other.replace(path)

    assert len({first, second, mark_of(link), None}) == 4
    assert mark_of(link) == mark_of(path)
