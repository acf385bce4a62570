"""What the file of an image says of it that its results keep: kind, place, pixels that hold nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.rasters import TIFF, RasterInfo, Window, file_of, is_raster, is_video, open_raster, starts
from fungi_seg.results.polygons import check_place, write_polygons
from fungi_seg.segmentation import Segmentation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFile:
    """What is known of an image besides what it shows.

    Attributes:
        info: by its header.
        valid: `[H, W]` bool, pixels that hold something; none where all do.
    """

    info: RasterInfo
    valid: np.ndarray | None = None


def image_file(path: Path, size: tuple[int, int], projection: str | None) -> ImageFile:
    """Of a file that can be read as an image of that size; of photos no more than that is known."""
    try:
        if _may_say_more(path):
            with open_raster(path, projection) as opened:
                return ImageFile(opened.info, opened.valid(Window(0, 0, *opened.info.size)))
    except DataError as error:
        log.warning("its mask keeps no place, size of pixels or missing pixels: %s", error)
    return ImageFile(_of_photo(size))


def _of_photo(size: tuple[int, int]) -> RasterInfo:
    return RasterInfo("picture", size, (), "uint8", (size,))


def _may_say_more(path: Path) -> bool:
    """Whether it is neither a photo nor a frame of a video."""
    if is_raster(path):
        return not is_video(file_of(path))
    try:
        with path.open("rb") as opened:
            return starts(opened, TIFF)
    except OSError:  # which is told when it is read
        return False


def save_polygons(folder: Path, name: str, found: Segmentation, info: RasterInfo, suffixes: Sequence[str]) -> list[str]:
    """Write a mask as polygons; the files, relative to `folder`."""
    files = [f"polygons/{name}.{suffix}" for suffix in suffixes]
    for file in files:
        write_polygons(folder / file, found.read_mask, info, found.classes, found.palette, found.void)
    return files


def check_polygons(images: Iterable[Path], suffixes: Sequence[str], projection: str | None) -> None:
    """Refuse polygons that couldn't be written, before anything is segmented.

    Raises:
        DataError: an image without a place that a file could name.
        MissingExtra: without the extra `geo`.
    """
    try:
        import pyogrio  # noqa: F401
        import rasterio  # noqa: F401
    except ImportError as error:
        raise MissingExtra("geo", error) from error
    for path in images:
        info = _of_photo((0, 0))
        if _may_say_more(path):
            try:
                with open_raster(path, projection) as opened:
                    info = opened.info
            except DataError:  # which is told when its turn comes
                continue
        for suffix in suffixes:
            check_place(f".{suffix}", info, path)
