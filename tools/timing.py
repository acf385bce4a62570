"""What the benchmarks share: a line of their table, and times taken in pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


class Times(dict[str, list[float]]):
    """Seconds of things that took turns, a number for each round."""

    def median(self, name: str) -> float:
        """Of one thing's seconds."""
        return statistics.median(self[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over the rounds of one thing's seconds, divided by another's in the same round."""
        return statistics.median(mine / other for mine, other in zip(self[name], self[to], strict=True))

    def facts(self) -> dict[str, Any]:
        """For a report."""
        return {"median_seconds": {name: self.median(name) for name in self}, "seconds": dict(self)}


def turns(things: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 2) -> Times:
    """Run things in turn, so that what slows the machine for a while slows all of them.

    What a thing returns as a float counts as its seconds: it ran in another process.
    """
    times = Times({name: [] for name in things})
    for number in range(-warm_up, repeats):
        for name, thing in things.items():
            start = time.perf_counter()
            said = thing()
            if number >= 0:
                times[name].append(said if isinstance(said, float) else time.perf_counter() - start)
    return times


def pairs(first: Callable[[], Any], second: Callable[[], Any], repeats: int, warm_up: bool = True) -> dict[str, Any]:
    """Run two things in turn; medians of both, and of the ratio second / first over the pairs."""
    times = turns({"first": first, "second": second}, repeats, 2 if warm_up else 0)
    ratios = [round(b / a, 3) for a, b in zip(times["first"], times["second"], strict=True)]
    return {"ratio": times.ratio("second", "first"), "first_seconds": times.median("first"),
            "second_seconds": times.median("second"), "ratios": ratios}  # fmt: skip


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
