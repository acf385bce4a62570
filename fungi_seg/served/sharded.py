"""A bank that actors of a Ray cluster search, each of them a part of its rows."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from fungi_seg.bank import MemoryBank
from fungi_seg.cluster import connected
from fungi_seg.errors import FungiSegError, MissingExtra, reason
from fungi_seg.hardware import size_text
from fungi_seg.search import EXACT_KINDS, AnyKeys, IndexConfig, share_found, usable_queries
from fungi_seg.served.parts import Answer, part_edges, whole_answer
from fungi_seg.served.searcher import Facts, PartSearcher, PartTask

PATIENCE = 60.0  # seconds that a search waits for a lost part
PAUSE = 0.2
IN_FLIGHT = 4  # searches at once for each replica; others wait


class ShardedIndex:
    """Cosine neighbours among a bank's rows, of which each actor of a Ray cluster holds a part.

    Threads may search at the same time. An answer is of all rows of the bank, or there is none: where an actor is lost,
    another replica answers, or it is waited for until it is back.

    Args:
        bank: an open bank, whose folder every machine of the cluster sees under the same path.
        config: of kind `sharded`.
        gradient_weight: see `MemoryBank.query_scale`.

    Attributes:
        kind: `sharded`, with the number of parts and what was built of them.
        rows, dim: of the bank.
        parts: first row of each part, and the number of rows.

    Raises:
        MissingExtra: no Ray.
        FungiSegError: no such cluster, or too little memory on one of its machines.
        BankError: a machine doesn't see the bank, or another state of it.
    """

    def __init__(self, bank: MemoryBank, config: IndexConfig, gradient_weight: float | None = None):
        self.rows, self.dim = len(bank), bank.info.dim
        self._seal, self._turn = bank.manifest.seal, itertools.count()
        self._in_flight = threading.BoundedSemaphore(IN_FLIGHT * config.replicas)
        scale, stack = bank.query_scale(gradient_weight), ExitStack()
        self._actors: list[list[Any]] = []
        self._end = weakref.finalize(self, _end, self._actors, stack)
        try:
            nodes = stack.enter_context(connected(config.address or "local")).nodes
            self.parts = part_edges(self.rows, config.parts or len(nodes))
            tasks = [
                PartTask(
                    f"part {number + 1} of {len(self.parts) - 1} (rows {start} to {stop}) of {bank.path}",
                    bank.path.resolve(),
                    start,
                    stop,
                    self._seal,
                    self.dim,
                    config.of_part,
                    scale,
                )
                for number, (start, stop) in enumerate(itertools.pairwise(self.parts))
            ]
            places = _places(len(tasks), config.replicas, [node.id for node in nodes])
            self._actors += _started(tasks, places)
            everyone = [actor for replicas in self._actors for actor in replicas]
            where = [node for nodes in places for node in nodes]
            names = [task.name for task in tasks for _ in range(config.replicas)]
            _check_memory(where, names, _told([actor.facts.remote() for actor in everyone]))
            kinds = _told([actor.load.remote() for actor in everyone])
        except BaseException:
            self.close()
            raise
        self._exact = all(kind in EXACT_KINDS for kind in kinds)
        self.kind = f"sharded ({len(tasks)} × {' and '.join(sorted(set(kinds)))})"

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first; of rows that are equally near, the first.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            k: 1 ≤ k ≤ M.

        Returns:
            As `NeighbourIndex.search`.

        Raises:
            FungiSegError: a part was lost and isn't back within a minute.
            BankError: a part came back and found that the bank was changed since it was opened.
        """
        return whole_answer(self.answers(queries, k), self.rows, self._seal, k)

    def answers(self, queries: np.ndarray, k: int, exact: bool = False) -> list[Answer]:
        """What each part says of queries, of which `search` makes one answer.

        Args:
            queries, k: as for `search`.
            exact: compare all keys, whatever the kind of index.
        """
        import ray

        queries = usable_queries(queries, k, (self.rows, self.dim))
        if not self._end.alive:
            raise FungiSegError("the sharded index was closed; open the bank's index again")
        with self._in_flight:
            given = (ray.put(queries), k)
            return _Request(self._actors, self.parts, "exact" if exact else "search", given, next(self._turn)).answers()

    def recall(self, keys: AnyKeys, queries: np.ndarray, k: int) -> float:
        """Share of the exact `k` nearest rows that this index finds; the actors compare, and `keys` aren't read."""
        if self._exact:
            return 1.0
        truth = whole_answer(self.answers(queries, k, exact=True), self.rows, self._seal, k)[1]
        return share_found(truth, self.search(queries, k)[1])

    def close(self) -> None:
        """End the actors, and the Ray that was started for them; done too when the index is no longer used."""
        self._end()


class _Request:
    """One question to all parts.

    Args:
        actors: replicas of each part.
        parts: first row of each, and the number of rows.
        method: of `PartSearcher`.
        given: to it.
        turn: number of the replica that is asked first.
    """

    def __init__(self, actors: Sequence[Sequence[Any]], parts: Sequence[int], method: str, given: Any, turn: int):
        self._actors, self._parts, self._method, self._given, self._turn = actors, parts, method, given, turn
        self._until: float | None = None

    def answers(self) -> list[Answer]:
        """Of every part; all are asked at once."""
        pending = [self._ask(part, self._turn) for part in range(len(self._actors))]
        return [self._answer(part, asked) for part, asked in enumerate(pending)]

    def _ask(self, part: int, turn: int) -> Any:
        actor = self._actors[part][turn % len(self._actors[part])]
        return getattr(actor, self._method).remote(*self._given)

    def _answer(self, part: int, asked: Any) -> Answer:
        import ray

        for tries in itertools.count(1):
            try:
                answer: Answer = ray.get(asked, timeout=None if tries == 1 else self._left())
                return answer
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayError as error:
                self._check_patience(part, error)
            if tries % len(self._actors[part]) == 0:
                time.sleep(PAUSE)
            asked = self._ask(part, self._turn + tries)
        raise AssertionError("unreachable")

    def _left(self) -> float:
        """Seconds that parts that were lost are still waited for, since the first of them was."""
        now = time.monotonic()
        self._until = self._until or now + PATIENCE
        return max(0.0, self._until - now)

    def _check_patience(self, part: int, error: Exception) -> None:
        """Raise if a part that was lost has been waited for long enough."""
        if not self._left():
            raise FungiSegError(
                f"part {part + 1} of {len(self._actors)} (rows {self._parts[part]} to {self._parts[part + 1]}) of the "
                f"sharded index was lost and isn't back after {PATIENCE:.0f} s ({reason(error)}); no neighbours are "
                f"given rather than some. Search again when its machine is back, or use index.replicas 2"
            ) from error


def _places(parts: int, replicas: int, nodes: Sequence[str]) -> list[list[str]]:
    """The node of each replica of each part; replicas of a part on different nodes as far as there are such."""
    return [[nodes[(part + replica) % len(nodes)] for replica in range(replicas)] for part in range(parts)]


def _started(tasks: Sequence[PartTask], places: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Actors of each part, one a place."""
    try:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError as error:
        raise MissingExtra("ray", error) from error
    sharing = Counter(node for nodes in places for node in nodes)
    made = ray.remote(PartSearcher)
    return [
        [
            made.options(
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),  # elsewhere if it is gone
            ).remote(task, sharing[node])
            for node in nodes
        ]
        for task, nodes in zip(tasks, places, strict=True)
    ]


def _told(asked: Sequence[Any]) -> list[Any]:
    """What actors answer while the index is made."""
    import ray

    try:
        return list(ray.get(list(asked)))
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error
    except ray.exceptions.RayError as error:
        raise FungiSegError(
            f"a process of the sharded index was lost while it read its part ({reason(error)}); its machine may be "
            f"short of memory: use more machines, or index.within lists"
        ) from error


def _cause(error: Any) -> Exception:
    """What went wrong in another process, as it was raised there."""
    if isinstance(error.cause, FungiSegError):
        return error.cause
    return FungiSegError(f"a process of the sharded index failed: {reason(error.cause or error)}")


def _check_memory(nodes: Sequence[str], names: Sequence[str], facts: Sequence[Facts]) -> None:
    """Raise unless each node has room for all parts that it shall hold."""
    of_node: defaultdict[str, list[tuple[str, Facts]]] = defaultdict(list)
    for node, name, fact in zip(nodes, names, facts, strict=True):
        of_node[node].append((name, fact))
    for held in of_node.values():
        free = min((fact.free for _, fact in held if fact.free is not None), default=None)
        needed = sum(fact.needed for _, fact in held)
        if free is not None and needed > free:
            told = "; ".join(f"{name} takes {size_text(fact.needed)}" for name, fact in held)
            raise FungiSegError(
                f"{held[0][1].host} has {size_text(free)} of memory free, and its parts take {size_text(needed)}: "
                f"{told}. Use more machines, fewer replicas, or index.within lists"
            )


def _end(actors: list[list[Any]], stack: ExitStack) -> None:
    import ray

    if ray.is_initialized():
        for actor in itertools.chain.from_iterable(actors):
            ray.kill(actor)
    actors.clear()
    stack.close()
