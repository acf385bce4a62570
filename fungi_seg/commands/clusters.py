"""What `--cluster` and `--workers` ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fungi_seg.cluster import connected
from fungi_seg.distributed import Cluster
from fungi_seg.errors import UsageError


@contextmanager
def on_cluster(address: str | None, workers: int | None) -> Iterator[Cluster | None]:
    """A Ray for as long as the block runs; none where no address is given.

    `--threads` is of each worker then. It stands in the environment, where the command line puts it for libraries.

    Args:
        address: as for `connected`.
        workers: processes.

    Raises:
        UsageError: workers without a Ray, or fewer than one.
        FungiSegError: as `connected` does.
    """
    if address is None:
        if workers is not None:
            raise UsageError("--workers is of --cluster, which isn't given; --load.workers read images")
        yield None
        return
    threads = os.environ.get("OMP_NUM_THREADS", "")
    with connected(address) as connection:
        yield Cluster(connection, workers, int(threads) if threads.isdecimal() else 1)
