"""What a JSON of annotations is, by its beginning, middle and end: it may be too large to be parsed for that."""

from __future__ import annotations

import json
import re
from pathlib import Path

PIECE = 1 << 16
NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
NO_ANNOTATION = re.compile(r'"annotations"\s*:\s*\[\s*\]')
FEW = 20


def peek(path: Path) -> str:
    """The first, middle and last 64 KB of a text file, or all of a short one; nothing if it can't be read."""
    try:
        with path.open("rb") as opened:
            size = opened.seek(0, 2)
            starts = (0, size // 4 * 2, (size - PIECE) // 2 * 2) if size > 3 * PIECE else (0, PIECE, 2 * PIECE)
            pieces = [opened.read(PIECE) for start in starts if opened.seek(start) == start]
    except OSError:
        return ""
    text = b"".join(pieces)
    return text.decode(json.detect_encoding(text[:4]), errors="replace")


def encoding(path: Path) -> str:
    """What a JSON file is encoded in, `utf-8` and the like, by its first bytes; `utf-8` if it can't be read."""
    try:
        with path.open("rb") as opened:
            return json.detect_encoding(opened.read(4))
    except OSError:
        return "utf-8"


def json_kind(text: str) -> str:
    """What `peek` found.

    Returns:
        `coco` (outlines or run lengths), `panoptic`, `boxes` (COCO without outlines), `empty` (COCO without
        annotations), `results` (COCO predictions),
        `labelme`, `labelstudio`, or nothing.
    """
    listed = text.lstrip().startswith("[")
    if listed and _has(text, "data", "annotations"):
        return "labelstudio"
    if listed and _has(text, "image_id", "category_id"):
        return "results"
    if _has(text, "shapes") and any(_has(text, key) for key in ("imagePath", "imageHeight", "imageData")):
        return "labelme"
    if listed or not _is_coco(text):
        return ""
    kinds = {"segments_info": "panoptic", "segmentation": "coco", "bbox": "boxes"}
    layout = next((kind for key, kind in kinds.items() if _has(text, key)), "")
    return layout or ("empty" if NO_ANNOTATION.search(text) else "")


def _is_coco(text: str) -> bool:
    """Whether two of the lists are seen, or one of them at the start, beside annotations that name their image."""
    seen = [re.search(rf'"{key}"\s*:\s*\[', text) for key in ("images", "annotations", "categories")]
    starts = [found.start() for found in seen if found]
    return len(starts) > 1 or bool(starts and min(starts) < PIECE and _has(text, "image_id"))


def file_names(text: str) -> list[str]:
    """The first image files that a COCO JSON names, of which `peek` gave the text."""
    names = []
    for found in NAME.finditer(text):
        try:
            names.append(json.loads(found[1]))
        except ValueError:  # cut between two pieces
            continue
        if len(names) == FEW:
            break
    return names


def _has(text: str, *keys: str) -> bool:
    return all(re.search(rf'"{key}"\s*:', text) for key in keys)
