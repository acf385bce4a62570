"""What every set of whole images yields: an image, its label and an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fungi_seg.errors import DataError, FungiSegError, listing
from fungi_seg.images import to_array


@dataclass(frozen=True)
class LabelledImage:
    """One image.

    Attributes:
        id: unique within its set.
        image: `[H, W, 3]` uint8 RGB.
        label: class index 0..C−1, or −1 where the set has no labels.
    """

    id: str
    image: np.ndarray
    label: int


@dataclass(frozen=True)
class ImageSet(Sequence[LabelledImage]):
    """Images of one split, read when asked for.

    Attributes:
        ids: one for each image.
        labels: class index of each image, 0..C−1, or −1 where the set has no labels.
        classes: names; the index of a name is the class index.
        read: number of an image, 0 or more, to anything that `images.to_array` takes.
        problems: what was skipped on the way, one line each.

    Raises:
        DataError: an id twice; from `[]`, an image that can't be decoded.
    """

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    read: Callable[[int], Any]
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise DataError(f"{len(twice)} ids stand for several images; rename or remove some:\n{listing(twice)}")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> LabelledImage:  # type: ignore[override]
        number = range(len(self))[index]
        try:
            image = to_array(self.read(number))
        except FungiSegError as error:
            raise DataError(f"image {number} ({self.ids[number]}): {error}") from error
        return LabelledImage(self.ids[number], image, self.labels[number])


@dataclass(frozen=True)
class ImageData:
    """Two sets of images that belong together.

    Attributes:
        train: what classifiers learn from; `revisited`: the database.
        val: what is measured; `revisited`: the queries, cropped to their boxes.
        ground_truth: `revisited`: `{"queries": [{"easy": rows, "hard": rows, "junk": rows}, …]}`, rows of `train`.
    """

    train: ImageSet
    val: ImageSet
    ground_truth: dict | None = None


def check_splits(train: str, val: str) -> None:
    """Raise if both are the same split."""
    if train == val:
        raise DataError(
            f"data.train and data.val are both {train!r}: images that were learnt from would be measured; name another "
            f"split with --data.train or --data.val"
        )
