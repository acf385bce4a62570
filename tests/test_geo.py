"""Polygons over rasters: which belong to which, in which system, of which class; and what can be wrong with them."""

from __future__ import annotations

import builtins
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.features import rasterize
from shapely.affinity import affine_transform
from shapely.geometry import LineString, Point, Polygon, box, mapping
from tifffile import imwrite

from fungi_seg import DataConfig, Dataset, InputConfig, open_dataset
from fungi_seg.datasets import guess
from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.rasters import Window

HEIGHT, WIDTH = 60, 80
NORTH_UP = (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_500_000.0)
ROTATED = (0.4, 0.3, 500_000.0, 0.3, -0.4, 5_500_000.0)
Labelled = tuple[str, Any]  # a class, and a shape in pixels


def raster(
    path: Path, transform: Sequence[float] | None = NORTH_UP, code: int | None = 32633, size: Any = (HEIGHT, WIDTH)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (3, *size)).astype(np.uint8)
    place = {"crs": f"EPSG:{code}" if code else None}
    if transform:
        place["transform"] = rasterio.Affine(*transform)
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    with rasterio.open(path, "w", "GTiff", size[1], size[0], 3, dtype="uint8", photometric="RGB", **place) as opened:
        opened.write(noise)
    return path


def on_earth(shape: Any, transform: Sequence[float] = NORTH_UP) -> Any:
    a, b, c, d, e, f = transform
    return affine_transform(shape, (a, b, d, e, c, f))


def frame(
    labelled: Sequence[Labelled], name: str = "class", transform: Sequence[float] = NORTH_UP, code: Any = 32633
) -> Any:
    shapes = [on_earth(shape, transform) for _, shape in labelled]
    return geopandas.GeoDataFrame({name: [label for label, _ in labelled]}, geometry=shapes, crs=code)


def vectors(path: Path, *labelled: Labelled, **more: Any) -> Path:
    """A GeoPackage or GeoJSON as GDAL writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame(labelled, **more).to_file(path)
    return path


def qupath(path: Path, *labelled: tuple[Any, Any]) -> Path:
    features = []
    for label, shape in labelled:
        told: dict[str, Any] = {"objectType": "annotation"}
        if label is not None:
            told["classification"] = {"name": label, "color": [200, 0, 0]}
        features.append({"type": "Feature", "id": "x", "geometry": mapping(shape), "properties": told})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), "utf-8")
    return path


def opened(root: Path, skip_bad: bool = False, **settings: Any) -> Dataset:
    return open_dataset(DataConfig("geo", str(root), **settings), skip_bad)


def message(root: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(root, **settings)
    return str(error.value)


def expected(dataset: Dataset, *labelled: Labelled, size: Any = (HEIGHT, WIDTH), rest: int = -1) -> np.ndarray:
    drawn = [(shape, dataset.classes.index(label)) for label, shape in labelled]
    return np.asarray(rasterize(drawn, size, fill=rest, dtype="int16"))


FIELD, HOUSE = ("field", box(5, 10, 60, 50)), ("house", Polygon([(20.1, 20.2), (41.3, 23.4), (36.2, 44.1)]))


# Which polygons, and where


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED])
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_polygons_beside_a_raster(tmp_path: Path, transform: Any, suffix: str) -> None:
    raster(tmp_path / "sub" / "x.tif", transform)
    vectors(tmp_path / "sub" / f"x{suffix}", FIELD, HOUSE, transform=transform)
    found = opened(tmp_path)
    assert (found.classes, found.problems) == (("field", "house"), ())
    assert [item.id for item in found.items] == ["sub/x"]
    assert found[0].mask.dtype == np.int16
    np.testing.assert_array_equal(found[0].mask, expected(found, FIELD, HOUSE))
    share = 100 * (found[0].mask >= 0).mean()
    assert found.remarks == (
        f"polygons cover {share:.1f} % of the pixels of 1 rasters; what lies in none is void, and isn't learnt from",
    )


def test_later_polygons_lie_on_top(tmp_path: Path) -> None:
    """As gdal_rasterize has it, also where the later one is larger."""
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", HOUSE, FIELD)
    found = opened(tmp_path)
    assert not (found[0].mask == found.classes.index("house")).any()


def test_one_file_of_all_rasters(tmp_path: Path) -> None:
    right = (0.5, 0.0, 500_000.0 + WIDTH / 2, 0.0, -0.5, 5_500_000.0)
    beyond = (0.5, 0.0, 600_000.0, 0.0, -0.5, 5_500_000.0)
    for name, transform in (("left", NORTH_UP), ("right", right), ("beyond", beyond)):
        raster(tmp_path / "tiles" / f"{name}.tif", transform)
    across = ("field", box(60, 10, 100, 30))
    vectors(tmp_path / "parcels.gpkg", across)
    found = opened(tmp_path)
    assert [item.id for item in found.items] == ["tiles/left", "tiles/right"]
    np.testing.assert_array_equal(found[0].mask, expected(found, across))
    np.testing.assert_array_equal(found[1].mask, expected(found, ("field", box(-20, 10, 20, 30))))
    assert found.remarks[0].startswith("1 rasters without a polygon are left out:")
    assert (
        "beyond.tif: they reach from x 500030 to 500050, y 5499985 to 5499995, the raster from x 600000 to 600040"
        in (found.remarks[0])
    )


@pytest.mark.parametrize("name", ["labels.gpkg", "sub/labels.geojson"])
def test_named_file(tmp_path: Path, name: str) -> None:
    raster(tmp_path / "a.tif")
    raster(tmp_path / "b.tif")
    vectors(tmp_path / "a.gpkg", FIELD)
    vectors(tmp_path / name, HOUSE)
    assert opened(tmp_path, annotations=name).classes == ("house",)


def test_named_folder(tmp_path: Path) -> None:
    raster(tmp_path / "data" / "sub" / "a.tif")
    vectors(tmp_path / "labels" / "a.gpkg", FIELD)
    assert len(opened(tmp_path / "data", annotations=str(tmp_path / "labels"))) == 1


def test_splits(tmp_path: Path) -> None:
    """Classes are those of all splits, so that their numbers agree."""
    for split, one in (("train", FIELD), ("val", HOUSE)):
        raster(tmp_path / split / "x.tif")
        vectors(tmp_path / split / "x.gpkg", one)
    found = opened(tmp_path, split="val")
    assert (found.classes, [item.id for item in found.items]) == (("field", "house"), ["x"])
    assert "data.split is 'test', but there is no folder" in message(tmp_path, split="test")


def test_a_file_of_each_split(tmp_path: Path) -> None:
    for split, one in (("train", FIELD), ("val", HOUSE)):
        raster(tmp_path / split / "x.tif")
        vectors(tmp_path / split / "labels.gpkg", one)
    assert opened(tmp_path, split="val").classes == ("house",)


def test_file_list(tmp_path: Path) -> None:
    for name in "ab":
        raster(tmp_path / f"{name}.tif")
    vectors(tmp_path / "all.gpkg", FIELD)
    (tmp_path / "ids.txt").write_text("b\n")
    assert [item.id for item in opened(tmp_path, file_list=str(tmp_path / "ids.txt")).items] == ["b"]
    (tmp_path / "ids.txt").write_text("c\n")
    assert "there is no raster of that name" in message(tmp_path, file_list=str(tmp_path / "ids.txt"))


def test_windows_are_parts_of_the_whole(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif", ROTATED)
    vectors(tmp_path / "x.gpkg", FIELD, HOUSE, ("pond", Point(70, 50).buffer(7)), transform=ROTATED)
    found = opened(tmp_path, merge=("land=field,house",))
    whole = found[0].mask
    assert found.size_of(0) == (HEIGHT, WIDTH)
    assert set(np.unique(whole)) == {-1, 0, 1}
    for window in (Window(0, 0, 60, 80), Window(13, 31, 20, 17), Window(50, 70, 10, 10), Window(0, 70, 5, 10)):
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        part = found.mask_window(0, window)
        assert part.dtype == np.int16
        np.testing.assert_array_equal(part, whole[rows, columns])


def test_a_raster_that_was_replaced(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", FIELD)
    found = opened(tmp_path)
    raster(tmp_path / "x.tif", size=(30, 30))
    with pytest.raises(DataError, match=r"is 30×30 .* but was 60×80 when its polygons were placed; open the data set"):
        found[0]


# Coordinate reference systems


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
@pytest.mark.parametrize("code", [4326, 3857])
def test_other_systems_are_reprojected(tmp_path: Path, suffix: str, code: int) -> None:
    """Blocks whose edges lie well between middles of pixels, so that rounding changes nothing."""
    raster(tmp_path / "x.tif")
    block = ("field", box(10, 10, 40, 30))
    frame([block]).to_crs(code).to_file(tmp_path / f"x{suffix}")
    found = opened(tmp_path)
    np.testing.assert_array_equal(found[0].mask, expected(found, block))
    name = {4326: "WGS 84", 3857: "WGS 84 / Pseudo-Mercator"}[code]
    told = found.remarks[0]
    assert told.startswith(f"{tmp_path / 'x'}{suffix}: reprojected from {name}")
    assert "to WGS 84 / UTM zone 33N, as of" in told


def test_geojson_without_crs_is_in_degrees(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif", (1e-5, 0, 15.0, 0, -1e-5, 50.0), 4326)
    vectors(tmp_path / "x.geojson", FIELD, transform=(1e-5, 0, 15.0, 0, -1e-5, 50.0), code=4326)
    told = json.loads((tmp_path / "x.geojson").read_text())
    told.pop("crs", None)
    (tmp_path / "x.geojson").write_text(json.dumps(told))
    found = opened(tmp_path)
    np.testing.assert_array_equal(found[0].mask, expected(found, FIELD))
    assert len(found.remarks) == 1  # nothing was reprojected


def test_geojson_without_crs_that_is_not_in_degrees(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    path = vectors(tmp_path / "x.geojson", FIELD)
    told = json.loads(path.read_text())
    del told["crs"]
    path.write_text(json.dumps(told))
    assert "names no coordinate reference system (crs), so that it would be in degrees, but its coordinates" in message(
        tmp_path
    )


@pytest.mark.parametrize("of_raster", [True, False])
def test_a_system_missing_on_one_side(tmp_path: Path, of_raster: bool) -> None:
    raster(tmp_path / "x.tif", code=None if of_raster else 32633)
    vectors(tmp_path / "x.gpkg", FIELD, code=32633 if of_raster else None)
    lacking, way_out = ("x.tif", "gdal_edit.py -a_srs") if of_raster else ("x.gpkg", "ogr2ogr -a_srs")
    told = message(tmp_path)
    assert f"{tmp_path / lacking}: names no coordinate reference system, but" in told
    assert way_out in told


def test_a_system_missing_on_both_sides(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif", code=None)
    vectors(tmp_path / "x.gpkg", FIELD, code=None)
    found = opened(tmp_path)
    np.testing.assert_array_equal(found[0].mask, expected(found, FIELD))
    assert "neither it nor" in found.remarks[0]


def test_polygons_with_a_place_on_a_raster_without(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif", None, None)
    vectors(tmp_path / "x.gpkg", FIELD)
    assert "x.tif: has no place on the earth, but the polygons of" in message(tmp_path)


def test_a_system_that_is_not_known(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    path = vectors(tmp_path / "x.geojson", FIELD)
    path.write_text(path.read_text().replace("EPSG::32633", "EPSG::99"))
    assert "its coordinate reference system 'urn:ogc:def:crs:EPSG::99' isn't known" in message(tmp_path)


def test_coordinates_that_no_projection_has(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif", code=3857)
    vectors(tmp_path / "x.gpkg", ("field", box(0, 80, 10, 95)), transform=(1, 0, 0, 0, 1, 0), code=4326)
    assert "can't be brought from WGS 84 to WGS 84 / Pseudo-Mercator: some coordinates have no place" in message(
        tmp_path
    )


def test_polygons_beside_their_raster(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", ("field", box(100, 10, 120, 30)))
    told = message(tmp_path)
    assert "x.gpkg: no polygon lies on" in told
    assert (
        "from x 500050 to 500060, y 5499985 to 5499995, the raster from x 500000 to 500040, y 5499970 to 55000" in told
    )


def test_polygons_beside_all_rasters(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif")
    raster(tmp_path / "b.tif")
    vectors(tmp_path / "all.gpkg", ("field", box(100, 10, 120, 30)))
    told = message(tmp_path)
    assert "the polygons of" in told
    assert "lie on none of 2 rasters" in told
    assert "they reach from x 500050" in told


def test_a_transform_on_a_line(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif", (1, 1, 500_000.0, 1, 1, 5_500_000.0))
    vectors(tmp_path / "x.gpkg", FIELD)
    assert "puts all pixels on a line; georeference it again" in message(tmp_path)


# Classes


@pytest.mark.parametrize(
    ("name", "guessed"), [("class", False), ("Class", True), ("label", True), ("name", True), ("NAME", True)]
)
def test_property_that_names_the_class(tmp_path: Path, name: str, guessed: bool) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.geojson", FIELD, name=name)
    found = opened(tmp_path)
    assert found.classes == ("field",)
    told = f"{tmp_path / 'x.geojson'}: the class of a polygon is taken from its property {name!r}"
    assert (told in found.remarks) == guessed


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_several_properties_that_may_name_it(tmp_path: Path, suffix: str) -> None:
    raster(tmp_path / "x.tif")
    held = frame([FIELD], name="label")
    held["name"], held["crop"] = "west", 3
    held.to_file(tmp_path / f"x{suffix}")
    told = message(tmp_path)
    assert f"x{suffix}: nothing says which property of a polygon names its class; 'label' and 'name' may both" in told
    assert "--data.property" in told
    assert opened(tmp_path, property="name").classes == ("west",)
    assert opened(tmp_path, property="crop").classes == ("3",)
    wrong = message(tmp_path, property="crops")
    assert "data.property is 'crops', but no feature has it; did you mean 'crop'?; there are 'label', 'name'" in wrong


def test_no_property_that_may_name_it(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", FIELD, name="crop")
    assert "names its class; there are 'crop': name it with --data.property" in message(tmp_path)


def test_within_a_property(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif", None, None)
    features = [{"type": "Feature", "geometry": mapping(FIELD[1]), "properties": {"what": {"kind": "field"}}}]
    (tmp_path / "x.geojson").write_text(json.dumps(features))
    assert opened(tmp_path, property="what.kind").classes == ("field",)


def test_numbers_are_names(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    held = frame([FIELD, HOUSE])
    held["class"] = [2.0, None]
    held.to_file(tmp_path / "x.gpkg")
    found = opened(tmp_path)
    assert found.classes == ("2",)
    assert "x.gpkg: 1 of 2 features without class, left out" in found.remarks[0]


def test_void(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", FIELD, ("void", HOUSE[1]))
    found = opened(tmp_path)
    assert found.classes == ("field",)
    assert (found[0].mask[25:30, 26:30] == -1).all()


def test_rest_is_background_where_asked_for(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", HOUSE)
    found = opened(tmp_path)
    assert "all are 'house': with --data.classes background,house the rest is background" in found.remarks[0]
    found = opened(tmp_path, classes=("background", "house"))
    assert found.classes == ("background", "house")
    np.testing.assert_array_equal(found[0].mask, expected(found, HOUSE, rest=0))
    assert "what lies in none is background, as data.classes names it and no polygon is of it" in found.remarks[0]


def test_rest_is_void_where_background_is_drawn(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", ("background", FIELD[1]), HOUSE)
    for settings in ({}, {"classes": ("background", "house")}):
        found = opened(tmp_path, **settings)
        assert found.classes == ("background", "house")
        np.testing.assert_array_equal(found[0].mask, expected(found, ("background", FIELD[1]), HOUSE))


def test_listed_classes(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", HOUSE)
    (tmp_path / "classes.txt").write_text("pond\nhouse\n")
    assert opened(tmp_path).classes == ("pond", "house")
    (tmp_path / "classes.txt").write_text("pond\nhouses\n")
    assert "doesn't list 'house', which polygons are of; did you mean 'houses'?" in message(tmp_path)


# QuPath


def test_qupath_over_a_picture(tmp_path: Path) -> None:
    """Its files have no order, so the smaller one lies on top; Ignore* is void; what has no class is left out."""
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "x.png")
    ignored, unclassified = ("Ignore*", box(30, 30, 33, 33)), (None, box(0, 0, 80, 60))
    qupath(tmp_path / "x.geojson", HOUSE, ignored, FIELD, unclassified)
    found = opened(tmp_path)
    wanted = expected(found, FIELD, HOUSE)
    wanted[30:33, 30:33] = -1
    np.testing.assert_array_equal(found[0].mask, wanted)
    assert found.remarks[0] == f"{tmp_path / 'x.geojson'}: 1 of 4 features without classification, left out"


def test_qupath_over_a_geotiff_counts_pixels(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    qupath(tmp_path / "x.geojson", FIELD)
    found = opened(tmp_path)
    np.testing.assert_array_equal(found[0].mask, expected(found, FIELD))


def test_ome_in_the_name(tmp_path: Path) -> None:
    raster(tmp_path / "x.ome.tif", None, None)
    qupath(tmp_path / "x.geojson", FIELD)
    assert [item.id for item in opened(tmp_path).items] == ["x.ome"]


def stack(path: Path) -> Path:
    """Three planes along z."""
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    imwrite(path, np.zeros((3, HEIGHT, WIDTH), np.uint8), photometric="minisblack", metadata=metadata)
    return path


def on_planes(path: Path, *labelled: tuple[str, Any, int]) -> Path:
    """As QuPath writes it: nothing is said of the first plane."""
    told = json.loads(qupath(path, *((label, shape) for label, shape, _ in labelled)).read_text())
    for feature, (_, _, z) in zip(told["features"], labelled, strict=True):
        if z:
            feature["geometry"]["plane"] = {"c": -1, "z": z, "t": 0}
    path.write_text(json.dumps(told))
    return path


def test_planes_of_a_stack(tmp_path: Path) -> None:
    stack(tmp_path / "x.ome.tif")
    on_planes(tmp_path / "x.ome.geojson", (*FIELD, 0), (*HOUSE, 2))
    found = opened(tmp_path)
    assert [item.id for item in found.items] == ["x.ome[z=0]", "x.ome[z=2]"]
    np.testing.assert_array_equal(found[0].mask, expected(found, FIELD))
    np.testing.assert_array_equal(found[1].mask, expected(found, HOUSE))
    assert found.remarks[0].startswith("1 rasters without a polygon are left out:\n")
    assert "x.ome.tif[z=1]: no polygon is of this plane" in found.remarks[0]


def test_a_file_for_a_plane(tmp_path: Path) -> None:
    stack(tmp_path / "x.tif")
    qupath(tmp_path / "x[z=1].geojson", FIELD)
    found = opened(tmp_path, skip_bad=True)
    assert [item.id for item in found.items] == ["x[z=1]"]
    np.testing.assert_array_equal(found[0].mask, expected(found, FIELD))
    assert "x.tif[z=0]: has no polygons: there is no x[z=0].geojson or x[z=0].gpkg" in found.problems[0]


def test_planes_put_together(tmp_path: Path) -> None:
    stack(tmp_path / "x.tif")
    on_planes(tmp_path / "x.geojson", (*FIELD, 0), (*HOUSE, 2))
    found = open_dataset(DataConfig("geo", str(tmp_path)), input=InputConfig(projection="max"))
    assert [item.id for item in found.items] == ["x"]
    np.testing.assert_array_equal(
        found.mask_window(0, Window(0, 0, HEIGHT, WIDTH), (HEIGHT, WIDTH)), expected(found, FIELD, HOUSE)
    )


def test_planes_of_which_nothing_is_said(tmp_path: Path) -> None:
    stack(tmp_path / "x.tif")
    qupath(tmp_path / "x.geojson", FIELD)
    told = message(tmp_path)
    assert "x.geojson: nothing says on which plane of" in told
    assert "name a file after each plane that has some, as x[z=0].geojson, or put planes along z together" in told


def test_qupath_over_ome_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=np.ones((HEIGHT, WIDTH), np.uint8))
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    scale = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [scale]}]}
    qupath(tmp_path / "x.geojson", FIELD)
    found = opened(tmp_path)
    np.testing.assert_array_equal(found[0].mask, expected(found, FIELD))


def test_our_own_polygons(tmp_path: Path) -> None:
    """What is written for QuPath is read again as it was."""
    from test_mask_files import a_mask, info_of, reader_of

    from fungi_seg.results import write_polygons

    mask = a_mask((90, 70))
    Image.fromarray(np.zeros((90, 70, 3), np.uint8)).save(tmp_path / "x.png")
    palette = np.zeros((3, 3), np.uint8)
    write_polygons(tmp_path / "x.geojson", reader_of(mask), info_of("slide", (90, 70)), ("a", "b", "c"), palette, 255)
    np.testing.assert_array_equal(opened(tmp_path)[0].mask, np.where(mask == 255, -1, mask.astype(int)))


# What can be wrong


def test_no_vector_file(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    assert "holds no .geojson or .gpkg, which would hold the polygons; put one there" in message(tmp_path)


def test_several_vector_files(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    for name in "ab":
        vectors(tmp_path / f"{name}.gpkg", FIELD)
    told = message(tmp_path)
    assert "holds 2 vector files, none of which has a raster's name:" in told
    assert "a.gpkg" in told
    assert told.endswith("Name one with --data.annotations")


def test_rasters_without_a_file_and_files_without_a_raster(tmp_path: Path) -> None:
    for name in "ab":
        raster(tmp_path / f"{name}.tif")
    vectors(tmp_path / "a.gpkg", FIELD)
    vectors(tmp_path / "c.gpkg", HOUSE)
    assert "b.tif: has no polygons: there is no b.geojson or b.gpkg for it, as there is for others" in message(tmp_path)
    found = opened(tmp_path, skip_bad=True)
    assert (found.classes, len(found), len(found.problems)) == (("field",), 1, 1)
    assert found.remarks[0].startswith("1 vector files have no raster's name, and are left out:")


def test_two_files_for_a_raster(tmp_path: Path) -> None:
    """Told where it matters; files of the same name elsewhere don't."""
    for name in "ab":
        raster(tmp_path / "train" / f"{name}.tif")
        vectors(tmp_path / "train" / f"{name}.gpkg", FIELD)
    for suffix in ("gpkg", "geojson"):
        vectors(tmp_path / "results" / "polygons" / f"a.{suffix}", HOUSE)
    assert opened(tmp_path, split="train").classes == ("field",)
    vectors(tmp_path / "train" / "b.geojson", FIELD)
    told = message(tmp_path, split="train")
    assert "b.tif: b.geojson and b.gpkg may both hold its polygons; remove one, or name a folder" in told
    assert [item.id for item in opened(tmp_path, skip_bad=True, split="train").items] == ["a"]


def test_shapes_without_area(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    path = vectors(tmp_path / "x.geojson", FIELD, ("field", LineString([(0, 0), (9, 9)])), ("field", Point(3, 3)))
    told = json.loads(path.read_text())
    told["features"].append({"type": "Feature", "geometry": None, "properties": {"class": "field"}})
    path.write_text(json.dumps(told))
    assert [line.split(": ", 1)[1] for line in opened(tmp_path).remarks[:3]] == [
        "1 of 4 features of type LineString, left out",
        "1 of 4 features of type Point, left out",
        "1 of 4 features without a polygon, left out",
    ]
    vectors(path, ("field", Point(3, 3)))
    assert "holds no polygon of a class" in message(tmp_path)


def test_outlines_that_cross_themselves(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    bow = ("field", Polygon([(10, 10), (50, 40), (50, 10), (10, 40)]))
    vectors(tmp_path / "x.gpkg", bow)
    found = opened(tmp_path)
    assert found.remarks[0] == f"{tmp_path / 'x.gpkg'}: 1 outlines cross themselves"
    np.testing.assert_array_equal(found[0].mask, expected(found, bow))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "can't be read as JSON"),
        ("[3]", "is no GeoJSON of features"),
        ('{"type": "FeatureCollection", "features": []}', "holds no features"),
        ('[{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": 3}}]', "feature 1: its geometry can't"),
        ('[{"type": "Feature", "geometry": null, "properties": [1]}]', "feature 1: its properties are [1]"),
        ('{"features": [{"type": "Feature", "geometry": null}], "crs": 3}', "its crs is 3; it must name a coordinate"),
    ],
)
def test_files_that_are_no_geojson(tmp_path: Path, text: str, why: str) -> None:
    raster(tmp_path / "x.tif")
    (tmp_path / "x.geojson").write_text(text)
    assert f"x.geojson: {why}" in message(tmp_path)


def test_a_class_of_two_lines(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    vectors(tmp_path / "x.gpkg", FIELD, ("a\nb", FIELD[1]))
    assert "x.gpkg: feature 2: the label is 'a\\nb'; it must be a text of one line" in message(tmp_path)


def test_a_geopackage_that_is_none(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    (tmp_path / "x.gpkg").write_text("none")
    assert "x.gpkg: can't be read as a GeoPackage" in message(tmp_path)


def test_layers_of_a_geopackage(tmp_path: Path) -> None:
    raster(tmp_path / "x.tif")
    frame([FIELD]).to_file(tmp_path / "x.gpkg", layer="one")
    frame([("field", Point(3, 3))]).to_file(tmp_path / "x.gpkg", layer="points")
    assert len(opened(tmp_path)) == 1
    frame([("field", Point(3, 3))]).to_file(tmp_path / "points.gpkg")
    assert "points.gpkg: no layer holds polygons; draw some" in message(tmp_path, annotations="points.gpkg")
    frame([HOUSE]).to_file(tmp_path / "x.gpkg", layer="two")
    assert "2 layers hold polygons: ['one', 'two']; save the one to use as a file of its own" in message(tmp_path)


def test_a_damaged_raster(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif")
    path = raster(tmp_path / "b.tif")
    path.write_bytes(path.read_bytes()[:200])
    vectors(tmp_path / "all.gpkg", FIELD)
    assert "b.tif" in message(tmp_path)
    assert len(opened(tmp_path, skip_bad=True)) == 1


def test_settings_of_other_layouts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.property is 'a'; with layout voc it isn't read, only with geo"):
        open_dataset(DataConfig("voc", str(tmp_path), property="a"))
    assert "data.void is 3; with layout geo it isn't read" in message(tmp_path, void=3)


@pytest.mark.parametrize(
    ("suffix", "package"),
    [(".gpkg", "pyogrio"), (".geojson", "pyproj"), (".gpkg", "rasterio"), (".geojson", "rasterio")],
)
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str) -> None:
    """Degrees aren't taken for pixels where nothing tells that the raster has a place."""
    raster(tmp_path / "x.tif")
    vectors(tmp_path / f"x{suffix}", FIELD)
    if package == "rasterio" and suffix == ".geojson":
        told = json.loads((tmp_path / "x.geojson").read_text())
        told.pop("crs", None)
        (tmp_path / "x.geojson").write_text(json.dumps(told))
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r'pip install "fungi-seg\[geo\]"'):
        opened(tmp_path)


def test_guessed(tmp_path: Path) -> None:
    raster(tmp_path / "train" / "x.tif")
    vectors(tmp_path / "train" / "x.gpkg", FIELD)
    (found, *_) = guess(tmp_path)
    assert (found.config, found.split) == (DataConfig("geo", str(tmp_path), "train"), "train")
    assert found.why == "train/x.gpkg may hold polygons over train/x.tif"
