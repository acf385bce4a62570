"""Files found by the end of their path, or in another spelling of their name."""

from __future__ import annotations

import unicodedata
from collections import Counter
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


def composed(name: str) -> str:
    """A name in which an accented letter is one character (NFC); on macOS it often is two, a letter and its accent."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spellings(name: str) -> dict[str, None]:
    """A name, and the same in the other Unicode form where it has one."""
    forms = [] if name.isascii() else [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return dict.fromkeys([name, *forms])


def by_form(known: Iterable[str]) -> dict[str, str]:
    """Names by their composed form, but for those that differ in nothing else."""
    names = list(known)
    counts = Counter(map(composed, names))
    return {form: name for name in names if counts[form := composed(name)] == 1}


def is_file(path: Path) -> bool:
    """Whether there is a file of that name; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _shared(one: PurePath, other: PurePath) -> int:
    pairs = zip(reversed(one.parent.parts), reversed(other.parent.parts), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.parts), len(other.parts)) - 1)
