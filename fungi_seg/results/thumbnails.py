"""Small pictures of a segmented image for the page."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fungi_seg.files import replacing
from fungi_seg.images import Display, displayed, outlined, scaled_to, stretched
from fungi_seg.results.names import REPORT
from fungi_seg.segmentation import Segmentation

SMALL, LARGE = 320, 1024  # pixels of the longer side
QUALITY = 85


def save_views(found: Segmentation, folder: Path, name: str) -> tuple[list[str], list[str]]:
    """Write `report/thumbnails/NAME.jpg` (its mask on it) and `report/images/NAME.jpg` (without), made smaller.

    Returns:
        What was written, relative to `folder`, and what a caption has to say of the pictures.
    """
    large = displayed(found.image, min(LARGE, max(found.image.shape[:2])))
    small = Display(stretched(scaled_to(found.image, SMALL), large.stretch), large.size, large.stretch)
    views = {
        "thumbnails": outlined(small, found.mask, found.palette, found.void),
        "images": Image.fromarray(large.image),
    }
    files = []
    for kind, picture in views.items():
        files.append(f"{REPORT}/{kind}/{name}.jpg")
        with replacing(folder / files[-1]) as draft:
            picture.save(draft, quality=QUALITY)
    notes = [large.note] if large.note else []
    if found.by_hand is not None:
        notes.append(f"{100 * found.by_hand.mean():.1f} % of its pixels corrected by hand")
    return files, notes
