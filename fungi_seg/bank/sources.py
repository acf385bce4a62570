"""The annotated images that a bank's rows come from, found again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.bank.bank import MemoryBank
from fungi_seg.bank.revisions import lineage
from fungi_seg.config import from_dict
from fungi_seg.datasets import DataConfig, Dataset, Sample, open_dataset
from fungi_seg.errors import DataError, listing
from fungi_seg.images import LARGE_PIXELS, VOID, View, is_large
from fungi_seg.rasters import Window, open_raster

SHOWN_PIXELS = 2**22  # of large images


@dataclass(frozen=True)
class Place:
    """Where annotated images lie, and what was done since with the bank that they are in.

    Attributes:
        data: settings of their data set.
        gone: ids that were removed from the bank.
        relabels: changes of its classes, oldest first.
    """

    data: DataConfig
    gone: frozenset[str] = frozenset()
    relabels: tuple[Mapping[str, Any], ...] = ()

    def after(self, change: Mapping[str, Any]) -> Place:
        """The same images once that was done with the bank."""
        if change.get("action") == "remove":
            return replace(self, gone=self.gone.union(change.get("images", ())))
        return replace(self, relabels=(*self.relabels, change)) if change.get("action") == "relabel" else self

    def names(self, own: Iterable[str]) -> tuple[str | None, ...]:
        """What the bank calls the classes `own` of the data set; none for those that were dropped."""
        names: tuple[str | None, ...] = tuple(own)
        for change in self.relabels:
            new = {**change.get("rename", {}), **dict.fromkeys(change.get("drop", ()))}
            new |= {name: fused for fused, parts in change.get("fuse", {}).items() for name in parts}
            names = tuple(new.get(name, name) for name in names)
        return names


class SourceImages:
    """Annotated images by the ids in `bank.info.sources`: `source_images[id]`.

    They are looked for where `data` says, then where the bank's record says; data sets are opened when first needed.
    Images that are too large to be held are made smaller, see `Sample.shrunk`.

    Args:
        bank: an open bank.
        data: where the images lie now. With nothing but `root` set: the recorded settings, with this root.
    """

    def __init__(self, bank: MemoryBank, data: DataConfig | None = None):
        self._bank = bank
        self._named = data
        recorded = recorded_places(bank)
        self._places: list[Place] = []
        for place in (*_given(data, recorded, bank), *recorded):
            if place not in self._places:
                self._places.append(place)
        self._opened: dict[DataConfig, tuple[Dataset, dict[str, int]]] = {}
        self._closed: dict[DataConfig, DataError] = {}

    def __getitem__(self, source: str) -> Sample:
        """The image and its mask, of the bank's class indices; classes that the bank doesn't have are void.

        Raises:
            DataError: it isn't there, or can't be read.
        """
        for place in self._places:
            if source in place.gone or not self._open(place.data):
                continue
            dataset, numbers = self._opened[place.data]
            if source in numbers:
                sample = _read(dataset, numbers[source])
                names = place.names(dataset.classes)
                return replace(sample, mask=_translated(sample.mask, names, self._bank.info.classes))
        raise DataError(
            f"the annotated image {source!r} of the bank {self._bank.path} wasn't found. Looked for in:\n"
            f"{listing(map(self._words, self._places)) or '  nowhere: the bank has no record of its data set'}\n"
            f"Say where the images lie with --data.root DIR (and --data.layout, --data.split where they differ), or "
            f"data=DataConfig(root=DIR)"
        )

    def _open(self, data: DataConfig) -> bool:
        if data not in self._opened and data not in self._closed:
            try:
                if data.layout == "mmseg" and data != self._named:
                    raise DataError(
                        f"its configuration is a program, which a bank's record doesn't start; to have it run, name "
                        f"it: --data.layout mmseg --data.annotations {data.annotations}"
                    )
                input = self._bank.info.input
                dataset = open_dataset(data, True, input).entering(input)
                self._opened[data] = dataset, {item.id: number for number, item in enumerate(dataset.items)}
            except DataError as error:
                self._closed[data] = error
        return data in self._opened

    def _words(self, place: Place) -> str:
        data = place.data
        where = f"{data.root or 'no folder'} (layout {data.layout}, split {data.split})"
        return f"{where}: {self._closed.get(data, 'not among its images')}"


def recorded_places(bank: MemoryBank) -> tuple[Place, ...]:
    """Where the images of a bank were when it was made, the latest first; none where it was built without a record.

    A list of ids that is no longer there is left out: an image is found by its id among all.
    """
    found = _places([bank.info.build, *lineage(bank.history)], f"{bank.path}: the record of its data set")
    whole = (replace(p, data=replace(p.data, file_list=None)) if _lost(p.data.file_list) else p for p in found)
    return tuple(whole)[::-1]


def _places(history: Sequence[Mapping[str, Any]], where: str) -> list[Place]:
    """Those that a bank's images came from, the first one first, those of banks that were merged into it among them."""
    found: list[Place] = []
    for change in history:
        found = [place.after(change) for place in found]
        if isinstance(change.get("data"), Mapping):
            found.append(Place(from_dict(DataConfig, change["data"], where)))
        for origin in change.get("merged", ()):
            found += _places(lineage(origin.get("history", ())), where)
    return found


def _lost(file_list: str | None) -> bool:
    return file_list is not None and not Path(file_list).expanduser().is_file()


def _given(data: DataConfig | None, recorded: Sequence[Place], bank: MemoryBank) -> list[Place]:
    if data is None or data == DataConfig():
        return []
    moved = [replace(place, data=replace(place.data, root=data.root)) for place in recorded]
    for places in (recorded, moved):
        known = [place for place in places if data in (place.data, DataConfig(root=place.data.root))]
        if known:
            return known
    return [
        Place(data, relabels=tuple(change for change in lineage(bank.history) if change.get("action") == "relabel"))
    ]


def _translated(mask: np.ndarray, own: tuple[str | None, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """`[H, W]` int16: indices into `own` become those of the same names in `wanted`, others void."""
    if own == wanted:
        return mask
    place: dict[str | None, int] = {name: index for index, name in enumerate(wanted)}
    return np.array([*(place.get(name, VOID) for name in own), VOID], np.int16)[mask]


def _read(dataset: Dataset, index: int) -> Sample:
    """An annotated image; a large one made smaller."""
    item = dataset.items[index]
    if not is_large(item.image, dataset.input):
        return dataset[index]
    with open_raster(item.image, dataset.input.projection) as raster:
        size = raster.info.size
        shrunk = max(1.0, math.sqrt(math.prod(size) / SHOWN_PIXELS))
        input = replace(dataset.input, size=None, scale=1 / shrunk, resolution=None)
        view = View(raster, input, (1, 1), item.image)
        rows, columns = map(range, view.content)
        image = view.part(rows, columns)
        down, across = view.nearest(rows, columns)
    mask = np.empty(image.shape[:2], np.int16)
    for part in np.array_split(np.arange(len(down)), -(-math.prod(size) // LARGE_PIXELS)):
        window = Window(int(down[part[0]]), 0, int(down[part[-1]] - down[part[0]]) + 1, size[1])
        mask[part] = dataset.mask_window(index, window, size)[down[part] - window.top][:, across]
    return Sample(item.id, image, mask, shrunk=shrunk)
