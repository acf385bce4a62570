"""Windows of OME-Zarr, GeoTIFFs, whole slides and pictures, against the arrays and libraries that they come from."""

from __future__ import annotations

import builtins
import json
import logging
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasters import all_of, checked
from tifffile import TiffFile, TiffWriter, imwrite

from fungi_seg import DataError
from fungi_seg.errors import MissingExtra
from fungi_seg.images import read_image
from fungi_seg.rasters import Window, is_raster, open_raster, plane_of, planes_of

GENERATOR = np.random.default_rng(6)
STACK = GENERATOR.integers(1, 60_000, (2, 3, 4, 45, 52)).astype(np.uint16)  # t, z, c, y, x
RGB = GENERATOR.integers(0, 256, (150, 190, 3)).astype(np.uint8)
KINDS_OF_AXES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if a package weren't installed."""
    original = builtins.__import__

    def refused(module: str, *more: Any) -> Any:
        if module.split(".")[0] == name:
            raise ImportError(f"No module named {name!r}", name=name)
        return original(module, *more)

    for module in [one for one in sys.modules if one.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refused)


@pytest.fixture
def zarr() -> Any:
    return pytest.importorskip("zarr")


def write_zarr(
    path: Path, values: np.ndarray, axes: str, version: str = "0.4", told: dict[str, Any] | None = None, **array: Any
) -> Path:
    """An OME-Zarr image, its array `0`, and a copy `1` of every second pixel."""
    import zarr

    form = 2 if version == "0.4" else 3
    group = zarr.open_group(path, mode="w", zarr_format=form)
    half = values[tuple(slice(None, None, 2 if axis in "yx" else 1) for axis in axes)]
    for name, level in (("0", values), ("1", half)):
        chunks = tuple(min(n, 16) if axis in "yx" else 1 for axis, n in zip(axes, level.shape, strict=True))
        made = group.create_array(name, shape=level.shape, dtype=level.dtype, chunks=chunks, **array)
        made[...] = level
    scales = [[1.0 if axis not in "yx" else 0.5 * factor for axis in axes] for factor in (1, 2)]
    image = {
        "axes": [
            {"name": axis, "type": KINDS_OF_AXES[axis], **({"unit": "micrometer"} if axis in "zyx" else {})}
            for axis in axes
        ],
        "datasets": [
            {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            for n, scale in enumerate(scales)
        ],
    }
    if version == "0.4":
        group.attrs.update({"multiscales": [image | {"version": "0.4"}], **(told or {})})
    else:
        group.attrs.update({"ome": {"version": version, "multiscales": [image], **(told or {})}})
    return path


NAMES = {"omero": {"channels": [{"label": name, "color": "FFFFFF"} for name in ("DAPI", "GFP", "RFP", "Cy5")]}}


@pytest.mark.parametrize(("version", "axes"), [("0.4", "tzcyx"), ("0.4", "cztyx"), ("0.5", "tczyx")])
def test_planes_of_ome_zarr(tmp_path: Path, zarr: Any, version: str, axes: str) -> None:
    values = STACK.transpose(["tzcyx".index(axis) for axis in axes])
    path = write_zarr(tmp_path / "cells.zarr", values, axes, version, NAMES)
    found = planes_of(path)
    assert len(found) == 6
    assert list(plane_of(found[0])) == [axis for axis in axes if axis in "tz"]
    assert is_raster(path)
    for one in found:
        at = plane_of(one)
        info = checked(one, np.moveaxis(STACK[at["t"], at["z"]], 0, -1), count=2)
        checked(one, np.moveaxis(STACK[at["t"], at["z"], :, ::2, ::2], 0, -1), 1, count=2)
    assert (info.kind, info.channels, info.dtype) == ("zarr", ("DAPI", "GFP", "RFP", "Cy5"), "uint16")
    assert (info.size, info.levels, info.pixel_size, info.unit) == ((45, 52), ((45, 52), (23, 26)), 0.5, "µm")
    projected = planes_of(path, "max")
    assert len(projected) == 2
    for number, one in enumerate(projected):
        checked(one, np.moveaxis(STACK[number].max(0), 0, -1), projection="max", count=1)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_that_ome_zarr_writes(tmp_path: Path, zarr: Any, version: str) -> None:
    writer, form = pytest.importorskip("ome_zarr.writer"), pytest.importorskip("ome_zarr.format")
    chosen = form.FormatV04() if version == "0.4" else form.FormatV05()
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=chosen.zarr_format)
    writer.write_image(STACK[0, 0], group, axes="cyx", fmt=chosen)
    assert len(checked(tmp_path / "a.zarr", np.moveaxis(STACK[0, 0], 0, -1)).levels) > 1


def test_colours_of_ome_zarr(tmp_path: Path, zarr: Any) -> None:
    told = {
        "omero": {
            "channels": [{"label": n, "color": c} for n, c in (("r", "FF0000"), ("g", "00FF00"), ("b", "0000FF"))]
        }
    }
    path = write_zarr(tmp_path / "a.zarr", np.moveaxis(RGB, -1, 0), "cyx", told=told)
    assert checked(path, RGB).colours
    np.testing.assert_array_equal(read_image(path), RGB)
    path = write_zarr(tmp_path / "b.zarr", RGB[..., 0], "yx")
    assert checked(path, RGB[..., :1]).channels == ("1",)


def test_missing_chunks(tmp_path: Path, zarr: Any) -> None:
    """A chunk that isn't there is full of the fill value; without such a value, or without any chunk, it's an error."""
    values = STACK[0, 0, 0].copy()
    values[:16, :16] = 0
    path = write_zarr(tmp_path / "a.zarr", values, "yx", fill_value=0)
    assert not (path / "0" / "0.0").exists()
    checked(path, values[..., None])
    described = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(described | {"fill_value": None}))
    with pytest.raises(DataError, match=r"a\.zarr: 1 of the 12 chunks of 0 aren't there, and no fill value tells"):
        open_raster(path)
    path = write_zarr(tmp_path / "b.zarr", STACK[0, 0, 0], "yx", "0.5")
    shutil.rmtree(path / "0" / "c")
    with pytest.raises(DataError, match=r"b\.zarr: none of the chunks of 0 is there; copy it again"):
        open_raster(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_damaged_chunks(tmp_path: Path, zarr: Any, version: str) -> None:
    path = write_zarr(tmp_path / "a.zarr", STACK[0, 0, 0], "yx", version)
    chunk = path / "0" / ("1.1" if version == "0.4" else "c/1/1")
    chunk.write_bytes(chunk.read_bytes()[:20])
    with open_raster(path) as raster:
        raster.read(Window(0, 0, 16, 16))
        with pytest.raises(
            DataError, match=r"a\.zarr: (can't be read as an image|chunk 0.1\.1 is cut off: 20 bytes of)"
        ):
            raster.read(Window(16, 16, 4, 4))


def test_folders_that_are_no_image(tmp_path: Path, zarr: Any) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    with pytest.raises(DataError, match=r"a\.zarr: is no OME-Zarr image.*convert it to OME-Zarr"):
        open_raster(tmp_path / "a.zarr")
    write_zarr(tmp_path / "a.zarr" / "0", STACK[0, 0, 0], "yx")
    with pytest.raises(DataError, match=r"no multiscales are described in it; name one in it, as .*a\.zarr/0"):
        planes_of(tmp_path / "a.zarr")
    checked(tmp_path / "a.zarr" / "0", STACK[0, 0, 0][..., None])
    group.attrs.update({"plate": {}})
    with pytest.raises(DataError, match="it is a plate: name the image of a field, as the folder row/column/field"):
        open_raster(tmp_path / "a.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match=r"empty\.zarr: is no OME-Zarr image"):
        open_raster(tmp_path / "empty.zarr")
    path = write_zarr(tmp_path / "new.zarr", STACK[0, 0, 0], "yx", "0.9")
    with pytest.raises(DataError, match=r"new\.zarr: is OME-Zarr of version 0\.9; 0\.1, .*0\.5 are read"):
        open_raster(path)


def test_threads_read_zarr(tmp_path: Path, zarr: Any) -> None:
    path = write_zarr(tmp_path / "a.zarr", STACK[0, 0], "cyx", "0.5")
    windows = [Window(top, left, 9, 11) for top in range(0, 36, 9) for left in range(0, 40, 10)]
    with open_raster(path) as raster, ThreadPoolExecutor(8) as pool:
        for window, values in zip(windows, pool.map(raster.read, windows), strict=True):
            place = (slice(window.top, window.top + 9), slice(window.left, window.left + 11))
            np.testing.assert_array_equal(values, np.moveaxis(STACK[0, 0], 0, -1)[place])


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("zarr", "zarr", lambda folder: write_zarr(folder / "a.zarr", STACK[0, 0, 0], "yx")),
        ("tiffslide", "slides", lambda folder: write_svs(folder / "a.svs")),
    ],
)
def test_extras_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, make: Callable[[Path], Path]
) -> None:
    pytest.importorskip(package)
    path = make(tmp_path)
    without(monkeypatch, package)
    with pytest.raises(MissingExtra, match=rf'pip install "fungi-seg\[{extra}\]"'):
        open_raster(path)


# GeoTIFFs


@pytest.fixture
def rasterio() -> Any:
    return pytest.importorskip("rasterio")


def write_geotiff(
    path: Path, bands: np.ndarray, names: tuple[str, ...] = (), mask: np.ndarray | None = None, **more: Any
) -> Path:
    import rasterio
    from rasterio.transform import from_origin

    told = {
        "driver": "GTiff",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
        "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_000_000, 0.5, 0.5),
    }
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **(told | more)) as file:
        file.write(bands)
        if names:
            file.descriptions = names
        if mask is not None:
            file.write_mask(mask)
    return path


BANDS = np.moveaxis(STACK[0, 0], 0, -1).transpose(2, 0, 1).copy()
BANDS[:, :10, :10] = 0


def test_geotiff(tmp_path: Path, rasterio: Any) -> None:
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "nodata": 0}
    path = write_geotiff(tmp_path / "a.tif", BANDS, ("blue", "green", "red", "nir"), **tiles)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    info = checked(path, np.moveaxis(BANDS, 0, -1))
    assert (info.kind, info.channels, info.nodata) == ("geotiff", ("blue", "green", "red", "nir"), 0)
    assert (info.pixel_size, info.unit) == (0.5, "m")
    with rasterio.open(path) as file, open_raster(path) as raster:
        assert info.geo is not None
        assert info.geo.transform == tuple(file.transform)[:6]
        assert rasterio.CRS.from_wkt(info.geo.crs) == file.crs
        np.testing.assert_array_equal(raster.valid(Window(0, 0, 45, 52)), file.dataset_mask() > 0)
        assert raster.valid(Window(10, 10, 20, 20)) is None
    for number in range(2):
        with rasterio.open(path, overview_level=number) as file:
            checked(path, np.moveaxis(file.read(), 0, -1), number + 1)


def test_masks_of_a_cog(tmp_path: Path, rasterio: Any) -> None:
    bands = np.repeat(np.repeat(np.moveaxis(RGB, -1, 0), 4, 1), 4, 2)
    mask = np.full(bands.shape[1:], 255, np.uint8)
    mask[100:300, :250] = 0
    path = write_geotiff(tmp_path / "a.tif", bands, mask=mask, driver="COG", compress="deflate")
    info = checked(path, np.moveaxis(bands, 0, -1))
    assert len(info.levels) > 1
    with open_raster(path) as raster:
        np.testing.assert_array_equal(raster.valid(Window(50, 0, 300, 300)), mask[50:350, :300] > 0)
        with rasterio.open(path, overview_level=0) as file:
            np.testing.assert_array_equal(raster.valid(Window(0, 0, *info.levels[1]), 1), file.dataset_mask() > 0)
        windows = [Window(top, left, 60, 60) for top in range(0, 500, 100) for left in range(0, 600, 100)]
        with ThreadPoolExecutor(8) as pool:
            for window, found in zip(windows, pool.map(raster.valid, windows), strict=True):
                there = mask[window.top : window.top + 60, window.left : window.left + 60] > 0
                assert there.all() if found is None else (found == there).all()


@pytest.mark.parametrize(
    ("told", "size", "unit"),
    [
        ({"crs": "EPSG:4326"}, 0.5, "degree"),
        ({"crs": "EPSG:2263"}, 0.5 * 1200 / 3937, "m"),  # feet of the survey
        ({"crs": None}, None, ""),
    ],
)
def test_pixels_of_geotiffs(tmp_path: Path, rasterio: Any, told: dict[str, Any], size: float | None, unit: str) -> None:
    info = checked(write_geotiff(tmp_path / "a.tif", BANDS, **told), np.moveaxis(BANDS, 0, -1))
    assert info.unit == unit
    assert info.pixel_size is None if size is None else info.pixel_size == pytest.approx(size)
    assert info.geo is not None
    assert bool(info.geo.crs) == (told["crs"] is not None)


def test_rotated_transforms_are_kept(tmp_path: Path, rasterio: Any) -> None:
    turned = rasterio.Affine.translation(5e5, 5e6) * rasterio.Affine.rotation(30) * rasterio.Affine.scale(2, -2)
    info = checked(write_geotiff(tmp_path / "a.tif", BANDS, transform=turned), np.moveaxis(BANDS, 0, -1))
    assert info.geo is not None
    assert info.geo.transform == pytest.approx(tuple(turned)[:6])
    assert info.pixel_size == pytest.approx(2)


def test_tiles_that_gdal_leaves_out(tmp_path: Path, rasterio: Any) -> None:
    """They hold nodata where there is such a value; without one it's an error, as for any TIFF."""
    bands = BANDS.copy()
    bands[:, :16, :16] = 0
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "sparse_ok": True}
    path = write_geotiff(tmp_path / "a.tif", bands, nodata=0, **tiles)
    checked(path, np.moveaxis(bands, 0, -1))
    path = write_geotiff(tmp_path / "b.tif", bands, **tiles)
    with pytest.raises(DataError, match=r"b\.tif: .* strips or tiles hold nothing.*gdal_translate without SPARSE_OK"):
        open_raster(path)


def test_geotiffs_without_the_extra(
    tmp_path: Path, rasterio: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_geotiff(tmp_path / "a.tif", BANDS, nodata=0)
    without(monkeypatch, "rasterio")
    with caplog.at_level(logging.WARNING):
        info = checked(path, np.moveaxis(BANDS, 0, -1))
    assert (info.kind, info.geo, info.nodata) == ("tiff", None, 0)
    assert "a.tif: where it lies on the earth is lost" in caplog.text
    assert 'pip install "fungi-seg[geo]"' in caplog.text


def test_floats_that_are_not_finite_hold_nothing(tmp_path: Path) -> None:
    values = GENERATOR.normal(size=(20, 30)).astype(np.float32)
    values[3, 4], values[5, 6] = np.nan, np.inf
    imwrite(tmp_path / "a.tif", values)
    with open_raster(tmp_path / "a.tif") as raster:
        np.testing.assert_array_equal(raster.valid(Window(0, 0, 20, 30)), np.isfinite(values))


# whole slides

APERIO = "Aperio Image Library v11.2.1\r\n190x150 [0,0 190x150] (64x64) JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990"


def write_svs(path: Path, compression: str = "zlib") -> Path:
    told = {"photometric": "rgb", "tile": (64, 64), "compression": compression, "metadata": None}
    with TiffWriter(path) as file:
        file.write(RGB, description=APERIO, **told)
        file.write(RGB[::8, ::8], photometric="rgb", description=f"{APERIO}\r\nthumbnail", metadata=None)
        file.write(RGB[::4, ::4], description=APERIO, **told)
    return path


@pytest.mark.parametrize("name", ["a.svs", "a.tif"])
def test_slides(tmp_path: Path, name: str) -> None:
    pytest.importorskip("tiffslide")
    path = write_svs(tmp_path / name)
    info = checked(path, RGB)
    assert (info.kind, info.channels, info.pixel_size, info.unit) == ("slide", ("red", "green", "blue"), 0.499, "µm")
    assert info.levels == ((150, 190), RGB[::4, ::4].shape[:2])
    checked(path, RGB[::4, ::4], 1)
    assert planes_of(path) == (path,)
    assert is_raster(path) == (name == "a.svs")
    windows = [Window(top, left, 30, 30) for top in range(0, 120, 30) for left in range(0, 150, 30)]
    with open_raster(path) as raster, ThreadPoolExecutor(8) as pool:
        for window, values in zip(windows, pool.map(raster.read, windows), strict=True):
            np.testing.assert_array_equal(values, RGB[window.top : window.top + 30, window.left : window.left + 30])
    np.testing.assert_array_equal(read_image(tmp_path / "a.svs") if name == "a.svs" else RGB, RGB)


def test_slides_that_openslide_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself: what tiffslide can't read is left to openslide."""
    tiffslide, openslide = pytest.importorskip("tiffslide"), pytest.importorskip("openslide")
    path = tmp_path / "a.svs"
    path = write_svs(path, "jpeg")
    with openslide.OpenSlide(path) as slide:
        expected = np.asarray(slide.read_region((0, 0), 0, (190, 150)))[..., :3]

    def refused(*_: Any, **__: Any) -> None:
        raise tiffslide.TiffFileError("not this one")

    monkeypatch.setattr(tiffslide.TiffSlide, "__init__", refused)
    info = checked(path, expected)
    assert (info.kind, info.pixel_size) == ("slide", 0.499)
    (tmp_path / "b.svs").write_bytes(b"no slide")
    with pytest.raises(DataError, match=r"b\.svs: neither tiffslide \(.*not this one\) nor openslide \(.*\) reads it"):
        open_raster(tmp_path / "b.svs")


def test_slides_with_missing_tiles(tmp_path: Path) -> None:
    pytest.importorskip("tiffslide")

    path = write_svs(tmp_path / "a.svs")
    with TiffFile(path) as file:
        counts = file.pages[0].tags[325]  # type: ignore[union-attr]
        place, size = counts.valueoffset, 4 if counts.dtype == 4 else 2
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.svs: 1 of its 9 strips or tiles hold nothing"):
        open_raster(path)


def test_missing_slides(tmp_path: Path) -> None:
    pytest.importorskip("tiffslide")
    with pytest.raises(DataError, match=r"a\.svs: no such image file"):
        open_raster(tmp_path / "a.svs")
    with pytest.raises(DataError, match=r"a\.svs\[z=1\]: has no axis 'z'; its axes are none: it holds one picture"):
        open_raster(write_svs(tmp_path / "a.svs").with_name("a.svs[z=1]"))


# pictures


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.jpg", "a.webp", "a.gif", "a.ppm"])
def test_pictures(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(RGB).save(path)
    info = checked(path, read_image(path))
    assert (info.kind, info.size, info.channels) == ("picture", (150, 190), ("red", "green", "blue"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photographs(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    checked(tmp_path / "a.png", read_image(tmp_path / "a.png"))


def test_grey_and_deep_pictures(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    assert checked(tmp_path / "grey.png", RGB[..., :1]).channels == ("1",)
    Image.fromarray(STACK[0, 0, 0]).save(tmp_path / "deep.png")
    assert checked(tmp_path / "deep.png", STACK[0, 0, 0][..., None]).dtype == "uint16"
    import cv2

    colours = np.moveaxis(STACK[0, 0, :3], 0, -1)
    cv2.imwrite(str(tmp_path / "colours.png"), colours[..., ::-1])
    assert checked(tmp_path / "colours.png", colours).dtype == "uint16"


def test_pictures_cut_off(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with (
        open_raster(tmp_path / "a.png") as raster,
        pytest.raises(DataError, match=r"a\.png: can't be read as an image"),
    ):
        all_of(raster)


def test_pictures_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with open_raster(tmp_path / "a.png") as raster, ThreadPoolExecutor(8) as pool:
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
        windows = [Window(number, number, 40, 40) for number in range(50)]
        for window, values in zip(windows, pool.map(raster.read, windows), strict=True):
            np.testing.assert_array_equal(values, RGB[window.top :, window.left :][:40, :40])
        (tmp_path / "a.png").unlink()
        np.testing.assert_array_equal(all_of(raster), RGB)


def test_geotiffs_that_are_turned(tmp_path: Path, rasterio: Any) -> None:
    path = write_geotiff(tmp_path / "a.tif", BANDS[:1])
    with TiffFile(path) as file:
        tags = [
            (t.code, t.dtype, t.count, t.value, True) for t in file.pages[0].tags if t.code in (33550, 33922, 34735)
        ]  # type: ignore[union-attr]
    imwrite(path, BANDS[0], photometric="minisblack", metadata=None, extratags=[*tags, (274, 3, 1, 6, True)])
    with pytest.raises(
        DataError, match=r"a\.tif: is a GeoTIFF that is stored turned \(Orientation 6\).*gdal_translate"
    ):
        open_raster(path)


def test_further_pages_of_geotiffs(tmp_path: Path, rasterio: Any) -> None:
    """Each page has a place of its own."""
    path = tmp_path / "a.tif"
    for number, crs in enumerate(("EPSG:32633", "EPSG:32634")):
        write_geotiff(path, BANDS[number : number + 1], crs=crs, **({"append_subdataset": True} if number else {}))
    found = planes_of(path)
    assert [one.name for one in found] == ["a.tif[page=0]", "a.tif[page=1]"]
    for number, one in enumerate(found):
        info = checked(one, BANDS[number][..., None])
        assert info.geo is not None
        assert rasterio.CRS.from_wkt(info.geo.crs).to_epsg() == 32633 + number
