"""A folder that is being annotated: strokes, masks, the bank that they become, and what two tabs do to each other."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import scene

from fungi_seg import BackboneConfig, DataError, FungiSegError, InputConfig, MemoryBank, Segmenter, open_dataset
from fungi_seg.annotating import Conflict, ExportConfig, NotThere, Workspace, WorkspaceConfig
from fungi_seg.annotating.runs import from_runs, to_runs
from fungi_seg.bank import SourceImages
from fungi_seg.images import read_mask

SOON = 60
NAMES = [{"name": "ground", "colour": "#000000"}, {"name": "red", "colour": "#e69f00"}]
THREE = [*NAMES, {"name": "green", "colour": "#56b4e9"}]
Open = Callable[..., Workspace]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(5):
        path = tmp_path / "images" / "more" / f"{number}.png" if number == 4 else tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(number)[0]).save(path)
    return tmp_path / "images"


@pytest.fixture
def opened(images: Path, tiny_config: BackboneConfig, tmp_path: Path) -> Iterator[Open]:
    """Opens a workspace on the images, as often as it is called."""
    there: list[Workspace] = []

    def open_again(bank: Path = tmp_path / "bank", **options: Any) -> Workspace:
        config = WorkspaceConfig(options.pop("backbone", tiny_config), input=InputConfig(None), **options)
        there.append(Workspace(images, bank, config))
        return there[-1]

    yield open_again
    for workspace in there:
        workspace.close()


def painted(number: int) -> np.ndarray:
    """What a person would paint on an image: its rectangles, without the void corner and a stripe."""
    labels = scene(number)[1].astype(np.int16)
    labels[labels == 255] = -1
    labels[:, 20:26] = -1
    return labels


def paint(workspace: Workspace, number: int, labels: np.ndarray, version: int | None = None) -> dict[str, Any]:
    there = workspace.image(number, "a")["version"] if version is None else version
    return workspace.edit(number, there, (0, 0, labels.shape[1], labels.shape[0]), to_runs(labels))


def map_of(told: dict[str, Any], classes: int = 3) -> np.ndarray:
    return from_runs(told["runs"], (told["height"], told["width"]), classes)


def surveyed(workspace: Workspace) -> None:
    """Returns when the whole folder is segmented by the annotations as they are."""
    waiting = threading.Event()
    for _ in range(SOON * 20):
        told = workspace.state()
        if told["predicted"] == told["total"]:
            return
        waiting.wait(0.05)
    raise AssertionError(workspace.state())


def test_from_nothing_to_a_bank(opened: Open, images: Path, tmp_path: Path) -> None:
    workspace = opened()
    assert workspace.state()["classes"] == []
    assert workspace.state()["bank"] is None
    told = workspace.set_classes(THREE)
    assert [(one["name"], one["colour"], one["fixed"]) for one in told["classes"]] == [
        ("ground", "#000000", False),
        ("red", "#e69f00", False),
        ("green", "#56b4e9", False),
    ]
    with pytest.raises(Conflict, match="two classes"):
        workspace.prediction(0)
    first = painted(0)
    one_class = np.where(first == 0, 0, -1).astype(np.int16)
    assert paint(workspace, 0, one_class)["prediction"] is None
    answer = paint(workspace, 0, first)
    assert answer["status"] == "draft"
    mask = map_of(answer["prediction"]["mask"])
    assert (mask == first)[first >= 0].mean() > 0.8
    np.testing.assert_array_equal(mask, map_of(workspace.prediction(0)["mask"]))
    np.testing.assert_array_equal(map_of(workspace.image(0, "a")["annotation"]), first)
    kept = workspace.save(0, answer["version"])
    assert kept["image"]["status"] == "saved"
    assert kept["image"]["in_bank"]
    assert kept["bank"]["images"] == 1
    values = read_mask(tmp_path / "bank.annotations" / "masks" / "0.png")
    np.testing.assert_array_equal(np.where(values == 255, -1, values.astype(int)), first)
    assert not list((tmp_path / "bank.annotations" / "drafts").rglob("*.png"))
    more = paint(workspace, 4, painted(4))
    kept = workspace.save(4, more["version"])
    assert kept["bank"]["images"] == 2
    bank = MemoryBank.open(tmp_path / "bank")
    assert bank.info.sources == ("0", "more/4")
    assert bank.verify() == []
    assert [one["action"] for one in bank.history] == ["build", "fit", "append"]
    np.testing.assert_array_equal(SourceImages(bank)["more/4"].image, scene(4)[0])  # its record finds the image
    assert len(open_dataset(workspace.store.data)) == 2
    told = workspace.state()
    assert (told["annotated"], told["drafts"], told["bank"]["images"]) == (2, 0, 2)
    assert all(one["fixed"] for one in told["classes"])


def test_masks_are_those_that_the_saved_bank_gives(opened: Open, images: Path, tmp_path: Path) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    for number in (0, 1):
        answer = paint(workspace, number, painted(number))
        before = map_of(workspace.prediction(3)["mask"])
        workspace.save(number, answer["version"])
        np.testing.assert_array_equal(map_of(workspace.prediction(3)["mask"]), before)
    segmenter = Segmenter(tmp_path / "bank", workspace.engine.features)
    for number, name in enumerate(("0", "1", "2", "3", "more/4")):
        wanted = segmenter.predict(images / f"{name}.png").mask
        assert (map_of(workspace.prediction(number)["mask"]) == wanted).mean() > 0.995


def test_an_image_that_is_saved_again_takes_its_own_place(opened: Open, tmp_path: Path) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    workspace.save(0, paint(workspace, 0, painted(0))["version"])
    again = painted(0)
    again[30:] = 2
    answer = paint(workspace, 0, again)
    assert workspace.list_images()["images"][0]["status"] == "draft"
    kept = workspace.save(0, answer["version"])
    assert kept["bank"]["images"] == 1
    bank = MemoryBank.open(tmp_path / "bank")
    assert bank.history[-1]["action"] == "replace"
    rows = bank.rows.labels.dense(3)[bank.rows.box[:, 1] >= 32]
    np.testing.assert_array_equal(rows[:, 2], 1)


def test_strokes_are_there_after_a_restart(opened: Open) -> None:
    first = opened()
    first.set_classes(THREE)
    answer = paint(first, 1, painted(1))
    shown = first.prediction(2)
    first.look(3)
    first.close()
    second = opened()
    told = second.image(1, "b")
    assert (told["status"], told["version"]) == ("draft", answer["version"])
    np.testing.assert_array_equal(map_of(told["annotation"]), painted(1))
    np.testing.assert_array_equal(map_of(second.prediction(2)["mask"]), map_of(shown["mask"]))
    assert [one["id"] for one in second.list_images("name", "unlooked")["images"]] == [0, 2, 4]
    assert [one["name"] for one in second.state()["classes"]] == ["ground", "red", "green"]


def test_the_second_tab_on_an_image_is_told(opened: Open) -> None:
    workspace = opened()
    workspace.set_classes(NAMES)
    mine, theirs = workspace.image(0, "a"), workspace.image(0, "b")
    assert (mine["held"], theirs["held"]) == (False, True)
    assert workspace.hold(0, "b") == {"held": True}
    assert workspace.hold(0, "a", release=True) == {"held": False}
    assert workspace.hold(0, "b") == {"held": False}
    workspace.edit(0, mine["version"], (0, 0, 2, 2), [1, 4])
    for change in (
        lambda: workspace.edit(0, theirs["version"], (4, 4, 5, 5), [0, 1]),
        lambda: workspace.accept(0, theirs["version"]),
        lambda: workspace.save(0, theirs["version"]),
    ):
        with pytest.raises(Conflict, match="another tab") as caught:
            change()
        assert caught.value.reason == "version"
    np.testing.assert_array_equal(
        np.argwhere(map_of(workspace.image(0, "b")["annotation"]) == 1), [[0, 0], [0, 1], [1, 0], [1, 1]]
    )


def test_threads_that_paint_on_images_of_their_own_disturb_nobody(opened: Open) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            labels, version = np.full_like(painted(number), -1), 0
            for row in range(0, 48, 6):
                labels[row : row + 6] = painted(number)[row : row + 6]
                version = workspace.edit(number, version, (0, row, 64, row + 6), to_runs(labels[row : row + 6]))[
                    "version"
                ]
            workspace.save(number, version)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not failed
    for number in range(4):
        np.testing.assert_array_equal(map_of(workspace.image(number, "x")["annotation"]), painted(number))
    assert workspace.state()["bank"]["images"] == 4


def test_an_image_whose_last_stroke_is_erased_is_as_it_was(opened: Open, tmp_path: Path) -> None:
    workspace = opened()
    workspace.set_classes(NAMES)
    answer = workspace.edit(0, 0, (0, 0, 8, 8), [1, 64])
    answer = workspace.edit(0, answer["version"], (0, 0, 8, 8), [-1, 64])
    assert (answer["version"], answer["status"]) == (0, "none")
    assert not list((tmp_path / "bank.annotations" / "drafts").rglob("*.png"))
    with pytest.raises(Conflict, match="nothing is painted"):
        workspace.save(0, 0)


def test_accepting_keeps_what_is_painted(opened: Open) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    version = paint(workspace, 0, painted(0))["version"]
    mask = map_of(workspace.prediction(0)["mask"])
    filled = map_of(workspace.accept(0, version)["annotation"])
    labels = painted(0)
    np.testing.assert_array_equal(filled, np.where(labels >= 0, labels, mask))


def test_who_voted_for_a_pixel(opened: Open) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    workspace.save(0, paint(workspace, 0, painted(0))["version"])
    paint(workspace, 4, painted(4))
    found = workspace.explain(2, 30, 20)
    assert str(found["class"]) == max(found["scores"], key=found["scores"].__getitem__)
    assert sum(found["scores"].values()) == pytest.approx(1, abs=0.01)
    assert {voter["name"] for voter in found["voters"]} <= {"0", "more/4"}
    assert {voter["id"] for voter in found["voters"]} <= {0, 4}
    weights = [voter["weight"] for voter in found["voters"]]
    assert weights == sorted(weights, reverse=True)
    assert 0 < sum(weights) <= 1.001
    for voter in found["voters"]:
        left, top, right, bottom = (int(value) for value in voter["box"])
        labels = painted(0 if voter["id"] == 0 else 4)[top:bottom, left:right]
        counts = np.bincount(labels[labels >= 0], minlength=3)
        assert voter["classes"] == {
            str(i): pytest.approx(counts[i] / counts.sum(), abs=0.01) for i in range(3) if counts[i]
        }
        assert Image.open(BytesIO(workspace.crop(voter["name"], tuple(voter["box"])))).size[0] == 96
    with pytest.raises(FungiSegError, match="isn't in the image"):
        workspace.explain(2, 64, 0)


def test_the_folder_is_segmented_and_listed(opened: Open) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    paint(workspace, 0, painted(0))
    surveyed(workspace)
    told = workspace.list_images()
    doubts = [one["doubt"] for one in told["images"]]
    assert doubts == sorted(doubts, reverse=True)
    for one in told["images"]:
        mask = map_of(workspace.prediction(one["id"])["mask"])
        shares = np.bincount(mask.ravel(), minlength=3) / mask.size
        assert one["areas"] == {str(i): pytest.approx(shares[i], abs=0.03) for i in range(3) if str(i) in one["areas"]}
        assert Image.open(BytesIO(workspace.thumbnail(one["id"]))).format == "JPEG"
    with_green = workspace.list_images(class_index=2)["images"]
    assert {one["id"] for one in with_green} == {one["id"] for one in told["images"] if one["areas"].get("2")}
    assert workspace.list_images("name", offset=3, limit=1)["images"][0]["name"] == "3"
    assert workspace.list_images(kept="annotated")["total"] == 1
    assert workspace.list_images(kept="open")["total"] == 4
    assert workspace.next_image()["id"] in (1, 2, 3, 4)
    assert workspace.state()["doubt"][-1]["annotated"] == 1
    for wrong in ({"sort": "size"}, {"kept": "some"}):
        with pytest.raises(FungiSegError, match="must be one of"):
            workspace.list_images(**wrong)


def test_an_image_that_cannot_be_read_is_told_and_the_rest_goes_on(opened: Open, images: Path) -> None:
    (images / "1.png").write_bytes(b"no image")
    workspace = opened()
    workspace.set_classes(NAMES)
    paint(workspace, 0, np.clip(painted(0), -1, 1))
    waiting = threading.Event()
    while any(one["doubt"] is None and one["problem"] is None for one in workspace.list_images()["images"]):
        waiting.wait(0.05)
    problems = {one["name"]: one["problem"] for one in workspace.list_images()["images"]}
    assert "1.png" in problems.pop("1")
    assert set(problems.values()) == {None}
    assert workspace.list_images()["images"][-1]["name"] == "1"
    with pytest.raises(DataError, match=r"1\.png"):
        workspace.image(1, "a")


def test_a_bank_that_another_program_changed_is_taken(opened: Open, tmp_path: Path) -> None:
    workspace = opened()
    workspace.set_classes(THREE)
    for number in (0, 1):
        workspace.save(number, paint(workspace, number, painted(number))["version"])
    before = workspace.state()["version"]
    MemoryBank.open(tmp_path / "bank").remove(["1"])
    told = workspace.state()
    assert told["bank"]["images"] == 1
    assert told["version"] > before
    image = workspace.image(1, "a")
    assert (image["status"], image["in_bank"]) == ("saved", False)
    assert workspace.save(1, image["version"])["bank"]["images"] == 2


def test_jobs_find_doubtful_annotations_and_export(opened: Open, tmp_path: Path) -> None:
    workspace = opened()
    with pytest.raises(Conflict, match="no bank yet"):
        workspace.start_job("audit")
    workspace.set_classes(THREE)
    for number in (0, 1, 2):
        labels = painted(number)
        if number == 2:
            labels[labels == 1] = 2
        workspace.save(number, paint(workspace, number, labels)["version"])
    draft = painted(3)
    paint(workspace, 3, draft)
    with pytest.raises(NotThere, match="no job 'sweep'"):
        workspace.start_job("sweep")
    workspace.start_job("audit")
    workspace.start_job("export", ExportConfig(objects=True, coco=True))
    workspace.engine.work.wait()
    jobs = {job["kind"]: job for job in workspace.state()["jobs"]}
    assert jobs["audit"]["status"] == jobs["export"]["status"] == "done", jobs
    json.dumps(jobs)
    found = workspace.doubtful()
    assert found["of"] == 3
    first = found["annotations"][0]
    assert (first["name"], first["id"], first["class"], first["suggested"]) == ("2", 2, 2, 1)
    files = {one["name"] for one in workspace.exported()}
    assert {"masks/0.png", "masks/more/4.png", "objects.csv", "coco.json", "labels/0.tif", "geojson/0.geojson"} <= files
    mask = read_mask(workspace.exported_file("masks/3.png"))
    np.testing.assert_array_equal(mask[draft >= 0], draft[draft >= 0])
    assert b"".join(workspace.zipped())[:2] == b"PK"
    assert len(b"".join(workspace.bank_file())) > 1000
    for name in ("../bank/bank.json", "/etc/passwd", "masks/9.png"):
        with pytest.raises(NotThere):
            workspace.exported_file(name)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (NAMES[:1], "1 classes; there must be 2"),
        ([*NAMES, {"name": "red", "colour": "#123456"}], "more than once"),
        ([NAMES[0], {"name": " ", "colour": "#123456"}], "class 2 has no name"),
        ([NAMES[0], {"name": "a\nb", "colour": "#123456"}], "class 2 has no name that can be printed"),
        ([NAMES[0], {"name": "x", "colour": "blue"}], "colour is 'blue'"),
        ([*NAMES, *({"name": f"c{i}", "colour": "#123456"} for i in range(254))], "256 classes"),
    ],
)
def test_classes_that_cannot_be(opened: Open, classes: list[dict[str, str]], said: str) -> None:
    with pytest.raises(FungiSegError, match=said):
        opened().set_classes(classes)


def test_classes_of_the_bank_stay_and_others_can_join(opened: Open) -> None:
    workspace = opened()
    workspace.set_classes(NAMES)
    workspace.save(0, paint(workspace, 0, np.clip(painted(0), -1, 1))["version"])
    with pytest.raises(FungiSegError, match="keep name and place"):
        workspace.set_classes([NAMES[0], {"name": "rouge", "colour": "#e69f00"}])
    draft = paint(workspace, 1, np.clip(painted(1), -1, 1))
    workspace.set_classes(THREE)
    answer = paint(workspace, 1, painted(1), draft["version"])
    assert 2 in np.unique(map_of(answer["prediction"]["mask"]))
    assert workspace.save(1, answer["version"])["bank"]["images"] == 2
    assert workspace.engine.bank is not None
    assert workspace.engine.bank.info.classes == ("ground", "red", "green")


@pytest.mark.parametrize(
    ("box", "runs", "said"),
    [
        ((0, 0, 65, 2), [0, 130], "box is"),
        ((-1, 0, 2, 2), [0, 6], "box is"),
        ((3, 3, 3, 4), [], "box is"),
        ((0, 0, 2, 2), [0, 5], "must fill"),
        ((0, 0, 2, 2), [7, 4], "runs hold 7"),
    ],
)
def test_edits_that_cannot_be(opened: Open, box: tuple[int, ...], runs: list[int], said: str) -> None:
    workspace = opened()
    workspace.set_classes(NAMES)
    with pytest.raises(FungiSegError, match=said):
        workspace.edit(0, 0, box, runs)
    assert workspace.image(0, "a")["status"] == "none"


def test_an_edit_that_cannot_be_written_leaves_the_labels_as_they_were(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = opened()
    workspace.set_classes(NAMES)
    version = workspace.edit(0, 0, (0, 0, 2, 2), [1, 4])["version"]

    def full(*_: object) -> int:
        raise FungiSegError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(workspace.store, "write_draft", full)
        with pytest.raises(FungiSegError, match="no space"):
            workspace.edit(0, version, (0, 0, 2, 2), [0, 4])
    told = workspace.image(0, "a")
    assert told["version"] == version
    assert (map_of(told["annotation"])[:2, :2] == 1).all()


def test_folders_within_each_other_are_refused(images: Path) -> None:
    with pytest.raises(FungiSegError, match="the bank would lie within the folder of images"):
        Workspace(images, images / "bank", WorkspaceConfig(annotations=str(images.parent / "notes")))
    with pytest.raises(FungiSegError, match="the annotations would lie within"):
        Workspace(images, images.parent / "bank", WorkspaceConfig(annotations=str(images / "notes")))


def test_numbers_and_names_that_are_not_there(opened: Open) -> None:
    workspace = opened()
    workspace.set_classes(NAMES)
    for ask in (
        lambda: workspace.image(5, "a"),
        lambda: workspace.image(-1, "a"),
        lambda: workspace.crop("x", (0, 0, 1, 1)),
    ):
        with pytest.raises(NotThere):
            ask()


def test_annotations_with_classes_that_are_not_the_banks_are_refused(
    opened: Open, bank: MemoryBank, tmp_path: Path
) -> None:
    first = opened()
    first.set_classes(NAMES)
    first.close()
    shutil.copytree(bank.path, tmp_path / "bank")
    second = opened()
    with pytest.raises(Conflict, match="aren't those of the bank"):
        second.image(0, "a")
    assert "aren't those of the bank" in second.state()["backbone"]["error"]


def test_a_bank_with_void_as_background_is_refused(
    opened: Open, bank: MemoryBank, tiny_config: BackboneConfig, tmp_path: Path
) -> None:
    from conftest import built

    from fungi_seg import BankConfig, DataConfig, load_backbone

    data = open_dataset(DataConfig(root=str(bank.path.parent / "data"), split="train"))
    backbone = load_backbone(**vars(tiny_config))
    built(data, backbone, tmp_path / "bank", input=InputConfig(None), bank=BankConfig(None, void="background"))
    with pytest.raises(Conflict, match=r"bank\.void background"):
        opened().image(0, "a")


def test_an_image_of_the_bank_annotated_elsewhere_is_told(
    bank: MemoryBank, tiny_config: BackboneConfig, tmp_path: Path
) -> None:
    shutil.copytree(bank.path, tmp_path / "bank")
    images = bank.path.parent / "data" / "train" / "images"
    with closing(
        Workspace(images, tmp_path / "bank", WorkspaceConfig(tiny_config, input=InputConfig(None)))
    ) as workspace:
        told = workspace.image(0, "a")
        assert "annotated elsewhere" in told["note"]
        assert [one["name"] for one in workspace.state()["classes"]] == list(bank.info.classes)
        before = map_of(workspace.prediction(0)["mask"])
        labels = np.full(before.shape, 2, np.int16)
        after = paint(workspace, 0, labels)
        assert (map_of(after["prediction"]["mask"]) != before).any()
        assert workspace.save(0, after["version"])["bank"]["images"] == len(bank.info.sources)


def test_another_backbone_than_the_banks_is_refused(opened: Open, bank: MemoryBank, tmp_path: Path) -> None:
    shutil.copytree(bank.path, tmp_path / "bank")
    with pytest.raises(Conflict, match=r"so backbone\.name 'vit_small_patch16_224\.dino' can't be used"):
        opened(backbone=BackboneConfig("vit_small_patch16_224.dino")).image(0, "a")
