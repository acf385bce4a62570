"""Work through items ahead of their use, show how far it has come, and let others follow."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
LINE_SECONDS = 10.0
ADDING = threading.Lock()  # of one module, so that a stopwatch can still be copied


class StandardError(logging.Handler):
    """Writes to whatever standard error is at the time; nothing where there is none, as in services."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message as a line."""
        if sys.stderr is not None:
            with suppress(OSError, ValueError):  # its reader has gone, or it was closed: no reason to end the work
                print(self.format(record), file=sys.stderr, flush=True)


log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # shown wherever it was asked for; a higher level silences it
log.addHandler(StandardError())
log.propagate = False


@dataclass(frozen=True)
class Step:
    """How far work has come.

    Attributes:
        what: is being done.
        done: of `total`, in `unit`.
    """

    what: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""


class _Followed:
    """Who follows the work of a thread, and what it was told last."""

    def __init__(self, listener: Callable[[Step], object]):
        self._listener, self._last = listener, Step()

    def tell(self, step: Step | None = None) -> None:
        self._last = step or self._last
        self._listener(self._last)


_FOLLOWED: ContextVar[_Followed | None] = ContextVar("followed", default=None)


@contextmanager
def following(listener: Callable[[Step], object]) -> Iterator[None]:
    """Call `listener` at each step of the work inside, whether or not it is shown.

    An error that it raises, such as `errors.Cancelled`, ends the work there; it may also wait, to hold the work up.
    Work that is done in other threads isn't followed.
    """
    token = _FOLLOWED.set(_Followed(listener))
    try:
        yield
    finally:
        _FOLLOWED.reset(token)


def pausing(items: Iterable[T]) -> Iterator[T]:
    """Yield the parts of a long step, and let whoever follows the work hold it up or end it before each."""
    followed = _FOLLOWED.get()
    for item in items:
        if followed:
            followed.tell()
        yield item


def track(items: Iterable[T], total: int, what: str, unit: str = "images", show: bool = True) -> Iterator[T]:
    """Yield `items` and report on standard error: a bar on a terminal, a line now and then elsewhere.

    Lines go to the logger `fungi_seg.progress`; at a level above INFO it shows neither lines nor bars. Who follows the
    work is told at the start and after each item.
    """
    followed = _FOLLOWED.get()
    with closing(_shown(items, total, what, unit, show)) as shown:
        if followed is None:
            yield from shown
            return
        followed.tell(Step(what, 0, total, unit))
        for done, item in enumerate(shown, 1):
            yield item
            followed.tell(Step(what, done, total, unit))


def _shown(items: Iterable[T], total: int, what: str, unit: str, show: bool) -> Generator[T, None, None]:
    if not show or not log.isEnabledFor(logging.INFO):
        yield from items
    elif sys.stderr is not None and sys.stderr.isatty():
        yield from _with_bar(items, total, what, unit)
    else:
        start = last = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - last >= LINE_SECONDS or done == total:
                rate, last = done / max(now - start, 1e-9), now
                left = (total - done) / rate
                log.info("%s: %d/%d %s, %.1f %s/s, %.0f s left", what, done, total, unit, rate, unit, left)


def _with_bar(items: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

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


class _Room:
    """How much of what was made ahead is held. What is waited for is always let in, so that nobody waits for ever."""

    def __init__(self, most: float):
        self._most, self._held, self._wanted = most, 0, 0
        self._changed = threading.Condition()

    def enter(self, number: int) -> None:
        """Wait until item `number` may be worked on."""
        with self._changed:
            self._changed.wait_for(lambda: number <= self._wanted or self._held < self._most)

    def want(self, number: int) -> None:
        """Item `number` is waited for, and all before it."""
        with self._changed:
            self._wanted = max(number, self._wanted)
            self._changed.notify_all()

    def hold(self, size: int) -> None:
        """So much more is held, or less."""
        with self._changed:
            self._held += size
            self._changed.notify_all()


def prefetch(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    size: Callable[[R], int] = lambda made: 0,
    most: float = math.inf,
) -> Generator[R, None, None]:
    """`map(function, items)` in order, computed ahead by `workers` threads (0: here and now).

    Args:
        function: called in the threads.
        items: in order.
        workers: threads.
        size: of a result.
        most: of what is held no further items are begun, but for the one that is waited for: results that wait, and the
            one handed out last.
    """
    if workers < 1:
        yield from map(function, items)
        return
    room = _Room(most)

    def work(number: int, item: T) -> R:
        room.enter(number)
        made = function(item)
        room.hold(size(made))
        return made

    def taken(number: int, future: Future[R]) -> Iterator[R]:
        room.want(number)
        made = future.result()
        yield made
        room.hold(-size(made))

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[int, Future[R]]] = deque()
        try:
            for number, item in enumerate(items):
                waiting.append((number, pool.submit(work, number, item)))
                if len(waiting) > 2 * workers:
                    yield from taken(*waiting.popleft())
            while waiting:
                yield from taken(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()
            room.want(sys.maxsize)  # whoever waits to begin may end
