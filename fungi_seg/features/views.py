"""What a self-supervised objective looks at: views cut out of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from fungi_seg.errors import FungiSegError
from fungi_seg.images import crop_window

MARGIN = 256 / 224  # the image's shorter side over that of its centre crop
LONGEST = 4
GLOBAL_AREA, LOCAL_AREA = (0.25, 1.0), (0.05, 0.25)
GLOBALS = 2


class Views(Protocol):
    """A way to cut views out of an image; it must be hashable, as a frozen dataclass is.

    Objectives whose views are equal share one pass through the backbone.
    """

    @property
    def count(self) -> int:
        """`V`, the number of views of every image."""

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Views of `image` (`[3, H, W]` uint8), `[V, 3, side, side]` uint8."""


@dataclass(frozen=True)
class CentreCrop:
    """The middle of the image: its shorter side resized to 8/7 of `side`, a square of `side` cut out.

    Of an image more than 4 times as long as wide the ends are left out first.
    """

    side: int

    @property
    def count(self) -> int:
        """One view."""
        return 1

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """`[1, 3, side, side]`."""
        longest = LONGEST * min(image.shape[1:])
        if max(image.shape[1:]) > longest:
            image = TF.center_crop(image, [min(length, longest) for length in image.shape[1:]])
        scale = self.side * MARGIN / min(image.shape[1:])
        size = [max(self.side, round(length * scale)) for length in image.shape[1:]]
        return TF.center_crop(_resize(image, size), [self.side])[None]


@dataclass(frozen=True)
class MultiCrop:
    """Random crops: 2 global ones of 25–100 % of the image's area, then `locals` of 5–25 % (DINO, Caron et al. 2021).

    Args:
        side: of all crops, in pixels.
        locals: how many local ones.
    """

    side: int
    locals: int = 10

    @property
    def count(self) -> int:
        """2 + `locals` views."""
        return GLOBALS + self.locals

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """`[2 + locals, 3, side, side]`, the global ones first."""
        crops = image.new_empty(self.count, 3, self.side, self.side)
        for number, crop in enumerate(crops):
            area = GLOBAL_AREA if number < GLOBALS else LOCAL_AREA
            top, left, height, width = crop_window(image.shape[1], image.shape[2], generator, area)
            crop.copy_(_resize(image[:, top : top + height, left : left + width], [self.side, self.side]))
        return crops


@dataclass(frozen=True)
class SlidingPatches:
    """Overlapping squares of half the image's height and width, `across` × `across` of them, evenly spaced.

    The image is resized to a square of `side`, and each patch of it to `side` again; 7 across are 1/6 of a patch apart.
    All are windows of one enlarged image: nothing is resized patch by patch.

    Args:
        side: of the square and of a view, in pixels.
        across: patches in a row, at least 2.
    """

    side: int
    across: int = 7

    def __post_init__(self) -> None:
        if self.across < 2:
            raise FungiSegError(f"across is {self.across}; sliding patches are contrasted, so it must be at least 2")

    @property
    def count(self) -> int:
        """`across`² views."""
        return self.across**2

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """`[across², 3, side, side]`, row by row."""
        enlarged = _resize(_resize(image, [self.side, self.side]), [2 * self.side, 2 * self.side]).contiguous()
        last = self.side // 2
        starts = [2 * round(i * last / (self.across - 1)) for i in range(self.across)]
        views = enlarged.new_empty(self.across, self.across, 3, self.side, self.side)
        for row, top in enumerate(starts):
            for column, left in enumerate(starts):
                views[row, column] = enlarged[:, top : top + self.side, left : left + self.side]
        return views.flatten(0, 1)


def _resize(image: Tensor, size: list[int]) -> Tensor:
    return TF.resize(image, size, interpolation=TF.InterpolationMode.BICUBIC, antialias=True)
