"""How fast this machine searches: measured in a second or two on first use, and kept in the user's cache folder."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import platformdirs
import torch

from fungi_seg.errors import FungiSegError
from fungi_seg.files import digest, replacing
from fungi_seg.hardware import cores, has_bfloat16, has_int8, instructions, processor_name
from fungi_seg.search.exact import integer_products, rounded
from fungi_seg.search.lists import CodedLists, Coder, encoded

VERSION = 1  # of what is measured here; what an older one measured is measured again
FILE = "search-speeds.json"
ROWS, QUERIES, DIM = 2048, 256, 768  # small pieces: some run is undisturbed even on a busy machine
LISTS, CODED, CODED_QUERIES, DEPTH = 16, 8192, 32, 120
READ_NUMBERS = 1 << 24  # more than a processor's cache holds
LONG_ENOUGH, LEAST_RUNS = 0.05, 3
_turn = threading.Lock()


@dataclass(frozen=True)
class Speeds:
    """What a second is enough for, with as many threads as PyTorch takes now.

    Attributes:
        float32, bfloat16, int8: multiplications with addition, in products of many rows and queries; 0 where the
            processor has no instructions for that format.
        codes: bits of rows' codes that are compared with a query.
        reading: bytes read from memory.
    """

    float32: float
    bfloat16: float
    int8: float
    codes: float
    reading: float


def speeds() -> Speeds:
    """Those of this machine: from the profile of an earlier run with as many threads, or measured now."""
    with _turn:
        return _speeds(torch.get_num_threads())


def profile_path() -> Path:
    """Where profiles are kept between runs."""
    return Path(platformdirs.user_cache_dir("fungi-seg", appauthor=False)) / FILE


def measured() -> Speeds:
    """Measure, which takes a second or two: with one thread and with all, whichever is faster.

    More threads are slower only where something else keeps the machine busy, which says nothing of other times.
    """
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        together = _measured()
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        alone = _measured() if max(threads) > 1 else together
    finally:
        torch.set_num_threads(threads[0])
        faiss.omp_set_num_threads(threads[1])
    return Speeds(*(max(both) for both in zip(astuple(together), astuple(alone), strict=True)))


def _measured() -> Speeds:
    generator = np.random.default_rng(0)
    rows, queries = (torch.from_numpy(generator.standard_normal((n, DIM), np.float32)) for n in (ROWS, QUERIES))
    multiplications = ROWS * QUERIES * DIM
    out = torch.empty(ROWS, QUERIES)
    float32 = multiplications / _seconds(lambda: torch.mm(rows, queries.T, out=out))
    bfloat16 = int8 = 0.0
    if has_bfloat16():
        halves, half_out = (rows.bfloat16(), queries.bfloat16()), out.bfloat16()
        bfloat16 = multiplications / _seconds(lambda: torch.mm(halves[0], halves[1].T, out=half_out))
    if has_int8():
        codes, whole_out = (rounded(rows), rounded(queries)), out.int()
        int8 = multiplications / _seconds(lambda: integer_products(*codes, whole_out))
    numbers = torch.ones(READ_NUMBERS)
    reading = 4 * READ_NUMBERS / _seconds(numbers.sum)
    return Speeds(float32, bfloat16, int8, _code_speed(generator), reading)


def _code_speed(generator: np.random.Generator) -> float:
    keys = generator.standard_normal((CODED, DIM), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    coder = Coder(keys[:LISTS], np.eye(DIM, dtype=np.float32))
    index, asked = CodedLists(coder, encoded(coder, keys)), keys[-CODED_QUERIES:]
    return CODED * CODED_QUERIES * DIM / _seconds(lambda: index.candidates(asked, DEPTH, LISTS))


def _seconds(work: Callable[[], object]) -> float:
    """What `work` takes, the fastest of some runs."""
    work()
    times: list[float] = []
    while len(times) < LEAST_RUNS or sum(times) < LONG_ENOUGH:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


@cache
def _speeds(threads: int) -> Speeds:
    path, machine = profile_path(), _machine()
    known = _known(path, machine)
    found = _valid(known.get(str(threads)))
    if found is None:
        found = measured()
        with suppress(FungiSegError, OSError), replacing(path) as draft:
            profile = {"machine": machine, "threads": known | {str(threads): asdict(found)}}
            draft.write_text(json.dumps(profile, indent=1), encoding="utf-8")
    return found


def _machine() -> dict[str, Any]:
    """What a profile is of: the speeds of another machine or of other libraries say nothing about this one."""
    return {
        "processor": processor_name(),
        "instructions": digest(sorted(instructions())),
        "cores": cores(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "version": VERSION,
    }


def _known(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """Speeds by number of threads, as the profile says; none where there is no profile, or not of this machine."""
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
        return dict(profile["threads"]) if profile["machine"] == machine else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _valid(values: Any) -> Speeds | None:
    """Speeds as a profile should hold them, or else none."""
    names = [field.name for field in fields(Speeds)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        return None
    if not all(type(value) is float and math.isfinite(value) and value >= 0 for value in values.values()):
        return None
    return Speeds(**values) if all(values[name] > 0 for name in ("float32", "codes", "reading")) else None
