"""`fungi-seg data inspect`: what is counted, what is named as wrong, and the contact sheet."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_cli import Run, backbone_options, run  # noqa: F401
from trees import folder_tree, scene, voc_tree

from fungi_seg import DataConfig, DataError, FungiSegError, MemoryBank, open_dataset
from fungi_seg.cli import main
from fungi_seg.commands.settings import Told
from fungi_seg.datasets import Dataset, Item, sheet
from fungi_seg.datasets.inspection import END, DataReport, Look, SplitReport, _fingerprints, inspect_data
from fungi_seg.datasets.palettes import default_palette, voc_palette
from fungi_seg.datasets.sheet import OPACITY, STRIPE, chosen_images, data_sheet
from fungi_seg.files import sha256, stamp
from fungi_seg.images.pictures import HATCHING, STRIPES, hatched


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training and two validation images, 48×64, whose classes are background, red and green."""
    return folder_tree(tmp_path / "data")


def opened(root: Path, *splits: str) -> dict[str, Dataset]:
    return {split: open_dataset(DataConfig(root=str(root), split=split), skip_bad=True) for split in splits}


def save_mask(path: Path, change: dict[int, int]) -> None:
    """Write a mask again with other values."""
    with Image.open(path) as before:
        mask = np.array(before)
    for old, new in change.items():
        mask[mask == old] = new
    Image.fromarray(mask).save(path)


# What is counted


def test_figures_are_those_of_counting(root: Path) -> None:
    report = inspect_data(opened(root, "train", "val"))
    for name, seeds in (("train", range(4)), ("val", range(100, 102))):
        split, masks = report.splits[name], [scene(seed)[1] for seed in seeds]
        total = sum(mask.size for mask in masks)
        assert (split.images, len(split.looks), len(split.readable)) == (len(masks),) * 3
        for value, class_name in enumerate(("background", "red", "green")):
            held = sum(int((mask == value).any()) for mask in masks)
            share = sum(int((mask == value).sum()) for mask in masks) / total
            assert split.classes[class_name] == (held, pytest.approx(share))
        assert split.void == pytest.approx(sum(int((mask == 255).sum()) for mask in masks) / total)
        assert split.sizes.tolist() == [[48, 64]] * len(masks)
        assert split.kinds == {"colour, 8 bits": len(masks)}
        assert split.problems == []
    assert report.across == ()
    assert report.classes == ("background", "red", "green")
    assert report.palette.tolist() == [[0, 0, 0], [230, 159, 0], [86, 180, 233]]


def test_the_json_holds_the_figures(root: Path) -> None:
    (root / "train" / "masks" / "train_3.png").unlink()
    report = inspect_data(opened(root, "train", "val"), settings={"layout": "folder"})
    told = json.loads(report.to_json())
    assert told["layout"] == "folder"
    assert told["classes"][1] == {"name": "red", "group": "", "colour": [230, 159, 0]}
    train = told["splits"]["train"]
    assert (train["images"], train["looked_at"], train["readable"], train["sizes"]) == (3, 3, 3, 1)
    assert train["height"] == {"min": 48, "median": 48, "max": 48}
    assert train["width"] == {"min": 64, "median": 64, "max": 64}
    assert train["void"] == pytest.approx(36 / (48 * 64))
    assert train["classes"]["red"]["images"] == 3
    assert train["problems"] == ["train_3.png: image without mask"]
    assert told["absent"] == {"train": [], "val": []}


def test_sizes_differ(root: Path) -> None:
    for number, (height, width) in enumerate(((10, 90), (30, 40), (20, 40))):
        image, mask = scene(0, height, width)
        Image.fromarray(image).save(root / "train" / "images" / f"train_{number}.png")
        Image.fromarray(mask).save(root / "train" / "masks" / f"train_{number}.png")
    told = inspect_data(opened(root, "train")).splits["train"].as_dict()
    assert told["height"] == {"min": 10, "median": 25, "max": 48}
    assert told["width"] == {"min": 40, "median": 52, "max": 90}
    assert told["sizes"] == 4


def test_kinds_of_images(root: Path) -> None:
    images, grey = root / "train" / "images", scene(0)[0][..., 0]
    Image.fromarray(grey).save(images / "train_0.png")
    Image.fromarray(grey.astype(np.uint16) * 200).save(images / "train_1.png")
    almost = np.repeat(grey[..., None], 3, 2)
    almost[1, 1, 0] ^= 1  # not among the pixels that are looked at first
    Image.fromarray(almost).save(images / "train_2.png")
    (images / "train_3.png").unlink()
    cv2.imwrite(str(images / "train_3.tif"), scene(3)[0].astype(np.uint16) * 200)
    report = inspect_data(opened(root, "train"))
    assert [look.kind for look in report.splits["train"].looks] == [
        "grey, 8 bits",
        "grey, 16 bits or more",
        "colour, 8 bits",
        "colour, 16 bits or more",
    ]


def test_a_limit_looks_at_images_of_even_distances(root: Path) -> None:
    report = inspect_data(opened(root, "train", "val"), limit=2)
    assert [look.id for look in report.splits["train"].looks] == ["train_1", "train_3"]
    assert [(s.images, len(s.looks)) for s in report.splits.values()] == [(4, 2), (2, 2)]
    assert len(inspect_data(opened(root, "val"), limit=7).splits["val"].looks) == 2
    with pytest.raises(FungiSegError, match="limit is 0; at least 1 image of each split"):
        inspect_data(opened(root, "train"), limit=0)


@pytest.mark.parametrize("workers", [0, 3])
def test_threads_change_nothing(root: Path, workers: int) -> None:
    assert (
        inspect_data(opened(root, "train"), workers=workers).to_json() == inspect_data(opened(root, "train")).to_json()
    )


# What is wrong


def test_images_that_cannot_be_read_are_named(root: Path) -> None:
    base = root / "train"
    save_mask(base / "masks" / "train_0.png", {2: 7})
    (base / "images" / "train_1.png").write_bytes(b"no image")
    Image.fromarray(scene(2, 20, 20)[1]).save(base / "masks" / "train_2.png")
    split = inspect_data(opened(root, "train")).splits["train"]
    assert [look.id for look in split.readable] == ["train_3"]
    first, second, third = split.problems
    assert f"{base / 'masks' / 'train_0.png'}: class ids outside the 3 known classes: 7 (" in first
    assert f"{base / 'images' / 'train_1.png'}: can't be read as an image" in second
    assert "train_2.png: the mask is 20×20 (height×width), its image train_2.png 48×64" in third
    held = split.classes["red"]
    assert held == (1, pytest.approx((scene(3)[1] == 1).mean()))


def test_nothing_can_be_read(root: Path) -> None:
    for path in (root / "train" / "masks").iterdir():
        save_mask(path, {0: 9})
    with pytest.raises(DataError, match=r"none of the 4 images that were looked at can be read:\n.*train_0"):
        inspect_data(opened(root, "train"))


def test_images_without_a_label(root: Path) -> None:
    save_mask(root / "train" / "masks" / "train_2.png", {0: 255, 1: 255, 2: 255})
    split = inspect_data(opened(root, "train")).splits["train"]
    assert split.problems == ["train_2: no pixel has a label"]


def test_classes_without_a_pixel(root: Path) -> None:
    with (root / "classes.txt").open("a") as names:
        names.write("blue\n")
    for path in (root / "val" / "masks").iterdir():
        save_mask(path, {2: 0})
    assert inspect_data(opened(root, "train", "val")).absent == {"train": ["blue"], "val": ["green", "blue"]}


def test_images_that_are_there_twice(root: Path) -> None:
    images = root / "train" / "images"
    shutil.copy(images / "train_0.png", images / "train_2.png")
    shutil.copy(images / "train_0.png", root / "val" / "images" / "val_1.png")
    report = inspect_data(opened(root, "train", "val"))
    assert report.splits["train"].problems == ["train_0, train_2: the same image 2 times"]
    assert report.across == ("train and val share 1 images, byte for byte: train_0 = val_1",)


def test_files_of_one_size_are_not_the_same(root: Path) -> None:
    images = root / "train" / "images"
    for number in range(2):
        (images / f"train_{number}.png").unlink()
        Image.fromarray(scene(number)[0]).save(images / f"train_{number}.bmp")
    assert len({path.stat().st_size for path in images.glob("*.bmp")}) == 1
    assert inspect_data(opened(root, "train")).splits["train"].twice == ()


def test_large_files_are_compared_by_their_ends_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those whose ends agree are read whole."""
    large = {name: bytearray(4 * END) for name in ("a", "same", "begin", "middle", "end")}
    for name, place in (("begin", 0), ("middle", 2 * END), ("end", -1)):
        large[name][place] = 1
    files = [tmp_path / name for name in (*large, "gone")]
    for path in files[:-1]:
        path.write_bytes(large[path.name])
    read: list[str] = []
    monkeypatch.setattr("fungi_seg.datasets.inspection.sha256", lambda path: read.append(path.name) or sha256(path))
    told = {path.name: value for path, value in _fingerprints(files).items()}
    assert read == ["a", "same", "middle"]
    assert told.keys() == large.keys()
    assert told["a"] == told["same"]
    assert len(set(told.values())) == 4


def test_images_that_cannot_be_compared_are_like_no_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = root / "train" / "images"
    shutil.copy(images / "train_0.png", images / "train_2.png")
    data = opened(root, "train")
    (images / "train_2.png").unlink()
    (images / "train_2.png").mkdir()  # opening it fails as that of a file of another owner does
    size = stamp(images / "train_0.png")
    monkeypatch.setattr("fungi_seg.datasets.inspection.stamp", lambda path: size)
    report = inspect_data(data).splits["train"]
    assert (report.twice, len(report.readable)) == ((), 3)


@pytest.mark.parametrize(
    ("names", "shared"), [(("train", "val"), 1), (("trainaug", "train"), 0), (("trainval", "val"), 0)]
)
def test_lists_that_extend_others_may_share_images(root: Path, names: tuple[str, str], shared: int) -> None:
    train = opened(root, "train")["train"]
    splits = dict(zip(names, (train, train.evenly(2)), strict=True))
    assert len(inspect_data(splits).across) == shared


def test_splits_with_other_classes(root: Path) -> None:
    (root / "val" / "classes.txt").write_text("background\nred\nblue\n")
    report = inspect_data(opened(root, "train", "val"))
    assert report.across == ("val has other classes than train: it has also blue and has no green",)
    assert report.classes == ("background", "red", "green", "blue")
    assert report.absent["val"] == ["green"]
    assert report.palette.tolist() == default_palette(report.classes).tolist()  # not the colour of green once more


def test_super_categories(root: Path) -> None:
    train = replace(opened(root, "train")["train"], groups=("", "warm", "cold"))
    assert inspect_data({"train": train}).groups == ("", "warm", "cold")


# The contact sheet


def made_report(*splits: list[list[int]]) -> DataReport:
    """Splits whose readable images have the pixels that are told, of the classes and void."""
    reports = {}
    for number, rows in enumerate(splits):
        count = len(rows[0]) - 1
        items = tuple(Item(str(i), Path(f"{number}/{i}"), Path(f"{number}/{i}")) for i in range(len(rows)))
        dataset = Dataset(items, tuple("abcdef"[:count]), voc_palette(count), lambda item, size: np.zeros(size))
        looks = tuple(Look(str(i), (10, 10), "", np.array(row)) for i, row in enumerate(rows))
        reports[str(number)] = SplitReport(len(rows), dataset, looks)
    return DataReport(reports, ())


def test_images_that_show_all_classes_come_first() -> None:
    report = made_report(
        [[100, 0, 0, 0, 0], [90, 10, 0, 0, 0], [0, 50, 50, 0, 0], [60, 0, 40, 0, 0]], [[40, 20, 0, 40, 0]]
    )
    assert chosen_images(report, 2) == [("0", 2), ("1", 0)]
    assert chosen_images(report, 1) == [("1", 0)]
    assert chosen_images(report, 3) == [("0", 1), ("0", 2), ("1", 0)]  # the one in the middle of the rest
    assert chosen_images(report, 9) == [("0", 0), ("0", 1), ("0", 2), ("0", 3), ("1", 0)]


def test_an_image_that_shows_more_of_a_class_is_preferred() -> None:
    report = made_report([[999, 1, 0], [600, 400, 0]])
    assert chosen_images(report, 1) == [("0", 1)]
    assert chosen_images(made_report([[1000, 0, 0], [999, 1, 0]]), 2) == [("0", 0), ("0", 1)]


def test_void_is_hatched_and_nothing_else() -> None:
    image = np.full((20, 30, 3), 50, np.uint8)
    mask = np.zeros((20, 30), np.int16)
    mask[:, 15:] = -1
    found = hatched(image, mask == -1, STRIPE)
    assert (found[:, :15] == 50).all()
    grey = {round(50 * (1 - HATCHING) + stripe * HATCHING) for stripe in STRIPES}
    assert set(np.unique(found[:, 15:]).tolist()) == grey


def test_the_sheet_shows_images_and_masks(root: Path) -> None:
    (root / "train" / "images" / "train_0.png").write_bytes(b"no image")  # so that numbers of images and looks differ
    report = inspect_data(opened(root, "train", "val"))
    sheet = data_sheet(report, 3)
    assert sheet.width <= 1900
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert data_sheet(report, 3).tobytes() == sheet.tobytes()
    image, mask = scene(100)  # shown at last
    at = tuple(np.argwhere(mask == 1)[len(np.argwhere(mask == 1)) // 2])
    mixed = (image[at] * (1 - OPACITY) + default_palette(report.classes)[1] * OPACITY).round()
    assert (np.abs(pixels.astype(int) - mixed).max(1) <= 12).sum() > 50
    assert data_sheet(report, 1).size == sheet.size  # one row each
    assert data_sheet(report, 50).height > sheet.height  # five images in two rows


def test_the_sheet_colours_a_class_alike_in_every_split(root: Path) -> None:
    """A class that only one split has isn't painted in the colour that the legend gives to another one."""
    (root / "val" / "classes.txt").write_text("background\nred\nblue\n")
    report = inspect_data(opened(root, "train", "val"))
    shown = data_sheet(report, 50)  # train 0, 1, 2 above train 3, val 0, 1
    pixels = np.asarray(shown)[shown.height * 11 // 20 :, shown.width // 3 :].reshape(-1, 3).astype(int)
    image, mask = scene(100)
    at = tuple(np.argwhere(mask == 2)[len(np.argwhere(mask == 2)) // 2])
    for index, there in ((3, True), (2, False)):
        mixed = (image[at] * (1 - OPACITY) + report.palette[index] * OPACITY).round()
        assert ((np.abs(pixels - mixed).max(1) <= 3).sum() > 50) == there


def test_the_sheet_stretches_dark_images_and_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (root / "train" / "images").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 8).save(path)
    written: list[str] = []
    line = sheet.text_line
    monkeypatch.setattr(sheet, "text_line", lambda text, *rest: written.append(text) or line(text, *rest))
    data_sheet(inspect_data(opened(root, "train", "val")), 50)
    said = {text.split()[0]: "stretched for display, " in text for text in written if text.startswith(("train", "val"))}
    assert said == {"train:": True, "val:": False}


# The command


def test_inspect_and_use(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What it prints builds a bank and evaluates it as it stands, without network, whatever the folder is called."""
    monkeypatch.chdir(tmp_path)
    folder_tree(tmp_path / "it's data")
    code, out, err = run("data", "inspect", "it's data", "--json", "report.json")
    assert (code, "looking at train: 4/4 images" in err) == (0, True)
    lines = [shlex.split(line) for line in out.splitlines() if line.startswith("  fungi-seg")]
    assert [line[:2] for line in lines] == [["fungi-seg", "build"], ["fungi-seg", "evaluate"]]
    assert run(*lines[0][1:])[0] == 0
    assert MemoryBank.open(tmp_path / "memory_banks" / "it's data").info.build["images"] == 4
    code, found, _ = run(*lines[1][1:])
    assert code == 0
    assert "2 images; " in found
    with Image.open(tmp_path / "outputs" / "inspect" / "contact_sheet.png") as sheet:
        assert sheet.width < 2000
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["data"]["train"]["root"] == str(tmp_path / "it's data")
    assert told["splits"]["val"]["images"] == 2


def test_what_is_printed(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    (root / "train" / "masks" / "train_1.png").unlink()
    (root / "classes.txt").write_text("background\nred\n[green]\nblue\n")
    shutil.copy(root / "train" / "images" / "train_0.png", root / "val" / "images" / "val_0.png")
    code, out, _ = run("data", "inspect", root / "train", "--out", tmp_path / "out", "--limit", 2)
    assert code == 0
    assert out.startswith(f"folder: {root}\n  train: train/images, train/masks and classes.txt are there\n")
    assert "[green]" in out
    assert "train: 2 of 3 images were looked at, the others may differ" in out
    assert "train, problems (1):\n  train_1.png: image without mask\n" in out
    assert "val: no pixel of blue" in out
    assert "train and val share 1 images, byte for byte: train_0 = val_0" in out
    assert "--data.split train --skip-bad --backbone.name embedded --out memory_banks/data" in out
    assert "--data.split val\n" in out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data.split", "val"], {"val": {"split": "val"}}),
        (["--data.layout", "folder"], {"train": {"split": "train"}, "val": {"split": "val"}}),
        (
            ["--data.classes", "red", "--data.merge", "all=red,green", "--data.classes", "all"],
            {"train": {"classes": ["all"], "merge": ["all=red", "green"]}, "val": {"classes": ["all"]}},
        ),
        (["--data.void", "1"], {"train": {"void": 1}, "val": {"void": 1}}),
    ],
)
def test_what_is_told_is_not_guessed(
    run: Run,  # noqa: F811
    root: Path,
    tmp_path: Path,
    options: list[str],
    expected: dict,
) -> None:
    for path in root.rglob("masks/*.png"):
        save_mask(path, {255: 0})  # so that any value can be void
    report = tmp_path / "report.json"
    code, out, _ = run("data", "inspect", root, "--out", tmp_path, "--json", report, *options)
    assert code == 0
    told = json.loads(report.read_text())
    assert told["data"].keys() == told["splits"].keys() == expected.keys()
    for split, values in expected.items():
        assert {key: told["data"][split][key] for key in values} == values
    assert ("--data.merge all=red,green" in out) == ("--data.merge" in options)


def test_a_split_that_is_not_among_those_found(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copytree(root / "val", root / "deep" / "val")
    code, out, _ = run("data", "inspect", root, "--data.split", "deep/val", "--out", tmp_path)
    assert code == 0
    assert "--data.split deep/val" in out


def test_a_list_of_some_images(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "some.txt").write_text("train_1\n")
    report = tmp_path / "report.json"
    options = ["--data.file_list", tmp_path / "some.txt", "--json", report, "--out", tmp_path]
    assert run("data", "inspect", root, *options)[0] == 0
    assert {name: split["images"] for name, split in json.loads(report.read_text())["splits"].items()} == {"train": 1}


def test_class_names_with_commas(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    (root / "classes.txt").write_text("background\nred, or so\ngreen\n")
    code, out, _ = run("data", "inspect", root, "--data.classes", '["red, or so"]', "--out", tmp_path)
    line = next(shlex.split(line) for line in out.splitlines() if line.startswith("  fungi-seg build"))
    assert (code, line[line.index("--data.classes") + 1]) == (0, '["red, or so"]')


def test_merged_class_names_with_commas(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    """What is printed to use them opens them again."""
    (root / "classes.txt").write_text("background\nred, or so\ngreen\n")
    report = tmp_path / "report.json"
    told = json.dumps([r"all=red\, or so,green"])
    for _ in range(2):
        code, out, _ = run("data", "inspect", root, "--data.merge", told, "--out", tmp_path, "--json", report)
        assert code == 0
        assert [one["name"] for one in json.loads(report.read_text())["classes"]] == ["background", "all"]
        line = next(shlex.split(line) for line in out.splitlines() if line.startswith("  fungi-seg build"))
        told = line[line.index("--data.merge") + 1]


def test_options_that_are_not_read_are_refused(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    code, _, err = run("data", "inspect", root, "--data.masks", root / "train" / "masks", "--out", tmp_path)
    assert code == 1
    assert "with layout folder it isn't read, only with coco, labelstudio, cityscapes: leave it out" in " ".join(
        err.split()
    )


def test_options_that_may_be_told_are_those_of_the_data() -> None:
    assert [field.name for field in fields(Told)] == [field.name for field in fields(DataConfig)]


def test_other_data_sets_are_named(run: Run, root: Path, tmp_path: Path) -> None:  # noqa: F811
    voc_tree(tmp_path / "voc", flat=True)
    folder_tree(tmp_path / "more")
    for told, taken in (([], "voc"), (["--data.layout", "folder"], "data")):
        code, out, _ = run("data", "inspect", tmp_path, "--out", tmp_path / "out", *told)
        assert code == 0
        others = [line for line in out.splitlines() if line.startswith("also there: ")]
        layouts = {"voc": "voc", "data": "folder", "more": "folder"}
        expected = [f"also there: {layouts[name]}: {tmp_path / name}" for name in ("data", "more") if name != taken]
        assert others == expected
        assert f"--data.root {tmp_path / taken} " in out


def test_a_split_that_cannot_be_opened(run: Run, tmp_path: Path) -> None:  # noqa: F811
    lists = voc_tree(tmp_path / "data") / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("2007_000010\n2007_000010\n")
    code, out, err = run("data", "inspect", tmp_path / "data", "--out", tmp_path)
    assert code == 0
    assert "can't be opened:\n  val: file list" in err
    assert "names 1 ids more than once" in err
    assert "fungi-seg evaluate" not in out
    (lists / "trainaug.txt").write_text("2007_000000\n2007_000000\n")
    code, _, err = run("data", "inspect", tmp_path / "data", "--out", tmp_path)
    assert (code, err.count("names 1 ids more than once")) == (1, 2)


def test_nothing_known_is_there(run: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "data").mkdir()
    code, out, err = run("data", "inspect", tmp_path / "data", "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "error: " in err
    assert "layouts, for --data.layout:" in err
    assert not (tmp_path / "out").exists()
    code, _, err = run("data", "inspect", tmp_path / "data", "--data.layout", "ade20k")
    assert code == 1
    assert "expected ADEChallengeData2016 with images/training" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--images", 0], 2, "images is 0; the contact sheet must show at least 1"),
        (["--limit", 0], 2, "limit is 0; at least 1 image"),
        (["--data.layout", "vco"], 2, "data.layout is 'vco'; it must be one of folder, voc"),
        (["--config", "x.yaml"], 2, "x.yaml"),
        (["--data.splt", "x"], 2, "did you mean '--data.split'?"),
        (["--images", "many"], 2, "images"),
    ],
)
def test_wrong_options(run: Run, root: Path, arguments: list, code: int, message: str) -> None:  # noqa: F811
    found, _, err = run("data", "inspect", root, *arguments)
    assert found == code
    assert message in err


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", "--help"]) == 0
    out = capsys.readouterr().out
    assert ("usage: fungi-seg data inspect" in out, "--data.layout" in out) == (True, True)


def test_the_group_of_commands(run: Run) -> None:  # noqa: F811
    code, out, err = run("data")
    assert (code, out, "data inspect" in err, "bank append" in err) == (2, "", True, False)
    code, out, _ = run("data", "--help")
    assert (code, "data inspect" in out, "bank append" in out) == (0, True, False)
    code, _, err = run("data", "inspct")
    assert code == 2
    assert "did you mean 'data inspect'?" in err
    code, out, _ = run("bank", "--help")
    assert (code, "data inspect" in out, "bank append" in out) == (0, False, True)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "layout", "images"),
    [
        ("camvid", "folder", {"train": 367, "val": 101}),
        ("nuclei", "folder", {"train": 71, "val": 70}),
        ("voc", "voc", {"trainaug": 350, "val": 89}),
        ("coco", "coco", {"train2017": 40, "val2017": 20}),
    ],
)
def test_real_data(run: Run, real_data: Path, tmp_path: Path, name: str, layout: str, images: dict) -> None:  # noqa: F811
    report = tmp_path / "report.json"
    assert run("data", "inspect", real_data / name, "--limit", 12, "--out", tmp_path, "--json", report)[0] == 0
    told = json.loads(report.read_text())
    assert told["layout"] == layout
    assert {split: found["images"] for split, found in told["splits"].items()} == images
    assert [found["readable"] for found in told["splits"].values()] == [12, 12]
