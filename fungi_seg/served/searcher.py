"""What runs in each process of a sharded search: it opens its part of a bank by itself, and searches it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi_seg.bank import RowRange
from fungi_seg.errors import BankError, FungiSegError
from fungi_seg.hardware import cores, free_memory, use_threads
from fungi_seg.search import IndexConfig, NeighbourIndex, chosen, memory_bytes
from fungi_seg.served.parts import Answer


@dataclass(frozen=True)
class PartTask:
    """What a process shall search.

    Attributes:
        name: for people, such as `part 2 of 4`.
        path: the bank's folder, as every machine sees it.
        start, stop: its rows, the latter exclusive.
        seal: of the open bank's manifest.
        dim: of the keys.
        config: how.
        scale: `[D]` float32 that queries are multiplied by, see `NeighbourIndex`.
    """

    name: str
    path: Path
    start: int
    stop: int
    seal: str
    dim: int
    config: IndexConfig
    scale: np.ndarray | None


@dataclass(frozen=True)
class Facts:
    """What a process says before it reads its part: its machine, and memory there in bytes.

    Attributes:
        host: name of the machine.
        needed: by the index.
        free: none where the system doesn't say.
    """

    host: str
    needed: int
    free: int | None


class PartSearcher:
    """Searches a part of a bank, which it reads when it is first needed: also after its process was started again.

    Args:
        task: what to search.
        sharing: processes like this one on this machine, which share its cores.
    """

    def __init__(self, task: PartTask, sharing: int):
        use_threads(max(1, cores() // sharing))
        self._task = task
        self._opened: NeighbourIndex | None = None

    def facts(self) -> Facts:
        """What this machine has, and what the part takes."""
        with self._named():
            rows = self._task.stop - self._task.start
            kind = chosen(rows, self._task.dim, self._task.config).kind
            return Facts(socket.gethostname(), memory_bytes(rows, self._task.dim, kind), free_memory())

    def load(self) -> str:
        """Read the part; the kind of index that was made of it."""
        return self._index().kind

    def search(self, queries: np.ndarray, k: int) -> Answer:
        """The `k` nearest rows of the part of each query `[Q, D]`, or all where there are fewer."""
        return self._answer(queries, k, exact=False)

    def exact(self, queries: np.ndarray, k: int) -> Answer:
        """As `search`, by comparing each query with all keys of the part."""
        return self._answer(queries, k, exact=True)

    def _answer(self, queries: np.ndarray, k: int, exact: bool) -> Answer:
        task, index = self._task, self._index()
        with self._named():
            started = time.perf_counter()
            given = np.array(queries, np.float32)  # what lies in Ray's store can't be written to, which torch warns of
            similarities, rows = (index.exact if exact else index.search)(given, min(k, index.rows))
            seconds = time.perf_counter() - started
        return Answer(task.start, task.stop, task.seal, similarities, rows + task.start, seconds)

    def _index(self) -> NeighbourIndex:
        if self._opened is None:
            task = self._task
            with self._named():
                rows = RowRange.open(task.path, task.start, task.stop, task.seal)
                self._opened = rows.neighbour_index(task.config, task.scale)
        return self._opened

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors say which part they are of, and where it is."""
        try:
            yield
        except FungiSegError as error:
            kind = BankError if isinstance(error, BankError) else FungiSegError
            raise kind(f"{self._task.name}, on {socket.gethostname()}: {error}") from error
