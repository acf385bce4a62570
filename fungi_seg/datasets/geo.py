"""Polygons over rasters: GeoPackage or GeoJSON over GeoTIFFs, QuPath's GeoJSON over slides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import shapely

from fungi_seg.datasets.common import Dataset, Item, check_once, files_by_id, read_ids, read_lines
from fungi_seg.datasets.placing import Placer, on_raster, places
from fungi_seg.datasets.polygon_masks import PlacedPolygons, PolygonMasks, share_covered
from fungi_seg.datasets.regions import CLASS_LISTS, VOID_LABELS, region_dataset
from fungi_seg.datasets.selection import BACKGROUND
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.datasets.stacks import plane_by_plane
from fungi_seg.datasets.vectors import VECTOR_SUFFIXES, Vectors, read_vectors
from fungi_seg.errors import DataError, listing, nearest
from fungi_seg.files import files_below
from fungi_seg.images import RASTER_SUFFIXES, VOID, bare, has_suffix
from fungi_seg.rasters import plane_of

OME = ".ome"  # of `x.ome.tif`, whose polygons may be called `x.geojson`
QUPATH_AXES = {"page": "z"}


@dataclass
class _Annotations:
    """Which polygons belong to which raster.

    Attributes:
        files: the vector files for each raster that has some; only one can be meant.
        shared: one file is for all rasters.
        read: what the files hold, or why it can't be used.
    """

    files: Mapping[Path, tuple[Path, ...]]
    shared: bool
    read: dict[Path, Vectors | DataError] = field(default_factory=dict)

    def of(self, raster: Path) -> Vectors:
        """Those of a raster.

        Raises:
            DataError: there are none, or they can't be used.
        """
        if raster not in self.files:
            names = " or ".join(f"{bare(raster).name}{suffix}" for suffix in VECTOR_SUFFIXES)
            raise DataError(f"{raster}: has no polygons: there is no {names} for it, as there is for others")
        files = self.files[raster]
        if len(files) > 1:
            raise DataError(
                f"{raster}: {' and '.join(file.name for file in files)} may both hold its polygons; remove one, or "
                f"name a folder of those to use with --data.annotations"
            )
        found = self.read[files[0]]
        if isinstance(found, DataError):
            raise found
        return found

    @property
    def labels(self) -> set[str]:
        """All classes that polygons are of."""
        return {label for one in self.read.values() if isinstance(one, Vectors) for label in one.labels}


def open_geo(config: DataConfig, skip_bad: bool, projection: str | None = None) -> Dataset:
    """Rasters anywhere below the root, or its sub-folder `data.split`, and the polygons on them.

    Each raster has a vector file of its own, of the same name beside it or in the folder `data.annotations`, or one
    file holds the polygons of all. Later polygons lie on top, as gdal_rasterize has it; QuPath's files have no order,
    so smaller ones lie on top there. Classes are all that those polygons are of, sorted, or those of `classes.txt`.
    What lies in no polygon is void, unless `data.classes` names `background` and no polygon is of it. Planes of stacks
    are images of their own: QuPath says which plane a polygon lies on, or a plane has a file of its own.
    """
    root = config.folder
    base = root / config.split if config.split else root
    if not base.is_dir():
        raise DataError(f"data.split is {config.split!r}, but there is no folder {str(base)!r}")
    remarks: list[str] = []
    rasters = plane_by_plane(files_by_id(base, RASTER_SUFFIXES, remarks), projection)
    everywhere = {i: files[0] for i, files in _below(root, RASTER_SUFFIXES).items()}
    all_rasters = rasters if base == root else plane_by_plane(everywhere, projection)
    polygons = _annotations(config, base, all_rasters, remarks)
    classes, rest = _classes(config, root, polygons.labels)
    place, problems = Placer(projection), list[str]()
    items, placed, outside = list[Item](), dict[str, PlacedPolygons](), list[str]()
    for i in read_ids(config.ids, rasters) if config.ids else rasters:
        try:
            if i not in rasters:
                raise DataError(f"{base / i}: there is no raster of that name")
            own = polygons.of(rasters[i])
            shapes, info = place(own, rasters[i])
            of_plane = _on_plane(own, rasters[i])
            there = on_raster(shapes, info) & of_plane
            if there.any():
                placed[i] = _in_order(own, shapes, there, info.size, classes)
                items.append(Item(i, rasters[i], own.path))
            elif not of_plane.any():
                outside.append(f"{rasters[i]}: no polygon is of this plane")
            elif polygons.shared:
                outside.append(f"{rasters[i]}: {places(shapes, info)}")
            else:
                raise DataError(f"{own.path}: no polygon lies on {rasters[i]}: {places(shapes, info)}")
        except DataError as error:
            problems.append(str(error))
    if outside and not items and not problems:
        raise DataError(
            f"{base}: the polygons of {next(iter(polygons.read))} lie on none of {len(outside)} rasters:\n"
            f"{listing(outside)}\nCheck their coordinate reference systems"
        )
    if outside:
        remarks.append(f"{len(outside)} rasters without a polygon are left out:\n{listing(outside)}")
    used = dict.fromkeys(item.mask for item in items)
    remarks += [line for file in used if isinstance(one := polygons.read[file], Vectors) for line in one.remarks]
    remarks += [*place.remarks, *_of_cover(placed, classes, rest)]
    reader = PolygonMasks(classes, rest, placed, config.property)
    return region_dataset(items, reader, problems, remarks, skip_bad, base)


def _annotations(config: DataConfig, base: Path, rasters: Mapping[str, Path], remarks: list[str]) -> _Annotations:
    """The polygons of all rasters below the root.

    Raises:
        DataError: there is no vector file, or several, none of which has the name of a raster.
    """
    given = config.place("annotations")
    if given and given.is_file():
        polygons = _Annotations(dict.fromkeys(rasters.values(), (given,)), True)
    else:
        folder = given or config.folder
        found = _below(folder, VECTOR_SUFFIXES)
        matching = _by_name(rasters, found, elsewhere=given is not None)
        if matching:
            polygons = _Annotations(matching, False)
            used = {file for files in matching.values() for file in files}
            near = [file for files in found.values() for file in files if given or file.is_relative_to(base)]
            spare = sorted(set(near) - used)
            if spare:
                remarks.append(f"{len(spare)} vector files have no raster's name, and are left out:\n{listing(spare)}")
        else:
            polygons = _Annotations(dict.fromkeys(rasters.values(), (_only_one(found, base, folder),)), True)
    for file in dict.fromkeys(files[0] for files in polygons.files.values() if len(files) == 1):
        try:
            polygons.read[file] = read_vectors(file, config.property)
        except DataError as error:
            if polygons.shared:
                raise
            polygons.read[file] = error
    return polygons


def _below(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files by their path below a folder, without suffix."""
    found: dict[str, list[Path]] = {}
    for path in files_below(folder):
        if has_suffix(path, suffixes):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return found


def _by_name(
    rasters: Mapping[str, Path], found: Mapping[str, list[Path]], elsewhere: bool
) -> dict[Path, tuple[Path, ...]]:
    """The vector files of each raster that has some of its own.

    Args:
        rasters: by id.
        found: by path without suffix.
        elsewhere: the files lie in a folder of their own, where the last part of a path may do.
    """
    matching = {}
    for i, raster in rasters.items():
        stems = [i, i[: i.rindex("[")]] if plane_of(raster) else [i]
        paths = [path for stem in stems for path in (stem, *([PurePosixPath(stem).name] if elsewhere else []))]
        names = [name for path in paths for name in (path, path.removesuffix(OME))]
        own = next((found[name] for name in names if name in found), None)
        if own:
            matching[raster] = tuple(own)
    return matching


def _only_one(found: Mapping[str, list[Path]], base: Path, folder: Path) -> Path:
    files = [file for some in found.values() for file in some]
    candidates = [file for file in files if file.is_relative_to(base)] or files
    if len(candidates) == 1:
        return candidates[0]
    what = f"{len(candidates)} vector files, none of which has a raster's name:\n{listing(candidates)}\nName one"
    none = f"no {' or '.join(VECTOR_SUFFIXES)}, which would hold the polygons; put one there, or name one"
    raise DataError(f"{folder}: holds {what if candidates else none} with --data.annotations")


def _classes(config: DataConfig, root: Path, labels: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """Names of classes, and the index, or void, of what lies in no polygon.

    Raises:
        DataError: a class that `classes.txt` doesn't list.
    """
    known = sorted({*labels} - {*VOID_LABELS}, key=lambda name: (name != BACKGROUND, name))
    path = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    classes = list(known)
    if path:
        classes = read_lines(path, "class list")
        check_once(classes, f"class list {str(path)!r}", "classes")
        for name in known:
            if name not in classes:
                raise DataError(f"{path}: doesn't list {name!r}, which polygons are of{nearest(name, classes)}")
    if BACKGROUND not in config.classes or BACKGROUND in known:
        return tuple(classes), VOID
    if BACKGROUND not in classes:
        classes.insert(0, BACKGROUND)
    return tuple(classes), classes.index(BACKGROUND)


def _on_plane(own: Vectors, raster: Path) -> np.ndarray:
    """`[n]` bool: which polygons are of the plane that a raster is, if it is one.

    Raises:
        DataError: nothing says which plane any of them is of.
    """
    plane = plane_of(raster)
    if not plane or plane_of(own.path.with_suffix("")):
        return np.ones(len(own.labels), bool)
    if not any(own.planes):
        raise DataError(
            f"{own.path}: nothing says on which plane of {raster} polygons lie; name a file after each plane that has "
            f"some, as {bare(raster).name}{own.path.suffix}, or put planes along z together (--input.projection)"
        )
    wanted = {QUPATH_AXES.get(axis, axis): index for axis, index in plane.items()}
    return np.array([all(one.get(axis, 0) == index for axis, index in wanted.items()) for one in own.planes])


def _in_order(
    own: Vectors, shapes: np.ndarray, there: np.ndarray, size: tuple[int, int], classes: tuple[str, ...]
) -> PlacedPolygons:
    """Those polygons that are `there`, in the order in which they are drawn."""
    order = np.argsort(-shapely.area(own.shapes), kind="stable") if own.qupath else np.arange(len(shapes))
    kept = order[there[order]]
    values = [VOID if own.labels[one] in VOID_LABELS else classes.index(own.labels[one]) for one in kept]
    return PlacedPolygons(size, shapes[kept], np.array(values, np.int16))


def _of_cover(placed: Mapping[str, PlacedPolygons], classes: tuple[str, ...], rest: int) -> list[str]:
    """How much polygons cover, and whether what they leave is of use."""
    if not placed:
        return []
    pixels = [one.size[0] * one.size[1] for one in placed.values()]
    covered = sum(share_covered(one) * count for one, count in zip(placed.values(), pixels, strict=True))
    share = f"polygons cover {100 * covered / sum(pixels):.1f} % of the pixels of {len(placed)} rasters"
    if rest != VOID:
        return [f"{share}; what lies in none is {BACKGROUND}, as data.classes names it and no polygon is of it"]
    alone = f"; all are {classes[0]!r}: with --data.classes {BACKGROUND},{classes[0]} the rest is {BACKGROUND}"
    return [f"{share}; what lies in none is void, and isn't learnt from{alone if len(classes) == 1 else ''}"]
