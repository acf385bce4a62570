"""Where polygons lie on a raster: coordinate reference systems compared, polygons brought to pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from fungi_seg.datasets.vectors import Vectors
from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.rasters import GeoReference, RasterInfo, check_geo, open_raster

DEGREES = "OGC:CRS84"  # of GeoJSON that names no other: longitude, latitude
GIVEN_RASTER = "give it one (gdal_edit.py -a_srs EPSG:… FILE)"
GIVEN_POLYGONS = "give it one (ogr2ogr -a_srs EPSG:… OUT.gpkg FILE)"


@dataclass
class Placer:
    """Brings polygons to rasters; what it does on the way is kept in `remarks`, once for each file.

    Attributes:
        projection: of rasters' planes along z, as of `InputConfig`.
        remarks: of coordinates that were changed.
    """

    projection: str | None = None
    remarks: dict[str, None] = field(default_factory=dict)
    _changed: dict[tuple[Path, str], np.ndarray] = field(default_factory=dict)

    def __call__(self, polygons: Vectors, image: Path) -> tuple[np.ndarray, RasterInfo]:
        """`[n]` polygons in the pixels of a raster, also those that lie beside it, and what is known of the raster.

        Raises:
            DataError: one of the two has no place or system where the other has, or they can't be brought together;
                or the raster can't be read.
            MissingExtra: without the extra `geo`.
        """
        with open_raster(image, self.projection) as opened:
            if not polygons.qupath:
                check_geo(opened)
            info = opened.info
        return self._on(polygons, image, info), info

    def _on(self, polygons: Vectors, image: Path, info: RasterInfo) -> np.ndarray:
        geo, geojson = info.geo, polygons.path.suffix.lower() == ".geojson"
        if polygons.qupath or (geo is None and geojson and polygons.crs is None):
            return polygons.shapes
        if geo is None:
            raise DataError(
                f"{image}: has no place on the earth, but the polygons of {polygons.path} have; name a raster that has "
                f"one, or give polygons in pixels as GeoJSON without crs, as QuPath does"
            )
        placed = self._in_system_of(polygons, image, geo, DEGREES if geojson else None)
        return np.asarray(shapely.transform(placed, _to_pixels(image, geo)))

    def _in_system_of(self, polygons: Vectors, image: Path, geo: GeoReference, usual: str | None) -> np.ndarray:
        """The polygons in the coordinates of a raster's system."""
        named = polygons.crs or usual
        if not geo.crs and not named:
            self.remarks[
                f"{polygons.path}: neither it nor {image} names a coordinate reference system; taken as one"
            ] = None
            return polygons.shapes
        if not geo.crs or not named:
            lacking, other = (image, polygons.path) if named else (polygons.path, image)
            way_out = GIVEN_RASTER if named else GIVEN_POLYGONS
            raise DataError(f"{lacking}: names no coordinate reference system, but {other} does; {way_out}")
        own, wanted = _system(named, polygons.path), _system(geo.crs, image)
        if polygons.crs is None and not _are_degrees(polygons.shapes):
            raise DataError(
                f"{polygons.path}: names no coordinate reference system (crs), so that it would be in degrees, but its "
                f"coordinates reach beyond ±180 and ±90; {GIVEN_POLYGONS}"
            )
        if own.equals(wanted, ignore_axis_order=True):
            return polygons.shapes
        key = (polygons.path, geo.crs)
        if key not in self._changed:
            self.remarks[f"{polygons.path}: reprojected from {own.name} to {wanted.name}, as of {image}"] = None
            self._changed[key] = _reprojected(polygons, own, wanted)
        return self._changed[key]


def on_raster(shapes: np.ndarray, info: RasterInfo) -> np.ndarray:
    """`[n]` bool: which polygons, in its pixels, a raster has a part of."""
    left, top, right, bottom = shapely.bounds(shapes).T
    found = (right > 0) & (bottom > 0) & (left < info.size[1]) & (top < info.size[0])
    found[found] = shapely.intersects(shapes[found], _box(info))
    return np.asarray(found)


def places(shapes: np.ndarray, info: RasterInfo) -> str:
    """Words for where polygons and a raster lie, both in its coordinates, or in pixels where it has none."""
    a, b, c, d, e, f = info.geo.transform if info.geo else (1, 0, 0, 0, 1, 0)
    told = []
    for what in (shapes, np.array([_box(info)])):
        at = shapely.get_coordinates(what) @ np.array([[a, d], [b, e]]) + (c, f)
        (left, low), (right, high) = at.min(0).tolist(), at.max(0).tolist()
        told.append(f"x {left:.10g} to {right:.10g}, y {low:.10g} to {high:.10g}")
    return f"they reach from {told[0]}, the raster from {told[1]}{'' if info.geo else ' (pixels)'}"


def _box(info: RasterInfo) -> Any:
    return shapely.box(0, 0, info.size[1], info.size[0])


def _to_pixels(image: Path, geo: GeoReference) -> Callable[[np.ndarray], np.ndarray]:
    a, b, c, d, e, f = geo.transform
    try:
        back = np.linalg.inv(np.array([[a, d], [b, e]]))
    except np.linalg.LinAlgError as error:
        raise DataError(
            f"{image}: its transform {geo.transform} puts all pixels on a line; georeference it again"
        ) from error
    return lambda at: (at - (c, f)) @ back


def _are_degrees(shapes: np.ndarray) -> bool:
    left, bottom, right, top = shapely.total_bounds(shapes)
    return bool(left >= -180 and right <= 180 and bottom >= -90 and top <= 90)


def _system(text: str, path: Path) -> Any:
    try:
        from pyproj import CRS, exceptions
    except ImportError as error:
        raise MissingExtra("geo", error) from error
    try:
        return CRS.from_user_input(text)
    except exceptions.CRSError as error:
        raise DataError(
            f"{path}: its coordinate reference system {text!r:.120} isn't known; name a known one"
        ) from error


def _reprojected(polygons: Vectors, own: Any, wanted: Any) -> np.ndarray:
    from pyproj import Transformer

    change = Transformer.from_crs(own, wanted, always_xy=True)
    found = shapely.transform(polygons.shapes, lambda at: np.column_stack(change.transform(at[:, 0], at[:, 1])))
    if not np.isfinite(shapely.get_coordinates(found)).all():
        raise DataError(
            f"{polygons.path}: can't be brought from {own.name} to {wanted.name}: some coordinates have no place "
            f"there; check which system they are in"
        )
    return np.asarray(found)
