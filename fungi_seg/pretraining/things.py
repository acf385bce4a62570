"""Single objects in front of a room, a meadow, water or the sky; and dead leaves."""

from __future__ import annotations

import cv2
import numpy as np

from fungi_seg.pretraining.canvas import SMALL, Canvas, any_pattern, canvas, colour, shades
from fungi_seg.pretraining.patterns import Field, Generator, noise
from fungi_seg.pretraining.streets import foliage, person, sky, skyline, vehicle


def objects(rng: Generator, h: int, w: int) -> Canvas:
    """A few large things in front of a room, a meadow, water or the sky."""
    scene = canvas(rng, h, w)
    place = str(rng.choice(["room", "meadow", "water", "air"]))
    sky(scene, h)
    edge = h * rng.uniform(0.3, 0.8)
    lower = scene.polygon([(0, edge), (w, edge + rng.normal(0, 0.05) * h), (w, h), (0, h)])
    if place == "room":
        pattern = any_pattern(rng, h, w)[1] if rng.random() < 0.4 else noise(rng, h, w)
        wall = shades(rng, colour(rng, (0, 360), (0, 0.5), (0.3, 1)), rng.uniform(0.1, 0.5))
        scene.paint(np.ones((h, w), np.uint8), "wall", pattern, *wall)
        floor = shades(rng, colour(rng, (0, 60), (0, 0.6), (0.1, 0.8)), rng.uniform(0.1, 0.6))
        scene.paint(lower, "floor", any_pattern(rng, h, w)[1], *floor)
    elif place == "meadow":
        if rng.random() < 0.7:
            skyline(scene, edge)
        scene.paint(lower, "grass", noise(rng, h, w, 0.5), *shades(rng, colour(rng, (50, 130), (0.2, 0.7)), 0.6))
    elif place == "water":
        sea = shades(rng, colour(rng, (170, 230), (0.1, 0.6), (0.2, 0.8)), 0.4)
        scene.paint(lower, "water", noise(rng, h, w, 0.8, stretch=4), *sea)
    draws = [_animal, _furniture, _machine, _plant]
    for _ in range(int(rng.integers(1, 4))):
        x, foot, scale = rng.uniform(0.1, 0.9) * w, edge + rng.uniform(0, 1) * (h - edge), h * rng.uniform(0.15, 0.6)
        if rng.random() < 0.25:
            person(scene, x, foot + scale * 0.5, scale * 1.4)
        elif rng.random() < 0.15:
            vehicle(scene, x - scale, foot, scale)
        else:
            draws[int(rng.integers(len(draws)))](scene, x, foot, scale)
    return scene


def _skin(scene: Canvas, contrast: float = 0.6) -> tuple[Field, Field, Field]:
    rng, (h, w) = scene.rng, SMALL
    pattern = any_pattern(rng, h, w)[1] if rng.random() < 0.4 else noise(rng, h, w)
    return (pattern, *shades(rng, colour(rng), contrast))


def _animal(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng = scene.rng
    fur = (noise(rng, *SMALL, 0.7), *shades(rng, colour(rng, (10, 50), (0, 0.7), (0.05, 0.95)), 0.5))
    long, way = scale * rng.uniform(0.5, 0.9), rng.choice([-1, 1])
    for place in (-0.7, -0.5, 0.5, 0.7):
        leg = scene.box(x + long * place, foot - scale * 0.5, scale * rng.uniform(0.06, 0.14), scale * 0.5)
        scene.paint(leg, "animal", *fur)
    scene.paint(scene.blob(x, foot - scale * 0.6, long, scale * rng.uniform(0.22, 0.35), 0.2), "animal", *fur)
    head = x + way * long * rng.uniform(0.8, 1.2), foot - scale * rng.uniform(0.7, 1.1)
    scene.paint(scene.blob(*head, scale * 0.22, scale * 0.18, 0.3), "animal", *fur)
    eye = np.zeros(3, np.float32)
    scene.paint(
        scene.blob(head[0] + way * scale * 0.08, head[1] - scale * 0.03, 1.5, 1.5, 0), "animal", fur[0], eye, eye
    )


def _furniture(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng = scene.rng
    wood, width = _skin(scene, 0.4), scale * rng.uniform(0.4, 1.6)
    scene.paint(scene.box(x, foot - scale * 0.6, width, scale * rng.uniform(0.08, 0.5)), "furniture", *wood)
    for place in (0, 0.92):
        scene.paint(scene.box(x + width * place, foot - scale * 0.6, width * 0.08, scale * 0.6), "furniture", *wood)
    if rng.random() < 0.5:
        scene.paint(scene.box(x, foot - scale * 1.3, width * rng.uniform(0.2, 1), scale * 0.75), "furniture", *wood)


def _machine(scene: Canvas, x: float, foot: float, scale: float) -> None:
    """Boxes and discs of metal, plastic or glass: bottles, screens, aircraft, boats."""
    rng = scene.rng
    for _ in range(int(rng.integers(2, 6))):
        part, dx, dy = _skin(scene, 0.4), rng.normal(0, 0.3) * scale, rng.uniform(0, 0.8) * scale
        w, h = scale * rng.uniform(0.1, 0.9), scale * rng.uniform(0.1, 0.6)
        mask = (
            scene.box(x + dx, foot - dy, w, -h)
            if rng.random() < 0.6
            else scene.blob(x + dx, foot - dy, w / 2, h / 2, 0)
        )
        scene.paint(mask, "machine", *part)


def _plant(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng = scene.rng
    pot, leaf = _skin(scene, 0.3), foliage(rng, *SMALL)
    for _ in range(int(rng.integers(4, 14))):
        at = x + rng.normal(0, 0.25) * scale, foot - scale * rng.uniform(0.3, 1)
        scene.paint(scene.blob(*at, scale * 0.12, scale * 0.2, 0.4), "plant", *leaf)
    scene.paint(scene.box(x - scale * 0.2, foot - scale * 0.3, scale * 0.4, scale * 0.3), "plant", *pot)


def leaves(rng: Generator, h: int, w: int) -> Canvas:
    """Overlapping shapes of all sizes, each with a pattern; their kind is the family of the pattern."""
    scene = canvas(rng, h, w)
    name, pattern = any_pattern(rng, h, w)
    scene.paint(np.ones((h, w), np.uint8), name, pattern, colour(rng), colour(rng))
    for radius in np.sort(rng.uniform(0.12, 0.9, int(rng.integers(8, 26))))[::-1] ** 2 * h:
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        kind = rng.random()
        if kind < 0.5:
            mask = scene.blob(x, y, radius, radius * rng.uniform(0.3, 1), rng.uniform(0, 0.8))
        elif kind < 0.75:
            mask = scene.box(x, y, radius * 2, radius * rng.uniform(0.3, 2))
        else:
            mask = scene.polygon([(x + rng.normal() * radius, y + rng.normal() * radius) for _ in range(3)])
        _, _, width, height = cv2.boundingRect(mask)
        name, pattern = any_pattern(rng, max(8, height), max(8, width))
        base = colour(rng)
        low, high = shades(rng, base, rng.uniform(0.2, 1)) if rng.random() < 0.7 else (base, colour(rng))
        scene.paint(mask, name, pattern, low, high)
    return scene
