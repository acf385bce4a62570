"""Results of files that aren't photos: masks of their own kind, polygons, and pixels that hold nothing."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import ome_types
import pytest
import rasterio
from PIL import Image
from rasterio.features import rasterize
from test_cli import Run, run  # noqa: F401
from test_mask_files import ROTATED
from tifffile import TiffFile, TiffWriter, imwrite
from trees import scene

from fungi_seg import DataConfig, DataError, MemoryBank, RunConfig, Segmenter, open_dataset
from fungi_seg.errors import FungiSegError, MissingExtra
from fungi_seg.images import read_image
from fungi_seg.rasters import Window
from fungi_seg.results import ResultsConfig, find_corrections, find_images, segment_to_folder
from fungi_seg.results.folder import RECORD
from fungi_seg.segmentation import MaskConfig

SHAPE = scene(300)[0].shape[:2]


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank) -> Segmenter:
    return Segmenter(bank)


def geotiff(path: Path, seed: int = 300, code: int | None = 32633, empty: bool = False) -> Path:
    """A scene on the earth; if `empty`, its lower right corner holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = np.moveaxis(scene(seed)[0], -1, 0).clip(1, 255)
    if empty:
        bands[:, 30:, 40:] = 0
    height, width = bands.shape[1:]
    place = {"crs": f"EPSG:{code}", "transform": rasterio.Affine(*ROTATED)}
    kind = {"dtype": "uint8", "photometric": "RGB", "nodata": 0 if empty else None}
    with rasterio.open(path, "w", "GTiff", width, height, 3, **place, **kind) as opened:
        opened.write(bands)
    return path


def photo(path: Path, seed: int = 300) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(seed)[0].clip(1, 255)).save(path)
    return path


def ome(path: Path) -> Path:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5}
    imwrite(path, scene(300)[0].clip(1, 255), photometric="rgb", metadata=metadata | {"PhysicalSizeYUnit": "µm"})
    return path


def ome_zarr(path: Path, form: int) -> Path:
    group = pytest.importorskip("zarr").open_group(path, mode="w", zarr_format=form)
    samples = np.moveaxis(scene(300)[0].clip(1, 255), -1, 0)
    group.create_array(
        "0",
        data=samples,
        chunks=(3, 32, 32),
        chunk_key_encoding={"name": "v2", "separator": "/"} if form == 2 else None,
    )
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    scale = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}
    channels = [{"label": c, "color": c} for c in ("FF0000", "00FF00", "0000FF")]
    told: dict[str, Any] = {"multiscales": [{"axes": axes, "datasets": [scale]}], "omero": {"channels": channels}}
    if form == 2:
        told["multiscales"][0]["version"] = "0.4"
        group.attrs.update(told)
    else:
        group.attrs["ome"] = told | {"version": "0.5"}
    return path


def segmented(segmenter: Segmenter, path: Path, out: Path, **config: Any) -> Path:
    segment_to_folder(segmenter, {"x": path}, out, ResultsConfig(report=False, **config))
    return out


def recorded(out: Path) -> list[str]:
    return [str(file) for file in json.loads((out / RECORD).read_text().splitlines()[1])["files"]]


@pytest.fixture(scope="module")
def plain(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The mask of the same scene as a photo."""
    folder = tmp_path_factory.mktemp("plain")
    out = segmented(segmenter, photo(folder / "x.png"), folder / "out")
    assert recorded(out) == ["masks/x.png", "overlays/x.jpg"]
    return np.asarray(Image.open(out / "masks" / "x.png"))


def test_photos_are_written_as_ever(segmenter: Segmenter, tmp_path: Path, plain: np.ndarray) -> None:
    """Grey PNG, byte for byte what `png` is; so is a TIFF without a place."""
    imwrite(tmp_path / "x.tif", scene(300)[0].clip(1, 255), photometric="rgb")
    for path in (photo(tmp_path / "x.png"), tmp_path / "x.tif"):
        auto = segmented(segmenter, path, tmp_path / f"auto{path.suffix}")
        png = segmented(segmenter, path, tmp_path / f"png{path.suffix}", masks=MaskConfig("png"))
        assert [(auto / file).read_bytes() for file in recorded(auto)] == [
            (png / file).read_bytes() for file in recorded(png)
        ]
        np.testing.assert_array_equal(Image.open(auto / "masks" / "x.png"), plain)


def test_geotiff(segmenter: Segmenter, tmp_path: Path, plain: np.ndarray) -> None:
    out = segmented(segmenter, geotiff(tmp_path / "x.tif"), tmp_path / "out")
    assert recorded(out) == ["masks/x.tif", "masks/x.tif.aux.xml", "overlays/x.jpg"]
    with rasterio.open(out / "masks" / "x.tif") as found:
        np.testing.assert_array_equal(found.read(1), plain)
        assert (found.crs.to_epsg(), found.transform) == (32633, rasterio.Affine(*ROTATED))
        assert list(found.colormap(1)[1][:3]) == segmenter.palette[1].tolist()


def test_ome_tiff(segmenter: Segmenter, tmp_path: Path, plain: np.ndarray) -> None:
    out = segmented(segmenter, ome(tmp_path / "x.ome.tif"), tmp_path / "out")
    assert recorded(out)[0] == "masks/x.tif"
    with TiffFile(out / "masks" / "x.tif") as found:
        np.testing.assert_array_equal(found.asarray(), plain)
    assert ome_types.from_tiff(out / "masks" / "x.tif").images[0].pixels.physical_size_x == 0.5


@pytest.mark.parametrize("form", [2, 3])
def test_ome_zarr(segmenter: Segmenter, tmp_path: Path, form: int, plain: np.ndarray) -> None:
    """As an OME-Zarr of the same format."""
    out = segmented(segmenter, ome_zarr(tmp_path / "x.zarr", form), tmp_path / "out")
    group = pytest.importorskip("zarr").open_group(out / "masks" / "x.zarr", mode="r")
    assert group.metadata.zarr_format == form
    np.testing.assert_array_equal(group["0"][:], plain)
    assert all((out / file).is_file() for file in recorded(out))


def test_lost_files_of_a_mask_are_made_again(segmenter: Segmenter, tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", 3)
    out = segmented(segmenter, path, tmp_path / "out")
    lost = next(out / file for file in recorded(out) if "/c/" in file)
    before = lost.read_bytes()
    lost.unlink()
    segmented(segmenter, path, out)
    assert lost.read_bytes() == before


@pytest.mark.parametrize("form", ["png", "tiff", "palette"])
def test_formats_that_are_asked_for(
    segmenter: Segmenter, tmp_path: Path, form: str, plain: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    path = geotiff(tmp_path / "x.tif")
    out = segmented(segmenter, path, tmp_path / "out", masks=MaskConfig(form))
    name = recorded(out)[0]
    assert name == f"masks/x.{'tif' if form == 'tiff' else 'png'}"
    np.testing.assert_array_equal(Image.open(out / name), plain)
    assert f"masks of 1 GeoTIFFs, such as {path}, are {form} as asked for, which keeps no place" in caplog.text


def test_pixels_that_hold_nothing_are_void(segmenter: Segmenter, tmp_path: Path, plain: np.ndarray) -> None:
    out = segmented(segmenter, geotiff(tmp_path / "x.tif", empty=True), tmp_path / "out", polygons=("geojson",))
    with rasterio.open(out / "masks" / "x.tif") as found:
        mask = found.read(1)
    there = np.ones(SHAPE, bool)
    there[30:, 40:] = False
    np.testing.assert_array_equal(mask == 255, ~there)
    record = json.loads((out / RECORD).read_text().splitlines()[1])
    assert record["unknown"] == (~there).sum()
    assert geopandas.read_file(out / "polygons" / "x.geojson").class_id.isin(range(3)).all()


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_polygons_of_a_geotiff(segmenter: Segmenter, tmp_path: Path, suffix: str) -> None:
    out = segmented(segmenter, geotiff(tmp_path / "x.tif"), tmp_path / "out", polygons=(suffix,))
    assert f"polygons/x.{suffix}" in recorded(out)
    found = geopandas.read_file(out / "polygons" / f"x.{suffix}")
    with rasterio.open(out / "masks" / "x.tif") as mask:
        drawn = zip(found.geometry, found.class_id, strict=True)
        again = rasterize(drawn, mask.shape, fill=255, transform=mask.transform, dtype="uint8")
        np.testing.assert_array_equal(again, mask.read(1))
        assert found.crs == mask.crs
    assert set(found["class"]) <= set(segmenter.bank.info.classes)


def test_polygons_of_a_photo(segmenter: Segmenter, tmp_path: Path, plain: np.ndarray) -> None:
    """In pixels, for QuPath."""
    out = segmented(segmenter, photo(tmp_path / "x.png"), tmp_path / "out", polygons=("geojson",))
    told = json.loads((out / "polygons" / "x.geojson").read_text())
    drawn = [(feature["geometry"], feature["properties"]["class_id"]) for feature in told["features"]]
    np.testing.assert_array_equal(rasterize(drawn, SHAPE, fill=255, dtype="uint8"), plain)
    assert {feature["properties"]["objectType"] for feature in told["features"]} == {"annotation"}


def test_geopackages_of_photos_are_refused_before_work(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = {"a": geotiff(tmp_path / "a.tif"), "b": photo(tmp_path / "b.png")}
    config = ResultsConfig(report=False, polygons=("gpkg",))
    with pytest.raises(DataError, match=r"b\.png: the image has no place on the earth, .*--polygons geojson writes"):
        segment_to_folder(segmenter, images, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    outcome = segment_to_folder(segmenter, images, tmp_path / "out", config, RunConfig(skip_bad=True))
    assert (outcome.segmented, len(outcome.skipped)) == (1, 1)
    assert sorted(p.name for p in (tmp_path / "out" / "masks").iterdir()) == ["a.tif", "a.tif.aux.xml"]


def test_damage_is_told_as_such(segmenter: Segmenter, tmp_path: Path) -> None:
    """And not as a place that isn't there."""
    path = geotiff(tmp_path / "x.tif")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"x\.tif: (is cut off|can't be read)"):
        segmented(segmenter, path, tmp_path / "out", polygons=("gpkg",))


def test_polygons_without_the_extra(segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pyogrio":
            raise ImportError("No module named 'pyogrio'", name="pyogrio")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r'pip install "fungi-seg\[geo\]"'):
        segmented(segmenter, photo(tmp_path / "x.png"), tmp_path / "out", polygons=("geojson",))
    assert not (tmp_path / "out").exists()


def test_kinds_of_polygons() -> None:
    with pytest.raises(FungiSegError, match="polygons is 'shp'; it must be one of gpkg, geojson"):
        ResultsConfig(polygons=("shp",))


def test_other_polygons_are_other_settings(segmenter: Segmenter, tmp_path: Path) -> None:
    path = geotiff(tmp_path / "x.tif")
    out = segmented(segmenter, path, tmp_path / "out")
    with pytest.raises(FungiSegError, match="of other settings"):
        segmented(segmenter, path, out, polygons=("gpkg",))


def test_a_geotiff_that_is_read_as_a_whole_only(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its mask is one of a photo, and it's told why."""
    path = tmp_path / "x.tif"
    imwrite(path, scene(300)[0][..., 0].astype(np.uint16) * 200, photometric="miniswhite")
    read_image(path)
    with caplog.at_level(logging.WARNING):
        out = segmented(segmenter, path, tmp_path / "out")
    assert recorded(out)[0] == "masks/x.png"
    assert "its mask keeps no place, size of pixels or missing pixels" in caplog.text


def test_command(run: Run, bank: MemoryBank, tmp_path: Path) -> None:  # noqa: F811
    path, out = geotiff(tmp_path / "in" / "x.tif"), tmp_path / "out"
    code, _, err = run("segment", path, "--bank", bank.path, "--out", out, "--polygons", '["gpkg","geojson"]')
    assert code == 0, err
    names = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert {"masks/x.tif", "polygons/x.gpkg", "polygons/x.geojson"} <= names


def slide(path: Path) -> Path:
    """Aperio's SVS: tiles, a thumbnail, a smaller copy, and the width of a pixel in the description."""
    pytest.importorskip("tiffslide")
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.tile(scene(300)[0], (3, 3, 1))
    told = f"Aperio Image Library v11\n{image.shape[1]}x{image.shape[0]} |AppMag = 20|MPP = 0.5"
    with TiffWriter(path) as writer:
        for pixels, tiles in ((image, (64, 64)), (image[::4, ::4], None), (image[::2, ::2], (64, 64))):
            writer.write(pixels, photometric="rgb", tile=tiles, description=told, metadata=None)
    return path


def test_slide(segmenter: Segmenter, tmp_path: Path) -> None:
    """OME-TIFF and QuPath's GeoJSON, which lie on the slide pixel by pixel; the latter can be learnt from."""
    path = slide(tmp_path / "in" / "x.svs")
    out = segmented(segmenter, path, tmp_path / "out", polygons=("geojson",))
    pixels = ome_types.from_tiff(out / "masks" / "x.tif").images[0].pixels
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value) == (0.5, "µm")
    with TiffFile(out / "masks" / "x.tif") as found:
        mask = found.asarray()
    told = json.loads((out / "polygons" / "x.geojson").read_text())
    drawn = [(feature["geometry"], feature["properties"]["class_id"]) for feature in told["features"]]
    np.testing.assert_array_equal(rasterize(drawn, mask.shape, fill=255, dtype="uint8"), mask)
    (tmp_path / "in" / "x.geojson").write_bytes((out / "polygons" / "x.geojson").read_bytes())
    data = open_dataset(DataConfig("geo", str(tmp_path / "in")))
    names = [segmenter.bank.info.classes.index(name) for name in data.classes]
    np.testing.assert_array_equal(np.array(names)[data[0].mask], mask)
    window = Window(30, 60, 50, 40)
    np.testing.assert_array_equal(np.array(names)[data.mask_window(0, window)], mask[30:80, 60:100])


def test_a_slide_and_its_copy_have_masks_of_their_own(run: Run, bank: MemoryBank, tmp_path: Path) -> None:  # noqa: F811
    """Whose names are those of the images, so that they are found as predictions and as corrections."""
    slide(tmp_path / "in" / "x.svs")
    ome(tmp_path / "in" / "x.ome.tif")
    out = tmp_path / "out"
    code, _, err = run("segment", tmp_path / "in", "--bank", bank.path, "--out", out)
    assert code == 0, err
    assert sorted(file.name for file in (out / "masks").iterdir()) == ["x.ome.tif", "x.tif"]
    images = find_images([str(tmp_path / "in")])
    assert sorted(find_corrections(out / "masks", images, bank.info.classes)) == sorted(images)
