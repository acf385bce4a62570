"""Polygons of GeoJSON and GeoPackage files, and the class that each is of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from fungi_seg.datasets.regions import class_of, read_json
from fungi_seg.errors import DataError, MissingExtra, listing, nearest, reason

VECTOR_SUFFIXES = (".geojson", ".gpkg")
USUAL, QUPATH, GUESSED = "class", "classification", ("label", "name")  # properties that name a class
IGNORED = "Ignore*"  # QuPath's class of what no classifier is to learn
WITH_AREA = ("Polygon", "MultiPolygon")
FEW = 8

Feature = tuple[Any, Mapping[str, Any], Mapping[str, int]]  # shape, or none; properties; plane, as QuPath names it


@dataclass(frozen=True)
class Vectors:
    """The polygons of a file, each of a class.

    Attributes:
        path: of the file.
        shapes: `[n]` polygons as they stand there.
        labels: `[n]` of what class they are.
        crs: the coordinate reference system that the file names; none where it names none.
        planes: `[n]` indices by axis, those of a stack's plane where QuPath names one.
        qupath: it was written by QuPath, or for it.
        remarks: what was left out, or guessed, one line each.
    """

    path: Path
    shapes: np.ndarray
    labels: tuple[str, ...]
    crs: str | None
    planes: tuple[Mapping[str, int], ...]
    qupath: bool
    remarks: tuple[str, ...]


def read_vectors(path: Path, given: str | None = None) -> Vectors:
    """The polygons of a file that are of a class.

    Args:
        path: `.geojson` or `.gpkg`.
        given: the property that names the class; by default `class`, QuPath's `classification`, or the only one of
            `label` and `name`.

    Raises:
        DataError: it can't be read, holds no polygon of a class, or doesn't say which property names the class.
        MissingExtra: without the extra `geo`.
    """
    features, crs = _of_geopackage(path) if path.suffix.lower() == ".gpkg" else _of_geojson(path)
    names = dict.fromkeys(name for _, told, _ in features for name in told)
    if not features:
        raise DataError(f"{path}: holds no features; draw polygons, and save it again")
    name, guessed = _property(path, names, given)
    remarks = [guessed] if guessed else []
    shapes, labels, planes = [], [], []
    left_out: Counter[str] = Counter()
    for number, (outline, told, plane) in enumerate(features, 1):
        if outline is None or outline.geom_type not in WITH_AREA or outline.is_empty:
            left_out["without a polygon" if outline is None else f"of type {outline.geom_type}"] += 1
            continue
        try:
            label = _label(_value(told, name))
        except DataError as error:
            raise DataError(f"{path}: feature {number}: {error}") from error
        if label is None:
            left_out[f"without {name}"] += 1
            continue
        shapes.append(shapely.force_2d(outline))
        labels.append(label)
        planes.append(plane)
    remarks += [f"{path}: {count} of {len(features)} features {why}, left out" for why, count in left_out.items()]
    if not shapes:
        raise DataError(f"{path}: holds no polygon of a class:\n{listing(remarks)}\nDraw some, or check data.property")
    held = np.empty(len(shapes), object)
    held[:] = shapes
    crossing = np.count_nonzero(~shapely.is_valid(held))
    if crossing:
        remarks.append(f"{path}: {crossing} outlines cross themselves")
    qupath = crs is None and QUPATH in names
    return Vectors(path, held, tuple(labels), crs, tuple(planes), qupath, tuple(remarks))


def _of_geojson(path: Path) -> tuple[list[Feature], str | None]:
    """Features, and the system that `crs` names."""
    told = read_json(path)
    parts = told if isinstance(told, list) else told.get("features", [told]) if isinstance(told, dict) else None
    if not isinstance(parts, list) or not all(isinstance(p, dict) and p.get("type") == "Feature" for p in parts):
        raise DataError(f"{path}: is no GeoJSON of features; export the polygons as a FeatureCollection")
    found = list[Feature]()
    for number, part in enumerate(parts, 1):
        properties = part.get("properties") or {}
        try:
            outline = shapely.geometry.shape(part["geometry"]) if part.get("geometry") else None
        except Exception as error:  # of many kinds, by what is wrong
            raise DataError(f"{path}: feature {number}: its geometry can't be read ({reason(error)})") from error
        if not isinstance(properties, dict):
            raise DataError(f"{path}: feature {number}: its properties are {properties!r:.80}; they must have names")
        found.append((outline, properties, _plane(part.get("geometry"))))
    member = told.get("crs") if isinstance(told, dict) else None
    if not member:
        return found, None
    named = member.get("properties", {}).get("name") if isinstance(member, dict) else None
    if not isinstance(named, str):
        raise DataError(f"{path}: its crs is {member!r:.120}; it must name a coordinate reference system")
    return found, named


def _of_geopackage(path: Path) -> tuple[list[Feature], str | None]:
    """Features of the only layer that holds polygons, and its system."""
    try:
        import pyogrio
    except ImportError as error:
        raise MissingExtra("geo", error) from error
    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None and _may_be_polygons(kind)]
        if len(layers) != 1:
            many = f"{len(layers)} layers hold polygons: {layers}; save the one to use as a file of its own"
            raise DataError(f"{path}: {many if layers else 'no layer holds polygons; draw some, and save it again'}")
        meta, _, outlines, columns = pyogrio.raw.read(path, layer=layers[0], force_2d=True)
        shapes = shapely.from_wkb(outlines)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.ShapelyError) as error:
        raise DataError(f"{path}: can't be read as a GeoPackage ({reason(error)}); export it again") from error
    names, rows = [str(name) for name in meta["fields"]], zip(*(column.tolist() for column in columns), strict=True)
    told = [dict(zip(names, row, strict=True)) for row in rows] if names else [{} for _ in shapes]
    return [(shape, one, {}) for shape, one in zip(shapes, told, strict=True)], meta["crs"]


def _plane(geometry: Any) -> Mapping[str, int]:
    """Where QuPath says that an outline lies in a stack; it says nothing of the first plane."""
    plane = geometry.get("plane") if isinstance(geometry, dict) else None
    return {axis: plane[axis] for axis in "zt" if isinstance(plane.get(axis), int)} if isinstance(plane, dict) else {}


def _may_be_polygons(kind: str) -> bool:
    return "Polygon" in kind or kind in ("Unknown", "GeometryCollection") or "Surface" in kind


def _property(path: Path, names: Mapping[str, None], given: str | None) -> tuple[str, str]:
    """The property that names the class, and a remark where it was guessed."""
    if given is not None:
        if given.split(".")[0] not in names:
            raise DataError(
                f"{path}: data.property is {given!r}, but no feature has it{nearest(given, names)}; there are "
                f"{_some(names)}"
            )
        return given, ""
    for sure in (USUAL, QUPATH):
        if sure in names:
            return sure, ""
    found = [name for name in names if name.lower() in (USUAL, *GUESSED)]
    if len(found) == 1:
        return found[0], f"{path}: the class of a polygon is taken from its property {found[0]!r}"
    what = f"{' and '.join(map(repr, found))} may both be meant" if found else f"there are {_some(names)}"
    raise DataError(
        f"{path}: nothing says which property of a polygon names its class; {what}: name it with --data.property"
    )


def _some(names: Mapping[str, None]) -> str:
    shown = ", ".join(map(repr, list(names)[:FEW]))
    return f"{shown}{', …' if len(names) > FEW else ''}" if names else "none at all"


def _value(told: Mapping[str, Any], name: str) -> Any:
    """A property; `a.b` is b within a, and of QuPath's classification its name."""
    found: Any = told
    for part in [name] if name in told else name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, str) and found.startswith("{"):  # what GDAL makes of objects
        try:
            found = json.loads(found)
        except ValueError:
            return found
    return found.get("name") if isinstance(found, dict) else found


def _label(value: Any) -> str | None:
    """The class that a value stands for; none where it is empty.

    Raises:
        DataError: neither a text of one line nor a whole number.
    """
    if isinstance(value, float) and (value.is_integer() or np.isnan(value)):
        value = None if np.isnan(value) else int(value)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return "void" if value == IGNORED else class_of(value, None)
