"""The page of a folder of results: all images, the most doubtful first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from fungi_seg.bank import SourceImages
from fungi_seg.errors import DataError
from fungi_seg.files import replacing
from fungi_seg.images import displayed, in_square, outlined
from fungi_seg.results.names import REPORT
from fungi_seg.results.records import BINS, ImageRecord
from fungi_seg.results.thumbnails import QUALITY

PAGE = "index.html"
SHOWN_VOTERS = 3  # of each image
MOST_PICTURES = 100  # of annotated images that voted, those that voted most
SIDE = 120  # of their pictures, in pixels


def voter_pictures(
    folder: Path, records: Iterable[ImageRecord], images: SourceImages, palette: np.ndarray
) -> dict[str, str]:
    """Write small pictures of the annotated images that voted most, with their annotation.

    Args:
        folder: of the results.
        records: of the segmented images.
        images: the annotated images; one that isn't found gets no picture.
        palette: `[C, 3]` uint8 RGB.

    Returns:
        By id, the file relative to `folder`.
    """
    shares: Counter[str] = Counter()
    for record in records:
        shares.update(dict(record.voters[:SHOWN_VOTERS]))
    found = {}
    for number, (source, _) in enumerate(shares.most_common(MOST_PICTURES)):
        try:
            sample = images[source]
        except DataError:
            continue
        file = f"{REPORT}/voters/{number}.jpg"
        with replacing(folder / file) as draft:
            in_square(outlined(displayed(sample.image, SIDE), sample.mask, palette), SIDE).save(draft, quality=QUALITY)
        found[source] = file
    return found


def write_page(
    folder: Path,
    records: Iterable[ImageRecord],
    classes: Sequence[str],
    palette: np.ndarray,
    bank: str,
    pictures: Mapping[str, str],
    remarks: Sequence[str] = (),
) -> Path:
    """Write `index.html` into a folder of results; it needs no network, and nothing but that folder.

    Args:
        folder: of the results.
        records: of the images.
        classes, palette: names, and `[C, 3]` uint8 RGB.
        bank: its path.
        pictures: of annotated images that voted, by id, relative to `folder`.
        remarks: what the reader must know.

    Returns:
        The file.

    Raises:
        FungiSegError: it can't be written.
    """
    images, voters, histogram = [], dict[str, int](), np.zeros(BINS, np.int64)
    calibrated = True
    for record in records:
        images.append(_image(record, len(classes), voters))
        histogram += np.array(record.histogram)
        calibrated &= record.calibrated
    data = {
        "images": images,
        "classes": [
            {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour)}
            for name, colour in zip(classes, palette.tolist(), strict=True)
        ],
        "voters": [{"name": name, "picture": pictures.get(name)} for name in voters],
        "histogram": histogram.tolist(),
        "calibrated": calibrated,
        "bank": bank,
    }
    template = Environment(loader=PackageLoader("fungi_seg.results"), autoescape=True, trim_blocks=True)
    text = template.get_template("results.html").render(
        count=len(images),
        remarks=remarks,
        bank=bank,
        calibrated=calibrated,
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    )
    with replacing(folder / PAGE) as draft:
        draft.write_text(text, encoding="utf-8")
    return folder / PAGE


def _image(record: ImageRecord, classes: int, voters: dict[str, int]) -> dict[str, Any]:
    """What the page shows of an image; `voters` numbers the annotated images."""
    size = record.width * record.height
    by = [(voters.setdefault(name, len(voters)), round(share, 4)) for name, share in record.voters[:SHOWN_VOTERS]]
    files = {file.split("/", 1)[0]: file for file in record.files if not file.startswith(REPORT)}
    found: dict[str, Any] = {
        "name": record.name,
        "file": record.file,
        "size": [record.width, record.height],
        "sure": round(record.sure, 4),
        "unknown": round(record.unknown / size, 4),
        "shares": [(index, round(pixels / size, 5)) for index, pixels in record.pixels],
        "voters": by,
        "files": files,
        "note": record.note,
    }
    if record.objects is not None:
        found["objects"] = [(i, count) for i in range(classes) if (count := record.objects_of(i))]
    return found
