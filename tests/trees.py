"""Builds tiny data sets on disk, in the layouts the package reads: coloured rectangles on a plain ground."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from fungi_seg.datasets.palettes import voc_palette

COLOURS = np.array([[40, 40, 40], [220, 60, 50], [60, 200, 80], [70, 90, 230]], np.uint8)


def scene(seed: int, height: int = 48, width: int = 64, classes: int = 3, void: bool = True) -> tuple[np.ndarray, ...]:
    """An image `[H, W, 3]` uint8 and its mask `[H, W]` uint8: ground 0, rectangles 1.., a void (255) corner."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for index in range(1, classes):
        top, left = int(generator.integers(height // 2)), int(generator.integers(width // 2))
        mask[top : top + height // 3, left : left + width // 3] = index
    image = COLOURS[mask % len(COLOURS)].astype(np.int16) + generator.integers(-12, 13, (height, width, 3))
    if void:
        mask[:6, :6] = 255
    return image.clip(0, 255).astype(np.uint8), mask


def photos(folder: Path, count: int, within: str) -> dict[str, Path]:
    """Image files by names that lie `within` a folder."""
    found = {}
    for number in range(count):
        path = folder / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(scene(200 + number)[0]).save(path)
        found[f"{within}/{number}"] = path
    return found


def save_palette(mask: np.ndarray, path: Path) -> None:
    """Write an index mask as a palette PNG."""
    image = Image.fromarray(mask)
    image.putpalette(voc_palette(256).tobytes())
    image.save(path)


def folder_tree(root: Path, train: int = 4, val: int = 2, classes: int = 3) -> Path:
    """`{train,val}/{images,masks}` and `classes.txt`."""
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            image, mask = scene(first + i, classes=classes)
            Image.fromarray(image).save(root / split / "images" / f"{split}_{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{split}_{i}.png")
    names = ["background", "red", "green", "blue"][:classes]
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def voc_tree(root: Path, flat: bool = False) -> Path:
    """A VOC tree with lists `trainaug` (3 images) and `val` (2), standard or flat."""
    base = root if flat else root / "VOCdevkit" / "VOC2012"
    images = base / ("images" if flat else "JPEGImages")
    lists = base / ("sets" if flat else "ImageSets/Segmentation")
    masks = [base / "SegmentationClassAug", *([] if flat else [base / "SegmentationClass"])]
    for folder in (images, lists, *masks):
        folder.mkdir(parents=True)
    for name, seeds in (("trainaug", range(3)), ("val", range(10, 12))):
        for seed in seeds:
            image, mask = scene(seed)
            Image.fromarray(image).save(images / f"2007_{seed:06d}.jpg", quality=95)
            for folder in masks:
                save_palette(mask, folder / f"2007_{seed:06d}.png")
        (lists / f"{name}.txt").write_text("".join(f"2007_{seed:06d}\n" for seed in seeds))
    return root


def ade20k_tree(root: Path) -> Path:
    """An ADE20K tree with 3 training and 2 validation images; mask values 1..150, 0 ignored."""
    base = root / "ADEChallengeData2016"
    for split, name, count in (("training", "train", 3), ("validation", "val", 2)):
        (base / "images" / split).mkdir(parents=True)
        (base / "annotations" / split).mkdir(parents=True)
        for i in range(count):
            image, mask = scene(i)
            values = np.array([1, 2, 150], np.uint8)[mask % 255] * (mask != 255)
            Image.fromarray(image).save(base / "images" / split / f"ADE_{name}_{i:08d}.jpg", quality=95)
            Image.fromarray(values.astype(np.uint8)).save(base / "annotations" / split / f"ADE_{name}_{i:08d}.png")
    return root


def picture(seed: int, label: int, side: int = 40) -> np.ndarray:
    """A picture `[side, side + 8, 3]` uint8 of its own: a square of the label's colour, placed by `seed`, and noise."""
    generator = np.random.default_rng([seed, label])
    image = np.full((side, side + 8, 3), 128, np.int16)
    top, left = generator.integers(side // 2, size=2)
    image[top : top + side // 2, left : left + side // 2] = COLOURS[label % len(COLOURS)]
    return (image + generator.integers(-12, 13, image.shape)).clip(0, 255).astype(np.uint8)


def save_picture(path: Path, seed: int, label: int, side: int = 40) -> None:
    """Write `picture` to a file, and make the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, label, side)).save(path)


def class_tree(root: Path, classes: tuple[str, ...] = ("circle", "square"), train: int = 4, val: int = 2) -> Path:
    """`{train,val}/<class>/<split>_<number>.png`, one colour a class."""
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for label, name in enumerate(classes):
            for i in range(count):
                save_picture(root / split / name / f"{split}_{i}.png", first + i, label)
    return root


def cub200_tree(root: Path) -> Path:
    """A tree of CUB-200-2011 with three classes; of each two training images and one test image."""
    base = root / "CUB_200_2011"
    names = {1: "001.Albatross", 2: "002.Auklet", 3: "010.Wren"}
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for label, name in names.items():
        for i in range(3):
            file, number = f"{name}/{name[4:]}_{i}_{label}{i}.jpg", len(lines["images"]) + 1
            save_picture(base / "images" / file, i, label)
            for kind, value in zip(lines, (file, label, int(i < 2)), strict=True):
                lines[kind].append(f"{number} {value}\n")
    for kind, text in (lines | {"classes": [f"{label} {name}\n" for label, name in names.items()]}).items():
        (base / f"{kind}.txt").write_text("".join(text))
    return root


def revisited_tree(
    root: Path, name: str = "gnd_roxford5k.pkl", boxes: tuple[object, object] = ([1, 2, 30, 32], None)
) -> Path:
    """Four images of a database and two queries, 48×40 (width×height); arrays in the pickle."""
    names, queries = [f"all_souls_{i:06d}" for i in range(4)], [f"query_{i:06d}" for i in range(2)]
    for seed, image in enumerate(names + queries):
        save_picture(root / "jpg" / f"{image}.jpg", seed, seed % 3 + 1)
    rows: list[dict] = [{"easy": [0], "hard": [2, 1], "junk": []}, {"easy": [], "hard": [3], "junk": [0]}]
    entries = [row if box is None else row | {"bbx": box} for box, row in zip(boxes, rows, strict=True)]
    told: dict = {"imlist": names, "qimlist": queries, "gnd": entries}
    if name.endswith(".json"):
        (root / name).write_text(json.dumps(told))
    else:
        told["gnd"] = [entry | {kind: np.array(entry[kind]) for kind in ("easy", "hard", "junk")} for entry in entries]
        (root / name).write_bytes(pickle.dumps(told, protocol=2))
    return root
