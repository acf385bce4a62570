"""Work through items ahead of their use, tell people, and show how far it has come."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
R = TypeVar("R")
LINE_SECONDS = 10.0
ADDING = threading.Lock()  # of one module, so that a stopwatch can still be copied


def tell(message: str) -> None:
    """Print to standard error; to nobody where there is none, as in services and under pythonw."""
    if sys.stderr is not None:  # print would take standard output in its place
        print(message, file=sys.stderr)


def track(items: Iterable[T], total: int, what: str, unit: str = "images", show: bool = True) -> Iterator[T]:
    """Yield `items` and report on standard error: a bar on a terminal, a line now and then elsewhere."""
    if not show or sys.stderr is None:  # services and pythonw have none
        yield from items
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(what, total=total, rate="")
            start = time.monotonic()
            for done, item in enumerate(items, 1):
                yield item
                rate = done / max(time.monotonic() - start, 1e-9)
                progress.update(task, advance=1, rate=f"{rate:.1f} {unit}/s")
    else:
        start = last = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - last >= LINE_SECONDS or done == total:
                rate, last = done / max(now - start, 1e-9), now
                left = (total - done) / rate
                tell(f"{what}: {done}/{total} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left")


class Stopwatch:
    """Adds up time by stage, of all threads that use it.

    Attributes:
        seconds: so far, by stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str, also: Stopwatch | None = None) -> Iterator[None]:
        """Time what is inside, for another one too if there is one."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        with ADDING:
            for watch in (self, also):
                if watch is not None:
                    watch.seconds[stage] += spent


def prefetch(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map(function, items)` in order, computed ahead by `workers` threads (0: here and now)."""
    if workers < 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
