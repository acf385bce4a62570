# ruff: noqa: F811
"""Results held against each other: by counting, what is refused, and the command."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import Run, bank, build_of, contents, data, run  # noqa: F401
from test_image_counts import NAMES, by_class, counted, masks, report_of, write_tree

from fungi_seg import DataError, MetricConfig, Report
from fungi_seg.evaluation import (
    Comparison,
    Result,
    compare,
    comparison_csv,
    comparison_json,
    comparison_latex,
    comparison_markdown,
    read_reports,
)
from fungi_seg.evaluation.comparison_page import difference_map
from fungi_seg.evaluation.comparison_report import class_table, image_table, result_table
from fungi_seg.segmentation import class_iou_intervals, mean_iou_interval

Pair = tuple[Report, Report]


def tree(root: Path, truths: list[np.ndarray], found: list[np.ndarray], metric: MetricConfig | None = None) -> Report:
    return report_of(write_tree(root, truths, found), metric)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Pair, tuple[np.ndarray, np.ndarray]]:
    """Reports of two predictions for the same images, and their counts `[images, 3, C]`."""
    truths, first = masks(1, 8)
    generator = np.random.default_rng(2)
    second = [np.where(generator.random(t.shape) < 0.1, t, f) for t, f in zip(truths, first, strict=True)]
    reports = tree(tmp_path / "a", truths, first), tree(tmp_path / "b", truths, second)
    return reports, (by_class(counted(truths, first)), by_class(counted(truths, second)))


def of(*reports: Report, skip: bool = False) -> Comparison:
    return compare([Result.of(name, report) for name, report in zip("abc", reports, strict=False)], skip)


def iou(counts: np.ndarray) -> np.ndarray:
    right, truth, predicted = counts.sum(0)[:, :3].astype(float)
    return right / (truth + predicted - right)


def test_figures_are_those_of_counting(pair: tuple[Pair, tuple[np.ndarray, np.ndarray]]) -> None:
    (one, other), (first, second) = pair
    found = of(one, other)
    reference, against = found.results
    assert reference["difference"] == 0
    assert reference["difference_interval"] == [0, 0]
    assert reference["miou"] == pytest.approx(one.miou)
    assert against["miou"] == pytest.approx(other.miou)
    assert against["interval"] == other.interval
    assert against["difference"] == pytest.approx(iou(second).mean() - iou(first).mean())
    assert against["difference_interval"] == mean_iou_interval(second[None], first[None])
    assert against["differs"]  # a tenth of the pixels were put right in each image
    np.testing.assert_allclose([c["difference"] for c in against["classes"][:3]], iou(second) - iou(first))
    paired = class_iou_intervals(second[None], first[None])
    assert [c["difference_interval"] for c in against["classes"]] == paired
    assert against["classes"][3] == {
        "name": "blue", "iou": None, "interval": None, "difference": None, "difference_interval": None,
        "differs": False,
    }  # fmt: skip
    for i, image in enumerate(found.images):
        rest = [np.delete(counts, i, 0) for counts in (first, second)]
        without = iou(rest[1]).mean() - iou(rest[0]).mean()
        assert image["moves"][1] == pytest.approx(against["difference"] - without)
        np.testing.assert_allclose(image["miou"], [iou(first[i : i + 1]).mean(), iou(second[i : i + 1]).mean()])
    changed = [image["id"] for image in found.changed_images(3)]
    assert changed == [i["id"] for i in sorted(found.images, key=lambda i: -abs(i["moves"][1]))][:3]


def test_a_report_and_itself_differ_nowhere(pair: tuple[Pair, Any]) -> None:
    found = of(pair[0][0], pair[0][0], pair[0][0])
    for result in found.results:
        assert result["difference"] == 0
        assert result["difference_interval"] == [0, 0]
        assert not result["differs"]
        assert [c["difference"] for c in result["classes"]] == [0, 0, 0, None]
        assert [c["difference_interval"] for c in result["classes"]] == [[0, 0]] * 3 + [None]
    assert all(image["moves"] == [0, 0, 0] for image in found.images)
    assert found.changed_images(5) == []


def test_classes_that_are_renamed_or_absent_count_as_in_the_reports(tmp_path: Path) -> None:
    truths, first = masks(3, 6)
    for number, metric in enumerate([
        MetricConfig(matching="hungarian"), MetricConfig(absent="zero"), MetricConfig(absent="predicted"),
    ]):  # fmt: skip
        renamed = [np.array([2, 0, 1, 3], np.uint8)[mask] for mask in first]
        none_blue = [np.where(mask == 3, 0, mask) for mask in first]
        reports = [
            tree(tmp_path / f"{number}{i}", truths, found, metric) for i, found in enumerate((renamed, none_blue))
        ]
        found = of(*reports)
        for result, report in zip(found.results, reports, strict=True):
            assert result["miou"] == pytest.approx(report.miou)
            assert result["interval"] == report.interval
        assert found.results[1]["difference"] == pytest.approx(reports[1].miou - reports[0].miou)


def without_images(report: Report, count: int) -> Report:
    return replace(report, images_counted=report.images_counted[count:])


def test_images_that_one_lacks(pair: tuple[Pair, tuple[np.ndarray, np.ndarray]]) -> None:
    (one, other), (first, second) = pair
    with pytest.raises(DataError, match=r"b lacks 2 of 8 images:\n  b: image_0\n  b: image_1\n\(--skip-bad compares"):
        of(one, without_images(other, 2))
    found = of(one, without_images(other, 2), skip=True)
    assert [image["id"] for image in found.images] == [f"image_{i}" for i in range(2, 8)]
    assert found.results[0]["miou"] == pytest.approx(iou(first[2:]).mean())
    assert found.results[1]["difference_interval"] == mean_iou_interval(second[None, 2:], first[None, 2:])
    assert found.notes == ["b lacks 2 of 8 images; compared are the 6 images that all have"]


def test_images_in_another_order_are_the_same(pair: tuple[Pair, Any]) -> None:
    one, other = pair[0]
    turned = replace(other, images_counted=other.images_counted[::-1])
    assert of(one, turned) == of(one, other)


def renamed(report: Report, *names: str) -> Report:
    return replace(report, classes=[c | {"name": n} for c, n in zip(report.classes, names, strict=True)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: renamed(r, "background", "red", "lime", "blue"), r"a has 4 classes, b 4.*\n  2: 'green', 'lime'"),
        (lambda r: replace(r, classes=r.classes[:3], images_counted=[]), "b: the report holds no counts of single"),
        (lambda r: replace(r, images_counted=[{"id": "x", "counts": [1]}]), r"b: the report is damaged"),
        (lambda r: replace(r, images_counted=[{"id": "x", "counts": [7, 0, 1]}]), r"b: the report is damaged"),
        (lambda r: replace(r, images_counted=[{"name": "x"}]), r"b: the report is damaged \(KeyError"),
        (
            lambda r: replace(r, settings={"metric": r.settings["metric"] | {"mask_size": "input"}}),
            r"metric.mask_size is 'own' in a, 'input' in b",
        ),
        (
            lambda r: replace(
                r,
                images_counted=[image | {"id": f"other_{image['id']}"} for image in r.images_counted],
                settings=r.settings | {"data": {"root": "elsewhere", "split": "val", "void": None}},
            ),
            r"a and b have no image in common.*\n  a: data that the report does not name\n  b: root elsewhere, split",
        ),
        (
            lambda r: replace(r, images_counted=[i | {"counts": [0, 0, 7]} for i in r.images_counted]),
            r"a and b are of other annotations: 8 of 8 images have other labelled pixels:\n  image_0",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_compared(pair: tuple[Pair, Any], change: Callable[[Report], Report], message: str) -> None:
    one, other = pair[0]
    with pytest.raises(DataError, match=message):
        of(one, change(other))


def test_one_list_of_classes_is_longer(pair: tuple[Pair, Any]) -> None:
    one = pair[0][0]
    fewer = []
    for image in one.images_counted:
        cells = np.array(image["counts"]).reshape(-1, 3)
        fewer.append(image | {"counts": cells[(cells[:, :2] < 3).all(1)].ravel().tolist()})
    with pytest.raises(DataError, match=r"a has 4 classes, b 3; they must be the same.*\n  \(one list is longer\)"):
        of(one, replace(one, classes=one.classes[:3], images_counted=fewer))


def test_seeds_are_compared_as_means(tmp_path: Path) -> None:
    truths, first = masks(5, 7)
    found = [first, masks(6, 7)[1], masks(7, 7)[1]]
    reports = [tree(tmp_path / str(i), truths, one) for i, one in enumerate(found)]
    counts = [by_class(counted(truths, one)) for one in found]
    result = compare([Result.of("one", reports[0]), Result.of("two", *reports[1:])])
    one, two = result.results
    assert two["values"] == pytest.approx([iou(counts[1]).mean(), iou(counts[2]).mean()])
    assert two["miou"] == pytest.approx(np.mean(two["values"]))
    assert two["std"] == pytest.approx(np.std(two["values"], ddof=1))
    assert one["std"] == 0
    assert two["difference_interval"] == mean_iou_interval(np.stack(counts[1:]), counts[0][None])
    assert any("different numbers of seeds (one: 1, two: 2)" in note for note in result.notes)
    assert result_table(result)[0][3] == "sd over seeds"


def test_no_difference_is_found_between_two_that_differ_by_chance() -> None:
    """Two results whose mistakes are drawn alike: 9 in 10 intervals hold 0, those of classes too."""
    generator = np.random.default_rng(0)
    metric = {"mask_size": "own", "matching": "none", "absent": "skip"}
    ids, classes = tuple(map(str, range(25))), tuple("abcde")
    held, of_classes = [], []
    for _ in range(150):
        there = generator.random((25, 5)) < (1, 0.9, 0.6, 0.3, 0.12)
        truth = there * generator.integers(100, 2000, (25, 5))
        skill = generator.beta(5, 2, (25, 5))
        results = []
        for name in "ab":
            right = generator.binomial(truth, np.clip(skill + generator.normal(0, 0.08, (25, 5)), 0, 1))
            taken = generator.multinomial((truth - right).sum(1), np.full(5, 0.2))
            counts = np.stack([right, truth, right + taken], 1)
            results.append(Result(name, classes, ids, counts[None], metric, {}))
        found = compare(results).results[1]
        held.append(not found["differs"])
        of_classes += [not c["differs"] for c in found["classes"] if c["difference_interval"]]
    assert np.mean(held) >= 0.9
    assert np.mean(of_classes) >= 0.9
    assert np.mean(held) < 1  # they aren't far too wide


def test_which_of_two_is_right() -> None:
    truth = np.array([[0, 0, 1, 1, -1]], np.int16)
    first = np.array([[0, 1, 1, 0, 0]], np.uint8)
    other = np.array([[0, 0, 2, 2, 1]], np.int16)
    assert difference_map(truth, first, other).tolist() == [[0, 3, 2, 1, 0]]


# Tables


def test_tables(pair: tuple[Pair, Any]) -> None:
    found = of(*pair[0])
    header, rows = result_table(found)
    one, two = found.results
    low, high = two["difference_interval"]
    assert header == ["result", "mIoU %", "95 % interval", "difference", "paired 95 % interval"]
    assert rows[0][3:] == ["reference", ""]
    assert rows[1][3:] == [f"{100 * two['difference']:+.2f} *", f"{100 * low:+.2f} to {100 * high:+.2f}"]
    header, rows = class_table(found)
    assert header[5:] == ["b − a", "paired 95 %"]
    assert rows[1][1] == f"{100 * one['classes'][1]['iou']:.2f}"
    assert rows[3] == ["blue", "absent", "–", "absent", "–", "–", "–"]
    assert len(image_table(found, 4)[1]) == 4
    markdown = comparison_markdown(found)
    for table in (result_table(found), class_table(found), image_table(found)):
        assert all(f"| {' | '.join(row)} |" in markdown for row in (table[0], *table[1]))
    assert json.loads(comparison_json(found))["results"] == found.results


def test_csv(pair: tuple[Pair, Any]) -> None:
    found = of(*pair[0])
    lines = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert [(line["result"], line["class"]) for line in lines] == [
        (name, c) for name in "ab" for c in ("(mean)", *NAMES)
    ]
    red = found.results[1]["classes"][1]
    assert [float(lines[7][k]) for k in ("iou", "difference", "difference_low", "difference_high")] == [
        red["iou"], red["difference"], *red["difference_interval"],
    ]  # fmt: skip
    assert (lines[-1]["iou"], lines[-1]["low"]) == ("", "")


def test_latex(pair: tuple[Pair, Any]) -> None:
    one, other = (renamed(r, "sky_1 & more", "50 %", r"a\b~{}", "blue") for r in pair[0])
    text = comparison_latex(compare([Result.of("my_bank", one), Result.of("b", other)]))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 2
    assert r"sky\_1 \& more & " in text
    assert r"50 \% & " in text
    assert r"a\textbackslash{}b\textasciitilde{}\{\} & " in text
    assert r"b $-$ my\_bank" in text
    assert "$^{*}$" in text
    widths = {line.count(" & ") for line in text.splitlines() if line.endswith("\\\\")}
    assert widths == {4}


# The command


def lines_of(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def reports(run: Run, bank: Path, data: Path, tmp_path: Path) -> list[Path]:
    """Two reports of one bank: with one neighbour, and with thirty."""
    files = []
    for k in (1, 30):
        files.append(tmp_path / f"k{k}.json")
        options = ["--data.root", data, "--data.split", "val", "--json", files[-1], "--decoder.k", k]
        assert run("evaluate", "--bank", bank, *options)[0] == 0
    return files


def test_command_with_reports(run: Run, reports: list[Path], tmp_path: Path) -> None:
    code, out, _ = run("compare", *reports, "--out", tmp_path / "out")
    assert code == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    values = [json.loads(file.read_text())["miou"] for file in reports]
    assert [result["name"] for result in found["results"]] == ["k1", "k30"]
    assert [result["miou"] for result in found["results"]] == pytest.approx(values)
    assert f"{100 * (values[1] - values[0]):+.2f}" in out
    assert contents(tmp_path / "out").keys() == {
        "compare.json", "compare.csv", "compare.md", "compare.tex", "compare.png", "index.html",
    }  # fmt: skip
    with Image.open(tmp_path / "out" / "compare.png") as chart:
        assert chart.width > 800
    assert "No pictures: k1, k30 came as reports" in (tmp_path / "out" / "index.html").read_text()


def test_command_with_one_report_twice(run: Run, reports: list[Path], tmp_path: Path) -> None:
    code, out, _ = run("compare", reports[0], reports[0])
    assert code == 0
    assert f"{reports[0]} (2)" in lines_of(out)
    assert "+0.00 to +0.00" in out
    assert "images that changed most" not in out


def test_command_with_banks_and_predictions(
    run: Run,
    bank: Path,
    data: Path,
    reports: list[Path],
    tmp_path: Path,
) -> None:
    """What is measured now is what a report says of it; and it has pictures."""
    images, coco = data / "val" / "images", tmp_path / "results.json"
    options = ["--out", tmp_path / "seg", "--coco.file", coco, "--decoder.k", 1]
    assert run("segment", images, "--bank", bank, *options)[0] == 0
    data_options = ["--data.root", data, "--data.split", "val"]
    given = [bank, tmp_path / "seg", tmp_path / "seg" / "masks", coco, *reports]
    code, _, _ = run("compare", *given, *data_options, "--out", tmp_path / "out", "--decoder.k", 30)
    assert code == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    assert [result["name"] for result in found] == ["bank", "seg", "masks", "results", "k1", "k30"]
    figures = [result["miou"] for result in found]
    assert figures[1:5] == [figures[4]] * 4
    assert figures[0] == figures[5] != figures[4]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "seg right (blue)" in page
    assert page.count("<figure>") == 1 + 3 * 2 * 5  # the chart; three others, two images, five pictures


def test_predictions_with_skipped_images(run: Run, reports: list[Path], data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "val_0.png").write_bytes((data / "val" / "masks" / "val_0.png").read_bytes())
    options = [reports[0], folder, "--data.root", data, "--data.split", "val"]
    code, _, errors = run("compare", *options)
    assert code == 1
    assert "1 of 2 images have no prediction" in errors
    code, out, errors = run("compare", *options, "--skip-bad")
    assert code == 0
    assert "compared are the 1 images that all have" in lines_of(out)
    assert "no interval" in out


def old_report(file: Path, reports: list[Path]) -> None:
    values = json.loads(reports[0].read_text())
    del values["images_counted"], values["interval"]
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read"),
        ("{", "can't be read"),
        ('{"best": 1}', "not the report of an evaluation; make one with fungi-seg evaluate"),
        ('{"miou": 1, "classes": [], "confusion": [], "settings": {}}', "the report is damaged"),
        ('{"reports": [{"miou": 1}]}', "not the report of an evaluation"),
    ],
)
def test_what_is_no_report(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_reports(file)


def test_mistakes(run: Run, reports: list[Path], data: Path, bank: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old_report(old, reports)
    for given, message, expected in (
        ([reports[0]], "1 result to compare: ", 2),
        ([reports[0], tmp_path / "nowhere"], "nowhere: no such report, bank, folder of predictions or COCO results", 1),
        ([reports[0], bank], "is no report, so it is measured on annotated images; name them: --data.root", 2),
        ([reports[0], bank, "--data.layout=voc", f"--data.root={data}"], "data.split is empty", 2),
        ([reports[0], old], "old: the report holds no counts of single images, as those of older versions", 1),
    ):
        code, _, errors = run("compare", *given)
        assert code == expected
        assert message in lines_of(errors)
        assert "Traceback" not in errors


def test_other_data_are_refused_with_both_named(
    run: Run,
    bank: Path,
    data: Path,
    reports: list[Path],
    tmp_path: Path,
) -> None:
    trained = tmp_path / "train.json"
    options = ["--data.root", data, "--data.split", "train", "--json", trained, "--quiet"]
    assert run("evaluate", "--bank", bank, *options)[0] == 0
    code, _, errors = run("compare", reports[0], trained)
    assert code == 1
    assert "k1 and train have no image in common: they are of other data" in errors
    assert f"k1: layout folder, root {data}, split val" in errors
    assert f"train: layout folder, root {data}, split train" in errors
