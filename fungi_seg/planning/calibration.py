"""How long a bank would take: small banks of some of its images, built on this machine and taken to the full number."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from fungi_seg.bank import BankRecipe, Needs, Pieces, build_bank, existing, survey
from fungi_seg.datasets import Dataset
from fungi_seg.errors import BankError, DataError
from fungi_seg.features import Backbone, PatchFeatures
from fungi_seg.images import VOID, RunConfig, Tiles
from fungi_seg.search import build_seconds

LOOKED_AT = 64  # images, at even distances, of which it is looked whether they are large
TILES = 3  # of a large image that are timed
ENOUGH, AIM = 6.0, 2.0  # seconds of all trials, and of one
REPEATS = 2  # at least, of a trial with all images
GROWTH = 16  # from one trial to the next at most
SPREAD = 1.3  # how far a trial is from the whole at least: images unlike each other, caches


@dataclass(frozen=True)
class Timing:
    """How long a bank would take, in seconds.

    Attributes:
        build: reading, features and writing of all images, by the fastest trial.
        slowest: the same by the slowest; far apart if something else keeps the machine busy.
        index: making the index of the finished bank.
        images: how many were tried at a time.
    """

    build: float
    slowest: float
    index: float
    images: int

    @property
    def range(self) -> tuple[float, float]:
        """Between which times the build is to be expected."""
        return self.build / SPREAD, max(self.build * SPREAD, self.slowest)


def calibrate(
    dataset: Dataset,
    backbone: Backbone,
    out: str | Path,
    needs: Needs,
    recipe: BankRecipe,
    run: RunConfig,
) -> Timing:
    """Build small banks beside `out`, which takes about ten seconds, or as long as three images do.

    Where images are worked on in pieces, one is read and some of its tiles go through the backbone.

    Raises:
        DataError: an image or mask can't be used.
        BankError: nothing can be written beside `out`.
    """
    pieces = Pieces(dataset, recipe, backbone.patch_size)
    large = [index for index in range(0, len(dataset), -(-len(dataset) // LOOKED_AT)) if pieces.of(index)]
    index_seconds = build_seconds(needs.rows, needs.dim, needs.index)
    if large:
        times = [seconds * needs.patches for seconds in _of_piece(pieces, large[len(large) // 2], backbone, recipe)]
        return Timing(min(times), max(times), index_seconds, 1)
    bank = recipe.bank

    def trial(images: int) -> tuple[float, float]:
        part = excerpt(dataset, images, run.load.batch_size)
        share = images / (len(dataset) * bank.epochs)
        config = replace(bank, epochs=1, size=None if bank.size is None else math.ceil(bank.size * share))
        with beside(out) as own:
            start = time.perf_counter()
            try:
                build_bank(part, backbone, own / "bank", replace(recipe, bank=config), replace(run, progress=False))
            except DataError:
                if any((sample.mask != VOID).any() for sample in part):
                    raise  # otherwise it only has nothing to write, after all the work
            seconds = time.perf_counter() - start
        return seconds, survey(part, recipe, backbone.patch_size).patches * images

    trials = _tried(trial, len(dataset))
    times = [seconds / patches * needs.patches for _, seconds, patches in trials]
    return Timing(min(times), max(times), index_seconds, max(images for images, _, _ in trials))


@contextmanager
def beside(out: str | Path) -> Iterator[Path]:
    """A folder for trials on the disk of `out`, removed at the end.

    Raises:
        BankError: nothing can be written there.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=existing(Path(out))) as own:
            yield Path(own)
    except OSError as error:
        raise BankError(f"{out}: can't write there ({error}); name another folder with --out") from error


def _of_piece(pieces: Pieces, index: int, backbone: Backbone, recipe: BankRecipe) -> list[float]:
    """Seconds that a patch of a large image takes, some times."""
    found = pieces.of(index)
    start = time.perf_counter()
    fitted, *_ = pieces.read(index, found[len(found) // 2])
    reading = time.perf_counter() - start
    channels = fitted.image.shape[0] if recipe.input.joined else None
    features = PatchFeatures(backbone, replace(recipe.features, negatives=0), channels=channels)
    ph, pw = backbone.patch_size
    tiles = Tiles((fitted.image.shape[1] // ph, fitted.image.shape[2] // pw), pieces.tile_side)
    tile = tiles.row(0)[0]
    image = fitted.image[:, : len(tile.rows) * ph, : len(tile.columns) * pw]
    seconds = []
    for _ in range(TILES + 1):  # the first one warms up
        start = time.perf_counter()
        features(image[None])
        seconds.append(time.perf_counter() - start)
    return [(reading + len(tiles) * one) / (tiles.grid[0] * tiles.grid[1]) for one in seconds[1:]]


def excerpt(dataset: Dataset, count: int, run: int) -> Dataset:
    """`count` images in runs of neighbours, as they go through the backbone together, the runs at even distances."""
    runs = math.ceil(count / run)
    bounds = [round(i * len(dataset) / runs) for i in range(runs + 1)]
    starts = [max(first, (first + end - run) // 2) for first, end in pairwise(bounds)]
    chosen = [i for start, end in zip(starts, bounds[1:], strict=True) for i in range(start, min(start + run, end))]
    return replace(dataset, items=tuple(dataset.items[i] for i in chosen[:count]))


def _tried(trial: Callable[[int], tuple[float, float]], most: int) -> list[tuple[int, float, float]]:
    """Images, seconds and patches of trials, growing until they are long enough, then repeated; without short ones.

    The first, of one image, warms up and isn't counted.
    """
    images, trials = 1, list[tuple[int, float, float]]()
    trial(images)
    while sum(seconds for _, seconds, _ in trials) < ENOUGH and [n for n, _, _ in trials].count(most) < REPEATS:
        trials.append((images, *trial(images)))
        images = min(most, max(images, math.ceil(images * min(GROWTH, AIM / trials[-1][1]))))
    largest = max(n for n, _, _ in trials)
    return [one for one in trials if 2 * one[0] >= largest]
