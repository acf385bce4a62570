"""What a report says of single images, intervals, and the chart of its confusion matrix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungi_seg import DataConfig, MetricConfig, Report, evaluate_predictions, open_dataset, open_predictions
from fungi_seg.evaluation import ImageCounts, draw_confusion
from fungi_seg.evaluation.confusion_chart import row_shares
from fungi_seg.evaluation.image_counts import cells_of
from fungi_seg.evaluation.report import Counted, make_report
from fungi_seg.segmentation import class_iou_intervals, mean_iou_interval

NAMES = ("background", "red", "green", "blue")


def masks(seed: int, count: int, classes: int = 3, void: bool = True) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Truths of `classes` classes and 255, and predictions that are right about half of the time."""
    generator = np.random.default_rng(seed)
    truths = [generator.integers(0, classes, (20, 30)).astype(np.uint8) for _ in range(count)]
    wrong = [generator.integers(0, len(NAMES), (20, 30)).astype(np.uint8) for _ in range(count)]
    found = [
        np.where(generator.random((20, 30)) < 0.3 + 0.1 * i, truth, other)
        for i, (truth, other) in enumerate(zip(truths, wrong, strict=True))
    ]
    if void:
        for truth in truths:
            truth[:3] = 255
    return truths, found


def write_tree(root: Path, truths: list[np.ndarray], found: list[np.ndarray], unnamed: int | None = None) -> Path:
    """A data set, and predictions in `root/found`, of which one class may count as none."""
    for folder in ("val/images", "val/masks", "found"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    for i, (truth, prediction) in enumerate(zip(truths, found, strict=True)):
        written = np.where(prediction == unnamed, 255, prediction).astype(np.uint8)
        for folder, array in (("val/images", truth), ("val/masks", truth), ("found", written)):
            Image.fromarray(array).save(root / folder / f"image_{i}.png")
    return root


def report_of(root: Path, metric: MetricConfig | None = None) -> Report:
    dataset = open_dataset(DataConfig(root=str(root), split="val"))
    return evaluate_predictions(open_predictions(root / "found", dataset), dataset, metric)


def counted(truths: list[np.ndarray], found: list[np.ndarray]) -> np.ndarray:
    """`[images, C, C + 1]` by loops, predictions of 255 in the last column."""
    counts = np.zeros((len(truths), len(NAMES), len(NAMES) + 1), np.int64)
    for i, (truth, prediction) in enumerate(zip(truths, found, strict=True)):
        for wanted, named in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if wanted != 255:
                counts[i, wanted, len(NAMES) if named == 255 else named] += 1
    return counts


def by_class(counts: np.ndarray) -> np.ndarray:
    """`[images, C, C + 1]` as `[images, 3, C]`."""
    rights = np.stack([np.diagonal(one[:, :-1]) for one in counts])
    return np.stack([rights, counts.sum(2), counts.sum(1)[:, :-1]], axis=1)


@pytest.mark.parametrize("unnamed", [None, 2])
def test_counts_of_each_image(tmp_path: Path, unnamed: int | None) -> None:
    truths, found = masks(0, 4)
    report = report_of(write_tree(tmp_path, truths, found, unnamed))
    expected = counted(truths, [np.where(one == unnamed, 255, one) for one in found])
    kept = ImageCounts.of_record(json.loads(report.to_json())["images_counted"], len(NAMES))
    assert kept.ids == tuple(f"image_{i}" for i in range(4))
    assert [kept.matrix(i).tolist() for i in range(4)] == expected.tolist()
    np.testing.assert_array_equal(kept.by_class(), by_class(expected))
    total = expected.sum(0)
    assert report.confusion == (total if unnamed else total[:, :-1]).tolist()
    assert [image["counts"] for image in kept.record()] == [image["counts"] for image in report.images_counted]


def test_intervals_and_what_each_image_adds(tmp_path: Path) -> None:
    truths, found = masks(1, 5)
    report = report_of(write_tree(tmp_path, truths, found))
    counts = by_class(counted(truths, found))
    assert report.interval == mean_iou_interval(counts[None])
    assert [c["interval"] for c in report.classes] == class_iou_intervals(counts[None])
    assert report.classes[3]["interval"] is None  # absent

    def iou(images: np.ndarray) -> float:
        right, truth, predicted = images.sum(0)[:, :3].astype(float)
        return float((right / (truth + predicted - right)).mean())

    for i, image in enumerate(report.images_counted):
        assert image["adds"] == pytest.approx(iou(counts) - iou(np.delete(counts, i, 0)), abs=1e-7)
        assert image["miou"] == pytest.approx(iou(counts[i : i + 1]), abs=1e-6)
    worst = [image["id"] for image in report.worst_images()]
    assert worst[0] == "image_0"  # the fewest of its pixels are right
    by_worth = sorted(report.images_counted, key=lambda image: float(image["adds"]))
    assert worst == [image["id"] for image in by_worth if image["adds"] < 0]
    rows = report.image_rows()
    assert [row[0] for row in rows] == worst
    cells = counted(truths, found)[0, :, :4]
    np.fill_diagonal(cells, 0)
    wanted, named = np.unravel_index(cells.argmax(), cells.shape)
    share = 100 * cells.max() / (17 * 30)
    assert rows[0][3] == f"{NAMES[wanted]} → {NAMES[named]}: {share:.1f} % of its pixels"
    assert f"| {' | '.join(rows[0])} |" in report.to_markdown()


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    report = report_of(write_tree(tmp_path, *masks(2, 1)))
    assert report.interval is None
    assert all(c["interval"] is None for c in report.classes)
    assert "interval over images: no interval" in report.to_markdown()


def test_an_image_without_labels_adds_nothing(tmp_path: Path) -> None:
    truths, found = masks(3, 3)
    truths[1][:] = 255
    report = report_of(write_tree(tmp_path, truths, found))
    assert report.images_counted[1] == {"id": "image_1", "miou": None, "adds": 0.0, "counts": []}


def test_classes_that_are_absent_or_renamed(tmp_path: Path) -> None:
    """Intervals lie about the figure that the metric takes."""
    truths, found = masks(4, 6)
    root = write_tree(tmp_path, truths, [np.array([1, 0, 2, 3], np.uint8)[one] for one in found])
    plain = report_of(root)
    for metric in (MetricConfig(absent="zero"), MetricConfig(absent="predicted"), MetricConfig(matching="hungarian")):
        report = report_of(root, metric)
        assert report.interval is not None
        assert report.interval[0] < report.miou < report.interval[1]
        assert report.miou != plain.miou
        assert [i["counts"] for i in report.images_counted] == [i["counts"] for i in plain.images_counted]
    renamed = report_of(root, MetricConfig(matching="hungarian"))
    assert [c["interval"] for c in renamed.classes] == class_iou_intervals(by_class(counted(truths, found))[None])
    assert any("as they were matched" in note for note in renamed.notes)
    assert {row[3] for row in renamed.image_rows()} == {"–"}


def many(images: int, classes: int, present: int) -> Report:
    """A report of so many images, each of `present` classes that are taken for each other and for two more."""
    generator = np.random.default_rng(0)
    cells = []
    for _ in range(images):
        there = generator.choice(classes, present, replace=False)
        counts = np.zeros((classes, classes + 1), np.int64)
        for c in there:
            taken_for = [c, *generator.choice(there, 4), *generator.choice(classes, 2)]
            counts[c, taken_for] = generator.integers(1, 60_000, len(taken_for))
        cells.append(cells_of(counts))
    total = np.zeros((classes, classes), np.int64)
    for one in cells:
        np.add.at(total, (one[:, 0], one[:, 1]), one[:, 2])
    kept = ImageCounts(tuple(f"ADE_val_{i:08d}" for i in range(images)), tuple(cells), classes)
    names = tuple(f"class {i} of a hundred and fifty" for i in range(classes))
    return make_report(names, Counted(total, kept), MetricConfig(), [], {}, [], {}, {})


def test_a_thousand_images_of_many_classes_are_small_files() -> None:
    text = many(1000, 150, 14).to_json()
    assert len(text) < 1_500_000
    assert text.count("\n") < 3000  # a line an image, a line a row of the matrix, and what a class has
    assert len(json.loads(text)["images_counted"]) == 1000


def test_shares_of_rows(tmp_path: Path) -> None:
    truths, found = masks(5, 3)
    shares, columns = row_shares(report_of(write_tree(tmp_path, truths, found, unnamed=3)))
    expected = counted(truths, [np.where(one == 3, 255, one) for one in found]).sum(0)
    assert columns == [*NAMES, "no class"]
    assert np.isnan(shares[3]).all()
    np.testing.assert_allclose(shares[:3], 100 * expected[:3] / expected[:3].sum(1, keepdims=True))


def test_shares_of_matched_classes_are_in_the_order_of_the_match(tmp_path: Path) -> None:
    truths, found = masks(6, 6)
    root = write_tree(tmp_path, truths, [np.array([1, 2, 0, 3], np.uint8)[one] for one in found])
    shares, columns = row_shares(report_of(root, MetricConfig(matching="hungarian")))
    assert columns[:3] == ["red", "green", "background"]
    assert (shares[:3].argmax(1) == [0, 1, 2]).all()


@pytest.mark.parametrize(("classes", "side"), [(2, 700), (20, 1400), (150, 3000)])
def test_chart(tmp_path: Path, classes: int, side: int) -> None:
    """Large enough for a line of text a class, and no larger than it must be."""
    draw_confusion(many(3, classes, 2), tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as chart:
        assert side / 2 < chart.height < 1.5 * side
        assert chart.width < 1.8 * side
