"""Annotated images to a bank, whose parts the machines of a cluster build in the folder that they share."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fungi_seg.bank import BankRecipe, MemoryBank, ShardedBuild, check_target, join_shards
from fungi_seg.cluster import check_seen, check_shared
from fungi_seg.datasets import Dataset
from fungi_seg.distributed.opening import placed
from fungi_seg.distributed.spreading import Cluster, spread
from fungi_seg.errors import BankError, FungiSegError
from fungi_seg.features import Backbone, BackboneConfig, load_backbone
from fungi_seg.images import RunConfig
from fungi_seg.progress import track
from fungi_seg.rasters import file_of

FEW, BATCHES, MOST = 32, 8, 1024  # shards at least, where there are batches enough; batches in each; shards at most


@dataclass(frozen=True)
class BuildJob:
    """What a worker needs to build parts of a bank.

    Attributes:
        dataset: annotated images, all of them.
        backbone: with the device and the arithmetic that the command's has.
        out: folder of the bank.
        count: of parts.
        recipe, run, record: as for `build_bank`.
        folder: where the parts lie, whose name says what decides the rows.
    """

    dataset: Dataset
    backbone: BackboneConfig
    out: Path
    count: int
    recipe: BankRecipe
    run: RunConfig
    record: dict[str, Any]
    folder: Path

    def open(self) -> Callable[[int], int]:
        """What builds a part, which is given by its number, and gives how many images it is of."""
        backbone = load_backbone(**vars(self.backbone))
        build = ShardedBuild(self.dataset, backbone, self.out, self.count, self.recipe, self.run, self.record)
        if build.folder != self.folder:
            raise FungiSegError(
                f"node {platform.node()} would build other rows than this machine: its weights or its data aren't "
                f"the same; all nodes must see the same files"
            )

        def work(number: int) -> int:
            folder = build.attempt(number)
            if not build.is_done(number):
                raise BankError(
                    f"{folder}: is begun by a command that builds this shard alone (build --shard); let it end, or "
                    f"remove the folder"
                )
            return len(build.images(number))

        return work


def build_on(
    cluster: Cluster,
    dataset: Dataset,
    backbone: Backbone,
    out: str | Path,
    recipe: BankRecipe,
    run: RunConfig,
    overwrite: bool = False,
    record: dict[str, Any] | None = None,
) -> MemoryBank:
    """Build a bank by the machines of a cluster: the rows that `build_bank` gives, in the same order.

    Its parts are as many as the images ask for, whatever the machines, so that a build that was stopped goes on with
    those that are complete.

    Args:
        cluster: whose machines build the parts.
        dataset, backbone, out, recipe, run, overwrite, record: as for `build_bank`.

    Raises:
        DataError, BankError, FungiSegError: as `build_bank` and `spread` do; or a machine doesn't share the folder.
    """
    out = Path(out).expanduser().absolute()
    check_target(out, overwrite)
    count = shards_for(len(dataset), run.load.batch_size)
    build = ShardedBuild(dataset, backbone, out, count, recipe, run, record)
    check_shared(cluster.connection, out)
    first = dataset.items[0]
    check_seen(cluster.connection, [file_of(first.image), file_of(first.mask)])
    job = BuildJob(
        build.dataset,
        placed(backbone),
        out,
        count,
        build.recipe,
        replace(run, progress=False),
        build.record,
        build.folder,
    )
    missing = [number for number in range(1, count + 1) if not build.is_done(number)]
    on_gpu = backbone.device.type == "cuda"
    with closing(spread(cluster, job, missing, on_gpu)) as done:
        each = (None for one in done for _ in range(one.result))
        total = sum(len(build.images(number)) for number in missing)
        for _ in track(each, total, "memory bank", show=run.progress):
            pass
    build.clear()
    return join_shards(out, overwrite)


def shards_for(images: int, batch: int) -> int:
    """How many parts a bank of so many images is built in."""
    batches = max(1, -(-images // batch))
    return min(batches, MOST, max(FEW, batches // BATCHES))
