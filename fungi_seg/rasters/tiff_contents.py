"""Which pictures a TIFF holds, along which axes, and the pages of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from fungi_seg.errors import DataError
from fungi_seg.rasters.tiff_metadata import OmeImage, imagej_pixel, ome_images, resolution_pixel
from fungi_seg.rasters.tiff_pages import REDUCED, SEPARATE, STENCILS, check_end, whole_pages

UNKNOWN = "QI"  # letters that tifffile gives to axes nobody names
BY_THEMSELVES = ("generic", "uniform")  # files whose pages nothing but the pages themselves describes

Placed = tuple[TiffPage | TiffFrame, int | None]  # a page, and where its samples begin if it doesn't say so


@dataclass(frozen=True)
class Picture:
    """One plane of a file.

    Attributes:
        kind: as of `RasterInfo`.
        levels: of the plane and its smaller copies, the pages that hold its channels.
        channels: their names where the file tells them.
        pixel_size: in micrometres, where the file tells it.
    """

    kind: str
    levels: list[list[Placed]]
    channels: tuple[str, ...] = ()
    pixel_size: float | None = None


@dataclass(frozen=True)
class Contents:
    """All planes of a file.

    Attributes:
        axes: how many pictures lie along each axis, in the file's order.
        picture: gives the picture at an index of each axis.
    """

    axes: dict[str, int]
    picture: Callable[[Mapping[str, int]], Picture] = field(repr=False)


def contents(tiff: TiffFile) -> Contents:
    """What an open TIFF holds.

    Raises:
        DataError: damaged, or its axes can't be told. The message doesn't name the file.
    """
    series = tiff.series
    if not series or series[0].kind in BY_THEMSELVES:
        return _single_pages(tiff, whole_pages(tiff, "an image"))
    check_end(tiff, tiff.pages[-1])
    series = [one for one in series if not _small(one.keyframe)]
    if not series:
        raise DataError("holds smaller copies or masks of an image, not the image itself; save it again")
    told = ome_images(tiff)
    found = [_of_series(tiff, one, told[one._index] if one._index < len(told) else OmeImage()) for one in series]
    if len(found) == 1:
        return found[0]
    axes = [one.axes for one in found]
    if any(other != axes[0] for other in axes):
        raise DataError(
            f"holds {len(found)} series of pictures of different axes ({'; '.join(map(_described, axes))}), which "
            f"can't be told apart by name; save each as a file of its own"
        )
    return Contents({"series": len(found), **axes[0]}, lambda at: found[at["series"]].picture(at))


def which_page(tiff: TiffFile) -> str:
    """How to say which of a file's pages is meant; nothing where it can't be told what they are."""
    try:
        axes = contents(tiff).axes
    except DataError:
        return ""
    long = [axis for axis, count in axes.items() if count > 1]
    if not long:
        return "they are channels: name those to use by --input.channels"
    example = ",".join(f"{axis}=0" for axis in long)
    return f"name one, as [{example}] after the file's name, or put planes along z together by --input.projection"


def _small(page: TiffPage) -> bool:
    return bool(page.subfiletype & (REDUCED | STENCILS)) and not page.subfiletype & ~(REDUCED | STENCILS)


def _described(axes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {count}" for axis, count in axes.items()) or "one picture"


def _single_pages(tiff: TiffFile, whole: list[TiffPage]) -> Contents:
    """Of a file whose pages say nothing of axes: each is a picture, and smaller copies belong to the one before."""
    every = [page.aspage() for page in tiff.pages]

    def picture(at: Mapping[str, int]) -> Picture:
        page = whole[at["page"]]
        copies = [copy for copy in _copies(tiff, page, every, whole) if _is_copy(copy, page)]
        levels: list[list[Placed]] = [[(page, None)]]
        for _, alike in groupby(sorted(copies, key=lambda one: -one.imagewidth), key=lambda one: one.imagewidth):
            levels.append([(next(alike), None)])
        return Picture("tiff", levels, (), resolution_pixel(page))

    return Contents({"page": len(whole)}, picture)


def _copies(tiff: TiffFile, page: TiffPage, every: list[TiffPage], whole: list[TiffPage]) -> list[TiffPage]:
    """Smaller copies of a page: in the list of pages before or after it, and below it."""
    if len(whole) == 1:
        beside = [one for one in every if one.offset != page.offset]
    else:
        later = every[[one.offset for one in every].index(page.offset) + 1 :]
        small, run = next(
            groupby(later, key=lambda one: bool(one.subfiletype & (REDUCED | STENCILS))), (False, iter(()))
        )
        beside = list(run) if small else []
    below = [page.pages[number].aspage() for number in range(len(page.pages))] if page.pages is not None else []
    return [one for one in beside + below if one.subfiletype & REDUCED and not one.subfiletype & STENCILS] + [
        one for one in below if not one.subfiletype
    ]


def _is_copy(copy: TiffPage, page: TiffPage) -> bool:
    """Of the same samples and, but for rounding, of the same shape."""
    same = ("dtype", "bitspersample", "samplesperpixel", "photometric", "planarconfig")
    if any(getattr(copy, name) != getattr(page, name) for name in same):
        return False
    factor = page.imagewidth / copy.imagewidth
    return factor > 1 and abs(page.imagelength / factor - copy.imagelength) <= 1 + copy.imagelength / copy.imagewidth


def _of_series(tiff: TiffFile, series: TiffPageSeries, told: OmeImage) -> Contents:
    """Of pages whose axes the file's description tells."""
    if series.transform is not None:
        raise DataError(f"is a {series.kind} file, whose samples are stored in a way that isn't read; convert it")
    letters, shape, inner = _outer(series)
    axes = _named_axes(letters, shape)
    kind = {"ome": "ome-tiff"}.get(series.kind, "tiff")
    pixel = told.pixel_size if kind == "ome-tiff" else imagej_pixel(tiff) if tiff.is_imagej else resolution_pixel(inner)

    def picture(at: Mapping[str, int]) -> Picture:
        index = [at[axis] if axis else slice(None) for axis in axes]
        numbers = np.arange(math.prod(shape)).reshape(shape)[tuple(index)].ravel().tolist()
        levels = [[_placed(level, number, len(letters) > 0) for number in numbers] for level in series.levels]
        return Picture(kind, levels, told.channels, pixel)

    return Contents({axis: count for axis, count in zip(axes, shape, strict=True) if axis}, picture)


def _outer(series: TiffPageSeries) -> tuple[str, tuple[int, ...], TiffPage]:
    """Letters and lengths of the axes along which pages lie, and a page.

    Raises:
        DataError: what lies within a page isn't a picture.
    """
    page = series.keyframe
    letters, shape = series.get_axes(True), tuple(series.get_shape(True))
    channels = page.samplesperpixel > 1
    inner = 3 if channels else 2
    within = letters[len(letters) - inner :]
    rows_and_columns = within[1:] if page.planarconfig == SEPARATE and channels else within[:2]
    if rows_and_columns != "YX" or shape[len(letters) - inner :] != tuple(page.shape[-inner:]):
        raise DataError(
            f"its axes are {letters} of {'×'.join(map(str, shape))}, its pages {page.axes} of "
            f"{'×'.join(map(str, page.shape))}, which don't go together as pictures in pages; save the planes as pages"
        )
    return letters[:-inner], shape[:-inner], page


def _named_axes(letters: str, shape: tuple[int, ...]) -> list[str]:
    """Names of axes by tifffile's letters; empty that of channels."""
    names: list[str] = []
    for letter in letters:
        name = "" if letter == "C" else "page" if letter in UNKNOWN else letter.lower()
        if name and name in names:
            name = f"{name}{len(names)}"
        names.append(name)
    if names.count("") > 1:
        raise DataError(f"its axes are {letters} of {shape}: two of channels; save it with one")
    return names


def _placed(series: TiffPageSeries, number: int, several: bool) -> Placed:
    """The page of that number in a series, or where it lies, of many that one page stands for."""
    first = series.keyframe
    start = series.dataoffset if several and len(series._pages) == 1 else None
    if start is not None:
        end = start + (number + 1) * first.nbytes
        if end > first.parent.filehandle.size:
            raise DataError(f"is cut off: it has {first.parent.filehandle.size} bytes of {end}; copy it again")
        return first, start + number * first.nbytes
    page = series._pages[number] if number < len(series._pages) else None
    if page is None:
        raise DataError(
            f"its description names a picture {number} that isn't there: part of the file, or another file that "
            f"belongs to it, is missing; copy it again"
        )
    return page, None
