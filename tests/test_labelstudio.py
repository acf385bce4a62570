"""Label Studio's exports: regions become classes, and everything that can be wrong with them."""

from __future__ import annotations

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
from fungi_seg.datasets.brush import brushed
from fungi_seg.errors import DataError

HEIGHT, WIDTH = 48, 64
Told = dict[str, Any]

# made by label_studio_sdk 2.1.2: converter.brush.mask2rle(mask), and encode_rle(rgba.ravel()) for the disc
SQUARE = "000000d8391bfe2b00c27ff7c0309ffdf00c27ff92c023ff00"  # rows 1..3 × columns 2..6, and the last of 6×9 pixels
NOISE = "0000008c391bfc7ff7c02dffdf008ffed804fff7c027ff9c027ff8c02fffce00"
NOISY = ["1000011", "1000010", "0011000", "0110011", "0111100"]
TALL = "00011300391bffffffffe25fffe0"  # all of 160×110 pixels, more than the longest run
DISC = (  # radius 4 about (6, 5) of 12×14 pixels (height×width), in the colour (255, 0, 120)
    "000002a0391bfe4f0003fc00001e00ffc560007f800003c43fe00000f10ff800003c43fe00000f10ff800003c01ff87c000ff000007887fc"
    "00001e21ff000007887fc00001e21ff000007887fc00001e21ff000007803ff0d8001fe00000f10ff800003c43fe00000f10ff800003c43f"
    "e00000f10ff800003c43fe00000f007fe170003fc00001e21ff000007887fc00001e21ff000007887fc00001e21ff000007887fc00001e21"
    "ff000007887fc00001e00ffc2e0007f800003c43fe00000f10ff800003c43fe00000f10ff800003c43fe00000f10ff800003c01ff86c000f"
    "f000007887fc00001e21ff000007887fc00001e21ff000007887fc00001e21ff000007803ff0f8001fe00000f10ff800003c43fe00000f10"
    "ff800003c43fe00000f007fe2b0003fc00001e00ffd16000"
)


def rle(mask: np.ndarray) -> list[int]:
    """Each pixel as a run of its own, or four values at once: legal, if not short."""
    bits = f"{mask.size * 4:032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    for index, inside in enumerate(mask.ravel()):
        value = f"{255 * int(inside):08b}"
        bits += f"100{3:03b}{value}" if index % 2 else f"000{3:03b}{value * 4}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def result(kind: str, label: object, value: Told, **more: object) -> Told:
    told = {"id": "x", "type": kind, "from_name": "tag", "to_name": "image", "image_rotation": 0}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    return told | size | {"value": value | {kind: label if isinstance(label, list) else [label]}} | more


def polygon(label: object, points: list[tuple[float, float]], **more: object) -> Told:
    """Points in pixels."""
    return result("polygonlabels", label, {"points": [[x * 100 / WIDTH, y * 100 / HEIGHT] for x, y in points]}, **more)


def box(label: object, left: float, top: float, right: float, bottom: float, **more: object) -> Told:
    return polygon(label, [(left, top), (right, top), (right, bottom), (left, bottom)], **more)


def percent(value: Told) -> Told:
    """`x`, `width` and `radiusX` in percent of the width, the others of the height."""
    across = {"x": WIDTH, "width": WIDTH, "radiusX": WIDTH, "y": HEIGHT, "height": HEIGHT, "radiusY": HEIGHT}
    return {key: v * 100 / across[key] if key in across else v for key, v in value.items()}


def task(results: object, number: int = 1, image: str | None = None, **more: object) -> Told:
    annotation = {"id": 70 + number, "completed_by": 3, "was_cancelled": False, "result": results}
    annotation |= {"updated_at": "2024-05-01T10:00:00Z"}
    address = image or f"/data/upload/1/0a1b2c3d-{number}.png"
    return {"id": number, "data": {"image": address}, "annotations": [annotation | more]}


def export(root: Path, *tasks: object, name: str = "project-1.json") -> Path:
    """The JSON, and images `1.png`, … for its tasks."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(1, len(tasks) + 1):
        Image.fromarray(scene(number)[0]).save(root / "images" / f"{number}.png")
    (root / name).write_text(json.dumps(tasks))
    return root / name


def opened(root: Path, skip_bad: bool = False, **settings: object) -> Dataset:
    return open_dataset(DataConfig("labelstudio", str(root), **settings), skip_bad)  # type: ignore[arg-type]


def message(root: Path, **settings: object) -> str:
    with pytest.raises(DataError) as error:
        opened(root, **settings)
    return str(error.value)


# Run lengths


@pytest.mark.parametrize("code", [SQUARE, NOISE, TALL, DISC])
def test_run_lengths_of_label_studios_own_encoder(code: str) -> None:
    y, x = np.mgrid[:12, :14]
    square = np.zeros((6, 9), bool)
    square[1:4, 2:7] = square[5, 8] = True
    expected = {
        SQUARE: square,
        NOISE: np.array([[digit == "1" for digit in row] for row in NOISY]),
        TALL: np.ones((160, 110), bool),
        DISC: (x - 6) ** 2 + (y - 5) ** 2 <= 16,
    }[code]
    np.testing.assert_array_equal(brushed(bytes.fromhex(code), expected.shape), expected)


def test_runs_of_several_values() -> None:
    mask = np.random.default_rng(1).random((7, 9)) < 0.5
    np.testing.assert_array_equal(brushed(bytes(rle(mask)), (7, 9)), mask)


@pytest.mark.parametrize("code", [SQUARE, NOISE, DISC])
def test_run_lengths_that_are_cut_off(code: str) -> None:
    data, size = bytes.fromhex(code), {SQUARE: (6, 9), NOISE: (5, 7), DISC: (12, 14)}[code]
    for end in range(7, len(data) - 1):
        with pytest.raises(DataError, match="its run lengths are cut off"):
            brushed(data[:end], size)
    for end in range(4):
        with pytest.raises(DataError, match="its run lengths are of"):
            brushed(data[:end], size)


def test_run_lengths_that_are_garbage() -> None:
    """Whatever follows a header that is right: a mask of the image's size, or an error, never more values."""
    header, generator = bytes.fromhex(SQUARE)[:6], np.random.default_rng(0)
    told = 0
    for _ in range(200):
        try:
            assert brushed(header + generator.bytes(40), (6, 9)).shape == (6, 9)
        except DataError:
            told += 1
    assert told > 100


# Regions


def test_regions_in_their_order(tmp_path: Path) -> None:
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[20:35, 10:50] = True
    brush = result("brushlabels", "dog", {"rle": rle(square), "format": "rle"})
    results = [box("cat", 5, 6, 30, 40), brush, box("void", 40, 30, 60, 44), box("background", 12, 22, 15, 25)]
    export(tmp_path, task(results))
    dataset = opened(tmp_path)
    expected = np.zeros((HEIGHT, WIDTH), np.int16)
    expected[6:40, 5:30] = 1
    expected[square] = 2
    expected[30:44, 40:60] = -1
    expected[22:25, 12:15] = 0
    assert (dataset.classes, dataset.problems, dataset.remarks) == (("background", "cat", "dog"), (), ())
    np.testing.assert_array_equal(dataset[0].mask, expected)


@pytest.mark.parametrize(
    "value",
    [
        {"x": 20, "y": 10, "width": 30, "height": 20},
        {"x": 20, "y": 10, "width": 30, "height": 20, "rotation": 30},
        {"x": 40, "y": 40, "width": 20, "height": 30.5, "rotation": 215.5},
        {"x": 5, "y": 2, "width": 20, "height": 12, "rotation": 80},
    ],
)
def test_rectangles_turn_clockwise_about_their_corner(tmp_path: Path, value: Told) -> None:
    """Which pixels have their centre left of no side; pixels a hair from a side aside."""
    export(tmp_path, task([result("rectanglelabels", "x", percent(value))]))
    angle = math.radians(value.get("rotation", 0))
    along, down = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    offset = np.stack([x - value["x"], y - value["y"]], axis=-1)
    u, v = offset @ along, offset @ down
    distance = np.stack([u, value["width"] - u, v, value["height"] - v]).min(0)
    found = opened(tmp_path)[0].mask == 1
    np.testing.assert_array_equal(found[abs(distance) > 1e-6], (distance > 0)[abs(distance) > 1e-6])
    assert found.any()


def test_ellipses_turn_about_their_centre(tmp_path: Path) -> None:
    value = {"x": 30, "y": 22, "radiusX": 20, "radiusY": 8, "rotation": 40}
    export(tmp_path, task([result("ellipselabels", "x", percent(value))]))
    large = np.zeros((HEIGHT * 8, WIDTH * 8), np.uint8)  # another library's, eight times as large, to be exact enough
    cv2.ellipse(large, (30 * 8, 22 * 8), (20 * 8, 8 * 8), 40, 0, 360, 1, -1)
    centres = large[4::8, 4::8]
    assert (centres != opened(tmp_path)[0].mask).sum() <= 4
    assert centres.sum() == pytest.approx(math.pi * 20 * 8, rel=0.02)


def test_labels_that_stand_apart_from_the_shape(tmp_path: Path) -> None:
    """As `Labels` with `Polygon` has it: the shape twice, the second time with labels."""
    apart = box("cat", 5, 6, 30, 40) | {"type": "labels"}
    apart["value"] = {"points": apart["value"]["points"], "labels": ["cat"]}
    bare = apart | {"type": "polygon", "value": {"points": apart["value"]["points"]}}
    export(tmp_path, task([bare, apart, result("labels", "word", {"start": 1, "end": 2})]))
    dataset = opened(tmp_path)
    assert (dataset.classes, (dataset[0].mask == 1).sum()) == (("background", "cat"), 25 * 34)


def test_what_is_no_region_is_left_out(tmp_path: Path) -> None:
    results = [
        {"type": "choices", "value": {"choices": ["sharp"]}},
        {"type": "textarea", "value": {"text": ["x"]}},
        result("keypointlabels", "eye", {"x": 1, "y": 1}),
        result("bitmasklabels", "sky", {"imageDataURL": "data:"}),
        box([], 1, 1, 5, 5),
        box(["cat", "dog"], 5, 6, 30, 40),
    ]
    export(tmp_path, task(results))
    dataset = opened(tmp_path)
    assert dataset.classes == ("background", "cat")
    assert dataset.remarks == (
        "task 1, result 4: bitmasklabels can't be read; left out",
        "task 1, result 5: 0 labels; left out",
        "task 1, result 6: 2 labels; the first one counts",
    )


def test_the_last_annotation_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    one = task([box("cat", 0, 0, 9, 9)])
    for number, (day, cancelled, label) in enumerate([("03", False, "dog"), ("02", False, "cow"), ("09", True, "ox")]):
        one["annotations"].append(
            {
                "id": number,
                "was_cancelled": cancelled,
                "updated_at": f"2025-01-{day}",
                "result": [box(label, 0, 0, 9, 9)],
            }
        )
    export(tmp_path, one, task([], 2), task([], 3, was_cancelled=True), {"id": 4, "data": {}, "annotations": []})
    dataset = opened(tmp_path)
    assert dataset.classes == ("background", "dog")
    assert [item.id for item in dataset.items] == ["1", "2"]
    assert (dataset[1].mask == 0).all()
    assert dataset.remarks == (
        "task 1: 3 annotations; the last updated one with regions (id 0) counts",
        "2 tasks without an annotation are left out",
    )


@pytest.mark.parametrize(
    ("annotations", "counts", "why"),
    [
        ([("1", False, 1), ("2", False, 0)], 0, "the last updated one with regions"),
        ([("1", False, 1), ("3", False, 1), ("2", False, 1)], 1, "the last updated one with regions"),
        ([("1", False, 0), ("2", False, 0)], 1, "the last updated one"),
        ([("1", True, 1), ("2", False, 1)], 0, "the ground truth"),
        ([("2", False, 1), ("1", True, 0)], 1, "the ground truth"),
        ([("1", True, 1), ("2", True, 0), ("3", False, 1)], 0, "the ground truth"),
    ],
)
def test_which_of_several_annotations_counts(
    tmp_path: Path, annotations: list[tuple[str, bool, int]], counts: int, why: str
) -> None:
    """When it was updated, whether it is the ground truth, and how many regions it has."""
    one = task([]) | {
        "annotations": [
            {"id": i, "updated_at": day, "ground_truth": truth, "result": [box(f"label {i}", 0, 0, 9, 9)] * regions}
            for i, (day, truth, regions) in enumerate(annotations)
        ]
    }
    export(tmp_path, one)
    dataset = opened(tmp_path)
    assert dataset.remarks == (f"task 1: {len(annotations)} annotations; {why} (id {counts}) counts",)
    assert dataset.classes[1:] == ((f"label {counts}",) if annotations[counts][2] else ())


def test_a_class_list_gives_the_order(tmp_path: Path) -> None:
    export(tmp_path, task([box("cat", 0, 0, 9, 9)]))
    (tmp_path / "classes.txt").write_text("zebra\ncat\n")
    assert (opened(tmp_path).classes, opened(tmp_path)[0].mask[4, 4]) == (("background", "zebra", "cat"), 2)
    (tmp_path / "classes.txt").write_text("zebra\ncats\n")
    assert "task 1, result 1: the label 'cat' isn't in the class list; did you mean 'cats'" in message(tmp_path)


# Images


@pytest.mark.parametrize(
    ("file", "address"),
    [
        ("a.png", "/data/upload/1/0a1b2c3d-a.png"),
        ("0a1b2c3d-a.png", "/data/upload/1/0a1b2c3d-a.png"),
        ("mein Bild (1) ä.png", "/data/upload/1/0a1b2c3d-mein_Bild_1_%C3%A4.png"),
        ("dir/a b.png", "/data/local-files/?d=photos/dir/a%20b.png"),
        ("dir/a b.png", "s3://bucket/photos/dir/a b.png"),
        ("a.png", "https://host/x/a.png?X-Amz-Signature=1&b=2"),
        ("a#1.png", "/data/a#1.png"),
        ("a.png", "C:\\photos\\a.png"),
        ("a.png", "http://[broken/a.png"),
    ],
)
def test_where_images_are_found(tmp_path: Path, file: str, address: str) -> None:
    export(tmp_path, task([box("cat", 0, 0, 9, 9)], image=address))
    target = tmp_path / "images" / file
    target.parent.mkdir(exist_ok=True)
    (tmp_path / "images" / "1.png").rename(target)
    item = opened(tmp_path).items[0]
    assert (item.image, item.id) == (target, file.removesuffix(".png"))


@pytest.mark.parametrize(
    "data",
    [
        {"thumb": "https://b.s3/t.png", "image": "https://b.s3/1.png?X-Amz=1"},
        {"thumb": "https://b.s3/t.png", "image": "https://b.s3/1.png"},
        {"text": "a cat", "photo": "https://b.s3/1.png?X-Amz=1", "thumb": "https://b.s3/t.png"},
        {"text": "a cat", "photo": "/data/local-files/?d=photos/1.png"},
        {"image": 3, "photo": "1.png"},
    ],
)
def test_which_of_the_data_is_the_image(tmp_path: Path, data: Told) -> None:
    export(tmp_path, task([box("cat", 0, 0, 9, 9)]) | {"data": data})
    Image.fromarray(scene(1)[0]).save(tmp_path / "images" / "t.png")
    assert opened(tmp_path).items[0].id == "1"


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    export(tmp_path, task([box("cat", 0, 0, 9, 9)], image="s3://bucket/b/1.png"))
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir()
        Image.fromarray(scene(1)[0]).save(tmp_path / "images" / folder / "1.png")
    (tmp_path / "images" / "1.png").unlink()
    assert opened(tmp_path).items[0].id == "b/1"
    export(tmp_path, task([box("cat", 0, 0, 9, 9)], image="s3://bucket/c/1.png"))
    (tmp_path / "images" / "1.png").unlink()
    assert "task 1: 1.png could be" in message(tmp_path)


def test_images_that_are_not_there(tmp_path: Path) -> None:
    path = export(tmp_path, task([box("cat", 0, 0, 9, 9)]), task([], 2, image="/data/upload/1/0a1b2c3d-12.png"))
    text = message(tmp_path)
    assert (
        f"{path}: 1 annotations can't be used:\n  task 2: its image '/data/upload/1/0a1b2c3d-12.png' isn't in" in text
    )
    assert "did you mean '1.png'" in text or "did you mean '2.png'" in text
    assert "--data.images" in text
    assert len(opened(tmp_path, skip_bad=True)) == 1
    (tmp_path / "ids.txt").write_text("1\n")
    assert len(opened(tmp_path, file_list=str(tmp_path / "ids.txt"))) == 1
    (tmp_path / "ids.txt").write_text("2\n")
    assert "no task has an image '2'" in message(tmp_path, file_list=str(tmp_path / "ids.txt"))


def test_only_the_first_of_many_lost_images_are_compared(tmp_path: Path) -> None:
    """Each comparison is with all files."""
    lost = [task([], number, image=f"/data/{number}.pngg.png") for number in range(2, 17)]
    export(tmp_path, GOOD, *lost)
    problems = opened(tmp_path, skip_bad=True).problems
    assert ["did you mean" in line for line in problems] == [True] * 10 + [False] * 5


def test_nothing_usable_there_tells_why(tmp_path: Path) -> None:
    export(tmp_path, task([], image="lost.png"))
    with pytest.raises(DataError, match=r"no annotated image was found.*\n  task 1: its image 'lost.png' isn't in"):
        opened(tmp_path, skip_bad=True)
    export(tmp_path, {"id": 1, "data": {}, "annotations": []})
    assert "\n  1 tasks without an annotation are left out" in message(tmp_path)


def test_two_tasks_of_one_image(tmp_path: Path) -> None:
    export(tmp_path, task([box("cat", 0, 0, 9, 9)]), task([], 2, image="1.png"))
    assert "task 2: its image" in message(tmp_path)
    assert "is that of task 1 too; remove one of the tasks" in message(tmp_path)


def test_an_image_of_another_size(tmp_path: Path) -> None:
    path = export(tmp_path, task([box("cat", 0, 0, 9, 9, original_height=50)]))
    with pytest.raises(DataError) as error:
        opened(tmp_path)[0]
    assert f"{path}: 1.png is 50×64 (height×width) there, but the image is 48×64" in str(error.value)


# The JSON


def test_which_json(tmp_path: Path) -> None:
    path = export(tmp_path, task([box("cat", 0, 0, 9, 9)]))
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert opened(tmp_path).items[0].mask == path
    export(tmp_path, task([box("dog", 0, 0, 9, 9)]), name="other.json")
    text = message(tmp_path)
    assert "holds 2 JSON exports of Label Studio; name the one with --data.annotations:\n  other.json" in text
    assert opened(tmp_path, annotations="other.json").classes == ("background", "dog")
    assert "data.split is 'val', but a Label Studio export has no splits" in message(tmp_path, split="val")
    (tmp_path / "empty").mkdir()
    assert "holds 0 JSON exports of Label Studio (JSON-MIN can't be read)" in message(tmp_path / "empty")


@pytest.mark.parametrize("more", [{}, {"photo": "/data/upload/1/0a1b2c3d-1.png", "annotation_id": 7}])
def test_json_min(tmp_path: Path, more: Told) -> None:
    labels = [RECTANGLE | {"rectanglelabels": ["cat"], "original_width": WIDTH, "original_height": HEIGHT}]
    told = more or {"image": "/data/upload/1/0a1b2c3d-1.png"}
    path = export(tmp_path, {"id": 1, "label": labels, "annotator": 1} | told)
    text = message(tmp_path, annotations=path.name)
    assert text == f"{path}: this is Label Studio's JSON-MIN, which holds too little; export as JSON"


@pytest.mark.parametrize("text", ['[{"data": {}, "annotations": [', "", "[" * 100_000])
def test_a_json_that_is_cut_off(tmp_path: Path, text: str) -> None:
    export(tmp_path, task([]))
    (tmp_path / "cut.json").write_text(text)
    assert f"{tmp_path / 'cut.json'}: can't be read as JSON" in message(tmp_path, annotations="cut.json")


GOOD = task([box("cat", 0, 0, 9, 9)])
BRUSH = {"rle": rle(np.ones((HEIGHT, WIDTH), bool)), "format": "rle"}
RECTANGLE = percent({"x": 20, "y": 10, "width": 30, "height": 20})


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ("x", "task number 2: annotations is None; it must be a list"),
        ({"id": 2, "annotations": {}}, "task 2: annotations is {}; it must be a list"),
        ({"id": 2, "annotations": [3]}, "task 2: annotations must be a list of dicts"),
        ({"id": 2, "completions": [3]}, "task 2: completions must be a list of dicts"),
        (task(None, 2), "task 2: result is None; it must be a list"),
        (task([3], 2), "task 2: result must be a list of dicts"),
        (task([], 2) | {"data": []}, "task 2: data is []; it must be a dict"),
        (task([], 2) | {"data": {"n": 3}}, "task 2: data names no image"),
        (
            task([box("cat", 0, 0, 70, 9)], 2),
            "task 2, result 1 (cat): the outline reaches 6.0 pixels outside the image",
        ),
        (task([polygon("cat", [(1, 1), (2, 2)])], 2), "task 2, result 1 (cat): the outline has 2 points"),
        (task([result("polygonlabels", "cat", {"points": 3})], 2), "points is 3; it must be a list of [x, y]"),
        (task([result("polygonlabels", "cat", {})], 2), "points is None; it must be a list"),
        (task([box(["cat", 3], 0, 0, 9, 9), box([3], 0, 0, 9, 9)], 2), "task 2, result 2: the label is 3; it must be"),
        (task([box("cat", 0, 0, 9, 9) | {"value": 3}], 2), "task 2, result 1: value is 3; it must be a dict"),
        (
            task([box("cat", 0, 0, 9, 9) | {"value": {"polygonlabels": "cat"}}], 2),
            "polygonlabels is 'cat'; it must be a list",
        ),
        (task([box("cat", 0, 0, 9, 9, original_width="64")], 2), "task 2: the image is 48×'64'"),
        (
            task([box("cat", 0, 0, 9, 9), box("cat", 0, 0, 9, 9, original_width=32)], 2),
            "task 2: its regions were drawn on images of 2 sizes",
        ),
        (task([box("cat", 0, 0, 9, 9, image_rotation=90)], 2), "the image was turned in Label Studio"),
        (task([result("rectanglelabels", "cat", RECTANGLE | {"x": "1"})], 2), "x is '1'; it must be a number"),
        (task([result("rectanglelabels", "cat", RECTANGLE | {"y": 1e300})], 2), "y is 1e+300; it must be a number"),
        (task([result("rectanglelabels", "cat", RECTANGLE | {"x": 90})], 2), "the outline reaches 23.6 pixels outside"),
        (
            task([result("rectanglelabels", "cat", RECTANGLE | {"rotation": 5, "width": 0})], 2),
            "the extents are 0.0 and 20.0 pixels; they must be above 0",
        ),
        (
            task([result("rectanglelabels", "cat", RECTANGLE | {"width": 0})], 2),
            "it has no area: the extents are 0.0 and 20.0 pixels; they must be above 0",
        ),
        (
            task([result("ellipselabels", "cat", {"x": 150, "y": 1, "radiusX": 1, "radiusY": 1})], 2),
            "the centre, 96.0, 0.5 (x, y), lies outside the image",
        ),
        (task([result("ellipselabels", "cat", {"x": 1, "y": 1, "radiusX": 1})], 2), "radiusY is None"),
        (task([result("brushlabels", "cat", {"rle": "abc"})], 2), "rle is 'abc'; it must be a list"),
        (task([result("brushlabels", "cat", {"rle": [1, 256]})], 2), "rle must be a list of numbers 0..255"),
        (task([result("brushlabels", "cat", {"rle": [[1]]})], 2), "rle must be a list of numbers 0..255"),
        (task([result("brushlabels", "cat", BRUSH | {"format": "png"})], 2), "of the format 'rle'"),
    ],
)
def test_tasks_that_are_wrong(tmp_path: Path, told: object, fault: str) -> None:
    path = export(tmp_path, GOOD, told)
    text = message(tmp_path)
    assert str(path) in text
    assert fault in text
    assert "--skip-bad" in text
    dataset = opened(tmp_path, skip_bad=True)
    assert [item.id for item in dataset.items] == ["1"]
    assert fault in dataset.problems[0]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (BRUSH["rle"][:-40], "its run lengths are cut off; export them again"),
        ([], "its run lengths are of 0 values, but an image of 48×64 (height×width) has 12288"),
        ([255] * 99, "its run lengths are of 4294967295 values"),
    ],
)
def test_run_lengths_that_are_wrong_are_told_when_they_are_read(tmp_path: Path, code: list[int], fault: str) -> None:
    path = export(tmp_path, task([result("brushlabels", "cat", {"rle": code, "format": "rle"})]))
    dataset = opened(tmp_path)
    with pytest.raises(DataError) as error:
        dataset[0]
    assert f"{path}: task 1, result 1 (cat): {fault}" in str(error.value)


# Mask images of brushed regions


def brush(*labels: str, tag: str = "my-tag") -> Told:
    return result("brushlabels", list(labels), BRUSH, from_name=tag)


def masks(root: Path, *names: str, task: int = 1, annotation: int = 71) -> Path:
    """Mask `i` holds columns `8·i` to the right end."""
    folder = root / "brush"
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:, 8 * index :] = 255
        start = f"task-{task}-annotation-{annotation}-by-jo.doex@y.org"
        Image.fromarray(mask).save(folder / f"{start}-{name}.png")
    return folder


def columns(dataset: Dataset) -> list[str]:
    """The class of every eighth column."""
    return [dataset.classes[i] for i in dataset[0].mask[0, ::8]]


def test_masks_in_the_order_of_the_results(tmp_path: Path) -> None:
    """Named as label_studio_sdk 2.1.2 does: numbered for each tag and labels, `/` as `-`, several labels joined."""
    results = [
        brush("b"),
        brush("a-b"),
        box("dog", 0, 0, 9, 9),
        brush("a"),
        brush("c/d"),
        brush("a"),
        brush("a", "a-b"),
    ]
    export(tmp_path, task(results))
    masks(tmp_path, *(f"my-tag-{name}" for name in ("b-0", "a-b-0", "a-0", "c-d-0", "a-1", "a-a-b-0")))
    masks(tmp_path, "my-tag-zebra-0", annotation=99)
    dataset = opened(tmp_path, masks="brush")
    assert dataset.classes == ("background", "a", "a-b", "b", "c/d", "dog")
    assert columns(dataset) == ["b", "a-b", "a", "c/d", "a", "a", "a", "a"]


def test_masks_that_the_results_do_not_tell_of(tmp_path: Path) -> None:
    """The longest known tag and label count; what isn't known is a label of its own."""
    export(tmp_path, task([box("a-b", 0, 0, 9, 9, from_name="my-tag"), box("a", 0, 0, 9, 9, from_name="my")]))
    folder = masks(tmp_path, "my-tag-a-b-0", "my-tag-a-b-c-0", "my-tag-new thing-3")
    dataset = opened(tmp_path, masks=str(folder))
    assert dataset.classes == ("background", "a", "a-b", "new thing")
    assert columns(dataset) == ["a-b", "a-b"] + ["new thing"] * 6
    (tmp_path / "classes.txt").write_text("a-b\na\nnew thin\n")
    assert "the label 'new thing' isn't in the class list; did you mean 'new thin'" in message(tmp_path, masks="brush")
    (tmp_path / "classes.txt").unlink()
    masks(tmp_path, "other-a-0")
    assert "other-a-0.png: its label isn't known: the name has none of the JSON's tags (my, my-tag)" in message(
        tmp_path, masks="brush"
    )


def test_masks_that_are_missing(tmp_path: Path) -> None:
    export(tmp_path, task([brush("a")]), task([], 2))
    masks(tmp_path, "my-tag-a-0", annotation=5)
    text = message(tmp_path, masks="brush")
    assert "task 1: there is no mask task-1-annotation-71-by-….png in the folder of --data.masks" in text
    dataset = opened(tmp_path, masks="brush", skip_bad=True)
    assert ([item.id for item in dataset.items], (dataset[0].mask == 0).all()) == (["2"], True)
    (tmp_path / "none").mkdir()
    assert "no mask is named like task-1-annotation-2-by-3-tag-label-0.png" in message(tmp_path, masks="none")


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    export(tmp_path, task([brush("a")]))
    path = next(masks(tmp_path, "my-tag-a-0").iterdir())
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)
    dataset = opened(tmp_path, masks="brush")
    with pytest.raises(DataError, match=r"my-tag-a-0.png is 5×6 \(height×width\), its image 48×64"):
        dataset[0]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=r"my-tag-a-0.png: can't be read as a mask"):
        dataset[0]


def test_changed_masks_are_noticed(tmp_path: Path) -> None:
    export(tmp_path, task([brush("a")]))
    path = next(masks(tmp_path, "my-tag-a-0").iterdir())
    before = opened(tmp_path, masks="brush").reading
    assert opened(tmp_path, masks="brush").reading == before
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).resize((640, 480)).save(path)
    assert opened(tmp_path, masks="brush").reading != before


# From end to end


def test_on_the_command_line(run: Run, tmp_path: Path, tiny_weights: Path) -> None:  # noqa: F811
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[8:40, 10:50] = True
    brushed_one = result("brushlabels", "rotes Auto ä", {"rle": rle(square), "format": "rle"})
    export(tmp_path, task([brushed_one]), task([box("cat", 0, 0, 30, 40)], 2), task([box("cat", 0, 0, 70, 9)], 3))
    data = ["--data.layout=labelstudio", "--data.root", tmp_path]
    tiny = [*backbone_options(tiny_weights), "--input.size=48", "--out", tmp_path / "bank"]
    code, _, err = run("build", *data, *tiny)
    assert code != 0
    assert "task 3, result 1 (cat): the outline reaches" in err
    code, out, _ = run("build", *data, *tiny, "--skip-bad")
    assert code == 0
    assert "from 2 images" in out
    (tmp_path / "val.txt").write_text("1\n")
    code, out, _ = run("evaluate", "--bank", tmp_path / "bank", *data, "--data.file_list", tmp_path / "val.txt")
    assert code == 0
    assert "rotes Auto ä" in out
