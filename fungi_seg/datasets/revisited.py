"""The revisited Oxford and Paris retrieval benchmarks (Radenović et al., CVPR 2018)."""

from __future__ import annotations

import codecs
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from fungi_seg.datasets.image_set import ImageData, ImageSet
from fungi_seg.errors import DataError, listing, reason

NAMES = ("gnd_roxford5k", "gnd_rparis6k")
DIFFICULTIES = ("easy", "hard", "junk")
BROKEN_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
RECONSTRUCT, SCALAR = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
PLAIN: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
PLAIN |= {(f"numpy.{core}.multiarray", "_reconstruct"): RECONSTRUCT for core in ("core", "_core")}
PLAIN |= {(f"numpy.{core}.multiarray", "scalar"): SCALAR for core in ("core", "_core")}
PLAIN |= {("_codecs", "encode"): codecs.encode, ("__builtin__", "bytes"): bytes, ("builtins", "bytes"): bytes}

Box = tuple[int, int, int, int]


def open_revisited(root: Path) -> ImageData:
    """`jpg/*.jpg` and `gnd_roxford5k` or `gnd_rparis6k`, as `.json` or as the `.pkl` that the authors publish.

    Raises:
        DataError: files that are missing, or a ground truth that doesn't fit them or isn't plain data.
    """
    path = _ground_truth_file(root)
    written = _read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    names, query_names, entries = _parts(written, path)
    _check_images(root / "jpg", [*names, *query_names])
    queries = [_rows(entry, len(names), f"{path}: query {i}") for i, entry in enumerate(entries)]
    paths = [root / "jpg" / f"{name}.jpg" for name in names]
    query_paths = [root / "jpg" / f"{name}.jpg" for name in query_names]
    boxes = [
        _box(entry["bbx"], image, f"{path}: query {i}") if entry.get("bbx") is not None else None
        for i, (entry, image) in enumerate(zip(entries, query_paths, strict=True))
    ]
    return ImageData(
        ImageSet(tuple(names), (-1,) * len(names), (), paths.__getitem__),
        ImageSet(_query_ids(query_names), (-1,) * len(boxes), (), lambda i: _crop(query_paths[i], boxes[i])),
        {"queries": queries},
    )


class PlainUnpickler(pickle.Unpickler):
    """Gives plain data and numpy arrays, and refuses whatever else a pickle names, before anything of it is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise DataError(
                f"it holds code ({module}.{name}), which is never run; take the file that the authors of the benchmark "
                f"publish, or write the same contents as JSON"
            )
        return PLAIN[module, name]


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain data and numpy arrays holds, of Python 2 or 3; nothing that it names is ever run.

    Raises:
        DataError: unreadable, damaged, or something else in it.
    """
    try:
        with path.open("rb") as file:
            return PlainUnpickler(file, encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: can't be read as a pickle ({reason(error)}); fetch it again") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read as JSON ({reason(error)}); write it again") from error


def _ground_truth_file(root: Path) -> Path:
    there = [root / f"{name}{suffix}" for name in NAMES for suffix in (".json", ".pkl")]
    there = [path for path in there if path.is_file()]
    if not there:
        raise DataError(
            f"data.root is {str(root)!r}, which holds no revisited benchmark: expected gnd_roxford5k.pkl or "
            f"gnd_rparis6k.pkl (or .json), and jpg with the images"
        )
    if len({path.stem for path in there}) > 1:
        raise DataError(
            f"data.root is {str(root)!r}, which holds the ground truth of Oxford and of Paris; give each a folder of "
            f"its own, with jpg beside it"
        )
    return there[0]


def _parts(written: Any, path: Path) -> tuple[list[str], list[str], list[dict]]:
    """`imlist`, `qimlist` and `gnd`."""
    parts = [written.get(key) for key in ("imlist", "qimlist", "gnd")] if isinstance(written, dict) else [None] * 3
    names, queries, entries = (part.tolist() if isinstance(part, np.ndarray) else part for part in parts)
    if not (_holds(names, str) and _holds(queries, str) and _holds(entries, dict) and len(queries) == len(entries)):
        raise DataError(
            f"{path}: must be a dict of imlist and qimlist, lists of image names, and gnd, a list with a dict for each "
            f"of qimlist; fetch it again"
        )
    return names, queries, entries


def _holds(value: Any, kind: type) -> TypeGuard[list]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _check_images(folder: Path, names: list[str]) -> None:
    there = {path.stem for path in folder.glob("*.jpg")}
    missing = sorted(set(names) - there)
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the {len(set(names))} images are missing; the benchmark needs all:\n"
            f"{listing(f'{name}.jpg' for name in missing)}"
        )


def _rows(entry: dict, images: int, where: str) -> dict[str, list[int]]:
    """`easy`, `hard` and `junk` as lists of plain ints."""
    rows = {}
    for kind in DIFFICULTIES:
        try:
            values = np.asarray(entry[kind]).ravel()
        except (KeyError, ValueError):
            values = np.array([None])
        if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= images):
            raise DataError(
                f"{where}: {kind!r} must list numbers of imlist, 0..{images - 1}, but is "
                f"{entry.get(kind, 'missing')!s:.200}; fetch the ground truth again"
            )
        rows[kind] = [int(value) for value in values]
    counts = Counter(row for kind in DIFFICULTIES for row in set(rows[kind]))
    shared = sorted(row for row, count in counts.items() if count > 1)
    if shared:
        raise DataError(
            f"{where}: an image can be one of easy, hard and junk alone, but these, numbers of imlist, are more:\n"
            f"{listing(shared)}\nFetch the ground truth again"
        )
    return rows


def _box(value: Any, path: Path, where: str) -> Box:
    """`(left, top, right, bottom)` in whole pixels of the file, within the image."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except BROKEN_IMAGE as error:
        raise DataError(f"{path}: can't be read as an image ({error}); the benchmark needs it: replace it") from error
    try:
        left, top, right, bottom = (round(float(v)) for v in value)
    except (TypeError, ValueError, OverflowError):
        left = top = right = bottom = 0
    box = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise DataError(
            f"{where}: bbx is {value}; it must be x1, y1, x2, y2 of a box in {path.name}, which is {width}×{height} "
            f"(width×height): fetch the ground truth again"
        )
    return box


def _query_ids(names: list[str]) -> tuple[str, ...]:
    """Names of the query images; a second query of one image is `NAME#2`."""
    seen: Counter[str] = Counter()
    ids = []
    for name in names:
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(ids)


def _crop(path: Path, box: Box | None) -> Path | Image.Image:
    """The box is cut before the image is turned upright, for its pixels are those of the file."""
    if box is None:
        return path
    try:
        with Image.open(path) as image:
            return image.crop(box)
    except BROKEN_IMAGE as error:
        raise DataError(f"{path}: can't be read as an image ({error}); the benchmark needs it: replace it") from error
