"""Damaged and strange files: readers give a value or a `FungiSegError`, never anything else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from trees import scene

from fungi_seg import DataConfig, FungiSegError, open_dataset
from fungi_seg.images import read_image, read_mask

INPUTS = 20_000
JSON_WORDS = [b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"true", b'"\\ud800"', b"0.5", b"99999999999999999999"]


def image_seeds(folder: Path) -> Iterator[Path]:
    image, mask = scene(0)
    for name, options in {
        "a.png": {},
        "a.jpg": {},
        "a.gif": {},
        "a.bmp": {},
        "a.webp": {},
        "a.ppm": {},
        "a.jp2": {},
        "a.tif": {"compression": "tiff_lzw"},
    }.items():
        Image.fromarray(image).save(folder / name, **options)
        yield folder / name
    Image.fromarray(mask.astype(np.uint8)).save(folder / "m.png")
    tifffile.imwrite(folder / "m.tif", mask.astype(np.int32), compression="deflate")
    tifffile.imwrite(
        folder / "deep.tif",
        (image.astype(np.uint16) * 200).transpose(2, 0, 1),
        planarconfig="separate",
        photometric="rgb",
    )
    yield from (folder / "m.png", folder / "m.tif", folder / "deep.tif")


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Bytes changed, cut out, doubled, or cut off."""
    found = bytearray(data)
    for _ in range(int(generator.integers(1, 6))):
        start = int(generator.integers(0, max(1, len(found))))
        length = int(generator.integers(1, 9))
        match int(generator.integers(0, 5)):
            case 0:
                found[start : start + length] = generator.bytes(length)
            case 1:
                del found[start : start + length]
            case 2:
                found[start:start] = found[start : start + length]
            case 3:
                found[start : start + 1] = (
                    bytes([found[start] ^ (1 << int(generator.integers(0, 8)))]) if found else b""
                )
            case _:
                if generator.random() < 0.2:
                    del found[start:]
    return bytes(found)


def tried(read: Callable[[], object], what: str) -> None:
    try:
        read()
    except FungiSegError:
        pass
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_images_and_masks(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    seeds = [(path.suffix, path.read_bytes()) for path in image_seeds(tmp_path)]
    assert read_image(tmp_path / "deep.tif").shape == read_image(tmp_path / "a.jp2").shape == (48, 64, 3)
    assert read_mask(tmp_path / "m.tif").shape == (48, 64)
    for number in range(INPUTS // 2):
        suffix, data = seeds[number % len(seeds)]
        file = tmp_path / f"damaged{suffix}"
        file.write_bytes(damaged(data, generator))
        read = (read_image, read_mask)[number // len(seeds) % 2]
        tried(lambda read=read, file=file: read(file), f"input {number}, {read.__name__} of {suffix}")


def coco() -> bytes:
    values = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 3, "name": "red", "supercategory": "thing"}, {"id": 7, "name": "green"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 20, 1, 20, 20.5]]},
            {"id": 2, "image_id": 1, "category_id": 7, "iscrowd": 1,
             "segmentation": {"size": [48, 64], "counts": [10, 20, 3042]}},
        ],
    }  # fmt: skip
    return json.dumps(values).encode()


def labelme() -> bytes:
    shapes = [
        {"label": "red", "shape_type": "polygon", "points": [[1, 1], [20, 2], [5, 30]]},
        {"label": "green", "shape_type": "rotation", "points": [[1, 1], [20, 2], [22, 30], [3, 29]]},
    ]
    return json.dumps({"imagePath": "a.png", "imageHeight": 48, "imageWidth": 64, "shapes": shapes}).encode()


def labelstudio() -> bytes:
    result = {"type": "polygonlabels", "original_width": 64, "original_height": 48, "from_name": "l", "to_name": "i",
              "value": {"points": [[1, 1], [50, 2], [5, 60]], "polygonlabels": ["red"]}}  # fmt: skip
    return json.dumps([{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}]).encode()


def strange(data: bytes, generator: np.random.Generator) -> bytes:
    """As `damaged`, or a value of the JSON in place of another kind of value."""
    places = [i for i, byte in enumerate(data) if byte in b":,["]
    if not places or generator.random() < 0.4:
        return damaged(data, generator)
    at = int(generator.choice(places)) + 1
    end = at
    while end < len(data) and data[end] not in b",]}":
        end += 1
    return data[:at] + bytes(generator.choice(JSON_WORDS)) + data[end:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("layout", "name", "seed"),
    [
        ("coco", "annotations/instances_train.json", coco),
        ("labelme", "train/a.json", labelme),
        ("labelstudio", "export.json", labelstudio),
        ("folder", "list.txt", lambda: b"train/images/a.png\r\n# a comment\n"),
    ],
)
def test_json_and_lists(tmp_path: Path, layout: str, name: str, seed: Callable[[], bytes]) -> None:
    generator = np.random.default_rng(1)
    image, mask = scene(0)
    for folder in ("train", "train/images", "train/masks", "annotations"):
        (tmp_path / folder).mkdir(exist_ok=True)
    photo = {"coco": "train/a.png", "labelme": "train/a.png", "labelstudio": "a.png", "folder": "train/images/a.png"}
    Image.fromarray(image).save(tmp_path / photo[layout])
    if layout == "folder":
        Image.fromarray(np.maximum(mask, 0).astype(np.uint8)).save(tmp_path / "train/masks/a.png")
    (tmp_path / "classes.txt").write_text("background\nred\ngreen\n")
    where = {"folder": {"split": "train", "file_list": str(tmp_path / name)}, "labelstudio": {"annotations": name}}
    config = DataConfig(layout=layout, root=str(tmp_path), **where.get(layout, {"split": "train"}))

    def read() -> list[object]:
        return [sample.mask.shape for sample in open_dataset(config)]

    file = tmp_path / name
    file.write_bytes(seed())
    assert read() == [(48, 64)]
    for number in range(INPUTS // 8):
        file.write_bytes(strange(seed(), generator))
        tried(read, f"{layout}, input {number}: {file.read_bytes()[:400]!r}")
