"""How neighbours are searched."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from fungi_seg.errors import FungiSegError, check_choice, check_unused

RECALL = 0.98
EXACT, BFLOAT16, INT8, LISTS = "flat", "bfloat16", "int8", "lists"
EXACT_KINDS = (EXACT, BFLOAT16, INT8)
SHARDED, MILVUS = "sharded", "milvus"
SERVED_KINDS = (SHARDED, MILVUS)  # searched by other processes
WITHIN = ("auto", *EXACT_KINDS, LISTS)
OPTIONS = ("recall", "nprobe", "refine")
OF_SHARDED = ("parts", "replicas", "within")
MILVUS_ADDRESS = re.compile(r"milvus://(?:[^/@]*@)?[^/@:]+:\d+/[A-Za-z_]\w*")
LISTED, REFINED = ("IVF", "IMI"), ("Refine", "RFlat")  # in FAISS factory strings


@dataclass(frozen=True)
class IndexConfig:
    """How neighbours are searched.

    Args:
        kind: `auto` (exact up to 20 000 rows, on GPUs, and where that is about as fast as `lists` here; else `lists`),
            `flat` (exact, in the numbers that this processor multiplies fastest), `bfloat16` or `int8` (exact, in
            those), `lists` (codes in memory find candidates, the bank's keys rank them), any FAISS factory string,
            such as `IVF512,Flat`, `sharded` (processes of a Ray cluster search a part of the rows each), or `milvus` (a
            Milvus server searches rows that were pushed to it).
        recall: share of the exact neighbours that `lists` is tuned to find in new images.
        nprobe: lists searched a query; `null` takes what tuning finds, or one in 20 and at least 8 of a factory string.
            `auto` searches small banks exactly all the same.
        refine: candidates rescored exactly for each neighbour asked for; `null` takes what tuning finds, or 4 where a
            factory string has a refine stage. `auto` as above.
        device: `auto` (a GPU if FAISS sees one and holds this kind of index there), `cpu` or `cuda`.
        parts: of the rows, for `sharded`; `null` makes one for each machine of the cluster.
        replicas: processes that hold the same part, for `sharded`: with 2, searches go on where one is lost.
        within: how each part is searched, for `sharded`: `auto`, `flat`, `bfloat16`, `int8` or `lists`.
        address: of the Ray cluster, for `sharded`: `local` (this machine, the default), `auto`, `host:port` or
            `ray://host:port`; for `milvus` that of the rows, `milvus://host:port/collection`.
    """

    kind: str = "auto"
    recall: float = RECALL
    nprobe: int | None = None
    refine: int | None = None
    device: str = "auto"
    parts: int | None = None
    replicas: int = 1
    within: str = "auto"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise FungiSegError(f"index.device is {self.device!r}; it must be auto, cpu or cuda")
        if not 0 < self.recall <= 1:
            raise FungiSegError(f"index.recall is {self.recall}; it must be above 0 and at most 1")
        if any(value is not None and value < 1 for value in (self.nprobe, self.refine)):
            raise FungiSegError(f"index.nprobe is {self.nprobe}, index.refine {self.refine}; both must be at least 1")
        if (self.parts is not None and self.parts < 1) or self.replicas < 1:
            raise FungiSegError(f"index.parts is {self.parts}, index.replicas {self.replicas}; both must be at least 1")
        self._check_served()
        self._check_unused()

    @property
    def of_part(self) -> IndexConfig:
        """How one part of a `sharded` index is searched."""
        return IndexConfig(self.within, self.recall, self.nprobe, self.refine, "cpu")

    def record(self) -> dict[str, Any]:
        """What results say of it: what the kind of index makes use of, and no password."""
        values = asdict(self)
        for name in () if self.kind in SERVED_KINDS else (*OF_SHARDED, "address"):
            del values[name]
        if values.get("address"):
            values["address"] = without_password(values["address"])
        return values

    def _check_served(self) -> None:
        """Raise if a search by other processes can't be meant so."""
        if self.kind != SHARDED:
            why = f"index.kind {self.kind} has no parts that other processes search"
            check_unused(self, "index.", OF_SHARDED, why, "leave it out, or use index.kind sharded")
        if self.kind not in SERVED_KINDS:
            why = f"index.kind {self.kind} is searched in this process"
            check_unused(self, "index.", ("address",), why, "leave it out, or use index.kind sharded or milvus")
            return
        check_choice("index.within", self.within, WITHIN)
        if self.device == "cuda":
            raise FungiSegError(
                f"index.device is cuda, but an index of kind {self.kind} is searched by other processes, on their "
                f"CPUs; leave it out, or use index.kind flat"
            )
        address = self.address or ""
        if self.kind == MILVUS and not MILVUS_ADDRESS.fullmatch(address):
            raise FungiSegError(
                f"index.address is {self.address and without_password(address)!r}; for index.kind milvus it must be "
                f"milvus://host:port/collection, as the bank was pushed to: fungi-seg bank push"
            )
        if self.kind == SHARDED and address.startswith("milvus:"):
            raise FungiSegError(
                f"index.address is {without_password(address)!r}, but index.kind sharded needs a Ray cluster: local, "
                f"auto, host:port or ray://host:port; or use index.kind milvus"
            )

    def _check_unused(self) -> None:
        """Raise if the kind of index makes nothing of an option."""
        name, kind = ("within", self.within) if self.kind == SHARDED else ("kind", self.kind)
        other = f"leave it out, or use index.{name} auto or lists"
        if kind == MILVUS:
            why = "index.kind milvus searches as the rows were pushed"
            check_unused(self, "index.", OPTIONS, why, "leave it out, or push the bank again with another recall")
        elif kind in EXACT_KINDS:
            check_unused(self, "index.", OPTIONS, f"index.{name} {kind} is exact", other)
        elif kind not in ("auto", LISTS):
            lists, refined = any(n in kind for n in LISTED), any(n in kind for n in REFINED)
            check_unused(self, "index.", ("recall",), f"index.kind {kind!r} isn't tuned", other)
            check_unused(self, "index.", () if lists else ("nprobe",), f"index.kind {kind!r} has no lists", other)
            refine = () if refined else ("refine",)
            check_unused(self, "index.", refine, f"index.kind {kind!r} has no refine stage", other)
        elif self.nprobe and self.refine:
            both = "index.nprobe and index.refine are set, and nothing is left to tune"
            check_unused(self, "index.", ("recall",), both, "leave it out, or one of them")


def without_password(address: str) -> str:
    """An address without the user and password in it."""
    return re.sub(r"//[^/@]*@", "//", address)
