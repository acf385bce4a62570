"""Grey patterns from which scenes are painted: `[H, W]` float32 in 0..1 (lit windows a little above)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Generator = np.random.Generator


def noise(rng: Generator, h: int, w: int, slope: float | None = None, stretch: float = 1.0) -> Field:
    """Noise whose amplitude falls as frequency^-slope, by a sum of octaves; `stretch` > 1 draws it out sideways."""
    slope = rng.uniform(0.2, 1.8) if slope is None else slope
    total = np.zeros((h, w), np.float32)
    cells, side = 2.0, max(h, w)
    while cells <= side:
        grid = rng.standard_normal((max(2, round(cells * h / side)), max(2, round(cells * w / side / stretch))))
        total += cv2.resize(grid.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC) * cells**-slope
        cells *= 2
    return unit(total)


def unit(field: Field) -> Field:
    """`field` stretched to 0..1, its outer percents clipped."""
    low, high = np.percentile(field[::4, ::4], (2, 98))
    return np.clip((field - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def coordinates(rng: Generator, h: int, w: int, turn: float | None = None, warp: float = 0.0) -> tuple[Field, Field]:
    """Pixel coordinates turned by `turn` radians (random if not given), bent by up to `warp` pixels."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    if warp:
        x, y = x + warp * (noise(rng, h, w, 1.5) - 0.5), y + warp * (noise(rng, h, w, 1.5) - 0.5)
    turn = rng.uniform(0, np.pi) if turn is None else turn
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return x * c + y * s, y * c - x * s


def stripes(rng: Generator, h: int, w: int) -> Field:
    u, _ = coordinates(rng, h, w, warp=rng.choice([0, 0, 12, 30]))
    wave = np.sin(u * (2 * np.pi / rng.uniform(3, 30)) + rng.uniform(0, 6))
    return np.clip(0.5 + wave * rng.choice([0.5, 1, 4]), 0, 1).astype(np.float32)


def checks(rng: Generator, h: int, w: int) -> Field:
    u, v = coordinates(rng, h, w, warp=rng.choice([0, 0, 12]))
    a, b = rng.uniform(4, 24, 2)
    return ((u // a + v // b) % 2).astype(np.float32)


def bricks(rng: Generator, h: int, w: int, turn: float | None = None) -> Field:
    """Courses of bricks or tiles of slightly different brightness, with dark or bright joints."""
    u, v = coordinates(rng, h, w, rng.choice([0, rng.uniform(0, np.pi)]) if turn is None else turn)
    height = rng.uniform(3, 14)
    width, joint = height * rng.uniform(1, 3), rng.uniform(0.08, 0.2)
    row = np.floor(v / height)
    shifted = u / width + 0.5 * (row % 2)
    column = np.floor(shifted)
    tone = np.sin(row * 12.9 + column * 78.2) * 43758.5
    field = 0.5 + rng.uniform(0, 0.4) * (tone - np.floor(tone))
    inside = (v / height - row > joint) & (shifted - column > joint * height / width)
    return np.where(inside, field, rng.choice([0.1, 0.95])).astype(np.float32)


def voronoi(rng: Generator, h: int, w: int) -> Field:
    """Cells of random tone, or with bright walls, around random points."""
    seeds = np.ones((h, w), np.uint8)
    count = int(h * w / rng.uniform(6, 26) ** 2) + 2
    seeds[rng.integers(0, h, count), rng.integers(0, w, count)] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    if rng.random() < 0.4:
        return unit(distance)
    return rng.random(int(label.max()) + 1).astype(np.float32)[label]


def dots(rng: Generator, h: int, w: int) -> Field:
    """Round or oval spots, close together or far apart; as foliage, gravel or droplets."""
    field = np.full((h, w), rng.uniform(0, 0.5), np.float32)
    radius = rng.uniform(1, 7)
    count = min(600, int(rng.uniform(0.2, 1.5) * h * w / (radius * radius * 3)))
    oval = rng.uniform(0.3, 1)
    places = rng.integers(0, (w, h), (count, 2)).tolist()
    sizes = (rng.uniform(0.6, 1.4, count) * radius).tolist()
    turns, tones = rng.uniform(0, 180, count).tolist(), rng.uniform(0.2, 1, count).tolist()
    for place, size, turn, tone in zip(places, sizes, turns, tones, strict=True):
        axes = (max(1, round(size)), max(1, round(size * oval)))
        cv2.ellipse(field, place, axes, turn, 0, 360, tone, -1)
    return field


def windows(rng: Generator, h: int, w: int) -> Field:
    """A facade: rows of panes, darker or brighter than the wall; lit ones reach 1.05, beyond its brightest colour."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    px, py = rng.uniform(7, 34), rng.uniform(8, 38)
    fx, fy = (x / px + rng.random()) % 1, (y / py + rng.random()) % 1
    pane = (fx > rng.uniform(0.2, 0.6)) & (fy > rng.uniform(0.2, 0.6))
    wall = 0.6 + 0.3 * (noise(rng, h, w) if rng.random() < 0.5 else bricks(rng, h, w, 0)) - 0.15
    return np.where(pane, rng.choice([0.05, 0.2, 0.95]) + 0.1 * rng.random(), wall).astype(np.float32)


PATTERNS: dict[str, Callable[[Generator, int, int], Field]] = {
    "noise": noise,
    "stripes": stripes,
    "checks": checks,
    "bricks": bricks,
    "voronoi": voronoi,
    "dots": dots,
    "windows": windows,
}
