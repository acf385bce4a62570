"""Groups of options that only commands have."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

from fungi_seg.datasets import DataConfig
from fungi_seg.images import LoadConfig


@dataclass(frozen=True)
class Told:
    """Options that take the place of what is guessed; each as for `build`.

    Args:
        layout: folder, voc, ade20k, coco, labelme, labelstudio, cityscapes, mmseg, geo or negative.
        root: the folder that holds the data set.
        split: the only one to look at.
        file_list: text file of ids, one a line.
        void: mask value that stands for unlabelled.
        values: what mask values or colours stand for, as 255=nucleus.
        annotations: the JSON, configuration or vector file that holds the annotations.
        images: folder of the images.
        masks: folder of the mask images.
        property: of a polygon, what names its class.
        classes: the classes to keep.
        merge: classes to make one of, as vehicle=car,bus.
    """

    layout: str | None = None
    root: str | None = None
    split: str | None = None
    file_list: str | None = None
    void: int | None = None
    values: tuple[str, ...] | None = None
    annotations: str | None = None
    images: str | None = None
    masks: str | None = None
    property: str | None = None
    classes: tuple[str, ...] | None = None
    merge: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        DataConfig(**self.options)

    @builtins.property  # whose name a field has here
    def options(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Readers:
    """How images are worked through where no backbone runs.

    Args:
        workers: threads that read images.
    """

    workers: int = LoadConfig.workers

    def __post_init__(self) -> None:
        LoadConfig(workers=self.workers)


@dataclass(frozen=True)
class Root:
    """Where the data lie.

    Args:
        root: the folder.
    """

    root: str | None = None
