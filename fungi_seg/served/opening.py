"""The one way in: an index that other processes search, of the kind that is asked for."""

from __future__ import annotations

from fungi_seg.bank import MemoryBank
from fungi_seg.search import SHARDED, IndexConfig
from fungi_seg.served.milvus import MilvusIndex
from fungi_seg.served.sharded import ShardedIndex


def served_index(
    bank: MemoryBank, config: IndexConfig, gradient_weight: float | None = None
) -> ShardedIndex | MilvusIndex:
    """Search among a bank's rows in other processes.

    Args:
        bank: an open bank.
        config: of kind `sharded` or `milvus`.
        gradient_weight: see `MemoryBank.query_scale`.

    Raises:
        FungiSegError, BankError, MissingExtra: as `ShardedIndex` and `MilvusIndex`.
    """
    if config.kind == SHARDED:
        return ShardedIndex(bank, config, gradient_weight)
    return MilvusIndex(bank, config, gradient_weight)
