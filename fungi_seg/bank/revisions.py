"""Earlier states of a bank: their manifests lie in its folder, and what those name stays until it is compacted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fungi_seg.bank.manifest import Entry, Manifest, Revision, parse_manifest
from fungi_seg.errors import BankError

GOING_BACK = ("undo", "checkout")  # their entries in the history say `to` which revision


def read_revision(path: Path, revision: Revision) -> Manifest:
    """The manifest of an earlier state of the bank at `path`.

    Raises:
        BankError: it is missing or damaged.
    """
    file = path / revision.manifest.file
    try:
        text = file.read_bytes()
    except OSError as error:
        raise BankError(f"{file}: the manifest of revision {revision.number} can't be read ({error})") from error
    if hashlib.sha256(text).hexdigest() != revision.manifest.sha256:
        raise BankError(
            f"{file}: the manifest of revision {revision.number} is damaged (its SHA-256 isn't the one that the bank "
            f"states)"
        )
    manifest = parse_manifest(text, file)
    if manifest.revision != revision.number:
        raise BankError(f"{file}: is the manifest of revision {manifest.revision}, not of {revision.number}")
    return manifest


def files_of(path: Path, manifest: Manifest) -> dict[str, Entry]:
    """All files of the bank at `path` beside `manifest`, by name: of this state, and of those that it can go back to.

    Raises:
        BankError: the manifest of an earlier state is missing or damaged.
    """
    found = {entry.file: entry for entry in manifest.entries()}
    for revision in manifest.revisions:
        earlier = read_revision(path, revision)
        found |= {entry.file: entry for entry in (revision.manifest, *earlier.entries())}
    return found


def bytes_of_earlier(path: Path, manifest: Manifest) -> int:
    """What earlier states take on disk beside the present one."""
    present = {entry.file for entry in manifest.entries()}
    return sum(entry.bytes for name, entry in files_of(path, manifest).items() if name not in present)


def lineage(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was done to make a bank what it is, oldest first: without what was taken back, and without taking back.

    Raises:
        BankError: an entry goes back to one that isn't earlier.
    """
    found, number = [], len(history)
    while number:
        entry = history[number - 1]
        if entry.get("action") in GOING_BACK:
            number = went_to(entry, number)
        else:
            found.append(entry)
            number -= 1
    return found[::-1]


def went_to(entry: Mapping[str, Any], number: int) -> int:
    """Which revision entry `number` of a history, which went back, went to."""
    to = entry.get("to")
    if type(to) is not int or not 0 <= to < number:
        raise BankError(
            f"the history of the bank is damaged: its entry {number} goes back to {to}, which isn't an earlier one; "
            f"build the bank again"
        )
    return to
