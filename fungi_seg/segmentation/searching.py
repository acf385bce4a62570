"""Which index a segmenter searches: one in this process, or one that other processes search."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fungi_seg.bank import MemoryBank
from fungi_seg.search import SERVED_KINDS, AnyKeys, IndexConfig
from fungi_seg.served import served_index


class Searcher(Protocol):
    """What a segmenter needs of an index; see `NeighbourIndex`."""

    @property
    def kind(self) -> str: ...

    def search(self, queries: np.ndarray, k: int, /) -> tuple[np.ndarray, np.ndarray]: ...

    def recall(self, keys: AnyKeys, queries: np.ndarray, k: int, /) -> float: ...


def searcher_for(bank: MemoryBank, config: IndexConfig, gradient_weight: float | None) -> Searcher:
    """The index that `config` asks for, over the rows of `bank`; arguments as for `MemoryBank.neighbour_index`."""
    if config.kind in SERVED_KINDS:
        return served_index(bank, config, gradient_weight)
    return bank.neighbour_index(config, gradient_weight)
