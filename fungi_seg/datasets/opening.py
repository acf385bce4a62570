"""One door to annotated images of every layout."""

from __future__ import annotations

from collections.abc import Callable

from fungi_seg.datasets.ade20k import open_ade20k
from fungi_seg.datasets.cityscapes import open_cityscapes
from fungi_seg.datasets.coco import open_coco
from fungi_seg.datasets.common import Dataset
from fungi_seg.datasets.folder import open_folder
from fungi_seg.datasets.geo import open_geo
from fungi_seg.datasets.labelme import open_labelme
from fungi_seg.datasets.labelstudio import open_labelstudio
from fungi_seg.datasets.masks import ColourMasks
from fungi_seg.datasets.mmseg import open_mmseg
from fungi_seg.datasets.negatives import open_negative
from fungi_seg.datasets.selection import select
from fungi_seg.datasets.settings import READ_BY, DataConfig
from fungi_seg.datasets.values import with_values
from fungi_seg.datasets.voc import open_voc
from fungi_seg.errors import DataError
from fungi_seg.images import InputConfig

OF_PLANES: dict[str, Callable[[DataConfig, bool, str | None], Dataset]] = {  # whose stacks are an image a plane
    "folder": open_folder,
    "negative": open_negative,
    "geo": open_geo,
}
OPENERS: dict[str, Callable[[DataConfig, bool], Dataset]] = {
    "voc": open_voc,
    "ade20k": open_ade20k,
    "coco": open_coco,
    "labelme": open_labelme,
    "labelstudio": open_labelstudio,
    "cityscapes": open_cityscapes,
    "mmseg": open_mmseg,
}


def open_dataset(config: DataConfig, skip_bad: bool = False, input: InputConfig | None = None) -> Dataset:
    """Find the samples of a data set; nothing is decoded yet but masks of stacks, of which some planes may be void.

    Args:
        config: where it lies.
        skip_bad: skip what can't be used.
        input: how its images are read.

    Raises:
        DataError: no such folder or split, nothing in it, images and masks that don't pair (skipped with
            `skip_bad`, and listed in `Dataset.problems`), a class of data.classes or data.merge that isn't there, or a
            setting that the layout doesn't read.
    """
    _check_read(config)
    named = config.root or config.layout == "mmseg"  # whose configurations name a folder themselves
    if not named or not config.folder.is_dir():
        raise DataError(f"data.root is {config.root!r}: no such folder; name the data set's folder with --data.root")
    if config.layout in OF_PLANES:
        opened = OF_PLANES[config.layout](config, skip_bad, input.projection if input else None)
    else:
        opened = OPENERS[config.layout](config, skip_bad)
    if config.void is not None and isinstance(opened.read, ColourMasks):
        raise DataError(
            f"data.void is {config.void}, but these masks give classes by colours, and which is void; leave it out"
        )
    if config.values:
        opened = with_values(opened, config.values, config.void)
    return select(opened, config.classes, config.merge)


def _check_read(config: DataConfig) -> None:
    """Refuse what would be skipped without a word."""
    for option, layouts in READ_BY.items():
        value = getattr(config, option)
        if value not in (None, ()) and config.layout not in layouts:
            raise DataError(
                f"data.{option} is {value!r}; with layout {config.layout} it isn't read, only with "
                f"{', '.join(layouts)}: leave it out"
            )
