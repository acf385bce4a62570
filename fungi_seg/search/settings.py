"""How neighbours are searched."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_seg.errors import FungiSegError, check_unused

RECALL = 0.98
EXACT, BFLOAT16, INT8, LISTS = "flat", "bfloat16", "int8", "lists"
EXACT_KINDS = (EXACT, BFLOAT16, INT8)
OPTIONS = ("recall", "nprobe", "refine")
LISTED, REFINED = ("IVF", "IMI"), ("Refine", "RFlat")  # in FAISS factory strings
OTHER_KIND = "leave it out, or use index.kind auto or lists"


@dataclass(frozen=True)
class IndexConfig:
    """How neighbours are searched.

    Args:
        kind: `auto` (exact up to 20 000 rows, on GPUs, and where that is about as fast as `lists` here; else `lists`),
            `flat` (exact, in the numbers that this processor multiplies fastest), `bfloat16` or `int8` (exact, in
            those), `lists` (codes in memory find candidates, the bank's keys rank them), or any FAISS factory string,
            such as `IVF512,Flat`.
        recall: share of the exact neighbours that `lists` is tuned to find in new images.
        nprobe: lists searched a query; `null` takes what tuning finds, or one in 20 and at least 8 of a factory string.
            `auto` searches small banks exactly all the same.
        refine: candidates rescored exactly for each neighbour asked for; `null` takes what tuning finds, or 4 where a
            factory string has a refine stage. `auto` as above.
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
        self._check_unused()

    def _check_unused(self) -> None:
        """Raise if the kind of index makes nothing of an option."""
        if self.kind in EXACT_KINDS:
            check_unused(self, "index.", OPTIONS, f"index.kind {self.kind} is exact", OTHER_KIND)
        elif self.kind not in ("auto", LISTS):
            lists, refined = any(n in self.kind for n in LISTED), any(n in self.kind for n in REFINED)
            check_unused(self, "index.", ("recall",), f"index.kind {self.kind!r} isn't tuned", OTHER_KIND)
            check_unused(
                self, "index.", () if lists else ("nprobe",), f"index.kind {self.kind!r} has no lists", OTHER_KIND
            )
            refine = () if refined else ("refine",)
            check_unused(self, "index.", refine, f"index.kind {self.kind!r} has no refine stage", OTHER_KIND)
        elif self.nprobe and self.refine:
            both = "index.nprobe and index.refine are set, and nothing is left to tune"
            check_unused(self, "index.", ("recall",), both, "leave it out, or one of them")
