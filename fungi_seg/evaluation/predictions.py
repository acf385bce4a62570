"""Predictions on disk, found again for the images of a data set: mask images, or COCO results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fungi_seg.datasets import (
    BACKGROUND,
    JPEG,
    Dataset,
    IndexMasks,
    Item,
    Span,
    check_once,
    files_by_id,
    json_kind,
    match_names,
    peek,
    plane_by_plane,
    read_lines,
    void_value,
)
from fungi_seg.errors import DataError, listing, nearest
from fungi_seg.evaluation.coco_results import images_beside, read_results
from fungi_seg.images import MASK_SUFFIXES, VOID, bare

Size = tuple[int, int]


@dataclass(frozen=True)
class Predictions:
    """Predicted masks of some images of a data set.

    Attributes:
        path: where they lie.
        names: of the predictions, by the id of the image.
        read: the mask of that name, `[H, W]` int16 class indices of the data set, void −1, for an image of the size
            `(height, width)`.
        notes: what a report must say of them.
    """

    path: Path
    names: Mapping[str, str]
    read: Callable[[str, Size], np.ndarray]
    notes: tuple[str, ...] = ()

    def mask(self, item: Item, size: Size) -> np.ndarray:
        """The prediction for an image of `size` `(height, width)`, `[H, W]` int16 class indices, void −1.

        Raises:
            DataError: there is none, or it can't be used.
        """
        if item.id not in self.names:
            raise DataError(f"{item.id}: there is no prediction for it in {self.path}")
        return self.read(self.names[item.id], size)


def open_predictions(path: str | Path, dataset: Dataset, like: str | Path | None = None) -> Predictions:
    """Find the predictions for the images of a data set, by the images' ids or file names.

    Args:
        path: a folder of mask images, or what `fungi-seg segment` wrote: their values are the lines of `classes.txt` in
            or above it, or class indices of the data set where there is none. Or a JSON of COCO results.
        dataset: whose classes and images they are to have.
        like: a COCO JSON with the image and category ids that the results use. By default `<stem>_images.json`
            beside them, or else that of the data set itself.

    Raises:
        DataError: there is nothing, or nothing that can be read; or its classes aren't those of the data set.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _mask_files(path, dataset)
    if not path.is_file():
        raise DataError(f"predictions is {str(path)!r}: no such folder of masks, or JSON of COCO results")
    return _coco_results(path, dataset, like)


def _mask_files(path: Path, dataset: Dataset) -> Predictions:
    folder = path / "masks" if (path / "masks").is_dir() else path
    files = plane_by_plane(files_by_id(folder, MASK_SUFFIXES))
    if not files:
        photos = next((file for file in folder.rglob("*") if file.suffix.lower() in JPEG), None)
        more = f"; {photos.name} is a JPEG, which changes ids: save predictions as PNG" if photos else ""
        kinds = ", ".join(MASK_SUFFIXES)
        raise DataError(f"predictions is {str(path)!r}, in which there is no mask image ({kinds}){more}")
    lists = [file for file in (folder / "classes.txt", folder.parent / "classes.txt") if file.is_file()]
    names = _same_classes(lists[0], dataset) if lists else dataset.classes
    void = void_value(len(names))
    way_out = f"They must be numbers of lines of {lists[0]}, from 0" if lists else "They must be the data set's indices"
    spans = () if lists else _named_values(dataset)
    masks = IndexMasks([names.index(name) for name in dataset.classes], (void,), way_out, spans=spans)

    def read(name: str, size: Size) -> np.ndarray:
        mask = masks(Item(name, files[name], files[name]), size)
        if mask.shape != size:
            raise DataError(
                f"{files[name]}: the mask is {mask.shape[0]}×{mask.shape[1]} (height×width), the image "
                f"{size[0]}×{size[1]}; predictions must have the size of their images"
            )
        return mask

    note = (
        f"no classes.txt lies with {path}: values of its masks are taken as the data set's class indices"
        f"{', and as data.values says' if spans else ''}"
    )
    return Predictions(path, _matched(dataset, files), read, () if lists else (note,))


def _named_values(dataset: Dataset) -> tuple[Span, ...]:
    """What data.values says of mask values, in the classes that are kept."""
    spans = dataset.read.spans if isinstance(dataset.read, IndexMasks) else ()
    kept = (*(dataset.selection or range(len(dataset.classes))), VOID)
    return tuple(replace(span, index=kept[span.index]) for span in spans)


def _same_classes(file: Path, dataset: Dataset) -> tuple[str, ...]:
    """The classes of predictions, which must be those of the data set, in any order."""
    names = tuple(read_lines(file, "class list"))
    check_once(names, str(file), "classes")
    missing = [f"{name!r}: only in the data set{nearest(name, names)}" for name in dataset.classes if name not in names]
    more = [f"{name!r}: only in the predictions" for name in names if name not in dataset.classes]
    if missing or more:
        raise DataError(
            f"{file} has {len(names)} classes, the data set {len(dataset.classes)}; they must be the same:\n"
            f"{listing([*missing, *more])}\n"
            f"Where they were predicted by a bank built with data.classes or data.merge, give them here too"
        )
    return names


def _coco_results(file: Path, dataset: Dataset, like: str | Path | None) -> Predictions:
    results = read_results(file, _index_of(file, dataset, like))
    known = {name: dataset.classes.index(name) for name in dataset.classes}
    strange = sorted(name for name in results.used if name not in known)
    if strange:
        lines = [f"{name!r}{nearest(name, known)}" for name in strange]
        raise DataError(
            f"{file}: {len(strange)} categories are no classes of the data set:\n{listing(lines)}\n"
            f"Where they were predicted by a bank built with data.classes or data.merge, give them here too"
        )
    rest = known.get(BACKGROUND, VOID)
    ids = results.index.image_ids
    never = [n for n in dataset.classes if n != BACKGROUND and n not in results.index.categories.values()]
    names = _matched(dataset, ids)
    notes = [f"{len(never)} classes have no category in {results.index.source}: {', '.join(never)}"] if never else []
    bare = sum(ids[name] not in results.entries for name in names.values())
    if bare:
        what = BACKGROUND if BACKGROUND in known else "of no class"
        notes.append(f"{bare} of {len(names)} images have no entry in {file.name}: all their pixels count as {what}")
    return Predictions(file, names, lambda n, size: results.draw(ids[n], size, known, rest), tuple(notes))


def _index_of(file: Path, dataset: Dataset, like: str | Path | None) -> Path:
    """The JSON whose ids the results use."""
    own = {item.mask for item in dataset.items}
    if like:
        return Path(like).expanduser()
    if images_beside(file).is_file():
        return images_beside(file)
    if len(own) == 1 and json_kind(peek(only := own.pop())) in ("coco", "panoptic", "boxes", "empty"):
        return only
    raise DataError(
        f"{file}: {images_beside(file).name}, which says whose ids it uses, isn't beside it; name the COCO JSON that "
        f"has the images and categories with --like"
    )


def _matched(dataset: Dataset, known: Mapping[str, object]) -> dict[str, str]:
    return match_names({item.id: bare(item.image).name for item in dataset.items}, known)
