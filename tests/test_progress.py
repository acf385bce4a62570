"""Working ahead, and showing how far it has come."""

from __future__ import annotations

import io
import itertools
import threading
from operator import length_hint
from types import SimpleNamespace

import pytest

from fungi_seg import progress
from fungi_seg.errors import Cancelled
from fungi_seg.progress import Step, following, pausing, prefetch, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by 4 seconds each time it is read."""
    ticks = itertools.count(0, 4)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


@pytest.mark.usefixtures("clock")
def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abcdefg", 7, "memory bank")) == list("abcdefg")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "memory bank: 3/7 images, 0.2 images/s, 16 s left",
        "memory bank: 6/7 images, 0.2 images/s, 4 s left",
        "memory bank: 7/7 images, 0.2 images/s, 0 s left",
    ]


@pytest.mark.usefixtures("clock")
def test_line_after_each_item(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(track(range(2), 2, "search", unit="rows")) == [0, 1]
    assert capsys.readouterr().err.splitlines() == [
        "search: 1/2 rows, 0.2 rows/s, 4 s left",
        "search: 2/2 rows, 0.2 rows/s, 0 s left",
    ]


def test_silence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(track(range(3), 3, "memory bank", show=False)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(track(range(3), 3, "memory bank")) == [0, 1, 2]
    assert "memory bank" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([], 0, "memory bank")) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_order(workers: int, count: int) -> None:
    assert list(prefetch(lambda i: i * i, range(count), workers)) == [i * i for i in range(count)]


def test_slow_items_keep_their_place() -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(timeout=30)  # the first ends after the second
        if item == 1:
            second.set()
        return item

    assert list(prefetch(work, range(5), 2)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_looks_ahead_only_so_far(workers: int) -> None:
    items = iter(range(1000))
    results = prefetch(lambda i: i, items, workers)
    for used in range(1, 6):
        next(results)
        assert used <= 1000 - length_hint(items) <= used + 2 * workers
    results.close()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_errors_come_where_their_item_stands(workers: int) -> None:
    done = []

    def work(item: int) -> int:
        done.append(item)
        if item == 2:
            raise ValueError("item 2")
        return item

    results = prefetch(work, range(1000), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)
    assert len(done) <= 3 + 2 * workers


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_stopping_early_leaves_the_rest_undone(workers: int) -> None:
    done: list[int] = []
    results = prefetch(done.append, range(1000), workers)
    next(results)
    results.close()
    assert 1 <= len(done) <= 1 + 2 * workers


@pytest.mark.parametrize("workers", [1, 3])
def test_begins_nothing_further_while_as_much_is_held(workers: int) -> None:
    begun: list[int] = []
    results = prefetch(lambda i: begun.append(i) or i, range(20), workers, lambda made: 5, most=5)
    for item in range(20):
        assert next(results) == item
        # what is held may have been made by all workers at once, before any of them knew how large it is
        assert len(begun) <= item + 1 + workers
    assert next(results, None) is None


@pytest.mark.parametrize("workers", [1, 3])
def test_those_that_wait_for_room_end_with_the_rest(workers: int) -> None:
    before = threading.active_count()
    results = prefetch(lambda i: i, range(20), workers, lambda made: 5, most=5)
    next(results)
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("show", [True, False])
def test_who_follows_is_told_each_step(show: bool, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Step] = []
    with following(told.append):
        assert list(track("ab", 2, "search", "rows", show)) == ["a", "b"]
        assert list(pausing("cd")) == ["c", "d"]
    assert told == [Step("search", done, 2, "rows") for done in (0, 1, 2, 2, 2)]
    list(track("ab", 2, "search", "rows", show=False))
    assert list(pausing("cd")) == ["c", "d"]
    assert len(told) == 5  # nobody follows any more
    assert bool(capsys.readouterr().err) == show


def test_who_follows_inside_is_told_and_nobody_else() -> None:
    outer: list[Step] = []
    inner: list[Step] = []
    with following(outer.append):
        with following(inner.append):
            list(track("a", 1, "search", show=False))
        list(pausing("b"))
    assert (len(outer), len(inner)) == (1, 2)


def test_each_thread_is_followed_by_itself() -> None:
    told: list[Step] = []
    with following(told.append):
        other = threading.Thread(target=lambda: list(track("abc", 3, "search", show=False)))
        other.start()
        other.join()
    assert not told


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("last", [0, 3])
def test_who_follows_ends_the_work_at_a_step(workers: int, last: int) -> None:
    done: list[int] = []

    def stop(step: Step) -> None:
        if step.done == last:
            raise Cancelled("enough")

    def work() -> None:
        for item in track(prefetch(lambda i: i, range(100), workers), 100, "search", show=False):
            done.append(item)

    before = threading.active_count()
    with pytest.raises(Cancelled, match="enough"), following(stop):
        work()
    assert done == list(range(last))
    assert threading.active_count() == before
    list(pausing("a"))  # nobody follows any more
