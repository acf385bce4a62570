"""Images from disk: annotated ones, all yielding `Sample`, and labelled ones, all yielding `LabelledImage`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fungi_seg.datasets.ade20k import open_ade20k
from fungi_seg.datasets.common import Dataset, Item, Sample
from fungi_seg.datasets.folder import open_folder
from fungi_seg.datasets.labelled import ImageData, ImageDataConfig, ImageSet, LabelledImage, open_images
from fungi_seg.datasets.voc import open_voc
from fungi_seg.errors import DataError, check_choice

LAYOUTS = {"folder": open_folder, "voc": open_voc, "ade20k": open_ade20k}


@dataclass(frozen=True)
class DataConfig:
    """Which annotated images.

    Args:
        layout: `folder`, `voc` or `ade20k`.
        root: the folder that holds the data set.
        split: sub-folder (`folder`), list (`voc`: trainaug, train, val, …; by default trainaug)
            or `train` / `val` (`ade20k`; by default train).
        file_list: text file of ids, one a line, that takes the place of the split's own.
        void: mask value that stands for unlabelled; `null` takes the layout's (255; ADE20K: 0; a
            folder of more than 255 classes: 65535).
    """

    layout: str = "folder"
    root: str = ""
    split: str | None = None
    file_list: str | None = None
    void: int | None = None

    def __post_init__(self) -> None:
        check_choice("data.layout", self.layout, LAYOUTS)
        if self.void is not None and not 0 <= self.void < 2**16:
            raise DataError(f"data.void is {self.void}; it must be a mask value 0..65535, or null")


def open_dataset(config: DataConfig, skip_bad: bool = False) -> Dataset:
    """Find the samples of a data set; nothing is decoded yet.

    Raises:
        DataError: no such folder or split, nothing in it, or images and masks that don't pair (passed over with
            `skip_bad`, and told in `Dataset.problems`).
    """
    root = Path(config.root).expanduser()
    if not config.root or not root.is_dir():
        raise DataError(f"data.root is {config.root!r}: no such folder; name the data set's folder with --data.root")
    file_list = Path(config.file_list).expanduser() if config.file_list else None
    return LAYOUTS[config.layout](root, config.split, file_list, config.void, skip_bad)


__all__ = [
    "LAYOUTS",
    "DataConfig",
    "Dataset",
    "ImageData",
    "ImageDataConfig",
    "ImageSet",
    "Item",
    "LabelledImage",
    "Sample",
    "open_dataset",
    "open_images",
]
