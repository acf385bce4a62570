"""Images as people look at them: of a size that can be seen, and dark ones stretched."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fungi_seg.images.channels import viewable
from fungi_seg.images.depth import strips

Stretch = tuple[int, int]  # values of an image that are shown as black and as white

LOW, HIGH = 1.0, 99.8  # percentiles that become black and white
DARK, FLAT = 128, 64  # below them an image is dark, and low in contrast
LEAST_SPAN = 8  # what differs by less is noise


@dataclass(frozen=True)
class Display:
    """An image as it is shown.

    Attributes:
        image: `[h, w, 3]` uint8 RGB.
        size: `(H, W)` of the image itself.
        stretch: of its values what is shown as black and as white, if it was stretched.
    """

    image: np.ndarray
    size: tuple[int, int]
    stretch: Stretch | None

    def fit(self, mask: np.ndarray) -> np.ndarray:
        """`[H, W]` values of the image's pixels as `[h, w]`: the nearest ones, none mixed."""
        down, across = (
            ((np.arange(new) + 0.5) * old / new).astype(np.int64)
            for new, old in zip(self.image.shape, self.size, strict=False)
        )
        return np.asarray(mask[down][:, across])

    @property
    def note(self) -> str:
        """What a caption has to say of it; nothing where it isn't stretched."""
        return f"stretched for display, {self.stretch[0]} to {self.stretch[1]} of 255" if self.stretch else ""


def displayed(image: np.ndarray, side: int) -> Display:
    """An image that fits into a square of `side` pixels, as `scaled_to`; stretched if it is dark or flat.

    Args:
        image: `[H, W, 3]` uint8 RGB.
        side: in pixels.
    """
    image = viewable(image)
    stretch = stretch_of(image)
    return Display(stretched(scaled_to(image, side), stretch), (image.shape[0], image.shape[1]), stretch)


def scaled_to(image: np.ndarray, side: int) -> np.ndarray:
    """`[H, W, 3]` uint8 that fits into a square of `side` pixels: made smaller, or larger by a whole factor."""
    height, width = image.shape[:2]
    longest = max(height, width)
    factor = side // longest or side / longest
    size = max(1, round(width * factor)), max(1, round(height * factor))
    kind = cv2.INTER_CUBIC if factor >= 1 else cv2.INTER_AREA
    return image if factor == 1 else np.asarray(cv2.resize(image, size, interpolation=kind))


def stretch_of(image: np.ndarray) -> Stretch | None:
    """The 1st and the 99.8th percentile of an image's values, if it should be stretched between them to be seen.

    It should where it is dark (the latter is below 128) or low in contrast (they are less than 64 apart), unless it
    is all but even (in no channel as much as 8 apart). The channels are taken together, so that colours stay.

    Args:
        image: `[H, W, 3]` uint8 RGB.
    """
    image, counts = viewable(image), np.zeros((3, 256), np.int64)
    for rows in strips(image):
        counts += [np.bincount(image[rows][..., channel].ravel(), minlength=256) for channel in range(3)]
    if all(high - low < LEAST_SPAN for low, high in map(_ends, counts)):
        return None
    low, high = _ends(counts.sum(0))
    return (low, high) if high - low >= LEAST_SPAN and (high < DARK or high - low < FLAT) else None


def _ends(counts: np.ndarray) -> tuple[int, int]:
    """The two percentiles of values 0 to 255, of which there are so many."""
    reached = np.cumsum(counts) / max(1, counts.sum())
    low, high = (int(np.searchsorted(reached, percent / 100)) for percent in (LOW, HIGH))
    return low, high


def stretched(image: np.ndarray, stretch: Stretch | None) -> np.ndarray:
    """uint8 values with the first of `stretch` as 0 and the second as 255; as they are without any."""
    if stretch is None:
        return image
    black, white = stretch
    table = ((np.arange(256) - black) * 255 / (white - black)).clip(0, 255).round().astype(np.uint8)
    return table[image]
