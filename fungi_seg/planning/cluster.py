"""What a build, and searching its bank, would take on many machines: a model of stages that were timed on this one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fungi_seg.bank import COLUMN_BYTES, MEMORY_OF_ROW, RANKS, SPARE, BankRecipe, Needs, Survey
from fungi_seg.datasets import Dataset
from fungi_seg.hardware import cores, size_text, total_memory
from fungi_seg.planning.settings import NodeConfig
from fungi_seg.planning.stages import Stages
from fungi_seg.search import QUERIES, IndexConfig, chosen, memory_bytes, search_seconds

PARTS = 4  # of each worker, so that none waits long for the last one
NEIGHBOURS = 30
ANSWER = 12  # bytes of a neighbour: its similarity and its row
DRIVER = 1e9  # bytes of the process that joins, beside what grows with images and rows
LISTS = 3  # of all images: the data set, its parts, and the bank's
FILES = 64  # images whose files are measured


@dataclass(frozen=True)
class Load:
    """What goes through a build, and what it leaves.

    Attributes:
        images: of all epochs together.
        listed: how many different ones.
        read: bytes of an image and its mask, as they lie on disk.
        rows, dim: of the bank.
        candidates: rows that the parts keep.
        row: bytes of one on disk.
        worker: bytes of memory of one worker, beside the list of images.
    """

    images: float
    listed: float
    read: float
    rows: int
    dim: int
    candidates: float
    row: float
    worker: float

    @classmethod
    def of(cls, dataset: Dataset, seen: Survey, needs: Needs, recipe: BankRecipe, workers: int) -> Load:
        """That of `seen.images` images like those of `dataset`, built by so many workers."""
        some = dataset.evenly(min(FILES, len(dataset))).items
        files = [_size(item.image) + (_size(item.mask) if item.mask != item.image else 0) for item in some]
        candidates = needs.patches
        if recipe.bank.size is not None:
            each = SPARE * recipe.bank.size / (seen.images * recipe.bank.epochs) + RANKS
            kept = min(each * seen.images * recipe.bank.epochs, recipe.bank.size * workers * PARTS)
            candidates = min(needs.patches, round(kept))
        return cls(
            float(seen.images * recipe.bank.epochs),
            float(seen.images),
            sum(files) / len(files),
            needs.rows,
            needs.dim,
            float(candidates),
            needs.bank / max(1, needs.rows),
            float(needs.build_memory),
        )


@dataclass(frozen=True)
class Forecast:
    """What the cluster would take; seconds and bytes.

    Attributes:
        start: until workers have begun.
        compute, reading, writing: at the same time, of which the slowest counts.
        joining: by one process.
        disk: of the shared storage.
        read: from it.
        driver: memory of the process that joins.
        node: memory of a node that builds.
        search_node: memory of a node that holds its part of the rows.
        searching: of 1024 patches by each node among its rows.
        sending: of these queries to all nodes, and of their answers back.
        limits: what is the limit, and from where on, a line each.
        missing: what these nodes don't have, a line each.
    """

    start: float
    compute: float
    reading: float
    writing: float
    joining: float
    disk: float
    read: float
    driver: float
    node: float
    search_node: float
    searching: float
    sending: float
    limits: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def build(self) -> float:
        """Seconds from start to bank."""
        return self.start + max(self.compute, self.reading, self.writing) + self.joining


def workers_of(nodes: int, node: NodeConfig) -> int:
    """Processes that build, one for each core."""
    return nodes * (node.cores or cores())


def forecast(load: Load, stages: Stages, nodes: int, node: NodeConfig) -> Forecast:
    """What `load` takes on so many nodes.

    Computing grows with cores, the network with nodes; storage is shared by all, and joining is one process's.
    """
    own = node.cores or cores()
    memory = node.memory * 1e9 if node.memory else float(total_memory() or math.inf)
    network, storage = node.network * 1e9 / 8, node.storage * 1e9
    of_node = node.images_per_second or own * stages.busy / stages.image
    through = min(nodes * network, storage)
    written = load.candidates * load.row
    compute = load.images / (nodes * of_node) + PARTS * stages.part
    joining = load.candidates * stages.joining
    listed = load.listed * stages.item
    part = math.ceil(load.rows / nodes)
    kind = chosen(part, load.dim, IndexConfig(device="cpu")).kind
    search_node = memory_bytes(part, load.dim, kind) + part * load.row
    found = Forecast(
        start=stages.start,
        compute=compute,
        reading=load.images * load.read / through,
        writing=written / through,
        joining=joining,
        disk=written + load.rows * COLUMN_BYTES,
        read=load.images * load.read,
        driver=DRIVER + LISTS * listed + load.rows * MEMORY_OF_ROW,
        node=own * load.worker,
        search_node=search_node,
        searching=search_seconds(part, load.dim),
        sending=nodes * (QUERIES * load.dim * 4 + QUERIES * NEIGHBOURS * ANSWER) / network,
    )
    limits = _limits(load, stages, found, _Rates(of_node, network, storage, memory), nodes)
    return replace(found, limits=tuple(limits), missing=tuple(_missing(found, memory)))


@dataclass(frozen=True)
class _Rates:
    images: float  # a second, of a node
    network: float  # bytes a second, of a node
    storage: float  # bytes a second, of all
    memory: float


def _limits(load: Load, stages: Stages, found: Forecast, rates: _Rates, nodes: int) -> Iterator[str]:
    """From where on each resource is the limit."""
    rows_an_image = load.candidates / load.images
    passing = rates.network / (load.read + rows_an_image * load.row)
    told = f"{_number(passing)} images a second pass a node's, which computes {_number(rates.images)}"
    yield f"network: {'the limit at any number of nodes' if passing < rates.images else 'never'}; {told}"
    for what, of_image in (("reading images", load.read), ("writing rows", rows_an_image * load.row)):
        yield f"shared storage, {what}: from {_number(rates.storage / max(1e-9, of_image * rates.images))} nodes on"
    yield (
        f"joining by one process takes longer than computing: from "
        f"{_number(load.images / rates.images / max(1e-9, found.joining))} nodes on"
    )
    yield f"memory to build: a node has room for {_number(rates.memory / load.worker)} workers"
    left = max(0.0, rates.memory - DRIVER - load.rows * MEMORY_OF_ROW)
    yield (
        f"memory of the driver, which lists all images: from {_number(left / stages.item / LISTS)} images in one build "
        f"on; build banks of some of them each, and merge them"
    )
    fewest = found.search_node * nodes / rates.memory
    yield f"memory to search: with fewer than {_number(max(1, math.ceil(fewest)))} nodes"
    yield (
        f"network to search, {QUERIES} patches at a time: from "
        f"{_number(nodes * math.sqrt(found.searching / max(1e-9, found.sending)))} nodes on"
    )


def _missing(found: Forecast, memory: float) -> list[str]:
    wanted = {"to build": found.node, "of the driver": found.driver, "to search": found.search_node}
    return [
        f"memory {what}: {size_text(round(bytes_))} needed on a node, {size_text(round(memory))} there"
        for what, bytes_ in wanted.items()
        if bytes_ > memory
    ]


def _number(value: float) -> str:
    """`3.2`, `640`, `1.2 million`."""
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value / size:.3g}{word}"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
