"""Any data set of MMSegmentation: one that a configuration names, or one that is built already."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.config import shipped
from fungi_seg.datasets.common import Dataset, Item, pair
from fungi_seg.datasets.masks import IndexMasks
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.errors import DataError, MissingExtra, check_choice, listing, reason

SPLITS = ("train", "val", "test")
UNMAPPED = 255  # what MMSegmentation makes of classes that were left out


@dataclass(frozen=True)
class MMSegMasks:
    """Reads annotations as MMSegmentation does.

    Attributes:
        load: the transform `LoadAnnotations` of the data set's pipeline.
        label_map: class indices in the file to those of the data set, where it has fewer classes than its kind.
        reduce_zero_label: whether 0 in the file is void, 1 the first class, …
        indices: class indices and void of what was loaded.
    """

    load: Any
    label_map: Mapping[int, int] | None
    reduce_zero_label: bool
    indices: IndexMasks

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of the item's mask file."""
        info: dict[str, Any] = {"img_path": str(item.image), "seg_map_path": str(item.mask), "seg_fields": []}
        info |= {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        try:
            found = self.load(info)["gt_seg_map"]
        except Exception as error:  # a data set may have any transform
            raise DataError(f"{item.mask}: MMSegmentation can't read this mask ({reason(error)})") from error
        if found.ndim != 2:
            raise DataError(f"{item.mask}: the mask has shape {found.shape}; an index mask of one channel is expected")
        return self.indices.class_indices(found.astype(np.int32), item.mask)


def open_mmseg(config: DataConfig, skip_bad: bool) -> Dataset:
    """`data.annotations` is a configuration of MMSegmentation; `data.split` says whose data loader: train, val, test.

    `data.root` takes the place of the configuration's `data_root`. A configuration is a program, which is run.
    """
    path = shipped("mmseg", ".py").get(config.annotations or "") or config.place("annotations")
    if path is None:
        raise DataError(
            "data.annotations is empty; layout mmseg needs a configuration of MMSegmentation, such as "
            "--data.annotations voc12 (which is shipped), or the path of one"
        )
    split = config.split or "train"
    check_choice("data.split", split, SPLITS)
    settings = read_config(path)
    loader = settings.get(f"{split}_dataloader")
    if not loader or "dataset" not in loader:
        known = [name for name in SPLITS if settings.get(f"{name}_dataloader")]
        raise DataError(
            f"{path}: data.split is {split!r}, but there is no {split}_dataloader with a dataset; there are loaders "
            f"for: {', '.join(known) or 'nothing'}"
        )
    wanted = rooted(loader.dataset, str(config.folder)) if config.root else loader.dataset
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS

    with DefaultScope.overwrite_default_scope(settings.get("default_scope", "mmseg")):
        try:
            built = DATASETS.build(wanted)
        except Exception as error:  # as each data set likes
            where = wanted.get("data_root", "in several places")
            raise DataError(
                f"{path}: the data set of {split}_dataloader can't be opened ({reason(error)}). Its data_root is "
                f"{where!r}; name another one with --data.root"
            ) from error
        return dataset_from_mmseg(built, config.ids, skip_bad)


def read_config(path: Path) -> Any:
    """A configuration of MMSegmentation, as mmengine's `Config`.

    Raises:
        DataError: it can't be run.
        MissingExtra: MMSegmentation isn't installed.
    """
    try:
        import mmseg.registry  # noqa: F401
        from mmengine.config import Config
    except ImportError as error:
        raise MissingExtra("mmseg", error) from error
    try:
        return Config.fromfile(str(path))
    except Exception as error:  # it is a program
        raise DataError(f"{path}: can't be read as a configuration of MMSegmentation ({reason(error)})") from error


def rooted(settings: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Settings of a data set, wrapped or not, with another `data_root`."""
    if "datasets" in settings:
        return {**settings, "datasets": [rooted(one, root) for one in settings["datasets"]]}
    if "dataset" in settings:
        return {**settings, "dataset": rooted(settings["dataset"], root)}
    return {**settings, "data_root": root}


def dataset_from_mmseg(dataset: Any, file_list: Path | None = None, skip_bad: bool = False) -> Dataset:
    """Annotated images of a data set that MMSegmentation built, in its order; ids are paths without suffix.

    Images are read as all of this package's are; of the pipeline, only the loading of annotations counts.

    Args:
        dataset: from `mmseg.registry.DATASETS.build`. `ConcatDataset` gives all of its parts; `RepeatDataset` and
            `MultiImageMixDataset` give what they wrap, once.
        file_list: text file of ids, one a line, to take; all by default.
        skip_bad: skip images or masks that aren't there, and list them in `Dataset.problems`.

    Raises:
        DataError: not such a data set, one without classes or masks, parts that are read differently, two images of
            one id, or files that aren't there.
    """
    parts = _parts(dataset)
    classes = tuple(name.strip() for name in parts[0].metainfo.get("classes") or ())
    if not classes:
        raise DataError(f"{_name(parts[0])} names no classes; build it with metainfo=dict(classes=…, palette=…)")
    readers = [_reader(part, len(classes)) for part in parts]
    different = sorted({repr(reader) for reader in readers})
    if len(different) > 1:
        raise DataError(f"the {len(parts)} data sets put together are read differently:\n{listing(different)}")
    files = _files(parts)
    masks = {name: mask for name, (_, mask) in files.items() if mask.is_file()}
    # what has neither file counts as an image without a mask, so that it is named
    images = {name: image for name, (image, _) in files.items() if image.is_file() or name not in masks}
    items, problems = pair(images, masks, file_list, skip_bad, _name(parts[0]))
    if not file_list:
        place = {name: number for number, name in enumerate(files)}
        items = tuple(sorted(items, key=lambda item: place[item.id]))
    palette = np.array(parts[0].metainfo["palette"], np.uint8).reshape(-1, 3)
    return Dataset(items, classes, palette, readers[0], problems)


def _parts(dataset: Any) -> list[Any]:
    """The data sets that read files, out of what wraps them."""
    from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
    from mmseg.datasets import MultiImageMixDataset

    if isinstance(dataset, ConcatDataset):
        return [part for one in dataset.datasets for part in _parts(one)]
    if isinstance(dataset, RepeatDataset | MultiImageMixDataset):
        return _parts(dataset.dataset)
    if not isinstance(dataset, BaseDataset) or not hasattr(dataset, "reduce_zero_label"):
        raise DataError(
            f"dataset is a {_name(dataset)}; it must be a data set of MMSegmentation, or a ConcatDataset, "
            f"RepeatDataset or MultiImageMixDataset of such"
        )
    dataset.full_init()
    return [dataset]


def _reader(part: Any, classes: int) -> MMSegMasks:
    from mmcv.transforms import LoadAnnotations as AnyLoadAnnotations
    from mmseg.datasets.transforms import LoadAnnotations

    own = [one for one in part.pipeline.transforms if isinstance(one, AnyLoadAnnotations)]
    load = copy.copy(own[0]) if own else LoadAnnotations()
    if classes > UNMAPPED and isinstance(load, LoadAnnotations):
        raise DataError(
            f"{_name(part)} has {classes} classes, but MMSegmentation reads masks in 8 bits, up to {UNMAPPED} classes; "
            f"open these masks with --data.layout folder, which reads 16 bits"
        )
    if getattr(load, "reduce_zero_label", True) is None:
        load.reduce_zero_label = part.reduce_zero_label  # as the first call would
    void = tuple({part.ignore_index, UNMAPPED})
    advice = "Give the data set of MMSegmentation all classes, or the void value as ignore_index"
    return MMSegMasks(load, part.label_map, part.reduce_zero_label, IndexMasks(range(classes), void, advice))


def _files(parts: list[Any]) -> dict[str, tuple[Path, Path]]:
    """Image and mask of each id, the path below the folder of the images, or below what several have in common."""
    bases = {os.path.abspath(part.data_prefix.get("img_path") or part.data_root or "") for part in parts}
    base = Path(os.path.commonpath(sorted(bases)))
    found: dict[str, tuple[Path, Path]] = {}
    for part in parts:
        for info in map(part.get_data_info, range(len(part))):
            if "seg_map_path" not in info:
                raise DataError(f"{_name(part)} has no annotations: no seg_map_path for {info['img_path']}")
            image, mask = Path(info["img_path"]), Path(info["seg_map_path"])
            place = Path(os.path.abspath(image))
            name = (place.relative_to(base) if place.is_relative_to(base) else place).with_suffix("").as_posix()
            if found.setdefault(name, (image, mask)) != (image, mask):
                raise DataError(
                    f"{_name(part)}: {found[name][0]} with {found[name][1]}, and {image} with {mask}, have the same id "
                    f"{name!r}; leave one out"
                )
    return found


def _name(dataset: Any) -> str:
    return type(dataset).__name__
