"""Search of a bank in parts against one index: `python tools/sharded_search.py --rows 10000000 --parts 4`.

The bank is made up: rows lie about random centres. All processes run on this machine and share its cores, so that parts
that a cluster would search at the same time wait for each other here. Each part is therefore asked alone first. On
machines of their own, all of them would take as long as the slowest; with fewer cores than parts, at least the sum of
their times divided by the cores. The time of a whole search is compared with the larger of both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from timing import seconds, turns

from fungi_seg import BackboneConfig, FeatureConfig, IndexConfig, InputConfig, MemoryBank
from fungi_seg.bank import SparseLabels
from fungi_seg.bank.manifest import BankInfo, Manifest, history_entry
from fungi_seg.bank.rows import Table
from fungi_seg.bank.writer import Shards, changing
from fungi_seg.cli import tool
from fungi_seg.hardware import cores
from fungi_seg.served import ShardedIndex
from fungi_seg.served.parts import whole_answer

CHUNK, CENTRES, NOISE, IMAGE = 65_536, 4096, 0.7, 1024
MOST = 1.3


def keys_of(rows: int, dim: int, seed: int) -> Iterator[np.ndarray]:
    """Keys `[≤ 65 536, D]` float32 of length 1 about random centres, `rows` in all."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, dim), np.float32)
    for start in range(0, rows, CHUNK):
        generator = np.random.default_rng([seed, start])
        count = min(CHUNK, rows - start)
        keys = centres[generator.integers(0, CENTRES, count)]
        keys += NOISE * generator.standard_normal((count, dim), np.float32)
        yield keys / np.linalg.norm(keys, axis=1, keepdims=True)


def made_up(out: Path, rows: int, dim: int) -> MemoryBank:
    """A bank of so many rows, of two classes."""
    images = -(-rows // IMAGE)
    info = BankInfo(
        ("one", "two"),
        ((0, 0, 0), (255, 255, 255)),
        tuple(f"image {number}" for number in range(images)),
        BackboneConfig(),
        "0" * 64,
        FeatureConfig(kind="plain"),
        InputConfig(),
        {},
        dim,
        "2030-01-01T00:00:00+00:00",
        {},
    )
    with changing(out) as writer:
        shards, first = Shards(writer), 0
        for keys in keys_of(rows, dim, 1):
            numbers = np.arange(first, first + len(keys))
            labels = SparseLabels.from_histograms(np.eye(2, dtype=np.int64)[numbers % 2])
            box = np.tile(np.array([0, 0, 8, 8], np.float32), (len(keys), 1))
            table = Table(labels, (numbers // IMAGE).astype(np.int32), np.zeros(len(keys), np.int16), box)
            shards.add(keys.astype(np.float16), table)
            first += len(keys)
        writer.commit(Manifest(info, "float16", shards.finish(), history=(history_entry("made up", rows),)))
    return MemoryBank.open(out)


def peaks(index: ShardedIndex) -> list[float]:
    """Peak memory of each actor in GB, without files that the system keeps in memory for all."""
    import ray

    def peak(actor: Any) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e6

    return list(ray.get([actor.__ray_call__.remote(peak) for replicas in index._actors for actor in replicas]))


def sharded_search(
    rows: int = 1_000_000,
    dim: int = 64,
    parts: int = 4,
    within: str = "flat",
    queries: int = 256,
    k: int = 30,
    repeats: int = 5,
    scratch: str | None = None,
) -> None:
    """Search a bank in parts and by one index; print both times, and whether neighbours are the same.

    Args:
        rows, dim: of the bank.
        parts: processes that hold one each.
        within: kind of index in each part.
        queries: in one search.
        k: neighbours of each.
        repeats: searches that are timed.
        scratch: folder for the bank, 2 bytes a number.
    """
    import ray

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        print(f"{processor()}, {cores()} cores")
        bank = made_up(Path(folder) / "bank", rows, dim)
        asked = next(keys_of(queries, dim, 2))
        started = time.perf_counter()
        index = ShardedIndex(bank, IndexConfig("sharded", parts=parts, within=within))
        print(f"{rows} rows × {dim}: {index.kind}, ready after {time.perf_counter() - started:.1f} s")
        given = ray.put(asked)
        alone = {
            f"part {number + 1}": lambda actor=replicas[0]: ray.get(actor.search.remote(given, k)).seconds
            for number, replicas in enumerate(index._actors)
        }
        beside: list[float] = []

        def whole() -> None:
            started = time.perf_counter()
            answers = index.answers(asked, k)
            whole_answer(answers, rows, bank.manifest.seal, k)
            beside.append((time.perf_counter() - started) / max(answer.seconds for answer in answers))

        times = turns({**alone, "whole": whole}, repeats)
        taken, took = [times.median(name) for name in alone], times.median("whole")
        least = max(*taken, sum(taken) / cores())
        print(f"each part alone {', '.join(f'{one:.2f}' for one in taken)} s; all at once {took:.2f} s")
        print(f"{np.median(beside[-repeats:]):.2f} times the slowest part of the same search (wanted ≤ {MOST})")
        print(f"{took / least:.2f} times what {cores()} cores need for parts asked alone ({least:.2f} s)")
        print(f"memory of the processes {', '.join(f'{one:.2f}' for one in peaks(index))} GB")
        found = index.search(asked, k)
        index.close()
        one = bank.neighbour_index(IndexConfig(within, device="cpu"))
        took = seconds(lambda: one.search(asked, k))
        expected = one.search(asked, k)
        same = (found[1] == expected[1]).all(1).mean()
        print(
            f"one index of kind {one.kind} over all rows: {took:.2f} s; {same:.1%} of {queries} queries have the same "
            f"rows in the same order, similarities differ by {np.abs(found[0] - expected[0]).max():.1e} at most"
        )


if __name__ == "__main__":
    sys.exit(tool(sharded_search))
