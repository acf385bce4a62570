"""Channels by name and number, and what of their values becomes black and white."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from tifffile import TiffFile, imwrite

from fungi_seg import DataError, FungiSegError, InputConfig
from fungi_seg.images import (
    data_limits,
    image_limits,
    is_deep,
    measured,
    read_image,
    read_reduced,
    reading,
    spread,
    to_array,
)
from fungi_seg.images.depth import eight_bit
from fungi_seg.images.spread import Spread
from fungi_seg.rasters import Window, open_raster

GENERATOR = np.random.default_rng(8)
CELLS = (GENERATOR.gamma(2, [900, 300, 4000, 60], (50, 60, 4)) + np.array([0, 50, 700, 10])).astype(np.uint16)
NAMES = ("DAPI", "GFP", "RFP", "488")


def write_cells(path: Path, cells: np.ndarray = CELLS, names: tuple[str, ...] = NAMES) -> Path:
    told = {"axes": "CYX", "Channel": {"Name": list(names)}}
    imwrite(path, np.moveaxis(cells, -1, 0), photometric="minisblack", metadata=told, tile=(16, 16), compression="zlib")
    return path


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return write_cells(tmp_path / "cells.ome.tif")


def oracle(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low) * 255, 0, 255)).astype(np.uint8)


def by_percentiles(values: np.ndarray) -> np.ndarray:
    return oracle(values, 0, np.percentile(values, 99.9))


@pytest.mark.parametrize(
    ("channels", "numbers"),
    [
        (("RFP", "GFP", "DAPI"), (2, 1, 0)),
        (("rfp", "2", "dapi"), (2, 1, 0)),
        (("4", "4", "1"), (3, 3, 0)),
        (("488",), (3, 3, 3)),  # a name, not a number
        (("3",), (2, 2, 2)),
    ],
)
def test_channels_by_name_and_number(cells: Path, channels: tuple[str, ...], numbers: tuple[int, ...]) -> None:
    found = read_image(cells, InputConfig(channels=channels))
    np.testing.assert_array_equal(found, np.stack([by_percentiles(CELLS[..., n]) for n in numbers], 2))


def test_all_channels(cells: Path) -> None:
    found = read_image(cells, InputConfig(channels=("all",)))
    np.testing.assert_array_equal(found, np.stack([by_percentiles(CELLS[..., n]) for n in range(4)], 2))


def test_limits(cells: Path) -> None:
    one = read_image(cells, InputConfig(channels=("GFP",), limits=(50, 1000)))
    np.testing.assert_array_equal(one[..., 0], oracle(CELLS[..., 1], 50, 1000))
    each = read_image(cells, InputConfig(channels=("1", "2", "3"), limits=(0, 900, 50, 1000, 700, 9000)))
    pairs = ((0, 900), (50, 1000), (700, 9000))
    np.testing.assert_array_equal(each, np.stack([oracle(CELLS[..., n], *pair) for n, pair in enumerate(pairs)], 2))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"scale": 1.0, "size": None},
            "has 4 channels, and nothing says which.*1 DAPI, 2 GFP, 3 RFP, 4 488; name one",
        ),
        ({"channels": ("Cy5",)}, r"has no channel 'Cy5'; its channels are 1 DAPI, 2 GFP, 3 RFP, 4 488"),
        ({"channels": ("0",)}, r"has no channel '0'; its channels are"),
        ({"channels": ("5",)}, r"has no channel '5'; its channels are"),
        ({"channels": ("1", "2", "3"), "limits": (0, 1, 0, 2)}, "2 pairs of low and high, and 3 channels are used"),
    ],
)
def test_channels_that_are_not_there(cells: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"cells\.ome\.tif: .*{message}"):
        read_image(cells, InputConfig(**config))


def test_names_that_are_numbers_of_others(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "a.ome.tif", names=("0", "1", "2", "3"))
    with pytest.raises(
        DataError, match=r"several channels that '1' may mean, 1, 2 of 1 0, 2 1, 3 2, 4 3; name another"
    ):
        read_image(path, InputConfig(channels=("1",)))
    np.testing.assert_array_equal(read_image(path, InputConfig(channels=("0",)))[..., 0], by_percentiles(CELLS[..., 0]))


def test_limits_of_a_data_set_must_be_known(cells: Path) -> None:
    with pytest.raises(FungiSegError, match=r"input\.scaling is data, but input\.limits is empty: build finds"):
        read_image(cells, InputConfig(channels=("1",), scaling="data"))


def test_values_of_another_type_than_the_limits(tmp_path: Path, cells: Path) -> None:
    Image.fromarray(CELLS[..., 0].astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=r"a\.png: its samples are of 8 bits, up to 255, but input\.limits reaches to 4000"
    ):
        read_image(tmp_path / "a.png", InputConfig(limits=(0, 4000)))
    with pytest.raises(DataError, match=r"its samples are uint16, those of the data set that the limits are of 8 bits"):
        read_image(cells, InputConfig(channels=("1",), scaling="data", limits=(0, 255)))


def test_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    rgb = GENERATOR.integers(20, 90, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    chosen = read_image(tmp_path / "a.png", InputConfig(channels=("blue", "1", "2")))
    np.testing.assert_array_equal(chosen, rgb[..., [2, 0, 1]])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", InputConfig(channels=("all",))), rgb)
    stretched = read_image(tmp_path / "a.png", InputConfig(limits=(20, 90)))
    np.testing.assert_array_equal(stretched, oracle(rgb, 20, 90))
    assert data_limits([tmp_path / "a.png"], InputConfig(scaling="data")) == (0, 255)


def test_what_holds_nothing_is_black(tmp_path: Path) -> None:
    values = GENERATOR.normal(100, 30, (40, 50)).astype(np.float32)
    values[:5], values[5, 5], values[6, 6] = -9999, np.nan, np.inf
    imwrite(tmp_path / "a.tif", values, metadata=None, extratags=[(42113, 2, 6, "-9999", True)])
    shown = read_image(tmp_path / "a.tif", InputConfig(channels=("1",)))
    np.testing.assert_array_equal(shown, read_image(tmp_path / "a.tif"))
    assert not shown[:5].any()
    assert not shown[5, 5].any()
    assert shown[10:].any(1).all()
    values[:] = -9999
    imwrite(tmp_path / "b.tif", values, metadata=None, extratags=[(42113, 2, 6, "-9999", True)])
    with pytest.raises(DataError, match=r"b\.tif: no value in it is finite and other than its nodata value"):
        read_image(tmp_path / "b.tif", InputConfig(channels=("1",)))


def test_masks_of_geotiffs_are_black(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    rgb, mask = GENERATOR.integers(1, 256, (3, 40, 50)).astype(np.uint8), np.full((40, 50), 255, np.uint8)
    mask[:10] = 0
    told = {"driver": "GTiff", "count": 3, "height": 40, "width": 50, "dtype": "uint8", "photometric": "rgb"}
    told["crs"] = "EPSG:3857"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "a.tif", "w", **told) as file,
    ):
        file.write(rgb)
        file.write_mask(mask)
    shown = read_image(tmp_path / "a.tif", InputConfig(channels=("all",)))
    np.testing.assert_array_equal(shown, np.moveaxis(np.where(mask, rgb, 0), 0, -1))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["uint16", "int16", "int8", "float32", "int32"]).flatmap(
        lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_dims=2, max_side=30), fill=st.just(0))
    )
)
def test_limits_found_in_parts_are_those_of_the_whole(values: np.ndarray) -> None:
    values = np.nan_to_num(values, nan=1, posinf=2, neginf=-2).clip(-1e30, 1e30).astype(values.dtype)
    found = Spread(values.dtype)
    for row in values:
        found.add(row)
    low, high = found.ends()
    np.testing.assert_array_equal(
        np.rint((values.astype(np.float64) - low).clip(0, max(high - low, 1e-12)) / max(high - low, 1e-12)),
        np.rint(eight_bit(values) / 255.0),
    )
    positive = values.min() >= 0
    limits = np.iinfo(values.dtype) if values.dtype.kind != "f" else np.finfo(values.dtype)
    if positive and values.max() < limits.max:  # no value that stands for nothing
        assert (low, high) == (0, pytest.approx(np.percentile(values, 99.9), rel=1e-6))


def test_large_images_are_looked_at_in_part(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "SIDE", 10)
    monkeypatch.setattr(spread, "MOST_KEPT", 200)
    input = InputConfig(channels=("all",))
    with open_raster(cells) as raster:
        whole = image_limits(raster, input)
        monkeypatch.setattr(spread.spread_windows, "__defaults__", (10,))
        monkeypatch.setattr(spread.collect, "__defaults__", (10,))
        part = image_limits(raster, input)
        assert part == image_limits(raster, input)
    np.testing.assert_allclose(whole[1::2], np.percentile(CELLS, 99.9, (0, 1)))
    assert part != whole
    np.testing.assert_allclose(part, whole, rtol=0.5)
    floats = Spread(np.dtype(np.float32))
    for values in np.array_split(np.arange(10_000, dtype=np.float32), 13):
        floats.add(values)
    assert floats.ends() == (0, pytest.approx(9990, rel=0.01))


def test_limits_of_a_data_set(tmp_path: Path) -> None:
    paths = [write_cells(tmp_path / f"{n}.ome.tif", (CELLS // n).astype(np.uint16)) for n in (1, 2, 3)]
    together = np.concatenate([CELLS // n for n in (1, 2, 3)])
    found = data_limits(paths, InputConfig(channels=("RFP", "1", "GFP"), scaling="data"))
    np.testing.assert_allclose(found[::2], 0)
    np.testing.assert_allclose(found[1::2], np.percentile(together, 99.9, (0, 1))[[2, 0, 1]])
    (tmp_path / "bad.ome.tif").write_bytes(b"II*\0")
    with pytest.raises(DataError, match=r"bad\.ome\.tif"):
        data_limits([*paths, tmp_path / "bad.ome.tif"], InputConfig(channels=("1",), scaling="data"))
    assert data_limits([tmp_path / "bad.ome.tif", *paths], InputConfig(channels=("1",), scaling="data"), True) == (
        pytest.approx(found[2:4])
    )
    Image.fromarray(CELLS[..., 0].astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: its samples are uint8, those of .*1\.ome\.tif uint16; .*of one type"):
        data_limits([*paths, tmp_path / "a.png"], InputConfig(channels=("1",), scaling="data"))
    other = write_cells(tmp_path / "two.ome.tif", CELLS[..., :2], NAMES[:2])
    with pytest.raises(DataError, match=r"two\.ome\.tif: has 2 channels, the images before it 4"):
        data_limits([*paths, other], InputConfig(channels=("all",), scaling="data"))


def test_arrays_bytes_and_pictures(tmp_path: Path, cells: Path) -> None:
    input = InputConfig(channels=("3", "2", "1"))
    expected = read_image(cells, input)
    np.testing.assert_array_equal(to_array(CELLS, input), expected)
    np.testing.assert_array_equal(to_array(cells.read_bytes(), input), expected)
    with cells.open("rb") as file:
        np.testing.assert_array_equal(to_array(file, input), expected)
    torch = pytest.importorskip("torch")
    floats = torch.from_numpy(np.moveaxis(CELLS, -1, 0).astype(np.float32))
    np.testing.assert_array_equal(to_array(floats, input), expected)
    assert to_array(CELLS, InputConfig(channels=("all",))).shape == (50, 60, 4)
    assert to_array(Image.fromarray(CELLS[..., 0]), InputConfig(channels=("all",))).shape == (50, 60, 1)
    with pytest.raises(DataError, match=r"the image that was given: has no channel '7'"):
        to_array(cells.read_bytes(), InputConfig(channels=("7",)))
    with pytest.raises(FungiSegError, match=r"an array must be \[H, W\] or \[H, W, channels\] of numbers"):
        to_array(np.zeros((2, 2, 2, 2)), input)


def test_headers_of_rasters(tmp_path: Path, cells: Path) -> None:
    imwrite(tmp_path / "stack.tif", np.moveaxis(CELLS, -1, 0), photometric="minisblack", metadata=None)
    plane = tmp_path / "stack.tif[page=2]"
    assert measured(plane) == ("tiff", 50, 60)
    assert is_deep(plane)
    np.testing.assert_array_equal(read_image(plane)[..., 0], by_percentiles(CELLS[..., 2]))


def test_small_views_are_of_smaller_copies(tmp_path: Path) -> None:
    from tifffile import TiffWriter

    rgb = np.repeat(np.repeat(GENERATOR.integers(0, 256, (20, 30, 3)).astype(np.uint8), 8, 0), 8, 1)
    with TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(rgb, photometric="rgb", tile=(32, 32), subifds=2, metadata={"axes": "YXS"})
        file.write(rgb[::2, ::2], photometric="rgb", tile=(32, 32), subfiletype=1)
        file.write(rgb[::8, ::8], photometric="rgb", tile=(32, 32), subfiletype=1)
    input = InputConfig(channels=("all",))
    assert [read_reduced(tmp_path / "a.ome.tif", side, input).shape for side in (20, 30, 31, 500)] == [
        *((20, 30, 3), (20, 30, 3), (80, 120, 3), (160, 240, 3))
    ]
    assert read_reduced(write_cells(tmp_path / "b.ome.tif"), 20, input).shape == (50, 60, 3)


def test_pages_that_are_channels_say_so(cells: Path) -> None:
    with pytest.raises(DataError, match=r"holds 4 pages, and nothing says which.*they are channels.*--input\.channels"):
        read_image(cells)
    moved = np.stack([CELLS, CELLS]).transpose(0, 3, 1, 2)
    imwrite(cells, moved, photometric="minisblack", metadata={"axes": "TCYX"})
    with pytest.raises(DataError, match=r"holds 8 pages.*name one, as \[t=0\] after.*--input\.projection"):
        read_image(cells)


def test_white_that_is_nodata_in_some_channels(tmp_path: Path) -> None:
    """Of pictures of 8 bits, a pixel holds nothing where all channels are nodata, in any channel that is looked at."""
    rgb = GENERATOR.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    rgb[:5], rgb[10, 10, 1], rgb[11, 11, :2] = 255, 255, 255
    imwrite(tmp_path / "a.tif", rgb, photometric="rgb", metadata=None, extratags=[(42113, 2, 4, "255", True)])
    expected = np.where((rgb == 255).all(2, keepdims=True), 0, rgb)
    for channels in (("all",), ("1", "2", "3")):
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", InputConfig(channels=channels)), expected)
    green = read_image(tmp_path / "a.tif", InputConfig(channels=("green",)))
    np.testing.assert_array_equal(green[..., 0], expected[..., 1])


def test_pixels_of_many_channels_that_hold_something(tmp_path: Path) -> None:
    bands = GENERATOR.integers(1, 9, (20, 30, 11)).astype(np.uint16)
    bands[:5], bands[5:9, :, :10], bands[9, :, 4] = 0, 0, 0
    told = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    imwrite(tmp_path / "a.tif", bands, extratags=[(42113, 2, 2, "0", True)], **told)
    with open_raster(tmp_path / "a.tif") as raster:
        np.testing.assert_array_equal(raster.valid(Window(0, 0, 20, 30)), (bands > 0).any(2))
        assert raster.valid(Window(9, 0, 10, 30)) is None


def test_bytes_that_name_other_files(tmp_path: Path, cells: Path) -> None:
    """Whoever sends bytes to a server must not choose which of its files are read."""
    named = '<UUID FileName="other.ome.tif">urn:uuid:00000000-0000-0000-0000-000000000001</UUID></TiffData>'
    with TiffFile(cells) as file:
        told = file.ome_metadata or ""
    changed = re.sub(r"(<TiffData[^>]*?)/>", rf"\1>{named}", told)
    changed = changed if named in changed else told.replace("</TiffData>", named)
    imwrite(
        tmp_path / "a.ome.tif", np.moveaxis(CELLS, -1, 0), photometric="minisblack", metadata=None, description=changed
    )
    data = (tmp_path / "a.ome.tif").read_bytes()
    with pytest.raises(DataError, match=r"the image that was given: says that parts of it are in other files"):
        to_array(data, InputConfig(channels=("1",)))
    assert to_array(cells.read_bytes(), InputConfig(channels=("1",))).shape == (50, 60, 3)
    assert measured(BytesIO(cells.read_bytes())) == ("TIFF", 50, 60)


def test_samples_too_many_are_refused(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_SAMPLES", 4 * 50 * 60)
    assert read_image(cells, InputConfig(channels=("all",))).shape == (50, 60, 4)
    monkeypatch.setattr(reading, "MOST_SAMPLES", 4 * 50 * 60 - 1)
    with pytest.raises(DataError, match=r"cells\.ome\.tif: has 4 channels of 50×60 pixels.*at most 11999 samples"):
        read_image(cells, InputConfig(channels=("all",)))


def test_nodata_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 bits too, where no value is looked for; but not of what the parts looked at alone hold."""
    monkeypatch.setattr(spread, "SIDE", 10)
    monkeypatch.setattr(spread.collect, "__defaults__", (3,))
    for dtype in (np.uint8, np.uint16):
        values = np.full((60, 70), 7, dtype)
        nodata = {"metadata": None, "photometric": "minisblack", "extratags": [(42113, 2, 2, "7", True)]}
        path = tmp_path / f"{np.dtype(dtype)}.tif"
        imwrite(path, values, **nodata)
        with pytest.raises(DataError, match=rf"{path.name}: no value in it is finite and other than its nodata value"):
            read_image(path, InputConfig(channels=("1",)))
        values[0, 0] = 200
        imwrite(path, values, **nodata)
        shown = read_image(path, InputConfig(channels=("1",)))
        assert shown[0, 0].all()
        assert not shown.any(2)[1:].any()
