"""Which way of searching is taken: exact, and in which numbers, or by lists; and why."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import torch

from fungi_seg.errors import FungiSegError
from fungi_seg.hardware import has_bfloat16, has_int8, processor_name
from fungi_seg.search.lists import TUNED_FOR, lists_for
from fungi_seg.search.settings import BFLOAT16, EXACT, EXACT_KINDS, INT8, LISTS, RECALL, SERVED_KINDS, IndexConfig
from fungi_seg.search.speeds import Speeds, speeds

FLAT_UP_TO = 4096  # rows, for which every way is fast
EXACT_UP_TO = 20_000  # rows, for which lists gain too little to miss a neighbour
QUERIES = 1024  # patches of an image
OVERHEAD = 1.1  # of a search, in times of its products
PAIR = {EXACT: 0.5e-9, BFLOAT16: 3e-9, INT8: 3e-9}  # seconds for each product's bound and comparison, however wide
ITEM = {EXACT: 4, BFLOAT16: 2, INT8: 1}
NAMES = {EXACT: "in float32", BFLOAT16: "in bfloat16", INT8: "in 8-bit integers", LISTS: "by lists"}
PROBED, BY_MISSES = 40, 0.7  # lists a query that find `RECALL` of its neighbours, and how that grows with fewer misses
CANDIDATES = 6  # compared exactly for each neighbour
CANDIDATE = 10  # of one candidate's comparison, in codes that could be compared in that time
INDEXED_FROM = 300_000  # rows of which making the index takes half a minute; such a bank carries it, in binary codes
INTEGER_OVERHEAD = 2.5  # as above, of 8-bit products within lists
WORTH = 1.5  # times as fast as exact search lists must be, since they miss some neighbours and take time to make


@dataclass(frozen=True)
class Choice:
    """A way of searching.

    Attributes:
        kind: `flat`, `bfloat16`, `int8`, `lists`, or a FAISS factory string.
        why: a sentence for people.
    """

    kind: str
    why: str


def chosen(rows: int, dim: int, config: IndexConfig, queries: int = QUERIES) -> Choice:
    """How a bank is searched here.

    Args:
        rows, dim: of the bank's keys.
        config: what is wanted.
        queries: that are searched for together.

    Raises:
        FungiSegError: this processor can't do what is wanted.
    """
    on_gpu = gpu_wanted(config)
    _check(config)
    if config.kind not in ("auto", EXACT):
        return Choice(config.kind, "index.kind names it")
    if on_gpu:
        return Choice(EXACT, "exact, for FAISS sees a GPU")
    if rows <= FLAT_UP_TO:
        return Choice(EXACT, f"exact, for {rows} rows are few")
    found = speeds()
    times = _exact_seconds(rows, dim, queries, found)
    kind = min(times, key=times.__getitem__)
    if config.kind == "auto" and config.recall < 1 and rows > EXACT_UP_TO:
        by_lists = _lists_seconds(rows, dim, queries, config.recall, found)
        kind, times = (LISTS if by_lists * WORTH < times[kind] else kind), times | {LISTS: by_lists}
    return Choice(kind, _why(kind, times, queries))


def integers_in_lists(rows: int) -> bool:
    """Whether lists that are made when a bank of so many rows is opened hold 8-bit integers, or binary codes."""
    return rows < INDEXED_FROM and has_int8()


def gpu_wanted(config: IndexConfig) -> bool:
    """Whether FAISS is asked to search on a GPU."""
    count = getattr(faiss, "get_num_gpus", lambda: 0)()
    if config.device == "cuda" and not count:
        raise FungiSegError("index.device is cuda, but FAISS sees no GPU here; use auto or cpu")
    return config.device != "cpu" and count > 0


def _check(config: IndexConfig) -> None:
    if config.kind in SERVED_KINDS:
        raise FungiSegError(
            f"index.kind is {config.kind}, but rows are searched in this process here; use auto, flat, bfloat16, int8 "
            f"or lists. Images are segmented, evaluated and explained with any kind"
        )
    if config.device == "cuda" and config.kind in (BFLOAT16, INT8, LISTS):
        raise FungiSegError(
            f"index.device is cuda, but an index of kind {config.kind} works on the CPU only; "
            f"use index.kind flat, or index.device cpu"
        )
    if (config.kind == INT8 and not has_int8()) or (config.kind == BFLOAT16 and not has_bfloat16()):
        raise FungiSegError(
            f"index.kind is {config.kind}, but this processor ({processor_name()}) has no instructions for products "
            f"{NAMES[config.kind]}; use index.kind flat, which is exact too and takes the fastest numbers it has"
        )


def _exact_seconds(rows: int, dim: int, queries: int, found: Speeds) -> dict[str, float]:
    """By kind, of those that the processor has instructions for."""
    speed, numbers = {EXACT: found.float32, BFLOAT16: found.bfloat16, INT8: found.int8}, rows * dim
    return {
        kind: max(queries * numbers * OVERHEAD / speed[kind], numbers * ITEM[kind] / found.reading)
        + queries * rows * PAIR[kind]
        for kind in EXACT_KINDS
        if speed[kind]
    }


def _lists_seconds(rows: int, dim: int, queries: int, recall: float, found: Speeds) -> float:
    lists = lists_for(rows)
    probed = min(lists, PROBED * ((1 - RECALL) / (1 - recall)) ** BY_MISSES)
    within, others = rows * probed / lists, CANDIDATE * CANDIDATES * TUNED_FOR / found.codes + lists / found.float32
    if integers_in_lists(rows) and found.int8:
        return queries * dim * (within * INTEGER_OVERHEAD / found.int8 + others)
    return queries * dim * (within / found.codes + others)


def _why(kind: str, times: dict[str, float], queries: int) -> str:
    told = ", ".join(f"{_figure(seconds)} s {NAMES[name]}" for name, seconds in times.items())
    count = torch.get_num_threads()
    machine = f"{processor_name()}, {count} thread{'s' if count > 1 else ''}"
    nature = "finds nearly all neighbours in the least time" if kind == LISTS else "exact"
    return f"{nature}: {queries} patches take about {told} ({machine})"


def _figure(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
