"""The objects of a mask: connected regions of a class, counted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from fungi_seg.datasets import BACKGROUND
from fungi_seg.errors import FungiSegError, MissingExtra, nearest
from fungi_seg.segmentation.settings import ObjectConfig

SMOOTHED = 1.0  # pixels: standard deviation by which distances to the edge are smoothed before they are compared
EIGHT = np.ones((3, 3))  # neighbours
DEEPER = 0.75  # pixels by which two parts must be wider than what is between them


@dataclass(frozen=True)
class Object:
    """One object. Lengths are in pixels; x runs to the right and y downwards, and (0, 0) is the image's top left.

    Attributes:
        number: its value in the label image, from 1.
        class_index: of its class.
        area: pixels.
        centroid: mean (x, y) of its pixels' centres, which lie at halves.
        box: left, top, right and bottom; right and bottom exclusive.
        equivalent_diameter: of the circle of its area.
        eccentricity: 0 (circle) to 1 (line), of the ellipse that has its second moments.
        confidence: mean probability, 0 to 1, that its pixels have its class; none where that isn't known.
    """

    number: int
    class_index: int
    area: int
    centroid: tuple[float, float]
    box: tuple[int, int, int, int]
    equivalent_diameter: float
    eccentricity: float
    confidence: float | None


@dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Attributes:
        labels: `[H, W]` int32, the number of the object that each pixel is of, 0 for none.
        found: the objects by number, from 1.
    """

    labels: np.ndarray
    found: tuple[Object, ...]

    def of_class(self, index: int) -> np.ndarray:
        """`labels` of the objects of one class alone."""
        is_one = np.array([False, *(one.class_index == index for one in self.found)])
        return np.where(is_one[self.labels], self.labels, 0)


def objects_of(
    mask: np.ndarray, classes: Sequence[str], config: ObjectConfig | None = None, confidence: np.ndarray | None = None
) -> Objects:
    """Count and measure the objects of a mask.

    Args:
        mask: `[H, W]` class indices; others, such as void, are of no object.
        classes: names.
        config: which regions count.
        confidence: `[H, W]` float32 probability that each pixel has its class, for the mean of each object.

    Raises:
        FungiSegError: a class that isn't there, or the extra `objects` is missing.
    """
    try:
        from skimage.measure import regionprops
    except ImportError as error:
        raise MissingExtra("objects", error) from error
    labels, of_class = object_labels(mask, classes, config or ObjectConfig())
    found = []
    for one in regionprops(labels, confidence):
        top, left, bottom, right = map(int, one.bbox)
        y, x = one.centroid
        found.append(
            Object(
                number=int(one.label),
                class_index=of_class[one.label],
                area=int(one.area),
                centroid=(float(x) + 0.5, float(y) + 0.5),
                box=(left, top, right, bottom),
                equivalent_diameter=float(one.equivalent_diameter_area),
                eccentricity=float(one.eccentricity),
                confidence=None if confidence is None else float(one.intensity_mean),
            )
        )
    return Objects(labels, tuple(found))


def object_labels(mask: np.ndarray, classes: Sequence[str], config: ObjectConfig) -> tuple[np.ndarray, list[int]]:
    """The objects of a mask, without measuring them: `labels` as in `Objects`, and the class of each number.

    Args:
        mask, classes, config: as for `objects_of`; without `config.split` no extra is needed.
    """
    labels, of_class = np.zeros(mask.shape, np.int32), [0]
    counted = class_indices(classes, config)
    for index in counted:
        parts = _parts(mask, index, counted, config)
        sizes = np.bincount(parts.ravel())
        kept = np.flatnonzero(sizes[1:] >= config.min_area) + 1
        numbers = np.zeros(len(sizes), np.int32)
        numbers[kept] = len(of_class) + np.arange(len(kept))
        of_class += [index] * len(kept)
        np.maximum(labels, numbers[parts], out=labels)
    return labels, of_class


def class_indices(classes: Sequence[str], config: ObjectConfig) -> list[int]:
    """Indices of the classes that are counted.

    Raises:
        FungiSegError: a name that none of the classes has.
    """
    if config.classes is None:
        return [index for index, name in enumerate(classes) if name != BACKGROUND]
    for name in config.classes:
        if name not in classes:
            raise FungiSegError(
                f"object.classes names {name!r}, which isn't a class of the bank{nearest(name, classes)}; "
                f"they are {', '.join(classes)}"
            )
    return [index for index, name in enumerate(classes) if name in config.classes]


def _parts(mask: np.ndarray, index: int, counted: Sequence[int], config: ObjectConfig) -> np.ndarray:
    """`[H, W]` int32 connected regions of a class, from 1."""
    region = mask == index
    if config.fill_holes:
        others = np.isin(mask, [other for other in counted if other != index])
        region = ndimage.binary_fill_holes(region) & ~others
    parts: np.ndarray = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)[1]
    return _split(region, parts) if config.split and region.any() else parts


def _split(region: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Regions parted where they are narrow: each of the highest distances to the edge is the middle of an object.

    A watershed (Meyer 1994, Topographic Distance and Watershed Lines) floods the distances from those middles. Two of
    them in one region count only if the way between them is narrower than both.
    """
    try:
        from skimage.morphology import h_maxima
        from skimage.segmentation import watershed
    except ImportError as error:
        raise MissingExtra("objects", error) from error

    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1], SMOOTHED)
    found, count = parts.copy(), int(parts.max())
    tops = _tops(distance, parts)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        if tops[number] < 2:  # most regions
            continue
        inside = parts[box] == number
        height = np.where(inside, distance[box], 0)
        middles, objects = ndimage.label(h_maxima(np.pad(height, 1), DEEPER)[1:-1, 1:-1], EIGHT)
        if objects > 1:
            numbers = np.array([0, number, *range(count + 1, count + objects)], np.int32)
            found[box][inside] = numbers[watershed(-height, middles, mask=inside, connectivity=2)][inside]
            count += objects - 1
    return found


def _tops(distance: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """How many places of a region are as high as all around them, by the region's number."""
    highest = (distance == ndimage.maximum_filter(distance, 3)) & (parts > 0)
    labels, count = ndimage.label(highest, EIGHT)
    owner = np.zeros(count + 1, np.int64)
    owner[labels[highest]] = parts[highest]
    found: np.ndarray = np.bincount(owner[1:], minlength=int(parts.max()) + 1)
    return found
