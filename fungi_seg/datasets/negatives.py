"""Images that hold none of the classes: a folder of images without masks, all of which is background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungi_seg.datasets.common import Dataset, Item, files_by_id, pair
from fungi_seg.datasets.palettes import default_palette
from fungi_seg.datasets.selection import BACKGROUND
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.datasets.stacks import plane_by_plane
from fungi_seg.errors import DataError
from fungi_seg.images import RASTER_SUFFIXES


@dataclass(frozen=True)
class AllBackground:
    """Reads nothing: every pixel is of class 0."""

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 zeros."""
        return np.zeros(size, np.int16)


def open_negative(config: DataConfig, skip_bad: bool, projection: str | None = None) -> Dataset:
    """The images below `[split/]` of the root, all planes of stacks; the only class is `background`."""
    base = config.folder / config.split if config.split else config.folder
    remarks: list[str] = []
    images = plane_by_plane(files_by_id(base, RASTER_SUFFIXES, remarks), projection)
    if not images:
        raise DataError(f"{str(base)!r} holds no image; name a folder of images with --data.root")
    items, problems = pair(images, images, config.ids, skip_bad, str(base), base)
    classes = (BACKGROUND,)
    return Dataset(items, classes, default_palette(classes), AllBackground(), problems, tuple(remarks))
