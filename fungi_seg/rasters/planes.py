"""Addresses of planes: `cells.tif[z=3,t=1]` is one picture of a stack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from fungi_seg.errors import DataError
from fungi_seg.files import stamp

ADDRESS = re.compile(r"(?P<file>.+)\[(?P<plane>[a-z]+\d*=\d+(?:,[a-z]+\d*=\d+)*)\]", re.DOTALL)


def file_of(path: Path) -> Path:
    """The file of an address, or the path itself."""
    found = _parts(path)
    return path if found is None else path.with_name(found["file"])


def plane_of(path: Path) -> dict[str, int]:
    """Indices by axis, from 0; nothing where the path is no address."""
    found = _parts(path)
    if found is None:
        return {}
    pairs = [part.split("=") for part in found["plane"].split(",")]
    plane = {axis: int(index) for axis, index in pairs}
    if len(plane) < len(pairs):
        raise DataError(f"{path}: an axis is named twice; name each once")
    return plane


def address(file: Path, plane: Mapping[str, int]) -> Path:
    """The address of a plane; the file itself where it has no axes."""
    if not plane:
        return file
    return file.with_name(f"{file.name}[{','.join(f'{axis}={index}' for axis, index in plane.items())}]")


def addresses(file: Path, axes: Mapping[str, int]) -> tuple[Path, ...]:
    """Those of all planes, the last axis running fastest; axes of one index aren't named.

    Args:
        file: that holds them.
        axes: how many indices each axis has, in the file's order.
    """
    long = {axis: count for axis, count in axes.items() if count > 1}
    return tuple(address(file, dict(zip(long, at, strict=True))) for at in product(*map(range, long.values())))


def stamp_of(path: Path) -> list[int]:
    """As `files.stamp`, of the file of an address."""
    return stamp(file_of(path))


def checked_plane(plane: Mapping[str, int], axes: Mapping[str, int]) -> dict[str, int]:
    """An index for each axis, those of one index being 0.

    Args:
        plane: what an address names.
        axes: how many indices each axis of the file has.

    Raises:
        DataError: an axis that isn't there, an index beyond it, or an axis not named. The message doesn't name the
            file.
    """
    there = ", ".join(f"{axis} 0 to {count - 1}" for axis, count in axes.items()) or "none: it holds one picture"
    for axis, index in plane.items():
        if axis not in axes:
            raise DataError(f"has no axis {axis!r}; its axes are {there}")
        if index >= axes[axis]:
            raise DataError(f"has no {axis}={index}; its axes are {there}")
    missing = [axis for axis, count in axes.items() if count > 1 and axis not in plane]
    if missing:
        count = 1
        for axis in missing:
            count *= axes[axis]
        example = ",".join(f"{axis}={plane.get(axis, 0)}" for axis, length in axes.items() if length > 1)
        raise DataError(
            f"holds {count} pictures along {', '.join(missing)}, and nothing says which one is meant; name one, as "
            f"[{example}] after the file's name (axes: {there}), or put planes along z together by --input.projection "
            f"max, mean or a number"
        )
    return {axis: plane.get(axis, 0) for axis in axes}


def _parts(path: Path) -> re.Match[str] | None:
    found = ADDRESS.fullmatch(path.name)
    return None if found is None or path.exists() else found
