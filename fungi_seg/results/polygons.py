"""Masks as polygons for GIS and QuPath: GeoPackage and GeoJSON, written while they are found."""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.files import replacing
from fungi_seg.rasters import RasterInfo, ReadMask
from fungi_seg.results.regions import regions

LAYER = "classes"
CHUNK = 10_000  # polygons that are held to be written
FIELDS = ("class", "class_id", "area")


@dataclass(frozen=True)
class _Chunk:
    """Some polygons, and what is told of each.

    Attributes:
        shapes: `[n]` polygons, in the units of the file.
        values: `[n]` class indices.
    """

    shapes: np.ndarray
    values: np.ndarray


def write_polygons(
    path: Path, read: ReadMask, info: RasterInfo, classes: Sequence[str], palette: np.ndarray, void: int
) -> None:
    """Write the regions of a mask (connected by 4 neighbours, of one class) as polygons, whole or not at all.

    They run along the edges of pixels, so that they hold the same pixels when they are rasterised. Each has the
    properties `class`, `class_id` and `area`, in square units of its coordinates. Void isn't written.

    A `.gpkg` has the layer `classes` in the image's coordinate reference system. So has a `.geojson`, which names a
    system other than WGS84 as GDAL does (`crs`; RFC 7946 knows but WGS84). Of an image without a place on the earth a
    `.geojson` has coordinates in pixels, from the upper left corner of the first one, and what QuPath reads besides.

    Args:
        path: `.gpkg` or `.geojson`.
        read: gives `[h, w]` class indices of any window.
        info: of the image, whose size the mask has.
        classes: names, by value.
        palette: `[C, 3]` uint8 RGB.
        void: the value of pixels without a class.

    Raises:
        DataError: the image has no place that the file could name.
        FungiSegError: the file can't be written.
        MissingExtra: without the extra `geo`.
    """
    check_place(path.suffix, info, path)
    parts = _chunks(regions(read, info.size, void), info)
    with closing(parts), replacing(path) as draft:
        if path.suffix == ".gpkg":
            _write_geopackage(draft, parts, info, classes)
        else:
            _write_geojson(draft, parts, info, classes, palette)


def check_place(suffix: str, info: RasterInfo, where: Path) -> None:
    """Refuse polygons of an image whose place can't be told.

    Args:
        suffix: `.gpkg` or `.geojson`.
        info: of the image.
        where: what the error names.

    Raises:
        DataError: a GeoPackage of an image without a place; a GeoJSON in a system that has no code, or isn't known.
        MissingExtra: without the extra `geo`.
    """
    if suffix == ".gpkg" and info.geo is None:
        raise DataError(
            f"{where}: the image has no place on the earth, which a GeoPackage is for; --polygons geojson writes "
            f"polygons in pixels, which QuPath reads"
        )
    if suffix == ".geojson" and info.geo is not None:
        _crs_member(info.geo.crs, where)


def _chunks(found: Iterable[tuple[int, Any]], info: RasterInfo) -> Generator[_Chunk, None, None]:
    """Polygons in the coordinates of the image's place, their outer rings anticlockwise where y goes up."""
    a, b, c, d, e, f = info.geo.transform if info.geo else (1, 0, 0, 0, 1, 0)
    rest = iter(found)
    while some := list(islice(rest, CHUNK)):
        values, shapes = (np.array(part) for part in zip(*some, strict=True))
        placed = shapely.transform(shapes, lambda at: at @ np.array([[a, d], [b, e]]) + (c, f))
        yield _Chunk(np.array([shapely.geometry.polygon.orient(shape) for shape in placed]), values)


def _write_geopackage(path: Path, parts: Iterable[_Chunk], info: RasterInfo, classes: Sequence[str]) -> None:
    try:
        from pyogrio import errors, raw
    except ImportError as error:
        raise MissingExtra("geo", error) from error

    assert info.geo is not None
    names, crs = np.array(classes, object), info.geo.crs or None

    def write(part: _Chunk, append: bool) -> None:
        columns = [names[part.values], part.values.astype(np.int32), shapely.area(part.shapes)]
        options = {"layer": LAYER, "driver": "GPKG", "geometry_type": "Polygon", "append": append}
        with warnings.catch_warnings():  # of a system that the image itself doesn't name
            warnings.filterwarnings("ignore", "'crs' was not provided")
            raw.write(path, shapely.to_wkb(part.shapes), columns, FIELDS, crs=crs, **options)

    try:
        write(_Chunk(np.array([], object), np.array([], int)), append=False)
        for part in parts:
            write(part, append=True)
    except (errors.DataSourceError, errors.DataLayerError, errors.FeatureError) as error:
        raise OSError(str(error)) from error


def _write_geojson(
    path: Path, parts: Iterable[_Chunk], info: RasterInfo, classes: Sequence[str], palette: np.ndarray
) -> None:
    member = _crs_member(info.geo.crs, path) if info.geo else None
    head = {"type": "FeatureCollection", "name": LAYER, **({"crs": member} if member else {})}
    about = [_properties(index, name, palette, info) for index, name in enumerate(classes)]
    with path.open("w", encoding="utf-8") as opened:
        opened.write(f'{json.dumps(head, ensure_ascii=False)[:-1]}, "features": [')
        comma = "\n"
        for part in parts:
            outlines, areas = shapely.to_geojson(part.shapes), shapely.area(part.shapes).tolist()
            for value, area, outline in zip(part.values, areas, outlines, strict=True):
                told = json.dumps({**about[value], "area": area}, ensure_ascii=False)
                opened.write(f'{comma}{{"type": "Feature", "properties": {told}, "geometry": {outline}}}')
                comma = ",\n"
        opened.write("\n]}\n")


def _properties(index: int, name: str, palette: np.ndarray, info: RasterInfo) -> dict[str, Any]:
    told: dict[str, Any] = {"class": name, "class_id": index}
    if info.geo:
        return told
    colour = {"name": name, "color": palette[index].tolist()}
    return {"objectType": "annotation", "classification": colour, **told}


def _crs_member(crs: str, where: Path) -> dict[str, Any] | None:
    """How GDAL names a system in a GeoJSON; none of WGS84, in which all coordinates are that name no other.

    Raises:
        DataError: a system that has no code, or isn't known.
    """
    try:
        from rasterio.crs import CRS
    except ImportError as error:
        raise MissingExtra("geo", error) from error

    known = CRS.from_user_input(crs) if crs else None
    code = known.to_authority(confidence_threshold=100) if known else None
    if known is None or code is None or CRS.from_authority(*code) != known:
        what = "is of a coordinate reference system without a code" if known else "names no coordinate reference system"
        raise DataError(
            f"{where}: the image {what}, and a GeoJSON that names none is read as degrees; write a GeoPackage "
            f"(--polygons gpkg)"
        )
    if code in (("EPSG", "4326"), ("OGC", "CRS84")):
        return None
    return {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{code[0]}::{code[1]}"}}
