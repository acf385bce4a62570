"""Writes small stacks of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from PIL import Image
from tifffile import imwrite
from trees import scene

CLASSES = "background\nred\ngreen\n"


def scenes(*shape: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images `[*shape, H, W, 3]` and masks `[*shape, H, W]`, of another scene in each plane."""
    found = [scene(first + number, void=False) for number in range(int(np.prod(shape)))]
    images, masks = (np.stack(parts) for parts in zip(*found, strict=True))
    return images.reshape(*shape, *images.shape[1:]), masks.reshape(*shape, *masks.shape[1:])


def write_stack(path: Path, planes: np.ndarray, axes: str | None = None) -> Path:
    """Write a TIFF: of OME with axes such as `TZYX`, or a plain one of pages.

    Args:
        path: of the file.
        planes: `[…, H, W]` or `[…, H, W, 3]`.
        axes: of the planes, without those of rows, columns and colours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = planes.shape[-1] == 3
    photometric = "rgb" if colours else "minisblack"
    if axes is None:
        flat = planes.reshape(-1, *planes.shape[-3 if colours else -2 :])
        imwrite(path, flat, photometric=photometric, metadata=None)
    else:
        imwrite(path, planes, photometric=photometric, ome=True, metadata={"axes": f"{axes}YX{'S' if colours else ''}"})
    return path


def stack_tree(root: Path, images: np.ndarray, axes: str | None, name: str = "cells.tif") -> Path:
    """A folder data set of one stack without masks."""
    write_stack(root / "images" / name, images, axes)
    (root / "masks").mkdir()
    (root / "classes.txt").write_text(CLASSES)
    return root


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask of one plane."""
    Image.fromarray(mask).save(path)


def zarr_of(path: Path, planes: np.ndarray, axes: str) -> Path:
    """An OME-Zarr 0.4 image of one level, by zarr itself."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", data=planes, chunks=(*[1] * (planes.ndim - 2), *planes.shape[-2:]))
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": axis, "type": "time" if axis == "t" else "space"} for axis in axes],
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * planes.ndim}]}],
        }
    ]
    return path
