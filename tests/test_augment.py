"""Random copies of an annotated image."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from fungi_seg.images.augment import crop_window, jitter

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 17, 3)).astype(np.uint8)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 999))
def test_window_lies_inside(height: int, width: int, seed: int) -> None:
    top, left, h, w = crop_window(height, width, np.random.default_rng(seed))
    assert 0 <= top < top + h <= height
    assert 0 <= left < left + w <= width


def test_area_and_aspect_are_in_range() -> None:
    """For an image whose own aspect ratio is allowed, even the last resort is in range."""
    windows = [crop_window(480, 640, np.random.default_rng(seed)) for seed in range(300)]
    areas = np.array([h * w / (480 * 640) for _, _, h, w in windows])
    ratios = np.array([w / h for _, _, h, w in windows])
    assert areas.min() > 0.495
    assert areas.min() < 0.55
    assert 0.74 < ratios.min() < 0.85
    assert 1.25 < ratios.max() < 1.345
    assert len(set(windows)) > 200


@pytest.mark.parametrize(
    ("size", "window"),
    [((30, 400), (0, 180, 30, 40)), ((400, 30), (180, 0, 40, 30)), ((1, 500), (0, 249, 1, 1))],
)
def test_extreme_aspects_fall_back_to_the_centre(size: tuple[int, int], window: tuple[int, int, int, int]) -> None:
    assert crop_window(*size, np.random.default_rng(0)) == window


def test_same_generator_same_copy() -> None:
    for seed in range(20):
        first, second = np.random.default_rng(seed), np.random.default_rng(seed)
        assert crop_window(90, 120, first) == crop_window(90, 120, second)
        np.testing.assert_array_equal(jitter(IMAGE, first), jitter(IMAGE, second))


def test_jitter_changes_colours_a_little() -> None:
    original = IMAGE.copy()
    results = [jitter(IMAGE, np.random.default_rng(seed)) for seed in range(200)]
    assert all(r.shape == IMAGE.shape and r.dtype == np.uint8 for r in results)
    same = sum(np.array_equal(r, IMAGE) for r in results)
    assert 2 <= same <= 40  # one in sixteen is left alone
    assert len({r.tobytes() for r in results}) > 100
    np.testing.assert_array_equal(IMAGE, original)


def test_jitter_leaves_grey_grey() -> None:
    grey = np.dstack([IMAGE[..., 0]] * 3)
    for seed in range(30):
        changed = jitter(grey, np.random.default_rng(seed)).astype(int)
        assert np.abs(changed - changed[..., :1]).max() <= 1
        assert np.abs(changed - grey).max() <= 52  # brightness and contrast by a tenth each


def test_jitter_takes_read_only_images_quietly() -> None:
    """Images come read-only from Pillow."""
    image = IMAGE.copy()
    image.setflags(write=False)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jitter(image, np.random.default_rng(0))
    finally:
        torch.set_warn_always(False)
