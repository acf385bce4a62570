"""Masks as files of their images' kinds: what other libraries find in them, and what is left when writing fails."""

from __future__ import annotations

import builtins
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import rasterio
import rasterio.shutil
from tifffile import TiffFile

from fungi_seg.errors import FungiSegError, MissingExtra
from fungi_seg.rasters import GeoReference, RasterInfo, Window, mask_suffix, write_mask

CLASSES = ("background", "Wald & Wiese", "été")
PALETTE = np.array([(0, 0, 0), (230, 159, 0), (86, 180, 233)], np.uint8)
SIZE = (1300, 1101)
ZARR = pytest.param("zarr", marks=pytest.mark.skipif(not find_spec("zarr"), reason="needs the extra zarr"))
ROTATED = (0.4, 0.1, 400_000.0, 0.1, -0.4, 5_000_000.0)


def a_mask(size: tuple[int, int] = SIZE, void: int = 255, classes: int = 3) -> np.ndarray:
    """Blocks of classes, a corner of void."""
    coarse = np.random.default_rng(0).integers(0, classes, (size[0] // 7 + 1, size[1] // 7 + 1))
    mask = np.kron(coarse, np.ones((7, 7), int))[: size[0], : size[1]].astype(np.uint16 if void > 255 else np.uint8)
    mask[:40, :90] = void
    return mask


def info_of(kind: str, size: tuple[int, int] = SIZE, **more: Any) -> RasterInfo:
    return RasterInfo(kind, size, ("1",), "uint8", (size,), **more)


def reader_of(mask: np.ndarray, seen: list[Window] | None = None) -> Callable[[Window], np.ndarray]:
    def read(window: Window) -> np.ndarray:
        if seen is not None:
            seen.append(window)
        return mask[window.top : window.top + window.height, window.left : window.left + window.width]

    return read


def written(folder: Path, mask: np.ndarray, info: RasterInfo, void: int = 255) -> Path:
    """The mask's file; its names and colours are `CLASSES` and `PALETTE`."""
    path = folder / "out" / f"mask{mask_suffix(info)}"
    size = (mask.shape[0], mask.shape[1])
    files = write_mask(path, reader_of(mask), size, mask.dtype, info, CLASSES, PALETTE, void)
    there = tuple(sorted(file for file in (folder / "out").rglob("*") if file.is_file()))
    assert files == there
    return path


def middles(mask: np.ndarray, step: int) -> np.ndarray:
    """By hand: of each square the pixel in its middle, or the last one where that lies beyond the border."""
    rows = [min(y + step // 2, mask.shape[0] - 1) for y in range(0, mask.shape[0], step)]
    columns = [min(x + step // 2, mask.shape[1] - 1) for x in range(0, mask.shape[1], step)]
    return mask[rows][:, columns]


def named(path: Path, folder: Path) -> list[str]:
    """What GDAL calls the values of a file."""
    rasterio.shutil.copy(path, folder / "names.vrt", driver="VRT")
    return [e.text or "" for e in ET.parse(folder / "names.vrt").getroot().iter("Category")]


@pytest.mark.parametrize("transform", [(0.5, 0.0, 400_000.0, 0.0, -0.5, 5_000_000.0), ROTATED])
def test_geotiff(tmp_path: Path, transform: tuple[float, float, float, float, float, float]) -> None:
    mask = a_mask()
    info = info_of("geotiff", geo=GeoReference(rasterio.CRS.from_epsg(32633).to_wkt(), transform))
    path = written(tmp_path, mask, info)
    assert path.name == "mask.tif"
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), mask)
        assert found.crs == rasterio.CRS.from_epsg(32633)
        assert found.transform == rasterio.Affine(*transform)
        assert (found.nodata, found.dtypes, found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]) == (255, ("uint8",), "COG")
        assert found.profile["tiled"]
        assert found.block_shapes == [(512, 512)]
        assert found.overviews(1) == [2, 4]
        colours = found.colormap(1)
        for value, rgb in (*enumerate(PALETTE.tolist()), (255, [128] * 3), (77, [128] * 3)):
            assert list(colours[value][:3]) == rgb
    with rasterio.open(path, overview_level=1) as found:
        assert set(np.unique(found.read(1))) == {0, 1, 2, 255}
    assert named(path, tmp_path) == list(CLASSES)


@pytest.mark.filterwarnings("error")
def test_geotiff_without_a_place(tmp_path: Path) -> None:
    path = written(tmp_path, a_mask(), info_of("geotiff"))
    with TiffFile(path) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), a_mask())


def test_geotiff_without_a_crs(tmp_path: Path) -> None:
    path = written(tmp_path, a_mask(), info_of("geotiff", geo=GeoReference("", ROTATED)))
    with rasterio.open(path) as found:
        assert (found.crs, found.transform) == (None, rasterio.Affine(*ROTATED))


@pytest.mark.parametrize("kind", ["ome-tiff", "slide"])
def test_ome_tiff(tmp_path: Path, kind: str) -> None:
    mask = a_mask()
    path = written(tmp_path, mask, info_of(kind, pixel_size=0.25, unit="µm"))
    assert path.name == "mask.tif"
    described = ome_types.from_tiff(path)
    pixels = described.images[0].pixels
    assert (pixels.size_y, pixels.size_x, pixels.type.value) == (*SIZE, "uint8")
    assert (pixels.physical_size_x, pixels.physical_size_y, pixels.physical_size_x_unit.value) == (0.25, 0.25, "µm")
    names = described.structured_annotations.map_annotations[0].value
    assert dict(names.items()) == dict(zip("012", CLASSES, strict=True))
    with TiffFile(path) as tiff:
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        levels = tiff.series[0].levels
        assert [level.shape for level in levels] == [SIZE, (650, 551), (325, 276)]
        for number, level in enumerate(levels):
            np.testing.assert_array_equal(level.asarray(), middles(mask, 2**number))
            page = level.pages[0].aspage()
            assert (page.is_tiled, page.compression.name) == (True, "ADOBE_DEFLATE")
            assert (page.colormap.T[[0, 1, 2, 255]] // 257 == [*PALETTE.tolist(), [128] * 3]).all()


@pytest.mark.parametrize(("form", "version"), [(2, "0.4"), (3, "0.5")])
def test_ome_zarr(tmp_path: Path, form: int, version: str) -> None:
    zarr, models = pytest.importorskip("zarr"), pytest.importorskip("ome_zarr_models")
    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    mask = a_mask()
    path = written(tmp_path, mask, info_of("zarr", pixel_size=0.5, unit="µm", zarr_format=form))
    assert path.name == "mask.zarr"
    group = zarr.open_group(path, mode="r")
    valid: Any = {2: models.v04, 3: models.v05}[form].ImageLabel.from_zarr(group)
    attributes = valid.attributes if form == 2 else valid.attributes.ome
    assert attributes.image_label.version == version if form == 2 else attributes.version == version
    assert [label.label_value for label in attributes.image_label.colors] == [0, 1, 2, 255]
    assert [label.rgba for label in attributes.image_label.colors][1:] == [
        (230, 159, 0, 255),
        (86, 180, 233, 255),
        (128, 128, 128, 255),
    ]
    (node,) = reader.Reader(io.parse_url(path))()
    assert [level.shape for level in node.data] == [SIZE, (650, 551), (325, 276)]
    for number, level in enumerate(node.data):
        np.testing.assert_array_equal(np.asarray(level), middles(mask, 2**number))
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["micrometer"] * 2
    second = attributes.multiscales[0].datasets[1].coordinateTransformations
    assert [list(second[0].scale), list(second[1].translation)] == [[1.0, 1.0], [0.5, 0.5]]


def test_every_tile_of_a_zarr_is_a_file(tmp_path: Path) -> None:
    """A lost one would be read as zeros, which is a class."""
    pytest.importorskip("zarr")
    path = written(tmp_path, np.zeros(SIZE, np.uint8), info_of("zarr", zarr_format=2))
    assert len([file for file in (path / "0").rglob("*") if file.is_file() and file.name.isdecimal()]) == 9


@pytest.mark.parametrize("kind", ["tiff", "picture", "video"])
def test_tiff(tmp_path: Path, kind: str) -> None:
    mask = a_mask()
    path = written(tmp_path, mask, info_of(kind, pixel_size=2.0, unit="µm"))
    assert path.name == "mask.tif"
    with TiffFile(path) as tiff:
        page = tiff.pages.first
        np.testing.assert_array_equal(page.asarray(), mask)
        assert page.is_tiled
        assert tiff.shaped_metadata[0]["classes"] == list(CLASSES)
        assert (page.tags["XResolution"].value, page.resolutionunit) == ((5000, 1), 3)


@pytest.mark.parametrize("kind", ["geotiff", "ome-tiff", ZARR, "tiff"])
def test_more_than_255_classes(tmp_path: Path, kind: str) -> None:
    mask = a_mask((600, 700), void=65_535, classes=300)
    info = info_of(kind, (600, 700), geo=GeoReference("EPSG:4326", (0.1, 0.0, 10.0, 0.0, -0.1, 50.0)))
    path = tmp_path / f"mask{mask_suffix(info)}"
    palette = np.random.default_rng(1).integers(1, 255, (300, 3)).astype(np.uint8)
    names = [f"class {index}" for index in range(300)]
    write_mask(path, reader_of(mask), (600, 700), np.uint16, info, names, palette, 65_535)
    if kind == "zarr":
        found = pytest.importorskip("zarr").open_group(path, mode="r")["0"][:]
    else:
        with TiffFile(path) as tiff:
            found = tiff.asarray()
            page = tiff.pages.first
            assert (page.colormap.T[[299, 65_535]] // 257 == [palette[299], [128] * 3]).all()
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("kind", ["geotiff", "ome-tiff", ZARR, "tiff"])
def test_windows_are_small_and_read_about_once(tmp_path: Path, kind: str) -> None:
    """Each level reads but its own rows, so that a large mask is never in memory, and read twice at most."""
    mask, seen = a_mask((6000, 700)), list[Window]()
    info = info_of(kind, (6000, 700), geo=GeoReference("EPSG:32633", ROTATED))
    path = tmp_path / f"mask{mask_suffix(info)}"
    write_mask(path, reader_of(mask, seen), (6000, 700), np.uint8, info, CLASSES, PALETTE, 255)
    assert max(window.height for window in seen) <= 2048
    assert sum(window.height * window.width for window in seen) <= 2 * mask.size


@pytest.mark.parametrize("kind", ["geotiff", "ome-tiff", ZARR, "tiff"])
def test_small_masks_have_one_level(tmp_path: Path, kind: str) -> None:
    mask = a_mask((3, 5))
    info = info_of(kind, (3, 5), geo=GeoReference("EPSG:32633", ROTATED))
    path = written(tmp_path, mask, info)
    if kind == "zarr":
        assert [*pytest.importorskip("zarr").open_group(path, mode="r")] == ["0"]
        return
    with TiffFile(path) as tiff:
        np.testing.assert_array_equal(tiff.series[0].levels[0].asarray(), mask)
        assert len(tiff.series[0].levels) == 1


@pytest.mark.parametrize("kind", ["geotiff", "ome-tiff", ZARR, "tiff"])
def test_nothing_half_written_is_left(tmp_path: Path, kind: str) -> None:
    """What was there before stays as it was."""
    info = info_of(kind, geo=GeoReference("EPSG:32633", ROTATED))
    path = written(tmp_path, a_mask(), info)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def broken(window: Window) -> np.ndarray:
        if window.top > 600:
            raise FungiSegError("stop")
        return np.zeros((window.height, window.width), np.uint8)

    with pytest.raises(FungiSegError, match="stop"):
        write_mask(path, broken, (9000, 1000), np.uint8, info, CLASSES, PALETTE, 255)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []
    other = np.ones((70, 80), np.uint8)
    assert written(tmp_path, other, info) == path  # which takes the place of the first one


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from fungi_seg.errors import FungiSegError
from fungi_seg.rasters import GeoReference, RasterInfo, write_mask
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, kind = Path(sys.argv[1]), sys.argv[2]
noise = np.random.default_rng(0).integers(0, 200, (1200, 1200)).astype(np.uint8)
info = RasterInfo(kind, noise.shape, ("1",), "uint8", (noise.shape,), geo=GeoReference("", (1, 0, 0, 0, -1, 0)))
read = lambda w: noise[w.top : w.top + w.height, w.left : w.left + w.width]
for size in (1_450_000, 1_300_000, 400_000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        write_mask(path, read, noise.shape, np.uint8, info, ("a",) * 200, np.zeros((200, 3), np.uint8), 255)
        print("written")
    except FungiSegError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", ["geotiff", "ome-tiff", ZARR, "tiff"])
def test_full_disk(tmp_path: Path, kind: str) -> None:
    """As far as a limit of the size of files is one: reported, and nothing is left."""
    path = tmp_path / "mask"
    done = subprocess.run([sys.executable, "-c", FULL, path, kind], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 4
    assert all(line.startswith(f"{path}: can't be written (") for line in told[-2:])
    assert all("free some space, or name another folder" in line for line in told[-2:])
    if "written" not in told:
        assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("kind", "extra", "package"), [("geotiff", "geo", "rasterio"), ("zarr", "zarr", "zarr")])
def test_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, extra: str, package: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=rf'pip install "fungi-seg\[{extra}\]"'):
        written(tmp_path, a_mask(), info_of(kind))
