"""LabelMe's JSON files: what is drawn becomes classes, and everything that can be wrong with them."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from test_cli import Run, backbone_options, run  # noqa: F401
from trees import scene

from fungi_seg import DataConfig, Dataset, open_dataset
from fungi_seg.errors import DataError

HEIGHT, WIDTH = 48, 64
Shape = dict[str, Any]


def shape(label: object, points: object, kind: object = "polygon", **more: object) -> Shape:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


def box(label: str, left: float, top: float, right: float, bottom: float) -> Shape:
    return shape(label, [[left, top], [right, top], [right, bottom], [left, bottom]])


def png(mask: np.ndarray) -> str:
    """A crop as LabelMe keeps it: PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def drawn(folder: Path, shapes: object, name: str = "a", image: str | None = None, **more: object) -> Path:
    """An image of 48×64 and its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(0)[0]).save(folder / f"{name}.png")
    told = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image or f"{name}.png", "imageData": None}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(told | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | more))
    return path


def opened(root: Path, skip_bad: bool = False, **settings: object) -> Dataset:
    return open_dataset(DataConfig("labelme", str(root), **settings), skip_bad)  # type: ignore[arg-type]


def message(root: Path, **settings: object) -> str:
    with pytest.raises(DataError) as error:
        opened(root, **settings)
    return str(error.value)


# What is drawn


def test_shapes_in_their_order(tmp_path: Path) -> None:
    """Integer corners, so that every rule agrees which pixels are inside; later shapes lie on top."""
    drawn(tmp_path, [box("car", 5, 6, 30, 40), box("__ignore__", 20, 30, 50, 44), box("_background_", 8, 8, 12, 12)])
    dataset = opened(tmp_path)
    expected = np.zeros((HEIGHT, WIDTH), np.int16)
    expected[6:40, 5:30] = 1
    expected[30:44, 20:50] = -1
    expected[8:12, 8:12] = 0
    assert (dataset.classes, dataset.problems, dataset.remarks) == (("background", "car"), (), ())
    np.testing.assert_array_equal(dataset[0].mask, expected)
    assert dataset[0].mask.dtype == np.int16


@pytest.mark.parametrize(
    "shapes",
    [
        [shape("x", [[30, 40], [5, 6]], "rectangle")],
        [shape("x", [[5, 6], [30, 6], [30, 40], [5, 40]], "rectangle")],
        [shape("x", [[5, 6], [30, 6], [30, 40], [5, 40]], "oriented_rectangle")],
        [shape("x", [[5, 6], [30, 6], [30, 40], [5, 40]], None)],
        [shape("x", [[30, 40], [5, 40], [5, 6], [30, 6]], "rotation", direction=3.14)],
        [shape("x", [[5, 6], [30, 6], [30, 40], [5, 40]], "quadrilateral")],
    ],
)
def test_ways_to_draw_a_rectangle(tmp_path: Path, shapes: list[Shape]) -> None:
    drawn(tmp_path, shapes)
    expected = np.zeros((HEIGHT, WIDTH))
    expected[6:40, 5:30] = 1
    np.testing.assert_array_equal(opened(tmp_path)[0].mask, expected)


@pytest.mark.parametrize("kind", ["rotation", "oriented_rectangle"])
def test_turned_boxes_may_reach_over_the_border(tmp_path: Path, kind: str) -> None:
    """X-AnyLabeling lets them; what lies outside is clipped."""
    points = np.array([[-20.0, 10.0], [10.0, -20.0], [40.0, 10.0], [10.0, 40.0]])
    drawn(tmp_path, [shape("x", points.tolist(), kind)])
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.abs(x - 10) + np.abs(y - 10)  # a square on its corner
    found = opened(tmp_path)[0].mask
    assert (found[distance < 29] == 1).all()
    assert (found[distance > 31] == 0).all()
    drawn(tmp_path, [shape("x", (points - 11).tolist(), kind)])
    assert "the centre, -1.0, -1.0 (x, y), lies outside the image" in message(tmp_path)
    drawn(tmp_path, [shape("x", (points * 9 - 80).tolist(), kind)])
    assert "the outline reaches 260.0 pixels outside the image" in message(tmp_path)


def test_four_corners_are_four(tmp_path: Path) -> None:
    for kind in ("rotation", "quadrilateral"):
        drawn(tmp_path, [shape("x", [[5, 6], [30, 6], [30, 40]], kind)])
        assert f"a {kind} has 4 points, not 3" in message(tmp_path)
    drawn(tmp_path, [shape("x", [[5, 6], [30, 6], [30, 40], [5, 90]], "quadrilateral")])
    assert "reaches 42.0 pixels outside the image" in message(tmp_path)


def test_sizes_may_be_written_as_floats(tmp_path: Path) -> None:
    drawn(tmp_path, [box("x", 5, 6, 30, 40)], imageHeight=48.0, imageWidth=64.0)
    assert opened(tmp_path)[0].mask.sum() == 25 * 34


def test_polygons_as_another_library_fills_them(tmp_path: Path) -> None:
    """OpenCV includes the outline, pycocotools cuts through its pixels: they may differ there alone."""
    star = [
        [32 + r * math.cos(a), 24 + r * math.sin(a)]
        for a, r in ((k * math.pi / 5, 20 - 10 * (k % 2)) for k in range(10))
    ]
    drawn(tmp_path, [shape("x", star)])
    found = opened(tmp_path)[0].mask
    filled, line = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    corners = np.round(np.array(star)).astype(np.int32)
    cv2.fillPoly(filled, [corners], 1)
    cv2.polylines(line, [corners], True, 1, 3)
    np.testing.assert_array_equal(found[line == 0], filled[line == 0])
    assert 300 < (found == 1).sum() < filled.sum()


@pytest.mark.parametrize(("centre", "rim"), [((20.5, 18.0), (29.5, 22.0)), ((3, 40), (15, 40)), ((32, 24), (90, 24))])
def test_circles_hold_the_pixels_whose_centres_are_inside(
    tmp_path: Path, centre: tuple[float, float], rim: tuple[float, float]
) -> None:
    drawn(tmp_path, [shape("x", [centre, rim], "circle")])
    radius = math.dist(centre, rim)
    expected = [[math.dist((x + 0.5, y + 0.5), centre) <= radius for x in range(WIDTH)] for y in range(HEIGHT)]
    np.testing.assert_array_equal(opened(tmp_path)[0].mask == 1, expected)


@pytest.mark.parametrize(
    ("corners", "height", "width"),
    [(((10, 5), (19, 11)), 7, 10), (((10.9, 5.9), (19.2, 11.7)), 7, 10), (((60, 40), (64, 48)), 8, 4)],
)
def test_masks_lie_between_their_corners(
    tmp_path: Path, corners: tuple[tuple[float, float], ...], height: int, width: int
) -> None:
    """Both corners are inside, fractions are cut; at the border LabelMe's own crops end with the image."""
    inside = np.random.default_rng(0).random((height, width)) < 0.5
    drawn(tmp_path, [shape("x", [list(c) for c in corners], "mask", mask=png(inside))])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    left, top = (int(v) for v in corners[0])
    expected[top : top + height, left : left + width] = inside
    np.testing.assert_array_equal(opened(tmp_path)[0].mask == 1, expected)


@pytest.mark.parametrize("kind", ["line", "linestrip", "point", "points"])
def test_shapes_without_area_are_left_out(tmp_path: Path, kind: str) -> None:
    path = drawn(tmp_path, [shape("wire", [[1, 1], [9, 9]], kind), box("car", 0, 0, 9, 9)])
    dataset = opened(tmp_path)
    assert dataset.classes == ("background", "car")
    assert dataset.remarks == (f"{path}: shape 1: shape_type {kind} has no area; left out",)


def test_crossing_outlines_are_remarked_on(tmp_path: Path) -> None:
    path = drawn(tmp_path, [shape("x", [[5, 5], [30, 30], [30, 5], [5, 30]])])
    assert opened(tmp_path).remarks == (f"{path}: shape 1 (x): the outline crosses itself",)


def test_nothing_drawn_is_background(tmp_path: Path) -> None:
    drawn(tmp_path, [])
    assert (opened(tmp_path)[0].mask == 0).all()


# Classes


def test_classes_are_the_labels_of_all_splits(tmp_path: Path) -> None:
    drawn(tmp_path / "train", [box("dog", 0, 0, 9, 9)])
    drawn(tmp_path / "val", [box(" cat ", 0, 0, 9, 9), box("zebra", 20, 20, 30, 30), box("ignored", 1, 1, 2, 2)])
    for split in ("train", "val", None):
        assert opened(tmp_path, split=split).classes == ("background", "cat", "dog", "zebra")
    assert [item.id for item in opened(tmp_path, split="train").items] == ["a"]
    assert [item.id for item in opened(tmp_path).items] == ["train/a", "val/a"]
    np.testing.assert_array_equal(np.unique(opened(tmp_path, split="val")[0].mask), [-1, 0, 1, 3])


@pytest.mark.parametrize("name", ["classes.txt", "labels.txt"])
def test_a_class_list_gives_the_order(tmp_path: Path, name: str) -> None:
    drawn(tmp_path, [box("cat", 0, 0, 9, 9)])
    (tmp_path / name).write_text("__ignore__\n_background_\nzebra\ncat\n")
    dataset = opened(tmp_path)
    assert dataset.classes == ("background", "zebra", "cat")
    assert dataset[0].mask[4, 4] == 2
    (tmp_path / name).write_text("zebra\ncats\n")
    assert "a.json: shape 1: the label 'cat' isn't in the class list; did you mean 'cats'" in message(tmp_path)
    (tmp_path / name).write_text("cat\ncat\n")
    assert "names 1 classes more than once:\n  cat" in message(tmp_path)


def test_what_is_read_is_told(tmp_path: Path) -> None:
    """A bank that is being built goes on only where the classes are the same."""
    drawn(tmp_path, [box("cat", 0, 0, 9, 9)])
    before = opened(tmp_path).reading
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert opened(tmp_path).reading != before


# Images


@pytest.mark.parametrize(
    ("image", "told", "settings"),
    [
        ("straße 1.png", "straße 1.png", {}),
        ("../photos/b.png", "../photos/b.png", {}),
        ("../photos/b.png", "..\\photos\\b.png", {}),
        ("a.JPG", "C:\\Users\\me\\IMG_1.JPG", {}),
        ("../photos/b.png", "/home/me/b.png", {"images": "photos"}),
        ("../photos/a.png", "/home/me/b.png", {"images": "photos"}),
        ("../photos/a.png", None, {"images": "photos"}),
    ],
)
def test_where_images_are_found(tmp_path: Path, image: str, told: str | None, settings: dict[str, str]) -> None:
    drawn(tmp_path / "json", [box("cat", 0, 0, 9, 9)], imagePath=told)
    (tmp_path / "photos").mkdir()
    (tmp_path / "json" / "a.png").rename(tmp_path / "json" / image)
    assert opened(tmp_path, **settings).items[0].image.samefile(tmp_path / "json" / image)


def test_images_that_are_not_found(tmp_path: Path) -> None:
    path = drawn(tmp_path, [box("cat", 0, 0, 9, 9)], image="b.png", imageData="aGVsbG8=")
    (tmp_path / "a.png").unlink()
    text = message(tmp_path)
    assert f"{path}: its image 'b.png' is neither there, nor is one named a" in text
    assert "embedded: save it as a file beside the JSON" in text
    drawn(tmp_path, [box("cat", 0, 0, 9, 9)], name="other")
    dataset = opened(tmp_path, skip_bad=True)
    assert ([item.id for item in dataset.items], len(dataset.problems)) == (["other"], 1)


def test_images_of_one_name(tmp_path: Path) -> None:
    """imagePath decides; where it doesn't, none is taken for the other."""
    for told in ("a.png", "a.jpg"):
        drawn(tmp_path, [box("cat", 0, 0, 9, 9)], image=told)
        Image.fromarray(scene(1)[0]).save(tmp_path / "a.jpg")
        assert opened(tmp_path).items[0].image == tmp_path / told
    path = drawn(tmp_path, [box("cat", 0, 0, 9, 9)], image="b.png")
    assert f"{path}: its image 'b.png' isn't there, and a.jpg and a.png in {tmp_path} may both" in message(tmp_path)


def test_images_without_a_json_are_counted(tmp_path: Path) -> None:
    drawn(tmp_path, [box("cat", 0, 0, 9, 9)])
    for name in ("x", "y"):
        Image.fromarray(scene(0)[0]).save(tmp_path / f"{name}.png")
    assert opened(tmp_path).remarks == (f"2 images without a JSON are left out, such as {tmp_path / 'x.png'}",)


def test_a_list_chooses(tmp_path: Path) -> None:
    for name in ("a", "b c", "d"):
        drawn(tmp_path, [box("cat", 0, 0, 9, 9)], name=name)
    (tmp_path / "ids.txt").write_text("b c.png\nd\n")
    assert [item.id for item in opened(tmp_path, file_list=str(tmp_path / "ids.txt")).items] == ["b c", "d"]
    (tmp_path / "ids.txt").write_text("b c\nlost\n")
    assert "lost.json: there is no LabelMe file of that name" in message(tmp_path, file_list=str(tmp_path / "ids.txt"))


def test_an_image_of_another_size(tmp_path: Path) -> None:
    path = drawn(tmp_path, [box("cat", 0, 0, 9, 9)], imageHeight=50)
    with pytest.raises(DataError) as error:
        opened(tmp_path)[0]
    assert f"{path}: a.png is 50×64 (height×width) there, but the image is 48×64" in str(error.value)


def test_a_size_that_is_not_told_is_that_of_the_image(tmp_path: Path) -> None:
    drawn(tmp_path, [box("cat", 0, 0, 9, 9)], imageHeight=None, imageWidth=None)
    assert (opened(tmp_path)[0].mask == 1).sum() == 81


# What can be wrong

GOOD = box("cat", 0, 0, 9, 9)
OUTSIDE = box("cat", 0, 0, 70, 9)
INSIDE = png(np.ones((7, 10), bool))
CORNERS = [[10, 5], [19, 11]]


@pytest.mark.parametrize(
    ("shapes", "fault"),
    [
        ([GOOD, OUTSIDE], "shape 2 (cat): the outline reaches 6.0 pixels outside the image, which is 48×64"),
        ([shape("cat", [[1, 1], [2, 2]])], "shape 1 (cat): the outline has 2 points; it must have 3 or more"),
        ([shape("cat", [])], "shape 1 (cat): the outline has 0 points"),
        ([shape("cat", [[1, 1], [2, 2], [3]])], "shape 1 (cat): points is [[1, 1], [2, 2], [3]]; it must be a list"),
        ([shape("cat", [[1, 1], [2, 2], [3, "4"]])], "it must be a list of [x, y], in numbers"),
        ([shape("cat", [[1, 1], [2, 2], [3, math.nan]])], "it must be a list of [x, y], in numbers"),
        ([shape("cat", [[1, 1], [2, 2], [3, 10**400]])], "it must be a list of [x, y], in numbers"),
        ([shape("cat", [[1, 1], [2, 2], [3, True]])], "it must be a list of [x, y], in numbers"),
        ([shape("cat", {"x": 1})], "points is {'x': 1}; it must be a list"),
        ([shape("cat", None)], "points is None; it must be a list"),
        ([shape(None, [])], "shape 1: the label is None; it must be a text"),
        ([shape(" ", [])], "shape 1: the label is ' '; it must be a text of one line"),
        ([shape("a\nb", [])], "shape 1: the label is 'a\\nb'; it must be a text of one line"),
        ([shape("\ud800", [])], "shape 1: the label is '\\ud800'; it must be a text of one line"),
        ([shape(["cat"], [])], "shape 1: the label is ['cat']; it must be a text"),
        ([shape("cat", [], "polygone")], "shape 1: shape_type is 'polygone'; it must be one of polygon, rectangle"),
        ([shape("cat", [], "polygone")], "did you mean 'polygon'?"),
        ([shape("cat", [], ["polygon"])], "shape 1: shape_type is ['polygon']"),
        ([GOOD, "cat"], "shape 2: shape_type is 'cat'"),
        ([GOOD, None], "shape 2: shape_type is None"),
        ([shape("cat", [[1, 1]], "rectangle")], "a rectangle has 2 or 4 points, not 1"),
        ([shape("cat", [[1, 1]], "circle")], "a circle has 2 points, not 1"),
        ([shape("cat", [[1, 1], [1, 1]], "circle")], "the extents are 0.0 and 0.0 pixels; they must be above 0"),
        ([shape("cat", [[5, 6], [5, 9]], "rectangle")], "it has no area: the extents are 0.0 and 3.0 pixels"),
        ([shape("cat", [[5, 6], [9, 6], [9, 6], [5, 6]], "rectangle")], "the extents are 4.0 and 0.0 pixels"),
        ([shape("cat", [[5, 6], [5, 6], [8, 2], [8, 2]], "oriented_rectangle")], "the extents are 0.0 and 5.0 pixels"),
        ([shape("cat", [[90, 1], [99, 1]], "circle")], "the centre, 90.0, 1.0 (x, y), lies outside the image"),
        ([shape("cat", CORNERS, "mask")], "mask is None; it must be a str"),
        ([shape("cat", CORNERS, "mask", mask="%%%")], "its mask can't be read as a PNG in base64"),
        ([shape("cat", CORNERS, "mask", mask="aGVsbG8=")], "its mask can't be read as a PNG in base64"),
        ([shape("cat", [[10, 5], [20, 11]], "mask", mask=INSIDE)], "its mask is 7×10 (height×width), but of the image"),
        ([shape("cat", [[-1, 5], [8, 11]], "mask", mask=INSIDE)], "its mask is 7×10 (height×width), but of the image"),
        ([shape("cat", [[60, 5], [69, 11]], "mask", mask=INSIDE)], "its points span 7×4"),
        ({"cat": 1}, "the image: shapes is {'cat': 1}; it must be a list"),
        (None, "the image: shapes is None; it must be a list"),
    ],
)
def test_shapes_that_are_wrong(tmp_path: Path, shapes: object, fault: str) -> None:
    path = drawn(tmp_path, shapes)
    text = message(tmp_path)
    assert f"{path}: " in text
    assert fault in text
    assert "--skip-bad" in text
    drawn(tmp_path, [GOOD], name="good")
    dataset = opened(tmp_path, skip_bad=True)
    assert [item.id for item in dataset.items] == ["good"]
    assert fault in dataset.problems[0]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"imageHeight": "48"}, "the image is '48'×64 (height×width); both must be whole numbers above 0"),
        ({"imageHeight": None}, "the image is None×64"),
        ({"imageHeight": 0}, "the image is 0×64"),
        ({"imageHeight": True}, "the image is True×64"),
        ({"imageHeight": 48.5}, "the image is 48.5×64"),
    ],
)
def test_sizes_that_are_wrong(tmp_path: Path, more: dict[str, object], fault: str) -> None:
    drawn(tmp_path, [GOOD], **more)
    assert f"a.json: the image: {fault}" in message(tmp_path)


def test_a_gigantic_size_takes_no_memory(tmp_path: Path) -> None:
    drawn(tmp_path, [GOOD], imageHeight=10**12, imageWidth=10**12)
    with pytest.raises(DataError, match="is 1000000000000×1000000000000"):
        opened(tmp_path)[0]


@pytest.mark.parametrize("text", ['{"shapes": [', "", "\ufeff", "[" * 100_000, "[1, 2", "{'shapes': []}"])
def test_files_that_are_cut_off(tmp_path: Path, text: str) -> None:
    path = drawn(tmp_path, [GOOD])
    path.write_text(text)
    assert f"{path}: can't be read as JSON" in message(tmp_path)
    drawn(tmp_path, [GOOD], name="good")
    assert len(opened(tmp_path, skip_bad=True)) == 1


def test_masks_that_are_cut_off_are_told_when_they_are_read(tmp_path: Path) -> None:
    whole = base64.b64decode(png(np.random.default_rng(0).random((40, 60)) < 0.5))
    cut = base64.b64encode(whole[:-60]).decode()
    path = drawn(tmp_path, [shape("cat", [[0, 0], [59, 39]], "mask", mask=cut)])
    dataset = opened(tmp_path)
    with pytest.raises(DataError) as error:
        dataset[0]
    assert f"{path}: shape 1 (cat): its mask can't be read as a PNG" in str(error.value)


def test_other_json_files_are_left_out(tmp_path: Path) -> None:
    drawn(tmp_path, [GOOD])
    for name, text in (("list", "[]"), ("number", "3"), ("coco", '{"images": []}'), (".hidden", "{")):
        (tmp_path / f"{name}.json").write_text(text)
    dataset = opened(tmp_path)
    assert len(dataset) == 1
    assert len(dataset.remarks) == 3
    assert dataset.remarks[0] == f"{tmp_path / 'coco.json'}: has no shapes, so it is no LabelMe file; left out"


@pytest.mark.parametrize("last", ["categories", "info"])
def test_large_files_of_another_kind_are_not_parsed(tmp_path: Path, last: str) -> None:
    """This one couldn't be: between its ends and its middle it is no JSON."""
    drawn(tmp_path, [GOOD])
    annotations = '{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}, ' * 5000
    path = tmp_path / "coco.json"
    path.write_text(f'{{"images": [], "annotations": [{annotations[:100_000]} {{{annotations} 0], "{last}": []}}')
    dataset = opened(tmp_path)
    assert len(dataset) == 1
    assert dataset.remarks == (f"{path}: has no shapes, so it is no LabelMe file; left out",)


@pytest.mark.parametrize("position", range(7))
def test_large_images_may_be_embedded_anywhere(tmp_path: Path, position: int) -> None:
    path = drawn(tmp_path, [GOOD])
    told = list(json.loads(path.read_text()).items())
    told.insert(position, ("imageData", base64.b64encode(np.random.default_rng(0).bytes(600_000)).decode()))
    path.write_text(json.dumps(dict([entry for entry in told if entry != ("imageData", None)])))
    dataset = opened(tmp_path)
    assert (len(dataset), dataset.remarks, dataset.classes) == (1, (), ("background", "cat"))


def test_nothing_usable_there_tells_why(tmp_path: Path) -> None:
    path = drawn(tmp_path, [OUTSIDE])
    with pytest.raises(DataError, match="no annotated image was found") as error:
        opened(tmp_path, skip_bad=True)
    assert f"\n  {path}: shape 1 (cat): the outline reaches" in str(error.value)
    path.write_text("{}")
    assert f"\n  {path}: has no shapes" in message(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    assert "no annotated image was found" in message(tmp_path)
    assert "data.split is 'val', but there is no folder" in message(tmp_path, split="val")


# From end to end


def test_on_the_command_line(run: Run, tmp_path: Path, tiny_weights: Path) -> None:  # noqa: F811
    root = tmp_path / "Daten ä"
    for split in ("train", "val"):
        for name in ("één", "zwei 2"):
            drawn(root / split, [box("rotes Auto", 5, 6, 30, 40), shape("wire", [[1, 1], [9, 9]], "line")], name)
    drawn(root / "train", [OUTSIDE], "bad")
    data = ["--data.layout=labelme", "--data.root", root]
    tiny = [*backbone_options(tiny_weights), "--input.size=48", "--data.split=train", "--out", tmp_path / "bank"]
    code, _, err = run("build", *data, *tiny)
    assert code != 0
    assert "bad.json: shape 1 (cat): the outline reaches" in err
    code, out, err = run("build", *data, *tiny, "--skip-bad")
    assert code == 0
    assert "from 2 images" in out
    assert "shape 2: shape_type line has no area" in err
    code, out, _ = run("evaluate", "--bank", tmp_path / "bank", *data, "--data.split=val")
    assert code == 0
    assert "rotes Auto" in out
