"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fungi_seg.errors import FungiSegError

FOLDERS_AS_FILES = (".zarr",)  # suffixes of folders that are one image


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all went well and is removed otherwise.

    Raises:
        FungiSegError: the file can't be written.
    """
    draft = path.with_name(f".{path.stem}-{uuid4().hex[:20]}{path.suffix}")  # other machines may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    except OSError as error:
        raise FungiSegError(f"{path}: can't be written ({error}); free some space, or name another folder") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays as safetensors, whole or not at all.

    Raises:
        FungiSegError: the file can't be written.
    """
    with replacing(path) as draft:
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft, metadata)
        except SafetensorError as error:  # how the library reports a failed write
            raise OSError(str(error)) from error


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write an npy file. `np.save` loses the end of an array without a word where the disk is full."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, np.lib.format.header_data_from_array_1_0(array))
        opened.write(array.data)
        opened.flush()
        os.fsync(opened.fileno())


def files_below(folder: Path, remarks: list[str] | None = None) -> list[Path]:
    """Files at any depth below a folder, sorted; links to files and folders count as what they lead to.

    A link that leads to a folder it lies in isn't followed, so that the search ends. Folders of `FOLDERS_AS_FILES` are
    given themselves.

    Args:
        folder: searched through.
        remarks: gets a line for each folder that can't be listed.
    """
    return sorted(_below(folder, frozenset(), [] if remarks is None else remarks))


def _below(folder: Path, above: frozenset[tuple[int, int]], remarks: list[str]) -> Iterator[Path]:
    try:
        known = folder.stat()
        here = (known.st_dev, known.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            found = [(folder / e.name, e.is_dir()) for e in entries if e.is_dir() or e.is_file() or e.is_symlink()]
    except OSError as error:
        remarks.append(f"{folder}: left out, for it can't be listed ({error.strerror})")
        return
    for path, is_folder in found:
        if is_folder and path.suffix.lower() not in FOLDERS_AS_FILES:
            yield from _below(path, above | {here}, remarks)
        else:
            yield path


def stamp(path: Path) -> list[int]:
    """Size and time of change of a file: a changed one gives something else, a missing one nothing.

    Of a folder those of all files in it: their number, sizes together and last change.
    """
    try:
        found = path.stat()
        if path.is_dir():
            inside = [file.stat() for file in files_below(path)]
            times = [found.st_mtime_ns, *(one.st_mtime_ns for one in inside)]
            return [len(inside), sum(one.st_size for one in inside), max(times)]
    except OSError:  # an error when the file is read
        return []
    return [found.st_size, found.st_mtime_ns]


def digest(value: Any) -> str:
    """The SHA-256 of what JSON can hold, hexadecimal; the order of names in a dictionary doesn't matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal; of a folder over the names and digests of all files in it."""
    if path.is_dir():
        return digest([[file.relative_to(path).as_posix(), sha256(file)] for file in files_below(path)])
    found = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()
