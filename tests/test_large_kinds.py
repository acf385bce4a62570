"""Large rasters: masks of their own kind and polygons, as in memory; banks of polygons over them."""

# ruff: noqa: F811 (fixtures that are imported)

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.features import rasterize
from shapely.geometry import box
from test_geo import NORTH_UP, frame
from test_large import DECODERS, INPUT, mosaic, quiet, scaled, segmenter_of, small_limits  # noqa: F401
from test_own_kind import recorded

from fungi_seg import Backbone, BankConfig, BankRecipe, DataConfig, DataError, MemoryBank, build_bank, open_dataset
from fungi_seg.errors import FungiSegError
from fungi_seg.rasters import GeoReference, RasterInfo, Window, write_mask
from fungi_seg.results import ResultsConfig, segment_to_folder
from fungi_seg.segmentation import MaskConfig

SIZE = (213, 331)


def geotiff(path: Path, empty: bool = False) -> Path:
    """A mosaic on the earth; if `empty`, a part of it holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = np.moveaxis(mosaic(*SIZE), -1, 0).clip(1, 255)
    if empty:
        bands[:, 100:, 200:] = 0
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(*NORTH_UP)}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": 0 if empty else None}
    with rasterio.open(
        path, "w", "GTiff", SIZE[1], SIZE[0], 3, dtype="uint8", photometric="RGB", **place, **tiles
    ) as f:
        f.write(bands)
    return path


def written(path: Path, bank: MemoryBank, backbone: Backbone, out: Path, **config: Any) -> Path:
    segment_to_folder(segmenter_of(bank, backbone, DECODERS["vote"]), {"x": path}, out, ResultsConfig(**config))
    return out


def in_memory(path: Path, bank: MemoryBank, backbone: Backbone, out: Path, **config: Any) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fungi_seg.images.views.LARGE_PIXELS", 10**9)
        return written(path, bank, backbone, out, **config)


def test_geotiff(scaled: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, small_limits: None) -> None:
    path, asked = geotiff(tmp_path / "x.tif", empty=True), ("gpkg", "geojson")
    found = written(path, scaled, tiny_backbone, tmp_path / "large", polygons=asked)
    whole = in_memory(path, scaled, tiny_backbone, tmp_path / "whole", polygons=asked)
    masks = []
    for folder in (found, whole):
        with rasterio.open(folder / "masks" / "x.tif") as opened:
            masks.append(opened.read(1))
            assert (opened.crs.to_epsg(), opened.transform) == (32633, rasterio.Affine(*NORTH_UP))
        assert {"masks/x.tif", "masks/x.tif.aux.xml", "polygons/x.gpkg", "polygons/x.geojson"} <= set(recorded(folder))
    assert (masks[0] == masks[1]).mean() >= 0.9999
    assert (masks[0][100:, 200:] == 255).all()
    assert (masks[0][:100] < 255).all()
    for suffix in asked:
        polygons = geopandas.read_file(found / "polygons" / f"x.{suffix}")
        drawn = zip(polygons.geometry, polygons.class_id, strict=True)
        again = rasterize(drawn, SIZE, fill=255, transform=rasterio.Affine(*NORTH_UP), dtype="uint8")
        np.testing.assert_array_equal(again, masks[0])


def test_ome_tiff(scaled: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, small_limits: None) -> None:
    """The same bytes in each run."""
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, mosaic(*SIZE), photometric="rgb", tile=(64, 64), metadata={"axes": "YXS"})
    files = [written(path, scaled, tiny_backbone, tmp_path / name) / "masks" / "x.tif" for name in ("one", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert tifffile.imread(files[0]).shape == SIZE


def test_zarr(scaled: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, small_limits: None) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=mosaic(*SIZE)[..., 0], chunks=(64, 64))
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    scale = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [scale]}]}
    out = written(tmp_path / "x.zarr", scaled, tiny_backbone, tmp_path / "out")
    assert zarr.open_group(out / "masks" / "x.zarr", mode="r")["0"].shape == SIZE
    assert "masks/x.zarr/zarr.json" in recorded(out)


def test_what_is_refused(
    scaled: MemoryBank,
    tiny_backbone: Backbone,
    tmp_path: Path,
    small_limits: None,
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, mosaic(*SIZE), photometric="rgb")
    with pytest.raises(FungiSegError, match=r"of which --masks.format png \(auto is made\) can't be made"):
        written(path, scaled, tiny_backbone, tmp_path / "out", masks=MaskConfig("png"))
    with pytest.raises(DataError, match=r"x\.tif: the image has no place on the earth, which a GeoPackage is for"):
        written(path, scaled, tiny_backbone, tmp_path / "out", polygons=("gpkg",))


@pytest.mark.parametrize("layout", ["geo", "folder"])
def test_banks_of_large_rasters(
    tiny_backbone: Backbone,
    tmp_path: Path,
    small_limits: None,
    layout: str,
) -> None:
    """Of polygons, and of masks in COGs, that are read window by window: the same rows from both."""
    root = tmp_path / "data"
    labelled = [("field", box(20, 30, 190, 150)), ("house", box(60, 60, 120, 100))]
    images = root / "images" if layout == "folder" else root
    geotiff(images / "x.tif")
    frame(labelled).to_file((tmp_path if layout == "folder" else root) / "x.gpkg")
    if layout == "folder":
        (root / "masks").mkdir()
        (root / "classes.txt").write_text("field\nhouse\n")
        mask = rasterize([(box(20, 30, 190, 150), 0), (box(60, 60, 120, 100), 1)], SIZE, fill=255, dtype="uint8")
        info = RasterInfo("geotiff", SIZE, ("1",), "uint8", (SIZE,), geo=GeoReference("EPSG:32633", NORTH_UP))

        def read(window: Window) -> np.ndarray:
            return mask[window.top : window.top + window.height, window.left : window.left + window.width]

        write_mask(root / "masks" / "x.tif", read, SIZE, "uint8", info, ("field", "house"), np.ones((2, 3), int), 255)
    data = open_dataset(DataConfig(layout, str(root)))
    bank = build_bank(data, tiny_backbone, tmp_path / "bank", BankRecipe(input=INPUT, bank=BankConfig(None)))
    assert bank.info.classes == ("field", "house")
    boxes, labels = np.asarray(bank.rows.box).astype(int), bank.rows.labels.take(np.arange(len(bank)))
    weights = np.zeros((len(bank), 2))
    owner, entries = labels.entries(np.arange(len(bank)))
    weights[owner, labels.ids[entries]] = labels.weights[entries] / 255
    mask = data[0].mask
    assert len(bank) == sum((mask[y : y + 8, x : x + 8] >= 0).any() for y in range(0, 213, 8) for x in range(0, 331, 8))
    for (left, top, right, bottom), found in zip(boxes, weights, strict=True):
        there = mask[top:bottom, left:right]
        counts = np.bincount(there[there >= 0], minlength=2)
        np.testing.assert_allclose(found, counts / counts.sum(), atol=0.05)
