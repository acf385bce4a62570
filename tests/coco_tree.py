"""Builds tiny COCO trees on disk: coloured shapes that overlap, as outlines and both kinds of run lengths; crowds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

CATEGORIES = [
    {"id": 20, "name": "dog", "supercategory": "animal"},
    {"id": 3, "name": "person", "supercategory": "person"},
    {"id": 8, "name": "bus", "supercategory": "vehicle"},
    {"id": 7, "name": "car", "supercategory": "vehicle"},
    {"id": 90, "name": "unused", "supercategory": "none"},
]
COLOURS = {3: (220, 60, 50), 7: (60, 200, 80), 8: (70, 90, 230), 20: (230, 220, 60)}
SIZE = (48, 64)


def ring(generator: np.random.Generator, size: tuple[int, int] = SIZE) -> list[float]:
    """An outline `[x1, y1, …]` around a point, which doesn't cross itself and may leave the image by half a pixel."""
    height, width = size
    angles = np.linspace(0, 2 * np.pi, 9)[:-1] + generator.uniform(0, 0.3)
    radius = generator.uniform(4, 14, 8)
    x = generator.uniform(0, width) + radius * np.cos(angles)
    y = generator.uniform(0, height) + radius * np.sin(angles)
    return np.stack([x.clip(-0.5, width + 0.5), y.clip(-0.5, height + 0.5)], 1).round(2).ravel().tolist()


def blob(generator: np.random.Generator, size: tuple[int, int] = SIZE, packed: bool = True) -> dict[str, Any]:
    """Run lengths of an ellipse with a hole, as text or as a list."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    centre = generator.uniform(0, height), generator.uniform(0, width)
    far = ((y - centre[0]) / generator.uniform(4, 12)) ** 2 + ((x - centre[1]) / generator.uniform(4, 16)) ** 2
    inside = (far < 1) & (far > 0.1)
    if packed:
        runs = coco_mask.encode(np.asfortranarray(inside, np.uint8))
        return {"size": list(size), "counts": runs["counts"].decode()}
    flat = np.concatenate([[False], inside.T.ravel()])
    edges = np.flatnonzero(np.diff(flat.astype(int)))
    return {"size": list(size), "counts": np.diff([0, *edges, height * width]).tolist()}


def annotations(seed: int, image: int, first: int) -> list[dict[str, Any]]:
    """Twelve annotations of an image, ids from `first` on: one a crowd, two without an area."""
    generator = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for i in range(12):
        segmentation: Any = [ring(generator) for _ in range(1 + i % 3)]
        if i % 4 == 2:
            segmentation = blob(generator, packed=i % 8 == 2)
        category = int(generator.choice([3, 7, 8, 20]))
        one = {"id": first + i, "image_id": image, "category_id": category, "segmentation": segmentation}
        found.append(one | {"iscrowd": int(i == 6), "bbox": [0, 0, 1, 1]} | ({"area": 10.5 * i} if i % 5 else {}))
    return found


def render(records: list[dict[str, Any]], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Category ids `[H, W]` as pycocotools paints them, 0 where nothing is, −1 where a crowd is."""
    masks = []
    for record in records:
        runs = record["segmentation"]
        if isinstance(runs, list):
            runs = coco_mask.merge(coco_mask.frPyObjects(runs, *size))
        elif isinstance(runs["counts"], list):
            runs = coco_mask.frPyObjects(runs, *size)
        masks.append(coco_mask.decode(runs) > 0)
    canvas = np.zeros(size, np.int32)
    areas = [record.get("area", int(mask.sum())) for record, mask in zip(records, masks, strict=True)]
    for i in sorted(range(len(records)), key=lambda i: -areas[i]):
        canvas[masks[i]] = -1 if records[i]["iscrowd"] else records[i]["category_id"]
    return canvas


def picture(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """A picture `[H, W, 3]` uint8 of category ids, with noise."""
    table = np.full((256, 3), 40)
    for category, colour in COLOURS.items():
        table[category] = colour
    noise = np.random.default_rng(seed).integers(-12, 13, (*values.shape, 3))
    return (table[values.clip(0)] + noise).clip(0, 255).astype(np.uint8)


def coco_tree(root: Path, train: int = 3, val: int = 2) -> Path:
    """`train`, `val` and `annotations/instances_{train,val}.json`; image ids aren't in the order of names."""
    for split, count, base in (("train", train, 1000), ("val", val, 2000)):
        (root / split).mkdir(parents=True)
        told: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": CATEGORIES}
        for i in reversed(range(count)):
            image, file = base - i, f"{split}_{i}.png"
            records = annotations(base + i, image, 100 * image)
            Image.fromarray(picture(render(records), i)).save(root / split / file)
            told["images"].append({"id": image, "file_name": file, "height": SIZE[0], "width": SIZE[1]})
            told["annotations"] += records
        write_json(root / "annotations" / f"instances_{split}.json", told)
    return root


def panoptic_tree(root: Path, count: int = 2) -> Path:
    """`val`, `annotations/panoptic_val.json` and `annotations/panoptic_val/`, a void corner and a crowd in each."""
    told: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": CATEGORIES[:4]}
    for folder in (root / "val", root / "annotations" / "panoptic_val"):
        folder.mkdir(parents=True)
    for i in range(count):
        generator = np.random.default_rng(i)
        ids = generator.choice(np.arange(1, 2**24), 4, replace=False)
        grid = ids[np.kron([[0, 1], [2, 3]], np.ones((24, 32), int))]
        grid[:6, :6] = 0
        colours = np.stack([grid & 255, grid >> 8 & 255, grid >> 16], 2).astype(np.uint8)
        Image.fromarray(colours).save(root / "annotations" / "panoptic_val" / f"seg_{i}.png")
        Image.fromarray(picture(np.zeros(SIZE, int), i)).save(root / "val" / f"val_{i}.jpg")
        segments = [
            {"id": int(own), "category_id": category, "iscrowd": int(n == 3), "area": 1}
            for n, (own, category) in enumerate(zip(ids, (8, 3, 8, 20), strict=True))
        ]
        told["images"].append({"id": i, "file_name": f"val_{i}.jpg", "height": SIZE[0], "width": SIZE[1]})
        told["annotations"].append({"image_id": i, "file_name": f"seg_{i}.png", "segments_info": segments})
    write_json(root / "annotations" / "panoptic_val.json", told)
    return root


def write_json(path: Path, told: Any) -> None:
    """Write a JSON file, and make the folder above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")


def change(path: Path, how: Callable[[Any], Any]) -> None:
    """Change what a JSON file holds, in place."""
    told = json.loads(path.read_text(encoding="utf-8"))
    how(told)
    write_json(path, told)
