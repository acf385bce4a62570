"""Lines of a file list: which image each names."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from fungi_seg.datasets.paths import by_form, composed
from fungi_seg.errors import DataError, listing
from fungi_seg.images import IMAGE_SUFFIXES

SEPARATORS = ",;\t "
QUOTES = "\"'"
COMMENT = "#"


def listed_ids(lines: Collection[str], known: Collection[str], path: Path) -> list[str]:
    """The ids that the lines of a file list name; what isn't known is given as it stands there, without a suffix.

    A line is an id or an image's path, with folders divided by `/` or `\\`, maybe in quotes. It is cut into columns, at
    `,`, `;`, tabs or blanks, only where it isn't known as a whole, but its first column is: that one counts. What
    begins with `#` and isn't known is a comment.

    Args:
        lines: of the list, without blanks around them.
        known: ids that there are.
        path: of the list, for messages.

    Raises:
        DataError: a line names several images, or there are comments only.
    """
    known, forms = frozenset(known), by_form(known)

    def find(text: str) -> str | None:
        return next((forms.get(composed(i), i) for i in _tails(text) if i in known or composed(i) in forms), None)

    found: list[str] = []
    for line in lines:
        columns = next((written for written in _readings(line) if find(written[0])), None)
        if columns:
            several = dict.fromkeys(filter(None, map(find, columns)))
            if len(several) > 1:
                raise DataError(
                    f"file list {str(path)!r} has the line {line!r:.200}, which names {len(several)} images; "
                    f"give each a line of its own:\n{listing(several)}"
                )
            found += several
        elif not line.startswith(COMMENT):
            found.append(_tails(line.replace("\\", "/"))[0])
    if not found:
        raise DataError(f"file list {str(path)!r} holds comments only; it must hold one entry a line")
    return found


def _readings(line: str) -> Iterator[list[str]]:
    """What a line may say, in columns: all in one first."""
    yield [line]
    if line[0] == line[-1] and line[0] in QUOTES and len(line) > 2:
        yield [line[1:-1]]
    for separator in SEPARATORS:
        if separator in line:
            columns = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
            yield [column.strip().strip(QUOTES) for column in columns]


def _tails(text: str) -> list[str]:
    """A path without the suffix of an image, whole and without ever more of its first folders."""
    found: list[str] = []
    for spelled in dict.fromkeys((text, text.replace("\\", "/"))):
        path = PurePosixPath(spelled)
        name = path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path
        found += [name.as_posix(), *("/".join(name.parts[i:]) for i in range(1, len(name.parts)))]
    return found
