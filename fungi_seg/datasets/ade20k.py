"""ADE20K scene parsing (`ADEChallengeData2016`): 150 classes, mask values 1..150, 0 ignored."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from fungi_seg.datasets.common import Dataset, files_by_id, pair
from fungi_seg.datasets.masks import IndexMasks
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.errors import DataError
from fungi_seg.images import IMAGE_SUFFIXES, MASK_SUFFIXES

FOLDERS = {"train": "training", "val": "validation"}


def open_ade20k(config: DataConfig, skip_bad: bool) -> Dataset:
    """`data.split` is `train` or `val` (or the folder's own name); class indices are mask values less one."""
    root, split = config.folder, config.split or "train"
    base = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    folder = FOLDERS.get(split, split)
    if not (base / "images" / folder).is_dir() or not (base / "annotations" / folder).is_dir():
        raise DataError(
            f"data.root is {str(root)!r}, data.split {split!r}: expected ADEChallengeData2016 with images/{folder} and "
            f"annotations/{folder}; splits are train and val"
        )
    remarks: list[str] = []
    photos, annotations = base / "images" / folder, base / "annotations" / folder
    images, masks = files_by_id(photos, IMAGE_SUFFIXES, remarks), files_by_id(annotations, MASK_SUFFIXES)
    items, problems = pair(images, masks, config.ids, skip_bad, str(photos), annotations)
    names, palette = classes()
    read = IndexMasks(range(1, len(names) + 1), (0 if config.void is None else config.void,))
    return Dataset(items, names, palette, read, problems, tuple(remarks))


def classes() -> tuple[tuple[str, ...], np.ndarray]:
    """The 150 names and their usual colours, `[150, 3]` uint8."""
    lines = files("fungi_seg.datasets").joinpath("ade20k.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split(maxsplit=3) for line in lines]
    return tuple(entry[3] for entry in entries), np.array([entry[:3] for entry in entries], np.uint8)
