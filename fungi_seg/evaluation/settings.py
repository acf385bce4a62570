"""How predictions are held against the truth, and written as COCO results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fungi_seg.errors import FungiSegError, check_choice


@dataclass(frozen=True)
class MetricConfig:
    """How predictions are held against the truth.

    Args:
        mask_size: compare at the masks' `own` size, or at the backbone's `input` size with masks resized (nearest).
        matching: take classes as they are (`none`), or rename predicted classes by `hungarian` matching first.
        absent: classes without a pixel in the truth: `skip` them in the mean, count them as `zero`, or count those as
            zero that were `predicted` anywhere, as MMSegmentation does.
    """

    mask_size: str = "own"
    matching: str = "none"
    absent: str = "skip"

    def __post_init__(self) -> None:
        check_choice("metric.mask_size", self.mask_size, ("own", "input"))
        check_choice("metric.matching", self.matching, ("none", "hungarian"))
        check_choice("metric.absent", self.absent, ("skip", "zero", "predicted"))


@dataclass(frozen=True)
class CocoConfig:
    """Predictions as COCO results.

    Args:
        file: the JSON to write; none is written without.
        like: a COCO JSON whose images, categories and their ids are taken: images by file name, categories by name.
        instances: make an entry of each connected component (8 neighbours) of a class, in place of one of all its
            pixels.
        min_area: leave out entries of fewer pixels.
    """

    file: str | None = None
    like: str | None = None
    instances: bool = False
    min_area: int = 0

    def __post_init__(self) -> None:
        if self.min_area < 0:
            raise FungiSegError(f"coco.min_area is {self.min_area}; it must be a number of pixels from 0")
        if not self.file and (self.like or self.instances or self.min_area):
            raise FungiSegError(
                "coco.file is empty, so coco.like, coco.instances and coco.min_area have nothing to change; "
                "name the JSON to write, as --coco.file results.json"
            )


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise unless there is a seed, none twice, and none below 0."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise FungiSegError(f"seeds is {list(seeds)}; it must hold numbers from 0 on, at least one, and none twice")
