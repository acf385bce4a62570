"""Names of what lies in folders, each folder listed once until `forget`: the guess looks into the same ones again."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

MOST = 100  # sub-folders to look at


class Names(NamedTuple):
    """What a folder holds, by name: links count as what they lead to."""

    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@cache
def names_in(folder: Path) -> Names:
    """What a folder holds; nothing where it isn't one, or can't be listed."""
    folders: list[str] = []
    files: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            (folders if _is_folder(entry) else files).append(entry.name)
    return Names(tuple(sorted(folders)), tuple(sorted(files)))


def forget() -> None:
    """List folders anew."""
    names_in.cache_clear()


def can_be_listed(folder: Path) -> bool:
    """Whether names in the folder may be read and looked up; nothing of it is."""
    try:
        os.scandir(os.path.join(folder, os.curdir)).close()
    except OSError:
        return False
    return True


def subfolders(folder: Path) -> list[Path]:
    """The first folders within one, by name, without hidden ones and those that can't be listed."""
    shown = [folder / name for name in names_in(folder).folders if not name.startswith(".")]
    return [inner for inner in shown[:MOST] if can_be_listed(inner)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to what can't be looked at
        return False
