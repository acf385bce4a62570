"""Masks as label images of OME-Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fungi_seg.errors import MissingExtra
from fungi_seg.rasters.mask_source import GREY, TILE, MaskSource
from fungi_seg.rasters.raster import Window

SHARD = 4 * TILE  # side of what is one file in format 3, in which tiles are found by an index
VERSIONS = {2: "0.4", 3: "0.5"}  # of OME-Zarr, by the format of Zarr
UNITS = {"µm": "micrometer", "m": "meter"}


def write_zarr(path: Path, mask: MaskSource) -> None:
    """With a pyramid, the image's pixel size, and names and colours of classes by their values."""
    try:
        import zarr
    except ImportError as error:
        raise MissingExtra("zarr", error) from error

    form, steps = mask.info.zarr_format, mask.steps()
    group = zarr.open_group(path, mode="w", zarr_format=form)
    for number, step in enumerate(steps):
        _write_level(group, str(number), mask, step)
    multiscale, label = _multiscale(mask, steps), _label(mask)
    version = {"version": VERSIONS[form]}
    if form == 2:
        group.attrs.update({"multiscales": [multiscale | version], "image-label": label | version})
    else:
        group.attrs["ome"] = version | {"multiscales": [multiscale], "image-label": label}


def _write_level(group: Any, name: str, mask: MaskSource, step: int) -> None:
    size = mask.level_size(step)
    shard = min(SHARD, -(-max(size) // TILE) * TILE)
    sharded = mask.info.zarr_format == 3
    layout = {"shards": (shard, shard), "dimension_names": ("y", "x")} if sharded else {}
    array = group.create_array(
        name,
        shape=size,
        dtype=mask.dtype,
        chunks=(TILE, TILE),
        fill_value=0,
        chunk_key_encoding={"name": "default" if sharded else "v2", "separator": "/"},
        config={"write_empty_chunks": True},  # else a lost file would be read as the first class
        **layout,
    )
    for top in range(0, size[0], shard):
        band = mask.part(step, Window(top, 0, shard, size[1]))
        array[top : top + len(band)] = band


def _multiscale(mask: MaskSource, steps: list[int]) -> dict[str, Any]:
    """Where the pixels of each level lie, by their middles, as those of the image's first level do."""
    known = mask.info.pixel_size is not None and mask.info.unit in UNITS
    unit = {"unit": UNITS[mask.info.unit]} if known else {}
    pixel = float(mask.info.pixel_size or 1) if known else 1.0
    return {
        "name": "classes",
        "axes": [{"name": axis, "type": "space", **unit} for axis in "yx"],
        "datasets": [
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [step * pixel] * 2},
                    *([{"type": "translation", "translation": [step // 2 * pixel] * 2}] if step > 1 else []),
                ],
            }
            for number, step in enumerate(steps)
        ],
    }


def _label(mask: MaskSource) -> dict[str, Any]:
    values = [*range(len(mask.classes)), mask.void]
    names, colours = [*mask.classes, "void"], [*mask.palette.tolist(), [GREY] * 3]
    return {
        "colors": [{"label-value": v, "rgba": [*rgb, 255]} for v, rgb in zip(values, colours, strict=True)],
        "properties": [{"label-value": v, "class": name} for v, name in zip(values, names, strict=True)],
    }
