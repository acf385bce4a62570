"""Which files are images to segment, and what their results are called."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from fungi_seg.datasets import check_name
from fungi_seg.errors import DataError
from fungi_seg.files import files_below
from fungi_seg.images import IMAGE_SUFFIXES, has_suffix, left_out
from fungi_seg.results.folder import kinds_of_results


def find_images(patterns: Sequence[str], remarks: list[str] | None = None, out: Path | None = None) -> dict[str, Path]:
    """Image files by the name their results get: the path within the folder searched, without suffix.

    Args:
        patterns: image files, folders (searched through) and glob patterns.
        remarks: gets a line for what is left out.
        out: folder of results, whose masks and pictures are no images to segment.

    Raises:
        DataError: a pattern without an image, two images of one name, or a name that isn't UTF-8.
    """
    found: dict[str, Path] = {}
    lines = [] if remarks is None else remarks
    others: set[Path] = set()
    results = [] if out is None else [(out / name).resolve() for name in kinds_of_results()]
    for pattern in patterns:
        base = Path(pattern).expanduser()
        if base.is_file():
            files = paths = [base]
        else:
            files = files_below(base, lines) if base.is_dir() else _matching(str(base))
            files = [path for path in files if not _is_within(path, results)]
            paths = [path for path in files if has_suffix(path, IMAGE_SUFFIXES)]
            others.update(files)
        if not paths:
            why = "".join(f"; {line}" for line in left_out(files))
            raise DataError(f"{pattern!r}: no such image, folder with images, or pattern that finds some{why}")
        for path in paths:
            check_name(path)
            name = path.relative_to(base).with_suffix("").as_posix() if base.is_dir() else path.stem
            if found.get(name, path) != path:
                raise DataError(f"{found[name]} and {path} would both be written as {name!r}; segment them separately")
            found[name] = path
    lines += left_out(others)
    return found


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of some folders, whose links are resolved."""
    found = path.resolve() if folders else path
    return any(found.is_relative_to(folder) for folder in folders)


def _matching(pattern: str) -> list[Path]:
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if not path.is_dir())
