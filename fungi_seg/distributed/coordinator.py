"""One process on the head's machine, which has Ray Data work through units and keeps what comes of them until asked.

That it isn't the process of the command has three uses: it works the same where that one only talks to a Ray elsewhere
(Ray Client, through which Ray Data can't be used), what Ray Data prints doesn't reach the terminal, and ending it ends
all workers.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

from fungi_seg.distributed.worker import Done, Worker
from fungi_seg.errors import reason

TRIES = 4  # of a unit whose worker is lost
AHEAD = 2  # units that a worker holds: the one it does, and the next


@dataclass(frozen=True)
class Workers:
    """The workers of a cluster.

    Attributes:
        count: processes.
        threads: of each, for which Ray keeps so many cores.
        gpus: of each.
    """

    count: int
    threads: int = 1
    gpus: int = 0


class Coordinator:
    """Begins at once.

    Args:
        order: a pickled `worker.Order`.
        units: `(number, pickled unit)` each.
        workers: that do them.
    """

    def __init__(self, order: bytes, units: Sequence[tuple[int, bytes]], workers: Workers):
        self._done: Queue[bytes] = Queue()
        self._order, self._units, self._workers = order, units, workers
        threading.Thread(target=self._run, daemon=True).start()

    def take(self, seconds: float) -> list[bytes]:
        """What was done since the last call, pickled `Done`s; waits until there is something, at most so long."""
        taken = []
        try:
            taken.append(self._done.get(timeout=seconds))
            while True:
                taken.append(self._done.get_nowait())
        except Empty:
            return taken

    def _run(self) -> None:
        try:
            for done in self._results():
                self._done.put(done)
        except Exception as error:
            self._done.put(pickle.dumps(Done(-1, failure=reason(error), trace=str(error))))

    def _results(self) -> Iterator[bytes]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        rows = [{"number": number, "unit": unit} for number, unit in self._units]
        options: dict[str, Any] = {"num_gpus": self._workers.gpus} if self._workers.gpus else {}
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self._workers.count, max_tasks_in_flight_per_actor=AHEAD),
            fn_constructor_args=(self._order,),
            num_cpus=self._workers.threads,
            max_restarts=-1,
            max_task_retries=TRIES - 1,
            **options,
        )
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            yield from batch["done"]
