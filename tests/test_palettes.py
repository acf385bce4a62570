"""Colours of classes: that people can tell them apart, and that none changes or is given twice."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from fungi_seg.datasets.palettes import OKABE_ITO, bright_colours, colours_beside, default_palette

# Machado, Oliveira and Fernandes (2009): what is left of linear RGB where one kind of cone is missing
SIMULATED = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
WHITE = np.array([0.95047, 1, 1.08883])


def lab(colours: np.ndarray, sight: str = "usual") -> np.ndarray:
    """CIE L*a*b* of `[n, 3]` sRGB 0..255 as someone sees them."""
    shares = np.asarray(colours) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SIMULATED[sight]).T, 0, 1) @ np.array(TO_XYZ).T / WHITE
    f = np.where(seen > 0.008856, np.cbrt(seen), 7.787 * seen + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def closest(colours: np.ndarray, sight: str) -> float:
    """The smallest distance between two of them; a difference of 2 or 3 can just be seen side by side."""
    found = lab(colours, sight)
    distances = np.linalg.norm(found[:, None] - found[None], axis=2)
    return float(distances[np.triu_indices(len(colours), 1)].min())


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


@pytest.mark.parametrize("sight", SIMULATED)
def test_colour_blind_eyes_tell_the_first_classes_apart(sight: str) -> None:
    assert closest(default_palette(names(8)), sight) > 16
    assert closest(default_palette(names(24)), sight) > 8


def test_distances_are_measured_right() -> None:
    """Of textbook values, and what red and green are to protanopes."""
    np.testing.assert_allclose(lab(np.array([[255, 0, 0]])), [[53.24, 80.09, 67.20]], atol=0.05)
    np.testing.assert_allclose(lab(np.array([[255, 255, 255]])), [[100, 0, 0]], atol=0.05)
    pair = np.array([[160, 80, 0], [80, 110, 0]])
    assert closest(pair, "deuteranopia") < closest(pair, "usual") / 3


def test_none_is_dark_or_grey() -> None:
    """Black isn't painted, maroon can't be seen on dark images, and grey means unknown."""
    found = lab(default_palette(names(300)))
    assert found[:, 0].min() > 30
    assert np.hypot(found[:, 1], found[:, 2]).min() > 15


@pytest.mark.parametrize("count", [1, 2, 9, 40, 300, 20000])
def test_all_differ(count: int) -> None:
    found = default_palette(names(count))
    assert (found.shape, found.dtype) == ((count, 3), np.uint8)
    assert len(np.unique(found, axis=0)) == count


def test_colours_stay_at_their_index() -> None:
    """Banks and pictures of today look the same tomorrow, and with more classes."""
    many = default_palette(names(100))
    for count in (1, 3, 8, 99):
        np.testing.assert_array_equal(default_palette(names(count)), many[:count])
    np.testing.assert_array_equal(many[:7], OKABE_ITO)
    assert many[[7, 8, 23]].tolist() == [[153, 51, 255], [0, 255, 153], [153, 85, 0]]
    assert many[[24, 99]].tolist() == [[191, 115, 115], [96, 206, 165]]


def test_background_is_black() -> None:
    found = default_palette(["background", *names(30)])
    assert found[0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(found[1:], default_palette(names(30)))
    assert default_palette(["background"]).tolist() == [[0, 0, 0]]
    assert default_palette(["road", "background"])[1].any()


def test_classes_that_join_others_get_a_colour_of_their_own() -> None:
    orange, blue, green, yellow = islice(bright_colours(), 4)
    assert colours_beside([yellow, green], [orange]) == (yellow, green)
    assert colours_beside([orange, blue], [orange]) == (green, blue)
    assert colours_beside([orange, orange], [orange, blue]) == (green, yellow)
    assert colours_beside([[9, 8, 7], (9, 8, 7)], []) == ((9, 8, 7), orange)
    assert colours_beside([(0, 0, 0), (0, 0, 0)], [(0, 0, 0)]) == ((0, 0, 0), (0, 0, 0))
    assert colours_beside([], [orange]) == ()
    many = [*islice(bright_colours(), 300)]
    assert len({*many, *colours_beside(many, many)}) == 600
