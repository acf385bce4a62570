"""Reading images and masks, and fitting them to the backbone's input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from fungi_seg import DataError, FungiSegError, InputConfig
from fungi_seg.images.fitting import fit_image, fit_mask, input_size
from fungi_seg.images.reading import read_image, read_mask, to_array
from fungi_seg.images.settings import VOID

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
configs = st.builds(
    InputConfig,
    st.one_of(st.none(), st.integers(1, 90), st.tuples(st.integers(1, 90), st.integers(1, 90))),
    st.booleans(),
    st.sampled_from(["resize", "pad"]),
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
def test_images_beyond_the_safe_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], np.ndarray]
) -> None:
    path = saved(tmp_path / "huge.png", Image.fromarray(GREY))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"huge\.png.*exceeds limit"):
        read(path)


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


def test_input_fit_is_a_choice() -> None:
    with pytest.raises(FungiSegError, match=r"input\.fit is 'padd'; it must be one of resize, pad; did you mean 'pad'"):
        InputConfig(fit="padd")
