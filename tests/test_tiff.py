"""TIFF files of every kind of samples, as several writers put them down: read as they stand, or refused by name."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from tiffs import page, tiff

from fungi_seg.errors import DataError
from fungi_seg.images.reading import read_image, read_mask

RNG = np.random.default_rng(0)
SIZE = (20, 31)
RGB = RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
TYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
LOSSLESS = [None, "lzw", "zlib", "adobe_deflate", "packbits", "zstd", "lzma", "lerc"]


def noise(dtype: str, *shape: int) -> np.ndarray:
    """Values over much of the type's range, below zero too where it has such."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (RNG.normal(size=shape) * 1000).astype(kind)
    limits = np.iinfo(kind)
    low, high = max(limits.min, -(2**40)), min(limits.max, 2**40)
    return RNG.integers(low // 2, high // 2 + 1, shape).astype(kind)


def shown(values: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """What values become in 8 bits, told by sorting: 0 or the 0.1th percentile to 0, the 99.9th percentile to 255."""
    if values.dtype == np.uint8:
        return values.astype(float)
    values = values.astype(np.float64)
    known = np.ones(values.shape, bool) if known is None else known
    counted = np.sort(values[known])
    low, high = (np.interp(p * (len(counted) - 1), np.arange(len(counted)), counted) for p in (0.001, 0.999))
    low = min(low, 0)
    return np.where(known, np.round(np.clip((values - low) / (high - low), 0, 1) * 255), 0)


def rgb(values: np.ndarray) -> np.ndarray:
    return np.dstack([values] * 3) if values.ndim == 2 else values


def assert_shows(path: Path, expected: np.ndarray, off: float = 0) -> None:
    found = read_image(path)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(float), rgb(expected), atol=off)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("separate", [False, True])
def test_every_type_in_either_byte_order_and_layout(tmp_path: Path, dtype: str, order: str, separate: bool) -> None:
    """Ours, by bytes, and tifffile's: grey and RGB."""
    off = 1 if dtype.startswith(("float", "int64", "uint64")) else 0
    for number, (values, photometric) in enumerate(((noise(dtype, *SIZE), 1), (noise(dtype, *SIZE, 3), 2))):
        own = tiff(page(values, None, photometric, separate, order=order), order=order)
        assert_shows(written(tmp_path / f"{number}.tif", own), shown(values), off)
        stored = np.moveaxis(values, -1, 0) if separate and values.ndim == 3 else values
        options: dict[str, Any] = {"planarconfig": "separate" if separate else "contig"} if values.ndim == 3 else {}
        name = "rgb" if values.ndim == 3 else "minisblack"
        for big in (False, True):
            path = tmp_path / f"{number}{big}.tif"
            tifffile.imwrite(path, stored, photometric=name, byteorder=order, bigtiff=big, **options)
            assert_shows(path, shown(values), off)


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_every_compression(tmp_path: Path, compression: str | None, dtype: str, tile: tuple[int, int] | None) -> None:
    """In strips and tiles, with and without prediction from the left neighbour; masks too."""
    values, path = noise(dtype, *SIZE, 3), tmp_path / "a.tif"
    predictors = [None] if compression in (None, "packbits", "lerc") else [None, 3 if dtype == "float32" else 2]
    for predictor in predictors:
        options: dict[str, Any] = {"compression": compression, "tile": tile, "predictor": predictor}
        options |= {} if tile else {"rowsperstrip": 6}
        tifffile.imwrite(path, values, photometric="rgb", **options)
        assert_shows(path, shown(values), 1 if dtype == "float32" else 0)
        if dtype != "float32":
            tifffile.imwrite(path, values[..., 0], photometric="minisblack", **options)
            np.testing.assert_array_equal(read_mask(path), values[..., 0])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 23, 31])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_numbers_of_any_width(tmp_path: Path, bits: int, white_is_zero: bool) -> None:
    """Up to 8 bits the highest number is white; masks hold the numbers themselves."""
    values = RNG.integers(0, 2**bits, SIZE).astype(np.uint64)
    path = written(tmp_path / "a.tif", tiff(page(values, bits, 0 if white_is_zero else 1)))
    expected = np.round(values * 255 / (2**bits - 1)) if bits <= 8 else shown(values)
    assert_shows(path, 255 - expected if white_is_zero else expected)
    if bits > 1 or not white_is_zero:
        np.testing.assert_array_equal(read_mask(path), values)


def test_bits_from_right_to_left(tmp_path: Path) -> None:
    for bits, dtype in ((1, "uint8"), (4, "uint8"), (8, "uint8"), (16, "uint16"), (32, "uint32")):
        values = RNG.integers(0, 2 ** min(bits, 30), SIZE).astype(dtype)
        path = written(tmp_path / f"{bits}.tif", tiff(page(values, bits, reversed_bits=True)))
        np.testing.assert_array_equal(read_mask(path), values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_white_is_zero(tmp_path: Path, dtype: str) -> None:
    values = noise(dtype, *SIZE)
    path = written(tmp_path / "a.tif", tiff(page(values, photometric=0)))
    assert_shows(path, 255 - shown(values), 1 if dtype == "float32" else 0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("depth", [8, 16])
def test_palettes(tmp_path: Path, bits: int, depth: int) -> None:
    """Palettes are of 16 bits, though some writers put 8 there; masks hold the indices."""
    indices = RNG.integers(0, 2**bits, SIZE).astype(np.uint16)
    colours = RNG.integers(0, 256, (3, 2**bits)).astype(np.uint16)
    stored = colours if depth == 8 else colours * 257
    path = written(tmp_path / "a.tif", tiff(page(indices, bits, 3, tags={320: stored.ravel().tolist()})))
    assert_shows(path, colours[:, indices].transpose(1, 2, 0))
    np.testing.assert_array_equal(read_mask(path), indices)


def test_cmyk(tmp_path: Path) -> None:
    inks = RNG.integers(0, 256, (*SIZE, 4)).astype(np.uint8)
    expected = np.asarray(Image.frombytes("CMYK", SIZE[::-1], inks.tobytes()).convert("RGB"))
    for name, values in (("8", inks), ("16", inks.astype(np.uint16) * 257)):
        for separate in (False, True):
            data = tiff(page(values, photometric=5, separate=separate))
            assert_shows(written(tmp_path / f"{name}{separate}.tif", data), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
def test_jpeg_within_a_tiff(tmp_path: Path, mode: str) -> None:
    """As Pillow, by libtiff, reads it; what it writes as YCbCr are RGB images to GDAL."""
    smooth = cv2.resize(RGB, (64, 48))[:, :, : 1 if mode == "L" else 3].squeeze()
    path = tmp_path / "a.tif"
    Image.fromarray(smooth).convert(mode).save(path, compression="jpeg", quality=95)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    assert_shows(path, expected, 4)
    assert np.abs(expected - rgb(smooth)).mean() < 12


def test_jpeg_2000_and_webp_within_a_tiff(tmp_path: Path) -> None:
    for compression, values in (("jpeg2000", RGB), ("jpeg2000", RGB[..., 0]), ("webp", RGB)):
        path = tmp_path / f"{compression}{values.ndim}.tif"
        photometric = "rgb" if values.ndim == 3 else "minisblack"
        tifffile.imwrite(path, values, photometric=photometric, compression=compression, compressionargs={"level": 0})
        assert np.abs(read_image(path).astype(int) - rgb(values)).mean() < 10


@pytest.mark.skipif(not hasattr(imagecodecs, "ccittfax4_decode"), reason="for Python 3.10 there is no such decoder")
@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(tmp_path: Path, compression: str) -> None:
    ink = cv2.resize(RGB[..., 0], (80, 60)) > 127
    path = tmp_path / "a.tif"
    Image.fromarray(ink).save(path, compression=compression)
    assert_shows(path, ink * 255)
    np.testing.assert_array_equal(read_mask(path), ink)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    """As Pillow turns it, images and masks alike."""
    path = written(tmp_path / "a.tif", tiff(page(RGB, photometric=2, tags={274: orientation})))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(read_image(path), np.asarray(opened))
    path = written(tmp_path / "m.tif", tiff(page(RGB[..., 0], tags={274: orientation})))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(read_mask(path), np.asarray(opened))


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("alpha", [1, 2])
def test_transparency_is_dropped(tmp_path: Path, separate: bool, alpha: int) -> None:
    alphas = RNG.integers(0, 65536, SIZE).astype(np.uint16)
    for name, values, photometric in (("rgb", noise("uint16", *SIZE, 3), 2), ("grey", noise("uint16", *SIZE), 1)):
        data = tiff(page(np.dstack([values, alphas]), photometric=photometric, separate=separate, tags={338: alpha}))
        assert_shows(written(tmp_path / f"{name}.tif", data), shown(values))


def test_three_channels_are_rgb_whatever_the_writer_calls_them(tmp_path: Path) -> None:
    """GDAL and tifffile call three channels of 16 bits grey and two more."""
    values = noise("uint16", *SIZE, 3)
    data = tiff(page(values, photometric=1, tags={338: [0, 0]}))
    assert_shows(written(tmp_path / "gdal.tif", data), shown(values))
    data = tiff(page(np.dstack([values, values[..., 0]]), photometric=2, tags={338: 0}))
    assert_shows(written(tmp_path / "any fourth.tif", data), shown(values))


@pytest.mark.parametrize(("channels", "extra"), [(2, [0]), (4, [0, 0, 0]), (5, [0] * 4), (13, [0] * 12)])
@pytest.mark.parametrize("separate", [False, True])
def test_other_numbers_of_channels_are_refused(tmp_path: Path, channels: int, extra: list[int], separate: bool) -> None:
    path = written(
        tmp_path / "a.tif", tiff(page(noise("uint16", *SIZE, channels), separate=separate, tags={338: extra}))
    )
    with pytest.raises(DataError, match=rf"a\.tif: has {channels} channels; an image has one .* file of their own"):
        read_image(path)
    with pytest.raises(DataError, match=rf"a\.tif: the mask is a .*of {channels} channels.*Convert the colours to ids"):
        read_mask(path)


@pytest.mark.parametrize("nodata", ["65535", "65535.0", " 65535"])
def test_nodata_does_not_stretch_the_scale(tmp_path: Path, nodata: str) -> None:
    values = noise("uint16", *SIZE) % 4096
    values[:5] = 65535
    path = written(tmp_path / "a.tif", tiff(page(values, tags={42113: nodata})))
    assert_shows(path, shown(values, values != 65535))
    path = written(tmp_path / "b.tif", tiff(page(values, photometric=0, tags={42113: nodata})))
    assert_shows(path, np.where(values == 65535, 0, 255 - shown(values, values != 65535)))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("nodata", ["", "none", "1e400", "-3.5", "99999999999999999999", "nan"])
def test_nodata_that_no_value_can_be(tmp_path: Path, nodata: str) -> None:
    values = noise("uint16", *SIZE)
    assert_shows(written(tmp_path / "a.tif", tiff(page(values, tags={42113: nodata}))), shown(values))


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, -3.4028234663852886e38])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_that_are_none(tmp_path: Path, missing: float, dtype: str) -> None:
    values = noise(dtype, *SIZE, 3)
    values[3:8] = missing
    tags = {} if not np.isfinite(missing) else {42113: repr(missing)}
    path = written(tmp_path / "a.tif", tiff(page(values, photometric=2, tags=tags)))
    known = np.ones(values.shape, bool)
    known[3:8] = False
    assert_shows(path, shown(values, known), 1)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int16", "int32", "float32", "float64"])
def test_ends_of_the_range_that_stand_for_nothing(tmp_path: Path, dtype: str) -> None:
    """Without a tag that says so they may be light too strong, so the highest becomes white."""
    limits = np.finfo(dtype) if "float" in dtype else np.iinfo(dtype)
    values = (RNG.random(SIZE) * 400 + 1000).astype(dtype)
    for end, becomes in ((limits.max, 255), (limits.min, 0)):
        if end:
            filled = values.copy()
            filled[:5] = end
            path = written(tmp_path / f"{becomes}.tif", tiff(page(filled)))
            expected = np.where(filled == end, becomes, shown(values[5:]).min())
            expected[5:] = shown(values[5:])
            assert_shows(path, expected, 1 if "float" in dtype else 0)


def test_light_too_strong_counts(tmp_path: Path) -> None:
    """Of a photograph there are values in between; and of two values one is black, the other white."""
    values = RNG.integers(0, 65536, SIZE).astype(np.uint16)
    values[:5] = 65535
    assert_shows(written(tmp_path / "a.tif", tiff(page(values))), shown(values))
    values[5:] = 0
    assert_shows(written(tmp_path / "b.tif", tiff(page(values))), (values > 0) * 255)


def test_nothing_but_missing_values(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", tiff(page(np.full(SIZE, np.nan, np.float32))))
    with pytest.raises(DataError, match=r"a\.tif: no value in it is finite and other than its nodata value"):
        read_image(path)


def test_decibels_keep_their_contrast(tmp_path: Path) -> None:
    values = np.linspace(-30, -5, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    found = read_image(written(tmp_path / "a.tif", tiff(page(values))))[..., 0]
    assert (found.min(), found.max()) == (0, 255)
    assert abs(float(found.mean()) - 127.5) < 1


def test_a_few_values_below_zero_leave_zero_black(tmp_path: Path) -> None:
    """As resampling makes them."""
    values = np.linspace(0, 7, 5000, dtype=np.float32).reshape(50, 100)
    values[0, :3] = -1
    found = read_image(written(tmp_path / "a.tif", tiff(page(values))))[..., 0]
    np.testing.assert_allclose(found, (values / np.percentile(values, 99.9) * 255).clip(0, 255).round())


@pytest.mark.parametrize("value", [-5, 0, 9])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_flat_images(tmp_path: Path, value: int, dtype: str) -> None:
    found = read_image(written(tmp_path / "a.tif", tiff(page(np.full(SIZE, value, dtype)))))
    assert np.unique(found).tolist() == [255 if value > 0 else 0]


def test_extremes_of_float(tmp_path: Path) -> None:
    values = np.where(RNG.random(SIZE) < 0.5, -3e38, 3e38).astype(np.float32)
    assert_shows(written(tmp_path / "a.tif", tiff(page(values))), (values > 0) * 255)


STACK = RNG.integers(0, 4, (5, *SIZE)).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"imagej": True}, {"ome": True}])
def test_stacks_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", **options)
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match=r"a\.tif: holds 5 pages.*save the one to use.*as a file of its own"):
            read(path)


def test_stacks_that_one_page_stands_for_are_refused(tmp_path: Path) -> None:
    """As ImageJ writes large ones, and tifffile, and such with SGI's ImageDepth."""
    for name, told in (("imagej", "ImageJ=1.54f\nimages=5\nslices=5\n"), ("tifffile", '{"shape": [5, 20, 31]}')):
        tags, strips = page(STACK[0], rows=20, tags={270: told})
        path = written(tmp_path / f"{name}.tif", tiff((tags, strips)) + STACK[1:].tobytes())
        # such a file's only page comes first, then all its images
        with pytest.raises(DataError, match=rf"{name}\.tif: holds 5 pages"):
            read_image(written(path, moved_to_the_end(path.read_bytes(), STACK.tobytes())))
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", volumetric=True, tile=(5, 16, 16))
    with pytest.raises(DataError, match=r"deep\.tif: holds 5 pages"):
        read_image(path)


def moved_to_the_end(data: bytes, pixels: bytes) -> bytes:
    """The file with its one strip at its end."""
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        place = opened.pages[0].tags[273].valueoffset  # type: ignore[union-attr]
    return data[:place] + len(data).to_bytes(4, "little") + data[place + 4 :] + pixels


def test_smaller_copies_and_transparency_are_no_further_pages(tmp_path: Path) -> None:
    """Overviews and masks of GDAL, in the list of pages, and pyramids of OME, below the page."""
    small = page(STACK[1][::2, ::2], tags={254: 1})
    mask = page((STACK[2] > 1).astype(np.uint8), 1, 4, tags={254: 4})
    both = page((STACK[3][::2, ::2] > 1).astype(np.uint8), 1, 4, tags={254: 5})
    old = page(STACK[1][::2, ::2], tags={255: 2})
    for name, pages in (("after", (page(STACK[0]), small, mask, both, old)), ("before", (small, page(STACK[0])))):
        path = written(tmp_path / f"{name}.tif", tiff(*pages))
        np.testing.assert_array_equal(read_mask(path), STACK[0])
        assert_shows(path, STACK[0])
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(STACK[0], subifds=1, photometric="minisblack")
        writer.write(STACK[0][::2, ::2], subfiletype=1, photometric="minisblack")
    np.testing.assert_array_equal(read_mask(path), STACK[0])
    path = written(tmp_path / "only.tif", tiff(small))
    with pytest.raises(DataError, match=r"only\.tif: holds smaller copies or masks of an image, not an image itself"):
        read_image(path)


def test_pages_of_a_document_are_pages(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", tiff(page(STACK[0], tags={254: 2}), page(STACK[1], tags={254: 2})))
    with pytest.raises(DataError, match=r"a\.tif: holds 2 pages"):
        read_mask(path)


REFUSED = [
    (page(RGB, photometric=8), r"colours of CIELAB, of 8 bits, aren't read .*convert it to RGB"),
    (page(RGB, photometric=9), "colours of ICCLAB"),
    (page(RGB, photometric=6, tags={530: [1, 1]}), r"colours of YCBCR.*from NONE TIFFs"),
    (page(RGB, photometric=6), "colours of YCBCR"),
    (page(RGB[..., 0], photometric=32803), "colours of CFA"),
    (page(RGB[..., 0], photometric=34892), "colours of LINEAR_RAW"),
    (page(RGB, photometric=32844), "colours of LOGL"),
    (page(RGB[..., 0], photometric=4), "colours of MASK"),
    (page(RGB[..., 0], photometric=777), "colours of 777"),
    (page(np.dstack([RGB, RGB[..., 0]]), photometric=5, tags={332: 2}), "colours of SEPARATED"),
    (page(np.dstack([RGB, RGB[..., 0]]).astype(np.float32), photometric=5), "colours of SEPARATED, of 32 bits"),
    (page(RGB, photometric=5), "has 3 channels"),
    (page(RGB[..., 0], photometric=2), "has 1 channels"),
    (page(RGB[..., 0], photometric=3), "a palette image without a palette"),
    (page(RGB[..., 0], photometric=None), "doesn't say whether its zero is black or white"),
    (page(RGB[..., 0].astype(np.complex64)), "samples of 64 bits and format COMPLEXIEEEFP aren't read"),
    (page(RGB[..., 0].astype(np.int64), 12, tags={339: 2}), "samples of 12 bits and format INT aren't read"),
    (page(RGB[..., 0], 24), "samples of 24 bits and format UINT aren't read"),
    (page(RGB, photometric=2, tags={258: [5, 6, 5]}), r"samples of \(5, 6, 5\) bits"),
    (page(RGB[..., 0], tags={259: 6}), "compression OJPEG isn't read"),
    (page(RGB[..., 0], tags={259: 34677}), "compression SGILOG24 isn't read|compression .* isn't read"),
    (page(RGB[..., 0], tags={259: 65000}), r"compression .* isn't read"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_kinds_that_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path / "a.tif", tiff(content))
    with pytest.raises(DataError, match=rf"a\.tif: .*({message})"):
        read_image(path)


@pytest.mark.parametrize("dtype", [t for t in TYPES if "float" not in t])
def test_masks_hold_the_stored_values(tmp_path: Path, dtype: str) -> None:
    limits = np.iinfo(dtype)
    low, high = max(limits.min, -(2**31)), min(limits.max, 2**31 - 1)
    values = RNG.integers(low, high + 1, SIZE).astype(dtype)
    values[0, :2] = low, high
    found = read_mask(written(tmp_path / "a.tif", tiff(page(values))))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(("dtype", "value"), [("uint32", 2**31), ("uint64", 2**63), ("int64", -(2**31) - 1)])
def test_masks_beyond_int32_are_refused(tmp_path: Path, dtype: str, value: int) -> None:
    values = np.zeros(SIZE, dtype)
    values[3, 4] = value
    with pytest.raises(DataError, match=rf"a\.tif: the mask holds the value {value}; class ids must fit 32 bits"):
        read_mask(written(tmp_path / "a.tif", tiff(page(values))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fractions_are_no_mask(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(DataError, match=rf"a\.tif: the mask holds {dtype} values; class ids are whole numbers"):
        read_mask(written(tmp_path / "a.tif", tiff(page(np.ones(SIZE, dtype)))))


def test_one_bit_of_which_zero_is_white_is_no_mask(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", tiff(page(RGB[..., 0] % 2, 1, 0)))
    with pytest.raises(DataError, match=r"a\.tif: of 1 bit, in which 0 is white: .*save the mask as a PNG"):
        read_mask(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_compression_that_changes_ids_is_refused(tmp_path: Path, compression: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB[..., 0], compression=compression)
    with pytest.raises(DataError, match=r"a\.tif: its values are changed by JPEG( 2000)? compression; save .* PNG"):
        read_mask(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [*LOSSLESS, "jpeg"])
@pytest.mark.parametrize("rows", [6, 20])
def test_cut_off_files_are_refused(tmp_path: Path, compression: str | None, rows: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression=compression, rowsperstrip=rows)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, len(whole) // 5, 200, 9):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.tif: (is cut off|can't be read)"):
            read_image(path)


def test_pages_that_are_cut_off_count(tmp_path: Path) -> None:
    """A stack of which the first page alone is left is no image of one page."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata=None, compression="zlib", rowsperstrip=20)
    with tifffile.TiffFile(path) as opened:
        second = opened.pages[1].offset
    path.write_bytes(path.read_bytes()[: second - 2])
    with pytest.raises(DataError, match=r"a\.tif: is cut off or damaged: a further page"):
        read_image(path)


def test_lost_tags_are_not_taken_for_absent_ones(tmp_path: Path) -> None:
    """Without SampleFormat numbers below zero would be read as large ones."""
    data = tiff(page(noise("int16", *SIZE, 3), photometric=2))
    entry = data.index(struct.pack("<HHL", 339, 3, 3))
    path = written(tmp_path / "a.tif", data[: entry + 8] + struct.pack("<L", 10**6) + data[entry + 12 :])
    with pytest.raises(DataError, match=r"a\.tif: is cut off or damaged: its tags \[339\] can't be read"):
        read_image(path)


def test_parts_that_were_never_written_are_refused(tmp_path: Path) -> None:
    tags, strips = page(RGB[..., 0], rows=5)
    path = written(tmp_path / "a.tif", tiff((tags, [strips[0], b"", *strips[2:]])))
    with pytest.raises(DataError, match=r"a\.tif: 1 of its 4 strips or tiles hold nothing.*SPARSE_OK"):
        read_image(path)
    path = written(tmp_path / "b.tif", tiff((tags, strips[:-1])))
    with pytest.raises(DataError, match=r"b\.tif: 1 of its 4 strips or tiles hold nothing"):
        read_mask(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_what_pillow_writes(tmp_path: Path, mode: str, compression: str | None) -> None:
    grey = Image.fromarray(RGB[..., 0])
    image = Image.fromarray(noise("uint16", *SIZE)) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    image = grey.convert(mode) if mode in ("1", "LA", "F") else image
    image.save(tmp_path / "a.tif", compression=compression)
    expected = shown(np.asarray(image)) if mode in ("I;16", "F") else np.asarray(image.convert("RGB"))
    assert_shows(tmp_path / "a.tif", expected)
    if mode in ("1", "L", "P", "I;16"):
        np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), np.asarray(image))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_what_opencv_writes(tmp_path: Path, dtype: str, compression: int) -> None:
    for values in (np.abs(noise(dtype, *SIZE)), np.abs(noise(dtype, *SIZE, 3))):
        path = tmp_path / f"{values.ndim}.tif"
        bgr = values[..., ::-1] if values.ndim == 3 else values
        cv2.imwrite(str(path), bgr, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        assert_shows(path, shown(values), 1 if dtype == "float32" else 0)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What tifffile logs of odd files is an error or doesn't matter."""
    path = written(tmp_path / "a.tif", tiff(page(RGB[..., 0], tags={42113: "none", 270: "ImageJ=\n"})))
    read_image(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError):
        read_image(path)
    assert capfd.readouterr() == ("", "")
