"""Scenes that a generator paints, and the kind of thing every pixel of them shows.

A scene is a picture without a photograph in it: streets, single objects, tissue and cells, dead leaves (overlapping
shapes, each with a pattern of its own: Lee, Mumford & Huang, IJCV 2001), with shading, blur, noise and colour casts.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from fungi_seg.pretraining.canvas import KINDS, UNKNOWN, Canvas
from fungi_seg.pretraining.patterns import Generator, noise
from fungi_seg.pretraining.streets import street
from fungi_seg.pretraining.things import leaves, objects
from fungi_seg.pretraining.tissue import tissue

__all__ = ["KINDS", "LAYOUTS", "UNKNOWN", "photograph", "scene"]


def photograph(scene: Canvas) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Light, lens and sensor: `[H, W, 3]` uint8 RGB and the kinds `[H, W]`."""
    rng, (h, w), image = scene.rng, scene.size, scene.image
    if rng.random() < 0.7:
        light = 1 + rng.uniform(0, 0.5) * (noise(rng, h, w, 2.0) - 0.5)
        image = image * light[..., None].astype(np.float32)
    blur = rng.choice([0.0, 0.5, 0.8, 1.2, 2.0], p=[0.2, 0.3, 0.3, 0.15, 0.05])
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    gain = 1 + rng.normal(0, 0.05, 3)
    exposed = np.clip(image * gain + rng.normal(0, 0.03), 0, 1) ** rng.uniform(0.7, 1.4)
    grain = rng.standard_normal((h, w, 3), np.float32) * np.float32(rng.choice([0.0, 0.01, 0.02, 0.05]))
    pixels = np.round(np.clip(exposed + grain, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.4:
        coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])[1]
        pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return pixels, scene.kinds


LAYOUTS: dict[str, tuple[Callable[[Generator, int, int], Canvas], float]] = {
    "street": (street, 0.4),
    "objects": (objects, 0.2),
    "leaves": (leaves, 0.2),
    "tissue": (tissue, 0.2),
}


def scene(seed: int, number: int, h: int = 192, w: int = 256) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scene `number` of the stream that `seed` begins: `[h, w, 3]` uint8 RGB and its kinds `[h, w]` uint8."""
    rng = np.random.default_rng((seed, number))
    names = list(LAYOUTS)
    name = names[int(rng.choice(len(names), p=[LAYOUTS[name][1] for name in names]))]
    return photograph(LAYOUTS[name][0](rng, h, w))
