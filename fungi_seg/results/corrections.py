"""Masks that people painted, which take the place of predictions where they have labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from fungi_seg.datasets import DEFAULT_VOID_16, files_by_id, plane_by_plane, read_lines, void_value
from fungi_seg.errors import DataError, listing, where_lists_differ
from fungi_seg.images import MASK_SUFFIXES, read_mask
from fungi_seg.segmentation import Segmentation

CLASSES = "classes.txt"


def find_corrections(
    folder: str | Path, images: Collection[str], classes: Sequence[str], remarks: list[str] | None = None
) -> dict[str, Path]:
    """Masks below a folder, by the names of the images that they are of; those of stacks plane by plane.

    Args:
        folder: searched through.
        images: names, as `find_images` gives them.
        classes: of the bank.
        remarks: gets a line for masks of other images.

    Raises:
        DataError: no such folder, no mask of any image, or a `classes.txt` in the folder, or beside it, that numbers
            the classes in another way.
    """
    base = Path(folder).expanduser()
    if not base.is_dir():
        raise DataError(f"corrections are {str(base)!r}, which is no folder; name the folder of the masks")
    found = plane_by_plane(files_by_id(base, MASK_SUFFIXES))
    kept, others = {}, []
    for name, file in found.items():
        if name in images:
            kept[name] = file
        else:
            others.append(name)
    if not kept:
        why = f"there are {len(others)} of others:\n{listing(others)}" if others else "there are none at all"
        raise DataError(f"{base}: holds no mask of an image to segment, which would have its name; {why}")
    for known in (base / CLASSES, base.parent / CLASSES):
        if known.is_file():
            _check_order(known, classes)
            break
    if others and remarks is not None:
        remarks.append(f"{base}: {len(others)} masks are of none of these images, and left out:\n{listing(others)}")
    return kept


def corrected_by(found: Segmentation, file: Path) -> Segmentation:
    """What was found, with the labelled pixels of a mask file in its place.

    Args:
        found: in an image.
        file: class indices; 255 (65535 in 16 bits, and where there are more than 255 classes) leaves what was found.

    Raises:
        DataError: it can't be read, is of another size, or has a class that the bank hasn't.
    """
    labels = read_mask(file)
    empty = (labels == void_value(len(found.classes))) | (labels == DEFAULT_VOID_16)
    try:
        return found.corrected(np.where(empty, -1, labels))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _check_order(file: Path, classes: Sequence[str]) -> None:
    """Raise unless a list of classes begins as the bank's, or the bank's as it does."""
    names = read_lines(file, "class list")
    shared = min(len(names), len(classes))
    if list(names[:shared]) != list(classes[:shared]):
        raise DataError(
            f"{file}: numbers the classes otherwise than the bank, so that masks would mean others:\n"
            f"{where_lists_differ(names[:shared], classes[:shared], ('masks', 'bank'))}\n"
            f"Use the bank that they were painted with"
        )
