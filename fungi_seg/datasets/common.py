"""What every layout yields: samples of an image, its mask and an id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fungi_seg.errors import DataError, listing
from fungi_seg.images import IMAGE_SUFFIXES, VOID, read_image, read_mask

BAD = -2


@dataclass(frozen=True)
class Sample:
    """One annotated image.

    Attributes:
        id: unique within its data set.
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` int16 class indices 0..C−1, void −1.
    """

    id: str
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Item:
    """Where a sample lies."""

    id: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """Annotated images of one split, read when asked for.

    Attributes:
        items: where each sample lies.
        classes: names; the index of a name is the class index.
        palette: `[C, 3]` uint8 RGB.
        void: value in the mask files that stands for unlabelled, if any.
        first: value in the mask files that stands for class index 0.
        problems: what was passed over on the way, one line each.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    palette: np.ndarray
    void: int | None
    first: int = 0
    problems: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        item = self.items[index]
        image = read_image(item.image)
        mask = self._class_indices(read_mask(item.mask), item.mask)
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{item.mask}: the mask is {mask.shape[0]}×{mask.shape[1]} (height×width), its image "
                f"{item.image.name} {image.shape[0]}×{image.shape[1]}; both must have the same size"
            )
        return Sample(item.id, image, mask)

    def _class_indices(self, values: np.ndarray, path: Path) -> np.ndarray:
        top = max(int(values.max(initial=0)), self.void or 0, self.first + len(self.classes))
        table = np.full(top + 1, BAD, np.int16)
        table[self.first : self.first + len(self.classes)] = np.arange(len(self.classes))
        if self.void is not None:
            table[self.void] = VOID
        if values.min(initial=0) < 0:
            raise DataError(f"{path}: the mask has negative values; class ids start at 0")
        mask = table[values]
        if (mask == BAD).any():
            wrong, counts = np.unique(values[mask == BAD], return_counts=True)
            found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[:8], counts[:8], strict=True))
            void = "none" if self.void is None else self.void
            raise DataError(
                f"{path}: class ids outside the {len(self.classes)} known classes: {found}; ids must be "
                f"{self.first}..{self.first + len(self.classes) - 1}, or the void value ({void}). Add the class to "
                f"classes.txt, or name the void value with data.void"
            )
        return mask


def read_lines(path: Path, what: str) -> list[str]:
    """The non-empty lines of a text file."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{what} {str(path)!r} can't be read: {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{what} {str(path)!r} is empty; it must hold one entry a line")
    return lines


def read_ids(path: Path) -> list[str]:
    """Ids of a file list: one a line, as bare ids or as image paths; of several columns the first counts.

    Raises:
        DataError: unreadable, empty, or an id listed twice.
    """
    ids = []
    for line in read_lines(path, "file list"):
        entry = Path(line.split()[0])
        ids.append(entry.stem if entry.suffix.lower() in IMAGE_SUFFIXES else entry.as_posix())
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(f"file list {str(path)!r} names {len(twice)} ids more than once:\n{listing(twice)}")
    return ids


def pair(
    images: dict[str, Path], masks: dict[str, Path], ids: Iterable[str], skip_bad: bool, where: str
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items for `ids` that have an image and a mask, and a line for each that lacks one.

    Raises:
        DataError: something lacks and `skip_bad` is false, or nothing is left.
    """
    problems, items = [], []
    for i in ids:
        if i in images and i in masks:
            items.append(Item(i, images[i], masks[i]))
        elif i in images:
            problems.append(f"{images[i].name}: image without mask")
        elif i in masks:
            problems.append(f"{masks[i].name}: mask without image")
        else:
            problems.append(f"{i}: neither image nor mask")
    if problems and not skip_bad:
        raise DataError(
            f"{where}: {len(problems)} of {len(items) + len(problems)} entries are not complete:\n{listing(problems)}\n"
            f"Complete them, or pass over them with --skip-bad"
        )
    if not items:
        raise DataError(f"{where}: no image with a mask was found; check data.root, data.layout and data.split")
    return tuple(items), tuple(problems)


def files_by_id(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files below `folder` by id, the path without suffix, in sorted order.

    Raises:
        DataError: no such folder, or two files of one id.
    """
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is not a folder; check data.root, data.layout and data.split")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise DataError(f"{folder}: {found[name].name} and {path.name} have the same id {name!r}; rename one")
            found[name] = path
    return found


def voc_palette(count: int) -> np.ndarray:
    """`[count, 3]` uint8: the colour map of Pascal VOC, in which the bits of an index are spread over R, G and B."""
    colours = np.zeros((count, 3), np.uint8)
    index = np.arange(count)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1).astype(np.uint8) << (7 - bit)
    return colours
