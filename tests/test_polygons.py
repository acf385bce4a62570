"""Masks as polygons: the same pixels when rasterised, in the image's place, as GIS and QuPath read them."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import jsonschema_rs
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize, shapes
from shapely.geometry import shape
from test_mask_files import CLASSES, PALETTE, ROTATED, a_mask, info_of, reader_of, written

from fungi_seg.errors import DataError, FungiSegError, MissingExtra
from fungi_seg.rasters import GeoReference, RasterInfo
from fungi_seg.results import polygons, write_polygons
from fungi_seg.results.regions import regions

UTM = rasterio.CRS.from_epsg(32633).to_wkt()
NORTH_UP = (0.3, 0.0, 400_000.1, 0.0, -0.3, 5_000_000.7)
WITHOUT_CODE = rasterio.CRS.from_proj4("+proj=laea +lat_0=12.3 +lon_0=4.5 +datum=WGS84").to_wkt()
POSITION = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
RING = {"type": "array", "items": POSITION, "minItems": 4}
SCHEMA = {  # RFC 7946, of polygons
    "type": "object",
    "required": ["type", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "features": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "properties", "geometry"],
                "properties": {
                    "type": {"const": "Feature"},
                    "properties": {"type": "object", "required": ["class", "class_id", "area"]},
                    "geometry": {
                        "type": "object",
                        "required": ["type", "coordinates"],
                        "properties": {
                            "type": {"const": "Polygon"},
                            "coordinates": {"type": "array", "items": RING, "minItems": 1},
                        },
                    },
                },
            },
        },
    },
}


def placed(transform: Any = NORTH_UP, crs: str = UTM, size: tuple[int, int] = (300, 211)) -> RasterInfo:
    return info_of("geotiff", size, geo=GeoReference(crs, transform))


def saved(path: Path, mask: np.ndarray, info: RasterInfo) -> Path:
    write_polygons(path, reader_of(mask), info, CLASSES, PALETTE, 255)
    return path


def features(path: Path) -> list[dict[str, Any]]:
    """Of a GeoJSON, which must be a valid one."""
    told = json.loads(path.read_text("utf-8"))
    jsonschema_rs.validate(SCHEMA, told)
    found = told["features"]
    for feature in found:
        outline = shape(feature["geometry"])
        assert outline.is_valid
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
    return list(found)


@pytest.mark.parametrize("strip", [1, 2, 7, 36, 37, 500])
@pytest.mark.parametrize("side", [1, 3])
def test_regions_are_those_of_gdal(strip: int, side: int) -> None:
    """However many rows are looked at together; noise, so that regions meet in every way."""
    noise = np.random.default_rng(side).integers(0, 3, (40 // side, 30 // side)).astype(np.uint8)
    mask = np.kron(noise, np.ones((side, side), np.uint8))
    mask[mask == 2] = 255
    expected = sorted((int(v), shape(g).normalize().wkb) for g, v in shapes(mask, mask != 255, connectivity=4))
    found = list(regions(reader_of(mask), mask.shape, 255, strip))
    assert all(outline.is_valid for _, outline in found)
    assert sorted((value, outline.normalize().wkb) for value, outline in found) == expected


def test_regions_that_meet_and_part() -> None:
    """A comb, a ring, and a spiral; by hand."""
    mask = np.full((9, 9), 255, np.uint8)
    mask[0:8, ::2] = 0
    mask[8] = 0  # joins the teeth at the very end
    mask[1:4, 1:2], mask[2, 1] = 1, 1
    found = list(regions(reader_of(mask), mask.shape, 255, 1))
    assert sorted((value, outline.area) for value, outline in found) == [(0, 49), (1, 3)]
    assert [outline.area for _, outline in regions(reader_of(np.zeros((5, 5), np.uint8)), (5, 5), 0, 2)] == []


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED])
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_from_geotiff_to_mask_to_polygons_and_back(tmp_path: Path, transform: Any, suffix: str) -> None:
    mask, info = a_mask((300, 211)), placed(transform)
    tiff = written(tmp_path, mask, info)
    found = geopandas.read_file(saved(tmp_path / f"mask{suffix}", mask, info))
    with rasterio.open(tiff) as opened:
        assert found.crs == opened.crs
        drawn = zip(found.geometry, found.class_id, strict=True)
        again = rasterize(drawn, opened.shape, fill=255, transform=opened.transform, dtype=np.uint8)
        np.testing.assert_array_equal(again, opened.read(1))
        assert opened.transform == rasterio.Affine(*transform)
    assert found.is_valid.all()
    assert [CLASSES[index] for index in found.class_id] == found["class"].tolist()
    np.testing.assert_allclose(found.area, found.geometry.area)
    pixel = abs(transform[0] * transform[4] - transform[1] * transform[3])
    assert found.geometry.area.sum() == pytest.approx(pixel * (mask != 255).sum())


def test_geopackage(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.gpkg", a_mask((300, 211)), placed())
    assert pyogrio.list_layers(path).tolist() == [["classes", "Polygon"]]
    told = pyogrio.read_info(path, layer="classes")
    assert told["crs"] == "EPSG:32633"
    assert told["fields"].tolist() == ["class", "class_id", "area"]
    assert [one.name for one in tmp_path.iterdir()] == ["mask.gpkg"]


def test_geopackage_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = a_mask((300, 211))
    whole = geopandas.read_file(saved(tmp_path / "whole.gpkg", mask, placed()))
    monkeypatch.setattr(polygons, "CHUNK", 100)
    assert len(whole) > 300
    assert geopandas.read_file(saved(tmp_path / "parts.gpkg", mask, placed())).equals(whole)


@pytest.mark.parametrize(
    ("code", "name"),
    [(32633, "urn:ogc:def:crs:EPSG::32633"), (3857, "urn:ogc:def:crs:EPSG::3857"), (4326, None)],
)
def test_geojson_names_its_system_as_gdal_does(tmp_path: Path, code: int, name: str | None) -> None:
    info = placed((1e-5, 0, 9.0, 0, -1e-5, 50.0), rasterio.CRS.from_epsg(code).to_wkt())
    path = saved(tmp_path / "mask.geojson", a_mask((300, 211)), info)
    told = json.loads(path.read_text("utf-8"))
    geopandas.read_file(path).to_file(tmp_path / "gdal.geojson", driver="GeoJSON")
    by_gdal = json.loads((tmp_path / "gdal.geojson").read_text("utf-8"))
    member = told.get("crs", {}).get("properties", {}).get("name")
    assert member == name
    if name:
        assert told["crs"] == by_gdal["crs"]
    for feature in features(path):  # RFC 7946: the outer ring anticlockwise, holes clockwise
        outer, *holes = feature["geometry"]["coordinates"]
        assert shapely.LinearRing(outer).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        assert [*feature["properties"]] == ["class", "class_id", "area"]


def test_for_qupath(tmp_path: Path) -> None:
    """Coordinates in pixels from the upper left corner; a block of known pixels lies where it was."""
    mask = np.full((60, 80), 255, np.uint8)
    mask[20:31, 40:45] = 1
    mask[24:26, 41:43] = 2
    first, second = sorted(
        features(saved(tmp_path / "mask.geojson", mask, info_of("slide", (60, 80), pixel_size=0.5, unit="µm"))),
        key=lambda feature: feature["properties"]["class_id"],
    )
    assert shape(second["geometry"]).bounds == (41, 24, 43, 26)
    assert shape(first["geometry"]).bounds == (40, 20, 45, 31)
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": CLASSES[1], "color": [230, 159, 0]},
        "class": CLASSES[1],
        "class_id": 1,
        "area": 51.0,
    }
    assert "crs" not in json.loads((tmp_path / "mask.geojson").read_text("utf-8"))
    again = rasterize(
        [(shape(one["geometry"]), one["properties"]["class_id"]) for one in (first, second)], (60, 80), 255
    )
    np.testing.assert_array_equal(again, mask)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_nothing_but_void(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"mask{suffix}", np.full((300, 211), 255, np.uint8), placed())
    found = geopandas.read_file(path)
    assert len(found) == 0
    assert found.crs == rasterio.CRS.from_wkt(UTM)


@pytest.mark.filterwarnings("error")
def test_geopackage_of_an_unknown_system(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.gpkg", a_mask((300, 211)), placed(crs=""))
    assert pyogrio.read_info(path)["crs"] is None or "Undefined" in pyogrio.read_info(path)["crs"]


def test_systems_without_a_code_fit_a_geopackage_only(tmp_path: Path) -> None:
    mask = a_mask((300, 211))
    found = geopandas.read_file(saved(tmp_path / "mask.gpkg", mask, placed(crs=WITHOUT_CODE)))
    assert found.crs.equals(WITHOUT_CODE)
    for crs, why in ((WITHOUT_CODE, "of a coordinate reference system without a code"), ("", "names no coordinate")):
        with pytest.raises(DataError, match=rf"mask.geojson: the image .*{why}.*write a GeoPackage"):
            saved(tmp_path / "mask.geojson", mask, placed(crs=crs))
    assert not (tmp_path / "mask.geojson").exists()


def test_geopackage_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no place on the earth, which a GeoPackage is for; --polygons geojson"):
        saved(tmp_path / "mask.gpkg", a_mask((300, 211)), info_of("slide", (300, 211)))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_nothing_half_written_is_left(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "CHUNK", 5)

    def broken(read: Any, size: Any, void: Any) -> Any:
        yield from ((0, shapely.box(i, 0, i + 1, 1)) for i in range(12))
        raise OSError("No space left on device")

    monkeypatch.setattr(polygons, "regions", broken)
    with pytest.raises(FungiSegError, match=rf"mask{suffix}: can't be written .*free some space"):
        saved(tmp_path / f"mask{suffix}", a_mask((300, 211)), placed())
    assert [*tmp_path.iterdir()] == []


def test_a_geopackage_that_gdal_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise pyogrio.errors.DataSourceError("disk I/O error")

    monkeypatch.setattr(pyogrio.raw, "write", fails)
    with pytest.raises(FungiSegError, match=r"mask.gpkg: can't be written \(disk I/O error\)"):
        saved(tmp_path / "mask.gpkg", a_mask((300, 211)), placed())


@pytest.mark.parametrize(("suffix", "package"), [(".gpkg", "pyogrio"), (".geojson", "rasterio")])
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for info in (placed(), info_of("slide", (300, 211))) if suffix == ".geojson" else (placed(),):
        with pytest.raises(MissingExtra, match=r'pip install "fungi-seg\[geo\]"'):
            saved(tmp_path / f"mask{suffix}", a_mask((300, 211)), info)


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from fungi_seg.errors import FungiSegError
from fungi_seg.rasters import GeoReference, RasterInfo
from fungi_seg.results.polygons import write_polygons
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 9, (150, 150)).astype(np.uint8)
geo = GeoReference("EPSG:32633", (1, 0, 0, 0, -1, 0))
info = RasterInfo("geotiff", noise.shape, ("1",), "uint8", (noise.shape,), geo=geo)
read = lambda w: noise[w.top : w.top + w.height, w.left : w.left + w.width]
for size in (300_000, 1000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        write_polygons(path, read, info, [*"abcdefghi"], np.zeros((9, 3), np.uint8), 255)
        print("written")
    except FungiSegError as error:
        print(error)
"""


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_full_disk(tmp_path: Path, suffix: str) -> None:
    """As far as a limit of the size of files is one: reported, and nothing is left."""
    path = tmp_path / f"mask{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert all(line.startswith(f"{path}: can't be written (") for line in told)
    assert [*tmp_path.iterdir()] == []
