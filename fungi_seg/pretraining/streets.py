"""Streets as seen from a car."""

from __future__ import annotations

import cv2
import numpy as np

from fungi_seg.pretraining.canvas import KINDS, SMALL, Canvas, canvas, colour, shades
from fungi_seg.pretraining.patterns import Field, Generator, bricks, dots, noise, stripes, unit, windows


def street(rng: Generator, h: int, w: int) -> Canvas:
    """A road seen from a car: what stands at depth `d` is as high in the picture as its foot is below the horizon."""
    scene = canvas(rng, h, w)
    horizon, centre = h * rng.uniform(0.3, 0.6), w * rng.uniform(0.25, 0.75)
    sky(scene, horizon)
    skyline(scene, horizon)
    left, right = centre - w * rng.uniform(0.3, 1.3), centre + w * rng.uniform(0.3, 1.3)
    _ground(scene, horizon, centre, left, right)
    for edge in (left, right):
        if rng.random() < 0.8:
            _row_of_buildings(scene, horizon, centre, edge)
    things = [_tree] * 4 + [_pole] * 4 + [vehicle] * 5 + [person] * 5 + [_fence] * 2 + [_cyclist] * 2
    depths = np.sort(rng.beta(1, 2, int(rng.integers(3, 18)))) * 0.9 + 0.04
    for depth in depths:  # the far ones first
        foot = horizon + depth * (h - horizon) * 1.1
        draw = things[int(rng.integers(len(things)))]
        lane = centre + ((left if rng.random() < 0.5 else right) - centre) * depth * rng.uniform(0.2, 1.5)
        draw(scene, lane, foot, foot - horizon)
    if rng.random() < 0.5:
        _shadow(scene)
    return scene


def sky(scene: Canvas, horizon: float) -> None:
    rng, (h, w) = scene.rng, scene.size
    fall = np.broadcast_to(np.linspace(0, 1, h, dtype=np.float32)[:, None], (h, w))
    blue = rng.random() < 0.5
    top = colour(rng, (190, 235), (0.15, 0.7) if blue else (0, 0.15), (0.4, 1))
    bottom = top + (1 - top) * np.float32(rng.uniform(0, 0.9))
    whole = np.ones((h, w), np.uint8)
    scene.paint(whole, "sky", unit(fall) * rng.uniform(0.5, 1), top, bottom)
    if rng.random() < 0.5:
        cloud = np.clip(noise(rng, h, w, 1.4, stretch=2) * 2 - rng.uniform(0.4, 1.2), 0, 1)[..., None]
        scene.image += (np.float32(rng.uniform(0.6, 1)) - scene.image) * cloud


def _facade(rng: Generator, h: int, w: int) -> tuple[Field, Field, Field]:
    base = colour(rng, (0, 60) if rng.random() < 0.7 else (0, 360), (0, 0.5), (0.15, 0.9))
    make = [windows, windows, windows, bricks, noise][int(rng.integers(5))]
    return (make(rng, h, w), *shades(rng, base, 0.8))


def foliage(rng: Generator, h: int, w: int) -> tuple[Field, Field, Field]:
    base = colour(rng, (50, 150), (0.1, 0.7), (0.08, 0.55))
    leaves = 0.6 * dots(rng, h, w) + 0.4 * noise(rng, h, w) if rng.random() < 0.7 else noise(rng, h, w, 0.6)
    return (leaves, *shades(rng, base, 0.9))


def skyline(scene: Canvas, horizon: float) -> None:
    rng, w = scene.rng, scene.size[1]
    x = -10.0
    while x < w:
        width, height = rng.uniform(8, 60), horizon * rng.uniform(0.02, 0.5)
        if rng.random() < 0.5:
            mask = scene.box(x, horizon - height, width, height + 8)
            scene.paint(mask, "building", *_facade(rng, 48, 48))
        else:
            mask = scene.blob(x + width / 2, horizon - height / 2, width * 0.7, height * 0.7 + 3)
            scene.paint(mask, "tree", *foliage(rng, *SMALL))
        x += width * rng.uniform(0.6, 1)


def _ground(scene: Canvas, horizon: float, centre: float, left: float, right: float) -> None:
    rng, (h, w) = scene.rng, scene.size
    below = scene.box(0, horizon, w, h)
    side = str(rng.choice(["pavement", "pavement", "grass"]))
    if side == "grass":
        scene.paint(below, "grass", noise(rng, h, w, 0.5), *shades(rng, colour(rng, (55, 130), (0.2, 0.6)), 0.6))
    else:
        tiles = 0.5 * bricks(rng, h, w, 0) + 0.5 * noise(rng, h, w) if rng.random() < 0.5 else noise(rng, h, w)
        base = colour(rng, (0, 60) if rng.random() < 0.6 else (180, 260), (0, 0.2), (0.3, 0.85))
        scene.paint(below, "pavement", tiles, *shades(rng, base, 0.25))
    asphalt = 0.6 * noise(rng, h, w, 0.3, stretch=3) + 0.4 * noise(rng, h, w, 1.5)
    base = colour(rng, (0, 360), (0, 0.15), (0.15, 0.65))
    road = scene.polygon([(centre - 1, horizon), (centre + 1, horizon), (right, h), (left, h)])
    scene.paint(road, "road", asphalt, *shades(rng, base, 0.3))
    for share in rng.choice([0.03, 0.3, 0.5, 0.7, 0.97], int(rng.integers(0, 4)), replace=False):
        foot, paint = left + share * (right - left), colour(rng, (40, 60), (0, 0.3), (0.6, 1))
        dashes = [(0.0, 1.0)] if rng.random() < 0.5 else [(d, d * 1.35) for d in 1.8 ** -np.arange(1, 7, dtype=float)]
        for near, far in dashes:
            (x0, y0, w0), (x1, y1, w1) = (
                (centre + (foot - centre) * d, horizon + (h - horizon) * d, 1 + 5 * d) for d in (near, far)
            )
            line = scene.polygon([(x0, y0), (x0 + w0, y0), (x1 + w1, y1), (x1, y1)])
            scene.paint(line, "road", asphalt, paint * 0.8, paint)


def _row_of_buildings(scene: Canvas, horizon: float, centre: float, edge: float) -> None:
    """Houses along a side of the road, each a quadrilateral that grows towards the viewer."""
    rng, (h, w) = scene.rng, scene.size
    edge = centre + (edge - centre) * rng.uniform(1.1, 1.8)
    depth = rng.uniform(0.05, 0.25)
    while depth < 1.6 and abs(depth * (edge - centre)) < 1.5 * w:
        deeper = depth * rng.uniform(1.2, 1.9)
        height = rng.uniform(2.5, 9)
        x0, x1 = (centre + (edge - centre) * d for d in (depth, deeper))
        f0, f1 = ((h - horizon) * d for d in (depth, deeper))
        corners = [(x0, horizon + f0), (x0, horizon - f0 * height), (x1, horizon - f1 * height), (x1, horizon + f1)]
        if rng.random() < 0.75:
            pattern, low, high = _facade(rng, 96, 96)
            turned = cv2.getPerspectiveTransform(
                np.array([(0, 95), (0, 0), (95, 0), (95, 95)], np.float32), np.array(corners, np.float32)
            )
            scene.paint(scene.polygon(corners), "building", cv2.warpPerspective(pattern, turned, (w, h)), low, high)
        elif rng.random() < 0.6:
            middle = (x0 + x1) / 2
            scene.paint(scene.blob(middle, horizon - f1, abs(x1 - x0) * 0.6, f1 * 2, 0.5), "tree", *foliage(rng, h, w))
        depth = deeper


def _tree(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng, (h, w) = scene.rng, SMALL
    height, thick = scale * rng.uniform(2, 6), max(1.5, scale * rng.uniform(0.1, 0.35))
    bark = colour(rng, (20, 50), (0.1, 0.5), (0.05, 0.45))
    scene.paint(scene.box(x, foot - height, thick, height), "tree", noise(rng, h, w, 0.8, 0.3), *shades(rng, bark, 0.5))
    pattern, low, high = foliage(rng, h, w)
    for _ in range(int(rng.integers(1, 6))):
        radius = height * rng.uniform(0.15, 0.4)
        place = x + rng.normal(0, 0.2) * height, foot - height * rng.uniform(0.7, 1.1)
        scene.paint(scene.blob(*place, radius, radius * rng.uniform(0.6, 1.1), 0.5), "tree", pattern, low, high)


def _pole(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng, (h, w) = scene.rng, SMALL
    height, thick = scale * rng.uniform(1.5, 7), max(1.2, scale * rng.uniform(0.04, 0.15))
    grey, plain = colour(rng, (0, 360), (0, 0.3), (0.05, 0.8)), np.zeros((h, w), np.float32)
    scene.paint(scene.box(x, foot - height, thick, height), "pole", noise(rng, h, w), *shades(rng, grey, 0.2))
    if rng.random() < 0.6:
        size = scale * rng.uniform(0.2, 0.7) + 1
        face = colour(rng, (0, 360), (0.3, 1), (0.3, 1))
        top = foot - height * rng.uniform(0.7, 1)
        make = [
            lambda: scene.blob(x, top, size / 2, size / 2, 0),
            lambda: scene.box(x - size / 2, top, size, size * rng.uniform(0.4, 2)),
            lambda: scene.polygon(
                [(x, top - size / 2), (x + size / 2, top + size / 2), (x - size / 2, top + size / 2)]
            ),
        ][int(rng.integers(3))]
        scene.paint(make(), "sign", plain, face, face)
        if rng.random() < 0.6:
            inner = colour(rng, (0, 360), (0, 1))
            scene.paint(scene.blob(x, top, size / 4, size / 4, 0.3), "sign", plain, inner, inner)
    elif rng.random() < 0.5:
        scene.paint(scene.box(x, foot - height, scale * rng.uniform(-1, 1), thick), "pole", plain, grey, grey)


def vehicle(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng, (h, w) = scene.rng, SMALL
    tall = rng.random() < 0.2
    height = scale * (rng.uniform(1.4, 2.2) if tall else rng.uniform(0.8, 1.1))
    width = height * rng.uniform(0.9, 2.6)
    body = colour(rng, (0, 360), (0, 0.8) if rng.random() < 0.5 else (0, 0.1), (0.03, 1))
    gloss = noise(rng, h, w, 1.6)
    roof = rng.uniform(0.0, 0.25) * width
    waist = foot - height * rng.uniform(0.5, 0.65)
    shape = [(x, foot - 0.12 * height), (x, waist), (x + roof, foot - height), (x + width - roof, foot - height)]
    shape += [(x + width, waist), (x + width, foot - 0.12 * height)]
    dark = np.full(3, rng.uniform(0.0, 0.15), np.float32)
    under = scene.blob(x + width / 2, foot - 0.05 * height, width * 0.5, height * 0.1, 0)
    scene.paint(under, "vehicle", gloss, dark, dark)
    scene.paint(scene.polygon(shape), "vehicle", gloss, *shades(rng, body, 0.5))
    glass = colour(rng, (180, 240), (0, 0.3), (0.02, 0.5))
    gap = width * 0.08
    pane = [(x + gap, waist), (x + roof + gap, foot - height * 0.93), (x + width - roof - gap, foot - height * 0.93)]
    scene.paint(scene.polygon([*pane, (x + width - gap, waist)]), "vehicle", gloss, *shades(rng, glass, 0.5))
    for place in (0.2, 0.8):
        wheel = scene.blob(x + width * place, foot - 0.12 * height, height * 0.15, height * 0.16, 0)
        scene.paint(wheel, "vehicle", gloss, dark, dark + 0.1)
    if rng.random() < 0.6:
        lamp = colour(rng, (0, 50), (0.2, 1), (0.6, 1))
        for place in (0.02, 0.86):
            scene.paint(
                scene.box(x + width * place, waist + height * 0.06, width * 0.12, height * 0.1),
                "vehicle",
                gloss,
                lamp,
                lamp,
            )


def person(scene: Canvas, x: float, foot: float, scale: float, kind: str = "person") -> None:
    rng, (h, w) = scene.rng, SMALL
    height = scale * rng.uniform(1.0, 1.3)
    width = height * rng.uniform(0.18, 0.3)
    cloth = noise(rng, h, w, 1.0)
    trousers, coat = colour(rng, value=(0.03, 0.6)), colour(rng, saturation=(0, 0.9))
    skin = colour(rng, (10, 35), (0.2, 0.6), (0.2, 0.95))
    stride = rng.uniform(0, 0.8) * width
    hip, neck = foot - 0.48 * height, foot - 0.83 * height
    for toe in (x - stride, x + stride):
        leg = [(toe, foot), (x - width * 0.4, hip), (x + width * 0.4, hip), (toe + width * 0.4, foot)]
        scene.paint(scene.polygon(leg), kind, cloth, *shades(rng, trousers, 0.3))
    torso = scene.blob(x, (hip + neck) / 2, width * 0.55, (hip - neck) * 0.58, 0.15)
    scene.paint(torso, kind, cloth, *shades(rng, coat, 0.4))
    hair = colour(rng, (10, 50), (0, 0.6), (0.02, 0.7))
    scene.paint(
        scene.blob(x, foot - 0.92 * height, height * 0.065, height * 0.08, 0), kind, cloth, *shades(rng, hair, 0.2)
    )
    scene.paint(
        scene.blob(x, foot - 0.9 * height, height * 0.05, height * 0.055, 0), kind, cloth, *shades(rng, skin, 0.2)
    )


def _cyclist(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng = scene.rng
    radius, reach = scale * rng.uniform(0.3, 0.4), scale * rng.uniform(0.4, 1.1)
    tone = np.full(3, rng.uniform(0, 0.4), np.float32)
    rings = np.zeros(scene.size, np.uint8)
    for place in (x - reach / 2, x + reach / 2):
        centre = (round(place), round(foot - radius))
        cv2.circle(rings, centre, max(1, round(radius)), 1, max(1, round(scale * 0.06)))
    hub, seat = (round(x - reach / 2), round(foot - radius)), (round(x), round(foot - 2.2 * radius))
    cv2.line(rings, hub, seat, 1, max(1, round(scale * 0.05)))
    scene.paint(rings, "cycle", noise(rng, *SMALL), tone, tone + 0.2)
    person(scene, x, foot - radius * 0.6, scale * 0.85, "cycle")


def _fence(scene: Canvas, x: float, foot: float, scale: float) -> None:
    rng, (h, w) = scene.rng, scene.size
    height, width = scale * rng.uniform(0.5, 1.2), scale * rng.uniform(2, 9)
    slope = rng.uniform(-0.15, 0.15) * width
    shape = [(x, foot), (x, foot - height), (x + width, foot - height + slope), (x + width, foot + slope)]
    mask = scene.polygon(shape)
    paint = colour(rng, (0, 360), (0, 0.5), (0.05, 0.9))
    if rng.random() < 0.6:  # one looks through it; what is behind still counts as fence
        bars = np.arange(w) % max(2.0, scale * rng.uniform(0.1, 0.4)) < max(1.0, scale * rng.uniform(0.03, 0.1))
        rail = np.zeros((h, w), np.uint8)
        cv2.polylines(rail, [np.array([shape[1:3]], np.int32).reshape(-1, 2)], False, 1, max(1, round(scale * 0.08)))
        scene.paint(
            mask * np.maximum(bars[None].astype(np.uint8), rail), "fence", noise(rng, h, w), *shades(rng, paint, 0.3)
        )
        scene.kinds[mask > 0] = KINDS.index("fence")
    else:
        scene.paint(mask, "fence", stripes(rng, h, w), *shades(rng, paint, 0.4))


def _shadow(scene: Canvas) -> None:
    rng, (h, w) = scene.rng, scene.size
    x, y = rng.uniform(0, w), rng.uniform(0.4, 1) * h
    shade = cv2.GaussianBlur(scene.blob(x, y, rng.uniform(0.1, 1) * w, rng.uniform(0.05, 0.4) * h, 0.8), (5, 5), 0)
    scene.image *= 1 - shade[..., None] * np.float32(rng.uniform(0.2, 0.6))
