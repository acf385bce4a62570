"""Search among all rows of a bank or a run of them; of a run only its own files are opened and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fungi_seg.bank import stored_index
from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.keys import Keys
from fungi_seg.bank.manifest import Manifest, Segment, read_manifest
from fungi_seg.errors import BankError
from fungi_seg.search import LISTS, CodedRows, IndexConfig, NeighbourIndex, chosen


class RowRange:
    """Rows `start` to `stop` of an open bank.

    Args:
        contents: a bank, or some successive segments of one.
        start, stop: rows of it, the latter exclusive.
    """

    def __init__(self, contents: BankContents, start: int, stop: int):
        self._contents, self.start, self.stop = contents, start, stop
        spans = zip(_firsts(contents.manifest.segments), contents.parts, strict=True)
        cut = [part.cut(max(0, start - first), max(0, stop - first)) for first, part in spans]
        self.keys = Keys([part for part in cut if len(part)], contents.info.dim)

    def __len__(self) -> int:
        return self.stop - self.start

    @classmethod
    def open(cls, path: Path, start: int, stop: int, seal: str) -> RowRange:
        """Rows `start` to `stop` of the bank at `path`, without what holds only other rows.

        Args:
            path: folder of the bank.
            start, stop: rows of the whole bank.
            seal: of the manifest that the rows are counted by.

        Raises:
            BankError: no bank there, one that was changed since, or a file that is missing or hasn't its size.
        """
        manifest = _unchanged(path, seal)
        spans = zip(_firsts(manifest.segments), manifest.segments, strict=True)
        wanted = [(first, one) for first, one in spans if first < stop and first + one.rows > start]
        some = replace(manifest, segments=tuple(one for _, one in wanted), support=None, ridge=None)
        try:
            contents = BankContents(path, some)
        except BankError:
            _unchanged(path, seal)  # a change while files were opened explains those that are missing
            raise
        return cls(contents, start - wanted[0][0], stop - wanted[0][0])

    def neighbour_index(self, config: IndexConfig, scale: np.ndarray | None = None) -> NeighbourIndex:
        """Search among these rows, counted from 0; by the index that the bank carries if `config` wants such a one."""
        stored, carried = None, self._contents.manifest.index
        if chosen(len(self), self.keys.shape[1], config).kind == LISTS and carried:
            read = stored_index.read_index(self._contents, carried, config.recall)
            stored = replace(read, parts=[self._numbered(part) for part in read.parts])
        if stored is None or stored.effort is None or scale is not None:
            for part in self.keys.parts:
                part.check()  # all keys are read now
        groups = self._contents.rows.source[self.start : self.stop]
        return NeighbourIndex(self.keys, config, stored, scale, groups)

    def _numbered(self, coded: CodedRows) -> CodedRows:
        """Those of coded rows that lie in the range, counted from its start."""
        inside = (coded.rows >= self.start) & (coded.rows < self.stop)
        return CodedRows(coded.lists[inside], coded.codes[inside], coded.rows[inside] - self.start)


def _firsts(segments: tuple[Segment, ...]) -> Iterator[int]:
    """The number of each segment's first row."""
    first = 0
    for segment in segments:
        yield first
        first += segment.rows


def _unchanged(path: Path, seal: str) -> Manifest:
    manifest = read_manifest(path)
    if manifest.seal != seal:
        raise BankError(f"{path}: the bank was changed since it was opened; open it again")
    return manifest
