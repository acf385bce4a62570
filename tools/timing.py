"""What the benchmarks share: a line of their table, and times taken in pairs."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUERIES = 1024
NEIGHBOURS = 30


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    work: str
    measured: str
    wanted: str
    reached: bool
    details: dict[str, Any]


def pairs(first: Callable[[], Any], second: Callable[[], Any], repeats: int, warm_up: bool = True) -> dict[str, Any]:
    """Run two things in turn; medians of both, and of the ratio second / first over the pairs."""
    if warm_up:
        for _ in range(2):
            first()
            second()
    a, b = [], []
    for _ in range(repeats):
        a.append(seconds(first))
        b.append(seconds(second))
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    return {"ratio": statistics.median(ratios), "first_seconds": statistics.median(a),
            "second_seconds": statistics.median(b), "ratios": [round(r, 3) for r in ratios]}  # fmt: skip


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def processor() -> str:
    """The processor's name, with the instructions that matter for bfloat16."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    special = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(special) or 'no bfloat16 instructions'})"
