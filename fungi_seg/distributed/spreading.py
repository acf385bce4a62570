"""Units of work to a cluster, and what comes of them back, in the order in which they are done."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from fungi_seg.cluster import Connection, Node, living_nodes
from fungi_seg.distributed.coordinator import Coordinator, Workers
from fungi_seg.distributed.worker import Done, Job, Order
from fungi_seg.errors import FungiSegError, UsageError

ASK_SECONDS = 2.0
PATIENCE = 15.0  # seconds without a result after which a lost machine is thought to hold work up
log = logging.getLogger(__name__)


def workers_of(nodes: Sequence[Node], count: int | None, threads: int, on_gpu: bool = False) -> Workers:
    """How many workers: as asked for, or as many as cores (with `on_gpu`: GPUs) are there for.

    Raises:
        UsageError: a count below 1.
        FungiSegError: no machine has so many cores, or a GPU.
    """
    if count is not None and count < 1:
        raise UsageError(f"--workers is {count}; it must be at least 1; leave it out for as many as there is room for")
    places = sum(min(node.cpus // threads, node.gpus if on_gpu else node.cpus) for node in nodes)
    if not places:
        needs = f"{threads} cores{' and a GPU' if on_gpu else ''}"
        raise FungiSegError(
            f"no machine of the cluster has {needs} for a worker: "
            f"{', '.join(f'{node.host} has {node.cpus} cores, {node.gpus} GPUs' for node in nodes)}; lower --threads"
            f"{', or give --backbone.device cpu' if on_gpu else ''}"
        )
    return Workers(min(count or places, places), threads, int(on_gpu))


def spread(
    connection: Connection, job: Job, units: Sequence[Any], workers: Callable[[Sequence[Node]], Workers]
) -> Generator[Done, None, None]:
    """Do all units; yields what comes of each, as it comes.

    A machine that is lost costs what its workers were at. Where nobody else has room for its workers, and so for what
    they were at, the units that are left are given out anew.

    Args:
        connection: to a Ray.
        job: what does a unit.
        units: each is pickled for itself.
        workers: for the machines that are there.

    Raises:
        FungiSegError: what a worker raised; or one failed otherwise, and where.
    """
    left = {number: pickle.dumps(unit) for number, unit in enumerate(units)}
    slowest = 0.0
    while left:
        nodes = living_nodes()
        started = _started(nodes, Order(job, workers(nodes).threads), left, workers(nodes))
        try:
            heard = time.monotonic()
            while left:
                for done in _taken(started):
                    _check(done)
                    heard, slowest = time.monotonic(), max(slowest, done.seconds)
                    if left.pop(done.number, None) is not None:
                        yield done
                        heard = time.monotonic()
                if time.monotonic() - heard > max(PATIENCE, 3 * slowest) and _lost(nodes):
                    log.warning("a machine was lost; %d units of work are given out anew", len(left))
                    break
        finally:
            _end(started)


def _started(nodes: Sequence[Node], order: Order, left: dict[int, bytes], workers: Workers) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = next((node for node in nodes if node.head), nodes[0])  # with it all is lost anyway
    beside = NodeAffinitySchedulingStrategy(head.id, soft=True)
    workers = Workers(min(workers.count, len(left)), workers.threads, workers.gpus)
    remote = ray.remote(Coordinator).options(num_cpus=0, scheduling_strategy=beside)
    return remote.remote(pickle.dumps(order), list(left.items()), workers)


def _taken(started: Any) -> list[Done]:
    import ray

    try:
        return [pickle.loads(done) for done in ray.get(started.take.remote(ASK_SECONDS))]
    except ray.exceptions.RayError as error:
        raise FungiSegError(
            f"the cluster doesn't answer any more ({type(error).__name__}); see ray status; called again, "
            f"the command goes on where it can"
        ) from error


def _check(done: Done) -> None:
    """Raise what a worker raised, and pass on what it said."""
    for warning in done.warnings:
        log.warning("%s", warning)
    if not done.trace:
        return
    log.debug("on node %s:\n%s", done.host, done.trace)
    if done.error:
        raise done.error
    where = f"a worker on node {done.host}" if done.host else "the work on the cluster"
    raise FungiSegError(f"{where} failed ({done.failure}); --verbose shows where")


def _lost(nodes: Sequence[Node]) -> bool:
    there = {node.id for node in living_nodes()}
    return any(node.id not in there for node in nodes)


def _end(started: Any) -> None:
    import ray

    if ray.is_initialized():
        ray.kill(started)
