"""Changing a bank: one writer at a time, files under new names, and a manifest that is replaced in one step."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fungi_seg.bank.keys import key_dtype_of
from fungi_seg.bank.manifest import Entry, Manifest, Segment, of_a_bank, read_manifest
from fungi_seg.bank.revisions import files_of
from fungi_seg.bank.rows import PRIORITIES, Table, to_arrays
from fungi_seg.bank.settings import MANIFEST
from fungi_seg.errors import BankError
from fungi_seg.files import save_npy, sha256

SHARD_ROWS = 65_536
LOCK, OWNER, DRAFT, SHARDS = ".lock", ".writer.json", ".draft", "shards"


@contextlib.contextmanager
def changing(path: Path) -> Iterator[BankWriter]:
    """The only writer of the bank at `path`; what it wrote counts once `commit` was called, otherwise it is removed.

    Raises:
        BankError: another writer is at work, the folder can't be written to, or the disk is full.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise BankError(_taken(path)) from error
    except OSError as error:
        _remove_empty(made)
        raise BankError(f"{path}: can't write there ({error}); name another folder") from error
    writer = BankWriter(path)
    try:
        _sign(path)
        writer.mode = (path / OWNER).stat().st_mode & 0o777
        with contextlib.suppress(BankError):  # it isn't known which files are the bank's
            named = files_of(path, read_manifest(path)) if (path / MANIFEST).exists() else {}
            writer.shards = _shards_in(path, named)
            _remove_unnamed(path, named)
        yield writer
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise disk_full(path, error) from error
        raise
    finally:
        writer.clean()
        for name in (OWNER, LOCK):  # removed while it is held: who opened it before finds that it is gone
            with contextlib.suppress(OSError):
                (path / name).unlink(missing_ok=True)
        _remove_empty(made)
        lock.release()


class BankWriter:
    """Writes files beside whatever bank there is, and makes them the bank in one step.

    Attributes:
        path: the bank's folder.
        mode: permissions of the files.
        shards: folders with files of the bank as it was.
    """

    def __init__(self, path: Path):
        self.path, self.mode, self.shards = path, 0o644, frozenset[Path]()
        self._new: list[Path] = []
        self._draft: Path | None = None

    def array(self, stem: str, array: np.ndarray) -> Entry:
        """Write an npy file."""
        return self._save(stem, ".npy", lambda file: save_npy(file, array))

    def arrays(self, stem: str, arrays: Mapping[str, np.ndarray]) -> Entry:
        """Write a safetensors file."""
        return self._save(stem, ".safetensors", lambda file: write_arrays(file, arrays, self.path))

    def text(self, stem: str, text: bytes) -> Entry:
        """Write a JSON file."""
        return self._copy(stem, ".json", io.BytesIO(text))

    def stream(self, entry: Entry, source: IO[bytes]) -> Entry:
        """Take over a file of another bank; what is returned differs from `entry.alone` if it was damaged."""
        name = Path(entry.alone.file)
        return self._copy(name.name.partition("-")[0], name.suffix, source)

    def commit(self, manifest: Manifest) -> None:
        """Make the files that `manifest` names the bank; what no state of it names any more is removed last."""
        draft = self.path / f".new-{uuid.uuid4().hex}"
        self._new.append(draft)
        with draft.open("xb") as file:
            file.write(manifest.text())
            os.fsync(file.fileno())
        draft.chmod(self.mode)
        self._draft = draft
        os.replace(draft, self.path / MANIFEST)
        sync_folder(self.path)
        with contextlib.suppress(BankError):  # it isn't known what earlier states hold
            named = files_of(self.path, manifest)
            _remove_unnamed(self.path, named)
            for folder in self.shards - _shards_in(self.path, named):
                shutil.rmtree(folder, ignore_errors=True)

    def clean(self) -> None:
        """Remove what was written, unless it has become the bank."""
        if self._draft and not self._draft.exists():
            return
        for file in self._new:
            file.unlink(missing_ok=True)

    def _copy(self, stem: str, suffix: str, source: IO[bytes]) -> Entry:
        def write(file: Path) -> None:
            with file.open("wb") as opened:
                shutil.copyfileobj(source, opened, 1 << 20)
                opened.flush()
                os.fsync(opened.fileno())

        return self._save(stem, suffix, write)

    def _save(self, stem: str, suffix: str, write: Callable[[Path], object]) -> Entry:
        """Write a file under a name that its contents give it."""
        draft = self.path / f".new-{uuid.uuid4().hex}{suffix}"
        self._new.append(draft)
        write(draft)
        draft.chmod(self.mode)  # libraries make files that only their owner may read
        digest = sha256(draft)
        file = self.path / f"{stem}-{digest[:16]}{suffix}"
        if not file.exists():
            self._new.append(file)
        entry = Entry(file.name, digest, draft.stat().st_size)
        os.replace(draft, file)
        return entry


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray], bank: Path) -> None:
    """Write a safetensors file of the bank in the folder `bank`, and wait until it is on the disk."""
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    except SafetensorError as error:  # how the library reports a failed write
        raise disk_full(bank, error) from error
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


class Shards:
    """Rows in, segments of `SHARD_ROWS` out."""

    def __init__(self, writer: BankWriter):
        self._writer = writer
        self._waiting: list[tuple[np.ndarray, Table, np.ndarray]] = []
        self.segments: list[Segment] = []

    def add(self, stored: np.ndarray, table: Table, priorities: np.ndarray | None = None) -> None:
        """Rows with their keys as they are stored; those of candidates have priorities, and are of one epoch."""
        if self._waiting and not self._goes_on(stored, table, priorities):
            self._write(self._rows)
        self._waiting.append((stored, table, np.empty(0) if priorities is None else priorities))
        while self._rows >= SHARD_ROWS:
            self._write(SHARD_ROWS)

    def finish(self) -> tuple[Segment, ...]:
        """All segments, the last one maybe short."""
        if self._rows:
            self._write(self._rows)
        return tuple(self.segments)

    @property
    def _rows(self) -> int:
        return sum(len(table) for _, table, _ in self._waiting)

    def _goes_on(self, stored: np.ndarray, table: Table, priorities: np.ndarray | None) -> bool:
        last, of_last, _ = self._waiting[-1]
        same_epoch = priorities is None or of_last.epoch[-1] == table.epoch[0]
        return same_epoch and key_dtype_of(last) == key_dtype_of(stored)

    def _write(self, rows: int) -> None:
        keys, tables, every = zip(*self._waiting, strict=True)
        stored, table, priorities = np.concatenate(keys), Table.concatenate(tables), np.concatenate(every)
        first, rest = np.arange(rows), np.arange(rows, len(table))
        self._waiting = [(stored[rows:], table.take(rest), priorities[rows:])] if len(rest) else []
        arrays = to_arrays(table.take(first)) | ({PRIORITIES: priorities[:rows]} if len(priorities) else {})
        entry = self._writer.array("keys", stored[:rows])
        self.segments.append(Segment(entry, self._writer.arrays("table", arrays), rows, rows))


def check_target(path: Path, overwrite: bool) -> None:
    """Raise if a bank can't be written to `path`: a bank is there and may not be replaced, or something else is."""
    if (path / MANIFEST).exists():
        if not overwrite:
            raise BankError(f"{path}: there is a bank already; name another folder, or replace it with --overwrite")
    elif path.exists() and (not path.is_dir() or any(not _ours(file.name) for file in path.iterdir())):
        raise BankError(f"{path}: there is something else already; a bank needs a new or empty folder")


def disk_full(path: Path, error: Exception) -> BankError:
    """The message when a write fails."""
    return BankError(
        f"{path}: the bank can't be written ({error}). Free some space, lower bank.size, or name another "
        f"disk with --out; a bank that was there is unchanged"
    )


def _ours(name: str) -> bool:
    return of_a_bank(name) or name in (LOCK, OWNER, DRAFT, SHARDS)


def _sign(path: Path) -> None:
    who = {"pid": os.getpid(), "host": socket.gethostname(), "command": Path(sys.argv[0]).name, "since": time.time()}
    (path / OWNER).unlink(missing_ok=True)  # a killed writer's, or a link that leads elsewhere
    with (path / OWNER).open("x", encoding="utf-8") as file:
        json.dump(who, file)


def _taken(path: Path) -> str:
    try:
        who = json.loads((path / OWNER).read_text(encoding="utf-8"))
        holder = (
            f"process {int(who['pid'])} on {str(who['host'])!r} ({str(who['command'])!r}), "
            f"for {time.time() - float(who['since']):.0f} s"
        )
    except (OSError, ValueError, KeyError, TypeError):
        holder = "another process"
    return f"{path}: the bank is being changed by {holder}; wait until it is done, or stop it. Reading works meanwhile"


def _remove_unnamed(path: Path, named: Collection[str]) -> None:
    """Remove the files of states that aren't kept, and of writers that were killed."""
    for file in path.iterdir():
        if file.name not in named and of_a_bank(file.name):
            with contextlib.suppress(OSError):
                file.unlink()


def _shards_in(path: Path, named: Collection[str]) -> frozenset[Path]:
    """The folders of shards that hold some of a bank's files."""
    return frozenset((path / name).parent for name in named if "/" in name)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def sync_folder(path: Path) -> None:
    """Make names in a folder last through a power failure, where the system can."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
