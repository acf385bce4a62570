"""What happens to a workspace whose files are damaged, changed or opened by somebody else while people paint."""

# ruff: noqa: F811  (fixtures)

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_workspace import SOON, THREE, Open, images, map_of, opened, paint, painted  # noqa: F401
from trees import scene

from fungi_seg import DataError, FungiSegError, MemoryBank
from fungi_seg.annotating import ExportConfig
from fungi_seg.annotating.bank_classes import take_classes

waiting = threading.Event()


def until(true: Any) -> None:
    """Returns once something holds."""
    for _ in range(200):
        if true():
            return
        waiting.wait(0.05)
    raise AssertionError("it never did")


def test_a_stroke_of_one_class_does_not_keep_the_folder_from_being_looked_at(opened: Open) -> None:
    workspace = opened()
    with workspace.gate.answering():  # nothing is looked at before the stroke
        workspace.set_classes(THREE)
        workspace.edit(0, 0, (0, 0, 2, 2), [1, 4])
    until(lambda: workspace.next_image()["id"] is not None)


def test_an_image_replaced_by_one_of_another_size_is_told(opened: Open, images: Path) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    version = paint(workspace, 0, painted(0))["version"]
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(images / "0.png")
    for ask in (
        lambda: workspace.edit(0, version, (70, 50, 80, 60), [1, 100]),
        lambda: workspace.accept(0, version),
        lambda: workspace.save(0, version),
        lambda: workspace.image(0, "a"),
    ):
        with pytest.raises(DataError, match="the image was changed since"):
            ask()
    Image.fromarray(scene(0)[0]).save(images / "0.png")
    np.testing.assert_array_equal(map_of(workspace.image(0, "a")["annotation"]), painted(0))


def test_classes_that_were_written_by_half_are_read(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = opened()
    first.set_classes(THREE[:2])
    plain, calls = os.replace, 0

    def killed(old: Any, new: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        plain(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            first.set_classes(THREE)
    first.close()
    second = opened()
    assert [one["name"] for one in second.state()["classes"]] == ["ground", "red"]
    assert len(second.set_classes(THREE)["classes"]) == 3
    second.close()
    (tmp_path / "bank.annotations" / "palette.txt").write_text("0 0 0")
    with pytest.raises(DataError, match="1 colours for the 3 classes"):
        opened()


@pytest.mark.parametrize("text", ["[1]", "3", '{"looked": 5, "doubt": [1]}', '{"looked": [[1]], "doubt": {}}', "{", ""])
def test_a_damaged_record_of_what_was_looked_at_stops_nothing(opened: Open, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "bank.annotations"
    folder.mkdir()
    (folder / "workspace.json").write_text(text)
    workspace = opened()
    assert workspace.state()["looked"] == 0
    workspace.set_classes(THREE)
    paint(workspace, 0, painted(0))
    until(lambda: workspace.state()["doubt"])


def test_annotations_are_painted_on_by_one_server_at_a_time(opened: Open, tmp_path: Path) -> None:
    first = opened()
    with pytest.raises(FungiSegError, match="another server"):
        opened()
    with pytest.raises(FungiSegError, match="another server"):
        opened(tmp_path / "other", annotations=str(tmp_path / "bank.annotations"))
    first.close()
    opened()


def test_thumbnails_of_another_start_have_other_addresses(opened: Open) -> None:
    stamps = set()
    for _ in range(2):
        workspace = opened()
        stamps.add(workspace.list_images("name")["images"][0]["stamp"])
        workspace.close()
    assert len(stamps) == 2


def test_a_change_of_the_bank_while_it_is_opened_is_not_missed(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    for number in (0, 1):
        workspace.save(number, paint(workspace, number, painted(number))["version"])
    MemoryBank.open(tmp_path / "bank").remove(["0"])
    plain = MemoryBank.open

    def slowly(path: Path) -> MemoryBank:
        found = plain(path)
        monkeypatch.setattr(MemoryBank, "open", plain)
        plain(path).undo()
        return found

    monkeypatch.setattr(MemoryBank, "open", slowly)
    workspace.state()
    assert workspace.state()["bank"]["images"] == 2


def test_a_change_of_the_bank_right_after_a_save_is_not_missed(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    workspace.save(0, paint(workspace, 0, painted(0))["version"])
    version = paint(workspace, 1, painted(1))["version"]
    plain = workspace.engine._with_image

    def overtaken(name: str) -> Any:
        found = plain(name)
        MemoryBank.open(tmp_path / "bank").remove(["0"])
        return found

    monkeypatch.setattr(workspace.engine, "_with_image", overtaken)
    workspace.save(1, version)
    assert workspace.state()["bank"]["images"] == 1


@pytest.mark.parametrize("how", ["damaged", "relabelled"])
def test_a_bank_that_cannot_be_used_any_more_is_told_beside_all_else(opened: Open, tmp_path: Path, how: str) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    workspace.save(0, paint(workspace, 0, painted(0))["version"])
    if how == "damaged":
        (tmp_path / "bank" / "bank.json").write_text("{")
    else:
        MemoryBank.open(tmp_path / "bank").relabel({"red": "rouge"})
    told = workspace.state()
    assert told["total"] == 5
    assert any("bank" in line for line in told["warnings"])
    version = paint(workspace, 0, np.full_like(painted(0), 1))["version"]  # what is painted is kept all the same
    with pytest.raises(FungiSegError):
        workspace.save(0, version)
    assert workspace.image(0, "a")["status"] == "draft"


def test_what_goes_wrong_with_one_image_does_not_end_the_work_on_others(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = opened()
    with workspace.gate.answering():
        workspace.set_classes(THREE)
        plain = workspace.engine.kept.get

        def failing(name: str) -> Any:
            if name == "1":
                raise RuntimeError("something unforeseen")
            return plain(name)

        monkeypatch.setattr(workspace.engine.kept, "get", failing)
        paint(workspace, 0, painted(0))
    until(lambda: sum(one["doubt"] is not None for one in workspace.list_images()["images"]) == 4)
    problems = {one["name"]: one["problem"] for one in workspace.list_images()["images"]}
    assert "something unforeseen" in problems["1"]


def test_strokes_painted_while_a_save_is_on_its_way_are_kept(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    version = paint(workspace, 0, painted(0))["version"]
    plain = workspace.engine._with_image

    def meanwhile(name: str) -> Any:
        found = plain(name)
        workspace.edit(0, version, (0, 0, 64, 48), [1, 64 * 48])
        for number in range(1, 5):  # so many that the first one isn't in memory any more
            paint(workspace, number, painted(number))
        return found

    monkeypatch.setattr(workspace.engine, "_with_image", meanwhile)
    workspace.save(0, version)
    told = workspace.image(0, "a")
    assert told["status"] == "draft"
    assert (map_of(told["annotation"]) == 1).all()


def test_an_image_saved_while_it_is_exported_is_in_the_results(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import fungi_seg.annotating.background as background

    workspace = opened()
    workspace.set_classes(THREE)
    workspace.save(0, paint(workspace, 0, painted(0))["version"])
    version = paint(workspace, 1, painted(1))["version"]
    plain = background.export_results

    def overtaken(*args: Any) -> Any:
        saving = threading.Thread(target=workspace.save, args=(1, version))  # a job can't wait for its own request
        saving.start()
        saving.join(SOON)
        assert not workspace.state()["drafts"]
        return plain(*args)

    monkeypatch.setattr(background, "export_results", overtaken)
    workspace.start_job("export", ExportConfig())
    workspace.engine.work.wait()
    job = next(one for one in workspace.state()["jobs"] if one["kind"] == "export")
    assert (job["status"], job["result"]) == ("done", {"images": 5, "skipped": [], "objects": 0})


def test_a_save_that_was_stopped_and_changed_does_not_go_on_with_the_old_strokes(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fungi_seg.bank.writer import BankWriter

    workspace = opened()
    workspace.set_classes(THREE)
    version = paint(workspace, 0, painted(0))["version"]
    with monkeypatch.context() as patched:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(BankWriter, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            workspace.save(0, version)
    workspace.close()
    workspace = opened()
    again = np.where(painted(0) == 0, 2, painted(0)).astype(np.int16)
    workspace.save(0, paint(workspace, 0, again)["version"])
    bank = MemoryBank.open(tmp_path / "bank")
    assert bank.rows.labels.dense(3)[:, 0].sum() == 0
    assert bank.verify() == []


def test_a_bank_deleted_while_it_is_served_is_made_again(opened: Open, tmp_path: Path) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    for number in (0, 1):
        workspace.save(number, paint(workspace, number, painted(number))["version"])
    shutil.rmtree(tmp_path / "bank")
    assert workspace.state()["bank"] is None
    version = paint(workspace, 2, painted(2))["version"]
    assert workspace.save(2, version)["bank"]["images"] == 3
    shutil.rmtree(tmp_path / "bank")
    version = paint(workspace, 3, painted(3))["version"]
    assert workspace.save(3, version)["bank"]["images"] == 4  # nobody asked for the state in between


def test_an_image_so_long_that_it_would_hold_up_everything_is_refused(opened: Open, images: Path) -> None:
    Image.fromarray(np.zeros((8, 16 * (1 << 16), 3), np.uint8)).save(images / "long.png")
    workspace = opened()
    number = next(one["id"] for one in workspace.list_images("name")["images"] if one["name"] == "long")
    with pytest.raises(DataError, match=r"would enter as \d+ patches"):
        workspace.image(number, "a")
    workspace.set_classes(THREE)
    workspace.save(0, paint(workspace, 0, painted(0))["version"])
    workspace.start_job("export", ExportConfig())
    workspace.engine.work.wait()
    job = next(one for one in workspace.state()["jobs"] if one["kind"] == "export")
    assert (job["status"], job["result"]["images"]) == ("done", 5)
    assert "would enter as" in job["result"]["skipped"][0]


def test_images_whose_names_no_list_can_hold_are_left_out(opened: Open, images: Path) -> None:
    for name in ("two\nlines", " space", "other "):
        Image.fromarray(scene(0)[0]).save(images / f"{name}.png")
    state = opened().state()
    assert state["total"] == 5
    assert any("3 images left out" in line and r"two\nlines" in line for line in state["warnings"])


def test_a_full_disk_is_told_and_what_was_there_stays(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    workspace.save(0, paint(workspace, 0, painted(0))["version"])
    version = paint(workspace, 1, painted(1))["version"]
    plain = os.replace
    for part in ("drafts", "masks", "annotated", "bank.json", "workspace", "cache"):

        def full(old: Any, new: Any, part: str = part) -> None:
            if part in str(new).removeprefix(str(tmp_path)).replace("bank.annotations", ""):
                raise OSError(28, "No space left on device")
            plain(old, new)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", full)
            told = workspace.image(1, "a")  # neither what was looked at nor features are worth an error
            workspace.look(3, looked=part == "masks")
            workspace.image(2 + (part == "cache"), "a")
            assert told["version"] == version
            if part == "drafts":
                with pytest.raises(FungiSegError, match="No space left"):
                    workspace.edit(1, version, (0, 0, 2, 2), [1, 4])
            elif part in ("masks", "annotated", "bank.json"):
                with pytest.raises(FungiSegError, match=r"(?i)No space left|disk is full"):
                    workspace.save(1, version)
        told = workspace.image(1, "a")
        assert (told["version"], told["status"], told["in_bank"]) == (version, "draft", False), part
        np.testing.assert_array_equal(map_of(told["annotation"]), painted(1))
    assert workspace.save(1, version)["bank"]["images"] == 2


def test_an_image_that_became_a_link_out_of_the_folder_is_not_shown(opened: Open, images: Path, tmp_path: Path) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    secret = tmp_path / "secret.png"
    Image.fromarray(scene(7)[0]).save(secret)
    (images / "2.png").unlink()
    (images / "2.png").symlink_to(secret)
    for ask in (
        lambda: workspace.image(2, "a"),
        lambda: workspace.picture(2),
        lambda: workspace.thumbnail(2),
        lambda: workspace.crop("2", (0, 0, 9, 9)),
    ):
        with pytest.raises(FungiSegError, match="leads out of"):
            ask()


def test_unlabelled_pixels_do_not_become_class_255(opened: Open) -> None:
    store = opened().store
    store.set_classes(["0", "1"], [(0, 0, 0), (1, 1, 1)])
    info = SimpleNamespace(classes=tuple(map(str, range(256))), palette=[(0, 0, i) for i in range(256)])
    with pytest.raises(DataError, match="255 means unlabelled"):
        take_classes(store, SimpleNamespace(info=info, path="bank"))  # type: ignore[arg-type]
    assert store.classes == ("0", "1")


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_a_save_killed_at_any_step_loses_no_stroke(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: bool
) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    number = 0 if first else 1
    if not first:
        workspace.save(0, paint(workspace, 0, painted(0))["version"])
    paint(workspace, number, painted(number))
    plain = {name: getattr(os, name) for name in ("replace", "unlink")}
    for step in range(1, 60):
        left = step

        def killed(*args: Any, name: str, **options: Any) -> Any:
            nonlocal left
            if threading.current_thread() is threading.main_thread():
                left -= 1
                if left <= 0:  # nothing is tidied up either
                    raise KeyboardInterrupt
            return plain[name](*args, **options)

        with monkeypatch.context() as patched:
            version = workspace.image(number, "a")["version"]
            for name in plain:
                patched.setattr(os, name, partial(killed, name=name))
            try:
                workspace.save(number, version)
                break
            except KeyboardInterrupt:
                pass
        workspace.close()
        workspace = opened()
        told = workspace.image(number, "a")
        np.testing.assert_array_equal(map_of(told["annotation"]), painted(number))
        assert told["status"] == "draft" or told["in_bank"], step
    else:
        raise AssertionError("it was never saved")
    assert step > 3
    bank = MemoryBank.open(tmp_path / "bank")
    assert (bank.verify(), len(bank.info.sources)) == ([], 1 if first else 2)
