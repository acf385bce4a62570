"""Masks as Cloud Optimized GeoTIFF, at the place of their image."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fungi_seg.errors import MissingExtra
from fungi_seg.rasters.mask_source import TILE, MaskSource
from fungi_seg.rasters.mask_tiff import check_whole
from fungi_seg.rasters.raster import Window

CACHE = 64  # megabytes of blocks that GDAL holds
SIDECAR = ".aux.xml"  # beside a file: what its format can't hold


def write_cog(path: Path, mask: MaskSource) -> None:
    """With CRS, transform, nodata and colours; the names of classes stand in GDAL's file beside it.

    Beside `path`, the mask is written as a plain GeoTIFF first, for a COG begins with its smallest copy.
    """
    try:
        import rasterio
        from rasterio import shutil as copying
    except ImportError as error:
        raise MissingExtra("geo", error) from error

    first = path.with_name(f"first-{path.name}")
    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # nor is the image
        try:
            with rasterio.open(first, "w", **_profile(mask)) as opened:
                for top in range(0, mask.size[0], TILE):
                    band = mask.part(1, Window(top, 0, TILE, mask.size[1]))
                    opened.write(band, 1, window=((top, top + len(band)), (0, mask.size[1])))
                opened.write_colormap(1, {value: (*rgb, 255) for value, rgb in enumerate(mask.colours().tolist())})
            check_whole(first)
            copying.copy(
                first,
                path,
                driver="COG",
                compress="deflate",
                blocksize=TILE,
                overview_resampling="nearest",
                bigtiff="IF_SAFER",
            )
        except rasterio.errors.RasterioError as error:
            raise OSError(str(error)) from error
    first.unlink()
    check_whole(path)
    names = ElementTree.Element("PAMDataset")
    of_band = ElementTree.SubElement(ElementTree.SubElement(names, "PAMRasterBand", band="1"), "CategoryNames")
    for name in mask.classes:
        ElementTree.SubElement(of_band, "Category").text = name
    ElementTree.ElementTree(names).write(path.with_name(path.name + SIDECAR), encoding="utf-8")


def _profile(mask: MaskSource) -> dict[str, Any]:
    from rasterio import Affine

    geo = mask.info.geo
    return {
        "driver": "GTiff",
        "height": mask.size[0],
        "width": mask.size[1],
        "count": 1,
        "dtype": mask.dtype.name,
        "nodata": mask.void,
        "crs": geo.crs or None if geo else None,
        "transform": Affine(*geo.transform) if geo else None,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "compress": "lzw",
        "bigtiff": "IF_SAFER",
    }
