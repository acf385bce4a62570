"""A bank as one file, to carry it from machine to machine."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

from fungi_seg.bank.manifest import Entry, Manifest, StoredFile, parse_manifest
from fungi_seg.bank.settings import MANIFEST
from fungi_seg.bank.writer import BankWriter, changing, check_target
from fungi_seg.errors import BankError
from fungi_seg.files import replacing

LARGEST_MANIFEST = 1 << 30


def pack(manifest: Manifest, files: Mapping[str, StoredFile], file: Path) -> Path:
    """Write a bank as an uncompressed tar archive, its manifest first; earlier states stay behind."""
    if file.exists():
        raise BankError(f"{file}: is there already; name another file")
    with replacing(file) as draft, tarfile.open(draft, "w") as archive:
        text = manifest.alone.text()
        archive.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
        alone = {stored.entry.alone.file: stored for stored in files.values()}
        for name, stored in sorted(alone.items()):
            archive.addfile(_member(name, stored.entry.bytes), stored.stream())
    return file


def unpack(file: Path, path: Path, check: Callable[[Manifest], None]) -> None:
    """Make the bank in `file` the one at `path`; only files that its manifest names are taken, each checked.

    `check` is called once the files are at `path`, before they become a bank.
    """
    check_target(path, overwrite=False)
    try:
        with tarfile.open(file, "r:") as archive:
            manifest = replace(_manifest(archive, file), revisions=())
            with changing(path) as writer:
                check_target(path, overwrite=False)  # once more: another process may have been faster
                for entry in {entry.file: entry for entry in manifest.entries()}.values():
                    _take(archive, entry, file, writer)
                check(manifest)
                writer.commit(manifest)
    except (tarfile.TarError, EOFError) as error:
        raise BankError(f"{file}: not a whole file of a bank ({error}); export it again") from error
    except FileNotFoundError as error:
        raise BankError(f"{file}: no such file; make one with fungi-seg bank export") from error
    except (IsADirectoryError, PermissionError) as error:
        raise BankError(f"{file}: can't be read ({error}); name a file that fungi-seg bank export wrote") from error


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _manifest(archive: tarfile.TarFile, file: Path) -> Manifest:
    size, opened = _plain(archive, MANIFEST, file)
    if size > LARGEST_MANIFEST:
        raise BankError(f"{file}: {MANIFEST} has {size} bytes, more than a manifest can have; export the bank again")
    return parse_manifest(opened.read(), file)


def _take(archive: tarfile.TarFile, entry: Entry, file: Path, writer: BankWriter) -> None:
    size, opened = _plain(archive, entry.file, file)
    if size != entry.bytes or writer.stream(entry, opened) != entry:
        raise BankError(f"{file}: {entry.file} is damaged (its size or SHA-256 isn't the manifest's); copy it again")


def _plain(archive: tarfile.TarFile, name: str, file: Path) -> tuple[int, IO[bytes]]:
    """Size and contents of a member; one that is a link, or has holes, is refused."""
    try:
        member = archive.getmember(name)
    except KeyError as error:
        raise BankError(f"{file}: has no {name}; export the bank again") from error
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    opened = archive.extractfile(member) if plain else None
    if opened is None:
        raise BankError(f"{file}: {name} is not a plain file in it; export the bank again")
    return member.size, opened
