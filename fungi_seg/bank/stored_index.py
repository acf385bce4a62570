"""The index that a bank carries: codes beside its keys, as plain arrays that are checked before they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.keys import Keys, Part
from fungi_seg.bank.manifest import Entry, Manifest, Segment, StoredFile, history_entry
from fungi_seg.bank.writer import BankWriter
from fungi_seg.errors import BankError
from fungi_seg.search import CodedLists, CodedRows, Coder, Effort, StoredIndex, train_coder, tune

ROWS = 65_536
OUTGROWN = 2.0  # times as many rows as the effort was fitted to


def indexed(bank: BankContents, writer: BankWriter, recall: float, lists: int | None) -> Manifest:
    """The bank with an index; see `MemoryBank.make_index`."""
    entry, segments, reached = make_index(bank, writer, recall, lists)
    made = history_entry("index", len(bank), wanted=recall, reached=round(reached, 4))
    return replace(bank.manifest, index=entry, segments=segments, history=(*bank.manifest.history, made))


def make_index(
    bank: BankContents, writer: BankWriter, recall: float, lists: int | None
) -> tuple[Entry, tuple[Segment, ...], float]:
    """What codes are made with, segments with codes, and the recall that the effort fitted to `recall` reached."""
    coder = train_coder(bank.rows.keys, lists, seed=0)
    segments = coded(bank, writer, coder, bank.manifest.segments)
    entry, reached = _fitted(bank, writer, coder, segments, recall)
    return entry, segments, reached


def refitted(bank: BankContents, writer: BankWriter, manifest: Manifest) -> Manifest:
    """`manifest` of the bank after a change, the effort fitted anew if rows are gone that it was fitted to."""
    if manifest.index is None or len(manifest) >= len(bank):
        return manifest
    changed = bank.changed(manifest)
    coder, _, recalls = _read(changed, manifest.index)
    return replace(manifest, index=_fitted(changed, writer, coder, manifest.segments, float(recalls[0]))[0])


def _fitted(
    bank: BankContents, writer: BankWriter, coder: Coder, segments: Sequence[Segment], recall: float
) -> tuple[Entry, float]:
    """What codes are made with and how much of them to search for `recall`, written down; and the recall reached."""
    effort, reached = tune(CodedLists(coder, coded_rows(bank, segments)), bank.rows.keys, recall, bank.rows.source)
    figures = np.array([effort.nprobe, effort.refine, len(bank)], np.int64)
    arrays = coder.arrays() | {"effort": figures, "recall": np.array([recall, reached])}
    return writer.arrays("index", arrays), reached


def coded(bank: BankContents, writer: BankWriter, coder: Coder, segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """`segments` with codes for all keys that they store."""
    found = []
    for segment in segments:
        file = _file(bank, segment.keys)
        keys = Keys([Part(file.array(), None, file.check)], bank.info.dim)
        parts = [coder.encode(chunk) for chunk in keys.chunks(ROWS)]
        lists, codes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        found.append(replace(segment, codes=writer.arrays("codes", {"lists": lists, "codes": codes})))
    return tuple(found)


def with_codes(bank: BankContents, segments: Sequence[Segment], writer: BankWriter) -> tuple[Segment, ...]:
    """`segments` that were written for a change, with codes if the bank carries an index."""
    if bank.manifest.index is None:
        return tuple(segments)
    return coded(bank, writer, read_coder(bank, bank.manifest.index), segments)


def coded_rows(bank: BankContents, segments: Sequence[Segment]) -> list[CodedRows]:
    """The codes of the rows that count, numbered as in the bank."""
    found, first = [], 0
    for segment, part in zip(segments, bank.parts, strict=True):
        if segment.codes is None:
            raise BankError(f"{bank.path}: some rows have no codes; make its index again: fungi-seg bank index")
        arrays = _file(bank, segment.codes).arrays()
        if arrays.keys() != {"lists", "codes"} or {array.shape[:1] for array in arrays.values()} != {(segment.stored,)}:
            raise BankError(
                f"{bank.path / segment.codes.file}: isn't codes of {segment.stored} keys; make the index again"
            )
        kept = slice(None) if part.rows is None else part.rows
        found.append(CodedRows(arrays["lists"][kept], arrays["codes"][kept], np.arange(first, first + segment.rows)))
        first += segment.rows
    return found


def read_index(bank: BankContents, entry: Entry, recall: float) -> StoredIndex:
    """The index that a bank carries; what it searches is left open where it was fitted to something else."""
    coder, effort, recalls = _read(bank, entry)
    fits = recalls[0] == recall and effort[2] <= len(bank) <= effort[2] * OUTGROWN
    parts = coded_rows(bank, bank.manifest.segments)
    return StoredIndex(coder, parts, Effort(int(effort[0]), int(effort[1])) if fits else None)


def read_coder(bank: BankContents, entry: Entry) -> Coder:
    """What the codes of a bank are made with."""
    return _read(bank, entry)[0]


def check_index(bank: BankContents, entry: Entry) -> None:
    """Raise unless the index that a bank carries could be searched."""
    stored = read_index(bank, entry, 1.0)
    CodedLists(stored.coder, stored.parts)


def _read(bank: BankContents, entry: Entry) -> tuple[Coder, np.ndarray, np.ndarray]:
    arrays = _file(bank, entry).arrays()
    coder = Coder.from_arrays(arrays)
    effort, recalls = (arrays.get(name, np.empty(0)) for name in ("effort", "recall"))
    numbers = effort.dtype == np.int64 and effort.shape == (3,) and (effort > 0).all()
    if not numbers or recalls.dtype != np.float64 or recalls.shape != (2,) or coder.dim != bank.info.dim:
        raise BankError(f"{bank.path / entry.file}: isn't an index of this bank; make it again: fungi-seg bank index")
    return coder, effort, recalls


def _file(bank: BankContents, entry: Entry) -> StoredFile:
    """A file of the open bank, or one that was written for a change of it."""
    return bank.files.get(entry.file) or StoredFile(bank.path, entry)
