"""Reading images and masks, and fitting them to the backbone's input."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import imagecodecs
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageFile

from fungi_seg import DataError, FungiSegError, InputConfig
from fungi_seg.images.fitting import fit_image, fit_mask, input_size
from fungi_seg.images.reading import is_deep, measured, read_image, read_mask, to_array
from fungi_seg.images.settings import VOID
from fungi_seg.images.suffixes import IMAGE_SUFFIXES
from fungi_seg.rasters import colours, limits

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = RGB[..., 0]
TWELVE_BITS = RNG.integers(0, 4096, (20, 30, 3)).astype(np.uint16)
DISPLAYED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}

patches = st.tuples(st.integers(1, 16), st.integers(1, 16))
sides = st.integers(1, 60)
pictures = st.tuples(sides, sides, st.integers(0, 9)).map(
    lambda t: np.random.default_rng(t[2]).integers(0, 256, (t[0], t[1], 3)).astype(np.uint8)
)
fits = st.sampled_from(["resize", "pad"])
sizes = st.one_of(st.integers(1, 90), st.tuples(st.integers(1, 90), st.integers(1, 90)))
configs = st.one_of(
    st.builds(InputConfig, sizes, st.booleans(), fits), st.builds(InputConfig, size=st.none(), fit=fits)
)


def scaled(image: np.ndarray) -> np.ndarray:
    """What deep images should become: the 99.9th percentile at 255."""
    return (image / np.percentile(image, 99.9) * 255).clip(0, 255).round()


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_rgb(tmp_path: Path, suffix: str) -> None:
    found = read_image(saved(tmp_path / f"a{suffix}", Image.fromarray(RGB)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, RGB)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG"), (".tif", "TIFF"), (".jp2", "JPEG2000")]
)
def test_measured_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kind: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (70, 40)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=AssertionError("decoded")))
    assert measured(path) == measured(path.read_bytes()) == (kind, 40, 70)
    cut = tmp_path / "cut.png"
    cut.write_bytes(path.read_bytes()[:9])
    with pytest.raises(DataError, match=r"cut\.png: can't be read as an image"):
        measured(cut)


def test_path_as_text(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(str(saved(tmp_path / "a.png", Image.fromarray(RGB)))), RGB)


def test_grey(tmp_path: Path) -> None:
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(GREY)))
    np.testing.assert_array_equal(found, np.dstack([GREY] * 3))


def test_one_bit(tmp_path: Path) -> None:
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(GREY > 127)))
    np.testing.assert_array_equal(found, np.dstack([(GREY > 127) * np.uint8(255)] * 3))


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 4)
    image.putpalette([0, 0, 0, 250, 0, 0, 0, 240, 0, 0, 0, 230])
    colours = np.array([[0, 0, 0], [250, 0, 0], [0, 240, 0], [0, 0, 230]], np.uint8)
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", image)), colours[GREY % 4])


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = RGB[..., 1]
    rgba = saved(tmp_path / "rgba.png", Image.fromarray(np.dstack([RGB, alpha])))
    la = saved(tmp_path / "la.png", Image.fromarray(np.dstack([GREY, alpha]), "LA"))
    np.testing.assert_array_equal(read_image(rgba), RGB)
    np.testing.assert_array_equal(read_image(la), np.dstack([GREY] * 3))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    found = read_image(saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)))).astype(int)
    assert found.shape == (16, 16, 3)
    assert found[..., 0].min() > 180
    assert found[..., 1:].max() < 80


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    blocks = np.array([[[240, 20, 20], [20, 240, 20], [20, 20, 240]], [[20, 20, 20], [240, 240, 240], [240, 240, 20]]])
    stored = blocks.repeat(16, 0).repeat(16, 1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", Image.fromarray(stored), quality=95, subsampling=0, exif=exif)
    shown = DISPLAYED[orientation](stored).astype(int)
    found = read_image(path)
    assert found.shape == shown.shape
    assert np.abs(found - shown).mean() < 5
    with Image.open(path) as opened:
        np.testing.assert_array_equal(to_array(opened), found)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_12_in_16_bits(tmp_path: Path, suffix: str) -> None:
    deep = TWELVE_BITS[..., 0]
    found = read_image(saved(tmp_path / f"a{suffix}", Image.fromarray(deep)))
    np.testing.assert_array_equal(found, np.dstack([scaled(deep)] * 3))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colour_of_12_in_16_bits(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"a{suffix}"), TWELVE_BITS[..., ::-1])
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}"), scaled(TWELVE_BITS), atol=1)


def test_uncompressed_colour_tiff_of_16_bits(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), TWELVE_BITS[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), scaled(TWELVE_BITS), atol=1)


def test_black_of_16_bits_stays_black(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.zeros((8, 8), np.uint16)))
    assert not read_image(path).any()


def test_float_tiff(tmp_path: Path) -> None:
    values = RNG.random((20, 30)).astype(np.float32) * 7
    grey = read_image(saved(tmp_path / "grey.tif", Image.fromarray(values)))
    np.testing.assert_array_equal(grey, np.dstack([scaled(values)] * 3))
    colour = np.dstack([values, values / 2, values / 4])
    cv2.imwrite(str(tmp_path / "colour.tif"), colour[..., ::-1])
    np.testing.assert_allclose(read_image(tmp_path / "colour.tif"), scaled(colour), atol=1)


def test_float_tiff_with_nan_is_not_blacked_out(tmp_path: Path) -> None:
    """Missing values either are an error or leave the other pixels as they are."""
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0, 0] = np.nan
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    try:
        found = read_image(path)
    except DataError as error:
        assert "a.tif" in str(error)  # noqa: PT017
    else:
        assert found[-1, -1, 0] > 200


def broken(folder: Path, kind: str) -> Path:
    """A path at which there is no readable image."""
    path = folder / f"broken{'.jpg' if kind == 'jpeg' else '.png'}"
    if kind == "folder":
        path.mkdir()
    elif kind in ("jpeg", "png"):
        Image.fromarray(GREY).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "deep png":
        Image.fromarray(TWELVE_BITS[..., 0]).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "this is no image\n" * 100)
    return path


BROKEN = ["jpeg", "png", "deep png", "empty", "text", "missing", "folder"]


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("read", [read_image, read_mask, to_array])
def test_unreadable_files_are_named(tmp_path: Path, kind: str, read: Callable[[Path], np.ndarray]) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(DataError, match="no such" if kind == "missing" else "can't be read as a") as raised:
        read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_beyond_the_largest_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], np.ndarray], suffix: str
) -> None:
    path = saved(tmp_path / f"huge{suffix}", Image.fromarray(GREY))
    monkeypatch.setattr(limits, "MOST_PIXELS", 599)
    with pytest.raises(DataError, match=r"huge\.\w+: has 20×30 pixels .*600 in all; at most 599 are read: cut it"):
        read(path)
    monkeypatch.setattr(limits, "MOST_PIXELS", 600)
    assert read(path).shape[:2] == (20, 30)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.ppm", "a.tif", "a.jp2"])
def test_limits_that_pillow_has_for_all_of_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It warns of, and refuses, images that are large, but not too large for us; and its setting stays."""
    path = saved(tmp_path / name, Image.fromarray(RGB))
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    for most in (500, 10):  # too large by a fifth, at which Pillow warns, and by far
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        np.testing.assert_array_equal(read_image(path), expected)
        assert most == Image.MAX_IMAGE_PIXELS


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of such tags: number, type, count, and the four bytes of the value or its place."""
    tags = b"".join(struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries)) + tags + b"\0" * 4


TURNED = (0x0112, 3, 1, b"\6\0\0\0")
BROKEN_TAGS = [
    (0x0100, 9, 1, b"\xff\xff\xff\xff"),  # a width below zero
    (0x011A, 5, 1, b"\xff\xff\xff\0"),  # a fraction beyond the block
    (0x010F, 3, 1, b"\7\0\0\0"),  # a number in place of the camera's name
    (0x011A, 2, 4, b"abc\0"),  # a text in place of a fraction
    (0x0112 + 1, 99, 1, b"\0\0\0\0"),  # a type that isn't there
    (0x8769, 4, 1, b"\xff\xff\xff\0"),  # more tags beyond the block
    (0x9286, 7, 10**6, b"\xff\xff\xff\0"),  # a comment longer than the file
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("broken_tag", BROKEN_TAGS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_images_are_turned_whatever_other_tags_say(
    tmp_path: Path, broken_tag: tuple[int, int, int, bytes], suffix: str
) -> None:
    entries = sorted([TURNED, broken_tag])
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(RGB), exif=exif_block(*entries), quality=95)
    plain = saved(tmp_path / f"b{suffix}", Image.fromarray(RGB), quality=95)
    np.testing.assert_array_equal(read_image(path), np.rot90(read_image(plain), -1))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("data", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense"])
def test_exif_data_that_is_none(tmp_path: Path, data: bytes) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(RGB), exif=data, quality=95)
    plain = saved(tmp_path / "b.jpg", Image.fromarray(RGB), quality=95)
    np.testing.assert_array_equal(read_image(path), read_image(plain))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_there_are_not(tmp_path: Path, orientation: int) -> None:
    exif = exif_block((0x0112, 3, 1, struct.pack("<L", orientation)))
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", Image.fromarray(RGB), exif=exif)), RGB)


def test_masks_that_say_they_are_turned(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GREY), exif=exif_block(TURNED))
    with pytest.raises(DataError, match=r"a\.png: the mask's EXIF data says it is turned \(orientation 6\)"):
        read_mask(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], np.ndarray]
) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GREY))
    for error in (struct.error("wrong"), TypeError("wrong"), KeyError("wrong"), MemoryError(), ZeroDivisionError()):
        monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=error))
        with pytest.raises(DataError, match=rf"a\.png: can't be read as an? \w+ \({type(error).__name__}"):
            read(path)


ANIMATED = [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.avif", {})]


@pytest.mark.parametrize(("name", "options"), ANIMATED)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_animations_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any], read: Callable[[Path], np.ndarray]
) -> None:
    frames = [Image.fromarray(RGB[..., c]) for c in range(3)]
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    with pytest.raises(DataError, match=rf"{name}: holds 3 frames.*save the one to use"):
        read(path)


def test_further_pictures_of_a_photograph_do_not_count(tmp_path: Path) -> None:
    """Cameras put previews and second views behind it, in the format MPO."""
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, "MPO", save_all=True, append_images=[Image.fromarray(RGB[::-1])], quality=95)
    plain = saved(tmp_path / "b.jpg", Image.fromarray(RGB), quality=95)
    np.testing.assert_array_equal(read_image(path), read_image(plain))


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".gif", ".ppm", ".jp2", ".avif"])
def test_further_formats_of_photographs(tmp_path: Path, suffix: str) -> None:
    smooth = cv2.resize(RGB[:4, :6], (48, 32), interpolation=cv2.INTER_LINEAR)
    found = read_image(saved(tmp_path / f"a{suffix}", Image.fromarray(smooth)))
    assert np.abs(found.astype(int) - smooth).mean() < 10
    assert suffix in IMAGE_SUFFIXES


@pytest.mark.parametrize("highest", [4095, 65535, 1000])
def test_deep_ppm_and_jpeg_2000_files(tmp_path: Path, highest: int) -> None:
    """Pillow makes 8 bits of them, so that 12 in 16 bits are nearly black."""
    values = np.minimum(TWELVE_BITS, highest) // 4
    for grey, letter in ((False, "6"), (True, "5")):
        stored = values[..., 0] if grey else values
        path = tmp_path / f"{letter}.pnm"
        path.write_bytes(f"P{letter} 30 20 {highest}\n".encode() + stored.astype(">u2").tobytes())
        np.testing.assert_allclose(
            read_image(path).squeeze(), scaled(np.dstack([stored] * 3 if grey else [stored])), atol=1
        )
        path = tmp_path / f"{letter}.jp2"
        path.write_bytes(imagecodecs.jpeg2k_encode(stored, level=0))
        np.testing.assert_allclose(read_image(path), scaled(np.dstack([stored] * 3 if grey else [stored])), atol=1)


def test_radiance(tmp_path: Path) -> None:
    """Light as floats, of 8 bits and an exponent."""
    values = cv2.resize(RGB, (30, 20)).astype(np.float32) / 7
    cv2.imwrite(str(tmp_path / "a.hdr"), values[..., ::-1])
    np.testing.assert_allclose(read_image(tmp_path / "a.hdr"), scaled(values), atol=2)
    assert is_deep(tmp_path / "a.hdr")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colours_are_turned(tmp_path: Path, orientation: int) -> None:
    encoded = imagecodecs.png_encode(TWELVE_BITS)
    block = exif_block((0x0112, 3, 1, struct.pack("<L", orientation)))[6:]
    chunk = struct.pack(">L", len(block)) + b"eXIf" + block + struct.pack(">L", zlib.crc32(b"eXIf" + block))
    path = tmp_path / "a.png"
    path.write_bytes(encoded[:33] + chunk + encoded[33:])  # after the header
    np.testing.assert_allclose(read_image(path), DISPLAYED[orientation](scaled(TWELVE_BITS)), atol=1)


def small_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of fewer than 8 bits."""
    rows = (np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in values)
    parts = [
        (b"IHDR", struct.pack(">LLBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">L", len(d)) + t + d + struct.pack(">L", zlib.crc32(t + d)) for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_are_not_stretched(tmp_path: Path, bits: int) -> None:
    values = GREY % 2**bits
    path = tmp_path / "a.png"
    path.write_bytes(small_png(values, bits))
    np.testing.assert_array_equal(read_mask(path), values)
    np.testing.assert_array_equal(read_image(path)[..., 0], values * (255 // (2**bits - 1)))


@pytest.mark.parametrize("highest", [1, 5, 20, 254, 255, 256, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_masks_are_not_stretched(tmp_path: Path, highest: int, plain: bool) -> None:
    values = RNG.integers(0, highest + 1, GREY.shape)
    path = tmp_path / "a.pgm"
    raw = (
        " ".join(map(str, values.ravel())).encode()
        if plain
        else values.astype("u1" if highest < 256 else ">u2").tobytes()
    )
    path.write_bytes(f"P{2 if plain else 5}\n30 20\n{highest}\n".encode() + raw)
    np.testing.assert_array_equal(read_mask(path), values)


def test_masks_of_ink_on_paper_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pbm", Image.fromarray(GREY > 127))
    with pytest.raises(DataError, match=r"a\.pbm: of 1 bit, in which 0 is white: .*save the mask as a PNG"):
        read_mask(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.bmp"])
@pytest.mark.parametrize("inside", ["JPEG", "JPEG2000", "WEBP"])
def test_masks_of_formats_that_change_ids_are_refused(tmp_path: Path, name: str, inside: str) -> None:
    path = tmp_path / name
    Image.fromarray(GREY).save(path, inside)
    with pytest.raises(DataError, match=rf"{name}: can't be read as a mask: .*it is {inside} inside.*save it as a PNG"):
        read_mask(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA", "RGBA", "PA", "CMYK", "I;16"])
def test_large_images_are_read_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    deep = Image.fromarray(TWELVE_BITS[..., 0])
    image = deep if mode == "I;16" else Image.fromarray(RGB).convert("L" if mode == "LA" else "RGB").convert(mode)
    whole = to_array(image)
    monkeypatch.setattr(colours, "STRIP_PIXELS", 100)
    np.testing.assert_array_equal(to_array(image), whole)


@pytest.mark.filterwarnings("error")
def test_palettes_with_transparency_print_no_warning(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 4)
    image.putpalette([9, 9, 9, 250, 0, 0, 0, 240, 0, 0, 0, 230])
    path = saved(tmp_path / "a.png", image, transparency=bytes([0, 128, 255, 3]))
    assert read_image(path)[..., 0].max() == 250
    with Image.open(path) as opened:
        assert to_array(opened)[..., 0].max() == 250
        assert "transparency" in opened.info


@pytest.mark.parametrize("name", ["a.png", "a.jp2", "a.ppm"])
def test_deep_colours_that_are_cut_off(tmp_path: Path, name: str) -> None:
    """OpenCV fills such images up, and prints a line."""
    path = tmp_path / name
    path.write_bytes(imagecodecs.png_encode(TWELVE_BITS) if name == "a.png" else imagecodecs.jpeg2k_encode(TWELVE_BITS))
    if name == "a.ppm":
        path.write_bytes(b"P6 30 20 4095\n" + TWELVE_BITS.astype(">u2").tobytes())
    whole = path.read_bytes()
    read_image(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{name}: can't be read as an image"):
        read_image(path)


def test_deep_colours_that_opencv_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(TWELVE_BITS))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with pytest.raises(DataError, match=r"a\.png: its colours of more than 8 bits can't be read from PNG; save it as"):
        read_image(path)


@pytest.mark.parametrize(("name", "deep"), [("a.jpg", False), ("a.png", False), ("a.tif", False), ("deep.png", True)])
def test_bits_of_a_file(tmp_path: Path, name: str, deep: bool) -> None:
    cv2.imwrite(str(tmp_path / name), TWELVE_BITS if deep else RGB)
    cv2.imwrite(str(tmp_path / "deep.tif"), TWELVE_BITS)
    assert is_deep(tmp_path / name) == deep
    assert is_deep(tmp_path / "deep.tif")


def test_to_array_shares_no_memory() -> None:
    """Neither with arrays, nor with tensors or pictures."""
    for given_ in (RGB.copy(), GREY.copy(), np.dstack([RGB, GREY]), RGB[:, ::-1], TWELVE_BITS.copy(), RGB / 255):
        before = given_.copy()
        to_array(given_)[:] = 7
        np.testing.assert_array_equal(given_, before)
    tensor = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    to_array(tensor)[:] = 7
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), RGB)
    picture = Image.fromarray(RGB)
    to_array(picture)[:] = 7
    np.testing.assert_array_equal(np.asarray(picture), RGB)


def test_index_masks(tmp_path: Path) -> None:
    values = GREY % 5
    palette = Image.fromarray(values)
    palette.putpalette([9, 9, 9] * 5)
    for name, image, expected in (
        ("grey.png", Image.fromarray(values), values),
        ("palette.png", palette, values),
        ("bits.png", Image.fromarray(values > 2), values > 2),
        ("deep.png", Image.fromarray(values.astype(np.uint16) * 300), values.astype(int) * 300),
        ("deep.tif", Image.fromarray(values.astype(np.uint16) * 300), values.astype(int) * 300),
        ("gif.gif", palette, values),
    ):
        found = read_mask(saved(tmp_path / name, image))
        assert np.issubdtype(found.dtype, np.integer)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_masks_are_refused(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "mask.png", Image.fromarray(RGB).convert(mode))
    with pytest.raises(DataError, match=rf"mask\.png: the mask is a {mode} image.*Convert the colours to ids"):
        read_mask(path)


def test_to_array_of_pictures(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    for given_ in (path, str(path), Image.fromarray(RGB), Image.fromarray(np.dstack([RGB, GREY]))):
        np.testing.assert_array_equal(to_array(given_), RGB)
    deep = TWELVE_BITS[..., 0]
    np.testing.assert_array_equal(to_array(Image.fromarray(deep)), np.dstack([scaled(deep)] * 3))


def test_to_array_of_arrays() -> None:
    grey = np.dstack([GREY] * 3)
    for given_, expected in (
        (RGB, RGB),
        (GREY, grey),
        (GREY[..., None], grey),
        (np.dstack([RGB, GREY]), RGB),
        (RGB / 255, RGB),
        ((GREY / 255).astype(np.float32), grey),
        (TWELVE_BITS, scaled(TWELVE_BITS)),
        (TWELVE_BITS[..., 0], np.dstack([scaled(TWELVE_BITS[..., 0])] * 3)),
    ):
        found = to_array(given_)
        assert found.dtype == np.uint8
        assert found.shape == (20, 30, 3)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_to_array_of_tensors(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    given_ = tensor if dtype == torch.uint8 else (tensor.to(dtype) / 255).requires_grad_()
    np.testing.assert_array_equal(to_array(given_), RGB)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(20, 30), r"tensor of shape \[20, 30\].*must be \[3, H, W\]"),
        (torch.zeros(20, 30, 3), r"tensor of shape \[20, 30, 3\]"),
        (torch.zeros(1, 3, 20, 30), r"tensor of shape \[1, 3, 20, 30\]"),
        (np.zeros(5, np.uint8), r"array of shape \(5,\)"),
        (np.zeros((4, 4, 2), np.uint8), r"array of shape \(4, 4, 2\)"),
        (np.zeros((3, 20, 30), np.uint8), r"array of shape \(3, 20, 30\)"),
        (np.zeros((0, 4, 3), np.uint8), r"array of shape \(0, 4, 3\)"),
        (np.full((4, 4), 1.5), r"from 1\.5 to 1\.5; floats must be in 0\.\.1"),
        (np.full((4, 4), -0.1), r"floats must be in 0\.\.1"),
        (np.full((4, 4), np.nan), r"floats must be in 0\.\.1"),
        (torch.full((3, 4, 4), 255.0), r"floats must be in 0\.\.1"),
        (None, "image is a NoneType"),
        ([[1, 2], [3, 4]], "image is a list"),
    ],
)
def test_to_array_refuses(image: Any, message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        to_array(image)


@pytest.mark.parametrize("dtype", [bool, complex, object, "U1"])
def test_to_array_refuses_types_without_a_range(dtype: Any) -> None:
    with pytest.raises(FungiSegError, match="image"):
        to_array(np.ones((4, 4)).astype(dtype))


def test_shorter_side() -> None:
    assert input_size((480, 640), InputConfig(256), (16, 16)) == ((256, 336), (256, 336))  # 341⅓ is nearest to 21·16
    assert input_size((640, 480), InputConfig(256), (16, 16)) == ((336, 256), (336, 256))
    assert input_size((480, 640), InputConfig(256, fit="pad"), (16, 16)) == ((256, 341), (256, 352))


def test_square_pair_and_own_size() -> None:
    assert input_size((480, 640), InputConfig(224, keep_aspect=False), (14, 14))[0] == (224, 224)
    assert input_size((480, 640), InputConfig((128, 200)), (16, 8))[0] == (128, 200)
    assert input_size((480, 640), InputConfig(None), (14, 14))[0] == (476, 644)
    assert input_size((481, 641), InputConfig(None, fit="pad"), (14, 14)) == ((481, 641), (490, 644))


@settings(deadline=None)
@given(sides, sides, configs, patches)
def test_input_size(height: int, width: int, config: InputConfig, patch: tuple[int, int]) -> None:
    target = (float(height), float(width))
    if isinstance(config.size, tuple):
        target = config.size
    elif config.size is not None:
        shorter = min(height, width) if config.keep_aspect else None
        target = tuple(config.size * s / shorter if shorter else config.size for s in (height, width))  # type: ignore[assignment]
    if config.fit == "resize" and any(t < p for t, p in zip(target, patch, strict=True)):
        with pytest.raises(DataError, match=rf"{height}×{width} .*smaller than a patch of {patch[0]}×{patch[1]}"):
            input_size((height, width), config, patch)
        return
    content, padded = input_size((height, width), config, patch)
    for inner, outer, wanted, side in zip(content, padded, target, patch, strict=True):
        assert outer % side == 0
        if config.fit == "pad":
            assert abs(inner - wanted) <= 0.5
            assert 0 <= outer - inner < side
        else:
            assert inner == outer > 0
            assert math.isclose(abs(inner - wanted), side / 2) or abs(inner - wanted) < side / 2


@settings(max_examples=60, deadline=None)
@given(pictures, configs, patches)
def test_fit_gives_image_and_mask_one_geometry(image: np.ndarray, config: InputConfig, patch: tuple[int, int]) -> None:
    mask = np.array([VOID, 3, 50, 200], np.int16)[image[..., 0] % 4]
    try:
        content, padded = input_size(mask.shape, config, patch)
    except DataError:
        with pytest.raises(DataError):
            fit_mask(mask, config, patch)
        with pytest.raises(DataError):
            fit_image(image, config, patch)
        return
    fitted, small = fit_image(image, config, patch), fit_mask(mask, config, patch)
    assert fitted.image.dtype == torch.uint8
    assert fitted.image.shape == (3, *padded)
    assert fitted.content == content
    assert small.shape == padded
    assert small.dtype == np.int16
    assert set(np.unique(small)) <= set(np.unique(mask)) | {VOID}
    assert (small[content[0] :] == VOID).all()
    assert (small[:, content[1] :] == VOID).all()


@settings(max_examples=40, deadline=None)
@given(pictures, patches)
def test_padding_keeps_the_content_and_repeats_the_border(image: np.ndarray, patch: tuple[int, int]) -> None:
    config = InputConfig(None, fit="pad")
    height, width = image.shape[:2]
    below, right = -height % patch[0], -width % patch[1]
    fitted = fit_image(image, config, patch)
    assert fitted.content == (height, width)
    expected = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
    np.testing.assert_array_equal(fitted.image.permute(1, 2, 0).numpy(), expected)
    mask = image[..., 0].astype(np.int16)
    np.testing.assert_array_equal(
        fit_mask(mask, config, patch), np.pad(mask, ((0, below), (0, right)), constant_values=VOID)
    )


@pytest.mark.parametrize("size", [(24, 36), (48, 72), (96, 144)])
def test_mask_and_image_stay_aligned(size: tuple[int, int]) -> None:
    """An edge lies at the same place in both, whether they shrink, stay or grow."""
    mask = np.zeros((48, 72), np.int16)
    mask[16:, 24:] = 1
    image = np.dstack([mask * 255] * 3).astype(np.uint8)
    config = InputConfig(size)
    edges = fit_image(image, config, (4, 4)).image[0].numpy() > 127
    np.testing.assert_array_equal(edges, fit_mask(mask, config, (4, 4)) == 1)


def test_fit_image_does_not_change_its_argument() -> None:
    image = RGB.copy()
    fit_image(image, InputConfig(None), (10, 10)).image.zero_()
    np.testing.assert_array_equal(image, RGB)


def test_fit_image_takes_any_view() -> None:
    """Read-only, mirrored, and of every other column."""
    fixed = RGB.copy()
    fixed.flags.writeable = False
    for view in (fixed, RGB[:, ::-1], RGB[::-1], RGB[:, ::2]):
        for size in (None, (10, 10)):
            expected = fit_image(view.copy(), InputConfig(size), (5, 5)).image
            assert torch.equal(fit_image(view, InputConfig(size), (5, 5)).image, expected)


def test_smaller_than_a_patch() -> None:
    image = RGB[:5, :7]
    with pytest.raises(DataError, match=r"5×7 .* smaller than a patch of 8×8.*input\.size, or input\.fit pad"):
        fit_image(image, InputConfig(None), (8, 8))
    fitted = fit_image(image, InputConfig(None, fit="pad"), (8, 8))
    assert fitted.image.shape == (3, 8, 8)
    assert fitted.content == (5, 7)
    np.testing.assert_array_equal(fitted.image[:, :5, :7].permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize("size", [0, -1, (0, 5), (5, -5), (1, 2, 3), (), (None, 64)])
def test_input_size_must_be_a_size(size: Any) -> None:
    with pytest.raises(FungiSegError, match=r"input\.size is .* must be a positive number, \[height, width\] or null"):
        InputConfig(size)


def test_no_aspect_to_keep_at_the_own_size() -> None:
    with pytest.raises(
        FungiSegError, match=r"input\.keep_aspect is False, but input\.size null takes .*or give a size"
    ):
        InputConfig(None, keep_aspect=False)


def test_input_fit_is_a_choice() -> None:
    with pytest.raises(FungiSegError, match=r"input\.fit is 'padd'; it must be one of resize, pad; did you mean 'pad'"):
        InputConfig(fit="padd")
