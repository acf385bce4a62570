"""The suite `search` of benchmark.py, and what search is held against: the best of FAISS and PyTorch, the bare product.

Each baseline lives in a process of its own, since FAISS takes its kernels when it is loaded, and computes when told to:
so all of them take turns with what is measured.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import core_type, is_fallback
from timing import NEIGHBOURS, QUERIES, Result, turns

from fungi_seg import (
    Backbone,
    BankConfig,
    BankRecipe,
    Dataset,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    NeighbourIndex,
    PatchFeatures,
    RunConfig,
    build_bank,
)
from fungi_seg.hardware import instructions
from fungi_seg.images.fitting import fit_image

PLAIN, SUITED, TORCH = "FAISS", "FAISS with OPENBLAS_CORETYPE", "PyTorch"
EXACT_KINDS = ("flat", "int8")
WIDTH = 768
HELD_OUT = 8  # images that queries come from
CLUSTERS, CLUSTER_NOISE = 8, 0.02
ROUNDING = 1e-6  # of float32 products of vectors of length 1: rows that differ by less are as near
PRODUCT_ROWS = 8192
PRODUCT_BYTES = 500_000_000  # PyTorch multiplies as many queries at once as give a product of this size
WORKER = """
import json, sys, time
import numpy as np
kind, (keys, queries), (k, threads, block) = sys.argv[1], map(np.load, sys.argv[2:4]), map(int, sys.argv[4:])
if kind == "faiss":
    import faiss
    from machine import faiss_kernels
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)
    del keys
    kernels, search = faiss_kernels(), lambda: index.search(queries, k)
else:
    import torch
    torch.set_num_threads(threads)
    kernels, rows, asked = torch.backends.cpu.get_cpu_capability(), torch.from_numpy(keys).T, torch.from_numpy(queries)
    search = lambda: [(part @ rows).topk(k) for part in asked.split(block)]
print(json.dumps(kernels), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    search()
    print(time.perf_counter() - start, flush=True)
"""


def wide(backbone: Backbone) -> FeatureConfig:
    """FUNGI features of 768 numbers."""
    return FeatureConfig(projection_dim=WIDTH - backbone.dim)


def spread(dataset: Dataset, images: int) -> Dataset:
    """So many images at most, evenly spread over those that no queries come from."""
    items = dataset.items[:-HELD_OUT]
    chosen = np.linspace(0, len(items) - 1, min(images, len(items))).astype(int)
    return replace(dataset, items=tuple(items[i] for i in chosen))


def images_for(rows: int, backbone: Backbone, dataset: Dataset, input: InputConfig) -> int:
    """Images that hold so many rows, where all have as many patches as the first, and some have unlabelled ones."""
    _, height, width = fit_image(dataset[0].image, input, backbone.patch_size).image.shape
    patches = math.prod(backbone.grid(height, width))
    return -(-rows // patches) + 2


def split_off(backbone: Backbone, dataset: Dataset, input: InputConfig) -> tuple[Dataset, np.ndarray]:
    """All but the last images, and features of 1024 patches of those, `[1024, 768]` float32."""
    features, found = PatchFeatures(backbone, wide(backbone)), []
    for index in range(len(dataset) - HELD_OUT, len(dataset)):
        image = fit_image(dataset[index].image, input, backbone.patch_size).image
        found.append(features(image[None])[0].cpu().numpy())
    patches = np.concatenate(found)
    queries = patches[np.random.default_rng(0).permutation(len(patches))[:QUERIES]]
    return replace(dataset, items=dataset.items[:-HELD_OUT]), queries


class Baseline:
    """Exact search by others in a process of its own.

    Attributes:
        kernels: what it multiplies with, where that is known.
    """

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        self.kernels: str | None = json.loads(self._line())

    def __call__(self) -> float:
        """Search once; the seconds it took."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise FungiSegError(
                f"a baseline of search ended with exit code {self._process.wait()}; see its error above"
            )
        return line


@contextmanager
def baseline(name: str, keys: Path, queries: Path) -> Iterator[Baseline]:
    """The baseline `name` over keys and queries in .npy files."""
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if name == SUITED:
        environment["OPENBLAS_CORETYPE"] = core_type(instructions()) or ""
    block = max(1, PRODUCT_BYTES // (4 * np.load(keys, mmap_mode="r").shape[0]))
    numbers = (NEIGHBOURS, torch.get_num_threads(), block)
    command = [sys.executable, "-c", WORKER, "torch" if name == TORCH else "faiss", str(keys), str(queries)]
    process = subprocess.Popen(
        [*command, *map(str, numbers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    with process:
        yield Baseline(process)
        process.stdin.close()  # type: ignore[union-attr]


def baseline_names() -> tuple[str, ...]:
    """The baselines that this processor has."""
    return (PLAIN, SUITED, TORCH) if core_type(instructions()) else (PLAIN, TORCH)


def told(times: dict[str, float], kernels: dict[str, str | None]) -> str:
    """Seconds of all baselines, with the kernels they used, as text."""
    names = {name: f"{name}={core_type(instructions())}" if name == SUITED else name for name in times}
    return ", ".join(
        f"{names[name]} {times[name]:.2f} s" + (f" ({kernels[name]})" if kernels[name] else "") for name in times
    )


def warn_of_fallback(kernels: dict[str, str | None]) -> None:
    """Say so on standard error where FAISS runs on kernels for much older processors."""
    used = kernels[PLAIN]
    if used and is_fallback(used, instructions()):
        suited = core_type(instructions())
        print(
            f"WARNING: the OpenBLAS inside FAISS doesn't know this processor and takes its {used} kernels, which use "
            f"neither AVX2 nor AVX-512. Times of FAISS as it is tell of that, not of how fast exact search can be: "
            f"OPENBLAS_CORETYPE={suited} in the environment mends it",
            file=sys.stderr,
        )


def slow_baselines(keys: Any, queries: Path, folder: Path) -> tuple[dict[str, float], dict[str, str | None]]:
    """Seconds and kernels of each baseline, one after another: for more rows than fit in memory several times."""
    file = folder / "baseline_keys.npy"
    np.save(file, np.asarray(keys, np.float32))
    times, kernels = {}, {}
    for name in baseline_names():
        with baseline(name, file, queries) as search:
            search()
            times[name], kernels[name] = search(), search.kernels
    file.unlink()
    warn_of_fallback(kernels)
    return times, kernels


def measure_search(
    backbone: Backbone, dataset: Dataset, input: InputConfig, rows: int, repeats: int
) -> Iterator[Result]:
    """What `auto` chooses against the best baseline; exact search against the bare product; 768 numbers, K = 30."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        queries = split_off(backbone, dataset, input)[1]
        part = spread(dataset, images_for(rows, backbone, dataset, input))
        recipe = BankRecipe(wide(backbone), input, BankConfig(rows))
        bank = build_bank(part, backbone, folder / "bank", recipe, RunConfig(progress=True))
        keys = np.asarray(bank.rows.keys, np.float32)
        np.save(folder / "keys.npy", keys)
        np.save(folder / "queries.npy", queries)
        names = baseline_names()
        others = {n: stack.enter_context(baseline(n, folder / "keys.npy", folder / "queries.npy")) for n in names}
        kernels = {n: other.kernels for n, other in others.items()}
        warn_of_fallback(kernels)
        started = time.perf_counter()
        index = bank.neighbour_index(IndexConfig(device="cpu"))
        made = time.perf_counter() - started
        times = turns({"ours": partial(index.search, queries, NEIGHBOURS), **others}, repeats)
        best = min(names, key=lambda n: times.median(n))
        ratio, recall = times.ratio(best, "ours"), index.recall(keys, queries, NEIGHBOURS)
        medians = {n: times.median(n) for n in names}
        what = f"{len(queries)} × {len(keys)} × {keys.shape[1]}, K = {NEIGHBOURS}, {backbone.config.name}"
        yield Result(
            f"search {what}",
            f"{ratio:.1f} × the speed of the best of three, recall {recall:.4f}, {times.median('ours'):.2f} s "
            f"({index.kind}); {told(medians, kernels)}",
            "≥ 2 ×, ≥ 0.98", ratio >= 2 and recall >= 0.98,
            times.facts() | {"index": index.kind, "index_seconds": made, "kernels": kernels},
        )  # fmt: skip
        yield measure_exact(f"exact search {what}", keys, queries, repeats)
    keys, queries = tight_clusters(len(keys), len(queries), keys.shape[1])
    yield measure_exact(f"  the same, {CLUSTERS} clusters with noise {CLUSTER_NOISE}", keys, queries, repeats)


def tight_clusters(rows: int, queries: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and queries `[·, dim]` float32 of length 1 that lie closer together than rounded products can tell."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLUSTERS, dim), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    found = centres[generator.integers(0, CLUSTERS, rows + queries)]
    found = found + generator.standard_normal(found.shape, np.float32) * (CLUSTER_NOISE / dim**0.5)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found[:rows], found[rows:]


def share_nearest(keys: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> float:
    """The share of found rows `[Q, k]` that are among the `k` nearest by float64, what float32 rounds aside."""
    doubles, shares = torch.from_numpy(keys).double(), []
    for some, found in zip(np.array_split(queries, 16), np.array_split(rows, 16), strict=True):
        products = torch.from_numpy(some).double() @ doubles.T
        least = products.topk(rows.shape[1], dim=1)[0][:, -1:] - ROUNDING
        shares.append((products.gather(1, torch.from_numpy(found)) >= least).double().mean())
    return float(torch.stack(shares).mean())


def measure_exact(work: str, keys: np.ndarray, queries: np.ndarray, repeats: int) -> Result:
    """The fastest exact search of ours against the fastest bare product of this processor."""
    stored = keys.astype(np.float16)  # as in a bank
    kinds = {kind: NeighbourIndex(stored, IndexConfig(kind, device="cpu")) for kind in EXACT_KINDS}
    searches = {kind: partial(index.search, queries, NEIGHBOURS) for kind, index in kinds.items()}
    products = bare_products(keys, queries)
    times = turns({**products, **searches}, repeats)
    kind, product = (min(names, key=times.median) for names in (searches, products))
    recall, ratio = (
        share_nearest(stored, queries, kinds[kind].search(queries, NEIGHBOURS)[1]),
        times.ratio(kind, product),
    )
    return Result(
        work,
        f"{ratio:.2f} × the bare product in {product} ({times.median(product):.2f} s), {kind}, recall {recall:.5f}",
        "≤ 1.5 ×, 1.0", ratio <= 1.5 and recall >= 0.99999, times.facts(),
    )  # fmt: skip


def bare_products(keys: np.ndarray, queries: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Queries times keys in blocks of rows, in each of the number formats that PyTorch multiplies; nothing is kept."""
    rows, asked = torch.from_numpy(keys), torch.from_numpy(queries)
    made: dict[str, Callable[[], Any]] = {
        name: partial(_products, torch.mm, rows.to(dtype), asked.to(dtype), dtype)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    if hasattr(torch, "_int_mm"):
        coded, codes = (127 * rows).to(torch.int8), (127 * asked).to(torch.int8)
        made["8 bits"] = partial(_products, torch._int_mm, coded, codes, torch.int32)
    return made


def _products(multiply: Callable[..., Any], rows: torch.Tensor, asked: torch.Tensor, dtype: torch.dtype) -> None:
    room = torch.empty(len(asked) * PRODUCT_ROWS, dtype=dtype)
    for part in rows.split(PRODUCT_ROWS):
        multiply(asked, part.T, out=room[: len(asked) * len(part)].view(len(asked), len(part)))
