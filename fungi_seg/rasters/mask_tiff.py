"""Masks as tiled TIFF, and as OME-TIFF with smaller copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from tifffile import TiffFile, TiffWriter

from fungi_seg.rasters.mask_source import TILE, MaskSource

NAMESPACE = "fungi-seg/classes"
MOST_CLASSIC = 2**32 - 2**25  # bytes; a TIFF that may become larger is a BigTIFF
MICROMETRES = {"µm": 1.0, "m": 1e6}
IN_8_TO_16_BITS = 257
BUFFER = 2**25  # bytes of tiles that are held to be compressed


def write_ome_tiff(path: Path, mask: MaskSource) -> None:
    """With a pyramid, the image's pixel size, and the names of classes by their values as an annotation."""
    steps = mask.steps()
    same = uuid5(NAMESPACE_OID, f"{path.name} {mask.size} {[*mask.classes]}")  # in each file that is written of a mask
    metadata: dict[str, Any] = {
        "UUID": str(same),
        "axes": "YX",
        "MapAnnotation": {"Namespace": NAMESPACE, **_names(mask)},
    }
    if mask.info.pixel_size is not None and mask.info.unit in MICROMETRES:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": mask.info.pixel_size, f"PhysicalSize{axis}Unit": mask.info.unit}
    with TiffWriter(path, bigtiff=_is_big(mask), ome=True) as writer:
        for step in steps:
            options: dict[str, Any] = {"subfiletype": 1, "metadata": None}
            if step == 1:
                options = {"subifds": len(steps) - 1, "metadata": metadata}
            _write_level(writer, mask, step, options)
    check_whole(path)


def write_tiff(path: Path, mask: MaskSource) -> None:
    """One page; the names of classes stand in its description."""
    options: dict[str, Any] = {"metadata": {"classes": list(mask.classes)}}
    if mask.info.pixel_size is not None and mask.info.unit in MICROMETRES:
        per_centimetre = 1e4 / (mask.info.pixel_size * MICROMETRES[mask.info.unit])
        options |= {"resolution": (per_centimetre, per_centimetre), "resolutionunit": "CENTIMETER"}
    with TiffWriter(path, bigtiff=_is_big(mask)) as writer:
        _write_level(writer, mask, 1, options)
    check_whole(path)


def check_whole(path: Path) -> None:
    """Raise where a part of a TIFF isn't there: libraries may report a full disk only when it's too late.

    Raises:
        OSError: it is so.
    """
    with TiffFile(path) as tiff:
        pages = [level for page in tiff.pages for level in (page.aspage(), *(page.aspage().pages or ()))]
        for page in (page.aspage() for page in pages):
            segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
            if not all(offset and count and offset + count <= tiff.filehandle.size for offset, count in segments):
                raise OSError("a part of the file wasn't written")


def _write_level(writer: TiffWriter, mask: MaskSource, step: int, options: dict[str, Any]) -> None:
    writer.write(
        mask.tiles(step),
        shape=mask.level_size(step),
        dtype=mask.dtype,
        tile=(TILE, TILE),
        compression="zlib",
        buffersize=BUFFER,
        photometric="palette",
        colormap=mask.colours().T.astype(np.uint16) * IN_8_TO_16_BITS,
        **options,
    )


def _names(mask: MaskSource) -> dict[str, str]:
    return {str(index): name for index, name in enumerate(mask.classes)}


def _is_big(mask: MaskSource) -> bool:
    """Whether a pyramid of it, were nothing gained by compression, could be too large."""
    return mask.size[0] * mask.size[1] * mask.dtype.itemsize * 4 / 3 > MOST_CLASSIC
