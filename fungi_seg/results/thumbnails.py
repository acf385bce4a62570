"""Small pictures of a segmented image for the page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fungi_seg.files import replacing
from fungi_seg.images import overlay
from fungi_seg.segmentation import Segmentation

FOLDER = "report"
SMALL, LARGE = 320, 1024  # pixels of the longer side
QUALITY = 85


def save_views(found: Segmentation, folder: Path, name: str) -> list[str]:
    """Write `report/thumbnails/NAME.jpg` (its mask on it) and `report/images/NAME.jpg` (without), made smaller.

    Returns:
        What was written, relative to `folder`.
    """
    small = overlay(
        _within(found.image, SMALL, cv2.INTER_AREA),
        _within(found.mask, SMALL, cv2.INTER_NEAREST),
        found.palette,
        unknown=found.void,
    )
    views = {"thumbnails": small, "images": Image.fromarray(_within(found.image, LARGE, cv2.INTER_AREA))}
    files = []
    for kind, picture in views.items():
        files.append(f"{FOLDER}/{kind}/{name}.jpg")
        with replacing(folder / files[-1]) as draft:
            picture.save(draft, quality=QUALITY)
    return files


def _within(array: np.ndarray, side: int, how: int) -> np.ndarray:
    """An image or mask whose longer side is `side` at most."""
    height, width = array.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return array if scale == 1 else cv2.resize(array, size, interpolation=how)
