"""Stacks and videos in a folder of images: each plane with its mask, of the same file or of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from fungi_seg.errors import DataError
from fungi_seg.files import stamp
from fungi_seg.images import bare, images_of, read_mask
from fungi_seg.rasters import file_of, plane_of

Plane = frozenset[tuple[str, int]]


@dataclass
class Planes:
    """Images and masks, those of stacks plane by plane.

    Attributes:
        images, masks: by id. Of a stack of which some planes are annotated, they alone are there.
        bad: ids of stacks whose masks don't fit, and why.
        remarks: a line for each stack of which planes are left out.
    """

    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def plane_by_plane(images: Mapping[str, Path], projection: str | None = None) -> dict[str, Path]:
    """Images by id, files of several as one for each of their planes."""
    found: dict[str, Path] = {}
    for i, file in images.items():
        planes = images_of(file, projection)
        found |= {i: file} if planes == (file,) else {_id(i, plane): plane for plane in planes}
    return found


def paired_planes(
    images: Mapping[str, Path], masks: Mapping[str, Path], projection: str | None, void: Sequence[int]
) -> Planes:
    """Stacks taken apart, with the masks that are of their planes.

    A mask file of the image's axes annotates all planes but those that are void all over; a mask may also be of one
    plane, and named `cells[z=3]`. Planes along one axis may be called otherwise in the mask file, if they are as many.

    Args:
        images, masks: files by id.
        projection: as of `InputConfig`.
        void: values that stand for not annotated.

    Raises:
        MissingExtra: a package for a kind of file isn't installed.
    """
    found, own = Planes(masks=dict(masks)), _of_planes(masks)
    for i, file in images.items():
        planes = images_of(file, projection)
        mask = masks.get(i)
        if planes == (file,):
            found.images[i] = file
            several = () if mask is None else images_of(mask)
            if mask is not None and len(several) > 1:
                found.bad[i] = f"{mask.name}: a mask of {_axes(several)}, but its image {file.name} is one picture"
            continue
        found.masks.pop(i, None)
        try:
            annotated = {} if mask is None else _matched(planes, mask, file)
        except DataError as error:
            found.bad[i] = str(error)
            continue
        blank = [plane for plane, one in annotated.items() if _is_blank(one, tuple(stamp(file_of(one))), tuple(void))]
        annotated = {plane: one for plane, one in annotated.items() if plane not in blank}
        for plane in planes:
            known = own.get((i, frozenset(plane_of(plane).items())))
            if known is None:
                continue
            found.masks.pop(known)
            if plane in annotated:
                found.bad[i] = f"{masks[known].name}: annotates a plane that {mask.name if mask else ''} does, too"
            annotated[plane] = masks[known]
        if i not in found.bad:
            _add(found, i, file, planes, annotated)
    return found


def _add(found: Planes, i: str, file: Path, planes: Sequence[Path], annotated: Mapping[Path, Path]) -> None:
    if not annotated:
        found.bad[i] = (
            f"{file.name}: image without mask; it holds {len(planes)} planes, {_axes(planes)}: name a mask as the "
            f"plane that it is of, such as {bare(planes[0]).name}.png, or write one mask file of the same axes"
        )
        return
    for plane in planes:
        if plane in annotated:
            found.images[_id(i, plane)], found.masks[_id(i, plane)] = plane, annotated[plane]
    if len(annotated) < len(planes):
        found.remarks.append(
            f"{file}: {len(planes) - len(annotated)} of its {len(planes)} planes aren't annotated, and left out"
        )


def _matched(planes: Sequence[Path], mask: Path, file: Path) -> dict[Path, Path]:
    """The planes of a mask file by those of its image.

    Raises:
        DataError: other axes.
    """
    masks = images_of(mask)
    if masks == (mask,):
        raise DataError(
            f"{mask.name}: is a mask of one picture, but its image {file.name} holds {len(planes)}, {_axes(planes)}; "
            f"write a mask file of the same axes, name the mask as the plane that it is of, "
            f"{bare(planes[0]).name}{mask.suffix}, or put planes along z together (--input.projection)"
        )
    by_plane = {frozenset(plane_of(one).items()): one for one in masks}
    wanted = [frozenset(plane_of(plane).items()) for plane in planes]
    if by_plane.keys() == set(wanted):
        return {plane: by_plane[key] for plane, key in zip(planes, wanted, strict=True)}
    if len(masks) == len(planes) and all(len(plane_of(some[0])) == 1 for some in (masks, planes)):
        return dict(zip(planes, masks, strict=True))
    raise DataError(
        f"{mask.name}: its axes are {_axes(masks)}, but those of its image {file.name} {_axes(planes)}; write the mask "
        f"with the axes of the image (as OME-TIFF, or by ImageJ), or a file for each plane, such as "
        f"{bare(planes[0]).name}.png"
    )


@lru_cache(4096)
def _is_blank(mask: Path, _: tuple[int, ...], void: tuple[int, ...]) -> bool:
    """Whether a mask is void all over; one that can't be read isn't, so that it is told when it is used."""
    try:
        values = read_mask(mask)
    except DataError:
        return False
    return any(bool((values == value).all()) for value in void)


def _of_planes(masks: Mapping[str, Path]) -> dict[tuple[str, Plane], str]:
    """Ids of masks that are named as planes, by the id of the stack and the plane, in whatever order of axes."""
    found = {}
    for i in masks:
        address = Path(i)
        stack, plane = file_of(address), plane_of(address)
        if plane:
            found[stack.as_posix(), frozenset(plane.items())] = i
    return found


def _id(i: str, plane: Path) -> str:
    return f"{i}{plane.name[len(file_of(plane).name) :]}"


def _axes(planes: Sequence[Path]) -> str:
    """What a stack is called, by the address of its last plane: `t 2, z 5`."""
    return ", ".join(f"{axis} {index + 1}" for axis, index in plane_of(planes[-1]).items())
