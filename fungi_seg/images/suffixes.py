"""Which files are taken for images and masks by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fungi_seg.rasters import SLIDE_SUFFIXES, TIFF_SUFFIXES, VIDEO_SUFFIXES, ZARR_SUFFIXES

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pnm", ".jp2", ".avif"),
)
STACK_SUFFIXES = (*TIFF_SUFFIXES, *ZARR_SUFFIXES, *VIDEO_SUFFIXES)  # of files that may hold many images
RASTER_SUFFIXES = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *STACK_SUFFIXES, *SLIDE_SUFFIXES)))  # of all that is read
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".zarr")
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".j2k", ".jpf", ".jpx", ".mpo", ".apng", ".dib", ".pbm", ".pam"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".psd", ".psb", ".xcf", ".tga", ".pcx", ".exr", ".hdr"),
    *(".svs", ".ndpi", ".czi", ".lif", ".nd2", ".lsm", ".dcm"),
)


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a file that isn't hidden has one of the suffixes, in small letters or large."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def left_out(files: Iterable[Path], read: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """A line that counts the images of kinds that folders aren't searched for; none where there is no such.

    Args:
        files: of a folder.
        read: suffixes that are searched for.
    """
    others = tuple(suffix for suffix in OTHER_SUFFIXES if suffix not in read)
    counts = Counter(path.suffix.lower() for path in files if has_suffix(path, others))
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return (
        [f"{counts.total()} files left out: {kinds}; convert them to JPEG or PNG to have them read"] if counts else []
    )
