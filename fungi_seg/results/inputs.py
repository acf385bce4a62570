"""Which files are images to segment, and what their results are called."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from fungi_seg.datasets import check_name
from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.files import FOLDERS_AS_FILES, files_below
from fungi_seg.images import RASTER_SUFFIXES, InputConfig, bare, has_suffix, images_of, left_out
from fungi_seg.rasters import file_of
from fungi_seg.results.names import RECORD, kinds_of_results


def find_images(
    patterns: Sequence[str],
    remarks: list[str] | None = None,
    out: Path | None = None,
    input: InputConfig | None = None,
) -> dict[str, Path]:
    """Image files by the name their results get: the path within the folder searched, without suffix.

    Stacks and videos are an image a plane, whose address is given in place of the file: `cells.tif[z=3]`.

    Args:
        patterns: image files, folders (searched through), glob patterns, and addresses of planes.
        remarks: gets a line for what is left out.
        out: folder of results, whose masks and pictures are no images to segment. Nor are those of other runs in a
            folder that is searched, of which `remarks` gets a line.
        input: how images are read: with a projection, planes along z are one image.

    Raises:
        DataError: a pattern without an image, two images of one name, or a name that isn't UTF-8.
        MissingExtra: a file is named for whose kind a package isn't installed.
    """
    found: dict[str, Path] = {}
    lines = [] if remarks is None else remarks
    others: set[Path] = set()
    results = [] if out is None else [(out / name).resolve() for name in kinds_of_results()]
    runs: dict[Path, int] = {}
    without: Counter[str] = Counter()
    for pattern in patterns:
        base = Path(pattern).expanduser()
        named, searched = _is_file(file_of(base)), base.is_dir() and not _is_file(base)
        if named:
            files = paths = [base]
        else:
            files = files_below(base, lines) if searched else _matching(str(base))
            files = [path for path in files if not _is_within(path, results)]
            files = _without_runs(files, base if searched else _searched(base), runs)
            paths = [path for path in files if has_suffix(path, RASTER_SUFFIXES)]
            others.update(files)
        if not paths:
            why = "".join(f"; {line}" for line in (*left_out(files, RASTER_SUFFIXES), *_of_runs(runs)))
            raise DataError(f"{pattern!r}: no such image, folder with images, or pattern that finds some{why}")
        for path in _planes(paths, input, None if named else without):
            check_name(path)
            name = bare(path).relative_to(base).as_posix() if searched else bare(path).name
            if found.get(name, path) != path:
                raise DataError(f"{found[name]} and {path} would both be written as {name!r}; segment them separately")
            found[name] = path
    lines += [*left_out(others, RASTER_SUFFIXES), *_of_runs(runs)]
    lines += [f"{count} files left out: {why}" for why, count in without.items()]
    return found


def _is_file(path: Path) -> bool:
    """Whether a path is a file, or a folder that is one image."""
    return path.is_file() or (path.suffix.lower() in FOLDERS_AS_FILES and path.is_dir())


def _planes(paths: Sequence[Path], input: InputConfig | None, without: Counter[str] | None) -> Iterator[Path]:
    """The images in files; `without` counts those for whose kind a package is missing, where they are left out."""
    for path in paths:
        try:
            yield from images_of(path, input.projection if input else None)
        except MissingExtra as error:
            if without is None:
                raise
            without[str(error)] += 1


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of some folders, whose links are resolved."""
    found = path.resolve() if folders else path
    return any(found.is_relative_to(folder) for folder in folders)


def _without_runs(files: Sequence[Path], base: Path, runs: dict[Path, int]) -> list[Path]:
    """Files that no run's results below a folder hold; of the others `runs` gets the number by the run's folder."""
    kinds, known, kept = set(kinds_of_results()), dict[Path, bool](), []
    for path in files:
        inner = path.relative_to(base).parts[:-1] if path.is_relative_to(base) else ()
        for depth in (depth for depth, name in enumerate(inner) if name in kinds):
            run = base.joinpath(*inner[:depth])
            if run not in known:
                known[run] = (run / RECORD).is_file()
            if known[run]:
                runs[run] = runs.get(run, 0) + has_suffix(path, RASTER_SUFFIXES)
                break
        else:
            kept.append(path)
    return kept


def _of_runs(runs: Mapping[Path, int]) -> list[str]:
    return [
        f"{count} files left out: masks and pictures that segment wrote to {run}; name their own folder to have them "
        f"segmented"
        for run, count in runs.items()
        if count
    ]


def _searched(pattern: Path) -> Path:
    """The folder below which a glob pattern searches."""
    fixed = takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1])
    return Path(*fixed)


def _matching(pattern: str) -> list[Path]:
    found = map(Path, glob.glob(pattern, recursive=True))
    return sorted(path for path in found if _is_file(path) or not path.is_dir())
