"""Masks are written as files of their images' own kinds, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np

from fungi_seg.errors import FungiSegError
from fungi_seg.files import files_below
from fungi_seg.rasters.mask_cog import write_cog
from fungi_seg.rasters.mask_source import MaskSource, ReadMask
from fungi_seg.rasters.mask_tiff import write_ome_tiff, write_tiff
from fungi_seg.rasters.mask_zarr import write_zarr
from fungi_seg.rasters.raster import RasterInfo

WRITERS: dict[str, tuple[str, Callable[[Path, MaskSource], None]]] = {
    "geotiff": (".tif", write_cog),
    "ome-tiff": (".tif", write_ome_tiff),
    "slide": (".tif", write_ome_tiff),
    "zarr": (".zarr", write_zarr),
}
PLAIN = (".tif", write_tiff)  # of all other kinds


def has_own_masks(info: RasterInfo) -> bool:
    """Whether masks of such an image are files that keep what pictures can't: a place, a pixel size, smaller copies."""
    return info.kind in WRITERS


def mask_suffix(info: RasterInfo) -> str:
    """Of the file that holds a mask of such an image.

    Without `.ome`: an image `x.ome.tif` is called `x.ome`, so that its mask is `x.ome.tif`, too, and another one than
    that of a slide `x.svs`, which is `x.tif`. What is in a file says that it is OME.
    """
    return WRITERS.get(info.kind, PLAIN)[0]


def write_mask(
    path: Path,
    read: ReadMask,
    size: tuple[int, int],
    dtype: np.dtype | type | str,
    info: RasterInfo,
    classes: Sequence[str],
    palette: np.ndarray,
    void: int,
) -> tuple[Path, ...]:
    """Write a mask window by window as a file of its image's kind, whole or not at all.

    `geotiff`: COG at the same place, void being nodata, the names of classes in `NAME.aux.xml` beside it; `ome-tiff`,
    `slide`: pyramidal OME-TIFF; `zarr`: label image of OME-Zarr, 0.4 in Zarr's format 2 and 0.5 in 3; others: tiled
    TIFF. Smaller copies hold values of the mask, never means.

    Args:
        path: of the file, with the suffix that `mask_suffix` gives; a folder of OME-Zarr.
        read: gives `[h, w]` values of any window.
        size: `(H, W)` of the mask.
        dtype: uint8 or uint16.
        info: of the image.
        classes: names, by value.
        palette: `[C, 3]` uint8 RGB.
        void: the value of pixels without a class, which is grey.

    Returns:
        All files that were written, sorted.

    Raises:
        FungiSegError: a file can't be written.
        MissingExtra: the image's kind needs a package that isn't there.
    """
    source = MaskSource(read, size, np.dtype(dtype), info, classes, palette, void)
    with _in_draft(path) as draft:
        WRITERS.get(info.kind, PLAIN)[1](draft, source)
        return _moved(draft.parent, path)


@contextmanager
def _in_draft(path: Path) -> Iterator[Path]:
    """A path to write to, in a folder beside `path` that is gone afterwards."""
    folder = path.with_name(f".{path.name}-{uuid4().hex[:20]}")
    try:
        folder.mkdir(parents=True)
        yield folder / path.name
    except OSError as error:
        raise FungiSegError(f"{path}: can't be written ({error}); free some space, or name another folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _moved(folder: Path, path: Path) -> tuple[Path, ...]:
    """Move what is in a folder to that of `path`, itself last; all files that are there then, sorted."""
    moved = []
    for draft in sorted(folder.iterdir(), key=lambda one: one.name == path.name):
        place = path.with_name(draft.name)
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(draft, place)
        moved += files_below(place) if place.is_dir() else [place]
    return tuple(sorted(moved))
