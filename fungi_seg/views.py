"""What a self-supervised objective looks at: views cut out of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from fungi_seg.augment import crop_window
from fungi_seg.errors import FungiSegError

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

    def __call__(self, image: Tensor, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """Views of `image` (`[3, H, W]` uint8), those of one size stacked: `[v, 3, side, side]` uint8, in order."""


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

    def __call__(self, image: Tensor, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """`([1, 3, side, side],)`."""
        longest = LONGEST * min(image.shape[1:])
        if max(image.shape[1:]) > longest:
            image = TF.center_crop(image, [min(length, longest) for length in image.shape[1:]])
        scale = self.side * MARGIN / min(image.shape[1:])
        size = [max(self.side, round(length * scale)) for length in image.shape[1:]]
        return (TF.center_crop(_resize(image, size), [self.side])[None],)


@dataclass(frozen=True)
class MultiCrop:
    """Random crops: 2 global ones of 25–100 % of the image's area, then `locals` of 5–25 % (DINO, Caron et al. 2021).

    Args:
        side: of the global crops, in pixels.
        local_side: of the local ones; the paper of FUNGI takes `side`.
        locals: how many.
    """

    side: int
    local_side: int
    locals: int = 10

    @property
    def count(self) -> int:
        """2 + `locals` views."""
        return GLOBALS + self.locals

    def __call__(self, image: Tensor, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """`([2, 3, side, side], [locals, 3, local_side, local_side])`."""
        return (
            _random_crops(image, generator, GLOBALS, GLOBAL_AREA, self.side),
            _random_crops(image, generator, self.locals, LOCAL_AREA, self.local_side),
        )


@dataclass(frozen=True)
class SlidingPatches:
    """Overlapping squares of half the image's height and width, `across` × `across` of them, evenly spaced.

    The image is resized to a square of `side`, so that 7 across are 1/6 of a patch apart; each patch is shown to the
    backbone at `view_side`. All are windows of one enlarged image: nothing is resized patch by patch.

    Args:
        side: of the square, in pixels.
        view_side: of a view.
        across: patches in a row, at least 2.
    """

    side: int
    view_side: int
    across: int = 7

    def __post_init__(self) -> None:
        if self.across < 2:
            raise FungiSegError(f"across is {self.across}; sliding patches are contrasted, so it must be at least 2")

    @property
    def count(self) -> int:
        """`across`² views."""
        return self.across**2

    def __call__(self, image: Tensor, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """`([across², 3, view_side, view_side],)`, row by row."""
        enlarged = _resize(_resize(image, [self.side, self.side]), [2 * self.view_side, 2 * self.view_side])
        last = self.view_side // 2
        starts = [2 * round(i * last / (self.across - 1)) for i in range(self.across)]
        views = enlarged.new_empty(self.across, self.across, 3, self.view_side, self.view_side)
        for row, top in enumerate(starts):
            for column, left in enumerate(starts):
                views[row, column] = enlarged[:, top : top + self.view_side, left : left + self.view_side]
        return (views.flatten(0, 1),)


def _random_crops(
    image: Tensor, generator: np.random.Generator, count: int, area: tuple[float, float], side: int
) -> Tensor:
    crops = image.new_empty(count, 3, side, side)
    for crop in crops:
        top, left, height, width = crop_window(image.shape[1], image.shape[2], generator, area)
        crop.copy_(_resize(image[:, top : top + height, left : left + width], [side, side]))
    return crops


def _resize(image: Tensor, size: list[int]) -> Tensor:
    return TF.resize(image, size, interpolation=TF.InterpolationMode.BICUBIC, antialias=True)
