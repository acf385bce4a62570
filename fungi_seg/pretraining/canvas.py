"""What scenes are painted on, and with which colours."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from fungi_seg.pretraining.patterns import PATTERNS, Field, Generator

STREET = ("sky", "building", "road", "pavement", "tree", "grass", "pole", "sign", "fence", "vehicle", "person", "cycle")
THINGS = ("wall", "floor", "water", "animal", "furniture", "machine", "plant")
TISSUE = ("background", "dark nucleus", "dark field", "bright nucleus", "cytoplasm")
KINDS = (*STREET, *THINGS, *TISSUE, *PATTERNS)
UNKNOWN = 255
SMALL = (64, 64)  # pattern of a thing that fills a part of the picture; painting stretches it to the thing
Points = list[tuple[float, float]]


@dataclass
class Canvas:
    """A picture in the making: `image` `[H, W, 3]` float32 RGB in 0..1, `kinds` `[H, W]` uint8 indices of `KINDS`."""

    rng: Generator
    image: NDArray[np.float32]
    kinds: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self.kinds = np.full(self.image.shape[:2], UNKNOWN, np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        return self.kinds.shape[0], self.kinds.shape[1]

    def paint(self, mask: NDArray[np.uint8], kind: str, pattern: Field, low: Field, high: Field) -> None:
        """Paint `pattern` where `mask` isn't 0, its 0 in colour `low` and its 1 in colour `high`."""
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0 or h == 0:
            return
        part = np.s_[y : y + h, x : x + w]
        inside = mask[part] > 0
        tone = cv2.resize(pattern, (w, h)) if pattern.shape != self.size else pattern[part]
        tone = tone[inside][:, None]
        self.image[part][inside] = low + (high - low) * tone
        self.kinds[part][inside] = KINDS.index(kind)

    def polygon(self, points: Points) -> NDArray[np.uint8]:
        mask = np.zeros(self.size, np.uint8)
        cv2.fillPoly(mask, [np.round(np.array(points) * 8).astype(np.int32)], 1, shift=3)
        return mask

    def blob(self, x: float, y: float, rx: float, ry: float, rough: float = 0.3) -> NDArray[np.uint8]:
        """A closed curve about `(x, y)`; `rough` 0 is an ellipse."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        radius = np.ones(24)
        for wave in range(1, 6):
            radius += rough * self.rng.normal(0, 0.5 / wave) * np.cos(wave * angle + self.rng.uniform(0, 6))
        radius = np.clip(radius, 0.2, 2)
        return self.polygon(list(zip(x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle), strict=True)))

    def box(self, x: float, y: float, w: float, h: float) -> NDArray[np.uint8]:
        return self.polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])


def colour(
    rng: Generator,
    hue: tuple[float, float] = (0, 360),
    saturation: tuple[float, float] = (0, 0.7),
    value: tuple[float, float] = (0.05, 1),
) -> Field:
    """A random RGB colour; hue in degrees, saturation and value in 0..1."""
    hsv = np.array([[[rng.uniform(*hue) % 360, rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def shades(rng: Generator, base: Field, contrast: float) -> tuple[Field, Field]:
    """A darker and a brighter colour about `base`."""
    spread = contrast * rng.uniform(0.3, 1)
    drift = rng.normal(0, 0.03, 3)
    low, high = base * (1 - spread) - drift, base + (1 - base) * spread * 0.7 + drift
    return np.clip(low, 0, 1).astype(np.float32), np.clip(high, 0, 1).astype(np.float32)


def any_pattern(rng: Generator, h: int, w: int) -> tuple[str, Field]:
    name = str(rng.choice(list(PATTERNS)))
    return name, PATTERNS[name](rng, h, w)


def canvas(rng: Generator, h: int, w: int) -> Canvas:
    return Canvas(rng, np.zeros((h, w, 3), np.float32))
