"""Why an image seems to have no mask, by what else lies in the masks' folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from fungi_seg.files import files_below
from fungi_seg.images import MASK_SUFFIXES

JPEG = (".jpg", ".jpeg", ".jfif")
FEW = 10  # images that a file of a similar name is looked for


def why_no_mask(lone: Sequence[str], images: Collection[str], folder: Path | None) -> dict[str, str]:
    """For ids of images without a mask `; …`, where a file in the masks' folder explains it.

    Args:
        lone: those ids.
        images: all ids of images.
        folder: of the masks; without one the answer is empty.
    """
    if not lone or folder is None:
        return {}
    found = [path for path in files_below(folder) if not path.name.startswith(".")]
    others = {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}
    why = {i: f"; {_place(others[i])} {_wrong(others[i])}: save it as PNG" for i in lone if i in others}
    spare = [path for i, path in others.items() if i not in images]
    return {i: written for i in lone[:FEW] if (written := _like(i, spare))} | why


def _like(i: str, files: Sequence[Path]) -> str:
    """The only file in whose name that of an image stands, apart from other letters and digits; or nothing."""
    name = re.compile(rf"(?<![^\W_]){re.escape(PurePosixPath(i).name)}(?![^\W_])")
    like = [path for path in files if name.search(path.stem)]
    if len(like) != 1:
        return ""
    wrong = "" if like[0].suffix.lower() in MASK_SUFFIXES else f", which {_wrong(like[0])},"
    return f"; {_place(like[0])}{wrong} may be it, but must be called {PurePosixPath(i).name}.png"


def _wrong(path: Path) -> str:
    if path.suffix.lower() in JPEG:
        return "is a JPEG, which changes ids"
    return f"is no mask image ({path.suffix or 'no suffix'})"


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
