"""What a memory of earlier frames does to masks: `python tools/video_memory.py --data.root DIR [options]`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fungi_seg.bank import BankConfig, BankRecipe, build_bank
from fungi_seg.cli import tool
from fungi_seg.commands.settings import Root
from fungi_seg.datasets import DataConfig, Dataset, open_dataset
from fungi_seg.errors import UsageError
from fungi_seg.evaluation import ConfusionMatrix, intersection_over_union
from fungi_seg.features import BackboneConfig, FeatureConfig, FeatureFiles, KeptFeatures, load_backbone
from fungi_seg.images import InputConfig, RunConfig
from fungi_seg.progress import track
from fungi_seg.search import AnyKeys
from fungi_seg.segmentation import Searcher, Segmenter, fit_decoder

VOID = 11  # in the masks of CamVid


def video_memory(
    data: Root = Root(),
    backbone: BackboneConfig = BackboneConfig("embedded"),
    memory: tuple[int, ...] = (0, 2, 8, 32),
    every: tuple[int, ...] = (2, 5, 10),
    images: int = 120,
    rows: int = 20_000,
    fitted: bool = False,
    kept: str = "outputs/video_memory",
) -> None:
    """Segment the frames of CamVid's split val in their order; prints mIoU by the length of the memory, as Markdown.

    The bank is made of images of the split train, or of every n-th frame of val itself; those aren't measured then.

    Args:
        data: folder with camvid.
        backbone: the frozen vision transformer.
        memory: frames that are remembered; 0 for none.
        every: each so many-th frame is annotated.
        images: of train, at even distances; 0 leaves them out.
        rows: of each bank, at most.
        fitted: fit the decoder on each bank, by which it is known how sure classes are.
        kept: folder that keeps features, so that the work can be interrupted.
    """
    if not data.root:
        raise UsageError("data.root is empty; name the folder with camvid: --data.root DIR")
    root = Path(data.root).expanduser() / "camvid"
    train, val = (open_dataset(DataConfig(root=str(root), split=split, void=VOID)) for split in ("train", "val"))
    folder = Path(kept).expanduser() / backbone.name
    folder.mkdir(parents=True, exist_ok=True)
    features = KeptFeatures(load_backbone(**vars(backbone)), FeatureConfig(kind="plain"), FeatureFiles(folder))
    print("| annotated | measured |", " | ".join(f"memory {frames}" for frames in memory), "|")
    print("|---|---|" + "---|" * len(memory))
    for name, annotated, measured in _cases(train.evenly(images) if images else None, val, every):
        with tempfile.TemporaryDirectory() as place:
            recipe = BankRecipe(features.config, InputConfig(), BankConfig(size=rows))
            run = RunConfig(progress=True)
            bank = build_bank(annotated, features.backbone, Path(place) / "bank", recipe, run, features=features)
            if fitted:
                bank = bank.keep_decoder(fit_decoder(bank, features=features, progress=True).record())
            segmenter = Segmenter(bank, features)
            scores = [f"{100 * score:.2f}" for score in mious(segmenter, val, measured, memory)]
        print(f"| {name} | {len(measured)} frames |", " | ".join(scores), "|", flush=True)


def _cases(train: Dataset | None, val: Dataset, every: Sequence[int]) -> Iterator[tuple[str, Dataset, set[str]]]:
    """What is annotated, and the ids of the frames that are measured."""
    if train is not None:
        yield f"{len(train)} images of train", train, {item.id for item in val.items}
    for step in every:
        some = replace(val, items=val.items[::step])
        yield f"one frame of {step}", some, {item.id for item in val.items} - {item.id for item in some.items}


class _Once:
    """Searches for the same patches once, however often it is asked in a row."""

    def __init__(self, index: Searcher):
        self._index, self._asked, self.kind = index, np.empty(0), index.kind

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `NeighbourIndex.search`."""
        if not np.array_equal(queries, self._asked):
            self._asked, self._found = queries, self._index.search(queries, k)
        return self._found

    def recall(self, keys: AnyKeys, queries: np.ndarray, k: int) -> float:
        """As `NeighbourIndex.recall`."""
        return self._index.recall(keys, queries, k)


def mious(segmenter: Segmenter, frames: Dataset, measured: set[str], lengths: Sequence[int]) -> list[float]:
    """mIoU, 0..1, by the length of the memory, over the frames that are measured; all are seen in their order."""
    segmenter.index = _Once(segmenter.index)
    counts = [ConfusionMatrix(len(frames.classes)) for _ in lengths]
    memories = [segmenter.memory(length) if length else None for length in lengths]
    for number in track(range(len(frames)), len(frames), "frames in order", "frames"):
        sample = frames[number]
        fitted = segmenter.fit(sample.image)
        for count, memory in zip(counts, memories, strict=True):
            found = segmenter.predict_fitted([fitted], [sample.image], memory=memory)[0]
            if sample.id in measured:
                count.add(sample.mask, found.mask)
    found_in = [count.counts for count in counts]
    return [float(intersection_over_union(one)[one.sum(1) > 0].mean()) for one in found_in]


if __name__ == "__main__":
    sys.exit(tool(video_memory))
