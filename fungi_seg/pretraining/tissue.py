"""Tissue and cells under the microscope."""

from __future__ import annotations

import cv2
import numpy as np

from fungi_seg.pretraining.canvas import Canvas, canvas, colour, shades
from fungi_seg.pretraining.patterns import Generator, noise


def tissue(rng: Generator, h: int, w: int) -> Canvas:
    """Cells: stained dark in a bright section, or bright on a dark field."""
    scene = canvas(rng, h, w)
    stained = rng.random() < 0.5
    whole = np.ones((h, w), np.uint8)
    if stained:
        ground = colour(rng, (270, 350) if rng.random() < 0.8 else (0, 360), (0.02, 0.5), (0.55, 1))
        fibres = 0.5 * noise(rng, h, w, 0.8, rng.uniform(0.3, 3)) + 0.5 * noise(rng, h, w, 1.4)
        scene.paint(whole, "background", fibres, *shades(rng, ground, 0.5))
        tint = colour(rng, (230, 310) if rng.random() < 0.8 else (0, 360), (0.2, 0.8), (0.1, 0.6))
    else:
        tint = colour(rng, (0, 360), (0, 0.9) if rng.random() < 0.4 else (0, 0.02), (0.25, 1))
        ground = tint * np.float32(rng.uniform(0, 0.15))
        scene.paint(whole, "dark field", noise(rng, h, w, 1.2), ground, ground + 0.05 * np.float32(rng.random()))
    radius = rng.uniform(3, 26)
    count = int(rng.uniform(0.1, 1.1) * h * w / (radius * radius * 6)) + 1
    halo = rng.random() < 0.5
    inner, grain = noise(rng, h, w, 0.6), rng.uniform(0.1, 0.7)
    for x, y, share in zip(
        *rng.uniform(0, (w, h), (min(count, 220), 2)).T, rng.lognormal(0, 0.25, min(count, 220)), strict=True
    ):
        rx, ry = radius * share, radius * share * rng.uniform(0.5, 1)
        if halo and stained:
            cell = shades(rng, np.clip(ground * 0.95, 0, 1), 0.15)
            scene.paint(scene.blob(x, y, rx * 1.8, ry * 1.8, 0.4), "cytoplasm", inner, *cell)
        mask = scene.blob(x, y, rx, ry, 0.25)
        tone = tint * np.float32(rng.uniform(0.6, 1.2) if stained else rng.uniform(0.3, 1))
        scene.paint(
            mask, "dark nucleus" if stained else "bright nucleus", inner, *shades(rng, np.clip(tone, 0, 1), grain)
        )
    if not stained:
        glow = cv2.GaussianBlur(scene.image, (0, 0), radius * 0.8)
        scene.image = np.clip(scene.image + np.float32(rng.uniform(0, 0.5)) * glow, 0, 1)
    return scene
