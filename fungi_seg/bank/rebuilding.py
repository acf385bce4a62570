"""A bank built again from its own images with another seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from fungi_seg.bank.bank import MemoryBank
from fungi_seg.bank.build import build_bank
from fungi_seg.bank.settings import BankConfig, BankRecipe
from fungi_seg.config import from_dict
from fungi_seg.datasets import DataConfig, Dataset, open_dataset
from fungi_seg.errors import BankError, DataError, listing
from fungi_seg.features import Backbone, PatchFeatures
from fungi_seg.images import RunConfig

SAME_ROWS = ("build", "index", "fit", "compact")  # changes that leave what was built as it was


def recipe_of(bank: MemoryBank, seed: int | None = None) -> BankRecipe:
    """What a bank was built with; with `seed` in the place of its own, of sampling and of FUNGI's projections.

    Raises:
        BankError: the bank was changed since, so that no recipe gives its rows.
    """
    changes = [change["action"] for change in bank.history if change["action"] not in SAME_ROWS]
    if changes:
        raise BankError(
            f"{bank.path}: the bank was changed since it was built ({', '.join(changes)}), so that it can't be built "
            f"again with another seed; build a bank of all these images, and evaluate that with seeds"
        )
    info = bank.info
    kept = {field.name: info.build[field.name] for field in fields(BankConfig) if field.name in info.build}
    config = replace(BankConfig(**kept), key_dtype=bank.manifest.keys)
    recipe = BankRecipe(info.features, info.input, config, int(info.build.get("seed", 0)))
    if seed is None:
        return recipe
    features = info.features if info.features.kind == "plain" else replace(info.features, seed=seed)
    return replace(recipe, features=features, seed=seed)


def training_images(bank: MemoryBank, root: str | None = None) -> Dataset:
    """The annotated images that a bank was built of, as its record names them.

    Args:
        bank: an open bank.
        root: where the data set lies now, if it isn't where it was.

    Raises:
        BankError: its record names no data set, or a program.
        DataError: the images aren't there, or are others by now.
    """
    where = f"{bank.path}: the record of its data set"
    recorded = bank.info.build.get("data")
    if not isinstance(recorded, dict):
        raise BankError(
            f"{bank.path}: its record doesn't name the annotated images that it was built of, which are needed to "
            f"build it with other seeds; build it with fungi-seg build, or build_bank(…, record={{'data': …}})"
        )
    data = from_dict(DataConfig, recorded, where)
    if data.layout == "mmseg":
        raise BankError(
            f"{bank.path}: it was built of {data.annotations}, a program, which a bank's record doesn't start; build "
            f"a bank of each seed with fungi-seg build, and hold them against each other with fungi-seg compare"
        )
    places = [data] if root is None or not data.root else [data, replace(data, root=root)]
    faults = []
    for place in dict.fromkeys(places):
        try:
            dataset = open_dataset(place, bool(bank.info.build.get("skipped")), bank.info.input)
        except DataError as error:
            faults.append(str(error))
            continue
        return _of_the_bank(bank, dataset)
    raise DataError(
        f"{where}: its annotated images, which are needed to build it with other seeds, aren't there:\n"
        f"{listing(faults)}"
    )


def rebuild_bank(
    bank: MemoryBank,
    seed: int,
    images: Dataset,
    backbone: Backbone,
    out: Path,
    run: RunConfig,
    features: PatchFeatures | None = None,
) -> MemoryBank:
    """Build a bank again with another seed, all else as it was.

    Args:
        bank: the bank; it stays as it is.
        seed: see `recipe_of`.
        images: what it was built of, from `training_images`.
        backbone: that of the bank.
        out: folder of the new bank.
        run: as for `build_bank`.
        features: with the settings that `recipe_of` gives for this seed, if they are at hand.
    """
    run = replace(run, skip_bad=bool(bank.info.build.get("skipped")))
    record = {"data": bank.info.build.get("data")}
    return build_bank(images, backbone, out, recipe_of(bank, seed), run, record=record, features=features)


def _of_the_bank(bank: MemoryBank, dataset: Dataset) -> Dataset:
    there = {item.id for item in dataset.items}
    gone = [source for source in bank.info.sources if source not in there]
    new = len(there) - len(set(bank.info.sources) & there) - _skipped(bank)
    if gone or new > 0:
        lines = gone or [item.id for item in dataset.items if item.id not in set(bank.info.sources)]
        raise DataError(
            f"{bank.path}: the images it was built of are others by now: {len(gone)} of {len(bank.info.sources)} are "
            f"gone, {max(0, new)} are new:\n{listing(lines)}\nBuild the bank anew, and evaluate that with seeds"
        )
    return dataset


def _skipped(bank: MemoryBank) -> int:
    skipped: Sequence[str] = bank.info.build.get("skipped", ())
    return len(skipped)
