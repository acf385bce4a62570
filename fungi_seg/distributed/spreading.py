"""Units of work to a cluster, and what comes of them back, in the order in which they are done."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fungi_seg.cluster import Connection, Node, living_nodes
from fungi_seg.distributed.coordinator import Coordinator, Workers
from fungi_seg.distributed.worker import Done, Job, Order
from fungi_seg.errors import DataError, FungiSegError, UsageError, listing

ASK_SECONDS = 2.0
PATIENCE = 15.0  # seconds without a result after which a lost machine is thought to hold work up
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """A Ray, and how its machines are used.

    Attributes:
        connection: to it.
        workers: processes; as many as there is room for where not given.
        threads: of each worker, which gets as many cores.

    Raises:
        UsageError: fewer than one of them.
    """

    connection: Connection
    workers: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(
                f"--workers is {self.workers}; it must be at least 1; leave it out for as many as there is room for"
            )

    @property
    def likely(self) -> int:
        """Workers, as far as work is cut by their number."""
        return self.workers or max(1, self.connection.cpus // self.threads)

    def room(self, nodes: Sequence[Node], on_gpu: bool) -> Workers:
        """The workers for some machines; with `on_gpu` each has a GPU.

        Raises:
            FungiSegError: no machine has so many cores, or a GPU.
        """
        places = sum(min(node.cpus // self.threads, node.gpus if on_gpu else node.cpus) for node in nodes)
        if not places:
            raise FungiSegError(
                f"no machine of the cluster has {self.threads} cores{' and a GPU' if on_gpu else ''} for a worker:\n"
                f"{listing(f'{node.host}: {node.cpus} cores, {node.gpus} GPUs' for node in nodes)}\n"
                f"Lower --threads{', or give --backbone.device cpu' if on_gpu else ''}"
            )
        return Workers(min(self.workers or places, places), self.threads, int(on_gpu))


def in_order(done: Iterable[Done]) -> Iterator[Done]:
    """What comes of units in the order of these."""
    waiting: dict[int, Done] = {}
    number = 0
    for one in done:
        waiting[one.number] = one
        while number in waiting:
            yield waiting.pop(number)
            number += 1


def spread(cluster: Cluster, job: Job, units: Sequence[Any], on_gpu: bool = False) -> Generator[Done, None, None]:
    """Do all units; yields what comes of each, as it comes.

    A machine that is lost costs what its workers were at. Where nobody else has room for its workers, and so for what
    they were at, the units that are left are given out anew.

    Args:
        cluster: whose machines do them.
        job: what does a unit.
        units: each is pickled for itself.
        on_gpu: each worker needs a GPU.

    Raises:
        FungiSegError: what a worker raised; or one failed otherwise, and where.
    """
    from ray import cloudpickle  # takes what reads annotations, too, however it is made

    left = {number: pickle.dumps(unit) for number, unit in enumerate(units)}
    order, slowest = cloudpickle.dumps(Order(job, cluster.threads)), 0.0
    while left:
        nodes = living_nodes()
        workers = cluster.room(nodes, on_gpu)
        with _coordinator(nodes, order, left, workers) as started:
            heard = time.monotonic()
            while left:
                for done in _taken(started):
                    slowest = max(slowest, done.seconds)
                    _check(done, len(nodes) > 1)
                    if left.pop(done.number, None) is not None:
                        yield done
                    heard = time.monotonic()
                if time.monotonic() - heard > max(PATIENCE, 3 * slowest) and _lost(nodes):
                    log.warning("a machine was lost; %d units of work are given out anew", len(left))
                    break


@contextmanager
def _coordinator(nodes: Sequence[Node], order: bytes, left: dict[int, bytes], workers: Workers) -> Iterator[Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = next((node for node in nodes if node.head), nodes[0])  # with it all is lost anyway
    beside = NodeAffinitySchedulingStrategy(head.id, soft=True)
    workers = replace(workers, count=min(workers.count, len(left)))
    started = ray.remote(Coordinator).options(num_cpus=0, scheduling_strategy=beside)
    handle = started.remote(order, list(left.items()), workers)
    try:
        yield handle
    finally:
        if ray.is_initialized():
            ray.kill(handle)


def _taken(started: Any) -> list[Done]:
    import ray

    try:
        return [pickle.loads(done) for done in ray.get(started.take.remote(ASK_SECONDS))]
    except ray.exceptions.RayError as error:
        raise FungiSegError(
            f"the cluster doesn't answer any more ({type(error).__name__}); see ray status; called again, "
            f"the command goes on where it can"
        ) from error


def _check(done: Done, many: bool) -> None:
    """Raise what a worker raised, and pass on what it said; of many machines, which one can't go on is told."""
    for warning in done.warnings:
        log.warning("%s", warning)
    if not done.trace:
        return
    log.debug("on node %s:\n%s", done.host, done.trace)
    if isinstance(done.error, DataError) or (done.error and not many):
        raise done.error
    if done.error:
        raise type(done.error)(f"on node {done.host}: {done.error}")
    where = f"a worker on node {done.host}" if done.host else "the work on the cluster"
    raise FungiSegError(f"{where} failed ({done.failure}); --verbose shows where")


def _lost(nodes: Sequence[Node]) -> bool:
    there = {node.id for node in living_nodes()}
    return any(node.id not in there for node in nodes)
