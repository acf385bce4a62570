"""Predictions on disk: written by segment, found again and evaluated, as people do it, and their mistakes."""

# ruff: noqa: F811

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_cli import Run, backbone_options, contents, run  # noqa: F401
from trees import folder_tree, scene

from fungi_seg import DataConfig, DataError, Dataset, FungiSegError, MetricConfig, Segmenter, open_dataset
from fungi_seg.cli import main
from fungi_seg.evaluation.evaluation import evaluate, evaluate_predictions
from fungi_seg.evaluation.predictions import open_predictions
from fungi_seg.images.settings import VOID, RunConfig

NAMES = ("val_0", "val_1", "val_2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("data") / "tree", train=3, val=3)


@pytest.fixture(scope="module")
def bank(data: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("banks") / "bank"
    arguments = ["--data.root", data, "--data.split", "train", "--input.size", "null", "--out", out]
    assert main(["build", *map(str, arguments), *backbone_options(tiny_weights)]) == 0
    return out


@pytest.fixture(scope="module")
def predicted(bank: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What segment wrote of the validation images: `out` and `results.json`."""
    folder = tmp_path_factory.mktemp("predicted")
    options = ["--bank", bank, "--out", folder / "out", "--overlays.style=none", "--coco.file", folder / "results.json"]
    assert main(["segment", str(data / "val" / "images"), *map(str, options)]) == 0
    return folder


def untimed(folder: Path) -> dict[str, str]:
    """Contents of a folder of results; those that hold times are only there."""
    return {name: "" if name in ("images.csv", "run.jsonl") else sha for name, sha in contents(folder).items()}


def opened(root: Path, split: str = "val") -> Dataset:
    return open_dataset(DataConfig(root=str(root), split=split))


def figures(run: Run, data: Path, folder: Path, *options: object) -> dict[str, Any]:
    """The report of `evaluate`."""
    arguments = ["--data.root", data, "--data.split", "val", "--json", folder / "report.json", *options]
    code, out, err = run("evaluate", *arguments)
    assert code == 0, err
    report = json.loads((folder / "report.json").read_text())
    assert f"mIoU {report['miou'] * 100:.2f} %" in out
    return report


# What people do


def test_images_without_an_entry_are_told(run: Run, data: Path, predicted: Path, tmp_path: Path) -> None:
    entries = json.loads((predicted / "results.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps([e for e in entries if e["image_id"] != entries[0]["image_id"]]))
    options = ["--predictions", tmp_path / "part.json", "--like", predicted / "results_images.json"]
    note = "1 of 3 images have no entry in part.json: all their pixels count as background"
    assert figures(run, data, tmp_path, *options)["notes"] == [note]


@pytest.mark.parametrize("what", ["out", "out/masks", "results.json"])
def test_the_same_figures_as_of_the_bank(
    run: Run,
    bank: Path,
    data: Path,
    predicted: Path,
    tmp_path: Path,
    what: str,
) -> None:
    ours = figures(run, data, tmp_path, "--bank", bank)
    report = figures(run, data, tmp_path, "--predictions", predicted / what, "--markdown", tmp_path / "report.md")
    assert report["miou"] == ours["miou"]
    assert report["confusion"] == ours["confusion"]
    assert report["classes"] == ours["classes"]
    assert report["images"] == 3
    assert report["notes"] == []
    assert report["settings"]["predictions"] == str(predicted / what)
    assert report["settings"]["data"]["root"] == str(data)
    assert report["seconds"].keys() == {"reading", "metric", "total"}
    assert (tmp_path / "report.md").read_text().startswith(f"# mIoU {ours['miou'] * 100:.2f}")


def test_results_beside_masks_that_stay_the_same(
    run: Run,
    bank: Path,
    data: Path,
    predicted: Path,
    tmp_path: Path,
) -> None:
    arguments = [data / "val" / "images", "--bank", bank, "--out", tmp_path / "out", "--overlays.style=none"]
    code, out, _ = run("segment", *arguments)
    assert (code, out) == (0, f"{tmp_path / 'out'}: 3 images segmented; look at {tmp_path / 'out' / 'index.html'}\n")
    assert untimed(tmp_path / "out") == untimed(predicted / "out")
    arguments += ["--overwrite"]
    arguments += ["--coco.file", tmp_path / "deep" / "results.json", "--coco.instances", "--coco.min_area", 20]
    code, out, _ = run("segment", *arguments)
    entries = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert code == 0
    assert f"{tmp_path / 'deep' / 'results.json'}: {len(entries)} regions\n" in out
    assert min(entry["area"] for entry in entries) >= 20
    loaded = COCO(str(tmp_path / "deep" / "results_images.json")).loadRes(str(tmp_path / "deep" / "results.json"))
    assert len(loaded.anns) == len(entries)
    assert untimed(tmp_path / "out") == untimed(predicted / "out")


def test_ids_of_the_data_sets_own_json(
    run: Run,
    bank: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    """Without the JSON beside the results, `--like` tells whose ids they use."""
    images = [{"id": 70 + i, "file_name": f"val_{i}.jpg", "height": 48, "width": 64} for i in range(3)]
    categories = [{"id": 9, "name": "green"}, {"id": 4, "name": "red"}]
    like = tmp_path / "instances.json"
    like.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    file = tmp_path / "results.json"
    options = ["--bank", bank, "--out", tmp_path / "out", "--coco.file", file, "--coco.like", like]
    assert run("segment", data / "val" / "images", *options)[0] == 0
    assert {entry["image_id"] for entry in json.loads(file.read_text())} == {70, 71, 72}
    (tmp_path / "results_images.json").unlink()
    report = figures(run, data, tmp_path, "--predictions", file, "--like", like)
    assert report["miou"] == figures(run, data, tmp_path, "--bank", bank)["miou"]
    code, _, err = run("evaluate", "--predictions", file, "--data.root", data, "--data.split", "val")
    assert code == 1
    assert "results_images.json, which says whose ids it uses, isn't beside it" in err
    assert "--like" in err


def test_a_recipe_that_names_a_bank(run: Run, data: Path, predicted: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"evaluate:\n  data: {{root: {data}, split: val}}\n  bank: somewhere\n  protocol: native\n")
    code, _, err = run("evaluate", "--config", recipe, "--predictions", predicted / "out")
    assert code == 2
    assert "bank is 'somewhere' and predictions" in err
    assert "--bank null" in err
    report = figures(run, data, tmp_path, "--config", recipe, "--predictions", predicted / "out", "--bank", "null")
    assert report["notes"] == ["how the predictions were made isn't known, so they aren't held against protocol native"]


# Masks


def mask_folder(folder: Path, names: tuple[str, ...] = NAMES, change: Callable[..., np.ndarray] = np.asarray) -> Path:
    """The truth of the validation images as predictions, void being background."""
    (folder / "masks").mkdir(parents=True)
    for name in names:
        truth = scene(100 + int(name[-1]), void=False)[1]
        Image.fromarray(change(truth)).save(folder / "masks" / f"{name}.png")
    (folder / "classes.txt").write_text("background\nred\ngreen\n")
    return folder


def test_perfect_masks(data: Path, tmp_path: Path) -> None:
    dataset = opened(data)
    report = evaluate_predictions(open_predictions(mask_folder(tmp_path / "p"), dataset), dataset)
    assert report.miou == report.pixel_accuracy == 1


def test_classes_in_another_order(data: Path, tmp_path: Path) -> None:
    folder = mask_folder(tmp_path / "p", change=lambda mask: np.array([2, 0, 1], np.uint8)[mask])
    (folder / "classes.txt").write_text("red\ngreen\nbackground\n")
    dataset = opened(data)
    assert evaluate_predictions(open_predictions(folder, dataset), dataset).miou == 1


def test_masks_without_a_class_list(data: Path, tmp_path: Path) -> None:
    folder = mask_folder(tmp_path / "p")
    (folder / "classes.txt").unlink()
    dataset = opened(data)
    report = evaluate_predictions(open_predictions(folder, dataset), dataset)
    assert report.miou == 1
    assert report.notes[0].startswith("no classes.txt lies with")


def test_void_in_predictions_is_wrong(data: Path, tmp_path: Path) -> None:
    """It costs the classes that are there, and is no class itself."""

    def without_green(mask: np.ndarray) -> np.ndarray:
        return np.where(mask == 2, 255, mask).astype(np.uint8)

    dataset = opened(data)
    found = open_predictions(mask_folder(tmp_path / "p", change=without_green), dataset)
    report = evaluate_predictions(found, dataset)
    green = sum(int((dataset[i].mask == 2).sum()) for i in range(3))
    total = sum(int((dataset[i].mask != VOID).sum()) for i in range(3))
    assert [row[3] for row in report.confusion] == [0, 0, green]
    assert [c["iou"] for c in report.classes] == [1, 1, 0]
    assert report.pixel_accuracy == pytest.approx((total - green) / total)
    assert report.miou == pytest.approx(2 / 3)
    assert f"{green} labelled pixels have no class in the predictions; they count as wrong" in report.notes
    assert evaluate_predictions(found, dataset, MetricConfig(matching="hungarian")).miou == pytest.approx(2 / 3)


def test_predicted_classes_that_are_nowhere_true(data: Path, tmp_path: Path) -> None:
    """Of two classes without a pixel in the truth the predicted one counts as zero, as asked."""
    root = folder_tree(tmp_path / "data", val=3)
    dataset_names = "background\nred\ngreen\nblue\nsky\n"
    (root / "classes.txt").write_text(dataset_names)
    folder = mask_folder(tmp_path / "p", change=lambda mask: np.where(mask == 2, 3, mask).astype(np.uint8))
    (folder / "classes.txt").write_text(dataset_names)
    dataset = opened(root)
    found = open_predictions(folder, dataset)
    mious = {a: evaluate_predictions(found, dataset, MetricConfig(absent=a)) for a in ("skip", "predicted", "zero")}
    assert [report.miou for report in mious.values()] == pytest.approx([2 / 3, 2 / 4, 2 / 5])
    assert mious["predicted"].notes == [
        "1 classes have no pixel in the truth and are left out of the mean: sky",
        "1 classes have no pixel in the truth and are counted as 0 in the mean: blue",
    ]


@pytest.mark.parametrize("names", [("val_0",), ("val_0", "val_1"), ("val_0", "train_1")])
def test_missing_predictions(
    run: Run,
    data: Path,
    tmp_path: Path,
    names: tuple[str, ...],
) -> None:
    folder = mask_folder(tmp_path / "p", names)
    missing = [name for name in NAMES if name not in names]
    options = ["--predictions", folder, "--data.root", data, "--data.split", "val"]
    code, _, err = run("evaluate", *options)
    assert code == 1
    listed = "".join(f"  {name}\n" for name in missing)
    assert f"{folder}: {len(missing)} of 3 images have no prediction:\n{listed}(--skip-bad" in err
    code, _, err = run("evaluate", *options, "--skip-bad", "--json", tmp_path / "r.json")
    assert code == 0
    assert f"skipped {len(missing)}:\n  {missing[0]}: no prediction in {folder}" in err
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["images"], len(report["skipped"]), report["miou"]) == (3 - len(missing), len(missing), 1)


def test_nothing_left(data: Path, tmp_path: Path) -> None:
    dataset = opened(data)
    found = open_predictions(mask_folder(tmp_path / "p", ("train_0",)), dataset)
    with pytest.raises(DataError, match=r"no image of 3 could be evaluated:\n  val_0: no prediction"):
        evaluate_predictions(found, dataset, run=RunConfig(skip_bad=True))
    with pytest.raises(DataError, match="val_0: there is no prediction for it in"):
        found.mask(dataset.items[0], (48, 64))


def test_bad_masks(data: Path, tmp_path: Path) -> None:
    """Each is named; `skip_bad` skips it."""
    folder = mask_folder(tmp_path / "p")
    Image.fromarray(np.zeros((48, 63), np.uint8)).save(folder / "masks" / "val_0.png")
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(folder / "masks" / "val_2.png")
    dataset = opened(data)
    found = open_predictions(folder, dataset)
    with pytest.raises(DataError, match=r"val_0\.png: the mask is 48×63 .* the image 48×64(.|\n)*--skip-bad"):
        evaluate_predictions(found, dataset)
    report = evaluate_predictions(found, dataset, run=RunConfig(skip_bad=True))
    assert (report.images, len(report.skipped)) == (1, 2)
    assert "val_2.png: class ids outside the 3 known classes: 7 (3072 pixels)" in report.skipped[1]
    assert f"They must be numbers of lines of {folder / 'classes.txt'}, from 0" in report.skipped[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "background\nred\n",
            r"has 2 classes, the data set 3; they must be the same:\n  'green': only in the data set",
        ),
        ("background\nred\ngreens\n", r"'green': only in the data set; did you mean 'greens'\?\n  'greens': only in"),
        ("background\nred\ngreen\nred\n", r"names 1 classes more than once:\n  red"),
    ],
)
def test_other_classes(data: Path, tmp_path: Path, names: str, message: str) -> None:
    folder = mask_folder(tmp_path / "p")
    (folder / "classes.txt").write_text(names)
    with pytest.raises(DataError, match=message):
        open_predictions(folder, opened(data))


def test_no_predictions(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions is '.*gone': no such folder of masks, or JSON"):
        open_predictions(tmp_path / "gone", opened(data))
    with pytest.raises(DataError, match=r"in which there is no mask image \(\.png"):
        open_predictions(tmp_path, opened(data))


# COCO results


def test_coco_results_of_other_classes(data: Path, predicted: Path, tmp_path: Path) -> None:
    """A category that is no class is an error; a class without a category is told."""
    root = folder_tree(tmp_path / "data", val=3)
    (root / "classes.txt").write_text("background\nred\nlime\n")
    with pytest.raises(DataError, match=r"results\.json: 1 categories are no classes of the data set:\n  'green'"):
        open_predictions(predicted / "results.json", opened(root))
    (root / "classes.txt").write_text("background\nred\ngreen\nsky\n")
    found = open_predictions(predicted / "results.json", opened(root))
    assert found.notes == (f"1 classes have no category in {predicted / 'results_images.json'}: sky",)


def test_coco_results_without_background(data: Path, bank: Path, predicted: Path, tmp_path: Path) -> None:
    """Where the data set has no background, what no entry covers is void, and wrong."""
    root = folder_tree(tmp_path / "data", val=3)
    (root / "classes.txt").write_text("ground\nred\ngreen\n")
    dataset = opened(root)
    report = evaluate_predictions(open_predictions(predicted / "results.json", dataset), dataset)
    ours = np.array(evaluate(Segmenter(bank), opened(data)).confusion)
    counts = np.array(report.confusion)
    np.testing.assert_array_equal(counts[:, 3], ours[:, 0])
    np.testing.assert_array_equal(counts[:, 1:3], ours[:, 1:])
    assert not counts[:, 0].any()


# Mistakes on the command line


def test_neither_and_both(run: Run, data: Path) -> None:
    code, _, err = run("evaluate", "--data.root", data)
    assert code == 2
    assert "neither bank nor predictions is given; give one of them" in err
    code, _, err = run("evaluate", "--data.root", data, "--bank", "b", "--predictions", "p")
    assert code == 2
    assert "bank is 'b' and predictions 'p'; give one of them" in err


def test_input_size_of_predictions(data: Path, tmp_path: Path) -> None:
    dataset = opened(data)
    found = open_predictions(mask_folder(tmp_path / "p"), dataset)
    with pytest.raises(FungiSegError, match=r"metric\.mask_size is 'input'.*compare at metric\.mask_size own"):
        evaluate_predictions(found, dataset, MetricConfig(mask_size="input"))


@pytest.mark.parametrize(
    ("options", "messages", "expected"),
    [
        (["--coco.file={folder}/note/r.json"], ["coco.file is", "can't be written"], 1),
        (["--coco.file={folder}/r.json", "--coco.like=gone.json"], ["gone.json: can't be read"], 1),
        (
            ["--coco.file={folder}/r.json", "--coco.like={folder}/like.json"],
            ["has no category for 1 of the 2 classes", "'green'"],
            1,
        ),
        (["--coco.min_area=5"], ["coco.file is empty"], 2),
        (["--coco.fil=r.json"], ["unknown option --coco.fil", "did you mean '--coco.file'"], 2),
    ],
)
def test_faults_are_told_before_the_first_image(
    run: Run,
    bank: Path,
    data: Path,
    tmp_path: Path,
    options: list[str],
    messages: list[str],
    expected: int,
) -> None:
    (tmp_path / "note").write_text("mine")
    images = [{"id": i, "file_name": f"val_{i}.png", "height": 48, "width": 64} for i in range(3)]
    known = {"images": images, "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "like.json").write_text(json.dumps(known))
    before = contents(tmp_path)
    given = [option.format(folder=tmp_path) for option in options]
    code, _, err = run("segment", data / "val" / "images", "--bank", bank, "--out", tmp_path / "out", *given)
    assert code == expected
    assert all(message in err for message in messages)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("fault", [DataError("no such thing"), KeyboardInterrupt(), OSError("disk")])
def test_a_segment_that_fails_leaves_no_results(
    run: Run,
    bank: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
) -> None:
    """What was there before stays."""
    (tmp_path / "r.json").write_text("mine")
    predict = Segmenter.predict_fitted

    def failing(self: Segmenter, fitted: Any, images: Any, names: Any = None, **rest: Any) -> Any:
        if any(Path(name).name == "val_2.png" for name in names):
            raise fault
        return predict(self, fitted, images, names, **rest)

    monkeypatch.setattr(Segmenter, "predict_fitted", failing)
    options = ["--bank", bank, "--out", tmp_path / "out", "--coco.file", tmp_path / "r.json", "--load.batch_size", 1]
    assert run("segment", data / "val" / "images", *options)[0] in (1, 130)
    assert (tmp_path / "out" / "masks" / "val_1.png").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "r.json"}
    assert (tmp_path / "r.json").read_text() == "mine"


def test_images_that_segment_passes_over(
    run: Run,
    bank: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    """They aren't among the images of the results, so that evaluate misses them."""
    folder = folder_tree(tmp_path / "data", val=3) / "val" / "images"
    (folder / "val_1.png").write_bytes(b"nothing")
    options = ["--bank", bank, "--out", tmp_path / "out", "--coco.file", tmp_path / "r.json", "--skip-bad"]
    assert run("segment", folder, *options)[0] == 0
    known = json.loads((tmp_path / "r_images.json").read_text())
    assert [(image["id"], image["file_name"]) for image in known["images"]] == [(1, "val_0.png"), (3, "val_2.png")]
    with pytest.raises(DataError, match=r"1 of 3 images have no prediction:\n  val_1"):
        evaluate_predictions(open_predictions(tmp_path / "r.json", opened(data)), opened(data))


# Real images


@pytest.mark.data
@pytest.mark.slow
def test_coco_from_bank_to_results_and_back(run: Run, real_data: Path, tmp_path: Path) -> None:
    """Masks and results, with ids of COCO's own, give the figures of the bank, and load in pycocotools."""
    root, truth = real_data / "coco", real_data / "coco" / "annotations" / "instances_val2017.json"
    given, file = ["--data.layout", "coco", "--data.root", root], tmp_path / "results.json"
    options = ["--backbone.name", "embedded", "--input.size", 256, "--bank.size", 20000, "--out", tmp_path / "bank"]
    assert run("build", *given, "--data.split", "train2017", *options)[0] == 0
    options = ["--out", tmp_path / "out", "--overlays.style=none", "--coco.file", file, "--coco.like", truth]
    assert run("segment", root / "val2017", "--bank", tmp_path / "bank", *options)[0] == 0
    loaded = COCO(str(truth)).loadRes(str(file))
    measured = COCOeval(COCO(str(truth)), loaded, "segm")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    assert len(loaded.anns) > 50
    assert len(json.loads((tmp_path / "results_images.json").read_text())["images"]) == 20
    split = [*given, "--data.split", "val2017"]
    reports = [figures(run, root, tmp_path, *split, "--bank", tmp_path / "bank")]
    reports += [figures(run, root, tmp_path, *split, "--predictions", path) for path in (tmp_path / "out", file)]
    (tmp_path / "results_images.json").unlink()  # the data set's own JSON has the ids, too
    reports += [figures(run, root, tmp_path, *split, "--predictions", file)]
    assert reports[0]["miou"] > 0
    assert [report["miou"] for report in reports] == pytest.approx([reports[0]["miou"]] * 4, abs=1e-12)
    assert all(report["confusion"] == reports[0]["confusion"] for report in reports)
