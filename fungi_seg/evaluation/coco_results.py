"""Predictions as COCO results, and COCO results as masks."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fungi_seg.datasets import (
    BACKGROUND,
    CocoImage,
    CocoIndex,
    filled,
    is_number,
    is_whole,
    match_names,
    paint,
    read_index,
    read_json,
    segmentation_fault,
)
from fungi_seg.errors import DataError, FungiSegError, listing, nearest
from fungi_seg.evaluation.settings import CocoConfig
from fungi_seg.files import replacing
from fungi_seg.images import VOID, bare, label_runs, pack
from fungi_seg.rasters import file_of
from fungi_seg.segmentation import Objects, Segmentation, upsample


class CocoResults:
    """Collects predictions, and writes them as COCO results.

    Args:
        config: what to write; `file` must be given.
        classes: names, in the order of the class indices. The pixels of `background` are what no entry covers.
        images: the files of the images that may be added, by name. Without `config.like` their ids are 1, 2, … in
            order; the id of a category is its class index, or one more where class 0 isn't `background`.

    Attributes:
        images: as given.

    Raises:
        FungiSegError: the file couldn't be written.
        DataError: `config.like` can't be read, or doesn't know a class or an image.
    """

    def __init__(self, config: CocoConfig, classes: Sequence[str], images: Mapping[str, Path]):
        self._config, self.images = config, images
        self.file = _writable(config)
        drawn = {index: name for index, name in enumerate(classes) if name != BACKGROUND}
        if config.like:
            index = read_index(Path(config.like).expanduser())
            self._ids, self._categories = _ids_of(index, images), _categories_of(index, drawn)
        else:
            index = _numbered(drawn, images)
            self._ids = dict(zip(images, index.images, strict=True))
            self._categories = dict(zip(drawn, index.categories, strict=True))
        self._index = index
        self._images: dict[int, dict[str, Any]] = {}
        self.entries: list[dict[str, Any]] = []

    def add(self, name: str, segmentation: Segmentation, objects: Objects | None = None) -> None:
        """Add what was found in the image of that name; where its objects are given, an entry of each of them.

        Raises:
            DataError: the image has another size in `config.like`.
            FungiSegError: no such image was announced, or it was added before.
        """
        self.put(name, self.found_in(name, segmentation, objects))

    def found_in(self, name: str, segmentation: Segmentation, objects: Objects | None = None) -> dict[str, Any]:
        """What `add` would add, as JSON can hold it, for `put`; it raises the same."""
        image_id, (height, width) = self._id_of(name), segmentation.mask.shape
        image = self._index.images[image_id]
        if image.size not in (None, (height, width)):
            raise DataError(
                f"{name}: the image is {height}×{width} (height×width), but {self._index.source} has image {image_id}, "
                f"{image.file}, as {_size_words(image.size)}; give the JSON of these very images as coco.like"
            )
        return {"width": width, "height": height, "entries": list(self._entries(segmentation, objects))}

    def put(self, name: str, found: Mapping[str, Any]) -> None:
        """Add what `found_in` gave, of this run or another with the same settings."""
        image_id = self._id_of(name)
        if image_id in self._images:
            raise FungiSegError(f"{name!r} was added before, as image {image_id}")
        size = {"width": found["width"], "height": found["height"]}
        self._images[image_id] = {"id": image_id, "file_name": self._index.images[image_id].file, **size}
        self.entries += ({"image_id": image_id, **entry} for entry in found["entries"])

    def _id_of(self, name: str) -> int:
        if name not in self._ids:
            raise FungiSegError(f"{name!r} is none of the {len(self._ids)} images{nearest(name, self._ids)}")
        return self._ids[name]

    def _entries(self, segmentation: Segmentation, objects: Objects | None) -> Iterator[dict[str, Any]]:
        mask, size = segmentation.mask, (segmentation.mask.shape[0], segmentation.mask.shape[1])
        for index in np.unique(mask).tolist():
            if index not in self._categories:
                continue
            if objects:
                parts = objects.of_class(index)
            else:
                region = (mask == index).astype(np.uint8)
                parts = cv2.connectedComponents(region, connectivity=8)[1] if self._config.instances else region
            scores = upsample(segmentation.patch_scores[[index]], size, segmentation.covered)[0].numpy()
            if segmentation.by_hand is not None:
                scores = np.where(segmentation.by_hand, 1, scores)
            areas = np.bincount(parts.ravel())
            means = np.bincount(parts.ravel(), weights=scores.ravel()) / np.maximum(areas, 1)
            for part, counts in label_runs(parts.astype(np.int32)):
                if areas[part] >= self._config.min_area:
                    yield {
                        "category_id": self._categories[index],
                        "segmentation": {"size": list(size), "counts": pack(counts, size)},
                        "area": int(areas[part]),
                        "score": min(1.0, float(means[part])),  # no bbox: pycocotools would take its area for the area
                    }

    def write(self) -> None:
        """Write the results, and beside them `<stem>_images.json` with the images and categories that they belong to.

        `COCO(<stem>_images.json).loadRes(file)` takes the two.

        Raises:
            FungiSegError: a file can't be written. Both are written whole before they take the place of what was there.
        """
        known = {
            "images": list(self._images.values()),
            "categories": [{"id": i, "name": self._index.categories[i]} for i in self._categories.values()],
            "annotations": [],
        }
        with replacing(self.file) as results, replacing(images_beside(self.file)) as images:
            images.write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
            results.write_text(json.dumps(self.entries), encoding="utf-8")


def images_beside(file: Path) -> Path:
    """The JSON of images and categories that belongs to a JSON of results."""
    return file.with_name(f"{file.stem}_images.json")


def _writable(config: CocoConfig) -> Path:
    """The file of results; a missing folder is made when it is written.

    Raises:
        FungiSegError: none is named, it can't be written, or it would take the place of coco.like.
    """
    if not config.file:
        raise FungiSegError("coco.file is empty; name the JSON to write")
    file = Path(config.file).expanduser()
    above = next(folder for folder in file.absolute().parents if folder.exists())
    folders = [path for path in (file, images_beside(file)) if path.is_dir()]
    if folders or not above.is_dir() or not os.access(above, os.W_OK):
        why = f"{folders[0]} is a folder" if folders else f"{str(above)!r} is no folder that can be written to"
        raise FungiSegError(f"coco.file is {config.file!r}, which can't be written: {why}; name another file")
    like = Path(config.like).expanduser().resolve() if config.like else None
    if like in (file.resolve(), images_beside(file).resolve()):
        raise FungiSegError(f"coco.like is {config.like!r}, which coco.file would replace; name another coco.file")
    return file


def _numbered(drawn: Mapping[int, str], images: Mapping[str, Path]) -> CocoIndex:
    """Ids of our own; those in the files' names would fit COCO's own JSON, whose categories have other ids."""
    files = [f"{name}{file_of(path).suffix}" for name, path in images.items()]
    known = {i: CocoImage(i, file, None) for i, file in enumerate(files, 1)}
    first = 1 if 0 in drawn else 0
    return CocoIndex("", known, {first + index: name for index, name in drawn.items()})


def _ids_of(index: CocoIndex, images: Mapping[str, Path]) -> dict[str, int]:
    """Image ids by name."""
    ids = index.image_ids
    found = match_names({name: bare(path).name for name, path in images.items()}, ids)
    unknown = [str(path) for name, path in images.items() if name not in found]
    if unknown:
        raise DataError(
            f"{index.source} (coco.like) doesn't know {len(unknown)} of {len(images)} images by their file names:\n"
            f"{listing(unknown)}\nLeave them out, or leave coco.like out to number the images anew"
        )
    return {name: ids[known] for name, known in found.items()}


def _categories_of(index: CocoIndex, drawn: Mapping[int, str]) -> dict[int, int]:
    """Category ids by class index."""
    ids = index.category_ids
    unknown = [f"{name!r}{nearest(name, ids)}" for name in drawn.values() if name not in ids]
    if unknown:
        raise DataError(
            f"{index.source} (coco.like) has no category for {len(unknown)} of the {len(drawn)} classes:\n"
            f"{listing(unknown)}\nLeave coco.like out to write categories of the bank's own"
        )
    return {number: ids[name] for number, name in drawn.items()}


@dataclass(frozen=True)
class CocoMasks:
    """The entries of COCO results as masks.

    Attributes:
        file: the results.
        index: images and categories that they belong to.
        entries: by image id, numbers in the file and entries, those that come later lying on top.
    """

    file: Path
    index: CocoIndex
    entries: dict[int, list[tuple[int, dict[str, Any]]]]

    def draw(self, image_id: int, size: tuple[int, int], classes: Mapping[str, int], rest: int = VOID) -> np.ndarray:
        """The entries of an image, `[H, W]` int16; where they overlap, that of the highest score is on top.

        Args:
            image_id: of the image.
            size: `(height, width)` of the image.
            classes: class indices by category name.
            rest: what pixels without an entry are.

        Raises:
            DataError: the index has the image in another size, or an entry can't be drawn.
        """
        image = self.index.images[image_id]
        if image.size not in (None, size):
            raise DataError(
                f"{self.index.source}: image {image_id}, {image.file}, is {_size_words(image.size)} there, the image "
                f"is {_size_words(size)}; give the predictions for this very image"
            )
        mask = np.full(size, rest, np.int16)
        for number, entry in self.entries.get(image_id, []):
            segmentation = entry["segmentation"]
            fault = segmentation_fault(segmentation, size)
            if fault:
                raise DataError(f"{self.file}: [{number}] (image_id {image_id}): {fault}")
            runs = filled(segmentation, size) if isinstance(segmentation, list) else segmentation
            paint(mask, runs, classes[self.index.categories[entry["category_id"]]])
        return mask

    @property
    def used(self) -> set[str]:
        """Names of the categories that have an entry."""
        return {self.index.categories[entry["category_id"]] for of in self.entries.values() for _, entry in of}


def read_results(file: Path, images: Path | None = None) -> CocoMasks:
    """COCO results: a list of entries with image_id, category_id, segmentation and, mostly, score.

    Args:
        file: the results.
        images: the COCO JSON whose image and category ids they use; by default what was written beside them.

    Raises:
        DataError: a file can't be read, or entries of unknown images or categories, without a segmentation, or with one
            of another size than the image; all of them are named.
    """
    values = read_json(file)
    if not isinstance(values, list):
        annotated = isinstance(values, dict) and "images" in values
        what = "holds annotations, which data.layout coco reads" if annotated else f"begins with {str(values)[:40]!r}"
        raise DataError(f"{file}: {what}; COCO results are a list of entries")
    index = read_index(images or images_beside(file))
    faults = [f"[{i}] {fault}" for i, entry in enumerate(values) if (fault := _fault(entry, index))]
    if faults:
        raise DataError(
            f"{file}: {len(faults)} of {len(values)} entries can't be used with the images and categories of "
            f"{index.source}:\n{listing(faults)}"
        )
    entries = defaultdict(list)
    for number, entry in sorted(enumerate(values), key=lambda pair: pair[1].get("score", 0)):
        entries[entry["image_id"]].append((number, entry))
    return CocoMasks(file, index, dict(entries))


def _fault(entry: Any, index: CocoIndex) -> str | None:
    """Why an entry can't be used, as far as that is known without decoding it."""
    if not isinstance(entry, dict):
        return f"is {entry!r}, not an object"
    image_id, category_id, segmentation = (entry.get(k) for k in ("image_id", "category_id", "segmentation"))
    if not is_whole(image_id) or image_id not in index.images:
        return f"image_id {image_id!r}: there is no such image"
    where = f"(image_id {image_id})"
    if not is_whole(category_id) or category_id not in index.categories:
        return f"{where} category_id {category_id!r}: there is no such category"
    if not segmentation:
        return f"{where} has no segmentation; a box alone is no mask"
    if not is_number(entry.get("score", 0)):
        return f"{where} has the score {entry['score']!r}; it must be a number"
    size, own = index.images[image_id].size, segmentation.get("size") if isinstance(segmentation, dict) else None
    if size and own and own != list(size):
        return f"{where} has run lengths of size {own!r}, but the image is {_size_words(size)}"
    return None


def _size_words(size: tuple[int, int] | None) -> str:
    return "of unknown size" if size is None else f"{size[0]}×{size[1]} (height×width)"
