"""Which reader a file gets, and the planes that it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tifffile import TiffFile

from fungi_seg.errors import DataError
from fungi_seg.rasters.geo import GEO_TAGS, GeoRaster
from fungi_seg.rasters.picture import PictureRaster, starts
from fungi_seg.rasters.planes import addresses, checked_plane, file_of, plane_of
from fungi_seg.rasters.projected import Projected
from fungi_seg.rasters.raster import Raster
from fungi_seg.rasters.reading import damage_named
from fungi_seg.rasters.slide import VENDORS, SlideRaster
from fungi_seg.rasters.suffixes import SLIDE_SUFFIXES, ZARR_SUFFIXES
from fungi_seg.rasters.tiff import TiffRaster, tiff_axes
from fungi_seg.rasters.tiff_pages import TIFF
from fungi_seg.rasters.video import VideoFrame, is_video, video_axes
from fungi_seg.rasters.zarr_store import ZarrRaster, is_zarr, zarr_axes

ALONG_Z = ("z", "page")  # what a projection puts together: planes along z, or pages of which nothing is told


@dataclass(frozen=True)
class _Reader:
    """How a kind of file is read: how many pictures lie along each axis, and one of them."""

    axes: Callable[[Path], dict[str, int]]
    open: Callable[[Path, dict[str, int], str], Raster]


def is_raster(path: Path) -> bool:
    """Whether an image is read window by window only: an address, an OME-Zarr, a slide or video by its suffix."""
    file = file_of(path)
    return file != path or file.suffix.lower() in SLIDE_SUFFIXES or is_video(file) or is_zarr(file)


def planes_of(path: Path, projection: str | None = None) -> tuple[Path, ...]:
    """Addresses of all pictures in a file, or the path itself where there is one, or where it is an address.

    Args:
        path: of a file or an address.
        projection: as of `input.projection`; planes along z are then put together.

    Raises:
        DataError: damaged, or of a kind that isn't read.
        MissingExtra: a package for its kind isn't installed.
    """
    if file_of(path) != path:
        return (path,)
    axes = _reader(path).axes(path)
    together = None if projection is None else _put_together(axes)
    return addresses(path, {axis: count for axis, count in axes.items() if axis != together})


def open_raster(path: Path, projection: str | None = None) -> Raster:
    """A picture, to be read window by window.

    Args:
        path: of a file that holds one, or an address.
        projection: `max`, `mean` or a number, of planes along z; where a file holds none, one picture stays as it is.

    Raises:
        DataError: missing, damaged, of several pictures, or of a kind that isn't read.
        MissingExtra: a package for its kind isn't installed.
    """
    file, name = file_of(path), str(path)
    reader, plane = _reader(file), plane_of(path)
    if projection is None:
        return reader.open(file, plane, name)
    with damage_named(name, "an image"):
        axes = reader.axes(file)
        along = _put_together(axes)
        if along is not None and along in plane:
            raise DataError(
                f"names a plane along {along}, and input.projection {projection} all; leave one of them out"
            )
        numbers = range(axes[along]) if along is not None else range(1)
        if projection.isdecimal():
            if int(projection) not in numbers:
                raise DataError(f"has {len(numbers)} planes along z; input.projection {projection} is beyond them")
            numbers = range(int(projection), int(projection) + 1)
        whole = checked_plane(plane | ({} if along is None else {along: numbers[0]}), axes)
        planes = [reader.open(file, whole if along is None else whole | {along: number}, name) for number in numbers]
    return planes[0] if len(planes) == 1 else Projected(planes, projection, name)


def _put_together(axes: dict[str, int]) -> str | None:
    return next((axis for axis in ALONG_Z if axis in axes), None)


def _one_picture(path: Path) -> dict[str, int]:
    return {}


TIFFS = _Reader(tiff_axes, TiffRaster)
GEO = _Reader(tiff_axes, GeoRaster)
SLIDES = _Reader(_one_picture, SlideRaster)
ZARRS = _Reader(zarr_axes, ZarrRaster)
PICTURES = _Reader(_one_picture, PictureRaster)
VIDEOS = _Reader(video_axes, VideoFrame)


def _reader(file: Path) -> _Reader:
    """By what is in a file, and for some by its suffix."""
    with damage_named(str(file), "an image"):
        if is_zarr(file) or (file.is_dir() and file.suffix.lower() in ZARR_SUFFIXES):
            return ZARRS
        if file.suffix.lower() in SLIDE_SUFFIXES:
            return SLIDES
        if is_video(file):
            return VIDEOS
        with file.open("rb") as opened:
            if not starts(opened, TIFF):
                return PICTURES
        with TiffFile(file) as tiff:
            if any(getattr(tiff, f"is_{vendor}") for vendor in VENDORS):
                return SLIDES
            return GEO if any(tag in tiff.pages.first.tags for tag in GEO_TAGS) else TIFFS
