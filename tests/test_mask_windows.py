"""Masks by windows, so that they may be too large to be read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_mask_files import ROTATED, a_mask, info_of, written
from tifffile import imwrite

from fungi_seg import DataConfig, Dataset, open_dataset
from fungi_seg.errors import DataError
from fungi_seg.images import read_mask, read_mask_part
from fungi_seg.rasters import GeoReference, Window, limits as raster_limits

SIZE = (1300, 1101)
WINDOWS = (Window(0, 0, 1300, 1101), Window(500, 700, 40, 400), Window(1299, 1100, 1, 1))


def data(root: Path, mask: np.ndarray, suffix: str, **options: Any) -> Dataset:
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("background\na\nb\n")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "images" / "x.png")
    if suffix == ".tif":
        imwrite(root / "masks" / "x.tif", mask, **options)
    else:
        Image.fromarray(mask).save(root / "masks" / f"x{suffix}")
    return open_dataset(DataConfig("folder", str(root)))


def cut(whole: np.ndarray, window: Window) -> np.ndarray:
    return whole[window.top : window.top + window.height, window.left : window.left + window.width]


@pytest.mark.parametrize("kind", ["geotiff", "ome-tiff", "tiff"])
def test_of_masks_that_were_written(tmp_path: Path, kind: str) -> None:
    mask = a_mask()
    path = written(tmp_path, mask, info_of(kind, geo=GeoReference("EPSG:32633", ROTATED)))
    np.testing.assert_array_equal(read_mask(path), mask)
    for window in WINDOWS:
        part, size = read_mask_part(path, window)
        assert size == SIZE
        np.testing.assert_array_equal(part, cut(mask, window))


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".tif", {}), (".tif", {"tile": (64, 64)})])
def test_of_a_data_set(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    found = data(tmp_path, a_mask(), suffix, **options)
    whole = found[0].mask
    assert found.size_of(0) == SIZE
    for window in WINDOWS:
        part = found.mask_window(0, window)
        assert part.dtype == whole.dtype
        np.testing.assert_array_equal(part, cut(whole, window))


def test_of_a_mask_that_is_too_large_to_be_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = data(tmp_path, a_mask(), ".tif", tile=(64, 64))
    monkeypatch.setattr(raster_limits, "MOST_PIXELS", 10_000)
    with pytest.raises(DataError, match="pixels"):
        read_mask(tmp_path / "masks" / "x.tif")
    assert found.mask_window(0, Window(600, 600, 9, 9), SIZE).shape == (9, 9)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("window", [Window(0, 0, 10, 10), Window(1295, 1090, 5, 5)])
def test_of_another_size_than_the_image(tmp_path: Path, suffix: str, window: Window) -> None:
    found = data(tmp_path, a_mask((1200, 1000)), suffix)
    with pytest.raises(DataError, match=r"the mask is 1200×1000 .* its image x.png 1300×1101; both must have the same"):
        found.mask_window(0, window)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full(SIZE, 9, np.uint8), "class ids outside the 3 known classes: 9"),
        (np.zeros(SIZE, np.float32), "the mask holds float32 values"),
        (np.zeros((*SIZE, 3), np.uint8), "an index mask is expected"),
        (np.full(SIZE, 2**31, np.uint32), "the mask holds the value 2147483648; class ids must fit 32 bits"),
    ],
)
def test_of_no_mask(tmp_path: Path, values: np.ndarray, why: str) -> None:
    found = data(tmp_path, values, ".tif")
    with pytest.raises(DataError, match=rf"^{tmp_path}/masks/x.tif: .*{why}"):
        found.mask_window(0, Window(0, 0, 10, 10))


def test_of_a_damaged_mask(tmp_path: Path) -> None:
    found = data(tmp_path, a_mask(), ".tif")
    path = tmp_path / "masks" / "x.tif"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=f"^{path}: is cut off"):
        found.mask_window(0, Window(0, 0, 10, 10))


def test_of_other_readers_the_whole_is_cut(tmp_path: Path) -> None:
    """Colours are read as a whole."""
    for part in ("JPEGImages", "SegmentationClass"):
        (tmp_path / part).mkdir()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "JPEGImages" / "x.png")
    colours = np.zeros((30, 40, 3), np.uint8)
    colours[3:9, 5:30] = (200, 0, 0)
    Image.fromarray(colours).save(tmp_path / "SegmentationClass" / "x.png")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nred:200,0,0::\n")
    found = open_dataset(DataConfig("voc", str(tmp_path), merge=("all=background,red",)))
    window = Window(2, 3, 12, 20)
    np.testing.assert_array_equal(found.mask_window(0, window), cut(found[0].mask, window))
