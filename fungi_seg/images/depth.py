"""What values of any type become in 8 bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fungi_seg.errors import DataError
from fungi_seg.rasters import brightness, holds_something, strips

BRIGHTEST, DARKEST = 99.9, 0.1
NOTHING = "no value in it is finite and other than its nodata value; replace the file or leave it out"

Ends = tuple[float, float]  # values that become 0 and 255


def eight_bit(values: np.ndarray, nodata: float | None = None, white_is_zero: bool = False) -> np.ndarray:
    """Values of more than 8 bits, signed, or float as uint8 of the same shape.

    The 99.9th percentile of the values becomes 255, since cameras fill 16 bits rarely, and zero stays zero. Only
    where more than 0.1 % of the values are below zero, as of decibels, the 0.1th percentile becomes 0 in its place.
    Values that are not finite or `nodata` don't count, and become 0. The highest and the lowest number of the type
    don't count either where half of the range next to them is empty: they stand for nothing then, or for too much
    light. They become 255 and 0.

    Args:
        values: `[H, W, …]` numbers.
        nodata: the value of pixels that hold nothing.
        white_is_zero: light and dark change places.

    Raises:
        DataError: no value counts.
    """
    known = holds_something(values, nodata)
    black, white = ends(values.ravel() if known is None else values[known])
    return between(values, (black, white), known, white_is_zero)


def ends(counted: np.ndarray) -> Ends:
    """What of the values that count becomes 0 and 255, see `eight_bit`.

    Raises:
        DataError: there is none.
    """
    if not counted.size:
        raise DataError(NOTHING)
    counted = _without_fill(counted)
    white = float(np.percentile(counted, BRIGHTEST))
    return min(0.0, float(np.percentile(counted, DARKEST))) if counted.min() < 0 else 0.0, white


def between(
    values: np.ndarray, limits: Ends, known: np.ndarray | None = None, white_is_zero: bool = False
) -> np.ndarray:
    """Values as uint8: those up to the first of `limits` are 0, those from the second on 255.

    Args:
        values: `[H, W, …]` numbers.
        limits: what becomes black and white.
        known: which of the values count, as of `eight_bit`; all where not given.
        white_is_zero: light and dark change places.
    """
    black, white = limits
    span = max(white - black, 1e-12)
    result = np.empty(values.shape, np.uint8)
    for rows in strips(values):
        part = values[rows].astype(np.float64) - black if black else values[rows]
        with np.errstate(invalid="ignore"):  # of values that aren't known, which are replaced below
            result[rows] = (part / span * 255).clip(0, 255).round().astype(np.uint8)
        if white_is_zero:
            result[rows] = 255 - result[rows]
        if known is not None:
            result[rows][~known[rows]] = 0
    return result


def full_range(values: np.ndarray, bits: int, white_is_zero: bool = False) -> np.ndarray:
    """Unsigned values of 1 to 8 bits as uint8: the highest that fits becomes 255."""
    if bits == 8:
        return 255 - values if white_is_zero else values
    shown = brightness(bits, white_is_zero)
    return in_strips(values, lambda part: shown[part.astype(np.uint8, copy=False)])


def in_strips(values: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`convert` of `[H, W, …]`, which looks at each pixel by itself, a few rows at a time."""
    return np.concatenate([convert(values[rows]) for rows in strips(values)])


def _without_fill(counted: np.ndarray) -> np.ndarray:
    """The values but for the ends of their type's range, where the half of it next to them is empty."""
    limits = np.finfo(counted.dtype) if counted.dtype.kind == "f" else np.iinfo(counted.dtype)
    if counted.max() == limits.max:
        others = counted[counted != limits.max]
        counted = others if others.size and others.max() < limits.max / 2 else counted
    if limits.min < 0 and counted.min() == limits.min:
        others = counted[counted != limits.min]
        counted = others if others.size and others.min() > limits.min / 2 else counted
    return counted
