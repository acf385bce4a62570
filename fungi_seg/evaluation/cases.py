"""Data sets on which backbones are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fungi_seg.datasets import DataConfig


@dataclass(frozen=True)
class Case:
    """A data set, how much of it, and at what size.

    Attributes:
        name: column of the table.
        data: without root and split.
        folder: under the root.
        size: input size `(height, width)`.
        splits: to build from, to measure on.
        shots: images in the bank, taken evenly; all where not given.
        rows: of the bank, at most.
        score: class whose IoU counts; the mean where not given.
        sampled: whether there are more patches than rows, so that plain features too depend on the seed.
    """

    name: str
    data: DataConfig
    folder: str
    size: tuple[int, int] = (256, 336)
    splits: tuple[str, str] = ("train", "val")
    shots: int | None = None
    rows: int = 150_000
    score: str | None = None
    sampled: bool = False

    def source(self, root: Path, split: int = 0) -> DataConfig:
        """Where the images to build from lie, or (1) those to measure on; `root` holds the folder."""
        return replace(self.data, root=str(root / self.folder), split=self.splits[split])


NUCLEI = DataConfig(layout="folder")
CASES = (
    Case("CamVid", DataConfig(layout="folder", void=11), "camvid", sampled=True),
    Case("nuclei 71", NUCLEI, "nuclei", score="nucleus"),
    Case("nuclei 8", NUCLEI, "nuclei", shots=8, score="nucleus"),
    Case("VOC subset", DataConfig(layout="voc"), "voc", splits=("trainaug", "val"), sampled=True),
    Case("nuclei 8, 512×672", NUCLEI, "nuclei", (512, 672), shots=8, score="nucleus"),
    Case("nuclei 71, 512×672", NUCLEI, "nuclei", (512, 672), rows=50_000, score="nucleus", sampled=True),
)
NAMES = tuple(case.name for case in CASES)
