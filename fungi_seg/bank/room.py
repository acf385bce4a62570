"""What a memory bank would take: rows, disk and memory by the sizes of its images, and whether there is room."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fungi_seg.bank.keys import stored_width
from fungi_seg.bank.manifest import of_a_bank, read_manifest
from fungi_seg.bank.mirror import local
from fungi_seg.bank.revisions import files_of
from fungi_seg.bank.sampling import SLACK
from fungi_seg.bank.settings import KEY_DTYPES, MANIFEST, BankConfig, BankRecipe
from fungi_seg.bank.writer import DRAFT, SHARD_ROWS
from fungi_seg.datasets import Dataset
from fungi_seg.errors import BankError, DataError, listing
from fungi_seg.features import Backbone, FeatureConfig, patch_memory
from fungi_seg.hardware import free_memory, size_text, total_memory
from fungi_seg.images import (
    LARGE_PIXELS,
    InputConfig,
    LoadConfig,
    channel_count,
    crop_window,
    input_size,
    most_at_once,
    pixel_size_in,
    read_image,
)
from fungi_seg.rasters import is_raster, open_raster, opened
from fungi_seg.search import INDEXED_FROM, IndexConfig, chosen, code_bytes, lists_for, memory_bytes

SAMPLE = 64  # images whose size is read
CROPS = 8  # drawn of each, where the images are augmented
COLUMNS = 23  # bytes of a row's origin and of the count of its labels
ENTRIES = 1.2  # labels a row: 1.07 to 1.33 on street scenes, photographs and microscopy
LIST_NUMBER = 2  # bytes of a row's list beside its code
PRIORITY = 8  # bytes of a candidate's priority
LEAST_SLACK = 4096  # candidates that the reservoir keeps above its size at least
BANK_JSON = 3000  # bytes of bank.json without the ids of the images
IN_MEMORY = 40  # bytes of a row's labels and origin
PIXEL = 20  # bytes a pixel takes while its image and mask are read
COPIES = 3  # of the rows that wait to be written
WORKING = 64 << 20  # bytes for everything else


@dataclass(frozen=True)
class Survey:
    """What the sizes of a data set's images say.

    Attributes:
        images: in the data set.
        sampled: how many of them were looked at and can be read.
        patches: of an image at the input size, the mean of those looked at.
        largest: the most patches of one.
        pixels: the most pixels of one, as it lies on disk.
        classes: how many.
        names: bytes of all ids.
        channels: that go through the backbone by themselves, 1 of RGB images.
    """

    images: int
    sampled: int
    patches: float
    largest: int
    pixels: int
    classes: int
    names: int
    channels: int = 1

    @property
    def complete(self) -> bool:
        """Whether every image was looked at."""
        return self.sampled == self.images


@dataclass(frozen=True)
class Needs:
    """What a bank would take; sizes in bytes.

    Attributes:
        patches: of all images in all epochs; those that hold a label can become rows.
        rows: at most.
        dim: width of a key.
        bank: size on disk.
        draft: size of the candidates that lie beside it while it is built.
        build_memory: what building takes beyond the loaded backbone.
        search_memory: what searching takes beyond it.
        index: what `index.kind auto` takes for so many rows on a CPU here.
        index_why: and why, a sentence.
    """

    patches: int
    rows: int
    dim: int
    bank: int
    draft: int
    build_memory: int
    search_memory: int
    index: str
    index_why: str

    @property
    def disk(self) -> int:
        """What must be free on disk while the bank is built."""
        return self.bank + self.draft


@dataclass(frozen=True)
class Room:
    """What this machine has, in bytes; none where the system doesn't say.

    Attributes:
        disk: free where the bank shall lie.
        memory: that programs can still take.
        all_memory: of the machine.
    """

    disk: int
    memory: int | None
    all_memory: int | None


def check_fit(
    dataset: Dataset,
    backbone: Backbone,
    out: str | Path,
    recipe: BankRecipe,
    load: LoadConfig,
) -> Needs:
    """What the bank would take, if there is room for it. Only sizes of some images are read.

    Raises:
        BankError: there is too little disk or memory; it names the settings with which the bank would fit.
    """
    ask = needs_of(survey(dataset, recipe, backbone.patch_size), backbone, recipe.features)
    needs = ask(recipe.bank, load)
    refuse_unless_fits(ask, recipe.bank, load, room_at(out), out)
    return needs


def survey(dataset: Dataset, recipe: BankRecipe, patch: tuple[int, int]) -> Survey:
    """Look at the headers of up to 64 images, taken evenly; those that can't be read are left out."""
    generator = np.random.default_rng(0)
    counts, together, pixels, channels = [], [0], [0], 1
    for item in dataset.evenly(min(SAMPLE, len(dataset))).items:
        try:
            size = _size(item.image, recipe.input)
            if recipe.input.joined:
                channels = max(channels, channel_count(item.image, recipe.input))
            windows = [crop_window(*size, generator)[2:] for _ in range(CROPS)] if recipe.bank.augment else [size]
            input = recipe.input.at(pixel_size_in(item.image, recipe.input))
            sides = [input_size(window, input, patch)[1] for window in windows]
        except DataError:
            continue
        counts.append([height // patch[0] * (width // patch[1]) for height, width in sides])
        together.append(max(most_at_once(side, input, patch) for side in sides))
        pixels.append(min(math.prod(size), LARGE_PIXELS) if input.scaled else math.prod(size))
    names = sum(len(item.id.encode()) for item in dataset.items)
    found = np.array(counts or [[0]])
    return Survey(
        len(dataset),
        len(counts),
        float(found.mean()),
        max(together),
        max(pixels),
        len(dataset.classes),
        names,
        channels,
    )


def needs_of(seen: Survey, backbone: Backbone, features: FeatureConfig) -> Callable[[BankConfig, LoadConfig], Needs]:
    """What a bank of these images and features takes, as a function of the settings that change it."""
    return partial(_needs, seen, backbone, features)


def room_at(out: str | Path) -> Room:
    """What this machine has; the disk is that of `out`, where what a stopped build left counts as free."""
    folder = local(out)
    left = sum(file.stat().st_size for file in [*(folder / DRAFT).glob("*"), *_unnamed(folder)])
    return Room(shutil.disk_usage(existing(folder)).free + left, free_memory(), total_memory())


def existing(place: str | Path) -> Path:
    """The nearest folder above a place for a bank, or itself, that is there."""
    path = local(place).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def shortages(needs: Needs, room: Room) -> list[str]:
    """What is missing, a line each."""
    lines = []
    if needs.disk > room.disk:
        lines.append(
            f"disk: {size_text(needs.disk)} needed ({size_text(needs.bank)} for the bank, {size_text(needs.draft)} "
            f"for candidates while it is built), {size_text(room.disk)} free"
        )
    if room.memory is not None and needs.build_memory > room.memory:
        lines.append(f"memory to build it: {size_text(needs.build_memory)} needed, {size_text(room.memory)} free")
    if room.all_memory is not None and needs.search_memory > room.all_memory:
        lines.append(
            f"memory to search it: {size_text(needs.search_memory)} needed, the machine has "
            f"{size_text(room.all_memory)}"
        )
    return lines


def refuse_unless_fits(
    ask: Callable[[BankConfig, LoadConfig], Needs], bank: BankConfig, load: LoadConfig, room: Room, out: str | Path
) -> None:
    """Raise a BankError that names what is missing and the settings that would fit, if anything is missing."""
    needs = ask(bank, load)
    missing = shortages(needs, room)
    if missing:
        ways = _ways_out(ask, bank, load, room)
        if needs.disk > room.disk:
            ways.append("--out on another disk, or some more space on this one")
        if not ways:
            ways.append("a smaller input.size")
        raise BankError(
            f"{out}: a bank of up to {needs.rows} rows of {needs.dim} doesn't fit:\n{listing(missing)}\n"
            f"Any one of these would do:\n{listing(ways)}"
        )


def _needs(seen: Survey, backbone: Backbone, features: FeatureConfig, bank: BankConfig, load: LoadConfig) -> Needs:
    patches = round(seen.patches * seen.images * bank.epochs)
    rows = patches if bank.size is None else min(bank.size, patches)
    gradient = 0 if features.kind == "plain" else features.projection_dim or backbone.dim
    dim = (backbone.dim + gradient) * seen.channels
    row = stored_width(dim, bank.key_dtype) + COLUMNS + ENTRIES * (2 if seen.classes <= 256 else 3)
    support = min(features.support_size, patches) * backbone.dim * 2 if features.needs_support else 0
    tables = rows * IN_MEMORY
    index = chosen(rows, dim, IndexConfig(device="cpu"))
    features_memory = partial(patch_memory, backbone, features, seen.largest)
    matrix = gradient * backbone.dim * (backbone.dim + 1) if features.projection == "dense" else 0
    matrix *= backbone.device.type == "cpu"
    reading = (load.workers + 1) * seen.pixels * PIXEL
    waiting = COPIES * min(rows, SHARD_ROWS) * row + 2 * PRIORITY * _candidates_in_memory(patches, bank.size)
    return Needs(
        patches,
        rows,
        dim,
        round(rows * row + _codes(rows, dim) + support + BANK_JSON + seen.names),
        round(candidates(patches, bank.size) * (row + PRIORITY) + support),
        round(WORKING + features_memory(load.batch_size) + matrix + reading + waiting + tables + support),
        round(WORKING + features_memory(1) + matrix + tables + memory_bytes(rows, dim, index.kind) + support),
        index.kind,
        index.why,
    )


def candidates(available: int, size: int | None) -> float:
    """Rows that are written down on the way to `size` of `available` ones.

    The reservoir takes all until it holds its slack above `size`, drops what is too many, and takes `size / seen` of
    what follows until it holds that slack again.
    """
    if size is None:
        return available
    slack = max(SLACK, 1 + LEAST_SLACK / size)
    if available <= slack * size:
        return available
    return size * (slack + (slack - 1) * math.log(available / (slack * size)) / math.log(slack))


def _candidates_in_memory(available: int, size: int | None) -> int:
    return available if size is None else min(available, round(max(size * SLACK, size + LEAST_SLACK)))


def _ways_out(
    ask: Callable[[BankConfig, LoadConfig], Needs], bank: BankConfig, load: LoadConfig, room: Room
) -> list[str]:
    def fits(bank: BankConfig, load: LoadConfig = load) -> bool:
        return not shortages(ask(bank, load), room)

    smaller = [replace(bank, key_dtype=dtype) for dtype in KEY_DTYPES[KEY_DTYPES.index(bank.key_dtype) + 1 :]]
    ways = [f"bank.key_dtype {config.key_dtype}" for config in smaller if fits(config)][:1]
    size = _largest(ask(bank, load).rows, lambda rows: fits(replace(bank, size=rows)))
    if size:
        ways.append(f"bank.size {size}")
    if load.batch_size > 1 and fits(bank, replace(load, batch_size=1)):
        ways.append("load.batch_size 1")
    return ways


def _largest(below: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `below` that fits, rounded down to two digits; 0 if none does."""
    least, most = 0, below
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    step = 10 ** max(0, len(str(least)) - 2)
    return least // step * step


def _codes(rows: int, dim: int) -> int:
    """Bytes on disk of the codes for searching, and of what they are made with, in a bank that gets them."""
    if rows < INDEXED_FROM:
        return 0
    return rows * (code_bytes(dim) + LIST_NUMBER) + 4 * dim * (lists_for(rows) + dim)


def _unnamed(folder: Path) -> list[Path]:
    """Files in a bank's folder that no bank holds: those of writers that were killed."""
    named: set[str] = set()
    if (folder / MANIFEST).exists():
        try:
            named = set(files_of(folder, read_manifest(folder)))
        except BankError:  # nobody knows which of them it holds
            return []
    return [file for file in folder.glob("*") if of_a_bank(file.name) and file.name not in named]


def _size(path: Path, input: InputConfig = InputConfig()) -> tuple[int, int]:
    """Height and width of an image, from its header where that can be read by itself."""
    if input.by_samples or is_raster(path):
        with open_raster(path, input.projection) as raster:
            return raster.info.size
    try:
        with opened(path) as image:
            return image.height, image.width
    except (DataError, OSError, ValueError, SyntaxError):
        height, width = read_image(path).shape[:2]
        return height, width
