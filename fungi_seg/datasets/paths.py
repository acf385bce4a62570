"""Files found by the end of their path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from fungi_seg.errors import DataError


def closest(wanted: PurePath, found: Iterable[Path]) -> Path | None:
    """Of files with the name of `wanted` the one that shares the most folders with it, from the end; none of none.

    Raises:
        DataError: several share the same.
    """
    shared = {path: _shared(wanted, path) for path in found}
    best = [path for path, count in shared.items() if count == max(shared.values())]
    if len(best) > 1:
        raise DataError(
            f"{wanted.name} could be {best[0]} or {best[1]}; rename one, or name the folder of the right ones"
        )
    return best[0] if best else None


def is_file(path: Path) -> bool:
    """Whether there is a file of that name; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _shared(one: PurePath, other: PurePath) -> int:
    pairs = zip(reversed(one.parent.parts), reversed(other.parent.parts), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.parts), len(other.parts)) - 1)
