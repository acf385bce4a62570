"""How well objects are counted and found: count errors, and panoptic quality (Kirillov et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fungi_seg.images import VOID
from fungi_seg.segmentation import ObjectConfig, class_indices, object_labels

COUNT_HEADER = ("objects of", "in the truth", "found", "off by an image", "off by %", "bias", "PQ %", "SQ %", "RQ %")


@dataclass(frozen=True)
class CountQuality:
    """How objects that were found are those of the truth, over any number of images, which add up.

    One that was found is right where its IoU with one of the truth is above 0.5: there can't be two of those.

    Attributes:
        images: how many.
        truth, found: objects in all.
        off_by: how far both counts of each image are apart, added up.
        right: objects that were found and are right.
        overlap: IoUs of the right ones, added up.
    """

    images: int = 0
    truth: int = 0
    found: int = 0
    off_by: int = 0
    right: int = 0
    overlap: float = 0.0

    def __add__(self, other: CountQuality) -> CountQuality:
        return CountQuality(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def facts(self) -> dict[str, Any]:
        """The sums, and what they come to; none where nothing can be divided by."""
        objects = self.truth + self.found
        return vars(self) | {
            "mean_off_by": _ratio(self.off_by, self.images),
            "relative_off_by": _ratio(self.off_by, self.truth),
            "mean_bias": _ratio(self.found - self.truth, self.images),
            "panoptic_quality": _ratio(2 * self.overlap, objects),
            "segmentation_quality": _ratio(self.overlap, self.right),
            "recognition_quality": _ratio(2 * self.right, objects),
        }


def count_quality(truth: np.ndarray, found: np.ndarray, void: np.ndarray | None = None) -> CountQuality:
    """Hold the objects found in an image against those of the truth.

    Args:
        truth, found: `[H, W]` integers, the number of the object that each pixel is of; 0 for none.
        void: `[H, W]` bool, pixels of which the truth says nothing. They count for no IoU, and an object that was found
            and lies there with more than half of its pixels counts only if it is right.
    """
    known = np.ones(truth.shape, bool) if void is None else ~void
    wanted, named = _from_one(truth), _from_one(found)
    size, known_wanted, known_named = int(named.max(initial=0)) + 1, wanted[known], named[known]
    there, ours = np.bincount(known_wanted), np.bincount(known_named, minlength=size)
    pairs, common = np.unique(known_wanted * size + known_named, return_counts=True)
    one, other = np.divmod(pairs, size)
    both = (one > 0) & (other > 0)
    one, other, common = one[both], other[both], common[both]
    iou = common / (there[one] + ours[other] - common)
    right = iou > 0.5
    counts = 2 * ours >= np.bincount(named.ravel(), minlength=size)
    counts[other[right]] = True
    objects, objects_found = int(np.count_nonzero(there[1:])), int(np.count_nonzero(counts[1:]))
    off_by = abs(objects_found - objects)
    return CountQuality(1, objects, objects_found, off_by, int(right.sum()), float(iou[right].sum()))


class ObjectTally:
    """Count quality of each class that is counted, over any number of images.

    Args:
        classes: names.
        config: which regions are objects. Those of the truth are never split: it says what is one region.
    """

    def __init__(self, classes: Sequence[str], config: ObjectConfig):
        self._classes, self._config = classes, config
        self._of_class = {index: CountQuality() for index in class_indices(classes, config)}

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count an image: `[H, W]` class indices each, void (−1) in the truth."""
        self.put(self.of(truth, prediction))

    def of(self, truth: np.ndarray, prediction: np.ndarray) -> dict[int, CountQuality]:
        """What an image adds, by class index, for `put`; the arguments are those of `add`."""
        wanted = object_labels(truth, self._classes, replace(self._config, split=False))
        found = object_labels(prediction, self._classes, self._config)
        return {i: count_quality(_only(i, *wanted), _only(i, *found), truth == VOID) for i in self._of_class}

    def put(self, found: Mapping[int, CountQuality]) -> None:
        """Add what `of` gave, here or elsewhere with the same settings."""
        for index, one in found.items():
            self._of_class[index] = self._of_class[index] + one

    def facts(self) -> list[dict[str, Any]]:
        """Figures of each class that is counted, by name."""
        return [{"name": self._classes[index], **found.facts()} for index, found in self._of_class.items()]


def count_rows(facts: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The figures of `ObjectTally.facts` as text, under `COUNT_HEADER`."""
    return [
        (
            one["name"],
            str(one["truth"]),
            str(one["found"]),
            _text(one["mean_off_by"]),
            _text(one["relative_off_by"], 100),
            _text(one["mean_bias"], sign="+"),
            *(_text(one[f"{what}_quality"], 100) for what in ("panoptic", "segmentation", "recognition")),
        )
        for one in facts
    ]


def _only(index: int, labels: np.ndarray, of_class: Sequence[int]) -> np.ndarray:
    """`labels` of the objects of one class alone."""
    is_one = np.array(of_class) == index
    is_one[0] = False
    return np.where(is_one[labels], labels, 0)


def _from_one(labels: np.ndarray) -> np.ndarray:
    """`[H, W]` int64: the same objects numbered 1, 2, …; 0 stays."""
    numbers, places = np.unique(labels, return_inverse=True)
    return np.where(labels == 0, 0, places.reshape(labels.shape) + (0 if 0 in numbers else 1)).astype(np.int64)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _text(value: float | None, times: float = 1, sign: str = "") -> str:
    return "–" if value is None else f"{value * times:{sign}.2f}"
