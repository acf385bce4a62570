"""How images are shown with their masks: styles, lines, opacity, files; dark and small images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import Run, run  # noqa: F401

from fungi_seg import DataError, FungiSegError, MemoryBank, OverlayConfig, Segmentation
from fungi_seg.images import displayed, in_square, overlay, scaled_to, stretch_of, stretched
from fungi_seg.rasters import colours
from fungi_seg.segmentation import result
from fungi_seg.segmentation.settings import OVERLAYS

PALETTE = np.array([[0, 0, 0], [200, 0, 40], [0, 255, 1]], np.uint8)
CLASSES = ("background", "one", "two")
VOID = 255


def near_others(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels with another value at a distance of `reach` or less, by looking at each pair."""
    found = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(mask.shape):
        for v, u in np.ndindex(mask.shape):
            found[y, x] |= mask[v, u] != mask[y, x] and (v - y) ** 2 + (u - x) ** 2 <= reach**2
    return found


def blobs(height: int = 24, width: int = 31, seed: int = 0) -> np.ndarray:
    """Discs of both classes, some at the border, some that touch, a single pixel, and void."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    y, x = np.ogrid[:height, :width]
    for _ in range(5):
        at, radius = generator.integers((0, 0), (height, width)), generator.integers(3, 8)
        mask[(y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2] = generator.integers(1, 3)
    mask[2, 3] = 2
    mask[-4:, :5] = VOID
    return mask


def noise(height: int = 24, width: int = 31) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def segmentation(mask: np.ndarray, image: np.ndarray) -> Segmentation:
    return Segmentation(mask, torch.zeros(3, 1, 1), (1, 1), CLASSES, PALETTE, image)


def filled(mask: np.ndarray, image: np.ndarray, opacity: float) -> np.ndarray:
    """Without what is unknown."""
    expected = image.astype(float)
    for index in (1, 2):
        where = mask == index
        expected[where] = image[where] * (1 - opacity) + PALETTE[index] * opacity
    return expected.round().astype(np.uint8)


# Styles


@pytest.mark.parametrize("seed", range(4))
def test_contour_is_the_default(seed: int) -> None:
    """Two pixels of the pure colour along every border of a class, a light fill within; no line at the image's edge."""
    mask, image = blobs(seed=seed), noise()
    known = mask != VOID
    line = near_others(mask, 2) & np.isin(mask, (1, 2))
    expected = np.where(line[..., None], PALETTE[np.where(known, mask, 0)], filled(mask, image, 0.2))
    found = np.asarray(segmentation(mask, image).overlay())
    np.testing.assert_array_equal(found[known], expected[known])


def test_contour_of_a_rectangle() -> None:
    """Counted by hand: 12×9 pixels less the 8×5 inside."""
    mask = np.zeros((30, 40), np.uint8)
    mask[8:17, 10:22] = 1
    image = np.full((30, 40, 3), 90, np.uint8)
    found = np.asarray(segmentation(mask, image).overlay())
    light = np.round(90 * 0.8 + PALETTE[1] * 0.2)
    assert (found == PALETTE[1]).all(2).sum() == 12 * 9 - 8 * 5
    assert (found == light).all(2).sum() == 8 * 5
    assert (found == 90).all(2).sum() == 30 * 40 - 12 * 9
    mask[:] = 1
    assert (np.asarray(segmentation(mask, image).overlay()) == light).all()


def test_classes_side_by_side_have_a_line_each() -> None:
    mask = np.ones((6, 20), np.uint8)
    mask[:, 10:] = 2
    found = np.asarray(segmentation(mask, np.full((6, 20, 3), 90, np.uint8)).overlay())
    for index, columns in ((1, (8, 9)), (2, (10, 11))):
        where = (found == PALETTE[index]).all(2)
        assert set(np.nonzero(where)[1]) == set(columns)
        assert where.sum() == 12


@pytest.mark.parametrize("opacity", [None, 0, 0.3, 1])
def test_fill(opacity: float | None) -> None:
    mask, image = blobs(), noise()
    found = np.asarray(segmentation(mask, image).overlay(OverlayConfig("fill", opacity)))
    expected = filled(mask, image, 0.5 if opacity is None else opacity)
    np.testing.assert_array_equal(found[mask != VOID], expected[mask != VOID])


def test_side_by_side() -> None:
    mask, image = blobs(), noise()
    found = np.asarray(segmentation(mask, image).overlay(OverlayConfig("side_by_side", 0.7)))
    gap = found.shape[1] - 2 * 31
    assert found.shape[0] == 24
    np.testing.assert_array_equal(found[:, :31], image)
    assert (found[:, 31 : 31 + gap] == 255).all()
    alone = np.asarray(segmentation(mask, image).overlay(OverlayConfig("fill", 0.7)))
    np.testing.assert_array_equal(found[:, 31 + gap :], alone)


def test_none_leaves_the_image() -> None:
    np.testing.assert_array_equal(np.asarray(segmentation(blobs(), noise()).overlay(OverlayConfig("none"))), noise())


@pytest.mark.parametrize("style", OVERLAYS)
def test_unknown_pixels_are_hatched_in_every_style_with_a_mask(style: str) -> None:
    mask, image = blobs(), np.full((24, 31, 3), 90, np.uint8)
    found = np.asarray(segmentation(mask, image).overlay(OverlayConfig(style)))[:, -31:]
    assert ((found[mask == VOID] != 90).all()) == (style != "none")


@pytest.mark.parametrize("style", OVERLAYS)
@pytest.mark.parametrize("pixels", [31, 70, 300])
def test_strips_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, style: str, pixels: int) -> None:
    """One row, two, and some at a time; lines don't stop where a strip does, nor begin there."""
    for image in (noise(), noise() // 4):
        whole = segmentation(blobs(), image)
        expected = whole.overlay(OverlayConfig(style)).tobytes()
        with monkeypatch.context() as patched:
            patched.setattr(colours, "STRIP_PIXELS", pixels)
            assert whole.overlay(OverlayConfig(style)).tobytes() == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_masks_of_every_type_have_the_same_lines(dtype: type) -> None:
    mask = np.where(blobs() == VOID, 0, blobs())
    expected = overlay(noise(), mask, PALETTE, 0.2, None, 2).tobytes()
    assert overlay(noise(), mask.astype(dtype), PALETTE, 0.2, None, 2).tobytes() == expected


# Files


def test_files_of_every_style(tmp_path: Path) -> None:
    made = segmentation(blobs(), noise())
    for style in OVERLAYS:
        for lossless in (False, True):
            config = OverlayConfig(style, None, lossless)
            made.save(tmp_path / f"{style}{lossless}", "a/photo", overlays=config)
            found = [path.name for path in (tmp_path / f"{style}{lossless}").rglob("overlays/a/*")]
            assert found == ([] if style == "none" else [f"photo{'.png' if lossless else '.jpg'}"])
            if found and lossless:
                with Image.open(tmp_path / f"{style}{lossless}" / "overlays" / "a" / "photo.png") as file:
                    assert (file.format, file.tobytes()) == ("PNG", made.overlay(config).tobytes())


def test_lines_stay_lines_in_jpeg(tmp_path: Path) -> None:
    """JPEG may halve colours; a line of two pixels would be washed out."""
    mask = np.zeros((64, 64), np.uint8)
    mask[17:40, 21:47] = 1
    made = segmentation(mask, np.full((64, 64, 3), 90, np.uint8))
    made.save(tmp_path, "photo")
    with Image.open(tmp_path / "overlays" / "photo.jpg") as file:
        difference = np.abs(np.asarray(file).astype(int) - np.asarray(made.overlay()))
    assert difference[near_others(mask, 2)].mean() < 8


def test_overlays_too_wide_for_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "MOST_JPEG", 60)
    made = segmentation(blobs(), noise())
    made.save(tmp_path, "narrow")
    with pytest.raises(DataError, match=r"wide: its overlay has 24×70 .* 60 at most; write PNG \(--overlays.lossless"):
        made.save(tmp_path, "wide", overlays=OverlayConfig("side_by_side"))
    made.save(tmp_path, "wide", overlays=OverlayConfig("side_by_side", lossless=True))
    assert {path.name for path in (tmp_path / "overlays").iterdir()} == {"narrow.jpg", "wide.png"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: OverlayConfig("contours"),
            "overlays.style is 'contours'; it must be one of contour, fill",
        ),
        (lambda: OverlayConfig(opacity=1.5), r"overlays.opacity is 1.5; it must be 0 \(no fill\) to 1"),
        (lambda: OverlayConfig(opacity=float("nan")), "overlays.opacity is nan"),
        (lambda: segmentation(blobs(), noise()).overlay(0.5), "overlays is 0.5; it must be an OverlayConfig, such as"),
        (lambda: segmentation(blobs(), noise()).save(Path(), "a", overlays=False), "overlays is False; it must be an"),
    ],
)
def test_what_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        make()


# The command


def test_segment_writes_them(run: Run, photo: Path, bank: MemoryBank, tmp_path: Path) -> None:  # noqa: F811
    options = ["--overlays.style", "side_by_side", "--overlays.opacity", "0.8", "--overlays.lossless", "true"]
    code, _, err = run("segment", photo, "--bank", bank.path, "--out", tmp_path / "out", *options)
    assert code == 0, err
    with Image.open(tmp_path / "out" / "overlays" / "photo.png") as file, Image.open(photo) as image:
        assert file.width > 2 * image.width


@pytest.mark.parametrize("given", [["--overlays", "false"], ["--overlays=true"], ["--overlays"]])
def test_overlays_are_no_flag(run: Run, given: list[str]) -> None:  # noqa: F811
    code, _, err = run("segment", "photo.png", "--bank", "b", "--out", "o", *given)
    assert code == 2
    assert f"{' '.join(given).replace('=', ' ')}" in err
    assert "it is no flag, but stands for --overlays.style, --overlays.opacity, --overlays.lossless" in err
    assert "--overlays.style none writes none" in err


def test_overlays_are_no_flag_in_recipes(run: Run, tmp_path: Path) -> None:  # noqa: F811
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("segment:\n  overlays: false\n")
    code, _, err = run("segment", "photo.png", "--bank", "b", "--out", "o", "--config", recipe)
    assert code == 2
    assert "has False for 'overlays', which holds settings: overlays.lossless, overlays.opacity, overlays.style" in err


# Dark and small images


def test_dark_images_are_stretched() -> None:
    """Between the 1st and the 99.8th percentile of all values; the mask's colours stay."""
    image = (np.random.default_rng(3).integers(0, 40, (50, 60, 3)) + 7).astype(np.uint8)
    image[0, 0] = 250  # one hot pixel doesn't matter
    low, high = np.percentile(image, 1), np.percentile(image, 99.8)
    assert stretch_of(image) == (low, high)
    expected = np.clip((image.astype(float) - low) * 255 / (high - low), 0, 255).round()
    mask = np.zeros((50, 60), np.uint8)
    mask[20:30, 20:30] = 1
    found = np.asarray(segmentation(mask, image).overlay(OverlayConfig("fill", 1)))
    np.testing.assert_array_equal(found[mask == 0], expected[mask == 0])
    assert (found[mask == 1] == PALETTE[1]).all()


@pytest.mark.parametrize(
    ("low", "high", "stretches"),
    [(0, 128, True), (0, 131, False), (0, 255, False), (180, 240, True), (100, 255, False), (90, 96, False)],
)
def test_which_images_are_stretched(low: int, high: int, stretches: bool) -> None:
    """Those that are dark or flat, but not noise."""
    image = np.random.default_rng(0).integers(low, high, (80, 80, 3)).astype(np.uint8)
    assert (stretch_of(image) is not None) == stretches
    assert stretch_of(np.full((9, 9, 3), low, np.uint8)) is None
    assert stretch_of(np.full((9, 9, 3), (110, 125, 30), np.uint8)) is None


def test_percentiles_are_those_of_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image = (noise(90, 70) // 3).astype(np.uint8)
    expected = stretch_of(image)
    monkeypatch.setattr(colours, "STRIP_PIXELS", 100)
    assert stretch_of(image) == expected == (round(np.percentile(image, 1)), round(np.percentile(image, 99.8)))
    assert stretched(image, None) is image


@pytest.mark.parametrize(("height", "width", "side", "size"), [(10, 30, 100, (30, 90)), (1, 1, 7, (7, 7))])
def test_small_images_are_enlarged_by_whole_factors(height: int, width: int, side: int, size: tuple[int, int]) -> None:
    image, mask = noise(height, width), np.random.default_rng(0).integers(0, 9, (height, width))
    shown = displayed(image, side)
    assert shown.image.shape == (*size, 3)
    factor = size[0] // height
    np.testing.assert_array_equal(shown.fit(mask), mask.repeat(factor, 0).repeat(factor, 1))


@pytest.mark.parametrize(("height", "width", "size"), [(300, 200, (50, 33)), (50, 50, (50, 50)), (7, 900, (1, 50))])
def test_large_images_are_made_smaller(height: int, width: int, size: tuple[int, int]) -> None:
    image = np.repeat(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], 3, 2).repeat(height, 0)
    shown = displayed(image, 50)
    assert shown.image.shape == (*size, 3)
    np.testing.assert_allclose(shown.image[0, :, 0], np.linspace(0, 255, size[1]), atol=8)
    assert set(np.unique(shown.fit(np.arange(height)[:, None].repeat(width, 1)))) <= set(range(height))
    assert shown.fit(np.ones((height, width), bool)).dtype == bool


def test_captions_say_that_an_image_is_stretched() -> None:
    dark = (noise() // 8).astype(np.uint8)
    assert displayed(dark, 300).note == "stretched for display, 0 to 31 of 255"
    assert displayed(noise(), 300).note == ""


def test_squares() -> None:
    picture = Image.fromarray(scaled_to(noise(), 17))
    assert in_square(picture, 50).size == (50, 50)
    found = np.asarray(in_square(Image.new("RGB", (10, 4), (9, 9, 9)), 35)) == 9
    assert found.all(2).sum() == 30 * 12
