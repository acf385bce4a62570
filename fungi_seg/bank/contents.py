"""What lies in the folder of an open bank: rows, support set and codes, read when they are asked for and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from fungi_seg.bank.keys import Keys, Part, is_stored_as
from fungi_seg.bank.manifest import Entry, Manifest, Segment, StoredFile, read_manifest
from fungi_seg.bank.rows import Rows, Table, from_arrays
from fungi_seg.errors import BankError

CHECK_AT_OPEN = 1 << 29
OPENINGS = 5


class BankContents:
    """The files that a manifest names, opened; they stay readable as they were if a writer replaces the bank meanwhile.

    Attributes:
        path: the folder.
        manifest: what it holds.
        info: what the bank says about itself.
        files: those that the manifest names, by name.

    Raises:
        BankError: a file is missing, or hasn't the size it should have.
    """

    def __init__(self, path: Path, manifest: Manifest, known: Mapping[str, StoredFile] | None = None):
        self.path, self.manifest, self.info = path, manifest, manifest.info
        self.files = {entry.file: _opened(path, entry, known or {}) for entry in manifest.entries()}

    def __len__(self) -> int:
        return len(self.manifest)

    @classmethod
    def open(cls, path: Path, known: Mapping[str, StoredFile] | None = None) -> BankContents:
        """See `MemoryBank.open`; files among `known`, which are open already, aren't opened and checked again."""
        for attempt in range(OPENINGS):
            manifest = read_manifest(path)
            try:
                contents = cls(path, manifest, known)
                break
            except BankError:
                if attempt == OPENINGS - 1 or read_manifest(path).seal == manifest.seal:
                    raise  # otherwise it was changed while it was being opened
        if sum(entry.bytes for entry in manifest.entries()) <= CHECK_AT_OPEN:
            contents.check_files()
        return contents

    def changed(self, manifest: Manifest) -> BankContents:
        """The same folder with what was written for a change that isn't complete yet."""
        return BankContents(self.path, manifest, self.files)

    def current(self) -> BankContents:
        """What the folder holds now: this, unless the bank was changed since it was opened."""
        unchanged = read_manifest(self.path).seal == self.manifest.seal
        return self if unchanged else BankContents.open(self.path, self.files)

    @cached_property
    def rows(self) -> Rows:
        """Keys, which stay on disk, and labels and origins of the bank's `M` rows."""
        return Rows.of(*self._tables)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Stored keys, segment by segment, and which of them count."""
        return self._tables[0].parts

    def tables(self) -> Iterator[Table]:
        """What is known of the rows beside their keys, segment by segment."""
        first = 0
        for segment in self.manifest.segments:
            yield self._tables[1].take(np.arange(first, first + segment.rows))
            first += segment.rows

    @cached_property
    def support(self) -> np.ndarray | None:
        """`[S, D]` float32 plain embeddings that the features are contrasted with, if they ask for it."""
        if self.manifest.support is None:
            return None
        keys = self.files[self.manifest.support.file].arrays().get("keys")
        if keys is None or keys.ndim != 2 or keys.dtype.kind != "f":
            raise BankError(f"{self.path}: the support set isn't [S, D] numbers; build the bank again")
        return keys.astype(np.float32)

    def check_files(self) -> None:
        """Raise unless every file holds what was written, and rows and support set can be read."""
        for file in self.files.values():
            file.check()
        _ = self.rows, self.support

    def problems(self, checked: Collection[str] = ()) -> list[str]:
        """What is wrong with files, tables, keys and support set, a line each.

        Args:
            checked: names of files whose bytes and keys aren't looked at.
        """
        found = []
        for name, file in self.files.items():
            found += [] if name in checked else problem(partial(file.check, again=True))
        for segment in self.manifest.segments:
            found += problem(partial(self._table, segment))
            found += [] if segment.keys.file in checked else problem(partial(self._check_keys, segment))
        return found + problem(lambda: self.support)

    @cached_property
    def _tables(self) -> tuple[Keys, Table]:
        parts, tables = [], []
        for segment in self.manifest.segments:
            table, places = self._table(segment)
            parts.append(Part(self._stored(segment), places, self.files[segment.keys.file].check))
            tables.append(table)
        return Keys(parts, self.info.dim), Table.concatenate(tables)

    def _table(self, segment: Segment) -> tuple[Table, np.ndarray | None]:
        file = self.files[segment.table.file]
        info = self.info
        arrays = file.arrays()
        return from_arrays(arrays, segment.rows, segment.stored, len(info.classes), len(info.sources), str(file.path))

    def _stored(self, segment: Segment) -> np.ndarray:
        file = self.files[segment.keys.file]
        stored = file.array()
        if len(stored) != segment.stored or not is_stored_as(stored, self.info.dim):
            raise BankError(
                f"{file.path}: is {list(stored.shape)} {stored.dtype}, which isn't {segment.stored} keys of width "
                f"{self.info.dim}; build the bank again"
            )
        return stored

    def _check_keys(self, segment: Segment) -> None:
        keys = Keys([Part(self._stored(segment))], self.info.dim)
        for chunk in keys.chunks():
            lengths = np.linalg.norm(chunk.astype(np.float32), axis=1)
            if not (np.abs(lengths - 1) < 0.01).all():
                raise BankError(f"{self.files[segment.keys.file].path}: a key isn't finite and of length 1")


def _opened(path: Path, entry: Entry, known: Mapping[str, StoredFile]) -> StoredFile:
    """A file of the bank; one that is open, and still lies there, isn't read again."""
    file = known.get(entry.file)
    return file if file and file.entry == entry and file.is_there() else StoredFile(path, entry)


def problem(check: Callable[[], object]) -> list[str]:
    """What `check` raises as a line, or nothing."""
    try:
        check()
    except BankError as error:
        return [str(error)]
    return []
