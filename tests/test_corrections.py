"""Masks that people painted in place of predictions, in everything that is written."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage
from test_results import contents
from tifffile import imread, imwrite
from trees import photos

from fungi_seg import DataError, FungiSegError, MemoryBank, RunConfig, Segmenter
from fungi_seg.cli import main
from fungi_seg.evaluation import CocoConfig
from fungi_seg.results import ResultsConfig, find_corrections, segment_to_folder
from fungi_seg.results.records import ImageRecord
from fungi_seg.segmentation import Calibration, MaskConfig, ObjectConfig, OverlayConfig

CALIBRATION = Calibration((0.0, 1.0), (0.2, 0.7), -1.0, "isotonic", {"none": 0.1}, 1)
NAME = "sub/0"


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank) -> Segmenter:
    return Segmenter(bank, calibration=CALIBRATION)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    return photos(tmp_path, 2, "sub")


def painted(tmp_path: Path, labels: np.ndarray, name: str = NAME) -> Path:
    path = tmp_path / "painted" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def strokes() -> np.ndarray:
    """A square of class 2, a stroke of class 0, and the rest not painted."""
    labels = np.full((48, 64), 255, np.uint8)
    labels[4:20, 30:50] = 2
    labels[40:43] = 0
    return labels


def expected_mask(segmenter: Segmenter, image: Path, labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 255, segmenter.predict(image).mask, labels)


def test_everything_written_follows_corrections(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    labels, out, coco = strokes(), tmp_path / "out", tmp_path / "coco.json"
    config = ResultsConfig(
        MaskConfig("tiff"),
        OverlayConfig("fill", 1.0, lossless=True),
        scores=True,
        confidence=("tiff",),
        objects=ObjectConfig(classes=("green",)),
        coco=CocoConfig(str(coco)),
    )
    segment_to_folder(segmenter, images, out, config, corrections={NAME: painted(tmp_path, labels)})
    plain = tmp_path / "plain"
    segment_to_folder(segmenter, images, plain, ResultsConfig(confidence=("tiff",), scores=True))
    mask, by_hand = expected_mask(segmenter, images[NAME], labels), labels != 255

    assert imread(out / "masks" / "sub" / "0.tif").tolist() == mask.tolist()
    assert imread(out / "masks" / "sub" / "1.tif").tolist() == segmenter.predict(images["sub/1"]).mask.tolist()
    shown = np.asarray(Image.open(out / "overlays" / "sub" / "0.png"))
    assert (shown[mask == 2] == segmenter.palette[2]).all()
    sure = imread(plain / "confidence" / "sub" / "0.tiff")
    corrected = np.where(by_hand, np.float32(1), sure)
    assert imread(out / "confidence" / "sub" / "0.tiff").tolist() == corrected.tolist()
    assert (sure[by_hand] < 0.9).all()
    scores = [np.load(folder / "scores" / "sub" / "0.npy") for folder in (plain, out)]
    assert (scores[0] == scores[1]).all()

    first, second = (ImageRecord.from_json(line) for line in (out / "run.jsonl").read_text().splitlines()[1:])
    assert dict(first.pixels) == Counter(mask.ravel().tolist())
    assert first.sure == pytest.approx(corrected.mean(), abs=1e-6)
    assert sum(first.histogram[-1:]) == (corrected >= 0.95).sum()
    assert first.note == f"{100 * by_hand.mean():.1f} % of its pixels corrected by hand"
    assert (second.note, second.correction) == ("", "")
    rows = list(csv.DictReader((out / "images.csv").open()))
    assert int(rows[0]["green_px"]) == (mask == 2).sum()

    regions, count = ndimage.label(mask == 2, np.ones((3, 3)))
    objects = [row for row in csv.DictReader((out / "objects.csv").open()) if row["image"] == NAME]
    means = ndimage.mean(corrected, regions, range(1, count + 1))
    assert sorted(float(row["mean_confidence"]) for row in objects) == pytest.approx(sorted(means), abs=1e-4)
    assert (imread(out / "labels" / "sub" / "0.tif") > 0).tolist() == (mask == 2).tolist()
    entries = [entry for entry in json.loads(coco.read_text()) if entry["image_id"] == 1]
    drawn = sum(coco_mask.decode(entry["segmentation"]) for entry in entries)
    assert (drawn > 0).tolist() == (mask == 2).tolist()
    inside = regions[10, 40]  # the square, of which other pixels may have been found
    raised = np.where(by_hand, 1, segmenter.predict(images[NAME]).scores[2])[regions == inside].mean()
    of_square = next(e for e in entries if coco_mask.decode(e["segmentation"])[10, 40])
    assert of_square["score"] == pytest.approx(raised, abs=0.02)  # COCO's scores don't follow edges


def test_the_mean_of_scores_follows_corrections(bank: MemoryBank, images: dict[str, Path], tmp_path: Path) -> None:
    """Of a bank that wasn't fitted."""
    labels, found = strokes(), Segmenter(bank).predict(images[NAME])
    segment_to_folder(Segmenter(bank), images, tmp_path / "out", corrections={NAME: painted(tmp_path, labels)})
    record = ImageRecord.from_json((tmp_path / "out" / "run.jsonl").read_text().splitlines()[1])
    assert not record.calibrated
    assert record.sure == pytest.approx(np.where(labels != 255, 1, found.scores.max(0)).mean(), abs=1e-4)


def test_corrected_pixels_are_never_unknown(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    labels, config = strokes(), ResultsConfig(unknown=0.99)
    segment_to_folder(segmenter, images, tmp_path / "out", config, corrections={NAME: painted(tmp_path, labels)})
    assert np.asarray(Image.open(tmp_path / "out" / "masks" / "sub" / "0.png")).tolist() == labels.tolist()
    again = segmenter.predict(images[NAME]).corrected(np.where(labels == 255, -1, labels.astype(int)))
    assert again.with_unknown(0.99).mask.tolist() == labels.tolist()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_void_of_8_and_of_16_bits(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, kind: type[np.generic]
) -> None:
    labels = strokes()
    written = np.where(labels == 255, np.iinfo(kind).max, labels).astype(kind)
    path = painted(tmp_path, written).with_suffix(".tif")
    imwrite(path, written)
    segment_to_folder(segmenter, images, tmp_path / "out", corrections={NAME: path})
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "sub" / "0.png"))
    assert mask.tolist() == expected_mask(segmenter, images[NAME], labels).tolist()


def test_a_second_run_knows_what_was_corrected(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    out, path = tmp_path / "out", painted(tmp_path, strokes())
    first = {NAME: images[NAME]}
    segment_to_folder(segmenter, first, out, corrections={NAME: path})
    assert segment_to_folder(segmenter, images, out, corrections={NAME: path}).segmented == 1
    before = contents(out, "")
    digest = r"corrected by a mask of SHA-256 [0-9a-f]{8}…"
    with pytest.raises(
        FungiSegError, match=rf"other corrections:\n  'sub/0': {digest} then, not corrected now\n--over"
    ):
        segment_to_folder(segmenter, images, out)
    other = {"sub/1": painted(tmp_path, strokes(), "sub/1"), NAME: path}
    with pytest.raises(FungiSegError, match=rf"'sub/1': not corrected then, {digest} now"):
        segment_to_folder(segmenter, images, out, corrections=other)
    Image.fromarray(np.full((48, 64), 1, np.uint8)).save(path)
    with pytest.raises(FungiSegError, match=rf"'sub/0': {digest} then, {digest} now"):
        segment_to_folder(segmenter, images, out, corrections={NAME: path})
    assert contents(out, "") == before
    segment_to_folder(segmenter, images, out, overwrite=True, corrections={NAME: path})
    assert (np.asarray(Image.open(out / "masks" / "sub" / "0.png")) == 1).all()


def test_a_stopped_run_that_overwrites_goes_on_with_other_corrections(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path
) -> None:
    out, path = tmp_path / "out", painted(tmp_path, strokes())
    segment_to_folder(segmenter, images, out)
    broken = {NAME: path, "sub/1": painted(tmp_path, strokes()[:9], "sub/1")}
    with pytest.raises(DataError, match="is 9×64"):
        segment_to_folder(segmenter, images, out, overwrite=True, corrections=broken)
    Image.fromarray(np.full((48, 64), 1, np.uint8)).save(path)
    changed = Image.open(images["sub/1"]).transpose(Image.Transpose.ROTATE_180)
    changed.save(images["sub/1"])
    segment_to_folder(segmenter, images, out, overwrite=True, corrections={NAME: path})
    segment_to_folder(segmenter, images, tmp_path / "whole", corrections={NAME: path})
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((48, 63), np.uint8), r"is 48×63 \(height×width\), but its image is 48×64; a correction has the size"),
        (
            np.full((48, 64), 3, np.uint8),
            "has 3 among its values, which is no class; .* class indices, 0 to 2, and 255",
        ),
        (np.full((48, 64), 256, np.uint16), "has 256 among its values"),
        (np.zeros((48, 64, 3), np.uint8), "the mask is a RGB image"),
    ],
)
def test_corrections_that_cannot_be_used(
    segmenter: Segmenter, images: dict[str, Path], tmp_path: Path, labels: np.ndarray, message: str
) -> None:
    path = painted(tmp_path, labels)
    with pytest.raises(DataError, match=rf"(?s){images[NAME]}: {path}: .*{message}.*--skip-bad"):
        segment_to_folder(segmenter, images, tmp_path / "out", corrections={NAME: path})
    run = RunConfig(skip_bad=True)
    found = segment_to_folder(segmenter, images, tmp_path / "skipped", run=run, corrections={NAME: path})
    assert (found.segmented, len(found.skipped)) == (1, 1)


def test_negative_values_are_no_class(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    labels = np.zeros((48, 64), int)
    labels[3, 4] = -2
    with pytest.raises(DataError, match="has -2 among its values"):
        segmenter.predict(images[NAME]).corrected(labels)


def test_a_correction_of_no_image(segmenter: Segmenter, images: dict[str, Path], tmp_path: Path) -> None:
    others = {"0": painted(tmp_path, strokes(), "0")}
    with pytest.raises(FungiSegError, match=r"1 of 1 corrections are of none of the images:\n  '0': .*painted/0\.png"):
        segment_to_folder(segmenter, images, tmp_path / "out", corrections=others)
    assert not (tmp_path / "out").exists()


def test_finding_corrections(tmp_path: Path) -> None:
    paths = [painted(tmp_path, strokes(), name) for name in (NAME, "sub/1", "other")]
    (tmp_path / "painted" / "notes.txt").write_text("mine")
    remarks: list[str] = []
    names, classes, folder = [NAME, "sub/1", "sub/2"], ("background", "red", "green"), tmp_path / "painted"
    assert find_corrections(folder, names, classes, remarks) == {NAME: paths[0], "sub/1": paths[1]}
    assert remarks == [f"{folder}: 1 masks are of none of these images, and left out:\n  other"]
    for where in (tmp_path, folder):  # lists of the same order, shorter or longer ones too, are of these classes
        for known in ("background\nred\n", "background\nred\ngreen\nblue\n"):
            (where / "classes.txt").write_text(known)
            assert len(find_corrections(str(folder), names, classes)) == 2
    (folder / "classes.txt").write_text("red\nbackground\n")
    with pytest.raises(DataError, match=r"(?s)classes\.txt: numbers.*0: masks 'red', bank 'background'.*painted with"):
        find_corrections(folder, names, classes)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("painted/other.png", "which is no folder; name the folder of the masks"),
        ("missing", "which is no folder"),
        ("empty", "holds no mask of an image to segment, .*there are none at all"),
        ("painted", r"holds no mask of an image to segment, .*there are 1 of others:\n  other"),
    ],
)
def test_folders_without_corrections(tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    painted(tmp_path, strokes(), "other")
    with pytest.raises(DataError, match=rf"(?s){folder}.*{message}"):
        find_corrections(tmp_path / folder, [NAME], ("background",))


def test_the_command_takes_corrections(
    bank: MemoryBank, images: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = strokes()
    painted(tmp_path, labels, "0")
    painted(tmp_path, labels, "other")
    out = tmp_path / "out"
    given = ["--corrections", str(tmp_path / "painted"), "--out", str(out)]
    assert main(["segment", str(images[NAME].parent), "--bank", str(bank.path), *given]) == 0
    assert "1 masks are of none of these images" in capsys.readouterr().err
    mask = np.asarray(Image.open(out / "masks" / "0.png"))
    assert mask.tolist() == expected_mask(Segmenter(bank), images[NAME], labels).tolist()
