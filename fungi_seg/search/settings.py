"""How neighbours are searched."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_seg.errors import FungiSegError

RECALL = 0.98


@dataclass(frozen=True)
class IndexConfig:
    """How neighbours are searched.

    Args:
        kind: `auto` (exact up to 20 000 rows and on GPUs; above, `lists`), `flat` (exact, float32 in memory), `int8`
            (exact, a quarter of the memory, faster on processors with AVX512-VNNI), `lists` (binary codes in memory
            find candidates, the bank's keys rank them), or any FAISS factory string, such as `IVF512,Flat`.
        recall: share of the exact neighbours that `lists` is tuned to find in new images.
        nprobe: lists searched a query; `null` takes what tuning finds, or one in 20 and at least 8 of a factory string.
        refine: candidates rescored exactly for each neighbour asked for; `null` takes what tuning finds, or 4 where a
            factory string has a refine stage.
        device: `auto` (a GPU if FAISS sees one and holds this kind of index there), `cpu` or `cuda`.
    """

    kind: str = "auto"
    recall: float = RECALL
    nprobe: int | None = None
    refine: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise FungiSegError(f"index.device is {self.device!r}; it must be auto, cpu or cuda")
        if not 0 < self.recall <= 1:
            raise FungiSegError(f"index.recall is {self.recall}; it must be above 0 and at most 1")
        if any(value is not None and value < 1 for value in (self.nprobe, self.refine)):
            raise FungiSegError(f"index.nprobe is {self.nprobe}, index.refine {self.refine}; both must be at least 1")
