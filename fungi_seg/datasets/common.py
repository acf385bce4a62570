"""What every layout yields: samples of an image, its mask and an id."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fungi_seg.datasets.file_lists import listed_ids
from fungi_seg.datasets.lone_images import why_no_mask
from fungi_seg.datasets.paths import by_form
from fungi_seg.errors import DataError, listing
from fungi_seg.files import files_below
from fungi_seg.images import (
    VOID,
    InputConfig,
    channel_count,
    data_limits,
    has_suffix,
    left_out,
    pixel_size_in,
    read_image,
)
from fungi_seg.rasters import Window, open_raster

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Sample:
    """One annotated image.

    Attributes:
        id: unique within its data set.
        image: `[H, W, 3]` uint8 RGB, or `[H, W, n]` where channels are joined.
        mask: `[H, W]` int16 class indices 0..C−1, void −1.
        pixel_size: width of its pixels, looked for where images enter at a resolution.
        shrunk: pixels of the image's file along a side of one of these, where it is shown smaller.
    """

    id: str
    image: np.ndarray
    mask: np.ndarray
    pixel_size: float | None = None
    shrunk: float = 1.0

    def placed(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes in pixels of the image's file as they lie in `image`."""
        return boxes / self.shrunk


@dataclass(frozen=True)
class Item:
    """Where a sample lies.

    Attributes:
        id: unique within its data set.
        image: the image's file.
        mask: the file that holds its annotation: a mask image, or what many images may share.
    """

    id: str
    image: Path
    mask: Path


class Reader(Protocol):
    """Reads annotations of one layout: `reader(item, (height, width))`, the size being that of the image.

    Gives `[H, W]` int16 class indices, void −1. Its `repr` names the settings that decide what is read.
    """

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray: ...


@runtime_checkable
class WindowReader(Reader, Protocol):
    """A reader that needn't read all of an annotation to know a part of it."""

    def window(self, item: Item, window: Window, size: tuple[int, int]) -> np.ndarray:
        """`[h, w]` of a window of what `reader(item, size)` gives."""
        ...


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """Annotated images of one split, read when asked for.

    Attributes:
        items: where each sample lies.
        classes: names; the index of a name is the class index.
        palette: `[C, 3]` uint8 RGB.
        read: reads the annotation of an item.
        problems: what was skipped on the way, one line each.
        remarks: what was taken although it looks wrong, one line each.
        groups: the super-category of each class, empty where it has none; nothing where the layout knows none.
        selection: for each class that `read` knows its index in `classes`, or void; nothing where they are the same.
        input: which channels of the images are read, and how they are scaled; see `entering`.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    palette: np.ndarray
    read: Reader
    problems: tuple[str, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())
    groups: tuple[str, ...] = field(default=())
    selection: tuple[int, ...] = field(default=())
    input: InputConfig = InputConfig()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        item = self.items[index]
        image = read_image(item.image, self.input)
        mask = self.read(item, (image.shape[0], image.shape[1]))
        check_size(item, mask.shape, image.shape)
        return Sample(item.id, image, self._selected(mask), pixel_size_in(item.image, self.input))

    def size_of(self, index: int) -> tuple[int, int]:
        """Height and width of an image, by its header.

        Raises:
            DataError: unreadable.
        """
        with open_raster(self.items[index].image, self.input.projection) as raster:
            return raster.info.size

    def mask_window(self, index: int, window: Window, size: tuple[int, int] | None = None) -> np.ndarray:
        """`[h, w]` int16 class indices, void −1, of a window of a mask.

        Args:
            index: of the image.
            window: within the image.
            size: of the image, where it is known.

        Raises:
            DataError: unreadable, of another size than the image, or values that are neither a class nor void.
        """
        item, size = self.items[index], size or self.size_of(index)
        if isinstance(self.read, WindowReader):
            return self._selected(self.read.window(item, window, size))
        mask = self.read(item, size)
        check_size(item, mask.shape, size)
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        return self._selected(mask[rows, columns])

    def _selected(self, mask: np.ndarray) -> np.ndarray:
        return np.array([*self.selection, VOID], np.int16)[mask] if self.selection else mask

    @property
    def reading(self) -> list[str]:
        """All that decides what is read, beside the files: two data sets of the same give the same samples."""
        return [*self.classes, repr(self.read), str(self.selection)]

    def entering(self, input: InputConfig, skip_bad: bool = False) -> Dataset:
        """The same with images that are read so; their `input` has limits where those of the data set are to be found.

        Args:
            input: how images enter.
            skip_bad: leave images that can't be read out of account.

        Raises:
            DataError: limits are to be found, and an image can't be read, or types of samples differ.
        """
        if input.scaling == "data" and not input.limits:
            input = replace(input, limits=data_limits([item.image for item in self.items], input, skip_bad))
        return replace(self, input=input)

    @property
    def channels(self) -> int | None:
        """How many channels go through the backbone by themselves; none where images are RGB.

        Raises:
            DataError: the first image can't be read.
        """
        return channel_count(self.items[0].image, self.input) if self.input.joined else None

    def evenly(self, count: int) -> Dataset:
        """`count` of the images, taken at even distances.

        Raises:
            DataError: there aren't so many.
        """
        available = len(self)
        if not 1 <= count <= available:
            raise DataError(f"{count} images asked for; it must be between 1 and {available}, the images there are")
        return replace(self, items=tuple(self.items[int((i + 0.5) * available / count)] for i in range(count)))


def check_size(item: Item, mask: Sequence[int], image: Sequence[int]) -> None:
    """Raise unless a mask has the size of its image."""
    if (mask[0], mask[1]) != (image[0], image[1]):
        raise DataError(
            f"{item.mask}: the mask is {mask[0]}×{mask[1]} (height×width), its image "
            f"{item.image.name} {image[0]}×{image[1]}; both must have the same size"
        )


def about(item: Item, error: DataError) -> DataError:
    """`error`, naming the image where it names no file of `item` yet."""
    named = str(item.image) in str(error) or str(item.mask) in str(error)
    return error if named else DataError(f"{item.image}: {error}")


def read_lines(path: Path, what: str) -> list[str]:
    """The non-empty lines of a text file, in UTF-8, or in UTF-16 where it begins with a mark of it."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{what} {str(path)!r} can't be read: {error}") from error
    if "\0" in text:
        raise DataError(f"{what} {str(path)!r} can't be read: it holds zero bytes; save it as text in UTF-8")
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if not lines:
        raise DataError(f"{what} {str(path)!r} is empty; it must hold one entry a line")
    return lines


def read_ids(path: Path, known: Collection[str]) -> list[str]:
    """Ids of a file list: one a line, as bare ids or as image paths; of several columns the first counts.

    Raises:
        DataError: unreadable, empty, an id listed twice, or several in a line.
    """
    ids = listed_ids(read_lines(path, "file list"), known, path)
    check_once(ids, f"file list {str(path)!r}", "ids")
    return ids


def check_once(names: Iterable[str], where: str, what: str) -> None:
    """Refuse names that stand there twice.

    Args:
        names: of a list.
        where: what messages call the list.
        what: the names are of, in the plural.

    Raises:
        DataError: some do.
    """
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"{where} names {len(twice)} {what} more than once:\n{listing(twice)}")


def pair(
    images: dict[str, Path],
    masks: dict[str, Path],
    file_list: Path | None,
    skip_bad: bool,
    where: str,
    folder: Path | None = None,
    bad: Mapping[str, str] | None = None,
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items that have an image and a mask, and a line for each without one; those of `file_list`, or all.

    An image and its mask have one id; it may be composed in one file's name and decomposed in the other's.

    Args:
        images, masks: files by id.
        file_list: text file of ids.
        skip_bad: skip incomplete entries.
        where: what messages call the data set.
        folder: that of the masks; what else is in it may say why an image has none.
        bad: ids that can't be used, and why.

    Raises:
        DataError: something is missing and `skip_bad` is false, or nothing is left.
    """
    bad = bad or {}
    masks = _in_form_of(images, masks)
    known = images.keys() | masks.keys() | bad.keys()
    wanted = read_ids(file_list, known) if file_list else sorted(known)
    items = tuple(Item(i, images[i], masks[i]) for i in wanted if i in images and i in masks and i not in bad)
    why = why_no_mask([i for i in wanted if i in images and i not in masks], images, folder)
    problems = tuple(
        bad[i] if i in bad else _missing(i, images, masks, why)
        for i in wanted
        if i in bad or i not in images or i not in masks
    )
    if problems and not skip_bad:
        raise DataError(
            f"{where}: {len(problems)} of {len(items) + len(problems)} entries are not complete:\n{listing(problems)}\n"
            f"Complete them (an image and its mask have the same name), or skip them with --skip-bad"
        )
    if not items:
        more = f":\n{listing(problems)}\nCheck" if problems else "; check"
        raise DataError(f"{where}: no image with a mask was found{more} data.root, data.layout and data.split")
    return items, problems


def _missing(i: str, images: dict[str, Path], masks: dict[str, Path], why: Mapping[str, str]) -> str:
    if i in images:
        return f"{images[i].name}: image without mask{why.get(i, '')}"
    return f"{masks[i].name}: mask without image" if i in masks else f"{i}: neither image nor mask"


def _in_form_of(images: Collection[str], masks: dict[str, Path]) -> dict[str, Path]:
    """Masks by the id that their image has, where the two differ in their Unicode form only."""
    lone = by_form(i for i in images if i not in masks)
    found = by_form(i for i in masks if i not in images)
    new = {i: lone[form] for form, i in found.items() if form in lone}
    return {new.get(i, i): path for i, path in masks.items()}


def files_by_id(folder: Path, suffixes: tuple[str, ...], remarks: list[str] | None = None) -> dict[str, Path]:
    """Files below `folder` by id, the path without suffix, in sorted order; those in linked folders too.

    Args:
        folder: searched through.
        suffixes: of the files, in small letters.
        remarks: of images; gets a line for what is left out.

    Raises:
        DataError: no such folder, two files of one id, or a name that isn't UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is not a folder; check data.root, data.layout and data.split")
    found: dict[str, Path] = {}
    files = files_below(folder, remarks)
    if remarks is not None:
        remarks += [f"{folder}: {line}" for line in left_out(files, suffixes)]
    for path in files:
        if has_suffix(path, suffixes):
            check_name(path)
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise DataError(f"{folder}: {found[name].name} and {path.name} have the same id {name!r}; rename one")
            found[name] = path
    return found


def check_name(path: Path) -> None:
    """Refuse a file whose name no record could hold.

    Raises:
        DataError: it isn't UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{str(path)!r}: the name isn't UTF-8, so it can't be an image's id; rename it") from error
