"""GeoTIFFs and COGs: samples as of any TIFF, their place on the earth by rasterio, with the extra `geo`."""

from __future__ import annotations

import logging
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.rasters.raster import GeoReference, Raster, RasterInfo, Window
from fungi_seg.rasters.reading import checked_window, damage_named, valid_samples
from fungi_seg.rasters.tiff import TiffRaster
from fungi_seg.rasters.tiff_metadata import NOT_SQUARE

GEO_TAGS = (34735, 33550, 33922, 34264)  # GeoKeyDirectory, ModelPixelScale, ModelTiepoint, ModelTransformation
METRE = "m"
DEGREE = "degree"

log = logging.getLogger(__name__)


class GeoRaster(TiffRaster):
    """A GeoTIFF, as a `Raster`.

    Args:
        path: of the file.
        plane: index by axis.
        name: what errors call it.
    """

    def __init__(self, path: Path, plane: dict[str, int], name: str):
        super().__init__(path, plane, name)
        self._asking = threading.Lock()
        self._masks: list[Any] = []
        try:
            rasterio = _rasterio()
        except MissingExtra as error:
            log.warning("%s: where it lies on the earth is lost, for it is read as a plain TIFF: %s", name, error)
            return
        try:
            with damage_named(name, "an image"):
                self._place(rasterio, path)
        except BaseException:
            self.close()
            raise

    def _place(self, rasterio: Any, path: Path) -> None:
        if self.orientation != 1:
            raise DataError(
                f"is a GeoTIFF that is stored turned (Orientation {self.orientation}), of which programs differ where "
                f"it lies on the earth; write it upright: gdal_translate FILE NEW.tif"
            )
        place = f"GTIFF_DIR:{self.number + 1}:{path}" if self.number else path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            file = self._open.enter_context(rasterio.open(place))
        transform = file.transform
        geo = None
        if not transform.is_identity:
            geo = GeoReference("" if file.crs is None else file.crs.to_wkt(), tuple(transform)[:6])
        size, unit = _pixel(file)
        self.info: RasterInfo = replace(
            self.info,
            kind="geotiff",
            channels=_names(file.descriptions, self.info.channels),
            pixel_size=size,
            unit=unit,
            nodata=file.nodata if self.info.nodata is None and file.nodata is not None else self.info.nodata,
            geo=geo,
        )
        if any(_is_mask(flags, rasterio) for flags in file.mask_flag_enums):
            if self.number:
                raise DataError(
                    f"has a mask band in its page {self.number + 1}, and that of the first page alone is read; save it "
                    f"as a file of its own: gdal_translate {place} NEW.tif"
                )
            self._masks.append(file)
            for level in range(len(file.overviews(1))):
                self._masks.append(self._open.enter_context(rasterio.open(path, overview_level=level)))

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """See `Raster.valid`; mask bands and transparency count besides values of nodata."""
        held = valid_samples(self, window, level)
        size = self.info.levels[level]
        mask = next((file for file in self._masks if file.shape == size), None)
        if mask is None:
            return held
        checked_window(self, window, level)
        rows, columns = (window.top, window.top + window.height), (window.left, window.left + window.width)
        with damage_named(self.name, "an image"), self._asking:
            shown = mask.dataset_mask(window=(rows, columns)) > 0
        shown = shown if held is None else shown & held
        return None if shown.all() else shown


def check_geo(raster: Raster) -> None:
    """Raise if a raster has a place on the earth that can't be read here.

    Raises:
        MissingExtra: without the extra `geo`.
    """
    if isinstance(raster, GeoRaster):
        _rasterio()


def _rasterio() -> Any:
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtra("geo", error) from error
    return rasterio


def _is_mask(flags: Any, rasterio: Any) -> bool:
    """Whether a band has a mask that isn't made of its values."""
    kinds = rasterio.enums.MaskFlags
    return kinds.all_valid not in flags and kinds.nodata not in flags


def _names(told: tuple[str | None, ...], otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Descriptions of the bands, where each has one of its own."""
    names = tuple((name or "").strip() for name in told)
    return names if len(names) == len(otherwise) and all(names) and len(set(names)) == len(names) else otherwise


def _pixel(file: Any) -> tuple[float | None, str]:
    """Width of a pixel and its unit, of pixels that are as high as wide."""
    transform, crs = file.transform, file.crs
    if crs is None or transform.is_identity:
        return None, ""
    width, height = (transform.a**2 + transform.d**2) ** 0.5, (transform.b**2 + transform.e**2) ** 0.5
    if not width > 0 or abs(width - height) > NOT_SQUARE * width:
        return None, ""
    if crs.is_geographic:
        return width, DEGREE
    return width * crs.linear_units_factor[1], METRE
