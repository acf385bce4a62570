"""Objects as files for other tools: label images, polygons for QuPath, and regions for ImageJ."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import imwrite

from fungi_seg.errors import MissingExtra
from fungi_seg.files import replacing
from fungi_seg.results.outlines import Polygon, outlines
from fungi_seg.segmentation import Object, Objects, check_pixel_size

log = logging.getLogger(__name__)

MOST_IN_16_BITS = 65_535
MOVE, LINE, CLOSE = 0.0, 1.0, 4.0  # how ImageJ's composite regions say what to do with a point


class ObjectFiles:
    """Writes what was counted in images for other tools.

    In the folder `out`, for each image `labels/NAME.tif` (16 bits, 32 where there are more objects),
    `geojson/NAME.geojson` (read by QuPath) and `rois/NAME.zip` (read by ImageJ). All hold the same objects under the
    same numbers.

    Args:
        out: folder.
        classes, palette: names, and `[C, 3]` uint8 RGB.
        pixel_size: width of a pixel in micrometres; without it there are pixels only.

    Raises:
        FungiSegError: a file can't be written, or a width that can't be.
        MissingExtra: without the extra `objects`.
    """

    def __init__(self, out: Path, classes: Sequence[str], palette: np.ndarray, pixel_size: float | None = None):
        if pixel_size is not None:
            check_pixel_size(pixel_size)
        try:
            import roifile
            import skimage  # noqa: F401, what counting needs
        except ImportError as error:
            raise MissingExtra("objects", error) from error
        self._roifile = roifile
        self._out, self._classes, self._palette, self._pixel = out, classes, palette, pixel_size

    def write(self, name: str, objects: Objects) -> list[str]:
        """Write what was counted in the image of that name.

        Returns:
            The files, relative to `out`.
        """
        shapes = outlines(objects.labels)
        files = [f"labels/{name}.tif", f"geojson/{name}.geojson", f"rois/{name}.zip"]
        self._write_labels(name, objects)
        with replacing(self._out / files[1]) as draft:
            draft.write_text(json.dumps(self._features(objects, shapes), ensure_ascii=False), encoding="utf-8")
        regions = [self._region(one, shapes[one.number]) for one in objects.found]
        with replacing(self._out / files[2]) as draft:
            self._roifile.roiwrite(draft, regions, mode="w")
        return files

    def _write_labels(self, name: str, objects: Objects) -> None:
        wide = len(objects.found) > MOST_IN_16_BITS
        file = self._out / "labels" / f"{name}.tif"
        if wide:
            log.warning("%s: %d objects are more than 16 bits can number; written in 32 bits", file, len(objects.found))
        labels = objects.labels.astype(np.uint32 if wide else np.uint16)
        scale: dict[str, Any] = (
            {"resolution": (1 / self._pixel,) * 2, "metadata": {"unit": "um"}} if self._pixel else {}
        )
        with replacing(file) as draft:
            imwrite(draft, labels, imagej=not wide, compression="zlib", **({} if wide else scale))

    def _features(self, objects: Objects, shapes: dict[int, list[Polygon]]) -> dict[str, Any]:
        """GeoJSON in pixels (RFC 7946 but for its degrees), with the properties that QuPath reads."""
        return {
            "type": "FeatureCollection",
            "features": [self._feature(one, shapes[one.number]) for one in objects.found],
        }

    def _feature(self, one: Object, shape: list[Polygon]) -> dict[str, Any]:
        polygons = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in shape]
        single = len(polygons) == 1
        measured = {"Area px^2": one.area, "Equivalent diameter px": one.equivalent_diameter}
        if one.confidence is not None:
            measured["Mean confidence"] = one.confidence
        return {
            "type": "Feature",
            "geometry": {
                "type": "Polygon" if single else "MultiPolygon",
                "coordinates": polygons[0] if single else polygons,
            },
            "properties": {
                "objectType": "detection",
                "name": str(one.number),
                "classification": {
                    "name": self._classes[one.class_index],
                    "color": self._palette[one.class_index].tolist(),
                },
                "measurements": measured,
            },
        }

    def _region(self, one: Object, shape: list[Polygon]) -> Any:
        name = f"{one.number}-{self._classes[one.class_index]}"
        rings = [ring for polygon in shape for ring in polygon]
        if len(rings) == 1:
            return self._roifile.ImagejRoi.frompoints(rings[0], name=name)
        left, top, right, bottom = one.box
        paths = np.concatenate([_path(ring) for ring in rings]).astype(np.float32)
        return self._roifile.ImagejRoi(
            version=228,
            roitype=self._roifile.ROI_TYPE.RECT,  # what ImageJ's composite regions are called in files
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            shape_roi_size=len(paths),
            multi_coordinates=paths,
            name=name,
        )


def _path(ring: np.ndarray) -> np.ndarray:
    steps = np.column_stack([np.full(len(ring), LINE), ring])
    steps[0, 0] = MOVE
    return np.append(steps.ravel(), CLOSE)
