"""Files that hold many images: their planes, names and digests."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from tifffile import TiffFile

from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.files import sha256, stamp
from fungi_seg.images.suffixes import STACK_SUFFIXES
from fungi_seg.rasters import LOSSY, TIFF_SUFFIXES, Window, file_of, open_raster, planes_of


def images_of(path: Path, projection: str | None = None) -> tuple[Path, ...]:
    """The images that a file holds: itself, or the addresses of its planes.

    A file that can't be opened counts as one image; whoever reads it is told why.

    Args:
        path: of a file, or an address.
        projection: as of `InputConfig`.

    Raises:
        MissingExtra: a package for its kind isn't installed.
    """
    if file_of(path).suffix.lower() not in STACK_SUFFIXES:
        return (path,)
    try:
        return planes_of(path, projection)
    except MissingExtra:
        raise
    except DataError:
        return (path,)


def bare(path: Path) -> Path:
    """The path of an image without the suffix of its file: `cells.tif[z=3]` becomes `cells[z=3]`."""
    file = file_of(path)
    return file.with_name(f"{file.stem}{path.name[len(file.name) :]}")


def image_sha256(path: Path) -> str:
    """`files.sha256` of an image's file, computed once for all of its planes."""
    file = file_of(path)
    return _digest(file, tuple(stamp(file))) if file != path else sha256(file)


@lru_cache(64)
def _digest(file: Path, _: tuple[int, ...]) -> str:
    return sha256(file)


def plane_mask(path: Path) -> np.ndarray:
    """A plane of a stack as `[H, W]` int32, the stored values.

    Raises:
        DataError: damaged, colours, fractions, values beyond int32, or of a format that changes values.
    """
    file = file_of(path)
    if file.suffix.lower() in TIFF_SUFFIXES:
        with TiffFile(file) as tiff:
            compression = tiff.pages.first.compression
        if compression in LOSSY:
            raise DataError(
                f"{path}: its values are changed by {LOSSY[compression]} compression; write the masks with LZW or "
                f"Deflate"
            )
    with open_raster(path) as raster:
        info = raster.info
        if info.kind == "video":
            raise DataError(f"{path}: is a frame of a video, which changes class ids; write masks as PNG or TIFF")
        if len(info.channels) != 1:
            raise DataError(
                f"{path}: the mask has {len(info.channels)} channels; an index mask is expected, of one channel whose "
                f"values are class ids. Convert the colours to ids first"
            )
        values = raster.read(Window(0, 0, *info.size))[..., 0]
    if values.dtype.kind not in "bui":
        raise DataError(f"{path}: the mask holds {values.dtype} values; class ids are whole numbers")
    for value in (values.min(), values.max()):
        if not -(2**31) <= value < 2**31:
            raise DataError(f"{path}: the mask holds the value {value}; class ids must fit 32 bits (below {2**31})")
    return values.astype(np.int32)
