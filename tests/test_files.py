"""Files that are whole or not there."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fungi_seg import FungiSegError
from fungi_seg.files import files_below, replacing


def fail_halfway(path: Path, failure: BaseException) -> None:
    with replacing(path) as draft:
        draft.write_text("half")
        raise failure


def test_writes_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "report.json"
    with replacing(path) as draft:
        assert draft.parent == path.parent
        assert draft.suffix == ".json"
        draft.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_two_threads_that_write_one_file(tmp_path: Path) -> None:
    """Each writes a draft of its own; the file is that of the last one, whole."""
    path, both = tmp_path / "a.txt", threading.Barrier(2)

    def write(text: str) -> Path:
        with replacing(path) as draft:
            draft.write_text(text)
            both.wait()
        return draft

    with ThreadPoolExecutor(2) as pool:
        drafts = set(pool.map(write, ["one", "other"]))
    assert len(drafts) == 2
    assert path.read_text() in ("one", "other")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(failure)):
        fail_halfway(path, failure)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FungiSegError, match=r"a\.txt: can't be written .*No space left"):
        fail_halfway(path, OSError(28, "No space left on device"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(FungiSegError, match=r"a\.txt: can't be written"), replacing(tmp_path / "a.txt") as draft:
        draft.write_text("new")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(FungiSegError, match=r"b\.txt: can't be written"), replacing(tmp_path / "a" / "b.txt") as draft:
        draft.write_text("new")


def test_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(FungiSegError, match="can't be written"), replacing(tmp_path / ("x" * 300)) as draft:
        draft.write_text("new")


def filled(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def below(folder: Path, remarks: list[str] | None = None) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder, remarks)]


def test_files_below_folders_and_links(tmp_path: Path) -> None:
    """Two links to one folder are two places; a link to nothing is a file that can't be read."""
    filled(tmp_path / "in" / "b.txt", tmp_path / "in" / "c" / "a.txt", tmp_path / "store" / "deep" / "d.txt")
    (tmp_path / "in" / "linked").symlink_to("../store")
    (tmp_path / "in" / "c" / "again").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "e.txt").symlink_to(tmp_path / "store" / "deep" / "d.txt")
    (tmp_path / "in" / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.txt")
    assert below(tmp_path / "in") == [
        *("b.txt", "c/a.txt", "c/again/deep/d.txt", "e.txt", "gone.txt", "linked/deep/d.txt"),
    ]
    (tmp_path / "door").symlink_to("in")
    assert below(tmp_path / "door") == below(tmp_path / "in")


def test_links_in_a_circle(tmp_path: Path) -> None:
    filled(tmp_path / "a" / "one.txt", tmp_path / "b" / "two.txt")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "other").symlink_to("../b")
    (tmp_path / "b" / "back").symlink_to("../a")
    assert below(tmp_path / "a") == ["one.txt", "other/two.txt", "up/b/two.txt"]


def test_folders_that_cannot_be_listed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "a.txt", tmp_path / "locked" / "b.txt")
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    remarks: list[str] = []
    assert below(tmp_path, remarks) == ["a.txt"]
    assert remarks == [f"{tmp_path / 'locked'}: left out, for it can't be listed (Permission denied)"]
    assert below(tmp_path) == ["a.txt"]
