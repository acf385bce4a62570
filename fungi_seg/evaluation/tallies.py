"""What each image adds to an evaluation, and the sum of it, which depends on the order of images alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fungi_seg.datasets import Dataset, void_doubt
from fungi_seg.errors import DataError, listing
from fungi_seg.evaluation.counting import CountQuality, ObjectTally
from fungi_seg.evaluation.image_counts import ImageCounts, cells_of
from fungi_seg.evaluation.metrics import confusion, named_alone
from fungi_seg.evaluation.reliability import Reliability
from fungi_seg.evaluation.report import Counted
from fungi_seg.progress import Stopwatch
from fungi_seg.segmentation import ObjectConfig


@dataclass(frozen=True)
class Tally:
    """What an image adds.

    Attributes:
        id: of the image.
        cells: as in `ImageCounts`.
        objects: count quality by class index, where objects are compared.
        sure: its pixels by confidence, where that is held against the truth.
    """

    id: str
    cells: np.ndarray
    objects: Mapping[int, CountQuality] | None = None
    sure: Reliability | None = None


class Tallier:
    """Counts single images.

    Args:
        classes: names.
        objects: which regions are objects, if they are compared.
        clock: gets the time spent by stage.
    """

    def __init__(self, classes: Sequence[str], objects: ObjectConfig | None, clock: Stopwatch):
        self._classes, self._clock = len(classes), clock
        self._objects = ObjectTally(classes, objects) if objects else None

    def __call__(
        self, name: str, truth: np.ndarray, prediction: np.ndarray, confidence: np.ndarray | None = None
    ) -> Tally:
        """Count an image: `[H, W]` class indices twice, void (−1) in the truth, and confidence in 0..1.

        Raises:
            FungiSegError: indices of no class.
        """
        objects = sure = None
        with self._clock("metric"):
            cells = cells_of(confusion(truth, prediction, self._classes))
        if self._objects:
            with self._clock("objects"):
                objects = self._objects.of(truth, prediction)
        if confidence is not None:
            with self._clock("confidence"):
                sure = Reliability()
                sure.add(truth, prediction, confidence)
        return Tally(name, cells, objects, sure)


class Totals:
    """Adds up tallies, which are to come in the order of their images.

    Args:
        classes: names.
        objects: which regions are objects, if they are compared.
        sure: whether confidence is held against the truth.
    """

    def __init__(self, classes: Sequence[str], objects: ObjectConfig | None = None, sure: bool = False):
        self._cells: dict[str, np.ndarray] = {}
        self._classes = len(classes)
        self._objects = ObjectTally(classes, objects) if objects else None
        self._sure = Reliability() if sure else None

    def add(self, tally: Tally) -> None:
        """Add an image."""
        self._cells[tally.id] = tally.cells
        if self._objects and tally.objects:
            self._objects.put(tally.objects)
        if self._sure and tally.sure:
            self._sure.join(tally.sure)

    def counted(self, dataset: Dataset, skipped: Sequence[str], workers: int) -> Counted:
        """All that was added.

        Raises:
            DataError: there was nothing, or nothing but void in the truth.
        """
        if not self._cells:
            raise DataError(f"no image of {len(dataset)} could be evaluated:\n{listing(skipped)}")
        images = ImageCounts(tuple(self._cells), tuple(self._cells.values()), self._classes)
        counts = images.total()
        if not counts.any():
            raise DataError(
                f"every pixel of the {len(images)} masks is void: there is nothing to compare with; check data.void"
            )
        doubt = void_doubt(dataset, workers) if np.count_nonzero(counts.sum(1)) < 2 else None
        objects = self._objects.facts() if self._objects else None
        sure = self._sure.facts() if self._sure else None
        return Counted(named_alone(counts), images, (doubt.text,) if doubt else (), sure, objects)
