"""Masks of planes put together to stacks, as their images are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffWriter

from fungi_seg.datasets import DEFAULT_VOID, void_value
from fungi_seg.errors import DataError
from fungi_seg.files import replacing
from fungi_seg.images import images_of, read_mask
from fungi_seg.rasters import file_of, open_raster, plane_of
from fungi_seg.results.names import STACKS
from fungi_seg.results.records import ImageRecord

log = logging.getLogger(__name__)

TIME = "t"  # the axis of frames
OME_AXES = (TIME, "z")  # that OME-TIFF knows, beside channels
PAGES = "page"
BESIDE = ".aux.xml"  # what GDAL keeps of a file beside it
MASKS = "masks"
MOST_PIXELS = 2**28  # of a plane: one is held at a time
BIG = 2**32 - 2**26  # bytes from which a TIFF may need offsets of 64 bits


@dataclass(frozen=True)
class PlaneMask:
    """The mask of a plane.

    Attributes:
        file: of the mask.
        size: `(H, W)`.
    """

    file: Path
    size: tuple[int, int]


@dataclass(frozen=True)
class Stack:
    """A file of many images of which masks were made.

    Attributes:
        name: of its results, without suffix.
        file: of the images.
        planes: addresses of all of them, in the file's order.
        masks: those that were made, by address.
        projection: with which the images were read.
    """

    name: str
    file: Path
    planes: tuple[Path, ...]
    masks: Mapping[Path, PlaneMask]
    projection: str | None = None

    @property
    def axes(self) -> dict[str, int]:
        """How many planes lie along each axis."""
        return {axis: index + 1 for axis, index in plane_of(self.planes[-1]).items()}

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of its masks.

        Raises:
            DataError: they differ, or are too large.
        """
        sizes = {mask.size for mask in self.masks.values()}
        if len(sizes) > 1:
            raise DataError(f"{self.file}: its planes have {len(sizes)} sizes, so that no stack of masks is written")
        size = sizes.pop()
        if size[0] * size[1] > MOST_PIXELS:
            raise DataError(
                f"{self.file}: a plane has {size[0]}×{size[1]} pixels (height×width), more than the {MOST_PIXELS} that "
                f"are put into a stack; the planes' own masks are there"
            )
        return size

    def newest(self) -> int:
        """When the mask that was written last was."""
        return max(mask.file.stat().st_mtime_ns for mask in self.masks.values())


def stacks_of(records: Iterable[ImageRecord], folder: Path, projection: str | None) -> list[Stack]:
    """The stacks of which more than one plane has a mask, and whose file is still there.

    Args:
        records: of a folder of results.
        folder: that they lie in.
        projection: with which the images were read.
    """
    found: dict[tuple[str, Path], dict[Path, PlaneMask]] = {}
    for record in records:
        path = Path(record.file)
        file = file_of(path)
        if file != path:
            name = record.name.removesuffix(path.name[len(file.name) :])
            mask = PlaneMask(folder / _mask_of(record), (record.height, record.width))
            found.setdefault((name, file), {})[path] = mask
    stacks = [
        Stack(name, file, images_of(file, projection), masks, projection)
        for (name, file), masks in found.items()
        if len(masks) > 1 and file.exists()
    ]
    return [stack for stack in stacks if set(stack.masks) <= set(stack.planes)]


def write_stack(stack: Stack, folder: Path, classes: int) -> str:
    """Write the masks of a stack as a TIFF of the same axes, unless it is there and none of them is newer.

    Axes t and z are those of an OME-TIFF, pages those of a plain one. Planes without a mask are void all over.

    Args:
        stack: with the masks of its planes.
        folder: of results.
        classes: how many there are.

    Returns:
        The file, relative to `folder`; empty where the axes can't be written, or sizes differ, of which a warning
        tells.

    Raises:
        DataError: a mask can't be read.
        FungiSegError: the file can't be written.
    """
    named = f"{STACKS}/{stack.name}.tif"
    path = folder / named
    try:
        size, metadata = stack.size, _metadata(stack)
    except DataError as error:
        log.warning("%s", error)
        return ""
    if path.is_file() and path.stat().st_mtime_ns > stack.newest():
        return named
    absent = len(stack.planes) - len(stack.masks)
    if absent:
        of = f"{absent} of its {len(stack.planes)} planes"
        log.warning("%s: %s have no mask, and are void in %s", stack.file, of, path)
    dtype = np.uint8 if classes <= DEFAULT_VOID else np.uint16
    shape = (*stack.axes.values(), *size)
    big = int(np.prod(shape)) * np.dtype(dtype).itemsize > BIG
    with replacing(path) as draft, TiffWriter(draft, bigtiff=big, ome="axes" in (metadata or {})) as writer:
        planes = _planes(stack, size, dtype, void_value(classes))
        writer.write(planes, shape=shape, dtype=dtype, photometric="minisblack", compression="zlib", metadata=metadata)
    return named


def _planes(stack: Stack, size: tuple[int, int], dtype: Any, void: int) -> Iterator[np.ndarray]:
    for plane in stack.planes:
        mask = stack.masks.get(plane)
        yield np.full(size, void, dtype) if mask is None else read_mask(mask.file).astype(dtype)


def _metadata(stack: Stack) -> dict[str, Any] | None:
    """What the file says of axes and of the width of pixels; none of one of plain pages.

    Raises:
        DataError: axes that no TIFF names.
    """
    axes = stack.axes
    if tuple(axes) == (PAGES,):
        return None
    strange = [axis for axis in axes if axis not in OME_AXES]
    if strange:
        raise DataError(
            f"{stack.file}: no stack of its masks is written, for an OME-TIFF has no axis {', '.join(strange)}; its "
            f"planes' own masks are there"
        )
    found: dict[str, Any] = {"axes": "".join(axes).upper() + "YX", "Name": stack.name}
    with open_raster(next(iter(stack.masks)), stack.projection) as raster:
        info = raster.info
    if info.pixel_size and info.unit == "µm":
        for side in "XY":
            found |= {f"PhysicalSize{side}": info.pixel_size, f"PhysicalSize{side}Unit": info.unit}
    return found


def _mask_of(record: ImageRecord) -> str:
    """The file of an image's mask, or the folder of a Zarr."""
    own = (file for file in record.files if file.startswith(f"{MASKS}/") and not file.endswith(BESIDE))
    first = next(own)
    parts = Path(first).parts
    inside = next((number for number, part in enumerate(parts) if part.endswith(".zarr")), len(parts) - 1)
    return Path(*parts[: inside + 1]).as_posix()
