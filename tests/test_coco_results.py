"""COCO results: against pycocotools and counting, there and back, and every mistake in such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from fungi_seg import DataError, FungiSegError, Segmentation
from fungi_seg.datasets.coco_index import match_names, read_index
from fungi_seg.datasets.palettes import voc_palette
from fungi_seg.evaluation.coco_results import CocoResults, images_beside, read_results
from fungi_seg.evaluation.settings import CocoConfig
from fungi_seg.images.run_lengths import label_runs, pack, unpack
from fungi_seg.images.settings import VOID

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools

WITH_GROUND = ("background", "red", "green", "blue")
WITHOUT = ("red", "green", "blue")
RED = {"id": 90, "name": "red"}


def blobs(seed: int, size: tuple[int, int], classes: int) -> np.ndarray:
    """`[H, W]` uint8 in pieces of a few pixels, many of which touch at corners only."""
    coarse = np.random.default_rng(seed).integers(classes, size=(-(-size[0] // 3), -(-size[1] // 2)))
    return np.kron(coarse, np.ones((3, 2), int))[: size[0], : size[1]].astype(np.uint8)


def segmentation(seed: int, classes: tuple[str, ...] = WITH_GROUND, size: tuple[int, int] = (23, 31)) -> Segmentation:
    votes = torch.rand(len(classes), 4, 5, generator=torch.Generator().manual_seed(seed))
    image = np.zeros((*size, 3), np.uint8)
    palette = voc_palette(len(classes))
    return Segmentation(blobs(seed, size, len(classes)), votes / votes.sum(0), (3.6, 5), classes, palette, image)


def written(
    folder: Path, classes: tuple[str, ...] = WITH_GROUND, **options: Any
) -> tuple[Path, dict[str, Segmentation]]:
    """Results of three images, one of another size, and what they are of."""
    found = {name: segmentation(i, classes, (23, 31 + i % 2)) for i, name in enumerate(("a", "deep/b", "c"))}
    file = folder / "out" / "results.json"
    results = CocoResults(CocoConfig(str(file), **options), classes, {name: Path(f"{name}.jpg") for name in found})
    for name, one in found.items():
        results.add(name, one)
    results.write()
    return file, found


def regions(mask: np.ndarray, classes: tuple[str, ...], instances: bool) -> list[tuple[int, np.ndarray]]:
    """Class index and pixels of each region, by scipy."""
    found = []
    for index, name in enumerate(classes):
        if name != "background" and (mask == index).any():
            parts, count = ndimage.label(mask == index, np.ones((3, 3))) if instances else (mask == index, 1)
            found += [(index, parts == part) for part in range(1, count + 1)]
    return found


# Run lengths


@given(seed=st.integers(0, 10_000), height=st.integers(1, 30), width=st.integers(1, 30), labels=st.integers(1, 5))
def test_run_lengths_are_those_of_pycocotools(seed: int, height: int, width: int, labels: int) -> None:
    drawn = blobs(seed, (height, width), labels).astype(np.int32)
    runs = dict(label_runs(drawn))
    assert runs.keys() == set(np.unique(drawn)) - {0}
    for label, counts in runs.items():
        text = pack(counts, (height, width))
        assert text == coco_mask.encode(np.asfortranarray(drawn == label, np.uint8))["counts"].decode()
        np.testing.assert_array_equal(unpack(text), counts)


@pytest.mark.parametrize("text", ["", "zz~", "P", "0P", "é", "o" * 9 + "0", b"\x00\x01"])
def test_broken_texts_of_run_lengths(text: str | bytes) -> None:
    """pycocotools itself reads or writes beyond its memory for most of them."""
    with pytest.raises(ValueError, match="aren't compressed as COCO does"):
        unpack(text)


# There


@pytest.mark.parametrize("classes", [WITH_GROUND, WITHOUT])
@pytest.mark.parametrize("instances", [False, True])
def test_entries_are_the_regions(tmp_path: Path, classes: tuple[str, ...], instances: bool) -> None:
    file, found = written(tmp_path, classes, instances=instances)
    entries = json.loads(file.read_text())
    known = json.loads(images_beside(file).read_text())
    names = {category["id"]: category["name"] for category in known["categories"]}
    assert list(names.items()) == [(1, "red"), (2, "green"), (3, "blue")]
    files = {image["file_name"].removesuffix(".jpg"): image for image in known["images"]}
    assert [(n, i["id"], i["height"], i["width"]) for n, i in files.items()] == [
        ("a", 1, 23, 31),
        ("deep/b", 2, 23, 32),
        ("c", 3, 23, 31),
    ]
    count = 0
    for name, one in found.items():
        own = [entry for entry in entries if entry["image_id"] == files[name]["id"]]
        expected = regions(one.mask, classes, instances)
        count += len(expected)
        for index, pixels in expected:
            (entry,) = [e for e in own if (coco_mask.decode(e["segmentation"]) == pixels).all()]
            assert names[entry["category_id"]] == classes[index]
            assert entry["area"] == pixels.sum()
            assert entry["score"] == pytest.approx(one.scores[index][pixels].mean(), rel=1e-5)
    assert count == len(entries)
    assert len(entries) > 30 * instances


def test_pycocotools_loads_and_evaluates_them(tmp_path: Path) -> None:
    """Held against themselves they are right, and an area is that of the pixels, not of the box."""
    file, _ = written(tmp_path, instances=True)
    results = COCO(str(images_beside(file))).loadRes(str(file))
    entries = json.loads(file.read_text())
    truth = json.loads(images_beside(file).read_text())
    truth["annotations"] = [
        e | {"id": i, "iscrowd": 0, "bbox": results.anns[i]["bbox"].tolist()} for i, e in enumerate(entries, 1)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert [results.anns[i]["area"] for i in range(1, len(entries) + 1)] == [entry["area"] for entry in entries]
    measured = COCOeval(COCO(str(tmp_path / "truth.json")), results, "segm")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    assert measured.stats[0] == pytest.approx(1)


def test_ids_of_our_own_are_numbers_in_order(tmp_path: Path) -> None:
    images = {name: Path(f"{name}.png") for name in ("000000005001", "val/17", "a")}
    results = CocoResults(CocoConfig(str(tmp_path / "r.json")), WITHOUT, images)
    for name in reversed(images):
        results.add(name, segmentation(0, WITHOUT))
    results.write()
    known = {
        image["file_name"]: image["id"] for image in json.loads((tmp_path / "r_images.json").read_text())["images"]
    }
    assert known == {"000000005001.png": 1, "val/17.png": 2, "a.png": 3}


def like(folder: Path, **changes: Any) -> Path:
    """The JSON of a data set with those images and classes, ids of its own, and something in between."""
    images = [(30, "a.jpg", 31), (20, "sub/deep/b.png", 32), (10, "sub/c.png", 31), (40, "d.jpg", 5)]
    categories = {RED["id"]: "red", 7: "green", 50: "sky", 8: "blue"}
    values = {
        "images": [{"id": i, "file_name": file, "height": 23, "width": width} for i, file, width in images],
        "annotations": [{"id": 1, "image_id": 30, "category_id": 7, "segmentation": []}],
        "categories": [{"id": i, "name": name, "supercategory": "x"} for i, name in categories.items()],
    }
    (folder / "like.json").write_text(json.dumps(values | changes))
    return folder / "like.json"


def test_folders_divided_as_on_windows(tmp_path: Path) -> None:
    """The data set reads such names as paths too."""
    images = [{"id": 30, "file_name": "sub\\deep\\b.png"}]
    (tmp_path / "w.json").write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "red"}]}))
    assert read_index(tmp_path / "w.json").image_ids == {"sub/deep/b": 30}


def test_ids_of_another_json(tmp_path: Path) -> None:
    file, _ = written(tmp_path, like=str(like(tmp_path)))
    assert {entry["image_id"] for entry in json.loads(file.read_text())} == {30, 20, 10}
    assert {entry["category_id"] for entry in json.loads(file.read_text())} == {90, 7, 8}
    known = json.loads(images_beside(file).read_text())
    assert [(i["id"], i["file_name"]) for i in known["images"]] == [
        (30, "a.jpg"),
        (20, "sub/deep/b.png"),
        (10, "sub/c.png"),
    ]
    assert known["categories"] == [RED, {"id": 7, "name": "green"}, {"id": 8, "name": "blue"}]
    loaded = COCO(str(tmp_path / "like.json")).loadRes(str(file))
    assert set(loaded.getImgIds()) == {10, 20, 30, 40}


# And back


def back(file: Path, images: Path | None, name: str, size: tuple[int, int], classes: tuple[str, ...]) -> np.ndarray:
    results = read_results(file, images)
    rest = 0 if classes[0] == "background" else VOID
    return results.draw(results.index.image_ids[name], size, {c: i for i, c in enumerate(classes)}, rest)


@pytest.mark.parametrize("classes", [WITH_GROUND, WITHOUT, ("red", "background", "blue")])
@pytest.mark.parametrize("instances", [False, True])
@pytest.mark.parametrize("min_area", [0, 8, 120])
def test_there_and_back(tmp_path: Path, classes: tuple[str, ...], instances: bool, min_area: int) -> None:
    """All pixels are the same, but those of regions below the minimum area, which are background or void."""
    file, found = written(tmp_path, classes, instances=instances, min_area=min_area)
    dropped = 0
    for name, one in found.items():
        expected = one.mask.astype(np.int16)
        for _, pixels in regions(one.mask, classes, instances):
            if pixels.sum() < min_area:
                dropped += 1
                expected[pixels] = classes.index("background") if "background" in classes else VOID
        results = read_results(file)
        rest = classes.index("background") if "background" in classes else VOID
        known = {c: i for i, c in enumerate(classes)}
        mask = results.draw(results.index.image_ids[name], one.mask.shape, known, rest)  # type: ignore[arg-type]
        assert mask.dtype == np.int16
        np.testing.assert_array_equal(mask, expected)
    assert bool(dropped) == (instances and min_area > 0) or (min_area == 120 and not instances)


def test_many_classes(tmp_path: Path) -> None:
    """Above 256 classes masks have 16 bits."""
    classes = ("background", *(f"class {i}" for i in range(1, 300)))
    mask = np.arange(300, dtype=np.uint16).reshape(15, 20)
    one = Segmentation(
        mask, torch.full((300, 2, 2), 1 / 300), (2, 2), classes, voc_palette(300), np.zeros((15, 20, 3), np.uint8)
    )
    results = CocoResults(CocoConfig(str(tmp_path / "r.json")), classes, {"x": Path("x.jpg")})
    results.add("x", one)
    results.write()
    assert len(results.entries) == 299
    np.testing.assert_array_equal(back(tmp_path / "r.json", None, "x", (15, 20), classes), mask)


def save(folder: Path, entries: Any) -> Path:
    (folder / "foreign.json").write_text(json.dumps(entries))
    return folder / "foreign.json"


def runs(mask: np.ndarray) -> dict[str, Any]:
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return packed | {"counts": packed["counts"].decode()}


def test_results_of_others_that_overlap(tmp_path: Path) -> None:
    """The highest score is on top; of equal ones the later entry. Outlines and plain run lengths are read, too."""
    wide, left, dot = (np.zeros((23, 31), bool) for _ in range(3))
    wide[5:15], left[:, :10], dot[7, 3] = True, True, True
    plain = {"size": [23, 31], "counts": [3 * 23 + 7, 1, 31 * 23 - 3 * 23 - 8]}
    entries = [
        {"image_id": 30, "category_id": 8, "segmentation": plain, "score": 0.9},
        {"image_id": 30, "category_id": 90, "segmentation": runs(wide), "score": 0.5, "bbox": [0, 5, 31, 10]},
        {"image_id": 30, "category_id": 7, "segmentation": [[0, 0, 10, 0, 10, 23, 0, 23]], "score": 0.5},
        {"image_id": 30, "category_id": 8, "segmentation": runs(wide | left), "score": 0.1},
    ]
    expected = np.where(left, 2, np.where(wide, 1, 0))
    expected[dot] = 3
    mask = back(save(tmp_path, entries), like(tmp_path), "a", (23, 31), WITH_GROUND)
    np.testing.assert_array_equal(mask, expected)
    for entry in entries:
        del entry["score"]
    mask = back(save(tmp_path, entries), tmp_path / "like.json", "a", (23, 31), WITH_GROUND)
    np.testing.assert_array_equal(mask, np.where(wide | left, 3, 0))


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": "r.json", "min_area": -1}, r"coco\.min_area is -1"),
        ({"like": "x.json"}, r"coco\.file is empty.*--coco\.file"),
        ({"instances": True}, r"coco\.file is empty"),
    ],
)
def test_rules_of_the_configuration(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        CocoConfig(**options)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    given = like(tmp_path)

    def refused(message: str, file: Path | None, other: Path | None = None) -> None:
        with pytest.raises(FungiSegError, match=message):
            CocoResults(CocoConfig(file and str(file), other and str(other)), WITH_GROUND, {})

    refused("coco.file is empty", None)
    refused(f"which can't be written: '{tmp_path / 'note'}' is no folder", tmp_path / "note" / "deep" / "r.json")
    refused("is a folder; name another file", tmp_path)
    refused(r"coco\.like is .*which coco\.file would replace", given, given)
    given.rename(tmp_path / "r_images.json")
    refused(r"coco\.like is .*which coco\.file would replace", tmp_path / "r.json", tmp_path / "r_images.json")
    assert {path.name for path in tmp_path.iterdir()} == {"note", "r_images.json"}


def test_classes_and_images_that_like_lacks(tmp_path: Path) -> None:
    config = CocoConfig(str(tmp_path / "r.json"), str(like(tmp_path)))
    with pytest.raises(
        DataError,
        match=r"like\.json \(coco\.like\) has no category for 2 of the 3 classes:\n"
        r"  'blues'; did you mean 'blue'\?\n  'tram'",
    ):
        CocoResults(config, ("background", "red", "blues", "tram"), {})
    images = {name: Path(f"{name}.jpg") for name in ("a", "e", "x/c", "y/c")}
    with pytest.raises(
        DataError, match=r"doesn't know 3 of 4 images by their file names:\n  e\.jpg\n  x/c\.jpg\n  y/c\.jpg"
    ):
        CocoResults(config, WITH_GROUND, images)


def test_images_that_cannot_be_added(tmp_path: Path) -> None:
    config = CocoConfig(str(tmp_path / "r.json"), str(like(tmp_path)))
    results = CocoResults(config, WITH_GROUND, {"a": Path("a.jpg"), "d": Path("d.jpg")})
    results.add("a", segmentation(0))
    with pytest.raises(FungiSegError, match="'a' was added before, as image 30"):
        results.add("a", segmentation(0))
    with pytest.raises(FungiSegError, match="'aa' is none of the 2 images; did you mean 'a'"):
        results.add("aa", segmentation(0))
    with pytest.raises(DataError, match=r"d: the image is 23×31 .* has image 40, d\.jpg, as 23×5"):
        results.add("d", segmentation(0))
    results.write()
    assert {image["id"] for image in json.loads((tmp_path / "r_images.json").read_text())["images"]} == {30}


IMAGE = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [IMAGE, IMAGE]}, r"images\[1\]: an earlier one has the id 1"),
        ({"categories": [RED, RED]}, r"categories\[1\]: an earlier one has the id 90"),
        ({"images": [IMAGE | {"id": "1"}]}, r"images\[0\]: id is '1'; it must be a whole number"),
        ({"images": [IMAGE | {"file_name": ""}]}, r"images\[0\]: file_name is ''"),
        ({"images": [IMAGE | {"width": 0}]}, r"images\[0\]: height is 2 and width 0; both must be whole"),
        ({"images": [7]}, r"images\[0\]: id is None"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: name is None"),
        ({"categories": 5}, "'categories' must be a list"),
    ],
)
def test_bad_images_and_categories(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"like\.json: {message}"):
        read_index(like(tmp_path, **changes))


def test_names_that_stand_for_several(tmp_path: Path) -> None:
    index = read_index(
        like(tmp_path, images=[IMAGE, IMAGE | {"id": 2, "file_name": "a.png"}], categories=[RED, RED | {"id": 1}])
    )
    with pytest.raises(DataError, match=r"like\.json: several images have one name:\n  a \(2\)"):
        _ = index.image_ids
    with pytest.raises(DataError, match=r"like\.json: several categories have one name:\n  red \(2\)"):
        _ = index.category_ids


def test_a_json_that_is_cut_off_or_something_else(tmp_path: Path) -> None:
    path = like(tmp_path)
    whole = path.read_text()
    with pytest.raises(
        DataError, match=r"like\.json: holds annotations, which data\.layout coco reads; COCO results are a list"
    ):
        read_results(path, path)
    path.write_text(whole[:-100])
    with pytest.raises(DataError, match=r"like\.json: cut off"):
        read_index(path)
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match=r"like\.json: has no list called categories"):
        read_index(path)
    file, _ = written(tmp_path)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(DataError, match=r"results\.json: can't be read as JSON .*cut off"):
        read_results(file)
    file.write_text("5")
    with pytest.raises(DataError, match=r"results\.json: begins with '5'"):
        read_results(file)
    with pytest.raises(DataError, match=r"gone\.json: can't be read"):
        read_results(tmp_path / "gone.json")


GOOD = {"image_id": 30, "category_id": 7, "segmentation": {"size": [23, 31], "counts": [0, 713]}, "score": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 31}, r"\[1\] image_id 31: there is no such image"),
        ({"image_id": [30]}, r"\[1\] image_id \[30\]: there is no such image"),
        ({"category_id": 3}, r"\[1\] \(image_id 30\) category_id 3: there is no such category"),
        ({"segmentation": None, "bbox": [0, 0, 2, 2]}, r"\[1\] \(image_id 30\) has no segmentation; a box alone"),
        ({"segmentation": {"size": [31, 23], "counts": [713]}}, r"\[1\] .* run lengths of size \[31, 23\], .* 23×31"),
        ({"score": "high"}, r"\[1\] \(image_id 30\) has the score 'high'"),
    ],
)
def test_entries_that_do_not_belong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = save(tmp_path, [GOOD, GOOD | change, GOOD])
    with pytest.raises(DataError, match=rf"foreign\.json: 1 of 3 entries can't be used .*like\.json:\n  {message}"):
        read_results(file, like(tmp_path))


def test_all_entries_that_do_not_belong_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"12 of 13 entries(.|\n)*\[0\] is 5, not an object(.|\n)*… and 2 more"):
        read_results(save(tmp_path, [5] * 12 + [GOOD]), like(tmp_path))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [23, 31], "counts": [0, 712]}, "add up to 712"),
        ({"size": [23, 31], "counts": "oo"}, "aren't compressed as COCO does"),
        ({"size": [23, 31]}, "counts"),
        ({"counts": [713]}, "must have a size"),
        ("text", "must be a list of outlines"),
        ([[1, 1, 5, 5]], "the outline has 2 points"),
        ([[1, 1, 5, 5, 90, 5]], "59.0 pixels outside the image"),
        ([[1, 1, 5, 5, "x", 5]], "no numbers"),
        ([1, 2, 3, 4, 5, 6], "must be a list of outlines"),
    ],
)
def test_segmentations_that_cannot_be_drawn(tmp_path: Path, segmentation: Any, message: str) -> None:
    """They are found when their image is read, so that others can be used."""
    results = read_results(
        save(tmp_path, [GOOD | {"image_id": 10}, GOOD | {"segmentation": segmentation}]), like(tmp_path)
    )
    known = {name: index for index, name in enumerate(WITH_GROUND)}
    assert (results.draw(10, (23, 31), known) == 2).all()
    with pytest.raises(DataError, match=rf"foreign\.json: \[1\] \(image_id 30\): .*{message}"):
        results.draw(30, (23, 31), known)


def test_an_image_of_another_size(tmp_path: Path) -> None:
    results = read_results(save(tmp_path, []), like(tmp_path))
    with pytest.raises(DataError, match=r"like\.json: image 40, d\.jpg, is 23×5 .* there, the image is 23×31"):
        results.draw(40, (23, 31), {})


def test_names_are_matched_whole_or_by_their_only_last_part() -> None:
    known = ["a", "x/b", "x/c", "y/c", "d", "e_img"]
    wanted = {"a": "a", "b": "b", "c": "c", "p/d": "d", "q/d": "d", "e": "e_img", "gone": "gone"}
    assert match_names(wanted, known) == {"a": "a", "b": "x/b", "e": "e_img"}


def test_interrupted_writing_leaves_what_was_there(tmp_path: Path) -> None:
    file, _ = written(tmp_path)
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    results = CocoResults(CocoConfig(str(file)), WITHOUT, {"a": Path("a.jpg")})
    results.add("a", segmentation(5, WITHOUT))
    results.entries.append({"not": object()})  # what JSON can't hold, after the first file is written
    with pytest.raises(TypeError):
        results.write()
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before
