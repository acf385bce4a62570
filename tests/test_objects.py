"""Objects of a mask: counting, measuring, and the files that hold them."""

from __future__ import annotations

import builtins
import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roifile
import shapely
import tifffile
import torch
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from fungi_seg import FungiSegError, MemoryBank, Segmenter
from fungi_seg.cli import main
from fungi_seg.errors import MissingExtra
from fungi_seg.results import ImageRecord, ObjectFiles, outlines
from fungi_seg.results.records import record_of
from fungi_seg.results.tables import write_tables
from fungi_seg.segmentation import (
    Calibration,
    ObjectConfig,
    Objects,
    OverlayConfig,
    Segmentation,
    object_labels,
    objects_of,
)
from fungi_seg.segmentation.objects import DEEPER, SMOOTHED

CLASSES = ("background", "nucleus", "debris")
CALIBRATION = Calibration((0.0, 1.0), (0.3, 0.9), -1.0, "none", {}, 9)


def discs() -> np.ndarray:
    """Two discs that touch, one with a hole, two pixels that touch at a corner, and one of another class."""
    mask = np.zeros((120, 160), np.uint8)
    for centre, radius in (((40, 40), 15), ((66, 40), 15), ((120, 90), 20)):
        cv2.circle(mask, centre, radius, 1, -1)
    mask[88:92, 118:122] = 0
    mask[5, 5] = mask[6, 6] = 1
    mask[100:110, 10:14] = 2
    mask[0, :4] = 255
    return mask


def segmentation(mask: np.ndarray) -> Segmentation:
    palette = np.array([[0, 0, 0], [230, 120, 0], [0, 110, 180]], np.uint8)
    image = np.zeros((*mask.shape, 3), np.uint8)
    return Segmentation(mask, torch.full((3, 4, 4), 1 / 3), (4.0, 4.0), CLASSES, palette, image)


def by_flooding(region: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    """Connected regions (8 neighbours) as sets of pixels."""
    rest, found = set(zip(*np.nonzero(region), strict=True)), set()
    while rest:
        grown, edge = set(), {rest.pop()}
        while edge:
            y, x = edge.pop()
            grown.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & rest
            rest -= near
            edge |= near
        found.add(frozenset(grown))
    return found


def pixels_of(objects: Objects, number: int) -> frozenset[tuple[int, int]]:
    return frozenset(zip(*np.nonzero(objects.labels == number), strict=True))


def test_objects_are_the_connected_regions_of_each_class() -> None:
    mask = np.random.default_rng(0).integers(0, 3, (30, 40)).astype(np.uint8)
    objects = objects_of(mask, CLASSES)
    for index in (1, 2):
        found = {pixels_of(objects, one.number) for one in objects.found if one.class_index == index}
        assert found == by_flooding(mask == index)
    assert [one.number for one in objects.found] == list(range(1, len(objects.found) + 1))
    assert (objects.labels[mask == 0] == 0).all()


def test_measures_are_those_of_the_pixels() -> None:
    mask = discs()
    sure = np.random.default_rng(0).random(mask.shape).astype(np.float32)
    for one in objects_of(mask, CLASSES, None, sure).found:
        y, x = np.nonzero(objects_of(mask, CLASSES).labels == one.number)
        assert one.area == len(x)
        assert one.centroid == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))
        assert one.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert one.equivalent_diameter == pytest.approx(2 * np.sqrt(len(x) / np.pi))
        assert one.confidence == pytest.approx(sure[y, x].mean(), abs=1e-5)
        small, large = np.linalg.eigvalsh(np.cov(np.stack([x, y]), bias=True))
        assert one.eccentricity == pytest.approx(np.sqrt(1 - small / large), abs=1e-6)


def test_holes_small_ones_and_classes() -> None:
    mask = discs()
    areas = [one.area for one in objects_of(mask, CLASSES, ObjectConfig(min_area=3)).found]
    assert areas == [1379, 1241, 40]
    filled = objects_of(mask, CLASSES, ObjectConfig(min_area=3, fill_holes=True)).found
    assert [one.area for one in filled] == [1379, 1241 + 16, 40]
    assert len(objects_of(mask, CLASSES, ObjectConfig(classes=("debris",))).found) == 1
    mask[89:91, 119:121] = 2
    kept = objects_of(mask, CLASSES, ObjectConfig(min_area=3, fill_holes=True)).found
    assert [one.area for one in kept] == [1379, 1241 + 12, 4, 40]  # what is another object isn't filled


def test_touching_objects_are_parted_where_they_are_narrow() -> None:
    mask = discs()
    whole = objects_of(mask, CLASSES, ObjectConfig(fill_holes=True))
    parted = objects_of(mask, CLASSES, ObjectConfig(fill_holes=True, split=True))
    assert len(parted.found) == len(whole.found) + 1
    assert ((whole.labels > 0) == (parted.labels > 0)).all()  # no pixel is lost
    middle = parted.labels[40, [40, 66]]
    assert middle[0] != middle[1]
    assert parted.labels[40, 30] == middle[0]
    assert parted.labels[40, 76] == middle[1]


def test_outlines_hold_the_same_pixels() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        size, objects = generator.integers(1, 14, 2), generator.integers(1, 4)
        labels = generator.integers(0, objects + 1, size) * (generator.random(size) < generator.uniform(0.3, 1))
        found = outlines(labels.astype(np.int32))
        assert sorted(found) == [number for number in np.unique(labels) if number]
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        for number, polygons in found.items():
            for outer, *holes in polygons:
                shape = shapely.Polygon(outer, holes)
                assert shape.is_valid
                assert shapely.is_ccw(shapely.LinearRing(outer))  # y downwards: seen so, it runs clockwise
                assert not any(shapely.is_ccw(shapely.LinearRing(hole)) for hole in holes)
            shape = shapely.MultiPolygon([shapely.Polygon(outer, holes) for outer, *holes in polygons])
            held = shapely.contains_xy(shape, x.ravel(), y.ravel()).reshape(labels.shape)
            np.testing.assert_array_equal(held, labels == number)
            assert shape.area == held.sum()
    assert outlines(np.zeros((3, 4), np.int32)) == {}


def test_all_files_hold_the_same_objects(tmp_path: Path) -> None:
    mask = discs()
    result = replace(segmentation(mask), calibration=CALIBRATION, unlike=np.zeros((4, 4), bool))
    objects = result.objects()
    files = ObjectFiles(tmp_path, CLASSES, result.palette, 0.5).write("plate/a", objects)
    assert all((tmp_path / file).is_file() for file in files)
    record = record_of(result, "plate/a", Path("a.png"), "", 1.5, objects)
    assert write_tables(tmp_path, [type(record).from_json(record.to_json())], CLASSES, True, 0.5) == 4
    with tifffile.TiffFile(tmp_path / "labels" / "plate" / "a.tif") as file:
        assert file.is_imagej
        assert file.asarray().dtype == np.uint16
        np.testing.assert_array_equal(file.asarray(), objects.labels)
        assert file.pages[0].tags["XResolution"].value == (2, 1)  # pixels a micrometre
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    features = json.loads((tmp_path / "geojson" / "plate" / "a.geojson").read_text())["features"]
    regions: Any = roifile.roiread(tmp_path / "rois" / "plate" / "a.zip")
    rows = list(csv.DictReader((tmp_path / "objects.csv").open()))
    assert len(features) == len(regions) == len(rows) == len(objects.found)
    for one, feature, region, row in zip(objects.found, features, regions, rows, strict=True):
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        held = shapely.contains_xy(shape, x.ravel(), y.ravel()).reshape(mask.shape)
        np.testing.assert_array_equal(held, objects.labels == one.number)
        assert feature["properties"]["classification"]["name"] == CLASSES[one.class_index]
        rings = region.coordinates(multi=True) if region.multi_coordinates is not None else [region.coordinates()]
        drawn = shapely.Polygon()
        for ring in rings:
            drawn = drawn.symmetric_difference(shapely.Polygon(ring))
        assert drawn.symmetric_difference(shape).area == 0
        assert region.name == f"{one.number}-{CLASSES[one.class_index]}"
        assert (row["image"], int(row["id"]), int(row["area_px"])) == ("plate/a", one.number, one.area)
        assert float(row["area_um2"]) == pytest.approx(one.area / 4, rel=1e-5)
        assert float(row["centroid_x_um"]) == pytest.approx(one.centroid[0] / 2, rel=1e-5)
    image = next(csv.DictReader((tmp_path / "images.csv").open()))
    assert (image["nucleus_objects"], image["debris_objects"], image["nucleus_px"]) == (
        "3",
        "1",
        str((mask == 1).sum()),
    )
    assert (image["mean_confidence"], image["seconds"]) == (f"{result.confidence.mean():.4f}", "1.500")


def test_save_writes_what_the_command_writes(bank: MemoryBank, photo: Path, tmp_path: Path) -> None:
    assert main(["segment", str(photo), "--bank", str(bank.path), "--out", str(tmp_path / "by"), "--scores"]) == 0
    Segmenter(bank).predict(photo).save(tmp_path / "own", "photo", scores=True)
    for file in ("masks/photo.png", "overlays/photo.jpg", "scores/photo.npy"):
        assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "by" / file).read_bytes()
    found = replace(segmentation(discs()), calibration=CALIBRATION, unlike=np.zeros((4, 4), bool))
    found.save(tmp_path, "a", "tiff", overlays=OverlayConfig("none"), confidence=("png", "tiff"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "masks" / "a.tif"), found.mask)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "confidence" / "a.tiff"), found.confidence)
    assert not (tmp_path / "overlays").exists()
    with pytest.raises(FungiSegError, match=r"masks\.format is 'gif'"):
        found.save(tmp_path, "b", "gif")
    with pytest.raises(FungiSegError, match="confidence is 'gif'"):
        found.save(tmp_path, "b", confidence=("gif",))
    assert not (tmp_path / "masks" / "b.png").exists()


def test_more_objects_than_16_bits_can_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = objects_of(discs(), CLASSES).found[0]
    objects = Objects(np.arange(70_225, dtype=np.int32).reshape(265, 265), (one,) * 70_224)
    with caplog.at_level(logging.WARNING):
        ObjectFiles(tmp_path, CLASSES, segmentation(discs()).palette)._write_labels("many", objects)
    assert "70224 objects are more than 16 bits can number; written in 32 bits" in caplog.text
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels" / "many.tif"), objects.labels)


def test_tables_of_work_that_failed_leave_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "objects.csv").write_text("old")

    def records() -> Iterator[ImageRecord]:
        yield record_of(segmentation(discs()), "a", Path("a"), "", 1.0, objects_of(discs(), CLASSES))
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_tables(tmp_path, records(), CLASSES, True)
    assert (tmp_path / "objects.csv").read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FungiSegError, match=r"object\.min_area is 0; it must be a number of pixels from 1"):
        ObjectConfig(min_area=0)
    with pytest.raises(FungiSegError, match=r"object\.classes names 'nuclei', which isn't a class.*nucleus"):
        objects_of(discs(), CLASSES, ObjectConfig(classes=("nuclei",)))
    for size in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(FungiSegError, match=r"pixel_size is .*micrometres, above 0"):
            ObjectFiles(tmp_path, CLASSES, segmentation(discs()).palette, size)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("skimage", "roifile"):
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (objects_of, object_labels):
        with pytest.raises(MissingExtra, match=r"fungi-seg\[objects\]"):
            call(discs(), CLASSES, ObjectConfig(split=True))
    with pytest.raises(MissingExtra, match=r"fungi-seg\[objects\]"):
        ObjectFiles(tmp_path, CLASSES, segmentation(discs()).palette)


def test_command(bank: MemoryBank, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """COCO results hold the same objects too."""
    options = ["segment", str(photo), "--bank", str(bank.path), "--out", str(tmp_path / "out"), "--objects"]
    options += ["--object.min_area", "5", "--pixel_size", "2", "--coco.file", str(tmp_path / "coco.json")]
    assert main(options) == 0
    labels = tifffile.imread(tmp_path / "out" / "labels" / "photo.tif")
    mask = Segmenter(bank).predict(photo).mask
    expected = objects_of(mask, bank.info.classes, ObjectConfig(min_area=5))
    np.testing.assert_array_equal(labels, expected.labels)
    assert len(expected.found) > 1
    assert f"objects.csv: {len(expected.found)} objects" in capsys.readouterr().out
    entries = json.loads((tmp_path / "coco.json").read_text())
    held = [coco_mask.decode(entry["segmentation"]).astype(bool) for entry in entries]
    assert len(held) == len(expected.found)
    for region in held:
        (number,) = np.unique(labels[region])
        np.testing.assert_array_equal(region, labels == number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pixel_size", "0.5"], "add --objects"),
        (["--object.split", "true"], "add --objects"),
        (["--objects", "--pixel_size", "0"], "pixel_size is 0.0"),
        (["--objects", "--object.classes", "[cells]"], "object.classes names 'cells'"),
        (["--objects", "--coco.file", "c.json", "--coco.instances", "true"], "change nothing beside objects"),
    ],
)
def test_options_that_are_refused(
    bank: MemoryBank, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["segment", str(photo), "--bank", str(bank.path), "--out", str(tmp_path / "out"), *options]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_splitting_is_that_of_the_whole_image_at_once() -> None:
    """Each region is looked at alone, which is quicker; a watershed of the whole image gives the same objects."""
    generator = np.random.default_rng(1)
    mask = np.zeros((300, 400), np.uint8)
    for _ in range(90):
        centre, axes = generator.integers(20, 280, 2), generator.integers(4, 16, 2)
        cv2.ellipse(mask, centre.tolist(), axes.tolist(), float(generator.uniform(0, 180)), 0, 360, 1, -1)
    region = mask > 0
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1], SMOOTHED)
    middles = ndimage.label(h_maxima(distance, DEEPER), np.ones((3, 3)))[0] * region
    expected = watershed(-distance, middles, mask=region, connectivity=2)
    found = objects_of(mask, CLASSES, ObjectConfig(split=True)).labels
    assert len(np.unique(expected)) > len(np.unique(objects_of(mask, CLASSES).labels))
    pairs = {(int(a), int(b)) for a, b in zip(expected.ravel(), found.ravel(), strict=True)}
    assert len(pairs) == len(np.unique(expected)) == len(np.unique(found))
